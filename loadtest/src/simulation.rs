//! The simulation: the real fold, the real decisions and the real rules of workers, in a world in which everything else
//! is simulated and goes wrong.
//!
//! One thread, one virtual clock, one seed: the same seed gives the same run, to the last line of its trace. In a run
//! there are 2 to 12 servers, 1 to 3 control replicas, up to 80 cameras of several tenants, and one JetStream. Operators
//! ask for anything that can be asked for, faults strike at random, and after every step the invariants are looked at
//! ([`Invariant`]). Then the faults end, and everything must come to rest where it should be.
//!
//! What is real: `events` as a whole (fold, index, wire, snapshots), `control::decide`, `control::observed`,
//! `control::assignments::set`, `worker::plan`, `worker::agent::desired`, the worker's lease. What is written here once
//! more over virtual time are the shells around them, which decide nothing; and cameras, disks and the network.
//!
//! What a run takes for granted:
//! - The log's clock runs evenly, but for when it is set: back by anything, or forward by a second or more. By less it may be
//!   wrong within the margin of the lease.
//! - A worker connects within two seconds after its way to NATS, or NATS itself, is there again.
//! - A replica looks where the log ends before it appends anything, or lets anybody in, after NATS was away.
//!
//! What is borne: a camera that serves one client is recorded by two servers for as long as one of them has not heard that it
//! was taken from it without being waited for (it was let go, the camera lost its place or a move took too long), or that it
//! was taken for lost, if control was away between its plan and the assignments. It ends when the worker looks, a minute
//! later at most.
//!
//! What happens when NATS comes back with an older store: every replica that was there before halts as soon as it hears
//! of it. An operator starts control anew, with an empty read model; it goes on from what the log holds. Workers record
//! what they were told last until they are told anew, under a revision that is higher than the one they have applied; or the
//! same, if control had not heard yet which that is. What was acknowledged behind the point to which the store goes back is lost. Epochs come again; a camera that its
//! server records on keeps the higher one until it is moved.

mod audit;
mod cameras;
mod coverage;
mod env;
mod happening;
mod invariant;
mod nats;
mod operator;
mod oracle;
mod random;
mod replica;
mod scenario;
mod trace;
mod worker;
mod world;

use std::collections::BTreeSet;

pub use coverage::{Coverage, Seen};
pub use invariant::{Invariant, Violation};
use world::World;

/// So many steps of trouble a run has, unless something else is asked for.
pub const STEPS: u64 = 8_000;

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    /// Which run.
    pub seed: u64,
    /// How many steps it took.
    pub steps: u64,
    /// A hash of its whole trace.
    pub trace_hash: u64,
    /// What it came across.
    pub seen: BTreeSet<Seen>,
    /// The first promise that was broken, if one was.
    pub violation: Option<Violation>,
    /// The last lines of its trace, or all.
    pub lines: Vec<String>,
}

/// Runs `seed` with so many steps of trouble. `is_traced`: all lines of the trace are kept, not only the last ones.
pub fn run(seed: u64, steps: u64, is_traced: bool) -> Outcome {
    let mut world = World::new(seed, steps, is_traced);
    while !world.is_over && world.env.violation.is_none() {
        world.step();
    }
    let env = world.env;
    Outcome {
        seed,
        steps: env.step,
        trace_hash: env.trace.hash(),
        seen: env.seen,
        violation: env.violation,
        lines: env.trace.into_lines(),
    }
}
