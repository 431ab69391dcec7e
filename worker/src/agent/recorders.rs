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
use longwatch_events::settings::{CameraSettings, Priority, Recording};
use longwatch_events::time::Clock;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::told::Told;
use super::triggers::Triggers;
use crate::archive::Archive;
use crate::camera::{self, Break, CameraState, CameraTask, Hold, Settings, Stats, Stopped};
use crate::dials::Dials;
use crate::identity::Identity;
use crate::lease::Lease;
use crate::plan::{self, Action, Key, Version};
use crate::retry::Retry;
use crate::source::address::AddressPolicy;
use crate::source::rtsp::{RtspSource, Timeouts};
use crate::source::tls::Trust;
use crate::tick::{Seat, Ticks};
use crate::wish::Wish;

mod events;

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
    /// Knows what events want recorded.
    pub(super) triggers: Arc<Triggers>,
    /// Tells the time.
    pub(super) clock: Arc<dyn Clock>,
    /// How cameras are recorded.
    pub(super) settings: Settings,
    /// Which addresses cameras may have.
    pub(super) policy: AddressPolicy,
    /// Which cameras are believed within TLS.
    pub(super) trust: Trust,
    /// Where cameras wait for their turn to connect.
    pub(super) dials: Dials,
    /// Whether cameras that serve one client only may be recorded.
    pub(super) lease: watch::Receiver<Lease>,
    /// The threads that read cameras.
    pub(super) ticks: Arc<Ticks>,
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
    /// The camera serves one client only.
    single_session: bool,
    /// How late its newest video may be.
    live_latency: Duration,
    /// How early it may connect when many want to; 0 goes first.
    rank: u8,
    /// When it is recorded; `None`: always.
    recording: Option<Recording>,
}

impl Order {
    fn new(server_id: ServerId, version: Version, camera: &AssignedCamera) -> Self {
        let (source, single_session) = (camera.source.clone(), camera.single_session);
        let live_latency_ms = camera.live_latency_ms.unwrap_or(CameraSettings::DEFAULT_LIVE_LATENCY_MS);
        let live_latency = Duration::from_millis(live_latency_ms.into());
        let rank = rank(camera.priority.unwrap_or_default());
        let recording = camera.recording.clone();
        Self { server_id, version, source, single_session, live_latency, rank, recording }
    }
}

/// Who is taken over first connects first.
const fn rank(priority: Priority) -> u8 {
    match priority {
        Priority::High => 0,
        Priority::Medium => 1,
        Priority::Low => 2,
        Priority::Never => 3,
    }
}

/// When a camera is wanted recorded.
fn wish(key: Key, recording: Option<&Recording>, triggers: &Triggers) -> Wish {
    Wish::new(recording, &triggers.of(key)).unwrap_or_else(|error| {
        let camera_id = key.camera_id;
        tracing::error!(%camera_id, %error, "a schedule is not understood; the camera is recorded always");
        Wish::Always
    })
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
    /// The camera serves one client only.
    single_session: watch::Sender<bool>,
    /// When it is wanted recorded.
    wish: watch::Sender<Wish>,
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
        let assigned: BTreeMap<Key, &AssignedCamera> =
            desired.iter().map(|camera| (Key::from(camera), camera)).collect();
        let order = |key: &Key, version| Order::new(server_id, version, assigned[key]);
        for action in plan::diff(&running, &wanted) {
            match action {
                Action::Stop { key, cause } => self.stop(key, cause),
                Action::Start { key, version } => self.begin(key, order(&key, version), None, identity),
                Action::Restart { key, version, cause } => {
                    self.begin(key, order(&key, version), Some(cause), identity);
                }
            }
        }
        self.open_again(server_id, &assigned, identity);
        self.note_changes(&assigned);
        self.resume.clear();
    }

    /// Whether a camera serves others too, and when it is recorded, are no reasons to begin its recording again.
    fn note_changes(&mut self, assigned: &BTreeMap<Key, &AssignedCamera>) {
        for (key, camera) in &mut self.cameras {
            let (Some(order), Some(assigned)) = (&mut camera.order, assigned.get(key)) else { continue };
            order.single_session = assigned.single_session;
            let other_recording = order.recording != assigned.recording;
            if other_recording {
                order.recording.clone_from(&assigned.recording);
            }
            if let State::Running(running) = &camera.state {
                if other_recording {
                    let wish = wish(*key, order.recording.as_ref(), &self.means.triggers);
                    running.wish.send_replace(wish);
                }
                running.single_session.send_if_modified(|single| {
                    std::mem::replace(single, assigned.single_session) != assigned.single_session
                });
            }
        }
    }

    /// Tries cameras whose source could not be opened once more, if it was sealed anew.
    fn open_again(
        &mut self,
        server_id: ServerId,
        assigned: &BTreeMap<Key, &AssignedCamera>,
        identity: &Identity,
    ) {
        let resealed = |(key, camera): (&Key, &Camera)| {
            let (State::Sealed, Some(order)) = (&camera.state, &camera.order) else { return None };
            let assigned = assigned.get(key).filter(|assigned| assigned.source != order.source)?;
            Some((*key, Order::new(server_id, order.version, assigned)))
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
                let resume = self.resume.remove(&key).map(|Break { end, cause }| {
                    // A process that was killed while its camera was not wanted did no harm to its recording.
                    let wish = wish(key, order.recording.as_ref(), &self.means.triggers);
                    let cause = wish.cause_of_end(end, cause);
                    Break { end, cause }
                });
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
                let (single_session, single_session_out) = watch::channel(order.single_session);
                let (wish, wish_out) = watch::channel(wish(key, order.recording.as_ref(), &means.triggers));
                let source = RtspSource::new(
                    source,
                    means.policy,
                    means.trust,
                    Timeouts::default(),
                    Arc::clone(&means.clock),
                    single_session_out.clone(),
                );
                let (Seat { runtime, ticker }, taken) = means.ticks.seat(order.live_latency);
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
                    hold: Hold::new(means.lease, single_session_out),
                    wish: wish_out,
                    ticker,
                    dials: (means.dials, order.rank),
                    resume,
                };
                let recording = async move {
                    let _taken = taken;
                    run_after(delay, task).await
                };
                let task = self.tasks.spawn_on(recording, &runtime).id();
                self.camera_of.insert(task, key);
                let epoch = order.version.epoch;
                State::Running(Running { task, epoch, stats, single_session, wish, cancel, ending: None })
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
        if let (Cause::NoEvent, Some(cause)) = (open.cause, running.ending) {
            // It was connected all the same, and is not any more: whoever is to have it now may wait for that.
            let at = self.means.clock.now();
            self.broke_off(
                key,
                running.epoch,
                Break { end: at, cause },
                "not waited for events here any more",
            );
        }
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
                // The disk and the lease are this server's own affair.
                CameraState::Recording
                | CameraState::Connecting
                | CameraState::Failing(Cause::StorageError | Cause::LeaseExpired) => {
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
mod tests;
