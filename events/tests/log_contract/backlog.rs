//! The backlog: what waits counts once.

use std::collections::BTreeSet;

use longwatch_events::id::CameraId;
use longwatch_events::log::Backlog;
use longwatch_events::subject;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

use super::*;

fn camera(n: u64) -> CameraId {
    CameraId::from_uuid(Uuid::from_u128(u128::from(n)))
}

fn waiting(n: u64, of: u64, copy: u8) -> Entry {
    let subject = subject::backlog(camera(of), copy);
    Entry { stream: LogStream::Backlog, subject, ..entry(n, A, None) }
}

async fn list(log: &impl Backlog) -> BTreeSet<(CameraId, u8)> {
    log.list().await.expect("an answer")
}

/// The count follows within a moment; it must.
async fn until_pending(log: &impl Backlog, expected: u64) {
    let follows = async { while log.pending().await.expect("an answer") != expected {} };
    let result = tokio::time::timeout(Duration::from_secs(20), follows).await;
    assert!(result.is_ok(), "{:?} are pending, not {expected}", log.pending().await);
}

pub(super) async fn nothing_waits_at_first(log: &(impl Log + Backlog)) {
    append_series(log, 2).await;
    assert_eq!(list(log).await, BTreeSet::new());
    assert_eq!(log.pending().await.expect("an answer"), 0);
    log.remove(camera(1), 0).await.expect("nothing to do");
}

pub(super) async fn a_camera_that_is_put_twice_counts_once(log: &(impl Log + Backlog)) {
    for (n, of) in [(1, 1), (2, 2), (3, 1), (4, 1)] {
        append(log, waiting(n, of, 0)).await;
    }
    assert_eq!(list(log).await, [(camera(1), 0), (camera(2), 0)].into());
    until_pending(log, 2).await;
    let last = log.last(LogStream::Backlog, &subject::backlog(camera(1), 0)).await.expect("an answer");
    assert_eq!(last.expect("a record").payload, "event 4");
}

pub(super) async fn copies_wait_each_for_itself(log: &(impl Log + Backlog)) {
    for (n, copy) in [(1, 0), (2, 1), (3, 255)] {
        append(log, waiting(n, 1, copy)).await;
    }
    log.remove(camera(1), 0).await.expect("removed");
    assert_eq!(list(log).await, [(camera(1), 1), (camera(1), 255)].into());
    until_pending(log, 2).await;
}

pub(super) async fn what_was_removed_can_wait_again(log: &(impl Log + Backlog)) {
    append(log, waiting(1, 1, 0)).await;
    log.remove(camera(1), 0).await.expect("removed");
    log.remove(camera(1), 0).await.expect("nothing to do");
    assert_eq!(list(log).await, BTreeSet::new());
    until_pending(log, 0).await;
    assert_eq!(log.last(LogStream::Backlog, &subject::backlog(camera(1), 0)).await.expect("an answer"), None);

    append(log, waiting(2, 1, 0)).await;
    assert_eq!(list(log).await, [(camera(1), 0)].into());
    until_pending(log, 1).await;
    assert_eq!(log.end(LogStream::Backlog).await.expect("an answer"), Position(2));
}

pub(super) async fn any_series_of_puts_and_removals_is_counted(log: &(impl Log + Backlog)) {
    let step = (any::<bool>(), 0..12_u64, 0..3_u8);
    let series = proptest::collection::vec(step, 600);
    // Printed when it fails; the log cannot be emptied between two tries, so there is nothing to shrink to.
    let steps = series.new_tree(&mut TestRunner::default()).expect("a series").current();
    let mut expected = BTreeSet::new();
    for (n, &(put, of, copy)) in (1..).zip(&steps) {
        if put {
            append(log, waiting(n, of, copy)).await;
            expected.insert((camera(of), copy));
        } else {
            log.remove(camera(of), copy).await.expect("removed");
            expected.remove(&(camera(of), copy));
        }
        assert_eq!(list(log).await, expected, "after step {n} of {steps:?}");
        if n % 20 == 0 {
            until_pending(log, expected.len() as u64).await;
        }
    }
}
