//! Events at cameras in SQL. What writes them is pure.

use longwatch_events::id::{CameraId, TenantId, TriggerId};
use longwatch_events::time::Timestamp;
use longwatch_events::trigger::MAX_SPAN_MS;

use super::super::rows::TriggerRow;
use super::super::{Error, Range};
use super::read::all;
use super::{Connection, Statement, sql};

/// So many rows of a camera are kept, the newest; an event has one for each server that took it.
pub(in super::super) const KEPT: u32 = if cfg!(test) { 200 } else { 10_000 };
/// So many events that are on are told at once.
const MAX_ON: u32 = 10_000;

/// What writes a row. Told again, it changes nothing.
pub(super) fn put(row: &TriggerRow) -> Vec<Statement> {
    const PUT: &str = "\
        INSERT INTO triggers (tenant_id, camera_id, event_id, server_id, epoch, kind, detail, at_us, from_us, until_us, \
          records, actor) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) \
        ON CONFLICT (tenant_id, camera_id, event_id, server_id) DO NOTHING";
    const FORGET: &str = "\
        DELETE FROM triggers WHERE tenant_id = $1 AND camera_id = $2 AND at_us < (SELECT at_us FROM triggers \
          WHERE tenant_id = $1 AND camera_id = $2 ORDER BY at_us DESC LIMIT 1 OFFSET $3)";
    let trigger = &row.trigger;
    let put = sql(PUT)
        .bind(trigger.tenant_id)
        .bind(trigger.camera_id)
        .bind(trigger.event_id.as_uuid())
        .bind(row.server_id)
        .bind(row.epoch)
        .bind(trigger.kind.as_str())
        .bind(trigger.detail.as_deref())
        .bind(trigger.at)
        .bind(trigger.from)
        .bind(trigger.until)
        .bind(trigger.records)
        .bind(trigger.by.as_str());
    let mut statements = vec![put];
    // Counting so many is not for every event, and must be for the same ones whoever folds them.
    if trigger.event_id.as_uuid().as_bytes()[15].is_multiple_of(32) {
        statements.push(sql(FORGET).bind(trigger.tenant_id).bind(trigger.camera_id).bind(KEPT - 1));
    }
    statements
}

/// Those of a camera whose time overlaps the range, by time, each as every server that was given its epoch told it.
pub(super) async fn within(
    db: &mut dyn Connection,
    tenant: TenantId,
    camera: CameraId,
    range: Range,
) -> Result<Vec<TriggerRow>, Error> {
    const SQL: &str = "SELECT f.* FROM triggers f JOIN epochs e ON e.tenant_id = f.tenant_id \
          AND e.camera_id = f.camera_id AND e.epoch = f.epoch AND e.server_id = f.server_id \
        WHERE f.tenant_id = $1 AND f.camera_id = $2 AND f.until_us >= $3 AND f.until_us <= $4 AND f.from_us < $5 \
        ORDER BY f.at_us, f.event_id, f.server_id";
    let latest = range.to.as_micros().saturating_add(MAX_SPAN_MS * 1_000);
    let query = sql(SQL).bind(tenant).bind(camera).bind(range.from).bind(latest).bind(range.to);
    all(db, "triggers", query, |row| row.trigger()).await
}

/// One event, as every server told it.
pub(super) async fn told(
    db: &mut dyn Connection,
    tenant: TenantId,
    camera: CameraId,
    event: TriggerId,
) -> Result<Vec<TriggerRow>, Error> {
    const SQL: &str =
        "SELECT * FROM triggers WHERE tenant_id = $1 AND camera_id = $2 AND event_id = $3 ORDER BY server_id";
    let query = sql(SQL).bind(tenant).bind(camera).bind(event.as_uuid());
    all(db, "triggers", query, |row| row.trigger()).await
}

/// Those of all tenants that are recorded for beyond `now`, those that end first first; a bounded number of them.
pub(super) async fn on(db: &mut dyn Connection, now: Timestamp) -> Result<Vec<TriggerRow>, Error> {
    const SQL: &str = "SELECT * FROM triggers WHERE until_us > $1 AND records ORDER BY until_us, event_id, server_id LIMIT $2";
    all(db, "triggers", sql(SQL).bind(now).bind(MAX_ON), |row| row.trigger()).await
}
