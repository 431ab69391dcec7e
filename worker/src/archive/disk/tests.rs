//! Many sessions of one thread.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::AtomicI32;

use longwatch_events::fact::Codec;
use longwatch_events::id::{CameraId, ServerId, SystemIds, TenantId};
use longwatch_events::position::Epoch;
use longwatch_events::time::SystemClock;
use tokio::sync::{mpsc as told, watch};

use super::*;
use crate::archive::door::Step;
use crate::archive::layout::{PART, UNSYNCED};
use crate::fmp4::{Fragment as Frames, Samples};

const SESSIONS: usize = 5;
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// A thread's work, without the thread.
struct Rig {
    worker: Worker,
    /// How often the disk was asked for each step.
    asked: Arc<Mutex<BTreeMap<Step, usize>>>,
    /// What the disk says when it is to sync, if it is not 0.
    error: Arc<AtomicI32>,
    sessions: Vec<(Arc<Ends>, told::UnboundedReceiver<Done>, PathBuf)>,
    folder: tempfile::TempDir,
}

impl Rig {
    /// With sessions that each have a segment to begin.
    fn new(together: Together) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (root, asked): (Arc<Path>, _) = (folder.path().into(), Arc::<Mutex<BTreeMap<_, _>>>::default());
        let error = Arc::new(AtomicI32::new(0));
        let (count, fails) = (Arc::clone(&asked), Arc::clone(&error));
        let door = Door::with_faults(move |step| {
            *count.lock().unwrap().entry(step).or_default() += 1;
            let error = fails.load(Ordering::Relaxed);
            (step == Step::Sync && error != 0).then(|| io::Error::from_raw_os_error(error))
        });
        let failed = Arc::new(watch::Sender::new(0));
        let fence = Arc::new(Fence { root: Arc::clone(&root), closed: false.into(), failed });
        let place = Place { together, root, door, fence };
        let mut worker = Worker { place, buffer: Buffer::default(), sessions: BTreeMap::new() };
        let sessions = (0..SESSIONS).map(|_| {
            let (done, done_out) = told::unbounded_channel();
            let ends = Arc::new(Ends::new(Held::default(), done, Arc::new(SystemClock)));
            let (key, piece) = begin();
            ends.held.add(piece.len());
            worker.take(Message::Piece(Arc::clone(&ends), piece));
            (ends, done_out, folder.path().join(key + PART))
        });
        let sessions = sessions.collect();
        Self { worker, asked, error, sessions, folder }
    }

    fn asked(&self, step: Step) -> usize {
        self.asked.lock().unwrap().get(&step).copied().unwrap_or_default()
    }

    /// All that a session was told.
    fn told(&mut self) -> Vec<Vec<Done>> {
        let told =
            |done: &mut told::UnboundedReceiver<Done>| std::iter::from_fn(|| done.try_recv().ok()).collect();
        self.sessions.iter_mut().map(|(_, done, _)| told(done)).collect()
    }

    /// Where its segment is now, by what is behind the name.
    fn has(&self, session: usize, behind: &str) -> bool {
        let mut path = self.sessions[session].2.as_os_str().to_owned();
        path.push(behind);
        PathBuf::from(path).is_file()
    }
}

fn begin() -> (String, Piece) {
    let name = SegmentName {
        tenant_id: TenantId::DEFAULT,
        camera_id: CameraId::generate(&SystemIds),
        start: Timestamp::from_millis(1_795_420_800_123),
        epoch: Epoch(3),
        server_id: ServerId::generate(&SystemIds),
    };
    let header = b"header ".to_vec();
    let codecs = Codecs { video: Codec::H264, audio: None };
    let until = name.start.plus_millis(1_000);
    (name.key(), Piece::Begin { name, codecs, resumes: true, header, fragment: fragment(), until })
}

fn fragment() -> Frames {
    let mut samples = Samples::default();
    samples.push(&[7; 10_000]);
    Frames { head: b"head ".to_vec(), samples, video_frames: 1, zero: 0, end: 1 }
}

#[test]
fn all_that_gathered_is_synced_with_one_request_names_included() {
    let mut rig = Rig::new(Together::Always);
    rig.worker.visit();
    for told in rig.told() {
        assert!(matches!(told[..], [Done::Durable { began: Some(_), .. }]), "{told:?}");
    }
    assert_eq!((rig.asked(Step::Write), rig.asked(Step::Sync)), (SESSIONS, 1));
    assert_eq!(rig.asked(Step::SyncFolder), 0);
    assert!(rig.sessions.iter().all(|(ends, ..)| ends.held.bytes() == 0));
    // When all end at once, then all have their names, and content.
    for (ends, ..) in &rig.sessions {
        rig.worker.take(Message::Over(Arc::clone(ends)));
    }
    rig.worker.visit();
    assert_eq!(rig.asked(Step::Sync), 2);
    for told in rig.told() {
        let [Done::Stored(stored)] = &told[..] else { panic!("{told:?}") };
        let content = std::fs::read(rig.folder.path().join(&stored.file.key)).unwrap();
        assert_eq!((content.len() as u64, &content[..12]), (stored.file.bytes, &b"header head "[..]));
        assert_eq!(stored.file.sha256, longwatch_events::hash::Sha256::of(&content));
    }
}

#[test]
fn where_files_cannot_be_synced_together_each_is_and_each_folder() {
    let mut rig = Rig::new(Together::Never);
    rig.worker.visit();
    assert_eq!(rig.asked(Step::Sync), SESSIONS);
    assert!(rig.asked(Step::SyncFolder) >= SESSIONS);
    assert!(rig.told().iter().all(|told| matches!(told[..], [Done::Durable { .. }])));
}

/// Five segments that are durable, and a fragment for each that the disk fails to sync with `error`.
fn failed_to_sync(error: i32) -> Rig {
    let mut rig = Rig::new(Together::Always);
    rig.worker.visit();
    assert!(rig.told().iter().all(|told| matches!(told[..], [Done::Durable { .. }])));
    rig.asked.lock().unwrap().clear();
    rig.error.store(error, Ordering::Relaxed);
    for (ends, ..) in &rig.sessions {
        let piece = Piece::More { fragment: fragment(), until: Timestamp::from_millis(1_795_420_802_123) };
        ends.held.add(piece.len());
        rig.worker.take(Message::Piece(Arc::clone(ends), piece));
    }
    rig.worker.visit();
    rig.worker.visit();
    rig
}

#[test]
fn when_the_one_request_fails_nothing_is_durable_nothing_is_asked_again_and_the_volume_is_left() {
    let mut rig = failed_to_sync(EIO);
    assert_eq!(rig.asked(Step::Sync), 1);
    assert!(rig.worker.place.fence.is_closed());
    for told in rig.told() {
        assert!(matches!(&told[..], [Done::Failed(error)] if error.is_of_volume()), "{told:?}");
    }
    assert!(rig.sessions.iter().all(|(ends, ..)| ends.held.bytes() == 0));
    // The first one is marked, for it was it that asked; the others are left as they are, for the next start to read.
    let marked = (0..SESSIONS).filter(|session| rig.has(*session, UNSYNCED)).count();
    let left = (0..SESSIONS).filter(|session| rig.has(*session, "")).count();
    assert_eq!((marked, left), (1, SESSIONS - 1));
}

#[test]
fn when_there_is_only_no_room_for_it_no_file_is_trusted_and_the_volume_stays() {
    let mut rig = failed_to_sync(ENOSPC);
    assert_eq!(rig.asked(Step::Sync), 1);
    assert!(!rig.worker.place.fence.is_closed());
    for told in rig.told() {
        assert!(matches!(told[..], [Done::Failed(Error::Io { .. })]), "{told:?}");
    }
    assert!((0..SESSIONS).all(|session| rig.has(session, UNSYNCED)));
}
