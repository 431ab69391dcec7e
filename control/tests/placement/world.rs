//! A system that grows as in production: by decided commands, by what liveness and heartbeats tell, and by plans; all
//! through the fold. Its clock and the evidence of its moves are set by the test.

use std::collections::BTreeSet;

use longwatch_control::decide::command::{Command, Refusal, decide};
use longwatch_control::decide::placement::{self, Evidence, Inputs, Scope, Shown, Step};
use longwatch_events::event::{
    CameraMoveRequested, Decision, Event, Part, PlanEntry, PlanMade, ServerDiskMeasured, ServerLost,
    ServerReturned,
};
use longwatch_events::fold::{self, Outcome};
use longwatch_events::id::{CameraId, CopyKey, EventId, ServerId, TenantId};
use longwatch_events::policy::Policy;
use longwatch_events::position::Position;
use longwatch_events::reason::{AssignReason, UnplacedReason};
use longwatch_events::sealed::{Base64Bytes, PublicKey, Sealed, WrappedKey};
use longwatch_events::settings::{
    CameraSettings, Capacity, Failover, Labels, Priority, Recording, Retention, ServerSettings, Source,
    Transport, ZONE,
};
use longwatch_events::state::{Camera, CameraCopy, Placement, State};
use longwatch_events::time::Timestamp;
use uuid::Uuid;

/// The tenant of the examples.
pub(crate) const TENANT: TenantId = TenantId::DEFAULT;

/// What a server is given at first.
#[derive(Debug, Clone)]
pub(crate) struct ServerSpec {
    pub(crate) labels: Labels,
    pub(crate) capacity: Capacity,
    pub(crate) failover: Failover,
}

/// One that holds so many cameras and takes over as many.
pub(crate) fn holds(max_cameras: u32) -> ServerSpec {
    ServerSpec {
        labels: Labels::new(),
        capacity: Capacity { max_cameras, max_bitrate_bps: None },
        failover: Failover { enabled: true, takeover_limit: max_cameras },
    }
}

impl ServerSpec {
    pub(crate) fn in_zone(self, zone: &str) -> Self {
        self.labelled(ZONE, zone)
    }

    pub(crate) fn labelled(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    pub(crate) fn without_failover(mut self) -> Self {
        self.failover.enabled = false;
        self
    }

    pub(crate) fn of_bitrate(mut self, max_bitrate_bps: u64) -> Self {
        self.capacity.max_bitrate_bps = Some(max_bitrate_bps);
        self
    }
}

/// A camera of this priority and nothing else that is special.
pub(crate) fn ranked(failover_priority: Priority) -> CameraSettings {
    let sealed_in = EventId::from_uuid(Uuid::from_u128(1));
    CameraSettings {
        name: "c".into(),
        labels: Labels::new(),
        source: Source {
            url: "rtsp://h/1".into(),
            secret: Sealed { sealed_in, bytes: Base64Bytes(vec![]) },
            transport: Transport::Tcp,
        },
        recording: Recording::default(),
        retention: Retention::default(),
        failover_priority,
        preferred_server_id: None,
        copies: 1,
        expected_bitrate_bps: None,
        server_labels: Labels::new(),
        single_session: false,
        live_latency_ms: None,
    }
}

/// A camera like most.
pub(crate) fn ordinary() -> CameraSettings {
    ranked(Priority::Medium)
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) state: State,
    pub(crate) now: Timestamp,
    pub(crate) evidence: Evidence,
    made: u128,
    /// Where the next message of the other log streams stands.
    told: u64,
}

impl World {
    pub(crate) fn new() -> Self {
        let now = Timestamp::from_millis(1_000_000);
        let mut world = Self { state: State::default(), now, evidence: Evidence::new(), made: 0, told: 0 };
        world.add_tenant(TENANT);
        world
    }

    pub(crate) fn add_tenant(&mut self, tenant_id: TenantId) {
        let data_key = WrappedKey { provider: "test".into(), bytes: Base64Bytes(vec![]) };
        self.command(Command::CreateTenant { tenant_id, name: "T".into(), data_key }).unwrap();
    }

    /// Decides a command and folds what follows.
    pub(crate) fn command(&mut self, command: Command) -> Result<(), Refusal> {
        let decided = decide(&self.state, command)?;
        assert_eq!(self.happen(&decided.event), Outcome::Applied, "{:?}", decided.event);
        Ok(())
    }

    fn happen(&mut self, event: &Event) -> Outcome {
        let position = self.state.position.next();
        fold::apply(&mut self.state, position, self.now, event).unwrap()
    }

    fn next_id(&mut self) -> Uuid {
        self.made += 1;
        Uuid::from_u128(self.made)
    }

    fn next_told(&mut self) -> Position {
        self.told += 1;
        Position(self.told)
    }

    /// An adopted server with a worker.
    pub(crate) fn add_server(&mut self, spec: ServerSpec) -> ServerId {
        let id = self.next_id();
        let server_id = ServerId::from_uuid(id);
        let mut key = [0; 32];
        key[..16].copy_from_slice(id.as_bytes());
        let ServerSpec { labels, capacity, failover } = spec;
        let (name, public_key) = (id.to_string(), PublicKey(key));
        self.command(Command::JoinServer { server_id, name, public_key, labels, capacity }).unwrap();
        self.command(Command::AdoptServer { server_id, expected: self.version(server_id) }).unwrap();
        self.change_server(server_id, |settings| settings.failover = failover);
        server_id
    }

    /// The version of a server.
    pub(crate) fn version(&self, server_id: ServerId) -> Position {
        self.state.server(server_id).unwrap().version
    }

    pub(crate) fn change_server(&mut self, server_id: ServerId, change: impl FnOnce(&mut ServerSettings)) {
        let server = self.state.server(server_id).unwrap();
        let (expected, mut settings) = (server.version, server.settings.clone());
        change(&mut settings);
        self.command(Command::ChangeServer { server_id, expected, settings }).unwrap();
    }

    pub(crate) fn lose(&mut self, server_id: ServerId) {
        let (heard_at, judged_at) = (self.now.plus_millis(-4_000), self.now);
        let last_heartbeat = Some(self.next_told());
        let lost = ServerLost { server_id, last_heartbeat, heard_at, judged_at, lease_ms: 3_000 };
        self.happen(&Event::ServerLost(lost));
    }

    pub(crate) fn bring_back(&mut self, server_id: ServerId) {
        let heartbeat = self.next_told();
        self.happen(&Event::ServerReturned(ServerReturned { server_id, heartbeat }));
    }

    pub(crate) fn measure_disk(&mut self, server_id: ServerId, free_percent: u8) {
        let heartbeat = self.next_told();
        let measured = ServerDiskMeasured { server_id, heartbeat, free_percent };
        self.happen(&Event::ServerDiskMeasured(measured));
    }

    pub(crate) fn start_drain(&mut self, server_id: ServerId) {
        self.command(Command::StartDrain { server_id, expected: self.version(server_id) }).unwrap();
    }

    pub(crate) fn stop_drain(&mut self, server_id: ServerId) {
        self.command(Command::StopDrain { server_id, expected: self.version(server_id) }).unwrap();
    }

    pub(crate) fn ask_for_failback(&mut self, server_id: ServerId) {
        self.command(Command::FailBack { server_id, expected: self.version(server_id) }).unwrap();
    }

    pub(crate) fn set_policy(&mut self, change: impl FnOnce(&mut Policy)) {
        let mut policy = self.state.policy;
        change(&mut policy);
        let expected = self.state.policy_version;
        self.command(Command::ChangePolicy { expected, policy }).unwrap();
    }

    /// A camera of the first tenant.
    pub(crate) fn add_camera(&mut self, settings: CameraSettings) -> CopyKey {
        self.add_camera_of(TENANT, settings)
    }

    pub(crate) fn add_camera_of(&mut self, tenant_id: TenantId, settings: CameraSettings) -> CopyKey {
        let camera_id = CameraId::from_uuid(self.next_id());
        let settings = Box::new(settings);
        self.command(Command::AddCamera { tenant_id, camera_id, settings }).unwrap();
        CopyKey { tenant_id, camera_id, copy: 0 }
    }

    pub(crate) fn add_cameras(&mut self, count: usize, settings: &CameraSettings) -> Vec<CopyKey> {
        (0..count).map(|_| self.add_camera(settings.clone())).collect()
    }

    pub(crate) fn change_camera(&mut self, key: CopyKey, change: impl FnOnce(&mut CameraSettings)) {
        let CopyKey { tenant_id, camera_id, .. } = key;
        let camera = self.camera(key);
        let (expected, mut settings) = (camera.version, Box::new(camera.settings.told()));
        change(&mut settings);
        self.command(Command::ChangeCamera { tenant_id, camera_id, expected, settings }).unwrap();
    }

    pub(crate) fn ask_for_move(&mut self, key: CopyKey, server_id: ServerId) -> Result<(), Refusal> {
        let CopyKey { tenant_id, camera_id, copy } = key;
        let expected = self.state.camera(tenant_id, camera_id).unwrap().version;
        self.command(Command::MoveCamera { tenant_id, camera_id, copy, expected, server_id })
    }

    /// A wish that the log holds although it would be refused now: it was decided just before something else.
    pub(crate) fn ask_for_move_in_a_race(&mut self, key: CopyKey, server_id: ServerId) {
        let CopyKey { tenant_id, camera_id, copy } = key;
        let wish = CameraMoveRequested { tenant_id, camera_id, copy, server_id };
        self.happen(&Event::CameraMoveRequested(wish));
    }

    pub(crate) fn camera(&self, key: CopyKey) -> &Camera {
        self.state.camera(key.tenant_id, key.camera_id).unwrap()
    }

    pub(crate) fn copy(&self, key: CopyKey) -> &CameraCopy {
        self.state.copy(key).unwrap().1
    }

    /// Who records it.
    pub(crate) fn on(&self, key: CopyKey) -> Option<ServerId> {
        self.copy(key).assignment().map(|assignment| assignment.server_id)
    }

    /// Who records each of them.
    pub(crate) fn all_on(&self, keys: &[CopyKey]) -> Vec<Option<ServerId>> {
        keys.iter().map(|key| self.on(*key)).collect()
    }

    /// Who is about to record it.
    pub(crate) fn to(&self, key: CopyKey) -> Option<(ServerId, AssignReason)> {
        self.copy(key).successor().map(|new| (new.server_id, new.reason))
    }

    /// Why it is where it is.
    pub(crate) fn why_there(&self, key: CopyKey) -> Option<AssignReason> {
        self.copy(key).assignment().map(|assignment| assignment.reason)
    }

    /// Why nobody records it.
    pub(crate) fn why_nowhere(&self, key: CopyKey) -> Option<UnplacedReason> {
        match self.copy(key).placement {
            Placement::Unplaced { reason, .. } => Some(reason),
            Placement::Unplanned | Placement::Assigned(_) => None,
        }
    }

    pub(crate) fn pass(&mut self, seconds: i64) {
        self.now = self.now.plus_millis(seconds * 1_000);
    }

    /// What a move waits for is reported.
    pub(crate) fn report(&mut self, key: CopyKey) {
        let (camera, copy) = self.state.copy(key).unwrap();
        let epoch = copy.successor().expect("it is on the move").epoch;
        let what = if camera.settings.single_session { Step::Stopped } else { Step::Begun };
        let position = self.next_told();
        self.evidence.insert((key, epoch), Shown { position, what });
    }

    /// The same of all moves that are under way.
    pub(crate) fn report_all(&mut self) {
        let moving: Vec<_> = self.state.index().moving().collect();
        moving.into_iter().for_each(|key| self.report(key));
    }

    /// What the planner starts from.
    pub(crate) fn inputs<'a>(&'a self, lose: &'a BTreeSet<ServerId>) -> Inputs<'a> {
        Inputs { state: &self.state, now: self.now, evidence: &self.evidence, lose, scope: Scope::All }
    }

    /// The plan that would be made now.
    pub(crate) fn draw_up(&self) -> Vec<PlanEntry> {
        placement::plan(&self.inputs(&BTreeSet::new())).entries
    }

    /// Folds a plan that was drawn up on this very state.
    pub(crate) fn carry_out(&mut self, entries: Vec<PlanEntry>) {
        if entries.is_empty() {
            return;
        }
        let (basis, decided_at, part) = (self.state.position, Some(self.now), Part::WHOLE);
        let plan = PlanMade { basis, rules: placement::RULES, decided_at, part, entries };
        let plan = Event::PlanMade(plan);
        assert_eq!(self.happen(&plan), Outcome::Applied, "a plan on the newest state is never stale");
    }

    /// Plans until nothing is left to change, as the planner does; returns all that was decided.
    pub(crate) fn plan(&mut self) -> Vec<(CopyKey, Decision)> {
        let mut decisions = Vec::new();
        for _ in 0..10 {
            let entries = self.draw_up();
            if entries.is_empty() {
                return decisions;
            }
            decisions.extend(entries.iter().map(|entry| (entry.key(), entry.decision)));
            self.carry_out(entries);
        }
        panic!("planning comes to no end: {decisions:#?}");
    }

    /// Plans and reports until no move is under way any more.
    pub(crate) fn plan_to_the_end(&mut self) {
        for _ in 0..100 {
            self.plan();
            if self.state.index().moving().len() == 0 {
                return;
            }
            self.report_all();
        }
        panic!("moves come to no end");
    }
}
