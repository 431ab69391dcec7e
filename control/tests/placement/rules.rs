//! What must hold of planned moves: who may be moved at all, why, how many at once, and how a move may end.

use std::collections::BTreeSet;

use longwatch_events::event::Decision;
use longwatch_events::id::{CopyKey, ServerId};
use longwatch_events::policy::Mode;
use longwatch_events::reason::{AbandonReason, AssignReason, FinishReason};
use longwatch_events::settings::Priority;
use longwatch_events::time::Timestamp;

use crate::oracle::Case;
use crate::view::{Ask, Copy, Server, View};

impl Case {
    pub(crate) fn moves_are_right(&self) {
        self.not_too_many_at_once();
        for (key, decision) in &self.decisions {
            let before = &self.before.copies[key];
            match *decision {
                Decision::Move { server_id, reason } => self.has_cause(*key, before, server_id, reason),
                Decision::Finish { reason, evidence, .. } => {
                    self.may_finish(*key, before, reason, evidence.is_some())
                }
                Decision::Abandon { reason, .. } => self.may_be_abandoned(*key, before, reason),
                Decision::Assign { .. } | Decision::Unplace { .. } => {}
            }
        }
        self.who_is_well_stays();
        self.load_becomes_more_even();
    }

    fn not_too_many_at_once(&self) {
        let moving = |view: &View| view.copies.values().filter(|copy| copy.to.is_some()).count();
        let at_once = self.before.policy.moves.at_once as usize;
        assert!(moving(&self.after) <= at_once.max(moving(&self.before)));
    }

    fn has_cause(&self, key: CopyKey, copy: &Copy, to: ServerId, reason: AssignReason) {
        let on = copy.on.filter(|on| self.before.is_up(*on)).expect("only who is recorded is moved");
        assert!(copy.is_wanted && copy.to.is_none(), "{key:?} cannot be moved");
        let is_needed = self.must_leave(on, copy) || self.is_over(on);
        let has_cause = match reason {
            AssignReason::Requested => copy.requested == Some(to),
            AssignReason::Drain => self.must_leave(on, copy),
            AssignReason::Labels => !self.before.carries(on, &copy.labels),
            AssignReason::OverCapacity => self.is_over(on),
            AssignReason::Failback => copy.home == Some(to) && (is_needed || self.may_fail_back(copy, to)),
            AssignReason::Preferred => copy.preferred == Some(to) && copy.home.is_none(),
            AssignReason::Rebalance => may_be_evened_out(&self.before, self.now, copy),
            AssignReason::LeastLoaded | AssignReason::Failover | AssignReason::Home => false,
        };
        assert!(has_cause, "{key:?} is moved from {on} to {to} by {reason:?}");
        let rests = reason != AssignReason::Requested && is_resting(&self.before, self.now, copy);
        assert!(!rests, "{key:?} is moved again so soon, by {reason:?}");
    }

    fn must_leave(&self, on: ServerId, copy: &Copy) -> bool {
        self.before.is_draining(on) && copy.priority != Priority::Never
    }

    fn is_over(&self, server_id: ServerId) -> bool {
        let capacity = self.before.servers[&server_id].settings.capacity;
        let (cameras, bitrate_bps) = self.before.used(server_id, &BTreeSet::new());
        cameras > capacity.max_cameras || capacity.max_bitrate_bps.is_some_and(|max| bitrate_bps > max)
    }

    fn may_fail_back(&self, copy: &Copy, home: ServerId) -> bool {
        takes_back(&self.before, self.now, copy, &self.before.servers[&home])
    }

    fn may_finish(&self, key: CopyKey, copy: &Copy, reason: FinishReason, has_evidence: bool) {
        let (on, to) = (copy.on.unwrap(), copy.to.unwrap());
        assert!(self.before.is_up(to), "{key:?} cannot arrive on a lost server");
        assert_eq!(has_evidence, matches!(reason, FinishReason::FirstKeyframe | FinishReason::Stopped));
        let is_right = match reason {
            FinishReason::FirstKeyframe => true,
            FinishReason::Stopped => copy.single_session,
            FinishReason::OldLost => !self.before.is_up(on),
            FinishReason::TimedOut => copy.single_session || self.must_leave(on, copy),
        };
        assert!(is_right, "{key:?} ends by {reason:?}");
        assert_eq!((self.after.copies[&key].on, self.after.copies[&key].to), (Some(to), None));
    }

    fn may_be_abandoned(&self, key: CopyKey, copy: &Copy, reason: AbandonReason) {
        let (on, to) = (copy.on.unwrap(), copy.to.unwrap());
        let is_right = match reason {
            AbandonReason::NewLost => !self.before.is_up(to),
            AbandonReason::TimedOut => !copy.single_session && !self.must_leave(on, copy),
            AbandonReason::NotWanted => true,
        };
        assert!(is_right, "{key:?} is given up by {reason:?}");
        assert_eq!((self.after.copies[&key].on, self.after.copies[&key].to), (Some(on), None));
    }

    /// Who has a server that is up keeps it until a move is over, or gives way to somebody.
    fn who_is_well_stays(&self) {
        for (key, before) in self.before.copies.iter().filter(|(_, copy)| copy.is_wanted) {
            let Some(on) = before.on.filter(|on| self.before.is_up(*on)) else { continue };
            match self.decisions.get(key) {
                None | Some(Decision::Move { .. } | Decision::Abandon { .. }) => {
                    assert_eq!(self.after.copies[key].on, Some(on));
                }
                Some(Decision::Finish { .. }) => assert!(before.to.is_some()),
                Some(Decision::Assign { .. } | Decision::Unplace { .. }) => {
                    assert!(before.priority == Priority::Low && self.before.policy.preempt_low, "{key:?}");
                }
            }
        }
    }

    fn load_becomes_more_even(&self) {
        let is_rebalance = |reason| reason == AssignReason::Rebalance;
        let evened: Vec<_> = self.given().filter(|(_, _, reason)| is_rebalance(*reason)).collect();
        if evened.is_empty() {
            return;
        }
        // All else that this plan does, and nothing of this.
        let mut uneven = self.after.clone();
        let mut concerned = BTreeSet::new();
        for (key, to, _) in &evened {
            let copy = uneven.copies.get_mut(key).unwrap();
            copy.to = None;
            concerned.extend(copy.on.into_iter().chain([*to]));
            let taker = &self.before.servers[to];
            assert!(is_ready(&self.before, self.now, taker), "{to} was not there for long enough");
        }
        let shares = |view: &View| -> Vec<u64> {
            concerned.iter().map(|id| view.share(*id, view.settled(*id))).collect()
        };
        let (before, after) = (shares(&uneven), shares(&self.after));
        let (most, least) = (before.iter().max().unwrap(), before.iter().min().unwrap());
        let threshold = u64::from(self.before.policy.rebalance.threshold_percent) * 10_000;
        assert!(most - least > threshold, "{concerned:?} were even enough: {before:?}");
        assert!(
            after.iter().max() <= Some(most),
            "{concerned:?} became less even: {before:?}, then {after:?}"
        );
        assert!(
            after.iter().min() >= Some(least),
            "{concerned:?} became less even: {before:?}, then {after:?}"
        );
    }
}

/// Whether a move was given up so short a time ago that the copy is left alone.
pub(crate) fn is_resting(view: &View, now: Timestamp, copy: &Copy) -> bool {
    let rest_ms = i64::from(view.policy.moves.retry_after_s) * 1_000;
    copy.gave_up_at.is_some_and(|at| now.millis_since(at) < rest_ms)
}

pub(crate) fn takes_back(view: &View, now: Timestamp, copy: &Copy, home: &Server) -> bool {
    let failback = view.policy.failback;
    let is_stable = now.millis_since(home.present_since) >= i64::from(failback.stable_s) * 1_000;
    let by_itself = failback.mode == Mode::Automatic && is_stable && !copy.single_session;
    home.is_up && !home.is_draining && (by_itself || home.failback_requested)
}

fn is_ready(view: &View, now: Timestamp, server: &Server) -> bool {
    let stable_ms = i64::from(view.policy.rebalance.stable_s) * 1_000;
    server.is_up && !server.is_draining && now.millis_since(server.present_since) >= stable_ms
}

/// Whether a copy is where it is for no reason but room.
fn may_be_evened_out(view: &View, now: Timestamp, copy: &Copy) -> bool {
    let reasons = [
        AssignReason::LeastLoaded,
        AssignReason::Failover,
        AssignReason::Drain,
        AssignReason::OverCapacity,
        AssignReason::Labels,
        AssignReason::Rebalance,
    ];
    let stable_ms = i64::from(view.policy.rebalance.stable_s) * 1_000;
    view.policy.rebalance.mode == Mode::Automatic
        && copy.is_wanted
        && copy.on.is_some_and(|on| view.is_up(on) && !view.is_draining(on))
        && copy.to.is_none()
        && copy.reason.is_some_and(|reason| reasons.contains(&reason))
        && copy.since.is_some_and(|since| now.millis_since(since) >= stable_ms)
        && copy.home.is_none()
        && copy.requested.is_none()
        && copy.preferred != copy.on
        && copy.priority != Priority::Never
        && !copy.single_session
        && !is_resting(view, now, copy)
}

/// Whatever a quiet system still has to do by its own rules: nothing.
pub(crate) fn nothing_is_left_to_do(view: &View, now: Timestamp) {
    for (key, copy) in &view.copies {
        let Some(on) = copy.on.filter(|on| view.is_up(*on)) else { continue };
        assert_eq!(copy.to, None, "{key:?} never arrives");
        let ask = |home| Ask { home, leaving: Some(on), taken: view.siblings_on(*key), ..Ask::default() };
        if let Some(home) = copy.home.filter(|home| *home != on)
            && let Some(server) = view.servers.get(&home).filter(|home| takes_back(view, now, copy, home))
        {
            let obstacle = view.obstacle(*key, home, &ask(Some(home)));
            assert!(obstacle.is_some(), "{key:?} does not go home to {home}: {server:?}");
        }
        if let Some(preferred) =
            copy.preferred.filter(|id| *id != on && view.is_up(*id) && copy.home.is_none())
        {
            let obstacle = view.obstacle(*key, preferred, &ask(None));
            assert!(obstacle.is_some(), "{key:?} does not go to {preferred}, which it prefers");
        }
        if view.is_draining(on) && copy.priority != Priority::Never {
            let obstacles = view.obstacles(*key, &ask(copy.home.or(Some(on))));
            assert!(obstacles.values().all(Option::is_some), "{key:?} does not leave {on}, which is drained");
        }
        if !view.carries(on, &copy.labels) {
            let obstacles = view.obstacles(*key, &ask(None));
            assert!(obstacles.values().all(Option::is_some), "{key:?} stays on {on}, which lacks a label");
        }
        if may_be_evened_out(view, now, copy) {
            is_even(view, now, *key, copy, on, &ask(None));
        }
    }
}

/// No server that is emptier by more than policy bears could have the copy and be no fuller than this one then.
fn is_even(view: &View, now: Timestamp, key: CopyKey, copy: &Copy, on: ServerId, ask: &Ask) {
    let threshold = u64::from(view.policy.rebalance.threshold_percent) * 10_000;
    let share = |server_id| view.share(server_id, view.settled(server_id));
    let zones = |server_id: ServerId| {
        let of = |id: ServerId| view.zone(id);
        let shares = of(server_id)
            .is_some_and(|zone| ask.taken.iter().any(|id| view.is_up(*id) && of(*id) == Some(zone)));
        (shares, copy.zone.is_some() && of(server_id) != copy.zone.as_deref())
    };
    for (to, server) in &view.servers {
        let is_awaited = view.copies.values().any(|copy| copy.home == Some(*to));
        if !is_ready(view, now, server) || is_awaited || share(on).saturating_sub(share(*to)) <= threshold {
            continue;
        }
        let (cameras, bitrate_bps) = view.settled(on);
        let giver = view.share(on, (cameras - 1, bitrate_bps - copy.bitrate_bps));
        let (cameras, bitrate_bps) = view.settled(*to);
        let taker = view.share(*to, (cameras + 1, bitrate_bps + copy.bitrate_bps));
        let could = taker <= giver && zones(*to) <= zones(on) && view.obstacle(key, *to, ask).is_none();
        assert!(!could, "{key:?} stays on {on}, which is fuller than {to}");
    }
}
