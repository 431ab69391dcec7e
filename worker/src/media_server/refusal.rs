//! Why somebody gets nothing: a problem as RFC 9457 has it, for a program and a person.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};

use super::answers::{Body, whole};

/// After how many seconds whoever came too early may come again.
const LATER: HeaderValue = HeaderValue::from_static("2");

/// An answer without video.
pub(super) struct Refusal {
    status: StatusCode,
    detail: String,
    header: Option<(HeaderName, HeaderValue)>,
}

impl Refusal {
    /// `detail` says what was wrong, and what would be right.
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), header: None }
    }

    /// Nothing now; whoever asks again in a moment may get something.
    pub(super) fn for_now(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail).with(RETRY_AFTER, LATER)
    }

    /// The same, and this field.
    pub(super) fn with(self, header: HeaderName, value: HeaderValue) -> Self {
        Self { header: Some((header, value)), ..self }
    }
}

impl From<Refusal> for Response<Body> {
    fn from(Refusal { status, detail, header }: Refusal) -> Self {
        let problem = serde_json::json!({
            "type": "about:blank",
            "title": status.canonical_reason().unwrap_or_default(),
            "status": status.as_u16(),
            "detail": detail,
        });
        let mut response = Self::new(whole(Bytes::from(problem.to_string())));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.extend(header);
        response
    }
}
