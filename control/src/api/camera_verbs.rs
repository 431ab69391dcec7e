//! What can be done with a camera beside changing it: `POST /v1/tenants/{tenant}/cameras/{camera}:VERB`.

use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use longwatch_events::id::ServerId;
use longwatch_events::settings::CameraSettings;
use longwatch_events::state::CameraCopy;
use serde_json::Value;
use utoipa::{OpenApi, ToSchema};
use utoipa_axum::router::OpenApiRouter;

use super::App;
use super::auth::Actor;
use super::camera_view::Camera;
use super::cameras::{no_camera, read};
use super::change::{IfMatch, carry_out};
use super::extract::{ActionBody, CameraPath, CameraSegment, id};
use super::input::{Errors, Object};
use super::problem::{FieldError, Problem};
use super::tenants::no_tenant;
use crate::decide::command::Command;

/// The description of what cannot be routed under its own path: see [`super::server_verbs`].
#[derive(OpenApi)]
#[openapi(paths(move_camera))]
struct Verbs;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(Verbs::openapi()).route("/v1/tenants/{tenant}/cameras/{camera}", post(verb))
}

/// Where a copy of a camera is wanted.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes the body")]
struct MoveInput {
    /// The server that is to record it. Its own: an earlier wish is taken back.
    #[schema(value_type = String, format = "uuid")]
    server_id: ServerId,
    /// Which of its copies.
    #[schema(required = false, default = 0, maximum = 3)]
    copy: u8,
}

/// What was read of a [`MoveInput`].
#[derive(Clone, Copy)]
struct Wish {
    server_id: ServerId,
    copy: u8,
}

/// `POST /v1/tenants/{tenant}/cameras/{camera}:VERB`.
async fn verb(
    app: State<App>,
    actor: Actor,
    CameraSegment(tenant, segment): CameraSegment,
    if_match: IfMatch,
    body: ActionBody,
) -> Result<Response, Problem> {
    match segment.split_once(':') {
        Some((camera, "move")) => {
            let path = CameraPath(tenant, id("camera", camera)?);
            move_camera(app, actor, path, if_match, body).await
        }
        Some((_, other)) => {
            let other: String = other.chars().take(40).collect();
            Err(Problem::not_found(format!("a camera has no action `{other}`; known: move")))
        }
        None => {
            let path = format!("/v1/tenants/{tenant}/cameras/{segment}");
            Err(Problem::only("GET, HEAD, PATCH, DELETE", "POST", &path))
        }
    }
}

/// Move a camera: the server that is asked for records it instead of its own, which goes on until that one has begun. It
/// stays there until it is moved again, preferred elsewhere or its server is lost or drained. `placements` tells how far it
/// is; if the server has no room now, the wish stands until it has.
#[utoipa::path(post, path = "/v1/tenants/{tenant}/cameras/{camera}:move", operation_id = "move_camera",
    tag = "cameras",
    params(
        ("tenant" = String, Path, description = "The tenant's id, or `default`."),
        ("camera" = String, Path, description = "The camera's id.", format = "uuid"),
    ),
    request_body = MoveInput,
    responses((status = 200, description = "The camera, with the wish.", body = Camera,
        headers(("etag" = String, description = "Its version.")))))]
async fn move_camera(
    State(app): State<App>,
    actor: Actor,
    CameraPath(tenant_id, camera_id): CameraPath,
    if_match: IfMatch,
    ActionBody(body): ActionBody,
) -> Result<Response, Problem> {
    let wish = read_wish(&body)?;
    carry_out(&app, actor, |_| {
        let state = app.service.state();
        if state.tenant(tenant_id).is_none() {
            return Err(no_tenant(tenant_id));
        }
        let camera = state.camera(tenant_id, camera_id).ok_or_else(|| no_camera(camera_id))?;
        if_match.check(camera.version)?;
        if state.server(wish.server_id).is_none() {
            let detail = format!("server {} does not exist; GET /v1/servers lists them", wish.server_id);
            return Err(Problem::invalid(vec![FieldError::at("/server_id", "unknown_server", detail)]));
        }
        let is_so = camera.copy(wish.copy).is_some_and(|copy| is_so(copy, wish.server_id));
        let (copy, server_id, expected) = (wish.copy, wish.server_id, camera.version);
        let command = Command::MoveCamera { tenant_id, camera_id, copy, expected, server_id };
        Ok((!is_so).then_some(command))
    })
    .await?;
    read(State(app), CameraPath(tenant_id, camera_id)).await
}

fn read_wish(body: &Value) -> Result<Wish, Problem> {
    let mut errors = Errors::default();
    let mut object = Object::root(body, &mut errors);
    let server_id = object.required_id("server_id", &mut errors);
    let last = u32::from(CameraSettings::MAX_COPIES) - 1;
    let copy = object.small_number("copy", 0..=last, &mut errors).unwrap_or(0);
    object.finish(&mut errors);
    let copy = u8::try_from(copy).unwrap_or(0);
    errors.or(server_id.map(|server_id| Wish { server_id, copy }))
}

/// Whether a copy is wanted on the server, or is there and on its way nowhere.
fn is_so(copy: &CameraCopy, server_id: ServerId) -> bool {
    match copy.requested() {
        Some(requested) => requested == server_id,
        None => copy.successor().is_none() && copy.assignment().is_some_and(|a| a.server_id == server_id),
    }
}
