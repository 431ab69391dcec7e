//! What events have to do with the cameras' tasks.

use longwatch_events::position::Epoch;

use super::{Recorders, State, wish};
use crate::plan::Key;

impl Recorders {
    /// Under which assignment a camera is to be recorded here; `None`: it is not.
    pub(in super::super) fn epoch_of(&self, key: &Key) -> Option<Epoch> {
        let order = self.cameras.get(key)?.order.as_ref()?;
        Some(order.version.epoch)
    }

    /// Events want more of these cameras: says so to those that are recorded around events.
    pub(in super::super) fn note_events(&self, keys: &[Key]) {
        for key in keys {
            let Some(camera) = self.cameras.get(key) else { continue };
            let recording = camera.order.as_ref().and_then(|order| order.recording.as_ref());
            if let State::Running(running) = &camera.state
                && recording.is_some_and(|recording| recording.event.is_some())
            {
                running.wish.send_replace(wish(*key, recording, &self.means.triggers));
            }
        }
    }
}
