//! Whether servers are judged as they should be: nobody who lives, nobody of many who fall silent together, and whoever is
//! gone in time. The world knows who really is there, and what time it really is.

use std::collections::{BTreeMap, BTreeSet};

use longwatch_control::observed::Pace;
use longwatch_events::event::{
    Event, PolicyChanged, ServerAdded, ServerAdopted, ServerJoined, ServerLost, ServerReturned,
};
use longwatch_events::id::ServerId;
use longwatch_events::subject::LogStream;
use longwatch_events::time::Timestamp;

use super::World;
use crate::simulation::coverage::Seen;
use crate::simulation::happening::{Ending, Happening};
use crate::simulation::invariant::Invariant;
use crate::simulation::nats::Stored;
use crate::simulation::replica::Link;
use crate::simulation::scenario::Fault;

/// A server that is well may be silent for so much longer than the lease: it has to connect first.
const CONNECTS_WITHIN_MS: i64 = 2_500;
/// A judgement that is appended so much later than it was made is a late one.
const LATE_MS: i64 = 1_000;
/// Whoever has been well for so long is heard as usual.
const SETTLED_MS: i64 = 20_000;
/// A pause of the log up to this is shorter than any lease.
const SHORT_PAUSE_MS: i64 = 2_500;
/// What `control::observed` gives to connect in.
const RETURN_MS: i64 = 2_000;
/// While NATS stumbles the log runs for less than the time that NATS is there: those who let it run have to connect.
const STUMBLES: i64 = 2;
/// Looking, appending, and the time between two looks of the world.
const JUDGED_WITHIN_MS: i64 = 2_500;
/// For so long after NATS last stood still for a second it stumbles.
const STUMBLED_MS: i64 = 6_000;

#[derive(Default)]
pub(super) struct Liveness {
    mass: Option<Mass>,
    /// For how long servers that are gone could have been judged, in milliseconds.
    gone: BTreeMap<ServerId, i64>,
    looked_at: Timestamp,
    /// When servers came, or came back, and when they were judged last.
    came_at: BTreeMap<ServerId, Timestamp>,
    lost_at: BTreeMap<ServerId, Timestamp>,
    policy_changed_at: Timestamp,
    set_back_at: Timestamp,
    stuttered_at: Timestamp,
    lease_ms: i64,
    longest_lease_ms: i64,
    /// How far what stands in the log was ahead of the clock of NATS when calm began, in milliseconds.
    pub(super) ahead_ms: i64,
}

/// Servers that fell silent together.
struct Mass {
    /// Those of them to whom nothing else happened.
    untroubled: BTreeSet<usize>,
    since: Timestamp,
    over: Option<Over>,
}

/// When they began to be heard again, and whether they were too many, and silent for long enough that it was known.
struct Over {
    at: Timestamp,
    were_too_many: bool,
}

impl Liveness {
    /// From now on everybody has the time that follows a long pause of the log.
    pub(super) fn disturbed(&mut self) {
        self.gone.clear();
    }
}

impl World {
    /// Most servers fall silent together; then they are heard again within a second or so.
    pub(super) fn silence_many(&mut self) {
        if self.liveness.mass.as_ref().is_some_and(|mass| mass.over.is_none()) {
            return;
        }
        let ms = self.env.random.number(1_500..=20_000);
        let percent = self.env.random.one_of([60, 85, 100]);
        let link = self
            .env
            .random
            .one_of([Link { to_nats: false, ..Link::UP }, Link { to_nats: false, from_nats: false }]);
        let mut untroubled = BTreeSet::new();
        for worker in 0..self.workers.len() {
            let well_since = self.workers[worker].well_since;
            if well_since.is_none() || !self.env.random.percent(percent) {
                continue;
            }
            if well_since.is_some_and(|since| self.env.now.millis_since(since) > SETTLED_MS) {
                untroubled.insert(worker);
            }
            let later_ms = self.env.random.number(0..=1_000);
            self.cut(worker, link, ms + later_ms);
        }
        self.liveness.mass = Some(Mass { untroubled, since: self.env.now, over: None });
        self.env.after(ms, Happening::Over(Ending::ManySilent));
    }

    /// Something else happens to a server: it may be judged for that.
    pub(super) fn something_else_befalls(&mut self, worker: usize) {
        if let Some(mass) = &mut self.liveness.mass {
            mass.untroubled.remove(&worker);
        }
    }

    pub(super) fn many_are_heard_again(&mut self) {
        let are_too_many = self.too_many_are_mute();
        let long_ms = self.liveness.longest_lease_ms + CONNECTS_WITHIN_MS;
        let Some(mass) = self.liveness.mass.as_mut().filter(|mass| mass.over.is_none()) else { return };
        let at = self.env.now;
        let were_too_many = are_too_many && at.millis_since(mass.since) > long_ms;
        mass.over = Some(Over { at, were_too_many });
        if were_too_many {
            self.env.see(Seen::ManyWorkersSilent);
        }
    }

    /// Whether so many servers cannot be heard that none may be judged. Signs of life may be on their way.
    fn too_many_are_mute(&self) -> bool {
        let state = self.audit.state();
        let on_their_way = if self.env.scenario.faults.contains(&Fault::HeartbeatLate) { 3 } else { 1 };
        let present = state.servers().filter(|(_, server)| server.is_ours() && server.lost.is_none()).count();
        let is_present =
            |id| state.server(id).is_some_and(|server| server.is_ours() && server.lost.is_none());
        let mute = self.workers.iter().filter(|worker| !worker.link.to_nats);
        let mute = mute.filter(|worker| worker.server_id().is_some_and(is_present)).count();
        let percent = usize::from(state.policy.liveness.mass_silence_percent);
        mute.saturating_sub(on_their_way) * 100 > percent * present
    }

    /// A server is judged, by what the log held at some time.
    pub(super) fn check_loss(&mut self, record: &Stored, lost: &ServerLost) {
        let judged_at = self.nats.heard_at(record);
        self.liveness.lost_at.insert(lost.server_id, record.really_at);
        if judged_at.millis_since(self.liveness.stuttered_at) < STUMBLED_MS {
            self.env.see(Seen::LostWhileStuttering);
        }
        let heard = lost.last_heartbeat.and_then(|at| self.nats.get(LogStream::Heartbeats, at));
        if heard.is_some_and(|heard| {
            heard.really_at < self.liveness.set_back_at && self.liveness.set_back_at < judged_at
        }) {
            self.env.see(Seen::LostAfterSetBack);
        }
        let Some(worker) = self.workers.iter().find(|worker| worker.listens(lost.server_id)) else { return };
        let (index, well_since) = (worker.index, worker.well_since);
        self.check_mass(index, judged_at, lost);
        let Some(well_since) = well_since else { return };
        let lease_ms = i64::from(lost.lease_ms);
        let well_ms = judged_at.millis_since(well_since);
        let came_at = self.liveness.came_at.get(&lost.server_id);
        let is_new = came_at.is_some_and(|at| judged_at.millis_since(*at) <= lease_ms);
        if is_new || well_ms > lease_ms + CONNECTS_WITHIN_MS {
            let what = format!("s{index} was well for {well_ms} ms: {lost:?}");
            self.env.broken(Invariant::NoFalseExpiry, what);
        } else if self.env.now.millis_since(judged_at) > LATE_MS {
            self.env.see(Seen::JudgedLate);
        }
    }

    /// Of many who fell silent together nobody is judged.
    fn check_mass(&mut self, worker: usize, judged_at: Timestamp, lost: &ServerLost) {
        let Some(mass) = self.liveness.mass.as_ref().filter(|mass| mass.untroubled.contains(&worker)) else {
            return;
        };
        // By another policy they might not have been too many; and a late judgement may be about something before.
        let is_clear = judged_at > mass.since
            && mass.since > self.liveness.policy_changed_at
            && self.env.now.millis_since(judged_at) <= LATE_MS;
        let are_too_many = match &mass.over {
            None => self.too_many_are_mute(),
            Some(over) => over.were_too_many && judged_at.millis_since(over.at) <= CONNECTS_WITHIN_MS,
        };
        if is_clear && are_too_many {
            let over = mass.over.as_ref().map(|over| over.at);
            let what =
                format!("s{worker} fell silent with many at {}, over at {over:?}: {lost:?}", mass.since);
            self.env.broken(Invariant::MassSilenceSpares, what);
        }
    }

    /// Takes note of what changes how servers are judged.
    pub(super) fn note_liveness(&mut self, record: &Stored) {
        if let Event::ServerAdded(ServerAdded { server_id, .. })
        | Event::ServerJoined(ServerJoined { server_id, .. })
        | Event::ServerAdopted(ServerAdopted { server_id })
        | Event::ServerReturned(ServerReturned { server_id, .. }) = record.event
        {
            self.liveness.came_at.insert(server_id, record.really_at);
            self.liveness.gone.remove(&server_id);
        }
        if let Event::PolicyChanged(PolicyChanged { policy }) = &record.event {
            self.liveness.policy_changed_at = record.really_at;
            let lease_ms = i64::from(Pace::of(&policy.liveness, self.audit.state().fleet()).lease_ms);
            self.note_lease(lease_ms);
        }
    }

    /// An owner who makes the lease shorter gives everybody the old one anew: nobody is to be lost for speaking as seldom as it
    /// was told to. See `Observed::set_pace`.
    fn note_lease(&mut self, lease_ms: i64) {
        if lease_ms < std::mem::replace(&mut self.liveness.lease_ms, lease_ms) {
            self.liveness.disturbed();
        }
    }

    /// A replica that begins to listen gives everybody a lease anew, however short it was away.
    pub(super) fn note_start_of_replica(&mut self) {
        self.liveness.disturbed();
    }

    /// NATS was away for so long.
    pub(super) fn note_pause_of_nats(&mut self) {
        let away_ms = self.env.now.millis_since(self.nats_stopped_at);
        if away_ms > SHORT_PAUSE_MS {
            self.liveness.disturbed();
        }
    }

    pub(super) fn note_stutter(&mut self) {
        self.liveness.stuttered_at = self.env.now;
    }

    pub(super) fn note_clock_of_nats(&mut self, by_ms: i64) {
        self.liveness.disturbed();
        if by_ms < 0 {
            self.liveness.set_back_at = self.env.now;
        }
    }

    /// Whoever is gone is judged, once nothing has kept control from it for long enough.
    pub(super) fn watch_over_gone(&mut self) {
        let state = std::rc::Rc::clone(self.audit.state());
        let lease_ms = i64::from(Pace::of(&state.policy.liveness, state.fleet()).lease_ms);
        let longest_ms = self.liveness.longest_lease_ms.max(lease_ms);
        self.liveness.longest_lease_ms = longest_ms;
        self.note_lease(lease_ms);
        let passed_ms = self.env.now.millis_since(self.liveness.looked_at);
        self.liveness.looked_at = self.env.now;
        if !self.nats.is_up {
            return;
        }
        if !self.replicas.iter().all(super::Replica::is_well) || self.are_many_missing(&state) {
            return self.liveness.disturbed();
        }
        let is_gone = |id| {
            let mut its = self.workers.iter().filter(|worker| worker.server_id() == Some(id));
            its.all(|worker| worker.process.is_none() || !worker.link.to_nats)
        };
        let present = state.servers().filter(|(_, server)| server.is_ours() && server.lost.is_none());
        let gone: BTreeMap<_, _> = present
            .filter(|(id, _)| is_gone(*id))
            .map(|(id, _)| (id, self.liveness.gone.get(&id).map_or(0, |ms| ms + passed_ms)))
            .collect();
        let within_ms = STUMBLES * (longest_ms + RETURN_MS) + JUDGED_WITHIN_MS;
        if let Some((server_id, ms)) = gone.iter().find(|(_, ms)| **ms > within_ms) {
            let what = format!("{server_id} is gone, and could have been judged for {ms} ms");
            self.env.broken(Invariant::GoneIsNoticed, what);
        }
        self.liveness.gone = gone;
    }

    /// Whether so many servers are not there, or not for long, that control may not judge.
    fn are_many_missing(&self, state: &longwatch_events::state::State) -> bool {
        let settles_ms = self.liveness.longest_lease_ms + RETURN_MS + CONNECTS_WITHIN_MS;
        let recent_ms = 3 * self.liveness.longest_lease_ms + RETURN_MS;
        let is_settled = |id| {
            self.workers.iter().any(|worker| {
                let well_since = worker.well_since.filter(|_| worker.listens(id));
                well_since.is_some_and(|since| self.env.now.millis_since(since) > settles_ms)
            })
        };
        let was_lost_recently = |id| {
            let lost_at = self.liveness.lost_at.get(&id);
            lost_at.is_some_and(|at| self.env.now.millis_since(*at) < recent_ms)
        };
        let (mut present, mut missing) = (0, 0);
        for (id, server) in state.servers().filter(|(_, server)| server.is_ours()) {
            if server.lost.is_none() {
                present += 1;
                missing += usize::from(!is_settled(id));
            } else if was_lost_recently(id) {
                present += 1;
                missing += 1;
            }
        }
        missing * 100 > present * usize::from(state.policy.liveness.mass_silence_percent)
    }
}
