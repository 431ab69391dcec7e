//! What comes over NATS and from the disk.

use bytes::Bytes;
use longwatch_events::assignment::SourceSecret;
use longwatch_events::envelope::Envelope;
use longwatch_events::event::Event;
use longwatch_events::snapshot as stored;
use longwatch_worker::agent::desired::Collector;

/// An event of the log; what is read says the same when it is written and read again.
pub(crate) fn event(data: &[u8]) {
    let Ok(envelope) = Envelope::decode(data) else { return };
    let again = Envelope::decode(&envelope.encode());
    assert_eq!(again.ok().as_ref(), Some(&envelope), "an event that was read is written as another");
}

/// What a worker is told to record, and the source inside, once it is opened.
pub(crate) fn assignment(data: &[u8]) {
    if let Ok(source) = SourceSecret::from_plaintext(data) {
        let again = SourceSecret::from_plaintext(&source.to_plaintext());
        assert!(again.is_ok_and(|again| again == source), "a source that was read is written as another");
    }
    let Ok(Envelope { event: Event::AssignmentsPublished(set), .. }) = Envelope::decode(data) else { return };
    let mut collector = Collector::new(set.server_id, None);
    for _ in 0..2 {
        if let Ok((part, Some(whole))) = collector.offer(Bytes::copy_from_slice(data)) {
            assert_eq!(
                (part.parts, whole.revision),
                (1, set.revision),
                "one message made a set of many parts"
            );
        }
    }
}

/// A stored State: damaged or whole, never something in between.
pub(crate) fn snapshot(data: &[u8]) {
    let Ok(snapshot) = stored::read(data) else { return };
    let mut again = Vec::new();
    let written = stored::write(&snapshot.state, snapshot.record, &mut again);
    assert!(written.is_ok() && stored::read(again.as_slice()).is_ok_and(|read| read == snapshot));
}
