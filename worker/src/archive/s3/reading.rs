//! Reading a segment's object piece by piece.

use std::ops::Range;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::{GetOptions, GetRange};

use super::{Bucket, Error};

/// An object that is being read.
pub struct Reading {
    /// Size of all of it, in bytes.
    pub size: u64,
    /// What was asked for of it, as it comes. It comes as fast as it is taken.
    pub bytes: BoxStream<'static, Result<Bytes, Error>>,
}

impl Bucket {
    /// Begins to read these bytes of a segment's object, or those of them that there are; `None` if there is no such object.
    /// `range` is not empty, and begins within the object.
    ///
    /// # Errors
    ///
    /// If that cannot be told now.
    pub async fn read(&self, key: &str, range: Range<u64>) -> Result<Option<Reading>, Error> {
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        match self.ask(&self.name(key)?, &options).await {
            Ok(found) => {
                let size = found.meta.size;
                let bytes = found.into_stream().map(|bytes| bytes.map_err(Error::from)).boxed();
                Ok(Some(Reading { size, bytes }))
            }
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
