//! An archive in an object store: a real S3 server over HTTP, and everything that can go wrong on the way to it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use longwatch_events::event::{Storage, Upload};
use longwatch_events::fact::{Cause, DeletionReason, Fact, SegmentUploaded};
use longwatch_events::hash::Sha256;
use longwatch_events::id::TenantId;
use longwatch_testing::s3::{Fault, S3};
use tokio::time::Instant;

use crate::playing::PlayingCamera;
use crate::storage::{deleted, files, put_old, stored};
use crate::system::{System, camera, camera_id, eventually};

pub(crate) fn uploaded(facts: &[Fact]) -> Vec<&SegmentUploaded> {
    facts
        .iter()
        .filter_map(|fact| if let Fact::SegmentUploaded(uploaded) = fact { Some(uploaded) } else { None })
        .collect()
}

/// What is left of segments in the spool, whatever it is called.
pub(crate) fn left(system: &System) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![system.path("archive")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if path.is_dir() && !name.starts_with('.') {
                folders.push(path);
            } else if name.contains(".mp4") {
                found.push(name);
            }
        }
    }
    found
}

/// What is in the bucket, by the keys of segments.
pub(crate) fn objects(s3: &S3) -> BTreeMap<String, Vec<u8>> {
    let below = |(key, content): (String, Vec<u8>)| {
        (key.strip_prefix("lw/").expect("all is below the prefix").to_owned(), content)
    };
    let is_segment = |(key, _): &(String, Vec<u8>)| !key.starts_with("lw/.longwatch/");
    s3.objects().into_iter().filter(is_segment).map(below).collect()
}

/// Each segment of which the log says that it is uploaded is there as it was stored; and nothing else is.
fn assert_bucket_is_as_told(s3: &S3, facts: &[Fact]) {
    let objects = objects(s3);
    let stored: BTreeMap<_, _> = stored(facts).into_iter().map(|stored| (&stored.key, stored)).collect();
    let told: BTreeSet<_> = uploaded(facts).iter().map(|uploaded| &uploaded.key).collect();
    assert_eq!(objects.keys().collect::<BTreeSet<_>>(), told);
    for uploaded in uploaded(facts) {
        let (content, stored) = (&objects[&uploaded.key], stored[&uploaded.key]);
        let is = (content.len() as u64, Sha256::of(content));
        assert_eq!(is, (uploaded.bytes, uploaded.sha256), "{}", uploaded.key);
        assert_eq!(is, (stored.bytes, stored.sha256), "{}", uploaded.key);
    }
    // Nothing is told as uploaded before it is told as stored.
    let mut known = BTreeSet::new();
    for fact in facts {
        if let Fact::SegmentStored(stored) = fact {
            known.insert(&stored.key);
        }
        if let Fact::SegmentUploaded(uploaded) = fact {
            assert!(known.contains(&uploaded.key), "{} is uploaded before it is stored", uploaded.key);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_goes_wrong_every_segment_is_in_the_object_store_once() {
    let (system, s3) = (System::start().await, S3::start());
    // A third of all requests meets some fault.
    s3.faults().draw(20_261_129, 333);
    let playing = [PlayingCamera::sending(900).await, PlayingCamera::sending(900).await];
    system.write_join_key();
    let arguments = ["--segment-ms", "1000"];
    let mut worker = system.start_worker_spooling(&s3, &arguments);
    let key = system.joined().await.public_key;
    let cameras = playing.iter().zip(1..).map(|(playing, n)| camera(n, 1, &playing.url(), key)).collect();
    system.assign(1, vec![cameras]).await;
    // Killed while it uploads.
    for kill in 1..=3 {
        eventually("segments arrive", async || (s3.objects().len() >= kill * 4).then_some(())).await;
        let before = system.heartbeat().await.unwrap().boot_id;
        worker.kill().await;
        worker = system.start_worker_spooling(&s3, &arguments);
        system.heartbeat_that("it is back", |h| h.boot_id != before).await;
    }
    // An outage: recording goes on, and says so.
    s3.faults().outage(true);
    let waiting = system
        .heartbeat_that("segments wait", |h| h.load.spool.is_some_and(|spool| spool.segments >= 8))
        .await;
    let spool = waiting.load.spool.unwrap();
    assert_eq!((spool.upload, waiting.load.storage), (Upload::Unreachable, Storage::Low), "{spool:?}");
    assert!(waiting.load.recording == 2 && spool.bytes > 0 && spool.oldest_s > 0, "{waiting:?}");
    s3.faults().outage(false);
    system.heartbeat_that("it catches up", |h| h.load.spool.is_some_and(|s| s.segments <= 3)).await;
    // When nothing more comes, nothing is left.
    system.assign(2, vec![vec![]]).await;
    system
        .heartbeat_that("all is uploaded and told", |h| {
            h.load.cameras == 0 && h.load.spool.is_some_and(|s| s.segments == 0) && h.load.outbox_facts == 0
        })
        .await;
    assert_eq!(worker.terminate().await, Some(0));

    let (facts, met) = (system.facts().await, s3.faults().met());
    println!("{} segments, {met:?}", stored(&facts).len());
    assert!(Fault::ALL.iter().all(|fault| met.contains_key(fault)), "not all that can go wrong did: {met:?}");
    assert_bucket_is_as_told(&s3, &facts);
    let told: BTreeSet<_> = stored(&facts).iter().map(|stored| stored.key.clone()).collect();
    // A camera's last segment may end a moment after it was told that there is no camera: it waits for the next run.
    let there = objects(&s3).into_keys().chain(files(&system.path("archive")).into_keys());
    assert_eq!(there.collect::<BTreeSet<_>>(), told, "all that was stored is there");
    assert!(deleted(&facts).is_empty());
    // Nothing is missing but what the kills cost.
    for fact in &facts {
        if let Fact::Gap(gap) = fact {
            assert_eq!(gap.cause, Cause::WorkerRestarted, "{gap:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_spool_loses_the_oldest_that_is_not_held_and_says_so() {
    let (system, s3) = (System::start().await, S3::start());
    s3.faults().outage(true);
    let archive = system.path("archive");
    // Given a spool for six mebibytes, with three that are held, which are the oldest, and ten that are not.
    let held: BTreeSet<_> = (0..3).map(|minute| put_old(&system, 8, minute, 1)).collect();
    let waiting: Vec<_> = (0..10).map(|minute| put_old(&system, 9, 100 + minute, 1)).collect();
    let hold = serde_json::json!({ "tenant_id": TenantId::DEFAULT, "camera_id": camera_id(8),
        "from": "2026-01-02T03:00:00Z", "to": "2026-01-02T03:03:00Z", "why": "case 17" });
    std::fs::create_dir_all(archive.join(".longwatch")).unwrap();
    std::fs::write(archive.join(".longwatch/holds.json"), serde_json::json!({ "holds": [hold] }).to_string())
        .unwrap();
    system.write_join_key();
    let bytes = (6_u64 << 20) + (1 << 19);
    let worker = system.start_worker_spooling(&s3, &["--spool-max-bytes", &bytes.to_string()]);
    system.joined().await;
    let gone = eventually("what is too much goes", async || {
        let facts = system.facts().await;
        let gone: Vec<_> = deleted(&facts).into_iter().cloned().collect();
        (gone.len() >= 7).then_some(gone)
    })
    .await;
    // The oldest that are not held, and no more than had to.
    assert_eq!(
        gone.iter().map(|gone| &gone.key).collect::<Vec<_>>(),
        waiting[..7].iter().collect::<Vec<_>>()
    );
    assert!(gone.iter().all(|gone| gone.reason == DeletionReason::SpoolFull), "{gone:?}");
    system
        .heartbeat_that("it is said", |h| {
            h.load.spool.is_some_and(|s| s.upload == Upload::Unreachable && s.segments == 6)
                && h.load.storage >= Storage::Low
        })
        .await;
    let kept: BTreeSet<_> = held.iter().chain(&waiting[7..]).cloned().collect();
    assert_eq!(files(&archive).into_keys().collect::<BTreeSet<_>>(), kept);
    // When the store is back, the rest is uploaded, and nothing more is lost.
    s3.faults().outage(false);
    eventually("the spool is empty", async || left(&system).is_empty().then_some(())).await;
    system.heartbeat_that("nothing waits", |h| h.load.outbox_facts == 0).await;
    assert_eq!(worker.terminate().await, Some(0));
    let facts = system.facts().await;
    assert_eq!(deleted(&facts).len(), 7);
    assert_eq!(objects(&s3).into_keys().collect::<BTreeSet<_>>(), kept);
    assert_bucket_is_as_told(&s3, &facts);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_uploaded_and_not_told_is_told_by_the_next_start_and_a_conflict_is_said() {
    let (system, s3) = (System::start().await, S3::start());
    let archive = system.path("archive");
    // Given a segment that an earlier run had uploaded when it was killed, …
    let before = put_old(&system, 1, 0, 1);
    let content = std::fs::read(archive.join(&before)).unwrap();
    s3.put(&format!("lw/{before}"), &content);
    std::fs::rename(archive.join(&before), archive.join(format!("{before}.uploaded"))).unwrap();
    // … one that had arrived when the answer was lost, …
    let arrived = put_old(&system, 1, 1, 1);
    s3.put(&format!("lw/{arrived}"), &std::fs::read(archive.join(&arrived)).unwrap());
    // … and one in whose place another object lies.
    let other = put_old(&system, 1, 2, 1);
    s3.put(&format!("lw/{other}"), b"other");
    let last = put_old(&system, 1, 3, 1);
    system.write_join_key();
    let worker = system.start_worker_spooling(&s3, &[]);
    system.joined().await;
    system
        .heartbeat_that("the conflict is said", |h| {
            h.load.spool.is_some_and(|s| s.upload == Upload::Conflict && s.segments == 1)
                && h.load.storage == Storage::Low
        })
        .await;
    let facts = eventually("the others are told", async || {
        let facts = system.facts().await;
        (uploaded(&facts).len() >= 3).then_some(facts)
    })
    .await;
    let told: BTreeMap<_, _> = uploaded(&facts).into_iter().map(|told| (&told.key, told.sha256)).collect();
    assert_eq!(told.keys().copied().collect::<BTreeSet<_>>(), BTreeSet::from([&before, &arrived, &last]));
    assert_eq!(told[&before], Sha256::of(&content));
    eventually("only what is in conflict is left", async || {
        (left(&system) == [other.rsplit('/').next().unwrap()]).then_some(())
    })
    .await;
    assert_eq!(objects(&s3)[&other], b"other");
    assert_eq!(worker.terminate().await, Some(0));
}

/// An outage must be over sooner than it lasted.
#[tokio::test(flavor = "multi_thread")]
async fn what_waited_is_uploaded_at_least_twice_as_fast_as_it_came() {
    const CAMERAS: u32 = 8;
    let (system, s3) = (System::start().await, S3::start());
    // About 2 Mbit/s each.
    let mut playing = Vec::new();
    for _ in 0..CAMERAS {
        playing.push(PlayingCamera::sending(10_000).await);
    }
    system.write_join_key();
    let worker = system.start_worker_spooling(&s3, &["--segment-ms", "1000"]);
    let key = system.joined().await.public_key;
    let cameras = playing.iter().zip(1..).map(|(playing, n)| camera(n, 1, &playing.url(), key)).collect();
    system.assign(1, vec![cameras]).await;
    system.heartbeat_that("all are recorded", |h| h.load.recording == CAMERAS).await;
    s3.faults().outage(true);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let before = system.heartbeat().await.unwrap().load;
    let waiting = before.spool.unwrap();
    assert!(waiting.segments > 8 * 5, "{waiting:?}");
    s3.faults().outage(false);
    let was_there = s3.objects().len();
    // From when the store is asked again: until then it is not known to be back.
    eventually("it is asked again", async || (s3.objects().len() > was_there).then_some(())).await;
    let began = Instant::now();
    let drained =
        system.heartbeat_that("it caught up", |h| h.load.spool.is_some_and(|s| s.segments <= 8)).await;
    let took = began.elapsed();
    let came = drained.load.received_bytes_per_s.max(before.received_bytes_per_s);
    #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
    let times = 1.0 + waiting.bytes as f64 / took.as_secs_f64() / came as f64;
    println!(
        "{} segments, {} bytes were gone after {took:?} while {came} bytes/s came: {times:.1} times the ingest",
        waiting.segments, waiting.bytes
    );
    assert!(times >= 2.0, "{times:.1}");
    assert_eq!(worker.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_not_there_is_said_and_recording_goes_on_until_it_is() {
    let (system, s3) = (System::start().await, S3::start());
    s3.faults().hide_bucket(true);
    let playing = PlayingCamera::sending(900).await;
    system.write_join_key();
    let worker = system.start_worker_spooling(&s3, &["--segment-ms", "1000"]);
    let key = system.joined().await.public_key;
    system.assign(1, vec![vec![camera(1, 1, &playing.url(), key)]]).await;
    let refused = system
        .heartbeat_that("it is said", |h| {
            h.load.spool.is_some_and(|spool| spool.upload == Upload::Refused && spool.segments >= 4)
        })
        .await;
    assert_eq!((refused.load.recording, refused.load.storage), (1, Storage::Low));
    let log = std::fs::read_to_string(system.path("worker.log")).unwrap();
    let said = log.lines().find(|line| line.contains("takes nothing")).expect("the log says so, too");
    assert!(said.contains("NoSuchBucket"), "{said}");
    s3.faults().hide_bucket(false);
    system
        .heartbeat_that("it goes on by itself", |h| {
            h.load.spool.is_some_and(|spool| spool.upload == Upload::Ok && spool.segments <= 1)
        })
        .await;
    assert!(objects(&s3).len() >= 4 && deleted(&system.facts().await).is_empty());
    assert_eq!(worker.terminate().await, Some(0));
}
