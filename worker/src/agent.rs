//! The worker's shell: joins everything, decides nothing.
//!
//! What happens at a start, in this order: take the archive, find out who this is, repair what the last run left,
//! record what the last assignments say; only then speak to anybody. Two things never wait for NATS or control: the
//! recordings, and the facts about them becoming durable in the outbox.

use std::future::Future;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use longwatch_events::envelope::Envelope;
use longwatch_events::event::{Event, Load, ServerHeartbeat};
use longwatch_events::fact::{Cause, Fact};
use longwatch_events::id::{BootId, EventId, ServerId, SystemIds};
use longwatch_events::join::JoinClaim;
use longwatch_events::position::Position;
use longwatch_events::time::{Clock, SystemClock};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::archive::Archive;
use crate::bus::{self, Bus};
use crate::camera::{STOP_LIMIT, Settings};
use crate::config::Config;
use crate::identity::{self, Home, Identity, Unsaved};
use crate::load::Meter;
use crate::outbox::{self, Outbox};
use crate::retry::Retry;
use crate::rotation::Lengths;
use crate::source::address::AddressPolicy;

mod assignments;
mod desired;
mod leftovers;
mod membership;
mod recorders;
mod reporting;
mod told;

use assignments::Store;
use desired::DesiredSet;
use leftovers::Leftovers;
use membership::Standing;
use recorders::{Counts, Means, Recorders};
use reporting::Gatherer;
use told::Told;

/// File operations on the archive at once.
const PARALLEL_WRITES: usize = 16;
/// How long stopped cameras may take; each gives up by itself after [`STOP_LIMIT`].
const CAMERAS_LIMIT: Duration = STOP_LIMIT.saturating_add(Duration::from_secs(1));
/// How long the last facts may take to the disk, and then to the log.
const FLUSH_LIMIT: Duration = Duration::from_secs(3);
/// Before a part of the worker that failed by a bug begins again, at first and at most.
const AFTER_BUG: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Bounds of the heartbeat's interval, whatever control says.
const HEARTBEAT_MS: (u32, u32) = (100, 60_000);

/// Why a worker cannot work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be who it is.
    #[error(transparent)]
    Identity(#[from] identity::Error),
    /// It cannot keep facts.
    #[error(transparent)]
    Outbox(#[from] outbox::Error),
    /// It was told nonsense about NATS.
    #[error(transparent)]
    Bus(#[from] bus::Error),
    /// A bug.
    #[error("the start failed by a bug")]
    Aborted,
    /// A bug: recording would look healthy, and nobody would ever hear of it.
    #[error("the part of the worker that keeps facts ended by a bug; the next start reports what is missing")]
    FactsNotKept,
}

/// What a start finds on the disk.
struct Found {
    home: Home,
    identity: Identity,
    leftovers: Leftovers,
    store: Store,
    last: Option<DesiredSet>,
}

/// Takes the archive and what is needed to record. Blocks.
fn find(config: &Config) -> Result<Found, Error> {
    let home = Home::take(&config.archive)?;
    let identity = Identity::load_or_create(&home)?;
    let leftovers = leftovers::find(&config.archive, &home, &SystemClock);
    let store = Store::new(home.path("assignments.json"), home.path("unreadable"));
    let last = identity.membership().and_then(|membership| store.load(membership.server_id));
    Ok(Found { home, identity, leftovers, store, last })
}

/// Everything that runs beside the cameras.
struct Tasks {
    /// Facts to the disk; ends when nobody can make facts any more.
    gathering: JoinHandle<()>,
    /// Facts to the log.
    sending: JoinHandle<()>,
    /// Lets `sending` end once nothing waits.
    drain: CancellationToken,
    /// What is not missed at the end.
    helpers: JoinSet<()>,
    sets: mpsc::Receiver<DesiredSet>,
}

/// Records until `stop` is cancelled; then closes what is open, reports what can be reported, and returns.
///
/// # Errors
///
/// If it cannot begin at all. Once it has begun, nothing ends it but `stop`, or [`Error::FactsNotKept`].
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), Error> {
    // Begins to connect and returns at once: only what is plain wrong is found out here.
    let bus = Bus::connect(&config.nats, config.nats_credentials.as_deref(), &config.name).await?;
    let config = Arc::new(config);
    let finding = Arc::clone(&config);
    let found = blocking(move || find(&finding)).await??;
    let (mut agent, mut tasks) = start(&config, found, bus, &stop).await?;
    let worked = agent.work(&mut tasks, &stop).await;
    tracing::info!("stopping");
    // Those who only wait for `stop` must end in any case.
    stop.cancel();
    agent.finish(tasks, worked.is_ok()).await;
    worked
}

/// Starts the cameras that were recorded last, then everything else.
async fn start(
    config: &Config,
    found: Found,
    bus: Bus,
    stop: &CancellationToken,
) -> Result<(Agent, Tasks), Error> {
    let Found { home, identity, leftovers, store, last } = found;
    let (clock, boot_id): (Arc<dyn Clock>, _) = (Arc::new(SystemClock), BootId::generate(&SystemIds));
    tracing::info!(name = config.name, %boot_id, ?identity, "worker started");
    let (facts, facts_out) = mpsc::unbounded_channel();
    let Leftovers { facts: left, resume, doubt } = leftovers;
    let told = Arc::new(Told::new(home.path(told::FILE)));
    left.into_iter().for_each(|fact| facts.send(fact).expect("invariant: the receiver is right here"));
    let mut recorders =
        Recorders::new(means(config, facts.clone(), Arc::clone(&told), Arc::clone(&clock)), resume);
    let known = identity.membership().map(|membership| membership.server_id).zip(last);
    if let Some((server_id, last)) = &known {
        tracing::info!(revision = %last.revision, cameras = last.cameras.len(), "recording as last told");
        recorders.apply(*server_id, &last.cameras, &identity);
    }

    // Much may wait in it after a long outage; the cameras are running already.
    let folder = home.path("outbox");
    let outbox = Arc::new(blocking(move || Outbox::open(folder)).await??);
    let (standing, standing_out) = watch::channel(Standing::remembered(identity.membership()));
    let gatherer = Gatherer {
        outbox: Arc::clone(&outbox),
        standing: standing_out.clone(),
        boot_id,
        clock: Arc::clone(&clock),
        told: Arc::clone(&told),
    };
    let (drain, mut helpers) = (CancellationToken::new(), JoinSet::new());
    let (sets, sets_out) = mpsc::channel(4);
    let newest = known.as_ref().map(|(server_id, last)| (*server_id, last.revision));
    let (claim, key_file) = (claim(config, &identity, boot_id), config.join_key_file.clone());
    let (joining, following) = (bus.clone(), (bus.clone(), standing_out.clone()));
    helpers.spawn(in_spite_of_bugs("joining", move || {
        membership::keep(joining.clone(), claim.clone(), key_file.clone(), standing.clone())
    }));
    helpers.spawn(in_spite_of_bugs("learning what to record", move || {
        let (bus, standing) = following.clone();
        assignments::follow(bus, store.clone(), standing, newest, sets.clone())
    }));
    let (unsaved, unsaved_out) = mpsc::unbounded_channel();
    helpers.spawn(save_identities(unsaved_out));
    let (archive, leaving, catching_up) = (config.archive.clone(), stop.clone(), Arc::clone(&told));
    helpers.spawn_blocking(move || {
        if leftovers::report_again(&archive, doubt, &facts, &leaving) {
            catching_up.catch_up();
        }
    });
    let (sending, draining) = ((Arc::clone(&outbox), bus.clone()), drain.clone());
    let tasks = Tasks {
        gathering: tokio::spawn(gatherer.run(facts_out)),
        sending: tokio::spawn(in_spite_of_bugs("reporting facts", move || {
            let (outbox, bus) = sending.clone();
            reporting::send(outbox, bus, draining.clone())
        })),
        drain,
        helpers,
        sets: sets_out,
    };
    let interval_ms = known.map_or(membership::DEFAULT_HEARTBEAT_MS, |(_, last)| last.heartbeat_interval_ms);
    let agent = Agent {
        home,
        boot_id,
        clock,
        recorders,
        told,
        meter: Meter::new(config.archive.clone()),
        outbox,
        bus,
        standing: standing_out,
        identity,
        unsaved,
        applied: newest.map_or(Position::START, |(_, revision)| revision),
        sequence: 0,
        interval: heartbeat_interval(interval_ms),
    };
    Ok((agent, tasks))
}

fn means(
    config: &Config,
    facts: mpsc::UnboundedSender<Fact>,
    told: Arc<Told>,
    clock: Arc<dyn Clock>,
) -> Means {
    let lengths = Lengths { segment_ms: config.segment_ms, ..Lengths::default() };
    Means {
        archive: Archive::new(config.archive.clone(), PARALLEL_WRITES),
        facts,
        told,
        clock,
        settings: Settings { lengths, ..Settings::default() },
        policy: AddressPolicy::new(config.rtsp_allow.clone()),
    }
}

fn claim(config: &Config, identity: &Identity, boot_id: BootId) -> JoinClaim {
    JoinClaim {
        name: config.name.clone(),
        public_key: identity.public_key(),
        boot_id,
        labels: config.labels.clone(),
        capacity: config.capacity,
    }
}

/// Runs what blocks where it may.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Aborted)
}

/// Runs `work` to its end; begins it again if it panics. Recordings go on meanwhile with what they were told last.
async fn in_spite_of_bugs<F: Future<Output = ()>>(what: &'static str, mut work: impl FnMut() -> F) {
    let mut retry = Retry::new(AFTER_BUG.0, AFTER_BUG.1);
    // What `work` shares with others is behind locks and channels that a panic leaves usable.
    while AssertUnwindSafe(work()).catch_unwind().await.is_err() {
        let wait = retry.failed(rand::random());
        tracing::error!(what, again_in_ms = wait.as_millis(), "a part of the worker failed by a bug");
        tokio::time::sleep(wait).await;
    }
}

/// Saves identities one after the other, so that the newest is the one that stays.
async fn save_identities(mut unsaved: mpsc::UnboundedReceiver<Unsaved>) {
    while let Some(unsaved) = unsaved.recv().await {
        if let Err(error) = blocking(move || unsaved.save()).await.and_then(|saved| Ok(saved?)) {
            tracing::error!(%error, "cannot remember which server this is");
        }
    }
}

/// Whether `task` ended as it should within [`FLUSH_LIMIT`].
async fn bounded(otherwise: &'static str, task: JoinHandle<()>) -> bool {
    match tokio::time::timeout(FLUSH_LIMIT, task).await {
        Ok(Ok(())) => return true,
        Ok(Err(error)) => tracing::error!(%error, "{otherwise}"),
        Err(_) => tracing::warn!("{otherwise}"),
    }
    false
}

/// Writes a note, which must not keep the process from ending.
async fn note_within(limit: Duration, leave: impl FnOnce() -> io::Result<()> + Send + 'static) {
    let error = match tokio::time::timeout(limit, blocking(leave)).await {
        Ok(Ok(Ok(()))) => return,
        Ok(Ok(Err(error))) => error.to_string(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("the disk did not answer within {} s", limit.as_secs()),
    };
    tracing::error!(error, "cannot note the clean stop; the next start takes it for a crash");
}

/// One worker, at work.
struct Agent {
    home: Home,
    boot_id: BootId,
    clock: Arc<dyn Clock>,
    recorders: Recorders,
    told: Arc<Told>,
    meter: Meter,
    outbox: Arc<Outbox>,
    bus: Bus,
    standing: watch::Receiver<Standing>,
    identity: Identity,
    /// Identities on their way to the disk.
    unsaved: mpsc::UnboundedSender<Unsaved>,
    /// The revision of the set that is in force.
    applied: Position,
    /// Of the last heartbeat.
    sequence: u64,
    /// Between two heartbeats.
    interval: Duration,
}

impl Agent {
    /// Does what comes, until `stop` is cancelled.
    ///
    /// # Errors
    ///
    /// [`Error::FactsNotKept`] if the gathering task ended, which it does by a bug only.
    async fn work(&mut self, tasks: &mut Tasks, stop: &CancellationToken) -> Result<(), Error> {
        let mut next_heartbeat = Instant::now();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                ended = &mut tasks.gathering => {
                    tracing::error!(error = ?ended.err(), "nobody keeps facts any more; ending, to be started again");
                    return Err(Error::FactsNotKept);
                }
                Ok(()) = self.standing.changed() => {
                    self.take_standing();
                    next_heartbeat = Instant::now();
                }
                Some(set) = tasks.sets.recv() => self.apply(&set),
                () = tokio::time::sleep_until(next_heartbeat) => {
                    self.heartbeat().await;
                    next_heartbeat = next_after(next_heartbeat, self.interval);
                }
                () = self.recorders.next_ended(&self.identity) => {}
                Some(Err(error)) = tasks.helpers.join_next() => {
                    tracing::error!(%error, "a part of the worker failed by a bug");
                }
            }
        }
    }

    /// Takes note of what control says this worker is.
    fn take_standing(&mut self) {
        let standing = *self.standing.borrow_and_update();
        match standing {
            Standing::Unknown => {}
            Standing::Known { membership, heartbeat_interval_ms } => {
                self.interval = heartbeat_interval(heartbeat_interval_ms);
                if let Some(unsaved) = self.identity.remember(membership)
                    && self.unsaved.send(unsaved).is_err()
                {
                    tracing::error!("cannot remember which server this is: nobody saves it any more");
                }
            }
            Standing::Detached => {
                self.recorders.stop_all(Cause::Reassigned);
                self.applied = Position::START;
            }
        }
    }

    fn server_id(&self) -> Option<ServerId> {
        match *self.standing.borrow() {
            Standing::Known { membership, .. } => Some(membership.server_id),
            Standing::Unknown | Standing::Detached => None,
        }
    }

    fn apply(&mut self, set: &DesiredSet) {
        // A set may still be on its way when the answer comes that this server is detached.
        let Some(server_id) = self.server_id() else { return };
        tracing::info!(revision = %set.revision, cameras = set.cameras.len(), "assignments applied");
        self.recorders.apply(server_id, &set.cameras, &self.identity);
        self.interval = heartbeat_interval(set.heartbeat_interval_ms);
        self.applied = set.revision;
    }

    /// Ends everything that runs, each thing only after what feeds it, and notes a clean end: one after which every
    /// segment on the disk is in a fact that is durable. `gathering`: whether facts are still being gathered.
    async fn finish(self, tasks: Tasks, gathering: bool) {
        let mut helpers = tasks.helpers;
        helpers.abort_all();
        let breaks = self.recorders.finish(CAMERAS_LIMIT).await;
        let gathered =
            gathering && bounded("facts did not all reach the disk in time", tasks.gathering).await;
        tasks.drain.cancel();
        bounded("facts did not all reach the log in time; the next start sends them", tasks.sending).await;
        let held = self.outbox.held_facts();
        match breaks {
            Some(breaks) if gathered && held == 0 && self.told.is_whole() => {
                let (home, clock) = (self.home, self.clock);
                note_within(FLUSH_LIMIT, move || leftovers::leave_note(&home, &*clock, &breaks)).await;
            }
            Some(_) | None => {
                let told = self.told.is_whole();
                tracing::warn!(
                    gathered,
                    held,
                    told,
                    "not a clean stop; the next start reports what is missing"
                );
            }
        }
        tracing::info!(waiting_facts = self.outbox.waiting_facts(), "stopped");
    }

    async fn heartbeat(&mut self) {
        let Some(server_id) = self.server_id() else { return };
        self.sequence += 1;
        let event = Event::ServerHeartbeat(ServerHeartbeat {
            server_id,
            boot_id: self.boot_id,
            sequence: self.sequence,
            load: self.load().await,
        });
        let envelope = Envelope {
            id: EventId::generate(&SystemIds),
            source: format!("/server/{server_id}"),
            time: self.clock.now(),
            tenant: None,
            actor: format!("server:{server_id}"),
            causation: None,
            event,
        };
        self.bus.heartbeat(server_id, Bytes::from(envelope.encode())).await;
    }

    async fn load(&mut self) -> Load {
        let Counts { cameras, recording, unsettled } = self.recorders.counts();
        let sample = self.meter.sample(self.recorders.received_bytes()).await;
        Load {
            applied_revision: self.applied,
            cameras,
            recording,
            unsettled,
            received_bytes_per_s: sample.received_bytes_per_s,
            cpu_millicores: sample.cpu_millicores,
            memory_bytes: sample.memory_bytes,
            disk_free_bytes: sample.disk_free_bytes,
            disk_total_bytes: sample.disk_total_bytes,
            outbox_facts: self.outbox.waiting_facts() as u64,
        }
    }
}

fn heartbeat_interval(interval_ms: u32) -> Duration {
    Duration::from_millis(interval_ms.clamp(HEARTBEAT_MS.0, HEARTBEAT_MS.1).into())
}

/// When the next heartbeat is due. One that is late, because the process was held up, is not made up for.
fn next_after(due: Instant, interval: Duration) -> Instant {
    (due + interval).max(Instant::now())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LogFormat;
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[tokio::test(start_paused = true)]
    async fn a_part_that_panics_begins_again_until_it_ends() {
        let begun = AtomicU32::new(0);
        in_spite_of_bugs("a test", || async {
            assert!(begun.fetch_add(1, Ordering::Relaxed) >= 3, "a bug of this test");
        })
        .await;
        assert_eq!(begun.into_inner(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_heartbeat_is_not_made_up_for() {
        let (due, interval) = (Instant::now(), Duration::from_secs(1));
        assert_eq!(next_after(due, interval), due + interval);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(next_after(due, interval), Instant::now());
        assert_eq!(heartbeat_interval(0), Duration::from_millis(100));
    }

    /// A worker without cameras and without NATS, after its start.
    async fn started(archive: &tempfile::TempDir) -> (Agent, Tasks) {
        let config = Config {
            nats: vec!["nats://127.0.0.1:1".into()],
            name: "test".into(),
            archive: archive.path().into(),
            join_key_file: archive.path().join("no_key"),
            nats_credentials: None,
            capacity: longwatch_events::settings::Capacity::default(),
            labels: BTreeMap::new(),
            rtsp_allow: Vec::new(),
            segment_ms: 60_000,
            log_format: LogFormat::Human,
            log_filter: String::new(),
        };
        let bus = Bus::connect(&config.nats, None, "test").await.unwrap();
        let found = find(&config).unwrap();
        let started = start(&config, found, bus, &CancellationToken::new()).await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while !started.0.told.is_whole() {
            assert!(Instant::now() < deadline, "it never caught up");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        started
    }

    fn noted(archive: &tempfile::TempDir) -> bool {
        archive.path().join(".longwatch/clean_stop.json").exists()
    }

    #[tokio::test]
    async fn a_stop_is_clean_only_if_nothing_was_lost() {
        let archive = tempfile::tempdir().unwrap();
        let (agent, tasks) = started(&archive).await;
        agent.finish(tasks, true).await;
        assert!(noted(&archive));
        let (agent, tasks) = started(&archive).await;
        assert!(!noted(&archive));
        agent.told.lose();
        agent.finish(tasks, true).await;
        assert!(!noted(&archive));
    }

    #[tokio::test]
    async fn a_worker_that_keeps_no_facts_ends_and_leaves_no_note() {
        let archive = tempfile::tempdir().unwrap();
        let (mut agent, mut tasks) = started(&archive).await;
        tasks.gathering.abort();
        tasks.gathering = tokio::spawn(async { panic!("a bug of this test") });
        let stop = CancellationToken::new();
        let worked = tokio::time::timeout(Duration::from_secs(10), agent.work(&mut tasks, &stop));
        assert!(matches!(worked.await.expect("it ends"), Err(Error::FactsNotKept)));
        agent.finish(tasks, false).await;
        assert!(!noted(&archive));
    }

    #[tokio::test]
    async fn a_disk_that_hangs_does_not_keep_a_stop_from_ending() {
        let (release, hung) = std::sync::mpsc::channel::<()>();
        let began = Instant::now();
        note_within(Duration::from_millis(50), move || hung.recv().map_err(io::Error::other)).await;
        assert!(began.elapsed() < Duration::from_secs(5));
        drop(release);
    }
}
