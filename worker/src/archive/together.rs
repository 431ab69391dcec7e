//! Makes many files of one file system durable with one request.
//!
//! A disk that is asked to flush for each of a hundred files does most of its work a hundred times: the file system's own
//! notes go there file by file, and its cache is emptied after each. syncfs(2) writes the notes of all files and empties the
//! cache once; Linux promises of it what fsync(2) promises of every file. But it also waits for what others have written, and
//! not every file system means the same by it. So it is asked for only
//! - on ext4, where that was looked at and measured;
//! - from Linux 5.8 on, before which it does not tell that data could not be written;
//! - for files that are written past the page cache: what became of nearly all of their data is known from the writes;
//! - and while little of anybody else's waits to be written.
//!
//! Before Linux 5.17 syncfs does not tell either that the file system's notes could not be written. So one of the files is
//! synced by itself at the end: of a file system that gave up, that fails.

use std::fs::File;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;

/// From so many files on; for fewer, each by itself is no dearer.
const FROM: usize = 3;
/// Others' bytes that may wait to be written: what a slow disk writes in half a second.
const MOST_DIRTY: u64 = 32 << 20;
/// Whether this process was told that it may not, or cannot, ask for it.
static IS_DENIED: AtomicBool = AtomicBool::new(false);
/// What statfs(2) says of ext4, and of its elders, which the same driver serves.
const EXT4: u64 = 0xEF53;

/// When files are synced together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Together {
    /// When it pays, and means what it should.
    IfItPays,
    /// Always, on any file system.
    #[cfg(test)]
    Always,
    /// Never.
    #[cfg(test)]
    Never,
}

impl Together {
    /// Whether so many files of the file system that `witness` is on had better be synced together now. Whatever keeps that
    /// from being known is no error: then they are synced one by one.
    pub(super) fn is_better(self, files: usize, witness: &File) -> bool {
        match self {
            Self::IfItPays => files >= FROM && may_ask() && is_known(witness) && little_waits(),
            #[cfg(test)]
            Self::Always => true,
            #[cfg(test)]
            Self::Never => false,
        }
    }
}

/// Makes durable everything that was written to the file system that `witness` is on, names included. `None` if that may not be
/// asked for here, by a sandbox say: nothing was done then, and it is not asked for again.
///
/// # Errors
///
/// If the disk fails: of nothing that was written is known whether it is on the disk.
pub(super) fn sync(witness: &File) -> Option<io::Result<()>> {
    match rustix::fs::syncfs(witness) {
        Err(Errno::NOSYS | Errno::PERM | Errno::ACCESS | Errno::INVAL | Errno::OPNOTSUPP) => {
            IS_DENIED.store(true, Ordering::Relaxed);
            tracing::warn!("files are flushed one by one: syncfs is not allowed here");
            None
        }
        Err(error) => Some(Err(error.into())),
        Ok(()) => Some(witness.sync_data()),
    }
}

/// Whether syncfs may be asked for, and tells what became of what is written through the page cache: the last block of a
/// segment is, when that is cut to its length.
fn may_ask() -> bool {
    static TELLS: OnceLock<bool> = OnceLock::new();
    let tells = || std::fs::read_to_string("/proc/sys/kernel/osrelease").is_ok_and(|release| tells(&release));
    !IS_DENIED.load(Ordering::Relaxed) && *TELLS.get_or_init(tells)
}

/// Whether Linux of that release tells of syncfs that data could not be written: 5.8 and newer do.
fn tells(release: &str) -> bool {
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(5), Some(8))
}

fn is_known(file: &File) -> bool {
    rustix::fs::fstatfs(file).is_ok_and(|is| u64::try_from(is.f_type) == Ok(EXT4))
}

fn little_waits() -> bool {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    dirty_bytes(&meminfo).is_some_and(|dirty| dirty <= MOST_DIRTY)
}

/// The bytes that wait to be written, or are just being written, by what /proc/meminfo says (proc_meminfo(5)); `None` if it
/// says nothing of them.
fn dirty_bytes(meminfo: &str) -> Option<u64> {
    let kib_of = |wanted: &str| {
        let of_line = |line: &str| line.strip_prefix(wanted)?.trim().strip_suffix("kB")?.trim().parse().ok();
        meminfo.lines().find_map(of_line)
    };
    let kib: u64 = kib_of("Dirty:")?;
    Some(kib.saturating_add(kib_of("Writeback:")?).saturating_mul(1_024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_to_be_written_is_read_from_what_the_kernel_says() {
        let meminfo = "MemTotal:       24561564 kB\nDirty:              1024 kB\nWriteback:            16 kB\nWritebackTmp:  9 kB\n";
        assert_eq!(dirty_bytes(meminfo), Some(1_040 << 10));
        for unknown in ["", "Dirty: 1 kB\n", "Dirty: many kB\nWriteback: 1 kB\n"] {
            assert_eq!(dirty_bytes(unknown), None, "{unknown}");
        }
        let now = std::fs::read_to_string("/proc/meminfo").unwrap();
        assert!(dirty_bytes(&now).is_some(), "{now}");
    }

    #[test]
    fn older_kernels_do_not_tell() {
        let releases = ["6.1.0-18-amd64", "5.8.0", "5.10.209+", "10.0"];
        assert!(releases.iter().all(|release| tells(release)));
        assert!(["5.7.19-x", "4.19.0", "", "linux"].iter().all(|release| !tells(release)));
    }

    #[test]
    fn few_files_or_a_file_system_that_is_not_known_are_synced_one_by_one() {
        let file = tempfile::tempfile().unwrap();
        assert!(!Together::IfItPays.is_better(FROM - 1, &file));
        let elsewhere = File::open("/proc/meminfo").unwrap();
        assert!(!is_known(&elsewhere) && !Together::IfItPays.is_better(1_000, &elsewhere));
    }
}
