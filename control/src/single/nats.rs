//! Single's nats-server: which program, which keys, which port, and whether it answers.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nkeys::KeyPair;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};
use zeroize::Zeroizing;

use super::Error;
use super::layout::{failed, private_folder, write_private};
use super::nats_config::{Settings, render};

/// The oldest nats-server that will do: 2.14 syncs nineteen times slower, and atomic batches are young.
pub const MIN_VERSION: Version = Version { major: 2, minor: 15 };

/// Ports to choose from: below those the kernel gives to outgoing connections, so that none is taken by chance while
/// nats-server is being restarted.
const PORTS: std::ops::Range<u16> = 20_000..30_000;
const PORT_TRIES: u32 = 50;
const VERSION_WITHIN: Duration = Duration::from_secs(10);
const POLL_EVERY: Duration = Duration::from_millis(25);
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// A nats-server's version, as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Before the first point.
    pub major: u32,
    /// Between the points.
    pub minor: u32,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl Version {
    /// From what `nats-server --version` says: `nats-server: v2.15.1`.
    pub fn parse(said: &str) -> Option<Self> {
        let mut numbers = said.trim().strip_prefix("nats-server: v")?.split('.');
        let mut next = || numbers.next()?.parse().ok();
        Some(Self { major: next()?, minor: next()? })
    }
}

/// A nats-server that can be started.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// Where it will listen.
    pub address: SocketAddr,
    /// Its configuration file.
    pub config: PathBuf,
    /// Its log.
    pub log: PathBuf,
    /// Seed file of control's nkey.
    pub control_seed: PathBuf,
    /// Seed file of the worker's nkey.
    pub worker_seed: PathBuf,
    /// Seed file of the auditors' nkey.
    pub audit_seed: PathBuf,
}

impl Prepared {
    /// What clients connect to.
    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// nats-server's command line.
    pub fn args(&self) -> Vec<std::ffi::OsString> {
        vec!["-c".into(), self.config.clone().into()]
    }
}

/// Makes whatever is absent in `folder` (three nkey seeds, a port) and writes the configuration. Seeds stay; the port
/// stays as long as it is free. Nothing else may be running on the folder.
pub fn prepare(folder: &Path) -> Result<Prepared, Error> {
    private_folder(folder)?;
    let file = |name: &str| folder.join(name);
    let prepared = Prepared {
        address: SocketAddr::from((Ipv4Addr::LOCALHOST, port(&file("port"))?)),
        config: file("nats.conf"),
        log: file("nats.log"),
        control_seed: file("control.nk"),
        worker_seed: file("worker.nk"),
        audit_seed: file("audit.nk"),
    };
    let text = render(&Settings {
        port: prepared.address.port(),
        store_dir: utf8(folder)?,
        log_file: utf8(&prepared.log)?,
        control: &public_key(&prepared.control_seed)?,
        worker: &public_key(&prepared.worker_seed)?,
        audit: &public_key(&prepared.audit_seed)?,
    });
    write_private(&prepared.config, &text)?;
    Ok(prepared)
}

/// The public half of the seed in the file; a new seed on the first start.
fn public_key(path: &Path) -> Result<String, Error> {
    let bad = |source| Error::BadSeed { path: path.to_owned(), source };
    match fs::read_to_string(path).map(Zeroizing::new) {
        Ok(seed) => Ok(KeyPair::from_seed(seed.trim()).map_err(bad)?.public_key()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let pair = KeyPair::new_user();
            let seed = Zeroizing::new(pair.seed().map_err(bad)?);
            write_private(path, &Zeroizing::new(format!("{}\n", *seed)))?;
            Ok(pair.public_key())
        }
        Err(source) => Err(failed("read", path)(source)),
    }
}

/// The port of the last start if it is free, else another one, kept for the next.
fn port(path: &Path) -> Result<u16, Error> {
    let is_free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    if let Some(kept) = fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u16>().ok()) {
        match is_free(kept) {
            Ok(_) => return Ok(kept),
            Err(error) => {
                info!(port = kept, %error, "the port of the last start is taken: choosing another one")
            }
        }
    }
    let mut last = None;
    for _ in 0..PORT_TRIES {
        let port = rand::random_range(PORTS);
        match is_free(port) {
            Ok(_) => {
                write_private(path, &format!("{port}\n"))?;
                return Ok(port);
            }
            Err(source) => last = Some(source),
        }
    }
    let source = last.unwrap_or_else(|| io::Error::from(io::ErrorKind::AddrInUse));
    Err(Error::System { what: "find a free port for nats-server", source })
}

fn utf8(path: &Path) -> Result<&str, Error> {
    path.to_str().ok_or_else(|| Error::NotUtf8(path.to_owned()))
}

/// The nats-server to run: the named one, which must then be good, or the first good one of those that may be there.
pub async fn find(named: Option<&Path>) -> Result<PathBuf, Error> {
    let candidates = match named {
        Some(path) => vec![path.to_owned()],
        None => {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let on_path = std::env::split_paths(&path).map(|folder| folder.join("nats-server"));
            on_path.chain([PathBuf::from(".tools/bin/nats-server")]).filter(|path| path.is_file()).collect()
        }
    };
    let mut tried = Vec::new();
    for candidate in candidates {
        match version(&candidate).await {
            // Absolute, so that a relative path means the same at every restart.
            Ok(version) if version >= MIN_VERSION => {
                return std::path::absolute(&candidate).map_err(failed("find", &candidate));
            }
            Ok(version) => tried.push(format!("{} is version {version}", candidate.display())),
            Err(reason) => tried.push(format!("{}: {reason}", candidate.display())),
        }
    }
    let tried = if tried.is_empty() { String::new() } else { format!(" ({})", tried.join("; ")) };
    Err(Error::NoNatsServer { tried })
}

async fn version(program: &Path) -> Result<Version, String> {
    if !program.is_file() {
        return Err("no such file".to_owned());
    }
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null()).kill_on_drop(true);
    match timeout(VERSION_WITHIN, command.output()).await {
        Ok(Ok(output)) => Version::parse(&String::from_utf8_lossy(&output.stdout))
            .ok_or_else(|| "does not say its version as nats-server does".to_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("did not say its version within {} s", VERSION_WITHIN.as_secs())),
    }
}

/// Returns once nats-server greets at the address. It does so only after it has recovered its streams. There is no
/// end to the waiting, only the caller's; each ten seconds of it are logged.
pub async fn wait_until_answering(address: SocketAddr) {
    let began = Instant::now();
    let mut complaint = COMPLAIN_EVERY;
    while !answers(address).await {
        if began.elapsed() >= complaint {
            warn!(%address, waited_s = began.elapsed().as_secs(), "nats-server does not answer yet");
            complaint += COMPLAIN_EVERY;
        }
        sleep(POLL_EVERY).await;
    }
}

/// Whether a NATS server greets there: the first thing it says is `INFO {…}`.
async fn answers(address: SocketAddr) -> bool {
    let greeting = async {
        let mut first = [0_u8; 5];
        TcpStream::connect(address).await?.read_exact(&mut first).await?;
        io::Result::Ok(first)
    };
    matches!(timeout(ANSWER_WITHIN, greeting).await, Ok(Ok(first)) if &first == b"INFO ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_nats_server_says_them() {
        let parse = |said| Version::parse(said).map(|version| (version.major, version.minor));
        assert_eq!(parse("nats-server: v2.15.1\n"), Some((2, 15)));
        assert_eq!(parse("nats-server: v2.9.10"), Some((2, 9)));
        assert_eq!(parse("nats-server: v3.0.0-RC.1"), Some((3, 0)));
        assert_eq!(parse("nginx version: nginx/1.22.1"), None);
        assert_eq!(parse(""), None);
        assert!(Version { major: 2, minor: 9 } < MIN_VERSION, "versions are numbers, not text");
    }

    #[test]
    fn seeds_and_port_are_kept_and_a_taken_port_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let first = prepare(folder.path()).unwrap();
        let seed = fs::read_to_string(&first.worker_seed).unwrap();
        let text = fs::read_to_string(&first.config).unwrap();

        let second = prepare(folder.path()).unwrap();
        assert_eq!(second.address, first.address);
        assert_eq!(fs::read_to_string(&second.config).unwrap(), text);

        let _taken = TcpListener::bind(first.address).unwrap();
        let third = prepare(folder.path()).unwrap();
        assert_ne!(third.address, first.address);
        assert_eq!(fs::read_to_string(&third.worker_seed).unwrap(), seed);
        assert!(
            !fs::read_to_string(&third.config).unwrap().contains(seed.trim()),
            "no seed in the configuration"
        );
    }

    #[test]
    fn a_damaged_seed_is_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("worker.nk"), "SUnot-a-seed").unwrap();
        let error = prepare(folder.path()).unwrap_err().to_string();
        assert!(error.contains("worker.nk") && error.contains("delete it"), "{error}");
    }

    #[tokio::test]
    async fn a_program_that_is_no_nats_server_is_refused_with_what_to_do() {
        let error = find(Some(Path::new("/bin/echo"))).await.unwrap_err().to_string();
        assert!(error.contains("/bin/echo") && error.contains("make tools"), "{error}");
    }

    #[tokio::test]
    async fn only_a_nats_greeting_counts_as_an_answer() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        assert!(!answers(silent.local_addr().unwrap()).await);
        let greeting = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = greeting.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut client, _) = greeting.accept().await.unwrap();
            tokio::io::AsyncWriteExt::write_all(&mut client, b"INFO {}\r\n").await.unwrap();
        });
        assert!(answers(address).await);
    }
}
