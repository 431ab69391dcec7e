//! What happens to servers.

use std::collections::BTreeSet;

use crate::event::{
    DetachedCameras, ServerAdded, ServerAdopted, ServerChanged, ServerDetached, ServerDiskMeasured,
    ServerDrainStarted, ServerDrainStopped, ServerFailbackRequested, ServerJoined, ServerLost,
    ServerReturned,
};
use crate::fold::{Folded, Outcome, camera, plan};
use crate::id::ServerId;
use crate::position::Position;
use crate::settings::{Failover, ServerSettings};
use crate::state::{CameraCopy, Lost, Membership, Placement, Server, State};
use crate::time::Timestamp;

fn new(settings: ServerSettings, membership: Membership, at: Timestamp, version: Position) -> Server {
    Server {
        settings,
        public_key: None,
        membership,
        lost: None,
        present_since: at,
        draining_since: None,
        failback_requested: false,
        disk_free_percent: None,
        created_at: at,
        version,
    }
}

pub(super) fn added(state: &mut State, position: Position, at: Timestamp, e: &ServerAdded) -> Folded {
    if state.servers.contains_key(&e.server_id) {
        return Err(format!("server {} was added before", e.server_id));
    }
    if is_taken(state, &e.settings.name, e.server_id) {
        return Ok(Outcome::Stale(1));
    }
    insert(state, e.server_id, new(e.settings.clone(), Membership::Adopted, at, position));
    Ok(Outcome::Applied)
}

pub(super) fn joined(state: &mut State, position: Position, at: Timestamp, e: &ServerJoined) -> Folded {
    // Two replicas may have answered one worker at once, under two ids: the first one counts. An owner may even have
    // detached that one by now: then the worker must not be back under the other.
    if state.server_by_key(&e.public_key).is_some_and(|(id, _)| id != e.server_id) {
        if let Some(server) = state.servers.get_mut(&e.server_id) {
            server.version = position;
        }
        return Ok(Outcome::Stale(1));
    }
    let joined_again = with_server(state, e.server_id, |server| {
        server.version = position;
        if let Membership::Detached { seen_again } = &mut server.membership {
            // Announced, let go before anybody came, and now somebody comes: it is not this server's worker.
            if server.public_key != Some(e.public_key) {
                return Outcome::Stale(1);
            }
            *seen_again = true;
        }
        server.public_key = Some(e.public_key);
        server.present_since = at;
        Outcome::Applied
    });
    if let Some(outcome) = joined_again {
        if outcome == Outcome::Applied {
            state.index.touch(e.server_id, position);
        }
        return Ok(outcome);
    }
    if is_taken(state, &e.name, e.server_id) {
        return Ok(Outcome::Stale(1));
    }
    let settings = ServerSettings {
        name: e.name.clone(),
        labels: e.labels.clone(),
        capacity: e.capacity,
        failover: Failover::default(),
    };
    let public_key = Some(e.public_key);
    let server = Server { public_key, ..new(settings, Membership::Undefined, at, position) };
    insert(state, e.server_id, server);
    state.index.touch(e.server_id, position);
    Ok(Outcome::Applied)
}

pub(super) fn adopted(state: &mut State, position: Position, at: Timestamp, e: &ServerAdopted) -> Outcome {
    let name = state.servers.get(&e.server_id).map(|server| server.settings.name.clone());
    let is_taken = name.is_some_and(|name| is_taken(state, &name, e.server_id));
    // Its join may have been the stale one of two.
    let adopted = with_server(state, e.server_id, |server| {
        server.version = position;
        if is_taken {
            return Outcome::Stale(1);
        }
        server.membership = Membership::Adopted;
        server.present_since = at;
        Outcome::Applied
    });
    adopted.unwrap_or(Outcome::Stale(1))
}

pub(super) fn changed(state: &mut State, position: Position, e: &ServerChanged) -> Folded {
    let is_taken = is_taken(state, &e.settings.name, e.server_id);
    let changed = with_server(state, e.server_id, |server| {
        server.version = position;
        if is_taken {
            return Outcome::Stale(1);
        }
        server.settings = e.settings.clone();
        Outcome::Applied
    });
    changed.ok_or_else(|| format!("server {} does not exist", e.server_id))
}

fn insert(state: &mut State, server_id: ServerId, server: Server) {
    state.index.add_server(server_id, &server);
    state.servers.insert(server_id, server);
}

/// Changes a server that is there, its name, key and membership included.
fn with_server<T>(
    state: &mut State,
    server_id: ServerId,
    change: impl FnOnce(&mut Server) -> T,
) -> Option<T> {
    let server = state.servers.get_mut(&server_id)?;
    state.index.remove_server(server);
    let changed = change(server);
    state.index.add_server(server_id, server);
    Some(changed)
}

/// Whether another server has the name: two were given it at once, each to a server of its own. The first one counts.
fn is_taken(state: &State, name: &str, server_id: ServerId) -> bool {
    state.server_by_name(name).is_some_and(|(id, _)| id != server_id)
}

/// Changes a server that may be gone by now, or let go.
fn change(
    state: &mut State,
    position: Position,
    server_id: ServerId,
    change: impl FnOnce(&mut Server),
) -> Outcome {
    let changed = with_server(state, server_id, |server| {
        server.version = position;
        if server.is_detached() {
            return Outcome::Stale(1);
        }
        change(server);
        Outcome::Applied
    });
    changed.unwrap_or(Outcome::Stale(1))
}

pub(super) fn lost(state: &mut State, position: Position, e: &ServerLost) -> Outcome {
    change(state, position, e.server_id, |server| {
        server.lost = Some(Lost { heard_at: e.heard_at, last_heartbeat: e.last_heartbeat });
        // A wish to have cameras back is about those that others took over before.
        server.failback_requested = false;
    })
}

pub(super) fn returned(state: &mut State, position: Position, at: Timestamp, e: &ServerReturned) -> Outcome {
    let returned = change(state, position, e.server_id, |server| {
        server.lost = None;
        server.present_since = at;
    });
    if returned == Outcome::Applied {
        let left: Vec<_> = state.index.left_with(e.server_id).collect();
        for key in left {
            camera::change(state, position, key, plan::come_back);
        }
    }
    returned
}

pub(super) fn disk_measured(state: &mut State, position: Position, e: &ServerDiskMeasured) -> Outcome {
    change(state, position, e.server_id, |server| server.disk_free_percent = Some(e.free_percent))
}

pub(super) fn drain_started(
    state: &mut State,
    position: Position,
    at: Timestamp,
    e: &ServerDrainStarted,
) -> Outcome {
    change(state, position, e.server_id, |server| {
        server.draining_since.get_or_insert(at);
        server.failback_requested = false;
    })
}

pub(super) fn drain_stopped(state: &mut State, position: Position, e: &ServerDrainStopped) -> Outcome {
    change(state, position, e.server_id, |server| server.draining_since = None)
}

pub(super) fn failback_requested(
    state: &mut State,
    position: Position,
    e: &ServerFailbackRequested,
) -> Outcome {
    change(state, position, e.server_id, |server| server.failback_requested = true)
}

pub(super) fn detached(state: &mut State, position: Position, at: Timestamp, e: &ServerDetached) -> Folded {
    if !state.servers.contains_key(&e.server_id) {
        return Err(format!("server {} does not exist", e.server_id));
    }
    let detached = change(state, position, e.server_id, |server| {
        server.membership = Membership::Detached { seen_again: false };
        server.lost = None;
        server.draining_since = None;
        server.failback_requested = false;
    });
    if detached != Outcome::Applied {
        return Ok(detached);
    }
    let (index, server_id) = (&state.index, e.server_id);
    let held =
        index.roster(server_id).copies().chain(index.away_from(server_id)).chain(index.left_with(server_id));
    let held: BTreeSet<_> = held.collect();
    let wanted: Vec<_> = state.index.requested().collect();
    for key in held {
        match e.cameras {
            DetachedCameras::Remove if state.belongs_only_to(key, e.server_id) => {
                camera::remove(state, position, key.tenant_id, key.camera_id);
            }
            DetachedCameras::Remove | DetachedCameras::Keep => {
                camera::change(state, position, key, |copy| let_go(copy, e.server_id, at));
            }
        }
    }
    // Those that somebody wants on it are not its cameras: they stay, and the wish is void.
    for key in wanted {
        if state.copy(key).is_some_and(|(_, copy)| copy.requested() == Some(e.server_id)) {
            camera::change(state, position, key, |copy| let_go(copy, e.server_id, at));
        }
    }
    state.index.touch(e.server_id, position);
    Ok(Outcome::Applied)
}

/// A copy after `server_id` was let go: whoever was about to take it over has it now.
fn let_go(copy: &mut CameraCopy, server_id: ServerId, at: Timestamp) {
    if copy.assignment().is_some_and(|assignment| assignment.server_id == server_id) {
        match copy.successor().copied() {
            Some(successor) => plan::hand_over(copy, successor, at),
            None => copy.placement = Placement::Unplanned,
        }
    }
    copy.unsettle(|unsettled| {
        unsettled.home = unsettled.home.filter(|home| *home != server_id);
        unsettled.left_with = unsettled.left_with.filter(|left_with| left_with.server_id != server_id);
        unsettled.successor = unsettled.successor.filter(|successor| successor.server_id != server_id);
        unsettled.requested = unsettled.requested.filter(|requested| *requested != server_id);
    });
}
