//! What the log on JetStream promises beyond the contract of every log: its streams' settings, and that a server that
//! is killed loses, repeats and reorders nothing that was acknowledged.

#[path = "common/nats.rs"]
mod nats;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::stream::{Compression, Config};
use async_nats::jetstream::{self, Context};
use bytes::Bytes;
use futures::StreamExt;
use longwatch_events::id::{EventId, ServerId};
use longwatch_events::log::jetstream::{JetStreamLog, Settings};
use longwatch_events::log::{self, Entry, Error, Follow, Log, MAX_ATOMIC_ENTRIES, Record};
use longwatch_events::position::Position;
use longwatch_events::subject::{self, LogStream};
use longwatch_events::time::Timestamp;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use nats::NatsServer;

async fn connect(nats: &NatsServer) -> async_nats::Client {
    log::jetstream::connect(&nats.url(), None, "test").await.expect("a client")
}

async fn empty_log(nats: &NatsServer) -> (JetStreamLog, Context) {
    let client = connect(nats).await;
    let log = JetStreamLog::new(client.clone());
    log.ensure_streams(Settings::default()).await.expect("streams");
    (log, jetstream::new(client))
}

fn entry(n: u128, stream: LogStream, subject: &str) -> Entry {
    Entry {
        stream,
        subject: subject.to_owned(),
        id: EventId::from_uuid(Uuid::from_u128(n)),
        payload: Bytes::from(format!("event {n}")),
        expected_last: None,
        connection: None,
    }
}

async fn config_of(context: &Context, stream: LogStream) -> Config {
    context.get_stream(stream.name()).await.expect("it exists").cached_info().config.clone()
}

#[tokio::test]
async fn ensuring_the_streams_twice_changes_nothing() {
    let nats = NatsServer::start().await;
    let (log, context) = empty_log(&nats).await;
    log.append(entry(1, LogStream::Log, subject::PLAN)).await.expect("appended");
    let mut before = Vec::new();
    for stream in LogStream::ALL {
        before.push(config_of(&context, stream).await);
    }

    log.ensure_streams(Settings::default()).await.expect("once more");

    for (stream, before) in LogStream::ALL.into_iter().zip(before) {
        assert_eq!(config_of(&context, stream).await, before, "{stream}");
    }
    assert_eq!(log.end(LogStream::Log).await.expect("an answer"), Position(1));
}

#[tokio::test]
async fn ensuring_the_streams_brings_older_settings_up_to_date() {
    // Given: streams as an earlier version might have made them, with records.
    let nats = NatsServer::start().await;
    let client = connect(&nats).await;
    let context = jetstream::new(client.clone());
    for stream in LogStream::ALL {
        let older = Config {
            name: stream.name().to_owned(),
            subjects: vec![stream.subjects().to_owned()],
            ..Config::default()
        };
        context.create_stream(older).await.expect("created");
    }
    let log = JetStreamLog::new(client);
    log.append(entry(1, LogStream::Log, subject::PLAN)).await.expect("appended");

    // When
    let settings = Settings { heartbeats_max_age: Duration::from_secs(3600), ..Settings::default() };
    log.ensure_streams(settings).await.expect("updated");

    // Then
    let of_log = config_of(&context, LogStream::Log).await;
    assert!(of_log.deny_delete && of_log.deny_purge && of_log.allow_direct && of_log.allow_atomic_publish);
    assert_eq!(of_log.compression, Some(Compression::S2));
    assert_eq!(config_of(&context, LogStream::Heartbeats).await.max_age, Duration::from_secs(3600));
    let of_assignments = config_of(&context, LogStream::Assignments).await;
    assert_eq!(of_assignments.max_messages_per_subject, 1);
    assert!(of_assignments.allow_atomic_publish);
    let last = log.last(LogStream::Log, subject::PLAN).await.expect("an answer").expect("kept");
    assert_eq!(last.payload, "event 1");

    // And again, with other bounds.
    log.ensure_streams(Settings::default()).await.expect("updated");
    assert_eq!(
        config_of(&context, LogStream::Heartbeats).await.max_age,
        Settings::default().heartbeats_max_age
    );
}

#[tokio::test]
async fn how_long_heartbeats_are_kept_changes_while_they_come() {
    // Given: a log with heartbeats, and a follower.
    let nats = NatsServer::start().await;
    let (log, context) = empty_log(&nats).await;
    let before = config_of(&context, LogStream::Heartbeats).await;
    let mut follow = log.follow(LogStream::Heartbeats, Position::START).await.expect("a follower");
    for n in 1..=20 {
        let payload = Bytes::from(vec![b'x'; 1_000]);
        let heartbeat = Entry { payload, ..entry(n, LogStream::Heartbeats, subject::CONTROL_TICK) };
        log.append(heartbeat).await.expect("appended");
        assert_eq!(u128::from(next(&mut follow).await.position.0), n);
    }
    let first = async || {
        let since = log.since(LogStream::Heartbeats, Timestamp::from_micros(0)).await.expect("an answer");
        since.next().0
    };

    // When: fewer bytes are kept. Then: the newest of them.
    let (max_age, max_bytes) = (before.max_age, 5_000);
    log.set_heartbeats_retention(max_age, max_bytes).await.expect("changed");
    assert!((16..=19).contains(&first().await), "{} is the first", first().await);

    // When: they are kept for a moment only. Then: they go by themselves.
    log.set_heartbeats_retention(Duration::from_millis(200), max_bytes).await.expect("changed");
    let gone = async { while first().await <= 20 {} };
    timeout(Duration::from_secs(20), gone).await.expect("in time");
    assert_eq!(log.end(LogStream::Heartbeats).await.expect("an answer"), Position(20));

    // When: it is as it was. Then: nothing else has changed, and the follower goes on.
    log.set_heartbeats_retention(before.max_age, before.max_bytes).await.expect("changed");
    assert_eq!(config_of(&context, LogStream::Heartbeats).await, before);
    log.append(entry(21, LogStream::Heartbeats, subject::CONTROL_TICK)).await.expect("appended");
    assert_eq!(next(&mut follow).await.position, Position(21));
}

#[tokio::test]
async fn heartbeats_that_are_gone_are_not_what_a_time_leads_to() {
    let nats = NatsServer::start().await;
    let (log, context) = empty_log(&nats).await;
    for n in 1..=5 {
        log.append(entry(n, LogStream::Heartbeats, subject::CONTROL_TICK)).await.expect("appended");
    }
    let third = log.get(LogStream::Heartbeats, Position(3)).await.expect("an answer").expect("a record");
    let stream = context.get_stream("HEARTBEATS").await.expect("it exists");
    stream.purge().sequence(5).await.expect("purged");

    let since = log.since(LogStream::Heartbeats, third.stored_at).await.expect("an answer");

    assert_eq!(since, Position(4));
    let mut follow = log.follow(LogStream::Heartbeats, since).await.expect("a follower");
    assert_eq!(next(&mut follow).await.position, Position(5));
}

#[tokio::test]
async fn nobody_deletes_from_the_log() {
    let nats = NatsServer::start().await;
    let (log, context) = empty_log(&nats).await;
    log.append(entry(1, LogStream::Log, subject::PLAN)).await.expect("appended");
    let stream = context.get_stream("LOG").await.expect("it exists");

    stream.delete_message(1).await.expect_err("deleting is denied");
    stream.purge().await.expect_err("purging is denied");
    let mut lax = config_of(&context, LogStream::Log).await;
    lax.deny_delete = false;
    context.update_stream(lax).await.expect_err("what is denied stays denied");

    let last = log.last(LogStream::Log, subject::PLAN).await.expect("an answer").expect("kept");
    assert_eq!(last.payload, "event 1");
}

#[tokio::test]
async fn assignments_are_republished_with_their_position() {
    let nats = NatsServer::start().await;
    let (log, context) = empty_log(&nats).await;
    let server = ServerId::from_uuid(Uuid::from_u128(1));
    let other = ServerId::from_uuid(Uuid::from_u128(2));
    let mut copies = context.client().subscribe(subject::assigned(server)).await.expect("subscribed");
    context.client().flush().await.expect("the subscription is there");

    for (n, server, part) in [(1, server, 1), (2, other, 1), (3, server, 2), (4, server, 1)] {
        let assignment = entry(n, LogStream::Assignments, &subject::assignment(server, part));
        log.append(assignment).await.expect("appended");
    }
    let part = |n, number| entry(n, LogStream::Assignments, &subject::assignment(server, number));
    let both = vec![part(5, 2), Entry { expected_last: Some(Position(4)), ..part(6, 1) }];
    log.append_atomically(both).await.expect("appended");

    for (sequence, part) in [(1, 1), (3, 2), (4, 1), (5, 2), (6, 1)] {
        let copy = timeout(Duration::from_secs(20), copies.next()).await.expect("in time").expect("a copy");
        let headers = copy.headers.expect("headers");
        assert_eq!(headers.get("Nats-Sequence").expect("a position").as_str(), sequence.to_string());
        assert_eq!(copy.subject.as_str(), format!("lw.assigned.{server}.{part}"));
        assert_eq!(copy.payload, format!("event {sequence}"));
    }
}

#[tokio::test]
async fn without_its_streams_the_log_says_it_is_unavailable() {
    let nats = NatsServer::start().await;
    let log = JetStreamLog::new(connect(&nats).await);
    assert!(matches!(log.end(LogStream::Log).await, Err(Error::Unavailable(_))));
    let follow = log.follow(LogStream::Log, Position::START).await;
    assert!(matches!(follow.map(|_| ()), Err(Error::Unavailable(_))));
}

#[tokio::test]
async fn what_was_decided_on_one_connection_is_not_appended_on_another() {
    let mut nats = NatsServer::start().await;
    let (log, _) = empty_log(&nats).await;
    let on = |n: u128, connection| Entry { connection, ..entry(n, LogStream::Log, subject::PLAN) };
    let connection = log.connection();
    assert!(connection.is_some());
    log.append(on(1, connection)).await.expect("appended");

    // While there is none, it is refused at once, and not sent later.
    nats.kill();
    while log.connection().is_some() {
        sleep(Duration::from_millis(10)).await;
    }
    let pair = || vec![Entry { expected_last: Some(Position(1)), ..on(3, connection) }, on(4, connection)];
    let asked = Instant::now();
    assert!(matches!(log.append(on(2, connection)).await, Err(Error::Disconnected)));
    assert!(matches!(log.append_atomically(pair()).await, Err(Error::Disconnected)));
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());

    // Nor on the next one.
    nats.restart().await;
    let deadline = Instant::now() + Duration::from_secs(10);
    while log.connection().is_none() {
        assert!(Instant::now() < deadline, "it does not connect");
        sleep(Duration::from_millis(10)).await;
    }
    assert_ne!(log.connection(), connection);
    assert!(matches!(log.append(on(2, connection)).await, Err(Error::Disconnected)));
    assert!(matches!(log.append_atomically(pair()).await, Err(Error::Disconnected)));
    assert_eq!(log.end(LogStream::Log).await.expect("an answer"), Position(1));
    // Whoever knows the new one, or does not mind, goes on.
    assert_eq!(log.append(on(2, log.connection())).await.expect("appended"), Position(2));
    assert_eq!(log.append(on(5, None)).await.expect("appended"), Position(3));
}

#[tokio::test]
async fn a_follower_that_has_seen_nothing_yet_stays_where_it_was_across_a_restart() {
    // Given: a follower from the end on, with old records that it must not be shown.
    let mut nats = NatsServer::start().await;
    let (log, _) = empty_log(&nats).await;
    for n in 1..=3 {
        log.append(entry(n, LogStream::Log, subject::PLAN)).await.expect("appended");
    }
    let mut follow = log.follow(LogStream::Log, Position(3)).await.expect("a follower");
    // It waits all the time, as in control.
    let waiting = tokio::spawn(async move { next(&mut follow).await });

    // When
    nats.kill();
    nats.restart().await;
    log.append(entry(4, LogStream::Log, subject::PLAN)).await.expect("appended");

    // Then
    assert_eq!(waiting.await.expect("it went on").position, Position(4));
}

#[tokio::test]
async fn a_follower_whose_consumer_is_deleted_goes_on_behind_what_it_saw() {
    // Given: a follower that saw two of three records.
    let nats = NatsServer::start().await;
    let (log, context) = empty_log(&nats).await;
    for n in 1..=2 {
        log.append(entry(n, LogStream::Log, subject::PLAN)).await.expect("appended");
    }
    let mut follow = log.follow(LogStream::Log, Position::START).await.expect("a follower");
    assert_eq!(next(&mut follow).await.position, Position(1));
    assert_eq!(next(&mut follow).await.position, Position(2));

    // When: its consumer is gone although the connection is not, and the log goes on.
    let stream = context.get_stream("LOG").await.expect("it exists");
    let consumers: Vec<_> = stream.consumer_names().collect().await;
    assert_eq!(consumers.len(), 1);
    for name in consumers {
        stream.delete_consumer(&name.expect("a name")).await.expect("deleted");
    }
    for n in 3..=4 {
        log.append(entry(n, LogStream::Log, subject::PLAN)).await.expect("appended");
    }

    // Then
    assert_eq!(next(&mut follow).await.position, Position(3));
    assert_eq!(next(&mut follow).await.position, Position(4));
}

async fn next(follow: &mut Follow) -> Record {
    let record = timeout(Duration::from_secs(60), follow.next()).await.expect("a record within 60 s");
    record.expect("following has no end").expect("no error")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_is_recognised_by_its_condition_once_its_ids_are_forgotten() {
    // Given: a plan in parts, another one behind it, and a server that remembers ids for a tenth of a second.
    let nats = NatsServer::start().await;
    let (log, context) = empty_log(&nats).await;
    let window = Duration::from_millis(100);
    let forgetful = Config { duplicate_window: window, ..config_of(&context, LogStream::Log).await };
    context.update_stream(forgetful).await.expect("updated");
    let (first, second) = (plan(1, 3, Position::START), plan(4, 2, Position(3)));
    log.append_atomically(first.clone()).await.expect("appended");
    log.append_atomically(second.clone()).await.expect("appended");
    let ids_are_forgotten = async {
        let probe = entry(100, LogStream::Log, "lw.log.provider.server.probe");
        let first = log.append(probe.clone()).await.expect("appended");
        while log.append(probe.clone()).await.expect("appended") == first {}
        log.end(LogStream::Log).await.expect("an answer")
    };
    let end = timeout(Duration::from_secs(20), ids_are_forgotten).await.expect("in time");

    // When, Then
    assert_eq!(log.append_atomically(first).await.expect("it stands there"), Position(3));
    assert_eq!(log.append_atomically(second).await.expect("it stands there"), Position(5));
    let late = log.append_atomically(plan(10, 2, Position(3))).await;
    assert!(matches!(late, Err(Error::Conflict { .. })), "{late:?}");
    assert_eq!(log.end(LogStream::Log).await.expect("an answer"), end);
}

#[tokio::test]
async fn the_most_entries_are_as_many_as_the_server_takes() {
    let nats = NatsServer::start().await;
    let (log, context) = empty_log(&nats).await;
    let client = context.client();
    let batch = async |id: &str, size: usize| {
        let headers = |number: usize| {
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Batch-Id", id);
            headers.insert("Nats-Batch-Sequence", number.to_string());
            headers
        };
        for number in 1..size {
            let publish = client.publish_with_headers(subject::PLAN, headers(number), "part".into());
            publish.await.expect("published");
        }
        let mut last = headers(size);
        last.insert("Nats-Batch-Commit", "1");
        context.publish_with_headers(subject::PLAN, last, "part".into()).await.expect("sent").await
    };

    let refused = batch("too large", MAX_ATOMIC_ENTRIES + 1).await.expect_err("it is too large");
    assert!(refused.to_string().contains("batch is too large"), "{refused}");
    let taken = batch("largest", MAX_ATOMIC_ENTRIES).await.expect("it is not too large");

    assert_eq!(taken.sequence, MAX_ATOMIC_ENTRIES as u64);
    assert_eq!(log.end(LogStream::Log).await.expect("an answer"), Position(taken.sequence));
}

/// A plan in parts whose ids begin at `n`, behind the one that ends at `expected_last`.
fn plan(n: u128, parts: u128, expected_last: Position) -> Vec<Entry> {
    let part = |id| Entry {
        expected_last: (id == n).then_some(expected_last),
        ..entry(id, LogStream::Log, subject::PLAN)
    };
    (n..n + parts).map(part).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_keeps_plans_whole_and_once() {
    // Given: a planner that appends plan after plan, each in parts, and repeats what it knows no outcome of.
    const PLANS: usize = 120;
    const PARTS: usize = 5;
    let mut nats = NatsServer::start().await;
    let (log, _) = empty_log(&nats).await;
    let acknowledged = Arc::new(AtomicUsize::new(0));
    let (planner, counter) = (log.clone(), Arc::clone(&acknowledged));
    let planner = tokio::spawn(async move {
        let mut end = Position::START;
        for number in 0..PLANS {
            let parts = plan((number * PARTS) as u128, PARTS as u128, end);
            let deadline = Instant::now() + Duration::from_secs(60);
            end = loop {
                match planner.append_atomically(parts.clone()).await {
                    Ok(end) => break end,
                    Err(Error::Unavailable(_)) if Instant::now() < deadline => {}
                    Err(error) => panic!("plan {number}: {error}"),
                }
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
        end
    });

    // When
    for kill in 1..=KILLS {
        let deadline = Instant::now() + Duration::from_secs(60);
        while acknowledged.load(Ordering::Relaxed) < kill * PLANS / (KILLS + 1) {
            assert!(Instant::now() < deadline, "the planner stands still before kill {kill}");
            sleep(Duration::from_millis(1)).await;
        }
        nats.kill();
        nats.restart().await;
    }

    // Then
    assert_eq!(planner.await.expect("no plan failed").0, (PLANS * PARTS) as u64);
    let standing = collect(open(&log).await, PLANS * PARTS).await;
    let found: Vec<_> = standing.into_iter().map(|record| record.payload).collect();
    let expected: Vec<_> = (0..PLANS * PARTS).map(|n| Bytes::from(format!("event {n}"))).collect();
    assert!(found == expected, "{}", first_difference(&found, &expected));
    assert_eq!(log.end(LogStream::Log).await.expect("an answer").0, (PLANS * PARTS) as u64);
}

/// How many append at once, how much each, and how often the server is killed meanwhile.
const WRITERS: usize = 8;
const EACH: usize = 150;
const KILLS: usize = 3;

/// The promise of architecture.md: reconnect without loss or repeat.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_loses_repeats_and_reorders_nothing() {
    // Given: writers in the middle of their series, and a follower that is open all the time.
    let mut nats = NatsServer::start().await;
    let (log, _) = empty_log(&nats).await;
    // Opened before the first kill: opening is one request, which the server may take to its grave.
    let follow = open(&JetStreamLog::new(connect(&nats).await)).await;
    let follower = tokio::spawn(collect(follow, WRITERS * EACH));
    let acknowledged = Arc::new(AtomicUsize::new(0));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| tokio::spawn(write_series(log.clone(), writer, Arc::clone(&acknowledged))))
        .collect();

    // When: the server is killed and comes back, again and again.
    for kill in 1..=KILLS {
        let deadline = Instant::now() + Duration::from_secs(60);
        while acknowledged.load(Ordering::Relaxed) < kill * WRITERS * EACH / (KILLS + 1) {
            assert!(Instant::now() < deadline, "the writers stand still before kill {kill}");
            sleep(Duration::from_millis(1)).await;
        }
        nats.kill();
        nats.restart().await;
    }

    // Then: what was acknowledged stands exactly where it was said to, once, and nothing else stands there.
    let mut promised = BTreeMap::new();
    for writer in writers {
        for (position, payload) in writer.await.expect("no writer failed") {
            assert_eq!(promised.insert(position, payload), None, "two appends at {position}");
        }
    }
    assert_eq!(log.end(LogStream::Log).await.expect("an answer").0, (WRITERS * EACH) as u64);
    let standing = collect(open(&log).await, WRITERS * EACH).await;
    let expected: Vec<_> = promised.into_iter().collect();
    let found: Vec<_> = standing.iter().map(|r| (r.position, r.payload.clone())).collect();
    assert!(found == expected, "{}", first_difference(&found, &expected));

    // And the follower saw the same.
    let seen = follower.await.expect("the follower went on");
    assert!(seen == standing, "{}", first_difference(&seen, &standing));
}

/// Appends one by one; half of the writers under the condition that nobody else did. A try whose outcome is unknown is
/// repeated with the same id: it must never come back as a conflict.
async fn write_series(
    log: JetStreamLog,
    writer: usize,
    acknowledged: Arc<AtomicUsize>,
) -> Vec<(Position, Bytes)> {
    let mut written: Vec<(Position, Bytes)> = Vec::new();
    for i in 0..EACH {
        let number = (writer * EACH + i) as u128;
        let last = written.last().map_or(Position::START, |(position, _)| *position);
        let entry = Entry {
            expected_last: writer.is_multiple_of(2).then_some(last),
            ..entry(number, LogStream::Log, &format!("lw.log.provider.server.{writer}"))
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        let position = loop {
            match log.append(entry.clone()).await {
                Ok(position) => break position,
                Err(Error::Unavailable(_)) if Instant::now() < deadline => {}
                Err(error) => panic!("writer {writer}, event {number}: {error}"),
            }
        };
        assert!(position > last, "writer {writer} was told {position} after {last}");
        written.push((position, entry.payload));
        acknowledged.fetch_add(1, Ordering::Relaxed);
    }
    written
}

async fn open(log: &JetStreamLog) -> Follow {
    log.follow(LogStream::Log, Position::START).await.expect("a follower")
}

async fn collect(mut follow: Follow, count: usize) -> Vec<Record> {
    let mut records = Vec::new();
    while records.len() < count {
        let record = timeout(Duration::from_secs(90), follow.next()).await;
        let record = record.unwrap_or_else(|_| panic!("nothing more after {} records", records.len()));
        records.push(record.expect("following has no end").expect("no error"));
    }
    records
}

fn first_difference<T: PartialEq + std::fmt::Debug>(found: &[T], expected: &[T]) -> String {
    let at = found.iter().zip(expected).position(|(f, e)| f != e).unwrap_or(found.len().min(expected.len()));
    format!("index {at}: found {:?}, expected {:?}", found.get(at), expected.get(at))
}
