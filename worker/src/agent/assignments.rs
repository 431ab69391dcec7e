//! How this server learns what to record: hears of every new set as it is published, looks for itself at every
//! reconnect, every 30 to 60 s, when control sees that it missed one, and when its lease is over, and keeps the newest whole set in `assignments.json`, so that the next start records
//! before it has spoken to anybody.
//!
//! The file is a JSON array of the messages exactly as they came: cameras' addresses stay sealed on disk.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use longwatch_events::id::ServerId;
use serde_json::value::RawValue;
use tokio::sync::mpsc::error::SendError;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::desired::{Collector, DesiredSet, Part};
use super::membership::Standing;
use crate::bus::{Bus, Error as BusError, Told};
use crate::durable;
use crate::lease::Lease;
use crate::retry::Retry;
use crate::uptime::since_boot;

/// Between two looks, at least; at most twice as long.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Between two looks that somebody asks for, at least.
const ASKED_EVERY: Duration = Duration::from_millis(500);
/// After a look that failed, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Attempts to read the file at a start, and the time between two of them, at first and at most.
const READ_ATTEMPTS: u32 = 6;
const READ_AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// What was learnt, in this order.
#[derive(Debug)]
pub(super) enum Learnt {
    /// A newer set.
    Set(DesiredSet),
    /// A look has found all there was; it began at this time since boot.
    Looked(Duration),
}

/// The file with the newest set.
#[derive(Debug, Clone)]
pub(super) struct Store {
    path: PathBuf,
    unreadable: PathBuf,
}

impl Store {
    /// The file `path`; if it makes no sense it is moved to the folder `unreadable`.
    pub(super) const fn new(path: PathBuf, unreadable: PathBuf) -> Self {
        Self { path, unreadable }
    }

    /// The set of `server_id` that was saved last. Blocks.
    pub(super) fn load(&self, server_id: ServerId) -> Option<DesiredSet> {
        let file = self.read()?;
        match parse(&file, server_id) {
            Ok(set) => Some(set),
            Err(why) => {
                let aside = durable::set_aside(&self.path, &self.unreadable);
                let aside =
                    aside.map_or_else(|e| format!("cannot be moved: {e}"), |to| to.display().to_string());
                tracing::error!(path = %self.path.display(), why, aside, "saved assignments cannot be read");
                None
            }
        }
    }

    /// What is in the file. An error of the disk says nothing about the file: it is tried again, and then left there.
    fn read(&self) -> Option<Vec<u8>> {
        let mut retry = Retry::new(READ_AGAIN.0, READ_AGAIN.1);
        let path = self.path.display();
        for left in (0..READ_ATTEMPTS).rev() {
            match durable::read(&self.path) {
                Ok(file) => return file,
                Err(error) if left == 0 => {
                    tracing::error!(%path, %error, "saved assignments not read; recording begins when control was heard");
                }
                Err(error) => {
                    let wait = retry.failed(rand::random());
                    let again_in_ms = wait.as_millis();
                    tracing::warn!(%path, %error, again_in_ms, "saved assignments cannot be read; trying again");
                    std::thread::sleep(wait);
                }
            }
        }
        None
    }

    fn save(&self, set: &DesiredSet) -> io::Result<()> {
        // Every message was parsed as JSON before: between brackets and commas they are an array.
        let mut file =
            Vec::with_capacity(set.messages.iter().map(|message| message.len() + 1).sum::<usize>() + 2);
        for (n, message) in set.messages.iter().enumerate() {
            file.push(if n == 0 { b'[' } else { b',' });
            file.extend_from_slice(message);
        }
        file.push(b']');
        durable::replace(&self.path, &file)
    }

    fn forget(&self) -> io::Result<()> {
        durable::remove(&self.path)
    }

    /// Runs one of the above where it may block.
    async fn run(&self, work: impl FnOnce(&Self) -> io::Result<()> + Send + 'static) -> io::Result<()> {
        let store = self.clone();
        tokio::task::spawn_blocking(move || work(&store)).await.map_err(io::Error::other)?
    }
}

fn parse(file: &[u8], server_id: ServerId) -> Result<DesiredSet, String> {
    let messages: Vec<&RawValue> = serde_json::from_slice(file).map_err(|e| e.to_string())?;
    let mut collector = Collector::new(server_id, None);
    let mut whole = None;
    for message in messages {
        let (_, set) =
            collector.offer(Bytes::copy_from_slice(message.get().as_bytes())).map_err(|e| e.to_string())?;
        whole = set.or(whole);
    }
    whole.ok_or_else(|| "it does not hold a whole set".to_owned())
}

/// Follows the sets of whatever server this worker is, for as long as the process lives. `known` is the newest set
/// that was loaded.
pub(super) async fn follow(
    bus: Bus,
    store: Store,
    mut standing: watch::Receiver<Standing>,
    mut known: Option<(ServerId, DesiredSet)>,
    lease: watch::Receiver<Lease>,
    learnt: mpsc::Sender<Learnt>,
) {
    loop {
        let now = *standing.borrow_and_update();
        match now {
            Standing::Unknown => {}
            Standing::Known { membership, .. } => {
                let newest = known
                    .take()
                    .filter(|(server, _)| *server == membership.server_id)
                    .map(|(_, newest)| newest);
                let follower = Follower {
                    bus: &bus,
                    store: &store,
                    server_id: membership.server_id,
                    collector: Collector::new(membership.server_id, newest),
                    unsaved: None,
                    lease: lease.clone(),
                    retry: Retry::new(RETRY.0, RETRY.1),
                    began: Instant::now(),
                };
                tokio::select! {
                    () = follower.run(&learnt) => {}
                    () = other_server(&mut standing, membership.server_id) => {}
                }
                continue;
            }
            Standing::Detached => {
                known = None;
                if let Err(error) = store.run(Store::forget).await {
                    tracing::error!(%error, "saved assignments cannot be removed; the next start would record them");
                }
            }
        }
        if standing.changed().await.is_err() {
            return;
        }
    }
}

/// Waits until the lease asks for a look, but not before `ask_at`.
async fn lease_asks(lease: &mut watch::Receiver<Lease>, ask_at: Instant) {
    let due =
        lease.wait_for(|lease| lease.look_due().is_some()).await.ok().and_then(|lease| lease.look_due());
    match due {
        Some(due) => {
            let settled = Instant::now() + due.saturating_sub(since_boot());
            tokio::time::sleep_until(settled.max(ask_at)).await;
        }
        // Nobody is left to ask.
        None => std::future::pending().await,
    }
}

/// Waits until this worker is not `server_id` any more.
pub(super) async fn other_server(standing: &mut watch::Receiver<Standing>, server_id: ServerId) {
    let same = |standing: &Standing| match standing {
        Standing::Known { membership, .. } => membership.server_id == server_id,
        Standing::Unknown | Standing::Detached => false,
    };
    if standing.wait_for(|standing| !same(standing)).await.is_err() {
        std::future::pending::<()>().await;
    }
}

struct Follower<'a> {
    bus: &'a Bus,
    store: &'a Store,
    server_id: ServerId,
    collector: Collector,
    /// A set that is in force but not in the file yet.
    unsaved: Option<DesiredSet>,
    lease: watch::Receiver<Lease>,
    retry: Retry,
    began: Instant,
}

/// What came of a look.
struct Look {
    sets: Vec<DesiredSet>,
    /// Nothing was missing.
    whole: bool,
    /// When to look again.
    again_in: Duration,
}

impl Follower<'_> {
    /// Ends only when nobody takes what was learnt any more.
    async fn run(mut self, learnt: &mpsc::Sender<Learnt>) {
        let mut messages = loop {
            match self.bus.assignments(self.server_id).await {
                Ok(messages) => break messages,
                Err(e) => self.pause(&e).await,
            }
        };
        let (mut link, mut lease) = (self.bus.link(), self.lease.clone());
        let mut next_look = Instant::now();
        // When another look may be asked for, and whether the last one found what it looked for.
        let (mut ask_at, mut found) = (next_look, true);
        loop {
            let connects = link.borrow().connects;
            let part = tokio::select! {
                Some(told) = messages.next() => match told {
                    Told::Part(message) => Some(message),
                    Told::Look => {
                        next_look = next_look.min(ask_at);
                        continue;
                    }
                },
                () = tokio::time::sleep_until(next_look) => None,
                _ = link.wait_for(|link| link.connects > connects) => None,
                // A look that failed is tried again when that is due.
                () = lease_asks(&mut lease, ask_at), if found => None,
            };
            let news = match part {
                Some(message) => self.offer(message).1.map(Learnt::Set).into_iter().collect(),
                None => {
                    self.bus.up().await;
                    let begun_at = since_boot();
                    ask_at = Instant::now() + ASKED_EVERY;
                    let Look { sets, whole, again_in } = self.look().await;
                    next_look = Instant::now() + again_in;
                    found = whole;
                    let all: Vec<_> = sets.into_iter().map(Learnt::Set).collect();
                    all.into_iter().chain(whole.then_some(Learnt::Looked(begun_at))).collect()
                }
            };
            if self.tell(news, learnt).await.is_err() {
                return;
            }
        }
    }

    /// Passes on what was learnt; a set is saved first.
    async fn tell(
        &mut self,
        news: Vec<Learnt>,
        learnt: &mpsc::Sender<Learnt>,
    ) -> Result<(), SendError<Learnt>> {
        for news in news {
            if let Learnt::Set(set) = &news {
                self.unsaved = Some(set.clone());
                self.save().await;
            }
            learnt.send(news).await?;
        }
        Ok(())
    }

    /// Reads every part that stands in the log.
    async fn look(&mut self) -> Look {
        self.save().await;
        let mut sets = Vec::new();
        let mut missing = BTreeSet::from([1]);
        let mut looking_for: Option<Part> = None;
        while let Some(number) = missing.pop_first() {
            let message = match self.bus.last_assignment(self.server_id, number).await {
                Ok(Some(message)) => message,
                // Nothing at all is all there is.
                Ok(None) if looking_for.is_none() => break,
                Ok(None) => return self.incomplete(sets),
                Err(e) => return Look { sets, whole: false, again_in: self.failed(&e) },
            };
            let (part, set) = self.offer(message);
            sets.extend(set);
            if let (None, Some(first)) = (looking_for, part) {
                missing = (2..=first.parts).collect();
                looking_for = part;
            }
            // Of another set: they are being replaced right now, and their copies are on their way. Or of none.
            if part.is_none() || part != looking_for {
                return self.incomplete(sets);
            }
        }
        self.retry.worked();
        Look { sets, whole: true, again_in: LOOK_EVERY.mul_f64(1.0 + rand::random::<f64>()) }
    }

    /// The log answers, and is about to hold a whole set.
    fn incomplete(&mut self, sets: Vec<DesiredSet>) -> Look {
        Look { sets, whole: false, again_in: self.retry.failed(rand::random()) }
    }

    fn offer(&mut self, message: Bytes) -> (Option<Part>, Option<DesiredSet>) {
        match self.collector.offer(message) {
            Ok((part, set)) => (Some(part), set),
            Err(error) => {
                tracing::error!(%error, "assignment ignored; recording goes on as before");
                (None, None)
            }
        }
    }

    fn failed(&mut self, error: &BusError) -> Duration {
        let text = error.to_string();
        if self.retry.is_news(&text, self.began.elapsed()) {
            tracing::warn!(error = text, "cannot look for assignments; recording goes on as before");
        }
        self.retry.failed(rand::random())
    }

    async fn pause(&mut self, error: &BusError) {
        let wait = self.failed(error);
        tokio::time::sleep(wait).await;
    }

    /// Saves what is not saved. A failure does not keep a set from being applied; it is tried again at every look.
    async fn save(&mut self) {
        let Some(set) = self.unsaved.take() else { return };
        let saving = set.clone();
        if let Err(error) = self.store.run(move |store| store.save(&saving)).await {
            tracing::error!(%error, revision = %set.revision, "assignments cannot be saved; a restart would use older ones");
            self.unsaved = Some(set);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use longwatch_events::id::SystemIds;

    #[test]
    fn only_what_was_read_and_makes_no_sense_is_moved_aside() {
        let folder = tempfile::tempdir().unwrap();
        let (path, unreadable) = (folder.path().join("assignments.json"), folder.path().join("unreadable"));
        let (store, server_id) =
            (Store::new(path.clone(), unreadable.clone()), ServerId::generate(&SystemIds));
        // Given a file that the disk does not give, then it stays.
        std::fs::create_dir(&path).unwrap();
        assert_eq!(store.load(server_id), None);
        assert!(path.is_dir() && !unreadable.exists());
        // Given one that makes no sense, then it does not.
        std::fs::remove_dir(&path).unwrap();
        std::fs::write(&path, b"[{}]").unwrap();
        assert_eq!(store.load(server_id), None);
        assert!(!path.exists() && unreadable.join("assignments.json").exists());
    }
}
