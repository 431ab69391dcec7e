//! Segments as bytes: fragmented MP4 (ISO/IEC 14496-12:2022, "ISOBMFF"), one video track and at most one of
//! audio and of metadata.
//!
//! A segment is [`init::header`] followed by fragments from [`mux::Muxer`]; [`scan`] reads that form back after a
//! crash, and [`retime`] puts it on the time line of its camera. Pure: no files here. Not a general MP4 library: it writes one shape, and reads only what it wrote.
//!
//! Invariants: decode times of a track strictly increase and begin at or after 0; presentation times are kept as they
//! came; any prefix of a segment that ends at a fragment's end is a valid file.

mod boxes;
pub mod init;
pub mod metadata;
pub mod mux;
pub mod opus;
pub mod retime;
pub mod samples;
pub mod scan;
#[cfg(test)]
mod tests;

pub use mux::{Fragment, Muxer};
pub use samples::Samples;

/// Track id of video (section 8.3.2).
const VIDEO_TRACK: u32 = 1;
/// Track id of audio.
const AUDIO_TRACK: u32 = 2;
/// Track id of metadata.
const METADATA_TRACK: u32 = 3;

/// Why samples cannot become a fragment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The size fields of `mdat` and `trun` have 32 bits.
    #[error("a fragment of {bytes} bytes is larger than a fragment can be (2 GiB)")]
    TooLarge {
        /// Bytes of samples.
        bytes: usize,
    },
}
