//! A volume: a folder with video, on a file system that may be its own, and the id that tells it from every other one.
//!
//! The id stands in `.longwatch/volume.json`; or, if the volume was full when it got one, in the name of an empty file, which
//! takes no room: `.longwatch/volume~<id>`. It is what deletions that are under way name, so that a volume that is
//! mounted elsewhere, or not at all, is never taken for another one. Invariant: an id that cannot be read is an error,
//! never a reason to make a new one.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use longwatch_events::id::{SystemIds, VolumeId};
use serde::{Deserialize, Serialize};

use super::layout::STATE_FOLDER;
use crate::durable;

const FILE: &str = "volume.json";
/// What the name of an empty file begins with that says the id.
const NAME: &str = "volume~";

/// A volume that is not usable as one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk said no.
    #[error("cannot {step} {}: {source}", .path.display())]
    Io {
        /// What was being done.
        step: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Two folders are one volume.
    #[error("{} and {} are one volume: name it once", .path.display(), .other.display())]
    Twice {
        /// A folder.
        path: PathBuf,
        /// The other one.
        other: PathBuf,
    },
    /// It is not the volume that was there before.
    #[error(
        "the volume {known} that was at {} is not mounted{}: mount it; or, if it is gone for good, start once without that \
         folder, and it is taken for a new one", .path.display(), .found.map(|id| format!(", but {id} is")).unwrap_or_default()
    )]
    Another {
        /// The folder.
        path: PathBuf,
        /// What was there.
        known: VolumeId,
        /// What is there.
        found: Option<VolumeId>,
    },
    /// Its file is not one of this version.
    #[error(
        "{} is not the identity of a volume that this version can read ({detail}): put back a good copy; or, if nothing of \
         this server lies on the volume, remove the file", .path.display()
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
}

#[derive(Serialize, Deserialize)]
struct Identity {
    volume_id: VolumeId,
}

/// A volume. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its folder.
    pub root: Arc<Path>,
    /// Its id.
    pub id: VolumeId,
}

/// Space on a volume, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Space {
    /// Free for this user.
    pub free: u64,
    /// All.
    pub total: u64,
}

impl Space {
    /// What lacks of so much free space.
    pub fn lacking(self, keep_free_percent: u8) -> u64 {
        self.kept_free(keep_free_percent).saturating_sub(self.free)
    }

    /// What there is above so much free space.
    pub fn above(self, keep_free_percent: u8) -> u64 {
        self.free.saturating_sub(self.kept_free(keep_free_percent))
    }

    fn kept_free(self, percent: u8) -> u64 {
        u64::try_from(u128::from(self.total) * u128::from(percent) / 100).unwrap_or(u64::MAX)
    }
}

impl Volume {
    /// The volume in the folder `root`, which gets an id if it has none. Blocks.
    ///
    /// # Errors
    ///
    /// If the disk fails, or its id cannot be read.
    pub fn take(root: &Path) -> Result<Self, Error> {
        let folder = root.join(STATE_FOLDER);
        let path = folder.join(FILE);
        let failed = |step, source| Error::Io { step, path: path.clone(), source };
        if let Some(volume) = Self::find(root)? {
            return Ok(volume);
        }
        std::fs::create_dir_all(root).map_err(|e| failed("create the folder of", e))?;
        durable::create_private_folder(&folder).map_err(|e| failed("create the folder of", e))?;
        let id = VolumeId::generate(&SystemIds);
        let json = serde_json::to_vec(&Identity { volume_id: id }).map_err(|e| failed("write", e.into()))?;
        match durable::replace(&path, &json) {
            Err(e) if e.kind() == io::ErrorKind::StorageFull => {
                durable::replace(&folder.join(format!("{NAME}{id}")), b"").map_err(|e| failed("write", e))?;
            }
            written => written.map_err(|e| failed("write", e))?,
        }
        Ok(Self { root: root.into(), id })
    }

    /// The volume in the folder `root`; `None` if there is none. Blocks.
    ///
    /// # Errors
    ///
    /// If its id cannot be read.
    pub fn find(root: &Path) -> Result<Option<Self>, Error> {
        let path = root.join(STATE_FOLDER).join(FILE);
        let failed = |step, source| Error::Io { step, path: path.clone(), source };
        let Some(bytes) = durable::read(&path).map_err(|e| failed("read", e))? else {
            let named = id_in_a_name(&root.join(STATE_FOLDER)).map_err(|e| failed("read", e))?;
            return Ok(named.map(|id| Self { root: root.into(), id }));
        };
        let unreadable =
            |e: serde_json::Error| Error::Unreadable { path: path.clone(), detail: e.to_string() };
        let Identity { volume_id: id } = serde_json::from_slice(&bytes).map_err(unreadable)?;
        Ok(Some(Self { root: root.into(), id }))
    }

    /// How much space it has. Blocks.
    ///
    /// # Errors
    ///
    /// What statvfs(3) says.
    pub fn space(&self) -> io::Result<Space> {
        space(&self.root)
    }
}

/// The id that the name of a file in this folder says.
fn id_in_a_name(folder: &Path) -> io::Result<Option<VolumeId>> {
    let entries = match std::fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    let names = entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
    let id = |name: &std::ffi::OsString| name.to_str()?.strip_prefix(NAME)?.parse().ok();
    Ok(names.iter().find_map(id))
}

/// How much space there is in the file system of this folder. Blocks.
///
/// # Errors
///
/// What statvfs(3) says.
pub fn space(root: &Path) -> io::Result<Space> {
    let volume = rustix::fs::statvfs(root)?;
    Ok(Space {
        free: volume.f_bavail.saturating_mul(volume.f_frsize),
        total: volume.f_blocks.saturating_mul(volume.f_frsize),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_keeps_its_id_and_another_has_another() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = Volume::take(a.path()).unwrap();
        assert_eq!(Volume::take(a.path()).unwrap(), first);
        assert_ne!(Volume::take(b.path()).unwrap().id, first.id);
        assert!(first.space().unwrap().total > 0);
        std::fs::write(a.path().join(".longwatch/volume.json"), "{}").unwrap();
        let error = Volume::take(a.path()).unwrap_err().to_string();
        assert!(error.contains("volume.json") && error.contains("volume_id"), "{error}");
    }

    #[test]
    fn an_id_in_a_name_is_one_and_a_file_counts_more() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join(STATE_FOLDER);
        std::fs::create_dir(&state).unwrap();
        let id = "01935700-0000-7000-8009-000000000001";
        // Not finished, and nobody's.
        std::fs::write(state.join(format!("{NAME}{id}.tmp")), "").unwrap();
        assert_eq!(Volume::find(folder.path()).unwrap(), None);
        std::fs::write(state.join(format!("{NAME}{id}")), "").unwrap();
        assert_eq!(Volume::take(folder.path()).unwrap().id.to_string(), id);
        assert!(!state.join(FILE).exists(), "one is enough");
        let other = "01935700-0000-7000-8009-000000000002";
        std::fs::write(state.join(FILE), format!(r#"{{"volume_id":"{other}"}}"#)).unwrap();
        assert_eq!(Volume::take(folder.path()).unwrap().id.to_string(), other);
    }

    #[test]
    fn what_lacks_is_what_is_wanted_less_what_is_free() {
        let space = Space { free: 4, total: 100 };
        assert_eq!([0, 4, 5, 50].map(|percent| space.lacking(percent)), [0, 0, 1, 46]);
        assert_eq!(Space { free: 0, total: u64::MAX }.lacking(100), u64::MAX);
    }
}
