//! Where a segment lies: `<tenant>/<camera>/<YYYY-MM-DD>/<HH-MM-SS.mmmZ>_<epoch>_<server>.mp4` under an archive's root.
//!
//! Pure. Invariant: a key is built from ids and times only, never from anybody's text, so it cannot leave the root; and
//! it names the epoch and the server, so two servers can never want the same one.

use crate::id::{CameraId, ServerId, TenantId};
use crate::position::Epoch;
use crate::time::Timestamp;

/// What the name of an open segment has behind its final one.
pub const PART: &str = ".part";

/// A segment's identity: everything its key says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SegmentName {
    /// Owner of the camera.
    pub tenant_id: TenantId,
    /// The camera.
    pub camera_id: CameraId,
    /// Time of the first frame. A key holds its milliseconds.
    pub start: Timestamp,
    /// The assignment under which it is recorded.
    pub epoch: Epoch,
    /// The server that records it.
    pub server_id: ServerId,
}

impl SegmentName {
    /// The key, relative to the archive's root, with `/` between folders.
    pub fn key(&self) -> String {
        let Self { tenant_id, camera_id, start, epoch, server_id } = self;
        // RFC 3339 with microseconds: `2026-11-23T08:00:00.123456Z`.
        let text = start.to_string();
        let (date, time) = text.split_once('T').unwrap_or((&text, ""));
        let time = time.get(..12).unwrap_or(time).replace(':', "-");
        format!("{tenant_id}/{camera_id}/{date}/{time}Z_{epoch}_{server_id}.mp4")
    }

    /// Reads a key, whether its segment is open (`….mp4.part`) or stored. `None` if it is no key of ours.
    pub fn parse(key: &str) -> Option<Self> {
        let mut folders = key.split('/');
        let (tenant, camera, date, file) =
            (folders.next()?, folders.next()?, folders.next()?, folders.next()?);
        let file = file.strip_suffix(PART).unwrap_or(file).strip_suffix(".mp4")?;
        let mut words = file.split('_');
        let (time, epoch, server) = (words.next()?, words.next()?, words.next()?);
        let name = Self {
            tenant_id: tenant.parse().ok()?,
            camera_id: camera.parse().ok()?,
            start: format!("{date}T{}", time.replace('-', ":")).parse().ok()?,
            epoch: Epoch(epoch.parse().ok()?),
            server_id: server.parse().ok()?,
        };
        // Only the one spelling: whatever else a parser lets through is not a name of ours.
        (name.key() == key.strip_suffix(PART).unwrap_or(key)).then_some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::SystemIds;
    use proptest::prelude::*;

    fn name(start: Timestamp, epoch: u64) -> SegmentName {
        SegmentName {
            tenant_id: TenantId::DEFAULT,
            camera_id: CameraId::generate(&SystemIds),
            start,
            epoch: Epoch(epoch),
            server_id: ServerId::generate(&SystemIds),
        }
    }

    #[test]
    fn a_key_looks_as_promised() {
        let name = name("2026-11-23T08:09:10.123456Z".parse().unwrap(), 42);
        let expected = format!(
            "{}/{}/2026-11-23/08-09-10.123Z_42_{}.mp4",
            name.tenant_id, name.camera_id, name.server_id
        );
        assert_eq!(name.key(), expected);
    }

    proptest! {
        #[test]
        fn a_key_reads_back(millis in 0..253_402_207_199_999_i64, epoch: u64) {
            let name = name(Timestamp::from_millis(millis), epoch);
            prop_assert_eq!(SegmentName::parse(&name.key()), Some(name));
            prop_assert_eq!(SegmentName::parse(&(name.key() + PART)), Some(name));
        }

        #[test]
        fn nothing_else_is_a_key(text in "\\PC*") {
            prop_assert_eq!(SegmentName::parse(&text), None);
        }
    }

    #[test]
    fn a_key_has_one_spelling() {
        let key = name(Timestamp::from_millis(0), 7).key();
        assert!(SegmentName::parse(&key.to_uppercase()).is_none());
        assert!(SegmentName::parse(&key.replace("_7_", "_07_")).is_none());
        assert!(SegmentName::parse(&format!("{key}/..")).is_none());
    }
}
