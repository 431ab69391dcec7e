//! What operators and tenants ask for: anything that can be asked for, by what they read somewhere a moment ago.

use longwatch_control::decide::command::Command;
use longwatch_events::event::DetachedCameras;
use longwatch_events::fold;
use longwatch_events::id::{CameraId, EventId, ServerId, TenantId};
use longwatch_events::schedule::{Days, Schedule, TimeOfDay, Window};
use longwatch_events::sealed::{Base64Bytes, Sealed, WrappedKey};
use longwatch_events::settings::{
    CameraSettings, Capacity, Failover, Labels, Priority, Recording, RecordingMode, Retention,
    ServerSettings, Source, Transport, ZONE,
};
use longwatch_events::state::{Camera, Membership, State};
use longwatch_worker::plan::Key;
use uuid::Uuid;

use super::cameras::Cameras;
use super::env::Env;
use super::scenario;

/// No run has more cameras.
const MAX_CAMERAS: usize = 80;

/// The word for a command in a trace.
pub(super) const fn name(command: &Command) -> &'static str {
    match command {
        Command::CreateTenant { .. } => "create tenant",
        Command::ChangeTenant { .. } => "change tenant",
        Command::DeleteTenant { .. } => "delete tenant",
        Command::AddServer { .. } => "add server",
        Command::JoinServer { .. } => "join server",
        Command::AdoptServer { .. } => "adopt server",
        Command::ChangeServer { .. } => "change server",
        Command::DetachServer { .. } => "detach server",
        Command::StartDrain { .. } => "start drain",
        Command::StopDrain { .. } => "stop drain",
        Command::FailBack { .. } => "fail back",
        Command::AddCamera { .. } => "add camera",
        Command::ChangeCamera { .. } => "change camera",
        Command::MoveCamera { .. } => "move camera",
        Command::ChangePolicy { .. } => "change policy",
        Command::RequireVersion { .. } => "require version",
        Command::DeleteCamera { .. } => "delete camera",
    }
}

/// What is still to be set up before a run begins in earnest, if anything is.
pub(super) fn set_up(env: &mut Env, state: &State, cameras: &mut Cameras) -> Option<Command> {
    if state.policy_version.0 == 0 && state.tenants().next().is_some() {
        return Some(change_policy(env, state));
    }
    if state.tenants().count() < env.scenario.tenants as usize {
        return Some(create_tenant(env));
    }
    let unsized_server = state.servers().find(|(_, server)| server.settings.capacity == Capacity::default());
    if let Some((server_id, server)) = unsized_server {
        let settings = server_settings(env, &server.settings);
        return Some(Command::ChangeServer { server_id, expected: server.version, settings });
    }
    (cameras.keys().len() < env.scenario.cameras as usize).then(|| add_camera(env, state, cameras)).flatten()
}

/// Anything that can be asked for on what `state` shows.
pub(super) fn wish(env: &mut Env, state: &State, cameras: &mut Cameras) -> Option<Command> {
    if env.scenario.is_upgraded && env.random.percent(4) {
        return Some(require_version(state, fold::VERSION));
    }
    match env.random.number(0..=99) {
        0..=9 => add_camera(env, state, cameras),
        10..=35 => change_camera(env, state),
        36..=40 => delete_camera(env, state),
        41..=54 => move_camera(env, state),
        55..=61 => start_drain(env, state),
        62..=68 => stop_drain(env, state),
        69..=73 => fail_back(env, state),
        74..=76 => detach(env, state),
        77..=81 => adopt(env, state),
        82..=91 => change_server(env, state),
        92..=93 => add_server(env),
        94..=95 => Some(change_policy(env, state)),
        96..=98 => change_tenants(env, state),
        _ => {
            let fold_version = env.random.one_of([1, fold::VERSION, fold::VERSION + 1]);
            Some(require_version(state, fold_version))
        }
    }
}

const fn require_version(state: &State, fold_version: u32) -> Command {
    Command::RequireVersion { expected: state.barrier_version, fold_version }
}

fn create_tenant(env: &mut Env) -> Command {
    let data_key = WrappedKey { provider: "simulated".to_owned(), bytes: Base64Bytes(vec![2]) };
    Command::CreateTenant { tenant_id: env.tenant_id(), name: "Tenant".to_owned(), data_key }
}

fn change_tenants(env: &mut Env, state: &State) -> Option<Command> {
    let tenants: Vec<_> = state.tenants().map(|(id, tenant)| (id, tenant.version)).collect();
    let (tenant_id, expected) = env.random.pick(&tenants)?;
    Some(match env.random.number(0..=2) {
        0 => create_tenant(env),
        1 => Command::ChangeTenant { tenant_id, expected, name: "Other".to_owned() },
        _ => Command::DeleteTenant { tenant_id, expected },
    })
}

fn change_policy(env: &mut Env, state: &State) -> Command {
    Command::ChangePolicy { expected: state.policy_version, policy: scenario::policy(&mut env.random) }
}

fn some_server(env: &mut Env, state: &State) -> Option<ServerId> {
    let servers: Vec<_> = state.servers().map(|(id, _)| id).collect();
    env.random.pick(&servers)
}

fn some_camera<'a>(env: &mut Env, state: &'a State) -> Option<(TenantId, CameraId, &'a Camera)> {
    let cameras: Vec<_> = state.cameras().collect();
    env.random.pick(&cameras)
}

fn source(env: &mut Env) -> Source {
    let number = env.random.count(0..=999_999);
    Source {
        url: format!("rtsp://camera/{number}"),
        secret: Sealed {
            sealed_in: EventId::from_uuid(Uuid::nil()),
            bytes: Base64Bytes(number.to_be_bytes().to_vec()),
        },
        transport: Transport::Tcp,
    }
}

/// The labels that a camera asks for: mostly none.
fn server_labels(env: &mut Env) -> Labels {
    match env.random.number(0..=19) {
        0 => Labels::from([("disk".to_owned(), "fast".to_owned())]),
        1 => Labels::from([(ZONE.to_owned(), "north".to_owned())]),
        _ => Labels::new(),
    }
}

fn priority(env: &mut Env) -> Priority {
    let priorities = [
        Priority::High,
        Priority::High,
        Priority::Medium,
        Priority::Medium,
        Priority::Medium,
        Priority::Low,
        Priority::Low,
        Priority::Never,
    ];
    env.random.one_of(priorities)
}

fn bitrate_bps(env: &mut Env) -> Option<u64> {
    let bitrate_bps = env.random.count(1..=8).into();
    env.random.percent(60).then_some(bitrate_bps)
}

fn preferred(env: &mut Env, state: &State, percent: u32) -> Option<ServerId> {
    some_server(env, state).filter(|_| env.random.percent(percent))
}

fn add_camera(env: &mut Env, state: &State, cameras: &mut Cameras) -> Option<Command> {
    let tenants: Vec<_> = state.tenants().map(|(id, _)| id).collect();
    let tenant_id = env.random.pick(&tenants).filter(|_| cameras.keys().len() < MAX_CAMERAS)?;
    let camera_id = env.camera_id();
    cameras.add(Key { tenant_id, camera_id });
    let single_session = env.random.percent(15);
    let zone = env.random.one_of(["north", "south"]).to_owned();
    let settings = CameraSettings {
        name: "camera".to_owned(),
        labels: if env.random.percent(30) { Labels::from([(ZONE.to_owned(), zone)]) } else { Labels::new() },
        source: source(env),
        recording: Recording::default(),
        retention: Retention::default(),
        failover_priority: priority(env),
        preferred_server_id: preferred(env, state, 15),
        // A camera that serves one client cannot be recorded twice.
        copies: if single_session || env.random.percent(85) { 1 } else { env.random.one_of([2, 2, 3]) },
        expected_bitrate_bps: bitrate_bps(env),
        server_labels: server_labels(env),
        single_session,
        live_latency_ms: None,
    };
    Some(Command::AddCamera { tenant_id, camera_id, settings: Box::new(settings) })
}

fn change_camera(env: &mut Env, state: &State) -> Option<Command> {
    let (tenant_id, camera_id, camera) = some_camera(env, state)?;
    let mut settings = camera.settings.told();
    match env.random.number(0..=9) {
        0 => settings.name = "renamed".to_owned(),
        1 => settings.source = source(env),
        2 => settings.failover_priority = priority(env),
        3 => settings.preferred_server_id = preferred(env, state, 70),
        4 => settings.server_labels = server_labels(env),
        5 => settings.expected_bitrate_bps = bitrate_bps(env),
        6 if !settings.single_session => settings.copies = env.random.one_of([0, 1, 2, 3]),
        7 if settings.wanted_copies() == 1 => settings.single_session ^= true,
        _ => {
            settings.recording.mode = match settings.recording.mode {
                RecordingMode::Continuous if env.random.percent(40) => RecordingMode::Off,
                RecordingMode::Continuous if env.random.percent(30) => RecordingMode::Schedule,
                RecordingMode::Continuous if env.random.percent(30) => RecordingMode::Event,
                RecordingMode::Continuous
                | RecordingMode::Off
                | RecordingMode::Schedule
                | RecordingMode::Event => RecordingMode::Continuous,
            };
            settings.recording.schedule = Some(Box::new(always()));
        }
    }
    let expected = camera.version;
    Some(Command::ChangeCamera { tenant_id, camera_id, expected, settings: Box::new(settings) })
}

/// A schedule that is always on: the workers here know of none.
fn always() -> Schedule {
    let window = Window { days: Days::ALL, from: TimeOfDay::MIDNIGHT, to: TimeOfDay::END };
    Schedule { time_zone: "UTC".to_owned(), weekly: vec![window] }
}

fn delete_camera(env: &mut Env, state: &State) -> Option<Command> {
    let (tenant_id, camera_id, camera) = some_camera(env, state)?;
    Some(Command::DeleteCamera { tenant_id, camera_id, expected: camera.version })
}

fn move_camera(env: &mut Env, state: &State) -> Option<Command> {
    let (tenant_id, camera_id, camera) = some_camera(env, state)?;
    let copy = u8::try_from(env.random.count(0..=2)).unwrap_or(0).min(camera.settings.wanted_copies());
    let server_id = some_server(env, state)?;
    Some(Command::MoveCamera { tenant_id, camera_id, copy, expected: camera.version, server_id })
}

fn start_drain(env: &mut Env, state: &State) -> Option<Command> {
    // Never all of them: there would be nothing left to see.
    let (draining, all) =
        (state.servers().filter(|(_, s)| s.draining_since.is_some()).count(), state.servers().count());
    let server_id = some_server(env, state).filter(|_| draining * 2 < all)?;
    Some(Command::StartDrain { server_id, expected: state.server(server_id)?.version })
}

fn stop_drain(env: &mut Env, state: &State) -> Option<Command> {
    let draining: Vec<_> = state
        .servers()
        .filter(|(_, server)| server.draining_since.is_some())
        .map(|(id, server)| (id, server.version))
        .collect();
    let (server_id, expected) = env.random.pick(&draining)?;
    Some(Command::StopDrain { server_id, expected })
}

fn fail_back(env: &mut Env, state: &State) -> Option<Command> {
    let homes: Vec<_> = state.index().homes().collect();
    let server_id = env.random.pick(&homes)?;
    Some(Command::FailBack { server_id, expected: state.server(server_id)?.version })
}

fn detach(env: &mut Env, state: &State) -> Option<Command> {
    let server_id = some_server(env, state)?;
    let cameras = env.random.one_of([DetachedCameras::Keep, DetachedCameras::Remove]);
    Some(Command::DetachServer { server_id, expected: state.server(server_id)?.version, cameras })
}

fn adopt(env: &mut Env, state: &State) -> Option<Command> {
    let outside: Vec<_> = state
        .servers()
        .filter(|(_, server)| match server.membership {
            Membership::Undefined | Membership::Detached { .. } => true,
            Membership::Adopted => false,
        })
        .map(|(id, server)| (id, server.version))
        .collect();
    let (server_id, expected) = env.random.pick(&outside)?;
    Some(Command::AdoptServer { server_id, expected })
}

/// How large a server is, so that all of them together have as much room as the scenario says.
fn server_settings(env: &mut Env, now: &ServerSettings) -> ServerSettings {
    let share = env.scenario.cameras * env.scenario.room_percent / 100 / env.scenario.servers;
    let max_cameras = env.random.count(share / 2..=share * 3 / 2 + 1).max(1);
    let max_bitrate_bps = env.random.percent(40).then_some(u64::from(max_cameras) * 4);
    let takeover_limit = env.random.count(1..=max_cameras + 2);
    let failover = Failover { enabled: env.random.percent(90), takeover_limit };
    ServerSettings { capacity: Capacity { max_cameras, max_bitrate_bps }, failover, ..now.clone() }
}

fn change_server(env: &mut Env, state: &State) -> Option<Command> {
    let server_id = some_server(env, state)?;
    let server = state.server(server_id)?;
    let mut settings = server_settings(env, &server.settings);
    if env.random.percent(20) {
        let zone = env.random.one_of(["north", "south"]).to_owned();
        settings.labels.insert(ZONE.to_owned(), zone);
    }
    if env.random.percent(10) {
        settings.labels = match settings.labels.get("disk") {
            Some(_) => settings.labels.iter().filter(|(key, _)| *key != "disk").collect(),
            None => settings.labels.iter().chain([("disk", "fast")]).collect(),
        };
    }
    Some(Command::ChangeServer { server_id, expected: server.version, settings })
}

/// Announces a server before its worker is seen; or gives a server a name that another may have.
fn add_server(env: &mut Env) -> Option<Command> {
    let number = env.random.count(0..=env.scenario.servers) as usize;
    let settings = ServerSettings {
        name: format!("s{number}"),
        labels: Labels::new(),
        capacity: Capacity { max_cameras: 3, max_bitrate_bps: None },
        failover: Failover::default(),
    };
    Some(Command::AddServer { server_id: env.server_id(1_000 + number), settings })
}
