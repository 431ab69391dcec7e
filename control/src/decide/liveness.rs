//! Liveness: which servers are lost, which have returned. Pure; what was heard comes from the log's own clock.
//!
//! Invariants: a server is judged by its silence against the sign of life of somebody else, never against a machine's
//! clock, and never before it has been there for a lease; it returns by a sign that is newer than what it was judged by;
//! when more than a share of all servers falls silent at once the fault is taken for our own, nobody is judged,
//! and that is said.

use longwatch_events::event::{Event, ServerLost, ServerReturned};
use longwatch_events::id::ServerId;
use longwatch_events::position::Position;
use longwatch_events::state::State;
use longwatch_events::time::Timestamp;

/// What is known of one server's signs of life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signs {
    /// Where the last one stands in `HEARTBEATS`.
    pub last_heartbeat: Option<Position>,
    /// When that was stored, or when the listener began to listen.
    pub heard_at: Timestamp,
    /// Whether that is longer ago than the lease.
    pub is_silent: bool,
}

/// By what is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// How long a server may be silent, in milliseconds.
    pub lease_ms: u32,
    /// If a larger share of the servers that are not lost is silent, in percent, nobody is judged.
    pub mass_silence_percent: u32,
}

/// What follows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Judgement {
    /// To be appended: each with the version of its server, by server.
    pub events: Vec<(Position, Event)>,
    /// Servers that are silent and not judged, because too many are.
    pub held: Vec<ServerId>,
}

/// Judges every server of `state` by its `signs`, at `now` of the log's clock.
pub fn judge(
    state: &State,
    now: Timestamp,
    rules: Rules,
    signs: impl Fn(ServerId) -> Option<Signs>,
) -> Judgement {
    let mut judgement = Judgement::default();
    let mut silent = Vec::new();
    let mut counted = 0;
    for (server_id, server) in state.servers().filter(|(_, server)| server.is_ours()) {
        let heard = signs(server_id);
        // One that has just come is given the time to be heard first.
        let is_new = now.millis_since(server.present_since) <= i64::from(rules.lease_ms);
        match (server.lost, heard) {
            (None, heard) => {
                counted += 1;
                silent.extend(
                    heard
                        .filter(|heard| heard.is_silent && !is_new)
                        .map(|heard| (server_id, server.version, heard)),
                );
            }
            (Some(lost), Some(Signs { last_heartbeat: Some(heartbeat), heard_at, is_silent: false }))
                if lost.last_heartbeat.map_or(heard_at > lost.heard_at, |last| heartbeat > last) =>
            {
                let returned = Event::ServerReturned(ServerReturned { server_id, heartbeat });
                judgement.events.push((server.version, returned));
            }
            (Some(_), _) => {}
        }
    }
    if silent.len() * 100 > counted * rules.mass_silence_percent as usize {
        judgement.held = silent.into_iter().map(|(server_id, ..)| server_id).collect();
        return judgement;
    }
    let lost = silent.into_iter().map(|(server_id, version, heard)| {
        let Signs { last_heartbeat, heard_at, .. } = heard;
        let lease_ms = rules.lease_ms;
        (
            version,
            Event::ServerLost(ServerLost { server_id, last_heartbeat, heard_at, judged_at: now, lease_ms }),
        )
    });
    judgement.events.extend(lost);
    judgement
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

    fn heard(position: u64, is_silent: bool) -> Signs {
        let heard_at = Timestamp::from_millis(if is_silent { 96_000 } else { 99_500 });
        Signs { last_heartbeat: Some(Position(position)), heard_at, is_silent }
    }

    fn judge_by(state: &State, signs: &BTreeMap<ServerId, Signs>) -> Judgement {
        judge(state, NOW, RULES, |id| signs.get(&id).copied())
    }

    #[test]
    fn a_silent_server_is_lost_once_and_returns_by_a_newer_sign_only() {
        let mut state = servers(3);
        let mut signs = BTreeMap::from([
            (server(1), heard(7, true)),
            (server(2), heard(9, false)),
            (server(3), heard(8, false)),
        ]);
        let judgement = judge_by(&state, &signs);
        let [(version, Event::ServerLost(lost))] = &judgement.events[..] else { panic!("{judgement:?}") };
        assert_eq!((lost.server_id, lost.last_heartbeat), (server(1), Some(Position(7))));
        assert_eq!(*version, state.server(server(1)).unwrap().version);

        happen(&mut state, &judgement.events[0].1);
        assert_eq!(judge_by(&state, &signs), Judgement::default(), "it is judged once");
        signs.insert(server(1), heard(7, false));
        assert_eq!(
            judge_by(&state, &signs),
            Judgement::default(),
            "the sign it was judged by does not bring it back"
        );
        signs.insert(server(1), heard(12, false));
        let judgement = judge_by(&state, &signs);
        assert!(
            matches!(&judgement.events[..], [(_, Event::ServerReturned(e))] if e.heartbeat == Position(12))
        );
        happen(&mut state, &judgement.events[0].1);
        assert!(state.server(server(1)).unwrap().is_assignable());
    }

    #[test]
    fn who_has_just_come_is_given_a_lease() {
        let mut state = servers(2);
        let unheard =
            Signs { last_heartbeat: None, heard_at: Timestamp::from_millis(50_000), is_silent: true };
        let signs = BTreeMap::from([(server(1), unheard), (server(2), heard(9, false))]);
        let present_since = state.server(server(1)).unwrap().present_since;
        let judge_at = |state: &State, ms| {
            judge(state, present_since.plus_millis(ms), RULES, |id| signs.get(&id).copied())
        };
        assert_eq!(judge_at(&state, 3_000), Judgement::default());
        let judgement = judge_at(&state, 3_001);
        let [(_, lost)] = &judgement.events[..] else { panic!("{judgement:?}") };
        // And a sign from before the one who judged listened does not bring it back.
        happen(&mut state, lost);
        let older = Signs {
            last_heartbeat: Some(Position(3)),
            heard_at: Timestamp::from_millis(49_000),
            is_silent: false,
        };
        let newer = Signs { heard_at: Timestamp::from_millis(50_001), ..older };
        let returns =
            |sign: Signs| judge(&state, NOW, RULES, |id| (id == server(1)).then_some(sign)).events.len();
        assert_eq!((returns(older), returns(newer)), (0, 1));
    }

    #[test]
    fn silence_of_more_than_the_share_judges_nobody() {
        let state = servers(4);
        let mut signs: BTreeMap<_, _> = (1..=4).map(|n| (server(n), heard(n.into(), n <= 2))).collect();
        assert_eq!(judge_by(&state, &signs).events.len(), 2, "half is not more than half");
        signs.insert(server(3), heard(3, true));
        let judgement = judge_by(&state, &signs);
        assert_eq!((judgement.events.len(), judgement.held.len()), (0, 3));
    }

    #[test]
    fn who_is_alone_is_never_lost() {
        let state = servers(1);
        let signs = BTreeMap::from([(server(1), heard(1, true))]);
        assert_eq!(judge_by(&state, &signs).held, [server(1)]);
    }
}
