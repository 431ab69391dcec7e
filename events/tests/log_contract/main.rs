//! The contract of [`Log`]: one suite, run on every implementation. What JetStream alone promises, because it is
//! about a server that can die, stands in `jetstream.rs`.

#[allow(dead_code, reason = "killed and restarted in jetstream.rs only")]
#[path = "../common/nats.rs"]
mod nats;

mod alike;
mod atomic;
mod backlog;
mod cases;
mod reading;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, future};
use longwatch_events::id::EventId;
use longwatch_events::log::jetstream::{JetStreamLog, Settings, connect};
use longwatch_events::log::memory::MemoryLog;
use longwatch_events::log::{Entry, Error, Follow, Log, MAX_ATOMIC_ENTRIES, MAX_PAGE, Record};
use longwatch_events::position::Position;
use longwatch_events::subject::{LogStream, PLAN};
use longwatch_events::time::{SystemClock, Timestamp};
use uuid::Uuid;

const A: &str = "lw.log.provider.server.a";
const B: &str = "lw.log.provider.server.b";

/// Runs every case on every implementation, each on an empty log of its own.
macro_rules! contract {
    ($($module:ident { $($case:ident,)* })*) => {
        mod memory {
            $($(
                #[tokio::test]
                async fn $case() {
                    super::$module::$case(&super::memory_log()).await;
                }
            )*)*
        }

        mod jetstream {
            $($(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let nats = super::nats::NatsServer::start().await;
                    super::$module::$case(&super::jetstream_log(&nats).await).await;
                }
            )*)*
        }
    };
}

contract! {
    cases {
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
    }
    atomic {
        what_is_appended_atomically_stands_one_behind_the_other,
        one_broken_condition_keeps_all_of_it_out,
        an_atomic_retry_of_what_did_arrive_is_a_success,
        what_cannot_be_atomic_is_refused,
        large_parts_are_appended_atomically,
        parts_of_one_subject_stand_one_behind_the_other,
        subjects_mix_and_each_has_its_condition,
        a_plan_that_was_overtaken_is_kept_out_whole,
        a_plan_is_recognised_when_it_is_tried_again,
        what_stands_there_in_part_is_refused,
        of_concurrent_plans_exactly_one_wins,
        the_largest_plan_is_appended_atomically,
    }
    reading {
        a_record_is_got_by_its_position,
        what_was_replaced_is_not_got,
        a_time_leads_to_what_was_stored_since,
        an_empty_stream_leads_to_its_start,
        a_time_leads_past_what_was_replaced,
        a_stretch_is_read_without_what_is_around_it,
        what_is_read_is_what_is_followed,
        a_stretch_with_replaced_records_ends_where_it_should,
        page_by_page_everything_is_read_once,
    }
    backlog {
        nothing_waits_at_first,
        a_camera_that_is_put_twice_counts_once,
        copies_wait_each_for_itself,
        what_was_removed_can_wait_again,
        any_series_of_puts_and_removals_is_counted,
    }
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
        connection: None,
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
