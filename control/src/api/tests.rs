//! The API as a client sees it: requests through the whole stack of layers, on a real service with a log in memory and
//! a read model in a folder of its own.

mod at_once;
mod bad_input;
mod description;
mod events;
mod explanation;
mod failover;
mod happy_path;
mod playlist;
mod policy;
mod when_it_fails;

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::keys::Key;
use crate::testing::TestControl;

const KEY: &str = "lwk_0123456789abcdef0123456789abcdef";
const CAMERAS: &str = "/v1/tenants/default/cameras";

/// A control plane with its API.
struct Api {
    control: TestControl,
    router: Router,
}

/// An answer, read whole.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name}: {self:?}")).to_str().unwrap()
    }

    /// The answer, which must be of this status.
    fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        self
    }

    /// The answer as a problem, which must be of this status and code, and complete.
    fn problem(self, status: u16, code: &str) -> Value {
        let answer = self.expect(status);
        assert_eq!(answer.header("content-type"), "application/problem+json", "{answer:?}");
        let problem = answer.json();
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["status"], status, "{problem}");
        assert_eq!(problem["type"], format!("urn:longwatch:problem:{code}"));
        assert_eq!(problem["trace_id"], answer.header("x-request-id"), "{problem}");
        for field in ["title", "detail", "instance"] {
            assert!(problem[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {problem}");
        }
        problem
    }
}

/// Pointers and codes of everything a problem says is wrong.
fn errors(problem: &Value) -> Vec<(&str, &str)> {
    let errors = problem["errors"].as_array().map_or(&[][..], Vec::as_slice);
    let place = |error: &Value, name| error[name].as_str().map(str::to_owned);
    let mut found = Vec::new();
    for error in errors {
        assert!(place(error, "pointer").is_some() != place(error, "parameter").is_some(), "{error}");
        let place = error["pointer"].as_str().or(error["parameter"].as_str()).unwrap();
        found.push((place, error["code"].as_str().unwrap()));
    }
    found
}

async fn send(router: &Router, request: Request<Body>) -> Answer {
    let response = router.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = to_bytes(body, usize::MAX).await.unwrap();
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    Answer { status: parts.status, headers: parts.headers, text }
}

/// A request with the key and without a body.
fn keyed(method: &str, path: &str) -> Request<Body> {
    let key = format!("Bearer {KEY}");
    Request::builder().method(method).uri(path).header("authorization", key).body(Body::empty()).unwrap()
}

impl Api {
    async fn start() -> Self {
        let control = TestControl::start().await;
        let service = Arc::clone(&control.service);
        let router =
            super::router(Arc::clone(&service), Key::from_text(KEY)).merge(super::operations(service));
        Self { control, router }
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        send(&self.router, request).await
    }

    /// A request with the key and these headers.
    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
        let mut request =
            Request::builder().method(method).uri(path).header("authorization", format!("Bearer {KEY}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(body.into()).unwrap()).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], "").await
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask("POST", path, &[("content-type", "application/json")], body.to_string()).await
    }

    async fn patch(&self, path: &str, etag: Option<&str>, body: &Value) -> Answer {
        let mut headers = vec![("content-type", "application/merge-patch+json")];
        headers.extend(etag.map(|etag| ("if-match", etag)));
        self.ask("PATCH", path, &headers, body.to_string()).await
    }

    async fn delete(&self, path: &str) -> Answer {
        self.ask("DELETE", path, &[], "").await
    }

    /// A camera, and its path.
    async fn camera(&self, name: &str) -> (Value, String) {
        let body = json!({ "name": name, "source": { "url": "rtsp://10.0.0.7:554/stream1" } });
        let answer = self.post(CAMERAS, &body).await.expect(201);
        let path = answer.header("location").to_owned();
        (answer.json(), path)
    }
}
