//! Where each copy of a camera is, as it is read: from State, which knows of moves, and what its servers said last.

use longwatch_events::id::ServerId;
use longwatch_events::state::{Assignment as AssignmentState, CameraCopy, Placement};
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use super::problem::{Problem, moment};
use crate::read_model::rows::{CameraView, Observations, StatusOf, StatusRow};

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
    #[schema(pattern = "^(recording|connecting|offline|unplaced|disabled)$")]
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

/// Where the copies of each camera of `views` are; none for one that was deleted meanwhile.
///
/// # Errors
/// Those of the read model.
pub(super) async fn show(
    app: &App,
    views: &[CameraView],
    observations: &Observations,
) -> Result<Vec<Vec<CopyPlacement>>, Problem> {
    let copies: Vec<_> = {
        let state = app.service.state();
        let of = |view: &CameraView| state.camera(view.row.tenant_id, view.row.camera_id);
        let copies = |view| {
            of(view).map_or_else(Vec::new, |c| c.copies().map(|(n, copy)| (n, copy.clone())).collect())
        };
        views.iter().map(copies).collect()
    };
    let mut statuses = statuses(app, views, &copies).await?.into_iter();
    let mut shown = Vec::with_capacity(views.len());
    for (view, copies) in views.iter().zip(copies) {
        let placements = copies.into_iter().map(|(number, copy)| {
            let status = question(view, number, &copy).and_then(|_| statuses.next().flatten());
            show_one(view, number, &copy, status, observations)
        });
        shown.push(placements.collect());
    }
    Ok(shown)
}

/// Whose word tells the state of a copy; of the first one it stands in the view.
fn question(view: &CameraView, number: u8, copy: &CameraCopy) -> Option<StatusOf> {
    let assignment = copy.assignment().filter(|_| number > 0)?;
    let (tenant_id, camera_id) = (view.row.tenant_id, view.row.camera_id);
    Some(StatusOf { tenant_id, camera_id, epoch: assignment.epoch, server_id: assignment.server_id })
}

/// What was said last of all copies but the first ones, in their order.
async fn statuses(
    app: &App,
    views: &[CameraView],
    copies: &[Vec<(u8, CameraCopy)>],
) -> Result<Vec<Option<StatusRow>>, Problem> {
    let of = views.iter().zip(copies);
    let of = of.flat_map(|(view, copies)| copies.iter().filter_map(|(n, copy)| question(view, *n, copy)));
    let of: Vec<_> = of.collect();
    if of.is_empty() {
        return Ok(Vec::new());
    }
    Ok(app.service.read_model().statuses(of).await?)
}

fn show_one(
    view: &CameraView,
    number: u8,
    copy: &CameraCopy,
    status: Option<StatusRow>,
    observations: &Observations,
) -> CopyPlacement {
    let state = match number {
        0 => view.state(observations),
        _ => CameraView { row: view.row.clone(), placement: copy.placement, status }.state(observations),
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
        home_server_id: copy.home,
        moving_to: copy.successor().map(Into::into),
        requested_server_id: copy.requested(),
    }
}
