//! The worker's shell: joins everything, decides nothing.
//!
//! What happens at a start, in this order: take the archive, find out who this is, repair what the last run left,
//! record what the last assignments say; only then speak to anybody. Two things never wait for NATS or control: the
//! recordings, and the facts about them becoming durable in the outbox.

use std::future::Future;
use std::io;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use longwatch_events::event::{Load, Scrub, Spool, Storage, StoreRetention};
use longwatch_events::fact::{Cause, Fact};
use longwatch_events::id::{BootId, ServerId, SystemIds};
use longwatch_events::join::JoinClaim;
use longwatch_events::position::Position;
use longwatch_events::time::{Clock, SystemClock};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::archive::Archive;
use crate::archive::s3;
use crate::archive::volume;
use crate::bus::{self, Bus, Link};
use crate::camera::{STOP_LIMIT, Settings};
use crate::config::Config;
use crate::dials::{self, Dials};
use crate::holds;
use crate::identity::{self, Home, Identity, Unsaved};
use crate::lease::Lease;
use crate::load::Meter;
use crate::outbox::{self, Outbox};
use crate::retry::Retry;
use crate::rotation::Lengths;
use crate::source::address::AddressPolicy;
use crate::source::tls::Trust;
use crate::tick::Ticks;

mod assignments;
mod claims;
pub mod desired;
mod ends;
mod found;
mod giving_out;
pub use janitor::Bounds;
pub use scrubber::Scrubbing;
mod heartbeats;
mod janitor;
mod keeper;
mod kept;
mod leftovers;
mod membership;
mod recorders;
mod reported;
mod reporting;
mod scrubber;
mod told;
mod triggers;
mod uploads;
mod volumes;
mod which_store;

use assignments::Learnt;
use claims::Claims;
use desired::DesiredSet;
use found::{Found, ObjectStore};
use giving_out::MediaKeys;
use heartbeats::Heartbeats;
use kept::Kept;
use leftovers::Leftovers;
use membership::Standing;
use recorders::{Counts, Means, Recorders};
use reported::Reported;
use reporting::Gatherer;
use told::Told;
use triggers::{Ask, Listener, Triggers};

/// Threads that write to the archive.
const DISK_THREADS: usize = 8;
/// How long stopped cameras may take; each gives up by itself after [`STOP_LIMIT`].
const CAMERAS_LIMIT: Duration = STOP_LIMIT.saturating_add(Duration::from_secs(1));
/// How long the last facts may take to the disk, and then to the log.
const FLUSH_LIMIT: Duration = Duration::from_secs(3);
/// Before a part of the worker that failed by a bug begins again, at first and at most.
const AFTER_BUG: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Why a worker cannot work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be who it is.
    #[error(transparent)]
    Identity(#[from] identity::Error),
    /// Its archive is no volume.
    #[error(transparent)]
    Volume(#[from] volume::Error),
    /// It cannot remember what it deletes.
    #[error("cannot open the list of deletions {}: {source}", .path.display())]
    Tombs {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It cannot keep facts.
    #[error(transparent)]
    Outbox(#[from] outbox::Error),
    /// It was told nonsense of its object store.
    #[error(transparent)]
    ObjectStore(#[from] s3::Error),
    /// There is no room for the threads that write to the disk.
    #[error("cannot start the threads that write to the disk: {0}")]
    Threads(#[source] io::Error),
    /// It was told nonsense about NATS.
    #[error(transparent)]
    Bus(#[from] bus::Error),
    /// There is nowhere left to record to.
    #[error("all volumes failed; ending, so that other servers take the cameras")]
    NoVolume,
    /// A bug.
    #[error("the start failed by a bug")]
    Aborted,
    /// A bug: recording would look healthy, and nobody would ever hear of it.
    #[error("the part of the worker that keeps facts ended by a bug; the next start reports what is missing")]
    FactsNotKept,
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
    learnt: mpsc::Receiver<Learnt>,
    /// What is asked for events.
    asks: mpsc::Receiver<Ask>,
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
    let found = blocking(move || Found::find(&finding)).await??;
    let (mut agent, mut tasks) = start(&config, found, bus, &stop).await?;
    let worked = agent.work(&mut tasks, &stop).await;
    tracing::info!("stopping");
    // Those who only wait for `stop` must end in any case.
    stop.cancel();
    agent.finish(tasks, !matches!(worked, Err(Error::FactsNotKept))).await;
    worked
}

/// Starts the cameras that were recorded last, then everything else.
async fn start(
    config: &Config,
    found: Found,
    bus: Bus,
    stop: &CancellationToken,
) -> Result<(Agent, Tasks), Error> {
    let (clock, boot_id): (Arc<dyn Clock>, _) = (Arc::new(SystemClock), BootId::generate(&SystemIds));
    let (media_keys, media_key) = MediaKeys::new(found.identity.opener(), config.media.is_some());
    let (media_url, media_url_out) = watch::channel(None);
    let giving_out = giving_out::means(config, &found, media_key, Arc::clone(&clock))?;
    tracing::info!(name = config.name, %boot_id, identity = ?found.identity, "worker started");
    let (facts, facts_out) = mpsc::unbounded_channel();
    let Leftovers { facts: left, resume, doubt } = found.leftovers;
    let told = Arc::new(Told::new(found.home.path(told::FILE)));
    let triggers = Arc::new(found.triggers);
    left.into_iter().for_each(|fact| facts.send(fact).expect("invariant: the receiver is right here"));
    let known = found.identity.membership().map(|membership| membership.server_id).zip(found.last);
    let lease_ms = known.as_ref().and_then(|(_, last)| last.lease_ms).unwrap_or(membership::DEFAULT_LEASE_MS);
    let (lease, lease_out) = watch::channel(Lease::new(milliseconds(lease_ms)));
    let means = means(
        config,
        found.trust,
        found.archive.clone(),
        facts.clone(),
        (Arc::clone(&told), Arc::clone(&triggers)),
        Arc::clone(&clock),
        lease_out.clone(),
    );
    let mut recorders = Recorders::new(means, resume);
    if let Some((server_id, last)) = &known {
        tracing::info!(revision = %last.revision, cameras = last.cameras.len(), "recording as last told");
        recorders.apply(*server_id, &last.cameras, &found.identity);
    }

    // Much may wait in it after a long outage; the cameras are running already.
    let folder = found.home.path("outbox");
    let outbox = Arc::new(blocking(move || Outbox::open(folder)).await??);
    let (standing, standing_out) = watch::channel(Standing::remembered(found.identity.membership()));
    let (durable, durable_out) = found.object_store.as_ref().map(|_| mpsc::unbounded_channel()).unzip();
    let (kept, reported) = (Arc::new(found.kept), Arc::new(Reported::telling(durable)));
    let claims = Arc::new(Claims::default());
    let gatherer = Gatherer {
        outbox: Arc::clone(&outbox),
        standing: standing_out.clone(),
        boot_id,
        clock: Arc::clone(&clock),
        told: Arc::clone(&told),
        reported: Arc::clone(&reported),
    };
    let (drain, mut helpers) = (CancellationToken::new(), JoinSet::new());
    let (learnt, learnt_out) = mpsc::channel(4);
    let (last_told, newest) = (known.clone(), known.as_ref().map(|(_, last)| last.revision));
    let (claim, key_file) = (claim(config, &found.identity, boot_id), config.join_key_file.clone());
    let store = found.store;
    let (joining, following) = (bus.clone(), (bus.clone(), standing_out.clone(), lease_out));
    if let Some(settings) = config.media.clone() {
        let stopping = stop.clone();
        helpers.spawn(in_spite_of_bugs("giving out video", move || {
            giving_out::keep(settings.clone(), giving_out.clone(), media_url.clone(), stopping.clone())
        }));
    }
    helpers.spawn(in_spite_of_bugs("joining", move || {
        let (bus, claim, key_file) = (joining.clone(), claim.clone(), key_file.clone());
        membership::keep(bus, claim, key_file, standing.clone(), media_keys.clone())
    }));
    helpers.spawn(in_spite_of_bugs("learning what to record", move || {
        let (bus, standing, lease) = following.clone();
        assignments::follow(bus, store.clone(), standing, last_told.clone(), lease, learnt.clone())
    }));
    let (asks, asks_out) = mpsc::channel(4);
    let listener = Listener {
        bus: bus.clone(),
        triggers,
        outbox: Arc::clone(&outbox),
        boot_id,
        clock: Arc::clone(&clock),
        asks,
    };
    let listening = standing_out.clone();
    helpers.spawn(in_spite_of_bugs("listening to events", move || listener.clone().run(listening.clone())));
    let (storage, storage_out) = watch::channel(Storage::Ok);
    let (progress, scrub) = watch::channel(None);
    let control = Arc::new(scrubber::Control { bus: bus.clone(), opener: found.identity.opener() });
    let scrubber = scrubber::Means {
        knows: Arc::clone(&control),
        disks: scrubber::Disks {
            volumes: found.volumes.clone(),
            archive: found.archive.clone(),
            missing: found.missing,
        },
        begun: found.tombs.shown(),
        scrubbing: config.scrubbing,
        standing: standing_out.clone(),
        outbox: Arc::clone(&outbox),
        reported: Arc::clone(&reported),
        facts: facts.clone(),
        clock: Arc::clone(&clock),
        file: found.home.path(scrubber::FILE),
        progress,
    };
    helpers.spawn(scrubber::run(scrubber, stop.clone()));
    let (spool, spool_out) = watch::channel(Spool::default());
    let spool_out = found.object_store.is_some().then_some(spool_out);
    if let Some((ObjectStore { which, retention }, durable)) = found.object_store.zip(durable_out) {
        let retention = retention.map(|(tombs, every)| {
            let (retention, goes) = watch::channel(StoreRetention::Ok);
            let keeper = keeper::Means {
                stocks: control,
                which: Arc::clone(&which),
                every,
                tombs,
                holds: found.home.path(holds::FILE),
                standing: standing_out.clone(),
                outbox: Arc::clone(&outbox),
                reported: Arc::clone(&reported),
                facts: facts.clone(),
                clock: Arc::clone(&clock),
                retention,
            };
            helpers.spawn(keeper::run(keeper, stop.clone()));
            goes
        });
        let uploads = uploads::Means {
            which,
            retention,
            at_once: config.object_store.as_ref().map_or(1, |settings| settings.concurrency),
            roots: found.volumes.iter().map(|volume| Arc::clone(&volume.root)).collect(),
            claims: Arc::clone(&claims),
            reported: Arc::clone(&reported),
            told: Arc::clone(&told),
            facts: facts.clone(),
            clock: Arc::clone(&clock),
            ends: found.ends,
            spool,
        };
        helpers.spawn(uploads::run(uploads, durable, stop.clone()));
    }
    let janitor = janitor::Means {
        volumes: found.volumes,
        archive: found.archive.clone(),
        missing: found.missing,
        tombs: found.tombs,
        bounds: config.bounds,
        kept: Arc::clone(&kept),
        holds: found.home.path(holds::FILE),
        reported,
        claims,
        facts: facts.clone(),
        clock: Arc::clone(&clock),
        storage,
    };
    helpers.spawn(janitor::run(janitor, stop.clone()));
    let (unsaved, unsaved_out) = mpsc::unbounded_channel();
    helpers.spawn(save_identities(unsaved_out));
    let (leaving, catching_up) = (stop.clone(), Arc::clone(&told));
    helpers.spawn_blocking(move || {
        if leftovers::report_again(doubt, &facts, &leaving) {
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
        learnt: learnt_out,
        asks: asks_out,
    };
    let interval_ms = known.map_or(membership::DEFAULT_HEARTBEAT_MS, |(_, last)| last.heartbeat_interval_ms);
    let (link, meter_clock) = (bus.link(), Arc::clone(&clock));
    let agent = Agent {
        home: found.home,
        _held: found.held,
        heartbeats: Heartbeats::new(
            bus,
            boot_id,
            Arc::clone(&clock),
            lease.clone(),
            interval_ms,
            media_url_out.clone(),
        ),
        media_url: media_url_out,
        clock,
        recorders,
        told,
        meter: Meter::new(found.archive.clone(), meter_clock),
        kept,
        storage: storage_out,
        scrub,
        spool: spool_out,
        failures: found.archive.failures(),
        archive: found.archive,
        outbox,
        link,
        standing: standing_out,
        lease,
        identity: found.identity,
        unsaved,
        applied: newest.unwrap_or(Position::START),
    };
    Ok((agent, tasks))
}

fn means(
    config: &Config,
    trust: Trust,
    archive: Archive,
    facts: mpsc::UnboundedSender<Fact>,
    (told, triggers): (Arc<Told>, Arc<Triggers>),
    clock: Arc<dyn Clock>,
    lease: watch::Receiver<Lease>,
) -> Means {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let fragment_ms = config.data_loss_max_ms;
    let lengths = Lengths { segment_ms: config.segment_ms, fragment_ms, ..Lengths::default() };
    Means {
        archive,
        facts,
        told,
        triggers,
        clock,
        settings: Settings { lengths, ..Settings::default() },
        policy: AddressPolicy::new(config.rtsp_allow.clone()).with_basic(config.rtsp_allow_basic),
        trust,
        dials: Dials::new(dials::AT_ONCE),
        lease,
        ticks: Arc::new(Ticks::new(threads)),
    }
}

fn milliseconds(milliseconds: u32) -> Duration {
    Duration::from_millis(milliseconds.into())
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
    /// The other volumes' folders, so that no other worker takes them.
    _held: Vec<Home>,
    clock: Arc<dyn Clock>,
    recorders: Recorders,
    told: Arc<Told>,
    kept: Arc<Kept>,
    storage: watch::Receiver<Storage>,
    /// How far the archive was examined.
    scrub: watch::Receiver<Option<Scrub>>,
    /// What waits to be uploaded, if anything is.
    spool: Option<watch::Receiver<Spool>>,
    archive: Archive,
    /// How many of its volumes failed.
    failures: watch::Receiver<usize>,
    meter: Meter,
    outbox: Arc<Outbox>,
    heartbeats: Heartbeats,
    /// Where video is given out now.
    media_url: watch::Receiver<Option<String>>,
    link: watch::Receiver<Link>,
    standing: watch::Receiver<Standing>,
    lease: watch::Sender<Lease>,
    identity: Identity,
    /// Identities on their way to the disk.
    unsaved: mpsc::UnboundedSender<Unsaved>,
    /// The revision of the set that is in force.
    applied: Position,
}

impl Agent {
    /// Does what comes, until `stop` is cancelled.
    ///
    /// # Errors
    ///
    /// [`Error::FactsNotKept`] if the gathering task ended, which it does by a bug only; [`Error::NoVolume`].
    async fn work(&mut self, tasks: &mut Tasks, stop: &CancellationToken) -> Result<(), Error> {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                ended = &mut tasks.gathering => {
                    tracing::error!(error = ?ended.err(), "nobody keeps facts any more; ending, to be started again");
                    return Err(Error::FactsNotKept);
                }
                Ok(()) = self.failures.changed() => {
                    let all_failed = *self.failures.borrow_and_update() >= self.archive.volumes();
                    // Nobody should have to wait to hear of it.
                    self.heartbeat().await;
                    if all_failed {
                        tracing::error!("all volumes failed; ending, so that other servers take the cameras");
                        return Err(Error::NoVolume);
                    }
                }
                Ok(()) = self.standing.changed() => {
                    self.take_standing();
                    self.heartbeats.hurry();
                }
                Ok(()) = self.link.changed() => {
                    if self.link.borrow_and_update().up {
                        self.heartbeats.hurry();
                    }
                }
                Ok(()) = self.media_url.changed() => self.heartbeats.hurry(),
                Some(learnt) = tasks.learnt.recv() => self.learn(&learnt),
                Some(ask) = tasks.asks.recv() => self.answer(ask),
                () = self.heartbeats.due() => self.heartbeat().await,
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
            Standing::Known { membership, heartbeat_interval_ms, lease_ms } => {
                // A set, if there is one, was told later or holds still.
                if self.applied == Position::START {
                    self.take_times(heartbeat_interval_ms, lease_ms);
                }
                if let Some(unsaved) = self.identity.remember(membership)
                    && self.unsaved.send(unsaved).is_err()
                {
                    tracing::error!("cannot remember which server this is: nobody saves it any more");
                }
            }
            Standing::Detached => {
                self.recorders.stop_all(Cause::Reassigned);
                self.lease.send_modify(Lease::lose);
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

    fn take_times(&mut self, heartbeat_interval_ms: u32, lease_ms: Option<u32>) {
        self.heartbeats.set_interval(heartbeat_interval_ms);
        if let Some(lease_ms) = lease_ms {
            self.lease.send_modify(|lease| lease.set_length(milliseconds(lease_ms)));
        }
    }

    fn learn(&mut self, learnt: &Learnt) {
        match learnt {
            Learnt::Set(set) => self.apply(set),
            Learnt::Looked(begun_at) => self.lease.send_modify(|lease| lease.looked(*begun_at)),
        }
    }

    fn answer(&self, ask: Ask) {
        match ask {
            Ask::Epochs(keys, epochs) => {
                // Who asked may be gone: then nobody misses the answer.
                let _ = epochs.send(keys.iter().map(|key| self.recorders.epoch_of(key)).collect());
            }
            Ask::Changed(keys) => self.recorders.note_events(&keys),
        }
    }

    fn apply(&mut self, set: &DesiredSet) {
        // A set may still be on its way when the answer comes that this server is detached.
        let Some(server_id) = self.server_id() else { return };
        tracing::info!(revision = %set.revision, cameras = set.cameras.len(), "assignments applied");
        self.recorders.apply(server_id, &set.cameras, &self.identity);
        self.kept.learn(&set.cameras);
        self.take_times(set.heartbeat_interval_ms, set.lease_ms);
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
        if let Some(server_id) = self.server_id() {
            let load = self.load().await;
            self.heartbeats.send(server_id, load);
        }
        self.heartbeats.next();
    }

    /// A failure counts at once, not only when the archive is looked after the next time.
    fn storage_now(&self) -> Storage {
        if *self.failures.borrow() > 0 {
            return Storage::Failed;
        }
        let storage = *self.storage.borrow();
        if self.spool_now().is_none_or(|spool| uploads::is_well(&spool)) {
            storage
        } else {
            storage.max(Storage::Low)
        }
    }

    fn spool_now(&self) -> Option<Spool> {
        self.spool.as_ref().map(|spool| *spool.borrow())
    }

    async fn load(&mut self) -> Load {
        let Counts { cameras, recording, unsettled } = self.recorders.counts();
        let sample = self.meter.sample(self.recorders.received_bytes()).await;
        Load {
            applied_revision: self.applied,
            lease_ms: u32::try_from(self.lease.borrow().length().as_millis()).ok(),
            cameras,
            recording,
            unsettled,
            received_bytes_per_s: sample.received_bytes_per_s,
            cpu_millicores: sample.cpu_millicores,
            memory_bytes: sample.memory_bytes,
            disk_free_bytes: sample.disk_free_bytes,
            disk_total_bytes: sample.disk_total_bytes,
            outbox_facts: self.outbox.waiting_facts() as u64,
            clock_stepped_ms: sample.clock_stepped_ms,
            storage: self.storage_now(),
            scrub: *self.scrub.borrow(),
            spool: self.spool_now(),
        }
    }
}

#[cfg(test)]
mod tests;
