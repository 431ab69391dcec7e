//! Which of several replicas plans and judges: the one that holds the lease. It only avoids double work: what a plan or a
//! judgement is appended on condition of keeps it right, whoever made it.
//!
//! Invariants: when nobody can say who holds the lease, everybody acts; and who could not act does not hold it: a replica that
//! has halted, still replays the log, or does not get on with folding it. Standing still is the worse fault.

use std::time::Duration;

use async_nats::Client;
use longwatch_events::log;
use longwatch_events::log::jetstream::Lease;
use longwatch_events::position::Position;
use longwatch_events::subject::LogStream;
use tokio::time::{Instant, sleep, timeout};

use crate::service::Service;

/// A replica that dies is followed by another after this.
const TTL: Duration = Duration::from_millis(1_500);
/// How often the lease is renewed, or asked for.
const TRY_EVERY: Duration = Duration::from_millis(400);
/// How long giving the lease back may take.
const RELEASE_LIMIT: Duration = Duration::from_secs(1);

/// Whoever has not folded for so long what stands in the log leaves it to others.
const BEHIND_LIMIT: Duration = TTL;

/// Holds the lease as long as it can and could act, for ever.
pub async fn run(service: &Service, client: &Client, replicas: usize) {
    let mut lease = None;
    let mut last_answer = Instant::now();
    let mut behind = Behind::default();
    loop {
        // If nobody says where it ends, nobody can say that it has not been folded; and the lease does not wait for that.
        let end = timeout(TRY_EVERY, service.log().end(LogStream::Log)).await;
        let end = end.ok().and_then(Result::ok).unwrap_or_default();
        let could_act =
            could_act(service) && !behind.is_stuck(service.progress().borrow().log, end, Instant::now());
        match hold(&mut lease, could_act, service, client, replicas).await {
            Ok(holds) => {
                last_answer = Instant::now();
                lead(service, holds);
            }
            Err(error) => {
                tracing::debug!(%error, "the planner's lease does not answer");
                if last_answer.elapsed() > TTL {
                    lead(service, could_act);
                }
            }
        }
        sleep(TRY_EVERY).await;
    }
}

/// Whether this replica may decide, as far as it knows.
fn could_act(service: &Service) -> bool {
    service.knows_the_end() && service.halted().is_none()
}

/// How a fold gets on with what stands in the log.
#[derive(Default)]
struct Behind {
    /// What it has not come to yet, and since when it has been waited for.
    waited_for: Option<(Position, Instant)>,
}

impl Behind {
    /// Whether a fold that has come to `folded`, of a log that ends at `end`, has been waited for too long: its database does
    /// not answer, say. One that gets on is not stuck, however much lies before it.
    fn is_stuck(&mut self, folded: Position, end: Position, now: Instant) -> bool {
        self.waited_for = self.waited_for.filter(|(position, _)| folded < *position);
        if folded < end {
            let (_, since) = *self.waited_for.get_or_insert((folded.next(), now));
            return now.duration_since(since) > BEHIND_LIMIT;
        }
        false
    }
}

/// Gives the lease back, so that another replica need not wait for its end.
pub async fn release(client: &Client, replicas: usize, service: &Service) {
    if !service.is_leading() {
        return;
    }
    let releasing = async {
        let mut lease = Lease::open(client.clone(), replicas, TTL).await?;
        // Ours by name: this finds out its revision.
        if lease.try_hold(service.boot_id()).await? {
            lease.release().await?;
        }
        Ok::<_, log::Error>(())
    };
    match tokio::time::timeout(RELEASE_LIMIT, releasing).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "the planner's lease ends by itself"),
        Err(_) => tracing::debug!("the planner's lease ends by itself: NATS does not answer"),
    }
}

/// Holds the lease if this replica could act, and gives it back if it could not. Whether it is held now.
async fn hold(
    lease: &mut Option<Lease>,
    could_act: bool,
    service: &Service,
    client: &Client,
    replicas: usize,
) -> Result<bool, log::Error> {
    let open = match lease.take() {
        Some(open) => open,
        None => Lease::open(client.clone(), replicas, TTL).await?,
    };
    let lease = lease.insert(open);
    if could_act {
        return lease.try_hold(service.boot_id()).await;
    }
    lease.release().await?;
    Ok(false)
}

fn lead(service: &Service, leads: bool) {
    if service.is_leading() != leads {
        tracing::info!(leads, "this replica plans and judges");
        service.set_leading(leads);
    }
    metrics::gauge!("longwatch_leading").set(if leads { 1.0 } else { 0.0 });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestControl;

    #[tokio::test]
    async fn who_has_halted_or_still_replays_could_not_act() {
        let control = TestControl::start().await;
        control.until_progress(|progress| progress.caught_up).await;
        assert!(could_act(&control.service));
        control.service.halt("a test".to_owned());
        assert!(!could_act(&control.service));
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_get_on_is_stuck_and_who_does_is_not() {
        let mut behind = Behind::default();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        assert!(!behind.is_stuck(Position(5), Position(5), at(0)));
        // Given much to fold, of which a little is folded each time.
        for step in 0..20 {
            assert!(!behind.is_stuck(Position(5 + step), Position(1_000), at(step * 400)));
        }
        // When it stands still,
        let stood_still_at = 19 * 400;
        assert!(!behind.is_stuck(Position(24), Position(1_000), at(stood_still_at + 1_500)));
        assert!(behind.is_stuck(Position(24), Position(1_000), at(stood_still_at + 1_501)));
        // then one step is enough to be trusted again, and all the more the end.
        assert!(!behind.is_stuck(Position(25), Position(1_001), at(stood_still_at + 1_600)));
        assert!(!behind.is_stuck(Position(1_001), Position(1_001), at(stood_still_at + 9_000)));
        assert!(!behind.is_stuck(Position(1_001), Position(1_002), at(stood_still_at + 9_001)));
    }
}
