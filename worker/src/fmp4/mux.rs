//! Fragments: samples of about a second, with their times.
//!
//! Cameras tell when a picture is shown, in the order in which pictures are decoded, and nothing else. Decode times are
//! made here: the k-th picture of a fragment is decoded at the k-th smallest presentation time, so that a stream
//! without B pictures has both equal, and one with them gets small signed offsets. Where that would not strictly
//! increase, a time is moved up; the offset then keeps the presentation time as it came.

use std::num::NonZeroU32;

use longwatch_events::time::Timestamp;

use super::boxes::Boxes;
use super::init::{self, DEPENDENT_SAMPLE, SYNC_SAMPLE};
use super::samples::{BLOCK, Samples};
use super::{AUDIO_TRACK, Error, METADATA_TRACK, VIDEO_TRACK};
use crate::frame::{AudioFrame, Document, Tracks, VideoFrame};

/// The longest step between two decode times; what `trun` can say with room to spare (6 hours at 90 kHz).
const MAX_STEP: i64 = i32::MAX as i64;
/// Times are held within this, so that sums of them fit whatever a camera sends.
const MAX_TIME: i64 = 1 << 61;
/// The largest fragment: `trun` has signed 32-bit data offsets.
const MAX_BYTES: usize = i32::MAX as usize - (64 << 20);
/// Before any fragment is known, the room for what stands before its samples.
const FIRST_HEAD: usize = 1_024;
/// How much more than the fragment before it the next one may have to say: of ten more samples of sound.
const HEAD_SPARE: usize = 80;
/// The header of a box.
const BOX_HEADER: usize = 8;

/// Collects the frames of one segment and turns them into fragments.
#[derive(Debug)]
pub struct Muxer {
    video: Track,
    audio: Option<Track>,
    metadata: Option<Track>,
    /// Media time of the segment's beginning in the video timescale; known when the first fragment is complete.
    zero: Option<i64>,
    sequence: u32,
    /// Where in the file the open fragment begins.
    position: usize,
    /// Room for what stands in the file between there and its samples.
    head: usize,
    /// The pictures of the open fragment.
    pictures: Samples,
    /// The sound that will follow them.
    sound: Vec<u8>,
    /// The documents that will follow that.
    documents: Vec<u8>,
}

#[derive(Debug)]
struct Track {
    timescale: NonZeroU32,
    samples: Vec<Sample>,
    /// Where the last fragment said its last sample ends, counted from the segment's beginning.
    end: i64,
    /// Last known duration of a sample.
    step: i64,
}

#[derive(Debug)]
struct Sample {
    bytes: u32,
    media_time: i64,
    /// How long it lasts, if that is known.
    duration: Option<NonZeroU32>,
    sync: bool,
}

/// A piece of a segment, ready to be written.
#[derive(Debug)]
pub struct Fragment {
    /// `moof` and the header of `mdat`.
    pub head: Vec<u8>,
    /// The samples, as they follow the head.
    pub samples: Samples,
    /// Video frames among them.
    pub video_frames: u32,
    /// Media time of the segment's beginning, in the video timescale.
    pub zero: i64,
    /// Media time at which the segment ends if this is its last fragment, in the video timescale.
    pub end: i64,
}

impl Fragment {
    /// Size on disk.
    pub fn len(&self) -> usize {
        self.head.len() + self.samples.len()
    }

    /// Never: a fragment has at least one sample.
    pub const fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }
}

/// Times of one sample as `trun` tells them.
#[derive(Debug, Clone, Copy)]
struct Timing {
    duration: i64,
    offset: i64,
}

/// The samples of one track in a fragment: when the first is decoded, and the times of each.
type Run = (i64, Vec<Timing>);

impl Track {
    const fn new(timescale: NonZeroU32, step: i64) -> Self {
        Self { timescale, samples: Vec::new(), end: 0, step }
    }

    /// Gives the pending samples decode times: first one, then what `trun` says of each. `wanted` are the decode times
    /// that would be right, relative to the segment's beginning and in decoding order; `next` is the one after them.
    fn timings(&mut self, presented: &[i64], wanted: &[i64], next: Option<i64>) -> Run {
        let mut decoded = Vec::with_capacity(wanted.len());
        let mut previous: Option<i64> = None;
        for want in wanted {
            let time = match previous {
                None => (*want).max(self.end),
                Some(previous) => (*want).clamp(previous + 1, previous + MAX_STEP),
            };
            decoded.push(time);
            previous = Some(time);
        }
        let first = decoded.first().copied().unwrap_or(self.end);
        let last = decoded.last().copied().unwrap_or(self.end);
        if let [.., before, last] = decoded[..] {
            self.step = last - before;
        }
        self.end = next.unwrap_or_else(|| last.saturating_add(self.step)).clamp(last + 1, last + MAX_STEP);
        let ends = decoded.iter().skip(1).chain(std::iter::once(&self.end));
        let timings = decoded.iter().zip(ends).zip(presented).map(|((time, end), presented)| Timing {
            duration: end - time,
            offset: presented.saturating_sub(*time),
        });
        (first, timings.collect())
    }
}

impl Muxer {
    /// A segment of these tracks.
    pub fn new(tracks: &Tracks) -> Self {
        Self {
            // Until two pictures came, a picture lasts as short as can be said: nothing is made up.
            video: Track::new(tracks.video.timescale, 1),
            audio: tracks.audio.as_ref().map(|audio| Track::new(audio.timescale, 1)),
            metadata: tracks.metadata.as_ref().map(|_| Track::new(tracks.video.timescale, 1)),
            zero: None,
            sequence: 0,
            // As long at any time.
            position: init::header(tracks, Timestamp::UNIX_EPOCH).len(),
            head: FIRST_HEAD,
            pictures: Samples::default(),
            sound: Vec::new(),
            documents: Vec::new(),
        }
    }

    /// Adds a picture to the open fragment.
    pub fn push_video(&mut self, frame: &VideoFrame) {
        if self.pictures.is_empty() {
            self.pictures = Samples::at((self.position + self.head) % BLOCK);
        }
        self.pictures.push(&frame.data);
        self.video.samples.push(Sample {
            bytes: length(&frame.data),
            media_time: frame.media_time,
            duration: None,
            sync: frame.random_access,
        });
    }

    /// Adds audio to the open fragment; ignored if the segment has no audio track.
    pub fn push_audio(&mut self, frame: &AudioFrame) {
        if let Some(audio) = &mut self.audio {
            self.sound.extend_from_slice(&frame.data);
            let AudioFrame { ref data, media_time, duration, .. } = *frame;
            audio.samples.push(Sample {
                bytes: length(data),
                media_time,
                duration: Some(duration),
                sync: true,
            });
        }
    }

    /// Adds a document to the open fragment; ignored if the segment has no metadata track.
    pub fn push_document(&mut self, document: &Document) {
        if let Some(metadata) = &mut self.metadata {
            self.documents.extend_from_slice(&document.data);
            let Document { ref data, media_time, .. } = *document;
            metadata.samples.push(Sample { bytes: length(data), media_time, duration: None, sync: true });
        }
    }

    /// Bytes of samples in the open fragment.
    pub const fn pending_bytes(&self) -> usize {
        self.pictures.len() + self.sound.len() + self.documents.len()
    }

    /// Closes the open fragment; `None` if it holds no picture. `next` is the media time of the picture that follows,
    /// if one is known.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`]: the samples are lost; the muxer can go on.
    pub fn finish_fragment(&mut self, next: Option<i64>) -> Result<Option<Fragment>, Error> {
        if self.video.samples.is_empty() {
            return Ok(None);
        }
        let bytes = self.pending_bytes();
        let (mut samples, sound) = (std::mem::take(&mut self.pictures), std::mem::take(&mut self.sound));
        let documents = std::mem::take(&mut self.documents);
        let taken = |track: &mut Option<Track>| {
            track.as_mut().map(|track| std::mem::take(&mut track.samples)).unwrap_or_default()
        };
        let video = std::mem::take(&mut self.video.samples);
        let (audio, metadata) = (taken(&mut self.audio), taken(&mut self.metadata));
        if bytes > MAX_BYTES {
            return Err(Error::TooLarge { bytes });
        }
        self.sequence = self.sequence.wrapping_add(1);
        let zero = *self
            .zero
            .get_or_insert_with(|| video.iter().map(|sample| sample.media_time).min().unwrap_or_default());

        let video_run = self.time_video(&video, zero, next);
        let audio_run = self.time_audio(&audio, zero);
        let metadata_run = self.time_metadata(&metadata, zero);
        let beside = [(AUDIO_TRACK, &audio, &audio_run), (METADATA_TRACK, &metadata, &metadata_run)];
        let (head, least) = self.head((&video, &video_run), beside, bytes);
        let video_frames = u32::try_from(video.len()).unwrap_or(u32::MAX);
        samples.push(&sound);
        samples.push(&documents);
        self.position += head.len() + samples.len();
        self.head = least + HEAD_SPARE;
        // Its memory serves the next one.
        self.sound = sound;
        self.sound.clear();
        let end = zero.saturating_add(self.video.end);
        Ok(Some(Fragment { head, samples, video_frames, zero, end }))
    }

    fn time_video(&mut self, samples: &[Sample], zero: i64, next: Option<i64>) -> Run {
        let presented: Vec<i64> = samples
            .iter()
            .map(|sample| sample.media_time.saturating_sub(zero).clamp(-MAX_TIME, MAX_TIME))
            .collect();
        let mut wanted = presented.clone();
        wanted.sort_unstable();
        // With B pictures the frame that follows in decoding order is shown later than it is decoded, so it does not
        // tell where the last picture here ends; the step before it does.
        let next = next.filter(|_| wanted == presented).map(|next| next.saturating_sub(zero));
        self.video.timings(&presented, &wanted, next)
    }

    fn time_audio(&mut self, samples: &[Sample], zero: i64) -> Option<Run> {
        let video_timescale = i128::from(self.video.timescale.get());
        let track = self.audio.as_mut().filter(|_| !samples.is_empty())?;
        let zero = i128::from(zero) * i128::from(track.timescale.get()) / video_timescale;
        let presented: Vec<i64> = samples
            .iter()
            .map(|sample| i128::from(sample.media_time) - zero)
            // Audio of before the first picture is heard with it.
            .map(|time| i64::try_from(time.clamp(0, i128::from(MAX_TIME))).unwrap_or(MAX_TIME))
            .collect();
        let last = samples.last().and_then(|sample| sample.duration).zip(presented.last());
        let next = last.map(|(duration, last)| last.saturating_add(i64::from(duration.get())));
        Some(track.timings(&presented, &presented, next))
    }

    /// A document says what was at one moment, and nothing of what is between it and the next one: its time is kept as it came,
    /// and the last of a fragment lasts as short as can be said, for the next one is not known yet.
    fn time_metadata(&mut self, samples: &[Sample], zero: i64) -> Option<Run> {
        let track = self.metadata.as_mut().filter(|_| !samples.is_empty())?;
        let since_zero = |sample: &Sample| sample.media_time.saturating_sub(zero).clamp(0, MAX_TIME);
        let presented: Vec<i64> = samples.iter().map(since_zero).collect();
        Some(track.timings(&presented, &presented, Some(0)))
    }

    /// `moof` (section 8.8.4) and the header of `mdat` (section 8.1.1), with free space (section 8.1.2) up to where the samples
    /// were put down; and how long both are without that.
    fn head(
        &self,
        (video, video_run): (&[Sample], &Run),
        beside: [(u32, &Vec<Sample>, &Option<Run>); 2],
        bytes: usize,
    ) -> (Vec<u8>, usize) {
        let bytes_of = |samples: &[Sample]| samples.iter().map(|sample| sample.bytes as usize).sum::<usize>();
        let mut boxes = Boxes::default();
        let mut offsets = Vec::with_capacity(3);
        let mut least = 0;
        boxes.put(b"moof", |b| {
            b.put_full(b"mfhd", 0, 0, |b| b.u32(self.sequence));
            offsets.push((track_fragment(b, VIDEO_TRACK, video, video_run), 0));
            let mut before = bytes_of(video);
            for (track, samples, run) in beside {
                if let Some(run) = run {
                    offsets.push((track_fragment(b, track, samples, run), before));
                    before += bytes_of(samples);
                }
            }
            least = b.len() + BOX_HEADER;
            if let Some(free) = self.head.checked_sub(least).and_then(|left| left.checked_sub(BOX_HEADER)) {
                b.put(b"free", |b| b.raw(&vec![0; free]));
            }
        });
        let data_begins = boxes.len() + BOX_HEADER;
        for (at, within) in offsets {
            let offset = i32::try_from(data_begins + within).expect("invariant: fragments stay below 2 GiB");
            boxes.patch_i32(at, offset);
        }
        boxes.u32(u32::try_from(bytes + BOX_HEADER).expect("invariant: fragments stay below 2 GiB"));
        boxes.raw(b"mdat");
        (boxes.into_bytes(), least)
    }
}

/// Of one sample; more than a fragment can hold is refused when it is finished.
fn length(data: &[u8]) -> u32 {
    u32::try_from(data.len()).unwrap_or(u32::MAX)
}

/// `traf` (section 8.8.6); returns where its data offset stands, to be filled in.
fn track_fragment(b: &mut Boxes, track: u32, samples: &[Sample], run: &Run) -> usize {
    const DEFAULT_BASE_IS_MOOF: u32 = 0x02_0000;
    const DATA_OFFSET: u32 = 0x001;
    const DURATION: u32 = 0x100;
    const SIZE: u32 = 0x200;
    const FLAGS: u32 = 0x400;
    const COMPOSITION_OFFSET: u32 = 0x800;

    let (first, timings) = run;
    let mut data_offset_at = 0;
    b.put(b"traf", |b| {
        b.put_full(b"tfhd", 0, DEFAULT_BASE_IS_MOOF, |b| b.u32(track));
        // Section 8.8.12, with 64 bits.
        b.put_full(b"tfdt", 1, 0, |b| b.u64(u64::try_from(*first).unwrap_or(0)));
        let video = track == VIDEO_TRACK;
        let flags = DATA_OFFSET | DURATION | SIZE | if video { FLAGS | COMPOSITION_OFFSET } else { 0 };
        // Section 8.8.8; version 1 has signed composition offsets.
        b.put_full(b"trun", 1, flags, |b| {
            b.u32(u32::try_from(samples.len()).unwrap_or(u32::MAX));
            data_offset_at = b.len();
            b.i32(0);
            for (sample, timing) in samples.iter().zip(timings) {
                b.u32(u32::try_from(timing.duration).unwrap_or(u32::MAX));
                b.u32(sample.bytes);
                if video {
                    b.u32(if sample.sync { SYNC_SAMPLE } else { DEPENDENT_SAMPLE });
                    let offset = timing.offset.clamp(i64::from(i32::MIN), i64::from(i32::MAX));
                    b.i32(i32::try_from(offset).unwrap_or(0));
                }
            }
        });
    });
    data_offset_at
}
