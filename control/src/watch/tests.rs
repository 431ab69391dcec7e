//! How judgements come into the log: by a log that is slow, refuses, or is asked too late.

use std::sync::Arc;

use longwatch_events::event::{Load, ServerAdopted, ServerHeartbeat, ServerJoined, ServerLost};
use longwatch_events::id::{BootId, ServerId, SystemIds};
use longwatch_events::log::Log;
use longwatch_events::log::memory::MemoryLog;
use longwatch_events::sealed::PublicKey;
use longwatch_events::settings::{Capacity, Labels};
use longwatch_events::subject::LogStream;
use longwatch_events::time::ManualClock;
use metrics_exporter_prometheus::PrometheusBuilder;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::follower;
use crate::observed::TICK_MS;
use crate::read_model::sqlite::SqliteReadModel;
use crate::secrets::Secrets;
use crate::service::Parts;
use crate::testing::START;
use crate::testing::moody::{Mood, Moody};

/// A replica that folds `LOG` and hears what it is told.
struct Watcher {
    service: Arc<Service>,
    log: Arc<Moody>,
    servers: Vec<ServerId>,
    folding: JoinHandle<()>,
    _folder: TempDir,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.folding.abort();
    }
}

impl Watcher {
    /// One with so many servers, on a log of which `mood` is that in which it is from now on.
    async fn start(servers: usize, mood: Mood) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::starting_at(START));
        let memory = MemoryLog::new(clock.clone());
        let log = Arc::new(Moody::new(memory.clone(), mood));
        let parts = |log: Arc<dyn Log>, read_model| Parts {
            log,
            backlog: Arc::new(memory.clone()),
            read_model,
            secrets: Secrets::in_file(folder.path().join("master.key")),
            clock: clock.clone(),
            ids: Arc::new(SystemIds),
        };
        let read_model = Arc::new(SqliteReadModel::open(&folder.path().join("read_model.db")).await.unwrap());
        // What is there already was written in a better mood.
        let writer = Service::new(parts(Arc::new(memory.clone()), read_model.clone()));
        let mut ids = Vec::new();
        for number in 0..servers {
            let server_id = ServerId::generate(&SystemIds);
            let mut key = [0; 32];
            key[..8].copy_from_slice(&number.to_be_bytes());
            let joined = ServerJoined {
                server_id,
                name: number.to_string(),
                public_key: PublicKey(key),
                labels: Labels::new(),
                capacity: Capacity::default(),
            };
            for event in [Event::ServerJoined(joined), Event::ServerAdopted(ServerAdopted { server_id })] {
                writer.append("test", EventId::generate(&SystemIds), event, None).await.unwrap();
            }
            ids.push(server_id);
        }
        let service = Arc::new(Service::new(parts(log.clone(), read_model)));
        let folds = Arc::clone(&service);
        let folding = tokio::spawn(async move { follower::follow_log(&folds, None).await });
        service.progress().wait_for(|progress| progress.caught_up).await.unwrap();
        Self { service, log, servers: ids, folding, _folder: folder }
    }

    /// All servers but the first `silent` are heard once more, and then for longer than a lease.
    fn hear(&self, silent: usize, sequence: u64) {
        let observed = self.service.observed();
        let from = START.plus_millis(60_000 * i64::try_from(sequence).unwrap());
        let mut position = Position(sequence * 10_000);
        observed.go_live();
        for tick in 0..16 {
            let at = from.plus_millis(tick * i64::from(TICK_MS));
            observed.tick_of_control(self.service.state().position, at);
            let heard = if tick == 0 && sequence == 1 { 0 } else { silent };
            for server_id in &self.servers[heard..] {
                position = position.next();
                let boot_id = BootId::from_uuid(server_id.as_uuid());
                let sequence = position.0;
                let heartbeat = ServerHeartbeat {
                    server_id: *server_id,
                    boot_id,
                    sequence,
                    load: Load::default(),
                    media_url: None,
                };
                observed.heartbeat(&heartbeat, position, at);
            }
        }
    }

    fn lost(&self) -> usize {
        self.service.state().servers().filter(|(_, server)| server.lost.is_some()).count()
    }

    fn asked(&self) -> (usize, usize) {
        (self.log.batches(), self.log.singles())
    }
}

#[tokio::test]
async fn who_dies_together_is_said_together_and_comes_back_at_once() {
    // Given a hundred servers on a slow log, of which forty fall silent.
    let watcher = Watcher::start(100, Mood::Slow(Duration::from_millis(100))).await;
    watcher.hear(40, 1);
    // When it looks, they are lost by one append, folded when the look is over.
    look(&watcher.service).await;
    assert_eq!((watcher.lost(), watcher.asked()), (40, (1, 0)));
    look(&watcher.service).await;
    assert_eq!(watcher.asked(), (1, 0), "nothing is said twice");
    // When they are heard again, they are back after one look: not one append after the other.
    watcher.hear(0, 2);
    look(&watcher.service).await;
    assert_eq!((watcher.lost(), watcher.asked()), (0, (1, 40)));
    assert_eq!(watcher.log.most_at_once(), 40);
}

#[tokio::test]
async fn one_of_them_that_lost_a_race_keeps_nobody_else_from_being_lost() {
    let watcher = Watcher::start(100, Mood::RefusesBatches).await;
    watcher.hear(50, 1);
    look(&watcher.service).await;
    assert_eq!((watcher.lost(), watcher.asked()), (50, (1, 50)));
    assert!(watcher.log.most_at_once() <= AT_ONCE);
}

#[tokio::test]
async fn a_judgement_that_is_old_when_its_turn_comes_is_not_said() {
    // Given a look after which the process stood still.
    let watcher = Watcher::start(4, Mood::Slow(Duration::from_millis(1))).await;
    watcher.hear(2, 1);
    let Judgement { lost, .. } = judge(&watcher.service);
    assert_eq!(lost.len(), 2);
    let long_ago = Instant::now();
    append_together(&watcher.service, lost.clone(), long_ago).await;
    append_each(&watcher.service, lost, long_ago).await;
    assert_eq!(watcher.asked(), (0, 0));
    // When it looks anew, it is said.
    look(&watcher.service).await;
    assert_eq!((watcher.lost(), watcher.asked()), (2, (1, 0)));
}

#[tokio::test]
async fn what_is_not_answered_in_time_is_judged_anew() {
    let watcher = Watcher::start(4, Mood::Slow(Duration::from_secs(60))).await;
    watcher.hear(2, 1);
    timeout(FRESH_FOR * 5, look(&watcher.service))
        .await
        .expect("it waits no longer than what it says is fresh");
    assert_eq!((watcher.lost(), watcher.asked().0), (0, 1));
}

#[tokio::test]
async fn a_loss_is_counted_once_it_stands_in_the_log() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let metrics = recorder.handle();
    let _kept = metrics::set_default_local_recorder(&recorder);
    let counted = || {
        let text = metrics.render();
        let line = text.lines().find(|line| line.starts_with("longwatch_servers_lost_total "));
        line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    };
    for silent in [1, 2] {
        let away = Watcher::start(4, Mood::Away).await;
        away.hear(silent, 1);
        look(&away.service).await;
        look(&away.service).await;
        assert_ne!(away.asked(), (0, 0));
        assert_eq!((away.lost(), counted()), (0, 0));
    }
    let watcher = Watcher::start(4, Mood::Slow(Duration::from_millis(1))).await;
    watcher.hear(2, 1);
    look(&watcher.service).await;
    assert_eq!((watcher.lost(), counted()), (2, 2));
}

#[tokio::test]
async fn archives_are_told_of_last_and_few_after_a_look() {
    let watcher = Watcher::start(100, Mood::Slow(Duration::from_millis(1))).await;
    watcher.hear(40, 1);
    let observed = watcher.service.observed();
    for server_id in &watcher.servers[40..] {
        let Some(seen) = observed.seen(*server_id) else { panic!("{server_id} was heard") };
        let load = Load { disk_free_bytes: 1, disk_total_bytes: 100, ..Load::default() };
        let (boot_id, sequence) = (seen.boot_id, seen.sequence + 1_000);
        let heartbeat = ServerHeartbeat { server_id: *server_id, boot_id, sequence, load, media_url: None };
        observed.heartbeat(&heartbeat, Position(sequence), observed.now());
    }
    let told = |watcher: &Watcher| {
        let state = watcher.service.state();
        state.servers().filter(|(_, server)| server.disk_free_percent.is_some()).count()
    };
    look(&watcher.service).await;
    assert_eq!((watcher.lost(), told(&watcher)), (40, MEASURES_PER_LOOK));
    look(&watcher.service).await;
    assert_eq!((watcher.lost(), told(&watcher)), (40, 60));
    // Everybody's loss stands before the first of them.
    let behind = watcher.log.log.read(LogStream::Log, Position(200), Position(240)).await.unwrap();
    assert_eq!(behind.len(), 40);
    for record in behind {
        let envelope = longwatch_events::envelope::Envelope::decode(&record.payload).unwrap();
        assert!(matches!(envelope.event, Event::ServerLost(ServerLost { .. })), "{envelope:?}");
    }
}
