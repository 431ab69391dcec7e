use super::*;
use crate::archive::layout::SegmentName;
use crate::plan::Key;
use longwatch_events::assignment::AssignedCamera;
use longwatch_events::fact::{Codec, SegmentStored};
use longwatch_events::hash::Sha256;
use longwatch_events::id::{CameraId, ServerId, SystemIds, TenantId};
use longwatch_events::position::{Epoch, Position};
use longwatch_events::sealed::Base64Bytes;
use longwatch_events::settings::Retention;
use longwatch_events::time::{ManualClock, SystemClock};
use std::fs;
use tokio::sync::mpsc::{self, UnboundedReceiver};

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

struct Rig {
    archive: tempfile::TempDir,
    clock: Arc<ManualClock>,
    janitor: Janitor,
    facts: UnboundedReceiver<Fact>,
}

impl Rig {
    /// With a clock that is so far ahead of the file system's.
    fn ahead_ms(ms: i64) -> Self {
        let archive = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::starting_at(SystemClock.now().plus_millis(ms)));
        let (janitor, facts) = start(&archive, &clock);
        Self { archive, clock, janitor, facts }
    }

    /// As the next run begins, with the facts of what the last one left.
    fn again(self) -> (Self, Vec<String>) {
        let Self { archive, clock, .. } = self;
        let (janitor, facts) = start(&archive, &clock);
        let left = finish_begun(&janitor.means.tombs, &janitor.means.volumes);
        (Self { archive, clock, janitor, facts }, left.iter().map(key).collect())
    }

    fn keep(&self, camera: Key, retention: Retention) {
        self.janitor.means.kept.learn(&[AssignedCamera {
            tenant_id: camera.tenant_id,
            camera_id: camera.camera_id,
            epoch: Epoch(1),
            settings_version: Position(1),
            source: Base64Bytes(Vec::new()),
            single_session: false,
            live_latency_ms: None,
            priority: None,
            retention: Some(retention),
            recording: None,
        }]);
    }

    /// Stores an hour of video that begins so many hours ago.
    fn store(&self, camera: Key, hours_ago: i64) -> SegmentName {
        self.store_from(camera, self.clock.now().plus_millis(-hours_ago * HOUR_MS))
    }

    /// Stores an hour of video.
    fn store_from(&self, camera: Key, start: Timestamp) -> SegmentName {
        let Key { tenant_id, camera_id } = camera;
        let server_id = ServerId::generate(&SystemIds);
        let name = SegmentName { tenant_id, camera_id, start, epoch: Epoch(1), server_id };
        // As its key says it.
        let name = SegmentName::parse(&name.key()).unwrap();
        let start = name.start;
        let path = self.path(&name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, [7; 100]).unwrap();
        let file = fs::File::options().write(true).open(path).unwrap();
        crate::archive::local::note_end(&file, start.plus_millis(HOUR_MS));
        name
    }

    fn path(&self, name: &SegmentName) -> PathBuf {
        self.archive.path().join(name.key())
    }

    fn told(&mut self) -> Vec<Fact> {
        std::iter::from_fn(|| self.facts.try_recv().ok()).collect()
    }

    fn work(&mut self) -> usize {
        self.janitor.work(true, &CancellationToken::new())
    }
}

fn start(archive: &tempfile::TempDir, clock: &Arc<ManualClock>) -> (Janitor, UnboundedReceiver<Fact>) {
    let volume = Volume::take(archive.path()).unwrap();
    let home = |name: &str| archive.path().join(".longwatch").join(name);
    let (facts, facts_out) = mpsc::unbounded_channel();
    let means = Means {
        archive: Archive::new(archive.path().into(), 1).unwrap(),
        tombs: Tombs::open(&home("deletions"), volume.id).unwrap(),
        volumes: vec![volume],
        missing: 0,
        bounds: Bounds {
            keep_free_percent: 0,
            tenant_max_bytes: None,
            spool: None,
            look_every: Duration::from_secs(60),
        },
        kept: Arc::new(Kept::load(home("retention.json"))),
        holds: home("holds.json"),
        reported: Arc::default(),
        claims: Arc::default(),
        facts,
        clock: Arc::clone(clock) as Arc<dyn Clock>,
        storage: watch::channel(Storage::Ok).0,
    };
    (Janitor { means, sums: Sums::default(), complained: false, said_at: None }, facts_out)
}

fn camera() -> Key {
    Key { tenant_id: TenantId::DEFAULT, camera_id: CameraId::generate(&SystemIds) }
}

fn days(days: u32) -> Retention {
    Retention { max_days: Some(days), ..Retention::default() }
}

fn key(fact: &Fact) -> String {
    let Fact::SegmentDeleted(deleted) = fact else { panic!("{fact:?}") };
    deleted.key.clone()
}

#[test]
fn what_is_too_old_goes_and_is_told_and_then_forgotten() {
    let mut rig = Rig::ahead_ms(HOUR_MS);
    let camera = camera();
    rig.keep(camera, days(1));
    let (old, older, young) = (rig.store(camera, 26), rig.store(camera, 24 * 9), rig.store(camera, 3));
    assert_eq!(rig.work(), 2);
    assert!(!rig.path(&old).exists() && !rig.path(&older).exists() && rig.path(&young).exists());
    let told = rig.told();
    assert_eq!(told.iter().map(key).collect::<Vec<_>>(), [older.key(), old.key()]);
    let Fact::SegmentDeleted(deleted) = &told[0] else { unreachable!() };
    let expected = (older.start, older.start.plus_millis(HOUR_MS), 100, DeletionReason::Age);
    assert_eq!((deleted.start, deleted.end, deleted.bytes, deleted.reason), expected);
    // A day that has nothing left and is long over leaves no folder.
    assert!(!rig.path(&older).parent().unwrap().exists());
    assert!(rig.path(&young).parent().unwrap().exists());
    // Only when its fact is durable a deletion is forgotten.
    rig.work();
    assert_eq!(rig.janitor.means.tombs.begun().len(), 2);
    rig.janitor.means.reported.take(&told);
    rig.work();
    assert_eq!(rig.janitor.means.tombs.begun().len(), 2);
    rig.janitor.means.reported.all_durable();
    rig.work();
    assert_eq!(rig.again().1, Vec::<String>::new());
}

#[test]
fn wherever_it_ends_the_next_start_finishes_and_tells() {
    for unlinked in 0..=2 {
        let mut rig = Rig::ahead_ms(HOUR_MS);
        let camera = camera();
        let names = [rig.store(camera, 50), rig.store(camera, 40)];
        rig.keep(camera, days(1));
        rig.janitor.means.kept.save().unwrap();
        let (going, now) = rig.janitor.plan(vec![0]).unwrap();
        let begun: Vec<_> =
            going.iter().map(|going| intention(&rig.janitor.means.volumes, going, now)).collect();
        // Given a process that ends after it decided, and after it removed some …
        rig.janitor.means.tombs.begin(&begun).unwrap();
        names.iter().take(unlinked).for_each(|name| fs::remove_file(rig.path(name)).unwrap());
        // … then the next one removes the rest and tells all of them, with what is known of what is gone; …
        let (rig, told) = rig.again();
        assert_eq!(told, names.map(|name| name.key()), "{unlinked} were gone");
        assert!(names.iter().all(|name| !rig.path(name).exists()));
        // … and the one after that once more, unless they were told for good.
        assert_eq!(rig.again().1, told);
    }
}

#[test]
fn what_was_not_told_as_stored_does_not_go_yet() {
    // Of one day, and of two.
    not_told_as_stored([10, 11]);
    not_told_as_stored([-1, 1]);
    // And what got its name long ago was told by an earlier run.
    let mut rig = Rig::ahead_ms(2 * HOUR_MS);
    let camera = camera();
    rig.store(camera, 3);
    rig.keep(camera, Retention { max_bytes: Some(1), ..Retention::default() });
    assert_eq!(rig.work(), 1);
}

/// Two segments that begin so many hours after a midnight.
fn not_told_as_stored(hours: [i64; 2]) {
    let mut rig = Rig::ahead_ms(0);
    let camera = camera();
    let midnight = Timestamp::from_millis((rig.clock.now().as_micros() / 1_000 / DAY_MS - 1) * DAY_MS);
    let names = hours.map(|hours| rig.store_from(camera, midnight.plus_millis(hours * HOUR_MS)));
    rig.keep(camera, Retention { max_bytes: Some(1), ..Retention::default() });
    assert_eq!(rig.work(), 0);
    let stored = |name: SegmentName| {
        Fact::SegmentStored(SegmentStored {
            tenant_id: name.tenant_id,
            camera_id: name.camera_id,
            epoch: name.epoch,
            key: name.key(),
            start: name.start,
            end: name.start.plus_millis(HOUR_MS),
            bytes: 100,
            sha256: Sha256::of(b""),
            video_frames: 1,
            video: Codec::H264,
            audio: None,
            repaired: false,
        })
    };
    // The second one's fact is on its way, the first one's is not: not even the second goes.
    rig.janitor.means.reported.take(&[stored(names[1])]);
    rig.janitor.means.reported.all_durable();
    assert_eq!(rig.work(), 0);
    rig.janitor.means.reported.take(&[stored(names[0])]);
    assert_eq!(rig.work(), 0, "it is in memory only");
    rig.janitor.means.reported.all_durable();
    assert_eq!(rig.work(), 2);
}

#[test]
fn holds_are_kept_and_while_they_cannot_be_read_nothing_goes() {
    let mut rig = Rig::ahead_ms(HOUR_MS);
    let camera = camera();
    rig.keep(camera, days(1));
    let (held, other) = (rig.store(camera, 60), rig.store(camera, 50));
    let path = rig.archive.path().join(".longwatch/holds.json");
    fs::write(&path, "{").unwrap();
    assert_eq!(rig.work(), 0);
    let (from, to) = (held.start, held.start.plus_millis(1_000));
    let Key { tenant_id, camera_id } = camera;
    let hold = serde_json::json!({ "tenant_id": tenant_id, "camera_id": camera_id, "from": from, "to": to });
    fs::write(&path, serde_json::json!({ "holds": [hold] }).to_string()).unwrap();
    assert_eq!(rig.work(), 1);
    assert!(rig.path(&held).exists() && !rig.path(&other).exists());
}

#[test]
fn only_as_many_days_are_read_as_are_needed() {
    let mut rig = Rig::ahead_ms(HOUR_MS);
    let camera = camera();
    let all: Vec<_> = (0..10).map(|day| rig.store(camera, 24 * day + 12)).collect();
    rig.keep(camera, Retention { max_bytes: Some(800), ..Retention::default() });
    let (days, reported) = (vec![inventory::days(rig.archive.path()).unwrap()], Reported::default());
    let limits = Limits { cameras: rig.janitor.means.kept.known(), to_free: vec![0], ..Limits::default() };
    let (holds, now) = (Holds::default(), rig.clock.now());
    let claims = Claims::default();
    let view = survey::View {
        days: &days,
        limits: &limits,
        holds: &holds,
        reported: &reported,
        claims: &claims,
        now,
    };
    let known = survey::survey(&view, &mut Sums::default()).unwrap();
    assert_eq!((known.segments.len(), known.unnamed_bytes[&camera]), (2, 800));
    assert_eq!(rig.work(), 2);
    assert!(!rig.path(&all[9]).exists() && !rig.path(&all[8]).exists() && rig.path(&all[7]).exists());
    // A tenant may have less still; and a volume that lacks space takes all but the newest.
    rig.janitor.means.bounds.tenant_max_bytes = Some(500);
    assert_eq!(rig.work(), 3);
    assert_eq!(*rig.janitor.means.storage.borrow(), Storage::Ok);
    let (going, _) = rig.janitor.plan(vec![u64::MAX]).unwrap();
    assert_eq!(going.len(), 4);
    assert!(going.iter().all(|going| going.reason == DeletionReason::VolumeFull));
}
