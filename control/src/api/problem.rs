//! Errors as clients see them: RFC 9457 problem details, `application/problem+json`.
//!
//! A problem says what was wrong, where, and what would be right. Causes inside the system are logged under the
//! `trace_id` and never shown.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use longwatch_events::time::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::decide::command::Refusal;
use crate::read_model;
use crate::service::CommandError;

/// The media type of a problem.
pub(super) const MEDIA_TYPE: &str = "application/problem+json";

/// An answer that says what went wrong. Boxed, because it travels through every `Result` here.
#[derive(Debug, Clone)]
pub(super) struct Problem(Box<Details>);

/// When trying again makes sense: a log or fold that is away is usually back by then.
const RETRY_AFTER_S: u32 = 2;

/// What went wrong (RFC 9457), as `application/problem+json`.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct Details {
    /// Names the kind of problem: `urn:longwatch:problem:<code>`.
    r#type: String,
    /// The kind of problem, for a person; the same for every problem of the kind.
    title: &'static str,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// This problem, for a person: what was wrong, where, and what would be right.
    detail: String,
    /// The path that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<String>,
    /// The kind of problem, for a program.
    code: &'static str,
    /// The request's `x-request-id`: by it the operator finds the cause in the logs.
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
    /// Everything that is wrong with the input.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError>,
    #[serde(skip)]
    retry_after_s: Option<u32>,
    #[serde(skip)]
    challenge: Option<&'static str>,
    #[serde(skip)]
    allow: Option<&'static str>,
}

/// One thing that is wrong with the input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct FieldError {
    /// Where in the body: a JSON pointer (RFC 6901).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pointer: Option<String>,
    /// Which query parameter or header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) parameter: Option<&'static str>,
    /// What is wrong, for a program.
    pub(super) code: &'static str,
    /// What is wrong and what would be right, for a person.
    pub(super) detail: String,
}

impl FieldError {
    /// Wrong in the body, at `pointer`.
    pub(super) fn at(pointer: impl Into<String>, code: &'static str, detail: impl Into<String>) -> Self {
        Self { pointer: Some(pointer.into()), parameter: None, code, detail: detail.into() }
    }

    /// Wrong in a query parameter or header.
    pub(super) fn parameter(name: &'static str, code: &'static str, detail: impl Into<String>) -> Self {
        Self { pointer: None, parameter: Some(name), code, detail: detail.into() }
    }
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Self(Box::new(Details {
            r#type: format!("urn:longwatch:problem:{code}"),
            title,
            status: status.as_u16(),
            detail: detail.into(),
            instance: None,
            code,
            trace_id: None,
            errors: Vec::new(),
            retry_after_s: None,
            challenge: None,
            allow: None,
        }))
    }

    /// 400: the request cannot be read.
    pub(super) fn malformed(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, "The request cannot be read", detail)
    }

    /// 400: query parameters or headers are wrong; all of `errors` (at least one) at once.
    pub(super) fn parameters(errors: Vec<FieldError>) -> Self {
        Self::malformed("invalid_parameters", summary(&errors)).with(errors)
    }

    /// 422: the body can be read and its content is wrong; all of `errors` (at least one) at once.
    pub(super) fn invalid(errors: Vec<FieldError>) -> Self {
        let (status, title) = (StatusCode::UNPROCESSABLE_ENTITY, "The input is not valid");
        Self::new(status, "invalid_input", title, summary(&errors)).with(errors)
    }

    /// 422: the body can be read and its content will not do as a whole.
    pub(super) fn unprocessable(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, "The input is not valid", detail)
    }

    /// 401.
    pub(super) fn unauthorized(detail: &'static str, challenge: &'static str) -> Self {
        let (status, title) = (StatusCode::UNAUTHORIZED, "A valid key is needed");
        let mut problem = Self::new(status, "unauthorized", title, detail);
        problem.0.challenge = Some(challenge);
        problem
    }

    /// 404: the thing does not exist, or not for this tenant.
    pub(super) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "There is no such thing", detail)
    }

    /// 404: the path leads nowhere.
    pub(super) fn no_route(path: &str) -> Self {
        let detail = format!("there is nothing at {path}; /openapi.json lists every path");
        Self::new(StatusCode::NOT_FOUND, "no_such_path", "There is no such path", detail)
    }

    /// 405 of a path that takes the methods `allow`.
    pub(super) fn only(allow: &'static str, method: &str, path: &str) -> Self {
        let mut problem = Self::wrong_method(method, path);
        problem.0.allow = Some(allow);
        problem
    }

    /// 405; the router adds the header.
    pub(super) fn wrong_method(method: &str, path: &str) -> Self {
        let detail = format!("{path} does not take {method}; the header `allow` lists what it takes");
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "The path does not take this method",
            detail,
        )
    }

    /// 503 with `Retry-After`: answering took too long.
    pub(super) fn timeout(limit: Duration) -> Self {
        let seconds = limit.as_secs_f64();
        let detail = format!(
            "no answer within {seconds} s; a change may or may not have been made: read before trying again"
        );
        Self::unavailable("timeout", detail)
    }

    /// 409: the change contradicts what there is.
    pub(super) fn conflict(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, "The change contradicts what there is", detail)
    }

    /// 412.
    pub(super) fn stale(detail: impl Into<String>) -> Self {
        let title = "It was changed since it was read";
        Self::new(StatusCode::PRECONDITION_FAILED, "stale_etag", title, detail)
    }

    /// 413.
    pub(super) fn too_large(limit_bytes: usize) -> Self {
        let detail = format!("the body is larger than {limit_bytes} bytes, the most this server takes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "The body is too large", detail)
    }

    /// 415.
    pub(super) fn wrong_media_type(given: Option<&str>, wanted: &str) -> Self {
        let detail = match given {
            Some(given) => format!("content-type `{given}` is not taken here; send {wanted}"),
            None => format!("the header content-type is missing; send {wanted}"),
        };
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "The body is of the wrong type",
            detail,
        )
    }

    /// 500. The cause goes to the log and not to the client.
    pub(super) fn internal(cause: &dyn std::fmt::Display) -> Self {
        tracing::error!(%cause, "a request failed");
        let detail = "this server failed; the operator finds the cause in its log under the trace_id";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "This server failed", detail)
    }

    /// 503 with `Retry-After`.
    pub(super) fn unavailable(code: &'static str, detail: impl Into<String>) -> Self {
        let (status, title) = (StatusCode::SERVICE_UNAVAILABLE, "This cannot be done right now");
        let mut problem = Self::new(status, code, title, detail);
        problem.0.retry_after_s = Some(RETRY_AFTER_S);
        problem
    }

    /// The same, with everything that is wrong with the input.
    pub(super) fn with(mut self, errors: Vec<FieldError>) -> Self {
        self.0.errors = errors;
        self
    }

    /// The same, told which request it is about.
    pub(super) fn about(mut self, path: &str, trace_id: &str) -> Self {
        self.0.instance = Some(path.to_owned());
        self.0.trace_id = Some(trace_id.to_owned());
        self
    }
}

fn summary(errors: &[FieldError]) -> String {
    match errors {
        [one] => match (&one.pointer, one.parameter) {
            (Some(pointer), _) if !pointer.is_empty() => format!("{pointer}: {}", one.detail),
            (_, Some(parameter)) => format!("{parameter}: {}", one.detail),
            (Some(_) | None, None) => one.detail.clone(),
        },
        several => format!("{} things are wrong; see errors", several.len()),
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self.0).expect("invariant: a problem holds strings and numbers only");
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        if let Some(seconds) = self.0.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(challenge) = self.0.challenge {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if let Some(allow) = self.0.allow {
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        // The outermost layer knows the request: it completes the problem and writes it anew.
        response.extensions_mut().insert(self);
        response
    }
}

impl From<read_model::Error> for Problem {
    fn from(error: read_model::Error) -> Self {
        Self::internal(&error)
    }
}

impl From<crate::secrets::Error> for Problem {
    fn from(error: crate::secrets::Error) -> Self {
        Self::internal(&error)
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let (code, detail) = (refusal.code(), refusal.to_string());
        match refusal {
            Refusal::NotFound { .. } => Self::not_found(detail),
            Refusal::Changed { .. } => Self::stale(detail),
            Refusal::UnknownPreferredServer(_) => {
                Self::invalid(vec![FieldError::at("/preferred_server_id", code, detail)])
            }
            Refusal::NameTaken { .. } => {
                Self::conflict(code, detail.clone()).with(vec![FieldError::at("/name", code, detail)])
            }
            Refusal::Exists { .. }
            | Refusal::TenantNotEmpty { .. }
            | Refusal::DefaultTenant
            | Refusal::Detached
            | Refusal::NotOurs(_)
            | Refusal::PrefersAnother(_)
            | Refusal::HasAnotherCopy(_)
            | Refusal::RecordedElsewhere { .. }
            | Refusal::NotPlaced => Self::conflict(code, detail),
            Refusal::NoCopy { .. } => Self::invalid(vec![FieldError::at("/copy", code, detail)]),
            Refusal::TooNew { .. } => Self::invalid(vec![FieldError::at("/fold_version", code, detail)]),
        }
    }
}

impl From<CommandError> for Problem {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::Refused(refusal) => refusal.into(),
            CommandError::Conflict => Self::conflict(
                "version_conflict",
                "it is being changed by others all the time; read it again and repeat the request",
            ),
            CommandError::Unavailable(why) => {
                tracing::warn!(why, "a command could not be carried out");
                let detail = "the log does not answer; the change may or may not have been made: \
                              read before trying again. Recording goes on";
                Self::unavailable("log_unavailable", detail)
            }
            CommandError::Halted(why) => {
                tracing::warn!(why, "a command was refused because the fold has halted");
                let detail = "the log holds something this server cannot fold, so nothing is changed until an \
                              operator has looked at it. Recording goes on";
                Self::unavailable("halted", detail)
            }
        }
    }
}

/// Says a moment as the API does.
pub(super) fn moment(at: Timestamp) -> String {
    at.to_string()
}
