//! The contract of [`Log`]: one suite, run on every implementation. What JetStream alone promises, because it is
//! about a server that can die, stands in `jetstream.rs`.

#[allow(dead_code, reason = "killed and restarted in jetstream.rs only")]
#[path = "common/nats.rs"]
mod nats;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, future};
use longwatch_events::id::EventId;
use longwatch_events::log::jetstream::{JetStreamLog, Settings, connect};
use longwatch_events::log::memory::MemoryLog;
use longwatch_events::log::{Entry, Error, Follow, Log, Record};
use longwatch_events::position::Position;
use longwatch_events::subject::{LogStream, PLAN};
use longwatch_events::time::SystemClock;
use uuid::Uuid;

const A: &str = "lw.log.provider.server.a";
const B: &str = "lw.log.provider.server.b";

/// Runs every case on every implementation, each on an empty log of its own.
macro_rules! contract {
    ($($case:ident,)*) => {
        mod memory {
            $(
                #[tokio::test]
                async fn $case() {
                    super::cases::$case(&super::memory_log()).await;
                }
            )*
        }

        mod jetstream {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let nats = super::nats::NatsServer::start().await;
                    super::cases::$case(&super::jetstream_log(&nats).await).await;
                }
            )*
        }
    };
}

contract! {
    an_empty_log_has_no_end_and_no_last,
    positions_grow_from_one,
    the_streams_count_apart,
    what_was_appended_reads_back_byte_for_byte,
    the_same_id_is_appended_once,
    a_wrong_expectation_is_a_conflict_and_writes_nothing,
    an_expectation_is_about_its_subject_only,
    of_concurrent_writers_exactly_one_wins,
    a_retry_of_what_did_arrive_is_a_success,
    a_retry_succeeds_even_if_another_appended_behind_it,
    last_is_the_newest_of_its_subject,
    following_from_the_start_sees_everything_once_and_in_order,
    following_from_the_middle_sees_what_is_behind_it,
    following_from_beyond_the_end_sees_only_what_is_behind_it,
    followers_see_what_is_appended_later,
    a_follower_of_an_empty_stream_waits_for_its_first_record,
    a_payload_over_one_mebibyte_is_refused_at_once,
    assignments_keep_the_last_of_each_subject,
    what_is_appended_atomically_stands_one_behind_the_other,
    one_broken_condition_keeps_all_of_it_out,
    an_atomic_retry_of_what_did_arrive_is_a_success,
    what_cannot_be_atomic_is_refused,
    large_parts_are_appended_atomically,
}

fn memory_log() -> MemoryLog {
    MemoryLog::new(Arc::new(SystemClock))
}

async fn jetstream_log(nats: &nats::NatsServer) -> JetStreamLog {
    let client = connect(&nats.url(), None, "contract").await.expect("a client");
    let log = JetStreamLog::new(client);
    log.ensure_streams(Settings::default()).await.expect("streams");
    log
}

/// An entry of `LOG` whose id and payload follow from `n`.
fn entry(n: u64, subject: &str, expected_last: Option<u64>) -> Entry {
    Entry {
        stream: LogStream::Log,
        subject: subject.to_owned(),
        id: EventId::from_uuid(Uuid::from_u128(u128::from(n))),
        payload: Bytes::from(format!("event {n}")),
        expected_last: expected_last.map(Position),
    }
}

async fn append(log: &dyn Log, entry: Entry) -> u64 {
    log.append(entry).await.expect("appended").0
}

async fn is_conflict(log: &dyn Log, entry: Entry) -> bool {
    let expected = entry.subject.clone();
    matches!(log.append(entry).await, Err(Error::Conflict { subject }) if subject == expected)
}

/// Appends events 1 to `n`, alternating between two subjects.
async fn append_series(log: &dyn Log, n: u64) {
    for i in 1..=n {
        assert_eq!(append(log, entry(i, if i % 2 == 1 { A } else { B }, None)).await, i);
    }
}

async fn follow(log: &dyn Log, after: u64) -> Follow {
    log.follow(LogStream::Log, Position(after)).await.expect("a follower")
}

async fn next(follow: &mut Follow) -> Record {
    tokio::time::timeout(Duration::from_secs(20), follow.next())
        .await
        .expect("a record within 20 s")
        .expect("following has no end")
        .expect("no error")
}

/// The positions of the next records, up to `last`, which must come. A repeated or unordered one shows.
async fn positions_until(follow: &mut Follow, last: u64) -> Vec<u64> {
    let mut positions = Vec::new();
    while positions.last() != Some(&last) {
        positions.push(next(follow).await.position.0);
    }
    positions
}

mod cases {
    use super::*;

    pub(super) async fn an_empty_log_has_no_end_and_no_last(log: &dyn Log) {
        for stream in LogStream::ALL {
            assert_eq!(log.end(stream).await.expect("an answer"), Position::START);
        }
        assert_eq!(log.last(LogStream::Log, A).await.expect("an answer"), None);
    }

    pub(super) async fn positions_grow_from_one(log: &dyn Log) {
        append_series(log, 10).await;
        assert_eq!(log.end(LogStream::Log).await.expect("an answer"), Position(10));
    }

    pub(super) async fn the_streams_count_apart(log: &dyn Log) {
        append_series(log, 3).await;
        let heartbeat =
            Entry { stream: LogStream::Heartbeats, subject: "lw.heartbeat.a".into(), ..entry(4, A, None) };
        assert_eq!(append(log, heartbeat).await, 1);
        assert_eq!(log.end(LogStream::Log).await.expect("an answer"), Position(3));
        assert_eq!(log.end(LogStream::Heartbeats).await.expect("an answer"), Position(1));
    }

    pub(super) async fn what_was_appended_reads_back_byte_for_byte(log: &dyn Log) {
        let payload = Bytes::from((0..=u8::MAX).cycle().take(70_000).collect::<Vec<_>>());
        append(log, entry(1, A, None)).await;
        append(log, Entry { payload: payload.clone(), ..entry(2, B, None) }).await;

        let mut records = follow(log, 0).await;
        let (first, second) = (next(&mut records).await, next(&mut records).await);

        assert_eq!((first.subject.as_str(), first.payload.as_ref()), (A, b"event 1".as_slice()));
        assert_eq!((second.subject.as_str(), &second.payload), (B, &payload));
        assert!(first.stored_at <= second.stored_at, "the log's clock went back");
        assert_eq!(log.last(LogStream::Log, B).await.expect("an answer"), Some(second));
    }

    pub(super) async fn the_same_id_is_appended_once(log: &dyn Log) {
        let first = append(log, entry(1, A, None)).await;
        append(log, entry(2, B, None)).await;
        assert_eq!(append(log, entry(1, A, None)).await, first);
        append(log, entry(3, A, None)).await;
        assert_eq!(positions_until(&mut follow(log, 0).await, 3).await, [1, 2, 3]);
    }

    pub(super) async fn a_wrong_expectation_is_a_conflict_and_writes_nothing(log: &dyn Log) {
        assert!(is_conflict(log, entry(1, A, Some(7))).await, "the subject is empty");
        append(log, entry(2, A, Some(0))).await;
        assert!(is_conflict(log, entry(3, A, Some(0))).await, "the subject is not empty any more");
        append(log, entry(4, A, Some(1))).await;
        assert!(is_conflict(log, entry(5, A, Some(1))).await, "another one stands behind it");
        assert!(is_conflict(log, entry(6, A, Some(3))).await, "nothing stands there");
        assert_eq!(log.end(LogStream::Log).await.expect("an answer"), Position(2));
    }

    pub(super) async fn an_expectation_is_about_its_subject_only(log: &dyn Log) {
        append(log, entry(1, A, Some(0))).await;
        append(log, entry(2, B, Some(0))).await;
        append(log, entry(3, PLAN, Some(0))).await;
        append(log, entry(4, A, Some(1))).await;
        assert_eq!(append(log, entry(5, B, Some(2))).await, 5);
    }

    pub(super) async fn of_concurrent_writers_exactly_one_wins(log: &dyn Log) {
        const WRITERS: u64 = 8;
        let mut expected = 0;
        for round in 0..10 {
            let tries = (1..=WRITERS).map(|i| log.append(entry(round * WRITERS + i, PLAN, Some(expected))));
            let results = future::join_all(tries).await;

            let won: Vec<_> = results.iter().filter_map(|result| result.as_ref().ok()).collect();
            assert_eq!(won.len(), 1, "round {round}: {results:?}");
            assert!(results.iter().all(|r| matches!(r, Ok(_) | Err(Error::Conflict { .. }))), "{results:?}");
            assert_eq!(won[0].0, expected + 1);
            expected = won[0].0;
        }
    }

    pub(super) async fn a_retry_of_what_did_arrive_is_a_success(log: &dyn Log) {
        let first = append(log, entry(1, A, Some(0))).await;
        assert_eq!(append(log, entry(1, A, Some(0))).await, first);
        let second = append(log, entry(2, A, Some(first))).await;
        assert_eq!(append(log, entry(2, A, Some(first))).await, second);
        assert_eq!(log.end(LogStream::Log).await.expect("an answer"), Position(second));
    }

    pub(super) async fn a_retry_succeeds_even_if_another_appended_behind_it(log: &dyn Log) {
        let first = append(log, entry(1, A, Some(0))).await;
        append(log, entry(2, B, Some(0))).await;
        let second = append(log, entry(3, A, Some(first))).await;
        append(log, entry(4, A, Some(second))).await;

        assert_eq!(append(log, entry(1, A, Some(0))).await, first);
        assert_eq!(append(log, entry(3, A, Some(first))).await, second);
        assert!(is_conflict(log, entry(5, A, Some(first))).await, "a stranger's append is still a conflict");
        assert_eq!(log.end(LogStream::Log).await.expect("an answer"), Position(4));
    }

    pub(super) async fn last_is_the_newest_of_its_subject(log: &dyn Log) {
        append_series(log, 5).await;
        let last_of_a = log.last(LogStream::Log, A).await.expect("an answer").expect("a record");
        let last_of_b = log.last(LogStream::Log, B).await.expect("an answer").expect("a record");
        assert_eq!((last_of_a.position.0, last_of_a.payload.as_ref()), (5, b"event 5".as_slice()));
        assert_eq!((last_of_b.position.0, last_of_b.payload.as_ref()), (4, b"event 4".as_slice()));
        assert_eq!(log.last(LogStream::Log, PLAN).await.expect("an answer"), None);
    }

    pub(super) async fn following_from_the_start_sees_everything_once_and_in_order(log: &dyn Log) {
        append_series(log, 300).await;
        let mut records = follow(log, 0).await;
        for i in 1..=300 {
            let record = next(&mut records).await;
            assert_eq!(record.position.0, i);
            assert_eq!(record.payload, format!("event {i}").as_bytes());
            assert_eq!(record.subject, if i % 2 == 1 { A } else { B });
        }
    }

    pub(super) async fn following_from_the_middle_sees_what_is_behind_it(log: &dyn Log) {
        append_series(log, 10).await;
        assert_eq!(positions_until(&mut follow(log, 7).await, 10).await, [8, 9, 10]);
        let mut from_the_end = follow(log, 10).await;
        append(log, entry(11, A, None)).await;
        assert_eq!(next(&mut from_the_end).await.position.0, 11);
    }

    pub(super) async fn following_from_beyond_the_end_sees_only_what_is_behind_it(log: &dyn Log) {
        append_series(log, 2).await;
        let mut records = follow(log, 4).await;
        let mut never = follow(log, u64::MAX).await;
        for i in 3..=6 {
            append(log, entry(i, A, None)).await;
        }
        assert_eq!(positions_until(&mut records, 6).await, [5, 6]);
        assert!(futures::poll!(never.next()).is_pending(), "nothing stands behind the last position");
    }

    pub(super) async fn followers_see_what_is_appended_later(log: &dyn Log) {
        append_series(log, 3).await;
        let (mut one, mut other) = (follow(log, 0).await, follow(log, 2).await);
        assert_eq!(positions_until(&mut one, 3).await, [1, 2, 3]);
        for i in 4..=50 {
            append(log, entry(i, B, None)).await;
        }
        assert_eq!(positions_until(&mut one, 50).await, (4..=50).collect::<Vec<_>>());
        assert_eq!(positions_until(&mut other, 50).await, (3..=50).collect::<Vec<_>>());
    }

    pub(super) async fn a_follower_of_an_empty_stream_waits_for_its_first_record(log: &dyn Log) {
        let mut records = follow(log, 0).await;
        assert!(futures::poll!(records.next()).is_pending());
        append(log, entry(1, A, None)).await;
        assert_eq!(next(&mut records).await.position.0, 1);
    }

    pub(super) async fn a_payload_over_one_mebibyte_is_refused_at_once(log: &dyn Log) {
        let payload = Bytes::from(vec![b' '; (1 << 20) + 1]);
        let append = log.append(Entry { payload, ..entry(1, A, None) });
        let result = tokio::time::timeout(Duration::from_secs(5), append).await.expect("an answer at once");
        assert!(matches!(result, Err(Error::Refused(_))), "{result:?}");
        assert_eq!(log.end(LogStream::Log).await.expect("an answer"), Position::START);
    }

    pub(super) async fn assignments_keep_the_last_of_each_subject(log: &dyn Log) {
        let part = |n: u64, part: u32| Entry {
            stream: LogStream::Assignments,
            subject: format!("lw.assignment.a.{part}"),
            ..entry(n, A, None)
        };
        for (n, number) in [(1, 1), (2, 2), (3, 1), (4, 3), (5, 1)] {
            append(log, part(n, number)).await;
        }
        let mut records = log.follow(LogStream::Assignments, Position::START).await.expect("a follower");
        assert_eq!(positions_until(&mut records, 5).await, [2, 4, 5]);
        assert_eq!(log.end(LogStream::Assignments).await.expect("an answer"), Position(5));
        let last = log.last(LogStream::Assignments, "lw.assignment.a.1").await.expect("an answer");
        assert_eq!(last.expect("a record").position, Position(5));
    }

    fn part(n: u64, part: u32, expected_last: Option<u64>) -> Entry {
        Entry {
            stream: LogStream::Assignments,
            subject: format!("lw.assignment.a.{part}"),
            ..entry(n, A, expected_last)
        }
    }

    async fn last_part(log: &dyn Log, part: u32) -> Option<(u64, Bytes)> {
        let subject = format!("lw.assignment.a.{part}");
        let last = log.last(LogStream::Assignments, &subject).await.expect("an answer");
        last.map(|record| (record.position.0, record.payload))
    }

    pub(super) async fn what_is_appended_atomically_stands_one_behind_the_other(log: &dyn Log) {
        let first = vec![part(1, 3, None), part(2, 2, None), part(3, 1, Some(0))];
        assert_eq!(log.append_atomically(first).await.expect("appended"), Position(3));
        assert_eq!(log.append_atomically(vec![part(4, 1, Some(3))]).await.expect("appended"), Position(4));
        let again = vec![part(5, 1, Some(4)), part(6, 2, None)];
        assert_eq!(log.append_atomically(again).await.expect("appended"), Position(6));
        for (number, position) in [(1, 5), (2, 6), (3, 1)] {
            let payload = Bytes::from(format!("event {position}"));
            assert_eq!(last_part(log, number).await, Some((position, payload)), "part {number}");
        }
    }

    pub(super) async fn one_broken_condition_keeps_all_of_it_out(log: &dyn Log) {
        let first = vec![part(1, 2, None), part(2, 1, Some(0))];
        log.append_atomically(first).await.expect("appended");
        for expected in [0, 1, 7] {
            let late = vec![part(10 + expected, 2, None), part(20 + expected, 1, Some(expected))];
            let result = log.append_atomically(late).await;
            let is_conflict =
                matches!(&result, Err(Error::Conflict { subject }) if subject == "lw.assignment.a.1");
            assert!(is_conflict, "{result:?}");
        }
        assert_eq!(last_part(log, 2).await, Some((1, Bytes::from("event 1"))));
        assert_eq!(log.end(LogStream::Assignments).await.expect("an answer"), Position(2));
    }

    pub(super) async fn an_atomic_retry_of_what_did_arrive_is_a_success(log: &dyn Log) {
        let entries = vec![part(1, 1, Some(0)), part(2, 2, None), part(3, 3, None)];
        let first = log.append_atomically(entries.clone()).await.expect("appended");
        assert_eq!(log.append_atomically(entries.clone()).await.expect("it stands there"), first);
        append(log, part(4, 1, Some(1))).await;
        let late = log.append_atomically(vec![part(5, 1, Some(1)), part(6, 2, None)]).await;
        assert!(matches!(late, Err(Error::Conflict { .. })), "another one stands behind it: {late:?}");
        assert_eq!(log.end(LogStream::Assignments).await.expect("an answer"), Position(4));
    }

    pub(super) async fn what_cannot_be_atomic_is_refused(log: &dyn Log) {
        let too_large = Entry { payload: Bytes::from(vec![b' '; (1 << 20) + 1]), ..part(2, 2, None) };
        for entries in [
            vec![],
            vec![part(1, 1, None), part(2, 2, None)],
            vec![part(1, 1, Some(0)), part(2, 1, None)],
            vec![part(1, 1, Some(0)), entry(2, A, None)],
            vec![part(1, 1, Some(0)), too_large],
        ] {
            let append = log.append_atomically(entries);
            let result =
                tokio::time::timeout(Duration::from_secs(5), append).await.expect("an answer at once");
            assert!(matches!(result, Err(Error::Refused(_))), "{result:?}");
        }
        assert_eq!(log.end(LogStream::Assignments).await.expect("an answer"), Position::START);
    }

    pub(super) async fn large_parts_are_appended_atomically(log: &dyn Log) {
        let payload = Bytes::from(vec![b'x'; 700_000]);
        let large = |n: u64, number: u32| {
            let expected_last = (number == 1).then_some(0);
            Entry { payload: payload.clone(), ..part(n, number, expected_last) }
        };
        let entries = (1..=12).map(|number| large(u64::from(number), number)).collect();
        assert_eq!(log.append_atomically(entries).await.expect("appended"), Position(12));
        assert_eq!(last_part(log, 12).await, Some((12, payload)));
    }
}
