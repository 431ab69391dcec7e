//! The fold: log → [`State`]. Pure: it takes time and position from the record, never from the machine.
//!
//! Invariants: a position is applied once; an event that cannot be is a halt with its position, never a skip; an
//! event that was possible when it was appended but lost a race against another aggregate is *stale* and changes
//! nothing but the version of its own aggregate, if that exists: the version is where the aggregate's subject ends, and
//! so the condition of every later append to it.

use crate::event::{
    CameraAdded, CameraChanged, CameraDeleted, Decision, Event, PlanMade, ServerAdded, ServerAdopted,
    ServerChanged, ServerDetached, ServerJoined, ServerLost, ServerReturned, TenantChanged, TenantCreated,
    TenantDeleted,
};
use crate::id::ServerId;
use crate::position::{Epoch, Position};
use crate::reason::{AssignReason, UnplacedReason};
use crate::settings::ServerSettings;
use crate::state::{Assignment, Camera, Lost, Placement, Server, State, Tenant};
use crate::time::Timestamp;

/// What an event did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It changed the state.
    Applied,
    /// Its position had been applied before; nothing changed.
    Seen,
    /// So many of its parts lost a race and changed nothing; the rest was applied.
    Stale(usize),
}

/// Why a log cannot be folded any further. The program must stop deciding; workers go on recording.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A position is missing.
    #[error("position {found} follows {after}: {missing} event(s) between them are missing from the log")]
    Missing {
        /// The last one applied.
        after: Position,
        /// The one that came next.
        found: Position,
        /// How many are not there.
        missing: u64,
    },
    /// An event that cannot have happened in this state.
    #[error("position {position} is impossible: {why}")]
    Impossible {
        /// Where.
        position: Position,
        /// What contradicts what.
        why: String,
    },
}

type Folded = Result<Outcome, String>;

/// Applies the event at `position`, stored at `at` by the log's clock.
///
/// # Errors
/// If the event is impossible or a position before it is missing; the state is then as it was.
pub fn apply(state: &mut State, position: Position, at: Timestamp, event: &Event) -> Result<Outcome, Error> {
    if position <= state.position {
        return Ok(Outcome::Seen);
    }
    if position != state.position.next() {
        let missing = position.0 - state.position.0 - 1;
        return Err(Error::Missing { after: state.position, found: position, missing });
    }
    let outcome =
        apply_next(state, position, at, event).map_err(|why| Error::Impossible { position, why })?;
    state.position = position;
    Ok(outcome)
}

fn apply_next(state: &mut State, position: Position, at: Timestamp, event: &Event) -> Folded {
    match event {
        Event::TenantCreated(e) => tenant_created(state, position, at, e),
        Event::TenantChanged(e) => tenant_changed(state, position, e),
        Event::TenantDeleted(e) => tenant_deleted(state, position, e),
        Event::ServerAdded(e) => server_added(state, position, at, e),
        Event::ServerJoined(e) => server_joined(state, position, at, e),
        Event::ServerAdopted(e) => server_adopted(state, position, e),
        Event::ServerChanged(e) => server_changed(state, position, e),
        Event::ServerLost(e) => Ok(server_lost(state, position, e)),
        Event::ServerReturned(e) => Ok(server_returned(state, position, e)),
        Event::ServerDetached(e) => server_detached(state, e),
        Event::CameraAdded(e) => camera_added(state, position, at, e),
        Event::CameraChanged(e) => camera_changed(state, position, e),
        Event::CameraDeleted(e) => camera_deleted(state, e),
        Event::PlanMade(e) => Ok(plan_made(state, position, at, e)),
        Event::ServerHeartbeat(_)
        | Event::ControlTicked(_)
        | Event::RecordingReported(_)
        | Event::AssignmentsPublished(_)
        | Event::CameraBacklogged(_) => Err("an event of another log stream stands in LOG".to_owned()),
    }
}

fn tenant_created(state: &mut State, position: Position, at: Timestamp, e: &TenantCreated) -> Folded {
    if state.tenants.contains_key(&e.tenant_id) {
        return Err(format!("tenant {} was created before", e.tenant_id));
    }
    let tenant =
        Tenant { name: e.name.clone(), data_key: e.data_key.clone(), created_at: at, version: position };
    state.tenants.insert(e.tenant_id, tenant);
    Ok(Outcome::Applied)
}

fn tenant_changed(state: &mut State, position: Position, e: &TenantChanged) -> Folded {
    let tenant = state
        .tenants
        .get_mut(&e.tenant_id)
        .ok_or_else(|| format!("tenant {} does not exist", e.tenant_id))?;
    tenant.name.clone_from(&e.name);
    tenant.version = position;
    Ok(Outcome::Applied)
}

fn tenant_deleted(state: &mut State, position: Position, e: &TenantDeleted) -> Folded {
    let tenant = state
        .tenants
        .get_mut(&e.tenant_id)
        .ok_or_else(|| format!("tenant {} does not exist", e.tenant_id))?;
    if state.cameras.get(&e.tenant_id).is_some_and(|cameras| !cameras.is_empty()) {
        // A camera was added while the tenant was being deleted: the camera came first, so the tenant stays.
        tenant.version = position;
        return Ok(Outcome::Stale(1));
    }
    state.cameras.remove(&e.tenant_id);
    state.tenants.remove(&e.tenant_id);
    Ok(Outcome::Applied)
}

fn server_added(state: &mut State, position: Position, at: Timestamp, e: &ServerAdded) -> Folded {
    if state.servers.contains_key(&e.server_id) {
        return Err(format!("server {} was added before", e.server_id));
    }
    if is_taken(state, &e.settings.name, e.server_id) {
        return Ok(Outcome::Stale(1));
    }
    let server = Server {
        settings: e.settings.clone(),
        public_key: None,
        adopted: true,
        lost: None,
        created_at: at,
        version: position,
    };
    state.servers.insert(e.server_id, server);
    Ok(Outcome::Applied)
}

fn server_joined(state: &mut State, position: Position, at: Timestamp, e: &ServerJoined) -> Folded {
    // Two replicas may have answered one worker at once, under two ids: the first one counts. An owner may even have
    // detached that one by now: then the worker must not be back under the other.
    let taken = state.server_by_key(&e.public_key).is_some_and(|(id, _)| id != e.server_id);
    if taken || state.is_detached(&e.public_key) {
        if let Some(server) = state.servers.get_mut(&e.server_id) {
            server.version = position;
        }
        return Ok(Outcome::Stale(1));
    }
    if !state.servers.contains_key(&e.server_id) && is_taken(state, &e.name, e.server_id) {
        return Ok(Outcome::Stale(1));
    }
    match state.servers.get_mut(&e.server_id) {
        Some(server) => {
            server.public_key = Some(e.public_key);
            server.version = position;
        }
        None => {
            let settings = ServerSettings {
                name: e.name.clone(),
                labels: e.labels.clone(),
                capacity: e.capacity,
                failover: crate::settings::Failover::default(),
            };
            let server = Server {
                settings,
                public_key: Some(e.public_key),
                adopted: false,
                lost: None,
                created_at: at,
                version: position,
            };
            state.servers.insert(e.server_id, server);
        }
    }
    Ok(Outcome::Applied)
}

fn server_adopted(state: &mut State, position: Position, e: &ServerAdopted) -> Folded {
    // Its join may have been the stale one of two.
    let Some(server) = state.servers.get_mut(&e.server_id) else { return Ok(Outcome::Stale(1)) };
    server.adopted = true;
    server.version = position;
    Ok(Outcome::Applied)
}

fn server_changed(state: &mut State, position: Position, e: &ServerChanged) -> Folded {
    let is_taken = is_taken(state, &e.settings.name, e.server_id);
    let server = state
        .servers
        .get_mut(&e.server_id)
        .ok_or_else(|| format!("server {} does not exist", e.server_id))?;
    server.version = position;
    if is_taken {
        return Ok(Outcome::Stale(1));
    }
    server.settings = e.settings.clone();
    Ok(Outcome::Applied)
}

/// Whether another server has the name: two were given it at once, each to a server of its own. The first one counts.
fn is_taken(state: &State, name: &str, server_id: ServerId) -> bool {
    state.server_by_name(name).is_some_and(|(id, _)| id != server_id)
}

fn server_lost(state: &mut State, position: Position, e: &ServerLost) -> Outcome {
    let Some(server) = state.servers.get_mut(&e.server_id) else { return Outcome::Stale(1) };
    server.lost = Some(Lost { heard_at: e.heard_at, last_heartbeat: e.last_heartbeat });
    server.version = position;
    Outcome::Applied
}

fn server_returned(state: &mut State, position: Position, e: &ServerReturned) -> Outcome {
    let Some(server) = state.servers.get_mut(&e.server_id) else { return Outcome::Stale(1) };
    server.lost = None;
    server.version = position;
    Outcome::Applied
}

fn server_detached(state: &mut State, e: &ServerDetached) -> Folded {
    let server =
        state.servers.remove(&e.server_id).ok_or_else(|| format!("server {} does not exist", e.server_id))?;
    state.detached.extend(server.public_key.map(|key| (key, e.server_id)));
    for camera in state.cameras.values_mut().flat_map(|cameras| cameras.values_mut()) {
        if camera.assignment().is_some_and(|a| a.server_id == e.server_id) {
            camera.placement = Placement::Unplanned;
        }
        camera.home = camera.home.filter(|home| *home != e.server_id);
    }
    Ok(Outcome::Applied)
}

fn camera_added(state: &mut State, position: Position, at: Timestamp, e: &CameraAdded) -> Folded {
    if !state.tenants.contains_key(&e.tenant_id) {
        // The tenant was deleted while the camera was being added.
        return Ok(Outcome::Stale(1));
    }
    let cameras = state.cameras.entry(e.tenant_id).or_default();
    if cameras.contains_key(&e.camera_id) {
        return Err(format!("camera {} was added before", e.camera_id));
    }
    let camera = Camera {
        settings: e.settings.clone(),
        placement: Placement::Unplanned,
        home: None,
        created_at: at,
        version: position,
        source_version: position,
    };
    cameras.insert(e.camera_id, camera);
    Ok(Outcome::Applied)
}

fn camera_changed(state: &mut State, position: Position, e: &CameraChanged) -> Folded {
    let camera = state
        .cameras
        .get_mut(&e.tenant_id)
        .and_then(|cameras| cameras.get_mut(&e.camera_id))
        .ok_or_else(|| format!("camera {} does not exist", e.camera_id))?;
    if camera.settings.source != e.settings.source {
        camera.source_version = position;
    }
    camera.settings = e.settings.clone();
    camera.version = position;
    Ok(Outcome::Applied)
}

fn camera_deleted(state: &mut State, e: &CameraDeleted) -> Folded {
    let cameras = state.cameras.get_mut(&e.tenant_id);
    match cameras.and_then(|cameras| cameras.remove(&e.camera_id)) {
        Some(_) => Ok(Outcome::Applied),
        None => Err(format!("camera {} does not exist", e.camera_id)),
    }
}

fn plan_made(state: &mut State, position: Position, at: Timestamp, e: &PlanMade) -> Outcome {
    state.last_plan = position;
    let mut stale = 0;
    for entry in &e.entries {
        let placement = match entry.decision {
            Decision::Assign { server_id, reason } => {
                if !state.servers.get(&server_id).is_some_and(Server::is_assignable) {
                    stale += 1;
                    continue;
                }
                Placement::Assigned(Assignment { server_id, epoch: Epoch::from(position), since: at, reason })
            }
            Decision::Unplace { reason } => Placement::Unplaced { reason, since: at },
        };
        let camera =
            state.cameras.get_mut(&entry.tenant_id).and_then(|cameras| cameras.get_mut(&entry.camera_id));
        match camera {
            Some(camera) => {
                camera.home = home(camera, &entry.decision);
                camera.placement = placement;
            }
            None => stale += 1,
        }
    }
    if stale == 0 { Outcome::Applied } else { Outcome::Stale(stale) }
}

/// Where a camera belongs after `decision`: a camera that is taken from its server remembers it.
fn home(camera: &Camera, decision: &Decision) -> Option<ServerId> {
    let taken_from = || camera.home.or(camera.assignment().map(|assignment| assignment.server_id));
    match decision {
        Decision::Assign { reason: AssignReason::Failover, .. } => taken_from(),
        Decision::Assign {
            reason: AssignReason::Preferred | AssignReason::LeastLoaded | AssignReason::Home,
            ..
        }
        | Decision::Unplace { reason: UnplacedReason::Disabled } => None,
        Decision::Unplace {
            reason:
                UnplacedReason::NoServer
                | UnplacedReason::NoCapacity
                | UnplacedReason::NoBitrate
                | UnplacedReason::NoTakeover,
        } => taken_from(),
    }
}
