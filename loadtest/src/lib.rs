//! What Longwatch is tested and measured with: simulated cameras whose frames are numbered, and the tools that read
//! recordings of them.
//!
//! [`camera`] serves clips over RTSP in real time, [`frames`] counts what a recording lost, [`drain`] is the cheapest
//! possible client, [`system`] is a whole Longwatch as child processes, [`simulation`] one under a virtual clock,
//! [`failover`] says what the loss of a server costs, and [`scale`] what a system costs that is larger than this machine.
//! [`sei`] is the frame number itself. The program `longwatch-loadtest` is a thin shell around these ([`commands`]);
//! tests use them directly.

pub mod camera;
pub mod commands;
pub mod drain;
pub mod failover;
pub mod frames;
pub mod mp4;
pub mod nal;
pub mod scale;
pub mod sei;
pub mod simulation;
pub mod system;
