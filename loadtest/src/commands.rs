//! The subcommands of `longwatch-loadtest`: each a module with its `Args` and a `run` that returns the exit code
//! (0 done, 1 failed; clap itself exits with 2 on wrong usage).

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command speaks to whoever called it")]

pub mod cameras;
pub mod demo;
pub mod drain;
pub mod failover;
pub mod frames;
pub mod kills;
pub mod record;
pub mod scale;
pub mod simulate;
