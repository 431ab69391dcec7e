//! Which of the segments on the volumes are worth naming: enough of the oldest that every limit can be kept, and no more,
//! because a day of one camera is more than a thousand files.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use longwatch_events::id::TenantId;
use longwatch_events::time::Timestamp;

use super::super::claims::Claims;
use super::super::reported::Reported;
use crate::archive::inventory::{self, Day, Listed, Sums, date_of};
use crate::holds::Holds;
use crate::plan::Key;
use crate::retention::{Known, Limits, Segment, older_than};

/// What is looked at, and by what measure.
pub(super) struct View<'a> {
    /// Of each volume, oldest first.
    pub(super) days: &'a [Vec<Day>],
    /// How much there may be.
    pub(super) limits: &'a Limits,
    /// What must stay.
    pub(super) holds: &'a Holds,
    /// What was told of segments.
    pub(super) reported: &'a Reported,
    /// What is being uploaded.
    pub(super) claims: &'a Claims,
    /// The present.
    pub(super) now: Timestamp,
}

/// A day: on which volume, and which of that volume's.
type Place = (usize, usize);

/// Days that were read.
struct Named<'a> {
    view: &'a View<'a>,
    /// What may go of each, and the bytes of what else there is.
    days: BTreeMap<Place, (Vec<Segment>, u64)>,
}

/// Looks.
///
/// # Errors
///
/// If a folder cannot be read.
pub(super) fn survey(view: &View<'_>, sums: &mut Sums) -> io::Result<Known> {
    let mut named = Named { view, days: BTreeMap::new() };
    // All days, the oldest first, whichever volume they are on.
    let mut places: Vec<Place> =
        (0..).zip(view.days).flat_map(|(volume, days)| (0..days.len()).map(move |at| (volume, at))).collect();
    places.sort_by_key(|place| (&view.day(*place).date, *place));

    for place in &places {
        let Day { camera, date, .. } = view.day(*place);
        let max_days = view.limits.cameras.get(camera).and_then(|retention| retention.max_days);
        if max_days.is_some_and(|days| *date <= date_of(older_than(view.now, days))) {
            named.name(*place)?;
        }
    }
    let totals = totals(view, sums)?;
    for (camera, total) in &totals {
        let max_bytes = view.limits.cameras.get(camera).and_then(|retention| retention.max_bytes);
        let excess = max_bytes.map_or(0, |max| total.saturating_sub(max));
        let of_camera = places.iter().filter(|place| view.day(**place).camera == *camera);
        named.name_until(excess, of_camera)?;
    }
    if let Some(max_bytes) = view.limits.tenant_max_bytes {
        let mut of_tenants: BTreeMap<TenantId, u64> = BTreeMap::new();
        totals.iter().for_each(|(camera, bytes)| *of_tenants.entry(camera.tenant_id).or_default() += bytes);
        for (tenant_id, total) in of_tenants {
            let of_tenant = places.iter().filter(|place| view.day(**place).camera.tenant_id == tenant_id);
            named.name_until(total.saturating_sub(max_bytes), of_tenant)?;
        }
    }
    if let Some(max_bytes) = view.limits.total_max_bytes() {
        named.name_until(totals.values().sum::<u64>().saturating_sub(max_bytes), places.iter())?;
    }
    for (volume, lacking) in view.limits.to_free.iter().enumerate() {
        named.name_until(*lacking, places.iter().filter(|place| place.0 == volume))?;
    }
    let all: Vec<_> = view.days.iter().flatten().cloned().collect();
    sums.keep_only(&all);
    Ok(named.known(&places, &totals))
}

/// Bytes of each camera for which they count.
fn totals(view: &View<'_>, sums: &mut Sums) -> io::Result<BTreeMap<Key, u64>> {
    let mut totals = BTreeMap::new();
    for day in view.days.iter().flatten() {
        let retention = view.limits.cameras.get(&day.camera);
        let all = view.limits.tenant_max_bytes.or(view.limits.total_max_bytes()).is_some();
        if all || retention.is_some_and(|kept| kept.max_bytes.is_some()) {
            *totals.entry(day.camera).or_insert(0) += sums.of(day)?;
        }
    }
    Ok(totals)
}

impl View<'_> {
    fn day(&self, (volume, at): Place) -> &Day {
        &self.days[volume][at]
    }

    /// Whether the fact that a segment is stored is sure to be told before the fact that it is deleted.
    fn is_told(&self, listed: &Listed) -> bool {
        self.reported.is_told(listed, self.now)
    }
}

impl Named<'_> {
    /// Reads a day, unless it was read.
    fn name(&mut self, place: Place) -> io::Result<&[Segment]> {
        if !self.days.contains_key(&place) {
            let (view, (volume, _)) = (self.view, place);
            let day = view.day(place);
            let (mut may_go, mut other_bytes) = (Vec::new(), 0);
            for listed in inventory::segments(day)? {
                // A camera's segments are told in order: where one is not told yet, no later one may go.
                if other_bytes > 0 || !view.is_told(&listed) {
                    other_bytes += listed.bytes.max(1);
                    continue;
                }
                let Listed { name, end, bytes, .. } = listed;
                let held = view.holds.hold(day.camera, name.start, end) || view.claims.is_taken(&name);
                may_go.push(Segment { volume, name, end, bytes, held });
            }
            self.days.insert(place, (may_go, other_bytes));
        }
        Ok(&self.days[&place].0)
    }

    /// Reads days in order until so many bytes of them may go, or there are no more days.
    fn name_until<'p>(&mut self, wanted: u64, places: impl Iterator<Item = &'p Place>) -> io::Result<()> {
        let (limits, now) = (self.view.limits, self.view.now);
        let mut found = 0;
        for place in places {
            if found >= wanted {
                return Ok(());
            }
            let segments = self.name(*place)?.iter();
            let may_go = segments
                .filter(|segment| !segment.held && !limits.is_too_young(segment.camera(), segment.end, now));
            found += may_go.map(|segment| segment.bytes).sum::<u64>();
        }
        Ok(())
    }

    fn known(mut self, places: &[Place], totals: &BTreeMap<Key, u64>) -> Known {
        let mut unnamed_bytes = totals.clone();
        let (mut unnamed_on, mut waiting) = (BTreeSet::new(), BTreeSet::new());
        let mut segments = Vec::new();
        for place in places {
            let camera = self.view.day(*place).camera;
            let named = match self.days.remove(place) {
                // Midnight changes nothing about their order: where one of an earlier day is not told yet, none of this may go.
                Some((named, other_bytes)) if !waiting.contains(&camera) => {
                    if other_bytes > 0 {
                        waiting.insert(camera);
                        unnamed_on.insert((place.0, camera));
                    }
                    named
                }
                Some(_) | None => {
                    unnamed_on.insert((place.0, camera));
                    Vec::new()
                }
            };
            if let Some(unnamed) = unnamed_bytes.get_mut(&camera) {
                *unnamed = unnamed.saturating_sub(named.iter().map(|segment| segment.bytes).sum());
            }
            segments.extend(named);
        }
        Known { segments, unnamed_bytes, unnamed_on }
    }
}
