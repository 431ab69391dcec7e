//! How a worker asks what its server is known to have, or what of an object store it is to look after: a core NATS request on
//! [`crate::subject::archive`] of that server, answered from the read model, part by part.
//!
//! The list of what should be there comes from the log and not from the disk that is examined: what is lost with a disk, the
//! disk cannot tell. An answer is sealed to the server's public key, so that whoever asks in its name learns nothing.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::fact::Damage;
use crate::hash::Sha256;
use crate::id::{CameraId, ServerId, StoreId, TenantId};
use crate::position::Epoch;
use crate::sealed::Base64Bytes;
use crate::settings::Retention;
use crate::time::Timestamp;

/// As many segments are told at once, at most: some 150 KiB, well below what NATS takes.
pub const MAX_AT_ONCE: u32 = 500;
/// As many cameras are told of at once, at most, of what lies in an object store.
pub const MAX_CAMERAS_AT_ONCE: u32 = 500;

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
    /// Of this; `None`: of what lies on the server. A control that does not know the question answers it as if it were
    /// `None`, with an [`ArchivePart`], which is no [`StockPart`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<Stock>,
}

/// Segments that were uploaded, as far as one server may be asked to look after them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stock {
    /// Those in this object store, whoever uploaded them, of the cameras that this server is to look after.
    Store(StoreId),
    /// Those that this server uploaded itself when object stores had no ids yet.
    Unknown,
}

/// What it is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum ArchiveReply {
    /// An [`ArchivePart`], or a [`StockPart`] if that was asked for, as JSON, sealed to the server's public key (libsodium's `crypto_box_seal`). It reflects every fact
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

/// A part of what lies in an object store: cameras of which something may have to go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StockPart {
    /// Who is to look after it.
    pub server_id: ServerId,
    /// Of what.
    pub of: Stock,
    /// When this is told, by the log's clock.
    pub at: Timestamp,
    /// By tenant and camera.
    pub cameras: Vec<StockedCamera>,
    /// Where the next part begins; `None`: there is none.
    pub next: Option<Place>,
}

/// What lies in an object store of one camera.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StockedCamera {
    /// Owner of the camera.
    pub tenant_id: TenantId,
    /// The camera, whether it is still there or not.
    pub camera_id: CameraId,
    /// How long its video is kept, as it was last told.
    pub retention: Retention,
    /// Bytes of all of its segments there, named here or not; 0 if its `retention` does not bound them.
    pub bytes: u64,
    /// Its oldest segments from where was asked on, by start.
    pub segments: Vec<StockedSegment>,
    /// Whether there are any behind the last one.
    pub more: bool,
}

/// A segment that should be in an object store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StockedSegment {
    /// Its place under the archive's root, and under the object store's prefix.
    pub key: String,
    /// Its first frame.
    pub start: Timestamp,
    /// Where its last frame ends.
    pub end: Timestamp,
    /// Size of its object.
    pub bytes: u64,
    /// Hash of its object.
    pub sha256: Sha256,
    /// What was last found to be wrong with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage: Option<Damage>,
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
    fn the_largest_part_of_a_store_fits_into_a_message() {
        let time = Timestamp::from_millis(1_795_420_800_123);
        let segment = StockedSegment {
            key: "x".repeat(36 + 36 + 10 + 15 + 20 + 36 + 10),
            start: time,
            end: time,
            bytes: u64::MAX,
            sha256: Sha256::of(b""),
            damage: Some(Damage::Unreadable),
        };
        let bound = Some(u32::MAX);
        let camera = StockedCamera {
            tenant_id: TenantId::DEFAULT,
            camera_id: CameraId::from_uuid(uuid::Uuid::max()),
            retention: Retention { max_days: bound, max_bytes: Some(u64::MAX), min_days: bound },
            bytes: u64::MAX,
            segments: vec![segment],
            more: true,
        };
        let part = StockPart {
            server_id: ServerId::from_uuid(uuid::Uuid::max()),
            of: Stock::Store(StoreId::from_uuid(uuid::Uuid::max())),
            at: time,
            cameras: vec![camera; MAX_AT_ONCE as usize],
            next: Some(Place::FIRST),
        };
        let part = serde_json::to_vec(&part).unwrap();
        let reply = ArchiveReply::Part { sealed: Base64Bytes(vec![0; part.len() + 48]) };
        let bytes = serde_json::to_vec(&reply).unwrap().len();
        assert!(bytes < 900 << 10, "{bytes}");
    }

    #[test]
    fn who_asks_as_before_is_understood_and_who_asks_more_is_no_riddle_to_an_older_control() {
        let before = serde_json::json!({ "from": Place::FIRST, "limit": 7 });
        let plain = ArchiveRequest { from: Place::FIRST, limit: 7, of: None };
        assert_eq!(serde_json::to_value(plain).unwrap(), before);
        assert_eq!(serde_json::from_value::<ArchiveRequest>(before).unwrap(), plain);
        for (of, told) in [
            (Stock::Unknown, serde_json::json!("unknown")),
            (
                Stock::Store(StoreId::from_uuid(uuid::Uuid::nil())),
                serde_json::json!({ "store": "00000000-0000-0000-0000-000000000000" }),
            ),
        ] {
            let asked = serde_json::to_value(ArchiveRequest { of: Some(of), ..plain }).unwrap();
            assert_eq!(asked["of"], told);
        }
        // What it answers is not taken for an answer.
        let server_id = ServerId::from_uuid(uuid::Uuid::max());
        let part = ArchivePart { server_id, segments: Vec::new(), more: false };
        let part = serde_json::to_string(&part).unwrap();
        assert!(serde_json::from_str::<StockPart>(&part).is_err());
    }

    #[test]
    fn the_first_place_is_before_every_other_one_and_reads_back() {
        let text = serde_json::to_string(&ArchiveRequest { from: Place::FIRST, limit: 1, of: None }).unwrap();
        let read: ArchiveRequest = serde_json::from_str(&text).unwrap();
        assert_eq!(read.from, Place::FIRST);
        let other = Place { tenant_id: TenantId::DEFAULT, ..Place::FIRST };
        assert!(Place::FIRST < other);
    }
}
