//! An S3 server over HTTP on a free port: real signatures, create-only puts, checksums, uploads in parts (`s3s-fs`), and a
//! layer before it in which things go wrong ([`Faults`]).
//!
//! It has threads of its own, so a test whose clock stands still, or whose runtime is busy, changes nothing for it. It ends
//! with the value.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use s3s::Body;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

mod faults;

pub use faults::{Fault, Faults, SLOW};

/// The bucket there is.
pub const BUCKET: &str = "video";
const KEY_ID: &str = "longwatch";
const SECRET: &str = "not-a-secret-of-anybodys";

type Error = Box<dyn std::error::Error + Send + Sync>;

/// The server.
pub struct S3 {
    root: tempfile::TempDir,
    address: SocketAddr,
    faults: Arc<Faults>,
    runtime: Option<Runtime>,
}

impl S3 {
    /// Starts one, with an empty bucket.
    pub fn start() -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join(BUCKET)).unwrap();
        std::fs::write(root.path().join("credentials.toml"), credentials()).unwrap();
        let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root.path()).unwrap());
        builder.set_auth(SimpleAuth::from_single(KEY_ID, SECRET));
        let (service, faults) = (builder.build(), Arc::new(Faults::new()));
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let serving = (Arc::clone(&faults), service);
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (faults, service) = serving.clone();
                tokio::spawn(serve(stream, service, faults));
            }
        });
        Self { root, address, faults, runtime: Some(runtime) }
    }

    /// Where it is: `http://…`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A file with the key to it, as a worker reads it.
    pub fn credentials_file(&self) -> PathBuf {
        self.root.path().join("credentials.toml")
    }

    /// What goes wrong.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Everything in the bucket, by key.
    pub fn objects(&self) -> BTreeMap<String, Vec<u8>> {
        let bucket = self.root.path().join(BUCKET);
        let mut found = BTreeMap::new();
        collect(&bucket, &bucket, &mut found);
        found
    }

    /// Puts an object there, past everything; it has no metadata.
    pub fn put(&self, key: &str, content: &[u8]) {
        let path = self.root.path().join(BUCKET).join(key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// Removes an object, past everything.
    pub fn remove(&self, key: &str) {
        std::fs::remove_file(self.root.path().join(BUCKET).join(key)).unwrap();
    }

    /// How many uploads in parts were begun and neither ended nor given up.
    pub fn unfinished_uploads(&self) -> usize {
        let names = std::fs::read_dir(self.root.path()).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().starts_with(".upload-")).count()
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // It may be dropped by a task of another runtime, which must not wait.
            runtime.shutdown_background();
        }
    }
}

fn credentials() -> String {
    format!("access_key_id = \"{KEY_ID}\"\nsecret_access_key = \"{SECRET}\"\n")
}

fn collect(bucket: &Path, folder: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(bucket, &path, found);
        } else if let Ok(content) = std::fs::read(&path) {
            // One that goes in this moment is not there.
            found.insert(path.strip_prefix(bucket).unwrap().to_str().unwrap().to_owned(), content);
        }
    }
}

async fn serve(stream: TcpStream, service: S3Service, faults: Arc<Faults>) {
    if faults.is_out() {
        return faults.note_cut();
    }
    let answer = service_fn(move |request| answer(request, service.clone(), Arc::clone(&faults)));
    // An error cuts the connection, which is what it is for.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
}

async fn answer(
    request: Request<Incoming>,
    service: S3Service,
    faults: Arc<Faults>,
) -> Result<Response<Body>, Error> {
    if faults.is_out() {
        faults.note_cut();
        return Err("an outage".into());
    }
    if faults.is_without_bucket() {
        return Ok(refusal(StatusCode::NOT_FOUND, "NoSuchBucket", "The specified bucket does not exist"));
    }
    if request.method() == Method::DELETE {
        return delete(request, &service, &faults).await;
    }
    let is_put = matches!(*request.method(), Method::PUT | Method::POST);
    let answer = match faults.next(is_put) {
        None => pass(&service, request.map(Body::from)).await,
        Some(Fault::Slow) => {
            tokio::time::sleep(SLOW).await;
            pass(&service, request.map(Body::from)).await
        }
        Some(Fault::Unavailable) => {
            let status = StatusCode::SERVICE_UNAVAILABLE;
            return Ok(refusal(status, "SlowDown", "Please reduce your request rate."));
        }
        Some(Fault::Torn) => {
            let (parts, body) = request.into_parts();
            let length =
                parts.headers.get(header::CONTENT_LENGTH).and_then(|n| n.to_str().ok()?.parse().ok());
            let torn = torn(body, length.unwrap_or(0));
            let _ = pass(&service, Request::from_parts(parts, torn)).await;
            return Err("torn".into());
        }
        Some(Fault::Unanswered) => {
            pass(&service, request.map(Body::from)).await?;
            return Err("done, and not answered".into());
        }
        Some(Fault::Twice) => {
            let (parts, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            let again = Request::from_parts(parts.clone(), Body::from(body.clone()));
            pass(&service, Request::from_parts(parts, Body::from(body))).await?;
            pass(&service, again).await
        }
    };
    // Who was answered as an outage began was not.
    if faults.is_out() { Err("an outage".into()) } else { answer }
}

/// Deletions meet no lots: what goes wrong with them is told one by one.
async fn delete(
    request: Request<Incoming>,
    service: &S3Service,
    faults: &Faults,
) -> Result<Response<Body>, Error> {
    if faults.note_deletion() {
        return Ok(refusal(StatusCode::FORBIDDEN, "AccessDenied", "Access Denied"));
    }
    let answer = pass(service, request.map(Body::from)).await;
    while faults.holds_back_answers_to_deletions() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    answer
}

async fn pass(service: &S3Service, request: Request<Body>) -> Result<Response<Body>, Error> {
    service.call(request).await.map_err(Into::into)
}

fn refusal(status: StatusCode, code: &str, message: &str) -> Response<Body> {
    let text = format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>");
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    // What comes of the body is not read.
    response.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
    response
}

/// A body that breaks off in the middle.
fn torn(body: Incoming, length: u64) -> Body {
    let mut left = length / 2;
    let body = body.map_err(Error::from);
    let stream = http_body_util::BodyDataStream::new(body);
    let cut = futures::StreamExt::map(stream, move |bytes: Result<Bytes, Error>| {
        let mut bytes = bytes?;
        if left == 0 {
            return Err(Error::from("torn"));
        }
        bytes.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        left -= bytes.len() as u64;
        Ok(hyper::body::Frame::data(bytes))
    });
    Body::http_body_unsync(http_body_util::StreamBody::new(cut))
}
