//! Planned moves: how they begin and end, and how many there are.

use longwatch_events::event::Decision;
use longwatch_events::id::{CopyKey, ServerId};
use longwatch_events::policy::Mode;
use longwatch_events::reason::{AbandonReason, AssignReason, FinishReason};
use longwatch_events::settings::Priority;

use crate::world::{World, holds, ordinary, ranked};

/// Two servers, and a camera that is moved from the first to the second because the first is being drained.
fn draining() -> (World, ServerId, ServerId, CopyKey) {
    let mut world = World::new();
    let old = world.add_server(holds(5));
    let camera = world.add_camera(ordinary());
    world.plan();
    let new = world.add_server(holds(5));
    world.start_drain(old);
    world.plan();
    assert_eq!((world.on(camera), world.to(camera)), (Some(old), Some((new, AssignReason::Drain))));
    (world, old, new, camera)
}

type Ending = Result<FinishReason, AbandonReason>;
/// What happens to the old and the new server of a move.
type Happen = fn(&mut World, ServerId, ServerId);

fn endings(decisions: &[(CopyKey, Decision)]) -> Vec<Ending> {
    let ending = |(_, decision): &(CopyKey, Decision)| match decision {
        Decision::Finish { reason, .. } => Some(Ok(*reason)),
        Decision::Abandon { reason, .. } => Some(Err(*reason)),
        Decision::Assign { .. } | Decision::Unplace { .. } | Decision::Move { .. } => None,
    };
    decisions.iter().filter_map(ending).collect()
}

#[test]
fn a_move_ends_with_the_first_durable_keyframe_and_not_before() {
    let (mut world, _, new, camera) = draining();
    world.pass(30);
    assert_eq!(world.plan(), [], "it is still in time");
    world.report(camera);
    let decisions = world.plan();
    let [(_, Decision::Finish { reason: FinishReason::FirstKeyframe, evidence, epoch })] = decisions[..]
    else {
        panic!("{decisions:?}")
    };
    assert_eq!(evidence, Some(world.evidence[&(camera, epoch)].position));
    assert_eq!(world.on(camera), Some(new));
}

#[test]
fn how_a_move_ends_follows_from_what_happens_to_its_servers() {
    let happens: [(&str, Happen, Ending); 5] = [
        ("the new one is lost", |world, _, new| world.lose(new), Err(AbandonReason::NewLost)),
        ("the old one is lost", |world, old, _| world.lose(old), Ok(FinishReason::OldLost)),
        ("the drain is called off", |world, old, _| world.stop_drain(old), Err(AbandonReason::NotWanted)),
        ("the new one is drained", |world, _, new| world.start_drain(new), Err(AbandonReason::NotWanted)),
        ("it takes too long", |world, _, _| world.pass(31), Ok(FinishReason::TimedOut)),
    ];
    for (what, happen, ending) in happens {
        let (mut world, old, new, camera) = draining();
        happen(&mut world, old, new);
        assert_eq!(endings(&world.plan()), [ending], "{what}");
        let on = if ending.is_ok() { new } else { old };
        assert_eq!((world.on(camera), world.to(camera)), (Some(on), None), "{what}");
    }
}

#[test]
fn a_drained_server_is_empty_in_the_end_but_for_those_who_never_leave_and_gets_them_back() {
    // Given a full server.
    let mut world = World::new();
    world.set_policy(|policy| policy.moves.at_once = 2);
    let old = world.add_server(holds(5));
    let mut cameras = world.add_cameras(4, &ordinary());
    let never = world.add_camera(ranked(Priority::Never));
    cameras.push(world.add_camera(ranked(Priority::High)));
    world.change_server(old, |settings| settings.capacity.max_cameras = 6);
    world.plan();
    let new = world.add_server(holds(6));

    // When it is drained, two at a time, the most important first.
    world.start_drain(old);
    world.plan();
    assert!(world.to(cameras[4]).is_some());
    assert_eq!(world.state.index().moving().len(), 2);
    world.plan_to_the_end();

    // Then all but one are on the other, and come back when the drain is called off.
    assert_eq!(world.all_on(&cameras), [Some(new); 5]);
    assert_eq!(world.on(never), Some(old));
    world.stop_drain(old);
    world.pass(60);
    world.plan_to_the_end();
    assert_eq!(world.all_on(&cameras), [Some(old); 5]);
}

#[test]
fn a_drained_server_keeps_what_nobody_has_room_for() {
    let mut world = World::new();
    let old = world.add_server(holds(5));
    let cameras = world.add_cameras(2, &ordinary());
    world.plan();
    world.add_server(holds(5).without_failover());
    world.start_drain(old);
    assert_eq!(world.plan(), [], "nobody takes them over");
    let new = world.add_server(holds(1));
    world.plan_to_the_end();
    assert_eq!(world.all_on(&cameras), [Some(new), Some(old)]);
}

#[test]
fn a_move_that_may_be_given_up_is_and_is_tried_again_later() {
    let mut world = World::new();
    let old = world.add_server(holds(5));
    let camera = world.add_camera(ordinary());
    world.plan();
    let new = world.add_server(holds(5));
    world.change_camera(camera, |settings| settings.preferred_server_id = Some(new));
    world.plan();
    assert_eq!(world.to(camera), Some((new, AssignReason::Preferred)));
    world.pass(31);
    assert_eq!(endings(&world.plan()), [Err(AbandonReason::TimedOut)]);
    assert_eq!((world.on(camera), world.to(camera)), (Some(old), None));
    world.pass(599);
    assert_eq!(world.plan(), []);
    world.pass(1);
    world.plan();
    assert_eq!(world.to(camera), Some((new, AssignReason::Preferred)));
}

#[test]
fn a_move_to_what_is_not_preferred_any_more_is_given_up() {
    let mut world = World::new();
    world.add_server(holds(5));
    let camera = world.add_camera(ordinary());
    world.plan();
    let new = world.add_server(holds(5));
    world.change_camera(camera, |settings| settings.preferred_server_id = Some(new));
    world.plan();
    world.change_camera(camera, |settings| settings.preferred_server_id = None);
    assert_eq!(endings(&world.plan()), [Err(AbandonReason::NotWanted)]);
}

#[test]
fn a_camera_of_one_session_waits_until_the_old_server_has_stopped() {
    let mut world = World::new();
    let old = world.add_server(holds(5));
    let mut settings = ordinary();
    settings.single_session = true;
    let camera = world.add_camera(settings);
    world.plan();
    let new = world.add_server(holds(5));
    world.ask_for_move(camera, new).unwrap();
    world.plan();
    assert_eq!(world.camera(camera).recorders().count(), 0);
    assert_eq!(world.on(camera), Some(old));
    world.report(camera);
    assert_eq!(endings(&world.plan()), [Ok(FinishReason::Stopped)]);
    assert_eq!(world.on(camera), Some(new));

    // And if nobody tells that it has: it was told to, so the new one begins all the same.
    world.ask_for_move(camera, old).unwrap();
    world.plan();
    world.pass(31);
    assert_eq!(endings(&world.plan()), [Ok(FinishReason::TimedOut)]);
    assert_eq!(world.on(camera), Some(old));
}

#[test]
fn the_room_that_a_move_leaves_is_given_away_by_the_plan_that_ends_it() {
    let mut world = World::new();
    let old = world.add_server(holds(1));
    let camera = world.add_camera(ordinary());
    world.plan();
    let new = world.add_server(holds(1));
    world.ask_for_move(camera, new).unwrap();
    world.plan();
    let waiting = world.add_camera(ordinary());
    world.plan();
    assert_eq!(world.on(waiting), None, "places are taken on both");
    world.report(camera);
    let entries = world.draw_up();
    world.carry_out(entries);
    assert_eq!(world.all_on(&[camera, waiting]), [Some(new), Some(old)]);
}

#[test]
fn load_is_evened_out_once_a_server_has_been_there_for_long_enough_and_no_further_than_needed() {
    let mut world = World::new();
    let full = world.add_server(holds(10));
    let cameras = world.add_cameras(10, &ordinary());
    world.plan();
    let new = world.add_server(holds(10));
    world.pass(29);
    assert_eq!(world.plan(), []);
    world.pass(1);
    world.plan_to_the_end();
    let on =
        |world: &World, server_id| cameras.iter().filter(|key| world.on(**key) == Some(server_id)).count();
    assert_eq!((on(&world, full), on(&world, new)), (6, 4), "they differ by 20 percent, which policy bears");
    world.pass(100_000);
    assert_eq!(world.plan(), []);
}

#[test]
fn what_is_somewhere_for_a_reason_is_not_moved_to_even_out_load() {
    let changes: [fn(&mut World, ServerId, CopyKey); 4] = [
        |world, here, key| world.change_camera(key, |settings| settings.preferred_server_id = Some(here)),
        |world, _, key| world.change_camera(key, |settings| settings.single_session = true),
        |world, _, key| world.change_camera(key, |settings| settings.failover_priority = Priority::Never),
        |world, _, _| world.set_policy(|policy| policy.rebalance.mode = Mode::Manual),
    ];
    for change in changes {
        let mut world = World::new();
        let full = world.add_server(holds(4));
        let cameras = world.add_cameras(4, &ordinary());
        cameras.iter().for_each(|key| change(&mut world, full, *key));
        world.plan();
        world.add_server(holds(4));
        world.pass(10_000);
        assert_eq!(world.plan(), []);
    }
}

#[test]
fn a_server_that_cannot_have_the_one_camera_is_given_another() {
    // Given cameras of which only one may leave, and not to the emptiest server.
    let mut world = World::new();
    world.add_server(holds(4).labelled("disk", "ssd"));
    let mut settings = ordinary();
    settings.server_labels.insert("disk".into(), "ssd".into());
    let cameras = world.add_cameras(4, &settings);
    world.plan();
    let emptiest = world.add_server(holds(8));
    let ssd = world.add_server(holds(8).labelled("disk", "ssd"));
    let filler = world.add_camera(ordinary());
    world.change_camera(filler, |settings| settings.preferred_server_id = Some(ssd));
    world.plan();
    assert_eq!(world.on(filler), Some(ssd));
    // When load is evened out.
    world.pass(30);
    world.plan_to_the_end();
    // Then the server that is not quite the emptiest is given some.
    assert!(cameras.iter().any(|key| world.on(*key) == Some(ssd)));
    assert!(cameras.iter().all(|key| world.on(*key) != Some(emptiest)));
}
