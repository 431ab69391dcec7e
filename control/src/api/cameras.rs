//! `/v1/tenants/{tenant}/cameras`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use longwatch_events::assignment::SourceSecret;
use longwatch_events::id::{CameraId, EventId, TenantId};
use longwatch_events::position::Position;
use longwatch_events::sealed::Sealed;
use longwatch_events::settings::CameraSettings;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::auth::Actor;
use super::camera_input::{self, CameraInput, Known};
use super::camera_view::{self, Camera};
use super::change::{Idempotency, IfMatch, carry_out, create as create_once, created, reused, versioned};
use super::cursor;
use super::extract::{CameraPath, JsonBody, PatchBody, Query, TenantPath};
use super::input::merge;
use super::problem::{FieldError, Problem};
use super::source_url;
use super::tenants::no_tenant;
use crate::decide::command::{Command, MAX_NAME};
use crate::read_model::CameraFilter;
use crate::read_model::rows::{CameraState, CameraView};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(read, change, delete))
}

/// A part of the list of a tenant's cameras.
#[derive(Serialize, ToSchema)]
struct CameraList {
    items: Vec<Camera>,
    /// Where the list goes on; null at its end.
    next_cursor: Option<String>,
}

/// There is no camera of this id, or not of this tenant.
pub(super) fn no_camera(id: CameraId) -> Problem {
    Problem::not_found(format!("camera {id} does not exist for this tenant"))
}

/// A tenant's camera.
///
/// # Errors
/// 404 if there is none.
pub(super) async fn find(app: &App, tenant: TenantId, camera: CameraId) -> Result<CameraView, Problem> {
    tenant_exists(app, tenant)?;
    // A camera can go with its server, or with its tenant: State is the first to know.
    if app.service.state().camera(tenant, camera).is_none() {
        return Err(no_camera(camera));
    }
    app.service.read_model().camera(tenant, camera).await?.ok_or_else(|| no_camera(camera))
}

fn tenant_exists(app: &App, tenant: TenantId) -> Result<(), Problem> {
    app.service.state().tenant(tenant).map(|_| ()).ok_or_else(|| no_tenant(tenant))
}

/// List a tenant's cameras.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/cameras", operation_id = "list_cameras", tag = "cameras",
    params(
        ("tenant" = String, Path, description = "The tenant's id, or `default`."),
        ("state" = Option<String>, Query, description = "Only cameras in this state.",
            pattern = "^(recording|connecting|idle|offline|unplaced|disabled)$"),
        ("server_id" = Option<String>, Query, description = "Only cameras on this server.", format = "uuid"),
        ("q" = Option<String>, Query, description = "Only cameras whose name holds this text, in whatever case.",
            max_length = 200),
        ("limit" = Option<u32>, Query, description = "How many items at most.", minimum = 1, maximum = 1000),
        ("cursor" = Option<String>, Query, description = "The next_cursor of the part before."),
    ),
    responses((status = 200, description = "A part of the list, by id.", body = CameraList)))]
async fn list(
    State(app): State<App>,
    TenantPath(tenant): TenantPath,
    mut query: Query,
) -> Result<Json<CameraList>, Problem> {
    let page = query.page();
    let state = query.text("state").and_then(|word| {
        let state = CameraState::ALL.into_iter().find(|state| state.as_str() == word);
        if state.is_none() {
            let words = CameraState::ALL.map(CameraState::as_str).join(", ");
            query.wrong("state", "unknown_word", format!("expected one of {words}"));
        }
        state
    });
    let server_id = query.parsed("server_id");
    let text = query.text("q");
    if text.as_ref().is_some_and(|text| text.chars().count() > MAX_NAME) {
        query.wrong("q", "too_long", format!("expected at most {MAX_NAME} characters"));
    }
    query.finish()?;
    tenant_exists(&app, tenant)?;
    let observations = app.observations();
    let filter = CameraFilter { state, server_id, text, observations: observations.clone() };
    let found = app.service.read_model().cameras(tenant, filter, page).await?;
    let next_cursor =
        found.items.last().filter(|_| found.more).map(|view| cursor::encode(&view.row.camera_id));
    let items = found.items.into_iter().map(|view| camera_view::show(&app, view, &observations)).collect();
    Ok(Json(CameraList { items, next_cursor }))
}

/// Add a camera. It is recorded as soon as a server has it, unless its mode is `off`.
#[utoipa::path(post, path = "/v1/tenants/{tenant}/cameras", operation_id = "add_camera", tag = "cameras",
    params(("tenant" = String, Path, description = "The tenant's id, or `default`.")),
    request_body = CameraInput,
    responses((status = 201, description = "It exists.", body = Camera,
        headers(("etag" = String, description = "Its version."), ("location" = String, description = "Its path.")))))]
async fn create(
    State(app): State<App>,
    actor: Actor,
    TenantPath(tenant_id): TenantPath,
    idempotency: Idempotency,
    JsonBody(body): JsonBody,
) -> Result<Response, Problem> {
    tenant_exists(&app, tenant_id)?;
    let draft = camera_input::read(&body, None)?;
    let ids = idempotency.new_ids(&app, "camera", Some(tenant_id), &camera_input::without_secrets(&body));
    let camera_id = CameraId::from_uuid(ids.thing);
    let exists = || app.service.state().camera(tenant_id, camera_id).is_some();
    let secret = draft.secret.clone();
    create_once(&app, actor, ids, exists, || {
        let sealed = app.service.seal_source(tenant_id, ids.event, &draft.secret)?;
        Ok(Command::AddCamera { tenant_id, camera_id, settings: Box::new(draft.sealed(sealed)) })
    })
    .await?;
    is_of_this_secret(&app, (tenant_id, camera_id), ids.event, &secret)?;
    let view = find(&app, tenant_id, camera_id).await?;
    let headers = created(view.row.version, &format!("/v1/tenants/{tenant_id}/cameras/{camera_id}"));
    let camera = camera_view::show(&app, view, &app.observations());
    Ok((StatusCode::CREATED, headers, Json(camera)).into_response())
}

/// That the camera was created with `secret`, which the id of its event does not tell. Cannot be seen any more once the
/// source was changed.
///
/// # Errors
/// 422 if it was created with another one: then this request is not the one that created it.
fn is_of_this_secret(
    app: &App,
    (tenant, camera): (TenantId, CameraId),
    created_in: EventId,
    secret: &SourceSecret,
) -> Result<(), Problem> {
    let (_, settings) = now(app, tenant, camera)?;
    let sealed = &settings.source.secret;
    if sealed.sealed_in == created_in && app.service.open_source(tenant, sealed)? != *secret {
        return Err(reused());
    }
    Ok(())
}

/// Read a camera.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/cameras/{camera}", operation_id = "read_camera", tag = "cameras",
    params(
        ("tenant" = String, Path, description = "The tenant's id, or `default`."),
        ("camera" = String, Path, description = "The camera's id.", format = "uuid"),
    ),
    responses((status = 200, description = "The camera.", body = Camera,
        headers(("etag" = String, description = "Its version.")))))]
pub(super) async fn read(
    State(app): State<App>,
    CameraPath(tenant, camera): CameraPath,
) -> Result<Response, Problem> {
    let view = find(&app, tenant, camera).await?;
    let version = view.row.version;
    Ok((versioned(version), Json(camera_view::show(&app, view, &app.observations()))).into_response())
}

/// Change a camera. A source whose `url` is left as it was read keeps what is not shown of it; one that leads to another
/// host or port needs username and password anew, or null.
#[utoipa::path(patch, path = "/v1/tenants/{tenant}/cameras/{camera}", operation_id = "change_camera",
    tag = "cameras",
    params(
        ("tenant" = String, Path, description = "The tenant's id, or `default`."),
        ("camera" = String, Path, description = "The camera's id.", format = "uuid"),
    ),
    request_body(content = CameraInput, content_type = "application/merge-patch+json",
        description = "The fields to change (RFC 7396)."),
    responses((status = 200, description = "The camera as it is now.", body = Camera,
        headers(("etag" = String, description = "Its version.")))))]
async fn change(
    State(app): State<App>,
    actor: Actor,
    CameraPath(tenant_id, camera_id): CameraPath,
    if_match: IfMatch,
    PatchBody(patch): PatchBody,
) -> Result<Response, Problem> {
    carry_out(&app, actor, |event_id| {
        let (expected, before) = now(&app, tenant_id, camera_id)?;
        if_match.check(expected)?;
        let settings = Box::new(patched(&app, tenant_id, event_id, &before, &patch)?);
        let is_change = *settings != before;
        Ok(is_change.then_some(Command::ChangeCamera { tenant_id, camera_id, expected, settings }))
    })
    .await?;
    read(State(app), CameraPath(tenant_id, camera_id)).await
}

/// A camera's version and settings in State.
fn now(app: &App, tenant: TenantId, camera: CameraId) -> Result<(Position, CameraSettings), Problem> {
    let state = app.service.state();
    if state.tenant(tenant).is_none() {
        return Err(no_tenant(tenant));
    }
    let camera = state.camera(tenant, camera).ok_or_else(|| no_camera(camera))?;
    Ok((camera.version, camera.settings.told()))
}

fn patched(
    app: &App,
    tenant: TenantId,
    event_id: EventId,
    settings: &CameraSettings,
    patch: &Value,
) -> Result<CameraSettings, Problem> {
    let secret = app.service.open_source(tenant, &settings.source.secret)?;
    let mut doc = camera_input::write(settings, &secret);
    merge(&mut doc, patch);
    let draft = camera_input::read(&doc, Some(&Known { url: &settings.source.url, secret: &secret }))?;
    credentials_stay_home(&secret, &draft.secret, patch)?;
    let sealed = seal(app, tenant, event_id, &settings.source.secret, &secret, &draft.secret)?;
    Ok(draft.sealed(sealed))
}

/// Credentials are for the camera they were given for: with an address that leads elsewhere they are given anew, so that
/// nobody who may not read a password can have it sent to a place of theirs.
fn credentials_stay_home(before: &SourceSecret, after: &SourceSecret, patch: &Value) -> Result<(), Problem> {
    let is_given = |field: &str| patch.get("source").and_then(|source| source.get(field)).is_some();
    let is_taken_along = |stored: &Option<String>, field| stored.is_some() && !is_given(field);
    let some_are =
        is_taken_along(&before.username, "username") || is_taken_along(&before.password, "password");
    if !some_are || source_url::same_place(&before.url, &after.url) {
        return Ok(());
    }
    let detail = "the new url leads to another host or port, where the stored credentials are not sent: give username \
                  and password again, or null";
    Err(Problem::invalid(vec![FieldError::at("/source/password", "credentials_needed", detail)]))
}

/// What did not change stays sealed as it is, for the event it was sealed for.
fn seal(
    app: &App,
    tenant: TenantId,
    event_id: EventId,
    sealed: &Sealed,
    before: &SourceSecret,
    now: &SourceSecret,
) -> Result<Sealed, Problem> {
    if before == now {
        return Ok(sealed.clone());
    }
    Ok(app.service.seal_source(tenant, event_id, now)?)
}

/// Delete a camera. Its archive stays.
#[utoipa::path(delete, path = "/v1/tenants/{tenant}/cameras/{camera}", operation_id = "delete_camera",
    tag = "cameras",
    params(
        ("tenant" = String, Path, description = "The tenant's id, or `default`."),
        ("camera" = String, Path, description = "The camera's id.", format = "uuid"),
    ),
    responses((status = 204, description = "It is gone.")))]
async fn delete(
    State(app): State<App>,
    actor: Actor,
    CameraPath(tenant_id, camera_id): CameraPath,
    if_match: IfMatch,
) -> Result<StatusCode, Problem> {
    carry_out(&app, actor, |_| {
        let (expected, _) = now(&app, tenant_id, camera_id)?;
        if_match.check(expected)?;
        Ok(Some(Command::DeleteCamera { tenant_id, camera_id, expected }))
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}
