//! The clock that leases are counted by: `CLOCK_BOOTTIME` of `clock_gettime(2)`, Linux.
//!
//! It never steps and, unlike the monotonic clock behind [`tokio::time`], also counts while the machine is suspended; a
//! stopped process (`SIGSTOP`) is counted by both. Not counted by either: a virtual machine that its host has paused.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Time since the machine was started.
pub fn since_boot() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    // It counts from zero, so neither part is ever negative.
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}
