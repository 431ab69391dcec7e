//! The index, told a second time in the plainest way: [`Index::of`] is made of the same steps as the index that the fold
//! keeps, so that a wrong step would be wrong in both.

use std::collections::{BTreeMap, BTreeSet};

use longwatch_events::id::{CopyKey, ServerId};
use longwatch_events::index::{Index, is_at_will};
use longwatch_events::position::Position;
use longwatch_events::reason::UnplacedReason;
use longwatch_events::settings::RecordingMode;
use longwatch_events::state::{Camera, CameraCopy, Placement, State};
use proptest::prelude::*;

use crate::history::history;

fn copies(state: &State) -> Vec<(CopyKey, &Camera, &CameraCopy)> {
    let mut copies = Vec::new();
    for (tenant_id, camera_id, camera) in state.cameras() {
        for (copy, placed) in camera.copies() {
            copies.push((CopyKey { tenant_id, camera_id, copy }, camera, placed));
        }
    }
    copies
}

fn keys(state: &State, belongs: impl Fn(&Camera, &CameraCopy) -> bool) -> Vec<CopyKey> {
    copies(state).into_iter().filter(|(_, camera, copy)| belongs(camera, copy)).map(|(key, ..)| key).collect()
}

fn now(copy: &CameraCopy) -> Option<ServerId> {
    copy.assignment().map(|assignment| assignment.server_id)
}

fn next(copy: &CameraCopy) -> Option<ServerId> {
    copy.successor().map(|successor| successor.server_id)
}

/// A terabit at most, so that sums do not overflow.
fn bitrate(camera: &Camera) -> u64 {
    camera.settings.expected_bitrate_bps.unwrap_or(0).min(1_099_511_627_776)
}

fn check(state: &State) -> Result<(), TestCaseError> {
    let index = state.index();
    prop_assert_eq!(index, &Index::of(state));
    for (server, _) in state.servers() {
        let roster = index.roster(server);
        let (mut held, mut bitrate_bps, mut leaving, mut at_will) = (Vec::new(), 0, (0, 0), 0);
        for (key, camera, copy) in copies(state) {
            if now(copy) == Some(server) || next(copy) == Some(server) {
                held.push(key);
                bitrate_bps += bitrate(camera);
            }
            if now(copy) == Some(server) && next(copy).is_some() {
                leaving = (leaving.0 + 1, leaving.1 + bitrate(camera));
            }
            at_will += u32::from(now(copy) == Some(server) && is_at_will(camera, copy));
        }
        prop_assert_eq!(roster.copies().collect::<Vec<_>>(), held.clone());
        prop_assert_eq!((roster.len() as usize, roster.is_empty()), (held.len(), held.is_empty()));
        prop_assert_eq!((roster.bitrate_bps(), roster.leaving()), (bitrate_bps, leaving));
        prop_assert_eq!(roster.at_will(), at_will);
        let away: Vec<_> = index.away_from(server).collect();
        prop_assert_eq!(away, keys(state, |_, copy| copy.home() == Some(server)));
    }
    let homes: BTreeSet<_> = copies(state).into_iter().filter_map(|(_, _, copy)| copy.home()).collect();
    prop_assert_eq!(index.homes().collect::<BTreeSet<_>>(), homes);

    let disabled = |copy: &CameraCopy| {
        matches!(copy.placement, Placement::Unplaced { reason: UnplacedReason::Disabled, .. })
    };
    let waiting = keys(state, |camera, copy| {
        if camera.settings.mode == RecordingMode::Off { !disabled(copy) } else { now(copy).is_none() }
    });
    prop_assert_eq!(index.waiting().collect::<Vec<_>>(), waiting);
    prop_assert_eq!(index.moving().collect::<Vec<_>>(), keys(state, |_, copy| next(copy).is_some()));
    prop_assert_eq!(index.requested().collect::<Vec<_>>(), keys(state, |_, copy| copy.requested().is_some()));
    let particular = keys(state, |camera, copy| {
        let preferred = camera.settings.preferred_server_id;
        let asks =
            camera.settings.server_labels().is_some() || (preferred.is_some() && preferred != now(copy));
        now(copy).is_some() && asks
    });
    prop_assert_eq!(index.particular().collect::<Vec<_>>(), particular);
    for (_, server) in state.servers() {
        let name = server.settings.name.as_str();
        let mut of_name =
            state.servers().filter(|(_, other)| other.settings.name == name && !other.is_detached());
        prop_assert_eq!(state.server_by_name(name), of_name.next());
        prop_assert_eq!(of_name.next(), None, "a name is one server's");
        let Some(key) = server.public_key else { continue };
        let mut of_key = state.servers().filter(|(_, other)| other.public_key == Some(key));
        prop_assert_eq!(state.server_by_key(&key), of_key.next());
        prop_assert_eq!(of_key.next(), None, "a key is one server's");
    }
    Ok(())
}

/// For each server, what it is to record, under which epoch and from which source.
fn recorded(state: &State) -> BTreeMap<ServerId, BTreeSet<(CopyKey, u64, u64, bool)>> {
    let mut recorded = BTreeMap::<_, BTreeSet<_>>::new();
    for (key, camera, copy) in copies(state) {
        let holds_back = camera.settings.single_session && copy.successor().is_some();
        for assignment in copy.assignment().into_iter().chain(copy.successor()) {
            let what = (key, assignment.epoch.0, camera.source_version.0, holds_back);
            recorded.entry(assignment.server_id).or_default().insert(what);
        }
    }
    recorded
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_index_always_says_what_the_state_says(history in history(80)) {
        history.states.iter().try_for_each(check)?;
    }

    // Whoever publishes what a server is to record looks at those only that changed since.
    #[test]
    fn a_server_whose_recordings_change_is_noted_as_changed(history in history(80)) {
        for (stored, _, before, after) in history.steps() {
            let (old, new) = (recorded(before), recorded(after));
            for (server, _) in after.servers() {
                let changed = after.index().changed(server);
                prop_assert!(changed >= before.index().changed(server));
                if old.get(&server) != new.get(&server) {
                    prop_assert_eq!(changed, stored.position, "{}", server);
                }
            }
        }
        prop_assert_eq!(State::default().index().changed(ServerId::from_uuid(uuid::Uuid::nil())), Position::START);
    }
}
