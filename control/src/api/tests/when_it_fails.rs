//! What a client is told when the system itself fails.

use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::{BoxFuture, ready};
use longwatch_events::id::CountingIds;
use longwatch_events::log::memory::MemoryLog;
use longwatch_events::log::{self, Entry, Follow, Log, Record};
use longwatch_events::position::Position;
use longwatch_events::subject::LogStream;
use longwatch_events::time::{ManualClock, Timestamp};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::super::{App, layered, router, serve};
use super::*;
use crate::follower;
use crate::read_model::sqlite::SqliteReadModel;
use crate::secrets::Secrets;
use crate::service::{Parts, Service};
use crate::testing::START;

/// A log that can be read and takes nothing.
struct ReadOnly(MemoryLog);

impl Log for ReadOnly {
    fn append(&self, _: Entry) -> BoxFuture<'_, Result<Position, log::Error>> {
        ready(Err(log::Error::Unavailable("nats://10.9.8.7 is away".to_owned()))).boxed()
    }

    fn append_atomically(&self, _: Vec<Entry>) -> BoxFuture<'_, Result<Position, log::Error>> {
        ready(Err(log::Error::Unavailable("nats://10.9.8.7 is away".to_owned()))).boxed()
    }

    fn follow(&self, stream: LogStream, after: Position) -> BoxFuture<'_, Result<Follow, log::Error>> {
        self.0.follow(stream, after)
    }

    fn signal(&self, subject: String) -> BoxFuture<'_, Result<(), log::Error>> {
        self.0.signal(subject)
    }

    fn connection(&self) -> Option<u64> {
        self.0.connection()
    }

    fn end(&self, stream: LogStream) -> BoxFuture<'_, Result<Position, log::Error>> {
        self.0.end(stream)
    }

    fn last<'a>(
        &'a self,
        stream: LogStream,
        subject: &'a str,
    ) -> BoxFuture<'a, Result<Option<Record>, log::Error>> {
        self.0.last(stream, subject)
    }

    fn get(
        &self,
        stream: LogStream,
        position: Position,
    ) -> BoxFuture<'_, Result<Option<Record>, log::Error>> {
        self.0.get(stream, position)
    }

    fn ask(
        &self,
        subject: String,
        payload: Bytes,
        limit: Duration,
    ) -> BoxFuture<'_, Result<Option<Bytes>, log::Error>> {
        self.0.ask(subject, payload, limit)
    }

    fn since(&self, stream: LogStream, at: Timestamp) -> BoxFuture<'_, Result<Position, log::Error>> {
        self.0.since(stream, at)
    }

    fn read(
        &self,
        stream: LogStream,
        after: Position,
        up_to: Position,
    ) -> BoxFuture<'_, Result<Vec<Record>, log::Error>> {
        self.0.read(stream, after, up_to)
    }
}

/// A service that folds nothing by itself.
async fn idle_service(folder: &std::path::Path) -> Arc<Service> {
    let clock = Arc::new(ManualClock::starting_at(START));
    let read_model = SqliteReadModel::open(&folder.join("read_model.db")).await.unwrap();
    let log = MemoryLog::new(clock.clone());
    Arc::new(Service::new(Parts {
        log: Arc::new(ReadOnly(log.clone())),
        backlog: Arc::new(log),
        read_model: Arc::new(read_model),
        secrets: Secrets::in_file(folder.join("master.key")),
        clock,
        ids: Arc::new(CountingIds::default()),
    }))
}

#[tokio::test]
async fn a_replica_that_still_replays_the_log_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let service = idle_service(folder.path()).await;
    let api = router(Arc::clone(&service), Key::from_text(KEY)).merge(super::super::operations(service));
    let starting = send(&api, keyed("GET", "/v1/system")).await;
    assert_eq!(starting.header("retry-after"), "2");
    starting.problem(503, "starting");
    let ready = send(&api, keyed("GET", "/readyz")).await.expect(503).json();
    assert_eq!(ready["ready"], false);
    assert!(!ready["problems"].as_array().unwrap().is_empty());
    send(&api, keyed("GET", "/livez")).await.expect(200);
}

#[tokio::test]
async fn a_log_that_is_away_is_told_without_its_address() {
    let folder = tempfile::tempdir().unwrap();
    let service = idle_service(folder.path()).await;
    let folding = Arc::clone(&service);
    let fold = tokio::spawn(async move { follower::follow_log(&folding, None).await });
    service.progress().wait_for(|progress| progress.caught_up).await.unwrap();
    let api = router(service, Key::from_text(KEY));

    let mut request = keyed("POST", "/v1/tenants");
    request.headers_mut().insert("content-type", "application/json".parse().unwrap());
    *request.body_mut() = Body::from(r#"{ "name": "Harbour" }"#);
    let away = send(&api, request).await;

    assert_eq!(away.header("retry-after"), "2");
    assert!(!away.problem(503, "log_unavailable").to_string().contains("10.9.8.7"));
    send(&api, keyed("GET", "/v1/tenants")).await.expect(200);
    fold.abort();
}

async fn breaks() -> &'static str {
    panic!("geheim")
}

#[tokio::test]
async fn a_panic_or_a_slow_answer_is_a_problem_like_any_other() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::new(idle_service(folder.path()).await, Key::from_text(KEY));
    let routes = Router::new()
        .route("/panic", axum::routing::get(breaks))
        .route("/slow", axum::routing::get(std::future::pending::<()>));
    let api = layered(routes, &app, Duration::from_millis(50)).with_state(app);
    let problem = send(&api, keyed("GET", "/panic")).await.problem(500, "internal");
    assert!(!problem.to_string().contains("geheim"), "{problem}");
    let slow = send(&api, keyed("GET", "/slow")).await;
    assert_eq!(slow.header("retry-after"), "2");
    slow.problem(503, "timeout");
}

#[tokio::test]
async fn it_is_served_on_two_listeners_until_it_is_told_to_stop() {
    let folder = tempfile::tempdir().unwrap();
    let service = idle_service(folder.path()).await;
    let (api, operations) =
        (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let addresses = [api.local_addr().unwrap(), operations.local_addr().unwrap()];
    let stop = CancellationToken::new();
    let served = tokio::spawn(serve(service, Key::from_text(KEY), api, Some(operations), stop.clone()));

    let mut statuses = Vec::new();
    for address in addresses {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        statuses.push(text.split(' ').nth(1).unwrap().to_owned());
    }
    assert_eq!(statuses, ["404", "200"], "the operators' endpoints have a listener of their own");

    stop.cancel();
    tokio::time::timeout(Duration::from_secs(10), served).await.expect("it stops").unwrap().unwrap();
}
