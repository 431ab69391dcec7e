//! Which of a camera's pictures are recorded: those that are [wanted](Wish), with what came before them since a keyframe.
//!
//! Pure. What is not wanted yet and may still become so is held; what nothing can want any more is dropped. Invariants: a
//! recording begins with the last keyframe at or before the moment from which on it is wanted, if that is still held; from
//! there on no picture of it is missing; what is held is not more than the limit.
//!
//! A recording that is not wanted any more is ended at once, if nothing can change that. Otherwise it only pauses: an event
//! that comes now may want what came since, and without a keyframe in between only the same segment can go on with it. It is
//! ended once a keyframe is at hand for whatever may still come.

use longwatch_events::time::Timestamp;

use super::preroll::{Held, Preroll};
use crate::frame::{Beside, VideoFrame};
use crate::wish::{Gate, Wish};

/// What is to be done next.
#[derive(Debug)]
pub(super) enum Act {
    /// Record these; they follow what is recorded, if a recording is open.
    Record(Vec<Held>),
    /// Make all of the open recording durable: before the picture of this media time it is not wanted any more. It may go
    /// on with that picture.
    Pause(i64),
    /// End the open recording before the picture of this media time.
    End(i64),
}

/// What it knows.
#[derive(Debug, Default)]
pub(super) struct Selector {
    gate: Gate,
    preroll: Preroll,
    /// So many of the frames that are held were found not to be wanted.
    looked: usize,
    /// Whether the newest picture is wanted.
    is_on: bool,
}

impl Selector {
    /// Takes the next picture; then [`Self::act`] says what to do.
    pub(super) fn video(&mut self, frame: VideoFrame) {
        self.preroll.video(frame);
    }

    /// Takes the next of what accompanies pictures. Gives it back if it is to be recorded at once, because all before it was.
    pub(super) fn beside(&mut self, beside: Beside, is_open: bool) -> Option<Beside> {
        if is_open && self.preroll.is_empty() {
            return Some(beside);
        }
        self.preroll.beside(beside);
        None
    }

    /// The wish is another one: what is held is looked at again.
    pub(super) const fn look_again(&mut self) {
        self.gate.reset();
        self.looked = 0;
    }

    /// Drops what is held: what comes next does not follow it.
    pub(super) fn clear(&mut self) {
        self.preroll.clear();
        self.looked = 0;
    }

    /// Bytes of what is held.
    pub(super) const fn bytes(&self) -> usize {
        self.preroll.bytes()
    }

    /// Whether the newest picture is wanted, once nothing is left to do.
    pub(super) const fn is_on(&self) -> bool {
        self.is_on
    }

    /// The first picture that is held.
    pub(super) fn first(&self) -> Option<&VideoFrame> {
        self.preroll.picture(0)
    }

    /// What is to be done next; `None`: nothing before the next picture. `is_open`: whether a recording is open, which the
    /// first picture that is held then follows. `time_of` says when a picture was, `limit` is in bytes.
    pub(super) fn act(
        &mut self,
        wish: &Wish,
        is_open: bool,
        limit: usize,
        time_of: impl Fn(&VideoFrame) -> Timestamp,
    ) -> Option<Act> {
        while self.looked < self.preroll.len() {
            let place = self.looked;
            if let Some(picture) = self.preroll.picture(place) {
                let (at, media_time) = (time_of(picture), picture.media_time);
                self.is_on = self.gate.lets_pass(wish, at);
                if self.is_on {
                    return Some(self.release(place, wish.begun(at) == Some(at), is_open));
                }
                if is_open && place == 0 {
                    self.looked = 1;
                    let may_go_on = wish.holds_ms().is_some();
                    return Some(if may_go_on { Act::Pause(media_time) } else { Act::End(media_time) });
                }
            }
            self.looked += 1;
        }
        self.trim(is_open, limit, |picture, newest| match wish.holds_ms() {
            Some(holds_ms) => time_of(newest).millis_since(time_of(picture)) >= holds_ms,
            None => true,
        })
    }

    /// The picture at `place` is wanted; `exactly`: and no moment before it is.
    fn release(&mut self, place: usize, exactly: bool, is_open: bool) -> Act {
        let is_key = self.preroll.picture(place).is_some_and(|picture| picture.random_access);
        let begins_here = is_key && (exactly || place == 0);
        let key = if begins_here { Some(place) } else { self.preroll.key_before(place) };
        // What is open goes on if there is nothing to begin anew with.
        let begins = key.or((is_key && !is_open).then_some(place)).unwrap_or(0);
        if is_open && begins > 0 {
            // The same picture comes again, with no recording open.
            return Act::End(self.drop_front(begins).unwrap_or_default());
        }
        self.drop_front(begins);
        self.looked = 0;
        Act::Record(self.preroll.take(place - begins + 1))
    }

    /// Drops frames at the front; returns the media time of the first one.
    fn drop_front(&mut self, count: usize) -> Option<i64> {
        let first = self.preroll.picture(0).map(|picture| picture.media_time);
        let taken = if count == 0 { 0 } else { self.preroll.take(count).len() };
        self.looked = self.looked.saturating_sub(taken);
        first
    }

    /// Drops what nothing can begin with any more. `is_old`: whether nothing that comes can want what was before a picture,
    /// of which it is told the newest one, too. Says so if the recording that is open cannot go on then.
    fn trim(
        &mut self,
        is_open: bool,
        limit: usize,
        is_old: impl Fn(&VideoFrame, &VideoFrame) -> bool,
    ) -> Option<Act> {
        let mut ended = None;
        while let Some(first) = self.preroll.picture(0) {
            let follows = is_open && ended.is_none();
            let is_too_much = self.preroll.bytes() > limit;
            let second = self.preroll.second_key();
            let key = second.and_then(|place| self.preroll.picture(place)).zip(self.preroll.newest());
            let is_over = key.is_some_and(|(key, newest)| is_old(key, newest));
            let is_useless = !follows && !first.random_access;
            if !(is_too_much || is_over || is_useless) {
                break;
            }
            let dropped = self.drop_front(second.unwrap_or(self.preroll.len()));
            ended = ended.or(dropped.filter(|_| is_open));
        }
        ended.map(Act::End)
    }
}

#[cfg(test)]
mod tests;
