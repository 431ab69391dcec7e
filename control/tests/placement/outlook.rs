//! What is told about placement: what a loss would mean, how many servers are wanted, and why a camera is where it is.

use std::collections::{BTreeMap, BTreeSet};

use longwatch_control::decide::placement::{Candidate, Refusal, explain};
use longwatch_control::decide::scaling::{Fleet, fleet};
use longwatch_control::decide::what_if;
use longwatch_events::event::Decision;
use longwatch_events::id::CopyKey;
use longwatch_events::policy::Mode;
use longwatch_events::reason::{AssignReason, UnplacedReason};
use longwatch_events::settings::Priority;
use proptest::prelude::*;

use crate::properties::same_every_time;
use crate::steps::history;
use crate::world::{World, holds, ordinary, ranked};

#[test]
fn a_loss_is_foretold_with_what_it_would_leave_unrecorded() {
    // Given a server whose cameras another has room for in part.
    let mut world = World::new();
    world.set_policy(|policy| policy.preempt_low = true);
    let lost = world.add_server(holds(5));
    let order = [Priority::High, Priority::High, Priority::Medium, Priority::Never];
    let cameras = order.map(|priority| {
        let mut settings = ranked(priority);
        settings.expected_bitrate_bps = Some(7);
        world.add_camera(settings)
    });
    world.plan();
    let other = world.add_server(holds(2));
    let mut settings = ranked(Priority::Low);
    settings.expected_bitrate_bps = Some(1);
    let low = world.add_camera(settings);
    world.plan();
    let before = world.state.clone();

    // When it is asked what its loss would mean.
    let outlook = what_if::lose(&world.state, world.now, &BTreeSet::from([lost]));

    // Then it is told of everybody, those that give way included; and nothing was changed.
    assert_eq!(outlook.placed, [0, 1].map(|at| (cameras[at], other, AssignReason::Failover)));
    let unplaced = [
        (cameras[2], Priority::Medium, UnplacedReason::NoCapacity),
        (low, Priority::Low, UnplacedReason::Preempted),
    ];
    assert_eq!(outlook.unplaced, unplaced);
    assert_eq!(outlook.waiting, [cameras[3]]);
    assert_eq!(outlook.missing_bitrate_bps, 7 + 1 + 7);
    let missing = BTreeMap::from([(Priority::Medium, 1), (Priority::Low, 1), (Priority::Never, 1)]);
    assert_eq!(outlook.missing(), missing);
    assert_eq!(world.state, before);
}

#[test]
fn the_fleet_is_counted_as_a_scaler_needs_it() {
    let mut world = World::new();
    let [first, second] = [(); 2].map(|()| world.add_server(holds(10)));
    let cameras = world.add_cameras(20, &ordinary());
    let waiting = world.add_cameras(4, &ordinary());
    let counted = |world: &World| fleet(&world.state);
    // Before anybody planned they are demand already.
    assert_eq!(counted(&world).unplaced, 24);
    world.plan();
    // 24 cameras in four fifths of servers of ten: three servers.
    let full = Fleet { unplaced: 4, servers: 2, wanted_servers: 3, headroom: 0, capacity: 20 };
    assert_eq!(counted(&world), full);

    // A move counts once, though it takes two places.
    let third = world.add_server(holds(10));
    world.ask_for_move(cameras[0], third).unwrap();
    world.plan();
    let moving = Fleet { unplaced: 0, servers: 3, wanted_servers: 3, headroom: 5, capacity: 30 };
    assert_eq!(counted(&world), moving);
    assert_eq!(waiting.len(), 4);

    // Who is drained or lost holds nothing that counts; what it held does.
    world.start_drain(second);
    assert_eq!((counted(&world).servers, counted(&world).wanted_servers), (2, 3));
    world.lose(first);
    assert_eq!((counted(&world).servers, counted(&world).capacity), (1, 10));
    assert_eq!(counted(&world).wanted_servers, 3);
}

#[test]
fn bitrate_counts_where_every_server_is_bound_by_it() {
    let mut world = World::new();
    let bound = world.add_server(holds(100).of_bitrate(10));
    let mut settings = ordinary();
    settings.expected_bitrate_bps = Some(4);
    world.add_cameras(4, &settings);
    world.plan();
    let Fleet { unplaced, wanted_servers, .. } = fleet(&world.state);
    assert_eq!((unplaced, wanted_servers), (2, 2), "16 in four fifths of 10 each");
    world.change_server(bound, |settings| settings.capacity.max_bitrate_bps = None);
    assert_eq!(fleet(&world.state).wanted_servers, 1);
}

#[test]
fn a_decision_is_explained_by_what_spoke_for_and_against_every_server() {
    let mut world = World::new();
    let plain = world.add_server(holds(5));
    let [full, fuller, emptier] =
        [1, 5, 10].map(|count| world.add_server(holds(count).labelled("disk", "ssd")));
    world.set_policy(|policy| policy.rebalance.mode = Mode::Manual);
    for server_id in [full, fuller, emptier] {
        let mut settings = ordinary();
        settings.preferred_server_id = Some(server_id);
        world.add_camera(settings);
    }
    world.plan();
    let mut settings = ordinary();
    settings.server_labels.insert("disk".into(), "ssd".into());
    let camera = world.add_camera(settings);

    let nobody = BTreeSet::new();
    let explanation = explain(&world.inputs(&nobody), camera);
    let decision = Decision::Assign { server_id: emptier, reason: AssignReason::LeastLoaded };
    assert_eq!(explanation.decision, Some(decision));
    let told: Vec<_> = explanation
        .candidates
        .iter()
        .map(|candidate| (candidate.server_id, candidate.refusal, candidate.relative_load))
        .collect();
    let expected = [
        (plain, Some(Refusal::Labels), Some(0)),
        (full, Some(Refusal::Cameras), Some(1_000_000)),
        (fuller, None, Some(200_000)),
        (emptier, None, Some(100_000)),
    ];
    assert_eq!(told, expected);

    world.plan();
    let settled = explain(&world.inputs(&nobody), camera);
    assert_eq!((settled.decision, settled.candidates.len()), (None, 0), "nobody looks for a server for it");
}

/// Whether the server was chosen by its zone and its load.
fn is_by_rank(reason: AssignReason) -> bool {
    match reason {
        AssignReason::LeastLoaded
        | AssignReason::Failover
        | AssignReason::Drain
        | AssignReason::OverCapacity
        | AssignReason::Labels => true,
        AssignReason::Preferred
        | AssignReason::Home
        | AssignReason::Failback
        | AssignReason::Rebalance
        | AssignReason::Requested => false,
    }
}

fn is_explained(world: &World, key: CopyKey, decision: Decision) {
    let nobody = BTreeSet::new();
    let explanation = explain(&world.inputs(&nobody), key);
    assert_eq!(explanation.decision, Some(decision));
    match decision {
        Decision::Assign { server_id, reason } | Decision::Move { server_id, reason } => {
            let candidates = &explanation.candidates;
            let chosen = candidates.iter().find(|candidate| candidate.server_id == server_id).unwrap();
            let is_free = matches!(reason, AssignReason::Requested | AssignReason::Preferred);
            // Who is wished there, or prefers to be, is not taken over.
            let may_have = chosen.refusal.is_none()
                || (is_free && matches!(chosen.refusal, Some(Refusal::FailoverOff | Refusal::TakeoverLimit)));
            assert!(may_have, "{decision:?}, although {chosen:?}");
            let preferred = world.camera(key).settings.preferred_server_id;
            if is_by_rank(reason) && preferred != Some(server_id) && !world.state.policy.preempt_low {
                let rank = |candidate: &Candidate| {
                    (candidate.shares_zone, candidate.other_zone, candidate.relative_load)
                };
                let best = candidates.iter().filter(|candidate| candidate.refusal.is_none()).map(rank).min();
                assert_eq!(Some(rank(chosen)), best, "{decision:?}");
            }
        }
        Decision::Unplace { reason: UnplacedReason::Disabled | UnplacedReason::Preempted }
        | Decision::Finish { .. }
        | Decision::Abandon { .. } => {}
        Decision::Unplace { .. } => {
            assert_eq!(explanation.candidates.len(), world.state.servers().count());
            assert!(explanation.candidates.iter().all(|candidate| candidate.refusal.is_some()));
        }
    }
}

proptest! {
    #![proptest_config(same_every_time())]

    #[test]
    fn every_decision_is_explained(steps in history(40)) {
        let mut world = World::with_two_tenants();
        for step in &steps {
            world.step(step);
            let entries = world.draw_up();
            for entry in &entries {
                is_explained(&world, entry.key(), entry.decision);
            }
            world.carry_out(entries);
        }
    }
}
