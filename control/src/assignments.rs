//! Tells each server what it is to record: its whole desired set, on `ASSIGNMENTS`, whenever it differs from what
//! stands there.
//!
//! Invariants: a set is compared with what the log stream holds, not with what this process remembers, so a restart
//! repeats nothing and a second replica adds nothing; an older set never replaces a newer one; a camera whose source
//! cannot be opened is left out loudly and hurts no other.

use std::collections::BTreeMap;

use longwatch_events::assignment::{AssignedCamera, AssignmentSet};
use longwatch_events::envelope::Envelope;
use longwatch_events::event::Event;
use longwatch_events::id::{CameraId, EventId, ServerId, TenantId};
use longwatch_events::log;
use longwatch_events::position::{Epoch, Position};
use longwatch_events::sealed::{PublicKey, Sealed};
use longwatch_events::state::State;
use longwatch_events::subject::{self, LogStream};

use crate::observed::HEARTBEAT_INTERVAL_MS;
use crate::secrets;
use crate::service::Service;

/// So many cameras stand in one part: about 600 KB.
const CAMERAS_PER_PART: usize = 1_000;

/// What is wanted of a server, without the secrets: what two sets are compared by.
type Wanted = BTreeMap<(TenantId, CameraId), (Epoch, Position)>;

/// A server's desired set as State has it.
struct Desired {
    wanted: Wanted,
    sources: BTreeMap<(TenantId, CameraId), Sealed>,
    public_key: PublicKey,
}

/// Publishes desired sets, and remembers what stands in the log stream.
#[derive(Default)]
pub struct Publisher {
    published: BTreeMap<ServerId, Wanted>,
}

impl Publisher {
    /// Publishes every set that differs from what stands there. What fails is logged and tried at the next call.
    pub async fn publish(&mut self, service: &Service) {
        let (revision, desired) = {
            let state = service.state();
            (state.position, desired_sets(&state))
        };
        for (server_id, desired) in desired {
            if self.published.get(&server_id) == Some(&desired.wanted) {
                continue;
            }
            match publish_if_changed(service, server_id, revision, &desired).await {
                Ok(Outcome::Stands) => {
                    self.published.insert(server_id, desired.wanted);
                }
                Ok(Outcome::NewerStands) => {
                    tracing::debug!(%server_id, %revision, "a set from further on in the log stands there");
                }
                Err(log::Error::Conflict { .. }) => {
                    tracing::info!(%server_id, %revision, "another replica published first; looking again");
                }
                Err(error) => tracing::warn!(%server_id, %error, "assignments are published later"),
            }
        }
    }
}

fn desired_sets(state: &State) -> BTreeMap<ServerId, Desired> {
    let empty = |public_key| Desired { wanted: Wanted::new(), sources: BTreeMap::new(), public_key };
    // A server that was let go is told to stop.
    let detached = state.detached().map(|(key, id)| (id, empty(*key)));
    let ours = state.servers().filter_map(|(id, server)| Some((id, empty(server.public_key?))));
    let mut sets: BTreeMap<ServerId, Desired> = detached.chain(ours).collect();
    for (tenant_id, camera_id, camera) in state.cameras() {
        let Some(assignment) = camera.assignment() else { continue };
        if let Some(set) = sets.get_mut(&assignment.server_id) {
            set.wanted.insert((tenant_id, camera_id), (assignment.epoch, camera.version));
            set.sources.insert((tenant_id, camera_id), camera.settings.source.secret.clone());
        }
    }
    sets
}

/// What publishing a set came to.
enum Outcome {
    /// The set stands in the log stream.
    Stands,
    /// One that follows from a later position stands there: another replica is ahead of this one.
    NewerStands,
}

async fn publish_if_changed(
    service: &Service,
    server_id: ServerId,
    revision: Position,
    desired: &Desired,
) -> Result<Outcome, log::Error> {
    let standing = Standing::read(service, server_id).await?;
    if standing.wanted == desired.wanted {
        return Ok(Outcome::Stands);
    }
    if standing.revision >= revision {
        return Ok(Outcome::NewerStands);
    }
    let parts = parts(service, server_id, revision, desired);
    let count = parts.len();
    // The first part carries the condition and goes last: a reader that sees it finds the others there already.
    for set in parts.into_iter().rev() {
        let expected = (set.part == 1).then_some(standing.first_part_at);
        let event_id = EventId::generate(service.ids());
        service.append("system", event_id, Event::AssignmentsPublished(set), expected).await?;
    }
    tracing::info!(%server_id, %revision, cameras = desired.wanted.len(), parts = count, "assignments published");
    Ok(Outcome::Stands)
}

fn parts(
    service: &Service,
    server_id: ServerId,
    revision: Position,
    desired: &Desired,
) -> Vec<AssignmentSet> {
    let cameras: Vec<_> = desired
        .wanted
        .iter()
        .filter_map(|(key, wanted)| assigned_camera(service, *key, *wanted, desired))
        .collect();
    let mut chunks: Vec<_> = cameras.chunks(CAMERAS_PER_PART).map(<[_]>::to_vec).collect();
    if chunks.is_empty() {
        chunks.push(Vec::new());
    }
    let count = u32::try_from(chunks.len()).unwrap_or(u32::MAX);
    (1..)
        .zip(chunks)
        .map(|(part, cameras)| AssignmentSet {
            server_id,
            revision,
            part,
            parts: count,
            heartbeat_interval_ms: HEARTBEAT_INTERVAL_MS,
            cameras,
        })
        .collect()
}

fn assigned_camera(
    service: &Service,
    (tenant_id, camera_id): (TenantId, CameraId),
    (epoch, settings_version): (Epoch, Position),
    desired: &Desired,
) -> Option<AssignedCamera> {
    let sealed = desired.sources.get(&(tenant_id, camera_id))?;
    let resealed = service
        .open_source(tenant_id, sealed)
        .and_then(|source| secrets::seal_to_worker(&desired.public_key, &source));
    match resealed {
        Ok(source) => Some(AssignedCamera { tenant_id, camera_id, epoch, settings_version, source }),
        Err(error) => {
            tracing::error!(%tenant_id, %camera_id, %error, "a camera cannot be handed to its server");
            metrics::counter!("longwatch_sources_unopened_total").increment(1);
            None
        }
    }
}

/// What stands in `ASSIGNMENTS` for one server.
struct Standing {
    wanted: Wanted,
    revision: Position,
    first_part_at: Position,
}

impl Standing {
    async fn read(service: &Service, server_id: ServerId) -> Result<Self, log::Error> {
        let nothing =
            Self { wanted: Wanted::new(), revision: Position::START, first_part_at: Position::START };
        let Some((first, first_part_at)) = read_part(service, server_id, 1).await? else {
            return Ok(nothing);
        };
        let mut standing = Self { wanted: wanted(&first), revision: first.revision, first_part_at };
        for part in 2..=first.parts {
            match read_part(service, server_id, part).await? {
                Some((set, _)) if set.revision == first.revision => standing.wanted.extend(wanted(&set)),
                // Another replica is at it; what stands there is not whole.
                Some(_) | None => return Ok(Self { first_part_at, ..nothing }),
            }
        }
        Ok(standing)
    }
}

async fn read_part(
    service: &Service,
    server_id: ServerId,
    part: u32,
) -> Result<Option<(AssignmentSet, Position)>, log::Error> {
    let subject = subject::assignment(server_id, part);
    let Some(record) = service.log().last(LogStream::Assignments, &subject).await? else { return Ok(None) };
    match Envelope::decode(&record.payload) {
        Ok(Envelope { event: Event::AssignmentsPublished(set), .. }) => Ok(Some((set, record.position))),
        Ok(_) | Err(_) => {
            tracing::warn!(subject, position = %record.position, "what stands there is no assignment; it is replaced");
            Ok(None)
        }
    }
}

fn wanted(set: &AssignmentSet) -> Wanted {
    set.cameras
        .iter()
        .map(|camera| ((camera.tenant_id, camera.camera_id), (camera.epoch, camera.settings_version)))
        .collect()
}
