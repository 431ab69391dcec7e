//! Up to when everything that is stored is surely reported: what a start after a crash goes by.
//!
//! The file `reported_until.json` holds one time. Invariants: every fact about a segment that got its name before that
//! time, less a margin for a slow disk, is durable in the outbox or in the log; a run moves it only after it has
//! reported again what the runs before may not have, and never after it lost a fact.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use longwatch_events::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::durable;

/// The file's name.
pub(super) const FILE: &str = "reported_until.json";
/// The file is not written more often, in milliseconds: two flushes of the disk each time.
const WRITE_EVERY_MS: i64 = 10_000;

#[derive(Serialize, Deserialize)]
struct Mark {
    reported_until: Timestamp,
}

/// What this run knows about it.
#[derive(Debug)]
pub(super) struct Told {
    path: PathBuf,
    /// What earlier runs may not have reported, this one has.
    caught_up: AtomicBool,
    /// Something was stored that no fact will tell in this run.
    lost: AtomicBool,
    written: Mutex<Option<Timestamp>>,
}

impl Told {
    /// Nothing moves the file `path` yet.
    pub(super) const fn new(path: PathBuf) -> Self {
        Self {
            path,
            caught_up: AtomicBool::new(false),
            lost: AtomicBool::new(false),
            written: Mutex::new(None),
        }
    }

    /// All that earlier runs may not have reported is on its way.
    pub(super) fn catch_up(&self) {
        self.caught_up.store(true, Ordering::SeqCst);
    }

    /// A fact, or what would have become one, is gone: only a next start can find it again.
    pub(super) fn lose(&self) {
        self.lost.store(true, Ordering::SeqCst);
    }

    /// Whether the facts that were made are all that there are to make.
    pub(super) fn is_whole(&self) -> bool {
        self.caught_up.load(Ordering::SeqCst) && !self.lost.load(Ordering::SeqCst)
    }

    /// Facts up to `at` are durable. Written only now and then, and only if [`Self::is_whole`]. Blocks.
    ///
    /// # Errors
    ///
    /// If the disk fails. It only makes the next start look further back.
    pub(super) fn advance(&self, at: Timestamp) -> io::Result<()> {
        {
            let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
            let recent = written.is_some_and(|before| at.millis_since(before).abs() < WRITE_EVERY_MS);
            if recent || !self.is_whole() {
                return Ok(());
            }
            *written = Some(at);
        }
        write(&self.path, at)
    }
}

/// Writes the file. Blocks.
///
/// # Errors
///
/// If the disk fails.
pub(super) fn write(path: &Path, reported_until: Timestamp) -> io::Result<()> {
    durable::replace(path, &serde_json::to_vec(&Mark { reported_until }).map_err(io::Error::other)?)
}

/// Reads the file; `None` if there is none. Blocks.
///
/// # Errors
///
/// If it cannot be read, or not be understood.
pub(super) fn read(path: &Path) -> io::Result<Option<Timestamp>> {
    let Some(bytes) = durable::read(path)? else { return Ok(None) };
    let mark: Mark = serde_json::from_slice(&bytes).map_err(io::Error::other)?;
    Ok(Some(mark.reported_until))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_moves_only_while_nothing_is_owed_or_lost() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let told = Told::new(path.clone());
        let at = |seconds: i64| Timestamp::from_millis(1_795_420_800_000 + seconds * 1_000);
        told.advance(at(0)).unwrap();
        assert_eq!(read(&path).unwrap(), None);
        told.catch_up();
        told.advance(at(1)).unwrap();
        assert_eq!(read(&path).unwrap(), Some(at(1)));
        // Not at every batch …
        told.advance(at(2)).unwrap();
        assert_eq!(read(&path).unwrap(), Some(at(1)));
        // … and back too, if the clock was set back.
        told.advance(at(-60)).unwrap();
        assert_eq!(read(&path).unwrap(), Some(at(-60)));
        told.lose();
        told.advance(at(90)).unwrap();
        assert_eq!((read(&path).unwrap(), told.is_whole()), (Some(at(-60)), false));
        std::fs::write(&path, b"{").unwrap();
        assert!(read(&path).is_err());
    }
}
