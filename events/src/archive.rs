//! How a worker asks what its server is known to have: a core NATS request on [`crate::subject::archive`] of that server,
//! answered from the read model, part by part.
//!
//! The list of what should be there comes from the log and not from the disk that is examined: what is lost with a disk, the
//! disk cannot tell. An answer is sealed to the server's public key, so that whoever asks in its name learns nothing.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::fact::Damage;
use crate::hash::Sha256;
use crate::id::{CameraId, ServerId, TenantId};
use crate::position::Epoch;
use crate::sealed::Base64Bytes;
use crate::time::Timestamp;

/// As many segments are told at once, at most: some 150 KiB, well below what NATS takes.
pub const MAX_AT_ONCE: u32 = 500;

/// A place in the list: a camera, and a time in its archive. The list is in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Place {
    /// Owner of the camera.
    pub tenant_id: TenantId,
    /// The camera.
    pub camera_id: CameraId,
    /// When a segment begins.
    pub start: Timestamp,
}

impl Place {
    /// Where the list begins.
    pub const FIRST: Self = Self {
        tenant_id: TenantId::from_uuid(uuid::Uuid::nil()),
        camera_id: CameraId::from_uuid(uuid::Uuid::nil()),
        start: Timestamp::UNIX_EPOCH,
    };
}

/// What a worker asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ArchiveRequest {
    /// From here on.
    pub from: Place,
    /// So many segments at most; [`MAX_AT_ONCE`] if it is more.
    pub limit: u32,
}

/// What it is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum ArchiveReply {
    /// An [`ArchivePart`] as JSON, sealed to the server's public key (libsodium's `crypto_box_seal`). It reflects every fact
    /// that the log had acknowledged when the request came.
    Part {
        /// The sealed bytes.
        sealed: Base64Bytes,
    },
    /// Not now: ask again later.
    TryAgain {
        /// Why, for a person.
        detail: String,
    },
    /// This server has no archive here.
    Refused {
        /// Why, for a person.
        detail: String,
    },
}

/// A part of the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ArchivePart {
    /// Of which server.
    pub server_id: ServerId,
    /// What it reported as stored and did not report as deleted or uploaded, by place and then by epoch.
    pub segments: Vec<KnownSegment>,
    /// Whether there are any behind the last one.
    pub more: bool,
}

/// A segment that should be there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KnownSegment {
    /// Owner of the camera.
    pub tenant_id: TenantId,
    /// The camera.
    pub camera_id: CameraId,
    /// Under which assignment it was recorded.
    pub epoch: Epoch,
    /// Its place under the archive's root.
    pub key: String,
    /// Its first frame.
    pub start: Timestamp,
    /// Where its last frame ends.
    pub end: Timestamp,
    /// Size of its file.
    pub bytes: u64,
    /// Hash of its file.
    pub sha256: Sha256,
    /// What was last found to be wrong with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage: Option<Damage>,
}

impl KnownSegment {
    /// Where it stands in the list.
    pub const fn place(&self) -> Place {
        Place { tenant_id: self.tenant_id, camera_id: self.camera_id, start: self.start }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_part_fits_into_a_message() {
        let segment = KnownSegment {
            tenant_id: TenantId::DEFAULT,
            camera_id: CameraId::from_uuid(uuid::Uuid::max()),
            epoch: Epoch(u64::MAX),
            key: "x".repeat(36 + 36 + 10 + 15 + 20 + 36 + 10),
            start: Timestamp::from_millis(1_795_420_800_123),
            end: Timestamp::from_millis(1_795_420_860_123),
            bytes: u64::MAX,
            sha256: Sha256::of(b""),
            damage: Some(Damage::Unreadable),
        };
        let server_id = ServerId::from_uuid(uuid::Uuid::max());
        let segments = vec![segment; MAX_AT_ONCE as usize];
        let part = serde_json::to_vec(&ArchivePart { server_id, segments, more: true }).unwrap();
        let reply = ArchiveReply::Part { sealed: Base64Bytes(vec![0; part.len() + 48]) };
        let bytes = serde_json::to_vec(&reply).unwrap().len();
        assert!(bytes < 512 << 10, "{bytes}");
    }

    #[test]
    fn the_first_place_is_before_every_other_one_and_reads_back() {
        let text = serde_json::to_string(&ArchiveRequest { from: Place::FIRST, limit: 1 }).unwrap();
        let read: ArchiveRequest = serde_json::from_str(&text).unwrap();
        assert_eq!(read.from, Place::FIRST);
        let other = Place { tenant_id: TenantId::DEFAULT, ..Place::FIRST };
        assert!(Place::FIRST < other);
    }
}
