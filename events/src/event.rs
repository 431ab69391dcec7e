//! Everything that can happen. An event is a fact in the past tense; it is never refused and never changed.
//!
//! These are the types the program works with. How they are written down, per version, is [`crate::wire`].

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::assignment::AssignmentSet;
use crate::fact::Fact;
use crate::id::{BootId, CameraId, CopyKey, ServerId, StoreId, TenantId};
use crate::policy::Policy;
use crate::position::{Epoch, Position};
use crate::reason::{AbandonReason, AssignReason, FinishReason, UnplacedReason};
use crate::sealed::{PublicKey, WrappedKey};
use crate::settings::{CameraSettings, Capacity, Labels, Priority, ServerSettings};
use crate::time::Timestamp;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A tenant exists.
    TenantCreated(TenantCreated),
    /// A tenant has another name.
    TenantChanged(TenantChanged),
    /// A tenant is gone; it had no cameras left.
    TenantDeleted(TenantDeleted),
    /// An operator announced a server before its worker was seen.
    ServerAdded(ServerAdded),
    /// A worker showed the join key: a new, undefined server, or the one that was announced under its name.
    ServerJoined(ServerJoined),
    /// A server belongs to this system.
    ServerAdopted(ServerAdopted),
    /// A server's settings are these now.
    ServerChanged(ServerChanged),
    /// A server has been silent for longer than its lease: its cameras may be recorded by others.
    ServerLost(ServerLost),
    /// A lost server gives signs of life again.
    ServerReturned(ServerReturned),
    /// A server's archive is so full now, which is much more or less than the log knew.
    ServerDiskMeasured(ServerDiskMeasured),
    /// A server is to be emptied.
    ServerDrainStarted(ServerDrainStarted),
    /// A server is not to be emptied any more.
    ServerDrainStopped(ServerDrainStopped),
    /// Somebody wants the cameras of a server back on it that others took over.
    ServerFailbackRequested(ServerFailbackRequested),
    /// A server belongs to this system no longer.
    ServerDetached(ServerDetached),
    /// A camera exists.
    CameraAdded(CameraAdded),
    /// A camera's settings are these now.
    CameraChanged(CameraChanged),
    /// A camera is gone. Its archive is not.
    CameraDeleted(CameraDeleted),
    /// Somebody wants a camera on another server.
    CameraMoveRequested(CameraMoveRequested),
    /// The rules of the whole system are these now.
    PolicyChanged(PolicyChanged),
    /// Whoever cannot fold as this says must not go on.
    VersionRequired(VersionRequired),
    /// Which server records which camera changed.
    PlanMade(PlanMade),
    /// A server lives, with this load.
    ServerHeartbeat(ServerHeartbeat),
    /// A control replica lives. Only its time counts: it lets the log's clock run when no server is heard of.
    ControlTicked(ControlTicked),
    /// What a worker saw happen to its recordings.
    RecordingReported(RecordingReported),
    /// One part of what one server is to record.
    AssignmentsPublished(AssignmentSet),
    /// A camera waits for a server with room.
    CameraBacklogged(CameraBacklogged),
}

/// See [`Event::TenantCreated`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantCreated {
    /// Its id.
    pub tenant_id: TenantId,
    /// For people.
    pub name: String,
    /// Encrypts all its secrets.
    pub data_key: WrappedKey,
}

/// See [`Event::TenantChanged`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantChanged {
    /// Which.
    pub tenant_id: TenantId,
    /// The new name.
    pub name: String,
}

/// See [`Event::TenantDeleted`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantDeleted {
    /// Which.
    pub tenant_id: TenantId,
}

/// See [`Event::ServerAdded`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerAdded {
    /// Its id.
    pub server_id: ServerId,
    /// Its settings; a worker that joins under this name becomes this server.
    pub settings: ServerSettings,
}

/// See [`Event::ServerJoined`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerJoined {
    /// Its id.
    pub server_id: ServerId,
    /// The worker's name for itself.
    pub name: String,
    /// The worker's key: who shows it is this server.
    pub public_key: PublicKey,
    /// What the worker was started with. Counts for a new server only; later an operator decides.
    pub labels: Labels,
    /// As `labels`.
    pub capacity: Capacity,
}

/// See [`Event::ServerAdopted`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerAdopted {
    /// Which.
    pub server_id: ServerId,
}

/// See [`Event::ServerChanged`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerChanged {
    /// Which.
    pub server_id: ServerId,
    /// All its settings, as they are now.
    pub settings: ServerSettings,
}

/// See [`Event::ServerLost`]. What it was judged by stands in `HEARTBEATS`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerLost {
    /// Which.
    pub server_id: ServerId,
    /// Position in `HEARTBEATS` of the last sign of life; `None`: none was ever heard.
    pub last_heartbeat: Option<Position>,
    /// When the log stored that, or when it began to wait for a first one.
    pub heard_at: Timestamp,
    /// The log's clock at the judgement: later than `heard_at` by more than the lease.
    pub judged_at: Timestamp,
    /// The lease, in milliseconds.
    pub lease_ms: u32,
}

/// See [`Event::ServerReturned`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerReturned {
    /// Which.
    pub server_id: ServerId,
    /// Position in `HEARTBEATS` of the sign of life that showed it.
    pub heartbeat: Position,
}

/// See [`Event::ServerDiskMeasured`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerDiskMeasured {
    /// Which.
    pub server_id: ServerId,
    /// Position in `HEARTBEATS` of the sign of life that told it.
    pub heartbeat: Position,
    /// How much of the archive's volume is free, in percent.
    pub free_percent: u8,
}

/// See [`Event::ServerDrainStarted`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerDrainStarted {
    /// Which.
    pub server_id: ServerId,
}

/// See [`Event::ServerDrainStopped`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerDrainStopped {
    /// Which.
    pub server_id: ServerId,
}

/// See [`Event::ServerFailbackRequested`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFailbackRequested {
    /// Which.
    pub server_id: ServerId,
}

/// See [`Event::ServerDetached`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerDetached {
    /// Which.
    pub server_id: ServerId,
    /// What becomes of its cameras.
    pub cameras: DetachedCameras,
}

/// What becomes of the cameras of a server that is let go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DetachedCameras {
    /// They stay and are placed anew.
    #[default]
    Keep,
    /// They are gone with it, unless another server has a copy.
    Remove,
}

/// See [`Event::CameraAdded`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CameraAdded {
    /// Owner.
    pub tenant_id: TenantId,
    /// Its id.
    pub camera_id: CameraId,
    /// Its settings.
    pub settings: CameraSettings,
}

/// See [`Event::CameraChanged`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CameraChanged {
    /// Owner.
    pub tenant_id: TenantId,
    /// Which.
    pub camera_id: CameraId,
    /// All its settings, as they are now.
    pub settings: CameraSettings,
}

/// See [`Event::CameraDeleted`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CameraDeleted {
    /// Owner.
    pub tenant_id: TenantId,
    /// Which.
    pub camera_id: CameraId,
}

/// See [`Event::CameraMoveRequested`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CameraMoveRequested {
    /// Owner.
    pub tenant_id: TenantId,
    /// Which.
    pub camera_id: CameraId,
    /// Which of its copies, from 0.
    pub copy: u8,
    /// Where to. Its own server: an earlier wish is taken back.
    pub server_id: ServerId,
}

/// See [`Event::PolicyChanged`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyChanged {
    /// All of it.
    pub policy: Policy,
}

/// See [`Event::VersionRequired`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionRequired {
    /// The [`crate::fold::VERSION`] that a program must have at least.
    pub fold_version: u32,
}

/// See [`Event::PlanMade`]. Its position becomes the epoch of every assignment in it.
///
/// A plan too large for one event is cut into parts that stand right behind each other, appended all or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanMade {
    /// The position of the log this plan was derived from: re-deriving it from the fold up to there gives it again.
    pub basis: Position,
    /// The version of the placement rules that made it.
    pub rules: u32,
    /// The log's clock when it was made; `None` in logs from before there were planned moves.
    pub decided_at: Option<Timestamp>,
    /// Which part of the plan this is.
    pub part: Part,
    /// What changes, by tenant, camera and copy.
    pub entries: Vec<PlanEntry>,
}

/// Which of how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Part {
    /// 1 for the first.
    pub number: u32,
    /// How many there are.
    pub of: u32,
}

impl Part {
    /// The only one.
    pub const WHOLE: Self = Self { number: 1, of: 1 };

    pub(crate) fn is_whole(&self) -> bool {
        *self == Self::WHOLE
    }
}

impl Default for Part {
    fn default() -> Self {
        Self::WHOLE
    }
}

/// What a plan says about one copy of a camera.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanEntry {
    /// Owner.
    pub tenant_id: TenantId,
    /// The camera.
    pub camera_id: CameraId,
    /// Which of its copies, from 0.
    pub copy: u8,
    /// What is to be.
    pub decision: Decision,
}

impl PlanEntry {
    /// Which copy it is about.
    pub const fn key(&self) -> CopyKey {
        CopyKey { tenant_id: self.tenant_id, camera_id: self.camera_id, copy: self.copy }
    }
}

/// What is to be with a copy of a camera.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// This server records it.
    Assign {
        /// Who.
        server_id: ServerId,
        /// Why.
        reason: AssignReason,
    },
    /// No server records it.
    Unplace {
        /// Why.
        reason: UnplacedReason,
    },
    /// This server is to record it instead of the one that does, which goes on until this one has begun.
    Move {
        /// Who.
        server_id: ServerId,
        /// Why.
        reason: AssignReason,
    },
    /// A planned move is over: the new server has it.
    Finish {
        /// Of the plan that began the move.
        epoch: Epoch,
        /// Why.
        reason: FinishReason,
        /// Position in `RECORDINGS` of the report that showed it, if it was one.
        evidence: Option<Position>,
    },
    /// A planned move is given up: the old server keeps it.
    Abandon {
        /// Of the plan that began the move.
        epoch: Epoch,
        /// Why.
        reason: AbandonReason,
    },
}

/// See [`Event::ServerHeartbeat`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerHeartbeat {
    /// Who.
    pub server_id: ServerId,
    /// This run of the worker.
    pub boot_id: BootId,
    /// 1, 2, 3, … within one boot: makes duplicates and late ones harmless.
    pub sequence: u64,
    /// Its load.
    pub load: Load,
    /// Where it gives out what it recorded, as those who watch reach it: `http://host:port` or `https://…`, without a slash at the
    /// end; `None`: it does not.
    pub media_url: Option<String>,
}

/// How busy a server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// The `revision` of the desired set it has applied.
    pub applied_revision: Position,
    /// How long it was told that it may be silent before others may take its cameras, in milliseconds: it acts by that,
    /// whatever policy says meanwhile. `None` from workers that do not say.
    pub lease_ms: Option<u32>,
    /// Cameras it is to record.
    pub cameras: u32,
    /// Of these, cameras it is recording.
    pub recording: u32,
    /// Of these, cameras that are neither recording nor failing for the camera's own reason.
    pub unsettled: u32,
    /// Media received, over the last interval.
    pub received_bytes_per_s: u64,
    /// CPU of the worker process over the last interval, in thousandths of one core.
    pub cpu_millicores: u32,
    /// Memory of the worker process (resident).
    pub memory_bytes: u64,
    /// Free space of the archive's volume.
    pub disk_free_bytes: u64,
    /// Its size.
    pub disk_total_bytes: u64,
    /// Facts that wait for the log.
    pub outbox_facts: u64,
    /// By how many milliseconds somebody set the server's wall clock since the worker began, all steps together. Recordings
    /// that run go on by the time as it was; those that begin later have the new one.
    pub clock_stepped_ms: i64,
    /// How its archive is.
    pub storage: Storage,
    /// How far its archive was examined, and how it was; `None`: it is not examined, or was not yet.
    pub scrub: Option<Scrub>,
    /// What waits to be uploaded; `None` if it keeps its archive on its own disks.
    pub spool: Option<Spool>,
}

/// A look at all the segments that a server should have. Numbers are of the round that began last, be it over or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Scrub {
    /// When it began.
    pub began_at: Timestamp,
    /// When the last round that came to its end did. Later than `began_at`: this one is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Timestamp>,
    /// Segments examined.
    pub checked: u64,
    /// Of these, those whose files are missing.
    pub missing: u64,
    /// Of these, those that are corrupt or cannot be read.
    pub corrupt: u64,
    /// Files of segments that nobody had reported.
    pub orphans: u64,
    /// Files that are not this server's segments.
    pub foreign: u64,
}

/// Segments of a server that wait to be uploaded to the object store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Spool {
    /// How the upload goes.
    pub upload: Upload,
    /// How many wait.
    pub segments: u64,
    /// Their size.
    pub bytes: u64,
    /// How long ago the video of the oldest one ended, in seconds; 0 if none waits.
    pub oldest_s: u64,
    /// Which object store it is; `None` from workers that do not say, or have not reached it yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_id: Option<StoreId>,
    /// How it goes to delete there what is not to be kept any longer.
    #[serde(default, skip_serializing_if = "StoreRetention::is_ok")]
    pub retention: StoreRetention,
}

/// How retention in an object store goes. Ordered: what is worse is greater.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum StoreRetention {
    /// What is to go, goes.
    #[default]
    Ok,
    /// The object store does not answer, or says that it cannot.
    Unreachable,
    /// The object store refuses: above all, no right to delete.
    Refused,
}

impl StoreRetention {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ok, Self::Unreachable, Self::Refused];

    /// The word for it in events, the API and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
        }
    }

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde wants")]
    const fn is_ok(&self) -> bool {
        matches!(self, Self::Ok)
    }
}

/// How the upload to the object store goes. Ordered: what is worse is greater.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Upload {
    /// Segments are there within minutes.
    #[default]
    Ok,
    /// It works, and does not keep up: segments have waited for long.
    Behind,
    /// The object store does not answer, or says that it cannot.
    Unreachable,
    /// The object store refuses: wrong credentials, no right to write, no such bucket.
    Refused,
    /// An object of a segment's name is there that is not that segment. It is not overwritten, and the segment waits.
    Conflict,
}

impl Upload {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Ok, Self::Behind, Self::Unreachable, Self::Refused, Self::Conflict];

    /// The word for it in events, the API and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Behind => "behind",
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
            Self::Conflict => "conflict",
        }
    }
}

/// How a server's archive is. Ordered: what is worse is greater.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Storage {
    /// There is room, and every volume takes video.
    #[default]
    Ok,
    /// A volume has less free space than it must have: the oldest video on it goes to make room for the newest.
    Low,
    /// A volume has less free space than it must have, and nothing on it may go.
    Full,
    /// A volume failed and is not used any more.
    Failed,
}

impl Storage {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Ok, Self::Low, Self::Full, Self::Failed];

    /// The word for it in events, the API and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Low => "low",
            Self::Full => "full",
            Self::Failed => "failed",
        }
    }
}

/// See [`Event::ControlTicked`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlTicked {
    /// This run of the replica.
    pub boot_id: BootId,
    /// Up to where it has folded the log.
    pub folded: Position,
}

/// See [`Event::RecordingReported`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordingReported {
    /// Who.
    pub server_id: ServerId,
    /// In which run.
    pub boot_id: BootId,
    /// In the order in which they happened.
    pub facts: Vec<Fact>,
}

/// See [`Event::CameraBacklogged`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CameraBacklogged {
    /// Owner.
    pub tenant_id: TenantId,
    /// Which.
    pub camera_id: CameraId,
    /// Which of its copies: 0 for the first or only one, then 1, 2, …
    pub copy: u8,
    /// Its rank among those that wait.
    pub priority: Priority,
    /// Why no server has it.
    pub reason: UnplacedReason,
    /// Since when, by the log's clock.
    pub since: Timestamp,
}
