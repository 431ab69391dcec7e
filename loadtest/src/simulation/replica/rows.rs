//! What a replica keeps on disk: how far it folded, the last word of every recording, a snapshot of State.

use std::collections::BTreeMap;

use longwatch_control::decide::placement::{Evidence, Shown, Step};
use longwatch_events::event::{Event, RecordingReported};
use longwatch_events::fact::{Cause, Fact};
use longwatch_events::hash::Sha256;
use longwatch_events::id::{CopyKey, EventId, ServerId};
use longwatch_events::position::{Epoch, Position};
use longwatch_events::snapshot;
use longwatch_events::state::{Assignment, State};
use longwatch_events::subject::LogStream;
use longwatch_worker::plan::Key;

use crate::simulation::happening::Ends;
use crate::simulation::nats::{Nats, Stored};

#[derive(Default)]
pub(super) struct Rows {
    pub(super) log: Position,
    pub(super) recordings: Position,
    statuses: BTreeMap<(Key, Epoch, ServerId), (Position, Condition)>,
    /// The record that was folded last.
    newest: Option<(Position, EventId)>,
    /// And the record that it was folded up to, as it was then.
    snapshot: Option<(State, EventId)>,
}

/// What a server said last of a recording.
enum Condition {
    Connecting,
    Recording,
    Offline(Cause),
}

/// Why the log cannot be the one of which `LOG` and `RECORDINGS` were folded so far, if it ends too early.
pub(super) fn rolled_back((log, recordings): (Position, Position), ends: Ends) -> Option<String> {
    (ends.log < log || ends.recordings < recordings).then(|| {
        format!(
            "LOG ends at {}, RECORDINGS at {}; they were folded up to {log} and {recordings}",
            ends.log, ends.recordings
        )
    })
}

impl Rows {
    /// A report stands in `RECORDINGS`. Whether something is news to the planner.
    pub(super) fn report(&mut self, record: &Stored) -> bool {
        self.recordings = record.position;
        let Event::RecordingReported(RecordingReported { server_id, facts, .. }) = &record.event else {
            return false;
        };
        for fact in facts {
            let (epoch, condition) = match fact {
                Fact::Started(f) => (f.epoch, Condition::Connecting),
                Fact::FirstKeyframeDurable(f) => (f.epoch, Condition::Recording),
                Fact::Interrupted(f) => (f.epoch, Condition::Offline(f.cause)),
                Fact::SegmentStored(_)
                | Fact::SegmentUploaded(_)
                | Fact::SegmentDeleted(_)
                | Fact::SegmentChecked(_)
                | Fact::Gap(_)
                | Fact::TimestampJumped(_)
                | Fact::RecordingTriggered(_) => continue,
            };
            let key = Key { tenant_id: fact.tenant_id(), camera_id: fact.camera_id() };
            self.statuses.insert((key, epoch, *server_id), (record.position, condition));
        }
        true
    }

    /// What the rows show of the moves of `state`, of whose servers `knows` says whether they know of the move with an epoch.
    pub(super) fn evidence(&self, state: &State, knows: impl Fn(ServerId, Epoch) -> bool) -> Evidence {
        let mut evidence = Evidence::new();
        for copy_key in state.index().moving() {
            let Some((camera, copy)) = state.copy(copy_key) else { continue };
            let (Some(old), Some(new)) = (copy.assignment(), copy.successor()) else { continue };
            let mut show = |what: Step, of: &Assignment| {
                if let Some(position) = self.shows(copy_key, of, what) {
                    evidence.insert((copy_key, new.epoch), Shown { position, what });
                }
            };
            show(Step::Begun, new);
            if camera.settings.single_session && knows(old.server_id, new.epoch) {
                show(Step::Stopped, old);
            }
        }
        evidence
    }

    fn shows(&self, key: CopyKey, of: &Assignment, what: Step) -> Option<Position> {
        let key = Key { tenant_id: key.tenant_id, camera_id: key.camera_id };
        let (position, condition) = self.statuses.get(&(key, of.epoch, of.server_id))?;
        let shows = match (what, condition) {
            (Step::Begun, Condition::Recording) => true,
            (Step::Begun, Condition::Offline(cause)) => cause.is_by_wish(),
            (Step::Stopped, Condition::Offline(cause)) => {
                matches!(cause, Cause::Reassigned | Cause::NotScheduled)
            }
            (Step::Begun, Condition::Connecting)
            | (Step::Stopped, Condition::Connecting | Condition::Recording) => false,
        };
        shows.then_some(*position)
    }

    /// A record of `LOG` was folded.
    pub(super) fn folded(&mut self, record: &Stored) {
        self.log = self.log.max(record.position);
        self.newest = Some((record.position, record.id));
    }

    pub(super) fn save_snapshot_of(&mut self, state: &State) {
        let newest = self.newest.filter(|(position, _)| *position == state.position);
        self.snapshot = newest.map(|(_, id)| (state.clone(), id)).or(self.snapshot.take());
    }

    /// State as it was saved, if the log still holds the record that it was folded up to.
    pub(super) fn snapshot(&self, nats: &Nats) -> Option<State> {
        let (saved, record) = self.snapshot.as_ref().filter(|(state, _)| state.position <= self.log)?;
        let hash = |id: &EventId| Sha256::of(id.to_string().as_bytes());
        let mut bytes = Vec::new();
        snapshot::write(saved, hash(record), &mut bytes).ok()?;
        let read = snapshot::read(&bytes[..]).ok()?;
        let stands_there = hash(&nats.get(LogStream::Log, saved.position)?.id);
        (read.record == stands_there).then_some(read.state)
    }
}
