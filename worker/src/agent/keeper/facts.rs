//! What is told of objects. Pure.

use longwatch_events::archive::StockedSegment;
use longwatch_events::fact::{Damage, Fact, SegmentChecked, SegmentDeleted};
use longwatch_events::id::{ServerId, StoreId};
use longwatch_events::time::Timestamp;

use crate::archive::layout::SegmentName;
use crate::retention::Going;

/// Who recorded it, if not the server that tells.
fn recorded_by(name: &SegmentName, teller: ServerId) -> Option<ServerId> {
    (name.server_id != teller).then_some(name.server_id)
}

/// That a segment is gone.
pub(super) fn deleted(
    going: &Going,
    teller: ServerId,
    store_id: Option<StoreId>,
    at: Timestamp,
) -> SegmentDeleted {
    let Going { segment, reason, before_min_age } = going;
    let name = segment.name;
    SegmentDeleted {
        tenant_id: name.tenant_id,
        camera_id: name.camera_id,
        epoch: name.epoch,
        key: name.key(),
        start: name.start,
        end: segment.end,
        bytes: segment.bytes,
        at,
        reason: *reason,
        before_min_age: *before_min_age,
        store_id,
        recorded_by: recorded_by(&name, teller),
    }
}

/// That what lies in the place of a segment is not the segment.
pub(super) fn checked(
    going: &Going,
    told: &StockedSegment,
    teller: ServerId,
    store_id: StoreId,
    damage: Damage,
    at: Timestamp,
) -> Fact {
    let name = going.segment.name;
    Fact::SegmentChecked(SegmentChecked {
        tenant_id: name.tenant_id,
        camera_id: name.camera_id,
        epoch: name.epoch,
        key: told.key.clone(),
        start: told.start,
        end: told.end,
        bytes: told.bytes,
        sha256: told.sha256,
        at,
        damage: Some(damage),
        found_bytes: None,
        found_sha256: None,
        store_id: Some(store_id),
        recorded_by: recorded_by(&name, teller),
    })
}
