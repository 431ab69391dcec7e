//! What may be asked for, and what follows: `decide(&State, Command) -> Event | Refusal`.
//!
//! A command names the version of the thing it was based on; if that is not the current one the answer is
//! [`Refusal::Changed`], and the asker reads again. The append is conditional on the same version, so two
//! replicas that decide at once cannot both win.

use std::collections::BTreeSet;

use longwatch_events::event::{
    CameraAdded, CameraChanged, CameraDeleted, CameraMoveRequested, DetachedCameras, Event, PolicyChanged,
    ServerAdded, ServerAdopted, ServerChanged, ServerDetached, ServerDrainStarted, ServerDrainStopped,
    ServerFailbackRequested, ServerJoined, TenantChanged, TenantCreated, TenantDeleted, VersionRequired,
};
use longwatch_events::fold;
use longwatch_events::id::{CameraId, ServerId, TenantId};
use longwatch_events::policy::Policy;
use longwatch_events::position::Position;
use longwatch_events::sealed::{PublicKey, WrappedKey};
use longwatch_events::settings::{CameraSettings, Capacity, Labels, ServerSettings};
use longwatch_events::state::{Camera, Server, State, Tenant};

/// How long a name may be, in characters: of a server, whether an operator or its worker gives it, and of all else.
pub const MAX_NAME: usize = 200;
/// How many labels a camera or server may have, whoever gives them.
pub const MAX_LABELS: usize = 32;
/// How long a label's key may be, in bytes.
pub const MAX_LABEL_KEY: usize = 63;
/// How long a label's value may be, in bytes.
pub const MAX_LABEL_VALUE: usize = 255;

/// A request to change something.
#[derive(Debug, Clone)]
pub enum Command {
    /// A new tenant.
    CreateTenant {
        /// Its id.
        tenant_id: TenantId,
        /// For people.
        name: String,
        /// Made for it.
        data_key: WrappedKey,
    },
    /// Another name.
    ChangeTenant {
        /// Which.
        tenant_id: TenantId,
        /// The version the change was based on.
        expected: Position,
        /// The new name.
        name: String,
    },
    /// An end to a tenant without cameras.
    DeleteTenant {
        /// Which.
        tenant_id: TenantId,
        /// The version the wish was based on.
        expected: Position,
    },
    /// A server whose worker is still to come.
    AddServer {
        /// Its id.
        server_id: ServerId,
        /// Its settings.
        settings: ServerSettings,
    },
    /// A worker that showed the join key.
    JoinServer {
        /// Its id: of the announced server it becomes, or a new one.
        server_id: ServerId,
        /// The worker's name for itself.
        name: String,
        /// Its key.
        public_key: PublicKey,
        /// What it was started with.
        labels: Labels,
        /// As `labels`.
        capacity: Capacity,
    },
    /// Taking an undefined server in.
    AdoptServer {
        /// Which.
        server_id: ServerId,
        /// The version the wish was based on.
        expected: Position,
    },
    /// Other settings.
    ChangeServer {
        /// Which.
        server_id: ServerId,
        /// The version the change was based on.
        expected: Position,
        /// All of them.
        settings: ServerSettings,
    },
    /// Letting a server go.
    DetachServer {
        /// Which.
        server_id: ServerId,
        /// The version the wish was based on.
        expected: Position,
        /// What becomes of its cameras.
        cameras: DetachedCameras,
    },
    /// Emptying a server.
    StartDrain {
        /// Which.
        server_id: ServerId,
        /// The version the wish was based on.
        expected: Position,
    },
    /// Not emptying it any more.
    StopDrain {
        /// Which.
        server_id: ServerId,
        /// The version the wish was based on.
        expected: Position,
    },
    /// Having back what others took over.
    FailBack {
        /// Which server.
        server_id: ServerId,
        /// The version the wish was based on.
        expected: Position,
    },
    /// A new camera.
    AddCamera {
        /// Owner.
        tenant_id: TenantId,
        /// Its id.
        camera_id: CameraId,
        /// Its settings.
        settings: Box<CameraSettings>,
    },
    /// Other settings.
    ChangeCamera {
        /// Owner.
        tenant_id: TenantId,
        /// Which.
        camera_id: CameraId,
        /// The version the change was based on.
        expected: Position,
        /// All of them.
        settings: Box<CameraSettings>,
    },
    /// A copy of a camera on another server.
    MoveCamera {
        /// Owner.
        tenant_id: TenantId,
        /// Which.
        camera_id: CameraId,
        /// Which of its copies.
        copy: u8,
        /// The version the wish was based on.
        expected: Position,
        /// Where to.
        server_id: ServerId,
    },
    /// Other rules for the whole system.
    ChangePolicy {
        /// The version the change was based on.
        expected: Position,
        /// All of it.
        policy: Policy,
    },
    /// A barrier for programs that are too old.
    RequireVersion {
        /// The version the wish was based on.
        expected: Position,
        /// What a program must have at least; not more than this one has.
        fold_version: u32,
    },
    /// An end to a camera; its archive stays.
    DeleteCamera {
        /// Owner.
        tenant_id: TenantId,
        /// Which.
        camera_id: CameraId,
        /// The version the wish was based on.
        expected: Position,
    },
}

/// Why a command is not carried out, for the one who asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The thing does not exist (any more), or not for this tenant.
    #[error("{what} {id} does not exist")]
    NotFound {
        /// `tenant`, `server`, `camera`.
        what: &'static str,
        /// As asked for.
        id: String,
    },
    /// It is at another version than the wish was based on.
    #[error(
        "{what} {id} was changed meanwhile: it is at version {actual}, the request is based on {expected}; read it again"
    )]
    Changed {
        /// `tenant`, `server`, `camera`.
        what: &'static str,
        /// Which.
        id: String,
        /// Version asked for.
        expected: Position,
        /// Version it has.
        actual: Position,
    },
    /// The id is taken.
    #[error("{what} {id} exists already")]
    Exists {
        /// `tenant`, `server`, `camera`.
        what: &'static str,
        /// Which.
        id: String,
    },
    /// Another server has the name.
    #[error("another server is called `{name}`; choose a name that no server has")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// The tenant still has cameras.
    #[error("the tenant still has {cameras} camera(s); delete them first")]
    TenantNotEmpty {
        /// How many.
        cameras: usize,
    },
    /// The tenant every system begins with stays.
    #[error("the default tenant cannot be deleted")]
    DefaultTenant,
    /// A camera prefers a server that does not exist.
    #[error(
        "preferred_server_id names server {0}, which does not exist; use the id of an existing server or null"
    )]
    UnknownPreferredServer(ServerId),
    /// An owner let this server go.
    #[error("this server was detached; it records again once an owner adopts it again")]
    Detached,
    /// It belongs to no system yet, or not any more, or was never seen.
    #[error(
        "server {0} holds no cameras: it is not adopted, or its worker was never seen; adopt and start it first"
    )]
    NotOurs(ServerId),
    /// The camera has no such copy.
    #[error("the camera has {copies} copies, numbered from 0; there is no copy {copy}")]
    NoCopy {
        /// Asked for.
        copy: u8,
        /// There are.
        copies: u8,
    },
    /// It would be moved right back.
    #[error("the camera prefers server {0}; change preferred_server_id instead")]
    PrefersAnother(ServerId),
    /// Another copy of the camera is there.
    #[error("server {0} records another copy of this camera; choose another one")]
    HasAnotherCopy(ServerId),
    /// Other servers record cameras of a server whose cameras are to be deleted.
    #[error(
        "other servers record {cameras} camera(s) of this server, which took them over or to which it was drained; they would be \
         deleted: detach it with `keep`, which leaves them where they are recorded now, or delete them first"
    )]
    RecordedElsewhere {
        /// How many.
        cameras: usize,
    },
    /// A camera without a server is placed as soon as there is room.
    #[error("the camera has no server yet; it is placed as soon as there is room")]
    NotPlaced,
    /// This program would not start again.
    #[error(
        "this program folds as version {actual}, so it cannot require version {asked}; start a newer one first"
    )]
    TooNew {
        /// Asked for.
        asked: u32,
        /// What this program has.
        actual: u32,
    },
}

impl Refusal {
    /// The word for a program.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "not_found",
            Self::Changed { .. } => "version_conflict",
            Self::Exists { .. } => "already_exists",
            Self::NameTaken { .. } => "name_taken",
            Self::TenantNotEmpty { .. } => "tenant_not_empty",
            Self::DefaultTenant => "default_tenant",
            Self::UnknownPreferredServer(_) => "unknown_server",
            Self::Detached => "detached",
            Self::NotOurs(_) => "server_not_adopted",
            Self::NoCopy { .. } => "no_such_copy",
            Self::PrefersAnother(_) => "prefers_another_server",
            Self::HasAnotherCopy(_) => "server_has_another_copy",
            Self::RecordedElsewhere { .. } => "cameras_recorded_elsewhere",
            Self::NotPlaced => "camera_not_placed",
            Self::TooNew { .. } => "version_too_new",
        }
    }
}

/// What a command leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// To be appended.
    pub event: Event,
    /// Where the last event of its subject stands, as State knows it: the condition of the append.
    pub expected_last: Position,
}

/// Decides `command` on `state`.
///
/// # Errors
/// A [`Refusal`] that says what is wrong and what would be right.
pub fn decide(state: &State, command: Command) -> Result<Decided, Refusal> {
    match command {
        Command::CreateTenant { tenant_id, name, data_key } => {
            if state.tenant(tenant_id).is_some() {
                return Err(Refusal::Exists { what: "tenant", id: tenant_id.to_string() });
            }
            Ok(first(Event::TenantCreated(TenantCreated { tenant_id, name, data_key })))
        }
        Command::ChangeTenant { tenant_id, expected, name } => {
            let tenant = tenant(state, tenant_id)?;
            at_version("tenant", tenant_id, expected, tenant.version)?;
            Ok(behind(expected, Event::TenantChanged(TenantChanged { tenant_id, name })))
        }
        Command::DeleteTenant { tenant_id, expected } => delete_tenant(state, tenant_id, expected),
        Command::AddServer { server_id, settings } => {
            name_is_free(state, &settings.name, None)?;
            Ok(first(Event::ServerAdded(ServerAdded { server_id, settings })))
        }
        Command::JoinServer { server_id, name, public_key, labels, capacity } => {
            let joined = ServerJoined { server_id, name, public_key, labels, capacity };
            join_server(state, joined)
        }
        Command::AdoptServer { server_id, expected } => {
            let server = server(state, server_id)?;
            at_version("server", server_id, expected, server.version)?;
            name_is_free(state, &server.settings.name, Some(server_id))?;
            Ok(behind(expected, Event::ServerAdopted(ServerAdopted { server_id })))
        }
        Command::ChangeServer { server_id, expected, settings } => {
            let server = server(state, server_id)?;
            at_version("server", server_id, expected, server.version)?;
            name_is_free(state, &settings.name, Some(server_id))?;
            Ok(behind(expected, Event::ServerChanged(ServerChanged { server_id, settings })))
        }
        Command::DetachServer { server_id, expected, cameras } => {
            let server = server(state, server_id)?;
            at_version("server", server_id, expected, server.version)?;
            if cameras == DetachedCameras::Remove {
                nobody_else_records_its_cameras(state, server_id)?;
            }
            Ok(behind(expected, Event::ServerDetached(ServerDetached { server_id, cameras })))
        }
        Command::StartDrain { server_id, expected } => {
            our_server(state, server_id, expected)?;
            Ok(behind(expected, Event::ServerDrainStarted(ServerDrainStarted { server_id })))
        }
        Command::StopDrain { server_id, expected } => {
            our_server(state, server_id, expected)?;
            Ok(behind(expected, Event::ServerDrainStopped(ServerDrainStopped { server_id })))
        }
        Command::FailBack { server_id, expected } => {
            our_server(state, server_id, expected)?;
            Ok(behind(expected, Event::ServerFailbackRequested(ServerFailbackRequested { server_id })))
        }
        Command::ChangePolicy { expected, policy } => {
            at_version("policy", "of the system", expected, state.policy_version)?;
            Ok(behind(expected, Event::PolicyChanged(PolicyChanged { policy })))
        }
        Command::RequireVersion { expected, fold_version } => {
            at_version("version", "of the system", expected, state.barrier_version)?;
            if fold_version > fold::VERSION {
                return Err(Refusal::TooNew { asked: fold_version, actual: fold::VERSION });
            }
            Ok(behind(expected, Event::VersionRequired(VersionRequired { fold_version })))
        }
        Command::MoveCamera { tenant_id, camera_id, copy, expected, server_id } => {
            may_move(state, tenant_id, camera_id, copy, expected, server_id)?;
            let wish = CameraMoveRequested { tenant_id, camera_id, copy, server_id };
            Ok(behind(expected, Event::CameraMoveRequested(wish)))
        }
        Command::AddCamera { tenant_id, camera_id, settings } => {
            tenant(state, tenant_id)?;
            preferred_server_exists(state, &settings)?;
            if state.camera(tenant_id, camera_id).is_some() {
                return Err(Refusal::Exists { what: "camera", id: camera_id.to_string() });
            }
            Ok(first(Event::CameraAdded(CameraAdded { tenant_id, camera_id, settings: *settings })))
        }
        Command::ChangeCamera { tenant_id, camera_id, expected, settings } => {
            let camera = camera(state, tenant_id, camera_id)?;
            at_version("camera", camera_id, expected, camera.version)?;
            // A server that was detached since must not stand in the way of other changes.
            if settings.preferred_server_id != camera.settings.preferred_server_id {
                preferred_server_exists(state, &settings)?;
            }
            let changed = CameraChanged { tenant_id, camera_id, settings: *settings };
            Ok(behind(expected, Event::CameraChanged(changed)))
        }
        Command::DeleteCamera { tenant_id, camera_id, expected } => {
            let camera = camera(state, tenant_id, camera_id)?;
            at_version("camera", camera_id, expected, camera.version)?;
            Ok(behind(expected, Event::CameraDeleted(CameraDeleted { tenant_id, camera_id })))
        }
    }
}

fn delete_tenant(state: &State, tenant_id: TenantId, expected: Position) -> Result<Decided, Refusal> {
    if tenant_id == TenantId::DEFAULT {
        return Err(Refusal::DefaultTenant);
    }
    let tenant = tenant(state, tenant_id)?;
    at_version("tenant", tenant_id, expected, tenant.version)?;
    match state.cameras_of(tenant_id).count() {
        0 => Ok(behind(expected, Event::TenantDeleted(TenantDeleted { tenant_id }))),
        cameras => Err(Refusal::TenantNotEmpty { cameras }),
    }
}

fn our_server(state: &State, server_id: ServerId, expected: Position) -> Result<(), Refusal> {
    let server = server(state, server_id)?;
    at_version("server", server_id, expected, server.version)?;
    if server.is_ours() { Ok(()) } else { Err(Refusal::NotOurs(server_id)) }
}

/// Whoever deletes the cameras of a server with it must not stop a recording that is none of its: the server was drained, or
/// others took its cameras over.
fn nobody_else_records_its_cameras(state: &State, server_id: ServerId) -> Result<(), Refusal> {
    let elsewhere = state.index().away_from(server_id).filter(|key| {
        let is_recorded = state.copy(*key).is_some_and(|(_, copy)| copy.assignment().is_some());
        is_recorded && state.belongs_only_to(*key, server_id)
    });
    let cameras: BTreeSet<_> = elsewhere.map(|key| (key.tenant_id, key.camera_id)).collect();
    if cameras.is_empty() { Ok(()) } else { Err(Refusal::RecordedElsewhere { cameras: cameras.len() }) }
}

fn may_move(
    state: &State,
    tenant_id: TenantId,
    camera_id: CameraId,
    copy: u8,
    expected: Position,
    to: ServerId,
) -> Result<(), Refusal> {
    let camera = camera(state, tenant_id, camera_id)?;
    at_version("camera", camera_id, expected, camera.version)?;
    if !server(state, to)?.is_ours() {
        return Err(Refusal::NotOurs(to));
    }
    let copies = camera.settings.wanted_copies();
    let Some(now) = camera.copy(copy) else { return Err(Refusal::NoCopy { copy, copies }) };
    if now.assignment().is_none() {
        return Err(Refusal::NotPlaced);
    }
    let has_another = |id| {
        let mut others = camera.copies().filter(|(number, _)| *number != copy);
        others.any(|(_, other)| other.servers().any(|server_id| server_id == id))
    };
    if has_another(to) {
        return Err(Refusal::HasAnotherCopy(to));
    }
    match camera.settings.preferred_server_id {
        // Where one copy is, no other one is drawn to.
        Some(preferred) if preferred != to && !has_another(preferred) => {
            Err(Refusal::PrefersAnother(preferred))
        }
        Some(_) | None => Ok(()),
    }
}

fn join_server(state: &State, joined: ServerJoined) -> Result<Decided, Refusal> {
    // Seen again after an owner let it go: that is worth a line in the log, no more.
    if let Some((id, server)) = state.server_by_key(&joined.public_key)
        && server.is_detached()
        && id == joined.server_id
    {
        return Ok(behind(server.version, Event::ServerJoined(joined)));
    }
    match state.server_by_name(&joined.name) {
        // Announced under this name, and nobody came yet: this is it.
        Some((id, announced)) if announced.public_key.is_none() && id == joined.server_id => {
            Ok(behind(announced.version, Event::ServerJoined(joined)))
        }
        Some(_) => Err(Refusal::NameTaken { name: joined.name }),
        None => Ok(first(Event::ServerJoined(joined))),
    }
}

const fn first(event: Event) -> Decided {
    Decided { event, expected_last: Position::START }
}

const fn behind(version: Position, event: Event) -> Decided {
    Decided { event, expected_last: version }
}

fn tenant(state: &State, id: TenantId) -> Result<&Tenant, Refusal> {
    state.tenant(id).ok_or_else(|| Refusal::NotFound { what: "tenant", id: id.to_string() })
}

fn server(state: &State, id: ServerId) -> Result<&Server, Refusal> {
    state.server(id).ok_or_else(|| Refusal::NotFound { what: "server", id: id.to_string() })
}

fn camera(state: &State, tenant_id: TenantId, id: CameraId) -> Result<&Camera, Refusal> {
    tenant(state, tenant_id)?;
    state.camera(tenant_id, id).ok_or_else(|| Refusal::NotFound { what: "camera", id: id.to_string() })
}

fn at_version(
    what: &'static str,
    id: impl std::fmt::Display,
    expected: Position,
    actual: Position,
) -> Result<(), Refusal> {
    if expected == actual {
        return Ok(());
    }
    Err(Refusal::Changed { what, id: id.to_string(), expected, actual })
}

fn name_is_free(state: &State, name: &str, own: Option<ServerId>) -> Result<(), Refusal> {
    match state.server_by_name(name) {
        Some((id, _)) if Some(id) != own => Err(Refusal::NameTaken { name: name.to_owned() }),
        Some(_) | None => Ok(()),
    }
}

fn preferred_server_exists(state: &State, settings: &CameraSettings) -> Result<(), Refusal> {
    match settings.preferred_server_id {
        Some(id) if state.server(id).is_none_or(Server::is_detached) => {
            Err(Refusal::UnknownPreferredServer(id))
        }
        Some(_) | None => Ok(()),
    }
}
