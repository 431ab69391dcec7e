//! The worker's door to NATS; the only module of this crate that names `async-nats`.
//!
//! What a worker needs to be allowed: to publish `lw.heartbeat.<server>`, `lw.recording.<server>`, `lw.join`,
//! `lw.archive.<server>` and `$JS.API.DIRECT.GET.ASSIGNMENTS.>`, and to subscribe `lw.assigned.<server>.*`, `lw.trigger.<server>`, whose
//! requests it must be allowed to answer (`allow_responses`), and its inbox. Nothing here asks for
//! a stream's or an account's state.
//!
//! Invariant: a connection that is away is no error. It is made again for as long as the process lives; meanwhile
//! requests answer [`Error::Unavailable`] within [`REQUEST_TIMEOUT`].

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::client::Request;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::stream::DirectGetErrorKind;
use async_nats::{
    Client, ConnectOptions, Event, HeaderMap, Message, RequestErrorKind, ServerAddr, Subject, jetstream,
};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use longwatch_events::archive::{ArchiveReply, ArchiveRequest};
use longwatch_events::id::{EventId, ServerId};
use longwatch_events::join::{JoinReply, JoinRequest};
use longwatch_events::subject::{self, LogStream};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::retry::{self, Retry};

/// No answer within this is no answer.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// A heartbeat that is acknowledged later proves little; and so many may be on their way at once.
pub const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(2);
/// A connection whose other end vanished is noticed after three of these.
const PING_INTERVAL: Duration = Duration::from_secs(3);
/// Between two attempts to connect, after the first and at most. Well below the time after which a silent server is
/// taken for lost: when NATS was away and is back, nobody must come back much later than the others.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(1));
/// Reading the credentials takes no longer.
const CREDENTIALS_LIMIT: Duration = Duration::from_secs(10);
/// One attempt takes no longer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Why something did not reach NATS, or did not come back.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A NATS address that is none.
    #[error("`{address}` is not a NATS address: expected nats://host:port or tls://host:port")]
    Address {
        /// What was given, without credentials.
        address: String,
    },
    /// The credentials file is of no use.
    #[error("cannot use the NATS credentials in {}: {detail}", .path.display())]
    Credentials {
        /// The file.
        path: PathBuf,
        /// What is wrong with it; quotes nothing of it.
        detail: String,
    },
    /// Nobody answers; asking again later may help.
    #[error("{0}")]
    Unavailable(String),
    /// The answer is no, and would be again.
    #[error("{0}")]
    Refused(String),
}

/// Whether there is a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Link {
    /// Right now.
    pub up: bool,
    /// How often one was made.
    pub connects: u64,
}

/// What a server is told about its desired set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// A part of it.
    Part(Bytes),
    /// That it seems to have missed some of it.
    Look,
}

/// What somebody asks this worker.
#[derive(Debug)]
pub struct Asked {
    /// What.
    pub payload: Bytes,
    /// Where the answer is to go.
    reply_to: Option<Subject>,
}

/// A connection to NATS; cheap to clone.
#[derive(Debug, Clone)]
pub struct Bus {
    client: Client,
    jetstream: jetstream::Context,
    link: watch::Receiver<Link>,
}

impl Bus {
    /// Begins to connect to one of `servers` and returns at once; whether it works shows in [`Self::link`].
    ///
    /// `credentials` names a file with an nkey seed (`SU…`) or a `.creds` file (a user's JWT and seed).
    ///
    /// # Errors
    ///
    /// [`Error::Address`] or [`Error::Credentials`]: things that no waiting mends.
    pub async fn connect(servers: &[String], credentials: Option<&Path>, name: &str) -> Result<Self, Error> {
        let mut addresses = Vec::with_capacity(servers.len());
        for server in servers {
            let address = server.parse::<ServerAddr>();
            addresses.push(address.map_err(|_| Error::Address { address: without_credentials(server) })?);
        }
        let (link, link_out) = watch::channel(Link::default());
        let observer = Arc::new(Observer {
            link,
            news: Mutex::new(Retry::new(RECONNECT.0, RECONNECT.1)),
            since: Instant::now(),
        });
        let client = options_within(CREDENTIALS_LIMIT, credentials)
            .await?
            .name(format!("longwatch-worker {name}"))
            .retry_on_initial_connect()
            .max_reconnects(None)
            .connection_timeout(CONNECT_TIMEOUT)
            .ping_interval(PING_INTERVAL)
            .request_timeout(Some(REQUEST_TIMEOUT))
            .reconnect_delay_callback(|attempt| {
                let failures = u32::try_from(attempt).unwrap_or(u32::MAX).saturating_sub(1);
                retry::delay(RECONNECT.0, RECONNECT.1, failures, rand::random())
            })
            .event_callback(move |event| {
                observer.observe(&event);
                std::future::ready(())
            })
            .connect(addresses)
            .await
            .map_err(|e| Error::Unavailable(e.to_string()))?;
        let mut jetstream = jetstream::new(client.clone());
        jetstream.set_timeout(REQUEST_TIMEOUT);
        Ok(Self { client, jetstream, link: link_out })
    }

    /// Whether there is a connection, and how often one was made.
    pub fn link(&self) -> watch::Receiver<Link> {
        self.link.clone()
    }

    /// Waits until there is a connection.
    pub async fn up(&self) {
        let mut link = self.link();
        if link.wait_for(|link| link.up).await.is_err() {
            // The client ended, which it does only with the process.
            std::future::pending::<()>().await;
        }
    }

    fn is_up(&self) -> bool {
        self.link.borrow().up
    }

    /// Asks to be let in.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] if no control answers, [`Error::Refused`] if what it answers makes no sense.
    pub async fn join(&self, request: &JoinRequest) -> Result<JoinReply, Error> {
        let payload = serde_json::to_vec(request).expect("invariant: strings always become JSON");
        self.ask(subject::JOIN.to_owned(), payload).await
    }

    /// Asks what `server` is known to have.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] if no control answers, [`Error::Refused`] if what it answers makes no sense.
    pub async fn archive(&self, server: ServerId, request: &ArchiveRequest) -> Result<ArchiveReply, Error> {
        let payload = serde_json::to_vec(request).expect("invariant: ids and numbers always become JSON");
        self.ask(subject::archive(server), payload).await
    }

    /// Asks control.
    async fn ask<T: DeserializeOwned>(&self, subject: String, payload: Vec<u8>) -> Result<T, Error> {
        let request = Request::new().payload(payload.into()).timeout(Some(REQUEST_TIMEOUT));
        let reply = self.bounded(self.client.send_request(subject, request)).await?;
        let reply = reply.map_err(|e| match e.kind() {
            RequestErrorKind::NoResponders => Error::Unavailable("no control is listening".into()),
            RequestErrorKind::TimedOut
            | RequestErrorKind::InvalidSubject
            | RequestErrorKind::MaxPayloadExceeded
            | RequestErrorKind::Other => Error::Unavailable(e.to_string()),
        })?;
        serde_json::from_slice(&reply.payload)
            .map_err(|e| Error::Refused(format!("control's answer makes no sense: {e}")))
    }

    /// Appends a batch of facts to the log; returns once it is stored there.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] if there is no acknowledgement: sending again under the same `id` is safe.
    /// [`Error::Refused`] if the log does not take it.
    pub async fn report(&self, server: ServerId, id: EventId, payload: Bytes) -> Result<(), Error> {
        let mut headers = HeaderMap::new();
        headers.insert(async_nats::header::NATS_MESSAGE_ID, id.to_string());
        let subject = subject::recording(server);
        let sent = async {
            let acknowledged = self.jetstream.publish_with_headers(subject, headers, payload).await?;
            acknowledged.await
        };
        match self.bounded(sent).await? {
            Ok(_) => Ok(()),
            Err(e) => Err(match e.kind() {
                PublishErrorKind::StreamNotFound => {
                    Error::Refused(format!("no log stream takes {}", LogStream::Recordings.subjects()))
                }
                PublishErrorKind::TimedOut
                | PublishErrorKind::BrokenPipe
                | PublishErrorKind::MaxAckPending => Error::Unavailable(e.to_string()),
                PublishErrorKind::WrongLastMessageId
                | PublishErrorKind::WrongLastSequence
                | PublishErrorKind::MaxPayloadExceeded
                | PublishErrorKind::Other => Error::Refused(e.to_string()),
            }),
        }
    }

    /// Gives a sign of life; returns once it is stored in the log. Without a connection it is dropped: a late one proves
    /// nothing. It is never sent again, so it needs no id by which the log would recognise it.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] if it is not acknowledged within [`HEARTBEAT_TIMEOUT`].
    pub async fn heartbeat(&self, server: ServerId, payload: Bytes) -> Result<(), Error> {
        let sent = async { self.jetstream.publish(subject::heartbeat(server), payload).await?.await };
        match tokio::time::timeout(HEARTBEAT_TIMEOUT, self.bounded(sent)).await {
            Ok(Ok(Ok(_))) => Ok(()),
            Ok(Ok(Err(error))) => Err(Error::Unavailable(error.to_string())),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(Error::Unavailable("no acknowledgement in time".into())),
        }
    }

    /// What `server` is told about its desired set from now on, across reconnects; what is told while there is no
    /// connection is missing: see [`Self::last_assignment`].
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] if the client has ended.
    pub async fn assignments(&self, server: ServerId) -> Result<BoxStream<'static, Told>, Error> {
        let subscribed = self.client.subscribe(subject::assigned(server)).await;
        let messages = subscribed.map_err(|e| Error::Unavailable(e.to_string()))?;
        let look = subject::look(server);
        let told = move |message: Message| {
            if message.subject.as_str() == look { Told::Look } else { Told::Part(message.payload) }
        };
        Ok(messages.map(told).boxed())
    }

    /// The newest `part` of `server`'s desired set; `None` if there was never one.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] if the log does not answer, [`Error::Refused`] if it does not hold such things.
    pub async fn last_assignment(&self, server: ServerId, part: u32) -> Result<Option<Bytes>, Error> {
        let get = async {
            let name = LogStream::Assignments.name();
            let stream =
                self.jetstream.get_stream_no_info(name).await.map_err(|e| Error::Refused(e.to_string()))?;
            match stream.direct_get_last_for_subject(subject::assignment(server, part)).await {
                Ok(message) => Ok(Some(message.payload)),
                Err(e) => match e.kind() {
                    DirectGetErrorKind::NotFound => Ok(None),
                    DirectGetErrorKind::Request | DirectGetErrorKind::TimedOut => {
                        Err(Error::Unavailable(format!("{name} does not answer: {e}")))
                    }
                    DirectGetErrorKind::InvalidSubject
                    | DirectGetErrorKind::ErrorResponse(..)
                    | DirectGetErrorKind::Other => Err(Error::Refused(e.to_string())),
                },
            }
        };
        self.bounded(get).await?
    }

    /// What `server` is asked to take of events at its cameras from now on, across reconnects.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] if the client has ended.
    pub async fn triggers(&self, server: ServerId) -> Result<BoxStream<'static, Asked>, Error> {
        let subscribed = self.client.subscribe(subject::trigger(server)).await;
        let messages = subscribed.map_err(|e| Error::Unavailable(e.to_string()))?;
        let asked = |message: Message| Asked { payload: message.payload, reply_to: message.reply };
        Ok(messages.map(asked).boxed())
    }

    /// Answers. Who asked and does not hear it asks again.
    pub async fn answer(&self, asked: Asked, reply: &impl Serialize) {
        let Some(to) = asked.reply_to else { return };
        let payload = serde_json::to_vec(reply).expect("invariant: words and texts always become JSON");
        if let Err(error) = self.client.publish(to, payload.into()).await {
            tracing::warn!(%error, "an answer is lost; whoever asked asks again");
        }
    }

    /// Requests made without a connection would wait in the client and be sent when nobody wants the answer any more.
    async fn bounded<T>(&self, request: impl Future<Output = T>) -> Result<T, Error> {
        if !self.is_up() {
            return Err(Error::Unavailable("there is no connection to NATS".into()));
        }
        tokio::time::timeout(REQUEST_TIMEOUT, request)
            .await
            .map_err(|_| Error::Unavailable(format!("no answer within {} s", REQUEST_TIMEOUT.as_secs())))
    }
}

/// Follows the connection, and says what happens to it.
struct Observer {
    link: watch::Sender<Link>,
    news: Mutex<Retry>,
    since: Instant,
}

impl Observer {
    fn observe(&self, event: &Event) {
        match event {
            Event::Connected => {
                self.news.lock().unwrap_or_else(PoisonError::into_inner).worked();
                self.link.send_modify(|link| {
                    link.up = true;
                    link.connects += 1;
                });
                tracing::info!("connected to nats");
            }
            Event::Disconnected | Event::Closed => {
                self.link.send_modify(|link| link.up = false);
                tracing::warn!("connection to nats lost; recording goes on");
            }
            Event::LameDuckMode | Event::Draining => tracing::info!(%event, "nats connection"),
            // An error goes on for as long as its reason does: said once a minute.
            Event::SlowConsumer(_) | Event::ServerError(_) | Event::ClientError(_) => {
                let text = event.to_string();
                let mut news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
                if news.is_news(&text, self.since.elapsed()) {
                    tracing::warn!(error = text, "nats connection; recording goes on");
                } else {
                    tracing::debug!(error = text, "nats connection");
                }
            }
        }
    }
}

/// Reads the credentials where it may block.
async fn options_within(limit: Duration, credentials: Option<&Path>) -> Result<ConnectOptions, Error> {
    let Some(path) = credentials.map(PathBuf::from) else { return options(None) };
    let failed = |path: &Path, detail: String| Error::Credentials { path: path.into(), detail };
    let reading = path.clone();
    let read = tokio::task::spawn_blocking(move || options(Some(&reading)));
    match tokio::time::timeout(limit, read).await {
        Ok(read) => read.map_err(|e| failed(&path, e.to_string()))?,
        Err(_) => Err(failed(&path, format!("the disk did not answer within {limit:?}"))),
    }
}

fn options(credentials: Option<&Path>) -> Result<ConnectOptions, Error> {
    let Some(path) = credentials else { return Ok(ConnectOptions::new()) };
    let failed = |detail: String| Error::Credentials { path: path.into(), detail };
    let text = std::fs::read_to_string(path).map(Zeroizing::new).map_err(|e| failed(e.to_string()))?;
    let seed = text.trim();
    if seed.starts_with("SU") {
        // A seed is 58 characters of base32 (NATS ADR-14); only NATS itself can tell whether it is the right one.
        let looks_right =
            seed.len() == 58 && seed.bytes().all(|b| b.is_ascii_uppercase() || (b'2'..=b'7').contains(&b));
        return if looks_right {
            Ok(ConnectOptions::with_nkey(seed.to_owned()))
        } else {
            Err(failed(
                "it begins like an nkey seed (SU…) but is none: expected 58 characters of base32".into(),
            ))
        };
    }
    ConnectOptions::with_credentials(&text)
        .map_err(|_| failed("it holds neither an nkey seed (SU…) nor a user's JWT and seed".into()))
}

/// A NATS address as it may be shown: without what stands before an `@`.
fn without_credentials(address: &str) -> String {
    match (address.split_once("://"), address.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://…@{host}"),
        (None, Some((_, host))) => format!("…@{host}"),
        (_, None) => address.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_address_shows_no_credentials() {
        assert_eq!(without_credentials("nats://user:p@ss@host:99999"), "nats://…@host:99999");
        assert_eq!(without_credentials("user:pass@host"), "…@host");
        assert_eq!(without_credentials("http://host"), "http://host");
    }

    #[test]
    fn credentials_are_recognised_or_refused_without_being_quoted() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let with = |text: &str| {
            std::fs::write(file.path(), text).unwrap();
            options(Some(file.path())).map(drop).map_err(|e| e.to_string())
        };
        // An nkey that stands in the documentation of NATS; nobody uses it.
        assert_eq!(with("\nSUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY\n"), Ok(()));
        for text in ["SUSHORT", "", "no credentials at all"] {
            let error = with(text).unwrap_err();
            assert!(text.is_empty() || !error.contains(text), "{error}");
        }
        assert!(options(Some(Path::new("/nonexistent"))).is_err());
        assert!(options(None).is_ok());
    }

    #[tokio::test]
    async fn without_nats_nothing_blocks() {
        let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let bus = Bus::connect(&[format!("nats://{unused}")], None, "test").await.unwrap();
        let server = ServerId::from_uuid(longwatch_events::id::TenantId::DEFAULT.as_uuid());
        assert!(matches!(bus.last_assignment(server, 1).await, Err(Error::Unavailable(_))));
        assert!(matches!(bus.heartbeat(server, Bytes::new()).await, Err(Error::Unavailable(_))));
        assert_eq!(*bus.link().borrow(), Link::default());
    }

    #[tokio::test]
    async fn credentials_that_never_come_are_not_waited_for() {
        // A pipe that nobody writes to is opened for as long as a disk that hangs.
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("creds");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let error = options_within(Duration::from_millis(50), Some(&pipe)).await.map(drop).unwrap_err();
        assert!(error.to_string().contains("did not answer"), "{error}");
        // Lets the reader end.
        drop(std::fs::File::options().write(true).open(&pipe).unwrap());
    }

    #[tokio::test]
    async fn an_address_that_is_none_is_refused() {
        let error =
            Bus::connect(&["nats://user:secret@".into()], None, "test").await.unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
    }
}
