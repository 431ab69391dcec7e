//! An event at a camera that somebody tells of: a motion detector, an access control system, a person. Asked of each server
//! that has the camera with a core NATS request on [`crate::subject::trigger`], and answered once it is durable there.
//!
//! Invariant: asked again under the same id, with the same or another answer before, it changes nothing that it has not
//! changed already.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::fact::RecordingTriggered;
use crate::id::{CameraId, TenantId, TriggerId};
use crate::position::Epoch;
use crate::time::Timestamp;

/// How long the word for what happened may be, in characters.
pub const MAX_KIND: usize = 64;
/// How long what is said of it besides may be, in characters.
pub const MAX_DETAIL: usize = 500;
/// How long ago it may have happened when it is told, in milliseconds: what was sent before is in no memory any more.
pub const MAX_PAST_MS: i64 = 60_000;
/// The longest stretch that one may want recorded, in milliseconds: the most before it and the most after it.
pub const MAX_SPAN_MS: i64 = 630_000;
/// How far ahead the clock of whoever tells it may be, in milliseconds.
pub const MAX_AHEAD_MS: i64 = 1_000;

/// What a server is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Trigger {
    /// Owner of the camera.
    pub tenant_id: TenantId,
    /// The camera.
    pub camera_id: CameraId,
    /// By which it is recognised.
    pub event_id: TriggerId,
    /// What happened, in a word of whoever tells it: at most [`MAX_KIND`] characters.
    pub kind: String,
    /// What else there is to say: at most [`MAX_DETAIL`] characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// When it happened.
    pub at: Timestamp,
    /// From when on it is to be recorded.
    pub from: Timestamp,
    /// Until when.
    pub until: Timestamp,
    /// Whether the camera is to be recorded for it; otherwise it is only told.
    pub records: bool,
    /// Who told it.
    pub by: String,
}

impl Trigger {
    /// What is wrong with it, if anything is: nobody is to record for a year because of one message.
    pub fn fault(&self) -> Option<&'static str> {
        if self.from > self.at || self.at > self.until {
            Some("an event lies between where its recording begins and where it ends")
        } else if self.until.millis_since(self.from) > MAX_SPAN_MS {
            Some("an event is recorded for 630 s at most")
        } else if self.kind.is_empty() || self.kind.chars().count() > MAX_KIND {
            Some("the kind of an event is a word of 1 to 64 characters")
        } else if self.detail.as_ref().is_some_and(|detail| detail.chars().count() > MAX_DETAIL) {
            Some("the detail of an event has 500 characters at most")
        } else {
            None
        }
    }

    /// The fact that a server took it, which has the camera under `epoch`.
    pub fn taken(&self, epoch: Epoch) -> RecordingTriggered {
        RecordingTriggered {
            tenant_id: self.tenant_id,
            camera_id: self.camera_id,
            epoch,
            event_id: self.event_id,
            kind: self.kind.clone(),
            detail: self.detail.clone(),
            at: self.at,
            from: self.from,
            until: self.until,
            records: self.records,
            by: self.by.clone(),
        }
    }
}

impl From<&RecordingTriggered> for Trigger {
    /// What the server was told that tells of it.
    fn from(fact: &RecordingTriggered) -> Self {
        Self {
            tenant_id: fact.tenant_id,
            camera_id: fact.camera_id,
            event_id: fact.event_id,
            kind: fact.kind.clone(),
            detail: fact.detail.clone(),
            at: fact.at,
            from: fact.from,
            until: fact.until,
            records: fact.records,
            by: fact.by.clone(),
        }
    }
}

/// What the server answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum TriggerReply {
    /// It is on the server's disk: the server records for it, also when it is killed now, and tells of it.
    Taken,
    /// The server does not have the camera.
    NotHere,
    /// The server could not make it durable: it may take it if it is asked again.
    TryAgain {
        /// Why, for a person.
        detail: String,
    },
    /// It is not one, and would not be again.
    Refused {
        /// Why, for a person.
        detail: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::SystemIds;
    use crate::settings::EventRecording;

    fn trigger() -> Trigger {
        let at = Timestamp::from_millis(1_795_420_800_000);
        Trigger {
            tenant_id: TenantId::DEFAULT,
            camera_id: CameraId::generate(&SystemIds),
            event_id: TriggerId::generate(&SystemIds),
            kind: "motion".into(),
            detail: None,
            at,
            from: at.plus_millis(-30_000),
            until: at.plus_millis(600_000),
            records: true,
            by: "key:provider".into(),
        }
    }

    #[test]
    fn what_could_not_have_been_asked_for_is_found_out() {
        let most = i64::from(EventRecording::MAX_PRE_MS) + i64::from(EventRecording::MAX_POST_MS);
        assert_eq!(MAX_SPAN_MS, most);
        let good = trigger();
        assert_eq!(good.fault(), None);
        assert_eq!(Trigger::from(&good.taken(Epoch(7))), good);
        let later = good.until.plus_millis(1);
        assert!(Trigger { until: later, ..good.clone() }.fault().unwrap().contains("630 s"));
        assert!(Trigger { from: good.at.plus_micros(1), ..good.clone() }.fault().is_some());
        assert!(Trigger { at: later, ..good.clone() }.fault().is_some());
        assert!(Trigger { kind: String::new(), ..good.clone() }.fault().is_some());
        assert!(Trigger { kind: "ä".repeat(MAX_KIND), ..good.clone() }.fault().is_none());
        assert!(Trigger { kind: "k".repeat(MAX_KIND + 1), ..good.clone() }.fault().is_some());
        assert!(Trigger { detail: Some("d".repeat(MAX_DETAIL + 1)), ..good }.fault().is_some());
    }
}
