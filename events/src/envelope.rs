//! The envelope: who said what about what, and when. CloudEvents 1.0 in its JSON format
//! (<https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md>), with the extensions
//! `tenantid`, `actor` and `causationid`.
//!
//! The `time` of an envelope is what its writer believed; order and liveness never follow from it.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::event::Event;
use crate::id::{EventId, TenantId};
use crate::time::Timestamp;
use crate::wire::{self, Kind};

/// An event with everything that was said around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Unique; also the `Nats-Msg-Id` by which a retry is recognised.
    pub id: EventId,
    /// Which process wrote it: `/control/<instance>` or `/server/<id>`.
    pub source: String,
    /// When its writer says it happened.
    pub time: Timestamp,
    /// Whose event it is; `None`: the provider's.
    pub tenant: Option<TenantId>,
    /// On whose behalf: `key:…`, `system`, `server:…`.
    pub actor: String,
    /// The event that led to it.
    pub causation: Option<EventId>,
    /// What happened.
    pub event: Event,
}

/// Bytes that are not an event.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not a CloudEvents 1.0 envelope in JSON.
    #[error("not an event envelope: {0}")]
    Envelope(serde_json::Error),
    /// Another version of CloudEvents.
    #[error("the envelope says specversion `{0}`, expected `1.0`")]
    SpecVersion(String),
    /// What is inside cannot be read.
    #[error(transparent)]
    Event(#[from] wire::Error),
}

#[derive(Serialize)]
struct Written<'a> {
    specversion: &'a str,
    id: EventId,
    source: &'a str,
    r#type: Kind,
    subject: String,
    time: Timestamp,
    datacontenttype: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenantid: Option<TenantId>,
    actor: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    causationid: Option<EventId>,
    data: serde_json::Value,
}

#[derive(Deserialize)]
struct Read<'a> {
    #[serde(borrow)]
    specversion: Cow<'a, str>,
    id: EventId,
    source: String,
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    time: Timestamp,
    #[serde(default)]
    tenantid: Option<TenantId>,
    actor: String,
    #[serde(default)]
    causationid: Option<EventId>,
    #[serde(borrow)]
    data: &'a RawValue,
}

impl Serialize for Kind {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl Envelope {
    /// The bytes that stand in the log.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, data) =
            wire::encode(self.event.clone()).expect("invariant: shapes hold only strings, numbers and lists");
        let written = Written {
            specversion: "1.0",
            id: self.id,
            source: &self.source,
            r#type: kind,
            subject: Subject(&self.event).to_string(),
            time: self.time,
            datacontenttype: "application/json",
            tenantid: self.tenant,
            actor: &self.actor,
            causationid: self.causation,
            data,
        };
        serde_json::to_vec(&written).expect("invariant: an envelope holds only strings and JSON")
    }

    /// Reads what [`Self::encode`] wrote, of this or an older version. Unknown attributes are ignored.
    ///
    /// # Errors
    /// If `bytes` are not an event of a known kind.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let read: Read<'_> = serde_json::from_slice(bytes).map_err(Error::Envelope)?;
        if read.specversion != "1.0" {
            return Err(Error::SpecVersion(read.specversion.chars().take(32).collect()));
        }
        let kind: Kind = read.r#type.parse()?;
        Ok(Self {
            id: read.id,
            source: read.source,
            time: read.time,
            tenant: read.tenantid,
            actor: read.actor,
            causation: read.causationid,
            event: wire::decode(kind, read.data)?,
        })
    }
}

/// What an event is about, for people and filters: `camera/<id>`.
struct Subject<'a>(&'a Event);

impl fmt::Display for Subject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Event::TenantCreated(e) => write!(f, "tenant/{}", e.tenant_id),
            Event::TenantChanged(e) => write!(f, "tenant/{}", e.tenant_id),
            Event::TenantDeleted(e) => write!(f, "tenant/{}", e.tenant_id),
            Event::ServerAdded(e) => write!(f, "server/{}", e.server_id),
            Event::ServerJoined(e) => write!(f, "server/{}", e.server_id),
            Event::ServerAdopted(e) => write!(f, "server/{}", e.server_id),
            Event::ServerChanged(e) => write!(f, "server/{}", e.server_id),
            Event::ServerLost(e) => write!(f, "server/{}", e.server_id),
            Event::ServerReturned(e) => write!(f, "server/{}", e.server_id),
            Event::ServerDiskMeasured(e) => write!(f, "server/{}", e.server_id),
            Event::ServerDrainStarted(e) => write!(f, "server/{}", e.server_id),
            Event::ServerDrainStopped(e) => write!(f, "server/{}", e.server_id),
            Event::ServerFailbackRequested(e) => write!(f, "server/{}", e.server_id),
            Event::ServerDetached(e) => write!(f, "server/{}", e.server_id),
            Event::CameraAdded(e) => write!(f, "camera/{}", e.camera_id),
            Event::CameraChanged(e) => write!(f, "camera/{}", e.camera_id),
            Event::CameraDeleted(e) => write!(f, "camera/{}", e.camera_id),
            Event::CameraMoveRequested(e) => write!(f, "camera/{}", e.camera_id),
            // There is one only; the number keeps to the form that the envelope's schema promises.
            Event::PolicyChanged(_) => f.write_str("policy/0"),
            Event::VersionRequired(e) => write!(f, "version/{}", e.fold_version),
            Event::PlanMade(e) => write!(f, "plan/{}", e.basis),
            Event::ServerHeartbeat(e) => write!(f, "server/{}", e.server_id),
            Event::ControlTicked(e) => write!(f, "control/{}", e.boot_id),
            Event::RecordingReported(e) => write!(f, "server/{}", e.server_id),
            Event::AssignmentsPublished(e) => write!(f, "server/{}", e.server_id),
            Event::CameraBacklogged(e) => write!(f, "camera/{}", e.camera_id),
        }
    }
}
