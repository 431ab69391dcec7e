//! Writes a measurement down: a row for each camera, the totals, and a verdict beside each goal. Pure.
//!
//! A time that misses its goal is written as such; whether a run was complete does not depend on it.

use std::time::Duration;

use super::{Camera, Measured, Phase};

/// Nearly all cameras should be recorded elsewhere this long after the kill, by default settings and keyframes every 2 s.
const DURABLE_P99_GOAL_MS: i64 = 6_000;

/// A figure of each camera.
struct Column {
    /// Above the cameras' rows.
    short: &'static str,
    /// Before its totals.
    title: &'static str,
    of: fn(&Camera) -> Option<i64>,
}

#[rustfmt::skip]
const COLUMNS: &[Column] = &[
    Column { short: "last frame", title: "last durable frame of the dead", of: |camera| camera.last_frame_ms },
    Column { short: "detected", title: "detected (ServerLost)", of: |camera| camera.detected_ms },
    Column { short: "planned", title: "planned", of: |camera| camera.planned_ms },
    Column { short: "told", title: "new server told", of: |camera| camera.told_ms },
    Column { short: "connected", title: "connected (PLAY answered)", of: |camera| camera.connected_ms },
    Column { short: "keyframe", title: "first keyframe", of: |camera| camera.first_keyframe_ms },
    Column { short: "durable", title: "first durable fragment", of: |camera| camera.first_durable_ms },
    Column { short: "lost", title: "video lost, per camera", of: |camera| camera.lost_ms },
];

/// All of it, as lines.
pub fn written(number: u32, measured: &Measured) -> String {
    let mut lines = vec![format!(
        "run {number}: all cameras recorded {:.1} s after the first was added; {} killed (SIGKILL) with {} cameras",
        measured.all_recorded.as_secs_f64(),
        measured.victim,
        measured.cameras.len(),
    )];
    lines.push("\nmilliseconds after the kill, in the order in which they were recorded again".to_owned());
    lines.extend(cameras(&measured.cameras));
    lines.push("\nseconds after the kill".to_owned());
    lines.extend(totals(&measured.cameras));
    lines.push(String::new());
    lines.extend(takeover(measured));
    let online =
        measured.online.map_or("never".to_owned(), |online| format!("{:.1} s", online.as_secs_f64()));
    lines.extend(phase(
        "failback",
        &format!("online {online} after its start, its cameras home"),
        &measured.failback,
    ));
    lines.extend(phase("drain", "empty", &measured.drain));
    lines.join("\n")
}

fn cameras(cameras: &[Camera]) -> Vec<String> {
    let mut sorted: Vec<&Camera> = cameras.iter().collect();
    sorted.sort_by_key(|camera| (camera.first_durable_ms.unwrap_or(i64::MAX), &camera.name));
    let heads: String = COLUMNS.iter().map(|column| format!(" {:>10}", column.short)).collect();
    let mut lines = vec![format!("  {:<14} {:<10}{heads}", "camera", "to")];
    for camera in sorted {
        let cells: String = COLUMNS
            .iter()
            .map(|column| (column.of)(camera).map_or("-".to_owned(), |value| value.to_string()))
            .map(|cell| format!(" {cell:>10}"))
            .collect();
        lines.push(format!("  {:<14} {:<10}{cells}", camera.name, camera.server.as_deref().unwrap_or("-")));
    }
    lines
}

fn totals(cameras: &[Camera]) -> Vec<String> {
    let mut lines =
        vec![format!("  {:<30} {:>8} {:>7} {:>8} {:>7} {:>7}", "", "cameras", "min", "median", "p99", "max")];
    for column in COLUMNS {
        let values: Vec<_> = cameras.iter().filter_map(column.of).collect();
        let cell = |percent| share(values.clone(), percent).map_or("-".to_owned(), seconds);
        lines.push(format!(
            "  {:<30} {:>8} {:>7} {:>8} {:>7} {:>7}",
            column.title,
            values.len(),
            cell(0),
            cell(50),
            cell(99),
            cell(100)
        ));
    }
    lines
}

/// A fragment of a second is durable within another one; whatever is older than that at the kill waited for the disk.
const KEEPS_UP_MS: i64 = 2_000;

fn takeover(measured: &Measured) -> Vec<String> {
    let (all, there) = (measured.cameras.len(), measured.taken_over());
    let durable: Vec<_> = measured.cameras.iter().filter_map(|camera| camera.first_durable_ms).collect();
    let p99 = share(durable, 99);
    let ages = measured.cameras.iter().filter_map(|camera| camera.last_frame_ms).map(|at| -at);
    let behind = share(ages.collect(), 99).filter(|age| *age > KEEPS_UP_MS);
    let disk = behind.map(|age| {
        format!(
            "  at the kill the last durable frame was {} s old (p99): the disk of this machine did not keep up, and these times are the disk's",
            seconds(age)
        )
    });
    let verdicts = [
        format!("  {there} of {all} recording elsewhere: {}", verdict(there == all, "NOT ALL")),
        format!(
            "  p99 of the first durable fragment {} s, goal {} s: {}",
            p99.map_or("-".to_owned(), seconds),
            seconds(DURABLE_P99_GOAL_MS),
            verdict(p99.is_some_and(|p99| p99 <= DURABLE_P99_GOAL_MS), "over")
        ),
        format!(
            "  {} cameras of other servers, {} of their frames lost: {}",
            measured.others,
            measured.others_lost_frames,
            verdict(measured.others_lost_frames == 0, "LOST")
        ),
    ];
    disk.into_iter().chain(verdicts).collect()
}

fn phase(name: &str, what: &str, phase: &Phase) -> [String; 2] {
    let took = phase
        .took
        .map_or("not in time".to_owned(), |took: Duration| format!("after {:.1} s", took.as_secs_f64()));
    let millis: Vec<_> = phase.moves.iter().filter_map(super::Move::millis).collect();
    let cell = |percent| share(millis.clone(), percent).map_or("-".to_owned(), seconds);
    let is_moved = phase.took.is_some() && phase.has_moved_all();
    let is_whole = phase.lost_frames == 0 && phase.ended_early == 0;
    [
        format!(
            "  {name}: {what} {took}; {} moves of {} cameras, each {} s (median), {} s (most): {}",
            phase.moves.len(),
            phase.cameras,
            cell(50),
            cell(100),
            verdict(is_moved, "NOT ALL AS PLANNED")
        ),
        format!(
            "  {name}: {} frames lost of all cameras of the system, {} cameras not recorded to the end: {}",
            phase.lost_frames,
            phase.ended_early,
            verdict(is_whole, "LOST")
        ),
    ]
}

const fn verdict(is_so: bool, otherwise: &str) -> &str {
    if is_so { "ok" } else { otherwise }
}

fn seconds(millis: i64) -> String {
    format!("{:.2}", millis as f64 / 1e3)
}

/// The smallest value that `percent` of the values do not exceed (nearest rank).
fn share(mut values: Vec<i64>, percent: usize) -> Option<i64> {
    values.sort_unstable();
    let rank = (values.len() * percent).div_ceil(100).max(1);
    values.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use longwatch_events::id::{CameraId, CountingIds, ServerId};
    use longwatch_events::reason::FinishReason;
    use longwatch_events::time::Timestamp;

    use super::*;
    use crate::system::moves::{End, How, Move};

    #[test]
    fn shares_are_values_that_were_measured() {
        let values: Vec<i64> = (1..=200).rev().collect();
        let shares = [0, 50, 99, 100].map(|percent| share(values.clone(), percent).unwrap());
        assert_eq!(shares, [1, 100, 198, 200]);
        assert_eq!(share(vec![7], 99), Some(7));
        assert_eq!(share(Vec::new(), 50), None);
    }

    fn given() -> Measured {
        let ids = CountingIds::default();
        let camera = |name: &str, durable| Camera {
            name: name.to_owned(),
            server: Some("server-2".to_owned()),
            last_frame_ms: Some(-320),
            detected_ms: Some(2_900),
            planned_ms: Some(2_950),
            told_ms: Some(2_960),
            connected_ms: Some(3_000),
            first_keyframe_ms: Some(durable - 100),
            first_durable_ms: Some(durable),
            lost_ms: Some(4_000),
        };
        let phase = || {
            let end =
                End { at: Timestamp::from_millis(1_500), how: How::Finished(FinishReason::FirstKeyframe) };
            let moved = || Move {
                camera_id: CameraId::generate(&ids),
                to: ServerId::generate(&ids),
                begun_at: Timestamp::from_millis(0),
                end: Some(end),
            };
            Phase {
                cameras: 2,
                took: Some(Duration::from_secs(9)),
                moves: vec![moved(), moved()],
                lost_frames: 0,
                ended_early: 0,
            }
        };
        Measured {
            all_recorded: Duration::from_secs(2),
            victim: "server-1".to_owned(),
            cameras: vec![camera("Camera 10", 4_500), camera("Camera 9", 4_000)],
            others: 4,
            others_lost_frames: 0,
            failback: phase(),
            online: Some(Duration::from_millis(700)),
            drain: phase(),
        }
    }

    #[test]
    fn every_camera_has_its_row_and_every_goal_its_verdict() {
        let measured = given();
        let text = written(1, &measured);
        let row = |start: &str| text.lines().position(|line| line.trim_start().starts_with(start)).unwrap();
        assert!(row("Camera 9 ") < row("Camera 10 "), "{text}");
        let first = text.lines().nth(row("Camera 9 ")).unwrap().split_whitespace().collect::<Vec<_>>();
        assert_eq!(
            first,
            "Camera 9 server-2 -320 2900 2950 2960 3000 3900 4000 4000".split(' ').collect::<Vec<_>>()
        );
        let verdicts = text.lines().filter(|line| line.ends_with(": ok")).count();
        assert_eq!(verdicts, 7, "{text}");
        assert!(measured.is_complete());
    }

    #[test]
    fn what_is_missing_is_said_and_makes_a_run_incomplete() {
        type Spoil = fn(&mut Measured);
        let spoil: [(&str, Spoil); 7] = [
            ("1 of 2 recording elsewhere: NOT ALL", |m| m.cameras[0].first_durable_ms = None),
            ("3 of their frames lost: LOST", |m| m.others_lost_frames = 3),
            ("not in time", |m| m.failback.took = None),
            ("1 moves of 2 cameras", |m| m.drain.moves.truncate(1)),
            ("NOT ALL AS PLANNED", |m| m.drain.moves[0].end = None),
            ("5 frames lost of all cameras of the system, 0 cameras not recorded to the end: LOST", |m| {
                m.drain.lost_frames = 5;
            }),
            ("2 cameras not recorded to the end: LOST", |m| m.failback.ended_early = 2),
        ];
        for (said, spoil) in spoil {
            let mut measured = given();
            spoil(&mut measured);
            assert!(written(1, &measured).contains(said), "{said}");
            assert!(!measured.is_complete(), "{said}");
        }
    }

    #[test]
    fn a_disk_that_did_not_keep_up_is_said() {
        let mut measured = given();
        assert!(!written(1, &measured).contains("did not keep up"));
        measured.cameras[0].last_frame_ms = Some(-2_001);
        assert!(written(1, &measured).contains("was 2.00 s old (p99): the disk"));
    }

    #[test]
    fn a_slow_run_is_said_and_complete() {
        let mut measured = given();
        measured.cameras[0].first_durable_ms = Some(6_010);
        assert!(written(1, &measured).contains("6.01 s, goal 6.00 s: over"));
        assert!(measured.is_complete());
    }
}
