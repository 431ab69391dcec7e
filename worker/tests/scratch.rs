//! scratch
#![allow(clippy::unwrap_used, missing_docs)]
use std::sync::Arc;
use std::time::Duration;
use longwatch_events::assignment::SourceSecret;
use longwatch_events::id::*;
use longwatch_events::position::Epoch;
use longwatch_events::time::SystemClock;
use longwatch_worker::archive::Archive;
use longwatch_worker::camera::*;
use longwatch_worker::rotation::Lengths;
use longwatch_worker::source::address::AddressPolicy;
use longwatch_worker::source::rtsp::*;
use tokio_util::sync::CancellationToken;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scratch() {
    let urls = std::env::var("URLS").unwrap();
    let secs: u64 = std::env::var("SECS").unwrap().parse().unwrap();
    let root = std::env::var("ROOT").unwrap();
    std::fs::create_dir_all(&root).unwrap();
    let clock: Arc<SystemClock> = Arc::new(SystemClock);
    let archive = Archive::new(root.into(), 16);
    let (facts, mut out) = tokio::sync::mpsc::unbounded_channel();
    let cancel = CancellationToken::new();
    let mut tasks = vec![];
    let server_id = ServerId::generate(&SystemIds);
    for url in urls.split(',') {
        let secret = SourceSecret { url: url.into(), username: std::env::var("USERNAME").ok(), password: std::env::var("PASSWORD").ok() };
        let source = RtspSource::new(secret, AddressPolicy::new(vec!["127.0.0.0/8".parse().unwrap()]), Timeouts::default(), clock.clone());
        let stats = Arc::new(Stats::default());
        tasks.push((stats.clone(), tokio::spawn(run(CameraTask {
            identity: Identity { tenant_id: TenantId::DEFAULT, camera_id: CameraId::generate(&SystemIds), epoch: Epoch(1), server_id },
            source, settings: Settings { lengths: Lengths { segment_ms: 5000, ..Default::default() }, ..Default::default() },
            archive: archive.clone(), facts: facts.clone(), clock: clock.clone(), stats, cancel: cancel.clone(), resume: None,
        }))));
    }
    drop(facts);
    let print = tokio::spawn(async move { while let Some(f) = out.recv().await { println!("{f:?}"); } });
    tokio::time::sleep(Duration::from_secs(secs)).await;
    cancel.cancel();
    let t = std::time::Instant::now();
    for (stats, task) in tasks { println!("{:?} {stats:?}", task.await.unwrap()); }
    println!("stopped in {:?}", t.elapsed());
    print.await.unwrap();
}
