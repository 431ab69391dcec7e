//! How a camera's clocks run: the one that stamps its pictures, and the wall clock its reports tell. Pure.

use std::time::Duration;

/// The clock of the RTP timestamps, beside an exact one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Clockwork {
    /// It jumps by so many seconds, again and again.
    pub jumps: Option<Jumps>,
    /// It is faster by so many millionths.
    pub fast_ppm: i32,
    /// Two pictures at a time have the same timestamp.
    pub in_pairs: bool,
}

/// See [`Clockwork::jumps`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Jumps {
    /// Between two of them.
    pub every: Duration,
    /// How far; back if negative.
    pub by_s: i64,
}

/// What a camera's sender reports say the time is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reports {
    /// The right time.
    #[default]
    Right,
    /// So many milliseconds more than it is.
    Ahead {
        /// How many.
        ms: i64,
    },
    /// It sends none.
    None,
}

impl Clockwork {
    /// How many units of 1/`rate` s a timestamp differs from an exact clock's at `due`, wrapped to RTP's 32 bits.
    #[expect(clippy::cast_possible_truncation, reason = "RTP timestamps wrap")]
    pub fn shift(&self, due: Duration, rate: u32) -> u32 {
        let jumped_s = self.jumps.map_or(0, |jumps| {
            let times = due.as_nanos() / jumps.every.as_nanos().max(1);
            i128::from(jumps.by_s) * i128::try_from(times).unwrap_or(0)
        });
        let micros = i128::try_from(due.as_micros()).unwrap_or(i128::MAX);
        let drifted = micros * i128::from(self.fast_ppm) / 1_000_000 * i128::from(rate) / 1_000_000;
        (jumped_s * i128::from(rate) + drifted) as u32
    }

    /// The frame whose timestamp `frame` has.
    pub const fn stamped_as(&self, frame: u64) -> u64 {
        if self.in_pairs { frame - frame % 2 } else { frame }
    }
}

impl Reports {
    /// The NTP timestamp to report at the one that is right; `None`: nothing is reported.
    pub fn tell(self, ntp: u64) -> Option<u64> {
        match self {
            Self::Right => Some(ntp),
            Self::Ahead { ms } => {
                let ahead = (i128::from(ms) << 32) / 1_000;
                Some(u64::try_from((i128::from(ntp) + ahead).max(0)).unwrap_or(u64::MAX))
            }
            Self::None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_jumps_does_so_at_whole_intervals() {
        let jumps = Some(Jumps { every: Duration::from_secs(5), by_s: -3_600 });
        let clock = Clockwork { jumps, ..Clockwork::default() };
        let shift = |millis| clock.shift(Duration::from_millis(millis), 90_000);
        assert_eq!((shift(4_999), shift(5_000)), (0, 0_u32.wrapping_sub(3_600 * 90_000)));
        assert_eq!(shift(10_000), 0_u32.wrapping_sub(2 * 3_600 * 90_000));
    }

    #[test]
    fn a_fast_clock_gains() {
        let clock = Clockwork { fast_ppm: 300, ..Clockwork::default() };
        assert_eq!(clock.shift(Duration::from_secs(1_000), 90_000), 27_000);
        assert_eq!(Clockwork::default().shift(Duration::from_secs(1_000), 90_000), 0);
    }

    #[test]
    fn reports_tell_what_they_are_told_to() {
        let second = 1_u64 << 32;
        assert_eq!(Reports::Right.tell(7 * second), Some(7 * second));
        assert_eq!(Reports::Ahead { ms: -2_000 }.tell(7 * second), Some(5 * second));
        assert_eq!(Reports::Ahead { ms: -9_000 }.tell(7 * second), Some(0));
        assert_eq!(Reports::None.tell(7), None);
    }
}
