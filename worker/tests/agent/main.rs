//! The worker as a process, against a real nats-server; the test plays control's part.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

mod camera;
mod events;
mod failover;
mod giving_out;
mod keeping;
mod playing;
mod storage;
mod system;
mod uploads;

use std::collections::BTreeSet;
use std::process::Command;

use camera::FailingCameras;
use longwatch_events::fact::{Cause, Fact, Interrupted};
use longwatch_events::join::{JoinReply, RefusedReason};
use longwatch_events::position::Position;
use longwatch_events::sealed::PublicKey;
use longwatch_events::subject::LogStream;
use system::{System, camera, camera_id, eventually, free_port, welcome};

fn interruptions(facts: &[Fact], number: u32) -> Vec<Interrupted> {
    let interrupted = facts.iter().map(|fact| {
        let Fact::Interrupted(interrupted) = fact else { panic!("no camera of this test records: {fact:?}") };
        interrupted
    });
    interrupted.filter(|interrupted| interrupted.camera_id == camera_id(number)).cloned().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn facts_made_while_nats_is_away_arrive_once_and_in_order() {
    let (mut system, cameras) = (System::start().await, FailingCameras::start().await);
    // Given a worker whose join key comes late …
    let worker = system.start_worker();
    eventually("the worker waits", async || {
        system.path("archive/.longwatch/identity.json").exists().then_some(())
    })
    .await;
    system.write_join_key();
    let claim = system.joined().await;
    assert_eq!((claim.name.as_str(), claim.capacity.max_cameras), ("north-1", 12));
    assert_eq!(claim.labels.get("zone"), Some("north"));
    // … and cameras of which one is switched off and three fail in a new way each time …
    let off = format!("rtsp://127.0.0.1:{}/1", free_port());
    let names = ["a", "b", "c"];
    let mut set = vec![camera(0, 5, &off, claim.public_key)];
    set.extend(names.iter().zip(1..).map(|(name, n)| camera(n, 5, &cameras.url(name), claim.public_key)));
    system.assign(7, vec![set]).await;
    let before = system
        .heartbeat_that("the set is applied and settled", |heartbeat| {
            heartbeat.load.applied_revision == Position(7) && heartbeat.load.unsettled == 0
        })
        .await;
    assert_eq!((before.load.cameras, before.load.recording, before.boot_id), (4, 0, claim.boot_id));
    assert!(before.load.memory_bytes > 0 && before.load.disk_total_bytes > 0);
    let refused = eventually("the refusal is reported", async || {
        interruptions(&system.facts().await, 0).first().cloned()
    })
    .await;
    assert_eq!((refused.cause, refused.epoch.0), (Cause::Refused, 5));

    // … when NATS crashes, and facts go on being made …
    system.kill_nats().await;
    let so_far = names.map(|name| cameras.attempts(name));
    eventually("each camera fails twice more", async || {
        names.iter().zip(so_far).all(|(name, before)| cameras.attempts(name) >= before + 2).then_some(())
    })
    .await;
    system.start_nats().await;

    // … then each of them arrives, once and in order, and life goes on.
    eventually("all facts arrive", async || {
        let facts = system.facts().await;
        let complete = |(name, n): (&&str, u32)| interruptions(&facts, n).len() == cameras.attempts(name);
        names.iter().zip(1..).all(complete).then_some(())
    })
    .await;
    let facts = system.facts().await;
    for n in 1..=3 {
        let facts = interruptions(&facts, n);
        let alternating = [Cause::NotFound, Cause::Closed].into_iter().cycle().take(facts.len());
        assert!(facts.iter().map(|fact| fact.cause).eq(alternating), "{facts:?}");
        assert!(facts.iter().is_sorted_by(|a, b| a.at < b.at), "{facts:?}");
    }
    let reports = system.reports().await;
    let ids: BTreeSet<_> = reports.iter().map(|report| report.id).collect();
    assert_eq!(ids.len(), reports.len());
    system
        .heartbeat_that("heartbeats go on and nothing waits", |heartbeat| {
            heartbeat.sequence > before.sequence && heartbeat.load.outbox_facts == 0
        })
        .await;
    assert_eq!(worker.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_starts_while_nats_is_away_records_what_it_last_was_told() {
    let (mut system, cameras) = (System::start().await, FailingCameras::start().await);
    system.write_join_key();
    let worker = system.start_worker();
    let key = system.joined().await.public_key;
    system.assign(3, vec![vec![camera(1, 2, &cameras.url("a"), key)]]).await;
    let before =
        system.heartbeat_that("the set is applied", |h| h.load.applied_revision == Position(3)).await;

    // When NATS and the worker are both killed, and only the worker comes back …
    system.kill_nats().await;
    worker.kill().await;
    let attempts = cameras.attempts("a");
    let worker = system.start_worker();
    // … then it opens its cameras without having spoken to anybody.
    eventually("the camera is opened", async || (cameras.attempts("a") > attempts).then_some(())).await;

    // And when NATS returns while control says nothing, it reports what it did and did before.
    system.control_says(None);
    system.start_nats().await;
    let after = system.heartbeat_that("it lives", |heartbeat| heartbeat.boot_id != before.boot_id).await;
    assert_eq!((after.load.applied_revision, after.load.cameras), (Position(3), 1));
    eventually("all facts arrive", async || {
        let facts = interruptions(&system.facts().await, 1);
        // The killed worker may have died between an attempt and the 0.2 s in which its fact becomes durable.
        (facts.len() + 1 >= cameras.attempts("a")).then_some(())
    })
    .await;
    assert_eq!(worker.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_whole_and_newer_sets_are_applied_and_what_cannot_be_opened_is_said() {
    let (system, cameras) = (System::start().await, FailingCameras::start().await);
    system.write_join_key();
    let worker = system.start_worker();
    let key = system.joined().await.public_key;
    let one = |n: u32, epoch| camera(n, epoch, &cameras.url(&n.to_string()), key);
    system.assign(10, vec![vec![one(1, 4)], vec![one(2, 4)], vec![one(3, 4)]]).await;
    system
        .heartbeat_that("three parts make one set", |h| {
            h.load.applied_revision == Position(10) && h.load.cameras == 3
        })
        .await;
    // Given an older set, which must not count, and then one with a camera sealed to somebody else …
    system.assign(9, vec![vec![one(1, 3)]]).await;
    let foreign = camera(4, 6, "rtsp://127.0.0.1:1/x", PublicKey([9; 32]));
    system.assign(11, vec![vec![one(1, 6), foreign]]).await;
    // … then the others go on.
    system
        .heartbeat_that("the newest set is applied", |h| {
            h.load.applied_revision == Position(11) && h.load.cameras == 2
        })
        .await;
    let facts = eventually("both are reported", async || {
        let facts = system.facts().await;
        let reported = |n| interruptions(&facts, n).iter().any(|fact| fact.epoch.0 == 6);
        (reported(1) && reported(4)).then_some(facts)
    })
    .await;
    assert!(interruptions(&facts, 1).iter().all(|fact| fact.epoch.0 != 3));
    let unopened = interruptions(&facts, 4);
    assert_eq!((unopened.len(), unopened[0].cause), (1, Cause::ProtocolError));
    assert!(unopened[0].detail.contains("not sealed to this server's key"), "{}", unopened[0].detail);
    assert_eq!(worker.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn facts_wait_for_a_log_stream_that_is_not_there() {
    let (system, cameras) = (System::start().await, FailingCameras::start().await);
    system.write_join_key();
    system.delete(LogStream::Recordings).await;
    let worker = system.start_worker();
    let key = system.joined().await.public_key;
    system.assign(1, vec![vec![camera(1, 1, &cameras.url("a"), key)]]).await;
    system.heartbeat_that("facts wait", |heartbeat| heartbeat.load.outbox_facts >= 2).await;
    system.create(LogStream::Recordings).await;
    eventually("facts arrive", async || (interruptions(&system.facts().await, 1).len() >= 2).then_some(()))
        .await;
    assert_eq!(worker.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_detached_server_records_nothing_until_it_is_let_in_again() {
    let (mut system, cameras) = (System::start().await, FailingCameras::start().await);
    system.write_join_key();
    let worker = system.start_worker();
    let key = system.joined().await.public_key;
    system.assign(1, vec![vec![camera(1, 1, &cameras.url("a"), key)]]).await;
    system
        .heartbeat_that("the set is applied", |heartbeat| heartbeat.load.applied_revision == Position(1))
        .await;
    let saved = system.path("archive/.longwatch/assignments.json");
    assert!(saved.exists());
    let detail = "detached by an owner".to_owned();
    system.control_says(Some(JoinReply::Refused { reason: RefusedReason::Detached, detail }));
    // When it asks again, which it does on a new connection …
    system.kill_nats().await;
    system.start_nats().await;
    // … then it forgets what it was told to record.
    eventually("the saved set is gone", async || (!saved.exists()).then_some(())).await;
    worker.kill().await;

    let attempts = cameras.attempts("a");
    let server_id = system.server_id;
    system.control_says(Some(welcome(server_id)));
    let worker = system.start_worker();
    eventually("it records again", async || (cameras.attempts("a") > attempts).then_some(())).await;
    assert_eq!(worker.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_has_one_worker() {
    let system = System::start().await;
    system.write_join_key();
    let first = system.start_worker();
    system.joined().await;
    let second = system.start_worker();
    assert_eq!(second.exit_code().await, Some(1));
    assert_eq!(first.terminate().await, Some(0));
}

#[test]
fn wrong_usage_says_what_and_where() {
    let run = |arguments: &[&str], variables: &[(&str, &str)]| {
        let output = Command::new(env!("CARGO_BIN_EXE_longwatch-worker"))
            .args(arguments)
            .env_clear()
            .envs(variables.iter().copied())
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let variables = [
        ("LONGWATCH_NATS", "nats://127.0.0.1:1"),
        ("LONGWATCH_NAME", "n"),
        ("LONGWATCH_JOIN_KEY_FILE", "/nonexistent"),
        ("LONGWATCH_ARCHIVE", "s3://bucket/prefix"),
    ];
    for (arguments, variables, expected) in [
        (&[][..], &variables[..], "--spool is missing"),
        (&[], &variables[..3], "--archive is missing"),
        (&["--archive", "/tmp", "--segment-ms", "5"], &variables[..], "--segment-ms: 5"),
        (&["--archive", "/tmp", "--log-filter", "=="], &variables[..], "--log-filter"),
        (&["--what"], &variables[..], "--what"),
    ] {
        let (code, stderr) = run(arguments, variables);
        assert_eq!(code, Some(2), "{stderr}");
        assert!(stderr.contains(expected), "{expected} in {stderr}");
    }
    assert_eq!(run(&["--help"], &[]).0, Some(0));
}
