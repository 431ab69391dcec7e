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
