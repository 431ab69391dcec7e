//! Somebody wants a camera on another server, by a wish or by a preference; and when that is refused.

use longwatch_control::decide::command::Refusal;
use longwatch_events::event::Decision;
use longwatch_events::id::{CopyKey, ServerId};
use longwatch_events::reason::{AbandonReason, AssignReason};
use uuid::Uuid;

use crate::world::{World, holds, ordinary};

/// Two servers, and a camera on the first.
fn two_servers() -> (World, ServerId, ServerId, CopyKey) {
    let mut world = World::new();
    let here = world.add_server(holds(5));
    let camera = world.add_camera(ordinary());
    world.plan();
    let there = world.add_server(holds(5).without_failover());
    (world, here, there, camera)
}

#[test]
fn a_camera_goes_where_somebody_wants_it_and_stays() {
    let (mut world, here, there, camera) = two_servers();
    world.ask_for_move(camera, there).unwrap();
    world.plan();
    assert_eq!((world.on(camera), world.to(camera)), (Some(here), Some((there, AssignReason::Requested))));
    world.report(camera);
    world.plan();
    assert_eq!((world.on(camera), world.copy(camera).requested()), (Some(there), None));
    world.pass(100_000);
    assert_eq!(world.plan(), []);
}

#[test]
fn a_wish_waits_for_room_and_is_taken_back_by_wishing_the_camera_where_it_is() {
    let (mut world, here, there, camera) = two_servers();
    world.change_server(there, |settings| settings.capacity.max_cameras = 0);
    world.ask_for_move(camera, there).unwrap();
    assert_eq!(world.plan(), []);
    world.change_server(there, |settings| settings.capacity.max_cameras = 1);
    world.plan();
    assert_eq!(world.to(camera), Some((there, AssignReason::Requested)));
    world.ask_for_move(camera, here).unwrap();
    let decisions = world.plan();
    assert!(matches!(decisions[..], [(_, Decision::Abandon { reason: AbandonReason::NotWanted, .. })]));
    assert_eq!(world.on(camera), Some(here));
}

#[test]
fn a_wish_that_was_tried_in_vain_is_not_tried_for_ever() {
    let (mut world, here, there, camera) = two_servers();
    world.ask_for_move(camera, there).unwrap();
    world.plan();
    world.pass(31);
    world.plan();
    world.pass(100_000);
    assert_eq!(world.plan(), []);
    assert_eq!((world.on(camera), world.copy(camera).requested()), (Some(here), None));
}

#[test]
fn a_camera_that_loses_its_server_goes_where_somebody_wanted_it() {
    let (mut world, here, there, camera) = two_servers();
    world.add_server(holds(5));
    world.change_server(there, |settings| settings.capacity.max_cameras = 0);
    world.ask_for_move(camera, there).unwrap();
    world.plan();
    world.change_server(there, |settings| settings.capacity.max_cameras = 1);
    world.lose(here);
    let decision = Decision::Assign { server_id: there, reason: AssignReason::Requested };
    assert_eq!(world.plan(), [(camera, decision)]);
}

#[test]
fn what_would_come_to_nothing_is_refused() {
    let (mut world, here, there, camera) = two_servers();
    let nobody = ServerId::from_uuid(Uuid::from_u128(99));
    let is_unknown = |refusal| matches!(refusal, Err(Refusal::NotFound { what: "server", .. }));
    assert!(is_unknown(world.ask_for_move(camera, nobody)));
    let no_copy = world.ask_for_move(CopyKey { copy: 1, ..camera }, there);
    assert_eq!(no_copy, Err(Refusal::NoCopy { copy: 1, copies: 1 }));

    world.change_camera(camera, |settings| settings.preferred_server_id = Some(here));
    assert_eq!(world.ask_for_move(camera, there), Err(Refusal::PrefersAnother(here)));
    world.change_camera(camera, |settings| settings.copies = 2);
    world.plan();
    assert_eq!(world.on(CopyKey { copy: 1, ..camera }), Some(there));
    assert_eq!(world.ask_for_move(camera, there), Err(Refusal::HasAnotherCopy(there)));
    let third = world.add_server(holds(5));
    let second_copy = CopyKey { copy: 1, ..camera };
    assert_eq!(world.ask_for_move(second_copy, third), Ok(()), "the preference is met by the other copy");

    let waiting = world.add_camera(ordinary());
    assert_eq!(world.ask_for_move(waiting, there), Err(Refusal::NotPlaced));
}

#[test]
fn a_camera_goes_to_the_server_that_it_prefers_now_wherever_it_was_moved_before() {
    let (mut world, here, there, camera) = two_servers();
    world.ask_for_move(camera, there).unwrap();
    world.plan_to_the_end();
    assert_eq!(world.why_there(camera), Some(AssignReason::Requested));
    world.change_camera(camera, |settings| settings.preferred_server_id = Some(here));
    world.plan_to_the_end();
    assert_eq!((world.on(camera), world.why_there(camera)), (Some(here), Some(AssignReason::Preferred)));
}

#[test]
fn a_wish_that_a_preference_overtook_ends_where_the_camera_is_preferred() {
    let (mut world, here, there, camera) = two_servers();
    world.change_camera(camera, |settings| settings.preferred_server_id = Some(here));
    world.ask_for_move_in_a_race(camera, there);
    world.plan_to_the_end();
    assert_eq!(world.on(camera), Some(here));
    world.pass(100_000);
    assert_eq!(world.plan(), []);
}

#[test]
fn one_copy_of_several_is_where_the_camera_prefers_to_be() {
    let (mut world, _, there, camera) = two_servers();
    world.add_server(holds(5));
    world.change_camera(camera, |settings| {
        (settings.copies, settings.preferred_server_id) = (2, Some(there));
    });
    world.plan_to_the_end();
    let on = world.all_on(&[camera, CopyKey { copy: 1, ..camera }]);
    assert_eq!(on.iter().filter(|on| **on == Some(there)).count(), 1);
    world.pass(100_000);
    assert_eq!(world.plan(), []);
}
