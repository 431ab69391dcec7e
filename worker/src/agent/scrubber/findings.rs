//! Findings: where they stand, which say the same, and what is told of them. Pure, but for the clock.

use std::collections::BTreeMap;
use std::path::PathBuf;

use longwatch_events::archive::{KnownSegment, Place};
use longwatch_events::fact::{Damage, Fact, SegmentChecked};
use longwatch_events::time::{Clock, Timestamp};

use super::disk::Listed;
use crate::archive::layout::SegmentName;
use crate::scrub::{Content, Finding, Seen};

/// What a key tells of a place: milliseconds.
pub(super) const fn cut(place: Place) -> Place {
    let micros = place.start.as_micros();
    let start = Timestamp::from_micros(micros - micros.rem_euclid(1_000));
    Place { start, ..place }
}

/// Where a finding stands in the list; `None` if its name cannot be read.
pub(super) fn place_of(finding: &Finding) -> Option<Place> {
    match finding {
        Finding::Damaged { segment, .. } | Finding::Healed { segment } => Some(cut(segment.place())),
        Finding::Orphan { key, .. } => SegmentName::parse(key).as_ref().map(super::disk::place_of),
    }
}

pub(super) fn seen_of(listed: &[Listed], read: &BTreeMap<PathBuf, Content>) -> Vec<Seen> {
    let seen = |file: &Listed| Seen { named_at: file.named_at, content: read.get(&file.path).copied() };
    listed.iter().map(seen).collect()
}

/// Whether two findings say the same of the same segment.
pub(super) fn is_same(one: &Finding, other: &Finding) -> bool {
    match (one, other) {
        (Finding::Damaged { segment, damage, .. }, Finding::Damaged { segment: of, damage: how, .. }) => {
            segment.key == of.key && damage == how
        }
        (Finding::Healed { segment }, Finding::Healed { segment: of }) => segment.key == of.key,
        (Finding::Orphan { key, content }, Finding::Orphan { key: of, content: what }) => {
            key == of && content == what
        }
        (Finding::Damaged { .. } | Finding::Healed { .. } | Finding::Orphan { .. }, _) => false,
    }
}

pub(super) fn checked(
    segment: &KnownSegment,
    damage: Option<Damage>,
    content: Option<Content>,
    clock: &dyn Clock,
) -> Fact {
    let (found_bytes, found_sha256) = match content {
        None => (None, None),
        Some(Content::Read { bytes, sha256 }) => (Some(bytes), Some(sha256)),
        Some(Content::Unreadable { bytes }) => (Some(bytes), None),
    };
    Fact::SegmentChecked(SegmentChecked {
        tenant_id: segment.tenant_id,
        camera_id: segment.camera_id,
        epoch: segment.epoch,
        key: segment.key.clone(),
        start: segment.start,
        end: segment.end,
        bytes: segment.bytes,
        sha256: segment.sha256,
        at: clock.now(),
        damage,
        found_bytes,
        found_sha256,
        store_id: None,
        recorded_by: None,
    })
}
