//! Events at cameras on their way to the servers that have them: each server is asked to take an event, and again until it
//! has, or the event is over. So an event outlives its server: whoever takes the camera over is told of it, too.
//!
//! [`ask`] tells servers now; [`run`] is who tells them again. What was taken is known from `RECORDINGS`, as the servers
//! told it, and of what this process asked also before that has come to the log.
//!
//! Invariant: nobody is said to have taken an event who did not answer that it is durable there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use longwatch_events::id::{CameraId, ServerId, TenantId, TriggerId};
use longwatch_events::state::State;
use longwatch_events::subject;
use longwatch_events::time::Timestamp;
use longwatch_events::trigger::{Trigger, TriggerReply};
use tokio::time::sleep;

use crate::read_model::rows::TriggerRow;
use crate::service::Service;

/// How long a server may take to make an event durable and say so.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// How often it is looked who has not taken an event yet.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// So many are asked again at a time.
const AT_ONCE: usize = 64;
/// So many events of this process are remembered: those that are on.
const MAX_REMEMBERED: usize = 10_000;

/// An event of one camera.
type Key = (TenantId, CameraId, TriggerId);

/// What came of asking.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Asked {
    /// Who took it.
    pub taken: BTreeSet<ServerId>,
    /// Why the others did not, for a person.
    pub not_taken: BTreeMap<ServerId, String>,
}

/// The events that this process told servers of, and who took them.
#[derive(Debug, Default)]
pub struct Told(Mutex<BTreeMap<Key, (Trigger, BTreeSet<ServerId>)>>);

impl Told {
    fn events(&self) -> MutexGuard<'_, BTreeMap<Key, (Trigger, BTreeSet<ServerId>)>> {
        // Every change under the lock is a single one.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that are on are worth telling again.
    fn remember(&self, trigger: &Trigger, taken: &BTreeSet<ServerId>, now: Timestamp) {
        let mut events = self.events();
        events.retain(|_, (trigger, _)| trigger.until > now);
        if trigger.records && trigger.until > now && !taken.is_empty() && events.len() < MAX_REMEMBERED {
            let known = events.entry(key(trigger)).or_insert_with(|| (trigger.clone(), BTreeSet::new()));
            known.1.extend(taken);
        }
    }
}

fn key(trigger: &Trigger) -> Key {
    (trigger.tenant_id, trigger.camera_id, trigger.event_id)
}

/// The servers that have the camera: that of each copy, and the one that is about to take it over.
pub fn servers(state: &State, tenant_id: TenantId, camera_id: CameraId) -> BTreeSet<ServerId> {
    let camera = state.camera(tenant_id, camera_id).into_iter();
    let assignments = camera.flat_map(|camera| {
        camera.copies().flat_map(|(_, copy)| copy.assignment().into_iter().chain(copy.successor()))
    });
    assignments.map(|assignment| assignment.server_id).collect()
}

/// Asks these servers to take an event.
pub async fn ask(service: &Service, trigger: &Trigger, servers: BTreeSet<ServerId>) -> Asked {
    let payload = serde_json::to_vec(trigger).expect("invariant: ids, texts and times always become JSON");
    let payload = Bytes::from(payload);
    let asking = servers.into_iter().map(|server_id| {
        let answer = service.log().ask(subject::trigger(server_id), payload.clone(), ANSWER_LIMIT);
        async move { (server_id, understood(answer.await)) }
    });
    let mut asking: FuturesUnordered<_> = asking.collect();
    let mut asked = Asked::default();
    while let Some((server_id, answer)) = asking.next().await {
        match answer {
            Ok(()) => {
                asked.taken.insert(server_id);
            }
            Err(why) => {
                asked.not_taken.insert(server_id, why);
            }
        }
    }
    service.triggers_told().remember(trigger, &asked.taken, service.clock().now());
    asked
}

fn understood(answer: Result<Option<Bytes>, longwatch_events::log::Error>) -> Result<(), String> {
    let answer = answer.map_err(|error| error.to_string())?.ok_or("it does not answer")?;
    match serde_json::from_slice(&answer) {
        Ok(TriggerReply::Taken) => Ok(()),
        Ok(TriggerReply::NotHere) => Err("it does not have the camera yet, or any more".to_owned()),
        Ok(TriggerReply::TryAgain { detail } | TriggerReply::Refused { detail }) => Err(detail),
        Err(error) => Err(format!("its answer makes no sense: {error}")),
    }
}

/// Tells those again that have not taken an event that is on, for ever.
pub async fn run(service: &Service) {
    let mut progress = service.progress();
    let caught_up = progress.wait_for(|progress| progress.caught_up && progress.recordings_caught_up);
    if caught_up.await.is_err() {
        return;
    }
    loop {
        sleep(LOOK_EVERY).await;
        ask_again(service).await;
    }
}

/// Tells those again now.
pub async fn ask_again(service: &Service) {
    let now = service.clock().now();
    let mut events: BTreeMap<Key, (Trigger, BTreeSet<ServerId>)> = service.triggers_told().events().clone();
    if service.is_leading() && service.halted().is_none() {
        match service.read_model().triggers_on(now).await {
            Ok(rows) => rows.into_iter().for_each(|TriggerRow { trigger, server_id, .. }| {
                let known = events.entry(key(&trigger)).or_insert_with(|| (trigger, BTreeSet::new()));
                known.1.insert(server_id);
            }),
            Err(error) => tracing::warn!(%error, "who has not taken an event yet is asked later"),
        }
    }
    let missing: Vec<_> = {
        let state = service.state();
        let missing = |(trigger, taken): (Trigger, BTreeSet<ServerId>)| {
            let servers = servers(&state, trigger.tenant_id, trigger.camera_id);
            let heard_of = |server_id: &ServerId| service.observed().silent_since(*server_id).is_none();
            let missing: BTreeSet<_> = servers.difference(&taken).copied().filter(heard_of).collect();
            (trigger.until > now && !missing.is_empty()).then_some((trigger, missing))
        };
        events.into_values().filter_map(missing).collect()
    };
    let asking = futures::stream::iter(missing).for_each_concurrent(AT_ONCE, |(trigger, servers)| async move {
        let Asked { taken, not_taken } = ask(service, &trigger, servers).await;
        let (event_id, camera_id) = (trigger.event_id, trigger.camera_id);
        for server_id in taken {
            tracing::info!(%event_id, %camera_id, %server_id, "an event that is on was taken by another server, too");
        }
        for (server_id, why) in not_taken {
            tracing::debug!(%event_id, %camera_id, %server_id, why, "an event that is on was not taken yet");
        }
    });
    asking.await;
}
