//! What is odd about a camera that can be recorded all the same. Pure.

use std::sync::Arc;
use std::time::Duration;

use crate::camera::clip::{self, Clip, Make, Sound, embedded};
use crate::camera::clockwork::{Clockwork, Jumps, Reports};
use crate::camera::metadata::Metadata;
use crate::camera::packet::{LARGEST_PAYLOAD, MAX_PAYLOAD};

/// What is odd about a camera. The text is its name in the path `/odd/NAME/N`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oddity {
    /// `pcmu`: G.711 µ-law beside its video.
    Pcmu,
    /// `pcma`: G.711 A-law.
    Pcma,
    /// `opus`: Opus.
    Opus,
    /// `g722`: offers sound that nobody records.
    G722,
    /// `h265-open-gop`: H.265 with B-frames, whose keyframes are CRA pictures.
    H265OpenGop,
    /// `sps-change`: changes its picture's size every four seconds.
    SpsChange,
    /// `no-sps`: its SDP has no parameter sets.
    NoSps,
    /// `wrong-sps`: its SDP has those of another stream.
    WrongSps,
    /// `long-gop`: a keyframe every 12 s.
    LongGop,
    /// `50fps`: 50 pictures a second.
    Fps50,
    /// `large-keyframes`: keyframes of 900 KB.
    LargeKeyframes,
    /// `large-packets`: RTP packets as large as the framing allows.
    LargePackets,
    /// `zero-durations`: two pictures at a time have the same timestamp.
    ZeroDurations,
    /// `jump-forward`: its timestamps jump by an hour every 7 s.
    JumpForward,
    /// `jump-back`: back by an hour every 7 s.
    JumpBack,
    /// `fast-clock`: its media clock is fast by 300 ppm.
    FastClock,
    /// `reports-behind`: its reports are 1 s behind.
    ReportsBehind,
    /// `reports-wrong`: its reports are 20 years behind.
    ReportsWrong,
    /// `no-reports`: it sends none.
    NoReports,
    /// `metadata`: a document of metadata every 200 ms.
    Metadata,
    /// `metadata-garbage`: metadata that is no text.
    MetadataGarbage,
    /// `metadata-huge`: documents of 10 MiB.
    MetadataHuge,
    /// `metadata-endless`: a document that does not end.
    MetadataEndless,
    /// `metadata-refused`: offers metadata, and refuses it.
    MetadataRefused,
    /// `slow`: takes a second for each answer, and sends what it has every 3 s.
    Slow,
}

/// What a camera's SDP says of parameter sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Announced {
    /// The right ones.
    #[default]
    Right,
    /// None.
    Nothing,
    /// Those of another stream.
    Wrong,
}

/// How a camera differs from a good one, besides its clip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traits {
    /// Its media clock.
    pub clockwork: Clockwork,
    /// Its reports.
    pub reports: Reports,
    /// Its SDP.
    pub announced: Announced,
    /// It takes so long for each answer.
    pub answers_after: Option<Duration>,
    /// It refuses the metadata that it offers.
    pub refuses_metadata: bool,
    /// Packets are held back for so long, and then sent together.
    pub burst: Option<Duration>,
}

impl Oddity {
    /// All of them, by name.
    pub const ALL: [(&'static str, Self); 25] = [
        ("pcmu", Self::Pcmu),
        ("pcma", Self::Pcma),
        ("opus", Self::Opus),
        ("h265-open-gop", Self::H265OpenGop),
        ("sps-change", Self::SpsChange),
        ("no-sps", Self::NoSps),
        ("wrong-sps", Self::WrongSps),
        ("long-gop", Self::LongGop),
        ("50fps", Self::Fps50),
        ("large-keyframes", Self::LargeKeyframes),
        ("large-packets", Self::LargePackets),
        ("zero-durations", Self::ZeroDurations),
        ("jump-forward", Self::JumpForward),
        ("jump-back", Self::JumpBack),
        ("fast-clock", Self::FastClock),
        ("reports-behind", Self::ReportsBehind),
        ("reports-wrong", Self::ReportsWrong),
        ("no-reports", Self::NoReports),
        ("slow", Self::Slow),
        ("g722", Self::G722),
        ("metadata", Self::Metadata),
        ("metadata-garbage", Self::MetadataGarbage),
        ("metadata-huge", Self::MetadataHuge),
        ("metadata-endless", Self::MetadataEndless),
        ("metadata-refused", Self::MetadataRefused),
    ];

    /// What it shows.
    ///
    /// # Errors
    /// A built-in clip that cannot be used: never.
    pub fn clip(self) -> Result<Arc<Clip>, clip::Error> {
        let usual = Make { max_payload: MAX_PAYLOAD, keyframe_filler: 0 };
        let small = |make| Clip::made("small", &[embedded::SMALL], make);
        let clip = match self {
            Self::Pcmu => small(usual)?.with_sound(Sound::Pcmu),
            Self::Pcma => small(usual)?.with_sound(Sound::Pcma),
            Self::Opus => small(usual)?.with_sound(Sound::Opus),
            Self::G722 => small(usual)?.with_sound(Sound::G722),
            Self::Metadata | Self::MetadataRefused => small(usual)?.with_metadata(Metadata::Documents),
            Self::MetadataGarbage => small(usual)?.with_metadata(Metadata::Garbage),
            Self::MetadataHuge => small(usual)?.with_metadata(Metadata::Huge),
            Self::MetadataEndless => small(usual)?.with_metadata(Metadata::Endless),
            Self::H265OpenGop => Clip::made("h265-open-gop", &[embedded::H265_OPEN_GOP], usual)?,
            Self::SpsChange => Clip::made("sps-change", &[embedded::SMALL, embedded::WIDE], usual)?,
            Self::LongGop => Clip::made("long-gop", &[embedded::LONG_GOP], usual)?,
            Self::Fps50 => Clip::made("50fps", &[embedded::FPS50], usual)?,
            Self::LargeKeyframes => small(Make { keyframe_filler: 900_000, ..usual })?,
            Self::LargePackets => {
                Clip::made("h264", &[embedded::H264], Make { max_payload: LARGEST_PAYLOAD, ..usual })?
            }
            Self::NoSps
            | Self::WrongSps
            | Self::ZeroDurations
            | Self::JumpForward
            | Self::JumpBack
            | Self::FastClock
            | Self::ReportsBehind
            | Self::ReportsWrong
            | Self::NoReports
            | Self::Slow => small(usual)?,
        };
        Ok(Arc::new(clip))
    }

    /// How it differs otherwise.
    pub fn traits(self) -> Traits {
        let usual = Traits::default();
        let jumps = |by_s| {
            let jumps = Some(Jumps { every: Duration::from_secs(7), by_s });
            Traits { clockwork: Clockwork { jumps, ..Clockwork::default() }, ..usual }
        };
        match self {
            Self::NoSps => Traits { announced: Announced::Nothing, ..usual },
            Self::WrongSps => Traits { announced: Announced::Wrong, ..usual },
            Self::ZeroDurations => {
                Traits { clockwork: Clockwork { in_pairs: true, ..Clockwork::default() }, ..usual }
            }
            Self::JumpForward => jumps(3_600),
            Self::JumpBack => jumps(-3_600),
            Self::FastClock => {
                Traits { clockwork: Clockwork { fast_ppm: 300, ..Clockwork::default() }, ..usual }
            }
            Self::ReportsBehind => Traits { reports: Reports::Ahead { ms: -1_000 }, ..usual },
            Self::ReportsWrong => Traits { reports: Reports::Ahead { ms: -20 * 365 * 86_400_000 }, ..usual },
            Self::MetadataRefused => Traits { refuses_metadata: true, ..usual },
            Self::NoReports => Traits { reports: Reports::None, ..usual },
            Self::Slow => Traits {
                answers_after: Some(Duration::from_secs(1)),
                burst: Some(Duration::from_secs(3)),
                ..usual
            },
            Self::Pcmu
            | Self::Pcma
            | Self::Opus
            | Self::G722
            | Self::Metadata
            | Self::MetadataGarbage
            | Self::MetadataHuge
            | Self::MetadataEndless
            | Self::H265OpenGop
            | Self::SpsChange
            | Self::LongGop
            | Self::Fps50
            | Self::LargeKeyframes
            | Self::LargePackets => usual,
        }
    }
}
