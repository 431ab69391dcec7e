//! How much room servers have, counted by hand: independent of how placement counts.

use std::collections::BTreeMap;

use longwatch_events::id::ServerId;
use longwatch_events::settings::ServerSettings;
use longwatch_events::state::{Camera, State};

/// What is taken of one server.
#[derive(Clone)]
pub(super) struct Room<'a> {
    settings: &'a ServerSettings,
    /// It is not being emptied, and its archive is not nearly full.
    is_open: bool,
    cameras: u32,
    bitrate_bps: u64,
}

/// The rooms of all servers that can record.
pub(super) fn rooms(state: &State) -> BTreeMap<ServerId, Room<'_>> {
    let min_free = state.policy.min_disk_free_percent;
    let mut rooms: BTreeMap<_, _> = state
        .servers()
        .filter(|(_, server)| server.is_assignable())
        .map(|(id, server)| {
            let has_space = server.disk_free_percent.is_none_or(|free| free >= min_free);
            let is_open = server.draining_since.is_none() && has_space;
            (id, Room { settings: &server.settings, is_open, cameras: 0, bitrate_bps: 0 })
        })
        .collect();
    for (_, _, camera) in state.cameras() {
        for server_id in camera.copies().flat_map(|(_, copy)| copy.servers()) {
            if let Some(room) = rooms.get_mut(&server_id) {
                room.take(camera);
            }
        }
    }
    rooms
}

impl Room<'_> {
    pub(super) fn take(&mut self, camera: &Camera) {
        self.cameras += 1;
        self.bitrate_bps += bitrate_bps(camera);
    }

    /// The same room before `camera` came.
    pub(super) fn without(&self, camera: &Camera) -> Self {
        let mut room = self.clone();
        room.cameras = room.cameras.saturating_sub(1);
        room.bitrate_bps = room.bitrate_bps.saturating_sub(bitrate_bps(camera));
        room
    }

    /// Whether a copy of `camera` that belongs to `home` may come here. Whether another copy is here is not looked at.
    pub(super) fn takes(&self, server_id: ServerId, camera: &Camera, home: Option<ServerId>) -> bool {
        let ServerSettings { labels, capacity, failover, .. } = self.settings;
        let has_labels = camera
            .settings
            .server_labels()
            .into_iter()
            .flatten()
            .all(|(key, value)| labels.get(key) == Some(value));
        let has_bitrate =
            capacity.max_bitrate_bps.is_none_or(|max| self.bitrate_bps + bitrate_bps(camera) <= max);
        let takes_over = failover.enabled && self.cameras < failover.takeover_limit;
        self.is_open
            && has_labels
            && has_bitrate
            && self.cameras < capacity.max_cameras
            && (home.is_none_or(|home| home == server_id) || takes_over)
    }
}

fn bitrate_bps(camera: &Camera) -> u64 {
    camera.settings.expected_bitrate_bps.unwrap_or(0)
}
