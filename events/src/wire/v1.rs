//! Version 1 of every shape. Released: add optional fields at most, never rename, never remove.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::event::{DetachedCameras, Part, Scrub, Spool, Storage};
use crate::fact::{Cause, Codec, Damage, DeletionReason};
use crate::hash::Sha256;
use crate::id::{BootId, CameraId, EventId, ServerId, StoreId, TenantId, TriggerId};
use crate::policy::Policy;
use crate::position::{Epoch, Position};
use crate::reason::{AbandonReason, AssignReason, FinishReason, UnplacedReason};
use crate::sealed::{Base64Bytes, PublicKey, WrappedKey};
use crate::settings::{CameraSettings, Capacity, Labels, Priority, Recording, Retention, ServerSettings};
use crate::time::Timestamp;
use crate::{assignment, event, fact};

/// Writes a shape beside the type it stands for, and the way there and back.
macro_rules! shapes {
    ($($(#[$doc:meta])* $shape:ident = $domain:path { $($(#[$attribute:meta])* $field:ident: $ty:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        pub struct $shape {
            $(
                #[allow(missing_docs, reason = "told by the type it stands for")]
                $(#[$attribute])*
                pub $field: $ty,
            )*
        }

        impl From<$domain> for $shape {
            fn from(domain: $domain) -> Self {
                Self { $($field: domain.$field.into(),)* }
            }
        }

        impl From<$shape> for $domain {
            fn from(shape: $shape) -> Self {
                Self { $($field: shape.$field.into(),)* }
            }
        }
    )*};
}

/// A list of shapes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct List<T>(pub Vec<T>);

impl<T: From<D>, D> From<Vec<D>> for List<T> {
    fn from(domain: Vec<D>) -> Self {
        Self(domain.into_iter().map(T::from).collect())
    }
}

impl<T: Into<D>, D> From<List<T>> for Vec<D> {
    fn from(list: List<T>) -> Self {
        list.0.into_iter().map(T::into).collect()
    }
}

shapes! {
    /// See [`crate::event::TenantCreated`].
    TenantCreated = event::TenantCreated {
        tenant_id: TenantId,
        name: String,
        data_key: WrappedKey,
    }

    /// See [`crate::event::TenantChanged`].
    TenantChanged = event::TenantChanged {
        tenant_id: TenantId,
        name: String,
    }

    /// See [`crate::event::TenantDeleted`].
    TenantDeleted = event::TenantDeleted {
        tenant_id: TenantId,
    }

    /// See [`crate::event::ServerAdded`].
    ServerAdded = event::ServerAdded {
        server_id: ServerId,
        settings: ServerSettings,
    }

    /// See [`crate::event::ServerJoined`].
    ServerJoined = event::ServerJoined {
        server_id: ServerId,
        name: String,
        public_key: PublicKey,
        labels: Labels,
        capacity: Capacity,
    }

    /// See [`crate::event::ServerAdopted`].
    ServerAdopted = event::ServerAdopted {
        server_id: ServerId,
    }

    /// See [`crate::event::ServerChanged`].
    ServerChanged = event::ServerChanged {
        server_id: ServerId,
        settings: ServerSettings,
    }

    /// See [`crate::event::ServerLost`].
    ServerLost = event::ServerLost {
        server_id: ServerId,
        last_heartbeat: Option<Position>,
        heard_at: Timestamp,
        judged_at: Timestamp,
        lease_ms: u32,
    }

    /// See [`crate::event::ServerReturned`].
    ServerReturned = event::ServerReturned {
        server_id: ServerId,
        heartbeat: Position,
    }

    /// See [`crate::event::ServerDiskMeasured`].
    ServerDiskMeasured = event::ServerDiskMeasured {
        server_id: ServerId,
        heartbeat: Position,
        free_percent: u8,
    }

    /// See [`crate::event::ServerDrainStarted`].
    ServerDrainStarted = event::ServerDrainStarted {
        server_id: ServerId,
    }

    /// See [`crate::event::ServerDrainStopped`].
    ServerDrainStopped = event::ServerDrainStopped {
        server_id: ServerId,
    }

    /// See [`crate::event::ServerFailbackRequested`].
    ServerFailbackRequested = event::ServerFailbackRequested {
        server_id: ServerId,
    }

    /// See [`crate::event::ServerDetached`].
    ServerDetached = event::ServerDetached {
        server_id: ServerId,
        #[serde(default, skip_serializing_if = "is_default")]
        cameras: DetachedCameras,
    }

    /// See [`crate::event::CameraAdded`].
    CameraAdded = event::CameraAdded {
        tenant_id: TenantId,
        camera_id: CameraId,
        settings: CameraSettings,
    }

    /// See [`crate::event::CameraChanged`].
    CameraChanged = event::CameraChanged {
        tenant_id: TenantId,
        camera_id: CameraId,
        settings: CameraSettings,
    }

    /// See [`crate::event::CameraDeleted`].
    CameraDeleted = event::CameraDeleted {
        tenant_id: TenantId,
        camera_id: CameraId,
    }

    /// See [`crate::event::CameraMoveRequested`].
    CameraMoveRequested = event::CameraMoveRequested {
        tenant_id: TenantId,
        camera_id: CameraId,
        copy: u8,
        server_id: ServerId,
    }

    /// See [`crate::event::PolicyChanged`].
    PolicyChanged = event::PolicyChanged {
        policy: Policy,
    }

    /// See [`crate::event::VersionRequired`].
    VersionRequired = event::VersionRequired {
        fold_version: u32,
    }

    /// See [`crate::event::PlanMade`].
    PlanMade = event::PlanMade {
        basis: Position,
        rules: u32,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        decided_at: Option<Timestamp>,
        #[serde(default, skip_serializing_if = "Part::is_whole")]
        part: Part,
        entries: List<PlanEntry>,
    }

    /// See [`crate::event::PlanEntry`].
    PlanEntry = event::PlanEntry {
        tenant_id: TenantId,
        camera_id: CameraId,
        #[serde(default, skip_serializing_if = "is_default")]
        copy: u8,
        decision: Decision,
    }

    /// See [`crate::event::ServerHeartbeat`].
    ServerHeartbeat = event::ServerHeartbeat {
        server_id: ServerId,
        boot_id: BootId,
        sequence: u64,
        load: Load,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        media_url: Option<String>,
    }

    /// See [`crate::event::Load`].
    Load = event::Load {
        applied_revision: Position,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lease_ms: Option<u32>,
        cameras: u32,
        recording: u32,
        unsettled: u32,
        received_bytes_per_s: u64,
        cpu_millicores: u32,
        memory_bytes: u64,
        disk_free_bytes: u64,
        disk_total_bytes: u64,
        outbox_facts: u64,
        #[serde(default, skip_serializing_if = "is_default")]
        clock_stepped_ms: i64,
        #[serde(default, skip_serializing_if = "is_default")]
        storage: Storage,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        scrub: Option<Scrub>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        spool: Option<Spool>,
    }

    /// See [`crate::event::ControlTicked`].
    ControlTicked = event::ControlTicked {
        boot_id: BootId,
        folded: Position,
    }

    /// See [`crate::event::RecordingReported`].
    RecordingReported = event::RecordingReported {
        server_id: ServerId,
        boot_id: BootId,
        facts: List<Fact>,
    }

    /// See [`crate::fact::Started`].
    Started = fact::Started {
        tenant_id: TenantId,
        camera_id: CameraId,
        epoch: Epoch,
        at: Timestamp,
        video: Codec,
        audio: Option<Codec>,
        #[serde(default, skip_serializing_if = "is_default")]
        not_recorded: Vec<String>,
    }

    /// See [`crate::fact::FirstKeyframeDurable`].
    FirstKeyframeDurable = fact::FirstKeyframeDurable {
        tenant_id: TenantId,
        camera_id: CameraId,
        epoch: Epoch,
        start: Timestamp,
        durable_at: Timestamp,
    }

    /// See [`crate::fact::SegmentStored`].
    SegmentStored = fact::SegmentStored {
        tenant_id: TenantId,
        camera_id: CameraId,
        epoch: Epoch,
        key: String,
        start: Timestamp,
        end: Timestamp,
        bytes: u64,
        sha256: Sha256,
        video_frames: u64,
        video: Codec,
        audio: Option<Codec>,
        repaired: bool,
    }

    /// See [`crate::fact::SegmentUploaded`].
    SegmentUploaded = fact::SegmentUploaded {
        tenant_id: TenantId,
        camera_id: CameraId,
        epoch: Epoch,
        key: String,
        start: Timestamp,
        bytes: u64,
        sha256: Sha256,
        at: Timestamp,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        store_id: Option<StoreId>,
    }

    /// See [`crate::fact::SegmentDeleted`].
    SegmentDeleted = fact::SegmentDeleted {
        tenant_id: TenantId,
        camera_id: CameraId,
        epoch: Epoch,
        key: String,
        start: Timestamp,
        end: Timestamp,
        bytes: u64,
        at: Timestamp,
        reason: DeletionReason,
        #[serde(default, skip_serializing_if = "is_default")]
        before_min_age: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        store_id: Option<StoreId>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        recorded_by: Option<ServerId>,
    }

    /// See [`crate::fact::SegmentChecked`].
    SegmentChecked = fact::SegmentChecked {
        tenant_id: TenantId,
        camera_id: CameraId,
        epoch: Epoch,
        key: String,
        start: Timestamp,
        end: Timestamp,
        bytes: u64,
        sha256: Sha256,
        at: Timestamp,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        damage: Option<Damage>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        found_bytes: Option<u64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        found_sha256: Option<Sha256>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        store_id: Option<StoreId>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        recorded_by: Option<ServerId>,
    }

    /// See [`crate::fact::Interrupted`].
    Interrupted = fact::Interrupted {
        tenant_id: TenantId,
        camera_id: CameraId,
        epoch: Epoch,
        at: Timestamp,
        cause: Cause,
        detail: String,
    }

    /// See [`crate::fact::Gap`].
    Gap = fact::Gap {
        tenant_id: TenantId,
        camera_id: CameraId,
        epoch: Epoch,
        start: Timestamp,
        end: Timestamp,
        cause: Cause,
    }

    /// See [`crate::fact::TimestampJumped`].
    TimestampJumped = fact::TimestampJumped {
        tenant_id: TenantId,
        camera_id: CameraId,
        epoch: Epoch,
        at: Timestamp,
        by_ms: i64,
    }

    /// See [`crate::fact::RecordingTriggered`].
    RecordingTriggered = fact::RecordingTriggered {
        tenant_id: TenantId,
        camera_id: CameraId,
        epoch: Epoch,
        event_id: TriggerId,
        kind: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
        at: Timestamp,
        from: Timestamp,
        until: Timestamp,
        records: bool,
        by: String,
    }

    /// See [`crate::assignment::AssignmentSet`].
    AssignmentsPublished = assignment::AssignmentSet {
        server_id: ServerId,
        revision: Position,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        set_id: Option<EventId>,
        part: u32,
        parts: u32,
        heartbeat_interval_ms: u32,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lease_ms: Option<u32>,
        cameras: List<AssignedCamera>,
    }

    /// See [`crate::assignment::AssignedCamera`].
    AssignedCamera = assignment::AssignedCamera {
        tenant_id: TenantId,
        camera_id: CameraId,
        epoch: Epoch,
        settings_version: Position,
        source: Base64Bytes,
        #[serde(default, skip_serializing_if = "is_default")]
        single_session: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        live_latency_ms: Option<u16>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        priority: Option<Priority>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retention: Option<Retention>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        recording: Option<Recording>,
    }

    /// See [`crate::event::CameraBacklogged`].
    CameraBacklogged = event::CameraBacklogged {
        tenant_id: TenantId,
        camera_id: CameraId,
        copy: u8,
        priority: Priority,
        reason: UnplacedReason,
        since: Timestamp,
    }
}

/// Whether an optional field may be left out.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// See [`crate::event::Decision`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// This server records the camera.
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

impl From<event::Decision> for Decision {
    fn from(domain: event::Decision) -> Self {
        match domain {
            event::Decision::Assign { server_id, reason } => Self::Assign { server_id, reason },
            event::Decision::Unplace { reason } => Self::Unplace { reason },
            event::Decision::Move { server_id, reason } => Self::Move { server_id, reason },
            event::Decision::Finish { epoch, reason, evidence } => Self::Finish { epoch, reason, evidence },
            event::Decision::Abandon { epoch, reason } => Self::Abandon { epoch, reason },
        }
    }
}

impl From<Decision> for event::Decision {
    fn from(shape: Decision) -> Self {
        match shape {
            Decision::Assign { server_id, reason } => Self::Assign { server_id, reason },
            Decision::Unplace { reason } => Self::Unplace { reason },
            Decision::Move { server_id, reason } => Self::Move { server_id, reason },
            Decision::Finish { epoch, reason, evidence } => Self::Finish { epoch, reason, evidence },
            Decision::Abandon { epoch, reason } => Self::Abandon { epoch, reason },
        }
    }
}

/// See [`crate::fact::Fact`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "fact", rename_all = "snake_case")]
pub enum Fact {
    /// The camera answered and plays.
    Started(Started),
    /// The archive is continuous from here.
    FirstKeyframeDurable(FirstKeyframeDurable),
    /// A segment is complete.
    SegmentStored(SegmentStored),
    /// A segment is in the object store.
    SegmentUploaded(SegmentUploaded),
    /// A segment is gone.
    SegmentDeleted(SegmentDeleted),
    /// A segment is damaged, or right again.
    SegmentChecked(SegmentChecked),
    /// Not recorded any more, or still not.
    Interrupted(Interrupted),
    /// Video that should exist and does not.
    Gap(Gap),
    /// The camera's media clock jumped.
    TimestampJumped(TimestampJumped),
    /// Somebody told of an event at the camera.
    RecordingTriggered(RecordingTriggered),
}

impl From<fact::Fact> for Fact {
    fn from(domain: fact::Fact) -> Self {
        match domain {
            fact::Fact::Started(f) => Self::Started(f.into()),
            fact::Fact::FirstKeyframeDurable(f) => Self::FirstKeyframeDurable(f.into()),
            fact::Fact::SegmentStored(f) => Self::SegmentStored(f.into()),
            fact::Fact::SegmentUploaded(f) => Self::SegmentUploaded(f.into()),
            fact::Fact::SegmentDeleted(f) => Self::SegmentDeleted(f.into()),
            fact::Fact::SegmentChecked(f) => Self::SegmentChecked(f.into()),
            fact::Fact::Interrupted(f) => Self::Interrupted(f.into()),
            fact::Fact::Gap(f) => Self::Gap(f.into()),
            fact::Fact::TimestampJumped(f) => Self::TimestampJumped(f.into()),
            fact::Fact::RecordingTriggered(f) => Self::RecordingTriggered(f.into()),
        }
    }
}

impl From<Fact> for fact::Fact {
    fn from(shape: Fact) -> Self {
        match shape {
            Fact::Started(f) => Self::Started(f.into()),
            Fact::FirstKeyframeDurable(f) => Self::FirstKeyframeDurable(f.into()),
            Fact::SegmentStored(f) => Self::SegmentStored(f.into()),
            Fact::SegmentUploaded(f) => Self::SegmentUploaded(f.into()),
            Fact::SegmentDeleted(f) => Self::SegmentDeleted(f.into()),
            Fact::SegmentChecked(f) => Self::SegmentChecked(f.into()),
            Fact::Interrupted(f) => Self::Interrupted(f.into()),
            Fact::Gap(f) => Self::Gap(f.into()),
            Fact::TimestampJumped(f) => Self::TimestampJumped(f.into()),
            Fact::RecordingTriggered(f) => Self::RecordingTriggered(f.into()),
        }
    }
}
