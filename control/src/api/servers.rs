//! `/v1/servers`. Servers belong to the provider. What is read of them comes from State and from what is observed, not
//! from rows: there are few of them, and what is observed of one is in no row.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use longwatch_events::event::DetachedCameras;
use longwatch_events::id::ServerId;
use longwatch_events::position::Position;
use longwatch_events::state::Server as ServerState;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::auth::Actor;
use super::change::{Idempotency, IfMatch, carry_out, create as create_once, created, versioned};
use super::cursor;
use super::extract::{JsonBody, PatchBody, Query, ServerPath};
use super::input::merge;
use super::problem::Problem;
use super::server_input::{self, ServerInput};
use super::server_verbs::let_go;
use super::server_view::{self, Server, Word};
use crate::decide::command::{Command, Refusal};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(read, change, detach))
}

/// A part of the list of servers.
#[derive(Serialize, ToSchema)]
struct ServerList {
    items: Vec<Server>,
    /// Where the list goes on; null at its end.
    next_cursor: Option<String>,
}

fn no_server(id: ServerId) -> Problem {
    Problem::not_found(format!("server {id} does not exist"))
}

/// What `look` sees of a server's State.
///
/// # Errors
/// 404 if there is no such server.
pub(super) fn look_at<T>(
    app: &App,
    id: ServerId,
    look: impl FnOnce(&ServerState) -> T,
) -> Result<T, Problem> {
    app.service.state().server(id).map(look).ok_or_else(|| no_server(id))
}

/// That no other server was given `name` at the same time and came first.
///
/// # Errors
/// 409 if one was: what was asked for has not happened then.
pub(super) fn name_is_its_own(app: &App, id: ServerId, name: String) -> Result<(), Problem> {
    match app.service.state().server_by_name(&name) {
        Some((other, _)) if other != id => Err(Refusal::NameTaken { name }.into()),
        Some(_) | None => Ok(()),
    }
}

/// A server as it is now, and its version.
fn shown(app: &App, id: ServerId) -> Result<(Position, Server), Problem> {
    let state = app.service.state();
    let server = state.server(id).ok_or_else(|| no_server(id))?;
    let arrivals = server_view::arrivals(&state);
    Ok((server.version, server_view::show(&state, app.service.observed(), &arrivals, id, server)))
}

/// List servers; also those that were let go.
#[utoipa::path(get, path = "/v1/servers", operation_id = "list_servers", tag = "servers",
    params(
        ("state" = Option<String>, Query, description = "Only servers in this state.",
            pattern = "^(undefined|online|suspect|lost|draining|detached)$"),
        ("limit" = Option<u32>, Query, description = "How many items at most.", minimum = 1, maximum = 1000),
        ("cursor" = Option<String>, Query, description = "The next_cursor of the part before."),
    ),
    responses((status = 200, description = "A part of the list, by id.", body = ServerList)))]
async fn list(State(app): State<App>, mut query: Query) -> Result<Json<ServerList>, Problem> {
    let page = query.page::<ServerId>();
    let word = query.text("state").and_then(|text| {
        let word = Word::ALL.into_iter().find(|word| word.as_str() == text);
        if word.is_none() {
            let words = Word::ALL.map(Word::as_str).join(", ");
            query.wrong("state", "unknown_word", format!("expected one of {words}"));
        }
        word
    });
    query.finish()?;
    let (state, observed) = (app.service.state(), app.service.observed());
    let arrivals = server_view::arrivals(&state);
    let mut found = state.servers().filter(|(id, server)| {
        let is_behind = page.after.is_none_or(|after| *id > after);
        is_behind && word.is_none_or(|word| Word::of(server, observed.is_overdue(*id)).0 == word)
    });
    let shown: Vec<_> = found.by_ref().take(page.limit as usize).collect();
    let last = shown.last().map(|(id, _)| *id).filter(|_| found.next().is_some());
    let show = |(id, server)| server_view::show(&state, observed, &arrivals, id, server);
    let items = shown.into_iter().map(show).collect();
    Ok(Json(ServerList { items, next_cursor: last.map(|id| cursor::encode(&id)) }))
}

/// Announce a server: the worker that joins under its name becomes this server, adopted.
#[utoipa::path(post, path = "/v1/servers", operation_id = "announce_server", tag = "servers",
    request_body = ServerInput,
    responses((status = 201, description = "It is known.", body = Server,
        headers(("etag" = String, description = "Its version."), ("location" = String, description = "Its path.")))))]
async fn create(
    State(app): State<App>,
    actor: Actor,
    idempotency: Idempotency,
    JsonBody(body): JsonBody,
) -> Result<Response, Problem> {
    let settings = server_input::read(&body)?;
    let ids = idempotency.new_ids(&app, "server", None, &body);
    let server_id = ServerId::from_uuid(ids.thing);
    let name = settings.name.clone();
    create_once(
        &app,
        actor,
        ids,
        || app.service.state().server(server_id).is_some(),
        || Ok(Command::AddServer { server_id, settings }),
    )
    .await?;
    name_is_its_own(&app, server_id, name)?;
    let (version, server) = shown(&app, server_id)?;
    let headers = created(version, &format!("/v1/servers/{server_id}"));
    Ok((StatusCode::CREATED, headers, Json(server)).into_response())
}

/// Read a server.
#[utoipa::path(get, path = "/v1/servers/{server}", operation_id = "read_server", tag = "servers",
    params(("server" = String, Path, description = "The server's id.", format = "uuid")),
    responses((status = 200, description = "The server.", body = Server,
        headers(("etag" = String, description = "Its version.")))))]
pub(super) async fn read(State(app): State<App>, ServerPath(id): ServerPath) -> Result<Response, Problem> {
    let (version, server) = shown(&app, id)?;
    Ok((versioned(version), Json(server)).into_response())
}

/// Change a server's settings.
#[utoipa::path(patch, path = "/v1/servers/{server}", operation_id = "change_server", tag = "servers",
    params(("server" = String, Path, description = "The server's id.", format = "uuid")),
    request_body(content = ServerInput, content_type = "application/merge-patch+json",
        description = "The fields to change (RFC 7396)."),
    responses((status = 200, description = "The server as it is now.", body = Server,
        headers(("etag" = String, description = "Its version.")))))]
async fn change(
    State(app): State<App>,
    actor: Actor,
    ServerPath(server_id): ServerPath,
    if_match: IfMatch,
    PatchBody(patch): PatchBody,
) -> Result<Response, Problem> {
    let mut wanted_name = None;
    carry_out(&app, actor, |_| {
        let (expected, before) =
            look_at(&app, server_id, |server| (server.version, server.settings.clone()))?;
        if_match.check(expected)?;
        let mut doc = server_input::write(&before);
        merge(&mut doc, &patch);
        let settings = server_input::read(&doc)?;
        wanted_name = Some(settings.name.clone());
        let is_change = settings != before;
        Ok(is_change.then_some(Command::ChangeServer { server_id, expected, settings }))
    })
    .await?;
    if let Some(name) = wanted_name {
        name_is_its_own(&app, server_id, name)?;
    }
    read(State(app), ServerPath(server_id)).await
}

/// Detach a server and keep its cameras: the same as the action `detach`.
#[utoipa::path(delete, path = "/v1/servers/{server}", operation_id = "detach_server", tag = "servers",
    params(("server" = String, Path, description = "The server's id.", format = "uuid")),
    responses((status = 204, description = "It belongs to this system no longer.")))]
async fn detach(
    State(app): State<App>,
    actor: Actor,
    ServerPath(server_id): ServerPath,
    if_match: IfMatch,
) -> Result<StatusCode, Problem> {
    let_go(&app, actor, server_id, &if_match, DetachedCameras::Keep).await?;
    Ok(StatusCode::NO_CONTENT)
}
