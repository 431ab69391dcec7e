//! One process of a system: started, watched, paused, killed and started again, as the ones who run servers do.
//!
//! Invariant: it ends with this value, and with the thread that started it, even if that is killed.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tokio::time::{sleep, timeout};

use super::{LOOK_EVERY, process, program};

/// A command that runs `path` and ends when the calling thread does, even if this process is killed.
///
/// # Errors
/// If longwatch-control, which ties it, is not built.
pub(super) fn tied(path: &Path) -> anyhow::Result<Command> {
    let mut command = Command::new(program("longwatch-control")?);
    command.args(["child", "--parent", &std::process::id().to_string(), "--"]).arg(path).stdin(Stdio::null());
    // Its own process group: Ctrl-C reaches us only, and we stop it in order.
    command.process_group(0);
    Ok(command)
}

/// The last lines of a text file, of what stands behind its first `skip` bytes.
pub(super) fn last_lines(path: &Path, skip: u64) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let skip = usize::try_from(skip).unwrap_or(usize::MAX).min(text.len());
    let text = String::from_utf8_lossy(&text[skip..]);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(25)..].join("\n")
}

/// Opens `path` for a child's output, behind what stands there.
pub(super) fn output(path: &Path) -> anyhow::Result<File> {
    let opened = File::options().create(true).append(true).open(path);
    opened.with_context(|| format!("cannot write {}", path.display()))
}

/// A process and how it is started.
pub struct Part {
    name: String,
    program: PathBuf,
    args: Vec<OsString>,
    log: PathBuf,
    child: Option<Child>,
}

impl Part {
    /// What `name` will run; its output goes to `log`. Nothing is started.
    pub fn new(name: &str, program: PathBuf, args: Vec<OsString>, log: PathBuf) -> Self {
        Self { name: name.to_owned(), program, args, log, child: None }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Starts it, for the first time or again with the same arguments.
    ///
    /// # Errors
    /// If it runs already, or cannot be started.
    pub fn start(&mut self) -> anyhow::Result<()> {
        ensure!(!self.is_running(), "{} runs already", self.name);
        let output = output(&self.log)?;
        let mut command = tied(&self.program)?;
        command
            .args(&self.args)
            .stdout(output.try_clone().context("cannot share the log file")?)
            .stderr(output);
        self.child = Some(command.spawn().with_context(|| format!("cannot start {}", self.name))?);
        Ok(())
    }

    /// Its process id.
    ///
    /// # Errors
    /// If it does not run.
    pub fn pid(&self) -> anyhow::Result<i32> {
        let child = self.child.as_ref().with_context(|| format!("{} does not run", self.name))?;
        i32::try_from(child.id()).context("not a process id")
    }

    /// Whether it runs (or stands still, alive).
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Says so if it ended by itself.
    ///
    /// # Errors
    /// If it does not run; the error holds the end of its output.
    pub fn check(&mut self) -> anyhow::Result<()> {
        if self.is_running() {
            return Ok(());
        }
        bail!("{} does not run; the end of {}:\n{}", self.name, self.log.display(), last_lines(&self.log, 0))
    }

    /// SIGKILL, as a crash would; returns once it is gone.
    ///
    /// # Errors
    /// If it does not run.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        let mut child = self.child.take().with_context(|| format!("{} does not run", self.name))?;
        child.kill().with_context(|| format!("cannot kill {}", self.name))?;
        child.wait().with_context(|| format!("cannot wait for {}", self.name))?;
        Ok(())
    }

    /// SIGTERM, and waits until it is gone.
    ///
    /// # Errors
    /// If it does not run, does not end in time, or not cleanly.
    pub async fn stop(&mut self, within: Duration) -> anyhow::Result<()> {
        process::terminate(self.pid()?)?;
        let ended = timeout(within, async {
            while self.is_running() {
                sleep(LOOK_EVERY).await;
            }
        });
        ended.await.with_context(|| format!("{} does not stop", self.name))?;
        let status = self.child.take().map(|mut child| child.wait()).transpose()?;
        ensure!(
            status.is_some_and(|status| status.success()),
            "{} ended with {status:?}; the end of its output:\n{}",
            self.name,
            last_lines(&self.log, 0)
        );
        Ok(())
    }

    /// Makes it stand still, alive.
    ///
    /// # Errors
    /// If it does not run.
    pub fn pause(&self) -> anyhow::Result<()> {
        process::pause(self.pid()?)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// If it does not run.
    pub fn resume(&self) -> anyhow::Result<()> {
        process::resume(self.pid()?)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _gone = child.kill();
            let _reaped = child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_is_started_killed_and_started_again() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let mut part =
            Part::new("part", "/bin/sh".into(), vec!["-c".into(), "echo up; sleep 60".into()], log.clone());
        assert!(part.pid().is_err() && part.kill().is_err() && part.check().is_err());
        for starts in 1..=2 {
            part.start().unwrap();
            assert!(part.start().is_err(), "it runs already");
            timeout(Duration::from_secs(10), async {
                while std::fs::read_to_string(&log).unwrap_or_default().lines().count() < starts {
                    sleep(LOOK_EVERY).await;
                }
            })
            .await
            .unwrap();
            part.kill().unwrap();
            assert!(!part.is_running());
        }
    }
}
