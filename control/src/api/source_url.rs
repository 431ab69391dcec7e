//! A camera's address: what is a valid one, and how it is shown without its secrets. Pure.

use url::Url;

/// How long an address may be, in characters.
pub(super) const MAX_URL: usize = 2_048;

/// Where RTSP is served unless the address says otherwise (RFC 2326, section 3.2), and RTSP within TLS (IANA: `rtsps`).
const RTSP_PORT: u16 = 554;
const RTSPS_PORT: u16 = 322;

/// Stands where a secret was taken out.
const REDACTED: &str = "***";

/// A name of a parameter is taken for that of a secret if it holds one of these.
const SECRET_NAMES: [&str; 12] =
    ["pass", "pw", "psw", "secret", "token", "key", "auth", "sig", "cred", "user", "usr", "login"];

/// Checks the address of a camera.
///
/// # Errors
/// A code, and a text that says what is wrong and what would be right; it repeats no secret.
pub(super) fn check(text: &str) -> Result<(), (&'static str, String)> {
    const RIGHT: &str = "expected rtsp://HOST[:PORT]/PATH, or rtsps:// for RTSP within TLS";
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(("invalid_url", format!("an address holds no blanks; {RIGHT}")));
    }
    let url = Url::parse(text).map_err(|error| ("invalid_url", format!("{error}; {RIGHT}")))?;
    match url.scheme() {
        "rtsp" | "rtsps" => {}
        other => {
            let other: String = other.chars().take(20).collect();
            return Err(("unsupported_scheme", format!("the scheme is `{other}`; {RIGHT}")));
        }
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(("missing_host", format!("the address has no host; {RIGHT}")));
    }
    if !url.username().is_empty() || url.password().is_some() || authority(text).contains('@') {
        let detail = "put user and password into the fields username and password, not into the address";
        return Err(("credentials_in_url", detail.to_owned()));
    }
    if url.port() == Some(0) {
        return Err(("invalid_url", "port 0 cannot be connected to".to_owned()));
    }
    if url.fragment().is_some() {
        return Err(("invalid_url", "a fragment (#…) means nothing to a camera; leave it out".to_owned()));
    }
    Ok(())
}

/// Whether both addresses lead to the same host and port, both within TLS or both not. Neither does if it is no address.
pub(super) fn same_place(one: &str, other: &str) -> bool {
    let place = |text: &str| {
        let url = Url::parse(text).ok()?;
        let is_tls = url.scheme() == "rtsps";
        let port = url.port().unwrap_or(if is_tls { RTSPS_PORT } else { RTSP_PORT });
        Some((url.host_str()?.to_ascii_lowercase(), port, is_tls))
    };
    place(one).is_some_and(|one| place(other) == Some(one))
}

/// Where host and port end and path and query begin.
fn tail_start(text: &str) -> usize {
    let authority = text.find("://").map_or(0, |at| at + 3);
    text[authority..].find(['/', '?', '#']).map_or(text.len(), |at| authority + at)
}

fn authority(text: &str) -> &str {
    let start = text.find("://").map_or(0, |at| at + 3);
    &text[start..tail_start(text)]
}

/// The address as it may be shown: the value of every parameter that looks like a secret, in query or path (cameras
/// have both), replaced by `***`. Rather too much than too little.
pub(super) fn redact(text: &str) -> String {
    let (shown, tail) = text.split_at(tail_start(text));
    let mut redacted = shown.to_owned();
    for piece in tail.split_inclusive(['/', '?', '&', ';']) {
        let (parameter, delimiter) = match piece.char_indices().next_back() {
            Some((at, '/' | '?' | '&' | ';')) => piece.split_at(at),
            Some(_) | None => (piece, ""),
        };
        match parameter.split_once('=') {
            Some((name, value)) if !value.is_empty() && is_secret(name) => {
                redacted.extend([name, "=", REDACTED]);
            }
            Some(_) | None => redacted.push_str(parameter),
        }
        redacted.push_str(delimiter);
    }
    redacted
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    // A name that hides behind percent signs has a reason to.
    name.contains('%') || SECRET_NAMES.iter().any(|secret| name.contains(secret))
}

/// Whether secrets were taken out of this address, so that it leads nowhere.
pub(super) fn is_redacted(text: &str) -> bool {
    text.contains(REDACTED)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_an_rtsp_address_with_a_host_and_without_credentials_will_do() {
        for good in
            ["rtsp://10.0.0.7:554/stream1", "rtsp://[fe80::1]/a?b=c", "rtsps://cam.example", "RTSP://h/1"]
        {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for (bad, code) in [
            ("http://10.0.0.7/", "unsupported_scheme"),
            ("file:///etc/passwd", "unsupported_scheme"),
            ("rtsp:///stream", "missing_host"),
            ("rtsp://", "missing_host"),
            ("10.0.0.7", "invalid_url"),
            ("rtsp://u:p@10.0.0.7/", "credentials_in_url"),
            ("rtsp://@10.0.0.7/", "credentials_in_url"),
            ("rtsp://h:0/", "invalid_url"),
            ("rtsp://h:99999/", "invalid_url"),
            ("rtsp://h/a b", "invalid_url"),
            ("rtsp://h/a#b", "invalid_url"),
        ] {
            assert_eq!(check(bad).map_err(|(code, _)| code), Err(code), "{bad}");
        }
    }

    #[test]
    fn a_place_is_a_host_and_a_port() {
        for (one, other, same) in [
            ("rtsp://h/1", "rtsp://H:554/2?x=y", true),
            ("rtsp://[fe80::1]/", "rtsp://[FE80::1]:554/", true),
            ("rtsp://h/", "rtsp://h:8554/", false),
            ("rtsps://h/", "rtsps://h:322/", true),
            ("rtsps://h/", "rtsp://h:322/", false),
            ("rtsp://h/", "rtsps://h:554/", false),
            ("rtsp://h/", "rtsp://h.example/", false),
            ("nonsense", "nonsense", false),
        ] {
            assert_eq!(same_place(one, other), same, "{one} {other}");
        }
    }

    #[test]
    fn secrets_in_query_and_path_are_not_shown() {
        for (url, shown) in [
            ("rtsp://h/s?channel=1&subtype=0", "rtsp://h/s?channel=1&subtype=0"),
            ("rtsp://h/s?channel=1&Password=geheim", "rtsp://h/s?channel=1&Password=***"),
            ("rtsp://h/s?auth_token=a=b;x=1", "rtsp://h/s?auth_token=***;x=1"),
            (
                "rtsp://h:554/user=admin_password=tlJw_channel=1_stream=0.sdp?real",
                "rtsp://h:554/user=***?real",
            ),
            ("rtsp://h/s?usr=a&pw=b&pwd=c&login=d&x=1", "rtsp://h/s?usr=***&pw=***&pwd=***&login=***&x=1"),
            ("rtsp://h?p%61ss=1", "rtsp://h?p%61ss=***"),
            ("rtsp://h", "rtsp://h"),
        ] {
            assert_eq!(redact(url), shown);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_checked_and_redacted_without_panic(text in ".{0,80}") {
            let _ = check(&text);
            redact(&text);
        }

        #[test]
        fn a_password_never_comes_through(secret in "[a-zA-Z0-9]{8,16}", before in "[a-c/&?;=]{0,8}") {
            let url = format!("rtsp://h/{before}?password={secret}&channel=1");
            prop_assert!(!redact(&url).contains(&secret));
            prop_assert_eq!(redact(&redact(&url)), redact(&url));
        }
    }
}
