//! Names of things: typed, time-ordered UUIDs (RFC 9562, version 7), made by the server and never by a client.
//!
//! Ids say *which*, never *when* or *in what order*: order is a [`crate::position::Position`]. This module and
//! [`crate::time`] are the only places that may ask the machine for randomness or the clock.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A text that is not a UUID where one was needed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an id: expected a UUID such as 01989c5e-7c1f-7d6e-8f6b-0d3f4a5b6c7d")]
pub struct InvalidId {
    /// What was given, shortened to 64 characters.
    pub text: String,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        // As one number, which is the order of the bytes: trees of a million ids compare several of them on every level,
        // and as bytes each comparison is a call of `memcmp`.
        impl Ord for $name {
            fn cmp(&self, other: &Self) -> std::cmp::Ordering {
                self.0.as_u128().cmp(&other.0.as_u128())
            }
        }

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
                Some(self.cmp(other))
            }
        }

        impl $name {
            /// Wraps an id that was made elsewhere (an [`IdSource`], a parsed text).
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// Draws a new id.
            pub fn generate(ids: &dyn IdSource) -> Self {
                Self(ids.next())
            }

            /// The raw UUID.
            pub const fn as_uuid(&self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0.hyphenated())
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                // Only the hyphenated form: an id also stands in paths and subjects, so it has one spelling.
                match Uuid::try_parse(text) {
                    Ok(uuid) if text.len() == 36 && !text.bytes().any(|b| b.is_ascii_uppercase()) => Ok(Self(uuid)),
                    _ => Err(InvalidId { text: text.chars().take(64).collect() }),
                }
            }
        }
    };
}

id! {
    /// A tenant: the customer of a provider.
    TenantId
}
id! {
    /// A camera. Meaningless without its tenant: look it up with both.
    CameraId
}
id! {
    /// A server that records, as the operator sees it.
    ServerId
}
id! {
    /// One event; also its `Nats-Msg-Id`, by which a retried append is recognised.
    EventId
}
id! {
    /// One run of a worker process, from start to exit.
    BootId
}

id! {
    /// An event at a camera that somebody tells of, such as a movement. No entry of a log: see [`EventId`].
    TriggerId
}

id! {
    /// A volume of a server's archive; stands in a file on it.
    VolumeId
}

id! {
    /// An object store, as far as servers share it: a bucket and a prefix in it. Stands in an object there, so whoever names
    /// it can read there.
    StoreId
}

/// One copy of a camera: each of them has a server of its own. Ordered by tenant, camera and copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CopyKey {
    /// Owner.
    pub tenant_id: TenantId,
    /// The camera.
    pub camera_id: CameraId,
    /// Which of its copies, from 0.
    pub copy: u8,
}

impl TenantId {
    /// The tenant every system begins with. Fixed, so that two control replicas that start on an empty log
    /// create one tenant and not two.
    pub const DEFAULT: Self = Self(Uuid::from_u128(0x0000_0000_0000_7000_8000_0000_0000_0001));
}

/// Where new ids come from. Injected, so that a simulation draws the same ids from the same seed.
pub trait IdSource: Send + Sync {
    /// A UUID that was never returned before.
    fn next(&self) -> Uuid;
}

/// Ids of a running system: UUIDv7 from the machine's clock and random source.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemIds;

impl IdSource for SystemIds {
    #[allow(clippy::disallowed_methods, reason = "the one place where ids are drawn")]
    fn next(&self) -> Uuid {
        Uuid::now_v7()
    }
}

/// Ids that count: 1, 2, 3, … in the form of a UUIDv7. For tests and simulation.
#[derive(Debug, Default)]
pub struct CountingIds(AtomicU64);

impl IdSource for CountingIds {
    fn next(&self) -> Uuid {
        let n = self.0.fetch_add(1, Ordering::Relaxed) + 1;
        Uuid::from_u128(0x0000_0000_0000_7000_9000_0000_0000_0000 | u128::from(n))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_spelling() {
        let id = CameraId::generate(&SystemIds);
        assert_eq!(id.to_string().parse::<CameraId>(), Ok(id));
        assert!(id.to_string().to_uppercase().parse::<CameraId>().is_err());
        assert!(id.as_uuid().simple().to_string().parse::<CameraId>().is_err());
        assert!("../../etc/passwd".parse::<CameraId>().is_err());
    }

    #[test]
    fn ids_are_in_the_order_of_their_texts() {
        let id = |byte: u8, at: usize| {
            let mut bytes = [0; 16];
            bytes[at] = byte;
            CameraId::from_uuid(Uuid::from_bytes(bytes))
        };
        let mut ids: Vec<_> =
            [0, 7, 8, 15].iter().flat_map(|at| [0, 1, 0x7f, 0x80, 0xff].map(|byte| id(byte, *at))).collect();
        ids.sort_unstable();
        assert!(ids.is_sorted_by_key(ToString::to_string));
    }

    #[test]
    fn counting_ids_never_repeat() {
        let ids = CountingIds::default();
        assert!(EventId::generate(&ids) < EventId::generate(&ids));
    }
}
