//! `longwatch-worker`: reads its settings, starts logging, and records until it is told to stop.
//!
//! Exit codes: 0 told to stop, 1 failed, 2 wrong usage.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program speaks to whoever called it")]

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use longwatch_worker::agent;
use longwatch_worker::config::{self, Config, LogFormat};
use longwatch_worker::descriptors;
use mimalloc::MiMalloc;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Frames are taken and freed a thousand times a second, and what waits for the disk is freed on another thread than
/// took it: this allocator makes both cheap.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let config = Config::from_command_line();
    log_to_stderr(&config);
    // Before anything counts what there is.
    descriptors::raise_limit();
    match work(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "the worker cannot work");
            ExitCode::FAILURE
        }
    }
}

fn log_to_stderr(config: &Config) {
    let filter = match EnvFilter::try_new(&config.log_filter) {
        Ok(filter) => filter,
        Err(e) => config::wrong_usage(format!("--log-filter: {e}")),
    };
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Human => lines.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
}

fn work(config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start")?;
    let result = runtime.block_on(async {
        let stop = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
        let stopping = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            stopping.cancel();
        });
        anyhow::Ok(agent::run(config, stop).await?)
    });
    // A disk that hangs must not keep the process from ending.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}
