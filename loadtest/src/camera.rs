//! Simulated cameras: an RTSP 1.0 server (RFC 2326) that sends clips in real time, RTP interleaved in TCP.
//!
//! A camera is a pure function of time ([`feed`]): which frame is due when, with which sequence number and
//! timestamp, follows from the camera's number, the clip and the time since the server's start. So a camera goes on
//! whether somebody watches or not, every client of it sees the same frames with the same numbers, and one that
//! nobody watches costs nothing. What is not here: UDP, multicast, RTSPS, PAUSE, seeking.
//!
//! Pure: [`timeline`], [`packet`], [`clip`], [`feed`], [`clockwork`], [`oddity`], [`catalogue`], [`sdp`],
//! [`digest`], [`message`], [`metadata`].
//! Shell: [`outbox`] (one client's socket), [`pump`] (sends what is due), [`connection`] (talks RTSP), [`server`].

pub mod catalogue;
pub mod clip;
pub mod clockwork;
pub mod connection;
pub mod digest;
pub mod feed;
pub mod message;
pub mod metadata;
pub mod oddity;
pub mod outbox;
pub mod packet;
pub mod pump;
pub mod sdp;
pub mod server;
pub mod timeline;
