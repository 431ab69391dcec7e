//! A camera's task that records what a source gives, by a clock that the test sets, and all that it says.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use longwatch_events::fact::{Cause, Fact, FirstKeyframeDurable, Gap, Interrupted, SegmentStored};
use longwatch_events::id::{CameraId, ServerId, SystemIds, TenantId};
use longwatch_events::position::Epoch;
use longwatch_events::time::{ManualClock, Timestamp};
use longwatch_worker::archive::Archive;
use longwatch_worker::camera::{self, Break, CameraTask, Hold, Identity, Settings, Stats, Stopped};
use longwatch_worker::dials::Dials;
use longwatch_worker::rotation::Lengths;
use longwatch_worker::source::Source;
use longwatch_worker::tick::Ticker;
use longwatch_worker::wish::Wish;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::probe;

pub(crate) struct Rig {
    pub(crate) wish: watch::Sender<Wish>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) stats: Arc<Stats>,
    cancel: CancellationToken,
    task: JoinHandle<Stopped>,
    facts: UnboundedReceiver<Fact>,
}

impl Rig {
    /// Records to `root` from `source`, by a clock that stands at `now`.
    pub(crate) fn start(
        root: &Path,
        source: impl Source,
        wish: Wish,
        now: Timestamp,
        resume: Option<Break>,
    ) -> Self {
        let (sender, facts) = mpsc::unbounded_channel();
        let (stats, cancel) = (Arc::new(Stats::default()), CancellationToken::new());
        let clock = Arc::new(ManualClock::starting_at(now));
        let (wish, wish_out) = watch::channel(wish);
        let task = tokio::spawn(camera::run(CameraTask {
            identity: Identity {
                tenant_id: TenantId::DEFAULT,
                camera_id: CameraId::generate(&SystemIds),
                epoch: Epoch(7),
                server_id: ServerId::generate(&SystemIds),
            },
            source,
            settings: Settings {
                lengths: Lengths { segment_ms: 60_000, fragment_ms: 500, ..Lengths::default() },
                ..Settings::default()
            },
            archive: Archive::new(root.into(), 2).unwrap(),
            facts: sender,
            clock: Arc::clone(&clock) as _,
            stats: Arc::clone(&stats),
            cancel: cancel.clone(),
            hold: Hold::always(),
            wish: wish_out,
            ticker: Ticker::none(),
            dials: (Dials::new(1), 0),
            resume,
        }));
        Self { wish, clock, stats, cancel, task, facts }
    }

    /// What it says next.
    pub(crate) async fn next(&mut self) -> Fact {
        tokio::time::timeout(Duration::from_secs(10), self.facts.recv())
            .await
            .expect("a fact in time")
            .unwrap()
    }

    pub(crate) async fn started(&mut self) {
        let told = self.next().await;
        assert!(matches!(told, Fact::Started(_)), "{told:?}");
    }

    pub(crate) async fn interrupted(&mut self) -> (Timestamp, Cause) {
        let fact = self.next().await;
        let Fact::Interrupted(Interrupted { at, cause, .. }) = fact else { panic!("{fact:?}") };
        (at, cause)
    }

    pub(crate) async fn begun(&mut self) -> Timestamp {
        let fact = self.next().await;
        let Fact::FirstKeyframeDurable(FirstKeyframeDurable { start, .. }) = fact else { panic!("{fact:?}") };
        start
    }

    pub(crate) async fn gap(&mut self) -> (Timestamp, Timestamp, Cause) {
        let fact = self.next().await;
        let Fact::Gap(Gap { start, end, cause, .. }) = fact else { panic!("{fact:?}") };
        (start, end, cause)
    }

    pub(crate) async fn stored(&mut self) -> SegmentStored {
        let fact = self.next().await;
        let Fact::SegmentStored(stored) = fact else { panic!("{fact:?}") };
        stored
    }

    pub(crate) async fn stop(self) -> Stopped {
        self.cancel.cancel();
        self.task.await.unwrap()
    }
}

/// How many pictures a segment has.
pub(crate) fn pictures(root: &Path, stored: &SegmentStored) -> usize {
    let probed = probe(&root.join(&stored.key));
    let video = probed["packets"].as_array().unwrap().iter().filter(|packet| packet["codec_type"] == "video");
    video.count()
}
