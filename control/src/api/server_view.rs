//! A server as it is read: its settings, what State says of it, and what is observed of it.

use std::collections::BTreeMap;

use longwatch_events::event::{Load, Scrub, Spool};
use longwatch_events::id::{ServerId, StoreId};
use longwatch_events::state::{Membership, Server as ServerState, State};
use serde::Serialize;
use utoipa::ToSchema;

use super::change::etag;
use super::problem::moment;
use crate::decide::drain;
use crate::observed::Observed;

/// A server that records.
#[derive(Serialize, ToSchema)]
pub(super) struct Server {
    /// Its id.
    #[schema(value_type = String, format = "uuid")]
    id: ServerId,
    /// For people; unique among those that were not let go.
    name: String,
    /// For people and placement.
    labels: BTreeMap<String, String>,
    /// How much it may hold.
    capacity: Capacity,
    /// Whether it takes over others' cameras.
    failover: Failover,
    /// `undefined`: its worker was seen, and it belongs to no system yet, or not any more; `online`; `suspect`: a sign of
    /// life of it is overdue, or it was never seen; `lost`: it was silent for so long that others took its cameras over;
    /// `draining`: it is well and is being emptied; `detached`: an owner let it go, and it was not seen since.
    #[schema(pattern = "^(undefined|online|suspect|lost|draining|detached)$")]
    state: &'static str,
    /// Of an undefined one: `detached` (an owner let it go, and its worker was seen since; to adopt it takes it in again,
    /// with its archive) or null. Of a suspect one: `never_seen` (no worker has joined under its name yet) or `silent`. Of
    /// a lost one: `silent`.
    state_reason: Option<&'static str>,
    /// Since when it was not heard of, if it is lost.
    #[schema(format = DateTime)]
    lost_since: Option<String>,
    /// Since when it is being emptied, if it is.
    #[schema(format = DateTime)]
    draining_since: Option<String>,
    /// How far that has come; null: it is not being emptied.
    drain: Option<Drain>,
    /// How busy it was at its last heartbeat; null: none was heard.
    load: Option<ServerLoad>,
    /// When the log stored its last heartbeat.
    #[schema(format = DateTime)]
    last_heartbeat_at: Option<String>,
    /// How much of its archive's volume was free when the log was told last, in percent.
    disk_free_percent: Option<u8>,
    /// How many cameras a place is taken for on it: those it records, and those that are on their way to it.
    cameras: u32,
    /// Of these, cameras that are on their way to it.
    arriving: u32,
    /// Of these, cameras that are about to leave it.
    leaving: u32,
    /// How many of its cameras others keep for it, because it was lost or drained.
    home_cameras_away: u32,
    /// How many of its cameras were neither recording nor failing for their own reason at its last heartbeat; null: none
    /// was heard.
    unsettled: Option<u32>,
    /// When it was first seen or announced.
    #[schema(format = DateTime)]
    created_at: String,
    /// Its version, for `If-Match`.
    etag: String,
}

/// How much a server may hold.
#[derive(Serialize, ToSchema)]
struct Capacity {
    /// Cameras.
    max_cameras: u32,
    /// Sum of the cameras' expected bitrates, in bits per second; null: not counted.
    max_bitrate_bps: Option<u64>,
}

/// Whether a server takes over others' cameras.
#[derive(Serialize, ToSchema)]
struct Failover {
    /// May it at all.
    enabled: bool,
    /// Only while it holds fewer cameras than this.
    takeover_limit: u32,
}

/// How far a drain has come.
#[derive(Serialize, ToSchema)]
struct Drain {
    /// How many cameras the server still records.
    cameras_left: u32,
    /// Of these, cameras that will not leave as things are: their priority is `never`, or no other server has room, or
    /// their move was given up a while ago.
    waiting: u32,
}

/// How busy a server is.
#[derive(Serialize, ToSchema)]
struct ServerLoad {
    /// Cameras it knows it is to record.
    cameras: u32,
    /// Of these, cameras it is recording.
    recording: u32,
    /// Of these, cameras that are neither recording nor failing for the camera's own reason.
    unsettled: u32,
    /// Media received.
    received_bytes_per_s: u64,
    /// CPU of the worker, in thousandths of one core.
    cpu_millicores: u32,
    /// Memory of the worker.
    memory_bytes: u64,
    /// Free space of the archive's volume.
    disk_free_bytes: u64,
    /// Its size.
    disk_total_bytes: u64,
    /// Facts that wait for the log.
    outbox_facts: u64,
    /// By how much somebody set the server's clock since its worker began; back if negative.
    clock_stepped_ms: i64,
    /// How its archive is: `ok`; `low`: a volume has less free space than it must have, and its oldest video goes; `full`: the
    /// same, and nothing on it may go; `failed`: a volume failed and is not used any more. `low` as well while segments wait
    /// to be uploaded for longer than they should, or cannot be deleted from the object store.
    #[schema(pattern = "^(ok|low|full|failed)$")]
    storage: &'static str,
    /// How far its archive was examined, and how it was; null: it is not examined, or was not yet.
    scrub: Option<ServerScrub>,
    /// What waits to be uploaded to the object store; null: it keeps its archive on its own disks.
    spool: Option<ServerSpool>,
}

/// A look at all the segments that a server should have. Numbers are of the round that began last, be it over or not.
#[derive(Serialize, ToSchema)]
struct ServerScrub {
    /// When it began.
    #[schema(format = DateTime)]
    began_at: String,
    /// When the last round that came to its end did; later than `began_at`: this one is over; null: none did yet.
    #[schema(format = DateTime)]
    completed_at: Option<String>,
    /// Segments examined.
    checked: u64,
    /// Of these, those whose files are missing.
    missing: u64,
    /// Of these, those that do not hold what was stored, or cannot be read.
    corrupt: u64,
    /// Files of segments that nobody had reported. They are reported now.
    orphans: u64,
    /// Files that are not this server's segments. They are left alone.
    foreign: u64,
}

impl From<Scrub> for ServerScrub {
    fn from(scrub: Scrub) -> Self {
        let Scrub { began_at, completed_at, checked, missing, corrupt, orphans, foreign } = scrub;
        let (began_at, completed_at) = (moment(began_at), completed_at.map(moment));
        Self { began_at, completed_at, checked, missing, corrupt, orphans, foreign }
    }
}

/// Segments of a server that wait to be uploaded.
#[derive(Serialize, ToSchema)]
struct ServerSpool {
    /// How the upload goes: `ok`; `behind`: it works and does not keep up; `unreachable`: the object store does not answer, or
    /// says that it cannot; `refused`: wrong credentials, no right to write, or no such bucket; `conflict`: an object of a
    /// segment's name is there that is not that segment, and is not overwritten.
    #[schema(pattern = "^(ok|behind|unreachable|refused|conflict)$")]
    upload: &'static str,
    /// How many wait.
    segments: u64,
    /// Their size.
    bytes: u64,
    /// How long ago the video of the oldest one ended, in seconds; 0 if none waits.
    oldest_s: u64,
    /// Which object store it is: servers that say the same share it; null: it was not reached yet.
    #[schema(value_type = Option<String>, format = "uuid")]
    store_id: Option<StoreId>,
    /// How it goes to delete there what is not to be kept any longer: `ok`; `unreachable`: the object store does not answer, or
    /// says that it cannot; `refused`: it does not let this server delete (`s3:DeleteObject`), or not look.
    #[schema(pattern = "^(ok|unreachable|refused)$")]
    retention: &'static str,
}

impl From<Spool> for ServerSpool {
    fn from(spool: Spool) -> Self {
        let Spool { upload, segments, bytes, oldest_s, store_id, retention } = spool;
        Self { upload: upload.as_str(), segments, bytes, oldest_s, store_id, retention: retention.as_str() }
    }
}

impl From<Load> for ServerLoad {
    fn from(load: Load) -> Self {
        Self {
            cameras: load.cameras,
            recording: load.recording,
            unsettled: load.unsettled,
            received_bytes_per_s: load.received_bytes_per_s,
            cpu_millicores: load.cpu_millicores,
            memory_bytes: load.memory_bytes,
            disk_free_bytes: load.disk_free_bytes,
            disk_total_bytes: load.disk_total_bytes,
            outbox_facts: load.outbox_facts,
            clock_stepped_ms: load.clock_stepped_ms,
            storage: load.storage.as_str(),
            scrub: load.scrub.map(Into::into),
            spool: load.spool.map(Into::into),
        }
    }
}

/// A server's state in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Word {
    Undefined,
    Online,
    Suspect,
    Lost,
    Draining,
    Detached,
}

impl Word {
    /// All of them.
    pub(super) const ALL: [Self; 6] =
        [Self::Undefined, Self::Online, Self::Suspect, Self::Lost, Self::Draining, Self::Detached];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Undefined => "undefined",
            Self::Online => "online",
            Self::Suspect => "suspect",
            Self::Lost => "lost",
            Self::Draining => "draining",
            Self::Detached => "detached",
        }
    }

    /// The state of a server of which a sign of life is overdue or not, and why it is that.
    pub(super) const fn of(server: &ServerState, is_overdue: bool) -> (Self, Option<&'static str>) {
        match server.membership {
            Membership::Undefined => return (Self::Undefined, None),
            Membership::Detached { seen_again: true } => return (Self::Undefined, Some("detached")),
            Membership::Detached { seen_again: false } => return (Self::Detached, None),
            Membership::Adopted => {}
        }
        if server.lost.is_some() {
            (Self::Lost, Some("silent"))
        } else if server.public_key.is_none() {
            (Self::Suspect, Some("never_seen"))
        } else if is_overdue {
            (Self::Suspect, Some("silent"))
        } else if server.draining_since.is_some() {
            (Self::Draining, None)
        } else {
            (Self::Online, None)
        }
    }
}

/// How many copies are on their way to each server.
pub(super) type Arrivals = BTreeMap<ServerId, u32>;

/// Counts the copies that are on their way, by where they go.
pub(super) fn arrivals(state: &State) -> Arrivals {
    let mut arrivals = Arrivals::new();
    for key in state.index().moving() {
        let successor = state.copy(key).and_then(|(_, copy)| copy.successor());
        if let Some(successor) = successor {
            *arrivals.entry(successor.server_id).or_default() += 1;
        }
    }
    arrivals
}

/// Shows a server.
pub(super) fn show(
    state: &State,
    observed: &Observed,
    arrivals: &Arrivals,
    id: ServerId,
    server: &ServerState,
) -> Server {
    let seen = observed.seen(id);
    let (word, state_reason) = Word::of(server, observed.is_overdue(id));
    let roster = state.index().roster(id);
    let settings = &server.settings;
    Server {
        id,
        name: settings.name.clone(),
        labels: settings.labels.clone().into(),
        capacity: Capacity {
            max_cameras: settings.capacity.max_cameras,
            max_bitrate_bps: settings.capacity.max_bitrate_bps,
        },
        failover: Failover {
            enabled: settings.failover.enabled,
            takeover_limit: settings.failover.takeover_limit,
        },
        state: word.as_str(),
        state_reason,
        lost_since: server.lost.map(|lost| moment(lost.heard_at)),
        draining_since: server.draining_since.map(moment),
        drain: server.draining_since.map(|_| {
            let drain::Progress { left, waiting } = drain::progress(state, id);
            Drain { cameras_left: left, waiting }
        }),
        load: seen.map(|seen| seen.load.into()),
        last_heartbeat_at: seen.map(|seen| moment(seen.at)),
        disk_free_percent: server.disk_free_percent,
        cameras: roster.len(),
        arriving: arrivals.get(&id).copied().unwrap_or(0),
        leaving: roster.leaving().0,
        home_cameras_away: u32::try_from(state.index().away_from(id).count()).unwrap_or(u32::MAX),
        unsettled: seen.map(|seen| seen.load.unsettled),
        created_at: moment(server.created_at),
        etag: etag(server.version),
    }
}
