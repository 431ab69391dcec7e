//! Events at cameras, as servers tell them.

use longwatch_events::fact::{Fact, RecordingTriggered};
use longwatch_events::id::{CameraId, TenantId, TriggerId};
use longwatch_events::position::Epoch;
use uuid::Uuid;

use super::super::sql::triggers::KEPT;
use super::super::{Range, ReadModel};
use super::world::{World, at, camera_settings, everything};

/// Five seconds before it and ten after it.
fn triggered(tenant_id: TenantId, camera_id: CameraId, epoch: Epoch, number: u128, second: i64) -> Fact {
    Fact::RecordingTriggered(RecordingTriggered {
        tenant_id,
        camera_id,
        epoch,
        event_id: TriggerId::from_uuid(Uuid::from_u128(number)),
        kind: "motion".to_owned(),
        detail: number.is_multiple_of(2).then(|| format!("number {number}")),
        at: at(second),
        from: at(second - 5),
        until: at(second + 10),
        records: number != 3,
        by: "key:provider".to_owned(),
    })
}

pub(super) async fn an_event_is_known_by_its_id_by_its_time_and_while_it_is_on(model: &dyn ReadModel) {
    let mut world = World::new(model);
    let (tenant, camera, server, epoch) = everything(&mut world).await;
    let facts = [(2, 100), (1, 120), (3, 140)].map(|(n, second)| triggered(tenant, camera, epoch, n, second));
    world.reported(server, facts.to_vec()).await;
    // Told again it is the same; told otherwise, too.
    world.reported(server, vec![facts[0].clone(), triggered(tenant, camera, epoch, 1, 500)]).await;
    // Of a server that does not have the camera it does not count.
    let intruder = world.server("intruder").await;
    world.reported(intruder, vec![triggered(tenant, camera, epoch, 9, 100)]).await;

    let within = async |from, to| -> Vec<u128> {
        let rows =
            model.timeline(tenant, camera, Range { from: at(from), to: at(to) }).await.unwrap().triggers;
        rows.iter().map(|row| row.trigger.event_id.as_uuid().as_u128()).collect()
    };
    assert_eq!(within(0, 1_000).await, [2, 1, 3]);
    assert_eq!((within(110, 115).await, within(111, 115).await), (vec![2], vec![]));
    assert_eq!((within(130, 135).await, within(130, 136).await), (vec![1], vec![1, 3]));

    let id = |number| TriggerId::from_uuid(Uuid::from_u128(number));
    let told = model.trigger(tenant, camera, id(2)).await.unwrap();
    assert_eq!((told.len(), told[0].server_id, told[0].epoch), (1, server, epoch));
    assert_eq!(Fact::RecordingTriggered(told[0].trigger.taken(epoch)), facts[0]);
    assert_eq!(model.trigger(tenant, camera, id(4)).await.unwrap(), []);
    let other = world.tenant("Other").await;
    assert_eq!(model.trigger(other, camera, id(2)).await.unwrap(), []);

    let on = async |second| -> Vec<u128> {
        let rows = model.triggers_on(at(second)).await.unwrap();
        rows.iter()
            .filter(|row| row.server_id == server)
            .map(|row| row.trigger.event_id.as_uuid().as_u128())
            .collect()
    };
    assert_eq!((on(0).await, on(110).await, on(130).await), (vec![2, 1], vec![1], vec![]));
}

pub(super) async fn of_the_events_of_a_camera_the_newest_are_kept(model: &dyn ReadModel) {
    let mut world = World::new(model);
    let (tenant, camera, server, epoch) = everything(&mut world).await;
    let other = world.camera(tenant, camera_settings("Gate 6")).await;
    let others = world.assign(tenant, other, server).await;
    world.reported(server, vec![triggered(tenant, other, others, 1, 1)]).await;
    let many = i64::from(KEPT) + 100;
    let facts: Vec<_> = (0..many)
        .map(|n| triggered(tenant, camera, epoch, 0x1000 + u128::from(n.unsigned_abs()), n))
        .collect();
    for facts in facts.chunks(2_000) {
        world.reported(server, facts.to_vec()).await;
    }
    let range = Range { from: at(0), to: at(many + 100) };
    let left = model.timeline(tenant, camera, range).await.unwrap().triggers;
    assert!((KEPT as usize..KEPT as usize + 32).contains(&left.len()), "{}", left.len());
    assert_eq!(left.last().unwrap().trigger.at, at(many - 1));
    assert_eq!(model.timeline(tenant, other, range).await.unwrap().triggers.len(), 1);
}

pub(super) async fn what_is_no_event_is_set_aside(model: &dyn ReadModel) {
    let mut world = World::new(model);
    let (tenant, camera, server, epoch) = everything(&mut world).await;
    let Fact::RecordingTriggered(good) = triggered(tenant, camera, epoch, 1, 100) else { unreachable!() };
    let rejected = model.counts(Default::default()).await.unwrap().rejected_facts;
    let endless = RecordingTriggered { until: at(100_000), ..good.clone() };
    let backwards = RecordingTriggered { from: at(101), ..good };
    world.reported(server, [endless, backwards].map(Fact::RecordingTriggered).to_vec()).await;
    assert_eq!(model.counts(Default::default()).await.unwrap().rejected_facts, rejected + 2);
    let rows = model.timeline(tenant, camera, Range { from: at(0), to: at(1_000) }).await.unwrap();
    assert_eq!(rows.triggers, []);
}
