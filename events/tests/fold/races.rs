//! The races the fold settles, one by one.

use longwatch_events::event::{
    CameraDeleted, Decision, DetachedCameras, Event, TenantChanged, TenantDeleted,
};
use longwatch_events::fold::{self, Error, Outcome};
use longwatch_events::position::{Epoch, Position};
use longwatch_events::reason::UnplacedReason;
use longwatch_events::sealed::{Base64Bytes, PublicKey};
use longwatch_events::settings::CameraSettings;
use longwatch_events::state::{Membership, Placement};

use crate::given::*;

#[test]
fn a_camera_added_to_a_deleted_tenant_is_stale() {
    let deleted = Event::TenantDeleted(TenantDeleted { tenant_id: TENANT });
    let (state, outcomes) = folded(&[tenant_created(), deleted, camera_added()]);
    assert_eq!(outcomes.last(), Some(&Outcome::Stale(1)));
    assert!(state.camera(TENANT, CAMERA).is_none() && state.tenant(TENANT).is_none());
}

#[test]
fn a_tenant_that_got_a_camera_while_it_was_deleted_stays_and_can_be_camera_changed() {
    let deleted = Event::TenantDeleted(TenantDeleted { tenant_id: TENANT });
    let (mut state, outcomes) = folded(&[tenant_created(), camera_added(), deleted.clone()]);
    assert_eq!(outcomes.last(), Some(&Outcome::Stale(1)));
    // Its subject ends at the stale event: the next command's append is conditional on that.
    assert_eq!(state.tenant(TENANT).expect("it stays").version, Position(3));

    let camera_deleted = Event::CameraDeleted(CameraDeleted { tenant_id: TENANT, camera_id: CAMERA });
    for event in [camera_deleted, deleted] {
        let next = state.position.next();
        assert_eq!(fold::apply(&mut state, next, at(next), &event), Ok(Outcome::Applied));
    }
    assert!(state.tenant(TENANT).is_none());
}

#[test]
fn of_two_joins_of_one_worker_the_first_counts() {
    let (state, outcomes) = folded(&[
        server_joined(SERVER, "north", 1),
        server_joined(OTHER_SERVER, "north", 1),
        adopted(OTHER_SERVER),
        adopted(SERVER),
    ]);
    assert_eq!(outcomes, [Outcome::Applied, Outcome::Stale(1), Outcome::Stale(1), Outcome::Applied]);
    assert_eq!(state.server_by_key(&PublicKey([1; 32])).map(|(id, _)| id), Some(SERVER));
    assert!(state.server(OTHER_SERVER).is_none());
}

#[test]
fn a_stale_join_leaves_an_announced_server_open_to_commands() {
    let (state, outcomes) = folded(&[
        server_added(OTHER_SERVER, "south"),
        server_joined(SERVER, "north", 1),
        server_joined(OTHER_SERVER, "south", 1),
    ]);
    assert_eq!(outcomes.last(), Some(&Outcome::Stale(1)));
    let announced = state.server(OTHER_SERVER).expect("it stays");
    assert_eq!((announced.public_key, announced.version), (None, Position(3)));
}

#[test]
fn a_detached_worker_is_not_back_by_a_join_that_was_on_its_way() {
    let (state, outcomes) = folded(&[
        server_joined(SERVER, "north", 1),
        detached(SERVER, DetachedCameras::Keep),
        server_joined(OTHER_SERVER, "north", 1),
    ]);
    assert_eq!(outcomes.last(), Some(&Outcome::Stale(1)));
    assert_eq!(state.servers().count(), 1);
    assert_eq!(membership(&state, SERVER), Membership::Detached { seen_again: false });
}

#[test]
fn a_worker_that_joins_under_an_announced_name_keeps_the_operators_settings() {
    let (state, _) = folded(&[server_added(SERVER, "north"), server_joined(SERVER, "north", 1)]);
    let server = state.server(SERVER).expect("announced");
    assert_eq!(server.settings.capacity.max_cameras, 7);
    assert!(server.is_assignable());
}

#[test]
fn a_plans_position_is_the_epoch_and_its_servers_exit_unplans() {
    let base = [tenant_created(), camera_added(), server_joined(SERVER, "north", 1), adopted(SERVER)];
    let planned: Vec<_> = base.into_iter().chain([assign(SERVER)]).collect();
    let (mut state, outcomes) = folded(&planned);
    assert_eq!(outcomes.last(), Some(&Outcome::Applied));
    let assignment = *state.camera(TENANT, CAMERA).and_then(|c| c.assignment()).expect("assigned");
    assert_eq!((assignment.server_id, assignment.epoch), (SERVER, Epoch(5)));
    assert_eq!(assignment.since, at(Position(5)));

    let let_go = detached(SERVER, DetachedCameras::Keep);
    assert_eq!(fold::apply(&mut state, Position(6), at(Position(6)), &let_go), Ok(Outcome::Applied));
    assert_eq!(state.camera(TENANT, CAMERA).expect("there").placement(), Placement::Unplanned);

    // A plan that was made before is stale now, and moves the condition of the next plan all the same.
    assert_eq!(fold::apply(&mut state, Position(7), at(Position(7)), &assign(SERVER)), Ok(Outcome::Stale(1)));
    assert_eq!(state.camera(TENANT, CAMERA).expect("there").placement(), Placement::Unplanned);
    assert_eq!(state.last_plan, Position(7));
}

#[test]
fn a_plan_for_a_server_that_is_not_adopted_or_has_no_worker_is_stale() {
    for server in [server_joined(SERVER, "north", 1), server_added(SERVER, "north")] {
        let (state, outcomes) = folded(&[tenant_created(), camera_added(), server, assign(SERVER)]);
        assert_eq!(outcomes.last(), Some(&Outcome::Stale(1)));
        assert_eq!(state.camera(TENANT, CAMERA).expect("there").placement(), Placement::Unplanned);
    }
}

#[test]
fn an_unplaced_camera_says_why_and_since_when() {
    let reason = UnplacedReason::NoServer;
    let (state, _) = folded(&[tenant_created(), camera_added(), plan(Decision::Unplace { reason })]);
    let expected = Placement::Unplaced { reason, since: at(Position(3)) };
    assert_eq!(state.camera(TENANT, CAMERA).expect("there").placement(), expected);
}

#[test]
fn only_another_source_is_a_new_source() {
    let renamed = CameraSettings { name: "Gate 4".into(), ..camera_settings() };
    let mut moved = renamed.clone();
    moved.source.secret.bytes = Base64Bytes(vec![1]);
    let events = [
        tenant_created(),
        camera_added(),
        camera_changed(renamed),
        camera_changed(moved.clone()),
        camera_changed(moved),
    ];
    for (length, version, source_version) in [(2, 2, 2), (3, 3, 2), (4, 4, 4), (5, 5, 4)] {
        let (state, _) = folded(&events[..length]);
        let camera = state.camera(TENANT, CAMERA).expect("there");
        assert_eq!((camera.version.0, camera.source_version.0), (version, source_version));
    }
}

#[test]
fn a_halt_says_where_and_why() {
    let (mut state, _) = folded(&[tenant_created()]);
    let before = state.clone();
    let halt =
        fold::apply(&mut state, Position(2), at(Position(2)), &tenant_created()).expect_err("impossible");
    assert_eq!(halt.to_string(), format!("position 2 is impossible: tenant {TENANT} was created before"));

    let changed = Event::TenantChanged(TenantChanged { tenant_id: TENANT, name: "Port".into() });
    let gap = fold::apply(&mut state, Position(5), at(Position(5)), &changed).expect_err("missing");
    assert_eq!(gap, Error::Missing { after: Position(1), found: Position(5), missing: 3 });
    assert_eq!(state, before);
}

#[test]
fn a_command_for_a_camera_that_went_with_its_server_is_stale() {
    let requested = move_requested(0, SECOND);
    let deleted = Event::CameraDeleted(CameraDeleted { tenant_id: TENANT, camera_id: CAMERA });
    for command in [camera_changed(camera_settings()), deleted, requested] {
        // Given a camera whose server was let go with its cameras, and a command that was decided before.
        let (mut state, _) = folded(&recorded_on(SERVER));
        apply(&mut state, &detached(SERVER, DetachedCameras::Remove));
        // When that command's event comes, then it neither halts the fold nor brings the camera back.
        assert_eq!(apply(&mut state, &command), Outcome::Stale(1), "{command:?}");
        assert!(state.camera(TENANT, CAMERA).is_none());
    }
}
