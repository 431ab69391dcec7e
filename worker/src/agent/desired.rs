//! What this server is to record, put together from the parts in which it is published.
//!
//! Pure. Invariants: only whole sets count, and no set is made of parts of two; a set is never followed by an older one. Two
//! sets of one revision there are only if the log was set back behind the first one and control had not heard yet that this
//! server has it: then the one that is offered now counts, for it is the one that stands in the log.

use std::collections::BTreeMap;

use bytes::Bytes;
use longwatch_events::assignment::{AssignedCamera, AssignmentSet};
use longwatch_events::envelope::{self, Envelope};
use longwatch_events::event::Event;
use longwatch_events::id::{EventId, ServerId};
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
    /// The same; see [`AssignmentSet::set_id`].
    pub set_id: Option<EventId>,
    /// Of how many.
    pub parts: u32,
}

/// Puts sets together.
#[derive(Debug)]
pub struct Collector {
    server_id: ServerId,
    /// The newest set that was whole, and its parts, in order.
    newest: Option<(Position, Vec<Bytes>)>,
    unfinished: BTreeMap<Which, Unfinished>,
}

/// Which set a part belongs to, oldest first. Sets from before their parts said so are told apart by revision only.
type Which = (Position, Option<EventId>);

#[derive(Debug)]
struct Unfinished {
    parts: u32,
    got: BTreeMap<u32, (AssignmentSet, Bytes)>,
}

impl Collector {
    /// For the sets of `server_id` that are newer than `newest`.
    pub fn new(server_id: ServerId, newest: Option<DesiredSet>) -> Self {
        let newest = newest.map(|set| (set.revision, set.messages));
        Self { server_id, newest, unfinished: BTreeMap::new() }
    }

    /// Takes a message; returns which part it was, and the set if it is whole now and no older than every one before, nor
    /// the same.
    ///
    /// # Errors
    ///
    /// If it is no part of this server's set; it is then ignored.
    pub fn offer(&mut self, message: Bytes) -> Result<(Part, Option<DesiredSet>), Error> {
        let Event::AssignmentsPublished(set) = Envelope::decode(&message)?.event else {
            return Err(Error::Kind);
        };
        let AssignmentSet { server_id, revision, set_id, part, parts, .. } = set;
        if server_id != self.server_id {
            return Err(Error::Server(server_id));
        }
        if !(1..=MAX_PARTS).contains(&parts) || !(1..=parts).contains(&part) {
            return Err(Error::Parts { part, parts });
        }
        let described = Part { revision, set_id, parts };
        if let Some((newest, messages)) = &self.newest
            && (revision < *newest || revision == *newest && messages.contains(&message))
        {
            return Ok((described, None));
        }
        let which = (revision, set_id);
        let unfinished =
            self.unfinished.entry(which).or_insert_with(|| Unfinished { parts, got: BTreeMap::new() });
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
        let whole = self.unfinished.remove(&which).map(|done| done.join(revision));
        self.newest = whole.as_ref().map(|set| (revision, set.messages.clone()));
        // Another one of this revision may be the one that stands in the log.
        self.unfinished.retain(|(unfinished, _), _| *unfinished >= revision);
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
    use longwatch_events::id::{CameraId, TenantId};
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

    fn event_id(id: u64) -> EventId {
        format!("{id:08x}-0000-7000-8000-000000000000").parse().unwrap()
    }

    fn message(id: u64, event: Event) -> Bytes {
        let envelope = Envelope {
            id: event_id(id),
            source: "/control/1".into(),
            time: Timestamp::UNIX_EPOCH,
            tenant: None,
            actor: "system".into(),
            causation: None,
            event,
        };
        envelope.encode().into()
    }

    /// A part with one camera, whose id says where it belongs. The same part is the same message.
    fn part(revision: u64, part: u32, parts: u32) -> Bytes {
        let id = revision * 1_000 + u64::from(part * 10 + parts);
        part_as(id, revision, part, parts)
    }

    /// The same, appended as another event.
    fn part_as(id: u64, revision: u64, part: u32, parts: u32) -> Bytes {
        part_of(None, id, revision, part, parts)
    }

    /// The same, of the set `set_id`.
    fn part_of(set_id: Option<u64>, id: u64, revision: u64, part: u32, parts: u32) -> Bytes {
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
        let set = AssignmentSet {
            server_id: server(1),
            revision: Position(revision),
            set_id: set_id.map(event_id),
            part,
            parts,
            heartbeat_interval_ms: 700,
            lease_ms: Some(2_100),
            cameras: vec![camera],
        };
        message(id, Event::AssignmentsPublished(set))
    }

    fn offer(collector: &mut Collector, bytes: Bytes) -> Option<DesiredSet> {
        collector.offer(bytes).unwrap().1
    }

    #[test]
    fn only_whole_sets_count_and_older_ones_never() {
        let four = offer(&mut Collector::new(server(1), None), part(4, 1, 1)).unwrap();
        let mut collector = Collector::new(server(1), Some(four));
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
    fn of_two_sets_of_one_revision_the_one_that_stands_in_the_log_counts() {
        // Given a server that has applied a set, and a log that was set back behind that; control, which does not know it,
        // says something else under the same revision.
        let mut collector = Collector::new(server(1), None);
        let before = offer(&mut collector, part(7, 1, 1)).unwrap();
        let mut restarted = Collector::new(server(1), Some(before));
        for collector in [&mut collector, &mut restarted] {
            assert_eq!(offer(collector, part(7, 1, 1)), None, "it is the same");
            // Then that is in force once it is whole, ...
            let anew = [part_as(1, 7, 1, 2), part_as(2, 7, 2, 2)];
            assert_eq!(offer(collector, anew[0].clone()), None);
            let set = offer(collector, anew[1].clone()).unwrap();
            assert_eq!((set.revision, set.messages), (Position(7), anew.to_vec()));
            // ... and looking again changes nothing.
            assert!(anew.into_iter().all(|part| offer(collector, part).is_none()));
        }
    }

    #[test]
    fn no_set_is_made_of_parts_of_two() {
        // Given a part of a set of which the rest got lost with the log; control says something else under its revision.
        let of_lost = |part: u32| part_of(Some(1), 10 + u64::from(part), 7, part, 3);
        let of_log = |part: u32| part_of(Some(2), 20 + u64::from(part), 7, part, 3);
        let mut collector = Collector::new(server(1), None);
        assert_eq!(offer(&mut collector, of_lost(2)), None);
        // Then only all parts of the other make a set, in whatever order they come.
        assert_eq!(offer(&mut collector, of_log(3)), None);
        assert_eq!(offer(&mut collector, of_log(1)), None);
        let set = offer(&mut collector, of_log(2)).unwrap();
        assert_eq!(set.messages, [of_log(1), of_log(2), of_log(3)]);
        // What came of one before another of its revision was whole still counts with the rest of it.
        assert_eq!(offer(&mut collector, of_lost(1)), None);
        assert_eq!(offer(&mut collector, of_lost(3)).unwrap().messages, [of_lost(1), of_lost(2), of_lost(3)]);
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
        assert!(matches!(ours.offer(message(1, adopted)), Err(Error::Kind)));
        assert!(matches!(ours.offer(Bytes::from_static(b"{}")), Err(Error::Envelope(_))));
    }

    proptest! {
        #[test]
        fn revisions_never_fall_and_every_set_is_whole_and_one(
            offers in proptest::collection::vec((1..9_u64, 1..3_u64, 1..4_u32), 0..80),
        ) {
            let mut collector = Collector::new(server(1), None);
            let mut last = (Position::START, Vec::new());
            let of = |set: u64, revision: u64, number: u32| {
                part_of(Some(set), revision * 100 + set * 10 + u64::from(number), revision, number, 3)
            };
            for (revision, set, number) in offers {
                if let Some(whole) = offer(&mut collector, of(set, revision, number)) {
                    prop_assert!(whole.revision >= last.0 && whole.messages != last.1);
                    let of_set: Vec<_> = (1..=3).map(|number| of(set, revision, number)).collect();
                    prop_assert_eq!(&whole.messages, &of_set);
                    prop_assert_eq!((whole.revision.0, whole.cameras.len()), (revision, 3));
                    last = (whole.revision, whole.messages);
                }
            }
            prop_assert!(collector.unfinished.len() <= MAX_UNFINISHED);
        }
    }
}
