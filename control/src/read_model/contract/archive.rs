//! What servers say of segments after they were stored: that they deleted them, and what they found when they looked.

use longwatch_events::archive::Place;
use longwatch_events::fact::{Damage, DeletionReason, Fact, SegmentStored};
use longwatch_events::hash::Sha256;
use longwatch_events::position::Epoch;

use super::super::rows::Location;
use super::super::{Range, ReadModel};
use super::world::{World, at, camera_settings, checked, deleted, everything, stored, uploaded};

pub(super) async fn a_deleted_segment_leaves_when_it_was_and_why_it_went(model: &dyn ReadModel) {
    let mut world = World::new(model);
    let (tenant, camera, server, epoch) = everything(&mut world).await;
    let range = Range { from: at(0), to: at(1_000) };
    let stored = |start, end| stored(tenant, camera, epoch, start, end);
    let gone = |times, reason| deleted(tenant, camera, epoch, times, reason);
    world
        .reported(server, vec![stored(100, 160), stored(160, 220), stored(230, 290), stored(290, 350)])
        .await;
    // Stored and deleted in one batch, too.
    let oldest_first = vec![
        stored(350, 410),
        gone((10, 60), DeletionReason::Age),
        gone((100, 160), DeletionReason::Age),
        gone((160, 220), DeletionReason::Age),
        gone((230, 290), DeletionReason::Age),
        gone((290, 350), DeletionReason::VolumeFull),
        gone((350, 410), DeletionReason::VolumeFull),
        // Nobody ever said that it was stored.
        gone((500, 560), DeletionReason::Age),
    ];
    world.reported(server, oldest_first.clone()).await;

    let rows = model.timeline(tenant, camera, range).await.unwrap();
    assert_eq!(rows.segments, []);
    let left: Vec<_> = rows.deletions.iter().map(|row| (row.start, row.end, row.reason)).collect();
    let age = |from, to| (at(from), at(to), DeletionReason::Age);
    let expected = [
        age(10, 60),
        age(100, 220),
        age(230, 290),
        (at(290), at(410), DeletionReason::VolumeFull),
        age(500, 560),
    ];
    assert_eq!(left, expected);
    assert!(rows.deletions.iter().all(|row| (row.epoch, row.server_id) == (epoch, server)));

    // Said once more, it changes nothing.
    let hash = model.content_hash().await.unwrap();
    world.reported(server, oldest_first[1..].to_vec()).await;
    assert_eq!(model.timeline(tenant, camera, range).await.unwrap(), rows);
    assert_ne!(model.content_hash().await.unwrap(), hash, "the position is another");

    // What is asked of later times begins behind it.
    let later = model.timeline(tenant, camera, Range { from: at(600), to: at(900) }).await.unwrap();
    assert_eq!(later.deletions.iter().map(|row| row.end).collect::<Vec<_>>(), [at(560)]);
    // Nobody else's recording is touched by it.
    let intruder = world.server("intruder").await;
    world.reported(server, vec![stored(700, 760)]).await;
    world.reported(intruder, vec![gone((700, 760), DeletionReason::Age)]).await;
    let untouched = model.timeline(tenant, camera, Range { from: at(690), to: at(900) }).await.unwrap();
    assert_eq!((untouched.segments.len(), untouched.deletions.len()), (1, 1));
}

pub(super) async fn a_segment_that_was_uploaded_lies_in_the_object_store(model: &dyn ReadModel) {
    let mut world = World::new(model);
    let (tenant, camera, server, epoch) = everything(&mut world).await;
    let stored = |start, end| stored(tenant, camera, epoch, start, end);
    let uploaded = |start| uploaded(tenant, camera, epoch, start);
    world.reported(server, vec![stored(100, 160), stored(160, 220)]).await;
    // Of one that was stored in the same batch, of one that was stored before, and of one that nobody ever stored.
    world.reported(server, vec![uploaded(100), stored(220, 280), uploaded(220), uploaded(900)]).await;
    // Said once more, whichever of the two is said last, it changes nothing.
    world.reported(server, vec![uploaded(220), stored(100, 160), stored(220, 280)]).await;
    // Nobody else moves it.
    let intruder = world.server("intruder").await;
    world.reported(intruder, vec![uploaded(160)]).await;

    let range = Range { from: at(100), to: at(1_000) };
    let rows = model.timeline(tenant, camera, range).await.unwrap();
    // With the one before the range.
    let places: Vec<_> = rows.segments.iter().map(|row| (row.start, row.location)).collect();
    let expected = [
        (at(10), Location::Server),
        (at(100), Location::ObjectStore),
        (at(160), Location::Server),
        (at(220), Location::ObjectStore),
    ];
    assert_eq!(places, expected);
    // It is deleted there like anywhere.
    world.reported(server, vec![deleted(tenant, camera, epoch, (100, 160), DeletionReason::Age)]).await;
    let rows = model.timeline(tenant, camera, range).await.unwrap();
    assert_eq!((rows.segments.len(), rows.deletions.len()), (3, 1));
}

pub(super) async fn what_is_wrong_with_a_segment_stands_with_it_until_it_is_right_or_deleted(
    model: &dyn ReadModel,
) {
    let mut world = World::new(model);
    let (tenant, camera, server, epoch) = everything(&mut world).await;
    let range = Range { from: at(90), to: at(1_000) };
    let stored = |start, end| stored(tenant, camera, epoch, start, end);
    let checked = |times, damage| checked(tenant, camera, epoch, times, damage);
    let damages = async |model: &dyn ReadModel| {
        let rows = model.timeline(tenant, camera, range).await.unwrap();
        rows.segments.iter().filter(|row| row.start >= at(100)).map(|row| row.damage).collect::<Vec<_>>()
    };
    // Stored and examined in one batch, too, whatever else is said of it there.
    let found = vec![
        checked((100, 160), Some(Damage::Corrupt)),
        stored(100, 160),
        stored(160, 220),
        checked((160, 220), Some(Damage::Corrupt)),
        checked((160, 220), Some(Damage::Missing)),
        stored(220, 280),
        checked((220, 280), Some(Damage::Unreadable)),
        checked((220, 280), None),
    ];
    world.reported(server, found.clone()).await;
    let expected = [Some(Damage::Corrupt), Some(Damage::Missing), None];
    assert_eq!(damages(model).await, expected);

    // Said once more it is the same, and that it is stored does not make it right.
    world.reported(server, found).await;
    world.reported(server, vec![stored(100, 160), stored(160, 220)]).await;
    assert_eq!(damages(model).await, expected);

    // What another server says, or is said of what is not there, changes nothing.
    let intruder = world.server("intruder").await;
    world.reported(intruder, vec![checked((220, 280), Some(Damage::Missing))]).await;
    world.reported(server, vec![checked((500, 560), Some(Damage::Missing))]).await;
    assert_eq!(damages(model).await, expected);

    // A file that is back is right again, and one that is deleted is gone with all that was said of it.
    world.reported(server, vec![checked((160, 220), None)]).await;
    world.reported(server, vec![deleted(tenant, camera, epoch, (100, 160), DeletionReason::Age)]).await;
    assert_eq!(damages(model).await, [None, None]);
}

pub(super) async fn a_server_reads_what_it_is_known_to_have_part_by_part(model: &dyn ReadModel) {
    let mut world = World::new(model);
    let (tenant, camera, server, epoch) = everything(&mut world).await;
    let second = world.camera(tenant, camera_settings("Gate 6")).await;
    let second_epoch = world.assign(tenant, second, server).await;
    let other = world.server("south").await;
    let other_epoch = world.assign(tenant, second, other).await;
    world.reported(other, vec![stored(tenant, second, other_epoch, 300, 360)]).await;
    // Given to it or not: it says that it has them.
    let never_given = Epoch(900);
    let of_second =
        [stored(tenant, second, never_given, 100, 160), stored(tenant, second, second_epoch, 40, 100)];
    world.reported(server, of_second.to_vec()).await;
    let of_first = (0..5).map(|n| stored(tenant, camera, epoch, 100 + 10 * n, 110 + 10 * n));
    world.reported(server, of_first.collect()).await;
    world.reported(server, vec![checked(tenant, camera, epoch, (120, 130), Some(Damage::Missing))]).await;
    world.reported(server, vec![deleted(tenant, camera, epoch, (110, 120), DeletionReason::Age)]).await;
    // What is uploaded is not on the server any more.
    world
        .reported(server, vec![stored(tenant, camera, epoch, 200, 210), uploaded(tenant, camera, epoch, 200)])
        .await;

    let (mut listed, mut from) = (Vec::new(), Place::FIRST);
    loop {
        let part = model.stored_on(server, from, 3).await.unwrap();
        assert!(part.items.len() <= 3);
        let Some(last) = part.items.last() else { break };
        let (tenant_id, camera_id) = (last.tenant_id, last.camera_id);
        from = Place { tenant_id, camera_id, start: last.start.plus_micros(1) };
        listed.extend(part.items.into_iter().map(|row| (row.camera_id, row.start, row.epoch, row.damage)));
        if !part.more {
            break;
        }
    }

    let of = |camera, start, epoch| (camera, at(start), epoch, None);
    let expected = [
        of(camera, 10, epoch),
        of(camera, 100, epoch),
        (camera, at(120), epoch, Some(Damage::Missing)),
        of(camera, 130, epoch),
        of(camera, 140, epoch),
        of(second, 40, second_epoch),
        of(second, 100, never_given),
    ];
    assert_eq!(listed, expected);
    let of_other = model.stored_on(other, Place::FIRST, 10).await.unwrap();
    assert_eq!(of_other.items.iter().map(|row| row.start).collect::<Vec<_>>(), [at(300)]);
}

pub(super) async fn what_a_segment_held_says_the_first_report_of_it_unless_it_was_cut(model: &dyn ReadModel) {
    let mut world = World::new(model);
    let (tenant, camera, server, epoch) = everything(&mut world).await;
    let first = |start| stored(tenant, camera, epoch, start, start + 60);
    let again = |start, repaired| {
        let Fact::SegmentStored(fact) = first(start) else { panic!("it is stored") };
        let (end, bytes) = (at(start + 50), 7);
        Fact::SegmentStored(SegmentStored { end, bytes, sha256: Sha256::of(b"rot"), repaired, ..fact })
    };
    world.reported(server, vec![first(100), first(200)]).await;
    // In later batches, and in one.
    world.reported(server, vec![again(100, false), again(200, true)]).await;
    let in_one = vec![first(300), again(300, false), again(300, false), first(400), again(400, true)];
    world.reported(server, in_one).await;

    let rows = model.timeline(tenant, camera, Range { from: at(90), to: at(900) }).await.unwrap();
    let (held, rot) = (|start: i64| Sha256::of(&start.to_be_bytes()), Sha256::of(b"rot"));
    let found: Vec<_> = rows.segments.iter().filter(|row| row.start >= at(100)).collect();
    let contents: Vec<_> = found.iter().map(|row| (row.bytes, row.sha256)).collect();
    assert_eq!(contents, [(1_000, held(100)), (7, rot), (1_000, held(300)), (7, rot)]);
    // All else is as it was said last.
    assert_eq!(found.iter().map(|row| row.end).collect::<Vec<_>>(), [150, 250, 350, 450].map(at));
}
