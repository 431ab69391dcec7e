//! The backlog on a real nats-server: what a scaler reads there is what waits, whatever happened before.

#[path = "common/nats.rs"]
mod nats;

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use longwatch_events::id::{CameraId, EventId};
use longwatch_events::log::jetstream::{JetStreamLog, Settings, connect};
use longwatch_events::log::{Backlog, Entry, Log};
use longwatch_events::subject::{self, LogStream};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use nats::NatsServer;

const DEADLINE: Duration = Duration::from_secs(30);

struct System {
    nats: NatsServer,
    client: async_nats::Client,
    log: JetStreamLog,
    next_id: u128,
}

impl System {
    async fn start(nats: NatsServer) -> Self {
        let client = connect(&nats.url(), None, "backlog").await.expect("a client");
        let log = JetStreamLog::new(client.clone());
        log.ensure_streams(Settings::default()).await.expect("streams");
        Self { nats, client, log, next_id: 0 }
    }

    /// Puts these cameras there, many at a time.
    async fn put(&mut self, cameras: impl Iterator<Item = u128>) {
        let first = self.next_id;
        let entries: Vec<_> = (first..).zip(cameras).map(|(id, camera)| entry(id, camera)).collect();
        self.next_id += entries.len() as u128;
        let appended = stream::iter(entries).map(|entry| self.log.append(entry)).buffer_unordered(500);
        appended.try_for_each(|_| std::future::ready(Ok(()))).await.expect("appended");
    }

    async fn remove(&self, cameras: impl Iterator<Item = u128>) {
        let removed = stream::iter(cameras).map(|n| self.log.remove(camera(n), 0)).buffer_unordered(20);
        removed.try_collect::<()>().await.expect("removed");
    }

    /// As a scaler asks: the plain API, no client of ours.
    async fn read_by_scaler(&self) -> u64 {
        // The connection may still be lost from a kill.
        let deadline = Instant::now() + DEADLINE;
        let reply = loop {
            match self.client.request("$JS.API.CONSUMER.INFO.BACKLOG.backlog", "".into()).await {
                Ok(reply) => break reply,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
        };
        let info: serde_json::Value = serde_json::from_slice(&reply.payload).expect("JSON");
        assert_eq!((&info["num_ack_pending"], &info["delivered"]["consumer_seq"]), (&0.into(), &0.into()));
        info["num_pending"].as_u64().unwrap_or_else(|| panic!("no number in {info}"))
    }

    /// Waits until this many wait, as a scaler sees it, as we see it, and as the names are.
    async fn until_pending(&self, expected: &BTreeSet<(CameraId, u8)>) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let found = self.read_by_scaler().await;
            if found == expected.len() as u64 {
                break;
            }
            assert!(Instant::now() < deadline, "{found} are pending, but {} wait", expected.len());
            sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(self.log.pending().await.expect("an answer"), expected.len() as u64);
        assert!(self.log.list().await.expect("an answer") == *expected);
    }
}

fn camera(n: u128) -> CameraId {
    CameraId::from_uuid(Uuid::from_u128(n))
}

fn set(cameras: impl Iterator<Item = u128>) -> BTreeSet<(CameraId, u8)> {
    cameras.map(|n| (camera(n), 0)).collect()
}

fn entry(id: u128, n: u128) -> Entry {
    Entry {
        stream: LogStream::Backlog,
        subject: subject::backlog(camera(n), 0),
        id: EventId::from_uuid(Uuid::from_u128(id)),
        payload: Bytes::from(format!("event {id}")),
        expected_last: None,
        connection: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scaler_reads_what_waits_also_after_restarts() {
    let mut system = System::start(NatsServer::start().await).await;
    system.until_pending(&set(0..0)).await;

    system.put(0..300).await;
    system.until_pending(&set(0..300)).await;

    // From the front, from the middle, all that is there of one stretch, and what is not there.
    system.remove((0..20).chain(100..200).chain((200..300).step_by(3)).chain(900..910)).await;
    let left = || (20..100).chain((200..300).filter(|n| (n - 200) % 3 != 0));
    system.until_pending(&set(left())).await;

    // Put again, some of them twice.
    system.put((50..100).chain(80..120)).await;
    let waiting = || set(left().chain(100..120));
    system.until_pending(&waiting()).await;

    for kill in 1..=2 {
        system.nats.kill();
        system.nats.restart().await;
        system.until_pending(&waiting()).await;
        // A control replica starts.
        system.log.ensure_streams(Settings::default()).await.expect("once more");
        system.until_pending(&waiting()).await;
        system.put(1_000 * kill..1_000 * kill + 50).await;
        system.remove(1_000 * kill..1_000 * kill + 50).await;
        system.until_pending(&waiting()).await;
    }

    system.remove(0..300).await;
    system.until_pending(&set(0..0)).await;
    system.put(7..8).await;
    system.until_pending(&set(7..8)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_cameras_can_wait() {
    // The server tells of 100,000 subjects at a time.
    let mut system = System::start(NatsServer::start_unsynced().await).await;
    system.put(0..100_100).await;
    system.until_pending(&set(0..100_100)).await;
    system.remove(0..500).await;
    system.put(99_600..100_600).await;
    system.until_pending(&set(500..100_600)).await;
}

#[tokio::test]
async fn what_is_no_cameras_is_not_overlooked() {
    let system = System::start(NatsServer::start().await).await;
    let context = async_nats::jetstream::new(system.client.clone());
    let publish = context.publish("lw.backlog.camera.stranger", "".into()).await.expect("sent");
    publish.await.expect("stored");

    let refused = system.log.list().await.expect_err("a stranger");

    assert!(refused.to_string().contains("`lw.backlog.camera.stranger`"), "{refused}");
}
