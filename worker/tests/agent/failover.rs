//! What failover asks of a worker: to let go of a camera in time, to keep all that came until then, and to hear of what
//! it missed.

use std::time::Duration;

use futures::StreamExt;
use longwatch_events::fact::{Cause, Fact, SegmentStored};
use longwatch_events::join::{JoinReply, RefusedReason};
use longwatch_events::position::Position;
use longwatch_events::subject::LogStream;
use rustix::process::Signal;
use tokio::time::Instant;

use crate::camera::FailingCameras;
use crate::playing::{PlayingCamera, Session, pictures_in};
use crate::system::{LEASE_MS, System, camera, camera_id, eventually, welcome};

const LEASE: Duration = Duration::from_millis(LEASE_MS as u64);

/// Waits until a camera has played to somebody as often as `sessions`.
async fn played(camera: &PlayingCamera, sessions: usize) -> Vec<Session> {
    eventually("the camera is asked to play", async || {
        Some(camera.sessions()).filter(|so_far| so_far.len() >= sessions)
    })
    .await
}

/// Waits until the session at `place` is over.
async fn closed(camera: &PlayingCamera, place: usize) -> (Session, Instant) {
    eventually("the camera is let go", async || {
        let session = camera.sessions().get(place).cloned()?;
        session.closed_at.map(|at| (session, at))
    })
    .await
}

/// All segments of camera `number` that are told by `facts`.
fn segments(facts: &[Fact], number: u32) -> Vec<SegmentStored> {
    let stored =
        |fact: &Fact| if let Fact::SegmentStored(stored) = fact { Some(stored.clone()) } else { None };
    facts.iter().filter_map(stored).filter(|stored| stored.camera_id == camera_id(number)).collect()
}

fn stored_pictures(system: &System, segment: &SegmentStored) -> Vec<u32> {
    pictures_in(&std::fs::read(system.path("archive").join(&segment.key)).unwrap())
}

/// The segment at whose end camera `number` was interrupted for `cause`.
async fn interrupted_after(system: &System, number: u32, cause: Cause) -> SegmentStored {
    eventually("the interruption is told", async || {
        let facts = system.facts().await;
        let told = |fact: &Fact| if let Fact::Interrupted(told) = fact { Some(told.clone()) } else { None };
        let mut told = facts.iter().filter_map(told);
        let told = told.find(|told| told.camera_id == camera_id(number) && told.cause == cause)?;
        segments(&facts, number).into_iter().find(|segment| segment.end == told.at)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_camera_of_one_client_is_let_go_before_the_lease_ends_and_taken_again_with_contact() {
    let (mut system, single, other) =
        (System::start().await, PlayingCamera::start().await, PlayingCamera::start().await);
    system.write_join_key();
    let worker = system.start_worker();
    let key = system.joined().await.public_key;
    let mut cameras = vec![camera(1, 1, &single.url(), key), camera(2, 1, &other.url(), key)];
    cameras[0].single_session = true;
    system.assign(1, vec![cameras]).await;
    system.heartbeat_that("both are recorded", |h| h.load.recording == 2).await;

    // When the log is gone, then only the camera of one client is let go: in time, but not sooner than it must.
    let before = Instant::now();
    system.kill_nats().await;
    let gone = Instant::now();
    let (_, let_go) = closed(&single, 0).await;
    assert!(let_go < gone + LEASE, "{:?} after the last acknowledgement there can be", let_go - gone);
    assert!(let_go > before + LEASE / 2, "{:?} after the loss of contact", let_go - before);
    let [kept] = &other.sessions()[..] else { panic!("{:?}", other.sessions()) };
    assert_eq!(kept.closed_at, None);

    // When the log is back, then it is recorded again, and what is missing is told with its cause.
    system.start_nats().await;
    played(&single, 2).await;
    system.heartbeat_that("both are recorded again", |h| h.load.recording == 2).await;
    interrupted_after(&system, 1, Cause::LeaseExpired).await;
    eventually("the gap is told", async || {
        let facts = system.facts().await;
        let missing = |fact: &Fact| matches!(fact, Fact::Gap(gap) if gap.cause == Cause::LeaseExpired);
        facts.iter().any(missing).then_some(())
    })
    .await;

    // When the worker starts again without contact, then the camera of one client has to wait for it.
    system.kill_nats().await;
    worker.kill().await;
    let worker = system.start_worker();
    played(&other, 2).await;
    assert_eq!(single.sessions().len(), 2);
    system.start_nats().await;
    played(&single, 3).await;
    assert_eq!(worker.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_stopped_for_longer_than_its_lease_keeps_nothing_of_what_came_meanwhile() {
    let (system, single) = (System::start().await, PlayingCamera::start().await);
    system.write_join_key();
    let worker = system.start_worker();
    let key = system.joined().await.public_key;
    let mut one = camera(1, 1, &single.url(), key);
    one.single_session = true;
    system.assign(1, vec![vec![one]]).await;
    system.heartbeat_that("it is recorded", |h| h.load.recording == 1).await;

    // When the process is stopped while the camera sends on to it, and goes on after the lease …
    worker.signal(Signal::STOP);
    let stopped = single.last_sent();
    let lease = LEASE_MS / 40;
    eventually("the lease is over", async || (single.last_sent() > stopped + lease + 10).then_some(())).await;
    worker.signal(Signal::CONT);
    // … then the camera is let go, and taken again once that is right.
    closed(&single, 0).await;
    let again = played(&single, 2).await[1].first;
    system.heartbeat_that("it is recorded again", |h| h.load.recording == 1).await;
    eventually("another second of it", async || (single.last_sent() > again + 50).then_some(())).await;
    assert_eq!(worker.terminate().await, Some(0));

    // Nothing is kept of what was sent in between; the two pictures are those on their way when the process stopped.
    let segments = segments(&system.facts().await, 1);
    let kept: Vec<u32> = segments.iter().flat_map(|segment| stored_pictures(&system, segment)).collect();
    let of_the_pause: Vec<_> = kept.iter().filter(|n| (stopped + 3..again).contains(n)).collect();
    assert!(of_the_pause.is_empty(), "stopped at {stopped}, asked again at {again}: {of_the_pause:?}");
    assert!(kept.iter().any(|n| (stopped.saturating_sub(2)..stopped + 3).contains(n)), "{stopped}: {kept:?}");
    assert!(kept.iter().any(|n| *n >= again), "{again}: {kept:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lost_its_camera_while_it_was_stopped_does_not_ask_for_it_again() {
    let (system, single) = (System::start().await, PlayingCamera::start().await);
    system.write_join_key();
    let worker = system.start_worker();
    let key = system.joined().await.public_key;
    let mut one = camera(1, 1, &single.url(), key);
    one.single_session = true;
    system.assign(1, vec![vec![one]]).await;
    system.heartbeat_that("it is recorded", |h| h.load.recording == 1).await;
    // Given a camera that is taken away while the process is stopped, which nothing tells the worker …
    worker.signal(Signal::STOP);
    let stopped = single.last_sent();
    system.delete(LogStream::Assignments).await;
    system.create_silent_assignments().await;
    system.assign(2, vec![vec![]]).await;
    let lease = LEASE_MS / 40;
    eventually("the lease is over", async || (single.last_sent() > stopped + lease + 10).then_some(())).await;
    // … when the process goes on, then it looks before it asks for the camera.
    worker.signal(Signal::CONT);
    system.heartbeat_that("it has looked", |h| h.load.applied_revision == Position(2)).await;
    closed(&single, 0).await;
    assert_eq!(single.sessions().len(), 1);
    assert_eq!(worker.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_camera_that_moves_is_recorded_until_its_server_is_told_and_nothing_that_came_is_lost() {
    let (system, moving) = (System::start().await, PlayingCamera::start().await);
    system.write_join_key();
    let worker = system.start_worker();
    let key = system.joined().await.public_key;
    system.assign(2, vec![vec![camera(1, 2, &moving.url(), key)]]).await;
    system.heartbeat_that("it is recorded", |h| h.load.recording == 1).await;
    // Given that another server begins to record it too, which changes nothing here; nor does an older set …
    system.assign(1, vec![vec![]]).await;
    eventually("pictures go on", async || {
        (moving.last_sent() > moving.sessions()[0].first + 60).then_some(())
    })
    .await;
    let sent_before = moving.last_sent();
    assert_eq!(moving.sessions()[0].closed_at, None);
    // … when the set comes without it, in the middle of a fragment …
    system.assign(3, vec![vec![]]).await;
    let (session, _) = closed(&moving, 0).await;
    // … then the recording ends with what was received until then, and says so.
    let segment = interrupted_after(&system, 1, Cause::Reassigned).await;
    let kept = stored_pictures(&system, &segment);
    let first = kept[0];
    assert!(first < session.first + 25, "it begins with the first keyframe: {first}, {session:?}");
    assert!(kept.iter().copied().eq(first..=*kept.last().unwrap()), "{kept:?}");
    // At least what had been sent before control published the set, but for the one picture still on its way.
    assert!(*kept.last().unwrap() + 1 >= sent_before, "sent until {sent_before}, kept {kept:?}");
    assert_eq!(segment.video_frames, kept.len() as u64);
    system.heartbeat_that("nothing is left", |h| h.load.cameras == 0 && h.load.outbox_facts == 0).await;
    assert_eq!(worker.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_that_was_missed_is_applied_when_control_says_look() {
    let (system, cameras) = (System::start().await, FailingCameras::start().await);
    system.write_join_key();
    let worker = system.start_worker();
    let key = system.joined().await.public_key;
    // Given a worker that has no reason of its own to look, as it has looked for its lease already …
    let mut held = camera(2, 1, &cameras.url("held"), key);
    held.single_session = true;
    system.assign(1, vec![vec![held]]).await;
    eventually("the lease is held", async || (cameras.attempts("held") > 0).then_some(())).await;
    // … and a set whose copy never reaches the worker …
    system.delete(LogStream::Assignments).await;
    system.create_silent_assignments().await;
    system.assign(2, vec![vec![camera(1, 2, &cameras.url("a"), key)]]).await;
    // … when control says look, and again and again …
    let mut looks = system.requests("$JS.API.DIRECT.GET.ASSIGNMENTS.>").await;
    let began = Instant::now();
    for _ in 0..100 {
        system.say_look().await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // … then it looks at once, …
    system.heartbeat_that("the second set is applied", |h| h.load.applied_revision == Position(2)).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    // … and no more than twice a second.
    let mut looked = 0;
    while tokio::time::timeout(Duration::from_millis(700), looks.next()).await.is_ok() {
        looked += 1;
    }
    let most = began.elapsed().as_millis() / 500 + 1;
    assert!((1..=most).contains(&looked), "{looked} looks in {:?}", began.elapsed());
    assert_eq!(worker.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_detached_server_that_is_let_in_again_records_again_without_a_restart() {
    let (mut system, cameras) = (System::start().await, FailingCameras::start().await);
    system.write_join_key();
    let worker = system.start_worker();
    let key = system.joined().await.public_key;
    system.assign(1, vec![vec![camera(1, 1, &cameras.url("a"), key)]]).await;
    let before = system.heartbeat_that("the set is applied", |h| h.load.cameras == 1).await;
    let detail = "detached by an owner".to_owned();
    system.control_says(Some(JoinReply::Refused { reason: RefusedReason::Detached, detail }));
    // When it asks again, which it does on a new connection, then it forgets what it was told to record.
    system.kill_nats().await;
    system.start_nats().await;
    let saved = system.path("archive/.longwatch/assignments.json");
    eventually("the saved set is gone", async || (!saved.exists()).then_some(())).await;
    // When an operator lets it in again, under its old id, then it records what that server is to record.
    let attempts = cameras.attempts("a");
    system.control_says(Some(welcome(system.server_id)));
    let after = system.heartbeat_that("it gives signs of life", |h| h.sequence > before.sequence).await;
    assert_eq!(after.boot_id, before.boot_id);
    system.assign(2, vec![vec![camera(1, 2, &cameras.url("a"), key)]]).await;
    system.heartbeat_that("the set is applied again", |h| h.load.applied_revision == Position(2)).await;
    eventually("it records again", async || {
        (cameras.attempts("a") > attempts && saved.exists()).then_some(())
    })
    .await;
    assert_eq!(worker.terminate().await, Some(0));
}
