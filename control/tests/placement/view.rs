//! What the oracle sees: plain values read from State camera by camera, never through its index; and its own arithmetic
//! of who fits where.

use std::collections::{BTreeMap, BTreeSet};

use longwatch_events::id::{CopyKey, ServerId};
use longwatch_events::policy::Policy;
use longwatch_events::reason::{AssignReason, UnplacedReason};
use longwatch_events::settings::{Labels, Priority, ServerSettings, ZONE};
use longwatch_events::state::{Placement, State};
use longwatch_events::time::Timestamp;

#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub(crate) is_up: bool,
    pub(crate) is_draining: bool,
    pub(crate) free_percent: Option<u8>,
    pub(crate) present_since: Timestamp,
    pub(crate) failback_requested: bool,
    pub(crate) settings: ServerSettings,
}

#[derive(Debug, Clone)]
pub(crate) struct Copy {
    pub(crate) on: Option<ServerId>,
    pub(crate) since: Option<Timestamp>,
    pub(crate) reason: Option<AssignReason>,
    pub(crate) to: Option<ServerId>,
    pub(crate) home: Option<ServerId>,
    pub(crate) requested: Option<ServerId>,
    pub(crate) gave_up_at: Option<Timestamp>,
    pub(crate) unplaced: Option<UnplacedReason>,
    pub(crate) is_wanted: bool,
    pub(crate) priority: Priority,
    pub(crate) bitrate_bps: u64,
    pub(crate) labels: Labels,
    pub(crate) zone: Option<String>,
    pub(crate) preferred: Option<ServerId>,
    pub(crate) single_session: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) policy: Policy,
    pub(crate) servers: BTreeMap<ServerId, Server>,
    pub(crate) copies: BTreeMap<CopyKey, Copy>,
}

/// Why a copy cannot be on a server; the later, the further it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Obstacle {
    Labels,
    Draining,
    Disk,
    Leaving,
    OtherCopy,
    Cameras,
    Bitrate,
    FailoverOff,
    TakeoverLimit,
}

/// What a copy asks for, beside what its camera says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ask {
    /// Every other server would take it over from this one.
    pub(crate) home: Option<ServerId>,
    /// It is to leave this one.
    pub(crate) leaving: Option<ServerId>,
    /// These count as if they were not there.
    pub(crate) without: BTreeSet<CopyKey>,
    /// These hold, or held until this plan, other copies of the camera.
    pub(crate) taken: BTreeSet<ServerId>,
}

impl View {
    pub(crate) fn of(state: &State) -> Self {
        let servers = state.servers().map(|(id, server)| {
            let is_ours = server.is_adopted() && server.public_key.is_some();
            let view = Server {
                is_up: is_ours && server.lost.is_none(),
                is_draining: server.draining_since.is_some(),
                free_percent: server.disk_free_percent,
                present_since: server.present_since,
                failback_requested: server.failback_requested,
                settings: server.settings.clone(),
            };
            (id, view)
        });
        let mut copies = BTreeMap::new();
        for (tenant_id, camera_id, camera) in state.cameras() {
            for (number, copy) in camera.copies() {
                let (unplaced, now) = match copy.placement {
                    Placement::Unplanned => (None, None),
                    Placement::Assigned(now) => (None, Some(now)),
                    Placement::Unplaced { reason, .. } => (Some(reason), None),
                };
                let settings = &camera.settings;
                let view = Copy {
                    on: now.map(|now| now.server_id),
                    since: now.map(|now| now.since),
                    reason: now.map(|now| now.reason),
                    to: copy.successor().map(|new| new.server_id),
                    home: copy.home(),
                    requested: copy.requested(),
                    gave_up_at: copy.gave_up_at(),
                    unplaced,
                    is_wanted: camera.wants_recording(),
                    priority: settings.failover_priority,
                    bitrate_bps: settings.expected_bitrate_bps.unwrap_or(0),
                    labels: settings.server_labels().cloned().unwrap_or_default(),
                    zone: settings.labels().value_of(ZONE).map(str::to_owned),
                    preferred: settings.preferred_server_id,
                    single_session: settings.single_session,
                };
                copies.insert(CopyKey { tenant_id, camera_id, copy: number }, view);
            }
        }
        Self { policy: state.policy, servers: servers.collect(), copies }
    }

    pub(crate) fn is_up(&self, server_id: ServerId) -> bool {
        self.servers.get(&server_id).is_some_and(|server| server.is_up)
    }

    pub(crate) fn is_draining(&self, server_id: ServerId) -> bool {
        self.servers.get(&server_id).is_some_and(|server| server.is_draining)
    }

    pub(crate) fn zone(&self, server_id: ServerId) -> Option<&str> {
        self.servers.get(&server_id)?.settings.labels.get(ZONE)
    }

    pub(crate) fn carries(&self, server_id: ServerId, labels: &Labels) -> bool {
        let Some(server) = self.servers.get(&server_id) else { return false };
        labels.iter().all(|(key, value)| server.settings.labels.get(key) == Some(value))
    }

    pub(crate) fn has_low_disk(&self, server_id: ServerId) -> bool {
        let free = self.servers.get(&server_id).and_then(|server| server.free_percent);
        free.is_some_and(|free| free < self.policy.min_disk_free_percent)
    }

    /// The copies that a place is taken for.
    pub(crate) fn held(&self, server_id: ServerId) -> impl Iterator<Item = (CopyKey, &Copy)> {
        let held = move |copy: &Copy| copy.on == Some(server_id) || copy.to == Some(server_id);
        self.copies.iter().filter(move |(_, copy)| held(copy)).map(|(key, copy)| (*key, copy))
    }

    /// How many cameras a place is taken for, and their bitrate.
    pub(crate) fn used(&self, server_id: ServerId, without: &BTreeSet<CopyKey>) -> (u32, u64) {
        let held = self.held(server_id).filter(|(key, _)| !without.contains(key));
        held.fold((0, 0), |(cameras, bitrate_bps), (_, copy)| (cameras + 1, bitrate_bps + copy.bitrate_bps))
    }

    /// The copies that will be there when all moves are over.
    pub(crate) fn settled(&self, server_id: ServerId) -> (u32, u64) {
        let stays = |copy: &Copy| copy.to.or(copy.on) == Some(server_id);
        let staying = self.copies.values().filter(|copy| stays(copy));
        staying.fold((0, 0), |(cameras, bitrate_bps), copy| (cameras + 1, bitrate_bps + copy.bitrate_bps))
    }

    /// The share of its capacity that so much is, in millionths.
    pub(crate) fn share(&self, server_id: ServerId, (cameras, bitrate_bps): (u32, u64)) -> u64 {
        let capacity = self.servers[&server_id].settings.capacity;
        let of = |part: u64, whole: u64| (part * 1_000_000).checked_div(whole).unwrap_or(u64::MAX);
        let by_bitrate = capacity.max_bitrate_bps.map_or(0, |max| of(bitrate_bps, max));
        of(cameras.into(), capacity.max_cameras.into()).max(by_bitrate)
    }

    /// The servers of the camera's other copies.
    pub(crate) fn siblings_on(&self, key: CopyKey) -> BTreeSet<ServerId> {
        let siblings = self.copies.iter().filter(|(other, _)| {
            (other.tenant_id, other.camera_id) == (key.tenant_id, key.camera_id) && **other != key
        });
        siblings.flat_map(|(_, copy)| copy.on.into_iter().chain(copy.to)).collect()
    }

    /// What stands between a copy and a server that is up.
    pub(crate) fn obstacle(&self, key: CopyKey, server_id: ServerId, ask: &Ask) -> Option<Obstacle> {
        let (copy, server) = (&self.copies[&key], &self.servers[&server_id]);
        let ServerSettings { capacity, failover, .. } = &server.settings;
        let (cameras, bitrate_bps) = self.used(server_id, &ask.without);
        let takes_over = ask.home.is_some_and(|home| home != server_id);
        if !self.carries(server_id, &copy.labels) {
            Some(Obstacle::Labels)
        } else if server.is_draining {
            Some(Obstacle::Draining)
        } else if self.has_low_disk(server_id) {
            Some(Obstacle::Disk)
        } else if ask.leaving == Some(server_id) {
            Some(Obstacle::Leaving)
        } else if ask.taken.contains(&server_id) {
            Some(Obstacle::OtherCopy)
        } else if cameras >= capacity.max_cameras {
            Some(Obstacle::Cameras)
        } else if capacity.max_bitrate_bps.is_some_and(|max| bitrate_bps + copy.bitrate_bps > max) {
            Some(Obstacle::Bitrate)
        } else if takes_over && !failover.enabled {
            Some(Obstacle::FailoverOff)
        } else if takes_over && cameras >= failover.takeover_limit {
            Some(Obstacle::TakeoverLimit)
        } else {
            None
        }
    }

    /// What stands between a copy and every server that is up.
    pub(crate) fn obstacles(&self, key: CopyKey, ask: &Ask) -> BTreeMap<ServerId, Option<Obstacle>> {
        let up = self.servers.iter().filter(|(_, server)| server.is_up);
        up.map(|(id, _)| (*id, self.obstacle(key, *id, ask))).collect()
    }
}
