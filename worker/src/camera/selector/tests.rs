use std::num::NonZeroU32;

use bytes::Bytes;
use longwatch_events::schedule::{Days, Schedule, TimeOfDay, Window};
use longwatch_events::settings::{EventRecording, Recording, RecordingMode};
use proptest::prelude::*;

use super::*;
use crate::frame::{Arrival, AudioFrame};
use crate::wish::REACT_MS;
use crate::wish::events::{Span, Spans};

/// A whole second of a day.
const START: Timestamp = Timestamp::from_millis(1_795_420_800_000);
/// Ten pictures a second, of a hundred bytes each.
const STEP_MS: i64 = 100;
const BYTES: usize = 100;
const NO_LIMIT: usize = usize::MAX;

fn at(ms: i64) -> Timestamp {
    START.plus_millis(ms)
}

fn picture(n: i64, random_access: bool) -> VideoFrame {
    let arrival = Arrival { at: at(n * STEP_MS), monotonic_us: 0 };
    VideoFrame { data: Bytes::from_static(&[0; BYTES]), media_time: n, random_access, arrival }
}

fn sound(n: i64) -> Beside {
    let arrival = Arrival { at: at(n * STEP_MS), monotonic_us: 0 };
    let duration = NonZeroU32::new(1).unwrap();
    let data = Bytes::from_static(&[0; 10]);
    Beside::Audio(AudioFrame { data, media_time: -n, duration, arrival })
}

/// Around events; `pre_ms` before each of them.
fn around(pre_ms: u32, spans: &Spans) -> Wish {
    let event = Some(EventRecording { pre_ms, post_ms: 0 });
    Wish::new(Some(&Recording { event, ..Recording::default() }), spans).unwrap()
}

fn span(from_ms: i64, at_ms: i64, until_ms: i64) -> Span {
    Span { from: at(from_ms), at: at(at_ms), until: at(until_ms) }
}

/// What is recorded, as a recorder would.
#[derive(Default)]
struct Recorded {
    selector: Selector,
    /// Each recording's frames; audio is negative.
    recordings: Vec<Vec<i64>>,
    is_open: bool,
    pauses: Vec<i64>,
}

impl Recorded {
    fn act(&mut self, wish: &Wish, limit: usize) {
        while let Some(act) = self.selector.act(wish, self.is_open, limit, |frame| frame.arrival.at) {
            match act {
                Act::Record(frames) => {
                    for held in frames {
                        match held {
                            Held::Video(frame) if !self.is_open && !frame.random_access => {}
                            Held::Video(frame) => {
                                if !std::mem::replace(&mut self.is_open, true) {
                                    self.recordings.push(Vec::new());
                                }
                                self.recordings.last_mut().unwrap().push(frame.media_time);
                            }
                            Held::Beside(Beside::Metadata(_)) => unreachable!("there is none"),
                            Held::Beside(Beside::Audio(frame)) => {
                                self.recordings.last_mut().unwrap().push(frame.media_time);
                            }
                        }
                    }
                }
                Act::Pause(before) => {
                    assert!(self.is_open);
                    assert!(self.recordings.last().unwrap().iter().all(|n| *n < before));
                    self.pauses.push(before);
                }
                Act::End(before) => {
                    assert!(std::mem::take(&mut self.is_open));
                    assert!(self.recordings.last().unwrap().iter().all(|n| *n < before));
                }
            }
        }
    }

    fn video(&mut self, frame: VideoFrame, wish: &Wish) {
        self.selector.video(frame);
        self.act(wish, NO_LIMIT);
    }
}

/// Plays pictures with a keyframe every `gop`th.
fn play(recorded: &mut Recorded, pictures: std::ops::Range<i64>, gop: i64, wish: &Wish) {
    for n in pictures {
        recorded.video(picture(n, n % gop == 0), wish);
    }
}

fn all(pictures: std::ops::Range<i64>) -> Vec<i64> {
    pictures.collect()
}

#[test]
fn what_is_always_wanted_is_recorded_from_the_first_keyframe_on_and_held_not_at_all() {
    let mut recorded = Recorded::default();
    for n in 3..30 {
        recorded.video(picture(n, n % 10 == 0), &Wish::Always);
        assert_eq!(recorded.selector.bytes(), 0);
    }
    assert_eq!(recorded.recordings, [all(10..30)]);
}

#[test]
fn a_window_begins_with_the_keyframe_before_it_and_ends_at_once() {
    let second_of_day = u32::try_from(START.as_micros() / 1_000_000 % 86_400).unwrap();
    let time = |second: u32| TimeOfDay::from_seconds(second_of_day + second);
    let weekly = vec![Window { days: Days::ALL, from: time(2), to: time(4) }];
    let schedule = Some(Box::new(Schedule { time_zone: "UTC".into(), weekly }));
    let told = Recording { mode: RecordingMode::Schedule, schedule, event: None };
    let wish = Wish::new(Some(&told), &Spans::default()).unwrap();
    let mut recorded = Recorded::default();
    play(&mut recorded, 0..40, 7, &wish);
    assert_eq!((recorded.recordings.as_slice(), recorded.is_open), ([all(14..40)].as_slice(), true));
    play(&mut recorded, 40..60, 7, &wish);
    assert_eq!((recorded.recordings.as_slice(), recorded.is_open), ([all(14..40)].as_slice(), false));
    assert!(recorded.pauses.is_empty() && recorded.selector.bytes() <= 7 * BYTES, "since the last keyframe");
}

#[test]
fn an_event_is_recorded_from_the_keyframe_before_it_and_its_audio_with_it() {
    let (mut recorded, mut spans) = (Recorded::default(), Spans::default());
    let idle = around(1_000, &spans);
    for n in 0..50 {
        recorded.video(picture(n, n % 7 == 0), &idle);
        assert_eq!(recorded.selector.beside(sound(n), recorded.is_open).map(|_| ()), None);
    }
    assert!(recorded.recordings.is_empty() && recorded.selector.bytes() <= (10 + 20 + 7 + 1) * (BYTES + 10));
    // Given an event half a second ago, a second before which is wanted, …
    spans.add(span(3_500, 4_500, 5_500));
    recorded.selector.look_again();
    play(&mut recorded, 50..90, 7, &around(1_000, &spans));
    // … then it is recorded from the keyframe on that is exactly there, with all that was heard, …
    let held = (35..50).flat_map(|n| [n, -n]);
    assert_eq!(recorded.recordings, [held.chain(50..55).collect::<Vec<_>>()]);
    assert_eq!(recorded.pauses, [55]);
    // … and ended once nothing can want it to go on.
    assert!(!recorded.is_open);
}

#[test]
fn what_comes_soon_after_goes_on_in_the_same_recording_if_no_keyframe_lies_between() {
    for (from_ms, same) in [(2_600, true), (2_900, false)] {
        let (mut recorded, mut spans) = (Recorded::default(), Spans::default());
        play(&mut recorded, 0..12, 14, &around(1_000, &spans));
        spans.add(span(1_000, 1_200, 2_500));
        recorded.selector.look_again();
        play(&mut recorded, 12..35, 14, &around(1_000, &spans));
        assert!(recorded.is_open && recorded.recordings == [all(0..25)], "it pauses");
        spans.add(span(from_ms, 3_400, 3_800));
        recorded.selector.look_again();
        play(&mut recorded, 35..100, 14, &around(1_000, &spans));
        let expected = if same { vec![all(0..38)] } else { vec![all(0..25), all(28..38)] };
        assert_eq!(recorded.recordings, expected, "{from_ms}");
        assert!(!recorded.is_open);
    }
}

#[test]
fn too_much_is_dropped_whole_groups_at_a_time_oldest_first() {
    let (mut selector, idle) = (Selector::default(), around(10_000, &Spans::default()));
    let mut act = |n: i64, key: bool| {
        selector.video(picture(n, key));
        assert!(selector.act(&idle, false, 10 * BYTES, |frame| frame.arrival.at).is_none());
        (selector.bytes() / BYTES, selector.first().map(|first| first.media_time))
    };
    let held: Vec<_> = (0..14).map(|n| act(n, n % 4 == 0)).collect();
    assert_eq!((held[9], held[10], held[13]), ((10, Some(0)), (7, Some(4)), (10, Some(4))));
    // A group that is larger than all there may be is of no use, up to the next keyframe.
    let held: Vec<_> = (14..40).map(|n| act(n, n == 39)).collect();
    assert_eq!((held[0], held[1]), ((7, Some(8)), (8, Some(8))));
    assert_eq!((held[12], held[25]), ((0, None), (1, Some(39))));
}

/// What an observer who knows all from the beginning would have recorded.
fn expected(keys: &[bool], spans: &Spans) -> Vec<bool> {
    let count = i64::try_from(keys.len()).unwrap();
    let mut wanted = vec![false; keys.len()];
    let index = |n: i64| usize::try_from(n).unwrap();
    let mut begun = None;
    for n in 0..count {
        let Some(around) = spans.around(at(n * STEP_MS)) else { continue };
        wanted[index(n)] = true;
        if begun != Some(around.from) {
            begun = Some(around.from);
            let key = (0..=n).rev().find(|key| keys[index(*key)] && at(key * STEP_MS) <= around.from);
            let key = key.or_else(|| (0..=n).find(|key| keys[index(*key)]));
            (key.unwrap_or(n)..n).for_each(|before| wanted[index(before)] = true);
        }
    }
    let first_key = keys.iter().position(|key| *key).unwrap_or(keys.len());
    wanted[..first_key].fill(false);
    wanted
}

proptest! {
    /// Whatever comes, and whenever it is told: exactly the union of what the events want, rounded down to keyframes.
    #[test]
    fn what_is_recorded_is_the_union_of_what_events_want(
        gops in proptest::collection::vec(1..30_usize, 1..30),
        pre_ms in 0..4_000_u32,
        // When each comes after the one before, how long ago it was then, how much it wants behind it; in pictures and ms.
        events in proptest::collection::vec((1..80_i64, 0..REACT_MS, 0..5_000_i64), 0..8),
    ) {
        let keys: Vec<bool> =
            gops.iter().flat_map(|gop| std::iter::once(true).chain(std::iter::repeat_n(false, gop - 1))).collect();
        let (mut recorded, mut spans, mut events) = (Recorded::default(), Spans::default(), events.into_iter());
        let (mut next, mut latest) = (events.next(), i64::MIN);
        let mut waits = next.map_or(0, |(wait, ..)| wait);
        for (n, key) in (0..).zip(&keys) {
            while let Some((_, ago_ms, post_ms)) = next.filter(|_| waits == 0) {
                // One that reaches back before another that is being recorded comes too late for that: told in order, none does.
                let at_ms = (n * STEP_MS - STEP_MS - ago_ms).max(latest);
                latest = at_ms;
                spans.add(span(at_ms - i64::from(pre_ms), at_ms, at_ms + post_ms));
                recorded.selector.look_again();
                next = events.next();
                waits = next.map_or(0, |(wait, ..)| wait);
            }
            waits -= i64::from(next.is_some());
            recorded.video(picture(n, *key), &around(pre_ms, &spans));
        }
        let expected = expected(&keys, &spans);
        let mut found = vec![false; keys.len()];
        for recording in &recorded.recordings {
            prop_assert!(keys[usize::try_from(recording[0]).unwrap()], "begins with a keyframe");
            prop_assert!(recording.windows(2).all(|two| two[1] == two[0] + 1), "{recording:?}");
            for n in recording {
                prop_assert!(!std::mem::replace(&mut found[usize::try_from(*n).unwrap()], true), "{n} twice");
            }
        }
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn no_more_is_held_than_may_be(
        gops in proptest::collection::vec(1..30_usize, 1..20),
        limit in 1..40_usize,
        triggers in proptest::collection::vec(0..400_i64, 0..4),
    ) {
        let (mut recorded, mut spans, mut n) = (Recorded::default(), Spans::default(), 0);
        for gop in gops {
            for place in 0..gop {
                if triggers.contains(&n) {
                    spans.add(span(n * STEP_MS - 1_000, n * STEP_MS, n * STEP_MS + 500));
                    recorded.selector.look_again();
                }
                recorded.selector.video(picture(n, place == 0));
                recorded.act(&around(3_000, &spans), limit * BYTES);
                prop_assert!(recorded.selector.bytes() <= limit * BYTES);
                n += 1;
            }
        }
        for recording in &recorded.recordings {
            prop_assert!(recording.windows(2).all(|two| two[1] == two[0] + 1), "{recording:?}");
        }
    }
}
