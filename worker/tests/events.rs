//! Cameras that are recorded around events: connected all the time, on the disk only what an event wants.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::rig::{self, Rig};
use common::{Clip, ClipFrame, clip};
use longwatch_events::fact::{Cause, Codec, SegmentStored};
use longwatch_events::settings::{EventRecording, Recording};
use longwatch_events::time::Timestamp;
use longwatch_worker::camera::{Break, CameraState};
use longwatch_worker::source::{Failure, Received, Session, Source};
use longwatch_worker::wish::Wish;
use longwatch_worker::wish::events::{Span, Spans};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

/// A keyframe a second, at 25 pictures a second.
const H264: &[&str] = &["-c:v", "libx264", "-preset", "ultrafast", "-g", "25", "-bf", "0"];
const FRAME_MS: i64 = 40;

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(1_795_420_800_000 + millis)
}

/// Two seconds before each event.
fn around(spans: &[(i64, i64, i64)]) -> Wish {
    let span =
        |(from, event, until): &(i64, i64, i64)| Span { from: at(*from), at: at(*event), until: at(*until) };
    let spans: Spans = spans.iter().map(span).collect();
    let event = Some(EventRecording { pre_ms: 2_000, post_ms: 1_000 });
    Wish::new(Some(&Recording { event, ..Recording::default() }), &spans).unwrap()
}

/// A camera that sends what the test gives it, each time it is connected.
struct Fed(Mutex<std::vec::IntoIter<UnboundedReceiver<Result<Received, Failure>>>>);

struct Playing(UnboundedReceiver<Result<Received, Failure>>);

impl Source for Fed {
    type Session = Playing;

    async fn open(&self) -> Result<Playing, Failure> {
        let next = self.0.lock().unwrap().next();
        next.map(Playing).ok_or_else(|| Failure::new(Cause::Refused, "nobody is there"))
    }
}

impl Session for Playing {
    async fn next(&mut self) -> Result<Received, Failure> {
        match self.0.recv().await {
            Some(received) => received,
            None => std::future::pending().await,
        }
    }

    async fn close(self) {}
}

struct Given {
    clip: Clip,
    sessions: Vec<UnboundedSender<Result<Received, Failure>>>,
    camera: Rig,
}

impl Deref for Given {
    type Target = Rig;

    fn deref(&self) -> &Rig {
        &self.camera
    }
}

impl DerefMut for Given {
    fn deref_mut(&mut self) -> &mut Rig {
        &mut self.camera
    }
}

impl Given {
    /// A camera that waits for events, with a clip of so many seconds, that is connected so often.
    fn start(root: &Path, seconds: u32, sessions: usize, resume: Option<Break>) -> Self {
        let path = clip(root, "clip.mp4", seconds, H264, false);
        let clip = Clip::read(&path, Codec::H264, at(0));
        std::fs::remove_file(path).unwrap();
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..sessions).map(|_| mpsc::unbounded_channel()).unzip();
        for session in &senders {
            session.send(Ok(Received::Tracks(Arc::clone(&clip.tracks)))).unwrap();
        }
        let source = Fed(Mutex::new(receivers.into_iter()));
        let camera = Rig::start(root, source, around(&[]), at(0), resume);
        Self { clip, sessions: senders, camera }
    }

    /// Sends the pictures from one moment up to another one, and waits until they are taken.
    async fn play(&self, session: usize, from_ms: i64, to_ms: i64) {
        let mut sent = 0;
        let before = self.stats.frames();
        for frame in self.clip.frames.iter().filter_map(|frame| match frame {
            ClipFrame::Video(frame) if (at(from_ms)..at(to_ms)).contains(&frame.arrival.at) => Some(frame),
            ClipFrame::Video(_) | ClipFrame::Audio(_) => None,
        }) {
            self.sessions[session].send(Ok(Received::Video(frame.clone()))).unwrap();
            sent += 1;
        }
        let taken = async {
            while self.stats.frames() < before + sent {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), taken).await.unwrap();
    }
}

/// How many pictures a segment has.
fn pictures(root: &Path, stored: &SegmentStored) -> i64 {
    i64::try_from(rig::pictures(root, stored)).unwrap()
}

fn files(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { files(&path) } else { 1 }).sum()
}

#[tokio::test]
async fn nothing_is_on_the_disk_but_what_events_want_and_that_whole() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let mut given = Given::start(root, 20, 1, None);
    // Given a camera at which nothing happens, then it is told to wait, and there is no file.
    given.play(0, 0, 6_000).await;
    given.started().await;
    assert_eq!(given.interrupted().await, (at(0), Cause::NoEvent));
    assert_eq!((given.stats.state(), files(root)), (CameraState::Failing(Cause::NoEvent), 0));
    // When something happens, then it is recorded from the keyframe before what is wanted on, ...
    given.wish.send_replace(around(&[(3_500, 5_500, 6_500)]));
    given.play(0, 6_000, 6_400).await;
    assert_eq!(given.begun().await, at(3_000));
    assert_eq!(given.gap().await, (at(0), at(3_000), Cause::NoEvent));
    // ... what else happens goes on in the same segment, also if the first one was over, ...
    given.wish.send_replace(around(&[(3_500, 5_500, 6_500), (4_800, 6_300, 7_300)]));
    given.play(0, 6_400, 7_900).await;
    assert_eq!(given.interrupted().await, (at(7_320), Cause::NoEvent), "all of it is durable");
    given.wish.send_replace(around(&[(3_500, 5_500, 7_300), (7_900, 7_900, 8_500)]));
    given.play(0, 7_900, 8_000).await;
    assert_eq!(given.begun().await, at(3_000), "it goes on");
    // ... and it ends with the last one.
    given.play(0, 8_000, 9_000).await;
    assert_eq!(given.interrupted().await, (at(8_520), Cause::NoEvent));
    given.play(0, 9_000, 20_000).await;
    let stored = given.stored().await;
    assert_eq!((stored.start, stored.end), (at(3_000), at(8_520)));
    assert_eq!(pictures(root, &stored), (8_520 - 3_000) / FRAME_MS, "every one of them");
    let end = stored.end;
    assert_eq!(given.camera.stop().await.open_break, Some(Break { end, cause: Cause::NoEvent }));
    assert_eq!(files(root), 1);
}

#[tokio::test]
async fn a_camera_that_is_away_is_told_and_missed_only_around_events() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let before = Break { end: at(-60_000), cause: Cause::NoEvent };
    let mut given = Given::start(root, 20, 2, Some(before));
    given.play(0, 0, 1_000).await;
    given.started().await;
    assert_eq!(given.interrupted().await, (at(0), Cause::NoEvent));
    // Given a camera that goes away while nothing happens, then that is told: it should be there.
    given.clock.advance_millis(1_000);
    given.sessions[0].send(Err(Failure::new(Cause::Closed, "it goes away"))).unwrap();
    assert_eq!(given.interrupted().await, (at(1_000), Cause::Closed));
    // When something happens before it is back, then that is missing, and nothing else is.
    given.wish.send_replace(around(&[(1_500, 3_500, 4_500)]));
    given.clock.advance_millis(9_000);
    given.play(1, 10_000, 11_000).await;
    given.started().await;
    assert_eq!(given.gap().await, (before.end, at(3_500), Cause::NoEvent));
    assert_eq!(given.gap().await, (at(3_500), at(4_500), Cause::Closed));
    assert_eq!(given.gap().await, (at(4_500), at(10_000), Cause::NoEvent));
    assert_eq!(given.interrupted().await, (at(10_000), Cause::NoEvent));
    assert_eq!(given.camera.stop().await.open_break, Some(Break { end: at(10_000), cause: Cause::NoEvent }));
}

#[tokio::test]
async fn an_event_that_is_on_when_the_worker_begins_is_recorded_on() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let killed = Break { end: at(-3_000), cause: Cause::WorkerRestarted };
    let mut given = Given::start(root, 10, 1, Some(killed));
    given.wish.send_replace(around(&[(-8_000, -6_000, 4_000)]));
    given.play(0, 0, 5_000).await;
    given.started().await;
    assert_eq!(given.begun().await, at(0));
    assert_eq!(given.gap().await, (at(-3_000), at(0), Cause::WorkerRestarted));
    assert_eq!(given.interrupted().await, (at(4_000), Cause::NoEvent));
    given.play(0, 5_000, 10_000).await;
    assert_eq!(given.stored().await.end, at(4_000));
    given.camera.stop().await;
}

#[tokio::test]
async fn what_is_held_goes_on_into_a_recording_that_is_always_wanted() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let mut given = Given::start(root, 10, 1, None);
    given.clock.advance_millis(3_500);
    given.play(0, 0, 3_500).await;
    given.started().await;
    assert_eq!(given.interrupted().await, (at(3_500), Cause::NoEvent));
    given.wish.send_replace(Wish::Always);
    given.play(0, 3_500, 6_000).await;
    assert_eq!(given.begun().await, at(0), "all that was held");
    let stopped = given.camera.stop().await;
    assert_eq!(stopped.open_break, Some(Break { end: at(6_000), cause: Cause::WorkerStopped }));
}
