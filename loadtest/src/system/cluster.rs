//! A whole cluster on this machine: one nats-server, any number of control replicas and of servers, each a child
//! process that can be killed, paused and started again by itself.
//!
//! Everything is in one folder: the log's store, keys, a database per replica unless they share one, an archive per server
//! (`server-1`, …) and the output of each process (`NAME.log`). NATS wants no credentials: it listens on loopback only, and lives as long as
//! this value.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use longwatch_events::log::jetstream::JetStreamLog;
use reqwest::Method;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::api::Api;
use super::part::Part;
use super::{LOOK_EVERY, READY_WITHIN, free_address, history, installed_nats_server, program};

/// What a cluster is made of.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where everything goes; made if missing.
    pub folder: PathBuf,
    /// Control replicas; at least 1.
    pub controls: usize,
    /// The address of one database for all of them; `None`: each has a SQLite file of its own.
    pub database: Option<String>,
    /// Servers.
    pub servers: usize,
    /// How many cameras each server may hold; `None`: as shipped.
    pub capacity: Option<u32>,
    /// Length of a segment in milliseconds; `None`: as shipped.
    pub segment_ms: Option<u64>,
    /// Where the servers upload to from their folders; `None`: these are their archives.
    pub object_store: Option<ObjectStore>,
}

/// An object store that all servers upload to.
#[derive(Debug, Clone)]
pub struct ObjectStore {
    /// `s3://bucket/prefix`.
    pub archive: String,
    /// Its address.
    pub endpoint: String,
    /// A file with the key to it.
    pub credentials_file: PathBuf,
    /// How often it is looked at what is not to be kept there any longer, in milliseconds.
    pub retention_interval_ms: u32,
}

/// A control replica.
struct Control {
    part: Part,
    api: Api,
}

/// A server: its worker, and who it is in the system.
struct Server {
    part: Part,
    archive: PathBuf,
    id: String,
}

/// A running cluster; killed with this value. Replicas and servers are counted from 0.
pub struct Cluster {
    // Dropped in this order: first who speaks, last who is spoken to.
    servers: Vec<Server>,
    controls: Vec<Control>,
    nats: Part,
    nats_address: SocketAddr,
}

impl Cluster {
    /// Starts one and waits until every replica is ready and every server online.
    ///
    /// Call it from a thread that lives as long as this value: the processes end with that thread.
    ///
    /// # Errors
    /// If a program is missing, or something does not start in time; the error says what, with the end of its output.
    pub async fn start(options: &Options) -> anyhow::Result<Self> {
        Self::start_syncing(options, "always").await
    }

    /// The same, with NATS writing to the disk for good only every `sync_interval`, in its own notation: `always`, `2m`.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_syncing(options: &Options, sync_interval: &str) -> anyhow::Result<Self> {
        let folder = &std::path::absolute(&options.folder).context("the cluster's folder")?;
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        let nats_address = free()?;
        let mut nats = nats(folder, nats_address, sync_interval)?;
        nats.start()?;
        until_answering(&mut nats, nats_address).await?;
        let mut cluster = Self { servers: Vec::new(), controls: Vec::new(), nats, nats_address };
        for number in 1..=options.controls {
            // One after the other: the first makes the keys that all share.
            let control = start_control(folder, &cluster.nats_url(), number, options).await?;
            cluster.controls.push(control);
        }
        for number in 1..=options.servers {
            let (mut part, archive) = worker(folder, &cluster.nats_url(), number, options)?;
            part.start()?;
            cluster.servers.push(Server { part, archive, id: String::new() });
        }
        cluster.until_online().await?;
        Ok(cluster)
    }

    /// Starts one more server as [`Self::start`] does, and waits until it is online.
    ///
    /// # Errors
    /// If it does not start in time.
    pub async fn add_server(&mut self, options: &Options) -> anyhow::Result<()> {
        let folder = std::path::absolute(&options.folder).context("the cluster's folder")?;
        let (mut part, archive) = worker(&folder, &self.nats_url(), self.servers.len() + 1, options)?;
        part.start()?;
        self.servers.push(Server { part, archive, id: String::new() });
        self.until_online().await
    }

    /// The API of a replica.
    pub fn api(&self, replica: usize) -> &Api {
        &self.controls[replica].api
    }

    /// The process of a replica.
    pub fn control(&mut self, replica: usize) -> &mut Part {
        &mut self.controls[replica].part
    }

    /// The process of a server.
    pub fn worker(&mut self, server: usize) -> &mut Part {
        &mut self.servers[server].part
    }

    /// The process of NATS.
    pub fn nats(&mut self) -> &mut Part {
        &mut self.nats
    }

    /// How many servers there are.
    pub fn servers(&self) -> usize {
        self.servers.len()
    }

    /// A server's id.
    pub fn server_id(&self, server: usize) -> &str {
        &self.servers[server].id
    }

    /// Which server has the id.
    pub fn server_with(&self, id: &str) -> Option<usize> {
        self.servers.iter().position(|server| server.id == id)
    }

    /// A server's archive.
    pub fn archive(&self, server: usize) -> &Path {
        &self.servers[server].archive
    }

    /// Where NATS listens.
    pub fn nats_url(&self) -> String {
        format!("nats://{}", self.nats_address)
    }

    /// The log.
    ///
    /// # Errors
    /// As [`history::open`].
    pub async fn log(&self) -> anyhow::Result<JetStreamLog> {
        history::open(&self.nats_url()).await
    }

    /// Changes a server's settings through the first replica (RFC 7396).
    ///
    /// # Errors
    /// If that is refused.
    pub async fn change_server(&self, server: usize, patch: &Value) -> anyhow::Result<()> {
        let path = format!("/v1/servers/{}", self.server_id(server));
        self.api(0).call(Method::PATCH, &path, Some(patch)).await?;
        Ok(())
    }

    /// Waits until a replica that was started again is ready.
    ///
    /// # Errors
    /// If it is not in time.
    pub async fn until_ready(&mut self, replica: usize) -> anyhow::Result<()> {
        let control = &mut self.controls[replica];
        until_ready(&mut control.part, &control.api).await
    }

    /// Kills every worker at once: the archives stay as they are from here on.
    ///
    /// # Errors
    /// If one cannot be killed.
    pub fn kill_workers(&mut self) -> anyhow::Result<()> {
        for server in &mut self.servers {
            if server.part.is_running() {
                server.part.kill()?;
            }
        }
        Ok(())
    }

    /// Stops every worker as a supervisor would, which closes the open segments.
    ///
    /// # Errors
    /// If one does not stop.
    pub async fn stop_workers(&mut self, within: Duration) -> anyhow::Result<()> {
        for server in &mut self.servers {
            if server.part.is_running() {
                server.part.stop(within).await?;
            }
        }
        Ok(())
    }

    /// Waits until every server has been online once, and learns their ids.
    async fn until_online(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            let listed = self.controls[0].api.list("/v1/servers").await?;
            let online = |name: &str| {
                listed.iter().find(|server| server["name"] == name && server["state"] == "online")
            };
            let mut all_are = true;
            // One that was killed stays who it was.
            for server in self.servers.iter_mut().filter(|server| server.id.is_empty()) {
                server.part.check()?;
                let id = online(server.part.name()).and_then(|server| server["id"].as_str());
                server.id = id.unwrap_or_default().to_owned();
                all_are &= id.is_some();
            }
            if all_are {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "not all servers are online within {} s: {listed:?}",
                READY_WITHIN.as_secs()
            );
            sleep(LOOK_EVERY).await;
        }
    }
}

fn free() -> anyhow::Result<SocketAddr> {
    free_address((Ipv4Addr::LOCALHOST, 0).into())
}

/// A file or folder of the cluster as one argument.
fn file(folder: &Path, name: &str) -> OsString {
    folder.join(name).into()
}

/// NATS with one durable store. In production `sync_interval` is `always`, so that its price is in every figure.
fn nats(folder: &Path, address: SocketAddr, sync_interval: &str) -> anyhow::Result<Part> {
    let store = serde_json::to_string(&folder.join("nats")).context("the folder's name is not UTF-8")?;
    let config = folder.join("nats.conf");
    let text = format!(
        "listen: \"{address}\"\nserver_name: \"longwatch-cluster\"\nmax_payload: 1MB\n\
         jetstream {{\n  store_dir: {store}\n  sync_interval: {sync_interval}\n  max_file_store: 16TB\n}}\n"
    );
    std::fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))?;
    let program = std::env::var_os("LONGWATCH_NATS_SERVER")
        .map(PathBuf::from)
        .or_else(installed_nats_server)
        .context("there is no nats-server: run `make tools`, or name one in LONGWATCH_NATS_SERVER")?;
    let log = folder.join("nats-server.log");
    Ok(Part::new("nats-server", program, vec!["-c".into(), config.into()], log))
}

async fn until_answering(part: &mut Part, address: SocketAddr) -> anyhow::Result<()> {
    let answering = async {
        while TcpStream::connect(address).await.is_err() {
            part.check()?;
            sleep(LOOK_EVERY).await;
        }
        anyhow::Ok(())
    };
    timeout(READY_WITHIN, answering).await.with_context(|| format!("nothing answers at {address}"))?
}

async fn start_control(
    folder: &Path,
    nats_url: &str,
    number: usize,
    options: &Options,
) -> anyhow::Result<Control> {
    let name = format!("control-{number}");
    let address = free()?;
    let own_database = || format!("sqlite://{}", folder.join(format!("{name}.db")).display());
    let database = options.database.clone().unwrap_or_else(own_database);
    let key_file = folder.join("provider.key");
    let args: Vec<OsString> = vec![
        "serve".into(),
        "--nats".into(),
        nats_url.into(),
        "--database".into(),
        database.into(),
        "--listen".into(),
        address.to_string().into(),
        "--key-file".into(),
        key_file.clone().into(),
        "--join-key-file".into(),
        file(folder, "join.key"),
    ];
    let mut part = Part::new(&name, program("longwatch-control")?, args, folder.join(format!("{name}.log")));
    part.start()?;
    // Only what it says of itself: the key may not be written yet.
    until_ready(&mut part, &Api::new(address, "")?).await?;
    let key = std::fs::read_to_string(&key_file)
        .with_context(|| format!("{name} is ready without {}", key_file.display()))?;
    Ok(Control { part, api: Api::new(address, key.trim())? })
}

async fn until_ready(part: &mut Part, api: &Api) -> anyhow::Result<()> {
    let deadline = Instant::now() + READY_WITHIN;
    while !api.is_ready().await {
        part.check()?;
        ensure!(
            Instant::now() < deadline,
            "{} is not ready within {} s",
            part.name(),
            READY_WITHIN.as_secs()
        );
        sleep(LOOK_EVERY).await;
    }
    Ok(())
}

fn worker(
    folder: &Path,
    nats_url: &str,
    number: usize,
    options: &Options,
) -> anyhow::Result<(Part, PathBuf)> {
    let name = format!("server-{number}");
    let archive = folder.join(&name);
    let mut args: Vec<OsString> = vec![
        "--nats".into(),
        nats_url.into(),
        "--name".into(),
        name.clone().into(),
        "--join-key-file".into(),
        file(folder, "join.key"),
        "--rtsp-allow".into(),
        "127.0.0.0/8".into(),
        "--media-listen".into(),
        "127.0.0.1:0".into(),
    ];
    match &options.object_store {
        None => args.extend(["--archive".into(), archive.clone().into()]),
        Some(ObjectStore { archive: place, endpoint, credentials_file, retention_interval_ms }) => args
            .extend([
                "--archive".into(),
                place.into(),
                "--spool".into(),
                archive.clone().into(),
                "--s3-endpoint".into(),
                endpoint.into(),
                "--s3-allow-http".into(),
                "--s3-credentials-file".into(),
                credentials_file.into(),
                "--s3-retention-interval-ms".into(),
                retention_interval_ms.to_string().into(),
            ]),
    }
    if let Some(cameras) = options.capacity {
        args.extend(["--capacity".into(), cameras.to_string().into()]);
    }
    if let Some(milliseconds) = options.segment_ms {
        args.extend(["--segment-ms".into(), milliseconds.to_string().into()]);
    }
    let log = folder.join(format!("{name}.log"));
    Ok((Part::new(&name, program("longwatch-worker")?, args, log), archive))
}
