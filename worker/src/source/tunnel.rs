//! Sockets of this machine that lead to a camera another way than the RTSP library would go: through TLS, or past something that the
//! library would not take.
//!
//! The library opens its TCP connection itself and takes no other. So for each session a socket on this machine's loopback waits for the
//! one connection of the library, and what goes over it goes on to the camera. In the library's requests the camera reads `rtsp://` and
//! that socket's address in place of its own, as it would behind a proxy.
//!
//! Invariant: a socket takes one connection, and ends with the session it is for.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy, copy_bidirectional_with_sizes, split,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::disguise::{self, Step};

/// How long a connection may take to its end once nobody holds its [`Tunnel`]: the RTSP library says goodbye by itself, for 5 s
/// at most.
const LINGER: Duration = Duration::from_secs(6);

/// Bytes that are carried at a time: of what the library asks, and of what the camera sends.
const ASKED: usize = 2 << 10;
const SENT: usize = 32 << 10;

/// What becomes of what the camera says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Passage {
    /// Nothing.
    Open,
    /// Its description of Opus is [disguised](disguise).
    OpusDisguised,
}

/// A socket of this machine that leads to a camera.
#[derive(Debug)]
pub(super) struct Tunnel {
    address: SocketAddr,
    /// Dropped with this, which ends it.
    _held: oneshot::Sender<()>,
}

impl Tunnel {
    /// Opens a way in for one connection. When this is dropped, a connection that goes through it may still say goodbye, and
    /// ends a few seconds later at the latest.
    ///
    /// # Errors
    ///
    /// If the system has no socket left.
    pub(super) async fn into<Camera>(mut camera: Camera, passage: Passage) -> io::Result<Self>
    where
        Camera: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let entrance = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = entrance.local_addr()?;
        let (held, mut dropped) = oneshot::channel();
        tokio::spawn(async move {
            // Whoever comes first is let in. If that was somebody else on this machine, then the camera knows nothing of them, and
            // the session fails for want of its own connection: the entrance stays open, and answers nobody, so that nobody else
            // can listen there in its place.
            let accepted = tokio::select! {
                accepted = entrance.accept() => accepted,
                _ = &mut dropped => return,
            };
            let Ok((mut session, _)) = accepted else { return };
            let carrying = async {
                if passage == Passage::OpusDisguised {
                    until_described(&mut session, &mut camera).await?;
                }
                copy_bidirectional_with_sizes(&mut session, &mut camera, ASKED, SENT).await
            };
            tokio::pin!(carrying);
            let carried = tokio::select! {
                carried = &mut carrying => carried,
                _ = &mut dropped => match timeout(LINGER, carrying).await {
                    Ok(carried) => carried,
                    Err(_) => return,
                },
            };
            if let Err(error) = carried {
                tracing::debug!(%error, "connection through a tunnel ended");
            }
        });
        Ok(Self { address, _held: held })
    }

    /// Where to connect to, once.
    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Carries what is said until the camera has described itself, and disguises that.
async fn until_described<Camera>(session: &mut TcpStream, camera: &mut Camera) -> io::Result<()>
where
    Camera: AsyncRead + AsyncWrite + Unpin,
{
    let (mut hears, mut tells) = split(session);
    let (mut from, mut to) = split(camera);
    let answers = async {
        let mut said = Vec::new();
        loop {
            match disguise::step(&mut said) {
                Step::More => {
                    if from.read_buf(&mut said).await? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Step::Pass(bytes) => {
                    tells.write_all(&said[..bytes]).await?;
                    said.drain(..bytes);
                }
                Step::Done => return tells.write_all(&said).await,
            }
        }
    };
    tokio::select! {
        described = answers => described,
        // The library has nothing more to ask.
        asked = copy(&mut hears, &mut to) => asked.and(Err(io::ErrorKind::UnexpectedEof.into())),
    }
}
