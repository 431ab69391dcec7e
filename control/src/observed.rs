//! What is observed of servers, from their heartbeats: kept in memory, rebuilt from the log's last seconds after a
//! restart, never part of State.
//!
//! Invariants:
//! - The only clock is that of `HEARTBEATS`, read in its order: a server is silent when the log has run for longer than the
//!   lease since its last sign of life, by signs of life of *anyone* (control's own tick included). The lease is the one that
//!   policy says, or the one that the server was told, if that is longer.
//! - A log that stands still silences nobody. A pause shorter than the lease is not counted, and as much again is given to
//!   connect in, 2 s at most however often it stood: who is gone is silent once the log has run for a lease and that, also if
//!   it never runs for long. After a longer pause everyone is given a whole lease, and time to connect, anew.
//! - It does not matter what the clock of NATS is set to: forward it looks like a pause of that length; back, like one of
//!   which nobody knows how long it was. Nor does whoever begins to listen, or has heard nothing for a lease and then listens
//!   on another connection: the clock may have been set meanwhile so that no pause is to be seen. All of that gives everyone a
//!   whole lease anew; a new connection after less gives as much as a short pause. Which sign of life is newer is told by run and number; and whether `HEARTBEATS` has come to what `LOG` tells, by how far the
//!   replica that gave the sign had folded `LOG`.
//! - All of it follows from the records, not from when they were looked at: a process that stood still judges as one that did
//!   not.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use longwatch_events::event::{Load, ServerHeartbeat};
use longwatch_events::id::{BootId, ServerId};
use longwatch_events::policy::Liveness;
use longwatch_events::position::Position;
use longwatch_events::time::Timestamp;

use crate::decide::liveness::{Signs, Voice};

mod clock;

use clock::{LogClock, Reading};

/// How often control gives a sign of life, by which the log's clock runs.
pub const TICK_MS: u32 = 500;
/// After a pause of the log a worker has to connect again before it can give a sign of life: it has so much more.
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
    /// When the log stored it, by the clock that NATS had then.
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

    /// Who was heard within this is there, in milliseconds. Somebody whose last sign of life before all are cut off is lost on
    /// its way is silent for a lease when the others have missed hardly more than one: these must count by then.
    const fn heard_within_ms(self) -> i64 {
        let (interval, lease) = (self.interval_ms as i64, self.lease_ms as i64);
        let within = interval + interval / 4;
        if within < lease { within } else { lease }
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

/// A sign of life, and when it came by the log's clock.
#[derive(Clone, Copy)]
struct Heard {
    seen: Seen,
    heard: Reading,
    /// When it was heard again after it had been silent.
    is_back_since: Option<Reading>,
    /// When it was heard again after it had been away.
    was_away_until: Option<Reading>,
}

struct Inner {
    pace: Pace,
    heard: BTreeMap<ServerId, Heard>,
    clock: LogClock,
    /// By when everyone could be heard again after the log's last long pause: nobody is silent before a lease has passed
    /// since.
    went_on: Reading,
    /// Where servers give out what they recorded.
    media_urls: BTreeMap<ServerId, Arc<str>>,
    /// Since when servers are there that have come, or come back, while this process listens.
    present_since: BTreeMap<ServerId, Reading>,
    /// What `LOG` has told and `HEARTBEATS` has not come to yet: it happens only then.
    ahead: Ahead,
    /// Whether everything that stood in the log when this process began to listen has been heard.
    is_live: bool,
}

/// What stands in `LOG` up to somewhere behind the newest record of `HEARTBEATS` that was read, if one was. How far behind is
/// not to be told from when it was stored: this process may have stood still, or only just begun to read, and the clock of
/// NATS been set meanwhile.
#[derive(Default)]
struct Ahead {
    came: BTreeMap<ServerId, Position>,
    /// Where the lease becomes shorter, and how long it was, in milliseconds.
    shorter: Option<(Position, i64)>,
}

impl Default for Inner {
    fn default() -> Self {
        Self {
            pace: Pace::of(&Liveness::default(), 0),
            heard: BTreeMap::new(),
            clock: LogClock::default(),
            went_on: Reading::default(),
            media_urls: BTreeMap::new(),
            present_since: BTreeMap::new(),
            ahead: Ahead::default(),
            is_live: false,
        }
    }
}

impl Observed {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next record of `HEARTBEATS` was stored at `at`.
    #[cfg(test)]
    fn tick(&self, at: Timestamp) {
        self.inner().tick(at);
    }

    /// A replica that had folded `LOG` up to `folded` gave its sign of life, stored at `at`.
    pub fn tick_of_control(&self, folded: Position, at: Timestamp) {
        let mut inner = self.inner();
        inner.tick(at);
        inner.come_to(folded);
    }

    /// Servers could be silent for so long all the time, as far as is known: what a snapshot tells.
    pub fn begin_with_pace(&self, pace: Pace) {
        self.inner().pace = pace;
    }

    /// Servers may be silent for so long from `told` on, a position of `LOG`. Whoever was told to speak less often is given the
    /// time in which it would have spoken.
    pub fn set_pace(&self, pace: Pace, told: Position) {
        let mut inner = self.inner();
        let before_ms = i64::from(inner.pace.lease_ms);
        if i64::from(pace.lease_ms) < before_ms {
            let longest_ms = inner.ahead.shorter.map_or(before_ms, |(_, ms)| ms.max(before_ms));
            inner.ahead.shorter = Some((told, longest_ms));
        }
        inner.pace = pace;
    }

    /// `server_id` has come, or come back, at `told`, a position of `LOG`, or a little before. It has a lease to be heard.
    pub fn came(&self, server_id: ServerId, told: Position) {
        self.inner().ahead.came.insert(server_id, told);
    }

    /// How long servers may be silent.
    pub fn pace(&self) -> Pace {
        self.inner().pace
    }

    /// What stood in the log when this process began to listen has been heard; from now on silence counts.
    pub fn go_live(&self) {
        let mut inner = self.inner();
        if !inner.is_live {
            inner.is_live = true;
            inner.go_on();
        }
    }

    /// The log is listened to on another connection than before; for so long nothing of it came, in milliseconds by a clock of
    /// this process, which nobody sets.
    pub fn connected_anew(&self, unheard_ms: i64) {
        let mut inner = self.inner();
        if unheard_ms >= i64::from(inner.pace.lease_ms) {
            inner.go_on();
        } else {
            // However often that is: it must not hide who is dead.
            inner.clock.stood(RETURN_MS);
        }
    }

    /// Whether silence counts yet.
    pub fn is_live(&self) -> bool {
        self.inner().is_live
    }

    /// A heartbeat, stored at `at`. Duplicates and late ones change nothing but the clock.
    pub fn heartbeat(&self, heartbeat: &ServerHeartbeat, position: Position, at: Timestamp) {
        let mut inner = self.inner();
        inner.tick(at);
        let &ServerHeartbeat { server_id, boot_id, sequence, load, ref media_url } = heartbeat;
        let known = inner.heard.get(&server_id);
        let is_late =
            known.is_some_and(|Heard { seen, .. }| seen.boot_id == boot_id && sequence <= seen.sequence);
        if is_late {
            return;
        }
        let heard = inner.clock.reading();
        let (is_back_since, was_away_until) =
            known.map_or((None, None), |known| (known.is_back_since, known.was_away_until));
        let is_back_since = if inner.is_silent(server_id) { Some(heard) } else { is_back_since };
        let was_away_until = if inner.is_away(server_id) { Some(heard) } else { was_away_until };
        let seen = Seen { boot_id, sequence, load, position, at };
        inner.heard.insert(server_id, Heard { seen, heard, is_back_since, was_away_until });
        inner.note_media_url(server_id, media_url.as_deref());
    }

    /// When the newest record was stored, by the clock that NATS had then. Goes on with that clock, also if it was set
    /// back: ages of what stands in `LOG` are measured by it.
    pub fn now(&self) -> Timestamp {
        self.inner().clock.newest().unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// The last that was heard of `server_id` since this process began to listen.
    pub fn seen(&self, server_id: ServerId) -> Option<Seen> {
        self.inner().heard.get(&server_id).map(|heard| heard.seen)
    }

    /// Where `server_id` gives out what it recorded, as it said last; `None`: it does not, or is not there.
    pub fn media_url(&self, server_id: ServerId) -> Option<Arc<str>> {
        let inner = self.inner();
        if inner.is_silent(server_id) { None } else { inner.media_urls.get(&server_id).cloned() }
    }

    /// How long ago that was, in milliseconds.
    pub fn age_ms(&self, server_id: ServerId) -> Option<u64> {
        let inner = self.inner();
        let heard = inner.heard.get(&server_id)?.heard;
        u64::try_from(inner.passed_us_since(heard) / 1_000).ok()
    }

    /// The revision of the desired set that `server_id` said last it has applied.
    pub fn applied(&self, server_id: ServerId) -> Position {
        self.seen(server_id).map(|seen| seen.load.applied_revision).unwrap_or_default()
    }

    /// Since when `server_id` is silent, if it is. A server that was never heard of is given a lease from the moment
    /// this process began to listen, or it came.
    pub fn silent_since(&self, server_id: ServerId) -> Option<Timestamp> {
        self.silence(server_id).map(|silence| silence.since)
    }

    /// Whether a sign of life of `server_id` is overdue.
    pub fn is_overdue(&self, server_id: ServerId) -> bool {
        self.inner().is_overdue(server_id)
    }

    /// The silence of `server_id`, if it is silent.
    pub fn silence(&self, server_id: ServerId) -> Option<Silence> {
        let inner = self.inner();
        let heard = inner.heard.get(&server_id).map(|heard| heard.seen);
        let since = heard.map_or(inner.clock.first(), |seen| Some(seen.at))?;
        let last_heartbeat = heard.map(|seen| seen.position);
        inner.is_silent(server_id).then_some(Silence { last_heartbeat, since })
    }

    /// By what `server_id` is judged. `None`: nothing was heard of anyone.
    pub fn signs(&self, server_id: ServerId) -> Option<Signs> {
        let inner = self.inner();
        let voice = inner.voice(server_id);
        let (last_heartbeat, heard_at, heard) = match (inner.heard.get(&server_id), voice) {
            (Some(Heard { seen, heard, .. }), _) => (Some(seen.position), seen.at, *heard),
            (None, _) => (None, inner.clock.first()?, Reading::default()),
        };
        let now = heard_at.plus_micros(inner.passed_us_since(heard));
        let is_away = inner.is_away(server_id) || inner.was_just_away(server_id);
        Some(Signs { last_heartbeat, heard_at, now, voice, is_away })
    }
}

impl Inner {
    fn tick(&mut self, at: Timestamp) {
        let pause = self.clock.read(at);
        if pause.is_none_or(|stood_ms| stood_ms >= i64::from(self.pace.lease_ms)) {
            self.go_on();
        }
    }

    /// It is the same nearly always.
    fn note_media_url(&mut self, server_id: ServerId, url: Option<&str>) {
        match url {
            Some(url) if self.media_urls.get(&server_id).is_some_and(|known| **known == *url) => {}
            Some(url) => drop(self.media_urls.insert(server_id, url.into())),
            None => drop(self.media_urls.remove(&server_id)),
        }
    }

    /// `HEARTBEATS` has come to what stands in `LOG` up to `folded`.
    fn come_to(&mut self, folded: Position) {
        let now = self.clock.reading();
        let Ahead { came, shorter } = &mut self.ahead;
        came.retain(|server_id, position| {
            let is_ahead = *position > folded;
            if !is_ahead {
                self.present_since.insert(*server_id, now);
            }
            is_ahead
        });
        if let Some((_, before_ms)) = shorter.take_if(|(position, _)| *position <= folded) {
            self.went_on = self.went_on.later(now.plus_ran_millis(before_ms));
        }
    }

    /// After a long pause everyone has the same time, anew; and after one that may have been long.
    fn go_on(&mut self) {
        let all_return = self.clock.reading().plus_ran_millis(RETURN_MS);
        self.went_on = self.went_on.later(all_return);
    }

    const fn passed_us_since(&self, earlier: Reading) -> i64 {
        self.clock.reading().passed_us.saturating_sub(earlier.passed_us)
    }

    /// From when on the silence of `server_id` is counted: not yet, if it is yet to come, or all are yet to be told to speak
    /// more often.
    fn counted_from(&self, server_id: ServerId) -> Reading {
        if self.ahead.shorter.is_some() || self.ahead.came.contains_key(&server_id) {
            return self.clock.reading();
        }
        let heard = self.heard.get(&server_id).map(|heard| heard.heard).unwrap_or_default();
        let present = self.present_since.get(&server_id).copied().unwrap_or_default();
        heard.later(present).later(self.went_on)
    }

    fn is_silent(&self, server_id: ServerId) -> bool {
        if self.clock.newest().is_none() {
            return false;
        }
        let told_ms = self.heard.get(&server_id).and_then(|heard| heard.seen.load.lease_ms).unwrap_or(0);
        let (now, from) = (self.clock.reading(), self.counted_from(server_id));
        let connects_ms = now.stood_millis_since(from).clamp(0, RETURN_MS);
        now.ran_millis_since(from) > i64::from(self.pace.lease_ms.max(told_ms)) + connects_ms
    }

    /// Whether it is overdue even if it has to connect first, because the log stood still.
    fn is_away(&self, server_id: ServerId) -> bool {
        let (now, from) = (self.clock.reading(), self.counted_from(server_id));
        let connects_ms = now.stood_millis_since(from).clamp(0, RETURN_MS);
        self.clock.newest().is_some() && now.ran_millis_since(from) > self.pace.suspect_ms() + connects_ms
    }

    fn is_overdue(&self, server_id: ServerId) -> bool {
        let ran_ms = self.clock.reading().ran_millis_since(self.counted_from(server_id));
        self.clock.newest().is_some() && ran_ms > self.pace.suspect_ms()
    }

    /// Whether it came back a moment ago: others who were away with it may yet have to connect.
    fn was_just_away(&self, server_id: ServerId) -> bool {
        let until = self.heard.get(&server_id).and_then(|heard| heard.was_away_until);
        until.is_some_and(|until| self.clock.reading().ran_millis_since(until) <= RETURN_MS)
    }

    /// Whether a sign of life came when it should. That a server has only just come excuses its silence, but does not show
    /// that it is there.
    fn is_heard(&self, server_id: ServerId) -> bool {
        let Some(Heard { heard, .. }) = self.heard.get(&server_id) else { return false };
        self.clock.reading().ran_millis_since(heard.later(self.went_on)) <= self.pace.heard_within_ms()
    }

    fn voice(&self, server_id: ServerId) -> Voice {
        if self.is_silent(server_id) {
            return Voice::Silent;
        }
        let is_back_since = self.heard.get(&server_id).and_then(|heard| heard.is_back_since);
        let settles_ms = i64::from(self.pace.lease_ms) + RETURN_MS;
        let has_just_come_back =
            is_back_since.is_some_and(|since| self.clock.reading().ran_millis_since(since) <= settles_ms);
        if has_just_come_back || !self.is_heard(server_id) { Voice::Unsteady } else { Voice::Steady }
    }
}

#[cfg(test)]
mod tests;
