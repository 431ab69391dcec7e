//! An archive in an object store that is away for a while, of a server that is killed meanwhile: what is durable on the server
//! is in the timeline all the time, and in the bucket in the end; until it is not to be kept any longer, whoever is left to see
//! to that.

#![allow(clippy::print_stdout, reason = "how long it took is worth knowing when it fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use longwatch_events::id::CameraId;
use longwatch_loadtest::system::api::Api;
use longwatch_loadtest::system::archive;
use longwatch_loadtest::system::cameras::Cameras;
use longwatch_loadtest::system::cluster::{Cluster, ObjectStore, Options};
use longwatch_loadtest::system::footage::Footage;
use longwatch_testing::s3::{BUCKET, S3};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::given::{millis, until};

const CAMERAS: u32 = 3;
const SEGMENT_MS: u64 = 2_000;
const WITHIN: Duration = Duration::from_secs(60);
/// Of the object store; the worker is killed in its middle.
const OUTAGE: Duration = Duration::from_secs(16);
/// Of a thousand requests so many meet a fault, all the time.
const FAULTS_PER_MILLE: u32 = 150;

async fn camera(api: &Api, id: &str) -> Result<Value, Value> {
    api.get(&format!("/v1/tenants/default/cameras/{id}")).await.map_err(|error| json!(error.to_string()))
}

async fn until_all(api: &Api, ids: &[String], state: &str) {
    until(&format!("all cameras are {state}"), WITHIN, async || {
        for id in ids {
            let camera = camera(api, id).await?;
            if camera["state"] != state {
                return Err(camera);
            }
        }
        Ok(())
    })
    .await;
}

async fn timeline(api: &Api, id: &str) -> Value {
    api.get(&format!("/v1/tenants/default/cameras/{id}/timeline")).await.unwrap()
}

/// How many of a camera's segments lie where.
fn count(timeline: &Value, location: &str) -> usize {
    let segments = timeline["segments"].as_array().unwrap();
    segments.iter().filter(|segment| segment["location"] == location).count()
}

async fn spool(api: &Api) -> Value {
    api.list("/v1/servers").await.unwrap()[0]["load"].clone()
}

/// All objects that are segments.
fn segments_of(s3: &S3) -> BTreeMap<String, Vec<u8>> {
    let mut objects = s3.objects();
    objects.retain(|key, _| !key.starts_with("site/.longwatch/"));
    objects
}

/// Writes all objects to a folder, as an archive.
fn read_back(s3: &S3, folder: &Path) {
    for (key, content) in segments_of(s3) {
        let path = folder.join(key.strip_prefix("site/").expect("all is below the prefix"));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
}

#[tokio::test]
async fn an_outage_of_the_object_store_and_a_killed_worker_lose_nothing_that_was_durable() {
    let (s3, folder) = (S3::start(), tempfile::tempdir().unwrap());
    s3.faults().draw(1, FAULTS_PER_MILLE);
    let simulator = Cameras::start(CAMERAS).unwrap();
    let options = Options {
        folder: folder.path().to_owned(),
        controls: 1,
        database: None,
        servers: 1,
        capacity: None,
        segment_ms: Some(SEGMENT_MS),
        object_store: Some(ObjectStore {
            archive: format!("s3://{BUCKET}/site"),
            endpoint: s3.endpoint(),
            credentials_file: s3.credentials_file(),
            retention_interval_ms: 500,
        }),
    };
    let mut cluster = Cluster::start(&options).await.unwrap();
    let api = cluster.api(0).clone();
    let mut ids = Vec::new();
    for number in 1..=CAMERAS {
        let url = simulator.url(&format!("/small/{number}"));
        ids.push(api.add_camera(&format!("camera {number}"), &url).await.unwrap());
    }
    until_all(&api, &ids, "recording").await;
    until("segments are uploaded", WITHIN, async || {
        let there = count(&timeline(&api, &ids[0]).await, "object_store");
        if there >= 2 { Ok(()) } else { Err(json!(there)) }
    })
    .await;

    // When the object store is away, then recording goes on, the timeline grows, and somebody hears of it.
    s3.faults().outage(true);
    let began = Instant::now();
    sleep(OUTAGE / 2).await;
    until("the outage is said", WITHIN, async || {
        let load = spool(&api).await;
        let said = load["spool"]["upload"] == "unreachable" && load["storage"] == "low";
        if said && load["spool"]["segments"].as_u64() >= Some(6) { Ok(()) } else { Err(load) }
    })
    .await;
    assert!(count(&timeline(&api, &ids[0]).await, "server") >= 2);
    assert!(api.metric("longwatch_spool_bytes").await.unwrap() > 0.0);
    // In the middle of it the worker is killed.
    cluster.worker(0).kill().unwrap();
    cluster.worker(0).start().unwrap();
    until_all(&api, &ids, "recording").await;
    sleep(OUTAGE.saturating_sub(began.elapsed())).await;
    let waiting = spool(&api).await["spool"].clone();
    s3.faults().outage(false);
    let over = Instant::now();
    until("the spool is drained", WITHIN, async || {
        let load = spool(&api).await;
        let drained = load["spool"]["segments"].as_u64() <= Some(u64::from(CAMERAS));
        if drained && load["spool"]["upload"] == "ok" { Ok(()) } else { Err(load) }
    })
    .await;
    println!("{waiting} were drained {:?} after the outage", over.elapsed());

    // Nothing more is recorded: then all of it is in the object store.
    for id in &ids {
        let path = format!("/v1/tenants/default/cameras/{id}");
        api.call(Method::PATCH, &path, Some(&json!({ "recording": { "mode": "off" } }))).await.unwrap();
    }
    until_all(&api, &ids, "disabled").await;
    let spool_folder = cluster.archive(0).to_owned();
    until("all is uploaded", WITHIN, async || {
        for id in &ids {
            let timeline = timeline(&api, id).await;
            if count(&timeline, "server") > 0 || !timeline["recording"].is_null() {
                return Err(timeline);
            }
        }
        let left = archive::segments(&spool_folder).len();
        if left == 0 { Ok(()) } else { Err(json!(left)) }
    })
    .await;
    let read = tempfile::tempdir().unwrap();
    read_back(&s3, read.path());
    let (footage, objects) = (Footage::read([read.path()]).unwrap(), archive::segments(read.path()));
    for id in &ids {
        let timeline = timeline(&api, id).await;
        let segments = timeline["segments"].as_array().unwrap();
        let camera_id: CameraId = id.parse().unwrap();
        // Each segment is one object, and each object a segment.
        let told: BTreeSet<_> = segments.iter().map(|segment| millis(&segment["start"])).collect();
        let of_camera = objects.iter().filter(|object| object.camera_id == camera_id);
        let there: BTreeSet<_> = of_camera.map(|object| object.start.as_millis()).collect();
        assert_eq!((there, segments.len()), (told.clone(), told.len()), "{id}");
        // One gap, from the kill, and nothing else is missing: not in the timeline, nor of the frames.
        let (first, last) = (millis(&segments[0]["start"]), millis(&segments[segments.len() - 1]["end"]));
        let within = |gap: &&Value| millis(&gap["end"]) > first && millis(&gap["start"]) < last;
        let gaps: Vec<_> = timeline["gaps"].as_array().unwrap().iter().filter(within).collect();
        assert!(gaps.len() == 1 && gaps[0]["cause"] == "worker_restarted", "{id}: {gaps:#?}");
        let gap_ms = millis(&gaps[0]["end"]) - millis(&gaps[0]["start"]);
        let holes = footage.holes(camera_id);
        assert_eq!(holes.len(), 1, "{id}: {holes:?}");
        let missing_ms = i64::try_from(holes[0].frames).unwrap() * 40;
        assert!((missing_ms - gap_ms).abs() < 500, "{id}: {missing_ms} ms are missing, {gap_ms} ms are told");
    }
    its_retention_is_looked_after_by_another(&mut cluster, &options, &s3, &ids).await;
    cluster.stop_workers(WITHIN).await.unwrap();
}

/// The only server that ever uploaded anything is gone, and nobody records the cameras, of which one is deleted, too.
async fn its_retention_is_looked_after_by_another(
    cluster: &mut Cluster,
    options: &Options,
    s3: &S3,
    ids: &[String],
) {
    let api = cluster.api(0).clone();
    let of = |id: &String| {
        let id = id.clone();
        move |key: &String| key.contains(&id)
    };
    let bytes = |id: &String| -> u64 {
        segments_of(s3).into_iter().filter(|(key, _)| of(id)(key)).map(|(_, video)| video.len() as u64).sum()
    };
    let [kept, bounded, deleted] = ids else { panic!("three cameras: {ids:?}") };
    let before = segments_of(s3);
    cluster.worker(0).kill().unwrap();
    for id in [bounded, deleted] {
        let path = format!("/v1/tenants/default/cameras/{id}");
        let half = json!({ "retention": { "max_bytes": bytes(id) / 2 } });
        api.call(Method::PATCH, &path, Some(&half)).await.unwrap();
    }
    api.call(Method::DELETE, &format!("/v1/tenants/default/cameras/{deleted}"), None).await.unwrap();
    let halves = [bounded, deleted].map(|id| bytes(id) / 2);
    cluster.add_server(options).await.unwrap();
    let began = Instant::now();
    until("half of it is deleted", WITHIN, async || {
        let left = [bounded, deleted].map(bytes);
        if left.iter().zip(&halves).all(|(left, half)| left <= half) { Ok(()) } else { Err(json!(left)) }
    })
    .await;
    // The timeline says so: a gap where the oldest was (the gap of the kill may lie between it and what is left), and what
    // is left lies there.
    until("the timeline knows", WITHIN, async || {
        let timeline = timeline(&api, bounded).await;
        let there = segments_of(s3).keys().filter(|key| of(bounded)(key)).count();
        let told = timeline["segments"].as_array().unwrap();
        let joins = gap_up_to(&timeline["gaps"], &told[0]["start"]).contains(&"retention");
        if joins && told.len() == there && count(&timeline, "object_store") == there {
            Ok(())
        } else {
            Err(timeline)
        }
    })
    .await;
    println!("half of what two cameras had was deleted {:?} after a server came that could", began.elapsed());
    // What is not bounded is all there, and of the others what is newest.
    let left: BTreeSet<_> = segments_of(s3).into_keys().collect();
    for id in ids {
        let all: Vec<_> = before.keys().filter(|key| of(id)(key)).collect();
        let newest: Vec<_> = all.iter().copied().filter(|key| left.contains(*key)).collect();
        assert!(all.ends_with(&newest) && !newest.is_empty(), "{id}: {newest:?} of {all:?}");
        assert_eq!(newest.len() == all.len(), id == kept, "{id}");
    }
}

/// The causes of the gaps that lie before `end` without anything in between, the last one first.
fn gap_up_to<'a>(gaps: &'a Value, end: &Value) -> Vec<&'a str> {
    let (mut end, mut causes) = (end, Vec::new());
    for gap in gaps.as_array().unwrap().iter().rev().filter(|gap| gap["start"].as_str() < gap["end"].as_str())
    {
        if gap["end"] == *end {
            causes.push(gap["cause"].as_str().unwrap());
            end = &gap["start"];
        }
    }
    causes
}
