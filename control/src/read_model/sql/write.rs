//! Changes → statements. Pure, but for [`batch`], which runs them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use longwatch_events::id::{CameraId, CopyKey, TenantId};
use longwatch_events::position::Position;
use longwatch_events::settings::RecordingMode;
use longwatch_events::state::{Assignment, Placement};
use longwatch_events::time::Timestamp;

use super::super::rows::{
    CameraRow, Change, CheckedSegment, CopyRow, DeletedSegment, Location, ReportedGap, SegmentRow, ServerRow,
    StatusKey, TenantRow, UploadedSegment,
};
use super::super::timeline::TOUCH_US;
use super::super::{Batch, Error};
use super::convert::{document, membership_word, word};
use super::{Connection, Statement, Value, sql, triggers};

/// Writes these changes of `batch`, and where it ends.
pub(in super::super) async fn batch(
    db: &mut dyn Connection,
    batch: &Batch,
    changes: &[&Change],
) -> Result<(), Error> {
    const POSITION: &str = "\
        INSERT INTO positions (stream, position, record, record_position) VALUES ($1, $2, $3, $4) \
        ON CONFLICT (stream) DO UPDATE SET position = excluded.position, record = excluded.record, \
          record_position = excluded.record_position";
    for statement in changes.iter().flat_map(|change| statements(change)) {
        db.execute(statement).await?;
    }
    for statement in put_segments(changes) {
        db.execute(statement).await?;
    }
    // After them: a segment may have been stored, uploaded, examined and deleted within one batch.
    for change in changes {
        for statement in of_stored_segment(change) {
            db.execute(statement).await?;
        }
    }
    let record = batch.record.as_ref().map(|record| record.0.as_slice());
    let record_position = record.map(|_| batch.up_to);
    let position = sql(POSITION).bind(batch.stream.name()).bind(batch.up_to);
    db.execute(position.bind(record).bind(record_position)).await
}

fn of_camera(text: &'static str, tenant: TenantId, camera: CameraId) -> Statement {
    sql(text).bind(tenant).bind(camera)
}

fn of_copy(text: &'static str, key: CopyKey) -> Statement {
    of_camera(text, key.tenant_id, key.camera_id).bind(u32::from(key.copy))
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
        Change::PutCamera(row) => vec![put_camera(row)],
        Change::DeleteCamera(tenant, camera) => {
            const SQL: &str = "DELETE FROM cameras WHERE tenant_id = $1 AND camera_id = $2";
            vec![of_camera(SQL, *tenant, *camera)]
        }
        Change::RememberRetention(tenant, camera, retention) => {
            const SQL: &str = "INSERT INTO former_cameras (tenant_id, camera_id, retention) VALUES ($1, $2, $3) \
                ON CONFLICT (tenant_id, camera_id) DO UPDATE SET retention = excluded.retention";
            vec![of_camera(SQL, *tenant, *camera).bind(document(retention))]
        }
        Change::PutCopy(row) => vec![put_copy(row)],
        Change::DeleteCopy(key) => {
            const SQL: &str = "DELETE FROM copies WHERE tenant_id = $1 AND camera_id = $2 AND copy = $3";
            vec![of_copy(SQL, *key)]
        }
        Change::RememberPlacement { key, position, at, placement, from_lost } => {
            vec![remember_placement(*key, *position, *at, *placement, *from_lost)]
        }
        Change::RememberEpoch { key, epoch, server_id } => {
            const SQL: &str = "INSERT INTO epochs (tenant_id, camera_id, copy, epoch, server_id) \
                VALUES ($1, $2, $3, $4, $5)";
            vec![of_copy(SQL, *key).bind(*epoch).bind(*server_id)]
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
        // After all that were put: see `of_stored_segment`.
        Change::DeleteSegment(_) | Change::NoteDamage(_) | Change::PlaceSegment(_) => Vec::new(),
        Change::PutGap(row) => vec![put_gap(row)],
        Change::PutTrigger(row) => triggers::put(row),
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
        INSERT INTO servers (server_id, name, settings, has_worker, membership, lost_since_us, \
          draining_since_us, created_at_us, version) \
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) \
        ON CONFLICT (server_id) DO UPDATE SET \
          name = excluded.name, settings = excluded.settings, has_worker = excluded.has_worker, \
          membership = excluded.membership, lost_since_us = excluded.lost_since_us, \
          draining_since_us = excluded.draining_since_us, \
          created_at_us = excluded.created_at_us, version = excluded.version";
    sql(SQL)
        .bind(row.server_id)
        .bind(row.settings.name.as_str())
        .bind(document(&row.settings))
        .bind(row.has_worker)
        .bind(membership_word(row.membership))
        .bind(row.lost_since)
        .bind(row.draining_since)
        .bind(row.created_at)
        .bind(row.version)
}

fn put_camera(row: &CameraRow) -> Statement {
    const SQL: &str = "\
        INSERT INTO cameras (tenant_id, camera_id, name, name_folded, wants_recording, settings, \
          created_at_us, version) \
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
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

/// A placement as it stands in columns.
struct Columns {
    kind: &'static str,
    assignment: Option<Assignment>,
    since: Option<Timestamp>,
    reason: Value,
}

impl From<Placement> for Columns {
    fn from(placement: Placement) -> Self {
        let (kind, assignment, since, reason) = match placement {
            Placement::Unplanned => ("unplanned", None, None, None),
            Placement::Assigned(a) => ("assigned", Some(a), Some(a.since), Some(word(&a.reason))),
            Placement::Unplaced { reason, since } => ("unplaced", None, Some(since), Some(word(&reason))),
        };
        Self { kind, assignment, since, reason: reason.into() }
    }
}

fn put_copy(row: &CopyRow) -> Statement {
    const SQL: &str = "\
        INSERT INTO copies (tenant_id, camera_id, copy, placement, server_id, epoch, placed_at_us, \
          placement_reason, home_server_id, successor_server_id, successor_epoch, successor_since_us, \
          successor_reason) \
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) \
        ON CONFLICT (tenant_id, camera_id, copy) DO UPDATE SET \
          placement = excluded.placement, server_id = excluded.server_id, epoch = excluded.epoch, \
          placed_at_us = excluded.placed_at_us, placement_reason = excluded.placement_reason, \
          home_server_id = excluded.home_server_id, successor_server_id = excluded.successor_server_id, \
          successor_epoch = excluded.successor_epoch, successor_since_us = excluded.successor_since_us, \
          successor_reason = excluded.successor_reason";
    let Columns { kind, assignment, since, reason } = row.placement.into();
    of_copy(SQL, row.key)
        .bind(kind)
        .bind(assignment.map(|a| a.server_id))
        .bind(assignment.map(|a| a.epoch))
        .bind(since)
        .bind(reason)
        .bind(row.home)
        .bind(row.successor.map(|a| a.server_id))
        .bind(row.successor.map(|a| a.epoch))
        .bind(row.successor.map(|a| a.since))
        .bind(row.successor.map(|a| word(&a.reason)))
}

fn remember_placement(
    key: CopyKey,
    position: Position,
    at: Timestamp,
    placement: Placement,
    from_lost: bool,
) -> Statement {
    const SQL: &str = "\
        INSERT INTO placements (tenant_id, camera_id, copy, position, at_us, placement, server_id, reason, \
          from_lost) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
    let Columns { kind, assignment, reason, .. } = placement.into();
    let server = assignment.map(|a| a.server_id);
    of_copy(SQL, key).bind(position).bind(at).bind(kind).bind(server).bind(reason).bind(from_lost)
}

/// How many rows one statement may have, so that few different ones have to be prepared. A row has 14 values, and the
/// strictest engine takes 32,766.
const ROWS: [usize; 3] = [64, 8, 1];

/// What writes the segments among `changes`. Of those with one key the last one counts, as if they came one by one; but
/// what its file held says the first one, see [`put_segments_at_once`].
fn put_segments(changes: &[&Change]) -> Vec<Statement> {
    let mut last = BTreeMap::<_, Cow<'_, SegmentRow>>::new();
    for change in changes {
        let Change::PutSegment(row) = change else { continue };
        match last.entry((row.tenant_id, row.camera_id, row.epoch, row.server_id, row.start)) {
            Entry::Occupied(mut known) if !row.repaired => {
                let (bytes, sha256) = (known.get().bytes, known.get().sha256);
                known.insert(Cow::Owned(SegmentRow { bytes, sha256, ..row.clone() }));
            }
            Entry::Occupied(mut known) => drop(known.insert(Cow::Borrowed(row))),
            Entry::Vacant(new) => drop(new.insert(Cow::Borrowed(row))),
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

/// A file does not change once it has its name. After a crash a worker reads and reports again what it may not have reported;
/// what it reads by then is not what it stored if the disk lost some of it, and must not pass for that. One that it cut itself,
/// it says so.
fn put_segments_at_once(rows: &[Cow<'_, SegmentRow>]) -> Statement {
    const HEAD: &str = "\
        INSERT INTO segments (tenant_id, camera_id, epoch, server_id, start_us, end_us, object_key, bytes, \
          sha256, video_frames, video, audio, repaired, location) VALUES ";
    const TAIL: &str = " \
        ON CONFLICT (tenant_id, camera_id, epoch, server_id, start_us) DO UPDATE SET \
          end_us = excluded.end_us, object_key = excluded.object_key, \
          bytes = CASE WHEN excluded.repaired THEN excluded.bytes ELSE segments.bytes END, \
          sha256 = CASE WHEN excluded.repaired THEN excluded.sha256 ELSE segments.sha256 END, \
          video_frames = excluded.video_frames, video = excluded.video, \
          audio = excluded.audio, repaired = excluded.repaired";
    // A segment that is reported again was uploaded all the same: where it lies stays.
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
            row.location.as_str().into(),
        ];
        statement = statement.push(if index == 0 { "(" } else { ", (" }).push_values(values).push(")");
    }
    statement.push(TAIL)
}

/// What a change does to a segment that was put before.
fn of_stored_segment(change: &Change) -> Vec<Statement> {
    match change {
        Change::DeleteSegment(row) => delete_segment(row).into(),
        Change::NoteDamage(row) => vec![note_damage(row)],
        Change::PlaceSegment(row) => vec![place_segment(row)],
        Change::RememberCreation { .. }
        | Change::PutTenant(_)
        | Change::DeleteTenant(_)
        | Change::PutServer(_)
        | Change::PutCamera(_)
        | Change::DeleteCamera(..)
        | Change::RememberRetention(..)
        | Change::PutCopy(_)
        | Change::DeleteCopy(_)
        | Change::RememberPlacement { .. }
        | Change::RememberEpoch { .. }
        | Change::Started(..)
        | Change::Recording(..)
        | Change::Interrupted { .. }
        | Change::PutSegment(_)
        | Change::PutGap(_)
        | Change::PutTrigger(_)
        | Change::RejectFact { .. } => Vec::new(),
    }
}

/// Nothing, if the segment is not there: what is deleted cannot be damaged.
fn note_damage(row: &CheckedSegment) -> Statement {
    const SQL: &str = "\
        UPDATE segments SET damage = $7, damage_found_us = $8 \
        WHERE tenant_id = $1 AND camera_id = $2 AND epoch = $3 AND server_id = $4 AND start_us = $5 \
          AND object_key = $6";
    let statement = of_camera(SQL, row.tenant_id, row.camera_id)
        .bind(row.epoch)
        .bind(row.server_id)
        .bind(row.start)
        .bind(row.key.as_str())
        .bind(row.damage.map(|damage| damage.as_str().to_owned()))
        .bind(row.damage.map(|_| row.at));
    match row.only_in {
        Some(store_id) => statement.push(" AND store_id = ").push_bind(store_id),
        None => statement,
    }
}

/// A key holds milliseconds, and so do the facts of its upload and of its deletion.
const KEY_US: i64 = 1_000;

/// What says of a segment that it lies in the object store, and in which. What its object holds is said only if that is not
/// what was stored: its disk may have lost some of it by then.
fn place_segment(row: &UploadedSegment) -> Statement {
    const SQL: &str = "\
        UPDATE segments SET location = $8, store_id = COALESCE($9, store_id), \
          object_bytes = CASE WHEN bytes <> $10 OR sha256 <> $11 THEN $10 END, \
          object_sha256 = CASE WHEN bytes <> $10 OR sha256 <> $11 THEN $11 END \
        WHERE tenant_id = $1 AND camera_id = $2 AND epoch = $3 AND server_id = $4 \
          AND start_us >= $5 AND start_us < $6 AND object_key = $7";
    let start = row.start.as_micros();
    of_camera(SQL, row.tenant_id, row.camera_id)
        .bind(row.epoch)
        .bind(row.server_id)
        .bind(start)
        .bind(start.saturating_add(KEY_US))
        .bind(row.key.as_str())
        .bind(Location::ObjectStore.as_str())
        .bind(row.store_id)
        .bind(row.bytes)
        .bind(row.sha256.0.as_slice())
}

/// What lengthens the stretch of deleted video before a segment or begins a new one, and removes the segment. Done again, it
/// changes nothing. Of a segment that must lie in a certain object store nothing is done if it does not.
fn delete_segment(row: &DeletedSegment) -> [Statement; 3] {
    const DELETE: &str = "\
        DELETE FROM segments WHERE tenant_id = $1 AND camera_id = $2 AND epoch = $3 AND server_id = $4 \
          AND start_us >= $5 AND start_us < $6 AND object_key = $7";
    const LENGTHEN: &str = "\
        UPDATE deletions SET end_us = $6 \
        WHERE tenant_id = $1 AND camera_id = $2 AND epoch = $3 AND server_id = $4 \
          AND start_us <= $5 AND end_us >= $7 AND reason = $8 AND end_us < $6";
    const BEGIN: &str = "\
        INSERT INTO deletions (tenant_id, camera_id, epoch, server_id, start_us, end_us, reason) \
        SELECT $1, $2, $3, $4, $5, $6, $8 WHERE NOT EXISTS (SELECT 1 FROM deletions \
          WHERE tenant_id = $1 AND camera_id = $2 AND epoch = $3 AND server_id = $4 \
            AND start_us <= $5 AND end_us >= $7 AND reason = $8)";
    const UNLESS_BEGUN: &str = " ON CONFLICT (tenant_id, camera_id, epoch, server_id, start_us) DO NOTHING";
    const LIES_THERE: &str = " AND EXISTS (SELECT 1 FROM segments s WHERE s.tenant_id = $1 AND s.camera_id = $2 \
          AND s.epoch = $3 AND s.server_id = $4 AND s.start_us >= ";
    let of_recording =
        |text| of_camera(text, row.tenant_id, row.camera_id).bind(row.epoch).bind(row.server_id);
    let (start, touching) = (row.start.as_micros(), row.start.plus_micros(-TOUCH_US));
    let stretch =
        |text| of_recording(text).bind(row.start).bind(row.end).bind(touching).bind(row.reason.as_str());
    let until = start.saturating_add(KEY_US);
    let if_it_lies_there = |statement: Statement| match row.only_in {
        None => statement,
        Some(store_id) => {
            let named =
                statement.push(LIES_THERE).push_bind(start).push(" AND s.start_us < ").push_bind(until);
            let named = named.push(" AND s.object_key = ").push_bind(row.key.as_str());
            named.push(" AND s.store_id = ").push_bind(store_id).push(")")
        }
    };
    let delete = of_recording(DELETE).bind(start).bind(until).bind(row.key.as_str());
    let delete = match row.only_in {
        None => delete,
        Some(store_id) => delete.push(" AND store_id = ").push_bind(store_id),
    };
    [if_it_lies_there(stretch(LENGTHEN)), if_it_lies_there(stretch(BEGIN)).push(UNLESS_BEGUN), delete]
}

fn put_gap(row: &ReportedGap) -> Statement {
    const SQL: &str = "\
        INSERT INTO gaps (tenant_id, camera_id, epoch, server_id, start_us, end_us, cause) \
        VALUES ($1, $2, $3, $4, $5, $6, $7) \
        ON CONFLICT (tenant_id, camera_id, epoch, server_id, start_us) DO UPDATE SET \
          end_us = excluded.end_us, cause = excluded.cause";
    of_camera(SQL, row.tenant_id, row.camera_id)
        .bind(row.epoch)
        .bind(row.server_id)
        .bind(row.start)
        .bind(row.end)
        .bind(row.cause.as_str())
}
