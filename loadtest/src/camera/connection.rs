//! One client's RTSP connection: reads requests, answers them, and plays through the [`Pump`].
//!
//! One session per connection, all tracks interleaved in it. Anything the client sends, a receiver report too,
//! counts as a sign of life; without one for the session timeout the connection is closed. A misbehaving camera
//! (`/hostile/…`) misbehaves from the first request that names its path.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::camera::catalogue::{Behaviour, Camera, Catalogue};
use crate::camera::digest::Scheme;
use crate::camera::feed::{Kind, Start};
use crate::camera::message::{self, Channels, Inbound, Request, Status};
use crate::camera::outbox::Outbox;
use crate::camera::pump::{Player, Pump, Starts};
use crate::camera::sdp::{self, AUDIO_CONTROL, METADATA_CONTROL, VIDEO_CONTROL};

const METHODS: &str = "OPTIONS, DESCRIBE, SETUP, PLAY, GET_PARAMETER, SET_PARAMETER, TEARDOWN";
/// How long a camera named `stall` plays.
const STALL_AFTER: Duration = Duration::from_secs(3);
/// How long a camera named `close-after-5s` does.
const CLOSE_AFTER: Duration = Duration::from_secs(5);
/// How long a camera named `cut` does.
const CUT_AFTER: Duration = Duration::from_secs(3);
/// How long a camera named `stale` keeps a session that was not torn down.
const KEPT: Duration = Duration::from_secs(60);
/// How often garbage is sent in place of packets.
const GARBAGE_INTERVAL: Duration = Duration::from_millis(100);
/// A client that sends more than this without a complete request is refused by the parser; this only sizes reads.
const READ_BUFFER: usize = 4096;

/// What all connections share.
#[derive(Debug)]
pub struct Shared {
    /// Cameras by path.
    pub catalogue: Catalogue,
    /// Sends packets.
    pub pump: Pump,
    /// Told to clients in `Session`, and held to.
    pub session_timeout: Duration,
    /// Until when cameras by number keep a session whose client is gone.
    pub kept: Mutex<BTreeMap<u32, Instant>>,
}

impl std::fmt::Debug for Pump {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pump").field("totals", &self.totals()).finish_non_exhaustive()
    }
}

/// A connection from its accept to its end.
pub struct Connection {
    shared: Arc<Shared>,
    outbox: Arc<Outbox>,
    nonce: String,
    session: Option<Session>,
    /// Set by the first request that names a camera that never answers.
    mute: bool,
    /// When a camera that does so closes the connection.
    close_at: Option<Instant>,
    /// When the next garbage is due.
    garbage_at: Option<Instant>,
    /// How long the camera takes for each answer but the first.
    answers_after: Option<Duration>,
}

struct Session {
    id: String,
    camera: Camera,
    video: Option<Channels>,
    audio: Option<Channels>,
    metadata: Option<Channels>,
    /// Number in the pump while playing.
    playing: Option<u64>,
}

/// Whether the connection goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Read,
    Close,
}

impl Connection {
    /// A connection on a fresh socket.
    pub fn new(shared: Arc<Shared>, outbox: Arc<Outbox>) -> Self {
        let nonce = format!("{:032x}", rand::random::<u128>());
        Self {
            shared,
            outbox,
            nonce,
            session: None,
            mute: false,
            close_at: None,
            garbage_at: None,
            answers_after: None,
        }
    }

    /// Serves until either side closes.
    pub async fn run(mut self) {
        let closed = self.outbox.closed().clone();
        let mut buffer = Vec::with_capacity(READ_BUFFER);
        let mut heard_at = Instant::now();
        loop {
            let silent_at = heard_at + self.shared.session_timeout;
            let next = tokio::select! {
                () = closed.cancelled() => Next::Close,
                received = self.outbox.receive(&mut buffer) => {
                    heard_at = Instant::now();
                    if let Some(pause) = self.answers_after {
                        tokio::time::sleep(pause).await;
                    }
                    match received {
                        Ok(0) | Err(_) => Next::Close,
                        Ok(_) => self.take_requests(&mut buffer),
                    }
                }
                () = tokio::time::sleep_until(silent_at) => Next::Close,
                () = sleep_until(self.close_at) => Next::Close,
                () = sleep_until(self.garbage_at) => self.send_garbage(),
            };
            if next == Next::Close {
                break;
            }
            if self.is_idle() && !self.see_out().await {
                break;
            }
        }
        self.forget_client();
        self.stop();
        closed.cancel();
    }

    /// The client is gone without a word: some cameras do not notice for long.
    fn forget_client(&self) {
        if let Some(session) = &self.session
            && session.camera.behaviour == Behaviour::Stale
            && session.playing.is_some()
        {
            self.kept().insert(session.camera.feed.number(), Instant::now() + KEPT);
        }
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, BTreeMap<u32, Instant>> {
        self.shared.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the client has taken its responses; false if it does not within the session timeout.
    async fn see_out(&self) -> bool {
        let flushed = tokio::time::timeout(self.shared.session_timeout, self.outbox.flush());
        matches!(self.outbox.closed().run_until_cancelled(flushed).await, Some(Ok(Ok(()))))
    }

    /// Whether nobody but this connection writes, so that it must see its responses out; the pump does while playing.
    fn is_idle(&self) -> bool {
        self.session.as_ref().is_none_or(|session| session.playing.is_none())
    }

    fn take_requests(&mut self, buffer: &mut Vec<u8>) -> Next {
        let mut taken = 0;
        let next = loop {
            match message::parse(&buffer[taken..]) {
                Ok(None) => break Next::Read,
                Ok(Some((inbound, length))) => {
                    taken += length;
                    let next = match inbound {
                        Inbound::Packet => Next::Read,
                        Inbound::Request(request) => self.answer(&request),
                    };
                    if next == Next::Close {
                        break next;
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "client refused");
                    let _ = self.reply(Status::BadRequest, None, &[], "");
                    break Next::Close;
                }
            }
        };
        buffer.drain(..taken);
        next
    }

    fn answer(&mut self, request: &Request) -> Next {
        let cseq = request.header("cseq");
        let (path, track) = request.path_and_track();
        let named = self.shared.catalogue.find(path);
        tracing::debug!(method = %request.method, uri = %request.uri, "request");
        if let Some(camera) = &named {
            self.answers_after = camera.feed.traits().answers_after;
            if let Some(next) = self.misbehave(camera, request) {
                return next;
            }
        }
        if self.mute {
            return Next::Read;
        }
        if request.method == "OPTIONS" {
            return self.reply(Status::Ok, cseq, &[("Public", METHODS)], "");
        }
        // Some clients send keepalives to `*` or to the server's root: then it is the session's camera they mean.
        let in_session = || self.session.as_ref().map(|session| session.camera.clone());
        let Some(camera) = named.or_else(in_session) else {
            return self.reply(Status::NotFound, cseq, &[], "");
        };
        if !self.is_authorised(&camera, request) {
            return self.challenge(camera.scheme, cseq);
        }
        match request.method.as_str() {
            "DESCRIBE" => self.describe(request, &camera),
            "SETUP" => self.setup(request, camera, track),
            "PLAY" => self.play(request),
            "GET_PARAMETER" | "SET_PARAMETER" => self.keep_alive(request),
            "TEARDOWN" => self.teardown(request),
            _ => self.reply(Status::MethodNotAllowed, cseq, &[("Allow", METHODS)], ""),
        }
    }

    /// What a camera does that does not get as far as answering properly.
    fn misbehave(&mut self, camera: &Camera, request: &Request) -> Option<Next> {
        let cseq = request.header("cseq");
        match camera.behaviour {
            Behaviour::Refuse => Some(self.challenge(camera.scheme, cseq)),
            Behaviour::NotFound => Some(self.reply(Status::NotFound, cseq, &[], "")),
            Behaviour::Hang => {
                self.mute = true;
                Some(Next::Read)
            }
            Behaviour::Garbage => Some(self.send_random(256)),
            Behaviour::Close => Some(Next::Close),
            Behaviour::RedirectLoop => Some(self.redirect(cseq, &request.uri)),
            Behaviour::RedirectOut => Some(self.redirect(cseq, "rtsp://[::1]:554/small/1")),
            Behaviour::RedirectHttp => Some(self.redirect(cseq, "http://127.0.0.1/small/1")),
            Behaviour::Redirect => {
                Some(self.redirect(cseq, &request.uri.replacen("/redirect/", "/small/", 1)))
            }
            Behaviour::Stale if request.method == "SETUP" && self.is_kept(camera) => {
                Some(self.reply(Status::NotEnoughBandwidth, cseq, &[], ""))
            }
            Behaviour::Good
            | Behaviour::Cut
            | Behaviour::Stale
            | Behaviour::AudioOnly
            | Behaviour::BrokenSdp
            | Behaviour::HangAfterPlay
            | Behaviour::Stall
            | Behaviour::GarbageAfterPlay
            | Behaviour::CloseAfter5s => None,
        }
    }

    fn redirect(&self, cseq: Option<&str>, to: &str) -> Next {
        self.reply(Status::Found, cseq, &[("Location", to)], "")
    }

    fn is_kept(&self, camera: &Camera) -> bool {
        self.kept().get(&camera.feed.number()).is_some_and(|until| Instant::now() < *until)
    }

    fn is_authorised(&self, camera: &Camera, request: &Request) -> bool {
        let Some(credentials) = &camera.credentials else { return true };
        request.header("authorization").is_some_and(|answer| {
            camera.scheme.verify(credentials, &self.nonce, &request.method, &request.uri, answer)
        })
    }

    fn challenge(&self, scheme: Scheme, cseq: Option<&str>) -> Next {
        let challenge = scheme.challenge(&self.nonce);
        self.reply(Status::Unauthorized, cseq, &[("WWW-Authenticate", &challenge)], "")
    }

    fn describe(&self, request: &Request, camera: &Camera) -> Next {
        let base = format!("{}/", request.uri.trim_end_matches('/'));
        let (number, clip, traits) = (camera.feed.number(), camera.feed.clip(), camera.feed.traits());
        #[allow(clippy::wildcard_enum_match_arm, reason = "all others describe themselves well")]
        let sdp = match camera.behaviour {
            Behaviour::AudioOnly => sdp::describe_sound(number),
            Behaviour::BrokenSdp => "v=9\r\nm=video here\r\nthis is no SDP\r\n".to_owned(),
            _ => sdp::describe(number, clip, traits.announced),
        };
        let headers = [("Content-Base", base.as_str()), ("Content-Type", "application/sdp")];
        self.reply(Status::Ok, request.header("cseq"), &headers, &sdp)
    }

    fn setup(&mut self, request: &Request, camera: Camera, track: Option<&str>) -> Next {
        let cseq = request.header("cseq");
        if !self.is_idle() || self.session.as_ref().is_some_and(|session| !is_same(&session.camera, &camera))
        {
            return self.reply(Status::MethodNotValidInThisState, cseq, &[], "");
        }
        let (kind, free) = match track {
            None | Some(VIDEO_CONTROL) => (Kind::Video, Channels { rtp: 0, rtcp: 1 }),
            Some(AUDIO_CONTROL) if camera.feed.clip().audio.is_some() => {
                (Kind::Audio, Channels { rtp: 2, rtcp: 3 })
            }
            Some(METADATA_CONTROL) if camera.feed.traits().refuses_metadata => {
                return self.reply(Status::MethodNotValidInThisState, cseq, &[], "");
            }
            Some(METADATA_CONTROL) if camera.feed.clip().metadata.is_some() => {
                (Kind::Metadata, Channels { rtp: 4, rtcp: 5 })
            }
            Some(_) => return self.reply(Status::NotFound, cseq, &[], ""),
        };
        let wanted = request.header("transport").and_then(|transport| message::interleaved(transport, free));
        let Some(channels) = wanted else {
            return self.reply(Status::UnsupportedTransport, cseq, &[], "");
        };
        let session = self.session.get_or_insert_with(|| Session {
            id: format!("{:016X}", rand::random::<u64>()),
            camera,
            video: None,
            audio: None,
            metadata: None,
            playing: None,
        });
        *(match kind {
            Kind::Video => &mut session.video,
            Kind::Audio => &mut session.audio,
            Kind::Metadata => &mut session.metadata,
        }) = Some(channels);
        let id = self.session_header();
        let transport = format!("RTP/AVP/TCP;unicast;interleaved={}-{}", channels.rtp, channels.rtcp);
        self.reply(Status::Ok, cseq, &[("Session", &id), ("Transport", &transport)], "")
    }

    fn play(&mut self, request: &Request) -> Next {
        let cseq = request.header("cseq");
        let session_header = self.session_header();
        let Some(session) = self.session.as_mut().filter(|session| is_named(session, request)) else {
            return self.reply(Status::SessionNotFound, cseq, &[], "");
        };
        if session.playing.is_some() {
            return self.reply(Status::Ok, cseq, &[("Session", &session_header)], "");
        }
        let behaviour = session.camera.behaviour;
        let player = Player {
            outbox: Arc::clone(&self.outbox),
            video: session.video,
            audio: session.audio,
            metadata: session.metadata,
            play_for: play_for(behaviour),
            cut: behaviour == Behaviour::Cut,
        };
        let base = request.uri.trim_end_matches('/');
        let respond = |starts: Starts| {
            let info = rtp_info(base, starts);
            let headers = [("Session", session_header.as_str()), ("Range", "npt=now-"), ("RTP-Info", &info)];
            self.outbox.send(&message::response(Status::Ok, cseq, &headers, ""))
        };
        match self.shared.pump.play(&session.camera.feed, player, respond) {
            Ok(id) => session.playing = Some(id),
            Err(_) => return Next::Close,
        }
        match behaviour {
            Behaviour::CloseAfter5s => self.close_at = Some(Instant::now() + CLOSE_AFTER),
            Behaviour::GarbageAfterPlay => self.garbage_at = Some(Instant::now()),
            Behaviour::Good
            | Behaviour::Cut
            | Behaviour::Stale
            | Behaviour::AudioOnly
            | Behaviour::BrokenSdp
            | Behaviour::RedirectLoop
            | Behaviour::RedirectOut
            | Behaviour::RedirectHttp
            | Behaviour::Redirect
            | Behaviour::Refuse
            | Behaviour::NotFound
            | Behaviour::Hang
            | Behaviour::HangAfterPlay
            | Behaviour::Stall
            | Behaviour::Garbage
            | Behaviour::Close => {}
        }
        Next::Read
    }

    fn keep_alive(&self, request: &Request) -> Next {
        let cseq = request.header("cseq");
        if request.header("session").is_none() {
            return self.reply(Status::Ok, cseq, &[], "");
        }
        if self.session.as_ref().is_some_and(|session| is_named(session, request)) {
            return self.reply(Status::Ok, cseq, &[("Session", &self.session_header())], "");
        }
        self.reply(Status::SessionNotFound, cseq, &[], "")
    }

    fn teardown(&mut self, request: &Request) -> Next {
        let cseq = request.header("cseq");
        if !self.session.as_ref().is_some_and(|session| is_named(session, request)) {
            return self.reply(Status::SessionNotFound, cseq, &[], "");
        }
        self.stop();
        self.reply(Status::Ok, cseq, &[], "")
    }

    /// Ends the session, if there is one.
    fn stop(&mut self) {
        (self.close_at, self.garbage_at) = (None, None);
        let Some(session) = self.session.take() else { return };
        if let Some(id) = session.playing {
            self.shared.pump.leave(session.camera.feed.number(), id);
        }
    }

    fn session_header(&self) -> String {
        let id = self.session.as_ref().map_or("", |session| session.id.as_str());
        format!("{id};timeout={}", self.shared.session_timeout.as_secs())
    }

    fn send_garbage(&mut self) -> Next {
        self.garbage_at = Some(Instant::now() + GARBAGE_INTERVAL);
        self.send_random(1024)
    }

    fn send_random(&self, length: usize) -> Next {
        let mut bytes = vec![0; length];
        rand::fill(&mut bytes);
        // Never a framing that a client could wait behind, nor text that could be a response.
        bytes[0] |= 0x80;
        self.send(&bytes)
    }

    fn reply(&self, status: Status, cseq: Option<&str>, headers: &[(&str, &str)], body: &str) -> Next {
        self.send(&message::response(status, cseq, headers, body))
    }

    fn send(&self, bytes: &[u8]) -> Next {
        if self.outbox.send(bytes).is_ok() { Next::Read } else { Next::Close }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn is_same(one: &Camera, two: &Camera) -> bool {
    one.feed.number() == two.feed.number()
}

/// Whether the request's `Session` is this one. Parameters after the id are the client's mistake, but a common one.
fn is_named(session: &Session, request: &Request) -> bool {
    request.header("session").is_some_and(|id| id.split(';').next() == Some(&session.id))
}

fn play_for(behaviour: Behaviour) -> Option<Duration> {
    match behaviour {
        Behaviour::HangAfterPlay | Behaviour::GarbageAfterPlay => Some(Duration::ZERO),
        Behaviour::Stall => Some(STALL_AFTER),
        Behaviour::Cut => Some(CUT_AFTER),
        Behaviour::Good
        | Behaviour::Stale
        | Behaviour::AudioOnly
        | Behaviour::BrokenSdp
        | Behaviour::RedirectLoop
        | Behaviour::RedirectOut
        | Behaviour::RedirectHttp
        | Behaviour::Redirect
        | Behaviour::CloseAfter5s
        | Behaviour::Refuse
        | Behaviour::NotFound
        | Behaviour::Hang
        | Behaviour::Garbage
        | Behaviour::Close => None,
    }
}

fn rtp_info(base: &str, starts: Starts) -> String {
    let of_track = |control: &str, start: Start| {
        format!("url={base}/{control};seq={};rtptime={}", start.sequence, start.time)
    };
    let video = starts.video.map(|start| of_track(VIDEO_CONTROL, start));
    let audio = starts.audio.map(|start| of_track(AUDIO_CONTROL, start));
    let metadata = starts.metadata.map(|start| of_track(METADATA_CONTROL, start));
    video.into_iter().chain(audio).chain(metadata).collect::<Vec<_>>().join(",")
}
