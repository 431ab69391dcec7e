//! Appending one entry at a time, and following.

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
