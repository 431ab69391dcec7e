//! The fold, the decisions and the snapshot of one system, timed once each, in a process of their own: what the
//! allocator keeps of one measurement would else be missing from the memory of the next.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufReader, BufWriter};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use longwatch_control::assignments::set;
use longwatch_control::decide::placement::{self, Evidence, Inputs, Plan, Scope};
use longwatch_control::decide::rederive::{ENTRIES_AT_ONCE, ENTRIES_PER_EVENT};
use longwatch_control::decide::{scaling, what_if};
use longwatch_control::observed::Pace;
use longwatch_events::envelope::Envelope;
use longwatch_events::event::{Event, PlanEntry, ServerLost};
use longwatch_events::fold;
use longwatch_events::hash::Sha256;
use longwatch_events::id::ServerId;
use longwatch_events::snapshot;
use longwatch_events::state::State;
use serde::{Deserialize, Serialize};

use super::given::{self, Given, stored_at};
use super::{Size, timed};

/// So many events are made before they are folded, so that making them is not timed and few of them are in memory.
const PIECE: u32 = 2_000;

/// What was measured: times in seconds.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Measured {
    /// Folding that all servers joined and were adopted.
    pub servers_s: f64,
    /// Events of cameras, read from their bytes and applied, per second.
    pub decoded_and_applied_per_s: f64,
    /// The same, applied only.
    pub applied_per_s: f64,
    /// Bytes of memory that the process grew by with State and its index, per camera.
    pub memory_bytes_per_camera: f64,
    /// The first plan, which gives every camera a server.
    pub first_plan_s: f64,
    /// Folding it.
    pub first_plan_folded_s: f64,
    /// The same as control appends it: so many changes at once, and then a plan of what is left.
    pub first_plan_in_turns_s: f64,
    /// A plan when there is nothing to do.
    pub nothing_to_plan_s: f64,
    /// Folding that a server is lost, and the plan that follows.
    pub one_lost_s: f64,
    /// The desired sets of the servers that this plan changed.
    pub one_lost_told_s: f64,
    /// Folding that a twentieth of the servers is lost, and the plan that follows.
    pub twentieth_lost_s: f64,
    /// The desired sets of the servers that this plan changed.
    pub twentieth_lost_told_s: f64,
    /// What would happen if one server were lost.
    pub what_if_s: f64,
    /// How many servers there should be.
    pub scaling_s: f64,
    /// The hash of State.
    pub hash_s: f64,
    /// Writing a snapshot, hash included.
    pub snapshot_written_s: f64,
    /// Reading it, hash and index included.
    pub snapshot_read_s: f64,
    /// Its size, per camera.
    pub snapshot_bytes_per_camera: f64,
}

/// Measures everything once; `folder` is for the snapshot.
///
/// # Errors
/// If an event cannot be folded, a camera finds no place, or the snapshot cannot be written.
pub fn measure(size: Size, folder: &Path) -> anyhow::Result<Measured> {
    let mut measured = Measured::default();
    folded(size, &mut measured)?;
    let (mut log, given) = applied(size, &mut measured)?;
    decided(size, &mut log, &given, &mut measured)?;
    written(size, &log.state, folder, &mut measured)?;
    drop(log);
    measured.first_plan_in_turns_s = planned_in_turns(size)?.as_secs_f64();
    Ok(measured)
}

/// State, and what comes next in its log.
#[derive(Default)]
struct Log {
    state: State,
}

impl Log {
    fn apply(&mut self, event: &Event) -> anyhow::Result<()> {
        let position = self.state.position.next();
        let outcome = fold::apply(&mut self.state, position, stored_at(position), event)?;
        ensure!(outcome == fold::Outcome::Applied, "{event:?} came to {outcome:?}");
        Ok(())
    }

    fn apply_all<'a>(&mut self, events: impl IntoIterator<Item = &'a Event>) -> anyhow::Result<Duration> {
        let (applied, time) = timed(|| events.into_iter().try_for_each(|event| self.apply(event)));
        applied.map(|()| time)
    }

    fn apply_bytes(&mut self, records: &[Vec<u8>]) -> anyhow::Result<Duration> {
        let (applied, time) =
            timed(|| records.iter().try_for_each(|bytes| self.apply(&Envelope::decode(bytes)?.event)));
        applied.map(|()| time)
    }

    fn plan(&self) -> Plan {
        self.with_inputs(placement::plan)
    }

    /// As much of it as control appends at once.
    fn plan_in_turns(&self) -> Vec<PlanEntry> {
        self.with_inputs(|inputs| placement::plan_within(inputs, ENTRIES_AT_ONCE))
    }

    fn with_inputs<T>(&self, plan: impl FnOnce(&Inputs<'_>) -> T) -> T {
        let (evidence, lose) = (Evidence::new(), BTreeSet::new());
        let now = stored_at(self.state.position);
        let (state, scope) = (&self.state, Scope::All);
        plan(&Inputs { state, now, evidence: &evidence, lose: &lose, scope })
    }

    fn apply_plan(&mut self, plan: &Plan) -> anyhow::Result<Duration> {
        self.apply_entries(&plan.entries)
    }

    fn apply_entries(&mut self, entries: &[PlanEntry]) -> anyhow::Result<Duration> {
        let parts = entries.chunks(ENTRIES_PER_EVENT);
        let parts: Vec<_> = parts.map(|entries| given::plan(entries.to_vec(), self.state.position)).collect();
        self.apply_all(&parts)
    }

    fn lose(&mut self, servers: &[ServerId]) -> anyhow::Result<Duration> {
        let now = stored_at(self.state.position);
        let lost = |server_id: &ServerId| {
            Event::ServerLost(ServerLost {
                server_id: *server_id,
                last_heartbeat: None,
                heard_at: now,
                judged_at: now.plus_millis(3_001),
                lease_ms: 3_000,
            })
        };
        let events: Vec<_> = servers.iter().map(lost).collect();
        self.apply_all(&events)
    }
}

/// A system as it grows, read from bytes: cameras are added and placed. What is measured is gone when this returns.
fn folded(size: Size, measured: &mut Measured) -> anyhow::Result<()> {
    let mut given = Given::new(size);
    let before = resident_bytes()?;
    let mut log = Log::default();
    log.apply_all(&given.tenants_created().collect::<Vec<_>>())?;
    log.apply_all(given.servers_adopted().flatten().collect::<Vec<_>>().iter())?;
    let mut time = Duration::ZERO;
    loop {
        let added = given.cameras_added(PIECE);
        if added.is_empty() {
            break;
        }
        let plan = given.dealt_out(&added);
        let records: Vec<_> = added.into_iter().map(|event| given.envelope(event).encode()).collect();
        time += log.apply_bytes(&records)?;
        log.apply(&plan)?;
    }
    let grown = resident_bytes()?.saturating_sub(before);
    measured.memory_bytes_per_camera = grown as f64 / f64::from(size.cameras);
    measured.decoded_and_applied_per_s = per_s(size.cameras, time);
    ensure!(
        log.state.cameras().all(|(_, _, camera)| camera.assignment().is_some()),
        "a camera has no server"
    );
    Ok(())
}

/// The same cameras, not placed, from events that are in memory.
fn applied(size: Size, measured: &mut Measured) -> anyhow::Result<(Log, Given)> {
    let mut given = Given::new(size);
    let mut log = Log::default();
    log.apply_all(&given.tenants_created().collect::<Vec<_>>())?;
    let servers: Vec<_> = given.servers_adopted().flatten().collect();
    measured.servers_s = log.apply_all(&servers)?.as_secs_f64();
    let mut time = Duration::ZERO;
    loop {
        let added = given.cameras_added(PIECE);
        if added.is_empty() {
            break;
        }
        time += log.apply_all(&added)?;
    }
    measured.applied_per_s = per_s(size.cameras, time);
    Ok((log, given))
}

/// The first placement of all, plans and folds, as control appends it.
fn planned_in_turns(size: Size) -> anyhow::Result<Duration> {
    let (mut log, _given) = applied(size, &mut Measured::default())?;
    let mut time = Duration::ZERO;
    loop {
        let (entries, planned) = timed(|| log.plan_in_turns());
        if entries.is_empty() {
            return Ok(time);
        }
        time += planned + log.apply_entries(&entries)?;
    }
}

fn decided(size: Size, log: &mut Log, given: &Given, measured: &mut Measured) -> anyhow::Result<()> {
    let (plan, time) = timed(|| log.plan());
    ensure!(plan.entries.len() == size.cameras as usize, "the first plan places {}", plan.entries.len());
    measured.first_plan_s = time.as_secs_f64();
    measured.first_plan_folded_s = log.apply_plan(&plan)?.as_secs_f64();
    drop(plan);
    ensure!(log.state.index().waiting().next().is_none(), "a camera found no server");

    let (plan, time) = timed(|| log.plan());
    ensure!(plan.entries.is_empty(), "a plan that was folded is followed by another");
    measured.nothing_to_plan_s = time.as_secs_f64();

    let now = stored_at(log.state.position);
    let [first, rest @ ..] = given.servers() else { anyhow::bail!("there is no server") };
    let (outlook, time) = timed(|| what_if::lose(&log.state, now, &BTreeSet::from([*first])));
    ensure!(outlook.unplaced.is_empty(), "{} cameras would find no server", outlook.unplaced.len());
    measured.what_if_s = time.as_secs_f64();
    measured.scaling_s = timed(|| scaling::fleet(&log.state)).1.as_secs_f64();

    let lost = lost(log, &[*first])?;
    (measured.one_lost_s, measured.one_lost_told_s) = (lost.planned.as_secs_f64(), lost.told.as_secs_f64());
    let twentieth = given.servers().len().div_ceil(20).min(rest.len());
    let lost = self::lost(log, &rest[..twentieth])?;
    (measured.twentieth_lost_s, measured.twentieth_lost_told_s) =
        (lost.planned.as_secs_f64(), lost.told.as_secs_f64());
    Ok(())
}

/// What a loss took.
struct Lost {
    /// To fold and plan.
    planned: Duration,
    /// To make the sets of the servers that changed.
    told: Duration,
}

fn lost(log: &mut Log, servers: &[ServerId]) -> anyhow::Result<Lost> {
    let before = log.state.position;
    let folded = log.lose(servers)?;
    let (plan, planned) = timed(|| log.plan());
    log.apply_plan(&plan)?;
    let left = servers.iter().any(|server| !log.state.index().roster(*server).is_empty());
    ensure!(!left, "a camera stayed on a server that is lost");
    let pace = Pace::of(&log.state.policy.liveness, log.state.fleet());
    let changed = log.state.servers().filter(|(id, _)| log.state.index().changed(*id) > before);
    let changed: Vec<_> = changed.map(|(id, _)| id).collect();
    let (_, told) = timed(|| {
        changed
            .iter()
            .filter_map(|id| set::desired(&log.state, *id, pace))
            .map(|set| set.wanted.len())
            .sum::<usize>()
    });
    Ok(Lost { planned: folded + planned, told })
}

fn written(size: Size, state: &State, folder: &Path, measured: &mut Measured) -> anyhow::Result<()> {
    let (hash, time) = timed(|| state.content_hash());
    measured.hash_s = time.as_secs_f64();
    let path = folder.join("state.snapshot");
    let record = Sha256::of(b"the last record");
    let to = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let (done, time) = timed(|| snapshot::write(state, record, BufWriter::with_capacity(1 << 20, to)));
    done?;
    measured.snapshot_written_s = time.as_secs_f64();
    measured.snapshot_bytes_per_camera = fs::metadata(&path)?.len() as f64 / f64::from(size.cameras);
    let from = BufReader::with_capacity(1 << 20, File::open(&path)?);
    let (read, time) = timed(|| snapshot::read(from));
    measured.snapshot_read_s = time.as_secs_f64();
    ensure!(read?.state.content_hash() == hash, "the snapshot reads back as another State");
    fs::remove_file(&path)?;
    Ok(())
}

fn per_s(count: u32, time: Duration) -> f64 {
    f64::from(count) / time.as_secs_f64().max(1e-9)
}

/// Resident memory of this process, in bytes (`/proc/self/statm`, see proc(5)).
fn resident_bytes() -> anyhow::Result<u64> {
    let statm = fs::read_to_string("/proc/self/statm")?;
    let pages = statm.split_whitespace().nth(1).context("/proc/self/statm has another form")?;
    Ok(pages.parse::<u64>()? * rustix::param::page_size() as u64)
}
