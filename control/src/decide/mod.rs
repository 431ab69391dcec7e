//! Decisions: State and a wish in, events out. Pure: no clock, no network, no randomness, no order that is not in State.

pub mod command;
pub mod disk;
pub mod drain;
pub mod keeper;
pub mod liveness;
pub mod placement;
pub mod rederive;
pub mod scaling;
pub mod what_if;
