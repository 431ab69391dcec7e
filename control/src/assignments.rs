//! Tells each server what it is to record: its whole desired set, on `ASSIGNMENTS`, whenever it differs from what
//! stands there.
//!
//! Invariants: a set is compared with what the log stream holds, not with what this process remembers, so a restart
//! repeats nothing and a second replica adds nothing; an older set never replaces a newer one, and a set is replaced
//! whole or not at all; a server that has applied a newer set than stands there, because the log was set back, is told anew
//! under a higher revision; a camera whose source cannot be opened stays as its server knows it, loudly, and is tried
//! again until it can be.
//!
//! That no older set wins: first it is read what stands there, then where `LOG` ends, then State is folded up to there.
//! Whatever stands there followed from a log that ended no later, so the set made now is as new at least; and it is
//! appended only if nobody appended another one meanwhile.

pub mod set;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use longwatch_events::assignment::AssignmentSet;
use longwatch_events::envelope::Envelope;
use longwatch_events::event::Event;
use longwatch_events::id::{EventId, ServerId};
use longwatch_events::log;
use longwatch_events::position::Position;
use longwatch_events::state::State;
use longwatch_events::subject::{self, LogStream};
use tokio::time::Instant;

use crate::observed::{Observed, Pace};
use crate::secrets;
use crate::service::{CommandError, Service};
use set::{Composed, Desired, Key, Resealed, Standing, WantedSource};

/// A set that was found to stand there is looked at again after this, in case another replica went wrong…
const VERIFY_AFTER: Duration = Duration::from_secs(60);
/// … so many at a time, so that planning does not wait for it.
const VERIFY_AT_ONCE: usize = 50;
/// A set that lacks a camera is tried again after this, or when something else is wanted.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// What stands there is read for so many servers before their sets are made.
const SERVERS_AT_ONCE: usize = 200;
/// So many of them are asked about, or told, at once: one after the other, thousands would wait for each other's answers.
const REQUESTS_AT_ONCE: usize = 32;

/// What was found when a server was looked at last.
struct Looked {
    /// The State it was looked at with.
    position: Position,
    pace: Pace,
    /// The revision of the set that stands there.
    revision: Position,
    /// How many of the wanted cameras could not be handed over.
    unopened: usize,
    at: Instant,
    /// When its worker was last told to look.
    nudged_at: Option<Instant>,
}

/// Publishes desired sets, and remembers what stands in the log stream.
#[derive(Default)]
pub struct Publisher {
    looked: BTreeMap<ServerId, Looked>,
}

impl Publisher {
    /// Publishes every set that differs from what stands there. What fails is logged and tried at a later call.
    pub async fn publish(&mut self, service: &Service) {
        let due = self.due(&service.state(), service.observed());
        for servers in due.chunks(SERVERS_AT_ONCE) {
            if let Err(error) = self.publish_to(service, servers).await {
                tracing::warn!(%error, "assignments are published later");
            }
        }
        let unopened = self.looked.values().map(|looked| looked.unopened).sum();
        service.set_unopened(unopened);
        metrics::gauge!("longwatch_sources_unopened").set(u32::try_from(unopened).unwrap_or(u32::MAX));
    }

    /// Tells workers to look that should have applied by now what stands there, and say in their heartbeats that they have
    /// not: the message was lost on its way.
    pub async fn nudge(&mut self, service: &Service) {
        let observed = service.observed();
        // The heartbeat that would say so may be on its way, and the next one.
        let patience = Duration::from_millis(u64::from(observed.pace().interval_ms)).mul_f32(1.5);
        let servers = self.looked.iter_mut().filter(|(server_id, looked)| {
            let since = looked.nudged_at.unwrap_or(looked.at);
            let seen = observed.seen(**server_id);
            since.elapsed() >= patience
                && seen.is_some_and(|seen| seen.load.applied_revision < looked.revision)
                && observed.silent_since(**server_id).is_none()
        });
        for (server_id, looked) in servers {
            looked.nudged_at = Some(Instant::now());
            tracing::info!(%server_id, revision = %looked.revision, "a worker is told to look at its assignments");
            metrics::counter!("longwatch_assignments_nudged_total").increment(1);
            if let Err(error) = service.log().signal(subject::look(*server_id)).await {
                tracing::warn!(%server_id, %error, "a worker cannot be told to look; it does by itself");
            }
        }
    }

    /// Whether the set of `server_id` with the revision `applied` is the one that stands there, as far as this process knows,
    /// and follows from State at `position` or later. A higher revision is none: it is from a log that was set back since.
    pub fn is_what_stands_since(&self, position: Position, server_id: ServerId, applied: Position) -> bool {
        let looked = self.looked.get(&server_id);
        looked.is_some_and(|looked| looked.position >= position && looked.revision == applied)
    }

    /// The servers that are to be looked at now: something about them changed, or it is time to look again.
    fn due(&self, state: &State, observed: &Observed) -> Vec<ServerId> {
        let (now, pace) = (Instant::now(), observed.pace());
        let mut verified = 0;
        let mut is_due = |server_id: ServerId| {
            let Some(looked) = self.looked.get(&server_id) else { return true };
            let age = now.duration_since(looked.at);
            let is_outrun = observed.applied(server_id) > looked.revision;
            if state.index().changed(server_id) > looked.position || looked.pace != pace || is_outrun {
                return true;
            }
            if looked.unopened > 0 {
                return age >= RETRY_AFTER;
            }
            let is_due = age >= VERIFY_AFTER && verified < VERIFY_AT_ONCE;
            verified += usize::from(is_due);
            is_due
        };
        let with_worker = state.servers().filter(|(_, server)| server.public_key.is_some());
        with_worker.map(|(server_id, _)| server_id).filter(|server_id| is_due(*server_id)).collect()
    }

    async fn publish_to(&mut self, service: &Service, servers: &[ServerId]) -> Result<(), CommandError> {
        let reading = servers.iter().copied().map(|id| async move { (id, read_standing(service, id).await) });
        let mut reading = stream::iter(reading).buffer_unordered(REQUESTS_AT_ONCE);
        let mut standing = BTreeMap::new();
        while let Some((server_id, found)) = reading.next().await {
            match found {
                Ok(mut found) => {
                    found.applied(service.observed().applied(server_id));
                    standing.insert(server_id, found);
                }
                Err(error) => tracing::warn!(%server_id, %error, "what stands there cannot be read"),
            }
        }
        let end = service.log().end(LogStream::Log).await;
        service.folded(end.map_err(|error| CommandError::Unavailable(error.to_string()))?).await?;
        let pace = service.observed().pace();
        let (position, desired): (_, Vec<_>) = {
            let state = service.state();
            let desired = standing.into_iter().filter_map(|(server_id, standing)| {
                Some((server_id, standing, set::desired(&state, server_id, pace)?))
            });
            (state.position, desired.collect())
        };
        let publishing = desired.into_iter().map(|(server_id, standing, desired)| async move {
            (server_id, publish_if_changed(service, server_id, position, &desired, &standing).await)
        });
        let mut publishing = stream::iter(publishing).buffer_unordered(REQUESTS_AT_ONCE);
        while let Some((server_id, published)) = publishing.next().await {
            match published {
                Ok((revision, unopened)) => {
                    let looked =
                        Looked { position, pace, revision, unopened, at: Instant::now(), nudged_at: None };
                    self.looked.insert(server_id, looked);
                }
                Err(log::Error::Conflict { .. }) => {
                    tracing::info!(%server_id, %position, "another replica published first; looking again");
                }
                Err(error) => tracing::warn!(%server_id, %error, "assignments are published later"),
            }
        }
        Ok(())
    }
}

/// Returns the revision that stands there now, and how many of the wanted cameras could not be handed over.
async fn publish_if_changed(
    service: &Service,
    server_id: ServerId,
    position: Position,
    desired: &Desired,
    standing: &Standing,
) -> Result<(Position, usize), log::Error> {
    let Composed { cameras, unopened } =
        set::compose(&desired.wanted, standing, |key| reseal(service, desired, key));
    if let Some(((tenant_id, camera_id), error)) = unopened.first() {
        tracing::error!(
            %server_id, unopened = unopened.len(), %tenant_id, %camera_id, %error,
            "cameras cannot be handed to their server as they are now; what it records already goes on"
        );
    }
    if standing.is(&cameras, desired.pace) {
        return Ok((standing.revision, unopened.len()));
    }
    let revision = standing.next_revision(position);
    let count = cameras.len();
    let parts = set::parts(server_id, revision, EventId::generate(service.ids()), desired.pace, cameras);
    let events = parts.into_iter().map(|set| {
        let expected_last = (set.part == 1).then_some(standing.first_part_at);
        (EventId::generate(service.ids()), Event::AssignmentsPublished(set), expected_last)
    });
    let events: Vec<_> = events.collect();
    let parts = events.len();
    service.append_atomically("system", events).await?;
    tracing::info!(%server_id, %revision, cameras = count, parts, "assignments published");
    Ok((revision, unopened.len()))
}

fn reseal(service: &Service, desired: &Desired, key: Key) -> Result<Resealed, secrets::Error> {
    let source = desired.sources.get(&key).ok_or(secrets::Error::NoDataKey(key.0))?;
    let opened = service.open_source(key.0, &source.sealed)?;
    let WantedSource { single_session, live_latency_ms, priority, .. } = *source;
    Ok(Resealed {
        source: secrets::seal_to_worker(&desired.public_key, &opened)?,
        single_session,
        live_latency_ms,
        priority,
    })
}

async fn read_standing(service: &Service, server_id: ServerId) -> Result<Standing, log::Error> {
    let (first, first_part_at) = match read_part(service, server_id, 1).await? {
        Part::Absent => return Ok(Standing::default()),
        Part::Unreadable(position) => return Ok(Standing::unreadable(position)),
        Part::Found(set, position) => (set, position),
    };
    let mut others = Vec::new();
    for part in 2..=first.parts {
        let found = match read_part(service, server_id, part).await? {
            Part::Found(set, _) => Some(set),
            Part::Absent | Part::Unreadable(_) => None,
        };
        let is_missing = found.is_none();
        others.push(found);
        if is_missing {
            break;
        }
    }
    Ok(Standing::new(first, first_part_at, others))
}

/// What stands under the subject of a part.
enum Part {
    Absent,
    /// Something that is no assignment.
    Unreadable(Position),
    Found(AssignmentSet, Position),
}

async fn read_part(service: &Service, server_id: ServerId, part: u32) -> Result<Part, log::Error> {
    let subject = subject::assignment(server_id, part);
    let Some(record) = service.log().last(LogStream::Assignments, &subject).await? else {
        return Ok(Part::Absent);
    };
    match Envelope::decode(&record.payload) {
        Ok(Envelope { event: Event::AssignmentsPublished(set), .. }) => Ok(Part::Found(set, record.position)),
        Ok(_) | Err(_) => {
            tracing::warn!(subject, position = %record.position, "what stands there is no assignment; it is replaced");
            Ok(Part::Unreadable(record.position))
        }
    }
}
