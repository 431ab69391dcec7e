//! What goes wrong between a client and the S3 server, by lot or by command.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// What happens to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// It is answered with 503 at once.
    Unavailable,
    /// It is passed on after a while, and then as any other.
    Slow,
    /// The connection is cut in the middle of its body; the server sees that, too.
    Torn,
    /// It is done, and the connection is cut instead of the answer.
    Unanswered,
    /// It is done twice, as by a network that repeats itself; the second answer is given.
    Twice,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Unavailable, Self::Slow, Self::Torn, Self::Unanswered, Self::Twice];
}

/// How long [`Fault::Slow`] takes.
pub const SLOW: Duration = Duration::from_millis(400);

/// What goes wrong. Nothing does at first.
#[derive(Debug)]
pub struct Faults(Mutex<State>);

#[derive(Debug)]
struct State {
    random: StdRng,
    /// Of a thousand requests so many meet some fault.
    per_mille: u32,
    outage: bool,
    met: BTreeMap<Fault, u64>,
    puts: u64,
    requests: u64,
    deletions: u64,
    without_bucket: bool,
    denies_deletions: bool,
    holds_back_answers_to_deletions: bool,
}

impl Faults {
    pub(super) fn new() -> Self {
        Self(Mutex::new(State {
            random: StdRng::seed_from_u64(0),
            per_mille: 0,
            outage: false,
            met: BTreeMap::new(),
            puts: 0,
            requests: 0,
            deletions: 0,
            without_bucket: false,
            denies_deletions: false,
            holds_back_answers_to_deletions: false,
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on so many of a thousand requests meet a fault, drawn by lot from this seed.
    pub fn draw(&self, seed: u64, per_mille: u32) {
        let mut state = self.state();
        state.random = StdRng::seed_from_u64(seed);
        state.per_mille = per_mille;
    }

    /// Begins or ends an outage: while it lasts, whoever connects is cut off, and so is who was connected.
    pub fn outage(&self, lasts: bool) {
        self.state().outage = lasts;
    }

    /// From now on there is no bucket, or the same as before again.
    pub fn hide_bucket(&self, hides: bool) {
        self.state().without_bucket = hides;
    }

    pub(super) fn is_without_bucket(&self) -> bool {
        self.state().without_bucket
    }

    /// From now on nobody may delete, or everybody may again.
    pub fn deny_deletions(&self, denies: bool) {
        self.state().denies_deletions = denies;
    }

    /// While it lasts deletions are done and not answered.
    pub fn hold_back_answers_to_deletions(&self, holds_back: bool) {
        self.state().holds_back_answers_to_deletions = holds_back;
    }

    /// How many objects were to be deleted since the start.
    pub fn deletions(&self) -> u64 {
        self.state().deletions
    }

    /// Whether there is an outage.
    pub fn is_out(&self) -> bool {
        self.state().outage
    }

    /// How many requests met each fault.
    pub fn met(&self) -> BTreeMap<Fault, u64> {
        self.state().met.clone()
    }

    /// How many requests that Amazon charges as a PUT have come since the start: PUT and POST.
    pub fn puts(&self) -> u64 {
        self.state().puts
    }

    /// How many requests have come since the start, outages included.
    pub fn requests(&self) -> u64 {
        self.state().requests
    }

    /// One more deletion; whether it is denied.
    pub(super) fn note_deletion(&self) -> bool {
        let mut state = self.state();
        state.requests += 1;
        state.deletions += 1;
        state.denies_deletions
    }

    pub(super) fn holds_back_answers_to_deletions(&self) -> bool {
        self.state().holds_back_answers_to_deletions
    }

    pub(super) fn note_cut(&self) {
        self.state().requests += 1;
    }

    /// What is to happen to a request.
    pub(super) fn next(&self, is_put: bool) -> Option<Fault> {
        let mut state = self.state();
        state.requests += 1;
        state.puts += u64::from(is_put);
        let per_mille = state.per_mille;
        if !state.random.random_ratio(per_mille.min(1_000), 1_000) {
            return None;
        }
        let fault = Fault::ALL[state.random.random_range(0..Fault::ALL.len())];
        *state.met.entry(fault).or_default() += 1;
        Some(fault)
    }
}
