//! Which bytes a request wants (RFC 9110, section 14). Pure: from the field's text to a range.
//!
//! Invariant: what is returned lies within what there is, and is never empty.

use std::ops::Range;

/// What is to be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All of it: nothing else was asked for, or not in a way that this server knows.
    Whole,
    /// These bytes.
    Slice(Range<u64>),
    /// Bytes that are not there.
    Nothing,
}

/// What the field `Range` wants of `length` bytes. More than one range is none that this server knows: players ask for one.
pub(super) fn wanted(field: Option<&str>, length: u64) -> Wanted {
    let Some((first, last)) = field.and_then(positions) else { return Wanted::Whole };
    let slice = match (first, last) {
        (Some(first), Some(last)) if last < first => return Wanted::Whole,
        (Some(first), last) => first..last.map_or(length, |last| last.saturating_add(1).min(length)),
        (None, Some(suffix)) => length.saturating_sub(suffix)..length,
        (None, None) => return Wanted::Whole,
    };
    if slice.is_empty() { Wanted::Nothing } else { Wanted::Slice(slice) }
}

/// The two positions of `bytes=first-last`, either of which may be missing.
fn positions(field: &str) -> Option<(Option<u64>, Option<u64>)> {
    let (unit, range) = field.split_once('=')?;
    let (first, last) = range.trim_matches([' ', '\t']).split_once('-')?;
    let is_known = unit.eq_ignore_ascii_case("bytes");
    is_known.then_some((position(first)?, position(last)?))
}

/// A number, nothing, or (the outer `None`) something else. One that does not fit is behind the end of anything.
fn position(digits: &str) -> Option<Option<u64>> {
    let is_number = digits.bytes().all(|digit| digit.is_ascii_digit());
    is_number.then(|| (!digits.is_empty()).then(|| digits.parse().unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_range_is_understood_and_everything_else_is_all_of_it() {
        let slice = |range: Range<u64>| Wanted::Slice(range);
        let huge = "9".repeat(30);
        for (field, expected) in [
            ("bytes=0-0", slice(0..1)),
            ("bytes=2-5", slice(2..6)),
            ("Bytes=2-5", slice(2..6)),
            ("bytes= 2-5 ", slice(2..6)),
            ("bytes=2-", slice(2..10)),
            ("bytes=9-99", slice(9..10)),
            (&format!("bytes=9-{huge}"), slice(9..10)),
            ("bytes=-3", slice(7..10)),
            ("bytes=-99", slice(0..10)),
            (&format!("bytes=-{huge}"), slice(0..10)),
            ("bytes=10-", Wanted::Nothing),
            ("bytes=10-12", Wanted::Nothing),
            (&format!("bytes={huge}-"), Wanted::Nothing),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=5-2", Wanted::Whole),
            ("bytes=-", Wanted::Whole),
            ("bytes=", Wanted::Whole),
            ("bytes=a-b", Wanted::Whole),
            ("bytes=+1-2", Wanted::Whole),
            ("bytes=1 -2", Wanted::Whole),
            ("bytes=0-1,4-5", Wanted::Whole),
            ("bytes=0-1-2", Wanted::Whole),
            ("seconds=0-1", Wanted::Whole),
            ("", Wanted::Whole),
        ] {
            assert_eq!(wanted(Some(field), 10), expected, "{field}");
        }
        assert_eq!(wanted(None, 10), Wanted::Whole);
        assert_eq!(
            (wanted(Some("bytes=0-"), 0), wanted(Some("bytes=-1"), 0)),
            (Wanted::Nothing, Wanted::Nothing)
        );
    }

    proptest! {
        #[test]
        fn a_slice_is_of_what_there_is(field in "(bytes=)?[0-9, -]{0,6}|\\PC*", length: u64) {
            if let Wanted::Slice(slice) = wanted(Some(&field), length) {
                prop_assert!(slice.start < slice.end && slice.end <= length, "{slice:?}");
            }
        }
    }
}
