//! A camera as it is read: settings without secrets, where it is recorded, and whether it is.

use std::collections::BTreeMap;

use longwatch_events::id::{CameraId, ServerId, TenantId};
use longwatch_events::schedule::Schedule;
use longwatch_events::settings::{self, CameraSettings, EventRecording, RecordingMode};
use longwatch_events::state::Placement;
use longwatch_events::time::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use super::camera_copies::{self, Assignment, CopyPlacement};
use super::change::etag;
use super::problem::moment;
use super::recording_input::{EventRecordingInput, ScheduleInput};
use crate::read_model::rows::{CameraState, CameraView, Condition, CopyView, Observations};

/// A camera.
#[derive(Serialize, ToSchema)]
pub(super) struct Camera {
    /// Its id.
    #[schema(value_type = String, format = "uuid")]
    id: CameraId,
    /// Its owner.
    #[schema(value_type = String, format = "uuid")]
    tenant_id: TenantId,
    /// For people.
    name: String,
    /// Folders come with a later version: null.
    folder_id: Option<String>,
    /// For people and placement.
    labels: BTreeMap<String, String>,
    /// Where the video comes from.
    source: Source,
    /// Whether and how it is recorded.
    recording: Recording,
    /// How long it is kept.
    retention: Retention,
    /// In which order cameras find a new server when theirs is lost.
    #[schema(value_type = String, pattern = "^(high|medium|low|never)$")]
    failover_priority: longwatch_events::settings::Priority,
    /// The server that should record it, if that has room.
    #[schema(value_type = Option<String>, format = "uuid")]
    preferred_server_id: Option<ServerId>,
    /// On how many servers at once: see `placements` for where each copy is.
    copies: u8,
    /// Only servers that carry all of these labels may record it.
    server_labels: BTreeMap<String, String>,
    /// Whether it serves one client only.
    single_session: bool,
    /// How late its newest video may be because its server looks at it only now and then, in milliseconds.
    live_latency_ms: u16,
    /// What it is expected to send, in bits per second.
    expected_bitrate_bps: Option<u64>,
    /// `recording`, `connecting`, `idle` (its settings do not want it recorded now), `offline`, `unplaced` or `disabled`.
    #[schema(pattern = "^(recording|connecting|idle|offline|unplaced|disabled)$")]
    state: &'static str,
    /// Why, if it is idle, offline or unplaced, for a program: `not_scheduled`, `no_event`, `unauthorized`, `server_silent`,
    /// `no_capacity`, …
    state_reason: Option<String>,
    /// The same for a person.
    state_detail: Option<String>,
    /// Who records it, or its first copy; null: nobody.
    assignment: Option<Assignment>,
    /// Where each of its copies is, the first one first.
    placements: Vec<CopyPlacement>,
    /// When it was added.
    #[schema(format = DateTime)]
    created_at: String,
    /// Its version, for `If-Match`. State and assignment are not part of it.
    etag: String,
}

/// Where the video comes from, without secrets.
#[derive(Serialize, ToSchema)]
struct Source {
    /// The address; values that look like secrets are replaced by `***`.
    url: String,
    /// Whether a user name or password is stored; null: what is stored cannot be opened.
    has_credentials: Option<bool>,
    /// How media travels.
    #[schema(value_type = String, pattern = "^tcp$")]
    transport: longwatch_events::settings::Transport,
}

/// Whether and how a camera is recorded.
#[derive(Serialize, ToSchema)]
struct Recording {
    /// Always, never, in the windows of a schedule, or around events.
    #[schema(value_type = String, pattern = "^(continuous|off|schedule|event)$")]
    mode: RecordingMode,
    /// Its windows; of another mode what is kept for the day it is wanted again. Left out: there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ScheduleInput>)]
    schedule: Option<Box<Schedule>>,
    /// How much around an event is recorded; of another mode what is kept. Left out: there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<EventRecordingInput>)]
    event: Option<EventRecording>,
}

impl From<settings::Recording> for Recording {
    fn from(settings::Recording { mode, schedule, event }: settings::Recording) -> Self {
        Self { mode, schedule, event }
    }
}

/// How long video is kept.
#[derive(Serialize, ToSchema)]
struct Retention {
    /// Older video may go; null: without bound.
    max_days: Option<u32>,
    /// Above this, on each server, the oldest video may go; null: without bound.
    max_bytes: Option<u64>,
    /// Younger video stays whatever max_bytes says, unless a volume is full otherwise; left out: nothing is promised.
    #[serde(skip_serializing_if = "Option::is_none")]
    min_days: Option<u32>,
}

/// Shows a camera, given what is observed of servers.
pub(super) fn show(app: &App, view: CameraView, observations: &Observations) -> Camera {
    let placements = camera_copies::show(app, &view, observations);
    let state = view.state(observations);
    let (state_reason, state_detail) = explain(app, &view, state).unzip();
    let assignment = view.placement().assignment().map(Into::into);
    let row = view.row;
    let source = source(app, row.tenant_id, &row.settings);
    let settings = row.settings;
    Camera {
        id: row.camera_id,
        tenant_id: row.tenant_id,
        copies: settings.wanted_copies(),
        live_latency_ms: settings.wanted_live_latency_ms(),
        name: settings.name,
        folder_id: None,
        labels: settings.labels.into(),
        source,
        recording: settings.recording.into(),
        retention: Retention {
            max_days: settings.retention.max_days,
            min_days: settings.retention.min_days,
            max_bytes: settings.retention.max_bytes,
        },
        failover_priority: settings.failover_priority,
        preferred_server_id: settings.preferred_server_id,
        server_labels: settings.server_labels.into(),
        single_session: settings.single_session,
        expected_bitrate_bps: settings.expected_bitrate_bps,
        state: state.as_str(),
        state_reason,
        state_detail,
        assignment,
        placements,
        created_at: moment(row.created_at),
        etag: etag(row.version),
    }
}

fn source(app: &App, tenant_id: TenantId, settings: &CameraSettings) -> Source {
    let has_credentials = match app.service.open_source(tenant_id, &settings.source.secret) {
        Ok(secret) => Some(secret.username.is_some() || secret.password.is_some()),
        Err(error) => {
            tracing::warn!(%tenant_id, %error, "a camera's source cannot be opened");
            None
        }
    };
    Source { url: settings.source.url.clone(), has_credentials, transport: settings.source.transport }
}

/// Why a camera is not recorded, for a program and for a person.
fn explain(app: &App, view: &CameraView, state: CameraState) -> Option<(String, String)> {
    match state {
        CameraState::Recording | CameraState::Connecting | CameraState::Disabled => None,
        CameraState::Unplaced => Some(unplaced(&view.placement())),
        CameraState::Offline => view.copies.iter().find_map(|copy| offline(app, copy)),
        CameraState::Idle => view.copies.iter().find_map(idle),
    }
}

/// Why a copy is not recorded, if it has a server that should.
fn offline(app: &App, copy: &CopyView) -> Option<(String, String)> {
    let assignment = copy.row.placement.assignment()?;
    // What a server said before it fell silent may have changed since.
    if let Some(since) = app.service.observed().silent_since(assignment.server_id) {
        return Some(silent(assignment.server_id, since));
    }
    let Condition::Offline { cause, detail } = &copy.status.as_ref()?.condition else { return None };
    Some((cause.as_str().to_owned(), detail.clone()))
}

/// Why a copy is not wanted recorded now, if that is so.
fn idle(copy: &CopyView) -> Option<(String, String)> {
    let Condition::Offline { cause, detail } = &copy.status.as_ref()?.condition else { return None };
    cause.is_by_wish().then(|| (cause.as_str().to_owned(), detail.clone()))
}

fn silent(server_id: ServerId, since: Timestamp) -> (String, String) {
    let since = moment(since);
    let detail = format!("server {server_id} has not been heard of since {since}; it may still be recording");
    ("server_silent".to_owned(), detail)
}

fn unplaced(placement: &Placement) -> (String, String) {
    use longwatch_events::reason::UnplacedReason;

    let Placement::Unplaced { reason, .. } = placement else {
        return ("waiting_for_plan".to_owned(), "no plan has looked at the camera yet".to_owned());
    };
    let detail = match reason {
        UnplacedReason::NoServer => {
            "there is no server that could record it: none is adopted, or all are lost; start a worker"
        }
        UnplacedReason::NoCapacity => {
            "every server holds as many cameras as it may; add a server or raise max_cameras"
        }
        UnplacedReason::NoBitrate => "no server has that much of its max_bitrate_bps left",
        UnplacedReason::NoTakeover => {
            "its server is lost, and those with room take over no (more) cameras; raise takeover_limit, or enable failover"
        }
        UnplacedReason::NoLabels => {
            "no server carries all labels of server_labels; label a server so, or ask for less"
        }
        UnplacedReason::NoDisk => {
            "the archive of every server with room is nearly full; free space, or add a server"
        }
        UnplacedReason::NoOtherServer => {
            "every server with room records another copy of it already; add a server, or ask for fewer copies"
        }
        UnplacedReason::Preempted => {
            "a camera of priority high needed its place, and policy says that it goes first; add a server"
        }
        // It was switched on, and the plan that places it is yet to be made.
        UnplacedReason::Disabled => return unplaced(&Placement::Unplanned),
    };
    (reason.as_str().to_owned(), detail.to_owned())
}
