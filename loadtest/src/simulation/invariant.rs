//! What must hold, whatever happens.
//!
//! Not here is what nothing simulated has, because archives, read model, API and keys are real elsewhere: that no stale
//! epoch overwrites or deletes video (system test `a_server_that_stood_still_overwrites_nothing`), that nothing is deleted
//! without a report (`whenever_it_is_killed_while_it_records_and_deletes_disk_and_log_agree` of the worker), that no gap is
//! without a cause (system tests `recording` and `crashes`, `longwatch-loadtest kills`), that the rows are what the fold says
//! (`control::read_model::contract::history`, on both engines), and that nothing crosses tenants or shows a secret (tests of
//! the API).

use std::fmt;

use longwatch_events::time::Timestamp;

/// A promise that a run can break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// A command that was acknowledged stands in the log, once, where it was said to stand.
    CommandKept,
    /// A camera's copy has one authority: each epoch of it belongs to one server, and epochs only grow.
    OneAuthority,
    /// The copies of one camera are on different servers.
    CopiesApart,
    /// No report under an older epoch, or of another server, ends a move.
    StaleReleasesNothing,
    /// A worker that is well records what it was told last, as long as it reaches the camera.
    RecordingGoesOn,
    /// A camera that serves one client is never recorded by two servers that know that.
    OneSession,
    /// A server that is alive and connected is never judged lost.
    NoFalseExpiry,
    /// Of servers that fall silent together, more than the share that policy says, none is judged lost, neither while they are
    /// silent nor while they come back.
    MassSilenceSpares,
    /// A server that is gone is judged in time, unless too many are: however the log stumbles, or its clock is set.
    GoneIsNoticed,
    /// No plan makes a server hold more than it may.
    Capacity,
    /// No camera is placed where a more important one could have been that waits.
    PriorityOrder,
    /// A camera of priority `never` is not taken from its server because that is lost or emptied.
    NeverStays,
    /// The same position means the same State, on every replica and for the auditor.
    SameState,
    /// The index is what follows from State.
    IndexFollows,
    /// The log can be folded: no replica of this version halts but for a reason that it names.
    FoldGoesOn,
    /// An event reads back as it was written, also with fields that this version does not know.
    WireKeepsMeaning,
    /// Each plan follows from the State it names, its time and the evidence it cites.
    PlanRederived,
    /// Plans come to an end: folding one plan after the other leaves nothing to plan.
    PlanSettles,
    /// What-if says what the plan after the loss says.
    WhatIfAgrees,
    /// A server is told exactly what State says that it records, and never something older.
    SetFollowsState,
    /// A planned move ends with the new server's durable keyframe, with the old server's end, or as policy says.
    MakeBeforeBreak,
    /// A replica that is ahead of the log, or too old for it, halts.
    HaltsLoudly,
    /// When faults are over, every camera that has a place is recorded by its servers and by nobody else, and nothing
    /// moves any more.
    Converges,
}

/// A broken promise.
#[derive(Debug, Clone)]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// In which step of the run.
    pub step: u64,
    /// When, by the virtual clock.
    pub at: Timestamp,
    /// What was found.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is broken in step {}, at {}: {}", self.invariant, self.step, self.at, self.what)
    }
}
