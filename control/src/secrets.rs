//! Sealing and opening what must not stand in the log as it is.
//!
//! Three layers: a *master key* in a file of the provider wraps a *data key* per tenant, which seals that tenant's
//! secrets (AES-256-GCM, NIST SP 800-38D). What a worker needs is opened here and sealed anew to that worker's own
//! public key (`crypto_box_seal` of libsodium). Destroying a data key destroys everything sealed with it.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, RandomizedNonceKey};
use aws_lc_rs::hmac;
use crypto_box::aead::OsRng;
use longwatch_events::assignment::{InvalidSource, SourceSecret};
use longwatch_events::id::{EventId, ServerId, TenantId};
use longwatch_events::sealed::{Base64Bytes, PublicKey, Sealed, WrappedKey};
use rand::RngExt as _;
use zeroize::Zeroizing;

use crate::keys;

/// The name of the one key provider there is: a file.
const PROVIDER: &str = "file";

/// What stands before each master key, so that a person recognises it.
const MASTER_PREFIX: &str = "lwm_";

/// Why a secret can be neither sealed nor opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The tenant is not there, so there is no key to seal with.
    #[error("tenant {0} has no data key")]
    NoDataKey(TenantId),
    /// The master key is not the one the data key was wrapped with.
    #[error(
        "the master key in {path} does not open the data key of tenant {tenant_id}; use the key file this system was started with first"
    )]
    WrongMasterKey {
        /// Whose data key.
        tenant_id: TenantId,
        /// Which file.
        path: String,
    },
    /// The sealed bytes were changed, or moved from another tenant, event or field.
    #[error("a secret of tenant {0} is not what was sealed")]
    Tampered(TenantId),
    /// Opened, but not what was expected.
    #[error(transparent)]
    Source(#[from] InvalidSource),
    /// The master key's file.
    #[error(transparent)]
    Key(#[from] keys::Error),
    /// The data key needs a provider this version does not have.
    #[error(
        "the data key of tenant {tenant_id} was wrapped by provider `{provider}`, which this version does not know"
    )]
    UnknownProvider {
        /// Whose.
        tenant_id: TenantId,
        /// By what.
        provider: String,
    },
    /// The cryptographic library failed.
    #[error("cannot seal: the cryptographic library refused")]
    Sealing,
}

type Bytes32 = Zeroizing<[u8; 32]>;

/// Seals and opens with the master key in a file. The file is made with the first data key and never again: a master
/// key that is missing later was lost or moved away, and another one in its place would open nothing.
pub struct Secrets {
    path: PathBuf,
    master: Mutex<Option<Bytes32>>,
}

impl Secrets {
    /// Secrets whose master key stands, or will stand, in `path`.
    pub fn in_file(path: PathBuf) -> Self {
        Self { path, master: Mutex::new(None) }
    }

    /// A new data key for `tenant_id`, wrapped. `may_create_master`: there is no data key yet that the master key
    /// would have to unwrap, so that it may be made if it is missing.
    ///
    /// # Errors
    /// If the master key cannot be read, or made.
    pub fn new_data_key(&self, tenant_id: TenantId, may_create_master: bool) -> Result<WrappedKey, Error> {
        if may_create_master {
            keys::load_or_create(&self.path, MASTER_PREFIX)?;
        }
        let data_key = Zeroizing::new(rand::rng().random::<[u8; 32]>());
        let wrapped = seal(&*self.master()?, &data_key_context(tenant_id), data_key.as_slice())?;
        Ok(WrappedKey { provider: PROVIDER.to_owned(), bytes: Base64Bytes(wrapped) })
    }

    /// Seals a camera's source for the event `event_id` of `tenant_id`.
    ///
    /// # Errors
    /// If `data_key` cannot be unwrapped.
    pub fn seal_source(
        &self,
        tenant_id: TenantId,
        data_key: &WrappedKey,
        event_id: EventId,
        source: &SourceSecret,
    ) -> Result<Sealed, Error> {
        let key = self.unwrap(tenant_id, data_key)?;
        let bytes = seal(&key, &source_context(tenant_id, event_id), &source.to_plaintext())?;
        Ok(Sealed { sealed_in: event_id, bytes: Base64Bytes(bytes) })
    }

    /// Opens what [`Self::seal_source`] sealed.
    ///
    /// # Errors
    /// If `data_key` cannot be unwrapped, or the bytes were changed or moved.
    pub fn open_source(
        &self,
        tenant_id: TenantId,
        data_key: &WrappedKey,
        sealed: &Sealed,
    ) -> Result<SourceSecret, Error> {
        let key = self.unwrap(tenant_id, data_key)?;
        let plaintext = open(&key, &source_context(tenant_id, sealed.sealed_in), &sealed.bytes.0)
            .ok_or(Error::Tampered(tenant_id))?;
        Ok(SourceSecret::from_plaintext(&plaintext)?)
    }

    /// The key by which addresses of video on `server_id` are signed, whose worker holds the private key of `public_key`. It
    /// follows from the master key, so every replica has it and none keeps it.
    ///
    /// # Errors
    /// If the master key cannot be read.
    pub fn media_key(&self, server_id: ServerId, public_key: &PublicKey) -> Result<Bytes32, Error> {
        let master = self.master()?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, master.as_slice());
        let tag = hmac::sign(&key, media_key_context(server_id, public_key).as_bytes());
        Ok(Zeroizing::new(tag.as_ref().try_into().map_err(|_| Error::Sealing)?))
    }

    fn unwrap(&self, tenant_id: TenantId, data_key: &WrappedKey) -> Result<Bytes32, Error> {
        if data_key.provider != PROVIDER {
            return Err(Error::UnknownProvider { tenant_id, provider: data_key.provider.clone() });
        }
        let wrong = || Error::WrongMasterKey { tenant_id, path: self.path.display().to_string() };
        let Some(bytes) = open(&*self.master()?, &data_key_context(tenant_id), &data_key.bytes.0) else {
            // The right one may be put in its place: the file is read again next time.
            self.remembered().take();
            return Err(wrong());
        };
        Ok(Zeroizing::new(bytes.as_slice().try_into().map_err(|_| wrong())?))
    }

    fn remembered(&self) -> MutexGuard<'_, Option<Bytes32>> {
        self.master.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn master(&self) -> Result<Bytes32, Error> {
        let mut master = self.remembered();
        if let Some(key) = &*master {
            return Ok(key.clone());
        }
        let key = read_master(&self.path)?;
        *master = Some(key.clone());
        Ok(key)
    }
}

fn read_master(path: &Path) -> Result<Bytes32, Error> {
    let key = keys::load(path)?;
    // Whatever the file holds becomes 256 bits; a file made here holds that much randomness.
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, key.as_bytes());
    let bytes = digest.as_ref().try_into().map_err(|_| Error::Sealing)?;
    Ok(Zeroizing::new(bytes))
}

/// Seals a camera's source to one worker: only the holder of the private key opens it.
///
/// # Errors
/// If the cryptographic library fails.
pub fn seal_to_worker(public_key: &PublicKey, source: &SourceSecret) -> Result<Base64Bytes, Error> {
    seal_bytes_to_worker(public_key, &source.to_plaintext())
}

/// Seals what is meant for one worker: only the holder of the private key opens it.
///
/// # Errors
/// If the cryptographic library fails.
pub fn seal_bytes_to_worker(public_key: &PublicKey, plaintext: &[u8]) -> Result<Base64Bytes, Error> {
    crypto_box::PublicKey::from(public_key.0)
        .seal(&mut OsRng, plaintext)
        .map(Base64Bytes)
        .map_err(|_| Error::Sealing)
}

fn data_key_context(tenant_id: TenantId) -> String {
    format!("longwatch/v1/data-key/{tenant_id}")
}

fn source_context(tenant_id: TenantId, event_id: EventId) -> String {
    format!("longwatch/v1/{tenant_id}/{event_id}/source")
}

fn media_key_context(server_id: ServerId, public_key: &PublicKey) -> String {
    format!("longwatch/v1/media-key/{server_id}/{}", hex::encode(public_key.0))
}

/// Nonce, ciphertext, tag.
fn seal(key: &[u8; 32], context: &str, plaintext: &[u8]) -> Result<Vec<u8>, Error> {
    let key = RandomizedNonceKey::new(&AES_256_GCM, key).map_err(|_| Error::Sealing)?;
    let mut ciphertext = plaintext.to_vec();
    let nonce = key
        .seal_in_place_append_tag(Aad::from(context.as_bytes()), &mut ciphertext)
        .map_err(|_| Error::Sealing)?;
    Ok([nonce.as_ref().as_slice(), &ciphertext].concat())
}

fn open(key: &[u8; 32], context: &str, bytes: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let key = RandomizedNonceKey::new(&AES_256_GCM, key).ok()?;
    let (nonce, ciphertext) = bytes.split_at_checked(NONCE_LEN)?;
    let nonce = aws_lc_rs::aead::Nonce::try_assume_unique_for_key(nonce).ok()?;
    let mut plaintext = Zeroizing::new(ciphertext.to_vec());
    let length = key.open_in_place(nonce, Aad::from(context.as_bytes()), &mut plaintext).ok()?.len();
    plaintext.truncate(length);
    Some(plaintext)
}

#[cfg(test)]
mod tests {
    use longwatch_events::id::SystemIds;

    use super::*;

    fn source() -> SourceSecret {
        SourceSecret { url: "rtsp://h/1".into(), username: Some("u".into()), password: Some("p".into()) }
    }

    #[test]
    fn a_secret_opens_only_where_it_was_sealed() {
        let folder = tempfile::tempdir().unwrap();
        let secrets = Secrets::in_file(folder.path().join("master.key"));
        let (a, b) = (TenantId::DEFAULT, TenantId::generate(&SystemIds));
        let (key_a, key_b) =
            (secrets.new_data_key(a, true).unwrap(), secrets.new_data_key(b, false).unwrap());
        let event = EventId::generate(&SystemIds);
        let sealed = secrets.seal_source(a, &key_a, event, &source()).unwrap();

        assert!(secrets.open_source(a, &key_a, &sealed).is_ok_and(|opened| opened == source()));
        assert!(matches!(secrets.open_source(b, &key_b, &sealed), Err(Error::Tampered(_))));
        assert!(matches!(secrets.open_source(b, &key_a, &sealed), Err(Error::WrongMasterKey { .. })));
        let moved = Sealed { sealed_in: EventId::generate(&SystemIds), ..sealed.clone() };
        assert!(matches!(secrets.open_source(a, &key_a, &moved), Err(Error::Tampered(_))));
        let mut flipped = sealed;
        flipped.bytes.0[14] ^= 1;
        assert!(matches!(secrets.open_source(a, &key_a, &flipped), Err(Error::Tampered(_))));
    }

    #[test]
    fn each_server_has_a_media_key_of_its_own_which_every_replica_has() {
        let folder = tempfile::tempdir().unwrap();
        let replica = || Secrets::in_file(folder.path().join("master.key"));
        replica().new_data_key(TenantId::DEFAULT, true).unwrap();
        let (server, other) = (ServerId::generate(&SystemIds), ServerId::generate(&SystemIds));
        let (worker, another) = (PublicKey([1; 32]), PublicKey([2; 32]));
        let key = |server, worker: &PublicKey| replica().media_key(server, worker).unwrap();
        assert_eq!(key(server, &worker), key(server, &worker));
        assert_ne!(key(server, &worker), key(other, &worker));
        assert_ne!(key(server, &worker), key(server, &another), "a worker that takes its place is another");
        let elsewhere = Secrets::in_file(folder.path().join("another.key"));
        assert!(elsewhere.media_key(server, &worker).is_err(), "there is no master key");
    }

    #[test]
    fn another_master_key_opens_nothing_and_says_which_file() {
        let folder = tempfile::tempdir().unwrap();
        let first = Secrets::in_file(folder.path().join("first.key"));
        let other = Secrets::in_file(folder.path().join("other.key"));
        let key = first.new_data_key(TenantId::DEFAULT, true).unwrap();
        other.new_data_key(TenantId::DEFAULT, true).unwrap();
        let event = EventId::generate(&SystemIds);
        let error = other.seal_source(TenantId::DEFAULT, &key, event, &source()).unwrap_err();
        assert!(error.to_string().contains("other.key"), "{error}");

        std::fs::copy(folder.path().join("first.key"), folder.path().join("other.key")).unwrap();
        assert!(
            other.seal_source(TenantId::DEFAULT, &key, event, &source()).is_ok(),
            "the right key is back"
        );
    }

    #[test]
    fn a_master_key_that_is_missing_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("master.key");
        let (tenant, event) = (TenantId::DEFAULT, EventId::generate(&SystemIds));
        let first = Secrets::in_file(path.clone());
        let key = first.new_data_key(tenant, true).unwrap();
        let sealed = first.seal_source(tenant, &key, event, &source()).unwrap();
        let away = folder.path().join("away.key");
        std::fs::rename(&path, &away).unwrap();

        let restarted = Secrets::in_file(path.clone());
        assert!(matches!(restarted.open_source(tenant, &key, &sealed), Err(Error::Key(_))));
        assert!(matches!(restarted.seal_source(tenant, &key, event, &source()), Err(Error::Key(_))));
        assert!(matches!(restarted.new_data_key(tenant, false), Err(Error::Key(_))));
        assert!(!path.exists());

        std::fs::rename(&away, &path).unwrap();
        assert!(restarted.open_source(tenant, &key, &sealed).is_ok_and(|opened| opened == source()));
    }

    #[test]
    fn a_worker_opens_what_was_sealed_to_it() {
        let secret_key = crypto_box::SecretKey::generate(&mut OsRng);
        let public_key = PublicKey(*secret_key.public_key().as_bytes());
        let sealed = seal_to_worker(&public_key, &source()).unwrap();
        let opened = SourceSecret::from_plaintext(&secret_key.unseal(&sealed.0).unwrap());
        assert!(opened.is_ok_and(|opened| opened == source()));
    }
}
