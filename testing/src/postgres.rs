//! A PostgreSQL server for tests: a child process in a folder of its own, reached through a socket in that folder.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{env, fs, thread};

use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;
use tokio::time::Instant;

/// How long a start or a stop may take on a busy machine.
const WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The superuser's; not a secret.
const PASSWORD: &str = "test";
/// Whom it runs as when the tests run as root, whom it refuses. The user comes with the package.
const USER: &str = "postgres";

/// The server of this process's tests, while one of them has it.
static RUNNING: Mutex<Weak<Postgres>> = Mutex::new(Weak::new());

/// A running server; stopped with this value, and with this process however that ends.
pub struct Postgres {
    folder: TempDir,
    names: AtomicU32,
    // Both are there until they are dropped.
    stop: Option<Sender<()>>,
    keeper: Option<JoinHandle<()>>,
}

impl Postgres {
    /// The one that runs, or else a new one.
    pub fn shared() -> Arc<Self> {
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        running.upgrade().unwrap_or_else(|| {
            let started = Arc::new(Self::start());
            *running = Arc::downgrade(&started);
            started
        })
    }

    /// A new one, for one test.
    pub fn start() -> Self {
        let programs = programs();
        let folder = tempfile::tempdir().unwrap();
        let (password, data) = (folder.path().join("password"), folder.path().join("data"));
        fs::write(&password, PASSWORD).unwrap();
        if geteuid().is_root() {
            let [uid, gid] = ["-u", "-g"].map(|which| Some(id(which)));
            for path in [folder.path(), &password] {
                std::os::unix::fs::chown(path, uid, gid).unwrap();
            }
        }
        let made = as_user(&programs.join("initdb"))
            .args([
                "--no-sync",
                "--encoding=UTF8",
                "--locale=C",
                "--auth=scram-sha-256",
                "--username=postgres",
            ])
            .args([OsStr::new("--pwfile"), password.as_os_str(), OsStr::new("--pgdata"), data.as_os_str()])
            .output()
            .unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let mut server = as_user(&programs.join("postgres"));
        let log = File::create(folder.path().join("log")).unwrap();
        server.arg("-D").arg(&data).arg("-k").arg(folder.path());
        server.args(["-c", "listen_addresses=", "-c", "max_connections=400", "-c", "shared_buffers=32MB"]);
        // Nothing of it outlives the test.
        server.args(["-c", "fsync=off", "-c", "full_page_writes=off", "-c", "synchronous_commit=off"]);
        server.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let (stop, stopped) = channel();
        let (started, child) = channel();
        let keeper = thread::spawn(move || keep(&mut server, &started, &stopped));
        child.recv().unwrap();
        let server = Self { folder, names: AtomicU32::new(0), stop: Some(stop), keeper: Some(keeper) };
        server.wait();
        server
    }

    fn wait(&self) {
        let deadline = Instant::now() + WITHIN;
        let is_ready = || {
            // What pg_ctl waits for, too: the server writes it into its file once it takes connections.
            let status = fs::read_to_string(self.folder.path().join("data/postmaster.pid"));
            status.is_ok_and(|status| status.lines().any(|line| line.trim() == "ready"))
        };
        while !is_ready() {
            let log = || fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            assert!(self.keeper.as_ref().is_some_and(|keeper| !keeper.is_finished()), "it ended: {}", log());
            assert!(Instant::now() < deadline, "it does not start: {}", log());
            thread::sleep(LOOK_EVERY);
        }
    }

    /// The address of one of its databases, for the superuser.
    pub fn url(&self, database: &str) -> String {
        let folder = self.folder.path().display();
        format!("postgres:///{database}?host={folder}&user=postgres&password={PASSWORD}")
    }

    /// A name for a database that no other test has.
    pub fn unused_name(&self) -> String {
        format!("test_{}", self.names.fetch_add(1, Ordering::Relaxed))
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
    }
}

/// Starts the server and keeps it until it is told to stop. On a thread of its own: the kernel ties the server's death
/// signal to the thread that started it, and a test's ends before others are done with the server.
fn keep(server: &mut Command, started: &Sender<()>, stopped: &Receiver<()>) {
    let mut child = server.spawn().unwrap();
    started.send(()).unwrap();
    while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(LOOK_EVERY) {
        if child.try_wait().unwrap().is_some() {
            return;
        }
    }
    end(&mut child);
}

/// SIGQUIT is PostgreSQL's "at once": it takes its own children along, which SIGKILL would leave.
fn end(child: &mut Child) {
    let _ = kill_process(Pid::from_child(child), Signal::QUIT);
    let deadline = Instant::now() + WITHIN;
    while Instant::now() < deadline {
        if child.try_wait().unwrap().is_some() {
            return;
        }
        thread::sleep(LOOK_EVERY);
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// A program that ends with the thread that starts it, as a user that PostgreSQL accepts.
fn as_user(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "QUIT"]);
    if geteuid().is_root() {
        command.args(["--reuid", USER, "--regid", USER, "--init-groups"]);
    }
    // The user need not be allowed to enter the folder the tests run in.
    command.arg("--").arg(program).current_dir("/");
    command
}

fn id(which: &str) -> u32 {
    let output = Command::new("id").args([which, USER]).output().unwrap();
    let number = String::from_utf8_lossy(&output.stdout);
    number.trim().parse().expect("there is no user postgres; run tools/install.sh postgres")
}

/// The folder with PostgreSQL's programs: on PATH, or where Debian has them, the newest.
fn programs() -> PathBuf {
    let has_both = |folder: &PathBuf| ["initdb", "postgres"].iter().all(|name| folder.join(name).is_file());
    let on_path =
        env::var_os("PATH").into_iter().flat_map(|path| env::split_paths(&path).collect::<Vec<_>>());
    let mut debian: Vec<_> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let version: u32 = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    debian.sort();
    let debian = debian.into_iter().rev().map(|(_, folder)| folder);
    on_path.chain(debian).find(has_both).expect("PostgreSQL is not installed; run tools/install.sh postgres")
}
