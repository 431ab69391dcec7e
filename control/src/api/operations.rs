//! `/livez`, `/readyz`, `/metrics`: for the operator's machines, without a key, on the API's listener or their own.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use longwatch_events::event::{Storage, StoreRetention, Upload};
use longwatch_events::subject::LogStream;
use metrics::{describe_counter, describe_gauge, describe_histogram, gauge};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use serde_json::json;

use super::autoscaling::unsettled;
use super::problem::Problem;
use super::server_view::Word;
use crate::decide::scaling;
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
    describe_counter!(
        "longwatch_segments_deleted_total",
        "Segments that servers deleted, by reason, as folded here."
    );
    describe_counter!("longwatch_segments_deleted_bytes_total", "Their size.");
    describe_counter!(
        "longwatch_segments_checked_total",
        "What servers found of stored segments, as folded here: missing, corrupt, unreadable, healed."
    );
    describe_counter!("longwatch_segments_uploaded_total", "Segments in the object store, as folded here.");
    describe_counter!("longwatch_segments_uploaded_bytes_total", "Their size.");
    describe_gauge!("longwatch_fold_position", "Up to where a log stream has been folded.");
    describe_gauge!(
        "longwatch_fold_lag_records",
        "Records not folded yet; NaN while the log does not answer."
    );
    describe_gauge!("longwatch_fold_halted", "1: the fold has halted and nothing is decided any more.");
    describe_gauge!("longwatch_cameras", "Cameras, by state.");
    describe_gauge!("longwatch_servers", "Servers, by state.");
    describe_gauge!("longwatch_servers_storage", "Servers, by how their archive is: ok, low, full, failed.");
    describe_gauge!(
        "longwatch_servers_upload",
        "Servers that archive to an object store, by how the upload goes: ok, behind, unreachable, refused, conflict."
    );
    describe_gauge!(
        "longwatch_servers_store_retention",
        "Servers that archive to an object store, by how it goes to delete there what is not to be kept: ok, unreachable, refused."
    );
    describe_gauge!("longwatch_spool_segments", "Segments that wait to be uploaded, of all servers.");
    describe_gauge!("longwatch_spool_bytes", "Their size.");
    describe_gauge!(
        "longwatch_spool_oldest_age_seconds",
        "How long ago the video of the oldest of them ended, of the server that is furthest behind."
    );
    describe_gauge!("longwatch_tenants", "Tenants.");
    describe_gauge!(
        "longwatch_servers_held",
        "Silent servers that are not judged, because too many are silent at once."
    );
    describe_gauge!("longwatch_unplaced_copies", "Copies of cameras that want a server and have none.");
    describe_gauge!("longwatch_wanted_servers", "Servers there should be, by policy's headroom.");
    describe_gauge!("longwatch_headroom_copies", "How many more copies the servers could hold.");
    describe_gauge!("longwatch_moves_under_way", "Copies that are on a planned move.");
    describe_gauge!(
        "longwatch_unsettled_assignments",
        "Copies that are neither recording nor failing for the camera's own reason, as servers said last."
    );
    describe_gauge!("longwatch_unsettled_assignments_max", "The same, of the server with the most.");
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
    measure_fleet(service);
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
    let mut by_state: BTreeMap<_, u64> = Word::ALL.into_iter().map(|word| (word, 0)).collect();
    let mut by_storage: BTreeMap<_, u64> = Storage::ALL.into_iter().map(|word| (word, 0)).collect();
    let mut by_upload: BTreeMap<_, u64> = Upload::ALL.into_iter().map(|word| (word, 0)).collect();
    let mut by_retention: BTreeMap<_, u64> = StoreRetention::ALL.into_iter().map(|word| (word, 0)).collect();
    let (mut waiting, mut waiting_bytes, mut longest_s) = (0_u64, 0_u64, 0);
    let mut oldest_s = 0.0_f64;
    for (id, server) in service.state().servers() {
        let (word, _) = Word::of(server, observed.is_overdue(id));
        *by_state.entry(word).or_default() += 1;
        // Of one that is no part of the system nobody waits to hear.
        if let Some(age_ms) = observed.age_ms(id).filter(|_| server.is_ours()) {
            oldest_s = oldest_s.max(Duration::from_millis(age_ms).as_secs_f64());
        }
        if let Some(seen) = observed.seen(id).filter(|_| server.is_ours()) {
            *by_storage.entry(seen.load.storage).or_default() += 1;
            if let Some(spool) = seen.load.spool {
                *by_upload.entry(spool.upload).or_default() += 1;
                *by_retention.entry(spool.retention).or_default() += 1;
                waiting = waiting.saturating_add(spool.segments);
                waiting_bytes = waiting_bytes.saturating_add(spool.bytes);
                longest_s = spool.oldest_s.max(longest_s);
            }
        }
    }
    for (state, count) in by_state {
        gauge!("longwatch_servers", "state" => state.as_str()).set(as_f64(count));
    }
    for (storage, count) in by_storage {
        gauge!("longwatch_servers_storage", "storage" => storage.as_str()).set(as_f64(count));
    }
    for (upload, count) in by_upload {
        gauge!("longwatch_servers_upload", "upload" => upload.as_str()).set(as_f64(count));
    }
    for (retention, count) in by_retention {
        gauge!("longwatch_servers_store_retention", "retention" => retention.as_str()).set(as_f64(count));
    }
    gauge!("longwatch_spool_segments").set(as_f64(waiting));
    gauge!("longwatch_spool_bytes").set(as_f64(waiting_bytes));
    gauge!("longwatch_spool_oldest_age_seconds").set(as_f64(longest_s));
    gauge!("longwatch_oldest_heartbeat_age_seconds").set(oldest_s);
}

/// The fleet in numbers: the same as `/v1/autoscaling` tells.
fn measure_fleet(service: &Service) {
    let (fleet, moving) = {
        let state = service.state();
        (scaling::fleet(&state), state.index().moving().len())
    };
    gauge!("longwatch_unplaced_copies").set(as_f64(fleet.unplaced));
    gauge!("longwatch_wanted_servers").set(as_f64(fleet.wanted_servers));
    gauge!("longwatch_headroom_copies").set(as_f64(fleet.headroom));
    gauge!("longwatch_moves_under_way").set(as_f64(moving as u64));
    let unsettled = unsettled(service);
    gauge!("longwatch_unsettled_assignments").set(as_f64(unsettled.total));
    gauge!("longwatch_unsettled_assignments_max").set(as_f64(unsettled.most));
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
