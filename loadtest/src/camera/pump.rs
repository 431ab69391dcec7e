//! Sends every frame that is due to every client of its camera.
//!
//! One task for all cameras: it wakes on a coarse tick, takes what is due off a heap, builds each frame's packets
//! once in a reused buffer and writes them to each client with one call. Only cameras with clients are in the heap;
//! a camera that gets its first client joins where its clock stands. Each camera in the map has exactly one entry in
//! the heap, and is removed only when that entry comes up and nobody watches any more.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use longwatch_events::time::Clock;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::camera::feed::{Feed, Kind, Start};
use crate::camera::message::Channels;
use crate::camera::outbox::{Error, Outbox};

/// Frames are sent up to this much late. Sets how many wake-ups a second all cameras cost together.
const TICK: Duration = Duration::from_millis(5);
/// Between two sender reports.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);
/// Seconds from 1900 (NTP) to 1970.
const NTP_OFFSET_S: u64 = 2_208_988_800;

/// Where a new client joins a running camera.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Join {
    /// At the next keyframe, as most cameras do.
    #[default]
    Keyframe,
    /// At the next frame, whatever it is.
    NextFrame,
}

/// One client that plays one camera.
#[derive(Debug)]
pub struct Player {
    /// Where its packets go.
    pub outbox: Arc<Outbox>,
    /// Its channels for video, if it set video up.
    pub video: Option<Channels>,
    /// Its channels for audio, if it set audio up.
    pub audio: Option<Channels>,
    /// Its channels for metadata, if it set metadata up.
    pub metadata: Option<Channels>,
    /// How long after PLAY packets are sent; zero: none at all.
    pub play_for: Option<Duration>,
    /// Then the connection is closed in the middle of a packet.
    pub cut: bool,
}

/// What PLAY answers: where each track that was set up starts.
#[derive(Debug, Clone, Copy, Default)]
pub struct Starts {
    /// Video.
    pub video: Option<Start>,
    /// Audio.
    pub audio: Option<Start>,
    /// Metadata.
    pub metadata: Option<Start>,
}

/// Numbers of what was done since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Totals {
    /// Plays begun.
    pub plays: u64,
    /// Frames of video sent, counted per client.
    pub frames: u64,
    /// Clients dropped because they were too slow.
    pub too_slow: u64,
}

#[derive(Debug, Default)]
struct Counters {
    plays: AtomicU64,
    frames: AtomicU64,
    too_slow: AtomicU64,
}

/// The pump. Shared by all connections.
pub struct Pump {
    started: Instant,
    clock: Box<dyn Clock>,
    join: Join,
    state: Mutex<State>,
    work: Notify,
    counters: Counters,
}

#[derive(Default)]
struct State {
    cameras: BTreeMap<u32, Active>,
    /// When each camera's next frame is due.
    due: BinaryHeap<Reverse<(Duration, u32)>>,
    next_player: u64,
    scratch: Scratch,
}

struct Active {
    feed: Arc<Feed>,
    next_frame: u64,
    next_audio: u64,
    next_document: u64,
    players: Vec<Playing>,
}

struct Playing {
    id: u64,
    player: Player,
    first_frame: u64,
    until: Duration,
    next_report: Duration,
    /// What is held back, and when it is sent.
    held: Vec<u8>,
    flush_at: Duration,
}

/// Packets of the frame that is being sent: video, then audio, then metadata.
#[derive(Default)]
struct Scratch {
    bytes: Vec<u8>,
    /// Where the video ends.
    video_len: usize,
    /// Where the audio ends.
    audio_end: usize,
    video_channels: Vec<usize>,
    audio_channels: Vec<usize>,
    metadata_channels: Vec<usize>,
}

impl Pump {
    /// A pump whose cameras' time starts now.
    pub fn new(clock: Box<dyn Clock>, join: Join) -> Self {
        Self {
            started: Instant::now(),
            clock,
            join,
            state: Mutex::default(),
            work: Notify::new(),
            counters: Counters::default(),
        }
    }

    /// Adds a client to a camera. `respond` writes the response to PLAY, which must precede the first packet.
    ///
    /// Returns the number under which [`Pump::leave`] takes it off again.
    ///
    /// # Errors
    /// Those of `respond`; then nothing was added.
    pub fn play(
        &self,
        feed: &Arc<Feed>,
        player: Player,
        respond: impl FnOnce(Starts) -> Result<(), Error>,
    ) -> Result<u64, Error> {
        let mut guard = self.state();
        let state = &mut *guard;
        let now = self.started.elapsed();
        let next_frame = match state.cameras.get(&feed.number()) {
            Some(active) => active.next_frame,
            None => feed.first_after(now),
        };
        let first_frame = match self.join {
            Join::Keyframe => feed.keyframe_from(next_frame),
            Join::NextFrame => next_frame,
        };
        respond(Starts {
            video: player.video.and_then(|_| feed.start(Kind::Video, first_frame)),
            audio: player.audio.and_then(|_| feed.start(Kind::Audio, first_frame)),
            metadata: player.metadata.and_then(|_| feed.start(Kind::Metadata, first_frame)),
        })?;
        let id = state.next_player;
        state.next_player += 1;
        let active = state.cameras.entry(feed.number()).or_insert_with(|| {
            state.due.push(Reverse((feed.due(next_frame), feed.number())));
            let first = |kind| feed.first_beside_after(kind, feed.due(next_frame));
            let (next_audio, next_document) = (first(Kind::Audio), first(Kind::Metadata));
            Active { feed: Arc::clone(feed), next_frame, next_audio, next_document, players: Vec::new() }
        });
        let until = match player.play_for {
            None => Duration::MAX,
            Some(Duration::ZERO) => Duration::ZERO,
            Some(limit) => now + limit,
        };
        active.players.push(Playing {
            id,
            player,
            first_frame,
            until,
            next_report: now,
            held: Vec::new(),
            flush_at: now,
        });
        self.counters.plays.fetch_add(1, Ordering::Relaxed);
        self.work.notify_one();
        Ok(id)
    }

    /// Takes a client off a camera. Without effect if it is gone already.
    pub fn leave(&self, camera: u32, id: u64) {
        if let Some(active) = self.state().cameras.get_mut(&camera) {
            active.players.retain(|playing| playing.id != id);
        }
    }

    /// Sends for ever. Cancel by dropping.
    pub async fn run(&self) {
        loop {
            let next = self.state().due.peek().map(|Reverse((due, _))| *due);
            match next {
                None => self.work.notified().await,
                Some(due) => {
                    // At the next whole tick, so that frames due close together are sent in one go.
                    let ticks = due.as_nanos().div_ceil(TICK.as_nanos());
                    let at = TICK.saturating_mul(u32::try_from(ticks).unwrap_or(u32::MAX));
                    // A camera that joins meanwhile may be due earlier: then look again.
                    tokio::select! {
                        () = tokio::time::sleep_until(self.started + at) => self.send_due(),
                        () = self.work.notified() => {}
                    }
                }
            }
        }
    }

    /// Sends everything that is due by now.
    fn send_due(&self) {
        let now = self.started.elapsed();
        let ntp = ntp(self.clock.as_ref());
        let mut guard = self.state();
        let state = &mut *guard;
        while let Some(Reverse((due, number))) = state.due.peek().copied().filter(|entry| entry.0.0 <= now) {
            state.due.pop();
            let Some(active) = state.cameras.get_mut(&number) else { continue };
            if active.players.is_empty() {
                state.cameras.remove(&number);
                continue;
            }
            active.build(due, &mut state.scratch);
            active.deliver(due, now, ntp, &mut state.scratch, &self.counters);
            active.next_frame += 1;
            state.due.push(Reverse((active.feed.due(active.next_frame), number)));
        }
    }

    /// What was done so far.
    pub fn totals(&self) -> Totals {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        Totals {
            plays: read(&counters.plays),
            frames: read(&counters.frames),
            too_slow: read(&counters.too_slow),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Active {
    /// Builds the packets of the next frame, and of what accompanies it and is due by then.
    fn build(&mut self, due: Duration, scratch: &mut Scratch) {
        scratch.bytes.clear();
        scratch.video_channels.clear();
        scratch.audio_channels.clear();
        scratch.metadata_channels.clear();
        self.feed.write_video(self.next_frame, &mut scratch.bytes, &mut scratch.video_channels);
        scratch.video_len = scratch.bytes.len();
        let (bytes, feed) = (&mut scratch.bytes, &self.feed);
        while feed.due_beside(Kind::Audio, self.next_audio) <= due {
            feed.write_beside(Kind::Audio, self.next_audio, bytes, &mut scratch.audio_channels);
            self.next_audio += 1;
        }
        scratch.audio_end = bytes.len();
        while feed.due_beside(Kind::Metadata, self.next_document) <= due {
            feed.write_beside(Kind::Metadata, self.next_document, bytes, &mut scratch.metadata_channels);
            self.next_document += 1;
        }
    }

    fn deliver(
        &mut self,
        due: Duration,
        now: Duration,
        ntp: u64,
        scratch: &mut Scratch,
        counters: &Counters,
    ) {
        let (feed, frame) = (&self.feed, self.next_frame);
        self.players.retain_mut(|playing| {
            if frame < playing.first_frame || due >= playing.until {
                if playing.player.cut && due >= playing.until {
                    playing.cut(scratch);
                }
                return !playing.player.outbox.closed().is_cancelled();
            }
            counters.frames.fetch_add(1, Ordering::Relaxed);
            let sent = playing.send(feed, frame, now, ntp, scratch);
            if let Err(error @ Error::TooSlow) = &sent {
                counters.too_slow.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(camera = feed.number(), frame, %error, "client dropped");
            }
            sent.is_ok()
        });
    }
}

impl Playing {
    /// Sends half a frame and hangs up.
    fn cut(&self, scratch: &Scratch) {
        let _gone = self.player.outbox.send(&scratch.bytes[..scratch.video_len / 2]);
        self.player.outbox.closed().cancel();
    }

    /// Sends, or holds back what a camera that sends in bursts does not send yet.
    fn put(&mut self, bytes: &[u8], now: Duration, burst: Option<Duration>) -> Result<(), Error> {
        let Some(burst) = burst else { return self.player.outbox.send(bytes) };
        self.held.extend_from_slice(bytes);
        if now < self.flush_at {
            return Ok(());
        }
        self.flush_at = now + burst;
        self.player.outbox.send(&std::mem::take(&mut self.held))
    }

    fn send(
        &mut self,
        feed: &Feed,
        frame: u64,
        now: Duration,
        ntp: u64,
        scratch: &mut Scratch,
    ) -> Result<(), Error> {
        let Player { video, audio, metadata, .. } = self.player;
        let tracks = [(Kind::Video, video), (Kind::Audio, audio), (Kind::Metadata, metadata)];
        if now >= self.next_report {
            self.next_report = now + REPORT_INTERVAL;
            for (kind, channels) in tracks {
                let report = channels.and_then(|to| feed.sender_report(kind, to.rtcp, now, ntp));
                if let Some(report) = report {
                    self.put(&report, now, feed.traits().burst)?;
                }
            }
        }
        let mut set = |places: &[usize], channels: Option<Channels>| {
            if let Some(channels) = channels {
                for &at in places {
                    scratch.bytes[at] = channels.rtp;
                }
            }
        };
        set(&scratch.video_channels, video);
        set(&scratch.audio_channels, audio);
        set(&scratch.metadata_channels, metadata);
        // The first picture comes before all else: RTP-Info said so.
        let later = frame > self.first_frame;
        let (video_end, audio_end) = (scratch.video_len, scratch.audio_end);
        let parts = [
            (0..video_end, video.is_some()),
            (video_end..audio_end, audio.is_some() && later),
            (audio_end..scratch.bytes.len(), metadata.is_some() && later),
        ];
        let mut run = 0..0;
        for (part, _) in parts.into_iter().filter(|(_, wanted)| *wanted) {
            if run.end == part.start {
                run.end = part.end;
                continue;
            }
            let before = std::mem::replace(&mut run, part);
            self.put_some(&scratch.bytes[before], now, feed)?;
        }
        self.put_some(&scratch.bytes[run], now, feed)
    }

    fn put_some(&mut self, bytes: &[u8], now: Duration, feed: &Feed) -> Result<(), Error> {
        if bytes.is_empty() { Ok(()) } else { self.put(bytes, now, feed.traits().burst) }
    }
}

/// The wall clock as an NTP timestamp: seconds since 1900 and their fraction in 32 bits each (RFC 5905, 6).
fn ntp(clock: &dyn Clock) -> u64 {
    let micros = u64::try_from(clock.now().as_micros()).unwrap_or(0);
    let fraction = ((micros % 1_000_000) << 32) / 1_000_000;
    (micros / 1_000_000 + NTP_OFFSET_S) << 32 | fraction
}

#[cfg(test)]
mod tests {
    use super::*;
    use longwatch_events::time::{ManualClock, Timestamp};

    #[test]
    fn the_wall_clock_is_given_as_ntp() {
        let clock = ManualClock::starting_at(Timestamp::from_millis(1_500));
        assert_eq!(ntp(&clock), (NTP_OFFSET_S + 1) << 32 | 1 << 31);
    }
}
