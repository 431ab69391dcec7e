//! Evening the load out: copies go from the fullest server to the emptiest, as long as the two differ by more than policy
//! bears and the move makes the difference smaller.
//!
//! Only declared figures count, never measured ones: those go up and down, and so would the cameras.

use std::collections::{BTreeMap, BTreeSet};

use longwatch_events::id::{CopyKey, ServerId};
use longwatch_events::policy::Mode;
use longwatch_events::reason::AssignReason;

use super::Draft;

impl Draft<'_> {
    pub(super) fn rebalance(&mut self, budget: &mut usize) {
        let rules = self.inputs.state.policy.rebalance;
        if *budget == 0 || rules.mode != Mode::Automatic {
            return;
        }
        let threshold = u64::from(rules.threshold_percent) * 10_000;
        let mut givers: BTreeSet<_> = self.rooms.all().map(|(id, room)| (room.settled_load(), id)).collect();
        let mut takers = self.takers();
        let mut candidates = BTreeMap::new();
        while *budget > 0 {
            let (Some(&(most, from)), Some(&(least, to))) = (givers.last(), takers.first()) else { return };
            if most.saturating_sub(least) <= threshold {
                return;
            }
            let rest: &mut Vec<CopyKey> =
                candidates.entry(from).or_insert_with(|| self.may_be_evened_out(from));
            let Some(key) = rest.pop() else {
                givers.remove(&(most, from));
                continue;
            };
            let request = self.request(key, None);
            self.note(key, &request);
            if !self.rooms.may_have(to, &request) || !self.makes_smaller(key, from, to) {
                continue;
            }
            self.begin(key, from, to, AssignReason::Rebalance, budget);
            for (set, id, before) in [(&mut givers, from, most), (&mut takers, to, least)] {
                set.remove(&(before, id));
                set.extend(self.rooms.get(id).map(|room| (room.settled_load(), id)));
            }
        }
    }

    /// Servers that may be given copies of others: they have been there for long enough, and no copies wait to come back
    /// to them.
    fn takers(&self) -> BTreeSet<(u64, ServerId)> {
        let (state, now) = (self.inputs.state, self.inputs.now);
        let stable_ms = i64::from(state.policy.rebalance.stable_s) * 1_000;
        let is_ready = |id: ServerId| {
            state.server(id).is_some_and(|server| {
                now.millis_since(server.present_since) >= stable_ms && server.draining_since.is_none()
            }) && state.index().away_from(id).next().is_none()
        };
        self.rooms.all().filter(|(id, _)| is_ready(*id)).map(|(id, room)| (room.settled_load(), id)).collect()
    }

    /// The copies of a server that nobody and nothing wants just there, the first to go last.
    fn may_be_evened_out(&self, from: ServerId) -> Vec<CopyKey> {
        let copies = self.inputs.state.index().roster(from).copies();
        let goes = copies.filter(|key| {
            let Some((camera, copy, now_on)) = self.movable(*key) else { return false };
            let is_at_will = match now_on.reason {
                AssignReason::LeastLoaded
                | AssignReason::Failover
                | AssignReason::Drain
                | AssignReason::OverCapacity
                | AssignReason::Labels
                | AssignReason::Rebalance => true,
                AssignReason::Preferred
                | AssignReason::Home
                | AssignReason::Failback
                | AssignReason::Requested => false,
            };
            let is_settled = camera.settings.preferred_server_id == Some(from) || copy.home.is_some();
            now_on.server_id == from
                && is_at_will
                && !is_settled
                && copy.requested().is_none()
                && !camera.settings.single_session
                && !self.is_resting(copy)
        });
        goes.collect()
    }

    /// Whether the two servers differ less once `key` has moved.
    fn makes_smaller(&self, key: CopyKey, from: ServerId, to: ServerId) -> bool {
        let bitrate_bps = longwatch_events::index::bitrate(self.copy(key).0);
        let (Some(giver), Some(taker)) = (self.rooms.get(from), self.rooms.get(to)) else { return false };
        taker.settled_load_with(bitrate_bps) <= giver.settled_load_without(bitrate_bps)
    }
}
