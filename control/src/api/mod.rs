//! The HTTP API: `/v1`, its description and viewer, and the operators' endpoints. The only place that names axum.
//!
//! Not here: decisions (they are [`crate::decide`]'s) and SQL ([`crate::read_model`]'s). A request is read whole and
//! checked whole; a change is answered when it stands in the log and has been folded.
//!
//! Invariant: without a valid key nothing is answered but what `auth` lists as public, which holds no data.

mod apart;
mod assignments;
mod auth;
mod autoscaling;
mod camera_copies;
mod camera_input;
mod camera_verbs;
mod camera_view;
mod cameras;
mod change;
mod cursor;
mod events;
mod extract;
mod input;
mod observe;
mod openapi;
mod operations;
mod plans;
mod playlist;
mod policy;
mod policy_input;
mod problem;
mod recording_input;
mod server_input;
mod server_verbs;
mod server_view;
mod servers;
mod simulations;
mod source_url;
mod system;
mod tenants;
#[cfg(test)]
mod tests;
mod timeline;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use utoipa_axum::router::OpenApiRouter;

use crate::keys::Key;
use crate::read_model::rows::Observations;
use crate::service::Service;
use problem::Problem;

pub use openapi::{openapi, openapi_json};
pub use operations::operations;

/// How long answering a request may take.
const TIME_LIMIT: Duration = Duration::from_secs(30);
/// How often the metrics' histograms are tidied up.
const METRICS_UPKEEP: Duration = Duration::from_secs(5);

/// What every handler can reach.
#[derive(Clone)]
struct App {
    service: Arc<Service>,
    key: Arc<Key>,
    /// Places for work that takes long.
    apart: Arc<Semaphore>,
}

impl App {
    fn new(service: Arc<Service>, key: Key) -> Self {
        Self { service, key: Arc::new(key), apart: apart::places() }
    }

    /// What is observed of servers.
    fn observations(&self) -> Observations {
        operations::observations(&self.service)
    }
}

/// Serves the API on `listener` until `stop` is cancelled, then finishes what is under way. The operators' endpoints are
/// served on `operations`, or beside the API if there is none.
///
/// # Errors
/// If a listener fails.
pub async fn serve(
    service: Arc<Service>,
    key: Key,
    listener: TcpListener,
    operations: Option<TcpListener>,
    stop: CancellationToken,
) -> io::Result<()> {
    let upkeep = tokio::spawn(async {
        let mut timer = tokio::time::interval(METRICS_UPKEEP);
        loop {
            timer.tick().await;
            operations::tidy_up();
        }
    });
    let api = router(Arc::clone(&service), key);
    let served = match operations {
        None => serve_one(listener, api.merge(self::operations(service)), &stop).await,
        Some(operations) => {
            let ((), ()) = tokio::try_join!(
                serve_one(listener, api, &stop),
                serve_one(operations, self::operations(service), &stop),
            )?;
            Ok(())
        }
    };
    upkeep.abort();
    served
}

async fn serve_one(listener: TcpListener, router: Router, stop: &CancellationToken) -> io::Result<()> {
    let stopped = stop.clone().cancelled_owned();
    axum::serve(listener, router).with_graceful_shutdown(stopped).await
}

/// The API, its description and its viewer, without the operators' endpoints.
pub fn router(service: Arc<Service>, key: Key) -> Router {
    let app = App::new(service, key);
    let (v1, _) = v1().split_for_parts();
    let v1 = v1.route_layer(from_fn_with_state(app.clone(), observe::caught_up));
    let router = Router::new()
        .route("/", get(|| async { Redirect::temporary("/docs/") }))
        .merge(openapi::viewer())
        .merge(v1)
        .fallback(no_route)
        .method_not_allowed_fallback(wrong_method);
    layered(router, &app, TIME_LIMIT).with_state(app)
}

/// Outermost last. What is inside `observe` answers problems; `observe` completes them.
fn layered(router: Router<App>, app: &App, time_limit: Duration) -> Router<App> {
    router
        .layer(from_fn_with_state(app.clone(), auth::authorize))
        .layer(from_fn_with_state(time_limit, observe::time_limit))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn_with_state(app.clone(), observe::observe))
        .layer(CompressionLayer::new())
}

/// The routes under `/v1`, with their description.
fn v1() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(openapi::frame())
        .merge(tenants::routes())
        .merge(cameras::routes())
        .merge(camera_verbs::routes())
        .merge(events::routes())
        .merge(timeline::routes())
        .merge(playlist::routes())
        .merge(servers::routes())
        .merge(server_verbs::routes())
        .merge(assignments::routes())
        .merge(policy::routes())
        .merge(simulations::routes())
        .merge(autoscaling::routes())
        .merge(plans::routes())
        .merge(system::routes())
}

async fn no_route(request: Request) -> Problem {
    Problem::no_route(request.uri().path())
}

async fn wrong_method(request: Request) -> Problem {
    Problem::wrong_method(request.method().as_str(), request.uri().path())
}

#[allow(clippy::needless_pass_by_value, reason = "the signature CatchPanicLayer wants")]
fn panicked(panic: Box<dyn std::any::Any + Send>) -> Response {
    let why = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without a message");
    Problem::internal(&format!("panic: {why}")).into_response()
}
