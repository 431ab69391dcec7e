//! Servers that are let go and come back, and what is set for the whole system.

use longwatch_events::event::{
    DetachedCameras, Event, PolicyChanged, ServerDrainStarted, ServerLost, VersionRequired,
};
use longwatch_events::fold::{self, Outcome};
use longwatch_events::policy::{Liveness, Mode, Policy};
use longwatch_events::position::Position;
use longwatch_events::reason::AssignReason;
use longwatch_events::sealed::PublicKey;
use longwatch_events::settings::CameraSettings;
use longwatch_events::state::{Membership, Placement, State};

use crate::given::*;

#[test]
fn a_server_that_is_let_go_with_its_cameras_takes_them_along() {
    let (mut state, _) = folded(&recorded_on(FIRST));
    apply(&mut state, &detached(FIRST, DetachedCameras::Remove));
    assert!(state.camera(TENANT, CAMERA).is_none());
    assert!(state.index().roster(FIRST).is_empty());
}

#[test]
fn a_camera_that_another_server_has_a_copy_of_stays() {
    for gone in [FIRST, SECOND] {
        // Given a camera of two copies, each on a server.
        let (mut state, _) = folded(&fleet_with(CameraSettings { copies: 2, ..camera_settings() }));
        let both = [FIRST, SECOND].map(|server| assigned(server, AssignReason::LeastLoaded));
        apply(&mut state, &plan_of(&[(0, both[0]), (1, both[1])]));
        // When one of them is let go with its cameras.
        apply(&mut state, &detached(gone, DetachedCameras::Remove));
        // Then that copy is to be placed anew, and the other one is where it was.
        for (number, server) in [(0, FIRST), (1, SECOND)] {
            let now = copy(&state, number).assignment().map(|assignment| assignment.server_id);
            assert_eq!(now, (server != gone).then_some(server));
        }
    }
}

#[test]
fn a_guest_stays_when_the_server_that_took_it_over_is_let_go_with_its_cameras() {
    let (mut state, _) = folded(&recorded_on(FIRST));
    planned(&mut state, assigned(SECOND, AssignReason::Failover));
    apply(&mut state, &detached(SECOND, DetachedCameras::Remove));
    assert_eq!((copy(&state, 0).placement, copy(&state, 0).home()), (Placement::Unplanned, Some(FIRST)));
}

#[test]
fn a_server_that_is_let_go_is_neither_lost_nor_drained_any_more() {
    let (mut state, _) = folded(&recorded_on(FIRST));
    let (heard_at, judged_at) = (at(Position(1)), at(Position(4_000)));
    let lost = ServerLost { server_id: FIRST, last_heartbeat: None, heard_at, judged_at, lease_ms: 3_000 };
    apply(&mut state, &Event::ServerLost(lost.clone()));
    apply(&mut state, &Event::ServerDrainStarted(ServerDrainStarted { server_id: FIRST }));
    apply(&mut state, &detached(FIRST, DetachedCameras::Keep));
    // What was judged or wanted before does not come back by an event that was on its way.
    assert_eq!(apply(&mut state, &Event::ServerLost(lost)), Outcome::Stale(1));
    let server = state.server(FIRST).expect("it stays");
    assert_eq!((server.lost, server.draining_since, server.version), (None, None, state.position));
    assert!(!server.is_assignable());
}

/// The fleet, whose first server was let go and whose worker has joined again.
fn seen_again() -> State {
    let (mut state, _) = folded(&recorded_on(FIRST));
    apply(&mut state, &detached(FIRST, DetachedCameras::Keep));
    assert_eq!(membership(&state, FIRST), Membership::Detached { seen_again: false });
    assert_eq!(apply(&mut state, &server_joined(FIRST, "first", 1)), Outcome::Applied);
    state
}

#[test]
fn a_detached_worker_that_joins_again_is_seen_and_not_back() {
    let mut state = seen_again();
    assert_eq!(membership(&state, FIRST), Membership::Detached { seen_again: true });
    assert_eq!(state.server_by_key(&PublicKey([1; 32])).map(|(id, _)| id), Some(FIRST));
    assert_eq!((state.servers().count(), state.fleet()), (3, 2));
    assert_eq!(apply(&mut state, &assign(FIRST)), Outcome::Stale(1));
}

#[test]
fn a_detached_worker_does_not_join_under_another_id() {
    let mut state = seen_again();
    let other = longwatch_events::id::ServerId::from_uuid(uuid::Uuid::from_u128(9));
    assert_eq!(apply(&mut state, &server_joined(other, "first", 1)), Outcome::Stale(1));
    assert!(state.server(other).is_none());
}

#[test]
fn a_detached_server_can_be_adopted_again() {
    let mut state = seen_again();
    assert_eq!(apply(&mut state, &adopted(FIRST)), Outcome::Applied);
    let server = state.server(FIRST).expect("it stays");
    assert!(server.is_assignable());
    assert_eq!(server.present_since, at(state.position));
    planned(&mut state, assigned(FIRST, AssignReason::LeastLoaded));
}

#[test]
fn a_detached_server_whose_name_is_taken_stays_out_until_it_has_another() {
    // Given a new server under the name of the one that was let go.
    let mut state = seen_again();
    let new = longwatch_events::id::ServerId::from_uuid(uuid::Uuid::from_u128(9));
    assert_eq!(apply(&mut state, &server_joined(new, "first", 9)), Outcome::Applied);
    // When the old one is adopted again, then it is stale, and stands in its subject all the same.
    assert_eq!(apply(&mut state, &adopted(FIRST)), Outcome::Stale(1));
    assert_eq!(membership(&state, FIRST), Membership::Detached { seen_again: true });
    assert_eq!(state.server(FIRST).expect("it stays").version, state.position);
    assert_eq!(state.server_by_name("first").map(|(id, _)| id), Some(new));
    // When the new one is let go, then the name is free.
    apply(&mut state, &detached(new, DetachedCameras::Keep));
    assert_eq!(apply(&mut state, &adopted(FIRST)), Outcome::Applied);
}

#[test]
fn a_log_that_requires_a_newer_fold_halts_with_what_to_do() {
    let (mut state, _) = folded(&[tenant_created()]);
    let required = |fold_version| Event::VersionRequired(VersionRequired { fold_version });
    assert_eq!(apply(&mut state, &required(fold::VERSION)), Outcome::Applied);
    assert_eq!(state.barrier_version, Position(2));

    let before = state.clone();
    let newer = required(fold::VERSION + 1);
    let halt = fold::apply(&mut state, Position(3), at(Position(3)), &newer).expect_err("too old");
    let words = halt.to_string();
    for part in ["position 3", &format!("fold version {}", fold::VERSION + 1), "start a newer version"] {
        assert!(words.contains(part), "`{part}` is missing in `{words}`");
    }
    assert_eq!(state, before);
}

#[test]
fn a_log_without_a_policy_is_governed_by_the_default() {
    let (mut state, _) = folded(&[tenant_created()]);
    assert_eq!((state.policy, state.policy_version), (Policy::default(), Position::START));
    let Policy { liveness, failback, rebalance, moves, .. } = state.policy;
    assert_eq!((liveness.heartbeat_interval_ms, liveness.lease_ms), (1_000, 3_000));
    assert_eq!((failback.mode, rebalance.mode, moves.at_once), (Mode::Automatic, Mode::Automatic, 100));

    let liveness = Liveness { lease_ms: 9_000, ..Liveness::default() };
    let policy = Policy { liveness, preempt_low: true, ..Policy::default() };
    apply(&mut state, &Event::PolicyChanged(PolicyChanged { policy }));
    assert_eq!((state.policy, state.policy_version), (policy, Position(2)));
}
