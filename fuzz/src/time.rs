//! Times that a camera tells: media times, reports.

use std::num::NonZeroU32;

use longwatch_events::id::CameraId;
use longwatch_events::time::Timestamp;
use longwatch_worker::ntp;
use longwatch_worker::rotation::{Lengths, Rotation, Step};
use longwatch_worker::timeline::media_clock::MediaClock;
use longwatch_worker::timeline::reports::{Report, Reports};
use longwatch_worker::timeline::steady::SteadyClock;
use longwatch_worker::timeline::{Timeline, to_micros};

const START: Timestamp = Timestamp::from_millis(1_795_420_800_000);
const SCALE: u32 = 90_000;

/// Pictures and reports with any times: wall-clock time never goes back, and segments begin with keyframes.
pub(crate) fn media_times(data: &[u8]) {
    let scale = NonZeroU32::new(SCALE).unwrap_or(NonZeroU32::MIN);
    let (mut clock, mut reports, mut steady) =
        (MediaClock::new(scale), Reports::new(scale), SteadyClock::new(START, 0));
    let mut timeline = Timeline::anchored(scale, 0, START);
    let mut rotation = Rotation::new(
        Lengths::default(),
        CameraId::from_uuid(longwatch_events::id::TenantId::DEFAULT.as_uuid()),
    );
    let (mut now_us, mut last, mut latest) = (0_i64, START, 0_i64);
    for chunk in data.chunks_exact(12) {
        let told = i64::from_be_bytes([
            chunk[0], chunk[1], chunk[2], chunk[3], chunk[4], chunk[5], chunk[6], chunk[7],
        ]);
        now_us += i64::from(chunk[8]) * 10_000;
        let wall = START.plus_micros(now_us).plus_millis(i64::from(chunk[9]) * 100);
        let at = steady.read(wall, now_us);
        if chunk[10] >= 200 {
            let report = Report { media_time: clock.place(told), at: ntp::read(told.unsigned_abs(), at) };
            if reports.take(report, at) {
                timeline.reported(report.media_time, report.at);
            }
            continue;
        }
        let Ok(placed) = clock.read(told, now_us) else { return };
        timeline.observe(placed.media_time, at);
        latest = latest.max(placed.media_time);
        let key = chunk[11] >= 128;
        let step = rotation.next(to_micros(placed.media_time, scale) / 1_000, key, usize::from(chunk[11]));
        if step == Step::Segment {
            assert!(key, "a segment that begins with no keyframe");
            let end = timeline.close_segment(latest);
            assert!(end >= last, "time went back from {last} to {end}");
            last = end;
        }
    }
}
