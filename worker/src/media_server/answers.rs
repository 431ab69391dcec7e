//! What is answered to a request. Looks only at what was signed: path and query as they came, then what the ticket says.
//!
//! Never logs an address: whoever reads the log could use it.

use std::io::{self, ErrorKind};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream;
use http::header::{
    ACCEPT_RANGES, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    HeaderValue, IF_NONE_MATCH, IF_RANGE, RANGE,
};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use longwatch_events::hash::Sha256;
use longwatch_events::media::{MediaKey, PREFIX, Refused, Ticket};
use longwatch_events::time::{Clock, Timestamp};
use tokio::sync::watch;

use super::content::{Content, Pieces};
use super::ranges::{Wanted, wanted};
use super::refusal::Refusal;
use super::stored::Reader;
use crate::archive::layout::SegmentName;

/// The body of an answer.
pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// What is allowed here.
const METHODS: HeaderValue = HeaderValue::from_static("GET, OPTIONS");

/// Answers requests.
pub(super) struct Answerer {
    /// Shared with control; `None`: not known yet.
    pub(super) key: watch::Receiver<Option<MediaKey>>,
    pub(super) reader: Reader,
    pub(super) clock: Arc<dyn Clock>,
}

impl Answerer {
    /// Answers a request.
    pub(super) async fn answer<B>(&self, request: &Request<B>) -> Response<Body> {
        let response = match *request.method() {
            Method::OPTIONS => empty(StatusCode::NO_CONTENT),
            Method::GET => self.get(request).await.unwrap_or_else(Response::from),
            _ => {
                let detail = "recorded video can only be read: expected GET";
                Refusal::new(StatusCode::METHOD_NOT_ALLOWED, detail).with(ALLOW, METHODS).into()
            }
        };
        tracing::debug!(status = response.status().as_u16(), "viewer answered");
        with_cors(response)
    }

    /// What is answered to a viewer when there are enough of them.
    pub(super) fn full() -> Response<Body> {
        let detail = "this server has as many viewers as it can serve; ask again";
        with_cors(Refusal::for_now(detail).into())
    }

    async fn get<B>(&self, request: &Request<B>) -> Result<Response<Body>, Refusal> {
        let address = request.uri().path_and_query().map_or("", |address| address.as_str());
        if !address.starts_with(PREFIX) {
            return Err(Refusal::new(StatusCode::NOT_FOUND, "there is nothing here but /media/…"));
        }
        let now = self.clock.now();
        let ticket = self.check(request.method(), address, now)?;
        let gone = || Refusal::new(StatusCode::NOT_FOUND, "this segment is not here any more");
        // Not from anybody's text: what is opened is what the name says, in the spelling of ours.
        let name =
            SegmentName::parse(&ticket.key).filter(|name| name.key() == ticket.key).ok_or_else(gone)?;
        let opened = self.reader.open(name).await.map_err(|error| unreadable(&ticket, &error))?;
        let (source, size) = opened.ok_or_else(gone)?;
        let content = Content::open(source, size, &ticket).await;
        let content = content.map_err(|error| unreadable(&ticket, &error))?;
        give(request.headers(), &ticket, content, now)
    }

    fn check(&self, method: &Method, address: &str, now: Timestamp) -> Result<Ticket, Refusal> {
        let key = self.key.borrow();
        let Some(key) = key.as_ref() else {
            let detail = "this server has not heard from control yet whom to give video to; ask again";
            return Err(Refusal::for_now(detail));
        };
        key.check(method.as_str(), address, now).map_err(|refused| {
            let status = match refused {
                Refused::NotSigned => StatusCode::FORBIDDEN,
                Refused::Expired => StatusCode::GONE,
            };
            Refusal::new(status, refused.to_string())
        })
    }
}

/// The answer that has the content, as far as it is wanted.
fn give(
    asked: &HeaderMap,
    ticket: &Ticket,
    content: Content,
    now: Timestamp,
) -> Result<Response<Body>, Refusal> {
    let length = content.len();
    let tag = tag(ticket, length);
    let seconds = ticket.expires.millis_since(now).max(0) / 1_000;
    let keep = text(format!("private, max-age={seconds}, immutable"));
    if asked.get_all(IF_NONE_MATCH).iter().any(|tags| names(tags, &tag)) {
        let mut response = empty(StatusCode::NOT_MODIFIED);
        response.headers_mut().extend([(ETAG, text(tag)), (CACHE_CONTROL, keep)]);
        return Ok(response);
    }
    // A piece of something else than is known to whoever asks would be no use. Dates are not given out, so none fits.
    let is_current = asked.get(IF_RANGE).is_none_or(|known| known.as_bytes() == tag.as_bytes());
    let range = asked.get(RANGE).and_then(|range| range.to_str().ok());
    let is_single = asked.get_all(RANGE).iter().count() == 1;
    let (status, slice) = match wanted(range.filter(|_| is_current && is_single), length) {
        Wanted::Whole => (StatusCode::OK, 0..length),
        Wanted::Slice(slice) => (StatusCode::PARTIAL_CONTENT, slice),
        Wanted::Nothing => {
            let detail = format!("there are {length} bytes, and none of those that were asked for");
            let refusal = Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, detail);
            return Err(refusal.with(CONTENT_RANGE, text(format!("bytes */{length}"))));
        }
    };
    tracing::debug!(key = ticket.key, part = ticket.part.as_str(), ?slice, "giving out video");
    let mut response = Response::new(body(&ticket.key, content, slice.clone()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    if status == StatusCode::PARTIAL_CONTENT {
        let range = format!("bytes {}-{}/{length}", slice.start, slice.end.saturating_sub(1));
        headers.insert(CONTENT_RANGE, text(range));
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("video/mp4"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(slice.end - slice.start));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(ETAG, text(tag));
    headers.insert(CACHE_CONTROL, keep);
    Ok(response)
}

/// The tag of what a ticket gives (RFC 9110, section 8.8.3), a strong one: a stored segment never changes, so all that makes
/// the bytes is in it.
fn tag(ticket: &Ticket, length: u64) -> String {
    let Ticket { key, part, start, until, expires: _ } = ticket;
    let until = until.map(Timestamp::as_micros);
    let all = format!("{key}\n{}\n{}\n{until:?}\n{length}", part.as_str(), start.as_micros());
    format!("\"{}\"", Sha256::of(all.as_bytes()))
}

/// Whether one of the tags in the field is this one, or it names any.
fn names(tags: &HeaderValue, tag: &str) -> bool {
    let Ok(tags) = tags.to_str() else { return false };
    tags.split(',').map(str::trim).any(|known| known == "*" || known.trim_start_matches("W/") == tag)
}

fn body(key: &str, content: Content, slice: Range<u64>) -> Body {
    let rest = (content.slice(slice), key.to_owned());
    let pieces = stream::try_unfold(rest, |(mut pieces, key): (Pieces, String)| async move {
        match pieces.next().await {
            Ok(piece) => Ok(piece.map(|piece| (Frame::data(piece), (pieces, key)))),
            Err(error) => {
                tracing::warn!(key, %error, "a segment cannot be given out whole");
                Err(error)
            }
        }
    });
    StreamBody::new(pieces).boxed_unsync()
}

/// What is answered when a segment is there and cannot be read.
fn unreadable(ticket: &Ticket, error: &io::Error) -> Refusal {
    tracing::warn!(key = ticket.key, %error, "a segment cannot be given out");
    if error.kind() == ErrorKind::InvalidData || error.kind() == ErrorKind::UnexpectedEof {
        let detail = "this segment is damaged: only its whole file can be had, segment.mp4";
        return Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, detail);
    }
    Refusal::for_now("this segment cannot be read now; ask again")
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(whole(Bytes::new()));
    *response.status_mut() = status;
    response
}

/// These bytes, and nothing else.
pub(super) fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// A page of any origin may read it: it is the address that says who may (Fetch standard, CORS protocol).
fn with_cors(mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("range"));
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("content-length, content-range"));
    response
}

/// Digits, and letters of ours.
fn text(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("invariant: it is made here, of visible characters")
}
