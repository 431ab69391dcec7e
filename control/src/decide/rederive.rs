//! Draws a plan of the log up again and compares: whoever has the log can check every decision, and be told why it was
//! made.
//!
//! A plan follows from State at its basis, from the log's clock when it was made, and from what `RECORDINGS` showed of the
//! moves under way. The first is folded, the second stands in the plan, and so does the last: each [`Decision::Finish`] that
//! a report led to names it, and no other decision depends on one.
//!
//! Pure: no log and no HTTP. A plan made by other rules than [`placement::RULES`] is not judged.

use std::collections::{BTreeMap, BTreeSet};

use longwatch_events::event::{Decision, Part, PlanEntry, PlanMade};
use longwatch_events::id::CopyKey;
use longwatch_events::position::Position;
use longwatch_events::reason::FinishReason;
use longwatch_events::state::State;
use longwatch_events::time::Timestamp;

use super::placement::{self, Candidate, Evidence, Inputs, Scope, Shown, Step};

/// So many entries of a plan stand in one event at most: about 500 KB, half of what NATS takes.
pub const ENTRIES_PER_EVENT: usize = 2_000;
/// So many events of a plan are appended at once, or as many as make room; what is left of it, the next plan says.
const EVENTS_AT_ONCE: usize = 32;
/// So many entries.
pub const ENTRIES_AT_ONCE: usize = ENTRIES_PER_EVENT * EVENTS_AT_ONCE;

/// A plan as it stands in the log, put together from its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    /// The position of the log it was derived from.
    pub basis: Position,
    /// The version of the rules that made it.
    pub rules: u32,
    /// The log's clock when it was made; `None` in logs from before that was said.
    pub decided_at: Option<Timestamp>,
    /// All its entries.
    pub entries: Vec<PlanEntry>,
    /// Whether as much of it stands there as is appended at once: then there may have been more.
    is_full: bool,
}

/// Parts that are not those of one plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// One is missing, or is of another plan.
    #[error("part {number} of {of} is not where it should stand")]
    Part {
        /// Which.
        number: u32,
        /// Of how many.
        of: u32,
    },
    /// State is not that of the plan's basis.
    #[error("the plan was derived from position {basis}, and this is position {position}")]
    Basis {
        /// The plan's.
        basis: Position,
        /// The State's.
        position: Position,
    },
}

/// Whether a plan can be derived again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It says what follows.
    Equal,
    /// It says something else.
    Different,
    /// It was made by other rules than this program's.
    OtherRules,
}

/// What a plan says of a copy, and what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Difference {
    /// Which copy.
    pub key: CopyKey,
    /// What stands in the log.
    pub logged: Option<Decision>,
    /// What follows.
    pub derived: Option<Decision>,
}

/// A plan that was drawn up again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rederived {
    /// Whether it is the same.
    pub verdict: Verdict,
    /// Where it is not, by copy.
    pub differences: Vec<Difference>,
}

impl Verdict {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "equal",
            Self::Different => "different",
            Self::OtherRules => "other_rules",
        }
    }
}

impl Logged {
    /// Puts the parts of a plan together, in the order in which they stand in the log.
    ///
    /// # Errors
    /// If they are not all parts of one plan.
    pub fn of(parts: &[PlanMade]) -> Result<Self, Error> {
        let first = parts.first().ok_or(Error::Part { number: 1, of: 1 })?;
        let of = first.part.of;
        let mut entries = Vec::new();
        for number in 1..=of {
            let at = usize::try_from(number - 1).ok();
            let part = at.and_then(|at| parts.get(at)).filter(|part| {
                part.part == Part { number, of } && part.basis == first.basis && part.rules == first.rules
            });
            entries.extend_from_slice(&part.ok_or(Error::Part { number, of })?.entries);
        }
        Ok(Self {
            basis: first.basis,
            rules: first.rules,
            decided_at: first.decided_at,
            is_full: entries.len() >= ENTRIES_AT_ONCE,
            entries,
        })
    }

    /// What the plan says of a copy.
    pub fn entry(&self, key: CopyKey) -> Option<&PlanEntry> {
        self.entries.iter().find(|entry| entry.key() == key)
    }

    /// The log's clock when it was made, if this program's rules made it.
    fn by_these_rules(&self) -> Option<Timestamp> {
        self.decided_at.filter(|_| self.rules == placement::RULES)
    }

    /// What `RECORDINGS` showed when it was made, as far as the plan follows from it.
    fn evidence(&self) -> Evidence {
        let shown = self.entries.iter().filter_map(|entry| {
            let Decision::Finish { epoch, reason, evidence: Some(position) } = entry.decision else {
                return None;
            };
            let what = match reason {
                FinishReason::FirstKeyframe => Step::Begun,
                FinishReason::Stopped => Step::Stopped,
                FinishReason::OldLost | FinishReason::TimedOut => return None,
            };
            Some(((entry.key(), epoch), Shown { position, what }))
        });
        shown.collect()
    }
}

/// Draws `logged` up again on `state`, which is that of its basis.
///
/// # Errors
/// If `state` is another one.
pub fn rederive(state: &State, logged: &Logged) -> Result<Rederived, Error> {
    let Some(now) = is_of(state, logged)?.by_these_rules() else {
        return Ok(Rederived { verdict: Verdict::OtherRules, differences: Vec::new() });
    };
    let (evidence, lose) = (logged.evidence(), BTreeSet::new());
    let inputs = Inputs { state, now, evidence: &evidence, lose: &lose, scope: Scope::All };
    let most = if logged.is_full { ENTRIES_AT_ONCE } else { usize::MAX };
    let derived = placement::plan_within(&inputs, most);
    // Their order counts as well: it decides what stands in which part.
    let verdict = if derived == logged.entries { Verdict::Equal } else { Verdict::Different };
    Ok(Rederived { verdict, differences: differences(&logged.entries, &derived) })
}

/// What speaks for and against every server for `key`, as it was when `logged` was drawn up; none if no server was looked
/// for, or if other rules made the plan.
///
/// # Errors
/// If `state` is not that of the plan's basis.
pub fn candidates(state: &State, logged: &Logged, key: CopyKey) -> Result<Vec<Candidate>, Error> {
    let Some(now) = is_of(state, logged)?.by_these_rules() else { return Ok(Vec::new()) };
    let (evidence, lose) = (logged.evidence(), BTreeSet::new());
    let inputs = Inputs { state, now, evidence: &evidence, lose: &lose, scope: Scope::All };
    Ok(placement::explain(&inputs, key).candidates)
}

fn is_of<'a>(state: &State, logged: &'a Logged) -> Result<&'a Logged, Error> {
    let (basis, position) = (logged.basis, state.position);
    if position == basis { Ok(logged) } else { Err(Error::Basis { basis, position }) }
}

fn differences(logged: &[PlanEntry], derived: &[PlanEntry]) -> Vec<Difference> {
    let by_key = |entries: &[PlanEntry]| -> BTreeMap<_, _> {
        entries.iter().map(|entry| (entry.key(), entry.decision)).collect()
    };
    let (logged, derived) = (by_key(logged), by_key(derived));
    let keys: BTreeSet<_> = logged.keys().chain(derived.keys()).copied().collect();
    let compare = |key| {
        let (logged, derived) = (logged.get(&key).copied(), derived.get(&key).copied());
        (logged != derived).then_some(Difference { key, logged, derived })
    };
    keys.into_iter().filter_map(compare).collect()
}

#[cfg(test)]
mod tests {
    use longwatch_events::event::{
        CameraAdded, CameraMoveRequested, Event, ServerAdopted, ServerJoined, TenantCreated,
    };
    use longwatch_events::fold;
    use longwatch_events::id::{CameraId, EventId, ServerId, TenantId};
    use longwatch_events::sealed::{Base64Bytes, PublicKey, Sealed, WrappedKey};
    use longwatch_events::settings::{
        CameraSettings, Capacity, Labels, Priority, Recording, Retention, Source, Transport,
    };
    use uuid::Uuid;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(100_000);

    fn camera(n: u128) -> CameraId {
        CameraId::from_uuid(Uuid::from_u128(n))
    }

    fn server(n: u8) -> ServerId {
        ServerId::from_uuid(Uuid::from_u128(n.into()))
    }

    fn happen(state: &mut State, event: Event) {
        let position = state.position.next();
        fold::apply(state, position, NOW, &event).unwrap();
    }

    fn settings() -> CameraSettings {
        let secret =
            Sealed { sealed_in: EventId::from_uuid(Uuid::from_u128(1)), bytes: Base64Bytes(vec![1]) };
        CameraSettings {
            name: "Gate".into(),
            labels: Labels::new(),
            source: Source { url: "rtsp://h/".into(), secret, transport: Transport::Tcp },
            recording: Recording::default(),
            retention: Retention::default(),
            failover_priority: Priority::Medium,
            preferred_server_id: None,
            copies: 1,
            expected_bitrate_bps: None,
            server_labels: Labels::new(),
            single_session: false,
            live_latency_ms: None,
        }
    }

    fn system(servers: u8, cameras: u128, capacity: u32) -> State {
        let mut state = State::default();
        let data_key = WrappedKey { provider: "file".into(), bytes: Base64Bytes(vec![1]) };
        let tenant_id = TenantId::DEFAULT;
        happen(
            &mut state,
            Event::TenantCreated(TenantCreated { tenant_id, name: "Default".into(), data_key }),
        );
        for n in 1..=servers {
            let joined = ServerJoined {
                server_id: server(n),
                name: n.to_string(),
                public_key: PublicKey([n; 32]),
                labels: Labels::new(),
                capacity: Capacity { max_cameras: capacity, max_bitrate_bps: None },
            };
            happen(&mut state, Event::ServerJoined(joined));
            happen(&mut state, Event::ServerAdopted(ServerAdopted { server_id: server(n) }));
        }
        for n in 1..=cameras {
            let added = CameraAdded { tenant_id, camera_id: camera(n), settings: settings() };
            happen(&mut state, Event::CameraAdded(added));
        }
        state
    }

    /// What a planner says on `state`, in parts.
    fn planned(state: &State, evidence: &Evidence) -> Vec<PlanMade> {
        let lose = BTreeSet::new();
        let inputs = Inputs { state, now: NOW, evidence, lose: &lose, scope: Scope::All };
        let entries = placement::plan(&inputs).entries;
        let chunks: Vec<_> = entries.chunks(ENTRIES_PER_EVENT).take(EVENTS_AT_ONCE).collect();
        let of = u32::try_from(chunks.len()).unwrap();
        let part = |(number, entries): (u32, &[PlanEntry])| PlanMade {
            basis: state.position,
            rules: placement::RULES,
            decided_at: Some(NOW),
            part: Part { number, of },
            entries: entries.to_vec(),
        };
        (1..).zip(chunks).map(part).collect()
    }

    #[test]
    fn a_plan_is_derived_again_and_one_that_was_tampered_with_is_not() {
        let state = system(2, 5, 4);
        let plan = planned(&state, &Evidence::new());
        let logged = Logged::of(&plan).unwrap();
        let equal = Rederived { verdict: Verdict::Equal, differences: Vec::new() };
        assert_eq!(rederive(&state, &logged), Ok(equal));

        let mut tampered = logged.clone();
        let dropped = tampered.entries.pop().unwrap();
        let Decision::Assign { server_id: was, reason } = tampered.entries[0].decision else { panic!() };
        let other = if was == server(1) { server(2) } else { server(1) };
        tampered.entries[0].decision = Decision::Assign { server_id: other, reason };
        let rederived = rederive(&state, &tampered).unwrap();
        assert_eq!(rederived.verdict, Verdict::Different);
        let told: Vec<_> =
            rederived.differences.iter().map(|d| (d.key, d.logged.is_some(), d.derived.is_some())).collect();
        assert_eq!(told, [(tampered.entries[0].key(), true, true), (dropped.key(), false, true)]);
    }

    #[test]
    fn what_a_report_showed_is_taken_from_the_plan() {
        let mut state = system(2, 1, 4);
        let [plan] = &planned(&state, &Evidence::new())[..] else { panic!() };
        happen(&mut state, Event::PlanMade(plan.clone()));
        let key = CopyKey { tenant_id: TenantId::DEFAULT, camera_id: camera(1), copy: 0 };
        let old = state.copy(key).unwrap().1.assignment().unwrap().server_id;
        let server_id = if old == server(1) { server(2) } else { server(1) };
        let (tenant_id, camera_id) = (key.tenant_id, key.camera_id);
        let wish = CameraMoveRequested { tenant_id, camera_id, copy: 0, server_id };
        happen(&mut state, Event::CameraMoveRequested(wish));
        let [plan] = &planned(&state, &Evidence::new())[..] else { panic!() };
        let logged = Logged::of(std::slice::from_ref(plan)).unwrap();
        assert_eq!(rederive(&state, &logged).unwrap().verdict, Verdict::Equal);
        let refused = candidates(&state, &logged, key).unwrap();
        let refused: Vec<_> = refused.iter().map(|c| (c.server_id, c.refusal.is_none())).collect();
        assert_eq!(refused, [(server(1), server_id == server(1)), (server(2), server_id == server(2))]);

        happen(&mut state, Event::PlanMade(plan.clone()));
        let epoch = state.copy(key).unwrap().1.successor().unwrap().epoch;
        let shown = Shown { position: Position(9), what: Step::Begun };
        let [plan] = &planned(&state, &Evidence::from([((key, epoch), shown)]))[..] else { panic!() };
        let finish =
            Decision::Finish { epoch, reason: FinishReason::FirstKeyframe, evidence: Some(Position(9)) };
        assert_eq!(plan.entries[0].decision, finish);
        let logged = Logged::of(std::slice::from_ref(plan)).unwrap();
        assert_eq!(rederive(&state, &logged).unwrap().verdict, Verdict::Equal);
        assert_eq!(logged.entry(key).map(|entry| entry.decision), Some(finish));
    }

    #[test]
    fn a_plan_in_parts_is_judged_whole() {
        let count = ENTRIES_PER_EVENT as u128 + 3;
        let state = system(2, count, 5_000);
        let mut parts = planned(&state, &Evidence::new());
        assert_eq!(parts.len(), 2);
        let logged = Logged::of(&parts).unwrap();
        assert_eq!(rederive(&state, &logged).unwrap().verdict, Verdict::Equal);
        assert_eq!(Logged::of(&parts[..1]), Err(Error::Part { number: 2, of: 2 }));
        assert_eq!(Logged::of(&parts[1..]), Err(Error::Part { number: 1, of: 2 }));
        parts[1].basis = parts[1].basis.next();
        assert_eq!(Logged::of(&parts), Err(Error::Part { number: 2, of: 2 }));
    }

    #[test]
    fn another_state_or_other_rules_are_told() {
        let mut state = system(1, 1, 4);
        let plan = planned(&state, &Evidence::new());
        let logged = Logged::of(&plan).unwrap();
        let older = Logged { rules: placement::RULES - 1, ..logged.clone() };
        assert_eq!(rederive(&state, &older).unwrap().verdict, Verdict::OtherRules);
        let ancient = Logged { decided_at: None, ..logged.clone() };
        assert_eq!(rederive(&state, &ancient).unwrap().verdict, Verdict::OtherRules);
        happen(&mut state, Event::PlanMade(plan[0].clone()));
        let (basis, position) = (logged.basis, state.position);
        assert_eq!(rederive(&state, &logged), Err(Error::Basis { basis, position }));
    }
}
