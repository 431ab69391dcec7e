//! What handlers take from a request: path, query, headers, body. Each one refuses with a problem that says what is
//! wrong.

use std::collections::BTreeMap;
use std::str::FromStr;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, RawPathParams, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use futures::StreamExt as _;
use longwatch_events::id::{CameraId, InvalidId, ServerId, TenantId};
use longwatch_events::position::Position;
use serde_json::Value;
use url::form_urlencoded;

use super::App;
use super::auth::Actor;
use super::cursor::{self, Key};
use super::problem::{FieldError, Problem};
use crate::read_model::Page;

/// The largest body that is taken.
pub(super) const BODY_LIMIT_BYTES: usize = 1024 * 1024;
/// Items on a page unless asked otherwise, and at most.
pub(super) const DEFAULT_LIMIT: u32 = 100;
/// See [`DEFAULT_LIMIT`].
pub(super) const MAX_LIMIT: u32 = 1_000;
/// The word for the tenant every system begins with.
const DEFAULT_TENANT: &str = "default";

impl FromRequestParts<App> for Actor {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
        parts
            .extensions
            .get::<Self>()
            .copied()
            .ok_or_else(|| Problem::internal(&"a handler was reached without authorization"))
    }
}

async fn path_params(parts: &mut Parts, app: &App) -> Result<BTreeMap<String, String>, Problem> {
    let params = RawPathParams::from_request_parts(parts, app)
        .await
        .map_err(|error| Problem::malformed("malformed_path", error.to_string()))?;
    Ok(params.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

/// An id that cannot be is the id of nothing.
pub(super) fn id<T: FromStr<Err = InvalidId>>(what: &str, text: &str) -> Result<T, Problem> {
    text.parse().map_err(|error: InvalidId| Problem::not_found(format!("there is no such {what}: {error}")))
}

fn tenant(params: &BTreeMap<String, String>) -> Result<TenantId, Problem> {
    match params.get("tenant").map_or("", String::as_str) {
        DEFAULT_TENANT => Ok(TenantId::DEFAULT),
        text => id("tenant", text),
    }
}

/// `{tenant}`: an id, or `default`.
#[derive(Debug, Clone, Copy)]
pub(super) struct TenantPath(pub(super) TenantId);

impl FromRequestParts<App> for TenantPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        tenant(&path_params(parts, app).await?).map(Self)
    }
}

/// `{tenant}` and `{camera}`.
#[derive(Debug, Clone, Copy)]
pub(super) struct CameraPath(pub(super) TenantId, pub(super) CameraId);

impl FromRequestParts<App> for CameraPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let params = path_params(parts, app).await?;
        let camera = params.get("camera").map_or("", String::as_str);
        Ok(Self(tenant(&params)?, id("camera", camera)?))
    }
}

/// `{tenant}` and `{camera}` as it stands in the path: an id, perhaps followed by `:verb`.
#[derive(Debug, Clone)]
pub(super) struct CameraSegment(pub(super) TenantId, pub(super) String);

impl FromRequestParts<App> for CameraSegment {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let mut params = path_params(parts, app).await?;
        let tenant = tenant(&params)?;
        Ok(Self(tenant, params.remove("camera").unwrap_or_default()))
    }
}

/// `{server}` as it stands in the path: an id, perhaps followed by `:verb`.
#[derive(Debug, Clone)]
pub(super) struct ServerSegment(pub(super) String);

impl FromRequestParts<App> for ServerSegment {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let mut params = path_params(parts, app).await?;
        Ok(Self(params.remove("server").unwrap_or_default()))
    }
}

/// `{server}`.
#[derive(Debug, Clone, Copy)]
pub(super) struct ServerPath(pub(super) ServerId);

impl FromRequestParts<App> for ServerPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let ServerSegment(text) = ServerSegment::from_request_parts(parts, app).await?;
        id("server", &text).map(Self)
    }
}

/// `{position}`: of an event in the log.
#[derive(Debug, Clone, Copy)]
pub(super) struct PositionPath(pub(super) Position);

impl FromRequestParts<App> for PositionPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let params = path_params(parts, app).await?;
        let text = params.get("position").map_or("", String::as_str);
        let position = text.parse().map_err(|_| Problem::not_found("a position of the log is a number"))?;
        Ok(Self(Position(position)))
    }
}

/// The query, read parameter by parameter; [`Query::finish`] reports everything that is wrong with it at once.
#[derive(Debug)]
pub(super) struct Query {
    given: BTreeMap<String, String>,
    known: Vec<&'static str>,
    errors: Vec<FieldError>,
}

impl FromRequestParts<App> for Query {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
        let query = parts.uri.query().unwrap_or_default();
        let given = form_urlencoded::parse(query.as_bytes())
            .map(|(name, value)| (name.into_owned(), value.into_owned()))
            .collect();
        Ok(Self { given, known: Vec::new(), errors: Vec::new() })
    }
}

impl Query {
    /// A parameter as it was given; empty is as good as absent.
    pub(super) fn text(&mut self, name: &'static str) -> Option<String> {
        self.known.push(name);
        self.given.remove(name).filter(|value| !value.is_empty())
    }

    /// A parameter of a type.
    pub(super) fn parsed<T: FromStr<Err: ToString>>(&mut self, name: &'static str) -> Option<T> {
        match self.text(name)?.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.wrong(name, "invalid_value", error.to_string());
                None
            }
        }
    }

    /// Remembers that a parameter is wrong.
    pub(super) fn wrong(&mut self, name: &'static str, code: &'static str, detail: impl Into<String>) {
        self.errors.push(FieldError::parameter(name, code, detail));
    }

    /// `limit` and `cursor`.
    pub(super) fn page<K: Key>(&mut self) -> Page<K> {
        let limit = match self.text("limit").map(|text| text.parse::<u32>()) {
            None => DEFAULT_LIMIT,
            Some(Ok(limit)) if (1..=MAX_LIMIT).contains(&limit) => limit,
            Some(_) => {
                self.wrong("limit", "out_of_range", format!("expected a number from 1 to {MAX_LIMIT}"));
                DEFAULT_LIMIT
            }
        };
        let after = self.text("cursor").and_then(|text| {
            let after = cursor::decode(&text);
            if after.is_none() {
                let detail = "expected the next_cursor of an answer of this list, unchanged";
                self.wrong("cursor", "invalid_cursor", detail);
            }
            after
        });
        Page { after, limit }
    }

    /// Reports what is wrong, unknown parameters included.
    pub(super) fn finish(mut self) -> Result<(), Problem> {
        for name in self.given.keys() {
            let name: String = name.chars().take(40).collect();
            let known = if self.known.is_empty() { "none".to_owned() } else { self.known.join(", ") };
            let detail = format!("there is no parameter `{name}` here; known: {known}");
            self.errors.push(FieldError::parameter("query", "unknown_parameter", detail));
        }
        if self.errors.is_empty() { Ok(()) } else { Err(Problem::parameters(self.errors)) }
    }
}

/// A JSON body.
#[derive(Debug)]
pub(super) struct JsonBody(pub(super) Value);

impl FromRequest<App> for JsonBody {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &App) -> Result<Self, Problem> {
        read_json(request, &["application/json"]).await.map(Self)
    }
}

/// The body of an action: JSON, or nothing at all, which is as good as `{}`.
#[derive(Debug)]
pub(super) struct ActionBody(pub(super) Value);

impl FromRequest<App> for ActionBody {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &App) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let bytes = read_bytes(body).await?;
        if bytes.is_empty() {
            return Ok(Self(Value::Object(serde_json::Map::new())));
        }
        check_media_type(&parts.headers, &["application/json"])?;
        parse(&bytes).map(Self)
    }
}

/// A merge patch (RFC 7396): an object.
#[derive(Debug)]
pub(super) struct PatchBody(pub(super) Value);

impl FromRequest<App> for PatchBody {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &App) -> Result<Self, Problem> {
        let patch = read_json(request, &["application/merge-patch+json", "application/json"]).await?;
        if patch.is_object() {
            return Ok(Self(patch));
        }
        let detail = "expected an object that holds the fields to change (RFC 7396)";
        Err(Problem::invalid(vec![FieldError::at("", "wrong_type", detail)]))
    }
}

/// Of a body that is too large so much is read and thrown away before it is refused: a client that still sends when the
/// connection is closed sees a broken pipe instead of the answer.
const DISCARDED_AT_MOST_BYTES: usize = 8 << 20;

async fn read_json(request: Request, media_types: &[&str]) -> Result<Value, Problem> {
    check_media_type(request.headers(), media_types)?;
    parse(&read_bytes(request.into_body()).await?)
}

async fn read_bytes(body: Body) -> Result<Vec<u8>, Problem> {
    let mut chunks = body.into_data_stream();
    let mut body = Vec::new();
    let mut size = 0_usize;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk
            .map_err(|error| Problem::malformed("body_cut_off", format!("the body broke off: {error}")))?;
        size = size.saturating_add(chunk.len());
        if size <= BODY_LIMIT_BYTES {
            body.extend_from_slice(&chunk);
        } else if size > DISCARDED_AT_MOST_BYTES {
            break;
        }
    }
    if size > BODY_LIMIT_BYTES {
        return Err(Problem::too_large(BODY_LIMIT_BYTES));
    }
    Ok(body)
}

fn parse(body: &[u8]) -> Result<Value, Problem> {
    serde_json::from_slice(body).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let detail = format!("the body is not JSON: {error}");
        let place = format!("at line {line}, column {column} of the body");
        Problem::malformed("malformed_json", detail).with(vec![FieldError::at("", "malformed_json", place)])
    })
}

fn check_media_type(headers: &HeaderMap, media_types: &[&str]) -> Result<(), Problem> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence =
        given.and_then(|value| value.split(';').next()).map(|value| value.trim().to_ascii_lowercase());
    if essence.is_some_and(|essence| media_types.contains(&essence.as_str())) {
        return Ok(());
    }
    Err(Problem::wrong_media_type(given, &media_types.join(" or ")))
}
