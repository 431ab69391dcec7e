//! Who looks after what of a camera lies in an object store: deletes there what is not to be kept any longer.
//!
//! Pure. Goals, in this order:
//! 1. each object has one keeper at a time, also of a camera that is recorded on several servers, and of one whose server is
//!    lost, that is off, or that was deleted;
//! 2. the keeper is a server that is heard of and uploads to that very store, so nobody is asked to delete where it does not
//!    lie;
//! 3. it is the server that records the camera, if there is one: it is told of the camera's retention anyway.
//!
//! A camera's objects in one store have one keeper, whoever uploaded them: `max_bytes` bounds their sum, which two that each
//! see a part could not keep to. Invariant: everybody who is asked about the same servers gives the same answer. Two who
//! know of different heartbeats may name two keepers for a moment; deleting twice is deleting once.

use longwatch_events::id::{CameraId, ServerId};
use longwatch_events::state::{Camera, CameraCopy};

/// The servers that record a camera, the first copy's first.
pub fn recorders(camera: &Camera) -> impl Iterator<Item = ServerId> {
    camera.copies().filter_map(|(_, copy): (u8, &CameraCopy)| copy.assignment()).map(|a| a.server_id)
}

/// The server that looks after what of `camera` lies in a store; `None` if nobody can.
///
/// `recorders`: who records it, as [`recorders`] says; `users`: servers that are heard of and upload to that store, in
/// ascending order.
pub fn keeper(
    camera: CameraId,
    recorders: impl IntoIterator<Item = ServerId>,
    users: &[ServerId],
) -> Option<ServerId> {
    let records_it = recorders.into_iter().find(|server| users.binary_search(server).is_ok());
    records_it.or_else(|| {
        // The end of an id is random: so nobody's cameras all fall to one server.
        let lot = camera.as_uuid().as_u128().checked_rem(users.len() as u128)?;
        users.get(usize::try_from(lot).ok()?).copied()
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use longwatch_events::id::SystemIds;

    use super::*;

    fn servers(number: usize) -> Vec<ServerId> {
        let mut servers: Vec<_> = (0..number).map(|_| ServerId::generate(&SystemIds)).collect();
        servers.sort_unstable();
        servers
    }

    #[test]
    fn who_records_it_looks_after_it_if_it_uploads_there_the_first_copy_first() {
        let (camera, all) = (CameraId::generate(&SystemIds), servers(4));
        // The first one uploads elsewhere, or is not heard of.
        let users = &all[1..];
        assert_eq!(keeper(camera, [all[3], all[2]], users), Some(all[3]));
        assert_eq!(keeper(camera, [all[0], all[2]], users), Some(all[2]));
    }

    #[test]
    fn what_nobody_records_who_could_falls_to_one_of_those_who_can_and_not_all_to_the_same() {
        let all = servers(4);
        let users = &all[1..];
        let mut shares = BTreeMap::new();
        for _ in 0..300 {
            let camera = CameraId::generate(&SystemIds);
            let keeper = keeper(camera, [all[0]], users).unwrap();
            assert_eq!(super::keeper(camera, [], users), Some(keeper), "whoever recorded it");
            *shares.entry(keeper).or_insert(0) += 1;
        }
        assert!(users.iter().all(|server| shares[server] > 50), "{shares:?}");
        assert_eq!(keeper(CameraId::generate(&SystemIds), [all[0]], &[]), None);
        assert_eq!(keeper(CameraId::generate(&SystemIds), [all[0]], &[all[2]]), Some(all[2]));
    }
}
