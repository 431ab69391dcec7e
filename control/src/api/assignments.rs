//! `/v1/assignments`: which server records which copy of a camera, now.

use axum::Json;
use axum::extract::State;
use longwatch_events::id::{CameraId, ServerId, TenantId};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::cursor;
use super::extract::Query;
use super::problem::{Problem, moment};
use crate::read_model::AssignmentFilter;
use crate::read_model::rows::AssignmentView;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list))
}

/// A copy's current server.
#[derive(Serialize, ToSchema)]
struct CurrentAssignment {
    /// Owner of the camera.
    #[schema(value_type = String, format = "uuid")]
    tenant_id: TenantId,
    /// The camera.
    #[schema(value_type = String, format = "uuid")]
    camera_id: CameraId,
    /// Which of its copies, from 0.
    copy: u8,
    /// The copy's server.
    #[schema(value_type = String, format = "uuid")]
    server_id: ServerId,
    /// The number by which an older assignment is recognised as older.
    epoch: u64,
    /// The position of the plan that decided it, in the log.
    position: u64,
    /// Since when.
    #[schema(format = DateTime)]
    since: String,
    /// Why this server. `preferred`: the camera prefers it; `least_loaded`: it had the least relative load; `failover`: the
    /// camera's server is lost; `home`: its own server is back, and no other had taken it; `failback`: its own server has
    /// been back for long enough, or somebody asked; `drain`: the server before is being emptied; `over_capacity`: that one
    /// held more than it may; `labels`: that one lacks a label the camera asks for; `rebalance`: that one was fuller;
    /// `requested`: somebody asked for it.
    #[schema(
        pattern = "^(preferred|least_loaded|failover|home|failback|drain|over_capacity|labels|rebalance|requested)$"
    )]
    reason: &'static str,
    /// The server that is about to record it instead, while this one goes on until that has begun; null: it stays.
    moving_to: Option<Successor>,
}

/// A server that is about to record a copy.
#[derive(Serialize, ToSchema)]
struct Successor {
    /// Who.
    #[schema(value_type = String, format = "uuid")]
    server_id: ServerId,
    /// The position of the plan that began the move.
    epoch: u64,
    /// Since when.
    #[schema(format = DateTime)]
    since: String,
    /// Why it is moved, in the words of an assignment's.
    reason: &'static str,
}

/// A part of the list of assignments.
#[derive(Serialize, ToSchema)]
struct AssignmentList {
    items: Vec<CurrentAssignment>,
    /// Where the list goes on; null at its end.
    next_cursor: Option<String>,
}

impl From<AssignmentView> for CurrentAssignment {
    fn from(view: AssignmentView) -> Self {
        let AssignmentView { key, assignment, successor } = view;
        Self {
            tenant_id: key.tenant_id,
            camera_id: key.camera_id,
            copy: key.copy,
            server_id: assignment.server_id,
            epoch: assignment.epoch.0,
            position: assignment.epoch.0,
            since: moment(assignment.since),
            reason: assignment.reason.as_str(),
            moving_to: successor.map(|successor| Successor {
                server_id: successor.server_id,
                epoch: successor.epoch.0,
                since: moment(successor.since),
                reason: successor.reason.as_str(),
            }),
        }
    }
}

/// List current assignments.
#[utoipa::path(get, path = "/v1/assignments", operation_id = "list_assignments", tag = "assignments",
    params(
        ("server_id" = Option<String>, Query, description = "Only this server's; not what is about to move to it.", format = "uuid"),
        ("camera_id" = Option<String>, Query, description = "Only this camera's.", format = "uuid"),
        ("limit" = Option<u32>, Query, description = "How many items at most.", minimum = 1, maximum = 1000),
        ("cursor" = Option<String>, Query, description = "The next_cursor of the part before."),
    ),
    responses((status = 200, description = "A part of the list, by tenant, camera and copy.", body = AssignmentList)))]
async fn list(State(app): State<App>, mut query: Query) -> Result<Json<AssignmentList>, Problem> {
    let page = query.page();
    let filter =
        AssignmentFilter { server_id: query.parsed("server_id"), camera_id: query.parsed("camera_id") };
    query.finish()?;
    let found = app.service.read_model().assignments(filter, page).await?;
    let next_cursor = found.items.last().filter(|_| found.more).map(|view| cursor::encode(&view.key));
    Ok(Json(AssignmentList { items: found.items.into_iter().map(Into::into).collect(), next_cursor }))
}
