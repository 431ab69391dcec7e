use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use longwatch_events::assignment::{AssignedCamera, SourceSecret};
use longwatch_events::event::{self, PlanMade};
use longwatch_events::id::{BootId, CameraId, SystemIds, TenantId};
use longwatch_events::log::memory::MemoryLog;
use longwatch_events::log::{Entry, Log as _};
use longwatch_events::position::Epoch;
use longwatch_events::schedule::{Days, Schedule, TimeOfDay, Window};
use longwatch_events::sealed::PublicKey;
use longwatch_events::settings::{
    CameraSettings, Capacity, Labels, Priority, Recording, RecordingMode, Retention, Source, Transport,
};
use longwatch_events::time::ManualClock;
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::*;
use crate::decide::command::Command;
use crate::decide::placement::{self, Evidence, Inputs, Scope};
use crate::follower;
use crate::read_model::sqlite::SqliteReadModel;
use crate::secrets::Secrets;
use crate::service::Parts;
use crate::testing::START;

const TENANT: TenantId = TenantId::DEFAULT;

/// A control plane that plans and publishes when it is told to.
struct Replica {
    service: Arc<Service>,
    publisher: Publisher,
    _tasks: JoinSet<()>,
    folder: TempDir,
}

impl Replica {
    async fn on(log: &MemoryLog) -> Self {
        let mut replica = Self::that_folds_nothing_on(log).await;
        let service = Arc::clone(&replica.service);
        replica._tasks.spawn(async move { follower::follow_log(&service, None).await });
        replica.service.progress().wait_for(|progress| progress.caught_up).await.unwrap();
        replica
    }

    async fn that_folds_nothing_on(log: &MemoryLog) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let read_model = SqliteReadModel::open(&folder.path().join("read_model.db")).await.unwrap();
        let service = Arc::new(Service::new(Parts {
            log: Arc::new(log.clone()),
            backlog: Arc::new(log.clone()),
            read_model: Arc::new(read_model),
            secrets: Secrets::in_file(folder.path().join("master.key")),
            clock: Arc::new(ManualClock::starting_at(START)),
            ids: Arc::new(SystemIds),
        }));
        Self { service, publisher: Publisher::default(), _tasks: JoinSet::new(), folder }
    }

    fn master_key(&self) -> PathBuf {
        self.folder.path().join("master.key")
    }

    async fn publish(&mut self) {
        let end = self.service.log().end(LogStream::Log).await.unwrap();
        self.service.folded(end).await.unwrap();
        self.publisher.publish(&self.service).await;
    }

    async fn execute(&self, command: Command) {
        self.service.execute("test", EventId::generate(&SystemIds), command).await.unwrap();
    }

    async fn add_tenant(&self) {
        let data_key = self.service.new_data_key(TENANT).unwrap();
        self.execute(Command::CreateTenant { tenant_id: TENANT, name: "Default".into(), data_key }).await;
    }

    async fn add_server(&self) -> ServerId {
        let server_id = ServerId::generate(&SystemIds);
        let public_key = PublicKey([9; 32]);
        let (name, labels, capacity) = ("a".into(), Labels::new(), Capacity::default());
        self.execute(Command::JoinServer { server_id, name, public_key, labels, capacity }).await;
        let expected = self.service.state().server(server_id).unwrap().version;
        self.execute(Command::AdoptServer { server_id, expected }).await;
        server_id
    }

    async fn add_camera(&self, url: &str) -> CameraId {
        let (camera_id, event_id) = (CameraId::generate(&SystemIds), EventId::generate(&SystemIds));
        let source = SourceSecret { url: url.into(), username: None, password: None };
        let secret = self.service.seal_source(TENANT, event_id, &source).unwrap();
        let settings = CameraSettings {
            name: "Gate".into(),
            labels: Labels::new(),
            source: Source { url: "rtsp://h/".into(), secret, transport: Transport::Tcp },
            recording: Recording::default(),
            retention: Retention::default(),
            failover_priority: Priority::Medium,
            preferred_server_id: None,
            copies: 1,
            expected_bitrate_bps: None,
            server_labels: Labels::new(),
            single_session: false,
            live_latency_ms: None,
        };
        let command = Command::AddCamera { tenant_id: TENANT, camera_id, settings: Box::new(settings) };
        self.service.execute("test", event_id, command).await.unwrap();
        camera_id
    }

    async fn plan(&self) {
        let (evidence, lose) = (Evidence::new(), BTreeSet::new());
        let (plan, last_plan) = {
            let (state, now) = (self.service.state(), START);
            let inputs = Inputs { state: &state, now, evidence: &evidence, lose: &lose, scope: Scope::All };
            let plan = PlanMade {
                basis: state.position,
                rules: placement::RULES,
                decided_at: Some(now),
                part: event::Part::WHOLE,
                entries: placement::plan(&inputs).entries,
            };
            (Event::PlanMade(plan), state.last_plan)
        };
        let event_id = EventId::generate(&SystemIds);
        let position = self.service.append("test", event_id, plan, Some(last_plan)).await.unwrap();
        self.service.folded(position).await.unwrap();
    }
}

/// A replica with a tenant, a server and a camera that was handed over to it.
async fn given_a_camera(log: &MemoryLog) -> (Replica, ServerId, CameraId) {
    let mut replica = Replica::on(log).await;
    replica.add_tenant().await;
    let server_id = replica.add_server().await;
    let camera_id = replica.add_camera("rtsp://h/1").await;
    replica.plan().await;
    replica.publish().await;
    (replica, server_id, camera_id)
}

fn memory_log() -> MemoryLog {
    MemoryLog::new(Arc::new(ManualClock::starting_at(START)))
}

/// The parts of the set that stands there.
async fn standing(log: &MemoryLog, server_id: ServerId) -> Vec<AssignmentSet> {
    let mut sets: Vec<AssignmentSet> = Vec::new();
    let mut count = 1;
    while u32::try_from(sets.len()).unwrap() < count {
        let subject = subject::assignment(server_id, u32::try_from(sets.len()).unwrap() + 1);
        let record = log.last(LogStream::Assignments, &subject).await.unwrap().expect("a part");
        let Event::AssignmentsPublished(set) = Envelope::decode(&record.payload).unwrap().event else {
            panic!("no assignment stands there")
        };
        count = set.parts;
        sets.push(set);
    }
    assert!(sets.iter().all(|set| set.revision == sets[0].revision), "the set is torn");
    sets
}

fn ids(sets: &[AssignmentSet]) -> Vec<CameraId> {
    sets.iter().flat_map(|set| &set.cameras).map(|camera| camera.camera_id).collect()
}

/// Lets the time pass after which a set is looked at again.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn what_cannot_be_opened_is_recorded_on_and_handed_over_once_it_can_be() {
    // Given: a second replica that does not have the master key, and a camera that nobody has handed over yet.
    let log = memory_log();
    let (first, server_id, camera_id) = given_a_camera(&log).await;
    let before = standing(&log, server_id).await;
    let mut second = Replica::on(&log).await;
    let added = first.add_camera("rtsp://h/2").await;
    first.plan().await;

    // Then: the running camera goes on just as it was.
    second.publish().await;
    assert_eq!(standing(&log, server_id).await, before);
    assert_eq!(second.service.unopened(), 1);
    assert!(!second.master_key().exists(), "another master key would open nothing");

    // When the camera that was there goes, the one that is left cannot be told yet.
    let expected = first.service.state().camera(TENANT, camera_id).unwrap().version;
    first.execute(Command::DeleteCamera { tenant_id: TENANT, camera_id, expected }).await;
    second.publish().await;
    let without = standing(&log, server_id).await;
    assert_eq!(ids(&without), []);
    assert!(without[0].revision > before[0].revision);

    // When the key is there: although nothing happened in the log, under a revision that the worker takes.
    std::fs::copy(first.master_key(), second.master_key()).unwrap();
    pass(RETRY_AFTER).await;
    second.publish().await;
    let healed = standing(&log, server_id).await;
    assert_eq!(ids(&healed), [added]);
    assert!(healed[0].revision > without[0].revision);
    assert_eq!(second.service.unopened(), 0);

    // And the next one follows, whatever the log's position is.
    first.add_camera("rtsp://h/3").await;
    first.plan().await;
    second.publish().await;
    let next = standing(&log, server_id).await;
    assert_eq!(ids(&next).len(), 2);
    assert!(next[0].revision > healed[0].revision);
    assert_eq!(next[0].cameras[0], healed[0].cameras[0], "what stood there is handed on as it is");
}

#[tokio::test]
async fn a_camera_whose_new_source_cannot_be_opened_is_recorded_from_the_old_one() {
    let log = memory_log();
    let (first, server_id, camera_id) = given_a_camera(&log).await;
    let before = standing(&log, server_id).await;
    let mut second = Replica::on(&log).await;

    let (expected, mut settings) = {
        let state = first.service.state();
        let camera = state.camera(TENANT, camera_id).unwrap();
        (camera.version, camera.settings.told())
    };
    let event_id = EventId::generate(&SystemIds);
    let source = SourceSecret { url: "rtsp://h/new".into(), username: None, password: None };
    settings.source.secret = first.service.seal_source(TENANT, event_id, &source).unwrap();
    let settings = Box::new(settings);
    let change = Command::ChangeCamera { tenant_id: TENANT, camera_id, expected, settings };
    first.service.execute("test", event_id, change).await.unwrap();

    second.publish().await;
    assert_eq!(standing(&log, server_id).await, before);
    assert_eq!(second.service.unopened(), 1);
    let mut first = first;
    first.publish().await;
    let after = standing(&log, server_id).await;
    assert!(after[0].cameras[0].settings_version > before[0].cameras[0].settings_version);
}

#[tokio::test]
async fn a_camera_that_is_only_renamed_is_recorded_on() {
    let log = memory_log();
    let (mut replica, _, camera_id) = given_a_camera(&log).await;
    let published = log.end(LogStream::Assignments).await.unwrap();
    let (expected, mut settings) = {
        let state = replica.service.state();
        let camera = state.camera(TENANT, camera_id).unwrap();
        (camera.version, camera.settings.told())
    };
    settings.name = "Gate 2".into();
    let settings = Box::new(settings);
    replica.execute(Command::ChangeCamera { tenant_id: TENANT, camera_id, expected, settings }).await;
    replica.publish().await;
    assert_eq!(log.end(LogStream::Assignments).await.unwrap(), published, "nothing changed for its server");
}

#[tokio::test]
async fn a_new_schedule_reaches_the_server_under_the_same_epoch() {
    let log = memory_log();
    let (mut replica, server_id, camera_id) = given_a_camera(&log).await;
    replica.publish().await;
    let before = standing(&log, server_id).await.remove(0).cameras.remove(0);
    assert_eq!(before.recording, None, "nothing is said of what is always recorded");
    let (expected, settings) = {
        let state = replica.service.state();
        let camera = state.camera(TENANT, camera_id).unwrap();
        (camera.version, CameraSettings { recording: longest_recording(), ..camera.settings.told() })
    };
    let settings = Box::new(settings);
    replica.execute(Command::ChangeCamera { tenant_id: TENANT, camera_id, expected, settings }).await;
    replica.publish().await;
    let after = standing(&log, server_id).await.remove(0).cameras.remove(0);
    assert_eq!(after, AssignedCamera { recording: Some(longest_recording()), ..before });
}

#[tokio::test]
async fn an_older_set_never_replaces_a_newer_one() {
    // Given: a replica that stands where the camera was still there, and will not come on.
    let log = memory_log();
    let (mut first, server_id, camera_id) = given_a_camera(&log).await;
    let mut late = Replica::that_folds_nothing_on(&log).await;
    std::fs::copy(first.master_key(), late.master_key()).unwrap();
    *late.service.state_to_fold() = first.service.state().clone();
    let expected = first.service.state().camera(TENANT, camera_id).unwrap().version;
    first.execute(Command::DeleteCamera { tenant_id: TENANT, camera_id, expected }).await;
    first.publish().await;
    let newest = standing(&log, server_id).await;
    assert_eq!(ids(&newest), []);

    // When it publishes; its deadline passes in no time.
    tokio::time::pause();
    late.publisher.publish(&late.service).await;

    // Then
    assert_eq!(standing(&log, server_id).await, newest);
}

#[tokio::test]
async fn a_server_that_has_applied_more_than_stands_there_is_told_anew() {
    let log = memory_log();
    let (mut replica, server_id, camera_id) = given_a_camera(&log).await;
    let before = standing(&log, server_id).await;

    // Given: the log was set back; the server has applied a set of what is no more.
    let applied_revision = Position(before[0].revision.0 + 20);
    let load = event::Load { applied_revision, ..event::Load::default() };
    let boot_id = BootId::generate(&SystemIds);
    let heartbeat = event::ServerHeartbeat { server_id, boot_id, sequence: 1, load, media_url: None };
    replica.service.observed().heartbeat(&heartbeat, Position(1), START);

    // Then: it is told the same again, under a revision that it takes.
    replica.publish().await;
    let after = standing(&log, server_id).await;
    assert_eq!((ids(&after), after[0].revision), (vec![camera_id], applied_revision.next()));

    // And not once more: it will say that it has applied that.
    replica.publish().await;
    assert_eq!(standing(&log, server_id).await, after);

    // And what it has done by the older order says nothing of what follows from the log as it is now.
    let position = replica.service.state().position;
    let stands = |position, applied| replica.publisher.is_what_stands_since(position, server_id, applied);
    assert!(!stands(position, applied_revision), "it has applied something else");
    assert!(!stands(position, applied_revision.next().next()), "the log was set back once more");
    assert!(stands(position, applied_revision.next()));
    assert!(!stands(position.next(), applied_revision.next()), "it cannot know what happened since");
}

#[tokio::test]
async fn replicas_that_publish_at_once_leave_one_whole_set() {
    let log = memory_log();
    let (first, server_id, _) = given_a_camera(&log).await;
    let mut replicas = [Replica::on(&log).await, Replica::on(&log).await];
    for replica in &replicas {
        std::fs::copy(first.master_key(), replica.master_key()).unwrap();
    }
    let long = "x".repeat(2_000);
    for n in 0..300 {
        first.add_camera(&format!("rtsp://h/{n}{long}")).await;
    }
    first.plan().await;
    let end = log.end(LogStream::Assignments).await.unwrap();

    let [one, other] = &mut replicas;
    futures::future::join(one.publish(), other.publish()).await;
    futures::future::join(one.publish(), other.publish()).await;

    let sets = standing(&log, server_id).await;
    assert!(sets.len() > 1, "this is about several parts");
    assert_eq!(ids(&sets).len(), 300, "as many as the server may hold");
    let written = log.end(LogStream::Assignments).await.unwrap().0 - end.0;
    assert_eq!(usize::try_from(written).unwrap(), sets.len(), "it was published once");
}

#[tokio::test]
async fn what_is_torn_or_unreadable_is_replaced() {
    let log = memory_log();
    let (mut replica, server_id, camera_id) = given_a_camera(&log).await;
    let mut torn = standing(&log, server_id).await.remove(0);
    (torn.parts, torn.revision) = (2, Position(1_000));
    replica
        .service
        .append("test", EventId::generate(&SystemIds), Event::AssignmentsPublished(torn), None)
        .await
        .unwrap();
    pass(VERIFY_AFTER).await;
    replica.publish().await;
    let healed = standing(&log, server_id).await;
    assert_eq!((ids(&healed), healed[0].revision), (vec![camera_id], Position(1_001)));

    let (stream, subject) = (LogStream::Assignments, subject::assignment(server_id, 1));
    let id = EventId::generate(&SystemIds);
    let payload = "{}".into();
    log.append(Entry { stream, subject, id, payload, expected_last: None, connection: None }).await.unwrap();
    pass(VERIFY_AFTER).await;
    replica.publish().await;
    assert_eq!(ids(&standing(&log, server_id).await), [camera_id]);
}

/// The longest that the API takes.
fn longest_recording() -> Recording {
    let time = |text: &str| text.parse::<TimeOfDay>().unwrap();
    let window = Window { days: Days::ALL, from: time("23:59:59"), to: time("23:59:58") };
    let schedule = Schedule { time_zone: "Z".repeat(64), weekly: vec![window; Schedule::MAX_WINDOWS] };
    Recording { mode: RecordingMode::Schedule, schedule: Some(Box::new(schedule)), event: None }
}

#[test]
fn no_part_is_too_large_for_a_message() {
    let key = PublicKey([9; 32]);
    let shortest = SourceSecret { url: "rtsp://h/".into(), username: None, password: None };
    // What the API takes at most: 2,048 characters of an address, 256 of user and password each. As JSON the former
    // may take 4 bytes a character, the latter 6.
    let longest = SourceSecret {
        url: format!("rtsp://h/{}", "\u{1d11e}".repeat(2_039)),
        username: Some("\u{1}".repeat(256)),
        password: Some("\u{1}".repeat(256)),
    };
    for (source, count) in [(shortest, 10_000), (longest, 200)] {
        let source = secrets::seal_to_worker(&key, &source).unwrap();
        let camera = |_| AssignedCamera {
            tenant_id: TENANT,
            camera_id: CameraId::generate(&SystemIds),
            epoch: Epoch(u64::MAX),
            settings_version: Position(u64::MAX),
            source: source.clone(),
            single_session: true,
            live_latency_ms: None,
            priority: None,
            retention: Some(Retention {
                max_days: Some(u32::MAX),
                max_bytes: Some(u64::MAX),
                min_days: Some(u32::MAX),
            }),
            recording: Some(longest_recording()),
        };
        let cameras: Vec<_> = (0..count).map(camera).collect();
        let pace = Pace { interval_ms: u32::MAX, lease_ms: u32::MAX };
        let sets = set::parts(
            ServerId::generate(&SystemIds),
            Position(u64::MAX),
            EventId::generate(&SystemIds),
            pace,
            cameras.clone(),
        );

        let numbers: Vec<_> = sets.iter().map(|set| (set.part, set.parts)).collect();
        let all = u32::try_from(sets.len()).unwrap();
        assert_eq!(numbers, (1..=all).map(|part| (part, all)).collect::<Vec<_>>());
        assert!(all > 1, "this is about several parts");
        assert_eq!(sets.iter().flat_map(|set| set.cameras.clone()).collect::<Vec<_>>(), cameras);
        for set in sets {
            let envelope = Envelope {
                id: EventId::generate(&SystemIds),
                source: "/control/01935700-0000-7000-8005-0000000000c0".into(),
                time: START,
                tenant: None,
                actor: "system".into(),
                causation: None,
                event: Event::AssignmentsPublished(set),
            };
            let bytes = envelope.encode().len();
            assert!(bytes <= 700_000, "{bytes}");
        }
    }
    let pace = Pace { interval_ms: 1_000, lease_ms: 3_000 };
    assert_eq!(
        set::parts(
            ServerId::generate(&SystemIds),
            Position(1),
            EventId::generate(&SystemIds),
            pace,
            Vec::new()
        )
        .len(),
        1
    );
}
