//! A server's settings as they are written, checked whole.

use longwatch_events::settings::{Capacity, Failover, Labels, ServerSettings};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::input::{Errors, Object};
use super::problem::Problem;

/// The most cameras a server can be told to hold.
const MAX_CAMERAS: u32 = 100_000;
/// 1 Tbit/s.
const MAX_BITRATE_BPS: u64 = 1_000_000_000_000;

/// A server as it is written. Everything but the name has a default.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes the body; it is read field by field to report all errors at once")]
pub(super) struct ServerInput {
    /// For people; unique. A worker that joins under it becomes this server.
    #[schema(min_length = 1, max_length = 200, example = "north-1")]
    name: String,
    /// Free-form pairs, at most 32.
    #[schema(value_type = std::collections::BTreeMap<String, String>, required = false)]
    labels: Labels,
    /// How much it may hold.
    #[schema(inline, required = false)]
    capacity: CapacityInput,
    /// Whether it takes over others' cameras.
    #[schema(inline, required = false)]
    failover: FailoverInput,
}

/// How much a server may hold.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes the body")]
struct CapacityInput {
    /// Cameras.
    #[schema(required = false, default = 300, maximum = 100000)]
    max_cameras: u32,
    /// Sum of the cameras' expected bitrates, in bits per second; null: not counted.
    max_bitrate_bps: Option<u64>,
}

/// Whether a server takes over others' cameras.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes the body")]
struct FailoverInput {
    /// May it at all.
    #[schema(required = false, default = true)]
    enabled: bool,
    /// Only while it holds fewer cameras than this.
    #[schema(required = false, default = 128, maximum = 100000)]
    takeover_limit: u32,
}

/// Reads a server's settings.
///
/// # Errors
/// 422 with everything that is wrong.
pub(super) fn read(body: &Value) -> Result<ServerSettings, Problem> {
    let mut errors = Errors::default();
    let mut object = Object::root(body, &mut errors);
    let name = object.name(&mut errors);
    let labels = object.labels("labels", &mut errors);

    let mut capacity = object.object("capacity", &mut errors);
    let defaults = Capacity::default();
    let max_cameras = capacity.small_number("max_cameras", 0..=MAX_CAMERAS, &mut errors);
    let max_bitrate_bps = capacity.number("max_bitrate_bps", 1..=MAX_BITRATE_BPS, &mut errors);
    capacity.finish(&mut errors);
    let capacity = Capacity { max_cameras: max_cameras.unwrap_or(defaults.max_cameras), max_bitrate_bps };

    let mut failover = object.object("failover", &mut errors);
    let defaults = Failover::default();
    let enabled = failover.truth("enabled", &mut errors);
    let takeover_limit = failover.small_number("takeover_limit", 0..=MAX_CAMERAS, &mut errors);
    failover.finish(&mut errors);
    let failover = Failover {
        enabled: enabled.unwrap_or(defaults.enabled),
        takeover_limit: takeover_limit.unwrap_or(defaults.takeover_limit),
    };

    object.finish(&mut errors);
    errors.or(name.map(|name| ServerSettings { name, labels, capacity, failover }))
}

/// The settings as [`read`] takes them: what a merge patch is applied to.
pub(super) fn write(settings: &ServerSettings) -> Value {
    json!({
        "name": settings.name,
        "labels": settings.labels,
        "capacity": settings.capacity,
        "failover": settings.failover,
    })
}
