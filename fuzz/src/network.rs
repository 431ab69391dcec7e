//! What cameras, their clients and operators say, and names that become paths.

use longwatch_loadtest::camera::digest::{Credentials, Scheme};
use longwatch_loadtest::camera::message::{self, Channels, Inbound};
use longwatch_worker::archive::layout::SegmentName;
use longwatch_worker::config::Config;
use longwatch_worker::source::disguise::{self, Step};
use longwatch_worker::source::greeting;
use longwatch_worker::source::rtsp::parse_url;

/// A camera's first answer, alone and before a description.
pub(crate) fn camera_greeting(data: &[u8]) {
    greeting::read(&String::from_utf8_lossy(data));
    let mut said = data.to_vec();
    let step = disguise::step(&mut said);
    assert_eq!(said.len(), data.len(), "what is said becomes longer or shorter");
    if let Step::Pass(bytes) = step {
        assert!((1..=said.len()).contains(&bytes), "{bytes} of {} bytes", said.len());
        assert!(said == data, "what describes nothing changes");
    }
}

/// A camera's address, as a tenant or a redirect gives it: what is used holds no credentials and has a host.
pub(crate) fn camera_address(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(url) = parse_url(text) else { return };
    assert!(url.username().is_empty() && url.password().is_none(), "credentials are left in {url}");
    let is_rtsp = matches!(url.scheme(), "rtsp" | "rtsps");
    assert!(is_rtsp && url.host_str().is_some_and(|host| !host.is_empty()), "{url}");
}

/// A worker's configuration file: what is taken is within its bounds.
pub(crate) fn worker_config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(config) = Config::from_toml(text) else { return };
    assert!(!config.nats.is_empty() && config.capacity.max_cameras > 0);
    assert!((1_000..=3_600_000).contains(&config.segment_ms), "{} ms", config.segment_ms);
    assert!((1..=100).contains(&config.name.chars().count()), "{:?}", config.name);
}

/// What a client of a simulated camera sends.
pub(crate) fn rtsp_request(data: &[u8]) {
    let mut rest = data;
    while let Ok(Some((inbound, length))) = message::parse(rest) {
        assert!(length > 0 && length <= rest.len(), "a message of {length} of {} bytes", rest.len());
        rest = &rest[length..];
        let Inbound::Request(request) = inbound else { continue };
        let _ = request.path_and_track();
        let _ = request.header("transport").map(|it| message::interleaved(it, Channels { rtp: 0, rtcp: 1 }));
        let answer = request.header("authorization").unwrap_or_default();
        for scheme in [Scheme::Md5, Scheme::Sha256, Scheme::Basic] {
            let nobody = Credentials::new("nobody", "\u{0}knows");
            assert!(!scheme.verify(&nobody, "nonce", &request.method, &request.uri, answer));
        }
    }
}

/// The name of a file in the archive: one that is read is written as it was.
pub(crate) fn segment_name(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Some(name) = SegmentName::parse(text) else { return };
    let key = name.key();
    assert_eq!(text.strip_suffix(".part").unwrap_or(text), key);
    assert!(!key.contains("..") && !key.starts_with('/'), "{key} leaves the archive");
}
