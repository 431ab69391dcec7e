//! Timelines of cameras that several servers record: copies, and planned moves.

use super::*;

fn number(server: u128) -> ServerId {
    ServerId::from_uuid(uuid::Uuid::from_u128(server))
}

/// A server that holds a copy, as the tests tell of it: number and epoch are the same.
#[derive(Clone, Copy)]
struct Holder {
    copy: u8,
    epoch: u64,
}

const OLD: Holder = Holder { copy: 0, epoch: 1 };
const NEW: Holder = Holder { copy: 0, epoch: 2 };
const SECOND: Holder = Holder { copy: 1, epoch: 5 };

impl Holder {
    fn server(self) -> ServerId {
        number(u128::from(self.epoch))
    }

    fn holds(self, start: i64, end: i64) -> SegmentRow {
        SegmentRow { server_id: self.server(), ..segment(at(start), at(end), self.epoch) }
    }

    fn placed(self, second: i64) -> PlacedRow {
        PlacedRow { copy: self.copy, at: at(second), place: Place::Server(self.server()) }
    }

    fn takes_over(self, second: i64) -> PlacedRow {
        PlacedRow { copy: self.copy, at: at(second), place: Place::TakenOver(self.server()) }
    }

    fn stops(self, second: i64, cause: Cause) -> InterruptionRow {
        let (copy, epoch, server_id) = (self.copy, Epoch(self.epoch), self.server());
        InterruptionRow { copy, epoch, server_id, at: at(second), cause }
    }

    fn says(self, condition: Condition, since: i64, until: Option<i64>) -> StatusRow {
        StatusRow { server_id: self.server(), ..status(self.epoch, condition, since, Some((since, until))) }
    }

    fn is_to_record(self) -> Recorder {
        Recorder { server_id: self.server(), ..recorder(self.epoch) }
    }

    fn is_silent_since(self, second: i64) -> Recorder {
        Recorder { silent_since: Some(at(second)), ..self.is_to_record() }
    }
}

/// Up to now.
fn drawn(rows: &TimelineRows, recorders: &[Recorder], now: i64) -> Timeline {
    let (range, recorders) = (Range { from: at(0), to: at(now) }, recorders.to_vec());
    draw_up(&Inputs { range, now: at(now), created_at: at(0), recorders, rows })
}

fn overlaps(timeline: &Timeline) -> Vec<(i64, i64)> {
    let seconds = |t: Timestamp| t.as_micros() / S;
    timeline.overlaps.iter().map(|range| (seconds(range.from), seconds(range.to))).collect()
}

/// The new server began at 50, the move was finished at 52, the old one stopped at 54.
fn a_finished_move() -> TimelineRows {
    TimelineRows {
        segments: vec![OLD.holds(0, 54), NEW.holds(50, 110)],
        placements: vec![OLD.placed(0), NEW.placed(52)],
        interruptions: vec![OLD.stops(54, Cause::Reassigned)],
        statuses: vec![
            OLD.says(offline(Cause::Reassigned), 0, Some(54)),
            NEW.says(Condition::Recording, 50, None),
        ],
        ..TimelineRows::default()
    }
}

#[test]
fn a_move_that_worked_is_an_overlap_and_no_gap() {
    let timeline = drawn(&a_finished_move(), &[NEW.is_to_record()], 120);
    assert_eq!(gaps(&timeline), []);
    assert_eq!(overlaps(&timeline), [(50, 54)]);
    let open = timeline.recording.unwrap();
    assert_eq!((open.server_id, open.since), (NEW.server(), at(110)));
}

#[test]
fn what_ends_right_after_a_move_is_not_put_down_to_the_move() {
    // Nothing was heard of the new server after 55, a second after the old one had stopped.
    let rows = TimelineRows { segments: vec![OLD.holds(0, 54), NEW.holds(50, 55)], ..a_finished_move() };
    let silent = drawn(&rows, &[NEW.is_silent_since(55)], 120);
    assert_eq!(gaps(&silent), [(55, 120, "server_silent")]);
    // It came back under its epoch, and does not know why it was gone.
    let mut rows = rows;
    rows.segments.push(NEW.holds(90, 120));
    rows.statuses.clear();
    assert_eq!(gaps(&drawn(&rows, &[NEW.is_to_record()], 120)), [(55, 90, "unknown")]);
    // Nor if it ends right after the new one was given the copy, which it was recording already.
    rows.segments = vec![OLD.holds(0, 52), NEW.holds(50, 53), NEW.holds(90, 120)];
    rows.interruptions.clear();
    assert_eq!(gaps(&drawn(&rows, &[NEW.is_to_record()], 120)), [(53, 90, "unknown")]);
}

#[test]
fn while_a_camera_moves_both_servers_cover_it() {
    let rows = TimelineRows {
        segments: vec![OLD.holds(0, 60)],
        placements: vec![OLD.placed(0)],
        statuses: vec![OLD.says(Condition::Recording, 0, None), NEW.says(Condition::Recording, 70, None)],
        ..TimelineRows::default()
    };
    let both = [OLD.is_to_record(), NEW.is_to_record()];
    let timeline = drawn(&rows, &both, 100);
    assert_eq!(gaps(&timeline), []);
    assert_eq!(timeline.recording.map(|open| (open.server_id, open.since)), Some((OLD.server(), at(60))));
    // The old one dies on the way; the new one's video counts, although it has no place yet.
    let timeline = drawn(&rows, &[OLD.is_silent_since(75), NEW.is_to_record()], 100);
    assert_eq!(gaps(&timeline), []);
    assert_eq!(timeline.recording.map(|open| open.server_id), Some(NEW.server()));
    let timeline = drawn(&rows, &[OLD.is_silent_since(65), NEW.is_to_record()], 100);
    assert_eq!(gaps(&timeline), [(65, 70, "server_silent")]);
}

#[test]
fn a_move_that_was_given_up_leaves_its_video_and_none_of_its_failures() {
    let rows = TimelineRows {
        segments: vec![OLD.holds(0, 60), NEW.holds(30, 40), OLD.holds(60, 99)],
        placements: vec![OLD.placed(0)],
        interruptions: vec![NEW.stops(20, Cause::Refused), NEW.stops(98, Cause::Refused)],
        statuses: vec![NEW.says(offline(Cause::Refused), 30, Some(40))],
        ..TimelineRows::default()
    };
    let timeline = drawn(&rows, &[OLD.is_to_record()], 120);
    assert_eq!(overlaps(&timeline), [(30, 40)]);
    // Why the old one stopped at 99 nobody said: not for what befell the new one right before.
    assert_eq!(gaps(&timeline), [(99, 120, "connecting")]);
}

#[test]
fn a_move_from_a_server_that_died_is_a_silence() {
    // Of the old one nothing is durable behind 60; the new one was given the copy at 75 for that, and began at 80.
    let rows = TimelineRows {
        segments: vec![OLD.holds(0, 60), NEW.holds(80, 120)],
        placements: vec![OLD.placed(0), NEW.takes_over(75)],
        ..TimelineRows::default()
    };
    assert_eq!(gaps(&drawn(&rows, &[NEW.is_to_record()], 120)), [(60, 80, "server_silent")]);
}

#[test]
fn one_copy_covers_for_the_other() {
    let rows = TimelineRows {
        segments: vec![OLD.holds(0, 60), SECOND.holds(5, 65), SECOND.holds(65, 125), NEW.holds(90, 150)],
        placements: vec![OLD.placed(0), SECOND.placed(0), NEW.takes_over(80)],
        statuses: vec![SECOND.says(Condition::Recording, 5, None)],
        ..TimelineRows::default()
    };
    let timeline = drawn(&rows, &[NEW.is_to_record(), SECOND.is_to_record()], 150);
    assert_eq!(gaps(&timeline), []);
    assert_eq!(overlaps(&timeline), [(5, 60), (90, 125)]);
}

#[test]
fn where_both_copies_are_out_the_gap_says_what_ended_the_last_one() {
    // The first copy's server is lost at 60; the second copy goes on to 70, where its camera hangs up.
    let rows = TimelineRows {
        segments: vec![OLD.holds(0, 60), SECOND.holds(0, 70), NEW.holds(90, 120)],
        placements: vec![OLD.placed(0), SECOND.placed(0), NEW.takes_over(80)],
        interruptions: vec![SECOND.stops(70, Cause::Closed)],
        statuses: vec![SECOND.says(offline(Cause::Closed), 0, Some(70))],
        ..TimelineRows::default()
    };
    let recorders = [NEW.is_to_record(), SECOND.is_to_record()];
    let expected = [(70, 80, "closed"), (80, 90, "server_silent")];
    assert_eq!(gaps(&drawn(&rows, &recorders, 120)), expected);
    // Up to now, with nothing of the new server yet: what is known of the other copy is told.
    let rows = TimelineRows {
        segments: vec![OLD.holds(0, 60), SECOND.holds(0, 70)],
        placements: vec![OLD.placed(0), SECOND.placed(0)],
        interruptions: Vec::new(),
        ..rows
    };
    assert_eq!(gaps(&drawn(&rows, &recorders, 120)), [(70, 120, "closed")]);
}

#[test]
fn a_copy_that_goes_does_not_explain_what_the_other_is_missing() {
    let rows = |first: i64, place: Place| TimelineRows {
        segments: vec![OLD.holds(0, first), SECOND.holds(0, 50)],
        placements: vec![OLD.placed(0), SECOND.placed(0), PlacedRow { copy: 1, at: at(80), place }],
        interruptions: vec![OLD.stops(first, Cause::Closed), SECOND.stops(50, Cause::Stalled)],
        ..TimelineRows::default()
    };
    for place in [Place::Unplanned, Place::Nowhere(UnplacedReason::Preempted)] {
        let timeline = drawn(&rows(60, place), &[OLD.is_to_record()], 120);
        assert_eq!(gaps(&timeline), [(60, 120, "closed")], "the first copy is still at its server");
    }
    // Without a server for either of them it is that which keeps it from being recorded.
    let mut none_left = rows(60, Place::Unplanned);
    let unplaced = Place::Nowhere(UnplacedReason::NoServer);
    none_left.placements.insert(2, PlacedRow { copy: 0, at: at(70), place: unplaced });
    assert_eq!(gaps(&drawn(&none_left, &[], 120)), [(60, 80, "closed"), (80, 120, "unplaced")]);
}

#[test]
fn a_copy_that_was_told_to_stop_is_explained_by_its_own_plans() {
    // Its worker calls it reassigned. In truth the second copy found no place, and the first one was failing all along.
    let unplaced = Place::Nowhere(UnplacedReason::NoCapacity);
    let rows = TimelineRows {
        segments: vec![SECOND.holds(0, 60)],
        placements: vec![OLD.placed(0), SECOND.placed(0), PlacedRow { copy: 1, at: at(60), place: unplaced }],
        interruptions: vec![OLD.stops(1, Cause::Refused), SECOND.stops(60, Cause::Reassigned)],
        ..TimelineRows::default()
    };
    assert_eq!(gaps(&drawn(&rows, &[OLD.is_to_record()], 120)), [(60, 120, "unplaced")]);
}

#[test]
fn a_camera_whose_server_was_let_go_is_unplaced_until_it_is_placed_anew() {
    let rows = TimelineRows {
        segments: vec![OLD.holds(0, 60), NEW.holds(90, 120)],
        placements: vec![
            OLD.placed(0),
            PlacedRow { copy: 0, at: at(60), place: Place::Unplanned },
            NEW.placed(80),
        ],
        interruptions: vec![OLD.stops(60, Cause::Reassigned)],
        ..TimelineRows::default()
    };
    let expected = [(60, 80, "unplaced"), (80, 90, "connecting")];
    assert_eq!(gaps(&drawn(&rows, &[NEW.is_to_record()], 120)), expected);
    // One that was let go in the middle of a move: the new server has it then, and covers it.
    let rows = TimelineRows {
        segments: vec![OLD.holds(0, 60), NEW.holds(50, 120)],
        placements: vec![OLD.placed(0), NEW.placed(60)],
        ..rows
    };
    assert_eq!(gaps(&drawn(&rows, &[NEW.is_to_record()], 120)), []);
}

#[test]
fn edges_of_one_copy_that_nearly_touch_leave_no_gap_whatever_the_other_does() {
    let moved = |row: SegmentRow, start: i64, end: i64| SegmentRow {
        start: row.start.plus_millis(start),
        end: row.end.plus_millis(end),
        ..row
    };
    // The second copy ends between the edges of the first one, or a morsel of it lies there.
    for second in [moved(SECOND.holds(0, 60), 500, 10), moved(SECOND.holds(60, 60), 30, 40)] {
        let mut segments = vec![OLD.holds(0, 60), moved(OLD.holds(60, 120), 80, 0), second];
        segments.sort_by_key(|segment| (segment.start, segment.end));
        let rows = TimelineRows { segments, ..TimelineRows::default() };
        let timeline = drawn(&rows, &[OLD.is_to_record(), SECOND.is_to_record()], 120);
        assert_eq!(timeline.gaps, []);
    }
}

/// With a cost that grows with the square of the rows this would take minutes.
#[test]
fn a_month_of_two_copies_that_flap_on_many_servers_is_told_gap_by_gap() {
    const GAPS: i64 = 50_000;
    let of = |number: i64, copy: u8| Holder {
        copy,
        epoch: 1 + (number / 50).unsigned_abs() * 2 + u64::from(copy),
    };
    let both = |number: i64| [of(number, 0), of(number, 1)];
    let numbers = || 0..GAPS;
    let rows = TimelineRows {
        segments: numbers().flat_map(|n| both(n).map(|h| h.holds(10 * n + 4, 10 * n + 10))).collect(),
        placements: numbers().step_by(50).flat_map(|n| both(n).map(|h| h.placed(10 * n))).collect(),
        interruptions: numbers().flat_map(|n| both(n).map(|h| h.stops(10 * n, Cause::Closed))).collect(),
        ..TimelineRows::default()
    };
    let timeline = drawn(&rows, &[], GAPS * 10);
    assert_eq!(timeline.gaps.len(), usize::try_from(GAPS).unwrap());
    assert_eq!(overlaps(&timeline).len(), timeline.gaps.len());
}
