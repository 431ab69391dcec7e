//! What it takes to look after an object store: which one it is, what is held there, what lies there, and that it goes.

use bytes::Bytes;
use longwatch_events::hash::Sha256;
use longwatch_events::id::StoreId;
use object_store::{GetOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use serde::{Deserialize, Serialize};

use super::{Bucket, Error, Key};

/// The object, below the prefix, in which it stands which store this is.
pub const MARKER: &str = ".longwatch/store.json";
/// The object, below the prefix, in which a person writes what must not be deleted there.
pub const HOLDS: &str = ".longwatch/holds.json";
/// Neither of them is larger than that, in bytes.
const LARGEST: u64 = 1 << 20;
/// How often it is looked for a marker: once more after it was made.
const LOOKS: usize = 2;

/// What is in the place of a segment's object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The segment.
    Same,
    /// Something else; how it differs, for a person.
    Other(String),
    /// Nothing.
    Nothing,
}

#[derive(Serialize, Deserialize)]
struct Marker {
    store_id: StoreId,
}

impl Bucket {
    /// Which store this is. One that does not say so yet gets the id `new`, whoever else may try the same.
    ///
    /// # Errors
    ///
    /// If it does not answer or refuses; [`Error::Conflict`] if what stands there makes no sense.
    pub async fn identify(&self, new: StoreId) -> Result<StoreId, Error> {
        let name = self.name(MARKER)?;
        for _ in 0..LOOKS {
            match self.small(&name).await {
                Ok(content) => {
                    let marker: Result<Marker, _> = serde_json::from_slice(&content);
                    return marker.map(|marker| marker.store_id).map_err(|error| {
                        Error::Conflict(format!("{name} does not say which store this is: {error}"))
                    });
                }
                // A store whose list is not to be seen says this of what is not there, too.
                Err(object_store::Error::NotFound { .. } | object_store::Error::PermissionDenied { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            let marker =
                serde_json::to_vec(&Marker { store_id: new }).map_err(|e| Error::Settings(e.to_string()))?;
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            match self.store.put_opts(&name, Bytes::from(marker).into(), options).await {
                // What is there is asked for again: of several that make it at once one is the first.
                Ok(_)
                | Err(
                    object_store::Error::AlreadyExists { .. }
                    | object_store::Error::Precondition { .. }
                    | object_store::Error::NotModified { .. },
                ) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::Refused(format!("{name} is there and must not be read")))
    }

    /// What a person wrote into [`HOLDS`]; `None` if it is not there.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub async fn holds(&self) -> Result<Option<Bytes>, Error> {
        match self.small(&self.name(HOLDS)?).await {
            Ok(content) => Ok(Some(content)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What is in the place of a segment's object, which should have so many bytes, and this hash if it is known.
    ///
    /// # Errors
    ///
    /// If that cannot be told now.
    pub async fn look(&self, key: &str, bytes: u64, sha256: Option<Sha256>) -> Result<Found, Error> {
        self.examine(&self.name(key)?, bytes, sha256).await
    }

    /// Deletes a segment's object; one that is not there is fine.
    ///
    /// # Errors
    ///
    /// If it may still be there.
    pub async fn delete(&self, key: &str) -> Result<(), Error> {
        match self.store.delete(&self.name(key)?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// All of a small object.
    async fn small(&self, name: &Key) -> object_store::Result<Bytes> {
        let found = self.ask(name, &GetOptions::default()).await?;
        if found.meta.size > LARGEST {
            let source = format!("it has {} bytes, more than {LARGEST}", found.meta.size).into();
            return Err(object_store::Error::Generic { store: "S3", source });
        }
        found.bytes().await
    }
}
