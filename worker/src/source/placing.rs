//! When a document of metadata was, by the clock of the video: the two come over connections of their own, and the clocks of their packets
//! have nothing to do with each other.
//!
//! The camera's sender reports tie both to its wall clock (RFC 3550, section 6.4.1). Without them, or if what they say cannot be, a
//! document belongs to the picture beside which it arrives. Pure.

use std::num::NonZeroU32;

/// How much earlier than it arrives a document may have been, in microseconds: what looks at the scene takes its time.
const MOST_BEHIND_US: i64 = 10_000_000;
/// How much later.
const MOST_AHEAD_US: i64 = 1_000_000;

/// A moment by the clock of some packets, and by the camera's wall clock as an NTP timestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tie {
    pub(super) time: i64,
    pub(super) ntp: u64,
}

/// What is known of both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Placing {
    video_rate: NonZeroU32,
    /// The newest picture: its media time, and when it arrived, in microseconds.
    picture: Option<(i64, i64)>,
    video: Option<Tie>,
    metadata: Option<Tie>,
}

impl Placing {
    /// For video of this timescale.
    pub(super) const fn new(video_rate: NonZeroU32) -> Self {
        Self { video_rate, picture: None, video: None, metadata: None }
    }

    pub(super) const fn picture(&mut self, media_time: i64, arrived_us: i64) {
        self.picture = Some((media_time, arrived_us));
    }

    pub(super) const fn video_report(&mut self, tie: Tie) {
        self.video = Some(tie);
    }

    pub(super) const fn metadata_report(&mut self, tie: Tie) {
        self.metadata = Some(tie);
    }

    /// Its connection is another one: so is its clock.
    pub(super) const fn metadata_anew(&mut self) {
        self.metadata = None;
    }

    /// The media time by the video's clock at which a document of this time and rate was; `None` before the first picture.
    pub(super) fn place(&self, time: i64, rate: NonZeroU32, arrived_us: i64) -> Option<i64> {
        let (newest, newest_us) = self.picture?;
        let beside = newest.saturating_add(self.units(arrived_us.saturating_sub(newest_us)));
        let told = self.video.zip(self.metadata).and_then(|(video, metadata)| {
            let since_us = i128::from(time.checked_sub(metadata.time)?) * 1_000_000 / i128::from(rate.get());
            let between_us = ((i128::from(metadata.ntp) - i128::from(video.ntp)) * 1_000_000) >> 32;
            let since_video = i64::try_from(since_us + between_us).ok()?;
            video.time.checked_add(self.units(since_video))
        });
        let possible = beside.saturating_sub(self.units(MOST_BEHIND_US))
            ..=beside.saturating_add(self.units(MOST_AHEAD_US));
        Some(told.filter(|told| possible.contains(told)).unwrap_or(beside))
    }

    fn units(&self, us: i64) -> i64 {
        let units = i128::from(us) * i128::from(self.video_rate.get()) / 1_000_000;
        i64::try_from(units).unwrap_or(if units < 0 { i64::MIN } else { i64::MAX })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RATE: NonZeroU32 = NonZeroU32::new(90_000).unwrap();
    const OTHER: NonZeroU32 = NonZeroU32::new(8_000).unwrap();
    /// A second of NTP.
    const SECOND: u64 = 1 << 32;

    fn seen() -> Placing {
        let mut placing = Placing::new(RATE);
        // At 10 s of the video's clock, 50 s of ours.
        placing.picture(900_000, 50_000_000);
        placing
    }

    #[test]
    fn without_reports_it_belongs_to_the_picture_beside_it() {
        assert_eq!(Placing::new(RATE).place(0, OTHER, 0), None);
        assert_eq!(seen().place(77, OTHER, 50_000_000), Some(900_000));
        assert_eq!(seen().place(77, OTHER, 50_500_000), Some(945_000));
    }

    #[test]
    fn reports_say_when_it_was() {
        let mut placing = seen();
        // The video was at 9 s when the camera's clock was at 100 s; the metadata at 3 s when it was at 101 s.
        placing.video_report(Tie { time: 810_000, ntp: 100 * SECOND });
        placing.metadata_report(Tie { time: 24_000, ntp: 101 * SECOND });
        // What says 2.5 s was half a second before that: at 9.5 s of the video.
        assert_eq!(placing.place(20_000, OTHER, 50_400_000), Some(855_000));
        // A connection of its own has a clock of its own.
        placing.metadata_anew();
        assert_eq!(placing.place(20_000, OTHER, 50_400_000), Some(936_000));
    }

    #[test]
    fn reports_that_cannot_be_right_are_not_believed() {
        for (video_s, metadata_s) in [(100, 3_700), (3_700, 100), (100, 112), (0, 0xffff_ffff)] {
            let mut placing = seen();
            placing.video_report(Tie { time: 900_000, ntp: video_s * SECOND });
            placing.metadata_report(Tie { time: 8_000, ntp: metadata_s * SECOND });
            assert_eq!(placing.place(8_000, OTHER, 50_000_000), Some(900_000), "{video_s} {metadata_s}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_told_it_is_near_the_picture(
            numbers: [i64; 4], ntps: [u64; 2], rate in 1..u32::MAX, arrived_us in -60_000_000..60_000_000_i64,
        ) {
            let mut placing = seen();
            placing.video_report(Tie { time: numbers[0], ntp: ntps[0] });
            placing.metadata_report(Tie { time: numbers[1], ntp: ntps[1] });
            let placed = placing.place(numbers[2], NonZeroU32::new(rate).unwrap(), arrived_us).unwrap();
            let beside = seen().place(0, RATE, arrived_us).unwrap();
            prop_assert!((beside - 900_000..=beside + 90_000).contains(&placed), "{placed} {beside}");
        }
    }
}
