//! What a camera's task lets others see while it runs.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use longwatch_events::fact::Cause;
use longwatch_events::time::Timestamp;

/// What the task is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CameraState {
    /// Opening the camera, or waiting for the first keyframe to be durable.
    Connecting,
    /// Frames reach the disk.
    Recording,
    /// Not recording for this cause; trying again.
    Failing(Cause),
}

/// Counters of one camera since its task began. Written by the task, read by anybody.
#[derive(Debug)]
pub struct Stats {
    bytes: AtomicU64,
    frames: AtomicU64,
    last_frame_us: AtomicI64,
    state: Mutex<CameraState>,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            bytes: AtomicU64::new(0),
            frames: AtomicU64::new(0),
            last_frame_us: AtomicI64::new(i64::MIN),
            state: Mutex::new(CameraState::Connecting),
        }
    }
}

impl Stats {
    /// Bytes of samples received.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Pictures received.
    pub fn frames(&self) -> u64 {
        self.frames.load(Ordering::Relaxed)
    }

    /// When the last picture was received; `None` before the first.
    pub fn last_frame_at(&self) -> Option<Timestamp> {
        let micros = self.last_frame_us.load(Ordering::Relaxed);
        (micros != i64::MIN).then(|| Timestamp::from_micros(micros))
    }

    /// What the task is doing.
    pub fn state(&self) -> CameraState {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_state(&self, state: CameraState) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    pub(super) fn count_picture(&self, bytes: usize, at: Timestamp) {
        self.count_bytes(bytes);
        self.frames.fetch_add(1, Ordering::Relaxed);
        self.last_frame_us.store(at.as_micros(), Ordering::Relaxed);
    }

    pub(super) fn count_bytes(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}
