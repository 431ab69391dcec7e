//! `/v1/tenants`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use longwatch_events::id::TenantId;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::auth::Actor;
use super::change::{Idempotency, IfMatch, carry_out, create as create_once, created, etag, versioned};
use super::cursor;
use super::extract::{JsonBody, PatchBody, Query, TenantPath};
use super::input::{Errors, Object, merge};
use super::problem::{Problem, moment};
use crate::decide::command::Command;
use crate::read_model::rows::TenantRow;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(read, change, delete))
}

/// A tenant: a customer of the provider, who owns cameras.
#[derive(Serialize, ToSchema)]
struct Tenant {
    /// Its id.
    #[schema(value_type = String, format = "uuid")]
    id: TenantId,
    /// For people.
    name: String,
    /// When it was created.
    #[schema(format = DateTime)]
    created_at: String,
    /// Its version, for `If-Match`.
    etag: String,
}

/// A part of the list of tenants.
#[derive(Serialize, ToSchema)]
struct TenantList {
    items: Vec<Tenant>,
    /// Where the list goes on; null at its end.
    next_cursor: Option<String>,
}

/// A tenant as it is written.
#[derive(ToSchema)]
struct TenantInput {
    /// For people; need not be unique.
    #[schema(min_length = 1, max_length = 200, example = "Harbour Security Ltd")]
    name: String,
}

impl TenantInput {
    fn read(body: &Value) -> Result<Self, Problem> {
        let mut errors = Errors::default();
        let mut object = Object::root(body, &mut errors);
        let name = object.name(&mut errors);
        object.finish(&mut errors);
        errors.or(name).map(|name| Self { name })
    }
}

impl From<TenantRow> for Tenant {
    fn from(row: TenantRow) -> Self {
        Self {
            id: row.tenant_id,
            name: row.name,
            created_at: moment(row.created_at),
            etag: etag(row.version),
        }
    }
}

/// There is no tenant of this id.
pub(super) fn no_tenant(id: TenantId) -> Problem {
    Problem::not_found(format!("tenant {id} does not exist"))
}

async fn find(app: &App, id: TenantId) -> Result<TenantRow, Problem> {
    app.service.read_model().tenant(id).await?.ok_or_else(|| no_tenant(id))
}

/// List tenants.
#[utoipa::path(get, path = "/v1/tenants", operation_id = "list_tenants", tag = "tenants",
    params(
        ("limit" = Option<u32>, Query, description = "How many items at most.", minimum = 1, maximum = 1000),
        ("cursor" = Option<String>, Query, description = "The next_cursor of the part before."),
    ),
    responses((status = 200, description = "A part of the list, by id.", body = TenantList)))]
async fn list(State(app): State<App>, mut query: Query) -> Result<Json<TenantList>, Problem> {
    let page = query.page();
    query.finish()?;
    let found = app.service.read_model().tenants(page).await?;
    let next_cursor = found.items.last().filter(|_| found.more).map(|row| cursor::encode(&row.tenant_id));
    Ok(Json(TenantList { items: found.items.into_iter().map(Tenant::from).collect(), next_cursor }))
}

/// Create a tenant.
#[utoipa::path(post, path = "/v1/tenants", operation_id = "create_tenant", tag = "tenants",
    request_body = TenantInput,
    responses((status = 201, description = "It exists.", body = Tenant,
        headers(("etag" = String, description = "Its version."), ("location" = String, description = "Its path.")))))]
async fn create(
    State(app): State<App>,
    actor: Actor,
    idempotency: Idempotency,
    JsonBody(body): JsonBody,
) -> Result<Response, Problem> {
    let TenantInput { name } = TenantInput::read(&body)?;
    let ids = idempotency.new_ids(&app, "tenant", None, &body);
    let tenant_id = TenantId::from_uuid(ids.thing);
    create_once(
        &app,
        actor,
        ids,
        || app.service.state().tenant(tenant_id).is_some(),
        || {
            let data_key = app.service.new_data_key(tenant_id)?;
            Ok(Command::CreateTenant { tenant_id, name, data_key })
        },
    )
    .await?;
    let row = find(&app, tenant_id).await?;
    let headers = created(row.version, &format!("/v1/tenants/{tenant_id}"));
    Ok((StatusCode::CREATED, headers, Json(Tenant::from(row))).into_response())
}

/// Read a tenant.
#[utoipa::path(get, path = "/v1/tenants/{tenant}", operation_id = "read_tenant", tag = "tenants",
    params(("tenant" = String, Path, description = "The tenant's id, or `default`.")),
    responses((status = 200, description = "The tenant.", body = Tenant,
        headers(("etag" = String, description = "Its version.")))))]
async fn read(State(app): State<App>, TenantPath(id): TenantPath) -> Result<Response, Problem> {
    let row = find(&app, id).await?;
    Ok((versioned(row.version), Json(Tenant::from(row))).into_response())
}

/// Change a tenant.
#[utoipa::path(patch, path = "/v1/tenants/{tenant}", operation_id = "change_tenant", tag = "tenants",
    params(("tenant" = String, Path, description = "The tenant's id, or `default`.")),
    request_body(content = TenantInput, content_type = "application/merge-patch+json",
        description = "The fields to change (RFC 7396)."),
    responses((status = 200, description = "The tenant as it is now.", body = Tenant,
        headers(("etag" = String, description = "Its version.")))))]
async fn change(
    State(app): State<App>,
    actor: Actor,
    TenantPath(tenant_id): TenantPath,
    if_match: IfMatch,
    PatchBody(patch): PatchBody,
) -> Result<Response, Problem> {
    carry_out(&app, actor, |_| {
        let (expected, before) = {
            let state = app.service.state();
            let tenant = state.tenant(tenant_id).ok_or_else(|| no_tenant(tenant_id))?;
            (tenant.version, tenant.name.clone())
        };
        if_match.check(expected)?;
        let mut doc = json!({ "name": before });
        merge(&mut doc, &patch);
        let TenantInput { name } = TenantInput::read(&doc)?;
        Ok((name != before).then_some(Command::ChangeTenant { tenant_id, expected, name }))
    })
    .await?;
    read(State(app), TenantPath(tenant_id)).await
}

/// Delete a tenant that has no cameras.
#[utoipa::path(delete, path = "/v1/tenants/{tenant}", operation_id = "delete_tenant", tag = "tenants",
    params(("tenant" = String, Path, description = "The tenant's id. The default tenant stays.")),
    responses((status = 204, description = "It is gone.")))]
async fn delete(
    State(app): State<App>,
    actor: Actor,
    TenantPath(tenant_id): TenantPath,
    if_match: IfMatch,
) -> Result<StatusCode, Problem> {
    carry_out(&app, actor, |_| {
        let expected = app.service.state().tenant(tenant_id).ok_or_else(|| no_tenant(tenant_id))?.version;
        if_match.check(expected)?;
        Ok(Some(Command::DeleteTenant { tenant_id, expected }))
    })
    .await?;
    if app.service.state().tenant(tenant_id).is_some() {
        let detail =
            "a camera was added while the tenant was being deleted, so it stays; delete the camera first";
        return Err(Problem::conflict("tenant_not_empty", detail));
    }
    Ok(StatusCode::NO_CONTENT)
}
