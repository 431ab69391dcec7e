//! Records → changes of rows. Pure; total over every event and fact.
//!
//! What an event did to cameras is not read from the event: a plan's entries may be stale, and a server that is let go
//! changes cameras that nobody names. It is seen by comparison, of the cameras the event may touch ([`Before`]) with State
//! after it.
//!
//! Facts come from workers and are believed about recordings only. One that contradicts itself becomes a
//! [`Change::RejectFact`], so that a broken worker neither stops the fold nor goes unseen. Whether a server was given the
//! epoch it speaks of is for queries to look at: here `LOG` may not have come that far.
//!
//! A server speaks of its own segments, with one exception: whoever looks after an object store tells of what others
//! uploaded there. Who that is, is no matter of `LOG` (it changes with what was heard of servers), so it is not asked here;
//! what is asked is whether the segment lies in the very store that the fact names ([`only_in`]). The id of a store stands in
//! the store and nowhere that workers can look, so who names it can read there, and as a rule delete there. A stale or a
//! hostile worker can therefore take from the timeline what it could have taken from the store, and nothing else: not what
//! lies on other servers, nor in other stores, nor where no store was told. What it says stands in the log with its name.

use std::collections::BTreeMap;

use longwatch_events::event::{Event, RecordingReported};
use longwatch_events::fact::Fact;
use longwatch_events::id::{CameraId, CopyKey, ServerId, StoreId, TenantId};
use longwatch_events::position::{Epoch, Position};
use longwatch_events::settings::Retention;
use longwatch_events::state::{Assignment, Camera, CameraCopy, Placement, State};
use longwatch_events::time::Timestamp;
use longwatch_events::trigger::Trigger;
use uuid::{Uuid, Version};

use super::rows::{
    CameraRow, Change, CheckedSegment, CopyRow, DeletedSegment, Location, ReportedGap, SegmentRow, ServerRow,
    StatusKey, TenantRow, TriggerRow, UploadedSegment,
};

/// The cameras that an event may touch, as they are before it is folded.
#[derive(Debug)]
pub struct Before(BTreeMap<(TenantId, CameraId), Option<KnownCamera>>);

/// As much of a camera as tells whether its rows change. Its settings never do without its version.
#[derive(Debug)]
struct KnownCamera {
    version: Position,
    retention: Retention,
    copies: BTreeMap<u8, KnownCopy>,
}

#[derive(Debug, Clone, Copy)]
struct KnownCopy {
    row: CopyRow,
    is_server_lost: bool,
}

impl Before {
    /// Looks at all that `event` may touch. `state` is the State before it.
    pub fn of(state: &State, event: &Event) -> Self {
        let touched = touched(state, event).into_iter();
        Self(touched.map(|(tenant, camera)| ((tenant, camera), known(state, tenant, camera))).collect())
    }
}

/// The cameras that `event` may touch.
fn touched(state: &State, event: &Event) -> Vec<(TenantId, CameraId)> {
    let camera = |key: CopyKey| (key.tenant_id, key.camera_id);
    match event {
        Event::CameraAdded(e) => vec![(e.tenant_id, e.camera_id)],
        Event::CameraChanged(e) => vec![(e.tenant_id, e.camera_id)],
        Event::CameraDeleted(e) => vec![(e.tenant_id, e.camera_id)],
        Event::CameraMoveRequested(e) => vec![(e.tenant_id, e.camera_id)],
        Event::PlanMade(e) => e.entries.iter().map(|entry| camera(entry.key())).collect(),
        Event::ServerDetached(e) => {
            let (held, index) = (state.index().roster(e.server_id).copies(), state.index());
            held.chain(index.away_from(e.server_id)).chain(index.left_with(e.server_id)).map(camera).collect()
        }
        Event::ServerReturned(e) => state.index().left_with(e.server_id).map(camera).collect(),
        // A tenant that is deleted has no cameras left.
        Event::TenantCreated(_)
        | Event::TenantChanged(_)
        | Event::TenantDeleted(_)
        | Event::ServerAdded(_)
        | Event::ServerJoined(_)
        | Event::ServerAdopted(_)
        | Event::ServerChanged(_)
        | Event::ServerLost(_)
        | Event::ServerDiskMeasured(_)
        | Event::ServerDrainStarted(_)
        | Event::ServerDrainStopped(_)
        | Event::ServerFailbackRequested(_)
        | Event::PolicyChanged(_)
        | Event::VersionRequired(_)
        | Event::ServerHeartbeat(_)
        | Event::ControlTicked(_)
        | Event::RecordingReported(_)
        | Event::AssignmentsPublished(_)
        | Event::CameraBacklogged(_) => Vec::new(),
    }
}

fn known(state: &State, tenant_id: TenantId, camera_id: CameraId) -> Option<KnownCamera> {
    let camera = state.camera(tenant_id, camera_id)?;
    let is_lost = |a: &Assignment| state.server(a.server_id).is_some_and(|server| server.lost.is_some());
    let copies = camera.copies().map(|(number, copy)| {
        let row = copy_row(CopyKey { tenant_id, camera_id, copy: number }, copy);
        (number, KnownCopy { row, is_server_lost: copy.assignment().is_some_and(is_lost) })
    });
    Some(KnownCamera {
        version: camera.version,
        retention: camera.settings.retention(),
        copies: copies.collect(),
    })
}

/// What the event at `position` of `LOG`, stored at `at`, does to the rows. `state` is the State after it: what a stale
/// event left no trace of there, it leaves no trace of here.
pub fn of_log(
    before: &Before,
    state: &State,
    position: Position,
    at: Timestamp,
    event: &Event,
) -> Vec<Change> {
    let mut changes = of_itself(state, event);
    for ((tenant_id, camera_id), known) in &before.0 {
        changes.extend(of_camera(state, (*tenant_id, *camera_id), known.as_ref(), position, at));
    }
    // Ids that follow from an `Idempotency-Key` are of version 8, all others are not: only what was asked for with one
    // can be asked for again.
    let is_remembered = |thing: &Uuid| thing.get_version() == Some(Version::Custom);
    if let Some(thing_id) = created(event).filter(is_remembered) {
        changes.push(Change::RememberCreation { thing_id, position });
    }
    changes
}

/// The thing that `event` was to create.
const fn created(event: &Event) -> Option<Uuid> {
    match event {
        Event::TenantCreated(e) => Some(e.tenant_id.as_uuid()),
        Event::ServerAdded(e) => Some(e.server_id.as_uuid()),
        Event::CameraAdded(e) => Some(e.camera_id.as_uuid()),
        Event::TenantChanged(_)
        | Event::TenantDeleted(_)
        | Event::ServerJoined(_)
        | Event::ServerAdopted(_)
        | Event::ServerChanged(_)
        | Event::ServerLost(_)
        | Event::ServerReturned(_)
        | Event::ServerDiskMeasured(_)
        | Event::ServerDrainStarted(_)
        | Event::ServerDrainStopped(_)
        | Event::ServerFailbackRequested(_)
        | Event::ServerDetached(_)
        | Event::CameraChanged(_)
        | Event::CameraDeleted(_)
        | Event::CameraMoveRequested(_)
        | Event::PolicyChanged(_)
        | Event::VersionRequired(_)
        | Event::PlanMade(_)
        | Event::ServerHeartbeat(_)
        | Event::ControlTicked(_)
        | Event::RecordingReported(_)
        | Event::AssignmentsPublished(_)
        | Event::CameraBacklogged(_) => None,
    }
}

/// What an event does to the tenant or server it is about.
fn of_itself(state: &State, event: &Event) -> Vec<Change> {
    match event {
        Event::TenantCreated(e) => put_tenant(state, e.tenant_id),
        Event::TenantChanged(e) => put_tenant(state, e.tenant_id),
        // A stale one moved the version.
        Event::TenantDeleted(e) if state.tenant(e.tenant_id).is_some() => put_tenant(state, e.tenant_id),
        Event::TenantDeleted(e) => vec![Change::DeleteTenant(e.tenant_id)],
        Event::ServerAdded(e) => put_server(state, e.server_id),
        Event::ServerJoined(e) => put_server(state, e.server_id),
        Event::ServerAdopted(e) => put_server(state, e.server_id),
        Event::ServerChanged(e) => put_server(state, e.server_id),
        Event::ServerLost(e) => put_server(state, e.server_id),
        Event::ServerReturned(e) => put_server(state, e.server_id),
        Event::ServerDiskMeasured(e) => put_server(state, e.server_id),
        Event::ServerDrainStarted(e) => put_server(state, e.server_id),
        Event::ServerDrainStopped(e) => put_server(state, e.server_id),
        Event::ServerFailbackRequested(e) => put_server(state, e.server_id),
        Event::ServerDetached(e) => put_server(state, e.server_id),
        // These are about cameras, or about no rows at all.
        Event::CameraAdded(_)
        | Event::CameraChanged(_)
        | Event::CameraDeleted(_)
        | Event::CameraMoveRequested(_)
        | Event::PlanMade(_)
        | Event::PolicyChanged(_)
        | Event::VersionRequired(_)
        // They stand in other log streams; the fold halts if they do not.
        | Event::ServerHeartbeat(_)
        | Event::ControlTicked(_)
        | Event::RecordingReported(_)
        | Event::AssignmentsPublished(_)
        | Event::CameraBacklogged(_) => Vec::new(),
    }
}

fn put_tenant(state: &State, tenant_id: TenantId) -> Vec<Change> {
    let row = state.tenant(tenant_id).map(|tenant| TenantRow {
        tenant_id,
        name: tenant.name.clone(),
        created_at: tenant.created_at,
        version: tenant.version,
    });
    row.map(Change::PutTenant).into_iter().collect()
}

fn put_server(state: &State, server_id: ServerId) -> Vec<Change> {
    let row = state.server(server_id).map(|server| ServerRow {
        server_id,
        settings: server.settings.clone(),
        has_worker: server.public_key.is_some(),
        membership: server.membership,
        lost_since: server.lost.map(|lost| lost.heard_at),
        draining_since: server.draining_since,
        created_at: server.created_at,
        version: server.version,
    });
    row.map(Change::PutServer).into_iter().collect()
}

fn camera_row(tenant_id: TenantId, camera_id: CameraId, camera: &Camera) -> CameraRow {
    CameraRow {
        tenant_id,
        camera_id,
        settings: camera.settings.told(),
        created_at: camera.created_at,
        version: camera.version,
    }
}

fn copy_row(key: CopyKey, copy: &CameraCopy) -> CopyRow {
    CopyRow { key, placement: copy.placement, home: copy.home(), successor: copy.successor().copied() }
}

/// What the event at `position` did to a camera.
fn of_camera(
    state: &State,
    (tenant_id, camera_id): (TenantId, CameraId),
    before: Option<&KnownCamera>,
    position: Position,
    at: Timestamp,
) -> Vec<Change> {
    let now = state.camera(tenant_id, camera_id);
    let mut changes = Vec::new();
    match (before, now) {
        (Some(before), Some(now)) if before.version == now.version => {}
        (_, Some(now)) => changes.push(Change::PutCamera(camera_row(tenant_id, camera_id, now))),
        (Some(before), None) => changes.extend([
            Change::DeleteCamera(tenant_id, camera_id),
            // What was recorded of it stays, and somebody has to know for how long.
            Change::RememberRetention(tenant_id, camera_id, before.retention),
        ]),
        (None, None) => {}
    }
    let mut gone = before.map(|camera| camera.copies.clone()).unwrap_or_default();
    for (number, copy) in now.into_iter().flat_map(Camera::copies) {
        let key = CopyKey { tenant_id, camera_id, copy: number };
        changes.extend(of_copy(key, gone.remove(&number), Some(copy_row(key, copy)), position, at));
    }
    for (number, before) in gone {
        let key = CopyKey { tenant_id, camera_id, copy: number };
        changes.extend(of_copy(key, Some(before), None, position, at));
    }
    changes
}

/// What the event at `position` did to a copy that was `before` and is `now`.
fn of_copy(
    key: CopyKey,
    before: Option<KnownCopy>,
    now: Option<CopyRow>,
    position: Position,
    at: Timestamp,
) -> Vec<Change> {
    if before.map(|copy| copy.row) == now {
        return Vec::new();
    }
    // A copy that is not there has no place.
    let placement = now.map_or(Placement::Unplanned, |copy| copy.placement);
    let placement_before = before.map_or(Placement::Unplanned, |copy| copy.row.placement);
    let mut changes = vec![now.map_or(Change::DeleteCopy(key), Change::PutCopy)];
    if placement != placement_before {
        let from_lost = before.is_some_and(|copy| copy.is_server_lost);
        changes.push(Change::RememberPlacement { key, position, at, placement, from_lost });
    }
    let successor = now.and_then(|copy| copy.successor);
    let given = placement.assignment().into_iter().chain(&successor);
    let given_here = given.filter(|assignment| assignment.epoch == Epoch::from(position));
    changes.extend(given_here.map(|assignment| Change::RememberEpoch {
        key,
        epoch: assignment.epoch,
        server_id: assignment.server_id,
    }));
    changes
}

/// What the facts at `position` of `RECORDINGS` do to the rows.
pub fn of_recording(position: Position, report: &RecordingReported) -> Vec<Change> {
    let changes = (0..).zip(&report.facts).filter_map(|(index, fact)| {
        let place = (position, index);
        of_fact(report, place, fact)
            .unwrap_or_else(|why| Some(Change::RejectFact { position, fact: index, why }))
    });
    changes.collect()
}

fn of_fact(
    report: &RecordingReported,
    place: (Position, u32),
    fact: &Fact,
) -> Result<Option<Change>, String> {
    let RecordingReported { server_id, boot_id, .. } = *report;
    let (tenant_id, camera_id) = (fact.tenant_id(), fact.camera_id());
    let key = |epoch| StatusKey { tenant_id, camera_id, epoch, server_id, boot_id };
    Ok(Some(match fact {
        Fact::Started(f) => Change::Started(key(f.epoch), f.at, place.0),
        Fact::FirstKeyframeDurable(f) => Change::Recording(key(f.epoch), f.start, place.0),
        Fact::Interrupted(f) => Change::Interrupted {
            key: key(f.epoch),
            at: f.at,
            cause: f.cause,
            detail: f.detail.clone(),
            position: place.0,
            fact: place.1,
        },
        Fact::SegmentStored(f) => {
            ordered("segment", f.camera_id, f.start, f.end)?;
            Change::PutSegment(SegmentRow {
                tenant_id: f.tenant_id,
                camera_id: f.camera_id,
                epoch: f.epoch,
                server_id,
                start: f.start,
                end: f.end,
                key: f.key.clone(),
                bytes: f.bytes,
                sha256: f.sha256,
                video_frames: f.video_frames,
                video: f.video,
                audio: f.audio,
                repaired: f.repaired,
                damage: None,
                location: Location::Server,
                store_id: None,
            })
        }
        Fact::SegmentUploaded(f) => Change::PlaceSegment(UploadedSegment {
            tenant_id: f.tenant_id,
            camera_id: f.camera_id,
            epoch: f.epoch,
            server_id,
            start: f.start,
            key: f.key.clone(),
            bytes: f.bytes,
            sha256: f.sha256,
            store_id: f.store_id,
        }),
        Fact::SegmentDeleted(f) => {
            ordered("deleted segment", f.camera_id, f.start, f.end)?;
            Change::DeleteSegment(DeletedSegment {
                tenant_id: f.tenant_id,
                camera_id: f.camera_id,
                epoch: f.epoch,
                server_id: f.recorded_by.unwrap_or(server_id),
                only_in: only_in(server_id, f.recorded_by, f.store_id)?,
                start: f.start,
                end: f.end,
                key: f.key.clone(),
                bytes: f.bytes,
                reason: f.reason,
            })
        }
        Fact::SegmentChecked(f) => Change::NoteDamage(CheckedSegment {
            tenant_id: f.tenant_id,
            camera_id: f.camera_id,
            epoch: f.epoch,
            server_id: f.recorded_by.unwrap_or(server_id),
            only_in: only_in(server_id, f.recorded_by, f.store_id)?,
            start: f.start,
            key: f.key.clone(),
            at: f.at,
            damage: f.damage,
        }),
        Fact::Gap(f) => {
            ordered("gap", f.camera_id, f.start, f.end)?;
            Change::PutGap(ReportedGap {
                tenant_id: f.tenant_id,
                camera_id: f.camera_id,
                epoch: f.epoch,
                server_id,
                start: f.start,
                end: f.end,
                cause: f.cause,
            })
        }
        // Nothing is missing by it: whoever asks why finds it in the log.
        Fact::TimestampJumped(_) => return Ok(None),
        Fact::RecordingTriggered(f) => {
            let trigger = Trigger::from(f);
            if let Some(fault) = trigger.fault() {
                return Err(format!("what is told as an event at camera {camera_id} is none: {fault}"));
            }
            Change::PutTrigger(TriggerRow { trigger, epoch: f.epoch, server_id })
        }
    }))
}

/// In which object store a segment must lie for a fact about it to count that `teller` tells; `None`: wherever it lies,
/// for it is the teller's own.
fn only_in(
    teller: ServerId,
    recorded_by: Option<ServerId>,
    store_id: Option<StoreId>,
) -> Result<Option<StoreId>, String> {
    match recorded_by {
        None => Ok(None),
        Some(server_id) if server_id == teller => Ok(None),
        Some(_) if store_id.is_some() => Ok(store_id),
        Some(other) => {
            Err(format!("it is about a segment of server {other} and names no object store in which it lies"))
        }
    }
}

fn ordered(what: &str, camera_id: CameraId, start: Timestamp, end: Timestamp) -> Result<(), String> {
    if start < end {
        return Ok(());
    }
    Err(format!("a {what} of camera {camera_id} ends at {end}, which is not after its start {start}"))
}
