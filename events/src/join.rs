//! How a worker asks to be let in, and what it is told: a core NATS request on [`crate::subject::JOIN`].
//!
//! The join key itself never travels. The worker proves that it knows it: `proof` is HMAC-SHA256 (RFC 2104) over the
//! exact bytes of `claim`, keyed with the join key. A proof that is overheard admits only the public key inside the
//! claim it was made for, and asking again with the same key is answered with the same server.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::{BootId, ServerId};
use crate::sealed::{Base64Bytes, PublicKey};
use crate::settings::{Capacity, Labels};

/// What a worker sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JoinRequest {
    /// A [`JoinClaim`] as JSON, as a string, so that both sides hash the same bytes.
    pub claim: String,
    /// Hexadecimal HMAC-SHA256 of `claim`.
    pub proof: String,
}

/// What a worker says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JoinClaim {
    /// The worker's name for itself.
    pub name: String,
    /// What will be sealed to it, is sealed to this key. Made on the worker's first start and kept.
    pub public_key: PublicKey,
    /// This run.
    pub boot_id: BootId,
    /// Counts only when the server is new.
    pub labels: Labels,
    /// As `labels`.
    pub capacity: Capacity,
}

/// What it is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum JoinReply {
    /// It is known. If `adopted` is false it waits for an operator; assignments come once it is adopted.
    Welcome {
        /// Its id from now on.
        server_id: ServerId,
        /// Whether it belongs to the system.
        adopted: bool,
        /// How often it is to give a sign of life.
        heartbeat_interval_ms: u32,
        /// How long it may be silent before others may take its cameras; `None` from a control that does not say. Counts,
        /// as the interval does, until the first set says it ([`crate::assignment::AssignmentSet`]).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lease_ms: Option<u32>,
        /// The 32 bytes of its [`crate::media::MediaKey`], sealed to its public key (libsodium's `crypto_box_seal`); `None` from a
        /// control that gives out no addresses of video.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        media_key: Option<Base64Bytes>,
    },
    /// It may not join.
    Refused {
        /// Why, for a program.
        reason: RefusedReason,
        /// Why, and what would be right, for a person.
        detail: String,
    },
}

/// Why a worker may not join.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RefusedReason {
    /// The proof does not fit: another join key.
    WrongKey,
    /// The request is not one.
    Malformed,
    /// Another server has this name.
    NameTaken,
    /// An owner detached this server.
    Detached,
    /// Control cannot write to the log right now; ask again.
    TryAgain,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_welcome_from_before_the_lease_was_told_is_understood() {
        let text = r#"{"result":"welcome","server_id":"01989c5e-7c1f-7d6e-8f6b-0d3f4a5b6c7e","adopted":true,"heartbeat_interval_ms":1000}"#;
        let reply: JoinReply = serde_json::from_str(text).unwrap();
        assert!(matches!(reply, JoinReply::Welcome { lease_ms: None, .. }), "{reply:?}");
        assert_eq!(serde_json::to_string(&reply).unwrap(), text);
    }
}
