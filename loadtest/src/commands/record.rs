//! `longwatch-loadtest record`: what recording costs. A whole Longwatch records simulated cameras; beside it, in the
//! same run, the same cameras are only read, which is the floor nothing can go below.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::time::{Instant, sleep};

use crate::frames;
use crate::system::archive::files;
use crate::system::cameras::{Cameras, Recorded, record_all};
use crate::system::process::{Usage, usage};
use crate::system::{Options, Single, program};

/// How long all cameras may take to be recorded.
const RECORDING_WITHIN: Duration = Duration::from_secs(60);
/// The parts of a Single, as their process-id files are called.
const PARTS: [&str; 3] = ["worker", "control", "nats-server"];

/// Record simulated cameras (1080p25, about 2 Mbps, with audio) and print what each process costs
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Numbers of cameras, one measurement each
    #[arg(long, value_delimiter = ',', default_value = "20,200")]
    cameras: Vec<u32>,
    /// How long each is measured, in seconds, once all are being recorded
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Where recordings go while they are measured; removed afterwards
    #[arg(long, default_value = "./data-bench")]
    data: PathBuf,
}

/// Measures and prints.
///
/// # Errors
/// Whatever keeps a measurement from being made. Lost frames are printed, not an error.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    ensure!(
        !args.data.exists(),
        "{} exists: a measurement starts with nothing; remove it or name another folder with --data",
        args.data.display()
    );
    // One thread: the system's processes end with the thread that started them.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    println!("recording 1080p25 H.264 with AAC, {} s per measurement", args.seconds);
    for count in &args.cameras {
        let folder = args.data.join(count.to_string());
        let measured = runtime.block_on(measure(*count, Duration::from_secs(args.seconds), &folder));
        // Gigabytes: not left behind even if something failed.
        let removed = std::fs::remove_dir_all(&args.data);
        print(&measured?);
        removed.with_context(|| format!("cannot remove {}", args.data.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What one number of cameras cost.
struct Measured {
    cameras: u32,
    recorded: Recorded,
    time: Duration,
    /// Bytes the archive grew by meanwhile.
    stored_bytes: u64,
    /// Name, CPU used in the time, memory at its end.
    processes: Vec<(&'static str, Usage)>,
    /// CPU seconds per gigabyte of a client that only reads, every 200 ms.
    floor_cpu_s_per_gb: f64,
    frames: u64,
    missing: u64,
    doubled: u64,
    /// The most frames one camera lost.
    worst_camera: u64,
}

async fn measure(count: u32, time: Duration, folder: &Path) -> anyhow::Result<Measured> {
    let cameras = Cameras::start(count)?;
    let floor_cpu_s_per_gb = floor(&cameras, count).await?;
    let listen = "127.0.0.1:0".parse().context("the API's address")?;
    let mut single = Single::start(&Options { data: folder.to_owned(), listen, segment_ms: None })?;
    let api = single.ready().await?;
    let recorded = record_all(&api, &cameras, count, RECORDING_WITHIN).await?;

    let pids = pids(&single, &cameras)?;
    let (before, stored_before, started) = (usages(&pids)?, size(&single.archive()), Instant::now());
    sleep(time).await;
    let (after, stored_after, elapsed) = (usages(&pids)?, size(&single.archive()), started.elapsed());
    let processes = pids.iter().zip(before.iter().zip(&after)).map(|((name, _), (before, after))| {
        (
            *name,
            Usage { cpu_ms: after.cpu_ms.saturating_sub(before.cpu_ms), memory_bytes: after.memory_bytes },
        )
    });
    let processes = processes.collect();
    let archive = single.archive();
    single.stop().await?;
    let mut measured = Measured {
        cameras: count,
        recorded,
        time: elapsed,
        stored_bytes: stored_after.saturating_sub(stored_before),
        processes,
        floor_cpu_s_per_gb,
        frames: 0,
        missing: 0,
        doubled: 0,
        worst_camera: 0,
    };
    count_frames(&archive, &mut measured)?;
    Ok(measured)
}

/// What reading alone costs, in a process of its own.
async fn floor(cameras: &Cameras, count: u32) -> anyhow::Result<f64> {
    let mut child = Command::new(program("longwatch-loadtest")?)
        .args(["drain", "--url-base", &cameras.url("/cam"), "--count", &count.to_string(), "--seconds", "20"])
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the reader")?;
    let pid = i32::try_from(child.id()).unwrap_or(i32::MAX);
    let mut cpu_ms = 0;
    while child.try_wait()?.is_none() {
        // The last look before it ends misses at most a tenth of a second of twenty.
        cpu_ms = usage(pid).map_or(cpu_ms, |usage| usage.cpu_ms.max(cpu_ms));
        sleep(Duration::from_millis(100)).await;
    }
    let output = child.wait_with_output()?;
    let summary: serde_json::Value =
        serde_json::from_slice(&output.stdout).context("the reader printed no summary")?;
    let bytes = summary["bytes"].as_f64().context("the reader's summary has no bytes")?;
    Ok(per_gb(cpu_ms, bytes))
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

fn per_gb(cpu_ms: u64, bytes: f64) -> f64 {
    cpu_ms as f64 / 1e3 / (bytes / 1e9).max(f64::MIN_POSITIVE)
}

fn size(folder: &Path) -> u64 {
    files(folder).iter().filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum()
}

/// Counts frames camera by camera, one file in memory at a time.
fn count_frames(archive: &Path, measured: &mut Measured) -> anyhow::Result<()> {
    let segments = files(archive).into_iter().filter(|file| file.extension().is_some_and(|is| is == "mp4"));
    let mut numbers = Vec::new();
    for file in segments {
        numbers.extend(frames::inspect(&file).with_context(|| file.display().to_string())?.numbers);
    }
    for camera in frames::continuity(&numbers) {
        measured.frames += camera.count;
        measured.missing += camera.missing;
        measured.doubled += camera.doubled;
        measured.worst_camera = measured.worst_camera.max(camera.missing);
    }
    Ok(())
}

fn print(measured: &Measured) {
    let gigabytes = measured.stored_bytes as f64 / 1e9;
    println!(
        "\n{} cameras: first recorded {:.1} s after it was added, all after {:.1} s; {gigabytes:.2} GB in {:.0} s",
        measured.cameras,
        measured.recorded.first.as_secs_f64(),
        measured.recorded.all.as_secs_f64(),
        measured.time.as_secs_f64(),
    );
    println!("  process       CPU % of a core   CPU-s per GB   memory MiB (PSS)");
    for (name, usage) in &measured.processes {
        println!(
            "  {name:<12} {:>16.1} {:>14.2} {:>18.1}",
            usage.cpu_ms as f64 / measured.time.as_secs_f64() / 10.0,
            per_gb(usage.cpu_ms, measured.stored_bytes as f64),
            usage.memory_bytes as f64 / f64::from(1 << 20),
        );
    }
    let worker = measured.processes.iter().find(|(name, _)| *name == "worker");
    let worker_cpu_s_per_gb =
        worker.map_or(0.0, |(_, usage)| per_gb(usage.cpu_ms, measured.stored_bytes as f64));
    println!(
        "  floor: a client that only reads, every 200 ms: {:.2} CPU-s per GB; the worker needs {:.1} times that",
        measured.floor_cpu_s_per_gb,
        worker_cpu_s_per_gb / measured.floor_cpu_s_per_gb.max(f64::MIN_POSITIVE),
    );
    println!(
        "  frames: {} recorded, {} missing (worst camera {}), {} doubled",
        measured.frames, measured.missing, measured.worst_camera, measured.doubled
    );
}
