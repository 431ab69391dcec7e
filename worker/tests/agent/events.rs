//! A worker that is told of events at its cameras; the test plays control's part.

use std::time::Duration;

use longwatch_events::fact::{Cause, Fact, SegmentStored};
use longwatch_events::id::{SystemIds, TenantId, TriggerId};
use longwatch_events::settings::{EventRecording, Recording};
use longwatch_events::time::{Clock as _, SystemClock, Timestamp};
use longwatch_events::trigger::{Trigger, TriggerReply};

use super::playing::PlayingCamera;
use super::system::{System, camera, camera_id, eventually};

/// Of the camera: a keyframe a second.
const GOP_MS: i64 = 1_000;
const PRE_MS: i64 = 2_000;

/// What lasts from two seconds before `at` until `until`.
fn trigger(number: u32, at: Timestamp, until: Timestamp) -> Trigger {
    Trigger {
        tenant_id: TenantId::DEFAULT,
        camera_id: camera_id(number),
        event_id: TriggerId::generate(&SystemIds),
        kind: "motion".into(),
        detail: None,
        at,
        from: at.plus_millis(-PRE_MS),
        until,
        records: true,
        by: "key:provider".into(),
    }
}

fn stored(facts: &[Fact]) -> Vec<SegmentStored> {
    let stored = facts.iter().filter_map(|fact| {
        let Fact::SegmentStored(stored) = fact else { return None };
        Some(stored.clone())
    });
    stored.collect()
}

fn is_idle(facts: &[Fact]) -> bool {
    let last =
        facts.iter().rev().find(|fact| matches!(fact, Fact::Interrupted(_) | Fact::FirstKeyframeDurable(_)));
    matches!(last, Some(Fact::Interrupted(interrupted)) if interrupted.cause == Cause::NoEvent)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_durable_before_it_is_answered_and_recorded_to_its_end_through_a_kill() {
    let (system, playing) = (System::start().await, PlayingCamera::start().await);
    system.write_join_key();
    let worker = system.start_worker();
    let key = system.joined().await.public_key;
    let event = EventRecording { pre_ms: 2_000, post_ms: 10_000 };
    let recording = Recording { event: Some(event), ..Recording::default() };
    let mut waiting = camera(1, 2, &playing.url(), key);
    waiting.recording = Some(recording);
    system.assign(3, vec![vec![waiting]]).await;
    eventually("it waits for events", async || is_idle(&system.facts().await).then_some(())).await;
    let heartbeat =
        system.heartbeat_that("it is settled", |h| h.load.cameras == 1 && h.load.unsettled == 0).await;
    assert_eq!(heartbeat.load.recording, 0);
    // So much is held by then.
    tokio::time::sleep(Duration::from_millis(3_000)).await;
    assert_eq!(stored(&system.facts().await), [], "nothing is on the disk without an event");

    // Given what is no event, or at a camera of somebody else, ...
    assert!(matches!(system.tell(b"{}").await, TriggerReply::Refused { .. }));
    let now = SystemClock.now();
    let until = now.plus_millis(9_000);
    let other = serde_json::to_vec(&trigger(2, now, until)).unwrap();
    assert_eq!(system.tell(&other).await, TriggerReply::NotHere);
    // ... and an event, which is answered, and the worker killed at once, ...
    let told = trigger(1, now, until);
    let payload = serde_json::to_vec(&told).unwrap();
    assert_eq!(system.tell(&payload).await, TriggerReply::Taken);
    let answered = SystemClock.now();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    worker.kill().await;
    let killed = SystemClock.now();
    let worker = system.start_worker();
    // ... then the next one records on until its end, and what it tells of the event comes once for each time it was told.
    eventually("it is over", async || {
        let facts = system.facts().await;
        let ended = stored(&facts).last().is_some_and(|last| last.end >= until);
        (ended && is_idle(&facts)).then_some(())
    })
    .await;
    let facts = system.facts().await;
    let triggered: Vec<_> = facts.iter().filter(|fact| matches!(fact, Fact::RecordingTriggered(_))).collect();
    let Fact::RecordingTriggered(fact) = triggered[0] else { unreachable!() };
    assert_eq!((triggered.len(), fact), (1, &told.taken(longwatch_events::position::Epoch(2))));
    let segments = stored(&facts);
    let (first, last) = (&segments[0], &segments[segments.len() - 1]);
    let early_ms = told.from.millis_since(first.start);
    assert!((0..=GOP_MS + 100).contains(&early_ms), "begins {early_ms} ms before what is wanted");
    let late_ms = last.end.millis_since(until);
    assert!((0..=200).contains(&late_ms), "ends {late_ms} ms late");
    // What is missing is missing because of the kill, and no more than that.
    let gaps: Vec<_> = facts
        .iter()
        .filter_map(|fact| {
            let Fact::Gap(gap) = fact else { return None };
            (told.from..until).contains(&gap.start).then(|| gap.clone())
        })
        .collect();
    assert_eq!(gaps.iter().map(|gap| gap.cause).collect::<Vec<_>>(), [Cause::WorkerRestarted], "{gaps:?}");
    assert!(killed.millis_since(gaps[0].start) <= 2_500 && gaps[0].start > answered, "{gaps:?}");
    assert_eq!(worker.terminate().await, Some(0));
}
