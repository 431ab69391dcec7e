//! `longwatch-control child`: what stands between the supervisor and each child, for a moment.
//!
//! A supervisor that is killed with SIGKILL cannot stop its children, so each child asks the kernel, before it becomes
//! the program proper, to be sent SIGTERM when its parent dies (prctl(2), PR_SET_PDEATHSIG; it survives execve(2)).
//! It then takes the child's place, a lock on a file that the program inherits and holds until its last breath: a
//! supervisor started anew can therefore never have two nats-servers open one store, or two workers one archive.
//! `std::process::Command` can do neither without unsafe code, which this workspace forbids.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::{File, TryLockError};
use std::io::{self, Seek, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};

use super::Error;
use super::layout::{failed, lock_file};

/// How often and how many times the lock is tried: 15 seconds, longer than a child may take to drain.
const TRY_EVERY: Duration = Duration::from_millis(20);
const TRIES: u32 = 750;

/// Settings of the hidden command `child`.
#[derive(Debug, Clone, clap::Args)]
pub struct ChildArgs {
    /// The process that started this one; if it is already gone, nothing is started.
    #[arg(long, value_name = "PID")]
    pub parent: i32,

    /// Lock this file for as long as the program lives, and write its process id there.
    #[arg(long, value_name = "FILE")]
    pub lock: Option<PathBuf>,

    /// The program and its arguments.
    #[arg(last = true, required = true, num_args = 1.., value_name = "PROGRAM")]
    pub command: Vec<OsString>,
}

/// Becomes the program. Returns only if it cannot.
pub fn trampoline(args: ChildArgs) -> Result<Infallible, Error> {
    set_parent_process_death_signal(Some(Signal::TERM))
        .map_err(|source| Error::System { what: "ask to die with the supervisor", source: source.into() })?;
    // It may have died before the kernel was asked; then the signal never comes.
    if getppid().map(|pid| pid.as_raw_pid()) != Some(args.parent) {
        return Err(Error::Child(format!("the supervisor (process {}) is gone: not starting", args.parent)));
    }
    // Kept open across exec: the program inherits the lock.
    let _lock = args.lock.as_deref().map(take).transpose()?;
    let mut words = args.command.into_iter();
    let program = words.next().ok_or_else(|| Error::Child("no program was named".to_owned()))?;
    let source = Command::new(&program).args(words).exec();
    Err(Error::Exec { program: program.into(), source })
}

/// Waits, bounded, for the lock; leaves it to be inherited, with this process's id in the file.
fn take(path: &Path) -> Result<File, Error> {
    let mut file = lock_file(path)?;
    let mut tries = 0;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if tries < TRIES => {
                tries += 1;
                std::thread::sleep(TRY_EVERY);
            }
            Err(TryLockError::WouldBlock) => {
                let holder = io::read_to_string(&file).unwrap_or_default();
                return Err(Error::Child(format!(
                    "{} is held by process {} for too long: not starting a second one",
                    path.display(),
                    holder.trim(),
                )));
            }
            Err(TryLockError::Error(source)) => return Err(failed("lock", path)(source)),
        }
    }
    let write = |file: &mut File| -> io::Result<()> {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", getpid().as_raw_pid())?;
        Ok(fcntl_setfd(&*file, FdFlags::empty())?)
    };
    write(&mut file).map_err(failed("write", path))?;
    Ok(file)
}
