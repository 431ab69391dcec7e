//! What the loss of a server costs, and what bringing it back and emptying it costs: on a whole system on this machine,
//! with simulated cameras.
//!
//! [`measure`] does it and gathers, [`report`] writes it down. Every moment is one that the log stored or a worker reported;
//! lost video is counted by the frame numbers in the servers' archives.

pub mod measure;
pub mod report;

use std::collections::BTreeSet;
use std::time::Duration;

use longwatch_events::reason::FinishReason;

use crate::system::moves::{self, How, Move};

/// Keyframe distance of the simulated cameras.
pub const GOP_MS: u64 = 2_000;
/// Frame distance of the simulated cameras.
pub const FRAME_MS: u64 = 40;

/// One run.
#[derive(Debug)]
pub struct Measured {
    /// From the first request that added a camera until all were recorded.
    pub all_recorded: Duration,
    /// The server that was killed.
    pub victim: String,
    /// Each of its cameras.
    pub cameras: Vec<Camera>,
    /// How many cameras the other servers had.
    pub others: usize,
    /// Frames that are missing of those, until the server was started again.
    pub others_lost_frames: u64,
    /// It was started again, and its cameras went home.
    pub failback: Phase,
    /// From its start until it was online; `None`: it never was.
    pub online: Option<Duration>,
    /// It was emptied.
    pub drain: Phase,
}

/// One camera of the server that was killed. All times are milliseconds after the kill; `None`: that has not happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Camera {
    /// Its name.
    pub name: String,
    /// Who took it over.
    pub server: Option<String>,
    /// End of the last frame that the dead server's archive has: before the kill, so negative.
    pub last_frame_ms: Option<i64>,
    /// `ServerLost` stood in the log.
    pub detected_ms: Option<i64>,
    /// Its new assignment stood in the log.
    pub planned_ms: Option<i64>,
    /// The new server's desired set stood in the log.
    pub told_ms: Option<i64>,
    /// It had answered PLAY.
    pub connected_ms: Option<i64>,
    /// Time of the first keyframe that the new server has.
    pub first_keyframe_ms: Option<i64>,
    /// The fragment with it had been flushed to the disk.
    pub first_durable_ms: Option<i64>,
    /// Video that neither server has: a length.
    pub lost_ms: Option<i64>,
}

/// Planned moves of all of a server's cameras.
#[derive(Debug)]
pub struct Phase {
    /// How many cameras were to move.
    pub cameras: usize,
    /// From when it was asked for until all had moved; `None`: they had not in time.
    pub took: Option<Duration>,
    /// The moves, by the log.
    pub moves: Vec<Move>,
    /// Frames that are missing meanwhile, of all cameras of the system.
    pub lost_frames: u64,
    /// Cameras of the system whose video ends before the phase did.
    pub ended_early: usize,
}

impl Measured {
    /// How many cameras are recorded by another server.
    pub fn taken_over(&self) -> usize {
        self.cameras.iter().filter(|camera| camera.first_durable_ms.is_some()).count()
    }

    /// Whether everything that was to happen has happened, whatever the time it took, and no more is lost than must be.
    pub fn is_complete(&self) -> bool {
        self.taken_over() == self.cameras.len()
            && self.others_lost_frames == 0
            && self.failback.is_complete()
            && self.drain.is_complete()
    }
}

impl Phase {
    /// Whether every camera moved, by its new server's first keyframe, and no frame is missing.
    pub fn is_complete(&self) -> bool {
        self.took.is_some() && self.has_moved_all() && self.lost_frames == 0 && self.ended_early == 0
    }

    /// Whether each camera moved once, and each move ended by the new server's first keyframe.
    pub fn has_moved_all(&self) -> bool {
        let moved: BTreeSet<_> = self.moves.iter().map(|one| one.camera_id).collect();
        let as_planned = BTreeSet::from([How::Finished(FinishReason::FirstKeyframe)]);
        moved.len() == self.cameras
            && self.moves.len() == self.cameras
            && moves::ends(&self.moves) == Some(as_planned)
    }
}
