//! The object store an archive is uploaded to: a bucket of S3, or of anything that speaks like it. The only place that
//! names the driver.
//!
//! A segment becomes one object of the same key, below the prefix. What fits into [`PART`] is one PUT; what is larger goes in
//! parts of that size. Its SHA-256 goes along as the metadata `sha256` (and as `end` when its video ends), and is what the store checks the body against (for an
//! object in parts: each part against its own).
//!
//! Invariants: an object is created, never overwritten (`If-None-Match: *`, for parts when they are joined); what is found
//! in its place is it, or an [`Error::Conflict`]. So putting twice is putting once, whatever became of the first answer.
//! Nothing is tried again in here: whoever calls knows what else waits.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use longwatch_events::hash::Sha256;
use longwatch_events::time::Timestamp;
use object_store::aws::{AmazonS3, AmazonS3Builder, Checksum, S3ConditionalPut};
use object_store::path::Path as Key;
use object_store::{
    Attribute, AttributeValue, Attributes, GetOptions, GetResult, MultipartUpload, ObjectStore,
    ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, RetryConfig,
};

use super::local::Hasher;

mod credentials;
mod http;
pub mod pace;
mod reading;
mod upkeep;

pub use reading::Reading;
pub use upkeep::{Found, HOLDS, MARKER};

/// What goes in one request, in bytes: of most cameras a minute. As many times of it are in memory as there are uploads at once.
pub const PART: u64 = 32 << 20;
/// What a body is handed on in.
const CHUNK: usize = 64 << 10;
/// Under which name the hash of a whole object stands in its metadata.
pub const HASH: &str = "sha256";
/// Under which name it stands there when its last frame ends (RFC 3339): its key says only when the first one begins.
pub const END: &str = "end";
/// How long giving up an upload in parts may take.
const ABORT_LIMIT: Duration = Duration::from_secs(5);
/// How often an object is asked for at once. A store that says that one is there before it has read the body closes the
/// connection behind that, and whoever asks on it next may be cut off.
const ASKED: usize = 3;
/// Longer texts of a store help nobody.
const MAX_DETAIL_CHARS: usize = 400;

/// Which bucket, and how it is reached. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The bucket.
    pub bucket: String,
    /// What all keys begin with, without a `/` around; may be empty.
    pub prefix: String,
    /// Where the store is; `None`: Amazon's, in that region.
    pub endpoint: Option<String>,
    /// Its region; `None`: as the environment says, or `us-east-1`.
    pub region: Option<String>,
    /// Where the key to it stands; `None`: in the environment, or with the machine.
    pub credentials_file: Option<PathBuf>,
    /// Whether it may be reached without TLS.
    pub allow_http: bool,
    /// How many segments are uploaded at once; at least one.
    pub concurrency: usize,
    /// How many bytes a second go there at most; `None`: as fast as it takes them.
    pub max_bytes_per_second: Option<u64>,
    /// How often it is looked at what is not to be kept there any longer; `None`: never, others see to that.
    pub retention_every: Option<Duration>,
}

/// Why an object is not there, or is not known to be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It was told nonsense.
    #[error("cannot use the object store: {0}")]
    Settings(String),
    /// The file that is to be uploaded cannot be read.
    #[error("cannot read {}: {source}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something else has its name, and stays.
    #[error("another object is there: {0}")]
    Conflict(String),
    /// The store says no, whoever asks again: wrong key, no right, no such bucket.
    #[error("the object store refuses: {0}")]
    Refused(String),
    /// The store does not answer, or says that it cannot now.
    #[error("the object store is not to be reached: {0}")]
    Unavailable(String),
}

impl From<object_store::Error> for Error {
    fn from(error: object_store::Error) -> Self {
        let detail = chain(&error);
        #[allow(clippy::wildcard_enum_match_arm, reason = "the driver may come to know more of them")]
        match error {
            object_store::Error::PermissionDenied { .. }
            | object_store::Error::Unauthenticated { .. }
            | object_store::Error::NotFound { .. }
            | object_store::Error::InvalidPath { .. }
            | object_store::Error::NotSupported { .. }
            | object_store::Error::NotImplemented { .. } => Self::Refused(detail),
            _ => Self::Unavailable(detail),
        }
    }
}

/// What an error says, and what is behind it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut behind = error.source();
    while let Some(error) = behind {
        let more = error.to_string();
        // Many errors say what is behind them themselves.
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        behind = error.source();
    }
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match line.char_indices().nth(MAX_DETAIL_CHARS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// An object that is there, whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Object {
    /// Its size.
    pub bytes: u64,
    /// The hash of all of it.
    pub sha256: Sha256,
    /// It was there before: an earlier attempt had worked.
    pub was_there: bool,
}

/// A bucket. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Bucket {
    store: Arc<AmazonS3>,
    prefix: Key,
}

/// A file as it is uploaded.
struct Source {
    file: Arc<File>,
    bytes: u64,
    sha256: Sha256,
    /// All of it, if that is one part.
    whole: Option<Bytes>,
}

impl Bucket {
    /// The bucket that `settings` speak of. Speaks to nobody yet. Blocks.
    ///
    /// # Errors
    ///
    /// If they make no sense.
    pub fn open(settings: &Settings) -> Result<Self, Error> {
        Self::open_with(settings, http::QUIET)
    }

    /// As [`Self::open`]; a request ends when nothing has moved for `quiet`.
    fn open_with(settings: &Settings, quiet: Duration) -> Result<Self, Error> {
        let Settings { bucket, prefix, endpoint, region, credentials_file, allow_http, .. } = settings;
        let pacer = settings.max_bytes_per_second.map(|rate| Arc::new(http::Pacer::new(rate)));
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(bucket)
            .with_allow_http(*allow_http)
            .with_http_connector(http::Connector { pacer, allow_http: *allow_http, quiet })
            .with_checksum_algorithm(Checksum::SHA256)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            // Not every store knows how to delete many at once, and one by one costs nothing more.
            .with_disable_bulk_delete(true)
            // Whoever calls does that.
            .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() });
        if let Some(endpoint) = endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        if let Some(region) = region {
            builder = builder.with_region(region);
        }
        if let Some(path) = credentials_file {
            builder = builder.with_credentials(Arc::new(credentials::File::open(path.clone())));
        }
        let nonsense = |e: &dyn std::error::Error| Error::Settings(chain(e));
        let store = builder.build().map_err(|e| nonsense(&e))?;
        let prefix = Key::parse(prefix).map_err(|e| nonsense(&e))?;
        Ok(Self { store: Arc::new(store), prefix })
    }

    /// The name of the object of a segment's key.
    fn name(&self, key: &str) -> Result<Key, Error> {
        let name =
            if self.prefix.as_ref().is_empty() { key.to_owned() } else { format!("{}/{key}", self.prefix) };
        Key::parse(name).map_err(|e| Error::Settings(chain(&e)))
    }

    /// Makes sure that the file at `path`, whose video ends at `end`, is the object of `key`.
    ///
    /// # Errors
    ///
    /// Why it is not, as far as is known: it may be there all the same, and putting it again tells.
    pub async fn put(&self, key: &str, path: &Path, end: Timestamp) -> Result<Object, Error> {
        let name = self.name(key)?;
        let source = Source::open(path).await?;
        let attributes = attributes(&source, end);
        let put = match &source.whole {
            Some(whole) => self.put_whole(&name, whole.clone(), attributes).await,
            None => self.put_parts(&name, &source, path, attributes).await,
        };
        let was_there = match put {
            Ok(()) => false,
            Err(
                object_store::Error::AlreadyExists { .. }
                | object_store::Error::Precondition { .. }
                | object_store::Error::NotModified { .. },
            ) => {
                self.compare(&name, &source).await?;
                true
            }
            Err(error) => return Err(file_error(&error, path).unwrap_or_else(|| error.into())),
        };
        Ok(Object { bytes: source.bytes, sha256: source.sha256, was_there })
    }

    async fn put_whole(&self, name: &Key, whole: Bytes, attributes: Attributes) -> object_store::Result<()> {
        let options = PutOptions { mode: PutMode::Create, attributes, ..PutOptions::default() };
        self.store.put_opts(name, payload(whole), options).await?;
        Ok(())
    }

    async fn put_parts(
        &self,
        name: &Key,
        source: &Source,
        path: &Path,
        attributes: Attributes,
    ) -> object_store::Result<()> {
        // All parts would be for nothing.
        match self.store.head(name).await {
            Ok(_) => {
                let path = name.to_string();
                let source = "it was there before its parts were uploaded".into();
                return Err(object_store::Error::AlreadyExists { path, source });
            }
            Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        let options = PutMultipartOptions { attributes, ..PutMultipartOptions::default() };
        let mut upload = self.store.put_multipart_opts(name, options).await?;
        let done = send_parts(&mut *upload, source, path).await;
        if done.is_err() {
            // The end may have been done and not answered, or answered as one that was done before.
            if self.compare(name, source).await.is_ok() {
                return Ok(());
            }
            // What is left of it costs money until the bucket's lifecycle rule takes it.
            match tokio::time::timeout(ABORT_LIMIT, upload.abort()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%name, error = chain(&error), "parts are left"),
                Err(_) => tracing::debug!(%name, "parts are left: no answer"),
            }
        }
        done
    }

    /// Whether what is there is what was to be put.
    async fn compare(&self, name: &Key, source: &Source) -> Result<(), Error> {
        match self.examine(name, source.bytes, Some(source.sha256)).await? {
            Found::Same => Ok(()),
            Found::Other(detail) => Err(Error::Conflict(detail)),
            // It was about to come to be, or to go.
            Found::Nothing => {
                Err(Error::Unavailable("an object was said to be there, and is not".to_owned()))
            }
        }
    }

    /// Asks for an object, and again at once if there was no answer.
    async fn ask(&self, name: &Key, options: &GetOptions) -> object_store::Result<GetResult> {
        let mut asked = self.store.get_opts(name, options.clone()).await;
        for _ in 1..ASKED {
            if !matches!(asked, Err(object_store::Error::Generic { .. })) {
                break;
            }
            asked = self.store.get_opts(name, options.clone()).await;
        }
        asked
    }

    /// What is there of a segment of so many bytes, and of this hash if it is given.
    async fn examine(&self, name: &Key, bytes: u64, sha256: Option<Sha256>) -> Result<Found, Error> {
        let head = GetOptions { head: true, ..GetOptions::default() };
        let found = match self.ask(name, &head).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(Found::Nothing),
            Err(error) => return Err(error.into()),
        };
        if found.meta.size != bytes {
            let detail = format!("it has {} bytes, the segment {bytes}", found.meta.size);
            return Ok(Found::Other(detail));
        }
        let Some(expected) = sha256 else { return Ok(Found::Same) };
        let told =
            found.attributes.get(&Attribute::Metadata(HASH.into())).map(|told| told.as_ref().to_owned());
        let sha256 = match told {
            Some(told) => told,
            // Somebody else put it there, or the store keeps no metadata: it is read.
            None => hash_of(self.store.get(name).await?).await?.to_string(),
        };
        if sha256 == expected.to_string() {
            return Ok(Found::Same);
        }
        Ok(Found::Other(format!("its SHA-256 is {sha256}, the segment's {expected}")))
    }
}

fn attributes(source: &Source, end: Timestamp) -> Attributes {
    let mut attributes = Attributes::new();
    attributes.insert(Attribute::ContentType, AttributeValue::from("video/mp4"));
    for (name, value) in [(HASH, source.sha256.to_string()), (END, end.to_string())] {
        attributes.insert(Attribute::Metadata(name.into()), AttributeValue::from(value));
    }
    attributes
}

/// A body in pieces that are small enough to be paced.
fn payload(bytes: Bytes) -> PutPayload {
    let at = (0..bytes.len()).step_by(CHUNK);
    at.map(|at| bytes.slice(at..bytes.len().min(at + CHUNK))).collect()
}

async fn send_parts(
    upload: &mut dyn MultipartUpload,
    source: &Source,
    path: &Path,
) -> object_store::Result<()> {
    let failed = |e: io::Error| object_store::Error::Generic { store: FILE, source: Box::new(e) };
    let mut hasher = Hasher::new();
    let mut at = 0;
    while at < source.bytes {
        let part = read(&source.file, at, PART.min(source.bytes - at)).await.map_err(failed)?;
        at += part.len() as u64;
        hasher.update(&part);
        upload.put_part(payload(part)).await?;
    }
    if hasher.finish() != source.sha256 {
        let changed = format!("{} changed while it was read", path.display());
        return Err(failed(io::Error::other(changed)));
    }
    upload.complete().await?;
    Ok(())
}

/// What an error of the driver calls its store if it is one of our file.
const FILE: &str = "the segment's file";

/// The file's error that went through the driver's.
fn file_error(error: &object_store::Error, path: &Path) -> Option<Error> {
    let object_store::Error::Generic { store: FILE, source } = error else { return None };
    Some(Error::File { path: path.into(), source: io::Error::other(source.to_string()) })
}

async fn hash_of(object: GetResult) -> Result<Sha256, Error> {
    let (mut hasher, mut stream) = (Hasher::new(), object.into_stream());
    while let Some(bytes) = stream.next().await {
        hasher.update(&bytes?);
    }
    Ok(hasher.finish())
}

impl Source {
    async fn open(path: &Path) -> Result<Self, Error> {
        let owned = path.to_owned();
        let read = move || -> io::Result<Self> {
            let file = File::open(&owned)?;
            let bytes = file.metadata()?.len();
            let mut hasher = Hasher::new();
            if bytes <= PART {
                let whole = read_now(&file, 0, bytes)?;
                hasher.update(&whole);
                return Ok(Self { file: Arc::new(file), bytes, sha256: hasher.finish(), whole: Some(whole) });
            }
            for at in (0..bytes).step_by(1 << 20) {
                hasher.update(&read_now(&file, at, (bytes - at).min(1 << 20))?);
            }
            Ok(Self { file: Arc::new(file), bytes, sha256: hasher.finish(), whole: None })
        };
        blocking(read).await.map_err(|source| Error::File { path: path.into(), source })
    }
}

async fn read(file: &Arc<File>, at: u64, bytes: u64) -> io::Result<Bytes> {
    let file = Arc::clone(file);
    blocking(move || read_now(&file, at, bytes)).await
}

fn read_now(file: &File, at: u64, bytes: u64) -> io::Result<Bytes> {
    let mut read = vec![0; usize::try_from(bytes).map_err(io::Error::other)?];
    file.read_exact_at(&mut read, at)?;
    Ok(read.into())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
