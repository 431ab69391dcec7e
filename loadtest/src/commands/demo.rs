//! `longwatch-loadtest demo`: what `make run` shows. A whole Longwatch on this machine, with cameras to record.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::camera::pump::Join;
use crate::camera::server::{Options as CameraOptions, Server};
use crate::system::api::Api;
use crate::system::{Options, Single};

/// Where the simulated cameras listen if they can; else on any free port.
const CAMERAS_LISTEN: &str = "127.0.0.1:8554";
/// How long the cameras may take to be recorded before a person is told what hangs.
const RECORDING_WITHIN: Duration = Duration::from_secs(20);
/// How often the demo looks whether all is well.
const WATCH_EVERY: Duration = Duration::from_secs(2);

/// Run a whole Longwatch on this machine and let it record simulated cameras
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Simulated cameras; 0: none, add your own
    #[arg(long, env = "LONGWATCH_CAMERAS", default_value_t = 4)]
    cameras: u32,
    /// Folder that holds everything
    #[arg(long, env = "LONGWATCH_DATA", default_value = "./data")]
    data: PathBuf,
    /// Address of the API
    #[arg(long, env = "LONGWATCH_LISTEN", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
}

/// Runs until SIGINT or SIGTERM, then stops everything.
///
/// # Errors
/// Whatever keeps Longwatch from starting or the cameras from being recorded.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    // One thread: the system's processes end with the thread that started them.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
        let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
        let options =
            Options { data: args.data.clone(), listen: args.listen, segment_ms: None, worker: Vec::new() };
        let mut single = Single::start(&options)?;
        let stop = CancellationToken::new();
        let outcome = tokio::select! {
            outcome = show(args, &mut single, &stop) => outcome,
            _ = interrupt.recv() => Ok(()),
            _ = terminate.recv() => Ok(()),
        };
        println!("\nstopping …");
        stop.cancel();
        let stopped = single.stop().await;
        outcome.and(stopped)
    })?;
    println!("stopped; everything recorded is in {}", args.data.join("archive").display());
    Ok(ExitCode::SUCCESS)
}

async fn show(args: &Args, single: &mut Single, stop: &CancellationToken) -> anyhow::Result<()> {
    let started = Instant::now();
    let address = match args.cameras {
        0 => None,
        count => Some(serve_cameras(count, stop.clone())?),
    };
    let api = single.ready().await?;
    println!("Longwatch is up after {:.1} s", started.elapsed().as_secs_f32());
    if let Some(address) = address {
        register(&api, args.cameras, address).await?;
        wait_until_recording(&api, args.cameras, single).await?;
        println!(
            "{} simulated camera(s) recording after {:.1} s",
            args.cameras,
            started.elapsed().as_secs_f32()
        );
    }
    explain(args, single, &api)?;
    watch(&api, single).await
}

fn serve_cameras(count: u32, stop: CancellationToken) -> anyhow::Result<SocketAddr> {
    let options = |listen: SocketAddr| CameraOptions {
        listen: vec![listen],
        count,
        clips: Vec::new(),
        digest: None,
        session_timeout: Duration::from_secs(60),
        join: Join::default(),
    };
    let preferred: SocketAddr = CAMERAS_LISTEN.parse().context("the cameras' address")?;
    let server = Server::bind(&options(preferred))
        .or_else(|_| Server::bind(&options(SocketAddr::new(preferred.ip(), 0))))?;
    let address = *server.addresses().first().context("the cameras have no address")?;
    tokio::spawn(server.run(stop));
    Ok(address)
}

/// Adds the cameras that are not there yet, and tells those that are where they can be found today.
async fn register(api: &Api, count: u32, address: SocketAddr) -> anyhow::Result<()> {
    let known: BTreeMap<String, Value> = api
        .cameras()
        .await?
        .into_iter()
        .filter_map(|camera| Some((camera["name"].as_str()?.to_owned(), camera)))
        .collect();
    for number in 1..=count {
        let name = format!("Simulated camera {number}");
        let url = format!("rtsp://{address}/cam/{number}");
        match known.get(&name) {
            Some(camera) if camera["source"]["url"] == url => {}
            Some(camera) => {
                let path =
                    format!("/v1/tenants/default/cameras/{}", camera["id"].as_str().unwrap_or_default());
                api.call(Method::PATCH, &path, Some(&json!({ "source": { "url": url } }))).await?;
            }
            None => {
                api.add_camera(&name, &url).await?;
            }
        }
    }
    Ok(())
}

async fn wait_until_recording(api: &Api, wanted: u32, single: &Single) -> anyhow::Result<()> {
    let deadline = Instant::now() + RECORDING_WITHIN;
    loop {
        let recording = api.recording().await?;
        if recording >= wanted as usize {
            return Ok(());
        }
        if Instant::now() > deadline {
            println!(
                "only {recording} of {wanted} cameras are recording after {} s; look at {} and at each camera's state_reason",
                RECORDING_WITHIN.as_secs(),
                single.log().display()
            );
            return Ok(());
        }
        sleep(Duration::from_millis(100)).await;
    }
}

fn explain(args: &Args, single: &Single, api: &Api) -> anyhow::Result<()> {
    // Whole paths, so that the commands work from any folder.
    let whole = |path: PathBuf| std::path::absolute(path).context("there is no current folder");
    let (base, this) = (api.base(), std::env::current_exe().context("cannot find this executable")?);
    let (key, archive, log) = (whole(single.key_file())?, whole(single.archive())?, whole(single.log())?);
    let (key, this) = (key.display(), this.display());
    println!(
        "
  API          {base}   described at {base}/docs
  key          {key}
  archive      {}
  log          {}

  Cameras that are being recorded:

    curl -s -H \"Authorization: Bearer $(cat '{key}')\" '{base}/v1/tenants/default/cameras?state=recording'
",
        archive.display(),
        log.display()
    );
    if args.cameras == 0 {
        println!(
            "  Add a camera (no camera at hand? `{this} cameras` simulates one at this address):

    curl -s -H \"Authorization: Bearer $(cat '{key}')\" -H 'Content-Type: application/json' \\
      {base}/v1/tenants/default/cameras \\
      -d '{{\"name\": \"Gate 3\", \"source\": {{\"url\": \"rtsp://{CAMERAS_LISTEN}/cam/1\"}}}}'
"
        );
    }
    println!("  Ctrl-C stops everything.\n");
    Ok(())
}

/// Says whenever the number of recorded cameras changes, for ever.
async fn watch(api: &Api, single: &mut Single) -> anyhow::Result<()> {
    let mut last = None;
    loop {
        single.must_live()?;
        // While control is away there is nothing to say: it comes back by itself.
        if let Ok(cameras) = api.cameras().await {
            let recording = cameras.iter().filter(|camera| camera["state"] == "recording").count();
            let now = (recording, cameras.len());
            if last.is_some_and(|last| last != now) {
                println!("{recording} of {} camera(s) recording", cameras.len());
            }
            last = Some(now);
        }
        sleep(WATCH_EVERY).await;
    }
}
