//! Trouble while recording: disks that hang or are slow, cameras that pause, recordings that are cut off.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::{Clip, clip, probe};
use longwatch_events::fact::{Cause, Codec, Fact, SegmentStored};
use longwatch_events::hash::Sha256;
use longwatch_events::id::{CameraId, ServerId, SystemIds, TenantId};
use longwatch_events::position::Epoch;
use longwatch_events::time::{Clock as _, SystemClock, Timestamp};
use longwatch_worker::archive::Archive;
use longwatch_worker::camera::{
    self, CameraState, CameraTask, DISK_STALL, Hold, Identity, Settings, Stats, Stopped,
};
use longwatch_worker::dials::Dials;
use longwatch_worker::frame::{Arrival, VideoFrame};
use longwatch_worker::lease::{Lease, MARGIN_LEAST, SETTLE};
use longwatch_worker::rotation::Lengths;
use longwatch_worker::source::{Failure, Received, Session, Source};
use longwatch_worker::tick::Ticker;
use longwatch_worker::uptime::since_boot;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const START: Timestamp = Timestamp::from_micros(1_795_420_800_123_456);
const H264: &[&str] = &["-c:v", "libx264", "-preset", "ultrafast", "-g", "25", "-bf", "0"];

/// What a test feeds a camera: something received, or a bug in whoever receives.
enum Item {
    Received(Received),
    Bug,
}

/// Plays what a test feeds it, in one session.
struct Fed {
    items: tokio::sync::Mutex<UnboundedReceiver<Item>>,
    opened: Arc<Notify>,
}
struct Feeding(UnboundedReceiver<Item>);

impl Source for Fed {
    type Session = Feeding;

    async fn open(&self) -> Result<Feeding, Failure> {
        let (_, empty) = mpsc::unbounded_channel();
        let items = std::mem::replace(&mut *self.items.lock().await, empty);
        self.opened.notify_one();
        Ok(Feeding(items))
    }
}

impl Session for Feeding {
    async fn next(&mut self) -> Result<Received, Failure> {
        match self.0.recv().await {
            Some(Item::Received(received)) => Ok(received),
            Some(Item::Bug) => panic!("a bug, as the test asked for"),
            None => Err(Failure::new(Cause::Closed, "fed up")),
        }
    }

    async fn close(self) {}
}

/// A camera that is being recorded.
struct Rig {
    feed: UnboundedSender<Item>,
    opened: Arc<Notify>,
    facts: UnboundedReceiver<Fact>,
    stats: Arc<Stats>,
    cancel: CancellationToken,
    task: JoinHandle<Stopped>,
}

impl Rig {
    fn start(archive: Archive, max_held_bytes: usize) -> Self {
        Self::start_while(Hold::always(), archive, max_held_bytes)
    }

    /// Recorded only while `hold` lasts.
    fn start_while(hold: Hold, archive: Archive, max_held_bytes: usize) -> Self {
        let (feed, fed) = mpsc::unbounded_channel();
        let opened = Arc::new(Notify::new());
        let (facts_in, facts) = mpsc::unbounded_channel();
        let (stats, cancel) = (Arc::new(Stats::default()), CancellationToken::new());
        let lengths = Lengths { segment_ms: 600_000, fragment_ms: 500, ..Lengths::default() };
        let task = tokio::spawn(camera::run(CameraTask {
            identity: Identity {
                tenant_id: TenantId::DEFAULT,
                camera_id: CameraId::generate(&SystemIds),
                epoch: Epoch(7),
                server_id: ServerId::generate(&SystemIds),
            },
            source: Fed { items: tokio::sync::Mutex::new(fed), opened: Arc::clone(&opened) },
            settings: Settings { lengths, max_held_bytes },
            archive,
            facts: facts_in,
            clock: Arc::new(SystemClock),
            stats: Arc::clone(&stats),
            cancel: cancel.clone(),
            hold,
            wish: watch::channel(longwatch_worker::wish::Wish::Always).1,
            ticker: Ticker::none(),
            dials: (Dials::new(1), 0),
            resume: None,
        }));
        Self { feed, opened, facts, stats, cancel, task }
    }

    fn receive(&self, received: Received) {
        assert!(self.feed.send(Item::Received(received)).is_ok(), "the camera is being read");
    }

    fn show(&self, pictures: &[VideoFrame]) {
        pictures.iter().for_each(|picture| self.receive(Received::Video(picture.clone())));
    }

    async fn next(&mut self) -> Fact {
        tokio::time::timeout(Duration::from_secs(10), self.facts.recv())
            .await
            .expect("a fact in time")
            .unwrap()
    }

    /// Waits until so many pictures were received.
    async fn taken(&self, pictures: u64) {
        let all_taken = async {
            while self.stats.frames() < pictures {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), all_taken).await.expect("reading goes on");
    }
}

/// Keeps the disk busy until the sender is used or dropped.
async fn hang(archive: &Archive) -> std::sync::mpsc::Sender<()> {
    let (release, released) = std::sync::mpsc::channel::<()>();
    let (busy, is_busy) = tokio::sync::oneshot::channel();
    let blocker = archive.clone();
    tokio::spawn(async move {
        blocker.run(move |_| (busy.send(()), released.recv().is_ok())).await.map(|(_, released)| released)
    });
    is_busy.await.unwrap();
    release
}

/// Eight seconds at 25 pictures and one keyframe a second.
fn eight_seconds(folder: &Path) -> (Clip, Vec<VideoFrame>) {
    let clip = Clip::read(&clip(folder, "clip.mp4", 8, H264, false), Codec::H264, START);
    let pictures = clip.pictures().cloned().collect();
    (clip, pictures)
}

fn pictures_in(root: &Path, stored: &SegmentStored) -> usize {
    let path = root.join(&stored.key);
    let content = std::fs::read(&path).unwrap();
    assert_eq!((stored.bytes, stored.sha256), (content.len() as u64, Sha256::of(&content)));
    probe(&path)["packets"].as_array().unwrap().len()
}

#[tokio::test]
async fn a_camera_has_started_when_it_plays_however_late_it_sends() {
    let folder = tempfile::tempdir().unwrap();
    let (clip, _) = eight_seconds(folder.path());
    let mut rig = Rig::start(Archive::new(folder.path().into(), 1).unwrap(), 64 << 20);
    // Given a camera that plays and has sent nothing (one thread: the camera's task came to wait for something),
    rig.opened.notified().await;
    let playing = SystemClock.now();
    // when it sends, then the fact tells since when it plays.
    rig.receive(Received::Tracks(Arc::clone(&clip.tracks)));
    let Fact::Started(started) = rig.next().await else { panic!("it has started") };
    assert!(started.at <= playing, "{} {playing}", started.at);
    rig.cancel.cancel();
    rig.task.await.unwrap();
}

#[tokio::test]
async fn a_slow_disk_costs_frames_up_to_a_keyframe_and_no_memory() {
    let folder = tempfile::tempdir().unwrap();
    let (clip, pictures) = eight_seconds(folder.path());
    let limit: usize = pictures[..60].iter().map(|picture| picture.data.len()).sum();
    // Given a disk that is busy for as long as the test likes, …
    let archive = Archive::new(folder.path().into(), 1).unwrap();
    let release = hang(&archive).await;
    let mut rig = Rig::start(archive, limit);
    // … when more comes than may be held, …
    rig.receive(Received::Tracks(Arc::clone(&clip.tracks)));
    rig.show(&pictures[..110]);
    assert!(matches!(rig.next().await, Fact::Started(_)));
    // … then that is told at once, …
    let Fact::Interrupted(interrupted) = rig.next().await else { panic!("dropping is told") };
    assert_eq!(interrupted.cause, Cause::StorageError);
    rig.taken(110).await;
    assert_eq!(rig.stats.state(), CameraState::Failing(Cause::StorageError));
    // … what was held is stored once the disk is there again, which does not yet make it a recording, …
    release.send(()).unwrap();
    assert!(matches!(rig.next().await, Fact::FirstKeyframeDurable(_)));
    let Fact::Interrupted(still) = rig.next().await else { panic!("the loss behind it is told") };
    let Fact::SegmentStored(first) = rig.next().await else {
        panic!("the segment before the loss is closed")
    };
    assert!((50..=60).contains(&first.video_frames), "{first:?}");
    assert_eq!((still.cause, still.at), (Cause::StorageError, first.end));
    assert_eq!(rig.stats.state(), CameraState::Failing(Cause::StorageError));
    // … and the loss is told as a gap that ends at the next keyframe.
    rig.show(&pictures[110..160]);
    let Fact::FirstKeyframeDurable(resumed) = rig.next().await else { panic!("recording goes on") };
    let Fact::Gap(gap) = rig.next().await else { panic!("the gap is told") };
    assert_eq!((gap.start, gap.end, gap.cause), (first.end, resumed.start, Cause::StorageError));
    let keyframe = START.plus_millis(125 * 40);
    assert_eq!(resumed.start, keyframe, "picture 125 is the first keyframe after picture 110");
    assert_eq!(rig.stats.state(), CameraState::Recording);
    rig.taken(160).await;
    rig.cancel.cancel();
    let Fact::SegmentStored(second) = rig.next().await else { panic!("the rest is stored") };
    assert_eq!(pictures_in(folder.path(), &second), 160 - 125);
    rig.task.await.unwrap();
}

#[tokio::test]
async fn a_hung_disk_is_told_within_seconds_and_costs_nothing_if_it_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let (clip, pictures) = eight_seconds(folder.path());
    // Given a camera that is being recorded, …
    let archive = Archive::new(folder.path().into(), 1).unwrap();
    let mut rig = Rig::start(archive.clone(), 64 << 20);
    rig.receive(Received::Tracks(Arc::clone(&clip.tracks)));
    rig.show(&pictures[..50]);
    assert!(matches!(rig.next().await, Fact::Started(_)));
    let Fact::FirstKeyframeDurable(began) = rig.next().await else { panic!("it is recorded") };
    // … when its disk hangs, with far less waiting than may be held, …
    let release = hang(&archive).await;
    rig.show(&pictures[50..150]);
    let since = tokio::time::Instant::now();
    let Fact::Interrupted(interrupted) = rig.next().await else { panic!("the stall is told") };
    // … then that is told, with the end of what is stored, …
    assert!(since.elapsed() <= DISK_STALL + Duration::from_secs(2), "{:?}", since.elapsed());
    assert_eq!(interrupted.cause, Cause::StorageError);
    assert!((0..=2_000).contains(&interrupted.at.millis_since(START)), "{}", interrupted.at);
    assert_eq!(rig.stats.state(), CameraState::Failing(Cause::StorageError));
    // … and when it comes back, then so is the recording, without a gap or a lost picture.
    release.send(()).unwrap();
    let Fact::FirstKeyframeDurable(again) = rig.next().await else { panic!("recording goes on") };
    assert_eq!(again.start, began.start);
    assert_eq!(rig.stats.state(), CameraState::Recording);
    rig.taken(150).await;
    rig.cancel.cancel();
    let Fact::SegmentStored(stored) = rig.next().await else { panic!("the segment is stored") };
    assert_eq!(pictures_in(folder.path(), &stored), 150);
    rig.task.await.unwrap();
}

#[tokio::test]
async fn a_hung_disk_is_told_when_the_camera_is_gone_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let (clip, pictures) = eight_seconds(folder.path());
    let archive = Archive::new(folder.path().into(), 1).unwrap();
    let release = hang(&archive).await;
    let mut rig = Rig::start(archive, 64 << 20);
    rig.receive(Received::Tracks(Arc::clone(&clip.tracks)));
    rig.show(&pictures[..50]);
    let (closed, _) = mpsc::unbounded_channel();
    drop(std::mem::replace(&mut rig.feed, closed));
    assert!(matches!(rig.next().await, Fact::Started(_)));
    let Fact::Interrupted(interrupted) = rig.next().await else { panic!("the stall is told") };
    assert_eq!(interrupted.cause, Cause::StorageError);
    release.send(()).unwrap();
    assert!(matches!(rig.next().await, Fact::FirstKeyframeDurable(_)));
    let Fact::SegmentStored(stored) = rig.next().await else { panic!("what was held is stored") };
    assert_eq!(pictures_in(folder.path(), &stored), 50);
    rig.cancel.cancel();
    rig.task.await.unwrap();
}

/// Lets a recording end badly while its disk hangs, and sees that what then reaches the disk is told.
async fn is_told_after(end_badly: impl AsyncFnOnce(&mut Rig)) {
    let folder = tempfile::tempdir().unwrap();
    let (clip, pictures) = eight_seconds(folder.path());
    // Given a segment that is open, with some of it on its way to a disk that hangs, …
    let archive = Archive::new(folder.path().into(), 1).unwrap();
    let mut rig = Rig::start(archive.clone(), 64 << 20);
    rig.receive(Received::Tracks(Arc::clone(&clip.tracks)));
    rig.show(&pictures[..50]);
    assert!(matches!(rig.next().await, Fact::Started(_)));
    assert!(matches!(rig.next().await, Fact::FirstKeyframeDurable(_)));
    let release = hang(&archive).await;
    rig.show(&pictures[50..100]);
    rig.taken(100).await;
    // … when its recording ends badly and the disk comes back, …
    end_badly(&mut rig).await;
    release.send(()).unwrap();
    // … then it is closed and told, and so nothing is left for the next start.
    let stored = loop {
        match rig.next().await {
            Fact::SegmentStored(stored) => break stored,
            Fact::Interrupted(_) => {}
            other @ (Fact::Started(_)
            | Fact::FirstKeyframeDurable(_)
            | Fact::SegmentUploaded(_)
            | Fact::SegmentDeleted(_)
            | Fact::SegmentChecked(_)
            | Fact::Gap(_)
            | Fact::TimestampJumped(_)
            | Fact::RecordingTriggered(_)) => panic!("{other:?}"),
        }
    };
    let pictures = pictures_in(folder.path(), &stored);
    assert!((85..=100).contains(&pictures), "{pictures}");
    assert!(rig.facts.recv().await.is_none(), "nobody is left to tell more");
    let path = folder.path().join(&stored.key);
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
}

#[tokio::test]
async fn a_recording_that_is_cut_off_leaves_nothing_untold() {
    is_told_after(async |rig| {
        rig.task.abort();
        assert!((&mut rig.task).await.unwrap_err().is_cancelled());
    })
    .await;
}

#[tokio::test]
async fn a_recording_that_fails_by_a_bug_leaves_nothing_untold() {
    is_told_after(async |rig| {
        assert!(rig.feed.send(Item::Bug).is_ok());
        assert!((&mut rig.task).await.unwrap_err().is_panic());
    })
    .await;
}

#[tokio::test]
async fn a_recording_that_stops_before_its_disk_does_leaves_nothing_untold() {
    is_told_after(async |rig| {
        rig.cancel.cancel();
        (&mut rig.task).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_pause_of_the_camera_is_told_as_a_gap() {
    let folder = tempfile::tempdir().unwrap();
    let (clip, pictures) = eight_seconds(folder.path());
    let mut rig = Rig::start(Archive::new(folder.path().into(), 1).unwrap(), 64 << 20);
    rig.receive(Received::Tracks(Arc::clone(&clip.tracks)));
    // Given a camera that goes on eight seconds later, in the middle of a group of pictures, …
    rig.show(&pictures[..60]);
    let later = |picture: &VideoFrame| VideoFrame {
        media_time: picture.media_time + 8 * 90_000,
        arrival: Arrival {
            at: picture.arrival.at.plus_millis(8_000),
            monotonic_us: picture.arrival.monotonic_us + 8_000_000,
        },
        ..picture.clone()
    };
    rig.show(&pictures[60..].iter().map(later).collect::<Vec<_>>());
    let mut facts = vec![rig.next().await];
    while !matches!(facts.last(), Some(Fact::Gap(_))) {
        facts.push(rig.next().await);
    }
    // … then the break is told, and the gap ends at the next keyframe.
    let stalls = |fact: &&Fact| matches!(fact, Fact::Interrupted(told) if told.cause == Cause::Stalled);
    assert!(facts.iter().any(|fact| stalls(&fact)), "{facts:?}");
    let Some(Fact::Gap(gap)) = facts.last() else { panic!("{facts:?}") };
    let keyframe = START.plus_millis(8_000 + 75 * 40);
    assert_eq!((gap.start, gap.end, gap.cause), (START.plus_millis(60 * 40), keyframe, Cause::Stalled));
    let (gap_start, gap_end) = (gap.start, gap.end);
    assert_eq!(rig.stats.state(), CameraState::Recording);
    rig.taken(200).await;
    rig.cancel.cancel();
    rig.task.await.unwrap();
    while let Some(fact) = rig.facts.recv().await {
        facts.push(fact);
    }
    let stored = |fact| if let Fact::SegmentStored(stored) = fact { Some(stored) } else { None };
    let stored: Vec<_> = facts.into_iter().filter_map(stored).collect();
    let [before, after] = &stored[..] else { panic!("{stored:?}") };
    assert_eq!((before.end, after.start), (gap_start, gap_end));
    assert_eq!((pictures_in(folder.path(), before), pictures_in(folder.path(), after)), (60, 200 - 75));
}

/// Time that passes as it does while a machine is suspended: no timer of the runtime counts it. What `meanwhile` does
/// has been done when the machine runs again.
fn suspended(time: Duration, meanwhile: impl FnOnce()) {
    tokio::time::pause();
    std::thread::sleep(time);
    meanwhile();
    tokio::time::resume();
}

#[tokio::test]
async fn what_comes_after_the_lease_is_not_kept_although_no_timer_has_counted_it() {
    let folder = tempfile::tempdir().unwrap();
    let (clip, pictures) = eight_seconds(folder.path());
    // Given a camera that serves one client only, recorded while the lease is held, …
    let (now, left) = (since_boot(), Duration::from_millis(900));
    let mut lease = Lease::new(left + MARGIN_LEAST);
    lease.acknowledged(now, now);
    lease.looked(now + SETTLE);
    let ((_lease, lease), (_single, single)) = (watch::channel(lease), watch::channel(true));
    let archive = Archive::new(folder.path().into(), 1).unwrap();
    let mut rig = Rig::start_while(Hold::new(lease, single), archive, 64 << 20);
    rig.receive(Received::Tracks(Arc::clone(&clip.tracks)));
    rig.show(&pictures[..50]);
    assert!(matches!(rig.next().await, Fact::Started(_)));
    assert!(matches!(rig.next().await, Fact::FirstKeyframeDurable(_)));
    rig.taken(50).await;
    // … when the lease ends while the machine sleeps, and the camera has sent on, …
    suspended(left, || rig.show(&pictures[50..150]));
    // … then what had come before is kept, and nothing of the rest.
    let Fact::SegmentStored(stored) = rig.next().await else { panic!("the segment is closed") };
    assert_eq!(pictures_in(folder.path(), &stored), 50);
    let Fact::Interrupted(told) = rig.next().await else { panic!("it is told") };
    assert_eq!((told.cause, told.at), (Cause::LeaseExpired, stored.end));
    rig.cancel.cancel();
    let stopped = rig.task.await.unwrap();
    assert_eq!(
        stopped.open_break.map(|open| (open.end, open.cause)),
        Some((stored.end, Cause::LeaseExpired))
    );
}
