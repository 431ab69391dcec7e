//! A client of the API, as an integrator would write one: HTTP, JSON, and the documented paths.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};

/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// The API of one control.
#[derive(Clone)]
pub struct Api {
    client: Client,
    base: String,
    key: String,
}

/// What was answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// Header fields.
    pub headers: reqwest::header::HeaderMap,
    /// The body, if it is JSON.
    pub body: Value,
}

impl Answer {
    /// A header field as text; empty if absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

impl Api {
    /// The API at `address`, with the provider's `key`.
    ///
    /// # Errors
    /// If the HTTP client cannot be made.
    pub fn new(address: SocketAddr, key: &str) -> anyhow::Result<Self> {
        let client =
            Client::builder().timeout(ANSWER_WITHIN).build().context("cannot make an HTTP client")?;
        Ok(Self { client, base: format!("http://{address}"), key: key.to_owned() })
    }

    /// Its address, as people write it.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The same API asked with another key.
    #[must_use]
    pub fn with_key(&self, key: &str) -> Self {
        Self { key: key.to_owned(), ..self.clone() }
    }

    /// Whether it says that it is ready.
    pub async fn is_ready(&self) -> bool {
        let answer = self.client.get(format!("{}/readyz", self.base)).send().await;
        answer.is_ok_and(|answer| answer.status() == StatusCode::OK)
    }

    /// A gauge or counter without labels, as `/metrics` has it (Prometheus text format, version 0.0.4).
    ///
    /// # Errors
    /// If nothing answers, or there is none of that name.
    pub async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let answer = self.client.get(format!("{}/metrics", self.base)).send().await;
        let text = answer.context("no answer from /metrics")?.text().await.context("the answer broke off")?;
        let values = text.lines().filter_map(|line| line.split_once(' '));
        let mut values = values.filter(|(named, _)| *named == name).map(|(_, value)| value.parse());
        values
            .next()
            .with_context(|| format!("/metrics has no {name}"))?
            .with_context(|| format!("{name} is no number"))
    }

    /// Sends a request with header fields and a raw body; any status is an answer.
    ///
    /// # Errors
    /// If nothing answers.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<Vec<u8>>,
    ) -> anyhow::Result<Answer> {
        let mut request = self.client.request(method, format!("{}{path}", self.base)).bearer_auth(&self.key);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.body(body);
        }
        let response = request.send().await.with_context(|| format!("no answer from {path}"))?;
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = response.bytes().await.context("the answer broke off")?;
        Ok(Answer { status, headers, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null) })
    }

    /// Sends JSON, expects success, and gives the body.
    ///
    /// # Errors
    /// If nothing answers, or something else than success; the error holds the problem's text.
    pub async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let answer = self
            .send(
                method,
                path,
                &[("content-type", "application/json")],
                body.map(|body| body.to_string().into_bytes()),
            )
            .await?;
        ensure!(answer.status.is_success(), "{path} answered {}: {}", answer.status, answer.body);
        Ok(answer.body)
    }

    /// Reads what is no JSON, and expects success.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn text(&self, path: &str) -> anyhow::Result<String> {
        let asked = self.client.get(format!("{}{path}", self.base)).bearer_auth(&self.key);
        let answer = asked.send().await.with_context(|| format!("no answer from {path}"))?;
        let status = answer.status();
        let text = answer.text().await.context("the answer broke off")?;
        ensure!(status.is_success(), "{path} answered {status}: {text}");
        Ok(text)
    }

    /// Reads.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.call(Method::GET, path, None).await
    }

    /// Every item of a list, page by page.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn list(&self, path: &str) -> anyhow::Result<Vec<Value>> {
        let mut items = Vec::new();
        let mut cursor = String::new();
        let joint = if path.contains('?') { '&' } else { '?' };
        loop {
            let mut page = self.get(&format!("{path}{joint}limit=200{cursor}")).await?;
            let Value::Array(more) = page["items"].take() else {
                bail!("{path} answered no list but {page}")
            };
            items.extend(more);
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Ok(items),
            }
        }
    }

    /// Adds a camera to the default tenant and gives its id.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn add_camera(&self, name: &str, url: &str) -> anyhow::Result<String> {
        let camera = json!({ "name": name, "source": { "url": url } });
        let added = self.call(Method::POST, "/v1/tenants/default/cameras", Some(&camera)).await?;
        Ok(added["id"].as_str().context("the camera has no id")?.to_owned())
    }

    /// The default tenant's cameras.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn cameras(&self) -> anyhow::Result<Vec<Value>> {
        self.list("/v1/tenants/default/cameras").await
    }

    /// How many of the default tenant's cameras are being recorded.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn recording(&self) -> anyhow::Result<usize> {
        Ok(self.list("/v1/tenants/default/cameras?state=recording").await?.len())
    }
}
