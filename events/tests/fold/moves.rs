//! Planned moves: who has a copy, who is about to, and where it belongs.

use longwatch_events::event::{Decision, DetachedCameras};
use longwatch_events::fold::Outcome;
use longwatch_events::position::Epoch;
use longwatch_events::reason::{AbandonReason, AssignReason, FinishReason, UnplacedReason};
use longwatch_events::settings::CameraSettings;
use longwatch_events::state::{Assignment, Placement, State};

use crate::given::*;

#[test]
fn a_copy_that_was_taken_from_its_server_belongs_there() {
    for reason in [AssignReason::Failover, AssignReason::Drain] {
        // Given a camera on the first server, when another takes it over, then it remembers the first.
        let (mut state, _) = folded(&recorded_on(FIRST));
        planned(&mut state, assigned(SECOND, reason));
        assert_eq!(
            (servers(&state), copy(&state, 0).home()),
            ((Some(SECOND), None), Some(FIRST)),
            "{reason:?}"
        );
        // When a third one takes it over from that, then it still belongs to the first.
        planned(&mut state, assigned(THIRD, reason));
        assert_eq!(copy(&state, 0).home(), Some(FIRST), "{reason:?}");
        assert_eq!(state.index().away_from(FIRST).count(), 1);
    }
}

#[test]
fn a_copy_on_the_move_gets_its_home_when_the_move_is_finished() {
    // Given a drained server's camera.
    let (mut state, _) = folded(&recorded_on(FIRST));
    // When it sets out, then it is where it was.
    let epoch = planned(&mut state, moved(SECOND, AssignReason::Drain));
    assert_eq!((servers(&state), copy(&state, 0).home()), ((Some(FIRST), Some(SECOND)), None));
    // When it has arrived, then it belongs where it came from.
    planned(&mut state, finished(epoch));
    assert_eq!((servers(&state), copy(&state, 0).home()), ((Some(SECOND), None), Some(FIRST)));
}

#[test]
fn a_copy_that_went_home_has_no_home_any_more() {
    let (mut state, _) = folded(&recorded_on(FIRST));
    planned(&mut state, assigned(SECOND, AssignReason::Failover));
    let epoch = planned(&mut state, moved(FIRST, AssignReason::Failback));
    assert_eq!(copy(&state, 0).home(), Some(FIRST), "on the way");
    planned(&mut state, finished(epoch));
    assert_eq!((servers(&state), copy(&state, 0).home()), ((Some(FIRST), None), None));
    assert_eq!(state.index().homes().count(), 0);
}

#[test]
fn evening_the_load_out_does_not_change_where_a_copy_belongs() {
    for reason in [AssignReason::Rebalance, AssignReason::OverCapacity] {
        // Given a camera that was taken over, and one that was not.
        for (taken_over, home) in [(true, Some(FIRST)), (false, None)] {
            let (mut state, _) = folded(&recorded_on(if taken_over { FIRST } else { SECOND }));
            if taken_over {
                planned(&mut state, assigned(SECOND, AssignReason::Failover));
            }
            // When it is moved on, then it belongs where it did.
            let epoch = planned(&mut state, moved(THIRD, reason));
            planned(&mut state, finished(epoch));
            assert_eq!((servers(&state), copy(&state, 0).home()), ((Some(THIRD), None), home), "{reason:?}");
        }
    }
}

#[test]
fn a_copy_is_at_home_whatever_brought_it_there() {
    for reason in
        [AssignReason::Rebalance, AssignReason::OverCapacity, AssignReason::Drain, AssignReason::Failover]
    {
        // Given a camera that was taken over from the first server.
        let (mut state, _) = folded(&recorded_on(FIRST));
        planned(&mut state, assigned(SECOND, AssignReason::Failover));
        // When the first one has it again, but not because it is its home, then it is at home all the same.
        let epoch = planned(&mut state, moved(FIRST, reason));
        planned(&mut state, finished(epoch));
        assert_eq!((servers(&state), copy(&state, 0).home()), ((Some(FIRST), None), None), "{reason:?}");
    }
}

#[test]
fn somebodys_wish_makes_the_new_server_the_home() {
    for reason in [AssignReason::Requested, AssignReason::Preferred, AssignReason::Labels] {
        let (mut state, _) = folded(&recorded_on(FIRST));
        planned(&mut state, assigned(SECOND, AssignReason::Failover));
        let epoch = planned(&mut state, moved(THIRD, reason));
        planned(&mut state, finished(epoch));
        assert_eq!((servers(&state), copy(&state, 0).home()), ((Some(THIRD), None), None), "{reason:?}");
    }
}

#[test]
fn a_finished_move_keeps_the_epoch_of_its_plan_and_counts_from_now_on() {
    let (mut state, _) = folded(&recorded_on(FIRST));
    let epoch = planned(&mut state, moved(SECOND, AssignReason::Rebalance));
    planned(&mut state, finished(epoch));
    let assignment = copy(&state, 0).assignment().expect("assigned");
    assert_eq!((assignment.epoch, assignment.since), (epoch, at(state.position)));
}

#[test]
fn an_end_with_another_epoch_changes_nothing() {
    // Given a move that was given up and begun again.
    let (mut state, _) = folded(&recorded_on(FIRST));
    let old = planned(&mut state, moved(SECOND, AssignReason::Rebalance));
    planned(&mut state, abandoned(old, AbandonReason::TimedOut));
    let epoch = planned(&mut state, moved(SECOND, AssignReason::Rebalance));
    let before = copy(&state, 0).clone();
    // When the report about the first one is heard of now, or an end of a move that never was,
    for wrong in [old, Epoch(epoch.0 + 1)] {
        for end in [finished(wrong), abandoned(wrong, AbandonReason::NewLost)] {
            // then it is stale, and the copy is as it was.
            assert_eq!(apply(&mut state, &plan(end)), Outcome::Stale(1), "{end:?}");
            assert_eq!(copy(&state, 0), &before);
        }
    }
    // When that about the second one comes twice, then the second time is stale.
    planned(&mut state, finished(epoch));
    assert_eq!(apply(&mut state, &plan(finished(epoch))), Outcome::Stale(1));
    assert_eq!(servers(&state), (Some(SECOND), None));
}

#[test]
fn a_move_that_was_given_up_leaves_the_copy_where_it_was_and_says_when() {
    for (reason, says) in
        [(AbandonReason::TimedOut, true), (AbandonReason::NewLost, true), (AbandonReason::NotWanted, false)]
    {
        let (mut state, _) = folded(&recorded_on(FIRST));
        let recorded = *copy(&state, 0).assignment().expect("assigned");
        let epoch = planned(&mut state, moved(SECOND, AssignReason::Rebalance));
        planned(&mut state, abandoned(epoch, reason));
        assert_eq!(copy(&state, 0).placement, Placement::Assigned(recorded), "with the epoch it had");
        assert_eq!(copy(&state, 0).gave_up_at(), says.then(|| at(state.position)), "{reason:?}");
    }
}

#[test]
fn a_copy_sets_out_once_and_not_to_where_it_is() {
    let (mut state, _) = folded(&fleet_with(camera_settings()));
    let rebalance = |server| plan(moved(server, AssignReason::Rebalance));
    assert_eq!(apply(&mut state, &rebalance(SECOND)), Outcome::Stale(1), "it is nowhere");
    planned(&mut state, assigned(FIRST, AssignReason::LeastLoaded));
    assert_eq!(apply(&mut state, &rebalance(FIRST)), Outcome::Stale(1), "it is there");
    planned(&mut state, moved(SECOND, AssignReason::Rebalance));
    assert_eq!(apply(&mut state, &rebalance(THIRD)), Outcome::Stale(1), "it is on the move");
    assert_eq!(servers(&state), (Some(FIRST), Some(SECOND)));
}

#[test]
fn whatever_a_plan_decides_anew_ends_the_move() {
    let unplaced = Decision::Unplace { reason: UnplacedReason::NoCapacity };
    for (decision, now) in [(assigned(THIRD, AssignReason::Failover), Some(THIRD)), (unplaced, None)] {
        let (mut state, _) = folded(&recorded_on(FIRST));
        let epoch = planned(&mut state, moved(SECOND, AssignReason::Drain));
        planned(&mut state, decision);
        assert_eq!((servers(&state), copy(&state, 0).home()), ((now, None), Some(FIRST)));
        assert_eq!(apply(&mut state, &plan(finished(epoch))), Outcome::Stale(1));
        assert!(state.index().roster(SECOND).is_empty(), "its place is free again");
    }
}

#[test]
fn whoever_was_about_to_take_over_from_a_server_that_is_let_go_has_the_copy() {
    // Given a camera on the move because somebody wanted that.
    let (mut state, _) = folded(&recorded_on(FIRST));
    apply(&mut state, &move_requested(0, SECOND));
    let epoch = planned(&mut state, moved(SECOND, AssignReason::Requested));
    // When its old server is let go.
    apply(&mut state, &detached(FIRST, DetachedCameras::Keep));
    // Then the new one has it under its epoch, just as if the move had been finished.
    let copy = copy(&state, 0);
    let assignment = copy.assignment().expect("assigned");
    assert_eq!(
        (assignment.server_id, assignment.epoch, assignment.since),
        (SECOND, epoch, at(state.position))
    );
    assert_eq!((copy.successor(), copy.requested(), copy.home()), (None, None, None));
}

#[test]
fn a_copy_is_at_home_if_its_guest_server_is_let_go_while_it_goes_there() {
    let (mut state, _) = folded(&recorded_on(FIRST));
    planned(&mut state, assigned(SECOND, AssignReason::Failover));
    planned(&mut state, moved(FIRST, AssignReason::Failback));
    apply(&mut state, &detached(SECOND, DetachedCameras::Keep));
    assert_eq!((servers(&state), copy(&state, 0).home()), ((Some(FIRST), None), None));
}

#[test]
fn a_move_to_a_server_that_is_let_go_is_off() {
    for cameras in [DetachedCameras::Keep, DetachedCameras::Remove] {
        let (mut state, _) = folded(&recorded_on(FIRST));
        let epoch = planned(&mut state, moved(SECOND, AssignReason::Rebalance));
        apply(&mut state, &detached(SECOND, cameras));
        assert_eq!(servers(&state), (Some(FIRST), None));
        assert_eq!(apply(&mut state, &plan(finished(epoch))), Outcome::Stale(1));
    }
}

#[test]
fn a_wish_for_a_server_that_is_let_go_is_void() {
    for cameras in [DetachedCameras::Keep, DetachedCameras::Remove] {
        // Given a camera that no server has, and a wish for the second.
        let (mut state, _) = folded(&fleet_with(camera_settings()));
        apply(&mut state, &move_requested(0, SECOND));
        assert_eq!(state.index().requested().count(), 1);
        // When the second server is let go, then the camera stays: it never was that one's.
        apply(&mut state, &detached(SECOND, cameras));
        assert_eq!(copy(&state, 0).requested(), None);
        assert_eq!(state.index().requested().count(), 0);
    }
}

#[test]
fn a_wish_is_fulfilled_or_taken_back() {
    let (mut state, _) = folded(&recorded_on(FIRST));
    apply(&mut state, &move_requested(0, SECOND));
    assert_eq!(copy(&state, 0).requested(), Some(SECOND));
    apply(&mut state, &move_requested(0, FIRST));
    assert_eq!(copy(&state, 0).requested(), None, "it is there");

    apply(&mut state, &move_requested(0, SECOND));
    let epoch = planned(&mut state, moved(SECOND, AssignReason::Requested));
    assert_eq!(copy(&state, 0).requested(), Some(SECOND), "not there yet");
    let end = Decision::Finish { epoch, reason: FinishReason::Stopped, evidence: None };
    planned(&mut state, end);
    assert_eq!((servers(&state), copy(&state, 0).requested()), ((Some(SECOND), None), None));
}

#[test]
fn a_wish_for_a_copy_or_a_server_that_is_not_there_is_stale() {
    let (mut state, _) = folded(&recorded_on(FIRST));
    apply(&mut state, &detached(THIRD, DetachedCameras::Keep));
    for (number, server) in [(1, SECOND), (0, THIRD)] {
        assert_eq!(apply(&mut state, &move_requested(number, server)), Outcome::Stale(1));
        assert_eq!(copy(&state, 0).requested(), None);
        // It stands in the camera's subject: the next command's append is conditional on that.
        assert_eq!(state.camera(TENANT, CAMERA).expect("there").version, state.position);
    }
}

fn two_copies() -> CameraSettings {
    CameraSettings { copies: 2, ..camera_settings() }
}

#[test]
fn a_server_never_gets_a_second_copy_of_a_camera() {
    // Given a camera of two copies: one on the first server, on its way to the second.
    let (mut state, _) = folded(&fleet_with(two_copies()));
    planned(&mut state, assigned(FIRST, AssignReason::LeastLoaded));
    planned(&mut state, moved(SECOND, AssignReason::Rebalance));
    // When the other copy is given to either, then it is stale; a third server can have it.
    for (server, outcome) in
        [(FIRST, Outcome::Stale(1)), (SECOND, Outcome::Stale(1)), (THIRD, Outcome::Applied)]
    {
        let other = plan_of(&[(1, assigned(server, AssignReason::LeastLoaded))]);
        assert_eq!(apply(&mut state, &other), outcome);
    }
    let recorders: Vec<_> =
        state.camera(TENANT, CAMERA).expect("there").recorders().map(|a| a.server_id).collect();
    assert_eq!(recorders, [FIRST, SECOND, THIRD]);
}

#[test]
fn a_camera_that_wants_fewer_copies_gives_the_place_of_the_last_one_back() {
    let (mut state, _) = folded(&fleet_with(two_copies()));
    let both = [assigned(FIRST, AssignReason::LeastLoaded), assigned(SECOND, AssignReason::LeastLoaded)];
    apply(&mut state, &plan_of(&[(0, both[0]), (1, both[1])]));
    apply(&mut state, &camera_changed(camera_settings()));
    assert_eq!(state.camera(TENANT, CAMERA).expect("there").copies().count(), 1);
    assert!(state.index().roster(SECOND).is_empty());
    assert_eq!(servers(&state), (Some(FIRST), None));
}

#[test]
fn a_camera_for_one_client_has_no_recorder_while_it_moves_and_others_have_two() {
    for (single_session, moving) in [(true, vec![]), (false, vec![FIRST, SECOND])] {
        let (mut state, _) = folded(&fleet_with(CameraSettings { single_session, ..camera_settings() }));
        let recorders = |state: &longwatch_events::state::State| -> Vec<_> {
            state.camera(TENANT, CAMERA).expect("there").recorders().map(|a| a.server_id).collect()
        };
        planned(&mut state, assigned(FIRST, AssignReason::LeastLoaded));
        assert_eq!(recorders(&state), [FIRST]);
        let epoch = planned(&mut state, moved(SECOND, AssignReason::Rebalance));
        assert_eq!(recorders(&state), moving, "single_session: {single_session}");
        planned(&mut state, finished(epoch));
        assert_eq!(recorders(&state), [SECOND]);
    }
}

/// A camera on the first server, which is lost, and nobody has room.
fn left_with_the_first() -> (State, Assignment) {
    let (mut state, _) = folded(&recorded_on(FIRST));
    let before = *copy(&state, 0).assignment().expect("it is recorded");
    assert_eq!(apply(&mut state, &lost(FIRST)), Outcome::Applied);
    planned(&mut state, Decision::Unplace { reason: UnplacedReason::NoCapacity });
    (state, before)
}

#[test]
fn a_copy_that_nobody_has_room_for_goes_on_where_it_was_when_its_server_returns() {
    // Given a copy without a place: its lost server is still to record it, should it only be cut off.
    let (mut state, before) = left_with_the_first();
    assert_eq!((servers(&state), copy(&state, 0).left_with()), ((None, None), Some(&before)));
    assert_eq!(state.camera(TENANT, CAMERA).unwrap().recorders().collect::<Vec<_>>(), [&before]);
    assert_eq!((state.index().left_with(FIRST).count(), state.index().waiting().count()), (1, 1));
    // Another reason does not change that.
    planned(&mut state, Decision::Unplace { reason: UnplacedReason::NoServer });
    // When the server returns, then the copy was never elsewhere.
    assert_eq!(apply(&mut state, &returned(FIRST)), Outcome::Applied);
    assert_eq!((copy(&state, 0).assignment(), copy(&state, 0).home()), (Some(&before), None));
    assert_eq!((state.index().left_with(FIRST).count(), state.index().waiting().count()), (0, 0));
}

#[test]
fn a_copy_that_was_left_with_its_server_is_so_no_longer_once_it_is_elsewhere_or_not_wanted() {
    let gone = |change: fn(&mut State)| {
        let (mut state, _) = left_with_the_first();
        change(&mut state);
        assert_eq!(copy(&state, 0).left_with(), None);
        assert_eq!(state.index().left_with(FIRST).count(), 0);
        state
    };
    let mut taken_over = gone(|state| {
        planned(state, assigned(SECOND, AssignReason::Failover));
    });
    assert_eq!(apply(&mut taken_over, &returned(FIRST)), Outcome::Applied);
    assert_eq!((servers(&taken_over), copy(&taken_over, 0).home()), ((Some(SECOND), None), Some(FIRST)));
    gone(|state| {
        planned(state, Decision::Unplace { reason: UnplacedReason::Disabled });
    });
    gone(|state| {
        apply(state, &detached(FIRST, DetachedCameras::Keep));
    });
}
