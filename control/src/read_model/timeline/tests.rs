mod copies;
mod deleted;
mod ledger;

use longwatch_events::fact::{Codec, DeletionReason};
use longwatch_events::hash::Sha256;
use longwatch_events::id::{CameraId, CountingIds, TenantId};
use longwatch_events::position::Position;
use longwatch_events::reason::UnplacedReason;

use super::super::rows::{
    Condition, DeletionRow, InterruptionRow, Location, OpenVideo, Place, PlacedRow, StatusRow,
};
use super::*;

const S: i64 = 1_000_000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_micros(second * S)
}

fn server() -> ServerId {
    ServerId::generate(&CountingIds::default())
}

fn boot(number: u128) -> BootId {
    BootId::from_uuid(uuid::Uuid::from_u128(number))
}

fn segment(start: Timestamp, end: Timestamp, epoch: u64) -> SegmentRow {
    SegmentRow {
        tenant_id: TenantId::DEFAULT,
        camera_id: CameraId::generate(&CountingIds::default()),
        epoch: Epoch(epoch),
        server_id: server(),
        start,
        end,
        key: "k".to_owned(),
        bytes: 1,
        sha256: Sha256::of(b""),
        video_frames: 1,
        video: Codec::H264,
        audio: None,
        repaired: false,
        damage: None,
        location: Location::Server,
        store_id: None,
    }
}

fn status(epoch: u64, condition: Condition, since: i64, open: Option<(i64, Option<i64>)>) -> StatusRow {
    let open = open.map(|(since, until)| OpenVideo { since: at(since), until: until.map(at) });
    StatusRow {
        position: Position(1),
        epoch: Epoch(epoch),
        server_id: server(),
        boot_id: boot(1),
        condition,
        since: at(since),
        open,
    }
}

fn offline(cause: Cause) -> Condition {
    Condition::Offline { cause, detail: String::new() }
}

/// A server that is there, in the first run of its worker.
fn recorder(epoch: u64) -> Recorder {
    Recorder { epoch: Epoch(epoch), server_id: server(), silent_since: None, boot_id: None }
}

fn draw(rows: &TimelineRows, from: i64, to: i64, now: i64) -> Timeline {
    draw_up(&Inputs {
        range: Range { from: at(from), to: at(to) },
        now: at(now),
        created_at: at(0),
        recorders: vec![recorder(1)],
        rows,
    })
}

fn gaps(timeline: &Timeline) -> Vec<(i64, i64, &'static str)> {
    let seconds = |t: Timestamp| t.as_micros() / S;
    timeline.gaps.iter().map(|g| (seconds(g.start), seconds(g.end), g.cause.as_str())).collect()
}

#[test]
fn a_recording_camera_is_covered_up_to_now() {
    let rows = TimelineRows {
        segments: vec![segment(at(10), at(70), 1), segment(at(70), at(130), 1)],
        placements: vec![PlacedRow { copy: 0, at: at(2), place: Place::Server(server()) }],
        statuses: vec![status(1, Condition::Recording, 10, Some((10, None)))],
        ..TimelineRows::default()
    };
    let timeline = draw(&rows, -100, 1_000, 150);
    assert_eq!(gaps(&timeline), [(0, 2, "unplaced"), (2, 10, "connecting")]);
    assert_eq!(timeline.recording.map(|open| open.since), Some(at(130)));
    assert_eq!(timeline.segments.len(), 2);
    assert!(timeline.overlaps.is_empty());
}

#[test]
fn a_silent_server_covers_up_to_its_last_heartbeat() {
    let rows = TimelineRows {
        segments: vec![segment(at(0), at(60), 1)],
        statuses: vec![status(1, Condition::Recording, 0, Some((0, None)))],
        ..TimelineRows::default()
    };
    let timeline = draw_up(&Inputs {
        range: Range { from: at(0), to: at(500) },
        now: at(100),
        created_at: at(0),
        recorders: vec![Recorder { silent_since: Some(at(80)), ..recorder(1) }],
        rows: &rows,
    });
    assert_eq!(gaps(&timeline), [(80, 100, "server_silent")]);
    assert_eq!(timeline.recording, None);
}

#[test]
fn a_gap_takes_the_cause_the_worker_reported_and_slivers_follow_it() {
    let gap = |start, end, cause| GapRow { copy: 0, epoch: Epoch(1), start, end, cause };
    let rows = TimelineRows {
        segments: vec![segment(at(0), at(60), 1), segment(at(90), at(120), 1)],
        gaps: vec![gap(at(60).plus_millis(30), at(90).plus_millis(-30), Cause::WorkerRestarted)],
        ..TimelineRows::default()
    };
    assert_eq!(gaps(&draw(&rows, 0, 120, 500)), [(60, 90, "worker_restarted")]);
}

#[test]
fn an_outage_is_told_cause_by_cause() {
    let interruption = |second, cause| InterruptionRow {
        copy: 0,
        epoch: Epoch(1),
        server_id: server(),
        at: at(second),
        cause,
    };
    let rows = TimelineRows {
        segments: vec![segment(at(0), at(60), 1)],
        interruptions: vec![interruption(60, Cause::Closed), interruption(75, Cause::Unauthorized)],
        statuses: vec![status(1, offline(Cause::Unauthorized), 75, Some((0, Some(60))))],
        ..TimelineRows::default()
    };
    assert_eq!(gaps(&draw(&rows, 0, 500, 100)), [(60, 75, "closed"), (75, 100, "unauthorized")]);
    // The cause of a gap that began before the range is known within it, too.
    assert_eq!(gaps(&draw(&rows, 90, 500, 100)), [(90, 100, "unauthorized")]);
}

#[test]
fn an_old_cause_does_not_explain_a_new_gap() {
    let rows = TimelineRows {
        segments: vec![segment(at(10), at(60), 1), segment(at(80), at(100), 1)],
        placements: vec![PlacedRow { copy: 0, at: at(5), place: Place::Server(server()) }],
        ..TimelineRows::default()
    };
    let expected = [(0, 5, "unplaced"), (5, 10, "connecting"), (60, 80, "unknown")];
    assert_eq!(gaps(&draw(&rows, 0, 100, 500)), expected);
}

#[test]
fn durable_video_counts_before_its_segment_is_reported() {
    let rows = TimelineRows {
        segments: vec![segment(at(0), at(60), 1)],
        statuses: vec![status(1, offline(Cause::Stalled), 85, Some((0, Some(85))))],
        interruptions: vec![InterruptionRow {
            copy: 0,
            epoch: Epoch(1),
            server_id: server(),
            at: at(85),
            cause: Cause::Stalled,
        }],
        ..TimelineRows::default()
    };
    assert_eq!(gaps(&draw(&rows, 0, 500, 100)), [(85, 100, "stalled")]);
}

#[test]
fn what_a_former_run_of_the_worker_was_recording_is_not_being_recorded() {
    let rows = TimelineRows {
        segments: vec![segment(at(0), at(60), 1)],
        statuses: vec![status(1, Condition::Recording, 0, Some((0, None)))],
        ..TimelineRows::default()
    };
    let inputs = Inputs {
        range: Range { from: at(0), to: at(500) },
        now: at(100),
        created_at: at(0),
        recorders: vec![Recorder { boot_id: Some(boot(2)), ..recorder(1) }],
        rows: &rows,
    };
    let timeline = draw_up(&inputs);
    assert_eq!(gaps(&timeline), [(60, 100, "worker_restarted")]);
    assert_eq!(timeline.recording, None);
    assert_eq!(
        gaps(&draw_up(&Inputs {
            recorders: vec![Recorder { boot_id: Some(boot(1)), ..recorder(1) }],
            ..inputs
        })),
        []
    );
}

#[test]
fn of_several_causes_at_the_end_of_the_video_the_last_one_holds() {
    let interruption =
        |cause| InterruptionRow { copy: 0, epoch: Epoch(1), server_id: server(), at: at(60), cause };
    let rows = TimelineRows {
        segments: vec![segment(at(0), at(60), 1)],
        interruptions: vec![interruption(Cause::Stalled), interruption(Cause::Refused)],
        ..TimelineRows::default()
    };
    assert_eq!(gaps(&draw(&rows, 0, 500, 100)), [(60, 100, "refused")]);
}

#[test]
fn a_worker_that_is_told_to_stop_does_not_hide_why_it_was_told() {
    let disabled =
        |second| PlacedRow { copy: 0, at: at(second), place: Place::Nowhere(UnplacedReason::Disabled) };
    let placed = |second| PlacedRow { copy: 0, at: at(second), place: Place::Server(server()) };
    let stopped = |millis, cause| InterruptionRow {
        copy: 0,
        epoch: Epoch(1),
        server_id: server(),
        at: at(60).plus_millis(millis),
        cause,
    };
    // Dated after the plan, as it should be; before it, by a clock that is behind; and long after it.
    for (millis, switched_off) in [(300, 60), (0, 61), (0, 40)] {
        for cause in [Cause::Reassigned, Cause::WorkerStopped] {
            let late = cause == Cause::WorkerStopped && switched_off > 60;
            let rows = TimelineRows {
                segments: vec![segment(at(0), at(60).plus_millis(millis), 1)],
                placements: vec![placed(0), disabled(switched_off)],
                interruptions: vec![stopped(millis, cause)],
                ..TimelineRows::default()
            };
            let expected = if late {
                vec![(60, 61, "worker_stopped"), (61, 100, "disabled")]
            } else {
                vec![(60, 100, "disabled")]
            };
            assert_eq!(gaps(&draw(&rows, 0, 500, 100)), expected, "{millis} {switched_off} {cause}");
        }
    }
    // Switched on again: the worker calls all of it one gap.
    let rows = TimelineRows {
        segments: vec![segment(at(0), at(60), 1), segment(at(90), at(120), 3)],
        placements: vec![placed(0), disabled(60), placed(85)],
        interruptions: vec![stopped(300, Cause::Reassigned)],
        gaps: vec![GapRow { copy: 0, epoch: Epoch(3), start: at(60), end: at(90), cause: Cause::Reassigned }],
        ..TimelineRows::default()
    };
    let expected = [(60, 85, "disabled"), (85, 90, "connecting")];
    assert_eq!(gaps(&draw(&rows, 0, 120, 500)), expected);
    // Given to another server: that is what happened.
    let rows = TimelineRows {
        segments: vec![segment(at(0), at(60), 1)],
        placements: vec![placed(0), placed(60)],
        interruptions: vec![stopped(300, Cause::Reassigned)],
        ..TimelineRows::default()
    };
    assert_eq!(gaps(&draw(&rows, 0, 500, 100)), [(60, 100, "reassigned")]);
}

#[test]
fn two_servers_at_once_are_an_overlap() {
    let rows = TimelineRows {
        segments: vec![segment(at(0), at(60), 1), segment(at(50), at(110), 2)],
        ..TimelineRows::default()
    };
    let timeline = draw(&rows, 0, 110, 500);
    assert_eq!(timeline.overlaps, [Range { from: at(50), to: at(60) }]);
    assert!(timeline.gaps.is_empty());
}

#[test]
fn edges_of_one_recording_that_nearly_touch_are_neither_gap_nor_overlap() {
    let rows = TimelineRows {
        segments: vec![
            segment(at(0), at(60).plus_millis(20), 1),
            segment(at(60), at(119), 1),
            segment(at(119).plus_millis(40), at(180), 1),
        ],
        ..TimelineRows::default()
    };
    let timeline = draw(&rows, 0, 180, 500);
    assert!(timeline.gaps.is_empty() && timeline.overlaps.is_empty(), "{timeline:?}");
}

/// With a cost that grows with the square of the gaps this would take minutes.
#[test]
fn a_month_of_a_camera_that_flaps_is_told_gap_by_gap() {
    const GAPS: i64 = 100_000;
    let outages = || (0..GAPS).map(|number| number * 10);
    let (epochs, gap) = (|start: i64| 1 + (start / 1_000).unsigned_abs(), 4);
    let rows = TimelineRows {
        segments: outages().map(|start| segment(at(start + gap), at(start + 10), epochs(start))).collect(),
        deletions: Vec::new(),
        triggers: Vec::new(),
        gaps: outages()
            .map(|start| GapRow {
                copy: 0,
                epoch: Epoch(epochs(start)),
                start: at(start),
                end: at(start + gap),
                cause: Cause::Closed,
            })
            .collect(),
        interruptions: outages()
            .map(|start| InterruptionRow {
                copy: 0,
                epoch: Epoch(epochs(start)),
                server_id: server(),
                at: at(start),
                cause: Cause::Stalled,
            })
            .collect(),
        placements: outages()
            .step_by(100)
            .map(|second| PlacedRow { copy: 0, at: at(second), place: Place::Server(server()) })
            .collect(),
        statuses: outages()
            .step_by(100)
            .map(|start| status(epochs(start), offline(Cause::Closed), start, Some((start, Some(start)))))
            .collect(),
    };
    let timeline = draw(&rows, 0, GAPS * 10, GAPS * 10);
    let expected: Vec<_> = outages().map(|start| (start, start + gap, "closed")).collect();
    assert!(gaps(&timeline) == expected, "{:?} …", &gaps(&timeline)[..10]);

    // The same camera without any video: one hole, told by 100,000 facts and as many failures.
    let rows = TimelineRows { segments: Vec::new(), statuses: Vec::new(), ..rows };
    let timeline = draw(&rows, 0, GAPS * 10, GAPS * 10);
    let closed = timeline.gaps.iter().filter(|gap| gap.cause == GapCause::Known(Cause::Closed)).count();
    assert_eq!(i64::try_from(closed), Ok(GAPS));
}

#[test]
fn of_facts_about_one_moment_the_newest_assignment_s_counts() {
    let gap = |epoch, start, end, cause| GapRow {
        copy: 0,
        epoch: Epoch(epoch),
        start: at(start),
        end: at(end),
        cause,
    };
    let rows = TimelineRows {
        segments: vec![segment(at(0), at(60), 1), segment(at(100), at(120), 3)],
        gaps: vec![
            gap(1, 60, 100, Cause::Closed),
            gap(3, 70, 80, Cause::Timeout),
            gap(2, 75, 95, Cause::Refused),
            gap(2, 90, 92, Cause::Stalled),
        ],
        ..TimelineRows::default()
    };
    let expected = [
        (60, 70, "closed"),
        (70, 80, "timeout"),
        (80, 90, "refused"),
        (90, 92, "stalled"),
        (92, 95, "refused"),
        (95, 100, "closed"),
    ];
    assert_eq!(gaps(&draw(&rows, 0, 120, 500)), expected);
}
