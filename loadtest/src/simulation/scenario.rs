//! What one run is about: how large the world is, which faults it knows, by which rules it lives. Follows from the seed.

use std::collections::BTreeSet;

use longwatch_events::policy::{Failback, Liveness, Mode, Moves, Policy, Rebalance};

use super::random::Random;

/// A kind of fault. A run knows some of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    WorkerCrash,
    WorkerPause,
    WorkerMute,
    WorkerDeaf,
    WorkerCutOff,
    ClockJump,
    DiskFull,
    CameraUnreachableFromOne,
    CameraUnreachable,
    ReplicaCrash,
    ReplicaPause,
    ReplicaCutOff,
    ReplicaSlow,
    ManyWorkersCrash,
    ManyWorkersSilent,
    NatsStop,
    NatsStopLong,
    NatsRollback,
    NatsStutter,
    NatsClockSet,
    // Of single messages.
    PauseBeforeAppend,
    PauseBeforeFold,
    KillBeforeAppend,
    KillBeforeFold,
    HeartbeatLate,
    HeartbeatLost,
    HeartbeatTwice,
    FactTwice,
    FactLate,
    AnswerLost,
    AssignmentLost,
}

impl Fault {
    const ALL: [Self; 31] = [
        Self::WorkerCrash,
        Self::WorkerPause,
        Self::WorkerMute,
        Self::WorkerDeaf,
        Self::WorkerCutOff,
        Self::ClockJump,
        Self::DiskFull,
        Self::CameraUnreachableFromOne,
        Self::CameraUnreachable,
        Self::ReplicaCrash,
        Self::ReplicaPause,
        Self::ReplicaCutOff,
        Self::ReplicaSlow,
        Self::ManyWorkersCrash,
        Self::ManyWorkersSilent,
        Self::NatsStop,
        Self::NatsStopLong,
        Self::NatsRollback,
        Self::NatsStutter,
        Self::NatsClockSet,
        Self::PauseBeforeAppend,
        Self::PauseBeforeFold,
        Self::KillBeforeAppend,
        Self::KillBeforeFold,
        Self::HeartbeatLate,
        Self::HeartbeatLost,
        Self::HeartbeatTwice,
        Self::FactTwice,
        Self::FactLate,
        Self::AnswerLost,
        Self::AssignmentLost,
    ];

    /// In how many runs of a hundred it is known.
    const fn percent(self) -> u32 {
        match self {
            Self::NatsStopLong => 15,
            Self::NatsRollback => 12,
            Self::NatsStop
            | Self::NatsStutter
            | Self::NatsClockSet
            | Self::ManyWorkersCrash
            | Self::ManyWorkersSilent => 30,
            Self::WorkerCrash
            | Self::WorkerPause
            | Self::WorkerMute
            | Self::WorkerDeaf
            | Self::WorkerCutOff
            | Self::ClockJump
            | Self::DiskFull
            | Self::CameraUnreachableFromOne
            | Self::CameraUnreachable
            | Self::ReplicaCrash
            | Self::ReplicaPause
            | Self::ReplicaCutOff
            | Self::ReplicaSlow
            | Self::PauseBeforeAppend
            | Self::PauseBeforeFold
            | Self::KillBeforeAppend
            | Self::KillBeforeFold
            | Self::HeartbeatLate
            | Self::HeartbeatLost
            | Self::HeartbeatTwice
            | Self::FactTwice
            | Self::FactLate
            | Self::AnswerLost
            | Self::AssignmentLost => 45,
        }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Scenario {
    pub(super) servers: u32,
    pub(super) replicas: u32,
    /// As many as there are at the beginning.
    pub(super) cameras: u32,
    pub(super) tenants: u32,
    /// What the servers can hold together, in percent of the cameras there are at the beginning.
    pub(super) room_percent: u32,
    pub(super) faults: BTreeSet<Fault>,
    /// A server that joins belongs to the system at once.
    pub(super) adopts_automatically: bool,
    /// Replicas take turns by the planner's lease.
    pub(super) has_lease: bool,
    /// Some replicas begin with a program that folds as an older version.
    pub(super) is_upgraded: bool,
    /// A set is cut after so many cameras.
    pub(super) cameras_per_part: usize,
    /// A plan is cut after so many changes.
    pub(super) changes_per_event: usize,
    /// Between two wishes of operators, at most, in milliseconds.
    pub(super) operator_ms: i64,
    /// Between two faults, at most, in milliseconds.
    pub(super) fate_ms: i64,
}

impl Scenario {
    /// So many changes are appended at once at most: where an event says few of them, little more than one event.
    pub(super) const fn changes_at_once(&self) -> usize {
        self.changes_per_event.saturating_mul(2)
    }

    pub(super) fn draw(random: &mut Random) -> Self {
        // Runs without faults show what operators alone can do.
        let is_quiet = random.percent(8);
        let faults =
            Fault::ALL.into_iter().filter(|fault| random.percent(fault.percent()) && !is_quiet).collect();
        Self {
            servers: random.count(2..=12),
            replicas: random.count(1..=3),
            cameras: random.count(0..=60),
            tenants: random.count(1..=3),
            room_percent: random.count(60..=260),
            faults,
            adopts_automatically: random.percent(80),
            has_lease: random.percent(60),
            is_upgraded: random.percent(15),
            cameras_per_part: if random.percent(25) { 3 } else { usize::MAX },
            changes_per_event: if random.percent(25) { 4 } else { 2_000 },
            operator_ms: random.one_of([400, 1_500, 5_000]),
            fate_ms: random.one_of([2_000, 5_000, 12_000]),
        }
    }
}

/// A policy in which everything that waits, waits seconds rather than minutes: a run lasts minutes.
pub(super) fn policy(random: &mut Random) -> Policy {
    let automatic = |random: &mut Random| if random.percent(75) { Mode::Automatic } else { Mode::Manual };
    Policy {
        liveness: Liveness {
            heartbeat_interval_ms: random.one_of([700, 1_000, 1_000, 1_000, 2_000]),
            lease_ms: random.one_of([3_000, 3_000, 3_000, 5_000, 10_000]),
            max_heartbeats_per_s: random.one_of([1_000, 1_000, 1_000, 4]),
            mass_silence_percent: random.one_of([50, 50, 30, 100]),
        },
        failback: Failback { mode: automatic(random), stable_s: random.one_of([3, 10, 20]) },
        rebalance: Rebalance {
            mode: automatic(random),
            threshold_percent: random.one_of([5, 20, 20, 50]),
            stable_s: random.one_of([3, 10, 20]),
        },
        moves: Moves {
            at_once: random.one_of([1, 3, 20, 100]),
            timeout_s: random.one_of([5, 10, 20]),
            retry_after_s: random.one_of([5, 20, 40]),
        },
        preempt_low: random.percent(30),
        min_disk_free_percent: random.one_of([0, 2, 2, 5]),
        ..Policy::default()
    }
}
