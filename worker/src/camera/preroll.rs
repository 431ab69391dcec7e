//! The frames that come while a camera is connected and not wanted recorded yet: since the last keyframe, so that a recording
//! that begins now has everything from its first moment on.
//!
//! Invariant: what is held begins with a picture that decoding can begin at, is in the order in which it came, and is not
//! more than the limit.

use crate::frame::{AudioFrame, VideoFrame};

/// A frame of either track.
#[derive(Debug)]
pub(super) enum Held {
    Video(VideoFrame),
    Audio(AudioFrame),
}

/// The frames since the last keyframe.
#[derive(Debug, Default)]
pub(super) struct Preroll {
    frames: Vec<Held>,
    bytes: usize,
}

impl Preroll {
    /// Takes the next picture. If there would be more than `limit` bytes, all are dropped up to the next keyframe.
    pub(super) fn video(&mut self, frame: VideoFrame, limit: usize) {
        if frame.random_access {
            self.clear();
        }
        if frame.random_access || !self.frames.is_empty() {
            self.push(frame.data.len(), Held::Video(frame), limit);
        }
    }

    /// Takes the next audio frame.
    pub(super) fn audio(&mut self, frame: AudioFrame, limit: usize) {
        if !self.frames.is_empty() {
            self.push(frame.data.len(), Held::Audio(frame), limit);
        }
    }

    fn push(&mut self, bytes: usize, frame: Held, limit: usize) {
        if self.bytes + bytes > limit {
            self.clear();
            return;
        }
        self.bytes += bytes;
        self.frames.push(frame);
    }

    /// Bytes of what is held.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Drops what is held.
    pub(super) fn clear(&mut self) {
        self.frames.clear();
        self.bytes = 0;
    }

    /// Gives out what is held.
    pub(super) fn take(&mut self) -> Vec<Held> {
        self.bytes = 0;
        std::mem::take(&mut self.frames)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use bytes::Bytes;
    use longwatch_events::time::Timestamp;

    use super::*;
    use crate::frame::Arrival;

    const ARRIVAL: Arrival = Arrival { at: Timestamp::UNIX_EPOCH, monotonic_us: 0 };

    fn picture(n: i64, random_access: bool) -> VideoFrame {
        VideoFrame { data: Bytes::from_static(b"picture"), media_time: n, random_access, arrival: ARRIVAL }
    }

    fn sound(n: i64) -> AudioFrame {
        let duration = NonZeroU32::new(1).unwrap();
        AudioFrame { data: Bytes::from_static(b"sound"), media_time: n, duration, arrival: ARRIVAL }
    }

    fn held(preroll: &mut Preroll) -> Vec<i64> {
        let time = |held| match held {
            Held::Video(frame) => frame.media_time,
            Held::Audio(frame) => -frame.media_time,
        };
        preroll.take().into_iter().map(time).collect()
    }

    #[test]
    fn it_holds_everything_since_the_last_keyframe() {
        let mut preroll = Preroll::default();
        preroll.audio(sound(1), 1_000);
        preroll.video(picture(2, false), 1_000);
        assert!(held(&mut preroll).is_empty());
        preroll.video(picture(3, true), 1_000);
        preroll.video(picture(4, true), 1_000);
        preroll.audio(sound(5), 1_000);
        preroll.video(picture(6, false), 1_000);
        assert_eq!(preroll.bytes(), 7 + 5 + 7);
        assert_eq!(held(&mut preroll), [4, -5, 6]);
        assert!(preroll.bytes() == 0 && held(&mut preroll).is_empty());
    }

    #[test]
    fn too_much_is_dropped_up_to_the_next_keyframe() {
        let mut preroll = Preroll::default();
        preroll.video(picture(1, true), 20);
        preroll.video(picture(2, false), 20);
        preroll.video(picture(3, false), 20);
        preroll.video(picture(4, false), 20);
        assert_eq!(preroll.bytes(), 0);
        preroll.video(picture(5, true), 20);
        assert_eq!(held(&mut preroll), [5]);
    }
}
