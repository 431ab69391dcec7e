//! The supervisor of `longwatch-control single`: it starts its children, starts again what dies, stops them in order,
//! and leaves none behind even when it is killed itself. What the children do for a camera is tested elsewhere.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

const CONTROL: &str = env!("CARGO_BIN_EXE_longwatch-control");
const CHILDREN: [&str; 3] = ["nats-server", "control", "worker"];
const DEADLINE: Duration = Duration::from_secs(20);
/// Stands in for the worker: writes down how it was called and that it drained.
const WORKER: &str = r#"#!/bin/sh
here=$(dirname "$0")
trap 'echo drained >> "$here/drained"; exit 0' TERM
printf '%s\n' "$@" > "$here/called"
: > "$here/ready"
while :; do sleep 0.05; done
"#;

/// Takes its time to drain.
const STUBBORN_WORKER: &str = r#"#!/bin/sh
here=$(dirname "$0")
trap 'sleep SECONDS; echo drained >> "$here/drained"; exit 0' TERM
: > "$here/ready"
while :; do sleep 0.05; done
"#;

struct Single {
    process: Child,
    folder: TempDir,
}

impl Drop for Single {
    fn drop(&mut self) {
        // In order first, so that no child writes to the folder while it is being removed.
        if let Ok(None) = self.process.try_wait() {
            self.signal(Signal::TERM);
        }
        for _ in 0..1000 {
            if !matches!(self.process.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Single {
    fn start() -> Self {
        Self::start_with(WORKER)
    }

    fn start_with(script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let worker = folder.path().join("worker");
        fs::write(&worker, script).unwrap();
        fs::set_permissions(&worker, fs::Permissions::from_mode(0o700)).unwrap();
        let process = Self::command(&folder).stdin(Stdio::null()).spawn().unwrap();
        Self { process, folder }
    }

    fn command(folder: &TempDir) -> Command {
        let nats_server = std::env::var_os("LONGWATCH_NATS_SERVER").map_or_else(
            || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../.tools/bin/nats-server"),
            PathBuf::from,
        );
        assert!(nats_server.exists(), "no {}: run `make tools` first", nats_server.display());
        let mut command = Command::new(CONTROL);
        command
            .args([
                "single",
                "--listen",
                "127.0.0.1:0",
                "--rtsp-allow",
                "127.0.0.0/8",
                "--segment-ms",
                "2000",
            ])
            .arg("--data")
            .arg(folder.path().join("data"))
            .arg("--worker")
            .arg(folder.path().join("worker"))
            .arg("--nats-server")
            .arg(nats_server);
        command
    }

    fn data(&self, name: &str) -> PathBuf {
        self.folder.path().join("data").join(name)
    }

    /// The process that has a child's place, once there is one that is not `other`.
    async fn pid(&self, child: &str, other: Option<Pid>) -> Pid {
        let file = self.data("run").join(format!("{child}.pid"));
        let began = Instant::now();
        loop {
            let pid =
                fs::read_to_string(&file).ok().and_then(|text| Pid::from_raw(text.trim().parse().ok()?));
            if let Some(pid) = pid.filter(|&pid| Some(pid) != other && self.holds_its_place(child)) {
                return pid;
            }
            assert!(began.elapsed() < DEADLINE, "{child} never came");
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn holds_its_place(&self, child: &str) -> bool {
        let file = fs::File::open(self.data("run").join(format!("{child}.pid"))).unwrap();
        file.try_lock().is_err()
    }

    /// All children are there, and the worker hears signals.
    async fn all_up(&self) -> [Pid; 3] {
        let pids = [
            self.pid("nats-server", None).await,
            self.pid("control", None).await,
            self.pid("worker", None).await,
        ];
        let began = Instant::now();
        while !self.folder.path().join("ready").exists() {
            assert!(began.elapsed() < DEADLINE, "the worker never said that it hears signals");
            sleep(Duration::from_millis(5)).await;
        }
        pids
    }

    async fn ended(&mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(began.elapsed() < DEADLINE, "single never ended");
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.process.id()).ok().and_then(Pid::from_raw).unwrap();
        kill_process(pid, signal).unwrap();
    }
}

#[tokio::test]
async fn each_killed_child_comes_back_and_the_others_stay() {
    let single = Single::start();
    let mut pids = single.all_up().await;
    for (index, child) in CHILDREN.into_iter().enumerate() {
        kill_process(pids[index], Signal::KILL).unwrap();
        let killed = Instant::now();
        let back = single.pid(child, Some(pids[index])).await;
        assert!(killed.elapsed() < Duration::from_secs(2), "{child} took {:?}", killed.elapsed());
        pids[index] = back;
    }
    assert_eq!(single.pid("worker", None).await, pids[2]);
    assert_eq!(single.pid("nats-server", None).await, pids[0]);
}

#[tokio::test]
async fn a_signal_stops_all_children_and_ends_well() {
    for signal in [Signal::INT, Signal::TERM] {
        let mut single = Single::start();
        single.all_up().await;

        single.signal(signal);

        assert_eq!(single.ended().await.code(), Some(0), "{signal:?}");
        assert_eq!(CHILDREN.map(|child| single.holds_its_place(child)), [false; 3]);
        assert_eq!(fs::read_to_string(single.folder.path().join("drained")).unwrap(), "drained\n");
    }
}

#[tokio::test]
async fn two_signals_at_once_are_one_wish_and_a_later_ctrl_c_is_impatience() {
    let mut single = Single::start_with(&STUBBORN_WORKER.replace("SECONDS", "0.5"));
    single.all_up().await;
    single.signal(Signal::INT);
    single.signal(Signal::INT);
    single.signal(Signal::TERM);
    assert_eq!(single.ended().await.code(), Some(0));
    assert!(single.folder.path().join("drained").exists(), "it had half a second to drain, and time enough");

    let mut single = Single::start_with(&STUBBORN_WORKER.replace("SECONDS", "600"));
    single.all_up().await;
    single.signal(Signal::INT);
    sleep(Duration::from_millis(1200)).await;
    single.signal(Signal::INT);
    let pressed = Instant::now();
    assert_eq!(single.ended().await.code(), Some(0));
    assert!(pressed.elapsed() < Duration::from_secs(5), "{:?}", pressed.elapsed());
}

#[tokio::test]
async fn a_killed_supervisor_leaves_nothing_behind_and_can_be_started_again_at_once() {
    let mut single = Single::start();
    let before = single.all_up().await;

    single.process.kill().unwrap();
    single.process.wait().unwrap();
    single.process = Single::command(&single.folder).stdin(Stdio::null()).spawn().unwrap();

    for (child, pid) in CHILDREN.into_iter().zip(before) {
        single.pid(child, Some(pid)).await;
    }
    single.signal(Signal::TERM);
    assert_eq!(single.ended().await.code(), Some(0));
}

#[tokio::test]
async fn the_worker_is_told_what_it_needs_and_no_secret() {
    let single = Single::start();
    single.all_up().await;
    let seed = fs::read_to_string(single.data("nats/worker.nk")).unwrap();
    let called = single.folder.path().join("called");
    let began = Instant::now();
    while !called.exists() {
        assert!(began.elapsed() < DEADLINE);
        sleep(Duration::from_millis(5)).await;
    }
    let line = fs::read_to_string(called).unwrap();
    let port = fs::read_to_string(single.data("nats/port")).unwrap();
    let data = single.data("").canonicalize().unwrap();
    let expected = [
        ("--nats", format!("nats://127.0.0.1:{}", port.trim())),
        ("--nats-credentials", data.join("nats/worker.nk").display().to_string()),
        ("--name", "single".to_owned()),
        ("--archive", data.join("archive").display().to_string()),
        ("--join-key-file", data.join("join.key").display().to_string()),
        ("--rtsp-allow", "127.0.0.0/8".to_owned()),
        ("--media-listen", "127.0.0.1:0".to_owned()),
        ("--segment-ms", "2000".to_owned()),
    ];
    let expected: String = expected.into_iter().map(|(flag, value)| format!("{flag}\n{value}\n")).collect();
    assert!(line.starts_with(&expected), "{line}");
    assert!(!line.contains(seed.trim()));
}

#[tokio::test]
async fn a_second_single_on_the_folder_says_so_and_harms_nothing() {
    let single = Single::start();
    let before = single.all_up().await;

    let second = Single::command(&single.folder).stdin(Stdio::null()).output().unwrap();

    assert_eq!(second.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&second.stderr).contains("another longwatch-control single"),
        "{second:?}"
    );
    assert_eq!(single.all_up().await, before);
}

#[tokio::test]
async fn what_is_missing_is_named_before_anything_starts() {
    let folder = tempfile::tempdir().unwrap();
    for (flag, says) in [("--worker", "cargo build --bins"), ("--nats-server", "make tools")] {
        let mut line = Command::new(CONTROL);
        let value =
            |name: &str, good: &str| if name == flag { "/nowhere/it".to_owned() } else { good.to_owned() };
        line.args(["single", "--listen", "127.0.0.1:0", "--worker", &value("--worker", "/bin/true")]);
        line.args(["--nats-server", &value("--nats-server", "/bin/true")]);
        let output = line.arg("--data").arg(folder.path()).stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1));
        assert!(said.contains("/nowhere/it") && said.contains(says), "{said}");
    }
}
