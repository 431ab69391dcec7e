//! The files of Single's data folder: where each stands and how it is made. Nothing else names a path in it.
//!
//! ```text
//! DIR/lock                    held by the supervisor: one Single per folder
//! DIR/run/CHILD.pid           held by the child for as long as it lives; its process id
//! DIR/nats/                   configuration, port, seeds, log and store of nats-server (see `nats`)
//! DIR/control.db              read model
//! DIR/provider.key, join.key  made by control
//! DIR/archive/                the worker's
//! ```
//!
//! Invariant: a secret is never in a file that others may read, not even for a moment.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::Error;

/// The children's names, in logs and in files.
pub(super) const NATS: &str = "nats-server";
pub(super) const CONTROL: &str = "control";
pub(super) const WORKER: &str = "worker";

/// A data folder that exists.
#[derive(Debug)]
pub(super) struct Layout {
    root: PathBuf,
    nats: PathBuf,
    run: PathBuf,
}

impl Layout {
    /// Makes the folder and its sub-folders where they are absent. Paths are absolute from here on.
    pub(super) fn open(data: &Path) -> Result<Self, Error> {
        fs::create_dir_all(data).map_err(failed("create the folder", data))?;
        let root = data.canonicalize().map_err(failed("open the folder", data))?;
        let layout = Self { nats: root.join("nats"), run: root.join("run"), root };
        for folder in [&layout.nats, &layout.run] {
            private_folder(folder)?;
        }
        Ok(layout)
    }

    /// Takes the folder for this process, for as long as the returned file lives. Not inherited by children.
    pub(super) fn lock(&self) -> Result<File, Error> {
        let path = self.root.join("lock");
        let file = lock_file(&path)?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(Error::InUse(self.root.clone())),
            Err(TryLockError::Error(source)) => Err(failed("lock", &path)(source)),
        }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of nats-server.
    pub(super) fn nats(&self) -> &Path {
        &self.nats
    }

    /// The file that a child locks and writes its process id to.
    pub(super) fn pid_file(&self, child: &str) -> PathBuf {
        self.run.join(format!("{child}.pid"))
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The read model, as a URL: what would be a parameter or an escape in the path is escaped.
    pub(super) fn database_url(&self) -> Result<String, Error> {
        let path = self.file("control.db");
        let text = path.to_str().ok_or_else(|| Error::NotUtf8(path.clone()))?;
        Ok(format!("sqlite://{}", text.replace('%', "%25").replace('?', "%3F").replace('#', "%23")))
    }
}

/// A file to lock: created if absent, never truncated by opening it.
pub(super) fn lock_file(path: &Path) -> Result<File, Error> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(failed("open", path))
}

/// Makes a folder that only this user can enter.
pub(super) fn private_folder(path: &Path) -> Result<(), Error> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("create the folder", path))
}

/// Replaces a file by one that only this user can read. A crash leaves the old one or the new one: write a
/// temporary one, sync it, rename it, sync the folder.
pub(super) fn write_private(path: &Path, content: &str) -> Result<(), Error> {
    let temporary = path.with_added_extension("new");
    let write = || -> io::Result<()> {
        // A left-over of a crash may have other permissions: `mode` counts only for a new file.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(content.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        let folder = path.parent().unwrap_or(Path::new("/"));
        File::open(folder)?.sync_all()
    };
    write().map_err(failed("write", path))
}

/// For `map_err`: what was tried with which file.
pub(super) fn failed<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + use<'a> {
    move |source| Error::File { what, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_folder_is_taken_once() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::open(&folder.path().join("a/b")).unwrap();
        let first = layout.lock().unwrap();
        let again = Layout::open(&folder.path().join("a/b")).unwrap();
        assert!(matches!(again.lock(), Err(Error::InUse(_))));
        drop(first);
        again.lock().unwrap();
    }

    #[test]
    fn a_private_file_is_private_and_whole_even_after_a_left_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("worker.nk");
        fs::write(folder.path().join("worker.nk.new"), "half").unwrap();

        write_private(&path, "one").unwrap();
        write_private(&path, "two").unwrap();

        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_database_url_keeps_odd_characters_in_the_path() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::open(&folder.path().join("100% mine?")).unwrap();
        let url = layout.database_url().unwrap();
        assert!(url.ends_with("/100%25 mine%3F/control.db"), "{url}");
    }
}
