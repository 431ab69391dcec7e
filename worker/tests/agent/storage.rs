//! What a worker does about its archive: a full disk, video that is to go, and a kill at any moment of both.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use longwatch_events::assignment::AssignedCamera;
use longwatch_events::event::Storage;
use longwatch_events::fact::{Cause, Codec, DeletionReason, Fact, SegmentDeleted, SegmentStored};
use longwatch_events::hash::Sha256;
use longwatch_events::id::TenantId;
use longwatch_events::position::Epoch;
use longwatch_events::settings::Retention;
use longwatch_events::time::Timestamp;
use longwatch_worker::archive::layout::SegmentName;
use longwatch_worker::fmp4::{Muxer, init};
use longwatch_worker::frame::{Arrival, Tracks, VideoFrame, VideoTrack};
use mp4_atom::{Any, DecodeMaybe};
use tokio::time::Instant;

use crate::playing::PlayingCamera;
use crate::system::{System, camera, camera_id, eventually};

/// A file system of its own in memory; unmounted when dropped.
struct Tmpfs(PathBuf);

impl Tmpfs {
    /// `None` if this process may not mount.
    fn mount(at: &Path, mebibytes: u32) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let size = format!("size={mebibytes}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(at.into())),
            refused => {
                println!(
                    "NOT TESTED: a full disk: a tmpfs cannot be mounted here (it takes root): {refused:?}"
                );
                None
            }
        }
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        if let Err(error) = Command::new("umount").arg("--lazy").arg(&self.0).status() {
            println!("{} stays mounted: {error}", self.0.display());
        }
    }
}

/// Stored segments, by key.
pub(crate) fn files(archive: &Path) -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    let mut folders = vec![archive.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let key = path.strip_prefix(archive).unwrap().to_str().unwrap().to_owned();
            if path.is_dir() && !key.starts_with('.') {
                folders.push(path);
            } else if key.ends_with(".mp4") {
                found.insert(key, path);
            }
        }
    }
    found
}

pub(crate) fn stored(facts: &[Fact]) -> Vec<&SegmentStored> {
    facts
        .iter()
        .filter_map(|fact| if let Fact::SegmentStored(stored) = fact { Some(stored) } else { None })
        .collect()
}

pub(crate) fn deleted(facts: &[Fact]) -> Vec<&SegmentDeleted> {
    facts
        .iter()
        .filter_map(|fact| if let Fact::SegmentDeleted(deleted) = fact { Some(deleted) } else { None })
        .collect()
}

/// Puts a segment of a camera that left this server long ago, as large as `mebibytes`.
pub(crate) fn put_old(system: &System, number: u32, minute: i64, mebibytes: usize) -> String {
    let start: Timestamp = "2026-01-02T03:00:00Z".parse().unwrap();
    let start = start.plus_millis(minute * 60_000);
    let (tenant_id, camera_id) = (TenantId::DEFAULT, camera_id(number));
    let key = SegmentName { tenant_id, camera_id, start, epoch: Epoch(1), server_id: system.server_id }.key();
    let video = VideoTrack {
        codec: Codec::H264,
        timescale: NonZeroU32::new(90_000).unwrap(),
        sample_entry: Bytes::from_static(b"\0\0\0\x08avc1"),
        width: 640,
        height: 360,
    };
    let tracks = Tracks { video, audio: None, metadata: None, not_recorded: Vec::new() };
    let mut muxer = Muxer::new(&tracks);
    let (data, arrival) = (vec![b'.'; mebibytes << 20].into(), Arrival { at: start, monotonic_us: 0 });
    muxer.push_video(&VideoFrame { data, media_time: 0, random_access: true, arrival });
    let fragment = muxer.finish_fragment(Some(60 * 90_000)).unwrap().unwrap();
    let mut content = init::header(&tracks, start);
    content.extend_from_slice(&fragment.head);
    fragment.samples.iter().for_each(|sample| content.extend_from_slice(sample));
    let path = system.path("archive").join(&key);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, content).unwrap();
    let end = Duration::from_millis(u64::try_from(start.plus_millis(60_000).as_millis()).unwrap());
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + end).unwrap();
    key
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_the_newest_video_is_recorded_and_held_video_stays() {
    let system = System::start().await;
    let archive = system.path("archive");
    let Some(_tmpfs) = Tmpfs::mount(&archive, 64) else { return };
    // Given 64 MiB of which 8 are held video and 40 old video that nobody holds …
    let held: BTreeSet<_> = (0..8).map(|minute| put_old(&system, 8, minute, 1)).collect();
    let old: BTreeSet<_> = (0..40).map(|minute| put_old(&system, 9, 100 + minute, 1)).collect();
    let hold = serde_json::json!({ "tenant_id": TenantId::DEFAULT, "camera_id": camera_id(8),
        "from": "2026-01-02T03:00:00Z", "to": "2026-01-02T03:08:00Z", "why": "case 17" });
    std::fs::create_dir_all(archive.join(".longwatch")).unwrap();
    std::fs::write(archive.join(".longwatch/holds.json"), serde_json::json!({ "holds": [hold] }).to_string())
        .unwrap();
    // … and two cameras that send a mebibyte a second each.
    let playing = [PlayingCamera::sending(42_000).await, PlayingCamera::sending(42_000).await];
    system.write_join_key();
    let worker = system.start_worker_with(&["--keep-free-percent", "10", "--segment-ms", "1000"]);
    let key = system.joined().await.public_key;
    let cameras = playing.iter().zip(1..).map(|(playing, n)| camera(n, 1, &playing.url(), key)).collect();
    system.assign(1, vec![cameras]).await;
    let recording = system.heartbeat_that("both are recorded", |h| h.load.recording == 2).await;
    assert_eq!(recording.load.storage, Storage::Ok);

    // When there is too little space, then everybody hears of it within 10 s …
    let low = |free: u64, total: u64| free < total / 10;
    system
        .heartbeat_that("the disk is nearly full", |h| low(h.load.disk_free_bytes, h.load.disk_total_bytes))
        .await;
    let full_at = Instant::now();
    system.heartbeat_that("the alarm is raised", |h| h.load.storage == Storage::Low).await;
    assert!(full_at.elapsed() < Duration::from_secs(10), "it took {:?}", full_at.elapsed());

    // … and the oldest video goes, then older video of the cameras themselves, …
    eventually("video of this very run goes", async || {
        let facts = system.facts().await;
        deleted(&facts).iter().any(|gone| gone.camera_id == camera_id(1)).then_some(())
    })
    .await;
    assert_eq!(worker.terminate().await, Some(0));
    let facts = system.facts().await;
    let gone: Vec<_> = deleted(&facts);
    assert!(gone.iter().all(|gone| gone.reason == DeletionReason::VolumeFull && !gone.before_min_age));
    let gone_keys: BTreeSet<_> = gone.iter().map(|gone| gone.key.clone()).collect();
    // … of each camera all but the newest segment, …
    assert_eq!(old.difference(&gone_keys).count(), 1, "{gone_keys:?}");
    assert!(old.iter().next_back().is_some_and(|newest| !gone_keys.contains(newest)));
    // … in the order of its age, …
    assert!(gone.iter().is_sorted_by_key(|gone| (gone.at, gone.end)));
    // … while what is held stays, …
    let files = files(&archive);
    assert!(held.iter().all(|key| files.contains_key(key)));
    // … nothing is missing of what was recorded meanwhile, …
    let failed = |fact: &&Fact| matches!(fact, Fact::Interrupted(told) if told.cause == Cause::StorageError);
    assert_eq!(facts.iter().find(failed), None);
    // … and the log says just what is on the disk.
    let told: BTreeSet<_> = stored(&facts).iter().map(|stored| stored.key.clone()).collect();
    let expected: BTreeSet<_> =
        told.union(&old).chain(&held).filter(|key| !gone_keys.contains(*key)).collect();
    assert_eq!(files.keys().collect::<BTreeSet<_>>(), expected);
}

/// Takes all the room there is, to the last byte.
fn fill(path: &Path) {
    let mut file = std::fs::File::create(path).unwrap();
    for size in [1 << 20, 4_096, 1] {
        let chunk = vec![b'.'; size];
        while std::io::Write::write_all(&mut file, &chunk).is_ok() {}
    }
    assert!(std::fs::write(path.with_extension("more"), "x").is_err(), "there is room left");
    let _ = std::fs::remove_file(path.with_extension("more"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_of_this_version_on_a_disk_full_to_the_last_byte_makes_room_and_records() {
    let system = System::start().await;
    let archive = system.path("archive");
    let Some(_tmpfs) = Tmpfs::mount(&archive, 64) else { return };
    // Given a server that recorded before it kept a list of deletions, until nothing more was written …
    let playing = PlayingCamera::sending(42_000).await;
    system.write_join_key();
    let worker = system.start_worker_with(&["--segment-ms", "1000"]);
    let key = system.joined().await.public_key;
    system.assign(1, vec![vec![camera(1, 1, &playing.url(), key)]]).await;
    system.heartbeat_that("it is recorded", |h| h.load.recording == 1).await;
    worker.kill().await;
    let list = archive.join(".longwatch/deletions");
    std::fs::remove_file(&list).unwrap();
    // Nor did its volume have an id.
    std::fs::remove_file(archive.join(".longwatch/volume.json")).unwrap();
    std::fs::remove_file(archive.join(".longwatch/volumes.json")).unwrap();
    // Cutting what the kill tore would make room.
    let camera_folder = archive.join(format!("{}/{}", TenantId::DEFAULT, camera_id(1)));
    for day in std::fs::read_dir(camera_folder).unwrap() {
        for file in std::fs::read_dir(day.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "part") {
                std::fs::remove_file(path).unwrap();
            }
        }
    }
    let old: BTreeSet<_> = (0..30).map(|minute| put_old(&system, 9, minute, 1)).collect();
    fill(&archive.join("filler"));

    // … when it starts …
    let worker = system.start_worker_with(&["--keep-free-percent", "10", "--segment-ms", "1000"]);

    // … then the oldest video goes, and it records again.
    eventually("room is made", async || {
        let facts = system.facts().await;
        (deleted(&facts).len() > 5).then_some(())
    })
    .await;
    let before = stored(&system.facts().await).iter().filter(|f| f.camera_id == camera_id(1)).count();
    eventually("segments are stored again", async || {
        let facts = system.facts().await;
        (stored(&facts).iter().filter(|f| f.camera_id == camera_id(1)).count() > before + 2).then_some(())
    })
    .await;
    assert_eq!(worker.terminate().await, Some(0));
    let facts = system.facts().await;
    let gone: BTreeSet<_> = deleted(&facts).iter().map(|gone| gone.key.clone()).collect();
    assert!(deleted(&facts).iter().all(|gone| gone.reason == DeletionReason::VolumeFull));
    assert!(old.iter().next().is_some_and(|oldest| gone.contains(oldest)), "{gone:?}");
    // What was told is what was done, and the list is there for the next full disk.
    let files = files(&archive);
    assert!(gone.iter().all(|key| !files.contains_key(key)));
    assert!(old.iter().all(|key| gone.contains(key) != files.contains_key(key)));
    let list = std::fs::read(list).unwrap();
    assert!(
        list.windows(1_000).any(|some| some.iter().all(|byte| *byte == b'.')),
        "its room was a segment's"
    );
}

/// How often the worker is killed; `LONGWATCH_KILLS` says otherwise.
fn kills() -> u32 {
    std::env::var("LONGWATCH_KILLS").map_or(20, |kills| kills.parse().expect("LONGWATCH_KILLS is a number"))
}

/// A file that another parser reads to its end, and in which there is video.
fn opens(path: &Path) {
    let content = std::fs::read(path).unwrap();
    let (mut rest, mut kinds) = (&content[..], Vec::new());
    while !rest.is_empty() {
        let atom = Any::decode_maybe(&mut rest).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let atom = atom.unwrap_or_else(|| panic!("{} ends in the middle of a box", path.display()));
        let kind = [
            ("moov", matches!(atom, Any::Moov(_))),
            ("moof", matches!(atom, Any::Moof(_))),
            ("mdat", matches!(atom, Any::Mdat(_))),
        ];
        kinds.extend(kind.iter().filter(|(_, is_it)| *is_it).map(|(name, _)| *name));
    }
    assert!(kinds.len() >= 3 && kinds[..3] == ["moov", "moof", "mdat"], "{}: {kinds:?}", path.display());
}

#[tokio::test(flavor = "multi_thread")]
async fn whenever_it_is_killed_while_it_records_and_deletes_disk_and_log_agree() {
    let (system, kills) = (System::start().await, kills());
    let archive = system.path("archive");
    let playing = [PlayingCamera::sending(900).await, PlayingCamera::sending(900).await];
    system.write_join_key();
    let arguments = ["--keep-free-percent", "0", "--segment-ms", "1000", "--retention-interval-ms", "200"];
    let mut worker = system.start_worker_with(&arguments);
    let key = system.joined().await.public_key;
    // So little that something must go with every segment.
    let retention = Some(Retention { max_bytes: Some(60_000), ..Retention::default() });
    let of = |(playing, number): (&PlayingCamera, u32)| AssignedCamera {
        retention,
        ..camera(number, 1, &playing.url(), key)
    };
    system.assign(1, vec![playing.iter().zip(1..).map(of).collect()]).await;
    for kill in 0..kills {
        system.heartbeat_that("it records", |h| h.load.recording > 0).await;
        // From right away to in the middle of some segment, while the archive is looked after.
        tokio::time::sleep(Duration::from_micros(rand::random_range(0..3_000_000))).await;
        let before = system.heartbeat().await.unwrap().boot_id;
        worker.kill().await;
        worker = system.start_worker_with(&arguments);
        system.heartbeat_that(&format!("it is back after kill {kill}"), |h| h.boot_id != before).await;
    }
    eventually("all is told", async || {
        let facts = system.facts().await;
        (deleted(&facts).len() >= usize::try_from(kills.min(4)).unwrap()).then_some(())
    })
    .await;
    assert_eq!(worker.terminate().await, Some(0));

    let facts = system.facts().await;
    let (stored, deleted) = (stored(&facts), deleted(&facts));
    let gone: BTreeSet<_> = deleted.iter().map(|gone| gone.key.as_str()).collect();
    let files = files(&archive);
    let on_disk: BTreeSet<_> = files.keys().map(String::as_str).collect();
    let told: BTreeSet<_> = stored.iter().map(|stored| stored.key.as_str()).collect();
    println!("{kills} kills: {} stored, {} deleted, {} on the disk", told.len(), gone.len(), on_disk.len());
    assert_eq!(on_disk.intersection(&gone).next(), None, "told as deleted, and there");
    let unreported: Vec<_> = on_disk.difference(&told).collect();
    assert!(unreported.is_empty(), "on the disk, and never told: {unreported:?}");
    let lost: Vec<_> = told.difference(&on_disk).filter(|key| !gone.contains(*key)).collect();
    assert!(lost.is_empty(), "told as stored, never as deleted, and not there: {lost:?}");
    let never_stored: Vec<_> = gone.difference(&told).collect();
    assert!(never_stored.is_empty(), "deleted without ever having been told as stored: {never_stored:?}");
    for stored in stored.iter().filter(|stored| !gone.contains(stored.key.as_str())) {
        let path = &files[&stored.key];
        opens(path);
        let content = std::fs::read(path).unwrap();
        assert_eq!(
            (content.len() as u64, Sha256::of(&content)),
            (stored.bytes, stored.sha256),
            "{}",
            stored.key
        );
    }
    // A deletion is never told before what it deletes.
    let first =
        |key: &str, is: fn(&Fact) -> Option<&str>| facts.iter().position(|fact| is(fact) == Some(key));
    for key in gone {
        let stored_at =
            first(key, |fact| if let Fact::SegmentStored(f) = fact { Some(&f.key) } else { None });
        let deleted_at =
            first(key, |fact| if let Fact::SegmentDeleted(f) = fact { Some(&f.key) } else { None });
        assert!(stored_at < deleted_at, "{key}");
    }
}
