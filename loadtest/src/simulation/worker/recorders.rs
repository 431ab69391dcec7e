//! What a worker does with its cameras: dials, records, gives up, as the real diff says.

use std::collections::BTreeMap;
use std::time::Duration;

use longwatch_events::fact::{Cause, Codec, Fact, FirstKeyframeDurable, Interrupted, Started};
use longwatch_events::position::Epoch;
use longwatch_events::time::Timestamp;
use longwatch_worker::agent::desired::DesiredSet;
use longwatch_worker::lease::State as Held;
use longwatch_worker::plan::{self, Action, Key, Version};

use super::{Standing, Worker};
use crate::simulation::audit::Audit;
use crate::simulation::cameras::Cameras;
use crate::simulation::coverage::Seen;
use crate::simulation::env::Env;
use crate::simulation::happening::Alarm;

/// The first keyframe comes after this, in milliseconds.
const KEYFRAME_MS: (i64, i64) = (100, 3_000);
/// A camera that cannot be reached is dialled again after this, at first and at most, in milliseconds.
const AGAIN_MS: (i64, i64) = (1_000, 8_000);
/// A camera closes a connection that nobody reads from.
const CAMERA_PATIENCE_MS: i64 = 5_000;

/// The recording of one camera.
pub(in crate::simulation) struct Recorder {
    version: Version,
    single_session: bool,
    phase: Phase,
    /// By which an alarm of an earlier attempt is recognised.
    dial: u32,
    failures: u32,
    /// What was said of it last, if it is not recorded.
    told: Option<Cause>,
    /// When it last began or ended to be in its phase.
    since: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Waits for the lease.
    Held,
    /// Waits for a keyframe.
    Dialing,
    Recording,
    /// Waits to dial again.
    Waiting,
}

impl Recorder {
    pub(super) fn is_recording(&self) -> bool {
        self.phase == Phase::Recording
    }
}

impl Worker {
    /// Does what leads from what runs to the set.
    pub(super) fn record(&mut self, env: &mut Env, audit: &mut Audit, set: &DesiredSet) {
        let Some(process) = &mut self.process else { return };
        let running: BTreeMap<_, _> = process.recorders.iter().map(|(key, r)| (*key, r.version)).collect();
        let wanted: BTreeMap<_, _> =
            set.cameras.iter().map(|camera| (Key::from(camera), Version::from(camera))).collect();
        let single: BTreeMap<_, _> =
            set.cameras.iter().map(|camera| (Key::from(camera), camera.single_session)).collect();
        process.wanted = plan::target(&running, &wanted);
        for action in plan::diff(&running, &wanted) {
            match action {
                Action::Start { key, version } => self.begin(env, key, version, single[&key]),
                Action::Stop { key, cause } => self.end(env, audit, key, cause),
                Action::Restart { key, version, cause } => {
                    self.end(env, audit, key, cause);
                    self.begin(env, key, version, single[&key]);
                }
            }
        }
        self.disk.broken_off.clear();
    }

    fn begin(&mut self, env: &mut Env, key: Key, version: Version, single_session: bool) {
        if let Some(at) = self.disk.broken_off.remove(&key) {
            self.interrupted(env, key, version.epoch, at, Cause::WorkerRestarted);
        }
        let Some(process) = &mut self.process else { return };
        let recorder = Recorder {
            version,
            single_session,
            phase: Phase::Held,
            dial: 0,
            failures: 0,
            told: None,
            since: env.now,
        };
        process.recorders.insert(key, recorder);
        if self.may_record(env, single_session) {
            self.dial(env, key);
        }
    }

    fn may_record(&self, env: &Env, single_session: bool) -> bool {
        let held = self.process.as_ref().map(|process| process.lease.state(Self::uptime(env)));
        !single_session || held == Some(Held::Held)
    }

    fn end(&mut self, env: &mut Env, audit: &mut Audit, key: Key, cause: Cause) {
        let Some(recorder) = self.process.as_mut().and_then(|process| process.recorders.remove(&key)) else {
            return;
        };
        if recorder.is_recording() {
            self.ends(audit, key);
            self.interrupted(env, key, recorder.version.epoch, self.wall_clock(env), cause);
        }
    }

    fn ends(&self, audit: &mut Audit, key: Key) {
        if let Some(server_id) = self.disk.server {
            audit.ends(server_id, key);
        }
    }

    pub(super) fn stop_all(&mut self, env: &mut Env, audit: &mut Audit) {
        let Some(process) = &self.process else { return };
        let all: Vec<_> = process.recorders.keys().copied().collect();
        for key in all {
            self.end(env, audit, key, Cause::Reassigned);
        }
    }

    fn interrupted(&mut self, env: &mut Env, key: Key, epoch: Epoch, at: Timestamp, cause: Cause) {
        let Key { tenant_id, camera_id } = key;
        let detail = String::new();
        self.tell(
            env,
            vec![Fact::Interrupted(Interrupted { tenant_id, camera_id, epoch, at, cause, detail })],
        );
    }

    fn dial(&mut self, env: &mut Env, key: Key) {
        let Some(process) = &mut self.process else { return };
        process.dials += 1;
        let dial = process.dials;
        let Some(recorder) = process.recorders.get_mut(&key) else { return };
        recorder.dial = dial;
        recorder.phase = Phase::Dialing;
        let millis = env.random.number(KEYFRAME_MS.0..=KEYFRAME_MS.1);
        self.set_alarm(env, millis, Alarm::Keyframe(key, dial));
    }

    /// The recorder of `key`, if it still waits for what `dial` began.
    fn recorder(&mut self, key: Key, dial: u32) -> Option<&mut Recorder> {
        let recorder = self.process.as_mut()?.recorders.get_mut(&key)?;
        (recorder.dial == dial).then_some(recorder)
    }

    pub(super) fn dial_again(&mut self, env: &mut Env, key: Key, dial: u32) {
        if self.recorder(key, dial).is_some_and(|recorder| recorder.phase == Phase::Waiting) {
            self.dial(env, key);
        }
    }

    /// A keyframe comes, if the camera can be reached. Once it is durable, the camera is recorded.
    pub(super) fn keyframe(
        &mut self,
        env: &mut Env,
        audit: &mut Audit,
        cameras: &Cameras,
        key: Key,
        dial: u32,
    ) {
        let index = self.index;
        let Some(recorder) = self.recorder(key, dial).filter(|recorder| recorder.phase == Phase::Dialing)
        else {
            return;
        };
        let (epoch, single_session) = (recorder.version.epoch, recorder.single_session);
        if !cameras.reaches(index, key) {
            return self.lost_camera(env, key, Cause::Unreachable);
        }
        recorder.phase = Phase::Recording;
        recorder.failures = 0;
        recorder.told = None;
        recorder.since = env.now;
        if !self.may_record(env, single_session) {
            return self.hold(env, audit, key);
        }
        let Some(server_id) = self.disk.server else { return };
        audit.begins(env.now, server_id, key, single_session);
        audit.keyframe(key, epoch, server_id);
        env.note(format_args!("s{index} records {} under epoch {epoch}", key.camera_id));
        let (Key { tenant_id, camera_id }, at) = (key, self.wall_clock(env));
        let started = Started {
            tenant_id,
            camera_id,
            epoch,
            at,
            video: Codec::H264,
            audio: None,
            not_recorded: Vec::new(),
        };
        let durable = FirstKeyframeDurable { tenant_id, camera_id, epoch, start: at, durable_at: at };
        self.tell(env, vec![Fact::Started(started), Fact::FirstKeyframeDurable(durable)]);
    }

    /// The camera does not answer, or not any more; it is dialled again.
    fn lost_camera(&mut self, env: &mut Env, key: Key, cause: Cause) {
        let at = self.wall_clock(env);
        let Some(recorder) = self.process.as_mut().and_then(|process| process.recorders.get_mut(&key)) else {
            return;
        };
        if recorder.is_recording() {
            recorder.since = env.now;
        }
        recorder.phase = Phase::Waiting;
        recorder.failures += 1;
        let (dial, epoch) = (recorder.dial, recorder.version.epoch);
        let is_news = recorder.told.replace(cause) != Some(cause);
        let again_ms = (AGAIN_MS.0 << recorder.failures.min(4)).min(AGAIN_MS.1);
        if is_news {
            self.interrupted(env, key, epoch, at, cause);
        }
        let millis = env.random.number(AGAIN_MS.0..=again_ms);
        self.set_alarm(env, millis, Alarm::Dial(key, dial));
    }

    /// The camera became unreachable from here.
    pub(in crate::simulation) fn camera_cut(&mut self, env: &mut Env, audit: &mut Audit, key: Key) {
        let recorder = self.process.as_ref().and_then(|process| process.recorders.get(&key));
        if recorder.is_some_and(Recorder::is_recording) && self.paused.is_none() {
            self.ends(audit, key);
            self.lost_camera(env, key, Cause::Unreachable);
        }
    }

    /// Gives a camera up that serves one client, because the lease is over.
    fn hold(&mut self, env: &mut Env, audit: &mut Audit, key: Key) {
        let at = self.wall_clock(env);
        let Some(recorder) = self.process.as_mut().and_then(|process| process.recorders.get_mut(&key)) else {
            return;
        };
        let (was_recording, epoch) = (recorder.is_recording(), recorder.version.epoch);
        recorder.phase = Phase::Held;
        recorder.since = env.now;
        if was_recording {
            env.see(Seen::LeaseExpired);
            self.ends(audit, key);
            self.interrupted(env, key, epoch, at, Cause::LeaseExpired);
        }
    }

    /// Looks whether the lease is held: cameras that serve one client follow it.
    pub(super) fn look_at_lease(&mut self, env: &mut Env, audit: &mut Audit) {
        let now = Self::uptime(env);
        let Some(process) = &self.process else { return };
        let is_held = process.lease.state(now) == Held::Held;
        let (ends_at, look_due) = (process.lease.ends_at(), process.lease.look_due());
        let differs =
            |recorder: &Recorder| recorder.single_session && (recorder.phase == Phase::Held) == is_held;
        let changed: Vec<_> =
            process.recorders.iter().filter(|(_, recorder)| differs(recorder)).map(|(key, _)| *key).collect();
        let has_single = process.recorders.values().any(|recorder| recorder.single_session);
        for key in changed {
            if is_held {
                self.dial(env, key);
            } else {
                self.hold(env, audit, key);
            }
        }
        let in_millis =
            |at: Duration| i64::try_from(at.saturating_sub(now).as_millis()).unwrap_or(i64::MAX) + 1;
        if has_single && let Some(end) = ends_at.filter(|end| *end > now) {
            self.set_alarm(env, in_millis(end), Alarm::LeaseEnds);
        }
        if has_single && let Some(due) = look_due {
            self.set_alarm(env, in_millis(due), Alarm::LeaseLook);
        }
    }

    pub(super) fn look_for_lease(&mut self, env: &mut Env) {
        let is_due = self.process.as_ref().is_some_and(|process| process.lease.look_due().is_some());
        if is_due {
            self.look_soon(env);
        }
    }

    /// A look that began then has found all there was.
    pub(super) fn looked(&mut self, env: &mut Env, audit: &mut Audit, begun_at: Timestamp) {
        let begun_at = u64::try_from(begun_at.micros_since(env.start)).unwrap_or(0);
        if let Some(process) = &mut self.process {
            process.lease.looked(Duration::from_micros(begun_at));
        }
        self.look_at_lease(env, audit);
    }

    /// The process goes on after so many milliseconds: cameras have closed what nobody read from.
    pub(super) fn recorders_go_on(&mut self, env: &mut Env, audit: &mut Audit, paused_ms: i64) {
        let Some(process) = &self.process else { return };
        let recording: Vec<_> = process
            .recorders
            .iter()
            .filter(|(_, recorder)| recorder.is_recording())
            .map(|(key, recorder)| (*key, recorder.single_session))
            .collect();
        for (key, single_session) in recording {
            if paused_ms > CAMERA_PATIENCE_MS {
                self.lost_camera(env, key, Cause::Closed);
            } else {
                let Some(server_id) = self.disk.server else { return };
                audit.begins(env.now, server_id, key, single_session);
            }
        }
    }

    /// Whether it does what it was told last, as far as it can: what it does not do, and why that is wrong.
    pub(in crate::simulation) fn neglected(&self, env: &Env, cameras: &Cameras) -> Option<String> {
        /// Dialling a camera that can be reached takes no longer, in milliseconds.
        const PATIENCE_MS: i64 = AGAIN_MS.1 + 2 * KEYFRAME_MS.1;
        let process = self.process.as_ref().filter(|_| self.paused.is_none())?;
        if process.standing == Standing::Detached {
            return None;
        }
        let wrong = process.wanted.keys().find_map(|key| {
            let Some(recorder) = process.recorders.get(key) else {
                return Some((*key, "is not recorded at all"));
            };
            let could_since = recorder.since.max(cameras.changed_at(*key)).max(self.awake_since);
            let waits_ms = env.now.millis_since(could_since);
            let is_late = waits_ms > PATIENCE_MS && cameras.reaches(self.index, *key);
            let is_off = matches!(recorder.phase, Phase::Dialing | Phase::Waiting);
            (is_late && is_off && !recorder.single_session).then_some((*key, "is not recorded, but could be"))
        });
        wrong.map(|(key, why)| format!("s{}: camera {} {why}", self.index, key.camera_id))
    }

    /// What it really records.
    pub(in crate::simulation) fn recorded(&self) -> BTreeMap<Key, Epoch> {
        let recorders = self.process.iter().flat_map(|process| &process.recorders);
        recorders.filter(|(_, r)| r.is_recording()).map(|(key, r)| (*key, r.version.epoch)).collect()
    }
}
