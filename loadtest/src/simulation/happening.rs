//! What can happen next: messages that arrive, alarms that ring, faults that begin and end.

use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;
use longwatch_control::decide::command::Command;
use longwatch_events::assignment::AssignmentSet;
use longwatch_events::id::{EventId, ServerId};
use longwatch_events::position::Position;
use longwatch_events::time::Timestamp;
use longwatch_worker::plan::Key;

use super::nats::{Draft, Refused};

/// A process that speaks to NATS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Party {
    Replica(usize),
    Worker(usize),
}

/// Which run of a process: what was meant for an earlier one is lost.
pub(super) type Run = u32;

#[derive(Debug, Clone)]
pub(super) enum Happening {
    /// A request reaches NATS.
    Request { from: Party, run: Run, request: Request },
    /// Something reaches a process.
    Message { to: Party, run: Run, message: Message },
    /// A process is started.
    Start(Party),
    /// A stopped process goes on.
    Resume(Party),
    /// A fault is over.
    Over(Ending),
    /// Somebody wants something of control.
    Operator,
    /// The client of a command that was not answered tries again.
    TryAgain { command: Box<Command>, event_id: EventId },
    /// A fault begins.
    Fate,
    /// The invariants that take time to break are looked at.
    Watch,
}

#[derive(Debug, Clone)]
pub(super) enum Ending {
    Link(Party),
    Camera(Key),
    Slow(usize),
    Disk(usize),
    NatsStop {
        roll_back: bool,
    },
    /// NATS stands still again, so many times more.
    Stutter {
        times: u32,
    },
    /// Those who fell silent together are about to be heard again.
    ManySilent,
    /// An operator starts all control replicas anew, after a rollback.
    RestartAll,
}

#[derive(Debug, Clone)]
pub(super) enum Request {
    /// Of control: one entry, or several atomically. A call is answered under its number. It leaves the process at `sent_at`.
    Append { call: u64, drafts: Rc<Vec<Draft>>, sent_at: Timestamp },
    /// Of control: a sign of life, where the log streams end, and the planner's lease.
    Tick { draft: Box<Draft>, folded: (Position, Position) },
    /// Of control: what stands in `ASSIGNMENTS` for servers, and then where `LOG` ends.
    Standing(Vec<ServerId>),
    /// Of control: where the log streams end.
    Ends,
    /// Of control to a worker: "look". Nobody keeps it.
    Nudge(ServerId),
    /// Of a worker: a sign of life.
    Heartbeat { draft: Box<Draft>, sent_at: Timestamp },
    /// Of a worker: a report.
    Report(Box<Draft>),
    /// Of a worker: all parts of its desired set.
    Look { server_id: ServerId, begun_at: Timestamp },
    /// Of a worker to whichever replica takes it.
    Join { asked_at: Timestamp },
}

/// That a worker wants to join. The answer is for that wish alone: whoever asked again since does not hear it any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) worker: usize,
    pub(super) run: Run,
    pub(super) asked_at: Timestamp,
}

#[derive(Debug, Clone)]
pub(super) enum Message {
    // To a replica.
    Appended {
        call: u64,
        result: Result<Position, Refused>,
    },
    /// `folded`: up to where `LOG` and `RECORDINGS` had been folded when the request was made.
    Ticked {
        ends: Ends,
        holds: bool,
        folded: (Position, Position),
        at: Timestamp,
    },
    Ends(Ends),
    Standing {
        found: BTreeMap<ServerId, Found>,
        end: Position,
    },
    /// There is something new in the log streams.
    News,
    Command {
        command: Box<Command>,
        event_id: EventId,
    },
    JoinWish(Wish),
    // To a worker.
    Acknowledged {
        sent_at: Timestamp,
    },
    Stored(EventId),
    Parts {
        parts: Vec<Bytes>,
        is_whole: bool,
        begun_at: Timestamp,
    },
    Told(Bytes),
    LookNow,
    Joined {
        asked_at: Timestamp,
        reply: Reply,
    },
    /// To either: an alarm it set.
    Alarm(Alarm),
}

/// Where log streams end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    pub(super) log: Position,
    pub(super) recordings: Position,
    pub(super) heartbeats: Position,
}

/// The parts of a set as they stand in `ASSIGNMENTS`.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) first: AssignmentSet,
    pub(super) first_at: Position,
    pub(super) others: Vec<Option<AssignmentSet>>,
}

/// What a worker that wants to join is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply {
    Welcome { server_id: ServerId, adopted: bool },
    Detached,
    TryAgain,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Alarm {
    // Of a replica.
    Begin,
    Tick,
    Judge,
    Plan,
    CallLate(u64),
    // Of a worker.
    Heartbeat,
    Look,
    Join,
    JoinLate,
    Dial(Key, u32),
    Keyframe(Key, u32),
    LeaseEnds,
    LeaseLook,
    ReportLate(EventId),
    // Of either: the connection to NATS is there again.
    Connected,
}

impl Alarm {
    /// Whether it is about nothing but NATS, so that it can wait while that stands still.
    pub(super) const fn waits_for_nats(self) -> bool {
        match self {
            Self::Begin
            | Self::Tick
            | Self::Judge
            | Self::Plan
            | Self::Heartbeat
            | Self::Look
            | Self::Join
            | Self::JoinLate
            | Self::ReportLate(_) => true,
            Self::CallLate(_)
            | Self::Dial(..)
            | Self::Keyframe(..)
            | Self::LeaseEnds
            | Self::LeaseLook
            | Self::Connected => false,
        }
    }
}
