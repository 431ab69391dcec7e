//! What a Longwatch costs that is larger than this machine: the fold, the decisions and the heartbeats of thousands of
//! servers, without the servers.
//!
//! [`given`] makes the log of such a system, [`core`] times the very code that control runs on it, [`heartbeats`] lets a
//! real control hear that many servers. Nothing here is compared with a clock that decides: figures are printed, and
//! a slow machine is no failure.

pub mod core;
pub mod given;
pub mod heartbeats;

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// How large a system is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Cameras.
    pub cameras: u32,
}

impl Size {
    /// A hundred cameras on each server.
    pub const fn servers(self) -> u32 {
        at_least_one(self.cameras / 100)
    }

    /// A thousand cameras of each tenant.
    pub const fn tenants(self) -> u32 {
        at_least_one(self.cameras / 1_000)
    }
}

const fn at_least_one(count: u32) -> u32 {
    if count == 0 { 1 } else { count }
}

/// What `work` gives, and how long it kept this thread's core busy: what others did on this machine meanwhile does not
/// count, nor does waiting for a disk.
fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = busy();
    let done = work();
    (done, busy().saturating_sub(start))
}

fn busy() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}
