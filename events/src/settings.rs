//! What a person can set about a camera or a server. Values, shared by events, State and API. What is set for the whole
//! system is [`crate::policy`].

mod kept;

use std::ops::RangeInclusive;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::ServerId;
pub use crate::labels::Labels;
use crate::schedule::Schedule;
use crate::sealed::Sealed;
pub use kept::KeptSettings;

/// Everything a camera can be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CameraSettings {
    /// For people; need not be unique.
    pub name: String,
    /// For people and placement.
    pub labels: Labels,
    /// Where the video comes from.
    pub source: Source,
    /// Whether and how it is recorded.
    pub recording: Recording,
    /// How long it is kept.
    pub retention: Retention,
    /// In which order cameras find a new server when theirs is lost.
    pub failover_priority: Priority,
    /// The server that should record it, if that has room.
    pub preferred_server_id: Option<ServerId>,
    /// On how many servers at once; see [`CameraSettings::wanted_copies`].
    pub copies: u8,
    /// What the camera is expected to send, in bits per second; what a server's `max_bitrate_bps` is counted in.
    pub expected_bitrate_bps: Option<u64>,
    /// Only servers that carry all of these labels may record it.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub server_labels: Labels,
    /// The camera serves one client only: whoever records it stops by itself before others may take it for lost, and
    /// the next one begins only then. It costs the seconds that make-before-break would save.
    #[serde(default, skip_serializing_if = "is_false")]
    pub single_session: bool,
    /// How late the newest video may be because its server looks at the camera only now and then, in milliseconds; see
    /// [`CameraSettings::wanted_live_latency_ms`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live_latency_ms: Option<u16>,
}

impl CameraSettings {
    /// The most servers that record one camera at once.
    pub const MAX_COPIES: u8 = 4;
    /// What [`Self::live_latency_ms`] may be: less costs a wake-up per packet, more costs memory and saves nothing.
    pub const LIVE_LATENCY_MS: RangeInclusive<u16> = 20..=1_000;
    /// What it is if nothing is said.
    pub const DEFAULT_LIVE_LATENCY_MS: u16 = 200;

    /// On how many servers it is recorded at once: 1 to [`Self::MAX_COPIES`], whatever stands in the log.
    pub const fn wanted_copies(&self) -> u8 {
        wanted_copies(self.copies)
    }

    /// How late the newest video may be, in milliseconds: within [`Self::LIVE_LATENCY_MS`], whatever stands in the log.
    pub fn wanted_live_latency_ms(&self) -> u16 {
        wanted_live_latency_ms(self.live_latency_ms)
    }
}

fn wanted_live_latency_ms(told: Option<u16>) -> u16 {
    let wanted = told.unwrap_or(CameraSettings::DEFAULT_LIVE_LATENCY_MS);
    wanted.clamp(*CameraSettings::LIVE_LATENCY_MS.start(), *CameraSettings::LIVE_LATENCY_MS.end())
}

const fn wanted_copies(copies: u8) -> u8 {
    match copies {
        0 => 1,
        copies if copies > CameraSettings::MAX_COPIES => CameraSettings::MAX_COPIES,
        copies => copies,
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde wants")]
const fn is_false(value: &bool) -> bool {
    !*value
}

/// Where a camera's video comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Source {
    /// The address as it may be shown: without user, password, or secret query values.
    pub url: String,
    /// The whole address and its credentials, a JSON [`crate::assignment::SourceSecret`] sealed with the
    /// tenant's data key; field name `source`.
    pub secret: Sealed,
    /// How media travels.
    pub transport: Transport,
}

/// How media travels from the camera.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// Interleaved in the RTSP connection (RFC 2326, section 10.12).
    #[default]
    Tcp,
}

/// Whether and how a camera is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Recording {
    /// When.
    pub mode: RecordingMode,
    /// The windows of [`RecordingMode::Schedule`]. In another mode it is only kept, for the day it is wanted again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Box<Schedule>>,
    /// How much around an event [`RecordingMode::Event`] records. In another mode it is only kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<EventRecording>,
}

impl Recording {
    /// What a server is told of it: no more than it needs; `None`: always.
    ///
    /// Of mode `event` it is told as [`RecordingMode::Continuous`] with `event` beside it: a worker from before that field
    /// could not read a set with a mode that it does not know, and would keep to the set before it; so it records always.
    pub fn as_told(&self) -> Option<Self> {
        match self.mode {
            // A camera that is off is on no server, or about to leave it.
            RecordingMode::Continuous | RecordingMode::Off => None,
            RecordingMode::Schedule => Some(Self { event: None, ..self.clone() }),
            RecordingMode::Event => {
                let event = Some(self.event.unwrap_or_default());
                Some(Self { mode: RecordingMode::Continuous, schedule: None, event })
            }
        }
    }
}

/// How much around an event is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EventRecording {
    /// So long before it, in milliseconds: the server holds that much of the camera in memory all the time.
    pub pre_ms: u32,
    /// So long after it, in milliseconds.
    pub post_ms: u32,
}

impl EventRecording {
    /// The most that may be wanted before an event, in milliseconds.
    pub const MAX_PRE_MS: u32 = 30_000;
    /// The most that may be wanted after an event, in milliseconds.
    pub const MAX_POST_MS: u32 = 600_000;
}

impl Default for EventRecording {
    /// 5 s before and 10 s after.
    fn default() -> Self {
        Self { pre_ms: 5_000, post_ms: 10_000 }
    }
}

impl From<RecordingMode> for Recording {
    /// In this mode, with nothing more said.
    fn from(mode: RecordingMode) -> Self {
        Self { mode, ..Self::default() }
    }
}

/// When a camera is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RecordingMode {
    /// Always.
    #[default]
    Continuous,
    /// Never; the camera takes no room on a server.
    Off,
    /// In the windows of a schedule; a server has it all the time.
    Schedule,
    /// Around events that somebody tells of; a server has it, and is connected to it, all the time.
    Event,
}

/// How long video is kept. `None`: without bound. What is older than both bounds of age say, or too much, goes oldest
/// first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Retention {
    /// Older video may go.
    pub max_days: Option<u32>,
    /// Above this the oldest video may go.
    pub max_bytes: Option<u64>,
    /// Younger video stays, whatever `max_bytes` says; only a volume that is full otherwise takes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_days: Option<u32>,
}

/// The label by which servers are apart: redundant copies go to different zones, and a camera that carries it goes to a
/// server of its zone, both if there is one with room.
pub const ZONE: &str = "zone";

/// The rank of a camera at failover. Ordered: `High` first.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// First.
    High,
    /// Then these.
    #[default]
    Medium,
    /// Then these.
    Low,
    /// Waits for its own server.
    Never,
}

/// Everything a server can be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServerSettings {
    /// For people.
    pub name: String,
    /// For people and placement.
    pub labels: Labels,
    /// How much it may hold.
    pub capacity: Capacity,
    /// Whether it takes over others' cameras.
    pub failover: Failover,
}

/// How much a server may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Capacity {
    /// Cameras.
    pub max_cameras: u32,
    /// Sum of the cameras' expected bitrates, in bits per second; `None`: not counted.
    pub max_bitrate_bps: Option<u64>,
}

impl Default for Capacity {
    /// 300 cameras: what the field designs a server for.
    fn default() -> Self {
        Self { max_cameras: 300, max_bitrate_bps: None }
    }
}

/// Whether a server takes over others' cameras.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Failover {
    /// May it at all.
    pub enabled: bool,
    /// Only while it holds fewer cameras than this.
    pub takeover_limit: u32,
}

impl Default for Failover {
    /// On, up to 128 cameras: the field's customary limit.
    fn default() -> Self {
        Self { enabled: true, takeover_limit: 128 }
    }
}
