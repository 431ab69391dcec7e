use super::*;
use crate::archive::door::{Door, Step};
use crate::archive::layout::SegmentName;
use crate::archive::writer::{Codecs, Done, Piece, Writer};
use crate::config::LogFormat;
use crate::fmp4::{Fragment, Samples};
use crate::identity::Membership;
use crate::plan::Key;
use longwatch_events::assignment::AssignmentSet;
use longwatch_events::envelope::Envelope;
use longwatch_events::event::Event;
use longwatch_events::fact::Codec;
use longwatch_events::id::{CameraId, EventId, TenantId};
use longwatch_events::position::Epoch;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn a_part_that_panics_begins_again_until_it_ends() {
    let begun = AtomicU32::new(0);
    in_spite_of_bugs("a test", || async {
        assert!(begun.fetch_add(1, Ordering::Relaxed) >= 3, "a bug of this test");
    })
    .await;
    assert_eq!(begun.into_inner(), 4);
}

/// A worker without cameras and without NATS, after its start.
async fn started(archive: &tempfile::TempDir) -> (Agent, Tasks) {
    started_behind(archive, Door::default()).await
}

/// The same, with a door to its only volume.
async fn started_behind(archive: &tempfile::TempDir, door: Door) -> (Agent, Tasks) {
    let config = Config {
        nats: vec!["nats://127.0.0.1:1".into()],
        name: "test".into(),
        archive: vec![archive.path().into()],
        join_key_file: archive.path().join("no_key"),
        nats_credentials: None,
        capacity: longwatch_events::settings::Capacity::default(),
        labels: longwatch_events::settings::Labels::new(),
        rtsp_allow: Vec::new(),
        rtsp_allow_basic: false,
        rtsps_ca: None,
        rtsps_allow_unverified: false,
        segment_ms: 60_000,
        data_loss_max_ms: 1_000,
        bounds: Bounds {
            keep_free_percent: 0,
            tenant_max_bytes: None,
            spool: None,
            look_every: Duration::from_secs(60),
        },
        object_store: None,
        media: None,
        scrubbing: Scrubbing { every: None, max_bytes_per_second: 1_000 },
        log_format: LogFormat::Human,
        log_filter: String::new(),
    };
    let bus = Bus::connect(&config.nats, None, "test").await.unwrap();
    let mut found = Found::find(&config).unwrap();
    found.archive = Archive::over([(archive.path().into(), door)], 1).unwrap();
    let started = start(&config, found, bus, &CancellationToken::new()).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while !started.0.told.is_whole() {
        assert!(Instant::now() < deadline, "it never caught up");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    started
}

fn noted(archive: &tempfile::TempDir) -> bool {
    archive.path().join(".longwatch/clean_stop.json").exists()
}

#[tokio::test]
async fn a_stop_is_clean_only_if_nothing_was_lost() {
    let archive = tempfile::tempdir().unwrap();
    let (agent, tasks) = started(&archive).await;
    agent.finish(tasks, true).await;
    assert!(noted(&archive));
    let (agent, tasks) = started(&archive).await;
    assert!(!noted(&archive));
    agent.told.lose();
    agent.finish(tasks, true).await;
    assert!(!noted(&archive));
}

#[tokio::test]
async fn a_worker_that_keeps_no_facts_ends_and_leaves_no_note() {
    let archive = tempfile::tempdir().unwrap();
    let (mut agent, mut tasks) = started(&archive).await;
    tasks.gathering.abort();
    tasks.gathering = tokio::spawn(async { panic!("a bug of this test") });
    let stop = CancellationToken::new();
    let worked = tokio::time::timeout(Duration::from_secs(10), agent.work(&mut tasks, &stop));
    assert!(matches!(worked.await.expect("it ends"), Err(Error::FactsNotKept)));
    agent.finish(tasks, false).await;
    assert!(!noted(&archive));
}

#[tokio::test]
async fn a_worker_that_has_no_volume_left_says_so_and_ends() {
    let archive = tempfile::tempdir().unwrap();
    let door = Door::with_faults(|step| (step == Step::Sync).then(|| io::Error::from_raw_os_error(5)));
    let (mut agent, mut tasks) = started_behind(&archive, door).await;
    assert_eq!(agent.storage_now(), Storage::Ok);
    // When its only volume does not sync …
    let name = SegmentName {
        tenant_id: TenantId::DEFAULT,
        camera_id: CameraId::generate(&SystemIds),
        start: SystemClock.now(),
        epoch: Epoch(1),
        server_id: ServerId::generate(&SystemIds),
    };
    let key = Key { tenant_id: name.tenant_id, camera_id: name.camera_id };
    let (writer, mut dones) = Writer::start(&agent.archive, key, Arc::new(SystemClock));
    writer.send(Piece::Begin {
        name,
        codecs: Codecs { video: Codec::H264, audio: None },
        resumes: true,
        header: vec![1, 2, 3],
        fragment: Fragment {
            head: Vec::new(),
            samples: Samples::default(),
            video_frames: 1,
            zero: 0,
            end: 1,
        },
        until: name.start,
    });
    assert!(matches!(dones.recv().await, Some(Done::Failed(error)) if error.fails_volume()));
    // … then it ends by itself, so that others take its cameras, and is no clean stop.
    let stop = CancellationToken::new();
    let worked = tokio::time::timeout(Duration::from_secs(10), agent.work(&mut tasks, &stop));
    assert!(matches!(worked.await.expect("it ends"), Err(Error::NoVolume)));
    assert_eq!(agent.storage_now(), Storage::Failed);
    let (nobody, dones) = Writer::start(&agent.archive, key, Arc::new(SystemClock));
    drop((writer, nobody, dones));
    agent.finish(tasks, true).await;
}

#[tokio::test]
async fn a_disk_that_hangs_does_not_keep_a_stop_from_ending() {
    let (release, hung) = std::sync::mpsc::channel::<()>();
    let began = Instant::now();
    note_within(Duration::from_millis(50), move || hung.recv().map_err(io::Error::other)).await;
    assert!(began.elapsed() < Duration::from_secs(5));
    drop(release);
}

/// A set without cameras.
fn set(server_id: ServerId, heartbeat_interval_ms: u32, lease_ms: Option<u32>) -> DesiredSet {
    let revision = Position(7);
    let event = Event::AssignmentsPublished(AssignmentSet {
        server_id,
        revision,
        set_id: None,
        part: 1,
        parts: 1,
        heartbeat_interval_ms,
        lease_ms,
        cameras: Vec::new(),
    });
    let envelope = Envelope {
        id: EventId::generate(&SystemIds),
        source: "/control/test".into(),
        time: SystemClock.now(),
        tenant: None,
        actor: "system".into(),
        causation: None,
        event,
    };
    let messages = vec![envelope.encode().into()];
    DesiredSet { revision, heartbeat_interval_ms, lease_ms, cameras: Vec::new(), messages }
}

/// Interval and lease in milliseconds.
fn times(agent: &Agent) -> (u128, Lease) {
    (agent.heartbeats.interval.as_millis(), *agent.lease.borrow())
}

fn lease(ms: u64) -> Lease {
    Lease::new(Duration::from_millis(ms))
}

#[tokio::test]
async fn interval_and_lease_are_taken_from_the_newest_set_and_remembered() {
    let archive = tempfile::tempdir().unwrap();
    let (mut agent, tasks) = started(&archive).await;
    assert_eq!(times(&agent), (1_000, lease(3_000)));
    let server_id = ServerId::generate(&SystemIds);
    agent.identity.remember(Membership { server_id, adopted: true }).unwrap().save().unwrap();
    let known = |heartbeat_interval_ms, lease_ms| Standing::Known {
        membership: Membership { server_id, adopted: true },
        heartbeat_interval_ms,
        lease_ms,
    };
    // Given what a welcome says, then it counts …
    let (standing, standing_out) = watch::channel(known(2_000, Some(6_000)));
    agent.standing = standing_out;
    agent.take_standing();
    assert_eq!(times(&agent), (2_000, lease(6_000)));
    // … until a set says something, …
    let set = set(server_id, 4_000, Some(12_000));
    agent.learn(&Learnt::Set(set.clone()));
    assert_eq!(times(&agent), (4_000, lease(12_000)));
    standing.send_replace(known(2_000, Some(6_000)));
    agent.take_standing();
    assert_eq!(times(&agent), (4_000, lease(12_000)));
    // … and after a restart what the last set said.
    std::fs::write(agent.home.path("assignments.json"), [b"[", &set.messages[0][..], b"]"].concat()).unwrap();
    agent.finish(tasks, true).await;
    let (agent, tasks) = started(&archive).await;
    assert_eq!((agent.applied, times(&agent)), (Position(7), (4_000, lease(12_000))));
    agent.finish(tasks, true).await;
}
