//! Changes → statements. Runs inside the writer's transaction.

use longwatch_events::id::{CameraId, ServerId, TenantId};
use longwatch_events::position::Position;
use longwatch_events::state::Placement;
use longwatch_events::subject::LogStream;
use longwatch_events::time::Timestamp;
use sqlx::query::Query;
use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteConnection};
use sqlx::{SqlSafeStr, query};

use super::super::Error;
use super::super::rows::{CameraRow, Change, GapRow, SegmentRow, ServerRow, StatusKey, TenantRow};
use super::convert::{document, integer, word};

type Statement<'q> = Query<'q, Sqlite, SqliteArguments>;

async fn run(db: &mut SqliteConnection, statement: Statement<'_>) -> Result<(), Error> {
    statement.execute(db).await?;
    Ok(())
}

fn of_camera<'q>(sql: impl SqlSafeStr, tenant: TenantId, camera: CameraId) -> Statement<'q> {
    query(sql).bind(bytes(tenant.as_uuid())).bind(bytes(camera.as_uuid()))
}

fn of_status<'q>(sql: impl SqlSafeStr, key: StatusKey, at: Timestamp) -> Statement<'q> {
    of_camera(sql, key.tenant_id, key.camera_id)
        .bind(integer(key.epoch.0))
        .bind(bytes(key.server_id.as_uuid()))
        .bind(bytes(key.boot_id.as_uuid()))
        .bind(at.as_micros())
}

pub(super) fn bytes(uuid: uuid::Uuid) -> Vec<u8> {
    uuid.as_bytes().to_vec()
}

/// Remembers how far `stream` has been folded.
pub(super) async fn position(
    db: &mut SqliteConnection,
    stream: LogStream,
    up_to: Position,
) -> Result<(), Error> {
    const SQL: &str = "INSERT INTO positions (stream, position) VALUES (?1, ?2) \
                       ON CONFLICT (stream) DO UPDATE SET position = excluded.position";
    run(db, query(SQL).bind(stream.name()).bind(integer(up_to.0))).await
}

/// Writes one change.
pub(super) async fn change(db: &mut SqliteConnection, change: Change) -> Result<(), Error> {
    match change {
        Change::RememberCreation { thing_id, position } => {
            const SQL: &str =
                "INSERT INTO creations (thing_id, position) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
            run(db, query(SQL).bind(bytes(thing_id)).bind(integer(position.0))).await
        }
        Change::PutTenant(row) => run(db, put_tenant(&row)).await,
        Change::DeleteTenant(id) => {
            run(db, query("DELETE FROM tenants WHERE tenant_id = ?1").bind(bytes(id.as_uuid()))).await
        }
        Change::PutServer(row) => run(db, put_server(&row)).await,
        Change::DetachServer { server_id, position, at } => detach_server(db, server_id, position, at).await,
        Change::PutCamera(row) => run(db, put_camera(&row)).await,
        Change::DeleteCamera(tenant, camera) => {
            const SQL: &str = "DELETE FROM cameras WHERE tenant_id = ?1 AND camera_id = ?2";
            run(db, of_camera(SQL, tenant, camera)).await
        }
        Change::PutPlacement { tenant_id, camera_id, position, at, placement } => {
            put_placement(db, (tenant_id, camera_id), position, at, placement).await
        }
        Change::Started(key, at) => run(db, of_status(STARTED, key, at)).await,
        Change::Recording(key, start) => run(db, of_status(RECORDING, key, start)).await,
        Change::Interrupted { key, at, cause, detail, position, fact } => {
            run(db, of_status(INTERRUPTED, key, at).bind(cause.as_str()).bind(detail)).await?;
            let statement = of_camera(REMEMBER_INTERRUPTION, key.tenant_id, key.camera_id)
                .bind(integer(key.epoch.0))
                .bind(at.as_micros())
                .bind(bytes(key.server_id.as_uuid()))
                .bind(cause.as_str())
                .bind(integer(position.0))
                .bind(i64::from(fact));
            run(db, statement).await
        }
        Change::PutSegment(row) => run(db, put_segment(&row)).await,
        Change::PutGap(tenant, camera, server, row) => run(db, put_gap(tenant, camera, server, &row)).await,
        Change::RejectFact { position, fact, why } => {
            const SQL: &str = "INSERT INTO rejected_facts (position, fact, why) VALUES (?1, ?2, ?3)";
            run(db, query(SQL).bind(integer(position.0)).bind(i64::from(fact)).bind(why)).await
        }
    }
}

/// If the last word was that it is being recorded, how far it came is not known: a segment will tell.
const STARTED: &str = "\
    INSERT INTO recording_status (tenant_id, camera_id, epoch, server_id, boot_id, state, since_us) \
    VALUES (?1, ?2, ?3, ?4, ?5, 'connecting', ?6) \
    ON CONFLICT (tenant_id, camera_id, epoch, server_id) DO UPDATE SET \
      boot_id = excluded.boot_id, state = excluded.state, since_us = excluded.since_us, \
      cause = NULL, detail = NULL, \
      recording_since_us = CASE WHEN recording_until_us IS NULL THEN NULL ELSE recording_since_us END";

const RECORDING: &str = "\
    INSERT INTO recording_status \
      (tenant_id, camera_id, epoch, server_id, boot_id, state, since_us, recording_since_us) \
    VALUES (?1, ?2, ?3, ?4, ?5, 'recording', ?6, ?6) \
    ON CONFLICT (tenant_id, camera_id, epoch, server_id) DO UPDATE SET \
      boot_id = excluded.boot_id, state = excluded.state, since_us = excluded.since_us, \
      cause = NULL, detail = NULL, \
      recording_since_us = excluded.recording_since_us, recording_until_us = NULL";

/// What had been recorded until then is durable up to then, whenever its segment is reported.
const INTERRUPTED: &str = "\
    INSERT INTO recording_status \
      (tenant_id, camera_id, epoch, server_id, boot_id, state, since_us, cause, detail) \
    VALUES (?1, ?2, ?3, ?4, ?5, 'offline', ?6, ?7, ?8) \
    ON CONFLICT (tenant_id, camera_id, epoch, server_id) DO UPDATE SET \
      boot_id = excluded.boot_id, since_us = excluded.since_us, cause = excluded.cause, \
      detail = excluded.detail, state = excluded.state, \
      recording_until_us = CASE WHEN recording_status.state = 'recording' \
        THEN max(recording_since_us, excluded.since_us) ELSE recording_until_us END";

const REMEMBER_INTERRUPTION: &str = "\
    INSERT INTO interruptions (tenant_id, camera_id, epoch, at_us, server_id, cause, position, fact) \
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) \
    ON CONFLICT DO NOTHING";

fn put_tenant<'q>(row: &TenantRow) -> Statement<'q> {
    const SQL: &str = "\
        INSERT INTO tenants (tenant_id, name, created_at_us, version) VALUES (?1, ?2, ?3, ?4) \
        ON CONFLICT (tenant_id) DO UPDATE SET \
          name = excluded.name, created_at_us = excluded.created_at_us, version = excluded.version";
    query(SQL)
        .bind(bytes(row.tenant_id.as_uuid()))
        .bind(row.name.clone())
        .bind(row.created_at.as_micros())
        .bind(integer(row.version.0))
}

fn put_server<'q>(row: &ServerRow) -> Statement<'q> {
    const SQL: &str = "\
        INSERT INTO servers \
          (server_id, name, settings, has_worker, adopted, lost_since_us, created_at_us, version) \
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) \
        ON CONFLICT (server_id) DO UPDATE SET \
          name = excluded.name, settings = excluded.settings, has_worker = excluded.has_worker, \
          adopted = excluded.adopted, lost_since_us = excluded.lost_since_us, \
          created_at_us = excluded.created_at_us, version = excluded.version";
    query(SQL)
        .bind(bytes(row.server_id.as_uuid()))
        .bind(row.settings.name.clone())
        .bind(document(&row.settings))
        .bind(row.has_worker)
        .bind(row.adopted)
        .bind(row.lost_since.map(Timestamp::as_micros))
        .bind(row.created_at.as_micros())
        .bind(integer(row.version.0))
}

async fn detach_server(
    db: &mut SqliteConnection,
    server_id: ServerId,
    position: Position,
    at: Timestamp,
) -> Result<(), Error> {
    const REMEMBER: &str = "\
        INSERT INTO placements (tenant_id, camera_id, position, at_us, placement) \
        SELECT tenant_id, camera_id, ?2, ?3, 'unplanned' FROM cameras WHERE server_id = ?1";
    const UNPLAN: &str = "\
        UPDATE cameras SET placement = 'unplanned', server_id = NULL, epoch = NULL, placed_at_us = NULL, \
          placement_reason = NULL WHERE server_id = ?1";
    let server = bytes(server_id.as_uuid());
    run(db, query(REMEMBER).bind(server.clone()).bind(integer(position.0)).bind(at.as_micros())).await?;
    run(db, query(UNPLAN).bind(server.clone())).await?;
    run(db, query("DELETE FROM servers WHERE server_id = ?1").bind(server)).await
}

fn put_camera<'q>(row: &CameraRow) -> Statement<'q> {
    const SQL: &str = "\
        INSERT INTO cameras (tenant_id, camera_id, name, name_folded, wants_recording, settings, \
          created_at_us, version, placement) \
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 'unplanned') \
        ON CONFLICT (tenant_id, camera_id) DO UPDATE SET \
          name = excluded.name, name_folded = excluded.name_folded, \
          wants_recording = excluded.wants_recording, settings = excluded.settings, \
          created_at_us = excluded.created_at_us, version = excluded.version";
    let wants_recording = row.settings.recording.mode != longwatch_events::settings::RecordingMode::Off;
    of_camera(SQL, row.tenant_id, row.camera_id)
        .bind(row.settings.name.clone())
        .bind(row.settings.name.to_lowercase())
        .bind(wants_recording)
        .bind(document(&row.settings))
        .bind(row.created_at.as_micros())
        .bind(integer(row.version.0))
}

async fn put_placement(
    db: &mut SqliteConnection,
    (tenant, camera): (TenantId, CameraId),
    position: Position,
    at: Timestamp,
    placement: Placement,
) -> Result<(), Error> {
    const PLACE: &str = "\
        UPDATE cameras SET placement = ?3, server_id = ?4, epoch = ?5, placed_at_us = ?6, \
          placement_reason = ?7 WHERE tenant_id = ?1 AND camera_id = ?2";
    const REMEMBER: &str = "\
        INSERT INTO placements (tenant_id, camera_id, position, at_us, placement, server_id, reason) \
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING";
    let (kind, server, epoch, since, reason) = match placement {
        Placement::Unplanned => ("unplanned", None, None, None, None),
        Placement::Assigned(a) => (
            "assigned",
            Some(bytes(a.server_id.as_uuid())),
            Some(integer(a.epoch.0)),
            Some(a.since.as_micros()),
            Some(word(&a.reason)),
        ),
        Placement::Unplaced { reason, since } => {
            ("unplaced", None, None, Some(since.as_micros()), Some(word(&reason)))
        }
    };
    let place = of_camera(PLACE, tenant, camera)
        .bind(kind)
        .bind(server.clone())
        .bind(epoch)
        .bind(since)
        .bind(reason.clone());
    run(db, place).await?;
    let remember = of_camera(REMEMBER, tenant, camera)
        .bind(integer(position.0))
        .bind(at.as_micros())
        .bind(kind)
        .bind(server)
        .bind(reason);
    run(db, remember).await
}

fn put_segment<'q>(row: &SegmentRow) -> Statement<'q> {
    const SQL: &str = "\
        INSERT INTO segments (tenant_id, camera_id, epoch, server_id, start_us, end_us, object_key, bytes, \
          sha256, video_frames, video, audio, repaired) \
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13) \
        ON CONFLICT (tenant_id, camera_id, epoch, server_id, start_us) DO UPDATE SET \
          end_us = excluded.end_us, object_key = excluded.object_key, bytes = excluded.bytes, \
          sha256 = excluded.sha256, video_frames = excluded.video_frames, video = excluded.video, \
          audio = excluded.audio, repaired = excluded.repaired";
    of_camera(SQL, row.tenant_id, row.camera_id)
        .bind(integer(row.epoch.0))
        .bind(bytes(row.server_id.as_uuid()))
        .bind(row.start.as_micros())
        .bind(row.end.as_micros())
        .bind(row.key.clone())
        .bind(integer(row.bytes))
        .bind(row.sha256.0.to_vec())
        .bind(integer(row.video_frames))
        .bind(word(&row.video))
        .bind(row.audio.as_ref().map(word))
        .bind(row.repaired)
}

fn put_gap<'q>(tenant: TenantId, camera: CameraId, server: ServerId, row: &GapRow) -> Statement<'q> {
    const SQL: &str = "\
        INSERT INTO gaps (tenant_id, camera_id, epoch, server_id, start_us, end_us, cause) \
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) \
        ON CONFLICT (tenant_id, camera_id, epoch, server_id, start_us) DO UPDATE SET \
          end_us = excluded.end_us, cause = excluded.cause";
    of_camera(SQL, tenant, camera)
        .bind(integer(row.epoch.0))
        .bind(bytes(server.as_uuid()))
        .bind(row.start.as_micros())
        .bind(row.end.as_micros())
        .bind(row.cause.as_str())
}
