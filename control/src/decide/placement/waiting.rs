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
struct Waiting {
    priority: Priority,
    /// First copies come before second ones.
    copy: u8,
    key: CopyKey,
    /// The server it belongs to, if it was or is to be taken from there.
    home: Option<ServerId>,
}

impl<'a> Draft<'a> {
    /// Places what waits, by priority; says of the rest why it has no place.
    pub(super) fn place_waiting(&mut self) {
        let mut waiting = self.waiting();
        waiting.sort_unstable();
        let mut left_out: Vec<_> = waiting.into_iter().filter(|copy| !self.place(*copy)).collect();
        if self.inputs.state.policy.preempt_low {
            left_out = self.preempt(left_out);
        }
        // Only now is it known what is left of the room, and so what each of them lacks.
        for copy in left_out {
            self.leave_out(copy);
        }
    }

    fn waiting(&mut self) -> Vec<Waiting> {
        let state = self.inputs.state;
        let mut waiting = Vec::new();
        for key in state.index().waiting() {
            let (camera, copy) = self.copy(key);
            if !camera.wants_recording() {
                self.decided.insert(key, Decision::Unplace { reason: UnplacedReason::Disabled });
            } else if copy.assignment().is_none() {
                let priority = camera.settings.failover_priority;
                waiting.push(Waiting { priority, copy: key.copy, key, home: copy.home });
            }
        }
        let lost = state.servers().filter(|(id, server)| server.is_ours() && !self.is_up(*id));
        for (server_id, _) in lost {
            waiting.extend(state.index().roster(server_id).copies().filter_map(|key| {
                let (camera, copy) = self.copy(key);
                let priority = camera.settings.failover_priority;
                let is_here = copy.assignment().is_some_and(|assignment| assignment.server_id == server_id);
                let is_left = is_here && camera.wants_recording() && !self.decided.contains_key(&key);
                let home = copy.home.or(Some(server_id));
                (is_left && priority != Priority::Never).then_some(Waiting {
                    priority,
                    copy: key.copy,
                    key,
                    home,
                })
            }));
        }
        waiting
    }

    /// Finds a server for a copy; false if none has room.
    fn place(&mut self, waiting: Waiting) -> bool {
        let Waiting { key, home, .. } = waiting;
        let request = self.request(key, home);
        self.note(key, &request);
        let Some((server_id, reason)) = self.choose(key, home, &request) else { return false };
        self.rooms.take(server_id, request.bitrate_bps);
        self.decided.insert(key, Decision::Assign { server_id, reason });
        true
    }

    fn choose(
        &mut self,
        key: CopyKey,
        home: Option<ServerId>,
        request: &Request<'a>,
    ) -> Option<(ServerId, AssignReason)> {
        if let Some(home) = home.filter(|home| self.rooms.may_have(*home, request)) {
            return Some((home, AssignReason::Home));
        }
        let taken_over = |otherwise| if home.is_some() { AssignReason::Failover } else { otherwise };
        let preferred = self.copy(key).0.settings.preferred_server_id;
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

    /// Gives places of `low` copies to `high` ones; returns who is left out then.
    fn preempt(&mut self, left_out: Vec<Waiting>) -> Vec<Waiting> {
        let mut low = self.low_copies();
        let mut still_out = Vec::new();
        let mut evicted = Vec::new();
        for waiting in left_out {
            if waiting.priority != Priority::High {
                still_out.push(waiting);
                continue;
            }
            match self.make_room(waiting, &low) {
                Some((at, victim)) => {
                    low.remove(at);
                    evicted.push(victim);
                }
                None => still_out.push(waiting),
            }
        }
        // What they gave up may have been more than was needed.
        self.exhausted.clear();
        for victim in evicted {
            self.decided.remove(&victim.key);
            if !self.place(victim) {
                self.decided.insert(victim.key, Decision::Unplace { reason: UnplacedReason::Preempted });
            }
        }
        still_out
    }

    /// All copies of priority `low` that have a place and are not on the move, or are given one by this plan.
    fn low_copies(&self) -> Vec<(ServerId, Waiting)> {
        let state = self.inputs.state;
        let held =
            self.rooms.all().flat_map(|(id, _)| state.index().roster(id).copies().map(move |key| (id, key)));
        let held = held.filter(|(id, key)| {
            let (_, copy) = self.copy(*key);
            let is_here = copy.assignment().is_some_and(|assignment| assignment.server_id == *id);
            is_here && copy.successor().is_none() && !self.decided.contains_key(key)
        });
        let placed = self.decided.keys().filter_map(|key| Some((self.going_to(*key)?, *key)));
        let low = held.chain(placed).filter_map(|(id, key)| {
            let (camera, copy) = self.copy(key);
            let priority = camera.settings.failover_priority;
            let lost = copy.assignment().map(|assignment| assignment.server_id).filter(|id| !self.is_up(*id));
            let waiting = Waiting { priority, copy: key.copy, key, home: copy.home.or(lost) };
            (priority == Priority::Low).then_some((id, waiting))
        });
        // The last to be placed is the first to go.
        let mut low: Vec<_> = low.collect();
        low.sort_unstable_by(|(_, a), (_, b)| b.cmp(a));
        low
    }

    /// Puts a copy in the place of the first of `low` whose place would do; returns which of them that was.
    fn make_room(&mut self, waiting: Waiting, low: &[(ServerId, Waiting)]) -> Option<(usize, Waiting)> {
        let Waiting { key, home, .. } = waiting;
        let request = self.request(key, home);
        for (at, (server_id, victim)) in low.iter().enumerate() {
            let bitrate_bps = index::bitrate(self.copy(victim.key).0);
            self.rooms.give(*server_id, bitrate_bps);
            if self.rooms.may_have(*server_id, &request) {
                let reason = if home.is_some() { AssignReason::Failover } else { AssignReason::LeastLoaded };
                self.rooms.take(*server_id, request.bitrate_bps);
                self.decided.insert(key, Decision::Assign { server_id: *server_id, reason });
                return Some((at, *victim));
            }
            self.rooms.take(*server_id, bitrate_bps);
        }
        None
    }

    /// Says why a copy has no place, unless that is known already.
    fn leave_out(&mut self, waiting: Waiting) {
        let request = self.request(waiting.key, waiting.home);
        let key = request.kind().map(|kind| (kind, request.bitrate_bps));
        let known = key.and_then(|key| self.reasons.get(&key).copied());
        let reason = known.unwrap_or_else(|| self.lack(&request));
        if let Some(key) = key {
            self.reasons.insert(key, reason);
        }
        let is_known = match self.copy(waiting.key).1.placement {
            Placement::Unplaced { reason: UnplacedReason::Preempted, .. } => is_lack_of_room(reason),
            Placement::Unplaced { reason: known, .. } => known == reason,
            Placement::Unplanned | Placement::Assigned(_) => false,
        };
        if !is_known {
            self.decided.insert(waiting.key, Decision::Unplace { reason });
        }
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
