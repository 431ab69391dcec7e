//! Putting a segment on the time line of its camera: decode times that count from the segment's beginning come to count from
//! the Unix epoch (`tfdt`, ISO/IEC 14496-12, section 8.8.12).
//!
//! Reads the shape that [`super::init`] and [`super::mux`] write, and says [`None`] to anything else. Pure: the caller reads
//! the boxes from the file. Invariants: no bytes make it panic; no size changes, and no byte but those of decode times.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::ops::Range;

use longwatch_events::time::Timestamp;

use super::VIDEO_TRACK;
use super::scan::box_header;

/// As many bytes from the beginning of a file hold its header, whatever the tracks are.
pub const HEADER_ROOM: usize = 64 << 10;

/// What stands before the fragments of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// How long it is, in bytes: up to the end of `moov`.
    pub bytes: u64,
    /// Units of media time in a second, by track.
    timescales: BTreeMap<u32, NonZeroU32>,
}

/// What is added to the decode times of each track, in its timescale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shifts(BTreeMap<u32, u64>);

impl Header {
    /// Reads it from the first bytes of a segment: [`HEADER_ROOM`] of them, or all.
    pub fn read(first: &[u8]) -> Option<Self> {
        let moov = find(first, 0..first.len(), b"moov")?;
        let tracks = children(first, moov.clone()).filter(|(kind, _)| kind == b"trak");
        let timescales = tracks.map(|(_, track)| timescale(first, track)).collect::<Option<_>>()?;
        Some(Self { bytes: u64::try_from(moov.end).ok()?, timescales })
    }

    /// The shifts of a segment whose media time 0 is `start`, each rounded to the nearest; `None` for one of before the epoch.
    pub fn shifts(&self, start: Timestamp) -> Option<Shifts> {
        const SECOND_US: u128 = 1_000_000;
        let micros = u128::try_from(start.as_micros()).ok()?;
        let shift = |timescale: NonZeroU32| {
            u64::try_from((micros * u128::from(timescale.get()) + SECOND_US / 2) / SECOND_US).ok()
        };
        let shifts = self.timescales.iter().map(|(track, timescale)| Some((*track, shift(*timescale)?)));
        shifts.collect::<Option<_>>().map(Shifts)
    }

    /// When the first picture of a whole `moof` box is decoded, in a segment whose media time 0 is `start`; rounded down to the
    /// microsecond.
    pub fn begin_of(&self, moof: &[u8], start: Timestamp) -> Option<Timestamp> {
        let timescale = self.timescales.get(&VIDEO_TRACK)?.get();
        let times = decode_times(moof)?;
        let (.., time) = times.into_iter().find(|(track, ..)| *track == VIDEO_TRACK)?;
        let micros = u128::from(time) * 1_000_000 / u128::from(timescale);
        Some(start.plus_micros(i64::try_from(micros).ok()?))
    }
}

impl Shifts {
    /// Shifts all decode times in a whole `moof` box. `None`, and nothing changed, if it is none that can be.
    pub fn apply(&self, moof: &mut [u8]) -> Option<()> {
        let all = self.shifted(moof)?;
        for (at, time) in all {
            moof.get_mut(at)?.copy_from_slice(&time);
        }
        Some(())
    }

    /// Where decode times stand, and what they become.
    fn shifted(&self, moof: &[u8]) -> Option<Vec<(Range<usize>, [u8; 8])>> {
        let shifted = |(track, at, time): (u32, Range<usize>, u64)| {
            Some((at, time.checked_add(*self.0.get(&track)?)?.to_be_bytes()))
        };
        decode_times(moof)?.into_iter().map(shifted).collect()
    }
}

/// The decode times in a whole `moof` box: of which track, where they stand, and what they are.
fn decode_times(moof: &[u8]) -> Option<Vec<(u32, Range<usize>, u64)>> {
    let content = find(moof, 0..moof.len(), b"moof").filter(|content| content.end == moof.len())?;
    let (mut times, mut end) = (Vec::new(), content.start);
    for (kind, body) in children(moof, content.clone()) {
        end = body.end;
        if &kind == b"traf" {
            times.push(decode_time(moof, body)?);
        }
    }
    // Behind a broken box there may be tracks whose times would stay as they are.
    (end == content.end && !times.is_empty()).then_some(times)
}

fn decode_time(moof: &[u8], fragment: Range<usize>) -> Option<(u32, Range<usize>, u64)> {
    let track = u32_at(moof, find(moof, fragment.clone(), b"tfhd")?, 4)?;
    let times = find(moof, fragment, b"tfdt")?;
    // Only with 64 bits there is room for times since the epoch.
    let at = times.start.checked_add(4).filter(|_| version(moof, &times) == Some(1))?;
    let at = at..at.checked_add(8).filter(|end| *end <= times.end)?;
    let time = u64::from_be_bytes(moof.get(at.clone())?.try_into().ok()?);
    Some((track, at, time))
}

/// The id and the timescale of a `trak`, from boxes of version 0.
fn timescale(bytes: &[u8], track: Range<usize>) -> Option<(u32, NonZeroU32)> {
    let is_known = |range: &Range<usize>| version(bytes, range) == Some(0);
    let header = find(bytes, track.clone(), b"tkhd").filter(is_known)?;
    let media = find(bytes, track, b"mdia")?;
    let media = find(bytes, media, b"mdhd").filter(is_known)?;
    Some((u32_at(bytes, header, 12)?, NonZeroU32::new(u32_at(bytes, media, 12)?)?))
}

/// The version of a full box (section 4.2.2), of which this is the content.
fn version(bytes: &[u8], content: &Range<usize>) -> Option<u8> {
    bytes.get(content.clone())?.first().copied()
}

/// The number so many bytes behind the beginning of `content`.
fn u32_at(bytes: &[u8], content: Range<usize>, at: usize) -> Option<u32> {
    let number = bytes.get(content)?.get(at..)?.first_chunk()?;
    Some(u32::from_be_bytes(*number))
}

/// Where the contents of the boxes directly inside `content` are, up to the first broken one.
fn children(bytes: &[u8], mut content: Range<usize>) -> impl Iterator<Item = ([u8; 4], Range<usize>)> {
    std::iter::from_fn(move || {
        let header = box_header(bytes.get(content.clone())?)?;
        let begins = content.start.checked_add(usize::try_from(header.header_bytes).ok()?)?;
        let ends = content.start.checked_add(usize::try_from(header.bytes).ok()?)?;
        let body = (ends <= content.end).then_some(begins..ends)?;
        content.start = ends;
        Some((header.kind, body))
    })
}

fn find(bytes: &[u8], content: Range<usize>, wanted: &[u8; 4]) -> Option<Range<usize>> {
    children(bytes, content).find(|(kind, _)| kind == wanted).map(|(_, body)| body)
}

#[cfg(test)]
mod tests;
