//! How events are written down: one shape per kind and version, apart from the types the program works with.
//!
//! A shape that was ever released is never changed, only joined by a newer version; reading ignores fields it does not
//! know. [`Kind`] lists all shapes: the schemas in `schemas/events/`, the golden samples and the tests that demand
//! both follow from it.

pub mod v1;

use std::fmt;

use schemars::Schema;
use serde_json::Value;

use crate::event::Event;

/// An event that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A kind or version this program does not know. It must not be skipped: this program is too old for the log.
    #[error(
        "unknown event type `{0}`: this program is older than the log it reads, or the log is not Longwatch's"
    )]
    UnknownKind(String),
    /// Its data does not have the shape of its kind.
    #[error("`{kind}` does not have the shape of its kind: {source}")]
    Shape {
        /// Which kind it says it is.
        kind: Kind,
        /// What is wrong, and where.
        source: serde_json::Error,
    },
}

macro_rules! kinds {
    ($($variant:ident($shape:ident) = $name:literal,)*) => {
        /// A kind of event in one version.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind {
            $(
                #[doc = concat!("`", $name, "`")]
                $variant,
            )*
        }

        impl Kind {
            /// Every kind there is.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The CloudEvents `type`.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// The kind of an event.
            pub const fn of(event: &Event) -> Self {
                match event {
                    $(Event::$variant(_) => Self::$variant,)*
                }
            }

            /// The JSON Schema (draft 2020-12) of the kind's `data`.
            pub fn schema(self) -> Schema {
                match self {
                    $(Self::$variant => schemars::schema_for!(v1::$shape),)*
                }
            }
        }

        /// The kind and `data` of an event.
        ///
        /// # Errors
        /// None that is known: every shape is made of strings, numbers and lists.
        pub fn encode(event: Event) -> Result<(Kind, Value), serde_json::Error> {
            match event {
                $(Event::$variant(body) => {
                    serde_json::to_value(v1::$shape::from(body)).map(|data| (Kind::$variant, data))
                })*
            }
        }

        /// The event of a kind's `data`.
        ///
        /// # Errors
        /// If the data do not have the kind's shape.
        pub fn decode(kind: Kind, data: &serde_json::value::RawValue) -> Result<Event, Error> {
            match kind {
                $(Kind::$variant => {
                    serde_json::from_str::<v1::$shape>(data.get())
                        .map(|shape| Event::$variant(shape.into()))
                        .map_err(|source| Error::Shape { kind, source })
                })*
            }
        }

        impl std::str::FromStr for Kind {
            type Err = Error;

            fn from_str(name: &str) -> Result<Self, Error> {
                match name {
                    $($name => Ok(Self::$variant),)*
                    _ => Err(Error::UnknownKind(name.chars().take(128).collect())),
                }
            }
        }
    };
}

kinds! {
    TenantCreated(TenantCreated) = "longwatch.tenant.created.v1",
    TenantChanged(TenantChanged) = "longwatch.tenant.changed.v1",
    TenantDeleted(TenantDeleted) = "longwatch.tenant.deleted.v1",
    ServerAdded(ServerAdded) = "longwatch.server.added.v1",
    ServerJoined(ServerJoined) = "longwatch.server.joined.v1",
    ServerAdopted(ServerAdopted) = "longwatch.server.adopted.v1",
    ServerChanged(ServerChanged) = "longwatch.server.changed.v1",
    ServerLost(ServerLost) = "longwatch.server.lost.v1",
    ServerReturned(ServerReturned) = "longwatch.server.returned.v1",
    ServerDiskMeasured(ServerDiskMeasured) = "longwatch.server.disk_measured.v1",
    ServerDrainStarted(ServerDrainStarted) = "longwatch.server.drain_started.v1",
    ServerDrainStopped(ServerDrainStopped) = "longwatch.server.drain_stopped.v1",
    ServerFailbackRequested(ServerFailbackRequested) = "longwatch.server.failback_requested.v1",
    ServerDetached(ServerDetached) = "longwatch.server.detached.v1",
    CameraAdded(CameraAdded) = "longwatch.camera.added.v1",
    CameraChanged(CameraChanged) = "longwatch.camera.changed.v1",
    CameraDeleted(CameraDeleted) = "longwatch.camera.deleted.v1",
    CameraMoveRequested(CameraMoveRequested) = "longwatch.camera.move_requested.v1",
    PolicyChanged(PolicyChanged) = "longwatch.policy.changed.v1",
    VersionRequired(VersionRequired) = "longwatch.version.required.v1",
    PlanMade(PlanMade) = "longwatch.plan.made.v1",
    ServerHeartbeat(ServerHeartbeat) = "longwatch.server.heartbeat.v1",
    ControlTicked(ControlTicked) = "longwatch.control.ticked.v1",
    RecordingReported(RecordingReported) = "longwatch.recording.reported.v1",
    AssignmentsPublished(AssignmentsPublished) = "longwatch.assignments.published.v1",
    CameraBacklogged(CameraBacklogged) = "longwatch.camera.backlogged.v1",
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
