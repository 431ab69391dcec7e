//! When a camera is wanted recorded: always, in the windows of a schedule, or around events.
//!
//! Pure. Invariant: what cannot be understood is recorded always; too much video is better than too little.

use std::sync::Arc;

use longwatch_events::fact::Cause;
use longwatch_events::id::CameraId;
use longwatch_events::schedule::{Stretch, UnknownZone, Weekly};
use longwatch_events::settings::{Recording, RecordingMode};
use longwatch_events::time::Timestamp;

pub mod events;

use events::{Span, Spans};

/// How long before a window begins its camera is connected, in milliseconds: at least so long, so that a keyframe from
/// before the window is at hand, and at most twice, by camera, so that not all of them connect at one moment.
pub const LEAD_MS: i64 = 10_000;
/// Into so many pieces a gap is cut at most.
const MAX_PIECES: usize = 1_000;
/// Within a window so much may be missing, in microseconds, without a cause of its own: the end of the last frame is not
/// exactly that of the window. From the promise that no gap over 2 s is without a cause.
const NO_CAUSE_US: i64 = 2_000_000;
/// A recording that ended so shortly before the end of a window, in microseconds, ended with it.
const ENDS_WITH_US: i64 = 200_000;

/// So long, in milliseconds, an event may be on its way until what it wants is held no longer than it should be.
pub const REACT_MS: i64 = 2_000;

/// When a camera is wanted recorded.
#[derive(Debug, Clone, Default)]
pub enum Wish {
    /// At any time.
    #[default]
    Always,
    /// In these windows.
    Weekly(Arc<Weekly>),
    /// Around events.
    Events(Arc<Events>),
}

/// When a camera is wanted recorded that is recorded around events.
#[derive(Debug, PartialEq, Eq)]
pub struct Events {
    /// How long before an event, in milliseconds: so much is held all the time.
    pre_ms: u32,
    /// What they want so far.
    spans: Spans,
}

/// A part of a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Its beginning.
    pub start: Timestamp,
    /// Its end; later than `start`.
    pub end: Timestamp,
    /// Why nothing was recorded.
    pub cause: Cause,
}

impl Wish {
    /// What was told of a camera, and what events want of it if it is recorded around them.
    ///
    /// # Errors
    /// If this program does not know the time zone; the camera is then to be recorded always.
    pub fn new(told: Option<&Recording>, spans: &Spans) -> Result<Self, UnknownZone> {
        match told {
            Some(Recording { event: Some(event), .. }) => {
                Ok(Self::Events(Arc::new(Events { pre_ms: event.pre_ms, spans: spans.clone() })))
            }
            Some(Recording { mode: RecordingMode::Schedule, schedule: Some(schedule), event: None }) => {
                Weekly::new(schedule).map(|weekly| Self::Weekly(Arc::new(weekly)))
            }
            Some(_) | None => Ok(Self::Always),
        }
    }

    /// Whether it is wanted at this moment.
    pub fn is_on(&self, at: Timestamp) -> bool {
        match self {
            Self::Always => true,
            Self::Weekly(weekly) => weekly.is_on(at),
            Self::Events(events) => events.spans.around(at).is_some(),
        }
    }

    /// Whether it is recorded around events.
    pub const fn is_of_events(&self) -> bool {
        matches!(self, Self::Events(_))
    }

    /// From when on it is wanted because it is at this moment, as far as that is known.
    pub fn begun(&self, at: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Always | Self::Weekly(_) => None,
            Self::Events(events) => events.spans.around(at).map(|span: Span| span.from),
        }
    }

    /// Why it is not recorded when it is not wanted.
    pub const fn cause(&self) -> Cause {
        match self {
            Self::Always | Self::Weekly(_) => Cause::NotScheduled,
            Self::Events(_) => Cause::NoEvent,
        }
    }

    /// For how long, in milliseconds, what is not wanted may still become so; `None`: it never does.
    pub fn holds_ms(&self) -> Option<i64> {
        match self {
            Self::Always | Self::Weekly(_) => None,
            Self::Events(events) => Some(i64::from(events.pre_ms) + REACT_MS),
        }
    }

    /// When that changes after `at`; `None`: never.
    pub fn next_change(&self, at: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Always => None,
            Self::Weekly(weekly) => weekly.next_change(at),
            Self::Events(events) => events.spans.next_change(at),
        }
    }

    /// When `camera` is to be connected next, if it is not to be now; otherwise a moment that is not after `at`. `None`: it
    /// is never wanted.
    pub fn connect_at(&self, at: Timestamp, camera: CameraId) -> Option<Timestamp> {
        // Of what an event wants, most lies before it.
        if self.is_of_events() || self.is_on(at) {
            return Some(at);
        }
        self.next_change(at).map(|begins| begins.plus_millis(-lead_ms(camera)))
    }

    /// Why a recording that broke off at `end` for `cause` did so: if it was not wanted any longer then, for that.
    pub fn cause_of_end(&self, end: Timestamp, cause: Cause) -> Cause {
        if self.is_on(end.plus_micros(ENDS_WITH_US)) { cause } else { self.cause() }
    }

    /// Cuts a gap that began for `cause` into what was not wanted and what is missing.
    pub fn pieces(&self, start: Timestamp, end: Timestamp, cause: Cause) -> Vec<Piece> {
        let stretches = match self {
            Self::Always if start < end => return vec![Piece { start, end, cause }],
            Self::Always => return Vec::new(),
            Self::Weekly(weekly) => weekly.stretches(start, end, MAX_PIECES),
            Self::Events(events) => events.spans.stretches(start, end, MAX_PIECES),
        };
        let mut pieces: Vec<Piece> = Vec::new();
        for Stretch { start, end, is_on } in stretches {
            let is_loss = is_on && end.micros_since(start) > NO_CAUSE_US;
            let cause = if !is_on {
                self.cause()
            } else if is_loss && cause.is_by_wish() {
                Cause::Timeout
            } else {
                cause
            };
            match pieces.last_mut() {
                Some(last) if last.cause == cause => last.end = end,
                Some(_) | None => pieces.push(Piece { start, end, cause }),
            }
        }
        pieces
    }
}

/// How long before its windows this camera is connected.
fn lead_ms(camera: CameraId) -> i64 {
    // The low bytes of a UUIDv7 are random (RFC 9562, section 5.7).
    let [.., high, low] = camera.as_uuid().into_bytes();
    LEAD_MS + LEAD_MS * i64::from(u16::from_be_bytes([high, low])) / i64::from(u16::MAX)
}

/// Follows a [`Wish`] picture by picture. Pictures of which one is shown before the other may come in the other order: what
/// has begun ends only at its end, and what has ended does not begin again for a picture from before.
#[derive(Debug, Default)]
pub struct Gate {
    /// What is known, and up to when; `None`: nothing is.
    known: Option<(bool, Option<Timestamp>)>,
}

impl Gate {
    /// Whether a picture of this moment is to be recorded.
    pub fn lets_pass(&mut self, wish: &Wish, at: Timestamp) -> bool {
        match self.known {
            Some((is_on, until)) if until.is_none_or(|until| at < until) => is_on,
            Some(_) | None => {
                let is_on = wish.is_on(at);
                self.known = Some((is_on, wish.next_change(at)));
                is_on
            }
        }
    }

    /// Forgets what it knows, for the wish is another one.
    pub const fn reset(&mut self) {
        self.known = None;
    }
}

#[cfg(test)]
mod tests {
    use longwatch_events::id::SystemIds;
    use longwatch_events::schedule::{Days, Schedule, TimeOfDay, Window};
    use longwatch_events::settings::EventRecording;

    use super::*;

    fn at(text: &str) -> Timestamp {
        format!("2026-11-23T{text}Z").parse().unwrap()
    }

    /// Every day from eight to ten and from two to four.
    fn wish() -> Wish {
        let window = |from: &str, to: &str| Window {
            days: Days::ALL,
            from: from.parse::<TimeOfDay>().unwrap(),
            to: to.parse().unwrap(),
        };
        let weekly = vec![window("08:00", "10:00"), window("14:00", "16:00")];
        let schedule = Some(Box::new(Schedule { time_zone: "UTC".into(), weekly }));
        let told = Recording { mode: RecordingMode::Schedule, schedule, event: None };
        Wish::new(Some(&told), &Spans::default()).unwrap()
    }

    fn pieces(start: &str, end: &str, cause: Cause) -> Vec<(Timestamp, Timestamp, Cause)> {
        let pieces = wish().pieces(at(start), at(end), cause);
        pieces.into_iter().map(|piece| (piece.start, piece.end, piece.cause)).collect()
    }

    #[test]
    fn what_is_not_understood_is_always_wanted() {
        let schedule = Some(Box::new(Schedule { time_zone: "Mars/Olympus".into(), weekly: Vec::new() }));
        let told = Recording { mode: RecordingMode::Schedule, schedule, event: None };
        let wish = |told| Wish::new(told, &Spans::default());
        assert!(wish(Some(&told)).unwrap_or_default().is_on(at("00:00:00")));
        let without: Recording = RecordingMode::Schedule.into();
        assert!(wish(Some(&without)).unwrap().is_on(at("00:00:00")));
        assert!(wish(None).unwrap().is_on(at("00:00:00")));
    }

    #[test]
    fn a_camera_is_connected_shortly_before_its_window() {
        for _ in 0..100 {
            let connects = wish().connect_at(at("07:00:00"), CameraId::generate(&SystemIds)).unwrap();
            let lead_ms = at("08:00:00").millis_since(connects);
            assert!((LEAD_MS..=2 * LEAD_MS).contains(&lead_ms), "{lead_ms}");
        }
        let now = at("08:00:00");
        assert_eq!(wish().connect_at(now, CameraId::generate(&SystemIds)), Some(now));
    }

    #[test]
    fn a_gap_is_cut_into_what_was_not_wanted_and_what_is_missing() {
        use Cause::{NotScheduled, Timeout, Unreachable};
        assert_eq!(
            pieces("10:00:00", "14:00:00", NotScheduled),
            [(at("10:00:00"), at("14:00:00"), NotScheduled)]
        );
        // It failed at nine, and was not there in the second window either.
        assert_eq!(
            pieces("09:00:00", "18:00:00", Unreachable),
            [
                (at("09:00:00"), at("10:00:00"), Unreachable),
                (at("10:00:00"), at("14:00:00"), NotScheduled),
                (at("14:00:00"), at("16:00:00"), Unreachable),
                (at("16:00:00"), at("18:00:00"), NotScheduled),
            ]
        );
        // The last frame ends a little before its window, and the first comes a little after its window began.
        assert_eq!(
            pieces("09:59:59.9", "14:00:01", NotScheduled),
            [(at("09:59:59.9"), at("14:00:01"), NotScheduled)]
        );
        // Too late is a loss, and has a cause.
        assert_eq!(
            pieces("10:00:00", "14:00:05", NotScheduled),
            [(at("10:00:00"), at("14:00:00"), NotScheduled), (at("14:00:00"), at("14:00:05"), Timeout)]
        );
        assert_eq!(pieces("10:00:00", "10:00:00", NotScheduled), []);
    }

    #[test]
    fn what_was_missing_around_events_is_cut_out_of_what_nobody_wanted() {
        use Cause::{Closed, NoEvent, Timeout};
        let span = Span { from: at("09:59:55"), at: at("10:00:00"), until: at("10:00:10") };
        let told = Recording { event: Some(EventRecording::default()), ..Recording::default() };
        let wish = Wish::new(Some(&told), &[span].into_iter().collect()).unwrap();
        assert!(wish.is_on(span.from) && !wish.is_on(span.until) && wish.begun(span.at) == Some(span.from));
        let camera = CameraId::generate(&SystemIds);
        assert_eq!(wish.connect_at(at("08:00:00"), camera), Some(at("08:00:00")), "all the time");
        let pieces = |start: &str, end: &str, cause| -> Vec<_> {
            wish.pieces(at(start), at(end), cause).iter().map(|piece| (piece.end, piece.cause)).collect()
        };
        // It was away: of what was before the event nobody can say that it would have been missed.
        assert_eq!(
            pieces("09:00:00", "11:00:00", Closed),
            [(at("10:00:00"), NoEvent), (span.until, Closed), (at("11:00:00"), NoEvent)]
        );
        // Less was held than should have been.
        assert_eq!(pieces("09:00:00", "09:59:58", NoEvent), [(at("09:59:58"), NoEvent)]);
        // It began late, and nothing says why.
        assert_eq!(
            pieces("09:00:00", "10:00:05", NoEvent),
            [(at("10:00:00"), NoEvent), (at("10:00:05"), Timeout)]
        );
        assert_eq!(wish.cause_of_end(at("10:00:09.9"), Cause::WorkerRestarted), NoEvent);
        assert_eq!(wish.cause_of_end(at("10:00:09"), Cause::WorkerRestarted), Cause::WorkerRestarted);
    }

    #[test]
    fn what_ends_with_a_window_ends_for_it() {
        let cause = |end: &str| wish().cause_of_end(at(end), Cause::WorkerRestarted);
        assert_eq!(cause("09:59:59.9"), Cause::NotScheduled);
        assert_eq!(cause("10:00:00.04"), Cause::NotScheduled);
        assert_eq!(cause("09:59:59"), Cause::WorkerRestarted);
    }

    #[test]
    fn pictures_in_another_order_do_not_open_and_shut_the_gate() {
        let (mut gate, wish) = (Gate::default(), wish());
        let mut passes = |time: &str| gate.lets_pass(&wish, at(time));
        assert!(!passes("07:59:59.9"));
        assert!(passes("08:00:00.1") && passes("07:59:59.95"));
        assert!(!passes("10:00:00.1") && !passes("09:59:59.9"));
        gate.reset();
        assert!(gate.lets_pass(&Wish::Always, at("12:00:00")));
    }
}
