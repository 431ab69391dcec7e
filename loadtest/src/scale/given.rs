//! The log of a large system, a piece at a time: as many events as are wanted, none of them kept here.
//!
//! Invariant: the same size gives the same log. What cameras are told is as long as it is in the field: an address, a
//! sealed source with user and password, a name, one label.

use longwatch_events::envelope::Envelope;
use longwatch_events::event::{
    CameraAdded, Decision, Event, Part, PlanEntry, PlanMade, ServerAdopted, ServerJoined, TenantCreated,
};
use longwatch_events::id::{CameraId, CountingIds, EventId, ServerId, TenantId};
use longwatch_events::position::Position;
use longwatch_events::reason::AssignReason;
use longwatch_events::sealed::{Base64Bytes, PublicKey, Sealed, WrappedKey};
use longwatch_events::settings::{
    CameraSettings, Capacity, Labels, Priority, Recording, Retention, Source, Transport, ZONE,
};
use longwatch_events::time::Timestamp;

use super::Size;

/// When the log begins.
const START: Timestamp = Timestamp::from_micros(1_795_420_800_000_000);
/// A nonce, a JSON object with address, user and password, and a tag.
const SECRET_BYTES: usize = 12 + 96 + 16;
/// What a camera is expected to send.
const BITRATE_BPS: u64 = 2_000_000;

/// A system that is not there.
pub struct Given {
    ids: CountingIds,
    tenants: Vec<TenantId>,
    servers: Vec<ServerId>,
    cameras: u32,
    added: u32,
}

impl Given {
    /// One of this size, with nothing said of it yet.
    pub fn new(size: Size) -> Self {
        let ids = CountingIds::default();
        let tenants = (0..size.tenants()).map(|_| TenantId::generate(&ids)).collect();
        let servers = (0..size.servers()).map(|_| ServerId::generate(&ids)).collect();
        Self { ids, tenants, servers, cameras: size.cameras, added: 0 }
    }

    /// All servers.
    pub fn servers(&self) -> &[ServerId] {
        &self.servers
    }

    /// The tenants are created.
    pub fn tenants_created(&self) -> impl Iterator<Item = Event> {
        self.tenants.iter().zip(0..).map(|(tenant_id, number): (_, u32)| {
            let data_key = WrappedKey { provider: "file".into(), bytes: Base64Bytes(vec![7; 60]) };
            let name = format!("Tenant {number}");
            Event::TenantCreated(TenantCreated { tenant_id: *tenant_id, name, data_key })
        })
    }

    /// The servers join and are adopted: two events of each.
    pub fn servers_adopted(&self) -> impl Iterator<Item = [Event; 2]> {
        self.servers.iter().zip(0..).map(|(server_id, number): (_, u32)| {
            let mut public_key = PublicKey([5; 32]);
            public_key.0[..4].copy_from_slice(&number.to_be_bytes());
            let joined = ServerJoined {
                server_id: *server_id,
                name: format!("server-{number:05}"),
                public_key,
                labels: Labels::from([(ZONE.into(), format!("zone-{}", number % 10))]),
                capacity: Capacity { max_cameras: 300, max_bitrate_bps: Some(1_000_000_000) },
            };
            [Event::ServerJoined(joined), Event::ServerAdopted(ServerAdopted { server_id: *server_id })]
        })
    }

    /// The next cameras are added, at most `count`: one of each tenant in turn.
    pub fn cameras_added(&mut self, count: u32) -> Vec<Event> {
        let until = self.added.saturating_add(count).min(self.cameras);
        let events = (self.added..until).map(|number| {
            let tenant_id = self.tenants[number as usize % self.tenants.len()];
            let camera_id = CameraId::generate(&self.ids);
            let settings = camera(number, EventId::generate(&self.ids));
            Event::CameraAdded(CameraAdded { tenant_id, camera_id, settings })
        });
        let events = events.collect();
        self.added = until;
        events
    }

    /// A plan that gives the cameras of `added` to one server after the other.
    pub fn dealt_out(&self, added: &[Event]) -> Event {
        let before = self.added as usize - added.len();
        let entries = added.iter().enumerate().filter_map(|(number, event)| {
            let Event::CameraAdded(added) = event else { return None };
            let server_id = self.servers[(before + number) % self.servers.len()];
            let decision = Decision::Assign { server_id, reason: AssignReason::LeastLoaded };
            let CameraAdded { tenant_id, camera_id, .. } = *added;
            Some(PlanEntry { tenant_id, camera_id, copy: 0, decision })
        });
        plan(entries.collect(), Position::START)
    }

    /// The event as it stands in the log.
    pub fn envelope(&self, event: Event) -> Envelope {
        Envelope {
            id: EventId::generate(&self.ids),
            source: "/control/01935700-0000-7000-8005-0000000000c0".into(),
            time: START,
            tenant: None,
            actor: "key:provider".into(),
            causation: None,
            event,
        }
    }
}

/// When the record at `position` was stored: a thousand a second.
pub fn stored_at(position: Position) -> Timestamp {
    START.plus_millis(i64::try_from(position.0).unwrap_or(i64::MAX))
}

/// A plan of one part.
pub fn plan(entries: Vec<PlanEntry>, basis: Position) -> Event {
    let (rules, decided_at) = (longwatch_control::decide::placement::RULES, Some(stored_at(basis)));
    Event::PlanMade(PlanMade { basis, rules, decided_at, part: Part::WHOLE, entries })
}

fn camera(number: u32, sealed_in: EventId) -> CameraSettings {
    let [_, a, b, c] = number.to_be_bytes();
    CameraSettings {
        name: format!("Camera {number:07}"),
        labels: Labels::from([("site".into(), format!("site-{}", number / 16))]),
        source: Source {
            url: format!("rtsp://10.{a}.{b}.{c}:554/stream1"),
            secret: Sealed { sealed_in, bytes: Base64Bytes(vec![a ^ c; SECRET_BYTES]) },
            transport: Transport::Tcp,
        },
        recording: Recording::default(),
        retention: Retention { max_days: Some(30), max_bytes: None, min_days: None },
        failover_priority: match number % 10 {
            0 => Priority::High,
            9 => Priority::Low,
            _ => Priority::Medium,
        },
        preferred_server_id: None,
        copies: 1,
        expected_bitrate_bps: Some(BITRATE_BPS),
        server_labels: Labels::new(),
        single_session: false,
        live_latency_ms: None,
    }
}
