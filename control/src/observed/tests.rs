//! Silence, by the log's clock; and with [`judge`], what becomes of a fleet that falls silent.

use longwatch_events::event::{Event, ServerAdopted, ServerJoined};
use longwatch_events::fold;
use longwatch_events::id::{CountingIds, IdSource as _};
use longwatch_events::sealed::PublicKey;
use longwatch_events::settings::{Capacity, Labels};
use longwatch_events::state::State;

use super::*;
use crate::decide::liveness::{Rules, judge};

fn beat(server_id: ServerId, boot_id: BootId, sequence: u64) -> ServerHeartbeat {
    ServerHeartbeat { server_id, boot_id, sequence, load: Load::default(), media_url: None }
}

/// When control ticks, in milliseconds.
fn ticks(from: i64, to: i64) -> impl Iterator<Item = Timestamp> {
    (from..=to).step_by(TICK_MS as usize).map(Timestamp::from_millis)
}

/// When control ticks while the clock of NATS is set by so many milliseconds, the first time after 20 s, then after 40 s.
fn ticks_while_set(from: i64, to: i64, steps: [i64; 2]) -> Vec<Timestamp> {
    let set_ms = |number| match number {
        0..40 => 0,
        40..80 => steps[0],
        _ => steps[0] + steps[1],
    };
    (0..).zip(ticks(from, to)).map(|(number, at)| at.plus_millis(set_ms(number))).collect()
}

/// How the clock of NATS may run, be set forward, more than once, or back.
const STEPS: [[i64; 2]; 6] =
    [[0, 0], [5_000, 5_000], [-3_000, -20_000], [-60_000, 5_000], [3_600_000, 1_000], [-20_000, -60_000]];

#[test]
fn only_the_logs_clock_silences() {
    let ids = CountingIds::default();
    let (server, boot) = (ServerId::from_uuid(ids.next()), BootId::from_uuid(ids.next()));
    let observed = Observed::default();
    assert_eq!(observed.silent_since(server), None, "nothing was heard of anyone");
    ticks(1_000, 9_500).for_each(|at| observed.tick(at));
    observed.heartbeat(&beat(server, boot, 1), Position(1), Timestamp::from_millis(10_000));
    assert_eq!(observed.silent_since(server), None);
    for at in ticks(10_500, 13_000) {
        observed.tick(at);
        assert_eq!(observed.silent_since(server), None);
    }
    observed.tick(Timestamp::from_millis(13_001));
    assert_eq!(observed.silent_since(server), Some(Timestamp::from_millis(10_000)));
    observed.heartbeat(&beat(server, boot, 2), Position(1), Timestamp::from_millis(13_500));
    assert_eq!(observed.silent_since(server), None);
}

#[test]
fn a_server_may_be_silent_for_as_long_as_it_was_told() {
    let ids = CountingIds::default();
    let (server, boot) = (ServerId::from_uuid(ids.next()), BootId::from_uuid(ids.next()));
    let observed = Observed::default();
    ticks(1_000, 9_500).for_each(|at| observed.tick(at));
    for (told_ms, lease_ms) in [(9_000, 9_000), (1_000, 3_000)] {
        let load = Load { lease_ms: Some(told_ms), ..Load::default() };
        let start = observed.now().plus_millis(i64::from(TICK_MS));
        let sequence = u64::from(10_000 - told_ms);
        let heartbeat = ServerHeartbeat { load, ..beat(server, boot, sequence) };
        observed.heartbeat(&heartbeat, Position(sequence), start);
        let from = start.as_millis();
        ticks(from, from + lease_ms).for_each(|at| observed.tick(at));
        assert_eq!(observed.silent_since(server), None);
        observed.tick(Timestamp::from_millis(from + lease_ms + 1));
        assert_eq!(observed.silent_since(server), Some(start));
    }
}

#[test]
fn duplicates_and_late_ones_do_not_count() {
    let ids = CountingIds::default();
    let (server, boot) = (ServerId::from_uuid(ids.next()), BootId::from_uuid(ids.next()));
    let observed = Observed::default();
    ticks(1_000, 9_500).for_each(|at| observed.tick(at));
    observed.heartbeat(&beat(server, boot, 5), Position(1), Timestamp::from_millis(10_000));
    for at in ticks(10_500, 13_500) {
        observed.heartbeat(&beat(server, boot, 5), Position(1), at);
        observed.heartbeat(&beat(server, boot, 4), Position(1), at);
    }
    assert_eq!(observed.seen(server).map(|seen| seen.at), Some(Timestamp::from_millis(10_000)));
    assert!(observed.silent_since(server).is_some());
}

#[test]
fn a_pause_of_the_log_silences_nobody() {
    let ids = CountingIds::default();
    let (server, boot) = (ServerId::from_uuid(ids.next()), BootId::from_uuid(ids.next()));
    let observed = Observed::default();
    observed.heartbeat(&beat(server, boot, 1), Position(1), Timestamp::from_millis(1_000));
    // An hour later the log goes on, and control's tick is the first to get through.
    let hour = 3_600_000;
    for at in ticks(hour, hour + 5_000) {
        observed.tick(at);
        assert_eq!(observed.silent_since(server), None, "at {at}");
    }
    observed.tick(Timestamp::from_millis(hour + 5_001));
    assert_eq!(observed.age_ms(server), Some(3_604_001));
    let silence = Silence { last_heartbeat: Some(Position(1)), since: Timestamp::from_millis(1_000) };
    assert_eq!(observed.silence(server), Some(silence), "it had its time to come back and did not");
}

#[test]
fn a_short_pause_of_the_log_silences_nobody() {
    let ids = CountingIds::default();
    let (server, boot) = (ServerId::from_uuid(ids.next()), BootId::from_uuid(ids.next()));
    for pause_ms in (100..4_000).step_by(50) {
        // Given a log that stands still just when the next heartbeat was due, and a server that is connected again
        // later than control: after as long again, or what its attempts to connect are apart.
        let (observed, comes_back_ms) = (Observed::default(), pause_ms.clamp(200, 1_000));
        ticks(1_000, 9_900).for_each(|at| observed.tick(at));
        observed.heartbeat(&beat(server, boot, 1), Position(1), Timestamp::from_millis(10_000));
        ticks(10_400, 10_900).for_each(|at| observed.tick(at));
        let goes_on = 10_999 + pause_ms;
        for at in ticks(goes_on, goes_on + comes_back_ms) {
            observed.tick(at);
            assert_eq!(observed.silent_since(server), None, "a pause of {pause_ms} ms, at {at}");
        }
    }
}

/// Lets the log run for `runs_ms` and stand for `stands_ms` by turns, and says after how long a server is silent that
/// was heard just before it stood first; with how it is then judged.
fn silent_after(stands_ms: i64, runs_ms: i64) -> i64 {
    let ids = CountingIds::default();
    let (server, boot) = (ServerId::from_uuid(ids.next()), BootId::from_uuid(ids.next()));
    let observed = Observed::default();
    ticks(1_000, 10_000).for_each(|at| observed.tick(at));
    observed.heartbeat(&beat(server, boot, 1), Position(1), Timestamp::from_millis(10_000));
    let mut now = 10_000;
    while now < 100_000 {
        now += stands_ms;
        for at in ticks(now, now + runs_ms) {
            observed.tick(at);
            if observed.silence(server).is_some() {
                return at.as_millis() - 10_000;
            }
        }
        now += runs_ms;
    }
    panic!("a log that stands for {stands_ms} and runs for {runs_ms} ms silences nobody")
}

#[test]
fn a_log_that_stumbles_silences_who_is_gone() {
    // Given a server that is dead, in a log that stands still again and again, each time for less than a lease: it is
    // silent once the log has run for a lease and the time to connect.
    for (stands_ms, runs_ms) in [(1_100, 3_000), (1_100, 1_000), (2_900, 500), (800, 0), (2_000, 2_000)] {
        let cycle_ms = stands_ms + runs_ms;
        let counted_ms = runs_ms / 500 * 500 + 500;
        let cycles = (3_000 + RETURN_MS) / counted_ms + 1;
        let after_ms = silent_after(stands_ms, runs_ms);
        assert!(after_ms > 3_000, "{stands_ms}/{runs_ms}: {after_ms}");
        assert!(after_ms <= cycles * cycle_ms, "{stands_ms}/{runs_ms}: {after_ms}");
    }
    // A log that runs evenly, but slower than control should tick, as well.
    assert!(silent_after(650, 0) <= 6 * 650 + 650);
}

#[test]
fn a_clock_that_is_set_back_hides_nobody() {
    let ids = CountingIds::default();
    let (dead, alive) = (ServerId::from_uuid(ids.next()), ServerId::from_uuid(ids.next()));
    let boot = BootId::from_uuid(ids.next());
    for back_ms in [20, 400, 2_000, 10_000, 3_600_000] {
        // Given two servers, one of which dies; and then the clock of NATS is set back.
        let observed = Observed::default();
        let start = 10_000_000;
        ticks(start - 10_000, start).for_each(|at| observed.tick(at));
        observed.came(alive, Position(1));
        observed.came(dead, Position(2));
        observed.tick_of_control(Position(2), Timestamp::from_millis(start));
        observed.heartbeat(&beat(dead, boot, 1), Position(1), Timestamp::from_millis(start));
        let from = start + 100 - back_ms;
        let mut noticed_ms = None;
        for (sequence, at) in (1..).zip(ticks(from, from + 12_000)) {
            let before = observed.now();
            observed.heartbeat(&beat(alive, boot, sequence), Position(sequence), at);
            let after_ms = at.as_millis() - from;
            // Then who lives is heard, ...
            assert_eq!(observed.seen(alive).map(|seen| seen.at), Some(at), "{back_ms}, {after_ms}");
            let signs = observed.signs(alive).unwrap();
            assert_eq!((signs.now, signs.voice), (at, Voice::Steady), "{back_ms}, {after_ms}");
            // ... time goes on, ...
            assert_eq!(observed.now(), at);
            assert!(at > before || after_ms == 0, "{back_ms}, {after_ms}");
            let signs = observed.signs(dead).unwrap();
            if signs.voice == Voice::Silent && noticed_ms.is_none() {
                noticed_ms = Some(after_ms);
                // (and what is said of the dead one makes sense)
                assert_eq!(signs.heard_at, Timestamp::from_millis(start));
                assert_eq!(signs.now.millis_since(signs.heard_at), after_ms + (100 - back_ms).max(0));
            }
        }
        // ... and who is dead is noticed in its time.
        assert!(
            noticed_ms.is_some_and(|ms| (2_900..=3_000 + RETURN_MS + 500).contains(&ms)),
            "{noticed_ms:?}"
        );
    }
}

#[test]
fn who_comes_has_a_lease_to_be_heard() {
    let ids = CountingIds::default();
    let (early, late) = (ServerId::from_uuid(ids.next()), ServerId::from_uuid(ids.next()));
    let observed = Observed::default();
    // One came before this process listens, the other while it does, and `HEARTBEATS` is behind `LOG`.
    observed.came(early, Position(1));
    ticks(10_000, 14_500).for_each(|at| observed.tick_of_control(Position(0), at));
    ticks(15_000, 18_000).for_each(|at| observed.tick_of_control(Position(1), at));
    observed.came(late, Position(2));
    let silent_at = |folded, ms| {
        observed.tick_of_control(Position(folded), Timestamp::from_millis(ms));
        [early, late].map(|server| observed.silence(server).is_some())
    };
    assert_eq!(silent_at(1, 18_001), [true, false]);
    ticks(18_500, 19_500).for_each(|at| observed.tick_of_control(Position(1), at));
    assert_eq!(silent_at(2, 20_000), [true, false]);
    ticks(20_500, 22_500).for_each(|at| observed.tick_of_control(Position(2), at));
    assert_eq!(silent_at(2, 23_000), [true, false]);
    assert_eq!(silent_at(2, 23_001), [true, true]);
}

#[test]
fn who_comes_while_this_process_stands_still_has_a_lease_to_be_heard() {
    let ids = CountingIds::default();
    for steps in STEPS {
        let server = ServerId::from_uuid(ids.next());
        let observed = Observed::default();
        ticks(10_000, 18_000).for_each(|at| observed.tick_of_control(Position(1), at));
        // Given a minute in which it reads nothing; at the end of that a server comes.
        let mut missed = ticks_while_set(18_500, 78_000, steps);
        // When it goes on, LOG is the first to tell of it, ...
        observed.came(server, Position(2));
        let is_silent = |folded, at| {
            observed.tick_of_control(Position(folded), at);
            observed.silence(server).is_some()
        };
        // ... then it is silent when a lease is over since it came, and not before.
        let last = missed.pop().unwrap();
        assert!(missed.into_iter().all(|at| !is_silent(1, at)), "{steps:?}");
        assert!(!is_silent(2, last), "{steps:?}");
        let silent_after = ticks(500, 6_000).find(|after| is_silent(2, last.plus_millis(after.as_millis())));
        assert_eq!(silent_after, Some(Timestamp::from_millis(3_500)), "{steps:?}");
    }
}

/// A process that begins to listen behind the tick with number `begins`, and had read in `LOG` what `tell` tells it of what
/// stands there at position 2: that was folded by the tick with number `folded`. A server was heard before. Says at which tick
/// it is silent.
fn silent_at(steps: [i64; 2], begins: usize, folded: usize, tell: impl Fn(&Observed, ServerId)) -> usize {
    let ids = CountingIds::default();
    let (server, boot) = (ServerId::from_uuid(ids.next()), BootId::from_uuid(ids.next()));
    let observed = Observed::default();
    tell(&observed, server);
    for (number, at) in ticks_while_set(10_000, 130_000, steps).into_iter().enumerate().skip(begins) {
        observed.tick_of_control(Position(if number < folded { 1 } else { 2 }), at);
        if number == folded - 10 {
            observed.heartbeat(&beat(server, boot, 1), Position(1), at);
        }
        if observed.silence(server).is_some() {
            return number;
        }
    }
    panic!("it is never silent")
}

#[test]
fn who_came_before_this_process_began_has_a_lease_to_be_heard() {
    // Wherever in HEARTBEATS it begins, and whatever the clock of NATS was set to since.
    for (steps, begins) in STEPS.into_iter().flat_map(|steps| [0, 30, 70, 99, 100].map(|at| (steps, at))) {
        let came = |observed: &Observed, server| observed.came(server, Position(2));
        assert_eq!(silent_at(steps, begins, 100, came), 107, "{steps:?}, from {begins} on");
    }
    // If that was before all it reads, from there on.
    let came = |observed: &Observed, server| observed.came(server, Position(2));
    assert_eq!(silent_at([0, 0], 110, 100, came), 117);
}

#[test]
fn a_lease_that_became_shorter_before_this_process_began_does_so_where_it_did() {
    for (steps, begins) in STEPS.into_iter().flat_map(|steps| [0, 30, 70, 99, 100].map(|at| (steps, at))) {
        let shorter = |observed: &Observed, _| {
            observed.set_pace(Pace { interval_ms: 1_000, lease_ms: 6_000 }, Position(1));
            observed.set_pace(Pace { interval_ms: 1_000, lease_ms: 3_000 }, Position(2));
        };
        assert_eq!(silent_at(steps, begins, 100, shorter), 119, "{steps:?}, from {begins} on");
    }
}

#[test]
fn what_log_tells_behind_a_pause_is_no_longer_to_come_when_heartbeats_go_on() {
    let ids = CountingIds::default();
    let server = ServerId::from_uuid(ids.next());
    let observed = Observed::default();
    observed.set_pace(Pace { interval_ms: 1_000, lease_ms: 4_000 }, Position(1));
    ticks(10_000, 18_000).for_each(|at| observed.tick_of_control(Position(1), at));
    // Given an hour of which `LOG` is the first to tell.
    let hour = 3_600_000;
    observed.came(server, Position(2));
    observed.set_pace(Pace { interval_ms: 1_000, lease_ms: 3_000 }, Position(3));
    ticks(hour, hour + 7_000).for_each(|at| observed.tick_of_control(Position(3), at));
    assert_eq!(
        observed.silence(server),
        None,
        "it was told that it may be silent for 4 s, until a moment ago"
    );
    observed.tick(Timestamp::from_millis(hour + 7_001));
    assert!(observed.silence(server).is_some());
}

#[test]
fn who_is_back_is_unsteady_for_a_while() {
    let ids = CountingIds::default();
    let (server, boot) = (ServerId::from_uuid(ids.next()), BootId::from_uuid(ids.next()));
    let observed = Observed::default();
    let voice_at = |at: i64, sequence: Option<u64>| {
        let at = Timestamp::from_millis(at);
        match sequence {
            Some(number) => observed.heartbeat(&beat(server, boot, number), Position(number), at),
            None => observed.tick(at),
        }
        observed.signs(server).unwrap().voice
    };
    observed.tick(Timestamp::from_millis(9_500));
    assert_eq!(voice_at(10_000, Some(1)), Voice::Steady);
    let voices: Vec<_> = ticks(10_500, 13_500).map(|at| voice_at(at.as_millis(), None)).collect();
    let (a, b, c) = (Voice::Steady, Voice::Unsteady, Voice::Silent);
    assert_eq!(voices, [a, a, b, b, b, b, c]);
    // For another lease and the time to connect after it is back.
    let voices: Vec<_> =
        (2..).zip(ticks(14_000, 19_500)).map(|(number, at)| voice_at(at.as_millis(), Some(number))).collect();
    assert_eq!(voices, [[b; 11].as_slice(), &[a]].concat());
}

#[test]
fn who_has_only_just_come_is_not_silent_but_does_not_count_as_there() {
    let ids = CountingIds::default();
    let (server, boot) = (ServerId::from_uuid(ids.next()), BootId::from_uuid(ids.next()));
    let observed = Observed::default();
    ticks(10_000, 20_000).for_each(|at| observed.tick_of_control(Position(1), at));
    observed.came(server, Position(2));
    for at in ticks(20_500, 22_000) {
        observed.tick_of_control(Position(2), at);
        let signs = observed.signs(server).unwrap();
        assert_eq!((signs.voice, signs.is_away), (Voice::Unsteady, false));
        assert!(!observed.is_overdue(server), "nobody is to be shown it as suspect");
    }
    observed.heartbeat(&beat(server, boot, 1), Position(1), Timestamp::from_millis(22_100));
    assert_eq!(observed.signs(server).unwrap().voice, Voice::Steady);
}

/// A server that was heard for ten seconds and then is not, in a log that runs on; and how many of its ticks later `happens`
/// was called it is silent.
fn silent_ticks_after(happens: impl Fn(&Observed, Timestamp)) -> Option<usize> {
    let ids = CountingIds::default();
    let (server, boot) = (ServerId::from_uuid(ids.next()), BootId::from_uuid(ids.next()));
    let observed = Observed::default();
    observed.go_live();
    for (sequence, at) in (1..).zip(ticks(1_000, 11_000)) {
        observed.heartbeat(&beat(server, boot, sequence), Position(sequence), at);
    }
    ticks(11_500, 13_500).for_each(|at| observed.tick(at));
    assert_eq!(observed.silence(server), None);
    happens(&observed, Timestamp::from_millis(13_500));
    let newest = observed.now();
    ticks(500, 20_000).position(|after| {
        observed.tick(newest.plus_millis(after.as_millis()));
        observed.silence(server).is_some()
    })
}

#[test]
fn what_hides_how_long_nobody_could_be_heard_gives_everyone_a_lease_anew() {
    let anew = usize::try_from((RETURN_MS + 3_000) / i64::from(TICK_MS)).unwrap();
    assert_eq!(silent_ticks_after(|_, _| ()), Some(1));
    assert_eq!(silent_ticks_after(|observed, _| observed.connected_anew(3_000)), Some(anew));
    // One that was lost for a moment only: whoever has to connect, too, has the time for that, however often it happens.
    let connects = 1 + usize::try_from(RETURN_MS / i64::from(TICK_MS)).unwrap();
    assert_eq!(silent_ticks_after(|observed, _| observed.connected_anew(2_999)), Some(connects));
    let again = |observed: &Observed, _| (0..10).for_each(|_| observed.connected_anew(1_000));
    assert_eq!(silent_ticks_after(again), Some(connects));
    // A clock that went back may have gone back by more than it was away; one of NATS's servers may be a little behind another.
    let set_back = |ms: i64| move |observed: &Observed, at: Timestamp| observed.tick(at.plus_millis(-ms));
    assert_eq!(silent_ticks_after(set_back(101)), Some(anew));
    assert_eq!(silent_ticks_after(set_back(100)), Some(1));
    // Who is live already is not made live once more.
    assert_eq!(silent_ticks_after(|observed, _| observed.go_live()), Some(1));
}

#[test]
fn a_process_that_begins_to_listen_gives_everyone_a_lease_from_then_on() {
    let ids = CountingIds::default();
    let (server, boot) = (ServerId::from_uuid(ids.next()), BootId::from_uuid(ids.next()));
    let observed = Observed::default();
    observed.heartbeat(&beat(server, boot, 1), Position(1), Timestamp::from_millis(10_000));
    ticks(10_500, 20_000).for_each(|at| observed.tick(at));
    observed.go_live();
    for at in ticks(20_500, 25_000) {
        observed.tick(at);
        assert_eq!(observed.silence(server), None, "at {at}");
    }
    observed.tick(Timestamp::from_millis(25_001));
    assert!(observed.silence(server).is_some());
}

/// A fleet whose servers give their signs of life each in its own phase, with the State that follows from what is judged.
struct Fleet {
    observed: Observed,
    state: State,
    servers: Vec<ServerId>,
    now: i64,
    sequence: u64,
}

const RULES: Rules = Rules { lease_ms: 3_000, mass_silence_percent: 50 };

impl Fleet {
    fn of(count: u8) -> Self {
        let ids = CountingIds::default();
        let servers: Vec<_> = (0..count).map(|_| ServerId::from_uuid(ids.next())).collect();
        let start = 1_000_000;
        let mut fleet =
            Self { observed: Observed::default(), state: State::default(), servers, now: start, sequence: 0 };
        for (number, server_id) in (1..).zip(fleet.servers.clone()) {
            let joined = ServerJoined {
                server_id,
                name: number.to_string(),
                public_key: PublicKey([number; 32]),
                labels: Labels::new(),
                capacity: Capacity::default(),
            };
            fleet.happens(&Event::ServerJoined(joined));
            fleet.happens(&Event::ServerAdopted(ServerAdopted { server_id }));
        }
        fleet.run(6_000, |_, _| true);
        fleet
    }

    fn happens(&mut self, event: &Event) {
        let (position, at) = (self.state.position.next(), Timestamp::from_millis(self.now));
        fold::apply(&mut self.state, position, at, event).unwrap();
    }

    /// Runs for so long, looking five times a second. `is_heard` says of each server's sign of life, by its number and
    /// what time it is since now, whether it arrives. Says which servers were lost after how long, and whether any were held.
    fn run(&mut self, ms: i64, is_heard: impl Fn(usize, i64) -> bool) -> (Vec<(i64, usize)>, bool) {
        let (start, mut lost, mut has_held) = (self.now, Vec::new(), false);
        let count = i64::try_from(self.servers.len()).unwrap();
        while self.now < start + ms {
            self.now += 10;
            let (since, at) = (self.now - start, Timestamp::from_millis(self.now));
            for number in 0..self.servers.len() {
                let phase = 1_000 * i64::try_from(number).unwrap() / count / 10 * 10;
                if self.now % 1_000 == phase && is_heard(number, since) {
                    self.sequence += 1;
                    let boot_id = BootId::from_uuid(self.servers[number].as_uuid());
                    let sign = beat(self.servers[number], boot_id, self.sequence);
                    self.observed.heartbeat(&sign, Position(self.sequence), at);
                }
            }
            if self.now % i64::from(TICK_MS) == 0 {
                self.observed.tick(at);
                self.observed.go_live();
            }
            if self.now % 200 == 0 {
                let observed = &self.observed;
                let judgement = judge(&self.state, observed.now(), RULES, |id| observed.signs(id));
                has_held |= !judgement.held.is_empty();
                for (_, event) in judgement.lost.iter().chain(&judgement.returned) {
                    if let Event::ServerLost(e) = event {
                        let number = self.servers.iter().position(|id| *id == e.server_id).unwrap();
                        lost.push((since, number));
                        assert!(e.judged_at.millis_since(e.heard_at) > 3_000, "{e:?}");
                    }
                    self.happens(event);
                }
            }
        }
        (lost, has_held)
    }
}

#[test]
fn of_all_who_are_cut_off_together_none_is_lost_at_the_beginning_or_at_the_end() {
    for count in [3, 12, 100] {
        // Given a fleet that lives, all of which is cut off for a while, and heard again within 0.8 s.
        let mut fleet = Fleet::of(count);
        let back = |number: usize| 15_000 + 800 * i64::try_from(number).unwrap() / i64::from(count);
        let (lost, has_held) = fleet.run(40_000, |number, ms| ms >= back(number));
        assert_eq!((lost, has_held), (Vec::new(), true), "{count} servers");
    }
}

#[test]
fn of_all_who_are_cut_off_together_for_about_a_lease_none_is_lost_when_they_come_back() {
    // Given a fleet of which all, or two thirds, are cut off for about as long as the lease, and heard again one after the
    // other, the last of them a second later than the others.
    for (count, cut_off) in [(3, 3), (12, 12), (12, 8), (100, 100)] {
        for ms in (1_600..=6_000).step_by(100) {
            let last = ms + 1_000;
            let back = |number: usize| match number {
                0 => last,
                _ => ms + 300 * i64::try_from(number).unwrap() / i64::from(count),
            };
            let (lost, _) =
                Fleet::of(count).run(20_000, |number, at| number >= cut_off || at >= back(number));
            assert_eq!(lost, Vec::new(), "{cut_off} of {count} servers, for {ms} ms");
        }
    }
}

#[test]
fn who_is_dead_when_the_others_come_back_is_lost_then() {
    let mut fleet = Fleet::of(12);
    let (lost, _) = fleet.run(40_000, |number, ms| ms >= 15_000 && number >= 3);
    // Once the others have been back for a lease and the time to connect.
    let numbers: Vec<_> = lost.iter().map(|(_, number)| *number).collect();
    assert_eq!(numbers, [0, 1, 2]);
    assert!(
        lost.iter().all(|(ms, _)| (15_000..=15_000 + 1_000 + 3_000 + RETURN_MS + 200).contains(ms)),
        "{lost:?}"
    );
}

#[test]
fn a_real_loss_is_noticed_in_the_time_of_a_lease() {
    for (count, dead) in [(2, 1), (4, 1), (4, 2), (12, 6), (100, 5), (100, 50)] {
        let mut fleet = Fleet::of(count);
        let (lost, has_held) = fleet.run(10_000, |number, _| number >= dead);
        assert_eq!((lost.len(), has_held), (dead, false), "{dead} of {count}");
        let within_ms = 3_000 + i64::from(TICK_MS) + 200;
        assert!(lost.iter().all(|(ms, _)| *ms <= within_ms), "{lost:?}");
    }
    // Two of three might as well be cut off: they are not judged.
    let (lost, has_held) = Fleet::of(3).run(60_000, |number, _| number >= 2);
    assert_eq!((lost, has_held), (Vec::new(), true));
}

#[test]
fn silence_that_spreads_is_mass_silence_as_well() {
    // Given a hundred servers, of which twenty more are cut off every two seconds: slowly enough that none of these twenty is
    // overdue when those before are lost.
    let mut fleet = Fleet::of(100);
    let cut_off_at = |number: usize| i64::try_from(number / 20).unwrap() * 2_000;
    let (lost, has_held) = fleet.run(30_000, |number, ms| ms < cut_off_at(number));
    assert!(has_held);
    // Then no more are lost than the share, not the share of those who are left, again and again.
    assert!(lost.len() <= 50, "{} of 100 are lost", lost.len());
}
