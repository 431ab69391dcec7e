//! Arbitrary events of every kind: any text, any number, any id.

use longwatch_events::assignment::{AssignedCamera, AssignmentSet};
use longwatch_events::envelope::Envelope;
use longwatch_events::event::{
    CameraAdded, CameraBacklogged, CameraChanged, CameraDeleted, ControlTicked, Decision, Event, Load,
    PlanEntry, PlanMade, RecordingReported, ServerAdded, ServerAdopted, ServerChanged, ServerDetached,
    ServerHeartbeat, ServerJoined, ServerLost, ServerReturned, TenantChanged, TenantCreated, TenantDeleted,
};
use longwatch_events::fact::{
    Cause, Codec, Fact, FirstKeyframeDurable, Gap, Interrupted, SegmentStored, Started,
};
use longwatch_events::hash::Sha256;
use longwatch_events::id::{BootId, CameraId, EventId, ServerId, TenantId};
use longwatch_events::position::{Epoch, Position};
use longwatch_events::reason::{AssignReason, UnplacedReason};
use longwatch_events::sealed::{Base64Bytes, PublicKey, Sealed, WrappedKey};
use longwatch_events::settings::{
    CameraSettings, Capacity, Failover, Labels, Priority, Recording, RecordingMode, Retention,
    ServerSettings, Source, Transport,
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
    btree_map(text(), text(), 0..3)
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
    (option::of(any::<u32>()), option::of(any::<u64>()))
        .prop_map(|(max_days, max_bytes)| Retention { max_days, max_bytes })
}

fn priority() -> impl Strategy<Value = Priority> {
    select(vec![Priority::High, Priority::Medium, Priority::Low, Priority::Never])
}

pub(crate) fn camera_settings() -> impl Strategy<Value = CameraSettings> {
    let modes = select(vec![RecordingMode::Continuous, RecordingMode::Off]);
    let placement = (priority(), option::of(server_id()), any::<u8>(), option::of(any::<u64>()));
    (text(), labels(), source(), modes, retention(), placement).prop_map(
        |(name, labels, source, mode, retention, placement)| {
            let (failover_priority, preferred_server_id, copies, expected_bitrate_bps) = placement;
            CameraSettings {
                name,
                labels,
                source,
                recording: Recording { mode },
                retention,
                failover_priority,
                preferred_server_id,
                copies,
                expected_bitrate_bps,
            }
        },
    )
}

pub(crate) fn assign_reason() -> impl Strategy<Value = AssignReason> {
    select(vec![
        AssignReason::Preferred,
        AssignReason::LeastLoaded,
        AssignReason::Failover,
        AssignReason::Home,
    ])
}

pub(crate) fn unplaced_reason() -> impl Strategy<Value = UnplacedReason> {
    select(vec![
        UnplacedReason::NoServer,
        UnplacedReason::NoCapacity,
        UnplacedReason::NoBitrate,
        UnplacedReason::NoTakeover,
        UnplacedReason::Disabled,
    ])
}

fn plan_entry() -> impl Strategy<Value = PlanEntry> {
    let decision = prop_oneof![
        (server_id(), assign_reason()).prop_map(|(server_id, reason)| Decision::Assign { server_id, reason }),
        unplaced_reason().prop_map(|reason| Decision::Unplace { reason }),
    ];
    (tenant_id(), camera_id(), decision).prop_map(|(tenant_id, camera_id, decision)| PlanEntry {
        tenant_id,
        camera_id,
        decision,
    })
}

pub(crate) fn plan() -> impl Strategy<Value = PlanMade> {
    (position(), any::<u32>(), vec(plan_entry(), 0..8)).prop_map(|(basis, rules, entries)| PlanMade {
        basis,
        rules,
        entries,
    })
}

fn load() -> impl Strategy<Value = Load> {
    (any::<[u64; 6]>(), any::<[u32; 4]>()).prop_map(|(wide, narrow)| Load {
        applied_revision: Position(wide[0]),
        cameras: narrow[0],
        recording: narrow[1],
        unsettled: narrow[2],
        received_bytes_per_s: wide[1],
        cpu_millicores: narrow[3],
        memory_bytes: wide[2],
        disk_free_bytes: wide[3],
        disk_total_bytes: wide[4],
        outbox_facts: wide[5],
    })
}

fn codec() -> impl Strategy<Value = Codec> {
    select(vec![Codec::H264, Codec::H265, Codec::Aac])
}

fn cause() -> impl Strategy<Value = Cause> {
    select(vec![
        Cause::Unauthorized,
        Cause::NotFound,
        Cause::Refused,
        Cause::Unreachable,
        Cause::Timeout,
        Cause::ProtocolError,
        Cause::Closed,
        Cause::Stalled,
        Cause::NotAllowed,
        Cause::UnsupportedCodec,
        Cause::TimestampJump,
        Cause::StorageError,
        Cause::WorkerRestarted,
        Cause::WorkerStopped,
        Cause::Reassigned,
        Cause::Disabled,
        Cause::Unplaced,
        Cause::ServerSilent,
    ])
}

fn stored() -> impl Strategy<Value = Fact> {
    let of = (tenant_id(), camera_id(), epoch(), text(), timestamp(), timestamp());
    let what = (any::<u64>(), any::<[u8; 32]>(), any::<u64>(), codec(), option::of(codec()), any::<bool>());
    (of, what).prop_map(|((tenant_id, camera_id, epoch, key, start, end), what)| {
        let (bytes, sha256, video_frames, video, audio, repaired) = what;
        Fact::SegmentStored(SegmentStored {
            tenant_id,
            camera_id,
            epoch,
            key,
            start,
            end,
            bytes,
            sha256: Sha256(sha256),
            video_frames,
            video,
            audio,
            repaired,
        })
    })
}

fn fact() -> impl Strategy<Value = Fact> {
    let of = || (tenant_id(), camera_id(), epoch(), timestamp());
    prop_oneof![
        (of(), codec(), option::of(codec())).prop_map(|((tenant_id, camera_id, epoch, at), video, audio)| {
            Fact::Started(Started { tenant_id, camera_id, epoch, at, video, audio })
        }),
        (of(), timestamp()).prop_map(|((tenant_id, camera_id, epoch, start), durable_at)| {
            Fact::FirstKeyframeDurable(FirstKeyframeDurable {
                tenant_id,
                camera_id,
                epoch,
                start,
                durable_at,
            })
        }),
        stored(),
        (of(), cause(), text()).prop_map(|((tenant_id, camera_id, epoch, at), cause, detail)| {
            Fact::Interrupted(Interrupted { tenant_id, camera_id, epoch, at, cause, detail })
        }),
        (of(), timestamp(), cause()).prop_map(|((tenant_id, camera_id, epoch, start), end, cause)| {
            Fact::Gap(Gap { tenant_id, camera_id, epoch, start, end, cause })
        }),
    ]
}

fn assignments() -> impl Strategy<Value = AssignmentSet> {
    let camera = (tenant_id(), camera_id(), epoch(), position(), bytes()).prop_map(
        |(tenant_id, camera_id, epoch, settings_version, source)| AssignedCamera {
            tenant_id,
            camera_id,
            epoch,
            settings_version,
            source,
        },
    );
    (server_id(), position(), any::<[u32; 3]>(), vec(camera, 0..4)).prop_map(
        |(server_id, revision, [part, parts, heartbeat_interval_ms], cameras)| AssignmentSet {
            server_id,
            revision,
            part,
            parts,
            heartbeat_interval_ms,
            cameras,
        },
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

/// An event of `kind`.
pub(crate) fn event_of(kind: Kind) -> BoxedStrategy<Event> {
    let server = server_id;
    let camera = || (tenant_id(), camera_id());
    match kind {
        Kind::TenantCreated => (tenant_id(), text(), wrapped_key())
            .prop_map(|(tenant_id, name, data_key)| {
                Event::TenantCreated(TenantCreated { tenant_id, name, data_key })
            })
            .boxed(),
        Kind::TenantChanged => (tenant_id(), text())
            .prop_map(|(tenant_id, name)| Event::TenantChanged(TenantChanged { tenant_id, name }))
            .boxed(),
        Kind::TenantDeleted => {
            tenant_id().prop_map(|tenant_id| Event::TenantDeleted(TenantDeleted { tenant_id })).boxed()
        }
        Kind::ServerAdded => (server(), server_settings())
            .prop_map(|(server_id, settings)| Event::ServerAdded(ServerAdded { server_id, settings }))
            .boxed(),
        Kind::ServerJoined => server_joined().prop_map(Event::ServerJoined).boxed(),
        Kind::ServerAdopted => {
            server().prop_map(|server_id| Event::ServerAdopted(ServerAdopted { server_id })).boxed()
        }
        Kind::ServerChanged => (server(), server_settings())
            .prop_map(|(server_id, settings)| Event::ServerChanged(ServerChanged { server_id, settings }))
            .boxed(),
        Kind::ServerLost => (server(), option::of(position()), timestamp(), timestamp(), any::<u32>())
            .prop_map(|(server_id, last_heartbeat, heard_at, judged_at, lease_ms)| {
                Event::ServerLost(ServerLost { server_id, last_heartbeat, heard_at, judged_at, lease_ms })
            })
            .boxed(),
        Kind::ServerReturned => (server(), position())
            .prop_map(|(server_id, heartbeat)| Event::ServerReturned(ServerReturned { server_id, heartbeat }))
            .boxed(),
        Kind::ServerDetached => {
            server().prop_map(|server_id| Event::ServerDetached(ServerDetached { server_id })).boxed()
        }
        Kind::CameraAdded => (camera(), camera_settings())
            .prop_map(|((tenant_id, camera_id), settings)| {
                Event::CameraAdded(CameraAdded { tenant_id, camera_id, settings })
            })
            .boxed(),
        Kind::CameraChanged => (camera(), camera_settings())
            .prop_map(|((tenant_id, camera_id), settings)| {
                Event::CameraChanged(CameraChanged { tenant_id, camera_id, settings })
            })
            .boxed(),
        Kind::CameraDeleted => camera()
            .prop_map(|(tenant_id, camera_id)| Event::CameraDeleted(CameraDeleted { tenant_id, camera_id }))
            .boxed(),
        Kind::PlanMade => plan().prop_map(Event::PlanMade).boxed(),
        Kind::ServerHeartbeat => (server(), boot_id(), any::<u64>(), load())
            .prop_map(|(server_id, boot_id, sequence, load)| {
                Event::ServerHeartbeat(ServerHeartbeat { server_id, boot_id, sequence, load })
            })
            .boxed(),
        Kind::ControlTicked => (boot_id(), position())
            .prop_map(|(boot_id, folded)| Event::ControlTicked(ControlTicked { boot_id, folded }))
            .boxed(),
        Kind::RecordingReported => (server(), boot_id(), vec(fact(), 0..5))
            .prop_map(|(server_id, boot_id, facts)| {
                Event::RecordingReported(RecordingReported { server_id, boot_id, facts })
            })
            .boxed(),
        Kind::AssignmentsPublished => assignments().prop_map(Event::AssignmentsPublished).boxed(),
        Kind::CameraBacklogged => backlogged().prop_map(Event::CameraBacklogged).boxed(),
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
