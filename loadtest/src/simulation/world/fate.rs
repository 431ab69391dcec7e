//! Faults: what begins, and what ends it.

use std::time::Duration;

use longwatch_events::position::Position;
use longwatch_events::subject::LogStream;
use longwatch_worker::retry;

use super::World;
use crate::simulation::coverage::Seen;
use crate::simulation::happening::{Alarm, Ending, Happening, Message, Party};
use crate::simulation::replica::{Doom, Link};
use crate::simulation::scenario::Fault;

/// How long NATS stands still while it stutters, and how often it does, in milliseconds.
const STUTTER_MS: i64 = 1_100;
const STUTTER_EVERY_MS: i64 = 4_100;
/// While NATS stands still for an hour, faults come so much less often.
const LONG_STOP_SLOWER: i64 = 60;
/// Between two attempts to connect, after the first and at most: as workers do it.
const CONNECT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(1));

impl World {
    /// Lets one of the faults begin that this run knows.
    pub(super) fn fate(&mut self) {
        if self.env.is_calm {
            return;
        }
        let known: Vec<_> = self.env.scenario.faults.iter().copied().collect();
        if self.env.now >= self.quiet_until
            && let Some(fault) = self.env.random.pick(&known)
        {
            self.strike(fault);
        }
        let slower = if self.is_stopped_long { LONG_STOP_SLOWER } else { 1 };
        let next_ms = self.env.random.number(200..=self.env.scenario.fate_ms * slower);
        self.env.after(next_ms, Happening::Fate);
    }

    fn strike(&mut self, fault: Fault) {
        let worker = self.env.random.number(0..=i64::from(self.env.scenario.servers) - 1);
        let replica = self.env.random.number(0..=i64::from(self.env.scenario.replicas) - 1);
        let (worker, replica) = (usize::try_from(worker).unwrap_or(0), usize::try_from(replica).unwrap_or(0));
        let ms = self.env.random.spread(300, 40_000);
        match fault {
            Fault::WorkerCrash => self.crash_worker(worker, ms),
            Fault::ManyWorkersCrash => self.crash_many(ms),
            Fault::ManyWorkersSilent => self.silence_many(),
            Fault::WorkerPause => self.pause_worker(worker, ms),
            Fault::WorkerMute => self.cut_worker(worker, Link { to_nats: false, ..Link::UP }, ms),
            Fault::WorkerDeaf => self.cut_worker(worker, Link { from_nats: false, ..Link::UP }, ms),
            Fault::WorkerCutOff => self.cut_worker(worker, Link { to_nats: false, from_nats: false }, ms),
            Fault::ClockJump => {
                self.env.see(Seen::ClockJumped);
                self.workers[worker].clock_ms = self.env.random.one_of([-3_600_000, 0, 3_600_000]);
            }
            Fault::DiskFull => {
                self.env.see(Seen::DiskFull);
                self.workers[worker].free_percent = self.env.random.one_of([0, 1, 3, 50]);
                self.env.after(ms, Happening::Over(Ending::Disk(worker)));
            }
            Fault::CameraUnreachableFromOne => self.cut_camera(Some(worker), ms),
            Fault::CameraUnreachable => self.cut_camera(None, ms),
            Fault::ReplicaCrash => {
                self.env.see(Seen::ReplicaCrashed);
                self.doom_replica(replica, Doom::Kill { ms });
            }
            Fault::ReplicaPause => {
                self.env.see(Seen::ReplicaPaused);
                self.doom_replica(replica, Doom::Pause { ms });
            }
            Fault::ReplicaCutOff => {
                self.env.see(Seen::ReplicaCutOff);
                let links = [
                    Link { to_nats: false, from_nats: false },
                    Link { to_nats: false, ..Link::UP },
                    Link { from_nats: false, ..Link::UP },
                ];
                self.replicas[replica].link = self.env.random.one_of(links);
                self.env.after(ms, Happening::Over(Ending::Link(Party::Replica(replica))));
            }
            Fault::ReplicaSlow => {
                self.env.see(Seen::ReplicaSlow);
                self.replicas[replica].slow_ms = self.env.random.spread(100, 6_000);
                self.env.after(ms, Happening::Over(Ending::Slow(replica)));
            }
            Fault::NatsClockSet => self.set_clock_of_nats(),
            Fault::NatsStutter => {
                // Somebody dies meanwhile, and must be noticed all the same.
                self.crash_worker(worker, 60_000);
                let times = self.env.random.count(6..=16);
                // Nothing else begins to go wrong until it is over.
                self.quiet_until = self.env.now.plus_millis(i64::from(times) * STUTTER_EVERY_MS);
                self.stutter(times);
            }
            Fault::NatsStop => self.stop_nats(Seen::NatsStopped, ms.min(20_000), false),
            Fault::NatsStopLong => {
                let ms = self.env.random.number(600_000..=3_600_000);
                self.stop_nats(Seen::NatsStoppedLong, ms, false);
            }
            Fault::NatsRollback => self.stop_nats(Seen::NatsRolledBack, ms.min(20_000), true),
            Fault::PauseBeforeAppend
            | Fault::PauseBeforeFold
            | Fault::KillBeforeAppend
            | Fault::KillBeforeFold
            | Fault::HeartbeatLate
            | Fault::HeartbeatLost
            | Fault::HeartbeatTwice
            | Fault::FactTwice
            | Fault::FactLate
            | Fault::AnswerLost
            | Fault::AssignmentLost => {}
        }
    }

    fn crash_worker(&mut self, worker: usize, ms: i64) {
        if self.workers[worker].process.is_none() {
            return;
        }
        self.env.see(Seen::WorkerCrashed);
        self.env.note(format_args!("s{worker} is killed for {ms} ms"));
        self.workers[worker].kill(&mut self.env, &mut self.audit);
        self.something_else_befalls(worker);
        self.env.after(ms, Happening::Start(Party::Worker(worker)));
    }

    fn crash_many(&mut self, ms: i64) {
        for worker in 0..self.workers.len() {
            if self.env.random.percent(60) {
                self.crash_worker(worker, ms);
            }
        }
    }

    fn pause_worker(&mut self, worker: usize, ms: i64) {
        if self.workers[worker].process.is_none() || self.workers[worker].paused.is_some() {
            return;
        }
        self.env.see(Seen::WorkerPaused);
        self.env.note(format_args!("s{worker} is paused for {ms} ms"));
        self.workers[worker].pause(&self.env, &mut self.audit);
        self.something_else_befalls(worker);
        self.env.after(ms, Happening::Resume(Party::Worker(worker)));
    }

    fn cut_worker(&mut self, worker: usize, link: Link, ms: i64) {
        self.something_else_befalls(worker);
        self.cut(worker, link, ms);
    }

    pub(super) fn cut(&mut self, worker: usize, link: Link, ms: i64) {
        self.env.see(match link {
            Link { to_nats: false, from_nats: false } => Seen::WorkerCutOff,
            Link { to_nats: false, from_nats: true } => Seen::WorkerMute,
            Link { to_nats: true, .. } => Seen::WorkerDeaf,
        });
        self.env.note(format_args!("s{worker} has {link:?} for {ms} ms"));
        self.workers[worker].link = link;
        self.workers[worker].is_struck();
        self.env.after(ms, Happening::Over(Ending::Link(Party::Worker(worker))));
    }

    fn cut_camera(&mut self, worker: Option<usize>, ms: i64) {
        let keys = self.cameras.keys();
        let Some(key) = self.env.random.pick(&keys) else { return };
        self.env.see(match worker {
            Some(_) => Seen::CameraUnreachableFromOne,
            None => Seen::CameraUnreachable,
        });
        self.env.note(format_args!("camera {} is unreachable from {worker:?} for {ms} ms", key.camera_id));
        self.cameras.cut(key, worker, self.env.now);
        let cut_off = worker.map_or(0..self.workers.len(), |worker| worker..worker + 1);
        for worker in cut_off {
            self.workers[worker].camera_cut(&mut self.env, &mut self.audit, key);
        }
        self.env.after(ms, Happening::Over(Ending::Camera(key)));
    }

    /// Pauses or kills a control replica.
    pub(super) fn doom_replica(&mut self, replica: usize, doom: Doom) {
        let process = &mut self.replicas[replica];
        if process.process.is_none() || process.paused.is_some() {
            return;
        }
        self.env.note(format_args!("r{replica}: {doom:?}"));
        match doom {
            Doom::Pause { ms } => {
                process.paused = Some(Vec::new());
                self.env.after(ms, Happening::Resume(Party::Replica(replica)));
            }
            Doom::Kill { ms } => {
                process.kill(self.env.now);
                self.env.after(ms, Happening::Start(Party::Replica(replica)));
            }
        }
    }

    /// NATS stands still for a second again and again.
    pub(super) fn stutter(&mut self, times: u32) {
        if times == 0 || self.env.is_calm {
            return;
        }
        self.note_stutter();
        self.stop_nats(Seen::NatsStuttered, STUTTER_MS, false);
        self.env.after(STUTTER_EVERY_MS, Happening::Over(Ending::Stutter { times: times - 1 }));
    }

    /// The clock of NATS is set: back at most by what a calm may last.
    fn set_clock_of_nats(&mut self) {
        let by_ms = self.env.random.one_of([-60_000, -20_000, -3_000, -600, -20, 1_000, 5_000, 3_600_000]);
        self.env.see(if by_ms < 0 { Seen::NatsClockSetBack } else { Seen::NatsClockSetForward });
        self.env.note(format_args!("the clock of NATS is set by {by_ms} ms"));
        self.nats.clock_ms += by_ms;
        self.note_clock_of_nats(by_ms);
    }

    fn stop_nats(&mut self, seen: Seen, ms: i64, roll_back: bool) {
        if !self.nats.is_up {
            return;
        }
        self.env.see(seen);
        self.env.note(format_args!("NATS stops for {ms} ms"));
        self.nats.is_up = false;
        self.nats_stopped_at = self.env.now;
        self.is_stopped_long = seen == Seen::NatsStoppedLong;
        // A server of NATS that only stands still keeps its connections.
        if seen != Seen::NatsStuttered {
            let now = self.env.now;
            self.replicas.iter_mut().for_each(|replica| replica.is_disconnected(now));
        }
        self.env.after(ms, Happening::Over(Ending::NatsStop { roll_back }));
    }

    /// NATS is there again: everybody connects within two seconds.
    pub(super) fn start_nats(&mut self, roll_back: bool) {
        if self.nats.is_up {
            return;
        }
        self.nats.is_up = true;
        self.note_pause_of_nats();
        self.nats_started_at = self.env.now;
        self.is_stopped_long = false;
        if roll_back {
            self.roll_back();
        }
        self.env.note(format_args!("NATS starts"));
        let parties =
            (0..self.workers.len()).map(Party::Worker).chain((0..self.replicas.len()).map(Party::Replica));
        for party in parties {
            let ms = self.connects_in_ms();
            let (parked, others) =
                std::mem::take(&mut self.parked).into_iter().partition(|(to, ..)| *to == party);
            self.parked = others;
            for (to, run, message) in parked {
                self.env.after(ms, Happening::Message { to, run, message });
            }
            self.connect(party, ms);
        }
    }

    /// How long it takes until somebody who has tried to connect since NATS stopped does so again.
    fn connects_in_ms(&mut self) -> i64 {
        let away = self.env.now.micros_since(self.nats_stopped_at);
        let away = Duration::from_micros(u64::try_from(away).unwrap_or(0)).min(CONNECT.1 * 8);
        let (mut next, mut failures) = (Duration::ZERO, 0);
        while next < away {
            next += retry::delay(CONNECT.0, CONNECT.1, failures, self.env.random.share());
            failures += 1;
        }
        i64::try_from((next - away).as_millis()).unwrap_or(0) + 1
    }

    /// A party whose way to NATS is there again connects.
    pub(super) fn connect(&mut self, party: Party, ms: i64) {
        let run = self.run_of(party);
        let message = Message::Alarm(Alarm::Connected);
        self.env.after(ms, Happening::Message { to: party, run, message });
    }

    /// NATS has an older store: the last records of every log stream are lost. An operator notices that control halts,
    /// and starts all of it anew without what it had derived.
    fn roll_back(&mut self) {
        let end = self.nats.ends().log.0;
        let lost = u64::from(self.env.random.count(1..=25)).min(end.saturating_sub(3));
        let first_lost = Position(end - lost + 1);
        let Some(from) = self.nats.get(LogStream::Log, first_lost).map(|record| record.really_at) else {
            return;
        };
        self.nats.roll_back(from);
        let end = self.nats.ends().log;
        self.env.note(format_args!("NATS was rolled back: LOG ends at {end}"));
        self.audit.rolled_back(end);
        for replica in &mut self.replicas {
            replica.is_before_rollback = replica.process.is_some();
        }
        let ms = self.env.random.number(4_000..=15_000);
        self.env.after(ms, Happening::Over(Ending::RestartAll));
    }

    /// Starts all control replicas anew, with nothing but the log.
    pub(super) fn restart_all(&mut self) {
        self.check_halted();
        for replica in &mut self.replicas {
            replica.kill(self.env.now);
            replica.forget_rows();
            replica.start(&mut self.env);
        }
        self.note_start_of_replica();
    }

    pub(super) fn over(&mut self, ending: Ending) {
        match ending {
            Ending::Link(Party::Worker(worker)) => {
                if self.workers[worker].link != Link::UP {
                    self.workers[worker].link = Link::UP;
                    self.worker_is_well(worker);
                    let ms = self.env.random.number(20..=1_400);
                    self.connect(Party::Worker(worker), ms);
                }
            }
            Ending::Link(Party::Replica(replica)) => {
                self.replicas[replica].link = Link::UP;
                let ms = self.env.random.number(20..=1_400);
                self.connect(Party::Replica(replica), ms);
            }
            Ending::Camera(key) => self.cameras.mend(key, self.env.now),
            Ending::Slow(replica) => self.replicas[replica].slow_ms = 0,
            Ending::Disk(worker) => self.workers[worker].free_percent = 60,
            Ending::NatsStop { roll_back } => self.start_nats(roll_back),
            Ending::Stutter { times } => self.stutter(times),
            Ending::ManySilent => self.many_are_heard_again(),
            Ending::RestartAll => self.restart_all(),
        }
    }

    /// No more faults: all that are under way end now.
    pub(super) fn calm(&mut self) {
        self.env.is_calm = true;
        self.calm_since = Some(self.env.now);
        self.liveness.ahead_ms = self.nats.set_back_ms(self.env.now);
        self.env.note(format_args!("calm begins"));
        self.start_nats(false);
        for key in self.cameras.keys() {
            self.over(Ending::Camera(key));
        }
        self.many_are_heard_again();
        for worker in 0..self.workers.len() {
            self.over(Ending::Link(Party::Worker(worker)));
            self.over(Ending::Disk(worker));
            self.env.after(0, Happening::Resume(Party::Worker(worker)));
            self.env.after(10, Happening::Start(Party::Worker(worker)));
        }
        for replica in 0..self.replicas.len() {
            self.over(Ending::Link(Party::Replica(replica)));
            self.over(Ending::Slow(replica));
            self.env.after(0, Happening::Resume(Party::Replica(replica)));
            self.env.after(10, Happening::Start(Party::Replica(replica)));
        }
    }
}
