//! What of State is written down otherwise than it is held: in snapshots, and in the JSON that is hashed.

use serde::{Deserialize, Serialize};

use super::{Assignment, Placement, Unsettled};
use crate::id::ServerId;
use crate::time::Timestamp;

/// A [`super::CameraCopy`].
#[derive(Serialize, Deserialize)]
pub(super) struct CameraCopy {
    placement: Placement,
    home: Option<ServerId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    left_with: Option<Assignment>,
    transit: Option<Transit>,
}

/// What there is to know about a planned move.
#[derive(PartialEq, Eq, Default, Serialize, Deserialize)]
struct Transit {
    successor: Option<Assignment>,
    requested: Option<ServerId>,
    gave_up_at: Option<Timestamp>,
}

impl From<super::CameraCopy> for CameraCopy {
    fn from(copy: super::CameraCopy) -> Self {
        let Unsettled { home, left_with, successor, requested, gave_up_at } =
            copy.unsettled.map(|unsettled| *unsettled).unwrap_or_default();
        let transit = Transit { successor, requested, gave_up_at };
        let transit = (transit != Transit::default()).then_some(transit);
        Self { placement: copy.placement, home, left_with, transit }
    }
}

impl From<CameraCopy> for super::CameraCopy {
    fn from(CameraCopy { placement, home, left_with, transit }: CameraCopy) -> Self {
        let Transit { successor, requested, gave_up_at } = transit.unwrap_or_default();
        let mut copy = Self { placement, unsettled: None };
        let all = Unsettled { home, left_with, successor, requested, gave_up_at };
        copy.unsettle(|unsettled| *unsettled = all);
        copy
    }
}
