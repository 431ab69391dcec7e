//! A whole Longwatch as child processes, driven as a user drives it: by its command line, its files and its API.
//!
//! The demo, the benchmarks and the integration tests stand on this. It knows nothing of Longwatch's inside.

pub mod api;
pub mod archive;
pub mod cameras;
pub mod cluster;
pub mod footage;
pub mod history;
pub mod moves;
pub mod part;
pub mod process;
pub mod takeover;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep, timeout};

use api::Api;
use part::{last_lines, output, tied};

/// How long a start may take, builds not included.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How long a stop may take: the supervisor gives each of three children ten seconds.
const STOP_WITHIN: Duration = Duration::from_secs(35);
/// Between looks at something that is awaited.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// One of Longwatch's programs, beside this one (`target/debug/…`, also for a test in `target/debug/deps`).
///
/// # Errors
/// If it is not there; the error says how to build it.
pub fn program(name: &str) -> anyhow::Result<PathBuf> {
    let this = std::env::current_exe().context("cannot find this executable")?;
    this.ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("{name} is not built; run `cargo build --workspace --bins`"))
}

/// How a Single is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its folder.
    pub data: PathBuf,
    /// Where its API listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Length of a segment in milliseconds; `None`: as shipped.
    pub segment_ms: Option<u64>,
    /// Settings of its worker, by their variables.
    pub worker: Vec<(&'static str, String)>,
}

/// `longwatch-control single` as a child; stopped, or killed, with this value.
pub struct Single {
    child: Child,
    data: PathBuf,
    address: SocketAddr,
    /// Where in the log file the output of this start begins: an earlier one may have written to it too.
    log_begins: u64,
}

impl Single {
    /// Starts it. Its own output and that of its children goes to `longwatch.log` in its folder.
    ///
    /// Call it from a thread that lives as long as this value: the process ends with that thread.
    ///
    /// # Errors
    /// If a program is missing or the folder cannot be made.
    pub fn start(options: &Options) -> anyhow::Result<Self> {
        let control = program("longwatch-control")?;
        let data = &options.data;
        std::fs::create_dir_all(data)
            .with_context(|| format!("cannot make the folder {}", data.display()))?;
        let address = free_address(options.listen)?;
        let output = output(&data.join("longwatch.log"))?;
        let log_begins = output.metadata().map_or(0, |metadata| metadata.len());
        let mut command = tied(&control)?;
        command
            .args(["single", "--rtsp-allow", "127.0.0.0/8", "--listen", &address.to_string()])
            .arg("--data")
            .arg(data)
            .stdout(output.try_clone().context("cannot share the log file")?)
            .stderr(output);
        if let Some(nats_server) = installed_nats_server() {
            command.arg("--nats-server").arg(nats_server);
        }
        if let Some(milliseconds) = options.segment_ms {
            command.args(["--segment-ms", &milliseconds.to_string()]);
        }
        command.envs(options.worker.iter().map(|(variable, value)| (variable, value)));
        let child = command.spawn().context("cannot start longwatch-control single")?;
        Ok(Self { child, data: data.clone(), address, log_begins })
    }

    /// Its folder.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Where its output goes.
    pub fn log(&self) -> PathBuf {
        self.data.join("longwatch.log")
    }

    /// The file with the provider's key.
    pub fn key_file(&self) -> PathBuf {
        self.data.join("provider.key")
    }

    /// The root of the archive.
    pub fn archive(&self) -> PathBuf {
        self.data.join("archive")
    }

    /// Waits until its API answers, and gives access to it.
    ///
    /// # Errors
    /// If it ended, or is not ready in time; the error holds the end of its output.
    pub async fn ready(&mut self) -> anyhow::Result<Api> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            self.must_live()?;
            // Whoever else listens there is not meant: our own Single has a control of its own.
            let control = self.pid_of("control").and_then(process::parent);
            if control == Some(self.pid())
                && let Ok(key) = std::fs::read_to_string(self.key_file())
            {
                let api = Api::new(self.address, key.trim())?;
                if api.is_ready().await {
                    return Ok(api);
                }
            }
            if Instant::now() > deadline {
                bail!(
                    "not ready within {} s; the end of its output:\n{}",
                    READY_WITHIN.as_secs(),
                    self.last_lines()
                );
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Looks whether it is still there.
    ///
    /// # Errors
    /// If it has ended; the error holds the end of its output.
    pub fn must_live(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait().context("cannot look after longwatch-control")? {
            bail!("longwatch-control single ended ({status}); the end of its output:\n{}", self.last_lines());
        }
        Ok(())
    }

    /// The process id of one of its children: `nats-server`, `control` or `worker`.
    pub fn pid_of(&self, child: &str) -> Option<i32> {
        let text = std::fs::read_to_string(self.data.join(format!("run/{child}.pid"))).ok()?;
        let pid = text.trim().parse().ok()?;
        process::is_alive(pid).then_some(pid)
    }

    /// Its own process id.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap_or(i32::MAX)
    }

    /// The last lines of its output.
    pub fn last_lines(&self) -> String {
        last_lines(&self.log(), self.log_begins)
    }

    /// Asks it to stop, and waits.
    ///
    /// # Errors
    /// If it does not stop in time, or not cleanly.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        let status = self.end(STOP_WITHIN).await?;
        if status.success() {
            return Ok(());
        }
        bail!("longwatch-control single ended with {status}; the end of its output:\n{}", self.last_lines())
    }

    async fn end(&mut self, within: Duration) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::TERM);
        let ended = timeout(within, async {
            loop {
                if let Some(status) = self.child.try_wait()? {
                    return Ok::<_, std::io::Error>(status);
                }
                sleep(LOOK_EVERY).await;
            }
        });
        ended.await.context("longwatch-control single does not stop")?.context("cannot wait for it")
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.pid()) {
            // It may be gone already, which is what is wanted.
            let _gone = kill_process(pid, signal);
        }
    }
}

impl Drop for Single {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // Its children end with it: each asked the kernel for that.
            let _gone = self.child.kill();
            let _reaped = self.child.wait();
        }
    }
}

/// The nats-server that `make tools` installed, if this program stands in a checkout and nothing else was asked for.
fn installed_nats_server() -> Option<PathBuf> {
    if std::env::var_os("LONGWATCH_NATS_SERVER").is_some() {
        return None;
    }
    let this = std::env::current_exe().ok()?;
    this.ancestors().map(|folder| folder.join(".tools/bin/nats-server")).find(|path| path.is_file())
}

/// The address, with a free port in place of port 0.
fn free_address(wanted: SocketAddr) -> anyhow::Result<SocketAddr> {
    if wanted.port() != 0 {
        return Ok(wanted);
    }
    let listener = std::net::TcpListener::bind(wanted).context("no free port")?;
    listener.local_addr().context("no free port")
}
