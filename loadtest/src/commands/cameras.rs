//! `longwatch-loadtest cameras`: serves simulated cameras until it is told to stop.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::camera::digest::Credentials;
use crate::camera::pump::Join;
use crate::camera::server::{Options, Server};

/// Serve simulated cameras over RTSP (TCP interleaved) in real time
///
/// Paths, N from 1 to --count:
///   /cam/N      the clips given, or 1080p25 H.264, 2 Mbps, keyframe every 2 s, with AAC
///   /silent/N   the same without audio
///   /h265/N     720p25 H.265, 1 Mbps, no audio
///   /small/N    320x180 H.264, 150 kbps, keyframe every second, no audio
///   /bframes/N  the same with B-frames
///   /auth/N     as /cam/N, wants digest authentication (user:pass, or what --digest says)
///   /hostile/NAME  misbehaves: 401, 404, hang, hang-after-play, stall, garbage, garbage-after-play, close,
///               close-after-5s; /hostile/NAME/M (1 to 999) are more of the same
///
/// Every video frame carries its number in an SEI, counted per camera from the start of this program; `frames` counts
/// in recordings what was lost. A camera goes on whether somebody watches or not. A client that reads too slowly is
/// disconnected; frames are never dropped one by one.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Cameras per family of paths
    #[arg(long, env = "LONGWATCH_CAMERAS_COUNT", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..1_000_000))]
    count: u32,
    /// Where to listen; may be repeated; port 0 takes a free port, printed on start
    #[arg(long, env = "LONGWATCH_CAMERAS_LISTEN", default_value = "127.0.0.1:8554")]
    listen: Vec<SocketAddr>,
    /// An MP4 (H.264 or H.265, AAC or no audio) for /cam/N; several are shown in turn
    #[arg(long, env = "LONGWATCH_CAMERAS_CLIP", value_name = "FILE")]
    clip: Vec<PathBuf>,
    /// Every camera wants this user and password (digest authentication)
    #[arg(long, env = "LONGWATCH_CAMERAS_DIGEST", value_name = "USER:PASSWORD", hide_env_values = true)]
    digest: Option<Credentials>,
    /// A client silent for longer is disconnected, in seconds
    #[arg(long, env = "LONGWATCH_CAMERAS_SESSION_TIMEOUT_S", default_value_t = 60,
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    session_timeout_s: u64,
    /// Where a client joins the running camera
    #[arg(long, env = "LONGWATCH_CAMERAS_JOIN", value_enum, default_value_t)]
    join: Join,
}

/// Serves until SIGINT or SIGTERM.
///
/// # Errors
/// A clip or a port that cannot be had.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let options = Options {
        listen: args.listen.clone(),
        count: args.count,
        clips: args.clip.clone(),
        digest: args.digest.clone(),
        session_timeout: Duration::from_secs(args.session_timeout_s),
        join: args.join,
    };
    allow_many_sockets();
    // One thread is enough: nothing here computes, and a second would only contend for the cameras' state.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(&options))?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(options: &Options) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let server = Server::bind(options)?;
    announce(options.count, &server.addresses())?;
    let stop = CancellationToken::new();
    let running = tokio::spawn(server.run(stop.clone()));
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    stop.cancel();
    let totals = running.await?;
    tracing::info!(plays = totals.plays, frames = totals.frames, too_slow = totals.too_slow, "stopped");
    Ok(())
}

/// One line per listener; tests read the port from it.
fn announce(count: u32, addresses: &[SocketAddr]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for address in addresses {
        let first = format!("rtsp://{address}/cam/1");
        match count {
            1 => writeln!(out, "serving 1 camera at {first}")?,
            _ => writeln!(out, "serving {count} cameras at {first} … /cam/{count}")?,
        }
    }
    out.flush()
}

/// A socket per client: take as many as the system lets us without asking.
fn allow_many_sockets() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}
