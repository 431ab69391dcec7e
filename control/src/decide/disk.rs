//! When the log is told how full a server's archive is: seldom enough to keep for ever, often enough to place by.
//!
//! Placement may depend on nothing but the log, and heartbeats are not in it. So a measure becomes an event when it is
//! off by five points, or when the server comes to have too little space, or enough again.

use longwatch_events::event::{Event, Load, ServerDiskMeasured};
use longwatch_events::id::ServerId;
use longwatch_events::position::Position;
use longwatch_events::state::State;

/// A measure that differs by so many percentage points is told anew.
const STEP_PERCENT: u8 = 5;
/// A server that had too little space is given cameras again when it has so much more than is needed.
const RECOVERED_BY_PERCENT: u8 = 2;

/// Whether the log is to be told that `free_percent` is free, of which it knows `logged`; below `min_percent` a server is
/// given no more cameras.
fn is_news(logged: Option<u8>, free_percent: u8, min_percent: u8) -> bool {
    let Some(logged) = logged else { return true };
    if logged >= min_percent && free_percent < min_percent {
        return true;
    }
    if logged < min_percent && free_percent >= min_percent {
        return free_percent >= min_percent.saturating_add(RECOVERED_BY_PERCENT);
    }
    logged.abs_diff(free_percent) >= STEP_PERCENT
}

/// How much of a volume is free, in percent, rounded down; `None` if nothing is known of it.
fn free_percent(free_bytes: u64, total_bytes: u64) -> Option<u8> {
    let percent = (u128::from(free_bytes) * 100).checked_div(u128::from(total_bytes))?;
    Some(u8::try_from(percent.min(100)).unwrap_or(100))
}

/// What the log is to be told of the archives of servers, each with the version of its server. `heard` is what a server said
/// last, and where that stands in `HEARTBEATS`.
pub fn news(
    state: &State,
    heard: impl Fn(ServerId) -> Option<(Position, Load)>,
) -> impl Iterator<Item = (Position, Event)> {
    let min_percent = state.policy.min_disk_free_percent;
    let up = state.servers().filter(|(_, server)| server.is_assignable());
    up.filter_map(move |(server_id, server)| {
        let (heartbeat, load) = heard(server_id)?;
        let free_percent = free_percent(load.disk_free_bytes, load.disk_total_bytes)?;
        let measured = ServerDiskMeasured { server_id, heartbeat, free_percent };
        is_news(server.disk_free_percent, free_percent, min_percent)
            .then_some((server.version, Event::ServerDiskMeasured(measured)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_little_is_no_news_unless_it_crosses_the_line() {
        assert!(is_news(None, 50, 2));
        assert!(!is_news(Some(50), 46, 2));
        assert!(is_news(Some(50), 45, 2));
        assert!(is_news(Some(50), 55, 2));
        assert!(!is_news(Some(4), 2, 2));
        assert!(is_news(Some(2), 1, 2), "too little now");
        assert!(!is_news(Some(1), 2, 2), "just enough is not enough yet");
        assert!(!is_news(Some(1), 3, 2));
        assert!(is_news(Some(1), 4, 2));
        assert!(!is_news(Some(1), 0, 2));
    }

    #[test]
    fn a_share_is_rounded_down_and_unknown_of_nothing() {
        assert_eq!(free_percent(0, 0), None);
        assert_eq!(free_percent(19, 1_000), Some(1));
        assert_eq!(free_percent(u64::MAX, u64::MAX), Some(100));
        assert_eq!(free_percent(5, 1), Some(100), "a volume that says nonsense");
    }
}
