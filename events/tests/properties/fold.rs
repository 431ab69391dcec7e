//! Properties of the fold.

use std::collections::BTreeSet;

use longwatch_events::envelope::Envelope;
use longwatch_events::event::{Decision, Event, PlanMade};
use longwatch_events::fold::{self, Error, Outcome};
use longwatch_events::id::{EventId, TenantId};
use longwatch_events::position::{Epoch, Position};
use longwatch_events::state::{Server, State};
use longwatch_events::subject::{self, LogStream};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::arbitrary::{event, event_of_another_stream, plan, timestamp};
use crate::history::{History, Stored, history};

fn fold_on(mut state: State, log: &[Stored]) -> State {
    for stored in log {
        fold::apply(&mut state, stored.position, stored.stored_at, &stored.event).expect("a valid history");
    }
    state
}

/// How many entries of a plan name a camera that is not there or a server that cannot be given one.
fn losers(state: &State, plan: &PlanMade) -> usize {
    let loses = |decision: Decision| match decision {
        Decision::Assign { server_id, .. } => !state.server(server_id).is_some_and(Server::is_assignable),
        Decision::Unplace { .. } => false,
    };
    plan.entries
        .iter()
        .filter(|e| state.camera(e.tenant_id, e.camera_id).is_none() || loses(e.decision))
        .count()
}

/// What holds in every state that a log can lead to.
fn check_invariants(history: &History) -> Result<(), TestCaseError> {
    let state = history.state();
    prop_assert_eq!(state.position.0, history.log.len() as u64);
    // The version is the condition of the next append: were it another one, no command would ever succeed again.
    let last = |subject: String| history.last_of_subject.get(&subject).copied().unwrap_or_default();
    prop_assert_eq!(state.last_plan, last(subject::PLAN.to_owned()), "last plan");
    for (id, tenant) in state.tenants() {
        prop_assert_eq!(tenant.version, last(subject::tenant(id)), "version of tenant {}", id);
    }
    for (id, server) in state.servers() {
        prop_assert_eq!(server.version, last(subject::server(id)), "version of server {}", id);
    }
    let keys: Vec<_> = state.servers().filter_map(|(_, server)| server.public_key).collect();
    prop_assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len(), "two servers have one key");
    prop_assert!(!keys.iter().any(|key| state.is_detached(key)), "a detached worker is back");
    for (tenant, id, camera) in state.cameras() {
        prop_assert!(state.tenant(tenant).is_some(), "camera {} has no tenant", id);
        prop_assert_eq!(camera.version, last(subject::camera(tenant, id)), "version of camera {}", id);
        if let Some(assignment) = camera.assignment() {
            prop_assert!(state.server(assignment.server_id).is_some_and(Server::is_assignable));
            prop_assert!(assignment.epoch <= Epoch::from(state.last_plan));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    // The generator panics if one does.
    #[test]
    fn no_history_that_can_come_about_halts_the_fold(history in history(80)) {
        check_invariants(&history)?;
    }

    #[test]
    fn the_same_log_gives_the_same_state_however_it_is_split(history in history(60), at in any::<Index>()) {
        let at = at.index(history.log.len() + 1);
        let (before, behind) = history.log.split_at(at);
        let whole = fold_on(State::default(), &history.log);
        let split = fold_on(fold_on(State::default(), before), behind);
        prop_assert_eq!(&whole, history.state());
        prop_assert_eq!(&split, &whole);
        prop_assert_eq!(fold_on(history.states[at].clone(), behind), whole.clone());
        prop_assert_eq!(split.content_hash(), whole.content_hash());
    }

    #[test]
    fn the_bytes_of_a_log_give_the_same_state_as_its_events(history in history(40)) {
        let read: Vec<_> = history.log.iter().cloned().map(through_bytes).collect();
        prop_assert_eq!(&read, &history.log);
        prop_assert_eq!(fold_on(State::default(), &read).content_hash(), history.state().content_hash());
    }

    #[test]
    fn states_that_differ_have_different_hashes(history in history(40)) {
        let hashes: BTreeSet<_> = history.states.iter().map(State::content_hash).collect();
        prop_assert_eq!(hashes.len(), history.states.len());
    }

    #[test]
    fn what_was_applied_is_not_applied_again(history in history(40), at in any::<Index>(), other in event()) {
        prop_assume!(!history.log.is_empty());
        let stored = at.get(&history.log);
        for event in [&stored.event, &other] {
            let mut state = history.state().clone();
            let outcome = fold::apply(&mut state, stored.position, stored.stored_at, event);
            prop_assert_eq!(outcome, Ok(Outcome::Seen));
            prop_assert_eq!(&state, history.state());
        }
    }

    #[test]
    fn a_missing_position_is_an_error_and_changes_nothing(
        history in history(30),
        skipped in prop_oneof![1..10_u64, 1..u64::MAX - 30],
        event in event(),
        at in timestamp(),
    ) {
        let mut state = history.state().clone();
        let found = Position(state.position.next().0 + skipped);
        let error = fold::apply(&mut state, found, at, &event).expect_err("something is missing");
        prop_assert_eq!(&error, &Error::Missing { after: state.position, found, missing: skipped });
        let words = format!("{skipped} event(s)");
        prop_assert!(error.to_string().contains(&words), "{}", error);
        prop_assert_eq!(&state, history.state());
    }

    #[test]
    fn an_event_moves_the_position_by_one_or_changes_nothing(
        history in history(40),
        event in event(),
        at in timestamp(),
    ) {
        let mut state = history.state().clone();
        let next = state.position.next();
        match fold::apply(&mut state, next, at, &event) {
            Ok(outcome) => {
                prop_assert_ne!(outcome, Outcome::Seen);
                prop_assert_eq!(state.position, next);
            }
            Err(error) => {
                let at_next = matches!(error, Error::Impossible { position, .. } if position == next);
                prop_assert!(at_next, "{}", error);
                prop_assert_eq!(&state, history.state());
            }
        }
    }

    #[test]
    fn an_impossible_event_halts_and_changes_nothing(history in history(60), at in timestamp()) {
        for event in impossible(history.state(), &history.log) {
            let mut state = history.state().clone();
            let next = state.position.next();
            match fold::apply(&mut state, next, at, &event) {
                Err(Error::Impossible { position, why }) => {
                    prop_assert_eq!(position, next);
                    prop_assert!(!why.is_empty());
                }
                other => prop_assert!(false, "{:?} gave {:?}", event, other),
            }
            prop_assert_eq!(&state, history.state());
        }
    }

    #[test]
    fn an_event_of_another_stream_halts(event in event_of_another_stream(), at in timestamp()) {
        prop_assert_ne!(subject::of(&event).0, LogStream::Log);
        let mut state = State::default();
        let error = fold::apply(&mut state, Position(1), at, &event).expect_err("not an event of LOG");
        prop_assert!(error.to_string().contains("position 1 is impossible"));
        prop_assert_eq!(state, State::default());
    }

    #[test]
    fn a_plan_never_halts_and_counts_what_is_stale(history in history(60), plan in plan(), at in timestamp()) {
        let mut state = history.state().clone();
        let next = state.position.next();
        let expected = match losers(&state, &plan) {
            0 => Outcome::Applied,
            stale => Outcome::Stale(stale),
        };
        prop_assert_eq!(fold::apply(&mut state, next, at, &Event::PlanMade(plan)), Ok(expected));
        prop_assert_eq!(state.last_plan, next);
        for (tenant, id, camera) in state.cameras() {
            let before = history.state().camera(tenant, id).expect("a plan adds no camera");
            prop_assert_eq!(&camera.settings, &before.settings);
            prop_assert_eq!(camera.version, before.version);
            if let Some(assignment) = camera.assignment().filter(|_| camera.placement != before.placement) {
                prop_assert_eq!(assignment.epoch, Epoch::from(next));
                prop_assert_eq!(assignment.since, at);
            }
        }
    }
}

fn through_bytes(stored: Stored) -> Stored {
    let id = TenantId::DEFAULT.as_uuid();
    let envelope = Envelope {
        id: EventId::from_uuid(id),
        source: "/test".to_owned(),
        time: stored.stored_at,
        tenant: None,
        actor: "system".to_owned(),
        causation: None,
        event: stored.event,
    };
    Stored { event: Envelope::decode(&envelope.encode()).expect("an event").event, ..stored }
}

/// Events of `log` that contradict the state they led to: what was created exists, what was deleted does not.
fn impossible(state: &State, log: &[Stored]) -> Vec<Event> {
    let contradicts = |event: &Event| match event {
        Event::TenantCreated(e) => state.tenant(e.tenant_id).is_some(),
        Event::TenantChanged(e) => state.tenant(e.tenant_id).is_none(),
        Event::TenantDeleted(e) => state.tenant(e.tenant_id).is_none(),
        Event::ServerAdded(e) => state.server(e.server_id).is_some(),
        Event::ServerChanged(e) => state.server(e.server_id).is_none(),
        Event::ServerDetached(e) => state.server(e.server_id).is_none(),
        Event::CameraAdded(e) => state.camera(e.tenant_id, e.camera_id).is_some(),
        Event::CameraChanged(e) => state.camera(e.tenant_id, e.camera_id).is_none(),
        Event::CameraDeleted(e) => state.camera(e.tenant_id, e.camera_id).is_none(),
        // Either is folded in every state: applied, or stale.
        Event::ServerJoined(_)
        | Event::ServerAdopted(_)
        | Event::ServerLost(_)
        | Event::ServerReturned(_)
        | Event::PlanMade(_) => false,
        Event::ServerHeartbeat(_)
        | Event::ControlTicked(_)
        | Event::RecordingReported(_)
        | Event::AssignmentsPublished(_)
        | Event::CameraBacklogged(_) => true,
    };
    log.iter().map(|stored| stored.event.clone()).filter(contradicts).collect()
}
