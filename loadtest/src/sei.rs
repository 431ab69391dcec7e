//! The frame number that every simulated camera puts into every access unit, and how to read it back.
//!
//! It travels as a `user_data_unregistered` SEI message (payload type 5; Rec. ITU-T H.264 D.1.7, H.265 D.2.7) in a
//! NAL unit of its own before the slices: a fixed UUID, then the camera's number as 8 and the frame's number as 16
//! hexadecimal digits in ASCII. Neither the UUID nor digits hold a zero byte, so the written NAL needs no emulation
//! prevention and has a fixed length, which lets the simulator patch the digits in place.
//!
//! Reading undoes emulation prevention and accepts any bytes: what is not such a message is `None`, never a panic.

use crate::nal::{self, Standard};

/// Names our message among all user data (RFC 9562 layout, version 4; no byte is below 0x04).
pub const UUID: [u8; 16] = *b"longwaDc\xa8frame#!";

const CAMERA_DIGITS: usize = 8;
const FRAME_DIGITS: usize = 16;
/// Bytes of all digits in the message.
pub const DIGITS: usize = CAMERA_DIGITS + FRAME_DIGITS;
const USER_DATA_UNREGISTERED: usize = 5;

/// Which frame of which camera this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FrameNumber {
    /// The camera's number, unique within one simulator.
    pub camera: u32,
    /// Counts the camera's frames in decode order from 0 at the start of the simulator.
    pub frame: u64,
}

impl FrameNumber {
    /// The number as it stands in the message.
    pub fn digits(self) -> [u8; DIGITS] {
        let mut digits = [0; DIGITS];
        let (camera, frame) = digits.split_at_mut(CAMERA_DIGITS);
        hex::encode_to_slice(self.camera.to_be_bytes(), camera).expect("invariant: 8 digits for 4 bytes");
        hex::encode_to_slice(self.frame.to_be_bytes(), frame).expect("invariant: 16 digits for 8 bytes");
        digits
    }

    fn from_digits(digits: &[u8]) -> Option<Self> {
        let camera = read_hex(digits.get(..CAMERA_DIGITS)?)?;
        let frame = read_hex(digits.get(CAMERA_DIGITS..DIGITS)?)?;
        Some(Self { camera: u32::try_from(camera).ok()?, frame })
    }
}

fn read_hex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0_u64, |value, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        Some(value << 4 | u64::from(digit))
    })
}

/// The NAL unit (without start code or length) that carries `number`. Its digits stand at [`digits_offset`].
pub fn encode(standard: Standard, number: FrameNumber) -> Vec<u8> {
    let mut nal = standard.sei_header().to_vec();
    nal.push(5);
    nal.push(u8::try_from(UUID.len() + DIGITS).expect("invariant: 40 bytes fit"));
    nal.extend_from_slice(&UUID);
    nal.extend_from_slice(&number.digits());
    nal.push(0x80);
    nal
}

/// Where the digits start in the NAL unit that [`encode`] writes.
pub fn digits_offset(standard: Standard) -> usize {
    standard.sei_header().len() + 2 + UUID.len()
}

/// The frame number in `nal`, if it is an SEI NAL unit that holds one.
pub fn decode(standard: Standard, nal: &[u8]) -> Option<FrameNumber> {
    if !standard.is_sei(nal) {
        return None;
    }
    let payload = nal::without_emulation_prevention(nal.get(standard.sei_header().len()..)?);
    let mut rest = payload.as_slice();
    // At least two bytes make a message; fewer are the trailing bits.
    while rest.len() > 2 {
        let kind = take_size(&mut rest)?;
        let size = take_size(&mut rest)?;
        let message = rest.get(..size)?;
        rest = &rest[size..];
        if kind == USER_DATA_UNREGISTERED && message.starts_with(&UUID) {
            return FrameNumber::from_digits(&message[UUID.len()..]);
        }
    }
    None
}

/// Reads the `ff_byte* last_byte` coding of types and sizes (H.264 7.3.2.3.1).
fn take_size(rest: &mut &[u8]) -> Option<usize> {
    let mut size = 0;
    loop {
        let (&byte, tail) = rest.split_first()?;
        *rest = tail;
        size += usize::from(byte);
        if byte != 0xff {
            return Some(size);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOTH: [Standard; 2] = [Standard::H264, Standard::H265];

    proptest! {
        #[test]
        fn a_number_reads_back_as_written(camera: u32, frame: u64) {
            let number = FrameNumber { camera, frame };
            for standard in BOTH {
                let nal = encode(standard, number);
                prop_assert_eq!(decode(standard, &nal), Some(number));
                prop_assert_eq!(nal::without_emulation_prevention(&nal), nal.clone(), "needs no escaping");
                let at = digits_offset(standard);
                prop_assert_eq!(&nal[at..at + DIGITS], &number.digits());
            }
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            for standard in BOTH {
                let mut nal = standard.sei_header().to_vec();
                nal.extend_from_slice(&bytes);
                let _ = decode(standard, &nal);
                let _ = decode(standard, &bytes);
            }
        }
    }

    #[test]
    fn a_number_is_found_behind_other_messages_with_escaped_bytes() {
        // Given an SEI with a foreign message of zeros (escaped as 00 00 03) before ours,
        let ours = encode(Standard::H264, FrameNumber { camera: 7, frame: 0xfeed });
        let mut nal = vec![6, 1, 6, 0, 0, 3, 0, 0, 3, 0, 0];
        nal.extend_from_slice(&ours[1..]);
        // when read, then it is found.
        assert_eq!(decode(Standard::H264, &nal), Some(FrameNumber { camera: 7, frame: 0xfeed }));
    }

    #[test]
    fn other_nal_units_and_other_uuids_hold_no_number() {
        let mut nal = encode(Standard::H264, FrameNumber { camera: 1, frame: 2 });
        nal[0] = 5;
        assert_eq!(decode(Standard::H264, &nal), None);
        nal[0] = 6;
        nal[3] ^= 1;
        assert_eq!(decode(Standard::H264, &nal), None);
    }
}
