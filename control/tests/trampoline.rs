//! `longwatch-control child`: a child dies with its supervisor, and has its place to itself.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

const CONTROL: &str = env!("CARGO_BIN_EXE_longwatch-control");
const DEADLINE: Duration = Duration::from_secs(10);

/// A shell that plays the supervisor: starts one child through the trampoline and waits for it.
struct Supervisor(Child);

impl Supervisor {
    fn start(lock: &Path, program: &str) -> Self {
        let script = format!("'{CONTROL}' child --parent $$ --lock '{}' -- {program} & wait", lock.display());
        let shell = Command::new("/bin/sh")
            .args(["-c", &script])
            .stdin(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        Self(shell)
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not within {} s", DEADLINE.as_secs());
        sleep(Duration::from_millis(5)).await;
    }
}

/// The command line of the process that the file names, if it lives.
fn holder(lock: &Path) -> Option<(Pid, String)> {
    let pid = Pid::from_raw(fs::read_to_string(lock).ok()?.trim().parse().ok()?)?;
    let line = fs::read_to_string(format!("/proc/{}/cmdline", pid.as_raw_pid())).ok()?;
    Some((pid, line.replace('\0', " ").trim().to_owned()))
}

fn is_locked(lock: &Path) -> bool {
    fs::File::open(lock).unwrap().try_lock().is_err()
}

fn child(arguments: &[&str]) -> Output {
    Command::new(CONTROL).arg("child").args(arguments).stdin(Stdio::null()).output().unwrap()
}

#[tokio::test]
async fn the_program_takes_the_process_and_holds_the_lock_until_it_dies() {
    let folder = tempfile::tempdir().unwrap();
    let lock = folder.path().join("child.pid");
    let _supervisor = Supervisor::start(&lock, "sleep 600");

    until("sleep runs", || holder(&lock).is_some_and(|(_, line)| line == "sleep 600")).await;
    assert!(is_locked(&lock));

    kill_process(holder(&lock).unwrap().0, Signal::KILL).unwrap();
    until("the lock is free", || !is_locked(&lock)).await;
}

#[tokio::test]
async fn a_child_does_not_outlive_a_supervisor_that_was_killed() {
    let folder = tempfile::tempdir().unwrap();
    let lock = folder.path().join("child.pid");
    let mut supervisor = Supervisor::start(&lock, "sleep 600");
    until("sleep runs", || holder(&lock).is_some_and(|(_, line)| line == "sleep 600")).await;

    supervisor.0.kill().unwrap();
    supervisor.0.wait().unwrap();

    until("the child is gone", || !is_locked(&lock)).await;
}

#[tokio::test]
async fn a_second_child_waits_until_the_first_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let lock = folder.path().join("child.pid");
    let first = Supervisor::start(&lock, "sleep 600");
    until("the first runs", || holder(&lock).is_some_and(|(_, line)| line == "sleep 600")).await;
    let _second = Supervisor::start(&lock, "sleep 601");
    sleep(Duration::from_millis(200)).await;
    assert_eq!(holder(&lock).unwrap().1, "sleep 600");

    drop(first);

    until("the second runs", || holder(&lock).is_some_and(|(_, line)| line == "sleep 601")).await;
}

#[tokio::test]
async fn an_orphan_is_not_started() {
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("started");
    // Process 1 is nobody's test.
    let output = child(&["--parent", "1", "--", "touch", mark.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is gone"), "{output:?}");
    assert!(!mark.exists());
}

#[tokio::test]
async fn a_program_that_cannot_be_started_is_named() {
    let this = std::process::id().to_string();
    let output = child(&["--parent", &this, "--", "/nowhere/nats-server"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nowhere/nats-server"), "{output:?}");
}
