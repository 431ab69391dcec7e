//! Who may ask. One layer in front of everything: without the provider's key there is nothing but what is listed here.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::App;
use super::problem::Problem;

/// On whose behalf a request is made, as it stands in the log.
#[derive(Debug, Clone, Copy)]
pub(super) struct Actor(pub(super) &'static str);

/// The provider's key may do everything. (Keys of tenants come with their roles.)
const PROVIDER: Actor = Actor("key:provider");

/// Paths that need no key, because they hold no data of anybody: the description of the API and its viewer, which are
/// the same for every installation, and the operators' endpoints, if they are served here.
fn is_public(path: &str) -> bool {
    matches!(path, "/" | "/openapi.json" | "/docs" | "/livez" | "/readyz" | "/metrics")
        || path.starts_with("/docs/")
}

/// Lets a request pass that shows the key or asks for what is public; answers everything else with 401.
pub(super) async fn authorize(State(app): State<App>, mut request: Request, next: Next) -> Response {
    if is_public(request.uri().path()) {
        return next.run(request).await;
    }
    match bearer(request.headers()) {
        Some(presented) if app.key.matches(presented) => {
            request.extensions_mut().insert(PROVIDER);
            next.run(request).await
        }
        Some(_) => Problem::unauthorized(
            "the key is not a valid one; send the provider's key as `authorization: Bearer KEY`",
            "Bearer realm=\"longwatch\", error=\"invalid_token\"",
        )
        .into_response(),
        None => Problem::unauthorized(
            "a key is needed; send it as `authorization: Bearer KEY`",
            "Bearer realm=\"longwatch\"",
        )
        .into_response(),
    }
}

/// The token of `Authorization: Bearer TOKEN` (RFC 6750, section 2.1); the scheme in any case (RFC 9110, 11.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}
