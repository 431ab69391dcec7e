//! The few facts about NAL units that numbering, packetising and checking need. No parsing of what is inside them.

/// Which video standard a NAL unit belongs to; the headers differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standard {
    /// Rec. ITU-T H.264: one byte of header.
    H264,
    /// Rec. ITU-T H.265: two bytes of header.
    H265,
}

impl Standard {
    /// Bytes of a NAL unit's header.
    pub fn header_len(self) -> usize {
        match self {
            Self::H264 => 1,
            Self::H265 => 2,
        }
    }

    /// `nal_unit_type`; `None` for an empty NAL unit.
    pub fn nal_type(self, nal: &[u8]) -> Option<u8> {
        let first = *nal.first()?;
        Some(match self {
            Self::H264 => first & 0x1f,
            Self::H265 => first >> 1 & 0x3f,
        })
    }

    /// Whether the NAL unit is a slice of a picture that decoding can start at: IDR in H.264, any IRAP in H.265.
    pub fn is_keyframe_slice(self, nal: &[u8]) -> bool {
        self.nal_type(nal).is_some_and(|kind| match self {
            Self::H264 => kind == 5,
            Self::H265 => (16..=21).contains(&kind),
        })
    }

    /// Whether the NAL unit is an SEI that comes before the slices.
    pub fn is_sei(self, nal: &[u8]) -> bool {
        self.nal_type(nal).is_some_and(|kind| match self {
            Self::H264 => kind == 6,
            Self::H265 => kind == 39,
        })
    }

    /// The header of an SEI NAL unit (`nal_ref_idc` 0; layer 0, temporal id 0).
    pub fn sei_header(self) -> &'static [u8] {
        match self {
            Self::H264 => &[6],
            Self::H265 => &[39 << 1, 1],
        }
    }
}

/// Splits a sample of an MP4 into its NAL units, each preceded by its length in `length_size` bytes (1 to 4;
/// ISO/IEC 14496-15). `Err` if the lengths do not add up to the sample.
pub fn split(sample: &[u8], length_size: usize) -> Result<Vec<&[u8]>, Malformed> {
    let mut nals = Vec::new();
    let mut rest = sample;
    while !rest.is_empty() {
        let (length, tail) = rest.split_at_checked(length_size).ok_or(Malformed)?;
        let length = length.iter().fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte));
        let (nal, tail) = tail.split_at_checked(length).ok_or(Malformed)?;
        nals.push(nal);
        rest = tail;
    }
    Ok(nals)
}

/// A sample whose NAL unit lengths do not add up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the lengths of the NAL units do not add up to the sample")]
pub struct Malformed;

/// Removes the `03` of each `00 00 03` (H.264 7.3.1).
pub fn without_emulation_prevention(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut zeros = 0;
    for &byte in bytes {
        if zeros >= 2 && byte == 3 {
            zeros = 0;
            continue;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        out.push(byte);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn joined_units_split_again(units: Vec<Vec<u8>>) {
            let mut sample = Vec::new();
            for unit in &units {
                sample.extend_from_slice(&u32::try_from(unit.len()).unwrap().to_be_bytes());
                sample.extend_from_slice(unit);
            }
            prop_assert_eq!(split(&sample, 4).unwrap(), units);
        }

        #[test]
        fn any_bytes_are_split_without_panic(bytes: Vec<u8>, length_size in 1_usize..=4) {
            let _ = split(&bytes, length_size);
        }
    }

    #[test]
    fn escaped_zeros_are_restored() {
        assert_eq!(without_emulation_prevention(&[0, 0, 3, 1, 0, 0, 3, 0, 0, 3]), [0, 0, 1, 0, 0, 0, 0]);
        assert_eq!(without_emulation_prevention(&[0, 3, 0, 0]), [0, 3, 0, 0]);
    }

    #[test]
    fn keyframes_are_told_by_their_type() {
        assert!(Standard::H264.is_keyframe_slice(&[0x65]));
        assert!(!Standard::H264.is_keyframe_slice(&[0x41]));
        assert!(Standard::H265.is_keyframe_slice(&[21 << 1, 1]), "CRA");
        assert!(!Standard::H265.is_keyframe_slice(&[1 << 1, 1]));
        assert!(!Standard::H265.is_keyframe_slice(&[]));
    }
}
