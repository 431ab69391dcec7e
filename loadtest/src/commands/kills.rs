//! `longwatch-loadtest kills`: what a worker that is killed again and again leaves behind. A whole Longwatch records
//! simulated cameras; its worker is killed with SIGKILL at random moments and started again by its supervisor. Then every
//! file is opened and decoded by somebody else's tools, and disk and timeline are held against each other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use longwatch_events::id::CameraId;
use longwatch_events::position::Epoch;
use longwatch_events::time::{Clock, SystemClock, Timestamp};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::system::api::Api;
use crate::system::archive::{Segment, segments};
use crate::system::cameras::{Cameras, record_family};
use crate::system::process::kill_9;
use crate::system::{Options, Single};

/// How long all cameras may take to be recorded, at first and after a kill.
const RECORDING_WITHIN: Duration = Duration::from_secs(60);
/// How long the last facts may take to the timeline.
const TOLD_WITHIN: Duration = Duration::from_secs(60);
/// Between looks for a worker that is started again.
const LOOK_FOR_WORKER_EVERY: Duration = Duration::from_millis(10);
/// Between other looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Of received media no more may be missing, in milliseconds: a fragment, a look at the camera, and a flush.
const PROMISED_MS: i64 = 1_000;
/// Who did not record for longer was not only killed, in milliseconds.
const GAP_MS: i64 = 3_000;
/// One file is opened, or decoded, within this.
const TOOL_WITHIN: Duration = Duration::from_secs(60);
/// So many files that are wrong are named.
const NAMED: usize = 10;

/// Kill the worker of a recording system again and again, and check all that it leaves behind
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How often it is killed
    #[arg(long, default_value_t = 200)]
    kills: u32,
    /// Cameras that it records
    #[arg(long, default_value_t = 50)]
    cameras: u32,
    /// Which cameras: `cam` (1080p25 with AAC, about 2 Mbps), `silent` (without audio), `small`, …
    #[arg(long, default_value = "cam")]
    family: String,
    /// Length of a segment, in milliseconds: short, so that a kill also meets files that are being ended and named
    #[arg(long, default_value_t = 3_000)]
    segment_ms: u64,
    /// From all being recorded to the kill it takes a random time, at most so long, in milliseconds
    #[arg(long, default_value_t = 3_000, value_parser = clap::value_parser!(u64).range(1..))]
    within_ms: u64,
    /// A worker lives at least so long before it is killed, in milliseconds. One that dies younger than 5 s is started again
    /// later each time, which is then what most of a gap is
    #[arg(long, default_value_t = 0)]
    lives_ms: u64,
    /// One of so many files is decoded to its end; all are opened
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    decode_one_in: u32,
    /// Where recordings go; removed afterwards if nothing was wrong
    #[arg(long, default_value = "./data-kills")]
    data: PathBuf,
}

/// Kills, checks and prints; fails if a file does not decode, or disk and timeline do not agree.
///
/// # Errors
/// Whatever keeps it from being found out.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    ensure!(
        !args.data.exists(),
        "{} exists: this begins with nothing; remove it or name another folder with --data",
        args.data.display()
    );
    for tool in ["ffprobe", "ffmpeg"] {
        let found = Command::new(tool).arg("-version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        ensure!(
            found.is_ok_and(|status| status.success()),
            "{tool} is not installed: `tools/install.sh ffmpeg`"
        );
    }
    // One thread: the system's processes end with the thread that started them.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    println!("{} kills of a worker that records {} cameras ({})", args.kills, args.cameras, args.family);
    let left = runtime.block_on(kill_again_and_again(args))?;
    let broken = check_files(&left.files, args.decode_one_in)?;
    let is_right = print(args, &left, &broken);
    if is_right {
        std::fs::remove_dir_all(&args.data)
            .with_context(|| format!("cannot remove {}", args.data.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    println!("what was recorded is kept: {}", args.data.display());
    Ok(ExitCode::FAILURE)
}

/// A segment, as files and the timeline both name it: its camera, its start to the millisecond, its epoch.
type Name = (CameraId, i64, Epoch);

/// What is there in the end.
#[derive(Default)]
struct Left {
    /// All files of segments.
    files: Vec<PathBuf>,
    /// Segments on the disk that no timeline has.
    untold: Vec<Name>,
    /// Segments of the timelines that are not on the disk.
    not_there: Vec<Name>,
    /// Files of open segments, which no later start has repaired.
    torn: usize,
    /// How much of what it had received each kill cost each camera, in milliseconds; of those of which something was durable
    /// since the kill before.
    lost_ms: Vec<i64>,
    /// Of how many cameras nothing was durable yet when a kill met them: what had been received of them, if anything, is not
    /// known.
    not_begun: usize,
    /// From each kill to the start of the next worker, in milliseconds.
    started_again_ms: Vec<i64>,
    /// The gaps of the timelines, by cause, in milliseconds.
    gaps_ms: BTreeMap<String, Vec<i64>>,
}

async fn kill_again_and_again(args: &Args) -> anyhow::Result<Left> {
    let cameras = Cameras::start(args.cameras)?;
    let mut single = Single::start(&Options {
        data: args.data.clone(),
        listen: "127.0.0.1:0".parse().context("the API's address")?,
        segment_ms: Some(args.segment_ms),
        worker: Vec::new(),
    })?;
    let api = single.ready().await?;
    record_family(&api, &cameras, &args.family, args.cameras, RECORDING_WITHIN).await?;
    let (mut killed_at, mut started_again_ms) = (Vec::new(), Vec::new());
    let mut started = Instant::now();
    for kill in 1..=args.kills {
        until_recording(&api, args.cameras).await?;
        sleep(Duration::from_millis(args.lives_ms).saturating_sub(started.elapsed())).await;
        sleep(Duration::from_micros(rand::random_range(0..args.within_ms * 1_000))).await;
        let worker = single.pid_of("worker").context("the worker does not run")?;
        kill_9(worker)?;
        killed_at.push(SystemClock.now());
        let killed = Instant::now();
        let deadline = Instant::now() + RECORDING_WITHIN;
        while single.pid_of("worker").is_none_or(|pid| pid == worker) {
            single.must_live()?;
            ensure!(Instant::now() < deadline, "nobody started the worker again");
            sleep(LOOK_FOR_WORKER_EVERY).await;
        }
        started = Instant::now();
        started_again_ms.push(i64::try_from(killed.elapsed().as_millis())?);
        if kill % 20 == 0 {
            println!("  killed {kill} times");
        }
    }
    until_recording(&api, args.cameras).await?;
    // Its first segments are complete then, and told.
    sleep(Duration::from_millis(args.segment_ms) + Duration::from_secs(3)).await;
    let left = compare(&api, &single.archive(), &killed_at).await;
    single.stop().await?;
    let mut left = Left { started_again_ms, ..left? };
    let all = segments(&args.data);
    left.torn = all.iter().filter(|segment| segment.open).count();
    left.files = all.into_iter().filter(|segment| !segment.open).map(|segment| segment.path).collect();
    Ok(left)
}

async fn until_recording(api: &Api, cameras: u32) -> anyhow::Result<()> {
    let deadline = Instant::now() + RECORDING_WITHIN;
    loop {
        // What was said of them before the kill may stand for a moment; whoever is killed again right away is, too.
        let recording = api.recording().await?;
        if recording >= cameras as usize {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{recording} of {cameras} cameras are recorded");
        sleep(LOOK_EVERY).await;
    }
}

/// Holds the disk against the timelines, until what was on the disk is told, and what was deleted meanwhile.
async fn compare(api: &Api, archive: &Path, killed_at: &[Timestamp]) -> anyhow::Result<Left> {
    let ids: Vec<CameraId> = api
        .cameras()
        .await?
        .iter()
        .map(|camera| Ok(camera["id"].as_str().context("a camera has no id")?.parse()?))
        .collect::<anyhow::Result<_>>()?;
    let before = stored(archive);
    let deadline = Instant::now() + TOLD_WITHIN;
    loop {
        let mut left = Left::default();
        let mut told = BTreeSet::new();
        for id in &ids {
            let path = format!("/v1/tenants/default/cameras/{id}/timeline");
            let timeline = api.get(&path).await?;
            let stretches = stretches(&timeline["segments"])?;
            told.extend(stretches.iter().map(|(start, _, epoch)| (*id, millis(*start), *epoch)));
            let before = std::iter::once(&Timestamp::UNIX_EPOCH).chain(killed_at);
            for (killed_before, killed_at) in before.zip(killed_at) {
                match lost_ms(&stretches, *killed_before, *killed_at) {
                    Some(lost) => left.lost_ms.push(lost),
                    None => left.not_begun += 1,
                }
            }
            for gap in timeline["gaps"].as_array().into_iter().flatten() {
                let (start, end) = (moment(&gap["start"])?, moment(&gap["end"])?);
                let cause = gap["cause"].as_str().unwrap_or("none").to_owned();
                left.gaps_ms.entry(cause).or_default().push(end.millis_since(start));
            }
        }
        let after = stored(archive);
        left.untold = before.difference(&told).copied().collect();
        left.not_there = told.difference(&after).copied().collect();
        if left.untold.is_empty() && left.not_there.is_empty() || Instant::now() > deadline {
            return Ok(left);
        }
        sleep(LOOK_EVERY).await;
    }
}

/// How much of what had come was lost at a kill: from where the last segment before it ends. `None` if none began since the
/// kill before.
fn lost_ms(
    stretches: &[(Timestamp, Timestamp, Epoch)],
    killed_before: Timestamp,
    killed_at: Timestamp,
) -> Option<i64> {
    let before = stretches.iter().filter(|(start, _, _)| (killed_before..killed_at).contains(start));
    Some(killed_at.millis_since(before.map(|(_, end, _)| *end).max()?))
}

/// Start, end and epoch of each segment of a timeline.
fn stretches(segments: &Value) -> anyhow::Result<Vec<(Timestamp, Timestamp, Epoch)>> {
    let stretch = |segment: &Value| {
        let epoch = segment["epoch"].as_u64().context("a segment has no epoch")?;
        Ok((moment(&segment["start"])?, moment(&segment["end"])?, Epoch(epoch)))
    };
    segments.as_array().into_iter().flatten().map(stretch).collect()
}

fn moment(value: &Value) -> anyhow::Result<Timestamp> {
    let text = value.as_str().context("a time is missing in a timeline")?;
    text.parse().with_context(|| format!("{text} is no time"))
}

const fn millis(at: Timestamp) -> i64 {
    at.as_micros().div_euclid(1_000)
}

/// The segments on the disk that are complete.
fn stored(archive: &Path) -> BTreeSet<Name> {
    let name = |segment: Segment| (segment.camera_id, millis(segment.start), segment.epoch);
    segments(archive).into_iter().filter(|segment| !segment.open).map(name).collect()
}

/// Has all files opened by ffprobe and one in so many decoded by ffmpeg; returns what they said of those that are wrong.
fn check_files(files: &[PathBuf], decode_one_in: u32) -> anyhow::Result<Vec<String>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (next, broken, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()), Mutex::new(None));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(file) = files.get(at) else { return };
                    match check(file, at % decode_one_in as usize == 0) {
                        Ok(None) => {}
                        Ok(Some(wrong)) => lock(&broken).push(format!("{}: {wrong}", file.display())),
                        Err(error) => *lock(&failed) = Some(error),
                    }
                }
            });
        }
    });
    match lock(&failed).take() {
        Some(error) => Err(error),
        None => Ok(std::mem::take(&mut lock(&broken))),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// What is wrong with a file.
fn check(file: &Path, decode: bool) -> anyhow::Result<Option<String>> {
    let counted = ["-v", "error", "-select_streams", "v:0", "-count_packets", "-show_entries"];
    let mut probe = Command::new("ffprobe");
    probe.args(counted).args(["stream=nb_read_packets", "-of", "csv=p=0"]).arg(file);
    let (said, printed) = outcome(&mut probe)?;
    if said.is_some() {
        return Ok(said);
    }
    if printed.trim().parse::<u64>().unwrap_or(0) == 0 {
        return Ok(Some(format!("no pictures in it (ffprobe counts {printed:?})")));
    }
    if !decode {
        return Ok(None);
    }
    let mut decoder = Command::new("ffmpeg");
    decoder.args(["-nostdin", "-v", "error", "-xerror", "-threads", "1", "-i"]).arg(file);
    Ok(outcome(decoder.args(["-f", "null", "-"]))?.0)
}

/// What a tool complains of, and what it prints.
fn outcome(command: &mut Command) -> anyhow::Result<(Option<String>, String)> {
    let Some(output) = output_in_time(command)? else {
        return Ok((Some(format!("not read within {} s", TOOL_WITHIN.as_secs())), String::new()));
    };
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let is_wrong = !output.status.success() || !said.is_empty();
    Ok((is_wrong.then_some(said), String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// What it prints, which is no more than a pipe takes; `None` if it does not come to an end.
fn output_in_time(command: &mut Command) -> anyhow::Result<Option<Output>> {
    let piped = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().context("cannot start ffprobe or ffmpeg")?;
    let deadline = Instant::now() + TOOL_WITHIN;
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(Some(child.wait_with_output()?))
}

/// Prints what was found; returns whether everything is as it should be.
fn print(args: &Args, left: &Left, broken: &[String]) -> bool {
    let decoded = left.files.len().div_ceil(args.decode_one_in as usize);
    println!(
        "{} files, all opened, {decoded} decoded to their end: {} wrong",
        left.files.len(),
        broken.len()
    );
    broken.iter().take(NAMED).for_each(|wrong| println!("  {wrong}"));
    println!("on the disk and in no timeline: {}", left.untold.len());
    println!("in a timeline and not on the disk: {}", left.not_there.len());
    for (camera, start_ms, epoch) in left.untold.iter().chain(&left.not_there).take(NAMED) {
        println!("  camera {camera}, from {}, epoch {epoch}", Timestamp::from_millis(*start_ms));
    }
    println!("open files that no start repaired: {}", left.torn);
    println!(
        "received and lost at a kill: {} (promised {PROMISED_MS}, and one look at the camera and one flush)",
        spread(&left.lost_ms)
    );
    println!("met by a kill before anything of them was durable: {} times", left.not_begun);
    println!("from a kill to the next worker: {}", spread(&left.started_again_ms));
    for (cause, gaps_ms) in &left.gaps_ms {
        println!("gaps with cause {cause}: {} (goal after a kill {GAP_MS})", spread(gaps_ms));
    }
    broken.is_empty() && left.untold.is_empty() && left.not_there.is_empty() && left.torn == 0
}

fn spread(values: &[i64]) -> String {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let at = |percent: usize| {
        let last = sorted.len().saturating_sub(1);
        sorted.get((last * percent).div_ceil(100)).copied().unwrap_or_default()
    };
    format!("{} times, min/median/p99/max {}/{}/{}/{} ms", sorted.len(), at(0), at(50), at(99), at(100))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_kill_costs_lies_between_the_last_segments_end_and_the_kill() {
        let at = Timestamp::from_millis;
        let stretches = [(at(0), at(2_000), Epoch(1)), (at(4_000), at(9_000), Epoch(1))];
        assert_eq!(lost_ms(&stretches, at(-1), at(2_700)), Some(700));
        assert_eq!(lost_ms(&stretches, at(2_700), at(9_100)), Some(100));
        assert_eq!(lost_ms(&stretches, at(2_700), at(3_900)), None, "nothing began in between");
        assert_eq!(lost_ms(&[], at(0), at(1)), None);
    }

    #[test]
    fn a_spread_of_nothing_is_nothing() {
        assert_eq!(spread(&[]), "0 times, min/median/p99/max 0/0/0/0 ms");
        assert_eq!(spread(&[3, 1, 2]), "3 times, min/median/p99/max 1/2/3/3 ms");
    }
}
