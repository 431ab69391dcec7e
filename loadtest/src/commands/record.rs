//! `longwatch-loadtest record`: what recording costs. A whole Longwatch records simulated cameras; beside it, in the
//! same run, the same cameras are read and written without being understood, which is the floor nothing can go below,
//! and recorded by ffmpeg, a process per camera, which is what one would take instead.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::time::{Instant, sleep};

use crate::frames;
use crate::system::archive::files;
use crate::system::cameras::{Cameras, Recorded, record_family};
use crate::system::process::{Usage, usage};
use crate::system::{Options, Single, program};

mod ffmpeg;
mod report;

use ffmpeg::Ffmpeg;

/// How long all cameras may take to be recorded.
const RECORDING_WITHIN: Duration = Duration::from_secs(60);
/// Between all being recorded and the measurement: starting is not what is measured.
const SETTLE: Duration = Duration::from_secs(5);
/// Between looks at a child that is to end.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The parts of a Single, as their process-id files are called; the first is the recorder.
const PARTS: [&str; 3] = ["worker", "control", "nats-server"];

/// Record simulated cameras (1080p25, about 2 Mbps) and print what it costs, beside the floor and ffmpeg
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Numbers of cameras, one measurement each, with audio and without
    #[arg(long, value_delimiter = ',', default_value = "50,100,200")]
    cameras: Vec<u32>,
    /// How long each is measured, in seconds, once all are being recorded
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Which cameras: with audio, without, or first the ones and then the others
    #[arg(long, value_enum, default_value_t)]
    audio: Audio,
    /// ffmpeg records too where there are at most so many cameras; 0: never
    #[arg(long, default_value_t = 50)]
    ffmpeg_cameras: u32,
    /// Where recordings go while they are measured; removed afterwards
    #[arg(long, default_value = "./data-bench")]
    data: PathBuf,
}

/// Which cameras are recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum Audio {
    /// With AAC, then without.
    #[default]
    Both,
    /// With AAC.
    With,
    /// Video only.
    Without,
}

impl Audio {
    /// The paths of the cameras, and what to call them.
    const fn families(self) -> &'static [Family] {
        const ALL: [Family; 2] =
            [Family { path: "cam", name: "with AAC" }, Family { path: "silent", name: "without audio" }];
        match self {
            Self::Both => &ALL,
            Self::With => ALL.split_at(1).0,
            Self::Without => ALL.split_at(1).1,
        }
    }
}

/// Cameras of one kind.
#[derive(Debug, Clone, Copy)]
struct Family {
    path: &'static str,
    name: &'static str,
}

/// Measures and prints.
///
/// # Errors
/// Whatever keeps a measurement from being made. Lost frames and missed goals are printed, not an error.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    ensure!(
        !args.data.exists(),
        "{} exists: a measurement starts with nothing; remove it or name another folder with --data",
        args.data.display()
    );
    if args.cameras.iter().any(|count| *count <= args.ffmpeg_cameras) {
        // Found out now, not after minutes.
        Ffmpeg::installed()?;
    }
    // One thread: the system's processes end with the thread that started them.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    println!("recording 1080p25 H.264, about 2 Mbps per camera, {} s per measurement", args.seconds);
    for family in args.audio.families() {
        for count in &args.cameras {
            let measured = runtime.block_on(measure(args, *count, *family));
            // Gigabytes: not left behind even if something failed.
            let removed = std::fs::remove_dir_all(&args.data);
            report::print(&measured?);
            removed.with_context(|| format!("cannot remove {}", args.data.display()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What recording one number of cameras cost.
struct Measured {
    cameras: u32,
    family: Family,
    recorded: Recorded,
    floor: Cost,
    worker: Cost,
    ffmpeg: Option<Cost>,
    /// The other processes of the system, and the cameras.
    others: Vec<(&'static str, Cost)>,
}

/// What one recorder of all cameras cost.
#[derive(Debug, Clone, Copy)]
struct Cost {
    time: Duration,
    bytes: u64,
    cpu_us: u64,
    memory_bytes: u64,
    /// Of a recorder.
    frames: Option<Frames>,
}

/// What became of the frames, by their numbers.
#[derive(Debug, Clone, Copy, Default)]
struct Frames {
    recorded: u64,
    missing: u64,
    doubled: u64,
    /// The most that one camera lost.
    worst_camera: u64,
}

impl Cost {
    fn cpu_s_per_gb(&self) -> f64 {
        self.cpu_us as f64 / 1e6 / (self.bytes as f64 / 1e9).max(f64::MIN_POSITIVE)
    }

    fn of(before: Usage, after: Usage, time: Duration, bytes: u64) -> Self {
        let cpu_us = after.cpu_ms.saturating_sub(before.cpu_ms) * 1_000;
        Self { time, bytes, cpu_us, memory_bytes: after.memory_bytes, frames: None }
    }
}

async fn measure(args: &Args, count: u32, family: Family) -> anyhow::Result<Measured> {
    let time = Duration::from_secs(args.seconds);
    let cameras = Cameras::start(count)?;
    let floor = floor(&cameras, family, count, time, &args.data.join("floor")).await?;
    let (recorded, worker, others) =
        longwatch(&cameras, family, count, time, &args.data.join("single")).await?;
    let ffmpeg = match count {
        count if count <= args.ffmpeg_cameras => {
            Some(peer(&cameras, family, count, time, &args.data.join("ffmpeg")).await?)
        }
        _ => None,
    };
    Ok(Measured { cameras: count, family, recorded, floor, worker, ffmpeg, others })
}

/// What the cameras cost whoever reads and writes, in a process of its own.
async fn floor(
    cameras: &Cameras,
    family: Family,
    count: u32,
    time: Duration,
    folder: &Path,
) -> anyhow::Result<Cost> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut child = Command::new(program("longwatch-loadtest")?)
        .args(["drain", "--url-base", &cameras.url(&format!("/{}", family.path))])
        .args(["--count", &count.to_string(), "--seconds", &time.as_secs().to_string(), "--write"])
        .arg(folder)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the reader")?;
    let pid = i32::try_from(child.id()).unwrap_or(i32::MAX);
    let mut memory_bytes = 0;
    while child.try_wait()?.is_none() {
        memory_bytes = usage(pid).map_or(memory_bytes, |usage| usage.memory_bytes.max(memory_bytes));
        sleep(LOOK_EVERY).await;
    }
    let output = child.wait_with_output()?;
    let summary: serde_json::Value =
        serde_json::from_slice(&output.stdout).context("the reader printed no summary")?;
    ensure!(output.status.success(), "the reader could not read all cameras to the end: {summary}");
    let figure =
        |name: &str| summary[name].as_u64().with_context(|| format!("the reader's summary has no {name}"));
    // Gigabytes again.
    std::fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    let time = Duration::from_millis(figure("millis")?);
    Ok(Cost { time, bytes: figure("bytes")?, cpu_us: figure("cpu_us")?, memory_bytes, frames: None })
}

async fn longwatch(
    cameras: &Cameras,
    family: Family,
    count: u32,
    time: Duration,
    folder: &Path,
) -> anyhow::Result<(Recorded, Cost, Vec<(&'static str, Cost)>)> {
    let listen = "127.0.0.1:0".parse().context("the API's address")?;
    let mut single =
        Single::start(&Options { data: folder.to_owned(), listen, segment_ms: None, worker: Vec::new() })?;
    let api = single.ready().await?;
    let recorded = record_family(&api, cameras, family.path, count, RECORDING_WITHIN).await?;
    sleep(SETTLE).await;

    let pids = pids(&single, cameras)?;
    let (before, stored_before, started) = (usages(&pids)?, size(&single.archive()), Instant::now());
    sleep(time).await;
    let (after, stored_after, elapsed) = (usages(&pids)?, size(&single.archive()), started.elapsed());
    let bytes = stored_after.saturating_sub(stored_before);
    let costs = before.iter().zip(&after).map(|(before, after)| Cost::of(*before, *after, elapsed, bytes));
    let mut costs = pids.iter().map(|(name, _)| *name).zip(costs);
    let (_, mut worker) = costs.next().context("the worker comes first")?;
    let others = costs.collect();
    let archive = single.archive();
    single.stop().await?;
    worker.frames = Some(count_frames(&archive)?);
    std::fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    Ok((recorded, worker, others))
}

async fn peer(
    cameras: &Cameras,
    family: Family,
    count: u32,
    time: Duration,
    folder: &Path,
) -> anyhow::Result<Cost> {
    let addresses: Vec<_> =
        (1..=count).map(|number| cameras.url(&format!("/{}/{number}", family.path))).collect();
    let ffmpeg = Ffmpeg::start(&addresses, folder).await?;
    sleep(SETTLE).await;
    let (before, stored_before, started) = (ffmpeg.usage()?, size(folder), Instant::now());
    sleep(time).await;
    let (after, stored_after, elapsed) = (ffmpeg.usage()?, size(folder), started.elapsed());
    ffmpeg.stop().await?;
    let cost = Cost::of(before, after, elapsed, stored_after.saturating_sub(stored_before));
    Ok(Cost { frames: Some(count_frames(folder)?), ..cost })
}

fn pids(single: &Single, cameras: &Cameras) -> anyhow::Result<Vec<(&'static str, i32)>> {
    let parts = PARTS.into_iter().map(|part| {
        let pid = single.pid_of(part).with_context(|| format!("{part} does not run"))?;
        Ok((part, pid))
    });
    parts.chain([Ok(("cameras", cameras.pid()))]).collect()
}

fn usages(pids: &[(&'static str, i32)]) -> anyhow::Result<Vec<Usage>> {
    pids.iter().map(|(_, pid)| usage(*pid)).collect()
}

fn size(folder: &Path) -> u64 {
    files(folder).iter().filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum()
}

/// Counts frames camera by camera, one file in memory at a time.
fn count_frames(folder: &Path) -> anyhow::Result<Frames> {
    let segments = files(folder).into_iter().filter(|file| file.extension().is_some_and(|is| is == "mp4"));
    let mut numbers = Vec::new();
    for file in segments {
        numbers.extend(frames::inspect(&file).with_context(|| file.display().to_string())?.numbers);
    }
    let mut counted = Frames::default();
    for camera in frames::continuity(&numbers) {
        counted.recorded += camera.count;
        counted.missing += camera.missing;
        counted.doubled += camera.doubled;
        counted.worst_camera = counted.worst_camera.max(camera.missing);
    }
    Ok(counted)
}
