//! A control plane for tests of this crate: the real followers and planner on a log in memory and SQLite in a folder
//! that goes with it.

pub(crate) mod moody;

use std::sync::Arc;
use std::time::Duration;

use longwatch_events::assignment::SourceSecret;
use longwatch_events::id::{CameraId, EventId, ServerId, SystemIds, TenantId};
use longwatch_events::log::memory::MemoryLog;
use longwatch_events::log::{Entry, Log as _};
use longwatch_events::sealed::PublicKey;
use longwatch_events::settings::{
    CameraSettings, Capacity, Labels, Priority, Recording, Retention, Source, Transport,
};
use longwatch_events::state::State;
use longwatch_events::subject::LogStream;
use longwatch_events::time::{ManualClock, Timestamp};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::decide::command::Command;
use crate::read_model::sqlite::SqliteReadModel;
use crate::secrets::Secrets;
use crate::service::{Parts, Progress, Service};
use crate::{backlog, follower, planner};

/// 2026-11-23T08:00:00Z: where a test's clock stands at first.
pub(crate) const START: Timestamp = Timestamp::from_millis(1_795_420_800_000);

async fn open_read_model(folder: &TempDir) -> SqliteReadModel {
    SqliteReadModel::open(&folder.path().join("read_model.db")).await.unwrap()
}

/// A running control plane; its tasks end with this value.
pub(crate) struct TestControl {
    pub(crate) service: Arc<Service>,
    pub(crate) log: MemoryLog,
    pub(crate) clock: Arc<ManualClock>,
    _tasks: JoinSet<()>,
    folder: Arc<TempDir>,
}

impl TestControl {
    /// A control plane with the default tenant and nothing else.
    pub(crate) async fn start() -> Self {
        let clock = Arc::new(ManualClock::starting_at(START));
        let log = MemoryLog::new(clock.clone());
        let control = Self::on(log, clock).await;
        let tenant_id = TenantId::DEFAULT;
        control.service.progress().wait_for(|progress| progress.caught_up).await.unwrap();
        let data_key = control.service.new_data_key(tenant_id).unwrap();
        control.execute(Command::CreateTenant { tenant_id, name: "Default".into(), data_key }).await;
        control.service.progress().wait_for(|progress| progress.recordings_caught_up).await.unwrap();
        control
    }

    /// A control plane on a log that may hold something already.
    pub(crate) async fn on(log: MemoryLog, clock: Arc<ManualClock>) -> Self {
        Self::with_rows_of(Arc::new(tempfile::tempdir().unwrap()), log, clock).await
    }

    /// One more replica, on the same log and the same read model.
    pub(crate) async fn replica(&self) -> Self {
        Self::with_rows_of(Arc::clone(&self.folder), self.log.clone(), self.clock.clone()).await
    }

    /// A control plane on a log and on a folder that may hold a read model.
    pub(crate) async fn with_rows_of(folder: Arc<TempDir>, log: MemoryLog, clock: Arc<ManualClock>) -> Self {
        let read_model = open_read_model(&folder).await;
        let service = Arc::new(Service::new(Parts {
            log: Arc::new(log.clone()),
            backlog: Arc::new(log.clone()),
            read_model: Arc::new(read_model),
            secrets: Secrets::in_file(folder.path().join("master.key")),
            clock: clock.clone(),
            // Of several replicas none may make an id another one made.
            ids: Arc::new(SystemIds),
        }));
        let mut tasks = JoinSet::new();
        let of = || Arc::clone(&service);
        let (a, b, c, d, e) = (of(), of(), of(), of(), of());
        tasks.spawn(async move { follower::follow_log(&a, None).await });
        tasks.spawn(async move { follower::follow_recordings(&b).await });
        tasks.spawn(async move { follower::follow_heartbeats(&c).await });
        tasks.spawn(async move { planner::run(&d).await });
        tasks.spawn(async move { backlog::run(&e).await });
        Self { service, log, clock, _tasks: tasks, folder }
    }

    /// Ends it, and gives the folder with its read model.
    pub(crate) fn into_folder(self) -> Arc<TempDir> {
        self.folder
    }

    /// Replaces the database by an empty one while it is open.
    pub(crate) async fn lose_rows(&self) {
        open_read_model(&self.folder).await.empty().await;
    }

    /// Appends bytes that no part of the system wrote.
    pub(crate) async fn append_raw(&self, stream: LogStream, subject: String, payload: String) {
        let id = EventId::generate(&SystemIds);
        let entry =
            Entry { stream, subject, id, payload: payload.into(), expected_last: None, connection: None };
        self.log.append(entry).await.unwrap();
    }

    /// Waits until `reached` holds of the folds' progress.
    pub(crate) async fn until_progress(&self, reached: impl FnMut(&Progress) -> bool) {
        let mut progress = self.service.progress();
        let waited = progress.wait_for(reached);
        timeout(Duration::from_secs(10), waited).await.expect("the folds never came to it").unwrap();
    }

    /// Carries out a command that must not be refused.
    pub(crate) async fn execute(&self, command: Command) {
        let event_id = EventId::generate(self.service.ids());
        self.service.execute("test", event_id, command).await.unwrap();
    }

    /// A camera of the default tenant.
    pub(crate) async fn add_camera(&self, url: &str) -> CameraId {
        let (tenant_id, camera_id) = (TenantId::DEFAULT, CameraId::generate(self.service.ids()));
        let event_id = EventId::generate(self.service.ids());
        let source =
            SourceSecret { url: url.into(), username: None, password: Some("canary-password".into()) };
        let settings = CameraSettings {
            name: url.into(),
            labels: Labels::new(),
            source: Source {
                url: url.into(),
                secret: self.service.seal_source(tenant_id, event_id, &source).unwrap(),
                transport: Transport::Tcp,
            },
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
        let command = Command::AddCamera { tenant_id, camera_id, settings: Box::new(settings) };
        self.service.execute("test", event_id, command).await.unwrap();
        camera_id
    }

    /// Waits until `reached` holds of State, and rows have followed it.
    pub(crate) async fn until(&self, reached: impl Fn(&State) -> bool) {
        let mut progress = self.service.progress();
        let waited = progress.wait_for(|progress| {
            let state = self.service.state();
            reached(&state) && progress.log >= state.position
        });
        timeout(Duration::from_secs(10), waited).await.expect("State never came to it").unwrap();
    }

    /// An adopted server with a worker.
    pub(crate) async fn add_server(&self, name: &str, capacity: Capacity) -> ServerId {
        let server_id = ServerId::generate(self.service.ids());
        let mut key = [7; 32];
        key[..16].copy_from_slice(server_id.as_uuid().as_bytes());
        self.execute(Command::JoinServer {
            server_id,
            name: name.into(),
            public_key: PublicKey(key),
            labels: Labels::new(),
            capacity,
        })
        .await;
        let expected = self.service.state().server(server_id).unwrap().version;
        self.execute(Command::AdoptServer { server_id, expected }).await;
        server_id
    }
}
