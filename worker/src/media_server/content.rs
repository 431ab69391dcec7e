//! What an address gives, byte by byte: a part of a segment's file, with its decode times shifted if it is the media.
//!
//! Nothing changes its size, so the length is known beforehand, and a range of the part is a range of the file. Of a range the
//! boxes before it are stepped over and not read, and so a range is exactly that slice of the whole. Invariant: what is in
//! memory is one chunk, and one `moof` at most.

use std::io::{self, ErrorKind};
use std::ops::Range;

use bytes::Bytes;
use longwatch_events::media::{Part, Ticket};
use longwatch_events::time::Timestamp;

use super::stored::{CHUNK, Source};
use crate::fmp4::retime::{HEADER_ROOM, Header, Shifts};
use crate::fmp4::scan::{self, box_header};

/// No `moof` is larger, in bytes: that is room for 8,000 pictures in one fragment.
const MOOF_MAX: u64 = 128 << 10;

/// A part of a segment.
pub(super) struct Content {
    window: Window,
    /// Where it is in the file.
    range: Range<u64>,
    /// Of the media only.
    shifts: Option<Shifts>,
}

impl Content {
    /// What `ticket` gives of the segment of this size.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidData`] if it is no segment of ours; anything else if it cannot be read.
    pub(super) async fn open(source: Source, size: u64, ticket: &Ticket) -> io::Result<Self> {
        let mut window = Window { source, size, at: 0, bytes: Bytes::new() };
        if ticket.part == Part::File {
            return Ok(Self { window, range: 0..size, shifts: None });
        }
        let room = usize::try_from(size).unwrap_or(usize::MAX).min(HEADER_ROOM);
        let header = Header::read(&window.exactly(0, room, 0).await?).ok_or_else(not_ours)?;
        if ticket.part == Part::Init {
            return Ok(Self { window, range: 0..header.bytes, shifts: None });
        }
        let shifts = header.shifts(ticket.start).ok_or_else(not_ours)?;
        let end = match ticket.until {
            Some(until) => window.cut(&header, ticket.start, until).await?,
            None => size,
        };
        Ok(Self { window, range: header.bytes..end, shifts: Some(shifts) })
    }

    /// How many bytes it has.
    pub(super) const fn len(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// These of its bytes.
    pub(super) fn slice(self, slice: Range<u64>) -> Pieces {
        let Self { window, range, shifts } = self;
        let (at, end) = (range.start + slice.start, (range.start + slice.end).min(range.end));
        let current = TopBox { kind: [0; 4], range: range.start..range.start };
        Pieces { window, at, end, shifts, current, moof: None }
    }
}

/// Bytes of a part that are left to be sent.
pub(super) struct Pieces {
    window: Window,
    /// Where in the file the next one is.
    at: u64,
    end: u64,
    shifts: Option<Shifts>,
    /// The box up to whose end the file was looked through.
    current: TopBox,
    /// That box, shifted.
    moof: Option<Bytes>,
}

impl Pieces {
    /// The next bytes; `None`: there are no more.
    ///
    /// # Errors
    ///
    /// If they cannot be read, or are not of a segment of ours.
    pub(super) async fn next(&mut self) -> io::Result<Option<Bytes>> {
        if self.at >= self.end {
            return Ok(None);
        }
        let until = if self.shifts.is_some() { self.box_at().await?.min(self.end) } else { self.end };
        let piece = match &self.moof {
            Some(moof) => {
                let within = |at: u64| usize::try_from(at - self.current.range.start).unwrap_or(usize::MAX);
                moof.slice(within(self.at)..within(until))
            }
            None => self.window.some(self.at, until - self.at).await?,
        };
        self.at += piece.len() as u64;
        Ok(Some(piece))
    }

    /// Goes on to the box in which the next byte is; returns its end.
    async fn box_at(&mut self) -> io::Result<u64> {
        while self.current.range.end <= self.at {
            let begins = self.current.range.end;
            // Most of what is before a range is not needed.
            let ahead = if begins < self.at { 0 } else { CHUNK };
            self.current = self.window.top_box(begins, ahead).await?;
            self.moof = None;
        }
        if let (Some(shifts), None) = (&self.shifts, &self.moof)
            && &self.current.kind == b"moof"
        {
            let mut moof = Vec::from(self.window.moof(&self.current, CHUNK).await?);
            shifts.apply(&mut moof).ok_or_else(not_ours)?;
            self.moof = Some(moof.into());
        }
        Ok(self.current.range.end)
    }
}

/// A box that is in no other.
struct TopBox {
    kind: [u8; 4],
    /// Where it is in the file.
    range: Range<u64>,
}

/// What was read last of a segment.
struct Window {
    source: Source,
    size: u64,
    /// Where in the file its first byte is from.
    at: u64,
    bytes: Bytes,
}

impl Window {
    /// What is in it from there on.
    fn held(&self, at: u64) -> Bytes {
        let skipped = at.checked_sub(self.at).and_then(|skipped| usize::try_from(skipped).ok());
        skipped
            .filter(|skipped| *skipped <= self.bytes.len())
            .map_or_else(Bytes::new, |n| self.bytes.slice(n..))
    }

    /// Bytes from there on, at least one and at most so many; there are some.
    async fn some(&mut self, at: u64, most: u64) -> io::Result<Bytes> {
        if self.held(at).is_empty() {
            self.exactly(at, 1, CHUNK).await?;
        }
        let held = self.held(at);
        let length = usize::try_from(most).unwrap_or(usize::MAX).min(held.len());
        Ok(held.slice(..length))
    }

    /// So many bytes from there on; if they are not in memory, at least `ahead` are read at once.
    async fn exactly(&mut self, at: u64, length: usize, ahead: usize) -> io::Result<Bytes> {
        let held = self.held(at);
        let Some(least) = length.checked_sub(held.len()).filter(|least| *least > 0) else {
            return Ok(held.slice(..length));
        };
        let from = at + held.len() as u64;
        let left = usize::try_from(self.size.saturating_sub(from)).unwrap_or(usize::MAX);
        if least > left {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let fetched = self.source.fetch(from, least, least.max(ahead).min(left)).await?;
        self.bytes = if held.is_empty() { fetched } else { [held, fetched].concat().into() };
        self.at = at;
        Ok(self.bytes.slice(..length))
    }

    /// The box that begins there. One that says that it ends behind the file ends with it.
    async fn top_box(&mut self, at: u64, ahead: usize) -> io::Result<TopBox> {
        let left = usize::try_from(self.size.saturating_sub(at)).unwrap_or(usize::MAX);
        let header = self.exactly(at, left.min(scan::HEADER_BYTES), ahead).await?;
        let header = box_header(&header).ok_or_else(not_ours)?;
        let end = at.checked_add(header.bytes).ok_or_else(not_ours)?;
        Ok(TopBox { kind: header.kind, range: at..end.min(self.size) })
    }

    /// A whole `moof` box.
    async fn moof(&mut self, moof: &TopBox, ahead: usize) -> io::Result<Bytes> {
        let bytes = moof.range.end - moof.range.start;
        let length = usize::try_from(bytes).ok().filter(|_| bytes <= MOOF_MAX).ok_or_else(not_ours)?;
        self.exactly(moof.range.start, length, ahead).await
    }

    /// Where the first fragment begins that does not begin before `until`, or the end.
    async fn cut(&mut self, header: &Header, start: Timestamp, until: Timestamp) -> io::Result<u64> {
        let mut at = header.bytes;
        while at < self.size {
            let next = self.top_box(at, 0).await?;
            if &next.kind == b"moof" {
                let moof = self.moof(&next, 0).await?;
                if header.begin_of(&moof, start).ok_or_else(not_ours)? >= until {
                    break;
                }
            }
            at = next.range.end;
        }
        Ok(at)
    }
}

fn not_ours() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "it is not as this version writes segments")
}
