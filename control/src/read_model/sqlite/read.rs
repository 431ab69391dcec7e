//! Queries. Each runs inside a transaction the caller has begun.

use futures::TryStreamExt as _;
use longwatch_events::hash::Sha256;
use longwatch_events::id::{CameraId, ServerId, TenantId};
use longwatch_events::position::Position;
use longwatch_events::subject::LogStream;
use serde_json::{Value, json};
use sqlx::sqlite::{Sqlite, SqliteConnection, SqliteRow};
use sqlx::{
    AssertSqlSafe, Column as _, QueryBuilder, Row as _, TypeInfo as _, ValueRef as _, query, query_scalar,
};
use uuid::Uuid;

use super::super::digest::{self, Hasher, TABLES, Table};
use super::super::rows::{
    AssignmentView, CameraState, CameraView, Counts, Observations, ServerView, TenantRow, TimelineRows,
};
use super::super::{AssignmentFilter, CameraFilter, Error, Items, Page, Range};
use super::convert::Reader;
use super::write::bytes;

pub(super) async fn position(db: &mut SqliteConnection, stream: LogStream) -> Result<Position, Error> {
    let position: Option<i64> = query_scalar("SELECT position FROM positions WHERE stream = ?1")
        .bind(stream.name())
        .fetch_optional(db)
        .await?;
    let position = u64::try_from(position.unwrap_or(0));
    let position = position.map_err(|error| Error::Corrupt { table: "positions", why: error.to_string() })?;
    Ok(Position(position))
}

/// `limit` and one more were asked for: the one more says that there is more.
fn items<T>(mut items: Vec<T>, limit: u32) -> Items<T> {
    let limit = limit as usize;
    let more = items.len() > limit;
    items.truncate(limit);
    Items { items, more }
}

fn read<'r, T>(
    table: &'static str,
    rows: &'r [SqliteRow],
    one: impl Fn(&Reader<'r>) -> Result<T, Error>,
) -> Result<Vec<T>, Error> {
    rows.iter().map(|row| one(&Reader::new(table, row))).collect()
}

pub(super) async fn tenant(db: &mut SqliteConnection, id: TenantId) -> Result<Option<TenantRow>, Error> {
    let row = query("SELECT * FROM tenants WHERE tenant_id = ?1")
        .bind(bytes(id.as_uuid()))
        .fetch_optional(db)
        .await?;
    row.map(|row| Reader::new("tenants", &row).tenant()).transpose()
}

pub(super) async fn tenants(
    db: &mut SqliteConnection,
    page: Page<TenantId>,
) -> Result<Items<TenantRow>, Error> {
    const SQL: &str = "SELECT * FROM tenants WHERE ?1 IS NULL OR tenant_id > ?1 ORDER BY tenant_id LIMIT ?2";
    let rows = query(SQL)
        .bind(page.after.map(|id| bytes(id.as_uuid())))
        .bind(i64::from(page.limit) + 1)
        .fetch_all(db)
        .await?;
    Ok(items(read("tenants", &rows, Reader::tenant)?, page.limit))
}

const SERVERS: &str = "SELECT s.*, (SELECT count(*) FROM cameras c WHERE c.server_id = s.server_id) AS cameras \
                       FROM servers s";

pub(super) async fn server(db: &mut SqliteConnection, id: ServerId) -> Result<Option<ServerView>, Error> {
    let mut sql = QueryBuilder::<Sqlite>::new(SERVERS);
    sql.push(" WHERE s.server_id = ").push_bind(bytes(id.as_uuid()));
    let row = sql.build().fetch_optional(db).await?;
    row.map(|row| Reader::new("servers", &row).server()).transpose()
}

pub(super) async fn servers(
    db: &mut SqliteConnection,
    page: Page<ServerId>,
) -> Result<Items<ServerView>, Error> {
    let mut sql = QueryBuilder::<Sqlite>::new(SERVERS);
    if let Some(after) = page.after {
        sql.push(" WHERE s.server_id > ").push_bind(bytes(after.as_uuid()));
    }
    sql.push(" ORDER BY s.server_id LIMIT ").push_bind(i64::from(page.limit) + 1);
    let rows = sql.build().fetch_all(db).await?;
    Ok(items(read("servers", &rows, Reader::server)?, page.limit))
}

/// What is observed of servers comes as one JSON text (the first parameter), so that the number of servers is not the
/// number of parameters.
const OBSERVED: &str = "\
    WITH observed (server_id, silent, boot_id) AS MATERIALIZED ( \
      SELECT unhex(value ->> 'server'), value ->> 'silent', unhex(value ->> 'boot') FROM json_each(";

/// The rule of [`CameraView::state`] in SQL.
const CAMERA_STATE: &str = "\
    CASE WHEN c.wants_recording = 0 THEN 'disabled' \
      WHEN c.placement <> 'assigned' THEN 'unplaced' \
      WHEN o.silent = 1 THEN 'offline' \
      WHEN r.state = 'recording' AND o.boot_id <> r.boot_id THEN 'connecting' \
      ELSE coalesce(r.state, 'connecting') END";

const CAMERA_COLUMNS: &str = "c.*, r.server_id AS status_server_id, r.boot_id, r.state, r.since_us, r.cause, \
    r.detail, r.recording_since_us, r.recording_until_us";

const CAMERAS_OBSERVED: &str = " FROM cameras c \
    LEFT JOIN recording_status r \
      ON r.tenant_id = c.tenant_id AND r.camera_id = c.camera_id AND r.epoch = c.epoch \
        AND r.server_id = c.server_id \
    LEFT JOIN observed o ON o.server_id = c.server_id";

/// A query over cameras that begins with these columns.
fn select_cameras(columns: &str, observations: &Observations) -> QueryBuilder<Sqlite> {
    let observed: Vec<_> = observations
        .iter()
        .map(|(server, observation)| {
            json!({
                "server": server.as_uuid().simple().to_string(),
                "silent": i32::from(observation.silent),
                "boot": observation.boot_id.map(|boot| boot.as_uuid().simple().to_string()),
            })
        })
        .collect();
    let mut sql = QueryBuilder::new(OBSERVED);
    sql.push_bind(Value::Array(observed).to_string());
    sql.push(")) SELECT ").push(columns).push(CAMERAS_OBSERVED);
    sql
}

pub(super) async fn camera(
    db: &mut SqliteConnection,
    tenant: TenantId,
    camera: CameraId,
) -> Result<Option<CameraView>, Error> {
    let mut sql = select_cameras(CAMERA_COLUMNS, &Observations::new());
    sql.push(" WHERE c.tenant_id = ").push_bind(bytes(tenant.as_uuid()));
    sql.push(" AND c.camera_id = ").push_bind(bytes(camera.as_uuid()));
    let row = sql.build().fetch_optional(db).await?;
    row.map(|row| Reader::new("cameras", &row).camera()).transpose()
}

pub(super) async fn cameras(
    db: &mut SqliteConnection,
    tenant: TenantId,
    filter: CameraFilter,
    page: Page<CameraId>,
) -> Result<Items<CameraView>, Error> {
    let mut sql = select_cameras(CAMERA_COLUMNS, &filter.observations);
    sql.push(" WHERE c.tenant_id = ").push_bind(bytes(tenant.as_uuid()));
    if let Some(after) = page.after {
        sql.push(" AND c.camera_id > ").push_bind(bytes(after.as_uuid()));
    }
    if let Some(server) = filter.server_id {
        sql.push(" AND c.server_id = ").push_bind(bytes(server.as_uuid()));
    }
    if let Some(text) = filter.text {
        sql.push(" AND instr(c.name_folded, ").push_bind(text.to_lowercase()).push(") > 0");
    }
    if let Some(state) = filter.state {
        sql.push(" AND ").push(CAMERA_STATE).push(" = ").push_bind(state.as_str());
    }
    sql.push(" ORDER BY c.camera_id LIMIT ").push_bind(i64::from(page.limit) + 1);
    let rows = sql.build().fetch_all(db).await?;
    Ok(items(read("cameras", &rows, Reader::camera)?, page.limit))
}

pub(super) async fn assignments(
    db: &mut SqliteConnection,
    filter: AssignmentFilter,
    page: Page<(TenantId, CameraId)>,
) -> Result<Items<AssignmentView>, Error> {
    let mut sql = QueryBuilder::<Sqlite>::new("SELECT * FROM cameras WHERE server_id IS NOT NULL");
    if let Some((tenant, camera)) = page.after {
        sql.push(" AND (tenant_id, camera_id) > (").push_bind(bytes(tenant.as_uuid()));
        sql.push(", ").push_bind(bytes(camera.as_uuid())).push(")");
    }
    if let Some(server) = filter.server_id {
        sql.push(" AND server_id = ").push_bind(bytes(server.as_uuid()));
    }
    if let Some(camera) = filter.camera_id {
        sql.push(" AND camera_id = ").push_bind(bytes(camera.as_uuid()));
    }
    sql.push(" ORDER BY tenant_id, camera_id LIMIT ").push_bind(i64::from(page.limit) + 1);
    let rows = sql.build().fetch_all(db).await?;
    let assignments = read("cameras", &rows, |row| {
        Ok(AssignmentView {
            tenant_id: TenantId::from_uuid(row.uuid("tenant_id")?),
            camera_id: CameraId::from_uuid(row.uuid("camera_id")?),
            assignment: row.assignment()?,
        })
    })?;
    Ok(items(assignments, page.limit))
}

/// How far before the last segment an interruption is still looked at: its time may be that of an attempt.
const INTERRUPTION_MARGIN_US: i64 = 10_000_000;

/// Only facts of the server that was given the epoch they name. An epoch is the position of the plan that gave it.
macro_rules! of_the_epochs_server {
    () => {
        " AND EXISTS (SELECT 1 FROM placements p WHERE p.tenant_id = f.tenant_id AND p.camera_id = f.camera_id \
            AND p.position = f.epoch AND p.server_id = f.server_id) "
    };
}

pub(super) async fn timeline(
    db: &mut SqliteConnection,
    tenant: TenantId,
    camera: CameraId,
    range: Range,
) -> Result<TimelineRows, Error> {
    // From the end of the last segment before the range on: what happened since explains a gap the range begins in.
    const BEFORE: &str = concat!(
        "SELECT f.end_us FROM segments f WHERE f.tenant_id = ?1 AND f.camera_id = ?2 AND f.end_us <= ?3",
        of_the_epochs_server!(),
        "ORDER BY f.end_us DESC LIMIT 1"
    );
    const SEGMENTS: &str = concat!(
        "SELECT f.* FROM segments f WHERE f.tenant_id = ?1 AND f.camera_id = ?2 \
            AND f.end_us >= ?3 AND f.start_us < ?4",
        of_the_epochs_server!(),
        "ORDER BY f.start_us, f.end_us, f.epoch, f.server_id"
    );
    const GAPS: &str = concat!(
        "SELECT f.* FROM gaps f WHERE f.tenant_id = ?1 AND f.camera_id = ?2 AND f.end_us > ?3 AND f.start_us < ?4",
        of_the_epochs_server!(),
        "ORDER BY f.start_us, f.epoch"
    );
    const INTERRUPTIONS: &str = concat!(
        "SELECT f.* FROM interruptions f WHERE f.tenant_id = ?1 AND f.camera_id = ?2 \
            AND f.at_us >= ?3 AND f.at_us < ?4",
        of_the_epochs_server!(),
        "ORDER BY f.at_us, f.position, f.fact"
    );
    const PLACEMENTS: &str =
        "SELECT * FROM placements WHERE tenant_id = ?1 AND camera_id = ?2 AND at_us < ?3 ORDER BY position";
    const STATUSES: &str = concat!(
        "SELECT f.* FROM recording_status f WHERE f.tenant_id = ?1 AND f.camera_id = ?2",
        of_the_epochs_server!(),
        "ORDER BY f.epoch"
    );

    let (from, to) = (range.from.as_micros(), range.to.as_micros());
    let mut rows = Rows { db, tenant, camera };
    let before = rows.of(BEFORE, &[from]).await?;
    let since: i64 = match before.first() {
        Some(row) => row.try_get("end_us")?,
        None => i64::MIN,
    };
    let failed_since = since.saturating_sub(INTERRUPTION_MARGIN_US);
    Ok(TimelineRows {
        segments: read("segments", &rows.of(SEGMENTS, &[since, to]).await?, Reader::segment)?,
        gaps: read("gaps", &rows.of(GAPS, &[since, to]).await?, Reader::gap)?,
        interruptions: read(
            "interruptions",
            &rows.of(INTERRUPTIONS, &[failed_since, to]).await?,
            Reader::interruption,
        )?,
        placements: read("placements", &rows.of(PLACEMENTS, &[to]).await?, Reader::placed)?,
        statuses: read("recording_status", &rows.of(STATUSES, &[]).await?, |row| row.status("server_id"))?,
    })
}

/// Rows of one camera.
struct Rows<'c> {
    db: &'c mut SqliteConnection,
    tenant: TenantId,
    camera: CameraId,
}

impl Rows<'_> {
    async fn of(&mut self, sql: &'static str, times_us: &[i64]) -> Result<Vec<SqliteRow>, Error> {
        let statement = query(sql).bind(bytes(self.tenant.as_uuid())).bind(bytes(self.camera.as_uuid()));
        let statement = times_us.iter().fold(statement, |statement, time| statement.bind(*time));
        Ok(statement.fetch_all(&mut *self.db).await?)
    }
}

pub(super) async fn creation(db: &mut SqliteConnection, thing: Uuid) -> Result<Option<Position>, Error> {
    let row = query("SELECT position FROM creations WHERE thing_id = ?1")
        .bind(bytes(thing))
        .fetch_optional(db)
        .await?;
    row.map(|row| Reader::new("creations", &row).unsigned("position").map(Position)).transpose()
}

pub(super) async fn counts(db: &mut SqliteConnection, observations: Observations) -> Result<Counts, Error> {
    let mut counts = Counts::default();
    let columns = format!("{CAMERA_STATE} AS camera_state, count(*) AS number");
    let mut sql = select_cameras(&columns, &observations);
    sql.push(" GROUP BY 1");
    for row in sql.build().fetch_all(&mut *db).await? {
        let word: &str = row.try_get("camera_state")?;
        let number = Reader::new("cameras", &row).unsigned("number")?;
        for (state, count) in CameraState::ALL.iter().zip(&mut counts.cameras) {
            if state.as_str() == word {
                *count = number;
            }
        }
    }
    const SQL: &str = "SELECT (SELECT count(*) FROM tenants) AS tenants, \
        (SELECT count(*) FROM rejected_facts) AS rejected_facts";
    let row = query(SQL).fetch_one(db).await?;
    let row = Reader::new("rejected_facts", &row);
    counts.tenants = row.unsigned("tenants")?;
    counts.rejected_facts = row.unsigned("rejected_facts")?;
    Ok(counts)
}

pub(super) async fn content_hash(db: &mut SqliteConnection) -> Result<Sha256, Error> {
    let mut hasher = Hasher::default();
    for table in &TABLES {
        hasher.table(table);
        // Names from a constant list; nothing of a user's.
        let sql = format!("SELECT {} FROM {} ORDER BY {}", table.columns, table.name, table.key);
        let mut rows = query(AssertSqlSafe(sql)).fetch(&mut *db);
        while let Some(row) = rows.try_next().await? {
            hash_row(&mut hasher, table, &row)?;
        }
    }
    Ok(hasher.finish())
}

fn hash_row(hasher: &mut Hasher, table: &Table, row: &SqliteRow) -> Result<(), Error> {
    hasher.row();
    for column in row.columns() {
        let index = column.ordinal();
        let raw = row.try_get_raw(index)?;
        if raw.is_null() {
            hasher.value(digest::Value::Null);
            continue;
        }
        match raw.type_info().name() {
            "INTEGER" => hasher.value(digest::Value::Integer(row.try_get_unchecked(index)?)),
            "TEXT" => hasher.value(digest::Value::Text(row.try_get_unchecked(index)?)),
            "BLOB" => hasher.value(digest::Value::Bytes(row.try_get_unchecked(index)?)),
            other => {
                let why = format!("a value of type {other} in column {}", column.name());
                return Err(Error::Corrupt { table: table.name, why });
            }
        }
    }
    Ok(())
}
