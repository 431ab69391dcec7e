//! `longwatch-loadtest simulate`: runs the simulation over many seeds, or one seed with its whole trace.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crate::simulation::{Coverage, Outcome, STEPS, Seen, run as run_seed};

/// Run the system under a virtual clock, with faults, and check that it keeps its promises
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many seeds
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 0, value_name = "SEED")]
    from: u64,
    /// Steps of trouble in each run, before everything must come to rest
    #[arg(long, default_value_t = STEPS, value_name = "N")]
    steps: u64,
    /// Only this seed
    #[arg(long, value_name = "SEED", conflicts_with_all = ["seeds", "from"])]
    seed: Option<u64>,
    /// Show all that happens
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Runs at once
    #[arg(long, value_name = "N", default_value_t = thread::available_parallelism().map_or(1, usize::from))]
    threads: usize,
}

/// What came of many seeds.
#[derive(Debug, Default)]
pub struct Summary {
    /// How many were run.
    pub runs: u64,
    /// How many steps they took together.
    pub steps: u64,
    /// What they came across.
    pub coverage: Coverage,
    /// The runs in which a promise was broken, by seed.
    pub failed: Vec<Outcome>,
}

/// Runs `seeds` seeds from `from` on, several at once.
pub fn run_seeds(from: u64, seeds: u64, steps: u64, threads: usize) -> Summary {
    let next = AtomicU64::new(0);
    let work = || {
        let mut summary = Summary::default();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= seeds {
                return summary;
            }
            let outcome = run_seed(from + number, steps, false);
            summary.runs += 1;
            summary.steps += outcome.steps;
            summary.coverage.add(outcome.seen.iter().copied());
            summary.failed.extend(outcome.violation.is_some().then_some(outcome));
        }
    };
    let summaries: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().expect("invariant: a run does not panic")).collect()
    });
    let mut all = Summary::default();
    for summary in summaries {
        all.runs += summary.runs;
        all.steps += summary.steps;
        all.coverage.merge(&summary.coverage);
        all.failed.extend(summary.failed);
    }
    all.failed.sort_by_key(|outcome| outcome.seed);
    all
}

/// Tells what a failed run came to, and how to see it again.
pub fn describe(outcome: &Outcome, steps: u64) -> String {
    let Outcome { seed, violation, lines, .. } = outcome;
    let violation = violation.as_ref().map(ToString::to_string).unwrap_or_default();
    format!(
        "{}\nseed {seed}: {violation}\nagain: longwatch-loadtest simulate --seed {seed} --steps {steps} --trace\n",
        lines.join("\n")
    )
}

/// Runs, and fails if a promise was broken.
///
/// # Errors
/// None; a broken promise is an exit code.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if let Some(seed) = args.seed {
        let outcome = run_seed(seed, args.steps, args.trace);
        if args.trace && outcome.violation.is_none() {
            outcome.lines.iter().for_each(|line| println!("{line}"));
        }
        println!("seed {seed}: {} steps, trace {:016x}", outcome.steps, outcome.trace_hash);
        if outcome.violation.is_some() {
            println!("{}", describe(&outcome, args.steps));
            return Ok(ExitCode::FAILURE);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let Summary { runs, steps, coverage, failed } =
        run_seeds(args.from, args.seeds, args.steps, args.threads);
    for seen in Seen::ALL {
        println!("{:>8} {seen:?}", coverage.runs(*seen));
    }
    for outcome in failed.iter().take(5) {
        println!("{}", describe(outcome, args.steps));
    }
    println!("{runs} runs, {steps} steps; {} failed", failed.len());
    for outcome in &failed {
        let invariant = outcome.violation.as_ref().map(|violation| violation.invariant);
        println!("  seed {}: {invariant:?}", outcome.seed);
    }
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
