//! Recorded video, given out to whoever holds an address that control signed.

use crypto_box::aead::OsRng;
use longwatch_events::fact::{Fact, SegmentStored};
use longwatch_events::hash::Sha256;
use longwatch_events::join::JoinReply;
use longwatch_events::media::{MediaKey, Part, Ticket};
use longwatch_events::sealed::{Base64Bytes, PublicKey};
use longwatch_events::time::{Clock, SystemClock};

use crate::playing::PlayingCamera;
use crate::system::{System, camera, eventually, free_port, welcome};

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
    let listen = format!("127.0.0.1:{}", free_port());
    let url = format!("http://{listen}");
    let worker = system.start_worker_with(&["--media-listen", &listen, "--segment-ms", "1000"]);
    let public_key = system.joined().await.public_key;
    system.assign(3, vec![vec![camera(1, 2, &playing.url(), public_key)]]).await;
    let segment = stored(&system).await;
    let ticket = Ticket {
        key: segment.key.clone(),
        part: Part::File,
        start: segment.start,
        until: None,
        expires: SystemClock.now().plus_millis(600_000),
    };
    let address = format!("{url}{}", MediaKey::from_slice(&KEY).unwrap().sign(&ticket));
    let answers = async || reqwest::get(&address).await.ok().map(|answer| answer.status());
    assert_eq!(eventually("it listens", answers).await, 503);
    assert_eq!(system.heartbeat().await.unwrap().media_url, None);
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
    system.heartbeat_that("it says where", |heartbeat| heartbeat.media_url.as_ref() == Some(&url)).await;
    assert_eq!((file.len() as u64, Sha256::of(&file)), (segment.bytes, segment.sha256));
    assert_eq!(reqwest::get(address.replace("expires=", "expires=1")).await.unwrap().status(), 403);
    assert_eq!(worker.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_cannot_listen_yet_records_and_listens_as_soon_as_it_can() {
    let mut system = System::start().await;
    system.write_join_key();
    // Given somebody else at its address …
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let worker = system.start_worker_with(&["--media-listen", &listen]);
    let public_key = system.joined().await.public_key;
    system.control_says(Some(welcome_with_key(&system, public_key)));
    system.kill_nats().await;
    system.start_nats().await;
    let said = || std::fs::read_to_string(system.path("worker.log")).unwrap();
    let expected = format!("cannot listen on {listen}");
    eventually("it says so", async || said().contains(&expected).then_some(())).await;
    // … then it works, and says that it gives out nothing …
    let heartbeat = system.heartbeat_that("it is alive", |heartbeat| heartbeat.sequence > 5).await;
    assert_eq!(heartbeat.media_url, None);
    // … until the address is free.
    drop(taken);
    let url = format!("http://{listen}");
    system.heartbeat_that("it says where", |heartbeat| heartbeat.media_url.as_ref() == Some(&url)).await;
    assert_eq!(reqwest::get(&url).await.unwrap().status(), 404);
    assert_eq!(said().matches(&expected).count(), 1);
    assert_eq!(worker.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_makes_no_sense_is_refused_at_the_start() {
    let system = System::start().await;
    let everywhere = ["--media-listen", "0.0.0.0:0"];
    assert_eq!(system.start_worker_with(&everywhere).exit_code().await, Some(2));
    let said = std::fs::read_to_string(system.path("worker.log")).unwrap();
    assert!(said.contains("expected --media-url"), "{said}");
}
