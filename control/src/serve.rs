//! `longwatch-control serve`: one control replica. Puts the parts together and stops them in order.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use longwatch_events::event::{ControlTicked, Event};
use longwatch_events::id::{EventId, SystemIds, TenantId};
use longwatch_events::log::jetstream::{self, JetStreamLog};
use longwatch_events::time::SystemClock;
use tokio::net::TcpListener;
use tokio::task::JoinError;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use crate::decide::command::{Command, Refusal};
use crate::join::{self, Adopt};
use crate::keys::{self, Key, Origin};
use crate::observed::TICK_MS;
use crate::read_model::ReadModel;
use crate::secrets::Secrets;
use crate::service::{CommandError, Parts, Service};
use crate::{api, archives, backlog, follower, lead, planner, read_model, snapshots, triggers, watch};

/// How long requests that are under way may take once the process is told to stop.
const STOP_DEADLINE: Duration = Duration::from_secs(5);
/// Between tries to reach what is needed at the start.
const PAUSE: Duration = Duration::from_millis(500);

/// Settings of `serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Address(es) of NATS: nats://HOST:PORT[,nats://HOST:PORT…].
    #[arg(long, env = "LONGWATCH_NATS", value_name = "URL[,URL…]", hide_env_values = true)]
    pub nats: String,
    /// File with the NATS credentials: an nkey seed or a .creds file.
    #[arg(long, env = "LONGWATCH_NATS_CREDENTIALS", value_name = "FILE")]
    pub nats_credentials: Option<PathBuf>,
    /// On how many NATS servers each record of the log stands: 1, or 3 in a cluster.
    #[arg(long, env = "LONGWATCH_LOG_REPLICAS", value_name = "N", default_value_t = 1)]
    pub log_replicas: usize,
    /// The read model's database: sqlite://FILE, or postgres://USER:PASSWORD@HOST/DATABASE, which replicas can share.
    #[arg(long, env = "LONGWATCH_DATABASE", value_name = "URL", hide_env_values = true)]
    pub database: String,
    /// Address of the API and the page.
    #[arg(long, env = "LONGWATCH_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Address of /livez, /readyz and /metrics, which need no key. Without it they are served on --listen.
    #[arg(long, env = "LONGWATCH_OPERATIONS_LISTEN", value_name = "ADDR")]
    pub operations_listen: Option<SocketAddr>,
    /// The provider's API key; made (mode 0600) if absent.
    #[arg(long, env = "LONGWATCH_KEY_FILE", value_name = "FILE")]
    pub key_file: PathBuf,
    /// The key workers join with; made (mode 0600) if absent.
    #[arg(long, env = "LONGWATCH_JOIN_KEY_FILE", value_name = "FILE")]
    pub join_key_file: PathBuf,
    /// The key that protects tenants' secrets; made (mode 0600) when first needed. Replicas need the same one.
    /// [default: `master.key` beside --key-file]
    #[arg(long, env = "LONGWATCH_MASTER_KEY_FILE", value_name = "FILE")]
    pub master_key_file: Option<PathBuf>,
    /// Where State is saved now and then, so that a start does not read the whole log.
    /// [default: `state.snapshot` beside --key-file]
    #[arg(long, env = "LONGWATCH_SNAPSHOT", value_name = "FILE")]
    pub snapshot: Option<PathBuf>,
    /// Whether a server that shows the join key belongs to the system at once.
    #[arg(long, env = "LONGWATCH_ADOPT", value_enum, default_value = "auto")]
    pub adopt: Adopt,
}

/// Why a replica does not start, or ended unasked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A key file.
    #[error(transparent)]
    Key(#[from] keys::Error),
    /// The read model's database. Its address is not repeated: it may hold a password.
    #[error("cannot open the read model that --database names: {0}")]
    Database(#[from] read_model::Error),
    /// An address to listen on.
    #[error("cannot listen on {address}: {source}; is another program using it? choose another address")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// NATS, for a reason that no waiting mends.
    #[error(transparent)]
    Nats(#[from] jetstream::ConnectError),
    /// The API.
    #[error("the API failed: {0}")]
    Api(io::Error),
    /// A part ended that never should, or panicked. The supervisor starts the process again.
    #[error("{part} ended: {why}")]
    Ended {
        /// Which part.
        part: &'static str,
        /// How.
        why: String,
    },
}

/// Runs a replica until `stop` is cancelled.
///
/// # Errors
/// If a setting cannot be used at all, or a part of the process ends unasked. A NATS or a database that is away is waited for.
pub async fn run(args: ServeArgs, stop: CancellationToken) -> Result<(), Error> {
    let key = load_key(&args.key_file, "lwk_", "the provider's key")?;
    let join_key = load_key(&args.join_key_file, "lwj_", "the join key")?;
    let master_key_file =
        args.master_key_file.clone().unwrap_or_else(|| args.key_file.with_file_name("master.key"));
    let snapshot = args.snapshot.clone().unwrap_or_else(|| args.key_file.with_file_name("state.snapshot"));
    let opened = stop.run_until_cancelled(open_read_model(&args.database)).await;
    let Some(read_model) = opened.transpose()? else { return Ok(()) };
    let listener = listen(args.listen).await?;
    let operations = match args.operations_listen {
        Some(address) => Some(listen(address).await?),
        None => None,
    };
    let client =
        jetstream::connect(&args.nats, args.nats_credentials.as_deref(), "longwatch-control").await?;
    let log = JetStreamLog::new(client.clone());
    let service = Arc::new(Service::new(Parts {
        log: Arc::new(log.clone()),
        backlog: Arc::new(log.clone()),
        read_model,
        secrets: Secrets::in_file(master_key_file),
        clock: Arc::new(SystemClock),
        ids: Arc::new(SystemIds),
    }));
    let mut web = tokio::spawn(api::serve(Arc::clone(&service), key, listener, operations, stop.clone()));
    let leaving = (client.clone(), Arc::clone(&service));
    let mut work = tokio::spawn(async move {
        let settings = jetstream::Settings { replicas: args.log_replicas, ..Default::default() };
        ensure_streams(&log, settings).await;
        tokio::join!(
            follower::follow_log(&service, Some(&snapshot)),
            follower::follow_recordings(&service),
            follower::follow_heartbeats(&service),
            keep_clock(&service),
            planner::run(&service),
            backlog::run(&service),
            snapshots::keep(&service, &snapshot),
            keep_heartbeats(&service, &log),
            watch::run(&service),
            join::run(&service, &client, &join_key, args.adopt),
            archives::run(&service, &client),
            triggers::run(&service),
            lead::run(&service, &client, settings.replicas),
            ensure_default_tenant(&service),
        );
    });
    tokio::select! {
        // The API ends by itself when it is told to stop: that is not unasked.
        biased;
        () = stop.cancelled() => {}
        ended = &mut work => return Err(unasked("the fold", ended.err())),
        ended = &mut web => return Err(unasked("the API", ended.err())),
    }
    tracing::info!("stopping");
    work.abort();
    lead::release(&leaving.0, args.log_replicas, &leaving.1).await;
    match tokio::time::timeout(STOP_DEADLINE, web).await {
        Ok(served) => served.map_err(|error| unasked("the API", Some(error)))?.map_err(Error::Api),
        Err(_) => {
            tracing::warn!(
                deadline_s = STOP_DEADLINE.as_secs(),
                "requests were still under way and are cut off"
            );
            Ok(())
        }
    }
}

fn unasked(part: &'static str, error: Option<JoinError>) -> Error {
    Error::Ended {
        part,
        why: error.map_or_else(|| "nobody asked it to".to_owned(), |error| error.to_string()),
    }
}

fn load_key(path: &Path, prefix: &str, what: &str) -> Result<Key, keys::Error> {
    let (key, origin) = keys::load_or_create(path, prefix)?;
    if origin == Origin::Created {
        tracing::info!(file = %path.display(), "{what} was made");
    }
    Ok(key)
}

async fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })
}

async fn open_read_model(url: &str) -> Result<Arc<dyn ReadModel>, read_model::Error> {
    loop {
        match read_model::open(url).await {
            Err(read_model::Error::Away(error)) => {
                tracing::warn!(error, "waiting for the read model's database");
            }
            opened => return opened,
        }
        sleep(PAUSE).await;
    }
}

async fn ensure_streams(log: &JetStreamLog, settings: jetstream::Settings) {
    loop {
        match log.ensure_streams(settings).await {
            Ok(()) => return,
            Err(error) => tracing::warn!(%error, "waiting for NATS"),
        }
        sleep(PAUSE).await;
    }
}

/// Keeps as many heartbeats as policy says.
async fn keep_heartbeats(service: &Service, log: &JetStreamLog) {
    let mut progress = service.progress();
    let mut kept = None;
    loop {
        let wanted = service.state().policy.heartbeats;
        if progress.borrow_and_update().caught_up && kept != Some(wanted) {
            let max_age = Duration::from_secs(u64::from(wanted.max_age_h) * 3_600);
            let max_bytes = i64::try_from(wanted.max_bytes).unwrap_or(i64::MAX);
            match log.set_heartbeats_retention(max_age, max_bytes).await {
                Ok(()) => kept = Some(wanted),
                Err(error) => {
                    tracing::warn!(%error, "how long heartbeats are kept is set later");
                    sleep(PAUSE).await;
                    continue;
                }
            }
        }
        if progress.changed().await.is_err() {
            return;
        }
    }
}

/// Every system begins with a tenant.
async fn ensure_default_tenant(service: &Service) {
    let mut progress = service.progress();
    if progress.wait_for(|progress| progress.caught_up).await.is_err() {
        return;
    }
    while service.state().tenant(TenantId::DEFAULT).is_none() && service.halted().is_none() {
        if let Err(error) = create_default_tenant(service).await {
            tracing::warn!(%error, "the default tenant is created later");
            sleep(PAUSE).await;
        }
    }
}

async fn create_default_tenant(service: &Service) -> Result<(), String> {
    let tenant_id = TenantId::DEFAULT;
    let data_key = service.new_data_key(tenant_id).map_err(|error| error.to_string())?;
    let command = Command::CreateTenant { tenant_id, name: "Default".to_owned(), data_key };
    match service.execute("system", EventId::generate(service.ids()), command).await {
        // Another replica was first.
        Ok(_) | Err(CommandError::Conflict | CommandError::Refused(Refusal::Exists { .. })) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// Lets the log's clock run, and looks as often whether the log is still the one that was folded. The clock does not wait for
/// that: everybody's silence is measured by it.
async fn keep_clock(service: &Service) {
    tokio::join!(tick(service), keep_looking_at_ends(service));
}

async fn tick(service: &Service) {
    const PART: &str = "the log's clock";
    let mut interval = ticks();
    loop {
        interval.tick().await;
        let folded = service.progress().borrow().log;
        let tick = Event::ControlTicked(ControlTicked { boot_id: service.boot_id(), folded });
        let event_id = EventId::generate(service.ids());
        match service.append("system", event_id, tick, None).await {
            Ok(_) => service.trouble_over(PART),
            Err(error) => {
                tracing::warn!(%error, "the log's clock does not run");
                service.trouble(PART, format!("nothing can be written to the log: {error}"));
            }
        }
    }
}

async fn keep_looking_at_ends(service: &Service) {
    let mut interval = ticks();
    loop {
        interval.tick().await;
        follower::check_ends(service).await;
    }
}

fn ticks() -> Interval {
    let mut interval = interval(Duration::from_millis(u64::from(TICK_MS)));
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

#[cfg(test)]
mod tests {
    use longwatch_events::event::Event;
    use longwatch_events::log::Log as _;
    use longwatch_events::log::memory::MemoryLog;
    use longwatch_events::subject::LogStream;
    use longwatch_events::time::ManualClock;
    use tokio::time::{Instant, timeout_at};

    use super::*;
    use crate::read_model::sqlite::SqliteReadModel;
    use crate::testing::START;
    use crate::testing::moody::{Mood, Moody};

    #[tokio::test]
    async fn the_clock_runs_while_the_log_does_not_say_where_it_ends() {
        // Given a log that takes what is appended, and does not answer when it is asked where it ends.
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::starting_at(START));
        let memory = MemoryLog::new(clock.clone());
        let service = Service::new(Parts {
            log: Arc::new(Moody::new(memory.clone(), Mood::EndsNowhere)),
            backlog: Arc::new(memory.clone()),
            read_model: Arc::new(SqliteReadModel::open(&folder.path().join("read_model.db")).await.unwrap()),
            secrets: Secrets::in_file(folder.path().join("master.key")),
            clock,
            ids: Arc::new(SystemIds),
        });
        // Then it ticks as often as it should.
        let ticks = async {
            let mut records = memory.follow(LogStream::Heartbeats, Default::default()).await.unwrap();
            for _ in 0..4 {
                let record = futures::StreamExt::next(&mut records).await.unwrap().unwrap();
                let envelope = longwatch_events::envelope::Envelope::decode(&record.payload).unwrap();
                assert!(matches!(envelope.event, Event::ControlTicked(_)), "{envelope:?}");
            }
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        tokio::select! {
            () = keep_clock(&service) => panic!("it ends"),
            ticked = timeout_at(deadline, ticks) => ticked.expect("the clock stands still"),
        }
    }
}
