//! Looks after stored video: reads all of it again now and then, and tells what is missing, corrupt, or was never reported.
//!
//! Decides nothing by itself ([`scrub`]), and changes nothing on the volumes. What should be there it asks of control, part by
//! part, and compares each part with what lies in the same stretch of the archive.
//!
//! What it finds is a suspicion at first: a segment may have been stored or deleted since control answered. It becomes a
//! fact only if it is still so after everything that this server had to tell until then is in the log, and control has told
//! anew what should be there; and after the file was read once more. Invariants: recording never waits for it; without
//! control, NATS or a volume it waits.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use longwatch_events::archive::{ArchiveRequest, KnownSegment, Place};
use longwatch_events::event::Scrub;
use longwatch_events::fact::Fact;
use longwatch_events::id::ServerId;
use longwatch_events::time::Clock;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::leftovers;
use super::membership::{self, Standing};
use super::reported::Reported;
use crate::archive::layout::SegmentName;
use crate::archive::repair;
use crate::archive::tombs::Begun;
use crate::outbox::Outbox;
use crate::retry::Retry;
use crate::scrub::{self, Content, Counts, Finding, Seen, View};

mod disk;
mod findings;
mod knows;
mod round;

pub(super) use disk::Disks;
use disk::{Examined, Found, Listed, Pace, Stretch};
use findings::{checked, cut, is_same, place_of, seen_of};
pub(super) use knows::{Control, Knows};
pub(super) use round::FILE;
use round::{Round, Saved};

/// Segments that control is asked for at once.
const PART: u32 = 100;
/// It is not asked more often.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// Between two attempts, after the first and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// A file that got its name so long ago was reported, if it ever will be.
const REPORTED_AFTER: Duration = Duration::from_secs(300);
/// Between two rounds, at least.
const LEAST: Duration = Duration::from_secs(1);
/// How long facts may take into the outbox before they are not waited for any more.
const TAKEN_LIMIT: Duration = Duration::from_secs(30);
/// Between two looks at whether the outbox has sent what it had.
const LOOK: Duration = Duration::from_millis(50);

/// How much is examined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scrubbing {
    /// So often all of it; `None`: never.
    pub every: Option<Duration>,
    /// So much is read in a second.
    pub max_bytes_per_second: u64,
}

/// What a scrubber needs.
pub(super) struct Means<K> {
    /// Knows what should be there.
    pub(super) knows: Arc<K>,
    /// What is there.
    pub(super) disks: Disks,
    /// Deletions under way.
    pub(super) begun: Begun,
    /// How much is examined.
    pub(super) scrubbing: Scrubbing,
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
    /// Where it stands how far this has come.
    pub(super) file: PathBuf,
    /// Hears how far this has come.
    pub(super) progress: watch::Sender<Option<Scrub>>,
}

/// Works until `stop` is cancelled.
pub(super) async fn run<K: Knows>(means: Means<K>, stop: CancellationToken) {
    if let Some(every) = means.scrubbing.every {
        let pace = Pace::new(means.scrubbing.max_bytes_per_second);
        let saved = Saved::new(means.file.clone());
        let mut scrubber =
            Scrubber { means, saved, pace: Some(pace), told: 0, asked_at: None, stop: stop.clone() };
        tokio::select! {
            () = stop.cancelled() => {}
            () = scrubber.work(every) => {}
        }
    }
}

struct Scrubber<K> {
    means: Means<K>,
    saved: Saved,
    /// Away while something is read.
    pace: Option<Pace>,
    /// How many facts of examined segments this run has told.
    told: u64,
    asked_at: Option<Instant>,
    stop: CancellationToken,
}

/// Why a step came to nothing.
enum Held {
    /// For this reason; it is worth another try.
    Failed(String),
    /// The process ends.
    Stopped,
}

impl From<String> for Held {
    fn from(why: String) -> Self {
        Self::Failed(why)
    }
}

/// What was seen of files, by key.
type Files = BTreeMap<String, Vec<Seen>>;

impl<K: Knows> Scrubber<K> {
    /// One round after the other, each step of which is tried until it is done.
    async fn work(&mut self, every: Duration) {
        let mut last = self.saved.load();
        loop {
            let round = match last {
                Some(round) if round.next.is_some() => round,
                Some(round) => {
                    self.means.progress.send_replace(Some(round.told()));
                    let due_in = round.due_in(every, self.means.clock.now());
                    tokio::time::sleep(due_in.max(LEAST)).await;
                    Round::after(last, self.means.clock.now())
                }
                None => Round::after(None, self.means.clock.now()),
            };
            let Some(round) = self.finish(round).await else { return };
            let Counts { checked, missing, corrupt, orphans, foreign } = round.counts;
            tracing::info!(checked, missing, corrupt, orphans, foreign, "all of the archive was examined");
            last = Some(round);
        }
    }

    /// Brings a round to its end; `None`: the process ends.
    async fn finish(&mut self, mut round: Round) -> Option<Round> {
        let mut retry = Retry::new(RETRY.0, RETRY.1);
        let began = Instant::now();
        while let Some(from) = round.next {
            self.means.progress.send_replace(Some(round.told()));
            match self.step(from).await {
                Ok((counts, next)) => {
                    retry.worked();
                    round.counts.add(counts);
                    round.next = next;
                    if next.is_none() {
                        round.completed_at = Some(self.means.clock.now());
                    }
                    self.saved.save(&round);
                }
                Err(Held::Stopped) => return None,
                Err(Held::Failed(why)) => {
                    let wait = retry.failed(rand::random());
                    if retry.is_news(&why, began.elapsed()) {
                        tracing::warn!(why, again_in_ms = wait.as_millis(), "the archive is not examined");
                    }
                    tokio::time::sleep(wait).await;
                }
            }
        }
        Some(round)
    }

    /// Examines the archive from a place on; returns what there is, and where it goes on.
    async fn step(&mut self, from: Place) -> Result<(Counts, Option<Place>), Held> {
        let server_id = membership::adopted(&mut self.means.standing).await;
        let (known, stretch) = self.known(server_id, from).await?;
        let disks = self.means.disks.clone();
        let found = blocking(move || disks.list(server_id, stretch)).await?;
        let stretch = found.stretch;
        let known: Vec<_> = known.into_iter().filter(|segment| stretch.holds(cut(segment.place()))).collect();
        let seen = self.examine(&known, &found).await?;
        let mut files = BTreeMap::new();
        for (key, listed) in &found.files {
            files.insert(key.clone(), seen_of(listed, &seen));
        }
        let (mut counts, suspicions) = self.judge(&known, &files, found.is_whole);
        counts.foreign += found.foreign;
        let mut next = stretch.until;
        if !suspicions.is_empty() {
            let (findings, confirmed_until) = self.confirm(server_id, from, &suspicions).await?;
            // What could not be asked for again is looked at again.
            next = next.into_iter().chain(confirmed_until).min();
            for finding in
                findings.iter().filter(|f| next.is_none_or(|next| place_of(f).is_none_or(|p| p < next)))
            {
                counts.find(finding);
                self.tell(finding).await?;
            }
        }
        Ok((counts, next))
    }

    /// What should be there from a place on, and how far that reaches.
    async fn known(
        &mut self,
        server_id: ServerId,
        from: Place,
    ) -> Result<(Vec<KnownSegment>, Stretch), String> {
        if let Some(at) = self.asked_at.replace(Instant::now()) {
            tokio::time::sleep_until(at + ASK_EVERY).await;
        }
        let part = self.means.knows.part(server_id, ArchiveRequest { from, limit: PART, of: None }).await?;
        let mut segments = part.segments;
        let mut until = None;
        if let Some(last) = segments.last().filter(|_| part.more) {
            // Others may begin within the same millisecond, which is as much as a name tells.
            let at = cut(last.place());
            until = Some(if at > from { at } else { Place { start: at.start.plus_millis(1), ..at } });
        }
        let stretch = Stretch { from, until };
        segments.retain(|segment| stretch.holds(cut(segment.place())));
        Ok((segments, stretch))
    }

    /// Reads what should be there, and what nobody may have reported.
    async fn examine(
        &mut self,
        known: &[KnownSegment],
        found: &Found,
    ) -> Result<BTreeMap<PathBuf, Content>, Held> {
        let keys: std::collections::BTreeSet<_> = known.iter().map(|segment| segment.key.as_str()).collect();
        let now = self.means.clock.now();
        let reported_after_ms = self.reported_after_ms();
        let is_due = |key: &str, file: &Listed| {
            keys.contains(key) || now.millis_since(file.named_at).abs() >= reported_after_ms
        };
        let files = found.files.iter().flat_map(|(key, files)| files.iter().map(move |file| (key, file)));
        let paths =
            files.filter(|(key, file)| is_due(key, file)).map(|(_, file)| file.path.clone()).collect();
        self.read(paths).await
    }

    /// Reads these files; of those that are gone, or cannot be judged now, nothing is said.
    async fn read(&mut self, paths: Vec<PathBuf>) -> Result<BTreeMap<PathBuf, Content>, Held> {
        let (disks, stop) = (self.means.disks.clone(), self.stop.clone());
        let mut pace =
            self.pace.take().unwrap_or_else(|| Pace::new(self.means.scrubbing.max_bytes_per_second));
        let reading = blocking(move || {
            let mut read = BTreeMap::new();
            for path in paths {
                if stop.is_cancelled() {
                    break;
                }
                if !disks.is_used(&path) {
                    continue;
                }
                if let Examined::Holds(content) =
                    disk::examine(&path, &mut pace, &stop, || disks.is_used(&path))
                {
                    read.insert(path, content);
                }
            }
            (read, pace)
        });
        let (read, pace) = reading.await?;
        self.pace = Some(pace);
        if self.stop.is_cancelled() { Err(Held::Stopped) } else { Ok(read) }
    }

    fn reported_after_ms(&self) -> i64 {
        let at_most = self.means.scrubbing.every.unwrap_or(REPORTED_AFTER).max(LEAST);
        i64::try_from(REPORTED_AFTER.min(at_most).as_millis()).unwrap_or(i64::MAX)
    }

    fn judge(&self, known: &[KnownSegment], seen: &Files, is_whole: bool) -> (Counts, Vec<Finding>) {
        let keys = known.iter().map(|segment| segment.key.as_str()).chain(seen.keys().map(String::as_str));
        // Asked after the volumes were looked at: what was deleted until then was begun before.
        let deleting = self.means.begun.among(keys);
        scrub::judge(&View {
            known,
            seen,
            deleting: &deleting,
            is_whole,
            now: self.means.clock.now(),
            reported_after_ms: self.reported_after_ms(),
        })
    }

    /// Which of these suspicions are true, and how far that could be told.
    async fn confirm(
        &mut self,
        server_id: ServerId,
        from: Place,
        suspicions: &[Finding],
    ) -> Result<(Vec<Finding>, Option<Place>), Held> {
        let (mut files, mut is_whole) = (Files::new(), true);
        let mut uploaded = std::collections::BTreeSet::new();
        for finding in suspicions {
            let (disks, key) = (self.means.disks.clone(), finding.key().to_owned());
            let (paths, all, left) = blocking(move || {
                let (paths, all) = disks.find(&key);
                (paths, all, disks.is_uploaded(&key))
            })
            .await?;
            is_whole &= all;
            if left {
                uploaded.insert(finding.key().to_owned());
            }
            let read = self.read(paths.clone()).await?;
            // How old it is was looked at before.
            let named_at = self.means.clock.now();
            let seen = paths.iter().map(|path| Seen { named_at, content: read.get(path).copied() });
            if !paths.is_empty() {
                files.insert(finding.key().to_owned(), seen.collect());
            }
        }
        let keys = suspicions.iter().map(Finding::key);
        let mut deleting = self.means.begun.among(keys);
        deleting.append(&mut uploaded);
        self.settle().await;
        let (known, stretch) = self.known(server_id, from).await?;
        let suspected: std::collections::BTreeSet<_> = suspicions.iter().map(Finding::key).collect();
        let known: Vec<_> =
            known.into_iter().filter(|segment| suspected.contains(segment.key.as_str())).collect();
        let (_, mut findings) = scrub::judge(&View {
            known: &known,
            seen: &files,
            deleting: &deleting,
            is_whole,
            now: self.means.clock.now(),
            reported_after_ms: 0,
        });
        findings.retain(|finding| suspicions.iter().any(|suspicion| is_same(suspicion, finding)));
        Ok((findings, stretch.until))
    }

    /// Waits until everything that this server has had to tell is in the log.
    async fn settle(&self) {
        let waited_since = Instant::now();
        while self.means.reported.checked() < self.told && waited_since.elapsed() < TAKEN_LIMIT {
            tokio::time::sleep(LOOK).await;
        }
        let end = self.means.outbox.end();
        while !self.means.outbox.is_sent_up_to(end) {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Makes a fact of a finding.
    async fn tell(&mut self, finding: &Finding) -> Result<(), Held> {
        match finding {
            Finding::Damaged { segment, damage, content } => {
                let (key, size) = (&segment.key, segment.bytes);
                tracing::error!(key, %damage, size, found = ?content, "a stored segment is damaged");
                self.send(checked(segment, Some(*damage), *content, &*self.means.clock));
            }
            Finding::Healed { segment } => {
                tracing::info!(key = segment.key, "a stored segment that was damaged is right again");
                self.send(checked(segment, None, None, &*self.means.clock));
            }
            Finding::Orphan { key, content } => self.tell_orphan(key, *content).await?,
        }
        Ok(())
    }

    /// Reports a file as stored, if it is a segment.
    async fn tell_orphan(&self, key: &str, content: Content) -> Result<(), Held> {
        let Content::Read { bytes, sha256 } = content else {
            tracing::error!(key, "a file that nobody reported cannot be read; it is left alone");
            return Ok(());
        };
        let (disks, owned) = (self.means.disks.clone(), key.to_owned());
        let described = blocking(move || {
            let name = SegmentName::parse(&owned).ok_or_else(|| "its name is not a segment's".to_owned())?;
            let (paths, _) = disks.find(&owned);
            let path: Option<&Path> = paths.first().map(PathBuf::as_path);
            repair::describe(path.ok_or_else(|| "it is gone".to_owned())?, name)
        });
        match described.await? {
            // Retention may have taken it: then nothing is to be told but that it is deleted.
            Ok(_) if !self.means.begun.among([key]).is_empty() => {}
            // A copy under another name would take the place of what it is a copy of.
            Ok((segment, _)) if segment.name.key() != key => {
                tracing::error!(
                    key,
                    of = segment.name.key(),
                    "a file that nobody reported holds another segment; it is left alone"
                );
            }
            Ok((segment, _)) => {
                tracing::error!(key, bytes, "a segment that nobody had reported is reported now");
                let fact = leftovers::stored(&segment, key.to_owned(), bytes, sha256, false);
                if self.means.facts.send(fact).is_err() {
                    return Err(Held::Stopped);
                }
            }
            Err(why) => {
                tracing::error!(key, why, "a file that nobody reported is no segment; it is left alone")
            }
        }
        Ok(())
    }

    fn send(&mut self, fact: Fact) {
        if self.means.facts.send(fact).is_ok() {
            self.told += 1;
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Held> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Held::Failed(error.to_string()))
}

#[cfg(test)]
mod tests;
