//! Small state files that survive a power cut: written beside, flushed, renamed into place, the folder flushed.
//!
//! Invariant: a reader finds the old content or the new one, whole; never a mixture, whatever happens in between.
//! All calls block.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What the name of a file has behind it while it is being written.
pub const UNFINISHED: &str = ".tmp";

/// Puts `bytes` at `path`, readable by the owner only, replacing what was there.
///
/// # Errors
///
/// If the disk fails. The old content is then still there, or the new one is, and an unfinished `….tmp` may be left.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let unfinished = unfinished(path);
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    fs::rename(&unfinished, path)?;
    sync_folder_of(path)
}

/// Removes `path` for good; a file that is not there is fine.
///
/// # Errors
///
/// If the disk fails.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Ok(()) => sync_folder_of(path),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

/// The content of `path`, or `None` if there is no such file.
///
/// # Errors
///
/// If it is there and cannot be read.
pub fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Makes sure that `folder` exists, for the owner only if it is new.
///
/// # Errors
///
/// If it cannot be made.
pub fn create_private_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Renames `path` into `folder`, under its own name or, if that is taken, one like it. Nothing is overwritten.
///
/// # Errors
///
/// If the disk fails.
pub fn set_aside(path: &Path, folder: &Path) -> io::Result<PathBuf> {
    create_private_folder(folder)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let free = (0_u32..)
        .map(|n| folder.join(if n == 0 { name.clone() } else { format!("{name}.{n}") }))
        .find(|candidate| !candidate.exists())
        .expect("invariant: no folder holds four billion files of one name");
    fs::rename(path, &free)?;
    sync_folder_of(&free)?;
    sync_folder_of(path)?;
    Ok(free)
}

fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(UNFINISHED);
    name.into()
}

fn sync_folder_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_is_replaced_whole_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        assert_eq!(read(&path).unwrap(), None);
        replace(&path, b"a long first content").unwrap();
        replace(&path, b"second").unwrap();
        assert_eq!(read(&path).unwrap().as_deref(), Some(&b"second"[..]));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!unfinished(&path).exists());
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert_eq!(read(&path).unwrap(), None);
    }

    #[test]
    fn setting_aside_overwrites_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (path, aside) = (folder.path().join("x"), folder.path().join("aside"));
        for content in ["first", "second"] {
            fs::write(&path, content).unwrap();
            set_aside(&path, &aside).unwrap();
        }
        assert_eq!(fs::read_to_string(aside.join("x")).unwrap(), "first");
        assert_eq!(fs::read_to_string(aside.join("x.1")).unwrap(), "second");
    }
}
