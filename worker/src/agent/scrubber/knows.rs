//! Who knows what should be in the archive: control, as the log told it.

use std::future::Future;

use longwatch_events::archive::{ArchivePart, ArchiveReply, ArchiveRequest};
use longwatch_events::id::ServerId;
use serde::de::DeserializeOwned;

use crate::bus::Bus;
use crate::identity::Opener;

/// Who knows what should be there.
pub(in super::super) trait Knows: Send + Sync + 'static {
    /// What `server_id` is known to have, from a place on; why not, for a person. Reflects every fact that the log had
    /// acknowledged before.
    fn part(
        &self,
        server_id: ServerId,
        request: ArchiveRequest,
    ) -> impl Future<Output = Result<ArchivePart, String>> + Send;
}

/// Control knows.
pub(in super::super) struct Control {
    /// The way to it.
    pub(in super::super) bus: Bus,
    /// Opens what it answers.
    pub(in super::super) opener: Opener,
}

impl Knows for Control {
    async fn part(&self, server_id: ServerId, request: ArchiveRequest) -> Result<ArchivePart, String> {
        let part: ArchivePart = self.ask(server_id, request).await?;
        if part.server_id == server_id { Ok(part) } else { Err("control told of another server".to_owned()) }
    }
}

impl Control {
    /// Asks control; why there is no answer, for a person.
    pub(in super::super) async fn ask<T: DeserializeOwned>(
        &self,
        server_id: ServerId,
        request: ArchiveRequest,
    ) -> Result<T, String> {
        self.bus.up().await;
        let sealed = match self.bus.archive(server_id, &request).await.map_err(|e| e.to_string())? {
            ArchiveReply::Part { sealed } => sealed,
            ArchiveReply::TryAgain { detail } | ArchiveReply::Refused { detail } => return Err(detail),
        };
        let plaintext = self.opener.open(&sealed.0).map_err(|e| e.to_string())?;
        serde_json::from_slice(&plaintext).map_err(|e| e.to_string())
    }
}
