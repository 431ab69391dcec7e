use longwatch_events::archive::StockedSegment;
use longwatch_events::fact::DeletionReason;
use longwatch_events::hash::Sha256;
use longwatch_events::id::{CameraId, ServerId, SystemIds, TenantId};
use longwatch_events::position::Epoch;
use longwatch_events::settings::Retention;
use proptest::prelude::*;

use super::*;

/// 2026-11-23T08:00:00Z.
const NOW: Timestamp = Timestamp::from_millis(1_795_420_800_000);
const HOUR_MS: i64 = 3_600_000;

/// A camera with segments of an hour each, that ended so many hours ago, oldest first, of so many bytes.
fn camera(retention: Retention, ended_hours_ago: &[(i64, u64)]) -> StockedCamera {
    let (tenant_id, camera_id) = (TenantId::DEFAULT, CameraId::generate(&SystemIds));
    let server_id = ServerId::generate(&SystemIds);
    let segment = |(hours, bytes): &(i64, u64)| {
        let end = NOW.plus_millis(-hours * HOUR_MS);
        let start = end.plus_millis(-HOUR_MS);
        let key = SegmentName { tenant_id, camera_id, start, epoch: Epoch(3), server_id }.key();
        StockedSegment { key, start, end, bytes: *bytes, sha256: Sha256::of(b"x"), damage: None }
    };
    let segments: Vec<_> = ended_hours_ago.iter().map(segment).collect();
    let bytes = segments.iter().map(|segment| segment.bytes).sum();
    StockedCamera { tenant_id, camera_id, retention, bytes, segments, more: false }
}

/// Which of the told segments go, by place, and why.
fn going(told: &StockedCamera, decision: &Decision) -> Vec<(usize, DeletionReason)> {
    let place = |going: &Going| {
        let key = going.segment.name.key();
        (told.segments.iter().position(|segment| segment.key == key).unwrap(), going.reason)
    };
    decision.going.iter().map(place).collect()
}

fn hold(told: &StockedCamera, at: usize) -> Holds {
    let segment = &told.segments[at];
    let text = serde_json::json!({ "holds": [{ "tenant_id": told.tenant_id, "camera_id": told.camera_id,
        "from": segment.start, "to": segment.end, "why": "case 17" }] });
    Holds::parse(text.to_string().as_bytes(), std::path::Path::new("holds.json")).unwrap()
}

fn days(days: u32) -> Retention {
    Retention { max_days: Some(days), ..Retention::default() }
}

#[test]
fn what_is_too_old_goes_unless_somebody_holds_it_wherever_that_is_written() {
    let told = camera(days(1), &[(50, 5), (49, 5), (48, 5), (23, 5)]);
    let holds = [hold(&told, 0), hold(&told, 2)];
    let decision = decide(&told, &BTreeMap::new(), &holds, NOW);
    assert_eq!(going(&told, &decision), [(1, DeletionReason::Age)]);
    let decision = decide(&told, &BTreeMap::new(), &[], NOW);
    assert_eq!(going(&told, &decision).len(), 3);
    assert!(!decision.goes_on, "the rest is not told, and there is none");
}

#[test]
fn the_oldest_of_what_is_too_much_goes_with_what_is_not_named_counted_in() {
    let mut told =
        camera(Retention { max_bytes: Some(20), ..Retention::default() }, &[(5, 5), (4, 5), (3, 5)]);
    (told.bytes, told.more) = (32, true);
    let decision = decide(&told, &BTreeMap::new(), &[], NOW);
    assert_eq!(going(&told, &decision).len(), 3, "15 of the 12 that are too much");
    assert!(!decision.goes_on);
    // With the first two held there is too much behind them.
    let decision = decide(&told, &BTreeMap::new(), &[hold(&told, 0), hold(&told, 1)], NOW);
    assert_eq!(going(&told, &decision), [(2, DeletionReason::CameraBytes)]);
    assert!(decision.goes_on);
    // What is too young to go for that reason ends it.
    told.retention.min_days = Some(1);
    let decision = decide(&told, &BTreeMap::new(), &[], NOW);
    assert_eq!((decision.going.len(), decision.goes_on), (0, false));
}

#[test]
fn what_is_begun_counts_as_gone() {
    let told =
        camera(Retention { max_bytes: Some(10), ..Retention::default() }, &[(5, 5), (4, 5), (3, 5), (2, 5)]);
    let begun = BTreeMap::from([(told.segments[0].key.clone(), 5), ("other/camera/key".to_owned(), 1_000)]);
    let decision = decide(&told, &begun, &[], NOW);
    assert_eq!(going(&told, &decision), [(1, DeletionReason::CameraBytes)]);
}

#[test]
fn what_is_no_segment_of_the_camera_is_left_alone() {
    let mut told = camera(days(1), &[(50, 5), (49, 5)]);
    let other = camera(days(1), &[(50, 5)]);
    told.segments[0].key.clone_from(&other.segments[0].key);
    told.segments.push(StockedSegment { key: "../../etc/passwd".to_owned(), ..told.segments[1].clone() });
    let decision = decide(&told, &BTreeMap::new(), &[], NOW);
    assert_eq!(going(&told, &decision), [(1, DeletionReason::Age)]);
    assert_eq!(decision.foreign.len(), 2);
}

proptest! {
    /// However it is cut into parts, what goes is what would go if all were told at once.
    #[test]
    fn in_parts_goes_what_goes_at_once(
        sizes in proptest::collection::vec((1_u64..20, any::<bool>()), 1..40),
        max_bytes in proptest::option::of(0_u64..300),
        max_days in proptest::option::of(0_u32..4),
        min_days in proptest::option::of(0_u32..4),
        part in 1_usize..9,
    ) {
        let min_days = min_days.map(|min| max_days.map_or(min, |max: u32| max.min(min)));
        let retention = Retention { max_days, max_bytes, min_days };
        let ended: Vec<_> = (0..).zip(&sizes).map(|(n, (bytes, _))| (3 * (40 - n), *bytes)).collect();
        let all = camera(retention, &ended);
        let holds: Vec<_> =
            sizes.iter().enumerate().filter(|(_, (_, held))| *held).map(|(at, _)| hold(&all, at)).collect();
        let at_once = decide(&all, &BTreeMap::new(), &holds, NOW);
        let at_once: Vec<_> = at_once.going.iter().map(|going| going.segment.name.key()).collect();

        // What goes is told, and not there any more, when the next part is asked for.
        let (mut gone, mut at, mut bytes) = (Vec::new(), 0, all.bytes);
        loop {
            let until = (at + part).min(all.segments.len());
            let segments = all.segments[at..until].to_vec();
            let told = StockedCamera { bytes, segments, more: until < all.segments.len(), ..all.clone() };
            let decision = decide(&told, &BTreeMap::new(), &holds, NOW);
            for going in &decision.going {
                gone.push(going.segment.name.key());
                bytes -= going.segment.bytes;
            }
            if !decision.goes_on {
                break;
            }
            at = until;
        }
        prop_assert_eq!(gone, at_once);
    }
}
