//! What an operator relies on, as examples.

use std::collections::BTreeSet;

use longwatch_control::decide::command::Refusal;
use longwatch_control::decide::placement::{self, explain};
use longwatch_control::decide::{scaling, what_if};
use longwatch_events::event::Decision;
use longwatch_events::id::CopyKey;
use longwatch_events::policy::Mode;
use longwatch_events::reason::{AbandonReason, AssignReason, FinishReason, UnplacedReason};
use longwatch_events::settings::{Labels, Priority, ZONE};

use crate::world::{World, holds, ordinary, ranked};

#[test]
fn with_room_for_half_the_high_ones_are_taken_over_and_the_never_ones_stay() {
    let mut world = World::new();
    let a = world.add_server(holds(8));
    let priorities = [Priority::Low, Priority::High, Priority::Never, Priority::Medium];
    let keys: Vec<_> =
        priorities.iter().flat_map(|priority| world.add_cameras(2, &ranked(*priority))).collect();
    world.plan();
    let b = world.add_server(holds(3));
    world.lose(a);
    world.plan();
    let (low, high, never, medium) = (&keys[..2], &keys[2..4], &keys[4..6], &keys[6..]);
    assert_eq!(world.all_on(high), [Some(b), Some(b)]);
    assert_eq!(world.all_on(medium), [Some(b), None]);
    assert_eq!(world.all_on(low), [None, None]);
    assert_eq!(world.all_on(never), [Some(a), Some(a)], "they wait for their server");
    assert_eq!(world.why_nowhere(low[0]), Some(UnplacedReason::NoCapacity));
    // As soon as there is room they have a place.
    let c = world.add_server(holds(8));
    world.plan();
    assert_eq!(world.all_on(low), [Some(c), Some(c)]);
}

#[test]
fn cameras_go_home_once_their_server_has_been_back_for_long_enough() {
    let mut world = World::new();
    let (a, b) = (world.add_server(holds(4)), world.add_server(holds(4)));
    let keys = world.add_cameras(2, &ordinary());
    world.plan();
    let its = *keys.iter().find(|key| world.on(**key) == Some(a)).expect("they are spread");
    world.lose(a);
    world.plan();
    assert_eq!((world.on(its), world.why_there(its)), (Some(b), Some(AssignReason::Failover)));
    world.bring_back(a);
    world.pass(59);
    assert_eq!(world.plan(), []);
    world.pass(1);
    world.plan();
    assert_eq!((world.on(its), world.to(its)), (Some(b), Some((a, AssignReason::Failback))), "both record");
    world.report(its);
    world.plan();
    assert_eq!((world.on(its), world.to(its)), (Some(a), None));
}

#[test]
fn by_hand_cameras_go_home_when_they_are_asked_to() {
    let mut world = World::new();
    let a = world.add_server(holds(4));
    let key = world.add_camera(ordinary());
    world.plan();
    world.set_policy(|policy| policy.failback.mode = Mode::Manual);
    let b = world.add_server(holds(4));
    world.lose(a);
    world.plan();
    world.bring_back(a);
    world.pass(3_600);
    world.plan_to_the_end();
    assert_eq!(world.on(key), Some(b));
    world.ask_for_failback(a);
    world.plan_to_the_end();
    assert_eq!(world.on(key), Some(a));
}

#[test]
fn a_drain_lets_go_when_the_other_has_begun_or_after_a_bounded_wait() {
    let mut world = World::new();
    let a = world.add_server(holds(4));
    let keys = world.add_cameras(2, &ordinary());
    world.plan();
    let b = world.add_server(holds(4));
    world.start_drain(a);
    world.plan();
    assert!(
        keys.iter().all(|key| world.on(*key) == Some(a) && world.to(*key) == Some((b, AssignReason::Drain)))
    );
    world.report(keys[0]);
    world.plan();
    assert_eq!(world.all_on(&keys), [Some(b), Some(a)]);
    world.pass(31);
    let decided = world.plan();
    assert!(
        matches!(decided[..], [(key, Decision::Finish { reason: FinishReason::TimedOut, .. })] if key == keys[1]),
        "that it took too long stands in the log: {decided:?}"
    );
    assert_eq!(world.all_on(&keys), [Some(b), Some(b)]);
    // Called off, they come home.
    world.stop_drain(a);
    world.pass(60);
    world.plan_to_the_end();
    assert_eq!(world.all_on(&keys), [Some(a), Some(a)]);
}

#[test]
fn a_drain_that_is_called_off_leaves_cameras_where_they_are() {
    let mut world = World::new();
    let a = world.add_server(holds(4));
    let key = world.add_camera(ordinary());
    world.plan();
    world.add_server(holds(4).without_failover());
    world.start_drain(a);
    assert_eq!(world.plan(), [], "nobody takes it over");
    let c = world.add_server(holds(4));
    world.plan();
    assert_eq!(world.to(key), Some((c, AssignReason::Drain)));
    world.stop_drain(a);
    let decided = world.plan();
    assert!(
        matches!(decided[0].1, Decision::Abandon { reason: AbandonReason::NotWanted, .. }),
        "{decided:?}"
    );
    assert_eq!((world.on(key), world.to(key)), (Some(a), None));
}

#[test]
fn copies_go_to_different_servers_in_different_zones() {
    let mut world = World::new();
    let (north, north_too) =
        (world.add_server(holds(4).in_zone("north")), world.add_server(holds(9).in_zone("north")));
    let south = world.add_server(holds(4).in_zone("south"));
    let mut settings = ordinary();
    settings.copies = 2;
    settings.labels = Labels::from([(ZONE.into(), "north".into())]);
    let first = world.add_camera(settings);
    let second = CopyKey { copy: 1, ..first };
    world.plan();
    assert!([Some(north), Some(north_too)].contains(&world.on(first)));
    assert_eq!(world.on(second), Some(south));
    // Its zone is lost: better in one zone than not at all.
    world.lose(south);
    world.plan();
    assert!(world.on(second).is_some_and(|on| Some(on) != world.on(first)));
}

#[test]
fn what_a_camera_asks_for_a_server_must_have() {
    let mut world = World::new();
    let a = world.add_server(holds(4).of_bitrate(10));
    let mut settings = ordinary();
    settings.server_labels = Labels::from([("rack".into(), "7".into())]);
    let (picky, wide) = (world.add_camera(settings), {
        let mut settings = ordinary();
        settings.expected_bitrate_bps = Some(11);
        world.add_camera(settings)
    });
    world.plan();
    assert_eq!(world.why_nowhere(picky), Some(UnplacedReason::NoLabels));
    assert_eq!(world.why_nowhere(wide), Some(UnplacedReason::NoBitrate));
    let b = world.add_server(holds(4).labelled("rack", "7"));
    world.measure_disk(b, 1);
    world.plan();
    assert_eq!(world.why_nowhere(picky), Some(UnplacedReason::NoDisk));
    world.measure_disk(b, 50);
    world.plan();
    assert_eq!(world.all_on(&[picky, wide]), [Some(b), Some(b)]);
    // A label that is asked for later moves a camera.
    let moved = world.add_camera(ordinary());
    world.change_server(b, |settings| settings.failover.enabled = true);
    world.plan();
    assert_eq!(world.on(moved), Some(a));
    world.change_camera(moved, |settings| {
        settings.server_labels = Labels::from([("rack".into(), "7".into())])
    });
    world.plan();
    assert_eq!(world.to(moved), Some((b, AssignReason::Labels)));
}

#[test]
fn a_wish_moves_a_camera_and_one_that_makes_no_sense_is_refused() {
    let mut world = World::new();
    let a = world.add_server(holds(4));
    let key = world.add_camera(ordinary());
    assert_eq!(world.ask_for_move(key, a), Err(Refusal::NotPlaced));
    world.plan();
    let b = world.add_server(holds(4).without_failover());
    assert_eq!(
        world.ask_for_move(CopyKey { copy: 1, ..key }, b),
        Err(Refusal::NoCopy { copy: 1, copies: 1 })
    );
    world.ask_for_move(key, b).unwrap();
    world.plan();
    assert_eq!(world.to(key), Some((b, AssignReason::Requested)));
    world.report_all();
    world.plan();
    assert_eq!(world.on(key), Some(b));
    world.change_camera(key, |settings| settings.preferred_server_id = Some(b));
    assert_eq!(world.ask_for_move(key, a), Err(Refusal::PrefersAnother(b)));
}

#[test]
fn a_low_camera_gives_way_to_a_high_one_only_if_policy_says_so() {
    let mut world = World::new();
    world.add_server(holds(1));
    let low = world.add_camera(ranked(Priority::Low));
    world.plan();
    let high = world.add_camera(ranked(Priority::High));
    world.plan();
    assert_eq!(world.why_nowhere(high), Some(UnplacedReason::NoCapacity));
    world.set_policy(|policy| policy.preempt_low = true);
    world.plan();
    assert!(world.on(high).is_some());
    assert_eq!(world.why_nowhere(low), Some(UnplacedReason::Preempted));
}

#[test]
fn what_would_happen_is_told_and_how_many_servers_are_wanted() {
    let mut world = World::new();
    let a = world.add_server(holds(4));
    let keys = world.add_cameras(3, &ordinary());
    let waits = world.add_camera(ranked(Priority::Never));
    world.plan();
    world.add_server(holds(2));
    let outlook = what_if::lose(&world.state, world.now, &BTreeSet::from([a]));
    assert_eq!((outlook.placed.len(), outlook.unplaced.len()), (2, 1));
    assert_eq!(outlook.waiting, [waits]);
    let fleet = scaling::fleet(&world.state);
    assert_eq!((fleet.servers, fleet.unplaced, fleet.headroom, fleet.wanted_servers), (2, 0, 2, 2));

    // Why a camera went where it went is told by drawing the same plan up again.
    world.lose(a);
    let none = BTreeSet::new();
    let explanation = explain(&world.inputs(&none), keys[0]);
    let Some(Decision::Assign { server_id, .. }) = explanation.decision else { panic!("{explanation:?}") };
    let refused: Vec<_> = explanation.candidates.iter().map(|one| (one.server_id, one.refusal)).collect();
    assert_eq!(refused, [(a, Some(placement::Refusal::Lost)), (server_id, None)]);
}
