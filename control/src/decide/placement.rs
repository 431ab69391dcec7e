//! Placement: which server records which camera. `plan(&State) -> Plan`, pure and total.
//!
//! Goals, in order of importance:
//! 1. never exceed a capacity (cameras, declared bitrate);
//! 2. take over the cameras of a lost server, but those with priority `never`: they wait for it;
//! 3. a camera goes to its preferred server if that has room; one that was taken from a lost server goes home if that
//!    is back and nobody had room for it meanwhile;
//! 4. a server takes cameras of others only while failover is enabled on it and it holds fewer than its takeover limit;
//! 5. cameras are placed by failover priority, then by tenant and id;
//! 6. move nothing that may stay: a camera leaves its server only if that is lost or gone, or if the camera wants no
//!    recording any more;
//! 7. spread by relative load; ties end on the server id.
//!
//! Postconditions (checked by property tests against an independent oracle): no server exceeds a capacity because of
//! a plan; a plan folded into State makes the next plan empty; the same State gives the same plan.
//!
//! Why: a camera that stays where it is loses nothing, and a plan that can be derived again can be explained.

use std::collections::BTreeMap;

use longwatch_events::event::{Decision, PlanEntry};
use longwatch_events::id::{CameraId, ServerId, TenantId};
use longwatch_events::reason::{AssignReason, UnplacedReason};
use longwatch_events::settings::{Capacity, Failover, Priority, ServerSettings};
use longwatch_events::state::{Camera, Placement, Server, State};

/// The version of these rules; stands in every plan, so that an auditor re-derives it with the rules in force then.
pub const RULES: u32 = 2;

/// What has to change. Entries are by tenant and camera.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Changes only: a camera that stays as it is has none.
    pub entries: Vec<PlanEntry>,
}

/// A server's room, as the plan fills it.
#[derive(Debug, Clone, Copy)]
struct Room {
    capacity: Capacity,
    failover: Failover,
    cameras: u32,
    bitrate_bps: u64,
}

/// How good a server is for a camera; the smallest is best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// Share of its capacity in use, in millionths.
    relative_load: u64,
    /// So that there is never a tie.
    server_id: ServerId,
}

/// A camera that needs a decision; ordered as they are decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Waiting {
    priority: Priority,
    tenant_id: TenantId,
    camera_id: CameraId,
    /// The server it belongs to, if it was or is to be taken from a lost one.
    home: Option<ServerId>,
}

impl Room {
    const fn of(server: &Server) -> Self {
        let ServerSettings { capacity, failover, .. } = server.settings;
        Self { capacity, failover, cameras: 0, bitrate_bps: 0 }
    }

    fn take(&mut self, bitrate_bps: u64) {
        self.cameras = self.cameras.saturating_add(1);
        self.bitrate_bps = self.bitrate_bps.saturating_add(bitrate_bps);
    }

    const fn has_camera_room(&self) -> bool {
        self.cameras < self.capacity.max_cameras
    }

    fn has_bitrate_room(&self, bitrate_bps: u64) -> bool {
        self.capacity.max_bitrate_bps.is_none_or(|max| self.bitrate_bps.saturating_add(bitrate_bps) <= max)
    }

    fn fits(&self, bitrate_bps: u64) -> bool {
        self.has_camera_room() && self.has_bitrate_room(bitrate_bps)
    }

    /// Whether it may be given one more camera of another server.
    const fn takes_over(&self) -> bool {
        self.failover.enabled && self.cameras < self.failover.takeover_limit
    }

    /// The fuller of its two measures, in millionths of the capacity.
    fn relative_load(&self) -> u64 {
        let by_cameras = millionths(u64::from(self.cameras), u64::from(self.capacity.max_cameras));
        let by_bitrate = self.capacity.max_bitrate_bps.map_or(0, |max| millionths(self.bitrate_bps, max));
        by_cameras.max(by_bitrate)
    }
}

/// Plans the whole system: what has to change so that every camera is where it should be.
pub fn plan(state: &State) -> Plan {
    let mut rooms: BTreeMap<ServerId, Room> = state
        .servers()
        .filter(|(_, server)| server.is_assignable())
        .map(|(id, server)| (id, Room::of(server)))
        .collect();
    let mut entries = Vec::new();
    let mut waiting = Vec::new();
    for (tenant_id, camera_id, camera) in state.cameras() {
        if !camera.wants_recording() {
            entries.extend(unplaced(tenant_id, camera_id, camera, UnplacedReason::Disabled));
            continue;
        }
        let assigned_to = camera.assignment().map(|assignment| assignment.server_id);
        if let Some(room) = assigned_to.and_then(|server_id| rooms.get_mut(&server_id)) {
            room.take(bitrate(camera));
            continue;
        }
        let priority = camera.settings.failover_priority;
        // Its server is in State, but may not be given cameras: it is lost.
        let lost = assigned_to.filter(|server_id| state.server(*server_id).is_some());
        if lost.is_some() && priority == Priority::Never {
            continue;
        }
        waiting.push(Waiting { priority, tenant_id, camera_id, home: camera.home.or(lost) });
    }
    waiting.sort_unstable();
    let left_out: Vec<_> =
        waiting.into_iter().filter(|camera| !place(state, &mut rooms, &mut entries, *camera)).collect();
    // Only now is it known what is left of the room, and so what each of them lacks.
    entries.extend(left_out.into_iter().filter_map(|camera| left_out_entry(state, &rooms, camera)));
    entries.sort_unstable_by_key(|entry| (entry.tenant_id, entry.camera_id));
    Plan { entries }
}

/// Finds `waiting` a server; false if none has room.
fn place(
    state: &State,
    rooms: &mut BTreeMap<ServerId, Room>,
    entries: &mut Vec<PlanEntry>,
    waiting: Waiting,
) -> bool {
    let Waiting { tenant_id, camera_id, home, .. } = waiting;
    let Some(camera) = state.camera(tenant_id, camera_id) else { return false };
    let Some((server_id, reason)) = choose(rooms, camera, home) else { return false };
    rooms.entry(server_id).and_modify(|room| room.take(bitrate(camera)));
    entries.push(PlanEntry { tenant_id, camera_id, decision: Decision::Assign { server_id, reason } });
    true
}

fn choose(
    rooms: &BTreeMap<ServerId, Room>,
    camera: &Camera,
    home: Option<ServerId>,
) -> Option<(ServerId, AssignReason)> {
    let bitrate_bps = bitrate(camera);
    let may_have = |server_id: ServerId, room: &Room| {
        room.fits(bitrate_bps) && home.is_none_or(|home| home == server_id || room.takes_over())
    };
    let has_room = |id: &ServerId| rooms.get(id).is_some_and(|room| may_have(*id, room));
    if let Some(id) = home.filter(has_room) {
        return Some((id, AssignReason::Home));
    }
    if let Some(id) = camera.settings.preferred_server_id.filter(has_room) {
        return Some((id, if home.is_some() { AssignReason::Failover } else { AssignReason::Preferred }));
    }
    let best = rooms
        .iter()
        .filter(|(id, room)| may_have(**id, room))
        .map(|(id, room)| Rank { relative_load: room.relative_load(), server_id: *id })
        .min()?;
    let reason = if home.is_some() { AssignReason::Failover } else { AssignReason::LeastLoaded };
    Some((best.server_id, reason))
}

/// The entry that says why `waiting` has no server, unless that is known already.
fn left_out_entry(state: &State, rooms: &BTreeMap<ServerId, Room>, waiting: Waiting) -> Option<PlanEntry> {
    let Waiting { tenant_id, camera_id, home, .. } = waiting;
    let camera = state.camera(tenant_id, camera_id)?;
    let reason = if rooms.is_empty() {
        UnplacedReason::NoServer
    } else if home.is_some() && rooms.values().any(|room| room.fits(bitrate(camera))) {
        UnplacedReason::NoTakeover
    } else if rooms.values().any(Room::has_camera_room) {
        UnplacedReason::NoBitrate
    } else {
        UnplacedReason::NoCapacity
    };
    unplaced(tenant_id, camera_id, camera, reason)
}

/// The entry that leaves a camera without a server, unless it is so already, for the same reason.
fn unplaced(
    tenant_id: TenantId,
    camera_id: CameraId,
    camera: &Camera,
    why: UnplacedReason,
) -> Option<PlanEntry> {
    match camera.placement {
        Placement::Unplaced { reason, .. } if reason == why => None,
        Placement::Unplaced { .. } | Placement::Unplanned | Placement::Assigned(_) => {
            Some(PlanEntry { tenant_id, camera_id, decision: Decision::Unplace { reason: why } })
        }
    }
}

fn bitrate(camera: &Camera) -> u64 {
    camera.settings.expected_bitrate_bps.unwrap_or(0)
}

fn millionths(part: u64, whole: u64) -> u64 {
    // 128 bits: a bitrate of 18 Tbit/s times a million does not fit in 64.
    let share = (u128::from(part) * 1_000_000).checked_div(u128::from(whole)).unwrap_or(u128::MAX);
    u64::try_from(share).unwrap_or(u64::MAX)
}
