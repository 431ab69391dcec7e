//! A snapshot: State at a position, written down, so that a start does not read the whole log.
//!
//! Format: one line of JSON, the [`Header`], then State as JSON. Never trusted blindly: it is used only if this program
//! folds as it was folded, if State's JSON hashes to what the header says, and if the log still holds the very record that
//! State was folded up to. Whatever does not fit is no error of the system: the log is folded instead.

use std::io::{self, BufRead, Read, Write};

use serde::{Deserialize, Serialize};

use crate::fold;
use crate::hash::Sha256;
use crate::position::Position;
use crate::state::State;

/// The version of this format.
const FORMAT: u32 = 1;
/// A header takes less than this.
const MAX_HEADER_BYTES: u64 = 4_096;

/// What stands in the first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    format: u32,
    /// [`fold::VERSION`] of whoever wrote it.
    fold_version: u32,
    /// Up to where the log was folded.
    position: Position,
    /// Hash of the payload of the record at that position.
    record: Sha256,
    /// [`State::content_hash`].
    state: Sha256,
}

/// A snapshot that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The State, with its index.
    pub state: State,
    /// Hash of the payload of the record at its position: the log must hold the same one.
    pub record: Sha256,
}

/// Why a snapshot is not used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It is none, or was cut short.
    #[error("it is no snapshot, or a damaged one: {0}")]
    Malformed(#[from] serde_json::Error),
    /// Another format, or folded by other rules.
    #[error(
        "it was written as format {format}, fold version {fold_version}; this program wants {FORMAT} and {}",
        fold::VERSION
    )]
    Version {
        /// The format's.
        format: u32,
        /// The fold's.
        fold_version: u32,
    },
    /// What was read is not what was written.
    #[error("its content does not have the hash that it says: expected {expected}, found {found}")]
    Damaged {
        /// As the header says.
        expected: Sha256,
        /// Of what was read.
        found: Sha256,
    },
}

/// Writes `state`, which was folded up to a record whose payload hashes to `record`.
///
/// # Errors
/// Those of `to`.
pub fn write(state: &State, record: Sha256, mut to: impl Write) -> io::Result<()> {
    let header = Header {
        format: FORMAT,
        fold_version: fold::VERSION,
        position: state.position,
        record,
        state: state.content_hash(),
    };
    serde_json::to_writer(&mut to, &header)?;
    to.write_all(b"\n")?;
    serde_json::to_writer(&mut to, state)?;
    to.flush()
}

/// Reads what [`write()`] wrote.
///
/// # Errors
/// If it is anything else.
pub fn read(mut from: impl BufRead) -> Result<Snapshot, Error> {
    let mut line = Vec::new();
    Read::take(&mut from, MAX_HEADER_BYTES).read_until(b'\n', &mut line)?;
    let header: Header = serde_json::from_slice(&line)?;
    let Header { format, fold_version, .. } = header;
    if format != FORMAT || fold_version != fold::VERSION {
        return Err(Error::Version { format, fold_version });
    }
    // Read as a whole: serde_json reads a slice more than twice as fast as a stream. And hashed as it was written, which is
    // what `State::content_hash` hashes: to write State once more only for that would take as long again.
    let mut body = Vec::new();
    from.read_to_end(&mut body)?;
    let found = Sha256::of(&body);
    let mut state: State = serde_json::from_slice(&body)?;
    if found != header.state || state.position != header.position {
        return Err(Error::Damaged { expected: header.state, found });
    }
    drop(body);
    state.reindex();
    Ok(Snapshot { state, record: header.record })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, TenantCreated};
    use crate::id::TenantId;
    use crate::sealed::{Base64Bytes, WrappedKey};
    use crate::time::Timestamp;

    fn written() -> (State, Vec<u8>) {
        let mut state = State::default();
        let data_key = WrappedKey { provider: "file".into(), bytes: Base64Bytes(vec![1, 2, 3]) };
        let created = TenantCreated { tenant_id: TenantId::DEFAULT, name: "Default".into(), data_key };
        let at = Timestamp::from_millis(1_795_420_800_000);
        fold::apply(&mut state, Position(1), at, &Event::TenantCreated(created)).unwrap();
        let mut bytes = Vec::new();
        write(&state, Sha256::of(b"the record"), &mut bytes).unwrap();
        (state, bytes)
    }

    #[test]
    fn it_reads_back_as_written() {
        let (state, bytes) = written();
        assert_eq!(read(&bytes[..]).unwrap(), Snapshot { state, record: Sha256::of(b"the record") });
    }

    #[test]
    fn whatever_is_not_as_written_is_refused() {
        let (_, bytes) = written();
        for cut in 0..bytes.len() {
            assert!(read(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        let text = String::from_utf8(bytes).unwrap();
        let renamed = text.replace("Default", "Defaulu");
        assert!(matches!(read(renamed.as_bytes()), Err(Error::Damaged { .. })));
        let newer = text.replace("\"format\":1", "\"format\":2");
        assert!(matches!(read(newer.as_bytes()), Err(Error::Version { format: 2, .. })));
        assert!(read(&b"\n"[..]).is_err());
    }
}
