//! Listens, accepts, and stops everything together.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use longwatch_events::time::SystemClock;
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::camera::catalogue::Catalogue;
use crate::camera::clip;
use crate::camera::connection::{Connection, Shared};
use crate::camera::digest::Credentials;
use crate::camera::outbox::Outbox;
use crate::camera::pump::{Join, Pump, Totals};

/// The kernel's send buffer per client, in bytes (it doubles this for itself). Fixed, so that a client that stopped
/// reading is noticed within seconds, as at a real camera, and thousands of clients cost little memory.
const SEND_BUFFER: u32 = 256 * 1024;
/// Connections that may wait to be accepted: all cameras' recorders can come back at once.
const ACCEPT_BACKLOG: u32 = 4096;

/// What to serve.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to listen; port 0 takes a free one.
    pub listen: Vec<SocketAddr>,
    /// Cameras in each family of paths.
    pub count: u32,
    /// Shown by `/cam/N` in turn; none: the built-in clip.
    pub clips: Vec<PathBuf>,
    /// A password that every camera wants.
    pub digest: Option<Credentials>,
    /// A client silent for longer is dropped.
    pub session_timeout: Duration,
    /// Where clients join.
    pub join: Join,
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is not to be had.
    #[error(
        "cannot listen on {address}; stop the program that has the port or choose another with --listen (port 0 \
         takes a free one)"
    )]
    Listen {
        /// Where.
        address: SocketAddr,
        /// The system's word.
        source: io::Error,
    },
    /// A clip is of no use.
    #[error(transparent)]
    Clip(#[from] clip::Error),
}

/// A server that listens, but does not serve before [`Server::run`].
#[derive(Debug)]
pub struct Server {
    listeners: Vec<(SocketAddr, TcpListener)>,
    shared: Arc<Shared>,
}

impl Server {
    /// Loads the clips and binds. The cameras' time starts here. Needs a tokio runtime.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn bind(options: &Options) -> Result<Self, Error> {
        let catalogue = Catalogue::load(options.count, &options.clips, options.digest.clone())?;
        let mut listeners = Vec::new();
        for &address in &options.listen {
            let bound = listen(address).and_then(|listener| Ok((listener.local_addr()?, listener)));
            listeners.push(bound.map_err(|source| Error::Listen { address, source })?);
        }
        let pump = Pump::new(Box::new(SystemClock), options.join);
        let session_timeout = options.session_timeout;
        let shared = Shared { catalogue, pump, session_timeout, kept: Mutex::default() };
        Ok(Self { listeners, shared: Arc::new(shared) })
    }

    /// Where it listens, with the ports it got.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(|(address, _)| *address).collect()
    }

    /// Serves until `stop` is cancelled; then every connection is closed. Returns what was done.
    pub async fn run(self, stop: CancellationToken) -> Totals {
        let tasks = TaskTracker::new();
        for (address, listener) in self.listeners {
            tasks.spawn(accept(address, listener, Arc::clone(&self.shared), tasks.clone(), stop.clone()));
        }
        let shared = Arc::clone(&self.shared);
        let pumping = stop.clone();
        tasks.spawn(async move { pumping.run_until_cancelled(shared.pump.run()).await });
        stop.cancelled().await;
        tasks.close();
        tasks.wait().await;
        self.shared.pump.totals()
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    // Accepted sockets inherit it.
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.bind(address)?;
    socket.listen(ACCEPT_BACKLOG)
}

async fn accept(
    address: SocketAddr,
    listener: TcpListener,
    shared: Arc<Shared>,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    /// After an error of accept, usually too many open files: it will not be better at once.
    const PAUSE: Duration = Duration::from_millis(100);
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%address, %error, "cannot accept");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%address, %error, "client gone at once");
            continue;
        }
        let outbox = Arc::new(Outbox::new(stream, stop.child_token()));
        tasks.spawn(Connection::new(Arc::clone(&shared), outbox).run());
    }
}

#[cfg(test)]
mod tests;
