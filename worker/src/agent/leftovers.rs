//! What the last run of the worker left behind: torn segments, segments it may not have reported, and breaks in
//! recordings whose gap is still to be told.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use aws_lc_rs::digest;
use longwatch_events::fact::{Cause, Fact, SegmentStored};
use longwatch_events::hash::Sha256;
use longwatch_events::id::{CameraId, TenantId};
use longwatch_events::time::{Clock, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;

use crate::archive::repair::{self, Repaired, Report, Segment};
use crate::camera::Break;
use crate::durable;
use crate::identity::Home;
use crate::plan::Key;

/// A segment that was open at a crash is of today or of yesterday.
const DAYS: usize = 2;
/// What was stored so long before the last batch of facts was surely in one of them: gathering takes 0.2 s, the rest
/// is for a slow disk.
const SURELY_REPORTED: Duration = Duration::from_secs(60);

/// What was found.
#[derive(Debug)]
pub(super) struct Leftovers {
    /// Facts to report.
    pub(super) facts: Vec<Fact>,
    /// Where cameras resume.
    pub(super) resume: BTreeMap<Key, Break>,
    /// Segments that may not have been reported. Reporting one twice changes nothing.
    pub(super) doubtful: Vec<Segment>,
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
    if let Err(error) = durable::remove(&path) {
        // It would make a crash of this run look like a clean stop.
        tracing::error!(path = %path.display(), %error, "cannot remove the last run's note; not using it");
        return None;
    }
    match serde_json::from_slice(&bytes) {
        Ok(note) => Some(note),
        Err(error) => {
            tracing::error!(%error, "cannot understand how the last run ended; taking it for a crash");
            None
        }
    }
}

/// Looks, and repairs what is torn. Must be done before anything is recorded, and before the outbox is opened: when its
/// folder changed last is evidence. Blocks.
pub(super) fn find(archive: &Path, home: &Home) -> Leftovers {
    let note = take_note(home);
    let report = repair::scan(archive, DAYS);
    for problem in &report.problems {
        tracing::error!(path = %problem.path.display(), detail = problem.detail, "problem in the archive");
    }
    let unreported_since = match &note {
        Some(_) => None,
        None => Some(last_report(&home.path("outbox"))),
    };
    let facts: Vec<_> = report.repaired.iter().map(repaired_fact).collect();
    if !report.latest.is_empty() || !report.problems.is_empty() {
        let (repaired, problems) = (facts.len(), report.problems.len());
        tracing::info!(clean_stop = note.is_some(), repaired, problems, "took over what the last run left");
    }
    Leftovers {
        doubtful: unreported_since.map_or_else(Vec::new, |since| doubtful(archive, &report, since)),
        resume: resume(note, &report),
        facts,
    }
}

/// Where each camera resumes: as the note says, or from the end of its latest segment.
fn resume(note: Option<CleanStop>, report: &Report) -> BTreeMap<Key, Break> {
    let (cause, breaks) = match note {
        Some(note) => (Cause::WorkerStopped, note.breaks),
        None => (Cause::WorkerRestarted, Vec::new()),
    };
    let latest = report.latest.iter().map(|((tenant_id, camera_id), segment)| {
        (Key { tenant_id: *tenant_id, camera_id: *camera_id }, Break { end: segment.end, cause })
    });
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

fn stored(segment: &Segment, key: String, bytes: u64, sha256: Sha256, repaired: bool) -> Fact {
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

/// Latest segments that got their name too late for a crash to have let them be reported for sure.
fn doubtful(archive: &Path, report: &Report, last_report: Timestamp) -> Vec<Segment> {
    let margin_ms = i64::try_from(SURELY_REPORTED.as_millis()).unwrap_or(i64::MAX);
    let since = last_report.plus_millis(-margin_ms);
    let named_at = |segment: &Segment| {
        let file = std::fs::metadata(archive.join(segment.name.key())).ok()?;
        Some(Timestamp::from_millis(file.ctime() * 1_000))
    };
    let repaired =
        |segment: &Segment| report.repaired.iter().any(|repaired| repaired.segment.name == segment.name);
    report
        .latest
        .values()
        .filter(|segment| !repaired(segment) && named_at(segment).is_some_and(|at| at >= since))
        .cloned()
        .collect()
}

/// Reports doubtful segments until cancelled; reads each of them once. Blocks.
pub(super) fn report_again(
    archive: &Path,
    doubtful: &[Segment],
    facts: &UnboundedSender<Fact>,
    cancel: &CancellationToken,
) {
    for segment in doubtful.iter().take_while(|_| !cancel.is_cancelled()) {
        let key = segment.name.key();
        match hash(&archive.join(&key)) {
            // Nobody takes facts any more: the next start does it again.
            Ok((bytes, sha256)) => {
                if facts.send(stored(segment, key, bytes, sha256, false)).is_err() {
                    return;
                }
            }
            Err(error) => tracing::error!(key, %error, "segment cannot be read; not reported again"),
        }
    }
}

fn hash(path: &Path) -> io::Result<(u64, Sha256)> {
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
mod tests {
    use super::*;
    use crate::archive::layout::SegmentName;
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

    fn report(segments: &[(Key, Segment)]) -> Report {
        let latest = segments.iter().map(|(key, segment)| ((key.tenant_id, key.camera_id), segment.clone()));
        Report { latest: latest.collect(), ..Report::default() }
    }

    #[test]
    fn a_note_counts_once() {
        let archive = tempfile::tempdir().unwrap();
        let home = Home::take(archive.path()).unwrap();
        let open = BTreeMap::from([(key(), Break { end: SystemClock.now(), cause: Cause::Refused })]);
        leave_note(&home, &SystemClock, &open).unwrap();
        assert_eq!(find(archive.path(), &home).resume, open);
        assert!(find(archive.path(), &home).resume.is_empty());
    }

    #[test]
    fn a_camera_resumes_where_it_stopped_and_for_the_cause_it_stopped() {
        let (crashed, stopped) = (key(), key());
        let found = report(&[(crashed, segment(crashed)), (stopped, segment(stopped))]);
        let end = segment(crashed).end;
        let after_crash = resume(None, &found);
        assert_eq!(after_crash[&crashed], Break { end, cause: Cause::WorkerRestarted });
        let breaks = vec![OpenBreak {
            tenant_id: stopped.tenant_id,
            camera_id: stopped.camera_id,
            end,
            cause: Cause::Stalled,
        }];
        let after_stop = resume(Some(CleanStop { at: SystemClock.now(), breaks }), &found);
        assert_eq!(after_stop[&stopped], Break { end, cause: Cause::Stalled });
        assert_eq!(after_stop[&crashed], Break { end, cause: Cause::WorkerStopped });
    }

    #[test]
    fn what_a_crash_may_have_kept_from_being_reported_is_reported_again() {
        let archive = tempfile::tempdir().unwrap();
        let (key, content) = (key(), b"a segment");
        let segment = segment(key);
        let path = archive.path().join(segment.name.key());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        let found = report(&[(key, segment.clone())]);
        // Given a last batch long after the segment was stored, it was in it; given one just before, who knows.
        let now = SystemClock.now();
        assert!(doubtful(archive.path(), &found, now.plus_millis(120_000)).is_empty());
        let in_doubt = doubtful(archive.path(), &found, now.plus_millis(-120_000));
        assert_eq!(in_doubt, std::slice::from_ref(&segment));
        let (facts, mut facts_out) = tokio::sync::mpsc::unbounded_channel();
        report_again(archive.path(), &in_doubt, &facts, &CancellationToken::new());
        let Ok(Fact::SegmentStored(stored)) = facts_out.try_recv() else { panic!("nothing was reported") };
        assert_eq!((stored.bytes, stored.sha256), (9, Sha256::of(content)));
        assert_eq!((stored.key, stored.repaired), (segment.name.key(), false));
    }
}
