//! The planner's lease on a real nats-server: at most one holds it, and nobody has to be told that it ended.

#[path = "common/nats.rs"]
mod nats;

use std::time::Duration;

use longwatch_events::id::BootId;
use longwatch_events::log::Error;
use longwatch_events::log::jetstream::{Lease, connect};
use tokio::time::{Instant, interval, sleep};
use uuid::Uuid;

use nats::NatsServer;

/// Ends while a test watches.
const SHORT: Duration = Duration::from_millis(800);
/// Does not end while a test runs.
const LONG: Duration = Duration::from_secs(600);
const DEADLINE: Duration = Duration::from_secs(30);

fn replica(n: u128) -> BootId {
    BootId::from_uuid(Uuid::from_u128(n))
}

/// A lease on a connection of its own, as each replica has.
async fn open(nats: &NatsServer, ttl: Duration) -> Lease {
    let client = connect(&nats.url(), None, "lease").await.expect("a client");
    Lease::open(client, 1, ttl).await.expect("a bucket")
}

async fn try_hold(lease: &mut Lease, n: u128) -> bool {
    lease.try_hold(replica(n)).await.expect("an answer")
}

/// Tries until `n` holds it, which it must, whatever becomes of the connection. After how long.
async fn until_held(lease: &mut Lease, n: u128) -> Duration {
    let began = Instant::now();
    loop {
        match lease.try_hold(replica(n)).await {
            Ok(true) => return began.elapsed(),
            Ok(false) | Err(Error::Unavailable(_)) => {}
            Err(error) => panic!("{error}"),
        }
        assert!(began.elapsed() < DEADLINE, "replica {n} never holds it");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_contenders_exactly_one_wins() {
    let nats = NatsServer::start().await;
    let (mut one, mut other) = (open(&nats, LONG).await, open(&nats, LONG).await);
    for round in 0..100 {
        let held = tokio::join!(try_hold(&mut one, 1), try_hold(&mut other, 2));
        assert!(held.0 != held.1, "round {round}: {held:?}");
        assert_eq!((try_hold(&mut one, 1).await, try_hold(&mut other, 2).await), held, "it stays so");
        one.release().await.expect("an answer");
        other.release().await.expect("an answer");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_is_renewed_does_not_end() {
    let nats = NatsServer::start().await;
    let (mut one, mut other) = (open(&nats, SHORT).await, open(&nats, SHORT).await);
    let began = Instant::now();
    let mut ticks = interval(SHORT / 8);
    while began.elapsed() < 4 * SHORT {
        ticks.tick().await;
        assert!(try_hold(&mut one, 1).await, "after {:?}", began.elapsed());
        assert!(!try_hold(&mut other, 2).await, "after {:?}", began.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lease_of_a_holder_that_was_killed_is_free_after_its_time_and_not_before() {
    let nats = NatsServer::start().await;
    let (mut killed, mut other) = (open(&nats, SHORT).await, open(&nats, SHORT).await);
    assert!(try_hold(&mut killed, 1).await);
    let renewed = Instant::now();
    assert!(try_hold(&mut killed, 1).await);
    drop(killed);

    until_held(&mut other, 2).await;

    // The server's clock and ours are two, a little apart.
    let waited = renewed.elapsed();
    assert!(waited > SHORT * 9 / 10 && waited < SHORT + Duration::from_secs(5), "{waited:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_outlives_a_restart_of_nats() {
    let mut nats = NatsServer::start().await;
    let (mut one, mut other) = (open(&nats, LONG).await, open(&nats, LONG).await);
    assert!(try_hold(&mut one, 1).await);

    nats.kill();
    let away = one.try_hold(replica(1)).await;
    assert!(matches!(away, Err(Error::Unavailable(_))), "{away:?}");
    nats.restart().await;

    until_held(&mut one, 1).await;
    // A contender that had no part in it yet, and one that lost its connection too.
    assert!(!try_hold(&mut open(&nats, LONG).await, 3).await);
    assert!(!answer(&mut other, 2).await);
}

/// What it is told once it has a connection again.
async fn answer(lease: &mut Lease, n: u128) -> bool {
    let began = Instant::now();
    loop {
        match lease.try_hold(replica(n)).await {
            Ok(held) => return held,
            Err(error) => assert!(began.elapsed() < DEADLINE, "{error}"),
        }
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_slept_while_another_took_over_is_told_so() {
    // Given: one that held it, slept past its end and through a restart, while another renewed as often as it had.
    let mut nats = NatsServer::start().await;
    let (mut slept, mut other) = (open(&nats, SHORT).await, open(&nats, SHORT).await);
    for _ in 0..5 {
        assert!(try_hold(&mut slept, 1).await);
    }
    until_held(&mut other, 2).await;
    nats.kill();
    nats.restart().await;
    // From here on it does not end.
    let mut long = open(&nats, LONG).await;
    until_held(&mut long, 2).await;
    for _ in 0..10 {
        assert!(try_hold(&mut long, 2).await);
        // When, Then
        assert!(!answer(&mut slept, 1).await, "it is the other's");
    }
    assert!(try_hold(&mut long, 2).await);
}

#[tokio::test]
async fn a_renewal_whose_answer_was_lost_is_recognised() {
    let nats = NatsServer::start().await;
    let mut lease = open(&nats, LONG).await;
    assert!(try_hold(&mut lease, 1).await);
    // As if this one had renewed it and its answer were lost.
    assert!(try_hold(&mut open(&nats, LONG).await, 1).await);

    assert!(try_hold(&mut lease, 1).await);
    assert!(!try_hold(&mut open(&nats, LONG).await, 2).await);
}

#[tokio::test]
async fn what_is_released_is_free_at_once() {
    let nats = NatsServer::start().await;
    let (mut one, mut other) = (open(&nats, LONG).await, open(&nats, LONG).await);
    assert!(try_hold(&mut one, 1).await);
    // Not held: nothing to give back, and nothing that is another's.
    other.release().await.expect("an answer");
    assert!(!try_hold(&mut other, 2).await);

    one.release().await.expect("an answer");

    assert!(try_hold(&mut other, 2).await);
    assert!(!try_hold(&mut one, 1).await);
    one.release().await.expect("an answer");
    assert!(try_hold(&mut other, 2).await, "giving back what is not held takes it from nobody");
}
