//! What a test starts from, and how it waits.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use longwatch_loadtest::system::api::Api;
use longwatch_loadtest::system::cameras::Cameras;
use longwatch_loadtest::system::{Options, Single, archive, process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// Between looks at something that is awaited.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A running Single, its API, and cameras to record.
pub(crate) struct Given {
    pub(crate) single: Single,
    pub(crate) api: Api,
    pub(crate) cameras: Cameras,
    folder: TempDir,
}

impl Given {
    /// A Single with segments of `segment_ms`, and a simulator with `count` cameras per family.
    pub(crate) async fn start(segment_ms: u64, count: u32) -> Self {
        Self::start_with(segment_ms, count, Vec::new()).await
    }

    /// The same, with settings of the worker by their variables.
    pub(crate) async fn start_with(segment_ms: u64, count: u32, worker: Vec<(&'static str, String)>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let cameras = Cameras::start(count).unwrap();
        let mut single = Single::start(&Options { worker, ..options(folder.path(), segment_ms) }).unwrap();
        let api = single.ready().await.unwrap();
        Self { single, api, cameras, folder }
    }

    /// Stops everything as a user would, which closes the open segments; the files stay.
    pub(crate) async fn stop(&self) {
        process::terminate(self.single.pid()).unwrap();
        until("everything has stopped", Duration::from_secs(30), async || {
            if process::is_alive(self.single.pid()) { Err(Value::from("still running")) } else { Ok(()) }
        })
        .await;
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Adds a camera and waits until it is being recorded.
    pub(crate) async fn record(&self, name: &str, path: &str) -> String {
        let id = self.api.add_camera(name, &self.cameras.url(path)).await.unwrap();
        self.until_recording(&id).await;
        id
    }

    pub(crate) async fn until_recording(&self, id: &str) {
        until(&format!("camera {id} is recording"), Duration::from_secs(30), async || {
            let camera = self.camera(id).await?;
            (camera["state"] == "recording").then_some(()).ok_or(camera)
        })
        .await;
    }

    /// A camera as it reads; an error of the API as text.
    pub(crate) async fn camera(&self, id: &str) -> Result<Value, Value> {
        let path = format!("/v1/tenants/default/cameras/{id}");
        self.api.get(&path).await.map_err(|error| Value::String(error.to_string()))
    }

    pub(crate) async fn timeline(&self, id: &str) -> Value {
        self.api.get(&format!("/v1/tenants/default/cameras/{id}/timeline")).await.unwrap()
    }

    /// The segments of a camera on disk, in order of time.
    pub(crate) fn files(&self, id: &str) -> Vec<PathBuf> {
        let mut files = archive::files(&self.single.archive());
        files.retain(|file| file.components().any(|part| part.as_os_str() == id));
        files.retain(|file| file.extension().is_some_and(|extension| extension == "mp4"));
        files
    }
}

pub(crate) fn options(data: &Path, segment_ms: u64) -> Options {
    let listen = "127.0.0.1:0".parse().unwrap();
    Options { data: data.to_owned(), listen, segment_ms: Some(segment_ms), worker: Vec::new() }
}

/// Looks until `look` gives `Ok`, and gives that; panics with the last `Err` after `within`.
pub(crate) async fn until<T, F: Future<Output = Result<T, Value>>>(
    what: &str,
    within: Duration,
    mut look: impl FnMut() -> F,
) -> T {
    let deadline = Instant::now() + within;
    loop {
        match look().await {
            Ok(value) => return value,
            Err(last) if Instant::now() > deadline => {
                panic!("after {} s still not: {what}; last seen: {last:#}", within.as_secs())
            }
            Err(_) => sleep(LOOK_EVERY).await,
        }
    }
}

/// Milliseconds since 1970 of an RFC 3339 time in a reply.
pub(crate) fn millis(value: &Value) -> i64 {
    let text = value.as_str().unwrap_or_else(|| panic!("{value} is no time"));
    text.parse::<longwatch_events::time::Timestamp>().unwrap().as_millis()
}
