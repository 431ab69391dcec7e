//! Which of several replicas plans and judges: the one that holds the lease. It only avoids double work: what a plan or a
//! judgement is appended on condition of keeps it right, whoever made it.
//!
//! Invariant: when nobody can say who holds the lease, everybody acts. Standing still is the worse fault.

use std::time::Duration;

use async_nats::Client;
use longwatch_events::log::jetstream::Lease;
use tokio::time::{Instant, sleep};

use crate::service::Service;

/// A replica that dies is followed by another after this.
const TTL: Duration = Duration::from_millis(1_500);
/// How often the lease is renewed, or asked for.
const TRY_EVERY: Duration = Duration::from_millis(400);
/// How long giving the lease back may take.
const RELEASE_LIMIT: Duration = Duration::from_secs(1);

/// Holds the lease as long as it can, for ever.
pub async fn run(service: &Service, client: &Client, replicas: usize) {
    let mut lease = None;
    let mut last_answer = Instant::now();
    loop {
        match try_hold(&mut lease, service, client, replicas).await {
            Ok(holds) => {
                last_answer = Instant::now();
                lead(service, holds);
            }
            Err(error) => {
                tracing::debug!(%error, "the planner's lease does not answer");
                if last_answer.elapsed() > TTL {
                    lead(service, true);
                }
            }
        }
        sleep(TRY_EVERY).await;
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
        Ok::<_, longwatch_events::log::Error>(())
    };
    match tokio::time::timeout(RELEASE_LIMIT, releasing).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "the planner's lease ends by itself"),
        Err(_) => tracing::debug!("the planner's lease ends by itself: NATS does not answer"),
    }
}

async fn try_hold(
    lease: &mut Option<Lease>,
    service: &Service,
    client: &Client,
    replicas: usize,
) -> Result<bool, longwatch_events::log::Error> {
    let open = match lease.take() {
        Some(open) => open,
        None => Lease::open(client.clone(), replicas, TTL).await?,
    };
    lease.insert(open).try_hold(service.boot_id()).await
}

fn lead(service: &Service, leads: bool) {
    if service.is_leading() != leads {
        tracing::info!(leads, "this replica plans and judges");
        service.set_leading(leads);
    }
    metrics::gauge!("longwatch_leading").set(if leads { 1.0 } else { 0.0 });
}
