//! With the real followers and planner, and servers that are heard of.

use longwatch_events::archive::{ArchiveReply, ArchiveRequest, StockedSegment};
use longwatch_events::event::{Load, ServerHeartbeat, Spool};
use longwatch_events::fact::{Damage, Fact, SegmentChecked, SegmentUploaded};
use longwatch_events::hash::Sha256;
use longwatch_events::id::{BootId, SystemIds};
use longwatch_events::position::{Epoch, Position};

use super::super::answer;
use super::super::tests::{joined, report, secret, stored};
use super::*;
use crate::decide::command::Command;
use crate::testing::{START, TestControl};

const STORE: StoreId = StoreId::from_uuid(uuid::Uuid::from_u128(1));
const OTHER_STORE: StoreId = StoreId::from_uuid(uuid::Uuid::from_u128(2));
const TENANT: TenantId = TenantId::DEFAULT;
/// Minutes in three days.
const THREE_DAYS: i64 = 3 * 24 * 60;

/// A server of this number that uploads to `store`.
async fn server(control: &TestControl, number: u8, store: StoreId) -> ServerId {
    let server_id = joined(control, number).await;
    let expected = control.service.state().server(server_id).unwrap().version;
    control.execute(Command::AdoptServer { server_id, expected }).await;
    uses(control, server_id, store);
    server_id
}

/// The server says that it uploads to this store.
fn uses(control: &TestControl, server_id: ServerId, store: StoreId) {
    let spool = Spool { store_id: Some(store), ..Spool::default() };
    let load = Load { spool: Some(spool), ..Load::default() };
    let boot_id = BootId::generate(&SystemIds);
    let heartbeat = ServerHeartbeat { server_id, boot_id, sequence: 1, load, media_url: None };
    control.service.observed().heartbeat(&heartbeat, Position(1), START);
}

async fn camera(control: &TestControl, retention: Retention) -> CameraId {
    let camera_id = control.add_camera("rtsp://10.0.0.7/1").await;
    let (mut settings, expected) = {
        let state = control.service.state();
        let camera = state.camera(TENANT, camera_id).unwrap();
        (Box::new(camera.settings.told()), camera.version)
    };
    settings.retention = retention;
    control.execute(Command::ChangeCamera { tenant_id: TENANT, camera_id, expected, settings }).await;
    camera_id
}

/// Who records it, as soon as somebody does.
async fn recorder(control: &TestControl, camera_id: CameraId) -> ServerId {
    let assigned = |state: &longwatch_events::state::State| {
        state.camera(TENANT, camera_id).and_then(|camera| camera.assignment().map(|a| a.server_id))
    };
    control.until(|state| assigned(state).is_some()).await;
    assigned(&control.service.state()).unwrap()
}

/// Five bytes, uploaded; `key-MINUTE`.
fn uploaded(camera_id: CameraId, minute: i64, store_id: Option<StoreId>) -> [Fact; 2] {
    let start = START.plus_millis(minute * 60_000);
    let fact = SegmentUploaded {
        tenant_id: TENANT,
        camera_id,
        epoch: Epoch(7),
        key: format!("key-{minute}"),
        start,
        bytes: 5,
        sha256: Sha256::of(b"video"),
        at: start,
        store_id,
    };
    [stored(camera_id, minute), Fact::SegmentUploaded(fact)]
}

async fn put(control: &TestControl, by: ServerId, camera_id: CameraId, minutes: &[i64]) {
    let facts = minutes.iter().flat_map(|minute| uploaded(camera_id, *minute, Some(STORE)));
    report(control, by, facts.collect()).await;
}

async fn ask(control: &TestControl, who: (ServerId, u8), of: Stock, from: Place, limit: u32) -> StockPart {
    let request = serde_json::to_vec(&ArchiveRequest { from, limit, of: Some(of) }).unwrap();
    let reply = answer(&control.service, who.0, &request).await;
    let ArchiveReply::Part { sealed } = reply else { panic!("{reply:?}") };
    let part: StockPart = serde_json::from_slice(&secret(who.1).unseal(&sealed.0).unwrap()).unwrap();
    assert_eq!((part.server_id, part.of, part.at), (who.0, of, START));
    part
}

/// All that a server is to look after of the store.
async fn all(control: &TestControl, who: (ServerId, u8)) -> Vec<StockedCamera> {
    let part = ask(control, who, Stock::Store(STORE), Place::FIRST, 500).await;
    assert_eq!(part.next, None);
    part.cameras
}

fn keys(segments: &[StockedSegment]) -> Vec<&str> {
    segments.iter().map(|segment| segment.key.as_str()).collect()
}

fn days(days: u32) -> Retention {
    Retention { max_days: Some(days), ..Retention::default() }
}

#[tokio::test]
async fn whoever_records_a_camera_looks_after_all_of_it_and_if_nobody_can_another_does() {
    let control = TestControl::start().await;
    let (first, second) = (server(&control, 1, STORE).await, server(&control, 2, STORE).await);
    let camera_id = camera(&control, days(1)).await;
    let recorder = recorder(&control, camera_id).await;
    let (recorder, other) =
        if recorder == first { ((first, 1), (second, 2)) } else { ((second, 2), (first, 1)) };
    put(&control, recorder.0, camera_id, &[-THREE_DAYS, -5]).await;
    put(&control, other.0, camera_id, &[-THREE_DAYS + 1]).await;

    // Whoever uploaded it, oldest first.
    let told = all(&control, recorder).await;
    assert_eq!(told.len(), 1);
    let expected = [format!("key-{}", -THREE_DAYS), format!("key-{}", -THREE_DAYS + 1), "key--5".to_owned()];
    assert_eq!(keys(&told[0].segments), expected);
    assert_eq!((told[0].camera_id, told[0].retention, told[0].more), (camera_id, days(1), false));
    assert_eq!(all(&control, other).await, [], "it has one keeper");

    // When it uploads elsewhere, or is not heard of, the other does.
    uses(&control, recorder.0, OTHER_STORE);
    assert_eq!(all(&control, recorder).await, []);
    assert_eq!(all(&control, other).await, told);
    uses(&control, recorder.0, STORE);

    // When the camera is deleted, one of them does, by what was told last.
    let expected = control.service.state().camera(TENANT, camera_id).unwrap().version;
    control.execute(Command::DeleteCamera { tenant_id: TENANT, camera_id, expected }).await;
    control.until(|state| state.camera(TENANT, camera_id).is_none()).await;
    let both = [all(&control, recorder).await, all(&control, other).await].concat();
    assert_eq!(both, told);
}

#[tokio::test]
async fn a_camera_is_told_part_by_part_with_the_sum_of_what_is_there() {
    let control = TestControl::start().await;
    let who = (server(&control, 1, STORE).await, 1);
    let bound = Retention { max_bytes: Some(12), ..Retention::default() };
    let (bounded, within) = (camera(&control, bound).await, camera(&control, bound).await);
    let unbounded = camera(&control, Retention::default()).await;
    put(&control, who.0, bounded, &[1, 2, 3, 4, 5]).await;
    put(&control, who.0, within, &[1, 2]).await;
    put(&control, who.0, unbounded, &[-THREE_DAYS]).await;
    // What is missing is not there.
    let Fact::SegmentStored(f) = stored(bounded, 1) else { panic!("it is stored") };
    let missing = SegmentChecked {
        tenant_id: TENANT,
        camera_id: bounded,
        epoch: f.epoch,
        key: f.key,
        start: f.start,
        end: f.end,
        bytes: f.bytes,
        sha256: f.sha256,
        at: f.end,
        damage: Some(Damage::Missing),
        found_bytes: None,
        found_sha256: None,
        store_id: Some(STORE),
        recorded_by: None,
    };
    report(&control, who.0, vec![Fact::SegmentChecked(missing)]).await;

    let (mut found, mut from) = (Vec::new(), Some(Place::FIRST));
    while let Some(at) = from {
        let part = ask(&control, who, Stock::Store(STORE), at, 3).await;
        from = part.next;
        for camera in part.cameras {
            let last = camera.segments.last().unwrap();
            if camera.more {
                let (tenant_id, camera_id) = (camera.tenant_id, camera.camera_id);
                from = Some(Place { tenant_id, camera_id, start: last.start.plus_micros(1) });
            }
            found.push((camera.camera_id, camera.bytes, camera.segments.len(), camera.more));
        }
    }
    assert_eq!(
        found,
        [(bounded, 20, 3, true), (bounded, 20, 1, false)],
        "none of which nothing may have to go"
    );
}

#[tokio::test]
async fn what_lies_nobody_knows_where_is_told_to_whoever_uploaded_it() {
    let control = TestControl::start().await;
    let (first, second) = ((server(&control, 1, STORE).await, 1), (server(&control, 2, STORE).await, 2));
    let camera_id = camera(&control, days(1)).await;
    report(&control, first.0, uploaded(camera_id, -THREE_DAYS, None).to_vec()).await;
    report(&control, second.0, uploaded(camera_id, -THREE_DAYS + 1, None).to_vec()).await;

    for (who, minute) in [(first, -THREE_DAYS), (second, -THREE_DAYS + 1)] {
        let part = ask(&control, who, Stock::Unknown, Place::FIRST, 10).await;
        assert_eq!(part.cameras.len(), 1);
        assert_eq!(keys(&part.cameras[0].segments), [format!("key-{minute}")]);
        assert_eq!(all(&control, who).await, []);
    }
}
