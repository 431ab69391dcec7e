//! `/v1/autoscaling`: the fleet in numbers, for whoever adds and removes servers.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use crate::decide::scaling::{self, Fleet};
use crate::service::Service;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(read))
}

/// The fleet in numbers.
#[derive(Serialize, ToSchema)]
struct Autoscaling {
    /// Copies of cameras that want a server and have none: what `BACKLOG` holds, too.
    unplaced: u64,
    /// Copies that have a server which is not recording them yet, and not failing for the camera's own reason.
    pending: u64,
    /// Servers that can record and are not being drained.
    servers: u64,
    /// How many there should be, so that everything has a place and policy's `headroom_percent` is left.
    wanted_servers: u64,
    /// How many more copies the servers could hold.
    headroom: u64,
    /// How many they can hold in all.
    capacity: u64,
}

/// What servers said of the copies that are not settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Unsettled {
    /// Of all servers that are not lost.
    pub(super) total: u64,
    /// Of the one with the most.
    pub(super) most: u64,
}

/// Sums up what servers that are not lost said last.
pub(super) fn unsettled(service: &Service) -> Unsettled {
    let observed = service.observed();
    let mut unsettled = Unsettled::default();
    for (id, _) in service.state().servers().filter(|(_, server)| server.is_assignable()) {
        let of_server = observed.seen(id).map_or(0, |seen| u64::from(seen.load.unsettled));
        unsettled.total += of_server;
        unsettled.most = unsettled.most.max(of_server);
    }
    unsettled
}

/// Read the fleet in numbers, for a scaler.
#[utoipa::path(get, path = "/v1/autoscaling", operation_id = "read_autoscaling", tag = "failover",
    responses((status = 200, description = "The fleet.", body = Autoscaling)))]
async fn read(State(app): State<App>) -> Json<Autoscaling> {
    let Fleet { unplaced, servers, wanted_servers, headroom, capacity } =
        scaling::fleet(&app.service.state());
    let pending = unsettled(&app.service).total;
    Json(Autoscaling { unplaced, pending, servers, wanted_servers, headroom, capacity })
}
