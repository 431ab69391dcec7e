//! `/v1/plans/{position}`: a plan of the log, drawn up again, and why it says what it says. A provider's.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use longwatch_events::envelope::Envelope;
use longwatch_events::event::{Decision, Event, PlanMade};
use longwatch_events::id::{CameraId, CopyKey, ServerId, TenantId};
use longwatch_events::position::Position;
use longwatch_events::subject::LogStream;
use serde::Serialize;
use tokio::time::timeout;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{PositionPath, Query};
use super::problem::{Problem, moment};
use super::{App, apart};
use crate::decide::placement::Candidate as CandidateState;
use crate::decide::rederive::{self, Difference as DifferenceState, Logged, Rederived};
use crate::replay;
use crate::service::CommandError;

/// How long the log may take to be folded up to where the plan comes from: a little less than any answer may take.
const REPLAY_LIMIT: Duration = Duration::from_secs(25);
/// So many differences are listed; all of them are counted.
const LISTED: usize = 100;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(explain))
}

/// A plan of the log, drawn up again.
#[derive(Serialize, ToSchema)]
struct Explanation {
    /// Where it stands in the log.
    position: u64,
    /// The position of the log it was derived from.
    basis: u64,
    /// The version of the placement rules that made it.
    rules: u32,
    /// The log's clock when it was made; null in logs from before that was said.
    #[schema(format = DateTime)]
    decided_at: Option<String>,
    /// How many copies of cameras it decides about, in all its parts.
    entries: usize,
    /// `equal`: drawn up again it says the same; `different`; `other_rules`: this program has other rules than those that
    /// made it, and does not judge it.
    #[schema(pattern = "^(equal|different|other_rules)$")]
    rederived: &'static str,
    /// Of how many copies it says something else than what follows.
    different_entries: usize,
    /// What it says of them, and what follows; the first 100.
    differences: Vec<Difference>,
    /// What it says of the copy that was asked for; null: it stays as it is.
    entry: Option<Entry>,
    /// Every server as it stood when the turn of the copy that was asked for came; empty if no server was looked for.
    candidates: Vec<Candidate>,
}

/// What a plan says of a copy of a camera.
#[derive(Serialize, ToSchema)]
struct Entry {
    /// Owner of the camera.
    #[schema(value_type = String, format = "uuid")]
    tenant_id: TenantId,
    /// The camera.
    #[schema(value_type = String, format = "uuid")]
    camera_id: CameraId,
    /// Which copy.
    copy: u8,
    /// `assign`: this server records it; `unplace`: none does; `move`: this server is to record it instead; `finish`: a move
    /// is over; `abandon`: a move is given up.
    #[schema(pattern = "^(assign|unplace|move|finish|abandon)$")]
    decision: &'static str,
    /// Who, if it is assigned or moved.
    #[schema(value_type = Option<String>, format = "uuid")]
    server_id: Option<ServerId>,
    /// Why.
    reason: &'static str,
    /// The epoch of the move that is over or given up.
    epoch: Option<u64>,
    /// Position in `RECORDINGS` of the report that showed that the move is over.
    evidence: Option<u64>,
}

/// What a plan says of a copy, and what follows.
#[derive(Serialize, ToSchema)]
struct Difference {
    /// What stands in the log; null: nothing.
    logged: Option<Entry>,
    /// What follows; null: nothing.
    derived: Option<Entry>,
}

/// What speaks for and against a server.
#[derive(Serialize, ToSchema)]
struct Candidate {
    /// Which.
    #[schema(value_type = String, format = "uuid")]
    server_id: ServerId,
    /// Why it may not have the copy; null: it may.
    refusal: Option<&'static str>,
    /// The share of its capacity in use, in millionths; null: it cannot record.
    relative_load: Option<u64>,
    /// Whether another copy of the camera is in its zone: then others come first.
    shares_zone: bool,
    /// Whether its zone is another than the one the camera carries as a label: then others come first.
    other_zone: bool,
}

fn entry(key: CopyKey, decision: Decision) -> Entry {
    let CopyKey { tenant_id, camera_id, copy } = key;
    let (decision, server_id, reason, epoch, evidence) = match decision {
        Decision::Assign { server_id, reason } => ("assign", Some(server_id), reason.as_str(), None, None),
        Decision::Unplace { reason } => ("unplace", None, reason.as_str(), None, None),
        Decision::Move { server_id, reason } => ("move", Some(server_id), reason.as_str(), None, None),
        Decision::Finish { epoch, reason, evidence } => {
            ("finish", None, reason.as_str(), Some(epoch.0), evidence.map(|position| position.0))
        }
        Decision::Abandon { epoch, reason } => ("abandon", None, reason.as_str(), Some(epoch.0), None),
    };
    Entry { tenant_id, camera_id, copy, decision, server_id, reason, epoch, evidence }
}

impl From<&DifferenceState> for Difference {
    fn from(difference: &DifferenceState) -> Self {
        let DifferenceState { key, logged, derived } = *difference;
        let of = |decision: Option<Decision>| decision.map(|decision| entry(key, decision));
        Self { logged: of(logged), derived: of(derived) }
    }
}

impl From<CandidateState> for Candidate {
    fn from(candidate: CandidateState) -> Self {
        let CandidateState { server_id, refusal, relative_load, shares_zone, other_zone } = candidate;
        let refusal = refusal.map(|refusal| refusal.as_str());
        Self { server_id, refusal, relative_load, shares_zone, other_zone }
    }
}

/// Explain a plan: the log is folded up to where the plan comes from, the plan is drawn up again, and the two are compared;
/// of one camera it is told what spoke for and against every server.
#[utoipa::path(get, path = "/v1/plans/{position}", operation_id = "explain_plan", tag = "failover",
    params(
        ("position" = u64, Path, description = "Where the plan stands in the log: the `epoch` of an assignment."),
        ("tenant_id" = Option<String>, Query, description = "Owner of the camera to explain.", format = "uuid"),
        ("camera_id" = Option<String>, Query, description = "The camera to explain.", format = "uuid"),
        ("copy" = Option<u8>, Query, description = "Which of its copies; default 0.", maximum = 3),
    ),
    responses((status = 200, description = "The plan.", body = Explanation)))]
async fn explain(
    State(app): State<App>,
    PositionPath(position): PositionPath,
    mut query: Query,
) -> Result<Json<Explanation>, Problem> {
    let key = read_key(&mut query);
    query.finish()?;
    let logged = logged(&app, position).await?;
    let place = apart::place(&app).await?;
    let state = match timeout(REPLAY_LIMIT, app.service.state_at(logged.basis)).await {
        Ok(state) => state.map_err(|error| replay_failed(&error))?,
        Err(_) => {
            let detail = format!(
                "the log was not folded up to position {} within {} s, which begins with the log's first record; ask again when \
                 control has less to do",
                logged.basis,
                REPLAY_LIMIT.as_secs()
            );
            return Err(Problem::unavailable("replay_too_long", detail));
        }
    };
    let explained = apart::run(&app, place, move |_| {
        let rederived = rederive::rederive(&state, &logged)?;
        let candidates = match key {
            Some(key) => rederive::candidates(&state, &logged, key)?,
            None => Vec::new(),
        };
        Ok::<_, rederive::Error>(show(position, &logged, &rederived, key, candidates))
    });
    Ok(Json(explained.await?.map_err(|error| Problem::internal(&error))?))
}

fn read_key(query: &mut Query) -> Option<CopyKey> {
    let tenant_id = query.parsed::<TenantId>("tenant_id");
    let camera_id = query.parsed::<CameraId>("camera_id");
    let copy = query.parsed::<u8>("copy");
    match (tenant_id, camera_id) {
        (Some(tenant_id), Some(camera_id)) => Some(CopyKey { tenant_id, camera_id, copy: copy.unwrap_or(0) }),
        (None, None) if copy.is_none() => None,
        (None, _) => {
            query.wrong("tenant_id", "required", "a camera is named by tenant_id and camera_id together");
            None
        }
        (Some(_), None) => {
            query.wrong("camera_id", "required", "a camera is named by tenant_id and camera_id together");
            None
        }
    }
}

fn replay_failed(error: &replay::Error) -> Problem {
    match error {
        replay::Error::Log(error) => CommandError::Unavailable(error.to_string()).into(),
        replay::Error::Fold { .. } | replay::Error::Missing(_) | replay::Error::Aborted(_) => {
            Problem::internal(error)
        }
    }
}

/// The plan of which a part stands at `position`.
async fn logged(app: &App, position: Position) -> Result<Logged, Problem> {
    let no_plan = || Problem::not_found(format!("no plan stands at position {position} of the log"));
    let here = records(app, position.previous(), position).await?;
    let [Event::PlanMade(plan)] = &here[..] else { return Err(no_plan()) };
    let (number, of) = (u64::from(plan.part.number), u64::from(plan.part.of));
    let before = Position(position.0.saturating_sub(number));
    let events = records(app, before, Position(before.0.saturating_add(of))).await?;
    let parts: Vec<PlanMade> = events
        .into_iter()
        .filter_map(|event| if let Event::PlanMade(plan) = event { Some(plan) } else { None })
        .collect();
    Logged::of(&parts).map_err(|error| Problem::internal(&error))
}

/// The events of the log behind `after`, up to `up_to`.
async fn records(app: &App, mut after: Position, up_to: Position) -> Result<Vec<Event>, Problem> {
    let mut events = Vec::new();
    while after < up_to {
        let page = app.service.log().read(LogStream::Log, after, up_to).await;
        let page = page.map_err(|error| CommandError::Unavailable(error.to_string()))?;
        let Some(last) = page.last() else { break };
        after = last.position;
        for record in &page {
            let envelope = Envelope::decode(&record.payload).map_err(|error| Problem::internal(&error))?;
            events.push(envelope.event);
        }
    }
    Ok(events)
}

fn show(
    position: Position,
    logged: &Logged,
    rederived: &Rederived,
    key: Option<CopyKey>,
    candidates: Vec<CandidateState>,
) -> Explanation {
    let asked = key.and_then(|key| logged.entry(key));
    Explanation {
        position: position.0,
        basis: logged.basis.0,
        rules: logged.rules,
        decided_at: logged.decided_at.map(moment),
        entries: logged.entries.len(),
        rederived: rederived.verdict.as_str(),
        different_entries: rederived.differences.len(),
        differences: rederived.differences.iter().take(LISTED).map(Into::into).collect(),
        entry: asked.map(|asked| entry(asked.key(), asked.decision)),
        candidates: candidates.into_iter().map(Into::into).collect(),
    }
}
