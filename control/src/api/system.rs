//! `/v1/system`: how far this replica is, in numbers and hashes that can be compared with another's.

use axum::Json;
use axum::extract::State;
use longwatch_events::id::TenantId;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::extract::Query;
use super::problem::Problem;

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
    }))
}
