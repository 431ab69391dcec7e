//! Placement: which server records which copy of which camera. `plan(&Inputs) -> Plan`, pure and total.
//!
//! Goals, in order of importance:
//! 1. never exceed a capacity: cameras, declared bitrate, free disk; takeover limits;
//! 2. constraints: labels a camera asks for, copies of a camera on different servers;
//! 3. take over the cameras of a lost server, but those with priority `never`: they wait for it;
//! 4. place by failover priority, then first copies before second ones, then by tenant and id; if policy says so, a `low`
//!    camera gives up its place to a `high` one that has none, one for one;
//! 5. a camera goes to the server on which somebody wishes it, else to its preferred server, else home if its server is back
//!    and nobody took it, each if there is room; a server takes cameras of others only while failover is enabled on it and
//!    it holds fewer than its takeover limit;
//! 6. move nothing that may stay. What is moved all the same (drain, failback, a wish, a label, a preference, too full a
//!    server) is moved so many at a time, and the old server goes on until the new one has begun: [`moves`];
//! 7. copies of one camera in different zones, a camera in the zone that it carries as a label;
//! 8. spread by relative load, then by free disk; ties end on the server id.
//!
//! Postconditions (checked by property tests against an independent oracle): no server exceeds a capacity because of
//! a plan; a plan folded into State makes the next plan empty, unless it ended moves or took places away: what follows from
//! the room that these left is planned next; the same inputs give the same plan.
//!
//! Why: a camera that stays where it is loses nothing, and a plan that can be derived again can be explained.
//!
//! Cost: servers once, then only copies that need a decision. Losing one of ten thousand servers looks at its cameras,
//! not at all the others.

mod explain;
mod moves;
mod rebalance;
mod rooms;
mod waiting;

use std::collections::{BTreeMap, BTreeSet};

use longwatch_events::event::{Decision, PlanEntry};
use longwatch_events::id::{CopyKey, ServerId};
use longwatch_events::position::{Epoch, Position};
use longwatch_events::reason::UnplacedReason;
use longwatch_events::settings::Priority;
use longwatch_events::state::{Camera, CameraCopy, Server, State};
use longwatch_events::time::Timestamp;

pub use explain::{Candidate, Explanation, explain};
pub use rooms::Refusal;
use rooms::{Others, Request, Rooms};

/// The version of these rules; stands in every plan, so that an auditor re-derives it with the rules in force then.
pub const RULES: u32 = 4;

/// What a plan follows from.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// The system as the log tells it.
    pub state: &'a State,
    /// The log's clock.
    pub now: Timestamp,
    /// What `RECORDINGS` shows of the moves that are under way.
    pub evidence: &'a Evidence,
    /// Servers that are taken for lost, whatever State says: for what-if.
    pub lose: &'a BTreeSet<ServerId>,
    /// How much is planned.
    pub scope: Scope,
}

/// What was reported of copies on the move, by the epoch of the move.
pub type Evidence = BTreeMap<(CopyKey, Epoch), Shown>;

/// What a worker's report shows of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    /// Where the report stands in `RECORDINGS`.
    pub position: Position,
    /// What it says.
    pub what: Step,
}

/// A step of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The new server's first keyframe is durable.
    Begun,
    /// The old server does not record any more.
    Stopped,
}

/// How much is planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Everything.
    All,
    /// What has no server, and what is on the way: no new moves.
    Failover,
}

/// What has to change. Entries are by priority, high first, then by tenant, camera and copy: the log shows who came first, and of a
/// plan that is too long for one append the important part goes first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Changes only: a copy that stays as it is has none.
    pub entries: Vec<PlanEntry>,
}

/// Plans the whole system: what has to change so that every camera is where it should be.
pub fn plan(inputs: &Inputs<'_>) -> Plan {
    let mut draft = Draft::new(inputs);
    draft.draw_up();
    draft.into_plan()
}

/// The same, as much of it as about `most` entries can say. If that is not all of it, then what makes room comes first, all of
/// it: the fold gives a place to whom the plan says, whoever has it still; and a plan follows from the reports that the ends of
/// moves cite.
pub fn plan_within(inputs: &Inputs<'_>, most: usize) -> Vec<PlanEntry> {
    let mut entries = plan(inputs).entries;
    if entries.len() > most {
        entries.sort_by_cached_key(|entry| !makes_room(inputs, entry));
        let makes_room = entries.partition_point(|entry| makes_room(inputs, entry));
        entries.truncate(most.max(makes_room));
    }
    entries
}

/// Whether somebody gives up a place by it that another may get.
fn makes_room(inputs: &Inputs<'_>, entry: &PlanEntry) -> bool {
    match entry.decision {
        Decision::Finish { .. } | Decision::Abandon { .. } => true,
        // Who has to give up a place may get another one.
        Decision::Unplace { .. } | Decision::Assign { .. } => {
            let now_on = inputs.state.copy(entry.key()).and_then(|(_, copy)| copy.assignment());
            now_on.is_some_and(|now_on| inputs.is_up(now_on.server_id, inputs.state.server(now_on.server_id)))
        }
        Decision::Move { .. } => false,
    }
}

/// A plan in the making.
struct Draft<'a> {
    inputs: Inputs<'a>,
    rooms: Rooms<'a>,
    /// In the order of the plan. Mostly also the order in which it is decided, and a map that grows at its end grows fast.
    decided: BTreeMap<(Priority, CopyKey), Decision>,
    /// For which requests no room was left, by what they ask for: none will be, rooms only fill.
    exhausted: BTreeMap<rooms::Kind<'a>, u64>,
    /// Why those who are left out are, by the same and the bitrate.
    reasons: BTreeMap<(rooms::Kind<'a>, u64), UnplacedReason>,
    /// The copy whose candidates are to be noted down, and what was noted.
    probe: Option<CopyKey>,
    noted: Vec<Candidate>,
}

impl<'a> Draft<'a> {
    fn new(inputs: &Inputs<'a>) -> Self {
        Self {
            inputs: *inputs,
            rooms: Rooms::of(inputs),
            decided: BTreeMap::new(),
            exhausted: BTreeMap::new(),
            reasons: BTreeMap::new(),
            probe: None,
            noted: Vec::new(),
        }
    }

    fn draw_up(&mut self) {
        self.settle_moves();
        let waiting = self.waiting();
        let left_out = self.place_waiting(waiting);
        match self.inputs.scope {
            Scope::All => self.begin_moves(),
            Scope::Failover => {}
        }
        // Only now is it known what is left of the room, and so what each of them lacks.
        for copy in left_out {
            self.leave_out(copy);
        }
    }

    fn into_plan(self) -> Plan {
        let entry = |((_, key), decision)| {
            let CopyKey { tenant_id, camera_id, copy } = key;
            PlanEntry { tenant_id, camera_id, copy, decision }
        };
        Plan { entries: self.decided.into_iter().map(entry).collect() }
    }

    fn decide(&mut self, key: CopyKey, camera: &Camera, decision: Decision) {
        self.decided.insert((camera.settings.failover_priority, key), decision);
    }

    /// What is decided about a copy of `camera` so far.
    fn decision(&self, key: CopyKey, camera: &Camera) -> Option<&Decision> {
        self.decided.get(&(camera.settings.failover_priority, key))
    }

    fn copy(&self, key: CopyKey) -> (&'a Camera, &'a CameraCopy) {
        self.inputs.state.copy(key).expect("invariant: the index names copies that are there")
    }

    /// Whether a server can record now.
    fn is_up(&self, server_id: ServerId) -> bool {
        self.inputs.is_up(server_id, self.inputs.state.server(server_id))
    }

    /// What is asked for when `key` is to have a place among servers that it is not on.
    fn request(&self, key: CopyKey, home: Option<ServerId>) -> Request<'a> {
        let (camera, copy) = self.copy(key);
        self.request_of(key, camera, copy, home)
    }

    /// The same of a copy that was looked up already.
    fn request_of(
        &self,
        key: CopyKey,
        camera: &'a Camera,
        copy: &CameraCopy,
        home: Option<ServerId>,
    ) -> Request<'a> {
        let (mut taken, mut siblings) = (Vec::new(), Vec::new());
        for (number, other) in camera.copies().filter(|(number, _)| *number != key.copy) {
            let will_be_on = self.will_be_on(CopyKey { copy: number, ..key }, camera, other);
            taken.extend(other.servers().chain(will_be_on));
            siblings.extend(will_be_on);
        }
        let away_from = copy.assignment().map(|assignment| assignment.server_id);
        self.rooms.request(camera, home, Others { taken, siblings }, away_from)
    }

    /// The server on which `key` will be once this plan is carried out and its move is over.
    fn will_be_on(&self, key: CopyKey, camera: &Camera, copy: &CameraCopy) -> Option<ServerId> {
        let stays_on = match self.decision(key, camera) {
            Some(Decision::Assign { server_id, .. } | Decision::Move { server_id, .. }) => {
                return Some(*server_id);
            }
            Some(Decision::Unplace { .. }) => None,
            Some(Decision::Abandon { .. }) => copy.assignment(),
            Some(Decision::Finish { .. }) | None => copy.successor().or(copy.assignment()),
        };
        stays_on.map(|assignment| assignment.server_id)
    }

    /// Notes down what speaks for and against every server, if `key` is the copy that is looked at.
    fn note(&mut self, key: CopyKey, request: &Request<'a>) {
        if self.probe == Some(key) {
            self.noted = explain::candidates(&self.inputs, &self.rooms, request);
        }
    }
}

impl Inputs<'_> {
    fn is_up(&self, server_id: ServerId, server: Option<&Server>) -> bool {
        server.is_some_and(Server::is_assignable) && !self.lose.contains(&server_id)
    }
}
