//! The whole system, driven as its users drive it: real processes, real NATS, real RTSP, real files, the real API.
//!
//! `make test` runs these; by hand: `cargo build --workspace --bins && cargo test -p longwatch-loadtest --test system`.
//! Every test starts its own Longwatch in a folder that goes with it, on free ports.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod api_contract;
mod crashes;
mod events;
mod failing_cameras;
mod failover;
mod given;
mod hostile_cameras;
mod moves;
mod object_store;
mod odd_cameras;
mod playback;
mod playing;
mod recording;
mod replay;
mod replicas;
mod schedules;
mod scrubbing;
mod start_and_stop;
