//! The rows of the read model, and what can be done to them. Plain values; no SQL and no driver.

use std::collections::BTreeMap;

use longwatch_events::fact::{Cause, Codec, Damage, DeletionReason};
use longwatch_events::hash::Sha256;
use longwatch_events::id::{BootId, CameraId, CopyKey, ServerId, StoreId, TenantId};
use longwatch_events::position::{Epoch, Position};
use longwatch_events::reason::UnplacedReason;
use longwatch_events::settings::{CameraSettings, RecordingMode, Retention, ServerSettings};
use longwatch_events::state::{Assignment, Membership, Placement};
use longwatch_events::time::Timestamp;
use longwatch_events::trigger::Trigger;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantRow {
    /// Its id.
    pub tenant_id: TenantId,
    /// For people.
    pub name: String,
    /// When it was created, by the log's clock.
    pub created_at: Timestamp,
    /// Position of its last event.
    pub version: Position,
}

/// A server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerRow {
    /// Its id.
    pub server_id: ServerId,
    /// What it was told.
    pub settings: ServerSettings,
    /// Whether its worker was ever seen.
    pub has_worker: bool,
    /// Whether it belongs to the system.
    pub membership: Membership,
    /// Since when it was not heard of, if it is lost.
    pub lost_since: Option<Timestamp>,
    /// Since when it is being emptied, if it is.
    pub draining_since: Option<Timestamp>,
    /// When it was first seen or announced, by the log's clock.
    pub created_at: Timestamp,
    /// Position of its last event.
    pub version: Position,
}

/// A camera without its copies, which change on their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CameraRow {
    /// Owner.
    pub tenant_id: TenantId,
    /// Its id.
    pub camera_id: CameraId,
    /// What it was told.
    pub settings: CameraSettings,
    /// When it was added, by the log's clock.
    pub created_at: Timestamp,
    /// Position of its last own event.
    pub version: Position,
}

/// One copy of a camera: who records it, and who is about to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyRow {
    /// Which.
    pub key: CopyKey,
    /// Who records it.
    pub placement: Placement,
    /// The server it was taken from and goes back to.
    pub home: Option<ServerId>,
    /// Who is about to record it instead.
    pub successor: Option<Assignment>,
}

/// What was last heard of a camera under one epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusRow {
    /// Under which assignment.
    pub epoch: Epoch,
    /// Who said so.
    pub server_id: ServerId,
    /// In which run of its worker.
    pub boot_id: BootId,
    /// What is the case.
    pub condition: Condition,
    /// Since when, by the server's clock.
    pub since: Timestamp,
    /// Where in `RECORDINGS` it was said.
    pub position: Position,
    /// Video known to be durable although its segment may not be closed yet.
    pub open: Option<OpenVideo>,
}

/// What is the case with a recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// The camera answers; nothing is on disk yet.
    Connecting,
    /// It is being recorded.
    Recording,
    /// It is not.
    Offline {
        /// Why.
        cause: Cause,
        /// For a person.
        detail: String,
    },
}

/// Durable video whose segment may still be open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenVideo {
    /// Its first keyframe.
    pub since: Timestamp,
    /// The end of its last frame; `None`: it is still growing.
    pub until: Option<Timestamp>,
}

/// A segment in the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentRow {
    /// Owner of the camera.
    pub tenant_id: TenantId,
    /// The camera.
    pub camera_id: CameraId,
    /// Under which assignment it was recorded.
    pub epoch: Epoch,
    /// Who has it.
    pub server_id: ServerId,
    /// Its first frame.
    pub start: Timestamp,
    /// Where its last frame ends; later than `start`.
    pub end: Timestamp,
    /// Its place under the archive's root.
    pub key: String,
    /// Size of the file.
    pub bytes: u64,
    /// Hash of the file.
    pub sha256: Sha256,
    /// Frames in it.
    pub video_frames: u64,
    /// Video codec.
    pub video: Codec,
    /// Audio codec.
    pub audio: Option<Codec>,
    /// Cut to its last whole fragment after a crash.
    pub repaired: bool,
    /// What is wrong with it. Told by [`Change::NoteDamage`]: that it is stored, says nothing of it.
    pub damage: Option<Damage>,
    /// Where it lies.
    pub location: Location,
    /// In which object store, if it lies in one that was known when it was uploaded. Told by [`Change::PlaceSegment`].
    pub store_id: Option<StoreId>,
}

/// Where a segment lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Location {
    /// On the server that recorded it: it stays there, or waits to be uploaded.
    Server,
    /// In the object store.
    ObjectStore,
}

impl Location {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::ObjectStore => "object_store",
        }
    }
}

/// A gap as the worker reported it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GapRow {
    /// Of which of the camera's copies.
    pub copy: u8,
    /// The assignment under which recording resumed.
    pub epoch: Epoch,
    /// Where video ends.
    pub start: Timestamp,
    /// Where it begins again; later than `start`.
    pub end: Timestamp,
    /// Why.
    pub cause: Cause,
}

/// A stretch of deleted video.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeletionRow {
    /// Under which assignment it was recorded.
    pub epoch: Epoch,
    /// Who had it.
    pub server_id: ServerId,
    /// Its beginning.
    pub start: Timestamp,
    /// Its end; later than `start`.
    pub end: Timestamp,
    /// Why it was deleted.
    pub reason: DeletionReason,
}

/// A recording that broke off, or failed anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InterruptionRow {
    /// Of which of the camera's copies.
    pub copy: u8,
    /// Under which assignment.
    pub epoch: Epoch,
    /// On which server.
    pub server_id: ServerId,
    /// When.
    pub at: Timestamp,
    /// Why.
    pub cause: Cause,
}

/// A place a copy of a camera was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlacedRow {
    /// Which copy.
    pub copy: u8,
    /// When, by the log's clock.
    pub at: Timestamp,
    /// Where.
    pub place: Place,
}

/// See [`PlacedRow`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// It lost its server without a plan: that was let go, or the copy is not wanted any more.
    Unplanned,
    /// This server.
    Server(ServerId),
    /// This server, which took it over from a lost one.
    TakenOver(ServerId),
    /// No server.
    Nowhere(UnplacedReason),
}

/// One change of rows. A batch of records becomes a list of these, applied in one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Remembers where the event stands that was to create a thing; the first one counts.
    RememberCreation {
        /// The thing's id, which follows from an `Idempotency-Key`.
        thing_id: Uuid,
        /// Position of the event.
        position: Position,
    },
    /// Inserts or replaces.
    PutTenant(TenantRow),
    /// Removes.
    DeleteTenant(TenantId),
    /// Inserts or replaces.
    PutServer(ServerRow),
    /// Inserts or replaces.
    PutCamera(CameraRow),
    /// Removes. Its copies are removed on their own; what was recorded of it stays.
    DeleteCamera(TenantId, CameraId),
    /// Remembers how long video of a camera that is deleted is to be kept.
    RememberRetention(TenantId, CameraId, Retention),
    /// Inserts or replaces.
    PutCopy(CopyRow),
    /// Removes.
    DeleteCopy(CopyKey),
    /// Remembers where a copy was placed.
    RememberPlacement {
        /// Which.
        key: CopyKey,
        /// Position of the event.
        position: Position,
        /// When the event was stored, by the log's clock.
        at: Timestamp,
        /// Where it is now.
        placement: Placement,
        /// Whether the server that had it until then was lost.
        from_lost: bool,
    },
    /// Remembers that a server was given an epoch: what it reports under it counts.
    RememberEpoch {
        /// Of which copy.
        key: CopyKey,
        /// The epoch.
        epoch: Epoch,
        /// Who.
        server_id: ServerId,
    },
    /// A camera answers; said at this position.
    Started(StatusKey, Timestamp, Position),
    /// A camera is being recorded from this keyframe on; said at this position.
    Recording(StatusKey, Timestamp, Position),
    /// A camera is not being recorded from this moment on.
    Interrupted {
        /// Whose recording.
        key: StatusKey,
        /// When.
        at: Timestamp,
        /// Why.
        cause: Cause,
        /// For a person.
        detail: String,
        /// Position of its batch.
        position: Position,
        /// Which of the batch, from 0.
        fact: u32,
    },
    /// Inserts or replaces all but its damage, and where it lies: if it is known to have been uploaded, it still is. Its size
    /// and hash only if it was repaired.
    PutSegment(SegmentRow),
    /// A segment lies in the object store now.
    PlaceSegment(UploadedSegment),
    /// Removes a segment and remembers that it was there.
    DeleteSegment(DeletedSegment),
    /// Remembers what is wrong with a segment, or that nothing is any more.
    NoteDamage(CheckedSegment),
    /// Inserts or replaces what a server says.
    PutGap(ReportedGap),
    /// Remembers an event, unless it is known; forgets those of its camera that are too many.
    PutTrigger(TriggerRow),
    /// Remembers a fact that contradicts itself.
    RejectFact {
        /// Position of its batch.
        position: Position,
        /// Which of the batch, from 0.
        fact: u32,
        /// What contradicts what.
        why: String,
    },
}

/// An event at a camera, as one server told that it took it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TriggerRow {
    /// The event.
    pub trigger: Trigger,
    /// The assignment under which the server has the camera.
    pub epoch: Epoch,
    /// Who told it.
    pub server_id: ServerId,
}

/// A segment that was uploaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadedSegment {
    /// Owner of the camera.
    pub tenant_id: TenantId,
    /// The camera.
    pub camera_id: CameraId,
    /// Under which assignment it was recorded.
    pub epoch: Epoch,
    /// Who had it.
    pub server_id: ServerId,
    /// Its first frame, rounded down to milliseconds.
    pub start: Timestamp,
    /// Its place under the archive's root, and under the object store's prefix.
    pub key: String,
    /// Its size.
    pub bytes: u64,
    /// Its hash.
    pub sha256: Sha256,
    /// Where it lies, if that is known.
    pub store_id: Option<StoreId>,
}

/// Segments in object stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InStore {
    /// In this one.
    Of(StoreId),
    /// In one whose id was not told, uploaded by this server.
    UploadedBy(ServerId),
}

/// A segment that is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeletedSegment {
    /// Owner of the camera.
    pub tenant_id: TenantId,
    /// The camera.
    pub camera_id: CameraId,
    /// Under which assignment it was recorded.
    pub epoch: Epoch,
    /// Who had it.
    pub server_id: ServerId,
    /// Its first frame, rounded down to milliseconds.
    pub start: Timestamp,
    /// Where its last frame ended; later than `start`.
    pub end: Timestamp,
    /// What its place under the archive's root was.
    pub key: String,
    /// What its size was.
    pub bytes: u64,
    /// Why it was deleted.
    pub reason: DeletionReason,
    /// Only if it lies in this object store: somebody else says so than who had it.
    pub only_in: Option<StoreId>,
}

/// A segment that was examined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedSegment {
    /// Owner of the camera.
    pub tenant_id: TenantId,
    /// The camera.
    pub camera_id: CameraId,
    /// Under which assignment it was recorded.
    pub epoch: Epoch,
    /// Who has it.
    pub server_id: ServerId,
    /// Its first frame.
    pub start: Timestamp,
    /// Its place under the archive's root.
    pub key: String,
    /// When it was examined.
    pub at: Timestamp,
    /// What is wrong with it.
    pub damage: Option<Damage>,
    /// Only if it lies in this object store: somebody else says so than who has it.
    pub only_in: Option<StoreId>,
}

/// A gap as it was reported: which copy it is of, `LOG` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReportedGap {
    /// Owner.
    pub tenant_id: TenantId,
    /// The camera.
    pub camera_id: CameraId,
    /// The assignment under which recording resumed.
    pub epoch: Epoch,
    /// Who says so.
    pub server_id: ServerId,
    /// Where video ends.
    pub start: Timestamp,
    /// Where it begins again; later than `start`.
    pub end: Timestamp,
    /// Why.
    pub cause: Cause,
}

/// Whose status, under which epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusKey {
    /// Owner.
    pub tenant_id: TenantId,
    /// The camera.
    pub camera_id: CameraId,
    /// Under which assignment.
    pub epoch: Epoch,
    /// Who says so.
    pub server_id: ServerId,
    /// In which run of its worker.
    pub boot_id: BootId,
}

/// Whose status is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct StatusOf {
    /// Owner.
    pub tenant_id: TenantId,
    /// The camera.
    pub camera_id: CameraId,
    /// Under which assignment.
    pub epoch: Epoch,
    /// What this server says.
    pub server_id: ServerId,
}

/// A camera as it is read: settings, and its copies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CameraView {
    /// The camera.
    pub row: CameraRow,
    /// Its copies, by number; at least one.
    pub copies: Vec<CopyView>,
}

/// A copy as it is read: where it is, and what was heard of it under its current epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyView {
    /// The copy.
    pub row: CopyRow,
    /// What its server said last; `None`: nothing yet.
    pub status: Option<StatusRow>,
}

/// A server as it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerView {
    /// The server.
    pub row: ServerRow,
    /// How many cameras a place is taken for on it: those it records, and those that are on their way to it.
    pub cameras: u64,
}

/// What a camera's state is in one word. Derived: see [`CameraView::state`]. Of several copies the least counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CameraState {
    /// It is being recorded.
    Recording,
    /// Its server is at it.
    Connecting,
    /// Its server has it, and its settings do not want it recorded now.
    Idle,
    /// It should be recorded and is not.
    Offline,
    /// No server has it.
    Unplaced,
    /// It is not to be recorded.
    Disabled,
}

impl CameraState {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Recording, Self::Connecting, Self::Idle, Self::Offline, Self::Unplaced, Self::Disabled];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Recording => "recording",
            Self::Connecting => "connecting",
            Self::Idle => "idle",
            Self::Offline => "offline",
            Self::Unplaced => "unplaced",
            Self::Disabled => "disabled",
        }
    }
}

/// What is observed of a server, which rows cannot know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Observation {
    /// It has not been heard of within the lease.
    pub silent: bool,
    /// The run of its worker that was heard of last.
    pub boot_id: Option<BootId>,
}

/// What is observed of servers.
pub type Observations = BTreeMap<ServerId, Observation>;

impl StatusRow {
    /// Whether it was said by a run of the worker that is over: then it records no longer, whatever it said.
    pub fn is_of_former_run(&self, now: Option<BootId>) -> bool {
        now.is_some_and(|now| now != self.boot_id)
    }
}

impl CopyView {
    /// The copy's state, if its camera is to be recorded, given what is observed of servers.
    pub fn state(&self, observations: &Observations) -> CameraState {
        let Placement::Assigned(assignment) = &self.row.placement else {
            return CameraState::Unplaced;
        };
        let server = observations.get(&assignment.server_id).copied().unwrap_or_default();
        if server.silent {
            return CameraState::Offline;
        }
        let Some(status) = &self.status else {
            return CameraState::Connecting;
        };
        match &status.condition {
            Condition::Recording if status.is_of_former_run(server.boot_id) => CameraState::Connecting,
            Condition::Connecting => CameraState::Connecting,
            Condition::Recording => CameraState::Recording,
            Condition::Offline { cause, .. } if cause.is_by_wish() => CameraState::Idle,
            Condition::Offline { .. } => CameraState::Offline,
        }
    }
}

impl CameraView {
    /// The camera's state, given what is observed of servers: that of the copy that is best off. Every implementation of
    /// [`super::ReadModel`] filters and counts by the same rule; the contract tests compare them.
    pub fn state(&self, observations: &Observations) -> CameraState {
        if self.row.settings.recording.mode == RecordingMode::Off {
            return CameraState::Disabled;
        }
        let states = self.copies.iter().map(|copy| copy.state(observations));
        states.min().unwrap_or(CameraState::Unplaced)
    }

    /// Where its first copy is.
    pub fn placement(&self) -> Placement {
        self.copies.first().map_or(Placement::Unplanned, |copy| copy.row.placement)
    }
}

/// Everything a camera's timeline follows from, as far as rows know it. Of facts only those of the server that was given
/// the epoch they name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TimelineRows {
    /// Those that overlap the range, and the last one that ends before it, unless deleted video ends later; by start.
    pub segments: Vec<SegmentRow>,
    /// Deleted video of the same time; by start.
    pub deletions: Vec<DeletionRow>,
    /// Those that overlap the range or the time since that last segment or deleted video; by start.
    pub gaps: Vec<GapRow>,
    /// Those before the range's end and not before that end; by time.
    pub interruptions: Vec<InterruptionRow>,
    /// Those before the range's end; by position.
    pub placements: Vec<PlacedRow>,
    /// What the server of each epoch said last, by epoch.
    pub statuses: Vec<StatusRow>,
    /// Events that overlap the range, by time and id; of one id each server's that took it.
    pub triggers: Vec<TriggerRow>,
}

/// A copy's current server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AssignmentView {
    /// Which copy.
    pub key: CopyKey,
    /// Its server, since when, under which epoch, and why.
    pub assignment: Assignment,
    /// The server that is about to record it instead.
    pub successor: Option<Assignment>,
}

/// What there is, by number. For metrics, so only what is quick to count: never segments.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tenants.
    pub tenants: u64,
    /// Cameras by state, in the order of [`CameraState::ALL`].
    pub cameras: [u64; 6],
    /// Facts that contradict themselves.
    pub rejected_facts: u64,
}
