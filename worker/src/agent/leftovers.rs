//! What the last run of the worker left behind: torn segments, segments it may not have reported, and breaks in
//! recordings whose gap is still to be told.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::digest;
use longwatch_events::fact::{Cause, Fact, SegmentStored};
use longwatch_events::hash::Sha256;
use longwatch_events::id::{CameraId, TenantId};
use longwatch_events::time::{Clock, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;

use super::ends::Ends;
use super::told;
use crate::archive::layout::{PART, SegmentName};
use crate::archive::repair::{self, Repaired, Report, Segment};
use crate::camera::Break;
use crate::durable;
use crate::identity::Home;
use crate::plan::Key;

/// A segment that was open at a crash is of today or of yesterday.
const DAYS: usize = 2;
/// Between the moment a segment gets its name and the one its fact is in the gathering task's hands: next to nothing,
/// the rest is for a slow disk.
pub(super) const SURELY_REPORTED: Duration = Duration::from_secs(60);

/// What was found.
#[derive(Debug)]
pub(super) struct Leftovers {
    /// Facts to report.
    pub(super) facts: Vec<Fact>,
    /// Where cameras resume.
    pub(super) resume: BTreeMap<Key, Break>,
    /// Segments that may not have been reported; `None` after a clean stop.
    pub(super) doubt: Option<Doubt>,
}

/// Which segments may not have been reported. Reporting one twice changes nothing.
#[derive(Debug)]
pub(super) struct Doubt {
    /// Where they are: volumes, and folders relative to them.
    folders: Vec<(PathBuf, String)>,
    /// They got their names between these times.
    since: Timestamp,
    until: Timestamp,
    /// Keys that this run reports anyway.
    reported: BTreeSet<String>,
}

/// The note a run leaves that ended as it was told to.
#[derive(Debug, Serialize, Deserialize)]
struct CleanStop {
    at: Timestamp,
    breaks: Vec<OpenBreak>,
}

#[derive(Debug, Serialize, Deserialize)]
struct OpenBreak {
    tenant_id: TenantId,
    camera_id: CameraId,
    end: Timestamp,
    cause: Cause,
}

const NOTE: &str = "clean_stop.json";

/// Leaves the note, with the break of each camera that is open now. Blocks.
///
/// # Errors
///
/// If it cannot be written. The next start then takes this one for a crash, which only costs it time.
pub(super) fn leave_note(home: &Home, clock: &dyn Clock, breaks: &BTreeMap<Key, Break>) -> io::Result<()> {
    let open = |(key, open): (&Key, &Break)| OpenBreak {
        tenant_id: key.tenant_id,
        camera_id: key.camera_id,
        end: open.end,
        cause: open.cause,
    };
    let note = CleanStop { at: clock.now(), breaks: breaks.iter().map(open).collect() };
    durable::replace(&home.path(NOTE), &serde_json::to_vec(&note).map_err(io::Error::other)?)
}

/// Takes the note: it counts for one start only.
fn take_note(home: &Home) -> Option<CleanStop> {
    let path = home.path(NOTE);
    let bytes = durable::read(&path).unwrap_or_else(|error| {
        tracing::error!(path = %path.display(), %error, "cannot read how the last run ended; taking it for a crash");
        None
    })?;
    let note: Option<CleanStop> = serde_json::from_slice(&bytes)
        .inspect_err(|error| tracing::error!(%error, "cannot understand how the last run ended; taking it for a crash"))
        .ok();
    if let Some(note) = &note
        && let Err(error) = told::write(&home.path(told::FILE), note.at)
    {
        // The older one that stands there is right too.
        tracing::warn!(%error, "cannot note up to when segments are reported; a crash would report more again");
    }
    if let Err(error) = durable::remove(&path) {
        // It would make a crash of this run look like a clean stop.
        tracing::error!(path = %path.display(), %error, "cannot remove the last run's note; not using it");
        return None;
    }
    note
}

/// Looks, and repairs what is torn. Must be done before anything is recorded, and before the outbox is opened: when its
/// folder changed last is evidence. Blocks.
pub(super) fn find(roots: &[PathBuf], home: &Home, uploaded: &Ends, clock: &dyn Clock) -> Leftovers {
    let until = clock.now();
    let note = take_note(home);
    let mut report = Report::default();
    let mut folders = Vec::new();
    for root in roots {
        let of_root = repair::scan(root, DAYS);
        folders.extend(of_root.days.iter().map(|day| (root.clone(), day.clone())));
        report.join(of_root);
    }
    for problem in &report.problems {
        tracing::error!(path = %problem.path.display(), detail = problem.detail, "problem in the archive");
    }
    let margin_ms = i64::try_from(SURELY_REPORTED.as_millis()).unwrap_or(i64::MAX);
    let doubt = note.is_none().then(|| Doubt {
        folders,
        since: reported_until(home).plus_millis(-margin_ms),
        until,
        reported: report.repaired.iter().map(|repaired| repaired.file.key.clone()).collect(),
    });
    let facts: Vec<_> = report.repaired.iter().map(repaired_fact).collect();
    if !report.latest.is_empty() || !report.problems.is_empty() {
        let (repaired, problems) = (facts.len(), report.problems.len());
        tracing::info!(clean_stop = note.is_some(), repaired, problems, "took over what the last run left");
    }
    Leftovers { doubt, resume: resume(note, &report, uploaded), facts }
}

/// Where each camera resumes: as the note says, or from the end of its latest segment, be it here or uploaded.
fn resume(note: Option<CleanStop>, report: &Report, uploaded: &Ends) -> BTreeMap<Key, Break> {
    let (cause, breaks) = match note {
        Some(note) => (Cause::WorkerStopped, note.breaks),
        None => (Cause::WorkerRestarted, Vec::new()),
    };
    let mut ends = uploaded.known().clone();
    for ((tenant_id, camera_id), segment) in &report.latest {
        let key = Key { tenant_id: *tenant_id, camera_id: *camera_id };
        let latest = ends.entry(key).or_insert(segment.end);
        *latest = segment.end.max(*latest);
    }
    let latest = ends.into_iter().map(|(key, end)| (key, Break { end, cause }));
    let noted = breaks.into_iter().map(|open| {
        let OpenBreak { tenant_id, camera_id, end, cause } = open;
        (Key { tenant_id, camera_id }, Break { end, cause })
    });
    latest.chain(noted).collect()
}

fn repaired_fact(repaired: &Repaired) -> Fact {
    let Repaired { segment, file, cut_bytes } = repaired;
    tracing::info!(key = file.key, cut_bytes, "segment repaired");
    stored(segment, file.key.clone(), file.bytes, file.sha256, true)
}

pub(super) fn stored(segment: &Segment, key: String, bytes: u64, sha256: Sha256, repaired: bool) -> Fact {
    Fact::SegmentStored(SegmentStored {
        tenant_id: segment.name.tenant_id,
        camera_id: segment.name.camera_id,
        epoch: segment.name.epoch,
        key,
        start: segment.name.start,
        end: segment.end,
        bytes,
        sha256,
        video_frames: segment.video_frames,
        video: segment.video,
        audio: segment.audio,
        repaired,
    })
}

/// When the last batch of facts was written: every batch changes its folder. Before all time if there was none.
fn last_report(outbox: &Path) -> Timestamp {
    std::fs::metadata(outbox)
        .map_or(Timestamp::UNIX_EPOCH, |folder| Timestamp::from_millis(folder.mtime() * 1_000))
}

/// Since when what is stored may not have been reported. Makes sure that this stands in a file of its own: the outbox's
/// folder, which is the evidence of a run that left no such file, changes with the next batch.
fn reported_until(home: &Home) -> Timestamp {
    let path = home.path(told::FILE);
    match told::read(&path) {
        Ok(Some(until)) => until,
        Ok(None) => {
            let until = last_report(&home.path("outbox"));
            if let Err(error) = told::write(&path, until) {
                tracing::error!(path = %path.display(), %error, "cannot note up to when segments are reported");
            }
            until
        }
        Err(error) => {
            tracing::error!(path = %path.display(), %error, "cannot read up to when segments are reported; all are in doubt");
            Timestamp::UNIX_EPOCH
        }
    }
}

impl Doubt {
    /// The segments in doubt, and whether all folders could be read.
    fn segments(&self) -> (Vec<(&Path, SegmentName)>, bool) {
        let (mut found, mut complete) = (Vec::new(), true);
        for (root, folder) in &self.folders {
            let listed = std::fs::read_dir(root.join(folder))
                .and_then(|all| all.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>());
            let mut names = match listed {
                Ok(names) => names,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    tracing::error!(folder, %error, "cannot look for segments that were not reported");
                    complete = false;
                    continue;
                }
            };
            names.sort();
            let key = |name: &std::ffi::OsString| Some(format!("{folder}/{}", name.to_str()?));
            let keys = names.iter().filter_map(key).filter(|key| !key.ends_with(PART));
            let in_doubt = keys.filter(|key| self.holds(root, key));
            found.extend(in_doubt.filter_map(|key| Some((&**root, SegmentName::parse(&key)?))));
        }
        (found, complete)
    }

    /// Whether a file got its name too late to have been reported for sure, and not by this run.
    fn holds(&self, root: &Path, key: &str) -> bool {
        match std::fs::metadata(root.join(key)) {
            Ok(file) => {
                let named_at = Timestamp::from_millis(file.ctime() * 1_000 + file.ctime_nsec() / 1_000_000);
                !self.reported.contains(key) && (self.since..=self.until).contains(&named_at)
            }
            // Reading it will tell what the matter is.
            Err(_) => !self.reported.contains(key),
        }
    }
}

/// Reports segments in doubt until cancelled; reads each of them once. Returns whether none is in doubt any more.
/// Blocks.
pub(super) fn report_again(
    doubt: Option<Doubt>,
    facts: &UnboundedSender<Fact>,
    cancel: &CancellationToken,
) -> bool {
    let Some(doubt) = doubt else { return true };
    let (segments, mut complete) = doubt.segments();
    tracing::info!(segments = segments.len(), since = %doubt.since, "reporting again what may not have been reported");
    for (root, name) in segments {
        if cancel.is_cancelled() {
            return false;
        }
        let key = name.key();
        let path = root.join(&key);
        let (bytes, sha256) = match hash(&path) {
            Ok(hashed) => hashed,
            // Somebody removed it: there is nothing left to report.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                tracing::error!(key, %error, "segment cannot be read; the next start reports it again");
                complete = false;
                continue;
            }
        };
        match repair::describe(&path, name) {
            Ok((segment, _)) => {
                // Nobody takes facts any more: the next start does it again.
                if facts.send(stored(&segment, key, bytes, sha256, false)).is_err() {
                    return false;
                }
            }
            // It was read just now: it will not get any better.
            Err(detail) => tracing::error!(key, detail, "segment makes no sense; not reported again"),
        }
    }
    complete
}

/// Size and hash of a file. Blocks.
pub(super) fn hash(path: &Path) -> io::Result<(u64, Sha256)> {
    let mut hasher = Hasher { context: digest::Context::new(&digest::SHA256), bytes: 0 };
    io::copy(&mut File::open(path)?, &mut hasher)?;
    let digest = hasher.context.finish();
    Ok((hasher.bytes, Sha256(digest.as_ref().try_into().expect("invariant: SHA-256 has 32 bytes"))))
}

struct Hasher {
    context: digest::Context,
    bytes: u64,
}

impl io::Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.context.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::fmp4::{Muxer, init};
    use crate::frame::{Arrival, Tracks, VideoFrame, VideoTrack};
    use longwatch_events::fact::Codec;
    use longwatch_events::id::{ServerId, SystemIds};
    use longwatch_events::position::Epoch;
    use longwatch_events::time::SystemClock;

    fn key() -> Key {
        Key { tenant_id: TenantId::DEFAULT, camera_id: CameraId::generate(&SystemIds) }
    }

    fn segment(key: Key) -> Segment {
        let start = Timestamp::from_millis(1_795_420_800_000);
        Segment {
            name: SegmentName {
                tenant_id: key.tenant_id,
                camera_id: key.camera_id,
                start,
                epoch: Epoch(3),
                server_id: ServerId::generate(&SystemIds),
            },
            end: start.plus_millis(60_000),
            video_frames: 1_500,
            video: Codec::H264,
            audio: None,
        }
    }

    fn nothing_uploaded(home: &Home) -> Ends {
        Ends::load(home.path(super::super::ends::FILE))
    }

    fn report(segments: &[(Key, Segment)]) -> Report {
        let latest = segments.iter().map(|(key, segment)| ((key.tenant_id, key.camera_id), segment.clone()));
        Report { latest: latest.collect(), ..Report::default() }
    }

    /// Stores a segment of one fragment, `minutes` after the first one.
    fn store(archive: &Path, key: Key, minutes: i64) -> SegmentName {
        let mut name = segment(key).name;
        name.start = name.start.plus_millis(minutes * 60_000);
        let path = archive.join(name.key());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, video(&name)).unwrap();
        name
    }

    /// A segment of one fragment.
    pub(in super::super) fn video(name: &SegmentName) -> Vec<u8> {
        let video = VideoTrack {
            codec: Codec::H264,
            timescale: std::num::NonZeroU32::new(90_000).unwrap(),
            sample_entry: bytes::Bytes::from_static(b"\0\0\0\x08avc1"),
            width: 640,
            height: 360,
        };
        let tracks = Tracks { video, audio: None, metadata: None, not_recorded: Vec::new() };
        let mut muxer = Muxer::new(&tracks);
        let arrival = Arrival { at: name.start, monotonic_us: 0 };
        let data = bytes::Bytes::from_static(b"a picture");
        muxer.push_video(&VideoFrame { data, media_time: 0, random_access: true, arrival });
        let fragment = muxer.finish_fragment(Some(3_600)).unwrap().unwrap();
        let mut file = init::header(&tracks, name.start);
        file.extend_from_slice(&fragment.head);
        fragment.samples.iter().for_each(|sample| file.extend_from_slice(sample));
        file
    }

    /// The keys of segments that a start reports again, and whether it got to the end.
    fn reported_again(archive: &Path, doubt: Option<Doubt>) -> (Vec<String>, bool) {
        let (facts, mut facts_out) = tokio::sync::mpsc::unbounded_channel();
        let complete = report_again(doubt, &facts, &CancellationToken::new());
        let keys = std::iter::from_fn(|| facts_out.try_recv().ok()).map(|fact| {
            let Fact::SegmentStored(stored) = fact else { panic!("{fact:?}") };
            let content = std::fs::read(archive.join(&stored.key)).unwrap();
            assert_eq!((stored.bytes, stored.sha256), (content.len() as u64, Sha256::of(&content)));
            assert!(!stored.repaired);
            stored.key
        });
        (keys.collect(), complete)
    }

    #[test]
    fn a_note_counts_once() {
        let archive = tempfile::tempdir().unwrap();
        let home = Home::take(archive.path()).unwrap();
        let open = BTreeMap::from([(key(), Break { end: SystemClock.now(), cause: Cause::Refused })]);
        leave_note(&home, &SystemClock, &open).unwrap();
        assert_eq!(
            find(&[archive.path().into()], &home, &nothing_uploaded(&home), &SystemClock).resume,
            open
        );
        assert!(
            find(&[archive.path().into()], &home, &nothing_uploaded(&home), &SystemClock).resume.is_empty()
        );
    }

    #[test]
    fn a_camera_resumes_where_it_stopped_and_for_the_cause_it_stopped() {
        let (crashed, stopped) = (key(), key());
        let found = report(&[(crashed, segment(crashed)), (stopped, segment(stopped))]);
        let end = segment(crashed).end;
        let (archive, uploaded) = (tempfile::tempdir().unwrap(), key());
        let mut ends = Ends::load(archive.path().join(super::super::ends::FILE));
        // Of one camera all is uploaded, of another all but the latest.
        ends.note([(uploaded, end.plus_millis(1)), (stopped, end.plus_millis(-1))]).unwrap();
        let after_crash = resume(None, &found, &ends);
        assert_eq!(after_crash[&crashed], Break { end, cause: Cause::WorkerRestarted });
        assert_eq!(after_crash[&uploaded].end, end.plus_millis(1));
        assert_eq!(after_crash[&stopped].end, end);
        let breaks = vec![OpenBreak {
            tenant_id: stopped.tenant_id,
            camera_id: stopped.camera_id,
            end,
            cause: Cause::Stalled,
        }];
        let after_stop = resume(Some(CleanStop { at: SystemClock.now(), breaks }), &found, &ends);
        assert_eq!(after_stop[&stopped], Break { end, cause: Cause::Stalled });
        assert_eq!(after_stop[&crashed], Break { end, cause: Cause::WorkerStopped });
    }

    #[test]
    fn all_that_a_crash_may_have_kept_from_being_reported_is_reported_again() {
        let archive = tempfile::tempdir().unwrap();
        let home = Home::take(archive.path()).unwrap();
        // Given two whole segments and an open one, of a run that never reported anything, and a crash …
        let key = key();
        let names = [0, 1, 2].map(|minutes| store(archive.path(), key, minutes));
        let open = archive.path().join(names[2].key());
        std::fs::rename(&open, archive.path().join(names[2].key() + PART)).unwrap();
        let found = find(&[archive.path().into()], &home, &nothing_uploaded(&home), &SystemClock);
        assert_eq!((found.facts.len(), found.resume.len()), (1, 1));
        let (again, complete) = reported_again(archive.path(), found.doubt);
        // … then the open one is repaired, and not only the latest of the others is in doubt.
        assert_eq!(again, [names[0].key(), names[1].key()]);
        assert!(complete);
        // And when that run crashes too, after it wrote to the outbox, all of them still are.
        std::fs::create_dir(home.path("outbox")).unwrap();
        let (again, _) = reported_again(
            archive.path(),
            find(&[archive.path().into()], &home, &nothing_uploaded(&home), &SystemClock).doubt,
        );
        assert_eq!(again, names.map(|name| name.key()));
        // And what stands before the mark is in doubt no more.
        told::write(&home.path(told::FILE), SystemClock.now().plus_millis(120_000)).unwrap();
        let (again, complete) = reported_again(
            archive.path(),
            find(&[archive.path().into()], &home, &nothing_uploaded(&home), &SystemClock).doubt,
        );
        assert_eq!((again.len(), complete), (0, true));
    }

    #[test]
    fn a_clean_stop_leaves_no_doubt_and_moves_the_mark() {
        let archive = tempfile::tempdir().unwrap();
        let home = Home::take(archive.path()).unwrap();
        store(archive.path(), key(), 0);
        leave_note(&home, &SystemClock, &BTreeMap::new()).unwrap();
        let before = SystemClock.now();
        assert!(
            find(&[archive.path().into()], &home, &nothing_uploaded(&home), &SystemClock).doubt.is_none()
        );
        let mark = told::read(&home.path(told::FILE)).unwrap().unwrap();
        assert!(mark <= before && before.millis_since(mark) < 60_000, "{mark}");
    }

    #[test]
    fn reporting_again_is_not_done_while_something_is_left() {
        let archive = tempfile::tempdir().unwrap();
        let home = Home::take(archive.path()).unwrap();
        let name = store(archive.path(), key(), 0);
        let (facts, _facts_out) = tokio::sync::mpsc::unbounded_channel();
        let stopped = CancellationToken::new();
        stopped.cancel();
        let doubt = || find(&[archive.path().into()], &home, &nothing_uploaded(&home), &SystemClock).doubt;
        assert!(!report_again(doubt(), &facts, &stopped));
        // A file that cannot be read right now stays in doubt: here a folder stands in its place.
        let doubted = doubt();
        std::fs::remove_file(archive.path().join(name.key())).unwrap();
        std::fs::create_dir(archive.path().join(name.key())).unwrap();
        let doubted = doubted.map(|doubt| Doubt { until: SystemClock.now().plus_millis(60_000), ..doubt });
        assert_eq!(reported_again(archive.path(), doubted), (vec![], false));
    }

    #[test]
    fn a_latest_file_that_makes_no_sense_does_not_cost_the_point_to_resume_from() {
        let archive = tempfile::tempdir().unwrap();
        let home = Home::take(archive.path()).unwrap();
        let key = key();
        let (older, newest) = (store(archive.path(), key, 0), store(archive.path(), key, 1));
        std::fs::write(archive.path().join(newest.key()), b"nonsense").unwrap();
        let resume = find(&[archive.path().into()], &home, &nothing_uploaded(&home), &SystemClock).resume;
        assert_eq!(resume[&key].end.millis_since(older.start), 40);
    }

    #[test]
    fn what_a_camera_left_on_several_volumes_is_one() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let home = Home::take(first.path()).unwrap();
        let key = key();
        let names = [store(first.path(), key, 0), store(second.path(), key, 5), store(first.path(), key, 2)];
        let roots = [first.path().into(), second.path().into()];
        let found = find(&roots, &home, &nothing_uploaded(&home), &SystemClock);
        assert_eq!(found.resume[&key].end.millis_since(names[1].start), 40);
        let (facts, mut facts_out) = tokio::sync::mpsc::unbounded_channel();
        assert!(report_again(found.doubt, &facts, &CancellationToken::new()));
        let told: BTreeSet<_> = std::iter::from_fn(|| facts_out.try_recv().ok())
            .map(|fact| if let Fact::SegmentStored(stored) = fact { stored.key } else { panic!("{fact:?}") })
            .collect();
        assert_eq!(told, names.iter().map(SegmentName::key).collect());
    }
}
