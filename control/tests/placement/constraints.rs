//! What a server may hold, and what a camera asks of it; and what follows when either changes.

use longwatch_events::event::Decision;
use longwatch_events::id::{CopyKey, ServerId};
use longwatch_events::policy::Mode;
use longwatch_events::reason::{AssignReason, UnplacedReason};
use longwatch_events::settings::{Labels, Priority, RecordingMode, ZONE};

use crate::world::{World, holds, ordinary, ranked};

fn count_on(world: &World, cameras: &[CopyKey], server_id: ServerId) -> usize {
    cameras.iter().filter(|key| world.on(**key) == Some(server_id)).count()
}

#[test]
fn cameras_spread_by_relative_load() {
    let mut world = World::new();
    let servers = [world.add_server(holds(10)), world.add_server(holds(30))];
    let cameras = world.add_cameras(20, &ordinary());
    world.plan();
    assert_eq!(servers.map(|id| count_on(&world, &cameras, id)), [5, 15]);
}

#[test]
fn a_camera_that_fits_nowhere_is_told_why() {
    let mut world = World::new();
    let camera = world.add_camera(ordinary());
    let mut step = |change: &mut dyn FnMut(&mut World), lack| {
        change(&mut world);
        world.plan();
        assert_eq!(world.why_nowhere(camera), lack);
    };
    let mut server = None;
    step(&mut |_| {}, Some(UnplacedReason::NoServer));
    step(
        &mut |world| {
            server = Some(world.add_server(holds(1)));
            world.change_camera(camera, |settings| {
                settings.server_labels.insert("disk".into(), "ssd".into());
            });
        },
        Some(UnplacedReason::NoLabels),
    );
    let server = server.unwrap();
    step(
        &mut |world| {
            world.change_server(server, |settings| {
                settings.labels.insert("disk".into(), "ssd".into());
            });
            world.start_drain(server);
        },
        Some(UnplacedReason::NoServer),
    );
    step(
        &mut |world| {
            world.stop_drain(server);
            world.measure_disk(server, 1);
        },
        Some(UnplacedReason::NoDisk),
    );
    step(
        &mut |world| {
            world.measure_disk(server, 50);
            world.change_server(server, |settings| settings.capacity.max_cameras = 0);
        },
        Some(UnplacedReason::NoCapacity),
    );
    step(
        &mut |world| {
            world.change_camera(camera, |settings| settings.expected_bitrate_bps = Some(9));
            world.change_server(server, |settings| {
                (settings.capacity.max_cameras, settings.capacity.max_bitrate_bps) = (2, Some(8));
            });
        },
        Some(UnplacedReason::NoBitrate),
    );
    step(
        &mut |world| world.change_server(server, |settings| settings.capacity.max_bitrate_bps = Some(9)),
        None,
    );
    step(
        &mut |world| world.change_camera(camera, |settings| settings.recording.mode = RecordingMode::Off),
        Some(UnplacedReason::Disabled),
    );
}

#[test]
fn the_place_of_a_camera_that_is_switched_off_is_given_away_by_the_same_plan() {
    let mut world = World::new();
    let server = world.add_server(holds(1));
    let cameras = world.add_cameras(2, &ordinary());
    world.plan();
    world.change_camera(cameras[0], |settings| settings.recording.mode = RecordingMode::Off);
    let off = Decision::Unplace { reason: UnplacedReason::Disabled };
    let on = Decision::Assign { server_id: server, reason: AssignReason::LeastLoaded };
    assert_eq!(world.plan(), [(cameras[0], off), (cameras[1], on)]);
}

#[test]
fn a_server_whose_capacity_was_lowered_gives_the_least_important_away() {
    let mut world = World::new();
    let small = world.add_server(holds(5));
    let order = [Priority::Low, Priority::High, Priority::Medium, Priority::Never, Priority::Low];
    let cameras = order.map(|priority| world.add_camera(ranked(priority)));
    world.plan();
    let other = world.add_server(holds(2).without_failover());
    world.change_server(small, |settings| settings.capacity.max_cameras = 3);
    world.plan();
    assert_eq!(world.to(cameras[4]), Some((other, AssignReason::OverCapacity)));
    world.plan_to_the_end();
    let (here, there) = (Some(small), Some(other));
    assert_eq!(world.all_on(&cameras), [there, here, here, here, there]);

    // What finds no room stays: a camera that is recorded is worth more than a figure.
    world.change_server(small, |settings| settings.capacity.max_cameras = 1);
    assert_eq!(world.plan(), []);
}

#[test]
fn a_server_that_takes_too_much_bitrate_gives_away_what_has_some() {
    let mut world = World::new();
    let small = world.add_server(holds(5).of_bitrate(10));
    let mut settings = ordinary();
    settings.expected_bitrate_bps = Some(5);
    let heavy = world.add_cameras(2, &settings);
    let light = world.add_cameras(3, &ordinary());
    world.plan();
    let other = world.add_server(holds(5));
    world.set_policy(|policy| policy.rebalance.mode = Mode::Manual);
    world.change_server(small, |settings| settings.capacity.max_bitrate_bps = Some(5));
    world.plan_to_the_end();
    assert_eq!(world.all_on(&heavy), [Some(small), Some(other)]);
    assert_eq!(count_on(&world, &light, small), 3, "to move these would not help");
}

#[test]
fn a_guest_of_a_server_that_holds_too_much_goes_home_if_it_can() {
    let mut world = World::new();
    let home = world.add_server(holds(2));
    let camera = world.add_camera(ordinary());
    world.plan();
    let host = world.add_server(holds(2));
    world.lose(home);
    world.plan();
    world.bring_back(home);
    world.set_policy(|policy| policy.failback.mode = Mode::Manual);
    world.change_server(host, |settings| settings.capacity.max_cameras = 0);
    world.plan_to_the_end();
    assert_eq!((world.on(camera), world.copy(camera).home()), (Some(home), None));
}

#[test]
fn a_camera_leaves_a_server_that_lacks_a_label_it_asks_for_now() {
    let mut world = World::new();
    let plain = world.add_server(holds(5));
    let cameras = world.add_cameras(2, &ordinary());
    world.plan();
    let ssd = world.add_server(holds(1).labelled("disk", "ssd"));
    for key in &cameras {
        world.change_camera(*key, |settings| {
            settings.server_labels.insert("disk".into(), "ssd".into());
        });
    }
    world.plan();
    assert_eq!(world.to(cameras[0]), Some((ssd, AssignReason::Labels)));
    world.plan_to_the_end();
    assert_eq!(world.all_on(&cameras), [Some(ssd), Some(plain)], "better there than nowhere");

    // Or one whose labels were taken away.
    world.change_server(ssd, |settings| settings.labels = Labels::default());
    world.change_server(plain, |settings| {
        settings.labels.insert("disk".into(), "ssd".into());
    });
    world.plan_to_the_end();
    assert_eq!(world.all_on(&cameras), [Some(plain); 2]);
}

#[test]
fn a_move_for_a_label_that_is_not_asked_for_any_more_is_given_up() {
    let mut world = World::new();
    let plain = world.add_server(holds(5));
    let camera = world.add_camera(ordinary());
    world.plan();
    world.add_server(holds(1).labelled("disk", "ssd"));
    world.change_camera(camera, |settings| {
        settings.server_labels.insert("disk".into(), "ssd".into());
    });
    world.plan();
    assert!(world.to(camera).is_some());
    world.change_camera(camera, |settings| settings.server_labels = Labels::default());
    world.plan();
    assert_eq!((world.on(camera), world.to(camera)), (Some(plain), None));
}

#[test]
fn a_server_with_little_space_is_given_nothing_and_keeps_what_it_has() {
    let mut world = World::new();
    let full = world.add_server(holds(5));
    let camera = world.add_camera(ordinary());
    world.plan();
    let other = world.add_server(holds(1));
    world.measure_disk(full, 1);
    let cameras = world.add_cameras(2, &ordinary());
    world.plan();
    assert_eq!(world.all_on(&cameras), [Some(other), None]);
    assert_eq!(world.on(camera), Some(full));
    world.measure_disk(full, 4);
    world.plan();
    assert_eq!(world.on(cameras[1]), Some(full));
}

#[test]
fn of_two_equally_full_servers_the_one_with_more_space_is_taken() {
    let mut world = World::new();
    let servers = [world.add_server(holds(5)), world.add_server(holds(5))];
    world.measure_disk(servers[0], 20);
    world.measure_disk(servers[1], 60);
    let camera = world.add_camera(ordinary());
    world.plan();
    assert_eq!(world.on(camera), Some(servers[1]));
}

#[test]
fn copies_are_in_different_zones_and_when_one_is_lost_together_rather_than_nowhere() {
    // Given two zones of two servers each, the first of them fuller.
    let mut world = World::new();
    let north = [(); 2].map(|()| world.add_server(holds(4).in_zone("north")));
    let south = [(); 2].map(|()| world.add_server(holds(20).in_zone("south")));
    let mut settings = ordinary();
    settings.copies = 2;
    let first = world.add_camera(settings);
    let second = CopyKey { copy: 1, ..first };
    world.plan();
    let zone_of = |world: &World, key| {
        let on = world.on(key).unwrap();
        if north.contains(&on) { "north" } else { "south" }
    };
    assert_ne!(zone_of(&world, first), zone_of(&world, second));

    // When a whole zone is lost.
    north.iter().for_each(|id| world.lose(*id));
    world.plan();

    // Then both copies are in the other, on different servers; and the one goes home when that is back.
    let mut on = world.all_on(&[first, second]);
    on.sort();
    assert_eq!(on, south.map(Some));
    north.iter().for_each(|id| world.bring_back(*id));
    world.pass(60);
    world.plan_to_the_end();
    assert_ne!(zone_of(&world, first), zone_of(&world, second));

    // And with one server left it has one copy, and the other is told why not.
    north.iter().for_each(|id| world.lose(*id));
    world.lose(south[0]);
    world.plan();
    assert_eq!(world.all_on(&[first, second]).iter().flatten().count(), 1);
    let lacks: Vec<_> = [first, second].iter().filter_map(|key| world.why_nowhere(*key)).collect();
    assert_eq!(lacks, [UnplacedReason::NoOtherServer]);
}

#[test]
fn a_camera_is_in_the_zone_that_it_carries_if_that_has_room_and_is_not_moved_out_of_it_for_load() {
    let mut world = World::new();
    let north = world.add_server(holds(4).in_zone("north"));
    let south = world.add_server(holds(40).in_zone("south"));
    let mut settings = ordinary();
    settings.labels.insert(ZONE.into(), "north".into());
    let cameras = world.add_cameras(5, &settings);
    world.plan();
    assert_eq!((count_on(&world, &cameras, north), count_on(&world, &cameras, south)), (4, 1));
    world.pass(10_000);
    assert_eq!(world.plan(), []);
}

#[test]
fn load_is_not_evened_out_by_bringing_copies_into_one_zone() {
    let mut world = World::new();
    let north = world.add_server(holds(2).in_zone("north"));
    let south = [(); 2].map(|()| world.add_server(holds(20).in_zone("south")));
    let mut settings = ordinary();
    settings.copies = 2;
    let cameras = world.add_cameras(2, &settings);
    world.plan();
    let seconds: Vec<_> = cameras.iter().map(|key| CopyKey { copy: 1, ..*key }).collect();
    let on_north = count_on(&world, &cameras, north) + count_on(&world, &seconds, north);
    assert_eq!(on_north, 2, "one copy of each, though {south:?} are emptier");
    world.pass(10_000);
    assert_eq!(world.plan(), []);
}
