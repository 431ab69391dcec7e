//! Arbitrary histories that can really come about: commands of replicas, each of which may have folded less than all of
//! the log, appended under the log's one condition: nobody else appended to the subject since.

use std::collections::BTreeMap;

use longwatch_events::event::{
    CameraAdded, CameraChanged, CameraDeleted, Decision, Event, PlanEntry, PlanMade, ServerAdded,
    ServerAdopted, ServerChanged, ServerDetached, ServerJoined, TenantChanged, TenantCreated, TenantDeleted,
};
use longwatch_events::fold;
use longwatch_events::id::{CameraId, ServerId, TenantId};
use longwatch_events::position::Position;
use longwatch_events::reason::{AssignReason, UnplacedReason};
use longwatch_events::sealed::{PublicKey, WrappedKey};
use longwatch_events::settings::{CameraSettings, Capacity, Labels, ServerSettings};
use longwatch_events::state::State;
use longwatch_events::subject;
use longwatch_events::time::Timestamp;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use uuid::Uuid;

use crate::arbitrary::{
    assign_reason, camera_settings, capacity, labels, server_settings, timestamp, unplaced_reason,
    wrapped_key,
};

/// A command, with what a client or a replica would have drawn for it.
#[derive(Debug, Clone)]
enum Command {
    CreateTenant { tenant: u8, name: String, data_key: WrappedKey },
    ChangeTenant { tenant: u8, name: String },
    DeleteTenant { tenant: u8 },
    AddServer { server: u8, settings: Box<ServerSettings> },
    JoinServer { server: u8, name: u8, key: u8, labels: Labels, capacity: Capacity },
    AdoptServer { server: u8 },
    ChangeServer { server: u8, settings: Box<ServerSettings> },
    DetachServer { server: u8 },
    AddCamera { tenant: u8, camera: u8, settings: Box<CameraSettings> },
    ChangeCamera { tenant: u8, camera: u8, settings: Box<CameraSettings> },
    DeleteCamera { tenant: u8, camera: u8 },
    Plan { rules: u32, choices: Vec<Choice> },
}

/// What a planner decides about some camera: the `server`-th of the assignable ones, or none.
#[derive(Debug, Clone)]
struct Choice {
    server: Option<u8>,
    assign: AssignReason,
    unplace: UnplacedReason,
}

/// A command that is decided by somebody who has not folded the newest `lag` events.
#[derive(Debug, Clone)]
struct Step {
    command: Command,
    lag: usize,
    stored_at: Timestamp,
}

/// One event of a log.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Stored {
    pub(crate) position: Position,
    pub(crate) stored_at: Timestamp,
    pub(crate) event: Event,
}

/// A log, and what follows from it.
#[derive(Debug, Clone)]
pub(crate) struct History {
    pub(crate) log: Vec<Stored>,
    /// After 0, 1, 2, … events.
    pub(crate) states: Vec<State>,
    /// Where the last event of each subject stands.
    pub(crate) last_of_subject: BTreeMap<String, Position>,
}

// Few of each, so that commands meet.
fn tenant_id(n: u8) -> TenantId {
    TenantId::from_uuid(Uuid::from_u128(u128::from(n)))
}

fn camera_id(n: u8) -> CameraId {
    CameraId::from_uuid(Uuid::from_u128(u128::from(n)))
}

fn server_id(n: u8) -> ServerId {
    ServerId::from_uuid(Uuid::from_u128(u128::from(n)))
}

fn name(n: u8) -> String {
    format!("server-{n}")
}

fn named_settings() -> impl Strategy<Value = Box<ServerSettings>> {
    (0..3_u8, server_settings())
        .prop_map(|(n, settings)| Box::new(ServerSettings { name: name(n), ..settings }))
}

fn command() -> impl Strategy<Value = Command> {
    let (t, s, c) = (0..3_u8, 0..6_u8, 0..6_u8);
    let settings = || camera_settings().prop_map(Box::new);
    let choice = (option::weighted(0.8, any::<u8>()), assign_reason(), unplaced_reason())
        .prop_map(|(server, assign, unplace)| Choice { server, assign, unplace });
    prop_oneof![
        3 => (t.clone(), any::<String>(), wrapped_key())
            .prop_map(|(tenant, name, data_key)| Command::CreateTenant { tenant, name, data_key }),
        1 => (t.clone(), any::<String>()).prop_map(|(tenant, name)| Command::ChangeTenant { tenant, name }),
        1 => t.clone().prop_map(|tenant| Command::DeleteTenant { tenant }),
        2 => (s.clone(), named_settings()).prop_map(|(server, settings)| Command::AddServer { server, settings }),
        4 => (s.clone(), 0..3_u8, 0..3_u8, labels(), capacity()).prop_map(
            |(server, name, key, labels, capacity)| Command::JoinServer { server, name, key, labels, capacity }
        ),
        3 => s.clone().prop_map(|server| Command::AdoptServer { server }),
        1 => (s.clone(), named_settings())
            .prop_map(|(server, settings)| Command::ChangeServer { server, settings }),
        1 => s.prop_map(|server| Command::DetachServer { server }),
        4 => (t.clone(), c.clone(), settings())
            .prop_map(|(tenant, camera, settings)| Command::AddCamera { tenant, camera, settings }),
        1 => (t.clone(), c.clone(), settings())
            .prop_map(|(tenant, camera, settings)| Command::ChangeCamera { tenant, camera, settings }),
        2 => (t, c).prop_map(|(tenant, camera)| Command::DeleteCamera { tenant, camera }),
        3 => (any::<u32>(), vec(choice, 0..6)).prop_map(|(rules, choices)| Command::Plan { rules, choices }),
    ]
}

/// A history of up to `steps` commands. Those that are refused or lose their race leave no event.
pub(crate) fn history(steps: usize) -> impl Strategy<Value = History> {
    let step = (command(), prop_oneof![3 => Just(0), 2 => 0..6_usize], timestamp())
        .prop_map(|(command, lag, stored_at)| Step { command, lag, stored_at });
    vec(step, 0..steps).prop_map(|steps| {
        let mut history =
            History { log: Vec::new(), states: vec![State::default()], last_of_subject: BTreeMap::new() };
        steps.into_iter().for_each(|step| history.take(step));
        history
    })
}

impl History {
    /// What follows from all of it.
    pub(crate) fn state(&self) -> &State {
        self.states.last().expect("never empty")
    }

    fn take(&mut self, step: Step) {
        let folded = &self.states[self.states.len().saturating_sub(1 + step.lag)];
        let Some((event, expected_last)) = decide(folded, step.command) else { return };
        let (_, subject) = subject::of(&event);
        if self.last_of_subject.get(&subject).copied().unwrap_or_default() != expected_last {
            return;
        }
        let mut state = self.state().clone();
        let position = state.position.next();
        if let Err(error) = fold::apply(&mut state, position, step.stored_at, &event) {
            panic!(
                "a history that can come about halts the fold: {error}\n{event:#?}\nafter {:#?}",
                self.log
            );
        }
        self.last_of_subject.insert(subject, position);
        self.log.push(Stored { position, stored_at: step.stored_at, event });
        self.states.push(state);
    }
}

/// The event a command leads to and the position its subject must end at; `None` if it is refused. The rules are those
/// of the control plane as far as the fold relies on them, and no stricter.
fn decide(state: &State, command: Command) -> Option<(Event, Position)> {
    match command {
        Command::CreateTenant { tenant, name, data_key } => {
            let tenant_id = tenant_id(tenant);
            let event = Event::TenantCreated(TenantCreated { tenant_id, name, data_key });
            state.tenant(tenant_id).is_none().then_some((event, Position::START))
        }
        Command::ChangeTenant { tenant, name } => {
            let tenant_id = tenant_id(tenant);
            let version = state.tenant(tenant_id)?.version;
            Some((Event::TenantChanged(TenantChanged { tenant_id, name }), version))
        }
        Command::DeleteTenant { tenant } => {
            let tenant_id = tenant_id(tenant);
            let version = state.tenant(tenant_id)?.version;
            let empty = state.cameras_of(tenant_id).next().is_none();
            empty.then_some((Event::TenantDeleted(TenantDeleted { tenant_id }), version))
        }
        Command::AddServer { server, settings } => {
            let event =
                Event::ServerAdded(ServerAdded { server_id: server_id(server), settings: *settings.clone() });
            state.server_by_name(&settings.name).is_none().then_some((event, Position::START))
        }
        Command::JoinServer { server, name: n, key, labels, capacity } => {
            let public_key = PublicKey([key; 32]);
            if state.is_detached(&public_key) || state.server_by_key(&public_key).is_some() {
                return None;
            }
            let (server_id, version) = match state.server_by_name(&name(n)) {
                Some((id, announced)) if announced.public_key.is_none() => (id, announced.version),
                Some(_) => return None,
                None => (server_id(server), Position::START),
            };
            let joined = ServerJoined { server_id, name: name(n), public_key, labels, capacity };
            Some((Event::ServerJoined(joined), version))
        }
        Command::AdoptServer { server } => {
            let server_id = server_id(server);
            Some((Event::ServerAdopted(ServerAdopted { server_id }), state.server(server_id)?.version))
        }
        Command::ChangeServer { server, settings } => {
            let server_id = server_id(server);
            let version = state.server(server_id)?.version;
            Some((Event::ServerChanged(ServerChanged { server_id, settings: *settings }), version))
        }
        Command::DetachServer { server } => {
            let server_id = server_id(server);
            Some((Event::ServerDetached(ServerDetached { server_id }), state.server(server_id)?.version))
        }
        Command::AddCamera { tenant, camera, settings } => {
            let (tenant_id, camera_id) = (tenant_id(tenant), camera_id(camera));
            state.tenant(tenant_id)?;
            let event = Event::CameraAdded(CameraAdded { tenant_id, camera_id, settings: *settings });
            state.camera(tenant_id, camera_id).is_none().then_some((event, Position::START))
        }
        Command::ChangeCamera { tenant, camera, settings } => {
            let (tenant_id, camera_id) = (tenant_id(tenant), camera_id(camera));
            let version = state.camera(tenant_id, camera_id)?.version;
            Some((Event::CameraChanged(CameraChanged { tenant_id, camera_id, settings: *settings }), version))
        }
        Command::DeleteCamera { tenant, camera } => {
            let (tenant_id, camera_id) = (tenant_id(tenant), camera_id(camera));
            let version = state.camera(tenant_id, camera_id)?.version;
            Some((Event::CameraDeleted(CameraDeleted { tenant_id, camera_id }), version))
        }
        Command::Plan { rules, choices } => {
            let plan = PlanMade { basis: state.position, rules, entries: entries(state, &choices) };
            Some((Event::PlanMade(plan), state.last_plan))
        }
    }
}

fn entries(state: &State, choices: &[Choice]) -> Vec<PlanEntry> {
    let servers: Vec<_> = state.servers().filter(|(_, s)| s.is_assignable()).map(|(id, _)| id).collect();
    let cameras = state.cameras().map(|(tenant_id, camera_id, _)| (tenant_id, camera_id));
    cameras
        .zip(choices)
        .map(|((tenant_id, camera_id), choice)| {
            let server = choice.server.filter(|_| !servers.is_empty());
            let decision = server.map_or(Decision::Unplace { reason: choice.unplace }, |n| {
                Decision::Assign { server_id: servers[usize::from(n) % servers.len()], reason: choice.assign }
            });
            PlanEntry { tenant_id, camera_id, decision }
        })
        .collect()
}
