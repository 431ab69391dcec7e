//! Recorded video on disk: where it lies ([`layout`], [`volume`], [`choice`]), how it gets there safely ([`local`],
//! [`disk`], [`together`], [`writer`], [`door`]), what there is ([`inventory`]), how it goes ([`tombs`]), and what is done about what a
//! crash left behind ([`repair`]).
//!
//! Invariants: what was reported as stored is durable, and is never changed again; a volume that failed is never written
//! to again by this process.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{oneshot, watch};

use crate::plan::Key;
use choice::Room;
use disk::{Disk, Message, Queue};
use door::Door;
use volume::Space;

pub mod choice;
pub mod disk;
pub mod door;
pub mod inventory;
pub mod layout;
pub mod local;
pub mod repair;
pub mod s3;
pub mod together;
pub mod tombs;
pub mod volume;
pub mod writer;

/// Why something could not be stored.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk said no.
    #[error("cannot {step} segment {key}: {source}")]
    Io {
        /// What was being done.
        step: &'static str,
        /// The segment's key.
        key: String,
        /// What the system said.
        source: io::Error,
    },
    /// Segments are never overwritten.
    #[error("segment {key} exists already")]
    Exists {
        /// The segment's key.
        key: String,
    },
    /// A file operation panicked.
    #[error("the file operation did not finish")]
    Aborted,
    /// Its volume failed before.
    #[error("the volume {} failed and is not used any more", .root.display())]
    Fenced {
        /// The volume.
        root: PathBuf,
    },
    /// All volumes failed.
    #[error("no volume is left: all of them failed")]
    NoVolume,
}

impl Error {
    /// Whether the volume it happened on is not to be used any more: it said so itself, or it did not keep what it had
    /// taken. That there is no room is no such thing.
    pub fn fails_volume(&self) -> bool {
        let Self::Io { step, source, .. } = self else { return false };
        let has_no_room = matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        let is_broken = matches!(
            source.raw_os_error().map(rustix::io::Errno::from_raw_os_error),
            Some(
                rustix::io::Errno::IO
                    | rustix::io::Errno::ROFS
                    | rustix::io::Errno::NXIO
                    | rustix::io::Errno::NODEV
                    // What ext4 and xfs say of a file system that is damaged.
                    | rustix::io::Errno::UCLEAN
                    | rustix::io::Errno::BADMSG
            )
        );
        is_broken || step.starts_with(local::SYNC) && !has_no_room
    }

    /// Whether another volume may do what this one did not.
    pub fn is_of_volume(&self) -> bool {
        self.fails_volume() || matches!(self, Self::Fenced { .. })
    }
}

/// Says that a volume failed, to all who use it.
#[derive(Debug)]
pub struct Fence {
    root: Arc<Path>,
    closed: AtomicBool,
    failed: Arc<watch::Sender<usize>>,
}

impl Fence {
    /// Whether the volume failed.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// The volume failed with this.
    fn close(&self, error: &Error) {
        if !self.closed.swap(true, Ordering::SeqCst) {
            let root = self.root.display();
            tracing::error!(%root, %error, "a volume failed; it is not used any more until the worker starts again");
            self.failed.send_modify(|failed| *failed += 1);
        }
    }

    /// The error of whoever comes later.
    fn error(&self) -> Error {
        Error::Fenced { root: self.root.to_path_buf() }
    }
}

/// A volume at work.
#[derive(Debug)]
struct Mounted {
    root: Arc<Path>,
    disk: Disk,
    fence: Arc<Fence>,
    /// Free bytes above those that must stay free, as they were last seen.
    room: AtomicU64,
}

/// The archive of this server; cheap to clone.
#[derive(Debug, Clone)]
pub struct Archive {
    volumes: Arc<[Mounted]>,
    /// Where each camera was written last.
    places: Arc<Mutex<BTreeMap<Key, usize>>>,
    failed: Arc<watch::Sender<usize>>,
}

impl Archive {
    /// The archive in one folder, written by so many threads, at least one. More of them do not make a disk faster, for
    /// each waits for many files at once; a few keep it busy.
    ///
    /// # Errors
    ///
    /// If the system has no room for the threads.
    pub fn new(root: PathBuf, threads: usize) -> io::Result<Self> {
        Self::over([(root.into(), Door::default())], threads)
    }

    /// The archive in several folders, with the door to each; each written by so many threads of its own, so that one that
    /// hangs holds up no other.
    ///
    /// # Errors
    ///
    /// If the system has no room for the threads.
    pub fn over(roots: impl IntoIterator<Item = (Arc<Path>, Door)>, threads: usize) -> io::Result<Self> {
        let failed = Arc::new(watch::Sender::new(0));
        let mount = |(root, door): (Arc<Path>, Door)| {
            let fence = Arc::new(Fence {
                root: Arc::clone(&root),
                closed: AtomicBool::new(false),
                failed: Arc::clone(&failed),
            });
            let disk = Disk::start(&root, threads, &door, &fence)?;
            let room = volume::space(&root).map_or(0, |space| space.free);
            Ok(Mounted { root, disk, fence, room: AtomicU64::new(room) })
        };
        let volumes = roots.into_iter().map(mount).collect::<io::Result<_>>()?;
        Ok(Self { volumes, places: Arc::default(), failed })
    }

    /// Its first folder.
    pub fn root(&self) -> &Path {
        &self.volumes[0].root
    }

    /// Whether the volume at this place failed.
    pub fn has_failed(&self, volume: usize) -> bool {
        self.volumes.get(volume).is_some_and(|mounted| mounted.fence.is_closed())
    }

    /// How many volumes failed, as it changes.
    pub fn failures(&self) -> watch::Receiver<usize> {
        self.failed.subscribe()
    }

    /// How many volumes there are, failed or not.
    pub fn volumes(&self) -> usize {
        self.volumes.len()
    }

    /// Takes note of how much room the volume at this place has above what must stay free.
    pub fn note_room(&self, volume: usize, bytes: u64) {
        if let Some(mounted) = self.volumes.get(volume) {
            mounted.room.store(bytes, Ordering::Relaxed);
        }
    }

    /// The space of all volumes that have not failed. Blocks.
    ///
    /// # Errors
    ///
    /// If none of several, or one of one, can be asked.
    pub fn space(&self) -> io::Result<Space> {
        let (mut sum, mut last_error) = (Space::default(), None);
        let mut asked = false;
        for mounted in self.volumes.iter().filter(|mounted| !mounted.fence.is_closed()) {
            match volume::space(&mounted.root) {
                Ok(Space { free, total }) => {
                    asked = true;
                    sum =
                        Space { free: sum.free.saturating_add(free), total: sum.total.saturating_add(total) };
                }
                Err(error) => last_error = Some(error),
            }
        }
        match last_error.filter(|_| !asked) {
            Some(error) => Err(error),
            None => Ok(sum),
        }
    }

    /// The queue of a thread that writes to the volume that this camera goes to; `None` if all volumes failed.
    fn queue(&self, camera: Key) -> Option<Queue> {
        let room = |mounted: &Mounted| Room {
            failed: mounted.fence.is_closed(),
            bytes: mounted.room.load(Ordering::Relaxed),
        };
        let rooms: Vec<_> = self.volumes.iter().map(room).collect();
        // Every change under the lock is a single one.
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let current = places.get(&camera).copied();
        let chosen = choice::choose(&rooms, current, rand::random())?;
        if current != Some(chosen) {
            places.insert(camera, chosen);
            if current.is_some() {
                let root = self.volumes[chosen].root.display();
                tracing::info!(camera_id = %camera.camera_id, %root, "camera is recorded to another volume");
            }
        }
        Some(self.volumes[chosen].disk.queue())
    }

    /// Runs blocking file work on one of the threads that write to the first volume, between what is written there.
    ///
    /// # Errors
    ///
    /// [`Error::Aborted`] if `work` panics.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Path) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let (done, done_out) = oneshot::channel();
        // Nobody waits any more: so be it.
        self.volumes[0].disk.queue().send(Message::Work(Box::new(move |root| drop(done.send(work(root))))));
        done_out.await.map_err(|_| Error::Aborted)
    }
}
