//! The auditor: reads every record the moment it is stored, folds the log by itself, and says what breaks a promise.
//!
//! It knows more than an auditor of a real system: what every server really recorded.

mod plan;
mod set;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use longwatch_control::decide::what_if;
use longwatch_events::event::{Event, PlanMade, ServerLost};
use longwatch_events::fold::{self, Outcome};
use longwatch_events::id::{CopyKey, EventId, ServerId};
use longwatch_events::index::Index;
use longwatch_events::position::{Epoch, Position};
use longwatch_events::state::{Assignment, State};
use longwatch_events::subject::{self, LogStream};
use longwatch_events::time::Timestamp;
use longwatch_worker::plan::Key;

use super::coverage::Seen;
use super::env::Env;
use super::invariant::Invariant;
use super::nats::{Nats, Stored};
pub(super) use set::recorded_by;

/// A worker looks by itself for what it is to record at least so often, and a moment later it does that, in milliseconds.
const KNOWN_WITHIN_MS: i64 = 65_000;

/// What a check found: the promise that is broken, and how.
type Checked = Result<(), (Invariant, String)>;

/// A recording that is going on.
struct Recording {
    since: Timestamp,
    /// The server knows that the camera serves one client.
    single_session: bool,
}

fn key_of(copy: &CopyKey) -> Key {
    Key { tenant_id: copy.tenant_id, camera_id: copy.camera_id }
}

pub(super) struct Audit {
    /// State after 0, 1, 2, … events.
    states: Vec<Rc<State>>,
    /// Which server an epoch of a copy belongs to.
    granted: BTreeMap<(CopyKey, Epoch), ServerId>,
    /// The highest epoch under which a copy was recorded with authority.
    authority: BTreeMap<CopyKey, Epoch>,
    acknowledged: Vec<(EventId, Position)>,
    /// The parts of the plan that stands at the end.
    parts: Vec<PlanMade>,
    /// Which servers really had a durable keyframe of which camera under which epoch.
    keyframes: BTreeSet<(Key, Epoch, ServerId)>,
    /// Who really records which camera now.
    recording: BTreeMap<Key, BTreeMap<ServerId, Recording>>,
    /// What each server is told to record, and the parts of what it is about to be told.
    told: BTreeMap<ServerId, BTreeSet<Key>>,
    telling: BTreeSet<Key>,
    /// When a server was told not to record a camera any more.
    untold: BTreeMap<(ServerId, Key), Timestamp>,
    /// The highest revision published to each server.
    revisions: BTreeMap<ServerId, Position>,
    pub(super) was_rolled_back: bool,
    /// When the last plan was made that moved a camera, or a server came or went last: plans follow from that, and what it is
    /// told.
    pub(super) moved_at: Timestamp,
}

impl Audit {
    pub(super) fn new(start: Timestamp) -> Self {
        Self {
            states: vec![Rc::default()],
            granted: BTreeMap::new(),
            authority: BTreeMap::new(),
            acknowledged: Vec::new(),
            parts: Vec::new(),
            keyframes: BTreeSet::new(),
            recording: BTreeMap::new(),
            told: BTreeMap::new(),
            telling: BTreeSet::new(),
            untold: BTreeMap::new(),
            revisions: BTreeMap::new(),
            was_rolled_back: false,
            moved_at: start,
        }
    }

    /// State at the end of the log.
    pub(super) fn state(&self) -> &Rc<State> {
        self.states.last().expect("invariant: there is a state before the first event")
    }

    pub(super) fn state_at(&self, position: Position) -> Option<&Rc<State>> {
        self.states.get(usize::try_from(position.0).ok()?)
    }

    /// Takes note of what a server really has on its disk.
    pub(super) fn keyframe(&mut self, key: Key, epoch: Epoch, server_id: ServerId) {
        self.keyframes.insert((key, epoch, server_id));
    }

    /// A server records a camera from now on.
    pub(super) fn begins(&mut self, now: Timestamp, server_id: ServerId, key: Key, single_session: bool) {
        self.recording.entry(key).or_default().insert(server_id, Recording { since: now, single_session });
    }

    /// Since when a server records a camera of which it knows that it serves one client.
    fn session(&self, server_id: ServerId, key: Key) -> Option<Timestamp> {
        let recording = self.recording.get(&key)?.get(&server_id)?;
        recording.single_session.then_some(recording.since)
    }

    /// Whether a server has let go of what serves one client, now that control takes it for lost. It may have come back
    /// since it was judged.
    fn check_lease(&self, before: &State, lost: &ServerLost, judged_at: Timestamp) -> Checked {
        let mut held = before.index().roster(lost.server_id).copies().map(|copy| key_of(&copy));
        match held.find(|key| self.session(lost.server_id, *key).is_some_and(|since| since < judged_at)) {
            None => Ok(()),
            Some(key) => Err((
                Invariant::OneSession,
                format!("{} is recorded by the lost {}", key.camera_id, lost.server_id),
            )),
        }
    }

    /// Whether everybody who records what others record, and serves one client, could not know it yet: they look for
    /// themselves often enough for what they are to record.
    pub(super) fn check_sessions(&self, env: &mut Env) {
        for (key, recording) in &self.recording {
            let single: Vec<_> = recording.iter().filter(|(_, recording)| recording.single_session).collect();
            if single.len() < 2 {
                continue;
            }
            let late = single.iter().find(|(server_id, _)| {
                let untold = self.untold.get(&(**server_id, *key));
                untold.is_some_and(|at| env.now.millis_since(*at) > KNOWN_WITHIN_MS)
            });
            if let Some((server_id, _)) = late {
                let what =
                    format!("camera {} is recorded by {server_id}, which was told better", key.camera_id);
                env.broken(Invariant::OneSession, what);
            }
        }
    }

    /// A server does not record a camera any more.
    pub(super) fn ends(&mut self, server_id: ServerId, key: Key) {
        if let Some(recording) = self.recording.get_mut(&key) {
            recording.remove(&server_id);
        }
    }

    /// A server records nothing any more.
    pub(super) fn silent(&mut self, server_id: ServerId) {
        for recording in self.recording.values_mut() {
            recording.remove(&server_id);
        }
    }

    /// A worker is another server from now on: after a rollback it had to join again.
    pub(super) fn renamed(&mut self, before: ServerId, after: ServerId) {
        for recording in self.recording.values_mut() {
            if let Some(its) = recording.remove(&before) {
                recording.insert(after, its);
            }
        }
    }

    /// A record was stored.
    pub(super) fn stored(&mut self, env: &mut Env, nats: &Nats, record: &Stored) {
        let (stream, _) = subject::of(&record.event);
        match stream {
            LogStream::Log => self.appended(env, nats, record),
            LogStream::Assignments => {
                self.note_set(record);
                env.check(self.check_set(record));
            }
            LogStream::Heartbeats | LogStream::Recordings | LogStream::Backlog => {}
        }
    }

    fn appended(&mut self, env: &mut Env, nats: &Nats, record: &Stored) {
        let before = Rc::clone(self.state());
        let mut state = State::clone(&before);
        let outcome = fold::apply(&mut state, record.position, record.stored_at, &record.event);
        match outcome {
            Ok(Outcome::Stale(_)) => env.see(Seen::Stale),
            Ok(Outcome::Applied) => {}
            Ok(Outcome::Seen) => env.broken(Invariant::FoldGoesOn, "a new record was seen before".to_owned()),
            Err(error) => env.broken(Invariant::FoldGoesOn, format!("{error}: {:?}", record.event)),
        }
        if *state.index() != Index::of(&state) {
            env.broken(Invariant::IndexFollows, format!("at position {}", state.position));
        }
        env.check(self.check_authority(&state));
        self.states.push(Rc::new(state));
        if comes_or_goes(&record.event) {
            self.moved_at = env.now;
        }
        if let Event::PlanMade(plan) = &record.event {
            self.planned(env, nats, record, plan);
        }
        if let Event::ServerLost(lost) = &record.event {
            let judged_at = nats.heard_at(record);
            env.check(self.check_lease(&before, lost, judged_at));
            env.check(check_what_if(&before, self.state(), lost, record.stored_at));
        }
    }

    fn planned(&mut self, env: &mut Env, nats: &Nats, record: &Stored, plan: &PlanMade) {
        if plan.part.number == 1 {
            self.parts.clear();
        }
        self.parts.push(plan.clone());
        if plan.part.of > 1 {
            env.see(Seen::PlanInParts);
        }
        self.moved_at = env.now;
        if u32::try_from(self.parts.len()) == Ok(plan.part.of) {
            let found = self.check_plan(env, nats, record.position);
            env.check(found);
        }
    }

    /// Every epoch of a copy belongs to one server for ever, and authority only passes to a higher epoch.
    fn check_authority(&mut self, state: &State) -> Checked {
        for (tenant_id, camera_id, camera) in state.cameras() {
            let mut servers = BTreeSet::new();
            for (number, copy) in camera.copies() {
                let key = CopyKey { tenant_id, camera_id, copy: number };
                for assignment in copy.assignment().into_iter().chain(copy.successor()) {
                    self.check_grant(key, assignment)?;
                    if !servers.insert(assignment.server_id) {
                        return Err((Invariant::CopiesApart, format!("{key:?} at {}", state.position)));
                    }
                }
                let Some(now) = copy.assignment() else { continue };
                let highest = self.authority.entry(key).or_insert(now.epoch);
                if now.epoch < *highest || copy.successor().is_some_and(|new| new.epoch <= now.epoch) {
                    let what = format!("{key:?} has epoch {} after {highest}", now.epoch);
                    return Err((Invariant::OneAuthority, what));
                }
                *highest = now.epoch;
            }
        }
        Ok(())
    }

    fn check_grant(&mut self, key: CopyKey, assignment: &Assignment) -> Checked {
        let owner = self.granted.entry((key, assignment.epoch)).or_insert(assignment.server_id);
        if *owner == assignment.server_id {
            return Ok(());
        }
        let what = format!(
            "epoch {} of {key:?} belonged to {owner}, now to {}",
            assignment.epoch, assignment.server_id
        );
        Err((Invariant::OneAuthority, what))
    }

    /// A replica has folded the log up to where its State is.
    pub(super) fn check_replica(&self, env: &mut Env, name: &str, state: &State) {
        let position = state.position;
        let Some(expected) = self.state_at(position) else {
            return env.broken(Invariant::SameState, format!("{name} is at {position}, ahead of the log"));
        };
        // The hash follows from what is compared here; now and then that is tried, too.
        let is_same = **expected == *state
            && (!position.0.is_multiple_of(256) || expected.content_hash() == state.content_hash());
        if !is_same {
            env.broken(Invariant::SameState, format!("{name} has another State at position {position}"));
        }
    }

    /// A client was told that its command was carried out.
    pub(super) fn acknowledged(&mut self, event_id: EventId, position: Position) {
        self.acknowledged.push((event_id, position));
    }

    /// Whether all that was acknowledged stands where it was said to stand.
    pub(super) fn check_commands(&self, nats: &Nats) -> Checked {
        for (event_id, position) in &self.acknowledged {
            let stands = nats.get(LogStream::Log, *position).is_some_and(|record| record.id == *event_id);
            let times =
                nats.behind(LogStream::Log, Position::START).filter(|record| record.id == *event_id).count();
            if !stands || times != 1 {
                let what = format!("{event_id} was acknowledged at {position} and stands {times} times");
                return Err((Invariant::CommandKept, what));
            }
        }
        Ok(())
    }

    /// The log was rolled back and ends at `end` now: what stood behind is lost, also what had been acknowledged.
    pub(super) fn rolled_back(&mut self, end: Position) {
        self.was_rolled_back = true;
        self.states.truncate(usize::try_from(end.0).unwrap_or(usize::MAX).saturating_add(1));
        self.acknowledged.retain(|(_, position)| *position <= end);
        self.granted.retain(|(_, epoch), _| epoch.0 <= end.0);
        self.authority.clear();
        self.keyframes.retain(|(_, epoch, _)| epoch.0 <= end.0);
        self.revisions.clear();
        self.told.clear();
        self.untold.clear();
        self.parts.clear();
    }
}

/// What-if on the State before a loss says what failover plans on the State after it.
fn check_what_if(before: &State, after: &State, lost: &ServerLost, now: Timestamp) -> Checked {
    use longwatch_control::decide::placement::{Evidence, Inputs, Scope, plan};
    use longwatch_events::event::Decision;

    if before.server(lost.server_id).is_none_or(|server| !server.is_assignable()) {
        return Ok(());
    }
    let lose = BTreeSet::from([lost.server_id]);
    let outlook = what_if::lose(before, now, &lose);
    let (evidence, nobody) = (Evidence::new(), BTreeSet::new());
    let inputs = Inputs { state: after, now, evidence: &evidence, lose: &nobody, scope: Scope::Failover };
    let planned = plan(&inputs).entries;
    let assigned: BTreeMap<_, _> = planned
        .iter()
        .filter_map(|entry| match entry.decision {
            Decision::Assign { server_id, .. } => Some((entry.key(), server_id)),
            Decision::Unplace { .. }
            | Decision::Move { .. }
            | Decision::Finish { .. }
            | Decision::Abandon { .. } => None,
        })
        .collect();
    let differs = outlook.placed.iter().find(|(key, server_id, _)| {
        let is_on_the_move = before.copy(*key).is_some_and(|(_, copy)| copy.successor().is_some());
        !is_on_the_move && assigned.get(key) != Some(server_id)
    });
    match differs {
        None => Ok(()),
        Some((key, server_id, _)) => {
            let what = format!(
                "{key:?} would be on {server_id} without {}, it comes to {:?}",
                lost.server_id,
                assigned.get(key)
            );
            Err((Invariant::WhatIfAgrees, what))
        }
    }
}

/// Whether a server is there, or is not there, since this event.
const fn comes_or_goes(event: &Event) -> bool {
    matches!(
        event,
        Event::ServerAdded(_)
            | Event::ServerJoined(_)
            | Event::ServerAdopted(_)
            | Event::ServerLost(_)
            | Event::ServerReturned(_)
            | Event::ServerDetached(_)
    )
}
