//! The oracle knows nothing of weeks in seconds: minute by minute it asks the calendar which day it is in the zone and what
//! the clock reads, and compares that with the windows as they are written.

use jiff::civil::Time;
use proptest::prelude::*;

use super::super::{Days, TimeOfDay};
use super::*;

/// Zones with the beginning of a week in which their clocks are set: forward or back, by an hour or by half of one, at night
/// and at midnight, and some that are never set or have an odd offset.
const WEEKS: [(&str, &str); 12] = [
    ("Europe/Berlin", "2026-03-26T00:00:00Z"),
    ("Europe/Berlin", "2026-10-22T00:00:00Z"),
    ("America/New_York", "2026-03-05T00:00:00Z"),
    ("America/New_York", "2026-10-29T00:00:00Z"),
    // Forward at midnight: this day had no 00:00. And back at midnight: Saturday had its last hour twice.
    ("America/Sao_Paulo", "2018-11-01T00:00:00Z"),
    ("America/Sao_Paulo", "2018-02-14T00:00:00Z"),
    ("Asia/Beirut", "2026-03-26T00:00:00Z"),
    ("Asia/Beirut", "2026-10-22T00:00:00Z"),
    // By half an hour.
    ("Australia/Lord_Howe", "2026-04-02T00:00:00Z"),
    ("Australia/Lord_Howe", "2026-10-01T00:00:00Z"),
    // It left out a whole day, a Friday.
    ("Pacific/Apia", "2011-12-28T00:00:00Z"),
    ("Asia/Kathmandu", "2026-06-01T00:00:00Z"),
];

const MINUTE_US: i64 = 60 * SECOND_US;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn time(text: &str) -> TimeOfDay {
    text.parse().unwrap()
}

fn schedule(zone: &str, windows: &[(&[Day], &str, &str)]) -> Weekly {
    let window = |(days, from, to): &(&[Day], &str, &str)| Window {
        days: days.iter().copied().collect(),
        from: time(from),
        to: time(to),
    };
    let weekly = windows.iter().map(window).collect();
    Weekly::new(&Schedule { time_zone: zone.into(), weekly }).unwrap()
}

/// Whether a clock on the wall of `zone` reads a time of one of the windows.
fn oracle(zone: &TimeZone, windows: &[Window], at: Timestamp) -> bool {
    let zoned = jiff::Timestamp::from_microsecond(at.as_micros()).unwrap().to_zoned(zone.clone());
    let (date, reads) = (zoned.date(), zoned.time());
    let named = |date: jiff::civil::Date| match date.weekday() {
        jiff::civil::Weekday::Monday => Day::Mon,
        jiff::civil::Weekday::Tuesday => Day::Tue,
        jiff::civil::Weekday::Wednesday => Day::Wed,
        jiff::civil::Weekday::Thursday => Day::Thu,
        jiff::civil::Weekday::Friday => Day::Fri,
        jiff::civil::Weekday::Saturday => Day::Sat,
        jiff::civil::Weekday::Sunday => Day::Sun,
    };
    let (today, yesterday) = (named(date), named(date.yesterday().unwrap()));
    // As the clock shows it; 24:00 never shows.
    let shown = |time: TimeOfDay| -> Option<Time> { format!("{time}").parse().ok() };
    windows.iter().any(|window| {
        let (from, to) = (shown(window.from), shown(window.to));
        let has_begun = from.is_some_and(|from| from <= reads);
        let has_not_ended = to.is_none_or(|to| reads < to);
        if window.to > window.from {
            window.days.has(today) && has_begun && has_not_ended
        } else {
            (window.days.has(today) && has_begun) || (window.days.has(yesterday) && has_not_ended)
        }
    })
}

fn some_window() -> impl Strategy<Value = Window> {
    let minutes = prop_oneof![(0..24_u32).prop_map(|hour| hour * 60), 0..=24 * 60_u32];
    (1..128_u8, minutes.clone(), minutes).prop_filter_map(
        "24:00 is the end of a day only",
        |(days, from, to)| {
            let (from, to) = (TimeOfDay::from_seconds(from * 60), TimeOfDay::from_seconds(to * 60));
            (from < TimeOfDay::END).then_some(Window { days: Days(days), from, to })
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn it_is_on_when_the_clock_on_the_wall_says_so_and_changes_when_that_changes(
        windows in proptest::collection::vec(some_window(), 0..4),
        (zone, begin) in proptest::sample::select(WEEKS.to_vec()),
        part_us in 0..MINUTE_US,
    ) {
        let compiled = Weekly::new(&Schedule { time_zone: zone.into(), weekly: windows.clone() }).unwrap();
        let tz = TimeZone::get(zone).or_else(|_| ZONES.get(zone)).unwrap();
        let minutes: Vec<_> = (0..8 * 24 * 60).map(|n| at(begin).plus_micros(n * MINUTE_US)).collect();
        let truth: Vec<_> = minutes.iter().map(|minute| oracle(&tz, &windows, *minute)).collect();
        let mut changes = minutes.iter().zip(&truth).zip(truth.iter().skip(1)).zip(minutes.iter().skip(1))
            .filter(|(((_, before), after), _)| before != after).map(|(_, when)| *when).peekable();
        for (minute, is_on) in minutes.iter().zip(&truth) {
            prop_assert_eq!(compiled.is_on(*minute), *is_on, "{} in {}", minute, zone);
            while changes.next_if(|change| change <= minute).is_some() {}
            // Within the minute as at its beginning, for changes are on whole minutes here.
            let asked = minute.plus_micros(part_us);
            match changes.peek() {
                Some(change) => prop_assert_eq!(compiled.next_change(asked), Some(*change), "after {}", asked),
                None => prop_assert!(compiled.next_change(asked).is_none_or(|change| change > *minutes.last().unwrap())),
            }
        }
    }

    #[test]
    fn stretches_cover_the_time_and_take_turns(
        windows in proptest::collection::vec(some_window(), 0..4),
        (zone, begin) in proptest::sample::select(WEEKS.to_vec()),
        lasts_us in 1..20 * 24 * 60 * MINUTE_US,
        limit in 1..12_usize,
    ) {
        let compiled = Weekly::new(&Schedule { time_zone: zone.into(), weekly: windows }).unwrap();
        let (start, end) = (at(begin), at(begin).plus_micros(lasts_us));
        let stretches = compiled.stretches(start, end, limit);
        prop_assert!(stretches.len() <= limit);
        prop_assert_eq!((stretches[0].start, stretches.last().unwrap().end), (start, end));
        for pair in stretches.windows(2) {
            prop_assert_eq!(pair[0].end, pair[1].start);
            prop_assert_ne!(pair[0].is_on, pair[1].is_on);
        }
        prop_assert!(compiled.stretches(end, start, limit).is_empty());
    }

    #[test]
    fn no_text_makes_it_panic(zone in ".{0,40}") {
        drop(Weekly::new(&Schedule { time_zone: zone, weekly: Vec::new() }));
    }
}

#[test]
fn summer_time_begins_and_ends_in_berlin() {
    let night = schedule("Europe/Berlin", &[(&[Day::Sat], "22:00", "06:00")]);
    // Then it is seven hours long, for 02:00 to 03:00 is skipped …
    assert_eq!(night.next_change(at("2026-03-28T12:00:00Z")), Some(at("2026-03-28T21:00:00Z")));
    assert_eq!(night.next_change(at("2026-03-28T21:00:00Z")), Some(at("2026-03-29T04:00:00Z")));
    // … and nine, for that hour comes twice.
    assert_eq!(night.next_change(at("2026-10-24T12:00:00Z")), Some(at("2026-10-24T20:00:00Z")));
    assert_eq!(night.next_change(at("2026-10-24T20:00:00Z")), Some(at("2026-10-25T05:00:00Z")));
}

#[test]
fn what_the_clock_reads_twice_is_on_twice_and_what_it_skips_is_not_there() {
    let half_hour = schedule("Europe/Berlin", &[(&[Day::Sun], "02:15", "02:45")]);
    let changes = |from: &str, count| {
        let next = |at: &Timestamp| half_hour.next_change(*at);
        std::iter::successors(half_hour.next_change(at(from)), next).take(count).collect::<Vec<_>>()
    };
    let twice =
        ["2026-10-25T00:15:00Z", "2026-10-25T00:45:00Z", "2026-10-25T01:15:00Z", "2026-10-25T01:45:00Z"];
    assert_eq!(changes("2026-10-24T12:00:00Z", 4), twice.map(at));
    assert_eq!(changes("2026-03-28T12:00:00Z", 1), [at("2026-04-05T00:15:00Z")]);
}

#[test]
fn always_and_never_do_not_change() {
    let whole_days: &[Day] = &Day::ALL;
    for windows in [&[(whole_days, "00:00", "24:00")][..], &[(whole_days, "07:00", "07:00")]] {
        let always = schedule("Asia/Tokyo", windows);
        assert!(always.is_on(at("2026-01-01T00:00:00Z")));
        assert_eq!(always.next_change(at("2026-01-01T00:00:00Z")), None);
    }
    let never = schedule("Asia/Tokyo", &[]);
    assert!(!never.is_on(at("2026-01-01T00:00:00Z")));
    assert_eq!(never.next_change(at("2026-01-01T00:00:00Z")), None);
}

#[test]
fn seconds_count_and_the_end_of_the_week_is_no_change() {
    let weekend = schedule("UTC", &[(&[Day::Sun], "12:00:05", "24:00"), (&[Day::Mon], "00:00", "01:00:01")]);
    assert_eq!(weekend.next_change(at("2026-11-29T12:00:04.9Z")), Some(at("2026-11-29T12:00:05Z")));
    assert_eq!(weekend.next_change(at("2026-11-29T12:00:05Z")), Some(at("2026-11-30T01:00:01Z")));
}

#[test]
fn an_unknown_zone_is_named_with_what_was_meant() {
    let said = |name: &str| unknown(name).to_string();
    assert_eq!(said("Berlin"), "`Berlin` is not a time zone: expected Europe/Berlin");
    assert!(said("new york").ends_with("expected America/New_York"), "{}", said("new york"));
    assert!(said("CEST").contains("a name such as Europe/Berlin"), "{}", said("CEST"));
    assert_eq!(
        Weekly::new(&Schedule { time_zone: "Mars/Olympus".into(), weekly: Vec::new() }).unwrap_err().meant,
        None
    );
}
