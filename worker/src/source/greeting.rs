//! The first question to a camera, in our own words: what the RTSP library does not tell of the answer. Whether the camera
//! sends us elsewhere (RFC 2326, section 10.10 and 11), and how it wants the password (RFC 7617, RFC 7616).
//!
//! No credential is ever in the question. Pure but for [`ask`]. Invariant: no answer makes it read more than
//! [`MAX_HEAD`] or panic.

use std::io;
use std::net::SocketAddr;

use http_auth::PasswordClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use url::Url;

/// The largest head of an answer that is read, in bytes.
pub const MAX_HEAD: usize = 16 << 10;

/// What a camera answers to a DESCRIBE without credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It describes itself to anybody.
    Welcome,
    /// It is to be asked at another address, given as it stands in the answer.
    Elsewhere(String),
    /// It wants a password, by Digest.
    Digest,
    /// It wants a password in clear text, and offers nothing better.
    Basic,
    /// Something else, which the library will have to make sense of.
    Other,
}

/// Reads the head of an answer: its first line and its headers.
pub fn read(head: &str) -> Answer {
    let mut lines = head.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split_ascii_whitespace();
    let (Some(version), Some(status)) = (words.next(), words.next()) else { return Answer::Other };
    if !version.starts_with("RTSP/") {
        return Answer::Other;
    }
    let headers: Vec<_> = lines.filter_map(|line| line.split_once(':')).collect();
    let values = |name: &'static str| {
        let named = headers.iter().filter(move |(header, _)| header.trim().eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.trim())
    };
    match status.parse::<u16>() {
        Ok(200..=299) => Answer::Welcome,
        Ok(300..=399) => values("Location").next().map_or(Answer::Other, |to| Answer::Elsewhere(to.into())),
        Ok(401) => {
            // Read by what the RTSP library reads it with, so that both come to the same choice.
            let challenges = values("WWW-Authenticate").collect::<Vec<_>>().join(", ");
            match PasswordClient::try_from(challenges.as_str()) {
                Ok(PasswordClient::Digest(_)) => Answer::Digest,
                Ok(PasswordClient::Basic(_)) => Answer::Basic,
                Ok(_) | Err(_) => Answer::Other,
            }
        }
        Ok(_) | Err(_) => Answer::Other,
    }
}

/// Asks the camera at `address`, which `url` names. Takes as long as the camera does: the caller sets the bound.
///
/// # Errors
///
/// If it cannot be reached, or closes the connection without an answer.
pub async fn ask(address: SocketAddr, url: &Url, user_agent: &str) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(address).await?;
    let question = format!(
        "DESCRIBE {url} RTSP/1.0\r\nCSeq: 1\r\nAccept: application/sdp\r\nUser-Agent: {user_agent}\r\n\r\n"
    );
    stream.write_all(question.as_bytes()).await?;
    let mut received = Vec::new();
    loop {
        if let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") {
            return Ok(read(&String::from_utf8_lossy(&received[..end])));
        }
        if received.len() > MAX_HEAD {
            return Ok(Answer::Other);
        }
        if stream.read_buf(&mut received).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn answers_are_told_apart() {
        for (head, expected) in [
            ("RTSP/1.0 200 OK\r\nCSeq: 1", Answer::Welcome),
            (
                "RTSP/1.0 302 Moved\r\nlocation: rtsp://10.0.0.8/x \r\nCSeq: 1",
                Answer::Elsewhere("rtsp://10.0.0.8/x".into()),
            ),
            ("RTSP/1.0 302 Moved\r\nCSeq: 1", Answer::Other),
            ("RTSP/1.0 401 No\r\nWWW-Authenticate: Basic realm=\"x, Digest realm=y\"", Answer::Basic),
            ("RTSP/1.0 401 No\r\nWWW-Authenticate: Digest realm=\"x\", nonce=\"y\"", Answer::Digest),
            (
                "RTSP/1.0 401 No\r\nWWW-Authenticate: Basic realm=\"x\"\r\nwww-authenticate: digest realm=\"x\", nonce=\"y\"",
                Answer::Digest,
            ),
            (
                "RTSP/1.0 401 No\r\nWWW-Authenticate: Basic realm=\"x\", Digest realm=\"x\", nonce=\"y\"",
                Answer::Digest,
            ),
            ("RTSP/1.0 401 No\r\nCSeq: 1", Answer::Other),
            ("HTTP/1.1 302 Found\r\nLocation: rtsp://x/", Answer::Other),
            ("RTSP/1.0 503 Busy", Answer::Other),
            ("", Answer::Other),
        ] {
            assert_eq!(read(head), expected, "{head}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(head in "\\PC{0,200}", status in "RTSP/1.0 [34]0[0-9] (\\PC|\r\n|:|,){0,80}") {
            read(&head);
            read(&status);
        }
    }
}
