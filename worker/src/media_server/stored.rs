//! Where a segment is now: on a volume, still there after it was uploaded, or in the object store; and its bytes from there.
//!
//! Only reads. Files are read where it may block: a disk that hangs holds up viewers, and nobody who records.
//!
//! Invariants: every read ends, within a limit; reads of one volume that hang leave threads for all others.

use std::fs::File;
use std::future::Future;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::{BoxStream, FuturesUnordered};
use tokio::sync::Semaphore;

use super::READERS;
use crate::archive::Archive;
use crate::archive::layout::{SegmentName, UPLOADED};
use crate::archive::s3::{self, Bucket, Reading};

/// What is read at once, in bytes.
pub(super) const CHUNK: usize = 64 << 10;
/// What is not wanted of an object is read all the same if it is so little: asking anew takes longer.
const SKIPPED: u64 = 1 << 20;
/// How often an object is asked for the same bytes.
const ATTEMPTS: u32 = 3;
/// Threads that read from one volume at once: no more than half of them.
const READERS_OF_VOLUME: usize = READERS / 2;

/// Where the segments of this server are.
pub struct Stored {
    /// The folders of the volumes of `archive`, in its order.
    pub roots: Vec<Arc<Path>>,
    /// Knows which of them failed.
    pub archive: Archive,
    /// Where they are once they are uploaded.
    pub bucket: Option<Bucket>,
}

/// Reads them.
pub(super) struct Reader {
    /// In the order of `archive`.
    volumes: Vec<Volume>,
    archive: Archive,
    bucket: Option<Bucket>,
    /// How long one read may take.
    limit: Duration,
}

/// A volume, as it is read from.
struct Volume {
    root: Arc<Path>,
    turns: Turns,
}

/// Who may read from a volume now. Cheap to clone.
#[derive(Clone)]
pub(super) struct Turns {
    free: Arc<Semaphore>,
    /// How long one may take, and be waited for.
    limit: Duration,
}

/// What a segment is read from.
pub(super) enum Source {
    File(Arc<File>, Turns),
    Object(Object),
}

/// A segment in the object store.
pub(super) struct Object {
    bucket: Bucket,
    key: String,
    size: u64,
    /// How long one read may take.
    limit: Duration,
    flow: Option<Flow>,
}

/// What of an object is on its way.
struct Flow {
    /// Where in the object the next byte is from.
    at: u64,
    bytes: BoxStream<'static, Result<Bytes, s3::Error>>,
}

impl Reader {
    /// Reads what is `stored`; one read takes no longer than `limit`.
    pub(super) fn new(stored: &Stored, limit: Duration) -> Self {
        let volume = |root: &Arc<Path>| Volume {
            root: Arc::clone(root),
            turns: Turns { free: Arc::new(Semaphore::new(READERS_OF_VOLUME)), limit },
        };
        let volumes = stored.roots.iter().map(volume).collect();
        Self { volumes, archive: stored.archive.clone(), bucket: stored.bucket.clone(), limit }
    }

    /// Opens a segment; returns its size, too. `None` if it is nowhere.
    ///
    /// # Errors
    ///
    /// If that cannot be told now.
    pub(super) async fn open(&self, name: SegmentName) -> io::Result<Option<(Source, u64)>> {
        let key = name.key();
        // In the order in which it goes on: what is not found in one place has come to the next one. All volumes at once, so
        // that one that hangs is waited for only if none of the others has it.
        let healthy = self.volumes.iter().enumerate().filter(|(at, _)| !self.archive.has_failed(*at));
        let mut opening: FuturesUnordered<_> = healthy.map(|(_, volume)| volume.open(&key)).collect();
        let mut trouble = None;
        while let Some(opened) = opening.next().await {
            match opened {
                Ok(None) => {}
                Ok(found) => return Ok(found),
                Err(error) => trouble = Some(error),
            }
        }
        drop(opening);
        if let Some(bucket) = &self.bucket {
            let reading = async { bucket.read(&key, 0..CHUNK as u64).await.map_err(io::Error::other) };
            if let Some(Reading { size, bytes }) = within(self.limit, reading).await? {
                let flow = Some(Flow { at: 0, bytes });
                let object = Object { bucket: bucket.clone(), key, size, limit: self.limit, flow };
                return Ok(Some((Source::Object(object), size)));
            }
        }
        trouble.map_or(Ok(None), Err)
    }
}

impl Volume {
    /// Opens what is stored under `key`, before or after it was uploaded.
    async fn open(&self, key: &str) -> io::Result<Option<(Source, u64)>> {
        let paths = [self.root.join(key), self.root.join(format!("{key}{UPLOADED}"))];
        let opened = self.turns.take(move || open_first(&paths)).await?;
        Ok(opened.map(|(file, size)| (Source::File(Arc::new(file), self.turns.clone()), size)))
    }
}

fn open_first(paths: &[PathBuf]) -> io::Result<Option<(File, u64)>> {
    for path in paths {
        match File::open(path).and_then(|file| Ok((file.metadata()?, file))) {
            Ok((about, file)) if about.is_file() => return Ok(Some((file, about.len()))),
            Ok(_) => {}
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

impl Turns {
    /// Reads when it is its turn, where it may block.
    async fn take<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let reading = async {
            let turn = Arc::clone(&self.free).acquire_owned().await.map_err(io::Error::other)?;
            let read = move || {
                // One that nobody waits for any more still has a thread: its turn ends when the disk answers, not before.
                let _turn = turn;
                read()
            };
            tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
        };
        within(self.limit, reading).await
    }
}

/// What is read, or an error when it takes longer than `limit`.
async fn within<T>(limit: Duration, reading: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late =
        || io::Error::new(ErrorKind::TimedOut, format!("nothing came within {} ms", limit.as_millis()));
    tokio::time::timeout(limit, reading).await.unwrap_or_else(|_| Err(late()))
}

impl Source {
    /// Bytes from there on: at least so many, at least one, and hardly more than `most`.
    pub(super) async fn fetch(&mut self, at: u64, least: usize, most: usize) -> io::Result<Bytes> {
        match self {
            Self::File(file, turns) => {
                let file = Arc::clone(file);
                turns.take(move || read_file(&file, at, least.max(1), most.max(least).max(1))).await
            }
            Self::Object(object) => within(object.limit, object.fetch(at, least.max(1))).await,
        }
    }
}

fn read_file(file: &File, at: u64, least: usize, most: usize) -> io::Result<Bytes> {
    let (mut bytes, mut read) = (vec![0; most], 0);
    while read < least {
        match file.read_at(&mut bytes[read..], at + read as u64) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(more) => read += more,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    bytes.truncate(read);
    Ok(bytes.into())
}

impl Object {
    async fn fetch(&mut self, at: u64, least: usize) -> io::Result<Bytes> {
        let (mut fetched, mut failed) = (BytesMut::new(), 0);
        while fetched.len() < least {
            let next = at + fetched.len() as u64;
            if next >= self.size {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            match self.next(next).await {
                Ok(Some(bytes)) if fetched.is_empty() && bytes.len() >= least => return Ok(bytes),
                Ok(Some(bytes)) => {
                    failed = 0;
                    fetched.extend_from_slice(&bytes);
                }
                // It was asked for up to here only, or was cut off: it is asked for anew.
                ended => {
                    self.flow = None;
                    failed += 1;
                    if failed >= ATTEMPTS {
                        return Err(ended.err().unwrap_or(ErrorKind::UnexpectedEof.into()));
                    }
                }
            }
        }
        Ok(fetched.freeze())
    }

    /// What comes from there on; `None` if nothing more does.
    async fn next(&mut self, at: u64) -> io::Result<Option<Bytes>> {
        if !self.flow.as_ref().is_some_and(|flow| flow.at <= at && at - flow.at <= SKIPPED) {
            let reading = self.bucket.read(&self.key, at..self.size).await.map_err(io::Error::other)?;
            let Reading { bytes, .. } = reading.ok_or(ErrorKind::NotFound)?;
            self.flow = Some(Flow { at, bytes });
        }
        let Some(flow) = &mut self.flow else { return Ok(None) };
        while let Some(mut bytes) = flow.bytes.next().await.transpose().map_err(io::Error::other)? {
            let before = usize::try_from(at - flow.at).unwrap_or(usize::MAX).min(bytes.len());
            flow.at += bytes.len() as u64;
            if before < bytes.len() {
                return Ok(Some(bytes.split_off(before)));
            }
        }
        Ok(None)
    }
}
