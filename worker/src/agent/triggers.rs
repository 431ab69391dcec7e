//! Events at cameras of this server, as control tells of them: made durable, recorded, told in a fact, and only then
//! answered. What they want recorded stands in `triggers.json`, so that a worker that is killed in the middle of an event
//! records on until its end.
//!
//! Invariants: an event that is answered as taken is on the disk twice, as what is to be recorded and as a fact; asked again
//! it changes nothing more. Many that come at once are written at once.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use longwatch_events::fact::Fact;
use longwatch_events::id::{BootId, CameraId, ServerId, SystemIds, TenantId};
use longwatch_events::position::Epoch;
use longwatch_events::time::{Clock, Timestamp};
use longwatch_events::trigger::{Trigger, TriggerReply};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::assignments::other_server;
use super::membership::Standing;
use crate::bus::{Asked, Bus};
use crate::durable;
use crate::outbox::Outbox;
use crate::outbox::batch::Reporter;
use crate::plan::Key;
use crate::retry::Retry;
use crate::wish::events::{Span, Spans};

/// The file's name.
pub(super) const FILE: &str = "triggers.json";
/// What ended so long ago, in milliseconds, is forgotten. More than a camera's task wants to look back.
const KEEP_MS: i64 = 600_000;
/// So many are made durable at once, at most.
const AT_ONCE: usize = 256;
/// After a subscription that failed, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

#[derive(Serialize, Deserialize)]
struct Entry {
    tenant_id: TenantId,
    camera_id: CameraId,
    spans: Spans,
}

/// What events want recorded, of every camera that there was any at.
#[derive(Debug)]
pub(super) struct Triggers {
    path: PathBuf,
    wanted: Mutex<BTreeMap<Key, Spans>>,
}

impl Triggers {
    /// As an earlier run left it. Blocks.
    pub(super) fn load(path: PathBuf) -> Self {
        let wanted = read(&path).unwrap_or_else(|error| {
            let path = path.display();
            tracing::error!(%path, %error, "cannot read what events want recorded; those that are on end with this start");
            BTreeMap::new()
        });
        Self { path, wanted: Mutex::new(wanted) }
    }

    fn wanted(&self) -> MutexGuard<'_, BTreeMap<Key, Spans>> {
        // Every change under the lock leaves it whole.
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What they want of one camera.
    pub(super) fn of(&self, key: Key) -> Spans {
        self.wanted().get(&key).cloned().unwrap_or_default()
    }

    /// Adds what these want recorded. It is durable when this returns `Ok`. Blocks.
    ///
    /// # Errors
    ///
    /// If the disk fails.
    fn add<'a>(&self, triggers: impl IntoIterator<Item = &'a Trigger>, now: Timestamp) -> io::Result<()> {
        let entries: Vec<_> = {
            let mut wanted = self.wanted();
            for trigger in triggers.into_iter().filter(|trigger| trigger.records) {
                let Trigger { tenant_id, camera_id, from, at, until, .. } = *trigger;
                wanted.entry(Key { tenant_id, camera_id }).or_default().add(Span { from, at, until });
            }
            wanted.values_mut().for_each(|spans| spans.forget(now.plus_millis(-KEEP_MS)));
            wanted.retain(|_, spans| !spans.is_empty());
            let entry = |(key, spans): (&Key, &Spans)| Entry {
                tenant_id: key.tenant_id,
                camera_id: key.camera_id,
                spans: spans.clone(),
            };
            wanted.iter().map(entry).collect()
        };
        durable::replace(&self.path, &serde_json::to_vec(&entries).map_err(io::Error::other)?)
    }
}

fn read(path: &std::path::Path) -> io::Result<BTreeMap<Key, Spans>> {
    let Some(bytes) = durable::read(path)? else { return Ok(BTreeMap::new()) };
    let entries: Vec<Entry> = serde_json::from_slice(&bytes)?;
    let known = |Entry { tenant_id, camera_id, spans }| (Key { tenant_id, camera_id }, spans);
    Ok(entries.into_iter().map(known).collect())
}

/// What is asked of who has the cameras.
#[derive(Debug)]
pub(super) enum Ask {
    /// Under which assignments these cameras are to be recorded here; `None`: they are not.
    Epochs(Vec<Key>, oneshot::Sender<Vec<Option<Epoch>>>),
    /// More is wanted of these.
    Changed(Vec<Key>),
}

/// Answers what control tells of events.
#[derive(Clone)]
pub(super) struct Listener {
    /// Where it comes from.
    pub(super) bus: Bus,
    /// What is wanted.
    pub(super) triggers: Arc<Triggers>,
    /// Where facts become durable.
    pub(super) outbox: Arc<Outbox>,
    /// Which run of the worker this is.
    pub(super) boot_id: BootId,
    /// Tells the time.
    pub(super) clock: Arc<dyn Clock>,
    /// Who has the cameras.
    pub(super) asks: mpsc::Sender<Ask>,
}

/// Why an event is not taken now.
#[derive(Debug, thiserror::Error)]
enum NotKept {
    #[error("the disk does not take it: {0}")]
    Disk(#[from] io::Error),
    #[error("the disk does not take it: {0}")]
    Outbox(#[from] crate::outbox::Error),
    #[error("the worker stops")]
    Stops,
}

impl Listener {
    /// Listens for whatever server this worker is, for as long as the process lives.
    pub(super) async fn run(self, mut standing: watch::Receiver<Standing>) {
        loop {
            let now = *standing.borrow_and_update();
            if let Standing::Known { membership, .. } = now {
                let server_id = membership.server_id;
                tokio::select! {
                    () = self.answer_all(server_id) => {}
                    () = other_server(&mut standing, server_id) => {}
                }
            } else if standing.changed().await.is_err() {
                return;
            }
        }
    }

    async fn answer_all(&self, server_id: ServerId) {
        let (mut retry, began) = (Retry::new(RETRY.0, RETRY.1), Instant::now());
        loop {
            match self.bus.triggers(server_id).await {
                Ok(asked) => {
                    retry.worked();
                    let mut asked = asked.ready_chunks(AT_ONCE);
                    while let Some(asked) = asked.next().await {
                        self.answer(server_id, asked).await;
                    }
                }
                Err(error) => {
                    let text = error.to_string();
                    if retry.is_news(&text, began.elapsed()) {
                        tracing::warn!(error = text, "cannot listen to what is told of events; trying again");
                    }
                }
            }
            tokio::time::sleep(retry.failed(rand::random())).await;
        }
    }

    async fn answer(&self, server_id: ServerId, asked: Vec<Asked>) {
        let (mut events, mut replies) = (Vec::new(), Vec::new());
        for asked in asked {
            match understood(&asked.payload) {
                Ok(trigger) => events.push((asked, trigger)),
                Err(detail) => replies.push((asked, TriggerReply::Refused { detail })),
            }
        }
        let keys: Vec<_> = events.iter().map(|(_, trigger)| key(trigger)).collect();
        let epochs = self.epochs(keys).await.unwrap_or_else(|| vec![None; events.len()]);
        let (mut askers, mut here) = (Vec::new(), Vec::new());
        for ((asked, trigger), epoch) in events.into_iter().zip(epochs) {
            match epoch {
                Some(epoch) => {
                    askers.push(asked);
                    here.push((trigger, epoch));
                }
                None => replies.push((asked, TriggerReply::NotHere)),
            }
        }
        if !here.is_empty() {
            let reply = match self.keep(server_id, here).await {
                Ok(()) => TriggerReply::Taken,
                Err(error) => {
                    tracing::error!(%error, "events at cameras not taken");
                    TriggerReply::TryAgain { detail: error.to_string() }
                }
            };
            replies.extend(askers.into_iter().map(|asked| (asked, reply.clone())));
        }
        for (asked, reply) in replies {
            self.bus.answer(asked, &reply).await;
        }
    }

    async fn epochs(&self, keys: Vec<Key>) -> Option<Vec<Option<Epoch>>> {
        let (epochs, epochs_out) = oneshot::channel();
        self.asks.send(Ask::Epochs(keys, epochs)).await.ok()?;
        epochs_out.await.ok()
    }

    /// Makes events durable, and lets their cameras be recorded.
    async fn keep(&self, server_id: ServerId, events: Vec<(Trigger, Epoch)>) -> Result<(), NotKept> {
        let keys = events.iter().map(|(trigger, _)| key(trigger)).collect();
        let (triggers, outbox) = (Arc::clone(&self.triggers), Arc::clone(&self.outbox));
        let (clock, boot_id) = (Arc::clone(&self.clock), self.boot_id);
        let kept = tokio::task::spawn_blocking(move || {
            triggers.add(events.iter().map(|(trigger, _)| trigger), clock.now())?;
            let told = events.iter().map(|(trigger, epoch)| Fact::RecordingTriggered(trigger.taken(*epoch)));
            let reporter = Reporter { server_id, boot_id, clock: &*clock, ids: &SystemIds };
            reporter.pack(told.collect()).into_iter().try_for_each(|batch| outbox.put(batch))?;
            Ok::<_, NotKept>(())
        });
        kept.await.map_err(io::Error::other)??;
        self.asks.send(Ask::Changed(keys)).await.map_err(|_| NotKept::Stops)
    }
}

fn key(trigger: &Trigger) -> Key {
    Key { tenant_id: trigger.tenant_id, camera_id: trigger.camera_id }
}

fn understood(payload: &[u8]) -> Result<Trigger, String> {
    let trigger: Trigger =
        serde_json::from_slice(payload).map_err(|error| format!("not an event: {error}"))?;
    trigger.fault().map_or(Ok(trigger), |fault| Err(fault.to_owned()))
}

#[cfg(test)]
mod tests {
    use longwatch_events::id::TriggerId;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(1_795_420_800_000 + seconds * 1_000)
    }

    fn trigger(camera_id: CameraId, seconds: i64, records: bool) -> Trigger {
        Trigger {
            tenant_id: TenantId::DEFAULT,
            camera_id,
            event_id: TriggerId::generate(&SystemIds),
            kind: "motion".into(),
            detail: None,
            at: at(seconds),
            from: at(seconds - 5),
            until: at(seconds + 10),
            records,
            by: "key:provider".into(),
        }
    }

    #[test]
    fn what_events_want_outlives_the_process_until_it_is_long_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let (first, second) = (CameraId::generate(&SystemIds), CameraId::generate(&SystemIds));
        let of = |camera_id| Key { tenant_id: TenantId::DEFAULT, camera_id };
        let triggers = Triggers::load(path.clone());
        triggers.add(&[trigger(first, 0, true), trigger(second, 0, false)], at(0)).unwrap();
        triggers.add(&[trigger(first, 12, true)], at(12)).unwrap();
        let again = Triggers::load(path.clone());
        assert_eq!(again.of(of(first)).around(at(0)).unwrap().until, at(22));
        assert!(again.of(of(second)).is_empty(), "it is only told");
        // Asked again, it changes nothing; later it is forgotten.
        again.add(&[trigger(first, 12, true)], at(13)).unwrap();
        assert_eq!(again.of(of(first)), triggers.of(of(first)));
        again.add(&[trigger(second, 700, true)], at(700)).unwrap();
        assert!(again.of(of(first)).is_empty() && !again.of(of(second)).is_empty());
        std::fs::write(&path, "{").unwrap();
        assert!(Triggers::load(path).of(of(second)).is_empty());
    }

    #[test]
    fn what_is_no_event_is_refused_with_the_reason() {
        assert!(understood(b"{}").unwrap_err().contains("not an event"));
        let good = trigger(CameraId::generate(&SystemIds), 0, true);
        let json = |trigger: &Trigger| serde_json::to_vec(trigger).unwrap();
        assert_eq!(understood(&json(&good)), Ok(good.clone()));
        let fault = understood(&json(&Trigger { until: at(9_000), ..good })).unwrap_err();
        assert!(fault.contains("630 s"), "{fault}");
    }
}
