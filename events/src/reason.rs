//! Why a camera is where it is. Closed lists: every decision carries one of these.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Why a server was given a camera.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AssignReason {
    /// It is the camera's preferred server and has room.
    Preferred,
    /// It had the least relative load of the servers with room.
    LeastLoaded,
    /// The camera's server is lost; this one takes over, having room and the least relative load.
    Failover,
    /// No other server had taken the camera over, and its own is back.
    Home,
    /// Its own server has been back for long enough.
    Failback,
    /// The server that had it is being drained.
    Drain,
    /// The server that had it holds more than its capacity.
    OverCapacity,
    /// The server that had it does not carry the labels that the camera asks for.
    Labels,
    /// The server that had it was fuller than this one.
    Rebalance,
    /// Somebody asked for it.
    Requested,
}

/// Why a planned move came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The new server's first keyframe is durable.
    FirstKeyframe,
    /// The old server does not record the camera any more, for which the new one waited.
    Stopped,
    /// The old server is lost.
    OldLost,
    /// It took too long, and the camera cannot stay where it was.
    TimedOut,
}

/// Why a planned move was given up: the camera stays where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AbandonReason {
    /// The new server is lost.
    NewLost,
    /// It took too long.
    TimedOut,
    /// Its cause is gone: the drain was called off, or the camera asks for something else now.
    NotWanted,
}

/// Why no server has a camera.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UnplacedReason {
    /// There is no adopted server, or all are lost or being drained.
    NoServer,
    /// Every server holds as many cameras as its capacity allows.
    NoCapacity,
    /// No server has that much of its bitrate left.
    NoBitrate,
    /// Its server is lost, and every other one with room takes over no (more) cameras of others.
    NoTakeover,
    /// No server carries the labels that the camera asks for.
    NoLabels,
    /// The archive of every server with room is nearly full.
    NoDisk,
    /// Every server with room records another copy of the camera already.
    NoOtherServer,
    /// A camera of priority `high` needed its place.
    Preempted,
    /// It is not to be recorded.
    Disabled,
}

impl AssignReason {
    /// The word for it in events and the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Preferred => "preferred",
            Self::LeastLoaded => "least_loaded",
            Self::Failover => "failover",
            Self::Home => "home",
            Self::Failback => "failback",
            Self::Drain => "drain",
            Self::OverCapacity => "over_capacity",
            Self::Labels => "labels",
            Self::Rebalance => "rebalance",
            Self::Requested => "requested",
        }
    }
}

impl UnplacedReason {
    /// The word for it in events and the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoServer => "no_server",
            Self::NoCapacity => "no_capacity",
            Self::NoBitrate => "no_bitrate",
            Self::NoTakeover => "no_takeover",
            Self::NoLabels => "no_labels",
            Self::NoDisk => "no_disk",
            Self::NoOtherServer => "no_other_server",
            Self::Preempted => "preempted",
            Self::Disabled => "disabled",
        }
    }
}

impl FinishReason {
    /// The word for it in events and the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FirstKeyframe => "first_keyframe",
            Self::Stopped => "stopped",
            Self::OldLost => "old_lost",
            Self::TimedOut => "timed_out",
        }
    }
}

impl AbandonReason {
    /// The word for it in events and the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NewLost => "new_lost",
            Self::TimedOut => "timed_out",
            Self::NotWanted => "not_wanted",
        }
    }
}
