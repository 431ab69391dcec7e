//! After the faults: everything that can be recorded must come to be recorded, and then nothing may move any more.

use longwatch_events::id::CopyKey;
use longwatch_events::state::State;

use super::World;
use crate::simulation::audit::recorded_by;
use crate::simulation::invariant::Invariant;
use crate::simulation::oracle;
use crate::simulation::replica::Link;

/// It must be quiet by then, in milliseconds: the slowest policy moves one camera at a time.
const QUIET_WITHIN_MS: i64 = 2_400_000;
/// Nothing moves for so much longer than the longest time that policy lets anything wait.
const QUIET_FOR_MS: i64 = 12_000;

impl World {
    pub(super) fn watch_calm(&mut self) {
        let Some(calm_since) = self.calm_since else { return };
        self.revive();
        let policy = self.audit.state().policy;
        let waits_s = [
            policy.failback.stable_s,
            policy.rebalance.stable_s,
            policy.moves.retry_after_s,
            policy.moves.timeout_s,
        ];
        let longest_s = waits_s.into_iter().max().unwrap_or_default();
        // What happened before the clock of NATS was set back waits for so much longer.
        let quiet_for_ms = i64::from(longest_s) * 1_000 + QUIET_FOR_MS + self.liveness.ahead_ms;
        let quiet_ms = self.env.now.millis_since(self.audit.moved_at.max(calm_since));
        if quiet_ms > quiet_for_ms {
            self.finish();
        } else if self.env.now.millis_since(calm_since) > QUIET_WITHIN_MS {
            self.env.broken(Invariant::Converges, "plans are made for ever".to_owned());
        }
    }

    /// An operator starts control replicas anew that have halted, with the newest program.
    fn revive(&mut self) {
        for replica in &mut self.replicas {
            let has_halted = replica.process.as_ref().is_some_and(|process| process.halted.is_some());
            if has_halted && replica.paused.is_none() {
                replica.kill(self.env.now);
                replica.program = longwatch_events::fold::VERSION;
                if self.audit.was_rolled_back {
                    replica.forget_rows();
                }
                replica.start(&mut self.env);
            }
        }
    }

    /// Replicas that know of the rollback have halted.
    pub(super) fn check_halted(&mut self) {
        let end = self.nats.ends().log;
        for index in 0..self.replicas.len() {
            let replica = &self.replicas[index];
            let Some(process) = replica.process.as_ref().filter(|_| replica.paused.is_none()) else {
                continue;
            };
            let is_ahead = process.state.position > end && process.heard_after(self.nats_started_at);
            if is_ahead && process.halted.is_none() && replica.link == Link::UP {
                let what = format!("r{index} is at {}, the log ends at {end}", process.state.position);
                self.env.broken(Invariant::HaltsLoudly, what);
            }
        }
    }

    /// The end of a run: everything is where it should be.
    fn finish(&mut self) {
        self.is_over = true;
        let found = self.audit.check_commands(&self.nats);
        self.env.check(found);
        let state = self.audit.state().clone();
        let found = self
            .check_control(&state)
            .and_then(|()| self.check_recorded(&state))
            .and_then(|()| check_left_out(&state));
        self.env.check(found.map_err(|what| (Invariant::Converges, what)));
        self.env.note(format_args!("the end, at position {}", state.position));
    }

    /// All replicas stand at the end of the log and decide; nobody is taken for lost.
    fn check_control(&self, state: &State) -> Result<(), String> {
        for replica in &self.replicas {
            let name = replica.name();
            let Some(process) = &replica.process else { return Err(format!("{name} is not there")) };
            if let Some(why) = &process.halted {
                return Err(format!("{name} has halted: {why}"));
            }
            if process.state.content_hash() != state.content_hash() {
                return Err(format!(
                    "{name} is at {}, the log at {}",
                    process.state.position, state.position
                ));
            }
        }
        if state.index().moving().len() > 0 {
            return Err(format!("{:?} are still on the move", state.index().moving().collect::<Vec<_>>()));
        }
        for worker in &self.workers {
            let server = worker.server_id().and_then(|id| state.server(id));
            if server.is_some_and(|server| server.is_ours() && server.lost.is_some()) {
                return Err(format!("s{} is still taken for lost", worker.index));
            }
        }
        Ok(())
    }

    /// Every camera is recorded by exactly the servers that State says.
    fn check_recorded(&self, state: &State) -> Result<(), String> {
        for worker in &self.workers {
            let recorded = worker.recorded();
            let mut wanted = worker.server_id().map(|id| recorded_by(state, id)).unwrap_or_default();
            if let Some(server) = worker.server_id().and_then(|id| state.server(id))
                && !server.is_ours()
            {
                wanted.clear();
            }
            let (missing, surplus) = (
                wanted.keys().find(|key| !recorded.contains_key(key)),
                recorded.keys().find(|key| !wanted.contains_key(key)),
            );
            if missing.is_some() || surplus.is_some() {
                return Err(format!(
                    "s{} at revision {:?} does not record {missing:?}, and records {surplus:?} for no reason",
                    worker.index,
                    worker.applied()
                ));
            }
            let other_epoch = wanted.iter().find(|(key, version)| recorded.get(key) != Some(&version.epoch));
            // After a rollback epochs come again: a worker keeps the higher one it has seen.
            if let Some((key, version)) = other_epoch
                && !self.audit.was_rolled_back
            {
                return Err(format!("s{} records {key:?} not under epoch {}", worker.index, version.epoch));
            }
        }
        Ok(())
    }
}

/// Nobody is left without a server while one has room.
fn check_left_out(state: &State) -> Result<(), String> {
    let rooms = oracle::rooms(state);
    for (tenant_id, camera_id, camera) in state.cameras().filter(|(_, _, camera)| camera.wants_recording()) {
        for (number, copy) in camera.copies().filter(|(_, copy)| copy.assignment().is_none()) {
            let key = CopyKey { tenant_id, camera_id, copy: number };
            let has_another =
                |id| camera.copies().any(|(_, other)| other.servers().any(|server| server == id));
            let room =
                rooms.iter().find(|(id, room)| !has_another(**id) && room.takes(**id, camera, copy.home()));
            if let Some((server_id, _)) = room {
                return Err(format!("{key:?} has no server, although {server_id} has room: {copy:?}"));
            }
        }
    }
    Ok(())
}
