//! The description of the API (OpenAPI 3.1) and its viewer.
//!
//! Paths and schemas come from the handlers. What is the same for all of them stands here once: the key, the problems,
//! and the headers of changes.

use axum::Router;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{HttpMethod, Operation, ParameterBuilder, ParameterIn};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ContentBuilder, ObjectBuilder, Ref, RefOr, ResponseBuilder, Type};
use utoipa::{Modify, OpenApi, PartialSchema as _};
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::App;
use super::problem::{Details, FieldError, MEDIA_TYPE};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Longwatch",
        description = "Records cameras on many servers. Times are RFC 3339 in UTC, ids are made by the server, lists go \
            on with `next_cursor`, changes are merge patches (RFC 7396) and take `If-Match`. Every error is a problem \
            (RFC 9457).",
    ),
    components(schemas(Details, FieldError)),
    modifiers(&Key),
)]
struct Frame;

/// Every path but the public ones takes the key.
struct Key;

impl Modify for Key {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("The provider's key; `single` writes it to DIR/provider.key."))
            .build();
        let components = openapi.components.get_or_insert_default();
        components.add_security_scheme("key", SecurityScheme::Http(scheme));
        openapi.security = Some(vec![SecurityRequirement::new("key", Vec::<String>::new())]);
    }
}

/// The description without any path.
pub(super) fn frame() -> utoipa::openapi::OpenApi {
    Frame::openapi()
}

/// The description of the whole API.
pub fn openapi() -> utoipa::openapi::OpenApi {
    let (_, mut openapi) = super::v1().split_for_parts();
    for (path, item) in &mut openapi.paths.paths {
        let operations = [
            (HttpMethod::Get, &mut item.get),
            (HttpMethod::Post, &mut item.post),
            (HttpMethod::Patch, &mut item.patch),
            (HttpMethod::Delete, &mut item.delete),
        ];
        for (method, operation) in operations {
            if let Some(operation) = operation {
                complete(path, &method, operation);
            }
        }
    }
    openapi
}

/// The description as it is stored and served, with a line break at its end.
pub fn openapi_json() -> String {
    let mut json =
        openapi().to_pretty_json().expect("invariant: a description holds strings, numbers and lists only");
    json.push('\n');
    json
}

/// The viewer at `/docs` and the description at `/openapi.json`. Everything it loads is in this binary.
pub(super) fn viewer() -> Router<App> {
    let config = Config::default().try_it_out_enabled(true).persist_authorization(false);
    SwaggerUi::new("/docs").url("/openapi.json", openapi()).config(config).into()
}

/// Adds headers and problems.
fn complete(path: &str, method: &HttpMethod, operation: &mut Operation) {
    let is_action = path.contains(':');
    let creates = operation.responses.responses.contains_key("201");
    let changes = matches!(method, HttpMethod::Patch | HttpMethod::Delete) || is_action;
    let has_body = operation.request_body.is_some();
    let is_about_one_thing = path.contains('{');
    if creates {
        add_header(
            operation,
            "Idempotency-Key",
            "1 to 255 characters. A request sent again with the same key creates its thing once, for ever; another \
             request with the key is refused (422 `idempotency_key_reused`), and so is one whose thing is gone (409 \
             `already_used`). Counts for creations only: changes and deletions are safe to send again with `If-Match`.",
        );
    }
    if changes {
        add_header(
            operation,
            "If-Match",
            "The ETag of the read the change is based on; without it the last writer wins.",
        );
    }
    add_header(operation, "x-request-id", "Becomes the trace_id; made if it is missing.");

    let problems = [
        (true, "400", "The request cannot be read, or a parameter or header is wrong."),
        (true, "401", "The key is missing or not a valid one."),
        (is_about_one_thing, "404", "There is no such thing, or not of this tenant."),
        (creates || changes, "409", "The change contradicts what there is."),
        (changes, "412", "It was changed since it was read."),
        (has_body, "413", "The body is larger than 1 MiB."),
        (has_body, "415", "The body is of the wrong type."),
        (has_body, "422", "The content of the body is not valid; `errors` says what and where."),
        (true, "500", "This server failed."),
        (true, "503", "This cannot be done right now; try again after `retry-after` seconds."),
    ];
    for (applies, status, description) in problems {
        if applies {
            operation.responses.responses.insert(status.to_owned(), problem(status, description));
        }
    }
}

fn add_header(operation: &mut Operation, name: &str, description: &str) {
    let parameter = ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Header)
        .description(Some(description))
        .schema(Some(String::schema()))
        .build();
    operation.parameters.get_or_insert_default().push(parameter.into());
}

fn problem(status: &str, description: &str) -> RefOr<utoipa::openapi::Response> {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    let response = ResponseBuilder::new().description(description).content(MEDIA_TYPE, content);
    let text = |about: &str| {
        HeaderBuilder::new()
            .schema(Some(ObjectBuilder::new().schema_type(Type::String).build()))
            .description(Some(about))
            .build()
    };
    let response = match status {
        "401" => response.header("www-authenticate", text("How to show a key (RFC 6750).")),
        "503" => response.header("retry-after", text("Seconds.")),
        _ => response,
    };
    RefOr::T(response.build())
}
