//! How recorded video comes to be given out: the key that control seals to this server, and the media server that uses it.

use std::sync::Arc;

use longwatch_events::media::MediaKey;
use longwatch_events::sealed::Base64Bytes;
use longwatch_events::time::Clock;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::Error;
use super::found::Found;
use crate::archive::s3::{Bucket, Settings};
use crate::config::Config;
use crate::identity::{Opener, Unopened};
use crate::media_server::{Listening, Means, MediaServer, Stored};

/// Takes the key of each welcome. Cheap to clone.
#[derive(Clone)]
pub(super) struct MediaKeys {
    opener: Opener,
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
    /// Opens with this what comes, and hands it on.
    pub(super) fn new(opener: Opener) -> (Self, watch::Receiver<Option<MediaKey>>) {
        let (key, key_out) = watch::channel(None);
        (Self { opener, key }, key_out)
    }

    /// Takes the key of a welcome: from now on only addresses that are signed with it hold. Without one, none does. One that
    /// cannot be opened changes nothing.
    pub(super) fn take(&self, sealed: Option<&Base64Bytes>) {
        match sealed.map(|sealed| self.open(sealed)).transpose() {
            Ok(key) => drop(self.key.send_replace(key)),
            Err(error) => tracing::error!(%error, "the key to give out video with cannot be opened"),
        }
    }

    fn open(&self, sealed: &Base64Bytes) -> Result<MediaKey, NoKey> {
        let bytes = Zeroizing::new(self.opener.open(&sealed.0)?);
        MediaKey::from_slice(&bytes).ok_or(NoKey::Length)
    }
}

/// Takes the address on which video is to be given out, if it is to be.
pub(super) fn listen(config: &Config) -> Result<Option<Listening>, Error> {
    Ok(config.media.as_ref().map(Listening::at).transpose()?)
}

/// Begins to answer there. Speaks to the object store by connections of its own: uploads wait for no viewer.
pub(super) fn serve(
    listening: Listening,
    config: &Config,
    found: &Found,
    key: watch::Receiver<Option<MediaKey>>,
    clock: Arc<dyn Clock>,
    stop: &CancellationToken,
) -> Result<MediaServer, Error> {
    let unpaced = |settings: &Settings| Settings { max_bytes_per_second: None, ..settings.clone() };
    let open = |settings| Bucket::open(&unpaced(settings));
    let stored = Stored {
        roots: found.volumes.iter().map(|volume| Arc::clone(&volume.root)).collect(),
        archive: found.archive.clone(),
        bucket: config.object_store.as_ref().map(open).transpose()?,
    };
    Ok(listening.serve(Means { key, stored, clock }, stop.clone())?)
}

#[cfg(test)]
mod tests {
    use longwatch_events::media::{Part, Ticket};
    use longwatch_events::time::Timestamp;

    use super::*;
    use crate::identity::{Home, Identity};

    fn sealed(identity: &Identity, bytes: &[u8]) -> Base64Bytes {
        let key = crypto_box::PublicKey::from(identity.public_key().0);
        Base64Bytes(key.seal(&mut crypto_box::aead::OsRng, bytes).unwrap())
    }

    #[test]
    fn the_key_of_the_last_welcome_counts_and_one_that_is_none_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let identity = Identity::load_or_create(&Home::take(folder.path()).unwrap()).unwrap();
        let (keys, key) = MediaKeys::new(identity.opener());
        let now = Timestamp::from_millis(1_795_420_800_000);
        let expires = now.plus_millis(1_000);
        let ticket = Ticket { key: "k".to_owned(), part: Part::File, start: now, until: None, expires };
        let holds = |byte| {
            let address = MediaKey::from_slice(&[byte; 32]).unwrap().sign(&ticket);
            key.borrow().as_ref().map(|key| key.check("GET", &address, now).is_ok())
        };
        assert_eq!(holds(1), None);
        keys.take(Some(&sealed(&identity, &[1; 32])));
        assert_eq!(holds(1), Some(true));
        keys.take(Some(&sealed(&identity, &[2; 31])));
        keys.take(Some(&Base64Bytes(vec![0; 80])));
        assert_eq!(holds(1), Some(true));
        keys.take(Some(&sealed(&identity, &[2; 32])));
        assert_eq!((holds(1), holds(2)), (Some(false), Some(true)));
        keys.take(None);
        assert_eq!(holds(2), None);
    }
}
