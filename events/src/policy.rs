//! What an owner sets for the whole system: when a server is lost, and what may be moved when. Logged, so that every
//! decision can be derived again by the policy that was in force.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The rules of the whole system. Every field has a default: a log without a policy is governed by
/// [`Policy::default`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Policy {
    /// When a server is taken for lost.
    pub liveness: Liveness,
    /// What happens to cameras once their lost server is back.
    pub failback: Failback,
    /// Whether load is evened out.
    pub rebalance: Rebalance,
    /// How planned moves are made.
    pub moves: Moves,
    /// Whether a camera of priority `low` may lose its place to one of priority `high` that has none.
    pub preempt_low: bool,
    /// A server whose archive has less free space than this, in percent, is given no more cameras; 0: never mind.
    pub min_disk_free_percent: u8,
    /// How much of the fleet's room is to stay free, in percent: what an autoscaler aims at.
    pub headroom_percent: u8,
    /// How long signs of life are kept.
    pub heartbeats: HeartbeatRetention,
}

/// See [`Policy::liveness`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Liveness {
    /// How often a server gives a sign of life, at least so far apart.
    pub heartbeat_interval_ms: u32,
    /// How long a server may be silent, by the log's clock.
    pub lease_ms: u32,
    /// So many signs of life of all servers together are taken a second: the interval of a larger fleet is longer.
    pub max_heartbeats_per_s: u32,
    /// If a larger share of the servers falls silent at once, in percent, nobody is judged.
    pub mass_silence_percent: u8,
}

/// See [`Policy::failback`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Failback {
    /// Whether cameras go home by themselves.
    pub mode: Mode,
    /// How long a server must have been back before they do, in seconds.
    pub stable_s: u32,
}

/// See [`Policy::rebalance`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Rebalance {
    /// Whether load is evened out by itself.
    pub mode: Mode,
    /// By how many percent of their capacity two servers must differ before a camera is moved between them.
    pub threshold_percent: u8,
    /// How long a server must have been there before it is given cameras of others, in seconds.
    pub stable_s: u32,
}

/// See [`Policy::moves`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Moves {
    /// How many cameras may be on the move at once.
    pub at_once: u32,
    /// How long the new server may take to its first durable keyframe, in seconds.
    pub timeout_s: u32,
    /// How long a camera whose move was given up is left where it is, in seconds.
    pub retry_after_s: u32,
}

/// See [`Policy::heartbeats`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct HeartbeatRetention {
    /// In hours.
    pub max_age_h: u32,
    /// In bytes, of all servers together.
    pub max_bytes: u64,
}

/// Whether something is done without being asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// By itself.
    Automatic,
    /// When somebody asks for it.
    Manual,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            liveness: Liveness::default(),
            failback: Failback::default(),
            rebalance: Rebalance::default(),
            moves: Moves::default(),
            preempt_low: false,
            min_disk_free_percent: 2,
            headroom_percent: 20,
            heartbeats: HeartbeatRetention::default(),
        }
    }
}

impl Default for Liveness {
    fn default() -> Self {
        Self {
            heartbeat_interval_ms: 1_000,
            lease_ms: 3_000,
            max_heartbeats_per_s: 1_000,
            mass_silence_percent: 50,
        }
    }
}

impl Default for Failback {
    fn default() -> Self {
        Self { mode: Mode::Automatic, stable_s: 60 }
    }
}

impl Default for Rebalance {
    fn default() -> Self {
        Self { mode: Mode::Automatic, threshold_percent: 20, stable_s: 30 }
    }
}

impl Default for Moves {
    fn default() -> Self {
        Self { at_once: 100, timeout_s: 30, retry_after_s: 600 }
    }
}

impl Default for HeartbeatRetention {
    fn default() -> Self {
        Self { max_age_h: 7 * 24, max_bytes: 1 << 30 }
    }
}

impl Liveness {
    /// How often each of `servers` servers gives a sign of life, in milliseconds.
    pub fn interval_ms(&self, servers: usize) -> u32 {
        let (rate, base) =
            (u64::from(self.max_heartbeats_per_s.max(1)), u64::from(self.heartbeat_interval_ms.max(1)));
        let within_base = (rate * base / 1_000).max(1);
        // In whole multiples: it must not change with every server that comes or goes.
        let interval = base.saturating_mul((servers as u64).div_ceil(within_base).max(1));
        u32::try_from(interval).unwrap_or(u32::MAX)
    }

    /// How long each of `servers` servers may be silent, in milliseconds: never less than three intervals.
    pub fn lease_ms(&self, servers: usize) -> u32 {
        self.lease_ms.max(self.interval_ms(servers).saturating_mul(3))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_larger_fleet_speaks_less_often_and_is_judged_later() {
        let liveness = Liveness::default();
        assert_eq!((liveness.interval_ms(0), liveness.lease_ms(0)), (1_000, 3_000));
        assert_eq!((liveness.interval_ms(1_000), liveness.lease_ms(1_000)), (1_000, 3_000));
        assert_eq!((liveness.interval_ms(10_000), liveness.lease_ms(10_000)), (10_000, 30_000));
        let unbounded = Liveness { max_heartbeats_per_s: 0, ..liveness };
        assert_eq!(unbounded.interval_ms(2), 2_000, "a rate of 0 is read as 1");
    }

    #[test]
    fn what_is_not_said_is_as_by_default() {
        let policy: Policy = serde_json::from_str(r#"{"liveness": {"lease_ms": 5000}}"#).unwrap();
        let liveness = Liveness { lease_ms: 5_000, ..Liveness::default() };
        assert_eq!(policy, Policy { liveness, ..Policy::default() });
    }
}
