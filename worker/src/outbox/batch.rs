//! Facts made into batches that the log takes. Pure, except that ids and the time come from their sources.

use longwatch_events::envelope::Envelope;
use longwatch_events::event::{Event, RecordingReported};
use longwatch_events::fact::Fact;
use longwatch_events::id::{BootId, EventId, IdSource, ServerId};
use longwatch_events::time::Clock;

/// No batch is larger, in bytes: the log takes 1 MiB with headers.
pub const MAX_BYTES: usize = 900_000;
/// No detail is longer, in characters: a camera's answer may be quoted in it.
const MAX_DETAIL_CHARS: usize = 1_000;

/// Who reports, and where its times and ids come from.
pub struct Reporter<'a> {
    /// The server.
    pub server_id: ServerId,
    /// This run of the worker.
    pub boot_id: BootId,
    /// Tells the time.
    pub clock: &'a dyn Clock,
    /// Draws event ids.
    pub ids: &'a dyn IdSource,
}

impl Reporter<'_> {
    /// As few batches as hold all `facts` in order, none larger than [`MAX_BYTES`].
    pub fn pack(&self, mut facts: Vec<Fact>) -> Vec<Envelope> {
        facts.iter_mut().for_each(shorten);
        let mut batches = Vec::new();
        let mut rest = vec![facts];
        while let Some(mut facts) = rest.pop() {
            if facts.is_empty() {
                continue;
            }
            let envelope = self.envelope(facts.clone());
            if facts.len() > 1 && envelope.encode().len() > MAX_BYTES {
                let second = facts.split_off(facts.len() / 2);
                rest.extend([second, facts]);
            } else {
                batches.push(envelope);
            }
        }
        batches
    }

    fn envelope(&self, facts: Vec<Fact>) -> Envelope {
        let Self { server_id, boot_id, clock, ids } = self;
        Envelope {
            id: EventId::generate(*ids),
            source: format!("/server/{server_id}"),
            time: clock.now(),
            tenant: None,
            actor: format!("server:{server_id}"),
            causation: None,
            event: Event::RecordingReported(RecordingReported {
                server_id: *server_id,
                boot_id: *boot_id,
                facts,
            }),
        }
    }
}

fn shorten(fact: &mut Fact) {
    match fact {
        Fact::Interrupted(interrupted) => {
            if let Some((end, _)) = interrupted.detail.char_indices().nth(MAX_DETAIL_CHARS) {
                interrupted.detail.truncate(end);
                interrupted.detail.push('…');
            }
        }
        Fact::Started(_)
        | Fact::FirstKeyframeDurable(_)
        | Fact::SegmentStored(_)
        | Fact::SegmentUploaded(_)
        | Fact::SegmentDeleted(_)
        | Fact::SegmentChecked(_)
        | Fact::Gap(_)
        | Fact::TimestampJumped(_)
        | Fact::RecordingTriggered(_) => {}
    }
}
