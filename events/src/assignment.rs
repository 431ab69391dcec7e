//! What a server is to record: its whole desired set, so that applying the newest one is always enough.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::id::{CameraId, EventId, ServerId, TenantId};
use crate::position::{Epoch, Position};
use crate::sealed::Base64Bytes;
use crate::settings::{Priority, Recording, Retention};

/// One part of the whole desired set of one server. Parts of one `revision` and `set_id` belong together; a set counts
/// only when all its parts are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssignmentSet {
    /// The server.
    pub server_id: ServerId,
    /// By which a newer set is recognised: the position in the log it follows from; or, if the set that it replaces has
    /// that one or a higher one already, the next after that. (A set may follow from the same position as the one
    /// before: that one lacked a camera which could not be handed over then.)
    pub revision: Position,
    /// The same in all parts of a set and in no other's: after the log was set back another set may have the same revision.
    /// `None` in sets from before it was told.
    pub set_id: Option<EventId>,
    /// 1 for the first part.
    pub part: u32,
    /// How many parts there are; at least 1.
    pub parts: u32,
    /// How often the worker is to give a sign of life.
    pub heartbeat_interval_ms: u32,
    /// How long the worker may be silent before others may take its cameras; `None` in sets from before it was told.
    pub lease_ms: Option<u32>,
    /// The cameras in this part, by tenant and id.
    pub cameras: Vec<AssignedCamera>,
}

/// One camera that a server is to record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssignedCamera {
    /// Owner.
    pub tenant_id: TenantId,
    /// The camera.
    pub camera_id: CameraId,
    /// The assignment's epoch: stands in every segment's name and every fact.
    pub epoch: Epoch,
    /// Log position of the source (see [`crate::state::Camera::source_version`]): a camera whose source changed is
    /// restarted with the new one.
    pub settings_version: Position,
    /// A JSON [`SourceSecret`] sealed to the server's public key.
    pub source: Base64Bytes,
    /// The camera serves one client only: the worker must stop by itself before its lease ends.
    pub single_session: bool,
    /// How late its newest video may be, in milliseconds; `None` in sets from before it was told.
    pub live_latency_ms: Option<u16>,
    /// How important it is when many cameras want to connect at once; `None` in sets from before it was told. It counts
    /// from when the camera is assigned or its source changes: a new priority alone is no reason to tell it.
    pub priority: Option<Priority>,
    /// How long its video is kept; `None` in sets from before it was told.
    pub retention: Option<Retention>,
    /// When it is recorded, with no more than that needs; `None`: always.
    pub recording: Option<Recording>,
}

/// The address of a camera with everything needed to open it. A secret: it has no `Debug`, `Display` or `Serialize`;
/// the only way out is [`SourceSecret::to_plaintext`], for sealing.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct SourceSecret {
    /// `rtsp://host[:port]/path[?query]`, without userinfo.
    pub url: String,
    /// User name, if the camera wants one.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<String>,
}

/// The plaintext inside a sealed source: JSON, so that an older worker can open what a newer control sealed.
#[derive(Serialize, Deserialize)]
struct Plaintext<'a> {
    url: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    username: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    password: Option<Cow<'a, str>>,
}

impl SourceSecret {
    /// The bytes to seal; wiped when dropped.
    pub fn to_plaintext(&self) -> Zeroizing<Vec<u8>> {
        let plaintext = Plaintext {
            url: Cow::Borrowed(&self.url),
            username: self.username.as_deref().map(Cow::Borrowed),
            password: self.password.as_deref().map(Cow::Borrowed),
        };
        Zeroizing::new(serde_json::to_vec(&plaintext).expect("invariant: strings always become JSON"))
    }

    /// Reads what [`Self::to_plaintext`] wrote.
    ///
    /// # Errors
    /// If `bytes` are something else; the error names no part of them.
    pub fn from_plaintext(bytes: &[u8]) -> Result<Self, InvalidSource> {
        let plaintext: Plaintext<'_> = serde_json::from_slice(bytes).map_err(|_| InvalidSource)?;
        Ok(Self {
            url: plaintext.url.into_owned(),
            username: plaintext.username.map(Cow::into_owned),
            password: plaintext.password.map(Cow::into_owned),
        })
    }
}

/// Bytes that were opened but are not a camera's source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the sealed source was opened, but does not hold a camera's address")]
pub struct InvalidSource;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_reads_back_as_sealed() {
        for password in [None, Some("p\"ä\\".to_owned())] {
            let source = SourceSecret { url: "rtsp://h/1".into(), username: password.clone(), password };
            assert!(SourceSecret::from_plaintext(&source.to_plaintext()).is_ok_and(|read| read == source));
        }
        assert!(SourceSecret::from_plaintext(b"{}").is_err());
    }
}
