//! The way to the object store: HTTP requests whose bodies go no faster than they may, and which end when nothing moves.
//!
//! There is no bound on how long a request takes, because a slow uplink needs minutes for what a fast one does in a second,
//! and what is given up and begun again never arrives. What ends a request is silence: [`Quiet`] without a byte either way.
//!
//! Also makes the end of a multipart upload create-only: `object_store` completes with overwriting.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{HeaderValue, IF_NONE_MATCH};
use http::{Method, Uri};
use http_body::{Body, Frame, SizeHint};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse,
    HttpResponseBody, HttpService,
};
use tokio::time::{Instant, Sleep};

use super::pace::Pace;

/// A connection is not tried for longer.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Servers close what was idle for longer, often without saying so.
const IDLE_LIMIT: Duration = Duration::from_secs(15);

/// How long nothing may move: longer than it takes until a slow uplink has carried what the kernel holds of it.
pub(super) const QUIET: Duration = Duration::from_secs(90);

/// Nothing moved for that long.
#[derive(Debug, thiserror::Error)]
#[error("nothing moved for {} s", .0.as_secs())]
struct Quiet(Duration);

impl From<Quiet> for HttpError {
    fn from(quiet: Quiet) -> Self {
        Self::new(HttpErrorKind::Timeout, quiet)
    }
}

/// A rate that is shared, and the moment its time counts from.
#[derive(Debug)]
pub(super) struct Pacer {
    began: Instant,
    pace: Mutex<Pace>,
}

impl Pacer {
    /// So many bytes a second.
    pub(super) fn new(bytes_per_s: u64) -> Self {
        Self { began: Instant::now(), pace: Mutex::new(Pace::new(bytes_per_s)) }
    }

    /// How long these bytes have to wait.
    fn take(&self, bytes: &Bytes) -> Duration {
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        pace.take(self.began.elapsed(), bytes.len() as u64)
    }
}

/// Makes clients of this kind.
#[derive(Debug)]
pub(super) struct Connector {
    /// How fast bodies go, all together.
    pub(super) pacer: Option<Arc<Pacer>>,
    /// Whether it may go without TLS.
    pub(super) allow_http: bool,
    /// How long nothing may move.
    pub(super) quiet: Duration,
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = reqwest::Client::builder()
            .user_agent(concat!("longwatch-worker/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_LIMIT)
            .pool_idle_timeout(IDLE_LIMIT)
            .https_only(!self.allow_http)
            // Whoever is sent elsewhere was told the wrong address: a signature counts for one host only.
            .redirect(reqwest::redirect::Policy::none())
            .http1_only()
            .build()
            .map_err(|e| object_store::Error::Generic { store: "S3", source: Box::new(e) })?;
        Ok(HttpClient::new(Service { client, pacer: self.pacer.clone(), quiet: self.quiet }))
    }
}

#[derive(Debug)]
struct Service {
    client: reqwest::Client,
    pacer: Option<Arc<Pacer>>,
    quiet: Duration,
}

#[async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        let url = parts.uri.to_string().parse().map_err(|e| HttpError::new(HttpErrorKind::Request, e))?;
        let completes = completes_multipart(&parts.method, &parts.uri);
        let mut outgoing = reqwest::Request::new(parts.method, url);
        *outgoing.headers_mut() = parts.headers;
        if completes {
            // Not among the signed headers, and need not be: it takes away what may be done, it gives nothing.
            outgoing.headers_mut().insert(IF_NONE_MATCH, HeaderValue::from_static("*"));
        }
        let moved = Arc::new(Moved::default());
        if !body.is_end_stream() {
            let body = Outgoing { body, pacer: self.pacer.clone(), next: None, moved: Arc::clone(&moved) };
            *outgoing.body_mut() = Some(reqwest::Body::wrap(body));
        }
        let answered = tokio::select! {
            answered = self.client.execute(outgoing) => answered.map_err(failed)?,
            () = moved.nothing_for(self.quiet) => return Err(Quiet(self.quiet).into()),
        };
        let (parts, body) = http::Response::<reqwest::Body>::from(answered).into_parts();
        let incoming = Incoming { body, quiet: self.quiet, until: Box::pin(tokio::time::sleep(self.quiet)) };
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(incoming)))
    }
}

fn failed(error: reqwest::Error) -> HttpError {
    let kind = if error.is_connect() { HttpErrorKind::Connect } else { HttpErrorKind::Interrupted };
    // What it was about is known, and an address may hold what is nobody's business.
    HttpError::new(kind, error.without_url())
}

/// Whether this request makes one object of the parts of an upload.
fn completes_multipart(method: &Method, uri: &Uri) -> bool {
    let names = uri.query().into_iter().flat_map(|query| query.split('&'));
    method == Method::POST && names.map(|pair| pair.split('=').next()).any(|name| name == Some("uploadId"))
}

/// When something moved last.
#[derive(Debug)]
struct Moved(Mutex<Instant>);

impl Default for Moved {
    fn default() -> Self {
        Self(Mutex::new(Instant::now()))
    }
}

impl Moved {
    fn note(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn last(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when nothing has moved for so long.
    async fn nothing_for(&self, quiet: Duration) {
        loop {
            let last = self.last();
            tokio::time::sleep_until(last + quiet).await;
            if self.last() == last {
                return;
            }
        }
    }
}

/// A body that goes no faster than it may.
struct Outgoing {
    body: HttpRequestBody,
    pacer: Option<Arc<Pacer>>,
    /// What goes next, and when.
    next: Option<(Bytes, Pin<Box<Sleep>>)>,
    moved: Arc<Moved>,
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        loop {
            // Whoever waits for others' bytes is not stuck.
            self.moved.note();
            if let Some((_, until)) = &mut self.next {
                ready!(until.as_mut().poll(context));
                let bytes = self.next.take().map(|(bytes, _)| Frame::data(bytes));
                return Poll::Ready(bytes.map(Ok));
            }
            let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(context)) else {
                return Poll::Ready(None);
            };
            let bytes = match frame.map(Frame::into_data) {
                Ok(Ok(bytes)) => bytes,
                Ok(Err(other)) => return Poll::Ready(Some(Ok(other))),
                Err(error) => return Poll::Ready(Some(Err(error))),
            };
            let wait = self.pacer.as_ref().map_or(Duration::ZERO, |pacer| pacer.take(&bytes));
            if wait.is_zero() {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            self.next = Some((bytes, Box::pin(tokio::time::sleep(wait))));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.next.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let waits = self.next.as_ref().map_or(0, |(bytes, _)| bytes.len() as u64);
        SizeHint::with_exact(self.body.size_hint().lower() + waits)
    }
}

/// An answer that ends with an error when nothing more of it comes.
struct Incoming {
    body: reqwest::Body,
    quiet: Duration,
    until: Pin<Box<Sleep>>,
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let quiet = self.quiet;
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(frame) => {
                self.until.as_mut().reset(Instant::now() + quiet);
                Poll::Ready(frame.map(|frame| frame.map_err(failed)))
            }
            Poll::Pending => {
                ready!(self.until.as_mut().poll(context));
                Poll::Ready(Some(Err(Quiet(quiet).into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_of_a_multipart_upload_is_made_create_only() {
        let completes = |method, uri: &str| completes_multipart(&method, &uri.parse().unwrap());
        assert!(completes(Method::POST, "http://s3/b/k?uploadId=7"));
        assert!(completes(Method::POST, "http://s3/b/k?x=1&uploadId=7"));
        assert!(!completes(Method::POST, "http://s3/b/k?uploads="));
        assert!(!completes(Method::PUT, "http://s3/b/k?partNumber=1&uploadId=7"));
        assert!(!completes(Method::DELETE, "http://s3/b/k?uploadId=7"));
        assert!(!completes(Method::POST, "http://s3/b/uploadId"));
    }
}
