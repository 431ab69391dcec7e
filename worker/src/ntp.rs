//! NTP timestamps (RFC 5905, figure 3): 32 bits of seconds since 1900, and 32 of their fraction.
//!
//! Pure. The seconds begin anew every 136 years; whoever reads one says near which moment it must be.

use longwatch_events::time::Timestamp;

/// Seconds from 1900 to 1970 (RFC 5905, figure 4).
const UNIX_EPOCH_S: i64 = 2_208_988_800;

/// `at` as an NTP timestamp, its fraction rounded up so that it reads back exactly.
pub fn of(at: Timestamp) -> u64 {
    let micros = at.as_micros();
    let seconds = (micros.div_euclid(1_000_000) + UNIX_EPOCH_S).rem_euclid(1 << 32);
    let fraction = ((i128::from(micros.rem_euclid(1_000_000)) << 32) + 999_999) / 1_000_000;
    u64::try_from((i128::from(seconds) << 32) | fraction).expect("invariant: both halves have 32 bits")
}

/// The moment nearest to `near` that has this NTP timestamp, to the microsecond.
pub fn read(ntp: u64, near: Timestamp) -> Timestamp {
    let seconds = i64::try_from(ntp >> 32).expect("invariant: 32 bits");
    let micros =
        i64::try_from((u128::from(ntp & 0xffff_ffff) * 1_000_000) >> 32).expect("invariant: below a million");
    let era = 1_i64 << 32;
    let near_s = near.as_micros().div_euclid(1_000_000) + UNIX_EPOCH_S;
    let eras = (near_s - seconds + era / 2).div_euclid(era);
    let unix_s = seconds + eras * era - UNIX_EPOCH_S;
    Timestamp::from_micros(unix_s.saturating_mul(1_000_000).saturating_add(micros))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_epoch_is_where_it_should_be() {
        assert_eq!(of(Timestamp::UNIX_EPOCH) >> 32, 2_208_988_800);
        assert_eq!(read(2_208_988_800 << 32, Timestamp::from_millis(1_000)), Timestamp::UNIX_EPOCH);
    }

    proptest! {
        #[test]
        fn a_time_reads_back_to_the_microsecond(micros in 0..4_000_000_000_000_000_i64, off_s in -1_000_000..1_000_000_i64) {
            let at = Timestamp::from_micros(micros);
            prop_assert_eq!(read(of(at), at.plus_millis(off_s * 1_000)), at);
        }

        #[test]
        fn what_is_read_is_near(ntp: u64, near_s in 0..4_000_000_000_i64) {
            let near = Timestamp::from_millis(near_s * 1_000);
            let off_s = read(ntp, near).micros_since(near).abs() / 1_000_000;
            prop_assert!(off_s <= (1 << 31) + 1);
        }
    }
}
