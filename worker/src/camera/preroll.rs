//! The frames that come while a camera is connected and not wanted recorded yet, so that a recording that begins now, or
//! that an event wants to have begun a while ago, has everything from its first moment on.
//!
//! Pure. Invariant: the first of them is a picture, if there are any; they are in the order in which they came. What decoding
//! can begin at is known of each: see [`Preroll::key_before`].

use std::collections::VecDeque;

use crate::frame::{Beside, VideoFrame};

/// A picture, or what accompanies pictures.
#[derive(Debug)]
pub(super) enum Held {
    Video(VideoFrame),
    Beside(Beside),
}

impl Held {
    fn bytes(&self) -> usize {
        match self {
            Self::Video(frame) => frame.data.len(),
            Self::Beside(beside) => beside.len(),
        }
    }
}

/// The frames that are held.
#[derive(Debug, Default)]
pub(super) struct Preroll {
    frames: VecDeque<Held>,
    bytes: usize,
    /// How many were taken out at the front so far.
    gone: usize,
    /// Where the keyframes stand, counted from the first frame that ever came.
    keys: VecDeque<usize>,
}

impl Preroll {
    /// Takes the next picture.
    pub(super) fn video(&mut self, frame: VideoFrame) {
        if frame.random_access {
            self.keys.push_back(self.gone + self.frames.len());
        }
        self.bytes += frame.data.len();
        self.frames.push_back(Held::Video(frame));
    }

    /// Takes the next of what accompanies pictures, if there is a picture that it belongs to.
    pub(super) fn beside(&mut self, beside: Beside) {
        if !self.frames.is_empty() {
            self.bytes += beside.len();
            self.frames.push_back(Held::Beside(beside));
        }
    }

    /// Bytes of what is held.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many frames are held.
    pub(super) fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether nothing is held.
    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// The picture at this place; `None` if there is none, or something else.
    pub(super) fn picture(&self, place: usize) -> Option<&VideoFrame> {
        match self.frames.get(place)? {
            Held::Video(frame) => Some(frame),
            Held::Beside(_) => None,
        }
    }

    /// The newest picture.
    pub(super) fn newest(&self) -> Option<&VideoFrame> {
        (0..self.frames.len()).rev().find_map(|place| self.picture(place))
    }

    /// Where the last keyframe before `place` stands.
    pub(super) fn key_before(&self, place: usize) -> Option<usize> {
        let places = self.keys.iter().rev().map(|key| key - self.gone);
        places.into_iter().find(|key| *key < place)
    }

    /// Where the first keyframe behind the first picture stands.
    pub(super) fn second_key(&self) -> Option<usize> {
        self.keys.iter().take(2).map(|key| key - self.gone).find(|key| *key > 0)
    }

    /// Takes out the first `count` frames, and what accompanies them behind.
    pub(super) fn take(&mut self, count: usize) -> Vec<Held> {
        let behind =
            self.frames.iter().skip(count).take_while(|held| matches!(held, Held::Beside(_))).count();
        let taken: Vec<_> = self.frames.drain(..(count + behind).min(self.frames.len())).collect();
        self.bytes -= taken.iter().map(Held::bytes).sum::<usize>();
        self.gone += taken.len();
        while self.keys.front().is_some_and(|key| *key < self.gone) {
            self.keys.pop_front();
        }
        taken
    }

    /// Drops all that is held.
    pub(super) fn clear(&mut self) {
        self.take(self.frames.len());
    }
}
