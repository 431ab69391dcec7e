//! `longwatch-control single`: the whole system on one machine, from one command.
//!
//! The supervisor starts three children and starts again whichever dies: nats-server (loopback only, its store in the
//! data folder), control itself (this executable with `serve`), and one worker. It holds no state of its own and makes
//! no decision about cameras: what Single does is what a cluster does, through the same log.
//!
//! It is single-threaded on purpose: the kernel ties a child's death signal to the *thread* that started it, so all
//! children are started from the main thread, which lives as long as the process.
//!
//! Read on in [`layout`] (the files), [`nats_config`] (who may reach what), [`nats`] (the log server), [`child`] (one
//! child's life), [`restart`] (when a dead child comes back) and [`mod@trampoline`] (why none outlives the supervisor).

mod child;
mod layout;
pub mod nats;
pub mod nats_config;
mod restart;
mod trampoline;

use std::ffi::OsString;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::FutureExt as _;
use ipnet::IpNet;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::info;

use child::{Keeper, Spec};
use layout::Layout;
pub use trampoline::{ChildArgs, trampoline};

/// How long a child may take to drain and end after SIGTERM, before SIGKILL.
const STOP_WITHIN: Duration = Duration::from_secs(10);
/// How long the children of an earlier supervisor, killed a moment ago, may take to end.
const PREDECESSORS_END_WITHIN: Duration = Duration::from_secs(15);

/// Ctrl-C counts as a second one from here on.
const IMPATIENT_AFTER: Duration = Duration::from_secs(1);

/// Settings of `longwatch-control single`.
#[derive(Debug, Clone, clap::Args)]
pub struct SingleArgs {
    /// Folder that holds everything: keys, log, database, archive. Created if absent.
    #[arg(long, env = "LONGWATCH_DATA", value_name = "DIR")]
    pub data: PathBuf,

    /// Address of the API. Port 0 takes a free one and logs it.
    #[arg(long, env = "LONGWATCH_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,

    /// The nats-server to run (2.15 or newer). Default: the first good one on PATH, else ./.tools/bin/nats-server.
    #[arg(long, env = "LONGWATCH_NATS_SERVER", value_name = "PATH")]
    pub nats_server: Option<PathBuf>,

    /// The worker to run. Default: longwatch-worker beside this executable.
    #[arg(long, env = "LONGWATCH_WORKER", value_name = "PATH")]
    pub worker: Option<PathBuf>,

    /// Networks inside the machine's own reach (loopback, link-local) in which cameras may nevertheless be.
    #[arg(long, env = "LONGWATCH_RTSP_ALLOW", value_name = "CIDR", value_delimiter = ',', num_args = 1..)]
    pub rtsp_allow: Vec<IpNet>,

    /// Tell cameras their password in clear text if they want it so (Basic); anybody on the way can read it.
    #[arg(long, env = "LONGWATCH_RTSP_ALLOW_BASIC")]
    pub rtsp_allow_basic: bool,

    /// Certificates (PEM) by which cameras within TLS (rtsps://) are believed beside the authorities that this system knows.
    #[arg(long, env = "LONGWATCH_RTSPS_CA", value_name = "FILE")]
    pub rtsps_ca: Option<PathBuf>,

    /// Believe every camera within TLS, whoever signed its certificate: who stands in the way can take its place, and listen.
    #[arg(long, env = "LONGWATCH_RTSPS_ALLOW_UNVERIFIED")]
    pub rtsps_allow_unverified: bool,

    /// Where recorded video is given out to those who have a signed address of it. Port 0: a free one.
    #[arg(long, env = "LONGWATCH_MEDIA_LISTEN", value_name = "ADDR:PORT", default_value = "127.0.0.1:0")]
    pub media_listen: SocketAddr,

    /// How viewers reach that, if not by its address: http:// or https://, a host, and a port.
    #[arg(long, env = "LONGWATCH_MEDIA_URL", value_name = "URL")]
    pub media_url: Option<String>,

    /// Length of a segment in milliseconds. Default: the worker's own.
    #[arg(long, env = "LONGWATCH_SEGMENT_MS", value_name = "MS")]
    pub segment_ms: Option<u64>,
}

/// Why Single could not be started, or a child not be exec'd. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder cannot be used.
    #[error("cannot {what} {path}: {source}", path = path.display())]
    File {
        /// What was tried, as a verb.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another Single has the folder.
    #[error("{path} is in use by another longwatch-control single: stop it, or take another folder with --data",
        path = .0.display())]
    InUse(PathBuf),
    /// Children of a killed supervisor do not end.
    #[error("{child} of an earlier start is still running (process {pid}) after {}s: end it, then start again",
        PREDECESSORS_END_WITHIN.as_secs())]
    Predecessor {
        /// Which child.
        child: &'static str,
        /// Its process id, as it wrote it down.
        pid: String,
    },
    /// Nothing can listen there.
    #[error("cannot listen on {address}: {source}; take another address with --listen")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The path cannot be written into a configuration.
    #[error("{path} is not valid UTF-8: take another folder with --data", path = .0.display())]
    NotUtf8(PathBuf),
    /// No worker to start.
    #[error("there is no worker at {path}: build it (cargo build --bins) or name it with --worker",
        path = .0.display())]
    NoWorker(PathBuf),
    /// No nats-server that would do.
    #[error(
        "no nats-server {min} or newer was found{tried}: run `make tools` (installs it into .tools), or put one on \
         PATH, or name it with --nats-server",
        min = nats::MIN_VERSION
    )]
    NoNatsServer {
        /// What was looked at and why it will not do; empty or starting with a space.
        tried: String,
    },
    /// A key file is not what it should be.
    #[error("{path} does not hold an nkey seed: {source}; delete it to have a new one made", path = path.display())]
    BadSeed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: nkeys::error::Error,
    },
    /// The operating system refuses something a supervisor cannot be without.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried, as a verb.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A program cannot be started.
    #[error("cannot start {program}: {source}", program = program.display())]
    Exec {
        /// Which one.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The supervisor is gone, or another process has the child's place.
    #[error("{0}")]
    Child(String),
}

/// Runs Single until SIGINT, SIGTERM or SIGHUP, then stops its children in order (worker, control, nats-server).
///
/// Call it from the main thread, outside any runtime. `common` are arguments that `serve` and the worker both
/// understand and that stand on this process's own command line, such as `--log-format json`.
pub fn run(args: &SingleArgs, common: &[OsString]) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::System { what: "start a runtime", source })?;
    runtime.block_on(supervise(args, common))
}

async fn supervise(args: &SingleArgs, common: &[OsString]) -> Result<(), Error> {
    let mut ends = Ends::listen()?;
    let layout = Layout::open(&args.data)?;
    let _only_one = layout.lock()?;
    let children = tokio::select! {
        children = prepare(args, common, &layout) => children?,
        name = ends.next() => {
            info!(signal = name, "stopped before the start was complete");
            return Ok(());
        }
    };

    let nats = Keeper::start(children.nats);
    let control = Keeper::start(children.control);
    let worker = Keeper::start(children.worker);

    let name = ends.next().await;
    info!(signal = name, "stopping; Ctrl-C once more kills at once");
    let in_order = async {
        // The worker first: what it still knows goes through NATS to the log. NATS last.
        worker.stop().await;
        control.stop().await;
        nats.stop().await;
    };
    tokio::pin!(in_order);
    tokio::select! {
        () = &mut in_order => {}
        () = ends.impatience() => {
            for keeper in [&worker, &control, &nats] {
                keeper.kill();
            }
            in_order.await;
        }
    }
    info!("stopped");
    Ok(())
}

/// What to start.
struct Children {
    nats: Spec,
    control: Spec,
    worker: Spec,
}

/// Everything that can be wrong with a start is found here, before the first child.
async fn prepare(args: &SingleArgs, common: &[OsString], layout: &Layout) -> Result<Children, Error> {
    let this =
        std::env::current_exe().map_err(|source| Error::System { what: "find this executable", source })?;
    let worker = find_worker(args.worker.as_deref(), &this)?;
    let nats_server = nats::find(args.nats_server.as_deref()).await?;
    child::wait_for_predecessors(layout, PREDECESSORS_END_WITHIN).await?;
    let listen = free_address(args.listen)?;
    let nats = nats::prepare(layout.nats())?;
    info!(
        data = %layout.root().display(),
        %listen,
        nats = %nats.address,
        nats_server = %nats_server.display(),
        worker = %worker.display(),
        "single is starting",
    );

    let spec = |name, program, args| Spec {
        name,
        trampoline: this.clone(),
        program,
        args,
        pid_file: layout.pid_file(name),
        stop_within: STOP_WITHIN,
        after: None,
        log: None,
    };
    Ok(Children {
        nats: Spec { log: Some(nats.log.clone()), ..spec(layout::NATS, nats_server, nats.args()) },
        control: Spec {
            after: Some(nats.address),
            ..spec(layout::CONTROL, this.clone(), control_args(layout, &nats, listen, common)?)
        },
        worker: spec(layout::WORKER, worker, worker_args(layout, &nats, args, common)),
    })
}

fn control_args(
    layout: &Layout,
    nats: &nats::Prepared,
    listen: SocketAddr,
    common: &[OsString],
) -> Result<Vec<OsString>, Error> {
    let mut line: Vec<OsString> = vec!["serve".into()];
    let mut flag = |name: &str, value: OsString| line.extend([name.into(), value]);
    flag("--nats", nats.url().into());
    flag("--nats-credentials", nats.control_seed.clone().into());
    flag("--database", layout.database_url()?.into());
    flag("--listen", listen.to_string().into());
    flag("--key-file", layout.file("provider.key").into());
    flag("--join-key-file", layout.file("join.key").into());
    flag("--adopt", "auto".into());
    line.extend_from_slice(common);
    Ok(line)
}

fn worker_args(
    layout: &Layout,
    nats: &nats::Prepared,
    args: &SingleArgs,
    common: &[OsString],
) -> Vec<OsString> {
    let mut line: Vec<OsString> = Vec::new();
    let mut flag = |name: &str, value: OsString| line.extend([name.into(), value]);
    flag("--nats", nats.url().into());
    flag("--nats-credentials", nats.worker_seed.clone().into());
    flag("--name", "single".into());
    flag("--archive", layout.file("archive").into());
    flag("--join-key-file", layout.file("join.key").into());
    for network in &args.rtsp_allow {
        flag("--rtsp-allow", network.to_string().into());
    }
    if args.rtsp_allow_basic {
        flag("--rtsp-allow-basic", "true".into());
    }
    if let Some(file) = &args.rtsps_ca {
        flag("--rtsps-ca", file.into());
    }
    if args.rtsps_allow_unverified {
        flag("--rtsps-allow-unverified", "true".into());
    }
    flag("--media-listen", args.media_listen.to_string().into());
    if let Some(url) = &args.media_url {
        flag("--media-url", url.into());
    }
    if let Some(milliseconds) = args.segment_ms {
        flag("--segment-ms", milliseconds.to_string().into());
    }
    line.extend_from_slice(common);
    line
}

fn find_worker(named: Option<&Path>, this: &Path) -> Result<PathBuf, Error> {
    let path = named.map_or_else(|| this.with_file_name("longwatch-worker"), Path::to_owned);
    if !path.is_file() {
        return Err(Error::NoWorker(path));
    }
    // Absolute, so that a relative --worker means the same at every restart.
    std::path::absolute(&path).map_err(|source| Error::File { what: "find", path, source })
}

/// The address if it can be listened on now; port 0 becomes a free port, the same one for every restart of control.
fn free_address(wanted: SocketAddr) -> Result<SocketAddr, Error> {
    TcpListener::bind(wanted)
        .and_then(|listener| listener.local_addr())
        .map_err(|source| Error::Listen { address: wanted, source })
}

/// The signals that end Single.
struct Ends {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Ends {
    fn listen() -> Result<Self, Error> {
        let on = |kind| signal(kind).map_err(|source| Error::System { what: "listen for signals", source });
        Ok(Self {
            interrupt: on(SignalKind::interrupt())?,
            terminate: on(SignalKind::terminate())?,
            hang_up: on(SignalKind::hangup())?,
        })
    }

    /// The next signal's name.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.hang_up.recv() => "SIGHUP",
        }
    }

    /// A second Ctrl-C, by a person: whatever comes within a second of the first signal may be the same wish by
    /// another way (a shell tells the process group, the parent tells its child).
    async fn impatience(&mut self) {
        tokio::time::sleep(IMPATIENT_AFTER).await;
        // What came meanwhile is forgotten.
        self.interrupt.recv().now_or_never();
        self.interrupt.recv().await;
    }
}
