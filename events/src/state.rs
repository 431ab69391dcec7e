//! State: what follows from the log up to a position. Held in memory, made by [`crate::fold`] only, and equal on every
//! machine that folded the same log.
//!
//! Ordered maps only, so that whatever is derived from it is derived in the same order everywhere.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::hash::Sha256;
use crate::id::{CameraId, ServerId, TenantId};
use crate::position::{Epoch, Position};
use crate::reason::{AssignReason, UnplacedReason};
use crate::sealed::{PublicKey, WrappedKey};
use crate::settings::{CameraSettings, RecordingMode, ServerSettings};
use crate::time::Timestamp;

/// The system as the log tells it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct State {
    /// Up to where the log has been folded.
    pub position: Position,
    /// Where the last plan stands: the condition of the next one.
    pub last_plan: Position,
    pub(crate) tenants: BTreeMap<TenantId, Tenant>,
    pub(crate) servers: BTreeMap<ServerId, Server>,
    pub(crate) cameras: BTreeMap<TenantId, BTreeMap<CameraId, Camera>>,
    /// Keys of workers whose server an owner detached: they may not come back by themselves.
    pub(crate) detached: BTreeMap<PublicKey, ServerId>,
}

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tenant {
    /// For people.
    pub name: String,
    /// Encrypts its secrets.
    pub data_key: WrappedKey,
    /// When it was created, by the log's clock.
    pub created_at: Timestamp,
    /// Position of its last event.
    pub version: Position,
}

/// A server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Server {
    /// What it was told.
    pub settings: ServerSettings,
    /// Its worker's key; `None` until its worker was seen.
    pub public_key: Option<PublicKey>,
    /// Whether it belongs to the system.
    pub adopted: bool,
    /// Set while it is lost.
    pub lost: Option<Lost>,
    /// When it was first seen or announced, by the log's clock.
    pub created_at: Timestamp,
    /// Position of its last event.
    pub version: Position,
}

/// A server's silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Lost {
    /// When it was heard of last, by the log's clock.
    pub heard_at: Timestamp,
    /// The last heartbeat that counts as from before; `None`: there was none.
    pub last_heartbeat: Option<Position>,
}

/// A camera.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Camera {
    /// What it was told.
    pub settings: CameraSettings,
    /// Who records it.
    pub placement: Placement,
    /// The lost server it was taken from: while it is set, only servers that take over others' cameras may have it.
    pub home: Option<ServerId>,
    /// When it was added, by the log's clock.
    pub created_at: Timestamp,
    /// Position of its last own event (plans do not count).
    pub version: Position,
    /// Position of the event that gave it its source as it is now: whoever records it starts anew behind it. A camera
    /// that was only renamed is recorded on.
    pub source_version: Position,
}

/// Who records a camera.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Placement {
    /// No plan has looked at it yet.
    Unplanned,
    /// A server.
    Assigned(Assignment),
    /// Nobody.
    Unplaced {
        /// Why.
        reason: UnplacedReason,
        /// Since which plan, by the log's clock.
        since: Timestamp,
    },
}

/// A camera's server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Assignment {
    /// Who.
    pub server_id: ServerId,
    /// Position of the plan.
    pub epoch: Epoch,
    /// When, by the log's clock.
    pub since: Timestamp,
    /// Why.
    pub reason: AssignReason,
}

impl Server {
    /// Whether it is ours and its worker has shown a key to seal addresses to: it may hold cameras.
    pub const fn is_ours(&self) -> bool {
        self.adopted && self.public_key.is_some()
    }

    /// Whether it may be given cameras: it is ours and not lost.
    pub const fn is_assignable(&self) -> bool {
        self.is_ours() && self.lost.is_none()
    }
}

impl Camera {
    /// Whether it wants a server at all.
    pub const fn wants_recording(&self) -> bool {
        match self.settings.recording.mode {
            RecordingMode::Continuous => true,
            RecordingMode::Off => false,
        }
    }

    /// Its server, if it has one.
    pub const fn assignment(&self) -> Option<&Assignment> {
        match &self.placement {
            Placement::Assigned(assignment) => Some(assignment),
            Placement::Unplanned | Placement::Unplaced { .. } => None,
        }
    }
}

impl State {
    /// A tenant.
    pub fn tenant(&self, tenant: TenantId) -> Option<&Tenant> {
        self.tenants.get(&tenant)
    }

    /// All tenants, by id.
    pub fn tenants(&self) -> impl Iterator<Item = (TenantId, &Tenant)> {
        self.tenants.iter().map(|(id, tenant)| (*id, tenant))
    }

    /// A server.
    pub fn server(&self, server: ServerId) -> Option<&Server> {
        self.servers.get(&server)
    }

    /// All servers, by id.
    pub fn servers(&self) -> impl Iterator<Item = (ServerId, &Server)> {
        self.servers.iter().map(|(id, server)| (*id, server))
    }

    /// The server whose worker holds this key.
    pub fn server_by_key(&self, key: &PublicKey) -> Option<(ServerId, &Server)> {
        self.servers().find(|(_, server)| server.public_key.as_ref() == Some(key))
    }

    /// The server of this name.
    pub fn server_by_name(&self, name: &str) -> Option<(ServerId, &Server)> {
        self.servers().find(|(_, server)| server.settings.name == name)
    }

    /// Whether an owner detached the server that held this key.
    pub fn is_detached(&self, key: &PublicKey) -> bool {
        self.detached.contains_key(key)
    }

    /// The servers that owners detached, by the key of their worker.
    pub fn detached(&self) -> impl Iterator<Item = (&PublicKey, ServerId)> {
        self.detached.iter().map(|(key, id)| (key, *id))
    }

    /// A tenant's camera. There is no way to a camera without its tenant.
    pub fn camera(&self, tenant: TenantId, camera: CameraId) -> Option<&Camera> {
        self.cameras.get(&tenant)?.get(&camera)
    }

    /// A tenant's cameras, by id.
    pub fn cameras_of(&self, tenant: TenantId) -> impl Iterator<Item = (CameraId, &Camera)> {
        self.cameras.get(&tenant).into_iter().flatten().map(|(id, camera)| (*id, camera))
    }

    /// All cameras of all tenants, by tenant and id. For placement; an answer to a tenant uses [`Self::cameras_of`].
    pub fn cameras(&self) -> impl Iterator<Item = (TenantId, CameraId, &Camera)> {
        self.cameras
            .iter()
            .flat_map(|(tenant, cameras)| cameras.iter().map(|(id, camera)| (*tenant, *id, camera)))
    }

    /// A hash of all of it: two folds of the same log have the same.
    pub fn content_hash(&self) -> Sha256 {
        let bytes = serde_json::to_vec(self)
            .expect("invariant: State is strings, numbers and ordered maps with string keys");
        Sha256::of(&bytes)
    }
}
