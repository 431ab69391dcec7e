//! Against an oracle that looks at one moment after the other.

use longwatch_events::fact::Codec;
use longwatch_events::hash::Sha256;
use longwatch_events::id::{CameraId, ServerId, TenantId};
use longwatch_events::position::Epoch;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::read_model::rows::Location;

const S: i64 = 1_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(seconds * S)
}

/// A segment of a recording from one second to another.
pub(crate) fn segment(epoch: u64, from: i64, to: i64) -> SegmentRow {
    SegmentRow {
        tenant_id: TenantId::DEFAULT,
        camera_id: CameraId::from_uuid(Uuid::from_u128(1)),
        epoch: Epoch(epoch),
        server_id: ServerId::from_uuid(Uuid::from_u128(u128::from(epoch))),
        start: at(from),
        end: at(to),
        key: format!("{epoch}/{from}"),
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

fn range(from: i64, to: i64) -> Range {
    Range { from: at(from), to: at(to) }
}

/// Which recordings are played from which second to which.
fn played(segments: &[SegmentRow], range: Range) -> Vec<(u64, i64, i64)> {
    let pieces = cover(segments, range);
    let seconds = |at: Timestamp| at.as_micros() / S;
    let piece =
        |piece: &Piece<'_>| (piece.segment.epoch.0, seconds(piece.segment.start), seconds(piece.end()));
    pieces.iter().map(piece).collect()
}

#[test]
fn one_recording_is_played_as_it_is_and_goes_on() {
    let segments = [segment(1, 0, 60), segment(1, 60, 120), segment(1, 200, 260)];
    assert_eq!(played(&segments, range(30, 230)), [(1, 0, 60), (1, 60, 120), (1, 200, 260)]);
    let pieces = cover(&segments, range(0, 300));
    assert!(pieces[0].goes_on_in(&pieces[1]) && !pieces[1].goes_on_in(&pieces[2]));
    assert_eq!(played(&segments, range(130, 190)), []);
    assert_eq!(not_played([range(0, 300)], &pieces), [range(120, 200), range(260, 300)]);
}

#[test]
fn in_a_planned_move_the_new_server_takes_over_where_it_begins() {
    let segments = [segment(1, 0, 60), segment(1, 60, 100), segment(2, 70, 130)];
    assert_eq!(played(&segments, range(0, 200)), [(1, 0, 60), (1, 60, 70), (2, 70, 130)]);
    let pieces = cover(&segments, range(0, 200));
    assert!(!pieces[1].goes_on_in(&pieces[2]), "another server's recording begins anew");
}

#[test]
fn of_two_copies_one_is_played_and_the_other_fills_its_gaps() {
    let segments = [
        segment(1, 0, 60),
        segment(1, 60, 120),
        segment(1, 120, 180),
        segment(2, 0, 60),
        segment(2, 120, 180),
    ];
    assert_eq!(played(&segments, range(0, 180)), [(2, 0, 60), (1, 60, 120), (2, 120, 180)]);
}

#[test]
fn what_is_missing_is_not_played_and_what_is_corrupt_only_if_nothing_else_is_there() {
    let damaged = |damage, epoch, from, to| SegmentRow { damage: Some(damage), ..segment(epoch, from, to) };
    let segments = [
        damaged(Damage::Missing, 3, 0, 60),
        damaged(Damage::Unreadable, 3, 60, 120),
        damaged(Damage::Corrupt, 2, 0, 60),
        damaged(Damage::Corrupt, 2, 60, 120),
        segment(1, 0, 60),
    ];
    assert_eq!(played(&segments, range(0, 120)), [(1, 0, 60), (2, 60, 120)]);
}

/// Segments of a few recordings, none of which overlaps itself.
fn segments() -> impl Strategy<Value = Vec<SegmentRow>> {
    let lengths = prop::collection::vec((0_i64..5, 1_i64..20), 0..6);
    let recording = (1_u64..5, 0_i64..40, lengths);
    prop::collection::vec(recording, 0..5).prop_map(|recordings| {
        let mut segments = Vec::new();
        for (number, (_, from, lengths)) in (1..).zip(recordings) {
            let mut from = from;
            for (pause, length) in lengths {
                segments.push(segment(number, from + pause, from + pause + length));
                from += pause + length;
            }
        }
        segments
    })
}

proptest! {
    #[test]
    fn every_moment_that_is_there_is_played_in_order_and_by_the_highest_epoch(
        segments in segments(), from in 0_i64..60, length in 1_i64..60, turned in any::<prop::sample::Index>(),
    ) {
        let range = range(from, from + length);
        let pieces = cover(&segments, range);
        let ends: Vec<_> = pieces.iter().map(Piece::end).collect();
        prop_assert!(ends.is_sorted_by(|one, other| one < other), "{ends:?}");
        for second in from..from + length {
            // The middle of it, which no segment begins or ends at.
            let moment = at(second).plus_micros(S / 2);
            let holds = |segment: &&SegmentRow| segment.start <= moment && moment < segment.end;
            let best = segments.iter().filter(holds).map(|segment| segment.epoch).max();
            let first = pieces.iter().find(|piece| moment < piece.end());
            let is_played = first.filter(|piece| piece.segment.start <= moment);
            prop_assert_eq!(is_played.map(|piece| piece.segment.epoch), best, "second {}", second);
        }
        // In whatever order they come.
        let mut others = segments.clone();
        if !others.is_empty() {
            let middle = turned.index(others.len());
            others.rotate_left(middle);
        }
        prop_assert_eq!(cover(&others, range), pieces.clone());
        // And what is not played is what nobody holds.
        let left: i64 = not_played([range], &pieces).iter().map(|range| range.to.micros_since(range.from)).sum();
        let nobody = (from..from + length).filter(|second| {
            let moment = at(*second).plus_micros(S / 2);
            !segments.iter().any(|segment| segment.start <= moment && moment < segment.end)
        });
        prop_assert_eq!(left, i64::try_from(nobody.count()).unwrap() * S);
    }
}
