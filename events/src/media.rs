//! Addresses of recorded video, signed: control gives them out, and the server that has the video answers nothing else.
//!
//! `/media/<segment's key>/<part>?start=<µs>[&until=<µs>]&expires=<s>&signature=<hex>`: `start` is when the segment's first frame
//! was, in microseconds since the Unix epoch, `until` up to when its media are given out if not to their end, `expires` when the
//! address ends to hold, in seconds since it. The signature is
//! HMAC-SHA256 (RFC 2104) over [`SCHEME`], the method and all that stands before `&signature=`, each ended by a line feed, keyed
//! with a key that only control and that server have. So an address holds for one method, one part of one segment of one
//! tenant's camera on one server, and until then.
//!
//! Invariant: nothing of an address is believed before its signature fits, and the comparison takes the same time whatever is
//! wrong.

use hmac::{Hmac, KeyInit as _, Mac as _};
use zeroize::Zeroizing;

use crate::time::Timestamp;

/// What stands before everything that is signed, so that no other use of the key can be taken for this one.
pub const SCHEME: &str = "longwatch/media/v1";
/// What every address begins with.
pub const PREFIX: &str = "/media/";
/// The only method there is: whoever may read may not do anything else.
pub const METHOD: &str = "GET";

type HmacSha256 = Hmac<sha2::Sha256>;

/// The key that one server and control share. Neither shown nor written by accident.
#[derive(Clone)]
pub struct MediaKey(Zeroizing<[u8; 32]>);

/// What is asked for of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// What a player needs before any media: the header of the file, up to and with `moov`.
    Init,
    /// The fragments behind the header, with decode times counted from the Unix epoch: so all segments of a camera, whoever
    /// recorded them, are on one time line (ISO/IEC 14496-12, section 8.8.12).
    Media,
    /// The file as it was recorded.
    File,
}

/// What an address gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// The segment's key in the archive.
    pub key: String,
    /// Which part of it.
    pub part: Part,
    /// When its first frame was.
    pub start: Timestamp,
    /// Of [`Part::Media`]: only fragments whose first sample of video comes before this are given out; `None`: all. Another
    /// server's segment goes on from there.
    pub until: Option<Timestamp>,
    /// When the address ends to hold; whole seconds.
    pub expires: Timestamp,
}

/// Why nothing is answered to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is none, or another one than was signed; the server does not say which.
    #[error("this address was not given out for this; ask for the playlist again")]
    NotSigned,
    /// It held once.
    #[error("this address has expired; ask for the playlist again")]
    Expired,
}

impl Part {
    /// Its name, the last part of the path.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Init => "init.mp4",
            Self::Media => "media.m4s",
            Self::File => "segment.mp4",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        [Self::Init, Self::Media, Self::File].into_iter().find(|part| part.as_str() == name)
    }
}

impl Ticket {
    /// Path and query without the signature.
    fn unsigned(&self) -> String {
        let Self { key, part, start, until, expires } = self;
        let (part, start, expires) =
            (part.as_str(), start.as_micros(), expires.as_millis().div_euclid(1_000));
        let until = until.map(|until| format!("&until={}", until.as_micros())).unwrap_or_default();
        format!("{PREFIX}{key}/{part}?start={start}{until}&expires={expires}")
    }

    /// Reads what [`Self::unsigned`] wrote, and only that spelling.
    fn parse(unsigned: &str) -> Option<Self> {
        let (path, query) = unsigned.strip_prefix(PREFIX)?.split_once('?')?;
        let (key, part) = path.rsplit_once('/')?;
        let (times, expires) = query.strip_prefix("start=")?.split_once("&expires=")?;
        let (start, until) =
            times.split_once("&until=").map_or((times, None), |(start, until)| (start, Some(until)));
        let expires: i64 = expires.parse().ok()?;
        let until = until.map(|until| until.parse().map(Timestamp::from_micros)).transpose().ok()?;
        let ticket = Self {
            key: key.to_owned(),
            part: Part::parse(part)?,
            start: Timestamp::from_micros(start.parse().ok()?),
            until,
            expires: Timestamp::from_millis(expires.checked_mul(1_000)?),
        };
        (ticket.unsigned() == unsigned).then_some(ticket)
    }
}

impl MediaKey {
    /// The key made of these bytes.
    pub fn new(bytes: Zeroizing<[u8; 32]>) -> Self {
        Self(bytes)
    }

    /// The key made of these bytes, if they are as many as they should be.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        Some(Self(Zeroizing::new(bytes.try_into().ok()?)))
    }

    fn mac(&self, method: &str, unsigned: &str) -> Option<HmacSha256> {
        let mut mac = HmacSha256::new_from_slice(self.0.as_slice()).ok()?;
        for line in [SCHEME, method, unsigned] {
            mac.update(line.as_bytes());
            mac.update(b"\n");
        }
        Some(mac)
    }

    /// The address of what `ticket` gives: path and query, without scheme and host.
    pub fn sign(&self, ticket: &Ticket) -> String {
        let unsigned = ticket.unsigned();
        let signature = self.mac(METHOD, &unsigned).map(|mac| hex::encode(mac.finalize().into_bytes()));
        format!("{unsigned}&signature={}", signature.unwrap_or_default())
    }

    /// What `path_and_query` gives to whoever asks by `method`.
    ///
    /// # Errors
    /// [`Refused`], if it was not signed with this key for this method, or does not hold any more.
    pub fn check(&self, method: &str, path_and_query: &str, now: Timestamp) -> Result<Ticket, Refused> {
        let (unsigned, signature) = path_and_query.split_once("&signature=").ok_or(Refused::NotSigned)?;
        // As it is written and no other way: an address has one spelling.
        let is_lower = signature.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        let signature = hex::decode(signature).ok().filter(|_| is_lower).ok_or(Refused::NotSigned)?;
        let mac = self.mac(method, unsigned).ok_or(Refused::NotSigned)?;
        mac.verify_slice(&signature).map_err(|_| Refused::NotSigned)?;
        let ticket = Ticket::parse(unsigned).filter(|_| method == METHOD).ok_or(Refused::NotSigned)?;
        if ticket.expires <= now {
            return Err(Refused::Expired);
        }
        Ok(ticket)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_795_420_800_000);
    const KEY: &str = "t/c/2026-11-23/08-00-00.000Z_42_s.mp4";

    fn key(byte: u8) -> MediaKey {
        MediaKey::new(Zeroizing::new([byte; 32]))
    }

    fn ticket(part: Part) -> Ticket {
        let (start, expires) = (NOW.plus_micros(7), NOW.plus_millis(60_000));
        Ticket { key: KEY.to_owned(), part, start, until: None, expires }
    }

    #[test]
    fn an_address_looks_as_promised_and_gives_what_it_was_signed_for() {
        let address = key(1).sign(&ticket(Part::Media));
        let expected = format!("/media/{KEY}/media.m4s?start=1795420800000007&expires=1795420860&signature=");
        let signature = address.strip_prefix(&expected).unwrap();
        assert_eq!(signature.len(), 64);
        let cut = Ticket { until: Some(NOW.plus_micros(9)), ..ticket(Part::Media) };
        let address = key(1).sign(&cut);
        assert!(address.contains("?start=1795420800000007&until=1795420800000009&expires="), "{address}");
        assert_eq!(key(1).check("GET", &address, NOW), Ok(cut));
        for part in [Part::Init, Part::Media, Part::File] {
            let address = key(1).sign(&ticket(part));
            assert_eq!(key(1).check("GET", &address, NOW), Ok(ticket(part)));
            assert_eq!(key(1).check("GET", &address, NOW.plus_millis(60_000)), Err(Refused::Expired));
            assert_eq!(key(1).check("HEAD", &address, NOW), Err(Refused::NotSigned));
            assert_eq!(key(2).check("GET", &address, NOW), Err(Refused::NotSigned), "of another server");
        }
    }

    #[test]
    fn whatever_is_changed_is_refused() {
        let address = key(1).sign(&ticket(Part::Media));
        let changed = [
            address.replace("t/c/", "u/c/"),
            address.replace("media.m4s", "segment.mp4"),
            address.replace("start=1", "start=2"),
            address.replace("expires=1", "expires=2"),
            address.replace("signature=", "signature=0"),
            address.to_uppercase(),
            format!("{address}&x=1"),
            address.replace("?start", "/?start"),
            address.split("&signature").next().unwrap().to_owned(),
            String::new(),
        ];
        for changed in changed {
            assert_eq!(key(1).check("GET", &changed, NOW), Err(Refused::NotSigned), "{changed}");
        }
    }

    proptest! {
        #[test]
        fn one_changed_character_is_refused(at in 0_usize..1_000, to in "[ -~]") {
            let address = key(1).sign(&ticket(Part::File));
            let at = at % address.len();
            let mut changed = address.clone();
            changed.replace_range(at..=at, &to);
            prop_assume!(changed != address);
            prop_assert_eq!(key(1).check("GET", &changed, NOW), Err(Refused::NotSigned));
        }

        #[test]
        fn any_text_is_refused(text in "\\PC*") {
            prop_assert_eq!(key(1).check("GET", &text, NOW), Err(Refused::NotSigned));
        }
    }
}
