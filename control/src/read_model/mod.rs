//! The read model: what the log says, as tables for queries. Derived and disposable: drop it and the fold writes the
//! same rows again ([`ReadModel::content_hash`] shows that they are the same).
//!
//! It is not the truth and decides nothing: commands are checked against [`longwatch_events::state::State`].
//!
//! Invariants: the rows of a batch and its position become visible together or not at all; each record of the log changes
//! the rows once, whoever applies it and however often ([`Batch`]); rows from `LOG` and rows from `RECORDINGS` do not depend on each other, so it does not matter
//! which of the two is folded further. Every query that is about a tenant's things takes the tenant first.

mod address;
mod batch;
#[cfg(test)]
mod contract;
pub mod digest;
pub mod postgres;
pub mod projection;
pub mod rows;
mod sql;
pub mod sqlite;
pub mod timeline;

use std::error::Error as StdError;
use std::path::Path;
use std::sync::Arc;

use futures::future::BoxFuture;
use longwatch_events::archive::{Place, StockedSegment};
use longwatch_events::hash::Sha256;
use longwatch_events::id::{CameraId, CopyKey, ServerId, TenantId, TriggerId};
use longwatch_events::position::Position;
use longwatch_events::settings::Retention;
use longwatch_events::subject::LogStream;
use longwatch_events::time::Timestamp;
use uuid::Uuid;

pub use batch::{Applied, Batch};
use postgres::PostgresReadModel;
use rows::{
    AssignmentView, CameraState, CameraView, Counts, InStore, Observations, SegmentRow, ServerView, StatusOf,
    StatusRow, TenantRow, TimelineRows, TriggerRow,
};
use sqlite::SqliteReadModel;

/// Why the read model could not answer or be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database did not do what it was asked. Nothing of a batch was written.
    #[error("the read model's database failed: {0}")]
    Database(#[source] Box<dyn StdError + Send + Sync>),
    /// The database cannot be reached, or does not take anybody yet. It is worth another try.
    #[error("the read model's database cannot be reached: {0}")]
    Away(#[source] Box<dyn StdError + Send + Sync>),
    /// The database cannot hold every text.
    #[error(
        "the read model's database has encoding {0}, which cannot hold every text; make it with: CREATE DATABASE … ENCODING \
         'UTF8' TEMPLATE template0"
    )]
    Encoding(String),
    /// The address of the database is not one.
    #[error(
        "`{url}` is not the address of a read model: {why}; expected sqlite://FILE, such as sqlite://data/read_model.db, or \
         postgres://USER:PASSWORD@HOST/DATABASE"
    )]
    Address {
        /// As given, without user, password and parameters.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// A row cannot be read. The read model must be rebuilt.
    #[error("table {table} of the read model holds what this version cannot read: {why}")]
    Corrupt {
        /// Where.
        table: &'static str,
        /// What.
        why: String,
    },
}

/// A part of a list: up to `limit` items behind the key `after`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page<K> {
    /// The last key of the part before; `None`: from the beginning.
    pub after: Option<K>,
    /// How many at most; at least 1.
    pub limit: u32,
}

/// The items of a [`Page`], in the order of their keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Items<T> {
    /// The items.
    pub items: Vec<T>,
    /// Whether there are any behind the last one.
    pub more: bool,
}

/// Which cameras of a tenant.
#[derive(Debug, Clone, Default)]
pub struct CameraFilter {
    /// In this state.
    pub state: Option<CameraState>,
    /// Of which this server records a copy.
    pub server_id: Option<ServerId>,
    /// Whose name holds this text, in whatever case.
    pub text: Option<String>,
    /// What `state` depends on besides the rows.
    pub observations: Observations,
}

/// Which assignments.
#[derive(Debug, Clone, Copy, Default)]
pub struct AssignmentFilter {
    /// Of this server. One that is about to record a copy, while another still does, has no assignment yet.
    pub server_id: Option<ServerId>,
    /// Of this camera.
    pub camera_id: Option<CameraId>,
}

/// A half-open stretch of time: `from` belongs to it, `to` does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// Its beginning.
    pub from: Timestamp,
    /// Its end; not before `from`.
    pub to: Timestamp,
}

/// Up to where a log stream has been folded into the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Written {
    /// Where the last record stands that was folded.
    pub position: Position,
    /// A record that was folded: the last one, or an earlier one if a control of before 0007 folded since; `None`: the rows are
    /// from before this was kept, or there is none.
    pub record: Option<KnownRecord>,
}

/// A record, by which its log stream is known again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownRecord {
    /// Where it stands.
    pub position: Position,
    /// The hash of its payload.
    pub sha256: Sha256,
}

/// The answer of a read model.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, Error>>;

/// Opens the read model at `url`: `sqlite://FILE`, or `postgres://USER:PASSWORD@HOST/DATABASE`.
///
/// # Errors
/// [`Error::Away`] if the database cannot be reached, which may pass; otherwise as the implementations say.
pub async fn open(url: &str) -> Result<Arc<dyn ReadModel>, Error> {
    if let Some(file) = url.strip_prefix(address::SQLITE).filter(|file| !file.is_empty()) {
        Ok(Arc::new(SqliteReadModel::open(Path::new(file)).await?))
    } else if address::POSTGRES.iter().any(|scheme| url.starts_with(scheme)) {
        Ok(Arc::new(PostgresReadModel::open(url).await?))
    } else {
        Err(address::error(url, "it names no file and no database that Longwatch knows"))
    }
}

/// The tables, whatever holds them.
pub trait ReadModel: Send + Sync {
    /// Up to where `stream` has been folded into the rows.
    fn written(&self, stream: LogStream) -> Answer<'_, Written>;

    /// Writes what is not there yet of `batch`, together with its position, in one transaction that nobody else's
    /// overlaps: several replicas may apply what they folded of one log to one database, each at its own pace.
    fn apply<'a>(&'a self, batch: &'a Batch) -> Answer<'a, Applied>;

    /// A tenant.
    fn tenant(&self, tenant: TenantId) -> Answer<'_, Option<TenantRow>>;

    /// All tenants, by id.
    fn tenants(&self, page: Page<TenantId>) -> Answer<'_, Items<TenantRow>>;

    /// A server.
    fn server(&self, server: ServerId) -> Answer<'_, Option<ServerView>>;

    /// All servers, by id.
    fn servers(&self, page: Page<ServerId>) -> Answer<'_, Items<ServerView>>;

    /// A tenant's camera.
    fn camera(&self, tenant: TenantId, camera: CameraId) -> Answer<'_, Option<CameraView>>;

    /// A tenant's cameras that pass `filter`, by id.
    fn cameras(
        &self,
        tenant: TenantId,
        filter: CameraFilter,
        page: Page<CameraId>,
    ) -> Answer<'_, Items<CameraView>>;

    /// The current assignments of all tenants that pass `filter`, by tenant, camera and copy. For the provider.
    fn assignments(&self, filter: AssignmentFilter, page: Page<CopyKey>)
    -> Answer<'_, Items<AssignmentView>>;

    /// What a camera's timeline over `range` follows from.
    fn timeline(&self, tenant: TenantId, camera: CameraId, range: Range) -> Answer<'_, TimelineRows>;

    /// An event at a camera, as each server told that took it, by server; none: nobody told of it (any more).
    fn trigger(&self, tenant: TenantId, camera: CameraId, event: TriggerId) -> Answer<'_, Vec<TriggerRow>>;

    /// The events at cameras of all tenants that are recorded for beyond `now`, those that end first first, of one id each
    /// server's that took it; a bounded number of them. For the provider.
    fn triggers_on(&self, now: Timestamp) -> Answer<'_, Vec<TriggerRow>>;

    /// What `server` said it has and did not say it deleted or uploaded, whatever the epoch, by tenant, camera, start and epoch; from
    /// `from` on (its camera, and from then on), `limit` at most. For that server alone: it is of all tenants.
    fn stored_on(&self, server: ServerId, from: Place, limit: u32) -> Answer<'_, Items<SegmentRow>>;

    /// The first camera behind `after` that has segments in an object store which are not missing there, by tenant and camera.
    fn next_in_store(
        &self,
        of: InStore,
        after: (TenantId, CameraId),
    ) -> Answer<'_, Option<(TenantId, CameraId)>>;

    /// What a camera has in an object store and is not missing there, oldest first: from `from` on (its camera, and from
    /// then on), `limit` at most.
    fn stored_in(&self, of: InStore, from: Place, limit: u32) -> Answer<'_, Items<StockedSegment>>;

    /// Bytes of all of it.
    fn bytes_in(&self, of: InStore, camera: (TenantId, CameraId)) -> Answer<'_, u64>;

    /// How long video of a camera was to be kept when it was deleted.
    fn former_retention(&self, tenant: TenantId, camera: CameraId) -> Answer<'_, Option<Retention>>;

    /// What was last heard of each, in the order in which they are asked for.
    fn statuses(&self, of: Vec<StatusOf>) -> Answer<'_, Vec<Option<StatusRow>>>;

    /// Where the event stands in `LOG` that was to create this thing, whether or not it exists (any more); known of things
    /// whose id follows from an `Idempotency-Key`.
    fn creation(&self, thing: Uuid) -> Answer<'_, Option<Position>>;

    /// How much there is of everything.
    fn counts(&self, observations: Observations) -> Answer<'_, Counts>;

    /// A hash over all rows of all tables ([`digest`]): two read models folded from the same log up to the same
    /// positions have the same. Reads everything.
    fn content_hash(&self) -> Answer<'_, Sha256>;
}
