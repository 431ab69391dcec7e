//! What servers say of segments after they were stored: that they deleted them, and what they found when they looked.

use longwatch_events::archive::{Place, StockedSegment};
use longwatch_events::event::{CameraDeleted, Event};
use longwatch_events::fact::{Damage, DeletionReason, Fact, SegmentStored, SegmentUploaded};
use longwatch_events::hash::Sha256;
use longwatch_events::id::{CameraId, StoreId, TenantId};
use longwatch_events::position::Epoch;
use longwatch_events::settings::Retention;

use super::super::rows::{InStore, Location, Observations};
use super::super::{Range, ReadModel};
use super::world::{
    World, at, camera_settings, checked, deleted, everything, of_another, stored, uploaded, uploaded_to,
};

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

const STORE: StoreId = StoreId::from_uuid(uuid::Uuid::from_u128(1));
const OTHER_STORE: StoreId = StoreId::from_uuid(uuid::Uuid::from_u128(2));

/// What a camera has in a store, by when each begins.
async fn starts(model: &dyn ReadModel, of: InStore, (tenant, camera): (TenantId, CameraId)) -> Vec<i64> {
    let from = Place { tenant_id: tenant, camera_id: camera, start: at(0) };
    let found = model.stored_in(of, from, 100).await.unwrap();
    found.items.iter().map(|segment| segment.start.as_millis() / 1_000).collect()
}

pub(super) async fn another_server_tells_only_of_what_lies_in_the_store_it_names(model: &dyn ReadModel) {
    let mut world = World::new(model);
    let (tenant, camera, server, epoch) = everything(&mut world).await;
    let keeper = world.server("keeper").await;
    let stored = |start, end| stored(tenant, camera, epoch, start, end);
    let all = (0..6).map(|n| stored(100 + 10 * n, 110 + 10 * n));
    world.reported(server, all.collect()).await;
    let there = |start| uploaded(tenant, camera, epoch, start);
    let uploads = vec![
        uploaded_to(STORE, there(100)),
        uploaded_to(STORE, there(110)),
        uploaded_to(OTHER_STORE, there(120)),
        there(130),
        uploaded_to(STORE, there(150)),
    ];
    world.reported(server, uploads).await;
    let gone = |start| deleted(tenant, camera, epoch, (start, start + 10), DeletionReason::Age);
    let missing = |start| checked(tenant, camera, epoch, (start, start + 10), Some(Damage::Missing));
    let tells = |fact| of_another(server, Some(STORE), fact);

    // What lies in another store, in one that is not known, or on the server, nobody else takes from the timeline; nor who
    // does not say where it lies, or says it of himself.
    let untrue = vec![
        tells(gone(120)),
        tells(gone(130)),
        tells(gone(140)),
        tells(missing(120)),
        tells(missing(130)),
        tells(missing(140)),
        of_another(server, None, gone(150)),
        of_another(server, None, missing(150)),
        gone(150),
        missing(150),
    ];
    let before = model.counts(Observations::default()).await.unwrap().rejected_facts;
    world.reported(keeper, untrue).await;
    let range = Range { from: at(95), to: at(1_000) };
    let rows = model.timeline(tenant, camera, range).await.unwrap();
    let left: Vec<_> = rows.segments.iter().filter(|row| row.start >= at(100)).collect();
    assert_eq!(left.len(), 6);
    assert!(left.iter().all(|row| row.damage.is_none()) && rows.deletions.is_empty(), "{rows:?}");
    let rejected = model.counts(Observations::default()).await.unwrap().rejected_facts;
    assert_eq!(rejected - before, 2, "who names no store contradicts himself");

    // What lies there, it does: deleted video is a gap of whoever recorded it.
    world.reported(keeper, vec![tells(gone(100)), tells(gone(110)), tells(missing(150))]).await;
    let rows = model.timeline(tenant, camera, range).await.unwrap();
    let gaps: Vec<_> = rows.deletions.iter().map(|row| (row.start, row.end, row.server_id)).collect();
    assert_eq!(gaps, [(at(100), at(120), server)]);
    let damages: Vec<_> =
        rows.segments.iter().filter(|row| row.damage.is_some()).map(|row| row.start).collect();
    assert_eq!(damages, [at(150)]);
    // Said once more, and by two, it changes nothing.
    world.reported(keeper, vec![tells(gone(100)), tells(gone(110))]).await;
    world.reported(server, vec![gone(110)]).await;
    assert_eq!(model.timeline(tenant, camera, range).await.unwrap(), rows);
}

pub(super) async fn what_lies_in_a_store_is_listed_camera_by_camera_and_oldest_first(model: &dyn ReadModel) {
    let mut world = World::new(model);
    let (tenant, camera, server, epoch) = everything(&mut world).await;
    let second = world.camera(tenant, camera_settings("Gate 6")).await;
    let other = world.server("south").await;
    let (second_epoch, other_epoch) =
        (world.assign(tenant, second, server).await, world.assign(tenant, second, other).await);
    let there = |of: CameraId, epoch, start| {
        [stored(tenant, of, epoch, start, start + 10), uploaded_to(STORE, uploaded(tenant, of, epoch, start))]
    };
    world.reported(server, (0..5).flat_map(|n| there(camera, epoch, 100 + 10 * n)).collect()).await;
    world.reported(server, there(second, second_epoch, 320).to_vec()).await;
    world.reported(other, there(second, other_epoch, 300).to_vec()).await;
    let unknown = vec![stored(tenant, camera, epoch, 200, 210), uploaded(tenant, camera, epoch, 200)];
    world.reported(server, unknown).await;
    world.reported(server, vec![stored(tenant, camera, epoch, 400, 410)]).await;
    world.reported(server, vec![checked(tenant, camera, epoch, (110, 120), Some(Damage::Missing))]).await;
    world.reported(server, vec![checked(tenant, camera, epoch, (120, 130), Some(Damage::Corrupt))]).await;
    world.reported(server, vec![deleted(tenant, camera, epoch, (130, 140), DeletionReason::Age)]).await;

    let (of, nowhere) = (InStore::Of(STORE), (TenantId::from_uuid(uuid::Uuid::nil()), camera));
    let first = model.next_in_store(of, nowhere).await.unwrap();
    assert_eq!(first, Some((tenant, camera)));
    assert_eq!(model.next_in_store(of, (tenant, camera)).await.unwrap(), Some((tenant, second)));
    assert_eq!(model.next_in_store(of, (tenant, second)).await.unwrap(), None);
    // Neither what is missing nor what is gone; whoever uploaded it.
    assert_eq!(starts(model, of, (tenant, camera)).await, [100, 120, 140]);
    assert_eq!(starts(model, of, (tenant, second)).await, [300, 320]);
    assert_eq!(model.bytes_in(of, (tenant, camera)).await.unwrap(), 3_000);
    assert_eq!(model.bytes_in(InStore::Of(OTHER_STORE), (tenant, camera)).await.unwrap(), 0);
    let from = Place { tenant_id: tenant, camera_id: camera, start: at(101) };
    let part = model.stored_in(of, from, 1).await.unwrap();
    assert_eq!((part.items.len(), part.items[0].start, part.more), (1, at(120), true));

    // Of what lies nobody knows where, each server is told its own.
    let unknown = InStore::UploadedBy(server);
    assert_eq!(model.next_in_store(unknown, nowhere).await.unwrap(), Some((tenant, camera)));
    assert_eq!(starts(model, unknown, (tenant, camera)).await, [200]);
    assert_eq!(model.next_in_store(InStore::UploadedBy(other), nowhere).await.unwrap(), None);
}

pub(super) async fn what_an_object_holds_is_known_if_it_is_not_what_was_stored(model: &dyn ReadModel) {
    let mut world = World::new(model);
    let (tenant, camera, server, epoch) = everything(&mut world).await;
    let rotten = |start| {
        let Fact::SegmentUploaded(fact) = uploaded_to(STORE, uploaded(tenant, camera, epoch, start)) else {
            panic!("it is uploaded")
        };
        Fact::SegmentUploaded(SegmentUploaded { bytes: 900, sha256: Sha256::of(b"rot"), ..fact })
    };
    let stored = |start| stored(tenant, camera, epoch, start, start + 10);
    let whole = uploaded_to(STORE, uploaded(tenant, camera, epoch, 110));
    world.reported(server, vec![stored(100), stored(110), rotten(100), whole]).await;

    let from = Place { tenant_id: tenant, camera_id: camera, start: at(0) };
    let found = model.stored_in(InStore::Of(STORE), from, 10).await.unwrap();
    let key = |start: i64| format!("{tenant}/{camera}/{start}.mp4");
    let expected = [
        StockedSegment {
            key: key(100),
            start: at(100),
            end: at(110),
            bytes: 900,
            sha256: Sha256::of(b"rot"),
            damage: None,
        },
        StockedSegment {
            key: key(110),
            start: at(110),
            end: at(120),
            bytes: 1_000,
            sha256: Sha256::of(&110_i64.to_be_bytes()),
            damage: None,
        },
    ];
    assert_eq!(found.items, expected);
}

pub(super) async fn how_long_a_deleted_camera_is_kept_is_remembered(model: &dyn ReadModel) {
    let mut world = World::new(model);
    let (tenant, ..) = everything(&mut world).await;
    let kept = Retention { max_days: Some(30), max_bytes: None, min_days: Some(7) };
    let mut settings = camera_settings("Gate 7");
    settings.retention = kept;
    let camera = world.camera(tenant, settings).await;
    assert_eq!(model.former_retention(tenant, camera).await.unwrap(), None);
    world.happens(Event::CameraDeleted(CameraDeleted { tenant_id: tenant, camera_id: camera })).await;
    assert_eq!(model.former_retention(tenant, camera).await.unwrap(), Some(kept));
    let other = TenantId::from_uuid(uuid::Uuid::max());
    assert_eq!(model.former_retention(other, camera).await.unwrap(), None);
}
