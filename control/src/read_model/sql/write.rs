//! Changes → statements. Pure, but for [`batch`], which runs them.

use std::collections::BTreeMap;

use longwatch_events::id::{CameraId, ServerId, TenantId};
use longwatch_events::position::Position;
use longwatch_events::settings::RecordingMode;
use longwatch_events::state::Placement;
use longwatch_events::time::Timestamp;

use super::super::rows::{CameraRow, Change, GapRow, SegmentRow, ServerRow, StatusKey, TenantRow};
use super::super::{Batch, Error};
use super::convert::{document, word};
use super::{Connection, Statement, Value, sql};

/// Writes these changes of `batch`, and where it ends.
pub(in super::super) async fn batch(
    db: &mut dyn Connection,
    batch: &Batch,
    changes: &[&Change],
) -> Result<(), Error> {
    const POSITION: &str = "\
        INSERT INTO positions (stream, position) VALUES ($1, $2) \
        ON CONFLICT (stream) DO UPDATE SET position = excluded.position";
    for statement in changes.iter().flat_map(|change| statements(change)) {
        db.execute(statement).await?;
    }
    for statement in put_segments(changes) {
        db.execute(statement).await?;
    }
    db.execute(sql(POSITION).bind(batch.stream.name()).bind(batch.up_to)).await
}

fn of_camera(text: &'static str, tenant: TenantId, camera: CameraId) -> Statement {
    sql(text).bind(tenant).bind(camera)
}

fn of_status(text: &'static str, key: StatusKey, at: Timestamp, position: Position) -> Statement {
    of_camera(text, key.tenant_id, key.camera_id)
        .bind(key.epoch)
        .bind(key.server_id)
        .bind(key.boot_id)
        .bind(at)
        .bind(position)
}

/// What writes one change, unless it is of a segment: see [`put_segments`].
fn statements(change: &Change) -> Vec<Statement> {
    match change {
        Change::RememberCreation { thing_id, position } => {
            const SQL: &str =
                "INSERT INTO creations (thing_id, position) VALUES ($1, $2) ON CONFLICT DO NOTHING";
            vec![sql(SQL).bind(*thing_id).bind(*position)]
        }
        Change::PutTenant(row) => vec![put_tenant(row)],
        Change::DeleteTenant(id) => vec![sql("DELETE FROM tenants WHERE tenant_id = $1").bind(*id)],
        Change::PutServer(row) => vec![put_server(row)],
        Change::DetachServer { server_id, position, at } => detach_server(*server_id, *position, *at),
        Change::PutCamera(row) => vec![put_camera(row)],
        Change::DeleteCamera(tenant, camera) => {
            const SQL: &str = "DELETE FROM cameras WHERE tenant_id = $1 AND camera_id = $2";
            vec![of_camera(SQL, *tenant, *camera)]
        }
        Change::PutPlacement { tenant_id, camera_id, position, at, placement } => {
            put_placement((*tenant_id, *camera_id), *position, *at, *placement)
        }
        Change::Started(key, at, position) => vec![of_status(STARTED, *key, *at, *position)],
        Change::Recording(key, start, position) => vec![of_status(RECORDING, *key, *start, *position)],
        Change::Interrupted { key, at, cause, detail, position, fact } => vec![
            of_status(INTERRUPTED, *key, *at, *position).bind(cause.as_str()).bind(detail.as_str()),
            of_camera(REMEMBER_INTERRUPTION, key.tenant_id, key.camera_id)
                .bind(key.epoch)
                .bind(*at)
                .bind(key.server_id)
                .bind(cause.as_str())
                .bind(*position)
                .bind(*fact),
        ],
        // Nearly all rows are segments, and nothing else touches their table: they are written many at once.
        Change::PutSegment(_) => Vec::new(),
        Change::PutGap(tenant, camera, server, row) => vec![put_gap(*tenant, *camera, *server, row)],
        Change::RejectFact { position, fact, why } => {
            const SQL: &str = "INSERT INTO rejected_facts (position, fact, why) VALUES ($1, $2, $3)";
            vec![sql(SQL).bind(*position).bind(*fact).bind(why.as_str())]
        }
    }
}

/// If the last word was that it is being recorded, how far it came is not known: a segment will tell.
const STARTED: &str = "\
    INSERT INTO recording_status (tenant_id, camera_id, epoch, server_id, boot_id, state, since_us, position) \
    VALUES ($1, $2, $3, $4, $5, 'connecting', $6, $7) \
    ON CONFLICT (tenant_id, camera_id, epoch, server_id) DO UPDATE SET \
      boot_id = excluded.boot_id, state = excluded.state, since_us = excluded.since_us, \
      position = excluded.position, \
      cause = NULL, detail = NULL, \
      recording_since_us = CASE WHEN recording_status.recording_until_us IS NULL THEN NULL \
        ELSE recording_status.recording_since_us END";

const RECORDING: &str = "\
    INSERT INTO recording_status \
      (tenant_id, camera_id, epoch, server_id, boot_id, state, since_us, position, recording_since_us) \
    VALUES ($1, $2, $3, $4, $5, 'recording', $6, $7, $6) \
    ON CONFLICT (tenant_id, camera_id, epoch, server_id) DO UPDATE SET \
      boot_id = excluded.boot_id, state = excluded.state, since_us = excluded.since_us, \
      position = excluded.position, \
      cause = NULL, detail = NULL, \
      recording_since_us = excluded.recording_since_us, recording_until_us = NULL";

/// What had been recorded until then is durable up to then, whenever its segment is reported.
const INTERRUPTED: &str = "\
    INSERT INTO recording_status \
      (tenant_id, camera_id, epoch, server_id, boot_id, state, since_us, position, cause, detail) \
    VALUES ($1, $2, $3, $4, $5, 'offline', $6, $7, $8, $9) \
    ON CONFLICT (tenant_id, camera_id, epoch, server_id) DO UPDATE SET \
      boot_id = excluded.boot_id, since_us = excluded.since_us, cause = excluded.cause, \
      position = excluded.position, \
      detail = excluded.detail, state = excluded.state, \
      recording_until_us = CASE WHEN recording_status.state = 'recording' \
        THEN CASE WHEN recording_status.recording_since_us > excluded.since_us \
          THEN recording_status.recording_since_us ELSE excluded.since_us END \
        ELSE recording_status.recording_until_us END";

const REMEMBER_INTERRUPTION: &str = "\
    INSERT INTO interruptions (tenant_id, camera_id, epoch, at_us, server_id, cause, position, fact) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
    ON CONFLICT DO NOTHING";

fn put_tenant(row: &TenantRow) -> Statement {
    const SQL: &str = "\
        INSERT INTO tenants (tenant_id, name, created_at_us, version) VALUES ($1, $2, $3, $4) \
        ON CONFLICT (tenant_id) DO UPDATE SET \
          name = excluded.name, created_at_us = excluded.created_at_us, version = excluded.version";
    sql(SQL).bind(row.tenant_id).bind(row.name.as_str()).bind(row.created_at).bind(row.version)
}

fn put_server(row: &ServerRow) -> Statement {
    const SQL: &str = "\
        INSERT INTO servers \
          (server_id, name, settings, has_worker, adopted, lost_since_us, created_at_us, version) \
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
        ON CONFLICT (server_id) DO UPDATE SET \
          name = excluded.name, settings = excluded.settings, has_worker = excluded.has_worker, \
          adopted = excluded.adopted, lost_since_us = excluded.lost_since_us, \
          created_at_us = excluded.created_at_us, version = excluded.version";
    sql(SQL)
        .bind(row.server_id)
        .bind(row.settings.name.as_str())
        .bind(document(&row.settings))
        .bind(row.has_worker)
        .bind(row.adopted)
        .bind(row.lost_since)
        .bind(row.created_at)
        .bind(row.version)
}

fn detach_server(server_id: ServerId, position: Position, at: Timestamp) -> Vec<Statement> {
    const REMEMBER: &str = "\
        INSERT INTO placements (tenant_id, camera_id, position, at_us, placement) \
        SELECT tenant_id, camera_id, $2, $3, 'unplanned' FROM cameras WHERE server_id = $1";
    const UNPLAN: &str = "\
        UPDATE cameras SET placement = 'unplanned', server_id = NULL, epoch = NULL, placed_at_us = NULL, \
          placement_reason = NULL WHERE server_id = $1";
    vec![
        sql(REMEMBER).bind(server_id).bind(position).bind(at),
        sql(UNPLAN).bind(server_id),
        sql("DELETE FROM servers WHERE server_id = $1").bind(server_id),
    ]
}

fn put_camera(row: &CameraRow) -> Statement {
    const SQL: &str = "\
        INSERT INTO cameras (tenant_id, camera_id, name, name_folded, wants_recording, settings, \
          created_at_us, version, placement) \
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'unplanned') \
        ON CONFLICT (tenant_id, camera_id) DO UPDATE SET \
          name = excluded.name, name_folded = excluded.name_folded, \
          wants_recording = excluded.wants_recording, settings = excluded.settings, \
          created_at_us = excluded.created_at_us, version = excluded.version";
    let wants_recording = row.settings.recording.mode != RecordingMode::Off;
    of_camera(SQL, row.tenant_id, row.camera_id)
        .bind(row.settings.name.as_str())
        .bind(row.settings.name.to_lowercase())
        .bind(wants_recording)
        .bind(document(&row.settings))
        .bind(row.created_at)
        .bind(row.version)
}

fn put_placement(
    (tenant, camera): (TenantId, CameraId),
    position: Position,
    at: Timestamp,
    placement: Placement,
) -> Vec<Statement> {
    const PLACE: &str = "\
        UPDATE cameras SET placement = $3, server_id = $4, epoch = $5, placed_at_us = $6, \
          placement_reason = $7 WHERE tenant_id = $1 AND camera_id = $2";
    const REMEMBER: &str = "\
        INSERT INTO placements (tenant_id, camera_id, position, at_us, placement, server_id, reason) \
        VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING";
    let (kind, server, epoch, since, reason) = match placement {
        Placement::Unplanned => ("unplanned", None, None, None, None),
        Placement::Assigned(a) => {
            ("assigned", Some(a.server_id), Some(a.epoch), Some(a.since), Some(word(&a.reason)))
        }
        Placement::Unplaced { reason, since } => ("unplaced", None, None, Some(since), Some(word(&reason))),
    };
    let reason = Value::from(reason);
    vec![
        of_camera(PLACE, tenant, camera).bind(kind).bind(server).bind(epoch).bind(since).bind(reason.clone()),
        of_camera(REMEMBER, tenant, camera).bind(position).bind(at).bind(kind).bind(server).bind(reason),
    ]
}

/// How many rows one statement may have, so that few different ones have to be prepared. A row has 13 values, and the
/// strictest engine takes 32,766.
const ROWS: [usize; 3] = [64, 8, 1];

/// What writes the segments among `changes`. Of those with one key the last one counts, as if they came one by one.
fn put_segments(changes: &[&Change]) -> Vec<Statement> {
    let mut last = BTreeMap::new();
    for change in changes {
        if let Change::PutSegment(row) = change {
            last.insert((row.tenant_id, row.camera_id, row.epoch, row.server_id, row.start), row);
        }
    }
    let rows: Vec<_> = last.into_values().collect();
    let mut statements = Vec::new();
    let mut left = rows.as_slice();
    for size in ROWS {
        let whole = left.chunks_exact(size);
        left = whole.remainder();
        statements.extend(whole.map(put_segments_at_once));
    }
    statements
}

fn put_segments_at_once(rows: &[&SegmentRow]) -> Statement {
    const HEAD: &str = "\
        INSERT INTO segments (tenant_id, camera_id, epoch, server_id, start_us, end_us, object_key, bytes, \
          sha256, video_frames, video, audio, repaired) VALUES ";
    const TAIL: &str = " \
        ON CONFLICT (tenant_id, camera_id, epoch, server_id, start_us) DO UPDATE SET \
          end_us = excluded.end_us, object_key = excluded.object_key, bytes = excluded.bytes, \
          sha256 = excluded.sha256, video_frames = excluded.video_frames, video = excluded.video, \
          audio = excluded.audio, repaired = excluded.repaired";
    let mut statement = sql(HEAD);
    for (index, row) in rows.iter().enumerate() {
        let values = [
            row.tenant_id.into(),
            row.camera_id.into(),
            row.epoch.into(),
            row.server_id.into(),
            row.start.into(),
            row.end.into(),
            row.key.as_str().into(),
            row.bytes.into(),
            row.sha256.0.as_slice().into(),
            row.video_frames.into(),
            word(&row.video).into(),
            row.audio.as_ref().map(word).into(),
            row.repaired.into(),
        ];
        statement = statement.push(if index == 0 { "(" } else { ", (" }).push_values(values).push(")");
    }
    statement.push(TAIL)
}

fn put_gap(tenant: TenantId, camera: CameraId, server: ServerId, row: &GapRow) -> Statement {
    const SQL: &str = "\
        INSERT INTO gaps (tenant_id, camera_id, epoch, server_id, start_us, end_us, cause) \
        VALUES ($1, $2, $3, $4, $5, $6, $7) \
        ON CONFLICT (tenant_id, camera_id, epoch, server_id, start_us) DO UPDATE SET \
          end_us = excluded.end_us, cause = excluded.cause";
    of_camera(SQL, tenant, camera)
        .bind(row.epoch)
        .bind(server)
        .bind(row.start)
        .bind(row.end)
        .bind(row.cause.as_str())
}
