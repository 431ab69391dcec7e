//! Up to when each camera was stored by segments that are not here any more, because they were uploaded: where the next
//! start resumes, if nothing newer is on the disk. `uploaded_until.json`.
//!
//! Invariant: the file of a camera's newest segment goes only after this was written.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use longwatch_events::id::{CameraId, TenantId};
use longwatch_events::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::durable;
use crate::plan::Key;

/// The file's name.
pub(super) const FILE: &str = "uploaded_until.json";

#[derive(Serialize, Deserialize)]
struct Entry {
    tenant_id: TenantId,
    camera_id: CameraId,
    end: Timestamp,
}

/// What is known.
#[derive(Debug)]
pub(super) struct Ends {
    path: PathBuf,
    known: BTreeMap<Key, Timestamp>,
}

impl Ends {
    /// As an earlier run left it. Blocks.
    pub(super) fn load(path: PathBuf) -> Self {
        let known = read(&path).unwrap_or_else(|error| {
            let path = path.display();
            tracing::error!(%path, %error, "cannot read up to when uploaded segments reached; a gap may be told too short");
            BTreeMap::new()
        });
        Self { path, known }
    }

    /// All that is known.
    pub(super) const fn known(&self) -> &BTreeMap<Key, Timestamp> {
        &self.known
    }

    /// Takes these, and makes them durable if any is news. Blocks.
    ///
    /// # Errors
    ///
    /// If the disk fails.
    pub(super) fn note(&mut self, ends: impl IntoIterator<Item = (Key, Timestamp)>) -> io::Result<()> {
        let mut known = self.known.clone();
        for (camera, end) in ends {
            let newest = known.entry(camera).or_insert(end);
            *newest = end.max(*newest);
        }
        if known == self.known {
            return Ok(());
        }
        let entry = |(key, end): (&Key, &Timestamp)| Entry {
            tenant_id: key.tenant_id,
            camera_id: key.camera_id,
            end: *end,
        };
        let entries: Vec<_> = known.iter().map(entry).collect();
        durable::replace(&self.path, &serde_json::to_vec(&entries).map_err(io::Error::other)?)?;
        self.known = known;
        Ok(())
    }
}

fn read(path: &Path) -> io::Result<BTreeMap<Key, Timestamp>> {
    let Some(bytes) = durable::read(path)? else { return Ok(BTreeMap::new()) };
    let entries: Vec<Entry> = serde_json::from_slice(&bytes)?;
    let known = |entry: Entry| {
        let Entry { tenant_id, camera_id, end } = entry;
        (Key { tenant_id, camera_id }, end)
    };
    Ok(entries.into_iter().map(known).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use longwatch_events::id::SystemIds;

    #[test]
    fn the_latest_end_of_each_camera_is_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let camera = || Key { tenant_id: TenantId::DEFAULT, camera_id: CameraId::generate(&SystemIds) };
        let (a, b, at) = (camera(), camera(), Timestamp::from_millis);
        let mut ends = Ends::load(path.clone());
        ends.note([(a, at(2)), (b, at(5)), (a, at(1))]).unwrap();
        ends.note([(a, at(1))]).unwrap();
        assert_eq!(Ends::load(path.clone()).known(), &BTreeMap::from([(a, at(2)), (b, at(5))]));
        // What is no news is not written.
        std::fs::remove_file(&path).unwrap();
        ends.note([(b, at(4))]).unwrap();
        assert!(!path.exists());
        std::fs::write(&path, "{").unwrap();
        assert!(Ends::load(path).known().is_empty());
    }
}
