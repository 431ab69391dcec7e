//! Whether this server may still record cameras that serve one client only: another server may take them over once
//! control judges this one lost, so it must have let go of them by then.
//!
//! Control judges by the log's clock: a server is lost when anything in the log is later than its last heartbeat by the
//! lease. A heartbeat is stored after it was sent, so whoever counts the lease from the moment of sending, of a heartbeat
//! that the log has acknowledged, and stops a [margin](MARGIN_SHARE) earlier, has stopped before control can judge. That
//! holds as long as the log's clock and this one run equally fast within the margin; a new leader of the log whose clock
//! is ahead of the old one's by more than the margin breaks it.
//!
//! Once the lease was over, control may have judged already, or may be about to. So an acknowledgement alone does not
//! give it back: what this server is to record must also have been looked up, a [moment](SETTLE) after the contact was
//! made again.
//!
//! Pure: times are since boot, by a clock that also counts while the machine is suspended ([`crate::uptime`]).
//! Invariant: while the lease is held, a heartbeat was acknowledged that was sent less than the lease minus the margin
//! ago.

use std::time::Duration;

/// The part of the lease that is left for stopping.
pub const MARGIN_SHARE: u32 = 10;
/// It is never less than this.
pub const MARGIN_LEAST: Duration = Duration::from_millis(100);
/// After contact is made again, control may still decide by what it saw before; its decision reaches the assignments
/// within this, or else two servers ask one camera until it does.
pub const SETTLE: Duration = Duration::from_millis(500);

/// What is known of contact with the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    length: Duration,
    contact: Option<Contact>,
    /// When the last whole look at the assignments began.
    looked_at: Option<Duration>,
}

/// Contact that has not broken off for as long as the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Contact {
    /// When its first acknowledgement came.
    since: Duration,
    /// When the newest heartbeat was sent that was acknowledged.
    sent_at: Duration,
}

/// Whether cameras that serve one client only may be recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// They may.
    Held,
    /// They may not: others may have them.
    Expired,
}

impl Lease {
    /// Without any contact yet.
    pub const fn new(length: Duration) -> Self {
        Self { length, contact: None, looked_at: None }
    }

    /// The lease is `length` from now on, which may end it.
    pub const fn set_length(&mut self, length: Duration) {
        self.length = length;
    }

    /// How long it is.
    pub const fn length(&self) -> Duration {
        self.length
    }

    /// The log has acknowledged, by `now`, the heartbeat that was sent at `sent_at`.
    pub fn acknowledged(&mut self, sent_at: Duration, now: Duration) {
        let unbroken = self.contact.filter(|contact| now < self.end_of(*contact));
        self.contact = Some(match unbroken {
            Some(Contact { since, sent_at: before }) => Contact { since, sent_at: before.max(sent_at) },
            None => Contact { since: now, sent_at },
        });
    }

    /// All that this server is to record was looked up, beginning at `begun_at`, and is in force.
    pub fn looked(&mut self, begun_at: Duration) {
        self.looked_at = self.looked_at.max(Some(begun_at));
    }

    /// There is no contact any more, and nothing that was known before counts.
    pub const fn lose(&mut self) {
        self.contact = None;
        self.looked_at = None;
    }

    /// Whether it is held at `now`.
    pub fn state(&self, now: Duration) -> State {
        match self.ends_at() {
            Some(end) if now < end => State::Held,
            Some(_) | None => State::Expired,
        }
    }

    /// When it ends unless another heartbeat is acknowledged; `None` if it is not held at any time to come.
    pub fn ends_at(&self) -> Option<Duration> {
        self.contact.filter(|contact| self.has_looked(contact)).map(|contact| self.end_of(contact))
    }

    /// When the assignments have to be looked up to get it back; `None` if they do not have to.
    pub fn look_due(&self) -> Option<Duration> {
        self.contact.filter(|contact| !self.has_looked(contact)).map(|contact| contact.since + SETTLE)
    }

    fn has_looked(&self, contact: &Contact) -> bool {
        self.looked_at.is_some_and(|looked_at| looked_at >= contact.since + SETTLE)
    }

    fn end_of(&self, contact: Contact) -> Duration {
        let margin = (self.length / MARGIN_SHARE).max(MARGIN_LEAST);
        contact.sent_at + self.length.saturating_sub(margin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LEASE: Duration = ms(3_000);
    const USABLE: Duration = ms(2_700);

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// In contact and looked up since `at`.
    fn held(at: Duration) -> Lease {
        let mut lease = Lease::new(LEASE);
        lease.acknowledged(at, at);
        lease.looked(at + SETTLE);
        lease
    }

    #[test]
    fn nothing_is_held_before_a_heartbeat_was_acknowledged_and_the_assignments_looked_up() {
        let mut lease = Lease::new(LEASE);
        assert_eq!((lease.state(ms(9_000)), lease.look_due()), (State::Expired, None));
        // Given a look from before the acknowledgement, then it does not count.
        lease.looked(ms(9_000));
        lease.acknowledged(ms(9_010), ms(9_020));
        assert_eq!((lease.state(ms(9_020)), lease.look_due()), (State::Expired, Some(ms(9_520))));
        lease.looked(ms(9_519));
        assert_eq!(lease.state(ms(9_600)), State::Expired);
        lease.looked(ms(9_520));
        assert_eq!((lease.state(ms(9_600)), lease.look_due()), (State::Held, None));
        assert_eq!(lease.ends_at(), Some(ms(9_010) + USABLE));
    }

    #[test]
    fn it_runs_from_the_newest_sending_that_was_acknowledged() {
        let mut lease = held(ms(1_000));
        lease.acknowledged(ms(3_000), ms(3_500));
        lease.acknowledged(ms(2_000), ms(3_600));
        assert_eq!(lease.state(ms(5_699)), State::Held);
        assert_eq!(lease.state(ms(5_700)), State::Expired);
    }

    #[test]
    fn once_it_was_over_an_acknowledgement_alone_does_not_give_it_back() {
        let mut lease = held(ms(1_000));
        // The acknowledgement of what was sent before a pause comes after it: too late to prolong anything, …
        lease.acknowledged(ms(2_000), ms(60_000));
        assert_eq!(lease.state(ms(60_000)), State::Expired);
        // … and contact begins with what was sent after it.
        lease.acknowledged(ms(60_010), ms(60_020));
        assert_eq!((lease.state(ms(60_020)), lease.look_due()), (State::Expired, Some(ms(60_520))));
        lease.looked(ms(60_520));
        assert_eq!(lease.state(ms(60_600)), State::Held);
    }

    #[test]
    fn a_new_length_counts_at_once() {
        let mut lease = held(ms(1_000));
        lease.set_length(ms(30_000));
        assert_eq!(lease.ends_at(), Some(ms(28_000)));
        lease.set_length(ms(500));
        assert_eq!(lease.ends_at(), Some(ms(1_400)), "the least margin");
        lease.set_length(ms(50));
        assert_eq!(lease.state(ms(1_000)), State::Expired, "no time is left within the margin");
    }

    #[test]
    fn who_loses_contact_holds_nothing() {
        let mut lease = held(ms(1_000));
        lease.lose();
        assert_eq!(
            (lease.state(ms(1_001)), lease, lease.look_due()),
            (State::Expired, Lease::new(LEASE), None)
        );
    }

    /// Whether control, which reads in the log when heartbeats were stored, has no reason at `moment` to judge their
    /// server lost.
    fn is_heard(stored: &[u64], moment: u64) -> bool {
        stored.iter().any(|at| *at <= moment && ms(moment) < ms(*at) + LEASE)
    }

    proptest! {
        /// Given heartbeats that the log stores at any moment between sending and acknowledgement, some of which it
        /// acknowledges, and looks at any time: while the lease is held, control has no reason to judge this server lost,
        /// nor had it since contact began.
        #[test]
        fn while_it_is_held_control_cannot_judge(
            beats in proptest::collection::vec((1..4_000_u64, 0..2_000_u64, 0..2_000_u64, any::<bool>()), 1..40),
            looks in proptest::collection::vec(0..60_000_u64, 0..40),
        ) {
            let mut now = 0;
            let mut stored = Vec::new();
            // When what comes, and for an acknowledgement when its heartbeat was sent.
            let mut events: Vec<(u64, Option<u64>)> = looks.into_iter().map(|at| (at, None)).collect();
            for (pause, to_log, back, acknowledged) in beats {
                now += pause;
                stored.push(now + to_log);
                if acknowledged {
                    events.push((now + to_log + back, Some(now)));
                }
            }
            events.sort_unstable();
            let mut lease = Lease::new(LEASE);
            for (n, (at, sent_at)) in events.iter().enumerate() {
                match sent_at {
                    Some(sent_at) => lease.acknowledged(ms(*sent_at), ms(*at)),
                    None => lease.looked(ms(*at)),
                }
                let Some(end) = lease.ends_at().filter(|end| *end > ms(*at)) else { continue };
                let end = u64::try_from(end.as_millis()).unwrap();
                let until = events.get(n + 1).map_or(end, |next| next.0.min(end));
                let began = u64::try_from(lease.contact.unwrap().since.as_millis()).unwrap();
                for moment in (began..until).step_by(7).chain([until.saturating_sub(1).max(began)]) {
                    prop_assert!(is_heard(&stored, moment), "held at {at}, silent at {moment}");
                }
            }
        }
    }
}
