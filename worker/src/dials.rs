//! Who may connect to their camera now: a bounded number at a time, in order of importance.
//!
//! When a thousand cameras come back at once (a switch was restarted, a server's cameras were taken over), connecting to
//! all of them in one moment costs each of them its timeout. So cameras take turns: those of high priority first, then
//! those that failed least often, then whoever came first. Whoever connects holds a [`Turn`] until that has worked or
//! failed, which every camera does in bounded time.
//!
//! Invariants: never are there more turns than allowed; a turn that is dropped goes to the first in line, at once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Cameras of one server that are being connected to at a time. Answering takes a good camera a few tens of milliseconds,
/// so that several hundred a second come through; one that does not answer holds its turn for some seconds.
pub const AT_ONCE: usize = 64;

/// Where a camera stands in the line. The smallest is first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    rank: u8,
    failures: u32,
    number: u64,
}

/// The line of one server's cameras; cheap to clone.
#[derive(Debug, Clone)]
pub struct Dials(Arc<Mutex<Line>>);

#[derive(Debug)]
struct Line {
    free: usize,
    next: u64,
    waiting: BTreeMap<Place, oneshot::Sender<Turn>>,
}

/// The right to connect; ends when it is dropped.
#[derive(Debug)]
pub struct Turn(Option<Dials>);

impl Dials {
    /// So many at a time; at least one.
    pub fn new(at_once: usize) -> Self {
        Self(Arc::new(Mutex::new(Line { free: at_once.max(1), next: 0, waiting: BTreeMap::new() })))
    }

    /// Waits for a turn. `rank`: 0 goes first; among equals whoever has fewer `failures` since the last success.
    pub async fn turn(&self, rank: u8, failures: u32) -> Turn {
        let (place, given) = {
            let mut line = self.line();
            if line.free > 0 {
                line.free -= 1;
                return Turn(Some(self.clone()));
            }
            let place = Place { rank, failures, number: line.next };
            line.next += 1;
            let (give, given) = oneshot::channel();
            line.waiting.insert(place, give);
            (place, given)
        };
        let leaving = Leaving { dials: self, place };
        let turn = given.await;
        std::mem::forget(leaving);
        // Only a line that is gone gives no turn, and it lives as long as `self`.
        turn.unwrap_or(Turn(None))
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.line().waiting.len()
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a camera that does not wait any more out of the line.
struct Leaving<'a> {
    dials: &'a Dials,
    place: Place,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.dials.line().waiting.remove(&self.place);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(dials) = self.0.take() else { return };
        let mut line = dials.line();
        let Some((_, first)) = line.waiting.pop_first() else {
            line.free += 1;
            return;
        };
        drop(line);
        // Whoever has left meanwhile drops it, which gives it to the next.
        let _left = first.send(Turn(Some(dials.clone())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    #[tokio::test]
    async fn no_more_than_allowed_connect_and_all_come_to_it() {
        let (dials, now, most) =
            (Dials::new(8), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let cameras: Vec<_> = (0..1_000_u32)
            .map(|n| {
                let (dials, now, most) = (dials.clone(), Arc::clone(&now), Arc::clone(&most));
                tokio::spawn(async move {
                    let _turn = dials.turn(1, n % 3).await;
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    now.fetch_sub(1, Ordering::SeqCst);
                })
            })
            .collect();
        for camera in cameras {
            camera.await.unwrap();
        }
        assert_eq!(most.load(Ordering::SeqCst), 8);
        assert_eq!((dials.waiting(), dials.line().free), (0, 8));
    }

    #[tokio::test]
    async fn the_important_go_first_then_those_that_failed_least() {
        let dials = Dials::new(1);
        let first = dials.turn(2, 0).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut cameras = Vec::new();
        for (rank, failures) in [(2, 0), (1, 7), (1, 0), (0, 9), (1, 0)] {
            let (waiting, order) = (dials.clone(), Arc::clone(&order));
            cameras.push(tokio::spawn(async move {
                let _turn = waiting.turn(rank, failures).await;
                order.lock().unwrap().push((rank, failures));
            }));
            while dials.waiting() < cameras.len() {
                tokio::task::yield_now().await;
            }
        }
        drop(first);
        for camera in cameras {
            camera.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), [(0, 9), (1, 0), (1, 0), (1, 7), (2, 0)]);
    }

    #[tokio::test]
    async fn whoever_leaves_the_line_holds_up_nobody() {
        let dials = Dials::new(1);
        let first = dials.turn(0, 0).await;
        let (leaving, staying) = (dials.clone(), dials.clone());
        let left = tokio::spawn(async move { drop(leaving.turn(0, 0).await) });
        let stays = tokio::spawn(async move { drop(staying.turn(1, 0).await) });
        while dials.waiting() < 2 {
            tokio::task::yield_now().await;
        }
        left.abort();
        assert!(left.await.unwrap_err().is_cancelled());
        drop(first);
        stays.await.unwrap();
        assert_eq!((dials.waiting(), dials.line().free), (0, 1));
    }
}
