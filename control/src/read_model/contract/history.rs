//! Histories that nobody thought of: whatever happens in `LOG`, the rows are those that follow from State as a whole.
//!
//! The projection looks at the few cameras that an event may touch. What is compared with it here looks at everything
//! after every event, and knows nothing of events.

use std::collections::{BTreeMap, BTreeSet};

use longwatch_events::event::{
    CameraAdded, CameraChanged, CameraDeleted, CameraMoveRequested, Decision, DetachedCameras, Event, Part,
    PlanEntry, PlanMade, ServerAdopted, ServerChanged, ServerDetached, ServerDrainStarted,
    ServerDrainStopped, ServerLost, ServerReturned, TenantDeleted,
};
use longwatch_events::id::{CameraId, CopyKey, ServerId, TenantId};
use longwatch_events::position::{Epoch, Position};
use longwatch_events::reason::{AbandonReason, AssignReason, FinishReason, UnplacedReason};
use longwatch_events::settings::{RecordingMode, Retention};
use longwatch_events::state::{Placement, State};
use longwatch_events::subject::LogStream;
use longwatch_events::time::Timestamp;
use proptest::collection::vec;
use proptest::prelude::{Strategy, any};
use proptest::strategy::{Just, Union, ValueTree as _};
use proptest::test_runner::{Config, TestRunner};
use tokio::runtime::Handle;

use super::super::rows::{CameraRow, Change, CopyRow, ServerRow, TenantRow};
use super::super::{Applied, Batch};
use super::engine::Engine;
use super::recorder::Recorder;
use super::replicas::cut;
use super::world::{World, at, camera_settings};

/// What happens next. Numbers stand for things that are or were there, counted round.
#[derive(Debug, Clone)]
enum Step {
    Tenant,
    DeleteTenant(usize),
    Server,
    Camera { tenant: usize, copies: u8 },
    ChangeCamera { camera: usize, copies: u8, is_off: bool },
    DeleteCamera(usize),
    RequestMove { camera: usize, copy: u8, server: usize },
    Adopt(usize),
    Rename(usize),
    Lose(usize),
    Return(usize),
    StartDrain(usize),
    StopDrain(usize),
    Detach { server: usize, remove: bool },
    Plan(Vec<(usize, u8, Wish)>),
}

/// What a plan wants with a copy.
#[derive(Debug, Clone, Copy)]
enum Wish {
    Assign(usize, AssignReason),
    Unplace(UnplacedReason),
    Move(usize, AssignReason),
    Finish { stale: bool },
    Abandon { stale: bool },
}

fn wishes() -> impl Strategy<Value = Wish> {
    let thing = || any::<u8>().prop_map(usize::from);
    let assign = (thing(), Union::new([AssignReason::LeastLoaded, AssignReason::Failover].map(Just)));
    let moved = (thing(), Union::new([AssignReason::Drain, AssignReason::Rebalance].map(Just)));
    let unplaced = [UnplacedReason::NoTakeover, UnplacedReason::Disabled, UnplacedReason::Preempted];
    let stale = || any::<u8>().prop_map(|chance| chance < 40);
    Union::new_weighted(vec![
        (6, assign.prop_map(|(server, reason)| Wish::Assign(server, reason)).boxed()),
        (1, Union::new(unplaced.map(Just)).prop_map(Wish::Unplace).boxed()),
        (4, moved.prop_map(|(server, reason)| Wish::Move(server, reason)).boxed()),
        (3, stale().prop_map(|stale| Wish::Finish { stale }).boxed()),
        (1, stale().prop_map(|stale| Wish::Abandon { stale }).boxed()),
    ])
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let thing = || any::<u8>().prop_map(usize::from);
    let change = (thing(), 1..4_u8, any::<u8>());
    let entries = vec((thing(), 0..3_u8, wishes()), 1..8);
    let step = Union::new_weighted(vec![
        (1, Just(Step::Tenant).boxed()),
        (1, thing().prop_map(Step::DeleteTenant).boxed()),
        (4, Just(Step::Server).boxed()),
        (5, (thing(), 1..4_u8).prop_map(|(tenant, copies)| Step::Camera { tenant, copies }).boxed()),
        (
            2,
            change
                .prop_map(|(camera, copies, chance)| Step::ChangeCamera {
                    camera,
                    copies,
                    is_off: chance < 60,
                })
                .boxed(),
        ),
        (1, thing().prop_map(Step::DeleteCamera).boxed()),
        (
            1,
            (thing(), 0..3_u8, thing())
                .prop_map(|(camera, copy, server)| Step::RequestMove { camera, copy, server })
                .boxed(),
        ),
        (1, thing().prop_map(Step::Adopt).boxed()),
        (1, thing().prop_map(Step::Rename).boxed()),
        (2, thing().prop_map(Step::Lose).boxed()),
        (1, thing().prop_map(Step::Return).boxed()),
        (1, thing().prop_map(Step::StartDrain).boxed()),
        (1, thing().prop_map(Step::StopDrain).boxed()),
        (1, (thing(), any::<bool>()).prop_map(|(server, remove)| Step::Detach { server, remove }).boxed()),
        (12, entries.prop_map(Step::Plan).boxed()),
    ]);
    vec(step, 1..60)
}

/// All that is or was there.
#[derive(Default)]
struct Things {
    tenants: Vec<TenantId>,
    servers: Vec<ServerId>,
    cameras: Vec<(TenantId, CameraId)>,
}

fn nth<T: Copy>(things: &[T], number: usize) -> Option<T> {
    things.get(number % things.len().max(1)).copied()
}

/// A history, and what is to be told of it.
struct Told<'m> {
    world: World<'m>,
    things: Things,
    rows: Rows,
    given: BTreeSet<(CopyKey, Epoch, ServerId)>,
}

impl<'m> Told<'m> {
    /// All that happens in `steps`, as far as it can.
    async fn of(recorder: &'m Recorder, steps: &[Step]) -> Self {
        let (world, things) = (World::new(recorder), Things::default());
        let mut told = Self { world, things, rows: Rows::default(), given: BTreeSet::new() };
        // Something to begin with.
        for step in [Step::Tenant, Step::Server, Step::Server, Step::Camera { tenant: 0, copies: 2 }] {
            told.happens(&step).await;
        }
        for step in steps {
            told.happens(step).await;
        }
        told.rows.put_all(&told.world.state);
        told
    }

    async fn happens(&mut self, step: &Step) {
        match step {
            // One that joins is announced first: two events.
            Step::Server => {
                let name = format!("s{}", self.things.servers.len());
                let server = self.world.server(&name).await;
                self.things.servers.push(server);
            }
            Step::Tenant => {
                let tenant = self.world.tenant("t").await;
                self.things.tenants.push(tenant);
            }
            Step::Camera { tenant, copies } => {
                let Some(tenant_id) = nth(&self.things.tenants, *tenant) else { return };
                let camera_id = CameraId::generate(&self.world.ids);
                let mut settings = camera_settings("c");
                settings.copies = *copies;
                settings.retention.max_days = Some(1 + u32::from(*copies));
                self.things.cameras.push((tenant_id, camera_id));
                self.event(Event::CameraAdded(CameraAdded { tenant_id, camera_id, settings })).await;
            }
            Step::DeleteTenant(_)
            | Step::ChangeCamera { .. }
            | Step::DeleteCamera(_)
            | Step::RequestMove { .. }
            | Step::Adopt(_)
            | Step::Rename(_)
            | Step::Lose(_)
            | Step::Return(_)
            | Step::StartDrain(_)
            | Step::StopDrain(_)
            | Step::Detach { .. }
            | Step::Plan(_) => {
                if let Some(event) = self.event_of(step) {
                    self.event(event).await;
                }
            }
        }
    }

    async fn event(&mut self, event: Event) {
        let before = self.world.state.clone();
        let position = self.world.happens(event).await;
        self.remember(&before, position);
    }

    /// What the rows remember of this moment, although State does not.
    fn remember(&mut self, before: &State, position: Position) {
        let (now, at) = (&self.world.state, at(self.world.seconds));
        let keys: BTreeSet<_> = places(before).into_keys().chain(places(now).into_keys()).collect();
        let (was, is) = (places(before), places(now));
        for key in keys {
            let place = |places: &BTreeMap<_, _>| places.get(&key).copied().unwrap_or_default();
            let (was, is): (Placement, Placement) = (place(&was), place(&is));
            if was != is {
                let lost = was.assignment().and_then(|a| before.server(a.server_id)?.lost);
                self.rows.placements.insert((key, position), (at, is, lost.is_some()));
            }
        }
        for (tenant_id, camera_id, camera) in before.cameras() {
            if now.camera(tenant_id, camera_id).is_none() {
                self.rows.former.insert((tenant_id, camera_id), camera.settings.retention());
            }
        }
        for (tenant_id, camera_id, camera) in now.cameras() {
            for (copy, state) in camera.copies() {
                for assignment in state.assignment().into_iter().chain(state.successor()) {
                    let key = CopyKey { tenant_id, camera_id, copy };
                    self.given.insert((key, assignment.epoch, assignment.server_id));
                }
            }
        }
        self.rows.epochs = self.given.clone();
    }

    /// The event that `step` stands for, if it can happen.
    fn event_of(&self, step: &Step) -> Option<Event> {
        let server = |number: &usize| nth(&self.things.servers, *number);
        let camera = |number: &usize| nth(&self.things.cameras, *number);
        let state = &self.world.state;
        Some(match step {
            Step::Tenant | Step::Server | Step::Camera { .. } => return None,
            Step::DeleteTenant(tenant) => {
                let tenant_id =
                    nth(&self.things.tenants, *tenant).filter(|id| state.tenant(*id).is_some())?;
                Event::TenantDeleted(TenantDeleted { tenant_id })
            }
            Step::ChangeCamera { camera: number, copies, is_off } => {
                let (tenant_id, camera_id) = camera(number)?;
                let mut settings = camera_settings("changed");
                settings.copies = *copies;
                if *is_off {
                    settings.recording.mode = RecordingMode::Off;
                }
                Event::CameraChanged(CameraChanged { tenant_id, camera_id, settings })
            }
            Step::DeleteCamera(number) => {
                let (tenant_id, camera_id) = camera(number)?;
                Event::CameraDeleted(CameraDeleted { tenant_id, camera_id })
            }
            Step::RequestMove { camera: number, copy, server: to } => {
                let ((tenant_id, camera_id), server_id) = (camera(number)?, server(to)?);
                Event::CameraMoveRequested(CameraMoveRequested {
                    tenant_id,
                    camera_id,
                    copy: *copy,
                    server_id,
                })
            }
            Step::Adopt(number) => Event::ServerAdopted(ServerAdopted { server_id: server(number)? }),
            Step::Rename(number) => {
                let server_id = server(number)?;
                let mut settings = state.server(server_id)?.settings.clone();
                settings.name.push('x');
                Event::ServerChanged(ServerChanged { server_id, settings })
            }
            Step::Lose(number) => Event::ServerLost(ServerLost {
                server_id: server(number)?,
                last_heartbeat: None,
                heard_at: at(self.world.seconds - 20),
                judged_at: at(self.world.seconds),
                lease_ms: 10_000,
            }),
            Step::Return(number) => {
                Event::ServerReturned(ServerReturned { server_id: server(number)?, heartbeat: Position(1) })
            }
            Step::StartDrain(number) => {
                Event::ServerDrainStarted(ServerDrainStarted { server_id: server(number)? })
            }
            Step::StopDrain(number) => {
                Event::ServerDrainStopped(ServerDrainStopped { server_id: server(number)? })
            }
            Step::Detach { server: number, remove } => {
                let cameras = if *remove { DetachedCameras::Remove } else { DetachedCameras::Keep };
                Event::ServerDetached(ServerDetached { server_id: server(number)?, cameras })
            }
            Step::Plan(wishes) => Event::PlanMade(PlanMade {
                basis: state.position,
                rules: 1,
                decided_at: Some(at(self.world.seconds)),
                part: Part::WHOLE,
                entries: wishes
                    .iter()
                    .filter_map(|(number, copy, wish)| self.entry(*number, *copy, *wish))
                    .collect(),
            }),
        })
    }

    fn entry(&self, camera: usize, copy: u8, wish: Wish) -> Option<PlanEntry> {
        let (tenant_id, camera_id) = nth(&self.things.cameras, camera)?;
        let successor = self.world.state.copy(CopyKey { tenant_id, camera_id, copy });
        let successor = successor.and_then(|(_, copy)| copy.successor());
        let epoch = |stale: bool| successor.filter(|_| !stale).map_or(Epoch(1), |successor| successor.epoch);
        let decision = match wish {
            Wish::Assign(server, reason) => {
                Decision::Assign { server_id: nth(&self.things.servers, server)?, reason }
            }
            Wish::Unplace(reason) => Decision::Unplace { reason },
            Wish::Move(server, reason) => {
                Decision::Move { server_id: nth(&self.things.servers, server)?, reason }
            }
            Wish::Finish { stale } => {
                let reason = FinishReason::FirstKeyframe;
                Decision::Finish { epoch: epoch(stale), reason, evidence: Some(Position(1)) }
            }
            Wish::Abandon { stale } => {
                Decision::Abandon { epoch: epoch(stale), reason: AbandonReason::TimedOut }
            }
        };
        Some(PlanEntry { tenant_id, camera_id, copy, decision })
    }
}

/// Where every copy of every camera is.
fn places(state: &State) -> BTreeMap<CopyKey, Placement> {
    let copies = state.cameras().flat_map(|(tenant_id, camera_id, camera)| {
        let of = move |(copy, state): (u8, &longwatch_events::state::CameraCopy)| {
            (CopyKey { tenant_id, camera_id, copy }, state.placement)
        };
        camera.copies().map(of)
    });
    copies.collect()
}

/// The tables of `LOG`.
#[derive(Debug, Default, PartialEq)]
struct Rows {
    tenants: BTreeMap<TenantId, TenantRow>,
    servers: BTreeMap<ServerId, ServerRow>,
    cameras: BTreeMap<(TenantId, CameraId), CameraRow>,
    former: BTreeMap<(TenantId, CameraId), Retention>,
    copies: BTreeMap<CopyKey, CopyRow>,
    placements: BTreeMap<(CopyKey, Position), (Timestamp, Placement, bool)>,
    epochs: BTreeSet<(CopyKey, Epoch, ServerId)>,
}

impl Rows {
    /// What follows from State as it is.
    fn put_all(&mut self, state: &State) {
        for (tenant_id, tenant) in state.tenants() {
            let (name, created_at, version) = (tenant.name.clone(), tenant.created_at, tenant.version);
            self.tenants.insert(tenant_id, TenantRow { tenant_id, name, created_at, version });
        }
        for (server_id, server) in state.servers() {
            let row = ServerRow {
                server_id,
                settings: server.settings.clone(),
                has_worker: server.public_key.is_some(),
                membership: server.membership,
                lost_since: server.lost.map(|lost| lost.heard_at),
                draining_since: server.draining_since,
                created_at: server.created_at,
                version: server.version,
            };
            self.servers.insert(server_id, row);
        }
        for (tenant_id, camera_id, camera) in state.cameras() {
            let (settings, created_at, version) = (camera.settings.told(), camera.created_at, camera.version);
            let row = CameraRow { tenant_id, camera_id, settings, created_at, version };
            self.cameras.insert((tenant_id, camera_id), row);
            for (copy, state) in camera.copies() {
                let key = CopyKey { tenant_id, camera_id, copy };
                let (placement, home, successor) =
                    (state.placement, state.home(), state.successor().copied());
                self.copies.insert(key, CopyRow { key, placement, home, successor });
            }
        }
    }

    /// What these changes, one by one, lead to.
    fn after(changes: &[(Position, Change)]) -> Self {
        let mut rows = Self::default();
        for (_, change) in changes {
            rows.change(change.clone());
        }
        rows
    }

    fn change(&mut self, change: Change) {
        match change {
            Change::PutTenant(row) => drop(self.tenants.insert(row.tenant_id, row)),
            Change::DeleteTenant(id) => drop(self.tenants.remove(&id).unwrap()),
            Change::PutServer(row) => drop(self.servers.insert(row.server_id, row)),
            Change::PutCamera(row) => drop(self.cameras.insert((row.tenant_id, row.camera_id), row)),
            Change::DeleteCamera(tenant, camera) => drop(self.cameras.remove(&(tenant, camera)).unwrap()),
            Change::PutCopy(row) => drop(self.copies.insert(row.key, row)),
            Change::DeleteCopy(key) => drop(self.copies.remove(&key).unwrap()),
            Change::RememberPlacement { key, position, at, placement, from_lost } => {
                let before = self.placements.insert((key, position), (at, placement, from_lost));
                assert_eq!(before, None, "one place is given once");
            }
            Change::RememberEpoch { key, epoch, server_id } => {
                assert!(self.epochs.insert((key, epoch, server_id)), "an epoch is given once");
            }
            Change::RememberRetention(tenant, camera, kept) => {
                assert_eq!(self.former.insert((tenant, camera), kept), None, "a camera is deleted once");
            }
            Change::RememberCreation { .. }
            | Change::Started(..)
            | Change::Recording(..)
            | Change::Interrupted { .. }
            | Change::PutSegment(_)
            | Change::PlaceSegment(_)
            | Change::DeleteSegment(_)
            | Change::NoteDamage(_)
            | Change::PutGap(..)
            | Change::PutTrigger(_)
            | Change::RejectFact { .. } => panic!("nothing in these histories does that: {change:?}"),
        }
    }

    /// All of it, written at once.
    fn batch(self, up_to: Position) -> Batch {
        let placed = self.placements.into_iter().map(|((key, position), (at, placement, from_lost))| {
            Change::RememberPlacement { key, position, at, placement, from_lost }
        });
        let former = self.former.into_iter();
        let former = former.map(|((tenant, camera), kept)| Change::RememberRetention(tenant, camera, kept));
        let given = self.epochs.into_iter();
        let given = given.map(|(key, epoch, server_id)| Change::RememberEpoch { key, epoch, server_id });
        let changes = (self.tenants.into_values().map(Change::PutTenant))
            .chain(self.servers.into_values().map(Change::PutServer))
            .chain(self.cameras.into_values().map(Change::PutCamera))
            .chain(former)
            .chain(self.copies.into_values().map(Change::PutCopy))
            .chain(placed)
            .chain(given)
            .map(|change| (up_to, change));
        let changes = changes.collect();
        Batch { stream: LogStream::Log, after: Position::START, up_to, record: None, changes }
    }
}

/// Runs `property` on so many histories.
fn on_histories(cases: u32, property: impl Fn(Vec<Step>, u64)) {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let histories = (steps(), 1..40_u64);
    let each = |(steps, cut)| {
        property(steps, cut);
        Ok(())
    };
    TestRunner::new(config).run(&histories, each).unwrap();
}

#[test]
fn whatever_happens_the_changes_lead_to_what_state_says() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    on_histories(256, |steps, _| {
        let recorder = Recorder::default();
        let told = runtime.block_on(Told::of(&recorder, &steps));
        assert_eq!(Rows::after(&recorder.taken(LogStream::Log).changes), told.rows);
    });
}

/// That the histories are worth it: everything that can befall a copy befalls some.
#[test]
fn the_histories_hold_moves_takeovers_and_copies_that_go() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (steps, mut runner) = (steps(), TestRunner::deterministic());
    let (mut moved, mut given_up, mut from_lost, mut copies_gone, mut cameras_gone) = (0, 0, 0, 0, 0);
    for _ in 0..200 {
        let steps = steps.new_tree(&mut runner).unwrap().current();
        let recorder = Recorder::default();
        let told = runtime.block_on(Told::of(&recorder, &steps));
        let placed: BTreeSet<_> = told
            .rows
            .placements
            .iter()
            .filter_map(|((key, position), (_, placement, _))| {
                placement.assignment().map(|a| (*key, a.epoch, a.server_id, *position))
            })
            .collect();
        moved += placed.iter().filter(|(_, epoch, _, position)| Epoch::from(*position) != *epoch).count();
        let is_placed = |given: &(CopyKey, Epoch, ServerId)| {
            placed.iter().any(|(key, epoch, server, _)| (*key, *epoch, *server) == *given)
        };
        given_up += told.rows.epochs.iter().filter(|given| !is_placed(given)).count();
        from_lost += told.rows.placements.values().filter(|(_, _, from_lost)| *from_lost).count();
        for (_, change) in &recorder.taken(LogStream::Log).changes {
            copies_gone += usize::from(matches!(change, Change::DeleteCopy(_)));
            cameras_gone += usize::from(matches!(change, Change::DeleteCamera(..)));
        }
    }
    let seen = [moved, given_up, from_lost, copies_gone, cameras_gone];
    assert!(seen.iter().all(|times| *times > 20), "{seen:?}");
}

pub(super) async fn whatever_happens_and_however_it_is_cut_the_rows_are_what_state_says(engine: Engine) {
    // Keeps the engine's server up between the cases.
    let _another = engine.database().await;
    let runtime = Handle::current();
    let property = |steps: Vec<Step>, records: u64| {
        runtime.block_on(written_in_parts(engine, &steps, records));
    };
    tokio::task::block_in_place(|| on_histories(24, property));
}

async fn written_in_parts(engine: Engine, steps: &[Step], records: u64) {
    let recorder = Recorder::default();
    let told = Told::of(&recorder, steps).await;
    let log = recorder.taken(LogStream::Log);
    let (database, as_a_whole) = (engine.database().await, Engine::Sqlite.database().await);
    let (model, expected) = (database.open().await, as_a_whole.open().await);

    let mut known = Position::START;
    while known < log.up_to {
        let part = cut(&log, known, records);
        assert_eq!(model.apply(&part).await.unwrap(), Applied::Written);
        known = part.up_to;
    }

    // Of the other engine, perhaps: a hash is the same everywhere.
    assert_eq!(expected.apply(&told.rows.batch(log.up_to)).await.unwrap(), Applied::Written);
    assert_eq!(model.content_hash().await.unwrap(), expected.content_hash().await.unwrap());
    drop((model, expected));
    database.remove().await;
    as_a_whole.remove().await;
}
