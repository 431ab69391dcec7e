//! What a camera offers, in our terms: which of its streams are recorded, and what they are.
//!
//! Reads the library's descriptions and decides; talks to nobody.

use std::num::NonZeroU32;

use longwatch_events::fact::{Cause, Codec};
use retina::client::Stream;
use retina::codec::{AudioFrame, ParametersRef};

use crate::fmp4::init::g711_sample_entry;
use crate::fmp4::metadata::{self, Packing};
use crate::fmp4::opus;
use crate::frame::{AudioTrack, MetadataTrack, VideoTrack};
use crate::source::{Failure, disguise};

/// Streams that are told of one camera: more are not to be expected.
const MAX_OTHERS: usize = 10;

/// Which streams of a camera are recorded, by their place in its description.
pub(super) struct Chosen {
    pub(super) video: usize,
    pub(super) audio: Option<usize>,
    pub(super) metadata: Option<usize>,
}

/// The first video stream, and the first of audio and of metadata that this version records.
pub(super) fn choose(streams: &[Stream]) -> Result<Chosen, Failure> {
    let is_video = |stream: &Stream| stream.media() == "video" && video_codec(stream).is_some();
    let Some(video) = streams.iter().position(is_video) else {
        let offered: Vec<_> = streams.iter().map(kind).take(MAX_OTHERS).collect();
        let offered = if offered.is_empty() { "nothing".to_owned() } else { offered.join(", ") };
        return Err(Failure::new(
            Cause::UnsupportedCodec,
            format!("the camera offers {offered}; needed is video in H.264 or H.265"),
        ));
    };
    let audio = streams.iter().position(|stream| audio_track(stream).is_some());
    Ok(Chosen { video, audio, metadata: metadata_stream(streams) })
}

/// The streams other than these, as `media/encoding`.
pub(super) fn others(streams: &[Stream], recorded: &[Option<usize>]) -> Vec<String> {
    let unchosen = streams.iter().enumerate().filter(|(index, _)| !recorded.contains(&Some(*index)));
    unchosen.map(|(_, stream)| kind(stream)).take(MAX_OTHERS).collect()
}

/// What a stream is, as `media/encoding`; the camera's own words, so of bounded length.
fn kind(stream: &Stream) -> String {
    let name = if is_opus(stream) { "opus" } else { stream.encoding_name() };
    let text = format!("{}/{name}", stream.media());
    text.chars().filter(|c| !c.is_control()).take(50).collect()
}

/// The first stream of metadata.
pub(super) fn metadata_stream(streams: &[Stream]) -> Option<usize> {
    streams.iter().position(|stream| packing(stream).is_some())
}

/// How the documents of a stream of metadata are packed (ONVIF Streaming Specification, section 5.2.1.1); `None` if it is none.
fn packing(stream: &Stream) -> Option<Packing> {
    match (stream.media(), stream.encoding_name()) {
        ("application", "vnd.onvif.metadata") => Some(Packing::Xml),
        ("application", "vnd.onvif.metadata.gzip") => Some(Packing::Gzip),
        ("application", "vnd.onvif.metadata.exi.onvif" | "vnd.onvif.metadata.exi.ext") => Some(Packing::Exi),
        _ => None,
    }
}

/// What there is to know of a stream of metadata; `None` if it is none.
pub(super) fn metadata_track(stream: &Stream) -> Option<MetadataTrack> {
    Some(MetadataTrack { sample_entry: metadata::sample_entry(packing(stream)?) })
}

/// Whether a stream is Opus in disguise.
fn is_opus(stream: &Stream) -> bool {
    stream.media() == "audio" && disguise::is_opus(stream.encoding_name(), stream.clock_rate_hz())
}

/// Whether one of these streams is Opus in disguise.
pub(super) fn has_opus(streams: &[Stream]) -> bool {
    streams.iter().any(is_opus)
}

/// Whether what there is of sound can be had only in disguise: it costs another hop for all that the camera sends.
pub(super) fn wants_disguise(streams: &[Stream]) -> bool {
    let is_undisguised = |stream: &Stream| {
        stream.media() == "audio"
            && stream.encoding_name() == "opus"
            && stream.clock_rate_hz() == opus::RATE.get()
    };
    streams.iter().any(is_undisguised) && !streams.iter().any(|stream| audio_track(stream).is_some())
}

fn video_codec(stream: &Stream) -> Option<Codec> {
    match stream.encoding_name() {
        "h264" => Some(Codec::H264),
        "h265" => Some(Codec::H265),
        _ => None,
    }
}

/// What there is to know of a video stream; `None` before its parameter sets have come.
pub(super) fn video_track(stream: &Stream) -> Option<VideoTrack> {
    let Some(ParametersRef::Video(parameters)) = stream.parameters() else {
        return None;
    };
    let (width, height) = parameters.pixel_dimensions();
    Some(VideoTrack {
        codec: video_codec(stream)?,
        timescale: NonZeroU32::new(stream.clock_rate_hz())?,
        sample_entry: parameters.mp4_sample_entry().build().ok()?.into(),
        width: u16::try_from(width).unwrap_or(u16::MAX),
        height: u16::try_from(height).unwrap_or(u16::MAX),
    })
}

/// What there is to know of an audio stream; `None` if it cannot be stored.
pub(super) fn audio_track(stream: &Stream) -> Option<AudioTrack> {
    if stream.media() != "audio" {
        return None;
    }
    let Some(ParametersRef::Audio(parameters)) = stream.parameters() else {
        return None;
    };
    let timescale = NonZeroU32::new(parameters.clock_rate())?;
    let g711 = |codec| g711_sample_entry(codec, parameters.channels().get(), timescale);
    let (codec, sample_entry) = match stream.encoding_name() {
        "mpeg4-generic" => (Codec::Aac, parameters.mp4_sample_entry().build().ok()?),
        "pcmu" => (Codec::Pcmu, g711(Codec::Pcmu)?),
        "pcma" => (Codec::Pcma, g711(Codec::Pcma)?),
        _ if is_opus(stream) => (Codec::Opus, opus::sample_entry(parameters.channels().get())?),
        _ => return None,
    };
    Some(AudioTrack { codec, timescale, sample_entry: sample_entry.into() })
}

/// How long an audio frame lasts; `None` if it is none. Of G.711 the library counts octets; one of each channel lasts one unit of time.
pub(super) fn audio_duration(stream: &Stream, frame: &AudioFrame) -> Option<NonZeroU32> {
    let told = frame.frame_length();
    match (stream.encoding_name(), stream.parameters()) {
        ("pcmu" | "pcma", Some(ParametersRef::Audio(parameters))) => {
            NonZeroU32::new(told.get() / u32::from(parameters.channels().get())).or(Some(NonZeroU32::MIN))
        }
        _ if is_opus(stream) => opus::duration(frame.data()),
        _ => Some(told),
    }
}
