//! Facts on their way to the log: durable before anything else is done with them, kept until the log has acknowledged
//! them, sent in the order in which they happened.
//!
//! One batch is one file `<20-digit sequence>.json`: the exact bytes of its envelope, event id included, so that
//! however often it is sent, the log takes it once. Commit order: write beside, `fdatasync`, rename, `fsync` the folder
//! ([`crate::durable::replace`]); send; remove after the acknowledgement. Removal is not flushed: a batch that comes
//! back after a power cut is sent again under the same id.
//!
//! Invariants: no fact leaves before every older one has been acknowledged; a file that was read and makes no
//! sense is moved to `unreadable/` and said, never deleted; one that cannot be read right now is tried again; when the disk takes no more, batches wait in memory and are sent from there.
//! Files are read and written by whoever calls: all calls block.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use longwatch_events::envelope::Envelope;
use longwatch_events::event::{Event, RecordingReported};
use longwatch_events::fact::Fact;
use longwatch_events::id::{EventId, ServerId};
use tokio::sync::Notify;

use crate::durable::{self, UNFINISHED};

pub mod batch;

/// The outbox cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} in the outbox {}: {source}", .path.display())]
pub struct Error {
    step: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// A durable queue of batches. Whoever puts one waits until it is durable; one task takes.
#[derive(Debug)]
pub struct Outbox {
    folder: PathBuf,
    queue: Mutex<Queue>,
    changed: Notify,
}

#[derive(Debug)]
struct Queue {
    next: u64,
    batches: BTreeMap<u64, Batch>,
}

#[derive(Debug)]
enum Batch {
    /// In its file.
    OnDisk { facts: usize },
    /// The disk did not take it, yet.
    InMemory(Box<Envelope>),
}

/// The batch to be sent next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Its place in the queue.
    pub sequence: u64,
    /// By which the log recognises it.
    pub id: EventId,
    /// The server that reports it: names the subject.
    pub server_id: ServerId,
    /// The exact bytes.
    pub payload: Bytes,
    /// How many facts are in it.
    pub facts: usize,
}

/// What was given up because neither disk nor log took it for too long.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Shed {
    /// Facts that a later fact of their camera repeats or replaces.
    pub passing: usize,
    /// Facts about what is stored or missing: nothing else says it.
    pub lasting: Vec<Fact>,
}

impl Outbox {
    /// Opens the outbox in `folder`, making it if it is missing, with all that still waits in it.
    ///
    /// # Errors
    ///
    /// If the folder cannot be made or listed.
    pub fn open(folder: PathBuf) -> Result<Self, Error> {
        let failed = |step, source| Error { step, path: folder.clone(), source };
        durable::create_private_folder(&folder).map_err(|e| failed("create the folder", e))?;
        let mut found = BTreeMap::new();
        for entry in std::fs::read_dir(&folder).map_err(|e| failed("list the files", e))? {
            let path = entry.map_err(|e| failed("list the files", e))?.path();
            if let Some((sequence, finished)) = sequence_of(&path) {
                // A finished file counts more than an unfinished one of its number.
                let known = found.entry(sequence).or_insert_with(|| (finished, path.clone()));
                if finished {
                    *known = (true, path);
                }
            }
        }
        let next = found.keys().last().map_or(1, |last| last + 1);
        let outbox = Self {
            folder,
            queue: Mutex::new(Queue { next, batches: BTreeMap::new() }),
            changed: Notify::new(),
        };
        for (sequence, (finished, path)) in found {
            outbox.take_back(sequence, finished, &path);
        }
        Ok(outbox)
    }

    /// Takes a file of an earlier run into the queue.
    fn take_back(&self, sequence: u64, finished: bool, path: &Path) {
        let facts = match std::fs::read(path).map(|bytes| report_in(&bytes)) {
            Ok(Ok((_, report))) => report.facts.len(),
            Ok(Err(why)) => return self.set_aside(path, &why),
            Err(error) => {
                let path = path.display();
                tracing::error!(%path, %error, "facts cannot be read right now; trying again when it is their turn");
                // At least.
                1
            }
        };
        // Written, and never renamed: it was never sent either.
        if !finished && let Err(error) = std::fs::rename(path, self.path(sequence)) {
            tracing::error!(path = %path.display(), %error, "facts cannot be taken up; the next start tries again");
            return;
        }
        self.queue().batches.insert(sequence, Batch::OnDisk { facts });
    }

    fn set_aside(&self, path: &Path, why: &str) {
        let path_shown = path.display();
        match durable::set_aside(path, &self.folder.join("unreadable")) {
            Ok(to) => {
                tracing::error!(path = %path_shown, why, to = %to.display(), "facts cannot be read; moved aside")
            }
            Err(error) => {
                tracing::error!(path = %path_shown, why, %error, "facts cannot be read, nor moved aside")
            }
        }
    }

    fn path(&self, sequence: u64) -> PathBuf {
        self.folder.join(format!("{sequence:020}.json"))
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Every change under the lock is a single one: a panic elsewhere leaves it consistent.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a batch behind all others. It is durable when this returns `Ok`.
    ///
    /// # Errors
    ///
    /// If the disk did not take it. It waits in memory then, and [`Self::write_held`] tries again.
    pub fn put(&self, envelope: Envelope) -> Result<(), Error> {
        let sequence = {
            let mut queue = self.queue();
            queue.next += 1;
            queue.next - 1
        };
        let facts = facts_of(&envelope);
        let written = self.write(sequence, &envelope);
        let batch = match &written {
            Ok(()) => Batch::OnDisk { facts },
            Err(_) => Batch::InMemory(Box::new(envelope)),
        };
        self.queue().batches.insert(sequence, batch);
        self.changed.notify_one();
        written
    }

    fn write(&self, sequence: u64, envelope: &Envelope) -> Result<(), Error> {
        let path = self.path(sequence);
        durable::replace(&path, &envelope.encode()).map_err(|source| Error { step: "write", path, source })
    }

    /// Writes what waits in memory, oldest first.
    ///
    /// # Errors
    ///
    /// If the disk still takes nothing.
    pub fn write_held(&self) -> Result<(), Error> {
        loop {
            let held = self.queue().batches.iter().find_map(|(sequence, batch)| match batch {
                Batch::InMemory(envelope) => Some((*sequence, envelope.clone())),
                Batch::OnDisk { .. } => None,
            });
            let Some((sequence, envelope)) = held else { return Ok(()) };
            self.write(sequence, &envelope)?;
            match self.queue().batches.get_mut(&sequence) {
                Some(batch) => *batch = Batch::OnDisk { facts: facts_of(&envelope) },
                // Acknowledged meanwhile.
                None => self.remove_file(sequence),
            }
        }
    }

    /// The oldest batch; `None` if none waits.
    ///
    /// # Errors
    ///
    /// If the disk does not let it be read. It stays the oldest: asking again may help.
    pub fn first(&self) -> Result<Option<Waiting>, Error> {
        loop {
            let (sequence, held) = {
                let queue = self.queue();
                let Some((sequence, batch)) = queue.batches.first_key_value() else { return Ok(None) };
                let held = match batch {
                    Batch::OnDisk { .. } => None,
                    Batch::InMemory(envelope) => Some(envelope.encode()),
                };
                (*sequence, held)
            };
            let path = self.path(sequence);
            let bytes = match held.map_or_else(|| std::fs::read(&path), Ok) {
                Ok(bytes) => bytes,
                Err(source) if source.kind() == io::ErrorKind::NotFound => {
                    tracing::error!(path = %path.display(), "facts lost: somebody removed their file");
                    self.queue().batches.remove(&sequence);
                    continue;
                }
                Err(source) => return Err(Error { step: "read", path, source }),
            };
            match report_in(&bytes) {
                Ok((id, report)) => {
                    let (server_id, facts) = (report.server_id, report.facts.len());
                    return Ok(Some(Waiting { sequence, id, server_id, payload: bytes.into(), facts }));
                }
                Err(why) => {
                    self.set_aside(&path, &why);
                    self.queue().batches.remove(&sequence);
                }
            }
        }
    }

    /// The log has acknowledged batch `sequence`.
    pub fn done(&self, sequence: u64) {
        self.queue().batches.remove(&sequence);
        self.remove_file(sequence);
    }

    fn remove_file(&self, sequence: u64) {
        let path = self.path(sequence);
        match std::fs::remove_file(&path) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            // It will be sent once more by the next run, and recognised.
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "cannot remove facts that the log has acknowledged");
            }
        }
    }

    /// Where the queue ends now, for [`Self::is_sent_up_to`].
    pub fn end(&self) -> u64 {
        self.queue().next
    }

    /// Whether the log has acknowledged every batch that was there when [`Self::end`] was `end`, but those that were given up.
    pub fn is_sent_up_to(&self, end: u64) -> bool {
        self.queue().batches.first_key_value().is_none_or(|(first, _)| *first >= end)
    }

    /// How many facts wait.
    pub fn waiting_facts(&self) -> usize {
        self.queue().batches.values().map(Batch::facts).sum()
    }

    /// How many of them wait in memory only.
    pub fn held_facts(&self) -> usize {
        self.queue().held()
    }

    /// Gives up facts until no more than `bound` wait in memory: first the oldest passing ones, then, if those were not
    /// enough, the oldest of the others, which whoever calls must report one by one.
    pub fn shed(&self, bound: usize) -> Shed {
        let mut queue = self.queue();
        let mut shed = Shed::default();
        for passing in [true, false] {
            let mut over = queue.held().saturating_sub(bound);
            for batch in queue.batches.values_mut() {
                let Batch::InMemory(envelope) = batch else { continue };
                let Event::RecordingReported(report) = &mut envelope.event else { continue };
                report.facts.retain(|fact| {
                    if over == 0 || is_passing(fact) != passing {
                        return true;
                    }
                    over -= 1;
                    if passing {
                        shed.passing += 1
                    } else {
                        shed.lasting.push(fact.clone())
                    }
                    false
                });
            }
        }
        queue.batches.retain(|_, batch| batch.facts() > 0);
        shed
    }

    /// Waits until a batch was added since the last call.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

impl Queue {
    fn held(&self) -> usize {
        let held = |batch: &Batch| match batch {
            Batch::OnDisk { .. } => 0,
            Batch::InMemory(envelope) => facts_of(envelope),
        };
        self.batches.values().map(held).sum()
    }
}

impl Batch {
    fn facts(&self) -> usize {
        match self {
            Self::OnDisk { facts } => *facts,
            Self::InMemory(envelope) => facts_of(envelope),
        }
    }
}

/// Whether a later fact of the same camera says as much: a recording's ups and downs do, video that is stored, uploaded,
/// deleted, damaged or missing, and an event, do not.
const fn is_passing(fact: &Fact) -> bool {
    match fact {
        Fact::Started(_) | Fact::FirstKeyframeDurable(_) | Fact::Interrupted(_) => true,
        Fact::SegmentStored(_)
        | Fact::SegmentUploaded(_)
        | Fact::SegmentDeleted(_)
        | Fact::SegmentChecked(_)
        | Fact::Gap(_)
        | Fact::TimestampJumped(_)
        | Fact::RecordingTriggered(_) => false,
    }
}

fn facts_of(envelope: &Envelope) -> usize {
    let Event::RecordingReported(report) = &envelope.event else { return 0 };
    report.facts.len()
}

fn report_in(bytes: &[u8]) -> Result<(EventId, RecordingReported), String> {
    let envelope = Envelope::decode(bytes).map_err(|e| e.to_string())?;
    let Event::RecordingReported(report) = envelope.event else {
        return Err("it is another kind of event".to_owned());
    };
    Ok((envelope.id, report))
}

/// The number in a file's name, and whether the file was finished. `None`: not one of the outbox's files.
fn sequence_of(path: &Path) -> Option<(u64, bool)> {
    let name = path.file_name()?.to_str()?;
    let finished = name.strip_suffix(UNFINISHED);
    let digits = finished.unwrap_or(name).strip_suffix(".json")?;
    // No run counts that far; a file that says so is not ours.
    let sequence = digits.parse().ok().filter(|sequence| digits.len() == 20 && *sequence < u64::MAX / 2)?;
    Some((sequence, finished.is_none()))
}

#[cfg(test)]
mod tests;
