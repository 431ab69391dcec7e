//! Runs the system, kills a server of it, brings it back and empties it, and gathers what the log and the archives tell.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use futures::StreamExt as _;
use futures::stream::select;
use longwatch_events::event::Event;
use longwatch_events::fact::Fact;
use longwatch_events::id::{CameraId, ServerId};
use longwatch_events::log::jetstream::JetStreamLog;
use longwatch_events::log::{Follow, Log as _};
use longwatch_events::position::Position;
use longwatch_events::subject::LogStream;
use longwatch_events::time::{Clock as _, SystemClock, Timestamp};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use super::{Camera, FRAME_MS, GOP_MS, Measured, Phase};
use crate::system::cameras::{Cameras, record_all};
use crate::system::cluster::{Cluster, Options};
use crate::system::footage::{Footage, Stretch};
use crate::system::history::{self, Entry};
use crate::system::moves::moves;
use crate::system::takeover::{Takeover, Takeovers, trace};

/// How long all cameras may take to be recorded at the start.
const RECORDING_WITHIN: Duration = Duration::from_secs(180);
/// How long the takeover is watched.
const WATCHED: Duration = Duration::from_secs(60);
/// How long a server's cameras may take to go home, or to leave it.
const MOVED_WITHIN: Duration = Duration::from_secs(120);
/// How long a worker may take to close its segments.
const STOPPED_WITHIN: Duration = Duration::from_secs(60);
/// Between two things that are done to the system: at least this.
const SETTLE: Duration = Duration::from_secs(4);
/// Between looks at a server.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What is measured.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Servers.
    pub servers: u32,
    /// Cameras that each of them records.
    pub cameras_per_server: u32,
    /// How long a server must be back before its cameras go home, in seconds.
    pub stable_s: u32,
}

/// Does it once, in a new system in `folder`.
///
/// # Errors
/// Whatever keeps a measurement from being made. That cameras are not taken over or moved is none.
pub async fn measure(size: Size, folder: &Path) -> anyhow::Result<Measured> {
    let count = size.servers * size.cameras_per_server;
    let cameras = Cameras::start(count)?;
    let options = Options {
        folder: folder.to_owned(),
        controls: 1,
        database: None,
        servers: usize::try_from(size.servers)?,
        // Each could hold all: what is measured is speed, not room.
        capacity: Some(count),
        segment_ms: None,
        object_store: None,
    };
    let cluster = Cluster::start(&options).await?;
    for server in 0..cluster.servers() {
        cluster.change_server(server, &json!({ "failover": { "takeover_limit": count } })).await?;
    }
    let recorded = record_all(cluster.api(0), &cameras, count, RECORDING_WITHIN).await?;
    // At any moment of a GOP.
    sleep(SETTLE + Duration::from_millis(rand::random_range(0..GOP_MS))).await;

    let victim = rand::random_range(0..cluster.servers());
    let mut drill = Drill {
        names: names(&cluster).await?,
        its_cameras: cameras_of(&cluster, victim).await?,
        id: cluster.server_id(victim).parse()?,
        log: cluster.log().await?,
        victim,
        cluster,
    };
    let (killed_at, takeovers) = drill.take_over().await?;
    let failback = drill.fail_back(size.stable_s).await?;
    sleep(SETTLE).await;
    let drain = drill.drain().await?;
    sleep(SETTLE).await;
    let footage = drill.stop().await?;
    Ok(Measured {
        all_recorded: recorded.all,
        victim: drill.cluster.worker(victim).name().to_owned(),
        cameras: drill.table(killed_at, &takeovers, &footage)?,
        others: drill.names.len() - drill.its_cameras.len(),
        others_lost_frames: drill.lost_by_others(failback.asked_at, &footage),
        online: failback.online,
        failback: failback.phase(&drill, &footage, Some(drain.asked_at)),
        drain: drain.phase(&drill, &footage, None),
    })
}

/// The system, and the server to which all happens.
struct Drill {
    cluster: Cluster,
    log: JetStreamLog,
    victim: usize,
    id: ServerId,
    its_cameras: BTreeSet<CameraId>,
    /// All cameras of the system.
    names: BTreeMap<CameraId, String>,
}

/// What is known of a phase while the system runs.
struct Watched {
    asked_at: Timestamp,
    online: Option<Duration>,
    took: Option<Duration>,
    ended_at: Timestamp,
    log: Vec<Entry>,
    after: Position,
}

impl Drill {
    /// Kills the server; when, and what became of its cameras.
    async fn take_over(&mut self) -> anyhow::Result<(Timestamp, Takeovers)> {
        let log = &self.log;
        let after = log.end(LogStream::Log).await?;
        let facts = log.follow(LogStream::Recordings, log.end(LogStream::Recordings).await?).await?;
        let sets = log.follow(LogStream::Assignments, log.end(LogStream::Assignments).await?).await?;
        let killed_at = SystemClock.now();
        self.cluster.worker(self.victim).kill()?;
        let others = watch(select(facts, sets).boxed(), self.id, &self.its_cameras).await?;
        let entries = history::read(&self.log, LogStream::Log).await?;
        Ok((killed_at, trace(self.id, &self.its_cameras, after, &entries, &others)))
    }

    /// Starts the server again and waits until its cameras are back.
    async fn fail_back(&mut self, stable_s: u32) -> anyhow::Result<Watched> {
        let policy = json!({ "failback": { "stable_s": stable_s } });
        self.cluster.api(0).call(Method::PATCH, "/v1/policy", Some(&policy)).await?;
        let after = self.log.end(LogStream::Log).await?;
        let (asked_at, start) = (SystemClock.now(), Instant::now());
        self.cluster.worker(self.victim).start()?;
        let online = self.until(start, |server| server["state"] == "online").await?;
        let its = self.its_cameras.len();
        let took = self
            .until(start, |server| {
                server["cameras"] == its
                    && [&server["arriving"], &server["leaving"], &server["home_cameras_away"]]
                        .iter()
                        .all(|count| **count == 0)
            })
            .await?;
        self.watched(asked_at, online, took, after).await
    }

    /// Empties the server.
    async fn drain(&self) -> anyhow::Result<Watched> {
        let after = self.log.end(LogStream::Log).await?;
        let (asked_at, start) = (SystemClock.now(), Instant::now());
        let verb = format!("/v1/servers/{}:drain", self.id);
        self.cluster.api(0).call(Method::POST, &verb, Some(&json!({}))).await?;
        let took = self.until(start, |server| server["cameras"] == 0).await?;
        self.watched(asked_at, None, took, after).await
    }

    async fn watched(
        &self,
        asked_at: Timestamp,
        online: Option<Duration>,
        took: Option<Duration>,
        after: Position,
    ) -> anyhow::Result<Watched> {
        let log = history::read(&self.log, LogStream::Log).await?;
        Ok(Watched { asked_at, online, took, ended_at: SystemClock.now(), log, after })
    }

    /// How long after `start` the server `is` so; `None`: not in time, which is an outcome and no error.
    async fn until(&self, start: Instant, is: impl Fn(&Value) -> bool) -> anyhow::Result<Option<Duration>> {
        let path = format!("/v1/servers/{}", self.id);
        while start.elapsed() < MOVED_WITHIN {
            if is(&self.cluster.api(0).get(&path).await?) {
                return Ok(Some(start.elapsed()));
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(None)
    }

    /// Closes all segments; what they hold.
    async fn stop(&mut self) -> anyhow::Result<Footage> {
        // First whoever would have others take over from the server that stops first.
        self.cluster.control(0).kill()?;
        self.cluster.stop_workers(STOPPED_WITHIN).await?;
        Footage::read((0..self.cluster.servers()).map(|server| self.cluster.archive(server)))
    }

    fn table(
        &mut self,
        killed_at: Timestamp,
        takeovers: &Takeovers,
        footage: &Footage,
    ) -> anyhow::Result<Vec<Camera>> {
        let after_kill = |at: Timestamp| at.millis_since(killed_at);
        let mut table = Vec::new();
        for (camera_id, takeover) in &takeovers.cameras {
            let server = takeover.planned.map(|planned| planned.server_id.to_string());
            let server = server.and_then(|id| self.cluster.server_with(&id));
            let ends = Ends::of(self.id, killed_at, takeover, footage.of(*camera_id));
            table.push(Camera {
                name: self.names.get(camera_id).context("a camera that was not listed")?.clone(),
                server: server.map(|server| self.cluster.worker(server).name().to_owned()),
                last_frame_ms: ends.last.map(|(_, end)| after_kill(end)),
                detected_ms: takeovers.detected.map(after_kill),
                planned_ms: takeover.planned.map(|planned| after_kill(planned.at)),
                told_ms: takeover.told.map(after_kill),
                connected_ms: takeover.connected.map(after_kill),
                first_keyframe_ms: takeover.first_keyframe.map(after_kill),
                first_durable_ms: takeover.first_durable.map(after_kill),
                lost_ms: ends.lost_ms(),
            });
        }
        Ok(table)
    }

    /// Frames that are missing, until `until`, of the cameras of the servers that were not killed.
    fn lost_by_others(&self, until: Timestamp, footage: &Footage) -> u64 {
        let others = self.names.keys().filter(|id| !self.its_cameras.contains(id));
        others.map(|id| lost_between(footage, *id, Timestamp::UNIX_EPOCH, Some(until))).sum()
    }
}

impl Watched {
    /// With what the archives tell of it. `until`: when the next phase began.
    fn phase(&self, drill: &Drill, footage: &Footage, until: Option<Timestamp>) -> Phase {
        let all = || drill.names.keys().copied();
        Phase {
            cameras: drill.its_cameras.len(),
            took: self.took,
            moves: moves(&self.log, self.after),
            lost_frames: all().map(|id| lost_between(footage, id, self.asked_at, until)).sum(),
            ended_early: all().filter(|id| footage.end(*id) < Some(self.ended_at)).count(),
        }
    }
}

fn lost_between(footage: &Footage, camera_id: CameraId, since: Timestamp, until: Option<Timestamp>) -> u64 {
    let later = until.map_or(0, |until| footage.missing_since(camera_id, until));
    footage.missing_since(camera_id, since) - later
}

/// The two sides of the hole that a kill tears: the last frame of the dead server, with its end, and the first of the new one.
struct Ends {
    last: Option<(u64, Timestamp)>,
    first: Option<u64>,
}

impl Ends {
    fn of(lost: ServerId, killed_at: Timestamp, takeover: &Takeover, stretches: &[Stretch]) -> Self {
        let planned = takeover.planned;
        // Once it is back the server records again: at first what it had, until it is told that others have it.
        let is_old = |one: &&Stretch| one.server_id == lost && one.start < killed_at;
        let is_new = |one: &&Stretch| {
            planned.is_some_and(|planned| one.server_id == planned.server_id && one.epoch == planned.epoch)
        };
        let old = stretches.iter().filter(is_old);
        let new = stretches.iter().filter(is_new);
        Self {
            last: old.filter_map(|one| Some((*one.frames.iter().max()?, one.end))).max(),
            first: new.flat_map(|one| one.frames.iter().copied()).min(),
        }
    }

    fn lost_ms(&self) -> Option<i64> {
        let lost = self.first?.saturating_sub(self.last?.0 + 1) * FRAME_MS;
        i64::try_from(lost).ok()
    }
}

async fn names(cluster: &Cluster) -> anyhow::Result<BTreeMap<CameraId, String>> {
    let cameras = cluster.api(0).cameras().await?;
    let named = |camera: &Value| Ok((id(&camera["id"])?, camera["name"].as_str().unwrap_or("").to_owned()));
    cameras.iter().map(named).collect()
}

async fn cameras_of(cluster: &Cluster, server: usize) -> anyhow::Result<BTreeSet<CameraId>> {
    let path = format!("/v1/assignments?server_id={}", cluster.server_id(server));
    let assignments = cluster.api(0).list(&path).await?;
    assignments.iter().map(|one| id(&one["camera_id"])).collect()
}

fn id(value: &Value) -> anyhow::Result<CameraId> {
    value.as_str().unwrap_or_default().parse().with_context(|| format!("{value} is no camera's id"))
}

/// What comes until each of `cameras` has durable video on another server than `lost`, or time is up.
async fn watch(
    mut records: Follow,
    lost: ServerId,
    cameras: &BTreeSet<CameraId>,
) -> anyhow::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let watching = async {
        let mut missing = cameras.clone();
        while !missing.is_empty() {
            let record = records.next().await.context("the log ended")??;
            let entry = Entry::of(&record)?;
            if let Event::RecordingReported(report) = &entry.event
                && report.server_id != lost
            {
                for fact in &report.facts {
                    if matches!(fact, Fact::FirstKeyframeDurable(_)) {
                        missing.remove(&fact.camera_id());
                    }
                }
            }
            entries.push(entry);
        }
        anyhow::Ok(())
    };
    // Time up is an outcome: what is missing by then is printed.
    if let Ok(watched) = timeout(WATCHED, watching).await {
        watched?;
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use longwatch_events::id::CountingIds;
    use longwatch_events::position::Epoch;

    use super::*;
    use crate::system::takeover::Planned;

    #[test]
    fn what_a_kill_costs_lies_between_the_dead_servers_last_frame_and_the_new_ones_first() {
        // Given a camera that two servers recorded, and the first one again under both epochs once it was back,
        let ids = CountingIds::default();
        let (old, new) = (ServerId::generate(&ids), ServerId::generate(&ids));
        let at = Timestamp::from_millis;
        let stretch = |server_id, epoch, frames: std::ops::Range<u64>| {
            let time = |frame| at(i64::try_from(frame * FRAME_MS).unwrap());
            let (start, end) = (time(frames.start), time(frames.end));
            Stretch { server_id, epoch: Epoch(epoch), start, end, frames: frames.collect() }
        };
        let stretches = [
            stretch(old, 3, 0..50),
            stretch(old, 3, 50..100),
            stretch(new, 7, 200..400),
            stretch(old, 3, 220..230),
            stretch(old, 9, 350..500),
        ];
        let planned = Some(Planned { at: at(7_000), server_id: new, epoch: Epoch(7) });
        let takeover = Takeover { planned, ..Takeover::default() };
        // then neither its late frames nor those it got back hide what is missing.
        let ends = Ends::of(old, at(4_100), &takeover, &stretches);
        assert_eq!(ends.last, Some((99, at(4_000))));
        assert_eq!(ends.lost_ms(), Some(100 * 40));
        let nobody = Ends::of(old, at(4_100), &Takeover::default(), &stretches);
        assert_eq!((nobody.last, nobody.lost_ms()), (Some((99, at(4_000))), None));
    }
}
