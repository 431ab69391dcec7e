//! Which segments go of what a camera has in an object store, of which control tells the oldest, part by part.
//!
//! Pure. The rules are those of [`super::plan`], as far as they are about one camera: there are no volumes, and the bounds of
//! a server do not count. Invariant: what is begun already counts as gone, so that no more goes than the rules say while its
//! facts are on their way.

use std::collections::{BTreeMap, BTreeSet};

use longwatch_events::archive::StockedCamera;
use longwatch_events::time::Timestamp;

use super::{Going, Known, Limits, Segment};
use crate::archive::layout::SegmentName;
use crate::holds::Holds;
use crate::plan::Key;

/// What follows from a part.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// What goes, oldest first.
    pub going: Vec<Going>,
    /// More may have to go behind the last segment that was told.
    pub goes_on: bool,
    /// Keys that are no names of this camera's segments. They are left alone.
    pub foreign: Vec<String>,
}

/// What goes of `told`, and whether the part behind it is to be looked at. `begun`: the bytes of each deletion that is begun
/// and not known to be told, by key.
pub fn decide(
    told: &StockedCamera,
    begun: &BTreeMap<String, u64>,
    holds: &[Holds],
    now: Timestamp,
) -> Decision {
    let camera = Key { tenant_id: told.tenant_id, camera_id: told.camera_id };
    let (mut segments, mut foreign) = (Vec::new(), Vec::new());
    for segment in told.segments.iter().filter(|segment| !begun.contains_key(&segment.key)) {
        let name = SegmentName::parse(&segment.key);
        let Some(name) =
            name.filter(|name| (name.tenant_id, name.camera_id) == (told.tenant_id, told.camera_id))
        else {
            foreign.push(segment.key.clone());
            continue;
        };
        let held = holds.iter().any(|holds| holds.hold(camera, name.start, segment.end));
        segments.push(Segment { volume: 0, name, end: segment.end, bytes: segment.bytes, held });
    }
    let named: u64 = segments.iter().map(|segment| segment.bytes).sum();
    let of_camera = format!("{}/{}/", told.tenant_id, told.camera_id);
    let is_begun: u64 =
        begun.iter().filter(|(key, _)| key.starts_with(&of_camera)).map(|(_, bytes)| bytes).sum();
    let there = told.bytes.saturating_sub(is_begun);
    let known = Known {
        segments,
        unnamed_bytes: BTreeMap::from([(camera, there.saturating_sub(named))]),
        unnamed_on: BTreeSet::new(),
    };
    let limits = Limits { cameras: BTreeMap::from([(camera, told.retention)]), ..Limits::default() };
    let going = super::plan(&known, &limits, now);
    let left = there.saturating_sub(going.iter().map(|going| going.segment.bytes).sum());
    let goes_on = told.segments.last().is_some_and(|last| {
        let is_too_old = told.retention.max_days.is_some_and(|days| last.end <= super::older_than(now, days));
        let is_too_much = told.retention.max_bytes.is_some_and(|max| left > max);
        // Behind one that is too young to go all are.
        told.more && (is_too_old || is_too_much) && !limits.is_too_young(camera, last.end, now)
    });
    Decision { going, goes_on, foreign }
}

#[cfg(test)]
mod tests;
