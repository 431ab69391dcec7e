//! Few things with names, and the events about them.

use longwatch_events::event::{
    CameraAdded, CameraChanged, CameraMoveRequested, Decision, DetachedCameras, Event, Part, PlanEntry,
    PlanMade, ServerAdded, ServerAdopted, ServerDetached, ServerJoined, ServerLost, ServerReturned,
    TenantCreated,
};
use longwatch_events::fold::{self, Outcome};
use longwatch_events::id::{CameraId, CopyKey, EventId, ServerId, TenantId};
use longwatch_events::position::{Epoch, Position};
use longwatch_events::reason::{AbandonReason, AssignReason, FinishReason};
use longwatch_events::sealed::{Base64Bytes, PublicKey, Sealed, WrappedKey};
use longwatch_events::settings::{
    CameraSettings, Capacity, Failover, Labels, Priority, Recording, Retention, ServerSettings, Source,
    Transport,
};
use longwatch_events::state::{CameraCopy, Membership, State};
use longwatch_events::time::Timestamp;
use uuid::Uuid;

pub(crate) const TENANT: TenantId = TenantId::DEFAULT;
pub(crate) const CAMERA: CameraId = CameraId::from_uuid(Uuid::from_u128(1));
pub(crate) const SERVER: ServerId = ServerId::from_uuid(Uuid::from_u128(1));
pub(crate) const OTHER_SERVER: ServerId = ServerId::from_uuid(Uuid::from_u128(2));
/// Of the fleet: it has three adopted servers.
pub(crate) const FIRST: ServerId = SERVER;
pub(crate) const SECOND: ServerId = OTHER_SERVER;
pub(crate) const THIRD: ServerId = ServerId::from_uuid(Uuid::from_u128(3));

pub(crate) fn tenant_created() -> Event {
    let data_key = WrappedKey { provider: "file".into(), bytes: Base64Bytes::default() };
    Event::TenantCreated(TenantCreated { tenant_id: TENANT, name: "Harbour".into(), data_key })
}

pub(crate) fn camera_added() -> Event {
    camera_added_as(camera_settings())
}

pub(crate) fn camera_added_as(settings: CameraSettings) -> Event {
    Event::CameraAdded(CameraAdded { tenant_id: TENANT, camera_id: CAMERA, settings })
}

pub(crate) fn camera_changed(settings: CameraSettings) -> Event {
    Event::CameraChanged(CameraChanged { tenant_id: TENANT, camera_id: CAMERA, settings })
}

pub(crate) fn camera_settings() -> CameraSettings {
    let secret = Sealed { sealed_in: EventId::from_uuid(Uuid::nil()), bytes: Base64Bytes::default() };
    CameraSettings {
        name: "Gate 3".into(),
        labels: Labels::new(),
        source: Source { url: "rtsp://10.0.0.7/".into(), secret, transport: Transport::Tcp },
        recording: Recording::default(),
        retention: Retention::default(),
        failover_priority: Priority::Medium,
        preferred_server_id: None,
        copies: 1,
        expected_bitrate_bps: None,
        server_labels: Labels::new(),
        single_session: false,
        live_latency_ms: None,
    }
}

pub(crate) fn move_requested(copy: u8, server_id: ServerId) -> Event {
    Event::CameraMoveRequested(CameraMoveRequested { tenant_id: TENANT, camera_id: CAMERA, copy, server_id })
}

pub(crate) fn server_joined(server_id: ServerId, name: &str, key: u8) -> Event {
    Event::ServerJoined(ServerJoined {
        server_id,
        name: name.into(),
        public_key: PublicKey([key; 32]),
        labels: Labels::new(),
        capacity: Capacity::default(),
    })
}

pub(crate) fn server_added(server_id: ServerId, name: &str) -> Event {
    let settings = ServerSettings {
        name: name.into(),
        labels: Labels::new(),
        capacity: Capacity { max_cameras: 7, max_bitrate_bps: None },
        failover: Failover::default(),
    };
    Event::ServerAdded(ServerAdded { server_id, settings })
}

pub(crate) fn adopted(server_id: ServerId) -> Event {
    Event::ServerAdopted(ServerAdopted { server_id })
}

pub(crate) fn detached(server_id: ServerId, cameras: DetachedCameras) -> Event {
    Event::ServerDetached(ServerDetached { server_id, cameras })
}

pub(crate) fn lost(server_id: ServerId) -> Event {
    let (heard_at, judged_at) = (Timestamp::from_millis(1_000), Timestamp::from_millis(4_001));
    Event::ServerLost(ServerLost { server_id, last_heartbeat: None, heard_at, judged_at, lease_ms: 3_000 })
}

pub(crate) fn returned(server_id: ServerId) -> Event {
    Event::ServerReturned(ServerReturned { server_id, heartbeat: Position(9) })
}

pub(crate) fn plan(decision: Decision) -> Event {
    plan_of(&[(0, decision)])
}

/// A plan for copies of the camera.
pub(crate) fn plan_of(decisions: &[(u8, Decision)]) -> Event {
    let entry = |(copy, decision): &(u8, Decision)| PlanEntry {
        tenant_id: TENANT,
        camera_id: CAMERA,
        copy: *copy,
        decision: *decision,
    };
    let entries = decisions.iter().map(entry).collect();
    Event::PlanMade(PlanMade { basis: Position(1), rules: 1, decided_at: None, part: Part::WHOLE, entries })
}

pub(crate) fn assign(server_id: ServerId) -> Event {
    plan(assigned(server_id, AssignReason::LeastLoaded))
}

pub(crate) const fn assigned(server_id: ServerId, reason: AssignReason) -> Decision {
    Decision::Assign { server_id, reason }
}

pub(crate) const fn moved(server_id: ServerId, reason: AssignReason) -> Decision {
    Decision::Move { server_id, reason }
}

pub(crate) const fn finished(epoch: Epoch) -> Decision {
    Decision::Finish { epoch, reason: FinishReason::FirstKeyframe, evidence: Some(Position(77)) }
}

pub(crate) const fn abandoned(epoch: Epoch, reason: AbandonReason) -> Decision {
    Decision::Abandon { epoch, reason }
}

pub(crate) fn at(position: Position) -> Timestamp {
    Timestamp::UNIX_EPOCH.plus_millis(i64::try_from(position.0).expect("small"))
}

/// Folds `events` from position 1 on; all of them are possible.
pub(crate) fn folded(events: &[Event]) -> (State, Vec<Outcome>) {
    let mut state = State::default();
    let outcomes = events.iter().map(|event| apply(&mut state, event)).collect();
    (state, outcomes)
}

/// Folds one more event, which is possible.
pub(crate) fn apply(state: &mut State, event: &Event) -> Outcome {
    let position = state.position.next();
    fold::apply(state, position, at(position), event).expect("possible")
}

/// Folds one more plan about the first copy, all of which takes effect; its epoch.
pub(crate) fn planned(state: &mut State, decision: Decision) -> Epoch {
    assert_eq!(apply(state, &plan(decision)), Outcome::Applied, "{decision:?}");
    Epoch::from(state.position)
}

/// A tenant, the fleet, and a camera.
pub(crate) fn fleet_with(settings: CameraSettings) -> Vec<Event> {
    let servers = [(FIRST, "first", 1), (SECOND, "second", 2), (THIRD, "third", 3)];
    let joined = servers.into_iter().flat_map(|(id, name, key)| [server_joined(id, name, key), adopted(id)]);
    [tenant_created()].into_iter().chain(joined).chain([camera_added_as(settings)]).collect()
}

/// The fleet, and a camera that one of its servers records.
pub(crate) fn recorded_on(server_id: ServerId) -> Vec<Event> {
    let mut events = fleet_with(camera_settings());
    events.push(assign(server_id));
    events
}

/// A copy of the camera.
pub(crate) fn copy(state: &State, number: u8) -> &CameraCopy {
    let key = CopyKey { tenant_id: TENANT, camera_id: CAMERA, copy: number };
    state.copy(key).expect("the copy is there").1
}

/// Who records the first copy, and who is about to.
pub(crate) fn servers(state: &State) -> (Option<ServerId>, Option<ServerId>) {
    let copy = copy(state, 0);
    (copy.assignment().map(|a| a.server_id), copy.successor().map(|a| a.server_id))
}

pub(crate) fn membership(state: &State, server_id: ServerId) -> Membership {
    state.server(server_id).expect("it stays").membership
}
