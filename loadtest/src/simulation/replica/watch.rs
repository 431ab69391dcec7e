//! Judging servers, measuring disks, letting workers in: `control::{watch, join}` over virtual time.

use std::rc::Rc;

use longwatch_control::decide::command::{self, Command};
use longwatch_control::decide::disk;
use longwatch_control::decide::liveness::{self, Judgement, Rules};
use longwatch_events::event::Event;
use longwatch_events::id::ServerId;
use longwatch_events::position::Position;
use longwatch_events::state::Membership;

use super::{Process, Purpose, Replica};
use crate::simulation::coverage::Seen;
use crate::simulation::env::Env;
use crate::simulation::happening::{Alarm, Happening, Message, Party, Reply, Wish};
use crate::simulation::nats::{Draft, Refused};
use crate::simulation::worker::claim;

/// How often it looks, in milliseconds.
const LOOK_EVERY_MS: i64 = 200;
/// A worker is let in by so many appends at most.
const JOIN_STEPS: u32 = 4;

/// What is to be done for a worker that wants to join.
enum Admission {
    Reply(Reply),
    Append(Command),
}

impl Replica {
    pub(super) fn look_at_servers(&mut self, env: &mut Env) {
        self.set(env, LOOK_EVERY_MS, Alarm::Judge);
        let Some(process) = &self.process else { return };
        if !process.decides()
            || !process.observed.is_live()
            || process.lost_connection_at.is_some()
            || !process.leads(env.now)
            || !process.judging.is_empty()
        {
            return;
        }
        let Judgement { lost, returned, held, .. } = judge(process);
        if !held.is_empty() {
            env.see(Seen::MassSilenceHeld);
        }
        let measured = measured(process);
        let draft = |env: &mut Env, (version, event)| self.draft(env, event, Some(version));
        let lost: Vec<_> = lost.into_iter().map(|said| draft(env, said)).collect();
        let others: Vec<_> = returned.into_iter().chain(measured).map(|said| draft(env, said)).collect();
        if lost.len() > 1 {
            env.see(Seen::LostTogether);
        }
        if !lost.is_empty() {
            self.say(env, lost);
        }
        others.into_iter().for_each(|draft| self.say(env, vec![draft]));
    }

    fn say(&mut self, env: &mut Env, drafts: Vec<Draft>) {
        self.call(env, Purpose::Judgement, drafts);
        let Some(process) = &mut self.process else { return };
        process.judging.insert(process.made_calls, None);
    }

    pub(super) fn judgement_answered(
        &mut self,
        env: &mut Env,
        (call, drafts): (u64, Rc<Vec<Draft>>),
        result: Result<Position, Refused>,
    ) {
        let Some(process) = &mut self.process else { return };
        match result {
            Ok(position) if position > process.state.position => {
                process.judging.insert(call, Some(position));
            }
            Ok(_) | Err(Refused::Unavailable) => {
                process.judging.remove(&call);
            }
            Err(Refused::Conflict | Refused::Torn) => {
                env.see(Seen::JudgementConflict);
                process.judging.remove(&call);
                // Of one of them something else was said meanwhile: that is no reason to keep quiet of the others.
                if drafts.len() > 1 {
                    for draft in drafts.iter() {
                        let id = env.event_id();
                        self.say(env, vec![Draft { id, ..draft.clone() }]);
                    }
                }
            }
        }
    }

    /// A worker asks to be let in.
    pub(super) fn join_wish(&mut self, env: &mut Env, wish: Wish) {
        let Some(process) = &mut self.process else { return };
        if process.decides() {
            process.joining.insert(wish.worker, (wish, 0));
            self.joins_go_on(env);
        } else {
            self.reply(env, wish, Reply::TryAgain);
        }
    }

    /// Whoever waits to be let in and has nothing under way takes the next step.
    pub(super) fn joins_go_on(&mut self, env: &mut Env) {
        let Some(process) = &self.process else { return };
        let is_under_way = |worker: usize| {
            process
                .calls
                .values()
                .any(|call| matches!(call.purpose, Purpose::Join { worker: w } if w == worker))
        };
        let waiting: Vec<_> =
            process.joining.values().copied().filter(|(wish, _)| !is_under_way(wish.worker)).collect();
        for (wish, steps) in waiting {
            self.join_goes_on(env, wish, steps);
        }
    }

    fn join_goes_on(&mut self, env: &mut Env, wish: Wish, steps: u32) {
        let worker = wish.worker;
        let adopts = env.scenario.adopts_automatically;
        let new_id = env.server_id(worker);
        let Some(process) = &mut self.process else { return };
        let admission = match steps {
            JOIN_STEPS.. => Admission::Reply(Reply::TryAgain),
            _ => admission(process, worker, new_id, adopts, steps),
        };
        let decided = match admission {
            Admission::Reply(reply) => Err(reply),
            Admission::Append(command) => {
                command::decide(&process.state, command).map_err(|_| Reply::TryAgain)
            }
        };
        match decided {
            Ok(decided) => {
                process.joining.insert(worker, (wish, steps + 1));
                let draft = self.draft(env, decided.event, Some(decided.expected_last));
                self.call(env, Purpose::Join { worker }, vec![draft]);
            }
            Err(reply) => {
                process.joining.remove(&worker);
                self.reply(env, wish, reply);
            }
        }
    }

    pub(super) fn join_answered(&mut self, env: &mut Env, worker: usize, result: Result<Position, Refused>) {
        let Some(process) = &mut self.process else { return };
        // What was appended is looked at once it is folded.
        if result.is_err()
            && let Some((wish, _)) = process.joining.remove(&worker)
        {
            self.reply(env, wish, Reply::TryAgain);
        }
    }

    fn reply(&self, env: &mut Env, wish: Wish, reply: Reply) {
        // It looks where the log ends before it lets anybody in; see the module.
        if self.is_before_rollback {
            return;
        }
        let Wish { worker, run, asked_at } = wish;
        let micros = env.latency() + env.latency();
        let message = Message::Joined { asked_at, reply };
        env.after_micros(micros, Happening::Message { to: Party::Worker(worker), run, message });
    }
}

fn judge(process: &Process) -> Judgement {
    let observed = &process.observed;
    let rules = Rules {
        lease_ms: observed.pace().lease_ms,
        mass_silence_percent: process.state.policy.liveness.mass_silence_percent.into(),
    };
    liveness::judge(&process.state, observed.now(), rules, |server_id| observed.signs(server_id))
}

/// What the log is to be told of archives.
fn measured(process: &Process) -> Vec<(Position, Event)> {
    let Process { state, observed, .. } = process;
    let heard = |server_id| observed.seen(server_id).map(|seen| (seen.position, seen.load));
    disk::news(state, heard).collect()
}

/// The next step of letting a worker in: what is to be appended, or what it is told.
fn admission(process: &Process, worker: usize, new_id: ServerId, adopts: bool, steps: u32) -> Admission {
    let claim = claim(worker);
    let join = |server_id| {
        Admission::Append(Command::JoinServer {
            server_id,
            name: claim.name.clone(),
            public_key: claim.public_key,
            labels: claim.labels.clone(),
            capacity: claim.capacity,
        })
    };
    let Some((server_id, server)) = process.state.server_by_key(&claim.public_key) else {
        return match process.state.server_by_name(&claim.name) {
            Some((announced, server)) if server.public_key.is_none() => join(announced),
            Some(_) | None => join(new_id),
        };
    };
    match server.membership {
        Membership::Detached { seen_again: false } if steps == 0 => join(server_id),
        Membership::Detached { .. } => Admission::Reply(Reply::Detached),
        Membership::Undefined if adopts => {
            Admission::Append(Command::AdoptServer { server_id, expected: server.version })
        }
        Membership::Undefined => Admission::Reply(Reply::Welcome { server_id, adopted: false }),
        Membership::Adopted => Admission::Reply(Reply::Welcome { server_id, adopted: true }),
    }
}
