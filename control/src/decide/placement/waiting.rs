//! Copies without a server that can record: the new ones, those of lost servers, those that found no room before.

use longwatch_events::event::Decision;
use longwatch_events::id::{CopyKey, ServerId};
use longwatch_events::index;
use longwatch_events::reason::{AssignReason, UnplacedReason};
use longwatch_events::settings::Priority;
use longwatch_events::state::Placement;

use super::Draft;
use super::rooms::{Refusal, Request};

/// A copy that needs a decision; ordered as they are decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Waiting {
    priority: Priority,
    /// First copies come before second ones.
    copy: u8,
    key: CopyKey,
    /// The server it belongs to, if it was or is to be taken from there.
    home: Option<ServerId>,
}

impl<'a> Draft<'a> {
    /// Takes their servers from cameras that are not to be recorded.
    pub(super) fn switch_off(&mut self) {
        let state = self.inputs.state;
        let off = state.index().waiting().filter(|key| !self.copy(*key).0.wants_recording());
        for key in off.collect::<Vec<_>>() {
            let (camera, copy) = self.copy(key);
            for server_id in copy.servers() {
                self.rooms.give(server_id, index::bitrate(camera));
            }
            if let (Some(old), Some(_)) = (copy.assignment(), copy.successor()) {
                self.rooms.stay(old.server_id, index::bitrate(camera));
            }
            self.decided.insert(key, Decision::Unplace { reason: UnplacedReason::Disabled });
        }
    }

    /// Places what waits, by priority; returns who has no place then.
    pub(super) fn place_waiting(&mut self) -> Vec<Waiting> {
        let mut waiting = self.waiting();
        waiting.sort_unstable();
        if !self.inputs.state.policy.preempt_low {
            return self.place_all(waiting);
        }
        let others = waiting.split_off(waiting.partition_point(|copy| copy.priority == Priority::High));
        let high = self.place_all(waiting);
        let (mut left_out, mut victims) = self.preempt(high);
        victims.extend(others);
        victims.sort_unstable();
        left_out.extend(self.place_all(victims));
        left_out
    }

    /// Places one after the other; returns who has no place then.
    fn place_all(&mut self, waiting: Vec<Waiting>) -> Vec<Waiting> {
        waiting.into_iter().filter(|copy| !self.place(*copy)).collect()
    }

    fn waiting(&self) -> Vec<Waiting> {
        let state = self.inputs.state;
        let unplaced = state.index().waiting().filter_map(|key| {
            let (camera, copy) = self.copy(key);
            let priority = camera.settings.failover_priority;
            let waits = camera.wants_recording() && copy.assignment().is_none();
            waits.then_some(Waiting { priority, copy: key.copy, key, home: copy.home() })
        });
        let lost = state.servers().filter(|(id, server)| server.is_ours() && !self.is_up(*id));
        let left_behind = lost.flat_map(|(server_id, _)| {
            state.index().roster(server_id).copies().filter_map(move |key| {
                let (camera, copy) = self.copy(key);
                let priority = camera.settings.failover_priority;
                let is_here = copy.assignment().is_some_and(|assignment| assignment.server_id == server_id);
                let is_left = is_here && camera.wants_recording() && !self.decided.contains_key(&key);
                let home = copy.home().or(Some(server_id));
                let waits = is_left && priority != Priority::Never;
                waits.then_some(Waiting { priority, copy: key.copy, key, home })
            })
        });
        unplaced.chain(left_behind).collect()
    }

    /// Finds a server for a copy; false if none has room.
    fn place(&mut self, waiting: Waiting) -> bool {
        let Waiting { key, home, .. } = waiting;
        let request = self.request(key, home);
        self.note(key, &request);
        let Some((server_id, reason)) = self.choose(key, &request) else { return false };
        self.rooms.take(server_id, request.bitrate_bps);
        self.decided.insert(key, Decision::Assign { server_id, reason });
        true
    }

    fn choose(&mut self, key: CopyKey, request: &Request<'a>) -> Option<(ServerId, AssignReason)> {
        let (camera, copy) = self.copy(key);
        let free = request.without_home();
        if let Some(wished) = copy.requested().filter(|wished| self.rooms.may_have(*wished, &free)) {
            return Some((wished, AssignReason::Requested));
        }
        let preferred = camera.settings.preferred_server_id;
        if let Some(home) = request.home().filter(|home| self.rooms.may_have(*home, request)) {
            // Once it is at home nobody takes it over: the server it prefers may have it at once.
            let preferred = preferred.filter(|preferred| self.rooms.may_have(*preferred, &free));
            return Some(preferred.map_or((home, AssignReason::Home), |id| (id, AssignReason::Preferred)));
        }
        let taken_over =
            |otherwise| if request.home().is_some() { AssignReason::Failover } else { otherwise };
        if let Some(preferred) = preferred.filter(|preferred| self.rooms.may_have(*preferred, request)) {
            return Some((preferred, taken_over(AssignReason::Preferred)));
        }
        let best = self.best(request)?;
        Some((best, taken_over(AssignReason::LeastLoaded)))
    }

    /// The best server for what is asked for; remembers what there is no room for.
    pub(super) fn best(&mut self, request: &Request<'a>) -> Option<ServerId> {
        let kind = request.kind();
        let known = kind.and_then(|kind| self.exhausted.get(&kind));
        if known.is_some_and(|bitrate_bps| request.bitrate_bps >= *bitrate_bps) {
            return None;
        }
        let best = self.rooms.best(request);
        if let (None, Some(kind)) = (best, kind) {
            self.exhausted.insert(kind, request.bitrate_bps);
        }
        best
    }

    /// Gives places of `low` copies to `high` ones; returns which of these have none even so, and who lost theirs.
    fn preempt(&mut self, mut left_out: Vec<Waiting>) -> (Vec<Waiting>, Vec<Waiting>) {
        let mut victims = Vec::new();
        let mut low = if left_out.is_empty() { Vec::new() } else { self.low_copies() };
        // Again and again: a victim may have left more than was needed, enough for one that was looked at before.
        loop {
            let victims_before = victims.len();
            let mut still_out = Vec::new();
            for waiting in left_out {
                if self.place(waiting) {
                    continue;
                }
                match self.make_room(waiting, &low) {
                    Some(at) => victims.push(low.remove(at).1),
                    None => still_out.push(waiting),
                }
            }
            left_out = still_out;
            if victims.len() == victims_before {
                return (left_out, victims);
            }
        }
    }

    /// All copies of priority `low` that a server records and that are not on the move.
    fn low_copies(&self) -> Vec<(ServerId, Waiting)> {
        let state = self.inputs.state;
        let held = self.rooms.all().flat_map(|(id, _)| state.index().roster(id).copies());
        let mut low: Vec<_> = held
            .filter_map(|key| {
                let (camera, copy, now_on) = self.movable(key)?;
                let priority = camera.settings.failover_priority;
                let waiting = Waiting { priority, copy: key.copy, key, home: copy.home() };
                (priority == Priority::Low).then_some((now_on.server_id, waiting))
            })
            .collect();
        // The last to be placed is the first to go.
        low.sort_unstable_by(|(_, a), (_, b)| b.cmp(a));
        low
    }

    /// Puts a copy in the place of one of `low`: of the first of those whose zone suits it best. Returns which it was.
    fn make_room(&mut self, waiting: Waiting, low: &[(ServerId, Waiting)]) -> Option<usize> {
        let Waiting { key, home, .. } = waiting;
        let request = self.request(key, home);
        let would_do = low.iter().enumerate().filter_map(|(at, (server_id, victim))| {
            let bitrate_bps = index::bitrate(self.copy(victim.key).0);
            let does = self.rooms.may_have_instead(*server_id, &request, bitrate_bps);
            does.then(|| (self.rooms.zones(*server_id, &request), at))
        });
        let (_, at) = would_do.min()?;
        let (server_id, victim) = low[at];
        self.rooms.give(server_id, index::bitrate(self.copy(victim.key).0));
        self.exhausted.clear();
        self.note(key, &request);
        let reason = match home {
            None => AssignReason::LeastLoaded,
            Some(home) if home == server_id => AssignReason::Home,
            Some(_) => AssignReason::Failover,
        };
        self.rooms.take(server_id, request.bitrate_bps);
        self.decided.insert(key, Decision::Assign { server_id, reason });
        Some(at)
    }

    /// Says why a copy has no place, unless that is known already.
    pub(super) fn leave_out(&mut self, waiting: Waiting) {
        let Waiting { key, home, .. } = waiting;
        let (_, copy) = self.copy(key);
        if copy.assignment().is_some_and(|now_on| self.is_up(now_on.server_id)) {
            self.decided.insert(key, Decision::Unplace { reason: UnplacedReason::Preempted });
            return;
        }
        let request = self.request(key, home);
        self.note(key, &request);
        let reason = self.why_left_out(&request);
        let is_known = match copy.placement {
            Placement::Unplaced { reason: UnplacedReason::Preempted, .. } => is_lack_of_room(reason),
            Placement::Unplaced { reason: known, .. } => known == reason,
            Placement::Unplanned | Placement::Assigned(_) => false,
        };
        if !is_known {
            self.decided.insert(key, Decision::Unplace { reason });
        }
    }

    fn why_left_out(&mut self, request: &Request<'a>) -> UnplacedReason {
        let key = request.kind().map(|kind| (kind, request.bitrate_bps));
        if let Some(known) = key.and_then(|key| self.reasons.get(&key)) {
            return *known;
        }
        let reason = self.lack(request);
        if let Some(key) = key {
            self.reasons.insert(key, reason);
        }
        reason
    }

    /// What is lacking: the last thing on which a server failed, of the one that came furthest.
    fn lack(&self, request: &Request<'_>) -> UnplacedReason {
        let refusals = self.rooms.all().filter_map(|(id, _)| self.rooms.refusal(id, request));
        match refusals.max() {
            None | Some(Refusal::NotAdopted | Refusal::Lost | Refusal::Draining | Refusal::Leaving) => {
                UnplacedReason::NoServer
            }
            Some(Refusal::Labels) => UnplacedReason::NoLabels,
            Some(Refusal::Disk) => UnplacedReason::NoDisk,
            Some(Refusal::OtherCopy) => UnplacedReason::NoOtherServer,
            Some(Refusal::Cameras) => UnplacedReason::NoCapacity,
            Some(Refusal::Bitrate) => UnplacedReason::NoBitrate,
            Some(Refusal::FailoverOff | Refusal::TakeoverLimit) => UnplacedReason::NoTakeover,
        }
    }
}

/// Whether it is the lack that made somebody give up their place.
const fn is_lack_of_room(reason: UnplacedReason) -> bool {
    match reason {
        UnplacedReason::NoCapacity | UnplacedReason::NoBitrate | UnplacedReason::NoTakeover => true,
        UnplacedReason::NoServer
        | UnplacedReason::NoLabels
        | UnplacedReason::NoDisk
        | UnplacedReason::NoOtherServer
        | UnplacedReason::Preempted
        | UnplacedReason::Disabled => false,
    }
}
