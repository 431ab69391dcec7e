//! Reads MP4 files (ISO/IEC 14496-12), plain or fragmented, into tracks with their samples in decode order.
//!
//! Clips are plain files, recorded segments are fragmented; both come out in one shape. The boxes are decoded by
//! `mp4-atom`; what is ours is resolving defaults and offsets. A file that ends early (a crash of its writer) gives
//! all samples that are whole, and says so. Nothing in a file makes this panic or allocate more than in proportion
//! to the file.

use std::collections::BTreeMap;
use std::ops::Range;

use mp4_atom::{
    Atom, Codec as Entry, DecodeAtom, DecodeMaybe, FourCC, Header, Hvcc, Moof, Moov, Stbl, StszSamples, Traf,
    Trak, Trex,
};

use crate::nal::Standard;

/// Why a file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A box was understood but is wrong.
    #[error("box `{kind}` at byte {at}: {source}")]
    Box {
        /// Its four letters.
        kind: String,
        /// Where it starts.
        at: usize,
        /// What is wrong.
        source: mp4_atom::Error,
    },
    /// Not an MP4, or cut short before its description.
    #[error("no `moov` box: not an MP4 file, or cut short before its description was written")]
    NoMoov,
    /// The tables of the file contradict each other or the file's size.
    #[error("the sample tables are inconsistent: {0}")]
    Tables(&'static str),
}

/// One file.
#[derive(Debug)]
pub struct Movie {
    /// In the order of the file.
    pub tracks: Vec<Track>,
    /// The file ends within a box or a sample.
    pub truncated: bool,
}

/// One track of it.
#[derive(Debug)]
pub struct Track {
    /// What is in it.
    pub format: Format,
    /// Ticks per second of all times in this track.
    pub timescale: u32,
    /// In decode order.
    pub samples: Vec<Sample>,
}

/// What a track holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    /// H.264 or H.265.
    Video(VideoFormat),
    /// AAC.
    Aac {
        /// The AudioSpecificConfig (ISO/IEC 14496-3).
        config: Vec<u8>,
        /// 1 mono, 2 stereo.
        channels: u16,
    },
    /// G.711, which this crate counts only.
    G711,
    /// Something this crate has no use for.
    Other,
}

/// How a video track is coded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VideoFormat {
    /// Which standard.
    pub standard: Standard,
    /// Bytes of the length before each NAL unit.
    pub length_size: usize,
    /// Parameter sets in the order VPS, SPS, PPS.
    pub parameter_sets: Vec<Vec<u8>>,
}

/// One sample: an access unit of video, a frame of audio.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Decode time in the track's timescale.
    pub decode_time: u64,
    /// Presentation time minus decode time.
    pub composition_offset: i64,
    /// Until the next sample's decode time.
    pub duration: u32,
    /// Marked in the file as one that decoding can start at.
    pub sync: bool,
    /// Where its bytes are in the file; always within it.
    pub data: Range<usize>,
}

/// Reads a whole file.
///
/// # Errors
/// See [`Error`]; a truncated file is none.
pub fn read(bytes: &[u8]) -> Result<Movie, Error> {
    let mut rest = bytes;
    let mut movie: Option<(Moov, Vec<TrackReader>)> = None;
    let mut truncated = false;
    while !rest.is_empty() {
        let at = bytes.len() - rest.len();
        let wrong = |kind: &[u8; 4], source| Error::Box {
            kind: String::from_utf8_lossy(kind).into_owned(),
            at,
            source,
        };
        let header = match Header::decode_maybe(&mut rest) {
            Ok(Some(header)) => header,
            Ok(None) => {
                truncated = true;
                break;
            }
            Err(source) => return Err(wrong(b"????", source)),
        };
        let Some((mut body, tail)) = rest.split_at_checked(header.size.unwrap_or(rest.len())) else {
            truncated = true;
            break;
        };
        rest = tail;
        if header.kind == Moov::KIND {
            let moov = Moov::decode_atom(&header, &mut body).map_err(|source| wrong(b"moov", source))?;
            let tracks = moov.trak.iter().map(|trak| TrackReader::new(&moov, trak)).collect();
            movie = Some((moov, tracks));
        } else if header.kind == Moof::KIND
            && let Some((_, tracks)) = &mut movie
        {
            let moof = Moof::decode_atom(&header, &mut body).map_err(|source| wrong(b"moof", source))?;
            truncated |= !read_fragment(bytes.len(), at, &moof, tracks)?;
        }
    }
    let (moov, mut tracks) = movie.ok_or(Error::NoMoov)?;
    for (trak, track) in moov.trak.iter().zip(&mut tracks) {
        truncated |= !track.read_tables(bytes.len(), &trak.mdia.minf.stbl)?;
    }
    Ok(Movie { tracks: tracks.into_iter().map(|reader| reader.track).collect(), truncated })
}

/// A track while its fragments come in.
struct TrackReader {
    id: u32,
    defaults: Trex,
    next_decode_time: u64,
    track: Track,
}

impl TrackReader {
    fn new(moov: &Moov, trak: &Trak) -> Self {
        let id = trak.tkhd.track_id;
        let defaults = moov.mvex.iter().flat_map(|mvex| &mvex.trex).find(|trex| trex.track_id == id);
        Self {
            id,
            defaults: defaults.cloned().unwrap_or_default(),
            next_decode_time: 0,
            track: Track {
                format: format_of(&trak.mdia.minf.stbl),
                timescale: trak.mdia.mdhd.timescale,
                samples: Vec::new(),
            },
        }
    }

    /// Adds a sample; false if it is not wholly in the file.
    fn push(&mut self, file_len: usize, sample: Sample) -> Result<bool, Error> {
        if sample.data.end > file_len {
            return Ok(false);
        }
        // Every sample of the formats we read has a byte; without this bound a count could make us allocate at will.
        if self.track.samples.len() >= file_len {
            return Err(Error::Tables("more samples than bytes"));
        }
        self.next_decode_time = sample.decode_time.saturating_add(u64::from(sample.duration));
        self.track.samples.push(sample);
        Ok(true)
    }

    /// Adds the samples that the tables of a plain file describe; false if the file ends before they do.
    fn read_tables(&mut self, file_len: usize, stbl: &Stbl) -> Result<bool, Error> {
        let offsets: Vec<u64> = match (&stbl.stco, &stbl.co64) {
            (Some(stco), _) => stco.entries.iter().map(|offset| u64::from(*offset)).collect(),
            (None, Some(co64)) => co64.entries.clone(),
            (None, None) => Vec::new(),
        };
        let mut durations = runs(stbl.stts.entries.iter().map(|run| (run.sample_count, run.sample_delta)));
        let mut compositions = runs(
            stbl.ctts.iter().flat_map(|ctts| &ctts.entries).map(|run| (run.sample_count, run.sample_offset)),
        );
        let keyframes: Option<&[u32]> = stbl.stss.as_ref().map(|stss| stss.entries.as_slice());
        let mut number = 0_u32;
        for (chunk, offset) in (1_u32..).zip(offsets) {
            let mut at = usize::try_from(offset).map_err(|_| Error::Tables("offset out of range"))?;
            for _ in 0..samples_in_chunk(stbl, chunk) {
                let Some(size) = sample_size(stbl, number) else { return Ok(true) };
                number += 1;
                let duration = durations.next().ok_or(Error::Tables("stts is shorter than stsz"))?;
                let end = at.checked_add(size).ok_or(Error::Tables("size out of range"))?;
                let sample = Sample {
                    decode_time: self.next_decode_time,
                    composition_offset: compositions.next().unwrap_or(0),
                    duration,
                    sync: keyframes.is_none_or(|list| list.binary_search(&number).is_ok()),
                    data: at..end,
                };
                if !self.push(file_len, sample)? {
                    return Ok(false);
                }
                at = end;
            }
        }
        Ok(true)
    }
}

fn runs<T: Copy>(entries: impl Iterator<Item = (u32, T)>) -> impl Iterator<Item = T> {
    entries
        .flat_map(|(count, value)| std::iter::repeat_n(value, usize::try_from(count).unwrap_or(usize::MAX)))
}

fn samples_in_chunk(stbl: &Stbl, chunk: u32) -> u32 {
    stbl.stsc.entries.iter().rev().find(|run| run.first_chunk <= chunk).map_or(0, |run| run.samples_per_chunk)
}

fn sample_size(stbl: &Stbl, index: u32) -> Option<usize> {
    let size = match &stbl.stsz.samples {
        StszSamples::Identical { count, size } => (index < *count).then_some(*size)?,
        StszSamples::Different { sizes } => *sizes.get(usize::try_from(index).ok()?)?,
    };
    usize::try_from(size).ok()
}

/// Adds a fragment's samples to their tracks; false if the file ends before they do.
fn read_fragment(
    file_len: usize,
    moof_at: usize,
    moof: &Moof,
    tracks: &mut [TrackReader],
) -> Result<bool, Error> {
    let mut by_id: BTreeMap<u32, &mut TrackReader> =
        tracks.iter_mut().map(|track| (track.id, track)).collect();
    let mut whole = true;
    // Without a base of its own, a track's data follows that of the track before it (ISO/IEC 14496-12, 8.8.7).
    let mut data_end = moof_at;
    for traf in &moof.traf {
        let Some(track) = by_id.get_mut(&traf.tfhd.track_id) else {
            return Err(Error::Tables("a fragment of a track that was not announced"));
        };
        let base = match (traf.tfhd.base_data_offset, traf.tfhd.default_base_is_moof) {
            (Some(base), _) => usize::try_from(base).map_err(|_| Error::Tables("offset out of range"))?,
            (None, true) => moof_at,
            (None, false) => data_end,
        };
        let (end, all) = read_runs(file_len, base, traf, track)?;
        data_end = end;
        whole &= all;
    }
    Ok(whole)
}

fn read_runs(
    file_len: usize,
    base: usize,
    traf: &Traf,
    track: &mut TrackReader,
) -> Result<(usize, bool), Error> {
    const OUT_OF_RANGE: Error = Error::Tables("offset out of range");
    const NON_SYNC: u32 = 0x1_0000;
    let (header, defaults) = (&traf.tfhd, track.defaults.clone());
    if let Some(tfdt) = &traf.tfdt {
        track.next_decode_time = tfdt.base_media_decode_time;
    }
    let mut at = base;
    for run in &traf.trun {
        if let Some(offset) = run.data_offset {
            let offset = isize::try_from(offset).map_err(|_| OUT_OF_RANGE)?;
            at = base.checked_add_signed(offset).ok_or(OUT_OF_RANGE)?;
        }
        for entry in &run.samples {
            let size = entry.size.or(header.default_sample_size).unwrap_or(defaults.default_sample_size);
            let flags = entry.flags.or(header.default_sample_flags).unwrap_or(defaults.default_sample_flags);
            let duration = entry.duration.or(header.default_sample_duration);
            let end = usize::try_from(size).ok().and_then(|size| at.checked_add(size)).ok_or(OUT_OF_RANGE)?;
            let sample = Sample {
                decode_time: track.next_decode_time,
                composition_offset: entry.cts.unwrap_or(0),
                duration: duration.unwrap_or(defaults.default_sample_duration),
                sync: flags & NON_SYNC == 0,
                data: at..end,
            };
            if !track.push(file_len, sample)? {
                return Ok((end, false));
            }
            at = end;
        }
    }
    Ok((at, true))
}

fn format_of(stbl: &Stbl) -> Format {
    let Some(entry) = stbl.stsd.codecs.first() else { return Format::Other };
    if let Entry::Avc1(mp4_atom::Avc1 { avcc, .. }) | Entry::Avc3(mp4_atom::Avc3 { avcc, .. }) = entry {
        let sets = avcc.sequence_parameter_sets.iter().chain(&avcc.picture_parameter_sets);
        return Format::Video(VideoFormat {
            standard: Standard::H264,
            length_size: usize::from(avcc.length_size),
            parameter_sets: sets.cloned().collect(),
        });
    }
    if let Entry::Hvc1(mp4_atom::Hvc1 { hvcc, .. }) | Entry::Hev1(mp4_atom::Hev1 { hvcc, .. }) = entry {
        return Format::Video(VideoFormat {
            standard: Standard::H265,
            length_size: usize::from(hvcc.length_size_minus_one) + 1,
            parameter_sets: h265_parameter_sets(hvcc),
        });
    }
    if let Entry::Mp4a(mp4a) = entry
        && let Some(specific) = &mp4a.esds.es_desc.dec_config.dec_specific
    {
        // The sample entry's own count is 2 whatever is in it, in files by ffmpeg and by the book of old.
        return Format::Aac { config: specific.raw.clone(), channels: u16::from(specific.chan_conf) };
    }
    if let Entry::Unknown(kind, _) = entry
        && [FourCC::new(b"ulaw"), FourCC::new(b"alaw")].contains(kind)
    {
        return Format::G711;
    }
    Format::Other
}

fn h265_parameter_sets(hvcc: &Hvcc) -> Vec<Vec<u8>> {
    let of_type = |kind: u8| hvcc.arrays.iter().filter(move |array| array.nal_unit_type == kind);
    // VPS, SPS, PPS, whatever the order in the file.
    [32, 33, 34].into_iter().flat_map(of_type).flat_map(|array| array.nalus.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CLIP: &[u8] = include_bytes!("../clips/h264-bframes.mp4");

    #[test]
    fn a_plain_file_gives_its_samples() {
        // Given the clip with B-frames (4 s at 25 fps), when read,
        let movie = read(CLIP).unwrap();
        // then every sample is there, in decode order, with keyframes each second and reordering.
        let [track] = movie.tracks.as_slice() else { panic!("one track") };
        assert_eq!((track.samples.len(), movie.truncated), (100, false));
        let keyframes: Vec<usize> = (0..100).filter(|at| track.samples[*at].sync).collect();
        assert_eq!(keyframes, [0, 25, 50, 75]);
        assert!(track.samples.iter().any(|sample| sample.composition_offset > 0));
        assert!(track.samples.is_sorted_by(|one, two| one.decode_time < two.decode_time));
    }

    #[test]
    fn a_file_cut_anywhere_is_read_as_far_as_it_goes() {
        for cut in (0..CLIP.len()).step_by(997) {
            if let Ok(movie) = read(&CLIP[..cut]) {
                assert!(movie.truncated, "cut at {cut}");
                assert!(movie.tracks[0].samples.iter().all(|sample| sample.data.end <= cut));
            }
        }
    }

    proptest! {
        #[test]
        fn a_damaged_file_is_read_without_panic(damage in proptest::collection::vec((0..6000_usize, any::<u8>()), 1..20)) {
            let mut bytes = CLIP.to_vec();
            for (at, byte) in damage {
                bytes[at] = byte;
            }
            let _ = read(&bytes);
        }
    }
}
