//! How much room servers have, as a plan fills it, and which of them is best for a copy.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use longwatch_events::id::ServerId;
use longwatch_events::index::{self, Roster};
use longwatch_events::settings::{Capacity, Failover, Labels, ServerSettings, ZONE};
use longwatch_events::state::{Camera, Server};

use super::Inputs;

/// Why a server may not have a copy. In the order in which they are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// It does not belong to the system, or was never seen.
    NotAdopted,
    /// It is lost.
    Lost,
    /// It lacks a label that the camera asks for.
    Labels,
    /// It is being emptied.
    Draining,
    /// Its archive is nearly full.
    Disk,
    /// It is the one that the copy is to leave.
    Leaving,
    /// It records another copy of the camera.
    OtherCopy,
    /// It holds as many cameras as it may.
    Cameras,
    /// It has not that much bitrate left.
    Bitrate,
    /// It does not take over cameras of others.
    FailoverOff,
    /// It has taken over as many as it may.
    TakeoverLimit,
}

impl Refusal {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotAdopted => "not_adopted",
            Self::Lost => "lost",
            Self::Labels => "labels",
            Self::Draining => "draining",
            Self::Disk => "disk",
            Self::Leaving => "leaving",
            Self::OtherCopy => "other_copy",
            Self::Cameras => "cameras",
            Self::Bitrate => "bitrate",
            Self::FailoverOff => "failover_off",
            Self::TakeoverLimit => "takeover_limit",
        }
    }
}

/// The number of a zone, from 1 on; its servers stand at that place in [`Rooms::open`].
type Zone = usize;

/// One server's room.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room<'a> {
    capacity: Capacity,
    failover: Failover,
    labels: &'a Labels,
    zone: Option<Zone>,
    is_draining: bool,
    is_disk_low: bool,
    disk_used_percent: u8,
    cameras: u32,
    bitrate_bps: u64,
    leaving: u32,
    leaving_bps: u64,
}

/// What a copy asks of a server.
#[derive(Debug, Clone)]
pub(super) struct Request<'a> {
    pub(super) bitrate_bps: u64,
    labels: Option<&'a Labels>,
    zone: Option<Wanted<'a>>,
    /// The server that it belongs to, if it was or is to be taken from there: every other one would take it over.
    home: Option<ServerId>,
    others: Others,
    /// The server that it is to leave.
    away_from: Option<ServerId>,
}

/// The zone that a camera carries as a label.
#[derive(Debug, Clone, Copy)]
struct Wanted<'a> {
    name: &'a str,
    /// `None`: no server is in it.
    zone: Option<Zone>,
}

/// Where the camera's other copies are.
#[derive(Debug, Clone)]
pub(super) struct Others {
    /// The servers that hold a place for them, those included that they are leaving.
    pub(super) taken: Vec<ServerId>,
    /// The servers that they will be on.
    pub(super) siblings: Vec<ServerId>,
}

/// Requests of one kind that differ in nothing but bitrate and home: if one finds no room, none that asks for more does,
/// and for the same reason. Which home it is does not matter: whoever comes to look elsewhere was refused there, by what
/// refuses everybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kind<'a> {
    has_home: bool,
    labels: Option<&'a Labels>,
}

/// What speaks against a server's zone; the smallest is best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Zones {
    /// Whether another copy of the camera is in it.
    pub(super) shares: bool,
    /// Whether it is another than the one the camera carries as a label.
    pub(super) other: bool,
}

/// How good a server is for a copy; the smallest is best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    zones: Zones,
    load: Load,
}

/// How full a server is. Ordered: the emptiest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Load {
    /// Share of its capacity in use, in millionths.
    relative: u64,
    /// Of its archive's volume.
    disk_used_percent: u8,
    /// So that there is never a tie.
    server_id: ServerId,
}

/// All servers that can record, with their room.
#[derive(Debug, Clone)]
pub(super) struct Rooms<'a> {
    rooms: BTreeMap<ServerId, Room<'a>>,
    /// The numbers of the zones that servers are in: a name takes longer to compare.
    zones: BTreeMap<&'a str, Zone>,
    /// Those that may be given something, by zone, the emptiest first; at the front those that are in none.
    open: Vec<BTreeSet<Load>>,
    down: Vec<ServerId>,
    draining: Vec<ServerId>,
}

impl<'a> Room<'a> {
    fn of(server: &'a Server, zone: Option<Zone>, roster: &Roster, min_disk_free_percent: u8) -> Self {
        let ServerSettings { capacity, failover, ref labels, .. } = server.settings;
        let (leaving, leaving_bps) = roster.leaving();
        let free_percent = server.disk_free_percent;
        Self {
            capacity,
            failover,
            labels,
            zone,
            is_draining: server.draining_since.is_some(),
            is_disk_low: free_percent.is_some_and(|free| free < min_disk_free_percent),
            disk_used_percent: 100_u8.saturating_sub(free_percent.unwrap_or(100)),
            cameras: roster.len(),
            bitrate_bps: roster.bitrate_bps(),
            leaving,
            leaving_bps,
        }
    }

    fn load(&self, server_id: ServerId) -> Load {
        let relative = self.relative(self.cameras, self.bitrate_bps);
        Load { relative, disk_used_percent: self.disk_used_percent, server_id }
    }

    /// The fuller of its two measures, in millionths of the capacity.
    fn relative(&self, cameras: u32, bitrate_bps: u64) -> u64 {
        let by_cameras = millionths(u64::from(cameras), u64::from(self.capacity.max_cameras));
        let by_bitrate = self.capacity.max_bitrate_bps.map_or(0, |max| millionths(bitrate_bps, max));
        by_cameras.max(by_bitrate)
    }

    /// How full it will be once what is leaving has left, in millionths.
    pub(super) fn settled_load(&self) -> u64 {
        let cameras = self.cameras.saturating_sub(self.leaving);
        self.relative(cameras, self.bitrate_bps.saturating_sub(self.leaving_bps))
    }

    /// The same, with one more copy.
    pub(super) fn settled_load_with(&self, bitrate_bps: u64) -> u64 {
        let more = Self {
            cameras: self.cameras.saturating_add(1),
            bitrate_bps: self.bitrate_bps.saturating_add(bitrate_bps),
            ..*self
        };
        more.settled_load()
    }

    /// The same, with one copy less.
    pub(super) fn settled_load_without(&self, bitrate_bps: u64) -> u64 {
        let less = Self {
            leaving: self.leaving.saturating_add(1),
            leaving_bps: self.leaving_bps.saturating_add(bitrate_bps),
            ..*self
        };
        less.settled_load()
    }

    /// The same server after one of its copies has left.
    fn without(&self, bitrate_bps: u64) -> Self {
        Self {
            cameras: self.cameras.saturating_sub(1),
            bitrate_bps: self.bitrate_bps.saturating_sub(bitrate_bps),
            ..*self
        }
    }

    /// By how many cameras it exceeds what it may hold, once what is leaving has left.
    pub(super) fn surplus(&self) -> u32 {
        let staying = self.cameras.saturating_sub(self.leaving);
        staying.saturating_sub(self.capacity.max_cameras)
    }

    /// Whether it exceeds the bitrate it may take, once what is leaving has left.
    pub(super) fn is_over_bitrate(&self) -> bool {
        let staying = self.bitrate_bps.saturating_sub(self.leaving_bps);
        self.capacity.max_bitrate_bps.is_some_and(|max| staying > max)
    }

    const fn is_open(&self) -> bool {
        !self.is_draining && !self.is_disk_low
    }

    pub(super) fn has_labels(&self, wanted: Option<&Labels>) -> bool {
        wanted.into_iter().flatten().all(|(key, value)| self.labels.get(key) == Some(value))
    }

    fn has_bitrate(&self, bitrate_bps: u64) -> bool {
        self.capacity.max_bitrate_bps.is_none_or(|max| self.bitrate_bps.saturating_add(bitrate_bps) <= max)
    }

    /// Why it may not have what is asked for, if it may not.
    fn refusal(&self, server_id: ServerId, request: &Request<'_>) -> Option<Refusal> {
        let is_takeover = request.home.is_some_and(|home| home != server_id);
        let checks = [
            (Refusal::Labels, !self.has_labels(request.labels)),
            (Refusal::Draining, self.is_draining),
            (Refusal::Disk, self.is_disk_low),
            (Refusal::Leaving, request.away_from == Some(server_id)),
            (Refusal::OtherCopy, request.others.taken.contains(&server_id)),
            (Refusal::Cameras, self.cameras >= self.capacity.max_cameras),
            (Refusal::Bitrate, !self.has_bitrate(request.bitrate_bps)),
            (Refusal::FailoverOff, is_takeover && !self.failover.enabled),
            (Refusal::TakeoverLimit, is_takeover && self.cameras >= self.failover.takeover_limit),
        ];
        checks.into_iter().find(|(_, applies)| *applies).map(|(refusal, _)| refusal)
    }
}

impl<'a> Request<'a> {
    /// The labels that a server must carry.
    pub(super) const fn labels(&self) -> Option<&'a Labels> {
        self.labels
    }

    /// What it has in common with other requests; `None` if it is one of its own.
    pub(super) fn kind(&self) -> Option<Kind<'a>> {
        let is_one_of_many = self.is_alone() && self.away_from.is_none();
        is_one_of_many.then_some(Kind { has_home: self.home.is_some(), labels: self.labels })
    }

    /// The server that it belongs to.
    pub(super) const fn home(&self) -> Option<ServerId> {
        self.home
    }

    /// The zone that it should be in.
    pub(super) fn zone(&self) -> Option<&'a str> {
        self.zone.map(|wanted| wanted.name)
    }

    /// Whether the camera has no other copies.
    pub(super) const fn is_alone(&self) -> bool {
        self.others.taken.is_empty()
    }

    /// The same of a copy that belongs nowhere.
    pub(super) fn without_home(&self) -> Self {
        Self { home: None, ..self.clone() }
    }
}

impl<'a> Rooms<'a> {
    /// Looks at every server once: there may be ten thousand of them, and mostly one of them matters.
    pub(super) fn of(inputs: &Inputs<'a>) -> Self {
        let state = inputs.state;
        let low = state.policy.min_disk_free_percent;
        let mut rosters = state.index().rosters().peekable();
        let mut zones = BTreeMap::new();
        let (mut rooms, mut open) = (Vec::new(), vec![Vec::new()]);
        let (mut down, mut draining) = (Vec::new(), Vec::new());
        for (id, server) in state.servers() {
            while rosters.next_if(|(of, _)| *of < id).is_some() {}
            if !inputs.is_up(id, Some(server)) {
                down.extend(server.is_ours().then_some(id));
                continue;
            }
            let roster = rosters.next_if(|(of, _)| *of == id).map_or(Roster::none(), |(_, roster)| roster);
            let zone = server.settings.labels.get(ZONE).map(|name| {
                let next = open.len();
                let zone = *zones.entry(name).or_insert(next);
                open.resize(open.len().max(zone + 1), Vec::new());
                zone
            });
            let room = Room::of(server, zone, roster, low);
            draining.extend(room.is_draining.then_some(id));
            if room.is_open() {
                open[zone.unwrap_or(0)].push(room.load(id));
            }
            rooms.push((id, room));
        }
        let open = open.into_iter().map(BTreeSet::from_iter).collect();
        Self { rooms: rooms.into_iter().collect(), zones, open, down, draining }
    }

    /// Servers of ours that cannot record now.
    pub(super) fn down(&self) -> &[ServerId] {
        &self.down
    }

    /// Servers that can and are being emptied.
    pub(super) fn draining(&self) -> &[ServerId] {
        &self.draining
    }

    /// What a copy of `camera` asks for.
    pub(super) fn request(
        &self,
        camera: &'a Camera,
        home: Option<ServerId>,
        others: Others,
        away_from: Option<ServerId>,
    ) -> Request<'a> {
        let wanted = |name| Wanted { name, zone: self.zones.get(name).copied() };
        Request {
            bitrate_bps: index::bitrate(camera),
            labels: camera.settings.server_labels(),
            zone: camera.settings.labels().value_of(ZONE).map(wanted),
            home,
            others,
            // A server that is lost is no room at all.
            away_from: away_from.filter(|server_id| self.rooms.contains_key(server_id)),
        }
    }

    pub(super) fn get(&self, server_id: ServerId) -> Option<&Room<'a>> {
        self.rooms.get(&server_id)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (ServerId, &Room<'a>)> {
        self.rooms.iter().map(|(id, room)| (*id, room))
    }

    /// Why `server_id` may not have what is asked for; `None`: it may.
    pub(super) fn refusal(&self, server_id: ServerId, request: &Request<'_>) -> Option<Refusal> {
        self.get(server_id).map_or(Some(Refusal::Lost), |room| room.refusal(server_id, request))
    }

    pub(super) fn may_have(&self, server_id: ServerId, request: &Request<'_>) -> bool {
        self.refusal(server_id, request).is_none()
    }

    /// Whether `server_id` may have what is asked for once another copy has left it.
    pub(super) fn may_have_instead(
        &self,
        server_id: ServerId,
        request: &Request<'_>,
        bitrate_bps: u64,
    ) -> bool {
        self.get(server_id)
            .is_some_and(|room| room.without(bitrate_bps).refusal(server_id, request).is_none())
    }

    /// What speaks against the zone of `server_id`.
    pub(super) fn zones(&self, server_id: ServerId, request: &Request<'_>) -> Option<Zones> {
        let taken: Vec<_> = self.taken_zones(request).collect();
        self.get(server_id).map(|room| zones(room.zone, &taken, request))
    }

    fn taken_zones(&self, request: &Request<'_>) -> impl Iterator<Item = Zone> {
        request.others.siblings.iter().filter_map(|id| self.get(*id)?.zone)
    }

    /// The best server for what is asked for: of a million cameras the first in rank is nearly always the one.
    pub(super) fn best(&self, request: &Request<'_>) -> Option<ServerId> {
        let taken: Vec<_> = self.taken_zones(request).collect();
        let first = |(at, servers): (usize, &BTreeSet<Load>)| {
            Some(Rank { zones: zones(zone_at(at), &taken, request), load: *servers.first()? })
        };
        let Rank { load, .. } = self.open.iter().enumerate().filter_map(first).min()?;
        if self.may_have(load.server_id, request) {
            return Some(load.server_id);
        }
        self.best_of_all(request, &taken)
    }

    /// The same, looking at servers in the order of their ranks, zone by zone no further than it has to.
    fn best_of_all(&self, request: &Request<'_>, taken: &[Zone]) -> Option<ServerId> {
        let mut servers: Vec<_> = self.open.iter().map(BTreeSet::iter).collect();
        let of_zone = |at| zones(zone_at(at), taken, request);
        let zones: Vec<_> = (0..self.open.len()).map(of_zone).collect();
        let first = servers.iter_mut().zip(&zones).enumerate();
        let mut next: BinaryHeap<_> = first
            .filter_map(|(at, (servers, zones))| {
                Some(Reverse((Rank { zones: *zones, load: *servers.next()? }, at)))
            })
            .collect();
        while let Some(Reverse((Rank { zones, load }, at))) = next.pop() {
            if self.may_have(load.server_id, request) {
                return Some(load.server_id);
            }
            let behind = servers.get_mut(at).and_then(Iterator::next);
            next.extend(behind.map(|load| Reverse((Rank { zones, load: *load }, at))));
        }
        None
    }

    /// The share of its capacity that `server_id` uses, in millionths.
    pub(super) fn relative_load(&self, server_id: ServerId) -> Option<u64> {
        self.get(server_id).map(|room| room.load(server_id).relative)
    }

    /// `server_id` has one more copy.
    pub(super) fn take(&mut self, server_id: ServerId, bitrate_bps: u64) {
        self.change(server_id, |room| {
            room.cameras = room.cameras.saturating_add(1);
            room.bitrate_bps = room.bitrate_bps.saturating_add(bitrate_bps);
        });
    }

    /// `server_id` has one copy less.
    pub(super) fn give(&mut self, server_id: ServerId, bitrate_bps: u64) {
        self.change(server_id, |room| *room = room.without(bitrate_bps));
    }

    /// One of the copies of `server_id` is about to leave it.
    pub(super) fn leave(&mut self, server_id: ServerId, bitrate_bps: u64) {
        self.change(server_id, |room| {
            room.leaving = room.leaving.saturating_add(1);
            room.leaving_bps = room.leaving_bps.saturating_add(bitrate_bps);
        });
    }

    /// One of the copies of `server_id` is not about to leave it any more.
    pub(super) fn stay(&mut self, server_id: ServerId, bitrate_bps: u64) {
        self.change(server_id, |room| {
            room.leaving = room.leaving.saturating_sub(1);
            room.leaving_bps = room.leaving_bps.saturating_sub(bitrate_bps);
        });
    }

    fn change(&mut self, server_id: ServerId, change: impl FnOnce(&mut Room<'a>)) {
        let Some(room) = self.rooms.get_mut(&server_id) else { return };
        let before = room.load(server_id);
        change(room);
        let (after, zone) = (room.load(server_id), room.zone);
        if room.is_open()
            && let Some(open) = self.open.get_mut(zone.unwrap_or(0))
        {
            open.remove(&before);
            open.insert(after);
        }
    }
}

/// The zone whose servers stand at `at` in [`Rooms::open`].
fn zone_at(at: usize) -> Option<Zone> {
    (at > 0).then_some(at)
}

fn zones(zone: Option<Zone>, taken: &[Zone], request: &Request<'_>) -> Zones {
    Zones {
        shares: zone.is_some_and(|zone| taken.contains(&zone)),
        other: request.zone.is_some_and(|wanted| zone.is_none() || zone != wanted.zone),
    }
}

fn millionths(part: u64, whole: u64) -> u64 {
    // 64 bits where they do, as these are several times as fast: a bitrate of 18 Tbit/s times a million does not fit.
    if let Some(millions) = part.checked_mul(1_000_000) {
        return millions.checked_div(whole).unwrap_or(u64::MAX);
    }
    let share = (u128::from(part) * 1_000_000).checked_div(u128::from(whole)).unwrap_or(u128::MAX);
    u64::try_from(share).unwrap_or(u64::MAX)
}
