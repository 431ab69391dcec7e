//! Policy as it is written and read, checked whole.

use longwatch_events::policy::{self, Mode};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::input::{Errors, Object};
use super::problem::Problem;

/// A day, in seconds.
const DAY_S: u32 = 86_400;
/// A year, in hours.
const YEAR_H: u32 = 8_760;
/// What heartbeats may take at least: less would not hold a lease of a large fleet.
const MIN_HEARTBEAT_BYTES: u64 = 16 << 20;
/// 8 TiB.
const MAX_HEARTBEAT_BYTES: u64 = 8 << 40;

/// The rules of the whole system. What is left out is as by default.
#[derive(Serialize, ToSchema)]
pub(super) struct Policy {
    /// When a server is taken for lost.
    #[schema(inline, required = false)]
    liveness: Liveness,
    /// What happens to cameras once their lost or drained server is back.
    #[schema(inline, required = false)]
    failback: Failback,
    /// Whether load is evened out.
    #[schema(inline, required = false)]
    rebalance: Rebalance,
    /// How planned moves are made.
    #[schema(inline, required = false)]
    moves: Moves,
    /// Whether a camera of priority `low` may lose its place to one of priority `high` that has none.
    #[schema(required = false, default = false)]
    preempt_low: bool,
    /// A server whose archive has less free space than this, in percent, is given no more cameras; 0: never mind.
    #[schema(required = false, default = 2, maximum = 99)]
    min_disk_free_percent: u8,
    /// How much of the fleet's room is to stay free, in percent: what `wanted_servers` of `/v1/autoscaling` aims at.
    #[schema(required = false, default = 20, maximum = 90)]
    headroom_percent: u8,
    /// How long signs of life are kept.
    #[schema(inline, required = false)]
    heartbeats: Heartbeats,
}

/// When a server is taken for lost.
#[derive(Serialize, ToSchema)]
struct Liveness {
    /// How often a server gives a sign of life; less often in a fleet of more servers than `max_heartbeats_per_s` allows.
    #[schema(required = false, default = 1000, minimum = 200, maximum = 60000)]
    heartbeat_interval_ms: u32,
    /// How long a server may be silent, by the log's clock, before others take its cameras over: at least twice the
    /// interval. Three intervals are waited for in any case.
    #[schema(required = false, default = 3000, minimum = 400, maximum = 600000)]
    lease_ms: u32,
    /// So many signs of life of all servers together are taken a second.
    #[schema(required = false, default = 1000, minimum = 1, maximum = 100000)]
    max_heartbeats_per_s: u32,
    /// If a larger share of the servers falls silent at once, in percent, the fault is taken for our own and nobody is
    /// lost. 100: never.
    #[schema(required = false, default = 50, minimum = 1, maximum = 100)]
    mass_silence_percent: u8,
}

/// What happens to cameras once their server is back.
#[derive(Serialize, ToSchema)]
struct Failback {
    /// Whether they go home by themselves.
    #[schema(value_type = String, required = false, default = "automatic", pattern = "^(automatic|manual)$")]
    mode: Mode,
    /// How long a server must have been back before they do, in seconds.
    #[schema(required = false, default = 60, maximum = 86400)]
    stable_s: u32,
}

/// Whether load is evened out.
#[derive(Serialize, ToSchema)]
struct Rebalance {
    /// Whether it is by itself.
    #[schema(value_type = String, required = false, default = "automatic", pattern = "^(automatic|manual)$")]
    mode: Mode,
    /// By how many percent of their capacity two servers must differ before a camera is moved between them.
    #[schema(required = false, default = 20, minimum = 1, maximum = 100)]
    threshold_percent: u8,
    /// How long a server must have been there before it is given cameras of others, in seconds.
    #[schema(required = false, default = 30, maximum = 86400)]
    stable_s: u32,
}

/// How planned moves are made.
#[derive(Serialize, ToSchema)]
struct Moves {
    /// How many cameras may be on the move at once.
    #[schema(required = false, default = 100, minimum = 1, maximum = 10000)]
    at_once: u32,
    /// How long the new server may take to its first durable keyframe, in seconds.
    #[schema(required = false, default = 30, minimum = 1, maximum = 3600)]
    timeout_s: u32,
    /// How long a camera whose move was given up is left where it is, in seconds.
    #[schema(required = false, default = 600, maximum = 86400)]
    retry_after_s: u32,
}

/// How long signs of life are kept.
#[derive(Serialize, ToSchema)]
struct Heartbeats {
    /// In hours.
    #[schema(required = false, default = 168, minimum = 1, maximum = 8760)]
    max_age_h: u32,
    /// In bytes, of all servers together.
    #[schema(required = false, default = 1073741824, minimum = 16777216, maximum = 8796093022208_u64)]
    max_bytes: u64,
}

impl From<policy::Policy> for Policy {
    fn from(policy: policy::Policy) -> Self {
        let policy::Policy { liveness, failback, rebalance, moves, heartbeats, .. } = policy;
        Self {
            liveness: Liveness {
                heartbeat_interval_ms: liveness.heartbeat_interval_ms,
                lease_ms: liveness.lease_ms,
                max_heartbeats_per_s: liveness.max_heartbeats_per_s,
                mass_silence_percent: liveness.mass_silence_percent,
            },
            failback: Failback { mode: failback.mode, stable_s: failback.stable_s },
            rebalance: Rebalance {
                mode: rebalance.mode,
                threshold_percent: rebalance.threshold_percent,
                stable_s: rebalance.stable_s,
            },
            moves: Moves {
                at_once: moves.at_once,
                timeout_s: moves.timeout_s,
                retry_after_s: moves.retry_after_s,
            },
            preempt_low: policy.preempt_low,
            min_disk_free_percent: policy.min_disk_free_percent,
            headroom_percent: policy.headroom_percent,
            heartbeats: Heartbeats { max_age_h: heartbeats.max_age_h, max_bytes: heartbeats.max_bytes },
        }
    }
}

/// Reads policy.
///
/// # Errors
/// 422 with everything that is wrong.
pub(super) fn read(body: &Value) -> Result<policy::Policy, Problem> {
    let mut errors = Errors::default();
    let mut object = Object::root(body, &mut errors);
    let defaults = policy::Policy::default();
    let policy = policy::Policy {
        liveness: read_liveness(object.object("liveness", &mut errors), &mut errors),
        failback: read_failback(object.object("failback", &mut errors), &mut errors),
        rebalance: read_rebalance(object.object("rebalance", &mut errors), &mut errors),
        moves: read_moves(object.object("moves", &mut errors), &mut errors),
        preempt_low: object.truth("preempt_low", &mut errors).unwrap_or(defaults.preempt_low),
        min_disk_free_percent: percent(&mut object, "min_disk_free_percent", 0..=99, &mut errors)
            .unwrap_or(defaults.min_disk_free_percent),
        headroom_percent: percent(&mut object, "headroom_percent", 0..=90, &mut errors)
            .unwrap_or(defaults.headroom_percent),
        heartbeats: read_heartbeats(object.object("heartbeats", &mut errors), &mut errors),
    };
    object.finish(&mut errors);
    errors.or(Some(policy))
}

fn percent(
    object: &mut Object<'_>,
    name: &'static str,
    bounds: std::ops::RangeInclusive<u32>,
    errors: &mut Errors,
) -> Option<u8> {
    u8::try_from(object.small_number(name, bounds, errors)?).ok()
}

fn mode(object: &mut Object<'_>, errors: &mut Errors) -> Option<Mode> {
    object.word("mode", &[("automatic", Mode::Automatic), ("manual", Mode::Manual)], errors)
}

fn read_liveness(mut object: Object<'_>, errors: &mut Errors) -> policy::Liveness {
    let defaults = policy::Liveness::default();
    let interval_ms = object.small_number("heartbeat_interval_ms", 200..=60_000, errors);
    let lease_ms = object.small_number("lease_ms", 400..=600_000, errors);
    let max_heartbeats_per_s = object.small_number("max_heartbeats_per_s", 1..=100_000, errors);
    let mass_silence_percent = percent(&mut object, "mass_silence_percent", 1..=100, errors);
    let liveness = policy::Liveness {
        heartbeat_interval_ms: interval_ms.unwrap_or(defaults.heartbeat_interval_ms),
        lease_ms: lease_ms.unwrap_or(defaults.lease_ms),
        max_heartbeats_per_s: max_heartbeats_per_s.unwrap_or(defaults.max_heartbeats_per_s),
        mass_silence_percent: mass_silence_percent.unwrap_or(defaults.mass_silence_percent),
    };
    let (interval_ms, lease_ms) = (liveness.heartbeat_interval_ms, liveness.lease_ms);
    let least_ms = interval_ms * 2;
    if lease_ms < least_ms {
        let detail = format!(
            "a lease of {lease_ms} ms does not outlast two intervals of {interval_ms} ms, so one late sign of life would move \
             cameras: expected lease_ms of at least {least_ms}, or heartbeat_interval_ms of at most {}",
            lease_ms / 2
        );
        errors.add(&object.at("lease_ms"), "lease_too_short", detail);
    }
    object.finish(errors);
    liveness
}

fn read_failback(mut object: Object<'_>, errors: &mut Errors) -> policy::Failback {
    let defaults = policy::Failback::default();
    let failback = policy::Failback {
        mode: mode(&mut object, errors).unwrap_or(defaults.mode),
        stable_s: object.small_number("stable_s", 0..=DAY_S, errors).unwrap_or(defaults.stable_s),
    };
    object.finish(errors);
    failback
}

fn read_rebalance(mut object: Object<'_>, errors: &mut Errors) -> policy::Rebalance {
    let defaults = policy::Rebalance::default();
    let threshold_percent = percent(&mut object, "threshold_percent", 1..=100, errors);
    let rebalance = policy::Rebalance {
        mode: mode(&mut object, errors).unwrap_or(defaults.mode),
        threshold_percent: threshold_percent.unwrap_or(defaults.threshold_percent),
        stable_s: object.small_number("stable_s", 0..=DAY_S, errors).unwrap_or(defaults.stable_s),
    };
    object.finish(errors);
    rebalance
}

fn read_moves(mut object: Object<'_>, errors: &mut Errors) -> policy::Moves {
    let defaults = policy::Moves::default();
    let at_once = object.small_number("at_once", 1..=10_000, errors);
    let timeout_s = object.small_number("timeout_s", 1..=3_600, errors);
    let retry_after_s = object.small_number("retry_after_s", 0..=DAY_S, errors);
    object.finish(errors);
    policy::Moves {
        at_once: at_once.unwrap_or(defaults.at_once),
        timeout_s: timeout_s.unwrap_or(defaults.timeout_s),
        retry_after_s: retry_after_s.unwrap_or(defaults.retry_after_s),
    }
}

fn read_heartbeats(mut object: Object<'_>, errors: &mut Errors) -> policy::HeartbeatRetention {
    let defaults = policy::HeartbeatRetention::default();
    let max_age_h = object.small_number("max_age_h", 1..=YEAR_H, errors);
    let max_bytes = object.number("max_bytes", MIN_HEARTBEAT_BYTES..=MAX_HEARTBEAT_BYTES, errors);
    object.finish(errors);
    policy::HeartbeatRetention {
        max_age_h: max_age_h.unwrap_or(defaults.max_age_h),
        max_bytes: max_bytes.unwrap_or(defaults.max_bytes),
    }
}

/// Policy as [`read`] takes it: what a merge patch is applied to.
pub(super) fn write(policy: &policy::Policy) -> Value {
    serde_json::to_value(policy).expect("invariant: policy is numbers and words")
}
