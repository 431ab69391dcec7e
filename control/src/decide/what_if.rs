//! What would happen if servers were lost: the same placement on the same State, nothing changed.

use std::collections::{BTreeMap, BTreeSet};

use longwatch_events::event::Decision;
use longwatch_events::id::{CopyKey, ServerId};
use longwatch_events::index;
use longwatch_events::reason::{AssignReason, UnplacedReason};
use longwatch_events::settings::Priority;
use longwatch_events::state::State;
use longwatch_events::time::Timestamp;

use super::placement::{self, Evidence, Inputs, Scope};

/// What would become of the copies of the lost servers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outlook {
    /// Where they would be recorded.
    pub placed: Vec<(CopyKey, ServerId, AssignReason)>,
    /// Those that no server has room for, and why; also those of other servers that give up their place.
    pub unplaced: Vec<(CopyKey, Priority, UnplacedReason)>,
    /// Those of priority `never`: they would wait for their server.
    pub waiting: Vec<CopyKey>,
    /// What their cameras are expected to send, of all that would not be recorded, in bits per second.
    pub missing_bitrate_bps: u64,
    /// The same of those for whom there is no room: those that wait would not be helped by any.
    pub missing_room_bps: u64,
}

impl Outlook {
    /// How many would not be recorded, by priority.
    pub fn missing(&self) -> BTreeMap<Priority, usize> {
        let mut missing = BTreeMap::new();
        for (_, priority, _) in &self.unplaced {
            *missing.entry(*priority).or_default() += 1;
        }
        if !self.waiting.is_empty() {
            missing.insert(Priority::Never, self.waiting.len());
        }
        missing
    }
}

/// What would happen if all of `lose` were lost at `now`.
pub fn lose(state: &State, now: Timestamp, lose: &BTreeSet<ServerId>) -> Outlook {
    let evidence = Evidence::new();
    let plan = placement::plan(&Inputs { state, now, evidence: &evidence, lose, scope: Scope::Failover });
    let mut decided: BTreeMap<_, _> =
        plan.entries.iter().map(|entry| (entry.key(), entry.decision)).collect();
    let mut outlook = Outlook::default();
    for server_id in lose {
        for key in state.index().roster(*server_id).copies() {
            let Some((camera, copy)) = state.copy(key) else { continue };
            let is_theirs = copy.assignment().is_some_and(|now_on| now_on.server_id == *server_id);
            // A copy that was only on its way there stays where it is.
            if !is_theirs {
                continue;
            }
            match decided.remove(&key) {
                Some(Decision::Assign { server_id, reason } | Decision::Move { server_id, reason }) => {
                    outlook.placed.push((key, server_id, reason));
                }
                Some(Decision::Finish { .. }) => {
                    outlook.placed.extend(copy.successor().map(|new| (key, new.server_id, new.reason)));
                }
                Some(Decision::Unplace { reason: UnplacedReason::Disabled }) => {}
                Some(Decision::Unplace { reason }) => {
                    outlook.unplaced.push((key, camera.settings.failover_priority, reason));
                }
                Some(Decision::Abandon { .. }) | None => outlook.waiting.push(key),
            }
        }
    }
    for (key, decision) in decided {
        let Decision::Unplace { reason: reason @ UnplacedReason::Preempted } = decision else { continue };
        let priority = state.copy(key).map(|(camera, _)| camera.settings.failover_priority);
        outlook.unplaced.extend(priority.map(|priority| (key, priority, reason)));
    }
    let missing = outlook.unplaced.iter().map(|(key, ..)| key);
    outlook.missing_room_bps = bitrate(state, missing);
    outlook.missing_bitrate_bps = outlook.missing_room_bps.saturating_add(bitrate(state, &outlook.waiting));
    outlook
}

/// What the cameras of `copies` are expected to send together.
fn bitrate<'a>(state: &State, copies: impl IntoIterator<Item = &'a CopyKey>) -> u64 {
    let known = copies.into_iter().filter_map(|key| Some(index::bitrate(state.copy(*key)?.0)));
    known.fold(0, u64::saturating_add)
}
