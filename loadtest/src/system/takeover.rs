//! When each step of a failover happened, camera by camera, as the log and the workers' facts tell it. Pure.

use std::collections::{BTreeMap, BTreeSet};

use longwatch_events::event::{Decision, Event};
use longwatch_events::fact::Fact;
use longwatch_events::id::{CameraId, ServerId};
use longwatch_events::position::{Epoch, Position};
use longwatch_events::time::Timestamp;

use super::history::Entry;

/// What became of a lost server's cameras.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Takeovers {
    /// When `ServerLost` stood in the log.
    pub detected: Option<Timestamp>,
    /// Each of its cameras.
    pub cameras: BTreeMap<CameraId, Takeover>,
}

/// What became of one camera; `None`: that has not happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Takeover {
    /// Its new assignment, and when that stood in the log.
    pub planned: Option<Planned>,
    /// When the log held the new server's desired set with it.
    pub told: Option<Timestamp>,
    /// When it answered the new server's PLAY, by that server's clock.
    pub connected: Option<Timestamp>,
    /// Time of the first keyframe that the new server has.
    pub first_keyframe: Option<Timestamp>,
    /// When the fragment with it had been flushed to the disk.
    pub first_durable: Option<Timestamp>,
}

/// A new assignment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// When the log stored it.
    pub at: Timestamp,
    /// To whom.
    pub server_id: ServerId,
    /// Its epoch.
    pub epoch: Epoch,
}

/// Follows `cameras` of the server `lost` from position `after` of `LOG`, with what `others` hold of `RECORDINGS` and
/// `ASSIGNMENTS`. Only the first assignment to another server counts.
pub fn trace(
    lost: ServerId,
    cameras: &BTreeSet<CameraId>,
    after: Position,
    log: &[Entry],
    others: &[Entry],
) -> Takeovers {
    let mut found = Takeovers::default();
    found.cameras.extend(cameras.iter().map(|id| (*id, Takeover::default())));
    for entry in log.iter().filter(|entry| entry.position > after) {
        if let Event::ServerLost(event) = &entry.event
            && event.server_id == lost
        {
            found.detected.get_or_insert(entry.stored_at);
        }
        let Event::PlanMade(plan) = &entry.event else { continue };
        for planned in &plan.entries {
            let Decision::Assign { server_id, .. } = planned.decision else { continue };
            if let Some(takeover) = found.cameras.get_mut(&planned.camera_id)
                && server_id != lost
            {
                let (at, epoch) = (entry.stored_at, Epoch(entry.position.0));
                takeover.planned.get_or_insert(Planned { at, server_id, epoch });
            }
        }
    }
    for entry in others {
        if let Event::RecordingReported(report) = &entry.event {
            for fact in &report.facts {
                if let Some(takeover) = found.cameras.get_mut(&fact.camera_id()) {
                    takeover.learn(report.server_id, fact);
                }
            }
        } else if let Event::AssignmentsPublished(set) = &entry.event {
            for assigned in &set.cameras {
                if let Some(takeover) = found.cameras.get_mut(&assigned.camera_id)
                    && takeover.is_new(set.server_id, assigned.epoch)
                {
                    takeover.told.get_or_insert(entry.stored_at);
                }
            }
        }
    }
    found
}

impl Takeover {
    fn is_new(&self, server_id: ServerId, epoch: Epoch) -> bool {
        self.planned.is_some_and(|planned| planned.server_id == server_id && planned.epoch == epoch)
    }

    fn learn(&mut self, server_id: ServerId, fact: &Fact) {
        match fact {
            Fact::Started(started) if self.is_new(server_id, started.epoch) => {
                self.connected.get_or_insert(started.at);
            }
            Fact::FirstKeyframeDurable(first) if self.is_new(server_id, first.epoch) => {
                self.first_keyframe.get_or_insert(first.start);
                self.first_durable.get_or_insert(first.durable_at);
            }
            Fact::Started(_)
            | Fact::FirstKeyframeDurable(_)
            | Fact::SegmentStored(_)
            | Fact::SegmentUploaded(_)
            | Fact::SegmentDeleted(_)
            | Fact::SegmentChecked(_)
            | Fact::Interrupted(_)
            | Fact::Gap(_)
            | Fact::TimestampJumped(_)
            | Fact::RecordingTriggered(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use longwatch_events::assignment::{AssignedCamera, AssignmentSet};
    use longwatch_events::event::{Part, PlanEntry, PlanMade, RecordingReported, ServerLost};
    use longwatch_events::fact::{Codec, FirstKeyframeDurable, Started};
    use longwatch_events::id::{BootId, CountingIds, TenantId};
    use longwatch_events::reason::AssignReason;
    use longwatch_events::sealed::Base64Bytes;

    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn entry(position: u64, event: Event) -> Entry {
        Entry { position: Position(position), stored_at: at(i64::try_from(position).unwrap() * 100), event }
    }

    fn assign(position: u64, camera_id: CameraId, server_id: ServerId) -> Entry {
        let decision = Decision::Assign { server_id, reason: AssignReason::LeastLoaded };
        let entries = vec![PlanEntry { tenant_id: TenantId::DEFAULT, camera_id, copy: 0, decision }];
        let (basis, decided_at, part) = (Position(position - 1), None, Part::WHOLE);
        entry(position, Event::PlanMade(PlanMade { basis, rules: 1, decided_at, part, entries }))
    }

    #[test]
    fn only_the_new_servers_facts_under_the_new_epoch_count() {
        let ids = CountingIds::default();
        let (old, new, camera) =
            (ServerId::generate(&ids), ServerId::generate(&ids), CameraId::generate(&ids));
        let lost = ServerLost {
            server_id: old,
            last_heartbeat: None,
            heard_at: at(0),
            judged_at: at(9),
            lease_ms: 3_000,
        };
        let log = [
            assign(3, camera, old),
            entry(7, Event::ServerLost(lost)),
            assign(8, camera, new),
            assign(9, camera, old),
        ];
        let started = |epoch, millis| {
            Fact::Started(Started {
                tenant_id: TenantId::DEFAULT,
                camera_id: camera,
                epoch: Epoch(epoch),
                at: at(millis),
                video: Codec::H264,
                audio: None,
                not_recorded: Vec::new(),
            })
        };
        let durable = Fact::FirstKeyframeDurable(FirstKeyframeDurable {
            tenant_id: TenantId::DEFAULT,
            camera_id: camera,
            epoch: Epoch(8),
            start: at(950),
            durable_at: at(990),
        });
        let report = |server_id, facts| {
            let boot_id = BootId::generate(&ids);
            entry(1, Event::RecordingReported(RecordingReported { server_id, boot_id, facts }))
        };
        let published = |server_id, epoch| {
            let source = Base64Bytes(vec![1]);
            let settings_version = Position(1);
            let tenant_id = TenantId::DEFAULT;
            let cameras = vec![AssignedCamera {
                tenant_id,
                camera_id: camera,
                epoch: Epoch(epoch),
                settings_version,
                source,
                single_session: false,
                live_latency_ms: None,
                priority: None,
                retention: None,
                recording: None,
            }];
            let set = AssignmentSet {
                server_id,
                revision: Position(epoch),
                set_id: None,
                part: 1,
                parts: 1,
                heartbeat_interval_ms: 1_000,
                lease_ms: None,
                cameras,
            };
            entry(epoch, Event::AssignmentsPublished(set))
        };
        let others = [
            published(old, 3),
            published(new, 8),
            published(new, 8),
            report(old, vec![started(3, 310), started(8, 320)]),
            report(new, vec![started(3, 330), started(8, 900), durable.clone(), started(8, 999), durable]),
        ];
        let found = trace(old, &BTreeSet::from([camera]), Position(3), &log, &others);
        assert_eq!(found.detected, Some(at(700)));
        let takeover = Takeover {
            planned: Some(Planned { at: at(800), server_id: new, epoch: Epoch(8) }),
            told: Some(at(800)),
            connected: Some(at(900)),
            first_keyframe: Some(at(950)),
            first_durable: Some(at(990)),
        };
        assert_eq!(found.cameras, BTreeMap::from([(camera, takeover)]));
        let untouched = trace(new, &BTreeSet::from([camera]), Position(9), &log, &others);
        assert_eq!(untouched.cameras[&camera], Takeover::default());
    }
}
