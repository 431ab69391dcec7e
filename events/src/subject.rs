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
    /// Cameras that no server has room for, until one has; the last of each only.
    Backlog,
}

impl LogStream {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Log, Self::Heartbeats, Self::Recordings, Self::Assignments, Self::Backlog];

    /// The stream's name in NATS.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Log => "LOG",
            Self::Heartbeats => "HEARTBEATS",
            Self::Recordings => "RECORDINGS",
            Self::Assignments => "ASSIGNMENTS",
            Self::Backlog => "BACKLOG",
        }
    }

    /// The subjects it holds.
    pub const fn subjects(self) -> &'static str {
        match self {
            Self::Log => "lw.log.>",
            Self::Heartbeats => "lw.heartbeat.*",
            Self::Recordings => "lw.recording.*",
            Self::Assignments => "lw.assignment.>",
            Self::Backlog => "lw.backlog.camera.*",
        }
    }

    /// Whether it keeps only the newest record of each subject.
    pub const fn keeps_last_only(self) -> bool {
        match self {
            Self::Log | Self::Heartbeats | Self::Recordings => false,
            Self::Assignments | Self::Backlog => true,
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

/// The policy of the whole system.
pub const POLICY: &str = "lw.log.provider.policy.system";
/// What programs must be able to do.
pub const VERSION: &str = "lw.log.provider.version.system";

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

/// Says to one server "look at what you are to record", with an empty core message: to a worker whose heartbeats show
/// that it missed a set. One of [`assigned`], so that no further subscription is needed; no part has the number 0.
pub fn look(server: ServerId) -> String {
    format!("lw.assigned.{server}.0")
}

const ARCHIVE: &str = "lw.archive.";
/// Where all servers ask what they are known to have.
pub const ARCHIVES: &str = "lw.archive.*";

/// Where one server asks what it is known to have (core NATS request).
pub fn archive(server: ServerId) -> String {
    format!("{ARCHIVE}{server}")
}

/// Which server asks under a subject that [`archive`] made.
pub fn archive_of(subject: &str) -> Option<ServerId> {
    let server = subject.strip_prefix(ARCHIVE)?.parse().ok()?;
    // One spelling: whatever else a parser lets through is nobody's.
    (archive(server) == subject).then_some(server)
}

/// Where servers are told of events at their cameras.
pub const TRIGGERS: &str = "lw.trigger.*";

/// Where one server is told of an event at a camera of its (core NATS request, answered by the worker).
pub fn trigger(server: ServerId) -> String {
    format!("lw.trigger.{server}")
}

const BACKLOG_CAMERA: &str = "lw.backlog.camera.";

/// Where a copy of a camera waits for a server with room: one token for both, which the log stream's wildcard covers.
pub fn backlog(camera: CameraId, copy: u8) -> String {
    match copy {
        0 => format!("{BACKLOG_CAMERA}{camera}"),
        _ => format!("{BACKLOG_CAMERA}{camera}-{copy}"),
    }
}

/// The durable consumer of `BACKLOG` that is never asked for anything: what is pending for it is what waits.
pub const BACKLOG_CONSUMER: &str = "backlog";

/// Which copy of which camera waits under a subject that [`backlog`] made.
pub fn backlogged(subject: &str) -> Option<(CameraId, u8)> {
    const ID_CHARS: usize = 36;
    let (camera, copy) = subject.strip_prefix(BACKLOG_CAMERA)?.split_at_checked(ID_CHARS)?;
    let camera = camera.parse().ok()?;
    let copy = if copy.is_empty() { 0 } else { copy.strip_prefix('-')?.parse().ok()? };
    // One spelling: `-0` or `-01` is nobody's.
    (backlog(camera, copy) == subject).then_some((camera, copy))
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
        Event::ServerDiskMeasured(e) => (LogStream::Log, server(e.server_id)),
        Event::ServerDrainStarted(e) => (LogStream::Log, server(e.server_id)),
        Event::ServerDrainStopped(e) => (LogStream::Log, server(e.server_id)),
        Event::ServerFailbackRequested(e) => (LogStream::Log, server(e.server_id)),
        Event::ServerDetached(e) => (LogStream::Log, server(e.server_id)),
        Event::CameraAdded(e) => (LogStream::Log, camera(e.tenant_id, e.camera_id)),
        Event::CameraChanged(e) => (LogStream::Log, camera(e.tenant_id, e.camera_id)),
        Event::CameraDeleted(e) => (LogStream::Log, camera(e.tenant_id, e.camera_id)),
        Event::CameraMoveRequested(e) => (LogStream::Log, camera(e.tenant_id, e.camera_id)),
        Event::PolicyChanged(_) => (LogStream::Log, POLICY.to_owned()),
        Event::VersionRequired(_) => (LogStream::Log, VERSION.to_owned()),
        Event::PlanMade(_) => (LogStream::Log, PLAN.to_owned()),
        Event::ServerHeartbeat(e) => (LogStream::Heartbeats, heartbeat(e.server_id)),
        Event::ControlTicked(_) => (LogStream::Heartbeats, CONTROL_TICK.to_owned()),
        Event::RecordingReported(e) => (LogStream::Recordings, recording(e.server_id)),
        Event::AssignmentsPublished(e) => (LogStream::Assignments, assignment(e.server_id, e.part)),
        Event::CameraBacklogged(e) => (LogStream::Backlog, backlog(e.camera_id, e.copy)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_asks_is_known_by_the_subject() {
        let server = ServerId::from_uuid(uuid::Uuid::from_u128(0xab));
        assert_eq!(archive_of(&archive(server)), Some(server));
        let upper = format!("{ARCHIVE}{}", server.to_string().to_uppercase());
        for other in ["", "lw.archive.", "lw.archive.x", "lw.join", &upper] {
            assert_eq!(archive_of(other), None, "{other}");
        }
    }

    #[test]
    fn a_subject_of_the_backlog_reads_back() {
        let camera = CameraId::from_uuid(uuid::Uuid::from_u128(7));
        for copy in 0..=u8::MAX {
            assert_eq!(backlogged(&backlog(camera, copy)), Some((camera, copy)));
        }
        let base = backlog(camera, 0);
        assert!(!base[BACKLOG_CAMERA.len()..].contains('.') && !backlog(camera, 3).ends_with(".3"));
        for suffix in ["-", "-0", "-01", "-256", "-x", ".1", "1", "--1", "-+1"] {
            assert_eq!(backlogged(&format!("{base}{suffix}")), None, "{suffix}");
        }
        for other in ["", "lw.backlog.camera.", "lw.backlog.camera.x", "lw.log.plan"] {
            assert_eq!(backlogged(other), None, "{other}");
        }
    }
}
