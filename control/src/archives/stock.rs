//! What of an object store a server is to look after: of each camera that it is the [`keeper`] of, how
//! long its video is kept, and the oldest of what lies there. What goes decides the server.
//!
//! Bounded: an answer looks at so many cameras ([`MAX_CAMERAS_AT_ONCE`]), and says where the next one goes on.

use longwatch_events::archive::{MAX_CAMERAS_AT_ONCE, Place, Stock, StockPart, StockedCamera};
use longwatch_events::id::{CameraId, ServerId, StoreId, TenantId};
use longwatch_events::settings::Retention;
use longwatch_events::time::Timestamp;

use crate::decide::keeper;
use crate::read_model::Error;
use crate::read_model::rows::InStore;
use crate::service::Service;

/// Of one camera so many segments are told at once, so that a few with much to delete leave room for others.
const OF_CAMERA: u32 = 100;
/// What will be this old within a day is told: a server may ask seldom, and its clock may go before.
const AHEAD_MS: i64 = DAY_MS;
const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

type CameraKey = (TenantId, CameraId);

/// What `server_id` is to look after of a stock, from a place on.
pub(super) async fn part(
    service: &Service,
    server_id: ServerId,
    of: Stock,
    from: Place,
    limit: u32,
) -> Result<StockPart, Error> {
    let asking = Asking::new(service, server_id, of);
    let (mut cameras, mut left) = (Vec::new(), limit);
    // Of the camera that is asked from, if there is one, only what follows.
    let mut at = (from.tenant_id, from.camera_id);
    let mut next = Some((at, from.start));
    for _ in 0..MAX_CAMERAS_AT_ONCE {
        let Some((camera, start)) = next.filter(|_| left > 0) else { break };
        if let Some(stocked) = asking.camera(camera, start, left.min(OF_CAMERA)).await? {
            left -= u32::try_from(stocked.segments.len()).unwrap_or(left).min(left);
            cameras.push(stocked);
        }
        at = camera;
        next = service.read_model().next_in_store(asking.of, at).await?.map(|c| (c, Timestamp::UNIX_EPOCH));
    }
    let next = next.map(|((tenant_id, camera_id), start)| Place { tenant_id, camera_id, start });
    Ok(StockPart { server_id, of, at: asking.now, cameras, next })
}

/// Who asks, and what is known of others.
struct Asking<'a> {
    service: &'a Service,
    server_id: ServerId,
    of: InStore,
    /// Servers that are heard of and upload to the same store, in ascending order.
    users: Vec<ServerId>,
    now: Timestamp,
}

impl<'a> Asking<'a> {
    fn new(service: &'a Service, server_id: ServerId, of: Stock) -> Self {
        let (of, users) = match of {
            Stock::Store(store_id) => (InStore::Of(store_id), users(service, store_id)),
            Stock::Unknown => (InStore::UploadedBy(server_id), Vec::new()),
        };
        Self { service, server_id, of, users, now: service.log_now() }
    }

    /// What there is of a camera from a time on, if this server is to look after it and any of it may have to go.
    async fn camera(
        &self,
        (tenant_id, camera_id): CameraKey,
        start: Timestamp,
        limit: u32,
    ) -> Result<Option<StockedCamera>, Error> {
        let rows = self.service.read_model();
        if !self.is_keeper((tenant_id, camera_id)) {
            return Ok(None);
        }
        let known = {
            let state = self.service.state();
            state.camera(tenant_id, camera_id).map(|camera| camera.settings.retention())
        };
        let retention = match known {
            Some(retention) => Some(retention),
            None => rows.former_retention(tenant_id, camera_id).await?,
        };
        let Some(retention) = retention.filter(|kept| kept.max_days.is_some() || kept.max_bytes.is_some())
        else {
            return Ok(None);
        };
        let from = Place { tenant_id, camera_id, start };
        let found = rows.stored_in(self.of, from, limit).await?;
        let bytes = match retention.max_bytes {
            Some(_) => rows.bytes_in(self.of, (tenant_id, camera_id)).await?,
            None => 0,
        };
        let oldest = found.items.first().map(|segment| segment.end);
        let is_due = oldest.is_some_and(|oldest| may_have_to_go(&retention, oldest, bytes, self.now));
        let (segments, more) = (found.items, found.more);
        Ok(is_due.then_some(StockedCamera { tenant_id, camera_id, retention, bytes, segments, more }))
    }

    fn is_keeper(&self, (tenant_id, camera_id): CameraKey) -> bool {
        match self.of {
            InStore::UploadedBy(_) => true,
            InStore::Of(_) => {
                let state = self.service.state();
                let recorders = state.camera(tenant_id, camera_id).into_iter().flat_map(keeper::recorders);
                keeper::keeper(camera_id, recorders, &self.users) == Some(self.server_id)
            }
        }
    }
}

/// Servers that are heard of and upload to this store.
fn users(service: &Service, store_id: StoreId) -> Vec<ServerId> {
    let (state, observed) = (service.state(), service.observed());
    let uses = |server_id| {
        let spool = observed.seen(server_id).and_then(|seen| seen.load.spool);
        spool.and_then(|spool| spool.store_id) == Some(store_id) && observed.silent_since(server_id).is_none()
    };
    let all = state.servers().filter(|(_, server)| server.is_ours()).map(|(server_id, _)| server_id);
    all.filter(|server_id| uses(*server_id)).collect()
}

/// Whether anything of what a camera has may have to go, of which the oldest ended then.
fn may_have_to_go(retention: &Retention, oldest: Timestamp, bytes: u64, now: Timestamp) -> bool {
    let is_old = |days: u32| {
        let at = now.plus_millis(AHEAD_MS).plus_millis(-i64::from(days).saturating_mul(DAY_MS));
        oldest <= at
    };
    retention.max_days.is_some_and(is_old) || retention.max_bytes.is_some_and(|max| bytes > max)
}

#[cfg(test)]
mod tests;
