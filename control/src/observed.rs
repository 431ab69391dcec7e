//! What is observed of servers, from their heartbeats: kept in memory, rebuilt from the log's last seconds after a
//! restart, never part of State.
//!
//! Invariant: the only clock is the log's. A server is silent when the newest sign of life of *anyone* (control's
//! own tick included) is later than its own by more than the lease; a stopped log silences nobody.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use longwatch_events::event::{Load, ServerHeartbeat};
use longwatch_events::id::{BootId, ServerId};
use longwatch_events::time::Timestamp;

/// How often a server gives a sign of life.
pub const HEARTBEAT_INTERVAL_MS: u32 = 1_000;
/// How long a server may be silent.
pub const LEASE_MS: i64 = 3_000;

/// The last that was heard of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// In which run of its worker.
    pub boot_id: BootId,
    /// Its number within that run.
    pub sequence: u64,
    /// How busy it was.
    pub load: Load,
    /// When the log stored it.
    pub at: Timestamp,
}

/// All servers' last signs of life.
#[derive(Default)]
pub struct Observed(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    seen: BTreeMap<ServerId, Seen>,
    /// The first and the newest time the log told, whoever caused it.
    first: Option<Timestamp>,
    now: Timestamp,
}

impl Observed {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The log's clock has come to `at`. It never goes back.
    pub fn tick(&self, at: Timestamp) {
        let mut inner = self.inner();
        inner.first.get_or_insert(at);
        inner.now = inner.now.max(at);
    }

    /// A heartbeat, stored at `at`. Duplicates and late ones change nothing but the clock.
    pub fn heartbeat(&self, heartbeat: &ServerHeartbeat, at: Timestamp) {
        self.tick(at);
        let mut inner = self.inner();
        let known = inner.seen.get(&heartbeat.server_id);
        let is_late = known.is_some_and(|seen| {
            at < seen.at || (seen.boot_id == heartbeat.boot_id && heartbeat.sequence <= seen.sequence)
        });
        if !is_late {
            let seen =
                Seen { boot_id: heartbeat.boot_id, sequence: heartbeat.sequence, load: heartbeat.load, at };
            inner.seen.insert(heartbeat.server_id, seen);
        }
    }

    /// The log's clock.
    pub fn now(&self) -> Timestamp {
        self.inner().now
    }

    /// The last that was heard of `server_id` since this process began to listen.
    pub fn seen(&self, server_id: ServerId) -> Option<Seen> {
        self.inner().seen.get(&server_id).copied()
    }

    /// Since when `server_id` is silent, if it is. A server that was never heard of is given a lease from the moment
    /// this process began to listen.
    pub fn silent_since(&self, server_id: ServerId) -> Option<Timestamp> {
        let inner = self.inner();
        let last = inner.seen.get(&server_id).map_or(inner.first, |seen| Some(seen.at))?;
        (inner.now.millis_since(last) > LEASE_MS).then_some(last)
    }
}

#[cfg(test)]
mod tests {
    use longwatch_events::id::{CountingIds, IdSource as _};

    use super::*;

    fn beat(server_id: ServerId, boot_id: BootId, sequence: u64) -> ServerHeartbeat {
        ServerHeartbeat { server_id, boot_id, sequence, load: Load::default() }
    }

    #[test]
    fn only_the_logs_clock_silences() {
        let ids = CountingIds::default();
        let (server, boot) = (ServerId::from_uuid(ids.next()), BootId::from_uuid(ids.next()));
        let observed = Observed::default();
        assert_eq!(observed.silent_since(server), None, "nothing was heard of anyone");
        observed.heartbeat(&beat(server, boot, 1), Timestamp::from_millis(1_000));
        assert_eq!(observed.silent_since(server), None);
        observed.tick(Timestamp::from_millis(4_000));
        assert_eq!(observed.silent_since(server), None);
        observed.tick(Timestamp::from_millis(4_001));
        assert_eq!(observed.silent_since(server), Some(Timestamp::from_millis(1_000)));
        observed.heartbeat(&beat(server, boot, 2), Timestamp::from_millis(4_500));
        assert_eq!(observed.silent_since(server), None);
    }

    #[test]
    fn duplicates_and_late_ones_do_not_count() {
        let ids = CountingIds::default();
        let (server, boot) = (ServerId::from_uuid(ids.next()), BootId::from_uuid(ids.next()));
        let observed = Observed::default();
        observed.heartbeat(&beat(server, boot, 5), Timestamp::from_millis(1_000));
        observed.heartbeat(&beat(server, boot, 5), Timestamp::from_millis(9_000));
        observed.heartbeat(&beat(server, boot, 4), Timestamp::from_millis(9_000));
        assert_eq!(observed.seen(server).map(|seen| seen.at), Some(Timestamp::from_millis(1_000)));
        assert!(observed.silent_since(server).is_some());
    }
}
