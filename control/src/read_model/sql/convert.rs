//! Values of the program ↔ what stands in the columns.

use longwatch_events::archive::StockedSegment;
use longwatch_events::fact::Damage;
use longwatch_events::hash::Sha256;
use longwatch_events::id::{BootId, CameraId, CopyKey, ServerId, StoreId, TenantId, TriggerId};
use longwatch_events::position::{Epoch, Position};
use longwatch_events::reason::AssignReason;
use longwatch_events::settings::Retention;
use longwatch_events::state::{Assignment, Membership, Placement};
use longwatch_events::time::Timestamp;
use longwatch_events::trigger::Trigger;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde::de::IntoDeserializer as _;
use serde::de::value::{Error as WordError, StrDeserializer};
use uuid::Uuid;

use super::super::Error;
use super::super::rows::{
    AssignmentView, CameraRow, Condition, CopyRow, CopyView, DeletionRow, GapRow, InterruptionRow, OpenVideo,
    Place, PlacedRow, SegmentRow, ServerRow, ServerView, StatusRow, TenantRow, TriggerRow,
};
use super::Columns;

/// The word for a value of a closed list.
pub(super) fn word(value: &impl Serialize) -> String {
    let word = serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned));
    word.expect("invariant: values of closed lists are written as words")
}

/// The word for a membership.
pub(super) const fn membership_word(membership: Membership) -> &'static str {
    match membership {
        Membership::Undefined => "undefined",
        Membership::Adopted => "adopted",
        Membership::Detached { seen_again: false } => "detached",
        Membership::Detached { seen_again: true } => "detached_seen",
    }
}

/// A document.
pub(super) fn document(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("invariant: settings are strings, numbers and ordered maps")
}

/// A row of `table`, read column by column.
pub(super) struct Reader<'r> {
    table: &'static str,
    row: &'r dyn Columns,
}

impl<'r> Reader<'r> {
    pub(super) const fn new(table: &'static str, row: &'r dyn Columns) -> Self {
        Self { table, row }
    }

    fn corrupt(&self, why: impl ToString) -> Error {
        Error::Corrupt { table: self.table, why: why.to_string() }
    }

    /// What was read, if it was.
    fn read<T>(&self, read: Result<T, sqlx::Error>) -> Result<T, Error> {
        read.map_err(|error| self.corrupt(error))
    }

    /// What was read, which must not be NULL.
    fn present<T>(&self, column: &str, read: Result<Option<T>, sqlx::Error>) -> Result<T, Error> {
        self.read(read)?.ok_or_else(|| self.corrupt(format!("{column} is NULL")))
    }

    pub(super) fn integer(&self, column: &str) -> Result<i64, Error> {
        self.present(column, self.row.integer(column))
    }

    pub(super) fn unsigned(&self, column: &str) -> Result<u64, Error> {
        u64::try_from(self.integer(column)?).map_err(|_| self.corrupt(format!("{column} is negative")))
    }

    pub(super) fn text(&self, column: &str) -> Result<&'r str, Error> {
        self.present(column, self.row.text(column))
    }

    fn optional_text(&self, column: &str) -> Result<Option<&'r str>, Error> {
        self.read(self.row.text(column))
    }

    fn truth(&self, column: &str) -> Result<bool, Error> {
        self.present(column, self.row.truth(column))
    }

    pub(super) fn uuid(&self, column: &str) -> Result<Uuid, Error> {
        self.present(column, self.row.id(column))
    }

    fn time(&self, column: &str) -> Result<Timestamp, Error> {
        self.integer(column).map(Timestamp::from_micros)
    }

    fn optional_time(&self, column: &str) -> Result<Option<Timestamp>, Error> {
        Ok(self.read(self.row.integer(column))?.map(Timestamp::from_micros))
    }

    fn word<T: DeserializeOwned>(&self, column: &str) -> Result<T, Error> {
        self.parse_word(column, self.text(column)?)
    }

    fn parse_word<T: DeserializeOwned>(&self, column: &str, word: &str) -> Result<T, Error> {
        let word: StrDeserializer<'_, WordError> = word.into_deserializer();
        T::deserialize(word).map_err(|error| self.corrupt(format!("{column}: {error}")))
    }

    fn document<T: DeserializeOwned>(&self, column: &str) -> Result<T, Error> {
        serde_json::from_str(self.text(column)?).map_err(|error| self.corrupt(format!("{column}: {error}")))
    }

    pub(super) fn tenant(&self) -> Result<TenantRow, Error> {
        Ok(TenantRow {
            tenant_id: TenantId::from_uuid(self.uuid("tenant_id")?),
            name: self.text("name")?.to_owned(),
            created_at: self.time("created_at_us")?,
            version: Position(self.unsigned("version")?),
        })
    }

    pub(super) fn server(&self) -> Result<ServerView, Error> {
        let row = ServerRow {
            server_id: self.server_id()?,
            settings: self.document("settings")?,
            has_worker: self.truth("has_worker")?,
            membership: self.membership()?,
            lost_since: self.optional_time("lost_since_us")?,
            draining_since: self.optional_time("draining_since_us")?,
            created_at: self.time("created_at_us")?,
            version: Position(self.unsigned("version")?),
        };
        Ok(ServerView { row, cameras: self.unsigned("cameras")? })
    }

    fn membership(&self) -> Result<Membership, Error> {
        match self.text("membership")? {
            "undefined" => Ok(Membership::Undefined),
            "adopted" => Ok(Membership::Adopted),
            "detached" => Ok(Membership::Detached { seen_again: false }),
            "detached_seen" => Ok(Membership::Detached { seen_again: true }),
            other => Err(self.corrupt(format!("membership `{other}`"))),
        }
    }

    fn server_id(&self) -> Result<ServerId, Error> {
        self.uuid("server_id").map(ServerId::from_uuid)
    }

    pub(super) fn camera(&self) -> Result<CameraRow, Error> {
        Ok(CameraRow {
            tenant_id: TenantId::from_uuid(self.uuid("tenant_id")?),
            camera_id: CameraId::from_uuid(self.uuid("camera_id")?),
            settings: self.document("settings")?,
            created_at: self.time("created_at_us")?,
            version: Position(self.unsigned("version")?),
        })
    }

    /// A copy, and what its server said last.
    pub(super) fn copy(&self) -> Result<CopyView, Error> {
        let row = CopyRow {
            key: self.copy_key()?,
            placement: self.placement()?,
            home: self.read(self.row.id("home_server_id"))?.map(ServerId::from_uuid),
            successor: self.successor()?,
        };
        let status = match self.optional_text("state")? {
            None => None,
            Some(_) => Some(self.status("status_server_id")?),
        };
        Ok(CopyView { row, status })
    }

    fn copy_key(&self) -> Result<CopyKey, Error> {
        Ok(CopyKey {
            tenant_id: TenantId::from_uuid(self.uuid("tenant_id")?),
            camera_id: CameraId::from_uuid(self.uuid("camera_id")?),
            copy: self.copy_number()?,
        })
    }

    fn copy_number(&self) -> Result<u8, Error> {
        u8::try_from(self.integer("copy")?).map_err(|error| self.corrupt(format!("copy: {error}")))
    }

    fn placement(&self) -> Result<Placement, Error> {
        match self.text("placement")? {
            "unplanned" => Ok(Placement::Unplanned),
            "unplaced" => Ok(Placement::Unplaced {
                reason: self.word("placement_reason")?,
                since: self.time("placed_at_us")?,
            }),
            "assigned" => Ok(Placement::Assigned(self.assignment()?)),
            other => Err(self.corrupt(format!("placement `{other}`"))),
        }
    }

    pub(super) fn current_assignment(&self) -> Result<AssignmentView, Error> {
        let (assignment, successor) = (self.assignment()?, self.successor()?);
        Ok(AssignmentView { key: self.copy_key()?, assignment, successor })
    }

    fn successor(&self) -> Result<Option<Assignment>, Error> {
        let Some(server_id) = self.read(self.row.id("successor_server_id"))? else { return Ok(None) };
        Ok(Some(Assignment {
            server_id: ServerId::from_uuid(server_id),
            epoch: Epoch(self.unsigned("successor_epoch")?),
            since: self.time("successor_since_us")?,
            reason: self.word("successor_reason")?,
        }))
    }

    fn assignment(&self) -> Result<Assignment, Error> {
        Ok(Assignment {
            server_id: self.server_id()?,
            epoch: Epoch(self.unsigned("epoch")?),
            since: self.time("placed_at_us")?,
            reason: self.word("placement_reason")?,
        })
    }

    pub(super) fn status(&self, server_column: &str) -> Result<StatusRow, Error> {
        let condition = match self.text("state")? {
            "connecting" => Condition::Connecting,
            "recording" => Condition::Recording,
            "offline" => Condition::Offline {
                cause: self.word("cause")?,
                detail: self.optional_text("detail")?.unwrap_or_default().to_owned(),
            },
            other => return Err(self.corrupt(format!("state `{other}`"))),
        };
        let until = self.optional_time("recording_until_us")?;
        let open = self.optional_time("recording_since_us")?.map(|since| OpenVideo { since, until });
        Ok(StatusRow {
            epoch: Epoch(self.unsigned("epoch")?),
            server_id: ServerId::from_uuid(self.uuid(server_column)?),
            boot_id: BootId::from_uuid(self.uuid("boot_id")?),
            condition,
            since: self.time("since_us")?,
            position: Position(self.unsigned("position")?),
            open,
        })
    }

    pub(super) fn segment(&self) -> Result<SegmentRow, Error> {
        let audio = match self.optional_text("audio")? {
            None => None,
            Some(codec) => Some(self.parse_word("audio", codec)?),
        };
        Ok(SegmentRow {
            tenant_id: TenantId::from_uuid(self.uuid("tenant_id")?),
            camera_id: CameraId::from_uuid(self.uuid("camera_id")?),
            epoch: Epoch(self.unsigned("epoch")?),
            server_id: self.server_id()?,
            start: self.time("start_us")?,
            end: self.time("end_us")?,
            key: self.text("object_key")?.to_owned(),
            bytes: self.unsigned("bytes")?,
            sha256: self.sha256()?,
            video_frames: self.unsigned("video_frames")?,
            video: self.word("video")?,
            audio,
            repaired: self.truth("repaired")?,
            damage: self.damage()?,
            location: self.word("location")?,
            store_id: self.read(self.row.id("store_id"))?.map(StoreId::from_uuid),
        })
    }

    pub(super) fn camera_key(&self) -> Result<(TenantId, CameraId), Error> {
        let (tenant, camera) = (self.uuid("tenant_id")?, self.uuid("camera_id")?);
        Ok((TenantId::from_uuid(tenant), CameraId::from_uuid(camera)))
    }

    pub(super) fn stocked(&self) -> Result<StockedSegment, Error> {
        Ok(StockedSegment {
            key: self.text("object_key")?.to_owned(),
            start: self.time("start_us")?,
            end: self.time("end_us")?,
            bytes: self.unsigned("bytes")?,
            sha256: self.sha256()?,
            damage: self.damage()?,
        })
    }

    pub(super) fn retention(&self) -> Result<Retention, Error> {
        self.document("retention")
    }

    fn damage(&self) -> Result<Option<Damage>, Error> {
        let word = self.optional_text("damage")?;
        word.map(|word| self.parse_word("damage", word)).transpose()
    }

    fn sha256(&self) -> Result<Sha256, Error> {
        let sha256 = self.optional_sha256("sha256")?;
        sha256.ok_or_else(|| self.corrupt("sha256 is NULL"))
    }

    pub(super) fn optional_sha256(&self, column: &str) -> Result<Option<Sha256>, Error> {
        let bytes = self.read(self.row.bytes(column))?;
        let sha256 = bytes.map(|bytes| bytes.try_into().map(Sha256)).transpose();
        sha256.map_err(|_| self.corrupt(format!("{column} is not 32 bytes")))
    }

    pub(super) fn gap(&self) -> Result<GapRow, Error> {
        Ok(GapRow {
            copy: self.copy_number()?,
            epoch: Epoch(self.unsigned("epoch")?),
            start: self.time("start_us")?,
            end: self.time("end_us")?,
            cause: self.word("cause")?,
        })
    }

    pub(super) fn trigger(&self) -> Result<TriggerRow, Error> {
        let trigger = Trigger {
            tenant_id: TenantId::from_uuid(self.uuid("tenant_id")?),
            camera_id: CameraId::from_uuid(self.uuid("camera_id")?),
            event_id: TriggerId::from_uuid(self.uuid("event_id")?),
            kind: self.text("kind")?.to_owned(),
            detail: self.optional_text("detail")?.map(str::to_owned),
            at: self.time("at_us")?,
            from: self.time("from_us")?,
            until: self.time("until_us")?,
            records: self.truth("records")?,
            by: self.text("actor")?.to_owned(),
        };
        Ok(TriggerRow { trigger, epoch: Epoch(self.unsigned("epoch")?), server_id: self.server_id()? })
    }

    pub(super) fn deletion(&self) -> Result<DeletionRow, Error> {
        Ok(DeletionRow {
            epoch: Epoch(self.unsigned("epoch")?),
            server_id: self.server_id()?,
            start: self.time("start_us")?,
            end: self.time("end_us")?,
            reason: self.word("reason")?,
        })
    }

    pub(super) fn interruption(&self) -> Result<InterruptionRow, Error> {
        Ok(InterruptionRow {
            copy: self.copy_number()?,
            epoch: Epoch(self.unsigned("epoch")?),
            server_id: self.server_id()?,
            at: self.time("at_us")?,
            cause: self.word("cause")?,
        })
    }

    pub(super) fn placed(&self) -> Result<PlacedRow, Error> {
        let place = match self.text("placement")? {
            "unplanned" => Place::Unplanned,
            "assigned" => {
                let is_failover = self.word::<AssignReason>("reason")? == AssignReason::Failover;
                let is_taken_over = self.truth("from_lost")? || is_failover;
                let place = if is_taken_over { Place::TakenOver } else { Place::Server };
                place(self.server_id()?)
            }
            "unplaced" => Place::Nowhere(self.word("reason")?),
            other => return Err(self.corrupt(format!("placement `{other}`"))),
        };
        Ok(PlacedRow { copy: self.copy_number()?, at: self.time("at_us")?, place })
    }
}
