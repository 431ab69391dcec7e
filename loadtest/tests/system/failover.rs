//! Servers and replicas that die, stand still or are cut off: who records which camera then, and what is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use longwatch_events::event::{Decision, Event};
use longwatch_events::fact::Fact;
use longwatch_events::id::{CameraId, ServerId};
use longwatch_events::position::Position;
use longwatch_events::subject::LogStream;
use longwatch_events::time::{Clock as _, SystemClock, Timestamp};
use longwatch_loadtest::frames::{self, Continuity};
use longwatch_loadtest::sei::FrameNumber;
use longwatch_loadtest::system::api::Api;
use longwatch_loadtest::system::archive::{Segment, segments};
use longwatch_loadtest::system::cameras::Cameras;
use longwatch_loadtest::system::cluster::{Cluster, Options};
use longwatch_loadtest::system::history::{self, Entry};
use longwatch_loadtest::system::takeover::trace;
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::given::{millis, until};

pub(crate) const SERVERS: usize = 3;
const SEGMENT_MS: u64 = 5_000;
/// Generous: tests share a small machine. What it took is printed; the benchmark `failover` measures it.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(15);
pub(crate) const RECORDING_WITHIN: Duration = Duration::from_secs(30);
pub(crate) const STOPPED_WITHIN: Duration = Duration::from_secs(30);
/// Much longer than the lease.
const OUTAGE: Duration = Duration::from_secs(8);
/// Longer than a server that comes back may go on with what is not its any more, in frames of 40 ms.
const FEW_FRAMES: u64 = 5 * 25;

/// Where a camera is recorded, as the API says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) server: usize,
    pub(crate) epoch: u64,
    pub(crate) reason: String,
}

/// A cluster of three servers that records small cameras.
pub(crate) struct Given {
    pub(crate) cluster: Cluster,
    cameras: Cameras,
    /// Id and failover priority.
    pub(crate) ids: Vec<(CameraId, &'static str)>,
    _folder: TempDir,
}

impl Given {
    /// Cameras are placed one by one, so that they go round the servers: the first of each three of one priority to the
    /// first server, and so on.
    pub(crate) async fn start(controls: usize, priorities: &[&'static str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let cameras = Cameras::start(100).unwrap();
        let options = Options {
            folder: folder.path().to_owned(),
            controls,
            database: None,
            servers: SERVERS,
            capacity: None,
            segment_ms: Some(SEGMENT_MS),
            object_store: None,
        };
        let cluster = Cluster::start(&options).await.unwrap();
        let mut given = Self { cluster, cameras, ids: Vec::new(), _folder: folder };
        for priority in priorities.iter().flat_map(|priority| [*priority; SERVERS]) {
            given.add(0, priority).await;
        }
        let all: Vec<_> = given.ids.iter().map(|(id, _)| *id).collect();
        given.until_recording(0, &all).await;
        // So that a server that dies has whole segments and torn ones.
        given.until_segments_after(Timestamp::UNIX_EPOCH).await;
        given
    }

    /// The address of the simulator's `number`-th small camera.
    pub(crate) fn camera_url(&self, number: u32) -> String {
        self.cameras.url(&format!("/small/{number}"))
    }

    /// Adds a camera through a replica, and waits until it has a place.
    async fn add(&mut self, replica: usize, priority: &'static str) -> CameraId {
        let number = self.ids.len() + 1;
        let camera = json!({
            "name": format!("camera {number}"),
            "source": { "url": self.cameras.url(&format!("/small/{number}")) },
            "failover_priority": priority,
        });
        let api = self.cluster.api(replica);
        let added = api.call(Method::POST, "/v1/tenants/default/cameras", Some(&camera)).await.unwrap();
        let id: CameraId = added["id"].as_str().unwrap().parse().unwrap();
        until("the camera has a place", RECORDING_WITHIN, async || {
            let camera = camera_of(api, id).await?;
            if camera["assignment"].is_object() { Ok(()) } else { Err(camera) }
        })
        .await;
        self.ids.push((id, priority));
        id
    }

    pub(crate) async fn until_recording(&self, replica: usize, cameras: &[CameraId]) {
        until("all cameras are recording", RECORDING_WITHIN, async || {
            for id in cameras {
                let camera = camera_of(self.cluster.api(replica), *id).await?;
                if camera["state"] != "recording" {
                    return Err(camera);
                }
            }
            Ok(())
        })
        .await;
    }

    /// Waits until none of the cameras is at `server` and all are being recorded; where.
    pub(crate) async fn until_elsewhere(
        &self,
        cameras: &[CameraId],
        server: usize,
    ) -> BTreeMap<CameraId, Place> {
        until("the cameras are recording elsewhere", TAKEN_OVER_WITHIN, async || {
            for id in cameras {
                let camera = camera_of(self.cluster.api(0), *id).await?;
                let is_there = camera["assignment"]["server_id"] == self.cluster.server_id(server);
                if is_there || camera["state"] != "recording" {
                    return Err(camera);
                }
            }
            Ok(())
        })
        .await;
        let mut places = self.places().await;
        places.retain(|id, _| cameras.contains(id));
        places
    }

    pub(crate) async fn until_server(&self, server: usize, state: &str) {
        let path = format!("/v1/servers/{}", self.cluster.server_id(server));
        until(&format!("the server is {state}"), TAKEN_OVER_WITHIN, async || {
            let read = get(self.cluster.api(0), &path).await?;
            if read["state"] == state { Ok(()) } else { Err(read) }
        })
        .await;
    }

    pub(crate) async fn places(&self) -> BTreeMap<CameraId, Place> {
        let listed = self.cluster.api(0).list("/v1/assignments").await.unwrap();
        let place = |one: &Value| {
            let server = self.cluster.server_with(one["server_id"].as_str().unwrap()).unwrap();
            let (epoch, reason) = (one["epoch"].as_u64().unwrap(), one["reason"].as_str().unwrap().into());
            (one["camera_id"].as_str().unwrap().parse().unwrap(), Place { server, epoch, reason })
        };
        listed.iter().map(place).collect()
    }

    /// The cameras at `server` that may be moved.
    pub(crate) fn movable(&self, places: &BTreeMap<CameraId, Place>, server: usize) -> Vec<CameraId> {
        let movable = self.ids.iter().filter(|(_, priority)| *priority != "never").map(|(id, _)| *id);
        movable.filter(|id| places[id].server == server).collect()
    }

    pub(crate) async fn history(&self, stream: LogStream) -> Vec<Entry> {
        history::read(&self.cluster.log().await.unwrap(), stream).await.unwrap()
    }

    /// Waits until the timeline of every camera holds a segment that began after `moment`: by then everything works.
    pub(crate) async fn until_segments_after(&self, moment: Timestamp) {
        for (id, _) in &self.ids {
            until("a segment that began later is in the timeline", RECORDING_WITHIN, async || {
                let timeline = timeline(self.cluster.api(0), *id).await?;
                let starts = timeline["segments"].as_array().unwrap().iter().map(|one| millis(&one["start"]));
                if starts.max().is_some_and(|start| start > moment.as_millis()) {
                    Ok(())
                } else {
                    Err(timeline)
                }
            })
            .await;
        }
    }

    /// All of a camera's segments in a server's archive.
    pub(crate) fn segments(&self, server: usize, camera: CameraId) -> Vec<Segment> {
        let mut found = segments(self.cluster.archive(server));
        found.retain(|segment| segment.camera_id == camera);
        found
    }

    /// The cameras of which a server's archive has an open segment.
    fn torn(&self, server: usize) -> BTreeSet<CameraId> {
        let segments = segments(self.cluster.archive(server)).into_iter();
        segments.filter(|segment| segment.open).map(|segment| segment.camera_id).collect()
    }

    pub(crate) fn numbers(&self, server: usize, camera: CameraId) -> Vec<FrameNumber> {
        let segments = self.segments(server, camera);
        segments.iter().flat_map(|segment| segment.numbers().unwrap()).collect()
    }

    /// What a server has of a camera.
    fn continuity(&self, server: usize, camera: CameraId) -> Continuity {
        let mut found = frames::continuity(&self.numbers(server, camera));
        assert_eq!(found.len(), 1, "{camera} at {server}: {found:?}");
        found.remove(0)
    }

    /// The log holds no `ServerLost`; if it does, what was heard before and after says why.
    async fn assert_nobody_lost(&self) {
        let log = self.history(LogStream::Log).await;
        let Some(lost) = log.iter().find(|entry| matches!(entry.event, Event::ServerLost(_))) else { return };
        let mut heard = String::new();
        for entry in self.history(LogStream::Heartbeats).await {
            let from = if let Event::ServerHeartbeat(beat) = &entry.event {
                format!("server {} sequence {}", beat.server_id, beat.sequence)
            } else {
                "control".to_owned()
            };
            if entry.stored_at.millis_since(lost.stored_at).abs() < 20_000 {
                heard += &format!("{} {} {from}\n", entry.position, entry.stored_at);
            }
        }
        panic!("{lost:?}\nheard around it:\n{heard}");
    }

    /// Closes all segments; then every camera is whole at the server that always had it.
    async fn assert_no_frame_lost(&mut self) {
        let places = self.places().await;
        self.cluster.stop_workers(STOPPED_WITHIN).await.unwrap();
        for (id, place) in places {
            let continuity = self.continuity(place.server, id);
            assert!(continuity.is_clean(), "{id} at {place:?}: {continuity:?}");
        }
    }
}

pub(crate) async fn get(api: &Api, path: &str) -> Result<Value, Value> {
    api.get(path).await.map_err(|error| Value::from(error.to_string()))
}

pub(crate) async fn camera_of(api: &Api, id: CameraId) -> Result<Value, Value> {
    get(api, &format!("/v1/tenants/default/cameras/{id}")).await
}

pub(crate) async fn timeline(api: &Api, id: CameraId) -> Result<Value, Value> {
    get(api, &format!("/v1/tenants/default/cameras/{id}/timeline")).await
}

/// The stretches without video since recording began, each with the causes of the gaps it is made of: the timeline cuts a
/// stretch where its cause changes.
pub(crate) fn missing(timeline: &Value) -> Vec<Vec<String>> {
    let first = millis(&timeline["segments"][0]["start"]);
    let mut stretches: Vec<Vec<String>> = Vec::new();
    let mut last_end = &Value::Null;
    for gap in timeline["gaps"].as_array().unwrap().iter().filter(|gap| millis(&gap["end"]) > first) {
        let cause = gap["cause"].as_str().unwrap().to_owned();
        match stretches.last_mut() {
            Some(stretch) if gap["start"] == *last_end => stretch.push(cause),
            Some(_) | None => stretches.push(vec![cause]),
        }
        last_end = &gap["end"];
    }
    stretches
}

/// In the order in which the log assigned them after `after`.
fn assigned(log: &[Entry], after: Position) -> Vec<CameraId> {
    let mut cameras = Vec::new();
    for entry in log.iter().filter(|entry| entry.position > after) {
        if let Event::PlanMade(plan) = &entry.event {
            let assigned =
                plan.entries.iter().filter(|entry| matches!(entry.decision, Decision::Assign { .. }));
            cameras.extend(assigned.map(|entry| entry.camera_id));
        }
    }
    cameras
}

/// The cameras of which a server told that it repaired a torn segment.
fn repaired(facts: &[Entry], server_id: ServerId) -> BTreeSet<CameraId> {
    let mut cameras = BTreeSet::new();
    for entry in facts {
        if let Event::RecordingReported(report) = &entry.event
            && report.server_id == server_id
        {
            let repaired = report
                .facts
                .iter()
                .filter(|fact| matches!(fact, Fact::SegmentStored(segment) if segment.repaired));
            cameras.extend(repaired.map(Fact::camera_id));
        }
    }
    cameras
}

#[tokio::test]
async fn a_killed_servers_cameras_are_recorded_elsewhere_and_stay_there() {
    // Given a server with a camera of every priority,
    let mut given = Given::start(1, &["high", "medium", "low", "never"]).await;
    let victim = 1;
    let before = given.places().await;
    let its: BTreeMap<_, _> =
        given.ids.iter().copied().filter(|(id, _)| before[id].server == victim).collect();
    let priorities: BTreeSet<_> = its.values().copied().collect();
    assert_eq!(priorities, BTreeSet::from(["high", "medium", "low", "never"]));
    let moving = given.movable(&before, victim);
    let after = given.history(LogStream::Log).await.last().unwrap().position;

    // when it is killed in the middle of segments,
    until("each of its cameras has a segment under way", RECORDING_WITHIN, async || {
        let torn = given.torn(victim);
        if its.keys().all(|id| torn.contains(id)) { Ok(()) } else { Err(json!(torn.len())) }
    })
    .await;
    let killed_at = SystemClock.now();
    given.cluster.worker(victim).kill().unwrap();
    let torn = given.torn(victim);

    // then all but those that never move are recorded elsewhere,
    let moved = given.until_elsewhere(&moving, victim).await;
    assert!(moved.values().all(|place| place.reason == "failover"), "{moved:?}");
    let (log, facts) = (given.history(LogStream::Log).await, given.history(LogStream::Recordings).await);
    let lost_id = given.cluster.server_id(victim).parse().unwrap();
    let takeovers = trace(lost_id, &moving.iter().copied().collect(), after, &log, &facts);
    let detected_ms = takeovers.detected.unwrap().millis_since(killed_at);
    let durable = takeovers.cameras.values().map(|one| one.first_durable.unwrap().millis_since(killed_at));
    println!("detected {detected_ms} ms, last recorded {:?} ms after the kill", durable.max());

    // the others wait for their server, and nobody else is moved.
    given.until_server(victim, "lost").await;
    let now = given.places().await;
    for (id, priority) in &given.ids {
        let stays = before[id].server != victim || *priority == "never";
        assert_eq!(stays, now[id] == before[id], "{priority} {id}: {:?}", now[id]);
    }
    let assigned = assigned(&log, after);
    let in_turn: Vec<_> = assigned.iter().map(|id| its[id]).collect();
    let rank = |priority: &&str| ["high", "medium", "low"].iter().position(|known| known == priority);
    assert!(in_turn.is_sorted_by_key(rank), "the log shows in which order: {in_turn:?}");
    let assigned: BTreeSet<_> = assigned.into_iter().collect();
    assert_eq!(assigned, moving.iter().copied().collect(), "the log assigns those and no others");

    comes_back(&mut given, victim, &its, &now, &torn).await;
}

/// The killed server is started again: it records what is still its own, and tells what it had of the rest.
async fn comes_back(
    given: &mut Given,
    victim: usize,
    its: &BTreeMap<CameraId, &'static str>,
    places: &BTreeMap<CameraId, Place>,
    torn: &BTreeSet<CameraId>,
) {
    given.cluster.worker(victim).start().unwrap();
    given.until_server(victim, "online").await;
    let returned_at = SystemClock.now();
    let all: Vec<_> = given.ids.iter().map(|(id, _)| *id).collect();
    given.until_recording(0, &all).await;
    given.until_segments_after(returned_at).await;
    assert_eq!(&given.places().await, places, "a return moves no camera");

    // What the kill tore is repaired and told. (Between two segments there is none, for up to a second.)
    let facts = given.history(LogStream::Recordings).await;
    let repaired = repaired(&facts, given.cluster.server_id(victim).parse().unwrap());
    assert!(!torn.is_empty());
    assert_eq!(&repaired, torn);

    for (id, priority) in its {
        let timeline = timeline(given.cluster.api(0), *id).await.unwrap();
        let missing = missing(&timeline);
        assert_eq!(missing.len(), 1, "{priority} {id}: one crash, one stretch is missing: {timeline:#}");
        assert!(!missing[0].contains(&"unknown".to_owned()), "{priority} {id}: {timeline:#}");
        let segments = timeline["segments"].as_array().unwrap().iter();
        let servers: BTreeSet<_> = segments
            .map(|segment| given.cluster.server_with(segment["server_id"].as_str().unwrap()).unwrap())
            .collect();
        assert_eq!(servers, BTreeSet::from([victim, places[id].server]), "{priority} {id}: {timeline:#}");
    }

    // Nobody records twice for long.
    for id in its.keys().filter(|id| places[id].server != victim) {
        let (old, new) = (given.numbers(victim, *id), given.numbers(places[id].server, *id));
        let first = new.iter().map(|number| number.frame).min().unwrap();
        let twice = old.iter().filter(|number| number.frame >= first).count() as u64;
        assert!(twice <= FEW_FRAMES, "{id}: {twice} frames are on both servers");
        let open = given.segments(victim, *id).into_iter().find(|segment| segment.open);
        assert_eq!(open, None, "{id} is not recorded by the server that had it");
    }
}

#[tokio::test]
async fn while_nats_is_away_nobody_is_lost_and_no_frame() {
    let mut given = Given::start(1, &["high", "medium"]).await;
    let before = given.places().await;

    given.cluster.nats().pause().unwrap();
    sleep(OUTAGE).await;
    given.cluster.nats().resume().unwrap();
    given.until_segments_after(SystemClock.now()).await;

    given.cluster.nats().kill().unwrap();
    sleep(OUTAGE).await;
    given.cluster.nats().start().unwrap();
    given.until_segments_after(SystemClock.now()).await;

    given.assert_nobody_lost().await;
    assert_eq!(given.places().await, before);
    for (id, _) in &given.ids {
        let timeline = timeline(given.cluster.api(0), *id).await.unwrap();
        assert!(missing(&timeline).is_empty(), "{id}: {timeline:#}");
    }
    given.assert_no_frame_lost().await;
}

#[tokio::test]
async fn a_control_that_was_away_finds_nobody_lost() {
    let mut given = Given::start(1, &["high", "medium"]).await;
    let before = given.places().await;

    given.cluster.control(0).kill().unwrap();
    sleep(OUTAGE).await;
    given.cluster.control(0).start().unwrap();
    given.cluster.until_ready(0).await.unwrap();
    given.until_segments_after(SystemClock.now()).await;

    given.cluster.control(0).pause().unwrap();
    sleep(OUTAGE).await;
    given.cluster.control(0).resume().unwrap();
    given.until_segments_after(SystemClock.now()).await;

    given.assert_nobody_lost().await;
    assert_eq!(given.places().await, before);
    given.assert_no_frame_lost().await;
}

#[tokio::test]
async fn a_server_that_stood_still_overwrites_nothing() {
    let mut given = Given::start(1, &["high", "medium", "low"]).await;
    let victim = 0;
    let before = given.places().await;
    let moving = given.movable(&before, victim);
    assert_eq!(moving.len(), 3);

    // When a server stands still, its cameras move;
    let paused = Instant::now();
    given.cluster.worker(victim).pause().unwrap();
    let moved = given.until_elsewhere(&moving, victim).await;
    tokio::time::sleep_until(paused + Duration::from_secs(10)).await;
    // when it goes on, with video in its sockets that is not its to record any more, it lets go of them.
    given.cluster.worker(victim).resume().unwrap();
    given.until_server(victim, "online").await;
    let returned_at = SystemClock.now();
    until("the stale server has closed its segments", STOPPED_WITHIN, async || {
        let mut open = moving.iter().flat_map(|id| given.segments(victim, *id)).filter(|one| one.open);
        open.next().map_or(Ok(()), |segment| Err(json!(segment.path)))
    })
    .await;
    given.until_segments_after(returned_at).await;
    let mut now = given.places().await;
    now.retain(|id, _| moving.contains(id));
    assert_eq!(now, moved, "they stay where they went");

    for id in &moving {
        let timeline = timeline(given.cluster.api(0), *id).await.unwrap();
        // What the sockets kept may fill it.
        let missing = missing(&timeline);
        assert!(missing.len() <= 1, "{id}: {timeline:#}");
        assert!(!missing.concat().contains(&"unknown".to_owned()), "{id}: {timeline:#}");
        let current = &timeline["recording"];
        assert_eq!(current["server_id"], given.cluster.server_id(moved[id].server), "{id}: {timeline:#}");
        assert_eq!(current["epoch"], moved[id].epoch, "{id}: {timeline:#}");
    }
    given.cluster.stop_workers(STOPPED_WITHIN).await.unwrap();
    for id in &moving {
        let stale: BTreeSet<_> = given.segments(victim, *id).iter().map(|one| one.epoch.0).collect();
        assert_eq!(stale, BTreeSet::from([before[id].epoch]), "{id}: only the old epoch at the old server");
        let server = moved[id].server;
        let fresh: BTreeSet<_> = given.segments(server, *id).iter().map(|one| one.epoch.0).collect();
        assert_eq!(fresh, BTreeSet::from([moved[id].epoch]), "{id}: only the new epoch at the new server");
        let continuity = given.continuity(server, *id);
        assert!(continuity.is_clean(), "{id}: the new server's video is whole: {continuity:?}");
    }
}

#[tokio::test]
async fn one_replica_is_enough() {
    let mut given = Given::start(2, &["high"]).await;
    for (dead, alive) in [(0, 1), (1, 0)] {
        given.cluster.control(dead).kill().unwrap();
        let killed = Instant::now();
        let id = given.add(alive, "medium").await;
        let placed = killed.elapsed();
        assert!(placed < Duration::from_secs(3), "a camera has a place {placed:?} after a replica's death");
        given.until_recording(alive, &[id]).await;
        given.cluster.control(dead).start().unwrap();
        given.cluster.until_ready(dead).await.unwrap();
    }
    until("both replicas say the same", RECORDING_WITHIN, async || {
        let [one, two] = [0, 1].map(|replica| given.cluster.api(replica).list("/v1/assignments"));
        let (one, two) = (one.await.unwrap(), two.await.unwrap());
        if one == two && one.len() == given.ids.len() { Ok(()) } else { Err(json!([one, two])) }
    })
    .await;
    let assigned = assigned(&given.history(LogStream::Log).await, Position::START);
    assert_eq!(assigned.len(), given.ids.len(), "each camera is assigned once: {assigned:?}");
    given.assert_nobody_lost().await;
    given.assert_no_frame_lost().await;
}
