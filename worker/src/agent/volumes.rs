//! The volumes of this server as it starts: those it was told to use, less those that are not usable.
//!
//! Which volume was where is remembered in `volumes.json` of the first one: a folder whose volume is not mounted looks like
//! a new volume, and video must not go to whatever lies under it. Invariant: the first volume, which holds the worker's
//! own state, is there or nothing begins; every other one may be missing.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use longwatch_events::id::VolumeId;

use crate::archive::layout::STATE_FOLDER;
use crate::archive::volume::{self, Volume};
use crate::durable;

/// The file's name.
pub(super) const FILE: &str = "volumes.json";

/// What was found.
#[derive(Debug)]
pub(super) struct Mounts {
    /// Those that can be used, the first one first.
    pub(super) volumes: Vec<Volume>,
    /// How many cannot.
    pub(super) missing: usize,
}

/// Takes the volumes at `roots`, of which there is at least one. `known` is where it is remembered which they are. Blocks.
///
/// # Errors
///
/// If the first one cannot be used, or two of them are one.
pub(super) fn mount(roots: &[PathBuf], known: &Path) -> Result<Mounts, volume::Error> {
    let mut known_ids = read(known).unwrap_or_else(|error| {
        tracing::error!(path = %known.display(), %error, "cannot read which volumes there were; taking what is there");
        BTreeMap::new()
    });
    let mut mounts = Mounts { volumes: Vec::new(), missing: 0 };
    for (number, root) in roots.iter().enumerate() {
        let taken = take(root, known_ids.get(root).copied());
        match taken {
            Ok(volume) => {
                if let Some(same) = mounts.volumes.iter().find(|other| other.id == volume.id) {
                    let (path, other) = (root.clone(), same.root.to_path_buf());
                    return Err(volume::Error::Twice { path, other });
                }
                known_ids.insert(root.clone(), volume.id);
                mounts.volumes.push(volume);
            }
            Err(error) if number > 0 => {
                mounts.missing += 1;
                tracing::error!(root = %root.display(), %error, "a volume is not used");
            }
            Err(error) => return Err(error),
        }
    }
    known_ids.retain(|root, _| roots.contains(root));
    let json = serde_json::to_vec(&known_ids).map_err(io::Error::other);
    if let Err(error) = json.and_then(|json| durable::replace(known, &json)) {
        tracing::error!(path = %known.display(), %error, "cannot remember which volumes there are");
    }
    Ok(mounts)
}

fn take(root: &Path, known: Option<VolumeId>) -> Result<Volume, volume::Error> {
    if let Some(known) = known {
        let found = Volume::find(root)?;
        if found.as_ref().is_none_or(|found| found.id != known) {
            let (path, found) = (root.into(), found.map(|found| found.id));
            return Err(volume::Error::Another { path, known, found });
        }
    }
    let volume = Volume::take(root)?;
    // A disk that can be read and not be written to is found out now.
    let probe = root.join(STATE_FOLDER).join("probe");
    let failed = |source| volume::Error::Io { step: "write to", path: probe.clone(), source };
    match durable::replace(&probe, b"") {
        Ok(()) => durable::remove(&probe).map_err(failed)?,
        // Full is not broken: room is made on it.
        Err(e) if e.kind() == io::ErrorKind::StorageFull => {}
        Err(e) => return Err(failed(e)),
    }
    Ok(volume)
}

fn read(path: &Path) -> io::Result<BTreeMap<PathBuf, VolumeId>> {
    let Some(bytes) = durable::read(path)? else { return Ok(BTreeMap::new()) };
    Ok(serde_json::from_slice(&bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Given {
        _folder: tempfile::TempDir,
        roots: Vec<PathBuf>,
        known: PathBuf,
    }

    fn given() -> Given {
        let folder = tempfile::tempdir().unwrap();
        let roots = ["a", "b", "c"].map(|name| folder.path().join(name)).to_vec();
        let known = folder.path().join("known.json");
        Given { _folder: folder, roots, known }
    }

    #[test]
    fn a_folder_whose_volume_is_not_mounted_is_not_used() {
        let Given { _folder, roots, known } = given();
        let first = mount(&roots, &known).unwrap();
        assert_eq!((first.volumes.len(), first.missing), (3, 0));
        // When the second one is not mounted, then the folder it was in is left alone, …
        let unmounted = roots[1].with_extension("elsewhere");
        std::fs::rename(&roots[1], &unmounted).unwrap();
        std::fs::create_dir(&roots[1]).unwrap();
        for _ in 0..2 {
            let mounts = mount(&roots, &known).unwrap();
            assert_eq!((mounts.volumes.len(), mounts.missing), (2, 1));
            assert_eq!(std::fs::read_dir(&roots[1]).unwrap().count(), 0);
        }
        // … and when it is back, so is the volume; …
        std::fs::remove_dir(&roots[1]).unwrap();
        std::fs::rename(&unmounted, &roots[1]).unwrap();
        assert_eq!(mount(&roots, &known).unwrap().volumes, first.volumes);
        // … but another disk in its place is not taken for it.
        std::fs::remove_dir_all(&roots[2]).unwrap();
        Volume::take(&roots[2]).unwrap();
        assert_eq!(mount(&roots, &known).unwrap().missing, 1);
        // Told to do without it, and then to use it again, it is a new one.
        mount(&roots[..2], &known).unwrap();
        assert_eq!(mount(&roots, &known).unwrap().missing, 0);
    }

    #[test]
    fn nothing_begins_without_the_first_or_with_one_twice() {
        let Given { _folder, roots, known } = given();
        mount(&roots, &known).unwrap();
        let twice = [roots[0].clone(), roots[0].join(".")];
        let error = mount(&twice, &known).unwrap_err().to_string();
        assert!(error.contains("are one volume"), "{error}");
        std::fs::remove_dir_all(&roots[0]).unwrap();
        let error = mount(&roots, &known).unwrap_err().to_string();
        assert!(error.contains("is not mounted"), "{error}");
    }
}
