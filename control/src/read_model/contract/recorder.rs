//! A read model that holds no rows: it takes changes down, to be applied elsewhere in another order.

use std::sync::Mutex;

use futures::FutureExt as _;
use futures::future::ready;
use longwatch_events::archive::{Place, StockedSegment};
use longwatch_events::hash::Sha256;
use longwatch_events::id::{CameraId, CopyKey, ServerId, TenantId, TriggerId};
use longwatch_events::position::Position;
use longwatch_events::settings::Retention;
use longwatch_events::subject::LogStream;
use longwatch_events::time::Timestamp;
use uuid::Uuid;

use super::super::rows::{
    AssignmentView, CameraView, Counts, InStore, Observations, SegmentRow, ServerView, StatusOf, StatusRow,
    TenantRow, TimelineRows, TriggerRow,
};
use super::super::{
    Answer, Applied, AssignmentFilter, Batch, CameraFilter, Error, Items, Page, Range, ReadModel, Written,
};

/// Takes changes down instead of applying them.
#[derive(Default)]
pub(super) struct Recorder(Mutex<Vec<Batch>>);

impl Recorder {
    /// All that was applied of a log stream, in one batch.
    pub(super) fn taken(&self, stream: LogStream) -> Batch {
        let batches = self.0.lock().unwrap();
        let of_stream = || batches.iter().filter(|batch| batch.stream == stream);
        Batch {
            stream,
            after: Position::START,
            up_to: of_stream().map(|batch| batch.up_to).max().unwrap(),
            record: None,
            changes: of_stream().flat_map(|batch| batch.changes.clone()).collect(),
        }
    }
}

fn nothing<T: Send + 'static>() -> Answer<'static, T> {
    ready(Err(Error::Corrupt { table: "none", why: "a recorder holds no rows".to_owned() })).boxed()
}

impl ReadModel for Recorder {
    fn apply<'a>(&'a self, batch: &'a Batch) -> Answer<'a, Applied> {
        self.0.lock().unwrap().push(batch.clone());
        ready(Ok(Applied::Written)).boxed()
    }

    fn written(&self, _: LogStream) -> Answer<'_, Written> {
        nothing()
    }

    fn trigger(&self, _: TenantId, _: CameraId, _: TriggerId) -> Answer<'_, Vec<TriggerRow>> {
        nothing()
    }

    fn triggers_on(&self, _: Timestamp) -> Answer<'_, Vec<TriggerRow>> {
        nothing()
    }

    fn tenant(&self, _: TenantId) -> Answer<'_, Option<TenantRow>> {
        nothing()
    }

    fn tenants(&self, _: Page<TenantId>) -> Answer<'_, Items<TenantRow>> {
        nothing()
    }

    fn server(&self, _: ServerId) -> Answer<'_, Option<ServerView>> {
        nothing()
    }

    fn servers(&self, _: Page<ServerId>) -> Answer<'_, Items<ServerView>> {
        nothing()
    }

    fn camera(&self, _: TenantId, _: CameraId) -> Answer<'_, Option<CameraView>> {
        nothing()
    }

    fn cameras(&self, _: TenantId, _: CameraFilter, _: Page<CameraId>) -> Answer<'_, Items<CameraView>> {
        nothing()
    }

    fn assignments(&self, _: AssignmentFilter, _: Page<CopyKey>) -> Answer<'_, Items<AssignmentView>> {
        nothing()
    }

    fn timeline(&self, _: TenantId, _: CameraId, _: Range) -> Answer<'_, TimelineRows> {
        nothing()
    }

    fn stored_on(&self, _: ServerId, _: Place, _: u32) -> Answer<'_, Items<SegmentRow>> {
        nothing()
    }

    fn next_in_store(&self, _: InStore, _: (TenantId, CameraId)) -> Answer<'_, Option<(TenantId, CameraId)>> {
        nothing()
    }

    fn stored_in(&self, _: InStore, _: Place, _: u32) -> Answer<'_, Items<StockedSegment>> {
        nothing()
    }

    fn bytes_in(&self, _: InStore, _: (TenantId, CameraId)) -> Answer<'_, u64> {
        nothing()
    }

    fn former_retention(&self, _: TenantId, _: CameraId) -> Answer<'_, Option<Retention>> {
        nothing()
    }

    fn statuses(&self, _: Vec<StatusOf>) -> Answer<'_, Vec<Option<StatusRow>>> {
        nothing()
    }

    fn creation(&self, _: Uuid) -> Answer<'_, Option<Position>> {
        nothing()
    }

    fn counts(&self, _: Observations) -> Answer<'_, Counts> {
        nothing()
    }

    fn content_hash(&self) -> Answer<'_, Sha256> {
        nothing()
    }
}
