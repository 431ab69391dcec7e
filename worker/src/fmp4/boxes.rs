//! Writing boxes (ISO/IEC 14496-12, section 4.2): a size, a type, and what is in it.

/// A growing sequence of boxes.
#[derive(Debug, Default)]
pub(super) struct Boxes {
    bytes: Vec<u8>,
}

impl Boxes {
    /// Writes a box around whatever `content` writes.
    pub(super) fn put(&mut self, kind: &[u8; 4], content: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.u32(0);
        self.raw(kind);
        content(self);
        let size =
            u32::try_from(self.bytes.len() - start).expect("invariant: box headers stay far below 4 GiB");
        self.bytes[start..start + 4].copy_from_slice(&size.to_be_bytes());
    }

    /// Writes a full box: one with a version and 24 bits of flags (section 4.2.2).
    pub(super) fn put_full(
        &mut self,
        kind: &[u8; 4],
        version: u8,
        flags: u32,
        content: impl FnOnce(&mut Self),
    ) {
        self.put(kind, |b| {
            b.u32(u32::from(version) << 24 | flags & 0x00ff_ffff);
            content(b);
        });
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.raw(&value.to_be_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.raw(&value.to_be_bytes());
    }

    pub(super) fn i32(&mut self, value: i32) {
        self.raw(&value.to_be_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.raw(&value.to_be_bytes());
    }

    pub(super) fn zeros(&mut self, count: usize) {
        self.bytes.resize(self.bytes.len() + count, 0);
    }

    /// How many bytes have been written.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Overwrites four bytes written earlier.
    pub(super) fn patch_i32(&mut self, at: usize, value: i32) {
        self.bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}
