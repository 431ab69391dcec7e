//! What a server is to be told, as a value: what State wants, what stands in the log stream, and what follows from
//! both.
//!
//! Pure. Invariants: a source that was sealed to a server before is handed on as it is; a camera whose source cannot
//! be opened keeps what stands there for it, so that whatever records goes on recording; no part is larger than a
//! message may be.

use std::collections::BTreeMap;

use longwatch_events::assignment::{AssignedCamera, AssignmentSet};
use longwatch_events::id::{CameraId, CopyKey, EventId, ServerId, TenantId};
use longwatch_events::position::{Epoch, Position};
use longwatch_events::sealed::{Base64Bytes, PublicKey, Sealed};
use longwatch_events::settings::{Priority, Recording, Retention};
use longwatch_events::state::State;

use crate::observed::Pace;

/// The cameras of one part take at most so many bytes as JSON; NATS takes 1 MiB with headers and envelope.
const BYTES_PER_PART: usize = 690_000;
/// A camera without its source and its schedule takes less than this as JSON.
const BYTES_BESIDE_SOURCE: usize = 384;

/// A camera and its tenant.
pub type Key = (TenantId, CameraId);

/// A set without the secrets: what two sets are compared by.
pub type Wanted = BTreeMap<Key, Order>;

/// What a server is told of a camera that is no secret, and that may change at any time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Of its assignment.
    pub epoch: Epoch,
    /// Of its source.
    pub settings_version: Position,
    /// How long its video is kept; `None` in sets from before it was told.
    pub retention: Option<Retention>,
    /// When it is recorded; `None`: always.
    pub recording: Option<Recording>,
}

impl Order {
    /// What is known of the camera, with this order.
    fn of(&self, known: &AssignedCamera) -> AssignedCamera {
        let Self { epoch, settings_version: _, retention, recording } = self;
        AssignedCamera { epoch: *epoch, retention: *retention, recording: recording.clone(), ..known.clone() }
    }
}

/// What State wants of one server.
pub struct Desired {
    /// What it is to record.
    pub wanted: Wanted,
    /// The wanted cameras' sources.
    pub sources: BTreeMap<Key, WantedSource>,
    /// What the server is sealed to.
    pub public_key: PublicKey,
    /// How often it gives signs of life, and how long it may be silent.
    pub pace: Pace,
}

/// Where a wanted camera's video comes from.
pub struct WantedSource {
    /// Sealed with its tenant's key.
    pub sealed: Sealed,
    /// It serves one client only.
    pub single_session: bool,
    /// How late its newest video may be, in milliseconds.
    pub live_latency_ms: u16,
    /// How important it is when many want to connect at once.
    pub priority: Priority,
}

/// What State wants of `server_id`; `None` if its worker was never seen. A server that was let go is told to stop.
pub fn desired(state: &State, server_id: ServerId, pace: Pace) -> Option<Desired> {
    let public_key = state.server(server_id)?.public_key?;
    let (mut wanted, mut sources) = (Wanted::new(), BTreeMap::new());
    let index = state.index();
    for CopyKey { tenant_id, camera_id, .. } in
        index.roster(server_id).copies().chain(index.left_with(server_id))
    {
        let Some(camera) = state.camera(tenant_id, camera_id) else { continue };
        let Some(here) = camera.recorders().find(|here| here.server_id == server_id) else { continue };
        let order = Order {
            epoch: here.epoch,
            settings_version: camera.source_version,
            retention: Some(camera.settings.retention()),
            recording: camera.settings.recording().as_told(),
        };
        wanted.insert((tenant_id, camera_id), order);
        let sealed = camera.settings.secret();
        let single_session = camera.settings.single_session;
        let live_latency_ms = camera.settings.wanted_live_latency_ms();
        let priority = camera.settings.failover_priority;
        let source = WantedSource { sealed, single_session, live_latency_ms, priority };
        sources.insert((tenant_id, camera_id), source);
    }
    Some(Desired { wanted, sources, public_key, pace })
}

/// What stands in the log stream for one server.
#[derive(Default)]
pub struct Standing {
    /// What it is told to record. Of a set that is not whole, what is there of it.
    cameras: BTreeMap<Key, AssignedCamera>,
    /// Whether a part is missing or belongs to another set.
    is_torn: bool,
    /// Whether its server has applied a higher revision than any that stands here.
    is_outrun: bool,
    /// The highest revision among its parts, or the one that its server has applied, if that is higher.
    pub revision: Position,
    /// What it says of signs of life.
    pace: Option<Pace>,
    /// Where its first part stands: the condition of the next set.
    pub first_part_at: Position,
}

impl Standing {
    /// The set that `first`, standing at `first_part_at`, and the parts behind it make; `None` is a part that is
    /// missing.
    pub fn new(first: AssignmentSet, first_part_at: Position, others: Vec<Option<AssignmentSet>>) -> Self {
        let (revision, set_id) = (first.revision, first.set_id);
        let interval_ms = first.heartbeat_interval_ms;
        let pace = first.lease_ms.map(|lease_ms| Pace { interval_ms, lease_ms });
        let of_this_set = |part: &Option<AssignmentSet>| {
            part.as_ref().is_some_and(|set| (set.revision, set.set_id) == (revision, set_id))
        };
        let mut standing =
            Self { is_torn: !others.iter().all(of_this_set), first_part_at, pace, ..Self::default() };
        for set in std::iter::once(first).chain(others.into_iter().flatten()) {
            standing.revision = standing.revision.max(set.revision);
            for camera in set.cameras {
                let newest = standing.cameras.entry((camera.tenant_id, camera.camera_id));
                newest
                    .and_modify(|known| {
                        if known.settings_version < camera.settings_version {
                            known.clone_from(&camera);
                        }
                    })
                    .or_insert(camera);
            }
        }
        standing
    }

    /// Nothing, in the place of something unreadable.
    pub fn unreadable(first_part_at: Position) -> Self {
        Self { is_torn: true, first_part_at, ..Self::default() }
    }

    /// Its server has applied the set of `revision`. If that is higher than what stands here, the log stream was set back
    /// to an older state: the server takes no set that is not higher still.
    pub fn applied(&mut self, revision: Position) {
        if revision > self.revision {
            self.revision = revision;
            self.is_outrun = true;
        }
    }

    /// Whether it says just what `cameras` and `pace` say.
    pub fn is(&self, cameras: &[AssignedCamera], pace: Pace) -> bool {
        !self.is_torn
            && !self.is_outrun
            && self.pace == Some(pace)
            && wanted(self.cameras.values()) == wanted(cameras)
    }

    /// The revision of the set that is to replace this one and follows from State at `position`.
    pub fn next_revision(&self, position: Position) -> Position {
        position.max(self.revision.next())
    }
}

fn wanted<'a>(cameras: impl IntoIterator<Item = &'a AssignedCamera>) -> Wanted {
    let entry = |camera: &AssignedCamera| {
        let AssignedCamera { epoch, settings_version, retention, .. } = *camera;
        let recording = camera.recording.clone();
        ((camera.tenant_id, camera.camera_id), Order { epoch, settings_version, retention, recording })
    };
    cameras.into_iter().map(entry).collect()
}

/// A set to publish.
pub struct Composed<E> {
    /// By tenant and id.
    pub cameras: Vec<AssignedCamera>,
    /// The cameras whose source could not be opened, and why. Those of them that the server knew stay as they stood.
    pub unopened: Vec<(Key, E)>,
}

/// What a server is told of a camera beside its order.
pub struct Resealed {
    /// Sealed to the server.
    pub source: Base64Bytes,
    /// See [`WantedSource`].
    pub single_session: bool,
    /// See [`WantedSource`].
    pub live_latency_ms: u16,
    /// See [`WantedSource`].
    pub priority: Priority,
}

/// What a server is to be told. `reseal` opens a camera's source and seals it to the server; it is asked only for what
/// does not stand there yet.
pub fn compose<E>(
    wanted: &Wanted,
    standing: &Standing,
    mut reseal: impl FnMut(Key) -> Result<Resealed, E>,
) -> Composed<E> {
    let mut composed = Composed { cameras: Vec::with_capacity(wanted.len()), unopened: Vec::new() };
    for (key, order) in wanted {
        let (tenant_id, camera_id) = *key;
        let Order { epoch, settings_version, retention, recording } = order;
        let known = standing.cameras.get(key);
        let camera = match known.filter(|known| known.settings_version == *settings_version) {
            Some(known) => Some(order.of(known)),
            None => match reseal(*key) {
                Ok(Resealed { source, single_session, live_latency_ms, priority }) => Some(AssignedCamera {
                    tenant_id,
                    camera_id,
                    epoch: *epoch,
                    settings_version: *settings_version,
                    source,
                    single_session,
                    live_latency_ms: Some(live_latency_ms),
                    priority: Some(priority),
                    retention: *retention,
                    recording: recording.clone(),
                }),
                Err(error) => {
                    composed.unopened.push((*key, error));
                    // Recording from where it was is better than not recording.
                    known.map(|known| order.of(known))
                }
            },
        };
        composed.cameras.extend(camera);
    }
    composed
}

/// How long it is as JSON.
fn bytes_of(recording: &Recording) -> usize {
    serde_json::to_vec(recording).map_or(0, |json| json.len())
}

/// The set in parts that fit into a message each.
pub fn parts(
    server_id: ServerId,
    revision: Position,
    set_id: EventId,
    pace: Pace,
    cameras: Vec<AssignedCamera>,
) -> Vec<AssignmentSet> {
    let mut chunks = vec![Vec::new()];
    let mut bytes = 0;
    for camera in cameras {
        let recording = camera.recording.as_ref().map_or(0, bytes_of);
        let of_camera = BYTES_BESIDE_SOURCE + recording + camera.source.0.len().div_ceil(3) * 4;
        if bytes + of_camera > BYTES_PER_PART && bytes > 0 {
            chunks.push(Vec::new());
            bytes = 0;
        }
        bytes += of_camera;
        if let Some(chunk) = chunks.last_mut() {
            chunk.push(camera);
        }
    }
    let count = u32::try_from(chunks.len()).unwrap_or(u32::MAX);
    (1..)
        .zip(chunks)
        .map(|(part, cameras)| AssignmentSet {
            server_id,
            revision,
            set_id: Some(set_id),
            part,
            parts: count,
            heartbeat_interval_ms: pace.interval_ms,
            lease_ms: Some(pace.lease_ms),
            cameras,
        })
        .collect()
}
