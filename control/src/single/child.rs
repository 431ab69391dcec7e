//! One child's life: started, watched, started again when it dies, stopped when asked.
//!
//! Invariant: at most one process of a child lives at a time, and none after [`Keeper::stop`] has returned.

use std::ffi::OsString;
use std::fs::TryLockError;
use std::io;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::layout::{self, Layout, failed, lock_file};
use super::restart::Restarts;
use super::{Error, nats};

/// What to run, and how to end it.
#[derive(Debug, Clone)]
pub(super) struct Spec {
    /// In logs and files.
    pub(super) name: &'static str,
    /// The executable that has the command `child`: this one.
    pub(super) trampoline: PathBuf,
    pub(super) program: PathBuf,
    pub(super) args: Vec<OsString>,
    /// Locked by the process for as long as it lives.
    pub(super) pid_file: PathBuf,
    /// From SIGTERM to SIGKILL.
    pub(super) stop_within: Duration,
    /// Each start waits until this nats-server answers.
    pub(super) after: Option<SocketAddr>,
    /// Where its own log is, if it is not this process's.
    pub(super) log: Option<PathBuf>,
}

/// Keeps one child running until it is told to stop.
#[derive(Debug)]
pub(super) struct Keeper {
    name: &'static str,
    stop: CancellationToken,
    kill: CancellationToken,
    gone: CancellationToken,
}

impl Keeper {
    /// Starts the child, on the runtime of the caller.
    pub(super) fn start(spec: Spec) -> Self {
        let keeper = Self {
            name: spec.name,
            stop: CancellationToken::new(),
            kill: CancellationToken::new(),
            gone: CancellationToken::new(),
        };
        let (stop, kill) = (keeper.stop.clone(), keeper.kill.clone());
        let gone = keeper.gone.clone().drop_guard();
        tokio::spawn(async move {
            keep(spec, stop, kill).await;
            drop(gone);
        });
        keeper
    }

    /// SIGTERM now, SIGKILL after the child's bound; returns once it is gone.
    pub(super) async fn stop(&self) {
        self.stop.cancel();
        self.gone.cancelled().await;
    }

    /// From now on [`Keeper::stop`] does not wait for the child to drain.
    pub(super) fn kill(&self) {
        warn!(child = self.name, "not waiting for the child to drain");
        self.kill.cancel();
    }
}

async fn keep(spec: Spec, stop: CancellationToken, kill: CancellationToken) {
    let mut restarts = Restarts::default();
    loop {
        if let Some(address) = spec.after {
            tokio::select! {
                () = nats::wait_until_answering(address) => {}
                () = stop.cancelled() => return,
            }
        }
        let started = Instant::now();
        match spawn(&spec) {
            Ok(mut child) => {
                let pid = child.id();
                info!(child = spec.name, pid, "child started");
                tokio::select! {
                    ended = child.wait() => report_death(&spec, pid, started.elapsed(), ended),
                    () = stop.cancelled() => return end(&spec, child, &kill).await,
                }
            }
            Err(source) => error!(child = spec.name, error = %source, "child cannot be started"),
        }
        let wait = restarts.after_death(started.elapsed(), rand::random_range(0.0..=1.0));
        warn!(child = spec.name, wait_ms = milliseconds(wait), "child will be started again");
        tokio::select! {
            () = sleep(wait) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Must run on the main thread: see the module `single`.
fn spawn(spec: &Spec) -> io::Result<Child> {
    Command::new(&spec.trampoline)
        .arg("child")
        .arg("--parent")
        .arg(std::process::id().to_string())
        .arg("--lock")
        .arg(&spec.pid_file)
        .arg("--")
        .arg(&spec.program)
        .args(&spec.args)
        .stdin(Stdio::null())
        // Its own group: Ctrl-C reaches the supervisor alone, which then stops the children in order.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}

async fn end(spec: &Spec, mut child: Child, kill: &CancellationToken) {
    let began = Instant::now();
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    let Some(pid) = pid else {
        return info!(child = spec.name, "child had ended already");
    };
    if let Err(source) = kill_process(pid, Signal::TERM) {
        warn!(child = spec.name, error = %source, "SIGTERM could not be sent");
    }
    let drained = tokio::select! {
        ended = timeout(spec.stop_within, child.wait()) => ended.ok(),
        () = kill.cancelled() => None,
    };
    if let Some(ended) = drained {
        let status = ended.map_or_else(|source| source.to_string(), |status| status.to_string());
        return info!(child = spec.name, status, took_ms = milliseconds(began.elapsed()), "child stopped");
    }
    // The group, so that nothing the child started is left behind.
    let killed = kill_process_group(pid, Signal::KILL);
    let ended = child.wait().await;
    error!(
        child = spec.name,
        took_ms = milliseconds(began.elapsed()),
        ?killed,
        ?ended,
        "child did not stop in time and was killed",
    );
}

fn report_death(spec: &Spec, pid: Option<u32>, lived: Duration, ended: io::Result<ExitStatus>) {
    let (child, lived_ms, log) =
        (spec.name, milliseconds(lived), spec.log.as_deref().map(|path| path.display()));
    match ended {
        Ok(status) => error!(
            child,
            pid,
            exit_code = status.code(),
            signal = status.signal(),
            lived_ms,
            log = log.map(tracing::field::display),
            "child died"
        ),
        Err(source) => error!(child, pid, error = %source, lived_ms, "child cannot be watched"),
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Waits until no child of an earlier supervisor holds its place. One that was killed a moment ago leaves children
/// behind which have had their SIGTERM and are draining.
pub(super) async fn wait_for_predecessors(layout: &Layout, within: Duration) -> Result<(), Error> {
    let deadline = Instant::now() + within;
    for name in [layout::NATS, layout::CONTROL, layout::WORKER] {
        let path = layout.pid_file(name);
        let file = lock_file(&path)?;
        let mut said = false;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    if !said {
                        info!(child = name, "waiting for the child of an earlier start to end");
                        said = true;
                    }
                    sleep(Duration::from_millis(20)).await;
                }
                Err(TryLockError::WouldBlock) => {
                    let pid = io::read_to_string(&file).unwrap_or_default().trim().to_owned();
                    return Err(Error::Predecessor { child: name, pid });
                }
                Err(TryLockError::Error(source)) => return Err(failed("lock", &path)(source)),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use tempfile::TempDir;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(10);

    /// Stands in for `longwatch-control child`, which needs the executable: skips the trampoline's own flags, becomes
    /// the program. What the real one adds is tested in `tests/trampoline.rs`.
    const TRAMPOLINE: &str = "#!/bin/sh\nwhile [ \"$1\" != -- ]; do shift; done\nshift\nexec \"$@\"\n";

    /// A child that appends its process id to a file and then does what `then` says.
    fn spec(folder: &TempDir, then: &str) -> Spec {
        let trampoline = folder.path().join("trampoline");
        fs::write(&trampoline, TRAMPOLINE).unwrap();
        fs::set_permissions(&trampoline, fs::Permissions::from_mode(0o700)).unwrap();
        let script = format!("echo $$ >> {}/started; {then}", folder.path().display());
        Spec {
            name: "child",
            trampoline,
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            pid_file: folder.path().join("child.pid"),
            stop_within: Duration::from_secs(10),
            after: None,
            log: None,
        }
    }

    /// The process ids of all starts, once there are `count`.
    async fn starts(folder: &TempDir, count: usize) -> Vec<Pid> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let text = fs::read_to_string(folder.path().join("started")).unwrap_or_default();
            let pids: Vec<Pid> = text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)).collect();
            if pids.len() >= count {
                return pids;
            }
            assert!(Instant::now() < deadline, "{count} starts never came, only {}", pids.len());
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn lives(pid: Pid) -> bool {
        Path::new("/proc").join(pid.as_raw_pid().to_string()).exists()
    }

    #[tokio::test]
    async fn a_killed_child_is_back_within_two_seconds_and_stops_when_told() {
        let folder = tempfile::tempdir().unwrap();
        let keeper = Keeper::start(spec(&folder, "exec sleep 600"));
        for round in 1..=3 {
            let pid = *starts(&folder, round).await.last().unwrap();
            let killed = Instant::now();
            kill_process(pid, Signal::KILL).unwrap();
            starts(&folder, round + 1).await;
            assert!(killed.elapsed() < Duration::from_secs(2), "{:?}", killed.elapsed());
        }
        let pids = starts(&folder, 4).await;

        timeout(DEADLINE, keeper.stop()).await.unwrap();

        assert_eq!(pids.len(), 4);
        assert!(!pids.into_iter().any(lives));
    }

    #[tokio::test]
    async fn a_child_that_ends_by_itself_is_started_again_later_and_later() {
        let folder = tempfile::tempdir().unwrap();
        let began = Instant::now();
        let keeper = Keeper::start(spec(&folder, "exit 3"));
        starts(&folder, 5).await;
        // The waits are at least 50 + 100 + 200 + 400 ms.
        assert!(began.elapsed() >= Duration::from_millis(750), "{:?}", began.elapsed());
        timeout(DEADLINE, keeper.stop()).await.unwrap();
    }

    #[tokio::test]
    async fn a_child_that_does_not_stop_is_killed_with_all_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let then = format!("trap '' TERM; sleep 600 & echo $! >> {}/started; wait", folder.path().display());
        let keeper = Keeper::start(Spec { stop_within: Duration::from_millis(200), ..spec(&folder, &then) });
        let pids = starts(&folder, 2).await;

        timeout(DEADLINE, keeper.stop()).await.unwrap();

        assert!(!lives(pids[0]));
        let deadline = Instant::now() + DEADLINE;
        // Its own child is reaped by init, a moment later.
        while lives(pids[1]) && !is_zombie(pids[1]) {
            assert!(Instant::now() < deadline, "what the child started lives on");
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn is_zombie(pid: Pid) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid())).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
    }

    #[tokio::test]
    async fn asked_not_to_wait_it_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let keeper = Keeper::start(spec(&folder, "trap '' TERM; while :; do sleep 1; done"));
        let pids = starts(&folder, 1).await;
        keeper.kill();
        timeout(DEADLINE / 2, keeper.stop()).await.unwrap();
        assert!(!lives(pids[0]));
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_tried_again_and_stopping_is_still_prompt() {
        let folder = tempfile::tempdir().unwrap();
        let spec = Spec { trampoline: folder.path().join("absent"), ..spec(&folder, "exit 0") };
        let keeper = Keeper::start(spec);
        sleep(Duration::from_millis(20)).await;
        timeout(Duration::from_secs(1), keeper.stop()).await.unwrap();
    }

    #[tokio::test]
    async fn a_child_waits_for_the_nats_server_it_comes_after() {
        let folder = tempfile::tempdir().unwrap();
        let nats = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let after = Some(nats.local_addr().unwrap());
        let keeper = Keeper::start(Spec { after, ..spec(&folder, "exec sleep 600") });
        let (mut greeted, _) = nats.accept().await.unwrap();
        assert!(!folder.path().join("started").exists());
        tokio::io::AsyncWriteExt::write_all(&mut greeted, b"INFO {}\r\n").await.unwrap();
        starts(&folder, 1).await;
        timeout(DEADLINE, keeper.stop()).await.unwrap();
    }

    #[tokio::test]
    async fn a_start_waits_for_the_children_of_a_killed_supervisor() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::open(folder.path()).unwrap();
        let held = lock_file(&layout.pid_file(layout::WORKER)).unwrap();
        held.try_lock().unwrap();
        fs::write(layout.pid_file(layout::WORKER), "4711\n").unwrap();

        let error = wait_for_predecessors(&layout, Duration::from_millis(50)).await.unwrap_err().to_string();
        assert!(error.contains("worker") && error.contains("4711"), "{error}");

        drop(held);
        wait_for_predecessors(&layout, Duration::from_millis(50)).await.unwrap();
    }
}
