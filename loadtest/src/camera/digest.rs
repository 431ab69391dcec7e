//! HTTP digest authentication with MD5 (RFC 2617) or SHA-256 (RFC 7616), and Basic (RFC 7617), as cameras use them. Pure.
//!
//! The challenge names no `qop`, as most cameras' don't; an answer with `qop=auth` is understood all the same.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use md5::{Digest as _, Md5};
use sha2::Sha256;

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

/// How a camera wants its password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scheme {
    /// Digest with MD5.
    #[default]
    Md5,
    /// Digest with SHA-256.
    Sha256,
    /// In clear text.
    Basic,
}

impl Scheme {
    /// The value of `WWW-Authenticate` for `nonce`.
    pub fn challenge(self, nonce: &str) -> String {
        match self {
            Self::Md5 => format!("Digest realm=\"{REALM}\", nonce=\"{nonce}\", algorithm=MD5"),
            Self::Sha256 => {
                format!("Digest realm=\"{REALM}\", nonce=\"{nonce}\", algorithm=SHA-256, qop=\"auth\"")
            }
            Self::Basic => format!("Basic realm=\"{REALM}\""),
        }
    }

    /// Whether `authorization` (the header's value) answers the challenge for this request.
    pub fn verify(
        self,
        credentials: &Credentials,
        nonce: &str,
        method: &str,
        uri: &str,
        authorization: &str,
    ) -> bool {
        match self {
            Self::Md5 | Self::Sha256 => verify(self, credentials, REALM, nonce, method, uri, authorization),
            Self::Basic => {
                let wanted = BASE64.encode(format!("{}:{}", credentials.user, credentials.password));
                let given = authorization.trim().split_once(' ');
                given.is_some_and(|(scheme, text)| scheme.eq_ignore_ascii_case("basic") && text == wanted)
            }
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Md5 => "MD5",
            Self::Sha256 => "SHA-256",
            Self::Basic => "",
        }
    }

    fn hash(self, parts: &[&str]) -> String {
        let text = parts.join(":");
        match self {
            Self::Sha256 => hex::encode(Sha256::digest(text)),
            Self::Md5 | Self::Basic => hex::encode(Md5::digest(text)),
        }
    }
}

fn verify(
    scheme: Scheme,
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
    if field("uri") != uri
        || !(field("algorithm") == scheme.name() || scheme == Scheme::Md5 && field("algorithm").is_empty())
    {
        return false;
    }
    let first = scheme.hash(&[&credentials.user, realm, &credentials.password]);
    let second = scheme.hash(&[method, uri]);
    let wanted = match field("qop") {
        "" => scheme.hash(&[&first, nonce, &second]),
        "auth" => scheme.hash(&[&first, nonce, field("nc"), field("cnonce"), "auth", &second]),
        _ => return false,
    };
    field("response").eq_ignore_ascii_case(&wanted)
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
        verify(
            Scheme::Md5,
            &credentials,
            "testrealm@host.com",
            nonce,
            method,
            "/dir/index.html",
            authorization,
        )
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

    #[test]
    fn the_example_of_rfc_7616_with_sha_256_is_accepted() {
        let credentials = Credentials::new("Mufasa", "Circle of Life");
        let answer = r#"Digest username="Mufasa", realm="http-auth@example.org", uri="/dir/index.html", algorithm=SHA-256,
            nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", nc=00000001,
            cnonce="f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ", qop=auth,
            response="753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1""#;
        let nonce = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v";
        let verified = |scheme| {
            verify(scheme, &credentials, "http-auth@example.org", nonce, "GET", "/dir/index.html", answer)
        };
        assert!(verified(Scheme::Sha256) && !verified(Scheme::Md5));
    }

    #[test]
    fn basic_is_the_password_itself() {
        let credentials = Credentials::new("user", "pass");
        let verified = |answer| Scheme::Basic.verify(&credentials, "", "DESCRIBE", "/", answer);
        assert!(verified("Basic dXNlcjpwYXNz"));
        assert!(!verified("Basic dXNlcjpwYXNT") && !verified("Basic") && !verified(RFC_2617));
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
