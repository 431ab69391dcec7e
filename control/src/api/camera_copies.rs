//! Where each copy of a camera is, as it is read: from State, which knows of moves, and what its servers said last.

use longwatch_events::id::ServerId;
use longwatch_events::state::{Assignment as AssignmentState, CameraCopy, Placement};
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use super::problem::moment;
use crate::read_model::rows::{CameraState, CameraView, Observations};

/// A camera's server.
#[derive(Serialize, ToSchema)]
pub(super) struct Assignment {
    /// Who.
    #[schema(value_type = String, format = "uuid")]
    server_id: ServerId,
    /// The position of the plan that decided it.
    epoch: u64,
    /// Since when.
    #[schema(format = DateTime)]
    since: String,
    /// Why this server. `preferred`: the camera prefers it; `least_loaded`: it had the least relative load; `failover`: the
    /// camera's server is lost; `home`: its own server is back, and no other had taken it; `failback`: its own server has
    /// been back for long enough, or somebody asked; `drain`: the server before is being emptied; `over_capacity`: that one
    /// held more than it may; `labels`: that one lacks a label the camera asks for; `rebalance`: that one was fuller;
    /// `requested`: somebody asked for it.
    #[schema(
        pattern = "^(preferred|least_loaded|failover|home|failback|drain|over_capacity|labels|rebalance|requested)$"
    )]
    reason: &'static str,
}

impl From<&AssignmentState> for Assignment {
    fn from(assignment: &AssignmentState) -> Self {
        Self {
            server_id: assignment.server_id,
            epoch: assignment.epoch.0,
            since: moment(assignment.since),
            reason: assignment.reason.as_str(),
        }
    }
}

/// Where one copy of a camera is.
#[derive(Serialize, ToSchema)]
pub(super) struct CopyPlacement {
    /// Which copy, from 0.
    copy: u8,
    /// As the camera's: the camera's own is that of copy 0.
    #[schema(pattern = "^(recording|connecting|idle|offline|unplaced|disabled)$")]
    state: &'static str,
    /// Who records it; null: nobody.
    assignment: Option<Assignment>,
    /// Why nobody does: `waiting_for_plan`, `no_server`, `no_capacity`, `no_bitrate`, `no_takeover`, `no_labels`,
    /// `no_disk`, `no_other_server`, `preempted` or `disabled`.
    unplaced_reason: Option<&'static str>,
    /// The server it was taken from, because that is lost or drained, and goes back to.
    #[schema(value_type = Option<String>, format = "uuid")]
    home_server_id: Option<ServerId>,
    /// The server that is about to record it instead; the one in `assignment` goes on until this one has begun.
    moving_to: Option<Assignment>,
    /// The server on which somebody wants it.
    #[schema(value_type = Option<String>, format = "uuid")]
    requested_server_id: Option<ServerId>,
}

/// Where the copies of a camera are, as State has it; none if it was deleted meanwhile.
pub(super) fn show(app: &App, view: &CameraView, observations: &Observations) -> Vec<CopyPlacement> {
    let state = app.service.state();
    let camera = state.camera(view.row.tenant_id, view.row.camera_id);
    let copies = camera.into_iter().flat_map(|camera| camera.copies());
    copies.map(|(number, copy)| show_one(view, number, copy, observations)).collect()
}

fn show_one(view: &CameraView, number: u8, copy: &CameraCopy, observations: &Observations) -> CopyPlacement {
    // Of one that the rows do not have yet nothing was heard either.
    let state = match view.copies.get(usize::from(number)) {
        Some(known) => known.state(observations),
        None => CameraState::Unplaced,
    };
    let unplaced_reason = match copy.placement {
        Placement::Assigned(_) => None,
        Placement::Unplanned => Some("waiting_for_plan"),
        Placement::Unplaced { reason, .. } => Some(reason.as_str()),
    };
    CopyPlacement {
        copy: number,
        state: state.as_str(),
        assignment: copy.assignment().map(Into::into),
        unplaced_reason,
        home_server_id: copy.home(),
        moving_to: copy.successor().map(Into::into),
        requested_server_id: copy.requested(),
    }
}
