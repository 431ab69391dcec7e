//! What happened to a camera, and so explains from then on why video is missing: it was placed, its recording broke off, a
//! server fell silent. Says nothing of whether video is missing.
//!
//! Invariant: what befell one server explains nothing if another one held video at that moment; and that a copy was given
//! to a server explains nothing if that server was recording it already, as at the end of a planned move.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use longwatch_events::fact::Cause;
use longwatch_events::id::ServerId;
use longwatch_events::time::Timestamp;

use super::super::rows::{Place, PlacedRow};
use super::places::{Places, Whereabouts};
use super::{GapCause, Inputs, Span};

/// Something that happened and explains missing video from then on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    pub(super) at: Timestamp,
    pub(super) cause: GapCause,
}

/// When a turn explains nothing, depending on who held video at its moment.
#[derive(Debug, Clone, Copy)]
enum MootIf {
    Never,
    HeldBy(ServerId),
    HeldByOtherThan(ServerId),
}

impl MootIf {
    /// `holders` are the servers that held video.
    fn holds(self, holders: &BTreeMap<ServerId, usize>) -> bool {
        match self {
            Self::Never => false,
            Self::HeldBy(server) => holders.contains_key(&server),
            Self::HeldByOtherThan(server) => holders.len() > usize::from(holders.contains_key(&server)),
        }
    }
}

/// Everything that explains missing video from its moment on, in order. The spans are in the order of their starts.
pub(super) fn of(inputs: &Inputs<'_>, places: &Places, spans: &[Span]) -> Vec<Turn> {
    let known = |at, cause| Turn { at, cause: GapCause::Known(cause) };
    let mut turns = vec![(known(inputs.created_at, Cause::Unplaced), MootIf::Never)];
    turns.extend(of_placements(&inputs.rows.placements));
    turns.extend(inputs.rows.interruptions.iter().map(|row| {
        let cause = places.behind(row.copy, row.cause, row.at);
        (known(row.at, cause), MootIf::HeldByOtherThan(row.server_id))
    }));
    turns.extend(inputs.recorders.iter().filter_map(|recorder| {
        let turn = known(recorder.silent_since?, Cause::ServerSilent);
        Some((turn, MootIf::HeldByOtherThan(recorder.server_id)))
    }));
    turns.sort_by_key(|(turn, _)| turn.at);
    without_moot(turns, spans)
}

fn of_placements(placements: &[PlacedRow]) -> Vec<(Turn, MootIf)> {
    let mut copies = Whereabouts::default();
    let mut turns = Vec::new();
    for row in placements {
        let had_server = copies.has_server(row.copy);
        copies.give(row);
        let (cause, moot_if) = match row.place {
            // The silence that led to it began before it was noticed: what is missing until then is its work too.
            Place::TakenOver(server) => (GapCause::Known(Cause::ServerSilent), MootIf::HeldBy(server)),
            Place::Server(server) if had_server => {
                (GapCause::Known(Cause::Reassigned), MootIf::HeldBy(server))
            }
            Place::Server(server) => (GapCause::Connecting, MootIf::HeldBy(server)),
            Place::Unplanned | Place::Nowhere(_) => match copies.nowhere() {
                Some(cause) => (GapCause::Known(cause), MootIf::Never),
                // Another copy has a server: it is that one's to explain what is missing.
                None => continue,
            },
        };
        turns.push((Turn { at: row.at, cause }, moot_if));
    }
    turns
}

/// The turns that explain anything. Both are walked through once, in order.
fn without_moot(turns: Vec<(Turn, MootIf)>, spans: &[Span]) -> Vec<Turn> {
    let mut holders: BTreeMap<ServerId, usize> = BTreeMap::new();
    let mut ends = BinaryHeap::new();
    let mut to_come = spans.iter().peekable();
    let mut left = Vec::with_capacity(turns.len());
    for (turn, moot_if) in turns {
        while let Some(span) = to_come.next_if(|span| span.start <= turn.at) {
            let (_, server) = span.from;
            *holders.entry(server).or_default() += 1;
            ends.push(Reverse((span.end, server)));
        }
        while let Some(Reverse((end, server))) = ends.peek().copied()
            && end <= turn.at
        {
            ends.pop();
            let held = holders.get_mut(&server).expect("invariant: it was counted when it began");
            *held -= 1;
            if *held == 0 {
                holders.remove(&server);
            }
        }
        if !moot_if.holds(&holders) {
            left.push(turn);
        }
    }
    left
}
