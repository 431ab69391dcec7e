//! `…/cameras/{camera}/playlist.m3u8`: what was recorded of a camera, for a player. The media are not control's to carry: the
//! playlist says where they are, in signed addresses of the servers that have them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use longwatch_events::id::{ServerId, StoreId};
use longwatch_events::media::{MediaKey, Part, Ticket};
use longwatch_events::segment_name::SegmentName;
use longwatch_events::time::Timestamp;
use url::Url;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::cameras::find;
use super::extract::{CameraPath, Query};
use super::problem::{FieldError, Problem, moment};
use super::timeline::{range, recorders};
use crate::playback::cover::{Piece, cover, not_played};
use crate::playback::playlist::{Addresses, Left, render};
use crate::read_model::Range;
use crate::read_model::rows::{Location, SegmentRow};
use crate::read_model::timeline::{Inputs, Timeline, draw_up};
use crate::service::Service;

/// The longest range that is played at once: a player reads all of its playlist before it begins.
const MAX_RANGE_DAYS: i64 = 1;
/// Its longest playlist: a day of segments of 10 s, and more; some 20 MB.
const MAX_PIECES: usize = 20_000;
/// The longest address of a server.
const MAX_ORIGIN: usize = 255;
/// An address holds for so much longer than what is played lasts, in milliseconds.
const HOLDS_MS: i64 = 60 * 60 * 1_000;
/// What a playlist is (RFC 8216, section 10).
const MEDIA_TYPE: &str = "application/vnd.apple.mpegurl";
/// Why there is no address for what lies on a server: it is not heard of, or gives nothing out.
const SERVER_AWAY: &str = "server_away";

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(read))
}

/// Play what was recorded.
///
/// An HLS playlist (RFC 8216) of fragmented MP4. It names each segment at the server that has it, by an address that holds for that
/// segment alone, for an hour longer than the range lasts, and for whoever has it: no key is needed there. What is missing stands in
/// `EXT-X-DATERANGE` of the class `longwatch.gap`, with the cause that the timeline gives it, or `server_away`: it is there, and its
/// server cannot be reached now. If there is nothing to play the answer is 404, and says why.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/cameras/{camera}/playlist.m3u8", operation_id = "read_playlist",
    tag = "cameras",
    params(
        ("tenant" = String, Path, description = "The tenant's id, or `default`."),
        ("camera" = String, Path, description = "The camera's id.", format = "uuid"),
        ("from" = Option<String>, Query, description = "RFC 3339; default: a day before `to`. A player begins there.",
            format = DateTime),
        ("to" = Option<String>, Query, description = "RFC 3339; default: now. At most one day after `from`.",
            format = DateTime),
    ),
    responses(
        (status = 200, description = "The playlist.", body = String, content_type = "application/vnd.apple.mpegurl"),
        (status = 404, description = "There is no such camera, or no video of it in that range that can be played now.",
            body = super::problem::Details, content_type = "application/problem+json"),
    ))]
async fn read(
    State(app): State<App>,
    CameraPath(tenant, camera): CameraPath,
    mut query: Query,
) -> Result<Response, Problem> {
    let asked_at = app.service.clock().now();
    let range = range(&mut query, asked_at, MAX_RANGE_DAYS);
    query.finish()?;
    let view = find(&app, tenant, camera).await?;
    // Before the rows are read: whoever waits for a place holds nothing.
    let place = super::apart::place(&app).await?;
    let rows = app.service.read_model().timeline(tenant, camera, range).await?;
    let (now, created_at) = (app.service.log_now(), view.row.created_at);
    let recorders = recorders(&app, &view);
    let text = super::apart::run(&app, place, move |service| {
        let timeline = draw_up(&Inputs { range, now, created_at, recorders, rows: &rows });
        let expires = asked_at.plus_millis(range.to.millis_since(range.from).saturating_add(HOLDS_MS));
        write(service, &timeline, range, expires)
    });
    let headers = [(header::CONTENT_TYPE, MEDIA_TYPE), (header::CACHE_CONTROL, "private, no-store")];
    Ok((headers, text.await??).into_response())
}

fn write(
    service: &Service,
    timeline: &Timeline,
    range: Range,
    expires: Timestamp,
) -> Result<String, Problem> {
    let mut servers = Servers { service, known: BTreeMap::new(), stores: BTreeMap::new() };
    let (mut there, mut away) = (Vec::new(), Vec::new());
    let (own, others): (Vec<_>, Vec<_>) =
        timeline.segments.iter().partition(|segment| is_its_cameras(segment));
    if let Some(SegmentRow { tenant_id, camera_id, server_id, key, .. }) = others.first() {
        let count = others.len();
        tracing::error!(
            %tenant_id, %camera_id, %server_id, key, count,
            "segments were reported under what is no key of their camera; they are not given out"
        );
    }
    for segment in own {
        match servers.of(segment)? {
            Some(_) => there.push(segment),
            None => away.push(segment),
        }
    }
    let mut pieces = Vec::new();
    for piece in cover(there.iter().copied(), range) {
        let Some(server) = servers.of(piece.segment)? else { continue };
        pieces.push((piece, server.addresses(&piece, expires)));
    }
    if pieces.is_empty() {
        return Err(nothing(timeline, range, &away));
    }
    if pieces.len() > MAX_PIECES {
        let detail = format!(
            "{} segments lie in this range, and a playlist has at most {MAX_PIECES}; ask for it in parts",
            pieces.len()
        );
        return Err(Problem::parameters(vec![FieldError::parameter("from", "out_of_range", detail)]));
    }
    Ok(render(&pieces, &left(timeline, range, &pieces, &away), range.from))
}

/// Whether the key is one, and of the camera that the segment was reported for. A worker that reports another one may be after
/// video of another tenant on the same server.
fn is_its_cameras(segment: &SegmentRow) -> bool {
    let name = SegmentName::parse(&segment.key).filter(|name| name.key() == segment.key);
    name.is_some_and(|name| (name.tenant_id, name.camera_id) == (segment.tenant_id, segment.camera_id))
}

/// Whether that is where a server may be reached: it comes from the server, and goes to everybody who watches.
fn is_origin(text: &str) -> bool {
    let is_plain =
        text.len() <= MAX_ORIGIN && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"');
    let is_bare = |url: Url| {
        matches!(url.scheme(), "http" | "https")
            && url.origin().ascii_serialization().parse::<Url>().is_ok_and(|origin| origin == url)
    };
    is_plain && !text.ends_with('/') && Url::parse(text).is_ok_and(is_bare)
}

/// What of the range is not played, and why, by time.
fn left(
    timeline: &Timeline,
    range: Range,
    pieces: &[(Piece<'_>, Addresses)],
    away: &[&SegmentRow],
) -> Vec<Left> {
    let gaps = timeline
        .gaps
        .iter()
        .map(|gap| Left { range: Range { from: gap.start, to: gap.end }, cause: gap.cause.as_str() });
    let played: Vec<_> = pieces.iter().map(|(piece, _)| *piece).collect();
    let mut unreached: Vec<Range> = Vec::new();
    for segment in cover(away.iter().copied(), range) {
        let (from, to) = (segment.segment.start.max(range.from), segment.end().min(range.to));
        unreached.push(Range { from, to });
    }
    let unreached = not_played(unreached, &played).into_iter();
    let mut left: Vec<_> = gaps.chain(unreached.map(|range| Left { range, cause: SERVER_AWAY })).collect();
    left.sort_by_key(|left| (left.range.from, left.range.to));
    left
}

fn nothing(timeline: &Timeline, range: Range, away: &[&SegmentRow]) -> Problem {
    let (from, to) = (moment(range.from), moment(range.to));
    if !away.is_empty() {
        let detail = format!(
            "video between {from} and {to} is on servers that cannot be reached now, or give nothing out; start their workers \
             with --media-listen, or ask again when they are back"
        );
        return Problem::not_found(detail);
    }
    let causes: BTreeSet<_> = timeline.gaps.iter().map(|gap| gap.cause.as_str()).collect();
    let causes: Vec<_> = causes.into_iter().collect();
    let missing =
        if causes.is_empty() { String::new() } else { format!(" (missing: {})", causes.join(", ")) };
    Problem::not_found(format!(
        "no segment of this camera that is closed lies between {from} and {to}{missing}; its timeline says more"
    ))
}

/// Who gives out what.
struct Servers<'a> {
    service: &'a Service,
    /// Of each that was asked for: `None`: it gives nothing out now.
    known: BTreeMap<ServerId, Option<Arc<Server>>>,
    /// The same of each object store.
    stores: BTreeMap<StoreId, Option<Arc<Server>>>,
}

/// A server that gives out.
struct Server {
    url: Arc<str>,
    key: MediaKey,
    /// Where its archive is, if that is an object store.
    store_id: Option<StoreId>,
}

impl Servers<'_> {
    /// Who gives out this segment: the server that recorded it, or if it lies in an object store and that one is away, another
    /// that has the same one.
    fn of(&mut self, segment: &SegmentRow) -> Result<Option<Arc<Server>>, Problem> {
        let recorded = self.server(segment.server_id)?;
        if segment.location == Location::Server {
            return Ok(recorded);
        }
        // Of one that was uploaded when stores had no ids nothing else is known than who did that.
        let Some(store_id) = segment.store_id else { return Ok(recorded) };
        match recorded.filter(|server| server.store_id == Some(store_id)) {
            Some(server) => Ok(Some(server)),
            None => self.any_at(store_id),
        }
    }

    /// The first server by id that gives out what lies in this object store.
    fn any_at(&mut self, store_id: StoreId) -> Result<Option<Arc<Server>>, Problem> {
        if let Some(known) = self.stores.get(&store_id) {
            return Ok(known.clone());
        }
        let all: Vec<_> = self.service.state().servers().map(|(id, _)| id).collect();
        let mut found = None;
        for server_id in all {
            found = self.server(server_id)?.filter(|server| server.store_id == Some(store_id));
            if found.is_some() {
                break;
            }
        }
        self.stores.insert(store_id, found.clone());
        Ok(found)
    }

    fn server(&mut self, server_id: ServerId) -> Result<Option<Arc<Server>>, Problem> {
        if let Some(known) = self.known.get(&server_id) {
            return Ok(known.clone());
        }
        let key = self.service.media_key(server_id).map_err(|error| Problem::internal(&error))?;
        let url = self.service.observed().media_url(server_id).filter(|url| {
            let is_origin = is_origin(url);
            if !is_origin {
                tracing::warn!(%server_id, "a server says that it gives out video at what is no address");
            }
            is_origin
        });
        let store_id = self.store_of(server_id);
        let server = url.zip(key).map(|(url, key)| Arc::new(Server { url, key, store_id }));
        self.known.insert(server_id, server.clone());
        Ok(server)
    }

    /// The object store that a server said last it has.
    fn store_of(&self, server_id: ServerId) -> Option<StoreId> {
        self.service.observed().seen(server_id)?.load.spool?.store_id
    }
}

impl Server {
    fn addresses(&self, piece: &Piece<'_>, expires: Timestamp) -> Addresses {
        let address = |part, until| {
            let SegmentRow { key, start, .. } = piece.segment;
            let ticket = Ticket { key: key.clone(), part, start: *start, until, expires };
            format!("{}{}", self.url, self.key.sign(&ticket))
        };
        Addresses { init: address(Part::Init, None), media: address(Part::Media, piece.until) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bare_address_of_the_web_goes_to_viewers() {
        for good in ["http://192.0.2.7:8081", "https://rec-1.example.com", "http://[2001:db8::7]:8081"] {
            assert!(is_origin(good), "{good}");
        }
        let long = format!("http://{}.example.com", "a".repeat(255));
        for bad in [
            "",
            "rec-1.example.com",
            "ftp://rec-1.example.com",
            "javascript:alert(1)",
            "http://rec-1.example.com/",
            "http://rec-1.example.com/x",
            "http://rec-1.example.com?x",
            "http://user@rec-1.example.com",
            "http://rec-1.example.com\"\n#EXT-X-ENDLIST",
            "http://rec-1.exam\nple.com",
            &long,
        ] {
            assert!(!is_origin(bad), "{bad}");
        }
    }
}
