//! HTTP digest authentication with MD5 (RFC 2617; RFC 7616 with `algorithm=MD5`), as cameras use it. Pure.
//!
//! The challenge names no `qop`, as most cameras' don't; an answer with `qop=auth` is understood all the same.

use std::collections::BTreeMap;

use md5::{Digest as _, Md5};

/// The realm that challenges name.
pub const REALM: &str = "longwatch simulated camera";

/// A user and a password. Neither is ever shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    user: String,
    password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(..)")
    }
}

impl Credentials {
    /// As given.
    pub fn new(user: &str, password: &str) -> Self {
        Self { user: user.to_owned(), password: password.to_owned() }
    }
}

impl std::str::FromStr for Credentials {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (user, password) = text.split_once(':').ok_or("expected USER:PASSWORD")?;
        if user.is_empty() || user.contains('"') {
            return Err("the user must not be empty or contain quotes");
        }
        Ok(Self::new(user, password))
    }
}

/// The value of `WWW-Authenticate` for `nonce`.
pub fn challenge(nonce: &str) -> String {
    format!("Digest realm=\"{REALM}\", nonce=\"{nonce}\", algorithm=MD5")
}

/// Whether `authorization` (the header's value) answers the challenge for this request.
pub fn verify(
    credentials: &Credentials,
    realm: &str,
    nonce: &str,
    method: &str,
    uri: &str,
    authorization: &str,
) -> bool {
    let Some(fields) = parse(authorization) else { return false };
    let field = |name: &str| fields.get(name).map_or("", String::as_str);
    if field("username") != credentials.user || field("realm") != realm || field("nonce") != nonce {
        return false;
    }
    if field("uri") != uri || !matches!(field("algorithm"), "" | "MD5") {
        return false;
    }
    let first = md5_hex(&[&credentials.user, realm, &credentials.password]);
    let second = md5_hex(&[method, uri]);
    let wanted = match field("qop") {
        "" => md5_hex(&[&first, nonce, &second]),
        "auth" => md5_hex(&[&first, nonce, field("nc"), field("cnonce"), "auth", &second]),
        _ => return false,
    };
    field("response").eq_ignore_ascii_case(&wanted)
}

fn md5_hex(parts: &[&str]) -> String {
    hex::encode(Md5::digest(parts.join(":")))
}

/// `Digest name="value", name=value, …` as a map with lower-case names.
fn parse(authorization: &str) -> Option<BTreeMap<String, String>> {
    let (scheme, mut rest) = authorization.trim().split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("digest") {
        return None;
    }
    let mut fields = BTreeMap::new();
    while let Some((name, value)) = rest.split_once('=') {
        let value = value.trim_start();
        let (value, tail) = match value.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => value.split_at(value.find(',').unwrap_or(value.len())),
        };
        fields.insert(
            name.trim_matches(|c: char| c == ',' || c.is_whitespace()).to_ascii_lowercase(),
            value.trim().to_owned(),
        );
        rest = tail;
    }
    Some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RFC_2617: &str = r#"Digest username="Mufasa", realm="testrealm@host.com",
        nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", uri="/dir/index.html", qop=auth, nc=00000001,
        cnonce="0a4f113b", response="6629fae49393a05397450978507c4ef1", opaque="5ccc069c403ebaf9f0171e9517f40e41""#;

    fn mufasa(password: &str, method: &str, authorization: &str) -> bool {
        let credentials = Credentials::new("Mufasa", password);
        let nonce = "dcd98b7102dd2f0e8b11d0f600bfb0c093";
        verify(&credentials, "testrealm@host.com", nonce, method, "/dir/index.html", authorization)
    }

    #[test]
    fn the_example_of_rfc_2617_is_accepted() {
        assert!(mufasa("Circle Of Life", "GET", RFC_2617));
        assert!(!mufasa("Circle of Life", "GET", RFC_2617));
        assert!(!mufasa("Circle Of Life", "PUT", RFC_2617));
        assert!(!mufasa("Circle Of Life", "GET", &RFC_2617.replace("dir", "dirt")));
    }

    #[test]
    fn an_answer_without_qop_is_accepted() {
        // RFC 2069 style; the response was computed with Python's hashlib.
        let answer = r#"digest username="Mufasa",realm="testrealm@host.com",nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093",uri="/dir/index.html",response="670fd8c2df070c60b045671b8b24ff02""#;
        assert!(mufasa("Circle Of Life", "GET", answer));
    }

    proptest! {
        #[test]
        fn nothing_made_up_is_accepted(text in "\\PC*") {
            prop_assert!(!mufasa("Circle Of Life", "GET", &text));
            let with_scheme = format!("Digest {text}");
            prop_assert!(!mufasa("Circle Of Life", "GET", &with_scheme));
        }
    }
}
