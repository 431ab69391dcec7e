//! Deletes what [`retention`] says, now and then, and at once when a volume lacks free space.
//!
//! Decides nothing by itself. Each deletion goes the way that [`tombs`] describes, so that nothing is deleted that is not
//! reported, whenever the process ends. Invariants: recording never waits for it; while holds cannot be read nothing is
//! deleted; a segment goes only after it was reported as stored.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use longwatch_events::event::Storage;
use longwatch_events::fact::{DeletionReason, Fact, SegmentDeleted};
use longwatch_events::id::VolumeId;
use longwatch_events::time::{Clock, Timestamp};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::claims::{Claim, Claims};
use super::kept::Kept;
use super::reported::Reported;
use crate::archive::Archive;
use crate::archive::inventory::{self, Sums};
use crate::archive::tombs::{self, Intention, Tombs};
use crate::archive::volume::Volume;
use crate::holds::Holds;
use crate::retention::{self, Going, Limits, Spool};

mod survey;

/// How often free space is looked at.
const LOOK: Duration = Duration::from_secs(2);
/// How long an archive must have had room before it is called well again.
const CALM: Duration = Duration::from_secs(60);
/// Deletions that are begun together: one write of intentions, one sync of each folder.
const AT_ONCE: usize = 100;

/// What bounds the archive beside what cameras say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Of each volume so much stays free, in percent.
    pub keep_free_percent: u8,
    /// Bytes of one tenant on this server.
    pub tenant_max_bytes: Option<u64>,
    /// What lies here waits to be uploaded; `None`: it lies here for good.
    pub spool: Option<Spool>,
    /// How often age and bytes are looked at.
    pub look_every: Duration,
}

/// What a janitor needs.
pub(super) struct Means {
    /// What it looks after: the volumes of `archive`, in its order.
    pub(super) volumes: Vec<Volume>,
    /// Knows which of them failed, and hears how much room there is.
    pub(super) archive: Archive,
    /// Volumes that were told of and could not be used from the start.
    pub(super) missing: usize,
    /// Deletions under way.
    pub(super) tombs: Tombs,
    /// What bounds the archive.
    pub(super) bounds: Bounds,
    /// How long each camera's video is kept.
    pub(super) kept: Arc<Kept>,
    /// Where holds stand.
    pub(super) holds: PathBuf,
    /// What the outbox has taken.
    pub(super) reported: Arc<Reported>,
    /// Segments that are being uploaded, or deleted.
    pub(super) claims: Arc<Claims>,
    /// Takes facts.
    pub(super) facts: UnboundedSender<Fact>,
    /// Tells the time.
    pub(super) clock: Arc<dyn Clock>,
    /// Hears how the archive is.
    pub(super) storage: watch::Sender<Storage>,
}

/// Finishes what an earlier run began to delete: removes what is left of it and returns the facts. Must be done before
/// anything is looked for on the volumes. Blocks.
pub(super) fn finish_begun(tombs: &Tombs, volumes: &[Volume]) -> Vec<Fact> {
    let (gone, failed) = tombs::remove(tombs.begun(), |intention| root_of(volumes, intention.volume));
    for (intention, error) in &failed {
        tracing::error!(key = intention.fact.key, %error, "a deletion that was begun cannot be finished; the next start tries again");
    }
    gone.into_iter().map(Intention::to_fact).collect()
}

fn root_of(volumes: &[Volume], id: VolumeId) -> Option<&std::path::Path> {
    volumes.iter().find(|volume| volume.id == id).map(|volume| &*volume.root)
}

impl Means {
    /// The volumes that have not failed, with their places.
    fn sound_volumes(&self) -> impl Iterator<Item = (usize, &Volume)> {
        self.volumes.iter().enumerate().filter(|(at, _)| !self.archive.has_failed(*at))
    }
}

/// Works until `stop` is cancelled.
pub(super) async fn run(means: Means, stop: CancellationToken) {
    let mut janitor = Janitor { means, sums: Sums::default(), complained: false, said_at: None };
    let look_every = janitor.means.bounds.look_every;
    let mut pass_at = Instant::now();
    loop {
        let is_due = Instant::now() >= pass_at;
        let stopping = stop.clone();
        let worked = tokio::task::spawn_blocking(move || {
            let work = AssertUnwindSafe(|| janitor.work(is_due, &stopping));
            // What it changes is on the disk, and whole at every step.
            let deleted = catch_unwind(work).unwrap_or_else(|_| {
                tracing::error!("looking after the archive failed by a bug; it is tried again");
                0
            });
            (janitor, deleted)
        });
        let Ok((back, deleted)) = worked.await else { return };
        janitor = back;
        if is_due {
            pass_at = Instant::now() + look_every;
        }
        let wait = if deleted > 0 { Duration::ZERO } else { LOOK.min(look_every) };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

struct Janitor {
    means: Means,
    sums: Sums,
    complained: bool,
    /// When the archive was not well last.
    said_at: Option<Instant>,
}

impl Janitor {
    /// One look, and what follows from it. Returns how many segments were deleted.
    fn work(&mut self, is_due: bool, stop: &CancellationToken) -> usize {
        let told = self.means.reported.deletions();
        if !told.is_empty() {
            self.means.tombs.forget(|intention| told.contains(&intention.fact.key));
            if let Err(error) = self.means.tombs.tidy() {
                tracing::warn!(%error, "cannot forget deletions; the next start reports them once more");
            }
        }
        let to_free = self.lacking();
        let lacks = to_free.iter().any(|lacking| *lacking > 0) || self.holds_too_much();
        if !lacks {
            self.say(Storage::Ok);
            if !is_due {
                return 0;
            }
        }
        if let Err(error) = self.means.kept.save() {
            tracing::error!(%error, "cannot note how long video is kept");
        }
        match self.plan(to_free) {
            Ok((going, now)) => {
                self.complained = false;
                let chunks = going.chunks(AT_ONCE).take_while(|_| !stop.is_cancelled());
                let deleted = chunks.map(|some| self.delete(some, now)).sum();
                if lacks {
                    self.say(if deleted > 0 { Storage::Low } else { Storage::Full });
                }
                deleted
            }
            Err(error) => {
                if lacks {
                    self.say(Storage::Full);
                }
                if !std::mem::replace(&mut self.complained, true) {
                    tracing::error!(error, "nothing is deleted");
                }
                0
            }
        }
    }

    /// Says how the archive is. That a volume was low is not taken back before [`CALM`] has passed: it is made room on every
    /// few seconds while new video comes, and so is low only for moments.
    fn say(&mut self, now: Storage) {
        let failed = self.means.missing > 0 || *self.means.archive.failures().borrow() > 0;
        let now = if failed { Storage::Failed } else { now };
        let said = *self.means.storage.borrow();
        if now < said && self.said_at.is_some_and(|at| at.elapsed() < CALM) {
            return;
        }
        if now > Storage::Ok {
            self.said_at = Some(Instant::now());
        }
        if self.means.storage.send_if_modified(|storage| std::mem::replace(storage, now) != now) {
            match now {
                Storage::Ok => tracing::info!("the archive has room again"),
                Storage::Low => tracing::warn!("the archive is full: its oldest video goes"),
                Storage::Full => tracing::error!("the archive is full, and nothing more may go"),
                Storage::Failed => tracing::error!("a volume of the archive failed, or is not there"),
            }
        }
    }

    /// Bytes that each volume lacks of free space.
    fn lacking(&self) -> Vec<u64> {
        let Means { volumes, bounds, archive, .. } = &self.means;
        let of = |(at, volume): (usize, &Volume)| {
            if archive.has_failed(at) {
                return 0;
            }
            match volume.space() {
                Ok(space) => {
                    archive.note_room(at, space.above(bounds.keep_free_percent));
                    space.lacking(bounds.keep_free_percent)
                }
                Err(error) => {
                    tracing::warn!(root = %volume.root.display(), %error, "cannot tell how much space a volume has");
                    0
                }
            }
        };
        volumes.iter().enumerate().map(of).collect()
    }

    /// Whether more waits in the spool than may.
    fn holds_too_much(&mut self) -> bool {
        let Some(max_bytes) = self.means.bounds.spool.and_then(|spool| spool.max_bytes) else { return false };
        let mut bytes = 0;
        for (_, volume) in self.means.sound_volumes() {
            let days = inventory::days(&volume.root);
            let sums =
                days.and_then(|days| days.iter().map(|day| self.sums.of(day)).sum::<io::Result<u64>>());
            // Whoever plans looks at it again, and says it.
            bytes += sums.unwrap_or(0);
        }
        bytes > max_bytes
    }

    fn plan(&mut self, to_free: Vec<u64>) -> Result<(Vec<Going>, Timestamp), String> {
        let Means { volumes, archive, bounds, kept, holds, reported, claims, clock, .. } = &self.means;
        let holds = Holds::read(holds).map_err(|e| e.to_string())?;
        let now = clock.now();
        let limits = Limits {
            cameras: kept.known(),
            tenant_max_bytes: bounds.tenant_max_bytes,
            to_free,
            spool: bounds.spool,
        };
        let mut days = Vec::new();
        for (at, volume) in volumes.iter().enumerate() {
            if archive.has_failed(at) {
                days.push(Vec::new());
                continue;
            }
            let of_volume = inventory::days(&volume.root).unwrap_or_else(|error| {
                tracing::error!(root = %volume.root.display(), %error, "cannot list a volume; nothing of it is deleted");
                Vec::new()
            });
            days.push(of_volume);
        }
        let view = survey::View { days: &days, limits: &limits, holds: &holds, reported, claims, now };
        let known = survey::survey(&view, &mut self.sums).map_err(|e: io::Error| e.to_string())?;
        Ok((retention::plan(&known, &limits, now), now))
    }

    /// Deletes these; returns how many are gone.
    fn delete(&mut self, going: &[Going], at: Timestamp) -> usize {
        let Means { volumes, tombs, facts, claims, .. } = &mut self.means;
        let going = &going[..going.len().min(tombs.room())];
        // Those that are being uploaded since stay.
        let claimed: Vec<_> = going.iter().filter_map(|going| claims.take(going.segment.name)).collect();
        let is_claimed = |going: &&Going| claimed.iter().any(|claim| claim.name() == going.segment.name);
        let going = going.iter().filter(is_claimed);
        let intentions: Vec<_> = going.map(|going| intention(volumes, going, at)).collect();
        if intentions.is_empty() {
            return 0;
        }
        if let Err(error) = tombs.begin(&intentions) {
            if error.kind() == io::ErrorKind::StorageFull && !tombs.is_made() {
                return make_list(tombs, volumes, &intentions, facts);
            }
            tracing::error!(%error, "cannot note what is to be deleted; nothing is");
            return 0;
        }
        let (gone, failed) = tombs::remove(&intentions, |intention| root_of(volumes, intention.volume));
        for (intention, error) in &failed {
            tracing::error!(key = intention.fact.key, %error, "cannot delete a segment");
        }
        for intention in &gone {
            tell(intention, facts);
            let claim = claimed.iter().find(|claim| claim.name().key() == intention.fact.key);
            claim.into_iter().for_each(Claim::note_deleted);
            if let Some(root) = root_of(volumes, intention.volume) {
                inventory::remove_if_empty(root, &intention.fact.key, intention.fact.start, at);
            }
        }
        // What could not be removed is not told, and the next pass decides anew; what may come back after a power cut,
        // because its folder could not be synced, the next start removes and tells.
        tombs.forget(|begun| {
            let is_failed = failed.iter().any(|(intention, _)| *intention == begun);
            is_failed
                && root_of(volumes, begun.volume).is_some_and(|root| root.join(&begun.fact.key).exists())
        });
        gone.len()
    }
}

/// Lets the first of these that can give its room for the list of deletions; returns how many are gone.
fn make_list(
    tombs: &mut Tombs,
    volumes: &[Volume],
    intentions: &[Intention],
    facts: &UnboundedSender<Fact>,
) -> usize {
    let first = &volumes[0];
    let Some(intention) = intentions.iter().find(|intention| intention.volume == first.id) else {
        tracing::error!(root = %first.root.display(), "there is no room to note deletions; nothing is deleted");
        return 0;
    };
    match tombs.make_of(&first.root, intention) {
        Ok(()) => {
            tell(intention, facts);
            1
        }
        Err(error) => {
            tracing::error!(%error, "cannot note what is to be deleted; nothing is");
            0
        }
    }
}

fn intention(volumes: &[Volume], going: &Going, at: Timestamp) -> Intention {
    let Going { segment, reason, before_min_age } = going;
    let name = segment.name;
    let fact = SegmentDeleted {
        tenant_id: name.tenant_id,
        camera_id: name.camera_id,
        epoch: name.epoch,
        key: name.key(),
        start: name.start,
        end: segment.end,
        bytes: segment.bytes,
        at,
        reason: *reason,
        before_min_age: *before_min_age,
        store_id: None,
        recorded_by: None,
    };
    Intention { volume: volumes[segment.volume].id, fact }
}

fn tell(intention: &Intention, facts: &UnboundedSender<Fact>) {
    let SegmentDeleted { key, reason, before_min_age, .. } = &intention.fact;
    match reason {
        DeletionReason::Age | DeletionReason::CameraBytes | DeletionReason::TenantBytes => {
            tracing::debug!(key, %reason, "segment deleted");
        }
        DeletionReason::VolumeFull => {
            tracing::warn!(key, before_min_age, "segment deleted: its volume is full")
        }
        DeletionReason::SpoolFull => {
            tracing::warn!(key, before_min_age, "segment deleted before it was uploaded: the spool is full")
        }
    }
    if facts.send(intention.to_fact()).is_err() {
        tracing::warn!(key, "a deletion is reported by the next start: nobody takes facts any more");
    }
}

#[cfg(test)]
mod tests;
