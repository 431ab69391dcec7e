//! `POST …/cameras/{camera}/events`: something happens at a camera, and whoever saw it says so.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use longwatch_events::id::{CameraId, ServerId, TenantId, TriggerId};
use longwatch_events::settings::{EventRecording, RecordingMode};
use longwatch_events::time::Timestamp;
use longwatch_events::trigger::{MAX_AHEAD_MS, MAX_DETAIL, MAX_KIND, MAX_PAST_MS, Trigger};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::auth::Actor;
use super::cameras::no_camera;
use super::change::{Idempotency, reused};
use super::extract::{CameraPath, JsonBody};
use super::input::{Errors, Object};
use super::problem::{Problem, moment};
use super::tenants::no_tenant;
use crate::read_model::rows::TriggerRow;
use crate::triggers::{self, Asked};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(tell))
}

/// What happened at a camera.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes the body")]
struct EventInput {
    /// What, in a word of your own.
    #[schema(example = "motion", min_length = 1, max_length = 64)]
    kind: String,
    /// What else there is to say.
    #[schema(max_length = 500)]
    detail: Option<String>,
    /// When: not more than 60 s ago, for what was sent before is in no memory any more, and not more than 1 s ahead. Default: now.
    #[schema(format = DateTime)]
    at: Option<String>,
    /// How much before it is wanted, in milliseconds; default: as the camera's `recording.event` says. The camera's server
    /// holds as much as that says.
    #[schema(maximum = 30_000)]
    pre_ms: Option<u32>,
    /// How much after it is wanted, in milliseconds; default: as the camera's `recording.event` says.
    #[schema(maximum = 600_000)]
    post_ms: Option<u32>,
}

/// An event at a camera that a server took.
#[derive(Serialize, ToSchema)]
struct Event {
    /// By which it stands in the timeline.
    #[schema(value_type = String, format = "uuid")]
    event_id: TriggerId,
    /// What happened.
    kind: String,
    /// What else was said of it.
    detail: Option<String>,
    /// When.
    #[schema(format = DateTime)]
    at: String,
    /// From when on it is wanted recorded.
    #[schema(format = DateTime)]
    from: String,
    /// Until when.
    #[schema(format = DateTime)]
    until: String,
    /// Whether the camera is recorded for it. Otherwise it only stands in the timeline: another mode says when the camera is
    /// recorded.
    records: bool,
    /// The servers that took it: on each of them it is durable.
    #[schema(value_type = Vec<String>)]
    servers: Vec<ServerId>,
}

/// What was read of an [`EventInput`].
struct Draft {
    kind: String,
    detail: Option<String>,
    at: Option<Timestamp>,
    pre_ms: Option<u32>,
    post_ms: Option<u32>,
}

/// Tell of an event at a camera. In mode `event` the camera is recorded from `pre_ms` before it to `post_ms` after it; an event
/// within the recording of another lengthens that. In the other modes it is only noted in the timeline. It is answered once it
/// is durable on a server that has the camera; each that has it is told, and whoever takes the camera over while the event is
/// on. Sent again with the same `Idempotency-Key` it is the same event.
#[utoipa::path(post, path = "/v1/tenants/{tenant}/cameras/{camera}/events", operation_id = "tell_event",
    tag = "cameras",
    params(
        ("tenant" = String, Path, description = "The tenant's id, or `default`."),
        ("camera" = String, Path, description = "The camera's id.", format = "uuid"),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes sending the same request again safe.",
            min_length = 1, max_length = 255),
    ),
    request_body = EventInput,
    responses((status = 201, description = "The event, and who took it.", body = Event)))]
async fn tell(
    State(app): State<App>,
    actor: Actor,
    CameraPath(tenant_id, camera_id): CameraPath,
    idempotency: Idempotency,
    JsonBody(body): JsonBody,
) -> Result<Response, Problem> {
    let now = app.service.clock().now();
    let draft = read(&body, now)?;
    let (mode, around) = wanted(&app, tenant_id, camera_id)?;
    let ids = idempotency.new_ids(&app, "event", Some(tenant_id), &Value::Null);
    let event_id = TriggerId::from_uuid(ids.thing);
    if ids.may_exist
        && let Some(told) = told_before(&app, tenant_id, camera_id, event_id, &draft).await?
    {
        return Ok(told);
    }
    let at = draft.at.unwrap_or(now);
    let pre_ms = draft.pre_ms.unwrap_or(around.pre_ms);
    let post_ms = draft.post_ms.unwrap_or(around.post_ms);
    let trigger = Trigger {
        tenant_id,
        camera_id,
        event_id,
        kind: draft.kind,
        detail: draft.detail,
        at,
        from: at.plus_millis(-i64::from(pre_ms)),
        until: at.plus_millis(i64::from(post_ms)),
        records: mode == RecordingMode::Event,
        by: actor.0.to_owned(),
    };
    let servers = triggers::servers(&app.service.state(), tenant_id, camera_id);
    if servers.is_empty() {
        let detail = "no server has the camera now: nobody can take the event. Send the same request again once its state is \
                      not `unplaced` any more";
        return Err(Problem::unavailable("unplaced", detail));
    }
    let Asked { taken, not_taken } = triggers::ask(&app.service, &trigger, servers).await;
    if taken.is_empty() {
        let why: Vec<_> = not_taken.iter().map(|(server, why)| format!("server {server}: {why}")).collect();
        let detail = format!(
            "no server took the event ({}). Sending the same request again is safe, best with an Idempotency-Key: what was \
             taken all the same is taken once",
            why.join("; ")
        );
        return Err(Problem::unavailable("not_taken", detail));
    }
    Ok((StatusCode::CREATED, Json(show(&trigger, taken.into_iter().collect()))).into_response())
}

fn show(trigger: &Trigger, servers: Vec<ServerId>) -> Event {
    Event {
        event_id: trigger.event_id,
        kind: trigger.kind.clone(),
        detail: trigger.detail.clone(),
        at: moment(trigger.at),
        from: moment(trigger.from),
        until: moment(trigger.until),
        records: trigger.records,
        servers,
    }
}

fn read(body: &Value, now: Timestamp) -> Result<Draft, Problem> {
    let mut errors = Errors::default();
    let mut object = Object::root(body, &mut errors);
    let kind = object.required_text("kind", 1..=MAX_KIND, &mut errors).map(str::to_owned);
    let detail = object.text("detail", 0..=MAX_DETAIL, &mut errors).map(str::to_owned);
    let at = object.time("at", &mut errors);
    if let Some(at) = at {
        let ago_ms = now.millis_since(at);
        if !(-MAX_AHEAD_MS..=MAX_PAST_MS).contains(&ago_ms) {
            let (earliest, latest) = (now.plus_millis(-MAX_PAST_MS), now.plus_millis(MAX_AHEAD_MS));
            let detail = format!("expected a moment from {earliest} to {latest}, found {at}");
            errors.add(&object.at("at"), "out_of_range", detail);
        }
    }
    let pre_ms = object.small_number("pre_ms", 0..=EventRecording::MAX_PRE_MS, &mut errors);
    let post_ms = object.small_number("post_ms", 0..=EventRecording::MAX_POST_MS, &mut errors);
    object.finish(&mut errors);
    errors.or(kind.map(|kind| Draft { kind, detail, at, pre_ms, post_ms }))
}

/// When the camera is recorded, and how much around an event.
fn wanted(
    app: &App,
    tenant_id: TenantId,
    camera_id: CameraId,
) -> Result<(RecordingMode, EventRecording), Problem> {
    let state = app.service.state();
    if state.tenant(tenant_id).is_none() {
        return Err(no_tenant(tenant_id));
    }
    let camera = state.camera(tenant_id, camera_id).ok_or_else(|| no_camera(camera_id))?;
    let recording = camera.settings.recording();
    if recording.mode == RecordingMode::Off {
        let detail = "the camera's recording.mode is off: no server has it, and nobody can take the event. Expected mode event \
                      (or continuous or schedule, in which an event is noted only)";
        return Err(Problem::conflict("recording_off", detail));
    }
    Ok((recording.mode, recording.event.unwrap_or_default()))
}

/// What this request told before, if it did and that has come to the log.
async fn told_before(
    app: &App,
    tenant_id: TenantId,
    camera_id: CameraId,
    event_id: TriggerId,
    draft: &Draft,
) -> Result<Option<Response>, Problem> {
    let rows = app.service.read_model().trigger(tenant_id, camera_id, event_id).await?;
    let Some(TriggerRow { trigger, .. }) = rows.first() else { return Ok(None) };
    let same_times = draft.at.is_none_or(|at| at == trigger.at)
        && draft.pre_ms.is_none_or(|ms| trigger.at.millis_since(trigger.from) == i64::from(ms))
        && draft.post_ms.is_none_or(|ms| trigger.until.millis_since(trigger.at) == i64::from(ms));
    if (&trigger.kind, &trigger.detail) != (&draft.kind, &draft.detail) || !same_times {
        return Err(reused());
    }
    let servers = rows.iter().map(|row| row.server_id).collect();
    Ok(Some((StatusCode::CREATED, Json(show(trigger, servers))).into_response()))
}
