//! What is done, when a worker starts, about what the last one left behind.
//!
//! Every `….mp4.part` is cut to its last whole fragment, made durable and given its name, so that a crash costs what
//! was not yet flushed and nothing else. One whose disk failed to sync it is copied instead, because a second sync of
//! the same file proves nothing (see [`super::local`]); the copy gets the name, the original is moved aside. A file that makes no sense is moved aside and never deleted. Also says up to
//! when each camera is stored, so that the gap a crash tore can be told.
//!
//! Must be done before recording starts: an open segment of this process looks just like one that was left behind.
//! Invariant: running it twice changes nothing more.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use longwatch_events::fact::Codec;
use longwatch_events::hash::Sha256;
use longwatch_events::id::{CameraId, TenantId};
use longwatch_events::time::Timestamp;

use super::layout::{COPY, PART, STATE_FOLDER, SegmentName, UNSYNCED};
use super::local::{Hasher, StoredFile, mark_unsynced, note_end, rename_new, sync_folder};
use crate::fmp4::scan;
use crate::timeline::to_micros;

/// A stored segment, as its file tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Whose it is; `start` is exact to the microsecond.
    pub name: SegmentName,
    /// Time at which its last picture ends.
    pub end: Timestamp,
    /// Pictures in it.
    pub video_frames: u64,
    /// Video codec.
    pub video: Codec,
    /// Audio codec, if there is audio.
    pub audio: Option<Codec>,
}

/// A segment that was torn and is whole now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repaired {
    /// The segment.
    pub segment: Segment,
    /// Its file.
    pub file: StoredFile,
    /// How many bytes behind the last whole fragment were cut off.
    pub cut_bytes: u64,
}

/// Something a person should look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file or folder, under the archive's root.
    pub path: PathBuf,
    /// What is the matter, and what was done about it.
    pub detail: String,
}

/// What was found and done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Segments that are whole again.
    pub repaired: Vec<Repaired>,
    /// What could not be repaired.
    pub problems: Vec<Problem>,
    /// The latest segment of each camera, repaired ones included.
    pub latest: BTreeMap<(TenantId, CameraId), Segment>,
    /// The day folders that were looked at, relative to the root.
    pub days: Vec<String>,
}

impl Report {
    /// Takes what was found on another volume.
    pub fn join(&mut self, other: Self) {
        let Self { repaired, problems, latest, days } = other;
        self.repaired.extend(repaired);
        self.problems.extend(problems);
        self.days.extend(days);
        for (camera, segment) in latest {
            let newest = self.latest.entry(camera).or_insert_with(|| segment.clone());
            if segment.end > newest.end {
                *newest = segment;
            }
        }
    }
}

/// Repairs the archive in the folder `root`. Blocks. Looks at the newest `days` day folders of each camera: after a
/// crash 2 are enough, for a segment that was open is of today or of yesterday.
pub fn scan(root: &Path, days: usize) -> Report {
    let mut report = Report::default();
    for tenant in folders(root, &mut report) {
        for camera in folders(&tenant, &mut report) {
            let day_folders = folders(&camera, &mut report);
            for day in day_folders.iter().rev().take(days) {
                repair_day(root, day, &mut report);
                report.days.push(relative(root, day));
            }
        }
    }
    report
}

/// The sub-folders of `folder` by name, except the worker's own.
fn folders(folder: &Path, report: &mut Report) -> Vec<PathBuf> {
    entries(folder, report)
        .into_iter()
        .filter(|path| path.is_dir() && path.file_name().is_some_and(|name| name != STATE_FOLDER))
        .collect()
}

fn entries(folder: &Path, report: &mut Report) -> Vec<PathBuf> {
    let listed = fs::read_dir(folder)
        .and_then(|all| all.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>());
    match listed {
        Ok(mut paths) => {
            paths.sort();
            paths
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(e) => {
            report.problems.push(Problem { path: folder.into(), detail: format!("cannot be listed: {e}") });
            Vec::new()
        }
    }
}

fn repair_day(root: &Path, day: &Path, report: &mut Report) {
    let files = entries(day, report);
    for path in &files {
        let key = relative(root, path);
        let repaired = if let Some(part) = key.strip_suffix(UNSYNCED) {
            copy(root, path, part, report)
        } else if key.ends_with(PART) {
            repair(root, path)
        } else {
            continue;
        };
        match repaired {
            Ok(repaired) => report.repaired.push(repaired),
            Err(detail) => report.problems.push(Problem { path: key.into(), detail }),
        }
    }
    // Names sort by time; the last one that can be read is the latest.
    for path in entries(day, report).iter().rev() {
        let key = relative(root, path);
        let Some(name) = SegmentName::parse(&key).filter(|_| !key.ends_with(PART)) else { continue };
        match describe(path, name) {
            Ok((segment, _)) => {
                let camera = (segment.name.tenant_id, segment.name.camera_id);
                let latest = report.latest.entry(camera).or_insert_with(|| segment.clone());
                if segment.end > latest.end {
                    *latest = segment;
                }
                return;
            }
            Err(detail) => report.problems.push(Problem { path: key.into(), detail }),
        }
    }
}

fn relative(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned()
}

/// Makes one torn segment whole.
fn repair(root: &Path, part: &Path) -> Result<Repaired, String> {
    let key = relative(root, part);
    let Some(name) = SegmentName::parse(&key) else {
        return Err(set_aside(root, part, "its name is not a segment's"));
    };
    let (segment, whole) = match describe(part, name) {
        Ok(described) => described,
        Err(why) => return Err(set_aside(root, part, &why)),
    };
    let failed = |step: &str, e: io::Error| format!("cannot {step}: {e}; left for the next start");
    let file = File::options().read(true).write(true).open(part).map_err(|e| failed("open", e))?;
    let size = file.metadata().map_err(|e| failed("read its size", e))?.len();
    if size > whole {
        file.set_len(whole).map_err(|e| failed("cut", e))?;
    }
    note_end(&file, segment.end);
    if let Err(e) = file.sync_all() {
        mark_unsynced(part).map_err(|e| failed("mark what cannot be synced", e))?;
        return Err(failed("sync", e));
    }
    let sha256 = hash(&file).map_err(|e| failed("read", e))?;
    let key = key.strip_suffix(PART).unwrap_or(&key).to_owned();
    let stored = root.join(&key);
    match rename_new(part, &stored) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            return Err(set_aside(root, part, "a stored segment has its name"));
        }
        Err(e) => return Err(failed("rename", e)),
    }
    if let Some(folder) = stored.parent() {
        sync_folder(folder).map_err(|e| failed("sync the folder", e))?;
    }
    Ok(Repaired { segment, file: StoredFile { key, bytes: whole, sha256 }, cut_bytes: size - whole })
}

/// Copies what is whole of a segment whose disk failed to sync it, and moves the original aside. `part_key` is the key it
/// had before it was marked.
fn copy(root: &Path, marked: &Path, part_key: &str, report: &mut Report) -> Result<Repaired, String> {
    let (Some(name), Some(key)) = (SegmentName::parse(part_key), part_key.strip_suffix(PART)) else {
        return Err(set_aside(root, marked, "its name is not a segment's"));
    };
    let stored = root.join(key);
    if stored.exists() {
        return Err(set_aside(root, marked, "a stored segment has its name"));
    }
    let (segment, whole) = match describe(marked, name) {
        Ok(described) => described,
        Err(why) => return Err(set_aside(root, marked, &why)),
    };
    let failed = |e: io::Error| format!("cannot be copied: {e}; left for the next start");
    let size = fs::metadata(marked).map_err(failed)?.len();
    let unfinished = root.join(key.to_owned() + COPY);
    let copied = copy_durably(marked, whole, &unfinished, segment.end).and_then(|sha256| {
        rename_new(&unfinished, &stored)?;
        stored.parent().map_or(Ok(()), sync_folder)?;
        Ok(sha256)
    });
    let sha256 = copied.map_err(|e| {
        if let Err(left) = fs::remove_file(&unfinished) {
            tracing::debug!(key, error = %left, "nothing of the copy to remove");
        }
        failed(e)
    })?;
    let detail = set_aside(root, marked, "its disk failed to sync it; what can be read of it was copied");
    report.problems.push(Problem { path: relative(root, marked).into(), detail });
    let file = StoredFile { key: key.to_owned(), bytes: whole, sha256 };
    Ok(Repaired { segment, file, cut_bytes: size - whole })
}

/// Copies the first `bytes` of a file to a new one, and syncs that; replaces what an earlier attempt left. Byte by byte:
/// a reflink would share the very blocks that are in doubt.
fn copy_durably(from: &Path, bytes: u64, to: &Path, end: Timestamp) -> io::Result<Sha256> {
    match fs::remove_file(to) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        Ok(()) | Err(_) => {}
    }
    let mut copy = File::options().read(true).write(true).create_new(true).open(to)?;
    let (mut left, mut buffer) = (File::open(from)?.take(bytes), vec![0; 256 << 10]);
    let mut copied = 0;
    loop {
        match left.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => {
                copy.write_all(&buffer[..read])?;
                copied += read as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    if copied != bytes {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    note_end(&copy, end);
    copy.sync_all()?;
    hash(&copy)
}

/// Moves a file to where nothing reads it as an archive; says what was done.
fn set_aside(root: &Path, path: &Path, why: &str) -> String {
    let folder = root.join(STATE_FOLDER).join("unreadable");
    let flat = relative(root, path).replace('/', "_");
    let moved = fs::create_dir_all(&folder).and_then(|()| {
        let free = (0..1_000)
            .map(|n| folder.join(if n == 0 { flat.clone() } else { format!("{flat}.{n}") }))
            .find(|to| !to.exists())
            .ok_or(io::ErrorKind::AlreadyExists)?;
        rename_new(path, &free)?;
        sync_folder(&folder)?;
        path.parent().map_or(Ok(()), sync_folder)
    });
    match moved {
        Ok(()) => format!("{why}; moved to {STATE_FOLDER}/unreadable"),
        Err(e) => format!("{why}; cannot be moved aside: {e}"),
    }
}

fn hash(mut file: &File) -> io::Result<Sha256> {
    file.seek(SeekFrom::Start(0))?;
    let (mut hasher, mut buffer) = (Hasher::new(), vec![0; 256 << 10]);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(read) => hasher.update(&buffer[..read]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// The largest box whose content is read: a `moof` of a fragment with tens of thousands of frames.
const MAX_CONTENT: u64 = 16 << 20;

/// Reads what a segment's file tells of itself, and how many bytes of it are whole. Blocks; reads no samples.
///
/// # Errors
///
/// For a person, if there is not one whole fragment in it.
pub fn describe(path: &Path, mut name: SegmentName) -> Result<(Segment, u64), String> {
    let mut boxes = BoxFile::open(path).map_err(|e| format!("cannot be opened: {e}"))?;
    let mut movie = None;
    let mut pending: Option<scan::FragmentInfo> = None;
    let (mut frames, mut end_units, mut whole) = (0, 0, None);
    while let Some(header) = boxes.next_header().map_err(|e| format!("cannot be read: {e}"))? {
        match &header.kind {
            b"mdat" => {
                let Some(info) = pending.take() else { break };
                if header.bytes != header.header_bytes + info.sample_bytes {
                    break;
                }
                frames += info.video_frames;
                end_units = info.video_end;
                whole = Some(boxes.position + header.bytes);
            }
            kind => {
                let Some(content) = boxes.content(header).map_err(|e| format!("cannot be read: {e}"))? else {
                    break;
                };
                match kind {
                    b"ftyp" => {}
                    b"moov" => movie = scan::movie(&content),
                    b"prft" => name.start = scan::reference_time(&content, name.start).unwrap_or(name.start),
                    b"moof" => pending = scan::fragment(&content),
                    _ => break,
                }
            }
        }
        boxes.position += header.bytes;
    }
    let movie = movie.ok_or("it has no header that can be read")?;
    let whole = whole.ok_or("it has not one whole fragment")?;
    let timescale = std::num::NonZeroU32::new(movie.video_timescale).ok_or("its timescale is 0")?;
    let end = name.start.plus_micros(to_micros(i64::try_from(end_units).unwrap_or(i64::MAX), timescale));
    Ok((Segment { name, end, video_frames: frames, video: movie.video, audio: movie.audio }, whole))
}

/// Walks over the boxes of a file.
struct BoxFile {
    file: File,
    size: u64,
    position: u64,
}

impl BoxFile {
    fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        Ok(Self { file, size, position: 0 })
    }

    /// The header of the box at the current position, if all of the box is in the file.
    fn next_header(&mut self) -> io::Result<Option<scan::BoxHeader>> {
        let left = self.size - self.position;
        let bytes = self.read(scan::HEADER_BYTES.min(usize::try_from(left).unwrap_or(usize::MAX)), 0)?;
        Ok(scan::box_header(&bytes).filter(|header| header.bytes <= left))
    }

    /// The content of the box at the current position; `None` if it is unreasonably large.
    fn content(&mut self, header: scan::BoxHeader) -> io::Result<Option<Vec<u8>>> {
        let bytes = header.bytes - header.header_bytes;
        match usize::try_from(bytes) {
            Ok(length) if bytes <= MAX_CONTENT => self.read(length, header.header_bytes).map(Some),
            _ => Ok(None),
        }
    }

    fn read(&mut self, length: usize, behind: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.file.seek(SeekFrom::Start(self.position + behind))?;
        self.file.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}
