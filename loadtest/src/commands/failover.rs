//! `longwatch-loadtest failover`: how long a lost server's cameras go unrecorded, and how much of their video is lost.
//!
//! A real cluster on this machine (NATS, control, workers), simulated cameras, one worker killed with SIGKILL. Moments come
//! from the log and from the workers' facts, lost video from the frame numbers in both servers' archives.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures::StreamExt as _;
use futures::stream::select;
use longwatch_events::event::Event;
use longwatch_events::fact::Fact;
use longwatch_events::id::{CameraId, ServerId};
use longwatch_events::log::{Follow, Log as _};
use longwatch_events::position::Epoch;
use longwatch_events::subject::LogStream;
use longwatch_events::time::{Clock as _, SystemClock, Timestamp};
use serde_json::json;
use tokio::time::{sleep, timeout};

use crate::system::archive::{Segment, segments};
use crate::system::cameras::{Cameras, record_all};
use crate::system::cluster::{Cluster, Options};
use crate::system::history::{self, Entry};
use crate::system::takeover::{Takeover, Takeovers, trace};

/// How long all cameras may take to be recorded at the start.
const RECORDING_WITHIN: Duration = Duration::from_secs(180);
/// How long the takeover is watched.
const WATCHED: Duration = Duration::from_secs(60);
/// Between all being recorded and the kill: at least this, and a random part of a GOP more.
const SETTLE: Duration = Duration::from_secs(4);
/// Keyframe distance of the simulated cameras.
const GOP_MS: u64 = 2_000;
/// Frame distance of the simulated cameras.
const FRAME_MS: u64 = 40;

/// Kill one server of several and print how long its cameras go unrecorded (1080p25, about 2 Mbps, 2 s GOP)
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Servers, one of which is killed
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(2..=64))]
    servers: u32,
    /// Cameras that each of them records
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    cameras_per_server: u32,
    /// Times this is done, each on a new cluster
    #[arg(long, default_value_t = 1)]
    runs: u32,
    /// Where recordings go while they are measured; removed afterwards
    #[arg(long, default_value = "./data-bench")]
    data: PathBuf,
}

/// Measures and prints; fails if a camera was not taken over.
///
/// # Errors
/// Whatever keeps a measurement from being made.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    ensure!(
        !args.data.exists(),
        "{} exists: a measurement starts with nothing; remove it or name another folder with --data",
        args.data.display()
    );
    // One thread: the cluster's processes end with the thread that started them.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!(
        "failover: {} servers with {} cameras each, 1080p25 H.264 with AAC, keyframes every {} s\n\
         cameras, NATS, control and all servers share this machine's {cores} core(s) and its disk",
        args.servers,
        args.cameras_per_server,
        GOP_MS / 1_000
    );
    let mut complete = true;
    for number in 1..=args.runs {
        let measured = runtime.block_on(measure(args));
        // Gigabytes: not left behind even if something failed.
        let removed = std::fs::remove_dir_all(&args.data);
        let measured = measured?;
        removed.with_context(|| format!("cannot remove {}", args.data.display()))?;
        print(number, &measured);
        complete &= measured.is_complete();
    }
    Ok(if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One run.
struct Measured {
    /// From the first request that added a camera until all were recorded.
    all_recorded: Duration,
    victim: String,
    killed_at: Timestamp,
    takeovers: Takeovers,
    /// Video that is on neither server's disk, in milliseconds, of each camera that is on both.
    lost_ms: Vec<u64>,
}

impl Measured {
    /// How long after the kill, for every camera of which it is known.
    fn after_kill(&self, of: impl Fn(&Takeover) -> Option<Timestamp>) -> Vec<u64> {
        let cameras = self.takeovers.cameras.values();
        cameras.filter_map(of).map(|at| since(self.killed_at, at)).collect()
    }

    fn is_complete(&self) -> bool {
        self.takeovers.cameras.values().all(|camera| camera.first_durable.is_some())
    }
}

fn since(start: Timestamp, at: Timestamp) -> u64 {
    u64::try_from(at.millis_since(start)).unwrap_or(0)
}

async fn measure(args: &Args) -> anyhow::Result<Measured> {
    let count = args.servers * args.cameras_per_server;
    let cameras = Cameras::start(count)?;
    let options = Options {
        folder: args.data.clone(),
        controls: 1,
        servers: usize::try_from(args.servers)?,
        // Each could hold all: what is measured is speed, not room.
        capacity: Some(count),
        segment_ms: None,
    };
    let mut cluster = Cluster::start(&options).await?;
    for server in 0..cluster.servers() {
        cluster.change_server(server, &json!({ "failover": { "takeover_limit": count } })).await?;
    }
    let recorded = record_all(cluster.api(0), &cameras, count, RECORDING_WITHIN).await?;
    // At any moment of a GOP.
    sleep(SETTLE + Duration::from_millis(rand::random_range(0..GOP_MS))).await;

    let victim = rand::random_range(0..cluster.servers());
    let victim_id: ServerId = cluster.server_id(victim).parse()?;
    let its_cameras = cameras_of(&cluster, victim).await?;
    let log = cluster.log().await?;
    let after = log.end(LogStream::Log).await?;
    let facts = log.follow(LogStream::Recordings, log.end(LogStream::Recordings).await?).await?;
    let sets = log.follow(LogStream::Assignments, log.end(LogStream::Assignments).await?).await?;
    let killed_at = SystemClock.now();
    cluster.worker(victim).kill()?;

    let others = watch(select(facts, sets).boxed(), victim_id, &its_cameras).await?;
    let entries = history::read(&log, LogStream::Log).await?;
    let takeovers = trace(victim_id, &its_cameras, after, &entries, &others);
    // What is on the disks now is all there will be.
    cluster.kill_workers()?;
    let lost_ms = lost(&cluster, victim, &takeovers)?;
    Ok(Measured {
        all_recorded: recorded.all,
        victim: cluster.worker(victim).name().to_owned(),
        killed_at,
        takeovers,
        lost_ms,
    })
}

async fn cameras_of(cluster: &Cluster, server: usize) -> anyhow::Result<BTreeSet<CameraId>> {
    let path = format!("/v1/assignments?server_id={}", cluster.server_id(server));
    let assignments = cluster.api(0).list(&path).await?;
    let ids = assignments.iter().map(|one| Ok(one["camera_id"].as_str().unwrap_or_default().parse()?));
    ids.collect()
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

/// Per camera: what is missing between the last frame on the dead server's disk and the first on the new one's.
fn lost(cluster: &Cluster, victim: usize, takeovers: &Takeovers) -> anyhow::Result<Vec<u64>> {
    let by_camera = |server: usize| {
        let mut by_camera: BTreeMap<CameraId, Vec<Segment>> = BTreeMap::new();
        for segment in segments(cluster.archive(server)) {
            by_camera.entry(segment.camera_id).or_default().push(segment);
        }
        by_camera
    };
    let archives: Vec<_> = (0..cluster.servers()).map(by_camera).collect();
    let none = Vec::new();
    let mut lost = Vec::new();
    for (camera, takeover) in &takeovers.cameras {
        let Some(planned) = takeover.planned else { continue };
        let Some(server) = cluster.server_with(&planned.server_id.to_string()) else { continue };
        let old = archives[victim].get(camera).unwrap_or(&none);
        let new = archives[server].get(camera).unwrap_or(&none);
        if let (Some(last), Some(first)) = (last_frame(old)?, first_frame(new, planned.epoch)?) {
            lost.push(first.saturating_sub(last + 1) * FRAME_MS);
        }
    }
    Ok(lost)
}

/// The newest segment may be torn before its first frame; then the one before it has the last.
fn last_frame(segments: &[Segment]) -> anyhow::Result<Option<u64>> {
    for segment in segments.iter().rev() {
        let last = segment.numbers()?.iter().map(|number| number.frame).max();
        if last.is_some() {
            return Ok(last);
        }
    }
    Ok(None)
}

fn first_frame(segments: &[Segment], epoch: Epoch) -> anyhow::Result<Option<u64>> {
    let first = segments.iter().find(|segment| segment.epoch == epoch);
    Ok(first.map(Segment::numbers).transpose()?.and_then(|numbers| {
        let frames = numbers.iter().map(|number| number.frame);
        frames.min()
    }))
}

fn print(number: u32, measured: &Measured) {
    let total = measured.takeovers.cameras.len();
    println!(
        "\nrun {number}: all cameras recorded {:.1} s after the first was added; {} killed (SIGKILL) with {total} cameras",
        measured.all_recorded.as_secs_f64(),
        measured.victim,
    );
    println!("  seconds after the kill        cameras    min   median      p99      max");
    let detected = measured.takeovers.detected.map(|at| since(measured.killed_at, at));
    row("detected (ServerLost)", detected.into_iter().collect());
    row("planned", measured.after_kill(|camera| camera.planned.map(|planned| planned.at)));
    row("new server told", measured.after_kill(|camera| camera.told));
    row("connected, first frame", measured.after_kill(|camera| camera.connected));
    row("first keyframe", measured.after_kill(|camera| camera.first_keyframe));
    row("first durable fragment", measured.after_kill(|camera| camera.first_durable));
    row("video lost, s per camera", measured.lost_ms.clone());
    let durable = measured.after_kill(|camera| camera.first_durable);
    let recorded = durable.len();
    let p99 = share(durable, 99).map_or("-".to_owned(), seconds);
    println!("  {recorded} of {total} recording elsewhere, p99 {p99} s from the kill");
}

fn row(what: &str, values: Vec<u64>) {
    let cell = |percent| share(values.clone(), percent).map_or("-".to_owned(), seconds);
    println!(
        "  {what:<28} {:>8} {:>6} {:>8} {:>8} {:>8}",
        values.len(),
        cell(0),
        cell(50),
        cell(99),
        cell(100)
    );
}

fn seconds(millis: u64) -> String {
    format!("{:.2}", millis as f64 / 1e3)
}

/// The smallest value that `percent` of the values do not exceed (nearest rank).
fn share(mut values: Vec<u64>, percent: usize) -> Option<u64> {
    values.sort_unstable();
    let rank = (values.len() * percent).div_ceil(100).max(1);
    values.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn shares_are_values_that_were_measured() {
        let values: Vec<u64> = (1..=200).rev().collect();
        assert_eq!(
            [0, 50, 99, 100].map(|percent| share(values.clone(), percent).unwrap()),
            [1, 100, 198, 200]
        );
        assert_eq!(share(vec![7], 99), Some(7));
        assert_eq!(share(Vec::new(), 50), None);
    }
}
