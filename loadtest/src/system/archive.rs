//! What lies in an archive on disk, by the names of its files (the layout is a contract with whoever plays them).

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use longwatch_events::id::{CameraId, ServerId};
use longwatch_events::position::Epoch;
use longwatch_events::time::Timestamp;

use crate::frames::{self, FileReport};
use crate::sei::FrameNumber;

/// What an open segment has behind its name.
const PART: &str = ".part";

/// A file of `ARCHIVE/<tenant>/<camera>/<date>/<time>_<epoch>_<server>.mp4`, stored or still `….mp4.part`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Where.
    pub path: PathBuf,
    /// Of which camera.
    pub camera_id: CameraId,
    /// Time of its first frame, to the millisecond.
    pub start: Timestamp,
    /// Under which assignment.
    pub epoch: Epoch,
    /// By which server.
    pub server_id: ServerId,
    /// Still being written, or left torn by a crash.
    pub open: bool,
}

impl Segment {
    fn parse(path: PathBuf) -> Option<Self> {
        let file = path.file_name()?.to_str()?;
        let (name, open) = match file.strip_suffix(PART) {
            Some(name) => (name, true),
            None => (file, false),
        };
        let mut words = name.strip_suffix(".mp4")?.split('_');
        let time = words.next()?.replace('-', ":");
        let epoch = Epoch(words.next()?.parse().ok()?);
        let server_id = words.next()?.parse().ok()?;
        let day = path.parent()?;
        let start = format!("{}T{time}", day.file_name()?.to_str()?).parse().ok()?;
        let camera_id = day.parent()?.file_name()?.to_str()?.parse().ok()?;
        Some(Self { path, camera_id, start, epoch, server_id, open })
    }

    /// What is in it. An open one may be torn: what is whole counts; `None`: not even a frame is.
    ///
    /// # Errors
    /// If it is stored and cannot be read.
    pub fn inspect(&self) -> anyhow::Result<Option<FileReport>> {
        match frames::inspect(&self.path) {
            Ok(report) => Ok(Some(report)),
            Err(_) if self.open => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot inspect {}", self.path.display())),
        }
    }

    /// The numbers of the video frames in it.
    ///
    /// # Errors
    /// As [`Self::inspect`].
    pub fn numbers(&self) -> anyhow::Result<Vec<FrameNumber>> {
        Ok(self.inspect()?.map(|report| report.numbers).unwrap_or_default())
    }
}

/// The segments below `archive`, by camera and time.
pub fn segments(archive: &Path) -> Vec<Segment> {
    let mut segments: Vec<_> = files(archive).into_iter().filter_map(Segment::parse).collect();
    // `….mp4.part` stands behind no other segment's name that begins alike: names begin with the time.
    segments.sort_by(|one, two| (one.camera_id, &one.path).cmp(&(two.camera_id, &two.path)));
    segments
}

/// Every file below `folder`, by path.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(files(&entry.path())),
            _ => found.push(entry.path()),
        }
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_camera_epoch_and_server() {
        let folder = tempfile::tempdir().unwrap();
        let (camera, server) =
            ("0198c1a0-0000-7000-8000-000000000001", "0198c1a0-0000-7000-8000-000000000002");
        let day = folder.path().join("tenant").join(camera).join("2026-11-23");
        std::fs::create_dir_all(&day).unwrap();
        for name in [
            format!("08-00-10.000Z_7_{server}.mp4.part"),
            format!("08-00-00.000Z_7_{server}.mp4"),
            "else".to_owned(),
        ] {
            std::fs::write(day.join(name), b"").unwrap();
        }
        let found = segments(folder.path());
        let open: Vec<_> = found.iter().map(|segment| segment.open).collect();
        assert_eq!(open, [false, true]);
        assert!(found.iter().all(|segment| {
            segment.camera_id.to_string() == camera
                && segment.server_id.to_string() == server
                && segment.epoch == Epoch(7)
        }));
        assert_eq!(found[1].start, "2026-11-23T08:00:10Z".parse().unwrap());
        assert_eq!(found[1].numbers().unwrap(), [], "an open one may be empty");
        assert!(found[0].numbers().is_err(), "a stored one may not");
    }
}
