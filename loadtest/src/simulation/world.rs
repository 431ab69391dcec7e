//! The simulated world: who there is, and what becomes of whatever happens next.

use std::rc::Rc;

use bytes::Bytes;
use longwatch_events::envelope::Envelope;
use longwatch_events::event::Event;
use longwatch_events::fold;
use longwatch_events::id::ServerId;
use longwatch_events::time::Timestamp;
use serde_json::{Value, json};

mod calm;
mod fate;
mod liveness;

use super::audit::Audit;
use super::cameras::Cameras;
use super::coverage::Seen;
use super::env::Env;
use super::happening::{Happening, Message, Party, Request, Run, Wish};
use super::invariant::Invariant;
use super::nats::{Appended, Draft, Nats, Refused, Stored};
use super::operator;
use super::random::Random;
use super::replica::{Link, Replica};
use super::scenario::{Fault, Scenario};
use super::trace::Trace;
use super::worker::Worker;
use liveness::Liveness;

/// When every run begins: 2026-11-23T08:00:00Z.
const START: Timestamp = Timestamp::from_millis(1_795_420_800_000);
/// Between two looks at what takes time to go wrong, in milliseconds.
const WATCH_EVERY_MS: i64 = 1_000;

pub(super) struct World {
    pub(super) env: Env,
    nats: Nats,
    replicas: Vec<Replica>,
    workers: Vec<Worker>,
    cameras: Cameras,
    pub(super) audit: Audit,
    liveness: Liveness,
    /// No fault begins before this.
    quiet_until: Timestamp,
    /// What waits for NATS to be there again.
    parked: Vec<(Party, Run, Message)>,
    is_stopped_long: bool,
    nats_started_at: Timestamp,
    nats_stopped_at: Timestamp,
    /// How many steps of trouble there are.
    steps: u64,
    calm_since: Option<Timestamp>,
    pub(super) is_over: bool,
}

impl World {
    pub(super) fn new(seed: u64, steps: u64, is_traced: bool) -> Self {
        let mut random = Random::new(seed);
        let scenario = Scenario::draw(&mut random);
        let trace = Trace::new(START, is_traced);
        let old = |random: &mut Random| scenario.is_upgraded && random.percent(50);
        let program = |random: &mut Random| if old(random) { fold::VERSION - 1 } else { fold::VERSION };
        let replicas = (0..scenario.replicas as usize)
            // One is new enough: somebody has to require a version.
            .map(|index| Replica::new(index, if index == 0 { fold::VERSION } else { program(&mut random) }))
            .collect();
        let workers = (0..scenario.servers as usize).map(Worker::new).collect();
        let mut world = Self {
            env: Env::new(scenario, random, trace, START),
            nats: Nats::new(),
            replicas,
            workers,
            cameras: Cameras::default(),
            audit: Audit::new(START),
            liveness: Liveness::default(),
            quiet_until: START,
            parked: Vec::new(),
            is_stopped_long: false,
            nats_started_at: START,
            nats_stopped_at: START,
            steps,
            calm_since: None,
            is_over: false,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        let scenario = self.env.scenario.clone();
        self.env.note(format_args!("{scenario:?}"));
        for replica in 0..self.replicas.len() {
            let ms = self.env.random.number(0..=2_000);
            self.env.after(ms, Happening::Start(Party::Replica(replica)));
        }
        for worker in 0..self.workers.len() {
            let latest = if self.env.random.percent(80) { 3_000 } else { 30_000 };
            let ms = self.env.random.number(0..=latest);
            self.env.after(ms, Happening::Start(Party::Worker(worker)));
        }
        self.env.after(3_000, Happening::Operator);
        self.env.after(8_000, Happening::Fate);
        self.env.after(WATCH_EVERY_MS, Happening::Watch);
    }

    /// Lets the next thing happen.
    pub(super) fn step(&mut self) {
        let Some(what) = self.env.next() else {
            self.is_over = true;
            return;
        };
        match what {
            Happening::Request { from, request, run } => self.request(from, run, request),
            Happening::Message { to, run, message } => self.message(to, run, message),
            Happening::Start(party) => self.start(party),
            Happening::Resume(party) => self.resume(party),
            Happening::Over(ending) => self.over(ending),
            Happening::Operator => self.operator(),
            Happening::TryAgain { command, event_id } => {
                self.command(Message::Command { command, event_id });
            }
            Happening::Fate => self.fate(),
            Happening::Watch => self.watch(),
        }
        if self.calm_since.is_none() && self.env.step >= self.steps {
            self.calm();
        }
    }

    fn run_of(&self, party: Party) -> Run {
        match party {
            Party::Replica(index) => self.replicas[index].run,
            Party::Worker(index) => self.workers[index].run,
        }
    }

    fn link_of(&self, party: Party) -> Link {
        match party {
            Party::Replica(index) => self.replicas[index].link,
            Party::Worker(index) => self.workers[index].link,
        }
    }

    fn start(&mut self, party: Party) {
        match party {
            Party::Replica(index) if self.replicas[index].process.is_none() => {
                // Old programs are replaced when they are started anew, sooner or later.
                if self.env.is_calm || self.env.random.percent(50) {
                    self.replicas[index].program = fold::VERSION;
                }
                self.note_start_of_replica();
                self.replicas[index].start(&mut self.env);
            }
            Party::Worker(index) if self.workers[index].process.is_none() => {
                self.workers[index].start(&mut self.env, &mut self.audit);
                self.worker_is_well(index);
            }
            Party::Replica(_) | Party::Worker(_) => {}
        }
    }

    fn resume(&mut self, party: Party) {
        let waiting = match party {
            Party::Replica(index) => self.replicas[index].paused.take().unwrap_or_default(),
            Party::Worker(index) => {
                let waiting = self.workers[index].resume(&mut self.env, &mut self.audit);
                self.worker_is_well(index);
                waiting
            }
        };
        let run = self.run_of(party);
        for message in waiting {
            self.env.after(0, Happening::Message { to: party, run, message });
        }
    }

    /// Nothing is wrong with a worker any more, unless something else still is.
    fn worker_is_well(&mut self, index: usize) {
        let worker = &mut self.workers[index];
        let is_well = worker.process.is_some() && worker.paused.is_none() && worker.link == Link::UP;
        worker.well_since = is_well.then_some(self.env.now);
    }

    /// Something reaches a process: at once, or when it goes on.
    fn message(&mut self, to: Party, run: Run, message: Message) {
        if self.run_of(to) != run {
            return;
        }
        if let Message::Alarm(alarm) = &message
            && alarm.waits_for_nats()
            && !self.nats.is_up
        {
            return self.parked.push((to, run, message));
        }
        let comes_from_nats = !matches!(message, Message::Alarm(_) | Message::Command { .. } | Message::News);
        if comes_from_nats && !self.link_of(to).from_nats {
            return;
        }
        match to {
            Party::Replica(index) => {
                let replica = &mut self.replicas[index];
                match &mut replica.paused {
                    Some(waiting) => waiting.push(message),
                    None if replica.process.is_some() => {
                        replica.receive(&mut self.env, &self.nats, &mut self.audit, message);
                    }
                    None => {}
                }
                if let Some(doom) = self.replicas[index].doom.take() {
                    self.doom_replica(index, doom);
                }
            }
            Party::Worker(index) => {
                let worker = &mut self.workers[index];
                match &mut worker.paused {
                    Some((waiting, _)) => waiting.push(message),
                    None if worker.process.is_some() => {
                        worker.receive(&mut self.env, &mut self.audit, &self.cameras, message);
                    }
                    None => {}
                }
            }
        }
    }

    fn answer(&mut self, to: Party, run: Run, message: Message) {
        let micros = self.env.latency();
        self.env.after_micros(micros, Happening::Message { to, run, message });
    }

    /// A request reaches NATS, if it is there.
    fn request(&mut self, from: Party, run: Run, request: Request) {
        if !self.nats.is_up || !self.link_of(from).to_nats {
            return;
        }
        match request {
            // A replica looks where the log ends before it does anything after NATS was away; see the module.
            Request::Append { .. } if self.is_before_rollback(from) => {}
            // What was killed before it sent this does not send it any more.
            Request::Append { sent_at, .. } if self.was_killed_before(from, run, sent_at) => {}
            Request::Append { call, drafts, .. } => {
                let result = self.append(&drafts, true);
                if self.env.strikes(Fault::AnswerLost, 4) {
                    self.env.see(Seen::AnswerLost);
                    return;
                }
                self.answer(from, run, Message::Appended { call, result });
            }
            Request::Tick { draft, folded } => {
                let _ = self.append(std::slice::from_ref(&draft), false);
                let (ends, now) = (self.nats.ends(), self.env.now);
                let holder = match from {
                    Party::Replica(index) => self.replicas[index].boot_id(),
                    Party::Worker(_) => None,
                };
                let holds = !self.env.scenario.has_lease
                    || holder.is_some_and(|boot_id| self.nats.holds_lease(boot_id, now, 2_500));
                self.answer(from, run, Message::Ticked { ends, holds, folded, at: now });
            }
            Request::Standing(servers) => {
                let standing = |id: ServerId| Some((id, self.nats.standing(id)?));
                let found = servers.into_iter().filter_map(standing).collect();
                let end = self.nats.ends().log;
                self.answer(from, run, Message::Standing { found, end });
            }
            Request::Ends => {
                let ends = self.nats.ends();
                self.answer(from, run, Message::Ends(ends));
            }
            Request::Nudge(server_id) => self.tell_server(server_id, &Message::LookNow),
            Request::Heartbeat { draft, sent_at } => {
                let _ = self.append(std::slice::from_ref(&draft), false);
                self.answer(from, run, Message::Acknowledged { sent_at });
            }
            Request::Report(draft) => {
                let id = draft.id;
                let _ = self.append(std::slice::from_ref(&draft), true);
                if self.env.strikes(Fault::FactTwice, 5) {
                    self.env.see(Seen::FactTwice);
                    let _ = self.append(std::slice::from_ref(&draft), false);
                }
                self.answer(from, run, Message::Stored(id));
            }
            Request::Look { server_id, begun_at } => {
                let (parts, is_whole) = self.nats.parts(server_id);
                self.answer(from, run, Message::Parts { parts, is_whole, begun_at });
            }
            Request::Join { asked_at } => self.join(from, run, asked_at),
        }
    }

    fn is_before_rollback(&self, party: Party) -> bool {
        match party {
            Party::Replica(index) => self.replicas[index].is_before_rollback,
            Party::Worker(_) => false,
        }
    }

    /// Whether a run was over at `at`.
    fn was_killed_before(&self, party: Party, run: Run, at: Timestamp) -> bool {
        match party {
            Party::Replica(index) => self.replicas[index].was_killed_before(run, at),
            Party::Worker(_) => false,
        }
    }

    /// One of the replicas that can takes a worker's wish to join.
    fn join(&mut self, from: Party, run: Run, asked_at: Timestamp) {
        let Party::Worker(worker) = from else { return };
        let able: Vec<_> = self
            .replicas
            .iter()
            .filter(|replica| replica.process.is_some() && replica.link == Link::UP)
            .filter(|replica| !replica.is_before_rollback)
            .map(|replica| replica.index)
            .collect();
        if let Some(replica) = self.env.random.pick(&able) {
            let replica_run = self.replicas[replica].run;
            let wish = Wish { worker, run, asked_at };
            self.answer(Party::Replica(replica), replica_run, Message::JoinWish(wish));
        }
    }

    /// Whoever is that server, and listens, is told.
    fn tell_server(&mut self, server_id: ServerId, message: &Message) {
        let listening: Vec<_> = self
            .workers
            .iter()
            .filter(|worker| worker.listens(server_id))
            .map(|worker| worker.index)
            .collect();
        for worker in listening {
            if self.env.strikes(Fault::AssignmentLost, 15) {
                self.env.see(Seen::AssignmentLost);
                continue;
            }
            self.answer(Party::Worker(worker), self.workers[worker].run, message.clone());
        }
    }

    fn append(
        &mut self,
        drafts: &[Draft],
        recognise: bool,
    ) -> Result<longwatch_events::position::Position, Refused> {
        let (env, nats) = (&mut self.env, &mut self.nats);
        let now = env.now;
        let Appended { position, records } =
            nats.append(drafts, now, recognise, |envelope| encode(env, envelope))?;
        if records.is_empty() && matches!(drafts[0].event, Event::PlanMade(_)) {
            self.env.note(format_args!("the plan at {position} is recognised"));
        }
        if records.is_empty() {
            self.env.see(Seen::CommandRecognised);
        }
        for record in records {
            self.stored(&record);
        }
        for replica in 0..self.replicas.len() {
            self.replicas[replica].hear_of_news(&mut self.env);
        }
        Ok(position)
    }

    fn stored(&mut self, record: &Rc<Stored>) {
        self.note(record);
        self.note_liveness(record);
        self.audit.stored(&mut self.env, &self.nats, record);
        if let Event::ServerLost(lost) = &record.event {
            self.check_loss(record, lost);
        }
        if let Event::AssignmentsPublished(set) = &record.event {
            self.tell_server(set.server_id, &Message::Told(record.payload.clone()));
        }
    }

    /// Writes down what happened, and that it did.
    fn note(&mut self, record: &Stored) {
        let seen = match &record.event {
            Event::ServerHeartbeat(_) | Event::ControlTicked(_) | Event::RecordingReported(_) => return,
            Event::ServerLost(_) => Some(Seen::ServerLost),
            Event::ServerReturned(_) => Some(Seen::ServerReturned),
            Event::ServerDiskMeasured(_) => Some(Seen::DiskMeasured),
            Event::ServerDetached(detached) => Some(match detached.cameras {
                longwatch_events::event::DetachedCameras::Keep => Seen::DetachedKeeping,
                longwatch_events::event::DetachedCameras::Remove => Seen::DetachedRemoving,
            }),
            Event::ServerAdopted(adopted) => self
                .audit
                .state()
                .server(adopted.server_id)
                .is_some_and(|server| server.is_detached())
                .then_some(Seen::AdoptedAgain),
            Event::TenantCreated(_)
            | Event::TenantChanged(_)
            | Event::TenantDeleted(_)
            | Event::ServerAdded(_)
            | Event::ServerJoined(_)
            | Event::ServerChanged(_)
            | Event::ServerDrainStarted(_)
            | Event::ServerDrainStopped(_)
            | Event::ServerFailbackRequested(_)
            | Event::CameraAdded(_)
            | Event::CameraChanged(_)
            | Event::CameraDeleted(_)
            | Event::CameraMoveRequested(_)
            | Event::PolicyChanged(_)
            | Event::VersionRequired(_)
            | Event::PlanMade(_)
            | Event::AssignmentsPublished(_)
            | Event::CameraBacklogged(_) => None,
        };
        if let Some(seen) = seen {
            self.env.see(seen);
        }
        if let Event::ServerReturned(returned) = &record.event
            && self.audit.state().index().left_with(returned.server_id).next().is_some()
        {
            self.env.see(Seen::WentOn);
        }
        if matches!(record.event, Event::AssignmentsPublished(_) | Event::PlanMade(_)) {
            self.env.note(format_args!("{} stands at {}", record.subject, record.position));
        } else {
            self.env.note(format_args!("{}: {:?}", record.position, record.event));
        }
    }

    /// Somebody wants something.
    fn operator(&mut self) {
        if self.env.is_calm {
            return;
        }
        let readable: Vec<_> = self
            .replicas
            .iter()
            .filter(|replica| replica.process.as_ref().is_some_and(|process| process.caught_up))
            .map(|replica| replica.index)
            .collect();
        let mut next_ms = self.env.random.number(20..=self.env.scenario.operator_ms);
        let read = self.env.random.pick(&readable);
        if let Some(process) = read.and_then(|index| self.replicas[index].process.as_ref()) {
            let setting_up = operator::set_up(&mut self.env, &process.state, &mut self.cameras);
            let command = match setting_up {
                Some(command) => {
                    next_ms = self.env.random.number(20..=150);
                    Some(command)
                }
                None => operator::wish(&mut self.env, &process.state, &mut self.cameras),
            };
            if let Some(command) = command {
                let event_id = self.env.event_id();
                self.command(Message::Command { command: Box::new(command), event_id });
            }
        }
        if self.is_stopped_long {
            next_ms *= 60;
        }
        self.env.after(next_ms, Happening::Operator);
    }

    /// A command goes to one of the replicas.
    fn command(&mut self, command: Message) {
        let alive: Vec<_> = self
            .replicas
            .iter()
            .filter(|replica| replica.process.is_some())
            .map(|replica| replica.index)
            .collect();
        if let Some(replica) = self.env.random.pick(&alive) {
            let run = self.replicas[replica].run;
            self.answer(Party::Replica(replica), run, command);
        }
    }

    /// Looks at what takes time to go wrong.
    fn watch(&mut self) {
        for worker in 0..self.workers.len() {
            if let Some(what) = self.workers[worker].neglected(&self.env, &self.cameras) {
                self.env.broken(Invariant::RecordingGoesOn, what);
            }
        }
        self.audit.check_sessions(&mut self.env);
        self.watch_over_gone();
        if self.calm_since.is_some() {
            self.watch_calm();
        }
        let ms = if self.is_stopped_long { 20 * WATCH_EVERY_MS } else { WATCH_EVERY_MS };
        self.env.after(ms, Happening::Watch);
    }
}

/// The bytes of an event; sometimes with fields that only a later version knows, which this one must not mind.
fn encode(env: &mut Env, envelope: &Envelope) -> Bytes {
    let mut bytes = envelope.encode();
    if env.random.percent(5) {
        env.see(Seen::UnknownFields);
        if let Ok(mut value) = serde_json::from_slice::<Value>(&bytes) {
            value["addedlater"] = json!("attribute");
            value["data"]["added_later"] = json!({ "some": ["thing", 1] });
            bytes = value.to_string().into_bytes();
        }
    }
    match Envelope::decode(&bytes) {
        Ok(read) if read == *envelope => {}
        other => env.broken(Invariant::WireKeepsMeaning, format!("{envelope:?} reads back as {other:?}")),
    }
    bytes.into()
}
