//! The cameras themselves: who reaches them.

use std::collections::{BTreeMap, BTreeSet};

use longwatch_events::time::Timestamp;
use longwatch_worker::plan::Key;

/// From where a camera cannot be reached, and since when that is so.
#[derive(Default)]
struct Reach {
    nobody: bool,
    not: BTreeSet<usize>,
    changed_at: Timestamp,
}

#[derive(Default)]
pub(super) struct Cameras(BTreeMap<Key, Reach>);

impl Cameras {
    pub(super) fn add(&mut self, key: Key) {
        self.0.entry(key).or_default();
    }

    pub(super) fn keys(&self) -> Vec<Key> {
        self.0.keys().copied().collect()
    }

    pub(super) fn reaches(&self, worker: usize, key: Key) -> bool {
        self.0.get(&key).is_some_and(|reach| !reach.nobody && !reach.not.contains(&worker))
    }

    pub(super) fn changed_at(&self, key: Key) -> Timestamp {
        self.0.get(&key).map(|reach| reach.changed_at).unwrap_or_default()
    }

    /// Cuts a camera off from a server, or from all.
    pub(super) fn cut(&mut self, key: Key, worker: Option<usize>, now: Timestamp) {
        let Some(reach) = self.0.get_mut(&key) else { return };
        reach.changed_at = now;
        match worker {
            Some(worker) => {
                reach.not.insert(worker);
            }
            None => reach.nobody = true,
        }
    }

    pub(super) fn mend(&mut self, key: Key, now: Timestamp) {
        if let Some(reach) = self.0.get_mut(&key) {
            *reach = Reach { changed_at: now, ..Reach::default() };
        }
    }
}
