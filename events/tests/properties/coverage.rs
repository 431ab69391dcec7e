//! That the histories show what the properties are about: a property of planned moves says nothing if none of the
//! histories has one.

use std::collections::BTreeMap;

use longwatch_events::event::{
    CameraChanged, CameraDeleted, CameraMoveRequested, Decision, DetachedCameras, Event, ServerDetached,
};
use longwatch_events::fold::Outcome;
use longwatch_events::id::CopyKey;
use longwatch_events::state::{Assignment, CameraCopy, Membership, Server, State};
use longwatch_events::subject::{self, LogStream};
use longwatch_events::wire::Kind;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

use crate::arbitrary::event_of;
use crate::history::{Stored, history};

/// What is to be seen in some history, beside every kind of event.
const SIGNS: &[&str] = &[
    "a move was begun",
    "a move was finished",
    "a move was given up",
    "a move was finished or given up by a stale epoch",
    "a move was begun of a copy on the move",
    "a second copy was placed",
    "a copy was taken from its home",
    "a copy on the move was assigned anew",
    "a copy on the move lost its number",
    "the old server of a move was let go",
    "the new server of a move was let go",
    "the home of a copy was let go",
    "a camera went with its server",
    "a camera stayed though its server went",
    "a command came too late for a camera",
    "a detached worker was seen again",
    "a detached server was adopted again",
    "a detached server's name was taken",
    "a wish to move was fulfilled",
];

fn signs(stored: &Stored, outcome: Outcome, before: &State, after: &State) -> Vec<&'static str> {
    let mut signs = signs_of_places(before, after);
    let is_applied = outcome == Outcome::Applied;
    if let Event::PlanMade(plan) = &stored.event {
        for entry in &plan.entries {
            signs.extend(signs_of_entry(entry.key(), &entry.decision, before, after));
        }
    }
    if let Event::ServerDetached(e) = &stored.event
        && is_applied
    {
        signs.extend(signs_of_detach(e, before, after));
    }
    if let Event::ServerJoined(e) = &stored.event {
        let seen = Membership::Detached { seen_again: true };
        let is_seen = after.server(e.server_id).is_some_and(|server| server.membership == seen);
        signs.extend(is_seen.then_some("a detached worker was seen again"));
    }
    if let Event::ServerAdopted(e) = &stored.event
        && before.server(e.server_id).is_some_and(Server::is_detached)
    {
        let taken = "a detached server's name was taken";
        signs.push(if is_applied { "a detached server was adopted again" } else { taken });
    }
    if let Event::CameraChanged(CameraChanged { tenant_id, camera_id, .. })
    | Event::CameraDeleted(CameraDeleted { tenant_id, camera_id })
    | Event::CameraMoveRequested(CameraMoveRequested { tenant_id, camera_id, .. }) = &stored.event
    {
        let is_gone = before.camera(*tenant_id, *camera_id).is_none();
        signs.extend(is_gone.then_some("a command came too late for a camera"));
    }
    signs
}

fn signs_of_places(before: &State, after: &State) -> Vec<&'static str> {
    let mut signs = Vec::new();
    for (tenant_id, camera_id, camera) in before.cameras() {
        let Some(camera_now) = after.camera(tenant_id, camera_id) else { continue };
        for (copy, placed) in camera.copies() {
            let now = camera_now.copy(copy);
            if placed.successor().is_some() && now.is_none() {
                signs.push("a copy on the move lost its number");
            }
            let server = now.and_then(CameraCopy::assignment).map(|assignment| assignment.server_id);
            if placed.requested().is_some() && placed.requested() == server {
                signs.push("a wish to move was fulfilled");
            }
        }
    }
    signs
}

fn signs_of_entry(key: CopyKey, decision: &Decision, before: &State, after: &State) -> Vec<&'static str> {
    let (Some((_, old)), Some((_, new))) = (before.copy(key), after.copy(key)) else { return Vec::new() };
    let (was_moving, is_moving) = (old.successor().is_some(), new.successor().is_some());
    let mut signs = Vec::new();
    match decision {
        Decision::Assign { .. } if new.placement != old.placement => {
            signs.extend((key.copy > 0).then_some("a second copy was placed"));
            signs.extend(was_moving.then_some("a copy on the move was assigned anew"));
        }
        Decision::Move { .. } if was_moving => signs.push("a move was begun of a copy on the move"),
        Decision::Move { .. } if is_moving => signs.push("a move was begun"),
        Decision::Finish { .. } | Decision::Abandon { .. } if was_moving && is_moving => {
            signs.push("a move was finished or given up by a stale epoch");
        }
        Decision::Finish { .. } if was_moving => signs.push("a move was finished"),
        Decision::Abandon { .. } if was_moving => signs.push("a move was given up"),
        Decision::Assign { .. }
        | Decision::Unplace { .. }
        | Decision::Move { .. }
        | Decision::Finish { .. }
        | Decision::Abandon { .. } => {}
    }
    signs.extend((new.home().is_some() && old.home().is_none()).then_some("a copy was taken from its home"));
    signs
}

fn signs_of_detach(e: &ServerDetached, before: &State, after: &State) -> Vec<&'static str> {
    let is_it = |assignment: Option<&Assignment>| assignment.is_some_and(|a| a.server_id == e.server_id);
    let mut signs = Vec::new();
    for (tenant, id, camera) in before.cameras() {
        let stays = after.camera(tenant, id).is_some();
        for (_, copy) in camera.copies() {
            let old_goes = is_it(copy.assignment()) && copy.successor().is_some() && stays;
            signs.extend(old_goes.then_some("the old server of a move was let go"));
            signs.extend(is_it(copy.successor()).then_some("the new server of a move was let go"));
            signs.extend((copy.home() == Some(e.server_id)).then_some("the home of a copy was let go"));
            if is_it(copy.assignment()) && e.cameras == DetachedCameras::Remove {
                let goes = "a camera went with its server";
                signs.push(if stays { "a camera stayed though its server went" } else { goes });
            }
        }
    }
    signs
}

#[test]
fn the_histories_show_what_the_properties_are_about() {
    let mut runner = TestRunner::deterministic();
    let histories = history(80);
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for _ in 0..300 {
        let history = histories.new_tree(&mut runner).expect("a history").current();
        for (stored, outcome, before, after) in history.steps() {
            *seen.entry(Kind::of(&stored.event).as_str()).or_default() += 1;
            signs(stored, outcome, before, after)
                .into_iter()
                .for_each(|sign| *seen.entry(sign).or_default() += 1);
        }
    }
    let is_in_log = |kind: &Kind, runner: &mut TestRunner| {
        let event = event_of(*kind).new_tree(runner).expect("an event").current();
        subject::of(&event).0 == LogStream::Log
    };
    let kinds = Kind::ALL.iter().filter(|kind| is_in_log(kind, &mut runner)).map(|kind| kind.as_str());
    let missing: Vec<_> =
        kinds.chain(SIGNS.iter().copied()).filter(|sign| !seen.contains_key(sign)).collect();
    assert!(missing.is_empty(), "never seen: {missing:?}\nseen: {seen:#?}");
}
