//! RTSP 1.0 messages (RFC 2326): reads requests from any bytes, writes responses. Pure.

use std::fmt::Write as _;

/// Largest head (request line and headers) in bytes.
const MAX_HEAD: usize = 16 * 1024;
/// Largest body in bytes.
const MAX_BODY: usize = 64 * 1024;

/// What a client sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inbound {
    /// A request.
    Request(Request),
    /// An interleaved packet (receiver reports); nobody reads it.
    Packet,
}

/// One request. Its body was read over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// As sent, such as `DESCRIBE`.
    pub method: String,
    /// As sent, such as `rtsp://127.0.0.1/cam/1`.
    pub uri: String,
    /// Names as sent, values trimmed.
    headers: Vec<(String, String)>,
}

/// Why a connection's bytes are not RTSP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The first line is not `METHOD URI RTSP/1.0`, or a header has no colon, or it is not text.
    #[error("not an RTSP 1.0 request")]
    Malformed,
    /// Larger than anyone needs.
    #[error("the request is too large")]
    TooLarge,
}

impl Request {
    /// The value of the first header of that name, whatever its case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(header, _)| header.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// The path of the URI without the track's part, and that part: `/cam/1` and `trackID=0`.
    pub fn path_and_track(&self) -> (&str, Option<&str>) {
        let path = match self.uri.split_once("://") {
            Some((_, rest)) => rest.find('/').map_or("/", |at| &rest[at..]),
            None => self.uri.as_str(),
        };
        let path = path.split_once('?').map_or(path, |(path, _)| path);
        match path.rsplit_once('/') {
            Some((camera, track)) if track.starts_with("trackID=") => (camera, Some(track)),
            _ => (path.trim_end_matches('/'), None),
        }
    }
}

/// Takes the first message off the front of `bytes`: it and its length, or `None` if it is not complete yet.
///
/// # Errors
/// The bytes can never become a message.
pub fn parse(bytes: &[u8]) -> Result<Option<(Inbound, usize)>, Error> {
    if let [b'$', rest @ ..] = bytes {
        let [_, high, low, packet @ ..] = rest else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        return Ok((packet.len() >= length).then_some((Inbound::Packet, 4 + length)));
    }
    let start = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    let Some(head_len) = bytes[start..].windows(4).take(MAX_HEAD).position(|window| window == b"\r\n\r\n")
    else {
        return if bytes.len() > MAX_HEAD { Err(Error::TooLarge) } else { Ok(None) };
    };
    let head = std::str::from_utf8(&bytes[start..start + head_len]).map_err(|_| Error::Malformed)?;
    let request = parse_head(head)?;
    let body = match request.header("content-length") {
        None => 0,
        Some(length) => length.parse().map_err(|_| Error::Malformed)?,
    };
    if body > MAX_BODY {
        return Err(Error::TooLarge);
    }
    let end = start + head_len + 4 + body;
    Ok((bytes.len() >= end).then_some((Inbound::Request(request), end)))
}

fn parse_head(head: &str) -> Result<Request, Error> {
    let mut lines = head.split("\r\n");
    let mut words = lines.next().ok_or(Error::Malformed)?.split(' ');
    let (Some(method), Some(uri), Some("RTSP/1.0"), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Error::Malformed);
    };
    let headers = lines.map(|line| {
        let (name, value) = line.split_once(':').ok_or(Error::Malformed)?;
        Ok((name.trim().to_owned(), value.trim().to_owned()))
    });
    let headers = headers.collect::<Result<_, Error>>()?;
    Ok(Request { method: method.to_owned(), uri: uri.to_owned(), headers })
}

/// Answers that the simulator gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// 200
    Ok,
    /// 302
    Found,
    /// 400
    BadRequest,
    /// 401
    Unauthorized,
    /// 404
    NotFound,
    /// 405
    MethodNotAllowed,
    /// 453
    NotEnoughBandwidth,
    /// 454
    SessionNotFound,
    /// 455
    MethodNotValidInThisState,
    /// 461
    UnsupportedTransport,
}

impl Status {
    fn line(self) -> &'static str {
        match self {
            Self::Ok => "200 OK",
            Self::Found => "302 Found",
            Self::BadRequest => "400 Bad Request",
            Self::Unauthorized => "401 Unauthorized",
            Self::NotFound => "404 Not Found",
            Self::MethodNotAllowed => "405 Method Not Allowed",
            Self::NotEnoughBandwidth => "453 Not Enough Bandwidth",
            Self::SessionNotFound => "454 Session Not Found",
            Self::MethodNotValidInThisState => "455 Method Not Valid in This State",
            Self::UnsupportedTransport => "461 Unsupported Transport",
        }
    }
}

/// Writes a response to the request with that `CSeq` (none if the request had none).
pub fn response(status: Status, cseq: Option<&str>, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut text = format!("RTSP/1.0 {}\r\n", status.line());
    let mut header = |name: &str, value: &str| {
        write!(text, "{name}: {value}\r\n").expect("invariant: writing to a String cannot fail");
    };
    if let Some(cseq) = cseq {
        header("CSeq", cseq);
    }
    header("Server", concat!("longwatch-loadtest/", env!("CARGO_PKG_VERSION")));
    for (name, value) in headers {
        header(name, value);
    }
    if !body.is_empty() {
        header("Content-Length", &body.len().to_string());
    }
    text.push_str("\r\n");
    text.push_str(body);
    text.into_bytes()
}

/// The two interleaved channels that a `Transport` header asks for: for RTP and for RTCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Channels {
    /// RTP.
    pub rtp: u8,
    /// RTCP.
    pub rtcp: u8,
}

/// The first alternative of a `Transport` header that we serve: `RTP/AVP/TCP`, interleaved on the channels named
/// or else on `free`. `None` if there is none.
pub fn interleaved(transport: &str, free: Channels) -> Option<Channels> {
    let fields_of = |spec: &str| spec.split(';').map(|field| field.trim().to_ascii_lowercase()).collect();
    for fields in transport.split(',').map(fields_of) {
        let fields: Vec<String> = fields;
        if fields.first().is_none_or(|protocol| protocol != "rtp/avp/tcp") {
            continue;
        }
        let Some(pair) = fields.iter().find_map(|field| field.strip_prefix("interleaved=")) else {
            return Some(free);
        };
        let (rtp, rtcp) = pair.split_once('-').unwrap_or((pair, ""));
        let Ok(rtp) = rtp.parse::<u8>() else { continue };
        return Some(Channels { rtp, rtcp: rtcp.parse().unwrap_or(rtp.wrapping_add(1)) });
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SETUP: &[u8] = b"\r\nSETUP rtsp://h:554/cam/1/trackID=0 RTSP/1.0\r\nCSeq: 3\r\ntransport:  RTP/AVP/TCP;unicast;interleaved=2-3\r\nContent-Length: 2\r\n\r\nhi$";

    #[test]
    fn a_request_is_read_whole_or_not_at_all() {
        for cut in 0..SETUP.len() - 1 {
            assert_eq!(parse(&SETUP[..cut]), Ok(None), "{cut}");
        }
        let Some((Inbound::Request(request), length)) = parse(SETUP).unwrap() else { panic!("a request") };
        assert_eq!(length, SETUP.len() - 1);
        assert_eq!(request.method, "SETUP");
        assert_eq!(request.path_and_track(), ("/cam/1", Some("trackID=0")));
        assert_eq!(request.header("Transport"), Some("RTP/AVP/TCP;unicast;interleaved=2-3"));
    }

    #[test]
    fn paths_are_found_in_any_form_of_uri() {
        for (uri, path) in [
            ("rtsp://h/cam/1/", "/cam/1"),
            ("rtsp://h/cam/1?x=/y", "/cam/1"),
            ("/cam/1", "/cam/1"),
            ("rtsp://h", ""),
            ("*", "*"),
        ] {
            let request = Request { method: String::new(), uri: uri.to_owned(), headers: Vec::new() };
            assert_eq!(request.path_and_track(), (path, None), "{uri}");
        }
    }

    #[test]
    fn packets_between_requests_are_read_over() {
        assert_eq!(parse(b"$\x01\x00\x03ab"), Ok(None));
        assert_eq!(parse(b"$\x01\x00\x03abcOPT"), Ok(Some((Inbound::Packet, 7))));
    }

    #[test]
    fn what_cannot_become_a_request_is_an_error() {
        assert_eq!(parse(b"GET / HTTP/1.1\r\n\r\n"), Err(Error::Malformed));
        assert_eq!(parse(&[b'a'; MAX_HEAD + 1]), Err(Error::TooLarge));
        let huge = b"OPTIONS * RTSP/1.0\r\nContent-Length: 99999999\r\n\r\n";
        assert_eq!(parse(huge), Err(Error::TooLarge));
    }

    #[test]
    fn transports_are_chosen_from_the_alternatives() {
        let free = Channels { rtp: 0, rtcp: 1 };
        let choose = |text| interleaved(text, free).map(|channels| (channels.rtp, channels.rtcp));
        assert_eq!(choose("RTP/AVP;unicast;client_port=1-2, RTP/AVP/TCP;interleaved=4-5"), Some((4, 5)));
        assert_eq!(choose("RTP/AVP/TCP;unicast"), Some((0, 1)));
        assert_eq!(choose("RTP/AVP/TCP;interleaved=9"), Some((9, 10)));
        assert_eq!(choose("RTP/AVP;unicast;client_port=1-2"), None);
        assert_eq!(choose("RTP/AVP/TCP;interleaved=900-901"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            if let Ok(Some((_, length))) = parse(&bytes) {
                prop_assert!(length <= bytes.len());
            }
        }

        #[test]
        fn almost_requests_are_read_without_panic(text in "[A-Z$]{0,4} ?\\PC{0,20} ?RTSP/1.0\r\n(\\PC{0,9}:?\\PC{0,9}\r\n){0,4}\r\n\\PC*") {
            if let Ok(Some((Inbound::Request(request), length))) = parse(text.as_bytes()) {
                prop_assert!(length <= text.len());
                let _ = request.path_and_track();
            }
            let _ = interleaved(&text, Channels { rtp: 0, rtcp: 1 });
        }
    }
}
