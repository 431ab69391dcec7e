//! A simulated control replica: the real fold, the real decisions, the real `observed`; the shells around them
//! (`control::{follower, service, serve, planner, watch, assignments, join}`) are written here once more over virtual time.
//!
//! Invariant: whatever it decides, it decides by its own State, however old that is.

mod plan;
mod rows;
mod watch;

use std::collections::BTreeMap;
use std::rc::Rc;

use longwatch_control::decide::command::{self, Command};
use longwatch_control::observed::{Observed, Pace, TICK_MS};
use longwatch_events::event::{
    ControlTicked, Event, ServerAdded, ServerAdopted, ServerJoined, ServerReturned,
};
use longwatch_events::fold;
use longwatch_events::id::{BootId, EventId, ServerId, TenantId};
use longwatch_events::position::Position;
use longwatch_events::sealed::{Base64Bytes, WrappedKey};
use longwatch_events::state::State;
use longwatch_events::subject::LogStream;
use longwatch_events::time::Timestamp;

use super::audit::Audit;
use super::coverage::Seen;
use super::env::Env;
use super::happening::{Alarm, Ends, Happening, Message, Party, Request, Run, Wish};
use super::invariant::Invariant;
use super::nats::{Draft, Nats, Refused, Stored};
use super::operator;
use super::scenario::Fault;
use plan::Planner;
use rows::Rows;

/// How long the planner's lease lasts: longer than between two ticks.
const LEASE_TTL_MS: i64 = 2_500;
/// So many leases back heartbeats are read at the start.
const LEASES_AT_START: i64 = 2;
/// An append that was not answered is tried again after this…
const ANSWER_WITHIN_MS: i64 = 1_000;
/// … so many times.
const TRIES: u32 = 4;

/// Which directions of a connection to NATS work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) to_nats: bool,
    pub(super) from_nats: bool,
}

impl Link {
    pub(super) const UP: Self = Self { to_nats: true, from_nats: true };
}

/// What becomes of a process in the middle of what it does.
#[derive(Debug, Clone, Copy)]
pub(super) enum Doom {
    Pause { ms: i64 },
    Kill { ms: i64 },
}

pub(super) struct Replica {
    pub(super) index: usize,
    pub(super) run: Run,
    pub(super) process: Option<Process>,
    /// While it is stopped by a signal: what waits for it.
    pub(super) paused: Option<Vec<Message>>,
    pub(super) link: Link,
    /// How much later than others it hears of new records, in milliseconds.
    pub(super) slow_ms: i64,
    /// As which version its program folds.
    pub(super) program: u32,
    /// It was there when the log was rolled back, and has not been started since.
    pub(super) is_before_rollback: bool,
    pub(super) doom: Option<Doom>,
    /// When the last run was killed that was.
    killed_at: Timestamp,
    rows: Rows,
}

pub(super) struct Process {
    boot_id: BootId,
    pub(super) state: State,
    pub(super) observed: Observed,
    /// Where the log streams ended when it began.
    began_at: Option<Ends>,
    pub(super) caught_up: bool,
    heartbeats: Position,
    pub(super) halted: Option<String>,
    leads: bool,
    /// When NATS said last who plans.
    lease_answered_at: Timestamp,
    /// When it lost its connection to NATS, if it was not told since where the log streams end: until then it judges nobody.
    lost_connection_at: Option<Timestamp>,
    calls: BTreeMap<u64, Call>,
    made_calls: u64,
    is_news_due: bool,
    planner: Planner,
    /// Judgements that are not folded yet.
    judging: BTreeMap<u64, Option<Position>>,
    /// Commands that stand in the log and are acknowledged once they are folded.
    written: Vec<(EventId, Position)>,
    /// Workers that wait to be let in.
    joining: BTreeMap<usize, (Wish, u32)>,
}

/// Something that was asked of the log.
struct Call {
    purpose: Purpose,
    drafts: Rc<Vec<Draft>>,
    tries: u32,
}

enum Purpose {
    Plan { basis: Position, last_plan: Position },
    Judgement,
    Publication { server_id: ServerId, revision: Position, folded: Position, pace: Pace },
    Command { command: Box<Command>, event_id: EventId },
    Join { worker: usize },
    DefaultTenant,
}

impl Process {
    /// Whether it decides anything.
    fn decides(&self) -> bool {
        self.caught_up && self.halted.is_none()
    }

    /// Whether NATS has answered it since.
    pub(super) fn heard_after(&self, since: Timestamp) -> bool {
        self.lease_answered_at > since
    }

    fn leads(&self, now: Timestamp) -> bool {
        self.leads || now.millis_since(self.lease_answered_at) > LEASE_TTL_MS
    }
}

impl Replica {
    pub(super) fn new(index: usize, program: u32) -> Self {
        Self {
            index,
            run: 0,
            process: None,
            paused: None,
            link: Link::UP,
            slow_ms: 0,
            program,
            is_before_rollback: false,
            doom: None,
            killed_at: Timestamp::UNIX_EPOCH,
            rows: Rows::default(),
        }
    }

    /// Whether nothing keeps it from judging.
    pub(super) fn is_well(&self) -> bool {
        let is_there =
            self.process.as_ref().is_some_and(|process| process.decides() && process.observed.is_live());
        is_there
            && self.paused.is_none()
            && self.link == Link::UP
            && self.slow_ms == 0
            && !self.is_before_rollback
    }

    pub(super) fn name(&self) -> String {
        format!("r{}", self.index)
    }

    fn set(&self, env: &mut Env, millis: i64, alarm: Alarm) {
        let (to, run) = (Party::Replica(self.index), self.run);
        env.after(millis, Happening::Message { to, run, message: Message::Alarm(alarm) });
    }

    fn ask(&self, env: &mut Env, request: Request) {
        let (from, run, micros) = (Party::Replica(self.index), self.run, env.latency());
        env.after_micros(micros, Happening::Request { from, run, request });
    }

    pub(super) fn start(&mut self, env: &mut Env) {
        self.run += 1;
        self.paused = None;
        self.is_before_rollback = false;
        let process = Process {
            boot_id: env.boot_id(),
            state: State::default(),
            observed: Observed::default(),
            began_at: None,
            caught_up: false,
            heartbeats: Position::START,
            halted: None,
            leads: !env.scenario.has_lease,
            lease_answered_at: env.now,
            lost_connection_at: None,
            calls: BTreeMap::new(),
            made_calls: 0,
            is_news_due: false,
            planner: Planner::default(),
            judging: BTreeMap::new(),
            written: Vec::new(),
            joining: BTreeMap::new(),
        };
        self.process = Some(process);
        env.note(format_args!("{} starts, folding as version {}", self.name(), self.program));
        self.set(env, 1, Alarm::Begin);
    }

    pub(super) fn kill(&mut self, now: Timestamp) {
        if self.process.take().is_some() {
            self.killed_at = now;
        }
        self.paused = None;
    }

    /// NATS is gone, and the connection with it.
    pub(super) fn is_disconnected(&mut self, now: Timestamp) {
        if let Some(process) = &mut self.process {
            process.lost_connection_at = Some(now);
        }
    }

    /// Whether that run of it was over at `at`.
    pub(super) fn was_killed_before(&self, run: Run, at: Timestamp) -> bool {
        let is_over = run != self.run || self.process.is_none();
        is_over && self.killed_at < at
    }

    /// Its database is removed, as after a rollback.
    pub(super) fn forget_rows(&mut self) {
        self.rows = Rows::default();
    }

    /// Stops deciding, for good and loudly.
    fn halt(&mut self, env: &mut Env, why: String) {
        env.note(format_args!("{} halts: {why}", self.name()));
        if let Some(process) = &mut self.process {
            process.halted.get_or_insert(why);
        }
    }

    pub(super) fn receive(&mut self, env: &mut Env, nats: &Nats, audit: &mut Audit, message: Message) {
        match message {
            Message::Ends(ends) => self.begin(env, nats, ends),
            Message::Ticked { ends, holds, folded, at } => self.ticked(env, (ends, at), holds, folded),
            Message::News => {
                if let Some(process) = &mut self.process {
                    process.is_news_due = false;
                }
                self.follow(env, nats, audit);
            }
            Message::Appended { call, result } => self.answered(env, call, result),
            Message::Standing { found, end } => self.standing_read(env, found, end),
            Message::Command { command, event_id } => self.execute(env, *command, event_id),
            Message::JoinWish(wish) => self.join_wish(env, wish),
            Message::Alarm(alarm) => self.ring(env, alarm),
            Message::Acknowledged { .. }
            | Message::Stored(_)
            | Message::Parts { .. }
            | Message::Told(_)
            | Message::LookNow
            | Message::Joined { .. } => unreachable!("a replica is not told what workers are"),
        }
    }

    fn ring(&mut self, env: &mut Env, alarm: Alarm) {
        match alarm {
            Alarm::Begin => self.try_to_begin(env),
            Alarm::Tick => self.tick(env),
            Alarm::Judge => self.look_at_servers(env),
            Alarm::Plan => self.planner_wakes(env),
            Alarm::CallLate(call) => self.call_late(env, call),
            Alarm::Connected => self.hear_of_news(env),
            Alarm::Heartbeat
            | Alarm::Look
            | Alarm::Join
            | Alarm::JoinLate
            | Alarm::Dial(..)
            | Alarm::Keyframe(..)
            | Alarm::LeaseEnds
            | Alarm::LeaseLook
            | Alarm::ReportLate(_) => unreachable!("a replica sets none of a worker's alarms"),
        }
    }

    fn try_to_begin(&mut self, env: &mut Env) {
        if self.process.as_ref().is_some_and(|process| process.began_at.is_none()) {
            self.ask(env, Request::Ends);
            self.set(env, 500, Alarm::Begin);
        }
    }

    /// The ends of the log streams are known: the fold begins, with a snapshot if there is one that fits.
    fn begin(&mut self, env: &mut Env, nats: &Nats, ends: Ends) {
        let Some(process) = &mut self.process else { return };
        if process.began_at.replace(ends).is_some() {
            return;
        }
        if let Some(why) = rows::rolled_back((self.rows.log, self.rows.recordings), ends) {
            return self.halt(env, why);
        }
        if let Some(state) = self.rows.snapshot(nats) {
            env.see(Seen::SnapshotUsed);
            env.note(format_args!("r{} begins with State at {}", self.index, state.position));
            let pace = Pace::of(&state.policy.liveness, state.fleet());
            process.observed.begin_with_pace(pace);
            for (server_id, server) in state.servers() {
                process.observed.came(server_id, server.version);
            }
            process.state = state;
        }
        if process.state.position >= ends.log {
            process.caught_up = true;
        }
        for (alarm, millis) in [(Alarm::Tick, 5), (Alarm::Judge, 200), (Alarm::Plan, 20)] {
            self.set(env, millis, alarm);
        }
        self.hear_of_news(env);
    }

    /// Lets it look at the log streams soon.
    pub(super) fn hear_of_news(&mut self, env: &mut Env) {
        let slow_ms = self.slow_ms;
        let Some(process) = &mut self.process else { return };
        if !process.is_news_due && process.began_at.is_some() {
            process.is_news_due = true;
            let micros = env.latency() + slow_ms * 1_000;
            let (to, run) = (Party::Replica(self.index), self.run);
            env.after_micros(micros, Happening::Message { to, run, message: Message::News });
        }
    }

    /// Folds what is new in the log streams.
    fn follow(&mut self, env: &mut Env, nats: &Nats, audit: &mut Audit) {
        if !nats.is_up || !self.link.from_nats {
            return;
        }
        let Some(after) = self.process.as_ref().map(|process| process.state.position) else { return };
        let mut is_new = false;
        for record in nats.behind(LogStream::Log, after) {
            if self.process.as_ref().is_none_or(|process| process.halted.is_some()) {
                break;
            }
            self.fold(env, audit, &record);
            is_new = true;
        }
        for record in nats.behind(LogStream::Recordings, self.rows.recordings) {
            is_new |= self.rows.report(&record);
        }
        self.follow_heartbeats(nats);
        if is_new {
            self.folded(env, audit);
        }
    }

    fn fold(&mut self, env: &mut Env, audit: &Audit, record: &Stored) {
        let (name, program, is_exempt) = (self.name(), self.program, self.is_before_rollback);
        if let Event::VersionRequired(required) = &record.event
            && required.fold_version > program
        {
            env.see(Seen::OldProgramHalted);
            let why =
                format!("from {} on the log requires version {}", record.position, required.fold_version);
            return self.halt(env, why);
        }
        let Some(process) = &mut self.process else { return };
        let folded = fold::apply(&mut process.state, record.position, record.stored_at, &record.event);
        if let Err(error) = folded {
            if !is_exempt {
                env.broken(Invariant::FoldGoesOn, format!("{name}: {error}"));
            }
            return self.halt(env, error.to_string());
        }
        if !is_exempt {
            audit.check_replica(env, &name, &process.state);
        }
        let pace = Pace::of(&process.state.policy.liveness, process.state.fleet());
        if pace != process.observed.pace() {
            process.observed.set_pace(pace, record.position);
        }
        if let Event::ServerAdded(ServerAdded { server_id, .. })
        | Event::ServerJoined(ServerJoined { server_id, .. })
        | Event::ServerAdopted(ServerAdopted { server_id })
        | Event::ServerReturned(ServerReturned { server_id, .. }) = &record.event
        {
            process.observed.came(*server_id, record.position);
        }
        self.rows.folded(record);
    }

    fn follow_heartbeats(&mut self, nats: &Nats) {
        let Some(process) = &mut self.process else { return };
        let Some(began_at) = process.began_at.filter(|_| process.caught_up || process.halted.is_some())
        else {
            return;
        };
        if process.heartbeats == Position::START
            && let Some(newest) = nats.get(LogStream::Heartbeats, began_at.heartbeats)
        {
            let back_ms = LEASES_AT_START * i64::from(process.observed.pace().lease_ms);
            let from = nats.since(LogStream::Heartbeats, newest.stored_at.plus_millis(-back_ms));
            process.heartbeats = from;
        }
        for record in nats.behind(LogStream::Heartbeats, process.heartbeats) {
            process.heartbeats = record.position;
            if let Event::ServerHeartbeat(heartbeat) = &record.event {
                process.observed.heartbeat(heartbeat, record.position, record.stored_at);
            } else if let Event::ControlTicked(tick) = &record.event {
                process.observed.tick_of_control(tick.folded, record.stored_at);
            }
        }
        if process.heartbeats >= began_at.heartbeats {
            process.observed.go_live();
        }
    }

    /// State or rows are newer: whoever waits for that goes on.
    fn folded(&mut self, env: &mut Env, audit: &mut Audit) {
        let Some(process) = &mut self.process else { return };
        let position = process.state.position;
        if !process.caught_up && process.began_at.is_some_and(|ends| position >= ends.log) {
            process.caught_up = true;
            env.note(format_args!("r{} has caught up at {position}", self.index));
        }
        process.judging.retain(|_, written| written.is_none_or(|at| at > position));
        let done: Vec<_> = process.written.iter().copied().filter(|(_, at)| *at <= position).collect();
        process.written.retain(|(_, at)| *at > position);
        if !self.is_before_rollback {
            done.into_iter().for_each(|(event_id, at)| audit.acknowledged(event_id, at));
        }
        self.ensure_default_tenant(env);
        self.joins_go_on(env);
        self.planner_goes_on(env);
    }

    fn ensure_default_tenant(&mut self, env: &mut Env) {
        let Some(process) = self.process.as_ref().filter(|process| process.decides()) else { return };
        let is_under_way = process.calls.values().any(|call| matches!(call.purpose, Purpose::DefaultTenant));
        if is_under_way || process.state.tenant(TenantId::DEFAULT).is_some() {
            return;
        }
        let command = Command::CreateTenant {
            tenant_id: TenantId::DEFAULT,
            name: "Default".to_owned(),
            data_key: WrappedKey { provider: "simulated".to_owned(), bytes: Base64Bytes(vec![1]) },
        };
        if let Ok(decided) = command::decide(&process.state, command) {
            let draft = self.draft(env, decided.event, Some(decided.expected_last));
            self.call(env, Purpose::DefaultTenant, vec![draft]);
        }
    }

    fn draft(&self, env: &mut Env, event: Event, expected_last: Option<Position>) -> Draft {
        let ends = self.process.as_ref().map(|process| (process.state.position, process.heartbeats));
        let (folded, heard) = ends.unwrap_or_default();
        Draft { id: env.event_id(), event, time: env.now, expected_last, folded, heard }
    }

    /// A sign of life, which lets the log's clock run, and a look at whether the log is still the one that was folded.
    fn tick(&mut self, env: &mut Env) {
        self.set(env, i64::from(TICK_MS), Alarm::Tick);
        let Some(process) = &self.process else { return };
        let (boot_id, folded) = (process.boot_id, process.state.position);
        if env.random.percent(2) {
            self.rows.save_snapshot_of(&process.state);
        }
        let draft = self.draft(env, Event::ControlTicked(ControlTicked { boot_id, folded }), None);
        let folded = (self.rows.log, self.rows.recordings);
        self.ask(env, Request::Tick { draft: Box::new(draft), folded });
        self.ensure_default_tenant(env);
    }

    /// Who plans is asked in the name of this run of the process.
    pub(super) fn boot_id(&self) -> Option<BootId> {
        self.process.as_ref().map(|process| process.boot_id)
    }

    fn ticked(
        &mut self,
        env: &mut Env,
        (ends, at): (Ends, Timestamp),
        holds: bool,
        folded: (Position, Position),
    ) {
        let rolled_back = rows::rolled_back(folded, ends);
        let Some(process) = &mut self.process else { return };
        process.lease_answered_at = at;
        process.leads = holds;
        if let Some(lost_at) = process.lost_connection_at.take_if(|lost_at| at > *lost_at) {
            process.observed.connected_anew(at.millis_since(lost_at));
        }
        if let Some(why) = rolled_back
            && process.halted.is_none()
        {
            env.see(Seen::RollbackNoticed);
            self.halt(env, why);
        }
        self.hear_of_news(env);
    }

    /// Appends for `purpose`. In the middle of that the process may come to harm.
    fn call(&mut self, env: &mut Env, purpose: Purpose, drafts: Vec<Draft>) {
        let Some(process) = &mut self.process else { return };
        process.made_calls += 1;
        let number = process.made_calls;
        process.calls.insert(number, Call { purpose, drafts: Rc::new(drafts), tries: 1 });
        self.send_call(env, number);
    }

    fn send_call(&mut self, env: &mut Env, number: u64) {
        let Some(call) = self.process.as_ref().and_then(|process| process.calls.get(&number)) else { return };
        let drafts = Rc::clone(&call.drafts);
        let (mut delay_ms, ms) = (0, env.random.spread(100, 30_000));
        // Judgements are few, and it is a judgement that grows old.
        let percent = if matches!(call.purpose, Purpose::Judgement) { 25 } else { 2 };
        if self.doom.is_some() {
            // One harm at a time.
        } else if env.strikes(Fault::PauseBeforeAppend, percent) {
            env.see(Seen::PausedBeforeAppend);
            self.doom = Some(Doom::Pause { ms });
            delay_ms = ms;
        } else if env.strikes(Fault::PauseBeforeFold, 2) {
            env.see(Seen::PausedBeforeFold);
            self.doom = Some(Doom::Pause { ms });
        } else if env.strikes(Fault::KillBeforeAppend, 1) {
            env.see(Seen::KilledBeforeAppend);
            self.doom = Some(Doom::Kill { ms });
            return;
        } else if env.strikes(Fault::KillBeforeFold, 1) {
            env.see(Seen::KilledBeforeFold);
            self.doom = Some(Doom::Kill { ms });
        }
        let request = Request::Append { call: number, drafts, sent_at: env.now.plus_millis(delay_ms) };
        let (from, run, micros) = (Party::Replica(self.index), self.run, env.latency());
        env.after_micros(delay_ms * 1_000 + micros, Happening::Request { from, run, request });
        self.set(env, ANSWER_WITHIN_MS, Alarm::CallLate(number));
    }

    fn call_late(&mut self, env: &mut Env, number: u64) {
        let Some(call) = self.process.as_mut().and_then(|process| process.calls.get_mut(&number)) else {
            return;
        };
        // A judgement is made anew rather than said later.
        if call.tries < TRIES && !matches!(call.purpose, Purpose::Judgement) {
            call.tries += 1;
            self.send_call(env, number);
        } else {
            self.answered(env, number, Err(Refused::Unavailable));
        }
    }

    fn answered(&mut self, env: &mut Env, number: u64, result: Result<Position, Refused>) {
        let Some(process) = &mut self.process else { return };
        let Some(Call { purpose, drafts, .. }) = process.calls.remove(&number) else { return };
        match purpose {
            Purpose::Plan { basis, last_plan } => self.plan_answered(env, basis, last_plan, result),
            Purpose::Judgement => self.judgement_answered(env, (number, drafts), result),
            Purpose::Publication { server_id, revision, folded, pace } => {
                self.set_answered(env, server_id, (revision, folded, pace), result);
            }
            Purpose::Command { command, event_id } => match result {
                Ok(position) => process.written.push((event_id, position)),
                Err(Refused::Unavailable) => {
                    env.after(2_000, Happening::TryAgain { command, event_id });
                }
                Err(Refused::Conflict | Refused::Torn) => env.see(Seen::CommandConflict),
            },
            Purpose::Join { worker } => self.join_answered(env, worker, result),
            Purpose::DefaultTenant => {}
        }
        self.hear_of_news(env);
    }

    /// Carries out a command. Trying again with the same id cannot carry it out twice.
    fn execute(&mut self, env: &mut Env, command: Command, event_id: EventId) {
        let Some(process) = self.process.as_ref().filter(|process| process.decides()) else { return };
        match command::decide(&process.state, command.clone()) {
            Ok(decided) => {
                env.note(format_args!("{} decides {}", self.name(), operator::name(&command)));
                let draft = self.draft(env, decided.event, Some(decided.expected_last));
                let purpose = Purpose::Command { command: Box::new(command), event_id };
                self.call(env, purpose, vec![Draft { id: event_id, ..draft }]);
            }
            Err(refusal) => {
                env.see(Seen::CommandRefused);
                env.note(format_args!("{} refuses {}: {refusal}", self.name(), operator::name(&command)));
            }
        }
    }
}
