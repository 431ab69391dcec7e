//! Video that was there and is gone: where it leaves nothing, and why it went.
//!
//! Invariant: what [`among`] returns is in order and without overlap, and holds each moment of the gaps it is given and
//! each moment that only such video held.

use longwatch_events::fact::DeletionReason;
use longwatch_events::time::Timestamp;

use super::super::rows::DeletionRow;
use super::{Gap, GapCause, Span, merge};

pub(super) fn span_of(row: &DeletionRow) -> Span {
    let cause = match row.reason {
        DeletionReason::Age | DeletionReason::CameraBytes | DeletionReason::TenantBytes => {
            GapCause::Retention
        }
        DeletionReason::VolumeFull => GapCause::StorageFull,
        DeletionReason::SpoolFull => GapCause::SpoolFull,
    };
    Span { start: row.start, end: row.end, from: (row.epoch, row.server_id), gone: Some(cause) }
}

/// `gaps` in which no video ever was, joined with what is missing because it is gone. The spans are in the order of
/// their starts; no gap overlaps any of them.
pub(super) fn among(gaps: Vec<Gap>, spans: &[Span]) -> Vec<Gap> {
    let mut all = gaps;
    let mut edges: Vec<_> = spans.iter().flat_map(|span| [span.start, span.end]).collect();
    edges.sort_unstable();
    edges.dedup();
    let (mut to_come, mut holding) = (spans.iter().peekable(), Vec::new());
    for edge in edges.windows(2) {
        let (start, end) = (edge[0], edge[1]);
        while let Some(span) = to_come.next_if(|span| span.start <= start) {
            holding.push(span);
        }
        holding.retain(|span: &&Span| span.end > start);
        all.extend(cause_within(&holding).map(|cause| Gap { start, end, cause }));
    }
    all.sort_by_key(|gap| gap.start);
    merge_touching(all)
}

/// Why nothing is left of a moment that these spans held; `None` if something is, or if nothing ever was. That a file is
/// missing is said rather than that a volume or a spool was full, and that rather than that video was to go: what nobody may
/// have expected first.
fn cause_within(holding: &[&Span]) -> Option<GapCause> {
    if holding.iter().any(|span| span.gone.is_none()) {
        return None;
    }
    holding.iter().filter_map(|span| span.gone).max()
}

/// Joins gaps of one cause that touch; others stay apart.
fn merge_touching(gaps: Vec<Gap>) -> Vec<Gap> {
    let mut runs: Vec<Vec<Gap>> = Vec::new();
    let mut last_end: Option<Timestamp> = None;
    for gap in gaps {
        match runs.last_mut().filter(|_| last_end == Some(gap.start)) {
            Some(run) => run.push(gap),
            None => runs.push(vec![gap]),
        }
        last_end = Some(gap.end);
    }
    runs.into_iter().flat_map(merge).collect()
}
