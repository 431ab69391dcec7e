//! What a worker saw happen to a recording. A fact is never refused and never corrected: a later one adds to it.
//!
//! Facts travel in batches ([`crate::event::RecordingReported`]) and may arrive twice or late; every one is keyed by
//! camera, epoch and time, so applying it again changes nothing.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::hash::Sha256;
use crate::id::{CameraId, ServerId, StoreId, TenantId, TriggerId};
use crate::position::Epoch;
use crate::time::Timestamp;

/// Why video is missing, or why a camera is not being recorded right now. Closed: whatever goes wrong has one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The camera refused the credentials (401, 403) or wants some and has none.
    Unauthorized,
    /// The camera has no such stream (404).
    NotFound,
    /// The camera's address refused the connection.
    Refused,
    /// No route, no such host, or the network said no.
    Unreachable,
    /// The camera did not answer in time.
    Timeout,
    /// The camera answered something that is not RTSP or RTP.
    ProtocolError,
    /// The camera closed the connection.
    Closed,
    /// The camera kept the connection but sent no frame for the frame timeout.
    Stalled,
    /// The address policy of this server does not allow the camera's address.
    NotAllowed,
    /// The camera offers nothing this version records.
    UnsupportedCodec,
    /// The camera's media clock jumps all the time.
    TimestampJump,
    /// Writing to the archive failed, or was too slow.
    StorageError,
    /// The worker was gone (killed, crashed, machine down) and is back.
    WorkerRestarted,
    /// The worker was told to stop.
    WorkerStopped,
    /// The camera was given to another server, or its settings changed.
    Reassigned,
    /// The camera was switched off or deleted.
    Disabled,
    /// No server had room for the camera.
    Unplaced,
    /// The server that should record has not been heard of.
    ServerSilent,
    /// The server had lost touch with the log, and the camera serves one client only.
    LeaseExpired,
    /// Its schedule does not want the camera recorded then.
    NotScheduled,
    /// The camera is recorded around events only, and there was none.
    NoEvent,
}

impl Cause {
    /// The word for it in events, the API and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unauthorized => "unauthorized",
            Self::NotFound => "not_found",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::ProtocolError => "protocol_error",
            Self::Closed => "closed",
            Self::Stalled => "stalled",
            Self::NotAllowed => "not_allowed",
            Self::UnsupportedCodec => "unsupported_codec",
            Self::TimestampJump => "timestamp_jump",
            Self::StorageError => "storage_error",
            Self::WorkerRestarted => "worker_restarted",
            Self::WorkerStopped => "worker_stopped",
            Self::Reassigned => "reassigned",
            Self::Disabled => "disabled",
            Self::Unplaced => "unplaced",
            Self::ServerSilent => "server_silent",
            Self::LeaseExpired => "lease_expired",
            Self::NotScheduled => "not_scheduled",
            Self::NoEvent => "no_event",
        }
    }

    /// Whether nothing is wrong: what is not recorded for it is not wanted.
    pub const fn is_by_wish(self) -> bool {
        match self {
            Self::NotScheduled | Self::NoEvent => true,
            Self::Unauthorized
            | Self::NotFound
            | Self::Refused
            | Self::Unreachable
            | Self::Timeout
            | Self::ProtocolError
            | Self::Closed
            | Self::Stalled
            | Self::NotAllowed
            | Self::UnsupportedCodec
            | Self::TimestampJump
            | Self::StorageError
            | Self::WorkerRestarted
            | Self::WorkerStopped
            | Self::Reassigned
            | Self::Disabled
            | Self::Unplaced
            | Self::ServerSilent
            | Self::LeaseExpired => false,
        }
    }
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A video or audio codec, as recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Codec {
    /// ITU-T H.264, ISO/IEC 14496-10.
    H264,
    /// ITU-T H.265, ISO/IEC 23008-2.
    H265,
    /// AAC, ISO/IEC 14496-3.
    Aac,
    /// G.711 with µ-law, as RTP calls it (RFC 3551, section 4.5.14).
    Pcmu,
    /// G.711 with A-law.
    Pcma,
    /// Opus, RFC 6716.
    Opus,
}

/// Why a segment was deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeletionReason {
    /// It was older than the camera's `max_days`.
    Age,
    /// The camera had more video on the server than its `max_bytes`.
    CameraBytes,
    /// The tenant had more video on the server than it may have there.
    TenantBytes,
    /// Its volume had too little free space for new video.
    VolumeFull,
    /// It waited to be uploaded to the object store, and there was no more room to wait in.
    SpoolFull,
}

impl DeletionReason {
    /// The word for it in events, the API and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Age => "age",
            Self::CameraBytes => "camera_bytes",
            Self::TenantBytes => "tenant_bytes",
            Self::VolumeFull => "volume_full",
            Self::SpoolFull => "spool_full",
        }
    }
}

impl std::fmt::Display for DeletionReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is wrong with a stored segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Damage {
    /// Its file, or its object, is not there, and nobody reported that it was deleted.
    Missing,
    /// Its file, or its object, does not hold what was stored.
    Corrupt,
    /// Its file is there, and the disk does not let all of it be read.
    Unreadable,
}

impl Damage {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Missing, Self::Corrupt, Self::Unreadable];

    /// The word for it in events, the API and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Corrupt => "corrupt",
            Self::Unreadable => "unreadable",
        }
    }
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One thing that happened to the recording of one camera on one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// The camera answered and plays; nothing is on disk yet.
    Started(Started),
    /// The first keyframe since a break is on disk for good. From here on the camera is recorded.
    FirstKeyframeDurable(FirstKeyframeDurable),
    /// A segment is complete, durable and hashed.
    SegmentStored(SegmentStored),
    /// A segment is in the object store, whole: what lies there has the hash that is told.
    SegmentUploaded(SegmentUploaded),
    /// A segment was deleted: its file, or its object, is gone for good.
    SegmentDeleted(SegmentDeleted),
    /// A stored segment was examined, and is not as it was the last time anybody looked: damaged, or right again.
    SegmentChecked(SegmentChecked),
    /// The camera is not being recorded any more, or still not, for a cause that is new.
    Interrupted(Interrupted),
    /// Video that should exist and does not.
    Gap(Gap),
    /// The camera's media clock jumped; nothing was lost by it.
    TimestampJumped(TimestampJumped),
    /// Somebody told of an event at the camera; the server has it on its disk, and records for it if its settings want that.
    RecordingTriggered(RecordingTriggered),
}

/// See [`Fact::Started`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// Owner of the camera.
    pub tenant_id: TenantId,
    /// The camera.
    pub camera_id: CameraId,
    /// Under which assignment.
    pub epoch: Epoch,
    /// When PLAY was answered.
    pub at: Timestamp,
    /// What the camera sends.
    pub video: Codec,
    /// Its audio, if it has any that is recorded.
    pub audio: Option<Codec>,
    /// What it offers besides and is not recorded, as `media/encoding`, such as `audio/g722`.
    pub not_recorded: Vec<String>,
}

/// See [`Fact::FirstKeyframeDurable`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstKeyframeDurable {
    /// Owner of the camera.
    pub tenant_id: TenantId,
    /// The camera.
    pub camera_id: CameraId,
    /// Under which assignment.
    pub epoch: Epoch,
    /// Wall-clock time of the keyframe: the archive is continuous from here.
    pub start: Timestamp,
    /// When the fragment holding it had been flushed to the disk.
    pub durable_at: Timestamp,
}

/// See [`Fact::SegmentStored`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentStored {
    /// Owner of the camera.
    pub tenant_id: TenantId,
    /// The camera.
    pub camera_id: CameraId,
    /// Under which assignment it was recorded.
    pub epoch: Epoch,
    /// Its place under the archive's root: `<tenant>/<camera>/<date>/<time>_<epoch>_<server>.mp4`.
    pub key: String,
    /// Wall-clock time of its first frame.
    pub start: Timestamp,
    /// Wall-clock time at which its last frame ends.
    pub end: Timestamp,
    /// Size of the file.
    pub bytes: u64,
    /// Hash of the whole file.
    pub sha256: Sha256,
    /// Video frames in it.
    pub video_frames: u64,
    /// Video codec.
    pub video: Codec,
    /// Audio codec, if there is audio.
    pub audio: Option<Codec>,
    /// True if the worker found it torn after a crash and cut it to its last whole fragment.
    pub repaired: bool,
}

/// See [`Fact::SegmentUploaded`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentUploaded {
    /// Owner of the camera.
    pub tenant_id: TenantId,
    /// The camera.
    pub camera_id: CameraId,
    /// Under which assignment it was recorded.
    pub epoch: Epoch,
    /// Its place under the archive's root, as it was reported when it was stored; below the archive's prefix it is the
    /// object's name, too.
    pub key: String,
    /// Time of its first frame as its name says it: rounded down to milliseconds.
    pub start: Timestamp,
    /// Size of the object.
    pub bytes: u64,
    /// Hash of the whole object.
    pub sha256: Sha256,
    /// When it was known to be there.
    pub at: Timestamp,
    /// Which object store it is; `None` from workers that do not say.
    pub store_id: Option<StoreId>,
}

/// See [`Fact::SegmentDeleted`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentDeleted {
    /// Owner of the camera.
    pub tenant_id: TenantId,
    /// The camera.
    pub camera_id: CameraId,
    /// Under which assignment it was recorded.
    pub epoch: Epoch,
    /// Its place under the archive's root, as it was reported when it was stored.
    pub key: String,
    /// Time of its first frame as its name says it: rounded down to milliseconds.
    pub start: Timestamp,
    /// Time at which its last frame ended.
    pub end: Timestamp,
    /// Size of the file.
    pub bytes: u64,
    /// When it was decided.
    pub at: Timestamp,
    /// Why.
    pub reason: DeletionReason,
    /// It was younger than the camera's `min_days`: only a full volume, or a full spool, takes such video.
    pub before_min_age: bool,
    /// The object store it was deleted from; `None`: a disk, or a store whose id was not known when it was uploaded.
    pub store_id: Option<StoreId>,
    /// Who recorded it, if that is not the server that deleted it. Counts only if it lies in the store of `store_id`.
    pub recorded_by: Option<ServerId>,
}

/// See [`Fact::SegmentChecked`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentChecked {
    /// Owner of the camera.
    pub tenant_id: TenantId,
    /// The camera.
    pub camera_id: CameraId,
    /// Under which assignment it was recorded.
    pub epoch: Epoch,
    /// Its place under the archive's root, as it was reported when it was stored.
    pub key: String,
    /// Time of its first frame, as it was reported.
    pub start: Timestamp,
    /// Time at which its last frame ends, as it was reported.
    pub end: Timestamp,
    /// Size of the file, as it was reported.
    pub bytes: u64,
    /// Hash of the file, as it was reported.
    pub sha256: Sha256,
    /// When it was examined.
    pub at: Timestamp,
    /// What is wrong with it; `None`: nothing any more.
    pub damage: Option<Damage>,
    /// Size of the file that is there instead, if one is.
    pub found_bytes: Option<u64>,
    /// Its hash, if all of it could be read.
    pub found_sha256: Option<Sha256>,
    /// The object store in which it was looked for; `None`: on the disks of the server that tells.
    pub store_id: Option<StoreId>,
    /// Who recorded it, if that is not the server that tells. Counts only if it lies in the store of `store_id`.
    pub recorded_by: Option<ServerId>,
}

/// See [`Fact::Interrupted`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interrupted {
    /// Owner of the camera.
    pub tenant_id: TenantId,
    /// The camera.
    pub camera_id: CameraId,
    /// Under which assignment.
    pub epoch: Epoch,
    /// End of the last durable frame, or when the attempt failed if there was none.
    pub at: Timestamp,
    /// Why.
    pub cause: Cause,
    /// For a person; never holds a credential.
    pub detail: String,
}

/// See [`Fact::Gap`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// Owner of the camera.
    pub tenant_id: TenantId,
    /// The camera.
    pub camera_id: CameraId,
    /// The assignment under which recording resumed.
    pub epoch: Epoch,
    /// End of the last frame before it.
    pub start: Timestamp,
    /// Start of the first frame after it.
    pub end: Timestamp,
    /// Why nothing was recorded.
    pub cause: Cause,
}

/// See [`Fact::TimestampJumped`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimestampJumped {
    /// Owner of the camera.
    pub tenant_id: TenantId,
    /// The camera.
    pub camera_id: CameraId,
    /// Under which assignment.
    pub epoch: Epoch,
    /// When the first picture behind the jump was received.
    pub at: Timestamp,
    /// How far, in milliseconds; back if negative.
    pub by_ms: i64,
}

/// See [`Fact::RecordingTriggered`]. Told by each server that has the camera, under the same id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordingTriggered {
    /// Owner of the camera.
    pub tenant_id: TenantId,
    /// The camera.
    pub camera_id: CameraId,
    /// The assignment under which the server has it.
    pub epoch: Epoch,
    /// By which the event is recognised.
    pub event_id: TriggerId,
    /// What happened, in a word of whoever told it.
    pub kind: String,
    /// What else was said of it.
    pub detail: Option<String>,
    /// When it happened.
    pub at: Timestamp,
    /// From when on it is recorded.
    pub from: Timestamp,
    /// Until when.
    pub until: Timestamp,
    /// Whether the camera is recorded for it; otherwise it is only told: another setting says when it is recorded.
    pub records: bool,
    /// Who told it, as it stands in the log.
    pub by: String,
}

impl Fact {
    /// The owner of the camera it is about.
    pub const fn tenant_id(&self) -> TenantId {
        match self {
            Self::Started(f) => f.tenant_id,
            Self::FirstKeyframeDurable(f) => f.tenant_id,
            Self::SegmentStored(f) => f.tenant_id,
            Self::SegmentUploaded(f) => f.tenant_id,
            Self::SegmentDeleted(f) => f.tenant_id,
            Self::SegmentChecked(f) => f.tenant_id,
            Self::Interrupted(f) => f.tenant_id,
            Self::Gap(f) => f.tenant_id,
            Self::TimestampJumped(f) => f.tenant_id,
            Self::RecordingTriggered(f) => f.tenant_id,
        }
    }

    /// The camera it is about.
    pub const fn camera_id(&self) -> CameraId {
        match self {
            Self::Started(f) => f.camera_id,
            Self::FirstKeyframeDurable(f) => f.camera_id,
            Self::SegmentStored(f) => f.camera_id,
            Self::SegmentUploaded(f) => f.camera_id,
            Self::SegmentDeleted(f) => f.camera_id,
            Self::SegmentChecked(f) => f.camera_id,
            Self::Interrupted(f) => f.camera_id,
            Self::Gap(f) => f.camera_id,
            Self::TimestampJumped(f) => f.camera_id,
            Self::RecordingTriggered(f) => f.camera_id,
        }
    }
}
