//! How recorded video comes to be given out: the key that control seals to this server, and the media server that uses it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use longwatch_events::media::MediaKey;
use longwatch_events::sealed::Base64Bytes;
use longwatch_events::time::Clock;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::Error;
use super::found::Found;
use crate::archive::s3::{self, Bucket};
use crate::config::Config;
use crate::identity::{Opener, Unopened};
use crate::media_server::{self, Listening, Means, MediaServer, Settings, Stored};
use crate::retry::Retry;

/// Between two attempts to listen, after the first and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Takes the key of each welcome. Cheap to clone.
#[derive(Clone)]
pub(super) struct MediaKeys {
    opener: Opener,
    /// Whether this server is to give out video.
    is_wanted: bool,
    key: watch::Sender<Option<MediaKey>>,
}

/// Why a key is none.
#[derive(Debug, thiserror::Error)]
enum NoKey {
    #[error("it is not sealed to this server")]
    NotForUs(#[from] Unopened),
    #[error("it has another length than such keys have")]
    Length,
}

impl MediaKeys {
    /// Opens with this what comes, and hands it on. `is_wanted`: whether this server is to give out video.
    pub(super) fn new(opener: Opener, is_wanted: bool) -> (Self, watch::Receiver<Option<MediaKey>>) {
        let (key, key_out) = watch::channel(None);
        (Self { opener, is_wanted, key }, key_out)
    }

    /// Whether video is to be given out, and there is no key yet.
    pub(super) fn are_missing(&self) -> bool {
        self.is_wanted && self.key.borrow().is_none()
    }

    /// Takes the key of a welcome: from now on only addresses that are signed with it hold. None changes nothing: it may come
    /// from a control of an earlier version, or one that cannot read its own keys for a moment. Nor does one that cannot be
    /// opened.
    pub(super) fn take(&self, sealed: Option<&Base64Bytes>) {
        match sealed.map(|sealed| self.open(sealed)).transpose() {
            Ok(Some(key)) => drop(self.key.send_replace(Some(key))),
            Ok(None) => {}
            Err(error) => tracing::error!(%error, "the key to give out video with cannot be opened"),
        }
    }

    fn open(&self, sealed: &Base64Bytes) -> Result<MediaKey, NoKey> {
        let bytes = Zeroizing::new(self.opener.open(&sealed.0)?);
        MediaKey::from_slice(&bytes).ok_or(NoKey::Length)
    }
}

/// What it takes to give out video. Speaks to the object store by connections of its own: uploads wait for no viewer.
pub(super) fn means(
    config: &Config,
    found: &Found,
    key: watch::Receiver<Option<MediaKey>>,
    clock: Arc<dyn Clock>,
) -> Result<Means, Error> {
    let unpaced = |settings: &s3::Settings| s3::Settings { max_bytes_per_second: None, ..settings.clone() };
    let open = |settings| Bucket::open(&unpaced(settings));
    let stored = Stored {
        roots: found.volumes.iter().map(|volume| Arc::clone(&volume.root)).collect(),
        archive: found.archive.clone(),
        bucket: config.object_store.as_ref().map(open).transpose()?,
    };
    Ok(Means { key, stored: Arc::new(stored), clock })
}

/// Gives out video until `stop` is cancelled. What it takes may come late, as an address does after a boot, and those who
/// record do not wait for it. `url` is how viewers reach it, for as long as they can be answered: it listens, and has a key.
pub(super) async fn keep(
    settings: Settings,
    means: Means,
    url: watch::Sender<Option<String>>,
    stop: CancellationToken,
) {
    let mut retry = Retry::new(RETRY.0, RETRY.1);
    let mut is_said = false;
    // An earlier run of this may have ended by a bug.
    url.send_replace(None);
    loop {
        match begin(&settings, &means, &stop) {
            Ok((mut server, at)) => {
                retry.worked();
                is_said = false;
                tokio::select! {
                    () = server.ended() => {}
                    never = say(at, means.key.clone(), &url) => match never {},
                }
                url.send_replace(None);
            }
            Err(error) if is_said => tracing::debug!(%error, "still no video is given out"),
            Err(error) => {
                tracing::error!(%error, "no video is given out, and this is tried again; recording goes on");
                is_said = true;
            }
        }
        let wait = retry.failed(rand::random());
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

fn begin(
    settings: &Settings,
    means: &Means,
    stop: &CancellationToken,
) -> Result<(MediaServer, String), media_server::Error> {
    let listening = Listening::at(settings)?;
    let url = listening.url().to_owned();
    Ok((listening.serve(means.clone(), stop.clone())?, url))
}

/// Says where it listens as soon as there is a key, which is never taken away again. Does not end.
async fn say(
    at: String,
    mut key: watch::Receiver<Option<MediaKey>>,
    url: &watch::Sender<Option<String>>,
) -> Infallible {
    if key.wait_for(Option::is_some).await.is_ok() {
        url.send_replace(Some(at));
    }
    std::future::pending().await
}

#[cfg(test)]
pub(super) mod tests {
    use longwatch_events::media::{Part, Ticket};
    use longwatch_events::time::Timestamp;

    use super::*;
    use crate::identity::{Home, Identity};

    /// As control seals a key.
    pub(in crate::agent) fn sealed(identity: &Identity, bytes: &[u8]) -> Base64Bytes {
        let key = crypto_box::PublicKey::from(identity.public_key().0);
        Base64Bytes(key.seal(&mut crypto_box::aead::OsRng, bytes).unwrap())
    }

    #[test]
    fn the_key_of_the_last_welcome_counts_and_one_that_is_none_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let identity = Identity::load_or_create(&Home::take(folder.path()).unwrap()).unwrap();
        let (keys, key) = MediaKeys::new(identity.opener(), true);
        let now = Timestamp::from_millis(1_795_420_800_000);
        let expires = now.plus_millis(1_000);
        let ticket = Ticket { key: "k".to_owned(), part: Part::File, start: now, until: None, expires };
        let holds = |byte| {
            let address = MediaKey::from_slice(&[byte; 32]).unwrap().sign(&ticket);
            key.borrow().as_ref().map(|key| key.check("GET", &address, now).is_ok())
        };
        keys.take(None);
        assert_eq!((holds(1), keys.are_missing()), (None, true));
        keys.take(Some(&sealed(&identity, &[1; 32])));
        assert_eq!(holds(1), Some(true));
        keys.take(Some(&sealed(&identity, &[2; 31])));
        keys.take(Some(&Base64Bytes(vec![0; 80])));
        assert_eq!(holds(1), Some(true));
        keys.take(Some(&sealed(&identity, &[2; 32])));
        assert_eq!((holds(1), holds(2)), (Some(false), Some(true)));
        keys.take(None);
        assert_eq!((holds(2), keys.are_missing()), (Some(true), false));
    }

    #[test]
    fn who_gives_out_nothing_misses_no_key() {
        let folder = tempfile::tempdir().unwrap();
        let identity = Identity::load_or_create(&Home::take(folder.path()).unwrap()).unwrap();
        assert!(!MediaKeys::new(identity.opener(), false).0.are_missing());
    }
}
