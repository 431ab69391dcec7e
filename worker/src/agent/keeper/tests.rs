//! With a real S3 server over HTTP, and a log that folds what it is told.

use longwatch_events::archive::StockedSegment;
use longwatch_events::fact::{DeletionReason, SegmentChecked, SegmentDeleted};
use longwatch_events::hash::Sha256;
use longwatch_events::id::{CameraId, SystemIds, TenantId};
use longwatch_events::position::Epoch;
use longwatch_events::settings::Retention;
use longwatch_events::time::ManualClock;
use longwatch_testing::s3::{BUCKET, S3};
use tempfile::TempDir;
use tokio::sync::mpsc::{self, UnboundedReceiver};

use super::*;
use crate::archive::layout::SegmentName;
use crate::archive::s3::{Bucket, MARKER, Settings};
use crate::identity::Membership;
use crate::plan::Key;

/// 2026-11-23T08:00:00Z.
const NOW: Timestamp = Timestamp::from_millis(1_795_420_800_000);
const HOUR_MS: i64 = 3_600_000;
/// The log tells so many segments of a camera at once.
const OF_CAMERA: usize = 20;

/// What the log knows, and what it was told.
#[derive(Default)]
struct Log {
    known: Mutex<Vec<(Key, Stock, StockedSegment)>>,
    kept: Mutex<BTreeMap<Key, Retention>>,
    told: Mutex<Vec<Fact>>,
}

impl Log {
    fn fold(&self, fact: &Fact) {
        let mut known = self.known.lock().unwrap();
        match fact {
            Fact::SegmentDeleted(f) => known.retain(|(_, _, segment)| segment.key != f.key),
            Fact::SegmentChecked(f) if f.damage == Some(Damage::Missing) => {
                known.retain(|(_, _, segment)| segment.key != f.key);
            }
            Fact::SegmentChecked(f) => {
                known.iter_mut().filter(|(_, _, s)| s.key == f.key).for_each(|(_, _, s)| s.damage = f.damage);
            }
            other @ (Fact::Started(_)
            | Fact::FirstKeyframeDurable(_)
            | Fact::SegmentStored(_)
            | Fact::SegmentUploaded(_)
            | Fact::Interrupted(_)
            | Fact::Gap(_)
            | Fact::TimestampJumped(_)
            | Fact::RecordingTriggered(_)) => panic!("nobody tells {other:?}"),
        }
        self.told.lock().unwrap().push(fact.clone());
    }

    fn deleted(&self) -> Vec<SegmentDeleted> {
        let of = |fact: &Fact| if let Fact::SegmentDeleted(f) = fact { Some(f.clone()) } else { None };
        self.told.lock().unwrap().iter().filter_map(of).collect()
    }

    fn checked(&self) -> Vec<SegmentChecked> {
        let of = |fact: &Fact| if let Fact::SegmentChecked(f) = fact { Some(f.clone()) } else { None };
        self.told.lock().unwrap().iter().filter_map(of).collect()
    }
}

impl Stocks for Log {
    async fn part(&self, server_id: ServerId, request: ArchiveRequest) -> Result<StockPart, String> {
        let (known, kept) = (self.known.lock().unwrap(), self.kept.lock().unwrap());
        let (of, from) = (request.of.unwrap(), request.from);
        let mut cameras = Vec::new();
        for (key, retention) in kept.iter() {
            let Key { tenant_id, camera_id } = *key;
            if (tenant_id, camera_id) < (from.tenant_id, from.camera_id) {
                continue;
            }
            let mut all: Vec<_> = known.iter().filter(|(camera, at, _)| (camera, *at) == (key, of)).collect();
            all.sort_by_key(|(_, _, segment)| segment.start);
            let bytes = all.iter().map(|(_, _, segment)| segment.bytes).sum();
            let since = if camera_id == from.camera_id { from.start } else { Timestamp::UNIX_EPOCH };
            let mut segments: Vec<_> =
                all.into_iter().map(|(_, _, s)| s.clone()).filter(|s| s.start >= since).collect();
            let more = segments.len() > OF_CAMERA;
            segments.truncate(OF_CAMERA);
            cameras.push(StockedCamera {
                tenant_id,
                camera_id,
                retention: *retention,
                bytes,
                segments,
                more,
            });
        }
        Ok(StockPart { server_id, of, at: NOW, cameras, next: None })
    }
}

struct Rig {
    s3: S3,
    folder: TempDir,
    log: Arc<Log>,
    server_id: ServerId,
    store_id: StoreId,
    keeper: Keeper<Log>,
    /// What is told, if the log does not take it by itself.
    facts: Option<UnboundedReceiver<Fact>>,
}

fn settings(s3: &S3) -> Settings {
    Settings {
        bucket: BUCKET.to_owned(),
        prefix: "lw".to_owned(),
        endpoint: Some(s3.endpoint()),
        region: None,
        credentials_file: Some(s3.credentials_file()),
        allow_http: true,
        concurrency: 1,
        max_bytes_per_second: None,
        retention_every: Some(Duration::from_secs(1)),
    }
}

fn keeper(
    folder: &TempDir,
    s3: &S3,
    log: &Arc<Log>,
    server_id: ServerId,
) -> (Keeper<Log>, UnboundedReceiver<Fact>) {
    let (settings, path) = (settings(s3), |name: &str| folder.path().join(name));
    let which = WhichStore::load(path("store.json"), &settings, Bucket::open(&settings).unwrap());
    let (facts, facts_out) = mpsc::unbounded_channel();
    let standing = Standing::remembered(Some(Membership { server_id, adopted: true }));
    std::fs::create_dir_all(path(FOLDER)).unwrap();
    let volume = "01935700-0000-7000-8009-000000000001".parse().unwrap();
    let keeper = Keeper {
        stocks: Arc::clone(log),
        which: Arc::new(which),
        tombs: Arc::new(Mutex::new(Tombs::open(&path(FOLDER).join(FILE), volume).unwrap())),
        holds: path("holds.json"),
        standing: watch::channel(standing).1,
        outbox: Arc::new(Outbox::open(path("outbox")).unwrap()),
        reported: Arc::new(Reported::telling(Some(mpsc::unbounded_channel().0))),
        facts,
        clock: Arc::new(ManualClock::starting_at(NOW)),
        retention: watch::channel(StoreRetention::Ok).0,
        told: BTreeSet::new(),
        deleted: 0,
    };
    (keeper, facts_out)
}

impl Rig {
    /// With a log that takes what is told at once.
    async fn new() -> Self {
        let mut rig = Self::deaf().await;
        rig.listen();
        rig
    }

    /// With a log that takes nothing.
    async fn deaf() -> Self {
        let (s3, folder, log) = (S3::start(), tempfile::tempdir().unwrap(), Arc::<Log>::default());
        let server_id = ServerId::generate(&SystemIds);
        let (keeper, facts) = keeper(&folder, &s3, &log, server_id);
        let store_id = keeper.which.get().await.unwrap();
        Self { s3, folder, log, server_id, store_id, keeper, facts: Some(facts) }
    }

    /// As the next run begins.
    fn again(self) -> Self {
        let Self { s3, folder, log, server_id, store_id, .. } = self;
        let (keeper, facts) = keeper(&folder, &s3, &log, server_id);
        Self { s3, folder, log, server_id, store_id, keeper, facts: Some(facts) }
    }

    fn listen(&mut self) {
        let (log, reported) = (Arc::clone(&self.log), Arc::clone(&self.keeper.reported));
        let mut facts = self.facts.take().unwrap();
        tokio::spawn(async move {
            while let Some(fact) = facts.recv().await {
                log.fold(&fact);
                reported.take(&[fact]);
                reported.all_durable();
            }
        });
    }

    fn camera(&self, retention: Retention) -> Key {
        let camera = Key { tenant_id: TenantId::DEFAULT, camera_id: CameraId::generate(&SystemIds) };
        self.log.kept.lock().unwrap().insert(camera, retention);
        camera
    }

    /// Uploads an hour of video that ended so long ago; its key.
    async fn put(&self, camera: Key, hours_ago: i64, by: ServerId) -> String {
        let Key { tenant_id, camera_id } = camera;
        let end = NOW.plus_millis(-hours_ago * HOUR_MS);
        let start = end.plus_millis(-HOUR_MS);
        let key = SegmentName { tenant_id, camera_id, start, epoch: Epoch(3), server_id: by }.key();
        let content = format!("ten bytes {hours_ago:03}");
        let path = self.folder.path().join("video");
        std::fs::write(&path, &content).unwrap();
        self.keeper.which.bucket().put(&key, &path, end).await.unwrap();
        let (bytes, sha256) = (content.len() as u64, Sha256::of(content.as_bytes()));
        let segment = StockedSegment { key: key.clone(), start, end, bytes, sha256, damage: None };
        self.log.known.lock().unwrap().push((camera, Stock::Store(self.store_id), segment));
        key
    }

    /// The keys in the bucket.
    fn objects(&self) -> BTreeSet<String> {
        let objects = self.s3.objects().into_keys();
        let keys = objects.map(|key| key.strip_prefix("lw/").unwrap().to_owned());
        keys.filter(|key| !key.starts_with(".longwatch/")).collect()
    }

    /// A pass that works; how many segments it deleted.
    async fn pass(&mut self) -> usize {
        match self.keeper.pass().await {
            Ok(deleted) => {
                // All of it is folded, not only sent.
                assert!(self.keeper.settle().await.is_ok());
                deleted
            }
            Err(held) => panic!("{}", self.keeper.say_why(&held)),
        }
    }

    /// Why a pass does not work, and what is said.
    async fn held(&mut self) -> (String, StoreRetention) {
        let held = self.keeper.pass().await.expect_err("it cannot work");
        let why = self.keeper.say_why(&held);
        (why, *self.keeper.retention.borrow())
    }
}

fn days(days: u32) -> Retention {
    Retention { max_days: Some(days), ..Retention::default() }
}

fn hold(camera: Key, hours_ago: i64) -> String {
    let until = NOW.plus_millis(-hours_ago * HOUR_MS);
    serde_json::json!({ "holds": [{ "tenant_id": camera.tenant_id, "camera_id": camera.camera_id,
        "from": until.plus_millis(-1), "to": until, "why": "case 17" }] })
    .to_string()
}

#[tokio::test]
async fn what_is_too_old_or_too_much_goes_whoever_uploaded_it_and_what_is_held_stays() {
    let mut rig = Rig::new().await;
    let (ours, other) = (rig.server_id, ServerId::generate(&SystemIds));
    let (by_age, by_bytes) = (rig.camera(days(1)), rig.camera(Retention { max_bytes: Some(26), ..days(9) }));
    let mut old = Vec::new();
    for (hours_ago, by) in [(50, ours), (49, other), (48, ours), (47, ours), (23, ours)] {
        old.push(rig.put(by_age, hours_ago, by).await);
    }
    let mut many = Vec::new();
    for hours_ago in [9, 8, 7, 6] {
        many.push(rig.put(by_bytes, hours_ago, other).await);
    }
    // One that is held by a file of this server, and one by a file in the store.
    std::fs::write(&rig.keeper.holds, hold(by_age, 48)).unwrap();
    rig.s3.put(&format!("lw/{HOLDS}"), hold(by_age, 47).as_bytes());

    assert_eq!(rig.pass().await, 4);
    let kept: BTreeSet<_> = old[2..].iter().chain(&many[2..]).cloned().collect();
    assert_eq!(rig.objects(), kept);
    let told: BTreeMap<_, _> = rig.log.deleted().into_iter().map(|f| (f.key.clone(), f)).collect();
    assert_eq!(told.keys().cloned().collect::<Vec<_>>(), {
        let mut gone = [&old[..2], &many[..2]].concat();
        gone.sort();
        gone
    });
    for (key, by, reason) in [
        (&old[0], None, DeletionReason::Age),
        (&old[1], Some(other), DeletionReason::Age),
        (&many[0], Some(other), DeletionReason::CameraBytes),
    ] {
        assert_eq!((told[key].recorded_by, told[key].reason), (by, reason));
        assert_eq!((told[key].store_id, told[key].bytes), (Some(rig.store_id), 13));
    }
    // Nothing is left to do, and nothing is remembered.
    assert_eq!((rig.pass().await, rig.keeper.tombs().begun().len()), (0, 0));
    assert_eq!(rig.s3.faults().deletions(), 4);
    // The hold ends.
    std::fs::remove_file(&rig.keeper.holds).unwrap();
    assert_eq!(rig.pass().await, 1);
    assert!(!rig.objects().contains(&old[2]) && rig.objects().contains(&old[3]));
}

#[tokio::test]
async fn a_long_backlog_goes_part_by_part_and_no_more_than_has_to() {
    let mut rig = Rig::new().await;
    // Three parts of one camera, of which so much may stay that the last part does but for one.
    let camera = rig.camera(Retention { max_bytes: Some(13 * 19), ..Retention::default() });
    let mut keys = Vec::new();
    for hours_ago in (1..=60).rev() {
        keys.push(rig.put(camera, hours_ago, rig.server_id).await);
    }
    std::fs::write(&rig.keeper.holds, hold(camera, 60)).unwrap();
    assert_eq!(rig.pass().await, 41);
    let kept: BTreeSet<_> = keys[42..].iter().chain(&keys[..1]).cloned().collect();
    assert_eq!(rig.objects(), kept);
    assert_eq!(rig.log.deleted().len(), 41);
}

#[tokio::test]
async fn what_is_missing_or_something_else_is_told_once_and_left_alone() {
    let mut rig = Rig::new().await;
    let (camera, other) = (rig.camera(days(1)), ServerId::generate(&SystemIds));
    let (gone, replaced) = (rig.put(camera, 50, other).await, rig.put(camera, 49, rig.server_id).await);
    let (longer, old) = (rig.put(camera, 48, other).await, rig.put(camera, 47, other).await);
    rig.s3.remove(&format!("lw/{gone}"));
    // One that is not what the log says, by its hash, and one by its size.
    let other_hash =
        |(_, _, segment): &mut (Key, Stock, StockedSegment)| segment.sha256 = Sha256::of(b"other");
    rig.log.known.lock().unwrap().iter_mut().filter(|(_, _, s)| s.key == replaced).for_each(other_hash);
    rig.s3.put(&format!("lw/{longer}"), b"something else");

    assert_eq!(rig.pass().await, 1);
    assert_eq!(rig.objects(), BTreeSet::from([replaced.clone(), longer.clone()]));
    let found: BTreeMap<_, _> = rig
        .log
        .checked()
        .into_iter()
        .map(|f| (f.key.clone(), (f.damage, f.recorded_by, f.store_id)))
        .collect();
    let (missing, corrupt, store) = (Some(Damage::Missing), Some(Damage::Corrupt), Some(rig.store_id));
    let expected = [
        (gone, (missing, Some(other), store)),
        (replaced, (corrupt, None, store)),
        (longer, (corrupt, Some(other), store)),
    ];
    assert_eq!(found, BTreeMap::from(expected));
    assert_eq!(rig.log.deleted().iter().map(|f| &f.key).collect::<Vec<_>>(), [&old]);
    assert_eq!((rig.pass().await, rig.log.checked().len()), (0, 3), "once");
}

#[tokio::test]
async fn while_holds_cannot_be_read_nothing_is_deleted() {
    let mut rig = Rig::new().await;
    let camera = rig.camera(days(1));
    let key = rig.put(camera, 50, rig.server_id).await;
    std::fs::write(&rig.keeper.holds, "{").unwrap();
    let (why, _) = rig.held().await;
    assert!(why.contains("nothing is deleted") && why.contains("holds.json"), "{why}");
    std::fs::remove_file(&rig.keeper.holds).unwrap();
    rig.s3.put(&format!("lw/{HOLDS}"), b"{");
    let (why, said) = rig.held().await;
    assert!(why.contains("in the object store") && why.contains("nothing is deleted"), "{why}");
    assert_eq!((rig.objects(), said), (BTreeSet::from([key]), StoreRetention::Ok));
    rig.s3.remove(&format!("lw/{HOLDS}"));
    assert_eq!(rig.pass().await, 1);
}

#[tokio::test]
async fn a_store_that_denies_or_is_away_is_said_and_what_was_begun_goes_when_it_is_back() {
    let mut rig = Rig::new().await;
    let camera = rig.camera(days(1));
    let keys = [rig.put(camera, 50, rig.server_id).await, rig.put(camera, 49, rig.server_id).await];
    rig.s3.faults().deny_deletions(true);
    let (why, said) = rig.held().await;
    assert_eq!(said, StoreRetention::Refused, "{why}");
    assert_eq!((rig.objects().len(), rig.log.deleted().len(), rig.keeper.tombs().begun().len()), (2, 0, 2));
    rig.s3.faults().outage(true);
    let (why, said) = rig.held().await;
    assert_eq!(said, StoreRetention::Unreachable, "{why}");
    rig.s3.faults().outage(false);
    rig.s3.faults().deny_deletions(false);
    // It is not decided anew: what is begun is finished.
    rig.log.kept.lock().unwrap().insert(camera, Retention::default());
    assert_eq!(rig.pass().await, 2);
    let told: Vec<_> = rig.log.deleted().into_iter().map(|f| f.key).collect();
    assert_eq!((told, rig.objects()), (keys.to_vec(), BTreeSet::new()));
    assert_eq!(rig.keeper.tombs().begun().len(), 0);
}

#[tokio::test]
async fn what_an_earlier_run_began_is_finished_and_told_once() {
    let rig = Rig::deaf().await;
    let camera = rig.camera(days(1));
    let mut keys = Vec::new();
    for hours_ago in [50, 49, 48] {
        keys.push(rig.put(camera, hours_ago, rig.server_id).await);
    }
    // A run begins with three, and ends: one was deleted by then, and somebody put something else in another's place.
    let mut rig = rig;
    rig.s3.faults().deny_deletions(true);
    assert_eq!(rig.held().await.1, StoreRetention::Refused);
    rig.s3.remove(&format!("lw/{}", keys[0]));
    rig.s3.put(&format!("lw/{}", keys[1]), b"something else");
    rig.s3.faults().deny_deletions(false);
    let mut rig = rig.again();
    rig.listen();
    assert_eq!(rig.pass().await, 2);
    let told: BTreeSet<_> = rig.log.deleted().into_iter().map(|f| f.key).collect();
    assert_eq!(told, BTreeSet::from([keys[0].clone(), keys[2].clone()]));
    assert_eq!(rig.objects(), BTreeSet::from([keys[1].clone()]));
    let mut rig = rig.again();
    rig.listen();
    assert_eq!((rig.pass().await, rig.log.deleted().len()), (0, 2));
}

#[tokio::test]
async fn before_what_was_told_is_in_the_log_no_more_goes() {
    let mut rig = Rig::deaf().await;
    let camera = rig.camera(Retention { max_bytes: Some(13), ..Retention::default() });
    for hours_ago in [50, 49] {
        rig.put(camera, hours_ago, rig.server_id).await;
    }
    // The log still counts what is gone: nothing is decided by that, in this pass or in one that begins anew.
    for _ in 0..2 {
        let passed = tokio::time::timeout(Duration::from_millis(500), rig.keeper.pass()).await;
        assert!(passed.is_err() && rig.objects().len() == 1);
    }
    rig.listen();
    assert_eq!((rig.pass().await, rig.objects().len()), (0, 1));
}

#[tokio::test]
async fn nothing_is_deleted_in_a_store_that_says_it_is_another() {
    let mut rig = Rig::new().await;
    let camera = rig.camera(days(1));
    rig.put(camera, 50, rig.server_id).await;
    rig.s3.faults().deny_deletions(true);
    assert_eq!(rig.held().await.1, StoreRetention::Refused);
    rig.s3.faults().deny_deletions(false);
    let other = StoreId::generate(&SystemIds);
    rig.s3.put(&format!("lw/{MARKER}"), format!("{{\"store_id\": \"{other}\"}}").as_bytes());
    // Nor is what was begun there finished here.
    assert_eq!((rig.pass().await, rig.objects().len()), (0, 1));
    assert_eq!((rig.log.deleted().len(), rig.keeper.tombs().begun().len()), (0, 0));
}

#[tokio::test]
async fn what_lies_nobody_knows_where_goes_if_it_is_found_and_is_not_called_missing() {
    let mut rig = Rig::new().await;
    let camera = rig.camera(days(1));
    let (gone, old) = (rig.put(camera, 50, rig.server_id).await, rig.put(camera, 49, rig.server_id).await);
    rig.log.known.lock().unwrap().iter_mut().for_each(|(_, of, _)| *of = Stock::Unknown);
    rig.s3.remove(&format!("lw/{gone}"));
    assert_eq!(rig.pass().await, 1);
    let told = rig.log.deleted();
    assert_eq!((told.len(), &told[0].key, told[0].store_id), (1, &old, None));
    assert_eq!(rig.log.checked().len(), 0);
}
