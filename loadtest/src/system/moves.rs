//! Planned moves, as the log tells them: what began when, and how it ended. Pure.

use std::collections::{BTreeMap, BTreeSet};

use longwatch_events::event::{Decision, Event};
use longwatch_events::id::{CameraId, ServerId};
use longwatch_events::position::{Epoch, Position};
use longwatch_events::reason::{AbandonReason, FinishReason};
use longwatch_events::time::Timestamp;

use super::history::Entry;

/// A copy of a camera on its way from one server to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// Which camera.
    pub camera_id: CameraId,
    /// To whom.
    pub to: ServerId,
    /// When the log stored the plan.
    pub begun_at: Timestamp,
    /// `None`: it is still under way.
    pub end: Option<End>,
}

/// When the log stored the end of a move, and how it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// When.
    pub at: Timestamp,
    /// How.
    pub how: How,
}

/// How a move ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum How {
    /// The new server has it.
    Finished(FinishReason),
    /// The old one keeps it.
    Abandoned(AbandonReason),
}

impl Move {
    /// How long it took.
    pub fn millis(&self) -> Option<i64> {
        self.end.map(|end| end.at.millis_since(self.begun_at))
    }
}

/// The moves that began behind position `after` of `LOG`, in the order of their beginning.
pub fn moves(log: &[Entry], after: Position) -> Vec<Move> {
    let mut found: BTreeMap<(Epoch, CameraId, u8), Move> = BTreeMap::new();
    for entry in log.iter().filter(|entry| entry.position > after) {
        let Event::PlanMade(plan) = &entry.event else { continue };
        let at = entry.stored_at;
        for planned in &plan.entries {
            let (camera_id, copy) = (planned.camera_id, planned.copy);
            let mut end = |epoch, how| {
                if let Some(begun) = found.get_mut(&(epoch, camera_id, copy)) {
                    begun.end = Some(End { at, how });
                }
            };
            match planned.decision {
                Decision::Move { server_id, .. } => {
                    let begun = Move { camera_id, to: server_id, begun_at: at, end: None };
                    found.insert((Epoch(entry.position.0), camera_id, copy), begun);
                }
                Decision::Finish { epoch, reason, .. } => end(epoch, How::Finished(reason)),
                Decision::Abandon { epoch, reason } => end(epoch, How::Abandoned(reason)),
                Decision::Assign { .. } | Decision::Unplace { .. } => {}
            }
        }
    }
    found.into_values().collect()
}

/// The ways in which `moves` ended; `None` if one has not.
pub fn ends(moves: &[Move]) -> Option<BTreeSet<How>> {
    moves.iter().map(|one| one.end.map(|end| end.how)).collect()
}

#[cfg(test)]
mod tests {
    use longwatch_events::event::{Part, PlanEntry, PlanMade};
    use longwatch_events::id::{CountingIds, TenantId};
    use longwatch_events::reason::AssignReason;

    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn plan(position: u64, decisions: &[(CameraId, Decision)]) -> Entry {
        let entries = decisions.iter().map(|(camera_id, decision)| {
            let (camera_id, decision) = (*camera_id, *decision);
            PlanEntry { tenant_id: TenantId::DEFAULT, camera_id, copy: 0, decision }
        });
        let (basis, part, entries) = (Position(position - 1), Part::WHOLE, entries.collect());
        let event = Event::PlanMade(PlanMade { basis, rules: 1, decided_at: None, part, entries });
        Entry { position: Position(position), stored_at: at(i64::try_from(position).unwrap() * 100), event }
    }

    #[test]
    fn each_move_has_its_own_end() {
        // Given two moves, one of which is given up and begun again, behind one that is older,
        let ids = CountingIds::default();
        let (one, two) = (CameraId::generate(&ids), CameraId::generate(&ids));
        let server_id = ServerId::generate(&ids);
        let to = Decision::Move { server_id, reason: AssignReason::Drain };
        let finish = |epoch| {
            let (epoch, reason, evidence) = (Epoch(epoch), FinishReason::FirstKeyframe, None);
            Decision::Finish { epoch, reason, evidence }
        };
        let abandon = |epoch| {
            let (epoch, reason) = (Epoch(epoch), AbandonReason::TimedOut);
            Decision::Abandon { epoch, reason }
        };
        let mut log = vec![
            plan(3, &[(one, to)]),
            plan(5, &[(one, finish(3))]),
            plan(6, &[(one, to), (two, to)]),
            plan(8, &[(one, finish(6)), (two, abandon(6))]),
            plan(9, &[(two, to)]),
        ];
        // then those behind it are told, the one that goes on without an end.
        let found = moves(&log, Position(4));
        assert_eq!(found.iter().map(Move::millis).collect::<Vec<_>>(), [Some(200), Some(200), None]);
        assert_eq!(found[0].end.unwrap().how, How::Finished(FinishReason::FirstKeyframe));
        assert_eq!(found[1].end.unwrap().how, How::Abandoned(AbandonReason::TimedOut));
        assert_eq!((found[2].camera_id, found[2].to, found[2].begun_at), (two, server_id, at(900)));
        assert_eq!(ends(&found), None);
        log.push(plan(10, &[(two, finish(9))]));
        let ways = [How::Finished(FinishReason::FirstKeyframe), How::Abandoned(AbandonReason::TimedOut)];
        assert_eq!(ends(&moves(&log, Position(4))), Some(BTreeSet::from(ways)));
    }
}
