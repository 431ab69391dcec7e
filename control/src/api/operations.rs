//! `/livez`, `/readyz`, `/metrics`: for the operator's machines, without a key, on the API's listener or their own.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use longwatch_events::subject::LogStream;
use metrics::{describe_counter, describe_gauge, describe_histogram, gauge};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use serde_json::json;

use super::problem::Problem;
use super::servers::state_word;
use crate::read_model::rows::{CameraState, Observation, Observations};
use crate::service::Service;

/// How long a scrape waits for the log to say where it ends.
const LOG_END_DEADLINE: Duration = Duration::from_secs(1);

/// Upper bounds of the buckets for how long requests take, in seconds.
const DURATION_BUCKETS_S: [f64; 9] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];

/// The routes.
pub fn operations(service: Arc<Service>) -> Router {
    // From here on metrics are kept, not only from the first scrape on.
    let _ = recorder();
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(render))
        .with_state(service)
}

/// The one recorder of this process.
fn recorder() -> Result<&'static PrometheusHandle, &'static BuildError> {
    static RECORDER: OnceLock<Result<PrometheusHandle, BuildError>> = OnceLock::new();
    let recorder = RECORDER.get_or_init(|| {
        let durations = Matcher::Suffix("duration_seconds".to_owned());
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(durations, &DURATION_BUCKETS_S)?
            .install_recorder()?;
        describe();
        Ok(recorder)
    });
    recorder.as_ref()
}

/// Tells who scrapes what the numbers mean.
fn describe() {
    describe_counter!("longwatch_http_requests_total", "Requests answered, by method, route and status.");
    describe_histogram!("longwatch_http_request_duration_seconds", "How long answering took.");
    describe_counter!(
        "longwatch_segments_stored_total",
        "Segments this process has folded, replays included."
    );
    describe_counter!("longwatch_segments_stored_bytes_total", "Their size.");
    describe_gauge!("longwatch_fold_position", "Up to where a log stream has been folded.");
    describe_gauge!(
        "longwatch_fold_lag_records",
        "Records not folded yet; NaN while the log does not answer."
    );
    describe_gauge!("longwatch_fold_halted", "1: the fold has halted and nothing is decided any more.");
    describe_gauge!("longwatch_cameras", "Cameras, by state.");
    describe_gauge!("longwatch_servers", "Servers, by state.");
    describe_gauge!("longwatch_tenants", "Tenants.");
    describe_gauge!(
        "longwatch_rejected_facts",
        "Facts of workers that contradict themselves and do not count."
    );
    describe_gauge!(
        "longwatch_oldest_heartbeat_age_seconds",
        "Age of the oldest last heartbeat, by the log's clock."
    );
}

/// Folds what was recorded into the histograms, which otherwise grow until the next scrape.
pub(super) fn tidy_up() {
    if let Ok(recorder) = recorder() {
        recorder.run_upkeep();
    }
}

/// The process answers.
async fn livez() -> &'static str {
    "ok\n"
}

/// This replica can carry out commands and answer reads; if not, why.
async fn readyz(State(service): State<Arc<Service>>) -> Response {
    let health = service.health();
    let status = if health.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({
        "ready": health.ready,
        "problems": health.problems,
        "log_position": health.progress.log,
        "recordings_position": health.progress.recordings,
    });
    (status, Json(body)).into_response()
}

async fn render(State(service): State<Arc<Service>>) -> Response {
    let recorder = match recorder() {
        Ok(recorder) => recorder,
        Err(error) => return Problem::internal(error).into_response(),
    };
    measure(&service).await;
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], recorder.render()).into_response()
}

/// Looks at what is a level and not a count.
async fn measure(service: &Service) {
    let progress = service.health().progress;
    gauge!("longwatch_fold_position", "stream" => "LOG").set(as_f64(progress.log.0));
    gauge!("longwatch_fold_position", "stream" => "RECORDINGS").set(as_f64(progress.recordings.0));
    for (stream, folded) in [(LogStream::Log, progress.log), (LogStream::Recordings, progress.recordings)] {
        let end = tokio::time::timeout(LOG_END_DEADLINE, service.log().end(stream)).await;
        // Not a number: how far the fold lags behind a log that does not answer is not known.
        let lag = match end {
            Ok(Ok(end)) => as_f64(end.0.saturating_sub(folded.0)),
            Ok(Err(_)) | Err(_) => f64::NAN,
        };
        gauge!("longwatch_fold_lag_records", "stream" => stream.name()).set(lag);
    }
    gauge!("longwatch_fold_halted").set(if service.halted().is_some() { 1.0 } else { 0.0 });
    measure_servers(service);
    match service.read_model().counts(observations(service)).await {
        Ok(counts) => {
            for (state, count) in CameraState::ALL.iter().zip(counts.cameras) {
                gauge!("longwatch_cameras", "state" => state.as_str()).set(as_f64(count));
            }
            gauge!("longwatch_tenants").set(as_f64(counts.tenants));
            gauge!("longwatch_rejected_facts").set(as_f64(counts.rejected_facts));
        }
        Err(error) => tracing::warn!(%error, "the read model cannot be counted"),
    }
}

fn measure_servers(service: &Service) {
    let observed = service.observed();
    let mut by_state = BTreeMap::from([("undefined", 0_u64), ("online", 0), ("suspect", 0), ("lost", 0), ("detached", 0)]);
    let mut oldest_s = 0.0_f64;
    for (id, server) in service.state().servers() {
        let is_silent = observed.silent_since(id).is_some();
        let (state, _) =
            state_word(server.membership, server.public_key.is_some(), server.lost.is_some(), is_silent);
        *by_state.entry(state).or_default() += 1;
        if let Some(seen) = observed.seen(id) {
            let age_ms = u64::try_from(observed.now().millis_since(seen.at)).unwrap_or(0);
            oldest_s = oldest_s.max(Duration::from_millis(age_ms).as_secs_f64());
        }
    }
    for (state, count) in by_state {
        gauge!("longwatch_servers", "state" => state).set(as_f64(count));
    }
    gauge!("longwatch_oldest_heartbeat_age_seconds").set(oldest_s);
}

/// What is observed of every server that State knows.
pub(super) fn observations(service: &Service) -> Observations {
    let observed = service.observed();
    let servers: Vec<_> = service.state().servers().map(|(id, _)| id).collect();
    let observation = |id| Observation {
        silent: observed.silent_since(id).is_some(),
        boot_id: observed.seen(id).map(|seen| seen.boot_id),
    };
    servers.into_iter().map(|id| (id, observation(id))).collect()
}

/// A gauge is a float: exact up to 2^53, which no count here comes near.
#[allow(clippy::cast_precision_loss, reason = "see above")]
const fn as_f64(count: u64) -> f64 {
    count as f64
}
