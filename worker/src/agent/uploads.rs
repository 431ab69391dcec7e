//! Uploads what waits in the spool to the object store. Decides nothing by itself: [`crate::uploads`] says what is next.
//!
//! A segment's way, each step only after the one before it succeeded, and after the fact that it is stored is durable:
//! 1. it is put into the object store, which makes sure that what is there has its hash;
//! 2. its file is renamed to `….mp4.uploaded`, which makes it no segment for anybody else any more; the folder is flushed;
//! 3. the fact that it is uploaded becomes durable in the outbox;
//! 4. its file goes.
//!
//! So wherever the process ends, the next one finds the file: with its old name it is put again, and found to be there; with
//! the new one the fact is made again, which changes nothing. Invariant: recording never waits for any of this.

use std::fs;
use std::io::{self, ErrorKind};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use longwatch_events::event::{Spool, StoreRetention, Upload};
use longwatch_events::fact::{Fact, SegmentUploaded};
use longwatch_events::hash::Sha256;
use longwatch_events::id::StoreId;
use longwatch_events::time::Clock;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::claims::Claims;
use super::ends::Ends;
use super::leftovers;
use super::reported::{Durable, Reported};
use super::told::Told;
use super::which_store::WhichStore;
use crate::archive::inventory::{self, Listed};
use crate::archive::layout::{SegmentName, UPLOADED};
use crate::archive::s3;
use crate::plan::Key;
use crate::uploads::{Next, Outcome, Trouble, Uploads, Waiting};

/// How often figures are drawn up, and the spool looked at if it has to be.
const TICK: Duration = Duration::from_secs(1);
/// How often the whole spool is looked through, although all that is stored is heard of: nobody hears of what a person puts
/// there, or of facts that were lost.
const LOOK: Duration = Duration::from_secs(10 * 60);
/// What became durable and is taken at once.
const NEWS: usize = 1_000;

/// What it takes to upload.
pub(super) struct Means {
    /// Where to.
    pub(super) which: Arc<WhichStore>,
    /// How retention goes there; `None`: this server does not see to it.
    pub(super) retention: Option<watch::Receiver<StoreRetention>>,
    /// How many segments at once.
    pub(super) at_once: usize,
    /// Where from: the folders of the volumes.
    pub(super) roots: Vec<Arc<Path>>,
    /// Who is at which segment.
    pub(super) claims: Arc<Claims>,
    /// What the outbox has taken.
    pub(super) reported: Arc<Reported>,
    /// Whether all that is stored is reported.
    pub(super) told: Arc<Told>,
    /// Takes facts.
    pub(super) facts: UnboundedSender<Fact>,
    /// Tells the time.
    pub(super) clock: Arc<dyn Clock>,
    /// Remembers where cameras resume.
    pub(super) ends: Ends,
    /// Hears how it goes.
    pub(super) spool: watch::Sender<Spool>,
}

/// What all uploads use.
struct Shared {
    which: Arc<WhichStore>,
    roots: Vec<Arc<Path>>,
    claims: Arc<Claims>,
    reported: Arc<Reported>,
    facts: UnboundedSender<Fact>,
    clock: Arc<dyn Clock>,
}

struct Uploader {
    shared: Arc<Shared>,
    told: Arc<Told>,
    retention: Option<watch::Receiver<StoreRetention>>,
    ends: Option<Ends>,
    spool: watch::Sender<Spool>,
    uploads: Uploads,
    running: JoinSet<Ended>,
    began: Instant,
    looked_at: Option<Instant>,
    said: Option<Trouble>,
}

/// What became of an upload.
struct Ended {
    name: SegmentName,
    outcome: Outcome,
    /// For a person.
    detail: String,
}

/// Works until `stop` is cancelled. `durable` tells which facts of segments are.
pub(super) async fn run(means: Means, mut durable: UnboundedReceiver<Durable>, stop: CancellationToken) {
    let Means { which, retention, at_once, roots, claims, reported, told, facts, clock, ends, spool } = means;
    let mut uploader = Uploader {
        shared: Arc::new(Shared { which, roots, claims, reported, facts, clock }),
        told,
        retention,
        ends: Some(ends),
        spool,
        uploads: Uploads::new(at_once),
        running: JoinSet::new(),
        began: Instant::now(),
        looked_at: None,
        said: None,
    };
    let mut tick_at = Instant::now();
    let mut news = Vec::new();
    loop {
        if Instant::now() >= tick_at {
            uploader.tick().await;
            tick_at = Instant::now() + TICK;
        }
        let wake_at = uploader.begin().map_or(tick_at, |at| at.min(tick_at));
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            Some(ended) = uploader.running.join_next() => match ended {
                Ok(ended) => uploader.take(&ended),
                // Each catches its own panics.
                Err(error) => tracing::error!(%error, "an upload ended by a bug"),
            },
            received = durable.recv_many(&mut news, NEWS) => {
                if received == 0 {
                    return;
                }
                uploader.hear(std::mem::take(&mut news)).await;
            }
            () = tokio::time::sleep_until(wake_at) => {}
        }
    }
}

impl Uploader {
    /// Begins what may begin; returns when there may be more.
    fn begin(&mut self) -> Option<Instant> {
        loop {
            match self.uploads.next(self.began.elapsed()) {
                Next::Begin(waiting) => {
                    let shared = Arc::clone(&self.shared);
                    self.running.spawn(async move {
                        let upload = AssertUnwindSafe(shared.upload(&waiting)).catch_unwind().await;
                        let by_bug = |_| (Outcome::Unreadable, "a bug".to_owned());
                        let (outcome, detail) = upload.unwrap_or_else(by_bug);
                        Ended { name: waiting.name, outcome, detail }
                    });
                }
                Next::At(at) => return Some(self.began + at),
                Next::Nothing => return None,
            }
        }
    }

    /// Takes what became of an upload.
    fn take(&mut self, ended: &Ended) {
        let Ended { name, outcome, detail } = ended;
        self.uploads.ended(name, *outcome, self.began.elapsed(), rand::random());
        let key = name.key();
        match outcome {
            Outcome::Uploaded => tracing::debug!(key, detail, "segment uploaded"),
            Outcome::Gone => tracing::debug!(key, "segment not uploaded: it is not there any more"),
            Outcome::Unreadable => tracing::warn!(key, detail, "segment not uploaded; trying again"),
            Outcome::Conflict => {
                tracing::error!(
                    key,
                    detail,
                    "segment not uploaded: another object has its name; nothing is overwritten"
                );
            }
            Outcome::Failed(_) => tracing::debug!(key, detail, "segment not uploaded; trying again"),
        }
        let trouble = self.uploads.trouble();
        if trouble != self.said {
            self.said = trouble;
            let waiting = self.uploads.len();
            match trouble {
                Some(_) => tracing::warn!(
                    detail,
                    waiting,
                    "the object store takes nothing; segments wait in the spool"
                ),
                None => tracing::info!(waiting, "the object store takes segments again"),
            }
        }
    }

    /// Looks at what happened meanwhile, and says how it goes.
    async fn tick(&mut self) {
        let is_due = self.looked_at.is_none_or(|at| at.elapsed() >= LOOK);
        // Nothing may go of which the log was not told that it is stored.
        if is_due && self.told.is_whole() {
            let (shared, is_first) = (Arc::clone(&self.shared), self.looked_at.is_none());
            self.looked_at = Some(Instant::now());
            match tokio::task::spawn_blocking(move || shared.look(is_first)).await {
                Ok(found) => found.into_iter().for_each(|waiting| self.uploads.add(waiting)),
                Err(error) => tracing::error!(%error, "looking through the spool failed by a bug"),
            }
        }
        for name in self.shared.claims.deleted() {
            self.uploads.forget(&name);
        }
        let mut figures = self.uploads.figures(self.shared.clock.now());
        // Who looks after nothing there does not say that it could.
        if let Some(retention) = &self.retention {
            figures.store_id = self.shared.which.said();
            figures.retention = *retention.borrow();
        }
        self.spool.send_replace(figures);
    }

    /// Hears which facts are durable.
    async fn hear(&mut self, news: Vec<Durable>) {
        let Some(mut ends) = self.ends.take() else { return };
        let shared = Arc::clone(&self.shared);
        let heard = tokio::task::spawn_blocking(move || {
            let (mut stored, mut uploaded) = (Vec::new(), Vec::new());
            for durable in news {
                match durable {
                    Durable::Stored { key, sha256 } => stored.extend(shared.stored(&key, sha256)),
                    Durable::Uploaded { key } => uploaded.push(key),
                }
            }
            shared.remove(&uploaded, &mut ends);
            (stored, ends)
        });
        match heard.await {
            Ok((stored, ends)) => {
                stored.into_iter().for_each(|waiting| self.uploads.add(waiting));
                self.ends = Some(ends);
            }
            Err(error) => tracing::error!(%error, "uploaded segments are not removed any more, by a bug"),
        }
    }
}

impl Shared {
    /// Uploads one.
    async fn upload(&self, waiting: &Waiting) -> (Outcome, String) {
        let name = waiting.name;
        let Some(_claim) = self.claims.take(name) else {
            return (Outcome::Unreadable, "it is about to be deleted".to_owned());
        };
        let key = name.key();
        let (roots, of) = (self.roots.clone(), key.clone());
        let path = match blocking(move || find(&roots, &of)).await {
            Ok(Some((path, _))) => path,
            Ok(None) => return (Outcome::Gone, String::new()),
            Err(error) => return (Outcome::Unreadable, error.to_string()),
        };
        // Where it lies is told with it, so that it is known before it lies there.
        let store_id = match self.which.get().await {
            Ok(store_id) => store_id,
            Err(error) => return (trouble_of(&error), error.to_string()),
        };
        let object = match self.which.bucket().put(&key, &path, waiting.end).await {
            Ok(object) => object,
            Err(error) => return (outcome_of(&error), error.to_string()),
        };
        if waiting.sha256.is_some_and(|known| known != object.sha256) {
            // What there is of it is better there than nowhere; the log knows both hashes.
            tracing::error!(key, sha256 = %object.sha256, "segment is not what was stored; uploaded as it is");
        }
        match blocking(move || rename(&path)).await {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => {
                tracing::warn!(
                    key,
                    "somebody removed a segment that was being uploaded; it is in the object store"
                );
            }
            Err(error) => return (Outcome::Unreadable, error.to_string()),
        }
        let how = if object.was_there { "it was there" } else { "put" };
        self.tell(name, object.bytes, object.sha256, Some(store_id));
        (Outcome::Uploaded, how.to_owned())
    }

    fn tell(&self, name: SegmentName, bytes: u64, sha256: Sha256, store_id: Option<StoreId>) {
        let SegmentName { tenant_id, camera_id, epoch, start, .. } = name;
        let (key, at) = (name.key(), self.clock.now());
        let fact = SegmentUploaded { tenant_id, camera_id, epoch, key, start, bytes, sha256, at, store_id };
        if self.facts.send(Fact::SegmentUploaded(fact)).is_err() {
            tracing::warn!(
                key = name.key(),
                "an upload is reported by the next start: nobody takes facts any more"
            );
        }
    }

    /// What waits in the spool of which the log was told. The first time what an earlier run uploaded and did not get to
    /// report is reported again. Blocks.
    fn look(&self, is_first: bool) -> Vec<Waiting> {
        let (mut found, now) = (Vec::new(), self.clock.now());
        for root in &self.roots {
            let days = inventory::days(root).unwrap_or_else(|error| {
                tracing::error!(root = %root.display(), %error, "cannot look through the spool");
                Vec::new()
            });
            for day in &days {
                match inventory::segments(day) {
                    Ok(all) => found.extend(all.into_iter().filter_map(|listed| {
                        let Listed { name, end, bytes, .. } = listed;
                        self.reported.is_told(&listed, now).then_some(Waiting {
                            name,
                            end,
                            bytes,
                            sha256: None,
                        })
                    })),
                    Err(error) => {
                        tracing::error!(folder = %day.folder.display(), %error, "cannot look through the spool");
                    }
                }
                if is_first {
                    self.report_again(day);
                }
            }
        }
        if is_first && !found.is_empty() {
            tracing::info!(segments = found.len(), "segments of earlier runs wait to be uploaded");
        }
        found
    }

    /// Reports what was uploaded of a day and is still there.
    fn report_again(&self, day: &inventory::Day) {
        let uploaded = inventory::uploaded(day).unwrap_or_else(|error| {
            tracing::error!(folder = %day.folder.display(), %error, "cannot look for what was uploaded");
            Vec::new()
        });
        for (name, path) in uploaded {
            match leftovers::hash(&path) {
                // Where it was uploaded to was remembered before it was.
                Ok((bytes, sha256)) => self.tell(name, bytes, sha256, self.which.known()),
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "cannot read what was uploaded; the next start tries again");
                }
            }
        }
    }

    /// A segment of which the log was told that it is stored. Blocks.
    fn stored(&self, key: &str, sha256: Sha256) -> Option<Waiting> {
        let name = SegmentName::parse(key)?;
        match find(&self.roots, key) {
            Ok(found) => {
                let (_, file) = found?;
                let end = inventory::end_of(&file, &name);
                Some(Waiting { name, end, bytes: file.len(), sha256: Some(sha256) })
            }
            Err(error) => {
                tracing::error!(key, %error, "cannot look at a segment that was stored; it is uploaded later");
                None
            }
        }
    }

    /// Removes the files of segments of which the log was told that they are uploaded. Blocks.
    fn remove(&self, keys: &[String], ends: &mut Ends) {
        let mut found = Vec::new();
        for key in keys {
            let Some(name) = SegmentName::parse(key) else { continue };
            match find(&self.roots, &format!("{key}{UPLOADED}")) {
                Ok(Some((path, file))) => found.push((name, path, inventory::end_of(&file, &name))),
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(key, %error, "cannot look at what was uploaded; the next start removes it")
                }
            }
        }
        let camera = |name: &SegmentName| Key { tenant_id: name.tenant_id, camera_id: name.camera_id };
        if let Err(error) = ends.note(found.iter().map(|(name, _, end)| (camera(name), *end))) {
            tracing::error!(%error, "cannot note up to when uploaded segments reach; they stay until the next start");
            return;
        }
        for (name, path, _) in found {
            let key = name.key();
            match fs::remove_file(&path) {
                Ok(()) => {}
                Err(error) => {
                    tracing::error!(key, %error, "cannot remove what was uploaded; the next start does")
                }
            }
            let root = self.roots.iter().find(|root| path.starts_with(root));
            if let Some(root) = root {
                inventory::remove_if_empty(root, &key, name.start, self.clock.now());
            }
        }
    }
}

const fn outcome_of(error: &s3::Error) -> Outcome {
    match error {
        s3::Error::File { .. } => Outcome::Unreadable,
        s3::Error::Conflict(_) => Outcome::Conflict,
        s3::Error::Settings(_) | s3::Error::Refused(_) => Outcome::Failed(Trouble::Refused),
        s3::Error::Unavailable(_) => Outcome::Failed(Trouble::Unreachable),
    }
}

/// The same of an error that is about the whole store.
const fn trouble_of(error: &s3::Error) -> Outcome {
    match error {
        s3::Error::File { .. } | s3::Error::Unavailable(_) => Outcome::Failed(Trouble::Unreachable),
        s3::Error::Conflict(_) | s3::Error::Settings(_) | s3::Error::Refused(_) => {
            Outcome::Failed(Trouble::Refused)
        }
    }
}

/// Where a file lies, and what the file system says of it; `None` if it is on none of the volumes. Blocks.
fn find(roots: &[Arc<Path>], key: &str) -> io::Result<Option<(PathBuf, fs::Metadata)>> {
    let mut failed = None;
    for root in roots {
        let path = root.join(key);
        match fs::metadata(&path) {
            Ok(file) => return Ok(Some((path, file))),
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(error) => failed = Some(error),
        }
    }
    failed.map_or(Ok(None), Err)
}

/// Marks a file as uploaded, durably. Blocks.
fn rename(path: &Path) -> io::Result<()> {
    let mut uploaded = path.as_os_str().to_owned();
    uploaded.push(UPLOADED);
    fs::rename(path, &uploaded)?;
    path.parent().map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// Whether an archive is well, as far as its object store tells.
pub(super) fn is_well(spool: &Spool) -> bool {
    let uploads = match spool.upload {
        Upload::Ok => true,
        Upload::Behind | Upload::Unreachable | Upload::Refused | Upload::Conflict => false,
    };
    uploads && spool.retention == StoreRetention::Ok
}
