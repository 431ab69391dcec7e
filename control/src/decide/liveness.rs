//! Liveness: which servers are lost, which have returned. Pure; what was heard comes from the log's own clock.
//!
//! Invariants: a server is judged by its silence against the sign of life of somebody else, never against a machine's
//! clock; it returns by a sign that is newer than what it was judged by; when more than a share of all servers falls silent
//! at once the fault is taken for our own, nobody is judged, and that is said.
//!
//! *At once* is not *in the same moment*. Signs of life have phases, so those who are cut off together fall silent one after
//! the other, and come back one after the other. So whoever is overdue counts as missing, not only who is silent for a
//! lease; and who was lost a moment ago; and who has just come back after a silence, until those who were silent with it had
//! the time to come back, too. And who comes back before it was silent for a lease leaves those behind whose last sign of life
//! happened to be older: so whoever was away counts as away for as long as it takes to connect, and while more than the share
//! are, nobody is judged. Who is really dead is judged then.

use longwatch_events::event::{Event, ServerLost, ServerReturned};
use longwatch_events::id::ServerId;
use longwatch_events::position::Position;
use longwatch_events::state::{Lost, State};
use longwatch_events::time::Timestamp;

/// A server whose last sign of life is so many leases old, or less, was lost a moment ago.
const LOST_RECENTLY_LEASES: i64 = 3;

/// What is known of one server's signs of life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signs {
    /// Where the last one stands in `HEARTBEATS`.
    pub last_heartbeat: Option<Position>,
    /// When that was stored, or when the listener began to listen.
    pub heard_at: Timestamp,
    /// What time it is now, counted by the log's clock from `heard_at` on: later than that, whatever the clock of NATS was
    /// set to since.
    pub now: Timestamp,
    /// How it is heard.
    pub voice: Voice,
    /// Whether nothing was heard of it for so long that it is not only late, nor connecting after the log stood still; or that
    /// was so until a moment ago, when it came back.
    pub is_away: bool,
}

/// How a server is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Voice {
    /// As it should be.
    Steady,
    /// Its sign of life is overdue, it was not heard yet, or it is only just back after a silence.
    Unsteady,
    /// Not for longer than the lease.
    Silent,
}

/// By what is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// How long a server may be silent, in milliseconds.
    pub lease_ms: u32,
    /// If a larger share of the servers is missing at once, in percent, nobody is judged.
    pub mass_silence_percent: u32,
}

/// What follows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Judgement {
    /// To be appended first: each with the version of its server, by server.
    pub lost: Vec<(Position, Event)>,
    /// To be appended then, in the same way.
    pub returned: Vec<(Position, Event)>,
    /// Servers that are silent and not judged, because too many are.
    pub held: Vec<ServerId>,
}

/// Judges every server of `state` by its `signs`, at `now` of the clock that these were stored by.
pub fn judge(
    state: &State,
    now: Timestamp,
    rules: Rules,
    signs: impl Fn(ServerId) -> Option<Signs>,
) -> Judgement {
    let mut judgement = Judgement::default();
    let mut silent = Vec::new();
    let (mut present, mut missing, mut away) = (0, 0, 0);
    for (server_id, server) in state.servers().filter(|(_, server)| server.is_ours()) {
        let heard = signs(server_id);
        match (server.lost, heard) {
            (None, None) => present += 1,
            (None, Some(heard)) => {
                present += 1;
                missing += usize::from(heard.voice != Voice::Steady);
                away += usize::from(heard.is_away);
                if heard.voice == Voice::Silent {
                    silent.push((server_id, server.version, heard));
                }
            }
            (Some(lost), heard) => {
                let is_recent = was_lost_recently(lost, now, rules.lease_ms);
                present += usize::from(is_recent);
                missing += usize::from(is_recent);
                if let Some(heartbeat) = heard.and_then(|heard| shows_life(lost, heard)) {
                    let returned = Event::ServerReturned(ServerReturned { server_id, heartbeat });
                    judgement.returned.push((server.version, returned));
                }
            }
        }
    }
    let are_too_many = |count: usize| count * 100 > present * rules.mass_silence_percent as usize;
    if are_too_many(missing) || are_too_many(away) {
        judgement.held = silent.into_iter().map(|(server_id, ..)| server_id).collect();
        return judgement;
    }
    let lost = silent.into_iter().map(|(server_id, version, heard)| {
        let Signs { last_heartbeat, heard_at, now: judged_at, .. } = heard;
        let lease_ms = rules.lease_ms;
        (version, Event::ServerLost(ServerLost { server_id, last_heartbeat, heard_at, judged_at, lease_ms }))
    });
    judgement.lost = lost.collect();
    judgement
}

/// Whether those who are silent now may have fallen silent together with it. If its time is yet to come, the clock of NATS
/// was set back since: then nothing is known of when it was.
fn was_lost_recently(lost: Lost, now: Timestamp, lease_ms: u32) -> bool {
    let age_ms = now.millis_since(lost.heard_at);
    (0..=LOST_RECENTLY_LEASES * i64::from(lease_ms)).contains(&age_ms)
}

/// Where the sign of life stands that shows that a lost server is back: one that is newer than what it was judged by. By its
/// time also if not by its position: `HEARTBEATS` can be made anew without `LOG`, and then begins anew.
fn shows_life(lost: Lost, heard: Signs) -> Option<Position> {
    let heartbeat = heard.last_heartbeat.filter(|_| heard.voice != Voice::Silent)?;
    let is_behind = lost.last_heartbeat.is_some_and(|last| heartbeat > last);
    (is_behind || heard.heard_at > lost.heard_at).then_some(heartbeat)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use longwatch_events::event::{ServerAdopted, ServerJoined};
    use longwatch_events::fold;
    use longwatch_events::sealed::PublicKey;
    use longwatch_events::settings::{Capacity, Labels};
    use uuid::Uuid;

    use super::*;

    const RULES: Rules = Rules { lease_ms: 3_000, mass_silence_percent: 50 };
    const NOW: Timestamp = Timestamp::from_millis(100_000);
    /// When everything in State happened.
    const BEFORE: Timestamp = Timestamp::from_millis(90_000);

    fn server(n: u8) -> ServerId {
        ServerId::from_uuid(Uuid::from_u128(n.into()))
    }

    fn happen(state: &mut State, event: &Event) {
        let position = state.position.next();
        fold::apply(state, position, BEFORE, event).unwrap();
    }

    fn servers(count: u8) -> State {
        let mut state = State::default();
        for n in 1..=count {
            let joined = ServerJoined {
                server_id: server(n),
                name: n.to_string(),
                public_key: PublicKey([n; 32]),
                labels: Labels::new(),
                capacity: Capacity::default(),
            };
            happen(&mut state, &Event::ServerJoined(joined));
            happen(&mut state, &Event::ServerAdopted(ServerAdopted { server_id: server(n) }));
        }
        state
    }

    fn heard(position: u64, voice: Voice) -> Signs {
        let heard_at = Timestamp::from_millis(match voice {
            Voice::Silent => 96_000,
            Voice::Unsteady => 98_400,
            Voice::Steady => 99_500,
        });
        let is_away = voice == Voice::Silent;
        Signs { last_heartbeat: Some(Position(position)), heard_at, now: NOW, voice, is_away }
    }

    fn judge_by(state: &State, signs: &BTreeMap<ServerId, Signs>) -> Judgement {
        judge(state, NOW, RULES, |id| signs.get(&id).copied())
    }

    #[test]
    fn a_silent_server_is_lost_once_and_returns_by_a_newer_sign_only() {
        let mut state = servers(3);
        let mut signs = BTreeMap::from([
            (server(1), heard(7, Voice::Silent)),
            (server(2), heard(9, Voice::Steady)),
            (server(3), heard(8, Voice::Steady)),
        ]);
        let judgement = judge_by(&state, &signs);
        let [(version, Event::ServerLost(lost))] = &judgement.lost[..] else { panic!("{judgement:?}") };
        assert_eq!((lost.server_id, lost.last_heartbeat), (server(1), Some(Position(7))));
        assert_eq!(*version, state.server(server(1)).unwrap().version);

        happen(&mut state, &judgement.lost[0].1);
        assert_eq!(judge_by(&state, &signs), Judgement::default(), "it is judged once");
        signs.insert(server(1), Signs { heard_at: lost.heard_at, ..heard(7, Voice::Steady) });
        assert_eq!(
            judge_by(&state, &signs),
            Judgement::default(),
            "the sign it was judged by does not bring it back"
        );
        signs.insert(server(1), heard(12, Voice::Steady));
        let judgement = judge_by(&state, &signs);
        assert!(
            matches!(&judgement.returned[..], [(_, Event::ServerReturned(e))] if e.heartbeat == Position(12))
        );
        happen(&mut state, &judgement.returned[0].1);
        assert!(state.server(server(1)).unwrap().is_assignable());
    }

    #[test]
    fn a_sign_that_is_newer_by_position_or_by_time_brings_back() {
        let lost_by = |last_heartbeat: Option<u64>, heard_at| Lost {
            last_heartbeat: last_heartbeat.map(Position),
            heard_at: Timestamp::from_millis(heard_at),
        };
        let sign = |position, heard_at| Signs {
            heard_at: Timestamp::from_millis(heard_at),
            ..heard(position, Voice::Steady)
        };
        for (lost, sign, is_back) in [
            (lost_by(Some(1_000), 50_000), sign(1_000, 50_000), false),
            (lost_by(Some(1_000), 50_000), sign(999, 49_000), false),
            (lost_by(Some(1_000), 50_000), sign(1_001, 50_001), true),
            // `HEARTBEATS` was made anew; the clock of NATS was set back.
            (lost_by(Some(1_000), 50_000), sign(3, 60_000), true),
            (lost_by(Some(1_000), 50_000), sign(1_001, 40_000), true),
            // The one who judged had heard nothing since it listens.
            (lost_by(None, 50_000), sign(3, 49_000), false),
            (lost_by(None, 50_000), sign(3, 50_001), true),
        ] {
            assert_eq!(shows_life(lost, sign).is_some(), is_back, "{lost:?} {sign:?}");
            let silent = Signs { voice: Voice::Silent, ..sign };
            let unsteady = Signs { voice: Voice::Unsteady, ..sign };
            assert_eq!(shows_life(lost, silent), None);
            assert_eq!(shows_life(lost, unsteady).is_some(), is_back);
        }
    }

    /// How many of so many servers are lost and held, of which so many are silent and so many unsteady.
    fn judged(count: u8, silent: u8, unsteady: u8) -> (usize, usize) {
        let voice = |n| match n {
            n if n <= silent => Voice::Silent,
            n if n <= silent + unsteady => Voice::Unsteady,
            _ => Voice::Steady,
        };
        let signs = (1..=count).map(|n| (server(n), heard(n.into(), voice(n)))).collect();
        let Judgement { lost, held, .. } = judge_by(&servers(count), &signs);
        (lost.len(), held.len())
    }

    #[test]
    fn silence_of_more_than_the_share_judges_nobody() {
        assert_eq!(judged(4, 2, 0), (2, 0), "half is not more than half");
        assert_eq!(judged(4, 3, 0), (0, 3));
        assert_eq!(judged(2, 1, 0), (1, 0));
        assert_eq!(judged(4, 1, 1), (1, 0));
        assert_eq!(judged(100, 5, 5), (5, 0));
        // The first slice of a mass silence, and what is left of it when the others are just back.
        assert_eq!(judged(12, 1, 11), (0, 1));
        assert_eq!(judged(12, 3, 5), (0, 3));
        assert_eq!(judged(12, 3, 3), (3, 0));
    }

    #[test]
    fn nobody_is_judged_while_many_come_back() {
        let (state, signs) = (servers(4), [(1, Voice::Silent), (2, Voice::Steady), (3, Voice::Steady)]);
        let mut signs: BTreeMap<_, _> =
            signs.into_iter().map(|(n, voice)| (server(n), heard(n.into(), voice))).collect();
        assert_eq!(judge_by(&state, &signs).lost.len(), 1);
        signs.values_mut().for_each(|signs| signs.is_away = true);
        let Judgement { lost, held, .. } = judge_by(&state, &signs);
        assert_eq!((lost, held), (Vec::new(), vec![server(1)]));
    }

    #[test]
    fn who_is_alone_is_never_lost() {
        assert_eq!(judged(1, 1, 0), (0, 1));
    }

    #[test]
    fn who_was_lost_a_moment_ago_counts_as_silent_at_once() {
        // Given ten servers of which four are lost, and then two more fall silent.
        let lose = |heard_at| {
            let mut state = servers(10);
            for n in 1..=4 {
                let heard_at = Timestamp::from_millis(heard_at);
                let lost = ServerLost {
                    server_id: server(n),
                    last_heartbeat: None,
                    heard_at,
                    judged_at: heard_at.plus_millis(3_001),
                    lease_ms: RULES.lease_ms,
                };
                happen(&mut state, &Event::ServerLost(lost));
            }
            state
        };
        let signs = |silent| {
            let voice = |n| if n <= silent { Voice::Silent } else { Voice::Steady };
            (5..=10).map(|n| (server(n), heard(n.into(), voice(n)))).collect::<BTreeMap<_, _>>()
        };
        let count = |heard_at, silent| {
            let Judgement { lost, held, .. } = judge_by(&lose(heard_at), &signs(silent));
            (lost.len(), held.len())
        };
        // When the four were lost just now, six of ten are too many; five are not.
        assert_eq!(count(NOW.as_millis() - 9_000, 6), (0, 2));
        assert_eq!(count(NOW.as_millis() - 9_000, 5), (1, 0));
        // When it was long ago, two of six are not; four are.
        assert_eq!(count(NOW.as_millis() - 9_001, 6), (2, 0));
        assert_eq!(count(NOW.as_millis() - 9_001, 8), (0, 4));
        // When the clock was set back since, it may have been long ago.
        assert_eq!(count(NOW.as_millis() + 1_000, 6), (2, 0));
    }
}
