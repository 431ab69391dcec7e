//! What all archives of a system together hold of each camera, and what is missing of it, by the numbers of the frames.
//!
//! Pure but for [`Footage::read`]. What is missing before the first and after the last frame is not seen here; [`Footage::end`]
//! says where that is.

use std::collections::BTreeMap;
use std::path::Path;

use longwatch_events::id::{CameraId, ServerId};
use longwatch_events::position::Epoch;
use longwatch_events::time::Timestamp;

use super::archive::segments;

/// What one segment holds; at least one frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    /// By whom.
    pub server_id: ServerId,
    /// Under which assignment.
    pub epoch: Epoch,
    /// Time of the first frame.
    pub start: Timestamp,
    /// When the last frame ends.
    pub end: Timestamp,
    /// The numbers of its frames, as they stand in it.
    pub frames: Vec<u64>,
}

/// Frames that no archive has, between two that one has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hole {
    /// How many are missing.
    pub frames: u64,
    /// Time of the frame behind it.
    pub until: Timestamp,
}

/// The cameras' video, over all archives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Footage {
    cameras: BTreeMap<CameraId, Vec<Stretch>>,
}

impl Footage {
    /// Reads the archives, each a server's folder.
    ///
    /// # Errors
    /// If a stored segment cannot be read.
    pub fn read<'a>(archives: impl IntoIterator<Item = &'a Path>) -> anyhow::Result<Self> {
        let mut footage = Self::default();
        for segment in archives.into_iter().flat_map(segments) {
            let Some(report) = segment.inspect()? else { continue };
            let length_ms = i64::try_from(report.duration_ms)?;
            let stretch = Stretch {
                server_id: segment.server_id,
                epoch: segment.epoch,
                start: segment.start,
                end: segment.start.plus_millis(length_ms),
                frames: report.numbers.iter().map(|number| number.frame).collect(),
            };
            footage.add(segment.camera_id, stretch);
        }
        Ok(footage)
    }

    fn add(&mut self, camera_id: CameraId, stretch: Stretch) {
        if !stretch.frames.is_empty() {
            self.cameras.entry(camera_id).or_default().push(stretch);
        }
    }

    /// The cameras of which there is any.
    pub fn cameras(&self) -> impl Iterator<Item = CameraId> {
        self.cameras.keys().copied()
    }

    /// All there is of a camera, in no order that means anything.
    pub fn of(&self, camera_id: CameraId) -> &[Stretch] {
        self.cameras.get(&camera_id).map_or(&[], Vec::as_slice)
    }

    /// When the last frame of a camera ends.
    pub fn end(&self, camera_id: CameraId) -> Option<Timestamp> {
        self.of(camera_id).iter().map(|stretch| stretch.end).max()
    }

    /// What is missing of a camera between its first frame and its last. That two servers have a frame is no fault.
    pub fn holes(&self, camera_id: CameraId) -> Vec<Hole> {
        let mut frames = BTreeMap::new();
        for stretch in self.of(camera_id) {
            frames.extend(stretch.times());
        }
        let behind = frames.iter().skip(1);
        let pairs = frames.keys().zip(behind).filter(|(one, (two, _))| *two - *one > 1);
        pairs.map(|(one, (two, until))| Hole { frames: two - one - 1, until: *until }).collect()
    }

    /// How many frames of a camera are missing in front of those that are from `since` or later.
    pub fn missing_since(&self, camera_id: CameraId, since: Timestamp) -> u64 {
        let holes = self.holes(camera_id).into_iter().filter(|hole| hole.until >= since);
        holes.map(|hole| hole.frames).sum()
    }
}

impl Stretch {
    /// Each frame with its time: all last equally long, which is true of simulated cameras.
    fn times(&self) -> impl Iterator<Item = (u64, Timestamp)> {
        let length_ms = self.end.millis_since(self.start);
        let count = i64::try_from(self.frames.len()).unwrap_or(i64::MAX).max(1);
        (0..)
            .zip(&self.frames)
            .map(move |(at, frame): (i64, &u64)| (*frame, self.start.plus_millis(length_ms * at / count)))
    }
}

#[cfg(test)]
mod tests {
    use longwatch_events::id::CountingIds;

    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    /// A frame lasts 40 ms and frame 0 began at 0.
    fn stretch(ids: &CountingIds, epoch: u64, frames: std::ops::Range<u64>) -> Stretch {
        let time = |frame| at(i64::try_from(frame * 40).unwrap());
        Stretch {
            server_id: ServerId::generate(ids),
            epoch: Epoch(epoch),
            start: time(frames.start),
            end: time(frames.end),
            frames: frames.collect(),
        }
    }

    #[test]
    fn what_no_server_has_is_missing_and_has_its_time() {
        // Given a camera whose servers overlap, and one that nobody recorded for twice five frames,
        let ids = CountingIds::default();
        let (whole, broken) = (CameraId::generate(&ids), CameraId::generate(&ids));
        let mut footage = Footage::default();
        for part in [50..100, 0..60] {
            footage.add(whole, stretch(&ids, 1, part));
        }
        for part in [55..100, 0..50, 105..200, 10..20] {
            footage.add(broken, stretch(&ids, 2, part));
        }
        // then what overlaps hides nothing, and each hole is told with the time of the frame behind it.
        assert_eq!(footage.holes(whole), []);
        let holes = [Hole { frames: 5, until: at(55 * 40) }, Hole { frames: 5, until: at(105 * 40) }];
        assert_eq!(footage.holes(broken), holes);
        let since = [0, 56 * 40, 106 * 40].map(|since| footage.missing_since(broken, at(since)));
        assert_eq!(since, [10, 5, 0]);
        assert_eq!((footage.end(broken), footage.end(CameraId::generate(&ids))), (Some(at(8_000)), None));
        assert_eq!(footage.cameras().count(), 2);
    }

    #[test]
    fn a_segment_without_a_frame_is_nothing() {
        let ids = CountingIds::default();
        let mut footage = Footage::default();
        footage.add(CameraId::generate(&ids), stretch(&ids, 1, 5..5));
        assert_eq!(footage, Footage::default());
    }
}
