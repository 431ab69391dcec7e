//! Properties of the fold.

use std::collections::{BTreeMap, BTreeSet};

use longwatch_events::envelope::Envelope;
use longwatch_events::event::{Decision, Event, PlanEntry, PlanMade};
use longwatch_events::fold::{self, Error, Outcome};
use longwatch_events::id::{CopyKey, EventId, ServerId, TenantId};
use longwatch_events::position::{Epoch, Position};
use longwatch_events::state::{Assignment, Server, State};
use longwatch_events::subject::{self, LogStream};
use longwatch_events::time::Timestamp;
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

/// Which server has a copy, and which is about to have it, each with its epoch.
type Places = BTreeMap<CopyKey, (Option<(ServerId, Epoch)>, Option<(ServerId, Epoch)>)>;

fn places(state: &State) -> Places {
    let of = |assignment: &Assignment| (assignment.server_id, assignment.epoch);
    let mut places = Places::new();
    for (tenant_id, camera_id, camera) in state.cameras() {
        for (copy, placed) in camera.copies() {
            let key = CopyKey { tenant_id, camera_id, copy };
            places.insert(key, (placed.assignment().map(of), placed.successor().map(of)));
        }
    }
    places
}

/// What one entry of a plan at `epoch` is to do, told in other words than the fold does; false: nothing.
fn expect(places: &mut Places, state: &State, epoch: Epoch, entry: &PlanEntry) -> bool {
    let key = entry.key();
    let Some((now, next)) = places.get(&key).copied() else { return false };
    let can_have = |server: ServerId| {
        let can_record = state.server(server).is_some_and(Server::is_assignable);
        let is_elsewhere_on = |server: ServerId| {
            let others = places.iter().filter(|(k, _)| {
                (k.tenant_id, k.camera_id) == (key.tenant_id, key.camera_id) && k.copy != key.copy
            });
            let mut servers = others.flat_map(|(_, (now, next))| now.iter().chain(next));
            servers.any(|(other, _)| *other == server)
        };
        can_record && !is_elsewhere_on(server)
    };
    let expected = match entry.decision {
        Decision::Assign { server_id, .. } if can_have(server_id) => (Some((server_id, epoch)), None),
        Decision::Unplace { .. } => (None, None),
        Decision::Move { server_id, .. }
            if can_have(server_id) && next.is_none() && now.is_some_and(|(old, _)| old != server_id) =>
        {
            (now, Some((server_id, epoch)))
        }
        Decision::Finish { epoch, .. } if next.is_some_and(|(_, began)| began == epoch) => (next, None),
        Decision::Abandon { epoch, .. } if next.is_some_and(|(_, began)| began == epoch) => (now, None),
        Decision::Assign { .. }
        | Decision::Move { .. }
        | Decision::Finish { .. }
        | Decision::Abandon { .. } => {
            return false;
        }
    };
    places.insert(key, expected);
    true
}

/// That `plan`, stored at `at`, made of `before` what its entries say, and nothing else.
fn check_plan(
    plan: &PlanMade,
    outcome: Outcome,
    at: Timestamp,
    before: &State,
    after: &State,
) -> Result<(), TestCaseError> {
    let mut expected = places(before);
    let epoch = Epoch::from(after.position);
    let stale = plan.entries.iter().filter(|entry| !expect(&mut expected, before, epoch, entry)).count();
    prop_assert_eq!(outcome, if stale == 0 { Outcome::Applied } else { Outcome::Stale(stale) });
    prop_assert_eq!(places(after), expected);
    prop_assert_eq!(after.last_plan, after.position);
    for (tenant, id, camera) in after.cameras() {
        let old = before.camera(tenant, id).expect("a plan adds no camera");
        prop_assert_eq!(&camera.settings, &old.settings);
        prop_assert_eq!(camera.version, old.version);
        for ((_, copy), (_, old)) in camera.copies().zip(old.copies()) {
            if let Some(assignment) = copy.assignment().filter(|_| copy.placement != old.placement) {
                prop_assert_eq!(assignment.since, at);
            }
        }
    }
    Ok(())
}

/// What holds in every state that a log can lead to.
fn check_invariants(history: &History) -> Result<(), TestCaseError> {
    let state = history.state();
    prop_assert_eq!(state.position.0, history.log.len() as u64);
    // The version is the condition of the next append: were it another one, no command would ever succeed again.
    let last = |subject: String| history.last_of_subject.get(&subject).copied().unwrap_or_default();
    prop_assert_eq!(state.last_plan, last(subject::PLAN.to_owned()), "last plan");
    prop_assert_eq!(state.policy_version, last(subject::POLICY.to_owned()), "version of the policy");
    prop_assert_eq!(state.barrier_version, last(subject::VERSION.to_owned()), "version of the barrier");
    for (id, tenant) in state.tenants() {
        prop_assert_eq!(tenant.version, last(subject::tenant(id)), "version of tenant {}", id);
    }
    for (id, server) in state.servers() {
        prop_assert_eq!(server.version, last(subject::server(id)), "version of server {}", id);
    }
    for (tenant, id, camera) in state.cameras() {
        prop_assert!(state.tenant(tenant).is_some(), "camera {} has no tenant", id);
        prop_assert_eq!(camera.version, last(subject::camera(tenant, id)), "version of camera {}", id);
        prop_assert_eq!(camera.copies().count(), usize::from(camera.settings.wanted_copies()));
    }
    let keys: Vec<_> = state.servers().filter_map(|(_, server)| server.public_key).collect();
    prop_assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len(), "two servers have one key");
    let names: Vec<_> =
        state.servers().filter(|(_, s)| !s.is_detached()).map(|(_, s)| &s.settings.name).collect();
    prop_assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "two servers have one name");
    Ok(())
}

/// What holds of the places of copies in every state.
fn check_copies(state: &State) -> Result<(), TestCaseError> {
    let is_ours = |server: ServerId| state.server(server).is_some_and(Server::is_ours);
    for (tenant, id, camera) in state.cameras() {
        let held: Vec<_> = camera.copies().flat_map(|(_, copy)| copy.servers()).collect();
        let servers: BTreeSet<_> = held.iter().copied().collect();
        prop_assert_eq!(servers.len(), held.len(), "one server holds camera {} of {} twice", id, tenant);
        prop_assert!(servers.into_iter().all(is_ours), "camera {} is on a server that is not adopted", id);
        for (_, copy) in camera.copies() {
            let now = copy.assignment().map(|assignment| assignment.server_id);
            prop_assert!(copy.successor().is_none() || now.is_some(), "a move from nowhere");
            for epoch in copy.assignment().into_iter().chain(copy.successor()).map(|a| a.epoch) {
                prop_assert!(epoch <= Epoch::from(state.last_plan));
            }
            // Neither names a server that the copy has already, or can never have.
            for server in copy.home().into_iter().chain(copy.requested()) {
                prop_assert!(
                    is_ours(server) && now != Some(server),
                    "a wish of camera {} for {}",
                    id,
                    server
                );
            }
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
    fn a_plan_never_halts_and_does_what_it_says(history in history(60), plan in plan(), at in timestamp()) {
        let mut state = history.state().clone();
        let next = state.position.next();
        let outcome = fold::apply(&mut state, next, at, &Event::PlanMade(plan.clone())).expect("never halts");
        check_plan(&plan, outcome, at, history.state(), &state)?;
        for (stored, outcome, before, after) in history.steps() {
            if let Event::PlanMade(plan) = &stored.event {
                check_plan(plan, outcome, stored.stored_at, before, after)?;
            }
        }
    }

    #[test]
    fn a_copy_is_where_it_can_be_and_on_its_way_to_another_server(history in history(80)) {
        history.states.iter().try_for_each(check_copies)?;
    }

    #[test]
    fn the_epoch_of_a_copy_never_goes_back(history in history(80)) {
        let mut highest = BTreeMap::new();
        for (stored, _, before, after) in history.steps() {
            let old = places(before);
            for (key, (now, _)) in places(after) {
                let Some((server, epoch)) = now else { continue };
                let (last_server, last_epoch) = *highest.entry(key).or_insert((server, epoch));
                prop_assert!(epoch >= last_epoch, "{:?} at {}", key, stored.position);
                prop_assert!(epoch > last_epoch || server == last_server, "one epoch, two servers: {:?}", key);
                highest.insert(key, (server, epoch));
                // Whoever has it and did not have it was given it by this plan, was on its way, or is back, and nobody else had
                // room for it meanwhile.
                let (was, was_next) = old.get(&key).copied().unwrap_or_default();
                let left = before.copy(key).and_then(|(_, copy)| copy.left_with());
                let is_back = left.map(|left| (left.server_id, left.epoch)) == now;
                let is_known =
                    now == was || now == was_next || is_back || epoch == Epoch::from(stored.position);
                prop_assert!(is_known, "{:?} at {}", key, stored.position);
            }
        }
    }

    #[test]
    fn a_server_keeps_its_id_and_is_back_only_if_it_is_adopted(history in history(80)) {
        for (stored, _, before, after) in history.steps() {
            for (id, server) in before.servers() {
                let now = after.server(id).expect("a server is never forgotten");
                prop_assert!(server.public_key.is_none() || now.public_key == server.public_key);
                let adopted = matches!(&stored.event, Event::ServerAdopted(e) if e.server_id == id);
                prop_assert!(!server.is_detached() || now.is_detached() || adopted, "{} is back", id);
            }
        }
    }

    #[test]
    fn a_state_that_was_written_down_is_the_same_once_it_is_read(history in history(60)) {
        let text = serde_json::to_string(history.state()).expect("JSON");
        let mut read: State = serde_json::from_str(&text).expect("a state");
        read.reindex();
        prop_assert_eq!(&read, history.state());
        prop_assert_eq!(read.index(), history.state().index());
        prop_assert_eq!(read.content_hash(), history.state().content_hash());
    }

    #[test]
    fn a_log_goes_on_from_a_state_that_was_written_down(history in history(60), at in any::<Index>()) {
        let at = at.index(history.log.len() + 1);
        let text = serde_json::to_string(&history.states[at]).expect("JSON");
        let mut read: State = serde_json::from_str(&text).expect("a state");
        read.reindex();
        let folded = fold_on(read, &history.log[at..]);
        prop_assert_eq!(&folded, history.state());
        prop_assert_eq!(folded.index(), history.state().index());
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
        // Each is folded in every state: applied, or stale.
        Event::ServerJoined(_)
        | Event::ServerAdopted(_)
        | Event::ServerLost(_)
        | Event::ServerReturned(_)
        | Event::ServerDiskMeasured(_)
        | Event::ServerDrainStarted(_)
        | Event::ServerDrainStopped(_)
        | Event::ServerFailbackRequested(_)
        | Event::CameraChanged(_)
        | Event::CameraDeleted(_)
        | Event::CameraMoveRequested(_)
        | Event::PolicyChanged(_)
        | Event::VersionRequired(_)
        | Event::PlanMade(_) => false,
        Event::ServerHeartbeat(_)
        | Event::ControlTicked(_)
        | Event::RecordingReported(_)
        | Event::AssignmentsPublished(_)
        | Event::CameraBacklogged(_) => true,
    };
    log.iter().map(|stored| stored.event.clone()).filter(contradicts).collect()
}
