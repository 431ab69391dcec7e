//! A camera's timeline: what there is, what is missing and why. Pure: the answer follows from rows and arguments.
//!
//! It is a ledger. Within the scheduled time, from the camera's creation (or `from`) to now (or `to`), every moment is
//! covered by video or belongs to exactly one gap with a cause; nothing is left out and nothing counted twice.
//!
//! Where a gap's cause comes from, in this order: a gap fact of the worker that resumed; otherwise the last thing that
//! happened since the video ended (the recording broke off, the camera was placed, unplaced, switched off, its server
//! fell silent); for a gap that reaches up to now, what the camera's state says; otherwise `unknown`.
//!
//! Video that was recorded and is deleted is missing like any other, and why it is needs no guess: it has the cause
//! `retention`, `storage_full` or `spool_full`, unless another server still holds that moment. So has video whose file its
//! server does not find any more: `segment_missing`. What explains other gaps is found as if it were still there.
//!
//! Several servers may record at once: those of a camera's copies, and in a planned move the old one and the new one. A
//! moment is covered if any of them holds it. What befell one of them explains nothing while another held video.
//!
//! A worker that stops because it was told to does not know why it was told. Where it says `reassigned` of a camera
//! that no server has, the plan's word counts: `disabled` or `unplaced`.
//!
//! A camera that flaps every few seconds has hundreds of thousands of gaps in a month. Everything is sorted once and then
//! walked or searched: n rows cost n log n.

mod deleted;
mod places;
mod turns;

use std::collections::{BTreeMap, BinaryHeap};
use std::fmt;

use longwatch_events::fact::{Cause, Damage};
use longwatch_events::id::{BootId, ServerId};
use longwatch_events::position::Epoch;
use longwatch_events::time::Timestamp;

use super::Range;
use super::rows::{Condition, GapRow, SegmentRow, StatusRow, TimelineRows};
use places::Places;
use turns::Turn;

/// Two segments of one recording whose edges are closer than this touch: the wall-clock time of a frame is slewed, so
/// the end of one and the start of the next differ by fractions of a frame's duration.
pub(crate) const TOUCH_US: i64 = 100_000;
/// How far clocks of a server and of the log may differ before an event is no longer taken for the cause of a gap that
/// begins at the same moment; and the longest stretch that takes its neighbour's cause for want of its own.
const SLACK_US: i64 = 2_000_000;

/// What a timeline follows from.
#[derive(Debug, Clone)]
pub struct Inputs<'a> {
    /// The range that is asked for.
    pub range: Range,
    /// The present.
    pub now: Timestamp,
    /// When the camera was added.
    pub created_at: Timestamp,
    /// Who is to record it now: the server of each copy, and the one that is about to take it over.
    pub recorders: Vec<Recorder>,
    /// What the read model knows.
    pub rows: &'a TimelineRows,
}

/// A server that is to record the camera now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recorder {
    /// Under which assignment.
    pub epoch: Epoch,
    /// Who.
    pub server_id: ServerId,
    /// If it has not been heard of within the lease: when it was heard of last.
    pub silent_since: Option<Timestamp>,
    /// The run of its worker that was heard of last: what a former run was recording, nobody records now.
    pub boot_id: Option<BootId>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeline {
    /// Those that overlap the range, whole, by start; also those whose files are missing.
    pub segments: Vec<SegmentRow>,
    /// What is missing within the scheduled time, cut to it, in order, never touching one of the same cause.
    pub gaps: Vec<Gap>,
    /// Where more than one segment holds video, in order.
    pub overlaps: Vec<Range>,
    /// Video that is durable although its segment is not reported yet; of several recordings that which goes back furthest.
    pub recording: Option<Open>,
}

/// Missing video.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// Its beginning.
    pub start: Timestamp,
    /// Its end; later than `start`.
    pub end: Timestamp,
    /// Why.
    pub cause: GapCause,
}

/// Why video is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum GapCause {
    /// For this reason.
    Known(Cause),
    /// A server had the camera and was at it; its first frame had not come yet.
    Connecting,
    /// It was recorded, and deleted as its settings want it, or because it was more than they allow.
    Retention,
    /// It was recorded, and deleted because its volume had no room for newer video.
    StorageFull,
    /// It was recorded, and deleted while it waited for an object store that did not take it, to make room for newer video.
    SpoolFull,
    /// It was recorded, and its file is not there any more, though nobody reported that it was deleted.
    SegmentMissing,
    /// Nothing was reported.
    Unknown,
}

impl Inputs<'_> {
    /// The one that is to record now under this assignment.
    fn recorder(&self, (epoch, server_id): (Epoch, ServerId)) -> Option<&Recorder> {
        self.recorders.iter().find(|recorder| (recorder.epoch, recorder.server_id) == (epoch, server_id))
    }
}

impl GapCause {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Known(cause) => cause.as_str(),
            Self::Connecting => "connecting",
            Self::Retention => "retention",
            Self::StorageFull => "storage_full",
            Self::SegmentMissing => "segment_missing",
            Self::SpoolFull => "spool_full",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for GapCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Video whose segment is still open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open {
    /// Where the last segment ended, or the first keyframe.
    pub since: Timestamp,
    /// Under which assignment.
    pub epoch: Epoch,
    /// Who records it.
    pub server_id: ServerId,
}

/// A stretch of video.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: Timestamp,
    end: Timestamp,
    from: (Epoch, ServerId),
    /// Set if it is gone: why.
    gone: Option<GapCause>,
}

/// A stretch that gap facts speak of, with the cause they give.
#[derive(Debug, Clone, Copy)]
struct Told {
    range: Range,
    cause: Cause,
}

/// Draws up the ledger.
pub fn draw_up(inputs: &Inputs<'_>) -> Timeline {
    let Range { from, to } = inputs.range;
    let segments: Vec<_> =
        inputs.rows.segments.iter().filter(|s| s.end > from && s.start < to).cloned().collect();
    let mut spans: Vec<_> = inputs.rows.segments.iter().map(span_of).collect();
    let (tails, recording) = tails(inputs);
    spans.extend(tails);
    spans.extend(inputs.rows.deletions.iter().map(deleted::span_of));
    spans.sort_by_key(|span| (span.start, span.end));
    bridge(&mut spans);

    let scheduled = Range { from: from.max(inputs.created_at), to: to.min(inputs.now) };
    let places = Places::of(&inputs.rows.placements);
    let turns = turns::of(inputs, &places, &spans);
    let held = union(&spans);
    let facts = inputs.rows.gaps.iter().filter(|gap| !places.tell_more_than(gap)).copied().collect();
    let told = told(facts);
    let never_held = holes(&held, scheduled, inputs.created_at)
        .flat_map(|hole| {
            let now = if hole.to == inputs.now { current_cause(inputs) } else { GapCause::Unknown };
            explain(hole, told_within(&told, hole), turns_for(&turns, hole), now)
        })
        .collect();
    let gaps = deleted::among(never_held, &spans);
    let gaps = gaps.into_iter().filter_map(|gap| clip(gap, scheduled)).collect();
    Timeline { overlaps: overlaps(&segments, inputs.range), segments, gaps, recording }
}

fn span_of(segment: &SegmentRow) -> Span {
    let gone = (segment.damage == Some(Damage::Missing)).then_some(GapCause::SegmentMissing);
    Span { start: segment.start, end: segment.end, from: (segment.epoch, segment.server_id), gone }
}

/// Durable video whose segment is not reported: of any epoch up to where its worker said it ended; of a current epoch,
/// while it is being recorded, up to now or to when its server was last heard of.
fn tails(inputs: &Inputs<'_>) -> (Vec<Span>, Option<Open>) {
    let mut spans = Vec::new();
    let mut recording: Option<Open> = None;
    let mut reported_up_to = BTreeMap::new();
    let stored = inputs.rows.segments.iter().map(|row| (row.epoch, row.server_id, row.end));
    let deleted = inputs.rows.deletions.iter().map(|row| (row.epoch, row.server_id, row.end));
    for (epoch, server_id, end) in stored.chain(deleted) {
        let last = reported_up_to.entry((epoch, server_id)).or_insert(end);
        *last = end.max(*last);
    }
    for status in &inputs.rows.statuses {
        let Some(open) = status.open else { continue };
        let from = (status.epoch, status.server_id);
        let live = inputs.recorder(from).filter(|recorder| {
            status.condition == Condition::Recording && !status.is_of_former_run(recorder.boot_id)
        });
        let end = match (open.until, live) {
            (Some(until), _) => until,
            (None, Some(live)) => live.silent_since.map_or(inputs.now, |silent| silent.min(inputs.now)),
            (None, None) => continue,
        };
        let start = reported_up_to.get(&from).map_or(open.since, |reported| open.since.max(*reported));
        if start < end {
            spans.push(Span { start, end, from, gone: None });
        }
        let is_first = recording.is_none_or(|first| start < first.since);
        if live.is_some_and(|live| live.silent_since.is_none()) && is_first {
            recording = Some(Open { since: start, epoch: status.epoch, server_id: status.server_id });
        }
    }
    (spans, recording)
}

/// Lengthens spans of one recording whose edges nearly touch until they do: they leave no hole. The spans are in the order
/// of their starts.
fn bridge(spans: &mut [Span]) {
    let mut last: BTreeMap<_, usize> = BTreeMap::new();
    for index in 0..spans.len() {
        let Span { start, end, from, .. } = spans[index];
        let before = last.get(&from).copied();
        if let Some(before) = before
            && spans[before].end < start
            && start <= spans[before].end.plus_micros(TOUCH_US)
        {
            spans[before].end = start;
        }
        if before.is_none_or(|before| spans[before].end < end) {
            last.insert(from, index);
        }
    }
}

/// The stretches covered by at least one span. The spans are in the order of their starts.
fn union(spans: &[Span]) -> Vec<Range> {
    let mut covered: Vec<Range> = Vec::new();
    for span in spans {
        match covered.last_mut() {
            Some(last) if span.start <= last.to => last.to = last.to.max(span.end),
            Some(_) | None => covered.push(Range { from: span.start, to: span.end }),
        }
    }
    covered
}

/// The stretches not covered, from the end of the last video before the schedule (so that what explains a hole that the
/// range begins in is not cut off) to the schedule's end.
fn holes(covered: &[Range], scheduled: Range, created_at: Timestamp) -> impl Iterator<Item = Range> {
    let before = covered.iter().map(|c| c.to).filter(|end| *end <= scheduled.from).max();
    let mut at = before.map_or(created_at, |end| end.max(created_at)).min(scheduled.from);
    let mut holes = Vec::new();
    for stretch in covered {
        if stretch.from > at {
            holes.push(Range { from: at, to: stretch.from.min(scheduled.to) });
        }
        at = at.max(stretch.to);
    }
    holes.push(Range { from: at, to: scheduled.to });
    holes.into_iter().filter(|hole| hole.from < hole.to)
}

/// Why the camera is not being recorded now, as far as its state tells: what is known of the newest of its assignments
/// of which anything is.
fn current_cause(inputs: &Inputs<'_>) -> GapCause {
    if inputs.recorders.is_empty() {
        return GapCause::Known(Cause::Unplaced);
    }
    let newest = inputs.recorders.iter().max_by_key(|recorder| {
        let cause = cause_of(inputs, recorder);
        (cause != GapCause::Connecting, recorder.epoch, recorder.server_id)
    });
    newest.map_or(GapCause::Unknown, |recorder| cause_of(inputs, recorder))
}

/// Why this server is not recording the camera now, as far as is known.
fn cause_of(inputs: &Inputs<'_>, recorder: &Recorder) -> GapCause {
    if recorder.silent_since.is_some() {
        return GapCause::Known(Cause::ServerSilent);
    }
    let is_its_own =
        |status: &&StatusRow| (status.epoch, status.server_id) == (recorder.epoch, recorder.server_id);
    let status = inputs.rows.statuses.iter().find(is_its_own);
    match status.map(|status| (&status.condition, status.is_of_former_run(recorder.boot_id))) {
        Some((Condition::Recording, true)) => GapCause::Known(Cause::WorkerRestarted),
        Some((Condition::Offline { cause, .. }, _)) => GapCause::Known(*cause),
        Some((Condition::Connecting | Condition::Recording, _)) | None => GapCause::Connecting,
    }
}

/// What the gap facts say, in order and without overlap: of several that speak of one moment the newest assignment's
/// counts, and of one assignment's the last one.
fn told(mut facts: Vec<GapRow>) -> Vec<Told> {
    facts.sort_by_key(|gap| gap.start);
    let mut edges: Vec<_> = facts.iter().flat_map(|gap| [gap.start, gap.end]).collect();
    edges.sort_unstable();
    edges.dedup();
    let mut told = Vec::new();
    let mut speaking = BinaryHeap::new();
    let mut to_come = facts.iter().peekable();
    for edge in edges.windows(2) {
        let (from, to) = (edge[0], edge[1]);
        while let Some(gap) = to_come.next_if(|gap| gap.start <= from) {
            speaking.push((gap.epoch, gap.start, gap.end, gap.cause));
        }
        while speaking.peek().is_some_and(|(_, _, end, _)| *end <= from) {
            speaking.pop();
        }
        if let Some((.., cause)) = speaking.peek() {
            told.push(Told { range: Range { from, to }, cause: *cause });
        }
    }
    told
}

/// What is told of a part of the hole.
fn told_within(told: &[Told], hole: Range) -> &[Told] {
    let first = told.partition_point(|told| told.range.to <= hole.from);
    let told = &told[first..];
    &told[..told.partition_point(|told| told.range.from < hole.to)]
}

/// The turns that can explain the hole: those within it, and those at the end of the video before it.
fn turns_for(turns: &[Turn], hole: Range) -> &[Turn] {
    let since_then = hole.from.plus_micros(-SLACK_US);
    let turns = &turns[turns.partition_point(|turn| turn.at < since_then)..];
    &turns[..turns.partition_point(|turn| turn.at < hole.to)]
}

/// Cuts a hole into gaps of one cause each. They partition it. What nothing explains has the cause `otherwise`.
fn explain(hole: Range, told: &[Told], turns: &[Turn], otherwise: GapCause) -> Vec<Gap> {
    let mut cuts: Vec<_> = told.iter().flat_map(|told| [told.range.from, told.range.to]).collect();
    cuts.extend(turns.iter().map(|turn| turn.at));
    cuts.retain(|cut| hole.from < *cut && *cut < hole.to);
    cuts.extend([hole.from, hole.to]);
    cuts.sort_unstable();
    cuts.dedup();
    let pieces = cuts.windows(2).map(|edge| {
        let (start, end) = (edge[0], edge[1]);
        Gap { start, end, cause: cause_at(start, told, turns) }
    });
    let mut pieces = adopt_slivers(pieces.collect());
    for piece in pieces.iter_mut().filter(|piece| piece.cause == GapCause::Unknown) {
        piece.cause = otherwise;
    }
    merge(pieces)
}

/// The cause that holds from `at` on until something else is told or happens.
fn cause_at(at: Timestamp, told: &[Told], turns: &[Turn]) -> GapCause {
    let told_until_then = &told[..told.partition_point(|told| told.range.from <= at)];
    if let Some(told) = told_until_then.last().filter(|told| at < told.range.to) {
        return GapCause::Known(told.cause);
    }
    let until_then = turns.partition_point(|turn| turn.at <= at);
    turns[..until_then].last().map_or(GapCause::Unknown, |turn| turn.cause)
}

/// A short stretch without a cause of its own lies between two clocks: it takes the cause of what follows it, or else of
/// what went before. One that ends in a silence, however long, is the beginning of that silence: nobody could say so.
fn adopt_slivers(mut pieces: Vec<Gap>) -> Vec<Gap> {
    for index in (0..pieces.len()).rev() {
        let piece = pieces[index];
        if piece.cause != GapCause::Unknown {
            continue;
        }
        let next = pieces.get(index + 1).map(|gap| gap.cause);
        let previous = index.checked_sub(1).and_then(|index| pieces.get(index)).map(|gap| gap.cause);
        let is_short = piece.end.micros_since(piece.start) <= SLACK_US;
        if let Some(cause) = next.or(previous)
            && (is_short || next == Some(GapCause::Known(Cause::ServerSilent)))
        {
            pieces[index].cause = cause;
        }
    }
    pieces
}

fn merge(pieces: Vec<Gap>) -> Vec<Gap> {
    let mut merged: Vec<Gap> = Vec::with_capacity(pieces.len());
    for piece in pieces {
        match merged.last_mut() {
            Some(last) if last.cause == piece.cause => last.end = piece.end,
            Some(_) | None => merged.push(piece),
        }
    }
    merged
}

fn clip(gap: Gap, range: Range) -> Option<Gap> {
    let clipped = Gap { start: gap.start.max(range.from), end: gap.end.min(range.to), ..gap };
    (clipped.start < clipped.end).then_some(clipped)
}

/// Where at least two segments hold video that is there, apart from edges of one recording that nearly touch.
fn overlaps(segments: &[SegmentRow], range: Range) -> Vec<Range> {
    let mut overlaps: Vec<Range> = Vec::new();
    let mut longest: Option<Span> = None;
    for span in segments.iter().map(span_of).filter(|span| span.gone.is_none()) {
        if let Some(before) = longest {
            let both = Range { from: span.start.max(range.from), to: span.end.min(before.end).min(range.to) };
            let tolerated = if before.from == span.from { TOUCH_US } else { 0 };
            if both.to.micros_since(both.from) > tolerated {
                match overlaps.last_mut() {
                    Some(last) if both.from <= last.to => last.to = last.to.max(both.to),
                    Some(_) | None => overlaps.push(both),
                }
            }
        }
        if longest.is_none_or(|before| span.end > before.end) {
            longest = Some(span);
        }
    }
    overlaps
}

#[cfg(test)]
mod tests;
