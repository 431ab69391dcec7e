//! What a start finds on the disk, before it speaks to anybody.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use longwatch_events::id::VolumeId;
use longwatch_events::time::SystemClock;

use super::assignments::Store;
use super::desired::DesiredSet;
use super::ends::{self, Ends};
use super::kept::{self, Kept};
use super::leftovers::{self, Leftovers};
use super::triggers::{self, Triggers};
use super::volumes::{self, Mounts};
use super::which_store::{self, WhichStore};
use super::{DISK_THREADS, Error, janitor, keeper};
use crate::archive::Archive;
use crate::archive::door::Door;
use crate::archive::s3::{self, Bucket};
use crate::archive::tombs::Tombs;
use crate::archive::volume::Volume;
use crate::config::Config;
use crate::identity::{Home, Identity};
use crate::source::tls::Trust;

/// What a start finds on the disk.
pub(super) struct Found {
    pub(super) home: Home,
    pub(super) identity: Identity,
    pub(super) trust: Trust,
    pub(super) volumes: Vec<Volume>,
    pub(super) missing: usize,
    pub(super) held: Vec<Home>,
    pub(super) archive: Archive,
    pub(super) tombs: Tombs,
    pub(super) object_store: Option<ObjectStore>,
    pub(super) ends: Ends,
    pub(super) leftovers: Leftovers,
    pub(super) kept: Kept,
    pub(super) triggers: Triggers,
    pub(super) store: Store,
    pub(super) last: Option<DesiredSet>,
}

/// What a start finds of its object store.
pub(super) struct ObjectStore {
    pub(super) which: Arc<WhichStore>,
    /// Deletions there, and how often they are looked for; `None`: others see to that.
    pub(super) retention: Option<(Tombs, Duration)>,
}

impl ObjectStore {
    /// Looks what an earlier run left. Speaks to nobody yet. Blocks.
    fn find(settings: &s3::Settings, home: &Home, volume: VolumeId) -> Result<Self, Error> {
        let bucket = Bucket::open(settings)?;
        let which = Arc::new(WhichStore::load(home.path(which_store::FILE), settings, bucket));
        let Some(every) = settings.retention_every else { return Ok(Self { which, retention: None }) };
        let folder = home.path(keeper::FOLDER);
        let path = folder.join(keeper::FILE);
        let opened = std::fs::create_dir_all(&folder).and_then(|()| Tombs::open(&path, volume));
        let tombs = opened.map_err(|source| Error::Tombs { path, source })?;
        Ok(Self { which, retention: Some((tombs, every)) })
    }
}

impl Found {
    /// Takes the archive and what is needed to record. Blocks.
    pub(super) fn find(config: &Config) -> Result<Self, Error> {
        let home = Home::take(&config.archive[0])?;
        let identity = Identity::load_or_create(&home)?;
        let trust = trust(config);
        let Mounts { volumes, missing } = volumes::mount(&config.archive, &home.path(volumes::FILE))?;
        // Nobody else's either; the first one is held already.
        let held = volumes.iter().skip(1).map(|volume| Home::take(&volume.root)).collect::<Result<_, _>>()?;
        let roots: Vec<PathBuf> = volumes.iter().map(|volume| volume.root.to_path_buf()).collect();
        let archive = volumes.iter().map(|volume| (Arc::clone(&volume.root), Door::default()));
        let archive = Archive::over(archive, DISK_THREADS).map_err(Error::Threads)?;
        let path = home.path("deletions");
        let tombs = Tombs::open(&path, volumes[0].id).map_err(|source| Error::Tombs { path, source })?;
        let deleted = janitor::finish_begun(&tombs, &volumes);
        let find = |settings| ObjectStore::find(settings, &home, volumes[0].id);
        let object_store = config.object_store.as_ref().map(find).transpose()?;
        let ends = Ends::load(home.path(ends::FILE));
        let mut leftovers = leftovers::find(&roots, &home, &ends, &SystemClock);
        leftovers.facts.extend(deleted);
        let kept = Kept::load(home.path(kept::FILE));
        let triggers = Triggers::load(home.path(triggers::FILE));
        let store = Store::new(home.path("assignments.json"), home.path("unreadable"));
        let last = identity.membership().and_then(|membership| store.load(membership.server_id));
        if let Some(last) = &last {
            kept.learn(&last.cameras);
        }
        Ok(Self {
            home,
            identity,
            trust,
            volumes,
            missing,
            held,
            archive,
            tombs,
            object_store,
            ends,
            leftovers,
            kept,
            triggers,
            store,
            last,
        })
    }
}

/// Whom to believe within TLS. A file that is gone costs the cameras that need it, and nobody else.
fn trust(config: &Config) -> Trust {
    if config.rtsps_allow_unverified {
        return Trust::in_anybody();
    }
    Trust::of_system(config.rtsps_ca.as_deref()).unwrap_or_else(|error| {
        tracing::error!(%error, "cameras within TLS are believed only by the authorities that this system knows");
        Trust::of_authorities()
    })
}
