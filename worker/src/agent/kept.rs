//! How long video of each camera is kept on this server, as it was last told: `retention.json`. A camera that is not
//! recorded here any more keeps what it was told last, for its video is still here.
//!
//! Invariant: what is not known bounds nothing, so nothing is deleted for want of a file.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use longwatch_events::assignment::AssignedCamera;
use longwatch_events::id::{CameraId, TenantId};
use longwatch_events::settings::Retention;
use serde::{Deserialize, Serialize};

use crate::durable;
use crate::plan::Key;

/// The file's name.
pub(super) const FILE: &str = "retention.json";

#[derive(Serialize, Deserialize)]
struct Entry {
    tenant_id: TenantId,
    camera_id: CameraId,
    retention: Retention,
}

/// What is known.
#[derive(Debug)]
pub(super) struct Kept {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    known: BTreeMap<Key, Retention>,
    unsaved: bool,
}

impl Kept {
    /// As an earlier run left it. Blocks.
    pub(super) fn load(path: PathBuf) -> Self {
        let known = read(&path).unwrap_or_else(|error| {
            let path = path.display();
            tracing::error!(%path, %error, "cannot read how long video is kept; what is not recorded now is kept for ever");
            BTreeMap::new()
        });
        Self { path, state: Mutex::new(State { known, unsaved: false }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is a single one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what is told of cameras.
    pub(super) fn learn(&self, cameras: &[AssignedCamera]) {
        let mut state = self.state();
        for camera in cameras {
            let Some(retention) = camera.retention else { continue };
            state.unsaved |= state.known.insert(Key::from(camera), retention) != Some(retention);
        }
    }

    /// All that is known.
    pub(super) fn known(&self) -> BTreeMap<Key, Retention> {
        self.state().known.clone()
    }

    /// Writes what is news. Blocks.
    ///
    /// # Errors
    ///
    /// If the disk fails. The next call tries again.
    pub(super) fn save(&self) -> io::Result<()> {
        let known = {
            let mut state = self.state();
            if !std::mem::take(&mut state.unsaved) {
                return Ok(());
            }
            state.known.clone()
        };
        let entry = |(key, retention): (Key, Retention)| Entry {
            tenant_id: key.tenant_id,
            camera_id: key.camera_id,
            retention,
        };
        let entries: Vec<_> = known.into_iter().map(entry).collect();
        let json = serde_json::to_vec(&entries).map_err(io::Error::other)?;
        durable::replace(&self.path, &json).inspect_err(|_| self.state().unsaved = true)
    }
}

fn read(path: &Path) -> io::Result<BTreeMap<Key, Retention>> {
    let Some(bytes) = durable::read(path)? else { return Ok(BTreeMap::new()) };
    let entries: Vec<Entry> = serde_json::from_slice(&bytes)?;
    let known = |entry: Entry| {
        let Entry { tenant_id, camera_id, retention } = entry;
        (Key { tenant_id, camera_id }, retention)
    };
    Ok(entries.into_iter().map(known).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use longwatch_events::id::SystemIds;
    use longwatch_events::position::{Epoch, Position};
    use longwatch_events::sealed::Base64Bytes;

    fn told(camera_id: CameraId, retention: Option<Retention>) -> AssignedCamera {
        AssignedCamera {
            tenant_id: TenantId::DEFAULT,
            camera_id,
            epoch: Epoch(1),
            settings_version: Position(1),
            source: Base64Bytes(Vec::new()),
            single_session: false,
            live_latency_ms: None,
            priority: None,
            retention,
            recording: None,
        }
    }

    #[test]
    fn what_was_told_last_of_each_camera_is_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let days = |days| Some(Retention { max_days: Some(days), ..Retention::default() });
        let (first, second) = (CameraId::generate(&SystemIds), CameraId::generate(&SystemIds));
        let kept = Kept::load(path.clone());
        kept.learn(&[told(first, days(1)), told(second, days(2))]);
        kept.learn(&[told(second, days(3))]);
        // A set of an older control says nothing of it.
        kept.learn(&[told(second, None)]);
        kept.save().unwrap();
        let known = Kept::load(path.clone()).known();
        assert_eq!(known, kept.known());
        assert_eq!(known.values().filter_map(|retention| retention.max_days).collect::<Vec<_>>(), [1, 3]);
        // What is no news is not written.
        std::fs::remove_file(&path).unwrap();
        kept.learn(&[told(second, days(3))]);
        kept.save().unwrap();
        assert!(!path.exists());
        std::fs::write(&path, "{").unwrap();
        assert!(Kept::load(path).known().is_empty());
    }
}
