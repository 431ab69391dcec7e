//! What the outbox has taken of segments: which of them were told as stored not long ago, and which deletions and uploads are
//! told for good. It keeps facts about one segment in order, and lets deletions be forgotten.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use longwatch_events::fact::Fact;
use longwatch_events::hash::Sha256;
use longwatch_events::time::Timestamp;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;

use super::leftovers::SURELY_REPORTED;
use crate::archive::inventory::Listed;

/// Longer than it takes until a segment counts as reported by its age.
const REMEMBERED: Duration = SURELY_REPORTED.saturating_mul(2);

/// Shared by the task that gathers facts and whoever deletes or uploads.
#[derive(Debug, Default)]
pub(super) struct Reported {
    state: Mutex<State>,
    /// How many facts of examined segments it has taken.
    checked: AtomicU64,
    /// Hears what is durable.
    uploader: Option<UnboundedSender<Durable>>,
}

/// A fact about a segment that is told for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Durable {
    /// It is stored.
    Stored {
        /// Its key.
        key: String,
        /// Its hash.
        sha256: Sha256,
    },
    /// It is uploaded.
    Uploaded {
        /// Its key.
        key: String,
    },
}

#[derive(Debug, Default)]
struct State {
    /// Told as stored, for good.
    stored: BTreeSet<String>,
    by_age: VecDeque<(Instant, String)>,
    /// In the outbox, not all of which is durable.
    taken: Vec<Taken>,
    deleted: BTreeSet<String>,
    /// The same, for whoever looks after the object store.
    deleted_there: BTreeSet<String>,
}

#[derive(Debug, PartialEq, Eq)]
enum Taken {
    Stored(String, Sha256),
    Uploaded(String),
    Deleted(String),
}

impl Taken {
    fn of(fact: &Fact) -> Option<Self> {
        match fact {
            Fact::SegmentStored(stored) => Some(Self::Stored(stored.key.clone(), stored.sha256)),
            Fact::SegmentUploaded(uploaded) => Some(Self::Uploaded(uploaded.key.clone())),
            Fact::SegmentDeleted(deleted) => Some(Self::Deleted(deleted.key.clone())),
            Fact::Started(_)
            | Fact::FirstKeyframeDurable(_)
            | Fact::SegmentChecked(_)
            | Fact::Interrupted(_)
            | Fact::Gap(_)
            | Fact::TimestampJumped(_)
            | Fact::RecordingTriggered(_) => None,
        }
    }
}

impl Reported {
    /// Tells `uploader` what is durable.
    pub(super) fn telling(uploader: Option<UnboundedSender<Durable>>) -> Self {
        Self { state: Mutex::default(), checked: AtomicU64::default(), uploader }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is a whole one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The outbox has taken these.
    pub(super) fn take(&self, facts: &[Fact]) {
        self.state().taken.extend(facts.iter().filter_map(Taken::of));
        let is_on_disk = |fact: &&Fact| matches!(fact, Fact::SegmentChecked(f) if f.store_id.is_none());
        let checked = facts.iter().filter(is_on_disk).count();
        self.checked.fetch_add(checked as u64, Ordering::SeqCst);
    }

    /// How many facts of segments that were examined on the disks the outbox has taken.
    pub(super) fn checked(&self) -> u64 {
        self.checked.load(Ordering::SeqCst)
    }

    /// This one was given up.
    pub(super) fn lose(&self, fact: &Fact) {
        if let Some(lost) = Taken::of(fact) {
            self.state().taken.retain(|taken| *taken != lost);
        }
    }

    /// All that the outbox has taken is on the disk, or in the log.
    pub(super) fn all_durable(&self) {
        let (mut state, now) = (self.state(), Instant::now());
        for taken in std::mem::take(&mut state.taken) {
            match taken {
                Taken::Stored(key, sha256) => {
                    state.by_age.push_back((now, key.clone()));
                    state.stored.insert(key.clone());
                    self.tell(Durable::Stored { key, sha256 });
                }
                Taken::Uploaded(key) => self.tell(Durable::Uploaded { key }),
                Taken::Deleted(key) => {
                    // Without an object store nobody asks.
                    if self.uploader.is_some() {
                        state.deleted_there.insert(key.clone());
                    }
                    state.deleted.insert(key);
                }
            }
        }
        while let Some((_, key)) = state.by_age.pop_front_if(|(at, _)| now - *at > REMEMBERED) {
            state.stored.remove(&key);
        }
    }

    fn tell(&self, durable: Durable) {
        if let Some(uploader) = &self.uploader {
            // Nobody uploads any more: the next start looks for itself.
            let _ = uploader.send(durable);
        }
    }

    /// Whether a segment was told as stored, for good, within the last minutes.
    pub(super) fn is_stored(&self, key: &str) -> bool {
        self.state().stored.contains(key)
    }

    /// Whether the fact that a segment is stored is sure to be told before any fact that is made now.
    pub(super) fn is_told(&self, listed: &Listed, now: Timestamp) -> bool {
        let sure_ms = i64::try_from(SURELY_REPORTED.as_millis()).unwrap_or(i64::MAX);
        now.millis_since(listed.named_at) > sure_ms || self.is_stored(&listed.name.key())
    }

    /// The deletions that became durable since it was asked last.
    pub(super) fn deletions(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.state().deleted)
    }

    /// The same, for whoever looks after the object store.
    pub(super) fn deletions_there(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.state().deleted_there)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use longwatch_events::fact::{DeletionReason, SegmentDeleted};
    use longwatch_events::id::{CameraId, SystemIds, TenantId};
    use longwatch_events::position::Epoch;

    fn deleted(key: &str) -> Fact {
        let start = Timestamp::from_millis(1_795_420_800_000);
        Fact::SegmentDeleted(SegmentDeleted {
            tenant_id: TenantId::DEFAULT,
            camera_id: CameraId::generate(&SystemIds),
            epoch: Epoch(1),
            key: key.to_owned(),
            start,
            end: start.plus_millis(1),
            bytes: 1,
            at: start,
            reason: DeletionReason::Age,
            before_min_age: false,
            store_id: None,
            recorded_by: None,
        })
    }

    #[test]
    fn what_was_given_up_never_becomes_durable() {
        let reported = Reported::default();
        reported.take(&[deleted("a"), deleted("b")]);
        assert!(reported.deletions().is_empty(), "not while it waits in memory");
        reported.lose(&deleted("a"));
        reported.all_durable();
        assert_eq!(reported.deletions(), BTreeSet::from(["b".to_owned()]));
        assert!(reported.deletions().is_empty(), "once");
    }
}
