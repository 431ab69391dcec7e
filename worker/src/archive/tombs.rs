//! Deletions that are under way: decided, durably, before anything is removed, and remembered until the fact of each is
//! durable too. So whenever the process ends, the next one finishes what was begun and tells what was not told.
//!
//! Commit order, each step only after the one before it succeeded: write the intention here, `fdatasync`; unlink; `fsync`
//! the folders; put the fact into the outbox; forget the intention. A file whose intention is not durable is never touched.
//!
//! The file never grows and is never replaced, because it must be written when the disk is full: it has room for two
//! records of [`ROOM`] bytes, allocated when it is made, which are written in turn. A record is
//! `<SHA-256 of the rest, hex> <length of the JSON>\n<JSON>`; of the two the one that is whole and has the higher number
//! counts, so that a record torn by a power cut leaves the one before it, which holds all that was begun. All calls block.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use longwatch_events::fact::{Fact, SegmentDeleted};
use longwatch_events::hash::Sha256;
use longwatch_events::id::VolumeId;
use longwatch_events::wire::v1;
use serde::{Deserialize, Serialize};

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
    file: File,
    number: u64,
    open: Vec<Intention>,
    begun: Begun,
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
    /// Opens the file at `path`, with what an earlier run began and did not finish; makes it if it is missing.
    ///
    /// # Errors
    ///
    /// If the disk fails, or has no room for it when it is made.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(path)?;
        let mut content = vec![0; 2 * ROOM];
        let size = file.metadata()?.len();
        if size < content.len() as u64 {
            // Written, not only lengthened: a hole would want room later.
            file.write_all_at(&content, 0)?;
            file.sync_all()?;
            path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())?;
        }
        file.read_exact_at(&mut content, 0)?;
        let newest = content.chunks(ROOM).filter_map(read).max_by_key(|record| record.number);
        let (number, intentions) =
            newest.map_or((0, Vec::new()), |record| (record.number, record.intentions));
        let read = |written: Written| Intention { volume: written.volume, fact: written.fact.into() };
        let open: Vec<_> = intentions.into_iter().map(read).collect();
        let begun = Begun::default();
        begun.set(&open);
        Ok(Self { file, number, open, begun })
    }

    /// What others see of [`Self::begun`].
    pub fn shown(&self) -> Begun {
        self.begun.clone()
    }

    /// What was begun and is not known to be told.
    pub fn begun(&self) -> &[Intention] {
        &self.open
    }

    /// How many more can be begun now.
    pub const fn room(&self) -> usize {
        MAX.saturating_sub(self.open.len())
    }

    /// Begins these: once it returns, they may be unlinked.
    ///
    /// # Errors
    ///
    /// If the disk fails, or if there are more than [`Self::room`]. None of them is begun then, though some may be at the
    /// next start: nothing says how much of a record reached the disk.
    pub fn begin(&mut self, intentions: &[Intention]) -> io::Result<()> {
        if intentions.len() > self.room() {
            return Err(io::Error::new(ErrorKind::StorageFull, "too many deletions wait to be reported"));
        }
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
        let number = self.number + 1;
        let written =
            |intention: &Intention| Written { volume: intention.volume, fact: intention.fact.clone().into() };
        let record = Record { number, intentions: open.iter().map(written).collect() };
        let json = serde_json::to_vec(&record).map_err(io::Error::other)?;
        let rest = [format!("{}\n", json.len()).as_bytes(), &json].concat();
        let bytes = [format!("{} ", Sha256::of(&rest)).as_bytes(), &rest].concat();
        if bytes.len() > ROOM {
            return Err(io::Error::new(ErrorKind::StorageFull, "too many deletions wait to be reported"));
        }
        let place = if number.is_multiple_of(2) { 0 } else { ROOM as u64 };
        self.file.write_all_at(&bytes, place)?;
        self.file.sync_data()?;
        self.number = number;
        Ok(())
    }
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
mod tests {
    use super::*;
    use longwatch_events::fact::DeletionReason;
    use longwatch_events::id::{CameraId, SystemIds, TenantId};
    use longwatch_events::position::Epoch;
    use longwatch_events::time::Timestamp;

    fn intention(number: i64) -> Intention {
        let start = Timestamp::from_millis(1_795_420_800_000 + number);
        let camera_id = CameraId::generate(&SystemIds);
        let (server, tenant_id) = ("01935700-0000-7000-8002-000000000001", TenantId::DEFAULT);
        let fact = SegmentDeleted {
            tenant_id,
            camera_id,
            epoch: Epoch(u64::MAX),
            key: format!("{tenant_id}/{camera_id}/2026-11-23/08-00-00.123Z_{}_{server}.mp4", u64::MAX),
            start,
            end: start.plus_millis(60_000),
            bytes: u64::MAX,
            at: start,
            reason: DeletionReason::CameraBytes,
            before_min_age: true,
        };
        Intention { volume: "01935700-0000-7000-8009-000000000001".parse().unwrap(), fact }
    }

    #[test]
    fn what_is_begun_is_found_by_the_next_start_until_it_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deletions");
        let (first, second) = (intention(1), intention(2));
        let mut tombs = Tombs::open(&path).unwrap();
        assert_eq!(tombs.begun(), []);
        tombs.begin(std::slice::from_ref(&first)).unwrap();
        tombs.begin(std::slice::from_ref(&second)).unwrap();
        let size = fs::metadata(&path).unwrap().len();
        let mut tombs = Tombs::open(&path).unwrap();
        assert_eq!(tombs.begun(), [first.clone(), second.clone()]);
        tombs.forget(|intention| *intention == first);
        assert_eq!(Tombs::open(&path).unwrap().begun().len(), 2, "in memory only");
        tombs.tidy().unwrap();
        assert_eq!(Tombs::open(&path).unwrap().begun(), [second]);
        assert_eq!(fs::metadata(&path).unwrap().len(), size);
    }

    #[test]
    fn a_torn_record_leaves_what_was_begun_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deletions");
        let first = intention(1);
        let mut tombs = Tombs::open(&path).unwrap();
        tombs.begin(std::slice::from_ref(&first)).unwrap();
        let before = fs::read(&path).unwrap();
        tombs.begin(&[intention(2)]).unwrap();
        let after = fs::read(&path).unwrap();
        // Whatever part of the second record did not reach the disk, the first one is there.
        let changed: Vec<_> = (0..after.len()).filter(|at| before[*at] != after[*at]).collect();
        for cut in changed.iter().step_by(37) {
            let torn = [&after[..*cut], &before[*cut..]].concat();
            fs::write(&path, torn).unwrap();
            assert_eq!(Tombs::open(&path).unwrap().begun(), std::slice::from_ref(&first), "cut at {cut}");
        }
    }

    #[test]
    fn as_many_fit_as_are_promised() {
        let folder = tempfile::tempdir().unwrap();
        let mut tombs = Tombs::open(&folder.path().join("deletions")).unwrap();
        let most: Vec<_> = (0..400).map(intention).collect();
        assert_eq!(tombs.room(), most.len());
        tombs.begin(&most).unwrap();
        assert_eq!(tombs.room(), 0);
        assert!(tombs.begin(&[intention(1)]).is_err());
        assert_eq!(tombs.begun().len(), MAX);
    }

    #[test]
    fn a_file_that_is_gone_already_counts_as_removed_and_one_that_cannot_go_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let all: Vec<_> = (0..3).map(intention).collect();
        let path = |n: usize| folder.path().join(&all[n].fact.key);
        for n in 0..2 {
            fs::create_dir_all(path(n).parent().unwrap()).unwrap();
        }
        fs::write(path(0), "video").unwrap();
        // A folder cannot be unlinked.
        fs::create_dir(path(1)).unwrap();
        let (gone, failed) = remove(&all, |_| Some(folder.path()));
        assert_eq!(gone, [&all[0], &all[2]]);
        assert_eq!(failed.iter().map(|(intention, _)| *intention).collect::<Vec<_>>(), [&all[1]]);
        assert!(!path(0).exists());
        let (gone, failed) = remove(&all[..1], |_| None);
        assert_eq!((gone.len(), failed.len()), (0, 1));
    }
}
