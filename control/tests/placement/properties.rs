//! Any history, and every plan in it against the oracle; and what becomes of a system that is left alone.

use std::collections::BTreeSet;

use longwatch_control::decide::placement::{self, Scope};
use longwatch_control::decide::what_if;
use longwatch_events::id::{CopyKey, ServerId};
use longwatch_events::state::State;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use crate::oracle::Case;
use crate::rules::nothing_is_left_to_do;
use crate::steps::{Step, history};
use crate::view::View;
use crate::world::World;

/// Plans until nothing is left to change; every plan is checked.
fn plan_checked(world: &mut World) {
    for _ in 0..10 {
        let entries = world.draw_up();
        let before = View::of(&world.state);
        world.carry_out(entries.clone());
        let case = Case::new(world.now, before, View::of(&world.state), &entries);
        case.check();
        if entries.is_empty() {
            return;
        }
        if !case.makes_room() {
            assert_eq!(
                world.draw_up(),
                [],
                "a plan that was carried out leaves nothing to plan: {entries:#?}"
            );
        }
    }
    panic!("planning comes to no end");
}

fn lived_through(steps: &[Step]) -> World {
    let mut world = World::with_two_tenants();
    for step in steps {
        match step {
            Step::Plan => plan_checked(&mut world),
            other => world.step(other),
        }
    }
    world
}

/// Lets time pass, and everything that moves arrive, until nothing happens any more for longer than any rule waits.
fn come_to_rest(world: &mut World) {
    let mut quiet = 0;
    for _ in 0..100 {
        let planned_before = world.state.last_plan;
        arrive(world);
        quiet = if world.state.last_plan == planned_before { quiet + 1 } else { 0 };
        if quiet == 6 {
            return;
        }
        world.pass(130);
    }
    panic!("it comes to no rest: {:#?}", world.draw_up());
}

/// Plans and reports until no move is under way any more.
fn arrive(world: &mut World) {
    for _ in 0..100 {
        plan_checked(world);
        if world.state.index().moving().len() == 0 {
            return;
        }
        world.report_all();
    }
    panic!("cameras are moved for ever");
}

/// The same histories every time: a run that fails fails again. `PROPTEST_CASES` makes them more, `PROPTEST_RNG_SEED`
/// others.
pub(crate) fn same_every_time() -> ProptestConfig {
    let default = ProptestConfig::default();
    let rng_seed = match default.rng_seed {
        RngSeed::Random => RngSeed::Fixed(3),
        RngSeed::Fixed(asked_for) => RngSeed::Fixed(asked_for),
    };
    ProptestConfig { rng_seed, failure_persistence: None, ..default }
}

proptest! {
    #![proptest_config(same_every_time())]

    #[test]
    fn every_plan_keeps_every_rule(steps in history(90)) {
        plan_checked(&mut lived_through(&steps));
    }

    #[test]
    fn what_is_left_alone_comes_to_rest_and_nothing_is_left_to_do(steps in history(60)) {
        let mut world = lived_through(&steps);
        world.set_policy(|policy| policy.moves.at_once = policy.moves.at_once.max(1));
        come_to_rest(&mut world);
        nothing_is_left_to_do(&View::of(&world.state), world.now);
    }

    #[test]
    fn the_same_state_gives_the_same_plan_wherever_it_was_read_from(steps in history(60)) {
        let world = lived_through(&steps);
        let written = serde_json::to_vec(&world.state).unwrap();
        let mut read: State = serde_json::from_slice(&written).unwrap();
        read.reindex();
        prop_assert_eq!(&read, &world.state);
        let nobody = BTreeSet::new();
        let inputs = placement::Inputs { state: &read, ..world.inputs(&nobody) };
        prop_assert_eq!(placement::plan(&inputs).entries, world.draw_up());
        prop_assert_eq!(world.clone().draw_up(), world.draw_up());
    }

    #[test]
    fn what_would_happen_is_what_happens(steps in history(60), which in any::<prop::sample::Index>()) {
        let mut world = lived_through(&steps);
        plan_checked(&mut world);
        let up: Vec<ServerId> =
            world.state.servers().filter(|(_, server)| server.is_assignable()).map(|(id, _)| id).collect();
        if up.is_empty() {
            return Ok(());
        }
        let lost = *which.get(&up);
        let outlook = what_if::lose(&world.state, world.now, &BTreeSet::from([lost]));

        let before = View::of(&world.state);
        let theirs: BTreeSet<CopyKey> =
            before.copies.iter().filter(|(_, copy)| copy.is_wanted && copy.on == Some(lost)).map(|(key, _)| *key).collect();
        world.lose(lost);
        let nobody = BTreeSet::new();
        let inputs = placement::Inputs { scope: Scope::Failover, ..world.inputs(&nobody) };
        let entries = placement::plan(&inputs).entries;
        world.carry_out(entries);
        let after = View::of(&world.state);

        let placed: BTreeSet<_> = outlook.placed.iter().map(|(key, server_id, _)| (*key, *server_id)).collect();
        let really = theirs.iter().filter_map(|key| Some((*key, after.copies[key].on.filter(|on| *on != lost)?)));
        prop_assert_eq!(placed, really.collect::<BTreeSet<_>>());
        let unplaced: BTreeSet<_> = outlook.unplaced.iter().map(|(key, _, reason)| (*key, Some(*reason))).collect();
        let really = before.copies.iter().filter(|(_, copy)| copy.is_wanted && copy.on.is_some_and(|on| before.is_up(on)));
        let really = really.filter(|(key, _)| after.copies[key].on.is_none());
        prop_assert_eq!(unplaced, really.map(|(key, _)| (*key, after.copies[key].unplaced)).collect::<BTreeSet<_>>());
        let waiting: BTreeSet<_> = outlook.waiting.iter().copied().collect();
        let really = theirs.iter().filter(|key| after.copies[key].on == Some(lost)).copied();
        prop_assert_eq!(waiting, really.collect::<BTreeSet<_>>());
    }
}
