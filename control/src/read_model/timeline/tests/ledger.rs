//! That the timeline is a ledger, whatever the rows are: of several servers, copies and moves at once.

use proptest::prelude::*;

use super::*;

/// Two servers, and the epochs of each.
fn server_of(epoch: u64) -> ServerId {
    ServerId::from_uuid(uuid::Uuid::from_u128(u128::from(1 + epoch % 2)))
}

/// Of epochs 1 and 2, on a server each; that of the first may be silent. Epoch 3 is over.
fn recorders(silent: Option<i64>) -> Vec<Recorder> {
    let of = |epoch| Recorder { server_id: server_of(epoch), ..recorder(epoch) };
    vec![Recorder { silent_since: silent.map(at), ..of(1) }, of(2)]
}

prop_compose! {
    fn any_segment()(
        start in 0_i64..200, length in 1_i64..30, epoch in 1_u64..4,
        damage in proptest::option::weighted(0.3, proptest::sample::select(Damage::ALL.to_vec())),
    ) -> SegmentRow {
        SegmentRow { server_id: server_of(epoch), damage, ..segment(at(start), at(start + length), epoch) }
    }
}

prop_compose! {
    fn any_gap()(start in 0_i64..200, length in 1_i64..30, epoch in 1_u64..4, copy in 0..2_u8) -> GapRow {
        let (start, end, cause) = (at(start), at(start + length), Cause::Closed);
        GapRow { copy, epoch: Epoch(epoch), start, end, cause }
    }
}

prop_compose! {
    fn any_deletion()(
        start in 0_i64..200, length in 1_i64..30, epoch in 1_u64..4, full in any::<bool>(),
    ) -> DeletionRow {
        let reason = if full { DeletionReason::VolumeFull } else { DeletionReason::Age };
        let (start, end) = (at(start), at(start + length));
        DeletionRow { epoch: Epoch(epoch), server_id: server_of(epoch), start, end, reason }
    }
}

prop_compose! {
    fn any_status()(
        epoch in 1_u64..4,
        recording in any::<bool>(),
        since in 0_i64..200,
        length in proptest::option::of(0_i64..40),
    ) -> StatusRow {
        let condition = if recording { Condition::Recording } else { offline(Cause::Refused) };
        let until = if recording { None } else { length.map(|length| since + length) };
        StatusRow { server_id: server_of(epoch), ..status(epoch, condition, since, Some((since, until))) }
    }
}

prop_compose! {
    fn any_rows()(
        mut segments in proptest::collection::vec(any_segment(), 0..12),
        mut deletions in proptest::collection::vec(any_deletion(), 0..6),
        gaps in proptest::collection::vec(any_gap(), 0..6),
        interruptions in proptest::collection::vec((0_i64..200, 1_u64..4, 0..2_u8), 0..6),
        placements in proptest::collection::vec((0_i64..200, 0..2_u8, 0..4_u64), 0..8),
        mut statuses in proptest::collection::vec(any_status(), 0..4),
    ) -> TimelineRows {
        segments.sort_by_key(|s| (s.start, s.end));
        deletions.sort_by_key(|row| row.start);
        statuses.sort_by_key(|status| status.epoch);
        statuses.dedup_by_key(|status| status.epoch);
        let interrupted = |(second, epoch, copy)| InterruptionRow {
            copy,
            epoch: Epoch(epoch),
            server_id: server_of(epoch),
            at: at(second),
            cause: Cause::Timeout,
        };
        let placed = |(second, copy, place)| PlacedRow {
            copy,
            at: at(second),
            place: match place {
                0 => Place::Unplanned,
                1 => Place::TakenOver(server_of(place)),
                _ => Place::Server(server_of(place)),
            },
        };
        let interruptions = interruptions.into_iter().map(interrupted).collect();
        let placements = placements.into_iter().map(placed).collect();
        TimelineRows { segments, deletions, gaps, interruptions, placements, statuses, triggers: Vec::new() }
    }
}

proptest! {
    /// The oracle looks at every second on its own.
    #[test]
    fn every_scheduled_moment_is_covered_or_in_exactly_one_gap(
        rows in any_rows(), from in -20_i64..150, length in 0_i64..250, now in 0_i64..260,
        created in 0_i64..100, silent in proptest::option::of(0_i64..200),
    ) {
        let inputs = Inputs {
            range: Range { from: at(from), to: at(from + length) },
            now: at(now),
            created_at: at(created),
            recorders: recorders(silent),
            rows: &rows,
        };
        let timeline = draw_up(&inputs);
        for second in -30..420 {
            let moment = at(second);
            let scheduled = second >= from.max(created) && second < (from + length).min(now);
            let at_moment = || rows.segments.iter().filter(|s| s.start <= moment && moment < s.end);
            let copies = at_moment().filter(|s| s.damage != Some(Damage::Missing)).count();
            let in_segment = copies > 0;
            let is_missing = at_moment().any(|s| s.damage == Some(Damage::Missing));
            let in_tail = rows.statuses.iter().any(|status| {
                let open = status.open.unwrap();
                let stored = rows.segments.iter().map(|s| (s.epoch, s.end));
                let told = stored.chain(rows.deletions.iter().map(|d| (d.epoch, d.end)));
                let last = told.filter(|(epoch, _)| *epoch == status.epoch).map(|(_, end)| end).max();
                let live = status.epoch <= Epoch(2) && status.condition == Condition::Recording;
                let silent = silent.filter(|_| status.epoch == Epoch(1));
                let growing = live.then_some(at(silent.map_or(now, |silent| silent.min(now))));
                let end = open.until.or(growing);
                end.is_some_and(|end| last.map_or(open.since, |last| last.max(open.since)) <= moment && moment < end)
            });
            let holding = timeline.gaps.iter().filter(|g| g.start <= moment && moment < g.end).count();
            let expected = usize::from(scheduled && !in_segment && !in_tail);
            prop_assert_eq!(holding, expected, "at second {}: {:?}", second, timeline);
            let gap = timeline.gaps.iter().find(|g| g.start <= moment && moment < g.end);
            let is_deleted = rows.deletions.iter().any(|d| d.start <= moment && moment < d.end);
            prop_assert_eq!(
                gap.is_some_and(|gap| gap.cause == GapCause::SegmentMissing), gap.is_some() && is_missing,
                "at second {}: {:?}", second, timeline
            );
            let deleted = [GapCause::Retention, GapCause::StorageFull];
            prop_assert_eq!(
                gap.is_some_and(|gap| deleted.contains(&gap.cause)), gap.is_some() && is_deleted && !is_missing,
                "at second {}: {:?}", second, timeline
            );
            let in_range = second >= from && second < from + length;
            let overlaps = timeline.overlaps.iter().filter(|o| o.from <= moment && moment < o.to).count();
            prop_assert_eq!(overlaps, usize::from(in_range && copies > 1), "at second {}", second);
        }
    }

    #[test]
    fn gaps_are_ordered_and_never_empty(rows in any_rows(), jitter in 0_i64..3_000, now in 1_i64..260) {
        let mut rows = rows;
        for segment in &mut rows.segments {
            segment.start = segment.start.plus_millis(jitter % 150);
            segment.end = segment.end.plus_millis(jitter);
        }
        let timeline = draw(&rows, 0, 300, now);
        for gap in &timeline.gaps {
            prop_assert!(gap.start < gap.end);
        }
        for pair in timeline.gaps.windows(2) {
            prop_assert!(pair[0].end <= pair[1].start);
            prop_assert!(pair[0].end < pair[1].start || pair[0].cause != pair[1].cause);
        }
        for overlap in &timeline.overlaps {
            prop_assert!(overlap.from < overlap.to);
        }
    }
}
