//! Where an event stands in its log stream, and the epoch that follows from it.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The place of an event in its log stream: 1 for the first, then 2, 3, …; 0 stands for "before the first".
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(transparent)]
pub struct Position(pub u64);

impl Position {
    /// Before the first event.
    pub const START: Self = Self(0);

    /// The place right behind this one. Nothing stands behind the last position there can be, `u64::MAX`: it is its
    /// own next, so that a position from outside never overflows.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The place right before this one; nothing is before [`Self::START`], which is its own.
    #[must_use]
    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number by which an older assignment is recognised as older: the position of the plan that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl From<Position> for Epoch {
    fn from(position: Position) -> Self {
        Self(position.0)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
