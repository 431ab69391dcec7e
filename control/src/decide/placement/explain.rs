//! Why a plan says of one copy what it says: the same plan drawn up again, with every server's standing at the moment
//! that copy's turn came.

use longwatch_events::event::Decision;
use longwatch_events::id::{CopyKey, ServerId};

use super::rooms::{Refusal, Request, Rooms};
use super::{Draft, Inputs};

/// What speaks for and against a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub server_id: ServerId,
    /// Why it may not have the copy; `None`: it may.
    pub refusal: Option<Refusal>,
    /// The share of its capacity in use when the copy's turn came, in millionths; `None`: it cannot record.
    pub relative_load: Option<u64>,
    /// Whether another copy of the camera is in its zone: it comes behind all servers of other zones.
    pub shares_zone: bool,
    /// Whether its zone is another than the one the camera carries as a label: it comes behind those of that zone.
    pub other_zone: bool,
}

/// What a plan says of one copy, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// What is to be; `None`: it stays as it is.
    pub decision: Option<Decision>,
    /// Every server, by id; none if no server was looked for.
    pub candidates: Vec<Candidate>,
}

/// Draws the plan up again and tells about `key`.
pub fn explain(inputs: &Inputs<'_>, key: CopyKey) -> Explanation {
    let mut draft = Draft { probe: Some(key), ..Draft::new(inputs) };
    draft.draw_up();
    let decision = inputs.state.copy(key).and_then(|(camera, _)| draft.decision(key, camera).copied());
    Explanation { decision, candidates: draft.noted }
}

pub(super) fn candidates(inputs: &Inputs<'_>, rooms: &Rooms<'_>, request: &Request<'_>) -> Vec<Candidate> {
    let candidate = |(server_id, server): (ServerId, &longwatch_events::state::Server)| {
        let refusal =
            if server.is_ours() { rooms.refusal(server_id, request) } else { Some(Refusal::NotAdopted) };
        let zones = rooms.zones(server_id, request).unwrap_or_default();
        Candidate {
            server_id,
            refusal,
            relative_load: rooms.relative_load(server_id),
            shares_zone: zones.shares,
            other_zone: zones.other,
        }
    };
    inputs.state.servers().map(candidate).collect()
}
