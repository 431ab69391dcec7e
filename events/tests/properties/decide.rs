//! What a control replica would say to a command, as far as the fold relies on it, and no stricter: the fewer rules
//! here, the more races the fold is shown.

use std::collections::BTreeMap;

use longwatch_events::event::{
    CameraAdded, CameraChanged, CameraDeleted, CameraMoveRequested, Decision, Event, Part, PlanEntry,
    PlanMade, PolicyChanged, ServerAdded, ServerAdopted, ServerChanged, ServerDetached, ServerDiskMeasured,
    ServerDrainStarted, ServerDrainStopped, ServerFailbackRequested, ServerJoined, ServerLost,
    ServerReturned, TenantChanged, TenantCreated, TenantDeleted, VersionRequired,
};
use longwatch_events::id::{CameraId, CopyKey, ServerId, TenantId};
use longwatch_events::position::{Epoch, Position};
use longwatch_events::sealed::PublicKey;
use longwatch_events::settings::{Capacity, Labels};
use longwatch_events::state::{CameraCopy, Server, State};
use longwatch_events::time::Timestamp;
use uuid::Uuid;

use crate::history::{Choice, Command, ServerCommand, TenantCommand, Wish, name};

/// An event, and the position its subject must end at for it to be appended.
type Decided = Option<(Event, Position)>;

fn id(n: u8) -> Uuid {
    Uuid::from_u128(u128::from(n))
}

/// The event a command leads to and the position its subject must end at; `None` if it is refused.
pub(crate) fn decide(state: &State, command: Command) -> Decided {
    match command {
        Command::Tenant { tenant, what } => about_a_tenant(state, TenantId::from_uuid(id(tenant)), what),
        Command::AddServer { server, settings } => {
            let is_free = state.server_by_name(&settings.name).is_none();
            let added = ServerAdded { server_id: ServerId::from_uuid(id(server)), settings: *settings };
            is_free.then_some((Event::ServerAdded(added), Position::START))
        }
        Command::JoinServer { server, name, key, labels, capacity } => {
            join(state, ServerId::from_uuid(id(server)), name, PublicKey([key; 32]), labels, capacity)
        }
        Command::Server { server, what } => {
            let (server_id, server) = nth(state.servers(), server)?;
            Some((about_a_server(server_id, what), server.version))
        }
        Command::AddCamera { tenant, camera, settings } => {
            let (tenant_id, camera_id) = (TenantId::from_uuid(id(tenant)), CameraId::from_uuid(id(camera)));
            state.tenant(tenant_id)?;
            let event = Event::CameraAdded(CameraAdded { tenant_id, camera_id, settings: *settings });
            state.camera(tenant_id, camera_id).is_none().then_some((event, Position::START))
        }
        Command::ChangeCamera { camera, settings } => {
            let (tenant_id, camera_id, camera) = nth(state.cameras(), camera)?;
            let changed = CameraChanged { tenant_id, camera_id, settings: *settings };
            Some((Event::CameraChanged(changed), camera.version))
        }
        Command::DeleteCamera { camera } => {
            let (tenant_id, camera_id, camera) = nth(state.cameras(), camera)?;
            Some((Event::CameraDeleted(CameraDeleted { tenant_id, camera_id }), camera.version))
        }
        Command::RequestMove { camera, copy, server } => {
            let (tenant_id, camera_id, camera) = nth(state.cameras(), camera)?;
            let (server_id, _) = nth(state.servers(), server)?;
            let requested = CameraMoveRequested { tenant_id, camera_id, copy, server_id };
            Some((Event::CameraMoveRequested(requested), camera.version))
        }
        Command::ChangePolicy { policy } => {
            Some((Event::PolicyChanged(PolicyChanged { policy }), state.policy_version))
        }
        Command::RequireVersion { fold_version } => {
            Some((Event::VersionRequired(VersionRequired { fold_version }), state.barrier_version))
        }
        Command::Plan { rules, choices } => {
            let entries = entries(state, &choices);
            let (basis, decided_at) = (state.position, Some(Timestamp::UNIX_EPOCH));
            let plan = PlanMade { basis, rules, decided_at, part: Part::WHOLE, entries };
            Some((Event::PlanMade(plan), state.last_plan))
        }
    }
}

fn about_a_tenant(state: &State, tenant_id: TenantId, command: TenantCommand) -> Decided {
    match command {
        TenantCommand::Create { name, data_key } => {
            let event = Event::TenantCreated(TenantCreated { tenant_id, name, data_key });
            state.tenant(tenant_id).is_none().then_some((event, Position::START))
        }
        TenantCommand::Change { name } => {
            let version = state.tenant(tenant_id)?.version;
            Some((Event::TenantChanged(TenantChanged { tenant_id, name }), version))
        }
        TenantCommand::Delete => {
            let version = state.tenant(tenant_id)?.version;
            let is_empty = state.cameras_of(tenant_id).next().is_none();
            is_empty.then_some((Event::TenantDeleted(TenantDeleted { tenant_id }), version))
        }
    }
}

fn about_a_server(server_id: ServerId, command: ServerCommand) -> Event {
    match command {
        ServerCommand::Adopt => Event::ServerAdopted(ServerAdopted { server_id }),
        ServerCommand::Change { settings } => {
            Event::ServerChanged(ServerChanged { server_id, settings: *settings })
        }
        ServerCommand::Lose { last_heartbeat, heard_at } => {
            let last_heartbeat = last_heartbeat.map(Position);
            let judged_at = heard_at.plus_millis(3_001);
            Event::ServerLost(ServerLost { server_id, last_heartbeat, heard_at, judged_at, lease_ms: 3_000 })
        }
        ServerCommand::Return { heartbeat } => {
            Event::ServerReturned(ServerReturned { server_id, heartbeat: Position(heartbeat) })
        }
        ServerCommand::MeasureDisk { heartbeat, free_percent } => {
            let heartbeat = Position(heartbeat);
            Event::ServerDiskMeasured(ServerDiskMeasured { server_id, heartbeat, free_percent })
        }
        ServerCommand::StartDrain => Event::ServerDrainStarted(ServerDrainStarted { server_id }),
        ServerCommand::StopDrain => Event::ServerDrainStopped(ServerDrainStopped { server_id }),
        ServerCommand::RequestFailback => {
            Event::ServerFailbackRequested(ServerFailbackRequested { server_id })
        }
        ServerCommand::Detach { cameras } => Event::ServerDetached(ServerDetached { server_id, cameras }),
    }
}

/// A worker shows its key: it is a server that is known by it and may only be let go, one that was announced under its
/// name, or a new one.
fn join(
    state: &State,
    new: ServerId,
    n: u8,
    public_key: PublicKey,
    labels: Labels,
    capacity: Capacity,
) -> Decided {
    let by_name = state.server_by_name(&name(n));
    let (server_id, version) = match (state.server_by_key(&public_key), by_name) {
        (Some((known, server)), _) if server.is_detached() => (known, server.version),
        (None, Some((announced, server))) if server.public_key.is_none() => (announced, server.version),
        (Some(_), _) | (None, Some(_)) => return None,
        (None, None) => (new, Position::START),
    };
    let joined = ServerJoined { server_id, name: name(n), public_key, labels, capacity };
    Some((Event::ServerJoined(joined), version))
}

fn entries(state: &State, choices: &[Choice]) -> Vec<PlanEntry> {
    let servers: Vec<_> =
        state.servers().filter(|(_, s)| Server::is_assignable(s)).map(|(id, _)| id).collect();
    let copies: Vec<_> = state
        .cameras()
        .flat_map(|(tenant_id, camera_id, camera)| {
            camera.copies().map(move |(copy, placed)| (CopyKey { tenant_id, camera_id, copy }, placed))
        })
        .collect();
    let chosen: BTreeMap<_, _> = choices
        .iter()
        .filter_map(|choice| {
            let (key, copy) = nth(copies.iter().copied(), choice.copy)?;
            Some((key, decision(&servers, copy, &choice.wish)?))
        })
        .collect();
    let entry = |(CopyKey { tenant_id, camera_id, copy }, decision)| PlanEntry {
        tenant_id,
        camera_id,
        copy,
        decision,
    };
    chosen.into_iter().map(entry).collect()
}

fn decision(servers: &[ServerId], copy: &CameraCopy, wish: &Wish) -> Option<Decision> {
    let server = |n: u8| nth(servers.iter().copied(), n);
    // A copy that is not on the move any more was so in the eyes of whoever decides about it too late.
    let known = || copy.successor().or(copy.assignment()).map_or(Epoch(0), |known| known.epoch);
    let epoch = |behind: u64| Epoch(known().0.saturating_sub(behind));
    Some(match *wish {
        Wish::Assign { server: n, reason } => Decision::Assign { server_id: server(n)?, reason },
        Wish::Unplace { reason } => Decision::Unplace { reason },
        Wish::Move { server: n, reason } => Decision::Move { server_id: server(n)?, reason },
        Wish::Finish { behind, reason, evidence } => {
            Decision::Finish { epoch: epoch(behind), reason, evidence: evidence.map(Position) }
        }
        Wish::Abandon { behind, reason } => Decision::Abandon { epoch: epoch(behind), reason },
    })
}

/// The n-th of `items`, counted round and round; `None` if there are none.
fn nth<T>(items: impl Iterator<Item = T>, n: u8) -> Option<T> {
    let mut items: Vec<_> = items.collect();
    (!items.is_empty()).then(|| items.swap_remove(usize::from(n) % items.len()))
}
