//! Reading what stands there.

use super::*;

async fn get(log: &dyn Log, stream: LogStream, position: u64) -> Option<Record> {
    log.get(stream, Position(position)).await.expect("an answer")
}

pub(super) async fn a_record_is_got_by_its_position(log: &dyn Log) {
    append_series(log, 5).await;
    let mut records = follow(log, 0).await;
    for position in 1..=5 {
        assert_eq!(get(log, LogStream::Log, position).await, Some(next(&mut records).await));
    }
    for nowhere in [0, 6, u64::MAX] {
        assert_eq!(get(log, LogStream::Log, nowhere).await, None, "position {nowhere}");
    }
    assert_eq!(get(log, LogStream::Recordings, 1).await, None);
}

pub(super) async fn what_was_replaced_is_not_got(log: &dyn Log) {
    for (n, part) in [(1, 1), (2, 2), (3, 1)] {
        let subject = format!("lw.assignment.a.{part}");
        append(log, Entry { stream: LogStream::Assignments, subject, ..entry(n, A, None) }).await;
    }
    for (position, payload) in [(1, None), (2, Some("event 2")), (3, Some("event 3"))] {
        let found = get(log, LogStream::Assignments, position).await.map(|record| record.payload);
        assert_eq!(found, payload.map(Bytes::from), "position {position}");
    }
}

async fn since(log: &dyn Log, stream: LogStream, micros: i64) -> u64 {
    log.since(stream, Timestamp::from_micros(micros)).await.expect("an answer").0
}

pub(super) async fn a_time_leads_to_what_was_stored_since(log: &dyn Log) {
    append_series(log, 20).await;
    let mut records = follow(log, 0).await;
    let mut standing = Vec::new();
    for _ in 1..=20 {
        let record = next(&mut records).await;
        standing.push((record.position.0, record.stored_at.as_micros()));
    }

    for (_, stored_at) in &standing {
        for at in [stored_at - 1, *stored_at, stored_at + 1] {
            let first = standing.iter().find(|(_, stored_at)| *stored_at >= at);
            let expected = first.map_or(20, |(position, _)| position - 1);
            assert_eq!(since(log, LogStream::Log, at).await, expected, "at {at} of {standing:?}");
        }
    }
    for (at, expected) in [(i64::MIN, 0), (0, 0), (i64::MAX, 20)] {
        assert_eq!(since(log, LogStream::Log, at).await, expected, "at {at}");
    }
}

pub(super) async fn an_empty_stream_leads_to_its_start(log: &dyn Log) {
    append_series(log, 2).await;
    for at in [0, i64::MAX] {
        assert_eq!(since(log, LogStream::Heartbeats, at).await, 0);
    }
}

pub(super) async fn a_time_leads_past_what_was_replaced(log: &dyn Log) {
    for n in 1..=3 {
        let subject = "lw.assignment.a.1".to_owned();
        append(log, Entry { stream: LogStream::Assignments, subject, ..entry(n, A, None) }).await;
    }
    assert_eq!(since(log, LogStream::Assignments, 0).await, 2);
}
