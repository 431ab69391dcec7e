//! Retention in an object store: a real S3 server over HTTP, and control's part told from the facts in the log.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use crypto_box::aead::OsRng;
use futures::StreamExt;
use longwatch_events::archive::{
    ArchiveReply, ArchiveRequest, Stock, StockPart, StockedCamera, StockedSegment,
};
use longwatch_events::event::{Storage, StoreRetention, Upload};
use longwatch_events::fact::{DeletionReason, Fact};
use longwatch_events::id::{CameraId, ServerId, StoreId, TenantId};
use longwatch_events::sealed::{Base64Bytes, PublicKey};
use longwatch_events::settings::Retention;
use longwatch_events::subject;
use longwatch_events::time::{Clock, SystemClock};
use longwatch_testing::s3::S3;

use crate::storage::{deleted, put_old};
use crate::system::{System, camera_id, eventually, facts};
use crate::uploads::{left, objects, uploaded};

/// How long video of each camera is kept, as control would tell it.
type Kept = Arc<Mutex<BTreeMap<CameraId, Retention>>>;

/// Answers what is asked of the object store, from the log. Every camera is this server's to look after.
async fn answer(system: &System, key: PublicKey) -> Kept {
    let kept = Kept::default();
    let (mut requests, client) = (system.requests(subject::ARCHIVES).await, system.client());
    let (server_id, known) = (system.server_id, Arc::clone(&kept));
    tokio::spawn(async move {
        while let Some(message) = requests.next().await {
            let request: ArchiveRequest = serde_json::from_slice(&message.payload).unwrap();
            let reply = match request.of {
                None => ArchiveReply::Refused { detail: "nobody examines disks here".to_owned() },
                Some(of) => {
                    let kept = known.lock().unwrap().clone();
                    let part = part(server_id, of, &kept, &facts(&client).await);
                    let plaintext = serde_json::to_vec(&part).unwrap();
                    let sealed = crypto_box::PublicKey::from(key.0).seal(&mut OsRng, &plaintext).unwrap();
                    ArchiveReply::Part { sealed: Base64Bytes(sealed) }
                }
            };
            let reply = serde_json::to_vec(&reply).unwrap();
            client.publish(message.reply.unwrap(), reply.into()).await.unwrap();
        }
    });
    kept
}

/// All that the facts say is there, of the cameras that are kept for some time only.
fn part(server_id: ServerId, of: Stock, kept: &BTreeMap<CameraId, Retention>, facts: &[Fact]) -> StockPart {
    let mut there: BTreeMap<CameraId, BTreeMap<String, StockedSegment>> = BTreeMap::new();
    let mut stored = BTreeMap::new();
    for fact in facts {
        match fact {
            Fact::SegmentStored(f) => drop(stored.insert(f.key.clone(), (f.start, f.end))),
            Fact::SegmentUploaded(f) if f.store_id.map(Stock::Store) == Some(of) => {
                let (start, end) = stored[&f.key];
                let (bytes, sha256) = (f.bytes, f.sha256);
                let segment = StockedSegment { key: f.key.clone(), start, end, bytes, sha256, damage: None };
                there.entry(f.camera_id).or_default().insert(f.key.clone(), segment);
            }
            Fact::SegmentDeleted(f) => drop(there.entry(f.camera_id).or_default().remove(&f.key)),
            Fact::Started(_)
            | Fact::FirstKeyframeDurable(_)
            | Fact::SegmentUploaded(_)
            | Fact::SegmentChecked(_)
            | Fact::Interrupted(_)
            | Fact::Gap(_)
            | Fact::TimestampJumped(_)
            | Fact::RecordingTriggered(_) => {}
        }
    }
    let camera = |(camera_id, segments): (CameraId, BTreeMap<String, StockedSegment>)| {
        let segments: Vec<_> = segments.into_values().collect();
        Some(StockedCamera {
            tenant_id: TenantId::DEFAULT,
            camera_id,
            retention: *kept.get(&camera_id)?,
            bytes: segments.iter().map(|segment| segment.bytes).sum(),
            segments,
            more: false,
        })
    };
    let cameras = there.into_iter().filter_map(camera).collect();
    StockPart { server_id, of, at: SystemClock.now(), cameras, next: None }
}

/// In which stores the log says that segments lie.
fn stores(facts: &[Fact]) -> BTreeSet<Option<StoreId>> {
    uploaded(facts).iter().map(|uploaded| uploaded.store_id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_worker_had_deleted_and_not_told_is_told_once_and_a_store_that_denies_is_said() {
    let (system, s3) = (System::start().await, S3::start());
    let archive = system.path("archive");
    // Given six old segments that are uploaded, of which one is held.
    let keys: Vec<_> = (0..6).map(|minute| put_old(&system, 9, minute, 1)).collect();
    let hold = serde_json::json!({ "tenant_id": TenantId::DEFAULT, "camera_id": camera_id(9),
        "from": "2026-01-02T03:02:10Z", "to": "2026-01-02T03:02:20Z", "why": "case 17" });
    std::fs::create_dir_all(archive.join(".longwatch")).unwrap();
    let holds = archive.join(".longwatch/holds.json");
    std::fs::write(&holds, serde_json::json!({ "holds": [hold] }).to_string()).unwrap();
    system.write_join_key();
    let arguments = ["--s3-retention-interval-ms", "200"];
    let worker = system.start_worker_spooling(&s3, &arguments);
    let kept = answer(&system, system.joined().await.public_key).await;
    eventually("all is uploaded", async || {
        (uploaded(&system.facts().await).len() == 6 && left(&system).is_empty()).then_some(())
    })
    .await;
    let said = system
        .heartbeat_that("which store it is", |h| h.load.spool.is_some_and(|s| s.store_id.is_some()))
        .await;
    let store_id = said.load.spool.unwrap().store_id;
    assert_eq!(stores(&system.facts().await), BTreeSet::from([store_id]));

    // When it deletes, and is killed before it hears that anything is gone, …
    s3.faults().hold_back_answers_to_deletions(true);
    kept.lock().unwrap().insert(camera_id(9), Retention { max_days: Some(1), ..Retention::default() });
    eventually("objects are gone", async || (objects(&s3).len() <= 3).then_some(())).await;
    worker.kill().await;
    assert_eq!(deleted(&system.facts().await).len(), 0);
    s3.faults().hold_back_answers_to_deletions(false);
    let worker = system.start_worker_spooling(&s3, &arguments);

    // … then the next run goes on, and each deletion is told once.
    eventually("the rest goes", async || (objects(&s3).len() == 1).then_some(())).await;
    eventually("all is told", async || (deleted(&system.facts().await).len() >= 5).then_some(())).await;
    let facts = system.facts().await;
    let told: Vec<_> = deleted(&facts).into_iter().cloned().collect();
    let expected: BTreeSet<_> = keys.iter().filter(|key| **key != keys[2]).cloned().collect();
    assert_eq!(told.iter().map(|told| told.key.clone()).collect::<BTreeSet<_>>(), expected);
    assert_eq!(told.len(), 5, "once");
    assert!(
        told.iter().all(|told| told.reason == DeletionReason::Age && told.store_id == store_id),
        "{told:?}"
    );
    assert!(told.iter().all(|told| told.recorded_by.is_none()), "they were its own");
    assert_eq!(objects(&s3).into_keys().collect::<Vec<_>>(), [keys[2].clone()]);

    // When nobody may delete, somebody hears of it; and when one may again, the last one goes, which nobody holds any more.
    s3.faults().deny_deletions(true);
    std::fs::remove_file(&holds).unwrap();
    let refused = system
        .heartbeat_that("it is said", |h| {
            h.load.spool.is_some_and(|spool| spool.retention == StoreRetention::Refused)
        })
        .await;
    assert_eq!((refused.load.storage, refused.load.spool.unwrap().upload), (Storage::Low, Upload::Ok));
    s3.faults().deny_deletions(false);
    eventually("the last one goes", async || objects(&s3).is_empty().then_some(())).await;
    system
        .heartbeat_that("all is well", |h| {
            h.load.storage == Storage::Ok
                && h.load.outbox_facts == 0
                && h.load.spool.is_some_and(|spool| spool.retention == StoreRetention::Ok)
        })
        .await;
    assert_eq!(worker.terminate().await, Some(0));
    assert_eq!(deleted(&system.facts().await).len(), 6);
}
