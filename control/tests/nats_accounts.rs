//! Who may reach what in Single's NATS, tried against a real nats-server with the configuration that Single writes.
//!
//! The log streams are made here with the properties that matter for reaching them (subjects, republishing, direct
//! get); their full settings are tested where they are made.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use async_nats::jetstream::{self, stream};
use async_nats::{Client, ConnectOptions, HeaderMap};
use futures::StreamExt;
use longwatch_control::single::nats::{self, Prepared};
use longwatch_events::log::Log as _;
use longwatch_events::log::jetstream::JetStreamLog;
use longwatch_events::position::Position;
use longwatch_events::subject::{LogStream, REPUBLISH_FROM, REPUBLISH_TO};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

const DEADLINE: Duration = Duration::from_secs(10);
/// How long to look for something that must not come. What would come, comes within a millisecond on loopback, and
/// every such check first sees its control message arrive.
const SILENCE: Duration = Duration::from_millis(300);

/// A running nats-server on a folder of its own, ended with this value.
struct Server {
    process: Child,
    prepared: Prepared,
    folder: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Server {
    async fn start() -> Self {
        let named = std::env::var_os("LONGWATCH_NATS_SERVER").map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/bin/nats-server"),
            PathBuf::from,
        );
        let program = nats::find(Some(&named)).await.expect("run `make tools` first");
        let folder = tempfile::tempdir().unwrap();
        let prepared = nats::prepare(&folder.path().join("nats")).unwrap();
        let process = Command::new(program)
            .args(prepared.args())
            .stdin(Stdio::null())
            .spawn()
            .expect("nats-server starts");
        let server = Self { process, prepared, folder };
        timeout(DEADLINE, nats::wait_until_answering(server.prepared.address))
            .await
            .expect("nats-server answers");
        let control = jetstream::new(server.control().await);
        for log_stream in LogStream::ALL {
            let republish = (log_stream == LogStream::Assignments).then(|| stream::Republish {
                source: REPUBLISH_FROM.to_owned(),
                destination: REPUBLISH_TO.to_owned(),
                headers_only: false,
            });
            let config = stream::Config {
                name: log_stream.name().to_owned(),
                subjects: vec![log_stream.subjects().to_owned()],
                allow_direct: true,
                republish,
                ..Default::default()
            };
            control.create_stream(config).await.unwrap();
        }
        server
    }

    async fn control(&self) -> Client {
        self.client(&self.prepared.control_seed).await
    }

    async fn worker(&self) -> Client {
        self.client(&self.prepared.worker_seed).await
    }

    async fn auditor(&self) -> Client {
        self.client(&self.prepared.audit_seed).await
    }

    async fn client(&self, seed: &Path) -> Client {
        let seed = std::fs::read_to_string(seed).unwrap().trim().to_owned();
        ConnectOptions::with_nkey(seed)
            .request_timeout(Some(Duration::from_secs(2)))
            .connect(self.prepared.url())
            .await
            .unwrap()
    }
}

/// Subject and payload of everything in a log stream, read as control.
async fn stored(server: &Server, log_stream: LogStream) -> Vec<(String, String)> {
    let context = jetstream::new(server.control().await);
    let stream = context.get_stream(log_stream.name()).await.unwrap();
    let state = stream.get_info().await.unwrap().state;
    let mut messages = Vec::new();
    for sequence in state.first_sequence.max(1)..=state.last_sequence {
        let message = stream.get_raw_message(sequence).await.unwrap();
        messages.push((message.subject.to_string(), String::from_utf8(message.payload.to_vec()).unwrap()));
    }
    messages
}

/// Waits until a log stream holds `count` messages: what was sent before them has then been decided, too.
async fn wait_for(server: &Server, log_stream: LogStream, count: u64) {
    let context = jetstream::new(server.control().await);
    let deadline = Instant::now() + DEADLINE;
    loop {
        let mut stream = context.get_stream(log_stream.name()).await.unwrap();
        if stream.info().await.unwrap().state.messages >= count {
            return;
        }
        assert!(Instant::now() < deadline, "{log_stream} never held {count} messages");
        sleep(Duration::from_millis(10)).await;
    }
}

/// Requests that must not be answered by anyone.
async fn assert_refused<const N: usize>(client: &Client, requests: [(&'static str, Value); N]) {
    let answers = requests.map(|(subject, body)| async move {
        // Refused silently, so there is nothing to wait for but the time.
        let answer = timeout(4 * SILENCE, client.request(subject, body.to_string().into())).await;
        assert!(!matches!(answer, Ok(Ok(_))), "{subject} answered {answer:?}");
    });
    futures::future::join_all(answers).await;
}

/// Payload of the newest message of `LOG`, as an auditor asks for it.
async fn newest(auditor: &Client) -> String {
    let request = json!({ "last_by_subj": ">" }).to_string();
    let reply = auditor.request("$JS.API.DIRECT.GET.LOG", request.into()).await.unwrap();
    assert_eq!(reply.headers.unwrap().get("Nats-Sequence").unwrap().as_str(), "250");
    String::from_utf8(reply.payload.to_vec()).unwrap()
}

#[tokio::test]
async fn a_worker_stores_heartbeats_and_facts_and_gets_the_acknowledgement() {
    let server = Server::start().await;
    let worker = jetstream::new(server.worker().await);

    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", "one");
    let publish =
        worker.publish_with_headers("lw.heartbeat.s1", headers.clone(), "alive".into()).await.unwrap();
    let first = publish.await.unwrap();
    assert_eq!((first.stream.as_str(), first.sequence, first.duplicate), ("HEARTBEATS", 1, false));
    let again =
        worker.publish_with_headers("lw.heartbeat.s1", headers, "alive".into()).await.unwrap().await.unwrap();
    assert!(again.duplicate, "headers pass: a retried fact is recognised");
    let fact = worker.publish("lw.recording.s1", "segment".into()).await.unwrap().await.unwrap();
    assert_eq!((fact.stream.as_str(), fact.sequence), ("RECORDINGS", 1));

    let heartbeats = stored(&server, LogStream::Heartbeats).await;
    assert_eq!(heartbeats, [("lw.heartbeat.s1".to_owned(), "alive".to_owned())]);
}

#[tokio::test]
async fn many_facts_in_flight_are_each_acknowledged() {
    let server = Server::start().await;
    let worker = jetstream::new(server.worker().await);
    let mut in_flight = Vec::new();
    for number in 0..1000 {
        in_flight.push(worker.publish("lw.recording.s1", number.to_string().into()).await.unwrap());
    }
    for (number, publish) in in_flight.into_iter().enumerate() {
        assert_eq!(usize::try_from(publish.await.unwrap().sequence).unwrap(), number + 1);
    }
}

/// A request of a worker on `subject`, as control hears it and answers it on `listening`.
async fn is_answered(listening: &'static str, subject: &'static str) {
    let server = Server::start().await;
    let control = server.control().await;
    let mut requests = control.subscribe(listening).await.unwrap();
    control.flush().await.unwrap();
    let answering = tokio::spawn(async move {
        let request = requests.next().await.unwrap();
        control.publish(request.reply.unwrap(), "welcome".into()).await.unwrap();
        control.flush().await.unwrap();
        (request.subject, request.payload)
    });

    let reply = server.worker().await.request(subject, "let me in".into()).await.unwrap();

    assert_eq!(reply.payload, "welcome");
    let (heard_on, payload) = answering.await.unwrap();
    assert_eq!((heard_on.as_str(), payload.as_ref()), (subject, b"let me in".as_slice()));
}

#[tokio::test]
async fn a_worker_asks_to_join_and_is_answered() {
    is_answered("lw.join", "lw.join").await;
}

#[tokio::test]
async fn a_worker_asks_what_it_is_known_to_have_and_is_answered() {
    is_answered("lw.archive.*", "lw.archive.s1").await;
}

#[tokio::test]
async fn a_worker_is_told_of_an_event_and_answers_once_and_only_there() {
    let server = Server::start().await;
    let (control, worker) = (server.control().await, server.worker().await);
    let mut told = worker.subscribe("lw.trigger.s1").await.unwrap();
    worker.flush().await.unwrap();
    let answering = tokio::spawn(async move {
        let request = told.next().await.unwrap();
        let reply_to = request.reply.unwrap();
        worker.publish(reply_to.clone(), "taken".into()).await.unwrap();
        // What it was not asked, it may say nowhere; and what it was asked, it may say once.
        worker.publish("lw.log.plan", "forged".into()).await.unwrap();
        worker.publish("lw.trigger.s2", "forged".into()).await.unwrap();
        worker.publish(reply_to, "again".into()).await.unwrap();
        worker.publish("lw.heartbeat.s1", "after them".into()).await.unwrap();
        worker.flush().await.unwrap();
        (request.subject, request.payload)
    });
    let mut others = server.worker().await.subscribe("lw.trigger.s2").await.unwrap();

    let reply = control.request("lw.trigger.s1", "motion".into()).await.unwrap();

    assert_eq!(reply.payload, "taken");
    let (heard_on, payload) = answering.await.unwrap();
    assert_eq!((heard_on.as_str(), payload.as_ref()), ("lw.trigger.s1", b"motion".as_slice()));
    wait_for(&server, LogStream::Heartbeats, 1).await;
    assert_eq!(stored(&server, LogStream::Log).await, []);
    assert!(timeout(SILENCE, others.next()).await.is_err(), "a worker tells no other one of events");
}

#[tokio::test]
async fn a_worker_reads_its_assignment_and_hears_of_the_next() {
    let server = Server::start().await;
    let control = jetstream::new(server.control().await);
    let worker = server.worker().await;
    let mut assigned = worker.subscribe("lw.assigned.s1.*").await.unwrap();
    worker.flush().await.unwrap();

    control.publish("lw.assignment.s1.1", "first".into()).await.unwrap().await.unwrap();
    control.publish("lw.assignment.s2.1", "not for s1".into()).await.unwrap().await.unwrap();
    control.publish("lw.assignment.s1.1", "second".into()).await.unwrap().await.unwrap();

    for (sequence, payload) in [("1", "first"), ("3", "second")] {
        let heard = timeout(DEADLINE, assigned.next()).await.unwrap().unwrap();
        assert_eq!(heard.subject.as_str(), "lw.assigned.s1.1");
        assert_eq!(heard.payload, payload);
        let headers = heard.headers.unwrap();
        assert_eq!(headers.get("Nats-Sequence").map(async_nats::HeaderValue::as_str), Some(sequence));
    }
    let stream = jetstream::new(worker).get_stream_no_info("ASSIGNMENTS").await.unwrap();
    let last = stream.direct_get_last_for_subject("lw.assignment.s1.1").await.unwrap();
    assert_eq!((last.sequence, last.payload.as_ref()), (3, b"second".as_slice()));
    assert!(stream.direct_get_last_for_subject("lw.assignment.s3.1").await.is_err(), "there is none");
}

#[tokio::test]
async fn a_worker_cannot_write_to_the_log_or_anywhere_else() {
    let server = Server::start().await;
    let worker = server.worker().await;

    for subject in
        ["lw.log.plan", "lw.log.provider.server.s1", "lw.assignment.s1.1", "lw.assigned.s1.1", "_R_.x"]
    {
        worker.publish(subject, "forged".into()).await.unwrap();
    }
    // One connection is served in order: once this is stored, the others have been decided.
    worker.publish("lw.heartbeat.s1", "after them".into()).await.unwrap();
    wait_for(&server, LogStream::Heartbeats, 1).await;

    assert_eq!(stored(&server, LogStream::Log).await, []);
    assert_eq!(stored(&server, LogStream::Assignments).await, []);
}

#[tokio::test]
async fn a_reply_or_trace_subject_named_by_a_worker_stores_nothing_in_the_log() {
    let server = Server::start().await;
    let worker = server.worker().await;

    // Inside one account each of these would make the server itself write to LOG.
    worker.publish_with_reply("lw.heartbeat.s1", "lw.log.plan", "ack me there".into()).await.unwrap();
    worker.publish_with_reply("lw.recording.s1", "lw.log.plan", "and me".into()).await.unwrap();
    let read = "$JS.API.DIRECT.GET.ASSIGNMENTS.lw.assignment.s1.1";
    worker.publish_with_reply(read, "lw.log.plan", "".into()).await.unwrap();
    worker.publish_with_reply("lw.join", "lw.log.plan", "".into()).await.unwrap();
    worker.publish_with_reply("lw.archive.s1", "lw.log.plan", "".into()).await.unwrap();
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Trace-Dest", "lw.log.plan");
    worker.publish_with_headers("lw.recording.s1", headers, "trace me there".into()).await.unwrap();
    worker.publish("lw.heartbeat.s1", "after them".into()).await.unwrap();
    wait_for(&server, LogStream::Heartbeats, 2).await;
    sleep(SILENCE).await;
    assert_eq!(stored(&server, LogStream::Log).await, []);

    // The same inside the account, to show that there was something to see, and time to see it.
    let control = server.control().await;
    control.publish_with_reply("lw.heartbeat.s1", "lw.log.plan", "ack me there".into()).await.unwrap();
    control.flush().await.unwrap();
    sleep(SILENCE).await;
    assert_eq!(stored(&server, LogStream::Log).await.len(), 1);
}

#[tokio::test]
async fn a_worker_cannot_use_the_rest_of_the_jetstream_api() {
    let server = Server::start().await;
    let control = jetstream::new(server.control().await);
    control.publish("lw.log.plan", "secret".into()).await.unwrap().await.unwrap();
    let worker = server.worker().await;

    let consumer =
        json!({ "stream_name": "LOG", "config": { "ack_policy": "none", "deliver_subject": "_INBOX.mine" } });
    let requests = [
        ("$JS.API.INFO", json!({})),
        ("$JS.API.STREAM.NAMES", json!({})),
        ("$JS.API.STREAM.CREATE.MINE", json!({ "name": "MINE", "subjects": ["mine.>"] })),
        ("$JS.API.STREAM.UPDATE.LOG", json!({ "name": "LOG", "subjects": ["elsewhere.>"] })),
        ("$JS.API.STREAM.INFO.LOG", json!({})),
        ("$JS.API.STREAM.PURGE.LOG", json!({})),
        ("$JS.API.STREAM.DELETE.LOG", json!({})),
        ("$JS.API.STREAM.MSG.DELETE.LOG", json!({ "seq": 1 })),
        ("$JS.API.STREAM.MSG.GET.LOG", json!({ "seq": 1 })),
        ("$JS.API.STREAM.SNAPSHOT.LOG", json!({ "deliver_subject": "_INBOX.mine" })),
        ("$JS.API.CONSUMER.CREATE.LOG", consumer.clone()),
        ("$JS.API.CONSUMER.CREATE.LOG.mine", consumer.clone()),
        ("$JS.API.CONSUMER.CREATE.ASSIGNMENTS.mine", consumer),
        ("$JS.API.DIRECT.GET.LOG", json!({ "seq": 1 })),
        ("$JS.API.DIRECT.GET.LOG.lw.log.plan", json!({})),
        ("$JS.API.DIRECT.GET.ASSIGNMENTS", json!({ "seq": 1 })),
        ("$JS.API.DIRECT.GET.BACKLOG", json!({ "seq": 1 })),
        ("$JS.API.CONSUMER.INFO.BACKLOG.backlog", json!({})),
    ];
    assert_refused(&worker, requests).await;

    let mut names = control.stream_names();
    let mut left = Vec::new();
    while let Some(name) = names.next().await {
        left.push(name.unwrap());
    }
    left.sort();
    assert_eq!(left, ["ASSIGNMENTS", "BACKLOG", "HEARTBEATS", "LOG", "RECORDINGS"]);
    assert_eq!(stored(&server, LogStream::Log).await.len(), 1);
}

#[tokio::test]
async fn a_worker_cannot_listen_to_what_is_not_its_own() {
    let server = Server::start().await;
    let control = server.control().await;
    let worker = server.worker().await;
    let mut heard = Vec::new();
    for subject in [
        ">",
        "lw.>",
        "lw.log.>",
        "lw.recording.>",
        "lw.heartbeat.>",
        "lw.assignment.>",
        "$JS.>",
        "lw.join",
        "lw.archive.>",
    ] {
        heard.push((subject, worker.subscribe(subject).await.unwrap()));
    }
    let mut assigned = worker.subscribe("lw.assigned.s1.*").await.unwrap();
    worker.flush().await.unwrap();

    for subject in [
        "lw.log.plan",
        "lw.recording.s1",
        "lw.heartbeat.s1",
        "lw.join",
        "lw.archive.s1",
        "lw.assignment.s1.1",
    ] {
        control.publish(subject, "for control only".into()).await.unwrap();
    }
    // The last of them reaches the worker as an assignment, so the others would have come before it.
    timeout(DEADLINE, assigned.next()).await.unwrap().unwrap();

    for (subject, mut subscription) in heard {
        // A refused subscription is silent or closed.
        let message = timeout(SILENCE, subscription.next()).await.ok().flatten();
        assert!(message.is_none(), "{subject} heard {message:?}");
    }
}

#[tokio::test]
async fn an_auditor_reads_the_log_in_batches_and_writes_nothing() {
    let server = Server::start().await;
    let control = jetstream::new(server.control().await);
    for number in 1..=250 {
        control.publish("lw.log.plan", number.to_string().into()).await.unwrap().await.unwrap();
    }
    control.publish("lw.assignment.s1.1", "sealed".into()).await.unwrap().await.unwrap();
    let auditor = server.auditor().await;

    assert_eq!(newest(&auditor).await, "250");
    let inbox = auditor.new_inbox();
    let mut replies = auditor.subscribe(inbox.clone()).await.unwrap();
    let batch = json!({ "seq": 1, "batch": 250 }).to_string();
    auditor.publish_with_reply("$JS.API.DIRECT.GET.LOG", inbox, batch.into()).await.unwrap();
    for number in 1..=250 {
        let message = timeout(DEADLINE, replies.next()).await.unwrap().unwrap();
        assert_eq!(message.payload, number.to_string());
    }

    let push = json!({ "stream_name": "RECORDINGS", "config": { "ack_policy": "none", "deliver_subject": "lw.log.plan" } });
    let refused = [
        ("$JS.API.CONSUMER.CREATE.RECORDINGS.mine", push),
        ("$JS.API.STREAM.PURGE.LOG", json!({})),
        ("$JS.API.STREAM.MSG.DELETE.LOG", json!({ "seq": 1 })),
        ("$JS.API.STREAM.DELETE.LOG", json!({})),
        ("$JS.API.STREAM.INFO.LOG", json!({})),
        ("$JS.API.DIRECT.GET.ASSIGNMENTS", json!({ "seq": 1 })),
        ("$JS.API.DIRECT.GET.ASSIGNMENTS.lw.assignment.s1.1", json!({})),
        ("lw.join", json!({})),
        ("lw.archive.s1", json!({})),
        ("lw.trigger.s1", json!({})),
    ];
    assert_refused(&auditor, refused).await;
    for subject in ["lw.log.plan", "lw.heartbeat.s1", "lw.recording.s1"] {
        auditor.publish(subject, "forged".into()).await.unwrap();
    }
    let last = json!({ "last_by_subj": ">" }).to_string();
    auditor.publish_with_reply("$JS.API.DIRECT.GET.LOG", "lw.log.plan", last.into()).await.unwrap();
    // Served in order: once this is answered, the others have been decided.
    assert_eq!(newest(&auditor).await, "250");
    sleep(SILENCE).await;
    assert_eq!(stored(&server, LogStream::Log).await.len(), 250);
    assert_eq!(stored(&server, LogStream::Recordings).await, []);
}

#[tokio::test]
async fn an_auditor_reads_pages_and_records_through_the_log() {
    let server = Server::start().await;
    let control = jetstream::new(server.control().await);
    for number in 1..=250 {
        control.publish("lw.log.plan", number.to_string().into()).await.unwrap().await.unwrap();
    }
    let log = JetStreamLog::new(server.auditor().await);

    let page = log.read(LogStream::Log, Position(40), Position(240)).await.unwrap();
    let positions: Vec<_> = page.iter().map(|record| record.position.0).collect();
    assert_eq!(positions, (41..=240).collect::<Vec<_>>());
    assert!(log.read(LogStream::Log, Position(250), Position(u64::MAX)).await.unwrap().is_empty());
    assert_eq!(log.get(LogStream::Log, Position(41)).await.unwrap().as_ref(), page.first());
    assert_eq!(log.get(LogStream::Log, Position(251)).await.unwrap(), None);
    assert!(log.follow(LogStream::Log, Position::START).await.is_err(), "that takes a consumer");
}

#[tokio::test]
async fn nobody_comes_in_without_a_key() {
    let server = Server::start().await;
    let url = server.prepared.url();
    assert!(async_nats::connect(&url).await.is_err());
    let stranger = nkeys::KeyPair::new_user().seed().unwrap();
    assert!(ConnectOptions::with_nkey(stranger).connect(&url).await.is_err());
}

#[tokio::test]
async fn the_store_and_the_log_are_in_the_folder() {
    let server = Server::start().await;
    assert!(server.folder.path().join("nats/jetstream").is_dir());
    let text = std::fs::read_to_string(&server.prepared.log).unwrap();
    assert!(text.contains("Server is ready"), "{text}");
}
