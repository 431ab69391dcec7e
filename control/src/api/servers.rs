//! `/v1/servers`. Servers belong to the provider.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use longwatch_events::event::{DetachedCameras, Load};
use longwatch_events::id::ServerId;
use longwatch_events::state::{Membership, Server as ServerState};
use serde::Serialize;
use utoipa::{OpenApi, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::auth::Actor;
use super::change::{Idempotency, IfMatch, carry_out, create as create_once, created, etag, versioned};
use super::cursor;
use super::extract::{JsonBody, PatchBody, Query, ServerPath, ServerSegment, id};
use super::input::merge;
use super::problem::{Problem, moment};
use super::server_input::{self, ServerInput};
use crate::decide::command::{Command, Refusal};
use crate::read_model::rows::{ServerRow, ServerView};

/// The description of what cannot be routed under its own path: the router knows no `{server}:adopt`, so the verb is
/// split off by hand.
#[derive(OpenApi)]
#[openapi(paths(adopt))]
struct Verbs;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(Verbs::openapi())
        .routes(routes!(list, create))
        .routes(routes!(read, change, detach))
        .route("/v1/servers/{server}", post(verb))
}

/// A server that records.
#[derive(Serialize, ToSchema)]
struct Server {
    /// Its id.
    #[schema(value_type = String, format = "uuid")]
    id: ServerId,
    /// For people; unique.
    name: String,
    /// For people and placement.
    labels: BTreeMap<String, String>,
    /// How much it may hold.
    capacity: Capacity,
    /// Whether it takes over others' cameras.
    failover: Failover,
    /// `undefined`: its worker was seen, and it belongs to no system yet; `online`; `suspect`: it belongs to the system
    /// and is not heard of; `lost`: that for so long that others took its cameras over; `detached`: an owner let it go, and
    /// it was not seen since.
    #[schema(pattern = "^(undefined|online|suspect|lost|detached)$")]
    state: &'static str,
    /// For a suspect or lost one: `never_seen` (no worker has joined under its name yet) or `silent`. For an undefined one:
    /// `detached`, if an owner let it go and its worker was seen since.
    state_reason: Option<&'static str>,
    /// How busy it was at its last heartbeat; null: none was heard.
    load: Option<ServerLoad>,
    /// When the log stored its last heartbeat.
    #[schema(format = DateTime)]
    last_heartbeat_at: Option<String>,
    /// How many cameras it is to record.
    cameras: u64,
    /// When it was first seen or announced.
    #[schema(format = DateTime)]
    created_at: String,
    /// Its version, for `If-Match`.
    etag: String,
}

/// How much a server may hold.
#[derive(Serialize, ToSchema)]
struct Capacity {
    /// Cameras.
    max_cameras: u32,
    /// Sum of the cameras' expected bitrates, in bits per second; null: not counted.
    max_bitrate_bps: Option<u64>,
}

/// Whether a server takes over others' cameras.
#[derive(Serialize, ToSchema)]
struct Failover {
    /// May it at all.
    enabled: bool,
    /// Only while it holds fewer cameras than this.
    takeover_limit: u32,
}

/// How busy a server is.
#[derive(Serialize, ToSchema)]
struct ServerLoad {
    /// Cameras it knows it is to record.
    cameras: u32,
    /// Of these, cameras it is recording.
    recording: u32,
    /// Of these, cameras that are neither recording nor failing for the camera's own reason.
    unsettled: u32,
    /// Media received.
    received_bytes_per_s: u64,
    /// CPU of the worker, in thousandths of one core.
    cpu_millicores: u32,
    /// Memory of the worker.
    memory_bytes: u64,
    /// Free space of the archive's volume.
    disk_free_bytes: u64,
    /// Its size.
    disk_total_bytes: u64,
    /// Facts that wait for the log.
    outbox_facts: u64,
}

impl From<Load> for ServerLoad {
    fn from(load: Load) -> Self {
        Self {
            cameras: load.cameras,
            recording: load.recording,
            unsettled: load.unsettled,
            received_bytes_per_s: load.received_bytes_per_s,
            cpu_millicores: load.cpu_millicores,
            memory_bytes: load.memory_bytes,
            disk_free_bytes: load.disk_free_bytes,
            disk_total_bytes: load.disk_total_bytes,
            outbox_facts: load.outbox_facts,
        }
    }
}

/// A part of the list of servers.
#[derive(Serialize, ToSchema)]
struct ServerList {
    items: Vec<Server>,
    /// Where the list goes on; null at its end.
    next_cursor: Option<String>,
}

/// A server's state in a word, and why.
pub(super) const fn state_word(
    membership: Membership,
    has_worker: bool,
    is_lost: bool,
    is_silent: bool,
) -> (&'static str, Option<&'static str>) {
    match membership {
        Membership::Undefined => ("undefined", None),
        Membership::Detached { seen_again: true } => ("undefined", Some("detached")),
        Membership::Detached { seen_again: false } => ("detached", None),
        Membership::Adopted if is_lost => ("lost", Some("silent")),
        Membership::Adopted if !has_worker => ("suspect", Some("never_seen")),
        Membership::Adopted if is_silent => ("suspect", Some("silent")),
        Membership::Adopted => ("online", None),
    }
}

fn show(app: &App, view: ServerView) -> Server {
    let ServerView { row, cameras } = view;
    let observed = app.service.observed();
    let seen = observed.seen(row.server_id);
    let is_silent = observed.silent_since(row.server_id).is_some();
    let (state, state_reason) = state_word(row.membership, row.has_worker, row.lost_since.is_some(), is_silent);
    let ServerRow { server_id, settings, created_at, version, .. } = row;
    Server {
        id: server_id,
        name: settings.name,
        labels: settings.labels,
        capacity: Capacity {
            max_cameras: settings.capacity.max_cameras,
            max_bitrate_bps: settings.capacity.max_bitrate_bps,
        },
        failover: Failover {
            enabled: settings.failover.enabled,
            takeover_limit: settings.failover.takeover_limit,
        },
        state,
        state_reason,
        load: seen.map(|seen| seen.load.into()),
        last_heartbeat_at: seen.map(|seen| moment(seen.at)),
        cameras,
        created_at: moment(created_at),
        etag: etag(version),
    }
}

fn no_server(id: ServerId) -> Problem {
    Problem::not_found(format!("server {id} does not exist"))
}

/// What `look` sees of a server's State.
fn look_at<T>(app: &App, id: ServerId, look: impl FnOnce(&ServerState) -> T) -> Result<T, Problem> {
    app.service.state().server(id).map(look).ok_or_else(|| no_server(id))
}

/// That no other server was given `name` at the same time and came first.
///
/// # Errors
/// 409 if one was: what was asked for has not happened then.
fn name_is_its_own(app: &App, id: ServerId, name: String) -> Result<(), Problem> {
    match app.service.state().server_by_name(&name) {
        Some((other, _)) if other != id => Err(Refusal::NameTaken { name }.into()),
        Some(_) | None => Ok(()),
    }
}

/// List servers.
#[utoipa::path(get, path = "/v1/servers", operation_id = "list_servers", tag = "servers",
    params(
        ("limit" = Option<u32>, Query, description = "How many items at most.", minimum = 1, maximum = 1000),
        ("cursor" = Option<String>, Query, description = "The next_cursor of the part before."),
    ),
    responses((status = 200, description = "A part of the list, by id.", body = ServerList)))]
async fn list(State(app): State<App>, mut query: Query) -> Result<Json<ServerList>, Problem> {
    let page = query.page();
    query.finish()?;
    let found = app.service.read_model().servers(page).await?;
    let next_cursor =
        found.items.last().filter(|_| found.more).map(|view| cursor::encode(&view.row.server_id));
    Ok(Json(ServerList {
        items: found.items.into_iter().map(|view| show(&app, view)).collect(),
        next_cursor,
    }))
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
    let view = app.service.read_model().server(server_id).await?.ok_or_else(|| no_server(server_id))?;
    let headers = created(view.row.version, &format!("/v1/servers/{server_id}"));
    Ok((StatusCode::CREATED, headers, Json(show(&app, view))).into_response())
}

/// Read a server.
#[utoipa::path(get, path = "/v1/servers/{server}", operation_id = "read_server", tag = "servers",
    params(("server" = String, Path, description = "The server's id.", format = "uuid")),
    responses((status = 200, description = "The server.", body = Server,
        headers(("etag" = String, description = "Its version.")))))]
async fn read(State(app): State<App>, ServerPath(id): ServerPath) -> Result<Response, Problem> {
    let view = app.service.read_model().server(id).await?.ok_or_else(|| no_server(id))?;
    Ok((versioned(view.row.version), Json(show(&app, view))).into_response())
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

/// Detach a server: its cameras are placed anew, and its worker may not come back by itself.
#[utoipa::path(delete, path = "/v1/servers/{server}", operation_id = "detach_server", tag = "servers",
    params(("server" = String, Path, description = "The server's id.", format = "uuid")),
    responses((status = 204, description = "It belongs to this system no longer.")))]
async fn detach(
    State(app): State<App>,
    actor: Actor,
    ServerPath(server_id): ServerPath,
    if_match: IfMatch,
) -> Result<StatusCode, Problem> {
    carry_out(&app, actor, |_| {
        let expected = look_at(&app, server_id, |server| server.version)?;
        if_match.check(expected)?;
        let cameras = DetachedCameras::Keep;
        Ok(Some(Command::DetachServer { server_id, expected, cameras }))
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /v1/servers/{server}:VERB`.
async fn verb(
    app: State<App>,
    actor: Actor,
    ServerSegment(segment): ServerSegment,
    if_match: IfMatch,
) -> Result<Response, Problem> {
    match segment.split_once(':') {
        Some((server, "adopt")) => adopt(app, actor, ServerPath(id("server", server)?), if_match).await,
        Some((_, other)) => {
            let other: String = other.chars().take(40).collect();
            Err(Problem::not_found(format!("a server has no action `{other}`; known: adopt")))
        }
        None => Err(Problem::only("GET, HEAD, PATCH, DELETE", "POST", &format!("/v1/servers/{segment}"))),
    }
}

/// Adopt an undefined server: from now on it is given cameras.
#[utoipa::path(post, path = "/v1/servers/{server}:adopt", operation_id = "adopt_server", tag = "servers",
    params(("server" = String, Path, description = "The server's id.", format = "uuid")),
    responses((status = 200, description = "The server, which belongs to this system now.", body = Server,
        headers(("etag" = String, description = "Its version.")))))]
async fn adopt(
    State(app): State<App>,
    actor: Actor,
    ServerPath(server_id): ServerPath,
    if_match: IfMatch,
) -> Result<Response, Problem> {
    carry_out(&app, actor, |_| {
        let (adopted, expected) = look_at(&app, server_id, |server| (server.is_adopted(), server.version))?;
        if_match.check(expected)?;
        Ok((!adopted).then_some(Command::AdoptServer { server_id, expected }))
    })
    .await?;
    read(State(app), ServerPath(server_id)).await
}
