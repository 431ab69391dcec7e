//! Which volume a camera's next segment goes to.
//!
//! Pure. In this order: a volume that failed is never used; a camera stays where it is while there is room; otherwise
//! volumes are drawn by lot, by how much room each has above what must stay free.

/// A volume, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// It failed.
    pub failed: bool,
    /// Free bytes above those that must stay free.
    pub bytes: u64,
}

/// The place in `rooms` to go to; `None` if all have failed. `current` is where the camera was; `random` is drawn uniformly
/// from 0 to 1, 1 excluded.
pub fn choose(rooms: &[Room], current: Option<usize>, random: f64) -> Option<usize> {
    let bytes = |room: &Room| if room.failed { 0 } else { u128::from(room.bytes) };
    let stays = |at: &usize| rooms.get(*at).is_some_and(|room| bytes(room) > 0);
    if let Some(current) = current.filter(stays) {
        return Some(current);
    }
    let total: u128 = rooms.iter().map(bytes).sum();
    if total == 0 {
        // Wherever it goes, older video has to go first; so it stays, or begins with any.
        let is_sound = |at: &usize| rooms.get(*at).is_some_and(|room| !room.failed);
        return current.filter(is_sound).or_else(|| (0..rooms.len()).find(is_sound));
    }
    let mut drawn = draw(total, random);
    (0..rooms.len()).find(|at| {
        let bytes = bytes(&rooms[*at]);
        let is_it = drawn < bytes;
        drawn = drawn.saturating_sub(bytes);
        is_it
    })
}

/// A number below `total`.
fn draw(total: u128, random: f64) -> u128 {
    const STEPS: u32 = 1 << 30;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is within 0 to STEPS")]
    let step = (random.clamp(0.0, 1.0) * f64::from(STEPS)) as u32;
    (total / u128::from(STEPS) * u128::from(step)
        + total % u128::from(STEPS) * u128::from(step) / u128::from(STEPS))
    .min(total - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rooms(of: &[Option<u64>]) -> Vec<Room> {
        of.iter().map(|bytes| Room { failed: bytes.is_none(), bytes: bytes.unwrap_or(9) }).collect()
    }

    #[test]
    fn a_camera_stays_while_there_is_room() {
        assert_eq!(choose(&rooms(&[Some(1), Some(1_000)]), Some(0), 0.9), Some(0));
        assert_eq!(choose(&rooms(&[Some(0), Some(1_000)]), Some(0), 0.0), Some(1));
        assert_eq!(choose(&rooms(&[None, Some(5)]), Some(0), 0.0), Some(1));
        // Where no volume has any, older video goes, and the camera need not.
        assert_eq!(choose(&rooms(&[Some(0), Some(0)]), Some(1), 0.0), Some(1));
        assert_eq!(choose(&rooms(&[None, Some(0)]), Some(0), 0.0), Some(1));
        assert_eq!(choose(&rooms(&[None, None]), Some(0), 0.0), None);
        assert_eq!(choose(&[], None, 0.0), None);
    }

    #[test]
    fn volumes_are_drawn_by_their_room() {
        let rooms = rooms(&[Some(300), None, Some(100), Some(0)]);
        let drawn = (0..400).map(|n| choose(&rooms, None, f64::from(n) / 400.0).unwrap());
        let mut counts = [0; 4];
        drawn.for_each(|at| counts[at] += 1);
        assert_eq!(counts, [300, 0, 100, 0]);
    }

    proptest! {
        #[test]
        fn what_is_chosen_is_sound_and_has_room_if_any_has(
            of in proptest::collection::vec(proptest::option::of(any::<u64>()), 0..6),
            current in proptest::option::of(0..8_usize),
            random in 0.0..1.0_f64,
        ) {
            let rooms = rooms(&of);
            match choose(&rooms, current, random) {
                None => prop_assert!(rooms.iter().all(|room| room.failed)),
                Some(at) => {
                    prop_assert!(!rooms[at].failed);
                    let any_room = rooms.iter().any(|room| !room.failed && room.bytes > 0);
                    prop_assert!(rooms[at].bytes > 0 || !any_room);
                }
            }
        }
    }
}
