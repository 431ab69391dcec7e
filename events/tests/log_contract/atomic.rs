//! Appending several entries at once: all or none.

use super::*;

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
        vec![entry(1, PLAN, Some(0)), entry(2, PLAN, Some(1))],
        vec![entry(1, A, Some(0)), entry(2, PLAN, None), entry(3, PLAN, Some(0))],
        plan(1, MAX_ATOMIC_ENTRIES as u64 + 1, 0),
    ] {
        let append = log.append_atomically(entries);
        let result = tokio::time::timeout(Duration::from_secs(5), append).await.expect("an answer at once");
        assert!(matches!(result, Err(Error::Refused(_))), "{result:?}");
    }
    for stream in [LogStream::Assignments, LogStream::Log] {
        assert_eq!(log.end(stream).await.expect("an answer"), Position::START);
    }
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

/// A plan in `parts` parts whose ids begin at `n`, behind the plan at `expected_last`.
fn plan(n: u64, parts: u64, expected_last: u64) -> Vec<Entry> {
    (n..n + parts).map(|id| entry(id, PLAN, (id == n).then_some(expected_last))).collect()
}

pub(super) async fn parts_of_one_subject_stand_one_behind_the_other(log: &dyn Log) {
    assert_eq!(log.append_atomically(plan(1, 3, 0)).await.expect("appended"), Position(3));
    append(log, entry(4, A, None)).await;
    assert_eq!(log.append_atomically(plan(5, 2, 3)).await.expect("appended"), Position(6));
    append(log, entry(7, PLAN, Some(6))).await;

    let mut records = follow(log, 0).await;
    for n in 1..=7 {
        let record = next(&mut records).await;
        assert_eq!((record.position.0, record.payload), (n, Bytes::from(format!("event {n}"))));
    }
}

pub(super) async fn subjects_mix_and_each_has_its_condition(log: &dyn Log) {
    append(log, entry(1, A, None)).await;
    let mixed = |n: u64, of_plan: u64| {
        vec![
            entry(n, B, None),
            entry(n + 1, PLAN, Some(of_plan)),
            entry(n + 2, A, Some(1)),
            entry(n + 3, PLAN, None),
            entry(n + 4, A, None),
            entry(n + 5, B, None),
        ]
    };
    let wrong = log.append_atomically(mixed(10, 1)).await;
    assert!(matches!(wrong, Err(Error::Conflict { .. })), "no plan stands there yet: {wrong:?}");
    assert_eq!(log.append_atomically(mixed(20, 0)).await.expect("appended"), Position(7));
    assert_eq!(log.append_atomically(mixed(20, 0)).await.expect("it stands there"), Position(7));
    for (subject, position) in [(PLAN, 5), (A, 6), (B, 7)] {
        let last = log.last(LogStream::Log, subject).await.expect("an answer").expect("a record");
        assert_eq!(last.position, Position(position), "{subject}");
    }
}

pub(super) async fn a_plan_that_was_overtaken_is_kept_out_whole(log: &dyn Log) {
    log.append_atomically(plan(1, 3, 0)).await.expect("appended");
    // Behind nothing, and behind the parts of another plan: only its last part ends the subject.
    for expected in [0, 1, 2, 4] {
        let late = log.append_atomically(plan(10 * (expected + 1), 3, expected)).await;
        assert!(matches!(late, Err(Error::Conflict { subject }) if subject == PLAN), "behind {expected}");
    }
    assert_eq!(log.end(LogStream::Log).await.expect("an answer"), Position(3));
}

pub(super) async fn a_plan_is_recognised_when_it_is_tried_again(log: &dyn Log) {
    let (first, second) = (plan(1, 3, 0), plan(4, 2, 3));
    assert_eq!(log.append_atomically(first.clone()).await.expect("appended"), Position(3));
    assert_eq!(log.append_atomically(first.clone()).await.expect("it stands there"), Position(3));
    assert_eq!(log.append_atomically(second.clone()).await.expect("appended"), Position(5));
    append(log, entry(6, PLAN, Some(5))).await;

    assert_eq!(log.append_atomically(first).await.expect("it stands there"), Position(3));
    assert_eq!(log.append_atomically(second).await.expect("it stands there"), Position(5));
    assert_eq!(log.end(LogStream::Log).await.expect("an answer"), Position(6));
}

pub(super) async fn what_stands_there_in_part_is_refused(log: &dyn Log) {
    append(log, entry(1, PLAN, Some(0))).await;
    append(log, entry(7, A, None)).await;
    let result = log.append_atomically(plan(1, 2, 0)).await;
    assert!(matches!(result, Err(Error::Refused(_))), "{result:?}");
    assert_eq!(log.end(LogStream::Log).await.expect("an answer"), Position(2));
}

pub(super) async fn of_concurrent_plans_exactly_one_wins(log: &dyn Log) {
    const WRITERS: u64 = 6;
    const PARTS: u64 = 5;
    let mut expected = 0;
    for round in 0..5 {
        let tries = (0..WRITERS).map(|writer| {
            log.append_atomically(plan(1 + (round * WRITERS + writer) * PARTS, PARTS, expected))
        });
        let results = future::join_all(tries).await;

        let won: Vec<_> = results.iter().filter_map(|result| result.as_ref().ok()).collect();
        assert_eq!(won, [&Position(expected + PARTS)], "round {round}: {results:?}");
        assert!(results.iter().all(|r| matches!(r, Ok(_) | Err(Error::Conflict { .. }))), "{results:?}");
        expected = won[0].0;
    }
}

pub(super) async fn the_largest_plan_is_appended_atomically(log: &dyn Log) {
    let most = MAX_ATOMIC_ENTRIES as u64;
    assert_eq!(log.append_atomically(plan(1, most, 0)).await.expect("appended"), Position(most));
    assert_eq!(log.append_atomically(plan(1, most, 0)).await.expect("it stands there"), Position(most));
    assert_eq!(log.append_atomically(plan(most + 1, 2, most)).await.expect("appended"), Position(most + 2));
}
