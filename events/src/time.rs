//! Wall-clock time: UTC, in microseconds, written as RFC 3339.
//!
//! Pure code takes a [`Timestamp`] as an argument. Only a shell owns a [`Clock`], and only [`SystemClock`] reads
//! the machine's.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicI64, Ordering};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A moment: microseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

/// A text that is not a time where one was needed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a time: expected RFC 3339 such as 2026-11-23T08:00:00Z")]
pub struct InvalidTimestamp {
    /// What was given, shortened to 64 characters.
    pub text: String,
}

/// The last moment that can be written down: 9999-12-30T21:59:59.999999Z, the last one that has a date in every
/// time zone.
const LATEST_US: i64 = 253_402_207_199_999_999;
/// The first: year 0.
const EARLIEST_US: i64 = -62_167_219_200_000_000;

impl Timestamp {
    /// 1970-01-01T00:00:00Z.
    pub const UNIX_EPOCH: Self = Self(0);

    /// From microseconds since 1970; clamped to the years 0 to 9999.
    pub const fn from_micros(micros: i64) -> Self {
        if micros > LATEST_US {
            Self(LATEST_US)
        } else if micros < EARLIEST_US {
            Self(EARLIEST_US)
        } else {
            Self(micros)
        }
    }

    /// From milliseconds since 1970.
    pub const fn from_millis(millis: i64) -> Self {
        Self::from_micros(millis.saturating_mul(1_000))
    }

    /// Microseconds since 1970.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Milliseconds since 1970, rounded down.
    pub const fn as_millis(self) -> i64 {
        self.0.div_euclid(1_000)
    }

    /// This moment moved by `micros` (negative: earlier), staying within the years 0 to 9999.
    #[must_use]
    pub const fn plus_micros(self, micros: i64) -> Self {
        Self::from_micros(self.0.saturating_add(micros))
    }

    /// This moment moved by `millis`.
    #[must_use]
    pub const fn plus_millis(self, millis: i64) -> Self {
        self.plus_micros(millis.saturating_mul(1_000))
    }

    /// Microseconds from `earlier` to `self`; negative if `self` is the earlier one.
    pub const fn micros_since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Milliseconds from `earlier` to `self`.
    pub const fn millis_since(self, earlier: Self) -> i64 {
        self.micros_since(earlier) / 1_000
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(time) => write!(f, "{time:.6}"),
            Err(_) => f.write_str("out-of-range"),
        }
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Timestamp {
    type Err = InvalidTimestamp;

    fn from_str(text: &str) -> Result<Self, InvalidTimestamp> {
        text.parse::<jiff::Timestamp>()
            .map(|time| Self::from_micros(time.as_microsecond()))
            .map_err(|_| InvalidTimestamp { text: text.chars().take(64).collect() })
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Timestamp {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Timestamp".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "date-time", "description": "RFC 3339, UTC" })
    }
}

/// Tells the time. Injected into shells, so that a test owns it.
pub trait Clock: Send + Sync {
    /// The wall clock, now.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the one place where the wall clock is read")]
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(jiff::Timestamp::now().as_microsecond())
    }
}

/// A clock that stands still until it is moved. For tests and simulation.
#[derive(Debug)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// A clock that shows `start`.
    pub const fn starting_at(start: Timestamp) -> Self {
        Self(AtomicI64::new(start.as_micros()))
    }

    /// Moves the clock by `millis`, backwards if negative.
    pub fn advance_millis(&self, millis: i64) {
        self.0.fetch_add(millis.saturating_mul(1_000), Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_reads_back_as_written() {
        let time = Timestamp::from_micros(1_795_420_800_123_456);
        assert_eq!(time.to_string().parse(), Ok(time));
        assert!(time.to_string().ends_with(".123456Z"), "{time}");
        assert_eq!("2026-11-23T09:00:00+01:00".parse(), "2026-11-23T08:00:00Z".parse::<Timestamp>());
        assert!("yesterday".parse::<Timestamp>().is_err());
    }

    #[test]
    fn arithmetic_never_overflows() {
        assert!(Timestamp::from_micros(i64::MAX).plus_millis(i64::MAX).to_string().starts_with("9999"));
        assert!(!Timestamp::from_micros(i64::MIN).to_string().contains("out-of-range"));
    }
}
