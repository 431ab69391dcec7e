//! The threads that write. Each takes whatever has gathered from all its sessions, writes it, and then syncs the files:
//! [together](super::together) if it can, or one after the other, where the first sync waits for the disk and for the file
//! system's journal and the others find most of that done.
//!
//! Invariants: the pieces of a session are done in order, as [`super::local`] says; what one session fails at, even by a
//! bug, is told to that session and costs the others nothing.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use longwatch_events::time::{Clock, Timestamp};
use tokio::sync::mpsc::UnboundedSender;

use super::door::Door;
use super::local::{Buffer, Named, OpenSegment};
use super::together::Together;
use super::writer::{Began, Codecs, Done, Held, Piece, Stored};
use super::{Error, Fence};
use crate::archive::layout::SegmentName;

/// What a thread is told.
pub(super) enum Message {
    /// Write this for that session.
    Piece(Arc<Ends>, Piece),
    /// Nothing more comes from that session.
    Over(Arc<Ends>),
    /// Do this.
    Work(Box<dyn FnOnce(&Path) + Send>),
}

/// Sessions that fill a thread: the more it has, the more it syncs at once, until the disk is not kept busy any more.
const FULL: usize = 100;

/// How long a thread waits for more, once it hears of a piece: about as long as a full thread of cameras takes for a look, so
/// that all that a look brings is written and synced in one visit, and the thread is woken once for it.
const GATHER: Duration = Duration::from_millis(20);

/// Where a thread hears of work. It ends when nobody can tell it any more, and all is done.
#[derive(Debug, Clone)]
pub(super) struct Queue {
    work: Sender<Message>,
    /// Held by all who use it.
    users: Arc<()>,
}

impl Queue {
    pub(super) fn send(&self, message: Message) {
        if self.work.send(message).is_err() {
            // What the message holds is dropped, and by that its session learns of it.
            tracing::error!("a thread that writes has ended by a bug");
        }
    }
}

/// What a thread knows of a session, and it of the thread.
pub(super) struct Ends {
    id: u64,
    /// Bytes that are not durable yet.
    pub(super) held: Held,
    done: UnboundedSender<Done>,
    clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Ends {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ends").field("id", &self.id).field("held", &self.held).finish_non_exhaustive()
    }
}

impl Ends {
    pub(super) fn new(held: Held, done: UnboundedSender<Done>, clock: Arc<dyn Clock>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self { id: NEXT.fetch_add(1, Ordering::Relaxed), held, done, clock }
    }

    fn tell(&self, done: Done) {
        // The camera's task may be gone; then so is whoever it left to listen.
        let _ = self.done.send(done);
    }
}

/// All threads that write to one archive.
#[derive(Debug)]
pub(super) struct Disk {
    queues: Vec<Queue>,
}

impl Disk {
    pub(super) fn start(
        root: &Arc<Path>,
        threads: usize,
        door: &Door,
        fence: &Arc<Fence>,
    ) -> io::Result<Self> {
        let start = |number| {
            let (sender, work) = mpsc::channel();
            let (door, fence, together) = (door.clone(), Arc::clone(fence), Together::IfItPays);
            let place = Place { root: Arc::clone(root), door, fence, together };
            std::thread::Builder::new().name(format!("disk-{number}")).spawn(move || {
                Worker { place, buffer: Buffer::default(), sessions: BTreeMap::new() }.run(&work)
            })?;
            Ok(Queue { work: sender, users: Arc::default() })
        };
        let queues = (0..threads.max(1)).map(start).collect::<io::Result<_>>()?;
        Ok(Self { queues })
    }

    /// The queue of the first thread that is not full, or of the one that has least to do.
    pub(super) fn queue(&self) -> Queue {
        let users = |queue: &&Queue| Arc::strong_count(&queue.users);
        let free = self.queues.iter().find(|queue| users(queue) <= FULL);
        let queue = free.or_else(|| self.queues.iter().min_by_key(users));
        queue.expect("invariant: there is at least one thread").clone()
    }
}

/// The volume that a thread writes to.
struct Place {
    root: Arc<Path>,
    door: Door,
    fence: Arc<Fence>,
    together: Together,
}

/// One thread.
struct Worker {
    place: Place,
    buffer: Buffer,
    sessions: BTreeMap<u64, Session>,
}

/// One session's files.
struct Session {
    ends: Arc<Ends>,
    waiting: VecDeque<Piece>,
    /// Nothing more comes.
    over: bool,
    /// It failed, which was told: what comes is dropped.
    failed: bool,
    open: Option<Open>,
    written: Vec<Fragment>,
    /// The open segment ends here, and so does the turn.
    ending: Option<Timestamp>,
}

/// The segment that is open, and what will be said of it.
struct Open {
    segment: OpenSegment,
    name: SegmentName,
    codecs: Codecs,
    /// Where its last fragment ends.
    until: Timestamp,
    video_frames: u64,
    /// Nothing of it was ever durable.
    new: bool,
}

/// A fragment that is written and not durable yet.
struct Fragment {
    began: Option<Began>,
    until: Timestamp,
    bytes: usize,
}

/// A segment that has its name, which is not durable yet.
struct Ended {
    session: u64,
    named: Named,
    name: SegmentName,
    codecs: Codecs,
    end: Timestamp,
    video_frames: u64,
}

impl Worker {
    fn run(mut self, work: &Receiver<Message>) {
        while let Ok(message) = work.recv() {
            let gathers = matches!(message, Message::Piece(..));
            self.take(message);
            if gathers {
                std::thread::sleep(GATHER);
            }
            // Whatever gathered while the disk was busy goes in one visit.
            while let Ok(message) = work.try_recv() {
                self.take(message);
            }
            while self.sessions.values().any(Session::has_work) {
                self.visit();
            }
            self.sessions.retain(|_, session| !session.over);
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Piece(ends, piece) => self.session(ends).waiting.push_back(piece),
            Message::Over(ends) => self.session(ends).over = true,
            Message::Work(work) => {
                let root = &self.place.root;
                if catch_unwind(AssertUnwindSafe(|| work(root))).is_err() {
                    tracing::error!("file work failed by a bug");
                }
            }
        }
    }

    fn session(&mut self, ends: Arc<Ends>) -> &mut Session {
        self.sessions.entry(ends.id).or_insert_with(|| Session::new(ends))
    }

    /// One turn of every session: all is written, then all is synced, then what ended is named.
    fn visit(&mut self) {
        let Self { place, buffer, sessions } = self;
        let fence = &place.fence;
        for session in sessions.values_mut() {
            session.guarded(fence, |session| session.write(place, buffer));
        }
        let synced = sync_together(place, sessions.values());
        for session in sessions.values_mut() {
            session.guarded(fence, |session| session.sync(synced.as_ref()));
        }
        let mut ended = Vec::new();
        for session in sessions.values_mut() {
            session.guarded(fence, |session| {
                ended.extend(session.name()?);
                Ok(())
            });
        }
        for ended in ended {
            if let Some(session) = sessions.get_mut(&ended.session) {
                // What has its name, and is not told, the next start tells.
                session.guarded(fence, |session| {
                    if fence.is_closed() { Err(fence.error()) } else { session.store(ended) }
                });
            }
        }
    }
}

/// What it came to that all files of a file system were synced together.
struct Synced {
    device: u64,
    outcome: io::Result<()>,
}

/// Syncs together all that can be, if that is better; files that lie elsewhere, or are written through the page cache, are
/// left to be synced by themselves.
fn sync_together<'a>(place: &Place, sessions: impl Iterator<Item = &'a Session> + Clone) -> Option<Synced> {
    if place.fence.is_closed() {
        return None;
    }
    let segments = sessions.filter_map(Session::unsynced);
    let devices = segments.clone().filter_map(|segment| Some((segment, segment.shared_device()?)));
    let (witness, device) = devices.clone().next()?;
    let files = devices.filter(|(_, other)| *other == device).count();
    let is_better = witness.is_better_synced(place.together, files);
    let outcome = if is_better { witness.sync_all()? } else { return None };
    Some(Synced { device, outcome })
}

impl Session {
    const fn new(ends: Arc<Ends>) -> Self {
        Self {
            ends,
            waiting: VecDeque::new(),
            over: false,
            failed: false,
            open: None,
            written: Vec::new(),
            ending: None,
        }
    }

    fn has_work(&self) -> bool {
        !self.waiting.is_empty() || self.over && self.open.is_some()
    }

    /// Whether it has anything to do with the disk in this turn.
    fn uses_disk(&self) -> bool {
        !self.failed
            && (self.has_work() || self.open.is_some() && self.ending.is_some() || !self.written.is_empty())
    }

    /// Does a part of a turn; if it fails, tells so and saves what can be saved.
    fn guarded(&mut self, fence: &Fence, part: impl FnOnce(&mut Self) -> Result<(), Error>) {
        // A volume that has failed is not asked again, by any session.
        let done = if fence.is_closed() && self.uses_disk() {
            Err(fence.error())
        } else {
            catch_unwind(AssertUnwindSafe(|| part(self))).unwrap_or(Err(Error::Aborted))
        };
        let Err(error) = done else { return };
        if error.fails_volume() {
            fence.close(&error);
        }
        if let Some(open) = self.open.take() {
            self.save(open, &error);
        }
        let dropped = self.waiting.drain(..).map(|piece| piece.len()).sum::<usize>();
        let unsynced = self.written.drain(..).map(|fragment| fragment.bytes).sum::<usize>();
        self.ends.held.remove(dropped + unsynced);
        self.ending = None;
        if !std::mem::replace(&mut self.failed, true) {
            self.ends.tell(Done::Failed(error));
        }
    }

    /// Writes what waits, up to the end of a segment.
    fn write(&mut self, place: &Place, buffer: &mut Buffer) -> Result<(), Error> {
        while self.ending.is_none()
            && let Some(piece) = self.waiting.pop_front()
        {
            let bytes = piece.len();
            if self.failed {
                self.ends.held.remove(bytes);
                continue;
            }
            if let Err(error) = self.write_piece(place, buffer, piece) {
                self.ends.held.remove(bytes);
                // What was written before it is whole.
                self.sync(None)?;
                return Err(error);
            }
        }
        // Nobody said where it ends: whoever recorded is gone, by a bug or cut off.
        if self.over && self.waiting.is_empty() && self.ending.is_none() {
            self.ending = self.open.as_ref().map(|open| open.until);
        }
        match (&mut self.open, self.ending) {
            (Some(open), Some(end)) => open.segment.cut(end),
            (Some(_) | None, _) => Ok(()),
        }
    }

    fn write_piece(&mut self, place: &Place, buffer: &mut Buffer, piece: Piece) -> Result<(), Error> {
        let bytes = piece.len();
        match piece {
            Piece::Begin { name, codecs, resumes, mut header, mut fragment, until } => {
                header.extend_from_slice(&fragment.head);
                let segment = OpenSegment::create(
                    &place.root,
                    &place.door,
                    &name,
                    &header,
                    &mut fragment.samples,
                    buffer,
                )?;
                let video_frames = fragment.video_frames.into();
                self.open = Some(Open { segment, name, codecs, until, video_frames, new: true });
                let began = Some(Began { start: name.start, resumes });
                self.written.push(Fragment { began, until, bytes });
            }
            Piece::More { mut fragment, until } => match &mut self.open {
                Some(open) => {
                    open.segment.append(&fragment.head, &mut fragment.samples, buffer)?;
                    open.until = until;
                    open.video_frames += u64::from(fragment.video_frames);
                    self.written.push(Fragment { began: None, until, bytes });
                }
                None => self.ends.held.remove(bytes),
            },
            Piece::End { at } => self.ending = self.open.is_some().then_some(at),
        }
        Ok(())
    }

    /// Whether its open segment is to be synced.
    fn has_unsynced(&self) -> bool {
        !self.written.is_empty() || self.ending.is_some()
    }

    /// Its open segment, if that is to be synced.
    fn unsynced(&self) -> Option<&OpenSegment> {
        self.open.as_ref().filter(|_| self.has_unsynced()).map(|open| &open.segment)
    }

    /// Makes durable what was written, and tells so. `together` is what it came to that all were
    /// [synced together](sync_together), if they were.
    fn sync(&mut self, together: Option<&Synced>) -> Result<(), Error> {
        let has_unsynced = self.has_unsynced();
        let Some(open) = self.open.as_mut().filter(|_| has_unsynced) else { return Ok(()) };
        match together.filter(|synced| open.segment.shared_device() == Some(synced.device)) {
            Some(Synced { outcome, .. }) => open.segment.synced(outcome)?,
            None => open.segment.sync()?,
        }
        open.new = false;
        for Fragment { began, until, bytes } in self.written.drain(..) {
            self.ends.held.remove(bytes);
            self.ends.tell(Done::Durable { began, until, at: self.ends.clock.now() });
        }
        Ok(())
    }

    /// Gives the open segment its name if it ends here.
    fn name(&mut self) -> Result<Option<Ended>, Error> {
        let Some(end) = self.ending.take() else { return Ok(None) };
        let Some(Open { segment, name, codecs, video_frames, .. }) = self.open.take() else {
            return Ok(None);
        };
        let named = segment.name()?;
        Ok(Some(Ended { session: self.ends.id, named, name, codecs, end, video_frames }))
    }

    /// Makes the name of a segment durable, and tells so.
    fn store(&self, ended: Ended) -> Result<(), Error> {
        let Ended { named, name, codecs, end, video_frames, .. } = ended;
        let file = named.sync()?;
        self.ends.tell(Done::Stored(Stored { name, codecs, file, end, video_frames }));
        Ok(())
    }

    /// Keeps what is whole of a segment that can grow no more.
    fn save(&self, open: Open, after: &Error) {
        let Open { segment, name, codecs, until, video_frames, new } = open;
        if matches!(after, Error::Fenced { .. }) {
            tracing::error!(
                key = segment.key(),
                "segment put off: its volume failed; the next start repairs it"
            );
            return;
        }
        if new {
            // Nothing of it was promised to anybody.
            return segment.remove();
        }
        let key = segment.key().to_owned();
        match segment.salvage(after, until) {
            Ok(Some(file)) => {
                self.ends.tell(Done::Stored(Stored { name, codecs, file, end: until, video_frames }));
            }
            Ok(None) => {
                tracing::error!(key, "segment put off: its disk failed to sync; the next start copies it")
            }
            Err(e) => tracing::error!(key, error = %e, "segment could not be saved; the next start will try"),
        }
    }
}

#[cfg(test)]
mod tests;
