//! Placement, on the real fold: given any history of servers, cameras, policies and moves, every plan is checked by an
//! oracle that counts for itself; and what an operator relies on stands here as examples.

mod oracle;
mod properties;
mod rules;
mod steps;
mod view;
mod world;
