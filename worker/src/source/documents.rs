//! A camera's metadata: documents put together from the payloads of packets, and held within bounds.
//!
//! ONVIF Streaming Specification, section 5.2.1.1: a document is the payloads of successive packets with one timestamp, and the last
//! of them has the marker. What is in a document is nobody's business here: it is kept as it came. Pure. Invariants: at most
//! [`MAX_DOCUMENT`] bytes are held; a document is given whole or not at all; what is given in a second is bounded, whatever comes.

use bytes::Bytes;

/// Bytes of the largest document that is kept: room for a scene with hundreds of objects, or a picture of a face within it.
pub const MAX_DOCUMENT: usize = 256 << 10;
/// What is kept of a second: documents, and their bytes.
pub const MAX_A_SECOND: u32 = 100;
/// See [`MAX_A_SECOND`].
pub const MAX_BYTES_A_SECOND: usize = 1 << 20;

/// What a packet is to its document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part<'a> {
    /// What it carries.
    pub payload: &'a [u8],
    /// Its timestamp, without wrapping.
    pub time: i64,
    /// Nothing more of the document follows.
    pub last: bool,
    /// Packets before it are missing.
    pub after_loss: bool,
}

/// A document, and its timestamp.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whole {
    /// As it came.
    pub data: Bytes,
    /// Of its packets.
    pub time: i64,
}

/// Why a document is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Dropped {
    /// It has more than [`MAX_DOCUMENT`] bytes, or no end.
    #[error("a document of more than {MAX_DOCUMENT} bytes")]
    TooLarge,
    /// Packets of it are missing.
    #[error("a document that did not come whole")]
    Torn,
    /// See [`MAX_A_SECOND`].
    #[error("more than {MAX_A_SECOND} documents or {MAX_BYTES_A_SECOND} bytes in a second")]
    TooMany,
}

/// Puts documents together.
#[derive(Debug, Default)]
pub struct Documents {
    held: Vec<u8>,
    /// Of what is held, or skipped.
    time: Option<i64>,
    /// The rest of the open document is not kept.
    skips: bool,
    second: Second,
}

/// What was given in a second.
#[derive(Debug, Default)]
struct Second {
    begun_us: Option<i64>,
    documents: u32,
    bytes: usize,
}

impl Documents {
    /// Takes the next packet, at `now_us` by a clock that never steps. Gives the documents that are whole by it: the one before, if it
    /// had no marker, and its own. Says why it begins to drop one.
    pub fn take(&mut self, part: Part<'_>, now_us: i64) -> (Vec<Whole>, Option<Dropped>) {
        let (mut whole, mut dropped) = (Vec::new(), None);
        let mut note = |why: Result<Option<Whole>, Dropped>| match why {
            Ok(document) => whole.extend(document),
            Err(why) => dropped = dropped.or(Some(why)),
        };
        if part.after_loss {
            // Nobody knows whether this is the middle of one.
            self.held = Vec::new();
            (self.skips, self.time) = (true, Some(part.time));
            note(Err(Dropped::Torn));
        } else if self.time.is_some_and(|time| time != part.time) {
            note(self.finish(now_us));
        }
        self.time = Some(part.time);
        if !self.skips && self.held.len() + part.payload.len() > MAX_DOCUMENT {
            self.held = Vec::new();
            self.skips = true;
            note(Err(Dropped::TooLarge));
        }
        if !self.skips {
            self.held.extend_from_slice(part.payload);
        }
        if part.last {
            note(self.finish(now_us));
        }
        (whole, dropped)
    }

    /// The open document ends.
    fn finish(&mut self, now_us: i64) -> Result<Option<Whole>, Dropped> {
        let (held, time) = (std::mem::take(&mut self.held), self.time.take());
        if std::mem::take(&mut self.skips) || held.is_empty() {
            return Ok(None);
        }
        if !self.second.has_room(held.len(), now_us) {
            return Err(Dropped::TooMany);
        }
        Ok(time.map(|time| Whole { data: held.into(), time }))
    }
}

impl Second {
    fn has_room(&mut self, bytes: usize, now_us: i64) -> bool {
        if self.begun_us.is_none_or(|begun_us| now_us.saturating_sub(begun_us) >= 1_000_000) {
            *self = Self { begun_us: Some(now_us), ..Self::default() };
        }
        let fits = self.documents < MAX_A_SECOND && self.bytes + bytes <= MAX_BYTES_A_SECOND;
        if fits {
            self.documents += 1;
            self.bytes += bytes;
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Takes packets of one moment; what is whole, and what is said to be dropped.
    fn take(parts: &[Part<'_>]) -> (Vec<(Vec<u8>, i64)>, Vec<Dropped>) {
        let (mut documents, mut whole, mut dropped) = (Documents::default(), Vec::new(), Vec::new());
        for part in parts {
            let (given, why) = documents.take(*part, 0);
            whole.extend(given.into_iter().map(|Whole { data, time }| (data.to_vec(), time)));
            dropped.extend(why);
        }
        (whole, dropped)
    }

    fn part(payload: &[u8], time: i64, last: bool) -> Part<'_> {
        Part { payload, time, last, after_loss: false }
    }

    proptest! {
        #[test]
        fn however_it_is_cut_a_document_comes_as_it_was(
            documents in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 1..200), any::<bool>()), 0..20),
            size in 1..60_usize,
        ) {
            let mut parts = Vec::new();
            // Each has a time of its own, so that it needs no marker, but for the last one.
            for (time, (document, marked)) in (0..).zip(&documents) {
                let cut: Vec<&[u8]> = document.chunks(size).collect();
                let marks = |place| place + 1 == cut.len() && (*marked || time + 1 == documents.len());
                let cut = cut.iter().enumerate();
                parts.extend(cut.map(|(place, payload)| part(payload, time as i64, marks(place))));
            }
            let expected: Vec<_> = (0..).zip(&documents).map(|(time, (document, _))| (document.clone(), time)).collect();
            prop_assert_eq!(take(&parts), (expected, vec![]));
        }

        #[test]
        fn what_is_held_and_given_is_bounded(
            parts in proptest::collection::vec((0..70_000_usize, 0..3_i64, any::<bool>(), 0..20_u8, 0..400_000_i64), 0..200),
        ) {
            let zeros = vec![0; 70_000];
            let (mut documents, mut now_us, mut given) = (Documents::default(), 0, Vec::new());
            for (bytes, time, last, loss, passed_us) in parts {
                now_us += passed_us;
                let part = Part { payload: &zeros[..bytes], time, last, after_loss: loss == 0 };
                let (whole, _) = documents.take(part, now_us);
                prop_assert!(documents.held.len() <= MAX_DOCUMENT);
                given.extend(whole.into_iter().map(|document| (now_us, document.data.len())));
            }
            // Two seconds of the clock may both be full within any one second.
            for (at, _) in &given {
                let within = given.iter().filter(|(other, _)| (*at..*at + 1_000_000).contains(other));
                prop_assert!(within.map(|(_, bytes)| bytes).sum::<usize>() <= 2 * MAX_BYTES_A_SECOND);
            }
        }
    }

    #[test]
    fn one_without_end_is_dropped_once_and_the_next_one_comes() {
        let (large, time) = (vec![0; 60_000], 7);
        let mut parts = vec![part(&large, time, false); 50];
        parts.extend([part(b"end", time, true), part(b"<next/>", time, true)]);
        assert_eq!(take(&parts), (vec![(b"<next/>".to_vec(), time)], vec![Dropped::TooLarge]));
    }

    #[test]
    fn of_what_is_missing_no_half_is_kept() {
        let parts = [
            part(b"<a>", 1, false),
            Part { after_loss: true, ..part(b"</b>", 2, false) },
            part(b"more", 2, true),
            part(b"<c/>", 3, true),
        ];
        assert_eq!(take(&parts), (vec![(b"<c/>".to_vec(), 3)], vec![Dropped::Torn]));
    }

    #[test]
    fn too_many_in_a_second_are_told_and_the_next_second_is_new() {
        let mut documents = Documents::default();
        let mut kept = |now_us| documents.take(part(b"<a/>", now_us, true), now_us).0.len();
        let of_a_second: usize = (0..2 * i64::from(MAX_A_SECOND)).map(&mut kept).sum();
        assert_eq!(of_a_second, MAX_A_SECOND as usize);
        assert_eq!(kept(1_000_000), 1);
    }
}
