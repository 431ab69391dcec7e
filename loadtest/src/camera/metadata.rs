//! Metadata as cameras with analytics send it: XML documents beside the video (ONVIF Streaming Specification, section 5.2.1.1), and
//! what a camera may send in their place. Pure.

use crate::camera::packet::{self, LARGEST_PAYLOAD, MAX_PAYLOAD, Unit};
use crate::sei::FrameNumber;

/// Ticks per second of RTP timestamps.
pub const RATE: u32 = 90_000;
/// Bytes of a document that is far too large.
const HUGE: usize = 10 << 20;
/// Units of a document that never ends, before another begins without anybody knowing.
const ENDLESS: usize = 50;
/// Every so many documents, one is long.
const LONG_EVERY: u64 = 5;
/// Bytes that are no document.
const GARBAGE: usize = 2_000;

/// What a camera sends as its metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metadata {
    /// A document every 200 ms, see [`document`].
    Documents,
    /// Documents of bytes that are neither XML nor text, see [`garbage`].
    Garbage,
    /// Documents of 10 MiB.
    Huge,
    /// Packets without a marker, of one timestamp for 10 s.
    Endless,
}

/// A packet, or some of them, and for how many ticks nothing follows.
pub(super) struct Piece {
    pub(super) unit: Unit,
    pub(super) ticks: u32,
    /// How many ticks before it is sent its document began.
    pub(super) since: i64,
}

impl Metadata {
    /// What is sent again and again.
    pub(super) fn pieces(self) -> Vec<Piece> {
        match self {
            Self::Documents => (0..2 * LONG_EVERY).map(|n| whole(&document(template(n)))).collect(),
            Self::Garbage => (0..10).map(|n| whole(&garbage(n))).collect(),
            // 20 Mbit/s: it lasts 4 s.
            Self::Huge => parts(HUGE.div_ceil(LARGEST_PAYLOAD), 2_250, true),
            Self::Endless => parts(ENDLESS, RATE / 5, false),
        }
    }
}

/// A document in packets as they fit an Ethernet frame.
fn whole(document: &[u8]) -> Piece {
    let digits = document.windows(SOURCE.len()).position(|window| window == SOURCE.as_bytes());
    let digits = digits.map(|at| at + SOURCE.len());
    Piece { unit: packet::document_unit(document, MAX_PAYLOAD, true, digits), ticks: RATE / 5, since: 0 }
}

/// So many large packets of one document.
fn parts(count: usize, ticks: u32, ends: bool) -> Vec<Piece> {
    let payload = vec![b'x'; LARGEST_PAYLOAD];
    let part = |place| Piece {
        unit: packet::document_unit(&payload, LARGEST_PAYLOAD, ends && place + 1 == count, None),
        ticks,
        since: i64::try_from(place).unwrap_or(0) * i64::from(ticks),
    };
    (0..count).map(part).collect()
}

/// What stands before the number of a document.
const SOURCE: &str = " Source=\"";

/// A number with which a document is as long as that with number `n`.
fn template(n: u64) -> FrameNumber {
    FrameNumber { camera: 0, frame: n }
}

/// The document with this number, which stands in it as in a picture. Every fifth one is of several packets.
pub fn document(number: FrameNumber) -> Vec<u8> {
    let digits = number.digits();
    let digits = String::from_utf8_lossy(&digits);
    let objects = if number.frame % LONG_EVERY == LONG_EVERY - 1 { 20 } else { 1 };
    let object = |id| {
        format!(
            "<tt:Object ObjectId=\"{id}\"><tt:Appearance><tt:Shape><tt:BoundingBox left=\"-0.5\" top=\"0.5\" right=\"0.1\" \
             bottom=\"-0.1\"/><tt:CenterOfGravity x=\"-0.2\" y=\"0.2\"/></tt:Shape></tt:Appearance></tt:Object>"
        )
    };
    let objects: String = (0..objects).map(object).collect();
    let text = format!(
        "<tt:MetadataStream xmlns:tt=\"http://www.onvif.org/ver10/schema\"><tt:VideoAnalytics>\
         <tt:Frame UtcTime=\"2026-11-30T00:00:00Z\"{SOURCE}{digits}\">{objects}</tt:Frame></tt:VideoAnalytics></tt:MetadataStream>"
    );
    text.into_bytes()
}

/// Bytes that are nothing.
pub fn garbage(n: u64) -> Vec<u8> {
    // A generator of numbers after D. H. Lehmer.
    let mut state = n + 1;
    let next = || {
        state = state * 48_271 % 0x7fff_ffff;
        state.to_be_bytes()[7] | 0x80
    };
    std::iter::repeat_with(next).take(GARBAGE).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_numbered_and_of_one_or_more_packets() {
        let pieces = Metadata::Documents.pieces();
        let packets: Vec<u64> = pieces.iter().map(|piece| piece.unit.packet_count()).collect();
        assert!(packets[0] == 1 && packets[4] > 1 && packets[9] > 1, "{packets:?}");
        let text = String::from_utf8(document(FrameNumber { camera: 3, frame: 77 })).unwrap();
        assert!(text.contains("Source=\"00000003000000000000004d\""), "{text}");
        assert!(String::from_utf8(garbage(0)).is_err());
    }

    #[test]
    fn what_is_too_large_is() {
        let octets = |pieces: &[Piece]| pieces.iter().map(|piece| piece.unit.payload_octets()).sum::<u64>();
        assert!(octets(&Metadata::Huge.pieces()) >= HUGE as u64);
        assert!(octets(&Metadata::Endless.pieces()) > 3_000_000);
    }
}
