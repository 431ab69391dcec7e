//! `/v1/simulations` and `/v1/failover-readiness`: what would happen if servers were lost. Nothing is changed; it is the
//! same placement on the same State.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use longwatch_events::id::{CameraId, CopyKey, ServerId, TenantId};
use longwatch_events::settings::Priority;
use longwatch_events::state::State as SystemState;
use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::extract::{JsonBody, Query};
use super::input::{Errors, Object};
use super::problem::Problem;
use super::{apart, cursor};
use crate::decide::what_if::{self, Outlook};
use crate::read_model::Page;
use crate::service::Service;

/// So many servers can be lost at once.
const MAX_LOST: usize = 1_000;
/// So many cameras are listed; all of them are counted.
const LISTED: usize = 1_000;
/// A page of readiness that took so long ends, and goes on at its cursor.
const PAGE_TIME: Duration = Duration::from_secs(10);

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(simulate)).routes(routes!(readiness))
}

/// What is to be imagined.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes the body")]
struct SimulationInput {
    /// The servers that are lost at once.
    #[schema(value_type = Vec<String>, min_items = 1, max_items = 1000)]
    lose: Vec<ServerId>,
}

/// What would become of the cameras.
#[derive(Serialize, ToSchema)]
struct Simulation {
    /// How many would be recorded by another server.
    placed: usize,
    /// How many no server has room for; also those that would have to make room for others.
    unplaced: usize,
    /// How many would wait for their server: those of priority `never`.
    waiting: usize,
    /// What all that would not be recorded is expected to send, in bits per second.
    missing_bitrate_bps: u64,
    /// How many would not be recorded, by priority.
    by_priority: ByPriority,
    /// Who would record what; the first 1,000.
    placements: Vec<SimulatedPlacement>,
    /// What no server has room for, and why; the first 1,000.
    unplaced_cameras: Vec<SimulatedUnplaced>,
}

/// Numbers of cameras.
#[derive(Serialize, ToSchema, Default)]
struct ByPriority {
    high: usize,
    medium: usize,
    low: usize,
    never: usize,
}

/// A camera that would be recorded by another server.
#[derive(Serialize, ToSchema)]
struct SimulatedPlacement {
    /// Owner of the camera.
    #[schema(value_type = String, format = "uuid")]
    tenant_id: TenantId,
    /// The camera.
    #[schema(value_type = String, format = "uuid")]
    camera_id: CameraId,
    /// Which copy.
    copy: u8,
    /// Who records it now.
    #[schema(value_type = Option<String>, format = "uuid")]
    from_server_id: Option<ServerId>,
    /// Who would.
    #[schema(value_type = String, format = "uuid")]
    to_server_id: ServerId,
    /// Why that one: as in an assignment.
    reason: &'static str,
}

/// A camera that would not be recorded.
#[derive(Serialize, ToSchema)]
struct SimulatedUnplaced {
    /// Owner of the camera.
    #[schema(value_type = String, format = "uuid")]
    tenant_id: TenantId,
    /// The camera.
    #[schema(value_type = String, format = "uuid")]
    camera_id: CameraId,
    /// Which copy.
    copy: u8,
    /// Who records it now.
    #[schema(value_type = Option<String>, format = "uuid")]
    from_server_id: Option<ServerId>,
    /// Its rank.
    #[schema(value_type = String, pattern = "^(high|medium|low|never)$")]
    failover_priority: Priority,
    /// Why no server has room for it: as in a camera's `state_reason`.
    reason: &'static str,
}

/// What the loss of one server would mean.
#[derive(Serialize, ToSchema)]
struct Readiness {
    /// The server.
    #[schema(value_type = String, format = "uuid")]
    server_id: ServerId,
    /// How many cameras it holds.
    cameras: u32,
    /// How many of them no other server has room for, by priority.
    unplaced: ByPriority,
    /// How many would wait for it: those of priority `never`.
    waiting: usize,
    /// The room that is missing, in cameras. Those that would wait need none.
    missing_cameras: usize,
    /// The same in bits per second, as far as it is known what the cameras send.
    missing_bitrate_bps: u64,
    /// Whether every camera that may move would have a place.
    ready: bool,
}

/// A part of the list.
#[derive(Serialize, ToSchema)]
struct ReadinessList {
    items: Vec<Readiness>,
    /// Where the list goes on; null at its end. A part may be shorter than its limit.
    next_cursor: Option<String>,
}

fn by_priority(priorities: impl Iterator<Item = Priority>) -> ByPriority {
    let mut numbers = ByPriority::default();
    for priority in priorities {
        match priority {
            Priority::High => numbers.high += 1,
            Priority::Medium => numbers.medium += 1,
            Priority::Low => numbers.low += 1,
            Priority::Never => numbers.never += 1,
        }
    }
    numbers
}

/// Simulate the loss of servers: who would record their cameras, and for which there is no room. Nothing is changed.
#[utoipa::path(post, path = "/v1/simulations", operation_id = "simulate", tag = "failover",
    request_body = SimulationInput,
    responses((status = 200, description = "What would happen.", body = Simulation)))]
async fn simulate(State(app): State<App>, JsonBody(body): JsonBody) -> Result<Json<Simulation>, Problem> {
    let lose = read(&app.service.state(), &body)?;
    let place = apart::place(&app).await?;
    let simulated = apart::run(&app, place, move |service| {
        let (state, now) = (service.state(), service.log_now());
        simulation(&state, &what_if::lose(&state, now, &lose))
    });
    Ok(Json(simulated.await?))
}

fn read(state: &SystemState, body: &Value) -> Result<BTreeSet<ServerId>, Problem> {
    let mut errors = Errors::default();
    let mut object = Object::root(body, &mut errors);
    let given = object.required_ids::<ServerId>("lose", 1..=MAX_LOST, &mut errors);
    object.finish(&mut errors);
    let mut lose = BTreeSet::new();
    for (pointer, server_id) in given.unwrap_or_default() {
        if state.server(server_id).is_none() {
            let detail = format!("server {server_id} does not exist; GET /v1/servers lists them");
            errors.add(&pointer, "unknown_server", detail);
        }
        if !lose.insert(server_id) {
            errors.add(&pointer, "repeated", format!("server {server_id} is named before; name it once"));
        }
    }
    errors.or(Some(lose))
}

fn simulation(state: &SystemState, outlook: &Outlook) -> Simulation {
    let from = |key: CopyKey| Some(state.copy(key)?.1.assignment()?.server_id);
    let never = outlook.waiting.iter().filter_map(|key| Some(state.copy(*key)?.0.settings.failover_priority));
    let unplaced = outlook.unplaced.iter().map(|(_, priority, _)| *priority);
    let placements = outlook.placed.iter().take(LISTED).map(|(key, to, reason)| SimulatedPlacement {
        tenant_id: key.tenant_id,
        camera_id: key.camera_id,
        copy: key.copy,
        from_server_id: from(*key),
        to_server_id: *to,
        reason: reason.as_str(),
    });
    let left_out = outlook.unplaced.iter().take(LISTED).map(|(key, priority, reason)| SimulatedUnplaced {
        tenant_id: key.tenant_id,
        camera_id: key.camera_id,
        copy: key.copy,
        from_server_id: from(*key),
        failover_priority: *priority,
        reason: reason.as_str(),
    });
    Simulation {
        placed: outlook.placed.len(),
        unplaced: outlook.unplaced.len(),
        waiting: outlook.waiting.len(),
        missing_bitrate_bps: outlook.missing_bitrate_bps,
        by_priority: by_priority(unplaced.chain(never)),
        placements: placements.collect(),
        unplaced_cameras: left_out.collect(),
    }
}

/// Read how ready the system is for the loss of any one server: for each, by id, which cameras no other server has room
/// for. Each line is a plan of its own on what there is when its turn comes.
#[utoipa::path(get, path = "/v1/failover-readiness", operation_id = "read_failover_readiness", tag = "failover",
    params(
        ("limit" = Option<u32>, Query, description = "How many items at most.", minimum = 1, maximum = 1000),
        ("cursor" = Option<String>, Query, description = "The next_cursor of the part before."),
    ),
    responses((status = 200, description = "A part of the list, by id.", body = ReadinessList)))]
async fn readiness(State(app): State<App>, mut query: Query) -> Result<Json<ReadinessList>, Problem> {
    let page = query.page();
    query.finish()?;
    let place = apart::place(&app).await?;
    Ok(Json(apart::run(&app, place, move |service| readiness_page(service, page)).await?))
}

fn readiness_page(service: &Service, page: Page<ServerId>) -> ReadinessList {
    let started = Instant::now();
    let limit = page.limit as usize;
    let servers: Vec<_> = {
        let state = service.state();
        let up = state.servers().filter(|(_, server)| server.is_assignable()).map(|(id, _)| id);
        // One more, to know whether there is one.
        up.filter(|id| page.after.is_none_or(|after| *id > after)).take(limit + 1).collect()
    };
    let mut items = Vec::new();
    for server_id in servers.iter().take(limit) {
        if started.elapsed() > PAGE_TIME {
            break;
        }
        // State is let go between two servers, so that the fold goes on.
        items.push(readiness_of(&service.state(), service, *server_id));
    }
    let last = items.last().map(|item| item.server_id).filter(|_| items.len() < servers.len());
    ReadinessList { items, next_cursor: last.map(|id| cursor::encode(&id)) }
}

fn readiness_of(state: &SystemState, service: &Service, server_id: ServerId) -> Readiness {
    let outlook = what_if::lose(state, service.log_now(), &BTreeSet::from([server_id]));
    Readiness {
        server_id,
        cameras: state.index().roster(server_id).len(),
        unplaced: by_priority(outlook.unplaced.iter().map(|(_, priority, _)| *priority)),
        waiting: outlook.waiting.len(),
        missing_cameras: outlook.unplaced.len(),
        missing_bitrate_bps: outlook.missing_room_bps,
        ready: outlook.unplaced.is_empty(),
    }
}
