//! Changes: on which version they are based, how they are carried out, and how a repeated request is recognised.

use std::collections::BTreeMap;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, header};
use futures::StreamExt as _;
use longwatch_events::envelope::Envelope;
use longwatch_events::id::{EventId, TenantId};
use longwatch_events::position::Position;
use longwatch_events::subject::LogStream;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use uuid::{Builder, Uuid, Variant, Version};

use super::App;
use super::auth::Actor;
use super::problem::{FieldError, Problem};
use crate::decide::command::Command;
use crate::service::CommandError;

/// How often a change without `If-Match` is based anew on what others made of the thing meanwhile.
const TRIES: usize = 5;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const MAX_IDEMPOTENCY_KEY: usize = 255;

/// `If-Match` (RFC 9110, section 13.1.1): the versions a change may be based on; `None`: any.
///
/// An entity tag is the quoted position of the thing's last own event. What is derived (a camera's state) changes
/// without it.
#[derive(Debug, Clone)]
pub(super) struct IfMatch(Option<Vec<String>>);

impl FromRequestParts<App> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
        let mut tags = Vec::new();
        let mut values = parts.headers.get_all(header::IF_MATCH).iter().peekable();
        if values.peek().is_none() {
            return Ok(Self(None));
        }
        for value in values {
            let text = value.to_str().map_err(|_| malformed_if_match())?;
            if text.trim() == "*" {
                return Ok(Self(None));
            }
            for tag in text.split(',') {
                tags.push(read_tag(tag.trim()).ok_or_else(malformed_if_match)?);
            }
        }
        Ok(Self(Some(tags)))
    }
}

fn malformed_if_match() -> Problem {
    let detail = "expected the ETag of a read, unchanged, such as \"17\", or *";
    Problem::parameters(vec![FieldError::parameter("If-Match", "malformed_etag", detail)])
}

/// The tag without its quotes. A weak one keeps its mark, and so never matches (strong comparison).
fn read_tag(tag: &str) -> Option<String> {
    let (mark, quoted) = tag.strip_prefix("W/").map_or(("", tag), |quoted| ("W/", quoted));
    let inner = quoted.strip_prefix('"')?.strip_suffix('"')?;
    (!inner.contains('"')).then(|| format!("{mark}{inner}"))
}

impl IfMatch {
    /// Whether a change may be based on `version`.
    pub(super) fn check(&self, version: Position) -> Result<(), Problem> {
        match &self.0 {
            Some(tags) if !tags.contains(&version.to_string()) => Err(Problem::stale(format!(
                "its ETag is \"{version}\" now; read it again and base the change on that"
            ))),
            Some(_) | None => Ok(()),
        }
    }
}

/// The entity tag of a version.
pub(super) fn etag(version: Position) -> String {
    format!("\"{version}\"")
}

/// The headers of an answer that shows a version.
pub(super) fn versioned(version: Position) -> [(HeaderName, HeaderValue); 1] {
    let tag = HeaderValue::from_str(&etag(version)).expect("invariant: a quoted number is a header value");
    [(header::ETAG, tag)]
}

/// The headers of an answer that shows something new.
pub(super) fn created(version: Position, location: &str) -> [(HeaderName, HeaderValue); 2] {
    let [tag] = versioned(version);
    let location = HeaderValue::from_str(location).expect("invariant: a path of ids is a header value");
    [tag, (header::LOCATION, location)]
}

/// Carries out the command that `plan` makes of what there is now; `None`: there is nothing to change, so nothing is
/// written. If somebody else was faster it is planned anew; `plan` then sees the new version, and its `If-Match` fails
/// there.
///
/// Whoever calls this looks at State afterwards where a change can be overtaken by one of another thing: its event is
/// stale then and has changed nothing.
///
/// # Errors
/// What `plan` or the command is refused with; 409 if others are faster all the time.
pub(super) async fn carry_out(
    app: &App,
    actor: Actor,
    mut plan: impl FnMut(EventId) -> Result<Option<Command>, Problem>,
) -> Result<(), Problem> {
    for attempt in 1..=TRIES {
        let event_id = EventId::generate(app.service.ids());
        let Some(command) = plan(event_id)? else { return Ok(()) };
        match app.service.execute(actor.0, event_id, command).await {
            Ok(_) => return Ok(()),
            Err(CommandError::Conflict) => {
                tracing::info!(attempt, "somebody else changed it first; the change is planned anew");
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(CommandError::Conflict.into())
}

/// `Idempotency-Key`: a request to create something that is sent again with the same key creates it once, for ever.
///
/// The id of the thing follows from the key and from where it is created, so that the log takes it once; the id of the
/// event follows from these and the body, so that the log remembers which request it was. The read model knows where in
/// the log that event stands, even when the thing is gone. All of it outlives this process and is the same for every
/// replica.
#[derive(Debug, Clone)]
pub(super) struct Idempotency {
    key: Option<String>,
}

/// The ids of something to be created.
#[derive(Debug, Clone, Copy)]
pub(super) struct NewIds {
    /// Of the thing.
    pub(super) thing: Uuid,
    /// Of the event.
    pub(super) event: EventId,
    /// Whether it may have been created before, by a request with the same key.
    pub(super) may_exist: bool,
}

impl FromRequestParts<App> for Idempotency {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
        let Some(value) = parts.headers.get(IDEMPOTENCY_KEY) else { return Ok(Self { key: None }) };
        match value.to_str().map(str::trim) {
            Ok(key) if (1..=MAX_IDEMPOTENCY_KEY).contains(&key.len()) => {
                Ok(Self { key: Some(key.to_owned()) })
            }
            Ok(_) | Err(_) => {
                let detail = format!("expected 1 to {MAX_IDEMPOTENCY_KEY} visible ASCII characters");
                let error = FieldError::parameter("Idempotency-Key", "malformed_key", detail);
                Err(Problem::parameters(vec![error]))
            }
        }
    }
}

impl Idempotency {
    /// The ids of what this request creates: a `kind` of thing, of `tenant` if it is a tenant's. `body` is what the
    /// request asks for, without secrets: its hash stands in the log, where they could be guessed from it.
    pub(super) fn new_ids(
        &self,
        app: &App,
        kind: &'static str,
        tenant: Option<TenantId>,
        body: &Value,
    ) -> NewIds {
        let ids = app.service.ids();
        let Some(key) = &self.key else {
            return NewIds { thing: ids.next(), event: EventId::generate(ids), may_exist: false };
        };
        let tenant = tenant.map_or_else(String::new, |tenant| tenant.to_string());
        let mut seed = Sha256::new();
        for part in ["longwatch/idempotency/v2", kind, &tenant, key] {
            seed.update((part.len() as u64).to_be_bytes());
            seed.update(part.as_bytes());
        }
        let mut event = b"event".to_vec();
        write_canonical(body, &mut event);
        NewIds {
            thing: derived(&seed, b"thing"),
            event: EventId::from_uuid(derived(&seed, &event)),
            may_exist: true,
        }
    }
}

/// The same bytes for the same value, in whatever order its fields come.
fn write_canonical(value: &Value, to: &mut Vec<u8>) {
    match value {
        Value::Object(fields) => {
            to.push(b'{');
            for (name, value) in fields.iter().collect::<BTreeMap<_, _>>() {
                to.extend(Value::from(name.as_str()).to_string().bytes());
                to.push(b':');
                write_canonical(value, to);
                to.push(b',');
            }
            to.push(b'}');
        }
        Value::Array(values) => {
            to.push(b'[');
            for value in values {
                write_canonical(value, to);
                to.push(b',');
            }
            to.push(b']');
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            to.extend(value.to_string().bytes());
        }
    }
}

/// A UUID of version 8 (RFC 9562, section 5.8).
fn derived(seed: &Sha256, what: &[u8]) -> Uuid {
    let hash = seed.clone().chain_update(what).finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    Builder::from_bytes(bytes).with_variant(Variant::RFC4122).with_version(Version::Custom).into_uuid()
}

/// Creates something, or finds that this request has created it before. `Ok`: the request was taken; whether the thing
/// is there is for the caller to see, because an event can be stale.
///
/// # Errors
/// What the command is refused with; 422 if another request had the key; 409 if what this request created is gone.
pub(super) async fn create(
    app: &App,
    actor: Actor,
    ids: NewIds,
    exists: impl Fn() -> bool,
    plan: impl FnOnce() -> Result<Command, Problem>,
) -> Result<(), Problem> {
    if ids.may_exist && was_created(app, ids, &exists).await? {
        return Ok(());
    }
    match app.service.execute(actor.0, ids.event, plan()?).await {
        Ok(_) => Ok(()),
        // The same request may have been faster on another connection.
        Err(CommandError::Refused(_) | CommandError::Conflict)
            if ids.may_exist && was_created(app, ids, &exists).await? =>
        {
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether this request created its thing before.
async fn was_created(app: &App, ids: NewIds, exists: impl Fn() -> bool) -> Result<bool, Problem> {
    // What State knows already, the read model must know, too.
    let known = app.service.state().position;
    app.service.folded(known).await?;
    let Some(position) = app.service.read_model().creation(ids.thing).await? else { return Ok(false) };
    if created_by(app, position).await? != ids.event {
        return Err(reused());
    }
    // What the read model knows from another replica, State may not know yet.
    app.service.folded(position).await?;
    if exists() {
        return Ok(true);
    }
    let detail = "what this request created under its Idempotency-Key has been deleted, or never came to be because of \
                  something that happened at the same time; use a new key to create it anew";
    Err(Problem::conflict("already_used", detail))
}

/// 422: another request had the key.
pub(super) fn reused() -> Problem {
    let detail = "this Idempotency-Key was used for a request with another body; use a new key for a new request, and \
                  the same key only to send the same request again";
    Problem::unprocessable("idempotency_key_reused", detail)
}

/// The id of the event at `position`, which is in the log.
async fn created_by(app: &App, position: Position) -> Result<EventId, Problem> {
    let away = |error: &dyn std::fmt::Display| Problem::from(CommandError::Unavailable(error.to_string()));
    let before = Position(position.0.saturating_sub(1));
    let mut records = app.service.log().follow(LogStream::Log, before).await.map_err(|error| away(&error))?;
    match records.next().await {
        Some(Ok(record)) if record.position == position => {
            Ok(Envelope::decode(&record.payload).map_err(|error| Problem::internal(&error))?.id)
        }
        Some(Ok(_)) | None => Err(Problem::internal(&format!("position {position} is not in the log"))),
        Some(Err(error)) => Err(away(&error)),
    }
}
