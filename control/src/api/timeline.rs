//! `…/cameras/{camera}/timeline`: what there is of a camera's video, what is missing, and why.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::State;
use longwatch_events::fact::Damage;
use longwatch_events::id::{ServerId, TriggerId};
use longwatch_events::state::Assignment;
use longwatch_events::time::Timestamp;
use longwatch_events::trigger::Trigger;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::cameras::find;
use super::extract::{CameraPath, Query};
use super::problem::{Problem, moment};
use crate::read_model::Range;
use crate::read_model::rows::{CameraView, SegmentRow, TriggerRow};
use crate::read_model::timeline::{Gap, Inputs, Open, Recorder, Timeline, draw_up};

/// The longest range that is answered at once.
const MAX_RANGE_DAYS: i64 = 31;
/// The range that is answered unless asked otherwise: the last day.
const DEFAULT_RANGE_MS: i64 = DAY_MS;
const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(read))
}

/// What there is of a camera's video between `from` and `to`, what is missing, and why. Every moment from `from` (or the
/// camera's creation) to `to` (or `as_of`) is covered by video or lies in exactly one gap.
#[derive(Serialize, ToSchema)]
struct CameraTimeline {
    /// The beginning of the range.
    #[schema(format = DateTime)]
    from: String,
    /// Its end.
    #[schema(format = DateTime)]
    to: String,
    /// Up to when the log has told anything: nothing is claimed of later moments.
    #[schema(format = DateTime)]
    as_of: String,
    /// Segments that overlap the range, whole, by start.
    segments: Vec<TimelineSegment>,
    /// What is missing, in order.
    gaps: Vec<TimelineGap>,
    /// Where more than one segment holds video: those of several copies, or of both servers of a planned move.
    overlaps: Vec<TimelineRange>,
    /// Video that is durable and whose segment is still open, of several servers' that which goes back furthest; null: the
    /// camera is not being recorded right now.
    recording: Option<OpenRecording>,
    /// Events at the camera whose time overlaps the range, by time; each once, whoever took it. The newest ones of a camera
    /// are kept.
    events: Vec<TimelineEvent>,
}

/// An event at the camera.
#[derive(Serialize, ToSchema)]
struct TimelineEvent {
    /// By which whoever told it knows it.
    #[schema(value_type = String, format = "uuid")]
    id: TriggerId,
    /// What happened.
    kind: String,
    /// What else was said of it; null: nothing.
    detail: Option<String>,
    /// When.
    #[schema(format = DateTime)]
    at: String,
    /// From when on it was wanted recorded.
    #[schema(format = DateTime)]
    from: String,
    /// Until when.
    #[schema(format = DateTime)]
    until: String,
    /// Whether the camera was recorded for it; otherwise it is only noted here.
    records: bool,
    /// Who told it.
    actor: String,
}

/// A segment.
#[derive(Serialize, ToSchema)]
struct TimelineSegment {
    /// Its first frame.
    #[schema(format = DateTime)]
    start: String,
    /// Where its last frame ends.
    #[schema(format = DateTime)]
    end: String,
    /// Who has it.
    #[schema(value_type = String, format = "uuid")]
    server_id: ServerId,
    /// Under which assignment it was recorded.
    epoch: u64,
    /// Size.
    bytes: u64,
    /// What its server found to be wrong with it: `missing` (its file is not there any more), `corrupt` (it does not hold what
    /// was stored), `unreadable` (the disk does not let all of it be read); null: nothing. A missing one is a gap, too,
    /// unless another server holds that time.
    #[schema(pattern = "^(missing|corrupt|unreadable)$")]
    damage: Option<&'static str>,
    /// Where it lies: `server`, on the server that has it, for good or until it is uploaded; `object_store`.
    #[schema(pattern = "^(server|object_store)$")]
    location: &'static str,
}

/// Missing video.
#[derive(Serialize, ToSchema)]
struct TimelineGap {
    /// Where video ends.
    #[schema(format = DateTime)]
    start: String,
    /// Where it begins again.
    #[schema(format = DateTime)]
    end: String,
    /// Why: a cause a worker reported, or `unplaced`, `disabled`, `connecting`, `server_silent`, `unknown`; of video that
    /// was there and was deleted, `retention` (it was too old, or there was more than the settings allow),
    /// `storage_full` (its volume had no room for newer video) or `spool_full` (the object store did not take it for so long
    /// that there was no more room to wait in); of video whose file is not there any more though nobody reported that it was
    /// deleted, `segment_missing`.
    cause: &'static str,
}

/// A stretch of time.
#[derive(Serialize, ToSchema)]
struct TimelineRange {
    /// Its beginning.
    #[schema(format = DateTime)]
    start: String,
    /// Its end.
    #[schema(format = DateTime)]
    end: String,
}

/// Video whose segment is still open.
#[derive(Serialize, ToSchema)]
struct OpenRecording {
    /// Where the last segment ended, or the first keyframe.
    #[schema(format = DateTime)]
    since: String,
    /// Who records it.
    #[schema(value_type = String, format = "uuid")]
    server_id: ServerId,
    /// Under which assignment.
    epoch: u64,
}

impl From<&SegmentRow> for TimelineSegment {
    fn from(row: &SegmentRow) -> Self {
        Self {
            start: moment(row.start),
            end: moment(row.end),
            server_id: row.server_id,
            epoch: row.epoch.0,
            bytes: row.bytes,
            damage: row.damage.map(Damage::as_str),
            location: row.location.as_str(),
        }
    }
}

impl From<&Gap> for TimelineGap {
    fn from(gap: &Gap) -> Self {
        Self { start: moment(gap.start), end: moment(gap.end), cause: gap.cause.as_str() }
    }
}

impl From<Open> for OpenRecording {
    fn from(open: Open) -> Self {
        Self { since: moment(open.since), server_id: open.server_id, epoch: open.epoch.0 }
    }
}

impl From<&Trigger> for TimelineEvent {
    fn from(trigger: &Trigger) -> Self {
        Self {
            id: trigger.event_id,
            kind: trigger.kind.clone(),
            detail: trigger.detail.clone(),
            at: moment(trigger.at),
            from: moment(trigger.from),
            until: moment(trigger.until),
            records: trigger.records,
            actor: trigger.by.clone(),
        }
    }
}

/// Each event once, by time. If servers tell different things of one, what the first one by id tells counts.
fn events(rows: &[TriggerRow]) -> Vec<TimelineEvent> {
    let mut known = BTreeSet::new();
    let news = rows.iter().filter(|row| known.insert(row.trigger.event_id));
    news.map(|row| (&row.trigger).into()).collect()
}

fn show(range: Range, as_of: Timestamp, timeline: &Timeline, events: Vec<TimelineEvent>) -> CameraTimeline {
    let overlap = |range: &Range| TimelineRange { start: moment(range.from), end: moment(range.to) };
    CameraTimeline {
        from: moment(range.from),
        to: moment(range.to),
        as_of: moment(as_of),
        segments: timeline.segments.iter().map(Into::into).collect(),
        gaps: timeline.gaps.iter().map(Into::into).collect(),
        overlaps: timeline.overlaps.iter().map(overlap).collect(),
        recording: timeline.recording.map(Into::into),
        events,
    }
}

/// The range that is asked for, of so many days at most; the last day up to `now` unless said otherwise.
pub(super) fn range(query: &mut Query, now: Timestamp, max_days: i64) -> Range {
    let (from, to) = (query.parsed::<Timestamp>("from"), query.parsed::<Timestamp>("to"));
    let to = to.unwrap_or_else(|| from.map_or(now, |from| now.max(from)));
    let from = from.unwrap_or_else(|| to.plus_millis(-DEFAULT_RANGE_MS));
    if from > to {
        query.wrong("to", "out_of_range", format!("the range ends at {to}, before it begins at {from}"));
    } else if to.millis_since(from) > max_days * DAY_MS {
        let detail = format!("a range has at most {}; ask for it in parts", days(max_days));
        query.wrong("from", "out_of_range", detail);
    }
    Range { from, to }
}

fn days(days: i64) -> String {
    if days == 1 { "one day".to_owned() } else { format!("{days} days") }
}

/// Who is to record the camera now: the server of each copy, and the one that is about to take it over.
pub(super) fn recorders(app: &App, view: &CameraView) -> Vec<Recorder> {
    let observed = app.service.observed();
    let servers = view
        .copies
        .iter()
        .flat_map(|copy| copy.row.placement.assignment().into_iter().chain(&copy.row.successor));
    let recorder = |&Assignment { server_id, epoch, .. }: &Assignment| Recorder {
        epoch,
        server_id,
        silent_since: observed.silent_since(server_id),
        boot_id: observed.seen(server_id).map(|seen| seen.boot_id),
    };
    servers.map(recorder).collect()
}

/// Read a camera's timeline.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/cameras/{camera}/timeline", operation_id = "read_timeline",
    tag = "cameras",
    params(
        ("tenant" = String, Path, description = "The tenant's id, or `default`."),
        ("camera" = String, Path, description = "The camera's id.", format = "uuid"),
        ("from" = Option<String>, Query, description = "RFC 3339; default: a day before `to`.", format = DateTime),
        ("to" = Option<String>, Query, description = "RFC 3339; default: now. At most 31 days after `from`.",
            format = DateTime),
    ),
    responses((status = 200, description = "The timeline.", body = CameraTimeline)))]
async fn read(
    State(app): State<App>,
    CameraPath(tenant, camera): CameraPath,
    mut query: Query,
) -> Result<Json<CameraTimeline>, Problem> {
    let range = range(&mut query, app.service.clock().now(), MAX_RANGE_DAYS);
    query.finish()?;
    let view = find(&app, tenant, camera).await?;
    let rows = app.service.read_model().timeline(tenant, camera, range).await?;
    // Of moments the log has not come to, nothing is known: neither that there is video nor that there is none.
    let now = app.service.log_now();
    let created_at = view.row.created_at;
    let recorders = recorders(&app, &view);
    // A month of a camera that flaps takes a moment: other requests must not wait for it.
    let drawn = tokio::task::spawn_blocking(move || {
        let inputs = Inputs { range, now, created_at, recorders, rows: &rows };
        show(range, now, &draw_up(&inputs), events(&rows.triggers))
    });
    drawn.await.map(Json).map_err(|error| Problem::internal(&error))
}
