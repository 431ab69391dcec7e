//! Copies without a server that can record: the new ones, those of lost servers, those that found no room before.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use longwatch_events::event::Decision;
use longwatch_events::id::{CopyKey, ServerId};
use longwatch_events::index;
use longwatch_events::reason::{AssignReason, UnplacedReason};
use longwatch_events::settings::Priority;
use longwatch_events::state::{Camera, CameraCopy, Placement};

use super::Draft;
use super::rooms::{Refusal, Request};

/// A copy that needs a decision; ordered as they are decided.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waiting<'a> {
    priority: Priority,
    key: CopyKey,
    /// Looked up once: there may be a million of them.
    camera: &'a Camera,
    copy: &'a CameraCopy,
    /// The server it belongs to, if it was or is to be taken from there.
    home: Option<ServerId>,
}

impl Waiting<'_> {
    /// By priority, first copies before second ones.
    const fn turn(&self) -> (Priority, u8) {
        (self.priority, self.key.copy)
    }
}

/// In the order in which they are decided: by turn, then by tenant and camera. Mostly they come by tenant and camera, and a
/// million of them are sorted into few turns faster than by comparing.
fn in_turn(waiting: Vec<Waiting<'_>>) -> Vec<Waiting<'_>> {
    let mut turns = BTreeMap::<_, Vec<_>>::new();
    for copy in waiting {
        turns.entry(copy.turn()).or_default().push(copy);
    }
    for turn in turns.values_mut() {
        turn.sort_unstable_by_key(|copy| copy.key);
    }
    turns.into_values().flatten().collect()
}

impl<'a> Draft<'a> {
    /// Places what waits, by priority; returns who has no place then.
    pub(super) fn place_waiting(&mut self, waiting: Vec<Waiting<'a>>) -> Vec<Waiting<'a>> {
        let mut waiting = in_turn(waiting);
        if !self.inputs.state.policy.preempt_low {
            return self.place_all(waiting);
        }
        let others = waiting.split_off(waiting.partition_point(|copy| copy.priority == Priority::High));
        let high = self.place_all(waiting);
        let (mut left_out, mut victims) = self.preempt(high);
        victims.extend(others);
        left_out.extend(self.place_all(in_turn(victims)));
        left_out
    }

    /// Places one after the other; returns who has no place then.
    fn place_all(&mut self, waiting: Vec<Waiting<'a>>) -> Vec<Waiting<'a>> {
        waiting.into_iter().filter(|copy| !self.place(*copy)).collect()
    }

    /// All copies that need a server. Takes theirs from cameras that are not to be recorded, on the way: every one is looked
    /// up only once.
    pub(super) fn waiting(&mut self) -> Vec<Waiting<'a>> {
        let state = self.inputs.state;
        let mut waiting = Vec::new();
        for key in state.index().waiting() {
            let (camera, copy) = self.copy(key);
            let priority = camera.settings.failover_priority;
            if !camera.wants_recording() {
                self.switch_off(key, camera, copy);
            } else if copy.assignment().is_none() {
                waiting.push(Waiting { priority, key, camera, copy, home: copy.home() });
            }
        }
        let left_behind = self.rooms.down().iter().flat_map(|server_id| {
            state.index().roster(*server_id).copies().filter_map(move |key| {
                let (camera, copy) = state.copy(key)?;
                let priority = camera.settings.failover_priority;
                let is_here = copy.assignment().is_some_and(|now_on| now_on.server_id == *server_id);
                let home = copy.home().or(Some(*server_id));
                let waits = is_here && camera.wants_recording() && priority != Priority::Never;
                waits.then_some(Waiting { priority, key, camera, copy, home })
            })
        });
        waiting.extend(left_behind.filter(|copy| self.decision(copy.key, copy.camera).is_none()));
        waiting
    }

    /// Takes its server from a camera that is not to be recorded.
    fn switch_off(&mut self, key: CopyKey, camera: &Camera, copy: &CameraCopy) {
        let bitrate_bps = index::bitrate(camera);
        for server_id in copy.servers() {
            self.rooms.give(server_id, bitrate_bps);
        }
        if let (Some(old), Some(_)) = (copy.assignment(), copy.successor()) {
            self.rooms.stay(old.server_id, bitrate_bps);
        }
        self.decide(key, camera, Decision::Unplace { reason: UnplacedReason::Disabled });
    }

    /// Finds a server for a copy; false if none has room.
    fn place(&mut self, waiting: Waiting<'a>) -> bool {
        let request = self.request_of(waiting.key, waiting.camera, waiting.copy, waiting.home);
        self.note(waiting.key, &request);
        let Some((server_id, reason)) = self.choose(&waiting, &request) else { return false };
        self.rooms.take(server_id, request.bitrate_bps);
        self.decide(waiting.key, waiting.camera, Decision::Assign { server_id, reason });
        true
    }

    fn choose(&mut self, waiting: &Waiting<'a>, request: &Request<'a>) -> Option<(ServerId, AssignReason)> {
        let Waiting { camera, copy, .. } = waiting;
        let free = || request.without_home();
        if let Some(wished) = copy.requested().filter(|wished| self.rooms.may_have(*wished, &free())) {
            return Some((wished, AssignReason::Requested));
        }
        let preferred = camera.settings.preferred_server_id;
        if let Some(home) = request.home().filter(|home| self.rooms.may_have(*home, request)) {
            // Once it is at home nobody takes it over: the server it prefers may have it at once.
            let preferred = preferred.filter(|preferred| self.rooms.may_have(*preferred, &free()));
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
    fn preempt(&mut self, mut left_out: Vec<Waiting<'a>>) -> (Vec<Waiting<'a>>, Vec<Waiting<'a>>) {
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
    fn low_copies(&self) -> Vec<(ServerId, Waiting<'a>)> {
        let state = self.inputs.state;
        let held = self.rooms.all().flat_map(|(id, _)| state.index().roster(id).copies());
        let mut low: Vec<_> = held
            .filter_map(|key| {
                let (camera, copy, now_on) = self.movable(key)?;
                let priority = camera.settings.failover_priority;
                let waiting = Waiting { priority, key, camera, copy, home: copy.home() };
                (priority == Priority::Low).then_some((now_on.server_id, waiting))
            })
            .collect();
        // The last to be placed is the first to go.
        low.sort_unstable_by_key(|(_, waiting)| Reverse((waiting.turn(), waiting.key)));
        low
    }

    /// Puts a copy in the place of one of `low`: of the first of those whose zone suits it best. Returns which it was.
    fn make_room(&mut self, waiting: Waiting<'a>, low: &[(ServerId, Waiting<'a>)]) -> Option<usize> {
        let Waiting { key, camera, copy, home, .. } = waiting;
        let request = self.request_of(key, camera, copy, home);
        let would_do = low.iter().enumerate().filter_map(|(at, (server_id, victim))| {
            let bitrate_bps = index::bitrate(victim.camera);
            let does = self.rooms.may_have_instead(*server_id, &request, bitrate_bps);
            does.then(|| (self.rooms.zones(*server_id, &request), at))
        });
        let (_, at) = would_do.min()?;
        let (server_id, victim) = low[at];
        self.rooms.give(server_id, index::bitrate(victim.camera));
        self.exhausted.clear();
        self.note(key, &request);
        let reason = match home {
            None => AssignReason::LeastLoaded,
            Some(home) if home == server_id => AssignReason::Home,
            Some(_) => AssignReason::Failover,
        };
        self.rooms.take(server_id, request.bitrate_bps);
        self.decide(key, camera, Decision::Assign { server_id, reason });
        Some(at)
    }

    /// Says why a copy has no place, unless that is known already.
    pub(super) fn leave_out(&mut self, waiting: Waiting<'a>) {
        let Waiting { key, camera, copy, home, .. } = waiting;
        if copy.assignment().is_some_and(|now_on| self.is_up(now_on.server_id)) {
            self.decide(key, camera, Decision::Unplace { reason: UnplacedReason::Preempted });
            return;
        }
        let request = self.request_of(key, camera, copy, home);
        self.note(key, &request);
        let reason = self.why_left_out(&request);
        let is_known = match copy.placement {
            Placement::Unplaced { reason: UnplacedReason::Preempted, .. } => is_lack_of_room(reason),
            Placement::Unplaced { reason: known, .. } => known == reason,
            Placement::Unplanned | Placement::Assigned(_) => false,
        };
        if !is_known {
            self.decide(key, camera, Decision::Unplace { reason });
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
