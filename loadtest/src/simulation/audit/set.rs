//! Whether a server is told what State says, counted by hand.

use std::collections::BTreeMap;

use longwatch_events::assignment::AssignmentSet;
use longwatch_events::event::Event;
use longwatch_events::id::ServerId;
use longwatch_events::state::State;
use longwatch_worker::plan::{Key, Version};

use super::{Audit, Checked};
use crate::simulation::invariant::Invariant;
use crate::simulation::nats::Stored;

impl Audit {
    /// Takes note of what a server is told.
    pub(super) fn note_set(&mut self, record: &Stored) {
        let Event::AssignmentsPublished(set) = &record.event else { return };
        if set.part == 1 {
            self.telling.clear();
        }
        self.telling.extend(set.cameras.iter().map(Key::from));
        if set.part < set.parts {
            return;
        }
        let told = std::mem::take(&mut self.telling);
        for key in &told {
            self.untold.remove(&(set.server_id, *key));
        }
        let before = self.told.insert(set.server_id, told.clone()).unwrap_or_default();
        for key in before.difference(&told) {
            self.untold.insert((set.server_id, *key), record.really_at);
        }
    }

    pub(super) fn check_set(&mut self, record: &Stored) -> Checked {
        let Event::AssignmentsPublished(set) = &record.event else {
            return Err((Invariant::SetFollowsState, "something else stands in ASSIGNMENTS".to_owned()));
        };
        let AssignmentSet { server_id, revision, part, .. } = *set;
        let newest = self.revisions.entry(server_id).or_default();
        if (part == 1 && revision <= *newest) || (part > 1 && revision != *newest) {
            let what = format!("revision {revision} of {server_id} replaces {newest}");
            return Err((Invariant::SetFollowsState, what));
        }
        *newest = revision;
        let Some(state) = self.state_at(record.folded) else { return Ok(()) };
        let wanted = recorded_by(state, server_id);
        let wrong = set
            .cameras
            .iter()
            .find(|camera| wanted.get(&Key::from(*camera)) != Some(&Version::from(*camera)));
        if let Some(camera) = wrong {
            let expected = wanted.get(&Key::from(camera));
            let what = format!(
                "{server_id} is told to record {} under epoch {}, at position {} that is {expected:?}",
                camera.camera_id, camera.epoch, record.folded
            );
            return Err((Invariant::SetFollowsState, what));
        }
        if set.parts == 1 && set.cameras.len() != wanted.len() {
            let what = format!("{server_id} is told {} of {} cameras", set.cameras.len(), wanted.len());
            return Err((Invariant::SetFollowsState, what));
        }
        Ok(())
    }
}

/// What a server is to record: both servers of a move do, but of a camera that serves one client neither does; and a lost
/// server does what nobody else has room for.
pub(in crate::simulation) fn recorded_by(state: &State, server_id: ServerId) -> BTreeMap<Key, Version> {
    let mut wanted = BTreeMap::new();
    for (tenant_id, camera_id, camera) in state.cameras() {
        for (_, copy) in camera.copies() {
            if camera.settings.single_session && copy.successor().is_some() {
                continue;
            }
            let mut here = copy.assignment().into_iter().chain(copy.successor()).chain(copy.left_with());
            if let Some(here) = here.find(|assignment| assignment.server_id == server_id) {
                let version = Version { epoch: here.epoch, settings_version: camera.source_version };
                wanted.insert(Key { tenant_id, camera_id }, version);
            }
        }
    }
    wanted
}
