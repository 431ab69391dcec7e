//! One client's socket, written by its connection (responses) and by the pump (packets).
//!
//! Writing never waits. What the socket does not take stays in a bounded backlog, which is written before anything
//! else, so messages never mix. A client whose backlog is full is too slow: its session is dropped whole, as a
//! camera does. Frames are never dropped one by one, so a client that is still connected has received everything.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

/// Bytes kept for a client besides the kernel's buffer: 4 s at 2 Mbps.
pub const MAX_BACKLOG: usize = 1024 * 1024;

/// A client's socket.
#[derive(Debug)]
pub struct Outbox {
    stream: TcpStream,
    backlog: Mutex<Vec<u8>>,
    closed: CancellationToken,
}

/// Why a client was dropped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It reads slower than the camera sends.
    #[error("the client is too slow: its backlog of {MAX_BACKLOG} bytes is full")]
    TooSlow,
    /// Dropped before.
    #[error("the connection is closed")]
    Closed,
    /// The socket failed: it went away.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Outbox {
    /// Takes over `stream`; `closed` is cancelled when the client must go, and tells that it is gone.
    pub fn new(stream: TcpStream, closed: CancellationToken) -> Self {
        Self { stream, backlog: Mutex::default(), closed }
    }

    /// Sends all of `bytes` or fails for good: after an error the session is over.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn send(&self, bytes: &[u8]) -> Result<(), Error> {
        if self.closed.is_cancelled() {
            return Err(Error::Closed);
        }
        let result = self.send_or_keep(bytes);
        if result.is_err() {
            self.closed.cancel();
        }
        result
    }

    fn send_or_keep(&self, bytes: &[u8]) -> Result<(), Error> {
        let mut backlog = self.backlog();
        self.write_backlog(&mut backlog)?;
        let written = if backlog.is_empty() { self.write(bytes)? } else { 0 };
        let rest = &bytes[written..];
        if backlog.len() + rest.len() > MAX_BACKLOG {
            return Err(Error::TooSlow);
        }
        backlog.extend_from_slice(rest);
        Ok(())
    }

    /// Waits until the socket has taken the backlog. For responses: the pump sees to that by itself.
    ///
    /// # Errors
    /// The socket failed.
    pub async fn flush(&self) -> Result<(), Error> {
        loop {
            {
                let mut backlog = self.backlog();
                self.write_backlog(&mut backlog)?;
                if backlog.is_empty() {
                    return Ok(());
                }
            }
            self.stream.writable().await?;
        }
    }

    /// Waits for bytes from the client and appends them to `buffer`; 0 is the end.
    ///
    /// # Errors
    /// The socket failed.
    pub async fn receive(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        loop {
            self.stream.readable().await?;
            match self.stream.try_read_buf(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
        }
    }

    /// Cancelled when the client is to go or gone.
    pub fn closed(&self) -> &CancellationToken {
        &self.closed
    }

    fn write_backlog(&self, backlog: &mut Vec<u8>) -> io::Result<()> {
        if !backlog.is_empty() {
            let written = self.write(backlog)?;
            backlog.drain(..written);
        }
        Ok(())
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self.stream.try_write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            done => done,
        }
    }

    fn backlog(&self) -> MutexGuard<'_, Vec<u8>> {
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    async fn pair() -> (Outbox, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        (Outbox::new(server, CancellationToken::new()), client)
    }

    #[tokio::test]
    async fn a_slow_client_gets_everything_in_order_until_it_is_dropped() {
        // Given a client that does not read, when we send until it is too slow,
        let (outbox, mut client) = pair().await;
        let mut sent = Vec::new();
        let error = loop {
            let block = vec![u8::try_from(sent.len() / 65_536 % 251).unwrap(); 65_536];
            match outbox.send(&block) {
                Ok(()) => sent.extend_from_slice(&block),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, Error::TooSlow), "{error}");
        assert!(outbox.closed().is_cancelled());
        assert!(matches!(outbox.send(b"more"), Err(Error::Closed)));
        // then what it finds is the beginning of what was sent, without holes.
        drop(outbox);
        let mut got = Vec::new();
        client.read_to_end(&mut got).await.unwrap();
        assert!(sent.starts_with(&got) && sent.len() - got.len() <= MAX_BACKLOG);
    }

    #[tokio::test]
    async fn flush_waits_for_the_client() {
        let (outbox, mut client) = pair().await;
        let mut total = 0;
        while outbox.backlog().is_empty() {
            outbox.send(&[7; 65_536]).unwrap();
            total += 65_536;
        }
        let reader = tokio::spawn(async move {
            let mut got = vec![0; total];
            client.read_exact(&mut got).await.unwrap();
        });
        outbox.flush().await.unwrap();
        reader.await.unwrap();
    }
}
