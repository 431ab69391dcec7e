//! Signs of life: when they go out, and what their acknowledgements prove.
//!
//! Invariants: neither an acknowledgement nor a connection is waited for, so a slow log delays no heartbeat and no
//! recording; a lease is prolonged from the moment before its heartbeat was handed to the connection.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use longwatch_events::envelope::Envelope;
use longwatch_events::event::{Event, Load, ServerHeartbeat};
use longwatch_events::id::{BootId, EventId, ServerId, SystemIds};
use longwatch_events::time::Clock;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::bus::Bus;
use crate::lease::Lease;
use crate::uptime::since_boot;

/// Bounds of the interval, whatever control says.
const INTERVAL_MS: (u32, u32) = (100, 60_000);

/// The signs of life of this run.
pub(super) struct Heartbeats {
    bus: Bus,
    boot_id: BootId,
    clock: Arc<dyn Clock>,
    lease: watch::Sender<Lease>,
    /// Where this server gives out video now.
    media_url: watch::Receiver<Option<String>>,
    /// Of the last one.
    sequence: u64,
    /// Between two of them.
    pub(super) interval: Duration,
    next_at: Instant,
    /// The next one was hurried, as those of all servers may be: the one after it falls on a phase of its own.
    hurried: bool,
    /// Those that may still be acknowledged; each gives up by itself.
    sent: JoinSet<()>,
}

impl Heartbeats {
    /// The first is due at once.
    pub(super) fn new(
        bus: Bus,
        boot_id: BootId,
        clock: Arc<dyn Clock>,
        lease: watch::Sender<Lease>,
        interval_ms: u32,
        media_url: watch::Receiver<Option<String>>,
    ) -> Self {
        Self {
            bus,
            boot_id,
            clock,
            lease,
            media_url,
            sequence: 0,
            interval: interval(interval_ms),
            next_at: Instant::now(),
            hurried: true,
            sent: JoinSet::new(),
        }
    }

    /// Waits until the next one is due.
    pub(super) async fn due(&self) {
        tokio::time::sleep_until(self.next_at).await;
    }

    /// The next one is due at once.
    pub(super) fn hurry(&mut self) {
        self.next_at = Instant::now();
        self.hurried = true;
    }

    /// From now on one goes out every `interval_ms`, within bounds.
    pub(super) fn set_interval(&mut self, interval_ms: u32) {
        self.interval = interval(interval_ms);
        self.next_at = self.next_at.min(Instant::now() + self.interval);
    }

    /// Sends one.
    pub(super) fn send(&mut self, server_id: ServerId, load: Load) {
        self.sequence += 1;
        let (boot_id, sequence) = (self.boot_id, self.sequence);
        let envelope = Envelope {
            id: EventId::generate(&SystemIds),
            source: format!("/server/{server_id}"),
            time: self.clock.now(),
            tenant: None,
            actor: format!("server:{server_id}"),
            causation: None,
            event: Event::ServerHeartbeat(ServerHeartbeat {
                server_id,
                boot_id,
                sequence,
                load,
                media_url: self.media_url.borrow().clone(),
            }),
        };
        while self.sent.try_join_next().is_some() {}
        let payload = Bytes::from(envelope.encode());
        self.sent.spawn(send(self.bus.clone(), server_id, payload, self.lease.clone()));
    }

    /// The one that was due is done.
    pub(super) fn next(&mut self) {
        let phase = if std::mem::take(&mut self.hurried) { rand::random() } else { 1.0 };
        self.next_at = next_after(self.next_at, self.interval.mul_f64(phase));
    }
}

async fn send(bus: Bus, server_id: ServerId, payload: Bytes, lease: watch::Sender<Lease>) {
    let sent_at = since_boot();
    match bus.heartbeat(server_id, payload).await {
        Ok(()) => lease.send_modify(|lease| lease.acknowledged(sent_at, since_boot())),
        Err(error) => tracing::debug!(%error, "heartbeat not acknowledged"),
    }
}

fn interval(interval_ms: u32) -> Duration {
    Duration::from_millis(interval_ms.clamp(INTERVAL_MS.0, INTERVAL_MS.1).into())
}

/// When the next heartbeat is due. One that is late, because the process was held up, is not made up for.
fn next_after(due: Instant, interval: Duration) -> Instant {
    (due + interval).max(Instant::now())
}

#[cfg(test)]
mod tests {
    use super::*;
    use longwatch_events::time::SystemClock;

    #[tokio::test(start_paused = true)]
    async fn a_late_heartbeat_is_not_made_up_for() {
        let (due, second) = (Instant::now(), Duration::from_secs(1));
        assert_eq!(next_after(due, second), due + second);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(next_after(due, second), Instant::now());
        assert_eq!(interval(0), Duration::from_millis(100));
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_is_hurried_leaves_the_rhythm() {
        let bus = Bus::connect(&["nats://127.0.0.1:1".into()], None, "test").await.unwrap();
        let (lease, _) = watch::channel(Lease::new(Duration::from_secs(3)));
        let boot_id = BootId::generate(&SystemIds);
        let (_, media_url) = watch::channel(None);
        let mut heartbeats = Heartbeats::new(bus, boot_id, Arc::new(SystemClock), lease, 10_000, media_url);
        let ten = Duration::from_secs(10);
        // Given the first, then the second comes somewhere within the interval, and all others at its end.
        let first = heartbeats.next_at;
        heartbeats.next();
        let second = heartbeats.next_at;
        assert!((first..first + ten).contains(&second));
        heartbeats.next();
        assert_eq!(heartbeats.next_at, second + ten);
        // When the interval gets shorter, then nobody waits for the end of the longer one.
        heartbeats.set_interval(500);
        assert_eq!(heartbeats.next_at, Instant::now() + Duration::from_millis(500));
        heartbeats.hurry();
        assert_eq!(heartbeats.next_at, Instant::now());
    }
}
