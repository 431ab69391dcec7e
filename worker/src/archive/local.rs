//! Segments on a local disk.
//!
//! Commit order, each step only after the one before it succeeded:
//! 1. create `….mp4.part` (must not exist), write the header and the first fragment, `fdatasync`, `fsync` the folder
//!    and every folder made for it: now the segment survives a power cut;
//! 2. per further fragment: append, `fdatasync`: now the fragment does;
//! 3. at the end: cut to length, `fdatasync`, rename to `….mp4` (must not exist), `fsync` the folder: now it is stored;
//! 4. only then report the fact.
//!
//! Writing and syncing are calls of their own, so that many files can be written and then synced: where it can be, all
//! [`together`], names included. Where the file system can, data goes from memory to the disk
//! past the page cache (`O_DIRECT`): nobody is about to read it again, and copying it and writing it back cost more than
//! all else that is done to it. That wants whole [blocks](BLOCK), so an open file ends with zeros up to the next one, and
//! the last block is written again with what follows.
//!
//! Invariant: an existing file is never overwritten, and a failed sync is never repeated, because the kernel may have
//! dropped the pages and report success the second time (Rebello et al., "Can Applications Recover from fsync
//! Failures?", USENIX ATC 2020): the file is marked instead, see [`UNSYNCED`], and never named a segment. All calls
//! block: [`super::disk`] has threads for them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, IoSlice};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use longwatch_events::hash::Sha256;
use longwatch_events::time::Timestamp;
use rustix::fs::{CWD, OFlags, RenameFlags};

use super::Error;
use super::door::{Door, Step};
use super::layout::{PART, SegmentName, UNSYNCED};
use super::together::{self, Together};
use crate::fmp4::Samples;

pub use crate::fmp4::samples::BLOCK;

/// What is copied together and written at once, and little enough to be hashed while it is still in the cache.
const CHUNK: usize = 512 << 10;
/// Pieces of memory that one write takes; the kernel's own bound is twice that.
const PIECES_A_WRITE: usize = 512;

/// Memory to write from, aligned to [`BLOCK`]. One serves all files of a thread.
#[derive(Debug)]
pub struct Buffer {
    memory: Vec<u8>,
    begins: usize,
}

impl Default for Buffer {
    fn default() -> Self {
        let memory = vec![0; CHUNK + BLOCK];
        let begins = memory.as_ptr().align_offset(BLOCK);
        Self { memory, begins }
    }
}

impl Buffer {
    fn chunk(&mut self) -> &mut [u8] {
        &mut self.memory[self.begins..self.begins + CHUNK]
    }
}

/// A segment that is still growing.
#[derive(Debug)]
pub struct OpenSegment {
    door: Door,
    file: File,
    /// The file system that it lies on, as stat(2) numbers it.
    device: Option<u64>,
    key: String,
    final_path: PathBuf,
    /// Folders whose new names are not durable yet.
    folders: Vec<PathBuf>,
    written: Written,
}

/// What has been written of a segment: whole fragments.
#[derive(Debug, Clone)]
struct Written {
    bytes: u64,
    /// Those of them that fill no whole block.
    tail: Vec<u8>,
    hash: Hasher,
}

/// A segment that has its name, which is not durable yet.
#[derive(Debug)]
pub struct Named {
    door: Door,
    folder: PathBuf,
    stored: StoredFile,
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
pub(crate) struct Hasher(digest::Context);

impl std::fmt::Debug for Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hasher")
    }
}

impl Hasher {
    pub(crate) fn new() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(self) -> Sha256 {
        let digest = self.0.finish();
        Sha256(digest.as_ref().try_into().expect("invariant: SHA-256 has 32 bytes"))
    }
}

impl OpenSegment {
    /// Creates a segment with its header and first fragment (`head`, then `samples`). Durable after [`Self::sync`].
    ///
    /// # Errors
    ///
    /// [`Error::Exists`] if there is such a segment; [`Error::Io`] if the disk fails. Nothing is left behind then,
    /// unless the disk cannot even remove the file.
    pub fn create(
        root: &Path,
        door: &Door,
        name: &SegmentName,
        head: &[u8],
        samples: &mut Samples,
        buffer: &mut Buffer,
    ) -> Result<Self, Error> {
        let key = name.key();
        let final_path = root.join(&key);
        let part_path = part_path(&final_path);
        let failed = |step, source| Error::Io { step, key: key.clone(), source };
        let folder = final_path.parent().unwrap_or(root);
        door.ask(Step::Create).map_err(|e| failed("create", e))?;
        let mut folders = create_folders(root, folder).map_err(|e| failed("create the folder", e))?;
        folders.push(folder.into());
        if final_path.exists() {
            return Err(Error::Exists { key });
        }
        let file = match OpenOptions::new().write(true).create_new(true).open(&part_path) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::AlreadyExists => return Err(Error::Exists { key }),
            Err(e) => return Err(failed("create", e)),
        };
        set_direct(&file, true);
        let written = Written { bytes: 0, tail: Vec::new(), hash: Hasher::new() };
        let device = file.metadata().ok().map(|file| file.dev());
        let mut segment = Self { door: door.clone(), file, device, key, final_path, folders, written };
        match segment.append(head, samples, buffer) {
            Ok(()) => Ok(segment),
            Err(e) => {
                segment.remove();
                Err(e)
            }
        }
    }

    /// Appends a fragment. Durable after [`Self::sync`].
    ///
    /// # Errors
    ///
    /// [`Error::Io`]: the segment must not grow any more; see [`Self::salvage`].
    pub fn append(&mut self, head: &[u8], samples: &mut Samples, buffer: &mut Buffer) -> Result<(), Error> {
        self.door.ask(Step::Write).map_err(|e| self.failed("write", e))?;
        self.written =
            self.written.then(&self.file, head, samples, buffer).map_err(|e| self.failed("write", e))?;
        Ok(())
    }

    /// Makes everything durable that was written.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]: nobody knows what is on the disk; see [`Self::salvage`].
    pub fn sync(&mut self) -> Result<(), Error> {
        self.door.ask(Step::Sync).and_then(|()| self.file.sync_data()).map_err(|e| self.failed(SYNC, e))?;
        for folder in std::mem::take(&mut self.folders) {
            let synced = self.door.ask(Step::SyncFolder).and_then(|()| sync_folder(&folder));
            synced.map_err(|e| self.failed(SYNC, e))?;
        }
        Ok(())
    }

    /// Which file system it lies on, if it may be synced [`together`] with others there: it is written past
    /// the page cache.
    pub(super) fn shared_device(&self) -> Option<u64> {
        let is_direct = rustix::fs::fcntl_getfl(&self.file).is_ok_and(|flags| flags.contains(OFlags::DIRECT));
        self.device.filter(|_| is_direct)
    }

    /// Whether so many files of its file system had better be synced together now.
    pub(super) fn is_better_synced(&self, together: Together, files: usize) -> bool {
        together.is_better(files, &self.file)
    }

    /// Syncs all that was written to the file system that it lies on, names included; `None` if that may not be asked for.
    ///
    /// # Errors
    ///
    /// What the disk says: of no file that was to be synced by it is known what is on the disk.
    pub(super) fn sync_all(&self) -> Option<io::Result<()>> {
        match self.door.ask(Step::Sync) {
            Ok(()) => together::sync(&self.file),
            Err(error) => Some(Err(error)),
        }
    }

    /// Takes note of what [`Self::sync_all`] of a file of the same file system came to, instead of [`Self::sync`].
    ///
    /// # Errors
    ///
    /// As [`Self::sync`].
    pub(super) fn synced(&mut self, outcome: &io::Result<()>) -> Result<(), Error> {
        match outcome {
            Ok(()) => {
                self.folders.clear();
                Ok(())
            }
            Err(e) => Err(self.failed(SYNC, again(e))),
        }
    }

    /// Cuts off what stands behind the last fragment, which will be the last of all, and which ends at `end`. Durable after
    /// [`Self::sync`].
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the disk fails.
    pub fn cut(&mut self, end: Timestamp) -> Result<(), Error> {
        self.door.ask(Step::Cut).map_err(|e| self.failed("cut", e))?;
        self.file.set_len(self.written.bytes).map_err(|e| self.failed("cut", e))?;
        note_end(&self.file, end);
        Ok(())
    }

    /// Gives a segment that was [cut](Self::cut) and [synced](Self::sync) its final name.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`] if something has that name; [`Error::Io`] if the disk fails. The `.part` stays for
    /// [`super::repair`].
    pub fn name(self) -> Result<Named, Error> {
        let renamed = self
            .door
            .ask(Step::Rename)
            .and_then(|()| rename_new(&part_path(&self.final_path), &self.final_path));
        renamed.map_err(|e| {
            if e.kind() == ErrorKind::AlreadyExists {
                Error::Exists { key: self.key.clone() }
            } else {
                self.failed("rename", e)
            }
        })?;
        let folder = self.final_path.parent().unwrap_or(&self.final_path).to_owned();
        let Written { bytes, hash, .. } = self.written;
        Ok(Named {
            door: self.door,
            folder,
            stored: StoredFile { key: self.key, bytes, sha256: hash.finish() },
        })
    }

    /// After `after` happened to it: cuts the file back to its last whole fragment, which ends at `end`, and closes it. `None` if it was a sync
    /// that failed: then nothing about the file can be trusted, and it is marked as [`UNSYNCED`], for the next start to
    /// copy what can be read of it.
    ///
    /// # Errors
    ///
    /// What went wrong in saving it.
    pub fn salvage(mut self, after: &Error, end: Timestamp) -> Result<Option<StoredFile>, Error> {
        if matches!(after, Error::Io { step, .. } if *step == SYNC) {
            self.mark()?;
            return Ok(None);
        }
        self.cut(end)?;
        if let Err(e) = self.sync() {
            self.mark()?;
            return Err(e);
        }
        self.name()?.sync().map(Some)
    }

    /// Removes a segment that failed to begin: it holds nothing that was promised to anybody.
    pub fn remove(self) {
        if let Err(error) = fs::remove_file(part_path(&self.final_path)) {
            tracing::warn!(key = self.key, %error, "could not remove a segment that failed to begin");
        }
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

impl Written {
    /// Writes `head` and `samples` behind what was written before; what is written then.
    fn then(&self, file: &File, head: &[u8], samples: &mut Samples, buffer: &mut Buffer) -> io::Result<Self> {
        let begins = self.tail.len() + head.len();
        if samples.is_empty() || begins % BLOCK != samples.phase() || begins > CHUNK {
            return self.then_copied(file, head, samples, buffer);
        }
        let before = &mut buffer.chunk()[..begins];
        before[..self.tail.len()].copy_from_slice(&self.tail);
        before[self.tail.len()..].copy_from_slice(head);
        let mut hash = self.hash.clone();
        hash.update(head);
        samples.iter().for_each(|piece| hash.update(piece));
        let (before, within) = before.split_at(begins - samples.phase());
        let tail = samples.fill(within);
        let at = self.bytes - self.tail.len() as u64;
        write_all_at(file, std::iter::once(before).chain(samples.blocks()), at)?;
        Ok(Self { bytes: self.bytes + (head.len() + samples.len()) as u64, tail, hash })
    }

    /// The same of samples that stand in memory otherwise than they will in the file. Hashes each chunk while it is
    /// still in the processor's cache.
    fn then_copied(
        &self,
        file: &File,
        head: &[u8],
        samples: &Samples,
        buffer: &mut Buffer,
    ) -> io::Result<Self> {
        let (chunk, mut hash) = (buffer.chunk(), self.hash.clone());
        let mut filled = self.tail.len();
        let mut at = self.bytes - filled as u64;
        let mut hashed = filled;
        chunk[..filled].copy_from_slice(&self.tail);
        for mut part in std::iter::once(head).chain(samples.iter()) {
            while !part.is_empty() {
                let (now, later) = part.split_at(part.len().min(CHUNK - filled));
                chunk[filled..filled + now.len()].copy_from_slice(now);
                filled += now.len();
                part = later;
                if filled == CHUNK {
                    hash.update(&chunk[hashed..]);
                    write_at(file, chunk, at)?;
                    at += CHUNK as u64;
                    (filled, hashed) = (0, 0);
                }
            }
        }
        hash.update(&chunk[hashed..filled]);
        let padded = filled.next_multiple_of(BLOCK);
        chunk[filled..padded].fill(0);
        write_at(file, &chunk[..padded], at)?;
        let tail = chunk[filled - filled % BLOCK..filled].to_vec();
        Ok(Self { bytes: at + filled as u64, tail, hash })
    }
}

impl Named {
    /// Makes the name durable: now the segment is stored.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the disk fails.
    pub fn sync(self) -> Result<StoredFile, Error> {
        let Self { door, folder, stored } = self;
        match door.ask(Step::SyncFolder).and_then(|()| sync_folder(&folder)) {
            Ok(()) => Ok(stored),
            Err(source) => Err(Error::Io { step: "sync the folder", key: stored.key, source }),
        }
    }
}

/// What steps begin with after which nobody knows what is on the disk.
pub(super) const SYNC: &str = "sync";

/// The same error once more, for all whom it concerns.
fn again(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}

fn part_path(final_path: &Path) -> PathBuf {
    let mut path = final_path.as_os_str().to_owned();
    path.push(PART);
    path.into()
}

/// Lets a file's time of modification be the time at which its video ends: so its age can be told without reading it. Not
/// every file system can, and then the file is as old as its last write says, which is a moment later.
pub(crate) fn note_end(file: &File, end: Timestamp) {
    let since_epoch = Duration::from_micros(u64::try_from(end.as_micros()).unwrap_or(0));
    if let Err(error) = file.set_modified(SystemTime::UNIX_EPOCH + since_epoch) {
        tracing::debug!(%error, "cannot set the time of a segment's file");
    }
}

/// Marks an open segment whose sync failed. The mark itself is not synced: a power cut may take it back, but takes the
/// page cache along, and what can be read after that is what the disk holds.
pub(super) fn mark_unsynced(part: &Path) -> io::Result<()> {
    let mut marked = part.as_os_str().to_owned();
    marked.push(UNSYNCED);
    rename_new(part, Path::new(&marked))
}

/// Writes pieces of whole blocks, as few times as can be.
fn write_all_at<'a>(file: &File, pieces: impl Iterator<Item = &'a [u8]>, mut at: u64) -> io::Result<()> {
    let pieces: Vec<_> = pieces.filter(|piece| !piece.is_empty()).collect();
    for pieces in pieces.chunks(PIECES_A_WRITE) {
        let mut slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        let mut left = &mut slices[..];
        while !left.is_empty() {
            let written = match rustix::io::pwritev(file, left, at) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => written,
                Err(rustix::io::Errno::INTR) => continue,
                Err(rustix::io::Errno::INVAL) if set_direct(file, false) => continue,
                Err(e) => return Err(e.into()),
            };
            at += written as u64;
            IoSlice::advance_slices(&mut left, written);
        }
    }
    Ok(())
}

/// Writes whole blocks. A file system may take the flag for direct writes and then not the writes: they go through the
/// page cache from then on.
fn write_at(file: &File, blocks: &[u8], at: u64) -> io::Result<()> {
    match file.write_all_at(blocks, at) {
        Err(e) if e.kind() == ErrorKind::InvalidInput && set_direct(file, false) => {
            file.write_all_at(blocks, at)
        }
        done => done,
    }
}

/// Lets writes go past the page cache, or not; returns whether that is different now. Not every file system can.
fn set_direct(file: &File, direct: bool) -> bool {
    let changed = |flags: OFlags| {
        let wanted = if direct { flags | OFlags::DIRECT } else { flags - OFlags::DIRECT };
        wanted != flags && rustix::fs::fcntl_setfl(file, wanted).is_ok()
    };
    rustix::fs::fcntl_getfl(file).is_ok_and(changed)
}

/// Creates `folder` and what is missing between `root` and it; returns the folders that may have new names in them. If
/// any is missing these are all from `root` on: another thread may just have made one and not have synced it yet.
fn create_folders(root: &Path, folder: &Path) -> io::Result<Vec<PathBuf>> {
    if folder.is_dir() {
        return Ok(Vec::new());
    }
    fs::create_dir_all(folder)?;
    let above = folder.ancestors().skip(1).take_while(|above| above.starts_with(root));
    Ok(above.map(Path::to_owned).collect())
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

    fn name() -> SegmentName {
        SegmentName {
            tenant_id: TenantId::DEFAULT,
            camera_id: CameraId::generate(&SystemIds),
            start: Timestamp::from_millis(1_795_420_800_123),
            epoch: Epoch(3),
            server_id: ServerId::generate(&SystemIds),
        }
    }

    fn samples(text: &str) -> Samples {
        let mut samples = Samples::default();
        text.split(' ').for_each(|sample| samples.push(sample.as_bytes()));
        samples
    }

    fn create(root: &Path, name: &SegmentName, head: &str) -> Result<OpenSegment, Error> {
        OpenSegment::create(
            root,
            &Door::default(),
            name,
            head.as_bytes(),
            &mut Samples::default(),
            &mut Buffer::default(),
        )
    }

    fn end() -> Timestamp {
        Timestamp::from_micros(1_795_420_860_123_456)
    }

    fn close(mut segment: OpenSegment) -> Result<StoredFile, Error> {
        segment.cut(end())?;
        segment.sync()?;
        segment.name()?.sync()
    }

    #[test]
    fn a_segment_grows_then_gets_its_name_and_hash() {
        let (root, name, mut buffer) = (tempfile::tempdir().unwrap(), name(), Buffer::default());
        let mut segment = OpenSegment::create(
            root.path(),
            &Door::default(),
            &name,
            b"head ",
            &mut samples("a b"),
            &mut buffer,
        )
        .unwrap();
        let part = root.path().join(name.key() + PART);
        // While it is open, zeros fill its last block.
        let open = fs::read(&part).unwrap();
        assert!(open.starts_with(b"head ab") && open[7..].iter().all(|byte| *byte == 0), "{open:?}");
        assert_eq!(open.len(), BLOCK);
        segment.append(b" more ", &mut Samples::default(), &mut buffer).unwrap();
        let stored = close(segment).unwrap();
        let content = fs::read(root.path().join(&stored.key)).unwrap();
        assert_eq!(content, b"head ab more ");
        assert_eq!((stored.bytes, stored.sha256), (13, Sha256::of(&content)));
        assert!(!part.exists());
        // Its time is that of its video.
        let modified = fs::metadata(root.path().join(&stored.key)).unwrap().modified().unwrap();
        let micros = modified.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros();
        assert_eq!(micros, u128::try_from(end().as_micros()).unwrap());
    }

    #[test]
    fn fragments_of_any_length_stand_one_behind_the_other() {
        let (root, name, mut buffer) = (tempfile::tempdir().unwrap(), name(), Buffer::default());
        let pattern: Vec<u8> = (0..3 * CHUNK).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let lengths = [1, BLOCK - 1, BLOCK, 0, BLOCK + 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 77, 3];
        let mut segment = OpenSegment::create(
            root.path(),
            &Door::default(),
            &name,
            b"",
            &mut Samples::default(),
            &mut buffer,
        )
        .unwrap();
        let mut expected = Vec::new();
        for length in lengths {
            // As they will stand in the file, and otherwise.
            for off in [0, 1] {
                let mut samples = Samples::at(expected.len() + 7 + off);
                samples.push(&pattern[..length]);
                samples.push(&pattern[..length]);
                segment.append(&pattern[..7], &mut samples, &mut buffer).unwrap();
                expected.extend([&pattern[..7], &pattern[..length], &pattern[..length]].concat());
            }
        }
        let stored = close(segment).unwrap();
        assert!(fs::read(root.path().join(&stored.key)).unwrap() == expected);
        assert_eq!((stored.bytes, stored.sha256), (expected.len() as u64, Sha256::of(&expected)));
    }

    #[test]
    fn nothing_is_overwritten() {
        let (root, name) = (tempfile::tempdir().unwrap(), name());
        let first = create(root.path(), &name, "first").unwrap();
        let again = create(root.path(), &name, "again");
        assert!(matches!(again, Err(Error::Exists { .. })), "{again:?}");
        // Given a final file that appears while the segment is open …
        fs::write(root.path().join(name.key()), b"somebody else's").unwrap();
        // … then closing refuses, and both stay.
        assert!(matches!(close(first), Err(Error::Exists { .. })));
        assert_eq!(fs::read(root.path().join(name.key())).unwrap(), b"somebody else's");
        assert_eq!(fs::read(root.path().join(name.key() + PART)).unwrap(), b"first");
    }

    #[test]
    fn what_was_whole_is_saved_when_a_write_fails() {
        let (root, name) = (tempfile::tempdir().unwrap(), name());
        let segment = create(root.path(), &name, "whole").unwrap();
        // Given half a fragment on the disk, as a full disk leaves it …
        set_direct(&segment.file, false);
        segment.file.write_all_at(b"torn", 5).unwrap();
        let full = Error::Io { step: "write", key: name.key(), source: ErrorKind::StorageFull.into() };
        // … then the segment ends before it.
        let stored = segment.salvage(&full, end()).unwrap().unwrap();
        assert_eq!(fs::read(root.path().join(&stored.key)).unwrap(), b"whole");
        assert_eq!(stored.sha256, Sha256::of(b"whole"));
    }

    #[test]
    fn a_failed_sync_is_not_trusted() {
        let (root, name) = (tempfile::tempdir().unwrap(), name());
        let segment = create(root.path(), &name, "whole").unwrap();
        let failed = Error::Io { step: SYNC, key: name.key(), source: ErrorKind::Other.into() };
        assert_eq!(segment.salvage(&failed, end()).unwrap(), None);
        // What the file is called says so, for whoever starts next.
        assert!(!root.path().join(name.key() + PART).exists() && !root.path().join(name.key()).exists());
        let marked = fs::read(root.path().join(name.key() + PART + UNSYNCED)).unwrap();
        assert!(marked.starts_with(b"whole"));
    }
}
