use super::*;
use longwatch_events::id::{CameraId, CountingIds, ServerId, TenantId};
use longwatch_events::position::Epoch;
use proptest::prelude::*;

const FAILED: Outcome = Outcome::Failed(Trouble::Unreachable);

/// The segment of this minute.
fn segment(minute: i64) -> Waiting {
    let ids = CountingIds::default();
    let start = Timestamp::from_millis(minute * 60_000);
    let name = SegmentName {
        tenant_id: TenantId::DEFAULT,
        camera_id: CameraId::generate(&ids),
        start,
        epoch: Epoch(1),
        server_id: ServerId::generate(&ids),
    };
    Waiting { name, end: start.plus_millis(60_000), bytes: 10, sha256: None }
}

fn uploads(at_once: usize, minutes: impl IntoIterator<Item = i64>) -> Uploads {
    let mut uploads = Uploads::new(at_once);
    minutes.into_iter().for_each(|minute| uploads.add(segment(minute)));
    uploads
}

fn begun(uploads: &mut Uploads, now: Duration) -> Option<i64> {
    match uploads.next(now) {
        Next::Begin(waiting) => Some(waiting.name.start.as_micros() / 60_000_000),
        Next::At(_) | Next::Nothing => None,
    }
}

#[test]
fn the_oldest_goes_first_and_no_more_than_so_many_at_once() {
    let mut uploads = uploads(2, [5, 3, 9, 1]);
    let now = Duration::ZERO;
    assert_eq!([begun(&mut uploads, now), begun(&mut uploads, now)], [Some(1), Some(3)]);
    assert_eq!(uploads.next(now), Next::Nothing);
    uploads.ended(&segment(3).name, Outcome::Uploaded, now, 0.5);
    // One that came late and is older is next.
    uploads.add(segment(2));
    assert_eq!(begun(&mut uploads, now), Some(2));
    assert_eq!(uploads.len(), 4);
    // One that is under way is not added, nor forgotten.
    uploads.add(segment(1));
    uploads.forget(&segment(1).name);
    uploads.forget(&segment(9).name);
    let figures = uploads.figures(Timestamp::from_millis(121_999));
    assert_eq!((figures.segments, figures.bytes, figures.oldest_s, figures.upload), (3, 30, 1, Upload::Ok));
}

#[test]
fn one_that_fails_waits_and_holds_up_no_other() {
    let mut uploads = uploads(1, [1, 2, 3]);
    let mut now = Duration::ZERO;
    for minute in 1..=3 {
        assert_eq!(begun(&mut uploads, now), Some(minute));
        uploads.ended(&segment(minute).name, FAILED, now, 1.0);
    }
    assert_eq!(uploads.next(now), Next::At(SEGMENT_RETRY.0));
    assert_eq!(uploads.trouble(), None);
    now += SEGMENT_RETRY.0;
    assert_eq!(begun(&mut uploads, now), Some(1));
    uploads.ended(&segment(1).name, Outcome::Uploaded, now, 1.0);
    assert_eq!(begun(&mut uploads, now), Some(2));
}

#[test]
fn a_store_that_fails_is_asked_by_one_at_a_time_and_used_by_all_once_it_works() {
    let mut uploads = uploads(4, 1..=100);
    let mut now = Duration::ZERO;
    let first: Vec<_> = std::iter::from_fn(|| begun(&mut uploads, now)).collect();
    assert_eq!(first, [1, 2, 3, 4]);
    for minute in first {
        uploads.ended(&segment(minute).name, FAILED, now, 1.0);
    }
    let mut asked = Vec::new();
    for _ in 0..12 {
        let Next::At(at) = uploads.next(now) else { panic!("not asked at once") };
        asked.push(at - now);
        now = at;
        let minute = begun(&mut uploads, now).unwrap();
        assert_eq!(uploads.next(now), Next::Nothing, "one at a time");
        uploads.ended(&segment(minute).name, Outcome::Failed(Trouble::Refused), now, 1.0);
    }
    assert!(asked.is_sorted() && asked[0] == STORE_RETRY.0 && asked[11] == STORE_RETRY.1, "{asked:?}");
    assert_eq!(uploads.figures(Timestamp::UNIX_EPOCH).upload, Upload::Refused);
    let Next::At(at) = uploads.next(now) else { panic!("not asked at once") };
    let minute = begun(&mut uploads, at).unwrap();
    uploads.ended(&segment(minute).name, Outcome::Uploaded, at, 1.0);
    // What failed meanwhile waits no longer than anything does, and the others do not wait at all.
    assert_eq!(std::iter::from_fn(|| begun(&mut uploads, at)).count(), 4);
    assert_eq!(uploads.trouble(), None);
}

#[test]
fn what_is_in_conflict_is_said_and_holds_up_no_other() {
    let mut uploads = uploads(1, [1, 2]);
    let now = Duration::ZERO;
    begun(&mut uploads, now);
    uploads.ended(&segment(1).name, Outcome::Conflict, now, 0.0);
    assert_eq!(uploads.figures(Timestamp::UNIX_EPOCH).upload, Upload::Conflict);
    assert_eq!(begun(&mut uploads, now), Some(2));
    uploads.ended(&segment(2).name, Outcome::Uploaded, now, 0.0);
    assert_eq!(uploads.next(now), Next::At(CONFLICT_RETRY));
    assert_eq!(begun(&mut uploads, CONFLICT_RETRY), Some(1));
    uploads.ended(&segment(1).name, Outcome::Gone, now, 0.0);
    let figures = uploads.figures(Timestamp::UNIX_EPOCH);
    assert!(uploads.is_empty() && figures == Spool::default(), "{figures:?}");
}

#[test]
fn what_waits_for_long_is_behind() {
    let uploads = uploads(1, [0]);
    let after = |s: i64| uploads.figures(Timestamp::from_millis(60_000 + s * 1_000)).upload;
    assert_eq!((after(300), after(301)), (Upload::Ok, Upload::Behind));
}

proptest! {
    /// Whatever the store does, as long as it works in the end.
    #[test]
    fn everything_is_uploaded_once_and_never_too_much_is_under_way(
        at_once in 1_usize..6,
        steps in proptest::collection::vec((0_usize..6, 0_u8..8, 0.0..=1.0_f64), 0..300),
    ) {
        let mut uploads = uploads(at_once, 0..40);
        let (mut now, mut under_way, mut done) = (Duration::ZERO, Vec::new(), Vec::new());
        let mut steps = steps.into_iter();
        while !uploads.is_empty() {
            let (which, what, random) = steps.next().unwrap_or((0, 7, 0.5));
            match uploads.next(now) {
                Next::Begin(waiting) => {
                    prop_assert!(!done.contains(&waiting.name) && !under_way.contains(&waiting.name));
                    under_way.push(waiting.name);
                    prop_assert!(under_way.len() <= at_once);
                    continue;
                }
                Next::At(at) => {
                    prop_assert!(at > now && at <= now + CONFLICT_RETRY);
                    if under_way.is_empty() {
                        now = at;
                        continue;
                    }
                }
                Next::Nothing => prop_assert!(!under_way.is_empty(), "nobody would ever wake"),
            }
            let name = under_way.swap_remove(which % under_way.len());
            let outcome = match what {
                0..=3 => FAILED,
                4 => Outcome::Failed(Trouble::Refused),
                5 => Outcome::Conflict,
                6 => Outcome::Unreadable,
                _ => Outcome::Uploaded,
            };
            if outcome == Outcome::Uploaded {
                done.push(name);
            }
            uploads.ended(&name, outcome, now, random);
        }
        done.sort();
        done.dedup();
        prop_assert_eq!(done.len(), 40);
        prop_assert_eq!(uploads.figures(Timestamp::UNIX_EPOCH), Spool::default());
    }
}
