//! The planner's lease, in a bucket of NATS's key-value store: of several control replicas one plans at a time. It
//! saves double work and nothing else. What is right does not depend on it: plans are conditional on each other, so
//! two that plan at once cannot both win.
//!
//! Invariants: no clock but that of NATS decides (the bucket forgets a holder `ttl` after it was last heard); each
//! change is conditional on the revision before it, so of two contenders one wins; revisions are on disk and never used
//! twice, so a holder that slept through a restart of NATS does not take another's lease for its own.

use std::time::Duration;

use async_nats::jetstream::context::ContextBuilder;
use async_nats::jetstream::kv::{self, Operation, Store, UpdateErrorKind};
use async_nats::jetstream::stream::StorageType;

use super::{ANSWER_TIMEOUT, unavailable};
use crate::id::BootId;
use crate::log::Error;

/// The bucket of what control replicas tell each other.
const BUCKET: &str = "CONTROL";
/// The key whose value is the boot id of the replica that plans.
const KEY: &str = "planner";

/// A try at the planner's lease: of one replica, which renews it several times per `ttl` while it holds it.
pub struct Lease {
    store: Store,
    held: Option<Held>,
}

/// What the bucket held when it was last heard of as ours.
#[derive(Clone, Copy)]
struct Held {
    holder: BootId,
    revision: u64,
}

impl Lease {
    /// Makes the bucket, or brings its settings up to date. Takes nothing yet.
    ///
    /// # Errors
    /// If NATS does not answer or refuses, for example a `ttl` under 100 ms.
    pub async fn open(client: async_nats::Client, replicas: usize, ttl: Duration) -> Result<Self, Error> {
        let context = ContextBuilder::new().timeout(ANSWER_TIMEOUT).build(client);
        let config = kv::Config {
            bucket: BUCKET.to_owned(),
            description: "Longwatch: which control replica plans".to_owned(),
            history: 1,
            max_age: ttl,
            storage: StorageType::File,
            num_replicas: replicas,
            ..kv::Config::default()
        };
        let store = context.create_or_update_key_value(config).await.map_err(unavailable)?;
        Ok(Self { store, held: None })
    }

    /// Takes the lease if it is free, renews it if `holder` has it. Whether `holder` has it now.
    ///
    /// # Errors
    /// If NATS does not answer: then nobody knows, and the next try finds out.
    pub async fn try_hold(&mut self, holder: BootId) -> Result<bool, Error> {
        if let Some(held) = self.held.filter(|held| held.holder == holder)
            && self.put(holder, held.revision).await?
        {
            return Ok(true);
        }
        // Not ours before, forgotten since, or renewed by a try whose answer was lost: the bucket tells.
        self.held = None;
        let entry = self.store.entry(KEY).await.map_err(unavailable)?;
        // A replica of the bucket may answer that lags. Then the condition fails below, and the next try knows more.
        let free_at = match entry {
            None => 0,
            Some(kv::Entry { operation: Operation::Delete | Operation::Purge, revision, .. }) => revision,
            Some(kv::Entry { operation: Operation::Put, revision, value, .. })
                if value == holder.to_string().as_bytes() =>
            {
                revision
            }
            Some(kv::Entry { operation: Operation::Put, .. }) => return Ok(false),
        };
        self.put(holder, free_at).await
    }

    /// Gives the lease back, if it is held, so that nobody has to wait for its end.
    ///
    /// # Errors
    /// If NATS does not answer. The lease then ends by itself.
    pub async fn release(&mut self) -> Result<(), Error> {
        let Some(held) = self.held.take() else { return Ok(()) };
        match self.store.delete_expect_revision(KEY, Some(held.revision)).await {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => Ok(()),
            Err(error) => Err(unavailable(error)),
        }
    }

    /// Writes `holder` if the key's last revision is still `expected`. Whether it was.
    async fn put(&mut self, holder: BootId, expected: u64) -> Result<bool, Error> {
        match self.store.update(KEY, holder.to_string().into(), expected).await {
            Ok(revision) => {
                self.held = Some(Held { holder, revision });
                Ok(true)
            }
            Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => Ok(false),
            Err(error) => Err(unavailable(error)),
        }
    }
}
