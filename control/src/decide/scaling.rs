//! How many servers the fleet should have: what an autoscaler asks for.

use longwatch_events::index;
use longwatch_events::settings::{Capacity, Failover};
use longwatch_events::state::State;

/// The fleet in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fleet {
    /// Copies of cameras that want a server and have none.
    pub unplaced: u64,
    /// Servers that can record.
    pub servers: u64,
    /// How many there should be, so that everything has a place and policy's headroom is left.
    pub wanted_servers: u64,
    /// How many more copies the servers could hold.
    pub headroom: u64,
    /// How many they can hold in all.
    pub capacity: u64,
}

/// Counts `state`. A server that is being drained holds nothing that counts: it is about to go.
pub fn fleet(state: &State) -> Fleet {
    let servers =
        state.servers().filter(|(_, server)| server.is_assignable() && server.draining_since.is_none());
    let mut fleet = Fleet::default();
    let (mut capacity_bps, mut is_bitrate_bound) = (0_u128, true);
    let mut takeovers = Takeovers::default();
    for (id, server) in servers {
        let Capacity { max_cameras, max_bitrate_bps } = server.settings.capacity;
        let held = state.index().roster(id).len();
        fleet.servers += 1;
        fleet.capacity += u64::from(max_cameras);
        fleet.headroom += u64::from(max_cameras.saturating_sub(held));
        takeovers.add_server(server.settings.failover, max_cameras, held);
        is_bitrate_bound &= max_bitrate_bps.is_some();
        capacity_bps += u128::from(max_bitrate_bps.unwrap_or(0));
    }
    let (mut held, mut held_bps) = (0_u64, 0_u128);
    for (id, _) in state.servers() {
        let roster = state.index().roster(id);
        let (leaving, leaving_bps) = roster.leaving();
        held += u64::from(roster.len() - leaving);
        held_bps += u128::from(roster.bitrate_bps() - leaving_bps);
    }
    for key in state.index().waiting() {
        let Some((camera, copy)) = state.copy(key) else { continue };
        if camera.wants_recording() && copy.assignment().is_none() {
            fleet.unplaced += 1;
            takeovers.wanted += u64::from(copy.home().is_some());
            held_bps += u128::from(index::bitrate(camera));
        }
    }
    let usable = u128::from(100 - state.policy.headroom_percent.min(99));
    let by_cameras =
        wanted(u128::from(held + fleet.unplaced), u128::from(fleet.capacity), fleet.servers, usable);
    let by_bitrate = match is_bitrate_bound && capacity_bps > 0 {
        true => wanted(held_bps, capacity_bps, fleet.servers, usable),
        false => 0,
    };
    fleet.wanted_servers = by_cameras.max(by_bitrate).max(takeovers.servers(fleet.servers));
    fleet
}

/// Copies that were taken from their servers, and how many of such the others may hold: less than there is room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Takeovers {
    /// Copies that wait for somebody who takes them over.
    wanted: u64,
    /// How many the servers may still take over.
    room: u64,
    /// How many they might if they held nothing.
    limit: u64,
}

impl Takeovers {
    fn add_server(&mut self, failover: Failover, max_cameras: u32, held: u32) {
        let limit = if failover.enabled { failover.takeover_limit.min(max_cameras) } else { 0 };
        self.limit += u64::from(limit);
        self.room += u64::from(limit.saturating_sub(held));
    }

    /// How many servers there should be, if the new ones are like those that are there, for everybody to be taken over; as
    /// they are by default if none of these takes over anything.
    fn servers(self, there_are: u64) -> u64 {
        let missing = self.wanted.saturating_sub(self.room);
        let by_default = u64::from(Failover::default().takeover_limit);
        let each = self.limit.checked_div(there_are).filter(|each| *each > 0).unwrap_or(by_default);
        if missing == 0 { 0 } else { there_are.saturating_add(missing.div_ceil(each)) }
    }
}

/// How many servers like those that are there hold `demand` in `usable_percent` of their room; like the default ones if
/// there are none, or none that holds anything.
fn wanted(demand: u128, capacity: u128, servers: u64, usable_percent: u128) -> u64 {
    let (capacity, servers) = if servers == 0 || capacity == 0 {
        (Capacity::default().max_cameras.into(), 1)
    } else {
        (capacity, u128::from(servers))
    };
    let wanted = (demand * servers * 100).div_ceil((capacity * usable_percent).max(1));
    u64::try_from(wanted).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demand_fits_into_what_may_be_used_of_the_room() {
        assert_eq!(wanted(0, 600, 2, 80), 0);
        assert_eq!(wanted(240, 300, 1, 80), 1);
        assert_eq!(wanted(241, 300, 1, 80), 2);
        assert_eq!(wanted(1_000, 600, 2, 80), 5);
        assert_eq!(wanted(241, 0, 0, 80), 2, "servers as they are by default");
        assert_eq!(wanted(241, 0, 3, 80), 2, "these three hold nothing");
    }

    #[test]
    fn who_waits_to_be_taken_over_asks_for_servers_though_there_is_room() {
        let failover = Failover { enabled: true, takeover_limit: 100 };
        let mut takeovers = Takeovers::default();
        takeovers.add_server(failover, 300, 90);
        takeovers.add_server(failover, 300, 250);
        takeovers.wanted = 10;
        assert_eq!(takeovers.servers(2), 0, "the first has room for ten");
        takeovers.wanted = 11;
        assert_eq!(takeovers.servers(2), 3);
        takeovers.wanted = 211;
        assert_eq!(takeovers.servers(2), 5, "201 without a place, a hundred on each");
    }

    #[test]
    fn servers_that_take_nothing_over_ask_for_one_that_does() {
        let mut takeovers = Takeovers { wanted: 129, ..Takeovers::default() };
        takeovers.add_server(Failover { enabled: false, takeover_limit: 100 }, 300, 0);
        assert_eq!(takeovers.servers(1), 3, "by default a server takes over up to 128");
        assert_eq!(Takeovers { wanted: 129, ..Takeovers::default() }.servers(0), 2);
    }
}
