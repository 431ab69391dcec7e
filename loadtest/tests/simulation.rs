//! The simulation over many seeds: no promise is broken, and everything that a run can come across was come across.
//!
//! `make simulate SEEDS=50000` does the same for longer.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::num::NonZeroUsize;
use std::thread::available_parallelism;

use longwatch_loadtest::commands::simulate::{Summary, describe, run_seeds};
use longwatch_loadtest::simulation::{STEPS, run};

const SEEDS: u64 = 500;

#[test]
fn no_promise_is_broken_whatever_happens() {
    let threads = available_parallelism().map_or(2, NonZeroUsize::get);
    let Summary { runs, coverage, failed, .. } = run_seeds(0, SEEDS, STEPS, threads);
    let told: Vec<_> = failed.iter().take(3).map(|outcome| describe(outcome, STEPS)).collect();
    assert!(failed.is_empty(), "{}\n{} of {runs} runs failed", told.join("\n"), failed.len());
    assert_eq!(coverage.missing(), [], "no run came across this: it is not tested any more");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in [1, 7, 42] {
        let (first, second) = (run(seed, STEPS, false), run(seed, STEPS, true));
        assert_eq!((first.trace_hash, first.steps), (second.trace_hash, second.steps), "seed {seed}");
        assert_ne!(first.trace_hash, run(seed + 1, STEPS, false).trace_hash);
    }
}
