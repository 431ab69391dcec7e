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
fn runs_that_broke_a_promise_once_keep_it() {
    for (seed, what) in [
        (757, "a lease that was made shorter"),
        (2230, "the end of a move by a report about another log"),
        (2609, "a server that came just before its judge started, after the clock of NATS was set back"),
        (2967, "two sets of one revision"),
        (3047, "a server that came while its judge stood still"),
        (3413, "many who come back after a lease"),
        (3574, "as 2609"),
        (3717, "as 3413"),
        (4057, "as 3047"),
        (4193, "as 2230"),
        (6058, "a judgement of a replica that was killed before it sent that"),
        (9759, "a welcome by a replica that had not heard of a rollback"),
        (12_245, "as 2609"),
        (13_360, "as 2609"),
        (13_775, "as 6058, a plan"),
        (2351, "a plan cut off behind who had to give up a place and got another"),
        (15_130, "a set made of parts of two that had one revision"),
        (17_741, "one whose last sign of life before all were cut off was lost"),
        (18_617, "a snapshot of the simulation that did not say by which record it ended"),
        (20_861, "newcomers that had not been heard yet when all were cut off"),
        (20_985, "a lease given anew by a replica that was away for a moment"),
        (21_093, "a server that joined when everything was quiet"),
        (22_900, "many who came back while their judge stood still"),
        (36_469, "a pause of the log that does not show, for its clock was set back"),
    ] {
        let outcome = run(seed, STEPS, false);
        assert!(outcome.violation.is_none(), "{what}: {}", describe(&outcome, STEPS));
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in [1, 7, 42] {
        let (first, second) = (run(seed, STEPS, false), run(seed, STEPS, true));
        assert_eq!((first.trace_hash, first.steps), (second.trace_hash, second.steps), "seed {seed}");
        assert_ne!(first.trace_hash, run(seed + 1, STEPS, false).trace_hash);
    }
}
