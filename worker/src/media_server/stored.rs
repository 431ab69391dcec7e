//! Where a segment is now: on a volume, still there after it was uploaded, or in the object store; and its bytes from there.
//!
//! Only reads. Files are read where it may block: a disk that hangs holds up viewers, and nobody who records.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;

use crate::archive::Archive;
use crate::archive::layout::{SegmentName, UPLOADED};
use crate::archive::s3::{self, Bucket, Reading};

/// What is read at once, in bytes.
pub(super) const CHUNK: usize = 64 << 10;
/// What is not wanted of an object is read all the same if it is so little: asking anew takes longer.
const SKIPPED: u64 = 1 << 20;
/// How often an object is asked for the same bytes.
const ATTEMPTS: u32 = 3;

/// Where the segments of this server are.
pub struct Stored {
    /// The folders of the volumes of `archive`, in its order.
    pub roots: Vec<Arc<Path>>,
    /// Knows which of them failed.
    pub archive: Archive,
    /// Where they are once they are uploaded.
    pub bucket: Option<Bucket>,
}

/// What a segment is read from.
pub(super) enum Source {
    File(Arc<File>),
    Object(Object),
}

/// A segment in the object store.
pub(super) struct Object {
    bucket: Bucket,
    key: String,
    size: u64,
    flow: Option<Flow>,
}

/// What of an object is on its way.
struct Flow {
    /// Where in the object the next byte is from.
    at: u64,
    bytes: BoxStream<'static, Result<Bytes, s3::Error>>,
}

impl Stored {
    /// Opens a segment; returns its size, too. `None` if it is nowhere.
    ///
    /// # Errors
    ///
    /// If that cannot be told now.
    pub(super) async fn open(self: &Arc<Self>, name: SegmentName) -> io::Result<Option<(Source, u64)>> {
        let key = name.key();
        // In the order in which it goes on: what is not found in one place has come to the next one.
        for file in [key.clone(), format!("{key}{UPLOADED}")] {
            let this = Arc::clone(self);
            let opened = tokio::task::spawn_blocking(move || this.open_file(&file)).await;
            if let Some((file, size)) = opened.map_err(io::Error::other)?? {
                return Ok(Some((Source::File(Arc::new(file)), size)));
            }
        }
        let Some(bucket) = self.bucket.clone() else { return Ok(None) };
        let reading = bucket.read(&key, 0..CHUNK as u64).await.map_err(io::Error::other)?;
        let Some(Reading { size, bytes }) = reading else { return Ok(None) };
        let object = Object { bucket, key, size, flow: Some(Flow { at: 0, bytes }) };
        Ok(Some((Source::Object(object), size)))
    }

    fn open_file(&self, file: &str) -> io::Result<Option<(File, u64)>> {
        let mut trouble = None;
        for (at, root) in self.roots.iter().enumerate() {
            if self.archive.has_failed(at) {
                continue;
            }
            let opened = File::open(root.join(file)).and_then(|file| Ok((file.metadata()?, file)));
            match opened {
                Ok((about, file)) if about.is_file() => return Ok(Some((file, about.len()))),
                Ok(_) => {}
                Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
                Err(error) => trouble = Some(error),
            }
        }
        trouble.map_or(Ok(None), Err)
    }
}

impl Source {
    /// Bytes from there on: at least so many, at least one, and hardly more than `most`.
    pub(super) async fn fetch(&mut self, at: u64, least: usize, most: usize) -> io::Result<Bytes> {
        match self {
            Self::File(file) => {
                let file = Arc::clone(file);
                let read = move || read_file(&file, at, least.max(1), most.max(least).max(1));
                tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
            }
            Self::Object(object) => object.fetch(at, least.max(1)).await,
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
