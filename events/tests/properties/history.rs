//! Arbitrary histories that can really come about: commands of replicas, each of which may have folded less than all of
//! the log, appended under the log's one condition: nobody else appended to the subject since.

use std::collections::BTreeMap;

use longwatch_events::event::{DetachedCameras, Event};
use longwatch_events::fold::{self, Outcome};
use longwatch_events::policy::Policy;
use longwatch_events::position::Position;
use longwatch_events::reason::{AbandonReason, AssignReason, FinishReason, UnplacedReason};
use longwatch_events::sealed::WrappedKey;
use longwatch_events::settings::{CameraSettings, Capacity, Labels, ServerSettings};
use longwatch_events::state::State;
use longwatch_events::subject;
use longwatch_events::time::Timestamp;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::arbitrary::{
    abandon_reason, assign_reason, camera_settings, capacity, detached_cameras, finish_reason, labels,
    policy, server_settings, timestamp, unplaced_reason, wrapped_key,
};
use crate::decide::decide;

/// A command, with what a client or a replica would have drawn for it. Whom it is about is said by number: a new id, or
/// the n-th of those that are there.
#[derive(Debug, Clone)]
pub(crate) enum Command {
    Tenant { tenant: u8, what: TenantCommand },
    AddServer { server: u8, settings: Box<ServerSettings> },
    JoinServer { server: u8, name: u8, key: u8, labels: Labels, capacity: Capacity },
    Server { server: u8, what: ServerCommand },
    AddCamera { tenant: u8, camera: u8, settings: Box<CameraSettings> },
    ChangeCamera { camera: u8, settings: Box<CameraSettings> },
    DeleteCamera { camera: u8 },
    RequestMove { camera: u8, copy: u8, server: u8 },
    ChangePolicy { policy: Policy },
    RequireVersion { fold_version: u32 },
    Plan { rules: u32, choices: Vec<Choice> },
}

/// What is to be with a tenant.
#[derive(Debug, Clone)]
pub(crate) enum TenantCommand {
    Create { name: String, data_key: WrappedKey },
    Change { name: String },
    Delete,
}

/// What is to be with a server that is there, or what was seen of it.
#[derive(Debug, Clone)]
pub(crate) enum ServerCommand {
    Adopt,
    Change { settings: Box<ServerSettings> },
    Lose { last_heartbeat: Option<u64>, heard_at: Timestamp },
    Return { heartbeat: u64 },
    MeasureDisk { heartbeat: u64, free_percent: u8 },
    StartDrain,
    StopDrain,
    RequestFailback,
    Detach { cameras: DetachedCameras },
}

/// What a planner decides about the `copy`-th of all copies.
#[derive(Debug, Clone)]
pub(crate) struct Choice {
    pub(crate) copy: u8,
    pub(crate) wish: Wish,
}

/// A decision before it is known what there is. `server` counts those that can record; `behind` is by how much the
/// epoch that the planner knows is too old.
#[derive(Debug, Clone)]
pub(crate) enum Wish {
    Assign { server: u8, reason: AssignReason },
    Unplace { reason: UnplacedReason },
    Move { server: u8, reason: AssignReason },
    Finish { behind: u64, reason: FinishReason, evidence: Option<u64> },
    Abandon { behind: u64, reason: AbandonReason },
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
    /// What each event did.
    pub(crate) outcomes: Vec<Outcome>,
    /// After 0, 1, 2, … events.
    pub(crate) states: Vec<State>,
    /// Where the last event of each subject stands.
    pub(crate) last_of_subject: BTreeMap<String, Position>,
}

/// The name of a server. Few, so that two want the same.
pub(crate) fn name(n: u8) -> String {
    format!("server-{n}")
}

fn named_settings() -> impl Strategy<Value = Box<ServerSettings>> {
    (0..4_u8, server_settings())
        .prop_map(|(n, settings)| Box::new(ServerSettings { name: name(n), ..settings }))
}

/// Settings with a number of copies that a fleet of three or four can hold.
fn placeable_settings() -> impl Strategy<Value = Box<CameraSettings>> {
    (camera_settings(), prop_oneof![3 => 1..3_u8, 1 => any::<u8>()])
        .prop_map(|(settings, copies)| Box::new(CameraSettings { copies, ..settings }))
}

fn choice() -> impl Strategy<Value = Choice> {
    let behind = || prop_oneof![4 => Just(0), 1 => 1..20_u64];
    let wish = prop_oneof![
        4 => (any::<u8>(), assign_reason()).prop_map(|(server, reason)| Wish::Assign { server, reason }),
        1 => unplaced_reason().prop_map(|reason| Wish::Unplace { reason }),
        5 => (any::<u8>(), assign_reason()).prop_map(|(server, reason)| Wish::Move { server, reason }),
        4 => (behind(), finish_reason(), option::of(any::<u64>()))
            .prop_map(|(behind, reason, evidence)| Wish::Finish { behind, reason, evidence }),
        2 => (behind(), abandon_reason()).prop_map(|(behind, reason)| Wish::Abandon { behind, reason }),
    ];
    (any::<u8>(), wish).prop_map(|(copy, wish)| Choice { copy, wish })
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        6 => command_about_a_tenant_or_all(),
        19 => command_about_a_server(),
        12 => command_about_a_camera(),
        14 => (any::<u32>(), vec(choice(), 0..8))
            .prop_map(|(rules, choices)| Command::Plan { rules, choices }),
    ]
}

fn command_about_a_tenant_or_all() -> impl Strategy<Value = Command> {
    let what = prop_oneof![
        5 => (any::<String>(), wrapped_key())
            .prop_map(|(name, data_key)| TenantCommand::Create { name, data_key }),
        1 => any::<String>().prop_map(|name| TenantCommand::Change { name }),
        1 => Just(TenantCommand::Delete),
    ];
    prop_oneof![
        7 => (0..3_u8, what).prop_map(|(tenant, what)| Command::Tenant { tenant, what }),
        1 => policy().prop_map(|policy| Command::ChangePolicy { policy }),
        1 => (0..=fold::VERSION).prop_map(|fold_version| Command::RequireVersion { fold_version }),
    ]
}

fn command_about_a_server() -> impl Strategy<Value = Command> {
    let new = 0..6_u8;
    let what = prop_oneof![
        7 => Just(ServerCommand::Adopt),
        1 => named_settings().prop_map(|settings| ServerCommand::Change { settings }),
        1 => (option::of(any::<u64>()), timestamp())
            .prop_map(|(last_heartbeat, heard_at)| ServerCommand::Lose { last_heartbeat, heard_at }),
        1 => any::<u64>().prop_map(|heartbeat| ServerCommand::Return { heartbeat }),
        1 => (any::<u64>(), 0..=100_u8)
            .prop_map(|(heartbeat, free_percent)| ServerCommand::MeasureDisk { heartbeat, free_percent }),
        1 => Just(ServerCommand::StartDrain),
        1 => Just(ServerCommand::StopDrain),
        1 => Just(ServerCommand::RequestFailback),
        3 => detached_cameras().prop_map(|cameras| ServerCommand::Detach { cameras }),
    ];
    prop_oneof![
        2 => (new.clone(), named_settings())
            .prop_map(|(server, settings)| Command::AddServer { server, settings }),
        7 => (new, 0..4_u8, 0..4_u8, labels(), capacity()).prop_map(
            |(server, name, key, labels, capacity)| Command::JoinServer { server, name, key, labels, capacity }
        ),
        17 => (any::<u8>(), what).prop_map(|(server, what)| Command::Server { server, what }),
    ]
}

fn command_about_a_camera() -> impl Strategy<Value = Command> {
    let (t, new, c) = (0..3_u8, 0..6_u8, any::<u8>());
    prop_oneof![
        7 => (t, new, placeable_settings())
            .prop_map(|(tenant, camera, settings)| Command::AddCamera { tenant, camera, settings }),
        2 => (c, placeable_settings()).prop_map(|(camera, settings)| Command::ChangeCamera { camera, settings }),
        1 => c.prop_map(|camera| Command::DeleteCamera { camera }),
        3 => (c, 0..3_u8, any::<u8>())
            .prop_map(|(camera, copy, server)| Command::RequestMove { camera, copy, server }),
    ]
}

/// The commands that make a fleet of four servers, some of whose cameras are recorded: what a planned move needs first,
/// and what commands drawn one by one seldom come to.
fn fleet() -> impl Strategy<Value = Vec<Command>> {
    let tenant = (any::<String>(), wrapped_key())
        .prop_map(|(name, data_key)| TenantCommand::Create { name, data_key })
        .prop_map(|what| vec![Command::Tenant { tenant: 0, what }]);
    let join = (0..4_u8).map(|n| {
        (labels(), capacity()).prop_map(move |(labels, capacity)| {
            let joined = Command::JoinServer { server: n, name: n, key: n, labels, capacity };
            vec![joined, Command::Server { server: n, what: ServerCommand::Adopt }]
        })
    });
    let cameras = (0..3_u8).map(|camera| {
        placeable_settings()
            .prop_map(move |settings| vec![Command::AddCamera { tenant: 0, camera, settings }])
    });
    let assign = (any::<u8>(), any::<u8>(), assign_reason())
        .prop_map(|(copy, server, reason)| Choice { copy, wish: Wish::Assign { server, reason } });
    let plan = (any::<u32>(), vec(assign, 4..10))
        .prop_map(|(rules, choices)| vec![Command::Plan { rules, choices }]);
    let (servers, cameras): (Vec<_>, Vec<_>) = (join.collect(), cameras.collect());
    (tenant, servers, cameras, plan).prop_map(|(tenant, servers, cameras, plan)| {
        [vec![tenant], servers, cameras, vec![plan]].concat().concat()
    })
}

/// A history of up to `steps` commands, most often of a fleet that records already. Those that are refused or lose
/// their race leave no event.
pub(crate) fn history(steps: usize) -> impl Strategy<Value = History> {
    let begin = prop_oneof![1 => Just(Vec::new()), 4 => fleet()];
    let step = (command(), prop_oneof![3 => Just(0), 2 => 0..6_usize], timestamp())
        .prop_map(|(command, lag, stored_at)| Step { command, lag, stored_at });
    (begin, vec(step, 0..steps)).prop_map(|(begin, steps)| {
        let mut history = History {
            log: Vec::new(),
            outcomes: Vec::new(),
            states: vec![State::default()],
            last_of_subject: BTreeMap::new(),
        };
        let stored_at = Timestamp::UNIX_EPOCH;
        let begin = begin.into_iter().map(|command| Step { command, lag: 0, stored_at });
        begin.chain(steps).for_each(|step| history.take(step));
        history
    })
}

impl History {
    /// What follows from all of it.
    pub(crate) fn state(&self) -> &State {
        self.states.last().expect("never empty")
    }

    /// Each event with what it did, the state before it and the one behind it.
    pub(crate) fn steps(&self) -> impl Iterator<Item = (&Stored, Outcome, &State, &State)> {
        let states = self.states.iter().zip(&self.states[1..]);
        let events = self.log.iter().zip(&self.outcomes);
        events.zip(states).map(|((stored, outcome), (before, after))| (stored, *outcome, before, after))
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
        let outcome = fold::apply(&mut state, position, step.stored_at, &event).unwrap_or_else(|error| {
            panic!("a history that can come about halts the fold: {error}\n{event:#?}\nafter {:#?}", self.log)
        });
        self.last_of_subject.insert(subject, position);
        self.log.push(Stored { position, stored_at: step.stored_at, event });
        self.outcomes.push(outcome);
        self.states.push(state);
    }
}
