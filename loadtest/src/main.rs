//! `longwatch-loadtest`: simulated cameras, and the tools that measure with them. `--help` says the rest.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program speaks to whoever called it")]

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use longwatch_loadtest::commands::{cameras, demo, drain, failover, frames, kills, record, scale, simulate};

#[derive(Parser)]
#[command(version, about = "Simulated cameras for Longwatch, and the tools that measure with them")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Cameras(cameras::Args),
    Demo(demo::Args),
    Frames(frames::Args),
    Drain(drain::Args),
    Record(record::Args),
    Failover(failover::Args),
    Kills(kills::Args),
    Scale(scale::Args),
    Simulate(simulate::Args),
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| "info,async_nats=error,longwatch_events=error,mp4_atom=error".into()),
        )
        .with_writer(std::io::stderr)
        .init();
    let result = match Cli::parse().command {
        Command::Cameras(args) => cameras::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Frames(args) => frames::run(&args),
        Command::Drain(args) => drain::run(&args),
        Command::Record(args) => record::run(&args),
        Command::Failover(args) => failover::run(&args),
        Command::Kills(args) => kills::run(&args),
        Command::Scale(args) => scale::run(&args),
        Command::Simulate(args) => simulate::run(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
