//! `/v1/system`: how far this replica is, in numbers and hashes that can be compared with another's; and what is wrong with the
//! system as a whole.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use longwatch_events::id::TenantId;
use longwatch_events::reason::UnplacedReason;
use longwatch_events::state::{Placement, State as SystemState};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::extract::Query;
use super::problem::Problem;
use crate::service::Service;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(read))
}

/// How far this replica is.
#[derive(Serialize, ToSchema)]
struct System {
    /// The version of this program.
    version: &'static str,
    /// Up to where `LOG` has been folded.
    log_position: u64,
    /// Up to where `RECORDINGS` has been folded.
    recordings_position: u64,
    /// SHA-256 of State at `log_position`, as hexadecimal digits; null if `hashes=false`.
    state_hash: Option<String>,
    /// SHA-256 of all rows of the read model, as hexadecimal digits; null if `hashes=false`. At the same positions every
    /// replica has the same.
    read_model_hash: Option<String>,
    /// The tenant every system begins with; `default` stands for it in paths.
    #[schema(value_type = String, format = "uuid")]
    default_tenant_id: TenantId,
    /// What is wrong with the system as a whole; empty if all is well. A replica that says so is ready all the same:
    /// another one would say the same.
    problems: Vec<SystemProblem>,
}

/// Something that is wrong with the system as a whole.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
struct SystemProblem {
    /// For a program: `no_servers`, `all_servers_lost`, `mass_silence_held`, `unplaced_cameras`, `sources_unopened`,
    /// `fold_halted` or `trouble`.
    code: &'static str,
    /// For a person: what is wrong, and what would help.
    detail: String,
}

/// What is wrong with the system as a whole.
fn problems(service: &Service) -> Vec<SystemProblem> {
    let mut problems = Vec::new();
    let mut add = |code, detail: String| problems.push(SystemProblem { code, detail });
    if let Some(why) = service.halted() {
        add("fold_halted", format!("nothing is decided any more, recording goes on: {why}"));
    }
    let (ours, lost, others, unplaced) = {
        let state = service.state();
        let ours = state.fleet();
        let lost = state.servers().filter(|(_, server)| server.is_ours() && server.lost.is_some()).count();
        let others = state.servers().filter(|(_, server)| !server.is_adopted()).count();
        (ours, lost, others, unplaced(&state))
    };
    if ours == 0 {
        add(
            "no_servers",
            format!(
                "no server belongs to this system, so nothing is recorded: start a worker with the join key, or adopt one of \
                 the {others} that are undefined or detached"
            ),
        );
    } else if lost == ours {
        let detail = format!("all {ours} servers of this system are lost: nothing is known to be recorded");
        add("all_servers_lost", detail);
    }
    if let held @ 1.. = service.held() {
        let detail = format!(
            "{held} servers are silent at once, more than policy takes for lost: nothing is moved; look at the network and \
             at NATS"
        );
        add("mass_silence_held", detail);
    }
    if !unplaced.is_empty() {
        let count: u64 = unplaced.values().sum();
        let reasons: Vec<_> = unplaced.iter().map(|(why, n)| format!("{} {n}", why.as_str())).collect();
        let detail = format!("{count} copies of cameras have no server: {}", reasons.join(", "));
        add("unplaced_cameras", detail);
    }
    if let unopened @ 1.. = service.unopened() {
        let detail =
            format!("the source of {unopened} camera(s) cannot be opened: is the master key the right one?");
        add("sources_unopened", detail);
    }
    for what in service.current_troubles() {
        add("trouble", what);
    }
    problems
}

/// How many copies want a server and have none, by why.
fn unplaced(state: &SystemState) -> BTreeMap<UnplacedReason, u64> {
    let mut numbers = BTreeMap::new();
    for key in state.index().waiting() {
        let Some((camera, copy)) = state.copy(key) else { continue };
        match copy.placement {
            Placement::Unplaced { reason, .. } if camera.wants_recording() => {
                *numbers.entry(reason).or_default() += 1;
            }
            Placement::Unplaced { .. } | Placement::Unplanned | Placement::Assigned(_) => {}
        }
    }
    numbers
}

/// Read how far this replica is. The hashes read everything there is: leave them out when asking often.
#[utoipa::path(get, path = "/v1/system", operation_id = "read_system", tag = "system",
    params(("hashes" = Option<bool>, Query, description = "Whether to hash; default true.")),
    responses((status = 200, description = "This replica.", body = System)))]
async fn read(State(app): State<App>, mut query: Query) -> Result<Json<System>, Problem> {
    let hashes = query.parsed::<bool>("hashes").unwrap_or(true);
    query.finish()?;
    let progress = app.service.health().progress;
    let (log_position, state_hash) = {
        let state = app.service.state();
        (state.position, hashes.then(|| state.content_hash().to_string()))
    };
    let read_model_hash = match hashes {
        true => Some(app.service.read_model().content_hash().await?.to_string()),
        false => None,
    };
    Ok(Json(System {
        version: env!("CARGO_PKG_VERSION"),
        log_position: log_position.0,
        recordings_position: progress.recordings.0,
        state_hash,
        read_model_hash,
        default_tenant_id: TenantId::DEFAULT,
        problems: problems(&app.service),
    }))
}
