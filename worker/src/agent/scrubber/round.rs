//! How far the examination of the archive has come: `scrub.json`. A restart goes on from there.
//!
//! Written now and then: what was examined since is examined once more after a crash, and nothing is told twice by that.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use longwatch_events::archive::Place;
use longwatch_events::event::Scrub;
use longwatch_events::time::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::durable;
use crate::scrub::Counts;

/// The file's name.
pub(in super::super) const FILE: &str = "scrub.json";
/// The file is not written more often: two flushes of the disk each time.
const WRITE_EVERY: Duration = Duration::from_secs(10);

/// A round: one look at all there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Round {
    /// When it began.
    pub(super) began_at: Timestamp,
    /// Where it is to go on; `None`: it is over.
    pub(super) next: Option<Place>,
    /// When the last one that came to its end did.
    pub(super) completed_at: Option<Timestamp>,
    /// What it found so far.
    pub(super) counts: Counts,
}

impl Round {
    /// The one after `last`, from the beginning.
    pub(super) fn after(last: Option<Self>, now: Timestamp) -> Self {
        let completed_at = last.and_then(|last| last.completed_at);
        Self { began_at: now, next: Some(Place::FIRST), completed_at, counts: Counts::default() }
    }

    /// How long until the next one is due, if one is due every so often. A clock that was set back does not put it off for
    /// longer than that.
    pub(super) fn due_in(&self, every: Duration, now: Timestamp) -> Duration {
        let passed_ms = u64::try_from(now.millis_since(self.began_at)).unwrap_or(0);
        every.saturating_sub(Duration::from_millis(passed_ms))
    }

    /// What others are told of it.
    pub(super) const fn told(&self) -> Scrub {
        let Counts { checked, missing, corrupt, orphans, foreign } = self.counts;
        let (began_at, completed_at) = (self.began_at, self.completed_at);
        Scrub { began_at, completed_at, checked, missing, corrupt, orphans, foreign }
    }
}

/// The file.
#[derive(Debug)]
pub(super) struct Saved {
    path: PathBuf,
    written_at: Option<Instant>,
    complained: bool,
}

impl Saved {
    pub(super) const fn new(path: PathBuf) -> Self {
        Self { path, written_at: None, complained: false }
    }

    /// The round that an earlier run was at. One that cannot be read begins anew. Blocks.
    pub(super) fn load(&self) -> Option<Round> {
        read(&self.path).unwrap_or_else(|error| {
            let path = self.path.display();
            tracing::error!(%path, %error, "cannot read how far the archive was examined; beginning anew");
            None
        })
    }

    /// Writes it, if it is over or was not written for a while. Blocks.
    pub(super) fn save(&mut self, round: &Round) {
        if round.next.is_some() && self.written_at.is_some_and(|at| at.elapsed() < WRITE_EVERY) {
            return;
        }
        self.written_at = Some(Instant::now());
        let written = serde_json::to_vec(round).map_err(io::Error::other);
        match written.and_then(|json| durable::replace(&self.path, &json)) {
            Ok(()) => self.complained = false,
            // A full disk has room again some time; until then a restart begins where the file says.
            Err(error) => {
                if !std::mem::replace(&mut self.complained, true) {
                    let path = self.path.display();
                    tracing::warn!(%path, %error, "cannot note how far the archive is examined");
                }
            }
        }
    }
}

fn read(path: &Path) -> io::Result<Option<Round>> {
    let Some(bytes) = durable::read(path)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_795_420_800_000);

    #[tokio::test(start_paused = true)]
    async fn a_round_is_remembered_now_and_then_and_at_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let mut saved = Saved::new(path.clone());
        assert_eq!(saved.load(), None);
        let mut round = Round::after(None, NOW);
        saved.save(&round);
        assert_eq!(saved.load(), Some(round));
        round.counts.checked = 7;
        saved.save(&round);
        assert_ne!(saved.load(), Some(round), "not at every step");
        tokio::time::advance(WRITE_EVERY).await;
        saved.save(&round);
        assert_eq!(saved.load(), Some(round));
        (round.next, round.completed_at) = (None, Some(NOW));
        saved.save(&round);
        assert_eq!(Saved::new(path.clone()).load(), Some(round), "its end at once");
        std::fs::write(&path, "{").unwrap();
        assert_eq!(saved.load(), None);
        let next = Round::after(Some(round), NOW.plus_millis(1));
        assert_eq!((next.completed_at, next.counts), (Some(NOW), Counts::default()));
    }

    #[test]
    fn the_next_round_is_due_so_long_after_the_last_one_began() {
        let round = Round::after(None, NOW);
        let day = Duration::from_secs(86_400);
        let due = |after_ms: i64| round.due_in(day, NOW.plus_millis(after_ms)).as_secs();
        assert_eq!([0, 1_000, 86_400_000, 90_000_000, -90_000_000].map(due), [86_400, 86_399, 0, 0, 86_400]);
    }
}
