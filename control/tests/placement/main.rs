//! Placement, on the real fold: given any history of servers, cameras, policies and moves, every plan is checked by an
//! oracle that counts for itself; and what an operator relies on stands here as examples.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::wildcard_enum_match_arm, reason = "each part of the world takes the steps that are its own")]

mod asking;
mod constraints;
mod failover;
mod moves;
mod oracle;
mod outlook;
mod properties;
mod rules;
mod steps;
mod view;
mod world;
