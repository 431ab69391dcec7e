//! When a camera is recorded that is not always recorded: windows of a week, read off a clock on the wall in a time zone.
//!
//! The clock on the wall decides, and nothing else: a moment is within a window if a clock in the zone reads a time of the
//! window then. An hour that the clock reads twice, when summer time ends, is recorded twice; one that it skips is not
//! there to be recorded. [`Weekly`] answers questions about it.

mod weekly;

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub use weekly::{Stretch, UnknownZone, Weekly};

/// Seconds of a day, as a clock on the wall counts them.
pub(crate) const DAY_S: u32 = 24 * 60 * 60;

/// The windows of a week in which a camera is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Schedule {
    /// Whose clock counts: a name of the IANA time zone database, such as `Europe/Berlin`.
    pub time_zone: String,
    /// When; together, in any order, they may overlap.
    pub weekly: Vec<Window>,
}

/// A window, on some days of each week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Window {
    /// On which days it begins.
    pub days: Days,
    /// When it begins.
    pub from: TimeOfDay,
    /// When it ends; if that is not later than `from`, it is on the next day.
    pub to: TimeOfDay,
}

impl Schedule {
    /// The most windows one may have.
    pub const MAX_WINDOWS: usize = 50;
}

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Day {
    /// Monday.
    Mon,
    /// Tuesday.
    Tue,
    /// Wednesday.
    Wed,
    /// Thursday.
    Thu,
    /// Friday.
    Fri,
    /// Saturday.
    Sat,
    /// Sunday.
    Sun,
}

impl Day {
    /// All of them, Monday first.
    pub const ALL: [Self; 7] = [Self::Mon, Self::Tue, Self::Wed, Self::Thu, Self::Fri, Self::Sat, Self::Sun];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mon => "mon",
            Self::Tue => "tue",
            Self::Wed => "wed",
            Self::Thu => "thu",
            Self::Fri => "fri",
            Self::Sat => "sat",
            Self::Sun => "sun",
        }
    }
}

/// A set of days of the week; written as a list, Monday first.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Days(u8);

impl Days {
    /// None of them.
    pub const NONE: Self = Self(0);
    /// All of them.
    pub const ALL: Self = Self(0b111_1111);

    /// With this day too.
    #[must_use]
    pub const fn with(self, day: Day) -> Self {
        Self(self.0 | 1 << day as u8)
    }

    /// Whether the day is among them.
    pub const fn has(self, day: Day) -> bool {
        self.0 & 1 << day as u8 != 0
    }

    /// As bits, Monday's the lowest.
    pub(crate) const fn bits(self) -> u8 {
        self.0
    }

    /// Of what [`Self::bits`] gave.
    pub(crate) const fn from_bits(bits: u8) -> Self {
        Self(bits & Self::ALL.0)
    }

    /// The days, Monday first.
    pub fn iter(self) -> impl Iterator<Item = Day> {
        Day::ALL.into_iter().filter(move |day| self.has(*day))
    }
}

impl FromIterator<Day> for Days {
    fn from_iter<I: IntoIterator<Item = Day>>(days: I) -> Self {
        days.into_iter().fold(Self::NONE, Self::with)
    }
}

impl fmt::Debug for Days {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl Serialize for Days {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for Days {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::<Day>::deserialize(deserializer).map(Self::from_iter)
    }
}

impl JsonSchema for Days {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Days".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let day = generator.subschema_for::<Day>();
        json_schema!({ "description": "Days of the week.", "type": "array", "items": day })
    }
}

/// What a clock on the wall reads, to the second; 24:00 is the end of the day.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimeOfDay(u32);

/// A text that is no time of day where one was needed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a time of day: expected HH:MM or HH:MM:SS, 00:00 to 24:00")]
pub struct InvalidTimeOfDay {
    /// What was given, shortened to 32 characters.
    pub text: String,
}

impl TimeOfDay {
    /// When a day begins.
    pub const MIDNIGHT: Self = Self(0);
    /// When it ends.
    pub const END: Self = Self(DAY_S);

    /// So many seconds after midnight by the clock, at most [`Self::END`].
    pub const fn from_seconds(seconds: u32) -> Self {
        if seconds > DAY_S { Self::END } else { Self(seconds) }
    }

    /// Seconds after midnight by the clock, 0 to 86,400.
    pub const fn seconds(self) -> u32 {
        self.0
    }
}

impl FromStr for TimeOfDay {
    type Err = InvalidTimeOfDay;

    fn from_str(text: &str) -> Result<Self, InvalidTimeOfDay> {
        let number = |part: &str| {
            let plain = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
            part.parse::<u32>().ok().filter(|_| plain)
        };
        let read = || {
            let mut parts = text.split(':');
            let (hours, minutes) = (number(parts.next()?)?, number(parts.next()?)?);
            let seconds = parts.next().map_or(Some(0), number)?;
            let total = hours * 3_600 + minutes * 60 + seconds;
            (parts.next().is_none() && minutes < 60 && seconds < 60 && total <= DAY_S).then_some(Self(total))
        };
        read().ok_or_else(|| InvalidTimeOfDay { text: text.chars().take(32).collect() })
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(seconds) = self;
        write!(f, "{:02}:{:02}", seconds / 3_600, seconds / 60 % 60)?;
        if seconds % 60 == 0 { Ok(()) } else { write!(f, ":{:02}", seconds % 60) }
    }
}

impl fmt::Debug for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for TimeOfDay {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TimeOfDay {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        std::borrow::Cow::<str>::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for TimeOfDay {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "TimeOfDay".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "What a clock on the wall reads: HH:MM or HH:MM:SS, 00:00 to 24:00.",
            "type": "string",
            "pattern": "^([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9])?$|^24:00(:00)?$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_day_are_read_and_written() {
        for (text, seconds) in [("00:00", 0), ("08:30", 30_600), ("23:59:59", 86_399), ("24:00", 86_400)] {
            let time: TimeOfDay = text.parse().unwrap();
            assert_eq!((time.seconds(), time.to_string()), (seconds, text.to_owned()));
        }
        assert_eq!("07:00:00".parse::<TimeOfDay>().unwrap().to_string(), "07:00");
        for text in [
            "",
            "8:00",
            "08:60",
            "08:00:60",
            "24:01",
            "25:00",
            "08",
            "08:00:00:00",
            "+8:00",
            "08:0a",
            "٠٨:٠٠",
        ] {
            assert!(text.parse::<TimeOfDay>().is_err(), "{text}");
        }
    }

    #[test]
    fn days_are_a_set() {
        let days: Days = serde_json::from_str(r#"["sun","mon","sun"]"#).unwrap();
        assert_eq!(serde_json::to_string(&days).unwrap(), r#"["mon","sun"]"#);
        assert!(days.has(Day::Sun) && !days.has(Day::Tue));
        assert_eq!(Day::ALL.into_iter().collect::<Days>(), Days::ALL);
    }
}
