//! `/v1/system`: how far this replica is, in numbers and hashes that can be compared with another's; what is wrong with the
//! system as a whole; and which programs may go on.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use longwatch_events::fold;
use longwatch_events::id::TenantId;
use longwatch_events::reason::UnplacedReason;
use longwatch_events::state::{Placement, State as SystemState};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::auth::Actor;
use super::change::carry_out;
use super::extract::{JsonBody, Query};
use super::input::{Errors, Object};
use super::problem::Problem;
use crate::decide::command::Command;
use crate::service::Service;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(read)).routes(routes!(require_version))
}

/// How far this replica is.
#[derive(Serialize, ToSchema)]
struct System {
    /// The version of this program.
    version: &'static str,
    /// The version of the fold in this program: what a log can require.
    fold_version: u32,
    /// Where in the log a version of the fold was required last; 0: nowhere.
    version_required_at: u64,
    /// Up to where `LOG` has been folded.
    log_position: u64,
    /// Up to where `RECORDINGS` has been folded.
    recordings_position: u64,
    /// SHA-256 of State at `log_position`, as hexadecimal digits; null unless `hashes=true`.
    state_hash: Option<String>,
    /// SHA-256 of all rows of the read model, as hexadecimal digits; null unless `hashes=true`. At the same positions every
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

/// Read how far this replica is. Hashes read everything there is, and this replica folds nothing meanwhile: with a million cameras
/// for seconds. They are for comparing, not for watching.
#[utoipa::path(get, path = "/v1/system", operation_id = "read_system", tag = "system",
    params(("hashes" = Option<bool>, Query, description = "Whether to hash; default false.")),
    responses((status = 200, description = "This replica.", body = System)))]
async fn read(State(app): State<App>, mut query: Query) -> Result<Json<System>, Problem> {
    let hashes = query.parsed::<bool>("hashes").unwrap_or(false);
    query.finish()?;
    let progress = app.service.health().progress;
    let (log_position, version_required_at, state_hash) = {
        let state = app.service.state();
        (state.position, state.barrier_version.0, hashes.then(|| state.content_hash().to_string()))
    };
    let read_model_hash = match hashes {
        true => Some(app.service.read_model().content_hash().await?.to_string()),
        false => None,
    };
    Ok(Json(System {
        version: env!("CARGO_PKG_VERSION"),
        fold_version: fold::VERSION,
        version_required_at,
        log_position: log_position.0,
        recordings_position: progress.recordings.0,
        state_hash,
        read_model_hash,
        default_tenant_id: TenantId::DEFAULT,
        problems: problems(&app.service),
    }))
}

/// Which programs may go on.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes the body")]
struct VersionInput {
    /// The version of the fold they must have at least; that of this program if it is left out.
    #[schema(minimum = 1)]
    fold_version: Option<u32>,
}

/// What the log requires.
#[derive(Serialize, ToSchema)]
struct VersionRequirement {
    /// The version of the fold.
    fold_version: u32,
    /// Where in the log it stands.
    version_required_at: u64,
}

/// Require a version of the fold from here on. Every program that is too old for it stops deciding where the log says so, and says
/// why; recording goes on. Meant for the end of an upgrade: a replica that was forgotten cannot read the newer log in an older way. It
/// cannot be taken back.
#[utoipa::path(post, path = "/v1/system:require-version", operation_id = "require_version", tag = "system",
    request_body = VersionInput,
    responses((status = 200, description = "The log requires it now.", body = VersionRequirement)))]
async fn require_version(
    State(app): State<App>,
    actor: Actor,
    JsonBody(body): JsonBody,
) -> Result<Json<VersionRequirement>, Problem> {
    let mut errors = Errors::default();
    let mut object = Object::root(&body, &mut errors);
    let given = object.number("fold_version", 1..=u64::from(u32::MAX), &mut errors);
    object.finish(&mut errors);
    let fold_version = errors.or(Some(given.and_then(|n| u32::try_from(n).ok()).unwrap_or(fold::VERSION)))?;
    carry_out(&app, actor, |_| {
        let expected = app.service.state().barrier_version;
        Ok(Some(Command::RequireVersion { expected, fold_version }))
    })
    .await?;
    let version_required_at = app.service.state().barrier_version.0;
    Ok(Json(VersionRequirement { fold_version, version_required_at }))
}
