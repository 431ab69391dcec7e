//! What Linux tells of a process: whether it lives, what it has cost (`/proc/PID`, see proc(5)).

use std::fs;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

/// What a process has cost so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// CPU time, user and system, in milliseconds.
    pub cpu_ms: u64,
    /// Memory of its own plus its share of what it shares (PSS), in bytes.
    pub memory_bytes: u64,
}

/// Whether there is such a process, and it is not only waiting to be reaped.
pub fn is_alive(pid: i32) -> bool {
    let exists = Pid::from_raw(pid).is_some_and(|pid| test_kill_process(pid).is_ok());
    exists && status_field(pid, "State:").is_none_or(|state| !state.starts_with('Z'))
}

/// The process that started it.
pub fn parent(pid: i32) -> Option<i32> {
    status_field(pid, "PPid:")?.parse().ok()
}

/// Kills it at once, as a crash would.
///
/// # Errors
/// If there is no such process.
pub fn kill_9(pid: i32) -> anyhow::Result<()> {
    send(pid, Signal::KILL)
}

/// Asks it to stop.
///
/// # Errors
/// If there is no such process.
pub fn terminate(pid: i32) -> anyhow::Result<()> {
    send(pid, Signal::TERM)
}

/// Makes it stand still, alive.
///
/// # Errors
/// If there is no such process.
pub fn pause(pid: i32) -> anyhow::Result<()> {
    send(pid, Signal::STOP)
}

/// Lets it go on.
///
/// # Errors
/// If there is no such process.
pub fn resume(pid: i32) -> anyhow::Result<()> {
    send(pid, Signal::CONT)
}

fn send(pid: i32, signal: Signal) -> anyhow::Result<()> {
    let pid = Pid::from_raw(pid).context("not a process id")?;
    kill_process(pid, signal).with_context(|| format!("cannot send {signal:?} to the process"))
}

/// What it has cost.
///
/// # Errors
/// If there is no such process.
pub fn usage(pid: i32) -> anyhow::Result<Usage> {
    let stat =
        fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("no process {pid}"))?;
    // The name in parentheses may hold anything; the numbers follow the last one.
    let (_, numbers) = stat.rsplit_once(')').context("/proc/PID/stat has another form")?;
    let ticks = |index: usize| {
        numbers.split_whitespace().nth(index).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0)
    };
    let ticks_per_s = rustix::param::clock_ticks_per_second().max(1);
    let cpu_ms = (ticks(11) + ticks(12)) * 1_000 / ticks_per_s;
    Ok(Usage { cpu_ms, memory_bytes: pss(pid).or_else(|| rss(pid)).unwrap_or(0) })
}

fn pss(pid: i32) -> Option<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    kilobytes(&rollup, "Pss:")
}

fn rss(pid: i32) -> Option<u64> {
    kilobytes(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, "VmRSS:")
}

fn kilobytes(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1_024)
}

fn status_field(pid: i32, field: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix(field)).map(|value| value.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_lives_and_costs_something() {
        let pid = i32::try_from(std::process::id()).unwrap();
        assert!(is_alive(pid));
        assert!(usage(pid).unwrap().memory_bytes > 100_000);
        assert!(!is_alive(i32::MAX));
    }
}
