//! Opus in MP4: its sample entry, and how long a packet lasts.
//!
//! Pure. "Encapsulation of Opus in ISO Base Media File Format", version 0.8.1, and RFC 6716, section 3. Over RTP a packet is a packet
//! of Opus, whole and alone, and its clock runs at 48 kHz whatever was encoded (RFC 7587, section 4).

use std::num::NonZeroU32;

use super::boxes::Boxes;

/// Units of media time in a second, always.
pub const RATE: NonZeroU32 = NonZeroU32::new(48_000).unwrap();
/// What no packet is longer than: 120 ms (RFC 6716, section 3.2.5, rule R5).
const LONGEST: u32 = 5_760;

/// The `Opus` box (section 4.3.1) with its `dOps` box (section 4.3.2). `channels` is 1 or 2: channel mapping family 0 has no others.
///
/// Nothing is skipped at the beginning (`PreSkip` is 0): what a camera sends begins somewhere in its stream, and all of it was heard.
pub fn sample_entry(channels: u16) -> Option<Vec<u8>> {
    let count = u8::try_from(channels).ok().filter(|count| (1..=2).contains(count))?;
    let mut boxes = Boxes::default();
    boxes.put(b"Opus", |b| {
        b.zeros(6);
        b.u16(1); // data_reference_index
        b.zeros(8);
        b.u16(channels);
        b.u16(16); // samplesize
        b.zeros(4);
        b.u32(RATE.get() << 16); // 16.16 fixed point
        b.put(b"dOps", |b| {
            b.raw(&[0, count]); // version, output channels
            b.u16(0); // pre-skip
            b.u32(RATE.get()); // of the input: not known, and of no use to a player
            b.u16(0); // output gain
            b.raw(&[0]); // channel mapping family
        });
    });
    Some(boxes.into_bytes())
}

/// How long a packet lasts, in units of [`RATE`], as its first bytes say (RFC 6716, section 3.1 and 3.2.5); `None` if it is no packet
/// of Opus.
pub fn duration(packet: &[u8]) -> Option<NonZeroU32> {
    let (&toc, rest) = packet.split_first()?;
    let frame = match toc >> 3 {
        // SILK: 10, 20, 40 or 60 ms.
        config @ 0..=11 => [480, 960, 1_920, 2_880][usize::from(config % 4)],
        // Hybrid: 10 or 20 ms.
        config @ 12..=15 => [480, 960][usize::from(config % 2)],
        // CELT: 2.5, 5, 10 or 20 ms.
        config => 120 << (config % 4),
    };
    let frames = match toc & 0b11 {
        0 => 1,
        1 | 2 => 2,
        _ => u32::from(rest.first()? & 0b11_1111),
    };
    NonZeroU32::new(frame * frames).filter(|duration| duration.get() <= LONGEST)
}

#[cfg(test)]
mod tests {
    use mp4_atom::{Decode, Opus};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn packets_last_as_long_as_they_say() {
        // The table of RFC 6716, section 3.1, in units of 48 kHz.
        let tenths_ms = |config: u8| match config {
            0..=11 => [100, 200, 400, 600][usize::from(config % 4)],
            12..=15 => [100, 200][usize::from(config % 2)],
            _ => [25, 50, 100, 200][usize::from(config % 4)],
        };
        for config in 0..32_u8 {
            let frame = tenths_ms(config) * 48 / 10;
            for (code, frames) in [(0, 1), (1, 2), (2, 2)] {
                let packet = [config << 3 | code, 0, 0];
                assert_eq!(duration(&packet).map(NonZeroU32::get), Some(frame * frames), "{config} {code}");
            }
            for count in 0..64_u8 {
                // Of so many frames, whatever the flags beside the number say.
                let expected = Some(frame * u32::from(count)).filter(|all| (1..=LONGEST).contains(all));
                let packet = [config << 3 | 3, 0b1100_0000 | count];
                assert_eq!(duration(&packet).map(NonZeroU32::get), expected, "{config} {count}");
            }
        }
        assert_eq!(duration(&[]), None);
        assert_eq!(duration(&[0b11]), None, "the number of its frames is missing");
    }

    #[test]
    fn another_library_reads_the_sample_entry() {
        for channels in [1, 2] {
            let entry = sample_entry(channels).unwrap();
            let Opus { audio, dops, .. } = Opus::decode(&mut &entry[..]).unwrap();
            assert_eq!((audio.channel_count, audio.sample_rate.integer()), (channels, 48_000));
            let expected = (u8::try_from(channels).unwrap(), 0, 48_000, 0);
            assert_eq!(
                (dops.output_channel_count, dops.pre_skip, dops.input_sample_rate, dops.output_gain),
                expected
            );
            assert!(dops.channel_mapping.is_none());
        }
        assert_eq!((sample_entry(0), sample_entry(3), sample_entry(300)), (None, None, None));
    }

    proptest! {
        #[test]
        fn no_packet_lasts_for_ever(packet in proptest::collection::vec(any::<u8>(), 0..8)) {
            prop_assert!(duration(&packet).is_none_or(|duration| duration.get() <= LONGEST));
        }
    }
}
