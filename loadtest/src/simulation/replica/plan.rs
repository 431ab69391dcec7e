//! Planning and publishing: `control::{planner, assignments}` over virtual time.

use std::collections::{BTreeMap, BTreeSet};

use longwatch_control::assignments::set::{self, Resealed, Standing, WantedSource};
use longwatch_control::decide::placement::{self, Inputs, Scope};
use longwatch_control::observed::Pace;
use longwatch_events::assignment::AssignmentSet;
use longwatch_events::event::{Event, Part, PlanMade};
use longwatch_events::id::{EventId, ServerId};
use longwatch_events::position::{Epoch, Position};
use longwatch_events::sealed::Base64Bytes;
use longwatch_events::state::State;
use longwatch_events::time::Timestamp;

use super::{Process, Purpose, Replica};
use crate::simulation::coverage::Seen;
use crate::simulation::env::Env;
use crate::simulation::happening::{Alarm, Found, Request};
use crate::simulation::nats::{Draft, Refused};

/// How long changes are gathered before they are planned together, in milliseconds.
const GATHER_MS: i64 = 20;
/// The planner looks again after this even if nothing seems to have changed…
const LOOK_AGAIN_MS: i64 = 2_000;
/// … and while something moves.
const LOOK_AFTER_MOVES_MS: i64 = 300;
/// After a failure.
const PAUSE_MS: i64 = 500;
/// How long it waits for the fold.
const FOLD_WITHIN_MS: i64 = 5_000;
/// A set that was found to stand there is looked at again after this.
const VERIFY_AFTER_MS: i64 = 60_000;

#[derive(Default)]
pub(super) struct Planner {
    stage: Stage,
    /// When the stage began.
    since: Timestamp,
    /// When it is woken next.
    wakes_at: Option<Timestamp>,
    looked: BTreeMap<ServerId, Looked>,
}

#[derive(Default)]
enum Stage {
    #[default]
    Idle,
    /// A plan is on its way to the log.
    Appending,
    /// Plans again once the fold has passed a position.
    Folding(Position),
    /// What stands in `ASSIGNMENTS` is being read.
    Reading,
    /// Compares it once the fold has passed a position.
    Comparing { end: Position, servers: Vec<ServerId>, found: BTreeMap<ServerId, Found> },
    /// So many sets are on their way to the log.
    Publishing(usize),
}

/// What was found when a server was looked at last.
struct Looked {
    position: Position,
    pace: Pace,
    revision: Position,
    at: Timestamp,
    nudged_at: Option<Timestamp>,
}

impl Replica {
    /// Wakes the planner in so many milliseconds, if nothing wakes it earlier.
    fn wake_planner(&mut self, env: &mut Env, millis: i64) {
        let at = env.now.plus_millis(millis);
        let Some(process) = &mut self.process else { return };
        if process.planner.wakes_at.is_none_or(|earlier| earlier > at) {
            process.planner.wakes_at = Some(at);
            self.set(env, millis, Alarm::Plan);
        }
    }

    pub(super) fn planner_wakes(&mut self, env: &mut Env) {
        let Some(process) = &mut self.process else { return };
        if process.planner.wakes_at.is_some_and(|at| at > env.now) {
            return;
        }
        process.planner.wakes_at = None;
        if env.now.millis_since(process.planner.since) > FOLD_WITHIN_MS {
            match process.planner.stage {
                Stage::Folding(_) | Stage::Comparing { .. } | Stage::Reading => {
                    process.planner.stage = Stage::Idle
                }
                Stage::Idle | Stage::Appending | Stage::Publishing(_) => {}
            }
        }
        let is_moving = process.state.index().moving().len() > 0;
        if matches!(process.planner.stage, Stage::Idle) {
            self.plan(env);
        }
        self.wake_planner(env, if is_moving { LOOK_AFTER_MOVES_MS } else { LOOK_AGAIN_MS });
    }

    /// The fold has come on.
    pub(super) fn planner_goes_on(&mut self, env: &mut Env) {
        let Some(process) = &mut self.process else { return };
        let position = process.state.position;
        match &process.planner.stage {
            Stage::Folding(until) if *until <= position => self.plan(env),
            Stage::Comparing { end, .. } if *end <= position => self.publish(env),
            Stage::Idle => self.wake_planner(env, GATHER_MS),
            Stage::Folding(_)
            | Stage::Comparing { .. }
            | Stage::Appending
            | Stage::Reading
            | Stage::Publishing(_) => {}
        }
    }

    fn enter(&mut self, env: &Env, stage: Stage) {
        if let Some(process) = &mut self.process {
            process.planner.stage = stage;
            process.planner.since = env.now;
        }
    }

    /// Appends what has to change; if nothing has to, publishes.
    fn plan(&mut self, env: &mut Env) {
        self.enter(env, Stage::Idle);
        let Some(process) =
            self.process.as_ref().filter(|process| process.decides() && process.leads(env.now))
        else {
            return;
        };
        let knows = |server_id, epoch: Epoch| {
            let looked = process.planner.looked.get(&server_id);
            let applied = process.observed.applied(server_id);
            looked.is_some_and(|looked| looked.position >= Position(epoch.0) && looked.revision == applied)
        };
        let (evidence, lose) = (self.rows.evidence(&process.state, knows), BTreeSet::new());
        let (state, now) = (&process.state, process.observed.now());
        let inputs = Inputs { state, now, evidence: &evidence, lose: &lose, scope: Scope::All };
        let entries = placement::plan_within(&inputs, env.scenario.changes_at_once());
        if entries.is_empty() {
            return self.read_standing(env);
        }
        let (basis, last_plan) = (state.position, state.last_plan);
        env.note(format_args!("{} plans on {basis}: {entries:?}", self.name()));
        let chunks: Vec<_> = entries.chunks(env.scenario.changes_per_event).collect();
        let of = u32::try_from(chunks.len()).unwrap_or(u32::MAX);
        let drafts: Vec<_> = (1..)
            .zip(chunks)
            .map(|(number, entries)| {
                let made = PlanMade {
                    basis,
                    rules: placement::RULES,
                    decided_at: Some(now),
                    part: Part { number, of },
                    entries: entries.to_vec(),
                };
                self.draft(env, Event::PlanMade(made), (number == 1).then_some(last_plan))
            })
            .collect();
        self.enter(env, Stage::Appending);
        self.call(env, Purpose::Plan { basis, last_plan }, drafts);
    }

    pub(super) fn plan_answered(
        &mut self,
        env: &mut Env,
        basis: Position,
        last_plan: Position,
        result: Result<Position, Refused>,
    ) {
        match result {
            Ok(position) => self.enter(env, Stage::Folding(position)),
            Err(Refused::Conflict | Refused::Torn) => {
                env.see(Seen::PlanConflict);
                self.enter(env, Stage::Folding(last_plan.next().max(basis.next())));
            }
            Err(Refused::Unavailable) => {
                self.enter(env, Stage::Idle);
                self.wake_planner(env, PAUSE_MS);
            }
        }
        self.planner_goes_on(env);
    }

    /// Reads what stands for the servers about which something changed, or that were not looked at for long.
    fn read_standing(&mut self, env: &mut Env) {
        let Some(process) = &self.process else { return };
        let servers = due(process, env.now);
        if servers.is_empty() {
            return self.nudge(env);
        }
        self.enter(env, Stage::Reading);
        self.ask(env, Request::Standing(servers));
    }

    pub(super) fn standing_read(&mut self, env: &mut Env, found: BTreeMap<ServerId, Found>, end: Position) {
        let Some(process) = &self.process else { return };
        if matches!(process.planner.stage, Stage::Reading) {
            let servers = due(process, env.now);
            self.enter(env, Stage::Comparing { end, servers, found });
            self.hear_of_news(env);
            self.planner_goes_on(env);
        }
    }

    /// Publishes every set that differs from what stands there.
    fn publish(&mut self, env: &mut Env) {
        let Some(process) = &mut self.process else { return };
        let Stage::Comparing { servers, found, .. } = std::mem::take(&mut process.planner.stage) else {
            return;
        };
        let (pace, position) = (process.observed.pace(), process.state.position);
        let mut sets = Vec::new();
        for server_id in servers {
            let mut standing = found.get(&server_id).map_or_else(Standing::default, |found| {
                Standing::new(found.first.clone(), found.first_at, found.others.clone())
            });
            standing.applied(process.observed.applied(server_id));
            let (cameras_per_part, set_id) = (env.scenario.cameras_per_part, env.set_id());
            let Some(parts) = parts(&process.state, server_id, pace, &standing, cameras_per_part, set_id)
            else {
                let revision = standing.revision;
                process
                    .planner
                    .looked
                    .insert(server_id, Looked { position, pace, revision, at: env.now, nudged_at: None });
                continue;
            };
            sets.push((server_id, standing.first_part_at, parts));
        }
        self.enter(env, Stage::Publishing(sets.len()));
        if sets.is_empty() {
            return self.nudge(env);
        }
        for (server_id, first_part_at, parts) in sets {
            let revision = parts[0].revision;
            env.note(format_args!("{} tells {server_id} revision {revision}", self.name()));
            let drafts: Vec<Draft> = parts
                .into_iter()
                .map(|part| {
                    let condition = (part.part == 1).then_some(first_part_at);
                    self.draft(env, Event::AssignmentsPublished(part), condition)
                })
                .collect();
            if drafts.len() > 1 {
                env.see(Seen::AssignmentInParts);
            }
            self.call(env, Purpose::Publication { server_id, revision, folded: position, pace }, drafts);
        }
    }

    pub(super) fn set_answered(
        &mut self,
        env: &mut Env,
        server_id: ServerId,
        (revision, position, pace): (Position, Position, Pace),
        result: Result<Position, Refused>,
    ) {
        let Some(process) = &mut self.process else { return };
        match result {
            Ok(_) => {
                let looked = Looked { position, pace, revision, at: env.now, nudged_at: None };
                process.planner.looked.insert(server_id, looked);
            }
            Err(Refused::Conflict | Refused::Torn) => env.see(Seen::PublicationConflict),
            Err(Refused::Unavailable) => {}
        }
        let left = match process.planner.stage {
            Stage::Publishing(left) => left.saturating_sub(1),
            Stage::Idle | Stage::Appending | Stage::Folding(_) | Stage::Reading | Stage::Comparing { .. } => {
                return;
            }
        };
        process.planner.stage = Stage::Publishing(left);
        if left == 0 {
            self.nudge(env);
        }
    }

    /// Tells workers to look that should have applied by now what stands there. Then it is all done for now.
    fn nudge(&mut self, env: &mut Env) {
        self.enter(env, Stage::Idle);
        let Some(process) = &mut self.process else { return };
        let observed = &process.observed;
        let patience_ms = i64::from(observed.pace().interval_ms) * 3 / 2;
        let mut missed = Vec::new();
        for (server_id, looked) in &mut process.planner.looked {
            let since = looked.nudged_at.unwrap_or(looked.at);
            let has_missed =
                observed.seen(*server_id).is_some_and(|seen| seen.load.applied_revision < looked.revision);
            if env.now.millis_since(since) >= patience_ms
                && has_missed
                && observed.silent_since(*server_id).is_none()
            {
                looked.nudged_at = Some(env.now);
                missed.push(*server_id);
            }
        }
        for server_id in missed {
            env.see(Seen::Nudged);
            self.ask(env, Request::Nudge(server_id));
        }
    }
}

fn due(process: &Process, now: Timestamp) -> Vec<ServerId> {
    let (state, pace) = (&process.state, process.observed.pace());
    let is_due = |server_id: &ServerId| {
        process.planner.looked.get(server_id).is_none_or(|looked| {
            state.index().changed(*server_id) > looked.position
                || process.observed.applied(*server_id) > looked.revision
                || looked.pace != pace
                || now.millis_since(looked.at) >= VERIFY_AFTER_MS
        })
    };
    let with_worker = state.servers().filter(|(_, server)| server.public_key.is_some());
    with_worker.map(|(server_id, _)| server_id).filter(is_due).collect()
}

/// What a server is to be told, in parts of at most so many cameras; `None` if that stands there already.
fn parts(
    state: &State,
    server_id: ServerId,
    pace: Pace,
    standing: &Standing,
    cameras_per_part: usize,
    set_id: EventId,
) -> Option<Vec<AssignmentSet>> {
    let desired = set::desired(state, server_id, pace)?;
    let composed = set::compose(&desired.wanted, standing, |key| {
        let source = desired.sources.get(&key).ok_or(())?;
        let WantedSource { sealed, single_session, live_latency_ms, priority } = source;
        let (single_session, live_latency_ms, priority) = (*single_session, *live_latency_ms, *priority);
        let source = Base64Bytes(sealed.bytes.0.clone());
        Ok::<_, ()>(Resealed { source, single_session, live_latency_ms, priority })
    });
    if standing.is(&composed.cameras, pace) {
        return None;
    }
    let revision = standing.next_revision(state.position);
    let whole = set::parts(server_id, revision, set_id, pace, composed.cameras);
    let cameras: Vec<_> = whole.iter().flat_map(|part| part.cameras.iter().cloned()).collect();
    if cameras.len() <= cameras_per_part {
        return Some(whole);
    }
    let chunks = cameras.chunks(cameras_per_part);
    let count = u32::try_from(chunks.len()).unwrap_or(u32::MAX);
    let part = |(part, cameras): (u32, &[_])| AssignmentSet {
        part,
        parts: count,
        cameras: cameras.to_vec(),
        ..whole[0].clone()
    };
    Some((1..).zip(chunks).map(part).collect())
}
