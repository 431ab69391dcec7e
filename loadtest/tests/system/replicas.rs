//! Two control replicas on one PostgreSQL, of which the active one dies in the middle of a failover: the other finishes it.

#![allow(clippy::print_stdout, reason = "how long it took is worth knowing when it fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::{StreamExt as _, stream};
use longwatch_events::event::{Decision, Event};
use longwatch_events::id::{CameraId, ServerId};
use longwatch_events::log::{Follow, Log as _};
use longwatch_events::position::{Epoch, Position};
use longwatch_events::reason::AssignReason;
use longwatch_events::subject::LogStream;
use longwatch_events::time::{Clock as _, SystemClock, Timestamp};
use longwatch_loadtest::system::api::Api;
use longwatch_loadtest::system::cameras::Cameras;
use longwatch_loadtest::system::cluster::{Cluster, Options};
use longwatch_loadtest::system::footage::Footage;
use longwatch_loadtest::system::history::{self, Entry};
use longwatch_loadtest::system::takeover::{Takeovers, trace};
use longwatch_testing::postgres::Postgres;
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::given::until;

const CAMERAS: u32 = 200;
const SERVERS: usize = 3;
const VICTIM: usize = 0;
/// Cameras that are added at once.
const ADD_AT_ONCE: usize = 16;
/// Two hundred cameras, a debug build and other tests on a small machine.
const RECORDING_WITHIN: Duration = Duration::from_secs(120);
const STOPPED_WITHIN: Duration = Duration::from_secs(60);
/// A command is answered within this, whatever happens.
const ANSWERED_WITHIN: Duration = Duration::from_secs(3);
/// Between an answer and the next command.
const COMMAND_EVERY: Duration = Duration::from_millis(50);

/// When the active replica is killed.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// The log says that the server is lost: the plan may stand in it or not.
    Lost,
    /// The log says who takes the cameras over: those servers may have been told or not.
    Planned,
}

/// A cluster whose first server records all cameras.
struct Given {
    cluster: Cluster,
    ids: BTreeSet<CameraId>,
    _cameras: Cameras,
    _folder: TempDir,
    // Dropped last: the replicas are its clients.
    _database: Postgres,
}

/// Where a camera is recorded, and under which assignment.
type Places = BTreeMap<CameraId, (ServerId, Epoch)>;

impl Given {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = Postgres::start();
        let cameras = Cameras::start(CAMERAS).unwrap();
        let options = Options {
            folder: folder.path().to_owned(),
            controls: 2,
            database: Some(database.url("postgres")),
            servers: SERVERS,
            capacity: None,
            segment_ms: None,
            object_store: None,
        };
        let cluster = Cluster::start(&options).await.unwrap();
        let ids = add_all(&cluster, &cameras).await;
        let given = Self { cluster, ids, _cameras: cameras, _folder: folder, _database: database };
        given.until_recording(0).await;
        given
    }

    async fn until_recording(&self, replica: usize) {
        until("all cameras are recording", RECORDING_WITHIN, async || {
            match self.cluster.api(replica).recording().await {
                Ok(recording) if recording == self.ids.len() => Ok(()),
                Ok(recording) => Err(json!(recording)),
                Err(error) => Err(json!(error.to_string())),
            }
        })
        .await;
    }

    /// The replica that plans and judges, once exactly one does.
    async fn active(&self) -> usize {
        until("one replica is active", RECORDING_WITHIN, async || {
            let mut active = Vec::new();
            for replica in 0..2 {
                if self.cluster.api(replica).metric("longwatch_leading").await.unwrap_or(0.0) > 0.5 {
                    active.push(replica);
                }
            }
            if let [one] = active[..] { Ok(one) } else { Err(json!(active)) }
        })
        .await
    }

    async fn places(&self, replica: usize) -> Places {
        let listed = self.cluster.api(replica).list("/v1/assignments").await.unwrap();
        let place = |one: &Value| {
            let text = |field: &str| one[field].as_str().unwrap();
            let place = (text("server_id").parse().unwrap(), Epoch(one["epoch"].as_u64().unwrap()));
            (text("camera_id").parse().unwrap(), place)
        };
        listed.iter().map(place).collect()
    }

    fn victim(&self) -> ServerId {
        self.cluster.server_id(VICTIM).parse().unwrap()
    }

    /// Looks until the log and the workers' reports tell that every camera has durable video elsewhere.
    async fn until_taken_over(&self, after: Position) -> (Vec<Entry>, Takeovers) {
        until("all cameras have durable video elsewhere", RECORDING_WITHIN, async || {
            let log = self.cluster.log().await.unwrap();
            let entries = history::read(&log, LogStream::Log).await.unwrap();
            let mut others = history::read(&log, LogStream::Recordings).await.unwrap();
            others.extend(history::read(&log, LogStream::Assignments).await.unwrap());
            let takeovers = trace(self.victim(), &self.ids, after, &entries, &others);
            let there = takeovers.cameras.values().filter(|one| one.first_durable.is_some()).count();
            if there == self.ids.len() { Ok((entries, takeovers)) } else { Err(json!(there)) }
        })
        .await
    }
}

/// All on the first server.
async fn add_all(cluster: &Cluster, cameras: &Cameras) -> BTreeSet<CameraId> {
    let add = |number: u32| async move {
        let camera = json!({
            "name": format!("camera {number}"),
            "source": { "url": cameras.url(&format!("/small/{number}")) },
            "preferred_server_id": cluster.server_id(VICTIM),
        });
        let path = "/v1/tenants/default/cameras";
        let added = cluster.api(0).call(Method::POST, path, Some(&camera)).await.unwrap();
        added["id"].as_str().unwrap().parse::<CameraId>().unwrap()
    };
    stream::iter(1..=CAMERAS).map(add).buffer_unordered(ADD_AT_ONCE).collect().await
}

/// Changes one camera's name after the other until told to stop; how long each answer took.
async fn command(api: Api, ids: BTreeSet<CameraId>, stop: CancellationToken) -> Vec<Duration> {
    let mut answered = Vec::new();
    for (number, id) in ids.iter().cycle().enumerate() {
        if stop.is_cancelled() {
            break;
        }
        let path = format!("/v1/tenants/default/cameras/{id}");
        let name = json!({ "name": format!("name {number}") });
        let start = Instant::now();
        let changed = api.call(Method::PATCH, &path, Some(&name)).await.unwrap();
        answered.push(start.elapsed());
        assert_eq!(changed["name"], name["name"]);
        sleep(COMMAND_EVERY).await;
    }
    answered
}

/// Waits until the log says that it `is` so.
async fn until_logged(mut log: Follow, is: impl Fn(&Event) -> bool) -> Timestamp {
    let following = async {
        loop {
            let entry = Entry::of(&log.next().await.unwrap().unwrap()).unwrap();
            if is(&entry.event) {
                return entry.stored_at;
            }
        }
    };
    timeout(RECORDING_WITHIN, following).await.expect("it stands in the log in time")
}

/// How often the log assigned each camera behind `after`, to whom last, and under which epoch.
fn assigned(log: &[Entry], after: Position) -> BTreeMap<CameraId, Vec<(ServerId, Epoch, AssignReason)>> {
    let mut assigned: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for entry in log.iter().filter(|entry| entry.position > after) {
        let Event::PlanMade(plan) = &entry.event else { continue };
        for planned in &plan.entries {
            let Decision::Assign { server_id, reason } = planned.decision else {
                panic!("nothing but assignments follows from a loss: {planned:?}")
            };
            let epoch = Epoch(entry.position.0);
            assigned.entry(planned.camera_id).or_default().push((server_id, epoch, reason));
        }
    }
    assigned
}

#[tokio::test]
async fn a_replica_that_dies_in_the_middle_of_a_failover_is_followed_by_the_other() {
    // One after the other: each has two hundred cameras.
    for moment in [Moment::Lost, Moment::Planned] {
        the_other_finishes(moment).await;
    }
}

async fn the_other_finishes(moment: Moment) {
    // Given a server with two hundred cameras, and a client that changes them through the replica that is not active,
    let mut given = Given::start().await;
    let active = given.active().await;
    let other = 1 - active;
    let before = given.places(other).await;
    assert_eq!(before.len(), given.ids.len());
    assert!(before.values().all(|(server_id, _)| *server_id == given.victim()), "all are on one server");
    let log = given.cluster.log().await.unwrap();
    let after = log.end(LogStream::Log).await.unwrap();
    let stop = CancellationToken::new();
    let client = tokio::spawn(command(given.cluster.api(other).clone(), given.ids.clone(), stop.clone()));

    // when the server is killed and then, in the middle of its failover, the active replica,
    let news = log.follow(LogStream::Log, after).await.unwrap();
    let killed_at = SystemClock.now();
    given.cluster.worker(VICTIM).kill().unwrap();
    let logged_at = until_logged(news, |event| match moment {
        Moment::Lost => matches!(event, Event::ServerLost(_)),
        Moment::Planned => matches!(event, Event::PlanMade(_)),
    })
    .await;
    given.cluster.control(active).kill().unwrap();
    let replica_killed_at = SystemClock.now();

    // then all cameras have durable video elsewhere, and it was in the middle: not all had when the replica died.
    let (entries, takeovers) = given.until_taken_over(after).await;
    let durable: BTreeSet<_> = takeovers.cameras.values().map(|one| one.first_durable.unwrap()).collect();
    println!(
        "{moment:?}: logged {} ms after the server's death, replica dead {} ms later; planned {:?} and durable {:?} to {:?} \
         ms after it",
        logged_at.millis_since(killed_at),
        replica_killed_at.millis_since(logged_at),
        takeovers.cameras.values().map(|one| one.planned.unwrap().at.millis_since(replica_killed_at)).max(),
        durable.first().map(|at| at.millis_since(replica_killed_at)),
        durable.last().map(|at| at.millis_since(replica_killed_at)),
    );
    assert!(durable.last() > Some(&replica_killed_at), "the replica died too late to be in the middle");

    // every command was answered in time,
    stop.cancel();
    let answered = client.await.unwrap();
    println!("{} commands, the slowest answered after {:?}", answered.len(), answered.iter().max());
    assert!(!answered.is_empty() && answered.iter().all(|took| *took <= ANSWERED_WITHIN), "{answered:?}");

    // every camera was assigned once, under a later epoch, and none was forgotten;
    let lost = entries.iter().filter(|entry| entry.position > after);
    let lost = lost.filter(|entry| matches!(entry.event, Event::ServerLost(_))).count();
    assert_eq!(lost, 1, "one server is lost once");
    let assigned = assigned(&entries, after);
    assert_eq!(assigned.keys().copied().collect::<BTreeSet<_>>(), given.ids);
    let now = given.places(other).await;
    for (id, assignments) in &assigned {
        let [(server_id, epoch, reason)] = assignments[..] else { panic!("{id}: {assignments:?}") };
        assert_eq!((reason, now[id]), (AssignReason::Failover, (server_id, epoch)), "{id}");
        assert!(server_id != given.victim() && epoch > before[id].1, "{id}: {assignments:?}");
    }
    assert_eq!(now.len(), given.ids.len());

    the_first_comes_back(&mut given, active, &now).await;
}

/// The replica that died is started again: nothing changes, and no camera was recorded by two servers at once.
async fn the_first_comes_back(given: &mut Given, dead: usize, places: &Places) {
    given.cluster.control(dead).start().unwrap();
    given.cluster.until_ready(dead).await.unwrap();
    given.until_recording(dead).await;
    for replica in 0..2 {
        assert_eq!(&given.places(replica).await, places, "replica {replica}");
    }
    // First the replicas: nobody is to take over from the worker that stops first.
    for replica in 0..2 {
        given.cluster.control(replica).kill().unwrap();
    }
    given.cluster.stop_workers(STOPPED_WITHIN).await.unwrap();
    let survivors = (0..SERVERS).filter(|server| *server != VICTIM);
    let footage = Footage::read(survivors.map(|server| given.cluster.archive(server))).unwrap();
    for id in &given.ids {
        let recorded: BTreeSet<_> =
            footage.of(*id).iter().map(|stretch| (stretch.server_id, stretch.epoch)).collect();
        assert_eq!(recorded, BTreeSet::from([places[id]]), "{id}: one server, one assignment");
        assert_eq!(footage.holes(*id), [], "{id}: whole since it was taken over");
    }
}
