//! Evening the load out: copies go from the fullest server to the emptiest, as long as the two differ by more than policy
//! bears and the move makes the difference smaller.
//!
//! Only declared figures count, never measured ones: those go up and down, and so would the cameras. And only copies that
//! have been where they are for as long as a server must have been there to be given some: nobody is sent on at once.

use std::collections::{BTreeMap, BTreeSet};

use longwatch_events::event::Decision;
use longwatch_events::id::{CopyKey, ServerId};
use longwatch_events::index;
use longwatch_events::policy::Mode;
use longwatch_events::reason::{AssignReason, UnplacedReason};
use longwatch_events::settings::Labels;

use super::Draft;

/// So many of the emptiest servers are tried for a copy: were it all of ten thousand, a fleet whose labels keep it from
/// being even would cost a second at every look.
const EMPTIEST: usize = 64;

/// Servers by how full they will be, as far as they may give or be given copies.
struct Loads {
    givers: BTreeSet<(u64, ServerId)>,
    takers: BTreeSet<(u64, ServerId)>,
}

/// Copies of one server that differ in nothing that counts here: if one finds no taker, none does.
type Alike<'a> = (Option<&'a Labels>, Option<&'a str>, u64);

impl<'a> Draft<'a> {
    pub(super) fn rebalance(&mut self, budget: &mut usize) {
        if self.inputs.state.policy.rebalance.mode != Mode::Automatic {
            return;
        }
        // Again: who gave may be empty enough now for those that found nobody before.
        while *budget > 0 && self.even_out(budget) {}
    }

    /// Goes through all servers, the fullest first; whether a move was begun.
    fn even_out(&mut self, budget: &mut usize) -> bool {
        // Mostly there is nothing to do, and to see that is cheaper than to put ten thousand servers in order.
        let loads = self.rooms.all().map(|(_, room)| room.settled_load());
        let (most, least) =
            loads.fold((0, u64::MAX), |(most, least), load| (most.max(load), least.min(load)));
        if !self.is_uneven(most, least) {
            return false;
        }
        let mut loads = self.loads();
        let mut candidates = BTreeMap::new();
        let mut has_begun = false;
        while *budget > 0
            && let Some(&(most, from)) = loads.givers.last()
            && let Some(&(least, _)) = loads.takers.first()
            && self.is_uneven(most, least)
        {
            let rest: &mut Vec<CopyKey> =
                candidates.entry(from).or_insert_with(|| self.may_be_evened_out(from));
            let Some((at, to)) = self.first_move(from, most, rest, &loads.takers) else {
                loads.givers.remove(&(most, from));
                continue;
            };
            let key = rest.remove(at);
            self.note(key, &self.request(key, None));
            let before = [(from, self.settled_load(from)), (to, self.settled_load(to))];
            self.begin(key, from, to, AssignReason::Rebalance, budget);
            for (id, load) in before {
                loads.update(id, load, self.settled_load(id));
            }
            has_begun = true;
        }
        has_begun
    }

    fn settled_load(&self, server_id: ServerId) -> u64 {
        self.rooms.get(server_id).map_or(0, |room| room.settled_load())
    }

    fn is_uneven(&self, most: u64, least: u64) -> bool {
        let threshold = u64::from(self.inputs.state.policy.rebalance.threshold_percent) * 10_000;
        most.saturating_sub(least) > threshold
    }

    /// A server that is being emptied gives by other rules; one is given copies of others if it has been there for long
    /// enough and no copies wait to come back to it.
    fn loads(&self) -> Loads {
        let (state, now) = (self.inputs.state, self.inputs.now);
        let stable_ms = i64::from(state.policy.rebalance.stable_s) * 1_000;
        let mut loads = Loads { givers: BTreeSet::new(), takers: BTreeSet::new() };
        for (server_id, room) in self.rooms.all() {
            let Some(server) = state.server(server_id).filter(|server| server.draining_since.is_none())
            else {
                continue;
            };
            let load = (room.settled_load(), server_id);
            if state.index().roster(server_id).at_will() > 0 {
                loads.givers.insert(load);
            }
            let is_awaited = state.index().away_from(server_id).any(|key| self.is_still_away(key));
            if now.millis_since(server.present_since) >= stable_ms && !is_awaited {
                loads.takers.insert(load);
            }
        }
        loads
    }

    /// Whether a copy that others took over still belongs to its home after this plan.
    fn is_still_away(&self, key: CopyKey) -> bool {
        match self.decision(key, self.copy(key).0) {
            Some(Decision::Assign { reason, .. }) => *reason == AssignReason::Failover,
            Some(Decision::Unplace { reason }) => *reason != UnplacedReason::Disabled,
            Some(Decision::Move { .. } | Decision::Finish { .. } | Decision::Abandon { .. }) | None => true,
        }
    }

    /// The first of `candidates` that one of the emptiest servers may have, and that server.
    fn first_move(
        &self,
        from: ServerId,
        most: u64,
        candidates: &[CopyKey],
        takers: &BTreeSet<(u64, ServerId)>,
    ) -> Option<(usize, ServerId)> {
        let mut hopeless: BTreeSet<Alike<'a>> = BTreeSet::new();
        for (at, key) in candidates.iter().enumerate() {
            let request = self.request(*key, None);
            let alike = (request.labels(), request.zone(), request.bitrate_bps);
            if request.is_alone() && hopeless.contains(&alike) {
                continue;
            }
            let zones_here = self.rooms.zones(from, &request);
            let emptier = takers.iter().take(EMPTIEST).take_while(|(load, _)| self.is_uneven(most, *load));
            let fitting = emptier.filter(|(_, to)| {
                self.rooms.may_have(*to, &request) && self.makes_smaller(request.bitrate_bps, from, *to)
            });
            let ranked = fitting.map(|(load, to)| (self.rooms.zones(*to, &request), *load, *to));
            // Even load is worth less than what zones are for.
            if let Some((_, _, to)) = ranked.filter(|(zones, ..)| *zones <= zones_here).min() {
                return Some((at, to));
            }
            if request.is_alone() {
                hopeless.insert(alike);
            }
        }
        None
    }

    /// The copies of a server that nobody and nothing wants just there, the last to be placed first.
    fn may_be_evened_out(&self, from: ServerId) -> Vec<CopyKey> {
        let stable_ms = i64::from(self.inputs.state.policy.rebalance.stable_s) * 1_000;
        let goes = |key: &CopyKey| {
            self.movable(*key).is_some_and(|(camera, copy, now_on)| {
                now_on.server_id == from
                    && index::is_at_will(camera, copy)
                    && !self.is_resting(copy)
                    && self.inputs.now.millis_since(now_on.since) >= stable_ms
            })
        };
        self.inputs.state.index().roster(from).copies().rev().filter(goes).collect()
    }

    /// Whether the two servers differ less once a copy has moved.
    fn makes_smaller(&self, bitrate_bps: u64, from: ServerId, to: ServerId) -> bool {
        let (Some(giver), Some(taker)) = (self.rooms.get(from), self.rooms.get(to)) else { return false };
        taker.settled_load_with(bitrate_bps) <= giver.settled_load_without(bitrate_bps)
    }
}

impl Loads {
    /// A server is fuller or emptier now.
    fn update(&mut self, server_id: ServerId, before: u64, after: u64) {
        for set in [&mut self.givers, &mut self.takers] {
            if set.remove(&(before, server_id)) {
                set.insert((after, server_id));
            }
        }
    }
}
