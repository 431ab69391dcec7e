//! Looks after the object store: deletes there what is not to be kept any longer, of the cameras that control says this server
//! is to look after, whoever uploaded it.
//!
//! Decides nothing by itself ([`stock`]). What lies there it learns from control, which has it from the log; the store is never
//! listed. A deletion's way, each step only after the one before it succeeded:
//! 1. the store has said that it is the one that control spoke of, and what lies in the segment's place is the segment, by
//!    size and hash; what is not there is told as missing, what is something else as corrupt, and neither is touched;
//! 2. the deletion is noted durably ([`Tombs`]);
//! 3. the object is deleted;
//! 4. the fact of it is told; when it is durable, the note is forgotten.
//!
//! So wherever the process ends, or an answer is lost, what was begun is finished by the next pass, or the next start, and told.
//! Nothing more is decided before all that was told is in the log, so that control does not count what is gone. Invariants:
//! neither recording nor uploading ever waits for it; while holds cannot be read nothing is deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use longwatch_events::archive::{ArchiveRequest, Place, Stock, StockPart, StockedCamera, StockedSegment};
use longwatch_events::event::StoreRetention;
use longwatch_events::fact::{Damage, Fact};
use longwatch_events::id::{ServerId, StoreId};
use longwatch_events::time::{Clock, Timestamp};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::membership::{self, Standing};
use super::reported::Reported;
use super::which_store::WhichStore;
use crate::archive::s3::{self, Found, HOLDS};
use crate::archive::tombs::{Intention, Tombs};
use crate::holds::Holds;
use crate::outbox::Outbox;
use crate::retention::{Going, stock};
use crate::retry::Retry;

mod facts;

use facts::{checked, deleted};

/// The file's name, in a folder of its own: what lies beside a list of deletions may be one in the making.
pub(super) const FOLDER: &str = "object_store";
/// See [`FOLDER`].
pub(super) const FILE: &str = "deletions";

/// Segments that control is asked for at once.
const PART: u32 = 200;
/// Deletions that are begun together: one write of intentions.
const AT_ONCE: usize = 50;
/// Requests to the store at once. Few, so that uploads have the line.
const REQUESTS: usize = 4;
/// What each deletion takes at least: a backlog of years takes days, and no burst of requests is felt.
const PACE: Duration = Duration::from_millis(20);
/// As many deletions may be begun and not told for good.
const MAX_BEGUN: usize = 200;
/// Between two attempts at a store that does not work, or a control that does not answer, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(600));
/// The first pass begins within this, so that servers that start together do not ask together.
const FIRST_WITHIN: Duration = Duration::from_secs(60);
/// How long facts may take to become durable before they are not waited for any more.
const DURABLE_LIMIT: Duration = Duration::from_secs(30);
/// Between two looks at whether they are.
const LOOK: Duration = Duration::from_millis(50);
/// Between two looks, while nothing else is to be done.
const TIDY: Duration = Duration::from_secs(10);

/// Who knows what lies in an object store.
pub(super) trait Stocks: Send + Sync + 'static {
    /// What `server_id` is to look after, from a place on; why not, for a person. Reflects every fact that the log had
    /// acknowledged before.
    fn part(
        &self,
        server_id: ServerId,
        request: ArchiveRequest,
    ) -> impl Future<Output = Result<StockPart, String>> + Send;
}

impl Stocks for super::scrubber::Control {
    async fn part(&self, server_id: ServerId, request: ArchiveRequest) -> Result<StockPart, String> {
        let part: StockPart = self.ask(server_id, request).await?;
        if part.server_id == server_id && Some(part.of) == request.of {
            Ok(part)
        } else {
            Err("control told of something else than it was asked".to_owned())
        }
    }
}

/// What a keeper needs.
pub(super) struct Means<K> {
    /// Knows what lies there.
    pub(super) stocks: Arc<K>,
    /// Where.
    pub(super) which: Arc<WhichStore>,
    /// How often it is looked at.
    pub(super) every: Duration,
    /// Deletions under way.
    pub(super) tombs: Tombs,
    /// Where this server's own holds stand.
    pub(super) holds: PathBuf,
    /// Which server this is.
    pub(super) standing: watch::Receiver<Standing>,
    /// What is on its way to the log.
    pub(super) outbox: Arc<Outbox>,
    /// What the outbox has taken.
    pub(super) reported: Arc<Reported>,
    /// Takes facts.
    pub(super) facts: UnboundedSender<Fact>,
    /// Tells the time.
    pub(super) clock: Arc<dyn Clock>,
    /// Hears how it goes.
    pub(super) retention: watch::Sender<StoreRetention>,
}

/// Works until `stop` is cancelled.
pub(super) async fn run<K: Stocks>(means: Means<K>, stop: CancellationToken) {
    let tombs = Arc::new(Mutex::new(means.tombs));
    let mut keeper = Keeper {
        stocks: means.stocks,
        which: means.which,
        tombs,
        holds: means.holds,
        standing: means.standing,
        outbox: means.outbox,
        reported: means.reported,
        facts: means.facts,
        clock: means.clock,
        retention: means.retention,
        told: BTreeSet::new(),
        deleted: 0,
    };
    tokio::select! {
        biased;
        // What is under way then, the next start finishes.
        () = stop.cancelled() => {}
        () = keeper.work(means.every) => {}
    }
}

struct Keeper<K> {
    stocks: Arc<K>,
    which: Arc<WhichStore>,
    tombs: Arc<Mutex<Tombs>>,
    holds: PathBuf,
    standing: watch::Receiver<Standing>,
    outbox: Arc<Outbox>,
    reported: Arc<Reported>,
    facts: UnboundedSender<Fact>,
    clock: Arc<dyn Clock>,
    retention: watch::Sender<StoreRetention>,
    /// Deletions that this run has told and of which it is not known that that is durable.
    told: BTreeSet<String>,
    /// How many this run has told.
    deleted: u64,
}

/// Why a pass came to nothing.
enum Held {
    /// The store did not do what it was asked.
    Store(s3::Error),
    /// For this reason; it is worth another try.
    Failed(String),
}

impl From<s3::Error> for Held {
    fn from(error: s3::Error) -> Self {
        Self::Store(error)
    }
}

impl From<String> for Held {
    fn from(why: String) -> Self {
        Self::Failed(why)
    }
}

/// What a pass looks at.
#[derive(Clone, Copy)]
struct Ward {
    server_id: ServerId,
    of: Stock,
}

impl Ward {
    const fn store_id(self) -> Option<StoreId> {
        match self.of {
            Stock::Store(store_id) => Some(store_id),
            Stock::Unknown => None,
        }
    }
}

impl<K: Stocks> Keeper<K> {
    /// One pass after the other.
    async fn work(&mut self, every: Duration) {
        let mut retry = Retry::new(RETRY.0.min(every), RETRY.1.max(every));
        let began = Instant::now();
        // Others are to know soon that this server could look after it.
        let _ = self.which.get().await;
        self.idle(FIRST_WITHIN.min(every).mul_f64(rand::random())).await;
        loop {
            let deleted_before = self.deleted;
            let passed = AssertUnwindSafe(self.pass()).catch_unwind().await;
            let passed = passed.unwrap_or_else(|_| Err(Held::Failed("a bug".to_owned())));
            let wait = match passed {
                Ok(deleted) => {
                    if deleted > 0 {
                        tracing::info!(segments = deleted, "deleted from the object store by retention");
                    }
                    self.say(StoreRetention::Ok, "");
                    retry.worked();
                    every
                }
                Err(held) => {
                    let why = self.say_why(&held);
                    if self.deleted > deleted_before {
                        // It works, now and then.
                        retry.worked();
                    }
                    let wait = retry.failed(rand::random());
                    if retry.is_news(&why, began.elapsed()) {
                        let again_in_ms = wait.as_millis();
                        tracing::warn!(why, again_in_ms, "the object store is not looked after");
                    }
                    wait
                }
            };
            self.idle(wait).await;
        }
    }

    /// Waits, and forgets what is told for good.
    async fn idle(&mut self, wait: Duration) {
        let until = Instant::now() + wait;
        while Instant::now() < until {
            tokio::time::sleep_until(until.min(Instant::now() + TIDY)).await;
            if let Err(why) = self.forget().await {
                tracing::warn!(why, "cannot forget deletions; the next start tells them once more");
            }
        }
    }

    /// Says what is the matter; returns it for the log.
    fn say_why(&self, held: &Held) -> String {
        let (retention, why) = match held {
            Held::Store(error @ (s3::Error::Unavailable(_) | s3::Error::File { .. })) => {
                (Some(StoreRetention::Unreachable), error.to_string())
            }
            Held::Store(
                error @ (s3::Error::Refused(_) | s3::Error::Conflict(_) | s3::Error::Settings(_)),
            ) => (Some(StoreRetention::Refused), error.to_string()),
            // Control or the log: others say how those are.
            Held::Failed(why) => (None, why.clone()),
        };
        if let Some(retention) = retention {
            self.say(retention, &why);
        }
        why
    }

    fn say(&self, now: StoreRetention, detail: &str) {
        if self.retention.send_if_modified(|said| std::mem::replace(said, now) != now) {
            match now {
                StoreRetention::Ok => tracing::info!("the object store is looked after"),
                StoreRetention::Unreachable => {
                    tracing::warn!(
                        detail,
                        "what is not to be kept stays: the object store is not to be reached"
                    );
                }
                StoreRetention::Refused => tracing::error!(
                    detail,
                    "what is not to be kept stays: the object store refuses; it takes the rights s3:GetObject, s3:ListBucket and \
                     s3:DeleteObject, or --s3-retention-interval-ms 0 if others see to that"
                ),
            }
        }
    }

    /// Looks after all there is; returns how many segments were deleted.
    async fn pass(&mut self) -> Result<usize, Held> {
        let server_id = membership::adopted(&mut self.standing).await;
        let store_id = self.which.confirm().await?;
        let mut deleted = self.finish_begun(server_id, store_id).await?;
        for of in [Stock::Store(store_id), Stock::Unknown] {
            deleted += self.look_after(Ward { server_id, of }).await?;
        }
        Ok(deleted)
    }

    async fn look_after(&mut self, ward: Ward) -> Result<usize, Held> {
        let (mut next, mut deleted) = (Some(Place::FIRST), 0);
        while let Some(from) = next {
            self.settle().await?;
            let request = ArchiveRequest { from, limit: PART, of: Some(ward.of) };
            let part = self.stocks.part(ward.server_id, request).await?;
            // A clock that goes wrong makes nothing older than the log says.
            let now = self.clock.now().min(part.at);
            next = part.next;
            for camera in &part.cameras {
                let (gone, goes_on) = self.camera(ward, camera, now).await?;
                deleted += gone;
                if let Some(last) = camera.segments.last().filter(|_| goes_on) {
                    let (tenant_id, camera_id) = (camera.tenant_id, camera.camera_id);
                    // Others of this part are told again behind this one.
                    next = Some(Place { tenant_id, camera_id, start: last.start.plus_micros(1) });
                    break;
                }
            }
            if next.is_some_and(|next| next <= from) {
                return Err(Held::Failed("control's answer leads back to where it began".to_owned()));
            }
        }
        Ok(deleted)
    }

    /// Deletes what is to go of a camera; returns how many segments went, and whether there may be more behind them.
    async fn camera(
        &mut self,
        ward: Ward,
        camera: &StockedCamera,
        now: Timestamp,
    ) -> Result<(usize, bool), Held> {
        let holds = self.read_holds().await?;
        let begun = self.begun();
        let decision = stock::decide(camera, &begun, &holds, now);
        for key in &decision.foreign {
            tracing::warn!(key, "control tells of a segment whose name makes no sense; it is left alone");
        }
        let told: BTreeMap<_, _> = camera.segments.iter().map(|told| (told.key.as_str(), told)).collect();
        let mut deleted = 0;
        for some in decision.going.chunks(AT_ONCE) {
            let with_told = |going: &Going| {
                let told = *told.get(going.segment.name.key().as_str())?;
                Some((going.clone(), told.clone()))
            };
            deleted += self.delete(ward, some.iter().filter_map(with_told).collect()).await?;
            tokio::time::sleep(PACE * u32::try_from(some.len()).unwrap_or(1)).await;
        }
        Ok((deleted, decision.goes_on))
    }

    /// What must stay, as it is written here and in the store.
    async fn read_holds(&self) -> Result<[Holds; 2], Held> {
        let nothing = |error: String| Held::Failed(format!("nothing is deleted: {error}"));
        let path = self.holds.clone();
        let here = blocking(move || Holds::read(&path)).await?.map_err(|e| nothing(e.to_string()))?;
        let there = match self.which.bucket().holds().await? {
            Some(content) => Holds::parse(&content, HOLDS.as_ref())
                .map_err(|error| nothing(format!("in the object store: {error}")))?,
            None => Holds::default(),
        };
        Ok([here, there])
    }

    /// Deletes these, of which control told that; returns how many are gone.
    async fn delete(&mut self, ward: Ward, going: Vec<(Going, StockedSegment)>) -> Result<usize, Held> {
        if MAX_BEGUN.saturating_sub(self.tombs().begun().len()) < going.len() {
            self.settle().await?;
        }
        let (bucket, mut intentions) = (self.which.bucket().clone(), Vec::new());
        let looks = going.into_iter().map(|(going, told)| {
            let bucket = bucket.clone();
            async move {
                let found = bucket.look(&told.key, told.bytes, Some(told.sha256)).await;
                (going, told, found)
            }
        });
        let found: Vec<_> = futures::stream::iter(looks).buffered(REQUESTS).collect().await;
        let (at, mut failed) = (self.clock.now(), None);
        for (going, told, found) in found {
            match found {
                // The others go all the same.
                Err(error) => failed = Some(error),
                Ok(Found::Same) => {
                    let fact = deleted(&going, ward.server_id, ward.store_id(), at);
                    intentions.push(Intention { volume: self.tombs().volume(), fact });
                }
                Ok(Found::Nothing) => self.found(ward, &going, &told, Damage::Missing, "it is not there", at),
                Ok(Found::Other(detail)) => self.found(ward, &going, &told, Damage::Corrupt, &detail, at),
            }
        }
        let gone = if intentions.is_empty() { 0 } else { self.begin(intentions).await? };
        failed.map_or(Ok(gone), |error| Err(error.into()))
    }

    /// Notes these deletions, and does them; returns how many segments are gone.
    async fn begin(&mut self, intentions: Vec<Intention>) -> Result<usize, Held> {
        let tombs = Arc::clone(&self.tombs);
        let beginning = intentions.clone();
        let begun = blocking(move || lock(&tombs).begin(&beginning)).await?;
        begun.map_err(|error| Held::Failed(format!("cannot note what is to be deleted: {error}")))?;
        self.remove(intentions).await
    }

    /// What lies in a segment's place is not the segment.
    fn found(
        &self,
        ward: Ward,
        going: &Going,
        told: &StockedSegment,
        damage: Damage,
        detail: &str,
        at: Timestamp,
    ) {
        let key = &told.key;
        if told.damage == Some(damage) {
            return tracing::debug!(key, %damage, detail, "an object is as it was found before; it is left alone");
        }
        match ward.store_id() {
            Some(store_id) => {
                tracing::error!(key, %damage, detail, "an object is not what was uploaded; it is left alone");
                self.send(checked(going, told, ward.server_id, store_id, damage, at));
            }
            // It may lie in another store.
            None => {
                tracing::warn!(key, detail, "an object is not where it was uploaded before stores had ids")
            }
        }
    }

    /// Deletes the objects of what is begun, and tells it; returns how many are gone.
    async fn remove(&mut self, intentions: Vec<Intention>) -> Result<usize, Held> {
        let bucket = self.which.bucket().clone();
        let removals = intentions.into_iter().map(|intention| {
            let bucket = bucket.clone();
            async move {
                let removed = bucket.delete(&intention.fact.key).await;
                (intention, removed)
            }
        });
        let removed: Vec<_> = futures::stream::iter(removals).buffered(REQUESTS).collect().await;
        let (mut gone, mut failed) = (0, None);
        for (intention, removed) in removed {
            match removed {
                Ok(()) => {
                    gone += 1;
                    self.tell(&intention);
                }
                // It may be gone: the next pass looks.
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(gone), |error| Err(error.into()))
    }

    /// Finishes what an earlier run, or an earlier pass, began; returns how many segments are gone by it.
    async fn finish_begun(&mut self, server_id: ServerId, store_id: StoreId) -> Result<usize, Held> {
        self.forget().await?;
        let mut left: Vec<_> = self.tombs().begun().to_vec();
        left.retain(|intention| !self.told.contains(&intention.fact.key));
        let (mut to_remove, mut over, mut gone) = (Vec::new(), BTreeSet::new(), 0);
        for intention in left {
            let fact = &intention.fact;
            if fact.store_id.is_some_and(|of| of != store_id) {
                tracing::warn!(key = fact.key, %server_id, "a deletion was begun in another object store; whoever looks after that goes on");
                over.insert(fact.key.clone());
                continue;
            }
            // What it held was looked at when it was begun.
            match self.which.bucket().look(&fact.key, fact.bytes, None).await? {
                Found::Same => to_remove.push(intention),
                Found::Nothing => {
                    gone += 1;
                    self.tell(&intention);
                }
                Found::Other(detail) => {
                    tracing::error!(
                        key = fact.key,
                        detail,
                        "an object was replaced while it was to be deleted; it is left alone"
                    );
                    over.insert(fact.key.clone());
                }
            }
        }
        if !over.is_empty() {
            self.forget_these(over).await?;
        }
        for some in to_remove.chunks(AT_ONCE) {
            gone += self.remove(some.to_vec()).await?;
        }
        Ok(gone)
    }

    fn tombs(&self) -> MutexGuard<'_, Tombs> {
        lock(&self.tombs)
    }

    /// The bytes of what is begun and not known to be told, by key.
    fn begun(&self) -> BTreeMap<String, u64> {
        self.tombs().begun().iter().map(|begun| (begun.fact.key.clone(), begun.fact.bytes)).collect()
    }

    /// Waits until everything that this server has had to tell of deletions is in the log.
    async fn settle(&mut self) -> Result<(), Held> {
        let waited_since = Instant::now();
        loop {
            self.forget().await?;
            if self.told.is_empty() {
                break;
            }
            if waited_since.elapsed() > DURABLE_LIMIT {
                return Err(Held::Failed("facts of deletions do not become durable".to_owned()));
            }
            tokio::time::sleep(LOOK).await;
        }
        let end = self.outbox.end();
        while !self.outbox.is_sent_up_to(end) {
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Forgets what is told for good.
    async fn forget(&mut self) -> Result<(), String> {
        let durable = self.reported.deletions_there();
        self.told.retain(|key| !durable.contains(key));
        let any = self.tombs().begun().iter().any(|begun| durable.contains(&begun.fact.key));
        if any { self.forget_these(durable).await } else { Ok(()) }
    }

    async fn forget_these(&self, over: BTreeSet<String>) -> Result<(), String> {
        let tombs = Arc::clone(&self.tombs);
        let tidied = blocking(move || {
            let mut tombs = lock(&tombs);
            tombs.forget(|intention| over.contains(&intention.fact.key));
            tombs.tidy()
        });
        tidied.await?.map_err(|error| format!("cannot forget deletions: {error}"))
    }

    fn tell(&mut self, intention: &Intention) {
        tracing::debug!(key = intention.fact.key, reason = %intention.fact.reason, "segment deleted from the object store");
        self.told.insert(intention.fact.key.clone());
        self.deleted += 1;
        self.send(intention.to_fact());
    }

    fn send(&self, fact: Fact) {
        if self.facts.send(fact).is_err() {
            tracing::warn!(
                "what happened in the object store is told by the next start: nobody takes facts any more"
            );
        }
    }
}

fn lock(tombs: &Mutex<Tombs>) -> MutexGuard<'_, Tombs> {
    // What it changes is on the disk, and whole at every step.
    tombs.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
