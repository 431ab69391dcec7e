//! Cameras that misbehave, as real sockets: each failure has its cause, and no detail gives a credential away.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod within_tls;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use longwatch_events::assignment::SourceSecret;
use longwatch_events::fact::Cause;
use longwatch_events::time::SystemClock;
use longwatch_worker::source::address::AddressPolicy;
use longwatch_worker::source::rtsp::{RtspSession, RtspSource, Timeouts};
use longwatch_worker::source::tls::Trust;
use longwatch_worker::source::{Failure, Session, Source};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What a camera does with a request: answers these bytes, or hangs up.
type Script = dyn Fn(&str) -> Option<String> + Send + Sync;

/// A camera that follows a script, and remembers what it was asked.
struct Camera {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Camera {
    async fn start(script: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (script, log): (Arc<Script>, _) = (Arc::new(script), Arc::clone(&asked));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&script), Arc::clone(&log)));
            }
        });
        Self { address, asked }
    }

    fn url(&self) -> String {
        format!("rtsp://{}/stream", self.address)
    }

    fn was_asked(&self, method: &str) -> bool {
        self.asked.lock().unwrap().iter().any(|request| request.starts_with(method))
    }
}

async fn serve(mut stream: TcpStream, script: Arc<Script>, log: Arc<Mutex<Vec<String>>>) {
    let mut received = Vec::new();
    let mut chunk = [0; 4_096];
    loop {
        while let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") {
            let request = String::from_utf8(received.drain(..end + 4).collect()).unwrap();
            log.lock().unwrap().push(request.clone());
            let Some(answer) = script(&request) else { return };
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return,
            Ok(read) => received.extend_from_slice(&chunk[..read]),
        }
    }
}

fn header<'a>(request: &'a str, name: &str) -> &'a str {
    request
        .lines()
        .find_map(|line| line.split_once(':').filter(|(key, _)| key.eq_ignore_ascii_case(name)))
        .map_or("", |(_, value)| value.trim())
}

fn answer(request: &str, status: &str, headers: &str, body: &str) -> Option<String> {
    let (cseq, length) = (header(request, "CSeq"), body.len());
    Some(format!("RTSP/1.0 {status}\r\nCSeq: {cseq}\r\n{headers}Content-Length: {length}\r\n\r\n{body}"))
}

const VIDEO: &str = "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=control:track0\r\n";

/// Answers everything well; `session` is what stands in the SDP before `media`.
fn polite(request: &str, base: &str, session: &str, media: &str) -> Option<String> {
    let sdp = format!("v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=x\r\nt=0 0\r\n{session}{media}");
    let session = "Session: 7;timeout=60\r\n";
    match request.split(' ').next().unwrap_or_default() {
        "DESCRIBE" => answer(
            request,
            "200 OK",
            &format!("Content-Base: {base}\r\nContent-Type: application/sdp\r\n"),
            &sdp,
        ),
        "SETUP" => {
            let transport = header(request, "Transport");
            answer(request, "200 OK", &format!("{session}Transport: {transport}\r\n"), "")
        }
        _ => answer(request, "200 OK", session, ""),
    }
}

fn source(url: String, allowed: &[&str]) -> RtspSource {
    source_with(url, allowed, false)
}

/// The same for a server that may tell passwords in clear text, or not.
fn source_with(url: String, allowed: &[&str], allows_basic: bool) -> RtspSource {
    within(Duration::from_millis(300), Trust::in_anybody(), url, allowed, allows_basic)
}

/// The same, with so much time for each step.
fn within(step: Duration, trust: Trust, url: String, allowed: &[&str], allows_basic: bool) -> RtspSource {
    let secret = SourceSecret { url, username: Some("operator".into()), password: Some("hunter2".into()) };
    let policy = AddressPolicy::new(allowed.iter().map(|network| network.parse().unwrap()).collect());
    let policy = policy.with_basic(allows_basic);
    let timeouts = Timeouts { connect: step, play: step, frame: step, teardown: step, metadata: step };
    RtspSource::new(secret, policy, trust, timeouts, Arc::new(SystemClock), watch::channel(false).1)
}

async fn open(url: String) -> Result<RtspSession, Failure> {
    source(url, &["127.0.0.0/8"]).open().await
}

async fn failure(url: String) -> Failure {
    let failure = open(url).await.err().expect("opening fails");
    assert!(!failure.detail.is_empty() && !failure.detail.contains("hunter2"), "{failure}");
    failure
}

#[tokio::test]
async fn nobody_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("rtsp://{}/", listener.local_addr().unwrap());
    drop(listener);
    assert_eq!(failure(url).await.cause, Cause::Refused);
}

#[tokio::test]
async fn a_name_nobody_knows() {
    let cause = failure("rtsp://no-such-camera.invalid/".into()).await.cause;
    // Without a resolver within reach the lookup may also time out.
    assert!(matches!(cause, Cause::Unreachable | Cause::Timeout), "{cause}");
}

#[tokio::test]
async fn it_hangs_up() {
    let camera = Camera::start(|_| None).await;
    assert_eq!(failure(camera.url()).await.cause, Cause::Closed);
}

#[tokio::test]
async fn it_says_nothing() {
    let camera = Camera::start(|_| Some(String::new())).await;
    assert_eq!(failure(camera.url()).await.cause, Cause::Timeout);
}

#[tokio::test]
async fn it_talks_nonsense() {
    let camera = Camera::start(|_| Some("HTTP/1.1 200 OK\r\n\r\n\0\u{1}\u{2}".into())).await;
    assert_eq!(failure(camera.url()).await.cause, Cause::ProtocolError);
}

#[tokio::test]
async fn statuses_have_their_causes() {
    for (status, cause) in [
        ("401 Unauthorized", Cause::Unauthorized),
        ("403 Forbidden", Cause::Unauthorized),
        ("404 Stream Not Found", Cause::NotFound),
        ("500 Internal Server Error", Cause::ProtocolError),
        ("503 Service Unavailable", Cause::ProtocolError),
    ] {
        let camera = Camera::start(move |request| answer(request, status, "", "")).await;
        assert_eq!(failure(camera.url()).await.cause, cause, "{status}");
    }
}

#[tokio::test]
async fn it_refuses_the_password() {
    let challenge = "WWW-Authenticate: Digest realm=\"x\", nonce=\"y\"\r\n";
    let camera = Camera::start(move |request| answer(request, "401 Unauthorized", challenge, "")).await;
    assert_eq!(failure(camera.url()).await.cause, Cause::Unauthorized);
    let asked = camera.asked.lock().unwrap();
    let with_credentials =
        asked.iter().filter(|request| !header(request, "Authorization").is_empty()).count();
    assert_eq!((asked.len(), with_credentials), (3, 1), "asked how, then without and with credentials");
}

#[tokio::test]
async fn it_wants_the_password_in_clear_text() {
    let challenge = "WWW-Authenticate: Basic realm=\"x\"\r\n";
    let camera = Camera::start(move |request| match header(request, "Authorization") {
        "" => answer(request, "401 Unauthorized", challenge, ""),
        _ => polite(request, "rtsp://127.0.0.1/stream/", "", VIDEO),
    })
    .await;
    // Given a server that does not tell it, then the camera never hears it, and a person hears what can be done …
    let refused = failure(camera.url()).await;
    assert!(
        refused.cause == Cause::Unauthorized && refused.detail.contains("--rtsp-allow-basic"),
        "{refused}"
    );
    assert!(camera.asked.lock().unwrap().iter().all(|request| header(request, "Authorization").is_empty()));
    // … and one that may tell it does.
    source_with(camera.url(), &["127.0.0.0/8"], true).open().await.unwrap().close().await;
    assert!(
        camera
            .asked
            .lock()
            .unwrap()
            .iter()
            .any(|request| header(request, "Authorization").starts_with("Basic"))
    );
}

#[tokio::test]
async fn it_offers_clear_text_and_better() {
    for challenges in [
        "WWW-Authenticate: Basic realm=\"x\"\r\nWWW-Authenticate: Digest realm=\"x\", nonce=\"y\"\r\n",
        "WWW-Authenticate: Digest realm=\"x\", nonce=\"y\", algorithm=SHA-256, qop=\"auth\"\r\n",
    ] {
        let camera = Camera::start(move |request| match header(request, "Authorization") {
            "" => answer(request, "401 Unauthorized", challenges, ""),
            told if told.starts_with("Digest") => polite(request, "rtsp://127.0.0.1/stream/", "", VIDEO),
            _ => None,
        })
        .await;
        open(camera.url()).await.unwrap().close().await;
    }
}

#[tokio::test]
async fn it_gets_no_password_that_it_did_not_ask_for() {
    // Given a camera that describes itself to anybody, and then wants the password in clear text,
    let challenge = "WWW-Authenticate: Basic realm=\"x\"\r\n";
    let camera = Camera::start(move |request| {
        if request.starts_with("SETUP") {
            answer(request, "401 Unauthorized", challenge, "")
        } else {
            polite(request, "rtsp://127.0.0.1/stream/", "", VIDEO)
        }
    })
    .await;
    assert_eq!(failure(camera.url()).await.cause, Cause::Unauthorized);
    assert!(camera.asked.lock().unwrap().iter().all(|request| header(request, "Authorization").is_empty()));
}

#[tokio::test]
async fn it_sends_us_elsewhere() {
    let there = Camera::start(|request| polite(request, "rtsp://127.0.0.1/stream/", "", VIDEO)).await;
    let redirect = |to: String| {
        Camera::start(move |request| {
            answer(request, "302 Moved Temporarily", &format!("Location: {to}\r\n"), "")
        })
    };
    // Within the policy we go there …
    let camera = redirect(there.url()).await;
    open(camera.url()).await.unwrap().close().await;
    assert!(there.was_asked("PLAY"));
    // … but not out of it, nor to another kind of server, nor for ever.
    for (to, cause) in [
        ("rtsp://127.0.0.2:9/".to_owned(), Cause::NotAllowed),
        ("http://127.0.0.1/".to_owned(), Cause::NotAllowed),
        ("rtsps://127.0.0.2/".to_owned(), Cause::NotAllowed),
        ("nonsense".to_owned(), Cause::Unreachable),
    ] {
        let camera = redirect(to.clone()).await;
        let failure = source(camera.url(), &["127.0.0.1/32"]).open().await.err().unwrap();
        assert_eq!(failure.cause, cause, "{to}: {failure}");
    }
    let turns = Arc::new(Mutex::new(String::new()));
    let to = Arc::clone(&turns);
    let camera = Camera::start(move |request| {
        answer(request, "301 Moved", &format!("Location: {}\r\n", to.lock().unwrap()), "")
    })
    .await;
    *turns.lock().unwrap() = camera.url();
    let failure = failure(camera.url()).await;
    assert!(failure.cause == Cause::ProtocolError && failure.detail.contains("elsewhere"), "{failure}");
}

#[tokio::test]
async fn it_echoes_the_credentials() {
    let camera = Camera::start(|request| match header(request, "Authorization") {
        "" => answer(request, "401 Unauthorized", "WWW-Authenticate: Basic realm=\"x\"\r\n", ""),
        credentials => {
            Some(format!("RTSP/1.0 200 {credentials} hunter2\r\nCSeq: none {credentials}\r\n\r\n"))
        }
    })
    .await;
    let opened = source_with(camera.url(), &["127.0.0.0/8"], true).open().await;
    let failure = opened.err().unwrap();
    assert!(failure.cause == Cause::ProtocolError && !failure.detail.contains("hunter2"), "{failure}");
    // base64 of operator:hunter2
    assert!(!failure.detail.contains("b3BlcmF0b3I6aHVudGVyMg"), "{failure}");
}

#[tokio::test]
async fn it_offers_nothing_we_record() {
    for media in [
        "m=audio 0 RTP/AVP 0\r\na=control:track0\r\n",
        "m=video 0 RTP/AVP 26\r\na=control:track0\r\n",
        "m=video 0 RTP/AVP 96\r\na=rtpmap:96 VP8/90000\r\na=control:track0\r\n",
    ] {
        let camera =
            Camera::start(move |request| polite(request, "rtsp://127.0.0.1/stream/", "", media)).await;
        let failure = failure(camera.url()).await;
        assert_eq!(failure.cause, Cause::UnsupportedCodec, "{media}");
        assert!(failure.detail.contains("needed is video in H.264 or H.265"), "{failure}");
    }
}

#[tokio::test]
async fn it_plays_and_sends_nothing() {
    let camera = Camera::start(|request| polite(request, "rtsp://127.0.0.1/stream/", "", VIDEO)).await;
    let mut session = open(camera.url()).await.unwrap();
    assert_eq!(session.next().await.unwrap_err().cause, Cause::Stalled);
    session.close().await;
    assert!(camera.was_asked("TEARDOWN"), "{:?}", camera.asked);
}

const OPUS: &str = "m=audio 0 RTP/AVP 97\r\na=rtpmap:97 opus/48000/2\r\na=control:track1\r\n";

#[tokio::test]
async fn it_sends_opus() {
    let camera =
        Camera::start(|request| polite(request, "rtsp://127.0.0.1/stream/", "", &format!("{VIDEO}{OPUS}")))
            .await;
    let source = source(camera.url(), &["127.0.0.0/8"]);
    // Given a camera whose Opus is found only when it has described itself, then it is asked anew; from then on it is known.
    for described in [2, 1] {
        camera.asked.lock().unwrap().clear();
        source.open().await.unwrap().close().await;
        let asked = camera.asked.lock().unwrap().clone();
        let of = |method: &str| asked.iter().filter(|request| request.starts_with(method)).count();
        // A question goes before, as to any camera that may want a password.
        assert_eq!(
            (of("DESCRIBE"), of("SETUP"), of("PLAY"), of("TEARDOWN")),
            (described + described, 2, 1, 1)
        );
        assert!(asked.iter().any(|request| request.starts_with("SETUP") && request.contains("track1")));
    }
}

#[tokio::test]
async fn it_sends_opus_and_what_costs_less() {
    let media = format!("{OPUS}m=audio 0 RTP/AVP 0\r\na=control:track2\r\n{VIDEO}");
    let camera = Camera::start(move |request| polite(request, "rtsp://127.0.0.1/stream/", "", &media)).await;
    open(camera.url()).await.unwrap().close().await;
    let asked = camera.asked.lock().unwrap();
    let set_up: Vec<&String> = asked.iter().filter(|request| request.starts_with("SETUP")).collect();
    assert!(set_up.len() == 2 && set_up[1].contains("track2"), "{set_up:?}");
}

const METADATA: &str =
    "m=application 0 RTP/AVP 98\r\na=rtpmap:98 vnd.onvif.metadata/90000\r\na=control:track2\r\n";

/// Waits until a camera was asked so often for what contains `part`.
async fn until_asked(camera: &Camera, method: &str, part: &str, times: usize) {
    let asked = || {
        let asked = camera.asked.lock().unwrap();
        asked.iter().filter(|request| request.starts_with(method) && request.contains(part)).count()
    };
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while asked() < times {
        assert!(tokio::time::Instant::now() < deadline, "{method} {part} {} of {times} times", asked());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn its_metadata_has_a_session_of_its_own() {
    let media = format!("{METADATA}{VIDEO}");
    let camera = Camera::start(move |request| polite(request, "rtsp://127.0.0.1/stream/", "", &media)).await;
    let session = open(camera.url()).await.unwrap();
    until_asked(&camera, "SETUP", "track2", 1).await;
    until_asked(&camera, "PLAY", "", 2).await;
    session.close().await;
    until_asked(&camera, "TEARDOWN", "", 2).await;
    // Neither asked for the other's stream.
    until_asked(&camera, "SETUP", "", 2).await;
    assert_eq!(camera.asked.lock().unwrap().iter().filter(|request| request.starts_with("SETUP")).count(), 2);
}

#[tokio::test]
async fn it_fails_whenever_its_metadata_is_asked_for() {
    let media = format!("{VIDEO}{METADATA}");
    let camera = Camera::start(move |request| polite(request, "rtsp://127.0.0.1/stream/", "", &media)).await;
    // Longer than what counts as soon: by when it is noticed that no picture comes, that is long ago.
    let source =
        within(Duration::from_millis(5_300), Trust::in_anybody(), camera.url(), &["127.0.0.0/8"], false);
    // Given a camera that falls silent twice soon after its metadata was asked for, then it is not asked for a third time.
    for expected in [true, true, false] {
        camera.asked.lock().unwrap().clear();
        let mut session = source.open().await.unwrap();
        assert_eq!(session.next().await.unwrap_err().cause, Cause::Stalled);
        session.close().await;
        let asked = camera.asked.lock().unwrap().iter().any(|request| request.contains("track2"));
        assert_eq!(asked, expected);
    }
}

#[tokio::test]
async fn it_serves_one_client_and_so_is_not_asked_for_its_metadata() {
    let media = format!("{VIDEO}{METADATA}");
    let camera = Camera::start(move |request| polite(request, "rtsp://127.0.0.1/stream/", "", &media)).await;
    let step = Duration::from_millis(300);
    let timeouts = Timeouts { connect: step, play: step, frame: step, teardown: step, metadata: step };
    let policy = AddressPolicy::new(vec!["127.0.0.0/8".parse().unwrap()]);
    let secret = SourceSecret { url: camera.url(), username: None, password: None };
    let (serves_one, single_session) = watch::channel(true);
    let clock = Arc::new(SystemClock);
    let source = RtspSource::new(secret, policy, Trust::in_anybody(), timeouts, clock, single_session);
    for (one, asked) in [(true, false), (false, true)] {
        serves_one.send_replace(one);
        let mut session = source.open().await.unwrap();
        assert_eq!(session.next().await.unwrap_err().cause, Cause::Stalled);
        session.close().await;
        assert_eq!(camera.asked.lock().unwrap().iter().any(|request| request.contains("track2")), asked);
    }
}

#[tokio::test]
async fn its_metadata_is_refused_and_asked_for_again() {
    let media = format!("{VIDEO}{METADATA}");
    let camera = Camera::start(move |request| {
        if request.starts_with("SETUP") && request.contains("track2") {
            return answer(request, "503 Too Many Sessions", "", "");
        }
        polite(request, "rtsp://127.0.0.1/stream/", "", &media)
    })
    .await;
    let mut session = open(camera.url()).await.unwrap();
    // Whatever becomes of it, the session of the video waits for its pictures.
    let (failed, ()) = tokio::join!(session.next(), until_asked(&camera, "SETUP", "track2", 1));
    assert_eq!(failed.unwrap_err().cause, Cause::Stalled);
    until_asked(&camera, "SETUP", "track2", 2).await;
    session.close().await;
    let asked = camera.asked.lock().unwrap().len();
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(camera.asked.lock().unwrap().len(), asked, "who is not listened to is not asked");
}

#[tokio::test]
async fn it_stops_in_the_middle_of_a_packet() {
    let camera = Camera::start(|request| {
        let answer = polite(request, "rtsp://127.0.0.1/stream/", "", VIDEO)?;
        Some(if request.starts_with("PLAY") { answer + "$\0\0" } else { answer })
    })
    .await;
    let mut session = open(camera.url()).await.unwrap();
    assert_eq!(session.next().await.unwrap_err().cause, Cause::Stalled);
}

#[tokio::test]
async fn loopback_is_not_for_cameras() {
    let camera = Camera::start(|_| None).await;
    for url in [camera.url(), format!("rtsp://localhost:{}/", camera.address.port())] {
        let failure = source(url, &[]).open().await.err().unwrap();
        assert_eq!(failure.cause, Cause::NotAllowed, "{failure}");
    }
    assert!(camera.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn it_cannot_send_us_elsewhere() {
    // Given an address that no policy allowed, …
    let elsewhere = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let base = format!("rtsp://{}/", elsewhere.local_addr().unwrap());
    // … named as its own by a camera that claims the bug for which goodbyes go over new connections, and that hangs up
    // when it hears one …
    let buggy = "a=tool:LIVE555 Streaming Media v2013.01.01\r\n";
    let camera = Camera::start(move |request| {
        if request.starts_with("TEARDOWN") { None } else { polite(request, &base, buggy, VIDEO) }
    })
    .await;
    let opened = source(camera.url(), &["127.0.0.1/32"]).open().await;
    opened.unwrap().close().await;
    // … then nobody comes there. The first attempt would come at once.
    let visit = tokio::time::timeout(Duration::from_millis(1_500), elsewhere.accept()).await;
    assert!(visit.is_err(), "{visit:?}");
}
