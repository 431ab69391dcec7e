//! The key to the object store, from a file that may be replaced at any time.
//!
//! Invariants: what it holds is never shown: neither it nor an error of it has a `Debug` that does; a file that cannot be read
//! keeps nobody from recording: segments wait in the spool until it can.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;
use serde::Deserialize;

/// The file is not looked at more often.
const LOOK: Duration = Duration::from_secs(5);

/// The file's content.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    access_key_id: String,
    secret_access_key: String,
    session_token: Option<String>,
}

/// Why a file gives no key. Never says what stands in it.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot use the credentials file {}: {detail}; expected TOML with access_key_id, secret_access_key and, if there is one, \
     session_token", .path.display()
)]
pub(super) struct Error {
    path: PathBuf,
    detail: String,
}

/// The key that was read last, and when it was looked for.
struct Known {
    looked: tokio::time::Instant,
    changed: Option<SystemTime>,
    credential: Option<Arc<AwsCredential>>,
}

/// The file.
pub(super) struct File {
    path: PathBuf,
    known: Mutex<Known>,
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("File").field("path", &self.path).finish_non_exhaustive()
    }
}

impl File {
    /// Reads it; if there is no key in it, that is said, and it is looked at again whenever one is needed. Blocks.
    pub(super) fn open(path: PathBuf) -> Self {
        let (changed, credential) = match read(&path) {
            Ok((changed, credential)) => (changed, Some(Arc::new(credential))),
            Err(error) => {
                tracing::error!(%error, "nothing is uploaded until there is a key; segments wait in the spool");
                (None, None)
            }
        };
        let looked = tokio::time::Instant::now();
        Self { path, known: Mutex::new(Known { looked, changed, credential }) }
    }
}

fn read(path: &Path) -> Result<(Option<SystemTime>, AwsCredential), Error> {
    let failed = |detail: String| Error { path: path.into(), detail };
    let changed = std::fs::metadata(path).and_then(|file| file.modified()).ok();
    let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
    // The message only: the error itself shows the line.
    let content: Content = toml::from_str(&text).map_err(|e| failed(e.message().to_owned()))?;
    let Content { access_key_id: key_id, secret_access_key: secret_key, session_token: token } = content;
    if key_id.is_empty() || secret_key.is_empty() {
        return Err(failed("a key is empty".to_owned()));
    }
    Ok((changed, AwsCredential { key_id, secret_key, token }))
}

#[async_trait]
impl CredentialProvider for File {
    type Credential = AwsCredential;

    /// The newest key that could be read. The file is small, and looked at seldom: whoever waits for it does not wait long.
    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.looked.elapsed() >= LOOK {
            known.looked = tokio::time::Instant::now();
            let changed = std::fs::metadata(&self.path).and_then(|file| file.modified()).ok();
            if changed != known.changed || known.credential.is_none() {
                match read(&self.path) {
                    Ok((changed, credential)) => {
                        tracing::info!(path = %self.path.display(), "the key to the object store was replaced");
                        (known.changed, known.credential) = (changed, Some(Arc::new(credential)));
                    }
                    Err(error) if known.credential.is_some() => {
                        tracing::error!(%error, "going on with the key that was read before");
                    }
                    // Whoever asked says so.
                    Err(_) => {}
                }
            }
        }
        known.credential.clone().ok_or_else(|| {
            let path = self.path.display().to_string();
            let source = "there was no key in the file yet".into();
            object_store::Error::Unauthenticated { path, source }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_is_replaced_is_used_and_one_that_makes_no_sense_is_not() {
        let file = write("access_key_id = 'a'\nsecret_access_key = 'hush'");
        let open = File::open(file.path().into());
        assert!(!format!("{open:?}").contains("hush"));
        let rewrite = |text: &str, age_s: u64| {
            std::fs::write(file.path(), text).unwrap();
            let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_420_800 + age_s);
            file.as_file().set_modified(at).unwrap();
        };
        rewrite("access_key_id = 'b'\nsecret_access_key = 'hush'\nsession_token = 't'", 1);
        assert_eq!(open.get_credential().await.unwrap().key_id, "a");
        tokio::time::advance(LOOK).await;
        let credential = open.get_credential().await.unwrap();
        assert_eq!((credential.key_id.as_str(), credential.token.as_deref()), ("b", Some("t")));
        rewrite("access_key_id", 2);
        tokio::time::advance(LOOK).await;
        assert_eq!(open.get_credential().await.unwrap().key_id, "b");
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_comes_later_is_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.toml");
        let open = File::open(path.clone());
        let error = open.get_credential().await.unwrap_err().to_string();
        assert!(error.contains(&*path.to_string_lossy()), "{error}");
        std::fs::write(&path, "access_key_id = 'a'\nsecret_access_key = 'hush'").unwrap();
        tokio::time::advance(LOOK).await;
        assert_eq!(open.get_credential().await.unwrap().key_id, "a");
    }

    #[test]
    fn an_error_says_where_and_never_what() {
        for text in [
            "secret_access_key = 'hush'",
            "access_key_id = 'a'\nsecret_access_key = 'hush'\nx = 'hush'",
            "hush",
            "access_key_id = ''\nsecret_access_key = 'hush'",
            "secret_access_key = hush",
        ] {
            let file = write(text);
            let error = read(file.path()).err().unwrap().to_string();
            assert!(error.contains(&*file.path().to_string_lossy()), "{error}");
            assert!(error.contains("expected TOML") && !error.contains("hush"), "{error}");
        }
    }
}
