//! `longwatch-loadtest failover`: how long a lost server's cameras go unrecorded, how much of their video is lost, and that
//! none is lost when the server is brought back and emptied.
//!
//! A real cluster on this machine (NATS, control, workers), simulated cameras, one worker killed with SIGKILL.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, ensure};

use crate::failover::measure::{Size, measure};
use crate::failover::{GOP_MS, report};

/// Kill one server of several, bring it back and drain it; print what that does to its cameras (1080p25, about 2 Mbps,
/// 2 s GOP)
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Servers, one of which is killed
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(2..=64))]
    servers: u32,
    /// Cameras that each of them records
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    cameras_per_server: u32,
    /// How long a server must be back before its cameras go home, in seconds (as shipped: 60)
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    stable_s: u32,
    /// Times this is done, each on a new cluster
    #[arg(long, default_value_t = 1)]
    runs: u32,
    /// Where recordings go while they are measured (some 20 GB by default); removed afterwards
    #[arg(long, default_value = "./data-bench")]
    data: PathBuf,
}

/// Measures and prints; fails if a camera was not taken over or moved, or a frame is missing that need not be.
///
/// # Errors
/// Whatever keeps a measurement from being made.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    ensure!(
        !args.data.exists(),
        "{} exists: a measurement starts with nothing; remove it or name another folder with --data",
        args.data.display()
    );
    // One thread: the cluster's processes end with the thread that started them.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!(
        "failover: {} servers with {} cameras each, 1080p25 H.264 with AAC, keyframes every {} s\n\
         cameras, NATS, control and all servers share this machine's {cores} core(s) and its disk\n\
         policy as shipped, but for failback: {} s after the server is back; any server may hold and take over all cameras",
        args.servers,
        args.cameras_per_server,
        GOP_MS / 1_000,
        args.stable_s
    );
    let size =
        Size { servers: args.servers, cameras_per_server: args.cameras_per_server, stable_s: args.stable_s };
    let mut complete = true;
    for number in 1..=args.runs {
        let measured = runtime.block_on(measure(size, &args.data));
        // Gigabytes: not left behind even if something failed.
        let removed = std::fs::remove_dir_all(&args.data);
        let measured = measured?;
        removed.with_context(|| format!("cannot remove {}", args.data.display()))?;
        println!("\n{}", report::written(number, &measured));
        complete &= measured.is_complete();
    }
    Ok(if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
