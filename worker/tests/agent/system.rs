//! A NATS server, the part of control that a worker speaks with, and the worker itself, as processes of their own.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream::{self, stream};
use async_nats::{Client, ConnectOptions, HeaderMap, Subscriber};
use aws_lc_rs::hmac;
use bytes::Bytes;
use crypto_box::aead::OsRng;
use futures::StreamExt;
use longwatch_events::assignment::{AssignedCamera, AssignmentSet, SourceSecret};
use longwatch_events::envelope::Envelope;
use longwatch_events::event::{Event, ServerHeartbeat};
use longwatch_events::fact::Fact;
use longwatch_events::id::{CameraId, EventId, ServerId, SystemIds, TenantId};
use longwatch_events::join::{JoinClaim, JoinReply, JoinRequest};
use longwatch_events::position::{Epoch, Position};
use longwatch_events::sealed::{Base64Bytes, PublicKey};
use longwatch_events::subject::{self, LogStream};
use longwatch_events::time::{Clock, SystemClock};
use longwatch_events::trigger::TriggerReply;
use longwatch_testing::s3::{BUCKET, S3};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::Instant;

/// Nothing that is waited for takes longer.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
/// Of every set that a test assigns.
pub(crate) const LEASE_MS: u32 = 2_000;
pub(crate) const JOIN_KEY: &str = "lwj_the_key_of_this_test";
/// The key pair of the NATS documentation's example.
const WORKER_SEED: &str = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";
const WORKER_USER: &str = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";

/// Polls until `probe` finds something.
pub(crate) async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {DEADLINE:?} for: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A port that was free a moment ago. A server that is to come back under its address needs a number of its own.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn nats_server() -> PathBuf {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/bin/nats-server");
    let path = std::env::var_os("LONGWATCH_NATS_SERVER").map_or(ours, PathBuf::from);
    assert!(path.exists(), "there is no nats-server at {}: run `make tools`", path.display());
    path
}

/// Everything around the worker. The worker may do in NATS exactly what its documentation says it needs.
pub(crate) struct System {
    folder: TempDir,
    pub(crate) server_id: ServerId,
    port: u16,
    nats: Option<Child>,
    client: Client,
    control: Control,
}

/// What control says when a worker asks to be let in.
#[derive(Clone)]
struct Control {
    reply: Arc<Mutex<Option<JoinReply>>>,
    /// The newest claim that came with a right proof.
    claim: Arc<Mutex<Option<JoinClaim>>>,
}

impl System {
    /// NATS with its streams, and control answering; no worker yet.
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (port, server_id) = (free_port(), ServerId::generate(&SystemIds));
        std::fs::write(folder.path().join("nats.conf"), configuration(folder.path(), port, server_id))
            .unwrap();
        std::fs::write(folder.path().join("worker.nkey"), WORKER_SEED).unwrap();
        let client = ConnectOptions::with_user_and_password("control".into(), "control".into())
            .retry_on_initial_connect()
            .reconnect_delay_callback(|_| Duration::from_millis(50))
            .connect(format!("nats://127.0.0.1:{port}"))
            .await
            .unwrap();
        let welcome = welcome(server_id);
        let control = Control { reply: Arc::new(Mutex::new(Some(welcome))), claim: Arc::default() };
        let mut system = Self { folder, server_id, port, nats: None, client, control };
        system.start_nats().await;
        for stream in [LogStream::Heartbeats, LogStream::Recordings, LogStream::Assignments] {
            system.create(stream).await;
        }
        let requests = system.client.subscribe(subject::JOIN).await.unwrap();
        tokio::spawn(system.control.clone().answer(system.client.clone(), requests));
        system
    }

    pub(crate) async fn start_nats(&mut self) {
        let log = std::fs::File::create(self.folder.path().join("nats.log")).unwrap();
        let child = Command::new(nats_server())
            .arg("--config")
            .arg(self.folder.path().join("nats.conf"))
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        self.nats = Some(child);
        let jetstream = jetstream::new(self.client.clone());
        eventually("nats-server answers", async || jetstream.query_account().await.ok()).await;
    }

    /// As a crash does: no goodbye.
    pub(crate) async fn kill_nats(&mut self) {
        self.nats.take().unwrap().kill().await.unwrap();
    }

    pub(crate) async fn create(&self, stream: LogStream) {
        self.create_with(stream, stream == LogStream::Assignments).await;
    }

    /// The log stream of assignments, of which nobody hears.
    pub(crate) async fn create_silent_assignments(&self) {
        self.create_with(LogStream::Assignments, false).await;
    }

    async fn create_with(&self, stream: LogStream, republish: bool) {
        let assignments = stream == LogStream::Assignments;
        let config = stream::Config {
            name: stream.name().into(),
            subjects: vec![stream.subjects().into()],
            allow_direct: true,
            max_messages_per_subject: if assignments { 1 } else { -1 },
            republish: republish.then(|| stream::Republish {
                source: subject::REPUBLISH_FROM.into(),
                destination: subject::REPUBLISH_TO.into(),
                headers_only: false,
            }),
            ..stream::Config::default()
        };
        jetstream::new(self.client.clone()).create_stream(config).await.unwrap();
    }

    pub(crate) async fn delete(&self, stream: LogStream) {
        jetstream::new(self.client.clone()).delete_stream(stream.name()).await.unwrap();
    }

    /// From now on control answers this, or nothing.
    pub(crate) fn control_says(&self, reply: Option<JoinReply>) {
        *self.control.reply.lock().unwrap() = reply;
    }

    /// Tells the worker that it missed something.
    pub(crate) async fn say_look(&self) {
        self.client.publish(subject::look(self.server_id), Bytes::new()).await.unwrap();
        self.client.flush().await.unwrap();
    }

    /// Tells the worker of an event, as control does.
    pub(crate) async fn tell(&self, payload: &[u8]) -> TriggerReply {
        let (subject, payload) = (subject::trigger(self.server_id), Bytes::copy_from_slice(payload));
        let reply = tokio::time::timeout(DEADLINE, self.client.request(subject, payload)).await;
        serde_json::from_slice(&reply.expect("the worker answers").unwrap().payload).unwrap()
    }

    /// All that anybody asks for from now on under `subjects`.
    pub(crate) async fn requests(&self, subjects: &'static str) -> Subscriber {
        let requests = self.client.subscribe(subjects).await.unwrap();
        self.client.flush().await.unwrap();
        requests
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write_join_key(&self) {
        std::fs::write(self.path("join.key"), format!("{JOIN_KEY}\n")).unwrap();
    }

    pub(crate) fn start_worker(&self) -> Worker {
        self.start_worker_with(&[])
    }

    /// With these arguments beside the usual ones.
    pub(crate) fn start_worker_with(&self, arguments: &[&str]) -> Worker {
        self.start_worker_to(&["--archive", self.path("archive").to_str().unwrap()], arguments)
    }

    /// With an archive in an object store, below `lw/`; the folder `archive` is its spool.
    pub(crate) fn start_worker_spooling(&self, s3: &S3, arguments: &[&str]) -> Worker {
        let (place, endpoint) = (format!("s3://{BUCKET}/lw"), s3.endpoint());
        let (spool, credentials) = (self.path("archive"), s3.credentials_file());
        let to = ["--archive", &place, "--spool", spool.to_str().unwrap(), "--s3-endpoint", &endpoint];
        let with = ["--s3-allow-http", "--s3-credentials-file", credentials.to_str().unwrap()];
        self.start_worker_to(&[&to[..], &with].concat(), arguments)
    }

    fn start_worker_to(&self, archive: &[&str], arguments: &[&str]) -> Worker {
        let child = Command::new(env!("CARGO_BIN_EXE_longwatch-worker"))
            .args(["--nats", &format!("nats://127.0.0.1:{}", self.port), "--name", "north-1"])
            .args(["--label", "zone=north", "--capacity", "12", "--rtsp-allow", "127.0.0.0/8"])
            .args(arguments)
            .args(archive)
            .arg("--join-key-file")
            .arg(self.path("join.key"))
            .arg("--nats-credentials")
            .arg(self.path("worker.nkey"))
            .stdin(Stdio::null())
            .stderr(std::fs::File::options().create(true).append(true).open(self.path("worker.log")).unwrap())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Worker(child)
    }

    /// The claim of the worker that joined last.
    pub(crate) async fn joined(&self) -> JoinClaim {
        eventually("the worker joins", async || self.control.claim.lock().unwrap().clone()).await
    }

    /// Publishes a set in one part per element of `parts`.
    pub(crate) async fn assign(&self, revision: u64, parts: Vec<Vec<AssignedCamera>>) {
        let (jetstream, number_of) =
            (jetstream::new(self.client.clone()), u32::try_from(parts.len()).unwrap());
        let set_id = Some(EventId::generate(&SystemIds));
        for (cameras, part) in parts.into_iter().zip(1..) {
            let event = Event::AssignmentsPublished(AssignmentSet {
                server_id: self.server_id,
                revision: Position(revision),
                set_id,
                part,
                parts: number_of,
                heartbeat_interval_ms: 100,
                lease_ms: Some(LEASE_MS),
                cameras,
            });
            let envelope = Envelope {
                id: EventId::generate(&SystemIds),
                source: "/control/test".into(),
                time: SystemClock.now(),
                tenant: None,
                actor: "system".into(),
                causation: None,
                event,
            };
            let mut headers = HeaderMap::new();
            headers.insert(async_nats::header::NATS_MESSAGE_ID, envelope.id.to_string());
            let subject = subject::assignment(self.server_id, part);
            let sent =
                jetstream.publish_with_headers(subject, headers, envelope.encode().into()).await.unwrap();
            sent.await.unwrap();
        }
    }

    /// All reports, as they stand in the log.
    pub(crate) async fn reports(&self) -> Vec<Envelope> {
        read(&self.client, LogStream::Recordings).await
    }

    /// All facts, in the order of the log.
    pub(crate) async fn facts(&self) -> Vec<Fact> {
        facts(&self.client).await
    }

    /// Control's connection.
    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// The newest heartbeat.
    pub(crate) async fn heartbeat(&self) -> Option<ServerHeartbeat> {
        let stream =
            jetstream::new(self.client.clone()).get_stream(LogStream::Heartbeats.name()).await.ok()?;
        let message = stream.direct_get_last_for_subject(subject::heartbeat(self.server_id)).await.ok()?;
        let envelope = Envelope::decode(&message.payload).unwrap();
        let Event::ServerHeartbeat(heartbeat) = envelope.event else { panic!("{envelope:?}") };
        Some(heartbeat)
    }

    /// Waits for a heartbeat that `fits`.
    pub(crate) async fn heartbeat_that(
        &self,
        what: &str,
        fits: impl Fn(&ServerHeartbeat) -> bool,
    ) -> ServerHeartbeat {
        eventually(what, async || self.heartbeat().await.filter(|heartbeat| fits(heartbeat))).await
    }
}

async fn read(client: &Client, stream: LogStream) -> Vec<Envelope> {
    let jetstream = jetstream::new(client.clone());
    let mut stream = jetstream.get_stream(stream.name()).await.unwrap();
    let state = stream.info().await.unwrap().state.clone();
    let mut read = Vec::new();
    for sequence in state.first_sequence.max(1)..=state.last_sequence {
        let message = stream.direct_get(sequence).await.unwrap();
        let envelope = Envelope::decode(&message.payload).unwrap();
        assert_eq!(subject::of(&envelope.event).1, message.subject.as_str());
        read.push(envelope);
    }
    read
}

/// All facts, in the order of the log.
pub(crate) async fn facts(client: &Client) -> Vec<Fact> {
    let facts = read(client, LogStream::Recordings).await.into_iter().map(|report| {
        let Event::RecordingReported(report) = report.event else { panic!("{report:?}") };
        report.facts
    });
    facts.flatten().collect()
}

impl Drop for System {
    /// A test that fails shows what the processes had to say.
    fn drop(&mut self) {
        if std::thread::panicking() {
            for name in ["worker.log", "nats.log"] {
                println!("--- {name}\n{}", std::fs::read_to_string(self.path(name)).unwrap_or_default());
            }
        }
    }
}

impl Control {
    async fn answer(self, client: Client, mut requests: Subscriber) {
        while let Some(message) = requests.next().await {
            let request: JoinRequest = serde_json::from_slice(&message.payload).unwrap();
            let key = hmac::Key::new(hmac::HMAC_SHA256, JOIN_KEY.as_bytes());
            let proof = hex::decode(&request.proof).unwrap();
            hmac::verify(&key, request.claim.as_bytes(), &proof).expect("the proof fits");
            *self.claim.lock().unwrap() = Some(serde_json::from_str(&request.claim).unwrap());
            let reply = self.reply.lock().unwrap().clone();
            if let (Some(to), Some(reply)) = (message.reply, reply) {
                client.publish(to, serde_json::to_vec(&reply).unwrap().into()).await.unwrap();
            }
        }
    }
}

fn configuration(folder: &Path, port: u16, server: ServerId) -> String {
    let publish = [
        subject::heartbeat(server),
        subject::recording(server),
        subject::JOIN.into(),
        subject::archive(server),
        "$JS.API.DIRECT.GET.ASSIGNMENTS.>".into(),
    ];
    let subscribe = [subject::assigned(server), subject::trigger(server), "_INBOX.>".into()];
    format!(
        "listen: 127.0.0.1:{port}\n\
         jetstream {{ store_dir: {store:?}, sync_interval: always }}\n\
         authorization {{ users: [\n\
           {{ user: control, password: control }}\n\
           {{ nkey: {WORKER_USER}, permissions: {{ publish: {publish:?}, subscribe: {subscribe:?}, \
             allow_responses: true }} }}\n\
         ] }}\n",
        store = folder.join("store"),
    )
}

/// What control answers a worker that it lets in.
pub(crate) const fn welcome(server_id: ServerId) -> JoinReply {
    JoinReply::Welcome {
        server_id,
        adopted: true,
        heartbeat_interval_ms: 200,
        lease_ms: Some(LEASE_MS),
        media_key: None,
    }
}

/// A camera to assign, its source sealed to `key`.
pub(crate) fn camera(number: u32, epoch: u64, url: &str, key: PublicKey) -> AssignedCamera {
    let source = SourceSecret { url: url.into(), username: None, password: None };
    AssignedCamera {
        tenant_id: TenantId::DEFAULT,
        camera_id: camera_id(number),
        epoch: Epoch(epoch),
        settings_version: Position(1),
        source: Base64Bytes(
            crypto_box::PublicKey::from(key.0).seal(&mut OsRng, &source.to_plaintext()).unwrap(),
        ),
        single_session: false,
        live_latency_ms: None,
        priority: None,
        retention: None,
        recording: None,
    }
}

pub(crate) fn camera_id(number: u32) -> CameraId {
    format!("{number:08x}-0000-7000-8000-000000000000").parse().unwrap()
}

/// The worker; killed when dropped.
pub(crate) struct Worker(Child);

impl Worker {
    pub(crate) async fn kill(mut self) {
        self.0.kill().await.unwrap();
    }

    /// Waits for it to end by itself.
    pub(crate) async fn exit_code(mut self) -> Option<i32> {
        let ended = tokio::time::timeout(DEADLINE, self.0.wait()).await.expect("it ends in time");
        ended.unwrap().code()
    }

    /// Asks it to stop; returns its exit code.
    pub(crate) async fn terminate(self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.exit_code().await
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let id = Pid::from_raw(self.0.id().unwrap().try_into().unwrap()).unwrap();
        kill_process(id, signal).unwrap();
    }
}
