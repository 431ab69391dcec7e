//! A simulated server with its worker: the real collecting of sets, the real diff, the real lease; cameras and disk are
//! simulated, the shells (`worker::agent`) are written here once more over virtual time.
//!
//! Invariant: what its disk holds outlives the process.

mod recorders;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use longwatch_events::event::{Event, Load, RecordingReported, ServerHeartbeat};
use longwatch_events::fact::Fact;
use longwatch_events::id::{BootId, EventId, ServerId};
use longwatch_events::position::Position;
use longwatch_events::sealed::PublicKey;
use longwatch_events::settings::{Capacity, Labels, ZONE};
use longwatch_events::time::Timestamp;
use longwatch_worker::agent::desired::{Collector, DesiredSet};
use longwatch_worker::lease::Lease;
use longwatch_worker::plan::{Key, Version};

use super::audit::Audit;
use super::cameras::Cameras;
use super::coverage::Seen;
use super::env::Env;
use super::happening::{Alarm, Happening, Message, Party, Reply, Request, Run};
use super::nats::Draft;
use super::replica::Link;
use super::scenario::Fault;
use recorders::Recorder;

/// Until control says otherwise, in milliseconds.
const DEFAULT_INTERVAL_MS: u32 = 1_000;
/// As long.
const DEFAULT_LEASE_MS: u64 = 3_000;
/// Between two looks, at least, in milliseconds; at most twice as long.
const LOOK_EVERY_MS: i64 = 30_000;
/// Between two looks that somebody asks for, at least.
const ASKED_EVERY_MS: i64 = 500;
/// A request that was not answered by now is not answered.
const ANSWER_WITHIN_MS: i64 = 5_000;
/// Size of the archive's volume.
const DISK_BYTES: u64 = 1 << 40;

/// What a worker says of itself when it joins.
pub(super) struct Claim {
    pub(super) name: String,
    pub(super) public_key: PublicKey,
    pub(super) labels: Labels,
    pub(super) capacity: Capacity,
}

/// The claim of a worker by its number. Operators change what follows from it.
pub(super) fn claim(worker: usize) -> Claim {
    let zone = ["north", "south"][worker % 2];
    let mut labels = Labels::from([(ZONE.to_owned(), zone.to_owned())]);
    if worker.is_multiple_of(3) {
        labels.insert("disk".to_owned(), "fast".to_owned());
    }
    let mut key = [7; 32];
    key[0] = u8::try_from(worker).unwrap_or(u8::MAX);
    Claim { name: format!("s{worker}"), public_key: PublicKey(key), labels, capacity: Capacity::default() }
}

pub(super) struct Worker {
    pub(super) index: usize,
    pub(super) run: Run,
    pub(super) process: Option<Process>,
    /// While it is stopped by a signal: what waits for it, and since when.
    pub(super) paused: Option<(Vec<Message>, Timestamp)>,
    pub(super) link: Link,
    /// How wrong the server's clock is, in milliseconds.
    pub(super) clock_ms: i64,
    pub(super) free_percent: u8,
    /// Since when nothing has happened to it or to its connection.
    pub(super) well_since: Option<Timestamp>,
    /// Since when its process runs without a pause.
    awake_since: Timestamp,
    /// Of the last heartbeat that a fault of its own struck.
    struck_heartbeat: u64,
    disk: Disk,
}

/// What outlives the process.
#[derive(Default)]
struct Disk {
    server: Option<ServerId>,
    /// The messages of the newest set.
    set: Vec<Bytes>,
    /// Reports that are not in the log yet.
    outbox: VecDeque<(EventId, RecordingReported)>,
    /// What it recorded when it ended without notice.
    broken_off: BTreeMap<Key, Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Unknown,
    Known(ServerId),
    Detached,
}

pub(super) struct Process {
    boot_id: BootId,
    sequence: u64,
    standing: Standing,
    collector: Option<Collector>,
    applied: Position,
    /// What the set in force says.
    wanted: BTreeMap<Key, Version>,
    recorders: BTreeMap<Key, Recorder>,
    lease: Lease,
    interval_ms: u32,
    heartbeat_at: Timestamp,
    looked_at: Timestamp,
    /// The report that is on its way.
    reporting: Option<EventId>,
    /// When it asked to join and was not answered yet.
    joining_since: Option<Timestamp>,
    dials: u32,
    has_spoken: bool,
}

impl Worker {
    pub(super) fn new(index: usize) -> Self {
        Self {
            index,
            run: 0,
            process: None,
            paused: None,
            link: Link::UP,
            clock_ms: 0,
            free_percent: 60,
            well_since: None,
            awake_since: Timestamp::UNIX_EPOCH,
            struck_heartbeat: 0,
            disk: Disk::default(),
        }
    }

    pub(super) const fn server_id(&self) -> Option<ServerId> {
        self.disk.server
    }

    /// Which revision is in force; `None` if there is no process that could say.
    pub(super) fn applied(&self) -> Option<Position> {
        self.process.as_ref().map(|process| process.applied)
    }

    /// Whether messages for this server reach it.
    pub(super) fn listens(&self, server_id: ServerId) -> bool {
        let standing = self.process.as_ref().map(|process| process.standing);
        standing == Some(Standing::Known(server_id))
    }

    fn set_alarm(&self, env: &mut Env, millis: i64, alarm: Alarm) {
        let (to, run) = (Party::Worker(self.index), self.run);
        env.after(millis, Happening::Message { to, run, message: Message::Alarm(alarm) });
    }

    fn ask(&self, env: &mut Env, request: Request) {
        let (from, run, micros) = (Party::Worker(self.index), self.run, env.latency());
        env.after_micros(micros, Happening::Request { from, run, request });
    }

    /// The clock of this machine that counts also while it is suspended.
    fn uptime(env: &Env) -> Duration {
        Duration::from_micros(u64::try_from(env.now.micros_since(env.start)).unwrap_or(0))
    }

    /// What this server takes the time for.
    const fn wall_clock(&self, env: &Env) -> Timestamp {
        env.now.plus_millis(self.clock_ms)
    }

    /// Something happens to it: it may be silent with good reason.
    pub(super) const fn is_struck(&mut self) {
        self.well_since = None;
    }

    /// Begins to record what its disk says, and only then speaks to anybody.
    pub(super) fn start(&mut self, env: &mut Env, audit: &mut Audit) {
        self.run += 1;
        self.paused = None;
        self.awake_since = env.now;
        let standing = self.disk.server.map_or(Standing::Unknown, Standing::Known);
        let process = Process {
            boot_id: env.boot_id(),
            sequence: 0,
            standing,
            collector: None,
            applied: Position::START,
            wanted: BTreeMap::new(),
            recorders: BTreeMap::new(),
            lease: Lease::new(Duration::from_millis(DEFAULT_LEASE_MS)),
            interval_ms: DEFAULT_INTERVAL_MS,
            heartbeat_at: env.now,
            looked_at: Timestamp::UNIX_EPOCH,
            reporting: None,
            joining_since: None,
            dials: 0,
            has_spoken: false,
        };
        self.struck_heartbeat = 0;
        self.process = Some(process);
        env.note(format_args!("s{} starts", self.index));
        if let Standing::Known(server_id) = standing {
            self.follow_sets_of(server_id);
            let saved = std::mem::take(&mut self.disk.set);
            for message in saved {
                self.offer(env, audit, message);
            }
        }
        self.disk.broken_off.clear();
        let connects_in = env.random.number(10..=1_500);
        self.set_alarm(env, connects_in, Alarm::Connected);
    }

    fn follow_sets_of(&mut self, server_id: ServerId) {
        if let Some(process) = &mut self.process {
            process.collector = Some(Collector::new(server_id, None));
        }
    }

    pub(super) fn kill(&mut self, env: &mut Env, audit: &mut Audit) {
        let Some(process) = self.process.take() else { return };
        self.paused = None;
        self.is_struck();
        let at = self.wall_clock(env);
        for (key, recorder) in process.recorders {
            if recorder.is_recording() {
                self.disk.broken_off.insert(key, at);
            }
        }
        self.silent(audit);
    }

    fn silent(&self, audit: &mut Audit) {
        if let Some(server_id) = self.disk.server {
            audit.silent(server_id);
        }
    }

    pub(super) fn pause(&mut self, env: &Env, audit: &mut Audit) {
        self.is_struck();
        self.silent(audit);
        self.paused = Some((Vec::new(), env.now));
    }

    /// Goes on after a signal. Before anything else it looks whether its lease is over.
    pub(super) fn resume(&mut self, env: &mut Env, audit: &mut Audit) -> Vec<Message> {
        let Some((waiting, since)) = self.paused.take() else { return Vec::new() };
        self.awake_since = env.now;
        self.look_at_lease(env, audit);
        self.recorders_go_on(env, audit, env.now.millis_since(since));
        waiting
    }

    pub(super) fn receive(&mut self, env: &mut Env, audit: &mut Audit, cameras: &Cameras, message: Message) {
        match message {
            Message::Acknowledged { sent_at } => {
                let (sent_at, now) = (sent_at.micros_since(env.start), Self::uptime(env));
                let sent_at = Duration::from_micros(u64::try_from(sent_at).unwrap_or(0));
                if let Some(process) = &mut self.process {
                    process.lease.acknowledged(sent_at, now);
                }
                self.look_at_lease(env, audit);
            }
            Message::Stored(id) => self.report_stored(env, id),
            Message::Parts { parts, is_whole, begun_at } => {
                for part in parts {
                    self.offer(env, audit, part);
                }
                if is_whole {
                    self.looked(env, audit, begun_at);
                }
            }
            Message::Told(part) => self.offer(env, audit, part),
            Message::LookNow => self.look_soon(env),
            Message::Joined { asked_at, reply } => self.joined(env, audit, asked_at, reply),
            Message::Alarm(alarm) => self.ring(env, audit, cameras, alarm),
            Message::Appended { .. }
            | Message::Ticked { .. }
            | Message::Ends(_)
            | Message::Standing { .. }
            | Message::News
            | Message::Command { .. }
            | Message::JoinWish(_) => unreachable!("a worker is not told what replicas are"),
        }
    }

    fn ring(&mut self, env: &mut Env, audit: &mut Audit, cameras: &Cameras, alarm: Alarm) {
        match alarm {
            Alarm::Heartbeat => self.heartbeat(env),
            Alarm::Look => self.look_if_due(env),
            Alarm::Join => self.join(env),
            Alarm::JoinLate => {
                let since = self.process.as_ref().and_then(|process| process.joining_since);
                if since.is_some_and(|since| env.now.millis_since(since) >= ANSWER_WITHIN_MS) {
                    self.join(env);
                }
            }
            Alarm::Dial(key, dial) => self.dial_again(env, key, dial),
            Alarm::Keyframe(key, dial) => self.keyframe(env, audit, cameras, key, dial),
            Alarm::LeaseEnds => self.look_at_lease(env, audit),
            Alarm::LeaseLook => self.look_for_lease(env),
            Alarm::ReportLate(id) => self.report_late(env, id),
            Alarm::Connected => self.connected(env),
            Alarm::Begin | Alarm::Tick | Alarm::Judge | Alarm::Plan | Alarm::CallLate(_) => {
                unreachable!("a worker sets none of a replica's alarms")
            }
        }
    }

    /// The connection to NATS is there, or there again.
    fn connected(&mut self, env: &mut Env) {
        if let Some(process) = &mut self.process {
            process.has_spoken = true;
        }
        self.hurry_heartbeat(env);
        self.join(env);
        self.look(env);
        self.report(env);
    }

    fn hurry_heartbeat(&mut self, env: &mut Env) {
        if let Some(process) = &mut self.process {
            process.heartbeat_at = env.now;
            self.set_alarm(env, 0, Alarm::Heartbeat);
        }
    }

    fn set_interval(&mut self, env: &mut Env, interval_ms: u32) {
        let Some(process) = &mut self.process else { return };
        process.interval_ms = interval_ms.clamp(100, 60_000);
        let latest = env.now.plus_millis(i64::from(process.interval_ms));
        if process.heartbeat_at > latest {
            process.heartbeat_at = latest;
            self.set_alarm(env, i64::from(interval_ms), Alarm::Heartbeat);
        }
    }

    fn heartbeat(&mut self, env: &mut Env) {
        let Some(process) = &mut self.process else { return };
        if process.heartbeat_at > env.now {
            return;
        }
        let interval_ms = i64::from(process.interval_ms);
        process.heartbeat_at = env.now.plus_millis(interval_ms);
        if let Standing::Known(server_id) = process.standing {
            process.sequence += 1;
            let load = load(process, self.free_percent, self.disk.outbox.len());
            let (boot_id, sequence) = (process.boot_id, process.sequence);
            let event = Event::ServerHeartbeat(ServerHeartbeat {
                server_id,
                boot_id,
                sequence,
                load,
                media_url: None,
            });
            let draft = self.draft(env, event);
            self.send_heartbeat(env, draft, sequence);
        }
        self.set_alarm(env, interval_ms, Alarm::Heartbeat);
    }

    /// At most every fourth heartbeat is struck: whoever hears nothing for a lease has other reasons.
    fn send_heartbeat(&mut self, env: &mut Env, draft: Draft, sequence: u64) {
        let (from, run, sent_at) = (Party::Worker(self.index), self.run, env.now);
        let request = Request::Heartbeat { draft: Box::new(draft), sent_at };
        let may_be_struck = sequence >= self.struck_heartbeat + 4;
        let mut micros = env.latency();
        if may_be_struck && env.strikes(Fault::HeartbeatLost, 5) {
            env.see(Seen::HeartbeatLost);
            self.struck_heartbeat = sequence;
            return;
        }
        if may_be_struck && env.strikes(Fault::HeartbeatLate, 5) {
            env.see(Seen::HeartbeatLate);
            self.struck_heartbeat = sequence;
            micros += env.random.spread(100, 8_000) * 1_000;
        }
        if env.strikes(Fault::HeartbeatTwice, 5) {
            env.see(Seen::HeartbeatTwice);
            let later = micros + env.random.spread(1, 8_000) * 1_000;
            env.after_micros(later, Happening::Request { from, run, request: request.clone() });
        }
        env.after_micros(micros, Happening::Request { from, run, request });
    }

    fn draft(&self, env: &mut Env, event: Event) -> Draft {
        let (id, time) = (env.event_id(), self.wall_clock(env));
        Draft { id, event, time, expected_last: None, folded: Position::START, heard: Position::START }
    }

    fn join(&mut self, env: &mut Env) {
        let Some(process) = &mut self.process else { return };
        process.joining_since = Some(env.now);
        self.ask(env, Request::Join { asked_at: env.now });
        self.set_alarm(env, ANSWER_WITHIN_MS, Alarm::JoinLate);
    }

    fn joined(&mut self, env: &mut Env, audit: &mut Audit, asked_at: Timestamp, reply: Reply) {
        let Some(process) = &mut self.process else { return };
        // Nobody waits for the answer to a wish that took too long.
        if process.joining_since != Some(asked_at) || env.now.millis_since(asked_at) > ANSWER_WITHIN_MS {
            return;
        }
        process.joining_since = None;
        let again_in = match reply {
            Reply::Welcome { server_id, adopted } => {
                if let Some(before) =
                    self.disk.server.replace(server_id).filter(|before| *before != server_id)
                {
                    audit.renamed(before, server_id);
                }
                if process.standing != Standing::Known(server_id) {
                    process.standing = Standing::Known(server_id);
                    env.note(format_args!("s{} is {server_id}", self.index));
                    self.follow_sets_of(server_id);
                    self.well_since = self.well_since.and(Some(env.now));
                    self.hurry_heartbeat(env);
                    self.look(env);
                }
                (!adopted).then(|| env.random.number(5_000..=10_000))
            }
            Reply::Detached => {
                if process.standing != Standing::Detached {
                    env.see(Seen::WorkerDetached);
                    env.note(format_args!("s{} is told that it was let go", self.index));
                }
                process.standing = Standing::Detached;
                process.collector = None;
                process.applied = Position::START;
                process.wanted.clear();
                process.lease.lose();
                self.disk.set.clear();
                self.stop_all(env, audit);
                Some(env.random.number(5_000..=10_000))
            }
            Reply::TryAgain => Some(env.random.number(500..=3_000)),
        };
        if let Some(millis) = again_in {
            self.set_alarm(env, millis, Alarm::Join);
        }
    }

    /// Looks for itself what it is to record.
    fn look(&mut self, env: &mut Env) {
        let Some(process) = &mut self.process else { return };
        process.looked_at = env.now;
        let again_in = LOOK_EVERY_MS + env.random.number(0..=LOOK_EVERY_MS);
        if let Standing::Known(server_id) = process.standing {
            self.ask(env, Request::Look { server_id, begun_at: env.now });
        }
        self.set_alarm(env, again_in, Alarm::Look);
    }

    /// One of several alarms: only the one that belongs to the last look counts.
    fn look_if_due(&mut self, env: &mut Env) {
        if self
            .process
            .as_ref()
            .is_some_and(|process| env.now.millis_since(process.looked_at) >= LOOK_EVERY_MS)
        {
            self.look(env);
        }
    }

    /// Somebody asks for a look.
    fn look_soon(&mut self, env: &mut Env) {
        let Some(process) = &self.process else { return };
        if env.now.millis_since(process.looked_at) >= ASKED_EVERY_MS {
            self.look(env);
        }
    }

    /// Takes a part of a set; a set that is whole and new is saved and then in force.
    fn offer(&mut self, env: &mut Env, audit: &mut Audit, part: Bytes) {
        let Some(collector) = self.process.as_mut().and_then(|process| process.collector.as_mut()) else {
            return;
        };
        match collector.offer(part) {
            Ok((_, Some(set))) => {
                self.disk.set.clone_from(&set.messages);
                self.apply(env, audit, &set);
            }
            Ok((_, None)) => {}
            Err(error) => env.note(format_args!("s{} ignores a part: {error}", self.index)),
        }
    }

    fn apply(&mut self, env: &mut Env, audit: &mut Audit, set: &DesiredSet) {
        let Some(process) = &mut self.process else { return };
        env.note(format_args!(
            "s{} applies revision {}: {} cameras",
            self.index,
            set.revision,
            set.cameras.len()
        ));
        process.applied = set.revision;
        if !process.has_spoken && !set.cameras.is_empty() {
            env.see(Seen::RecordedFromDisk);
        }
        if let Some(lease_ms) = set.lease_ms {
            process.lease.set_length(Duration::from_millis(lease_ms.into()));
        }
        self.record(env, audit, set);
        self.set_interval(env, set.heartbeat_interval_ms);
        self.look_at_lease(env, audit);
    }

    /// Keeps facts until the log has them.
    fn tell(&mut self, env: &mut Env, facts: Vec<Fact>) {
        let (Some(process), Some(server_id)) = (&self.process, self.disk.server) else { return };
        let report = RecordingReported { server_id, boot_id: process.boot_id, facts };
        let id = env.event_id();
        self.disk.outbox.push_back((id, report));
        self.report(env);
    }

    /// Sends the oldest report, if none is on its way.
    fn report(&mut self, env: &mut Env) {
        let Some((id, report)) = self.disk.outbox.front().cloned() else { return };
        let Some(process) = &mut self.process else { return };
        if process.reporting == Some(id) {
            return;
        }
        process.reporting = Some(id);
        let draft = Draft { id, ..self.draft(env, Event::RecordingReported(report)) };
        self.send_report(env, draft);
        self.set_alarm(env, ANSWER_WITHIN_MS, Alarm::ReportLate(id));
    }

    fn send_report(&self, env: &mut Env, draft: Draft) {
        let mut micros = env.latency();
        if env.strikes(Fault::FactLate, 5) {
            env.see(Seen::FactLate);
            micros += env.random.spread(100, 20_000) * 1_000;
        }
        let (from, run, request) = (Party::Worker(self.index), self.run, Request::Report(Box::new(draft)));
        env.after_micros(micros, Happening::Request { from, run, request });
    }

    fn report_late(&mut self, env: &mut Env, id: EventId) {
        let Some(process) = &mut self.process else { return };
        if process.reporting == Some(id) {
            process.reporting = None;
            self.report(env);
        }
    }

    fn report_stored(&mut self, env: &mut Env, id: EventId) {
        if self.disk.outbox.front().is_some_and(|(waiting, _)| *waiting == id) {
            self.disk.outbox.pop_front();
            self.report(env);
        }
    }
}

fn load(process: &Process, free_percent: u8, outbox: usize) -> Load {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let recording = process.recorders.values().filter(|recorder| recorder.is_recording()).count();
    Load {
        applied_revision: process.applied,
        lease_ms: u32::try_from(process.lease.length().as_millis()).ok(),
        cameras: count(process.recorders.len()),
        recording: count(recording),
        disk_free_bytes: DISK_BYTES / 100 * u64::from(free_percent) + DISK_BYTES / 200,
        disk_total_bytes: DISK_BYTES,
        outbox_facts: outbox as u64,
        ..Load::default()
    }
}
