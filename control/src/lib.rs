//! The control plane of Longwatch: folds the log, decides, answers the API.
//!
//! Arrows point one way: [`decide`] is pure and knows only State; [`service`] is what all shells share; [`follower`],
//! [`planner`], [`watch`], [`join`], [`archives`], [`triggers`] and [`api`] are shells around it; [`serve`] puts them together; [`single`] runs the whole
//! system on one machine.

pub mod api;
pub mod archives;
pub mod assignments;
pub mod backlog;
pub mod config_file;
pub mod decide;
pub(crate) mod evidence;
pub mod follower;
pub mod join;
pub mod keys;
pub mod lead;
pub mod observed;
pub mod planner;
pub mod playback;
pub mod read_model;
pub mod replay;
pub mod secrets;
pub mod serve;
pub mod service;
pub mod single;
pub mod snapshots;
#[cfg(test)]
mod testing;
pub mod triggers;
pub mod watch;
