//! Who this worker is: its folder `ARCHIVE/.longwatch`, its key pair, and which server it is known as.
//!
//! Invariants: two workers never share an archive; the key pair is made once and never replaced, because the addresses
//! of all cameras are sealed to it; an identity that cannot be read is an error, never a reason to make a new one.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crypto_box::SecretKey;
use crypto_box::aead::OsRng;
use longwatch_events::assignment::SourceSecret;
use longwatch_events::id::ServerId;
use longwatch_events::sealed::PublicKey;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::archive::layout::STATE_FOLDER;
use crate::durable;

/// Why a worker cannot be who it is.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// One archive, one worker.
    #[error(
        "another worker uses the archive {}: stop it, or give this worker an archive of its own", .archive.display()
    )]
    InUse {
        /// The archive.
        archive: PathBuf,
    },
    /// The disk said no.
    #[error("cannot {step} {}: {source}", .path.display())]
    Io {
        /// What was being done.
        step: &'static str,
        /// To which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not an identity of this version.
    #[error(
        "{} is not an identity this version can read ({detail}): put back a good copy; or, to start as a new server, \
         move the file away", .path.display()
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
}

/// A source that is not for this worker, or is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unopened {
    /// Sealed to another key, or damaged.
    #[error("the camera's address is not sealed to this server's key, or was damaged on its way")]
    NotForUs,
    /// Opened, and not understood.
    #[error("the camera's address was opened, but this version does not understand it")]
    NotUnderstood,
}

/// The worker's own folder, held by this process until it is dropped.
#[derive(Debug)]
pub struct Home {
    folder: PathBuf,
    /// Locked (flock(2)): the system releases it however this process ends.
    _lock: File,
}

impl Home {
    /// Takes the folder in `archive`, making both if they are missing.
    ///
    /// # Errors
    ///
    /// [`Error::InUse`] if another process holds it, [`Error::Io`] if the disk fails.
    pub fn take(archive: &Path) -> Result<Self, Error> {
        let folder = archive.join(STATE_FOLDER);
        let failed = |step, path: &Path, source| Error::Io { step, path: path.into(), source };
        std::fs::create_dir_all(archive).map_err(|e| failed("create", archive, e))?;
        durable::create_private_folder(&folder).map_err(|e| failed("create", &folder, e))?;
        let path = folder.join("lock");
        let lock = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|e| failed("open", &path, e))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { folder, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(Error::InUse { archive: archive.into() }),
            Err(TryLockError::Error(e)) => Err(failed("lock", &path, e)),
        }
    }

    /// The place of a file or folder in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// The key pair and the server it belongs to. The secret key never leaves this module.
pub struct Identity {
    path: PathBuf,
    secret: SecretKey,
    membership: Option<Membership>,
}

/// Opens what was sealed to an identity.
#[derive(Clone)]
pub struct Opener(SecretKey);

impl Opener {
    /// Opens what was sealed to the identity's public key (libsodium's `crypto_box_seal`).
    ///
    /// # Errors
    ///
    /// If it was not.
    pub fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, Unopened> {
        self.0.unseal(sealed).map_err(|_| Unopened::NotForUs)
    }
}

/// What control said at the last successful join.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// The server this worker is.
    pub server_id: ServerId,
    /// Whether it belongs to the system.
    pub adopted: bool,
}

/// An identity on its way to the disk.
#[must_use]
pub struct Unsaved {
    path: PathBuf,
    bytes: Zeroizing<Vec<u8>>,
}

impl Unsaved {
    /// Writes it. Blocks.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if it cannot be written; the older one is then still there.
    pub fn save(self) -> Result<(), Error> {
        let Self { path, bytes } = self;
        durable::replace(&path, &bytes).map_err(|source| Error::Io { step: "write", path, source })
    }
}

const VERSION: u32 = 1;

/// The file: JSON.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
struct Stored {
    version: u32,
    /// 64 hexadecimal digits.
    secret_key: String,
    #[zeroize(skip)]
    membership: Option<Membership>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("public_key", &self.public_key())
            .field("membership", &self.membership)
            .finish_non_exhaustive()
    }
}

impl Identity {
    /// Reads the identity in `home`, or makes one if there is none.
    ///
    /// # Errors
    ///
    /// [`Error::Unreadable`] if there is one that makes no sense, [`Error::Io`] if the disk fails.
    pub fn load_or_create(home: &Home) -> Result<Self, Error> {
        let path = home.path("identity.json");
        let failed = |source| Error::Io { step: "read", path: path.clone(), source };
        match durable::read(&path).map_err(failed)?.map(Zeroizing::new) {
            Some(bytes) => {
                Self::read(&path, &bytes).map_err(|detail| Error::Unreadable { path: path.clone(), detail })
            }
            None => {
                let identity = Self { path, secret: SecretKey::generate(&mut OsRng), membership: None };
                identity.save()?;
                Ok(identity)
            }
        }
    }

    fn read(path: &Path, bytes: &[u8]) -> Result<Self, String> {
        // The parser's own message could quote the key.
        let stored: Stored = serde_json::from_slice(bytes)
            .map_err(|e| format!("line {} column {} is not as expected", e.line(), e.column()))?;
        if stored.version != VERSION {
            return Err(format!("it has version {}, expected {VERSION}", stored.version));
        }
        let mut key = Zeroizing::new([0_u8; 32]);
        hex::decode_to_slice(&stored.secret_key, key.as_mut_slice())
            .map_err(|_| "its key is not 64 hexadecimal digits".to_owned())?;
        Ok(Self { path: path.into(), secret: SecretKey::from_bytes(*key), membership: stored.membership })
    }

    fn save(&self) -> Result<(), Error> {
        self.unsaved().save()
    }

    fn unsaved(&self) -> Unsaved {
        let stored = Stored {
            version: VERSION,
            secret_key: hex::encode(Zeroizing::new(self.secret.to_bytes())),
            membership: self.membership,
        };
        let bytes = Zeroizing::new(
            serde_json::to_vec_pretty(&stored).expect("invariant: strings and numbers always become JSON"),
        );
        Unsaved { path: self.path.clone(), bytes }
    }

    /// What control said last.
    pub const fn membership(&self) -> Option<Membership> {
        self.membership
    }

    /// Remembers what control said until the process ends; for longer, if it is new, once what is returned is saved.
    pub fn remember(&mut self, membership: Membership) -> Option<Unsaved> {
        (self.membership.replace(membership) != Some(membership)).then(|| self.unsaved())
    }

    /// The key that sources are sealed to.
    pub fn public_key(&self) -> PublicKey {
        PublicKey(self.secret.public_key().to_bytes())
    }

    /// What opens bytes that were sealed to [`Self::public_key`], for a part of the worker that is not at home here.
    pub fn opener(&self) -> Opener {
        Opener(self.secret.clone())
    }

    /// Opens what was sealed to [`Self::public_key`] (libsodium's `crypto_box_seal`).
    ///
    /// # Errors
    ///
    /// If it was not, or holds no camera's address.
    pub fn open(&self, sealed: &[u8]) -> Result<SourceSecret, Unopened> {
        let plaintext = Zeroizing::new(self.secret.unseal(sealed).map_err(|_| Unopened::NotForUs)?);
        SourceSecret::from_plaintext(&plaintext).map_err(|_| Unopened::NotUnderstood)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use longwatch_events::id::SystemIds;
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt;

    fn sealed_to(identity: &Identity, plaintext: &[u8]) -> Vec<u8> {
        crypto_box::PublicKey::from(identity.public_key().0).seal(&mut OsRng, plaintext).unwrap()
    }

    #[test]
    fn an_identity_is_made_once_and_kept() {
        let archive = tempfile::tempdir().unwrap();
        let membership = Membership { server_id: ServerId::generate(&SystemIds), adopted: true };
        let first = {
            let home = Home::take(archive.path()).unwrap();
            let mut identity = Identity::load_or_create(&home).unwrap();
            identity.remember(membership).expect("it is new").save().unwrap();
            assert!(identity.remember(membership).is_none());
            identity.public_key()
        };
        let home = Home::take(archive.path()).unwrap();
        let again = Identity::load_or_create(&home).unwrap();
        assert_eq!((again.public_key(), again.membership()), (first, Some(membership)));
        let mode = std::fs::metadata(home.path("identity.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn one_archive_has_one_worker() {
        let archive = tempfile::tempdir().unwrap();
        let home = Home::take(archive.path()).unwrap();
        assert!(matches!(Home::take(archive.path()), Err(Error::InUse { .. })));
        drop(home);
        assert!(Home::take(archive.path()).is_ok());
    }

    #[test]
    fn an_unreadable_identity_is_never_replaced() {
        let archive = tempfile::tempdir().unwrap();
        let home = Home::take(archive.path()).unwrap();
        let path = home.path("identity.json");
        for content in [
            "",
            "{}",
            r#"{"version":2,"secret_key":"00","membership":null}"#,
            r#"{"version":1,"secret_key":"5ec2e7","membership":null}"#,
        ] {
            std::fs::write(&path, content).unwrap();
            let error = Identity::load_or_create(&home).unwrap_err();
            assert!(matches!(error, Error::Unreadable { .. }), "{error}");
            assert!(!error.to_string().contains("5ec2e7"), "{error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
        }
    }

    #[test]
    fn only_this_worker_opens_what_is_sealed_to_it() {
        let archives = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [ours, other] = archives
            .each_ref()
            .map(|archive| Identity::load_or_create(&Home::take(archive.path()).unwrap()).unwrap());
        let source =
            SourceSecret { url: "rtsp://10.0.0.7/1".into(), username: None, password: Some("p".into()) };
        let sealed = sealed_to(&ours, &source.to_plaintext());
        assert!(ours.open(&sealed).is_ok_and(|opened| opened == source));
        assert_eq!(other.open(&sealed).err(), Some(Unopened::NotForUs));
        assert_eq!(ours.open(&sealed_to(&ours, b"{}")).err(), Some(Unopened::NotUnderstood));
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_wild(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let identity = Identity { path: PathBuf::new(), secret: SecretKey::from([7; 32]), membership: None };
            prop_assert!(identity.open(&bytes).is_err());
            prop_assert!(Identity::read(Path::new("x"), &bytes).is_err());
        }
    }
}
