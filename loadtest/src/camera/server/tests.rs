//! The server against a plain client on a real socket, and against what a worker reads cameras with.

use std::time::Duration;

use longwatch_events::assignment::SourceSecret;
use longwatch_worker::frame::Beside;
use longwatch_worker::source::address::AddressPolicy;
use longwatch_worker::source::rtsp::{RtspSource, Timeouts};
use longwatch_worker::source::tls::Trust;
use longwatch_worker::source::{Received, Session as _, Source as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::*;
use crate::nal::Standard;
use crate::sei::{self, FrameNumber};

/// Longer than anything here may take.
const DEADLINE: Duration = Duration::from_secs(20);

struct Running {
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<Totals>,
}

fn start(session_timeout: Duration, join: Join) -> Running {
    let options = Options {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        count: 2,
        clips: Vec::new(),
        digest: None,
        session_timeout,
        join,
    };
    let server = Server::bind(&options).unwrap();
    let (address, stop) = (server.addresses()[0], CancellationToken::new());
    Running { address, task: tokio::spawn(server.run(stop.clone())), stop }
}

fn start_usual() -> Running {
    start(Duration::from_secs(60), Join::NextFrame)
}

struct Client {
    stream: TcpStream,
    base: String,
    session: Option<String>,
}

impl Client {
    async fn connect(server: &Running, path: &str) -> Self {
        let stream = TcpStream::connect(server.address).await.unwrap();
        Self { stream, base: format!("rtsp://{}{path}", server.address), session: None }
    }

    async fn send(&mut self, method: &str, track: &str, headers: &str) {
        let session = self.session.as_ref().map_or(String::new(), |id| format!("Session: {id}\r\n"));
        let text = format!("{method} {}{track} RTSP/1.0\r\nCSeq: 7\r\n{session}{headers}\r\n", self.base);
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// Sends and gives the whole answer, packets before it skipped.
    async fn ask(&mut self, method: &str, track: &str, headers: &str) -> String {
        self.send(method, track, headers).await;
        loop {
            let first = self.byte().await;
            if first == b'$' {
                self.packet_after_dollar().await;
                continue;
            }
            let mut head = vec![first];
            while !head.ends_with(b"\r\n\r\n") {
                head.push(self.byte().await);
            }
            let mut answer = String::from_utf8(head).unwrap();
            assert!(answer.contains("CSeq: 7\r\n"), "{answer}");
            let length = answer.lines().find_map(|line| line.strip_prefix("Content-Length: "));
            let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
            self.read(&mut body).await;
            answer.push_str(&String::from_utf8(body).unwrap());
            return answer;
        }
    }

    async fn play(&mut self) -> String {
        let answer =
            self.ask("SETUP", "/trackID=0", "Transport: RTP/AVP/TCP;unicast;interleaved=4-5\r\n").await;
        assert!(answer.starts_with("RTSP/1.0 200") && answer.contains("interleaved=4-5"), "{answer}");
        let session = answer.lines().find_map(|line| line.strip_prefix("Session: ")).unwrap();
        self.session = Some(session.split(';').next().unwrap().to_owned());
        self.ask("PLAY", "", "").await
    }

    async fn read(&mut self, bytes: &mut [u8]) {
        let read = tokio::time::timeout(DEADLINE, self.stream.read_exact(bytes)).await;
        read.expect("nothing came in time").expect("the camera closed");
    }

    async fn byte(&mut self) -> u8 {
        let mut byte = [0];
        self.read(&mut byte).await;
        byte[0]
    }

    async fn packet_after_dollar(&mut self) -> (u8, Vec<u8>) {
        let mut framing = [0; 3];
        self.read(&mut framing).await;
        let mut packet = vec![0; usize::from(u16::from_be_bytes([framing[1], framing[2]]))];
        self.read(&mut packet).await;
        (framing[0], packet)
    }

    /// The next packet on the RTP channel: its sequence number and its payload.
    async fn rtp(&mut self) -> (u16, Vec<u8>) {
        loop {
            assert_eq!(self.byte().await, b'$');
            let (channel, packet) = self.packet_after_dollar().await;
            if channel == 4 {
                return (u16::from_be_bytes([packet[2], packet[3]]), packet[12..].to_vec());
            }
        }
    }

    /// The numbers of the next `count` frames; packets must be numbered on.
    async fn frames(&mut self, count: usize) -> Vec<FrameNumber> {
        let mut numbers = Vec::new();
        let mut expected = None;
        while numbers.len() < count {
            let (sequence, payload) = self.rtp().await;
            assert_eq!(sequence, expected.unwrap_or(sequence));
            expected = Some(sequence.wrapping_add(1));
            numbers.extend(sei::decode(Standard::H264, &payload));
        }
        numbers
    }

    /// Whether the server closes within the deadline; what it sends before is thrown away.
    async fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        tokio::time::timeout(DEADLINE, self.stream.read_to_end(&mut rest)).await.is_ok()
    }
}

fn are_consecutive(numbers: &[FrameNumber]) -> bool {
    numbers.windows(2).all(|pair| pair[1].frame == pair[0].frame + 1 && pair[1].camera == pair[0].camera)
}

#[tokio::test]
async fn every_client_sees_the_same_camera_and_one_that_returns_finds_it_running() {
    // Given two clients of one camera,
    let server = start_usual();
    let mut one = Client::connect(&server, "/small/1").await;
    let mut two = Client::connect(&server, "/small/1").await;
    one.play().await;
    two.play().await;
    let (first, second) = (one.frames(10).await, two.frames(10).await);
    // then both see consecutive frames, and the same ones,
    assert!(are_consecutive(&first) && are_consecutive(&second));
    assert!(second[0].frame >= first[0].frame && second[0].frame <= first[9].frame + 25);
    // and a client that comes back finds that the camera went on.
    assert!(one.ask("TEARDOWN", "", "").await.starts_with("RTSP/1.0 200"));
    drop(one);
    let seen = two.frames(25).await;
    let mut again = Client::connect(&server, "/small/1").await;
    again.play().await;
    let resumed = again.frames(1).await[0].frame;
    assert!(resumed > first[9].frame && resumed + 25 > seen[24].frame, "{resumed} {seen:?}");
    server.stop.cancel();
    let totals = server.task.await.unwrap();
    assert_eq!((totals.plays, totals.too_slow), (3, 0));
    assert!(again.is_closed().await);
}

#[tokio::test]
async fn play_names_the_first_packet_and_it_is_a_keyframe() {
    let server = start(Duration::from_secs(60), Join::Keyframe);
    let mut client = Client::connect(&server, "/small/2").await;
    let answer = client.play().await;
    let (_, info) = answer.split_once("trackID=0;seq=").expect(&answer);
    let sequence: u16 = info.split(';').next().unwrap().parse().unwrap();
    let (first, payload) = client.rtp().await;
    assert_eq!(first, sequence);
    assert_eq!(Standard::H264.nal_type(&payload), Some(7), "a keyframe starts with its SPS");
    server.stop.cancel();
}

#[tokio::test]
async fn the_right_password_opens_and_others_do_not() {
    let server = start_usual();
    let mut client = Client::connect(&server, "/auth/1").await;
    let answer = client.ask("DESCRIBE", "", "").await;
    assert!(answer.starts_with("RTSP/1.0 401"), "{answer}");
    let nonce = answer.split("nonce=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap().to_owned();
    // Computed here by the book; the server's own computation is checked against RFC 2617's example.
    let md5 = |text: String| {
        use md5::Digest as _;
        hex::encode(md5::Md5::digest(text))
    };
    let uri = client.base.clone();
    let authorization = |password: &str| {
        let realm = "longwatch simulated camera";
        let (one, two) = (md5(format!("user:{realm}:{password}")), md5(format!("DESCRIBE:{uri}")));
        let response = md5(format!("{one}:{nonce}:{two}"));
        format!(
            "Authorization: Digest username=\"user\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{uri}\", response=\"{response}\"\r\n"
        )
    };
    assert!(client.ask("DESCRIBE", "", &authorization("pas")).await.starts_with("RTSP/1.0 401"));
    let answer = client.ask("DESCRIBE", "", &authorization("pass")).await;
    assert!(answer.starts_with("RTSP/1.0 200") && answer.contains("m=video"), "{answer}");
    server.stop.cancel();
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused() {
    let server = start_usual();
    let mut client = Client::connect(&server, "/cam/3").await;
    assert!(client.ask("OPTIONS", "", "").await.contains("Public: OPTIONS, DESCRIBE"));
    assert!(client.ask("DESCRIBE", "", "").await.starts_with("RTSP/1.0 404"));
    client.base = client.base.replace("/cam/3", "/cam/1");
    let udp = "Transport: RTP/AVP;unicast;client_port=5000-5001\r\n";
    assert!(client.ask("SETUP", "/trackID=0", udp).await.starts_with("RTSP/1.0 461"));
    assert!(client.ask("SETUP", "/trackID=9", "").await.starts_with("RTSP/1.0 404"));
    assert!(client.ask("PLAY", "", "Session: 1\r\n").await.starts_with("RTSP/1.0 454"));
    assert!(client.ask("RECORD", "", "").await.starts_with("RTSP/1.0 405"));
    client.stream.write_all(b"HELLO\r\n\r\n").await.unwrap();
    assert!(client.is_closed().await);
    server.stop.cancel();
}

#[tokio::test]
async fn a_silent_client_is_dropped_and_one_that_speaks_is_not() {
    let timeout = Duration::from_secs(1);
    let server = start(timeout, Join::NextFrame);
    let mut silent = Client::connect(&server, "/small/1").await;
    let mut speaking = Client::connect(&server, "/small/1").await;
    let answer = silent.play().await;
    assert!(answer.contains(";timeout=1\r\n"), "{answer}");
    speaking.play().await;
    let kept = async {
        for _ in 0..5 {
            speaking.frames(10).await;
            assert!(speaking.ask("GET_PARAMETER", "", "").await.starts_with("RTSP/1.0 200"));
        }
    };
    let ((), closed) = tokio::join!(kept, silent.is_closed());
    assert!(closed);
    server.stop.cancel();
}

#[tokio::test]
async fn hostile_cameras_misbehave_as_named_and_others_go_on() {
    let server = start_usual();
    let mut good = Client::connect(&server, "/small/1").await;
    good.play().await;

    let mut refusing = Client::connect(&server, "/hostile/401").await;
    assert!(refusing.ask("DESCRIBE", "", "").await.starts_with("RTSP/1.0 401"));
    let mut absent = Client::connect(&server, "/hostile/404").await;
    assert!(absent.ask("DESCRIBE", "", "").await.starts_with("RTSP/1.0 404"));
    let mut closing = Client::connect(&server, "/hostile/close").await;
    closing.send("OPTIONS", "", "").await;
    assert!(closing.is_closed().await);
    let mut garbling = Client::connect(&server, "/hostile/garbage").await;
    garbling.send("OPTIONS", "", "").await;
    assert!(garbling.byte().await >= 0x80);
    let mut hanging = Client::connect(&server, "/hostile/hang").await;
    hanging.send("OPTIONS", "", "").await;
    let mut quiet = Client::connect(&server, "/hostile/hang-after-play").await;
    assert!(quiet.play().await.starts_with("RTSP/1.0 200"));
    let mut noisy = Client::connect(&server, "/hostile/garbage-after-play").await;
    assert!(noisy.play().await.starts_with("RTSP/1.0 200"));
    assert!(noisy.byte().await >= 0x80);
    let mut stalling = Client::connect(&server, "/hostile/stall").await;
    stalling.play().await;
    let mut leaving = Client::connect(&server, "/hostile/close-after-5s").await;
    leaving.play().await;
    assert!(are_consecutive(&leaving.frames(100).await));

    // 100 frames are 4 s: the stalling camera has sent its 3 s and no more, but answers.
    let stalled = stalling.frames(74).await;
    assert!(are_consecutive(&stalled));
    let rest = drained(&mut stalling).await;
    assert!(rest < 100_000, "{rest}");
    assert!(stalling.ask("GET_PARAMETER", "", "").await.starts_with("RTSP/1.0 200"));
    assert_eq!(drained(&mut hanging).await + drained(&mut quiet).await, 0);
    assert!(quiet.ask("GET_PARAMETER", "", "").await.starts_with("RTSP/1.0 200"));
    assert!(leaving.is_closed().await);
    assert!(are_consecutive(&good.frames(120).await));
    server.stop.cancel();
}

/// Bytes that still come until 300 ms pass without any: more than seven frames' time.
async fn drained(client: &mut Client) -> usize {
    let mut buffer = vec![0; 65_536];
    let mut total = 0;
    let silence = Duration::from_millis(300);
    while let Ok(Ok(length)) = tokio::time::timeout(silence, client.stream.read(&mut buffer)).await {
        assert!(length > 0, "the camera closed");
        total += length;
    }
    total
}

#[tokio::test]
async fn a_taken_port_is_named_with_the_way_out() {
    let server = start_usual();
    let options = Options {
        listen: vec![server.address],
        count: 1,
        clips: Vec::new(),
        digest: None,
        session_timeout: Duration::from_secs(60),
        join: Join::Keyframe,
    };
    let error = Server::bind(&options).unwrap_err().to_string();
    assert!(error.contains(&server.address.to_string()) && error.contains("--listen"), "{error}");
    server.stop.cancel();
}

/// What a worker's session tells of this camera until `enough` of it has come.
async fn received(source: &RtspSource, mut enough: impl FnMut(&Received) -> bool) -> Vec<Received> {
    let listening = async {
        let mut session = source.open().await.unwrap();
        let mut all = Vec::new();
        loop {
            let received = session.next().await.unwrap();
            let is_last = enough(&received);
            all.push(received);
            if is_last {
                session.close().await;
                return all;
            }
        }
    };
    tokio::time::timeout(DEADLINE, listening).await.unwrap()
}

fn source(server: &Running, path: &str) -> RtspSource {
    let secret =
        SourceSecret { url: format!("rtsp://{}{path}", server.address), username: None, password: None };
    let policy = AddressPolicy::new(vec!["127.0.0.0/8".parse().unwrap()]);
    let clock = Arc::new(longwatch_events::time::SystemClock);
    let single_session = tokio::sync::watch::channel(false).1;
    RtspSource::new(secret, policy, Trust::of_authorities(), Timeouts::default(), clock, single_session)
}

fn tracks(received: &[Received]) -> Vec<(bool, Vec<String>)> {
    let tracks = received.iter().filter_map(|received| match received {
        Received::Tracks(tracks) => Some((tracks.metadata.is_some(), tracks.not_recorded.clone())),
        Received::Video(_) | Received::Beside(_) | Received::Report(_) => None,
    });
    tracks.collect()
}

#[tokio::test]
async fn a_worker_gets_each_document_beside_its_picture() {
    let server = start_usual();
    let mut documents = 0;
    let all = received(&source(&server, "/odd/metadata/1"), |received| {
        documents += u32::from(matches!(received, Received::Beside(_)));
        documents == 12
    })
    .await;
    assert_eq!(tracks(&all), [(true, vec![])]);
    let mut numbers = all.iter().filter_map(|received| match received {
        Received::Beside(Beside::Metadata(document)) => Some(document),
        Received::Beside(Beside::Audio(_))
        | Received::Tracks(_)
        | Received::Video(_)
        | Received::Report(_) => None,
    });
    // Every fifth picture has one: 18,000 units of time between.
    let first = numbers.next().unwrap().media_time;
    let off = numbers.zip(1..).map(|(document, n)| (document.media_time - first - n * 18_000).abs()).max();
    assert!(off <= Some(90), "{off:?} units off");
    server.stop.cancel();
    server.task.await.unwrap();
}

#[tokio::test]
async fn a_worker_leaves_metadata_out_that_it_does_not_get_and_says_so() {
    let server = start_usual();
    let source = source(&server, "/odd/metadata-refused/1");
    // Given a camera that refuses what it offers, then that is known before the first picture or soon after it …
    let all = received(&source, |received| match received {
        Received::Tracks(tracks) => tracks.metadata.is_none(),
        Received::Video(_) | Received::Beside(_) | Received::Report(_) => false,
    })
    .await;
    let left_out = vec!["application/vnd.onvif.metadata".to_owned()];
    assert_eq!(tracks(&all).last(), Some(&(false, left_out.clone())));
    // … and the next session says it from the beginning on.
    let all = received(&source, |received| matches!(received, Received::Video(_))).await;
    assert_eq!(tracks(&all), [(false, left_out)]);
    server.stop.cancel();
    server.task.await.unwrap();
}
