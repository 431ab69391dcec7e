//! Where frames come from: cameras ([`rtsp`], within TLS too: [`tls`]), or whatever a test replays.
//!
//! Invariant: a source says everything that can go wrong as a [`Failure`], in words that hold no credential.

use std::future::Future;
use std::sync::Arc;

use longwatch_events::fact::Cause;

use crate::frame::{Beside, SenderReport, Tracks, VideoFrame};

pub mod address;
mod classify;
pub mod disguise;
pub mod documents;
pub mod greeting;
mod placing;
pub mod rtsp;
pub mod tls;
mod tunnel;

/// Why there are no frames.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{cause}: {detail}")]
pub struct Failure {
    /// The kind of it, as the log and the API know it.
    pub cause: Cause,
    /// For a person; holds no credential.
    pub detail: String,
}

impl Failure {
    /// A failure; `detail` must hold no credential.
    pub fn new(cause: Cause, detail: impl Into<String>) -> Self {
        Self { cause, detail: detail.into() }
    }
}

/// What a session yields.
#[derive(Debug, Clone)]
pub enum Received {
    /// What the following frames are; comes before the first frame, and again before the frame that changes it.
    Tracks(Arc<Tracks>),
    /// The next picture in decoding order.
    Video(VideoFrame),
    /// The next of what accompanies the pictures.
    Beside(Beside),
    /// What the camera says of its clocks.
    Report(SenderReport),
}

/// A place to record from.
pub trait Source: Send + Sync + 'static {
    /// What opening it gives.
    type Session: Session;

    /// Connects and starts playing. Takes bounded time.
    fn open(&self) -> impl Future<Output = Result<Self::Session, Failure>> + Send;
}

/// A camera that is playing.
pub trait Session: Send + 'static {
    /// Waits for what comes next; bounded time without a picture is a [`Failure`]. May be cancelled and called again.
    fn next(&mut self) -> impl Future<Output = Result<Received, Failure>> + Send;

    /// Says goodbye to the camera. Takes bounded time.
    fn close(self) -> impl Future<Output = ()> + Send;
}
