//! What lies on the volumes, and what it holds. Everything here blocks, and only reads.
//!
//! Reading must not be felt by those who record: it is paced, and leaves nothing in the page cache, where it would push out
//! what somebody wants. What is in the cache of a file is let go before it is read, for the disk is to be looked at and not
//! the memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use longwatch_events::archive::Place;
use longwatch_events::id::ServerId;
use longwatch_events::time::Timestamp;
use rustix::fs::{Advice, fadvise};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::archive::Archive;
use crate::archive::inventory::{self, Day, date_of};
use crate::archive::layout::{SegmentName, UPLOADED};
use crate::archive::local::Hasher;
use crate::archive::volume::Volume;
use crate::plan::Key;
use crate::scrub::Content;

/// What is read at once.
const CHUNK: usize = 512 << 10;
/// No pause is longer than this without a look at whether to stop.
const NAP: Duration = Duration::from_millis(50);
/// Files that are looked at together, if there are so many in a day or two: they are held in memory.
const FILES: usize = 2_000;

/// The volumes of this server.
#[derive(Clone)]
pub(in super::super) struct Disks {
    /// Those of `archive`, in its order.
    pub(in super::super) volumes: Vec<Volume>,
    /// Knows which of them failed.
    pub(in super::super) archive: Archive,
    /// Volumes that were told of and could not be used from the start.
    pub(in super::super) missing: usize,
}

/// A part of the archive: from a place up to another one, which does not belong to it, or to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stretch {
    /// Its beginning.
    pub(super) from: Place,
    /// Its end.
    pub(super) until: Option<Place>,
}

/// A file with the name of a segment of this server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    /// Where it is.
    pub(super) path: PathBuf,
    /// When it got its name.
    pub(super) named_at: Timestamp,
    /// What its name says.
    pub(super) name: SegmentName,
}

/// What lies in a stretch.
#[derive(Debug)]
pub(super) struct Found {
    /// By key; on one volume, and by mistake on several.
    pub(super) files: BTreeMap<String, Vec<Listed>>,
    /// Files that are not this server's segments.
    pub(super) foreign: u64,
    /// Every volume is there and all of the stretch on it could be listed.
    pub(super) is_whole: bool,
    /// The stretch that was looked at: shorter than asked for if there is much in it.
    pub(super) stretch: Stretch,
}

/// The place a name stands for: a key holds milliseconds.
pub(super) const fn place_of(name: &SegmentName) -> Place {
    Place { tenant_id: name.tenant_id, camera_id: name.camera_id, start: name.start }
}

impl Stretch {
    pub(super) fn holds(&self, place: Place) -> bool {
        self.from <= place && self.until.is_none_or(|until| place < until)
    }

    /// Whether there can be anything of this camera in it.
    fn touches(&self, camera: Key) -> bool {
        let of = |place: Place| Key { tenant_id: place.tenant_id, camera_id: place.camera_id };
        of(self.from) <= camera && self.until.is_none_or(|until| camera <= of(until))
    }

    /// Whether there can be anything of this day in it.
    fn touches_day(&self, day: &Day) -> bool {
        let of = |place: Place| (place.tenant_id, place.camera_id, date_of(place.start));
        let this = (day.camera.tenant_id, day.camera.camera_id, day.date.clone());
        of(self.from) <= this && self.until.is_none_or(|until| this <= of(until))
    }
}

/// Where a day begins.
fn begin_of(day: &Day) -> Place {
    let start = format!("{}T00:00:00Z", day.date).parse().unwrap_or(Timestamp::UNIX_EPOCH);
    Place { tenant_id: day.camera.tenant_id, camera_id: day.camera.camera_id, start }
}

impl Disks {
    /// Whether all volumes are there.
    fn are_all_there(&self) -> bool {
        self.missing == 0 && (0..self.volumes.len()).all(|at| !self.archive.has_failed(at))
    }

    /// Lists what lies in `stretch`, of `server_id`.
    pub(super) fn list(&self, server_id: ServerId, stretch: Stretch) -> Found {
        let mut is_whole = self.are_all_there();
        let mut days = BTreeMap::<(Key, String), Vec<Day>>::new();
        for (at, volume) in self.volumes.iter().enumerate() {
            if self.archive.has_failed(at) {
                continue;
            }
            match days_in(&volume.root, stretch) {
                Ok(found) => {
                    found
                        .into_iter()
                        .for_each(|day| days.entry((day.camera, day.date.clone())).or_default().push(day));
                }
                Err(error) => {
                    tracing::warn!(root = %volume.root.display(), %error, "a volume cannot be listed; it is examined the next time");
                    is_whole = false;
                }
            }
        }
        let mut found = Found { files: BTreeMap::new(), foreign: 0, is_whole, stretch };
        for copies in days.into_values() {
            if found.files.len() >= FILES {
                found.stretch.until = copies.first().map(begin_of);
                break;
            }
            for day in copies {
                found.take(server_id, &day);
            }
        }
        found
    }

    /// What holds files under `key` now, and whether that could be told of every volume.
    pub(super) fn find(&self, key: &str) -> (Vec<PathBuf>, bool) {
        let (mut paths, mut is_whole) = (Vec::new(), self.are_all_there());
        for (at, volume) in self.volumes.iter().enumerate() {
            let path = volume.root.join(key);
            if self.archive.has_failed(at) {
                continue;
            }
            match path.symlink_metadata() {
                Ok(_) => paths.push(path),
                Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
                Err(_) => is_whole = false,
            }
        }
        (paths, is_whole)
    }

    /// Whether the segment of `key` left for the object store, and the log may not have been told yet. To be asked after
    /// [`Self::find`]: what was found then by neither name is gone, and so the fact that it is uploaded is in the outbox.
    pub(super) fn is_uploaded(&self, key: &str) -> bool {
        let uploaded = format!("{key}{UPLOADED}");
        self.volumes.iter().any(|volume| volume.root.join(&uploaded).symlink_metadata().is_ok())
    }

    /// Whether the volume under `path` is still used.
    pub(super) fn is_used(&self, path: &Path) -> bool {
        let on = self.volumes.iter().position(|volume| path.starts_with(&volume.root));
        on.is_some_and(|at| !self.archive.has_failed(at))
    }
}

fn days_in(root: &Path, stretch: Stretch) -> io::Result<Vec<Day>> {
    let mut days = Vec::new();
    for (camera, folder) in inventory::cameras(root)? {
        if stretch.touches(camera) {
            days.extend(
                inventory::days_of(camera, &folder)?.into_iter().filter(|day| stretch.touches_day(day)),
            );
        }
    }
    Ok(days)
}

impl Found {
    fn take(&mut self, server_id: ServerId, day: &Day) {
        let look = match inventory::look(day) {
            Ok(look) => look,
            Err(error) => {
                tracing::warn!(folder = %day.folder.display(), %error, "a day cannot be listed; it is examined the next time");
                self.is_whole = false;
                return;
            }
        };
        // A day may be looked at several times, and is counted once.
        if self.stretch.holds(begin_of(day)) {
            self.foreign += look.foreign;
        }
        for listed in look.segments {
            let name = listed.name;
            if !self.stretch.holds(place_of(&name)) {
                continue;
            }
            if name.server_id != server_id {
                self.foreign += 1;
                continue;
            }
            let file = name.key();
            let path = day.folder.join(file.rsplit('/').next().unwrap_or_default());
            let listed = Listed { path, named_at: listed.named_at, name };
            self.files.entry(file).or_default().push(listed);
        }
    }
}

/// Lets so many bytes pass in a second.
#[derive(Debug)]
pub(super) struct Pace {
    bytes_per_second: u64,
    /// From when on more may pass.
    free_at: Instant,
}

impl Pace {
    pub(super) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), free_at: Instant::now() }
    }

    /// Waits for what has passed; false: to be stopped.
    fn wait(&mut self, bytes: usize, stop: &CancellationToken) -> bool {
        let now = Instant::now();
        let micros = (bytes as u128).saturating_mul(1_000_000) / u128::from(self.bytes_per_second);
        let takes = Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX));
        // What was not used before is not caught up with.
        self.free_at = self.free_at.max(now) + takes.min(Duration::from_secs(3_600));
        while !stop.is_cancelled() {
            let left = self.free_at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            std::thread::sleep(left.min(NAP));
        }
        false
    }
}

/// What came of reading a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Examined {
    /// What it holds.
    Holds(Content),
    /// It is not there any more.
    Gone,
    /// It cannot be told now: this process lacks something, or is to stop.
    Unknown,
}

/// Reads a file and says what it holds. `go_on` is asked now and then.
pub(super) fn examine(
    path: &Path,
    pace: &mut Pace,
    stop: &CancellationToken,
    go_on: impl Fn() -> bool,
) -> Examined {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Examined::Gone,
        Err(e) => return failed(path, 0, &e),
    };
    let size = file.metadata().map_or(0, |about| about.len());
    let (mut buffer, mut hasher, mut bytes) = (vec![0; CHUNK], Hasher::new(), 0);
    forget(&file);
    let examined = loop {
        match file.read(&mut buffer) {
            Ok(0) => {
                break Examined::Holds(Content::Read { bytes, sha256: hasher.finish() });
            }
            Ok(read) => {
                hasher.update(&buffer[..read]);
                bytes += read as u64;
                if !pace.wait(read, stop) || !go_on() {
                    break Examined::Unknown;
                }
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => break failed(path, size, &e),
        }
    };
    forget(&file);
    examined
}

/// Lets go what the page cache has of a file. Not every file system can, and then it stays until somebody needs the room.
fn forget(file: &File) {
    if let Err(error) = fadvise(file, 0, None, Advice::DontNeed) {
        tracing::debug!(%error, "the page cache keeps a file that was examined");
    }
}

fn failed(path: &Path, bytes: u64, error: &io::Error) -> Examined {
    use rustix::io::Errno;
    tracing::warn!(path = %path.display(), %error, "a segment cannot be read");
    // These say nothing about the file.
    let lacking = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::AGAIN, Errno::STALE, Errno::TIMEDOUT];
    if Errno::from_io_error(error).is_some_and(|errno| lacking.contains(&errno)) {
        return Examined::Unknown;
    }
    Examined::Holds(Content::Unreadable { bytes })
}
