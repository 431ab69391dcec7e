//! Facts' way from the cameras to the log, by way of the outbox: one task gathers them and makes them durable, another
//! sends what is durable. Neither ever makes a camera wait.

use std::sync::Arc;
use std::time::Duration;

use longwatch_events::fact::Fact;
use longwatch_events::id::{BootId, ServerId, SystemIds};
use longwatch_events::time::{Clock, Timestamp};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::membership::Standing;
use super::reported::Reported;
use super::told::Told;
use crate::bus::{Bus, Error as BusError};
use crate::outbox::batch::Reporter;
use crate::outbox::{Outbox, Shed, Waiting};
use crate::retry::Retry;

/// Facts of this long go into one file: two flushes of the disk for all of them.
const GATHER: Duration = Duration::from_millis(200);
/// No longer than until there are so many.
const GATHER_FACTS: usize = 1_000;
/// Facts that may wait in memory while the disk takes none: some tens of MiB.
const MAX_HELD_FACTS: usize = 100_000;
/// Between two attempts to write what the disk refused, at first and at most.
const DISK_RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));
/// Between two attempts to send to a log that does not answer.
const SEND_RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// Between two attempts to send to a log that says no, at first and at most.
const REFUSED_RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// What the gathering task needs.
pub(super) struct Gatherer {
    /// Where facts become durable.
    pub(super) outbox: Arc<Outbox>,
    /// Which server reports.
    pub(super) standing: watch::Receiver<Standing>,
    /// In which run.
    pub(super) boot_id: BootId,
    /// Tells the time.
    pub(super) clock: Arc<dyn Clock>,
    /// Hears what is durable, and what was lost.
    pub(super) told: Arc<Told>,
    /// Hears what is told of segments.
    pub(super) reported: Arc<Reported>,
}

impl Gatherer {
    /// Takes facts until nobody can send any more, and all are durable or in memory.
    pub(super) async fn run(mut self, mut facts: UnboundedReceiver<Fact>) {
        let mut disk = Retry::new(DISK_RETRY.0, DISK_RETRY.1);
        let began = Instant::now();
        let mut write_held_at = None;
        let mut known = None;
        let mut batch = Vec::new();
        loop {
            let received = tokio::select! {
                received = facts.recv_many(&mut batch, GATHER_FACTS) => received,
                () = sleep_until(write_held_at) => {
                    write_held_at = self.write_held(&mut disk, began).await;
                    continue;
                }
            };
            if received == 0 {
                break;
            }
            gather(&mut facts, &mut batch).await;
            let server_id = match known {
                Some(server_id) => server_id,
                // Nothing is recorded before the first join; facts about what was left behind can wait for it.
                None => match self.server(&mut facts, &mut batch).await {
                    Some(server_id) => server_id,
                    None => break,
                },
            };
            known = self.now().or(Some(server_id));
            // In this order: what was owed before the channel was found empty is in this batch or in one before.
            let all_until = (self.told.is_whole() && facts.is_empty()).then(|| self.clock.now());
            let (server_id, taken) = (known.unwrap_or(server_id), std::mem::take(&mut batch));
            if self.put(server_id, taken, all_until, &mut disk, began).await {
                write_held_at.get_or_insert_with(|| Instant::now() + DISK_RETRY.0);
            }
        }
        if !batch.is_empty() {
            self.told.lose();
            tracing::error!(
                facts = batch.len(),
                "facts lost: this worker never joined, and nobody knows its id"
            );
        }
    }

    fn now(&mut self) -> Option<ServerId> {
        match *self.standing.borrow() {
            Standing::Known { membership, .. } => Some(membership.server_id),
            Standing::Unknown | Standing::Detached => None,
        }
    }

    /// Waits until it is known which server this is; takes facts meanwhile. `None` if nobody can send any more.
    async fn server(
        &mut self,
        facts: &mut UnboundedReceiver<Fact>,
        batch: &mut Vec<Fact>,
    ) -> Option<ServerId> {
        loop {
            if let Some(server_id) = self.now() {
                return Some(server_id);
            }
            tokio::select! {
                changed = self.standing.changed() => changed.ok()?,
                received = facts.recv_many(batch, GATHER_FACTS) => if received == 0 { return None },
            }
        }
    }

    /// Puts facts into the outbox; returns whether some of them wait in memory. If none do, all facts until `all_until`
    /// are durable.
    async fn put(
        &self,
        server_id: ServerId,
        facts: Vec<Fact>,
        all_until: Option<Timestamp>,
        disk: &mut Retry,
        began: Instant,
    ) -> bool {
        let (outbox, clock, boot_id) = (Arc::clone(&self.outbox), Arc::clone(&self.clock), self.boot_id);
        let (told, reported) = (Arc::clone(&self.told), Arc::clone(&self.reported));
        let result = tokio::task::spawn_blocking(move || {
            let reporter = Reporter { server_id, boot_id, clock: &*clock, ids: &SystemIds };
            let mut result = Ok(());
            let all = facts.clone();
            for batch in reporter.pack(facts) {
                // Every batch is put, whatever became of the one before.
                let put = outbox.put(batch);
                result = result.and(put);
            }
            reported.take(&all);
            if outbox.held_facts() == 0 {
                reported.all_durable();
            }
            if let Some(at) = all_until.filter(|_| outbox.held_facts() == 0)
                && let Err(error) = told.advance(at)
            {
                tracing::error!(%error, "cannot note what is reported; after a crash more is reported again");
            }
            result
        })
        .await;
        match result {
            Ok(Ok(())) => false,
            Ok(Err(error)) => {
                let text = error.to_string();
                if disk.is_news(&text, began.elapsed()) {
                    tracing::error!(error = text, held = self.outbox.held_facts(), "facts wait in memory");
                }
                self.shed();
                true
            }
            Err(error) => {
                self.told.lose();
                tracing::error!(%error, "facts lost by a bug");
                false
            }
        }
    }

    fn shed(&self) {
        let Shed { passing, lasting } = self.outbox.shed(MAX_HELD_FACTS);
        if passing > 0 {
            tracing::error!(
                facts = passing,
                "facts about the state of cameras given up: neither disk nor log took them"
            );
        }
        if !lasting.is_empty() {
            self.told.lose();
        }
        for fact in lasting {
            self.reported.lose(&fact);
            tracing::error!(?fact, "fact lost: neither disk nor log took it");
        }
    }

    /// Tries to write what waits in memory; returns when to try again.
    async fn write_held(&self, disk: &mut Retry, began: Instant) -> Option<Instant> {
        let outbox = Arc::clone(&self.outbox);
        let written = tokio::task::spawn_blocking(move || outbox.write_held()).await;
        let text = match written {
            Ok(Ok(())) => {
                disk.worked();
                self.reported.all_durable();
                tracing::info!("no facts wait in memory any more");
                return None;
            }
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        if disk.is_news(&text, began.elapsed()) {
            tracing::error!(error = text, held = self.outbox.held_facts(), "facts still wait in memory");
        }
        Some(Instant::now() + disk.failed(rand::random()))
    }
}

/// Takes what else comes within [`GATHER`].
async fn gather(facts: &mut UnboundedReceiver<Fact>, batch: &mut Vec<Fact>) {
    let more =
        async { while batch.len() < GATHER_FACTS && facts.recv_many(batch, GATHER_FACTS).await > 0 {} };
    // Running into the limit is how this normally ends.
    let _ = tokio::time::timeout(GATHER, more).await;
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Sends what is in the outbox, one batch after the other, until `drain` is cancelled and nothing waits.
pub(super) async fn send(outbox: Arc<Outbox>, bus: Bus, drain: CancellationToken) {
    let mut retry = Retry::new(SEND_RETRY.0, SEND_RETRY.1);
    let mut refused = Retry::new(REFUSED_RETRY.0, REFUSED_RETRY.1);
    let mut unread = Retry::new(DISK_RETRY.0, DISK_RETRY.1);
    let began = Instant::now();
    loop {
        let first = match first(&outbox).await {
            Ok(first) => first,
            Err(text) => {
                if unread.is_news(&text, began.elapsed()) {
                    tracing::error!(error = text, "facts cannot be read from the disk; kept, trying again");
                }
                tokio::time::sleep(unread.failed(rand::random())).await;
                continue;
            }
        };
        unread.worked();
        let Some(batch) = first else {
            tokio::select! {
                () = outbox.changed() => continue,
                () = drain.cancelled() => {}
            }
            // Something may have come in between.
            if outbox.waiting_facts() == 0 {
                return;
            }
            continue;
        };
        bus.up().await;
        let Waiting { sequence, id, server_id, payload, facts } = batch;
        match bus.report(server_id, id, payload).await {
            Ok(()) => {
                let outbox = Arc::clone(&outbox);
                // Only a panic could make this fail, and `done` is called again after the next start.
                let _ = tokio::task::spawn_blocking(move || outbox.done(sequence)).await;
                let failures = retry.worked() + refused.worked();
                tracing::debug!(sequence, facts, failures, "facts reported");
            }
            Err(error) => {
                let wait = match &error {
                    BusError::Refused(_) => refused.failed(rand::random()),
                    BusError::Unavailable(_) | BusError::Address { .. } | BusError::Credentials { .. } => {
                        retry.failed(rand::random())
                    }
                };
                let text = error.to_string();
                if retry.is_news(&text, began.elapsed()) {
                    let waiting = outbox.waiting_facts();
                    tracing::warn!(error = text, sequence, waiting, "facts not reported; kept, trying again");
                }
                tokio::time::sleep(wait).await;
            }
        }
    }
}

/// The oldest batch, or why it cannot be had right now.
async fn first(outbox: &Arc<Outbox>) -> Result<Option<Waiting>, String> {
    let outbox = Arc::clone(outbox);
    let first = tokio::task::spawn_blocking(move || outbox.first()).await;
    first.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
}
