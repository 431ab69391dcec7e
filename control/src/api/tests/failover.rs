//! What operators do with servers and placements, and what they are told of them.

use super::*;

use std::time::Duration;

use longwatch_events::event::{ControlTicked, Event, ServerLost};
use longwatch_events::fact::{Fact, FirstKeyframeDurable};
use longwatch_events::id::{BootId, CameraId, CopyKey, ServerId, TenantId};
use longwatch_events::sealed::PublicKey;
use longwatch_events::settings::Capacity;
use longwatch_events::state::CameraCopy;

use crate::decide::command::Command;
use crate::observed::TICK_MS;
use crate::testing::START;
use crate::watch;

const TENANT: TenantId = TenantId::DEFAULT;

fn key(camera_id: CameraId, copy: u8) -> CopyKey {
    CopyKey { tenant_id: TENANT, camera_id, copy }
}

impl Api {
    async fn server(&self, name: &str, max_cameras: u32) -> ServerId {
        self.control.add_server(name, Capacity { max_cameras, max_bitrate_bps: None }).await
    }

    async fn add(&self, body: &Value) -> CameraId {
        let mut body = body.clone();
        body["source"] = json!({ "url": "rtsp://10.0.0.7/stream1" });
        let added = self.post(CAMERAS, &body).await.expect(201).json();
        added["id"].as_str().unwrap().parse().unwrap()
    }

    async fn read_camera(&self, camera: CameraId) -> Value {
        self.get(&format!("{CAMERAS}/{camera}")).await.expect(200).json()
    }

    async fn read_server(&self, server: ServerId) -> Value {
        self.get(&format!("/v1/servers/{server}")).await.expect(200).json()
    }

    async fn verb(&self, server: ServerId, verb: &str) -> Answer {
        self.ask("POST", &format!("/v1/servers/{server}:{verb}"), &[], "").await
    }

    /// Waits until a copy has come to what `reached` says, and gives it.
    async fn until_copy(&self, key: CopyKey, reached: impl Fn(&CameraCopy) -> bool) -> CameraCopy {
        self.control.until(|state| state.copy(key).is_some_and(|(_, copy)| reached(copy))).await;
        self.control.service.state().copy(key).unwrap().1.clone()
    }

    async fn until_on(&self, key: CopyKey, server: ServerId) -> CameraCopy {
        self.until_copy(key, |copy| {
            copy.successor().is_none() && copy.assignment().is_some_and(|a| a.server_id == server)
        })
        .await
    }

    /// The server that a copy is to record it says that it does, and the move is over.
    async fn complete_move(&self, key: CopyKey, server: ServerId) {
        let copy = self.until_copy(key, |copy| copy.successor().is_some()).await;
        let successor = *copy.successor().unwrap();
        assert_eq!(successor.server_id, server);
        self.keyframe(key.camera_id, successor.server_id, successor.epoch).await;
        self.until_on(key, server).await;
    }

    async fn keyframe(
        &self,
        camera_id: CameraId,
        server: ServerId,
        epoch: longwatch_events::position::Epoch,
    ) {
        let (tenant_id, start) = (TENANT, START);
        let keyframe = FirstKeyframeDurable { tenant_id, camera_id, epoch, start, durable_at: start };
        self.report(server, vec![Fact::FirstKeyframeDurable(keyframe)]).await;
    }

    async fn lose(&self, server_id: ServerId) {
        let (heard_at, judged_at) = (START, START.plus_millis(3_001));
        let lost = ServerLost { server_id, last_heartbeat: None, heard_at, judged_at, lease_ms: 3_000 };
        self.happens(Event::ServerLost(lost)).await;
        self.control.until(|state| state.server(server_id).unwrap().lost.is_some()).await;
    }

    async fn problem_codes(&self) -> Vec<String> {
        let system = self.get("/v1/system").await.expect(200).json();
        let problems = system["problems"].as_array().unwrap();
        problems.iter().map(|problem| problem["code"].as_str().unwrap().to_owned()).collect()
    }
}

#[tokio::test]
async fn a_server_is_drained_and_gets_its_cameras_back() {
    let api = Api::start().await;
    let (a, b) = (api.server("a", 10).await, api.server("b", 10).await);
    let moves = api.add(&json!({ "name": "moves", "preferred_server_id": a })).await;
    let stays =
        api.add(&json!({ "name": "stays", "preferred_server_id": a, "failover_priority": "never" })).await;
    api.until_on(key(moves, 0), a).await;
    api.until_on(key(stays, 0), a).await;
    api.heartbeat(a, 1).await;
    api.heartbeat(b, 1).await;
    assert_eq!(api.read_server(a).await["state"], "online");

    let draining = api.verb(a, "drain").await.expect(200);
    assert_eq!(draining.json()["state"], "draining");
    assert_eq!(api.verb(a, "drain").await.expect(200).header("etag"), draining.header("etag"), "it is so");
    api.until_copy(key(moves, 0), |copy| copy.successor().is_some()).await;

    let server = api.read_server(a).await;
    assert_eq!(server["drain"], json!({ "cameras_left": 2, "waiting": 1 }));
    assert_eq!((&server["cameras"], &server["leaving"]), (&json!(2), &json!(1)));
    assert_eq!(server["draining_since"], START.to_string());
    assert_eq!(api.read_server(b).await["arriving"], 1);
    let camera = api.read_camera(moves).await;
    assert_eq!(camera["assignment"]["server_id"], a.to_string());
    let placement = &camera["placements"][0];
    assert_eq!(placement["moving_to"]["server_id"], b.to_string());
    assert_eq!(placement["moving_to"]["reason"], "drain");
    let listed = api.get(&format!("/v1/assignments?camera_id={moves}")).await.expect(200).json();
    assert_eq!(listed["items"][0]["server_id"], a.to_string());
    assert_eq!(listed["items"][0]["moving_to"], placement["moving_to"]);
    let of_b = api.get(&format!("/v1/assignments?server_id={b}")).await.json();
    assert_eq!(of_b["items"], json!([]), "it has none before the move is over");
    let metrics = api.get("/metrics").await.text;
    assert!(metrics.contains("longwatch_moves_under_way 1"), "{metrics}");
    assert!(metrics.contains("longwatch_servers{state=\"draining\"} 1"), "{metrics}");

    api.complete_move(key(moves, 0), b).await;
    let server = api.read_server(a).await;
    assert_eq!(server["drain"], json!({ "cameras_left": 1, "waiting": 1 }));
    assert_eq!(server["home_cameras_away"], 1);
    let placement = api.read_camera(moves).await["placements"][0].clone();
    assert_eq!(placement["home_server_id"], a.to_string());

    let resumed = api.verb(a, "resume").await.expect(200).json();
    assert_eq!((&resumed["state"], &resumed["draining_since"]), (&json!("online"), &Value::Null));
    assert_eq!(resumed["drain"], Value::Null);
    api.verb(a, "failback").await.expect(200);
    api.complete_move(key(moves, 0), a).await;
    assert_eq!(api.read_server(a).await["home_cameras_away"], 0);
    assert_eq!(api.read_camera(moves).await["assignment"]["reason"], "failback");
}

#[tokio::test]
async fn cameras_that_others_record_are_not_deleted_with_their_server() {
    let api = Api::start().await;
    let (a, b) = (api.server("a", 10).await, api.server("b", 10).await);
    let camera = api.add(&json!({ "name": "x", "preferred_server_id": a })).await;
    api.until_on(key(camera, 0), a).await;
    api.lose(a).await;
    api.until_on(key(camera, 0), b).await;
    let path = format!("/v1/servers/{a}:detach");
    let json_type = [("content-type", "application/json")];
    let refused = api.ask("POST", &path, &json_type, "{\"cameras\": \"remove\"}").await;
    let problem = refused.problem(409, "cameras_recorded_elsewhere");
    assert!(problem["detail"].as_str().unwrap().contains("1 camera(s)"), "{problem}");
    // Let go without them, it leaves them where they are.
    api.ask("POST", &path, &json_type, "{\"cameras\": \"keep\"}").await.expect(200);
    assert_eq!(api.read_camera(camera).await["assignment"]["server_id"], b.to_string());
}

#[tokio::test]
async fn a_server_that_was_let_go_is_shown_and_taken_in_again() {
    let api = Api::start().await;
    assert_eq!(api.problem_codes().await, ["no_servers"]);
    let server = api.server("a", 10).await;
    let (kept, gone) = (api.server("b", 10).await, api.add(&json!({ "name": "x" })).await);
    api.control.until(|state| state.copy(key(gone, 0)).is_some_and(|(_, c)| c.assignment().is_some())).await;
    let holds = api.control.service.state().copy(key(gone, 0)).unwrap().1.assignment().unwrap().server_id;
    let path = format!("/v1/servers/{holds}:detach");
    let json_type = [("content-type", "application/json")];
    let wrong = api.ask("POST", &path, &json_type, "{\"cameras\": \"burn\"}").await;
    assert_eq!(errors(&wrong.problem(422, "invalid_input")), [("/cameras", "unknown_word")]);
    let detached = api.ask("POST", &path, &json_type, "{\"cameras\": \"remove\"}").await.expect(200);
    assert_eq!(detached.json()["state"], "detached");
    api.get(&format!("{CAMERAS}/{gone}")).await.problem(404, "not_found");
    let listed = api.get("/v1/servers?state=detached").await.json();
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(1), "{listed}");
    api.verb(holds, "drain").await.problem(409, "server_not_adopted");
    api.delete(&format!("/v1/servers/{holds}")).await.expect(204);
    assert_eq!(api.read_server(holds).await["etag"], detached.json()["etag"], "it was so");

    // Its worker is seen again.
    let public_key = {
        let state = api.control.service.state();
        state.server(holds).unwrap().public_key.unwrap()
    };
    let join = |public_key: PublicKey| Command::JoinServer {
        server_id: holds,
        name: "a".into(),
        public_key,
        labels: Default::default(),
        capacity: Capacity::default(),
    };
    api.control.execute(join(public_key)).await;
    let seen = api.read_server(holds).await;
    assert_eq!((&seen["state"], &seen["state_reason"]), (&json!("undefined"), &json!("detached")));
    let adopted = api.verb(holds, "adopt").await.expect(200).json();
    assert_eq!(adopted["state_reason"], Value::Null, "{adopted}");
    assert_eq!(adopted["state"], "online");

    api.delete(&format!("/v1/servers/{server}")).await.expect(204);
    api.delete(&format!("/v1/servers/{kept}")).await.expect(204);
    assert_eq!(api.problem_codes().await, ["no_servers"]);
    assert_eq!(api.get("/readyz").await.expect(200).json()["ready"], true);
}

#[tokio::test]
async fn when_all_servers_are_lost_the_system_says_so() {
    let api = Api::start().await;
    let server = api.server("a", 10).await;
    let camera = api.add(&json!({ "name": "x" })).await;
    api.until_on(key(camera, 0), server).await;
    assert_eq!(api.problem_codes().await, Vec::<String>::new());
    api.verb(server, "drain").await.expect(200);

    api.lose(server).await;

    let shown = api.read_server(server).await;
    assert_eq!((&shown["state"], &shown["lost_since"]), (&json!("lost"), &json!(START.to_string())));
    api.control.until(|state| state.copy(key(camera, 0)).unwrap().1.assignment().is_none()).await;
    assert_eq!(api.problem_codes().await, ["all_servers_lost", "unplaced_cameras"]);
    let placement = api.read_camera(camera).await["placements"][0].clone();
    assert_eq!(placement["unplaced_reason"], "no_server");
    assert_eq!((&placement["state"], &placement["assignment"]), (&json!("unplaced"), &Value::Null));
    assert_eq!(api.get("/readyz").await.expect(200).json()["ready"], true);
    let scaling = api.get("/v1/autoscaling").await.expect(200).json();
    assert_eq!((&scaling["unplaced"], &scaling["servers"]), (&json!(1), &json!(0)));
    assert_eq!(scaling["wanted_servers"], 1);
}

#[tokio::test]
async fn silence_of_too_many_is_told() {
    let api = Api::start().await;
    let server = api.server("a", 10).await;
    api.heartbeat(server, 1).await;
    let service = Arc::clone(&api.control.service);
    let watch = tokio::spawn(async move { watch::run(&service).await });
    for _ in 0..12 {
        api.control.clock.advance_millis(TICK_MS.into());
        let boot_id = BootId::generate(api.control.service.ids());
        let folded = api.control.service.state().position;
        api.happens(Event::ControlTicked(ControlTicked { boot_id, folded })).await;
    }
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while api.problem_codes().await != ["mass_silence_held"] {
        assert!(tokio::time::Instant::now() < deadline, "{:?}", api.problem_codes().await);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(api.read_server(server).await["state"], "suspect", "it is not lost");
    watch.abort();
}

#[tokio::test]
async fn a_camera_has_copies_of_which_each_is_told() {
    let api = Api::start().await;
    let a = api.server("a", 10).await;
    let body = json!({ "name": "x", "copies": 2, "server_labels": {} });
    let camera = api.add(&body).await;
    api.until_on(key(camera, 0), a).await;
    let unplaced =
        |copy: &CameraCopy| matches!(copy.placement, longwatch_events::state::Placement::Unplaced { .. });
    api.until_copy(key(camera, 1), unplaced).await;
    let shown = api.read_camera(camera).await;
    assert_eq!((&shown["copies"], &shown["single_session"]), (&json!(2), &json!(false)));
    assert_eq!(shown["placements"][1]["unplaced_reason"], "no_other_server");

    let b = api.server("b", 10).await;
    let second = *api.until_on(key(camera, 1), b).await.assignment().unwrap();
    api.heartbeat(b, 1).await;
    assert_eq!(api.read_camera(camera).await["placements"][1]["state"], "connecting");
    api.keyframe(camera, b, second.epoch).await;
    let shown = api.read_camera(camera).await;
    assert_eq!(shown["placements"][1]["state"], "recording");
    assert_eq!(shown["placements"][1]["assignment"]["server_id"], b.to_string());
    assert_eq!(
        (&shown["state"], &shown["placements"][0]["state"]),
        (&json!("recording"), &json!("connecting")),
        "a camera is as well off as its best copy"
    );
    let listed = api.get(CAMERAS).await.json();
    assert_eq!(listed["items"][0]["placements"], shown["placements"]);
    let first = api.get("/v1/assignments?limit=1").await.json();
    let cursor = first["next_cursor"].as_str().unwrap();
    let rest = api.get(&format!("/v1/assignments?limit=1&cursor={cursor}")).await.json();
    for (part, copy, server) in [(&first, 0, a), (&rest, 1, b)] {
        let [item] = part["items"].as_array().unwrap().as_slice() else { panic!("{part}") };
        assert_eq!((&item["copy"], &item["server_id"]), (&json!(copy), &json!(server.to_string())));
        assert_eq!(item["moving_to"], Value::Null);
    }
    assert_eq!(rest["next_cursor"], Value::Null);

    let path = format!("{CAMERAS}/{camera}");
    let wrong = api.patch(&path, None, &json!({ "single_session": true })).await;
    assert_eq!(errors(&wrong.problem(422, "invalid_input")), [("/copies", "single_session")]);
    let patch = json!({ "copies": null, "single_session": true, "server_labels": { "rack": "7" } });
    let changed = api.patch(&path, None, &patch).await.expect(200).json();
    assert_eq!((&changed["copies"], &changed["single_session"]), (&json!(1), &json!(true)));
    assert_eq!(changed["server_labels"], json!({ "rack": "7" }));
    assert_eq!(changed["placements"].as_array().map(Vec::len), Some(1));
    assert_eq!(changed["live_latency_ms"], 200);
    let wrong = api.patch(&path, None, &json!({ "live_latency_ms": 10 })).await;
    assert_eq!(errors(&wrong.problem(422, "invalid_input")), [("/live_latency_ms", "out_of_range")]);
    api.patch(&path, None, &json!({ "live_latency_ms": 20 })).await.expect(200);
    let renamed = api.patch(&path, None, &json!({ "name": "y" })).await.expect(200).json();
    assert_eq!(renamed["server_labels"], json!({ "rack": "7" }), "what is not named stays");
    assert_eq!(renamed["live_latency_ms"], 20);
}

#[tokio::test]
async fn a_camera_is_moved_to_where_it_is_wanted() {
    let api = Api::start().await;
    let a = api.server("a", 10).await;
    let camera = api.add(&json!({ "name": "x" })).await;
    api.until_on(key(camera, 0), a).await;
    let b = api.server("b", 10).await;
    let path = format!("{CAMERAS}/{camera}:move");
    let stranger = "01989c5e-7c1f-7d6e-8f6b-0d3f4a5b6c7d";
    for (body, place, code) in [
        (json!({}), "/server_id", "required"),
        (json!({ "server_id": 7 }), "/server_id", "wrong_type"),
        (json!({ "server_id": stranger }), "/server_id", "unknown_server"),
        (json!({ "server_id": b, "copy": 1 }), "/copy", "no_such_copy"),
        (json!({ "server_id": b, "copy": 4 }), "/copy", "out_of_range"),
        (json!({ "server_id": b, "when": "now" }), "/when", "unknown_field"),
    ] {
        let problem = api.post(&path, &body).await.expect(422).json();
        assert_eq!(errors(&problem), [(place, code)], "{body}");
    }
    api.post(&format!("{CAMERAS}/{stranger}:move"), &json!({ "server_id": b }))
        .await
        .problem(404, "not_found");
    api.post(&format!("{CAMERAS}/{camera}:turn"), &json!({})).await.problem(404, "not_found");
    let bare = api.post(&format!("{CAMERAS}/{camera}"), &json!({})).await;
    assert_eq!(bare.header("allow"), "GET, HEAD, PATCH, DELETE");
    bare.problem(405, "method_not_allowed");

    let before = api.get(&format!("{CAMERAS}/{camera}")).await;
    let body = json!({ "server_id": b }).to_string();
    let headers = [("content-type", "application/json"), ("if-match", before.header("etag"))];
    let wished = api.ask("POST", &path, &headers, body.clone()).await.expect(200);
    assert_ne!(wished.header("etag"), before.header("etag"));
    assert_eq!(wished.json()["assignment"]["server_id"], a.to_string(), "it goes on where it is");
    assert_eq!(wished.json()["placements"][0]["requested_server_id"], b.to_string());
    api.ask("POST", &path, &headers, body).await.problem(412, "stale_etag");
    let again = api.post(&path, &json!({ "server_id": b })).await.expect(200);
    assert_eq!(again.header("etag"), wished.header("etag"), "it is wished already");

    api.complete_move(key(camera, 0), b).await;
    let moved = api.read_camera(camera).await;
    assert_eq!(moved["assignment"]["server_id"], b.to_string());
    assert_eq!(moved["assignment"]["reason"], "requested");
    assert_eq!(moved["placements"][0]["requested_server_id"], Value::Null);
}

#[tokio::test]
async fn what_would_happen_is_told_and_nothing_is_changed() {
    let api = Api::start().await;
    let (a, b) = (api.server("a", 3).await, api.server("b", 1).await);
    let settings = |name: &str, priority: &str| json!({ "name": name, "preferred_server_id": a, "failover_priority": priority, "expected_bitrate_bps": 1_000 });
    let first = api.add(&settings("first", "high")).await;
    let second = api.add(&settings("second", "low")).await;
    let third = api.add(&settings("third", "never")).await;
    for camera in [first, second, third] {
        api.until_on(key(camera, 0), a).await;
    }
    let end = api.control.service.state().position;

    let simulated = api.post("/v1/simulations", &json!({ "lose": [a] })).await.expect(200).json();
    assert_eq!(
        (&simulated["placed"], &simulated["unplaced"], &simulated["waiting"]),
        (&json!(1), &json!(1), &json!(1))
    );
    assert_eq!(simulated["missing_bitrate_bps"], 2_000);
    assert_eq!(simulated["by_priority"], json!({ "high": 0, "medium": 0, "low": 1, "never": 1 }));
    let placement = json!({
        "tenant_id": TENANT, "camera_id": first, "copy": 0, "from_server_id": a, "to_server_id": b,
        "reason": "failover",
    });
    assert_eq!(simulated["placements"], json!([placement]));
    let left_out = &simulated["unplaced_cameras"][0];
    assert_eq!((&left_out["camera_id"], &left_out["reason"]), (&json!(second), &json!("no_capacity")));

    let stranger = "01989c5e-7c1f-7d6e-8f6b-0d3f4a5b6c7d";
    let problem = api.post("/v1/simulations", &json!({ "lose": [a, stranger, a, 7, "x"] })).await;
    let problem = problem.problem(422, "invalid_input");
    let mut found = errors(&problem);
    found.sort_unstable();
    let expected = [
        ("/lose/1", "unknown_server"),
        ("/lose/2", "repeated"),
        ("/lose/3", "wrong_type"),
        ("/lose/4", "invalid_id"),
    ];
    assert_eq!(found, expected);
    for (body, code) in [
        (json!({}), "required"),
        (json!({ "lose": [] }), "out_of_range"),
        (json!({ "lose": a }), "wrong_type"),
    ] {
        let problem = api.post("/v1/simulations", &body).await.problem(422, "invalid_input");
        assert_eq!(errors(&problem), [("/lose", code)], "{body}");
    }

    let mut lines = Vec::new();
    let mut cursor = String::new();
    loop {
        let part = api.get(&format!("/v1/failover-readiness?limit=1{cursor}")).await.expect(200).json();
        lines.extend(part["items"].as_array().unwrap().clone());
        let Some(next) = part["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
        assert!(lines.len() <= 2, "the list does not end");
    }
    let line = |server: ServerId| lines.iter().find(|line| line["server_id"] == json!(server)).unwrap();
    assert_eq!((&line(a)["ready"], &line(b)["ready"]), (&json!(false), &json!(true)));
    assert_eq!((&line(a)["cameras"], &line(a)["missing_cameras"]), (&json!(3), &json!(1)));
    assert_eq!((&line(a)["waiting"], &line(a)["missing_bitrate_bps"]), (&json!(1), &json!(1_000)));
    assert_eq!(line(a)["unplaced"], json!({ "high": 0, "medium": 0, "low": 1, "never": 0 }));
    assert_eq!(api.control.service.state().position, end, "nothing was written");
}

#[tokio::test]
async fn a_scaler_reads_numbers() {
    let api = Api::start().await;
    let server = api.server("a", 2).await;
    for name in ["x", "y", "z"] {
        api.add(&json!({ "name": name })).await;
    }
    api.control.until(|state| state.index().roster(server).len() == 2).await;
    let load = longwatch_events::event::Load { cameras: 2, unsettled: 2, ..Default::default() };
    let beat = longwatch_events::event::ServerHeartbeat {
        server_id: server,
        boot_id: BootId::from_uuid(server.as_uuid()),
        sequence: 1,
        load,
        media_url: None,
    };
    api.happens(Event::ServerHeartbeat(beat)).await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while api.control.service.observed().seen(server).is_none() {
        assert!(tokio::time::Instant::now() < deadline, "the heartbeat was never observed");
        tokio::task::yield_now().await;
    }
    let scaling = api.get("/v1/autoscaling").await.expect(200).json();
    let expected = json!({
        "unplaced": 1, "pending": 2, "servers": 1, "wanted_servers": 2, "headroom": 0, "capacity": 2,
    });
    assert_eq!(scaling, expected);
    assert_eq!(api.read_server(server).await["unsettled"], 2);
    let metrics = api.get("/metrics").await.text;
    for line in [
        "longwatch_unplaced_copies 1",
        "longwatch_unsettled_assignments 2",
        "longwatch_unsettled_assignments_max 2",
        "longwatch_wanted_servers 2",
        "longwatch_headroom_copies 0",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is missing:\n{metrics}");
    }
}
