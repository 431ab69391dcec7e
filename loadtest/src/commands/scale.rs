//! `longwatch-loadtest scale`: what the fold, the decisions and the heartbeats of a large system cost on this machine.
//!
//! One table, a column per number of cameras, so that growth is seen; each figure is the median of several runs. A figure
//! that misses its goal is printed as such and fails nothing: another machine is another figure.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, ensure};

use crate::scale::{Size, core, heartbeats};

/// Fold, plan and hear a system that is not there, and print what that costs beside the goals
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Numbers of cameras, a column each; a hundred of them on a server, a thousand with a tenant
    #[arg(long, value_delimiter = ',', default_value = "10000,100000,1000000",
        value_parser = clap::value_parser!(u32).range(200..=16_000_000))]
    cameras: Vec<u32>,
    /// Runs; the median counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Leave out the heartbeats, which need NATS
    #[arg(long)]
    no_heartbeats: bool,
    /// Where the log and a snapshot go while they are measured; removed afterwards
    #[arg(long, default_value = "./data-bench")]
    data: PathBuf,
    /// Measure one number of cameras once, without heartbeats, and print JSON
    #[arg(long, hide = true)]
    once: bool,
}

/// Measures and prints.
///
/// # Errors
/// Whatever keeps a measurement from being made.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if args.once {
        let size = Size { cameras: *args.cameras.first().context("no number of cameras")? };
        println!("{}", serde_json::to_string(&core::measure(size, &args.data)?)?);
        return Ok(ExitCode::SUCCESS);
    }
    ensure!(
        !args.data.exists(),
        "{} exists: a measurement starts with nothing; remove it or name another folder with --data",
        args.data.display()
    );
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!(
        "scale: 100 cameras on a server, 1,000 with a tenant; median of {} run(s) on a machine of {cores} core(s)\n\
         times are CPU time of the one thread that does it\n",
        args.runs
    );
    let mut columns = Vec::new();
    for cameras in &args.cameras {
        let size = Size { cameras: *cameras };
        let column = measure(args, size);
        let removed = std::fs::remove_dir_all(&args.data);
        columns.push((size, column?));
        removed.with_context(|| format!("cannot remove {}", args.data.display()))?;
    }
    print(&columns);
    Ok(ExitCode::SUCCESS)
}

/// The runs of one number of cameras.
#[derive(Default)]
struct Runs {
    core: Vec<core::Measured>,
    heartbeats: Vec<heartbeats::Measured>,
}

fn measure(args: &Args, size: Size) -> anyhow::Result<Runs> {
    // One thread: the system's processes end with the thread that started them.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut runs = Runs::default();
    for run in 1..=args.runs {
        let folder = args.data.join(format!("{}-{run}", size.cameras));
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        eprintln!("{} cameras, run {run} of {}", size.cameras, args.runs);
        runs.core.push(in_a_process_of_its_own(size, &folder)?);
        if !args.no_heartbeats {
            runs.heartbeats.push(runtime.block_on(heartbeats::measure(size, &folder))?);
        }
    }
    Ok(runs)
}

fn in_a_process_of_its_own(size: Size, folder: &Path) -> anyhow::Result<core::Measured> {
    let this = std::env::current_exe().context("cannot find this executable")?;
    let output = Command::new(this)
        .args(["scale", "--once", "--cameras", &size.cameras.to_string(), "--data"])
        .arg(folder)
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start this program again")?;
    ensure!(output.status.success(), "a measurement ended with {}", output.status);
    serde_json::from_slice(&output.stdout).context("a measurement says something else than its figures")
}

/// How a figure is written.
#[derive(Debug, Clone, Copy)]
enum Unit {
    Seconds,
    PerSecond,
    Bytes,
    Mebibytes,
    PercentOfACore,
}

/// A row of the table.
struct Row {
    title: &'static str,
    unit: Unit,
    /// It should be no more than this, however many cameras there are.
    goal: Option<f64>,
    of: fn(&Runs) -> Option<f64>,
}

const fn row(title: &'static str, unit: Unit, goal: Option<f64>, of: fn(&Runs) -> Option<f64>) -> Row {
    Row { title, unit, goal, of }
}

/// The median of what `of` says of each run.
fn core(runs: &Runs, of: fn(&core::Measured) -> f64) -> Option<f64> {
    median(runs.core.iter().map(of).collect())
}

fn heard(runs: &Runs, of: fn(&heartbeats::Measured) -> f64) -> Option<f64> {
    median(runs.heartbeats.iter().map(of).collect())
}

#[rustfmt::skip]
const ROWS: &[Row] = {
    use Unit::{Bytes, Mebibytes, PerSecond, PercentOfACore, Seconds};
    &[
        row("camera events decoded and folded", PerSecond, None, |runs| core(runs, |m| m.decoded_and_applied_per_s)),
        row("camera events folded", PerSecond, None, |runs| core(runs, |m| m.applied_per_s)),
        row("all servers joined and adopted", Seconds, None, |runs| core(runs, |m| m.servers_s)),
        row("memory of State and index per camera", Bytes, Some(500.0), |runs| core(runs, |m| m.memory_bytes_per_camera)),
        row("first placement of all, plan and fold", Seconds, Some(5.0), |runs| core(runs, |m| m.first_plan_s + m.first_plan_folded_s)),
        row("  the same, 64,000 changes at once, as control appends it", Seconds, None, |runs| core(runs, |m| m.first_plan_in_turns_s)),
        row("  of the first the plan", Seconds, None, |runs| core(runs, |m| m.first_plan_s)),
        row("nothing to plan", Seconds, None, |runs| core(runs, |m| m.nothing_to_plan_s)),
        row("one server lost, fold and plan", Seconds, Some(0.010), |runs| core(runs, |m| m.one_lost_s)),
        row("  desired sets of the servers that get its cameras", Seconds, None, |runs| core(runs, |m| m.one_lost_told_s)),
        row("5 % of the servers lost, fold and plan", Seconds, Some(1.0), |runs| core(runs, |m| m.twentieth_lost_s)),
        row("  desired sets of the servers that get their cameras", Seconds, None, |runs| core(runs, |m| m.twentieth_lost_told_s)),
        row("what if one server were lost (N+1)", Seconds, None, |runs| core(runs, |m| m.what_if_s)),
        row("how many servers there should be", Seconds, None, |runs| core(runs, |m| m.scaling_s)),
        row("content hash of State", Seconds, None, |runs| core(runs, |m| m.hash_s)),
        row("snapshot written, with hash", Seconds, None, |runs| core(runs, |m| m.snapshot_written_s)),
        row("snapshot read, with hash and index", Seconds, None, |runs| core(runs, |m| m.snapshot_read_s)),
        row("  its size per camera", Bytes, None, |runs| core(runs, |m| m.snapshot_bytes_per_camera)),
        row("heartbeats sent, one a second of each server", PerSecond, None, |runs| heard(runs, |m| m.sent_per_s)),
        row("  stored by NATS", PerSecond, None, |runs| heard(runs, |m| m.stored_per_s)),
        row("  heard by control", PerSecond, None, |runs| heard(runs, |m| m.heard_per_s)),
        row("  CPU of control", PercentOfACore, Some(50.0), |runs| heard(runs, |m| m.control_cpu_percent)),
        row("  CPU of nats-server", PercentOfACore, None, |runs| heard(runs, |m| m.nats_cpu_percent)),
        row("  memory of control", Mebibytes, None, |runs| heard(runs, |m| m.control_memory_bytes)),
    ]
};

/// A table in Markdown, so that it can be kept as it is.
fn print(columns: &[(Size, Runs)]) {
    let cells = |of: &dyn Fn(&(Size, Runs)) -> String| columns.iter().map(of).collect::<Vec<_>>().join(" | ");
    println!("| cameras | {} | goal | |", cells(&|(size, _)| grouped(f64::from(size.cameras))));
    println!("|---|{}---|---|", "---:|".repeat(columns.len()));
    println!("| servers | {} | | |", cells(&|(size, _)| grouped(f64::from(size.servers()))));
    for Row { title, unit, goal, of } in ROWS {
        let values: Vec<_> = columns.iter().filter_map(|(_, runs)| of(runs)).collect();
        if values.is_empty() {
            continue;
        }
        let largest = values.iter().copied().fold(0.0, f64::max);
        let figures = values.iter().map(|value| written(*value, *unit)).collect::<Vec<_>>().join(" | ");
        let (goal, verdict) = match goal {
            Some(goal) => {
                (format!("≤ {}", written(*goal, *unit)), if largest <= *goal { "ok" } else { "over" })
            }
            None => (String::new(), ""),
        };
        println!("| {title} | {figures} | {goal} | {verdict} |");
    }
}

fn written(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Seconds if value < 0.001 => format!("{:.0} µs", value * 1e6),
        Unit::Seconds if value < 1.0 => format!("{:.1} ms", value * 1e3),
        Unit::Seconds => format!("{value:.2} s"),
        Unit::PerSecond => format!("{} /s", grouped(value)),
        Unit::Bytes => format!("{} B", grouped(value)),
        Unit::Mebibytes => format!("{:.0} MiB", value / f64::from(1 << 20)),
        Unit::PercentOfACore => format!("{value:.1} %"),
    }
}

/// A whole number with its thousands apart.
fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let grouped = digits.bytes().enumerate().flat_map(|(at, digit)| {
        let behind = digits.len() - at;
        let comma = (at > 0 && behind.is_multiple_of(3)).then_some(',');
        comma.into_iter().chain([char::from(digit)])
    });
    grouped.collect()
}

/// The middle one; of an even number the lower of the two.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_written_for_people() {
        assert_eq!([1.0, 999.6, 12_345.0, 1_000_000.0].map(grouped), ["1", "1,000", "12,345", "1,000,000"]);
        assert_eq!([4e-5, 0.0102, 5.0].map(|s| written(s, Unit::Seconds)), ["40 µs", "10.2 ms", "5.00 s"]);
        assert_eq!([vec![3.0, 1.0, 2.0], vec![2.0, 1.0]].map(median), [Some(2.0), Some(1.0)]);
        assert_eq!(median(Vec::new()), None);
    }

    #[test]
    fn a_small_system_is_measured_whole() {
        let folder = tempfile::tempdir().unwrap();
        let measured = core::measure(Size { cameras: 2_000 }, folder.path()).unwrap();
        assert!(measured.snapshot_bytes_per_camera > 100.0 && measured.one_lost_s > 0.0);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left behind");
    }
}
