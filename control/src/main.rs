//! `longwatch-control`: the command line of the control plane.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program speaks to whoever called it")]

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};
use longwatch_control::serve::{self, ServeArgs};
use longwatch_control::single::{self, ChildArgs, SingleArgs};
use longwatch_control::{api, config_file};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// The control plane of Longwatch: folds the log, decides, answers the API.
#[derive(Parser)]
#[command(name = "longwatch-control", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    task: Task,
    /// How log lines look.
    #[arg(long, env = "LONGWATCH_LOG_FORMAT", value_enum, default_value = "human", global = true)]
    log_format: LogFormat,
    /// Which log lines, as in tracing's EnvFilter, e.g. `debug` or `longwatch_control=debug,warn`.
    #[arg(
        long,
        env = "LONGWATCH_LOG_FILTER",
        default_value = "info,async_nats=error,sqlx=warn",
        global = true
    )]
    log_filter: String,
}

#[derive(Subcommand)]
enum Task {
    /// Run the whole system on this machine: log, control, one worker.
    Single {
        #[command(flatten)]
        args: SingleArgs,
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// Run one control replica of a cluster.
    Serve {
        #[command(flatten)]
        args: ServeArgs,
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// Print the OpenAPI document of the API.
    Openapi,
    /// Start a program that ends when the supervisor does.
    #[command(hide = true)]
    Child(ChildArgs),
}

#[derive(clap::Args)]
struct ConfigArgs {
    /// Settings in a TOML file: the flags' names with underscores. Flags and environment variables win.
    #[arg(long, value_name = "FILE.toml")]
    #[allow(dead_code, reason = "read before the command line is parsed")]
    config: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Human,
    Json,
}

fn main() -> ExitCode {
    let cli = match command_line() {
        Ok(args) => Cli::parse_from(args),
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    if let Err(error) = log_to_stderr(cli.log_format, &cli.log_filter) {
        eprintln!("error: --log-filter: {error}");
        return ExitCode::from(2);
    }
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn command_line() -> Result<Vec<OsString>, config_file::Error> {
    config_file::expand(&Cli::command(), std::env::args_os().collect(), |name| {
        std::env::var_os(name).is_some()
    })
}

fn log_to_stderr(format: LogFormat, filter: &str) -> Result<(), tracing_subscriber::filter::ParseError> {
    let lines =
        tracing_subscriber::fmt().with_env_filter(EnvFilter::try_new(filter)?).with_writer(std::io::stderr);
    match format {
        LogFormat::Human => {
            let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
            lines.with_target(false).with_ansi(is_terminal).init();
        }
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
    Ok(())
}

fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.task {
        Task::Single { args, .. } => {
            let format = match cli.log_format {
                LogFormat::Human => "human",
                LogFormat::Json => "json",
            };
            Ok(single::run(&args, &["--log-format".into(), format.into()])?)
        }
        Task::Serve { args, .. } => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(async {
                let stop = CancellationToken::new();
                stop_on_signal(stop.clone())?;
                Ok(serve::run(args, stop).await?)
            })
        }
        Task::Openapi => {
            println!("{}", api::openapi_json());
            Ok(())
        }
        Task::Child(args) => match single::trampoline(args)? {},
    }
}

fn stop_on_signal(stop: CancellationToken) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    });
    Ok(())
}
