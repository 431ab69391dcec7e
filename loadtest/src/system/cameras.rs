//! Simulated cameras as a child process, and adding them to a Longwatch.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures::StreamExt as _;
use futures::stream;
use tokio::time::{Instant, sleep};

use super::api::Api;
use super::part::tied;
use super::program;

/// Cameras that are added at once.
const ADD_AT_ONCE: usize = 16;
/// Between looks at how many are being recorded.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// `longwatch-loadtest cameras` on a free port; killed with this value.
pub struct Cameras {
    child: Child,
    count: u32,
    address: String,
}

impl Cameras {
    /// Starts `count` cameras per family of paths, and waits until they answer.
    ///
    /// Call it from a thread that lives as long as this value: the process ends with that thread.
    ///
    /// # Errors
    /// If they cannot be started.
    pub fn start(count: u32) -> anyhow::Result<Self> {
        Self::start_at(count, "127.0.0.1:0")
    }

    /// Switches all of them off at once, and on again `after` a while.
    ///
    /// # Errors
    /// If they do not come back.
    pub async fn switch_off_for(&mut self, after: Duration) -> anyhow::Result<()> {
        self.child.kill().context("cannot switch the cameras off")?;
        self.child.wait().context("the cameras do not end")?;
        sleep(after).await;
        *self = Self::start_at(self.count, &self.address)?;
        Ok(())
    }

    fn start_at(count: u32, listen: &str) -> anyhow::Result<Self> {
        let mut child = tied(&program("longwatch-loadtest")?)?
            .args(["cameras", "--listen", listen, "--count", &count.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the simulated cameras")?;
        let out = child.stdout.take().context("the cameras have no output")?;
        let mut cameras = Self { child, count, address: String::new() };
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line).context("the cameras said nothing")?;
        let (_, url) = line.split_once("rtsp://").with_context(|| format!("the cameras said {line:?}"))?;
        cameras.address = url.split('/').next().unwrap_or_default().to_owned();
        Ok(cameras)
    }

    /// The URL of one, such as `/cam/1`.
    pub fn url(&self, path: &str) -> String {
        format!("rtsp://{}{path}", self.address)
    }

    /// The process id.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap_or(i32::MAX)
    }
}

impl Drop for Cameras {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// How long it took from the first request that added a camera.
#[derive(Debug, Clone, Copy)]
pub struct Recorded {
    /// Until one camera was being recorded.
    pub first: Duration,
    /// Until all were.
    pub all: Duration,
}

/// Adds `/cam/1` to `/cam/COUNT` and waits until all of the system's cameras, which are these, are being recorded.
///
/// # Errors
/// If one is refused, or not all are being recorded `within` that time.
pub async fn record_all(
    api: &Api,
    cameras: &Cameras,
    count: u32,
    within: Duration,
) -> anyhow::Result<Recorded> {
    record_family(api, cameras, "cam", count, within).await
}

/// The same for `/FAMILY/1` to `/FAMILY/COUNT`.
///
/// # Errors
/// As [`record_all`].
pub async fn record_family(
    api: &Api,
    cameras: &Cameras,
    family: &str,
    count: u32,
    within: Duration,
) -> anyhow::Result<Recorded> {
    let started = Instant::now();
    let adding = async {
        let mut added = stream::iter(1..=count)
            .map(|number| {
                let url = cameras.url(&format!("/{family}/{number}"));
                async move { api.add_camera(&format!("Camera {number}"), &url).await }
            })
            .buffer_unordered(ADD_AT_ONCE);
        while let Some(camera) = added.next().await {
            camera?;
        }
        anyhow::Ok(())
    };
    let watching = async {
        let mut first = None;
        loop {
            let recording = api.recording().await?;
            if recording > 0 {
                first.get_or_insert_with(|| started.elapsed());
            }
            if recording >= count as usize {
                let all = started.elapsed();
                return anyhow::Ok(Recorded { first: first.unwrap_or(all), all });
            }
            ensure!(
                started.elapsed() < within,
                "only {recording} of {count} cameras are being recorded after {} s",
                within.as_secs()
            );
            sleep(LOOK_EVERY).await;
        }
    };
    let ((), times) = tokio::try_join!(adding, watching)?;
    Ok(times)
}
