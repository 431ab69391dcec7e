//! The shell around liveness: looks several times a second at what was heard, appends what [`crate::decide::liveness`]
//! says of servers and [`crate::decide::disk`] of their archives. Any number of replicas may run it: an append is conditional on the server's version.

use std::time::Duration;

use longwatch_events::event::{Event, ServerDiskMeasured};
use longwatch_events::id::EventId;
use longwatch_events::log;
use longwatch_events::position::Position;
use tokio::time::sleep;

use crate::decide::disk;
use crate::decide::liveness::{self, Judgement, Rules};
use crate::service::Service;

/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Watches over the servers for ever.
pub async fn run(service: &Service) {
    let mut held_before = 0;
    loop {
        sleep(LOOK_EVERY).await;
        let caught_up = service.progress().borrow().caught_up;
        if !caught_up || !service.observed().is_live() || service.halted().is_some() {
            continue;
        }
        // Whoever is asked tells of it, so every replica looks; only the one that leads says it to the log.
        let Judgement { lost, returned, held } = judge(service);
        if held.len() != held_before {
            held_before = held.len();
            report(held_before);
            service.set_held(held_before);
        }
        metrics::gauge!("longwatch_servers_held").set(u32::try_from(held_before).unwrap_or(u32::MAX));
        if !service.is_leading() {
            continue;
        }
        for (version, event) in lost.into_iter().chain(returned) {
            append(service, version, event).await;
        }
        for (version, event) in measured(service) {
            append(service, version, event).await;
        }
    }
}

/// What the log is to be told of the archives of servers: each with the version of its server.
fn measured(service: &Service) -> Vec<(Position, Event)> {
    let (state, observed) = (service.state(), service.observed());
    let min_percent = state.policy.min_disk_free_percent;
    let up = state.servers().filter(|(_, server)| server.is_assignable());
    let news = up.filter_map(|(server_id, server)| {
        let seen = observed.seen(server_id)?;
        let free_percent = disk::free_percent(seen.load.disk_free_bytes, seen.load.disk_total_bytes)?;
        let measured = ServerDiskMeasured { server_id, heartbeat: seen.position, free_percent };
        disk::is_news(server.disk_free_percent, free_percent, min_percent)
            .then_some((server.version, Event::ServerDiskMeasured(measured)))
    });
    news.collect()
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

fn report(held: usize) {
    if held == 0 {
        tracing::info!("servers are heard again as usual");
    } else {
        tracing::error!(
            silent = held,
            "too many servers are silent at once to take them for lost: nothing is moved; look at the network and at NATS"
        );
    }
}

async fn append(service: &Service, version: Position, event: Event) {
    if let Event::ServerLost(lost) = &event {
        tracing::warn!(server_id = %lost.server_id, heard_at = %lost.heard_at, "a server is lost");
        metrics::counter!("longwatch_servers_lost_total").increment(1);
    } else if let Event::ServerReturned(returned) = &event {
        tracing::info!(server_id = %returned.server_id, "a server is back");
    }
    let event_id = EventId::generate(service.ids());
    match service.append("system", event_id, event, Some(version)).await {
        // Folded before the next look, so that nothing is judged twice.
        Ok(position) => {
            if let Err(error) = service.folded(position).await {
                tracing::warn!(%error, "the judgement is not folded yet");
            }
        }
        Err(log::Error::Conflict { .. }) => {
            tracing::debug!("the server changed meanwhile, or another replica was first")
        }
        Err(error) => tracing::warn!(%error, "a judgement is repeated"),
    }
}
