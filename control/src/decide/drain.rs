//! How far a drain has come. Pure, and nothing but counting: what moves when is [`super::placement`]'s to say.

use longwatch_events::id::ServerId;
use longwatch_events::settings::Priority;
use longwatch_events::state::State;

/// What is still to leave a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Copies that it still records.
    pub left: u32,
    /// Of these, copies that will not leave by themselves as things are: of priority `never`, or no server has room for
    /// them, or their move was given up a while ago.
    pub waiting: u32,
}

/// What is still to leave `server_id`.
///
/// A plan begins as many moves as policy allows. So while it allows more, whatever is not on the move has no place to go
/// to; while it does not, that is not known of those whose turn is still to come, and they do not count as waiting.
pub fn progress(state: &State, server_id: ServerId) -> Progress {
    let index = state.index();
    let may_more_move = index.moving().len() < state.policy.moves.at_once as usize;
    let mut progress = Progress::default();
    for key in index.roster(server_id).copies() {
        let Some((camera, copy)) = state.copy(key) else { continue };
        if copy.assignment().is_none_or(|assignment| assignment.server_id != server_id) {
            continue;
        }
        progress.left += 1;
        let stays = camera.settings.failover_priority == Priority::Never;
        progress.waiting += u32::from(copy.successor().is_none() && (stays || may_more_move));
    }
    progress
}
