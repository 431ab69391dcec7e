//! `longwatch-loadtest drain`: plays many cameras and throws the bytes away, or writes them as they came.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use crate::drain;

/// Play many cameras and throw the bytes away, reading every 200 ms: shows what the cameras cost
#[derive(Debug, clap::Args)]
pub struct Args {
    /// URL without the number, such as rtsp://127.0.0.1:8554/cam
    #[arg(long)]
    url_base: String,
    /// Cameras to play: URL/1 to URL/COUNT
    #[arg(long, default_value_t = 1)]
    count: u32,
    /// How long, in seconds, after all have started
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// An existing folder to write what comes to, a file per camera
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,
}

/// Plays and prints the summary as JSON. Exits with 1 if a connection ended early or a file could not be written.
///
/// # Errors
/// A camera that cannot be played.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let summary =
        drain::drain(&args.url_base, args.count, Duration::from_secs(args.seconds), args.write.as_deref())?;
    println!("{}", serde_json::to_string(&summary)?);
    Ok(if summary.ended_early == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
