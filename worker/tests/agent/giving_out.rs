//! Recorded video, given out to whoever holds an address that control signed.

use crypto_box::aead::OsRng;
use longwatch_events::fact::{Fact, SegmentStored};
use longwatch_events::hash::Sha256;
use longwatch_events::join::JoinReply;
use longwatch_events::media::{MediaKey, Part, Ticket};
use longwatch_events::sealed::{Base64Bytes, PublicKey};
use longwatch_events::time::{Clock, SystemClock};

use crate::playing::PlayingCamera;
use crate::system::{System, camera, eventually, welcome};

const KEY: [u8; 32] = [7; 32];

/// A welcome with a key to give out video with.
fn welcome_with_key(system: &System, to: PublicKey) -> JoinReply {
    let sealed = crypto_box::PublicKey::from(to.0).seal(&mut OsRng, &KEY).unwrap();
    let mut reply = welcome(system.server_id);
    if let JoinReply::Welcome { media_key, .. } = &mut reply {
        *media_key = Some(Base64Bytes(sealed));
    }
    reply
}

async fn stored(system: &System) -> SegmentStored {
    let is_stored = |fact| if let Fact::SegmentStored(stored) = fact { Some(stored) } else { None };
    eventually("a segment is stored", async || system.facts().await.into_iter().find_map(is_stored)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_recorded_is_given_out_where_heartbeats_say_as_soon_as_control_told_the_key() {
    let (mut system, playing) = (System::start().await, PlayingCamera::start().await);
    system.write_join_key();
    // Given a worker that is let in by a control that gives no key …
    let worker = system.start_worker_with(&["--media-listen", "127.0.0.1:0", "--segment-ms", "1000"]);
    let public_key = system.joined().await.public_key;
    system.assign(3, vec![vec![camera(1, 2, &playing.url(), public_key)]]).await;
    let heartbeat = system.heartbeat_that("it says where", |h| h.media_url.is_some()).await;
    let url = heartbeat.media_url.unwrap();
    assert!(url.starts_with("http://127.0.0.1:") && !url.ends_with(":0"), "{url}");
    let segment = stored(&system).await;
    let ticket = Ticket {
        key: segment.key.clone(),
        part: Part::File,
        start: segment.start,
        until: None,
        expires: SystemClock.now().plus_millis(600_000),
    };
    let address = format!("{url}{}", MediaKey::from_slice(&KEY).unwrap().sign(&ticket));
    assert_eq!(reqwest::get(&address).await.unwrap().status(), 503);
    // … when the next welcome brings one …
    system.control_says(Some(welcome_with_key(&system, public_key)));
    system.kill_nats().await;
    system.start_nats().await;
    // … then whoever holds an address gets what was reported, and nobody else gets anything.
    let file = eventually("it is given out", async || {
        let answer = reqwest::get(&address).await.unwrap();
        if answer.status() == 200 { Some(answer.bytes().await.unwrap()) } else { None }
    })
    .await;
    assert_eq!((file.len() as u64, Sha256::of(&file)), (segment.bytes, segment.sha256));
    assert_eq!(reqwest::get(address.replace("expires=", "expires=1")).await.unwrap().status(), 403);
    assert_eq!(worker.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_cannot_listen_says_so_and_ends() {
    let system = System::start().await;
    system.write_join_key();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    assert_eq!(system.start_worker_with(&["--media-listen", &listen]).exit_code().await, Some(1));
    let everywhere = ["--media-listen", "0.0.0.0:0"];
    assert_eq!(system.start_worker_with(&everywhere).exit_code().await, Some(2));
    let said = std::fs::read_to_string(system.path("worker.log")).unwrap();
    for expected in [format!("cannot listen on {listen}"), "expected --media-url".to_owned()] {
        assert!(said.contains(&expected), "{expected} in {said}");
    }
}
