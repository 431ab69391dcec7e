//! What all SQL databases have in common: changes → statements, queries → rows, rows → values. One text for all engines,
//! written in the SQL they share; where they differ there is a [`Dialect`].
//!
//! Not here: connections, transactions and locks, which are each engine's own ([`Database`]).
//!
//! Invariant: a statement's text is put together from constants only; everything from outside is a [`Value`].

mod convert;
mod driver;
mod read;
mod statement;
pub(super) mod triggers;
pub(super) mod write;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use longwatch_events::archive::{Place, StockedSegment};
use longwatch_events::hash::Sha256;
use longwatch_events::id::{CameraId, CopyKey, ServerId, TenantId, TriggerId};
use longwatch_events::position::Position;
use longwatch_events::settings::Retention;
use longwatch_events::subject::LogStream;
use longwatch_events::time::Timestamp;
use uuid::Uuid;

use super::digest::Hasher;
use super::rows::{
    AssignmentView, CameraView, Counts, InStore, Observations, SegmentRow, ServerView, StatusOf, StatusRow,
    TenantRow, TimelineRows, TriggerRow,
};
use super::{
    Answer, Applied, AssignmentFilter, Batch, CameraFilter, Error, Items, Page, Range, ReadModel, Written,
};

pub(super) use read::written;
pub(super) use statement::{Statement, Value, sql};

/// Where engines differ.
#[derive(Debug)]
pub(super) struct Dialect {
    /// What makes the table `observed (server_id, silent, boot_id)` of a JSON array of `{"server", "silent", "boot"}`:
    /// the text before the array and the text behind it.
    pub(super) observed: (&'static str, &'static str),
    /// The function that says where in its first argument the second one stands, from 1; 0: nowhere.
    pub(super) position_in_text: &'static str,
}

/// What is done with each row of an answer.
type RowWork<'w> = dyn FnMut(&dyn Columns) -> Result<(), Error> + Send + 'w;

/// A connection inside a transaction.
pub(super) trait Connection: Send {
    /// Runs a statement that answers no rows.
    fn execute(&mut self, statement: Statement) -> BoxFuture<'_, Result<(), Error>>;

    /// Runs a query, and `work` on each row.
    fn each_row<'c>(
        &'c mut self,
        query: Statement,
        work: &'c mut RowWork<'_>,
    ) -> BoxFuture<'c, Result<(), Error>>;
}

/// A row of an answer. `None` is NULL.
pub(super) trait Columns {
    /// A whole number.
    fn integer(&self, column: &str) -> Result<Option<i64>, sqlx::Error>;
    /// A text.
    fn text(&self, column: &str) -> Result<Option<&str>, sqlx::Error>;
    /// A truth.
    fn truth(&self, column: &str) -> Result<Option<bool>, sqlx::Error>;
    /// Bytes.
    fn bytes(&self, column: &str) -> Result<Option<&[u8]>, sqlx::Error>;
    /// An id.
    fn id(&self, column: &str) -> Result<Option<Uuid>, sqlx::Error>;
    /// Gives all columns, in order, to `hasher`.
    fn hash(&self, hasher: &mut Hasher) -> Result<(), sqlx::Error>;
}

/// An engine with its connections.
pub(super) trait Database: Send + Sync {
    /// How its SQL differs.
    const DIALECT: Dialect;

    /// Runs `work` in one reading transaction, so that all it sees is of one moment.
    fn reading<'a, T: Send + 'a>(
        &'a self,
        work: impl for<'c> FnOnce(&'c mut dyn Connection) -> BoxFuture<'c, Result<T, Error>> + Send + 'a,
    ) -> Answer<'a, T>;

    /// [`ReadModel::apply`].
    fn write<'a>(&'a self, batch: &'a Batch) -> Answer<'a, Applied>;
}

impl<D: Database> ReadModel for D {
    fn written(&self, stream: LogStream) -> Answer<'_, Written> {
        self.reading(move |db| read::written(db, stream).boxed())
    }

    fn apply<'a>(&'a self, batch: &'a Batch) -> Answer<'a, Applied> {
        self.write(batch)
    }

    fn tenant(&self, tenant: TenantId) -> Answer<'_, Option<TenantRow>> {
        self.reading(move |db| read::tenant(db, tenant).boxed())
    }

    fn tenants(&self, page: Page<TenantId>) -> Answer<'_, Items<TenantRow>> {
        self.reading(move |db| read::tenants(db, page).boxed())
    }

    fn server(&self, server: ServerId) -> Answer<'_, Option<ServerView>> {
        self.reading(move |db| read::server(db, server).boxed())
    }

    fn servers(&self, page: Page<ServerId>) -> Answer<'_, Items<ServerView>> {
        self.reading(move |db| read::servers(db, page).boxed())
    }

    fn camera(&self, tenant: TenantId, camera: CameraId) -> Answer<'_, Option<CameraView>> {
        self.reading(move |db| read::camera(db, tenant, camera).boxed())
    }

    fn cameras(
        &self,
        tenant: TenantId,
        filter: CameraFilter,
        page: Page<CameraId>,
    ) -> Answer<'_, Items<CameraView>> {
        self.reading(move |db| read::cameras(db, &D::DIALECT, tenant, filter, page).boxed())
    }

    fn assignments(
        &self,
        filter: AssignmentFilter,
        page: Page<CopyKey>,
    ) -> Answer<'_, Items<AssignmentView>> {
        self.reading(move |db| read::assignments(db, filter, page).boxed())
    }

    fn timeline(&self, tenant: TenantId, camera: CameraId, range: Range) -> Answer<'_, TimelineRows> {
        self.reading(move |db| read::timeline(db, tenant, camera, range).boxed())
    }

    fn trigger(&self, tenant: TenantId, camera: CameraId, event: TriggerId) -> Answer<'_, Vec<TriggerRow>> {
        self.reading(move |db| triggers::told(db, tenant, camera, event).boxed())
    }

    fn triggers_on(&self, now: Timestamp) -> Answer<'_, Vec<TriggerRow>> {
        self.reading(move |db| triggers::on(db, now).boxed())
    }

    fn stored_on(&self, server: ServerId, from: Place, limit: u32) -> Answer<'_, Items<SegmentRow>> {
        self.reading(move |db| read::stored_on(db, server, from, limit).boxed())
    }

    fn next_in_store(
        &self,
        of: InStore,
        after: (TenantId, CameraId),
    ) -> Answer<'_, Option<(TenantId, CameraId)>> {
        self.reading(move |db| read::next_in_store(db, of, after).boxed())
    }

    fn stored_in(&self, of: InStore, from: Place, limit: u32) -> Answer<'_, Items<StockedSegment>> {
        self.reading(move |db| read::stored_in(db, of, from, limit).boxed())
    }

    fn bytes_in(&self, of: InStore, camera: (TenantId, CameraId)) -> Answer<'_, u64> {
        self.reading(move |db| read::bytes_in(db, of, camera).boxed())
    }

    fn former_retention(&self, tenant: TenantId, camera: CameraId) -> Answer<'_, Option<Retention>> {
        self.reading(move |db| read::former_retention(db, tenant, camera).boxed())
    }

    fn statuses(&self, of: Vec<StatusOf>) -> Answer<'_, Vec<Option<StatusRow>>> {
        self.reading(move |db| read::statuses(db, of).boxed())
    }

    fn creation(&self, thing: Uuid) -> Answer<'_, Option<Position>> {
        self.reading(move |db| read::creation(db, thing).boxed())
    }

    fn counts(&self, observations: Observations) -> Answer<'_, Counts> {
        self.reading(move |db| read::counts(db, &D::DIALECT, observations).boxed())
    }

    fn content_hash(&self) -> Answer<'_, Sha256> {
        self.reading(move |db| read::content_hash(db).boxed())
    }
}
