//! A log in a list, and what happens in it.

use longwatch_events::event::{
    CameraAdded, CameraDeleted, Decision, DetachedCameras, Event, Part, PlanEntry, PlanMade,
    RecordingReported, ServerAdded, ServerDetached, ServerJoined, TenantCreated,
};
use longwatch_events::fact::{
    Cause, Codec, Damage, DeletionReason, Fact, FirstKeyframeDurable, Gap, Interrupted, SegmentChecked,
    SegmentDeleted, SegmentStored, SegmentUploaded, Started,
};
use longwatch_events::fold;
use longwatch_events::hash::Sha256;
use longwatch_events::id::{
    BootId, CameraId, CopyKey, CountingIds, EventId, IdSource as _, ServerId, StoreId, TenantId,
};
use longwatch_events::position::{Epoch, Position};
use longwatch_events::reason::{AssignReason, UnplacedReason};
use longwatch_events::sealed::{Base64Bytes, PublicKey, Sealed, WrappedKey};
use longwatch_events::settings::{
    CameraSettings, Capacity, Failover, Labels, Priority, Recording, Retention, ServerSettings, Source,
    Transport,
};
use longwatch_events::state::State;
use longwatch_events::subject::LogStream;
use longwatch_events::time::Timestamp;

use super::super::projection::{self, Before};
use super::super::rows::{Change, Condition};
use super::super::{Applied, Batch, Page, ReadModel};

/// A log in a list, folded into a read model.
pub(super) struct World<'m> {
    pub(super) model: &'m dyn ReadModel,
    pub(super) state: State,
    pub(super) ids: CountingIds,
    pub(super) recordings: u64,
    pub(super) seconds: i64,
}

/// The run of every worker.
pub(super) const BOOT: BootId = BootId::from_uuid(uuid::Uuid::nil());

pub(super) fn at(second: i64) -> Timestamp {
    Timestamp::from_millis(second * 1_000)
}

pub(super) fn all<K>() -> Page<K> {
    Page { after: None, limit: 1_000 }
}

pub(super) fn camera_settings(name: &str) -> CameraSettings {
    CameraSettings {
        name: name.to_owned(),
        labels: Labels::new(),
        source: Source {
            url: "rtsp://camera/1".to_owned(),
            secret: Sealed {
                sealed_in: EventId::generate(&CountingIds::default()),
                bytes: Base64Bytes(vec![1]),
            },
            transport: Transport::Tcp,
        },
        recording: Recording::default(),
        retention: Retention::default(),
        failover_priority: Priority::Medium,
        preferred_server_id: None,
        copies: 1,
        expected_bitrate_bps: Some(2_000_000),
        server_labels: Labels::new(),
        single_session: false,
        live_latency_ms: None,
    }
}

/// What one record does.
pub(in super::super) fn batch_of_one(stream: LogStream, position: Position, changes: Vec<Change>) -> Batch {
    let changes = changes.into_iter().map(|change| (position, change)).collect();
    Batch { stream, after: Position(position.0 - 1), up_to: position, record: None, changes }
}

impl<'m> World<'m> {
    pub(super) fn new(model: &'m dyn ReadModel) -> Self {
        Self { model, state: State::default(), ids: CountingIds::default(), recordings: 0, seconds: 0 }
    }

    /// Appends to LOG and folds.
    pub(super) async fn happens(&mut self, event: Event) -> Position {
        let position = self.state.position.next();
        self.seconds += 1;
        let before = Before::of(&self.state, &event);
        fold::apply(&mut self.state, position, at(self.seconds), &event).unwrap();
        let changes = projection::of_log(&before, &self.state, position, at(self.seconds), &event);
        let batch = batch_of_one(LogStream::Log, position, changes);
        assert_eq!(self.model.apply(&batch).await.unwrap(), Applied::Written);
        position
    }

    /// Appends to RECORDINGS and folds.
    pub(super) async fn reported(&mut self, server_id: ServerId, facts: Vec<Fact>) {
        self.recordings += 1;
        let report = RecordingReported { server_id, boot_id: BOOT, facts };
        let position = Position(self.recordings);
        let changes = projection::of_recording(position, &report);
        let batch = batch_of_one(LogStream::Recordings, position, changes);
        assert_eq!(self.model.apply(&batch).await.unwrap(), Applied::Written);
    }

    pub(super) async fn tenant(&mut self, name: &str) -> TenantId {
        let tenant_id = TenantId::generate(&self.ids);
        let data_key = WrappedKey { provider: "file".to_owned(), bytes: Base64Bytes::default() };
        self.happens(Event::TenantCreated(TenantCreated { tenant_id, name: name.to_owned(), data_key }))
            .await;
        tenant_id
    }

    pub(super) async fn server(&mut self, name: &str) -> ServerId {
        let server_id = ServerId::generate(&self.ids);
        let settings = ServerSettings {
            name: name.to_owned(),
            labels: Labels::new(),
            capacity: Capacity::default(),
            failover: Failover::default(),
        };
        self.happens(Event::ServerAdded(ServerAdded { server_id, settings })).await;
        let mut key = [0; 32];
        key[..16].copy_from_slice(self.ids.next().as_bytes());
        let joined = ServerJoined {
            server_id,
            name: name.to_owned(),
            public_key: PublicKey(key),
            labels: Labels::new(),
            capacity: Capacity::default(),
        };
        self.happens(Event::ServerJoined(joined)).await;
        server_id
    }

    pub(super) async fn camera(&mut self, tenant_id: TenantId, settings: CameraSettings) -> CameraId {
        let camera_id = CameraId::generate(&self.ids);
        self.happens(Event::CameraAdded(CameraAdded { tenant_id, camera_id, settings })).await;
        camera_id
    }

    pub(super) async fn plan(
        &mut self,
        tenant_id: TenantId,
        camera_id: CameraId,
        decision: Decision,
    ) -> Epoch {
        self.plan_copy(CopyKey { tenant_id, camera_id, copy: 0 }, decision).await
    }

    pub(super) async fn plan_copy(&mut self, key: CopyKey, decision: Decision) -> Epoch {
        let CopyKey { tenant_id, camera_id, copy } = key;
        let entries = vec![PlanEntry { tenant_id, camera_id, copy, decision }];
        let basis = self.state.position;
        let (decided_at, part) = (Some(at(self.seconds)), Part::WHOLE);
        let plan = PlanMade { basis, rules: 1, decided_at, part, entries };
        Epoch::from(self.happens(Event::PlanMade(plan)).await)
    }

    pub(super) async fn assign(&mut self, tenant: TenantId, camera: CameraId, server_id: ServerId) -> Epoch {
        let decision = Decision::Assign { server_id, reason: AssignReason::LeastLoaded };
        self.plan(tenant, camera, decision).await
    }

    pub(super) async fn condition(&self, tenant: TenantId, camera: CameraId) -> Option<Condition> {
        let view = self.model.camera(tenant, camera).await.unwrap().unwrap();
        view.copies[0].status.as_ref().map(|status| status.condition.clone())
    }
}

pub(super) fn started(tenant_id: TenantId, camera_id: CameraId, epoch: Epoch, second: i64) -> Fact {
    let (video, audio) = (Codec::H264, Some(Codec::Aac));
    Fact::Started(Started {
        tenant_id,
        camera_id,
        epoch,
        at: at(second),
        video,
        audio,
        not_recorded: Vec::new(),
    })
}

pub(super) fn keyframe(tenant_id: TenantId, camera_id: CameraId, epoch: Epoch, second: i64) -> Fact {
    let (start, durable_at) = (at(second), at(second + 1));
    Fact::FirstKeyframeDurable(FirstKeyframeDurable { tenant_id, camera_id, epoch, start, durable_at })
}

pub(super) fn interrupted(
    tenant_id: TenantId,
    camera_id: CameraId,
    epoch: Epoch,
    second: i64,
    cause: Cause,
) -> Fact {
    let detail = "said so".to_owned();
    Fact::Interrupted(Interrupted { tenant_id, camera_id, epoch, at: at(second), cause, detail })
}

pub(super) fn stored(tenant_id: TenantId, camera_id: CameraId, epoch: Epoch, start: i64, end: i64) -> Fact {
    Fact::SegmentStored(SegmentStored {
        tenant_id,
        camera_id,
        epoch,
        key: format!("{tenant_id}/{camera_id}/{start}.mp4"),
        start: at(start),
        end: at(end),
        bytes: 1_000,
        sha256: Sha256::of(&start.to_be_bytes()),
        video_frames: 25,
        video: Codec::H265,
        audio: None,
        repaired: false,
    })
}

/// Its key and its start are those of [`stored`].
pub(super) fn uploaded(tenant_id: TenantId, camera_id: CameraId, epoch: Epoch, start: i64) -> Fact {
    Fact::SegmentUploaded(SegmentUploaded {
        tenant_id,
        camera_id,
        epoch,
        key: format!("{tenant_id}/{camera_id}/{start}.mp4"),
        start: at(start),
        bytes: 1_000,
        sha256: Sha256::of(&start.to_be_bytes()),
        at: at(start + 100),
        store_id: None,
    })
}

/// The same, to this object store.
pub(super) fn uploaded_to(store_id: StoreId, fact: Fact) -> Fact {
    let Fact::SegmentUploaded(fact) = fact else { panic!("{fact:?}") };
    Fact::SegmentUploaded(SegmentUploaded { store_id: Some(store_id), ..fact })
}

/// A deletion or a finding that is told by another server than the one that recorded the segment.
pub(super) fn of_another(recorded_by: ServerId, store_id: Option<StoreId>, fact: Fact) -> Fact {
    match fact {
        Fact::SegmentDeleted(fact) => {
            Fact::SegmentDeleted(SegmentDeleted { store_id, recorded_by: Some(recorded_by), ..fact })
        }
        Fact::SegmentChecked(fact) => {
            Fact::SegmentChecked(SegmentChecked { store_id, recorded_by: Some(recorded_by), ..fact })
        }
        other @ (Fact::Started(_)
        | Fact::FirstKeyframeDurable(_)
        | Fact::SegmentStored(_)
        | Fact::SegmentUploaded(_)
        | Fact::Interrupted(_)
        | Fact::Gap(_)
        | Fact::TimestampJumped(_)
        | Fact::RecordingTriggered(_)) => panic!("{other:?}"),
    }
}

/// Its key and its times are those of [`stored`].
pub(super) fn deleted(
    tenant_id: TenantId,
    camera_id: CameraId,
    epoch: Epoch,
    (start, end): (i64, i64),
    reason: DeletionReason,
) -> Fact {
    Fact::SegmentDeleted(SegmentDeleted {
        tenant_id,
        camera_id,
        epoch,
        key: format!("{tenant_id}/{camera_id}/{start}.mp4"),
        start: at(start),
        end: at(end),
        bytes: 1_000,
        at: at(end + 10_000),
        reason,
        before_min_age: false,
        store_id: None,
        recorded_by: None,
    })
}

/// Its key and its times are those of [`stored`].
pub(super) fn checked(
    tenant_id: TenantId,
    camera_id: CameraId,
    epoch: Epoch,
    (start, end): (i64, i64),
    damage: Option<Damage>,
) -> Fact {
    Fact::SegmentChecked(SegmentChecked {
        tenant_id,
        camera_id,
        epoch,
        key: format!("{tenant_id}/{camera_id}/{start}.mp4"),
        start: at(start),
        end: at(end),
        bytes: 1_000,
        sha256: Sha256::of(&start.to_be_bytes()),
        at: at(end + 5_000),
        damage,
        found_bytes: None,
        found_sha256: None,
        store_id: None,
        recorded_by: None,
    })
}

/// Everything the log can say, once.
pub(super) async fn everything(world: &mut World<'_>) -> (TenantId, CameraId, ServerId, Epoch) {
    let tenant = world.tenant("Harbour").await;
    let server = world.server("north").await;
    let camera = world.camera(tenant, camera_settings("Gate 3")).await;
    let unplaced = world.camera(tenant, camera_settings("Gate 4")).await;
    let deleted = world.camera(tenant, camera_settings("Gate 5")).await;
    let epoch = world.assign(tenant, camera, server).await;
    world.plan(tenant, unplaced, Decision::Unplace { reason: UnplacedReason::NoCapacity }).await;
    world.happens(Event::CameraDeleted(CameraDeleted { tenant_id: tenant, camera_id: deleted })).await;
    let gap = Fact::Gap(Gap {
        tenant_id: tenant,
        camera_id: camera,
        epoch,
        start: at(60),
        end: at(70),
        cause: Cause::Closed,
    });
    let facts = vec![
        started(tenant, camera, epoch, 9),
        keyframe(tenant, camera, epoch, 10),
        stored(tenant, camera, epoch, 10, 60),
        interrupted(tenant, camera, epoch, 60, Cause::Closed),
        gap,
        keyframe(tenant, camera, epoch, 70),
    ];
    world.reported(server, facts).await;
    (tenant, camera, server, epoch)
}

/// A log in which most things happen several times to the same few rows, so that each record must be applied once and in
/// its place.
pub(super) async fn eventful(world: &mut World<'_>) {
    let (tenant, camera, server, epoch) = everything(world).await;
    let others = [world.server("south").await, world.server("west").await];
    let second = world.camera(tenant, camera_settings("Gate 6")).await;
    let mut current = (server, epoch);
    let store = StoreId::from_uuid(uuid::Uuid::max());
    for (round, other) in (0..).zip(others.into_iter().cycle().take(8)) {
        let start = 100 + 50 * round;
        world.tenant(&format!("Tenant {round}")).await;
        let (recording, epoch) = current;
        let facts = vec![
            interrupted(tenant, camera, epoch, start, Cause::Closed),
            stored(tenant, camera, epoch, start - 30, start),
            stored(tenant, camera, epoch, start - 40, start - 30),
            uploaded_to(store, uploaded(tenant, camera, epoch, start - 40)),
            deleted(tenant, camera, epoch, (start - 30, start), DeletionReason::VolumeFull),
        ];
        world.reported(recording, facts).await;
        world.reported(recording, vec![stored(tenant, camera, epoch, start + 10, start + 5)]).await;
        let damage =
            [Some(Damage::Corrupt), Some(Damage::Missing), None][usize::try_from(round).unwrap() % 3];
        world.reported(recording, vec![stored(tenant, camera, epoch, start - 48, start - 40)]).await;
        world
            .reported(recording, vec![checked(tenant, camera, epoch, (start - 48, start - 40), damage)])
            .await;
        let by_another = |fact| of_another(recording, Some(store), fact);
        let gone = deleted(tenant, camera, epoch, (start - 40, start - 30), DeletionReason::Age);
        world.reported(other, vec![by_another(gone)]).await;
        current = (other, world.assign(tenant, camera, other).await);
        world.reported(other, vec![started(tenant, camera, current.1, start + 8)]).await;
        world.reported(other, vec![keyframe(tenant, camera, current.1, start + 10)]).await;
        let decision = Decision::Unplace { reason: UnplacedReason::NoCapacity };
        let second_epoch = world.assign(tenant, second, server).await;
        world.reported(server, vec![keyframe(tenant, second, second_epoch, start + 20)]).await;
        world.plan(tenant, second, decision).await;
    }
    let cameras = DetachedCameras::Keep;
    world.happens(Event::ServerDetached(ServerDetached { server_id: current.0, cameras })).await;
}
