use super::*;
use longwatch_events::id::{CameraId, ServerId};
use longwatch_events::position::Epoch;
use proptest::prelude::*;

const NOW: Timestamp = Timestamp::from_millis(1_795_420_800_000);

fn camera(number: u8) -> Key {
    let tenant = number / 2;
    Key {
        tenant_id: format!("{tenant:08x}-0000-7000-8000-000000000000").parse().unwrap(),
        camera_id: format!("{number:08x}-0000-7000-8000-000000000001").parse::<CameraId>().unwrap(),
    }
}

/// One hour long, begun so many hours ago.
fn segment(volume: usize, number: u8, hours_ago: i64, bytes: u64) -> Segment {
    let Key { tenant_id, camera_id } = camera(number);
    let start = NOW.plus_millis(-hours_ago * 3_600_000);
    let server_id: ServerId = "00000001-0000-7000-8000-000000000002".parse().unwrap();
    let name = SegmentName { tenant_id, camera_id, start, epoch: Epoch(1), server_id };
    Segment { volume, name, end: start.plus_millis(3_600_000), bytes, held: false }
}

fn limits(of: &[(u8, Retention)], to_free: &[u64]) -> Limits {
    let cameras = of.iter().map(|(number, retention)| (camera(*number), *retention)).collect();
    Limits { cameras, to_free: to_free.to_vec(), ..Limits::default() }
}

fn kept(max_days: Option<u32>, max_bytes: Option<u64>, min_days: Option<u32>) -> Retention {
    Retention { max_days, max_bytes, min_days }
}

/// The hours ago at which what goes began, with the reason.
fn gone(known: &Known, limits: &Limits) -> Vec<(i64, DeletionReason)> {
    let hours_ago = |going: &Going| NOW.millis_since(going.segment.name.start) / 3_600_000;
    plan(known, limits, NOW).iter().map(|going| (hours_ago(going), going.reason)).collect()
}

fn known(segments: Vec<Segment>) -> Known {
    Known { segments, ..Known::default() }
}

#[test]
fn what_is_older_than_a_camera_keeps_it_goes_to_the_hour() {
    let known =
        known(vec![segment(0, 0, 24, 1), segment(0, 0, 25, 1), segment(0, 0, 26, 1), segment(0, 1, 26, 1)]);
    let limits = limits(&[(0, kept(Some(1), None, None))], &[0]);
    // It is the end that counts; and the other camera has no bound.
    assert_eq!(gone(&known, &limits), [(26, DeletionReason::Age), (25, DeletionReason::Age)]);
}

#[test]
fn too_much_video_goes_oldest_first_and_what_is_not_named_counts() {
    let mut known = known((1..=4).map(|hours| segment(0, 0, hours, 10)).collect());
    known.unnamed_bytes.insert(camera(0), 100);
    let at_most = |bytes| limits(&[(0, kept(None, Some(bytes), None))], &[0]);
    assert_eq!(gone(&known, &at_most(140)), []);
    let reason = DeletionReason::CameraBytes;
    assert_eq!(gone(&known, &at_most(139)), [(4, reason)]);
    assert_eq!(gone(&known, &at_most(120)), [(4, reason), (3, reason)]);
    // And what goes for its age counts towards it.
    let both = limits(&[(0, kept(Some(0), Some(130), None))], &[0]);
    assert_eq!(gone(&known, &both).len(), 4);
}

#[test]
fn held_video_counts_and_stays() {
    let mut known = known(vec![segment(0, 0, 60, 10), segment(0, 0, 50, 10), segment(0, 0, 40, 10)]);
    known.segments[0].held = true;
    let reason = DeletionReason::CameraBytes;
    assert_eq!(gone(&known, &limits(&[(0, kept(None, Some(20), None))], &[0])), [(50, reason)]);
    assert_eq!(gone(&known, &limits(&[(0, kept(Some(1), None, None))], &[0])).len(), 2);
    assert_eq!(gone(&known, &limits(&[], &[1_000])), [(50, DeletionReason::VolumeFull)]);
}

#[test]
fn a_tenant_has_no_more_than_it_may_whichever_camera_it_is_of() {
    let known =
        known(vec![segment(0, 0, 3, 10), segment(1, 1, 4, 10), segment(0, 2, 5, 10), segment(0, 0, 2, 10)]);
    let limits = Limits { tenant_max_bytes: Some(15), ..limits(&[], &[0, 0]) };
    let reason = DeletionReason::TenantBytes;
    assert_eq!(gone(&known, &limits), [(4, reason), (3, reason)]);
}

#[test]
fn a_full_volume_takes_what_is_too_young_only_when_nothing_else_is_left_and_says_so() {
    let known = known(vec![
        segment(0, 0, 30, 10),
        segment(0, 2, 20, 10),
        segment(0, 2, 10, 10),
        segment(0, 0, 5, 10),
    ]);
    let set = [(0, kept(None, Some(1), Some(7)))];
    // Bytes never take it …
    assert_eq!(gone(&known, &limits(&set, &[0])), []);
    // … nor does a full volume while the other camera has something …
    assert_eq!(gone(&known, &limits(&set, &[10])), [(20, DeletionReason::VolumeFull)]);
    let all = plan(&known, &limits(&set, &[1_000]), NOW);
    // … and of each camera the newest stays.
    let expected = [(true, 30), (false, 20)];
    let told = |going: &Going| (going.before_min_age, NOW.millis_since(going.segment.name.start) / 3_600_000);
    assert_eq!(all.iter().map(told).collect::<Vec<_>>(), expected);
}

#[test]
fn only_the_volume_that_is_full_gives_something_up() {
    let known = known(vec![
        segment(0, 0, 30, 10),
        segment(1, 0, 40, 10),
        segment(1, 0, 20, 10),
        segment(0, 0, 10, 10),
    ]);
    assert_eq!(gone(&known, &limits(&[], &[1, 0])), [(30, DeletionReason::VolumeFull)]);
    // If there are newer segments that nobody named, all that are named may go.
    let mut more = known.clone();
    more.unnamed_on.insert((0, camera(0)));
    assert_eq!(gone(&more, &limits(&[], &[20, 0])).len(), 2);
}

#[test]
fn a_full_spool_gives_up_the_oldest_of_all_and_says_that_it_was_a_spool() {
    let mut known = known(vec![
        segment(0, 0, 50, 10),
        segment(1, 2, 40, 10),
        segment(0, 0, 30, 10),
        segment(1, 2, 20, 10),
        segment(0, 4, 60, 10),
    ]);
    known.segments[2].held = true;
    let spool =
        |max_bytes, to_free: &[u64]| Limits { spool: Some(Spool { max_bytes }), ..limits(&[], to_free) };
    let full = |hours| (hours, DeletionReason::SpoolFull);
    // There are 50: what is the only one of its camera stays, and what is held.
    assert_eq!(gone(&known, &spool(Some(50), &[0, 0])), []);
    assert_eq!(gone(&known, &spool(Some(40), &[0, 0])), [full(50)]);
    assert_eq!(gone(&known, &spool(Some(35), &[0, 0])), [full(50), full(40)]);
    assert_eq!(gone(&known, &spool(Some(0), &[0, 0])), [full(50), full(40)]);
    // What a volume lacks counts for both.
    assert_eq!(gone(&known, &spool(Some(40), &[0, 10])), [full(50), full(40)]);
    assert_eq!(gone(&known, &spool(None, &[0, 10])), [full(40)]);
}

fn any_segment() -> impl Strategy<Value = Segment> {
    (0..2_usize, 0..4_u8, 0..24 * 6_i64, 0..40_u64, 0..5_u8).prop_map(
        |(volume, number, hours, bytes, held)| Segment {
            held: held == 0,
            ..segment(volume, number, hours, bytes)
        },
    )
}

prop_compose! {
    fn anything()(
        mut segments in proptest::collection::vec(any_segment(), 0..60),
        retentions in proptest::collection::vec((
            proptest::option::of(0..6_u32), proptest::option::of(0..300_u64), proptest::option::of(0..6_u32),
        ), 4),
        unnamed in proptest::collection::btree_map(0..4_u8, 0..200_u64, 0..4),
        tenant_max_bytes in proptest::option::of(0..500_u64),
        to_free in proptest::collection::vec(0..400_u64, 2),
        spool in proptest::option::of(proptest::option::of(0..800_u64)),
    ) -> (Known, Limits) {
        segments.sort_by_key(|segment| segment.name);
        segments.dedup_by_key(|segment| segment.name);
        let unnamed_bytes = unnamed.into_iter().map(|(number, bytes)| (camera(number), bytes)).collect();
        let known = Known { segments, unnamed_bytes, unnamed_on: BTreeSet::new() };
        let of: Vec<_> = (0..).zip(retentions.into_iter().map(|(a, b, c)| kept(a, b, c))).collect();
        let spool = spool.map(|max_bytes| Spool { max_bytes });
        (known, Limits { tenant_max_bytes, spool, ..limits(&of, &to_free) })
    }
}

/// What is left when `going` is gone.
fn after(known: &Known, going: &[Going]) -> Vec<Segment> {
    let names: BTreeSet<_> = going.iter().map(|going| going.segment.name).collect();
    known.segments.iter().filter(|segment| !names.contains(&segment.name)).cloned().collect()
}

fn sum<'a>(segments: impl IntoIterator<Item = &'a Segment>) -> u64 {
    segments.into_iter().map(|segment| segment.bytes).sum()
}

/// Of all there is when these are left of what is named.
fn all_bytes(known: &Known, left: &[Segment]) -> u64 {
    sum(left) + known.unnamed_bytes.values().sum::<u64>()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn every_limit_is_kept_unless_what_is_left_must_stay((known, limits) in anything()) {
        let going = plan(&known, &limits, NOW);
        let left = after(&known, &going);
        let must_stay = |segment: &Segment| {
            segment.held || limits.is_too_young(segment.camera(), segment.end, NOW)
        };
        for segment in left.iter().filter(|segment| !must_stay(segment)) {
            prop_assert!(!limits.is_too_old(segment, NOW), "{segment:?} is too old");
        }
        for number in 0..4 {
            let of = |segment: &&Segment| segment.camera() == camera(number);
            let bytes = sum(left.iter().filter(of)) + known.unnamed_bytes.get(&camera(number)).unwrap_or(&0);
            let over = limits.of(camera(number)).max_bytes.is_some_and(|max| bytes > max);
            prop_assert!(!over || left.iter().filter(of).all(must_stay), "camera {number} has {bytes}");
        }
        for tenant in [camera(0).tenant_id, camera(2).tenant_id] {
            let of = |segment: &&Segment| segment.name.tenant_id == tenant;
            let unnamed: u64 = known.unnamed_bytes.iter().filter(|(key, _)| key.tenant_id == tenant).map(|(_, b)| b).sum();
            let over = limits.tenant_max_bytes.is_some_and(|max| sum(left.iter().filter(of)) + unnamed > max);
            prop_assert!(!over || left.iter().filter(of).all(must_stay), "tenant {tenant}");
        }
        for (volume, lacking) in limits.to_free.iter().enumerate() {
            let freed = sum(going.iter().map(|going| &going.segment).filter(|segment| segment.volume == volume));
            let on_it = || left.iter().filter(|segment| segment.volume == volume && !segment.held);
            let mut newest = BTreeMap::new();
            for segment in known.segments.iter().filter(|segment| segment.volume == volume) {
                let last = newest.entry(segment.camera()).or_insert(segment);
                if last.age_key() < segment.age_key() { *last = segment; }
            }
            let only_newest = on_it().all(|segment| newest[&segment.camera()].name == segment.name);
            prop_assert!(freed >= *lacking || only_newest, "volume {volume} lacks {lacking}, got {freed}");
            let over = limits.total_max_bytes().is_some_and(|max| all_bytes(&known, &left) > max);
            prop_assert!(!over || only_newest, "volume {volume} of a spool that has too much");
        }
    }

    #[test]
    fn nothing_goes_that_must_stay_and_no_more_than_needed((known, limits) in anything()) {
        let going = plan(&known, &limits, NOW);
        for Going { segment, reason, before_min_age } in &going {
            prop_assert!(!segment.held);
            prop_assert_eq!(*before_min_age, limits.is_too_young(segment.camera(), segment.end, NOW));
            prop_assert!(!before_min_age || *reason == limits.room_reason());
            let other = match limits.spool { Some(_) => DeletionReason::VolumeFull, None => DeletionReason::SpoolFull };
            prop_assert!(*reason != other);
        }
        // Of what goes for room the newest was needed, and nothing older that might go was passed over.
        for (volume, lacking) in limits.to_free.iter().enumerate() {
            let on_it = || going.iter().filter(|going| going.segment.volume == volume);
            let for_room: Vec<_> = on_it().filter(|going| going.reason == limits.room_reason()).collect();
            let last = for_room.iter().max_by_key(|going| (going.before_min_age, going.segment.age_key()));
            if let Some(last) = last.filter(|_| limits.total_max_bytes().is_none()) {
                let without = sum(on_it().map(|going| &going.segment)) - last.segment.bytes;
                prop_assert!(without < *lacking, "{last:?} was not needed");
            }
        }
        let for_room = going.iter().filter(|going| going.reason == limits.room_reason());
        let last = for_room.max_by_key(|going| (going.before_min_age, going.segment.age_key()));
        if let Some((last, max)) = last.zip(limits.total_max_bytes()) {
            let (segment, left) = (&last.segment, all_bytes(&known, &after(&known, &going)));
            let on_it = going.iter().filter(|going| going.segment.volume == segment.volume);
            let without = sum(on_it.map(|going| &going.segment)) - segment.bytes;
            let needed = without < limits.to_free[segment.volume] || left + segment.bytes > max;
            prop_assert!(needed, "{last:?} was not needed");
        }
        for pair in going.windows(2) {
            prop_assert!(pair[0].segment.age_key() < pair[1].segment.age_key(), "oldest first");
        }
        let left = after(&known, &going);
        for taken in going.iter().filter(|going| going.reason == DeletionReason::CameraBytes) {
            let passed_over = left.iter().find(|segment| {
                segment.camera() == taken.segment.camera()
                    && segment.age_key() < taken.segment.age_key()
                    && !segment.held
                    && !limits.is_too_young(segment.camera(), segment.end, NOW)
            });
            prop_assert_eq!(passed_over, None, "{:?} went before it", taken);
        }
    }

    #[test]
    fn of_what_is_left_nothing_goes((known, limits) in anything()) {
        let going = plan(&known, &limits, NOW);
        let mut to_free = limits.to_free.clone();
        for going in &going {
            to_free[going.segment.volume] = to_free[going.segment.volume].saturating_sub(going.segment.bytes);
        }
        let left = Known { segments: after(&known, &going), ..known.clone() };
        prop_assert_eq!(plan(&left, &Limits { to_free, ..limits }, NOW), []);
    }

    #[test]
    fn the_order_in_which_segments_are_named_does_not_matter((known, limits) in anything()) {
        let mut turned = known.clone();
        turned.segments.reverse();
        prop_assert_eq!(plan(&turned, &limits, NOW), plan(&known, &limits, NOW));
    }
}
