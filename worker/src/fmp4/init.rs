//! What stands before the first fragment: `ftyp`, `moov` without samples, and the segment's wall-clock time.

use std::num::NonZeroU32;

use longwatch_events::fact::Codec;
use longwatch_events::time::Timestamp;

use super::boxes::Boxes;
use super::{AUDIO_TRACK, METADATA_TRACK, VIDEO_TRACK};
use crate::frame::{AudioTrack, MetadataTrack, Tracks, VideoTrack};
use crate::ntp;

/// No rotation, no scaling (section 6.2.2).
const UNITY_MATRIX: [u32; 9] = [0x0001_0000, 0, 0, 0, 0x0001_0000, 0, 0, 0, 0x4000_0000];
/// "und", packed (section 8.4.2.3).
const UNDETERMINED_LANGUAGE: u16 = 0x55c4;
/// `sample_depends_on = 2`: needs no other sample (section 8.8.3.1).
pub(super) const SYNC_SAMPLE: u32 = 0x0200_0000;
/// `sample_depends_on = 1`, `sample_is_non_sync_sample = 1`.
pub(super) const DEPENDENT_SAMPLE: u32 = 0x0101_0000;

/// The beginning of a segment whose media time 0 is `start`.
pub fn header(tracks: &Tracks, start: Timestamp) -> Vec<u8> {
    let mut boxes = Boxes::default();
    boxes.put(b"ftyp", |b| {
        // `iso6` brings signed composition offsets and `tfdt` (annex E.8).
        b.raw(b"iso6");
        b.u32(0);
        b.raw(b"iso6mp41");
    });
    boxes.put(b"moov", |b| {
        movie_header(b);
        track(b, VIDEO_TRACK, &Media::Video(&tracks.video));
        if let Some(audio) = &tracks.audio {
            track(b, AUDIO_TRACK, &Media::Audio(audio));
        }
        if let Some(metadata) = &tracks.metadata {
            track(b, METADATA_TRACK, &Media::Metadata(metadata, tracks.video.timescale));
        }
        b.put(b"mvex", |b| {
            track_extends(b, VIDEO_TRACK, DEPENDENT_SAMPLE);
            if tracks.audio.is_some() {
                track_extends(b, AUDIO_TRACK, SYNC_SAMPLE);
            }
            if tracks.metadata.is_some() {
                track_extends(b, METADATA_TRACK, SYNC_SAMPLE);
            }
        });
    });
    producer_reference_time(&mut boxes, start);
    boxes.into_bytes()
}

enum Media<'a> {
    Video(&'a VideoTrack),
    Audio(&'a AudioTrack),
    Metadata(&'a MetadataTrack, NonZeroU32),
}

/// `mvhd`, section 8.2.2. Durations are 0: they are in the fragments.
fn movie_header(b: &mut Boxes) {
    b.put_full(b"mvhd", 0, 0, |b| {
        b.zeros(8); // creation and modification time: see `prft`
        b.u32(1_000); // timescale
        b.u32(0); // duration
        b.u32(0x0001_0000); // rate 1.0
        b.u16(0x0100); // volume 1.0
        b.zeros(10);
        UNITY_MATRIX.into_iter().for_each(|value| b.u32(value));
        b.zeros(24);
        b.u32(METADATA_TRACK + 1); // next_track_ID
    });
}

/// `trak`, section 8.3.
fn track(b: &mut Boxes, id: u32, media: &Media<'_>) {
    let (timescale, volume, width, height) = match media {
        Media::Video(video) => (video.timescale, 0, video.width, video.height),
        Media::Audio(audio) => (audio.timescale, 0x0100, 0, 0),
        Media::Metadata(_, timescale) => (*timescale, 0, 0, 0),
    };
    b.put(b"trak", |b| {
        // Enabled and in the movie.
        b.put_full(b"tkhd", 0, 0b11, |b| {
            b.zeros(8);
            b.u32(id);
            b.zeros(4);
            b.u32(0); // duration
            b.zeros(8);
            b.u16(0); // layer
            b.u16(0); // alternate_group
            b.u16(volume);
            b.zeros(2);
            UNITY_MATRIX.into_iter().for_each(|value| b.u32(value));
            b.u32(u32::from(width) << 16);
            b.u32(u32::from(height) << 16);
        });
        if let Media::Metadata(..) = media {
            // Section 8.3.3: the track that it describes.
            b.put(b"tref", |b| b.put(b"cdsc", |b| b.u32(VIDEO_TRACK)));
        }
        b.put(b"mdia", |b| {
            media_header(b, timescale);
            handler(b, media);
            b.put(b"minf", |b| media_information(b, media));
        });
    });
}

/// The sample entry of G.711 (section 12.2.3; `ulaw` and `alaw` are QuickTime's names, which its readers and those that
/// came after it know). Kept as it came: ffmpeg, VLC and mpv play it in this form, browsers do not play G.711 in any.
pub fn g711_sample_entry(codec: Codec, channels: u16, rate: NonZeroU32) -> Option<Vec<u8>> {
    let kind = match codec {
        Codec::Pcmu => b"ulaw",
        Codec::Pcma => b"alaw",
        Codec::H264 | Codec::H265 | Codec::Aac | Codec::Opus => return None,
    };
    // The rate is 16.16 fixed point.
    let rate = u16::try_from(rate.get()).ok()?;
    let mut boxes = Boxes::default();
    boxes.put(kind, |b| {
        b.zeros(6);
        b.u16(1); // data_reference_index
        b.zeros(8);
        b.u16(channels);
        b.u16(16); // samplesize: of what it decodes to
        b.zeros(4);
        b.u32(u32::from(rate) << 16);
    });
    Some(boxes.into_bytes())
}

/// `mdhd`, section 8.4.2.
fn media_header(b: &mut Boxes, timescale: NonZeroU32) {
    b.put_full(b"mdhd", 0, 0, |b| {
        b.zeros(8);
        b.u32(timescale.get());
        b.u32(0);
        b.u16(UNDETERMINED_LANGUAGE);
        b.u16(0);
    });
}

/// `hdlr`, section 8.4.3.
fn handler(b: &mut Boxes, media: &Media<'_>) {
    b.put_full(b"hdlr", 0, 0, |b| {
        b.u32(0);
        b.raw(match media {
            Media::Video(_) => b"vide",
            Media::Audio(_) => b"soun",
            Media::Metadata(..) => b"meta",
        });
        b.zeros(12);
        b.raw(b"Longwatch\0");
    });
}

/// What is in `minf`, section 8.4.4: a media header, a data reference to this very file, an empty sample table.
fn media_information(b: &mut Boxes, media: &Media<'_>) {
    match media {
        Media::Video(_) => b.put_full(b"vmhd", 0, 1, |b| b.zeros(8)),
        Media::Audio(_) => b.put_full(b"smhd", 0, 0, |b| b.zeros(4)),
        Media::Metadata(..) => b.put_full(b"nmhd", 0, 0, |_| {}),
    }
    b.put(b"dinf", |b| {
        b.put_full(b"dref", 0, 0, |b| {
            b.u32(1);
            b.put_full(b"url ", 0, 1, |_| {});
        });
    });
    b.put(b"stbl", |b| {
        b.put_full(b"stsd", 0, 0, |b| {
            b.u32(1);
            b.raw(match media {
                Media::Video(video) => &video.sample_entry,
                Media::Audio(audio) => &audio.sample_entry,
                Media::Metadata(metadata, _) => &metadata.sample_entry,
            });
        });
        b.put_full(b"stts", 0, 0, |b| b.u32(0));
        b.put_full(b"stsc", 0, 0, |b| b.u32(0));
        b.put_full(b"stsz", 0, 0, |b| b.zeros(8));
        b.put_full(b"stco", 0, 0, |b| b.u32(0));
    });
}

/// `trex`, section 8.8.3.
fn track_extends(b: &mut Boxes, track: u32, default_flags: u32) {
    b.put_full(b"trex", 0, 0, |b| {
        b.u32(track);
        b.u32(1); // sample description
        b.zeros(8); // duration, size
        b.u32(default_flags);
    });
}

/// `prft`, section 8.16.5: media time 0 of the video track was at `start`. So a segment tells its own time to the
/// microsecond, whatever becomes of its name.
fn producer_reference_time(b: &mut Boxes, start: Timestamp) {
    b.put_full(b"prft", 1, 0, |b| {
        b.u32(VIDEO_TRACK);
        b.u64(ntp::of(start));
        b.u64(0);
    });
}
