//! Playback: which segments are played of what a timeline knows, and how that is told to a player. Pure; who asks, and what is
//! there, comes from the API.

pub mod cover;
pub mod playlist;
