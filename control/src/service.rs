//! The one thing all parts of the control plane share: State, the log, the read model, and the door for commands.
//!
//! Invariant: a command's answer is given only after its event has been folded into State and into the read model, so
//! whoever asked reads what they wrote.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use longwatch_events::assignment::SourceSecret;
use longwatch_events::envelope::Envelope;
use longwatch_events::event::Event;
use longwatch_events::id::{BootId, EventId, IdSource, ServerId, TenantId};
use longwatch_events::log::Backlog;
use longwatch_events::log::{self, Entry, Log};
use longwatch_events::media::MediaKey;
use longwatch_events::position::Position;
use longwatch_events::sealed::{Base64Bytes, PublicKey, Sealed, WrappedKey};
use longwatch_events::state::State;
use longwatch_events::subject::{self, LogStream};
use longwatch_events::time::{Clock, Timestamp};
use tokio::sync::watch;

use crate::decide::command::{Command, Refusal, decide};
use crate::observed::Observed;
use crate::read_model::{KnownRecord, ReadModel};
use crate::replay;
use crate::secrets::{self, Secrets};
use crate::triggers::Told;

mod reading;

use reading::Hearing;

/// How long a command waits for the fold to pass what it appended.
const FOLD_DEADLINE: Duration = Duration::from_secs(5);
/// On so many connections one after the other something is to be appended.
const CONNECTIONS_TRIED: usize = 3;

/// Why a command was not carried out, or not known to be.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It may not be.
    #[error(transparent)]
    Refused(Refusal),
    /// What it was based on has changed. Nothing was written; read again.
    #[error("the thing was changed by somebody else meanwhile")]
    Conflict,
    /// The log or the fold did not answer in time. It may or may not have been carried out.
    #[error("{0}")]
    Unavailable(String),
    /// The fold has halted: nothing is decided until an operator looks at the log.
    #[error("the fold has halted: {0}")]
    Halted(String),
}

impl From<Refusal> for CommandError {
    fn from(refusal: Refusal) -> Self {
        // Whether State or the log noticed it first is all the same to whoever asked.
        if matches!(refusal, Refusal::Changed { .. }) { Self::Conflict } else { Self::Refused(refusal) }
    }
}

/// How far the folds have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// `LOG`, in State and read model.
    pub log: Position,
    /// `RECORDINGS`, in the read model.
    pub recordings: Position,
    /// Whether everything that stood in `LOG` when this process started has been folded.
    pub caught_up: bool,
    /// The same of `RECORDINGS`.
    pub recordings_caught_up: bool,
    /// The connection on which `LOG` was seen to be the one that is folded; see [`Log::connection`].
    pub connection: Option<u64>,
    /// The same of `RECORDINGS`.
    pub recordings_connection: Option<u64>,
}

impl Progress {
    /// The connection on which `stream` was seen to be the one that is folded.
    pub fn connection_of(&self, stream: LogStream) -> Option<u64> {
        if stream == LogStream::Recordings { self.recordings_connection } else { self.connection }
    }
}

/// Whether this replica can answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Commands and reads are answered.
    pub ready: bool,
    /// Why not, or why perhaps soon not; empty if all is well.
    pub problems: Vec<String>,
    /// How far the folds have come.
    pub progress: Progress,
}

/// What a service is made of.
pub struct Parts {
    /// The truth.
    pub log: Arc<dyn Log>,
    /// Which cameras wait for a server with room.
    pub backlog: Arc<dyn Backlog>,
    /// Its tables.
    pub read_model: Arc<dyn ReadModel>,
    /// Keys for secrets.
    pub secrets: Secrets,
    /// The wall clock, for what people read.
    pub clock: Arc<dyn Clock>,
    /// New ids.
    pub ids: Arc<dyn IdSource>,
}

/// The control plane of one process.
pub struct Service {
    log: Arc<dyn Log>,
    backlog: Arc<dyn Backlog>,
    read_model: Arc<dyn ReadModel>,
    secrets: Secrets,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
    boot_id: BootId,
    state: RwLock<State>,
    observed: Observed,
    leading: AtomicBool,
    progress: watch::Sender<Progress>,
    last_read: Mutex<BTreeMap<LogStream, KnownRecord>>,
    hearing: Mutex<Hearing>,
    halted: watch::Sender<Option<String>>,
    unopened: AtomicUsize,
    held: AtomicUsize,
    troubles: Mutex<BTreeMap<&'static str, String>>,
    triggers_told: Told,
}

impl Service {
    /// A service that has folded nothing yet.
    pub fn new(parts: Parts) -> Self {
        let progress = Progress {
            log: Position::START,
            recordings: Position::START,
            caught_up: false,
            recordings_caught_up: false,
            connection: None,
            recordings_connection: None,
        };
        Self {
            boot_id: BootId::generate(&*parts.ids),
            log: parts.log,
            backlog: parts.backlog,
            read_model: parts.read_model,
            secrets: parts.secrets,
            clock: parts.clock,
            ids: parts.ids,
            state: RwLock::default(),
            observed: Observed::default(),
            leading: AtomicBool::new(true),
            progress: watch::Sender::new(progress),
            last_read: Mutex::default(),
            hearing: Mutex::default(),
            halted: watch::Sender::new(None),
            unopened: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            troubles: Mutex::default(),
            triggers_told: Told::default(),
        }
    }

    /// State as folded so far. Never hold it across an await.
    pub fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// State as it was at `position`, folded from the beginning of the log: that takes as long as the log is.
    ///
    /// # Errors
    /// See [`replay::Error`].
    pub async fn state_at(&self, position: Position) -> Result<State, replay::Error> {
        replay::fold_up_to(&*self.log, State::default(), position).await
    }

    /// For the follower only: State changes by folding and by nothing else.
    pub(crate) fn state_to_fold(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The log.
    pub fn log(&self) -> &dyn Log {
        &*self.log
    }

    /// Which cameras wait for a server with room.
    pub fn backlog(&self) -> &dyn Backlog {
        &*self.backlog
    }

    /// The tables.
    pub fn read_model(&self) -> &dyn ReadModel {
        &*self.read_model
    }

    /// What was heard of servers.
    pub const fn observed(&self) -> &Observed {
        &self.observed
    }

    /// The events at cameras that this process told servers of.
    pub(crate) const fn triggers_told(&self) -> &Told {
        &self.triggers_told
    }

    /// The log's clock.
    pub fn log_now(&self) -> Timestamp {
        self.observed.now()
    }

    /// The wall clock.
    pub fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// New ids.
    pub fn ids(&self) -> &dyn IdSource {
        &*self.ids
    }

    /// This run of this process.
    pub const fn boot_id(&self) -> BootId {
        self.boot_id
    }

    /// Whether this replica plans and judges. Others do nothing wrong if they do too, only the same again.
    pub fn is_leading(&self) -> bool {
        self.leading.load(Ordering::Relaxed)
    }

    pub(crate) fn set_leading(&self, leading: bool) {
        self.leading.store(leading, Ordering::Relaxed);
    }

    /// How far the folds have come, and a way to wait for more.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    pub(crate) fn advance(&self, change: impl FnOnce(&mut Progress)) {
        self.progress.send_modify(change);
    }

    /// Stops deciding, for good and loudly; recording goes on.
    pub(crate) fn halt(&self, why: String) {
        tracing::error!(why, "the fold has halted; nothing is decided any more, workers keep recording");
        self.halted.send_replace(Some(why));
    }

    pub(crate) fn subscribe_halted(&self) -> watch::Receiver<Option<String>> {
        self.halted.subscribe()
    }

    /// Why the fold has halted, if it has.
    pub fn halted(&self) -> Option<String> {
        self.halted.borrow().clone()
    }

    fn troubles(&self) -> MutexGuard<'_, BTreeMap<&'static str, String>> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something that `part` is in trouble with until [`Self::trouble_over`]: shown in the health.
    pub(crate) fn trouble(&self, part: &'static str, what: String) {
        self.troubles().insert(part, what);
    }

    /// `part` works again.
    pub(crate) fn trouble_over(&self, part: &'static str) {
        self.troubles().remove(part);
    }

    /// What parts of this replica are in trouble with.
    pub fn current_troubles(&self) -> Vec<String> {
        self.troubles().values().cloned().collect()
    }

    /// Whether this replica can answer.
    pub fn health(&self) -> Health {
        let progress = *self.progress.borrow();
        let mut problems: Vec<String> =
            self.halted().map(|why| format!("the fold has halted: {why}")).into_iter().collect();
        if !progress.caught_up {
            problems.push("the log is still being replayed".to_owned());
        } else if self.state().tenant(TenantId::DEFAULT).is_none() {
            problems.push("the default tenant is still being created".to_owned());
        }
        if !progress.recordings_caught_up {
            problems.push("what workers reported is still being replayed".to_owned());
        }
        problems.extend(self.current_troubles());
        let ready = problems.is_empty();
        // This replica answers all the same; another one would not do better.
        if let unopened @ 1.. = self.unopened() {
            problems.push(format!(
                "the source of {unopened} camera(s) cannot be opened: they are recorded as before, new ones not at all; is \
                 the master key the one this system was started with first?"
            ));
        }
        Health { ready, problems, progress }
    }

    /// Carries out a command: decides, appends, waits for the fold. `event_id` is its id: trying again with the same
    /// one cannot carry it out twice.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn execute(
        &self,
        actor: &str,
        event_id: EventId,
        command: Command,
    ) -> Result<Position, CommandError> {
        self.may_decide().await?;
        let decided = decide(&self.state(), command)?;
        match self.append(actor, event_id, decided.event, Some(decided.expected_last)).await {
            Ok(position) => match self.folded(position).await {
                // It stands in the log; saying that nothing was done would have it done twice.
                Err(CommandError::Halted(why)) => Err(CommandError::Unavailable(format!(
                    "it was written at position {position}, but the fold has halted before it: {why}"
                ))),
                folded => folded.map(|()| position),
            },
            Err(log::Error::Conflict { .. }) => {
                let end = self.log.end(LogStream::Log).await.map_err(unavailable)?;
                self.folded(end).await?;
                Err(CommandError::Conflict)
            }
            Err(error) => Err(unavailable(error)),
        }
    }

    /// Appends an event of this process to its log stream, conditional on `expected_last` if given: then only to the log by
    /// which that was decided, see [`Self::may_decide`].
    ///
    /// # Errors
    /// Those of the log.
    pub async fn append(
        &self,
        actor: &str,
        event_id: EventId,
        event: Event,
        expected_last: Option<Position>,
    ) -> Result<Position, log::Error> {
        self.append_to_this_log(vec![self.entry(actor, event_id, event, expected_last)]).await
    }

    /// Appends all `events` or none, each with its id and its condition; see [`Log::append_atomically`].
    ///
    /// # Errors
    /// Those of the log.
    pub async fn append_atomically(
        &self,
        actor: &str,
        events: Vec<(EventId, Event, Option<Position>)>,
    ) -> Result<Position, log::Error> {
        let entries = events.into_iter().map(|(id, event, expected)| self.entry(actor, id, event, expected));
        self.append_to_this_log(entries.collect()).await
    }

    /// If the connection is lost meanwhile, then on the next one, once it is known that the log is still the same.
    async fn append_to_this_log(&self, mut entries: Vec<Entry>) -> Result<Position, log::Error> {
        let is_decided = entries.iter().any(|entry| entry.expected_last.is_some());
        for _ in 0..CONNECTIONS_TRIED {
            let connection = self.progress.borrow().connection.filter(|_| is_decided);
            entries.iter_mut().for_each(|entry| entry.connection = connection);
            let appended = match entries.as_slice() {
                [entry] => self.log.append(entry.clone()).await,
                entries => self.log.append_atomically(entries.to_vec()).await,
            };
            let Err(log::Error::Disconnected) = appended else { return appended };
            self.may_decide().await.map_err(|error| log::Error::Unavailable(error.to_string()))?;
        }
        Err(log::Error::Disconnected)
    }

    fn entry(&self, actor: &str, event_id: EventId, event: Event, expected_last: Option<Position>) -> Entry {
        let (stream, subject) = subject::of(&event);
        let envelope = Envelope {
            id: event_id,
            source: format!("/control/{}", self.boot_id),
            time: self.clock.now(),
            tenant: tenant_of(&event),
            actor: actor.to_owned(),
            causation: None,
            event,
        };
        let payload = envelope.encode().into();
        Entry { stream, subject, id: event_id, payload, expected_last, connection: None }
    }

    /// Waits until the fold has passed `position`.
    ///
    /// # Errors
    /// If it has halted, or takes too long.
    pub async fn folded(&self, position: Position) -> Result<(), CommandError> {
        self.until(|progress| progress.log >= position).await
    }

    /// Waits until State is that of the log's end, which every decision needs; and after a new connection until it is known
    /// that it still is that of this log, which may have been set back meanwhile.
    ///
    /// # Errors
    /// If the fold has halted, or takes too long. Nothing has been written then.
    pub async fn may_decide(&self) -> Result<(), CommandError> {
        self.until(|progress| self.is_the_end_of(progress)).await?;
        self.halted().map_or(Ok(()), |why| Err(CommandError::Halted(why)))
    }

    /// Whether State is that of the log's end now, as far as is known; see [`Self::may_decide`].
    pub fn knows_the_end(&self) -> bool {
        self.is_the_end_of(&self.progress.borrow())
    }

    fn is_the_end_of(&self, progress: &Progress) -> bool {
        progress.caught_up && progress.connection.is_some() && progress.connection == self.log.connection()
    }

    async fn until(&self, reached: impl FnMut(&Progress) -> bool) -> Result<(), CommandError> {
        let (mut progress, mut halted) = (self.progress.subscribe(), self.halted.subscribe());
        let outcome = tokio::select! {
            // What has been reached counts even if the fold halted behind it.
            biased;
            _ = progress.wait_for(reached) => Ok(()),
            why = halted.wait_for(Option::is_some) => {
                Err(CommandError::Halted(why.map(|why| why.clone().unwrap_or_default()).unwrap_or_default()))
            }
            () = tokio::time::sleep(FOLD_DEADLINE) => {
                if self.log.connection().is_none() {
                    return Err(CommandError::Unavailable("there is no connection to NATS".to_owned()));
                }
                let position = self.progress.borrow().log;
                Err(CommandError::Unavailable(format!(
                    "the fold stands at position {position} and did not come on within {} s",
                    FOLD_DEADLINE.as_secs()
                )))
            }
        };
        outcome
    }

    /// A new data key for a tenant. The master key is made with the first tenant's only, and only when the whole log
    /// is known to hold no tenant.
    ///
    /// # Errors
    /// If the master key cannot be read, or made.
    pub fn new_data_key(&self, tenant_id: TenantId) -> Result<WrappedKey, secrets::Error> {
        let may_create_master = self.progress.borrow().caught_up && self.state().tenants().next().is_none();
        self.secrets.new_data_key(tenant_id, may_create_master)
    }

    /// How many cameras could not be handed to their server because their source could not be opened.
    pub fn unopened(&self) -> usize {
        self.unopened.load(Ordering::Relaxed)
    }

    pub(crate) fn set_unopened(&self, unopened: usize) {
        self.unopened.store(unopened, Ordering::Relaxed);
    }

    /// How many servers are silent and not taken for lost, because too many are at once.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    pub(crate) fn set_held(&self, held: usize) {
        self.held.store(held, Ordering::Relaxed);
    }

    /// Seals a camera's source for the event that will carry it.
    ///
    /// # Errors
    /// If the tenant does not exist or its data key cannot be unwrapped.
    pub fn seal_source(
        &self,
        tenant_id: TenantId,
        event_id: EventId,
        source: &SourceSecret,
    ) -> Result<Sealed, secrets::Error> {
        self.secrets.seal_source(tenant_id, &self.data_key(tenant_id)?, event_id, source)
    }

    /// Opens a camera's source.
    ///
    /// # Errors
    /// If the tenant does not exist, its data key cannot be unwrapped, or the bytes were changed.
    pub fn open_source(&self, tenant_id: TenantId, sealed: &Sealed) -> Result<SourceSecret, secrets::Error> {
        self.secrets.open_source(tenant_id, &self.data_key(tenant_id)?, sealed)
    }

    /// The key by which addresses of what `server_id` recorded are signed; `None`: it has no worker, or is not there.
    ///
    /// # Errors
    /// If the master key cannot be read.
    pub fn media_key(&self, server_id: ServerId) -> Result<Option<MediaKey>, secrets::Error> {
        let public_key = self.state().server(server_id).and_then(|server| server.public_key);
        let Some(public_key) = public_key else { return Ok(None) };
        self.secrets.media_key(server_id, &public_key).map(|key| Some(MediaKey::new(key)))
    }

    /// The same key, for its worker alone.
    ///
    /// # Errors
    /// If the master key cannot be read.
    pub fn seal_media_key(
        &self,
        server_id: ServerId,
        public_key: &PublicKey,
    ) -> Result<Base64Bytes, secrets::Error> {
        let key = self.secrets.media_key(server_id, public_key)?;
        secrets::seal_bytes_to_worker(public_key, key.as_slice())
    }

    fn data_key(&self, tenant_id: TenantId) -> Result<WrappedKey, secrets::Error> {
        let state = self.state();
        let tenant = state.tenant(tenant_id).ok_or(secrets::Error::NoDataKey(tenant_id))?;
        Ok(tenant.data_key.clone())
    }
}

fn unavailable(error: log::Error) -> CommandError {
    CommandError::Unavailable(error.to_string())
}

/// Whose event it is: the provider's own have no tenant.
const fn tenant_of(event: &Event) -> Option<TenantId> {
    match event {
        Event::TenantCreated(e) => Some(e.tenant_id),
        Event::TenantChanged(e) => Some(e.tenant_id),
        Event::TenantDeleted(e) => Some(e.tenant_id),
        Event::CameraAdded(e) => Some(e.tenant_id),
        Event::CameraChanged(e) => Some(e.tenant_id),
        Event::CameraDeleted(e) => Some(e.tenant_id),
        Event::CameraMoveRequested(e) => Some(e.tenant_id),
        Event::CameraBacklogged(e) => Some(e.tenant_id),
        Event::ServerAdded(_)
        | Event::ServerJoined(_)
        | Event::ServerAdopted(_)
        | Event::ServerChanged(_)
        | Event::ServerLost(_)
        | Event::ServerReturned(_)
        | Event::ServerDiskMeasured(_)
        | Event::ServerDrainStarted(_)
        | Event::ServerDrainStopped(_)
        | Event::ServerFailbackRequested(_)
        | Event::ServerDetached(_)
        | Event::PolicyChanged(_)
        | Event::VersionRequired(_)
        | Event::PlanMade(_)
        | Event::ServerHeartbeat(_)
        | Event::ControlTicked(_)
        | Event::RecordingReported(_)
        | Event::AssignmentsPublished(_) => None,
    }
}
