//! Keeps `BACKLOG` as State says: one entry for every copy of a camera that no server has room for, so that its number is
//! the queue depth that a scaler reads, from NATS itself.
//!
//! Derived: what stands there is compared with State, so whoever does it, and however often, the same stands there.

use std::collections::BTreeMap;
use std::time::Duration;

use longwatch_events::event::{CameraBacklogged, Event};
use longwatch_events::id::{CameraId, CopyKey, EventId};
use longwatch_events::log;
use longwatch_events::position::Position;
use longwatch_events::reason::UnplacedReason;
use longwatch_events::state::{Placement, State};
use tokio::time::{Instant, sleep};

use crate::service::Service;

/// How often State is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// What stands there is read again after this, in case another replica wrote meanwhile.
const READ_AGAIN: Duration = Duration::from_secs(60);

/// What is known to stand there: `None` where the reason is not known.
type Standing = BTreeMap<(CameraId, u8), Option<UnplacedReason>>;

/// Keeps it for ever.
pub async fn run(service: &Service) {
    let mut standing: Option<(Standing, Instant)> = None;
    let mut looked = None;
    loop {
        sleep(LOOK_EVERY).await;
        let position = service.progress().borrow().log;
        if !service.progress().borrow().caught_up || service.halted().is_some() || !service.is_leading() {
            standing = None;
            continue;
        }
        let is_fresh = standing.as_ref().is_some_and(|(_, read)| read.elapsed() < READ_AGAIN);
        if is_fresh && looked == Some(position) {
            continue;
        }
        match reconcile(service, standing.take(), is_fresh).await {
            Ok(kept) => {
                standing = Some(kept);
                looked = Some(position);
            }
            Err(error) => tracing::warn!(%error, "the backlog is kept later"),
        }
    }
}

/// The copies that no server has room for. One that no plan has looked at yet does not count: it may have a place in a
/// moment.
fn unplaced(state: &State) -> BTreeMap<(CameraId, u8), (CopyKey, CameraBacklogged)> {
    let waiting = state.index().waiting().filter_map(|key| {
        let (camera, copy) = state.copy(key)?;
        let Placement::Unplaced { reason, since } = copy.placement else { return None };
        let CopyKey { tenant_id, camera_id, copy: number } = key;
        let priority = camera.settings.failover_priority;
        let entry = CameraBacklogged { tenant_id, camera_id, copy: number, priority, reason, since };
        camera.wants_recording().then_some(((camera_id, number), (key, entry)))
    });
    waiting.collect()
}

async fn reconcile(
    service: &Service,
    known: Option<(Standing, Instant)>,
    is_fresh: bool,
) -> Result<(Standing, Instant), log::Error> {
    let (mut standing, read) = match known {
        Some(known) if is_fresh => known,
        stale => {
            let known = stale.map(|(known, _)| known).unwrap_or_default();
            let found = service.backlog().list().await?.into_iter();
            (found.map(|waiting| (waiting, known.get(&waiting).copied().flatten())).collect(), Instant::now())
        }
    };
    let wanted = unplaced(&service.state());
    let gone: Vec<_> = standing.keys().filter(|waiting| !wanted.contains_key(waiting)).copied().collect();
    for (camera_id, copy) in gone {
        service.backlog().remove(camera_id, copy).await?;
        standing.remove(&(camera_id, copy));
    }
    for (waiting, (_, entry)) in wanted {
        if standing.get(&waiting) == Some(&Some(entry.reason)) {
            continue;
        }
        let reason = entry.reason;
        let event_id = EventId::generate(service.ids());
        let _: Position = service.append("system", event_id, Event::CameraBacklogged(entry), None).await?;
        standing.insert(waiting, Some(reason));
    }
    Ok((standing, read))
}

#[cfg(test)]
mod tests {
    use longwatch_events::settings::Capacity;

    use super::*;
    use crate::testing::TestControl;

    #[tokio::test]
    async fn as_many_wait_as_have_no_place() {
        let control = TestControl::start().await;
        let depth = |expected: u64| {
            let service = control.service.clone();
            async move {
                let deadline = Instant::now() + Duration::from_secs(10);
                loop {
                    let pending = service.backlog().pending().await.unwrap();
                    if pending == expected {
                        return;
                    }
                    assert!(Instant::now() < deadline, "{pending} wait, not {expected}");
                    sleep(Duration::from_millis(10)).await;
                }
            }
        };
        for n in 0..3 {
            control.add_camera(&format!("rtsp://h/{n}")).await;
        }
        depth(3).await;
        control.add_server("a", Capacity { max_cameras: 2, max_bitrate_bps: None }).await;
        depth(1).await;
        control.add_server("b", Capacity::default()).await;
        depth(0).await;
    }
}
