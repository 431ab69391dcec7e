//! What the outbox has taken of segments: which of them were told as stored not long ago, and which deletions are told for
//! good. It keeps facts about one segment in order, and lets deletions be forgotten.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use longwatch_events::fact::Fact;
use tokio::time::Instant;

use super::leftovers::SURELY_REPORTED;

/// Longer than it takes until a segment counts as reported by its age.
const REMEMBERED: Duration = SURELY_REPORTED.saturating_mul(2);

/// Shared by the task that gathers facts and whoever deletes.
#[derive(Debug, Default)]
pub(super) struct Reported(Mutex<State>, AtomicU64);

#[derive(Debug, Default)]
struct State {
    /// Told as stored, for good.
    stored: BTreeSet<String>,
    by_age: VecDeque<(Instant, String)>,
    /// In the outbox, not all of which is durable.
    taken: Vec<Taken>,
    deleted: BTreeSet<String>,
}

#[derive(Debug, PartialEq, Eq)]
enum Taken {
    Stored(String),
    Deleted(String),
}

impl Taken {
    fn of(fact: &Fact) -> Option<Self> {
        match fact {
            Fact::SegmentStored(stored) => Some(Self::Stored(stored.key.clone())),
            Fact::SegmentDeleted(deleted) => Some(Self::Deleted(deleted.key.clone())),
            Fact::Started(_)
            | Fact::FirstKeyframeDurable(_)
            | Fact::SegmentChecked(_)
            | Fact::Interrupted(_)
            | Fact::Gap(_)
            | Fact::TimestampJumped(_) => None,
        }
    }
}

impl Reported {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is a whole one.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The outbox has taken these.
    pub(super) fn take(&self, facts: &[Fact]) {
        self.state().taken.extend(facts.iter().filter_map(Taken::of));
        let checked = facts.iter().filter(|fact| matches!(fact, Fact::SegmentChecked(_))).count();
        self.1.fetch_add(checked as u64, Ordering::SeqCst);
    }

    /// How many facts of segments that were examined the outbox has taken.
    pub(super) fn checked(&self) -> u64 {
        self.1.load(Ordering::SeqCst)
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
                Taken::Stored(key) => {
                    state.by_age.push_back((now, key.clone()));
                    state.stored.insert(key);
                }
                Taken::Deleted(key) => drop(state.deleted.insert(key)),
            }
        }
        while let Some((_, key)) = state.by_age.pop_front_if(|(at, _)| now - *at > REMEMBERED) {
            state.stored.remove(&key);
        }
    }

    /// Whether a segment was told as stored, for good, within the last minutes.
    pub(super) fn is_stored(&self, key: &str) -> bool {
        self.state().stored.contains(key)
    }

    /// The deletions that became durable since it was asked last.
    pub(super) fn deletions(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.state().deleted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use longwatch_events::fact::{DeletionReason, SegmentDeleted};
    use longwatch_events::id::{CameraId, SystemIds, TenantId};
    use longwatch_events::position::Epoch;
    use longwatch_events::time::Timestamp;

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
