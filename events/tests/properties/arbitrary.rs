//! Arbitrary events of every kind: any text, any number, any id.

mod worker;

use longwatch_events::envelope::Envelope;
use longwatch_events::event::{
    CameraAdded, CameraBacklogged, CameraChanged, CameraDeleted, CameraMoveRequested, ControlTicked,
    Decision, DetachedCameras, Event, Part, PlanEntry, PlanMade, PolicyChanged, ServerAdded, ServerAdopted,
    ServerChanged, ServerDetached, ServerDiskMeasured, ServerDrainStarted, ServerDrainStopped,
    ServerFailbackRequested, ServerJoined, ServerLost, ServerReturned, TenantChanged, TenantCreated,
    TenantDeleted, VersionRequired,
};
use longwatch_events::id::{BootId, CameraId, EventId, ServerId, StoreId, TenantId};
use longwatch_events::policy::{Failback, HeartbeatRetention, Liveness, Mode, Moves, Policy, Rebalance};
use longwatch_events::position::{Epoch, Position};
use longwatch_events::reason::{AbandonReason, AssignReason, FinishReason, UnplacedReason};
use longwatch_events::schedule::{Day, Schedule, TimeOfDay, Window};
use longwatch_events::sealed::{Base64Bytes, PublicKey, Sealed, WrappedKey};
use longwatch_events::settings::{
    CameraSettings, Capacity, EventRecording, Failover, Labels, Priority, Recording, RecordingMode,
    Retention, ServerSettings, Source, Transport,
};
use longwatch_events::time::Timestamp;
use longwatch_events::wire::Kind;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use uuid::Uuid;

/// Few ids, so that events meet each other; and any other id.
fn uuid() -> impl Strategy<Value = Uuid> {
    prop_oneof![3 => (0..4_u128).prop_map(Uuid::from_u128), 1 => any::<u128>().prop_map(Uuid::from_u128)]
}

fn tenant_id() -> impl Strategy<Value = TenantId> {
    uuid().prop_map(TenantId::from_uuid)
}

fn camera_id() -> impl Strategy<Value = CameraId> {
    uuid().prop_map(CameraId::from_uuid)
}

fn server_id() -> impl Strategy<Value = ServerId> {
    uuid().prop_map(ServerId::from_uuid)
}

fn store_id() -> impl Strategy<Value = StoreId> {
    uuid().prop_map(StoreId::from_uuid)
}

fn boot_id() -> impl Strategy<Value = BootId> {
    uuid().prop_map(BootId::from_uuid)
}

fn event_id() -> impl Strategy<Value = EventId> {
    uuid().prop_map(EventId::from_uuid)
}

pub(crate) fn timestamp() -> impl Strategy<Value = Timestamp> {
    prop_oneof![any::<i64>(), 0..4_000_000_000_000_000_i64].prop_map(Timestamp::from_micros)
}

fn position() -> impl Strategy<Value = Position> {
    any::<u64>().prop_map(Position)
}

fn epoch() -> impl Strategy<Value = Epoch> {
    any::<u64>().prop_map(Epoch)
}

fn text() -> impl Strategy<Value = String> {
    any::<String>()
}

fn bytes() -> impl Strategy<Value = Base64Bytes> {
    vec(any::<u8>(), 0..40).prop_map(Base64Bytes)
}

pub(crate) fn wrapped_key() -> impl Strategy<Value = WrappedKey> {
    (text(), bytes()).prop_map(|(provider, bytes)| WrappedKey { provider, bytes })
}

fn public_key() -> impl Strategy<Value = PublicKey> {
    prop_oneof![(0..4_u8).prop_map(|n| [n; 32]), any::<[u8; 32]>()].prop_map(PublicKey)
}

pub(crate) fn labels() -> impl Strategy<Value = Labels> {
    btree_map(text(), text(), 0..3).prop_map(Labels::from)
}

pub(crate) fn capacity() -> impl Strategy<Value = Capacity> {
    (any::<u32>(), option::of(any::<u64>()))
        .prop_map(|(max_cameras, max_bitrate_bps)| Capacity { max_cameras, max_bitrate_bps })
}

pub(crate) fn server_settings() -> impl Strategy<Value = ServerSettings> {
    (text(), labels(), capacity(), any::<bool>(), any::<u32>()).prop_map(
        |(name, labels, capacity, enabled, takeover_limit)| ServerSettings {
            name,
            labels,
            capacity,
            failover: Failover { enabled, takeover_limit },
        },
    )
}

fn source() -> impl Strategy<Value = Source> {
    (text(), event_id(), bytes()).prop_map(|(url, sealed_in, bytes)| Source {
        url,
        secret: Sealed { sealed_in, bytes },
        transport: Transport::Tcp,
    })
}

fn retention() -> impl Strategy<Value = Retention> {
    (option::of(any::<u32>()), option::of(any::<u64>()), option::of(any::<u32>()))
        .prop_map(|(max_days, max_bytes, min_days)| Retention { max_days, max_bytes, min_days })
}

fn priority() -> impl Strategy<Value = Priority> {
    select(vec![Priority::High, Priority::Medium, Priority::Low, Priority::Never])
}

fn window() -> impl Strategy<Value = Window> {
    (proptest::collection::vec(select(Day::ALL.to_vec()), 0..7), 0..=86_400_u32, 0..=86_400_u32).prop_map(
        |(days, from, to)| Window {
            days: days.into_iter().collect(),
            from: TimeOfDay::from_seconds(from),
            to: TimeOfDay::from_seconds(to),
        },
    )
}

/// Also with a schedule that its mode does not want, and without one that it does.
pub(crate) fn recording() -> impl Strategy<Value = Recording> {
    let modes = select(vec![
        RecordingMode::Continuous,
        RecordingMode::Off,
        RecordingMode::Schedule,
        RecordingMode::Event,
    ]);
    let schedule = (text(), proptest::collection::vec(window(), 0..4))
        .prop_map(|(time_zone, weekly)| Box::new(Schedule { time_zone, weekly }));
    let event = (any::<u32>(), any::<u32>()).prop_map(|(pre_ms, post_ms)| EventRecording { pre_ms, post_ms });
    (modes, option::of(schedule), option::of(event)).prop_map(|(mode, schedule, event)| Recording {
        mode,
        schedule,
        event,
    })
}

pub(crate) fn camera_settings() -> impl Strategy<Value = CameraSettings> {
    let placement = (
        priority(),
        option::of(server_id()),
        any::<u8>(),
        option::of(any::<u64>()),
        prop_oneof![Just(Labels::new()), labels()],
        any::<bool>(),
        option::of(any::<u16>()),
    );
    (text(), labels(), source(), recording(), retention(), placement).prop_map(
        |(name, labels, source, recording, retention, placement)| {
            let (
                failover_priority,
                preferred_server_id,
                copies,
                expected_bitrate_bps,
                server_labels,
                single_session,
                live_latency_ms,
            ) = placement;
            CameraSettings {
                name,
                labels,
                source,
                recording,
                retention,
                failover_priority,
                preferred_server_id,
                copies,
                expected_bitrate_bps,
                server_labels,
                single_session,
                live_latency_ms,
            }
        },
    )
}

fn mode() -> impl Strategy<Value = Mode> {
    select(vec![Mode::Automatic, Mode::Manual])
}

/// Any rules, also such as nobody would set.
pub(crate) fn policy() -> impl Strategy<Value = Policy> {
    let switches = (mode(), mode(), any::<bool>(), any::<u64>());
    (any::<[u32; 9]>(), any::<[u8; 4]>(), switches).prop_map(|(wide, narrow, switches)| {
        let (failback, rebalance, preempt_low, max_bytes) = switches;
        Policy {
            liveness: Liveness {
                heartbeat_interval_ms: wide[0],
                lease_ms: wide[1],
                max_heartbeats_per_s: wide[2],
                mass_silence_percent: narrow[0],
            },
            failback: Failback { mode: failback, stable_s: wide[3] },
            rebalance: Rebalance { mode: rebalance, threshold_percent: narrow[1], stable_s: wide[4] },
            moves: Moves { at_once: wide[5], timeout_s: wide[6], retry_after_s: wide[7] },
            preempt_low,
            min_disk_free_percent: narrow[2],
            headroom_percent: narrow[3],
            heartbeats: HeartbeatRetention { max_age_h: wide[8], max_bytes },
        }
    })
}

pub(crate) fn detached_cameras() -> impl Strategy<Value = DetachedCameras> {
    select(vec![DetachedCameras::Keep, DetachedCameras::Remove])
}

pub(crate) fn assign_reason() -> impl Strategy<Value = AssignReason> {
    select(vec![
        AssignReason::Preferred,
        AssignReason::LeastLoaded,
        AssignReason::Failover,
        AssignReason::Home,
        AssignReason::Failback,
        AssignReason::Drain,
        AssignReason::OverCapacity,
        AssignReason::Labels,
        AssignReason::Rebalance,
        AssignReason::Requested,
    ])
}

pub(crate) fn unplaced_reason() -> impl Strategy<Value = UnplacedReason> {
    select(vec![
        UnplacedReason::NoServer,
        UnplacedReason::NoCapacity,
        UnplacedReason::NoBitrate,
        UnplacedReason::NoTakeover,
        UnplacedReason::NoLabels,
        UnplacedReason::NoDisk,
        UnplacedReason::NoOtherServer,
        UnplacedReason::Preempted,
        UnplacedReason::Disabled,
    ])
}

pub(crate) fn finish_reason() -> impl Strategy<Value = FinishReason> {
    select(vec![
        FinishReason::FirstKeyframe,
        FinishReason::Stopped,
        FinishReason::OldLost,
        FinishReason::TimedOut,
    ])
}

pub(crate) fn abandon_reason() -> impl Strategy<Value = AbandonReason> {
    select(vec![AbandonReason::NewLost, AbandonReason::TimedOut, AbandonReason::NotWanted])
}

fn decision() -> impl Strategy<Value = Decision> {
    prop_oneof![
        (server_id(), assign_reason()).prop_map(|(server_id, reason)| Decision::Assign { server_id, reason }),
        unplaced_reason().prop_map(|reason| Decision::Unplace { reason }),
        (server_id(), assign_reason()).prop_map(|(server_id, reason)| Decision::Move { server_id, reason }),
        (epoch(), finish_reason(), option::of(position()))
            .prop_map(|(epoch, reason, evidence)| Decision::Finish { epoch, reason, evidence }),
        (epoch(), abandon_reason()).prop_map(|(epoch, reason)| Decision::Abandon { epoch, reason }),
    ]
}

fn copy() -> impl Strategy<Value = u8> {
    prop_oneof![2 => Just(0), 2 => 1..4_u8, 1 => any::<u8>()]
}

fn plan_entry() -> impl Strategy<Value = PlanEntry> {
    (tenant_id(), camera_id(), copy(), decision())
        .prop_map(|(tenant_id, camera_id, copy, decision)| PlanEntry { tenant_id, camera_id, copy, decision })
}

fn part() -> impl Strategy<Value = Part> {
    let any_part = (any::<u32>(), any::<u32>()).prop_map(|(number, of)| Part { number, of });
    prop_oneof![Just(Part::WHOLE), any_part]
}

pub(crate) fn plan() -> impl Strategy<Value = PlanMade> {
    (position(), any::<u32>(), option::of(timestamp()), part(), vec(plan_entry(), 0..8)).prop_map(
        |(basis, rules, decided_at, part, entries)| PlanMade { basis, rules, decided_at, part, entries },
    )
}

fn backlogged() -> impl Strategy<Value = CameraBacklogged> {
    (tenant_id(), camera_id(), any::<u8>(), priority(), unplaced_reason(), timestamp()).prop_map(
        |(tenant_id, camera_id, copy, priority, reason, since)| CameraBacklogged {
            tenant_id,
            camera_id,
            copy,
            priority,
            reason,
            since,
        },
    )
}

fn server_joined() -> impl Strategy<Value = ServerJoined> {
    (server_id(), text(), public_key(), labels(), capacity()).prop_map(
        |(server_id, name, public_key, labels, capacity)| ServerJoined {
            server_id,
            name,
            public_key,
            labels,
            capacity,
        },
    )
}

fn server_lost() -> impl Strategy<Value = ServerLost> {
    (server_id(), option::of(position()), timestamp(), timestamp(), any::<u32>()).prop_map(
        |(server_id, last_heartbeat, heard_at, judged_at, lease_ms)| ServerLost {
            server_id,
            last_heartbeat,
            heard_at,
            judged_at,
            lease_ms,
        },
    )
}

fn server_disk_measured() -> impl Strategy<Value = ServerDiskMeasured> {
    (server_id(), position(), any::<u8>()).prop_map(|(server_id, heartbeat, free_percent)| {
        ServerDiskMeasured { server_id, heartbeat, free_percent }
    })
}

fn camera_move_requested() -> impl Strategy<Value = CameraMoveRequested> {
    (tenant_id(), camera_id(), copy(), server_id()).prop_map(|(tenant_id, camera_id, copy, server_id)| {
        CameraMoveRequested { tenant_id, camera_id, copy, server_id }
    })
}

/// An event with the one value that it is made of.
fn of<S: Strategy + 'static>(value: S, event: fn(S::Value) -> Event) -> BoxedStrategy<Event> {
    value.prop_map(event).boxed()
}

/// An event of `kind`.
pub(crate) fn event_of(kind: Kind) -> BoxedStrategy<Event> {
    let (server, settings) = (server_id, server_settings);
    let camera = || (tenant_id(), camera_id());
    match kind {
        Kind::TenantCreated => of((tenant_id(), text(), wrapped_key()), |(tenant_id, name, data_key)| {
            Event::TenantCreated(TenantCreated { tenant_id, name, data_key })
        }),
        Kind::TenantChanged => of((tenant_id(), text()), |(tenant_id, name)| {
            Event::TenantChanged(TenantChanged { tenant_id, name })
        }),
        Kind::TenantDeleted => of(tenant_id(), |tenant_id| Event::TenantDeleted(TenantDeleted { tenant_id })),
        Kind::ServerAdded => of((server(), settings()), |(server_id, settings)| {
            Event::ServerAdded(ServerAdded { server_id, settings })
        }),
        Kind::ServerJoined => of(server_joined(), Event::ServerJoined),
        Kind::ServerAdopted => of(server(), |server_id| Event::ServerAdopted(ServerAdopted { server_id })),
        Kind::ServerChanged => of((server(), settings()), |(server_id, settings)| {
            Event::ServerChanged(ServerChanged { server_id, settings })
        }),
        Kind::ServerLost => of(server_lost(), Event::ServerLost),
        Kind::ServerReturned => of((server(), position()), |(server_id, heartbeat)| {
            Event::ServerReturned(ServerReturned { server_id, heartbeat })
        }),
        Kind::ServerDiskMeasured => of(server_disk_measured(), Event::ServerDiskMeasured),
        Kind::ServerDrainStarted => {
            of(server(), |server_id| Event::ServerDrainStarted(ServerDrainStarted { server_id }))
        }
        Kind::ServerDrainStopped => {
            of(server(), |server_id| Event::ServerDrainStopped(ServerDrainStopped { server_id }))
        }
        Kind::ServerFailbackRequested => {
            of(server(), |server_id| Event::ServerFailbackRequested(ServerFailbackRequested { server_id }))
        }
        Kind::ServerDetached => of((server(), detached_cameras()), |(server_id, cameras)| {
            Event::ServerDetached(ServerDetached { server_id, cameras })
        }),
        Kind::CameraAdded => of((camera(), camera_settings()), |((tenant_id, camera_id), settings)| {
            Event::CameraAdded(CameraAdded { tenant_id, camera_id, settings })
        }),
        Kind::CameraChanged => of((camera(), camera_settings()), |((tenant_id, camera_id), settings)| {
            Event::CameraChanged(CameraChanged { tenant_id, camera_id, settings })
        }),
        Kind::CameraDeleted => of(camera(), |(tenant_id, camera_id)| {
            Event::CameraDeleted(CameraDeleted { tenant_id, camera_id })
        }),
        Kind::CameraMoveRequested => of(camera_move_requested(), Event::CameraMoveRequested),
        Kind::PolicyChanged => of(policy(), |policy| Event::PolicyChanged(PolicyChanged { policy })),
        Kind::VersionRequired => of(prop_oneof![0..4_u32, any::<u32>()], |fold_version| {
            Event::VersionRequired(VersionRequired { fold_version })
        }),
        Kind::PlanMade => of(plan(), Event::PlanMade),
        Kind::ServerHeartbeat => of(worker::heartbeat(), Event::ServerHeartbeat),
        Kind::ControlTicked => of((boot_id(), position()), |(boot_id, folded)| {
            Event::ControlTicked(ControlTicked { boot_id, folded })
        }),
        Kind::RecordingReported => of(worker::reported(), Event::RecordingReported),
        Kind::AssignmentsPublished => of(worker::assignments(), Event::AssignmentsPublished),
        Kind::CameraBacklogged => of(backlogged(), Event::CameraBacklogged),
    }
}

/// An event of any kind, each as likely as any other.
pub(crate) fn event() -> impl Strategy<Value = Event> {
    select(Kind::ALL).prop_flat_map(event_of)
}

/// Any event, said by anybody at any time.
pub(crate) fn envelope_of(event: impl Strategy<Value = Event>) -> impl Strategy<Value = Envelope> {
    let around = (event_id(), text(), timestamp(), option::of(tenant_id()), text(), option::of(event_id()));
    (around, event).prop_map(|((id, source, time, tenant, actor, causation), event)| Envelope {
        id,
        source,
        time,
        tenant,
        actor,
        causation,
        event,
    })
}

/// See [`envelope_of`].
pub(crate) fn envelope() -> impl Strategy<Value = Envelope> {
    envelope_of(event())
}

/// An event that does not belong in `LOG`.
pub(crate) fn event_of_another_stream() -> impl Strategy<Value = Event> {
    let kinds = [
        Kind::ServerHeartbeat,
        Kind::ControlTicked,
        Kind::RecordingReported,
        Kind::AssignmentsPublished,
        Kind::CameraBacklogged,
    ];
    select(kinds.to_vec()).prop_flat_map(event_of)
}
