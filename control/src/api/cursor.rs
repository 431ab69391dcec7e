//! Cursors: where a list goes on. Opaque to clients; the key of the last item, so that a list stays whole while things
//! are added and removed (keyset pagination).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use longwatch_events::id::{CameraId, CopyKey, ServerId, TenantId};
use uuid::Uuid;

/// A key that can stand in a cursor.
pub(super) trait Key: Sized {
    /// Which list it belongs to: a cursor of another list is not taken.
    const LIST: u8;

    fn to_bytes(&self) -> Vec<u8>;

    fn from_bytes(bytes: &[u8]) -> Option<Self>;
}

impl Key for TenantId {
    const LIST: u8 = b't';

    fn to_bytes(&self) -> Vec<u8> {
        self.as_uuid().as_bytes().to_vec()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Uuid::from_slice(bytes).ok().map(Self::from_uuid)
    }
}

impl Key for ServerId {
    const LIST: u8 = b's';

    fn to_bytes(&self) -> Vec<u8> {
        self.as_uuid().as_bytes().to_vec()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Uuid::from_slice(bytes).ok().map(Self::from_uuid)
    }
}

impl Key for CameraId {
    const LIST: u8 = b'c';

    fn to_bytes(&self) -> Vec<u8> {
        self.as_uuid().as_bytes().to_vec()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Uuid::from_slice(bytes).ok().map(Self::from_uuid)
    }
}

impl Key for CopyKey {
    const LIST: u8 = b'a';

    fn to_bytes(&self) -> Vec<u8> {
        [self.tenant_id.to_bytes(), self.camera_id.to_bytes(), vec![self.copy]].concat()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (copy, ids) = bytes.split_last()?;
        let (tenant, camera) = ids.split_at_checked(16)?;
        let (tenant_id, camera_id) = (TenantId::from_bytes(tenant)?, CameraId::from_bytes(camera)?);
        Some(Self { tenant_id, camera_id, copy: *copy })
    }
}

/// The cursor behind `key`.
pub(super) fn encode<K: Key>(key: &K) -> String {
    let mut bytes = vec![K::LIST];
    bytes.extend(key.to_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The key a cursor stands for; `None` if it is not one of this list.
pub(super) fn decode<K: Key>(cursor: &str) -> Option<K> {
    match URL_SAFE_NO_PAD.decode(cursor).ok()?.split_first()? {
        (list, key) if *list == K::LIST => K::from_bytes(key),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use longwatch_events::id::CountingIds;

    use super::*;

    #[test]
    fn a_cursor_leads_back_to_its_key_and_only_in_its_own_list() {
        let ids = CountingIds::default();
        let (tenant_id, camera_id) = (TenantId::generate(&ids), CameraId::generate(&ids));
        let key = CopyKey { tenant_id, camera_id, copy: 3 };
        assert_eq!(decode(&encode(&key)), Some(key));
        assert_eq!(decode::<CameraId>(&encode(&tenant_id)), None);
        assert_eq!(decode::<CameraId>("AA"), None);
        assert_eq!(decode::<CameraId>("not a cursor"), None);
        assert_eq!(decode::<CameraId>(""), None);
    }
}
