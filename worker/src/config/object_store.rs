//! What a worker is told of an object store: its archive is there, and its folders are the spool.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{Error, folders, invalid, missing};
use crate::archive::s3::Settings;
use crate::retention::Spool;

/// How an archive in an object store is told of.
const SCHEME: &str = "s3://";
/// Segments uploaded at once: enough that waiting for answers does not leave a fast line idle, and few enough that what is
/// in memory for them is little ([`crate::archive::s3::PART`] each).
const CONCURRENCY: u16 = 4;
/// Slower than that nothing arrives in time.
const SLOWEST: u64 = 64 << 10;
/// Video is kept for days: an hour more costs next to nothing, and asking more often costs requests.
const RETENTION_EVERY: Duration = Duration::from_secs(3_600);

/// Flags for it.
#[derive(Debug, Default, Args)]
#[group(skip)]
pub(super) struct Arguments {
    /// Folder in which video waits to be uploaded, repeatable as --archive is without an object store. Required with
    /// --archive s3://…
    #[arg(long, env = "LONGWATCH_SPOOL", value_name = "DIR", value_delimiter = ',')]
    pub(super) spool: Vec<String>,
    /// Where the object store is, if it is not Amazon's: https://host:port [default: Amazon's of --s3-region]
    #[arg(long, env = "LONGWATCH_S3_ENDPOINT", value_name = "URL")]
    pub(super) s3_endpoint: Option<String>,
    /// Region of the bucket [default: AWS_REGION, or us-east-1]
    #[arg(long, env = "LONGWATCH_S3_REGION", value_name = "REGION")]
    pub(super) s3_region: Option<String>,
    /// TOML file with access_key_id, secret_access_key and, if there is one, session_token; read again when it changes
    /// [default: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the role of the machine]
    #[arg(long, env = "LONGWATCH_S3_CREDENTIALS_FILE", value_name = "FILE")]
    pub(super) s3_credentials_file: Option<PathBuf>,
    /// Reach the object store without TLS if its endpoint says http://; anybody on the way can see the video
    /// [default: false]
    #[arg(long, env = "LONGWATCH_S3_ALLOW_HTTP", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub(super) s3_allow_http: Option<bool>,
    /// How many segments are uploaded at once, 1 to 64; each takes up to 32 MiB of memory [default: 4]
    #[arg(long, env = "LONGWATCH_S3_CONCURRENCY", value_name = "SEGMENTS")]
    pub(super) s3_concurrency: Option<u16>,
    /// How much may be uploaded, in bytes per second, at least 65536; twice what the cameras send is needed to catch up after
    /// an outage as fast as it lasted [default: no bound]
    #[arg(long, env = "LONGWATCH_S3_MAX_BYTES_PER_SECOND", value_name = "BYTES")]
    pub(super) s3_max_bytes_per_second: Option<u64>,
    /// How often it is looked at what is not to be kept in the object store any longer, in milliseconds, 100 to 86400000; 0:
    /// never, others see to that [default: 3600000]
    #[arg(long, env = "LONGWATCH_S3_RETENTION_INTERVAL_MS", value_name = "MS")]
    pub(super) s3_retention_interval_ms: Option<u32>,
    /// Bytes that may wait to be uploaded; above it the oldest video that is not held goes, as it does below
    /// --keep-free-percent [default: no bound]
    #[arg(long, env = "LONGWATCH_SPOOL_MAX_BYTES", value_name = "BYTES")]
    pub(super) spool_max_bytes: Option<u64>,
}

/// Where video goes.
pub(super) struct Archive {
    pub(super) folders: Vec<PathBuf>,
    pub(super) object_store: Option<Settings>,
    pub(super) spool: Option<Spool>,
}

impl Arguments {
    /// These, and where they say nothing what `others` say.
    pub(super) fn or(self, others: Self) -> Self {
        Self {
            spool: if self.spool.is_empty() { others.spool } else { self.spool },
            s3_endpoint: self.s3_endpoint.or(others.s3_endpoint),
            s3_region: self.s3_region.or(others.s3_region),
            s3_credentials_file: self.s3_credentials_file.or(others.s3_credentials_file),
            s3_allow_http: self.s3_allow_http.or(others.s3_allow_http),
            s3_concurrency: self.s3_concurrency.or(others.s3_concurrency),
            s3_max_bytes_per_second: self.s3_max_bytes_per_second.or(others.s3_max_bytes_per_second),
            s3_retention_interval_ms: self.s3_retention_interval_ms.or(others.s3_retention_interval_ms),
            spool_max_bytes: self.spool_max_bytes.or(others.spool_max_bytes),
        }
    }

    /// The first flag that is given.
    fn given(&self) -> Option<&'static str> {
        let flags = [
            ("--spool", !self.spool.is_empty()),
            ("--s3-endpoint", self.s3_endpoint.is_some()),
            ("--s3-region", self.s3_region.is_some()),
            ("--s3-credentials-file", self.s3_credentials_file.is_some()),
            ("--s3-allow-http", self.s3_allow_http.is_some()),
            ("--s3-concurrency", self.s3_concurrency.is_some()),
            ("--s3-max-bytes-per-second", self.s3_max_bytes_per_second.is_some()),
            ("--s3-retention-interval-ms", self.s3_retention_interval_ms.is_some()),
            ("--spool-max-bytes", self.spool_max_bytes.is_some()),
        ];
        flags.into_iter().find(|(_, is_given)| *is_given).map(|(flag, _)| flag)
    }
}

/// What `--archive` and these flags mean together.
pub(super) fn archive(archive: Vec<String>, arguments: Arguments) -> Result<Archive, Error> {
    if archive.is_empty() {
        return Err(missing("--archive", "LONGWATCH_ARCHIVE"));
    }
    let Some(url) = archive.iter().find(|place| place.starts_with(SCHEME)) else {
        if let Some(flag) = arguments.given() {
            return invalid(
                flag,
                "it is for an archive in an object store: expected --archive s3://bucket/prefix",
            );
        }
        return Ok(Archive { folders: folders("--archive", archive)?, object_store: None, spool: None });
    };
    if archive.len() > 1 {
        let detail =
            format!("`{url}` is a whole archive: expected nothing beside it; folders are given as --spool");
        return invalid("--archive", detail);
    }
    let (bucket, prefix) = place(url)?;
    if arguments.spool.is_empty() {
        return Err(missing("--spool", "LONGWATCH_SPOOL"));
    }
    let settings = Settings {
        bucket,
        prefix,
        endpoint: arguments.s3_endpoint.clone().map(|url| endpoint(url, &arguments)).transpose()?,
        region: arguments.s3_region.clone(),
        credentials_file: arguments.s3_credentials_file.clone(),
        allow_http: arguments.s3_allow_http.unwrap_or(false),
        concurrency: concurrency(arguments.s3_concurrency)?,
        max_bytes_per_second: arguments.s3_max_bytes_per_second.map(bytes_per_second).transpose()?,
        retention_every: retention_every(arguments.s3_retention_interval_ms)?,
    };
    let spool = Spool { max_bytes: arguments.spool_max_bytes };
    Ok(Archive {
        folders: folders("--spool", arguments.spool)?,
        object_store: Some(settings),
        spool: Some(spool),
    })
}

/// Bucket and prefix.
fn place(url: &str) -> Result<(String, String), Error> {
    let rest = url.strip_prefix(SCHEME).unwrap_or(url);
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let is_plain = |text: &str| {
        text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
            && !matches!(text, "." | "..")
    };
    let prefix = prefix.trim_end_matches('/');
    let folders = || prefix.split('/');
    if bucket.is_empty() || !is_plain(bucket) {
        return invalid("--archive", format!("`{url}` names no bucket: expected s3://bucket/prefix"));
    }
    if !prefix.is_empty() && folders().any(|folder| folder.is_empty() || !is_plain(folder)) {
        let detail =
            format!("`{url}`: expected a prefix of letters, digits, `-`, `_`, `.`, and single `/` between");
        return invalid("--archive", detail);
    }
    Ok((bucket.to_owned(), prefix.to_owned()))
}

fn endpoint(text: String, arguments: &Arguments) -> Result<String, Error> {
    const FLAG: &str = "--s3-endpoint";
    let Ok(url) = url::Url::parse(&text) else {
        return invalid(FLAG, format!("`{text}` is no URL: expected e.g. https://s3.example.com:9000"));
    };
    if !url.username().is_empty() || url.password().is_some() {
        return invalid(FLAG, "expected no user and no password in it: those stand in --s3-credentials-file");
    }
    match url.scheme() {
        "https" => Ok(text),
        "http" if arguments.s3_allow_http == Some(true) => Ok(text),
        "http" => invalid(FLAG, format!("`{text}` goes without TLS: expected https://, or --s3-allow-http")),
        scheme => invalid(FLAG, format!("`{scheme}` is no scheme of an object store: expected https")),
    }
}

fn concurrency(segments: Option<u16>) -> Result<usize, Error> {
    match segments.unwrap_or(CONCURRENCY) {
        segments @ 1..=64 => Ok(segments.into()),
        segments => invalid("--s3-concurrency", format!("{segments} is not within 1 to 64")),
    }
}

fn bytes_per_second(bytes: u64) -> Result<u64, Error> {
    if bytes >= SLOWEST {
        return Ok(bytes);
    }
    invalid("--s3-max-bytes-per-second", format!("{bytes} is less than {SLOWEST}"))
}

fn retention_every(ms: Option<u32>) -> Result<Option<Duration>, Error> {
    match ms {
        None => Ok(Some(RETENTION_EVERY)),
        Some(0) => Ok(None),
        Some(ms @ 100..=86_400_000) => Ok(Some(Duration::from_millis(ms.into()))),
        Some(ms) => {
            invalid("--s3-retention-interval-ms", format!("{ms} is neither 0 nor within 100 to 86400000"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(place: &str) -> Result<Archive, String> {
        let arguments = Arguments { spool: vec!["/spool".to_owned()], ..Arguments::default() };
        archive(vec![place.to_owned()], arguments).map_err(|e| e.to_string())
    }

    #[test]
    fn an_object_store_and_a_spool_are_enough() {
        let Archive { folders, object_store, .. } = told("s3://video/site-1/north/").unwrap();
        let settings = object_store.unwrap();
        assert_eq!(folders, [PathBuf::from("/spool")]);
        assert_eq!((settings.bucket.as_str(), settings.prefix.as_str()), ("video", "site-1/north"));
        assert_eq!((settings.concurrency, settings.allow_http), (4, false));
        assert_eq!(settings.retention_every, Some(Duration::from_secs(3_600)));
        assert_eq!(told("s3://video").unwrap().object_store.unwrap().prefix, "");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (place, expected) in [
            ("s3://", "names no bucket"),
            ("s3:///x", "names no bucket"),
            ("s3://a b/x", "names no bucket"),
            ("s3://video//x", "single `/`"),
            ("s3://video/../x", "single `/`"),
            ("s3://video/x?y", "single `/`"),
            ("/local", "expected --archive s3://"),
            ("gs://video", "expected --archive s3://"),
        ] {
            let error = told(place).err().unwrap();
            assert!(error.contains(expected), "{place}: {error}");
        }
        let with = |change: fn(&mut Arguments)| {
            let mut arguments = Arguments { spool: vec!["/spool".to_owned()], ..Arguments::default() };
            change(&mut arguments);
            archive(vec!["s3://video".to_owned()], arguments).err().unwrap().to_string()
        };
        for (error, expected) in [
            (with(|a| a.spool.clear()), "--spool is missing"),
            (with(|a| a.spool = vec!["s3://video".to_owned()]), "expected a path"),
            (with(|a| a.s3_endpoint = Some("http://a".to_owned())), "--s3-allow-http"),
            (with(|a| a.s3_endpoint = Some("ftp://a".to_owned())), "no scheme"),
            (with(|a| a.s3_endpoint = Some("a".to_owned())), "no URL"),
            (with(|a| a.s3_endpoint = Some("https://u:p@a".to_owned())), "no password"),
            (with(|a| a.s3_concurrency = Some(0)), "not within 1 to 64"),
            (with(|a| a.s3_max_bytes_per_second = Some(1)), "less than 65536"),
            (with(|a| a.s3_retention_interval_ms = Some(99)), "neither 0 nor within"),
        ] {
            assert!(error.contains(expected), "{error}");
        }
        let beside =
            archive(vec!["s3://video".to_owned(), "/a".to_owned()], Arguments::default()).err().unwrap();
        assert!(beside.to_string().contains("nothing beside"), "{beside}");
    }
}
