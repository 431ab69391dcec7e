//! `/v1/policy`: the rules of the whole system. A provider's.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use longwatch_events::policy::Policy as PolicyState;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::auth::Actor;
use super::change::{IfMatch, carry_out, etag, versioned};
use super::extract::PatchBody;
use super::input::merge;
use super::policy_input::{self, Policy};
use super::problem::Problem;
use crate::decide::command::Command;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(read, change))
}

/// The rules of the whole system, as they are now.
#[derive(Serialize, ToSchema)]
struct CurrentPolicy {
    #[serde(flatten)]
    policy: Policy,
    /// Its version, for `If-Match`: the position in the log of the last change; `"0"`: nobody changed anything yet.
    etag: String,
}

/// Read the rules of the whole system.
#[utoipa::path(get, path = "/v1/policy", operation_id = "read_policy", tag = "policy",
    responses((status = 200, description = "The rules in force.", body = CurrentPolicy,
        headers(("etag" = String, description = "Their version.")))))]
async fn read(State(app): State<App>) -> Response {
    let (policy, version) = {
        let state = app.service.state();
        (state.policy, state.policy_version)
    };
    let current = CurrentPolicy { policy: policy.into(), etag: etag(version) };
    (versioned(version), Json(current)).into_response()
}

/// Change the rules of the whole system. What is null is as by default again. They are in force as soon as this is answered,
/// and stand in the log, so that every decision can be derived again by the rules it was made by.
#[utoipa::path(patch, path = "/v1/policy", operation_id = "change_policy", tag = "policy",
    request_body(content = Policy, content_type = "application/merge-patch+json",
        description = "The fields to change (RFC 7396)."),
    responses((status = 200, description = "The rules as they are now.", body = CurrentPolicy,
        headers(("etag" = String, description = "Their version.")))))]
async fn change(
    State(app): State<App>,
    actor: Actor,
    if_match: IfMatch,
    PatchBody(patch): PatchBody,
) -> Result<Response, Problem> {
    carry_out(&app, actor, |_| {
        let (before, expected): (PolicyState, _) = {
            let state = app.service.state();
            (state.policy, state.policy_version)
        };
        if_match.check(expected)?;
        let mut doc = policy_input::write(&before);
        merge(&mut doc, &patch);
        let policy = policy_input::read(&doc)?;
        Ok((policy != before).then_some(Command::ChangePolicy { expected, policy }))
    })
    .await?;
    Ok(read(State(app)).await)
}
