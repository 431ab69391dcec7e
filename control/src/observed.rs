//! What is observed of servers, from their heartbeats: kept in memory, rebuilt from the log's last seconds after a
//! restart, never part of State.
//!
//! Invariant: the only clock is that of `HEARTBEATS`, read in its order. A server is silent when the newest sign of
//! life of *anyone* (control's own tick included) is later than its own by more than the lease: the one that policy says,
//! or the one that the server was told, if that is longer. A stopped log silences
//! nobody: after a pause of the log itself everyone is given a whole lease to be heard again.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use longwatch_events::event::{Load, ServerHeartbeat};
use longwatch_events::id::{BootId, ServerId};
use longwatch_events::policy::Liveness;
use longwatch_events::position::Position;
use longwatch_events::time::Timestamp;

/// How often control gives a sign of life, by which the log's clock runs.
pub const TICK_MS: u32 = 500;
/// When nobody at all was heard for so long, the log itself stood still. Longer than control's tick and its jitter. An
/// interval, such a pause and the time to connect again are together shorter than the lease: a pause that is too short
/// to be noticed silences nobody either.
const PAUSE_MS: i64 = 750;
/// After such a pause a worker has to connect again before it can give a sign of life: it has so much more than a lease.
const RETURN_MS: i64 = 2_000;

/// The last that was heard of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// In which run of its worker.
    pub boot_id: BootId,
    /// Its number within that run.
    pub sequence: u64,
    /// How busy it was.
    pub load: Load,
    /// Where it stands in `HEARTBEATS`.
    pub position: Position,
    /// When the log stored it.
    pub at: Timestamp,
}

/// How long servers may be silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// How often each gives a sign of life, in milliseconds.
    pub interval_ms: u32,
    /// How long each may be silent, in milliseconds.
    pub lease_ms: u32,
}

impl Pace {
    /// What `policy` says for a fleet of so many servers.
    pub fn of(policy: &Liveness, servers: usize) -> Self {
        Self { interval_ms: policy.interval_ms(servers), lease_ms: policy.lease_ms(servers) }
    }

    /// After so much silence it is worth a look, in milliseconds: a sign of life is overdue.
    const fn suspect_ms(self) -> i64 {
        let (interval, lease) = (self.interval_ms as i64, self.lease_ms as i64);
        let overdue = interval + interval / 2;
        if overdue < lease { overdue } else { lease }
    }
}

/// Silence of a server for longer than the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Silence {
    /// Where its last sign of life stands; `None`: none was heard since this process listens.
    pub last_heartbeat: Option<Position>,
    /// When that was stored, or when this process began to listen.
    pub since: Timestamp,
}

/// All servers' last signs of life.
#[derive(Default)]
pub struct Observed(Mutex<Inner>);

struct Inner {
    pace: Pace,
    seen: BTreeMap<ServerId, Seen>,
    /// The first and the newest time the log told, whoever caused it.
    first: Option<Timestamp>,
    now: Timestamp,
    /// By when everyone could be heard again after the log's last pause: nobody is silent before a lease has passed
    /// since.
    went_on: Timestamp,
    /// Whether everything that stood in the log when this process began to listen has been heard.
    is_live: bool,
}

impl Default for Inner {
    fn default() -> Self {
        Self {
            pace: Pace::of(&Liveness::default(), 0),
            seen: BTreeMap::new(),
            first: None,
            now: Timestamp::UNIX_EPOCH,
            went_on: Timestamp::UNIX_EPOCH,
            is_live: false,
        }
    }
}

impl Observed {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The log's clock has come to `at`. It never goes back.
    pub fn tick(&self, at: Timestamp) {
        let mut inner = self.inner();
        inner.first.get_or_insert(at);
        if at.millis_since(inner.now) > PAUSE_MS {
            inner.went_on = inner.went_on.max(at.plus_millis(RETURN_MS));
        }
        inner.now = inner.now.max(at);
    }

    /// From `at` on, by the log's clock, servers may be silent for so long. Whoever was told to speak less often is given
    /// the time in which it would have spoken; that follows from the log, so a restart does not forget it.
    pub fn set_pace(&self, pace: Pace, at: Timestamp) {
        let mut inner = self.inner();
        if pace.lease_ms < inner.pace.lease_ms {
            inner.went_on = inner.went_on.max(at.plus_millis(i64::from(inner.pace.lease_ms)));
        }
        inner.pace = pace;
    }

    /// How long servers may be silent.
    pub fn pace(&self) -> Pace {
        self.inner().pace
    }

    /// What stood in the log when this process began to listen has been heard; from now on silence counts.
    pub fn go_live(&self) {
        self.inner().is_live = true;
    }

    /// Whether silence counts yet.
    pub fn is_live(&self) -> bool {
        self.inner().is_live
    }

    /// A heartbeat, stored at `at`. Duplicates and late ones change nothing but the clock.
    pub fn heartbeat(&self, heartbeat: &ServerHeartbeat, position: Position, at: Timestamp) {
        self.tick(at);
        let mut inner = self.inner();
        let known = inner.seen.get(&heartbeat.server_id);
        let is_late = known.is_some_and(|seen| {
            at < seen.at || (seen.boot_id == heartbeat.boot_id && heartbeat.sequence <= seen.sequence)
        });
        if !is_late {
            let ServerHeartbeat { boot_id, sequence, load, .. } = *heartbeat;
            let seen = Seen { boot_id, sequence, load, position, at };
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

    /// The revision of the desired set that `server_id` said last it has applied.
    pub fn applied(&self, server_id: ServerId) -> Position {
        self.seen(server_id).map(|seen| seen.load.applied_revision).unwrap_or_default()
    }

    /// Since when `server_id` is silent, if it is. A server that was never heard of is given a lease from the moment
    /// this process began to listen.
    pub fn silent_since(&self, server_id: ServerId) -> Option<Timestamp> {
        self.silence(server_id).map(|silence| silence.since)
    }

    /// Whether a sign of life of `server_id` is overdue.
    pub fn is_overdue(&self, server_id: ServerId) -> bool {
        let inner = self.inner();
        let overdue_ms = inner.pace.suspect_ms();
        inner.silence(server_id, overdue_ms).is_some()
    }

    /// The silence of `server_id`, if it is silent.
    pub fn silence(&self, server_id: ServerId) -> Option<Silence> {
        let inner = self.inner();
        let told_ms = inner.seen.get(&server_id).and_then(|seen| seen.load.lease_ms).unwrap_or(0);
        inner.silence(server_id, inner.pace.lease_ms.max(told_ms).into())
    }
}

impl Inner {
    fn silence(&self, server_id: ServerId, longer_than_ms: i64) -> Option<Silence> {
        let seen = self.seen.get(&server_id);
        let since = seen.map_or(self.first, |seen| Some(seen.at))?;
        let is_silent = self.now.millis_since(since.max(self.went_on)) > longer_than_ms;
        is_silent.then_some(Silence { last_heartbeat: seen.map(|seen| seen.position), since })
    }
}

#[cfg(test)]
mod tests {
    use longwatch_events::id::{CountingIds, IdSource as _};

    use super::*;

    fn beat(server_id: ServerId, boot_id: BootId, sequence: u64) -> ServerHeartbeat {
        ServerHeartbeat { server_id, boot_id, sequence, load: Load::default() }
    }

    /// When control ticks, in milliseconds.
    fn ticks(from: i64, to: i64) -> impl Iterator<Item = Timestamp> {
        (from..=to).step_by(TICK_MS as usize).map(Timestamp::from_millis)
    }

    #[test]
    fn only_the_logs_clock_silences() {
        let ids = CountingIds::default();
        let (server, boot) = (ServerId::from_uuid(ids.next()), BootId::from_uuid(ids.next()));
        let observed = Observed::default();
        assert_eq!(observed.silent_since(server), None, "nothing was heard of anyone");
        ticks(1_000, 9_500).for_each(|at| observed.tick(at));
        observed.heartbeat(&beat(server, boot, 1), Position(1), Timestamp::from_millis(10_000));
        assert_eq!(observed.silent_since(server), None);
        for at in ticks(10_500, 13_000) {
            observed.tick(at);
            assert_eq!(observed.silent_since(server), None);
        }
        observed.tick(Timestamp::from_millis(13_001));
        assert_eq!(observed.silent_since(server), Some(Timestamp::from_millis(10_000)));
        observed.heartbeat(&beat(server, boot, 2), Position(1), Timestamp::from_millis(13_500));
        assert_eq!(observed.silent_since(server), None);
    }

    #[test]
    fn a_server_may_be_silent_for_as_long_as_it_was_told() {
        let ids = CountingIds::default();
        let (server, boot) = (ServerId::from_uuid(ids.next()), BootId::from_uuid(ids.next()));
        let observed = Observed::default();
        ticks(1_000, 9_500).for_each(|at| observed.tick(at));
        for (told_ms, lease_ms) in [(9_000, 9_000), (1_000, 3_000)] {
            let load = Load { lease_ms: Some(told_ms), ..Load::default() };
            let start = observed.now().plus_millis(i64::from(TICK_MS));
            let sequence = u64::from(10_000 - told_ms);
            let heartbeat = ServerHeartbeat { load, ..beat(server, boot, sequence) };
            observed.heartbeat(&heartbeat, Position(sequence), start);
            let from = start.as_millis();
            ticks(from, from + lease_ms).for_each(|at| observed.tick(at));
            assert_eq!(observed.silent_since(server), None);
            observed.tick(Timestamp::from_millis(from + lease_ms + 1));
            assert_eq!(observed.silent_since(server), Some(start));
        }
    }

    #[test]
    fn duplicates_and_late_ones_do_not_count() {
        let ids = CountingIds::default();
        let (server, boot) = (ServerId::from_uuid(ids.next()), BootId::from_uuid(ids.next()));
        let observed = Observed::default();
        ticks(1_000, 9_500).for_each(|at| observed.tick(at));
        observed.heartbeat(&beat(server, boot, 5), Position(1), Timestamp::from_millis(10_000));
        for at in ticks(10_500, 13_500) {
            observed.heartbeat(&beat(server, boot, 5), Position(1), at);
            observed.heartbeat(&beat(server, boot, 4), Position(1), at);
        }
        assert_eq!(observed.seen(server).map(|seen| seen.at), Some(Timestamp::from_millis(10_000)));
        assert!(observed.silent_since(server).is_some());
    }

    #[test]
    fn a_pause_of_the_log_silences_nobody() {
        let ids = CountingIds::default();
        let (server, boot) = (ServerId::from_uuid(ids.next()), BootId::from_uuid(ids.next()));
        let observed = Observed::default();
        observed.heartbeat(&beat(server, boot, 1), Position(1), Timestamp::from_millis(1_000));
        // An hour later the log goes on, and control's tick is the first to get through.
        let hour = 3_600_000;
        for at in ticks(hour, hour + 5_000) {
            observed.tick(at);
            assert_eq!(observed.silent_since(server), None, "at {at}");
        }
        observed.tick(Timestamp::from_millis(hour + 5_001));
        let silence = Silence { last_heartbeat: Some(Position(1)), since: Timestamp::from_millis(1_000) };
        assert_eq!(observed.silence(server), Some(silence), "it had its time to come back and did not");
    }

    #[test]
    fn a_short_pause_of_the_log_silences_nobody() {
        let ids = CountingIds::default();
        let (server, boot) = (ServerId::from_uuid(ids.next()), BootId::from_uuid(ids.next()));
        for pause_ms in (100..4_000).step_by(50) {
            // Given a log that stands still just when the next heartbeat was due, and a server that is connected again
            // later than control: after as long again, or what its attempts to connect are apart.
            let (observed, comes_back_ms) = (Observed::default(), pause_ms.clamp(200, 1_000));
            ticks(1_000, 9_900).for_each(|at| observed.tick(at));
            observed.heartbeat(&beat(server, boot, 1), Position(1), Timestamp::from_millis(10_000));
            ticks(10_400, 10_900).for_each(|at| observed.tick(at));
            let goes_on = 10_999 + pause_ms;
            for at in ticks(goes_on, goes_on + comes_back_ms) {
                observed.tick(at);
                assert_eq!(observed.silent_since(server), None, "a pause of {pause_ms} ms, at {at}");
            }
        }
    }
}
