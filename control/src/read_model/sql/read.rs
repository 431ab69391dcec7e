//! Queries. Each runs inside a transaction the caller has begun.

use longwatch_events::archive::{Place, StockedSegment};
use longwatch_events::hash::Sha256;
use longwatch_events::id::{CameraId, CopyKey, ServerId, TenantId};
use longwatch_events::position::Position;
use longwatch_events::settings::Retention;
use longwatch_events::subject::LogStream;
use serde_json::json;
use uuid::Uuid;

use super::super::digest::{Hasher, TABLES};
use super::super::rows::{
    AssignmentView, CameraRow, CameraState, CameraView, CopyView, Counts, InStore, Observations, SegmentRow,
    ServerView, StatusOf, StatusRow, TenantRow, TimelineRows,
};
use super::super::{AssignmentFilter, CameraFilter, Error, Items, KnownRecord, Page, Range, Written};
use super::convert::Reader;
use super::{Connection, Dialect, Statement, sql, triggers};

/// How far `stream` has been folded.
pub(in super::super) async fn written(db: &mut dyn Connection, stream: LogStream) -> Result<Written, Error> {
    const SQL: &str = "SELECT position, record, record_position FROM positions WHERE stream = $1";
    let written = one(db, "positions", sql(SQL).bind(stream.name()), |row| {
        let sha256 = row.optional_sha256("record")?;
        let record = match sha256 {
            Some(sha256) => {
                Some(KnownRecord { position: Position(row.unsigned("record_position")?), sha256 })
            }
            None => None,
        };
        Ok(Written { position: Position(row.unsigned("position")?), record })
    });
    Ok(written.await?.unwrap_or_default())
}

/// All rows of an answer, each read by `read`.
pub(super) async fn all<T: Send>(
    db: &mut dyn Connection,
    table: &'static str,
    query: Statement,
    read: impl Fn(&Reader<'_>) -> Result<T, Error> + Send + Sync,
) -> Result<Vec<T>, Error> {
    let mut items = Vec::new();
    let mut work = |row: &dyn super::Columns| {
        items.push(read(&Reader::new(table, row))?);
        Ok(())
    };
    db.each_row(query, &mut work).await?;
    Ok(items)
}

/// The only row of an answer, if there is one.
async fn one<T: Send>(
    db: &mut dyn Connection,
    table: &'static str,
    query: Statement,
    read: impl Fn(&Reader<'_>) -> Result<T, Error> + Send + Sync,
) -> Result<Option<T>, Error> {
    Ok(all(db, table, query, read).await?.pop())
}

/// `limit` and one more were asked for: the one more says that there is more.
fn items<T>(mut items: Vec<T>, limit: u32) -> Items<T> {
    let limit = limit as usize;
    let more = items.len() > limit;
    items.truncate(limit);
    Items { items, more }
}

pub(super) async fn tenant(db: &mut dyn Connection, id: TenantId) -> Result<Option<TenantRow>, Error> {
    let query = sql("SELECT * FROM tenants WHERE tenant_id = $1").bind(id);
    one(db, "tenants", query, |row| row.tenant()).await
}

pub(super) async fn tenants(
    db: &mut dyn Connection,
    page: Page<TenantId>,
) -> Result<Items<TenantRow>, Error> {
    let mut query = sql("SELECT * FROM tenants");
    if let Some(after) = page.after {
        query = query.push(" WHERE tenant_id > ").push_bind(after);
    }
    let query = query.push(" ORDER BY tenant_id LIMIT ").push_bind(i64::from(page.limit) + 1);
    Ok(items(all(db, "tenants", query, |row| row.tenant()).await?, page.limit))
}

const SERVERS: &str = "SELECT s.*, (SELECT count(*) FROM copies p WHERE p.server_id = s.server_id) \
    + (SELECT count(*) FROM copies p WHERE p.successor_server_id = s.server_id) AS cameras FROM servers s";

pub(super) async fn server(db: &mut dyn Connection, id: ServerId) -> Result<Option<ServerView>, Error> {
    let query = sql(SERVERS).push(" WHERE s.server_id = ").push_bind(id);
    one(db, "servers", query, |row| row.server()).await
}

pub(super) async fn servers(
    db: &mut dyn Connection,
    page: Page<ServerId>,
) -> Result<Items<ServerView>, Error> {
    let mut query = sql(SERVERS);
    if let Some(after) = page.after {
        query = query.push(" WHERE s.server_id > ").push_bind(after);
    }
    let query = query.push(" ORDER BY s.server_id LIMIT ").push_bind(i64::from(page.limit) + 1);
    Ok(items(all(db, "servers", query, |row| row.server()).await?, page.limit))
}

/// The rule of [`CameraView::state`] in SQL, over the copies of one camera. States are numbered as in
/// [`CameraState::ALL`].
const CAMERA_STATE: &str = "\
    CAST(min(CASE WHEN NOT c.wants_recording THEN 5 \
      WHEN p.placement <> 'assigned' THEN 4 \
      WHEN o.silent THEN 3 \
      WHEN r.state = 'offline' AND r.cause IN ('not_scheduled', 'no_event') THEN 2 \
      WHEN r.state = 'offline' THEN 3 \
      WHEN r.state = 'recording' AND (o.boot_id IS NULL OR o.boot_id = r.boot_id) THEN 0 \
      ELSE 1 END) AS BIGINT)";

/// Where a camera stands in [`CameraState::ALL`].
const fn number(state: CameraState) -> i64 {
    match state {
        CameraState::Recording => 0,
        CameraState::Connecting => 1,
        CameraState::Idle => 2,
        CameraState::Offline => 3,
        CameraState::Unplaced => 4,
        CameraState::Disabled => 5,
    }
}

/// Cameras `c` with each of their copies `p`.
const COPIES: &str = " JOIN copies p ON p.tenant_id = c.tenant_id AND p.camera_id = c.camera_id";

/// What each copy's server `r` says of it.
const STATUSES: &str = " LEFT JOIN recording_status r \
      ON r.tenant_id = p.tenant_id AND r.camera_id = p.camera_id AND r.epoch = p.epoch \
        AND r.server_id = p.server_id";

/// What is observed of each copy's server.
const OBSERVED: &str = " LEFT JOIN observed o ON o.server_id = p.server_id";

/// The beginning of a query in which there is a table `observed`. What is observed of servers comes as one JSON text, so
/// that the number of servers is not the number of values.
fn with_observed(dialect: &Dialect, observations: &Observations) -> Statement {
    let observed = observations.iter().map(|(server, observation)| {
        json!({
            "server": server.as_uuid().simple().to_string(),
            "silent": observation.silent,
            "boot": observation.boot_id.map(|boot| boot.as_uuid().simple().to_string()),
        })
    });
    let observed = serde_json::Value::Array(observed.collect()).to_string();
    let (before, behind) = dialect.observed;
    sql("WITH observed (server_id, silent, boot_id) AS MATERIALIZED (")
        .push(before)
        .push_bind(observed)
        .push(behind)
        .push(") ")
}

/// Goes from the columns of cameras on to their copies: the table that follows is of cameras.
const OF_COPIES: &str = "SELECT c.*, p.copy, p.placement, p.server_id, p.epoch, p.placed_at_us, p.placement_reason, \
    p.home_server_id, p.successor_server_id, p.successor_epoch, p.successor_since_us, p.successor_reason, \
    r.server_id AS status_server_id, r.boot_id, r.state, r.since_us, r.position, r.cause, r.detail, \
    r.recording_since_us, r.recording_until_us FROM ";

/// The cameras of an answer that has a row for each copy, in the order of both.
async fn cameras_of_copies(db: &mut dyn Connection, query: Statement) -> Result<Vec<CameraView>, Error> {
    let read = |row: &Reader<'_>| Ok((row.camera()?, row.copy()?));
    let mut cameras: Vec<CameraView> = Vec::new();
    for (row, copy) in all(db, "copies", query, read).await? {
        let (row, copy): (CameraRow, CopyView) = (row, copy);
        match cameras.last_mut() {
            Some(last) if last.row.camera_id == row.camera_id => last.copies.push(copy),
            Some(_) | None => cameras.push(CameraView { row, copies: vec![copy] }),
        }
    }
    Ok(cameras)
}

pub(super) async fn camera(
    db: &mut dyn Connection,
    tenant: TenantId,
    camera: CameraId,
) -> Result<Option<CameraView>, Error> {
    let query = sql(OF_COPIES)
        .push("cameras c")
        .push(COPIES)
        .push(STATUSES)
        .push(" WHERE c.tenant_id = ")
        .push_bind(tenant)
        .push(" AND c.camera_id = ")
        .push_bind(camera)
        .push(" ORDER BY p.copy");
    Ok(cameras_of_copies(db, query).await?.pop())
}

pub(super) async fn cameras(
    db: &mut dyn Connection,
    dialect: &Dialect,
    tenant: TenantId,
    filter: CameraFilter,
    page: Page<CameraId>,
) -> Result<Items<CameraView>, Error> {
    // First the cameras of the page, then their copies: a camera is of the page with all of them or not at all.
    let mut query = match filter.state {
        Some(_) => with_observed(dialect, &filter.observations),
        None => sql(""),
    };
    query = query.push(OF_COPIES).push("(SELECT c.* FROM cameras c");
    if filter.state.is_some() {
        query = query.push(COPIES).push(STATUSES).push(OBSERVED);
    }
    query = query.push(" WHERE c.tenant_id = ").push_bind(tenant);
    if let Some(after) = page.after {
        query = query.push(" AND c.camera_id > ").push_bind(after);
    }
    if let Some(server) = filter.server_id {
        let of_server =
            query.push(" AND c.camera_id IN (SELECT q.camera_id FROM copies q WHERE q.server_id = ");
        query = of_server.push_bind(server).push(" AND q.tenant_id = ").push_bind(tenant).push(")");
    }
    if let Some(text) = filter.text {
        let position = query.push(" AND ").push(dialect.position_in_text);
        query = position.push("(c.name_folded, ").push_bind(text.to_lowercase()).push(") > 0");
    }
    if let Some(state) = filter.state {
        let of_state = query.push(" GROUP BY c.tenant_id, c.camera_id HAVING ").push(CAMERA_STATE);
        query = of_state.push(" = ").push_bind(number(state));
    }
    // In the order of the groups, so that SQLite ends at the limit instead of sorting all of a tenant's cameras.
    let query = query
        .push(" ORDER BY c.tenant_id, c.camera_id LIMIT ")
        .push_bind(i64::from(page.limit) + 1)
        .push(") c")
        .push(COPIES)
        .push(STATUSES)
        .push(" ORDER BY c.camera_id, p.copy");
    Ok(items(cameras_of_copies(db, query).await?, page.limit))
}

pub(super) async fn assignments(
    db: &mut dyn Connection,
    filter: AssignmentFilter,
    page: Page<CopyKey>,
) -> Result<Items<AssignmentView>, Error> {
    let mut query = sql("SELECT * FROM copies WHERE server_id IS NOT NULL");
    if let Some(CopyKey { tenant_id, camera_id, copy }) = page.after {
        let after = query.push(" AND (tenant_id, camera_id, copy) > (").push_bind(tenant_id).push(", ");
        query = after.push_bind(camera_id).push(", ").push_bind(u32::from(copy)).push(")");
    }
    if let Some(server) = filter.server_id {
        query = query.push(" AND server_id = ").push_bind(server);
    }
    if let Some(camera) = filter.camera_id {
        query = query.push(" AND camera_id = ").push_bind(camera);
    }
    let ordered = query.push(" ORDER BY tenant_id, camera_id, copy LIMIT ");
    let query = ordered.push_bind(i64::from(page.limit) + 1);
    Ok(items(all(db, "copies", query, |row| row.current_assignment()).await?, page.limit))
}

/// How far before the last segment an interruption is still looked at: its time may be that of an attempt.
const INTERRUPTION_MARGIN_US: i64 = 10_000_000;

/// Only facts of a server that was given the epoch they name. With `e.copy`, the copy that epoch is of.
macro_rules! given {
    ($facts:literal) => {
        concat!(
            $facts,
            " f JOIN epochs e ON e.tenant_id = f.tenant_id AND e.camera_id = f.camera_id AND e.epoch = f.epoch \
                AND e.server_id = f.server_id WHERE f.tenant_id = $1 AND f.camera_id = $2 "
        )
    };
}

pub(super) async fn timeline(
    db: &mut dyn Connection,
    tenant: TenantId,
    camera: CameraId,
    range: Range,
) -> Result<TimelineRows, Error> {
    // From the end of the last video before the range on, be it deleted or not: what happened since explains a gap the
    // range begins in.
    const BEFORE: &str = concat!(
        "SELECT f.end_us FROM ",
        given!("segments"),
        "AND f.end_us <= $3 ORDER BY f.end_us DESC LIMIT 1"
    );
    const DELETED_BEFORE: &str = concat!(
        "SELECT f.end_us FROM ",
        given!("deletions"),
        "AND f.end_us <= $3 ORDER BY f.end_us DESC LIMIT 1"
    );
    const DELETIONS: &str = concat!(
        "SELECT f.* FROM ",
        given!("deletions"),
        "AND f.end_us >= $3 AND f.start_us < $4 ORDER BY f.start_us, f.epoch, f.server_id"
    );
    const SEGMENTS: &str = concat!(
        "SELECT f.* FROM ",
        given!("segments"),
        "AND f.end_us >= $3 AND f.start_us < $4 ORDER BY f.start_us, f.end_us, f.epoch, f.server_id"
    );
    const GAPS: &str = concat!(
        "SELECT f.*, e.copy FROM ",
        given!("gaps"),
        "AND f.end_us > $3 AND f.start_us < $4 ORDER BY f.start_us, f.epoch, f.server_id"
    );
    const INTERRUPTIONS: &str = concat!(
        "SELECT f.*, e.copy FROM ",
        given!("interruptions"),
        "AND f.at_us >= $3 AND f.at_us < $4 ORDER BY f.at_us, f.position, f.fact"
    );
    const PLACEMENTS: &str = "SELECT * FROM placements \
        WHERE tenant_id = $1 AND camera_id = $2 AND at_us < $3 ORDER BY position, copy";
    const STATUSES: &str =
        concat!("SELECT f.* FROM ", given!("recording_status"), "ORDER BY f.epoch, f.server_id");

    let (from, to) = (range.from.as_micros(), range.to.as_micros());
    let of_camera = |text: &'static str, times_us: &[i64]| {
        times_us.iter().fold(sql(text).bind(tenant).bind(camera), |query, time| query.bind(*time))
    };
    let before = one(db, "segments", of_camera(BEFORE, &[from]), |row| row.integer("end_us")).await?;
    let deleted = of_camera(DELETED_BEFORE, &[from]);
    let deleted_before = one(db, "deletions", deleted, |row| row.integer("end_us")).await?;
    let since = before.max(deleted_before).unwrap_or(i64::MIN);
    let failed_since = since.saturating_sub(INTERRUPTION_MARGIN_US);
    let interruptions = of_camera(INTERRUPTIONS, &[failed_since, to]);
    Ok(TimelineRows {
        segments: all(db, "segments", of_camera(SEGMENTS, &[since, to]), |row| row.segment()).await?,
        deletions: all(db, "deletions", of_camera(DELETIONS, &[since, to]), |row| row.deletion()).await?,
        gaps: all(db, "gaps", of_camera(GAPS, &[since, to]), |row| row.gap()).await?,
        interruptions: all(db, "interruptions", interruptions, |row| row.interruption()).await?,
        placements: all(db, "placements", of_camera(PLACEMENTS, &[to]), |row| row.placed()).await?,
        statuses: all(db, "recording_status", of_camera(STATUSES, &[]), |row| row.status("server_id"))
            .await?,
        triggers: triggers::within(db, tenant, camera, range).await?,
    })
}

pub(super) async fn stored_on(
    db: &mut dyn Connection,
    server: ServerId,
    from: Place,
    limit: u32,
) -> Result<Items<SegmentRow>, Error> {
    const SQL: &str = "SELECT * FROM segments \
        WHERE server_id = $1 AND (tenant_id, camera_id, start_us) >= ($2, $3, $4) AND location = 'server' \
        ORDER BY tenant_id, camera_id, start_us, epoch LIMIT $5";
    let Place { tenant_id, camera_id, start } = from;
    let query = sql(SQL).bind(server).bind(tenant_id).bind(camera_id).bind(start);
    let rows = all(db, "segments", query.bind(u64::from(limit) + 1), |row| row.segment()).await?;
    Ok(items(rows, limit))
}

/// Segments of an object store. What is missing there is nothing to look after any more.
fn in_store(text: &'static str, of: InStore) -> Statement {
    const NOT_MISSING: &str = " AND (damage IS NULL OR damage <> 'missing')";
    let query = match of {
        InStore::Of(store) => sql(text).push(" WHERE store_id = ").push_bind(store),
        InStore::UploadedBy(server) => {
            let unknown =
                sql(text).push(" WHERE location = 'object_store' AND store_id IS NULL AND server_id = ");
            unknown.push_bind(server)
        }
    };
    query.push(NOT_MISSING)
}

pub(super) async fn next_in_store(
    db: &mut dyn Connection,
    of: InStore,
    (tenant, camera): (TenantId, CameraId),
) -> Result<Option<(TenantId, CameraId)>, Error> {
    let query = in_store("SELECT tenant_id, camera_id FROM segments", of);
    let query = query.push(" AND (tenant_id, camera_id) > (").push_bind(tenant).push(", ").push_bind(camera);
    let query = query.push(") ORDER BY tenant_id, camera_id, start_us LIMIT 1");
    one(db, "segments", query, |row| row.camera_key()).await
}

pub(super) async fn stored_in(
    db: &mut dyn Connection,
    of: InStore,
    Place { tenant_id, camera_id, start }: Place,
    limit: u32,
) -> Result<Items<StockedSegment>, Error> {
    const COLUMNS: &str = "SELECT object_key, start_us, end_us, COALESCE(object_bytes, bytes) AS bytes, \
        COALESCE(object_sha256, sha256) AS sha256, damage FROM segments";
    let query = in_store(COLUMNS, of).push(" AND tenant_id = ").push_bind(tenant_id);
    let query =
        query.push(" AND camera_id = ").push_bind(camera_id).push(" AND start_us >= ").push_bind(start);
    let query = query.push(" ORDER BY start_us, object_key LIMIT ").push_bind(i64::from(limit) + 1);
    Ok(items(all(db, "segments", query, |row| row.stocked()).await?, limit))
}

pub(super) async fn bytes_in(
    db: &mut dyn Connection,
    of: InStore,
    (tenant, camera): (TenantId, CameraId),
) -> Result<u64, Error> {
    let query = in_store("SELECT CAST(COALESCE(sum(bytes), 0) AS BIGINT) AS bytes FROM segments", of);
    let query = query.push(" AND tenant_id = ").push_bind(tenant).push(" AND camera_id = ").push_bind(camera);
    Ok(one(db, "segments", query, |row| row.unsigned("bytes")).await?.unwrap_or(0))
}

pub(super) async fn former_retention(
    db: &mut dyn Connection,
    tenant: TenantId,
    camera: CameraId,
) -> Result<Option<Retention>, Error> {
    const SQL: &str = "SELECT retention FROM former_cameras WHERE tenant_id = $1 AND camera_id = $2";
    one(db, "former_cameras", of_camera(SQL, tenant, camera), |row| row.retention()).await
}

fn of_camera(text: &'static str, tenant: TenantId, camera: CameraId) -> Statement {
    sql(text).bind(tenant).bind(camera)
}

pub(super) async fn statuses(
    db: &mut dyn Connection,
    of: Vec<StatusOf>,
) -> Result<Vec<Option<StatusRow>>, Error> {
    const SQL: &str = "SELECT * FROM recording_status \
        WHERE tenant_id = $1 AND camera_id = $2 AND epoch = $3 AND server_id = $4";
    let mut statuses = Vec::with_capacity(of.len());
    for StatusOf { tenant_id, camera_id, epoch, server_id } in of {
        let query = sql(SQL).bind(tenant_id).bind(camera_id).bind(epoch).bind(server_id);
        statuses.push(one(db, "recording_status", query, |row| row.status("server_id")).await?);
    }
    Ok(statuses)
}

pub(super) async fn creation(db: &mut dyn Connection, thing: Uuid) -> Result<Option<Position>, Error> {
    let query = sql("SELECT position FROM creations WHERE thing_id = $1").bind(thing);
    one(db, "creations", query, |row| row.unsigned("position").map(Position)).await
}

pub(super) async fn counts(
    db: &mut dyn Connection,
    dialect: &Dialect,
    observations: Observations,
) -> Result<Counts, Error> {
    const SQL: &str = "SELECT (SELECT count(*) FROM tenants) AS tenants, \
        (SELECT count(*) FROM rejected_facts) AS rejected_facts";
    let query = with_observed(dialect, &observations)
        .push("SELECT state, count(*) AS number FROM (SELECT ")
        .push(CAMERA_STATE)
        .push(" AS state FROM cameras c")
        .push(COPIES)
        .push(STATUSES)
        .push(OBSERVED)
        .push(" GROUP BY c.tenant_id, c.camera_id) AS states GROUP BY state");
    let read = |row: &Reader<'_>| Ok((row.integer("state")?, row.unsigned("number")?));
    let by_state = all(db, "cameras", query, read).await?;
    let cameras = CameraState::ALL.map(|state| {
        let found = by_state.iter().find(|(of_state, _)| *of_state == number(state));
        found.map_or(0, |(_, number)| *number)
    });
    let others = |row: &Reader<'_>| {
        let (tenants, rejected_facts) = (row.unsigned("tenants")?, row.unsigned("rejected_facts")?);
        Ok(Counts { tenants, cameras, rejected_facts })
    };
    Ok(one(db, "rejected_facts", sql(SQL), others).await?.unwrap_or_default())
}

pub(super) async fn content_hash(db: &mut dyn Connection) -> Result<Sha256, Error> {
    let mut hasher = Hasher::default();
    for table in &TABLES {
        hasher.table(table);
        let query = sql("SELECT ").push(table.columns).push(" FROM ").push(table.name);
        let query = query.push(" ORDER BY ").push(table.key);
        let mut hash = |row: &dyn super::Columns| {
            hasher.row();
            row.hash(&mut hasher)
                .map_err(|error| Error::Corrupt { table: table.name, why: error.to_string() })
        };
        db.each_row(query, &mut hash).await?;
    }
    Ok(hasher.finish())
}
