//! How busy this process and its disk are, and whether somebody set the clock, for the heartbeat. Linux: `/proc/self/status`, `clock_gettime(2)`,
//! `statvfs(3)`.
//!
//! What cannot be read counts as 0 and is said once: a heartbeat without a figure is better than none. A volume that
//! does not answer counts as what it said last, and is asked by one thread only.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use longwatch_events::time::Clock;
use rustix::time::{ClockId, clock_gettime};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::archive::Archive;
use crate::archive::volume::Space;
use crate::timeline::steady::StepWatch;
use crate::uptime::since_boot;

/// No heartbeat waits longer for the volume.
const DISK_LIMIT: Duration = Duration::from_millis(200);

/// Measures between two calls of [`Meter::sample`].
pub struct Meter {
    volume: Arc<dyn Fn() -> io::Result<Volume> + Send + Sync>,
    /// What the volume said last.
    known: Volume,
    /// The volume is being asked.
    asking: Option<JoinHandle<io::Result<Volume>>>,
    last: Reading,
    complained: bool,
    clock: Arc<dyn Clock>,
    steps: StepWatch,
}

#[derive(Debug, Clone, Copy, Default)]
struct Volume {
    free_bytes: u64,
    total_bytes: u64,
}

/// Totals since the process began.
#[derive(Debug, Clone, Copy)]
struct Reading {
    at: Instant,
    cpu_us: u64,
    received_bytes: u64,
}

/// Figures over the time since the sample before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sample {
    /// CPU of the process, in thousandths of one core.
    pub cpu_millicores: u32,
    /// Resident memory of the process.
    pub memory_bytes: u64,
    /// Media received per second.
    pub received_bytes_per_s: u64,
    /// Free space of the archive's volumes for this user; of those that failed it does not count.
    pub disk_free_bytes: u64,
    /// Size of the archive's volumes.
    pub disk_total_bytes: u64,
    /// By how many milliseconds the wall clock was set since the meter began, all steps together.
    pub clock_stepped_ms: i64,
}

impl Meter {
    /// A meter of this process, of the volumes of `archive`, and of the wall clock.
    pub fn new(archive: Archive, clock: Arc<dyn Clock>) -> Self {
        let volume = move || {
            let Space { free, total } = archive.space()?;
            Ok(Volume { free_bytes: free, total_bytes: total })
        };
        Self::of(volume, clock)
    }

    fn of(volume: impl Fn() -> io::Result<Volume> + Send + Sync + 'static, clock: Arc<dyn Clock>) -> Self {
        let (volume, known) = (Arc::new(volume), Volume::default());
        let steps = StepWatch::new(clock.now(), boot_us());
        Self { volume, known, asking: None, last: Reading::now(0), complained: false, clock, steps }
    }

    /// Reads everything. `received_bytes` is a total that only grows.
    pub async fn sample(&mut self, received_bytes: u64) -> Sample {
        let now = Reading::now(received_bytes);
        let before = std::mem::replace(&mut self.last, now);
        let Volume { free_bytes: disk_free_bytes, total_bytes: disk_total_bytes } = self.disk().await;
        let (memory_bytes, clock_stepped_ms) = (self.memory(), self.clock_stepped_ms());
        Sample { memory_bytes, disk_free_bytes, disk_total_bytes, clock_stepped_ms, ..rates(before, now) }
    }

    fn clock_stepped_ms(&mut self) -> i64 {
        if let Some(by_us) = self.steps.look(self.clock.now(), boot_us()) {
            let by_ms = by_us / 1_000;
            tracing::warn!(
                by_ms,
                "the server's clock was set; recordings that run go on by the time as it was"
            );
        }
        self.steps.stepped_us() / 1_000
    }

    /// What the volume says, or said last if it takes longer than [`DISK_LIMIT`] now.
    async fn disk(&mut self) -> Volume {
        // One that was asked before and has not answered was waited for long enough.
        let limit = if self.asking.is_some() { Duration::ZERO } else { DISK_LIMIT };
        let asking = self.asking.get_or_insert_with(|| {
            let volume = Arc::clone(&self.volume);
            tokio::task::spawn_blocking(move || volume())
        });
        let Ok(answer) = tokio::time::timeout(limit, asking).await else {
            self.complain("the archive's volume does not answer");
            return self.known;
        };
        self.asking = None;
        self.known = answer.map_err(io::Error::other).flatten().unwrap_or_else(|e| {
            self.complain(&format!("statvfs: {e}"));
            Volume::default()
        });
        self.known
    }

    fn memory(&mut self) -> u64 {
        let status = std::fs::read_to_string("/proc/self/status");
        match status.map_err(|e| e.to_string()).and_then(|text| resident(&text).ok_or("no VmRSS".into())) {
            Ok(bytes) => bytes,
            Err(e) => {
                self.complain(&format!("/proc/self/status: {e}"));
                0
            }
        }
    }

    fn complain(&mut self, error: &str) {
        if !std::mem::replace(&mut self.complained, true) {
            tracing::warn!(error, "cannot measure the load of this server");
        }
    }
}

/// Time since the machine was started.
fn boot_us() -> i64 {
    i64::try_from(since_boot().as_micros()).unwrap_or(i64::MAX)
}

impl Reading {
    fn now(received_bytes: u64) -> Self {
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let cpu_us = u64::try_from(cpu.tv_sec * 1_000_000 + cpu.tv_nsec / 1_000).unwrap_or(0);
        Self { at: Instant::now(), cpu_us, received_bytes }
    }
}

fn rates(before: Reading, now: Reading) -> Sample {
    let passed_us = now.at.saturating_duration_since(before.at).as_micros().max(1);
    let per =
        |amount: u64, unit: u128| u64::try_from(u128::from(amount) * unit / passed_us).unwrap_or(u64::MAX);
    let cpu_millicores = per(now.cpu_us.saturating_sub(before.cpu_us), 1_000);
    Sample {
        cpu_millicores: u32::try_from(cpu_millicores).unwrap_or(u32::MAX),
        received_bytes_per_s: per(now.received_bytes.saturating_sub(before.received_bytes), 1_000_000),
        ..Sample::default()
    }
}

/// Resident memory in `/proc/<pid>/status` (proc_pid_status(5)): `VmRSS:      1234 kB`.
fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1_024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use longwatch_events::time::{ManualClock, SystemClock};
    use std::time::Duration;

    #[test]
    fn rates_are_per_second_and_per_core() {
        let before = Reading { at: Instant::now(), cpu_us: 1_000, received_bytes: 500 };
        let now =
            Reading { at: before.at + Duration::from_secs(2), cpu_us: 501_000, received_bytes: 2_000_500 };
        let sample = rates(before, now);
        assert_eq!((sample.cpu_millicores, sample.received_bytes_per_s), (250, 1_000_000));
    }

    #[test]
    fn a_total_that_shrank_is_no_load() {
        let before = Reading { at: Instant::now(), cpu_us: 0, received_bytes: 9 };
        assert_eq!(rates(before, Reading { received_bytes: 3, ..before }), Sample::default());
    }

    #[test]
    fn memory_is_read_as_linux_writes_it() {
        assert_eq!(resident("Name:\tx\nVmRSS:\t    2048 kB\nThreads:\t1\n"), Some(2_097_152));
        assert_eq!(resident("Name:\tx\n"), None);
    }

    #[tokio::test]
    async fn this_process_has_a_load() {
        let folder = tempfile::tempdir().unwrap();
        let archive = Archive::new(folder.path().into(), 1).unwrap();
        let sample = Meter::new(archive, Arc::new(SystemClock)).sample(0).await;
        assert_eq!(sample.clock_stepped_ms, 0);
        assert!(sample.memory_bytes > 0);
        assert!(sample.disk_total_bytes >= sample.disk_free_bytes && sample.disk_total_bytes > 0);
    }

    #[tokio::test]
    async fn a_clock_that_is_set_is_told() {
        let clock = Arc::new(ManualClock::starting_at(SystemClock.now()));
        let mut meter = Meter::of(|| Ok(Volume::default()), Arc::<ManualClock>::clone(&clock));
        // Given a clock that was set forward by an hour and back by two, then what it comes to is told.
        for (by_ms, expected_ms) in [(3_600_000, 3_600_000), (-7_200_000, -3_600_000)] {
            clock.advance_millis(by_ms);
            let told = meter.sample(0).await.clock_stepped_ms;
            // The clock stands still otherwise, for as long as this test takes.
            assert!((told - expected_ms).abs() < 30_000, "{told}");
        }
    }

    #[tokio::test]
    async fn a_volume_that_hangs_counts_as_what_it_said_last() {
        let (answers, volume) = std::sync::mpsc::channel::<u64>();
        let volume = std::sync::Mutex::new(volume);
        let asked = move || {
            let free_bytes = volume.lock().unwrap().recv().map_err(io::Error::other)?;
            Ok(Volume { free_bytes, total_bytes: 100 })
        };
        let mut meter = Meter::of(asked, Arc::new(SystemClock));
        answers.send(7).unwrap();
        assert_eq!(meter.sample(0).await.disk_free_bytes, 7);
        // When it hangs …
        let began = Instant::now();
        for _ in 0..20 {
            assert_eq!(meter.sample(0).await.disk_free_bytes, 7);
        }
        // … then it is waited for once, not each time, and its answer counts when it comes.
        assert!(began.elapsed() < 10 * DISK_LIMIT);
        answers.send(5).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while meter.sample(0).await.disk_free_bytes != 5 {
            assert!(Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(5)).await;
            // Asked once more after the answer, should it have come in between.
            answers.send(5).unwrap();
        }
    }
}
