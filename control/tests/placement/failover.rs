//! A server is lost, and comes back: who takes over what, in which order, and when it goes home.

use std::collections::BTreeSet;

use longwatch_control::decide::placement;
use longwatch_events::event::Decision;
use longwatch_events::id::{CopyKey, ServerId};
use longwatch_events::policy::Mode;
use longwatch_events::reason::{AssignReason, UnplacedReason};
use longwatch_events::settings::Priority;

use crate::world::{World, holds, ordinary, ranked};

#[test]
fn with_room_for_half_the_higher_ranks_are_taken_over_and_never_means_never() {
    // Given a server with two cameras of each rank.
    let mut world = World::new();
    let lost = world.add_server(holds(8));
    let order = [Priority::Low, Priority::Never, Priority::High, Priority::Medium];
    let cameras: Vec<_> =
        order.iter().chain(&order).map(|priority| world.add_camera(ranked(*priority))).collect();
    world.plan();
    let other = world.add_server(holds(3));

    // When it is lost, and another has room for three.
    world.lose(lost);
    world.plan();

    // Then both high ones and the first medium one are there; the never ones wait where they were.
    let (here, there) = (Some(lost), Some(other));
    let on = world.all_on(&cameras);
    assert_eq!(on, [None, here, there, there, None, here, there, None]);
    assert_eq!(world.why_nowhere(cameras[7]), Some(UnplacedReason::NoCapacity));
    assert_eq!(world.why_there(cameras[2]), Some(AssignReason::Failover));

    // And when it returns, who has no server goes home at once; who was taken over stays for now.
    world.bring_back(lost);
    world.plan();
    assert_eq!(world.all_on(&cameras), [here, here, there, there, here, here, there, here]);
    // It never was elsewhere: its server records it under the same epoch all the time, if it was only cut off.
    assert_eq!(world.why_there(cameras[7]), Some(AssignReason::LeastLoaded));
}

#[test]
fn a_server_takes_over_only_while_it_may() {
    let cases = [
        // (enabled, limit, taken over, why the rest is not)
        (true, 5, 3, None),
        (true, 2, 2, Some(UnplacedReason::NoTakeover)),
        (false, 5, 0, Some(UnplacedReason::NoTakeover)),
    ];
    for (enabled, takeover_limit, taken_over, lack) in cases {
        let mut world = World::new();
        let lost = world.add_server(holds(5));
        let cameras = world.add_cameras(3, &ordinary());
        world.plan();
        let mut spec = holds(5);
        (spec.failover.enabled, spec.failover.takeover_limit) = (enabled, takeover_limit);
        let other = world.add_server(spec);
        world.lose(lost);
        world.plan();
        let there = cameras.iter().filter(|key| world.on(**key) == Some(other)).count();
        assert_eq!((there, world.why_nowhere(cameras[2])), (taken_over, lack));
        // A new camera is nobody's: it may be there all the same.
        let new = world.add_camera(ordinary());
        world.plan();
        assert_eq!(world.on(new), Some(other));
    }
}

/// Two servers, and a camera of the first that the second took over before the first returned.
fn taken_over(single_session: bool, mode: Mode) -> (World, [ServerId; 2], CopyKey) {
    let mut world = World::new();
    world.set_policy(|policy| policy.failback.mode = mode);
    let home = world.add_server(holds(5));
    let mut settings = ordinary();
    settings.single_session = single_session;
    let camera = world.add_camera(settings);
    world.plan();
    let other = world.add_server(holds(5));
    world.lose(home);
    world.plan();
    assert_eq!(world.on(camera), Some(other));
    world.bring_back(home);
    (world, [home, other], camera)
}

#[test]
fn a_camera_goes_home_once_its_server_has_been_back_for_long_enough() {
    let (mut world, [home, other], camera) = taken_over(false, Mode::Automatic);
    world.pass(59);
    assert_eq!(world.plan(), []);
    world.pass(1);
    world.plan();
    assert_eq!((world.on(camera), world.to(camera)), (Some(other), Some((home, AssignReason::Failback))));
    world.report(camera);
    world.plan();
    assert_eq!((world.on(camera), world.to(camera)), (Some(home), None));
    assert_eq!(world.copy(camera).home(), None);
    world.pass(100_000);
    assert_eq!(world.plan(), [], "there it stays");
}

#[test]
fn a_server_that_is_lost_again_meanwhile_starts_to_wait_anew() {
    let (mut world, [home, _], camera) = taken_over(false, Mode::Automatic);
    world.pass(59);
    world.lose(home);
    world.pass(30);
    world.bring_back(home);
    world.pass(59);
    assert_eq!(world.plan(), []);
    world.pass(1);
    world.plan();
    assert_eq!(world.to(camera), Some((home, AssignReason::Failback)));
}

#[test]
fn by_hand_or_of_one_session_a_camera_goes_home_when_somebody_asks_for_it() {
    for (single_session, mode) in [(false, Mode::Manual), (true, Mode::Automatic)] {
        let (mut world, [home, other], camera) = taken_over(single_session, mode);
        world.pass(100_000);
        assert_eq!(world.plan(), []);
        world.ask_for_failback(home);
        world.plan();
        assert_eq!(world.to(camera), Some((home, AssignReason::Failback)));
        let recorders = world.camera(camera).recorders().count();
        assert_eq!(recorders, if single_session { 0 } else { 2 }, "both, or the old one ends first");
        world.report(camera);
        world.plan();
        assert_eq!(world.on(camera), Some(home));
        assert_ne!(world.on(camera), Some(other));
    }
}

#[test]
fn a_failback_that_was_given_up_rests_even_if_it_was_asked_for() {
    // Given a failback that somebody asked for, to a server that cannot reach the camera.
    let (mut world, [home, other], camera) = taken_over(false, Mode::Manual);
    world.ask_for_failback(home);
    world.plan();
    // When it takes too long.
    world.pass(31);
    let decisions = world.plan();
    // Then the camera stays, and is left alone until it is time to try again.
    assert!(matches!(decisions[..], [(key, Decision::Abandon { .. })] if key == camera));
    assert_eq!((world.on(camera), world.to(camera)), (Some(other), None));
    world.pass(599);
    assert_eq!(world.plan(), []);
    world.pass(1);
    world.plan();
    assert_eq!(world.to(camera), Some((home, AssignReason::Failback)));
}

#[test]
fn a_plan_that_is_cut_off_takes_places_before_it_gives_them() {
    // Given more who gave up their places than a plan can say with those who get them.
    let mut world = World::new();
    world.set_policy(|policy| policy.preempt_low = true);
    let lost = world.add_server(holds(4));
    let high = world.add_cameras(4, &ranked(Priority::High));
    world.plan();
    let other = world.add_server(holds(4));
    let low = world.add_cameras(4, &ranked(Priority::Low));
    world.plan();
    world.lose(lost);
    let within = |world: &World, most| placement::plan_within(&world.inputs(&BTreeSet::new()), most);
    assert_eq!(world.draw_up().len(), 8);
    assert_eq!(within(&world, 8), world.draw_up(), "it is not cut off");
    for most in 1..8 {
        let mut world = world.clone();
        // Then nobody has more than it can hold, whatever comes after the cut, and in the end all is as it would have been.
        for _ in 0..8 {
            let entries = within(&world, most);
            assert!(entries.len() <= most.max(4));
            world.carry_out(entries);
            let held = high.iter().chain(&low).filter(|camera| world.on(**camera) == Some(other)).count();
            assert!(held <= 4, "{held} with {most} at once");
        }
        assert!(high.iter().all(|camera| world.on(*camera) == Some(other)));
        assert!(low.iter().all(|camera| world.why_nowhere(*camera).is_some()));
    }
}

#[test]
fn low_gives_way_to_high_only_if_policy_says_so() {
    for preempts in [false, true] {
        let mut world = World::new();
        world.set_policy(|policy| policy.preempt_low = preempts);
        let lost = world.add_server(holds(2));
        let high = world.add_cameras(2, &ranked(Priority::High));
        world.plan();
        let other = world.add_server(holds(2));
        let low = world.add_camera(ranked(Priority::Low));
        let medium = world.add_camera(ranked(Priority::Medium));
        world.plan();
        world.lose(lost);
        world.plan();

        assert_eq!(world.on(medium), Some(other), "medium gives way to nobody");
        assert_eq!(world.on(high[1]), None);
        assert_eq!(world.why_nowhere(high[1]), Some(UnplacedReason::NoCapacity));
        if preempts {
            assert_eq!(world.on(high[0]), Some(other));
            assert_eq!(world.why_nowhere(low), Some(UnplacedReason::Preempted));
            world.bring_back(lost);
            world.plan();
            assert_eq!(world.on(high[1]), Some(lost));
            assert_eq!(world.on(low), Some(lost), "it may be anywhere again");
        } else {
            assert_eq!((world.on(high[0]), world.on(low)), (None, Some(other)));
        }
    }
}

#[test]
fn what_gave_way_goes_elsewhere_if_it_can() {
    // Given a server that only high ones need, and another with room for low ones.
    let mut world = World::new();
    world.set_policy(|policy| policy.preempt_low = true);
    let ssd = world.add_server(holds(1).labelled("disk", "ssd"));
    let low = world.add_camera(ranked(Priority::Low));
    world.plan();
    let other = world.add_server(holds(1));
    // When a high one needs the first.
    let mut settings = ranked(Priority::High);
    settings.server_labels.insert("disk".into(), "ssd".into());
    let high = world.add_camera(settings);
    world.plan();
    // Then both are recorded.
    assert_eq!(world.all_on(&[high, low]), [Some(ssd), Some(other)]);
}

#[test]
fn who_gave_way_at_home_of_another_lets_that_one_go_home() {
    // Given a high camera away from home, whose place there a low one took.
    let mut world = World::new();
    world.set_policy(|policy| policy.preempt_low = true);
    let home = world.add_server(holds(1));
    let high = world.add_camera(ranked(Priority::High));
    world.plan();
    let other = world.add_server(holds(1));
    world.lose(home);
    world.plan();
    world.bring_back(home);
    let low = world.add_camera(ranked(Priority::Low));
    world.plan();
    assert_eq!(world.all_on(&[high, low]), [Some(other), Some(home)]);
    // When the server that took it over is lost.
    world.lose(other);
    world.plan();
    // Then it is at home again, and not as a guest.
    assert_eq!(world.all_on(&[high, low]), [Some(home), None]);
    assert_eq!(world.why_there(high), Some(AssignReason::Home));
    assert_eq!(world.copy(high).home(), None);
}

#[test]
fn a_camera_whose_both_servers_are_lost_is_taken_over_by_a_third_at_once() {
    let mut world = World::new();
    let servers = [(); 3].map(|()| world.add_server(holds(5)));
    let camera = world.add_camera(ordinary());
    world.plan();
    let old = world.on(camera).unwrap();
    let new = *servers.iter().find(|id| **id != old).unwrap();
    let third = *servers.iter().find(|id| **id != old && **id != new).unwrap();
    world.ask_for_move(camera, new).unwrap();
    world.plan();
    assert_eq!(world.to(camera), Some((new, AssignReason::Requested)));
    world.lose(old);
    world.lose(new);
    let decision = Decision::Assign { server_id: third, reason: AssignReason::Failover };
    assert_eq!(world.plan(), [(camera, decision)]);
}
