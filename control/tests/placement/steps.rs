//! What may happen to a system, in any order: indices pick one of the servers or cameras there are.

use longwatch_control::decide::command::{Command, Refusal};
use longwatch_events::event::DetachedCameras;
use longwatch_events::id::{CopyKey, ServerId, TenantId};
use longwatch_events::policy::{Failback, Mode, Moves, Policy, Rebalance};
use longwatch_events::settings::{CameraSettings, Capacity, Failover, Labels, Priority, RecordingMode, ZONE};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use uuid::Uuid;

use crate::world::{ServerSpec, TENANT, World, ranked};

pub(crate) const OTHER_TENANT: TenantId = TenantId::from_uuid(Uuid::from_u128(u128::MAX));

#[derive(Debug, Clone)]
pub(crate) enum Step {
    AddServer(ServerSpec),
    ChangeServer(Index, ServerSpec),
    DetachServer(Index, DetachedCameras),
    LoseServer(Index),
    ReturnServer(Index),
    MeasureDisk(Index, u8),
    StartDrain(Index),
    StopDrain(Index),
    FailBack(Index),
    AddCamera(bool, Wish),
    ChangeCamera(Index, Wish),
    DeleteCamera(Index),
    MoveCamera(Index, u8, Index),
    ChangePolicy(Policy),
    Report(Index),
    Pass(i64),
    Plan,
}

/// What a camera is to be.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    priority: Priority,
    bitrate_bps: Option<u64>,
    mode: RecordingMode,
    prefers: Option<Index>,
    copies: u8,
    zone: Option<&'static str>,
    needs: bool,
    single_session: bool,
}

impl World {
    pub(crate) fn with_two_tenants() -> Self {
        let mut world = Self::new();
        world.add_tenant(OTHER_TENANT);
        world
    }

    fn any_server(&self, index: &Index) -> Option<ServerId> {
        let servers: Vec<_> = self.state.servers().map(|(id, _)| id).collect();
        (!servers.is_empty()).then(|| *index.get(&servers))
    }

    fn any_camera(&self, index: &Index) -> Option<CopyKey> {
        let cameras = self.state.cameras().map(|(tenant_id, camera_id, _)| (tenant_id, camera_id));
        let cameras: Vec<_> = cameras.collect();
        let &(tenant_id, camera_id) = (!cameras.is_empty()).then(|| index.get(&cameras))?;
        Some(CopyKey { tenant_id, camera_id, copy: 0 })
    }

    fn settings(&self, wish: &Wish) -> CameraSettings {
        let preferred = wish.prefers.as_ref().and_then(|index| self.any_server(index));
        let is_there = |id: &ServerId| self.state.server(*id).is_some_and(|server| !server.is_detached());
        let labels = |key: &str, value: Option<&str>| -> Labels {
            value.map(|value| (key.to_owned(), value.to_owned())).into_iter().collect()
        };
        let mut settings = ranked(wish.priority);
        settings.labels = labels(ZONE, wish.zone);
        settings.recording.mode = wish.mode;
        settings.preferred_server_id = preferred.filter(is_there);
        settings.copies = wish.copies;
        settings.expected_bitrate_bps = wish.bitrate_bps;
        settings.server_labels = labels("disk", wish.needs.then_some("ssd"));
        settings.single_session = wish.single_session;
        settings
    }

    /// What cannot be at the moment does not happen.
    pub(crate) fn step(&mut self, step: &Step) {
        match step {
            Step::AddServer(spec) => {
                self.add_server(spec.clone());
            }
            Step::AddCamera(is_of_other, wish) => {
                let settings = self.settings(wish);
                self.add_camera_of(if *is_of_other { OTHER_TENANT } else { TENANT }, settings);
            }
            Step::ChangePolicy(policy) => self.set_policy(|now| *now = *policy),
            Step::Report(index) => {
                let moving: Vec<_> = self.state.index().moving().collect();
                if !moving.is_empty() {
                    self.report(*index.get(&moving));
                }
            }
            Step::Pass(seconds) => self.pass(*seconds),
            // Whoever steps through a history decides what is checked of a plan.
            Step::Plan => {}
            Step::ChangeCamera(index, _) | Step::DeleteCamera(index) | Step::MoveCamera(index, ..) => {
                if let Some(key) = self.any_camera(index) {
                    self.step_of_camera(key, step);
                }
            }
            Step::ChangeServer(index, _)
            | Step::DetachServer(index, _)
            | Step::LoseServer(index)
            | Step::ReturnServer(index)
            | Step::MeasureDisk(index, _)
            | Step::StartDrain(index)
            | Step::StopDrain(index)
            | Step::FailBack(index) => {
                let there = self.any_server(index);
                let is_there = |id: &ServerId| self.state.server(*id).is_some_and(|server| server.is_ours());
                if let Some(server_id) = there.filter(is_there) {
                    self.step_of_server(server_id, step);
                }
            }
        }
    }

    fn step_of_camera(&mut self, key: CopyKey, step: &Step) {
        let CopyKey { tenant_id, camera_id, .. } = key;
        let expected = self.camera(key).version;
        match step {
            Step::ChangeCamera(_, wish) => {
                let settings = self.settings(wish);
                self.change_camera(key, |now| *now = settings);
            }
            Step::DeleteCamera(_) => {
                self.command(Command::DeleteCamera { tenant_id, camera_id, expected }).unwrap();
            }
            Step::MoveCamera(_, copy, to) => {
                if let Some(server_id) = self.any_server(to) {
                    let _refused_or_not = self.ask_for_move(CopyKey { copy: *copy, ..key }, server_id);
                }
            }
            _ => unreachable!("not a step of a camera"),
        }
    }

    fn step_of_server(&mut self, server_id: ServerId, step: &Step) {
        let is_lost = self.state.server(server_id).unwrap().lost.is_some();
        match step {
            Step::ChangeServer(_, ServerSpec { labels, capacity, failover }) => {
                let (labels, capacity, failover) = (labels.clone(), *capacity, *failover);
                self.change_server(server_id, |now| {
                    (now.labels, now.capacity, now.failover) = (labels, capacity, failover);
                });
            }
            Step::DetachServer(_, cameras) => {
                let expected = self.version(server_id);
                let detach = |cameras| Command::DetachServer { server_id, expected, cameras };
                // With cameras that others record it may not be let go.
                match self.command(detach(*cameras)) {
                    Err(Refusal::RecordedElsewhere { .. }) => {
                        self.command(detach(DetachedCameras::Keep)).unwrap();
                    }
                    other => other.unwrap(),
                }
            }
            Step::LoseServer(_) if !is_lost => self.lose(server_id),
            Step::ReturnServer(_) if is_lost => self.bring_back(server_id),
            Step::LoseServer(_) | Step::ReturnServer(_) => {}
            Step::MeasureDisk(_, percent) => self.measure_disk(server_id, *percent),
            Step::StartDrain(_) => self.start_drain(server_id),
            Step::StopDrain(_) => self.stop_drain(server_id),
            Step::FailBack(_) => self.ask_for_failback(server_id),
            _ => unreachable!("not a step of a server"),
        }
    }
}

fn spec() -> impl Strategy<Value = ServerSpec> {
    let max_cameras = prop_oneof![1 => Just(0_u32), 9 => 1_u32..9];
    let capacity = (max_cameras, prop::option::weighted(0.3, 1_u64..30));
    let failover = (prop::bool::weighted(0.8), 0_u32..9);
    let zone = select(vec![None, Some("north"), Some("south")]);
    (capacity, failover, zone, any::<bool>()).prop_map(|(capacity, failover, zone, has_ssd)| {
        let (max_cameras, max_bitrate_bps) = capacity;
        let (enabled, takeover_limit) = failover;
        let zone = zone.map(|zone| (ZONE, zone));
        let labels = zone.into_iter().chain(has_ssd.then_some(("disk", "ssd"))).collect();
        ServerSpec {
            labels,
            capacity: Capacity { max_cameras, max_bitrate_bps },
            failover: Failover { enabled, takeover_limit },
        }
    })
}

fn wish() -> impl Strategy<Value = Wish> {
    let priority = select(vec![Priority::High, Priority::Medium, Priority::Low, Priority::Never]);
    let mode = prop_oneof![19 => Just(RecordingMode::Continuous), 1 => Just(RecordingMode::Off)];
    let copies = prop_oneof![4 => Just(1_u8), 2 => Just(2), 1 => Just(3)];
    let zone = select(vec![None, Some("north"), Some("south")]);
    let rest = (prop::bool::weighted(0.15), prop::bool::weighted(0.15));
    let prefers = prop::option::weighted(0.3, any::<Index>());
    (priority, prop::option::of(1_u64..8), mode, prefers, copies, zone, rest).prop_map(
        |(priority, bitrate_bps, mode, prefers, copies, zone, (needs, single_session))| Wish {
            priority,
            bitrate_bps,
            mode,
            prefers,
            copies,
            zone,
            needs,
            single_session,
        },
    )
}

fn policy() -> impl Strategy<Value = Policy> {
    let mode = || prop_oneof![3 => Just(Mode::Automatic), 1 => Just(Mode::Manual)];
    let failback = (mode(), 0_u32..40).prop_map(|(mode, stable_s)| Failback { mode, stable_s });
    // Never 0: a copy that could be sent on in the moment it came would be.
    let rebalance = (mode(), 0_u8..60, 1_u32..40).prop_map(|(mode, threshold_percent, stable_s)| Rebalance {
        mode,
        threshold_percent,
        stable_s,
    });
    let moves = (0_u32..5, 0_u32..20, 1_u32..60).prop_map(|(at_once, timeout_s, retry_after_s)| Moves {
        at_once,
        timeout_s,
        retry_after_s,
    });
    (failback, rebalance, moves, any::<bool>(), 0_u8..10).prop_map(
        |(failback, rebalance, moves, preempt_low, min_disk_free_percent)| Policy {
            failback,
            rebalance,
            moves,
            preempt_low,
            min_disk_free_percent,
            ..Policy::default()
        },
    )
}

/// Any one of them.
fn step() -> impl Strategy<Value = Step> {
    let index = || any::<Index>();
    let detached = select(vec![DetachedCameras::Keep, DetachedCameras::Remove]);
    prop_oneof![
        1 => spec().prop_map(Step::AddServer),
        3 => (index(), spec()).prop_map(|(index, spec)| Step::ChangeServer(index, spec)),
        1 => (index(), detached).prop_map(|(index, cameras)| Step::DetachServer(index, cameras)),
        4 => index().prop_map(Step::LoseServer),
        6 => index().prop_map(Step::ReturnServer),
        1 => (index(), 0_u8..20).prop_map(|(index, percent)| Step::MeasureDisk(index, percent)),
        3 => index().prop_map(Step::StartDrain),
        3 => index().prop_map(Step::StopDrain),
        2 => index().prop_map(Step::FailBack),
        3 => (any::<bool>(), wish()).prop_map(|(is_of_other, wish)| Step::AddCamera(is_of_other, wish)),
        4 => (index(), wish()).prop_map(|(index, wish)| Step::ChangeCamera(index, wish)),
        1 => index().prop_map(Step::DeleteCamera),
        6 => (index(), 0_u8..3, index()).prop_map(|(index, copy, to)| Step::MoveCamera(index, copy, to)),
        2 => policy().prop_map(Step::ChangePolicy),
        12 => index().prop_map(Step::Report),
        12 => (1_i64..90).prop_map(Step::Pass),
        30 => Just(Step::Plan),
    ]
}

/// A system with servers and cameras, planned, and what happens to it then.
pub(crate) fn history(most_steps: usize) -> impl Strategy<Value = Vec<Step>> {
    let servers = prop::collection::vec(spec().prop_map(Step::AddServer), 1..7);
    let camera = (any::<bool>(), wish()).prop_map(|(is_of_other, wish)| Step::AddCamera(is_of_other, wish));
    let cameras = prop::collection::vec(camera, 1..20);
    let steps = prop::collection::vec(step(), 1..most_steps);
    (servers, cameras, steps).prop_map(|(servers, cameras, steps)| {
        servers.into_iter().chain(cameras).chain([Step::Plan]).chain(steps).collect()
    })
}
