//! Cameras with a schedule: recorded in its windows and at no other time, from the first moment of a window to its last.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::rig::{Rig, pictures};
use common::{Clip, ClipFrame, clip};
use longwatch_events::fact::{Cause, Codec};
use longwatch_events::schedule::{Days, Schedule, TimeOfDay, Window};
use longwatch_events::settings::{Recording, RecordingMode};
use longwatch_events::time::Timestamp;
use longwatch_worker::camera::{Break, CameraState};
use longwatch_worker::frame::Beside;
use longwatch_worker::source::{Failure, Received, Session, Source};
use longwatch_worker::wish::Wish;
use longwatch_worker::wish::events::Spans;

const H264: &[&str] = &["-c:v", "libx264", "-preset", "ultrafast", "-g", "25", "-bf", "0"];
const H264_B: &[&str] =
    &["-c:v", "libx264", "-preset", "veryfast", "-g", "25", "-bf", "3", "-flags", "+cgop"];
/// Frame of 25 a second.
const FRAME_MS: i64 = 40;

/// A whole second, by which schedules count.
fn start() -> Timestamp {
    "2026-11-23T08:00:00Z".parse().unwrap()
}

fn at(millis: i64) -> Timestamp {
    start().plus_millis(millis)
}

/// Wanted every day between so many seconds after the start.
fn between(windows: &[(u32, u32)]) -> Wish {
    let time = |seconds: u32| TimeOfDay::from_seconds(8 * 3_600 + seconds);
    let window = |(from, to): &(u32, u32)| Window { days: Days::ALL, from: time(*from), to: time(*to) };
    let weekly = windows.iter().map(window).collect();
    let schedule = Some(Box::new(Schedule { time_zone: "UTC".into(), weekly }));
    let told = Recording { mode: RecordingMode::Schedule, schedule, event: None };
    Wish::new(Some(&told), &Spans::default()).unwrap()
}

/// Plays one clip per session, and then stays connected; refuses where there is none.
struct Replay {
    clips: Vec<Option<Clip>>,
    opened: Arc<AtomicUsize>,
}

struct Playing(std::vec::IntoIter<Received>);

impl Source for Replay {
    type Session = Playing;

    async fn open(&self) -> Result<Playing, Failure> {
        let n = self.opened.fetch_add(1, Ordering::Relaxed);
        let Some(Some(clip)) = self.clips.get(n) else {
            return Err(Failure::new(Cause::Refused, "nobody is there"));
        };
        let frames = clip.frames.iter().cloned().map(|frame| match frame {
            ClipFrame::Video(frame) => Received::Video(frame),
            ClipFrame::Audio(frame) => Received::Beside(Beside::Audio(frame)),
        });
        let items: Vec<_> =
            std::iter::once(Received::Tracks(Arc::clone(&clip.tracks))).chain(frames).collect();
        Ok(Playing(items.into_iter()))
    }
}

impl Session for Playing {
    async fn next(&mut self) -> Result<Received, Failure> {
        match self.0.next() {
            Some(item) => Ok(item),
            None => std::future::pending().await,
        }
    }

    async fn close(self) {}
}

/// A camera, and how often it was connected.
struct Given {
    opened: Arc<AtomicUsize>,
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
    /// Records what plays, by a clock that stands at `now`.
    fn start(
        root: &Path,
        clips: Vec<Option<Clip>>,
        wish: Wish,
        now: Timestamp,
        resume: Option<Break>,
    ) -> Self {
        let opened = Arc::new(AtomicUsize::new(0));
        let source = Replay { clips, opened: Arc::clone(&opened) };
        Self { opened, camera: Rig::start(root, source, wish, now, resume) }
    }
}

/// The window is from 2.5 s to 5.5 s of what plays: the keyframe before it is at 2 s.
async fn records_its_window(encoder: &[&str], audio: bool, tolerance_ms: i64) {
    let folder = tempfile::tempdir().unwrap();
    let (root, begin) = (folder.path(), start().plus_millis(-500));
    let path = clip(root, "clip.mp4", 8, encoder, audio);
    // Given a camera that is connected shortly before its window, then nothing is told but that it is not wanted, …
    let clips = vec![Some(Clip::read(&path, Codec::H264, begin))];
    let mut given = Given::start(root, clips, between(&[(2, 5)]), start(), None);
    assert_eq!(given.interrupted().await, (start(), Cause::NotScheduled));
    // … and what is recorded begins with the keyframe before the window, and ends with the window.
    given.started().await;
    let first = given.begun().await;
    assert!((0..1_000 + tolerance_ms).contains(&at(2_000).millis_since(first)), "{first}");
    let stored = given.stored().await;
    assert_eq!(stored.start, first);
    let late_ms = stored.end.millis_since(at(5_000));
    assert!((0..FRAME_MS + tolerance_ms).contains(&late_ms), "{}", stored.end);
    assert_eq!(given.interrupted().await, (stored.end, Cause::NotScheduled));
    let expected = stored.end.millis_since(stored.start) / FRAME_MS;
    let missing = expected - i64::try_from(pictures(root, &stored)).unwrap();
    assert!(missing.abs() <= tolerance_ms / FRAME_MS, "{missing} of {expected} pictures");
    // Until its next window it is not connected, although the camera's clock is ahead of this one.
    assert_eq!(given.stats.state(), CameraState::Failing(Cause::NotScheduled));
    assert_eq!(given.opened.load(Ordering::Relaxed), 1);
    let end = stored.end;
    assert_eq!(given.camera.stop().await.open_break, Some(Break { end, cause: Cause::NotScheduled }));
}

#[tokio::test]
async fn a_window_is_recorded_from_the_keyframe_before_it_to_its_end() {
    records_its_window(H264, true, 0).await;
}

/// Pictures that are shown before the one that ends the window, and come after it, are not recorded.
#[tokio::test]
async fn pictures_in_another_order_do_not_blur_a_window() {
    records_its_window(H264_B, false, 4 * FRAME_MS).await;
}

#[tokio::test]
async fn a_camera_far_from_its_window_is_not_connected_until_it_is_wanted() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let path = clip(root, "clip.mp4", 3, H264, false);
    // Given a camera whose window begins in an hour, and that was recorded until a minute ago, …
    let before = Break { end: at(-60_000), cause: Cause::NotScheduled };
    let clips = vec![Some(Clip::read(&path, Codec::H264, start()))];
    let mut given = Given::start(root, clips, between(&[(3_600, 7_200)]), start(), Some(before));
    let (told_at, cause) = given.interrupted().await;
    assert_eq!((told_at, cause, given.opened.load(Ordering::Relaxed)), (start(), Cause::NotScheduled, 0));
    // … when it is to be recorded always from now on, then it is, at once, and the gap has its cause.
    given.wish.send_replace(Wish::Always);
    assert_eq!(given.gap().await, (before.end, start(), Cause::NotScheduled));
    given.started().await;
    assert_eq!(given.begun().await, start());
    assert_eq!(given.camera.stop().await.open_break.unwrap().cause, Cause::WorkerStopped);
}

#[tokio::test]
async fn a_change_to_a_schedule_that_is_on_costs_no_picture_until_its_window_ends() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let path = clip(root, "clip.mp4", 6, H264, false);
    let clip = Clip::read(&path, Codec::H264, start());
    let mut given = Given::start(root, vec![Some(clip.clone())], Wish::Always, start(), None);
    given.wish.send_replace(between(&[(0, 3)]));
    given.started().await;
    assert_eq!(given.begun().await, start());
    let stored = given.stored().await;
    assert_eq!((stored.start, stored.end), (start(), at(3_000)));
    assert_eq!(pictures(root, &stored), 75, "all three seconds");
    assert_eq!(given.interrupted().await, (at(3_000), Cause::NotScheduled));
    given.camera.stop().await;
}

#[tokio::test]
async fn a_camera_that_is_not_there_is_missed_in_its_windows_only() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let path = clip(root, "clip.mp4", 3, H264, false);
    // Given a camera that cannot be reached shortly before its window, then nobody is told, …
    let before = Break { end: at(-600_000), cause: Cause::NotScheduled };
    let clips = vec![None, None, Some(Clip::read(&path, Codec::H264, at(20_000)))];
    let mut given = Given::start(root, clips, between(&[(2, 60)]), start(), Some(before));
    assert_eq!(given.interrupted().await, (start(), Cause::NotScheduled));
    let opened = Arc::clone(&given.opened);
    let tried = async {
        while opened.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), tried).await.unwrap();
    assert_eq!(given.stats.state(), CameraState::Failing(Cause::NotScheduled));
    // … when it is still not there in its window, then that is told, and its gap has two causes.
    given.clock.advance_millis(10_000);
    assert_eq!(given.interrupted().await, (at(10_000), Cause::Refused));
    given.started().await;
    assert_eq!(given.begun().await, at(20_000));
    assert_eq!(given.gap().await, (before.end, at(2_000), Cause::NotScheduled));
    assert_eq!(given.gap().await, (at(2_000), at(20_000), Cause::Refused));
    given.camera.stop().await;
}
