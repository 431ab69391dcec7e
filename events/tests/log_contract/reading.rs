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

/// The positions of a page, whose records are what following shows.
async fn page(log: &dyn Log, stream: LogStream, after: u64, up_to: u64) -> Vec<u64> {
    let page = log.read(stream, Position(after), Position(up_to)).await.expect("an answer");
    page.iter().map(|record| record.position.0).collect()
}

pub(super) async fn a_stretch_is_read_without_what_is_around_it(log: &dyn Log) {
    append_series(log, 10).await;
    for (after, up_to) in [(0, 10), (0, u64::MAX), (3, 7), (6, 7), (0, 1), (9, 12)] {
        let expected: Vec<_> = (after + 1..=up_to.min(10)).collect();
        assert_eq!(page(log, LogStream::Log, after, up_to).await, expected, "{after} to {up_to}");
    }
    for (after, up_to) in [(7, 7), (7, 3), (10, 20), (50, u64::MAX), (u64::MAX, u64::MAX)] {
        assert_eq!(page(log, LogStream::Log, after, up_to).await, [0; 0], "{after} to {up_to}");
    }
    assert_eq!(page(log, LogStream::Recordings, 0, u64::MAX).await, [0; 0]);
}

pub(super) async fn what_is_read_is_what_is_followed(log: &dyn Log) {
    append_series(log, 4).await;
    append(log, Entry { payload: Bytes::new(), ..entry(5, PLAN, None) }).await;
    let read = log.read(LogStream::Log, Position(1), Position(5)).await.expect("an answer");
    let mut records = follow(log, 1).await;
    for record in read {
        assert_eq!(record, next(&mut records).await);
    }
}

pub(super) async fn a_stretch_with_replaced_records_ends_where_it_should(log: &dyn Log) {
    for (n, part) in [(1, 1), (2, 2), (3, 1), (4, 3), (5, 1), (6, 4)] {
        let subject = format!("lw.assignment.a.{part}");
        append(log, Entry { stream: LogStream::Assignments, subject, ..entry(n, A, None) }).await;
    }
    assert_eq!(page(log, LogStream::Assignments, 0, 5).await, [2, 4, 5]);
    assert_eq!(page(log, LogStream::Assignments, 0, 3).await, [2]);
    assert_eq!(page(log, LogStream::Assignments, 2, 3).await, [0; 0]);
}

pub(super) async fn page_by_page_everything_is_read_once(log: &dyn Log) {
    // Given: more than a page by number, and more than a page by bytes behind it.
    let large = Bytes::from(vec![b'x'; 900_000]);
    let small = 2 * MAX_PAGE as u64 + 1;
    for first in (1..=small).step_by(MAX_ATOMIC_ENTRIES) {
        let entries = (first..=small.min(first + MAX_ATOMIC_ENTRIES as u64 - 1))
            .map(|n| entry(n, PLAN, (n == first).then_some(first - 1)));
        log.append_atomically(entries.collect()).await.expect("appended");
    }
    for n in small + 1..=small + 90 {
        append(log, Entry { payload: large.clone(), ..entry(n, A, None) }).await;
    }

    let mut seen = 0;
    loop {
        let records = log.read(LogStream::Log, Position(seen), Position(u64::MAX)).await.expect("an answer");
        if records.is_empty() {
            break;
        }
        assert!(records.len() <= MAX_PAGE);
        for record in records {
            assert_eq!(record.position.0, seen + 1);
            assert_eq!(record.payload.len() == large.len(), record.position.0 > small);
            seen += 1;
        }
    }
    assert_eq!(seen, small + 90);
}
