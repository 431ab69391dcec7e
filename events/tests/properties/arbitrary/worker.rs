//! What workers say and what they are told, arbitrarily.

use longwatch_events::assignment::{AssignedCamera, AssignmentSet};
use longwatch_events::event::{
    Load, RecordingReported, Scrub, ServerHeartbeat, Spool, Storage, StoreRetention, Upload,
};
use longwatch_events::fact::{
    Cause, Codec, Damage, DeletionReason, Fact, FirstKeyframeDurable, Gap, Interrupted, SegmentChecked,
    SegmentDeleted, SegmentStored, SegmentUploaded, Started, TimestampJumped,
};
use longwatch_events::hash::Sha256;
use longwatch_events::id::{ServerId, StoreId};
use longwatch_events::position::Position;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::{
    boot_id, bytes, camera_id, epoch, event_id, position, priority, recording, retention, server_id,
    store_id, tenant_id, text, timestamp,
};

pub(super) fn heartbeat() -> impl Strategy<Value = ServerHeartbeat> {
    let media_url = proptest::option::of(text());
    (server_id(), boot_id(), any::<u64>(), load(), media_url).prop_map(
        |(server_id, boot_id, sequence, load, media_url)| ServerHeartbeat {
            server_id,
            boot_id,
            sequence,
            load,
            media_url,
        },
    )
}

pub(super) fn reported() -> impl Strategy<Value = RecordingReported> {
    (server_id(), boot_id(), vec(fact(), 0..5)).prop_map(|(server_id, boot_id, facts)| RecordingReported {
        server_id,
        boot_id,
        facts,
    })
}

fn load() -> impl Strategy<Value = Load> {
    let words = (select(Upload::ALL.to_vec()), select(StoreRetention::ALL.to_vec()));
    let spool = (any::<[u64; 3]>(), words, option::of(store_id())).prop_map(
        |([segments, bytes, oldest_s], (upload, retention), store_id)| Spool {
            upload,
            segments,
            bytes,
            oldest_s,
            store_id,
            retention,
        },
    );
    let how = (any::<i64>(), select(Storage::ALL.to_vec()), option::of(scrub()), option::of(spool));
    (any::<[u64; 6]>(), any::<[u32; 4]>(), option::of(any::<u32>()), how).prop_map(
        |(wide, narrow, lease_ms, (clock_stepped_ms, storage, scrub, spool))| Load {
            applied_revision: Position(wide[0]),
            lease_ms,
            cameras: narrow[0],
            recording: narrow[1],
            unsettled: narrow[2],
            received_bytes_per_s: wide[1],
            cpu_millicores: narrow[3],
            memory_bytes: wide[2],
            disk_free_bytes: wide[3],
            disk_total_bytes: wide[4],
            outbox_facts: wide[5],
            clock_stepped_ms,
            storage,
            scrub,
            spool,
        },
    )
}

fn scrub() -> impl Strategy<Value = Scrub> {
    (timestamp(), option::of(timestamp()), any::<[u64; 5]>()).prop_map(|(began_at, completed_at, numbers)| {
        let [checked, missing, corrupt, orphans, foreign] = numbers;
        Scrub { began_at, completed_at, checked, missing, corrupt, orphans, foreign }
    })
}

fn codec() -> impl Strategy<Value = Codec> {
    select(vec![Codec::H264, Codec::H265, Codec::Aac, Codec::Pcmu, Codec::Pcma, Codec::Opus])
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
        Cause::LeaseExpired,
        Cause::NotScheduled,
        Cause::NoEvent,
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

fn uploaded() -> impl Strategy<Value = Fact> {
    let of = (tenant_id(), camera_id(), epoch(), text(), timestamp(), timestamp());
    (of, any::<u64>(), any::<[u8; 32]>(), option::of(store_id())).prop_map(
        |((tenant_id, camera_id, epoch, key, start, at), bytes, sha256, store_id)| {
            let sha256 = Sha256(sha256);
            Fact::SegmentUploaded(SegmentUploaded {
                tenant_id,
                camera_id,
                epoch,
                key,
                start,
                bytes,
                sha256,
                at,
                store_id,
            })
        },
    )
}

/// Where a segment lay that is not on a disk of the server that tells.
fn elsewhere() -> impl Strategy<Value = (Option<StoreId>, Option<ServerId>)> {
    (option::of(store_id()), option::of(server_id()))
}

fn deleted() -> impl Strategy<Value = Fact> {
    let of = (tenant_id(), camera_id(), epoch(), text(), timestamp(), timestamp());
    let reasons = select(vec![
        DeletionReason::Age,
        DeletionReason::CameraBytes,
        DeletionReason::TenantBytes,
        DeletionReason::VolumeFull,
        DeletionReason::SpoolFull,
    ]);
    (of, any::<u64>(), timestamp(), reasons, (any::<bool>(), elsewhere())).prop_map(
        |((tenant_id, camera_id, epoch, key, start, end), bytes, at, reason, (before_min_age, elsewhere))| {
            let (store_id, recorded_by) = elsewhere;
            Fact::SegmentDeleted(SegmentDeleted {
                tenant_id,
                camera_id,
                epoch,
                key,
                start,
                end,
                bytes,
                at,
                reason,
                before_min_age,
                store_id,
                recorded_by,
            })
        },
    )
}

fn checked() -> impl Strategy<Value = Fact> {
    let of = (tenant_id(), camera_id(), epoch(), text(), timestamp(), timestamp());
    let expected = (any::<u64>(), any::<[u8; 32]>());
    let found = (
        option::of(select(Damage::ALL.to_vec())),
        option::of(any::<u64>()),
        option::of(any::<[u8; 32]>().prop_map(Sha256)),
    );
    (of, expected, timestamp(), found, elsewhere()).prop_map(
        |((tenant_id, camera_id, epoch, key, start, end), (bytes, sha256), at, found, elsewhere)| {
            let (store_id, recorded_by) = elsewhere;
            let (damage, found_bytes, found_sha256) = found;
            Fact::SegmentChecked(SegmentChecked {
                tenant_id,
                camera_id,
                epoch,
                key,
                start,
                end,
                bytes,
                sha256: Sha256(sha256),
                at,
                damage,
                found_bytes,
                found_sha256,
                store_id,
                recorded_by,
            })
        },
    )
}

fn fact() -> impl Strategy<Value = Fact> {
    let of = || (tenant_id(), camera_id(), epoch(), timestamp());
    prop_oneof![
        (of(), codec(), option::of(codec()), vec("[a-z]{5}/[a-z0-9.-]{1,20}", 0..3)).prop_map(
            |((tenant_id, camera_id, epoch, at), video, audio, not_recorded)| {
                Fact::Started(Started { tenant_id, camera_id, epoch, at, video, audio, not_recorded })
            }
        ),
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
        uploaded(),
        deleted(),
        checked(),
        (of(), cause(), text()).prop_map(|((tenant_id, camera_id, epoch, at), cause, detail)| {
            Fact::Interrupted(Interrupted { tenant_id, camera_id, epoch, at, cause, detail })
        }),
        (of(), timestamp(), cause()).prop_map(|((tenant_id, camera_id, epoch, start), end, cause)| {
            Fact::Gap(Gap { tenant_id, camera_id, epoch, start, end, cause })
        }),
        (of(), any::<i64>()).prop_map(|((tenant_id, camera_id, epoch, at), by_ms)| {
            Fact::TimestampJumped(TimestampJumped { tenant_id, camera_id, epoch, at, by_ms })
        }),
    ]
}

pub(super) fn assignments() -> impl Strategy<Value = AssignmentSet> {
    let camera = (
        (tenant_id(), camera_id(), epoch(), position(), bytes(), any::<bool>()),
        (option::of(any::<u16>()), option::of(priority()), option::of(retention()), option::of(recording())),
    )
        .prop_map(
            |(
                (tenant_id, camera_id, epoch, settings_version, source, single_session),
                (live_latency_ms, priority, retention, recording),
            )| {
                AssignedCamera {
                    tenant_id,
                    camera_id,
                    epoch,
                    settings_version,
                    source,
                    single_session,
                    live_latency_ms,
                    priority,
                    retention,
                    recording,
                }
            },
        );
    let numbers = (any::<[u32; 3]>(), option::of(any::<u32>()));
    (server_id(), (position(), option::of(event_id())), numbers, vec(camera, 0..4)).prop_map(
        |(server_id, (revision, set_id), ([part, parts, heartbeat_interval_ms], lease_ms), cameras)| {
            AssignmentSet {
                server_id,
                revision,
                set_id,
                part,
                parts,
                heartbeat_interval_ms,
                lease_ms,
                cameras,
            }
        },
    )
}
