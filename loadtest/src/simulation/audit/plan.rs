//! Whether a plan is what it should be: derived again, folded into the State it names, and looked at with an oracle that
//! counts for itself.

use std::collections::{BTreeMap, BTreeSet};

use longwatch_control::decide::placement::{Evidence, Inputs, Scope, Shown, Step, plan, plan_within};
use longwatch_events::event::{Decision, Event, Part, PlanEntry, PlanMade};
use longwatch_events::fact::{Cause, Fact};
use longwatch_events::fold::{self, Outcome};
use longwatch_events::id::{CopyKey, ServerId};
use longwatch_events::position::Position;
use longwatch_events::reason::{AbandonReason, AssignReason, FinishReason, UnplacedReason};
use longwatch_events::settings::Priority;
use longwatch_events::state::{Camera, CameraCopy, State};
use longwatch_events::subject::LogStream;
use longwatch_events::time::Timestamp;
use longwatch_worker::plan::Key;

use super::{Audit, Checked};
use crate::simulation::coverage::Seen;
use crate::simulation::env::Env;
use crate::simulation::invariant::Invariant;
use crate::simulation::nats::Nats;
use crate::simulation::oracle::{Room, rooms};

/// So many plans follow from one another at most until nothing is left to plan.
const PLANS_IN_A_ROW: usize = 12;

/// A plan with all its parts.
struct Whole<'a> {
    basis: &'a State,
    decided_at: Timestamp,
    entries: Vec<PlanEntry>,
    /// About so many entries a plan has at most; the next one goes on.
    most: usize,
}

impl Audit {
    /// Checks the plan whose last part stands at `position`.
    pub(super) fn check_plan(&self, env: &mut Env, nats: &Nats, position: Position) -> Checked {
        let (Some(first), Some(last)) = (self.parts.first(), self.parts.last()) else { return Ok(()) };
        let basis = self.state_at(first.basis).filter(|_| first.basis < position);
        let Some(basis) = basis else {
            let what = format!("the plan at {position} is based on {}", first.basis);
            return Err((Invariant::PlanRederived, what));
        };
        let decided_at = last.decided_at.unwrap_or_default();
        let entries: Vec<_> = self.parts.iter().flat_map(|part| part.entries.iter().copied()).collect();
        let whole = Whole { basis, decided_at, entries, most: env.scenario.changes_at_once() };
        count(env, &whole);
        if whole.entries.len() >= whole.most {
            env.see(Seen::PlanCutOff);
        }
        whole.check_derivation(position)?;
        for entry in &whole.entries {
            self.check_end_of_move(nats, basis, entry)?;
            check_never(basis, entry)?;
        }
        let after = whole.folded()?;
        check_capacity(basis, &after)?;
        check_takeovers(basis, &after)?;
        whole.check_priority()?;
        settles(after, decided_at)
    }

    /// A move ends with a report of the new server under the move's epoch, or with what the reason says.
    fn check_end_of_move(&self, nats: &Nats, basis: &State, entry: &PlanEntry) -> Checked {
        let Decision::Finish { epoch, reason, evidence } = entry.decision else { return Ok(()) };
        let wrong = |invariant, why: &str| Err((invariant, format!("{entry:?}: {why}")));
        let Some((camera, copy)) = basis.copy(entry.key()) else { return Ok(()) };
        let (Some(old), Some(new)) = (copy.assignment(), copy.successor()) else {
            return wrong(Invariant::MakeBeforeBreak, "it is not on the move");
        };
        if new.epoch != epoch {
            return wrong(Invariant::StaleReleasesNothing, "another move is under way");
        }
        let key = Key { tenant_id: entry.tenant_id, camera_id: entry.camera_id };
        let facts = evidence.map(|at| facts_at(nats, at)).unwrap_or_default();
        match reason {
            FinishReason::FirstKeyframe => {
                let begun = facts.iter().any(|(server_id, fact)| {
                    *server_id == new.server_id
                        && matches!(fact, Fact::FirstKeyframeDurable(f) if f.epoch == epoch && f.camera_id == key.camera_id)
                });
                if !begun {
                    return wrong(Invariant::StaleReleasesNothing, "its evidence does not show a keyframe");
                }
                if !self.keyframes.contains(&(key, epoch, new.server_id)) && !self.was_rolled_back {
                    return wrong(Invariant::MakeBeforeBreak, "the new server has no keyframe");
                }
                Ok(())
            }
            FinishReason::Stopped => {
                let stopped = facts.iter().any(|(server_id, fact)| {
                    *server_id == old.server_id
                        && matches!(fact, Fact::Interrupted(f) if f.epoch == old.epoch
                            && f.camera_id == key.camera_id && f.cause == Cause::Reassigned)
                });
                if stopped && camera.settings.single_session {
                    return match self.session(old.server_id, key) {
                        None => Ok(()),
                        Some(_) => wrong(Invariant::OneSession, "the old server still records it"),
                    };
                }
                wrong(Invariant::StaleReleasesNothing, "its evidence does not show an end")
            }
            FinishReason::OldLost => match basis.server(old.server_id).is_some_and(|s| s.is_assignable()) {
                false => Ok(()),
                true => wrong(Invariant::MakeBeforeBreak, "the old server is not lost"),
            },
            FinishReason::TimedOut => {
                let waited_ms = self.parts[0].decided_at.unwrap_or_default().millis_since(new.since);
                match waited_ms > i64::from(basis.policy.moves.timeout_s) * 1_000 {
                    true => Ok(()),
                    false => wrong(Invariant::MakeBeforeBreak, "its time is not over"),
                }
            }
        }
    }
}

fn facts_at(nats: &Nats, position: Position) -> Vec<(ServerId, Fact)> {
    match nats.get(LogStream::Recordings, position).map(|record| &record.event) {
        Some(Event::RecordingReported(report)) => {
            report.facts.iter().map(|fact| (report.server_id, fact.clone())).collect()
        }
        Some(_) | None => Vec::new(),
    }
}

impl Whole<'_> {
    /// What the cited evidence shows.
    fn cited(&self) -> Evidence {
        let shown = |entry: &PlanEntry| {
            let Decision::Finish { epoch, reason, evidence: Some(position) } = entry.decision else {
                return None;
            };
            let what = match reason {
                FinishReason::FirstKeyframe => Step::Begun,
                FinishReason::Stopped => Step::Stopped,
                FinishReason::OldLost | FinishReason::TimedOut => return None,
            };
            Some(((entry.key(), epoch), Shown { position, what }))
        };
        self.entries.iter().filter_map(shown).collect()
    }

    fn check_derivation(&self, position: Position) -> Checked {
        let (evidence, lose) = (self.cited(), BTreeSet::new());
        let inputs = Inputs {
            state: self.basis,
            now: self.decided_at,
            evidence: &evidence,
            lose: &lose,
            scope: Scope::All,
        };
        let derived = plan_within(&inputs, self.most);
        if derived == self.entries {
            return Ok(());
        }
        let differs = derived.iter().zip(&self.entries).find(|(derived, logged)| derived != logged);
        let what = format!(
            "the plan at {position} has {} changes, derived again {}; the first that differs: {differs:?}",
            self.entries.len(),
            derived.len()
        );
        Err((Invariant::PlanRederived, what))
    }

    /// The State it leads to, if nothing else happens in between.
    fn folded(&self) -> Result<State, (Invariant, String)> {
        let mut state = self.basis.clone();
        fold_plan(&mut state, self.decided_at, self.entries.clone())?;
        Ok(state)
    }

    /// Nobody is placed where somebody more important could have been who is left without a place.
    fn check_priority(&self) -> Checked {
        if self.basis.policy.preempt_low {
            return Ok(());
        }
        let mut left_out: Vec<(CopyKey, &Camera)> = Vec::new();
        let decided: BTreeMap<_, _> =
            self.entries.iter().map(|entry| (entry.key(), entry.decision)).collect();
        for key in self.basis.index().waiting() {
            let Some((camera, _)) = self.basis.copy(key) else { continue };
            let is_placed = matches!(decided.get(&key), Some(Decision::Assign { .. }));
            if camera.wants_recording() && !is_placed {
                left_out.push((key, camera));
            }
        }
        // What this plan fills on top of what was there: a camera's turn came when it was no fuller than that.
        let mut rooms = rooms(self.basis);
        for (key, decision) in &decided {
            let (Decision::Assign { server_id, .. }, Some((camera, _))) = (decision, self.basis.copy(*key))
            else {
                continue;
            };
            if let Some(room) = rooms.get_mut(server_id) {
                room.take(camera);
            }
        }
        for (key, decision) in &decided {
            let Decision::Assign { server_id, .. } = decision else { continue };
            let (Some((placed, _)), Some(room)) = (self.basis.copy(*key), rooms.get(server_id)) else {
                continue;
            };
            let without = room.without(placed);
            let passed_over = left_out.iter().find(|(waiting_key, waiting)| {
                waiting.settings.failover_priority < placed.settings.failover_priority
                    && self.may_have(*server_id, &without, *waiting_key, waiting, &decided)
            });
            if let Some((waiting, _)) = passed_over {
                let what = format!("{key:?} is placed on {server_id}, {waiting:?} is left out");
                return Err((Invariant::PriorityOrder, what));
            }
        }
        Ok(())
    }

    fn may_have(
        &self,
        server_id: ServerId,
        room: &Room<'_>,
        key: CopyKey,
        camera: &Camera,
        decided: &BTreeMap<CopyKey, Decision>,
    ) -> bool {
        let home = camera.copy(key.copy).and_then(CameraCopy::home);
        let has_another = camera.copies().filter(|(number, _)| *number != key.copy).any(|(number, copy)| {
            let other = CopyKey { copy: number, ..key };
            let comes = matches!(decided.get(&other), Some(Decision::Assign { server_id: to, .. }) if *to == server_id);
            comes || copy.servers().any(|other| other == server_id)
        });
        !has_another && room.takes(server_id, camera, home)
    }
}

fn fold_plan(state: &mut State, at: Timestamp, entries: Vec<PlanEntry>) -> Checked {
    let part = Part::WHOLE;
    let rules = longwatch_control::decide::placement::RULES;
    let made = PlanMade { basis: state.position, rules, decided_at: Some(at), part, entries };
    let position = state.position.next();
    match fold::apply(state, position, at, &Event::PlanMade(made)) {
        Ok(Outcome::Applied) => Ok(()),
        other => Err((Invariant::PlanSettles, format!("a plan on the newest State folds as {other:?}"))),
    }
}

/// Plans again until nothing is left to plan.
fn settles(mut state: State, now: Timestamp) -> Checked {
    let (evidence, lose) = (Evidence::new(), BTreeSet::new());
    let mut last = Vec::new();
    for _ in 0..PLANS_IN_A_ROW {
        let inputs = Inputs { state: &state, now, evidence: &evidence, lose: &lose, scope: Scope::All };
        last = plan(&inputs).entries;
        if last.is_empty() {
            return Ok(());
        }
        fold_plan(&mut state, now, last.clone())?;
    }
    Err((Invariant::PlanSettles, format!("still after {PLANS_IN_A_ROW} plans in a row: {last:?}")))
}

/// No server takes over cameras of others that were lost or emptied when it holds as many as it may for that.
fn check_takeovers(before: &State, after: &State) -> Checked {
    for (server_id, server) in after.servers() {
        let held: BTreeSet<_> = before.index().roster(server_id).copies().collect();
        let (stays, comes): (Vec<_>, Vec<_>) =
            after.index().roster(server_id).copies().partition(|key| held.contains(key));
        let of_others = |key: &&CopyKey| {
            after.copy(**key).is_some_and(|(_, copy)| {
                let mut here = copy.assignment().into_iter().chain(copy.successor());
                here.any(|one| {
                    one.server_id == server_id
                        && matches!(one.reason, AssignReason::Failover | AssignReason::Drain)
                })
            })
        };
        let taken_over = comes.iter().filter(of_others).count();
        let limit = server.settings.failover.takeover_limit as usize;
        if taken_over > 0 && stays.len() + taken_over > limit {
            let what = format!("{server_id} held {} and took over {taken_over}, it may {limit}", stays.len());
            return Err((Invariant::Capacity, what));
        }
    }
    Ok(())
}

fn check_capacity(before: &State, after: &State) -> Checked {
    for (server_id, server) in after.servers() {
        let (was, is) = (before.index().roster(server_id), after.index().roster(server_id));
        let capacity = server.settings.capacity;
        let max_bitrate_bps = capacity.max_bitrate_bps.unwrap_or(u64::MAX);
        if is.len() > capacity.max_cameras.max(was.len())
            || is.bitrate_bps() > max_bitrate_bps.max(was.bitrate_bps())
        {
            let what = format!(
                "{server_id} comes to hold {} cameras, {} bit/s; it may {capacity:?}",
                is.len(),
                is.bitrate_bps()
            );
            return Err((Invariant::Capacity, what));
        }
    }
    Ok(())
}

/// A camera that never fails over stays on its server, unless that cannot hold it or somebody wants it elsewhere.
fn check_never(basis: &State, entry: &PlanEntry) -> Checked {
    let Some((camera, copy)) = basis.copy(entry.key()) else { return Ok(()) };
    let is_placed = copy
        .assignment()
        .is_some_and(|now_on| basis.server(now_on.server_id).is_some_and(|server| server.is_ours()));
    if camera.settings.failover_priority != Priority::Never || !is_placed || !camera.wants_recording() {
        return Ok(());
    }
    let is_taken = match entry.decision {
        Decision::Assign { .. } => true,
        Decision::Unplace { reason } => reason != UnplacedReason::Disabled,
        Decision::Move { reason, .. } => matches!(reason, AssignReason::Drain | AssignReason::Failover),
        Decision::Finish { .. } | Decision::Abandon { .. } => false,
    };
    if is_taken { Err((Invariant::NeverStays, format!("{entry:?}"))) } else { Ok(()) }
}

/// Takes note of what the plan does.
fn count(env: &mut Env, whole: &Whole<'_>) {
    for entry in &whole.entries {
        let seen = match entry.decision {
            Decision::Assign { reason: AssignReason::Failover, .. } => Seen::FailedOver,
            Decision::Assign { .. } => Seen::Placed,
            Decision::Unplace { reason: UnplacedReason::Preempted } => Seen::Preempted,
            Decision::Unplace { .. } => Seen::Unplaced,
            Decision::Move { reason, .. } => match reason {
                AssignReason::Failback | AssignReason::Home => Seen::FailedBack,
                AssignReason::Drain | AssignReason::Failover => Seen::Drained,
                AssignReason::Rebalance | AssignReason::LeastLoaded => Seen::Rebalanced,
                AssignReason::Requested => Seen::MovedByWish,
                AssignReason::Labels => Seen::MovedByLabels,
                AssignReason::Preferred => Seen::MovedToPreferred,
                AssignReason::OverCapacity => Seen::Relieved,
            },
            Decision::Finish { reason, .. } => match reason {
                FinishReason::FirstKeyframe => Seen::MoveFinished,
                FinishReason::Stopped => Seen::MoveFinishedStopped,
                FinishReason::OldLost => Seen::MoveFinishedOldLost,
                FinishReason::TimedOut => Seen::MoveFinishedTimedOut,
            },
            Decision::Abandon { reason, .. } => match reason {
                AbandonReason::NewLost => Seen::MoveAbandonedNewLost,
                AbandonReason::TimedOut => Seen::MoveAbandonedTimedOut,
                AbandonReason::NotWanted => Seen::MoveAbandonedNotWanted,
            },
        };
        env.see(seen);
    }
    let never_waits = whole.basis.servers().filter(|(_, server)| server.lost.is_some()).any(|(id, _)| {
        whole.basis.index().roster(id).copies().any(|key| {
            whole
                .basis
                .copy(key)
                .is_some_and(|(camera, _)| camera.settings.failover_priority == Priority::Never)
        })
    });
    if never_waits {
        env.see(Seen::NeverWaited);
    }
}
