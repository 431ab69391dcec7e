//! Video that was there and is not any more.

use super::*;

fn deletion(start: i64, end: i64, reason: DeletionReason) -> DeletionRow {
    DeletionRow { epoch: Epoch(1), server_id: server(), start: at(start), end: at(end), reason }
}

#[test]
fn deleted_video_is_a_gap_that_says_so_and_the_gaps_of_then_stay_what_they_were() {
    let closed = GapRow { copy: 0, epoch: Epoch(1), start: at(60), end: at(70), cause: Cause::Closed };
    let rows = TimelineRows {
        segments: vec![segment(at(130), at(190), 1)],
        deletions: vec![deletion(10, 60, DeletionReason::Age), deletion(70, 130, DeletionReason::VolumeFull)],
        gaps: vec![closed],
        placements: vec![PlacedRow { copy: 0, at: at(5), place: Place::Server(server()) }],
        statuses: vec![status(1, Condition::Recording, 10, Some((10, None)))],
        ..TimelineRows::default()
    };
    let timeline = draw(&rows, 0, 200, 200);
    let expected = [
        (0, 5, "unplaced"),
        (5, 10, "connecting"),
        (10, 60, "retention"),
        (60, 70, "closed"),
        (70, 130, "storage_full"),
    ];
    assert_eq!(gaps(&timeline), expected);
    assert_eq!(timeline.segments.len(), 1);
    // A range that begins inside is cut to it.
    assert_eq!(gaps(&draw(&rows, 20, 65, 200)), [(20, 60, "retention"), (60, 65, "closed")]);
}

#[test]
fn what_another_server_still_holds_is_not_missing() {
    let other = ServerId::from_uuid(uuid::Uuid::from_u128(77));
    let rows = TimelineRows {
        segments: vec![SegmentRow { server_id: other, ..segment(at(0), at(50), 2) }],
        deletions: vec![
            deletion(0, 60, DeletionReason::CameraBytes),
            deletion(60, 100, DeletionReason::TenantBytes),
        ],
        ..TimelineRows::default()
    };
    assert_eq!(gaps(&draw(&rows, 0, 100, 100)), [(50, 100, "retention")]);
}

#[test]
fn where_all_that_was_reported_is_deleted_no_video_is_claimed_from_before_it() {
    let rows = TimelineRows {
        deletions: vec![deletion(10, 360, DeletionReason::Age)],
        statuses: vec![status(1, offline(Cause::Refused), 360, Some((10, Some(360))))],
        ..TimelineRows::default()
    };
    let timeline = draw(&rows, 0, 360, 1_000);
    assert_eq!(gaps(&timeline), [(0, 10, "unplaced"), (10, 360, "retention")]);
}
