//! The shell around liveness: looks several times a second at what was heard, appends what [`crate::decide::liveness`]
//! says of servers and [`crate::decide::disk`] of their archives. Any number of replicas may run it: an append is conditional
//! on the server's version.
//!
//! Invariant: who is lost is said first, all of one look together, so that one plan sees them all; and never by a look that
//! is older than a second. A sign of life changes no version, so nothing else keeps a replica that stood still from
//! appending what was right before.

use std::time::Duration;

use futures::StreamExt as _;
use futures::stream;
use longwatch_events::event::Event;
use longwatch_events::id::EventId;
use longwatch_events::log::{self, MAX_ATOMIC_ENTRIES};
use longwatch_events::position::Position;
use tokio::time::{Instant, sleep, timeout_at};

use crate::decide::disk;
use crate::decide::liveness::{self, Judgement, Rules};
use crate::service::Service;

/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// What was not appended so long after the look is judged anew.
const FRESH_FOR: Duration = Duration::from_secs(1);
/// So many events are appended at once.
const AT_ONCE: usize = 64;
/// So many archives are told of after one look: they are not urgent, and the next look is soon.
const MEASURES_PER_LOOK: usize = 32;

/// An event of one server, with the version that its server must still have.
type Said = (Position, Event);

/// Watches over the servers for ever.
pub async fn run(service: &Service) {
    loop {
        sleep(LOOK_EVERY).await;
        if service.observed().is_live() && service.knows_the_end() && service.halted().is_none() {
            look(service).await;
        }
    }
}

/// Looks once, and says what there is to say.
async fn look(service: &Service) {
    let fresh_until = Instant::now() + FRESH_FOR;
    // Whoever is asked tells of it, so every replica looks; only the one that leads says it to the log.
    let Judgement { lost, returned, held, .. } = judge(service);
    report_held(service, held.len());
    if !service.is_leading() {
        return;
    }
    append_together(service, lost, fresh_until).await;
    append_each(service, returned, fresh_until).await;
    append_each(service, measured(service), fresh_until).await;
}

/// What the log is to be told of the archives of servers.
fn measured(service: &Service) -> Vec<Said> {
    let (state, observed) = (service.state(), service.observed());
    let heard = |server_id| observed.seen(server_id).map(|seen| (seen.position, seen.load));
    disk::news(&state, heard).take(MEASURES_PER_LOOK).collect()
}

fn judge(service: &Service) -> Judgement {
    let observed = service.observed();
    let state = service.state();
    let rules = Rules {
        lease_ms: observed.pace().lease_ms,
        mass_silence_percent: state.policy.liveness.mass_silence_percent.into(),
    };
    liveness::judge(&state, observed.now(), rules, |server_id| observed.signs(server_id))
}

fn report_held(service: &Service, held: usize) {
    let held_before = service.held();
    metrics::gauge!("longwatch_servers_held").set(u32::try_from(held).unwrap_or(u32::MAX));
    service.set_held(held);
    if held == held_before {
        return;
    }
    if held == 0 {
        tracing::info!("servers are heard again as usual");
    } else {
        tracing::error!(
            silent = held,
            "too many servers are silent at once to take them for lost: nothing is moved; look at the network and at NATS"
        );
    }
}

/// Appends all of `said` right behind each other, if it can, and waits until they are folded.
async fn append_together(service: &Service, mut said: Vec<Said>, fresh_until: Instant) {
    while !said.is_empty() {
        let others = said.split_off(said.len().min(MAX_ATOMIC_ENTRIES));
        let batch = std::mem::replace(&mut said, others);
        if batch.len() > 1 {
            let events = batch
                .iter()
                .map(|(version, event)| (EventId::generate(service.ids()), event.clone(), Some(*version)));
            let appending = service.append_atomically("system", events.collect());
            match in_time(fresh_until, appending).await {
                Some(Ok(position)) => {
                    batch.iter().for_each(|(_, event)| tell(event));
                    folded(service, position).await;
                    continue;
                }
                // Of one of them something else was said meanwhile: that is no reason to keep quiet of the others.
                Some(Err(log::Error::Conflict { .. } | log::Error::Refused(_))) => {}
                Some(Err(error @ (log::Error::Unavailable(_) | log::Error::Disconnected))) => {
                    return tracing::warn!(%error, "servers are judged anew");
                }
                None => return,
            }
        }
        append_each(service, batch, fresh_until).await;
    }
}

/// Appends each of `said`, and waits until they are folded, so that nothing is said twice.
async fn append_each(service: &Service, said: Vec<Said>, fresh_until: Instant) {
    let appending = said.into_iter().map(|(version, event)| append(service, version, event, fresh_until));
    let positions: Vec<_> = stream::iter(appending).buffer_unordered(AT_ONCE).collect().await;
    if let Some(position) = positions.into_iter().flatten().max() {
        folded(service, position).await;
    }
}

async fn append(
    service: &Service,
    version: Position,
    event: Event,
    fresh_until: Instant,
) -> Option<Position> {
    let event_id = EventId::generate(service.ids());
    match in_time(fresh_until, service.append("system", event_id, event.clone(), Some(version))).await? {
        Ok(position) => {
            tell(&event);
            return Some(position);
        }
        Err(log::Error::Conflict { .. }) => {
            tracing::debug!("the server changed meanwhile, or another replica was first")
        }
        Err(error @ (log::Error::Unavailable(_) | log::Error::Disconnected | log::Error::Refused(_))) => {
            tracing::warn!(%error, "a server is judged anew")
        }
    }
    None
}

/// What comes of an append, if it is not too late to begin it and it is answered in time.
async fn in_time<T>(fresh_until: Instant, appending: impl Future<Output = T>) -> Option<T> {
    // A future that is ready at once is polled first: the process may have stood still since the look.
    let appended =
        if Instant::now() < fresh_until { timeout_at(fresh_until, appending).await.ok() } else { None };
    if appended.is_none() {
        tracing::warn!(
            "a judgement is too old to be appended, or not known to stand in the log: servers are judged anew"
        );
    }
    appended
}

async fn folded(service: &Service, position: Position) {
    if let Err(error) = service.folded(position).await {
        tracing::warn!(%error, "the judgement is not folded yet");
    }
}

/// Says what stands in the log now.
fn tell(event: &Event) {
    if let Event::ServerLost(lost) = event {
        tracing::warn!(server_id = %lost.server_id, heard_at = %lost.heard_at, "a server is lost");
        metrics::counter!("longwatch_servers_lost_total").increment(1);
    } else if let Event::ServerReturned(returned) = event {
        tracing::info!(server_id = %returned.server_id, "a server is back");
    }
}

#[cfg(test)]
mod tests;
