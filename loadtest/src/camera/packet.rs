//! Cuts frames into RTP packets, once; sending one again only patches its headers.
//!
//! A [`Unit`] is one access unit or audio frame as it goes over the wire: packets in RTSP's interleaved framing
//! (RFC 2326, 10.12), one after the other, with zeros where sequence number, timestamp and SSRC belong.
//! H.264 after RFC 6184 (packetization-mode 1: single NAL units and FU-A), H.265 after RFC 7798 (single NAL units
//! and FUs), AAC after RFC 3640 (AAC-hbr, one frame per packet).

use crate::nal::Standard;
use crate::sei::{self, FrameNumber};

/// Payload type of video; dynamic, named in the SDP.
pub const VIDEO_PAYLOAD_TYPE: u8 = 96;
/// Payload type of audio.
pub const AUDIO_PAYLOAD_TYPE: u8 = 97;
/// Payload type of G.711 µ-law (RFC 3551, table 4).
pub const PCMU_PAYLOAD_TYPE: u8 = 0;
/// Payload type of G.711 A-law.
pub const PCMA_PAYLOAD_TYPE: u8 = 8;
/// Payload type of G.722.
pub const G722_PAYLOAD_TYPE: u8 = 9;
/// Payload type of metadata; dynamic.
pub const METADATA_PAYLOAD_TYPE: u8 = 98;
/// The largest RTP payload in bytes that interleaved framing has a length for.
pub const LARGEST_PAYLOAD: usize = 0xffff - RTP_HEADER;
/// Largest RTP payload in bytes: what cameras send so that a packet fits an Ethernet frame even over UDP.
pub const MAX_PAYLOAD: usize = 1400;
/// Bytes of interleaved framing before each packet.
const FRAMING: usize = 4;
/// Bytes of an RTP header (RFC 3550, 5.1).
const RTP_HEADER: usize = 12;

/// What differs each time a unit is sent.
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    /// Sequence number of the first packet.
    pub sequence: u16,
    /// RTP timestamp.
    pub time: u32,
    /// Synchronisation source.
    pub ssrc: u32,
}

/// One access unit or audio frame, cut into packets.
#[derive(Debug, Clone, Default)]
pub struct Unit {
    bytes: Vec<u8>,
    /// Where each packet's framing starts.
    packets: Vec<usize>,
    /// Where the digits of the frame number stand.
    digits: Option<usize>,
}

impl Unit {
    /// Packets of the unit.
    pub fn packet_count(&self) -> u64 {
        self.packets.len() as u64
    }

    /// Bytes of RTP payload, as sender reports count them.
    pub fn payload_octets(&self) -> u64 {
        (self.bytes.len() - self.packets.len() * (FRAMING + RTP_HEADER)) as u64
    }

    /// Appends the packets to `out`, stamped, for interleaved channel 0, and the places of the channel bytes to
    /// `channels` so that the caller can set another.
    pub fn write(
        &self,
        out: &mut Vec<u8>,
        channels: &mut Vec<usize>,
        stamp: Stamp,
        number: Option<FrameNumber>,
    ) {
        let base = out.len();
        out.extend_from_slice(&self.bytes);
        let unit = &mut out[base..];
        if let (Some(at), Some(number)) = (self.digits, number) {
            unit[at..at + sei::DIGITS].copy_from_slice(&number.digits());
        }
        let mut sequence = stamp.sequence;
        for &at in &self.packets {
            channels.push(base + at + 1);
            let header = &mut unit[at + FRAMING..at + FRAMING + RTP_HEADER];
            header[2..4].copy_from_slice(&sequence.to_be_bytes());
            header[4..8].copy_from_slice(&stamp.time.to_be_bytes());
            header[8..12].copy_from_slice(&stamp.ssrc.to_be_bytes());
            sequence = sequence.wrapping_add(1);
        }
    }

    /// Appends a packet whose payload is `parts` joined. At most [`LARGEST_PAYLOAD`].
    fn push(&mut self, payload_type: u8, marker: bool, parts: &[&[u8]]) {
        let payload: usize = parts.iter().map(|part| part.len()).sum();
        let length =
            u16::try_from(RTP_HEADER + payload).expect("invariant: packets are cut to LARGEST_PAYLOAD");
        self.packets.push(self.bytes.len());
        self.bytes.extend_from_slice(&[b'$', 0]);
        self.bytes.extend_from_slice(&length.to_be_bytes());
        self.bytes.extend_from_slice(&[0x80, u8::from(marker) << 7 | payload_type]);
        self.bytes.extend_from_slice(&[0; RTP_HEADER - 2]);
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
    }
}

/// Cuts an access unit: first `parameter_sets` (given for keyframes: cameras repeat them in band), then the frame
/// number, then `nals`. The marker is on the last packet. `max_payload` is at most [`LARGEST_PAYLOAD`].
pub fn video_unit(
    standard: Standard,
    parameter_sets: &[Vec<u8>],
    nals: &[&[u8]],
    max_payload: usize,
) -> Unit {
    let mut unit = Unit::default();
    let push_nal = |unit: &mut Unit, nal: &[u8], last| push_nal(unit, standard, nal, last, max_payload);
    for set in parameter_sets {
        push_nal(&mut unit, set, false);
    }
    let number = sei::encode(standard, FrameNumber { camera: 0, frame: 0 });
    let at = unit.bytes.len() + FRAMING + RTP_HEADER + sei::digits_offset(standard);
    unit.digits = Some(at);
    push_nal(&mut unit, &number, nals.is_empty());
    for (index, nal) in nals.iter().enumerate() {
        push_nal(&mut unit, nal, index + 1 == nals.len());
    }
    unit
}

fn push_nal(unit: &mut Unit, standard: Standard, nal: &[u8], last: bool, max_payload: usize) {
    let Some((header, mut body)) = nal.split_at_checked(standard.header_len()) else { return };
    if nal.len() <= max_payload {
        unit.push(VIDEO_PAYLOAD_TYPE, last, &[nal]);
        return;
    }
    // A fragmentation unit keeps all of the header but the type, which moves into the FU header.
    let (indicator, kind): (&[u8], u8) = match standard {
        Standard::H264 => (&[header[0] & 0xe0 | 28], header[0] & 0x1f),
        Standard::H265 => (&[header[0] & 0x81 | 49 << 1, header[1]], header[0] >> 1 & 0x3f),
    };
    let room = max_payload - indicator.len() - 1;
    let mut start = 0x80;
    while !body.is_empty() {
        let (piece, rest) = body.split_at(room.min(body.len()));
        let end = u8::from(rest.is_empty()) << 6;
        unit.push(VIDEO_PAYLOAD_TYPE, last && rest.is_empty(), &[indicator, &[start | end | kind], piece]);
        (start, body) = (0, rest);
    }
}

/// Wraps an AAC frame: one 16-bit AU header (13 bits of size, 3 of index). Frames that do not fit a packet (never
/// at camera bitrates) are refused as `None`.
pub fn audio_unit(frame: &[u8]) -> Option<Unit> {
    if frame.len() > MAX_PAYLOAD {
        return None;
    }
    let size = u16::try_from(frame.len()).ok()? << 3;
    let mut unit = Unit::default();
    unit.push(AUDIO_PAYLOAD_TYPE, true, &[&16_u16.to_be_bytes(), &size.to_be_bytes(), frame]);
    Some(unit)
}

/// Wraps octets of sound that need no header of their own, at most [`LARGEST_PAYLOAD`].
pub fn sound_unit(payload_type: u8, octets: &[u8]) -> Unit {
    let mut unit = Unit::default();
    unit.push(payload_type, false, &[octets]);
    unit
}

/// Cuts a document, or a part of one, into packets; the last has the marker if it `ends` there. `digits`: where in it, and in its first
/// packet, the number stands. `max_payload` is at most [`LARGEST_PAYLOAD`].
pub fn document_unit(document: &[u8], max_payload: usize, ends: bool, digits: Option<usize>) -> Unit {
    let mut unit = Unit { digits: digits.map(|at| FRAMING + RTP_HEADER + at), ..Unit::default() };
    let mut rest = document.chunks(max_payload).peekable();
    while let Some(part) = rest.next() {
        unit.push(METADATA_PAYLOAD_TYPE, ends && rest.peek().is_none(), &[part]);
    }
    unit
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug)]
    struct Received {
        channel: u8,
        marker: bool,
        payload_type: u8,
        stamp: (u16, u32, u32),
        payload: Vec<u8>,
    }

    /// Takes interleaved packets apart again.
    fn packets(mut wire: &[u8]) -> Vec<Received> {
        let mut found = Vec::new();
        while let [b'$', channel, high, low, rest @ ..] = wire {
            let (packet, tail) = rest.split_at(usize::from(u16::from_be_bytes([*high, *low])));
            assert_eq!(packet[0], 0x80);
            let word = |at: usize| u32::from_be_bytes(packet[at..at + 4].try_into().unwrap());
            let sequence = u16::from_be_bytes([packet[2], packet[3]]);
            let kind = packet[1];
            found.push(Received {
                channel: *channel,
                marker: kind > 127,
                payload_type: kind & 127,
                stamp: (sequence, word(4), word(8)),
                payload: packet[12..].to_vec(),
            });
            wire = tail;
        }
        assert!(wire.is_empty());
        found
    }

    /// Puts NAL units together again, as a receiver does.
    fn reassemble(standard: Standard, payloads: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut nals: Vec<Vec<u8>> = Vec::new();
        for payload in payloads {
            let (fragment, head) = match standard {
                Standard::H264 => (payload[0] & 0x1f == 28, 1),
                Standard::H265 => (payload[0] >> 1 & 0x3f == 49, 2),
            };
            if !fragment {
                nals.push(payload.clone());
                continue;
            }
            let fu = payload[head];
            if fu & 0x80 != 0 {
                nals.push(match standard {
                    Standard::H264 => vec![payload[0] & 0xe0 | fu & 0x1f],
                    Standard::H265 => vec![payload[0] & 0x81 | (fu & 0x3f) << 1, payload[1]],
                });
            }
            nals.last_mut().unwrap().extend_from_slice(&payload[head + 1..]);
        }
        nals
    }

    /// A NAL unit of a type that is not itself a fragment.
    fn any_nal(standard: Standard) -> impl Strategy<Value = Vec<u8>> {
        (1_u8..=5, proptest::collection::vec(any::<u8>(), 0..5000)).prop_map(move |(kind, body)| {
            let mut nal = match standard {
                Standard::H264 => vec![0x60 | kind],
                Standard::H265 => vec![kind << 1, 1],
            };
            nal.extend(body);
            nal
        })
    }

    fn round_trip(standard: Standard, nals: &[Vec<u8>]) {
        // Given an access unit cut into packets and stamped,
        let sets = vec![vec![0x67, 1, 2, 3], vec![0x68, 4]];
        let slices: Vec<&[u8]> = nals.iter().map(Vec::as_slice).collect();
        let unit = video_unit(standard, &sets, &slices, MAX_PAYLOAD);
        let number = FrameNumber { camera: 3, frame: 77 };
        let (mut wire, mut channels) = (b"before".to_vec(), Vec::new());
        unit.write(&mut wire, &mut channels, Stamp { sequence: 65_534, time: 9, ssrc: 4 }, Some(number));
        for at in channels {
            wire[at] = 6;
        }
        // when it is received,
        let received = packets(&wire[6..]);
        // then the packets are numbered on, only the last is marked, and the NAL units are the ones sent.
        assert_eq!(received.len() as u64, unit.packet_count());
        assert_eq!(
            received.iter().map(|packet| packet.payload.len() as u64).sum::<u64>(),
            unit.payload_octets()
        );
        for (index, packet) in received.iter().enumerate() {
            let sequence = 65_534_u16.wrapping_add(u16::try_from(index).unwrap());
            let last = index + 1 == received.len();
            assert_eq!((packet.channel, packet.marker, packet.payload_type), (6, last, 96));
            assert_eq!(packet.stamp, (sequence, 9, 4));
            assert!(packet.payload.len() <= MAX_PAYLOAD);
        }
        let payloads: Vec<Vec<u8>> = received.into_iter().map(|packet| packet.payload).collect();
        let got = reassemble(standard, &payloads);
        assert_eq!(got[..2], sets);
        assert_eq!(sei::decode(standard, &got[2]), Some(number));
        assert_eq!(&got[3..], nals);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn h264_is_received_as_it_was(nals in proptest::collection::vec(any_nal(Standard::H264), 1..4)) {
            round_trip(Standard::H264, &nals);
        }

        #[test]
        fn h265_is_received_as_it_was(nals in proptest::collection::vec(any_nal(Standard::H265), 1..4)) {
            round_trip(Standard::H265, &nals);
        }
    }

    #[test]
    fn aac_has_one_header_per_frame() {
        let unit = audio_unit(&[9; 300]).unwrap();
        let (mut wire, mut channels) = (Vec::new(), Vec::new());
        unit.write(&mut wire, &mut channels, Stamp { sequence: 1, time: 2, ssrc: 3 }, None);
        let [packet] = packets(&wire).try_into().unwrap();
        assert_eq!((packet.marker, packet.payload_type), (true, 97));
        assert_eq!(packet.payload[..4], [0, 16, 0x09, 0x60], "16 bits of header: 300 << 3");
        assert_eq!(packet.payload[4..], [9; 300]);
        assert!(audio_unit(&[0; MAX_PAYLOAD + 1]).is_none());
    }
}
