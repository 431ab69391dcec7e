//! Layers around every request: its trace id, its metrics, its time limit, and the completion of problems.

use std::time::Duration;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use longwatch_events::id::IdSource;
use tokio::time::Instant;
use tracing::Instrument as _;

use super::App;
use super::problem::Problem;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// A longer one is somebody's mistake, and would stand in every log line.
const MAX_REQUEST_ID: usize = 128;

/// Counts and times a request, gives it a trace id, and tells its problem which request it is about.
pub(super) async fn observe(State(app): State<App>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let trace_id = trace_id(&request, app.service.ids());
    let method = method_word(request.method());
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "unmatched".to_owned(), |path| path.as_str().to_owned());
    let path = request.uri().path().to_owned();

    let span = tracing::info_span!("request", %trace_id, method, route);
    let mut response = next.run(request).instrument(span.clone()).await;
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        response = complete(response, problem, &path, &trace_id);
    }
    if let Ok(value) = HeaderValue::from_str(&trace_id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    let status = response.status().as_u16();
    let elapsed = started.elapsed();
    span.in_scope(|| tracing::debug!(status, elapsed_ms = elapsed.as_millis(), "answered"));
    let labels = [("method", method.to_owned()), ("route", route), ("status", status.to_string())];
    metrics::counter!("longwatch_http_requests_total", &labels).increment(1);
    metrics::histogram!("longwatch_http_request_duration_seconds", &labels[..2])
        .record(elapsed.as_secs_f64());
    response
}

/// The same response with the problem's body written anew.
fn complete(response: Response, problem: Problem, path: &str, trace_id: &str) -> Response {
    let mut completed = problem.about(path, trace_id).into_response();
    completed.extensions_mut().remove::<Problem>();
    if let Some(allow) = response.headers().get(header::ALLOW) {
        completed.headers_mut().insert(header::ALLOW, allow.clone());
    }
    completed
}

/// The client's `x-request-id` if it is harmless, otherwise a new one.
fn trace_id(request: &Request, ids: &dyn IdSource) -> String {
    let given = request.headers().get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let harmless = |id: &&str| {
        (1..=MAX_REQUEST_ID).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    given.filter(harmless).map_or_else(|| ids.next().to_string(), str::to_owned)
}

/// A label has few values, whatever clients send.
fn method_word(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PATCH" => "PATCH",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

/// Answers 503 if a request takes too long.
pub(super) async fn time_limit(State(limit): State<Duration>, request: Request, next: Next) -> Response {
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::timeout(limit).into_response(),
    }
}

/// Answers 503 until the log has been replayed: what is read before that would be of the past.
pub(super) async fn caught_up(State(app): State<App>, request: Request, next: Next) -> Response {
    let health = app.service.health();
    if health.progress.caught_up {
        return next.run(request).await;
    }
    // A fold that halted while it was catching up shows what there is; changes are refused where they are made.
    if app.service.halted().is_some() {
        return next.run(request).await;
    }
    let detail = format!("the log is being replayed; so far up to position {}", health.progress.log);
    Problem::unavailable("starting", detail).into_response()
}
