//! Answers workers that ask what their servers are known to have, or what of an object store they are to look after ([`stock`]),
//! from the read model: what a server looks for on its disks must not be known from those disks only.
//!
//! [`answer`] holds the rules; [`run`] is the door to NATS. An answer reflects every fact that the log had acknowledged when
//! it was asked for, or says that it cannot: a server that deletes while it looks must not be told that what it deleted
//! should be there. It is sealed to the server that is asked about, for who asks is not known.
//!
//! Bounded: so many at a time ([`AT_ONCE`]), each a part of the list; who asks more waits, and asks again.

use async_nats::{Client, Message};
use futures::StreamExt;
use longwatch_events::archive::{ArchivePart, ArchiveReply, ArchiveRequest, KnownSegment, MAX_AT_ONCE};
use longwatch_events::id::ServerId;
use longwatch_events::sealed::PublicKey;
use longwatch_events::state::Server;
use longwatch_events::subject::{self, LogStream};
use tokio::time::{Duration, sleep, timeout};

use crate::read_model::rows::SegmentRow;
use crate::secrets;
use crate::service::Service;

mod stock;

/// So many are answered at a time.
const AT_ONCE: usize = 2;
/// How long an answer waits for the fold.
const FOLD_LIMIT: Duration = Duration::from_secs(2);
/// Before subscribing again after a failure.
const PAUSE: Duration = Duration::from_secs(1);

/// Answers for as long as this replica folds. Before it has caught up another one is to be asked.
pub async fn run(service: &Service, client: &Client) {
    let mut progress = service.progress();
    let mut halted = service.subscribe_halted();
    if progress.wait_for(|progress| progress.caught_up && progress.recordings_caught_up).await.is_err() {
        return;
    }
    tokio::select! {
        () = answer_all(service, client) => {}
        _halted = halted.wait_for(Option::is_some) => {}
    }
}

async fn answer_all(service: &Service, client: &Client) {
    loop {
        // One queue group: of several replicas one answers.
        match client.queue_subscribe(subject::ARCHIVES, "control".to_owned()).await {
            Ok(requests) => {
                requests.for_each_concurrent(AT_ONCE, |request| reply(service, client, request)).await
            }
            Err(error) => tracing::warn!(%error, "cannot listen to what servers ask of their archives"),
        }
        sleep(PAUSE).await;
    }
}

async fn reply(service: &Service, client: &Client, request: Message) {
    let (Some(reply_to), Some(server_id)) = (request.reply, subject::archive_of(&request.subject)) else {
        return;
    };
    let reply = answer(service, server_id, &request.payload).await;
    let bytes = serde_json::to_vec(&reply).expect("invariant: strings and bytes always become JSON");
    if let Err(error) = client.publish(reply_to, bytes.into()).await {
        tracing::warn!(%server_id, %error, "a server could not be told what it is known to have; it asks again");
    }
}

/// What somebody is told who asks in the name of `server_id`.
pub async fn answer(service: &Service, server_id: ServerId, request: &[u8]) -> ArchiveReply {
    match part(service, server_id, request).await {
        Ok(reply) => reply,
        Err(reply) => {
            if let ArchiveReply::TryAgain { detail } | ArchiveReply::Refused { detail } = &reply {
                tracing::debug!(%server_id, detail, "a server is not told what it is known to have");
            }
            reply
        }
    }
}

async fn part(service: &Service, server_id: ServerId, request: &[u8]) -> Result<ArchiveReply, ArchiveReply> {
    let request: ArchiveRequest = serde_json::from_slice(request)
        .map_err(|error| refused(format!("the request is not one for an archive: {error}")))?;
    let public_key = public_key(service, server_id)?;
    fold_all(service).await?;
    let limit = request.limit.clamp(1, MAX_AT_ONCE);
    let plaintext = if let Some(of) = request.of {
        let part = stock::part(service, server_id, of, request.from, limit).await.map_err(try_again)?;
        serde_json::to_vec(&part)
    } else {
        let rows = service.read_model().stored_on(server_id, request.from, limit).await.map_err(try_again)?;
        let segments = rows.items.into_iter().map(known).collect();
        serde_json::to_vec(&ArchivePart { server_id, segments, more: rows.more })
    };
    let plaintext = plaintext.expect("invariant: strings and numbers always become JSON");
    let sealed = secrets::seal_bytes_to_worker(&public_key, &plaintext).map_err(try_again)?;
    Ok(ArchiveReply::Part { sealed })
}

/// The key of a server that belongs to the system and has a worker.
fn public_key(service: &Service, server_id: ServerId) -> Result<PublicKey, ArchiveReply> {
    let state = service.state();
    let server = state.server(server_id).filter(|server| !Server::is_detached(server));
    server
        .and_then(|server| server.public_key)
        .ok_or_else(|| refused("no such server records here".to_owned()))
}

/// Waits until the rows hold all that the log has acknowledged by now.
async fn fold_all(service: &Service) -> Result<(), ArchiveReply> {
    let end = service.log().end(LogStream::Recordings).await.map_err(try_again)?;
    let mut progress = service.progress();
    match timeout(FOLD_LIMIT, progress.wait_for(|progress| progress.recordings >= end)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(try_again(format!("facts up to {end} are not folded yet"))),
    }
}

fn known(row: SegmentRow) -> KnownSegment {
    KnownSegment {
        tenant_id: row.tenant_id,
        camera_id: row.camera_id,
        epoch: row.epoch,
        key: row.key,
        start: row.start,
        end: row.end,
        bytes: row.bytes,
        sha256: row.sha256,
        damage: row.damage,
    }
}

fn try_again(why: impl ToString) -> ArchiveReply {
    ArchiveReply::TryAgain { detail: why.to_string() }
}

const fn refused(detail: String) -> ArchiveReply {
    ArchiveReply::Refused { detail }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::digest;
    use longwatch_events::archive::Place;
    use longwatch_events::event::{Event, RecordingReported};
    use longwatch_events::fact::{Codec, Fact, SegmentStored};
    use longwatch_events::hash::Sha256;
    use longwatch_events::id::{BootId, CameraId, EventId, SystemIds, TenantId};
    use longwatch_events::position::Epoch;
    use longwatch_events::settings::{Capacity, Labels};

    use super::*;
    use crate::decide::command::Command;
    use crate::testing::{START, TestControl};

    pub(super) fn secret(number: u8) -> crypto_box::SecretKey {
        let bytes: [u8; 32] = digest::digest(&digest::SHA256, &[number]).as_ref().try_into().unwrap();
        crypto_box::SecretKey::from(bytes)
    }

    pub(super) async fn joined(control: &TestControl, number: u8) -> ServerId {
        let server_id = ServerId::generate(&SystemIds);
        let public_key = PublicKey(*secret(number).public_key().as_bytes());
        let (labels, capacity) = (Labels::new(), Capacity::default());
        let name = format!("server-{number}");
        control.execute(Command::JoinServer { server_id, name, public_key, labels, capacity }).await;
        server_id
    }

    pub(super) fn stored(camera_id: CameraId, minute: i64) -> Fact {
        let start = START.plus_millis(minute * 60_000);
        Fact::SegmentStored(SegmentStored {
            tenant_id: TenantId::DEFAULT,
            camera_id,
            epoch: Epoch(7),
            key: format!("key-{minute}"),
            start,
            end: start.plus_millis(60_000),
            bytes: 5,
            sha256: Sha256::of(b"video"),
            video_frames: 1,
            video: Codec::H264,
            audio: None,
            repaired: false,
        })
    }

    pub(super) async fn report(control: &TestControl, server_id: ServerId, facts: Vec<Fact>) {
        let boot_id = BootId::generate(&SystemIds);
        let report = RecordingReported { server_id, boot_id, facts };
        let (id, event) = (EventId::generate(&SystemIds), Event::RecordingReported(report));
        control.service.append("test", id, event, None).await.unwrap();
    }

    async fn ask(control: &TestControl, server_id: ServerId, from: Place, limit: u32) -> ArchiveReply {
        let request = serde_json::to_vec(&ArchiveRequest { from, limit, of: None }).unwrap();
        answer(&control.service, server_id, &request).await
    }

    fn opened(reply: ArchiveReply, number: u8) -> Option<ArchivePart> {
        let ArchiveReply::Part { sealed } = reply else { panic!("{reply:?}") };
        let plaintext = secret(number).unseal(&sealed.0).ok()?;
        Some(serde_json::from_slice(&plaintext).unwrap())
    }

    #[tokio::test]
    async fn a_server_is_told_all_that_it_reported_and_nobody_else_can_read_it() {
        let control = TestControl::start().await;
        let (first, second) = (joined(&control, 1).await, joined(&control, 2).await);
        let camera = CameraId::generate(&SystemIds);
        report(&control, first, (0..5).map(|minute| stored(camera, minute)).collect()).await;
        report(&control, second, vec![stored(camera, 9)]).await;

        // However it is cut, and at once: what the log has acknowledged is told.
        let (mut keys, mut from) = (Vec::new(), Place::FIRST);
        loop {
            let part = opened(ask(&control, first, from, 2).await, 1).unwrap();
            assert_eq!(part.server_id, first);
            keys.extend(part.segments.iter().map(|segment| segment.key.clone()));
            if !part.more {
                break;
            }
            let last = part.segments.last().unwrap().place();
            from = Place { start: last.start.plus_micros(1), ..last };
        }
        assert_eq!(keys, ["key-0", "key-1", "key-2", "key-3", "key-4"]);
        assert_eq!(opened(ask(&control, first, Place::FIRST, 10).await, 2), None, "sealed to the first");
    }

    #[tokio::test]
    async fn who_is_no_server_or_asks_nothing_is_refused() {
        let control = TestControl::start().await;
        let stranger = ServerId::generate(&SystemIds);
        let reply = ask(&control, stranger, Place::FIRST, 10).await;
        assert!(matches!(reply, ArchiveReply::Refused { .. }), "{reply:?}");
        let server = joined(&control, 1).await;
        let reply = answer(&control.service, server, b"{}").await;
        assert!(matches!(reply, ArchiveReply::Refused { .. }), "{reply:?}");
        // More than there may be is cut, not refused.
        assert!(opened(ask(&control, server, Place::FIRST, u32::MAX).await, 1).is_some());
        assert!(opened(ask(&control, server, Place::FIRST, 0).await, 1).is_some());
    }
}
