//! Which object store the archive is uploaded to: as it says itself, and as this server remembers it. `store.json`.
//!
//! A store that lost the object in which that stands (a lifecycle rule takes all that is old) gets it back with the same id,
//! as long as anybody who uses it remembers: else nobody would look after what lies there.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use longwatch_events::id::{StoreId, SystemIds};
use serde::{Deserialize, Serialize};

use crate::archive::s3::{self, Bucket, Settings};
use crate::durable;

/// The file's name.
pub(super) const FILE: &str = "store.json";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    /// How it is reached: of another place nothing is remembered.
    place: String,
    store_id: StoreId,
}

/// What is known.
#[derive(Debug)]
pub(super) struct WhichStore {
    bucket: Bucket,
    path: PathBuf,
    place: String,
    state: Mutex<State>,
    /// One asks at a time.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    remembered: Option<StoreId>,
    /// As it said itself, in this run.
    said: Option<StoreId>,
}

impl WhichStore {
    /// As an earlier run left it. Blocks.
    pub(super) fn load(path: PathBuf, settings: &Settings, bucket: Bucket) -> Self {
        let Settings { bucket: name, prefix, endpoint, .. } = settings;
        let place = format!("{} {name} {prefix}", endpoint.as_deref().unwrap_or("aws"));
        let remembered = read(&path).unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "cannot read which object store it was; it is asked");
            None
        });
        let remembered = remembered.filter(|known| known.place == place).map(|known| known.store_id);
        let state = Mutex::new(State { remembered, said: None });
        Self { bucket, path, place, state, asking: tokio::sync::Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is a single one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store.
    pub(super) const fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    /// Which it is, if it said so in this run.
    pub(super) fn said(&self) -> Option<StoreId> {
        self.state().said
    }

    /// Which it is, as far as is known without asking.
    pub(super) fn known(&self) -> Option<StoreId> {
        let state = self.state();
        state.said.or(state.remembered)
    }

    /// Which it is; asks it if it did not say so in this run.
    ///
    /// # Errors
    ///
    /// As [`Bucket::identify`].
    pub(super) async fn get(&self) -> Result<StoreId, s3::Error> {
        match self.said() {
            Some(store_id) => Ok(store_id),
            None => self.ask(false).await,
        }
    }

    /// Which it is, as it says now.
    ///
    /// # Errors
    ///
    /// As [`Bucket::identify`].
    pub(super) async fn confirm(&self) -> Result<StoreId, s3::Error> {
        self.ask(true).await
    }

    async fn ask(&self, again: bool) -> Result<StoreId, s3::Error> {
        let _one = self.asking.lock().await;
        if let Some(store_id) = self.said().filter(|_| !again) {
            return Ok(store_id);
        }
        let known = self.known();
        let store_id = self.bucket.identify(known.unwrap_or_else(|| StoreId::generate(&SystemIds))).await?;
        if known != Some(store_id) {
            tracing::info!(%store_id, "the object store said which one it is");
            self.remember(store_id).await;
        }
        *self.state() = State { remembered: Some(store_id), said: Some(store_id) };
        Ok(store_id)
    }

    async fn remember(&self, store_id: StoreId) {
        let (path, remembered) = (self.path.clone(), Remembered { place: self.place.clone(), store_id });
        let written = tokio::task::spawn_blocking(move || {
            durable::replace(&path, &serde_json::to_vec(&remembered).map_err(io::Error::other)?)
        });
        if let Err(error) = written.await.map_err(io::Error::other).flatten() {
            tracing::warn!(path = %self.path.display(), %error, "cannot note which object store it is; the next start asks it");
        }
    }
}

fn read(path: &Path) -> io::Result<Option<Remembered>> {
    let Some(bytes) = durable::read(path)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use longwatch_testing::s3::{BUCKET, S3};

    use super::*;

    pub(super) fn settings(s3: &S3, prefix: &str) -> Settings {
        Settings {
            bucket: BUCKET.to_owned(),
            prefix: prefix.to_owned(),
            endpoint: Some(s3.endpoint()),
            region: None,
            credentials_file: Some(s3.credentials_file()),
            allow_http: true,
            concurrency: 1,
            max_bytes_per_second: None,
            retention_every: None,
        }
    }

    fn server(folder: &Path, s3: &S3, prefix: &str) -> WhichStore {
        let settings = settings(s3, prefix);
        WhichStore::load(folder.join(FILE), &settings, Bucket::open(&settings).unwrap())
    }

    #[tokio::test]
    async fn servers_that_share_a_store_know_it_by_one_id_and_others_by_another() {
        let (s3, folders) = (S3::start(), [(); 4].map(|()| tempfile::tempdir().unwrap()));
        let prefixes = ["a", "a", "a", "b"];
        let servers: Vec<_> =
            folders.iter().zip(prefixes).map(|(folder, prefix)| server(folder.path(), &s3, prefix)).collect();
        let first = servers[0].get().await.unwrap();
        let ids = futures::future::join_all(servers.iter().map(WhichStore::get)).await;
        let ids: Vec<_> = ids.into_iter().map(Result::unwrap).collect();
        assert_eq!(ids[0], first);
        assert_eq!(ids[..3].iter().collect::<BTreeSet<_>>().len(), 1);
        assert_ne!(ids[0], ids[3]);
        // And a run later, before anybody is asked.
        let again = server(folders[0].path(), &s3, "a");
        assert_eq!((again.said(), again.known()), (None, Some(ids[0])));
        let elsewhere = server(folders[0].path(), &s3, "b");
        assert_eq!((elsewhere.known(), elsewhere.get().await.unwrap()), (None, ids[3]));
    }

    #[tokio::test]
    async fn a_store_that_lost_its_id_gets_it_back_and_one_that_has_another_is_another() {
        let (s3, folder) = (S3::start(), tempfile::tempdir().unwrap());
        let which = server(folder.path(), &s3, "a");
        let store_id = which.get().await.unwrap();
        let marker = format!("a/{}", s3::MARKER);
        s3.remove(&marker);
        assert_eq!(which.get().await.unwrap(), store_id, "nobody asks without need");
        assert_eq!(which.confirm().await.unwrap(), store_id);
        assert!(String::from_utf8_lossy(&s3.objects()[&marker]).contains(&store_id.to_string()));
        s3.remove(&marker);
        assert_eq!(server(folder.path(), &s3, "a").get().await.unwrap(), store_id, "a run later, too");
        let other = StoreId::generate(&SystemIds);
        s3.put(&marker, format!("{{\"store_id\": \"{other}\"}}").as_bytes());
        assert_eq!(which.confirm().await.unwrap(), other);
        s3.put(&marker, b"nonsense");
        let error = which.confirm().await.unwrap_err();
        assert!(matches!(&error, s3::Error::Conflict(detail) if detail.contains("store.json")), "{error}");
    }
}
