//! What State is looked up by: which copies a server holds, which have no server, which are on the move, which server
//! has a name or a key. Kept up to date by [`crate::fold`] beside State, so that a decision about one server of ten
//! thousand looks at that one's cameras and not at a million.
//!
//! Derived and nothing else. Invariant: it equals [`Index::of`] of the State it stands in; the property tests of the fold
//! and the simulation compare them.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::{CameraId, CopyKey, ServerId, TenantId};
use crate::position::Position;
use crate::reason::{AssignReason, UnplacedReason};
use crate::sealed::PublicKey;
use crate::settings::Priority;
use crate::state::{Assignment, Camera, CameraCopy, Placement, Server, State};

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Index {
    servers: BTreeMap<ServerId, Held>,
    away: BTreeMap<ServerId, BTreeSet<CopyKey>>,
    left: BTreeMap<ServerId, BTreeSet<CopyKey>>,
    waiting: BTreeSet<CopyKey>,
    moving: BTreeSet<CopyKey>,
    particular: BTreeSet<CopyKey>,
    requested: BTreeSet<CopyKey>,
    keys: BTreeMap<PublicKey, ServerId>,
    /// Of servers that were not let go.
    names: BTreeMap<String, ServerId>,
}

/// What is looked up of a server. Together, because every entry of a plan asks for all of it, and a first plan has a million:
/// in State itself servers lie so far apart that finding one costs as much as all else.
#[derive(Debug, Clone)]
struct Held {
    /// Whether it can record, as State says.
    is_assignable: bool,
    roster: Roster,
    /// When it, or what its server is to know of it, changed last. Not what follows from State alone: a State that was
    /// read from a snapshot has forgotten it.
    changed: Position,
}

/// What one server holds: what it records, and what is on its way to it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Roster {
    /// In order. Of the sets the only one that holds every camera there is: nodes of a tree, half of them empty, would
    /// take twice as much.
    copies: Vec<CopyKey>,
    bitrate_bps: u64,
    leaving: u32,
    leaving_bps: u64,
    at_will: u32,
}

impl PartialEq for Index {
    fn eq(&self, other: &Self) -> bool {
        let Self { servers: _, away, left, waiting, moving, particular, requested, keys, names } = self;
        self.rosters().eq(other.rosters())
            && self.assignable().eq(other.assignable())
            && *away == other.away
            && *left == other.left
            && *waiting == other.waiting
            && *moving == other.moving
            && *particular == other.particular
            && *requested == other.requested
            && *keys == other.keys
            && *names == other.names
    }
}

impl Eq for Index {}

static EMPTY: Roster = Roster { copies: Vec::new(), bitrate_bps: 0, leaving: 0, leaving_bps: 0, at_will: 0 };

impl Roster {
    /// That of a server that holds nothing.
    pub const fn none() -> &'static Self {
        &EMPTY
    }

    /// The copies, by tenant, camera and number.
    pub fn copies(&self) -> impl DoubleEndedIterator<Item = CopyKey> {
        self.copies.iter().copied()
    }

    /// How many copies a place is taken for.
    pub fn len(&self) -> u32 {
        u32::try_from(self.copies.len()).unwrap_or(u32::MAX)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.copies.is_empty()
    }

    /// The sum of what their cameras are expected to send, in bits per second.
    pub const fn bitrate_bps(&self) -> u64 {
        self.bitrate_bps
    }

    /// How many of them are about to leave, and what their cameras are expected to send.
    pub const fn leaving(&self) -> (u32, u64) {
        (self.leaving, self.leaving_bps)
    }

    /// How many of them are [`is_at_will`].
    pub const fn at_will(&self) -> u32 {
        self.at_will
    }

    fn insert(&mut self, key: CopyKey) {
        // Plans and listings go in order, so that it is mostly the last.
        let at = match self.copies.last() {
            Some(last) if *last >= key => self.copies.binary_search(&key),
            Some(_) | None => Err(self.copies.len()),
        };
        let Err(at) = at else { return };
        if self.copies.len() == self.copies.capacity() {
            self.copies.reserve_exact((self.copies.len() / 8).max(16));
        }
        self.copies.insert(at, key);
    }

    fn remove(&mut self, key: &CopyKey) {
        if let Ok(at) = self.copies.binary_search(key) {
            self.copies.remove(at);
        }
    }
}

impl Index {
    /// The index of `state`, made from nothing.
    pub fn of(state: &State) -> Self {
        let mut index = Self::default();
        for (server_id, server) in state.servers() {
            index.add_server(server_id, server);
        }
        for (tenant_id, camera_id, camera) in state.cameras() {
            index.add(tenant_id, camera_id, camera, state.position);
        }
        index
    }

    /// What `server` holds.
    pub fn roster(&self, server: ServerId) -> &Roster {
        self.servers.get(&server).map_or(&EMPTY, |held| &held.roster)
    }

    /// What servers hold, by id; those that hold nothing are left out.
    pub fn rosters(&self) -> impl Iterator<Item = (ServerId, &Roster)> {
        let held = self.servers.iter().map(|(server, held)| (*server, &held.roster));
        held.filter(|(_, roster)| **roster != EMPTY)
    }

    /// The copies that others took over from `home`, wherever they are.
    pub fn away_from(&self, home: ServerId) -> impl Iterator<Item = CopyKey> {
        self.away.get(&home).into_iter().flatten().copied()
    }

    /// The copies without a place that were [left](CameraCopy::left_with) with `server` when it was lost.
    pub fn left_with(&self, server: ServerId) -> impl Iterator<Item = CopyKey> {
        self.left.get(&server).into_iter().flatten().copied()
    }

    /// The servers that copies were taken from.
    pub fn homes(&self) -> impl Iterator<Item = ServerId> {
        self.away.keys().copied()
    }

    /// The copies that a plan has to look at: they want a server and have none, or have one and want none.
    pub fn waiting(&self) -> impl Iterator<Item = CopyKey> {
        self.waiting.iter().copied()
    }

    /// The copies that are on the move.
    pub fn moving(&self) -> impl ExactSizeIterator<Item = CopyKey> {
        self.moving.iter().copied()
    }

    /// The copies whose camera asks for certain servers: by labels, or by a preference that is not met.
    pub fn particular(&self) -> impl Iterator<Item = CopyKey> {
        self.particular.iter().copied()
    }

    /// The copies that somebody wants elsewhere.
    pub fn requested(&self) -> impl Iterator<Item = CopyKey> {
        self.requested.iter().copied()
    }

    /// The server whose worker holds this key.
    pub(crate) fn with_key(&self, key: &PublicKey) -> Option<ServerId> {
        self.keys.get(key).copied()
    }

    /// The server of this name that was not let go.
    pub(crate) fn with_name(&self, name: &str) -> Option<ServerId> {
        self.names.get(name).copied()
    }

    /// Whether `server` can record: it is there, and [`Server::is_assignable`].
    pub(crate) fn is_assignable(&self, server: ServerId) -> bool {
        self.servers.get(&server).is_some_and(|held| held.is_assignable)
    }

    fn assignable(&self) -> impl Iterator<Item = ServerId> {
        self.servers.iter().filter(|(_, held)| held.is_assignable).map(|(server, _)| *server)
    }

    /// Takes note of a server: its name, its key, whether it can record. They are not in the index yet.
    pub(crate) fn add_server(&mut self, server_id: ServerId, server: &Server) {
        self.held(server_id).is_assignable = server.is_assignable();
        if let Some(key) = server.public_key {
            self.keys.insert(key, server_id);
        }
        if !server.is_detached() {
            self.names.insert(server.settings.name.clone(), server_id);
        }
    }

    /// Forgets a server that [`Self::add_server`] took note of just as it is.
    pub(crate) fn remove_server(&mut self, server: &Server) {
        if let Some(key) = &server.public_key {
            self.keys.remove(key);
        }
        if !server.is_detached() {
            self.names.remove(&server.settings.name);
        }
    }

    /// The position from which on `server` holds what it holds now; if it never held anything, the beginning.
    pub fn changed(&self, server: ServerId) -> Position {
        self.servers.get(&server).map_or(Position::START, |held| held.changed)
    }

    /// Takes note that what `server` is to know changed at `position`.
    pub(crate) fn touch(&mut self, server: ServerId, position: Position) {
        self.change(server, position);
    }

    /// The roster of `server`, which changes at `position`.
    fn change(&mut self, server: ServerId, position: Position) -> &mut Roster {
        let held = self.held(server);
        held.changed = position;
        &mut held.roster
    }

    fn held(&mut self, server: ServerId) -> &mut Held {
        self.servers.entry(server).or_insert_with(|| Held {
            is_assignable: false,
            roster: Roster::default(),
            changed: Position::START,
        })
    }

    /// Takes note of a camera. It is not in the index yet.
    pub(crate) fn add(
        &mut self,
        tenant_id: TenantId,
        camera_id: CameraId,
        camera: &Camera,
        position: Position,
    ) {
        for (number, copy) in camera.copies() {
            let key = CopyKey { tenant_id, camera_id, copy: number };
            let bitrate_bps = bitrate(camera);
            let at_will = at_will(camera, copy);
            for server_id in copy.servers() {
                let roster = self.change(server_id, position);
                roster.insert(key);
                roster.bitrate_bps += bitrate_bps;
                roster.at_will += u32::from(at_will == Some(server_id));
            }
            if let (Some(_), Some(old)) = (copy.successor(), copy.assignment()) {
                let roster = self.change(old.server_id, position);
                roster.leaving += 1;
                roster.leaving_bps += bitrate_bps;
                self.moving.insert(key);
            }
            if let Some(home) = copy.home() {
                self.away.entry(home).or_default().insert(key);
            }
            if let Some(Assignment { server_id, .. }) = copy.left_with() {
                self.left.entry(*server_id).or_default().insert(key);
                self.change(*server_id, position);
            }
            insert_if(&mut self.waiting, key, is_waiting(camera, copy));
            insert_if(&mut self.particular, key, is_particular(camera, copy));
            insert_if(&mut self.requested, key, copy.requested().is_some());
        }
    }

    /// Forgets a camera that [`Self::add`] took note of just as it is.
    pub(crate) fn remove(
        &mut self,
        tenant_id: TenantId,
        camera_id: CameraId,
        camera: &Camera,
        position: Position,
    ) {
        for (number, copy) in camera.copies() {
            let key = CopyKey { tenant_id, camera_id, copy: number };
            let bitrate_bps = bitrate(camera);
            if let (Some(_), Some(old)) = (copy.successor(), copy.assignment()) {
                let roster = self.change(old.server_id, position);
                roster.leaving -= 1;
                roster.leaving_bps -= bitrate_bps;
            }
            let at_will = at_will(camera, copy);
            for server_id in copy.servers() {
                let roster = self.change(server_id, position);
                roster.remove(&key);
                roster.bitrate_bps -= bitrate_bps;
                roster.at_will -= u32::from(at_will == Some(server_id));
                if roster.is_empty() {
                    roster.copies = Vec::new();
                }
            }
            if let Some(home) = copy.home()
                && let Some(away) = self.away.get_mut(&home)
            {
                away.remove(&key);
                if away.is_empty() {
                    self.away.remove(&home);
                }
            }
            if let Some(Assignment { server_id, .. }) = copy.left_with()
                && let Some(left) = self.left.get_mut(server_id)
            {
                left.remove(&key);
                if left.is_empty() {
                    self.left.remove(server_id);
                }
                self.change(*server_id, position);
            }
            self.moving.remove(&key);
            self.waiting.remove(&key);
            self.particular.remove(&key);
            self.requested.remove(&key);
        }
    }
}

fn insert_if(set: &mut BTreeSet<CopyKey>, key: CopyKey, belongs: bool) {
    if belongs {
        set.insert(key);
    }
}

/// What a camera is counted with, in bits per second. Bounded at a terabit, so that no sum over cameras overflows.
pub fn bitrate(camera: &Camera) -> u64 {
    camera.settings.expected_bitrate_bps.unwrap_or(0).min(1 << 40)
}

/// Whether a copy is where it is because there was room, and for nothing else: only such a one may be moved to even out
/// load. (A spare server, empty by intent, is emptier than all others for ever; who looks for such copies must not have to
/// look at every camera again and again to find none.)
pub fn is_at_will(camera: &Camera, copy: &CameraCopy) -> bool {
    at_will(camera, copy).is_some()
}

/// The server on which a copy is at will.
fn at_will(camera: &Camera, copy: &CameraCopy) -> Option<ServerId> {
    let now_on = copy.assignment()?;
    let is_for_room = match now_on.reason {
        AssignReason::LeastLoaded
        | AssignReason::Failover
        | AssignReason::Drain
        | AssignReason::OverCapacity
        | AssignReason::Labels
        | AssignReason::Rebalance => true,
        AssignReason::Preferred | AssignReason::Home | AssignReason::Failback | AssignReason::Requested => {
            false
        }
    };
    let settings = &camera.settings;
    let may_go = settings.preferred_server_id != Some(now_on.server_id)
        && settings.failover_priority != Priority::Never
        && !settings.single_session;
    let is_settled = copy.successor().is_none() && copy.requested().is_none() && copy.home().is_none();
    (is_for_room && may_go && is_settled && camera.wants_recording()).then_some(now_on.server_id)
}

/// See [`Index::waiting`].
fn is_waiting(camera: &Camera, copy: &CameraCopy) -> bool {
    match (camera.wants_recording(), copy.placement) {
        (true, Placement::Assigned(_))
        | (false, Placement::Unplaced { reason: UnplacedReason::Disabled, .. }) => false,
        (true, Placement::Unplanned | Placement::Unplaced { .. })
        | (false, Placement::Unplanned | Placement::Unplaced { .. } | Placement::Assigned(_)) => true,
    }
}

/// See [`Index::particular`].
fn is_particular(camera: &Camera, copy: &CameraCopy) -> bool {
    let Some(assignment) = copy.assignment() else { return false };
    let preferred = camera.settings.preferred_server_id;
    camera.settings.server_labels().is_some()
        || preferred.is_some_and(|preferred| preferred != assignment.server_id)
}
