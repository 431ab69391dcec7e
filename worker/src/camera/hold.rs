//! Whether a camera may be had right now: always, or, if it serves one client only, while the server's
//! [lease](crate::lease) is held.
//!
//! Invariant: once the lease is over, nothing that is read from such a camera is kept, however long this process or its
//! machine was suspended in between. What had been read before is still completed; the camera itself learns of it when
//! the process runs again.

use std::time::Duration;

use longwatch_events::fact::Cause;
use tokio::sync::watch;

use crate::lease::{Lease, State};
use crate::source::Failure;
use crate::tick::Ticker;
use crate::uptime::since_boot;

/// The runtime's timers do not count while the machine is suspended: none of them is trusted for longer.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// One camera's part in the lease. Clones follow the same camera.
#[derive(Debug, Clone)]
pub struct Hold {
    lease: watch::Receiver<Lease>,
    single_session: watch::Receiver<bool>,
}

impl Hold {
    /// For a camera that serves one client only while `single_session` says so.
    pub const fn new(lease: watch::Receiver<Lease>, single_session: watch::Receiver<bool>) -> Self {
        Self { lease, single_session }
    }

    /// For a camera that serves any number of clients.
    pub fn always() -> Self {
        Self::new(watch::channel(Lease::new(Duration::ZERO)).1, watch::channel(false).1)
    }

    /// How long it lasts from now on; `None`: for as long as the camera serves others too.
    fn left(&self) -> Option<Duration> {
        if !*self.single_session.borrow() {
            return None;
        }
        let (lease, now) = (*self.lease.borrow(), since_boot());
        Some(match (lease.state(now), lease.ends_at()) {
            (State::Held, Some(end)) => end.saturating_sub(now),
            (State::Held | State::Expired, _) => Duration::ZERO,
        })
    }

    /// Whether the camera may be had now.
    pub fn is_held(&self) -> bool {
        self.left() != Some(Duration::ZERO)
    }

    /// Waits until the camera may be had.
    pub async fn begins(&self) {
        let mut hold = self.clone();
        while !hold.is_held() {
            hold.changed().await;
        }
    }

    /// Waits until the camera may not be had any more. The thread is woken in time, whatever its tick.
    pub async fn ends(&self, ticker: &Ticker) {
        let mut hold = self.clone();
        loop {
            match hold.left() {
                Some(Duration::ZERO) => return,
                Some(left) => {
                    let soon = left <= LOOK_AGAIN + ticker.tick();
                    let _hurry = soon.then(|| ticker.hurry(LOOK_AGAIN));
                    tokio::select! {
                        () = hold.changed() => {}
                        () = tokio::time::sleep(left.min(LOOK_AGAIN)) => {}
                    }
                }
                // The lease is prolonged every second, which is nothing to a camera that serves others too.
                None => changed(&mut hold.single_session).await,
            }
        }
    }

    async fn changed(&mut self) {
        tokio::select! {
            () = changed(&mut self.lease) => {}
            () = changed(&mut self.single_session) => {}
        }
    }
}

/// Waits for a change; for ever, once nobody can make one.
async fn changed<T>(receiver: &mut watch::Receiver<T>) {
    if receiver.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Why a camera is not recorded that may not be had.
pub(super) fn expired() -> Failure {
    let why = "the log has not acknowledged a heartbeat of this server for too long: another one may have taken over";
    Failure::new(Cause::LeaseExpired, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::{MARGIN_LEAST, SETTLE};

    /// A lease that is held for `left` from now on.
    fn held_for(left: Duration) -> Lease {
        let (now, length) = (since_boot(), (left + MARGIN_LEAST).max(left * 10 / 9));
        let mut lease = Lease::new(length);
        lease.acknowledged(now, now);
        lease.looked(now + SETTLE);
        lease
    }

    async fn soon(what: impl Future<Output = ()>) -> bool {
        tokio::time::timeout(Duration::from_secs(10), what).await.is_ok()
    }

    #[tokio::test]
    async fn a_camera_that_serves_others_too_needs_no_lease() {
        let (_lease, lease) = watch::channel(Lease::new(Duration::from_secs(3)));
        let (single, single_out) = watch::channel(false);
        let hold = Hold::new(lease, single_out);
        assert!(hold.is_held() && Hold::always().is_held());
        // When it is found to serve one client only, then that counts at once.
        let ending = tokio::spawn(async move { hold.ends(&Ticker::none()).await });
        single.send_replace(true);
        assert!(soon(async { ending.await.unwrap() }).await);
    }

    #[tokio::test]
    async fn it_ends_in_time_is_prolonged_and_begins_again() {
        let (lease, lease_out) = watch::channel(held_for(Duration::from_millis(200)));
        let (_single, single) = watch::channel(true);
        let hold = Hold::new(lease_out, single);
        assert!(hold.is_held());
        // When it is prolonged while somebody waits for its end, then it ends only after that.
        let (waiting, began) = (hold.clone(), since_boot());
        let ending = tokio::spawn(async move { waiting.ends(&Ticker::none()).await });
        lease.send_replace(held_for(Duration::from_millis(700)));
        assert!(soon(async { ending.await.unwrap() }).await);
        assert!(since_boot() - began >= Duration::from_millis(700) && !hold.is_held());
        // And it begins again when there is contact.
        let beginning = tokio::spawn(async move { hold.begins().await });
        lease.send_replace(held_for(Duration::from_secs(60)));
        assert!(soon(async { beginning.await.unwrap() }).await);
    }
}
