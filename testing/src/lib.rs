//! Servers that tests of several crates start: a dev-dependency of theirs, so that nothing of it is in a program.
//!
//! What goes wrong here ends the test that asked for it, with the reason.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

pub mod postgres;
pub mod s3;
pub mod tls;
