//! Requests that run into each other, and those that are sent again.

use super::*;

use longwatch_events::settings::Capacity;

impl Api {
    /// Where the log ends.
    fn position(&self) -> u64 {
        self.control.service.state().position.0
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
        let position = api.position();
        let after = api.patch(path, Some(before.header("etag")), &patch).await.expect(200);
        assert_eq!((after.json(), after.header("etag")), (before.json(), before.header("etag")), "{patch}");
        assert_eq!(api.position(), position, "{path} {patch}");
        api.patch(path, Some("\"0\""), &patch).await.problem(412, "stale_etag");
    }
    let adopted = api.control.add_server("south", Capacity::default()).await;
    let position = api.position();
    api.ask("POST", &format!("/v1/servers/{adopted}:adopt"), &[], "").await.expect(200);
    assert_eq!(api.position(), position);
}
