//! Gives out recorded video over HTTP, to whoever holds an address that control signed ([`longwatch_events::media`]). The
//! only place that speaks HTTP to others.
//!
//! Whoever watches must not be felt by those who record: the server has threads of its own, a bound on how many it serves at
//! once (a share of the file descriptors) and on what is in memory for each, and drops a viewer that stands still. It decides
//! nothing about who may see what: an address says that, and nothing else does.
//!
//! Pure: `ranges`, and [`crate::fmp4::retime`] that puts media on the camera's time line. Shell: `stored` (files and objects),
//! `content` (a part of one, in pieces), `answers` and `refusal` (requests), `patience` (connections).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use longwatch_events::media::MediaKey;
use longwatch_events::time::Clock;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::descriptors;

mod answers;
mod content;
mod patience;
mod ranges;
mod refusal;
mod stored;
#[cfg(test)]
mod tests;

use answers::Answerer;
use patience::Patient;
use stored::Reader;
pub use stored::Stored;

/// Threads that serve viewers.
const THREADS: usize = 2;
/// Threads that read for them: as many wait for a disk at once.
const READERS: usize = 16;
/// What may be on its way to one viewer in this process, beside the piece that is being read.
const BUFFER: usize = 64 << 10;
/// After an accept that failed, as it does when there are no file descriptors.
const AFTER_TROUBLE: Duration = Duration::from_millis(100);

/// What it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where it listens; port 0: a free one.
    pub listen: SocketAddr,
    /// How viewers reach it, without a `/` at the end; `None`: at the address it listens on.
    pub url: Option<String>,
}

/// Why no video can be given out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its address cannot be had.
    #[error(
        "cannot listen on {listen} to give out video: {source}; expected a free address of this machine in --media-listen"
    )]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// There is no room for its threads.
    #[error("cannot start the threads that give out video: {0}")]
    Threads(#[source] io::Error),
}

/// Connections that are served at once, however many file descriptors there are.
const CONNECTIONS: u64 = 512;
/// The part of all file descriptors for which there may be a connection: each takes one, and one more for what is read. So
/// about three quarters are left to those who record.
const DESCRIPTORS_PER_CONNECTION: u64 = 8;
/// Refusals at once, as a part of the connections; and at least.
const REFUSALS: (usize, usize) = (16, 4);

/// What is bounded.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Connections that are served at once.
    connections: usize,
    /// Those beyond, that are told so; still more are closed.
    refusals: usize,
    /// How long a request may take to come, and the next one on the same connection.
    request: Duration,
    /// How long a viewer may take nothing of what is sent.
    standstill: Duration,
    /// How long one read of a file or an object may take.
    read: Duration,
}

impl Limits {
    /// Those of a process that may have so many files open; `None`: any number.
    fn with(descriptors: Option<u64>) -> Self {
        let share = descriptors.map_or(CONNECTIONS, |all| all / DESCRIPTORS_PER_CONNECTION);
        let connections = usize::try_from(share.clamp(1, CONNECTIONS)).unwrap_or(1);
        Self {
            connections,
            refusals: (connections / REFUSALS.0).max(REFUSALS.1),
            request: Duration::from_secs(10),
            standstill: Duration::from_secs(30),
            read: Duration::from_secs(10),
        }
    }
}

/// What it takes to give out video. Cheap to clone.
#[derive(Clone)]
pub struct Means {
    /// The key that addresses are signed with; `None` until control has told it.
    pub key: watch::Receiver<Option<MediaKey>>,
    /// Where the segments are.
    pub stored: Arc<Stored>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
}

/// An address that is held, and where nobody is answered yet.
#[derive(Debug)]
pub struct Listening {
    listener: std::net::TcpListener,
    url: String,
}

/// A server at work; ends when it is dropped.
#[derive(Debug)]
pub struct MediaServer {
    /// `None` only while it is being dropped.
    runtime: Option<Runtime>,
    /// Takes connections.
    accepting: JoinHandle<()>,
}

impl Listening {
    /// Takes the address.
    ///
    /// # Errors
    ///
    /// [`Error::Listen`] if somebody else has it, or it is none of this machine.
    pub fn at(settings: &Settings) -> Result<Self, Error> {
        let failed = |source| Error::Listen { listen: settings.listen, source };
        let listener = std::net::TcpListener::bind(settings.listen).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let url = settings.url.clone().unwrap_or_else(|| format!("http://{address}"));
        Ok(Self { listener, url })
    }

    /// How viewers reach it, without a `/` at the end.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Answers, until what is returned is dropped or `stop` is cancelled.
    ///
    /// # Errors
    ///
    /// [`Error::Threads`].
    pub fn serve(self, means: Means, stop: CancellationToken) -> Result<MediaServer, Error> {
        self.serve_within(Limits::with(descriptors::limit()), means, stop)
    }

    fn serve_within(
        self,
        limits: Limits,
        means: Means,
        stop: CancellationToken,
    ) -> Result<MediaServer, Error> {
        let runtime = Builder::new_multi_thread()
            .enable_all()
            .worker_threads(THREADS)
            .max_blocking_threads(READERS)
            .thread_name("viewers")
            .build()
            .map_err(Error::Threads)?;
        let listener = {
            let _within = runtime.enter();
            TcpListener::from_std(self.listener).map_err(Error::Threads)?
        };
        let Means { key, stored, clock } = means;
        let answerer = Arc::new(Answerer { key, reader: Reader::new(&stored, limits.read), clock });
        let accepting = runtime.spawn(accept(listener, limits, answerer, stop));
        tracing::info!(url = self.url, connections = limits.connections, "recorded video is given out");
        Ok(MediaServer { runtime: Some(runtime), accepting })
    }
}

impl MediaServer {
    /// Waits until nobody is answered any more: it was told to stop, or there was a bug.
    pub async fn ended(&mut self) {
        if let Err(error) = (&mut self.accepting).await {
            tracing::error!(%error, "connections of viewers are taken no more, by a bug");
        }
    }
}

impl Drop for MediaServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A disk that hangs must not keep the process from ending.
            runtime.shutdown_background();
        }
    }
}

/// Takes connections, until `stop` is cancelled.
async fn accept(listener: TcpListener, limits: Limits, answerer: Arc<Answerer>, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let refusals = Arc::new(Semaphore::new(limits.refusals));
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot take a connection of a viewer");
                tokio::time::sleep(AFTER_TROUBLE).await;
                continue;
            }
        };
        let place = Arc::clone(&places).try_acquire_owned().ok();
        let (place, answerer) = match place {
            Some(place) => (place, Some(Arc::clone(&answerer))),
            None => match Arc::clone(&refusals).try_acquire_owned() {
                Ok(place) => (place, None),
                Err(_) => continue,
            },
        };
        let stopped = stop.clone();
        tokio::spawn(async move {
            let _place = place;
            tokio::select! {
                () = stopped.cancelled() => {}
                () = serve(stream, limits, answerer) => {}
            }
        });
    }
}

/// Serves one connection to its end. `answerer`: `None` if there are too many.
async fn serve(stream: TcpStream, limits: Limits, answerer: Option<Arc<Answerer>>) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a viewer's connection may be slow to answer");
    }
    let has_place = answerer.is_some();
    let service = service_fn(move |request: Request<Incoming>| {
        let answerer = answerer.clone();
        async move {
            Ok::<_, std::convert::Infallible>(match &answerer {
                Some(answerer) => answerer.answer(&request).await,
                None => Answerer::full(),
            })
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.request)
        .max_buf_size(BUFFER)
        .keep_alive(has_place)
        .serve_connection(TokioIo::new(Patient::new(stream, limits.standstill)), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a viewer's connection ended");
    }
}
