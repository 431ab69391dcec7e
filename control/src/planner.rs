//! The shell around placement: wakes when State changes, appends what the plan says, publishes what follows.
//!
//! It makes no choice: [`crate::decide::placement`] decides what, [`crate::assignments`] says it to workers. A plan is
//! appended on condition that no other plan came first, so any number of replicas may run this.

use std::time::Duration;

use longwatch_events::event::{Event, PlanMade};
use longwatch_events::id::EventId;
use longwatch_events::log;
use tokio::time::{sleep, timeout};

use crate::assignments::Publisher;
use crate::decide::placement;
use crate::service::Service;

/// So many changes stand in one event at most: about 500 KB, half of what NATS takes.
const ENTRIES_PER_EVENT: usize = 2_000;
/// How long changes are gathered before they are planned together.
const GATHER: Duration = Duration::from_millis(20);
/// The planner looks again after this even if nothing seems to have changed.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// After a failure.
const PAUSE: Duration = Duration::from_millis(500);

/// Plans and publishes for ever.
pub async fn run(service: &Service) {
    let mut publisher = Publisher::default();
    let mut progress = service.progress();
    loop {
        if progress.borrow_and_update().caught_up && service.halted().is_none() {
            match plan_once(service).await {
                Ok(()) => publisher.publish(service).await,
                Err(error) => {
                    tracing::warn!(%error, "planning is tried again");
                    sleep(PAUSE).await;
                    continue;
                }
            }
        }
        // Either way it is time to look again; whether something changed, the plan itself tells.
        let _elapsed = timeout(LOOK_AGAIN, progress.changed()).await;
        sleep(GATHER).await;
    }
}

/// Plans until nothing is left to change.
async fn plan_once(service: &Service) -> Result<(), crate::service::CommandError> {
    loop {
        let (entries, basis, last_plan) = {
            let state = service.state();
            (placement::plan(&state).entries, state.position, state.last_plan)
        };
        if entries.is_empty() {
            return Ok(());
        }
        let entries: Vec<_> = entries.into_iter().take(ENTRIES_PER_EVENT).collect();
        let count = entries.len();
        let plan = Event::PlanMade(PlanMade { basis, rules: placement::RULES, entries });
        let event_id = EventId::generate(service.ids());
        match service.append("system", event_id, plan, Some(last_plan)).await {
            Ok(position) => {
                tracing::info!(%position, %basis, changes = count, "plan made");
                metrics::counter!("longwatch_plans_total").increment(1);
                service.folded(position).await?;
            }
            Err(log::Error::Conflict { .. }) => {
                tracing::debug!(%basis, "another replica planned first");
                let next = last_plan.next().max(basis.next());
                service.folded(next).await?;
            }
            Err(error) => return Err(crate::service::CommandError::Unavailable(error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use longwatch_events::envelope::Envelope;
    use longwatch_events::id::{ServerId, TenantId};
    use longwatch_events::log::Log as _;
    use longwatch_events::position::Position;
    use longwatch_events::settings::Capacity;
    use longwatch_events::state::Placement;
    use longwatch_events::subject::LogStream;

    use super::*;
    use crate::decide::command::Command;
    use crate::testing::TestControl;

    async fn next_assignments(control: &TestControl, after: Position) -> (Position, ServerId, usize) {
        let mut records = control.log.follow(LogStream::Assignments, after).await.unwrap();
        let record = timeout(Duration::from_secs(10), records.next()).await.unwrap().unwrap().unwrap();
        assert!(!record.payload.windows(15).any(|bytes| bytes == b"canary-password"));
        let event = Envelope::decode(&record.payload).unwrap().event;
        let Event::AssignmentsPublished(set) = event else { panic!("{event:?} stands in ASSIGNMENTS") };
        (record.position, set.server_id, set.cameras.len())
    }

    #[tokio::test]
    async fn a_camera_is_planned_and_its_server_told_until_the_server_is_let_go() {
        let control = TestControl::start().await;
        let server_id = control.add_server("a", Capacity::default()).await;
        let camera_id = control.add_camera("rtsp://h/1").await;
        let (first, told, cameras) = next_assignments(&control, Position::START).await;
        assert_eq!((told, cameras), (server_id, 1));

        let expected = control.service.state().server(server_id).unwrap().version;
        control.execute(Command::DetachServer { server_id, expected }).await;
        let (_, told, cameras) = next_assignments(&control, first).await;
        assert_eq!((told, cameras), (server_id, 0), "a server that was let go is told to stop");
        control
            .until(|state| {
                let camera = state.camera(TenantId::DEFAULT, camera_id).unwrap();
                matches!(camera.placement, Placement::Unplaced { .. })
            })
            .await;
    }

    #[tokio::test]
    async fn two_replicas_agree_and_a_replay_gives_the_same() {
        let first = TestControl::start().await;
        first.add_server("a", Capacity { max_cameras: 2, max_bitrate_bps: None }).await;
        for n in 0..5 {
            first.add_camera(&format!("rtsp://h/{n}")).await;
        }
        first.until(|state| !placement::plan(state).entries.iter().any(|_| true)).await;
        let second = TestControl::on(first.log.clone(), first.clock.clone()).await;
        let end = first.service.state().position;
        second.until(|state| state.position >= end).await;
        second.service.folded(end).await.unwrap();

        assert_eq!(first.service.state().content_hash(), second.service.state().content_hash());
        let hashes = (
            first.service.read_model().content_hash().await.unwrap(),
            second.service.read_model().content_hash().await.unwrap(),
        );
        assert_eq!(hashes.0, hashes.1);
        assert_eq!(first.service.state().cameras().filter(|(_, _, c)| c.assignment().is_some()).count(), 2);
    }
}
