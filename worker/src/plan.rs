//! What has to be done so that this server records exactly what it is to record.
//!
//! Pure. Invariants: doing all actions in order leads to [`target`]; nothing is to be done once it is reached; a camera
//! is never taken back to an older epoch, or, within one epoch, to older settings.

use std::collections::BTreeMap;

use longwatch_events::assignment::AssignedCamera;
use longwatch_events::fact::Cause;
use longwatch_events::id::{CameraId, TenantId};
use longwatch_events::position::{Epoch, Position};

/// A camera, with its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Owner.
    pub tenant_id: TenantId,
    /// The camera.
    pub camera_id: CameraId,
}

/// Which order a camera is recorded by. Ordered: a later order is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Of the assignment.
    pub epoch: Epoch,
    /// Of the camera's settings.
    pub settings_version: Position,
}

/// One thing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Begin to record.
    Start {
        /// Which camera.
        key: Key,
        /// By which order.
        version: Version,
    },
    /// End the recording.
    Stop {
        /// Which camera.
        key: Key,
        /// Why.
        cause: Cause,
    },
    /// End the recording and begin it again, by a newer order.
    Restart {
        /// Which camera.
        key: Key,
        /// By which order from now on.
        version: Version,
        /// Why.
        cause: Cause,
    },
}

impl From<&AssignedCamera> for Key {
    fn from(camera: &AssignedCamera) -> Self {
        Self { tenant_id: camera.tenant_id, camera_id: camera.camera_id }
    }
}

impl From<&AssignedCamera> for Version {
    fn from(camera: &AssignedCamera) -> Self {
        Self { epoch: camera.epoch, settings_version: camera.settings_version }
    }
}

/// What will be recorded once `desired` is applied to `running`: `desired`, except where that would be a step back.
pub fn target(running: &BTreeMap<Key, Version>, desired: &BTreeMap<Key, Version>) -> BTreeMap<Key, Version> {
    let newest = |(key, version): (&Key, &Version)| {
        (*key, running.get(key).map_or(*version, |current| *current.max(version)))
    };
    desired.iter().map(newest).collect()
}

/// The actions that lead from `running` to the target: first what ends (it frees cameras, sockets and disk), then what
/// begins again, then what is new; each by camera.
pub fn diff(running: &BTreeMap<Key, Version>, desired: &BTreeMap<Key, Version>) -> Vec<Action> {
    let target = target(running, desired);
    // A worker is not told why a camera is not its own any more; control, which knows, says so in its own events.
    let cause = Cause::Reassigned;
    let stops =
        running.keys().filter(|key| !target.contains_key(*key)).map(|&key| Action::Stop { key, cause });
    let restarts = target
        .iter()
        .filter(|(key, version)| running.get(*key).is_some_and(|current| current != *version))
        .map(|(&key, &version)| Action::Restart { key, version, cause });
    let starts = target
        .iter()
        .filter(|(key, _)| !running.contains_key(*key))
        .map(|(&key, &version)| Action::Start { key, version });
    stops.chain(restarts).chain(starts).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use longwatch_events::id::{CountingIds, IdSource};
    use proptest::prelude::*;

    fn key(n: usize) -> Key {
        let ids = CountingIds::default();
        let uuid = (0..=n).map(|_| ids.next()).last().unwrap();
        Key { tenant_id: TenantId::DEFAULT, camera_id: CameraId::from_uuid(uuid) }
    }

    fn version(epoch: u64, settings: u64) -> Version {
        Version { epoch: Epoch(epoch), settings_version: Position(settings) }
    }

    fn some() -> impl Strategy<Value = BTreeMap<Key, Version>> {
        let camera = (0..12_usize, 0..4_u64, 0..4_u64);
        proptest::collection::vec(camera, 0..12).prop_map(|cameras| {
            cameras.into_iter().map(|(n, epoch, settings)| (key(n), version(epoch, settings))).collect()
        })
    }

    /// Does what the actions say, and refuses what makes no sense.
    fn apply(mut running: BTreeMap<Key, Version>, actions: &[Action]) -> BTreeMap<Key, Version> {
        for action in actions {
            match *action {
                Action::Start { key, version } => assert_eq!(running.insert(key, version), None),
                Action::Stop { key, .. } => assert!(running.remove(&key).is_some()),
                Action::Restart { key, version, .. } => {
                    assert!(running.insert(key, version).is_some_and(|before| before < version));
                }
            }
        }
        running
    }

    proptest! {
        #[test]
        fn all_actions_together_lead_to_the_target(running in some(), desired in some()) {
            let after = apply(running.clone(), &diff(&running, &desired));
            prop_assert_eq!(&after, &target(&running, &desired));
            prop_assert!(after.keys().eq(desired.keys()));
            prop_assert!(diff(&after, &desired).is_empty());
            for (key, version) in &after {
                prop_assert!(running.get(key).is_none_or(|before| before <= version));
                prop_assert!(desired[key] == *version || Some(version) == running.get(key));
            }
        }

        #[test]
        fn nothing_is_done_when_nothing_changed(set in some()) {
            prop_assert!(diff(&set, &set).is_empty());
        }
    }

    #[test]
    fn ends_come_before_beginnings() {
        let running =
            BTreeMap::from([(key(0), version(1, 1)), (key(1), version(1, 1)), (key(2), version(9, 1))]);
        let desired =
            BTreeMap::from([(key(0), version(2, 1)), (key(2), version(8, 5)), (key(3), version(2, 1))]);
        let cause = Cause::Reassigned;
        assert_eq!(
            diff(&running, &desired),
            [
                Action::Stop { key: key(1), cause },
                Action::Restart { key: key(0), version: version(2, 1), cause },
                Action::Start { key: key(3), version: version(2, 1) },
            ]
        );
    }
}
