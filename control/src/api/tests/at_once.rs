//! Requests that run into each other, and those that are sent again.

use super::*;

use longwatch_events::settings::Capacity;

#[tokio::test]
async fn of_servers_announced_at_once_under_one_name_there_is_one() {
    let api = Api::start().await;
    let body = json!({ "name": "north" });
    let answers = futures::future::join_all((0..8).map(|_| api.post("/v1/servers", &body))).await;
    let (made, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 201);
    assert_eq!(made.len(), 1);
    assert_eq!(refused.len(), 7);
    for answer in refused {
        let problem = answer.problem(409, "name_taken");
        assert_eq!(errors(&problem), [("/name", "name_taken")]);
    }
    let listed = api.get("/v1/servers").await.json();
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(1), "{listed}");
}

#[tokio::test]
async fn of_servers_renamed_at_once_to_one_name_one_has_it() {
    let api = Api::start().await;
    let mut paths = Vec::new();
    for name in ["a", "b", "c"] {
        let made = api.post("/v1/servers", &json!({ "name": name })).await.expect(201);
        paths.push(made.header("location").to_owned());
    }
    let body = json!({ "name": "north" });
    let answers = futures::future::join_all(paths.iter().map(|path| api.patch(path, None, &body))).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 1, "{answers:?}");
    for answer in answers.into_iter().filter(|answer| answer.status != 200) {
        answer.problem(409, "name_taken");
    }
    let listed = api.get("/v1/servers").await.json();
    let names: Vec<_> = listed["items"].as_array().unwrap().iter().map(|server| &server["name"]).collect();
    assert_eq!(names.iter().filter(|name| **name == "north").count(), 1, "{names:?}");
    for path in paths {
        let etag = api.get(&path).await.header("etag").to_owned();
        api.patch(&path, Some(&etag), &json!({ "labels": { "a": "b" } })).await.expect(200);
    }
}

#[tokio::test]
async fn a_tenant_that_gets_a_camera_while_it_is_deleted_stays() {
    let api = Api::start().await;
    let made = api.post("/v1/tenants", &json!({ "name": "Harbour" })).await.expect(201);
    let path = made.header("location").to_owned();
    let cameras = format!("{path}/cameras");
    let body = json!({ "name": "x", "source": { "url": "rtsp://h/" } });
    let (camera, deleted) = tokio::join!(api.post(&cameras, &body), api.delete(&path));
    camera.expect(201);
    deleted.problem(409, "tenant_not_empty");
    // It can be changed on the strength of what is read of it.
    let etag = api.get(&path).await.expect(200).header("etag").to_owned();
    assert_ne!(etag, made.header("etag"));
    api.patch(&path, Some(&etag), &json!({ "name": "Port" })).await.expect(200);
}

#[tokio::test]
async fn a_camera_that_comes_after_the_end_of_its_tenant_is_told_so() {
    let api = Api::start().await;
    let made = api.post("/v1/tenants", &json!({ "name": "Harbour" })).await.expect(201);
    let path = made.header("location").to_owned();
    let cameras = format!("{path}/cameras");
    let body = json!({ "name": "x", "source": { "url": "rtsp://h/" } });
    let (deleted, camera) = tokio::join!(api.delete(&path), api.post(&cameras, &body));
    deleted.expect(204);
    camera.problem(404, "not_found");
}

#[tokio::test]
async fn a_server_that_is_gone_does_not_stand_in_the_way_of_those_who_prefer_it() {
    let api = Api::start().await;
    let server = api.post("/v1/servers", &json!({ "name": "north" })).await.expect(201);
    let (_, path) = api.camera("Gate").await;
    let prefer = json!({ "preferred_server_id": server.json()["id"] });
    api.patch(&path, None, &prefer).await.expect(200);
    api.delete(server.header("location")).await.expect(204);
    api.patch(&path, None, &json!({ "name": "Gate 1" })).await.expect(200);
    api.patch(&path, None, &json!({ "preferred_server_id": null })).await.expect(200);
    api.patch(&path, None, &prefer).await.problem(422, "invalid_input");
}

#[tokio::test]
async fn a_change_that_changes_nothing_writes_nothing() {
    let api = Api::start().await;
    let (camera, path) = api.camera("Gate").await;
    let source = json!({ "username": "u", "password": "p" });
    api.patch(&path, None, &json!({ "source": source })).await.expect(200);
    let server = api.post("/v1/servers", &json!({ "name": "north" })).await.expect(201);
    let unchanged = [
        (path.as_str(), json!({})),
        (path.as_str(), json!({ "name": "Gate", "labels": { "x": null } })),
        (path.as_str(), json!({ "source": { "url": camera["source"]["url"], "password": "p" } })),
        (server.header("location"), json!({ "name": "north", "failover": { "enabled": true } })),
        ("/v1/tenants/default", json!({ "name": "Default" })),
    ];
    for (path, patch) in unchanged {
        let before = api.get(path).await;
        let after = api.patch(path, Some(before.header("etag")), &patch).await.expect(200);
        // Every event of a thing moves its version.
        assert_eq!(after.header("etag"), before.header("etag"), "{path} {patch}");
        assert_eq!(after.json()["name"], before.json()["name"]);
        api.patch(path, Some("\"0\""), &patch).await.problem(412, "stale_etag");
    }
    let path = format!("/v1/servers/{}", api.control.add_server("south", Capacity::default()).await);
    let before = api.get(&path).await.expect(200);
    let adopted = api.ask("POST", &format!("{path}:adopt"), &[], "").await.expect(200);
    assert_eq!(adopted.header("etag"), before.header("etag"));
}

const KEYED: [(&str, &str); 2] = [("content-type", "application/json"), ("idempotency-key", "order 66")];

#[tokio::test]
async fn a_key_stands_for_one_request() {
    let api = Api::start().await;
    let camera = |name, password: Value| json!({ "name": name, "source": { "url": "rtsp://h/", "username": "u", "password": password } });
    let first = api.ask("POST", CAMERAS, &KEYED, camera("x", json!("p")).to_string()).await.expect(201);
    let path = first.header("location").to_owned();
    // The same fields in another order, and the same tenant by its id.
    let same = r#"{ "source": { "password": "p", "username": "u", "url": "rtsp://h/" }, "name": "x" }"#;
    let by_id = path.rsplit_once('/').unwrap().0;
    for cameras in [CAMERAS, by_id] {
        let again = api.ask("POST", cameras, &KEYED, same).await.expect(201);
        assert_eq!(again.header("location"), path);
    }
    for other in [camera("y", json!("p")), camera("x", json!("q")), camera("x", Value::Null)] {
        let answer = api.ask("POST", CAMERAS, &KEYED, other.to_string()).await;
        answer.problem(422, "idempotency_key_reused");
    }
    // What became of it since is another matter.
    api.patch(&path, None, &json!({ "name": "z" })).await.expect(200);
    assert_eq!(api.ask("POST", CAMERAS, &KEYED, same).await.expect(201).json()["name"], "z");
    let answer = api.ask("POST", CAMERAS, &KEYED, camera("z", json!("p")).to_string()).await;
    answer.problem(422, "idempotency_key_reused");
    // Another tenant's key is another key, and so is one for another kind of thing.
    let tenant = api.post("/v1/tenants", &json!({ "name": "Harbour" })).await.expect(201);
    let elsewhere = format!("{}/cameras", tenant.header("location"));
    api.ask("POST", &elsewhere, &KEYED, camera("y", json!("p")).to_string()).await.expect(201);
    api.ask("POST", "/v1/servers", &KEYED, r#"{ "name": "north" }"#).await.expect(201);

    api.delete(&path).await.expect(204);
    api.ask("POST", CAMERAS, &KEYED, same).await.problem(409, "already_used");
    let answer = api.ask("POST", CAMERAS, &KEYED, camera("y", json!("p")).to_string()).await;
    answer.problem(422, "idempotency_key_reused");
    assert_eq!(api.get(CAMERAS).await.json()["items"], json!([]));
}

#[tokio::test]
async fn a_key_is_known_to_every_replica_and_after_a_restart() {
    let api = Api::start().await;
    let [north, south] = [r#"{ "name": "north" }"#, r#"{ "name": "south" }"#];
    let first = api.ask("POST", "/v1/servers", &KEYED, north).await.expect(201);
    let replica = TestControl::on(api.control.log.clone(), api.control.clock.clone()).await;
    replica.until(|state| state.servers().count() == 1).await;
    replica.until_progress(|progress| progress.caught_up).await;
    let router = super::super::router(Arc::clone(&replica.service), Key::from_text(KEY));
    let replica = Api { control: replica, router };

    let again = replica.ask("POST", "/v1/servers", &KEYED, north).await.expect(201);
    assert_eq!(again.header("location"), first.header("location"));
    replica.ask("POST", "/v1/servers", &KEYED, south).await.problem(422, "idempotency_key_reused");
}

#[tokio::test]
async fn of_requests_at_once_with_one_key_one_counts() {
    let api = Api::start().await;
    let body = |number: usize| json!({ "name": format!("Tenant {}", number % 2) }).to_string();
    let ask = |number| api.ask("POST", "/v1/tenants", &KEYED, body(number));
    let answers = futures::future::join_all((0..6).map(ask)).await;
    let (made, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 201);
    assert_eq!((made.len(), refused.len()), (3, 3));
    assert!(made.iter().all(|answer| answer.header("location") == made[0].header("location")));
    for answer in refused {
        answer.problem(422, "idempotency_key_reused");
    }
    assert_eq!(api.get("/v1/tenants").await.json()["items"].as_array().map(Vec::len), Some(2));
}
