//! The cameras' tasks: starts and ends them as [`crate::plan`] says, and starts one again that failed by a bug.
//!
//! Invariant: a camera has at most one task at a time. What a task leaves open (a break in the recording) the next one
//! of the same camera ends, so that no gap goes untold while this server is the one that records.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use longwatch_events::assignment::AssignedCamera;
use longwatch_events::fact::{Cause, Fact, Interrupted};
use longwatch_events::id::ServerId;
use longwatch_events::position::Epoch;
use longwatch_events::sealed::Base64Bytes;
use longwatch_events::time::Clock;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::told::Told;
use crate::archive::Archive;
use crate::camera::{self, Break, CameraState, CameraTask, Settings, Stats, Stopped};
use crate::identity::Identity;
use crate::plan::{self, Action, Key, Version};
use crate::retry::Retry;
use crate::source::address::AddressPolicy;
use crate::source::rtsp::{RtspSource, Timeouts};

/// Before a task that failed by a bug is started again, at first and at most.
const AFTER_BUG: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// What all cameras' tasks share.
#[derive(Clone)]
pub(super) struct Means {
    /// Where video goes.
    pub(super) archive: Archive,
    /// Where facts go.
    pub(super) facts: UnboundedSender<Fact>,
    /// Hears of what no fact will tell.
    pub(super) told: Arc<Told>,
    /// Tells the time.
    pub(super) clock: Arc<dyn Clock>,
    /// How cameras are recorded.
    pub(super) settings: Settings,
    /// Which addresses cameras may have.
    pub(super) policy: AddressPolicy,
}

/// All cameras of this server.
pub(super) struct Recorders {
    means: Means,
    cameras: BTreeMap<Key, Camera>,
    tasks: JoinSet<Stopped>,
    camera_of: HashMap<Id, Key>,
    /// Where cameras that begin now resume; counts for the first set only, later ones were elsewhere meanwhile.
    resume: BTreeMap<Key, Break>,
    /// Media bytes of tasks that have ended.
    received_before: u64,
}

/// One camera.
struct Camera {
    /// What it is to be recorded by; `None`: it is only ending.
    order: Option<Order>,
    state: State,
    /// Of failures by a bug.
    bugs: Retry,
}

#[derive(Clone, PartialEq, Eq)]
struct Order {
    server_id: ServerId,
    version: Version,
    source: Base64Bytes,
}

enum State {
    /// Has a task.
    Running(Running),
    /// Its source cannot be opened; reported.
    Sealed,
}

struct Running {
    task: Id,
    epoch: Epoch,
    stats: Arc<Stats>,
    cancel: CancellationToken,
    /// Why it was cancelled.
    ending: Option<Cause>,
}

/// How many cameras do what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Counts {
    /// To be recorded.
    pub(super) cameras: u32,
    /// Being recorded.
    pub(super) recording: u32,
    /// Neither being recorded nor failing for the camera's own reason.
    pub(super) unsettled: u32,
}

impl Recorders {
    /// No cameras yet. The first set's cameras resume where `resume` says.
    pub(super) fn new(means: Means, resume: BTreeMap<Key, Break>) -> Self {
        Self {
            means,
            cameras: BTreeMap::new(),
            tasks: JoinSet::new(),
            camera_of: HashMap::new(),
            resume,
            received_before: 0,
        }
    }

    /// Does what leads from what runs to `desired`. Must be called within a tokio runtime.
    pub(super) fn apply(&mut self, server_id: ServerId, desired: &[AssignedCamera], identity: &Identity) {
        let running = self
            .cameras
            .iter()
            .filter_map(|(key, camera)| Some((*key, camera.order.as_ref()?.version)))
            .collect();
        let wanted = desired.iter().map(|camera| (Key::from(camera), Version::from(camera))).collect();
        let sources: BTreeMap<Key, &Base64Bytes> =
            desired.iter().map(|camera| (Key::from(camera), &camera.source)).collect();
        let order = |key: &Key, version| Order { server_id, version, source: sources[key].clone() };
        for action in plan::diff(&running, &wanted) {
            match action {
                Action::Stop { key, cause } => self.stop(key, cause),
                Action::Start { key, version } => self.begin(key, order(&key, version), None, identity),
                Action::Restart { key, version, cause } => {
                    self.begin(key, order(&key, version), Some(cause), identity);
                }
            }
        }
        self.open_again(server_id, &sources, identity);
        self.resume.clear();
    }

    /// Tries cameras whose source could not be opened once more, if it was sealed anew.
    fn open_again(
        &mut self,
        server_id: ServerId,
        sources: &BTreeMap<Key, &Base64Bytes>,
        identity: &Identity,
    ) {
        let resealed = |(key, camera): (&Key, &Camera)| {
            let (State::Sealed, Some(order)) = (&camera.state, &camera.order) else { return None };
            let source = sources.get(key).filter(|source| ***source != order.source)?;
            Some((*key, Order { server_id, version: order.version, source: (*source).clone() }))
        };
        let orders: Vec<_> = self.cameras.iter().filter_map(resealed).collect();
        for (key, order) in orders {
            self.spawn(key, order, Retry::new(AFTER_BUG.0, AFTER_BUG.1), Duration::ZERO, None, identity);
        }
    }

    /// Records `key` by `order`: now, or once the task that it has has ended.
    fn begin(&mut self, key: Key, order: Order, ending: Option<Cause>, identity: &Identity) {
        match self.cameras.get_mut(&key) {
            Some(Camera { order: next, state: State::Running(running), .. }) => {
                *next = Some(order);
                running.ending = running.ending.or(ending);
                running.cancel.cancel();
            }
            Some(Camera { state: State::Sealed, .. }) | None => {
                let resume = self.resume.remove(&key);
                if let Some(open) = resume {
                    self.broke_off(key, order.version.epoch, open, "the worker was started again");
                }
                self.spawn(
                    key,
                    order,
                    Retry::new(AFTER_BUG.0, AFTER_BUG.1),
                    Duration::ZERO,
                    resume,
                    identity,
                );
            }
        }
    }

    fn stop(&mut self, key: Key, cause: Cause) {
        let Some(camera) = self.cameras.get_mut(&key) else { return };
        camera.order = None;
        match &mut camera.state {
            State::Running(running) => {
                running.ending = Some(cause);
                running.cancel.cancel();
            }
            State::Sealed => {
                self.cameras.remove(&key);
            }
        }
        tracing::info!(camera_id = %key.camera_id, "camera is not recorded here any more");
    }

    /// Starts a task after `delay`, or reports that there is nothing to start.
    fn spawn(
        &mut self,
        key: Key,
        order: Order,
        bugs: Retry,
        delay: Duration,
        resume: Option<Break>,
        identity: &Identity,
    ) {
        let state = match identity.open(&order.source.0) {
            Ok(source) => {
                let means = self.means.clone();
                let (stats, cancel) = (Arc::new(Stats::default()), CancellationToken::new());
                let source =
                    RtspSource::new(source, means.policy, Timeouts::default(), Arc::clone(&means.clock));
                let task = CameraTask {
                    identity: camera::Identity {
                        tenant_id: key.tenant_id,
                        camera_id: key.camera_id,
                        epoch: order.version.epoch,
                        server_id: order.server_id,
                    },
                    source,
                    settings: means.settings,
                    archive: means.archive,
                    facts: means.facts,
                    clock: means.clock,
                    stats: Arc::clone(&stats),
                    cancel: cancel.clone(),
                    resume,
                };
                let task = self.tasks.spawn(run_after(delay, task)).id();
                self.camera_of.insert(task, key);
                State::Running(Running { task, epoch: order.version.epoch, stats, cancel, ending: None })
            }
            Err(error) => {
                tracing::error!(camera_id = %key.camera_id, %error, "camera cannot be recorded");
                self.interrupted(key, &order, Cause::ProtocolError, error.to_string());
                State::Sealed
            }
        };
        self.cameras.insert(key, Camera { order: Some(order), state, bugs });
    }

    fn interrupted(&self, key: Key, order: &Order, cause: Cause, detail: String) {
        let Key { tenant_id, camera_id } = key;
        let (epoch, at) = (order.version.epoch, self.means.clock.now());
        self.report(Interrupted { tenant_id, camera_id, epoch, at, cause, detail });
    }

    /// Says at once that a recording broke off; its gap is told when it ends, which may be much later or elsewhere.
    fn broke_off(&self, key: Key, epoch: Epoch, open: Break, why: &str) {
        let Key { tenant_id, camera_id } = key;
        let (at, cause, detail) = (open.end, open.cause, why.to_owned());
        self.report(Interrupted { tenant_id, camera_id, epoch, at, cause, detail });
    }

    fn report(&self, interrupted: Interrupted) {
        let camera_id = interrupted.camera_id;
        if self.means.facts.send(Fact::Interrupted(interrupted)).is_err() {
            tracing::error!(%camera_id, "fact lost: nobody takes facts any more");
        }
    }

    /// The break that a task left which ended because it was told to, with the reason it was told to. Reported, unless
    /// the task had reported a break of its own.
    fn left_open(&self, key: Key, running: &Running, stopped: Stopped) -> Option<Break> {
        if !stopped.drained {
            self.means.told.lose();
        }
        let open = stopped.open_break?;
        // The task only knows that it was told to stop; why is known here.
        if open.cause != Cause::WorkerStopped {
            return Some(open);
        }
        let cause = running.ending.unwrap_or(Cause::WorkerStopped);
        let open = Break { cause, ..open };
        let why = if running.ending.is_some() {
            "not recorded here any more as it was"
        } else {
            "the worker stops"
        };
        self.broke_off(key, running.epoch, open, why);
        Some(open)
    }

    /// Waits for the next task to end, and takes note of it; never returns while there is none.
    pub(super) async fn next_ended(&mut self, identity: &Identity) {
        let Some(ended) = self.tasks.join_next_with_id().await else {
            return std::future::pending().await;
        };
        let (id, ended) = match ended {
            Ok((id, stopped)) => (id, Ok(stopped)),
            Err(error) => (error.id(), Err(error)),
        };
        let Some(key) = self.camera_of.remove(&id) else { return };
        self.ended(key, id, ended, identity);
    }

    fn ended(&mut self, key: Key, id: Id, ended: Result<Stopped, JoinError>, identity: &Identity) {
        let Some(Camera { order, state: State::Running(running), mut bugs }) = self.cameras.remove(&key)
        else {
            return;
        };
        debug_assert_eq!(running.task, id, "a camera has one task at a time");
        self.received_before += running.stats.bytes();
        let ended = ended.map(|stopped| self.left_open(key, &running, stopped));
        if ended.is_err() {
            // What it had stored last may be in no fact.
            self.means.told.lose();
        }
        let Some(order) = order else { return };
        match ended {
            Ok(resume) => {
                bugs.worked();
                self.spawn(key, order, bugs, Duration::ZERO, resume, identity);
            }
            Err(error) => {
                let delay = bugs.failed(rand::random());
                let camera_id = key.camera_id;
                tracing::error!(%camera_id, %error, again_in_ms = delay.as_millis(), "recording failed by a bug");
                self.interrupted(
                    key,
                    &order,
                    Cause::WorkerRestarted,
                    "the recording failed inside the worker".into(),
                );
                // The task is gone with what it knew; the last frame it received is the best that is left.
                let resume =
                    running.stats.last_frame_at().map(|end| Break { end, cause: Cause::WorkerRestarted });
                self.spawn(key, order, bugs, delay, resume, identity);
            }
        }
    }

    /// How many cameras do what right now.
    pub(super) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for camera in self.cameras.values().filter(|camera| camera.order.is_some()) {
            counts.cameras += 1;
            let State::Running(running) = &camera.state else { continue };
            match running.stats.state() {
                CameraState::Recording if running.ending.is_none() => counts.recording += 1,
                // The disk is this server's own affair.
                CameraState::Recording
                | CameraState::Connecting
                | CameraState::Failing(Cause::StorageError) => {
                    counts.unsettled += 1;
                }
                CameraState::Failing(_) => {}
            }
        }
        counts
    }

    /// Media bytes received since the process began.
    pub(super) fn received_bytes(&self) -> u64 {
        let running = |camera: &Camera| match &camera.state {
            State::Running(running) => running.stats.bytes(),
            State::Sealed => 0,
        };
        self.received_before + self.cameras.values().map(running).sum::<u64>()
    }

    /// Ends all recordings, because this server is not to record any more.
    pub(super) fn stop_all(&mut self, cause: Cause) {
        let keys: Vec<_> = self.cameras.keys().copied().collect();
        keys.into_iter().for_each(|key| self.stop(key, cause));
    }

    /// Ends all recordings, because the process ends; returns what is left open of each, for the next start. `None` if
    /// some tasks took longer than `limit` and were left behind.
    pub(super) async fn finish(mut self, limit: Duration) -> Option<BTreeMap<Key, Break>> {
        for camera in self.cameras.values() {
            if let State::Running(running) = &camera.state {
                running.cancel.cancel();
            }
        }
        let mut open = BTreeMap::new();
        let all = async {
            while let Some(ended) = self.tasks.join_next_with_id().await {
                let Ok((id, stopped)) = ended else {
                    self.means.told.lose();
                    continue;
                };
                let Some(key) = self.camera_of.get(&id).copied() else { continue };
                let Some(Camera { order, state: State::Running(running), .. }) = self.cameras.get(&key)
                else {
                    continue;
                };
                if let (Some(left), Some(_)) = (self.left_open(key, running, stopped), order) {
                    open.insert(key, left);
                }
            }
        };
        if tokio::time::timeout(limit, all).await.is_err() {
            tracing::error!(
                cameras = self.tasks.len(),
                "recordings did not end in time; the next start repairs them"
            );
            self.means.told.lose();
            self.tasks.abort_all();
            return None;
        }
        Some(open)
    }
}

async fn run_after(delay: Duration, task: CameraTask<RtspSource>) -> Stopped {
    let cancelled = task.cancel.clone();
    tokio::select! {
        biased;
        () = cancelled.cancelled() => return Stopped { stored_until: None, open_break: task.resume, drained: true },
        () = tokio::time::sleep(delay) => {}
    }
    camera::run(task).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Home;
    use crypto_box::aead::OsRng;
    use longwatch_events::assignment::SourceSecret;
    use longwatch_events::id::{CameraId, SystemIds, TenantId};
    use longwatch_events::position::{Epoch, Position};
    use longwatch_events::time::{SystemClock, Timestamp};
    use tokio::sync::mpsc::{self, UnboundedReceiver};

    struct Given {
        _archive: tempfile::TempDir,
        identity: Identity,
        recorders: Recorders,
        facts: UnboundedReceiver<Fact>,
        server_id: ServerId,
    }

    fn given() -> Given {
        let archive = tempfile::tempdir().unwrap();
        let identity = Identity::load_or_create(&Home::take(archive.path()).unwrap()).unwrap();
        let (facts_in, facts) = mpsc::unbounded_channel();
        let means = Means {
            archive: Archive::new(archive.path().into(), 1),
            facts: facts_in,
            told: Arc::new(Told::new(archive.path().join("told"))),
            clock: Arc::new(SystemClock),
            settings: Settings::default(),
            // Loopback is not allowed: every attempt fails at once, without a connection.
            policy: AddressPolicy::default(),
        };
        let recorders = Recorders::new(means, BTreeMap::new());
        Given { _archive: archive, identity, recorders, facts, server_id: ServerId::generate(&SystemIds) }
    }

    fn camera(identity: &Identity, epoch: u64) -> AssignedCamera {
        let source = SourceSecret { url: "rtsp://127.0.0.1:1/x".into(), username: None, password: None };
        let sealed =
            crypto_box::PublicKey::from(identity.public_key().0).seal(&mut OsRng, &source.to_plaintext());
        AssignedCamera {
            tenant_id: TenantId::DEFAULT,
            camera_id: CameraId::from_uuid(TenantId::DEFAULT.as_uuid()),
            epoch: Epoch(epoch),
            settings_version: Position(1),
            source: Base64Bytes(sealed.unwrap()),
        }
    }

    fn interruption(fact: Option<Fact>) -> (Epoch, Cause) {
        let Some(Fact::Interrupted(interrupted)) = fact else { panic!("{fact:?}") };
        (interrupted.epoch, interrupted.cause)
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_is_reported_and_started_again() {
        let Given { _archive, identity, mut recorders, mut facts, server_id } = given();
        let camera = camera(&identity, 3);
        recorders.apply(server_id, std::slice::from_ref(&camera), &identity);
        assert_eq!(interruption(facts.recv().await), (Epoch(3), Cause::NotAllowed));
        // Given a task in its place that panics …
        recorders.tasks.abort_all();
        while recorders.tasks.join_next().await.is_some() {}
        recorders.camera_of.clear();
        let task = recorders.tasks.spawn(async { panic!("a bug of this test") }).id();
        recorders.camera_of.insert(task, Key::from(&camera));
        match &mut recorders.cameras.get_mut(&Key::from(&camera)).unwrap().state {
            State::Running(running) => running.task = task,
            State::Sealed => panic!("it was opened"),
        }
        // … then that is said, and the camera has a task that tries again.
        recorders.next_ended(&identity).await;
        assert_eq!(interruption(facts.recv().await), (Epoch(3), Cause::WorkerRestarted));
        assert_eq!(interruption(facts.recv().await), (Epoch(3), Cause::NotAllowed));
        assert_eq!(recorders.counts(), Counts { cameras: 1, recording: 0, unsettled: 0 });
        assert_eq!(recorders.finish(Duration::from_secs(1)).await, Some(BTreeMap::new()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_newer_order_waits_for_the_older_one_to_end() {
        let Given { _archive, identity, mut recorders, mut facts, server_id } = given();
        let end = Timestamp::from_millis(1_795_420_800_000);
        let key = Key::from(&camera(&identity, 3));
        recorders.resume.insert(key, Break { end, cause: Cause::WorkerRestarted });
        recorders.apply(server_id, &[camera(&identity, 3)], &identity);
        recorders.apply(server_id, &[camera(&identity, 5)], &identity);
        recorders.apply(server_id, &[camera(&identity, 4)], &identity);
        assert_eq!(recorders.tasks.len(), 1);
        recorders.next_ended(&identity).await;
        while interruption(facts.recv().await).0 != Epoch(5) {}
        // What the first task left open, the second leaves open still.
        let open = recorders.finish(Duration::from_secs(1)).await.unwrap();
        assert_eq!(open, BTreeMap::from([(key, Break { end, cause: Cause::WorkerRestarted })]));
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_opened_is_said_once_and_tried_again_when_sealed_anew() {
        let Given { _archive, identity, mut recorders, mut facts, server_id } = given();
        let right = camera(&identity, 3);
        let wrong = AssignedCamera { source: Base64Bytes(vec![0; 80]), ..right.clone() };
        recorders.apply(server_id, std::slice::from_ref(&wrong), &identity);
        recorders.apply(server_id, std::slice::from_ref(&wrong), &identity);
        assert_eq!(interruption(facts.recv().await), (Epoch(3), Cause::ProtocolError));
        assert!(facts.try_recv().is_err());
        assert_eq!(recorders.counts(), Counts { cameras: 1, recording: 0, unsettled: 0 });
        recorders.apply(server_id, &[right], &identity);
        assert_eq!(interruption(facts.recv().await), (Epoch(3), Cause::NotAllowed));
        recorders.stop_all(Cause::Reassigned);
        assert_eq!(recorders.counts(), Counts::default());
        recorders.next_ended(&identity).await;
        assert!(recorders.cameras.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_task_could_not_wait_for_is_remembered_as_not_told() {
        for drained in [true, false] {
            let Given { _archive, identity, mut recorders, facts: _facts, server_id } = given();
            recorders.means.told.catch_up();
            let camera = camera(&identity, 3);
            recorders.apply(server_id, std::slice::from_ref(&camera), &identity);
            // Given a task in its place whose writer did not end …
            recorders.tasks.abort_all();
            while recorders.tasks.join_next().await.is_some() {}
            recorders.camera_of.clear();
            let stopped = Stopped { stored_until: None, open_break: None, drained };
            let task = recorders.tasks.spawn(async move { stopped }).id();
            recorders.camera_of.insert(task, Key::from(&camera));
            match &mut recorders.cameras.get_mut(&Key::from(&camera)).unwrap().state {
                State::Running(running) => running.task = task,
                State::Sealed => panic!("it was opened"),
            }
            // … then a stop is not clean, although all tasks ended.
            let told = Arc::clone(&recorders.means.told);
            assert!(recorders.finish(Duration::from_secs(1)).await.is_some());
            assert_eq!(told.is_whole(), drained);
        }
    }
}
