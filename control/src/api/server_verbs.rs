//! What can be done with a server beside changing it: `POST /v1/servers/{server}:VERB`.
//!
//! Each is a wish to the log and safe to send again: what is so already is left as it is.

use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use longwatch_events::event::DetachedCameras;
use longwatch_events::id::ServerId;
use longwatch_events::state::Server as ServerState;
use serde_json::Value;
use utoipa::{OpenApi, ToSchema};
use utoipa_axum::router::OpenApiRouter;

use super::App;
use super::auth::Actor;
use super::change::{IfMatch, carry_out};
use super::extract::{ActionBody, ServerPath, ServerSegment, id};
use super::input::{Errors, Object};
use super::problem::Problem;
use super::server_view::Server;
use super::servers::{look_at, name_is_its_own, read};
use crate::decide::command::Command;

/// The description of what cannot be routed under its own path: the router knows no `{server}:adopt`, so the verb is
/// split off by hand.
#[derive(OpenApi)]
#[openapi(paths(adopt, drain, resume, failback, detach))]
struct Verbs;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(Verbs::openapi()).route("/v1/servers/{server}", post(verb))
}

/// What becomes of the cameras of a server that is let go.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes the body")]
struct DetachInput {
    /// `keep`: they stay, and those it records are placed anew. `remove`: its cameras are deleted with it, but for those of which
    /// another server has a copy; what was recorded of them stays in its archive. Refused while other servers record any of
    /// them, which they took over or to which it was drained.
    #[schema(required = false, default = "keep", pattern = "^(keep|remove)$")]
    cameras: String,
}

/// `POST /v1/servers/{server}:VERB`.
async fn verb(
    app: State<App>,
    actor: Actor,
    ServerSegment(segment): ServerSegment,
    if_match: IfMatch,
    body: ActionBody,
) -> Result<Response, Problem> {
    let Some((server, verb)) = segment.split_once(':') else {
        return Err(Problem::only("GET, HEAD, PATCH, DELETE", "POST", &format!("/v1/servers/{segment}")));
    };
    let server = || id("server", server).map(ServerPath);
    match verb {
        "adopt" => adopt(app, actor, server()?, if_match, body).await,
        "drain" => drain(app, actor, server()?, if_match, body).await,
        "resume" => resume(app, actor, server()?, if_match, body).await,
        "failback" => failback(app, actor, server()?, if_match, body).await,
        "detach" => detach(app, actor, server()?, if_match, body).await,
        other => {
            let other: String = other.chars().take(40).collect();
            let known = "adopt, drain, resume, failback, detach";
            Err(Problem::not_found(format!("a server has no action `{other}`; known: {known}")))
        }
    }
}

/// Carries out what `wish` makes of the server; `None`: it is so already.
async fn act(
    app: &App,
    actor: Actor,
    server_id: ServerId,
    if_match: &IfMatch,
    wish: impl Fn(&ServerState) -> Option<Command>,
) -> Result<(), Problem> {
    carry_out(app, actor, |_| {
        let (version, command) = look_at(app, server_id, |server| (server.version, wish(server)))?;
        if_match.check(version)?;
        Ok(command)
    })
    .await
}

/// That the body of an action that takes none is empty.
fn takes_nothing(ActionBody(body): &ActionBody) -> Result<(), Problem> {
    let mut errors = Errors::default();
    Object::root(body, &mut errors).finish(&mut errors);
    errors.or(Some(()))
}

/// Adopt a server that is undefined or was let go: from now on it is given cameras.
#[utoipa::path(post, path = "/v1/servers/{server}:adopt", operation_id = "adopt_server", tag = "servers",
    params(("server" = String, Path, description = "The server's id.", format = "uuid")),
    responses((status = 200, description = "The server, which belongs to this system now.", body = Server,
        headers(("etag" = String, description = "Its version.")))))]
async fn adopt(
    State(app): State<App>,
    actor: Actor,
    ServerPath(server_id): ServerPath,
    if_match: IfMatch,
    body: ActionBody,
) -> Result<Response, Problem> {
    takes_nothing(&body)?;
    act(&app, actor, server_id, &if_match, |server| {
        (!server.is_adopted()).then_some(Command::AdoptServer { server_id, expected: server.version })
    })
    .await?;
    let name = look_at(&app, server_id, |server| server.settings.name.clone())?;
    name_is_its_own(&app, server_id, name)?;
    read(State(app), ServerPath(server_id)).await
}

/// Drain a server: its cameras move to others, each of which begins before this one ends. It is given no new ones. Cameras
/// of priority `never`, and those that no other server has room for, stay on it.
#[utoipa::path(post, path = "/v1/servers/{server}:drain", operation_id = "drain_server", tag = "servers",
    params(("server" = String, Path, description = "The server's id.", format = "uuid")),
    responses((status = 200, description = "The server, which is being emptied now.", body = Server,
        headers(("etag" = String, description = "Its version.")))))]
async fn drain(
    State(app): State<App>,
    actor: Actor,
    ServerPath(server_id): ServerPath,
    if_match: IfMatch,
    body: ActionBody,
) -> Result<Response, Problem> {
    takes_nothing(&body)?;
    act(&app, actor, server_id, &if_match, |server| {
        let is_so = server.is_ours() && server.draining_since.is_some();
        (!is_so).then_some(Command::StartDrain { server_id, expected: server.version })
    })
    .await?;
    read(State(app), ServerPath(server_id)).await
}

/// Stop a drain: the server is given cameras again, and those that left it come back as policy says.
#[utoipa::path(post, path = "/v1/servers/{server}:resume", operation_id = "resume_server", tag = "servers",
    params(("server" = String, Path, description = "The server's id.", format = "uuid")),
    responses((status = 200, description = "The server, which is not being emptied any more.", body = Server,
        headers(("etag" = String, description = "Its version.")))))]
async fn resume(
    State(app): State<App>,
    actor: Actor,
    ServerPath(server_id): ServerPath,
    if_match: IfMatch,
    body: ActionBody,
) -> Result<Response, Problem> {
    takes_nothing(&body)?;
    act(&app, actor, server_id, &if_match, |server| {
        let is_so = server.is_ours() && server.draining_since.is_none();
        (!is_so).then_some(Command::StopDrain { server_id, expected: server.version })
    })
    .await?;
    read(State(app), ServerPath(server_id)).await
}

/// Fail back: the cameras that others took over from this server come back to it now, whatever policy says of when.
#[utoipa::path(post, path = "/v1/servers/{server}:failback", operation_id = "fail_back_server", tag = "servers",
    params(("server" = String, Path, description = "The server's id.", format = "uuid")),
    responses((status = 200, description = "The server; `home_cameras_away` is how many are still to come.",
        body = Server, headers(("etag" = String, description = "Its version.")))))]
async fn failback(
    State(app): State<App>,
    actor: Actor,
    ServerPath(server_id): ServerPath,
    if_match: IfMatch,
    body: ActionBody,
) -> Result<Response, Problem> {
    takes_nothing(&body)?;
    act(&app, actor, server_id, &if_match, |server| {
        let is_so = server.is_ours() && server.failback_requested;
        (!is_so).then_some(Command::FailBack { server_id, expected: server.version })
    })
    .await?;
    read(State(app), ServerPath(server_id)).await
}

/// Detach a server: it belongs to this system no longer, and its worker may not come back by itself. An owner may adopt
/// it again, with its archive.
#[utoipa::path(post, path = "/v1/servers/{server}:detach", operation_id = "let_server_go", tag = "servers",
    params(("server" = String, Path, description = "The server's id.", format = "uuid")),
    request_body(content = Option<DetachInput>, description = "What becomes of its cameras."),
    responses((status = 200, description = "The server, which was let go.", body = Server,
        headers(("etag" = String, description = "Its version.")))))]
async fn detach(
    State(app): State<App>,
    actor: Actor,
    ServerPath(server_id): ServerPath,
    if_match: IfMatch,
    ActionBody(body): ActionBody,
) -> Result<Response, Problem> {
    let cameras = read_detach(&body)?;
    let_go(&app, actor, server_id, &if_match, cameras).await?;
    read(State(app), ServerPath(server_id)).await
}

fn read_detach(body: &Value) -> Result<DetachedCameras, Problem> {
    let mut errors = Errors::default();
    let mut object = Object::root(body, &mut errors);
    let words = [("keep", DetachedCameras::Keep), ("remove", DetachedCameras::Remove)];
    let cameras = object.word("cameras", &words, &mut errors).unwrap_or_default();
    object.finish(&mut errors);
    errors.or(Some(cameras))
}

/// Lets a server go, unless it was let go before.
pub(super) async fn let_go(
    app: &App,
    actor: Actor,
    server_id: ServerId,
    if_match: &IfMatch,
    cameras: DetachedCameras,
) -> Result<(), Problem> {
    act(app, actor, server_id, if_match, |server| {
        let wish = Command::DetachServer { server_id, expected: server.version, cameras };
        (!server.is_detached()).then_some(wish)
    })
    .await
}
