//! What everybody in the simulated world shares: the clock, chance, and the agenda of what is still to happen.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use longwatch_events::id::{BootId, CameraId, EventId, ServerId, TenantId};
use longwatch_events::time::Timestamp;

use super::coverage::Seen;
use super::happening::Happening;
use super::invariant::{Invariant, Violation};
use super::random::{self, Random};
use super::scenario::{Fault, Scenario};
use super::trace::Trace;

pub(super) struct Env {
    pub(super) start: Timestamp,
    pub(super) now: Timestamp,
    pub(super) step: u64,
    pub(super) random: Random,
    pub(super) trace: Trace,
    pub(super) scenario: Scenario,
    pub(super) seen: BTreeSet<Seen>,
    /// The first promise that was broken.
    pub(super) violation: Option<Violation>,
    /// No more faults: what is under way comes to its end.
    pub(super) is_calm: bool,
    agenda: BTreeMap<(Timestamp, u64), Happening>,
    scheduled: u64,
    made: u32,
}

impl Env {
    pub(super) fn new(scenario: Scenario, random: Random, trace: Trace, start: Timestamp) -> Self {
        Self {
            start,
            now: start,
            step: 0,
            random,
            trace,
            scenario,
            seen: BTreeSet::new(),
            violation: None,
            is_calm: false,
            agenda: BTreeMap::new(),
            scheduled: 0,
            made: 0,
        }
    }

    /// Lets something happen in so many milliseconds.
    pub(super) fn after(&mut self, millis: i64, what: Happening) {
        self.after_micros(millis * 1_000, what);
    }

    pub(super) fn after_micros(&mut self, micros: i64, what: Happening) {
        self.at(self.now.plus_micros(micros.max(0)), what);
    }

    pub(super) fn at(&mut self, at: Timestamp, what: Happening) {
        self.scheduled += 1;
        self.agenda.insert((at.max(self.now), self.scheduled), what);
    }

    /// What happens next; the clock has come to it.
    pub(super) fn next(&mut self) -> Option<Happening> {
        let ((at, _), what) = self.agenda.pop_first()?;
        self.now = at;
        self.step += 1;
        Some(what)
    }

    /// The time a message takes through the network, in microseconds.
    pub(super) fn latency(&mut self) -> i64 {
        let slow = self.random.percent(2);
        if slow { self.random.number(20_000..=150_000) } else { self.random.number(300..=8_000) }
    }

    pub(super) fn note(&mut self, what: fmt::Arguments<'_>) {
        self.trace.line(self.now, what);
    }

    pub(super) fn see(&mut self, seen: Seen) {
        self.seen.insert(seen);
    }

    /// Whether a fault of a single message strikes, in so many cases of a hundred in runs that know it.
    pub(super) fn strikes(&mut self, fault: Fault, percent: u32) -> bool {
        !self.is_calm && self.scenario.faults.contains(&fault) && self.random.percent(percent)
    }

    pub(super) fn broken(&mut self, invariant: Invariant, what: String) {
        self.trace.line(self.now, format_args!("BROKEN {invariant:?}: {what}"));
        if self.violation.is_none() {
            let (step, at) = (self.step, self.now);
            self.violation = Some(Violation { invariant, step, at, what });
        }
    }

    /// Takes note of a promise that may be broken.
    pub(super) fn check(&mut self, found: Result<(), (Invariant, String)>) {
        if let Err((invariant, what)) = found {
            self.broken(invariant, what);
        }
    }

    fn number(&mut self) -> u32 {
        self.made += 1;
        self.made
    }

    pub(super) fn event_id(&mut self) -> EventId {
        let number = self.number();
        EventId::from_uuid(self.random.id(number))
    }

    /// Left to no chance, so that what is does not depend on how many sets there were.
    pub(super) fn set_id(&mut self) -> EventId {
        EventId::from_uuid(random::numbered(0, self.number()))
    }

    pub(super) fn boot_id(&mut self) -> BootId {
        let number = self.number();
        BootId::from_uuid(self.random.id(number))
    }

    pub(super) fn server_id(&mut self, worker: usize) -> ServerId {
        let number = u32::try_from(worker).unwrap_or(u32::MAX);
        ServerId::from_uuid(self.random.id(number))
    }

    pub(super) fn camera_id(&mut self) -> CameraId {
        let number = self.number();
        CameraId::from_uuid(self.random.id(number))
    }

    pub(super) fn tenant_id(&mut self) -> TenantId {
        let number = self.number();
        TenantId::from_uuid(self.random.id(number))
    }
}
