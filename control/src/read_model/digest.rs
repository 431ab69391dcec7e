//! The content hash of a read model: which tables, which columns, in which order, and how a value becomes bytes.
//!
//! The encoding is injective and independent of the database: per table its name; per row a mark and its columns; per
//! value a tag, for texts and bytes the length (8 bytes, big-endian), then the content. Rows stand in the order of their
//! primary key, which consists of ids, integers and ASCII words only, so that every engine sorts them alike.

use longwatch_events::hash::Sha256;
use sha2::Digest;

/// A table as it is hashed.
#[derive(Debug)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// All its columns.
    pub columns: &'static str,
    /// Its primary key.
    pub key: &'static str,
}

/// Every table of the read model.
pub const TABLES: [Table; 16] = [
    Table { name: "positions", columns: "stream, position", key: "stream" },
    Table { name: "tenants", columns: "tenant_id, name, created_at_us, version", key: "tenant_id" },
    Table {
        name: "servers",
        columns: "server_id, name, settings, has_worker, membership, lost_since_us, draining_since_us, created_at_us, \
                  version",
        key: "server_id",
    },
    Table {
        name: "cameras",
        columns: "tenant_id, camera_id, name, name_folded, wants_recording, settings, created_at_us, version",
        key: "tenant_id, camera_id",
    },
    Table { name: "former_cameras", columns: "tenant_id, camera_id, retention", key: "tenant_id, camera_id" },
    Table {
        name: "copies",
        columns: "tenant_id, camera_id, copy, placement, server_id, epoch, placed_at_us, placement_reason, \
                  home_server_id, successor_server_id, successor_epoch, successor_since_us, successor_reason",
        key: "tenant_id, camera_id, copy",
    },
    Table {
        name: "placements",
        columns: "tenant_id, camera_id, copy, position, at_us, placement, server_id, reason, from_lost",
        key: "tenant_id, camera_id, copy, position",
    },
    Table {
        name: "epochs",
        columns: "tenant_id, camera_id, epoch, server_id, copy",
        key: "tenant_id, camera_id, epoch, server_id",
    },
    Table { name: "creations", columns: "thing_id, position", key: "thing_id" },
    Table {
        name: "recording_status",
        columns: "tenant_id, camera_id, epoch, server_id, boot_id, state, since_us, position, cause, detail, \
                  recording_since_us, recording_until_us",
        key: "tenant_id, camera_id, epoch, server_id",
    },
    Table {
        name: "segments",
        columns: "tenant_id, camera_id, epoch, server_id, start_us, end_us, object_key, bytes, sha256, \
                  video_frames, video, audio, repaired, damage, damage_found_us, location, store_id, object_bytes, \
                  object_sha256",
        key: "tenant_id, camera_id, epoch, server_id, start_us",
    },
    Table {
        name: "gaps",
        columns: "tenant_id, camera_id, epoch, server_id, start_us, end_us, cause",
        key: "tenant_id, camera_id, epoch, server_id, start_us",
    },
    Table {
        name: "deletions",
        columns: "tenant_id, camera_id, epoch, server_id, start_us, end_us, reason",
        key: "tenant_id, camera_id, epoch, server_id, start_us",
    },
    Table {
        name: "interruptions",
        columns: "tenant_id, camera_id, at_us, epoch, server_id, cause, position, fact",
        key: "tenant_id, camera_id, at_us, epoch, server_id, cause",
    },
    Table {
        name: "triggers",
        columns: "tenant_id, camera_id, event_id, server_id, epoch, kind, detail, at_us, from_us, until_us, records, \
                  actor",
        key: "tenant_id, camera_id, event_id, server_id",
    },
    Table { name: "rejected_facts", columns: "position, fact, why", key: "position, fact" },
];

/// One value of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// No value.
    Null,
    /// A number (or a truth: 0, 1).
    Integer(i64),
    /// A text.
    Text(&'a str),
    /// Bytes (ids and hashes).
    Bytes(&'a [u8]),
}

/// Takes in tables, rows and values, and gives their hash.
#[derive(Default)]
pub struct Hasher(sha2::Sha256);

impl Hasher {
    /// The next table begins.
    pub fn table(&mut self, table: &Table) {
        self.0.update([b'T']);
        self.sized(table.name.as_bytes());
    }

    /// The next row begins.
    pub fn row(&mut self) {
        self.0.update([b'R']);
    }

    /// The next value of the row.
    pub fn value(&mut self, value: Value<'_>) {
        match value {
            Value::Null => self.0.update([b'n']),
            Value::Integer(number) => {
                self.0.update([b'i']);
                self.0.update(number.to_be_bytes());
            }
            Value::Text(text) => {
                self.0.update([b't']);
                self.sized(text.as_bytes());
            }
            Value::Bytes(bytes) => {
                self.0.update([b'b']);
                self.sized(bytes);
            }
        }
    }

    /// The hash of all that was taken in.
    pub fn finish(self) -> Sha256 {
        Sha256(self.0.finalize().into())
    }

    fn sized(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_be_bytes());
        self.0.update(bytes);
    }
}
