//! Video that must not be deleted, whatever its age: `.longwatch/holds.json`, which a person writes: on a server, for what lies
//! on it or is looked after by it; in an object store, for what lies there, whoever looks after it. Read again before every
//! deletion.
//!
//! Invariant: a file that cannot be read or understood holds everything.

use std::io;
use std::path::{Path, PathBuf};

use longwatch_events::id::{CameraId, TenantId};
use longwatch_events::time::Timestamp;
use serde::Deserialize;

use crate::durable;
use crate::plan::Key;

/// The file's name.
pub const FILE: &str = "holds.json";

/// A file that says nothing that can be trusted.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot use {}: {source}; until it is right nothing is deleted. Expected {{\"holds\": [{{\"tenant_id\": …, \"camera_id\": …, \
     \"from\": \"2026-11-23T08:00:00Z\", \"to\": \"2026-11-23T09:00:00Z\", \"why\": …}}]}}", .path.display()
)]
pub struct Error {
    path: PathBuf,
    source: io::Error,
}

/// All of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Holds {
    holds: Vec<Hold>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Hold {
    tenant_id: TenantId,
    camera_id: CameraId,
    from: Timestamp,
    to: Timestamp,
    /// For people.
    #[allow(dead_code, reason = "for whoever reads the file")]
    #[serde(default)]
    why: String,
}

impl Holds {
    /// Reads the file; without one nothing is held. Blocks.
    ///
    /// # Errors
    ///
    /// If it is there and cannot be read or understood.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error { path: path.into(), source };
        match durable::read(path).map_err(failed)? {
            Some(bytes) => Self::parse(&bytes, path),
            None => Ok(Self::default()),
        }
    }

    /// What the content of a file says that stands at `path`, wherever that is.
    ///
    /// # Errors
    ///
    /// If it cannot be understood.
    pub fn parse(content: &[u8], path: &Path) -> Result<Self, Error> {
        let failed = |source| Error { path: path.into(), source };
        let holds: Self = serde_json::from_slice(content).map_err(|e| failed(e.into()))?;
        if let Some(hold) = holds.holds.iter().find(|hold| hold.from >= hold.to) {
            let detail =
                format!("a hold ends at {}, which is not after its beginning {}", hold.to, hold.from);
            return Err(failed(io::Error::new(io::ErrorKind::InvalidData, detail)));
        }
        Ok(holds)
    }

    /// Whether any of the video of this camera between `start` and `end` is held.
    pub fn hold(&self, camera: Key, start: Timestamp, end: Timestamp) -> bool {
        self.holds.iter().any(|hold| {
            (hold.tenant_id, hold.camera_id) == (camera.tenant_id, camera.camera_id)
                && start < hold.to
                && hold.from < end
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use longwatch_events::id::SystemIds;

    fn read(text: &str) -> Result<Holds, Error> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        std::fs::write(&path, text).unwrap();
        Holds::read(&path)
    }

    #[test]
    fn a_segment_that_touches_a_hold_is_held_and_its_neighbours_are_not() {
        let camera = Key { tenant_id: TenantId::DEFAULT, camera_id: CameraId::generate(&SystemIds) };
        let Key { tenant_id, camera_id } = camera;
        let text = format!(
            r#"{{"holds": [{{"tenant_id": "{tenant_id}", "camera_id": "{camera_id}", "from": "2026-11-23T08:00:00Z",
                "to": "2026-11-23T09:00:00Z", "why": "case 17"}}]}}"#
        );
        let holds = read(&text).unwrap();
        let at = |time: &str| format!("2026-11-23T{time}Z").parse::<Timestamp>().unwrap();
        for (start, end, held) in [
            ("07:59:00", "08:00:00", false),
            ("07:59:00", "08:00:01", true),
            ("08:20:00", "08:21:00", true),
            ("08:59:59", "09:01:00", true),
            ("09:00:00", "09:01:00", false),
        ] {
            assert_eq!(holds.hold(camera, at(start), at(end)), held, "{start}");
        }
        let other = Key { camera_id: CameraId::generate(&SystemIds), ..camera };
        assert!(!holds.hold(other, at("08:20:00"), at("08:21:00")));
    }

    #[test]
    fn what_cannot_be_understood_is_an_error_and_no_file_is_none() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Holds::read(&folder.path().join(FILE)).unwrap(), Holds::default());
        let id = "01935700-0000-7000-8003-000000000001";
        let backwards = format!(
            r#"{{"holds": [{{"tenant_id": "{id}", "camera_id": "{id}", "from": "2026-11-23T09:00:00Z", "to": "2026-11-23T08:00:00Z"}}]}}"#
        );
        for text in ["", "{", "[]", r#"{"holds": [{"camera": 1}]}"#, &backwards] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains("nothing is deleted"), "{error}");
        }
    }
}
