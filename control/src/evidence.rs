//! What `RECORDINGS` shows of the moves that are under way, read from the rows that follow from it.
//!
//! Only reads; whether a move is over is [`crate::decide::placement`]'s to say.
//!
//! Invariant: what a server reported before it heard of a move shows nothing of that move. The new server reports under
//! the move's own epoch. The old one reports its end under an epoch that it had before, and also when it only begins
//! again with other settings, or ended for an earlier move that was given up: its word counts once its heartbeats say that
//! it has applied the set that stands there, and that follows from the move. A newer one than that does not do: it is from
//! before the log was set back, and the server may record again by an order that is no more.

use futures::FutureExt as _;
use futures::future::BoxFuture;
use longwatch_events::fact::Cause;
use longwatch_events::id::{CopyKey, ServerId};
use longwatch_events::position::Epoch;
use longwatch_events::state::{Assignment, State};

use crate::decide::placement::{Evidence, Shown, Step};
use crate::read_model::rows::{Condition, StatusOf, StatusRow};
use crate::read_model::{self, ReadModel};

/// A question about one server of one move.
struct Question {
    key: CopyKey,
    /// Of the move.
    epoch: Epoch,
    /// Which step it would show.
    step: Step,
    of: StatusOf,
}

/// What is to be asked about the moves of `state`, of whose servers `knows` says whether they know of the move with an epoch.
fn questions(state: &State, knows: impl Fn(ServerId, Epoch) -> bool) -> Vec<Question> {
    let mut questions = Vec::new();
    for key in state.index().moving() {
        let Some((camera, copy)) = state.copy(key) else { continue };
        let (Some(old), Some(new)) = (copy.assignment(), copy.successor()) else { continue };
        let CopyKey { tenant_id, camera_id, .. } = key;
        let ask = |step, Assignment { epoch, server_id, .. }: &Assignment| {
            let of = StatusOf { tenant_id, camera_id, epoch: *epoch, server_id: *server_id };
            Question { key, epoch: new.epoch, step, of }
        };
        questions.push(ask(Step::Begun, new));
        if camera.settings.single_session && knows(old.server_id, new.epoch) {
            questions.push(ask(Step::Stopped, old));
        }
    }
    questions
}

/// Whether what a server said last shows the step.
fn shows(step: Step, status: &StatusRow) -> bool {
    match (step, &status.condition) {
        (Step::Begun, Condition::Recording) => true,
        // A camera that nobody wants recorded now has no keyframe to wait for.
        (Step::Begun, Condition::Offline { cause, .. }) => cause.is_by_wish(),
        // One that its schedule did not want recorded when its server let it go had nothing to stop. One that waits for
        // events is connected.
        (Step::Stopped, Condition::Offline { cause, .. }) => {
            matches!(cause, Cause::Reassigned | Cause::NotScheduled)
        }
        (Step::Begun, Condition::Connecting)
        | (Step::Stopped, Condition::Connecting | Condition::Recording) => false,
    }
}

/// Reads what was reported of the moves of `state`; `knows` says whether a server has applied what it was told since the
/// move with an epoch began. Both are asked before anything is awaited.
///
/// # Errors
/// Those of the read model.
pub(crate) fn of_moves<'a>(
    state: &State,
    knows: impl Fn(ServerId, Epoch) -> bool,
    read_model: &'a dyn ReadModel,
) -> BoxFuture<'a, Result<Evidence, read_model::Error>> {
    let questions = questions(state, knows);
    let reading = async move {
        if questions.is_empty() {
            return Ok(Evidence::new());
        }
        let statuses = read_model.statuses(questions.iter().map(|question| question.of).collect()).await?;
        let shown = questions.iter().zip(&statuses).filter_map(|(question, status)| {
            let status = status.as_ref().filter(|status| shows(question.step, status))?;
            let shown = Shown { position: status.position, what: question.step };
            Some(((question.key, question.epoch), shown))
        });
        Ok(shown.collect())
    };
    reading.boxed()
}
