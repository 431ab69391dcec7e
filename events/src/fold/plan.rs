//! What plans do to the copies of cameras.

use std::collections::BTreeMap;

use crate::event::{Decision, PlanEntry, PlanMade};
use crate::fold::{Outcome, camera};
use crate::id::ServerId;
use crate::index::Index;
use crate::position::{Epoch, Position};
use crate::reason::{AbandonReason, AssignReason, UnplacedReason};
use crate::state::{Assignment, Camera, CameraCopy, Placement, Server, State};
use crate::time::Timestamp;

pub(super) fn made(state: &mut State, position: Position, at: Timestamp, e: &PlanMade) -> Outcome {
    state.last_plan = position;
    let stale = e.entries.iter().filter(|entry| !took_effect(state, position, at, entry)).count();
    if stale == 0 { Outcome::Applied } else { Outcome::Stale(stale) }
}

/// Folds one entry; false if it lost a race and changed nothing.
fn took_effect(state: &mut State, position: Position, at: Timestamp, entry: &PlanEntry) -> bool {
    let key = entry.key();
    // A first plan has a million entries: the camera is looked up once.
    let State { servers, cameras, index, .. } = state;
    let cameras = cameras.get_mut(&key.tenant_id);
    let Some(camera) = cameras.and_then(|cameras| cameras.get_mut(&key.camera_id)) else { return false };
    if !may_record(index, camera, key.copy, &entry.decision) {
        return false;
    }
    let epoch = Epoch::from(position);
    let changed = camera::change_found(index, position, key, camera, |copy| match entry.decision {
        Decision::Assign { server_id, reason } => {
            assign(copy, Assignment { server_id, epoch, since: at, reason })
        }
        Decision::Unplace { reason } => unplace(copy, reason, is_with_lost_server(servers, copy), at),
        Decision::Move { server_id, reason } => {
            set_out(copy, Assignment { server_id, epoch, since: at, reason })
        }
        Decision::Finish { epoch, .. } => finish(copy, epoch, at),
        Decision::Abandon { epoch, reason } => abandon(copy, epoch, reason, at),
    });
    changed == Some(true)
}

/// Whether the server that `decision` names can record the copy: it can record at all, and holds no other copy of it.
fn may_record(index: &Index, camera: &Camera, copy: u8, decision: &Decision) -> bool {
    let server_id = match decision {
        Decision::Assign { server_id, .. } | Decision::Move { server_id, .. } => *server_id,
        Decision::Unplace { .. } | Decision::Finish { .. } | Decision::Abandon { .. } => return true,
    };
    let mut others = camera.copies().filter(|(number, _)| *number != copy);
    index.is_assignable(server_id)
        && !others.any(|(_, other)| other.servers().any(|server| server == server_id))
}

/// Whether a copy has a server that is lost.
fn is_with_lost_server(servers: &BTreeMap<ServerId, Server>, copy: &CameraCopy) -> bool {
    let server = copy.assignment().and_then(|now_on| servers.get(&now_on.server_id));
    server.is_some_and(|server| server.lost.is_some())
}

/// A copy that was [left](CameraCopy::left_with) with its server, now that this has returned: it never was elsewhere.
pub(super) fn come_back(copy: &mut CameraCopy) {
    let Some(assignment) = copy.left_with().copied() else { return };
    copy.placement = Placement::Assigned(assignment);
    copy.unsettle(|unsettled| {
        unsettled.home = unsettled.home.filter(|home| *home != assignment.server_id);
        unsettled.left_with = None;
    });
}

fn assign(copy: &mut CameraCopy, assignment: Assignment) -> bool {
    let home = home(copy, &assignment);
    copy.placement = Placement::Assigned(assignment);
    copy.unsettle(|unsettled| {
        unsettled.home = home;
        unsettled.left_with = None;
        unsettled.successor = None;
        unsettled.requested = unsettled.requested.filter(|wanted| *wanted != assignment.server_id);
    });
    true
}

fn unplace(copy: &mut CameraCopy, reason: UnplacedReason, is_lost: bool, at: Timestamp) -> bool {
    let home = match reason {
        UnplacedReason::Disabled => None,
        UnplacedReason::NoServer
        | UnplacedReason::NoCapacity
        | UnplacedReason::NoBitrate
        | UnplacedReason::NoTakeover
        | UnplacedReason::NoLabels
        | UnplacedReason::NoDisk
        | UnplacedReason::NoOtherServer => taken_from(copy),
        // Its server is well: it is that one's place that was needed.
        UnplacedReason::Preempted => copy.home(),
    };
    let left_with = match copy.assignment() {
        Some(now_on) => is_lost.then_some(*now_on),
        None => copy.left_with().copied(),
    };
    copy.placement = Placement::Unplaced { reason, since: at };
    copy.unsettle(|unsettled| {
        unsettled.home = home;
        unsettled.left_with = left_with.filter(|_| reason != UnplacedReason::Disabled);
        unsettled.successor = None;
        // Whoever is not recorded at all is not waiting for a better place.
        if reason == UnplacedReason::Disabled {
            unsettled.requested = None;
            unsettled.gave_up_at = None;
        }
    });
    true
}

fn set_out(copy: &mut CameraCopy, successor: Assignment) -> bool {
    let stays = copy.assignment().is_none_or(|now| now.server_id == successor.server_id);
    if stays || copy.successor().is_some() {
        return false;
    }
    copy.unsettle(|unsettled| unsettled.successor = Some(successor));
    true
}

fn finish(copy: &mut CameraCopy, epoch: Epoch, at: Timestamp) -> bool {
    let Some(successor) = copy.successor().copied().filter(|successor| successor.epoch == epoch) else {
        return false;
    };
    hand_over(copy, successor, at);
    true
}

/// The end of a planned move: `successor` has the copy, its old server has not.
pub(super) fn hand_over(copy: &mut CameraCopy, successor: Assignment, at: Timestamp) {
    let home = home(copy, &successor);
    copy.placement = Placement::Assigned(Assignment { since: at, ..successor });
    copy.unsettle(|unsettled| {
        unsettled.home = home;
        unsettled.successor = None;
        unsettled.requested = unsettled.requested.filter(|wanted| *wanted != successor.server_id);
        unsettled.gave_up_at = None;
    });
}

fn abandon(copy: &mut CameraCopy, epoch: Epoch, reason: AbandonReason, at: Timestamp) -> bool {
    let Some(successor) = copy.successor().copied().filter(|successor| successor.epoch == epoch) else {
        return false;
    };
    copy.unsettle(|unsettled| {
        unsettled.successor = None;
        unsettled.requested = unsettled.requested.filter(|wanted| *wanted != successor.server_id);
        unsettled.gave_up_at = match reason {
            AbandonReason::TimedOut | AbandonReason::NewLost => Some(at),
            AbandonReason::NotWanted => unsettled.gave_up_at,
        };
    });
    true
}

/// Where a copy belongs once it has this assignment: one that is taken from its server remembers it, until it is there
/// again, whatever brought it.
fn home(copy: &CameraCopy, assignment: &Assignment) -> Option<ServerId> {
    let home = match assignment.reason {
        AssignReason::Failover | AssignReason::Drain => taken_from(copy),
        // The load of those who took it over is evened out; it still belongs where it came from.
        AssignReason::Rebalance | AssignReason::OverCapacity => copy.home(),
        AssignReason::Preferred
        | AssignReason::LeastLoaded
        | AssignReason::Home
        | AssignReason::Failback
        | AssignReason::Labels
        | AssignReason::Requested => None,
    };
    home.filter(|home| *home != assignment.server_id)
}

fn taken_from(copy: &CameraCopy) -> Option<ServerId> {
    copy.home().or(copy.assignment().map(|assignment| assignment.server_id))
}
