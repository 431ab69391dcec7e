//! The language of Longwatch: what can happen, how it is written down, and what follows from it.
//!
//! Everything here is pure, synchronous and deterministic, except [`log`], the place where events stand. Without
//! the feature `jetstream` the crate does no I/O at all, so an auditor's tool, the simulation and the control
//! plane all fold the same bytes with the same code.
//!
//! Read in this order: [`id`], [`time`], [`event`] (what can happen), [`wire`] (how it is written),
//! [`envelope`] (who said it, when), [`state`] and [`fold`] (what follows), [`log`] (where it stands).

pub mod archive;
pub mod assignment;
pub mod envelope;
pub mod event;
pub mod fact;
pub mod fold;
pub mod hash;
pub mod id;
pub mod index;
pub mod join;
pub mod labels;
pub mod log;
pub mod media;
pub mod policy;
pub mod position;
pub mod reason;
pub mod schedule;
pub mod sealed;
pub mod segment_name;
pub mod settings;
pub mod snapshot;
pub mod state;
pub mod subject;
pub mod time;
pub mod trigger;
pub mod wire;
