//! Which segments are played. Several servers may have recorded one moment: those of a camera's copies, both servers of a planned
//! move, and one that did not know yet that it had been taken for lost.
//!
//! Invariants: every moment that a playable segment holds is played, and by one of them only; which one does not depend on the order
//! in which they come: a sound one before one that is corrupt, then the higher epoch, then the one that goes on longer, then the
//! lower server id. A segment is played from its beginning, for only there it surely has a keyframe: where one ends and another
//! that began earlier goes on, what both hold is played twice.

use std::cmp::Reverse;

use longwatch_events::fact::Damage;
use longwatch_events::time::Timestamp;

use crate::read_model::Range;
use crate::read_model::rows::SegmentRow;
use crate::read_model::timeline::TOUCH_US;

/// A segment, or its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece<'a> {
    /// Of which segment.
    pub segment: &'a SegmentRow,
    /// Where another goes on; `None`: it is played to its end.
    pub until: Option<Timestamp>,
}

impl Piece<'_> {
    /// Where it ends.
    pub fn end(&self) -> Timestamp {
        self.until.unwrap_or(self.segment.end)
    }

    /// Whether `next` goes on where this ends, from the same recording: a player need not begin anew there.
    pub fn goes_on_in(&self, next: &Piece<'_>) -> bool {
        let (one, other) = (self.segment, next.segment);
        let is_same_recording = (one.server_id, one.epoch) == (other.server_id, other.epoch);
        let has_same_tracks = (&one.video, &one.audio) == (&other.video, &other.audio);
        let apart_us = other.start.micros_since(self.end());
        is_same_recording && has_same_tracks && apart_us.saturating_abs() <= TOUCH_US
    }
}

/// Of `segments` those that are played between `range.from` and `range.to`, by time. Missing ones are none of them.
pub fn cover<'a>(segments: impl IntoIterator<Item = &'a SegmentRow>, range: Range) -> Vec<Piece<'a>> {
    let is_there =
        |segment: &&SegmentRow| !matches!(segment.damage, Some(Damage::Missing | Damage::Unreadable));
    let overlaps = |segment: &&SegmentRow| segment.end > range.from && segment.start < range.to;
    let mut segments: Vec<_> = segments.into_iter().filter(is_there).filter(overlaps).collect();
    segments.sort_by_key(|segment| (segment.start, rank(segment)));
    let mut pieces: Vec<Piece<'a>> = Vec::new();
    // Those that have begun, and may go on behind the piece before; the others wait behind them, by time.
    let (mut begun, mut waiting) = (Vec::new(), segments.as_slice());
    let mut played_to = range.from;
    while played_to < range.to {
        let begins = waiting.partition_point(|segment| touches(segment.start, played_to));
        begun.extend_from_slice(&waiting[..begins]);
        waiting = &waiting[begins..];
        // What touches the end of it adds nothing.
        begun.retain(|segment: &&SegmentRow| segment.end.micros_since(played_to) > TOUCH_US);
        let Some(segment) = begun.iter().copied().max_by_key(|segment| rank(segment)) else {
            let Some(next) = waiting.first() else { break };
            played_to = next.start;
            continue;
        };
        let until = taken_over(segment, waiting);
        let piece = Piece { segment, until };
        pieces.push(piece);
        played_to = piece.end();
    }
    pieces
}

/// By which one of several is chosen: the greatest.
fn rank(segment: &SegmentRow) -> impl Ord + use<> {
    (segment.damage.is_none(), segment.epoch, segment.end, Reverse(segment.server_id))
}

/// Where one of those that begin later takes over from `segment`.
fn taken_over(segment: &SegmentRow, later: &[&SegmentRow]) -> Option<Timestamp> {
    let before_its_end = later.iter().take_while(|other| segment.end.micros_since(other.start) > TOUCH_US);
    let mut better =
        before_its_end.filter(|other| rank(other) > rank(segment) && !is_of_same(segment, other));
    better.next().map(|other| other.start)
}

/// What one recording holds twice, it holds once too often: then the one that goes on longer is no reason to stop.
fn is_of_same(one: &SegmentRow, other: &SegmentRow) -> bool {
    (one.server_id, one.epoch) == (other.server_id, other.epoch)
}

fn touches(start: Timestamp, played_to: Timestamp) -> bool {
    start.micros_since(played_to) <= TOUCH_US
}

/// Of `ranges` the parts that no piece holds.
pub fn not_played(ranges: impl IntoIterator<Item = Range>, pieces: &[Piece<'_>]) -> Vec<Range> {
    let mut left = Vec::new();
    for Range { mut from, to } in ranges {
        // Pieces end one after the other.
        let first = pieces.partition_point(|piece| piece.end() <= from);
        for piece in pieces[first..].iter().take_while(|piece| piece.segment.start < to) {
            if piece.segment.start.micros_since(from) > TOUCH_US {
                left.push(Range { from, to: piece.segment.start });
            }
            from = from.max(piece.end());
        }
        if to.micros_since(from) > TOUCH_US {
            left.push(Range { from, to });
        }
    }
    left
}

#[cfg(test)]
pub(super) mod tests;
