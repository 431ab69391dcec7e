//! A camera's settings as State keeps them, a million times: what decisions look at lies open, what is only shown or
//! handed on is packed into one block.
//!
//! Invariant: nothing is lost. `KeptSettings::from(&told).told() == told`, and both are the same JSON.

use std::fmt;

use postcard::ser_flavors::Size;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::id::{EventId, ServerId};
use crate::labels::{Labels, Pairs};
use crate::schedule::{Days, Schedule, TimeOfDay, Window};
use crate::sealed::{Base64Bytes, Sealed};
use crate::settings::{
    CameraSettings, EventRecording, Priority, Recording, RecordingMode, Retention, Source, Transport,
    wanted_copies, wanted_live_latency_ms,
};

/// [`CameraSettings`], in half the memory.
#[derive(Clone, PartialEq, Eq)]
pub struct KeptSettings {
    /// When it is recorded.
    pub mode: RecordingMode,
    /// In which order cameras find a new server when theirs is lost.
    pub failover_priority: Priority,
    /// The server that should record it, if that has room.
    pub preferred_server_id: Option<ServerId>,
    /// On how many servers at once; see [`Self::wanted_copies`].
    pub copies: u8,
    /// What the camera is expected to send, in bits per second.
    pub expected_bitrate_bps: Option<u64>,
    /// See [`CameraSettings::single_session`].
    pub single_session: bool,
    /// Never empty.
    server_labels: Option<Box<Labels>>,
    /// [`Packed`], and behind it, if there is anything to say, [`PackedRecording`].
    packed: Box<[u8]>,
}

/// What no decision looks at often; as bytes in the format of postcard (<https://postcard.jamesmunns.com/wire-format>),
/// out of which it is read without being copied.
#[derive(Serialize, Deserialize)]
struct Packed<'a> {
    name: &'a str,
    labels: &'a str,
    url: &'a str,
    sealed_in: EventId,
    #[serde(serialize_with = "at_once")]
    secret: &'a [u8],
    transport: Transport,
    retention: PackedRetention,
    live_latency_ms: Option<u16>,
}

/// What most cameras have nothing of; it takes no room then.
#[derive(Serialize, Deserialize)]
struct PackedRecording<'a> {
    #[serde(borrow)]
    schedule: Option<PackedSchedule<'a>>,
    /// How long before an event and after it, in milliseconds.
    event: Option<(u32, u32)>,
}

/// The time zone, and of each window the days and the seconds of the day.
#[derive(Serialize, Deserialize)]
struct PackedSchedule<'a>(&'a str, Vec<(u8, u32, u32)>);

impl<'a> From<&'a Schedule> for PackedSchedule<'a> {
    fn from(told: &'a Schedule) -> Self {
        let packed = |window: &Window| (window.days.bits(), window.from.seconds(), window.to.seconds());
        Self(&told.time_zone, told.weekly.iter().map(packed).collect())
    }
}

impl From<PackedSchedule<'_>> for Schedule {
    fn from(PackedSchedule(time_zone, weekly): PackedSchedule<'_>) -> Self {
        let window = |(days, from, to)| Window {
            days: Days::from_bits(days),
            from: TimeOfDay::from_seconds(from),
            to: TimeOfDay::from_seconds(to),
        };
        Self { time_zone: time_zone.to_owned(), weekly: weekly.into_iter().map(window).collect() }
    }
}

/// [`Retention`] leaves fields out as JSON, which this format cannot.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct PackedRetention(Option<u32>, Option<u64>, Option<u32>);

impl From<Retention> for PackedRetention {
    fn from(told: Retention) -> Self {
        Self(told.max_days, told.max_bytes, told.min_days)
    }
}

impl From<PackedRetention> for Retention {
    fn from(PackedRetention(max_days, max_bytes, min_days): PackedRetention) -> Self {
        Self { max_days, max_bytes, min_days }
    }
}

/// As serde would by itself, but not byte by byte.
fn at_once<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(bytes)
}

const PACKED: &str = "invariant: it was packed by `From<&CameraSettings>`";
const WRITTEN: &str = "invariant: it is texts, bytes and numbers, and there is room for them";

impl KeptSettings {
    /// All of them, as they were told.
    pub fn told(&self) -> CameraSettings {
        let packed = self.packed();
        CameraSettings {
            name: packed.name.to_owned(),
            labels: Pairs::of_text(packed.labels).into(),
            source: packed.source(),
            recording: self.recording(),
            retention: packed.retention.into(),
            failover_priority: self.failover_priority,
            preferred_server_id: self.preferred_server_id,
            copies: self.copies,
            expected_bitrate_bps: self.expected_bitrate_bps,
            server_labels: self.server_labels().cloned().unwrap_or_default(),
            single_session: self.single_session,
            live_latency_ms: packed.live_latency_ms,
        }
    }

    /// For people; need not be unique.
    pub fn name(&self) -> &str {
        self.first()
    }

    /// For people and placement.
    pub fn labels(&self) -> Pairs<'_> {
        // Placement asks a million cameras for these; they stand second, and the rest need not be read.
        let (_name, labels): (&str, &str) = self.first();
        Pairs::of_text(labels)
    }

    /// Where the video comes from.
    pub fn source(&self) -> Source {
        self.packed().source()
    }

    /// The sealed part of that.
    pub fn secret(&self) -> Sealed {
        self.packed().secret()
    }

    /// How long video is kept.
    pub fn retention(&self) -> Retention {
        self.packed().retention.into()
    }

    /// Whether and how it is recorded.
    pub fn recording(&self) -> Recording {
        let (_, behind) = self.split::<Packed<'_>>();
        let plain = Recording::from(self.mode);
        if behind.is_empty() {
            return plain;
        }
        let packed: PackedRecording<'_> = postcard::from_bytes(behind).expect(PACKED);
        Recording {
            schedule: packed.schedule.map(|schedule| Box::new(schedule.into())),
            event: packed.event.map(|(pre_ms, post_ms)| EventRecording { pre_ms, post_ms }),
            ..plain
        }
    }

    /// Only servers that carry all of these labels may record it; `None`: it asks for none.
    pub fn server_labels(&self) -> Option<&Labels> {
        self.server_labels.as_deref()
    }

    /// See [`CameraSettings::wanted_copies`].
    pub const fn wanted_copies(&self) -> u8 {
        wanted_copies(self.copies)
    }

    /// See [`CameraSettings::wanted_live_latency_ms`].
    pub fn wanted_live_latency_ms(&self) -> u16 {
        wanted_live_latency_ms(self.packed().live_latency_ms)
    }

    fn packed(&self) -> Packed<'_> {
        self.first()
    }

    /// The first fields, as many as `T` has: in this format a tuple and a struct are their fields one after the other.
    fn first<'a, T: Deserialize<'a>>(&'a self) -> T {
        self.split().0
    }

    /// The first fields, and the bytes behind them.
    fn split<'a, T: Deserialize<'a>>(&'a self) -> (T, &'a [u8]) {
        postcard::take_from_bytes(&self.packed).expect(PACKED)
    }
}

impl Packed<'_> {
    /// Allocated once and at its length: an allocation that grows or shrinks leaves a hole behind each of a million.
    fn bytes(&self, recording: Option<&PackedRecording<'_>>) -> Box<[u8]> {
        let behind = recording.map_or(0, measured);
        let mut bytes = vec![0; measured(self) + behind].into_boxed_slice();
        let written = postcard::to_slice(self, &mut bytes).expect(WRITTEN).len();
        if let Some(recording) = recording {
            postcard::to_slice(recording, &mut bytes[written..]).expect(WRITTEN);
        }
        bytes
    }

    fn source(&self) -> Source {
        Source { url: self.url.to_owned(), secret: self.secret(), transport: self.transport }
    }

    fn secret(&self) -> Sealed {
        Sealed { sealed_in: self.sealed_in, bytes: Base64Bytes(self.secret.to_vec()) }
    }
}

fn measured(what: &impl Serialize) -> usize {
    postcard::serialize_with_flavor(what, Size::default()).expect(WRITTEN)
}

impl From<&CameraSettings> for KeptSettings {
    fn from(told: &CameraSettings) -> Self {
        let Recording { mode, schedule, event } = &told.recording;
        let recording = (schedule.is_some() || event.is_some()).then(|| PackedRecording {
            schedule: schedule.as_deref().map(Into::into),
            event: event.map(|EventRecording { pre_ms, post_ms }| (pre_ms, post_ms)),
        });
        let packed = Packed {
            name: &told.name,
            labels: told.labels.as_text(),
            url: &told.source.url,
            sealed_in: told.source.secret.sealed_in,
            secret: &told.source.secret.bytes.0,
            transport: told.source.transport,
            retention: told.retention.into(),
            live_latency_ms: told.live_latency_ms,
        };
        let asks = !told.server_labels.is_empty();
        Self {
            mode: *mode,
            failover_priority: told.failover_priority,
            preferred_server_id: told.preferred_server_id,
            copies: told.copies,
            expected_bitrate_bps: told.expected_bitrate_bps,
            single_session: told.single_session,
            server_labels: asks.then(|| Box::new(told.server_labels.clone())),
            packed: packed.bytes(recording.as_ref()),
        }
    }
}

impl fmt::Debug for KeptSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.told().fmt(f)
    }
}

impl Serialize for KeptSettings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.told().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for KeptSettings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        CameraSettings::deserialize(deserializer).map(|told| Self::from(&told))
    }
}
