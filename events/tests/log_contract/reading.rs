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
