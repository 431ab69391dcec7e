//! The backlog on JetStream: a record per subject, and a consumer that is never asked for anything, so that all of
//! them stay pending for it.

use std::collections::BTreeSet;

use async_nats::jetstream::consumer::{AckPolicy, pull};
use futures::future::{BoxFuture, FutureExt as _};
use futures::{StreamExt as _, TryStreamExt as _};

use super::{JetStreamLog, unavailable};
use crate::id::CameraId;
use crate::log::{Backlog, Error};
use crate::subject::{self, LogStream};

impl JetStreamLog {
    /// Makes the consumer a scaler reads, if it is not there.
    pub(super) async fn ensure_backlog_consumer(&self) -> Result<(), Error> {
        let handle = self.backlog().await?;
        let config = pull::Config {
            durable_name: Some(subject::BACKLOG_CONSUMER.to_owned()),
            description: Some("Longwatch: what is pending is what waits; never to be consumed".to_owned()),
            ack_policy: AckPolicy::Explicit,
            ..pull::Config::default()
        };
        handle.create_consumer(config).await.map(|_| ()).map_err(unavailable)
    }

    async fn backlog(&self) -> Result<async_nats::jetstream::stream::Stream<()>, Error> {
        self.context.get_stream_no_info(LogStream::Backlog.name()).await.map_err(unavailable)
    }
}

impl Backlog for JetStreamLog {
    fn remove(&self, camera: CameraId, copy: u8) -> BoxFuture<'_, Result<(), Error>> {
        async move {
            let purge = self.backlog().await?.purge().filter(subject::backlog(camera, copy));
            purge.await.map(|_| ()).map_err(unavailable)
        }
        .boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<BTreeSet<(CameraId, u8)>, Error>> {
        async move {
            let handle = self.backlog().await?;
            let subjects =
                handle.info_with_subjects(LogStream::Backlog.subjects()).await.map_err(unavailable)?;
            let waiting = subjects.map(|subject| {
                let (subject, _) = subject.map_err(unavailable)?;
                crate::log::backlog::waiting(&subject)
            });
            waiting.try_collect().await
        }
        .boxed()
    }

    fn pending(&self) -> BoxFuture<'_, Result<u64, Error>> {
        async move {
            let info = self.backlog().await?.consumer_info(subject::BACKLOG_CONSUMER).await;
            Ok(info.map_err(unavailable)?.num_pending)
        }
        .boxed()
    }
}
