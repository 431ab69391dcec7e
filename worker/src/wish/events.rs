//! The stretches of time that events want recorded, of one camera.
//!
//! Pure. Invariant: they are in order, and none touches the next.

use longwatch_events::schedule::Stretch;
use longwatch_events::time::Timestamp;
use serde::{Deserialize, Serialize};

/// So many are remembered of a camera, the newest: far more than there are if those that are over are forgotten in time.
const MAX_SPANS: usize = 1_000;

/// What one event wants recorded, or several whose stretches touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// From when on.
    pub from: Timestamp,
    /// When the event was, or the first of them; not before `from`. What lies before it, nobody could know would be wanted.
    pub at: Timestamp,
    /// Until when; not before `at`.
    pub until: Timestamp,
}

/// All that is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Spans(Vec<Span>);

impl Spans {
    /// Adds what an event wants. Added again, it changes nothing.
    pub fn add(&mut self, span: Span) {
        let touches = |other: &Span| other.from <= span.until && span.from <= other.until;
        let joined = self.0.iter().filter(|other| touches(other)).fold(span, |joined, other| Span {
            from: joined.from.min(other.from),
            at: match joined.from.cmp(&other.from) {
                std::cmp::Ordering::Less => joined.at,
                std::cmp::Ordering::Equal => joined.at.min(other.at),
                std::cmp::Ordering::Greater => other.at,
            },
            until: joined.until.max(other.until),
        });
        self.0.retain(|other| !touches(other));
        let place = self.0.partition_point(|other| other.from < joined.from);
        self.0.insert(place, joined);
        let surplus = self.0.len().saturating_sub(MAX_SPANS);
        self.0.drain(..surplus);
    }

    /// Forgets what ended before this moment.
    pub fn forget(&mut self, before: Timestamp) {
        self.0.retain(|span| span.until >= before);
    }

    /// The one that this moment belongs to: its end does not.
    pub fn around(&self, at: Timestamp) -> Option<Span> {
        let begun = self.0.partition_point(|span| span.from <= at);
        self.0[..begun].last().copied().filter(|span| at < span.until)
    }

    /// When the next of them begins or ends, after this moment; `None`: nothing is wanted from then on.
    pub fn next_change(&self, at: Timestamp) -> Option<Timestamp> {
        let left = &self.0[self.0.partition_point(|span| span.until <= at)..];
        left.first().map(|span| if span.from > at { span.from } else { span.until })
    }

    /// The time from `start` to `end`, cut where it changes; nothing if `end` is not later. At most `limit` stretches: the
    /// last one then reaches to the end. What is wanted is cut where its event was, too, and is told as not wanted before.
    pub fn stretches(&self, start: Timestamp, end: Timestamp, limit: usize) -> Vec<Stretch> {
        let mut stretches: Vec<Stretch> = Vec::new();
        let mut from = start;
        while from < end {
            let span = self.around(from);
            let known = span.is_none_or(|span| span.at <= from);
            let change = if known { self.next_change(from) } else { span.map(|span| span.at) };
            let change = change.filter(|change| *change > from && stretches.len() + 1 < limit);
            let to = change.map_or(end, |change| change.min(end));
            let is_on = span.is_some() && known;
            match stretches.last_mut() {
                Some(last) if last.is_on == is_on => last.end = to,
                Some(_) | None => stretches.push(Stretch { start: from, end: to, is_on }),
            }
            from = to;
        }
        stretches
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Span> for Spans {
    fn from_iter<I: IntoIterator<Item = Span>>(spans: I) -> Self {
        let mut all = Self::default();
        spans.into_iter().for_each(|span| all.add(span));
        all
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(1_795_420_800_000 + seconds * 1_000)
    }

    fn span((from, pre, post): (i64, i64, i64)) -> Span {
        Span { from: at(from), at: at(from + pre), until: at(from + pre + post) }
    }

    #[test]
    fn what_touches_is_one_and_keeps_the_event_that_it_begins_with() {
        let spans: Spans = [(10, 5, 10), (40, 5, 10), (22, 5, 13)].map(span).into_iter().collect();
        assert_eq!(spans.0, [Span { from: at(10), at: at(15), until: at(55) }]);
        let mut spans: Spans = [(10, 5, 10), (40, 5, 10)].map(span).into_iter().collect();
        assert_eq!((spans.next_change(at(0)), spans.next_change(at(10))), (Some(at(10)), Some(at(25))));
        assert_eq!((spans.next_change(at(25)), spans.next_change(at(55))), (Some(at(40)), None));
        spans.forget(at(26));
        assert_eq!(spans.0, [span((40, 5, 10))]);
    }

    #[test]
    fn time_is_cut_where_it_is_known_to_be_wanted() {
        let spans: Spans = [(10, 5, 10), (40, 5, 10)].map(span).into_iter().collect();
        let cut = |from, to| -> Vec<_> {
            let stretches = spans.stretches(at(from), at(to), 100);
            stretches.iter().map(|s| (s.end.millis_since(at(0)) / 1_000, s.is_on)).collect()
        };
        assert_eq!(cut(0, 60), [(15, false), (25, true), (45, false), (55, true), (60, false)]);
        assert_eq!(cut(12, 20), [(15, false), (20, true)]);
        assert_eq!(cut(60, 60), []);
        assert_eq!(spans.stretches(at(0), at(60), 2).last().map(|s| s.end), Some(at(60)));
    }

    proptest! {
        #[test]
        fn a_moment_is_wanted_if_any_event_wants_it(
            events in proptest::collection::vec((0..100_i64, 0..10_i64, 0..20_i64), 0..20),
        ) {
            let spans: Spans = events.iter().copied().map(span).collect();
            let again: Spans = events.iter().rev().chain(&events).copied().map(span).collect();
            prop_assert_eq!(&spans, &again, "in whatever order, and however often");
            for second in 0..140 {
                let wanted = events.iter().any(|(from, pre, post)| (*from..from + pre + post).contains(&second));
                prop_assert_eq!(spans.around(at(second)).is_some(), wanted, "{}", second);
                if let Some(change) = spans.next_change(at(second)) {
                    prop_assert!(change > at(second));
                }
            }
        }
    }
}
