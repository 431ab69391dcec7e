//! What a client does all day.

use super::*;

use longwatch_events::event::{ControlTicked, Event, RecordingReported, ServerHeartbeat};
use longwatch_events::fact::{Cause, Codec, Fact, FirstKeyframeDurable, Interrupted, SegmentStored};
use longwatch_events::hash::Sha256;
use longwatch_events::id::{BootId, CameraId, EventId, ServerId, TenantId};
use longwatch_events::position::Epoch;
use longwatch_events::settings::Capacity;
use longwatch_events::time::Timestamp;

use crate::observed::TICK_MS;
use crate::testing::START;

fn at(second: i64) -> Timestamp {
    START.plus_millis(second * 1_000)
}

impl Api {
    /// Appends what a worker would, and waits until it has been folded.
    pub(super) async fn happens(&self, event: Event) {
        let service = &self.control.service;
        let event_id = EventId::generate(service.ids());
        let (stream, _) = longwatch_events::subject::of(&event);
        let position = service.append("server:test", event_id, event, None).await.unwrap();
        if stream == longwatch_events::subject::LogStream::Recordings {
            service.progress().wait_for(|progress| progress.recordings >= position).await.unwrap();
        }
    }

    pub(super) async fn heartbeat(&self, server_id: ServerId, sequence: u64) {
        self.heartbeat_with(server_id, sequence, None).await;
    }

    /// One that says where the server gives out what it recorded.
    pub(super) async fn heartbeat_with(&self, server_id: ServerId, sequence: u64, media_url: Option<&str>) {
        let boot_id = BootId::from_uuid(server_id.as_uuid());
        let load = Default::default();
        self.happens(Event::ServerHeartbeat(ServerHeartbeat {
            server_id,
            boot_id,
            sequence,
            load,
            media_url: media_url.map(str::to_owned),
        }))
        .await;
        let seen = || self.control.service.observed().seen(server_id).is_some_and(|s| s.sequence >= sequence);
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
        while !seen() {
            assert!(tokio::time::Instant::now() < deadline, "the heartbeat was never observed");
            tokio::task::yield_now().await;
        }
    }

    pub(super) async fn report(&self, server_id: ServerId, facts: Vec<Fact>) {
        let boot_id = BootId::from_uuid(server_id.as_uuid());
        self.happens(Event::RecordingReported(RecordingReported { server_id, boot_id, facts })).await;
    }

    /// A camera that a server has, and what identifies its recording.
    pub(super) async fn placed_camera(&self) -> (String, ServerId, CameraId, Epoch) {
        let server = self.control.add_server("north", Capacity::default()).await;
        let (camera, path) = self.camera("Gate").await;
        let camera: CameraId = camera["id"].as_str().unwrap().parse().unwrap();
        let placed = |state: &longwatch_events::state::State| {
            state.camera(TenantId::DEFAULT, camera).is_some_and(|c| c.assignment().is_some())
        };
        self.control.until(placed).await;
        // The rows come a moment after State.
        let position = self.control.service.state().position;
        self.control.service.folded(position).await.unwrap();
        let state = self.control.service.state();
        let epoch = state.camera(TenantId::DEFAULT, camera).unwrap().assignment().unwrap().epoch;
        drop(state);
        (path, server, camera, epoch)
    }
}

#[tokio::test]
async fn a_camera_is_added_read_changed_and_deleted() {
    let api = Api::start().await;
    let body = json!({
        "name": "Gate 3", "folder_id": null, "labels": { "zone": "north" },
        "source": { "url": "rtsp://10.0.0.7:554/stream1", "username": "u", "password": "p", "transport": "tcp" },
        "recording": { "mode": "continuous" }, "retention": { "max_days": 30, "max_bytes": null },
        "failover_priority": "high", "preferred_server_id": null, "copies": 1, "expected_bitrate_bps": 2_000_000,
    });
    let added = api.post(CAMERAS, &body).await.expect(201);
    let path = added.header("location").to_owned();
    let camera = added.json();
    assert_eq!(added.header("etag"), camera["etag"]);
    assert_eq!(
        camera["source"],
        json!({
            "url": "rtsp://10.0.0.7:554/stream1", "has_credentials": true, "transport": "tcp",
        })
    );
    for field in ["name", "folder_id", "labels", "recording", "retention", "failover_priority", "copies"] {
        assert_eq!(camera[field], body[field], "{field}");
    }
    assert_eq!((&camera["state"], &camera["assignment"]), (&json!("unplaced"), &Value::Null));

    let read = api.get(&path).await.expect(200);
    assert_eq!(read.json()["id"], camera["id"]);
    assert_eq!(api.get(CAMERAS).await.json()["items"][0]["id"], camera["id"]);

    let patch = json!({ "labels": { "zone": null, "floor": "2" }, "retention": null });
    let changed = api.patch(&path, Some(read.header("etag")), &patch).await.expect(200).json();
    assert_eq!(changed["labels"], json!({ "floor": "2" }));
    assert_eq!(changed["retention"], json!({ "max_days": null, "max_bytes": null }));
    assert_eq!((&changed["name"], &changed["source"]), (&camera["name"], &camera["source"]));

    api.delete(&path).await.expect(204);
    api.get(&path).await.problem(404, "not_found");
}

#[tokio::test]
async fn a_schedule_is_written_read_kept_and_taken_away() {
    let api = Api::start().await;
    let schedule = json!({ "time_zone": "Europe/Berlin", "weekly": [
        { "days": ["mon", "tue"], "from": "08:00", "to": "18:00" },
        { "days": ["sat"], "from": "22:00:30", "to": "24:00" },
    ] });
    let body = json!({ "name": "x", "source": { "url": "rtsp://h/" },
        "recording": { "mode": "schedule", "schedule": schedule } });
    let added = api.post(CAMERAS, &body).await.expect(201);
    let path = added.header("location").to_owned();
    assert_eq!(added.json()["recording"], body["recording"]);
    assert_eq!(api.get(&path).await.json()["recording"], body["recording"]);

    // Another mode keeps it, so that the mode alone brings it back.
    let off = api.patch(&path, None, &json!({ "recording": { "mode": "off" } })).await.expect(200).json();
    assert_eq!(off["recording"], json!({ "mode": "off", "schedule": schedule }));
    assert_eq!(off["state"], "disabled");
    let back =
        api.patch(&path, None, &json!({ "recording": { "mode": "schedule" } })).await.expect(200).json();
    assert_eq!(back["recording"], body["recording"]);

    // A merge patch replaces lists whole, and null takes a field away: then there is nothing to record by.
    let weekly = json!([{ "days": ["sun"], "from": "00:00", "to": "00:00" }]);
    let patch = json!({ "recording": { "schedule": { "weekly": weekly } } });
    let changed = api.patch(&path, None, &patch).await.expect(200).json();
    assert_eq!(changed["recording"]["schedule"], json!({ "time_zone": "Europe/Berlin", "weekly": weekly }));
    let patch = json!({ "recording": { "schedule": null } });
    let problem = api.patch(&path, None, &patch).await.problem(422, "invalid_input");
    assert_eq!(errors(&problem), [("/recording/schedule", "required")]);
    let patch = json!({ "recording": { "mode": "continuous", "schedule": null } });
    let without = api.patch(&path, None, &patch).await.expect(200).json();
    assert_eq!(without["recording"], json!({ "mode": "continuous" }));
}

#[tokio::test]
async fn a_camera_outside_its_schedule_is_idle_and_its_gap_says_so() {
    let api = Api::start().await;
    let (path, server, camera_id, epoch) = api.placed_camera().await;
    api.heartbeat(server, 1).await;
    let tenant_id = TenantId::DEFAULT;
    let rests = Fact::Interrupted(Interrupted {
        tenant_id,
        camera_id,
        epoch,
        at: at(0),
        cause: Cause::NotScheduled,
        detail: "its schedule does not want it recorded before noon".to_owned(),
    });
    api.report(server, vec![rests]).await;
    let camera = api.get(&path).await.json();
    let shown = (&camera["state"], &camera["state_reason"], &camera["state_detail"]);
    let detail = json!("its schedule does not want it recorded before noon");
    assert_eq!(shown, (&json!("idle"), &json!("not_scheduled"), &detail));
    let idle = api.get(&format!("{CAMERAS}?state=idle")).await.expect(200).json();
    assert_eq!(idle["items"][0]["id"], camera["id"]);
    let offline = api.get(&format!("{CAMERAS}?state=offline")).await.expect(200).json();
    assert_eq!(offline["items"], json!([]));
}

#[tokio::test]
async fn what_is_secret_of_a_source_is_kept_and_never_shown() {
    let api = Api::start().await;
    let url = "rtsp://10.0.0.7/live?channel=1&token=geheim1";
    let body = json!({ "name": "x", "source": { "url": url, "username": "admin7", "password": "geheim2" } });
    let added = api.post(CAMERAS, &body).await.expect(201);
    let path = added.header("location").to_owned();
    let shown = "rtsp://10.0.0.7/live?channel=1&token=***";
    assert_eq!(added.json()["source"]["url"], shown);

    // (patch, url, user name, password) as they are afterwards.
    let steps = [
        (json!({ "name": "y" }), url, Some("admin7"), Some("geheim2")),
        (json!({ "source": { "url": shown } }), url, Some("admin7"), Some("geheim2")),
        (json!({ "source": { "password": "geheim3" } }), url, Some("admin7"), Some("geheim3")),
        (json!({ "source": { "username": null, "password": null } }), url, None, None),
        (json!({ "source": { "url": "rtsp://10.0.0.8/" } }), "rtsp://10.0.0.8/", None, None),
    ];
    let mut told = vec![added];
    for (patch, url, username, password) in steps {
        told.push(api.patch(&path, None, &patch).await.expect(200));
        let camera = told.last().unwrap().json()["id"].as_str().unwrap().parse().unwrap();
        let sealed = {
            let state = api.control.service.state();
            state.camera(TenantId::DEFAULT, camera).unwrap().settings.secret()
        };
        let secret = api.control.service.open_source(TenantId::DEFAULT, &sealed).unwrap();
        assert_eq!(secret.url, url, "{patch}");
        assert_eq!(secret.username.as_deref(), username, "{patch}");
        assert_eq!(secret.password.as_deref(), password, "{patch}");
        assert_eq!(told.last().unwrap().json()["source"]["has_credentials"], username.is_some());
    }
    told.push(api.patch(&path, None, &json!({ "source": { "url": shown } })).await);
    // Credentials do not follow an address to another place.
    let given = json!({ "source": { "username": "admin7", "password": "geheim4" } });
    told.push(api.patch(&path, None, &given).await.expect(200));
    for source in [
        json!({ "url": "rtsp://10.6.6.6/" }),
        json!({ "url": "rtsp://10.0.0.8:8554/" }),
        json!({ "url": "rtsp://10.6.6.6/", "username": "admin7" }),
        json!({ "url": "rtsp://10.6.6.6/", "password": "geheim4" }),
    ] {
        told.push(api.patch(&path, None, &json!({ "source": source })).await.expect(422));
        let problem = told.last().unwrap().json();
        assert_eq!(errors(&problem), [("/source/password", "credentials_needed")]);
    }
    let elsewhere = [
        json!({ "url": "rtsp://10.0.0.8:554/other" }),
        json!({ "url": "rtsp://10.6.6.6/", "username": "admin7", "password": "geheim5" }),
        json!({ "url": "rtsp://10.7.7.7/", "username": null, "password": null }),
    ];
    for source in elsewhere {
        told.push(api.patch(&path, None, &json!({ "source": source })).await.expect(200));
    }
    told.push(api.patch(&path, None, &json!({ "source": { "url": shown } })).await);
    assert_eq!(told.last().unwrap().json()["errors"][0]["code"], "redacted_url");
    told.push(api.get(&path).await);
    told.push(api.get(CAMERAS).await);
    for answer in told {
        assert!(!answer.text.contains("geheim") && !answer.text.contains("admin7"), "{answer:?}");
    }
}

#[tokio::test]
async fn a_camera_is_recorded_and_its_state_and_timeline_tell_so() {
    let api = Api::start().await;
    let (path, server_id, camera_id, epoch) = api.placed_camera().await;
    let tenant_id = TenantId::DEFAULT;
    let camera = api.get(&path).await.json();
    assert_eq!(camera["state"], "connecting");
    assert_eq!(camera["assignment"]["server_id"], server_id.to_string());
    assert_eq!(camera["assignment"]["epoch"], epoch.0);

    let stored = Fact::SegmentStored(SegmentStored {
        tenant_id,
        camera_id,
        epoch,
        key: "k".to_owned(),
        start: at(1),
        end: at(61),
        bytes: 15_000_000,
        sha256: Sha256::of(b"x"),
        video_frames: 1_500,
        video: Codec::H264,
        audio: None,
        repaired: false,
    });
    let keyframe = FirstKeyframeDurable { tenant_id, camera_id, epoch, start: at(1), durable_at: at(2) };
    api.report(server_id, vec![Fact::FirstKeyframeDurable(keyframe), stored]).await;
    api.control.clock.advance_millis(90_000);
    api.heartbeat(server_id, 1).await;

    assert_eq!(api.get(&path).await.json()["state"], "recording");
    let listed = api.get(&format!("{CAMERAS}?state=recording&q=GATE&server_id={server_id}")).await.json();
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(1), "{listed}");
    let timeline = api.get(&format!("{path}/timeline")).await.expect(200).json();
    assert_eq!(timeline["segments"].as_array().map(Vec::len), Some(1), "{timeline}");
    assert_eq!(timeline["segments"][0]["bytes"], 15_000_000);
    assert_eq!(timeline["recording"]["since"], at(61).to_string());
    assert_eq!(timeline["gaps"][0]["end"], at(1).to_string(), "{timeline}");
    assert_eq!(timeline["gaps"].as_array().map(Vec::len), Some(1), "{timeline}");

    let detail = "401 Unauthorized".to_owned();
    let interrupted =
        Interrupted { tenant_id, camera_id, epoch, at: at(80), cause: Cause::Unauthorized, detail };
    api.report(server_id, vec![Fact::Interrupted(interrupted)]).await;
    let camera = api.get(&path).await.json();
    assert_eq!((&camera["state"], &camera["state_reason"]), (&json!("offline"), &json!("unauthorized")));
    assert_eq!(camera["state_detail"], "401 Unauthorized");
    let timeline = api.get(&format!("{path}/timeline")).await.json();
    assert_eq!(timeline["gaps"][1]["start"], at(80).to_string(), "{timeline}");
    assert_eq!(timeline["gaps"][1]["cause"], "unauthorized");
    assert_eq!(timeline["recording"], Value::Null);
}

#[tokio::test]
async fn a_silent_server_makes_its_cameras_offline() {
    let api = Api::start().await;
    let (path, server_id, ..) = api.placed_camera().await;
    api.heartbeat(server_id, 1).await;
    let server = api.get(&format!("/v1/servers/{server_id}")).await.expect(200).json();
    assert_eq!((&server["state"], &server["cameras"]), (&json!("online"), &json!(1)));
    assert_eq!(server["last_heartbeat_at"], at(0).to_string());

    let other = api.control.add_server("south", Capacity::default()).await;
    let (boot_id, folded) = (BootId::from_uuid(other.as_uuid()), api.control.service.state().position);
    api.happens(Event::ControlTicked(ControlTicked { boot_id, folded })).await;
    for sequence in 1..=12 {
        api.control.clock.advance_millis(TICK_MS.into());
        api.heartbeat(other, sequence).await;
    }

    let server = api.get(&format!("/v1/servers/{server_id}")).await.json();
    assert_eq!((&server["state"], &server["state_reason"]), (&json!("suspect"), &json!("silent")));
    let camera = api.get(&path).await.json();
    assert_eq!((&camera["state"], &camera["state_reason"]), (&json!("offline"), &json!("server_silent")));
    let offline = api.get(&format!("{CAMERAS}?state=offline")).await.json();
    assert_eq!(offline["items"].as_array().map(Vec::len), Some(1));
    let metrics = api.get("/metrics").await.expect(200).text;
    for line in [
        "longwatch_http_requests_total{",
        "longwatch_cameras{state=\"offline\"}",
        "longwatch_fold_lag_records{",
    ] {
        assert!(metrics.contains(line), "{line} is missing:\n{metrics}");
    }
    assert!(!metrics.contains("camera_id"));
}

#[tokio::test]
async fn a_server_is_announced_changed_and_detached() {
    let api = Api::start().await;
    let body = json!({ "name": "north", "capacity": { "max_cameras": 10 } });
    let announced = api.post("/v1/servers", &body).await.expect(201);
    let path = announced.header("location").to_owned();
    let server = announced.json();
    assert_eq!((&server["state"], &server["state_reason"]), (&json!("suspect"), &json!("never_seen")));
    assert_eq!(server["capacity"], json!({ "max_cameras": 10, "max_bitrate_bps": null }));
    assert_eq!(server["failover"], json!({ "enabled": true, "takeover_limit": 128 }));

    let patch = json!({ "failover": { "enabled": false }, "labels": { "zone": "a" } });
    let changed = api.patch(&path, None, &patch).await.expect(200).json();
    assert_eq!(changed["failover"], json!({ "enabled": false, "takeover_limit": 128 }));
    assert_eq!(changed["capacity"], server["capacity"]);

    let adopted = api.ask("POST", &format!("{path}:adopt"), &[], "").await.expect(200);
    assert_eq!(adopted.json()["etag"], changed["etag"], "it belonged to the system already");
    api.delete(&path).await.expect(204);
    assert_eq!(api.get(&path).await.json()["state"], "detached");
    let listed = api.get("/v1/servers?state=suspect").await.json();
    assert_eq!(listed, json!({ "items": [], "next_cursor": null }));
}

#[tokio::test]
async fn an_undefined_server_is_adopted() {
    use crate::decide::command::Command;
    use longwatch_events::sealed::PublicKey;

    let api = Api::start().await;
    let server_id = ServerId::generate(api.control.service.ids());
    let join = Command::JoinServer {
        server_id,
        name: "north".into(),
        public_key: PublicKey([7; 32]),
        labels: Default::default(),
        capacity: Capacity::default(),
    };
    api.control.execute(join).await;
    let path = format!("/v1/servers/{server_id}");
    assert_eq!(api.get(&path).await.json()["state"], "undefined");
    let adopted = api.ask("POST", &format!("{path}:adopt"), &[], "").await.expect(200);
    assert_ne!(adopted.json()["state"], "undefined");
}

#[tokio::test]
async fn assignments_are_listed_by_server_and_camera() {
    let api = Api::start().await;
    let (_, server_id, camera_id, epoch) = api.placed_camera().await;
    for query in [String::new(), format!("?server_id={server_id}"), format!("?camera_id={camera_id}")] {
        let list = api.get(&format!("/v1/assignments{query}")).await.expect(200).json();
        assert_eq!(list["items"][0]["epoch"], epoch.0, "{query}: {list}");
        assert_eq!(list["items"][0]["position"], epoch.0);
        assert_eq!(list["items"][0]["reason"], "least_loaded");
    }
    let nobody = format!("/v1/assignments?server_id={camera_id}");
    assert_eq!(api.get(&nobody).await.json()["items"], json!([]));
}

#[tokio::test]
async fn a_list_is_read_in_parts() {
    let api = Api::start().await;
    let mut names = Vec::new();
    for number in 0..5 {
        names.push(json!(format!("Camera {number}")));
        api.camera(&format!("Camera {number}")).await;
    }
    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let part = api.get(&format!("{CAMERAS}?limit=2{cursor}")).await.expect(200).json();
        seen.extend(part["items"].as_array().unwrap().iter().map(|camera| camera["name"].clone()));
        match part["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
        assert!(seen.len() <= 6, "the list does not end");
    }
    assert_eq!(seen, names);
}

#[tokio::test]
async fn a_request_that_is_sent_again_with_its_key_creates_one_thing() {
    let api = Api::start().await;
    let headers = [("content-type", "application/json"), ("idempotency-key", "order 66")];
    let body = json!({ "name": "x", "source": { "url": "rtsp://h/" } }).to_string();
    let first = api.ask("POST", CAMERAS, &headers, body.clone()).await.expect(201);
    let again = api.ask("POST", CAMERAS, &headers, body.clone()).await.expect(201);
    assert_eq!(first.header("location"), again.header("location"));
    assert_eq!(api.get(CAMERAS).await.json()["items"].as_array().map(Vec::len), Some(1));
    let server = json!({ "name": "north" }).to_string();
    let first = api.ask("POST", "/v1/servers", &headers, server.clone()).await.expect(201);
    let again = api.ask("POST", "/v1/servers", &headers, server).await.expect(201);
    assert_eq!(first.header("location"), again.header("location"));
}

#[tokio::test]
async fn changes_that_run_into_each_other_are_all_made() {
    let api = Api::start().await;
    let (_, path) = api.camera("Gate").await;
    let patches = (0..4).map(|n| json!({ "labels": { format!("k{n}"): "v" } }));
    let changes = patches.map(|patch| {
        let (api, path) = (&api, path.clone());
        async move { api.patch(&path, None, &patch).await.expect(200) }
    });
    futures::future::join_all(changes).await;
    let labels = api.get(&path).await.json()["labels"].clone();
    assert_eq!(labels, json!({ "k0": "v", "k1": "v", "k2": "v", "k3": "v" }));
}

#[tokio::test]
async fn a_tenant_is_created_renamed_and_deleted() {
    let api = Api::start().await;
    assert_eq!(api.get("/v1/tenants/default").await.expect(200).json()["id"], TenantId::DEFAULT.to_string());
    let created = api.post("/v1/tenants", &json!({ "name": "Harbour" })).await.expect(201);
    let path = created.header("location").to_owned();
    let renamed =
        api.patch(&path, Some(created.header("etag")), &json!({ "name": "Port" })).await.expect(200);
    assert_eq!(renamed.json()["name"], "Port");
    assert_eq!(api.get("/v1/tenants").await.json()["items"].as_array().map(Vec::len), Some(2));
    api.delete(&path).await.expect(204);
    api.get(&path).await.problem(404, "not_found");
}

#[tokio::test]
async fn two_replicas_of_one_log_have_the_same_hashes() {
    let api = Api::start().await;
    let (path, ..) = api.placed_camera().await;
    api.patch(&path, None, &json!({ "name": "Gate 4" })).await.expect(200);
    let system = api.get("/v1/system?hashes=true").await.expect(200).json();

    let replica = TestControl::on(api.control.log.clone(), api.control.clock.clone()).await;
    let target = system["log_position"].as_u64().unwrap();
    replica.service.progress().wait_for(|progress| progress.log.0 >= target).await.unwrap();
    let service = Arc::clone(&replica.service);
    let router = super::super::router(service, Key::from_text(KEY));
    let replica = Api { control: replica, router };

    assert_eq!(replica.get("/v1/system?hashes=true").await.expect(200).json(), system);
    assert_eq!(system["default_tenant_id"], TenantId::DEFAULT.to_string());
    let quick = api.get("/v1/system").await.json();
    assert_eq!((&quick["state_hash"], &quick["log_position"]), (&Value::Null, &system["log_position"]));
}
