//! Placement against an independent oracle: given any history of servers, cameras and plans, a plan keeps every
//! capacity, moves nothing that may stay, leaves nobody unplaced while there is room, and is followed by an empty one.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;

use longwatch_control::decide::placement::{RULES, plan};
use longwatch_events::event::{
    CameraAdded, CameraChanged, CameraDeleted, Decision, Event, PlanMade, ServerAdopted, ServerChanged,
    ServerDetached, ServerJoined, ServerLost, ServerReturned, TenantCreated,
};
use longwatch_events::fold;
use longwatch_events::id::{CameraId, EventId, ServerId, TenantId};
use longwatch_events::position::Position;
use longwatch_events::sealed::{Base64Bytes, PublicKey, Sealed, WrappedKey};
use longwatch_events::settings::{
    CameraSettings, Capacity, Failover, Labels, Priority, Recording, RecordingMode, Retention,
    ServerSettings, Source, Transport,
};
use longwatch_events::state::{Camera, Placement, State};
use longwatch_events::time::Timestamp;
use proptest::prelude::*;
use proptest::sample::Index;

const TENANT: TenantId = TenantId::DEFAULT;

/// One thing an operator may do; an index picks one of the servers or cameras there are.
#[derive(Debug, Clone)]
enum Step {
    AddServer(Capacity),
    AdoptServer(Index),
    ResizeServer(Index, Capacity),
    DetachServer(Index),
    LoseServer(Index),
    ReturnServer(Index),
    SetFailover(Index, Failover),
    AddCamera(Wish),
    ChangeCamera(Index, Wish),
    DeleteCamera(Index),
    Plan,
}

#[derive(Debug, Clone)]
struct Wish {
    priority: Priority,
    bitrate_bps: Option<u64>,
    mode: RecordingMode,
    prefers: Option<Index>,
}

/// A system that grows by events, as in production: only through the fold.
#[derive(Default)]
struct World {
    state: State,
    made: u128,
}

impl World {
    fn new() -> Self {
        let mut world = Self::default();
        let data_key = WrappedKey { provider: "test".into(), bytes: Base64Bytes(vec![]) };
        world.happen(Event::TenantCreated(TenantCreated { tenant_id: TENANT, name: "T".into(), data_key }));
        world
    }

    fn happen(&mut self, event: Event) -> fold::Outcome {
        let position = self.state.position.next();
        let at = Timestamp::from_millis(i64::try_from(position.0).unwrap());
        fold::apply(&mut self.state, position, at, &event).unwrap()
    }

    fn next_id(&mut self) -> uuid::Uuid {
        self.made += 1;
        uuid::Uuid::from_u128(self.made)
    }

    fn server(&self, index: &Index) -> Option<(ServerId, ServerSettings)> {
        let servers: Vec<_> =
            self.state.servers().map(|(id, server)| (id, server.settings.clone())).collect();
        (!servers.is_empty()).then(|| index.get(&servers).clone())
    }

    fn camera(&self, index: &Index) -> Option<CameraId> {
        let cameras: Vec<_> = self.state.cameras_of(TENANT).map(|(id, _)| id).collect();
        (!cameras.is_empty()).then(|| *index.get(&cameras))
    }

    fn settings(&self, wish: &Wish) -> CameraSettings {
        let sealed_in = EventId::from_uuid(uuid::Uuid::from_u128(1));
        let secret = Sealed { sealed_in, bytes: Base64Bytes(vec![]) };
        CameraSettings {
            name: "c".into(),
            labels: Labels::new(),
            source: Source { url: "rtsp://h/1".into(), secret, transport: Transport::Tcp },
            recording: Recording { mode: wish.mode },
            retention: Retention::default(),
            failover_priority: wish.priority,
            preferred_server_id: wish.prefers.as_ref().and_then(|index| self.server(index)).map(|(id, _)| id),
            copies: 1,
            expected_bitrate_bps: wish.bitrate_bps,
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::AddServer(capacity) => {
                let id = self.next_id();
                let server_id = ServerId::from_uuid(id);
                let mut key = [0; 32];
                key[..16].copy_from_slice(id.as_bytes());
                self.happen(Event::ServerJoined(ServerJoined {
                    server_id,
                    name: id.to_string(),
                    public_key: PublicKey(key),
                    labels: Labels::new(),
                    capacity: *capacity,
                }));
            }
            Step::AdoptServer(index) => {
                if let Some((server_id, _)) = self.server(index) {
                    self.happen(Event::ServerAdopted(ServerAdopted { server_id }));
                }
            }
            Step::ResizeServer(index, capacity) => {
                if let Some((server_id, settings)) = self.server(index) {
                    let settings = ServerSettings { capacity: *capacity, ..settings };
                    self.happen(Event::ServerChanged(ServerChanged { server_id, settings }));
                }
            }
            Step::DetachServer(index) => {
                if let Some((server_id, _)) = self.server(index) {
                    self.happen(Event::ServerDetached(ServerDetached { server_id }));
                }
            }
            Step::LoseServer(index) => {
                if let Some((server_id, _)) = self.server(index) {
                    let (last_heartbeat, at) = (None, Timestamp::UNIX_EPOCH);
                    let lost =
                        ServerLost { server_id, last_heartbeat, heard_at: at, judged_at: at, lease_ms: 1 };
                    self.happen(Event::ServerLost(lost));
                }
            }
            Step::ReturnServer(index) => {
                if let Some((server_id, _)) = self.server(index) {
                    self.happen(Event::ServerReturned(ServerReturned { server_id, heartbeat: Position(1) }));
                }
            }
            Step::SetFailover(index, failover) => {
                if let Some((server_id, settings)) = self.server(index) {
                    let settings = ServerSettings { failover: *failover, ..settings };
                    self.happen(Event::ServerChanged(ServerChanged { server_id, settings }));
                }
            }
            Step::AddCamera(wish) => {
                let camera_id = CameraId::from_uuid(self.next_id());
                let settings = self.settings(wish);
                self.happen(Event::CameraAdded(CameraAdded { tenant_id: TENANT, camera_id, settings }));
            }
            Step::ChangeCamera(index, wish) => {
                if let Some(camera_id) = self.camera(index) {
                    let settings = self.settings(wish);
                    self.happen(Event::CameraChanged(CameraChanged {
                        tenant_id: TENANT,
                        camera_id,
                        settings,
                    }));
                }
            }
            Step::DeleteCamera(index) => {
                if let Some(camera_id) = self.camera(index) {
                    self.happen(Event::CameraDeleted(CameraDeleted { tenant_id: TENANT, camera_id }));
                }
            }
            Step::Plan => {
                self.plan();
            }
        }
    }

    fn plan(&mut self) -> Vec<(CameraId, Decision)> {
        let entries = plan(&self.state).entries;
        let decisions = entries.iter().map(|entry| (entry.camera_id, entry.decision)).collect();
        if !entries.is_empty() {
            let basis = self.state.position;
            let outcome = self.happen(Event::PlanMade(PlanMade { basis, rules: RULES, entries }));
            assert_eq!(outcome, fold::Outcome::Applied, "a plan made on the newest state is never stale");
        }
        decisions
    }

    /// Who records what: the oracle counts from this alone.
    fn homes(&self) -> BTreeMap<CameraId, Option<ServerId>> {
        let home = |placement| match placement {
            Placement::Assigned(assignment) => Some(assignment.server_id),
            Placement::Unplanned | Placement::Unplaced { .. } => None,
        };
        self.state.cameras_of(TENANT).map(|(id, camera)| (id, home(camera.placement))).collect()
    }

    fn used(&self, server_id: ServerId) -> (u32, u64) {
        self.state
            .cameras_of(TENANT)
            .filter(|(_, c)| c.assignment().is_some_and(|a| a.server_id == server_id))
            .fold((0, 0), |(cameras, bitrate), (_, camera)| {
                (cameras + 1, bitrate + camera.settings.expected_bitrate_bps.unwrap_or(0))
            })
    }
}

fn capacity() -> impl Strategy<Value = Capacity> {
    (1_u32..6, prop::option::of(1_u64..20))
        .prop_map(|(max_cameras, max_bitrate_bps)| Capacity { max_cameras, max_bitrate_bps })
}

fn failover() -> impl Strategy<Value = Failover> {
    (any::<bool>(), 0_u32..5).prop_map(|(enabled, takeover_limit)| Failover { enabled, takeover_limit })
}

fn wish() -> impl Strategy<Value = Wish> {
    let priority =
        prop::sample::select(vec![Priority::High, Priority::Medium, Priority::Low, Priority::Never]);
    let mode = prop_oneof![9 => Just(RecordingMode::Continuous), 1 => Just(RecordingMode::Off)];
    (priority, prop::option::of(1_u64..8), mode, prop::option::of(any::<Index>()))
        .prop_map(|(priority, bitrate_bps, mode, prefers)| Wish { priority, bitrate_bps, mode, prefers })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => capacity().prop_map(Step::AddServer),
        3 => any::<Index>().prop_map(Step::AdoptServer),
        1 => (any::<Index>(), capacity()).prop_map(|(index, capacity)| Step::ResizeServer(index, capacity)),
        1 => any::<Index>().prop_map(Step::DetachServer),
        2 => any::<Index>().prop_map(Step::LoseServer),
        2 => any::<Index>().prop_map(Step::ReturnServer),
        1 => (any::<Index>(), failover()).prop_map(|(index, failover)| Step::SetFailover(index, failover)),
        6 => wish().prop_map(Step::AddCamera),
        2 => (any::<Index>(), wish()).prop_map(|(index, wish)| Step::ChangeCamera(index, wish)),
        1 => any::<Index>().prop_map(Step::DeleteCamera),
        2 => Just(Step::Plan),
    ]
}

/// The server a camera was or is being taken from, because that is lost.
fn belongs_to(state: &State, camera: &Camera) -> Option<ServerId> {
    let assigned = camera.assignment().map(|assignment| assignment.server_id);
    camera.home.or(assigned.filter(|id| state.server(*id).is_some_and(|server| server.lost.is_some())))
}

proptest! {
    #[test]
    fn a_plan_keeps_every_rule(steps in prop::collection::vec(step(), 1..80)) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
        }
        let before = world.homes();
        let belongs: BTreeMap<_, _> = world.state.cameras_of(TENANT).map(|(id, c)| (id, belongs_to(&world.state, c))).collect();
        let used_before: BTreeMap<_, _> =
            world.state.servers().map(|(id, _)| (id, world.used(id))).collect();
        let decisions: BTreeMap<_, _> = world.plan().into_iter().collect();
        let after = world.homes();
        let is_lost = |id: ServerId| world.state.server(id).is_some_and(|server| server.lost.is_some());

        for (camera_id, camera) in world.state.cameras_of(TENANT) {
            let home = after[&camera_id];
            if !camera.wants_recording() {
                prop_assert_eq!(home, None, "a camera that is off holds no room");
                continue;
            }
            match before[&camera_id] {
                Some(old) if is_lost(old) && camera.settings.failover_priority == Priority::Never => {
                    prop_assert_eq!(home, Some(old), "a camera that never fails over waits for its server");
                    continue;
                }
                Some(old) if !is_lost(old) => prop_assert_eq!(home, Some(old), "moved without need"),
                Some(_) | None => {}
            }
            let is_unplaced = matches!(camera.placement, Placement::Unplaced { .. });
            prop_assert!(home.is_some() || is_unplaced);
            if let Some(server_id) = home {
                prop_assert!(world.state.server(server_id).is_some_and(|server| server.is_assignable()));
            }
        }
        for (server_id, server) in world.state.servers() {
            let (cameras, bitrate) = world.used(server_id);
            let (cameras_before, bitrate_before) = used_before[&server_id];
            let capacity = server.settings.capacity;
            // A server that was made smaller keeps what it has, but gets no more.
            prop_assert!(cameras <= capacity.max_cameras.max(cameras_before));
            prop_assert!(bitrate <= capacity.max_bitrate_bps.unwrap_or(u64::MAX).max(bitrate_before));
            // Nor does it get another's camera beyond its limit: the last of them found at most `limit - 1` others.
            let failover = server.settings.failover;
            let taken = decisions.iter().filter(|(camera_id, decision)| {
                let given = matches!(decision, Decision::Assign { server_id: to, .. } if *to == server_id);
                given && belongs[camera_id].is_some_and(|owner| owner != server_id)
            });
            let taken = u32::try_from(taken.count()).unwrap();
            prop_assert!(taken == 0 || failover.enabled, "failover is off");
            prop_assert!(taken == 0 || cameras_before + taken <= failover.takeover_limit, "over the takeover limit");
        }
        // Nobody is left out while a server has room for them that may have them.
        for (camera_id, camera) in world.state.cameras_of(TENANT) {
            if camera.wants_recording() && after[&camera_id].is_none() {
                let bitrate = camera.settings.expected_bitrate_bps.unwrap_or(0);
                let room = world.state.servers().find(|(id, server)| {
                    let (cameras, used) = world.used(*id);
                    let ServerSettings { capacity, failover, .. } = server.settings;
                    let takes_over = failover.enabled && cameras < failover.takeover_limit;
                    server.is_assignable()
                        && cameras < capacity.max_cameras
                        && capacity.max_bitrate_bps.is_none_or(|max| used + bitrate <= max)
                        && (belongs[&camera_id].is_none_or(|owner| owner == *id) || takes_over)
                });
                prop_assert!(room.is_none(), "unplaced beside {room:?}");
            }
        }
        // Priority: nobody newly placed ranks below somebody left out who needs no more than they do and is as free to
        // go anywhere.
        for (placed_id, decision) in &decisions {
            if !matches!(decision, Decision::Assign { .. }) {
                continue;
            }
            let placed = world.state.camera(TENANT, *placed_id).unwrap();
            for (waiting_id, waiting) in world.state.cameras_of(TENANT).filter(|(id, _)| after[id].is_none()) {
                let is_cheaper = waiting.settings.expected_bitrate_bps.unwrap_or(0)
                    <= placed.settings.expected_bitrate_bps.unwrap_or(0);
                let is_freer = belongs[&waiting_id].is_none() || belongs[&waiting_id] == belongs[placed_id];
                if waiting.wants_recording() && is_cheaper && is_freer {
                    prop_assert!(placed.settings.failover_priority <= waiting.settings.failover_priority);
                }
            }
        }
        prop_assert_eq!(plan(&world.state).entries, vec![], "a plan that was applied leaves nothing to plan");
    }

    #[test]
    fn the_same_state_gives_the_same_plan(steps in prop::collection::vec(step(), 1..40)) {
        let (mut a, mut b) = (World::new(), World::new());
        for step in &steps {
            a.step(step);
            b.step(step);
        }
        prop_assert_eq!(a.state.content_hash(), b.state.content_hash());
        prop_assert_eq!(plan(&a.state), plan(&b.state));
    }
}

#[test]
fn cameras_spread_by_relative_load() {
    let mut world = World::new();
    world.step(&Step::AddServer(Capacity { max_cameras: 10, max_bitrate_bps: None }));
    world.step(&Step::AddServer(Capacity { max_cameras: 30, max_bitrate_bps: None }));
    let servers: Vec<_> = world.state.servers().map(|(id, _)| id).collect();
    for server_id in &servers {
        world.happen(Event::ServerAdopted(ServerAdopted { server_id: *server_id }));
    }
    let wish = Wish {
        priority: Priority::Medium,
        bitrate_bps: None,
        mode: RecordingMode::Continuous,
        prefers: None,
    };
    (0..20).for_each(|_| world.step(&Step::AddCamera(wish.clone())));
    world.plan();
    assert_eq!(servers.iter().map(|id| world.used(*id).0).collect::<Vec<_>>(), [5, 15]);
}

#[test]
fn the_cameras_of_a_lost_server_move_by_priority_and_never_means_never() {
    let mut world = World::new();
    let capacity = Capacity { max_cameras: 10, max_bitrate_bps: None };
    world.step(&Step::AddServer(capacity));
    let first = world.state.servers().next().unwrap().0;
    world.happen(Event::ServerAdopted(ServerAdopted { server_id: first }));
    let order =
        [Priority::Low, Priority::Never, Priority::High, Priority::Medium, Priority::High, Priority::Low];
    for priority in order {
        let mode = RecordingMode::Continuous;
        world.step(&Step::AddCamera(Wish { priority, bitrate_bps: None, mode, prefers: None }));
    }
    world.plan();
    world.step(&Step::AddServer(capacity));
    let second = world.state.servers().map(|(id, _)| id).find(|id| *id != first).unwrap();
    world.happen(Event::ServerAdopted(ServerAdopted { server_id: second }));
    let settings = world.state.server(second).unwrap().settings.clone();
    let settings = ServerSettings { failover: Failover { enabled: true, takeover_limit: 3 }, ..settings };
    world.happen(Event::ServerChanged(ServerChanged { server_id: second, settings }));
    let at = Timestamp::UNIX_EPOCH;
    let lost =
        ServerLost { server_id: first, last_heartbeat: None, heard_at: at, judged_at: at, lease_ms: 1 };
    world.happen(Event::ServerLost(lost));
    world.plan();

    let homes = world.homes();
    let homes: Vec<_> = homes.values().copied().collect();
    // Room for three: both high ones and the medium one; the low ones wait unplaced, the never one waits at home.
    assert_eq!(homes, [None, Some(first), Some(second), Some(second), Some(second), None]);

    world.happen(Event::ServerReturned(ServerReturned { server_id: first, heartbeat: Position(1) }));
    world.plan();
    let homes: Vec<_> = world.homes().values().copied().collect();
    let (a, b) = (Some(first), Some(second));
    assert_eq!(homes, [a, a, b, b, b, a], "who found no place goes home, who was taken over stays");
}
