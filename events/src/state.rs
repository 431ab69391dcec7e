//! State: what follows from the log up to a position. Held in memory, made by [`crate::fold`] only, and equal on every
//! machine that folded the same log.
//!
//! A million cameras are held: what few of them have is in a box of its own, and what is seldom read is packed.
//! Ordered maps only, so that whatever is derived from it is derived in the same order everywhere.

mod written;

use std::collections::BTreeMap;
use std::io;

use serde::{Deserialize, Serialize};

use crate::hash::{Hasher, Sha256};
use crate::id::{CameraId, CopyKey, ServerId, TenantId};
use crate::index::Index;
use crate::policy::Policy;
use crate::position::{Epoch, Position};
use crate::reason::{AssignReason, UnplacedReason};
use crate::sealed::{PublicKey, WrappedKey};
use crate::settings::{KeptSettings, RecordingMode, ServerSettings};
use crate::time::Timestamp;

/// The system as the log tells it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct State {
    /// Up to where the log has been folded.
    pub position: Position,
    /// Where the last plan stands: the condition of the next one.
    pub last_plan: Position,
    /// The rules of the whole system.
    pub policy: Policy,
    /// Position of the event that set them: the condition of the next one.
    pub policy_version: Position,
    /// Position of the last event that required a version: the condition of the next one.
    pub barrier_version: Position,
    pub(crate) tenants: BTreeMap<TenantId, Tenant>,
    pub(crate) servers: BTreeMap<ServerId, Server>,
    /// Boxed: a node of such a map is about half empty, and a camera is large.
    pub(crate) cameras: BTreeMap<TenantId, BTreeMap<CameraId, Box<Camera>>>,
    /// Follows from the rest; never written down.
    #[serde(skip)]
    pub(crate) index: Index,
}

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// What it was told.
    pub settings: ServerSettings,
    /// Its worker's key; `None` until its worker was seen.
    pub public_key: Option<PublicKey>,
    /// Whether it belongs to the system.
    pub membership: Membership,
    /// Set while it is lost.
    pub lost: Option<Lost>,
    /// Since when it is there, by the log's clock: since it was seen first, adopted, or returned.
    pub present_since: Timestamp,
    /// Since when it is being emptied, if it is.
    pub draining_since: Option<Timestamp>,
    /// Whether somebody wants the cameras back that others took over from it.
    pub failback_requested: bool,
    /// How much of its archive's volume was free when the log was told last, in percent.
    pub disk_free_percent: Option<u8>,
    /// When it was first seen or announced, by the log's clock.
    pub created_at: Timestamp,
    /// Position of its last event.
    pub version: Position,
}

/// Whether a server belongs to the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Membership {
    /// It was seen, and nobody took it in yet.
    Undefined,
    /// It does.
    Adopted,
    /// An owner let it go. It may not come back by itself; an owner may adopt it again, with its archive.
    Detached {
        /// Whether its worker was seen since.
        seen_again: bool,
    },
}

/// A server's silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// When it was heard of last, by the log's clock.
    pub heard_at: Timestamp,
    /// The last heartbeat that counts as from before; `None`: there was none.
    pub last_heartbeat: Option<Position>,
}

/// A camera.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Camera {
    /// What it was told.
    pub settings: KeptSettings,
    /// Who records it.
    pub(crate) first: CameraCopy,
    /// The others that do so as well: the second copy, the third, …
    #[serde(default, skip_serializing_if = "<[CameraCopy]>::is_empty")]
    pub(crate) others: Box<[CameraCopy]>,
    /// When it was added, by the log's clock.
    pub created_at: Timestamp,
    /// Position of its last own event (plans do not count).
    pub version: Position,
    /// Position of the event that gave it its source as it is now: whoever records it starts anew behind it. A camera
    /// that was only renamed is recorded on.
    pub source_version: Position,
}

/// What grows here grows by a million: a field that few cameras have goes into a box.
const _: () = assert!(size_of::<Camera>() <= 152, "a camera takes more memory than it may");

/// One copy of a camera.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "written::CameraCopy", into = "written::CameraCopy")]
pub struct CameraCopy {
    /// Who records it.
    pub placement: Placement,
    /// What only few cameras have at a time; `None` rather than a default.
    unsettled: Option<Box<Unsettled>>,
}

/// What keeps a copy from staying where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Unsettled {
    pub(crate) home: Option<ServerId>,
    pub(crate) left_with: Option<Assignment>,
    pub(crate) successor: Option<Assignment>,
    pub(crate) requested: Option<ServerId>,
    pub(crate) gave_up_at: Option<Timestamp>,
}

/// Who records a camera.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Placement {
    /// No plan has looked at it yet.
    #[default]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Whether it belongs to the system.
    pub fn is_adopted(&self) -> bool {
        self.membership == Membership::Adopted
    }

    /// Whether an owner let it go.
    pub const fn is_detached(&self) -> bool {
        match self.membership {
            Membership::Detached { .. } => true,
            Membership::Undefined | Membership::Adopted => false,
        }
    }

    /// Whether it is ours and its worker has shown a key to seal addresses to: it may hold cameras.
    pub fn is_ours(&self) -> bool {
        self.is_adopted() && self.public_key.is_some()
    }

    /// Whether it can record: it is ours and not lost.
    pub fn is_assignable(&self) -> bool {
        self.is_ours() && self.lost.is_none()
    }
}

impl Placement {
    /// The server, if there is one.
    pub const fn assignment(&self) -> Option<&Assignment> {
        match self {
            Self::Assigned(assignment) => Some(assignment),
            Self::Unplanned | Self::Unplaced { .. } => None,
        }
    }
}

impl CameraCopy {
    /// Its server, if it has one.
    pub const fn assignment(&self) -> Option<&Assignment> {
        self.placement.assignment()
    }

    /// The server it was taken from because that was lost or drained: while it is set, only servers that take over
    /// others' cameras may have it.
    pub fn home(&self) -> Option<ServerId> {
        self.unsettled.as_ref()?.home
    }

    /// The assignment to its lost server, of a copy that nobody else has room for: it has no place that is known to be any good,
    /// but a server that is only cut off records it all the same, and goes on as if nothing had been when it returns.
    pub fn left_with(&self) -> Option<&Assignment> {
        self.unsettled.as_ref()?.left_with.as_ref()
    }

    /// The server that is about to record it instead, if it is on the move.
    pub fn successor(&self) -> Option<&Assignment> {
        self.unsettled.as_ref()?.successor.as_ref()
    }

    /// The server on which somebody wants it.
    pub fn requested(&self) -> Option<ServerId> {
        self.unsettled.as_ref()?.requested
    }

    /// When its last planned move was given up.
    pub fn gave_up_at(&self) -> Option<Timestamp> {
        self.unsettled.as_ref()?.gave_up_at
    }

    /// The servers that have a place taken for it.
    pub fn servers(&self) -> impl Iterator<Item = ServerId> {
        self.assignment().into_iter().chain(self.successor()).map(|assignment| assignment.server_id)
    }

    pub(crate) fn unsettle(&mut self, change: impl FnOnce(&mut Unsettled)) {
        let mut unsettled = self.unsettled.take().map(|unsettled| *unsettled).unwrap_or_default();
        change(&mut unsettled);
        self.unsettled = (unsettled != Unsettled::default()).then(|| Box::new(unsettled));
    }
}

impl Camera {
    /// Whether it wants a server at all.
    pub const fn wants_recording(&self) -> bool {
        match self.settings.mode {
            RecordingMode::Continuous | RecordingMode::Schedule | RecordingMode::Event => true,
            RecordingMode::Off => false,
        }
    }

    /// One of its copies.
    pub fn copy(&self, copy: u8) -> Option<&CameraCopy> {
        match usize::from(copy).checked_sub(1) {
            None => Some(&self.first),
            Some(other) => self.others.get(other),
        }
    }

    pub(crate) fn copy_mut(&mut self, copy: u8) -> Option<&mut CameraCopy> {
        match usize::from(copy).checked_sub(1) {
            None => Some(&mut self.first),
            Some(other) => self.others.get_mut(other),
        }
    }

    /// Its copies, by number.
    pub fn copies(&self) -> impl Iterator<Item = (u8, &CameraCopy)> {
        (0..).zip(std::iter::once(&self.first).chain(&self.others))
    }

    /// What the first copy's placement is.
    pub const fn placement(&self) -> Placement {
        self.first.placement
    }

    /// The server of its first copy, if that has one.
    pub const fn assignment(&self) -> Option<&Assignment> {
        self.first.assignment()
    }

    /// Who is to record it now, and under which epoch: of a copy on the move both servers, unless the camera serves one
    /// client only: then neither, until the old one has stopped; of a copy that was left with its lost server, that one.
    pub fn recorders(&self) -> impl Iterator<Item = &Assignment> {
        let one_at_a_time = self.settings.single_session;
        let copies = std::iter::once(&self.first).chain(&self.others);
        copies
            .filter(move |copy| !(one_at_a_time && copy.successor().is_some()))
            .flat_map(|copy| copy.assignment().into_iter().chain(copy.successor()).chain(copy.left_with()))
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

    /// A server, also one that was let go.
    pub fn server(&self, server: ServerId) -> Option<&Server> {
        self.servers.get(&server)
    }

    /// All servers, by id; also those that were let go.
    pub fn servers(&self) -> impl Iterator<Item = (ServerId, &Server)> {
        self.servers.iter().map(|(id, server)| (*id, server))
    }

    /// How many servers belong to the system and have a worker.
    pub fn fleet(&self) -> usize {
        self.servers.values().filter(|server| server.is_ours()).count()
    }

    /// The server whose worker holds this key.
    pub fn server_by_key(&self, key: &PublicKey) -> Option<(ServerId, &Server)> {
        let server_id = self.index.with_key(key)?;
        Some((server_id, self.server(server_id)?))
    }

    /// The server of this name. One that was let go has none any more: another may take its name.
    pub fn server_by_name(&self, name: &str) -> Option<(ServerId, &Server)> {
        let server_id = self.index.with_name(name)?;
        Some((server_id, self.server(server_id)?))
    }

    /// A tenant's camera. There is no way to a camera without its tenant.
    pub fn camera(&self, tenant: TenantId, camera: CameraId) -> Option<&Camera> {
        self.cameras.get(&tenant)?.get(&camera).map(Box::as_ref)
    }

    /// The camera of a copy, and the copy.
    pub fn copy(&self, key: CopyKey) -> Option<(&Camera, &CameraCopy)> {
        let camera = self.camera(key.tenant_id, key.camera_id)?;
        Some((camera, camera.copy(key.copy)?))
    }

    /// Whether the camera of `key` is at home on `server`, or was never anywhere else, with all its copies: then it is deleted
    /// with that server, if an owner wants that, wherever it is recorded now.
    pub fn belongs_only_to(&self, key: CopyKey, server: ServerId) -> bool {
        let Some(camera) = self.camera(key.tenant_id, key.camera_id) else { return false };
        camera.copies().all(|(_, copy)| match copy.home() {
            Some(home) => home == server,
            None => copy.assignment().is_none_or(|assignment| assignment.server_id == server),
        })
    }

    /// A tenant's cameras, by id.
    pub fn cameras_of(&self, tenant: TenantId) -> impl Iterator<Item = (CameraId, &Camera)> {
        self.cameras.get(&tenant).into_iter().flatten().map(|(id, camera)| (*id, camera.as_ref()))
    }

    /// All cameras of all tenants, by tenant and id. An answer to a tenant uses [`Self::cameras_of`].
    pub fn cameras(&self) -> impl Iterator<Item = (TenantId, CameraId, &Camera)> {
        self.cameras
            .iter()
            .flat_map(|(tenant, cameras)| cameras.iter().map(|(id, camera)| (*tenant, *id, camera.as_ref())))
    }

    /// What can be looked up without walking over everything.
    pub const fn index(&self) -> &Index {
        &self.index
    }

    /// Builds the index of a State that was read from somewhere.
    pub fn reindex(&mut self) {
        self.index = Index::of(self);
    }

    /// A hash of all of it: two folds of the same log have the same.
    pub fn content_hash(&self) -> Sha256 {
        let mut hasher = io::BufWriter::with_capacity(1 << 16, Hasher::default());
        serde_json::to_writer(&mut hasher, self)
            .expect("invariant: State is strings, numbers and ordered maps with string keys");
        let hasher = hasher.into_inner().map_err(io::IntoInnerError::into_error);
        hasher.expect("invariant: a hash takes whatever is written").finish()
    }
}
