//! What the heartbeats of many servers cost: a real NATS, a real control, and this process in the place of the servers.
//!
//! The servers join and are adopted in the log itself. Then each sends a heartbeat a second, spread evenly, as workers
//! do: a core message with the load of a server that records. What control does about the first ones (it tells the log of
//! every archive, and every server what to record) is over before anything is measured.
//!
//! A fleet of this size has three NATS servers, which sync what came together in one go. One alone that syncs always does so
//! for every single message: a disk takes hundreds or a few thousands a second. Here one stands for the three, and does
//! not sync at all.

use std::cell::Cell;
use std::convert::Infallible;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use longwatch_events::envelope::Envelope;
use longwatch_events::event::{Event, Load, PolicyChanged, ServerHeartbeat, Storage};
use longwatch_events::id::{BootId, EventId, ServerId, SystemIds};
use longwatch_events::log::jetstream::{JetStreamLog, connect};
use longwatch_events::log::{Entry, Log as _, MAX_ATOMIC_ENTRIES};
use longwatch_events::policy::{Liveness, Policy};
use longwatch_events::position::Position;
use longwatch_events::subject::{self, LogStream};
use longwatch_events::time::{Clock as _, SystemClock};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::Size;
use super::given::Given;
use crate::system::cluster::{Cluster, Options};
use crate::system::process::usage;

/// Later than anything that is measured.
const SYNC_INTERVAL: &str = "10m";
/// How long is measured.
const MEASURED: Duration = Duration::from_secs(10);
/// Heartbeats are sent in so many portions a second.
const PORTIONS_PER_S: u32 = 100;
/// How long control may take until it has dealt with the servers.
const SETTLED_WITHIN: Duration = Duration::from_secs(300);
/// It has when nothing was appended for so long.
const QUIET: Duration = Duration::from_secs(3);
/// What a server says of itself that records its hundred cameras.
const LOAD: Load = Load {
    applied_revision: Position::START,
    lease_ms: None,
    cameras: 100,
    recording: 100,
    unsettled: 0,
    received_bytes_per_s: 25_000_000,
    cpu_millicores: 90,
    memory_bytes: 60 << 20,
    disk_free_bytes: 6 << 40,
    disk_total_bytes: 10 << 40,
    outbox_facts: 0,
    clock_stepped_ms: 0,
    storage: Storage::Ok,
    scrub: None,
    spool: None,
};
/// Between looks at the log.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What was measured.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Measured {
    /// Heartbeats that this process sent, per second.
    pub sent_per_s: f64,
    /// Heartbeats that NATS stored, per second.
    pub stored_per_s: f64,
    /// Heartbeats that control heard, per second.
    pub heard_per_s: f64,
    /// CPU of control, in percent of a core.
    pub control_cpu_percent: f64,
    /// CPU of nats-server, in percent of a core.
    pub nats_cpu_percent: f64,
    /// Memory of control at the end, in bytes.
    pub control_memory_bytes: f64,
}

/// Measures once, in `folder`. Call it from a thread that lives as long as the measurement.
///
/// # Errors
/// If something does not start or does not answer, or control takes a server for lost.
pub async fn measure(size: Size, folder: &Path) -> anyhow::Result<Measured> {
    let options = Options {
        folder: folder.to_owned(),
        controls: 1,
        database: None,
        servers: 0,
        capacity: None,
        segment_ms: None,
        object_store: None,
    };
    let mut cluster = Cluster::start_syncing(&options, SYNC_INTERVAL).await?;
    let log = cluster.log().await?;
    let given = Given::new(size);
    let adopted = adopt(&log, &given).await?;
    until_told(&log, given.servers().len() as u64).await?;
    let client = connect(&cluster.nats_url(), None, "longwatch-loadtest").await?;
    let sent = Cell::new(0);
    let sending = send(given.servers(), adopted, &sent, async |subject, payload| {
        Ok(client.publish(subject, payload.into()).await?)
    });
    tokio::select! {
        failed = sending => match failed? {},
        measured = while_sending(&mut cluster, &log, &sent) => measured,
    }
}

/// Appends the policy and the servers; answers where the last of them stands.
async fn adopt(log: &JetStreamLog, given: &Given) -> anyhow::Result<Position> {
    let liveness = Liveness {
        max_heartbeats_per_s: u32::try_from(given.servers().len())?.max(1_000),
        ..Liveness::default()
    };
    let policy = PolicyChanged { policy: Policy { liveness, ..Policy::default() } };
    let mut last = log.append(entry(given, Event::PolicyChanged(policy), Some(Position::START))).await?;
    let servers: Vec<_> = given.servers_adopted().collect();
    for some in servers.chunks(MAX_ATOMIC_ENTRIES / 2) {
        let entries = some.iter().flat_map(|[joined, adopted]| {
            [entry(given, joined.clone(), Some(Position::START)), entry(given, adopted.clone(), None)]
        });
        last = log.append_atomically(entries.collect()).await?;
    }
    Ok(last)
}

fn entry(given: &Given, event: Event, expected_last: Option<Position>) -> Entry {
    let (stream, subject) = subject::of(&event);
    let envelope = given.envelope(event);
    Entry {
        stream,
        subject,
        id: envelope.id,
        payload: envelope.encode().into(),
        expected_last,
        connection: None,
    }
}

/// Waits until every server was told what to record.
async fn until_told(log: &JetStreamLog, servers: u64) -> anyhow::Result<()> {
    let deadline = Instant::now() + SETTLED_WITHIN;
    while log.end(LogStream::Assignments).await?.0 < servers {
        ensure!(Instant::now() < deadline, "control does not tell every server what to record");
        sleep(LOOK_EVERY).await;
    }
    Ok(())
}

async fn while_sending(
    cluster: &mut Cluster,
    log: &JetStreamLog,
    sent: &Cell<u64>,
) -> anyhow::Result<Measured> {
    until_quiet(log).await?;
    let before = Count::now(cluster, log, sent).await?;
    sleep(MEASURED).await;
    let after = Count::now(cluster, log, sent).await?;
    let seconds = after.at.duration_since(before.at).as_secs_f64();
    let rate = |of: fn(&Count) -> u64| (of(&after) - of(&before)) as f64 / seconds;
    Ok(Measured {
        sent_per_s: rate(|count| count.sent),
        stored_per_s: rate(|count| count.stored),
        heard_per_s: rate(|count| count.heard),
        control_cpu_percent: rate(|count| count.control_cpu_ms) / 10.0,
        nats_cpu_percent: rate(|count| count.nats_cpu_ms) / 10.0,
        control_memory_bytes: after.control_memory_bytes as f64,
    })
}

/// Waits until control has nothing more to say about the servers.
async fn until_quiet(log: &JetStreamLog) -> anyhow::Result<()> {
    let deadline = Instant::now() + SETTLED_WITHIN;
    let (mut end, mut since) = (Position::START, Instant::now());
    while since.elapsed() < QUIET {
        ensure!(Instant::now() < deadline, "control does not come to rest");
        sleep(LOOK_EVERY).await;
        let now = log.end(LogStream::Log).await?;
        if now != end {
            (end, since) = (now, Instant::now());
        }
    }
    Ok(())
}

/// How far everything has come at a moment.
struct Count {
    at: Instant,
    sent: u64,
    stored: u64,
    heard: u64,
    control_cpu_ms: u64,
    nats_cpu_ms: u64,
    control_memory_bytes: u64,
}

impl Count {
    async fn now(cluster: &mut Cluster, log: &JetStreamLog, sent: &Cell<u64>) -> anyhow::Result<Self> {
        let heard = heard(cluster.api(0).base()).await?;
        let stored = log.end(LogStream::Heartbeats).await?.0;
        let control = usage(cluster.control(0).pid()?)?;
        let nats = usage(cluster.nats().pid()?)?;
        Ok(Self {
            at: Instant::now(),
            sent: sent.get(),
            stored,
            heard,
            control_cpu_ms: control.cpu_ms,
            nats_cpu_ms: nats.cpu_ms,
            control_memory_bytes: control.memory_bytes,
        })
    }
}

/// How many heartbeats control says that it heard.
async fn heard(base: &str) -> anyhow::Result<u64> {
    let text = reqwest::get(format!("{base}/metrics")).await?.error_for_status()?.text().await?;
    for lost in text.lines().filter_map(|line| line.strip_prefix("longwatch_servers_lost_total ")) {
        ensure!(lost.trim() == "0", "control took {lost} server(s) for lost that this process spoke for");
    }
    let count = text.lines().find_map(|line| line.strip_prefix("longwatch_heartbeats_total "));
    let count = count.context("control does not say how many heartbeats it heard")?;
    count.trim().parse().context("not a number of heartbeats")
}

/// Sends a heartbeat a second of each server, spread evenly. Ends only if one cannot be sent.
async fn send(
    servers: &[ServerId],
    applied_revision: Position,
    sent: &Cell<u64>,
    publish: impl AsyncFn(String, Vec<u8>) -> anyhow::Result<()>,
) -> anyhow::Result<Infallible> {
    let load = Load { applied_revision, ..LOAD };
    let boot_id = BootId::generate(&SystemIds);
    let mut portions = interval(Duration::from_secs(1) / PORTIONS_PER_S);
    portions.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for sequence in 1.. {
        for portion in 0..PORTIONS_PER_S as usize {
            portions.tick().await;
            for server_id in servers.iter().skip(portion).step_by(PORTIONS_PER_S as usize) {
                let heartbeat =
                    ServerHeartbeat { server_id: *server_id, boot_id, sequence, load, media_url: None };
                publish(subject::heartbeat(*server_id), envelope(heartbeat).encode()).await?;
                sent.set(sent.get() + 1);
            }
        }
    }
    unreachable!("there is always another second")
}

/// As a worker makes it.
fn envelope(heartbeat: ServerHeartbeat) -> Envelope {
    let server_id = heartbeat.server_id;
    Envelope {
        id: EventId::generate(&SystemIds),
        source: format!("/server/{server_id}"),
        time: SystemClock.now(),
        tenant: None,
        actor: format!("server:{server_id}"),
        causation: None,
        event: Event::ServerHeartbeat(heartbeat),
    }
}
