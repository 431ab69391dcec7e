//! The shell around placement: wakes when State changes or time has passed, appends what the plan says, publishes what
//! follows.
//!
//! It makes no choice: [`crate::decide::placement`] decides what, [`crate::assignments`] says it to workers. A plan is
//! appended on condition that no other plan came first, so any number of replicas may run this; that only one does, as
//! long as it lives, saves work and nothing else.

use std::collections::BTreeSet;
use std::time::Duration;

use longwatch_events::event::{Event, Part, PlanEntry, PlanMade};
use longwatch_events::id::EventId;
use longwatch_events::log;
use longwatch_events::position::{Epoch, Position};
use longwatch_events::time::Timestamp;
use tokio::time::{sleep, timeout};

use crate::assignments::Publisher;
use crate::decide::placement::{self, Inputs, Scope};
use crate::decide::rederive::{ENTRIES_AT_ONCE, ENTRIES_PER_EVENT};
use crate::evidence;
use crate::service::{CommandError, Service};

/// How long changes are gathered before they are planned together.
const GATHER: Duration = Duration::from_millis(20);
/// The planner looks again after this even if nothing seems to have changed: some plans only wait for time to pass…
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// … and moves for a report, of which State does not tell.
const LOOK_AFTER_MOVES: Duration = Duration::from_millis(100);
/// After a failure.
const PAUSE: Duration = Duration::from_millis(500);

/// Plans and publishes for ever.
pub async fn run(service: &Service) {
    let mut publisher = Publisher::default();
    let mut progress = service.progress();
    loop {
        progress.mark_unchanged();
        if service.knows_the_end() && service.halted().is_none() && service.is_leading() {
            match plan_once(service, &publisher).await {
                Ok(()) => {
                    publisher.publish(service).await;
                    publisher.nudge(service).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "planning is tried again");
                    sleep(PAUSE).await;
                    continue;
                }
            }
        }
        // Either way it is time to look again; whether something changed, the plan itself tells.
        let is_moving = service.state().index().moving().len() > 0;
        let _elapsed =
            timeout(if is_moving { LOOK_AFTER_MOVES } else { LOOK_AGAIN }, progress.changed()).await;
        sleep(GATHER).await;
    }
}

/// A plan, and where it comes from.
struct Drawn {
    entries: Vec<PlanEntry>,
    basis: Position,
    last_plan: Position,
    decided_at: Timestamp,
}

async fn draw_up(service: &Service, publisher: &Publisher) -> Result<Drawn, CommandError> {
    let knows = |server_id, epoch: Epoch| {
        let applied = service.observed().applied(server_id);
        publisher.is_what_stands_since(Position(epoch.0), server_id, applied)
    };
    let reading = evidence::of_moves(&service.state(), knows, service.read_model());
    let evidence = reading.await.map_err(|error| CommandError::Unavailable(error.to_string()))?;
    let (state, decided_at, lose) = (service.state(), service.log_now(), BTreeSet::new());
    let inputs =
        Inputs { state: &state, now: decided_at, evidence: &evidence, lose: &lose, scope: Scope::All };
    let entries = placement::plan_within(&inputs, ENTRIES_AT_ONCE);
    Ok(Drawn { entries, basis: state.position, last_plan: state.last_plan, decided_at })
}

/// The plan as events.
fn events(drawn: &Drawn) -> Vec<Event> {
    let chunks: Vec<_> = drawn.entries.chunks(ENTRIES_PER_EVENT).collect();
    let of = u32::try_from(chunks.len()).unwrap_or(u32::MAX);
    let part = |(number, entries): (u32, &[PlanEntry])| {
        Event::PlanMade(PlanMade {
            basis: drawn.basis,
            rules: placement::RULES,
            decided_at: Some(drawn.decided_at),
            part: Part { number, of },
            entries: entries.to_vec(),
        })
    };
    (1..).zip(chunks).map(part).collect()
}

/// Plans until nothing is left to change.
async fn plan_once(service: &Service, publisher: &Publisher) -> Result<(), CommandError> {
    loop {
        let drawn = draw_up(service, publisher).await?;
        if drawn.entries.is_empty() {
            return Ok(());
        }
        let Drawn { basis, last_plan, .. } = drawn;
        match append(service, last_plan, events(&drawn)).await {
            Ok(position) => {
                tracing::info!(%position, %basis, changes = drawn.entries.len(), "plan made");
                metrics::counter!("longwatch_plans_total").increment(1);
                service.folded(position).await?;
            }
            Err(log::Error::Conflict { .. }) => {
                tracing::debug!(%basis, "another replica planned first");
                let next = last_plan.next().max(basis.next());
                service.folded(next).await?;
            }
            Err(error) => return Err(CommandError::Unavailable(error.to_string())),
        }
    }
}

/// Appends the parts of a plan behind the last one, all or none; answers where the last of them stands.
async fn append(
    service: &Service,
    last_plan: Position,
    mut events: Vec<Event>,
) -> Result<Position, log::Error> {
    let id = || EventId::generate(service.ids());
    if events.len() == 1 {
        let event = events.remove(0);
        return service.append("system", id(), event, Some(last_plan)).await;
    }
    let conditions = std::iter::once(Some(last_plan)).chain(std::iter::repeat(None));
    let entries = events.into_iter().zip(conditions).map(|(event, condition)| (id(), event, condition));
    service.append_atomically("system", entries.collect()).await
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use longwatch_events::envelope::Envelope;
    use longwatch_events::event::DetachedCameras;
    use longwatch_events::id::{ServerId, TenantId};
    use longwatch_events::log::Log as _;
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
        control.execute(Command::DetachServer { server_id, expected, cameras: DetachedCameras::Keep }).await;
        let (_, told, cameras) = next_assignments(&control, first).await;
        assert_eq!((told, cameras), (server_id, 0), "a server that was let go is told to stop");
        control
            .until(|state| {
                let camera = state.camera(TenantId::DEFAULT, camera_id).unwrap();
                matches!(camera.placement(), Placement::Unplaced { .. })
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
        first.until(|state| state.index().waiting().count() == 3 && state.last_plan > Position::START).await;
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
