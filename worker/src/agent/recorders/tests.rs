use super::*;
use crate::identity::Home;
use crypto_box::aead::OsRng;
use longwatch_events::assignment::SourceSecret;
use longwatch_events::id::{CameraId, SystemIds, TenantId};
use longwatch_events::position::{Epoch, Position};
use longwatch_events::schedule::{Days, Schedule, TimeOfDay, Window};
use longwatch_events::settings::RecordingMode;
use longwatch_events::time::{SystemClock, Timestamp};
use tokio::sync::mpsc::{self, UnboundedReceiver};

struct Given {
    _archive: tempfile::TempDir,
    identity: Identity,
    recorders: Recorders,
    facts: UnboundedReceiver<Fact>,
    server_id: ServerId,
}

fn given() -> Given {
    let archive = tempfile::tempdir().unwrap();
    let identity = Identity::load_or_create(&Home::take(archive.path()).unwrap()).unwrap();
    let (facts_in, facts) = mpsc::unbounded_channel();
    let (_, lease) = watch::channel(Lease::new(Duration::from_secs(3)));
    let means = Means {
        archive: Archive::new(archive.path().into(), 1).unwrap(),
        facts: facts_in,
        told: Arc::new(Told::new(archive.path().join("told"))),
        triggers: Arc::new(Triggers::load(archive.path().join("triggers"))),
        clock: Arc::new(SystemClock),
        settings: Settings::default(),
        // Loopback is not allowed: every attempt fails at once, without a connection.
        policy: AddressPolicy::default(),
        trust: Trust::in_anybody(),
        dials: Dials::new(1),
        lease,
        ticks: Arc::new(Ticks::new(0)),
    };
    let recorders = Recorders::new(means, BTreeMap::new());
    Given { _archive: archive, identity, recorders, facts, server_id: ServerId::generate(&SystemIds) }
}

fn camera(identity: &Identity, epoch: u64) -> AssignedCamera {
    let source = SourceSecret { url: "rtsp://127.0.0.1:1/x".into(), username: None, password: None };
    let sealed =
        crypto_box::PublicKey::from(identity.public_key().0).seal(&mut OsRng, &source.to_plaintext());
    AssignedCamera {
        tenant_id: TenantId::DEFAULT,
        camera_id: CameraId::from_uuid(TenantId::DEFAULT.as_uuid()),
        epoch: Epoch(epoch),
        settings_version: Position(1),
        source: Base64Bytes(sealed.unwrap()),
        single_session: false,
        live_latency_ms: None,
        priority: None,
        retention: None,
        recording: None,
    }
}

fn interruption(fact: Option<Fact>) -> (Epoch, Cause) {
    let Some(Fact::Interrupted(interrupted)) = fact else { panic!("{fact:?}") };
    (interrupted.epoch, interrupted.cause)
}

#[tokio::test(start_paused = true)]
async fn a_task_that_panics_is_reported_and_started_again() {
    let Given { _archive, identity, mut recorders, mut facts, server_id } = given();
    let camera = camera(&identity, 3);
    recorders.apply(server_id, std::slice::from_ref(&camera), &identity);
    assert_eq!(interruption(facts.recv().await), (Epoch(3), Cause::NotAllowed));
    // Given a task in its place that panics …
    recorders.tasks.abort_all();
    while recorders.tasks.join_next().await.is_some() {}
    recorders.camera_of.clear();
    let task = recorders.tasks.spawn(async { panic!("a bug of this test") }).id();
    recorders.camera_of.insert(task, Key::from(&camera));
    match &mut recorders.cameras.get_mut(&Key::from(&camera)).unwrap().state {
        State::Running(running) => running.task = task,
        State::Sealed => panic!("it was opened"),
    }
    // … then that is said, and the camera has a task that tries again.
    recorders.next_ended(&identity).await;
    assert_eq!(interruption(facts.recv().await), (Epoch(3), Cause::WorkerRestarted));
    assert_eq!(interruption(facts.recv().await), (Epoch(3), Cause::NotAllowed));
    assert_eq!(recorders.counts(), Counts { cameras: 1, recording: 0, unsettled: 0 });
    assert_eq!(recorders.finish(Duration::from_secs(1)).await, Some(BTreeMap::new()));
}

#[tokio::test(start_paused = true)]
async fn a_newer_order_waits_for_the_older_one_to_end() {
    let Given { _archive, identity, mut recorders, mut facts, server_id } = given();
    let end = Timestamp::from_millis(1_795_420_800_000);
    let key = Key::from(&camera(&identity, 3));
    recorders.resume.insert(key, Break { end, cause: Cause::WorkerRestarted });
    recorders.apply(server_id, &[camera(&identity, 3)], &identity);
    recorders.apply(server_id, &[camera(&identity, 5)], &identity);
    recorders.apply(server_id, &[camera(&identity, 4)], &identity);
    assert_eq!(recorders.tasks.len(), 1);
    recorders.next_ended(&identity).await;
    while interruption(facts.recv().await).0 != Epoch(5) {}
    // What the first task left open, the second leaves open still.
    let open = recorders.finish(Duration::from_secs(1)).await.unwrap();
    assert_eq!(open, BTreeMap::from([(key, Break { end, cause: Cause::WorkerRestarted })]));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_opened_is_said_once_and_tried_again_when_sealed_anew() {
    let Given { _archive, identity, mut recorders, mut facts, server_id } = given();
    let right = camera(&identity, 3);
    let wrong = AssignedCamera { source: Base64Bytes(vec![0; 80]), ..right.clone() };
    recorders.apply(server_id, std::slice::from_ref(&wrong), &identity);
    recorders.apply(server_id, std::slice::from_ref(&wrong), &identity);
    assert_eq!(interruption(facts.recv().await), (Epoch(3), Cause::ProtocolError));
    assert!(facts.try_recv().is_err());
    assert_eq!(recorders.counts(), Counts { cameras: 1, recording: 0, unsettled: 0 });
    recorders.apply(server_id, &[right], &identity);
    assert_eq!(interruption(facts.recv().await), (Epoch(3), Cause::NotAllowed));
    recorders.stop_all(Cause::Reassigned);
    assert_eq!(recorders.counts(), Counts::default());
    recorders.next_ended(&identity).await;
    assert!(recorders.cameras.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_a_task_could_not_wait_for_is_remembered_as_not_told() {
    for drained in [true, false] {
        let Given { _archive, identity, mut recorders, facts: _facts, server_id } = given();
        recorders.means.told.catch_up();
        let camera = camera(&identity, 3);
        recorders.apply(server_id, std::slice::from_ref(&camera), &identity);
        // Given a task in its place whose writer did not end …
        recorders.tasks.abort_all();
        while recorders.tasks.join_next().await.is_some() {}
        recorders.camera_of.clear();
        let stopped = Stopped { stored_until: None, open_break: None, drained };
        let task = recorders.tasks.spawn(async move { stopped }).id();
        recorders.camera_of.insert(task, Key::from(&camera));
        match &mut recorders.cameras.get_mut(&Key::from(&camera)).unwrap().state {
            State::Running(running) => running.task = task,
            State::Sealed => panic!("it was opened"),
        }
        // … then a stop is not clean, although all tasks ended.
        let told = Arc::clone(&recorders.means.told);
        assert!(recorders.finish(Duration::from_secs(1)).await.is_some());
        assert_eq!(told.is_whole(), drained);
    }
}

#[tokio::test(start_paused = true)]
async fn a_camera_that_serves_one_client_only_waits_for_a_lease() {
    let Given { _archive, identity, mut recorders, mut facts, server_id } = given();
    let single = AssignedCamera { single_session: true, ..camera(&identity, 3) };
    // Given no contact with the log, then it is not even tried …
    recorders.apply(server_id, std::slice::from_ref(&single), &identity);
    assert!(tokio::time::timeout(Duration::from_secs(60), facts.recv()).await.is_err());
    assert_eq!(recorders.counts(), Counts { cameras: 1, recording: 0, unsettled: 1 });
    // … until it serves others too, which takes no new assignment.
    recorders.apply(server_id, &[AssignedCamera { single_session: false, ..single.clone() }], &identity);
    assert_eq!(interruption(facts.recv().await), (Epoch(3), Cause::NotAllowed));
    // And when it does not any more, then that is told.
    recorders.apply(server_id, &[single], &identity);
    let told = tokio::time::timeout(Duration::from_secs(60), facts.recv()).await;
    assert_eq!(interruption(told.unwrap()), (Epoch(3), Cause::LeaseExpired));
    assert_eq!(recorders.counts(), Counts { cameras: 1, recording: 0, unsettled: 1 });
}

/// Wanted for an hour a day, which is half a day away.
fn half_a_day_away() -> Recording {
    let now_s = SystemClock.now().as_millis() / 1_000 % 86_400;
    let from = u32::try_from((now_s + 43_200) % 86_400).unwrap();
    let time = TimeOfDay::from_seconds;
    let window = Window { days: Days::ALL, from: time(from), to: time((from + 3_600) % 86_400) };
    let schedule = Schedule { time_zone: "UTC".into(), weekly: vec![window] };
    Recording { mode: RecordingMode::Schedule, schedule: Some(Box::new(schedule)), event: None }
}

#[tokio::test(start_paused = true)]
async fn a_camera_that_is_not_wanted_now_is_settled_and_a_new_wish_takes_no_new_assignment() {
    let Given { _archive, identity, mut recorders, mut facts, server_id } = given();
    let always = camera(&identity, 3);
    let seldom = AssignedCamera { recording: Some(half_a_day_away()), ..always.clone() };
    // Given a camera that is not wanted now, then nobody asks for it, and it is no work left undone …
    recorders.apply(server_id, std::slice::from_ref(&seldom), &identity);
    assert_eq!(interruption(facts.recv().await), (Epoch(3), Cause::NotScheduled));
    assert_eq!(recorders.counts(), Counts { cameras: 1, recording: 0, unsettled: 0 });
    assert!(tokio::time::timeout(Duration::from_secs(60), facts.recv()).await.is_err());
    // … until it is wanted, by the task that it has.
    let task = *recorders.camera_of.keys().next().unwrap();
    recorders.apply(server_id, &[always], &identity);
    assert_eq!(interruption(facts.recv().await), (Epoch(3), Cause::NotAllowed));
    recorders.apply(server_id, &[seldom], &identity);
    assert_eq!(interruption(facts.recv().await), (Epoch(3), Cause::NotScheduled));
    assert_eq!(recorders.camera_of.keys().collect::<Vec<_>>(), [&task]);
}

#[tokio::test(start_paused = true)]
async fn a_crash_while_a_camera_was_not_wanted_broke_nothing_off() {
    let Given { _archive, identity, mut recorders, mut facts, server_id } = given();
    let seldom = AssignedCamera { recording: Some(half_a_day_away()), ..camera(&identity, 3) };
    let (key, now) = (Key::from(&seldom), SystemClock.now());
    for (ended_ms_ago, cause) in [
        (60_000, Cause::NotScheduled),
        // In the middle of its hour.
        (12 * 3_600_000 - 1_800_000, Cause::WorkerRestarted),
    ] {
        let end = now.plus_millis(-ended_ms_ago);
        recorders.resume.insert(key, Break { end, cause: Cause::WorkerRestarted });
        recorders.apply(server_id, std::slice::from_ref(&seldom), &identity);
        let Some(Fact::Interrupted(told)) = facts.recv().await else { panic!("it is told what was left") };
        assert_eq!((told.at, told.cause), (end, cause));
        assert_eq!(interruption(facts.recv().await), (Epoch(3), Cause::NotScheduled));
        recorders.stop_all(Cause::Reassigned);
        recorders.next_ended(&identity).await;
    }
}
