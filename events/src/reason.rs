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
}

/// Why no server has a camera.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UnplacedReason {
    /// There is no adopted server, or all are lost.
    NoServer,
    /// Every server holds as many cameras as its capacity allows.
    NoCapacity,
    /// No server has that much of its bitrate left.
    NoBitrate,
    /// Its server is lost, and every other one with room takes over no (more) cameras of others.
    NoTakeover,
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
            Self::Disabled => "disabled",
        }
    }
}
