//! What every implementation of [`ReadModel`] must do. Written against the trait; run on each implementation.

mod archive;
mod copies;
mod engine;
mod history;
mod recorder;
mod replicas;
mod triggers;
mod world;

use longwatch_events::event::{DetachedCameras, Event, ServerDetached};
use longwatch_events::fact::{Cause, Codec, Fact, Gap};
use longwatch_events::hash::Sha256;
use longwatch_events::id::{BootId, CameraId, IdSource as _, ServerId, TenantId};
use longwatch_events::position::{Epoch, Position};
use longwatch_events::settings::RecordingMode;
use longwatch_events::state::{Membership, Placement};
use longwatch_events::subject::LogStream;

use super::rows::{CameraState, Change, Condition, Location, Observation, Observations, Place, SegmentRow};
use super::{Applied, AssignmentFilter, Batch, CameraFilter, KnownRecord, Page, Range, ReadModel, Written};

pub(super) use engine::Database;
use engine::Engine;
use recorder::Recorder;
pub(super) use world::batch_of_one;
use world::{BOOT, World, all, at, camera_settings, everything, interrupted, keyframe, started, stored};

async fn a_batch_that_was_applied_before_changes_nothing(model: &dyn ReadModel) {
    let mut world = World::new(model);
    let (tenant, ..) = everything(&mut world).await;
    let (position, hash) =
        (model.written(LogStream::Log).await.unwrap().position, model.content_hash().await.unwrap());

    let again = batch_of_one(LogStream::Log, position, vec![Change::DeleteTenant(tenant)]);
    let again = model.apply(&again).await.unwrap();

    assert_eq!(again, Applied::Seen);
    assert_eq!(model.content_hash().await.unwrap(), hash);
    assert_eq!(model.written(LogStream::Recordings).await.unwrap().position, Position(1));
}

async fn the_record_that_a_log_stream_is_known_by_goes_with_the_position(model: &dyn ReadModel) {
    assert_eq!(model.written(LogStream::Log).await.unwrap(), Written::default());
    for (position, payload) in [(1, b"one"), (2, b"two")] {
        let (position, sha256) = (Position(position), Sha256::of(payload));
        let batch = Batch { record: Some(sha256), ..batch_of_one(LogStream::Log, position, Vec::new()) };
        assert_eq!(model.apply(&batch).await.unwrap(), Applied::Written);
        let record = Some(KnownRecord { position, sha256 });
        assert_eq!(model.written(LogStream::Log).await.unwrap(), Written { position, record });
        // Whoever comes later with another does not replace it.
        let late = Batch { record: Some(Sha256::of(b"late")), ..batch };
        assert_eq!(model.apply(&late).await.unwrap(), Applied::Seen);
        assert_eq!(model.written(LogStream::Log).await.unwrap().record, record);
    }
    assert_eq!(model.written(LogStream::Recordings).await.unwrap(), Written::default());
}

async fn a_change_that_fails_takes_the_whole_batch_back(model: &dyn ReadModel) {
    let mut world = World::new(model);
    let (tenant, camera, server, epoch) = everything(&mut world).await;
    let hash = model.content_hash().await.unwrap();
    let backwards = SegmentRow {
        tenant_id: tenant,
        camera_id: camera,
        epoch,
        server_id: server,
        start: at(20),
        end: at(10),
        key: String::new(),
        bytes: 0,
        sha256: Sha256::of(b""),
        video_frames: 0,
        video: Codec::H264,
        audio: None,
        repaired: false,
        damage: None,
        location: Location::Server,
        store_id: None,
    };
    let changes = vec![Change::DeleteTenant(tenant), Change::PutSegment(backwards)];

    let next = world.state.position.next();

    assert!(model.apply(&batch_of_one(LogStream::Log, next, changes)).await.is_err());

    assert_eq!(model.content_hash().await.unwrap(), hash);
    assert!(model.tenant(tenant).await.unwrap().is_some());
    assert!(model.written(LogStream::Log).await.unwrap().position < next);
    // And the model still works.
    world.tenant("Airport").await;
}

async fn the_order_in_which_the_two_log_streams_are_folded_does_not_matter(model: &dyn ReadModel) {
    let mut world = World::new(model);
    everything(&mut world).await;

    // Another one, in SQLite whatever this is in, gets all facts first, then the log, each in one batch.
    let database = Engine::Sqlite.database().await;
    let other = database.open().await;
    let recorder = Recorder::default();
    let mut world = World::new(&recorder);
    everything(&mut world).await;
    for stream in [LogStream::Recordings, LogStream::Log] {
        other.apply(&recorder.taken(stream)).await.unwrap();
    }

    assert_eq!(model.content_hash().await.unwrap(), other.content_hash().await.unwrap());
}

async fn a_fact_that_is_reported_twice_counts_once(model: &dyn ReadModel) {
    let mut world = World::new(model);
    let (tenant, camera, server, epoch) = everything(&mut world).await;
    let range = Range { from: at(0), to: at(1_000) };
    let mut expected = model.timeline(tenant, camera, range).await.unwrap();

    let again = vec![
        stored(tenant, camera, epoch, 10, 60),
        interrupted(tenant, camera, epoch, 60, Cause::Closed),
        keyframe(tenant, camera, epoch, 70),
    ];
    world.reported(server, again).await;

    // Only where it was said last is news.
    expected.statuses[0].position = Position(world.recordings);
    assert_eq!(model.timeline(tenant, camera, range).await.unwrap(), expected);
}

async fn of_a_segment_that_is_reported_twice_in_a_batch_of_many_the_last_counts(model: &dyn ReadModel) {
    let mut world = World::new(model);
    let (tenant, camera, server, epoch) = everything(&mut world).await;
    // More than go into one statement, of several sizes.
    let mut facts: Vec<_> =
        (0..300).map(|n| stored(tenant, camera, epoch, 1_000 + 10 * n, 1_005 + 10 * n)).collect();
    facts.push(interrupted(tenant, camera, epoch, 4_000, Cause::Closed));
    facts.push(stored(tenant, camera, epoch, 1_000, 1_009));

    world.reported(server, facts).await;

    let rows = model.timeline(tenant, camera, Range { from: at(1_000), to: at(9_000) }).await.unwrap();
    let mut ends: Vec<_> = (0..300).map(|n| at(1_005 + 10 * n)).collect();
    ends[0] = at(1_009);
    // The first one is that before the range.
    assert_eq!(rows.segments[1..].iter().map(|segment| segment.end).collect::<Vec<_>>(), ends);
}

async fn an_older_epoch_never_overwrites_the_status(model: &dyn ReadModel) {
    let mut world = World::new(model);
    let (tenant, camera, server, old) = everything(&mut world).await;
    let other = world.server("south").await;
    let new = world.assign(tenant, camera, other).await;
    assert_eq!(world.condition(tenant, camera).await, None, "nothing is known of the new epoch yet");
    world.reported(other, vec![keyframe(tenant, camera, new, 100)]).await;

    world.reported(server, vec![interrupted(tenant, camera, old, 101, Cause::Reassigned)]).await;

    assert_eq!(world.condition(tenant, camera).await, Some(Condition::Recording));
}

async fn a_fact_that_contradicts_itself_is_set_aside(model: &dyn ReadModel) {
    let mut world = World::new(model);
    let (tenant, camera, server, epoch) = everything(&mut world).await;
    world.reported(server, vec![stored(tenant, camera, epoch, 300, 200)]).await;
    assert_eq!(model.counts(Observations::new()).await.unwrap().rejected_facts, 1);
    assert_eq!(model.written(LogStream::Recordings).await.unwrap().position, Position(2));
}

async fn pages_are_stable_under_inserts(model: &dyn ReadModel) {
    let mut world = World::new(model);
    let tenant = world.tenant("Harbour").await;
    let mut cameras = Vec::new();
    for number in 0..5 {
        cameras.push(world.camera(tenant, camera_settings(&format!("c{number}"))).await);
    }
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let page = Page { after, limit: 2 };
        let part = model.cameras(tenant, CameraFilter::default(), page).await.unwrap();
        seen.extend(part.items.iter().map(|view| view.row.camera_id));
        after = seen.last().copied();
        if !part.more {
            break;
        }
        assert_eq!(part.items.len(), 2);
        cameras.push(world.camera(tenant, camera_settings("late")).await);
        if cameras.len() > 8 {
            break;
        }
    }
    assert_eq!(seen, cameras[..seen.len()], "none twice, none left out");
    assert!(seen.len() >= 6);
}

async fn tenants_are_apart(model: &dyn ReadModel) {
    let mut world = World::new(model);
    let (tenant, camera, ..) = everything(&mut world).await;
    let other = world.tenant("Airport").await;
    let own = world.camera(other, camera_settings("Gate 3")).await;

    assert_eq!(model.camera(other, camera).await.unwrap(), None);
    let theirs = model.cameras(other, CameraFilter::default(), all()).await.unwrap();
    assert_eq!(theirs.items.iter().map(|view| view.row.camera_id).collect::<Vec<_>>(), [own]);
    let range = Range { from: at(0), to: at(1_000) };
    assert!(model.timeline(other, camera, range).await.unwrap().segments.is_empty());
    assert_eq!(model.timeline(tenant, camera, range).await.unwrap().segments.len(), 1);
}

async fn filters_and_counts_agree_with_the_state_of_each_camera(model: &dyn ReadModel) {
    let mut world = World::new(model);
    let (tenant, ..) = everything(&mut world).await;
    let [awake, silent, restarted] =
        [world.server("awake").await, world.server("silent").await, world.server("restarted").await];
    let mut off = camera_settings("off");
    off.recording.mode = RecordingMode::Off;
    world.camera(tenant, off).await;
    world.camera(tenant, camera_settings("new")).await;
    type Said = fn(TenantId, CameraId, Epoch) -> Option<Fact>;
    let cameras: [(&str, ServerId, Said, CameraState); 8] = [
        ("waits", awake, |_, _, _| None, CameraState::Connecting),
        ("starts", awake, |t, c, e| Some(started(t, c, e, 30)), CameraState::Connecting),
        ("runs", awake, |t, c, e| Some(keyframe(t, c, e, 30)), CameraState::Recording),
        ("fails", awake, |t, c, e| Some(interrupted(t, c, e, 30, Cause::Refused)), CameraState::Offline),
        ("rests", awake, |t, c, e| Some(interrupted(t, c, e, 30, Cause::NotScheduled)), CameraState::Idle),
        ("gone", silent, |t, c, e| Some(interrupted(t, c, e, 30, Cause::NotScheduled)), CameraState::Offline),
        ("lost", silent, |t, c, e| Some(keyframe(t, c, e, 30)), CameraState::Offline),
        ("again", restarted, |t, c, e| Some(keyframe(t, c, e, 30)), CameraState::Connecting),
    ];
    let of_this_run = Observation { silent: false, boot_id: Some(BOOT) };
    let observations = Observations::from([
        (awake, of_this_run),
        (silent, Observation { silent: true, ..of_this_run }),
        (restarted, Observation { boot_id: Some(BootId::from_uuid(world.ids.next())), ..of_this_run }),
    ]);
    for (name, server, said, expected) in cameras {
        let camera = world.camera(tenant, camera_settings(name)).await;
        let epoch = world.assign(tenant, camera, server).await;
        world.reported(server, said(tenant, camera, epoch).into_iter().collect()).await;
        let view = model.camera(tenant, camera).await.unwrap().unwrap();
        assert_eq!(view.state(&observations), expected, "{name}");
    }

    let everyone = model.cameras(tenant, CameraFilter::default(), all()).await.unwrap().items;
    let counts = model.counts(observations.clone()).await.unwrap();
    for (state, count) in CameraState::ALL.into_iter().zip(counts.cameras) {
        let observations = observations.clone();
        let expected: Vec<_> =
            everyone.iter().filter(|view| view.state(&observations) == state).cloned().collect();
        let filter = CameraFilter { state: Some(state), observations, ..CameraFilter::default() };
        let found = model.cameras(tenant, filter, all()).await.unwrap().items;
        assert!(!expected.is_empty(), "the test has a camera in state {state:?}");
        assert_eq!(found, expected, "{state:?}");
        assert_eq!(count, expected.len() as u64, "{state:?}");
    }
    let on_server = CameraFilter { server_id: Some(awake), ..CameraFilter::default() };
    assert_eq!(model.cameras(tenant, on_server, all()).await.unwrap().items.len(), 5);
    assert_eq!(model.server(awake).await.unwrap().unwrap().cameras, 5);
}

async fn a_name_is_found_in_any_case_and_a_percent_sign_is_a_percent_sign(model: &dyn ReadModel) {
    let mut world = World::new(model);
    let tenant = world.tenant("Harbour").await;
    let camera = world.camera(tenant, camera_settings("100% ÄUSSERES Tor")).await;
    world.camera(tenant, camera_settings("100 Tor")).await;
    for text in ["äusseres", "100%", "SERES t"] {
        let filter = CameraFilter { text: Some(text.to_owned()), ..CameraFilter::default() };
        let found = model.cameras(tenant, filter, all()).await.unwrap().items;
        assert_eq!(found.iter().map(|view| view.row.camera_id).collect::<Vec<_>>(), [camera], "{text}");
    }
}

async fn a_server_that_is_let_go_stays_and_its_cameras_are_unplanned(model: &dyn ReadModel) {
    let mut world = World::new(model);
    let (tenant, camera, server, _) = everything(&mut world).await;
    let assigned = model.assignments(AssignmentFilter::default(), all()).await.unwrap().items;
    assert_eq!(assigned.iter().map(|a| a.key.camera_id).collect::<Vec<_>>(), [camera]);

    let cameras = DetachedCameras::Keep;
    world.happens(Event::ServerDetached(ServerDetached { server_id: server, cameras })).await;

    let let_go = model.server(server).await.unwrap().unwrap();
    assert_eq!((let_go.row.membership, let_go.cameras), (Membership::Detached { seen_again: false }, 0));
    let view = model.camera(tenant, camera).await.unwrap().unwrap();
    assert_eq!(view.placement(), Placement::Unplanned);
    assert_eq!(view.state(&Observations::new()), CameraState::Unplaced);
    assert!(model.assignments(AssignmentFilter::default(), all()).await.unwrap().items.is_empty());
    // And the timeline knows since when.
    let rows = model.timeline(tenant, camera, Range { from: at(0), to: at(1_000) }).await.unwrap();
    let place = rows.placements.last().unwrap();
    assert_eq!((place.at, place.place), (at(world.seconds), Place::Unplanned));
}

async fn what_a_server_says_of_an_epoch_it_was_not_given_does_not_count(model: &dyn ReadModel) {
    let mut world = World::new(model);
    let (tenant, camera, server, epoch) = everything(&mut world).await;
    let range = Range { from: at(0), to: at(1_000) };
    let before = model.timeline(tenant, camera, range).await.unwrap();
    let view = model.camera(tenant, camera).await.unwrap();
    let intruder = world.server("intruder").await;
    let gap = |cause| {
        let (start, end) = (at(60), at(70));
        Fact::Gap(Gap { tenant_id: tenant, camera_id: camera, epoch, start, end, cause })
    };
    let lies = |epoch| {
        vec![
            keyframe(tenant, camera, epoch, 900),
            stored(tenant, camera, epoch, 10, 90),
            stored(tenant, camera, epoch, 900, 960),
            interrupted(tenant, camera, epoch, 960, Cause::StorageError),
        ]
    };
    world.reported(intruder, lies(epoch)).await;
    world.reported(intruder, vec![gap(Cause::StorageError)]).await;
    // Nor does what its own server says of an epoch that was never given.
    world.reported(server, lies(Epoch(epoch.0 + 1_000))).await;

    assert_eq!(model.timeline(tenant, camera, range).await.unwrap(), before);
    assert_eq!(model.camera(tenant, camera).await.unwrap(), view);
    assert_eq!(world.condition(tenant, camera).await, Some(Condition::Recording));
}

async fn the_timeline_begins_with_the_last_segment_before_it(model: &dyn ReadModel) {
    let mut world = World::new(model);
    let (tenant, camera, server, epoch) = everything(&mut world).await;
    let more = [(100, 160), (160, 220), (300, 360)].map(|(a, b)| stored(tenant, camera, epoch, a, b));
    world.reported(server, more.to_vec()).await;
    let rows = model.timeline(tenant, camera, Range { from: at(250), to: at(300) }).await.unwrap();
    let starts: Vec<_> = rows.segments.iter().map(|s| s.start).collect();
    assert_eq!(starts, [at(160)]);
    assert!(rows.gaps.is_empty());
}

macro_rules! on {
    ($engine:ident, $module:ident, one: { $($one:ident),+ $(,)? }, archive: { $($archive:ident),+ $(,)? },
        copies: { $($copies:ident),+ $(,)? },
        triggers: { $($triggers:ident),+ $(,)? },
        several: { $($several:ident),+ $(,)? } $(,)?) => {
        mod $module {
            use super::Engine;

            $(
                #[tokio::test]
                async fn $one() {
                    let database = Engine::$engine.database().await;
                    super::$one(&*database.open().await).await;
                }
            )+
            $(
                #[tokio::test]
                async fn $archive() {
                    let database = Engine::$engine.database().await;
                    super::archive::$archive(&*database.open().await).await;
                }
            )+
            $(
                #[tokio::test]
                async fn $copies() {
                    let database = Engine::$engine.database().await;
                    super::copies::$copies(&*database.open().await).await;
                }
            )+
            $(
                #[tokio::test]
                async fn $triggers() {
                    let database = Engine::$engine.database().await;
                    super::triggers::$triggers(&*database.open().await).await;
                }
            )+
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $several() {
                    super::replicas::$several(Engine::$engine).await;
                }
            )+

            #[tokio::test(flavor = "multi_thread")]
            async fn whatever_happens_and_however_it_is_cut_the_rows_are_what_state_says() {
                super::history::whatever_happens_and_however_it_is_cut_the_rows_are_what_state_says(
                    Engine::$engine,
                )
                .await;
            }
        }
    };
}

macro_rules! on_every_engine {
    ($($contracts:tt)+) => {
        on!(Sqlite, on_sqlite, $($contracts)+);
        on!(Postgres, on_postgres, $($contracts)+);
    };
}

on_every_engine! {
    one: {
        a_batch_that_was_applied_before_changes_nothing,
        the_record_that_a_log_stream_is_known_by_goes_with_the_position,
        a_change_that_fails_takes_the_whole_batch_back,
            the_order_in_which_the_two_log_streams_are_folded_does_not_matter,
        a_fact_that_is_reported_twice_counts_once,
        of_a_segment_that_is_reported_twice_in_a_batch_of_many_the_last_counts,
        an_older_epoch_never_overwrites_the_status,
        a_fact_that_contradicts_itself_is_set_aside,
        pages_are_stable_under_inserts,
        tenants_are_apart,
        filters_and_counts_agree_with_the_state_of_each_camera,
        a_name_is_found_in_any_case_and_a_percent_sign_is_a_percent_sign,
        a_server_that_is_let_go_stays_and_its_cameras_are_unplanned,
        what_a_server_says_of_an_epoch_it_was_not_given_does_not_count,
            the_timeline_begins_with_the_last_segment_before_it,
    },
    archive: {
        a_deleted_segment_leaves_when_it_was_and_why_it_went,
        a_segment_that_was_uploaded_lies_in_the_object_store,
        what_is_wrong_with_a_segment_stands_with_it_until_it_is_right_or_deleted,
        a_server_reads_what_it_is_known_to_have_part_by_part,
        what_a_segment_held_says_the_first_report_of_it_unless_it_was_cut,
        another_server_tells_only_of_what_lies_in_the_store_it_names,
        what_lies_in_a_store_is_listed_camera_by_camera_and_oldest_first,
        what_an_object_holds_is_known_if_it_is_not_what_was_stored,
        how_long_a_deleted_camera_is_kept_is_remembered,
    },
    copies: {
        the_state_of_a_camera_is_that_of_the_copy_that_is_best_off,
        a_page_of_cameras_holds_all_their_copies,
        assignments_are_listed_copy_by_copy_with_where_they_move,
        what_a_server_recorded_in_a_move_that_was_given_up_counts,
        a_move_becomes_a_placement_when_it_is_finished,
        a_copy_that_is_not_wanted_any_more_is_gone_and_its_video_is_not,
    },
    triggers: {
        an_event_is_known_by_its_id_by_its_time_and_while_it_is_on,
        of_the_events_of_a_camera_the_newest_are_kept,
        what_is_no_event_is_set_aside,
    },
    several: {
        replicas_that_apply_at_the_same_time_write_what_one_writes,
        however_the_log_is_cut_and_whoever_comes_first_the_rows_are_the_same,
        a_replica_that_lags_changes_nothing,
        a_batch_that_begins_behind_the_rows_is_not_written,
        replicas_can_open_a_new_database_at_once,
    },
}
