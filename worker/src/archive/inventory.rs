//! What lies on a volume: cameras, their days, and the segments of a day. Read from the disk each time, for only the disk
//! knows; but a day whose folder did not change since is not read again for its sum.
//!
//! Says nothing of open segments, of copies that are not finished, or of files with names that are not ours. All calls
//! block.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use longwatch_events::id::{CameraId, TenantId};
use longwatch_events::time::Timestamp;

use super::layout::{COPY, SegmentName, UNSYNCED, UPLOADED};
use crate::plan::Key;

/// A folder of a day so long ago is not about to be used: two days.
const IDLE_MS: i64 = 2 * 24 * 60 * 60 * 1_000;

/// A day of one camera.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Day {
    /// `YYYY-MM-DD`, in UTC: the day on which its segments begin. First, so that days sort by it.
    pub date: String,
    /// Whose.
    pub camera: Key,
    /// Its folder.
    pub folder: PathBuf,
}

/// A stored segment, as the file system shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Which.
    pub name: SegmentName,
    /// Time at which its last frame ends: its file's time of modification, see [`super::local::OpenSegment::cut`]. Later
    /// than its start.
    pub end: Timestamp,
    /// Size of its file.
    pub bytes: u64,
    /// When its file got its name, or was touched last.
    pub named_at: Timestamp,
}

/// The days on the volume at `root`, the oldest first, ties in the order of cameras.
///
/// # Errors
///
/// If a folder cannot be listed. One that is not there any more is no error.
pub fn days(root: &Path) -> io::Result<Vec<Day>> {
    let mut days = Vec::new();
    for (camera, folder) in cameras(root)? {
        days.extend(days_of(camera, &folder)?);
    }
    days.sort();
    Ok(days)
}

/// The cameras on the volume at `root`, with their folders, in their order.
///
/// # Errors
///
/// As [`days`].
pub fn cameras(root: &Path) -> io::Result<BTreeMap<Key, PathBuf>> {
    let mut cameras = BTreeMap::new();
    for (tenant, tenant_folder) in sub_folders(root)? {
        let Some(tenant_id) = id::<TenantId>(&tenant) else { continue };
        for (camera, folder) in sub_folders(&tenant_folder)? {
            if let Some(camera_id) = id::<CameraId>(&camera) {
                cameras.insert(Key { tenant_id, camera_id }, folder);
            }
        }
    }
    Ok(cameras)
}

/// The days in the folder of a camera, the oldest first.
///
/// # Errors
///
/// As [`days`].
pub fn days_of(camera: Key, folder: &Path) -> io::Result<Vec<Day>> {
    let mut days = Vec::new();
    for (date, folder) in sub_folders(folder)? {
        if let Some(date) = date.to_str().filter(|date| is_date(date)) {
            days.push(Day { date: date.to_owned(), camera, folder });
        }
    }
    days.sort();
    Ok(days)
}

/// The date on which `at` lies, as folders are named.
pub fn date_of(at: Timestamp) -> String {
    at.to_string().split('T').next().unwrap_or_default().to_owned()
}

fn id<T: std::str::FromStr>(name: &OsStr) -> Option<T> {
    name.to_str()?.parse().ok()
}

fn is_date(name: &str) -> bool {
    format!("{name}T00:00:00Z").parse::<Timestamp>().is_ok_and(|at| date_of(at) == name)
}

fn sub_folders(folder: &Path) -> io::Result<Vec<(std::ffi::OsString, PathBuf)>> {
    let Some(entries) = present(fs::read_dir(folder))? else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push((entry.file_name(), entry.path()));
        }
    }
    Ok(found)
}

fn present<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// The segments of a day, by name.
///
/// # Errors
///
/// If the folder or a file cannot be looked at. What is not there any more is no error.
pub fn segments(day: &Day) -> io::Result<Vec<Listed>> {
    Ok(look(day)?.segments)
}

/// What is in the folder of a day.
#[derive(Debug, Default)]
pub struct Look {
    /// Its segments, by name.
    pub segments: Vec<Listed>,
    /// How many files have names that no worker gives.
    pub foreign: u64,
}

/// All that is in the folder of a day.
///
/// # Errors
///
/// As [`segments`].
pub fn look(day: &Day) -> io::Result<Look> {
    let Some(entries) = present(fs::read_dir(&day.folder))? else { return Ok(Look::default()) };
    let Key { tenant_id, camera_id } = day.camera;
    let (mut found, mut foreign) = (Vec::new(), 0);
    for entry in entries {
        let entry = entry?;
        let file = entry.file_name();
        let name = |file: &str| SegmentName::parse(&format!("{tenant_id}/{camera_id}/{}/{file}", day.date));
        let Some(file) = file.to_str() else {
            foreign += 1;
            continue;
        };
        let Some(name) = name(file).filter(|_| file.ends_with(".mp4")) else {
            // One that is open, could not be synced, is being copied, or was uploaded.
            let is_ours = |file: &str| name(file.strip_suffix(COPY).unwrap_or(file)).is_some();
            let file = file.strip_suffix(UPLOADED).unwrap_or(file);
            foreign += u64::from(!is_ours(file.strip_suffix(UNSYNCED).unwrap_or(file)));
            continue;
        };
        let Some(about) = present(entry.metadata())? else { continue };
        let end = end_of(&about, &name);
        let named_at = time(about.ctime(), about.ctime_nsec());
        found.push(Listed { name, end, bytes: about.len(), named_at });
    }
    found.sort_by_key(|listed| listed.name);
    Ok(Look { segments: found, foreign })
}

/// Time at which the last frame of a segment ends, as its file tells it; later than its start.
pub fn end_of(file: &fs::Metadata, name: &SegmentName) -> Timestamp {
    time(file.mtime(), file.mtime_nsec()).max(name.start.plus_millis(1))
}

/// What is left of segments of a day that were uploaded, by name: where it lies.
///
/// # Errors
///
/// If the folder cannot be listed.
pub fn uploaded(day: &Day) -> io::Result<Vec<(SegmentName, PathBuf)>> {
    let Some(entries) = present(fs::read_dir(&day.folder))? else { return Ok(Vec::new()) };
    let Key { tenant_id, camera_id } = day.camera;
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let file = entry.file_name();
        let Some(file) = file.to_str().and_then(|file| file.strip_suffix(UPLOADED)) else { continue };
        if let Some(name) = SegmentName::parse(&format!("{tenant_id}/{camera_id}/{}/{file}", day.date)) {
            found.push((name, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

fn time(seconds: i64, nanoseconds: i64) -> Timestamp {
    Timestamp::from_micros(seconds.saturating_mul(1_000_000).saturating_add(nanoseconds / 1_000))
}

/// Removes the folders of a segment's day, its camera and its tenant that have nothing in them any more and are not about to
/// be used. `start` is the segment's, which is gone.
pub fn remove_if_empty(root: &Path, key: &str, start: Timestamp, now: Timestamp) {
    let is_idle = date_of(start) < date_of(now.plus_millis(-IDLE_MS));
    if !is_idle {
        return;
    }
    for folder in root.join(key).ancestors().skip(1).take_while(|folder| *folder != root) {
        // It is not empty, which is how this normally ends.
        if fs::remove_dir(folder).is_err() {
            return;
        }
    }
}

/// Sums of days, as long as their folders do not change.
#[derive(Debug, Default)]
pub struct Sums(BTreeMap<PathBuf, Sum>);

#[derive(Debug, Clone, Copy)]
struct Sum {
    /// When the folder changed last.
    changed: (i64, i64),
    bytes: u64,
}

impl Sums {
    /// Bytes of the segments of `day`.
    ///
    /// # Errors
    ///
    /// As [`segments`].
    pub fn of(&mut self, day: &Day) -> io::Result<u64> {
        // Before it is listed: what changes meanwhile is seen the next time.
        let Some(folder) = present(fs::metadata(&day.folder))? else { return Ok(0) };
        let changed = (folder.mtime(), folder.mtime_nsec());
        if let Some(sum) = self.0.get(&day.folder).filter(|sum| sum.changed == changed) {
            return Ok(sum.bytes);
        }
        let bytes = segments(day)?.iter().map(|listed| listed.bytes).sum();
        self.0.insert(day.folder.clone(), Sum { changed, bytes });
        Ok(bytes)
    }

    /// Forgets days that are not among `days`.
    pub fn keep_only(&mut self, days: &[Day]) {
        let folders: std::collections::BTreeSet<_> = days.iter().map(|day| &day.folder).collect();
        self.0.retain(|folder, _| folders.contains(folder));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::layout::PART;
    use longwatch_events::id::{ServerId, SystemIds};
    use longwatch_events::position::Epoch;

    fn put(root: &Path, camera: Key, start: &str, suffix: &str, bytes: usize) -> SegmentName {
        let start: Timestamp = start.parse().unwrap();
        let Key { tenant_id, camera_id } = camera;
        let server_id = ServerId::generate(&SystemIds);
        let name = SegmentName { tenant_id, camera_id, start, epoch: Epoch(1), server_id };
        let path = root.join(name.key() + suffix);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, vec![0; bytes]).unwrap();
        name
    }

    #[test]
    fn stored_segments_are_found_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let camera = || Key { tenant_id: TenantId::DEFAULT, camera_id: CameraId::generate(&SystemIds) };
        let (a, b) = (camera(), camera());
        let second = put(root.path(), a, "2026-11-24T00:00:01Z", "", 7);
        let first = put(root.path(), b, "2026-11-23T23:59:00Z", "", 5);
        put(root.path(), a, "2026-11-24T00:01:00Z", PART, 1_000);
        put(root.path(), a, "2026-11-24T00:02:00Z", ".part.unsynced", 1_000);
        put(root.path(), a, "2026-11-24T00:02:00Z", COPY, 1_000);
        let sent = put(root.path(), a, "2026-11-24T00:03:00Z", UPLOADED, 1_000);
        fs::create_dir_all(root.path().join(".longwatch/unreadable")).unwrap();
        fs::create_dir_all(root.path().join(format!("{}/{}/2026-13-01", a.tenant_id, a.camera_id))).unwrap();
        let day = root.path().join(format!("{}/{}/2026-11-24", a.tenant_id, a.camera_id));
        fs::write(day.join("holiday.mp4"), "somebody's").unwrap();
        let days = days(root.path()).unwrap();
        let dates: Vec<_> = days.iter().map(|day| (day.date.as_str(), day.camera)).collect();
        assert_eq!(dates, [("2026-11-23", b), ("2026-11-24", a)]);
        let listed: Vec<_> = days.iter().flat_map(|day| segments(day).unwrap()).collect();
        assert_eq!(days.iter().map(|day| look(day).unwrap().foreign).collect::<Vec<_>>(), [0, 1]);
        let left = |day: &Day| uploaded(day).unwrap().into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(days.iter().flat_map(left).collect::<Vec<_>>(), [sent]);
        let names = |listed: &[Listed]| listed.iter().map(|l| (l.name.key(), l.bytes)).collect::<Vec<_>>();
        assert_eq!(names(&listed), [(first.key(), 5), (second.key(), 7)]);
        // A file that was written after its video ended long ago says so.
        assert!(listed.iter().all(|listed| listed.end > listed.name.start));
    }

    #[test]
    fn a_sum_follows_what_is_stored_and_removed() {
        let root = tempfile::tempdir().unwrap();
        let camera = Key { tenant_id: TenantId::DEFAULT, camera_id: CameraId::generate(&SystemIds) };
        let name = put(root.path(), camera, "2026-11-24T00:00:01Z", "", 7);
        let day = days(root.path()).unwrap().remove(0);
        let mut sums = Sums::default();
        assert_eq!(sums.of(&day).unwrap(), 7);
        put(root.path(), camera, "2026-11-24T00:02:01Z", "", 20);
        assert_eq!(sums.of(&day).unwrap(), 27);
        fs::remove_file(root.path().join(name.key())).unwrap();
        assert_eq!(sums.of(&day).unwrap(), 20);
        fs::remove_dir_all(&day.folder).unwrap();
        assert_eq!((sums.of(&day).unwrap(), segments(&day).unwrap()), (0, vec![]));
        sums.keep_only(&[]);
        assert!(sums.0.is_empty());
    }
}
