//! Segments on a local disk.
//!
//! Commit order, each step only after the one before it succeeded:
//! 1. create `….mp4.part` (must not exist), write the header and the first fragment, `fdatasync`, `fsync` the folder
//!    and every folder made for it: now the segment survives a power cut;
//! 2. per further fragment: append with one `writev`, `fdatasync`: now the fragment does;
//! 3. at the end: rename to `….mp4` (must not exist), `fsync` the folder: now it is stored;
//! 4. only then report the fact.
//!
//! Invariant: an existing file is never overwritten, and a failed sync is never repeated, because the kernel may have
//! dropped the pages and report success the second time (Rebello et al., "Can Applications Recover from fsync
//! Failures?", USENIX ATC 2020): the file is marked instead, see [`UNSYNCED`], and never named a segment. All calls block: run them through [`super::Archive::run`].

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, IoSlice, Write};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use bytes::Bytes;
use longwatch_events::hash::Sha256;
use rustix::fs::{CWD, RenameFlags};

use super::Error;
use super::layout::{PART, SegmentName, UNSYNCED};

/// A segment that is still growing.
#[derive(Debug)]
pub struct OpenSegment {
    file: File,
    key: String,
    final_path: PathBuf,
    /// Bytes known to be on the disk; always the end of a fragment.
    bytes: u64,
    hash: Hasher,
}

/// A segment that is complete, durable and hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredFile {
    /// Its key, see [`SegmentName::key`].
    pub key: String,
    /// Its size.
    pub bytes: u64,
    /// The hash of all of it.
    pub sha256: Sha256,
}

/// SHA-256 of bytes as they come.
#[derive(Clone)]
pub(super) struct Hasher(digest::Context);

impl std::fmt::Debug for Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hasher")
    }
}

impl Hasher {
    pub(super) fn new() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(super) fn finish(self) -> Sha256 {
        let digest = self.0.finish();
        Sha256(digest.as_ref().try_into().expect("invariant: SHA-256 has 32 bytes"))
    }
}

impl OpenSegment {
    /// Creates a segment with its header and first fragment (`head`, then `samples`), durably.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`] if there is such a segment; [`Error::Io`] if the disk fails. Nothing is left behind then,
    /// unless the disk cannot even remove the file.
    pub fn create(root: &Path, name: &SegmentName, head: &[u8], samples: &[Bytes]) -> Result<Self, Error> {
        let key = name.key();
        let final_path = root.join(&key);
        let part_path = part_path(&final_path);
        let failed = |step, source| Error::Io { step, key: key.clone(), source };
        let folder = final_path.parent().unwrap_or(root);
        create_folders(root, folder).map_err(|e| failed("create the folder", e))?;
        if final_path.exists() {
            return Err(Error::Exists { key });
        }
        let file = match OpenOptions::new().write(true).create_new(true).open(&part_path) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::AlreadyExists => return Err(Error::Exists { key }),
            Err(e) => return Err(failed("create", e)),
        };
        let mut segment = Self { file, key: key.clone(), final_path, bytes: 0, hash: Hasher::new() };
        let begun = segment.append(head, samples).and_then(|()| {
            sync_folder(segment.final_path.parent().unwrap_or(root)).map_err(|e| failed("sync the folder", e))
        });
        if let Err(e) = begun {
            // It holds nothing that was promised to anybody.
            if let Err(left) = fs::remove_file(&part_path) {
                tracing::warn!(key, error = %left, "could not remove a segment that failed to begin");
            }
            return Err(e);
        }
        Ok(segment)
    }

    /// Appends a fragment, durably.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]: the segment must not grow any more; see [`Self::salvage`].
    pub fn append(&mut self, head: &[u8], samples: &[Bytes]) -> Result<(), Error> {
        write_all(&mut self.file, head, samples).map_err(|e| self.failed("write", e))?;
        self.file.sync_data().map_err(|e| self.failed(SYNC, e))?;
        self.hash.update(head);
        samples.iter().for_each(|sample| self.hash.update(sample));
        self.bytes += (head.len() + samples.iter().map(Bytes::len).sum::<usize>()) as u64;
        Ok(())
    }

    /// Gives the segment its final name.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`] if something has that name; [`Error::Io`] if the disk fails. The `.part` stays for
    /// [`super::repair`].
    pub fn close(self) -> Result<StoredFile, Error> {
        rename_new(&part_path(&self.final_path), &self.final_path).map_err(|e| {
            if e.kind() == ErrorKind::AlreadyExists {
                Error::Exists { key: self.key.clone() }
            } else {
                self.failed("rename", e)
            }
        })?;
        if let Some(folder) = self.final_path.parent() {
            sync_folder(folder).map_err(|e| self.failed("sync the folder", e))?;
        }
        Ok(StoredFile { key: self.key, bytes: self.bytes, sha256: self.hash.finish() })
    }

    /// After [`Self::append`] failed with `after`: cuts the file back to its last whole fragment and closes it. `None` if
    /// it was a sync that failed: then nothing about the file can be trusted, and it is marked as [`UNSYNCED`], for the
    /// next start to copy what can be read of it.
    ///
    /// # Errors
    ///
    /// What went wrong in saving it.
    pub fn salvage(self, after: &Error) -> Result<Option<StoredFile>, Error> {
        if matches!(after, Error::Io { step, .. } if *step == SYNC) {
            self.mark()?;
            return Ok(None);
        }
        self.file.set_len(self.bytes).map_err(|e| self.failed("cut", e))?;
        if let Err(e) = self.file.sync_all() {
            self.mark()?;
            return Err(self.failed(SYNC, e));
        }
        self.close().map(Some)
    }

    fn mark(&self) -> Result<(), Error> {
        mark_unsynced(&part_path(&self.final_path)).map_err(|e| self.failed("mark", e))
    }

    /// Its key, see [`SegmentName::key`].
    pub fn key(&self) -> &str {
        &self.key
    }

    fn failed(&self, step: &'static str, source: io::Error) -> Error {
        Error::Io { step, key: self.key.clone(), source }
    }
}

const SYNC: &str = "sync";

fn part_path(final_path: &Path) -> PathBuf {
    let mut path = final_path.as_os_str().to_owned();
    path.push(PART);
    path.into()
}

/// Marks an open segment whose sync failed. The mark itself is not synced: a power cut may take it back, but takes the
/// page cache along, and what can be read after that is what the disk holds.
pub(super) fn mark_unsynced(part: &Path) -> io::Result<()> {
    let mut marked = part.as_os_str().to_owned();
    marked.push(UNSYNCED);
    rename_new(part, Path::new(&marked))
}

/// Writes everything in as few calls as the kernel takes.
fn write_all(file: &mut File, head: &[u8], samples: &[Bytes]) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = std::iter::once(IoSlice::new(head))
        .chain(samples.iter().map(|sample| IoSlice::new(sample)))
        .collect();
    let mut left: &mut [IoSlice<'_>] = &mut slices;
    IoSlice::advance_slices(&mut left, 0);
    while !left.is_empty() {
        match file.write_vectored(left) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut left, written),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Creates `folder` and what is missing between `root` and it, and makes each new name durable.
fn create_folders(root: &Path, folder: &Path) -> io::Result<()> {
    let mut missing = Vec::new();
    let mut at = folder;
    while !at.is_dir() {
        missing.push(at);
        match at.parent() {
            Some(parent) if at != root => at = parent,
            _ => break,
        }
    }
    for new in missing.into_iter().rev() {
        match fs::create_dir(new) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            other => other?,
        }
        if let Some(parent) = new.parent() {
            sync_folder(parent)?;
        }
    }
    Ok(())
}

pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Renames, unless something has the new name.
pub(super) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        // Some file systems know no such flag; a hard link refuses to overwrite as well.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            fs::hard_link(from, to)?;
            fs::remove_file(from)
        }
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use longwatch_events::id::{CameraId, ServerId, SystemIds, TenantId};
    use longwatch_events::position::Epoch;
    use longwatch_events::time::Timestamp;

    fn name() -> SegmentName {
        SegmentName {
            tenant_id: TenantId::DEFAULT,
            camera_id: CameraId::generate(&SystemIds),
            start: Timestamp::from_millis(1_795_420_800_123),
            epoch: Epoch(3),
            server_id: ServerId::generate(&SystemIds),
        }
    }

    fn samples(text: &'static str) -> Vec<Bytes> {
        text.split(' ').map(|sample| Bytes::from_static(sample.as_bytes())).collect()
    }

    #[test]
    fn a_segment_grows_then_gets_its_name_and_hash() {
        let (root, name) = (tempfile::tempdir().unwrap(), name());
        let mut segment = OpenSegment::create(root.path(), &name, b"head ", &samples("a b")).unwrap();
        let part = root.path().join(name.key() + PART);
        assert_eq!(fs::read(&part).unwrap(), b"head ab");
        segment.append(b" more ", &[]).unwrap();
        let stored = segment.close().unwrap();
        let content = fs::read(root.path().join(&stored.key)).unwrap();
        assert_eq!(content, b"head ab more ");
        assert_eq!((stored.bytes, stored.sha256), (13, Sha256::of(&content)));
        assert!(!part.exists());
    }

    #[test]
    fn nothing_is_overwritten() {
        let (root, name) = (tempfile::tempdir().unwrap(), name());
        let first = OpenSegment::create(root.path(), &name, b"first", &[]).unwrap();
        let again = OpenSegment::create(root.path(), &name, b"again", &[]);
        assert!(matches!(again, Err(Error::Exists { .. })), "{again:?}");
        // Given a final file that appears while the segment is open …
        fs::write(root.path().join(name.key()), b"somebody else's").unwrap();
        // … then closing refuses, and both stay.
        assert!(matches!(first.close(), Err(Error::Exists { .. })));
        assert_eq!(fs::read(root.path().join(name.key())).unwrap(), b"somebody else's");
        assert_eq!(fs::read(root.path().join(name.key() + PART)).unwrap(), b"first");
    }

    #[test]
    fn what_was_whole_is_saved_when_a_write_fails() {
        let (root, name) = (tempfile::tempdir().unwrap(), name());
        let mut segment = OpenSegment::create(root.path(), &name, b"whole", &[]).unwrap();
        // Given half a fragment on the disk, as a full disk leaves it …
        segment.file.write_all(b"torn").unwrap();
        let full = Error::Io { step: "write", key: name.key(), source: ErrorKind::StorageFull.into() };
        // … then the segment ends before it.
        let stored = segment.salvage(&full).unwrap().unwrap();
        assert_eq!(fs::read(root.path().join(&stored.key)).unwrap(), b"whole");
        assert_eq!(stored.sha256, Sha256::of(b"whole"));
    }

    #[test]
    fn a_failed_sync_is_not_trusted() {
        let (root, name) = (tempfile::tempdir().unwrap(), name());
        let segment = OpenSegment::create(root.path(), &name, b"whole", &[]).unwrap();
        let failed = Error::Io { step: SYNC, key: name.key(), source: ErrorKind::Other.into() };
        assert_eq!(segment.salvage(&failed).unwrap(), None);
        // What the file is called says so, for whoever starts next.
        assert!(!root.path().join(name.key() + PART).exists() && !root.path().join(name.key()).exists());
        assert_eq!(fs::read(root.path().join(name.key() + PART + UNSYNCED)).unwrap(), b"whole");
    }
}
