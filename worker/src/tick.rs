//! Threads that look at their cameras once a tick, and sleep in between.
//!
//! Waking for every packet is most of what reading a camera costs. Here a camera's task runs on a runtime whose only
//! thread sleeps before it asks the kernel what has come, so that one look finds everything of a tick at once. Nothing
//! else changes for the task: sockets, timers and channels work as on any runtime, only up to a tick later.
//!
//! Not for what must answer at once (NATS, heartbeats, the outbox): those stay on the runtime of the process. What is
//! slow only because every answer waits for a tick, such as opening a camera, asks for [`Ticker::hurry`] meanwhile.
//!
//! Invariant: a thread looks again at the latest one tick after it went to sleep, however many packets came before.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Between two looks while somebody is in a hurry.
const HURRIED: Duration = Duration::from_millis(5);
/// Sockets that one look finds at most; the rest would wait for the next.
const SOCKETS_A_LOOK: usize = 8_192;
/// Tasks that run before the kernel is asked in between: nearly all of a tick, or the packets that come meanwhile would
/// wake their cameras one by one.
const TASKS_BETWEEN_LOOKS: u32 = 1_021;

/// Cameras that fill a thread: what came of them in a tick is done with in a small part of it.
const FULL: usize = 250;
/// The ticks there are, in milliseconds, so that cameras of any latency share few threads.
const STEPS_MS: [u64; 6] = [20, 50, 100, 200, 500, 1_000];

/// The tick of a camera whose newest video may be late by `latency`: the longest that is not longer, or the shortest.
fn tick_for(latency: Duration) -> Duration {
    let steps = STEPS_MS.map(Duration::from_millis);
    steps.into_iter().rev().find(|step| *step <= latency).unwrap_or(steps[0])
}

/// The threads, by their tick. They are started when they are needed.
#[derive(Debug)]
pub struct Ticks {
    /// Threads of one tick at most.
    at_most: usize,
    threads: Mutex<BTreeMap<Duration, Vec<Thread>>>,
    /// Ends the threads.
    stop: CancellationToken,
}

#[derive(Debug)]
struct Thread {
    seat: Seat,
    /// Held by everything that runs on it.
    load: Arc<()>,
}

impl Thread {
    fn taken(&self) -> usize {
        Arc::strong_count(&self.load) - 1
    }
}

/// A place on one of the threads.
#[derive(Debug, Clone)]
pub struct Seat {
    /// Where tasks are spawned.
    pub runtime: Handle,
    /// How the thread ticks.
    pub ticker: Ticker,
}

impl Ticks {
    /// So many threads for each tick at most. With none, everything runs on the runtime of whoever asks for a place, and
    /// nothing ticks.
    pub fn new(threads: usize) -> Self {
        Self { at_most: threads, threads: Mutex::default(), stop: CancellationToken::new() }
    }

    /// A place for a camera whose newest video may be late by `latency`: on the first thread of its tick that is not
    /// full, or on the one that has the fewest. It counts as taken for as long as the second value lives. Must be called
    /// within a runtime.
    pub fn seat(&self, latency: Duration) -> (Seat, impl Send + Sync + 'static + use<>) {
        let tick = tick_for(latency);
        let mut all = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        let threads = all.entry(tick).or_default();
        if threads.len() < self.at_most && threads.iter().all(|thread| thread.taken() >= FULL) {
            match start_thread(tick, self.stop.clone()) {
                Ok(thread) => threads.push(thread),
                Err(error) => tracing::error!(%error, "no room for another thread that reads cameras"),
            }
        }
        let free = threads.iter().find(|thread| thread.taken() < FULL);
        match free.or_else(|| threads.iter().min_by_key(|thread| thread.taken())) {
            Some(Thread { seat, load }) => (seat.clone(), Arc::clone(load)),
            None => (Seat { runtime: Handle::current(), ticker: Ticker::none() }, Arc::default()),
        }
    }
}

impl Drop for Ticks {
    /// Ends the threads; they drop what still runs on them.
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn start_thread(tick: Duration, stop: CancellationToken) -> io::Result<Thread> {
    let ticker = Ticker::new(tick, Instant::now());
    let sleeper = ticker.clone();
    let runtime = Builder::new_current_thread()
        .enable_all()
        .max_io_events_per_tick(SOCKETS_A_LOOK)
        .event_interval(TASKS_BETWEEN_LOOKS)
        .on_thread_park(move || sleeper.sleep())
        .build()?;
    let seat = Seat { runtime: runtime.handle().clone(), ticker };
    std::thread::Builder::new()
        .name(format!("cameras-{}ms", tick.as_millis()))
        .spawn(move || runtime.block_on(stop.cancelled()))?;
    Ok(Thread { seat, load: Arc::default() })
}

/// How one thread ticks. Clones are of the same thread; [`Ticker::none`] is of none, which never sleeps.
#[derive(Debug, Clone)]
pub struct Ticker(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    tick: Duration,
    /// Looks are due this moment, and every tick from then on.
    first: Instant,
    hurried: Mutex<Hurried>,
    changed: Condvar,
}

/// Who is in a hurry, and until when.
#[derive(Debug, Default)]
struct Hurried {
    next: u64,
    until: BTreeMap<u64, Instant>,
}

/// Makes a thread look often for as long as it lives.
#[derive(Debug)]
pub struct Hurry {
    of: Option<(Arc<Shared>, u64)>,
}

impl Ticker {
    /// Of a runtime that does not tick.
    pub const fn none() -> Self {
        Self(None)
    }

    /// How long a task may have to wait for the next look.
    pub fn tick(&self) -> Duration {
        self.0.as_ref().map_or(Duration::ZERO, |shared| shared.tick)
    }

    fn new(tick: Duration, first: Instant) -> Self {
        Self(Some(Arc::new(Shared { tick, first, hurried: Mutex::default(), changed: Condvar::new() })))
    }

    /// Makes the thread look every few milliseconds while the value lives, but not for longer than `at_most`: what
    /// never comes must not keep it awake.
    pub fn hurry(&self, at_most: Duration) -> Hurry {
        let of = self.0.as_ref().map(|shared| {
            let mut hurried = shared.hurried();
            hurried.next += 1;
            let id = hurried.next;
            hurried.until.insert(id, Instant::now() + at_most);
            shared.changed.notify_all();
            (Arc::clone(shared), id)
        });
        Hurry { of }
    }

    fn sleep(&self) {
        if let Some(shared) = &self.0 {
            shared.sleep();
        }
    }
}

impl Shared {
    fn hurried(&self) -> MutexGuard<'_, Hurried> {
        self.hurried.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps until the next look is due.
    fn sleep(&self) {
        let began = Instant::now();
        let due = self.due_after(began);
        let mut hurried = self.hurried();
        loop {
            let now = Instant::now();
            hurried.until.retain(|_, until| *until > now);
            let end = if hurried.until.is_empty() { due } else { due.min(began + HURRIED) };
            let Some(left) = end.checked_duration_since(now).filter(|left| !left.is_zero()) else { return };
            (hurried, _) = self.changed.wait_timeout(hurried, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The first moment after `now` at which a look is due.
    fn due_after(&self, now: Instant) -> Instant {
        let Some(since) = now.checked_duration_since(self.first) else { return self.first };
        let into_tick = since.as_nanos() % self.tick.as_nanos().max(1);
        now + self.tick.saturating_sub(Duration::from_nanos(u64::try_from(into_tick).unwrap_or(u64::MAX)))
    }
}

impl Drop for Hurry {
    fn drop(&mut self) {
        if let Some((shared, id)) = &self.of {
            shared.hurried().until.remove(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    /// Sends a byte every few milliseconds until the other end is gone.
    async fn chatter() -> std::net::SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            while stream.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        address
    }

    /// How often a task on `seat` had to read to get `bytes` bytes of somebody who sends one every 2 ms or so.
    async fn reads(seat: &Seat, bytes: usize) -> u32 {
        let address = chatter().await;
        let reading = seat.runtime.spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let (mut buffer, mut left, mut reads) = ([0; 4_096], bytes, 0);
            while left > 0 {
                left = left.saturating_sub(stream.read(&mut buffer).await.unwrap());
                reads += 1;
            }
            reads
        });
        reading.await.unwrap()
    }

    #[tokio::test]
    async fn what_comes_within_a_tick_is_read_at_once() {
        let ticks = Ticks::new(1);
        let (seat, _taken) = ticks.seat(Duration::from_millis(100));
        // Given 500 bytes that take a second or more, then a tenth of a second at a time is read.
        let reads = reads(&seat, 500).await;
        assert!(reads < 100, "{reads} reads");
    }

    #[tokio::test]
    async fn who_is_in_a_hurry_does_not_wait_for_the_tick_but_not_for_ever() {
        let stop = CancellationToken::new();
        let _stop = stop.clone().drop_guard();
        let Thread { seat, .. } = start_thread(Duration::from_secs(30), stop).unwrap();
        let began = Instant::now();
        // Given a thread that sleeps for long, when somebody is in a hurry, then their errand is run at once …
        let hurry = seat.ticker.hurry(Duration::from_secs(20));
        let done = Arc::new(AtomicU32::new(0));
        for _ in 0..20 {
            let done = Arc::clone(&done);
            seat.runtime.spawn(async move { done.fetch_add(1, Ordering::Relaxed) }).await.unwrap();
        }
        assert_eq!(done.load(Ordering::Relaxed), 20);
        assert!(began.elapsed() < Duration::from_secs(15));
        // … and once nobody is, or was for too long, the thread sleeps as before.
        drop(hurry);
        let _too_long = seat.ticker.hurry(Duration::ZERO);
        let shared = seat.ticker.0.as_ref().unwrap();
        let now = Instant::now();
        shared.hurried().until.retain(|_, until| *until > now);
        assert!(shared.hurried().until.is_empty());
    }

    #[test]
    fn looks_are_due_at_whole_ticks_whatever_a_look_took() {
        let first = Instant::now();
        let Ticker(Some(shared)) = Ticker::new(Duration::from_millis(100), first) else { panic!("it ticks") };
        let at = |ms| first + Duration::from_millis(ms);
        for (now, due) in [(0, 100), (1, 100), (99, 100), (100, 200), (250, 300)] {
            assert_eq!(shared.due_after(at(now)), at(due), "{now}");
        }
        let later = Ticker::new(Duration::from_millis(100), at(50)).0.unwrap();
        assert_eq!(later.due_after(at(10)), at(50));
    }

    #[tokio::test]
    async fn threads_are_started_and_filled_one_after_the_other_and_then_evenly() {
        let (ticks, second) = (Ticks::new(2), Duration::from_secs(1));
        let taken = |ticks: &Ticks| -> Vec<usize> {
            ticks.threads.lock().unwrap()[&second].iter().map(Thread::taken).collect()
        };
        let mut seats: Vec<_> = (0..FULL).map(|_| ticks.seat(second)).collect();
        assert_eq!(taken(&ticks), [FULL]);
        seats.extend((0..FULL + 4).map(|_| ticks.seat(second)));
        assert_eq!(taken(&ticks), [FULL + 2, FULL + 2]);
        // Another tick has threads of its own.
        seats.push(ticks.seat(Duration::from_millis(25)));
        assert_eq!((taken(&ticks), ticks.threads.lock().unwrap().len()), (vec![FULL + 2, FULL + 2], 2));
        drop(seats);
        assert_eq!(taken(&ticks), [0, 0]);
    }

    #[test]
    fn no_camera_is_later_than_it_may_be_if_there_is_a_tick_for_it() {
        for (latency_ms, tick_ms) in
            [(0, 20), (20, 20), (49, 20), (50, 50), (200, 200), (999, 500), (5_000, 1_000)]
        {
            assert_eq!(
                tick_for(Duration::from_millis(latency_ms)),
                Duration::from_millis(tick_ms),
                "{latency_ms}"
            );
        }
    }
}
