//! Cameras that answer every attempt to open them with a failure, each time another one, and count the attempts: so
//! every attempt makes exactly one fact.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Many cameras behind one address, by path: `rtsp://ADDRESS/NAME`.
#[derive(Clone)]
pub(crate) struct FailingCameras {
    pub(crate) address: SocketAddr,
    attempts: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl FailingCameras {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let cameras = Self { address: listener.local_addr().unwrap(), attempts: Arc::default() };
        let serving = cameras.clone();
        tokio::spawn(async move {
            loop {
                let (connection, _) = listener.accept().await.unwrap();
                tokio::spawn(serving.clone().answer(connection));
            }
        });
        cameras
    }

    pub(crate) fn url(&self, name: &str) -> String {
        format!("rtsp://{}/{name}", self.address)
    }

    /// How often camera `name` was asked for its streams.
    pub(crate) fn attempts(&self, name: &str) -> usize {
        self.attempts.lock().unwrap().get(name).copied().unwrap_or(0)
    }

    /// 404 for odd attempts, a closed connection for even ones.
    async fn answer(self, mut connection: TcpStream) {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            match connection.read_buf(&mut request).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
        let text = String::from_utf8_lossy(&request);
        let name = text.split_whitespace().nth(1).and_then(|url| url.rsplit('/').next()).unwrap().to_owned();
        let sequence = text.lines().find_map(|line| line.strip_prefix("CSeq: ")).unwrap().to_owned();
        let attempt = {
            let mut attempts = self.attempts.lock().unwrap();
            let attempt = attempts.entry(name).or_default();
            *attempt += 1;
            *attempt
        };
        if attempt % 2 == 1 {
            let answer = format!("RTSP/1.0 404 Not Found\r\nCSeq: {sequence}\r\n\r\n");
            let _ = connection.write_all(answer.as_bytes()).await;
        }
    }
}
