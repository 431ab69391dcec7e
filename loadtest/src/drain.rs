//! The cheapest possible client of many cameras: plays them all, and throws the bytes away or writes them to a file
//! each, as they came.
//!
//! Not a recorder, but the floor beneath all of them: whoever records reads and writes as much. One thread with plain
//! sockets: it sleeps a tick, then reads what the kernel has gathered for each, so that its own wake-ups do not blur the
//! figure. Nothing is parsed and nothing synced.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use tokio::time::Instant;

const TICK: Duration = Duration::from_millis(200);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// What was read.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// Cameras played.
    pub cameras: u32,
    /// Of them, those whose connection ended before the time was over.
    pub ended_early: u32,
    /// How long they were all played, in milliseconds.
    pub millis: u64,
    /// Bytes from all cameras in that time.
    pub bytes: u64,
    /// CPU of this process in that time, in microseconds.
    pub cpu_us: u64,
    /// Of the camera that sent least, in bits per second.
    pub least_bps: u64,
    /// Of the camera that sent most, in bits per second.
    pub most_bps: u64,
}

struct Client {
    stream: TcpStream,
    url: String,
    session: String,
    cseq: u32,
    bytes: u64,
    ended: bool,
    /// Where the bytes go.
    file: Option<File>,
}

/// Plays `base/1` to `base/count` for `time`, after all have started. Writes what comes to files in `folder`, if one is
/// given.
///
/// # Errors
/// A camera that cannot be played, or a file that cannot be made.
pub fn drain(base: &str, count: u32, time: Duration, folder: Option<&Path>) -> anyhow::Result<Summary> {
    let mut clients = Vec::new();
    let mut buffer = vec![0; 1 << 20];
    for number in 1..=count {
        let url = format!("{}/{number}", base.trim_end_matches('/'));
        let mut client = Client::play(url.clone()).with_context(|| format!("cannot play {url}"))?;
        let file = folder.map(|folder| File::create(folder.join(number.to_string())));
        client.file = file.transpose().context("cannot make a file")?;
        clients.push(client);
        if number % 50 == 0 {
            // Those that play already must not fall behind while the others start.
            clients.iter_mut().for_each(|client| client.read(&mut buffer));
        }
    }
    clients.iter_mut().for_each(|client| {
        client.read(&mut buffer);
        client.bytes = 0;
    });
    let (started, cpu_before_us) = (Instant::now(), cpu_us());
    let mut keepalive_at = started + KEEPALIVE_INTERVAL;
    while started.elapsed() < time {
        std::thread::sleep(TICK);
        clients.iter_mut().for_each(|client| client.read(&mut buffer));
        if Instant::now() >= keepalive_at {
            keepalive_at += KEEPALIVE_INTERVAL;
            clients.iter_mut().for_each(Client::keep_alive);
        }
    }
    let (elapsed, cpu_us) = (started.elapsed(), cpu_us().saturating_sub(cpu_before_us));
    let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
    let rate = |client: &Client| client.bytes * 8 * 1000 / millis;
    Ok(Summary {
        cameras: count,
        ended_early: u32::try_from(clients.iter().filter(|client| client.ended).count())?,
        millis,
        bytes: clients.iter().map(|client| client.bytes).sum(),
        cpu_us,
        least_bps: clients.iter().map(rate).min().unwrap_or(0),
        most_bps: clients.iter().map(rate).max().unwrap_or(0),
    })
}

/// CPU of this process so far.
fn cpu_us() -> u64 {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    u64::try_from(used.tv_sec * 1_000_000 + used.tv_nsec / 1_000).unwrap_or(0)
}

impl Client {
    fn play(url: String) -> anyhow::Result<Self> {
        let host = url.strip_prefix("rtsp://").and_then(|rest| rest.split('/').next());
        let host = host.filter(|host| !host.is_empty()).context("expected rtsp://HOST:PORT/PATH")?;
        let stream = TcpStream::connect(host)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        let mut client =
            Self { stream, url, session: String::new(), cseq: 0, bytes: 0, ended: false, file: None };
        let sdp = client.ask("DESCRIBE", "", "Accept: application/sdp\r\n")?;
        let tracks = sdp.matches("a=control:trackID=").count();
        for track in 0..tracks {
            let transport =
                format!("Transport: RTP/AVP/TCP;unicast;interleaved={}-{}\r\n", 2 * track, 2 * track + 1);
            let answer = client.ask("SETUP", &format!("/trackID={track}"), &transport)?;
            let session = answer.lines().find_map(|line| line.strip_prefix("Session: "));
            let id = session.and_then(|session| session.split(';').next()).context("no session in answer")?;
            client.session = format!("Session: {id}\r\n");
        }
        client.ask("PLAY", "", "")?;
        client.stream.set_nonblocking(true)?;
        Ok(client)
    }

    fn request(&mut self, method: &str, track: &str, headers: &str) -> io::Result<()> {
        self.cseq += 1;
        let (url, cseq, session) = (&self.url, self.cseq, &self.session);
        let text = format!("{method} {url}{track} RTSP/1.0\r\nCSeq: {cseq}\r\n{session}{headers}\r\n");
        self.stream.write_all(text.as_bytes())
    }

    /// Sends a request and returns head and body of its answer. Only before packets flow.
    fn ask(&mut self, method: &str, track: &str, headers: &str) -> anyhow::Result<String> {
        self.request(method, track, headers)?;
        let mut answer = Vec::new();
        let mut byte = [0];
        // Byte by byte, so that nothing behind the answer is taken; it is a few hundred bytes, once.
        while !answer.ends_with(b"\r\n\r\n") {
            self.stream.read_exact(&mut byte).context("the camera did not answer")?;
            answer.push(byte[0]);
        }
        let mut answer = String::from_utf8(answer).context("the answer is not text")?;
        if !answer.starts_with("RTSP/1.0 200 ") {
            bail!("{method} was answered with: {}", answer.lines().next().unwrap_or_default());
        }
        let length = answer.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        let mut body = vec![0; length.map_or(Ok(0), str::parse)?];
        self.stream.read_exact(&mut body)?;
        answer.push_str(&String::from_utf8_lossy(&body));
        Ok(answer)
    }

    /// Reads all there is, and writes it.
    fn read(&mut self, buffer: &mut [u8]) {
        while !self.ended {
            match self.stream.read(buffer) {
                Ok(0) => self.ended = true,
                Ok(length) => {
                    self.bytes += length as u64;
                    let written = self.file.as_mut().map(|file| file.write_all(&buffer[..length]));
                    // A client that stores nothing must not look cheap.
                    self.ended = matches!(written, Some(Err(_)));
                    if length < buffer.len() {
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.ended = true,
            }
        }
    }

    fn keep_alive(&mut self) {
        // A few hundred bytes every 20 s always fit the socket's buffer; if not, the camera is gone.
        if self.request("GET_PARAMETER", "", "").is_err() {
            self.ended = true;
        }
    }
}
