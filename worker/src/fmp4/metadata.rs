//! The track of a camera's metadata: documents as they came, each a sample.
//!
//! Pure. ONVIF Export File Format, section "Timed metadata": an `XMLMetaDataSampleEntry` of ISO/IEC 14496-12 (section 12.3.3) with the
//! namespace of ONVIF's schema, and what it is packed with as its content encoding.

use bytes::Bytes;

use super::boxes::Boxes;

/// Of what ONVIF's metadata streams carry.
const NAMESPACE: &[u8] = b"http://www.onvif.org/ver10/schema\0";

/// How documents are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// Not at all: XML.
    Xml,
    /// gzip.
    Gzip,
    /// Efficient XML Interchange, of either kind that ONVIF knows.
    Exi,
}

/// The `metx` box.
pub fn sample_entry(packing: Packing) -> Bytes {
    let mut boxes = Boxes::default();
    boxes.put(b"metx", |b| {
        b.zeros(6);
        b.u16(1); // data_reference_index
        b.raw(match packing {
            Packing::Xml => b"\0",
            Packing::Gzip => b"gzip\0",
            Packing::Exi => b"exi\0",
        });
        b.raw(NAMESPACE);
        b.raw(b"\0"); // schema_location
    });
    boxes.into_bytes().into()
}

#[cfg(test)]
mod tests {
    use mp4_atom::{Decode, Metx};

    use super::*;

    #[test]
    fn another_library_reads_the_sample_entry() {
        for (packing, encoding) in [(Packing::Xml, ""), (Packing::Gzip, "gzip"), (Packing::Exi, "exi")] {
            let entry = sample_entry(packing);
            let metx = Metx::decode(&mut &entry[..]).unwrap();
            assert_eq!(metx.content_encoding, encoding);
            assert_eq!(format!("{:?}", metx.namespace), "\"http://www.onvif.org/ver10/schema\"");
        }
    }
}
