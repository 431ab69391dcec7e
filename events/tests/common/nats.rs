//! A real nats-server as a child process: on a free port of loopback, its store in a temporary directory, every
//! acknowledged message synced. It dies with its guard.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// How long a server may take until it accepts connections.
const START_DEADLINE: Duration = Duration::from_secs(20);

/// A running nats-server with JetStream.
pub(crate) struct NatsServer {
    // `None` between `kill` and `restart`.
    child: Option<Child>,
    port: u16,
    dir: TempDir,
    /// When what is acknowledged is synced.
    sync_interval: &'static str,
}

impl NatsServer {
    /// Starts one and waits until it accepts connections.
    pub(crate) async fn start() -> Self {
        Self::start_syncing("always").await
    }

    /// Starts one that syncs rarely: quick, for tests that write a lot and pull no plug.
    #[allow(dead_code, reason = "not every test writes that much")]
    pub(crate) async fn start_unsynced() -> Self {
        Self::start_syncing("2m").await
    }

    async fn start_syncing(sync_interval: &'static str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut server = Self { child: None, port: 0, dir, sync_interval };
        server.spawn("-1");
        server.port = server.wait_for_port().await;
        server.wait_until_it_accepts().await;
        server
    }

    /// Where to connect to.
    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// SIGKILL: what it did not sync is gone.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Either fails only if the process has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again on the same port and store.
    pub(crate) async fn restart(&mut self) {
        self.kill();
        self.spawn(&self.port.to_string());
        self.wait_until_it_accepts().await;
    }

    fn spawn(&mut self, port: &str) {
        let dir = self.dir.path().display();
        let config = format!(
            "host: 127.0.0.1\nport: {port}\nports_file_dir: \"{dir}\"\n\
             jetstream {{ store_dir: \"{dir}/store\", sync_interval: {sync} }}\n",
            sync = self.sync_interval
        );
        fs::write(self.path("nats.conf"), config).expect("the configuration is written");
        let log = File::options().create(true).append(true).open(self.path("nats.log")).expect("a log file");
        let child = Command::new(binary())
            .arg("--config")
            .arg(self.path("nats.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{} does not start: {error}", binary().display()));
        self.child = Some(child);
    }

    /// The server picks a free port itself (so that two tests never pick the same) and writes it into a file.
    async fn wait_for_port(&mut self) -> u16 {
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            if let Some(port) = self.written_port() {
                return port;
            }
            self.check(deadline);
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn written_port(&self) -> Option<u16> {
        let pid = self.child.as_ref()?.id();
        let name = format!("{}_{pid}.ports", binary().file_name()?.to_str()?);
        // A file that is half written is not JSON yet: looked at again.
        let ports: serde_json::Value = serde_json::from_slice(&fs::read(self.path(&name)).ok()?).ok()?;
        ports["nats"][0].as_str()?.rsplit_once(':')?.1.parse().ok()
    }

    async fn wait_until_it_accepts(&mut self) {
        let deadline = Instant::now() + START_DEADLINE;
        while tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
            self.check(deadline);
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn check(&mut self, deadline: Instant) {
        let ended = self.child.as_mut().and_then(|child| child.try_wait().expect("the child is ours"));
        if ended.is_some() || Instant::now() > deadline {
            let log = fs::read_to_string(self.path("nats.log")).unwrap_or_default();
            panic!("nats-server is not up after {START_DEADLINE:?} (ended: {ended:?}); it said:\n{log}");
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The pinned nats-server. Never skipped if it is missing: a test that did not run has shown nothing.
fn binary() -> PathBuf {
    let binary = std::env::var_os("LONGWATCH_NATS_SERVER").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/bin/nats-server"),
        PathBuf::from,
    );
    assert!(binary.is_file(), "no nats-server at {}: run `make tools`", binary.display());
    binary
}
