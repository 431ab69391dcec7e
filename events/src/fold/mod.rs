//! The fold: log → [`State`]. Pure: it takes time and position from the record, never from the machine.
//!
//! Invariants: a position is applied once; an event that cannot be is a halt with its position, never a skip; an
//! event that was possible when it was appended but lost a race against another aggregate is *stale* and changes
//! nothing but the version of its own aggregate, if that exists: the version is where the aggregate's subject ends, and
//! so the condition of every later append to it.

mod camera;
mod plan;
mod server;

use crate::event::{Event, PolicyChanged, TenantChanged, TenantCreated, TenantDeleted, VersionRequired};
use crate::position::Position;
use crate::state::{State, Tenant};
use crate::time::Timestamp;

/// The version of the fold: raised whenever the same log leads to another [`State`] than before, or there are facts that an
/// older program cannot read. A snapshot of another version is not used, and a log can require one
/// ([`Event::VersionRequired`]).
pub const VERSION: u32 = 7;

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
        Event::ServerAdded(e) => server::added(state, position, at, e),
        Event::ServerJoined(e) => server::joined(state, position, at, e),
        Event::ServerAdopted(e) => Ok(server::adopted(state, position, at, e)),
        Event::ServerChanged(e) => server::changed(state, position, e),
        Event::ServerLost(e) => Ok(server::lost(state, position, e)),
        Event::ServerReturned(e) => Ok(server::returned(state, position, at, e)),
        Event::ServerDiskMeasured(e) => Ok(server::disk_measured(state, position, e)),
        Event::ServerDrainStarted(e) => Ok(server::drain_started(state, position, at, e)),
        Event::ServerDrainStopped(e) => Ok(server::drain_stopped(state, position, e)),
        Event::ServerFailbackRequested(e) => Ok(server::failback_requested(state, position, e)),
        Event::ServerDetached(e) => server::detached(state, position, at, e),
        Event::CameraAdded(e) => camera::added(state, position, at, e),
        Event::CameraChanged(e) => Ok(camera::changed(state, position, e)),
        Event::CameraDeleted(e) => Ok(camera::deleted(state, position, e)),
        Event::CameraMoveRequested(e) => Ok(camera::move_requested(state, position, e)),
        Event::PolicyChanged(e) => Ok(policy_changed(state, position, e)),
        Event::VersionRequired(e) => version_required(state, position, e),
        Event::PlanMade(e) => Ok(plan::made(state, position, at, e)),
        Event::ServerHeartbeat(_)
        | Event::ControlTicked(_)
        | Event::RecordingReported(_)
        | Event::AssignmentsPublished(_)
        | Event::CameraBacklogged(_) => Err("an event of another log stream stands in LOG".to_owned()),
    }
}

const fn policy_changed(state: &mut State, position: Position, e: &PolicyChanged) -> Outcome {
    state.policy = e.policy;
    state.policy_version = position;
    Outcome::Applied
}

fn version_required(state: &mut State, position: Position, e: &VersionRequired) -> Folded {
    if e.fold_version > VERSION {
        return Err(format!(
            "from here on the log requires fold version {}, and this program has {VERSION}: start a newer version of it",
            e.fold_version
        ));
    }
    state.barrier_version = position;
    Ok(Outcome::Applied)
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
