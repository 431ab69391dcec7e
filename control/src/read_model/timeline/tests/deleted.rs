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
        deletions: vec![
            deletion(10, 60, DeletionReason::Age),
            deletion(70, 110, DeletionReason::VolumeFull),
            deletion(110, 130, DeletionReason::SpoolFull),
        ],
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
        (70, 110, "storage_full"),
        (110, 130, "spool_full"),
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

fn damaged(damage: Damage, row: SegmentRow) -> SegmentRow {
    SegmentRow { damage: Some(damage), ..row }
}

#[test]
fn a_missing_segment_is_listed_and_is_a_gap_and_a_corrupt_one_is_listed_only() {
    let rows = TimelineRows {
        segments: vec![
            segment(at(0), at(60), 1),
            damaged(Damage::Missing, segment(at(60), at(120), 1)),
            damaged(Damage::Corrupt, segment(at(120), at(180), 1)),
            damaged(Damage::Unreadable, segment(at(180), at(240), 1)),
        ],
        ..TimelineRows::default()
    };
    let timeline = draw(&rows, 0, 240, 240);
    assert_eq!(gaps(&timeline), [(60, 120, "segment_missing")]);
    let shown: Vec<_> = timeline.segments.iter().map(|segment| segment.damage).collect();
    assert_eq!(shown, [None, Some(Damage::Missing), Some(Damage::Corrupt), Some(Damage::Unreadable)]);
}

#[test]
fn a_missing_segment_that_another_server_holds_is_no_gap_and_overlaps_nothing() {
    let other = ServerId::from_uuid(uuid::Uuid::from_u128(77));
    let rows = TimelineRows {
        segments: vec![
            damaged(Damage::Missing, segment(at(0), at(60), 1)),
            SegmentRow { server_id: other, ..segment(at(10), at(40), 2) },
        ],
        // What of it was deleted elsewhere does not say more than that it is missing here.
        deletions: vec![deletion(40, 60, DeletionReason::VolumeFull)],
        ..TimelineRows::default()
    };
    let timeline = draw(&rows, 0, 60, 60);
    assert_eq!(gaps(&timeline), [(0, 10, "segment_missing"), (40, 60, "segment_missing")]);
    assert!(timeline.overlaps.is_empty());
}
