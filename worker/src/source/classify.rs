//! What a failure of the RTSP library means, in the log's words, and what of its text may be repeated.
//!
//! Pure. The library tells status codes but keeps its kinds of errors to itself, so the rest is read from the texts of
//! version 0.4; the tests against a misbehaving camera hold them in place. A text nobody knows is a protocol error.

use std::io::ErrorKind;

use longwatch_events::fact::Cause;
use zeroize::Zeroizing;

/// The longest detail, in characters.
const MAX_DETAIL: usize = 300;

/// The cause of an error with this RTSP status code, if it came from a response, and this text.
pub(super) fn cause(status: Option<u16>, text: &str) -> Cause {
    match status {
        Some(401 | 403 | 407) => Cause::Unauthorized,
        Some(404 | 410) => Cause::NotFound,
        // Session not found: the camera has forgotten us (RFC 2326, section 7.1.1).
        Some(454) => Cause::Closed,
        Some(_) => Cause::ProtocolError,
        None => {
            let line = text.lines().next().unwrap_or_default();
            if line.starts_with("Unable to connect") {
                system_cause(line).unwrap_or(Cause::Unreachable)
            } else if line.contains("keepalive") {
                Cause::Timeout
            } else if line.contains("EOF") {
                Cause::Closed
            } else if line.starts_with("Error reading") || line.starts_with("Error writing") {
                system_cause(line).unwrap_or(Cause::Closed)
            } else {
                Cause::ProtocolError
            }
        }
    }
}

/// The cause behind "… (os error 111)".
fn system_cause(line: &str) -> Option<Cause> {
    let (_, number) = line.rsplit_once("(os error ")?;
    let number = number.split_once(')')?.0.parse().ok()?;
    io_cause(std::io::Error::from_raw_os_error(number).kind())
}

/// The cause behind a system's error; `None` if it could be anything.
pub(super) fn io_cause(kind: ErrorKind) -> Option<Cause> {
    #[allow(clippy::wildcard_enum_match_arm, reason = "the standard library's list of kinds is open")]
    match kind {
        ErrorKind::ConnectionRefused => Some(Cause::Refused),
        ErrorKind::TimedOut => Some(Cause::Timeout),
        ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::BrokenPipe
        | ErrorKind::NotConnected
        | ErrorKind::UnexpectedEof => Some(Cause::Closed),
        ErrorKind::HostUnreachable
        | ErrorKind::NetworkUnreachable
        | ErrorKind::NetworkDown
        | ErrorKind::AddrNotAvailable
        | ErrorKind::PermissionDenied => Some(Cause::Unreachable),
        _ => None,
    }
}

/// What must never be repeated of one camera's address.
pub(super) struct Redactor(Vec<Zeroizing<String>>);

impl Redactor {
    /// Hides these, however short; empty ones are ignored.
    pub(super) fn new(secrets: impl IntoIterator<Item = String>) -> Self {
        let mut secrets: Vec<_> =
            secrets.into_iter().filter(|secret| !secret.is_empty()).map(Zeroizing::new).collect();
        // The longest first: one secret may be part of another.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Self(secrets)
    }

    /// One line of `text` for a person: its first, without secrets and control characters, of bounded length.
    pub(super) fn detail(&self, text: &str) -> String {
        let line = text.lines().next().unwrap_or_default();
        let clean = self.0.iter().fold(line.to_owned(), |text, secret| text.replace(secret.as_str(), "…"));
        clean.chars().filter(|c| !c.is_control()).take(MAX_DETAIL).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn texts_of_the_library_mean_what_they_say() {
        for (status, text, expected) in [
            (Some(401), "401 Unauthorized response to DESCRIBE CSeq=2", Cause::Unauthorized),
            (Some(404), "404 Not Found response to DESCRIBE CSeq=1", Cause::NotFound),
            (Some(503), "503 Service Unavailable response", Cause::ProtocolError),
            (None, "Unable to connect to RTSP server: Connection refused (os error 111)", Cause::Refused),
            (None, "Unable to connect to RTSP server: No route to host (os error 113)", Cause::Unreachable),
            (
                None,
                "Error reading from RTSP peer: EOF while expecting response to DESCRIBE CSeq 1",
                Cause::Closed,
            ),
            (
                None,
                "Error reading from RTSP peer: Connection reset by peer (os error 104)\n\nconn",
                Cause::Closed,
            ),
            (None, "Error reading from RTSP peer: Server failed to respond to keepalive 7", Cause::Timeout),
            (None, "RTSP framing error: Invalid RTSP message: bad", Cause::ProtocolError),
            (None, "RTSP framing error: Incomplete RTSP message at EOF (3)", Cause::Closed),
            (None, "something new", Cause::ProtocolError),
        ] {
            assert_eq!(cause(status, text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_secret_gets_through(before in "\\PC{0,40}", after in "\\PC{0,40}", secret in "[a-zA-Z0-9:@/%]{1,20}") {
            let redactor = Redactor::new([secret.clone(), format!("{secret}{secret}")]);
            let detail = redactor.detail(&format!("{before}{secret}{after}{secret}{secret}"));
            prop_assert!(!detail.contains(&secret), "{detail}");
        }
    }

    #[test]
    fn a_detail_is_one_short_line() {
        let detail = Redactor::new([]).detail(&format!("\u{1b}[31mred{}\nsecond", "x".repeat(1_000)));
        assert!(detail.starts_with("[31mred") && detail.chars().count() == MAX_DETAIL, "{detail}");
    }
}
