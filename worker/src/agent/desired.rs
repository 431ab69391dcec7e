//! What this server is to record, put together from the parts in which it is published.
//!
//! Pure. Invariants: only whole sets count; a set is never followed by an older one.

use std::collections::BTreeMap;

use bytes::Bytes;
use longwatch_events::assignment::{AssignedCamera, AssignmentSet};
use longwatch_events::envelope::{self, Envelope};
use longwatch_events::event::Event;
use longwatch_events::id::ServerId;
use longwatch_events::position::Position;

/// No set has more parts: at 60 cameras a part, which have the longest addresses there can be, that is 250,000.
const MAX_PARTS: u32 = 4_096;
/// Sets that are put together at the same time. Two are enough unless control changes its mind within a round trip.
const MAX_UNFINISHED: usize = 4;

/// A message that is no part of this server's set.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not an event.
    #[error("an assignment cannot be read: {0}")]
    Envelope(#[from] envelope::Error),
    /// Another event.
    #[error("expected an assignment, got another kind of event")]
    Kind,
    /// Somebody else's.
    #[error("the assignment is for server {0}")]
    Server(ServerId),
    /// Numbers that cannot be.
    #[error("the assignment says it is part {part} of {parts}")]
    Parts {
        /// Which part it says it is.
        part: u32,
        /// Of how many.
        parts: u32,
    },
}

/// A whole desired set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredSet {
    /// By which it is newer than another; see [`AssignmentSet::revision`].
    pub revision: Position,
    /// How often a heartbeat is to go out.
    pub heartbeat_interval_ms: u32,
    /// How long this server may be silent; `None` in sets from before it was told.
    pub lease_ms: Option<u32>,
    /// What to record.
    pub cameras: Vec<AssignedCamera>,
    /// Its parts as they were received, in order.
    pub messages: Vec<Bytes>,
}

/// Which part of which set a message was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// The set's.
    pub revision: Position,
    /// Of how many.
    pub parts: u32,
}

/// Puts sets together.
#[derive(Debug)]
pub struct Collector {
    server_id: ServerId,
    /// The newest set that was whole.
    newest: Option<Position>,
    unfinished: BTreeMap<Position, Unfinished>,
}

#[derive(Debug)]
struct Unfinished {
    parts: u32,
    got: BTreeMap<u32, (AssignmentSet, Bytes)>,
}

impl Collector {
    /// For the sets of `server_id` that are newer than `newest`.
    pub const fn new(server_id: ServerId, newest: Option<Position>) -> Self {
        Self { server_id, newest, unfinished: BTreeMap::new() }
    }

    /// Takes a message; returns which part it was, and the set if it is whole now and newer than every one before.
    ///
    /// # Errors
    ///
    /// If it is no part of this server's set; it is then ignored.
    pub fn offer(&mut self, message: Bytes) -> Result<(Part, Option<DesiredSet>), Error> {
        let Event::AssignmentsPublished(set) = Envelope::decode(&message)?.event else {
            return Err(Error::Kind);
        };
        let AssignmentSet { server_id, revision, part, parts, .. } = set;
        if server_id != self.server_id {
            return Err(Error::Server(server_id));
        }
        if !(1..=MAX_PARTS).contains(&parts) || !(1..=parts).contains(&part) {
            return Err(Error::Parts { part, parts });
        }
        let described = Part { revision, parts };
        if self.newest.is_some_and(|newest| revision <= newest) {
            return Ok((described, None));
        }
        let unfinished =
            self.unfinished.entry(revision).or_insert_with(|| Unfinished { parts, got: BTreeMap::new() });
        if unfinished.parts != parts {
            *unfinished = Unfinished { parts, got: BTreeMap::new() };
        }
        unfinished.got.insert(part, (set, message));
        if unfinished.got.len() < parts as usize {
            if self.unfinished.len() > MAX_UNFINISHED {
                self.unfinished.pop_first();
            }
            return Ok((described, None));
        }
        let whole = self.unfinished.remove(&revision).map(|done| done.join(revision));
        self.newest = Some(revision);
        self.unfinished.retain(|unfinished, _| *unfinished > revision);
        Ok((described, whole))
    }
}

impl Unfinished {
    fn join(self, revision: Position) -> DesiredSet {
        let mut whole = DesiredSet {
            revision,
            heartbeat_interval_ms: 0,
            lease_ms: None,
            cameras: Vec::new(),
            messages: Vec::new(),
        };
        for (set, message) in self.got.into_values() {
            whole.heartbeat_interval_ms = set.heartbeat_interval_ms;
            whole.lease_ms = set.lease_ms;
            whole.cameras.extend(set.cameras);
            whole.messages.push(message);
        }
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use longwatch_events::id::{CameraId, EventId, SystemIds, TenantId};
    use longwatch_events::position::Epoch;
    use longwatch_events::sealed::Base64Bytes;
    use longwatch_events::time::Timestamp;
    use proptest::prelude::*;

    fn server(n: u32) -> ServerId {
        format!("{n:08x}-0000-7000-8000-000000000000").parse().unwrap()
    }

    fn camera(revision: u64, part: u32) -> CameraId {
        format!("{revision:08x}-0000-7000-8000-{part:012x}").parse().unwrap()
    }

    fn message(event: Event) -> Bytes {
        let envelope = Envelope {
            id: EventId::generate(&SystemIds),
            source: "/control/1".into(),
            time: Timestamp::UNIX_EPOCH,
            tenant: None,
            actor: "system".into(),
            causation: None,
            event,
        };
        envelope.encode().into()
    }

    /// A part with one camera, whose id says where it belongs.
    fn part(revision: u64, part: u32, parts: u32) -> Bytes {
        let camera = AssignedCamera {
            tenant_id: TenantId::DEFAULT,
            camera_id: camera(revision, part),
            epoch: Epoch(revision),
            settings_version: Position(1),
            source: Base64Bytes(vec![1, 2, 3]),
            single_session: false,
            live_latency_ms: None,
            priority: None,
            retention: None,
            recording: None,
        };
        message(Event::AssignmentsPublished(AssignmentSet {
            server_id: server(1),
            revision: Position(revision),
            part,
            parts,
            heartbeat_interval_ms: 700,
            lease_ms: Some(2_100),
            cameras: vec![camera],
        }))
    }

    fn offer(collector: &mut Collector, bytes: Bytes) -> Option<DesiredSet> {
        collector.offer(bytes).unwrap().1
    }

    #[test]
    fn only_whole_sets_count_and_older_ones_never() {
        let mut collector = Collector::new(server(1), Some(Position(4)));
        assert_eq!(offer(&mut collector, part(4, 1, 1)), None);
        assert_eq!(offer(&mut collector, part(6, 2, 2)), None);
        assert_eq!(offer(&mut collector, part(6, 2, 2)), None);
        let five = offer(&mut collector, part(5, 1, 1)).unwrap();
        assert_eq!((five.revision, five.cameras.len()), (Position(5), 1));
        assert_eq!((five.heartbeat_interval_ms, five.lease_ms), (700, Some(2_100)));
        let messages = [part(6, 1, 2), part(6, 2, 2)];
        let six = offer(&mut collector, messages[0].clone()).unwrap();
        assert_eq!(six.cameras.iter().map(|c| c.camera_id).collect::<Vec<_>>(), [camera(6, 1), camera(6, 2)]);
        assert_eq!(six.messages[0], messages[0]);
        assert_eq!(offer(&mut collector, part(5, 1, 1)), None);
    }

    #[test]
    fn what_is_not_ours_is_refused() {
        let mut collector = Collector::new(server(2), None);
        assert!(matches!(collector.offer(part(1, 1, 1)), Err(Error::Server(_))));
        let mut ours = Collector::new(server(1), None);
        for (number, of) in [(0, 1), (2, 1), (1, 0), (1, MAX_PARTS + 1)] {
            assert!(matches!(ours.offer(part(1, number, of)), Err(Error::Parts { .. })));
        }
        let adopted = Event::ServerAdopted(longwatch_events::event::ServerAdopted { server_id: server(1) });
        assert!(matches!(ours.offer(message(adopted)), Err(Error::Kind)));
        assert!(matches!(ours.offer(Bytes::from_static(b"{}")), Err(Error::Envelope(_))));
    }

    proptest! {
        #[test]
        fn revisions_only_grow_and_every_set_is_whole(
            offers in proptest::collection::vec((1..9_u64, 1..4_u32), 0..80),
        ) {
            let mut collector = Collector::new(server(1), None);
            let mut last = Position::START;
            for (revision, number) in offers {
                if let Some(set) = offer(&mut collector, part(revision, number, 3)) {
                    prop_assert!(set.revision > last);
                    last = set.revision;
                    prop_assert_eq!(set.cameras.len(), 3);
                    prop_assert!(set.cameras.iter().all(|camera| camera.epoch.0 == set.revision.0));
                }
            }
            prop_assert!(collector.unfinished.len() <= MAX_UNFINISHED);
        }
    }
}
