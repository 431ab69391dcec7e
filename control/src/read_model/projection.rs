//! Records → changes of rows. Pure; total over every event and fact.
//!
//! Facts come from workers and are believed about recordings only. One that contradicts itself becomes a
//! [`Change::RejectFact`], so that a broken worker neither stops the fold nor goes unseen. Whether a server was given the
//! epoch it speaks of is for queries to look at: here `LOG` may not have come that far.

use longwatch_events::event::{Decision, Event, PlanMade, RecordingReported};
use longwatch_events::fact::Fact;
use longwatch_events::id::{CameraId, ServerId, TenantId};
use longwatch_events::position::{Epoch, Position};
use longwatch_events::state::{Placement, State};
use longwatch_events::time::Timestamp;
use uuid::{Uuid, Version};

use super::rows::{CameraRow, Change, GapRow, SegmentRow, ServerRow, StatusKey, TenantRow};

/// What the event at `position` of `LOG`, stored at `stored_at`, does to the rows. `state` is the State after it: what a
/// stale event left no trace of there, it leaves no trace of here.
pub fn of_log(state: &State, position: Position, stored_at: Timestamp, event: &Event) -> Vec<Change> {
    match event {
        Event::TenantCreated(e) => {
            with_creation(e.tenant_id.as_uuid(), position, put_tenant(state, e.tenant_id))
        }
        Event::TenantChanged(e) => put_tenant(state, e.tenant_id),
        // A stale one moved the version.
        Event::TenantDeleted(e) if state.tenant(e.tenant_id).is_some() => put_tenant(state, e.tenant_id),
        Event::TenantDeleted(e) => vec![Change::DeleteTenant(e.tenant_id)],
        Event::ServerAdded(e) => {
            with_creation(e.server_id.as_uuid(), position, put_server(state, e.server_id))
        }
        Event::ServerJoined(e) => put_server(state, e.server_id),
        Event::ServerAdopted(e) => put_server(state, e.server_id),
        Event::ServerChanged(e) => put_server(state, e.server_id),
        Event::ServerLost(e) => put_server(state, e.server_id),
        Event::ServerReturned(e) => put_server(state, e.server_id),
        Event::ServerDiskMeasured(e) => put_server(state, e.server_id),
        Event::ServerDrainStarted(e) => put_server(state, e.server_id),
        Event::ServerDrainStopped(e) => put_server(state, e.server_id),
        Event::ServerFailbackRequested(e) => put_server(state, e.server_id),
        Event::ServerDetached(e) => {
            vec![Change::DetachServer { server_id: e.server_id, position, at: stored_at }]
        }
        Event::CameraAdded(e) => {
            let changes = put_camera(state, e.tenant_id, e.camera_id);
            with_creation(e.camera_id.as_uuid(), position, changes)
        }
        Event::CameraChanged(e) => put_camera(state, e.tenant_id, e.camera_id),
        Event::CameraDeleted(e) => vec![Change::DeleteCamera(e.tenant_id, e.camera_id)],
        Event::CameraMoveRequested(e) => put_camera(state, e.tenant_id, e.camera_id),
        Event::PolicyChanged(_) | Event::VersionRequired(_) => Vec::new(),
        Event::PlanMade(e) => plan(state, position, stored_at, e),
        // They stand in other log streams; the fold halts if they do not.
        Event::ServerHeartbeat(_)
        | Event::ControlTicked(_)
        | Event::RecordingReported(_)
        | Event::AssignmentsPublished(_)
        | Event::CameraBacklogged(_) => Vec::new(),
    }
}

/// The same, and that it was asked for here, if it can be asked for again: ids that follow from an `Idempotency-Key` are
/// of version 8, all others are not.
fn with_creation(thing_id: Uuid, position: Position, mut changes: Vec<Change>) -> Vec<Change> {
    if thing_id.get_version() == Some(Version::Custom) {
        changes.push(Change::RememberCreation { thing_id, position });
    }
    changes
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
        adopted: server.is_adopted(),
        lost_since: server.lost.map(|lost| lost.heard_at),
        created_at: server.created_at,
        version: server.version,
    });
    row.map(Change::PutServer).into_iter().collect()
}

fn put_camera(state: &State, tenant_id: TenantId, camera_id: CameraId) -> Vec<Change> {
    let row = state.camera(tenant_id, camera_id).map(|camera| CameraRow {
        tenant_id,
        camera_id,
        settings: camera.settings.clone(),
        created_at: camera.created_at,
        version: camera.version,
    });
    row.map(Change::PutCamera).into_iter().collect()
}

fn plan(state: &State, position: Position, at: Timestamp, plan: &PlanMade) -> Vec<Change> {
    let placed = plan.entries.iter().filter_map(|entry| {
        let (tenant_id, camera_id) = (entry.tenant_id, entry.camera_id);
        let placement = state.camera(tenant_id, camera_id)?.placement();
        if entry.copy != 0 {
            return None;
        }
        // A stale entry left the camera where it was.
        let took_effect = match (entry.decision, placement) {
            (Decision::Assign { .. }, Placement::Assigned(now)) => now.epoch == Epoch::from(position),
            (Decision::Unplace { .. }, Placement::Unplaced { since, .. }) => since == at,
            (Decision::Finish { epoch, .. }, Placement::Assigned(now)) => {
                now.epoch == epoch && now.since == at
            }
            (
                Decision::Assign { .. } | Decision::Finish { .. },
                Placement::Unplanned | Placement::Unplaced { .. },
            )
            | (Decision::Unplace { .. }, Placement::Unplanned | Placement::Assigned(_))
            | (Decision::Move { .. } | Decision::Abandon { .. }, _) => false,
        };
        took_effect.then_some(Change::PutPlacement { tenant_id, camera_id, position, at, placement })
    });
    placed.collect()
}

/// What the facts at `position` of `RECORDINGS` do to the rows.
pub fn of_recording(position: Position, report: &RecordingReported) -> Vec<Change> {
    let changes = (0..).zip(&report.facts).map(|(index, fact)| {
        let place = (position, index);
        of_fact(report, place, fact).unwrap_or_else(|why| Change::RejectFact { position, fact: index, why })
    });
    changes.collect()
}

fn of_fact(report: &RecordingReported, place: (Position, u32), fact: &Fact) -> Result<Change, String> {
    let RecordingReported { server_id, boot_id, .. } = *report;
    let (tenant_id, camera_id) = (fact.tenant_id(), fact.camera_id());
    let key = |epoch| StatusKey { tenant_id, camera_id, epoch, server_id, boot_id };
    match fact {
        Fact::Started(f) => Ok(Change::Started(key(f.epoch), f.at, place.0)),
        Fact::FirstKeyframeDurable(f) => Ok(Change::Recording(key(f.epoch), f.start, place.0)),
        Fact::Interrupted(f) => Ok(Change::Interrupted {
            key: key(f.epoch),
            at: f.at,
            cause: f.cause,
            detail: f.detail.clone(),
            position: place.0,
            fact: place.1,
        }),
        Fact::SegmentStored(f) => {
            ordered("segment", f.camera_id, f.start, f.end)?;
            Ok(Change::PutSegment(SegmentRow {
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
            }))
        }
        Fact::Gap(f) => {
            ordered("gap", f.camera_id, f.start, f.end)?;
            let gap = GapRow { epoch: f.epoch, start: f.start, end: f.end, cause: f.cause };
            Ok(Change::PutGap(f.tenant_id, f.camera_id, server_id, gap))
        }
    }
}

fn ordered(what: &str, camera_id: CameraId, start: Timestamp, end: Timestamp) -> Result<(), String> {
    if start < end {
        return Ok(());
    }
    Err(format!("a {what} of camera {camera_id} ends at {end}, which is not after its start {start}"))
}
