//! Several volumes, and what becomes of a recording when one of them fails.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use common::{Clip, clip, probe};
use longwatch_events::fact::{Cause, Codec, Fact, SegmentStored};
use longwatch_events::id::{CameraId, ServerId, SystemIds, TenantId};
use longwatch_events::position::Epoch;
use longwatch_events::time::{Clock as _, SystemClock};
use longwatch_worker::archive::Archive;
use longwatch_worker::archive::door::{Door, Step};
use longwatch_worker::camera::{self, CameraTask, Hold, Identity, Settings, Stats, Stopped};
use longwatch_worker::dials::Dials;
use longwatch_worker::frame::{Arrival, VideoFrame};
use longwatch_worker::source::{Failure, Received, Session, Source};
use longwatch_worker::tick::Ticker;
use longwatch_worker::uptime::since_boot;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
const PICTURE: Duration = Duration::from_millis(40);

/// A camera that plays 25 pictures a second to whoever asks, each session from the clip's beginning.
struct Live(Arc<Clip>);

struct Playing {
    clip: Arc<Clip>,
    pictures: Vec<VideoFrame>,
    next: usize,
    at: Instant,
}

impl Source for Live {
    type Session = Playing;

    async fn open(&self) -> Result<Playing, Failure> {
        let pictures = self.0.pictures().cloned().collect();
        Ok(Playing { clip: Arc::clone(&self.0), pictures, next: 0, at: Instant::now() })
    }
}

impl Session for Playing {
    async fn next(&mut self) -> Result<Received, Failure> {
        if self.next == 0 {
            self.next = 1;
            return Ok(Received::Tracks(Arc::clone(&self.clip.tracks)));
        }
        let number = self.next - 1;
        tokio::time::sleep_until(self.at + PICTURE * u32::try_from(number).unwrap()).await;
        self.next += 1;
        let picture = &self.pictures[number % self.pictures.len()];
        let monotonic_us = i64::try_from(since_boot().as_micros()).unwrap();
        let arrival = Arrival { at: SystemClock.now(), monotonic_us };
        let media_time = i64::try_from(number).unwrap() * 3_600;
        Ok(Received::Video(VideoFrame { media_time, arrival, ..picture.clone() }))
    }

    async fn close(self) {}
}

struct Rig {
    facts: UnboundedReceiver<Fact>,
    cancel: CancellationToken,
    task: JoinHandle<Stopped>,
}

impl Rig {
    fn record(archive: Archive, clip: &Arc<Clip>) -> Self {
        let (facts_in, facts) = mpsc::unbounded_channel();
        let cancel = CancellationToken::new();
        let task = tokio::spawn(camera::run(CameraTask {
            identity: Identity {
                tenant_id: TenantId::DEFAULT,
                camera_id: CameraId::generate(&SystemIds),
                epoch: Epoch(7),
                server_id: ServerId::generate(&SystemIds),
            },
            source: Live(Arc::clone(clip)),
            settings: Settings::default(),
            archive,
            facts: facts_in,
            clock: Arc::new(SystemClock),
            stats: Arc::new(Stats::default()),
            cancel: cancel.clone(),
            hold: Hold::always(),
            wish: tokio::sync::watch::channel(longwatch_worker::wish::Wish::Always).1,
            ticker: Ticker::none(),
            dials: (Dials::new(1), 0),
            resume: None,
        }));
        Self { facts, cancel, task }
    }

    async fn until(&mut self, is_it: impl Fn(&Fact) -> bool) -> Vec<Fact> {
        let mut facts = Vec::new();
        let wanted = async {
            loop {
                facts.push(self.facts.recv().await.unwrap());
                if facts.last().is_some_and(&is_it) {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(15), wanted).await.expect("the fact comes in time");
        facts
    }

    async fn stop(mut self) -> Vec<Fact> {
        self.cancel.cancel();
        self.task.await.unwrap();
        std::iter::from_fn(|| self.facts.try_recv().ok()).collect()
    }
}

fn a_clip(folder: &Path) -> Arc<Clip> {
    let encoder = ["-c:v", "libx264", "-preset", "ultrafast", "-g", "25", "-bf", "0"];
    Arc::new(Clip::read(&clip(folder, "clip.mp4", 4, &encoder, false), Codec::H264, SystemClock.now()))
}

/// Fails `step` with `error` while it is on; counts how often the disk was asked to sync since.
#[derive(Default)]
struct Fault {
    on: AtomicBool,
    asked_to_sync: AtomicUsize,
}

fn door(fault: &Arc<Fault>, step: Step, error: i32) -> Door {
    let fault = Arc::clone(fault);
    Door::with_faults(move |asked| {
        if !fault.on.load(Ordering::SeqCst) {
            return None;
        }
        if matches!(asked, Step::Sync | Step::SyncFolder) {
            fault.asked_to_sync.fetch_add(1, Ordering::SeqCst);
        }
        (asked == step).then(|| io::Error::from_raw_os_error(error))
    })
}

/// An archive that writes to the first of two volumes as long as it can.
fn on_first(first: &Path, second: &Path, door: Door) -> Archive {
    let archive = Archive::over([(first.into(), door), (second.into(), Door::default())], 1).unwrap();
    archive.note_room(0, 1 << 30);
    archive.note_room(1, 0);
    archive
}

fn is_keyframe(fact: &Fact) -> bool {
    matches!(fact, Fact::FirstKeyframeDurable(_))
}

fn stored(facts: &[Fact]) -> &SegmentStored {
    facts
        .iter()
        .find_map(|fact| if let Fact::SegmentStored(stored) = fact { Some(stored) } else { None })
        .unwrap_or_else(|| panic!("{facts:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_fails_to_sync_is_never_asked_again_and_its_cameras_move_at_once() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (clip, fault) = (a_clip(first.path()), Arc::new(Fault::default()));
    // Given two cameras that are recorded to the first volume, …
    let archive = on_first(first.path(), second.path(), door(&fault, Step::Sync, EIO));
    let mut rigs = [Rig::record(archive.clone(), &clip), Rig::record(archive.clone(), &clip)];
    for rig in &mut rigs {
        rig.until(is_keyframe).await;
    }
    let failures = archive.failures();
    // … when it does not sync any more, …
    fault.on.store(true, Ordering::SeqCst);
    let failed_at = Instant::now();
    for rig in &mut rigs {
        // … then each goes on elsewhere within a keyframe, and its gap says why.
        let facts = rig.until(|fact| matches!(fact, Fact::Gap(_))).await;
        let Some(Fact::Gap(gap)) = facts.last() else { unreachable!() };
        assert_eq!(gap.cause, Cause::StorageError);
        assert!(gap.end.millis_since(gap.start) < 4_000, "{gap:?}");
        let told = |fact: &Fact| matches!(fact, Fact::Interrupted(f) if f.cause == Cause::StorageError);
        assert_eq!(facts.iter().filter(|fact| told(fact)).count(), 1, "{facts:?}");
    }
    assert!(failed_at.elapsed() < Duration::from_secs(5), "{:?}", failed_at.elapsed());
    assert_eq!((*failures.borrow(), archive.has_failed(0), archive.has_failed(1)), (1, true, false));
    tokio::time::sleep(Duration::from_secs(1)).await;
    for rig in rigs {
        let facts = rig.stop().await;
        let stored = stored(&facts);
        assert!(!first.path().join(&stored.key).exists());
        let packets = probe(&second.path().join(&stored.key))["packets"].as_array().unwrap().len();
        assert_eq!(u64::try_from(packets).unwrap(), stored.video_frames);
    }
    // One sync failed. Nothing was synced after it: not that file, nor any other of the volume.
    assert_eq!(fault.asked_to_sync.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_cannot_be_written_to_is_left_and_one_that_is_only_full_is_not() {
    for (error, fails) in [(EIO, true), (ENOSPC, false)] {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (clip, fault) = (a_clip(first.path()), Arc::new(Fault::default()));
        let archive = on_first(first.path(), second.path(), door(&fault, Step::Write, error));
        let mut rig = Rig::record(archive.clone(), &clip);
        rig.until(is_keyframe).await;
        fault.on.store(true, Ordering::SeqCst);
        let facts = rig.until(|fact| matches!(fact, Fact::Interrupted(_))).await;
        // What was durable before is stored, or left to the next start to repair; never lost.
        let was_stored = facts.iter().any(|fact| matches!(fact, Fact::SegmentStored(_)));
        assert_eq!(archive.has_failed(0), fails);
        if fails {
            rig.until(is_keyframe).await;
            assert!(std::fs::read_dir(second.path()).unwrap().next().is_some());
        } else {
            // It stays where it is, and goes on when there is room again.
            assert!(was_stored);
            fault.on.store(false, Ordering::SeqCst);
            rig.until(is_keyframe).await;
            assert!(std::fs::read_dir(second.path()).unwrap().next().is_none());
        }
        rig.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_no_volume_is_left_that_is_what_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let (clip, fault) = (a_clip(folder.path()), Arc::new(Fault::default()));
    let archive = Archive::over([(folder.path().into(), door(&fault, Step::Sync, EIO))], 1).unwrap();
    let mut failures = archive.failures();
    let mut rig = Rig::record(archive.clone(), &clip);
    rig.until(is_keyframe).await;
    fault.on.store(true, Ordering::SeqCst);
    tokio::time::timeout(Duration::from_secs(5), failures.changed()).await.unwrap().unwrap();
    assert_eq!(*failures.borrow(), archive.volumes());
    rig.until(|fact| matches!(fact, Fact::Interrupted(f) if f.cause == Cause::StorageError)).await;
    assert!(archive.space().is_ok_and(|space| space.total == 0), "what failed has no space");
    rig.stop().await;
}
