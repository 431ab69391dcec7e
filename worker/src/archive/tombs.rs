//! Deletions that are under way: decided, durably, before anything is removed, and remembered until the fact of each is
//! durable too. So whenever the process ends, the next one finishes what was begun and tells what was not told.
//!
//! Commit order, each step only after the one before it succeeded: write the intention here, `fdatasync`; unlink; `fsync`
//! the folders; put the fact into the outbox; forget the intention. A file whose intention is not durable is never touched.
//!
//! The file never grows and is never replaced, because it must be written when the disk is full: it has room for two
//! records of [`ROOM`] bytes, allocated when it is made, which are written in turn. A record is
//! `<SHA-256 of the rest, hex> <length of the JSON>\n<JSON>`; of the two the one that is whole and has the higher number
//! counts, so that a record torn by a power cut leaves the one before it, which holds all that was begun.
//!
//! Where there is no room to make the file, the first segment that is to go gives its own ([`Tombs::make_of`]): it is moved
//! to where the file will be, under a name that says all that will be told of it, which takes no room. That is the durable
//! note of its deletion. Then it is cut, overwritten with a record, and gets the file's name. All calls block.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use longwatch_events::fact::{Fact, SegmentDeleted};
use longwatch_events::hash::Sha256;
use longwatch_events::id::VolumeId;
use longwatch_events::time::Timestamp;
use longwatch_events::wire::v1;
use serde::{Deserialize, Serialize};

use super::layout::SegmentName;
use super::local::{BLOCK, rename_new};

/// Bytes of one record.
const ROOM: usize = 256 << 10;
/// As many intentions fit into a record, whatever their keys are.
pub const MAX: usize = 400;

/// A segment that is to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intention {
    /// The volume it lies on, by the id in its folder.
    pub volume: VolumeId,
    /// What will be told of it.
    pub fact: SegmentDeleted,
}

/// As it stands in the file.
#[derive(Serialize, Deserialize)]
struct Record {
    number: u64,
    intentions: Vec<Written>,
}

#[derive(Serialize, Deserialize)]
struct Written {
    volume: VolumeId,
    fact: v1::SegmentDeleted,
}

/// The file.
#[derive(Debug)]
pub struct Tombs {
    path: PathBuf,
    volume: VolumeId,
    allocate: Allocate,
    /// `None`: there was no room for it yet.
    list: Option<List>,
    number: u64,
    open: Vec<Intention>,
    begun: Begun,
}

/// Gives a new file its room. Where tests let a disk be full.
type Allocate = fn(&File) -> io::Result<()>;

/// The file, once it is made.
#[derive(Debug)]
struct List {
    file: File,
    /// Bytes of one of its records.
    room: usize,
}

/// The keys of what is begun and not forgotten, for others to look at. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Begun(Arc<Mutex<BTreeSet<String>>>);

impl Begun {
    fn keys(&self) -> MutexGuard<'_, BTreeSet<String>> {
        // Every change under the lock is a whole one.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those of `keys` that are begun.
    pub fn among<'a>(&self, keys: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
        let begun = self.keys();
        keys.into_iter().filter(|key| begun.contains(*key)).map(str::to_owned).collect()
    }

    fn set(&self, open: &[Intention]) {
        *self.keys() = open.iter().map(|intention| intention.fact.key.clone()).collect();
    }
}

impl Tombs {
    /// Opens the file at `path`, with what an earlier run began and did not finish; makes it if it is missing and there is
    /// room. It lies on the volume with this id.
    ///
    /// # Errors
    ///
    /// If the disk fails. That it is full is no error: see [`Self::make_of`].
    pub fn open(path: &Path, volume: VolumeId) -> io::Result<Self> {
        Self::open_with(path, volume, |file| {
            // Written, not only lengthened: a hole would want room later.
            file.write_all_at(&vec![0; 2 * ROOM], 0)?;
            file.sync_all()
        })
    }

    /// The same, where new files get their room from `allocate`.
    pub(crate) fn open_with(path: &Path, volume: VolumeId, allocate: Allocate) -> io::Result<Self> {
        let (path, begun) = (path.to_owned(), Begun::default());
        let mut tombs = Self { path, volume, allocate, list: None, number: 0, open: Vec::new(), begun };
        tombs.find()?;
        for (note, intention) in tombs.notes()? {
            tombs.take_over(&note, intention)?;
        }
        match tombs.make() {
            Err(e) if e.kind() == ErrorKind::StorageFull => {
                tracing::error!(
                    "there is no room for the list of deletions; the first segment that is to go makes it"
                );
            }
            made => made?,
        }
        tombs.begun.set(&tombs.open);
        Ok(tombs)
    }

    /// Takes up the file as an earlier run left it. One that holds no record is none: its making came to no end.
    fn find(&mut self) -> io::Result<()> {
        let file = match OpenOptions::new().read(true).write(true).open(&self.path) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e),
        };
        let size = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX).min(2 * ROOM);
        let mut content = vec![0; size];
        file.read_exact_at(&mut content, 0)?;
        let room = size / 2;
        let newest = content.chunks(room.max(1)).filter_map(read).max_by_key(|record| record.number);
        if newest.is_some() || room == ROOM {
            self.list = Some(List { file, room });
        }
        if let Some(Record { number, intentions }) = newest {
            let read = |written: Written| Intention { volume: written.volume, fact: written.fact.into() };
            (self.number, self.open) = (number, intentions.into_iter().map(read).collect());
        }
        Ok(())
    }

    /// Makes the file, if it is not made.
    fn make(&mut self) -> io::Result<()> {
        if self.list.is_some() {
            return Ok(());
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true).mode(0o600);
        let file = options.open(&self.path)?;
        let made = (self.allocate)(&file).and_then(|()| sync_folder_of(&self.path));
        if made.is_err() {
            // What it got would be missing elsewhere.
            fs::remove_file(&self.path)?;
        }
        made?;
        self.list = Some(List { file, room: ROOM });
        Ok(())
    }

    /// Whether there is a file to note deletions in.
    pub const fn is_made(&self) -> bool {
        self.list.is_some()
    }

    /// Begins the deletion of one segment below `root`, of the volume that the file lies on, and makes the file of its file,
    /// for want of any other room. Once it returns, that segment is gone.
    ///
    /// # Errors
    ///
    /// If the disk fails, or the file is made already. Whether it is begun the next start knows.
    pub fn make_of(&mut self, root: &Path, intention: &Intention) -> io::Result<()> {
        if self.is_made() || intention.volume != self.volume {
            return Err(ErrorKind::InvalidInput.into());
        }
        let (from, note) =
            (root.join(&intention.fact.key), self.path.with_file_name(note_of(&intention.fact)));
        rename_new(&from, &note)?;
        // First where it is now: a power cut may leave both names, and then the one in the archive goes as any other.
        sync_folder_of(&note)?;
        sync_folder_of(&from)?;
        let taken = self.take_over(&note, intention.clone());
        self.begun.set(&self.open);
        taken
    }

    /// The files of segments that were to become the file, with what their names say.
    fn notes(&self) -> io::Result<Vec<(PathBuf, Intention)>> {
        let mut notes = Vec::new();
        for entry in fs::read_dir(self.path.parent().unwrap_or(&self.path))? {
            let entry = entry?;
            if let Some(fact) = entry.file_name().to_str().and_then(fact_of) {
                notes.push((entry.path(), Intention { volume: self.volume, fact }));
            }
        }
        Ok(notes)
    }

    /// Makes the file of one whose name notes a deletion, or lets it go if the file is made.
    fn take_over(&mut self, note: &Path, intention: Intention) -> io::Result<()> {
        if !self.open.iter().any(|known| known.fact.key == intention.fact.key) {
            self.open.push(intention);
        }
        if self.list.is_some() {
            let open = self.open.clone();
            self.write(&open)?;
            return fs::remove_file(note);
        }
        let file = OpenOptions::new().read(true).write(true).open(note)?;
        let size = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX).min(2 * ROOM);
        let room = size / 2 / BLOCK * BLOCK;
        if room == 0 {
            // It gave what it had.
            tracing::warn!(note = %note.display(), "a segment was too small to make the list of deletions of it");
            return fs::remove_file(note);
        }
        file.set_len(2 * room as u64)?;
        self.list = Some(List { file, room });
        let open = self.open.clone();
        let made = self.write(&open).and_then(|()| fs::rename(note, &self.path));
        if made.is_err() {
            self.list = None;
        }
        made?;
        sync_folder_of(&self.path)
    }

    /// The volume that the file lies on.
    pub const fn volume(&self) -> VolumeId {
        self.volume
    }

    /// What others see of [`Self::begun`].
    pub fn shown(&self) -> Begun {
        self.begun.clone()
    }

    /// What was begun and is not known to be told.
    pub fn begun(&self) -> &[Intention] {
        &self.open
    }

    /// How many more can be begun now, as soon as the file is made.
    pub fn room(&self) -> usize {
        let room = self.list.as_ref().map_or(ROOM, |list| list.room);
        (MAX * room / ROOM).saturating_sub(self.open.len())
    }

    /// Begins these: once it returns, they may be unlinked.
    ///
    /// # Errors
    ///
    /// If the disk fails or has no room to make the file, or if there are more than [`Self::room`]. None of them is begun then, though some may be at the
    /// next start: nothing says how much of a record reached the disk.
    pub fn begin(&mut self, intentions: &[Intention]) -> io::Result<()> {
        if intentions.len() > self.room() {
            return Err(io::Error::new(ErrorKind::StorageFull, "too many deletions wait to be reported"));
        }
        self.make()?;
        let mut open = self.open.clone();
        open.extend_from_slice(intentions);
        self.write(&open)?;
        self.open = open;
        self.begun.set(&self.open);
        Ok(())
    }

    /// Forgets those for which `is_over`: their facts are durable, or they did not come to pass. Until the next
    /// [`Self::begin`] or [`Self::tidy`] only in memory; a start in between tells them once more.
    pub fn forget(&mut self, is_over: impl Fn(&Intention) -> bool) {
        self.open.retain(|intention| !is_over(intention));
        self.begun.set(&self.open);
    }

    /// Makes durable what was forgotten.
    ///
    /// # Errors
    ///
    /// If the disk fails.
    pub fn tidy(&mut self) -> io::Result<()> {
        let open = self.open.clone();
        self.write(&open)
    }

    fn write(&mut self, open: &[Intention]) -> io::Result<()> {
        let full = || io::Error::new(ErrorKind::StorageFull, "too many deletions wait to be reported");
        let Some(List { file, room }) = &self.list else { return Err(full()) };
        let number = self.number + 1;
        let written =
            |intention: &Intention| Written { volume: intention.volume, fact: intention.fact.clone().into() };
        let record = Record { number, intentions: open.iter().map(written).collect() };
        let json = serde_json::to_vec(&record).map_err(io::Error::other)?;
        let rest = [format!("{}\n", json.len()).as_bytes(), &json].concat();
        let bytes = [format!("{} ", Sha256::of(&rest)).as_bytes(), &rest].concat();
        if bytes.len() > *room {
            return Err(full());
        }
        let place = if number.is_multiple_of(2) { 0 } else { *room as u64 };
        file.write_all_at(&bytes, place)?;
        file.sync_data()?;
        self.number = number;
        Ok(())
    }
}

/// What the name of a file begins with that is to become the list, and notes a deletion.
const NOTE: &str = "deletions~";

/// The name that notes a deletion: all that will be told of it.
fn note_of(fact: &SegmentDeleted) -> String {
    let SegmentDeleted { key, end, bytes, at, reason, before_min_age, .. } = fact;
    let key = key.replace('/', "~");
    let (end, at, before) = (end.as_micros(), at.as_micros(), u8::from(*before_min_age));
    format!("{NOTE}{key}~{end}~{bytes}~{at}~{reason}~{before}")
}

/// What a name says that [`note_of`] made.
fn fact_of(name: &str) -> Option<SegmentDeleted> {
    let mut words = name.strip_prefix(NOTE)?.split('~');
    let key: Vec<_> = words.by_ref().take(4).collect();
    let key = key.join("/");
    let segment = SegmentName::parse(&key)?;
    let end = Timestamp::from_micros(words.next()?.parse().ok()?);
    let bytes = words.next()?.parse().ok()?;
    let at = Timestamp::from_micros(words.next()?.parse().ok()?);
    let reason = serde_json::from_value(words.next()?.into()).ok()?;
    let before_min_age = words.next()? == "1";
    Some(SegmentDeleted {
        tenant_id: segment.tenant_id,
        camera_id: segment.camera_id,
        epoch: segment.epoch,
        key,
        start: segment.start,
        end,
        bytes,
        at,
        reason,
        before_min_age,
        store_id: None,
        recorded_by: None,
    })
}

fn sync_folder_of(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// The record in one half of the file; `None` if there is none, or not a whole one.
fn read(half: &[u8]) -> Option<Record> {
    let (hash, rest) = half.split_at_checked(64)?;
    let rest = rest.strip_prefix(b" ")?;
    let line = rest.iter().take(16).position(|byte| *byte == b'\n')?;
    let length: usize = std::str::from_utf8(&rest[..line]).ok()?.parse().ok()?;
    let all = rest.get(..(line + 1).checked_add(length)?)?;
    if Sha256::of(all).to_string().as_bytes() != hash {
        return None;
    }
    serde_json::from_slice(&all[line + 1..]).ok()
}

/// Removes the file of each intention below its volume's folder, and makes that durable. Returns those that are gone now;
/// the others it says why they are not.
pub fn remove<'a>(
    intentions: impl IntoIterator<Item = &'a Intention>,
    root_of: impl Fn(&Intention) -> Option<&'a Path>,
) -> (Vec<&'a Intention>, Vec<(&'a Intention, io::Error)>) {
    let (mut unlinked, mut failed) = (Vec::new(), Vec::new());
    for intention in intentions {
        let Some(root) = root_of(intention) else {
            failed.push((intention, io::Error::new(ErrorKind::NotFound, "its volume is not there")));
            continue;
        };
        let path = root.join(&intention.fact.key);
        match fs::remove_file(&path) {
            Ok(()) => unlinked.push((path, intention)),
            Err(e) if e.kind() == ErrorKind::NotFound => unlinked.push((path, intention)),
            Err(e) => failed.push((intention, e)),
        }
    }
    let mut folders: std::collections::BTreeMap<_, Result<(), ErrorKind>> = std::collections::BTreeMap::new();
    let mut gone = Vec::new();
    for (path, intention) in unlinked {
        let folder = path.parent().unwrap_or(&path).to_owned();
        match folders.entry(folder).or_insert_with_key(|folder| sync(folder)) {
            Ok(()) => gone.push(intention),
            Err(kind) => failed.push((intention, (*kind).into())),
        }
    }
    (gone, failed)
}

fn sync(folder: &Path) -> Result<(), ErrorKind> {
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        Ok(()) => Ok(()),
        // Nothing is in a folder that is not there.
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e.kind()),
    }
}

impl Intention {
    /// The fact of it.
    pub fn to_fact(&self) -> Fact {
        Fact::SegmentDeleted(self.fact.clone())
    }
}

#[cfg(test)]
mod tests;
