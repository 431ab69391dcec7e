//! Segments of our own muxer, put on a time line and read back by another library.

use bytes::Bytes;
use longwatch_events::fact::Codec;
use mp4_atom::{Decode, Moof};
use proptest::prelude::*;

use super::*;
use crate::fmp4::{Muxer, init, metadata};
use crate::frame::{
    Arrival, AudioFrame, AudioTrack, Document, MetadataTrack, Tracks, VideoFrame, VideoTrack,
};

const START: Timestamp = Timestamp::from_micros(1_795_420_800_123_456);
const ARRIVAL: Arrival = Arrival { at: START, monotonic_us: 0 };
/// Of audio: one that does not divide a second's microseconds.
const AUDIO_TIMESCALE: NonZeroU32 = NonZeroU32::new(44_100).unwrap();

fn tracks() -> Tracks {
    Tracks {
        video: VideoTrack {
            codec: Codec::H264,
            timescale: NonZeroU32::new(90_000).unwrap(),
            sample_entry: Bytes::from_static(b"\0\0\0\x08avc1"),
            width: 640,
            height: 360,
        },
        audio: Some(AudioTrack {
            codec: Codec::Aac,
            timescale: AUDIO_TIMESCALE,
            sample_entry: Bytes::from_static(b"\0\0\0\x08mp4a"),
        }),
        metadata: Some(MetadataTrack { sample_entry: metadata::sample_entry(metadata::Packing::Xml) }),
        not_recorded: Vec::new(),
    }
}

/// A segment of three fragments with all kinds of tracks, and where its `moof` boxes are.
fn segment() -> (Vec<u8>, Vec<Range<usize>>) {
    let tracks = tracks();
    let (mut muxer, mut file) = (Muxer::new(&tracks), init::header(&tracks, START));
    let mut moofs = Vec::new();
    for second in 0..3_i64 {
        for picture in 0..5 {
            let media_time = second * 90_000 + picture * 18_000;
            let data = Bytes::from(vec![u8::try_from(picture).unwrap(); 100]);
            muxer.push_video(&VideoFrame { data, media_time, random_access: picture == 0, arrival: ARRIVAL });
        }
        let (data, duration) = (Bytes::from_static(b"sound"), NonZeroU32::new(1_024).unwrap());
        let media_time = second * 44_100;
        muxer.push_audio(&AudioFrame { data, media_time, duration, arrival: ARRIVAL });
        let (data, media_time) = (Bytes::from_static(b"<a/>"), second * 90_000);
        muxer.push_document(&Document { data, media_time, arrival: ARRIVAL });
        let fragment = muxer.finish_fragment(None).unwrap().unwrap();
        let begins = file.len();
        file.extend_from_slice(&fragment.head);
        // Behind it stands the header of `mdat`.
        moofs.push(begins..file.len() - 8);
        fragment.samples.iter().for_each(|sample| file.extend_from_slice(sample));
    }
    (file, moofs)
}

fn decode_times(mut moof: &[u8]) -> Vec<(u32, u64)> {
    let moof = Moof::decode(&mut moof).unwrap();
    let time = |traf: &mp4_atom::Traf| traf.tfdt.as_ref().unwrap().base_media_decode_time;
    moof.traf.iter().map(|traf| (traf.tfhd.track_id, time(traf))).collect()
}

#[test]
fn every_decode_time_counts_from_the_epoch_and_nothing_else_changes() {
    let (file, moofs) = segment();
    let header = Header::read(&file).unwrap();
    assert_eq!(&file[usize::try_from(header.bytes).unwrap() + 4..][..4], b"prft", "what follows moov");
    let shifts = header.shifts(START).unwrap();
    // 1795420800.123456 s in 90 kHz and in 44.1 kHz, to the nearest: .04 and .4096 below.
    let (video, audio) = (161_587_872_011_111, 79_178_057_285_444);
    assert_eq!(shifts.0, BTreeMap::from([(1, video), (2, audio), (3, video)]));
    for (second, range) in (0..).zip(moofs) {
        let (before, mut after) = (&file[range.clone()], file[range].to_vec());
        shifts.apply(&mut after).unwrap();
        let expected =
            [(1, 90_000 * second + video), (2, 44_100 * second + audio), (3, 90_000 * second + video)];
        assert_eq!(decode_times(&after), expected);
        // Given each time put back, then all is as it was.
        let mut again = after.clone();
        for (at, _) in shifts.shifted(before).unwrap() {
            assert_eq!(at.len(), 8);
            again[at.clone()].copy_from_slice(&before[at]);
        }
        assert_eq!(again, before);
        assert_ne!(after, before);
    }
}

#[test]
fn a_fragment_says_when_its_first_picture_is_decoded() {
    let (file, moofs) = segment();
    let header = Header::read(&file).unwrap();
    let begins = moofs.into_iter().map(|moof| header.begin_of(&file[moof], START));
    let expected = [0, 1_000, 2_000].map(|ms| Some(START.plus_millis(ms)));
    assert_eq!(begins.collect::<Vec<_>>(), expected);
    assert_eq!(header.begin_of(&file, START), None);
}

#[test]
fn a_shift_is_rounded_to_the_nearest() {
    let header = Header { bytes: 0, timescales: BTreeMap::from([(1, NonZeroU32::new(1_000).unwrap())]) };
    let shift = |micros| header.shifts(Timestamp::from_micros(micros)).map(|shifts| shifts.0[&1]);
    assert_eq!([499, 500, 1_499, 1_500].map(shift), [Some(0), Some(1), Some(1), Some(2)]);
    assert_eq!((shift(-1), shift(0)), (None, Some(0)));
}

#[test]
fn what_is_not_as_we_write_it_stays_as_it_is() {
    let (file, moofs) = segment();
    let shifts = Header::read(&file).unwrap().shifts(START).unwrap();
    let moof = &file[moofs[0].clone()];
    let (at, _) = shifts.shifted(moof).unwrap().swap_remove(1);
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = moof.to_vec();
        change(&mut bytes);
        bytes
    };
    for broken in [
        changed(&|bytes| bytes[at.start - 4] = 0),
        // The size of the `traf` of that track: those before it are well.
        changed(&|bytes| bytes[at.start - 36..at.start - 32].fill(0)),
        changed(&|bytes| bytes[at.clone()].fill(0xff)),
        changed(&|bytes| bytes.truncate(moof.len() - 1)),
        changed(&|bytes| bytes[4] = b'x'),
        file.clone(),
        Vec::new(),
    ] {
        let mut after = broken.clone();
        assert_eq!(shifts.apply(&mut after), None);
        assert_eq!(after, broken);
    }
    // Of a track that the header does not know.
    let mut after = moof.to_vec();
    let two = Shifts(shifts.0.iter().take(2).map(|(track, shift)| (*track, *shift)).collect());
    assert_eq!(two.apply(&mut after), None);
    assert_eq!(after, moof);
    assert_eq!(Header::read(&file[..usize::try_from(Header::read(&file).unwrap().bytes).unwrap() - 1]), None);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), start: i64) {
        let length = bytes.len();
        if let Some(header) = Header::read(&bytes) {
            header.shifts(Timestamp::from_micros(start));
            header.begin_of(&bytes, Timestamp::from_micros(start));
        }
        let (file, _) = segment();
        let shifts = Header::read(&file).unwrap().shifts(START).unwrap();
        let _ = shifts.apply(&mut bytes);
        prop_assert_eq!(bytes.len(), length);
    }

    #[test]
    fn nor_does_a_segment_with_some_bytes_changed(
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..12),
        start: i64,
    ) {
        let (mut file, moofs) = segment();
        let shifts = Header::read(&file).unwrap().shifts(START).unwrap();
        let (header, mut moof) = (moofs[0].start, file[moofs[0].clone()].to_vec());
        for (at, to) in changes {
            file[at.index(header)] = to;
            let at = at.index(moof.len());
            moof[at] = to;
        }
        if let Some(header) = Header::read(&file) {
            header.shifts(Timestamp::from_micros(start));
            header.begin_of(&moof, Timestamp::from_micros(start));
        }
        let before = moof.clone();
        let applied = shifts.apply(&mut moof);
        prop_assert!(applied.is_some() || moof == before);
        prop_assert_eq!(moof.len(), before.len());
    }
}
