//! What lies under the archive's root: segments by their keys, and what they are called before and after they are one.

pub use longwatch_events::segment_name::{PART, SegmentName};

/// What the name of an open segment gets behind [`PART`] when its disk failed to sync it. What the file holds can be
/// read, but nobody knows how much of it is on the disk, and syncing it again would not tell.
pub const UNSYNCED: &str = ".unsynced";
/// What a copy of such a file is called until it is durable; worth nothing after a crash.
pub const COPY: &str = ".copy";
/// What the name of a segment has behind its own once it is in the object store. It is no segment any more, and goes when
/// that was told.
pub const UPLOADED: &str = ".uploaded";
/// Where the worker keeps what is not an archive, under the archive's root.
pub const STATE_FOLDER: &str = ".longwatch";
