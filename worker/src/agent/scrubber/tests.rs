//! With real files, and a log that folds what it is told.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use longwatch_events::archive::ArchivePart;
use longwatch_events::fact::{Damage, SegmentChecked};
use longwatch_events::hash::Sha256;
use longwatch_events::id::{CameraId, SystemIds, TenantId};
use longwatch_events::position::Epoch;
use longwatch_events::time::{SystemClock, Timestamp};
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::*;
use crate::agent::leftovers::tests::video;
use crate::archive::Archive;
use crate::archive::door::Door;
use crate::archive::tombs::{Intention, Tombs};
use crate::archive::volume::Volume;
use crate::identity::Membership;
use crate::plan::Key;

const DEADLINE: Duration = Duration::from_secs(30);

/// What the log knows, and what it was told.
#[derive(Default)]
struct Log {
    known: Mutex<BTreeMap<(Place, Epoch), KnownSegment>>,
    told: Mutex<Vec<Fact>>,
    asked: AtomicUsize,
    away: Mutex<bool>,
}

impl Knows for Arc<Log> {
    async fn part(&self, server_id: ServerId, request: ArchiveRequest) -> Result<ArchivePart, String> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if *self.away.lock().unwrap() {
            return Err("nobody answers".to_owned());
        }
        let known = self.known.lock().unwrap();
        let limit = request.limit as usize;
        let mut segments: Vec<_> =
            known.iter().filter(|((place, _), _)| *place >= request.from).map(|(_, s)| s.clone()).collect();
        let more = segments.len() > limit;
        segments.truncate(limit);
        Ok(ArchivePart { server_id, segments, more })
    }
}

impl Log {
    fn fold(&self, fact: &Fact) {
        let mut known = self.known.lock().unwrap();
        match fact {
            Fact::SegmentStored(f) => {
                let segment = KnownSegment {
                    tenant_id: f.tenant_id,
                    camera_id: f.camera_id,
                    epoch: f.epoch,
                    key: f.key.clone(),
                    start: f.start,
                    end: f.end,
                    bytes: f.bytes,
                    sha256: f.sha256,
                    damage: None,
                };
                known.insert((segment.place(), f.epoch), segment);
            }
            Fact::SegmentDeleted(f) => known.retain(|_, segment| segment.key != f.key),
            Fact::SegmentUploaded(f) => known.retain(|_, segment| segment.key != f.key),
            Fact::SegmentChecked(f) => {
                known.values_mut().filter(|s| s.key == f.key).for_each(|s| s.damage = f.damage);
            }
            other @ (Fact::Started(_)
            | Fact::FirstKeyframeDurable(_)
            | Fact::Interrupted(_)
            | Fact::Gap(_)
            | Fact::TimestampJumped(_)
            | Fact::RecordingTriggered(_)) => panic!("nobody tells {other:?}"),
        }
        self.told.lock().unwrap().push(fact.clone());
    }

    /// What was told, in words, by key.
    fn told(&self) -> Vec<(String, &'static str)> {
        let word = |fact: &Fact| match fact {
            Fact::SegmentStored(f) => (f.key.clone(), "stored"),
            Fact::SegmentDeleted(f) => (f.key.clone(), "deleted"),
            Fact::SegmentUploaded(f) => (f.key.clone(), "uploaded"),
            Fact::SegmentChecked(f) => (f.key.clone(), f.damage.map_or("healed", Damage::as_str)),
            other @ (Fact::Started(_)
            | Fact::FirstKeyframeDurable(_)
            | Fact::Interrupted(_)
            | Fact::Gap(_)
            | Fact::TimestampJumped(_)
            | Fact::RecordingTriggered(_)) => panic!("nobody tells {other:?}"),
        };
        self.told.lock().unwrap().iter().map(word).collect()
    }
}

/// A server with an archive on several volumes.
struct Rig {
    roots: Vec<TempDir>,
    state: TempDir,
    archive: Archive,
    server_id: ServerId,
    log: Arc<Log>,
    tombs: Mutex<Tombs>,
    missing: usize,
    max_bytes_per_second: u64,
}

/// 2026-11-23T08:00:00Z.
const START: Timestamp = Timestamp::from_millis(1_795_420_800_123);

impl Rig {
    fn new(volumes: usize) -> Self {
        let roots: Vec<_> = (0..volumes).map(|_| tempfile::tempdir().unwrap()).collect();
        let state = tempfile::tempdir().unwrap();
        let folders = roots.iter().map(|root| (Arc::from(root.path()), Door::default()));
        let archive = Archive::over(folders, 1).unwrap();
        let volume = Volume::take(roots[0].path()).unwrap().id;
        let tombs = Mutex::new(Tombs::open(&state.path().join("deletions"), volume).unwrap());
        let (server_id, log) = (ServerId::generate(&SystemIds), Arc::default());
        Self { roots, state, archive, server_id, log, tombs, missing: 0, max_bytes_per_second: u64::MAX }
    }

    fn name(&self, camera_id: CameraId, minute: i64) -> SegmentName {
        let (tenant_id, server_id) = (TenantId::DEFAULT, self.server_id);
        let start = START.plus_millis(minute * 60_000);
        SegmentName { tenant_id, camera_id, start, epoch: Epoch(3), server_id }
    }

    fn path(&self, volume: usize, key: &str) -> PathBuf {
        self.roots[volume].path().join(key)
    }

    /// A file that nobody reported; its key.
    fn put(&self, volume: usize, camera_id: CameraId, minute: i64) -> String {
        let name = self.name(camera_id, minute);
        let path = self.path(volume, &name.key());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, video(&name)).unwrap();
        name.key()
    }

    /// A segment that was reported; its key. Its first frame is a little later than its name says.
    fn store(&self, volume: usize, camera_id: CameraId, minute: i64) -> String {
        let key = self.put(volume, camera_id, minute);
        let bytes = fs::read(self.path(volume, &key)).unwrap();
        let start = START.plus_millis(minute * 60_000).plus_micros(456);
        let known = KnownSegment {
            tenant_id: TenantId::DEFAULT,
            camera_id,
            epoch: Epoch(3),
            key: key.clone(),
            start,
            end: start.plus_millis(60_000),
            bytes: bytes.len() as u64,
            sha256: Sha256::of(&bytes),
            damage: None,
        };
        self.log.known.lock().unwrap().insert((known.place(), known.epoch), known);
        key
    }

    /// Changes one byte of a file.
    fn rot(&self, volume: usize, key: &str) {
        let path = self.path(volume, key);
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
    }

    /// Examines everything `rounds` times; what came of the last one.
    async fn examine(&self, rounds: usize) -> Scrub {
        self.examine_while(rounds, async |_| ()).await
    }

    /// As [`Self::examine`], while something else happens.
    async fn examine_while(&self, rounds: usize, also: impl AsyncFnOnce(&CancellationToken)) -> Scrub {
        let (facts, mut facts_out) = mpsc::unbounded_channel();
        let (progress, mut progress_out) = watch::channel(None);
        let membership = Membership { server_id: self.server_id, adopted: true };
        let (_standing, standing) = watch::channel(Standing::remembered(Some(membership)));
        let reported = Arc::new(Reported::default());
        let means = Means {
            knows: Arc::new(Arc::clone(&self.log)),
            disks: Disks {
                volumes: self.roots.iter().map(|root| Volume::take(root.path()).unwrap()).collect(),
                archive: self.archive.clone(),
                missing: self.missing,
            },
            begun: self.tombs.lock().unwrap().shown(),
            scrubbing: Scrubbing {
                every: Some(Duration::from_millis(1)),
                max_bytes_per_second: self.max_bytes_per_second,
            },
            standing,
            outbox: Arc::new(Outbox::open(self.state.path().join("outbox")).unwrap()),
            reported: Arc::clone(&reported),
            facts,
            clock: Arc::new(SystemClock),
            file: self.state.path().join(FILE),
            progress,
        };
        let before = Saved::new(means.file.clone()).load().and_then(|round| round.completed_at);
        let stop = CancellationToken::new();
        let log = Arc::clone(&self.log);
        let folding = tokio::spawn(async move {
            while let Some(fact) = facts_out.recv().await {
                log.fold(&fact);
                reported.take(&[fact]);
            }
        });
        let running = tokio::spawn(run(means, stop.clone()));
        let mut last = None;
        let completed = async {
            also(&stop).await;
            let mut ends = BTreeSet::new();
            while ends.len() < rounds && !stop.is_cancelled() {
                progress_out.changed().await.unwrap();
                last = *progress_out.borrow();
                // A new round shows when the one before ended.
                let completed_at = last.and_then(|scrub: Scrub| scrub.completed_at);
                ends.extend(completed_at.filter(|end| Some(*end) != before));
            }
        };
        tokio::time::timeout(DEADLINE, completed).await.expect("it is never done");
        stop.cancel();
        running.await.unwrap();
        folding.await.unwrap();
        last.unwrap_or_default()
    }
}

fn camera() -> CameraId {
    CameraId::generate(&SystemIds)
}

/// The fact about the file at `key`.
fn checked_fact(log: &Log, key: &str) -> SegmentChecked {
    let told = log.told.lock().unwrap();
    let of_it = |fact: &Fact| if let Fact::SegmentChecked(f) = fact { Some(f.clone()) } else { None };
    let fact = told.iter().filter_map(of_it).find(|fact| fact.key == key);
    fact.unwrap_or_else(|| panic!("nothing was told of {key}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_befell_the_archive_is_told_once_and_nothing_is_changed() {
    let rig = Rig::new(2);
    let (a, b) = (camera(), camera());
    // More than are asked for at once, on both volumes, over midnight.
    let all: Vec<_> = (0..130).map(|n| rig.store(usize::from(n % 2 == 1), a, n * 20)).collect();
    let of_b: Vec<_> = (0..3).map(|n| rig.store(0, b, n)).collect();
    rig.rot(0, &all[10]);
    let torn = rig.path(1, &all[21]);
    fs::File::options().write(true).open(&torn).unwrap().set_len(100).unwrap();
    fs::remove_file(rig.path(1, &all[31])).unwrap();
    // A day of the other camera, folder and all.
    fs::remove_dir_all(rig.path(0, &of_b[0]).parent().unwrap()).unwrap();
    // A folder where a file was: it cannot be read.
    fs::remove_file(rig.path(0, &all[40])).unwrap();
    fs::create_dir(rig.path(0, &all[40])).unwrap();
    let orphan = rig.put(1, camera(), 5);
    let foreign = rig.path(0, &all[0]).with_file_name("holiday.mp4");
    fs::write(&foreign, "somebody's").unwrap();
    let other = SegmentName { server_id: ServerId::generate(&SystemIds), ..rig.name(a, 7) };
    fs::write(rig.path(0, &other.key()), "another server's").unwrap();
    let before = content_of(&rig);
    // The orphan is old enough to be one.
    tokio::time::sleep(LEAST).await;

    let scrub = rig.examine(1).await;

    let mut expected = vec![
        (all[10].clone(), "corrupt"),
        (all[21].clone(), "corrupt"),
        (all[31].clone(), "missing"),
        (all[40].clone(), "unreadable"),
        (orphan.clone(), "stored"),
    ];
    expected.extend(of_b.iter().map(|key| (key.clone(), "missing")));
    expected.sort();
    let mut told = rig.log.told();
    told.sort();
    assert_eq!(told, expected);
    let found = (scrub.checked, scrub.missing, scrub.corrupt, scrub.orphans, scrub.foreign);
    assert_eq!(found, (133, 4, 3, 1, 2));
    // What stands in the fact: what was stored, and what is there.
    let fact = checked_fact(&rig.log, &all[21]);
    assert_eq!((fact.found_bytes, fact.found_sha256.is_some()), (Some(100), true));
    assert_eq!(fact.start, START.plus_millis(21 * 20 * 60_000).plus_micros(456));
    assert_ne!(Some(fact.sha256), fact.found_sha256);
    let fact = checked_fact(&rig.log, &all[31]);
    assert_eq!((fact.damage, fact.found_bytes), (Some(Damage::Missing), None));
    assert_eq!(content_of(&rig), before, "nothing was moved, changed or removed");

    // Looked at again it is all the same, and no news; the orphan is none any more.
    let scrub = rig.examine(2).await;
    assert_eq!(rig.log.told().len(), expected.len());
    let found = (scrub.checked, scrub.missing, scrub.corrupt, scrub.orphans, scrub.foreign);
    assert_eq!(found, (134, 4, 3, 0, 2));

    // What is back is right again, from wherever.
    let bytes = video(&rig.name(a, 31 * 20));
    fs::write(rig.path(0, &all[31]), bytes).unwrap();
    rig.rot(0, &all[10]);
    rig.examine(1).await;
    let mut news = rig.log.told().split_off(expected.len());
    news.sort();
    let mut healed = vec![(all[10].clone(), "healed"), (all[31].clone(), "healed")];
    healed.sort();
    assert_eq!(news, healed);
}

/// All files of all volumes, with what they hold.
fn content_of(rig: &Rig) -> BTreeMap<PathBuf, Vec<u8>> {
    fn walk(folder: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                found.insert(path.clone(), Vec::new());
                walk(&path, found);
            } else {
                found.insert(path.clone(), fs::read(&path).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    // Volumes get their ids before.
    rig.roots.iter().for_each(|root| drop(Volume::take(root.path()).unwrap()));
    rig.roots.iter().for_each(|root| walk(root.path(), &mut found));
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_meanwhile_is_not_missing() {
    let rig = Rig::new(1);
    let camera = camera();
    let keys: Vec<_> = (0..40).map(|n| rig.store(0, camera, n)).collect();
    let (begun_only, told_late) = keys.split_at(20);
    let volume = Volume::take(rig.roots[0].path()).unwrap().id;
    let deleted = |key: &String| longwatch_events::fact::SegmentDeleted {
        tenant_id: TenantId::DEFAULT,
        camera_id: camera,
        epoch: Epoch(3),
        key: key.clone(),
        start: START,
        end: START.plus_millis(1),
        bytes: 1,
        at: START,
        reason: longwatch_events::fact::DeletionReason::Age,
        before_min_age: false,
        store_id: None,
        recorded_by: None,
    };
    // Begun, gone, and not told yet.
    let intentions: Vec<_> = begun_only.iter().map(|key| Intention { volume, fact: deleted(key) }).collect();
    rig.tombs.lock().unwrap().begin(&intentions).unwrap();
    keys.iter().for_each(|key| fs::remove_file(rig.path(0, key)).unwrap());
    // Told, and not folded when control is asked first: it answers a moment later.
    let log = Arc::clone(&rig.log);
    let facts: Vec<_> = told_late.iter().map(|key| Fact::SegmentDeleted(deleted(key))).collect();
    let folding = tokio::spawn(async move {
        while log.asked.load(Ordering::SeqCst) < 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // Behind the first answer, and before the one that confirms it.
        facts.iter().for_each(|fact| log.fold(fact));
    });

    rig.examine(2).await;

    folding.await.unwrap();
    assert_eq!(
        rig.log.told().iter().filter(|(_, word)| *word != "deleted").count(),
        0,
        "{:?}",
        rig.log.told()
    );
    // When the note is forgotten and the log still says that it is there, then it is missing.
    rig.tombs.lock().unwrap().forget(|_| true);
    rig.examine(1).await;
    let missing = rig.log.told().iter().filter(|(_, word)| *word == "missing").count();
    assert_eq!(missing, begun_only.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_volume_is_away_nothing_is_called_missing() {
    let mut rig = Rig::new(1);
    rig.missing = 1;
    let camera = camera();
    let keys: Vec<_> = (0..3).map(|n| rig.store(0, camera, n)).collect();
    fs::remove_file(rig.path(0, &keys[0])).unwrap();
    let scrub = rig.examine(1).await;
    assert_eq!((rig.log.told(), scrub.checked), (vec![], 2));
    rig.missing = 0;
    rig.examine(1).await;
    assert_eq!(rig.log.told(), [(keys[0].clone(), "missing")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_was_stored_just_now_is_no_orphan() {
    let rig = Rig::new(1);
    let camera = camera();
    rig.store(0, camera, 0);
    let young = rig.put(0, camera, 1);
    rig.examine(1).await;
    // A slow machine may have taken so long that it is one.
    assert!(rig.log.told().iter().all(|told| *told == (young.clone(), "stored")));
    let garbage = rig.path(0, &rig.name(camera, 2).key());
    fs::write(&garbage, "no video").unwrap();
    // One that holds the video of another one must not take its place.
    let renamed = rig.path(0, &rig.name(camera, 3).key());
    fs::copy(rig.path(0, &rig.name(camera, 0).key()), &renamed).unwrap();
    tokio::time::sleep(LEAST).await;
    // Then it is reported, once; and what is no segment is counted and left alone.
    let scrub = rig.examine(2).await;
    assert_eq!(rig.log.told(), [(young, "stored")]);
    assert_eq!((scrub.orphans, garbage.exists(), renamed.exists()), (2, true, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn while_nobody_answers_it_waits_and_a_restart_goes_on_where_it_was() {
    let rig = Rig::new(1);
    let camera = camera();
    let keys: Vec<_> = (0..250).map(|n| rig.store(0, camera, n)).collect();
    rig.rot(0, &keys[240]);
    *rig.log.away.lock().unwrap() = true;
    rig.examine_while(1, async |stop| {
        while rig.log.asked.load(Ordering::SeqCst) < 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stop.cancel();
    })
    .await;
    assert_eq!(rig.log.told(), []);
    // An earlier run came to the last part.
    let next =
        Place { tenant_id: TenantId::DEFAULT, camera_id: camera, start: START.plus_millis(200 * 60_000) };
    let counts = Counts { checked: 200, ..Counts::default() };
    let began_at = SystemClock.now();
    let round = Round { began_at, next: Some(next), completed_at: None, counts };
    fs::write(rig.state.path().join(FILE), serde_json::to_vec(&round).unwrap()).unwrap();
    *rig.log.away.lock().unwrap() = false;
    rig.log.asked.store(0, Ordering::SeqCst);
    let scrub = rig.examine(1).await;
    assert_eq!((scrub.checked, scrub.began_at), (250, began_at));
    assert_eq!(rig.log.told(), [(keys[240].clone(), "corrupt")]);
    assert!(rig.log.asked.load(Ordering::SeqCst) <= 3, "the last part, and once more to be sure");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_read_in_a_second_than_is_allowed_and_a_stop_is_heard() {
    let mut rig = Rig::new(1);
    let camera = camera();
    for minute in 0..8 {
        let key = rig.put(0, camera, minute);
        fs::write(rig.path(0, &key), vec![7; 250_000]).unwrap();
        let bytes = vec![7; 250_000];
        let start = START.plus_millis(minute * 60_000);
        let known = KnownSegment {
            tenant_id: TenantId::DEFAULT,
            camera_id: camera,
            epoch: Epoch(3),
            key,
            start,
            end: start.plus_millis(60_000),
            bytes: bytes.len() as u64,
            sha256: Sha256::of(&bytes),
            damage: None,
        };
        rig.log.known.lock().unwrap().insert((known.place(), known.epoch), known);
    }
    rig.max_bytes_per_second = 1_000_000;
    let began = Instant::now();
    assert_eq!(rig.examine(1).await.checked, 8);
    assert!(began.elapsed() >= Duration::from_millis(1_900), "{:?}", began.elapsed());
    // When it would take an hour, a stop is heard at once.
    rig.max_bytes_per_second = 500;
    let began = Instant::now();
    rig.examine_while(1, async |stop| {
        tokio::time::sleep(Duration::from_millis(300)).await;
        stop.cancel();
    })
    .await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[test]
fn a_stretch_holds_its_beginning_and_not_its_end() {
    let key = |n: u8| Key {
        tenant_id: TenantId::DEFAULT,
        camera_id: format!("01935700-0000-7000-8003-00000000000{n}").parse().unwrap(),
    };
    let place = |n, millis| Place {
        tenant_id: TenantId::DEFAULT,
        camera_id: key(n).camera_id,
        start: Timestamp::from_millis(millis),
    };
    let stretch = Stretch { from: place(1, 500), until: Some(place(3, 700)) };
    for (at, held) in
        [((1, 499), false), ((1, 500), true), ((2, 0), true), ((3, 699), true), ((3, 700), false)]
    {
        assert_eq!(stretch.holds(place(at.0, at.1)), held, "{at:?}");
    }
    assert_eq!(cut(Place { start: Timestamp::from_micros(1_999), ..place(1, 0) }), place(1, 1));
}
