//! Counts what a recording lost or doubled, by the frame numbers that simulated cameras send (see [`crate::sei`]).
//!
//! Pure but for [`inspect`], which reads the file. Segments are judged one by one and together: numbers of one
//! camera must go on across file borders without hole or double. What is missing before the first and after the
//! last number cannot be seen here.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use crate::mp4::{self, Format, Track, VideoFormat};
use crate::nal;
use crate::sei::{self, FrameNumber};

/// Why a file could not be inspected.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read at all.
    #[error("cannot read: {0}")]
    Io(#[from] std::io::Error),
    /// It is not an MP4 we understand.
    #[error(transparent)]
    Mp4(#[from] mp4::Error),
    /// It has no H.264 or H.265 track.
    #[error("no H.264 or H.265 track in it")]
    NoVideo,
}

/// What stands in one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileReport {
    /// All frame numbers, in decode order.
    #[serde(skip)]
    pub numbers: Vec<FrameNumber>,
    /// Per camera; one entry in any sane segment.
    pub cameras: Vec<Continuity>,
    /// Video samples.
    pub frames: u64,
    /// Video samples without a frame number, or whose NAL units are malformed.
    pub unnumbered: u64,
    /// Whether the first video sample can be decoded alone, judged by its NAL units.
    pub starts_with_keyframe: bool,
    /// Whether each video sample's decode time is later than the one's before it.
    pub decode_times_strictly_increasing: bool,
    /// Samples marked as sync that are no keyframes, or the other way round.
    pub wrong_sync_marks: u64,
    /// The largest distance of two successive video decode times, in milliseconds.
    pub longest_step_ms: u64,
    /// Video from the first decode time to the end of the last sample, in milliseconds.
    pub duration_ms: u64,
    /// Samples of audio.
    pub audio_samples: u64,
    /// The file ends within a box or a sample (what is whole was counted).
    pub truncated: bool,
}

impl FileReport {
    /// Nothing to complain about in this file alone. A truncated end is allowed.
    pub fn is_clean(&self) -> bool {
        self.frames > 0
            && self.unnumbered == 0
            && self.starts_with_keyframe
            && self.decode_times_strictly_increasing
            && self.wrong_sync_marks == 0
            && self.cameras.iter().all(Continuity::is_clean)
    }
}

/// What is known of one camera's numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Continuity {
    /// The camera's number.
    pub camera: u32,
    /// Smallest frame number.
    pub first: u64,
    /// Largest frame number.
    pub last: u64,
    /// Numbers seen, doubles included.
    pub count: u64,
    /// Frames that are missing between first and last.
    pub missing: u64,
    /// Frames seen again.
    pub doubled: u64,
    /// Frames that came after one with a higher number (a repetition is counted in `doubled` only).
    pub out_of_order: u64,
    /// The runs that are missing: `[first missing, last missing]`, the first 100 of them.
    pub holes: Vec<[u64; 2]>,
}

impl Continuity {
    /// No hole, no double, in order.
    pub fn is_clean(&self) -> bool {
        self.missing == 0 && self.doubled == 0 && self.out_of_order == 0
    }
}

/// Reads the file at `path` and reports on it.
///
/// # Errors
/// See [`Error`]; a truncated file is none unless it ends before its description.
pub fn inspect(path: &Path) -> Result<FileReport, Error> {
    report(&std::fs::read(path)?)
}

/// Reports on a whole file in memory.
///
/// # Errors
/// [`Error::Mp4`], [`Error::NoVideo`].
pub fn report(bytes: &[u8]) -> Result<FileReport, Error> {
    let movie = mp4::read(bytes)?;
    let audio = movie.tracks.iter().filter(|track| matches!(track.format, Format::Aac { .. } | Format::G711));
    let audio_samples = audio.map(|track| track.samples.len() as u64).sum();
    let (track, format) = movie.tracks.iter().find_map(video).ok_or(Error::NoVideo)?;
    let mut numbers = Vec::with_capacity(track.samples.len());
    let mut unnumbered = 0;
    let mut wrong_sync_marks = 0;
    let mut starts_with_keyframe = false;
    for (index, sample) in track.samples.iter().enumerate() {
        let nals = nal::split(&bytes[sample.data.clone()], format.length_size).unwrap_or_default();
        let keyframe = nals.iter().any(|nal| format.standard.is_keyframe_slice(nal));
        starts_with_keyframe |= index == 0 && keyframe;
        wrong_sync_marks += u64::from(keyframe != sample.sync);
        match nals.iter().find_map(|nal| sei::decode(format.standard, nal)) {
            Some(number) => numbers.push(number),
            None => unnumbered += 1,
        }
    }
    let steps = || track.samples.windows(2).map(|pair| (pair[0].decode_time, pair[1].decode_time));
    let longest_step = steps().map(|(one, two)| two.saturating_sub(one)).max().unwrap_or(0);
    Ok(FileReport {
        cameras: continuity(&numbers),
        numbers,
        frames: track.samples.len() as u64,
        unnumbered,
        starts_with_keyframe,
        decode_times_strictly_increasing: steps().all(|(one, two)| one < two),
        wrong_sync_marks,
        longest_step_ms: millis(longest_step, track.timescale),
        duration_ms: millis(duration(track), track.timescale),
        audio_samples,
        truncated: movie.truncated,
    })
}

fn video(track: &Track) -> Option<(&Track, &VideoFormat)> {
    match &track.format {
        Format::Video(format) => Some((track, format)),
        Format::Aac { .. } | Format::G711 | Format::Other => None,
    }
}

fn duration(track: &Track) -> u64 {
    let (Some(first), Some(last)) = (track.samples.first(), track.samples.last()) else { return 0 };
    last.decode_time.saturating_add(u64::from(last.duration)).saturating_sub(first.decode_time)
}

fn millis(ticks: u64, timescale: u32) -> u64 {
    ticks.saturating_mul(1000) / u64::from(timescale.max(1))
}

/// Judges numbers in the order in which they were recorded, camera by camera.
pub fn continuity(numbers: &[FrameNumber]) -> Vec<Continuity> {
    let mut by_camera: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    for number in numbers {
        by_camera.entry(number.camera).or_default().push(number.frame);
    }
    by_camera.into_iter().map(|(camera, frames)| continuity_of(camera, frames)).collect()
}

fn continuity_of(camera: u32, mut frames: Vec<u64>) -> Continuity {
    const HOLES_LISTED: usize = 100;
    let count = frames.len() as u64;
    let mut highest = None;
    let mut late = 0;
    for &frame in &frames {
        late += u64::from(highest.is_some_and(|highest| frame <= highest));
        highest = highest.max(Some(frame));
    }
    frames.sort_unstable();
    frames.dedup();
    let doubled = count - frames.len() as u64;
    let gaps = frames.windows(2).filter(|pair| pair[1] - pair[0] > 1);
    let (first, last) = (frames.first().copied().unwrap_or(0), frames.last().copied().unwrap_or(0));
    Continuity {
        camera,
        first,
        last,
        count,
        missing: gaps.clone().map(|pair| pair[1] - pair[0] - 1).sum(),
        doubled,
        out_of_order: late.saturating_sub(doubled),
        holes: gaps.take(HOLES_LISTED).map(|pair| [pair[0] + 1, pair[1] - 1]).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(frames: &[u64]) -> Continuity {
        continuity_of(1, frames.to_vec())
    }

    #[test]
    fn numbers_without_hole_or_double_are_clean() {
        assert!(of(&[5, 6, 7, 8]).is_clean());
        assert!(of(&[0]).is_clean());
    }

    #[test]
    fn holes_doubles_and_disorder_are_told_apart() {
        let holes = of(&[5, 6, 9, 12]);
        assert_eq!((holes.missing, holes.doubled, holes.out_of_order), (4, 0, 0));
        assert_eq!(holes.holes, [[7, 8], [10, 11]]);
        let doubles = of(&[5, 6, 6, 7, 5]);
        assert_eq!((doubles.missing, doubles.doubled, doubles.out_of_order), (0, 2, 0));
        let disorder = of(&[5, 7, 6, 8]);
        assert_eq!((disorder.missing, disorder.doubled, disorder.out_of_order), (0, 0, 1));
    }

    #[test]
    fn cameras_are_judged_apart() {
        let mixed = [(1, 0), (2, 7), (1, 1), (2, 9)].map(|(camera, frame)| FrameNumber { camera, frame });
        let judged = continuity(&mixed);
        assert_eq!(judged.len(), 2);
        assert!(judged[0].is_clean());
        assert_eq!(judged[1].missing, 1);
    }

    #[test]
    fn a_file_without_numbers_is_not_clean() {
        let report = report(include_bytes!("../clips/h264-small.mp4")).unwrap();
        assert_eq!((report.frames, report.unnumbered), (100, 100));
        assert_eq!((report.duration_ms, report.longest_step_ms), (4000, 40));
        assert!(report.starts_with_keyframe && report.decode_times_strictly_increasing);
        assert_eq!(report.wrong_sync_marks, 0);
        assert!(!report.is_clean());
    }

    /// 3 s of `/small/2`, recorded with
    /// `ffmpeg -rtsp_transport tcp -i rtsp://…/small/2 -t 3 -c copy -movflags +frag_keyframe+empty_moov+default_base_moof`.
    const RECORDED: &[u8] = include_bytes!("../testdata/recorded-by-ffmpeg.mp4");

    /// The boxes of the top level.
    fn boxes(mut file: &[u8]) -> Vec<&[u8]> {
        let mut found = Vec::new();
        while let Some(length) = file.first_chunk::<4>() {
            let (one, rest) = file.split_at(usize::try_from(u32::from_be_bytes(*length)).unwrap());
            found.push(one);
            file = rest;
        }
        found
    }

    #[test]
    fn a_recorded_file_is_clean() {
        let report = report(RECORDED).unwrap();
        assert!(report.is_clean() && !report.truncated, "{report:?}");
        assert_eq!((report.cameras[0].camera, report.cameras.len()), (2_000_002, 1));
        assert!(report.frames >= 75, "{report:?}");
    }

    #[test]
    fn a_fragment_that_is_missing_is_missed() {
        // Given a recording without its second fragment (one GOP of 25 frames),
        let mut boxes = boxes(RECORDED);
        let fragments: Vec<usize> = (0..boxes.len()).filter(|at| &boxes[*at][4..8] == b"moof").collect();
        boxes.drain(fragments[1]..fragments[2]);
        // when inspected, then exactly those frames are missing.
        let report = report(&boxes.concat()).unwrap();
        assert_eq!((report.cameras[0].missing, report.cameras[0].holes.len()), (25, 1));
        assert_eq!(report.longest_step_ms, 26 * 40);
        assert!(!report.is_clean());
    }

    #[test]
    fn a_file_cut_short_counts_what_is_whole() {
        let whole = report(RECORDED).unwrap().frames;
        let report = report(&RECORDED[..RECORDED.len() * 2 / 3]).unwrap();
        assert!(report.truncated && report.is_clean(), "{report:?}");
        assert!(report.frames < whole && report.frames > 0, "{report:?}");
    }

    #[test]
    fn segments_are_judged_together() {
        // Given the same segment twice, then every frame is doubled.
        let once = report(RECORDED).unwrap();
        let twice = [once.numbers.clone(), once.numbers].concat();
        assert_eq!(continuity(&twice)[0].doubled, once.frames);
    }

    proptest! {
        #[test]
        fn a_damaged_recording_is_reported_without_panic(
            damage in proptest::collection::vec((0..RECORDED.len(), any::<u8>()), 1..20),
            header_damage in proptest::collection::vec((0..2000_usize, any::<u8>()), 0..5),
        ) {
            let mut bytes = RECORDED.to_vec();
            for (at, byte) in damage.into_iter().chain(header_damage) {
                bytes[at] = byte;
            }
            let _ = report(&bytes);
        }

        #[test]
        fn whatever_is_taken_from_a_row_is_missed(from in 0_u64..1000, taken in proptest::collection::btree_set(1_u64..199, 0..50)) {
            let kept: Vec<u64> = (0..200).filter(|at| !taken.contains(at)).map(|at| from + at).collect();
            let judged = of(&kept);
            prop_assert_eq!(judged.missing, taken.len() as u64);
            prop_assert_eq!(judged.doubled + judged.out_of_order, 0);
        }
    }
}
