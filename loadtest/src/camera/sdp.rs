//! The session description (RFC 8866) that DESCRIBE answers with. Pure.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::camera::clip::{Audio, Clip, Coding, Sound};
use crate::camera::oddity::Announced;
use crate::camera::packet::{
    AUDIO_PAYLOAD_TYPE, G722_PAYLOAD_TYPE, METADATA_PAYLOAD_TYPE, PCMA_PAYLOAD_TYPE, PCMU_PAYLOAD_TYPE,
    VIDEO_PAYLOAD_TYPE,
};
use crate::nal::Standard;

/// The last part of the URL of the video track.
pub const VIDEO_CONTROL: &str = "trackID=0";
/// The last part of the URL of the audio track.
pub const AUDIO_CONTROL: &str = "trackID=1";

/// The last part of the URL of the metadata track.
pub const METADATA_CONTROL: &str = "trackID=2";

/// Parameter sets of an H.264 stream that no clip here is: Baseline, 640x360.
const FOREIGN_SETS: [&str; 2] = ["Z0LAHtkDxWhAAAADAEAAAAwDxYuS", "aMuMsg=="];

/// Describes `clip` as shown by camera `number`; `announced`: which parameter sets.
pub fn describe(number: u32, clip: &Clip, announced: Announced) -> String {
    let mut sdp = session(number);
    describe_video(&mut sdp, clip, announced);
    if let Some(audio) = &clip.audio {
        describe_audio(&mut sdp, audio);
    }
    if let Some(metadata) = &clip.metadata {
        line(&mut sdp, format_args!("m=application 0 RTP/AVP {METADATA_PAYLOAD_TYPE}"));
        line(&mut sdp, format_args!("a=rtpmap:{METADATA_PAYLOAD_TYPE} vnd.onvif.metadata/{}", metadata.rate));
        line(&mut sdp, format_args!("a=control:{METADATA_CONTROL}"));
    }
    sdp
}

/// Describes a camera that has nothing but sound.
pub fn describe_sound(number: u32) -> String {
    let mut sdp = session(number);
    line(&mut sdp, format_args!("m=audio 0 RTP/AVP {PCMU_PAYLOAD_TYPE}"));
    line(&mut sdp, format_args!("a=control:{AUDIO_CONTROL}"));
    sdp
}

fn session(number: u32) -> String {
    format!(
        "v=0\r\no=- {number} 1 IN IP4 127.0.0.1\r\ns=Longwatch simulated camera {number}\r\nc=IN IP4 0.0.0.0\r\n\
         t=0 0\r\na=tool:longwatch-loadtest\r\na=control:*\r\na=range:npt=now-\r\n"
    )
}

fn describe_video(sdp: &mut String, clip: &Clip, announced: Announced) {
    let kbps = clip.bitrate_bps / 1000;
    line(sdp, format_args!("m=video 0 RTP/AVP {VIDEO_PAYLOAD_TYPE}"));
    line(sdp, format_args!("b=AS:{kbps}"));
    let sets: Vec<String> = match announced {
        Announced::Right => clip.format.parameter_sets.iter().map(|set| BASE64.encode(set)).collect(),
        Announced::Nothing => Vec::new(),
        Announced::Wrong => FOREIGN_SETS.map(str::to_owned).into(),
    };
    let (name, parameters) = match clip.format.standard {
        Standard::H264 => ("H264", h264_parameters(clip, &sets)),
        Standard::H265 => ("H265", h265_parameters(clip, &sets)),
    };
    line(sdp, format_args!("a=rtpmap:{VIDEO_PAYLOAD_TYPE} {name}/90000"));
    line(sdp, format_args!("a=fmtp:{VIDEO_PAYLOAD_TYPE} {parameters}"));
    line(sdp, format_args!("a=framerate:{:.2}", clip.frame_rate));
    line(sdp, format_args!("a=control:{VIDEO_CONTROL}"));
}

/// RFC 6184, 8.1.
fn h264_parameters(clip: &Clip, sets: &[String]) -> String {
    let profile = clip.format.parameter_sets.first().and_then(|sps| sps.get(1..4)).map(hex::encode_upper);
    let profile = profile.unwrap_or_default();
    let announced =
        if sets.is_empty() { String::new() } else { format!(";sprop-parameter-sets={}", sets.join(",")) };
    format!("packetization-mode=1;profile-level-id={profile}{announced}")
}

/// RFC 7798, 7.1.
fn h265_parameters(clip: &Clip, sets: &[String]) -> String {
    let named = |kind: u8| {
        let of_kind = |nal: &[u8]| Standard::H265.nal_type(nal) == Some(kind);
        let with_text = clip.format.parameter_sets.iter().zip(sets);
        let texts: Vec<&str> =
            with_text.filter(|(set, _)| of_kind(set)).map(|(_, text)| text.as_str()).collect();
        texts.join(",")
    };
    format!("sprop-vps={};sprop-sps={};sprop-pps={}", named(32), named(33), named(34))
}

fn describe_audio(sdp: &mut String, audio: &Audio) {
    let rate = audio.media.rate;
    match &audio.coding {
        // RFC 3640, 4.1 and 3.3.6.
        Coding::Aac { config } => {
            let config = hex::encode(config);
            line(sdp, format_args!("m=audio 0 RTP/AVP {AUDIO_PAYLOAD_TYPE}"));
            line(sdp, format_args!("a=rtpmap:{AUDIO_PAYLOAD_TYPE} mpeg4-generic/{rate}/{}", audio.channels));
            line(
                sdp,
                format_args!(
                    "a=fmtp:{AUDIO_PAYLOAD_TYPE} streamtype=5;profile-level-id=1;mode=AAC-hbr;sizelength=13;\
                     indexlength=3;indexdeltalength=3;config={config}"
                ),
            );
        }
        // Static payload types: many cameras say no more (RFC 3551, table 4).
        Coding::Sound(Sound::Pcmu) => line(sdp, format_args!("m=audio 0 RTP/AVP {PCMU_PAYLOAD_TYPE}")),
        Coding::Sound(Sound::Pcma) => line(sdp, format_args!("m=audio 0 RTP/AVP {PCMA_PAYLOAD_TYPE}")),
        Coding::Sound(Sound::G722) => line(sdp, format_args!("m=audio 0 RTP/AVP {G722_PAYLOAD_TYPE}")),
        // RFC 7587, 7.
        Coding::Sound(Sound::Opus) => {
            line(sdp, format_args!("m=audio 0 RTP/AVP {AUDIO_PAYLOAD_TYPE}"));
            line(sdp, format_args!("a=rtpmap:{AUDIO_PAYLOAD_TYPE} opus/48000/2"));
        }
    }
    line(sdp, format_args!("a=control:{AUDIO_CONTROL}"));
}

fn line(sdp: &mut String, text: std::fmt::Arguments<'_>) {
    write!(sdp, "{text}\r\n").expect("invariant: writing to a String cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::camera::clip::embedded;

    #[test]
    fn a_description_names_every_parameter_set() {
        let h264 = describe(1, &Clip::from_mp4("h264", embedded::H264).unwrap(), Announced::Right);
        assert!(
            h264.contains("H264/90000\r\na=fmtp:96 packetization-mode=1;profile-level-id=6400"),
            "{h264}"
        );
        assert!(h264.contains("mpeg4-generic/16000/1\r\n") && h264.contains("config=1408"), "{h264}");
        let h265 = describe(1, &Clip::from_mp4("h265", embedded::H265).unwrap(), Announced::Right);
        for set in ["sprop-vps=QAE", "sprop-sps=QgE", "sprop-pps=RAH"] {
            assert!(h265.contains(set), "{set} in {h265}");
        }
        assert!(!h265.contains("m=audio"));
    }

    #[test]
    fn a_description_may_be_silent_or_wrong() {
        let clip = Clip::from_mp4("small", embedded::SMALL).unwrap();
        assert!(!describe(1, &clip, Announced::Nothing).contains("sprop"));
        assert!(describe(1, &clip, Announced::Wrong).contains(FOREIGN_SETS[0]));
        assert!(!describe_sound(1).contains("video"));
    }
}
