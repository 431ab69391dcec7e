//! The names under which things stand in NATS. Every subject of the system is made here and nowhere else.

use std::fmt;

use crate::event::Event;
use crate::id::{CameraId, ServerId, TenantId};

/// A log stream: an ordered, append-only sequence of events with its own positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogStream {
    /// Configuration, server life, plans. The truth; kept for ever.
    Log,
    /// Signs of life with load.
    Heartbeats,
    /// Facts of workers.
    Recordings,
    /// The desired set of each server; last one only.
    Assignments,
}

impl LogStream {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Log, Self::Heartbeats, Self::Recordings, Self::Assignments];

    /// The stream's name in NATS.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Log => "LOG",
            Self::Heartbeats => "HEARTBEATS",
            Self::Recordings => "RECORDINGS",
            Self::Assignments => "ASSIGNMENTS",
        }
    }

    /// The subjects it holds.
    pub const fn subjects(self) -> &'static str {
        match self {
            Self::Log => "lw.log.>",
            Self::Heartbeats => "lw.heartbeat.*",
            Self::Recordings => "lw.recording.*",
            Self::Assignments => "lw.assignment.>",
        }
    }

    /// Whether it keeps only the newest record of each subject.
    pub const fn keeps_last_only(self) -> bool {
        match self {
            Self::Log | Self::Heartbeats | Self::Recordings => false,
            Self::Assignments => true,
        }
    }
}

impl fmt::Display for LogStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where a worker asks to be let in (core NATS request).
pub const JOIN: &str = "lw.join";

/// The one subject of all plans: appended to under one condition, so that two planners can never both win.
pub const PLAN: &str = "lw.log.plan";

/// A tenant's own events.
pub fn tenant(tenant: TenantId) -> String {
    format!("lw.log.{tenant}.tenant.{tenant}")
}

/// One camera's events.
pub fn camera(tenant: TenantId, camera: CameraId) -> String {
    format!("lw.log.{tenant}.camera.{camera}")
}

/// One server's events. Servers belong to the provider.
pub fn server(server: ServerId) -> String {
    format!("lw.log.provider.server.{server}")
}

/// One server's heartbeats.
pub fn heartbeat(server: ServerId) -> String {
    format!("lw.heartbeat.{server}")
}

/// The signs of life of control replicas.
pub const CONTROL_TICK: &str = "lw.heartbeat.control";

/// One server's facts.
pub fn recording(server: ServerId) -> String {
    format!("lw.recording.{server}")
}

/// One part (1, 2, …) of one server's desired set. A subject per part, because the stream keeps the last per subject.
pub fn assignment(server: ServerId, part: u32) -> String {
    format!("lw.assignment.{server}.{part}")
}

/// What `ASSIGNMENTS` republishes stored messages from and to: a worker subscribes to the copy, so no JetStream
/// consumer is needed per worker.
pub const REPUBLISH_FROM: &str = "lw.assignment.>";
/// See [`REPUBLISH_FROM`].
pub const REPUBLISH_TO: &str = "lw.assigned.>";

/// All parts of one server's desired set, as they are republished.
pub fn assigned(server: ServerId) -> String {
    format!("lw.assigned.{server}.*")
}

/// Where an event belongs.
pub fn of(event: &Event) -> (LogStream, String) {
    match event {
        Event::TenantCreated(e) => (LogStream::Log, tenant(e.tenant_id)),
        Event::TenantChanged(e) => (LogStream::Log, tenant(e.tenant_id)),
        Event::TenantDeleted(e) => (LogStream::Log, tenant(e.tenant_id)),
        Event::ServerAdded(e) => (LogStream::Log, server(e.server_id)),
        Event::ServerJoined(e) => (LogStream::Log, server(e.server_id)),
        Event::ServerAdopted(e) => (LogStream::Log, server(e.server_id)),
        Event::ServerChanged(e) => (LogStream::Log, server(e.server_id)),
        Event::ServerLost(e) => (LogStream::Log, server(e.server_id)),
        Event::ServerReturned(e) => (LogStream::Log, server(e.server_id)),
        Event::ServerDetached(e) => (LogStream::Log, server(e.server_id)),
        Event::CameraAdded(e) => (LogStream::Log, camera(e.tenant_id, e.camera_id)),
        Event::CameraChanged(e) => (LogStream::Log, camera(e.tenant_id, e.camera_id)),
        Event::CameraDeleted(e) => (LogStream::Log, camera(e.tenant_id, e.camera_id)),
        Event::PlanMade(_) => (LogStream::Log, PLAN.to_owned()),
        Event::ServerHeartbeat(e) => (LogStream::Heartbeats, heartbeat(e.server_id)),
        Event::ControlTicked(_) => (LogStream::Heartbeats, CONTROL_TICK.to_owned()),
        Event::RecordingReported(e) => (LogStream::Recordings, recording(e.server_id)),
        Event::AssignmentsPublished(e) => (LogStream::Assignments, assignment(e.server_id, e.part)),
    }
}
