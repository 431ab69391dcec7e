//! The contract for cameras with several copies, and for those on the move.

use longwatch_events::event::{CameraChanged, Decision, Event};
use longwatch_events::fact::{Cause, Fact};
use longwatch_events::id::{BootId, CameraId, CopyKey, IdSource as _, ServerId, TenantId};
use longwatch_events::position::{Epoch, Position};
use longwatch_events::reason::{AbandonReason, AssignReason, FinishReason};
use longwatch_events::state::Placement;

use super::super::rows::{CameraState, Observation, Observations, Place};
use super::super::{AssignmentFilter, CameraFilter, Page, Range, ReadModel};
use super::world::{BOOT, World, all, at, camera_settings, interrupted, keyframe, started, stored};

const fn first(tenant_id: TenantId, camera_id: CameraId) -> CopyKey {
    CopyKey { tenant_id, camera_id, copy: 0 }
}

const fn second(tenant_id: TenantId, camera_id: CameraId) -> CopyKey {
    CopyKey { tenant_id, camera_id, copy: 1 }
}

impl World<'_> {
    async fn twofold(&mut self, tenant: TenantId, name: &str) -> CameraId {
        let mut settings = camera_settings(name);
        settings.copies = 2;
        self.camera(tenant, settings).await
    }

    async fn give(&mut self, key: CopyKey, server_id: ServerId) -> Epoch {
        self.plan_copy(key, Decision::Assign { server_id, reason: AssignReason::LeastLoaded }).await
    }

    async fn set_out(&mut self, key: CopyKey, server_id: ServerId) -> Epoch {
        self.plan_copy(key, Decision::Move { server_id, reason: AssignReason::Drain }).await
    }
}

pub(super) async fn the_state_of_a_camera_is_that_of_the_copy_that_is_best_off(model: &dyn ReadModel) {
    let mut world = World::new(model);
    let tenant = world.tenant("Harbour").await;
    let [well, silent, anew] =
        [world.server("well").await, world.server("silent").await, world.server("anew").await];
    let of_this_run = Observation { silent: false, boot_id: Some(BOOT) };
    let observations = Observations::from([
        (well, of_this_run),
        (silent, Observation { silent: true, ..of_this_run }),
        (anew, Observation { boot_id: Some(BootId::from_uuid(world.ids.next())), ..of_this_run }),
    ]);
    type Said = Option<fn(TenantId, CameraId, Epoch) -> Fact>;
    let runs: Said = Some(|t, c, e| keyframe(t, c, e, 30));
    let starts: Said = Some(|t, c, e| started(t, c, e, 30));
    let fails: Said = Some(|t, c, e| interrupted(t, c, e, 30, Cause::Refused));
    let rests: Said = Some(|t, c, e| interrupted(t, c, e, 30, Cause::NotScheduled));
    // What each of two copies is at: nowhere, or on this server, which said that.
    let copies: [(ServerId, Said); 7] = [
        (well, None),
        (well, starts),
        (well, runs),
        (well, rests),
        (well, fails),
        (silent, runs),
        (anew, runs),
    ];
    let alone = [
        CameraState::Connecting,
        CameraState::Connecting,
        CameraState::Recording,
        CameraState::Idle,
        CameraState::Offline,
        CameraState::Offline,
        CameraState::Connecting,
    ];
    let others: Vec<_> = std::iter::once(None).chain(copies.iter().zip(alone).map(Some)).collect();
    for one in &others {
        for (number, other) in others.iter().enumerate() {
            let camera = world.twofold(tenant, &format!("{number}")).await;
            let mut expected = CameraState::Unplaced;
            for (key, at_work) in [(first(tenant, camera), one), (second(tenant, camera), other)] {
                let Some(((server, said), state)) = at_work else { continue };
                // A server records one copy of a camera only: the second one has none then.
                let holds = world.state.copy(first(tenant, camera)).unwrap().1.assignment().copied();
                if key.copy == 1 && holds.is_some_and(|a| a.server_id == *server) {
                    continue;
                }
                let epoch = world.give(key, *server).await;
                world.reported(*server, said.iter().map(|said| said(tenant, camera, epoch)).collect()).await;
                expected = expected.min(*state);
            }
            let view = model.camera(tenant, camera).await.unwrap().unwrap();
            assert_eq!(view.copies.len(), 2);
            assert_eq!(view.state(&observations), expected, "{one:?} {other:?}");
        }
    }

    let everyone = model.cameras(tenant, CameraFilter::default(), all()).await.unwrap().items;
    assert_eq!(everyone.len(), 64);
    let counts = model.counts(observations.clone()).await.unwrap();
    for (state, count) in CameraState::ALL.into_iter().zip(counts.cameras) {
        let expected: Vec<_> =
            everyone.iter().filter(|view| view.state(&observations) == state).cloned().collect();
        let filter = CameraFilter {
            state: Some(state),
            observations: observations.clone(),
            ..CameraFilter::default()
        };
        assert_eq!(model.cameras(tenant, filter, all()).await.unwrap().items, expected, "{state:?}");
        assert_eq!(count, expected.len() as u64, "{state:?}");
        assert_eq!(expected.is_empty(), state == CameraState::Disabled, "{state:?}");
    }
}

pub(super) async fn a_page_of_cameras_holds_all_their_copies(model: &dyn ReadModel) {
    let mut world = World::new(model);
    let tenant = world.tenant("Harbour").await;
    let servers = [world.server("north").await, world.server("south").await];
    let mut cameras = Vec::new();
    for number in 0..5 {
        let camera = world.twofold(tenant, &format!("c{number}")).await;
        world.give(first(tenant, camera), servers[0]).await;
        if number % 2 == 0 {
            world.give(second(tenant, camera), servers[1]).await;
        }
        cameras.push(camera);
    }
    let mut seen = Vec::new();
    loop {
        let page = Page { after: seen.last().copied(), limit: 2 };
        let part = model.cameras(tenant, CameraFilter::default(), page).await.unwrap();
        for view in &part.items {
            let numbers: Vec<_> = view.copies.iter().map(|copy| copy.row.key.copy).collect();
            assert_eq!(numbers, [0, 1]);
        }
        seen.extend(part.items.iter().map(|view| view.row.camera_id));
        if !part.more {
            break;
        }
    }
    assert_eq!(seen, cameras);
    // A camera is on each server that records one of its copies.
    let on = |server| CameraFilter { server_id: Some(server), ..CameraFilter::default() };
    for (server, expected) in [(servers[0], vec![0, 1, 2, 3, 4]), (servers[1], vec![0, 2, 4])] {
        let found = model.cameras(tenant, on(server), all()).await.unwrap().items;
        let expected: Vec<_> = expected.into_iter().map(|number| cameras[number]).collect();
        assert_eq!(found.iter().map(|view| view.row.camera_id).collect::<Vec<_>>(), expected);
        assert!(found.iter().all(|view| view.copies.len() == 2), "with all its copies");
    }
}

pub(super) async fn assignments_are_listed_copy_by_copy_with_where_they_move(model: &dyn ReadModel) {
    let mut world = World::new(model);
    let tenant = world.tenant("Harbour").await;
    let [north, south, west] =
        [world.server("north").await, world.server("south").await, world.server("west").await];
    let camera = world.twofold(tenant, "Gate 3").await;
    let [one, other] = [first(tenant, camera), second(tenant, camera)];
    let (of_one, of_other) = (world.give(one, north).await, world.give(other, south).await);
    let moving = world.set_out(other, west).await;

    let listed = |items: &[super::super::rows::AssignmentView]| -> Vec<_> {
        let to = |view: &super::super::rows::AssignmentView| view.successor.map(|s| (s.server_id, s.epoch));
        items.iter().map(|v| (v.key, v.assignment.server_id, v.assignment.epoch, to(v))).collect()
    };
    let expected = [(one, north, of_one, None), (other, south, of_other, Some((west, moving)))];
    let everyone = AssignmentFilter::default();
    assert_eq!(listed(&model.assignments(everyone, all()).await.unwrap().items), expected);
    let mut after = None;
    for expected in &expected {
        let part = model.assignments(everyone, Page { after, limit: 1 }).await.unwrap();
        assert_eq!(listed(&part.items), [*expected]);
        assert_eq!(part.more, expected.0 == one);
        after = part.items.last().map(|view| view.key);
    }
    for (server, expected) in [(north, &expected[..1]), (south, &expected[1..]), (west, &[][..])] {
        let filter = AssignmentFilter { server_id: Some(server), ..everyone };
        assert_eq!(listed(&model.assignments(filter, all()).await.unwrap().items), expected);
        // There is a place taken on the new server, too.
        assert_eq!(model.server(server).await.unwrap().unwrap().cameras, 1);
    }
}

pub(super) async fn what_a_server_recorded_in_a_move_that_was_given_up_counts(model: &dyn ReadModel) {
    let mut world = World::new(model);
    let tenant = world.tenant("Harbour").await;
    let [north, south] = [world.server("north").await, world.server("south").await];
    let camera = world.camera(tenant, camera_settings("Gate 3")).await;
    let key = first(tenant, camera);
    let old = world.give(key, north).await;
    let new = world.set_out(key, south).await;
    world.reported(north, vec![keyframe(tenant, camera, old, 10), stored(tenant, camera, old, 10, 60)]).await;
    world.reported(south, vec![stored(tenant, camera, new, 40, 70)]).await;
    let range = Range { from: at(0), to: at(1_000) };
    let of_move = model.timeline(tenant, camera, range).await.unwrap();

    world.plan_copy(key, Decision::Abandon { epoch: new, reason: AbandonReason::TimedOut }).await;

    let rows = model.timeline(tenant, camera, range).await.unwrap();
    let held: Vec<_> = rows.segments.iter().map(|s| (s.server_id, s.epoch, s.start)).collect();
    assert_eq!(held, [(north, old, at(10)), (south, new, at(40))]);
    assert_eq!(rows, of_move, "a successor is no placement");
    assert_eq!(model.camera(tenant, camera).await.unwrap().unwrap().copies[0].row.successor, None);
}

pub(super) async fn a_move_becomes_a_placement_when_it_is_finished(model: &dyn ReadModel) {
    let mut world = World::new(model);
    let tenant = world.tenant("Harbour").await;
    let [north, south] = [world.server("north").await, world.server("south").await];
    let camera = world.camera(tenant, camera_settings("Gate 3")).await;
    let key = first(tenant, camera);
    world.give(key, north).await;
    let given_at = at(world.seconds);
    let epoch = world.set_out(key, south).await;
    world.reported(south, vec![keyframe(tenant, camera, epoch, 40)]).await;
    let observations = Observations::new();
    let state = model.camera(tenant, camera).await.unwrap().unwrap().state(&observations);
    assert_eq!(state, CameraState::Connecting, "it is the old one's word that counts until then");

    let (reason, evidence) = (FinishReason::FirstKeyframe, Some(Position(1)));
    world.plan_copy(key, Decision::Finish { epoch, reason, evidence }).await;

    let view = model.camera(tenant, camera).await.unwrap().unwrap();
    let Placement::Assigned(now) = view.placement() else { panic!("{view:?}") };
    assert_eq!((now.server_id, now.epoch, now.since), (south, epoch, at(world.seconds)));
    assert_eq!((view.copies[0].row.home, view.copies[0].row.successor), (Some(north), None));
    assert_eq!(view.state(&observations), CameraState::Recording);
    let rows = model.timeline(tenant, camera, Range { from: at(0), to: at(1_000) }).await.unwrap();
    let places: Vec<_> = rows.placements.iter().map(|row| (row.copy, row.at, row.place)).collect();
    let expected = [(0, given_at, Place::Server(north)), (0, at(world.seconds), Place::Server(south))];
    assert_eq!(places, expected);
}

pub(super) async fn a_copy_that_is_not_wanted_any_more_is_gone_and_its_video_is_not(model: &dyn ReadModel) {
    let mut world = World::new(model);
    let tenant = world.tenant("Harbour").await;
    let [north, south] = [world.server("north").await, world.server("south").await];
    let camera_id = world.twofold(tenant, "Gate 3").await;
    let epoch = world.give(first(tenant, camera_id), north).await;
    let other = world.give(second(tenant, camera_id), south).await;
    world.reported(north, vec![stored(tenant, camera_id, epoch, 10, 60)]).await;
    world.reported(south, vec![stored(tenant, camera_id, other, 20, 70)]).await;

    let settings = camera_settings("Gate 3");
    world.happens(Event::CameraChanged(CameraChanged { tenant_id: tenant, camera_id, settings })).await;

    let view = model.camera(tenant, camera_id).await.unwrap().unwrap();
    assert_eq!(view.copies.iter().map(|copy| copy.row.key.copy).collect::<Vec<_>>(), [0]);
    assert_eq!(model.server(south).await.unwrap().unwrap().cameras, 0);
    let rows = model.timeline(tenant, camera_id, Range { from: at(0), to: at(1_000) }).await.unwrap();
    assert_eq!(rows.segments.len(), 2);
    let last = rows.placements.last().unwrap();
    assert_eq!((last.copy, last.at, last.place), (1, at(world.seconds), Place::Unplanned));
}
