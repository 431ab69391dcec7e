//! Which segment is uploaded next, and when.
//!
//! Pure: time and randomness are given. Always the oldest that waits, whichever camera it is of: it is what goes first when
//! there is no more room to wait in, and what was uploaded of it by then is not lost.
//!
//! One segment that fails waits by itself ([`SEGMENT_RETRY`]) and holds up no other. When [`TOLERATED`] attempts in a row
//! failed, whichever segments they were of, it is the store: from then on one attempt at a time asks how it is, and waits
//! in between ([`STORE_RETRY`]). The first that works ends that, and all go on at once.
//!
//! Invariants: no more than so many are under way; none is twice.

use std::collections::BTreeMap;
use std::time::Duration;

use longwatch_events::event::{Spool, StoreRetention, Upload};
use longwatch_events::hash::Sha256;
use longwatch_events::time::Timestamp;

use crate::archive::layout::SegmentName;
use crate::retry;

/// Between two attempts at one segment, at first and at most.
pub const SEGMENT_RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(60));
/// Between two attempts at a store that does not work, at first and at most.
pub const STORE_RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Attempts that may fail one after the other before it is the store.
pub const TOLERATED: u32 = 4;
/// A segment in whose place another object lies is tried again after this: somebody may have moved that away.
pub const CONFLICT_RETRY: Duration = Duration::from_secs(10 * 60);
/// What waits longer than that after its video ended is behind, in seconds.
pub const BEHIND_S: u64 = 5 * 60;

/// A segment that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// Which.
    pub name: SegmentName,
    /// Time at which its last frame ends.
    pub end: Timestamp,
    /// Size of its file.
    pub bytes: u64,
    /// What its hash was when it was stored, if that is known.
    pub sha256: Option<Sha256>,
}

/// What became of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is there.
    Uploaded,
    /// It does not wait any more: its file is gone.
    Gone,
    /// Its file could not be read, or somebody else was at it.
    Unreadable,
    /// Another object is in its place.
    Conflict,
    /// The store did not take it.
    Failed(Trouble),
}

/// What is the matter with a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// It does not answer, or says that it cannot.
    Unreachable,
    /// It says no.
    Refused,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Begin with this one.
    Begin(Waiting),
    /// Nothing before this time, unless something happens.
    At(Duration),
    /// Nothing, unless something happens.
    Nothing,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    waiting: Waiting,
    failures: u32,
    /// Not to be tried before.
    not_before: Duration,
    under_way: bool,
    conflicts: bool,
}

/// The store as it is known.
#[derive(Debug, Clone, Copy, Default)]
struct Store {
    /// Attempts that failed since one worked.
    failures: u32,
    /// What is the matter, and when to ask again.
    away: Option<(Trouble, Duration)>,
}

/// All that waits.
#[derive(Debug)]
pub struct Uploads {
    at_once: usize,
    entries: BTreeMap<(Timestamp, SegmentName), Entry>,
    under_way: usize,
    conflicts: usize,
    bytes: u64,
    store: Store,
}

const fn key(name: &SegmentName) -> (Timestamp, SegmentName) {
    (name.start, *name)
}

impl Uploads {
    /// Nothing waits yet; `at_once` may be under way, at least one.
    pub fn new(at_once: usize) -> Self {
        Self {
            at_once: at_once.max(1),
            entries: BTreeMap::new(),
            under_way: 0,
            conflicts: 0,
            bytes: 0,
            store: Store::default(),
        }
    }

    /// This one waits, too. One that did before goes on waiting as it did.
    pub fn add(&mut self, waiting: Waiting) {
        let entry =
            Entry { waiting, failures: 0, not_before: Duration::ZERO, under_way: false, conflicts: false };
        let known = self.entries.entry(key(&waiting.name)).or_insert_with(|| {
            self.bytes += waiting.bytes;
            entry
        });
        known.waiting.sha256 = known.waiting.sha256.or(waiting.sha256);
    }

    /// This one does not wait any more, unless it is under way.
    pub fn forget(&mut self, name: &SegmentName) {
        if self.entries.get(&key(name)).is_some_and(|entry| !entry.under_way) {
            self.remove(name);
        }
    }

    fn remove(&mut self, name: &SegmentName) {
        if let Some(entry) = self.entries.remove(&key(name)) {
            self.bytes = self.bytes.saturating_sub(entry.waiting.bytes);
            self.conflicts -= usize::from(entry.conflicts);
        }
    }

    /// What to do at monotonic time `now`. What is begun is under way until [`Self::ended`].
    pub fn next(&mut self, now: Duration) -> Next {
        let allowed = if self.store.away.is_some() { 1 } else { self.at_once };
        if self.under_way >= allowed {
            return Next::Nothing;
        }
        if let Some((_, ask_at)) = self.store.away
            && now < ask_at
        {
            return Next::At(ask_at);
        }
        let mut soonest: Option<Duration> = None;
        for entry in self.entries.values_mut().filter(|entry| !entry.under_way) {
            if entry.not_before <= now {
                entry.under_way = true;
                self.under_way += 1;
                return Next::Begin(entry.waiting);
            }
            soonest = Some(soonest.map_or(entry.not_before, |soonest| soonest.min(entry.not_before)));
        }
        soonest.map_or(Next::Nothing, Next::At)
    }

    /// An attempt ended. `random` is drawn uniformly from 0 to 1.
    pub fn ended(&mut self, name: &SegmentName, outcome: Outcome, now: Duration, random: f64) {
        let Some(entry) = self.entries.get_mut(&key(name)).filter(|entry| entry.under_way) else { return };
        entry.under_way = false;
        self.under_way -= 1;
        let (first, limit) = SEGMENT_RETRY;
        entry.not_before = now + retry::delay(first, limit, entry.failures, random);
        entry.failures = entry.failures.saturating_add(1);
        match outcome {
            Outcome::Uploaded => {
                self.store = Store::default();
                self.remove(name);
            }
            Outcome::Gone => self.remove(name),
            Outcome::Unreadable => {}
            Outcome::Conflict => {
                self.store = Store::default();
                entry.not_before = now + CONFLICT_RETRY;
                self.conflicts += usize::from(!std::mem::replace(&mut entry.conflicts, true));
            }
            Outcome::Failed(trouble) => self.store.failed(trouble, now, random),
        }
    }

    /// What is the matter with the store.
    pub fn trouble(&self) -> Option<Trouble> {
        self.store.away.map(|(trouble, _)| trouble)
    }

    /// How many wait, those that are under way among them.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All this in numbers, at wall-clock time `now`. Which store it is, and how retention goes there, know others.
    pub fn figures(&self, now: Timestamp) -> Spool {
        let oldest = self.entries.first_key_value().map(|(_, entry)| now.millis_since(entry.waiting.end));
        let oldest_s = oldest.map_or(0, |ms| u64::try_from(ms / 1_000).unwrap_or(0));
        let upload = match self.trouble() {
            _ if self.conflicts > 0 => Upload::Conflict,
            Some(Trouble::Refused) => Upload::Refused,
            Some(Trouble::Unreachable) => Upload::Unreachable,
            None if oldest_s > BEHIND_S => Upload::Behind,
            None => Upload::Ok,
        };
        let segments = self.entries.len() as u64;
        let (store_id, retention) = (None, StoreRetention::Ok);
        Spool { upload, segments, bytes: self.bytes, oldest_s, store_id, retention }
    }
}

impl Store {
    fn failed(&mut self, trouble: Trouble, now: Duration, random: f64) {
        self.failures = self.failures.saturating_add(1);
        let Some(beyond) = self.failures.checked_sub(TOLERATED) else { return };
        let (first, limit) = STORE_RETRY;
        self.away = Some((trouble, now + retry::delay(first, limit, beyond, random)));
    }
}

#[cfg(test)]
mod tests;
