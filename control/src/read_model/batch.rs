//! A stretch of a log stream, as it is applied to the rows. Pure.
//!
//! Several replicas fold the same log and write to the same database, each at its own pace. So a batch says from where to
//! where it goes, and which record each change comes from; where the rows stand is read, and moved, in the transaction
//! that writes them. Every replica makes the same changes of the same record, so it does not matter who writes them.
//!
//! Invariant: each record changes the rows exactly once, in the order of the log.

use longwatch_events::fact::Damage;
use longwatch_events::hash::Sha256;
use longwatch_events::position::Position;
use longwatch_events::subject::LogStream;

use super::rows::Change;

/// All that the records behind `after` up to `up_to` do to the rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The log stream they stand in.
    pub stream: LogStream,
    /// Up to where the rows are known to be written. May lie behind `up_to`: then there is nothing to write.
    pub after: Position,
    /// Where the last of the records stands.
    pub up_to: Position,
    /// The hash of its payload; `None`: there are no records.
    pub record: Option<Sha256>,
    /// What the records behind `after` do, each change with the position of its record; in the order of the log.
    pub changes: Vec<(Position, Change)>,
}

/// What applying a batch did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// The rows and the position are there now.
    Written,
    /// They had been there before; nothing changed.
    Seen,
    /// The rows stand at `position`, before the batch begins, and what lies between is not in it; nothing changed. The
    /// database was set back: restored, or replaced by a copy that had not come as far.
    Behind {
        /// Up to where the rows are written.
        position: Position,
    },
}

/// What there is to do with a batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due<'b> {
    /// Nothing, with this answer.
    Nothing(Applied),
    /// To write these changes and the batch's position.
    Changes(Vec<&'b Change>),
}

impl Batch {
    /// What there is to do, where the rows stand at `stored`.
    pub(super) fn due(&self, stored: Position) -> Due<'_> {
        if stored < self.after {
            return Due::Nothing(Applied::Behind { position: stored });
        }
        if self.up_to <= stored {
            return Due::Nothing(Applied::Seen);
        }
        let news = self.changes.iter().filter(|(position, _)| *position > stored);
        Due::Changes(news.map(|(_, change)| change).collect())
    }
}

/// Tells the metrics what a written batch held. Counted as it is folded, because counting rows reads them all.
pub(super) fn count_written(changes: &[&Change]) {
    let mut segments = 0;
    let mut bytes = 0_u64;
    for change in changes {
        if let Change::PutSegment(segment) = change {
            segments += 1;
            bytes = bytes.saturating_add(segment.bytes);
        }
        if let Change::PlaceSegment(segment) = change {
            metrics::counter!("longwatch_segments_uploaded_total").increment(1);
            metrics::counter!("longwatch_segments_uploaded_bytes_total").increment(segment.bytes);
        }
        if let Change::DeleteSegment(segment) = change {
            let reason = segment.reason.as_str();
            metrics::counter!("longwatch_segments_deleted_total", "reason" => reason).increment(1);
            metrics::counter!("longwatch_segments_deleted_bytes_total", "reason" => reason)
                .increment(segment.bytes);
        }
        if let Change::NoteDamage(segment) = change {
            let found = segment.damage.map_or("healed", Damage::as_str);
            metrics::counter!("longwatch_segments_checked_total", "found" => found).increment(1);
        }
    }
    metrics::counter!("longwatch_segments_stored_total").increment(segments);
    metrics::counter!("longwatch_segments_stored_bytes_total").increment(bytes);
}

#[cfg(test)]
mod tests {
    use longwatch_events::id::TenantId;

    use super::*;

    #[test]
    fn only_what_is_not_there_yet_is_due() {
        let change = Change::DeleteTenant(TenantId::DEFAULT);
        let changes = [11, 11, 13, 15].map(|position| (Position(position), change.clone()));
        let batch = Batch {
            stream: LogStream::Log,
            after: Position(10),
            up_to: Position(15),
            record: None,
            changes: changes.to_vec(),
        };
        for (stored, count) in [(10, 4), (11, 2), (12, 2), (13, 1), (14, 1)] {
            assert_eq!(batch.due(Position(stored)), Due::Changes(vec![&change; count]), "at {stored}");
        }
        for stored in [15, 16] {
            assert_eq!(batch.due(Position(stored)), Due::Nothing(Applied::Seen));
        }
        let behind = Applied::Behind { position: Position(9) };
        assert_eq!(batch.due(Position(9)), Due::Nothing(behind));
    }

    #[test]
    fn a_replay_of_what_is_known_to_be_written_is_seen_or_finds_the_rows_set_back() {
        let (after, up_to) = (Position(100), Position(60));
        let batch = Batch { stream: LogStream::Log, after, up_to, record: None, changes: Vec::new() };
        assert_eq!(batch.due(Position(100)), Due::Nothing(Applied::Seen));
        // Even where it seems to fit: what lies between 50 and 60 is not in it.
        let behind = Applied::Behind { position: Position(50) };
        assert_eq!(batch.due(Position(50)), Due::Nothing(behind));
    }
}
