//! What a worker is told when it starts: flags, `LONGWATCH_…` variables, a TOML file; in this order of precedence.
//!
//! Invariant: nothing that was given is ignored. What is unknown or makes no sense ends the process with exit code 2
//! and says where and what would be right.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, ValueEnum};
use ipnet::IpNet;
use longwatch_events::settings::{Capacity, Labels};
use serde::Deserialize;

use crate::agent::{Bounds, Scrubbing};
use crate::archive::s3;
use crate::media_server;

mod media;
mod object_store;

/// Records cameras: takes its assignments from NATS, writes segments into a local archive, reports facts.
///
/// Every flag can also be given as a variable `LONGWATCH_<FLAG>` (lists comma-separated) or in the file that --config
/// names (same names, with underscores). Flags win over variables, variables over the file.
#[derive(Debug, Default, Parser)]
#[command(name = "longwatch-worker", version, hide_possible_values = false)]
pub struct Arguments {
    /// NATS servers: nats://host:port or tls://host:port, comma-separated or repeated. Required
    #[arg(long, env = "LONGWATCH_NATS", value_name = "URL", value_delimiter = ',', hide_env_values = true)]
    nats: Vec<String>,
    /// This worker's name for itself, 1 to 100 characters; unique in the system. Required
    #[arg(long, env = "LONGWATCH_NAME", value_name = "NAME")]
    name: Option<String>,
    /// Folder for recorded video, repeatable: one for each volume; made if missing; used by one worker only. The first one
    /// also holds what the worker must remember. Or s3://bucket/prefix: an object store, with --spool. Required
    #[arg(long, env = "LONGWATCH_ARCHIVE", value_name = "DIR|S3_URL", value_delimiter = ',')]
    archive: Vec<String>,
    #[command(flatten)]
    object_store: object_store::Arguments,
    #[command(flatten)]
    media: media::Arguments,
    /// File with the key by which this worker joins the system; awaited if it does not exist yet. Required
    #[arg(long, env = "LONGWATCH_JOIN_KEY_FILE", value_name = "FILE")]
    join_key_file: Option<PathBuf>,
    /// File with an nkey seed (SU…) or a .creds file to log in to NATS with [default: none]
    #[arg(long, env = "LONGWATCH_NATS_CREDENTIALS", value_name = "FILE")]
    nats_credentials: Option<PathBuf>,
    /// How many cameras this server may hold; counts when it joins for the first time [default: 300]
    #[arg(long, env = "LONGWATCH_CAPACITY", value_name = "CAMERAS")]
    capacity: Option<u32>,
    /// A label of this server, repeatable; counts when it joins for the first time [default: none]
    #[arg(long, env = "LONGWATCH_LABEL", value_name = "KEY=VALUE", value_delimiter = ',')]
    label: Vec<String>,
    /// A network that cameras may be in, repeatable [default: everywhere except loopback and link-local addresses]
    #[arg(long, env = "LONGWATCH_RTSP_ALLOW", value_name = "CIDR", value_delimiter = ',')]
    rtsp_allow: Vec<String>,
    /// Tell cameras their password in clear text if they want it so (Basic); anybody on the way can read it
    /// [default: false]
    #[arg(long, env = "LONGWATCH_RTSP_ALLOW_BASIC", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    rtsp_allow_basic: Option<bool>,
    /// Certificates (PEM) by which cameras within TLS (rtsps://) are believed beside the authorities that this system knows:
    /// those of authorities, or of cameras themselves, which hold for every camera of this server [default: none]
    #[arg(long, env = "LONGWATCH_RTSPS_CA", value_name = "FILE")]
    rtsps_ca: Option<PathBuf>,
    /// Believe every camera within TLS, whoever signed its certificate: who only listens hears nothing, but who stands in the way
    /// can take the camera's place, and listen [default: false]
    #[arg(long, env = "LONGWATCH_RTSPS_ALLOW_UNVERIFIED", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    rtsps_allow_unverified: Option<bool>,
    /// Length of a segment in milliseconds, 1000 to 3600000; cut at the next keyframe [default: 60000]
    #[arg(long, env = "LONGWATCH_SEGMENT_MS", value_name = "MS")]
    segment_ms: Option<u32>,
    /// How much video a crash may cost, in milliseconds, 200 to 10000: it is made durable so often. Less costs the disk more
    /// flushes [default: 1000]
    #[arg(long, env = "LONGWATCH_DATA_LOSS_MAX_MS", value_name = "MS")]
    data_loss_max_ms: Option<u32>,
    /// Free space that each volume must have, in percent, 0 to 50: below it the oldest video that is not held goes
    /// [default: 5]
    #[arg(long, env = "LONGWATCH_KEEP_FREE_PERCENT", value_name = "PERCENT")]
    keep_free_percent: Option<u8>,
    /// Bytes of one tenant on this server, above which its oldest video goes [default: no bound]
    #[arg(long, env = "LONGWATCH_TENANT_MAX_BYTES", value_name = "BYTES")]
    tenant_max_bytes: Option<u64>,
    /// How often the age and the bytes of recorded video are looked at, in milliseconds, 100 to 3600000; free space is every
    /// two seconds [default: 60000]
    #[arg(long, env = "LONGWATCH_RETENTION_INTERVAL_MS", value_name = "MS")]
    retention_interval_ms: Option<u32>,
    /// How often all recorded video is read again and compared with what was reported, in days, up to 3650; fractions are
    /// allowed; 0: never [default: 30]
    #[arg(long, env = "LONGWATCH_SCRUB_EVERY_DAYS", value_name = "DAYS")]
    scrub_every_days: Option<f64>,
    /// How much of it is read in a second at most, in bytes, at least 1000; a round takes as long as it takes
    /// [default: 20000000]
    #[arg(long, env = "LONGWATCH_SCRUB_MAX_BYTES_PER_SECOND", value_name = "BYTES")]
    scrub_max_bytes_per_second: Option<u64>,
    /// How log lines on stderr look [default: human]
    #[arg(long, env = "LONGWATCH_LOG_FORMAT", value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// Which log lines, as in tracing's EnvFilter [default: info,async_nats=warn,retina=warn]
    #[arg(long, env = "LONGWATCH_LOG_FILTER", value_name = "FILTER")]
    log_filter: Option<String>,
    /// TOML file with any of these settings [default: none]
    #[arg(long, env = "LONGWATCH_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For a person.
    #[default]
    Human,
    /// For a program: one JSON object per line.
    Json,
}

/// The file: every key is optional, none is unknown.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    nats: OneOrMany,
    name: Option<String>,
    #[serde(default)]
    archive: OneOrMany,
    #[serde(default)]
    spool: OneOrMany,
    s3_endpoint: Option<String>,
    s3_region: Option<String>,
    s3_credentials_file: Option<PathBuf>,
    s3_allow_http: Option<bool>,
    s3_concurrency: Option<u16>,
    s3_max_bytes_per_second: Option<u64>,
    s3_retention_interval_ms: Option<u32>,
    spool_max_bytes: Option<u64>,
    media_listen: Option<String>,
    media_url: Option<String>,
    join_key_file: Option<PathBuf>,
    nats_credentials: Option<PathBuf>,
    capacity: Option<u32>,
    #[serde(default)]
    label: OneOrMany,
    #[serde(default)]
    rtsp_allow: OneOrMany,
    rtsp_allow_basic: Option<bool>,
    rtsps_ca: Option<PathBuf>,
    rtsps_allow_unverified: Option<bool>,
    segment_ms: Option<u32>,
    data_loss_max_ms: Option<u32>,
    keep_free_percent: Option<u8>,
    tenant_max_bytes: Option<u64>,
    retention_interval_ms: Option<u32>,
    scrub_every_days: Option<f64>,
    scrub_max_bytes_per_second: Option<u64>,
    log_format: Option<LogFormat>,
    log_filter: Option<String>,
}

/// A list, or the one value of a list.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl Default for OneOrMany {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

/// What a worker is told, checked.
#[derive(Clone, PartialEq, Eq)]
pub struct Config {
    /// NATS servers; at least one.
    pub nats: Vec<String>,
    /// Its name for itself.
    pub name: String,
    /// Where video is recorded to: volumes, at least one. With [`Self::object_store`] these are the spool.
    pub archive: Vec<PathBuf>,
    /// Where it is uploaded to from there; `None`: it stays.
    pub object_store: Option<s3::Settings>,
    /// Where recorded video is given out; `None`: nowhere.
    pub media: Option<media_server::Settings>,
    /// Where the join key is.
    pub join_key_file: PathBuf,
    /// Where NATS credentials are.
    pub nats_credentials: Option<PathBuf>,
    /// How much it may hold.
    pub capacity: Capacity,
    /// Its labels.
    pub labels: Labels,
    /// Where cameras may be; empty: the default policy.
    pub rtsp_allow: Vec<IpNet>,
    /// Whether cameras get their password in clear text if they want it so.
    pub rtsp_allow_basic: bool,
    /// Where more certificates are by which cameras within TLS are believed.
    pub rtsps_ca: Option<PathBuf>,
    /// Whether all of them are believed.
    pub rtsps_allow_unverified: bool,
    /// Length of a segment.
    pub segment_ms: u32,
    /// Length of a fragment, each of which is made durable as it ends.
    pub data_loss_max_ms: u32,
    /// How much there may be of it.
    pub bounds: Bounds,
    /// How much of it is examined.
    pub scrubbing: Scrubbing,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Which log lines.
    pub log_filter: String,
}

/// Something that was given and cannot be right, or was not given and must be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Needed, and given nowhere.
    #[error("{flag} is missing: give it as a flag, as {variable}, or in the file that --config names")]
    Missing {
        /// The flag.
        flag: &'static str,
        /// Its variable.
        variable: &'static str,
    },
    /// Given, and wrong.
    #[error("{flag}: {detail}")]
    Invalid {
        /// The flag.
        flag: &'static str,
        /// What is wrong, and what would be right.
        detail: String,
    },
    /// The file cannot be used.
    #[error("cannot use the configuration file {}: {detail}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        detail: String,
    },
}

impl Config {
    /// What a file with this text says, without any flag or variable.
    ///
    /// # Errors
    ///
    /// Says the first thing that is wrong.
    pub fn from_toml(text: &str) -> Result<Self, Error> {
        let failed = |e: toml::de::Error| Error::File { path: PathBuf::new(), detail: e.to_string() };
        Arguments::default().join(toml::from_str(text).map_err(failed)?)
    }

    /// What the command line, the environment and the file say. Ends the process if they ask for help, or make no
    /// sense (exit code 2).
    pub fn from_command_line() -> Self {
        match Arguments::parse().resolve() {
            Ok(config) => config,
            Err(e) => wrong_usage(e),
        }
    }
}

/// Says what is wrong and how to use the program, and ends the process with exit code 2.
pub fn wrong_usage(error: impl std::fmt::Display) -> ! {
    Arguments::command().error(ErrorKind::ValueValidation, error).exit()
}

impl Arguments {
    /// Joins these with the file they name, and checks everything.
    ///
    /// # Errors
    ///
    /// Says the first thing that is wrong.
    pub fn resolve(self) -> Result<Config, Error> {
        let file = self.config.as_deref().map(File::read).transpose()?.unwrap_or_default();
        self.join(file)
    }

    fn join(self, file: File) -> Result<Config, Error> {
        let nats = file.nats.unless(self.nats);
        if nats.is_empty() {
            return Err(missing("--nats", "LONGWATCH_NATS"));
        }
        let settings = self.object_store.or(object_store::Arguments {
            spool: file.spool.unless(Vec::new()),
            s3_endpoint: file.s3_endpoint,
            s3_region: file.s3_region,
            s3_credentials_file: file.s3_credentials_file,
            s3_allow_http: file.s3_allow_http,
            s3_concurrency: file.s3_concurrency,
            s3_max_bytes_per_second: file.s3_max_bytes_per_second,
            s3_retention_interval_ms: file.s3_retention_interval_ms,
            spool_max_bytes: file.spool_max_bytes,
        });
        let object_store::Archive { folders: archive, object_store, spool } =
            object_store::archive(file.archive.unless(self.archive), settings)?;
        let media =
            self.media.or(media::Arguments { media_listen: file.media_listen, media_url: file.media_url });
        Ok(Config {
            nats,
            name: self.name.or(file.name).ok_or(missing("--name", "LONGWATCH_NAME")).and_then(name)?,
            archive,
            join_key_file: self
                .join_key_file
                .or(file.join_key_file)
                .ok_or(missing("--join-key-file", "LONGWATCH_JOIN_KEY_FILE"))?,
            nats_credentials: self.nats_credentials.or(file.nats_credentials),
            capacity: capacity(self.capacity.or(file.capacity))?,
            labels: labels(file.label.unless(self.label))?,
            rtsp_allow: networks(file.rtsp_allow.unless(self.rtsp_allow))?,
            rtsp_allow_basic: self.rtsp_allow_basic.or(file.rtsp_allow_basic).unwrap_or(false),
            rtsps_ca: self.rtsps_ca.or(file.rtsps_ca),
            rtsps_allow_unverified: self
                .rtsps_allow_unverified
                .or(file.rtsps_allow_unverified)
                .unwrap_or(false),
            segment_ms: segment_ms(self.segment_ms.or(file.segment_ms).unwrap_or(60_000))?,
            data_loss_max_ms: data_loss_max_ms(self.data_loss_max_ms.or(file.data_loss_max_ms))?,
            bounds: Bounds {
                keep_free_percent: keep_free_percent(self.keep_free_percent.or(file.keep_free_percent))?,
                tenant_max_bytes: self.tenant_max_bytes.or(file.tenant_max_bytes),
                spool,
                look_every: retention_interval(self.retention_interval_ms.or(file.retention_interval_ms))?,
            },
            scrubbing: Scrubbing {
                every: scrub_every(self.scrub_every_days.or(file.scrub_every_days))?,
                max_bytes_per_second: scrub_rate(
                    self.scrub_max_bytes_per_second.or(file.scrub_max_bytes_per_second),
                )?,
            },
            object_store,
            media: media.check()?,
            log_format: self.log_format.or(file.log_format).unwrap_or_default(),
            log_filter: self
                .log_filter
                .or(file.log_filter)
                .unwrap_or_else(|| "info,async_nats=warn,retina=warn".to_owned()),
        })
    }
}

impl File {
    fn read(path: &Path) -> Result<Self, Error> {
        let failed = |detail: String| Error::File { path: path.into(), detail };
        let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
        toml::from_str(&text).map_err(|e| failed(e.to_string()))
    }
}

impl OneOrMany {
    /// `given`, or what the file says if nothing was.
    fn unless(self, given: Vec<String>) -> Vec<String> {
        match self {
            _ if !given.is_empty() => given,
            Self::One(one) => one.split(',').map(str::to_owned).collect(),
            Self::Many(many) => many,
        }
    }
}

const fn missing(flag: &'static str, variable: &'static str) -> Error {
    Error::Missing { flag, variable }
}

fn invalid<T>(flag: &'static str, detail: impl Into<String>) -> Result<T, Error> {
    Err(Error::Invalid { flag, detail: detail.into() })
}

fn name(name: String) -> Result<String, Error> {
    let characters = name.chars().count();
    if !(1..=100).contains(&characters) || name.trim() != name || name.chars().any(char::is_control) {
        return invalid(
            "--name",
            "expected 1 to 100 characters, none of them control characters, no spaces around",
        );
    }
    Ok(name)
}

fn folders(flag: &'static str, folders: Vec<String>) -> Result<Vec<PathBuf>, Error> {
    let local = |text: String| {
        if text.is_empty() {
            return invalid(flag, "expected a folder");
        }
        if text.contains("://") {
            return invalid(flag, format!("`{text}`: expected a path to a local folder"));
        }
        Ok(PathBuf::from(text))
    };
    let folders: Vec<_> = folders.into_iter().map(local).collect::<Result<_, _>>()?;
    match folders.iter().enumerate().find(|(at, folder)| folders[..*at].contains(folder)) {
        Some((_, twice)) => invalid(flag, format!("`{}` is given twice", twice.display())),
        None => Ok(folders),
    }
}

fn capacity(cameras: Option<u32>) -> Result<Capacity, Error> {
    match cameras {
        Some(0) => {
            invalid("--capacity", "a server that may hold no camera records nothing; expected at least 1")
        }
        Some(max_cameras) => Ok(Capacity { max_cameras, ..Capacity::default() }),
        None => Ok(Capacity::default()),
    }
}

fn labels(texts: Vec<String>) -> Result<Labels, Error> {
    let mut labels = BTreeMap::new();
    for text in texts {
        let Some((key, value)) = text.split_once('=').filter(|(key, _)| !key.is_empty()) else {
            return invalid("--label", format!("`{text}` is not KEY=VALUE"));
        };
        if labels.insert(key.to_owned(), value.to_owned()).is_some_and(|before| before != value) {
            return invalid("--label", format!("`{key}` is given twice"));
        }
    }
    Ok(labels.into())
}

fn networks(texts: Vec<String>) -> Result<Vec<IpNet>, Error> {
    let network = |text: String| match text.parse() {
        Ok(network) => Ok(network),
        Err(_) => invalid(
            "--rtsp-allow",
            format!("`{text}` is not a network; expected e.g. 10.1.0.0/16 or fd00::/8"),
        ),
    };
    texts.into_iter().map(network).collect()
}

fn segment_ms(ms: u32) -> Result<u32, Error> {
    if (1_000..=3_600_000).contains(&ms) {
        Ok(ms)
    } else {
        invalid("--segment-ms", format!("{ms} is not within 1000 to 3600000"))
    }
}

fn data_loss_max_ms(ms: Option<u32>) -> Result<u32, Error> {
    match ms.unwrap_or(1_000) {
        ms @ 200..=10_000 => Ok(ms),
        ms => invalid("--data-loss-max-ms", format!("{ms} is not within 200 to 10000")),
    }
}

fn keep_free_percent(percent: Option<u8>) -> Result<u8, Error> {
    match percent.unwrap_or(5) {
        percent @ 0..=50 => Ok(percent),
        percent => invalid("--keep-free-percent", format!("{percent} is not within 0 to 50")),
    }
}

fn scrub_every(days: Option<f64>) -> Result<Option<Duration>, Error> {
    let days = days.unwrap_or(30.0);
    if !(0.0..=3_650.0).contains(&days) {
        return invalid("--scrub-every-days", format!("{days}: expected 0 (never) to 3650"));
    }
    Ok((days > 0.0).then(|| Duration::from_secs_f64(days * 86_400.0)))
}

fn scrub_rate(bytes: Option<u64>) -> Result<u64, Error> {
    let bytes = bytes.unwrap_or(20_000_000);
    if bytes < 1_000 {
        let detail = format!("{bytes}: expected at least 1000; to examine nothing, --scrub-every-days 0");
        return invalid("--scrub-max-bytes-per-second", detail);
    }
    Ok(bytes)
}

fn retention_interval(ms: Option<u32>) -> Result<Duration, Error> {
    match ms.unwrap_or(60_000) {
        ms @ 100..=3_600_000 => Ok(Duration::from_millis(ms.into())),
        ms => invalid("--retention-interval-ms", format!("{ms} is not within 100 to 3600000")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEEDED: [&str; 8] =
        ["--nats", "nats://a:4222,nats://b:4222", "--name", "w1", "--archive", "/a", "--join-key-file", "/k"];

    fn parse(arguments: &[&str]) -> Result<Config, String> {
        let all = ["longwatch-worker"].iter().chain(arguments);
        Arguments::try_parse_from(all).map_err(|e| e.to_string())?.resolve().map_err(|e| e.to_string())
    }

    fn with(more: &[&str]) -> Result<Config, String> {
        parse(&[&NEEDED[..], more].concat())
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn what_is_needed_is_enough() {
        let config = with(&[]).unwrap();
        assert_eq!(config.nats, ["nats://a:4222", "nats://b:4222"]);
        assert_eq!(config.archive, [Path::new("/a")]);
        let several = with(&["--archive", "/b", "--archive", "/c"]).unwrap();
        assert_eq!(several.archive, ["/a", "/b", "/c"].map(PathBuf::from));
        assert_eq!((config.segment_ms, config.capacity), (60_000, Capacity::default()));
        assert!(config.rtsp_allow.is_empty() && config.labels.is_empty() && !config.rtsp_allow_basic);
        assert!(with(&["--rtsp-allow-basic"]).unwrap().rtsp_allow_basic);
        let tls = with(&["--rtsps-ca", "/ca.pem", "--rtsps-allow-unverified"]).unwrap();
        assert!(tls.rtsps_allow_unverified && tls.rtsps_ca == Some("/ca.pem".into()));
    }

    #[test]
    fn a_file_alone_is_enough() {
        let text = "nats = ['nats://a:1', 'nats://b:2']\nname = 'w'\narchive = '/a'\njoin_key_file = '/k'\nrtsp_allow_basic = true";
        let config = Config::from_toml(text).unwrap();
        assert!(config.nats.len() == 2 && config.rtsp_allow_basic);
        let wrong = Config::from_toml("name = 5").err().unwrap();
        assert!(wrong.to_string().contains("invalid type"), "{wrong}");
    }

    #[test]
    fn flags_win_over_the_file() {
        let file = file(
            "nats = 'nats://f:1,nats://g:1'\nname = 'from file'\nsegment_ms = 5000\ndata_loss_max_ms = 2000\nlabel = ['zone=north', 'rack=2']\n\
             rtsp_allow = ['10.0.0.0/8']\nscrub_every_days = 0.5\nlog_format = 'json'\ntenant_max_bytes = 9\ncapacity = 7\narchive = ['/f', '/g']\njoin_key_file = '/k'",
        );
        let path = file.path().to_str().unwrap();
        let config = parse(&["--config", path, "--segment-ms", "9000", "--label", "zone=south"]).unwrap();
        assert_eq!(
            (config.name.as_str(), config.segment_ms, config.capacity.max_cameras),
            ("from file", 9_000, 7)
        );
        assert_eq!(config.data_loss_max_ms, 2_000);
        assert_eq!(config.nats, ["nats://f:1", "nats://g:1"]);
        assert_eq!(config.labels, Labels::from([("zone".to_owned(), "south".to_owned())]));
        assert_eq!(config.log_format, LogFormat::Json);
        let look_every = Duration::from_secs(60);
        let every = Some(Duration::from_secs(43_200));
        assert_eq!(config.scrubbing, Scrubbing { every, max_bytes_per_second: 20_000_000 });
        let bounds = Bounds { keep_free_percent: 5, tenant_max_bytes: Some(9), spool: None, look_every };
        assert_eq!(config.bounds, bounds);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let unknown = file("segment_length = 5");
        let cases: [(&[&str], &str); 15] = [
            (&["--archive", "s3://bucket/x"], "--spool is missing"),
            (&["--archive", "/a,/b,/a"], "`/a` is given twice"),
            (&["--name", ""], "--name"),
            (&["--label", "zone"], "`zone` is not KEY=VALUE"),
            (&["--label", "a=1,a=2"], "`a` is given twice"),
            (&["--rtsp-allow", "10.0.0.0/99"], "`10.0.0.0/99` is not a network"),
            (&["--segment-ms", "10"], "10 is not within"),
            (&["--capacity", "0"], "at least 1"),
            (&["--data-loss-max-ms", "100"], "100 is not within 200"),
            (&["--scrub-every-days", "4000"], "4000: expected 0 (never) to 3650"),
            (&["--scrub-max-bytes-per-second", "9"], "at least 1000"),
            (&["--retention-interval-ms", "9"], "9 is not within 100"),
            (&["--keep-free-percent", "51"], "51 is not within 0 to 50"),
            (&["--config", unknown.path().to_str().unwrap()], "unknown field `segment_length`"),
            (&["--config", "/nonexistent.toml"], "/nonexistent.toml"),
        ];
        for (arguments, expected) in cases {
            let flag = arguments[0];
            let rest: Vec<_> = NEEDED.chunks(2).filter(|pair| pair[0] != flag).flatten().copied().collect();
            let error = parse(&[&rest[..], arguments].concat()).err();
            assert!(error.as_ref().is_some_and(|e| e.contains(expected)), "{arguments:?}: {error:?}");
        }
        for n in 0..4 {
            let some: Vec<_> =
                NEEDED.chunks(2).enumerate().filter(|(i, _)| *i != n).flat_map(|(_, p)| p).copied().collect();
            let error = parse(&some).err();
            assert!(
                error.as_ref().is_some_and(|e| e.contains(NEEDED[2 * n]) && e.contains("missing")),
                "{error:?}"
            );
        }
    }

    #[test]
    fn help_says_defaults_and_units() {
        let help = Arguments::command().render_long_help().to_string();
        for expected in ["milliseconds", "[default: 60000]", "LONGWATCH_RTSP_ALLOW", "LONGWATCH_<FLAG>"] {
            assert!(help.contains(expected), "{expected} in {help}");
        }
    }
}
