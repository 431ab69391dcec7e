//! Cameras over RTSP/1.0 (RFC 2326), media interleaved in its TCP connection. The only module that names `retina`, with its parts.
//!
//! A thin shell: it connects and chooses streams; [`session`] turns the library's frames and errors into ours, [`metadata`] has the
//! camera's metadata over a connection of its own. Invariants: every wait has a bound; the only address ever connected to is the
//! one the policy allowed; no credential leaves it.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use base64::Engine;
use longwatch_events::assignment::SourceSecret;
use longwatch_events::fact::Cause;
use longwatch_events::time::Clock;
use retina::client::{
    Credentials, Described, InitialTimestampPolicy, PlayOptions, Session as RetinaSession, SessionGroup,
    SessionIdPolicy, SessionOptions, SetupOptions, TeardownPolicy, Transport,
};
use retina::codec::FrameFormat;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use url::{Host, Url};

use super::address::AddressPolicy;
use super::classify::{Redactor, cause, io_cause};
use super::greeting::{self, Answer};
use super::tls::{self, Refusal, Trust};
use super::tunnel::{Passage, Tunnel};
use super::{Failure, Source};

mod metadata;
mod session;
mod streams;

pub use session::RtspSession;
use streams::{choose, has_opus, wants_disguise};

/// Who we say we are.
const USER_AGENT: &str = concat!("Longwatch/", env!("CARGO_PKG_VERSION"));
/// How often a camera may send us elsewhere.
const MAX_REDIRECTS: usize = 3;
/// Why a camera does not get its password.
const NO_BASIC: &str = "the camera wants its password in clear text (Basic), which this server does not tell: let the \
    camera ask by Digest, or start the worker with --rtsp-allow-basic";

/// How long a camera may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// To resolve its name, connect and describe its streams.
    pub connect: Duration,
    /// To set its streams up and play.
    pub play: Duration,
    /// Between two pictures.
    pub frame: Duration,
    /// To acknowledge the end of a session.
    pub teardown: Duration,
    /// Until its metadata is asked for again that could not be had; each time twice as long, up to 20 times this.
    pub metadata: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            play: Duration::from_secs(5),
            frame: Duration::from_secs(10),
            teardown: Duration::from_secs(2),
            metadata: Duration::from_secs(30),
        }
    }
}

/// A camera that can be opened again and again.
pub struct RtspSource(Arc<Camera>);

/// A camera, and what is known of it.
struct Camera {
    url: Result<Url, Failure>,
    secret: SourceSecret,
    policy: AddressPolicy,
    trust: Trust,
    timeouts: Timeouts,
    clock: Arc<dyn Clock>,
    /// It serves one client only: then it is asked for one thing only.
    single_session: watch::Receiver<bool>,
    /// Sessions that the camera may believe to be alive still.
    group: Arc<SessionGroup>,
    redactor: Arc<Redactor>,
    /// It was found to send Opus, and no sound that can be had at less cost.
    opus: AtomicBool,
    /// Its metadata was offered and could not be had.
    without_metadata: AtomicBool,
    /// How often in a row its video failed when its metadata was asked for.
    coincidences: AtomicU32,
}

impl RtspSource {
    /// The camera at `secret`'s address, and whether it serves one client only: then its metadata, which comes over a session of
    /// its own, is left out. An address that cannot be used makes every [`Source::open`] fail.
    pub fn new(
        secret: SourceSecret,
        policy: AddressPolicy,
        trust: Trust,
        timeouts: Timeouts,
        clock: Arc<dyn Clock>,
        single_session: watch::Receiver<bool>,
    ) -> Self {
        let url = parse_url(&secret.url);
        let redactor = Arc::new(redactor(&secret));
        Self(Arc::new(Camera {
            url,
            secret,
            policy,
            trust,
            timeouts,
            clock,
            single_session,
            group: Arc::default(),
            redactor,
            opus: AtomicBool::new(false),
            without_metadata: AtomicBool::new(false),
            coincidences: AtomicU32::new(0),
        }))
    }
}

impl Camera {
    fn failure(&self, error: &retina::Error) -> Failure {
        failure(&self.redactor, error)
    }

    /// Resolves the host of `url` and puts the first allowed address in its place.
    async fn pinned(&self, mut url: Url) -> Result<Place, Failure> {
        let port = url.port().unwrap_or(if is_tls(&url) { tls::PORT } else { 554 });
        let host = url.host_str().unwrap_or_default().to_owned();
        let addresses: Vec<IpAddr> = match literal(&url) {
            Some(address) => vec![address],
            None => tokio::net::lookup_host((host.as_str(), port))
                .await
                .map_err(|e| {
                    let cause = io_cause(e.kind()).unwrap_or(Cause::Unreachable);
                    Failure::new(cause, self.redactor.detail(&format!("cannot resolve {host}: {e}")))
                })?
                .map(|address| address.ip())
                .collect(),
        };
        let Some(first) = addresses.first() else {
            return Err(Failure::new(
                Cause::Unreachable,
                self.redactor.detail(&format!("{host} has no address")),
            ));
        };
        let Some(allowed) = addresses.iter().find(|address| self.policy.allows(**address)) else {
            let detail = format!("this server may not connect to {first}: see --rtsp-allow");
            return Err(Failure::new(Cause::NotAllowed, detail));
        };
        let within_tls = if is_tls(&url) { Some(self.name(&url, host)?) } else { None };
        // Whatever comes now, no name is resolved again.
        url.set_ip_host(*allowed)
            .map_err(|()| Failure::new(Cause::NotAllowed, "the address cannot hold a host"))?;
        Ok(Place { url, address: SocketAddr::new(*allowed, port), within_tls })
    }

    /// The name that a certificate must be for.
    fn name(&self, url: &Url, host: String) -> Result<ServerName<'static>, Failure> {
        match literal(url) {
            Some(address) => Ok(ServerName::from(address)),
            None => ServerName::try_from(host).map_err(|_| {
                Failure::new(
                    Cause::Unreachable,
                    "the host of the address is no name that a certificate can have",
                )
            }),
        }
    }

    /// A way to `place` for one connection.
    async fn way(&self, place: Place, passage: Passage) -> Result<Way, Failure> {
        if place.within_tls.is_none() && passage == Passage::Open {
            return Ok(Way { url: place.url.clone(), address: place.address, tunnel: None, place });
        }
        let tunnel = match place.within_tls.clone() {
            Some(name) => self.within_tls(place.address, name, passage).await?,
            None => {
                let failed = |e: io::Error| {
                    let cause = io_cause(e.kind()).unwrap_or(Cause::Unreachable);
                    Failure::new(cause, self.redactor.detail(&e.to_string()))
                };
                let camera = TcpStream::connect(place.address).await.map_err(failed)?;
                Tunnel::into(camera, passage).await.map_err(failed)?
            }
        };
        let address = tunnel.address();
        let mut url = place.url.clone();
        let changed = url.set_scheme("rtsp").and_then(|()| url.set_ip_host(address.ip()));
        changed
            .and_then(|()| url.set_port(Some(address.port())))
            .map_err(|()| Failure::new(Cause::NotAllowed, "the address cannot hold a host"))?;
        Ok(Way { url, address, tunnel: Some(tunnel), place })
    }

    async fn within_tls(
        &self,
        address: SocketAddr,
        name: ServerName<'static>,
        passage: Passage,
    ) -> Result<Tunnel, Failure> {
        let failed = |refusal: Refusal| {
            let cause = match &refusal {
                Refusal::Distrust(_) => Cause::NotAllowed,
                Refusal::Io(e) => io_cause(e.kind()).unwrap_or(Cause::ProtocolError),
            };
            Failure::new(cause, self.redactor.detail(&format!("TLS: {refusal}")))
        };
        let camera = self.trust.connect(address, name).await.map_err(failed)?;
        Tunnel::into(camera, passage).await.map_err(|e| failed(e.into()))
    }

    /// Whether a password may be told in clear text: by permission, or because the camera at the address that a person gave
    /// has proven who it is. (Where a camera without TLS sends us proves nothing.)
    fn may_tell(&self) -> bool {
        let is_proven = || self.trust.verifies() && self.url.as_ref().is_ok_and(is_tls);
        self.policy.allows_basic() || is_proven()
    }

    fn options(&self, teardown: TeardownPolicy, password: bool) -> SessionOptions {
        let credentials = self.secret.username.as_ref().filter(|_| password).map(|username| Credentials {
            username: username.clone(),
            password: self.secret.password.clone().unwrap_or_default(),
        });
        SessionOptions::default()
            .creds(credentials)
            .user_agent(USER_AGENT.to_owned())
            .session_group(Arc::clone(&self.group))
            .teardown(teardown)
            .session_id(SessionIdPolicy::UseFirst)
    }

    /// Asks where the camera is, and how it wants the password: it may send us elsewhere, but not out of the policy; and a
    /// password is told only to who wants it, and in clear text only by permission.
    async fn find(&self) -> Result<(Place, bool), Failure> {
        let mut url = self.url.clone()?;
        for _ in 0..=MAX_REDIRECTS {
            let asked = url.clone();
            let Way { url: question, address, tunnel: _open, place } =
                self.way(self.pinned(url).await?, Passage::Open).await?;
            let answer = greeting::ask(address, &question, USER_AGENT).await.map_err(|e| {
                let cause = io_cause(e.kind()).unwrap_or(Cause::Unreachable);
                Failure::new(cause, self.redactor.detail(&e.to_string()))
            })?;
            match answer {
                Answer::Elsewhere(to) => {
                    url = parse_url(&to)?;
                    if is_tls(&asked) && is_at(&url, address) {
                        // It knows itself by the address that it reads in our question.
                        url = elsewhere_at(&url, &asked)?;
                    }
                    if is_tls(&asked) && !is_tls(&url) {
                        let detail =
                            "the camera sends us from rtsps:// to rtsp://, where others could listen";
                        return Err(Failure::new(Cause::NotAllowed, detail));
                    }
                }
                Answer::Digest => return Ok((place, true)),
                Answer::Basic if self.may_tell() => return Ok((place, true)),
                Answer::Basic if self.secret.username.is_some() => {
                    return Err(Failure::new(Cause::Unauthorized, NO_BASIC));
                }
                Answer::Basic | Answer::Welcome | Answer::Other => return Ok((place, false)),
            }
        }
        let detail = format!("the camera sends us elsewhere more than {MAX_REDIRECTS} times");
        Err(Failure::new(Cause::ProtocolError, detail))
    }

    /// Describes the camera, wherever it sends us; returns the way there, too, and whether it may have the password.
    async fn describe_anywhere(
        &self,
        passage: Passage,
    ) -> Result<(RetinaSession<Described>, Way, bool), Failure> {
        let has_password = self.secret.username.is_some();
        let url = self.url.clone()?;
        // Only who has a password has it to lose; all others are asked by the library alone, which is one connection less.
        let (place, password) = if has_password && !self.may_tell() {
            self.find().await?
        } else {
            (self.pinned(url).await?, has_password)
        };
        let way = self.way(place, passage).await?;
        match RetinaSession::describe(way.url.clone(), self.options(TeardownPolicy::Auto, password)).await {
            Ok(described) => Ok((described, way, password)),
            Err(e) if matches!(e.status_code(), Some(300..=399)) => {
                let (place, password) = self.find().await?;
                let way = self.way(place, passage).await?;
                let options = self.options(TeardownPolicy::Auto, password);
                let described = RetinaSession::describe(way.url.clone(), options).await;
                described.map(|described| (described, way, password)).map_err(|e| self.failure(&e))
            }
            Err(e) => Err(self.failure(&e)),
        }
    }

    async fn describe_through(
        &self,
        passage: Passage,
    ) -> Result<(RetinaSession<Described>, Option<Tunnel>), Failure> {
        let (described, way, password) = self.describe_anywhere(passage).await?;
        // To servers with a certain bug the library says goodbye over a new connection, to an address that the server
        // itself tells. That address was checked by nobody, so unless it is plainly the same one, there is no goodbye. A way
        // through a tunnel is for one connection.
        if described.tool().is_some_and(retina::client::Tool::has_live555_tcp_bug)
            && (way.tunnel.is_some() || !stays_at(&described, &way.url))
        {
            drop(described);
            let way = self.way(way.place, passage).await?;
            let options = self.options(TeardownPolicy::Never, password);
            let described = RetinaSession::describe(way.url, options).await.map_err(|e| self.failure(&e))?;
            return Ok((described, way.tunnel));
        }
        Ok((described, way.tunnel))
    }

    /// Describes the camera, and again in disguise if only so its sound can be had.
    async fn describe(&self) -> Result<(RetinaSession<Described>, Option<Tunnel>), Failure> {
        let passage = if self.opus.load(Ordering::Relaxed) { Passage::OpusDisguised } else { Passage::Open };
        let (described, tunnel) = self.describe_through(passage).await?;
        if passage == Passage::Open && wants_disguise(described.streams()) {
            self.opus.store(true, Ordering::Relaxed);
            drop((described, tunnel));
            return self.describe_through(Passage::OpusDisguised).await;
        }
        // Once it sends none any more, its next session goes the direct way again.
        self.opus.store(has_opus(described.streams()), Ordering::Relaxed);
        Ok((described, tunnel))
    }

    async fn play(
        self: &Arc<Self>,
        mut session: RetinaSession<Described>,
        tunnel: Option<Tunnel>,
    ) -> Result<RtspSession, Failure> {
        let mut streams = choose(session.streams())?;
        session.setup(streams.video, setup()).await.map_err(|e| self.failure(&e))?;
        if let Some(index) = streams.audio
            && let Err(e) = session.setup(index, setup()).await
        {
            // A status is an answer, and the connection is well; anything else is the end of it.
            if e.status_code().is_none() {
                return Err(self.failure(&e));
            }
            tracing::info!(detail = self.redactor.detail(&e.to_string()), "camera refused its audio stream");
            streams.audio = None;
        }
        let playing = session.play(play_options()).await.map_err(|e| self.failure(&e))?;
        let demuxed = playing
            .demuxed()
            .map_err(|e| Failure::new(Cause::UnsupportedCodec, self.redactor.detail(&e.to_string())))?;
        Ok(RtspSession::new(Arc::clone(self), demuxed, &streams, tunnel))
    }
}

fn setup() -> SetupOptions {
    SetupOptions::default().transport(Transport::Tcp(Default::default())).frame_format(FrameFormat::MP4)
}

fn play_options() -> PlayOptions {
    PlayOptions::default().initial_timestamp(InitialTimestampPolicy::Permissive)
}

/// Where a camera is: its address in place of its name.
struct Place {
    url: Url,
    address: SocketAddr,
    /// Set if it is within TLS: the name that its certificate must be for.
    within_tls: Option<ServerName<'static>>,
}

/// Where to connect to, to get to a camera.
struct Way {
    place: Place,
    /// What is asked for there.
    url: Url,
    address: SocketAddr,
    /// Set if it is for one connection.
    tunnel: Option<Tunnel>,
}

impl Source for RtspSource {
    type Session = RtspSession;

    async fn open(&self) -> Result<RtspSession, Failure> {
        let camera = &self.0;
        let stale = camera.group.stale_sessions();
        if stale.num_sessions > 0 {
            // A camera of few sessions refuses a new one while it keeps the old; bounded, for it may just as well not.
            let _ = timeout(camera.timeouts.teardown, camera.group.await_stale_sessions(&stale)).await;
        }
        let (described, tunnel) =
            within(camera.timeouts.connect, "answer to a connection and DESCRIBE", camera.describe()).await?;
        within(camera.timeouts.play, "answer to SETUP and PLAY", camera.play(described, tunnel)).await
    }
}

async fn within<T>(
    limit: Duration,
    what: &str,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    timeout(limit, work).await.unwrap_or_else(|_| {
        Err(Failure::new(Cause::Timeout, format!("no {what} within {} ms", limit.as_millis())))
    })
}

fn failure(redactor: &Redactor, error: &retina::Error) -> Failure {
    let text = error.to_string();
    Failure::new(cause(error.status_code(), &text), redactor.detail(&text))
}

/// A camera's address, without the credentials in it.
///
/// # Errors
///
/// If it is none that this version can record from; the detail repeats nothing of it.
pub fn parse_url(text: &str) -> Result<Url, Failure> {
    // The text itself may hold a credential, so no detail repeats it.
    let mut url = Url::parse(text)
        .map_err(|e| Failure::new(Cause::Unreachable, format!("the address is no URL: {e}")))?;
    if url.scheme() != "rtsp" && !is_tls(&url) {
        return Err(Failure::new(Cause::NotAllowed, "only rtsp:// and rtsps:// addresses can be recorded"));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(Failure::new(Cause::Unreachable, "the address has no host"));
    }
    let cleared = url.set_username("").and_then(|()| url.set_password(None));
    cleared.map_err(|()| {
        Failure::new(Cause::NotAllowed, "the address cannot be used without its credentials")
    })?;
    Ok(url)
}

/// Whether a camera is to be reached within TLS.
fn is_tls(url: &Url) -> bool {
    url.scheme() == "rtsps"
}

/// Whether `url` names this address and port.
fn is_at(url: &Url, address: SocketAddr) -> bool {
    literal(url) == Some(address.ip()) && url.port() == Some(address.port())
}

/// What `url` asks for, where `place` is.
fn elsewhere_at(url: &Url, place: &Url) -> Result<Url, Failure> {
    let mut there = place.clone();
    there.set_path(url.path());
    there.set_query(url.query());
    parse_url(there.as_str())
}

/// The address a URL names without any name to resolve. `rtsp` is no scheme the URL standard knows, so it takes
/// `10.0.0.7` for a name.
fn literal(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        Host::Ipv4(address) => Some(address.into()),
        Host::Ipv6(address) => Some(address.into()),
        Host::Domain(name) => name.parse().ok(),
    }
}

/// Everything by which a text could give this camera's credentials away.
fn redactor(secret: &SourceSecret) -> Redactor {
    let username = secret.username.clone().unwrap_or_default();
    let password = secret.password.clone().unwrap_or_default();
    let pair = format!("{username}:{password}");
    let mut secrets = vec![base64::engine::general_purpose::STANDARD.encode(&pair), pair, password];
    if let Ok(url) = Url::parse(&secret.url) {
        secrets.extend(url.password().map(ToOwned::to_owned));
        if !url.username().is_empty() {
            secrets.push(url.username().to_owned());
        }
    }
    secrets.retain(|secret| secret != ":");
    Redactor::new(secrets)
}

/// Whether everything the server described lies at `url`'s own host and port.
fn stays_at(session: &RetinaSession<Described>, url: &Url) -> bool {
    let absolute = session.sdp().windows(3).any(|window| window == b"://");
    let same = |control: &Url| literal(control) == literal(url) && control.port() == url.port();
    !absolute && session.streams().iter().all(|stream| stream.control().is_some_and(same))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rtsp_addresses_are_taken() {
        assert_eq!(parse_url("http://10.0.0.7/").unwrap_err().cause, Cause::NotAllowed);
        assert_eq!(parse_url("rtsp:///stream").unwrap_err().cause, Cause::Unreachable);
        assert_eq!(parse_url("not a url").unwrap_err().cause, Cause::Unreachable);
        assert_eq!(parse_url("rtsp://u:p@10.0.0.7:8554/s").unwrap().as_str(), "rtsp://10.0.0.7:8554/s");
        assert!(is_tls(&parse_url("rtsps://10.0.0.7/").unwrap()));
    }

    #[test]
    fn an_address_in_digits_is_no_name() {
        for (url, address) in [("rtsp://10.0.0.7/", "10.0.0.7"), ("rtsp://[::1]:554/", "::1")] {
            assert_eq!(literal(&Url::parse(url).unwrap()), Some(address.parse().unwrap()));
        }
        assert_eq!(literal(&Url::parse("rtsp://camera.example/").unwrap()), None);
    }

    #[test]
    fn nothing_of_the_credentials_is_repeated() {
        let secret = SourceSecret {
            url: "rtsp://urluser:urlpass@10.0.0.7/".into(),
            username: Some("operator".into()),
            password: Some("hunter2".into()),
        };
        let redactor = redactor(&secret);
        let detail =
            redactor.detail("said urluser urlpass operator:hunter2 hunter2 b3BlcmF0b3I6aHVudGVyMg==");
        for secret in ["urluser", "urlpass", "hunter2", "b3Bl"] {
            assert!(!detail.contains(secret), "{detail}");
        }
    }
}
