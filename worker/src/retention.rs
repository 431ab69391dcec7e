//! Which segments go, and why.
//!
//! Pure. Goals, in this order:
//! 1. held video never goes;
//! 2. video younger than its camera's `min_days` stays, unless a volume, or the spool, is full and nothing else may go;
//! 3. video older than its camera's `max_days` goes;
//! 4. while a camera, and then a tenant, has more bytes than it may, its oldest video goes;
//! 5. while a volume has less free space than it must have, its oldest video goes, and while a spool holds more than it
//!    may, the oldest of all; but of each camera on a volume the newest segment stays: it is what is being recorded, and
//!    where the next start resumes.
//!
//! Invariant: no more goes than that takes, and oldest first; so asking again about what is left says that nothing goes.
//! Ties end on the name. What lies in an object store is decided by the same rules, part by part: [`stock`].

use std::collections::{BTreeMap, BTreeSet};

use longwatch_events::fact::DeletionReason;
use longwatch_events::id::TenantId;
use longwatch_events::settings::Retention;
use longwatch_events::time::Timestamp;

use crate::archive::layout::SegmentName;
use crate::plan::Key;

pub mod stock;

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

/// A stored segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// The volume it lies on: its place in the list that [`Limits::to_free`] is about.
    pub volume: usize,
    /// Which.
    pub name: SegmentName,
    /// Time at which its last frame ends.
    pub end: Timestamp,
    /// Size of its file.
    pub bytes: u64,
    /// Somebody wants it kept, whatever else is said.
    pub held: bool,
}

impl Segment {
    /// Its camera.
    pub const fn camera(&self) -> Key {
        Key { tenant_id: self.name.tenant_id, camera_id: self.name.camera_id }
    }

    const fn age_key(&self) -> (Timestamp, SegmentName) {
        (self.end, self.name)
    }
}

/// What there is. Of a camera with much video it is enough to name the oldest segments; the rest is a sum.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// Segments that may go, in any order. Of each camera on each volume those are named that are oldest.
    pub segments: Vec<Segment>,
    /// Bytes of each camera's segments that are not named here.
    pub unnamed_bytes: BTreeMap<Key, u64>,
    /// The cameras on each volume that have segments there which are not named here, all newer than those that are.
    pub unnamed_on: BTreeSet<(usize, Key)>,
}

/// How much there may be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// What is set for each camera; one that is missing here has no bounds.
    pub cameras: BTreeMap<Key, Retention>,
    /// Bytes of one tenant on this server; `None`: without bound.
    pub tenant_max_bytes: Option<u64>,
    /// Bytes that each volume lacks of the free space it must have.
    pub to_free: Vec<u64>,
    /// What lies here waits to be uploaded; `None`: it lies here for good.
    pub spool: Option<Spool>,
}

/// A place to wait in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spool {
    /// How many bytes may wait; `None`: as many as there is room for.
    pub max_bytes: Option<u64>,
}

/// A segment that goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Going {
    /// Which.
    pub segment: Segment,
    /// Why.
    pub reason: DeletionReason,
    /// It is younger than its camera's `min_days`.
    pub before_min_age: bool,
}

/// Video that ends before this time is older than so many days.
pub fn older_than(now: Timestamp, days: u32) -> Timestamp {
    now.plus_millis(-i64::from(days).saturating_mul(DAY_MS))
}

impl Limits {
    fn of(&self, camera: Key) -> Retention {
        self.cameras.get(&camera).copied().unwrap_or_default()
    }

    /// Whether video of this camera that ends at `end` must stay for its age.
    pub fn is_too_young(&self, camera: Key, end: Timestamp, now: Timestamp) -> bool {
        self.of(camera).min_days.is_some_and(|days| end > older_than(now, days))
    }

    /// Why video goes for want of room.
    const fn room_reason(&self) -> DeletionReason {
        match self.spool {
            Some(_) => DeletionReason::SpoolFull,
            None => DeletionReason::VolumeFull,
        }
    }

    /// How many bytes there may be of all together.
    pub fn total_max_bytes(&self) -> Option<u64> {
        self.spool.and_then(|spool| spool.max_bytes)
    }

    fn is_too_old(&self, segment: &Segment, now: Timestamp) -> bool {
        self.of(segment.camera()).max_days.is_some_and(|days| segment.end <= older_than(now, days))
    }
}

/// What goes, oldest first.
pub fn plan(known: &Known, limits: &Limits, now: Timestamp) -> Vec<Going> {
    let mut oldest_first: Vec<&Segment> = known.segments.iter().collect();
    oldest_first.sort_by_key(|segment| segment.age_key());
    let mut going: Vec<Option<DeletionReason>> = vec![None; oldest_first.len()];
    let too_young: Vec<_> =
        oldest_first.iter().map(|segment| limits.is_too_young(segment.camera(), segment.end, now)).collect();
    let may_go = |at: usize| !oldest_first[at].held && !too_young[at];

    for (at, segment) in oldest_first.iter().enumerate() {
        if may_go(at) && limits.is_too_old(segment, now) {
            going[at] = Some(DeletionReason::Age);
        }
    }

    let of_camera = |segment: &Segment| segment.camera();
    let mut left = bytes_left(known, &oldest_first, &going, of_camera, |camera| camera);
    let max_bytes = |camera| limits.of(camera).max_bytes;
    take_excess(
        &oldest_first,
        &mut going,
        &mut left,
        of_camera,
        max_bytes,
        may_go,
        DeletionReason::CameraBytes,
    );

    let of_tenant = |segment: &Segment| segment.name.tenant_id;
    let mut left = bytes_left(known, &oldest_first, &going, of_tenant, |camera| camera.tenant_id);
    let max_bytes = |_: TenantId| limits.tenant_max_bytes;
    take_excess(
        &oldest_first,
        &mut going,
        &mut left,
        of_tenant,
        max_bytes,
        may_go,
        DeletionReason::TenantBytes,
    );

    make_room(known, limits, &oldest_first, &mut going, &too_young);

    let decided = oldest_first.into_iter().zip(going).zip(too_young);
    decided
        .filter_map(|((segment, reason), before_min_age)| {
            Some(Going { segment: segment.clone(), reason: reason?, before_min_age })
        })
        .collect()
}

/// Bytes of each owner that stay as far as is decided.
fn bytes_left<O: Ord>(
    known: &Known,
    segments: &[&Segment],
    going: &[Option<DeletionReason>],
    owner: impl Fn(&Segment) -> O,
    owner_of: impl Fn(Key) -> O,
) -> BTreeMap<O, u64> {
    let mut left = BTreeMap::new();
    for (camera, bytes) in &known.unnamed_bytes {
        *left.entry(owner_of(*camera)).or_insert(0) += bytes;
    }
    for (segment, _) in segments.iter().zip(going).filter(|(_, going)| going.is_none()) {
        *left.entry(owner(segment)).or_insert(0) += segment.bytes;
    }
    left
}

/// Takes the oldest of each owner's segments while it has more than it may.
fn take_excess<O: Ord + Copy>(
    segments: &[&Segment],
    going: &mut [Option<DeletionReason>],
    left: &mut BTreeMap<O, u64>,
    owner: impl Fn(&Segment) -> O,
    max_bytes: impl Fn(O) -> Option<u64>,
    may_go: impl Fn(usize) -> bool,
    reason: DeletionReason,
) {
    for (at, segment) in segments.iter().enumerate() {
        let owner = owner(segment);
        let Some(max_bytes) = max_bytes(owner) else { continue };
        let Some(left) = left.get_mut(&owner).filter(|left| **left > max_bytes) else { continue };
        if going[at].is_none() && may_go(at) {
            going[at] = Some(reason);
            *left -= segment.bytes;
        }
    }
}

/// Takes the oldest segments of each volume that lacks free space, and of all while they are too many: first those that are
/// old enough, then, if that is not enough, the others.
fn make_room(
    known: &Known,
    limits: &Limits,
    segments: &[&Segment],
    going: &mut [Option<DeletionReason>],
    too_young: &[bool],
) {
    let mut to_free = limits.to_free.clone();
    for (segment, _) in segments.iter().zip(&*going).filter(|(_, going)| going.is_some()) {
        if let Some(lacking) = to_free.get_mut(segment.volume) {
            *lacking = lacking.saturating_sub(segment.bytes);
        }
    }
    let left: u64 = bytes_left(known, segments, going, |_| (), |_| ()).into_values().sum();
    let mut excess = limits.total_max_bytes().map_or(0, |max| left.saturating_sub(max));
    // Later ones replace earlier ones: what is left are the newest.
    let newest: BTreeMap<(usize, Key), usize> = (0..)
        .zip(segments)
        .map(|(at, segment)| ((segment.volume, segment.camera()), at))
        .filter(|(camera, _)| !known.unnamed_on.contains(camera))
        .collect();
    for young in [false, true] {
        for (at, segment) in segments.iter().enumerate() {
            let lacking = to_free.get_mut(segment.volume);
            if excess == 0 && lacking.as_ref().is_none_or(|lacking| **lacking == 0) {
                continue;
            }
            let is_newest = newest.get(&(segment.volume, segment.camera())) == Some(&at);
            if going[at].is_none() && !segment.held && too_young[at] == young && !is_newest {
                going[at] = Some(limits.room_reason());
                excess = excess.saturating_sub(segment.bytes);
                if let Some(lacking) = lacking {
                    *lacking = lacking.saturating_sub(segment.bytes);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
