//! What happens to cameras. The only place, beside it [`super::plan`], that changes one: the index goes with it.

use crate::event::{CameraAdded, CameraChanged, CameraDeleted, CameraMoveRequested};
use crate::fold::{Folded, Outcome};
use crate::id::{CameraId, CopyKey, TenantId};
use crate::index::Index;
use crate::position::Position;
use crate::settings::KeptSettings;
use crate::state::{Camera, CameraCopy, State};
use crate::time::Timestamp;

pub(super) fn added(state: &mut State, position: Position, at: Timestamp, e: &CameraAdded) -> Folded {
    if !state.tenants.contains_key(&e.tenant_id) {
        // The tenant was deleted while the camera was being added.
        return Ok(Outcome::Stale(1));
    }
    let cameras = state.cameras.entry(e.tenant_id).or_default();
    if cameras.contains_key(&e.camera_id) {
        return Err(format!("camera {} was added before", e.camera_id));
    }
    let mut camera = Camera {
        settings: KeptSettings::from(&e.settings),
        first: CameraCopy::default(),
        others: Box::default(),
        created_at: at,
        version: position,
        source_version: position,
    };
    fit_copies(&mut camera);
    state.index.add(e.tenant_id, e.camera_id, &camera, position);
    cameras.insert(e.camera_id, Box::new(camera));
    Ok(Outcome::Applied)
}

/// Gives a camera as many copies as it wants; those that it has keep their places.
fn fit_copies(camera: &mut Camera) {
    let mut others = std::mem::take(&mut camera.others).into_vec();
    others.resize_with(usize::from(camera.settings.wanted_copies()) - 1, CameraCopy::default);
    camera.others = others.into();
}

/// What becomes of an event about a camera that is not there: it was removed with its server. That stands in the
/// server's subject, and so does not keep a command from being appended to the camera's own.
const GONE: Outcome = Outcome::Stale(1);

pub(super) fn changed(state: &mut State, position: Position, e: &CameraChanged) -> Outcome {
    let changed = with_camera(state, position, e.tenant_id, e.camera_id, |camera| {
        if camera.settings.source() != e.settings.source
            || camera.settings.single_session != e.settings.single_session
            || camera.settings.wanted_live_latency_ms() != e.settings.wanted_live_latency_ms()
        {
            camera.source_version = position;
        }
        camera.settings = KeptSettings::from(&e.settings);
        camera.version = position;
        fit_copies(camera);
    });
    changed.map_or(GONE, |()| Outcome::Applied)
}

pub(super) fn deleted(state: &mut State, position: Position, e: &CameraDeleted) -> Outcome {
    remove(state, position, e.tenant_id, e.camera_id).map_or(GONE, |()| Outcome::Applied)
}

pub(super) fn move_requested(state: &mut State, position: Position, e: &CameraMoveRequested) -> Outcome {
    let is_assignable = state.servers.get(&e.server_id).is_some_and(|server| server.is_ours());
    let changed = with_camera(state, position, e.tenant_id, e.camera_id, |camera| {
        camera.version = position;
        // It may have lost copies since.
        let Some(copy) = camera.copy_mut(e.copy).filter(|_| is_assignable) else { return Outcome::Stale(1) };
        let stays = copy.assignment().is_some_and(|assignment| assignment.server_id == e.server_id);
        copy.unsettle(|unsettled| unsettled.requested = (!stays).then_some(e.server_id));
        Outcome::Applied
    });
    changed.unwrap_or(GONE)
}

/// Removes a camera that is there.
pub(super) fn remove(
    state: &mut State,
    position: Position,
    tenant_id: TenantId,
    camera_id: CameraId,
) -> Option<()> {
    let camera = state.cameras.get_mut(&tenant_id)?.remove(&camera_id)?;
    state.index.remove(tenant_id, camera_id, &camera, position);
    Some(())
}

/// Changes a camera that is there.
fn with_camera<T>(
    state: &mut State,
    position: Position,
    tenant_id: TenantId,
    camera_id: CameraId,
    change: impl FnOnce(&mut Camera) -> T,
) -> Option<T> {
    let camera = state.cameras.get_mut(&tenant_id)?.get_mut(&camera_id)?;
    state.index.remove(tenant_id, camera_id, camera, position);
    let changed = change(camera);
    state.index.add(tenant_id, camera_id, camera, position);
    Some(changed)
}

/// Changes a copy that is there.
pub(super) fn change<T>(
    state: &mut State,
    position: Position,
    key: CopyKey,
    change: impl FnOnce(&mut CameraCopy) -> T,
) -> Option<T> {
    let camera = state.cameras.get_mut(&key.tenant_id)?.get_mut(&key.camera_id)?;
    change_found(&mut state.index, position, key, camera, change)
}

/// The same, of a camera that was looked up already.
pub(super) fn change_found<T>(
    index: &mut Index,
    position: Position,
    key: CopyKey,
    camera: &mut Camera,
    change: impl FnOnce(&mut CameraCopy) -> T,
) -> Option<T> {
    let CopyKey { tenant_id, camera_id, copy } = key;
    index.remove(tenant_id, camera_id, camera, position);
    let changed = camera.copy_mut(copy).map(change);
    index.add(tenant_id, camera_id, camera, position);
    changed
}
