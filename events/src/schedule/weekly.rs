//! A schedule, compiled: whether it is on at a moment, and when that changes next.
//!
//! Pure: the rules of time zones are those that were built in, the same for every program of one version, whatever the
//! machine holds. A time zone is a sequence of stretches with one offset to UTC each; within one, the clock on the wall
//! runs with time, so that a change of the schedule is found by subtraction.

use std::sync::LazyLock;

use jiff::tz::{TimeZone, TimeZoneDatabase};

use super::{DAY_S, Day, Schedule, Window};
use crate::time::Timestamp;

const WEEK_S: u32 = 7 * DAY_S;
const SECOND_US: i64 = 1_000_000;

static ZONES: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

/// A time zone that this program does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is not a time zone: expected {}", .meant.as_deref().unwrap_or("a name such as Europe/Berlin, America/New_York or UTC"))]
pub struct UnknownZone {
    /// What was given, shortened to 64 characters.
    pub name: String,
    /// A zone whose last word is the same, if there is one.
    pub meant: Option<String>,
}

/// A [`Schedule`] to be asked.
#[derive(Debug, Clone)]
pub struct Weekly {
    zone: TimeZone,
    /// When it is on, in seconds of the week by the clock on the wall, Monday first: from and up to, in order, apart from
    /// each other.
    on: Vec<(u32, u32)>,
}

/// A stretch of time in which a schedule does not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// Its beginning.
    pub start: Timestamp,
    /// Its end; later than `start`.
    pub end: Timestamp,
    /// Whether the schedule is on.
    pub is_on: bool,
}

impl Weekly {
    /// Compiles a schedule.
    ///
    /// # Errors
    /// If its time zone is unknown.
    pub fn new(schedule: &Schedule) -> Result<Self, UnknownZone> {
        let zone = ZONES.get(&schedule.time_zone).map_err(|_| unknown(&schedule.time_zone))?;
        Ok(Self { zone, on: merged(schedule.weekly.iter().flat_map(seconds_of_week).collect()) })
    }

    /// Whether it is on at this moment.
    pub fn is_on(&self, at: Timestamp) -> bool {
        let second = self.second_of_week(at);
        let next = self.on.partition_point(|(from, _)| *from <= second);
        next.checked_sub(1).is_some_and(|index| second < self.on[index].1)
    }

    /// The first moment after `at` from which on it is no longer as it is at `at`; `None`: there is none, or not before
    /// the calendar ends.
    pub fn next_change(&self, at: Timestamp) -> Option<Timestamp> {
        let is_on = self.is_on(at);
        if self.on.is_empty() || self.on == [(0, WEEK_S)] {
            return None;
        }
        let mut from = at;
        loop {
            let transition = self.transition_after(from);
            let change = self.change_by_clock(from);
            match transition {
                Some(transition) if transition <= change => {
                    if self.is_on(transition) != is_on {
                        return Some(transition);
                    }
                    from = transition;
                }
                Some(_) | None => return (change > from).then_some(change),
            }
        }
    }

    /// The time from `start` to `end`, cut where it changes; nothing if `end` is not later. At most `limit` stretches: the
    /// last one then reaches to the end.
    pub fn stretches(&self, start: Timestamp, end: Timestamp, limit: usize) -> Vec<Stretch> {
        let mut stretches = Vec::new();
        let mut from = start;
        while from < end {
            let change = self.next_change(from).filter(|_| stretches.len() + 1 < limit);
            let to = change.map_or(end, |change| change.min(end));
            stretches.push(Stretch { start: from, end: to, is_on: self.is_on(from) });
            from = to;
        }
        stretches
    }

    /// When the next change would be if the offset to UTC stayed as it is at `at`.
    fn change_by_clock(&self, at: Timestamp) -> Timestamp {
        let second = self.second_of_week(at);
        let edges = self.on.iter().flat_map(|(from, to)| [*from, *to]);
        // The end of a week is the beginning of the next, and no change if it is on there both before and after.
        let wraps = self.on.first().is_some_and(|(from, _)| *from == 0)
            && self.on.last().is_some_and(|(_, to)| *to == WEEK_S);
        let waits = edges
            .filter(|edge| !(wraps && edge % WEEK_S == 0))
            .map(|edge| (edge + WEEK_S - second - 1) % WEEK_S + 1);
        let wait_s = i64::from(waits.min().unwrap_or(WEEK_S));
        let this_second = at.as_micros().div_euclid(SECOND_US);
        Timestamp::from_micros((this_second + wait_s).saturating_mul(SECOND_US))
    }

    fn transition_after(&self, at: Timestamp) -> Option<Timestamp> {
        let transition = self.zone.following(instant(at)).next()?;
        Some(Timestamp::from_micros(transition.timestamp().as_microsecond()))
    }

    /// What the clock on the wall reads: seconds since the beginning of its week.
    fn second_of_week(&self, at: Timestamp) -> u32 {
        let read = self.zone.to_datetime(instant(at));
        let day = u32::try_from(read.weekday().to_monday_zero_offset()).unwrap_or(0);
        let part = |value: i8| u32::try_from(value).unwrap_or(0);
        day * DAY_S + part(read.hour()) * 3_600 + part(read.minute()) * 60 + part(read.second())
    }
}

fn instant(at: Timestamp) -> jiff::Timestamp {
    jiff::Timestamp::from_microsecond(at.as_micros()).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
}

fn unknown(name: &str) -> UnknownZone {
    let last = |name: &str| name.rsplit('/').next().unwrap_or(name).replace(' ', "_").to_lowercase();
    let wanted = last(name);
    let meant = ZONES.available().find(|zone| last(zone.as_str()) == wanted);
    UnknownZone { name: name.chars().take(64).collect(), meant: meant.map(|zone| zone.as_str().to_owned()) }
}

/// A window as stretches of seconds of the week; one that reaches over its end is two.
fn seconds_of_week(window: &Window) -> Vec<(u32, u32)> {
    let (from, to) = (window.from.seconds(), window.to.seconds());
    let lasts = if to > from { to - from } else { to + DAY_S - from };
    let mut on = Vec::new();
    for day in window.days.iter() {
        let begin = day_index(day) * DAY_S + from;
        let end = begin + lasts;
        // One that begins at 24:00 on a Sunday begins on Monday.
        if begin < WEEK_S {
            on.push((begin, end.min(WEEK_S)));
        }
        if end > WEEK_S {
            on.push((begin.saturating_sub(WEEK_S), end - WEEK_S));
        }
    }
    on
}

const fn day_index(day: Day) -> u32 {
    day as u32
}

/// The same stretches, in order, none touching another.
fn merged(mut stretches: Vec<(u32, u32)>) -> Vec<(u32, u32)> {
    stretches.sort_unstable();
    let mut merged: Vec<(u32, u32)> = Vec::new();
    for (from, to) in stretches.into_iter().filter(|(from, to)| from < to) {
        match merged.last_mut() {
            Some((_, last)) if from <= *last => *last = to.max(*last),
            Some(_) | None => merged.push((from, to)),
        }
    }
    merged
}

#[cfg(test)]
mod tests;
