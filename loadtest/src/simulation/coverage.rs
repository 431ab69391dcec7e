//! What a run came across. A simulation in which something never happens any more checks nothing about it, so what was
//! never seen over many seeds is a failure.

use std::collections::BTreeMap;

macro_rules! seen {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Something that a run can come across.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Seen {
            $($(#[$doc])* $name,)*
        }

        impl Seen {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

seen! {
    /// A worker was killed and started again.
    WorkerCrashed,
    /// A worker was stopped by a signal and went on later.
    WorkerPaused,
    /// A worker's messages did not reach NATS; those of NATS reached it.
    WorkerMute,
    /// The other way round.
    WorkerDeaf,
    /// A worker was cut off from NATS.
    WorkerCutOff,
    /// A server's clock jumped by an hour.
    ClockJumped,
    /// A server's archive was nearly full.
    DiskFull,
    /// One server did not reach a camera.
    CameraUnreachableFromOne,
    /// Nobody reached a camera.
    CameraUnreachable,
    /// A control replica was killed and started again.
    ReplicaCrashed,
    /// A control replica was stopped by a signal and went on later.
    ReplicaPaused,
    /// A control replica was cut off from NATS.
    ReplicaCutOff,
    /// A control replica folded the log late.
    ReplicaSlow,
    /// A control replica was paused between a decision and its append.
    PausedBeforeAppend,
    /// A control replica was paused between an append and its fold.
    PausedBeforeFold,
    /// A control replica was killed between a decision and its append.
    KilledBeforeAppend,
    /// A control replica was killed between an append and its fold.
    KilledBeforeFold,
    /// NATS stood still for seconds.
    NatsStopped,
    /// NATS stood still for an hour.
    NatsStoppedLong,
    /// NATS came back with an older store.
    NatsRolledBack,
    /// NATS stood still for a second again and again.
    NatsStuttered,
    /// The clock of NATS was set back.
    NatsClockSetBack,
    /// The clock of NATS was set forward.
    NatsClockSetForward,
    /// More servers than the share fell silent together for longer than a lease, and were heard again.
    ManyWorkersSilent,
    /// A server was judged lost while NATS stood still again and again.
    LostWhileStuttering,
    /// A server was judged lost that was heard last before the clock of NATS was set back.
    LostAfterSetBack,
    /// A heartbeat came late.
    HeartbeatLate,
    /// A heartbeat was lost.
    HeartbeatLost,
    /// A heartbeat was stored twice.
    HeartbeatTwice,
    /// A report was stored twice.
    FactTwice,
    /// A report came late.
    FactLate,
    /// An answer of NATS was lost, and the append tried again.
    AnswerLost,
    /// The message with an assignment was lost.
    AssignmentLost,
    /// Assignments stood in several parts.
    AssignmentInParts,
    /// An event held fields that this version does not know.
    UnknownFields,
    /// A replica of an older version met a requirement and halted.
    OldProgramHalted,
    /// A replica began with a snapshot.
    SnapshotUsed,
    /// A replica noticed that the log was rolled back, and halted.
    RollbackNoticed,
    /// A server was judged lost.
    ServerLost,
    /// Several servers were judged lost in one look.
    LostTogether,
    /// A server was judged lost after it had been heard again.
    JudgedLate,
    /// A lost server returned.
    ServerReturned,
    /// A server that returned went on with what nobody had had room for.
    WentOn,
    /// Too many servers were silent to judge any.
    MassSilenceHeld,
    /// The log was told how full an archive is.
    DiskMeasured,
    /// A camera was placed for the first time.
    Placed,
    /// A camera was taken over from a lost server.
    FailedOver,
    /// A camera went back to where it was taken from.
    FailedBack,
    /// A camera left a server that was being emptied.
    Drained,
    /// A camera was moved to even out load.
    Rebalanced,
    /// A camera was moved because somebody asked for it.
    MovedByWish,
    /// A camera was moved because of its labels.
    MovedByLabels,
    /// A camera was moved to the server that it prefers.
    MovedToPreferred,
    /// A camera was moved because its server holds too many.
    Relieved,
    /// A planned move ended with the new server's first keyframe.
    MoveFinished,
    /// A planned move of a camera that serves one client ended when the old server had stopped.
    MoveFinishedStopped,
    /// A planned move ended because the old server was lost.
    MoveFinishedOldLost,
    /// A planned move ended although nothing was heard of the new server.
    MoveFinishedTimedOut,
    /// A planned move was given up because the new server was lost.
    MoveAbandonedNewLost,
    /// A planned move was given up because it took too long.
    MoveAbandonedTimedOut,
    /// A planned move was given up because its cause was gone.
    MoveAbandonedNotWanted,
    /// A camera found no room.
    Unplaced,
    /// A camera lost its place to a more important one.
    Preempted,
    /// A camera of priority `never` waited for its lost server.
    NeverWaited,
    /// A server was let go, its cameras stayed.
    DetachedKeeping,
    /// A server was let go with its cameras.
    DetachedRemoving,
    /// A server that was let go was taken in again.
    AdoptedAgain,
    /// A worker was told that its server was let go.
    WorkerDetached,
    /// Two replicas planned at once, and one of them won.
    PlanConflict,
    /// Two replicas judged one server at once, and one of them won.
    JudgementConflict,
    /// Two replicas published one set at once, and one of them won.
    PublicationConflict,
    /// A command met another one.
    CommandConflict,
    /// A command was refused.
    CommandRefused,
    /// A command was tried again with the same id and recognised.
    CommandRecognised,
    /// Part of a plan, or an event, lost a race.
    Stale,
    /// A worker that had missed a set was told to look.
    Nudged,
    /// A worker recorded what its disk said before it had spoken to anybody.
    RecordedFromDisk,
    /// A worker gave up a camera that serves one client, because its lease was over.
    LeaseExpired,
    /// A plan stood in several parts.
    PlanInParts,
    /// A plan was as long as a plan may be, and perhaps cut off.
    PlanCutOff,
}

/// In how many runs each was seen.
#[derive(Debug, Clone, Default)]
pub struct Coverage(BTreeMap<Seen, u64>);

impl Coverage {
    /// Adds one run.
    pub fn add(&mut self, seen: impl IntoIterator<Item = Seen>) {
        for seen in seen {
            *self.0.entry(seen).or_default() += 1;
        }
    }

    /// Adds what other runs came across.
    pub fn merge(&mut self, other: &Self) {
        for (seen, runs) in &other.0 {
            *self.0.entry(*seen).or_default() += runs;
        }
    }

    /// In how many runs it was seen.
    pub fn runs(&self, seen: Seen) -> u64 {
        self.0.get(&seen).copied().unwrap_or(0)
    }

    /// What was never seen.
    pub fn missing(&self) -> Vec<Seen> {
        Seen::ALL.iter().copied().filter(|seen| self.runs(*seen) == 0).collect()
    }
}
