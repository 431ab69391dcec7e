//! When a camera had no server, and why: by copy, and all in all. Says nothing of servers that had it and did not record.

use std::collections::BTreeMap;

use longwatch_events::fact::Cause;
use longwatch_events::reason::UnplacedReason;
use longwatch_events::time::Timestamp;

use super::super::rows::{GapRow, Place, PlacedRow};
use super::SLACK_US;

/// Why a copy at this place is not recorded, if the place says so: if it is no server.
const fn nowhere(place: Place) -> Option<Cause> {
    match place {
        Place::Server(_) | Place::TakenOver(_) => None,
        Place::Nowhere(UnplacedReason::Disabled) => Some(Cause::Disabled),
        Place::Unplanned
        | Place::Nowhere(
            UnplacedReason::NoServer
            | UnplacedReason::NoCapacity
            | UnplacedReason::NoBitrate
            | UnplacedReason::NoTakeover
            | UnplacedReason::NoLabels
            | UnplacedReason::NoDisk
            | UnplacedReason::NoOtherServer
            | UnplacedReason::Preempted,
        ) => Some(Cause::Unplaced),
    }
}

/// Where the copies of a camera are, as one place after the other is given.
#[derive(Debug, Default)]
pub(super) struct Whereabouts {
    nowhere: BTreeMap<u8, Option<Cause>>,
    placed: usize,
}

impl Whereabouts {
    /// The next place is given.
    pub(super) fn give(&mut self, row: &PlacedRow) {
        let why = nowhere(row.place);
        let before = self.nowhere.insert(row.copy, why);
        self.placed += usize::from(why.is_none());
        self.placed -= usize::from(before == Some(None));
    }

    /// Whether the copy has a server.
    pub(super) fn has_server(&self, copy: u8) -> bool {
        self.nowhere.get(&copy) == Some(&None)
    }

    /// Why the camera has no server, if it has none: the word of its first copy, which it has always.
    pub(super) fn nowhere(&self) -> Option<Cause> {
        let of_first = self.nowhere.get(&0).copied().flatten();
        (self.placed == 0).then(|| of_first.unwrap_or(Cause::Unplaced))
    }
}

/// When each copy had no server, and why.
#[derive(Debug)]
pub(super) struct Places(BTreeMap<u8, Vec<(Timestamp, Option<Cause>)>>);

impl Places {
    pub(super) fn of(placements: &[PlacedRow]) -> Self {
        let mut copies: BTreeMap<u8, Vec<_>> = BTreeMap::new();
        for row in placements {
            copies.entry(row.copy).or_default().push((row.at, nowhere(row.place)));
        }
        for places in copies.values_mut() {
            places.sort_by_key(|(at, _)| *at);
        }
        Self(copies)
    }

    fn of_copy(&self, copy: u8) -> &[(Timestamp, Option<Cause>)] {
        self.0.get(&copy).map_or(&[], Vec::as_slice)
    }

    /// Why the copy had no server at `at`, if it had none.
    fn nowhere_at(&self, copy: u8, at: Timestamp) -> Option<Cause> {
        let places = self.of_copy(copy);
        let until_then = places.partition_point(|(since, _)| *since <= at);
        places[..until_then].last().and_then(|(_, why)| *why)
    }

    /// Why the copy came to have no server between `from` and `to`, both included, if it did.
    fn nowhere_between(&self, copy: u8, from: Timestamp, to: Timestamp) -> Option<Cause> {
        let places = self.of_copy(copy);
        let first = places.partition_point(|(since, _)| *since < from);
        places[first..].iter().take_while(|(since, _)| *since <= to).find_map(|(_, why)| *why)
    }

    /// What an interruption of the copy at `at` is put down to, of which its worker says `cause`.
    pub(super) fn behind(&self, copy: u8, cause: Cause, at: Timestamp) -> Cause {
        if cause == Cause::Reassigned {
            // The server's clock may be behind that of the log: the order seems to come after it was obeyed.
            let soon = || self.nowhere_between(copy, at, at.plus_micros(SLACK_US));
            return self.nowhere_at(copy, at).or_else(soon).unwrap_or(cause);
        }
        if cause == Cause::WorkerStopped { self.nowhere_at(copy, at).unwrap_or(cause) } else { cause }
    }

    /// Whether a gap fact says less than the plans of its time: it was told by a worker that had been told to stop.
    pub(super) fn tell_more_than(&self, gap: &GapRow) -> bool {
        gap.cause == Cause::Reassigned
            && self.nowhere_between(gap.copy, gap.start.plus_micros(-SLACK_US), gap.end).is_some()
    }
}
