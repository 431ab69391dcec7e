//! Whatever is wrong with a request, the answer says what and where.

use super::*;

#[tokio::test]
async fn without_the_key_there_is_nothing() {
    let api = Api::start().await;
    let paths =
        ["/v1/tenants", CAMERAS, "/v1/servers", "/v1/assignments", "/v1/system", "/v1/nowhere", "/else"];
    for path in paths {
        let bare = api.send(Request::get(path).body(Body::empty()).unwrap()).await;
        assert!(bare.header("www-authenticate").starts_with("Bearer "), "{path}");
        bare.problem(401, "unauthorized");
        for wrong in ["Bearer wrong", "Bearer ", "Basic bHdrXzAxMjM=", KEY] {
            let request = Request::get(path).header("authorization", wrong).body(Body::empty()).unwrap();
            api.send(request).await.problem(401, "unauthorized");
        }
    }
    for path in ["/openapi.json", "/livez", "/readyz", "/metrics"] {
        api.send(Request::get(path).body(Body::empty()).unwrap()).await.expect(200);
    }
}

#[tokio::test]
async fn a_path_or_method_that_is_not_there_is_told() {
    let api = Api::start().await;
    api.get("/v1/nowhere").await.problem(404, "no_such_path");
    let answer = api.ask("PUT", "/v1/tenants", &[], "").await;
    let allow = answer.header("allow").to_owned();
    assert!(allow.contains("GET") && allow.contains("POST"), "{allow}");
    answer.problem(405, "method_not_allowed");
    let server = "/v1/servers/01989c5e-7c1f-7d6e-8f6b-0d3f4a5b6c7d";
    let answer = api.ask("POST", server, &[], "").await;
    assert_eq!(answer.header("allow"), "GET, HEAD, PATCH, DELETE");
    answer.problem(405, "method_not_allowed");
    api.ask("POST", &format!("{server}:explode"), &[], "").await.problem(404, "not_found");
}

#[tokio::test]
async fn unknown_ids_are_not_found() {
    let api = Api::start().await;
    let id = "01989c5e-7c1f-7d6e-8f6b-0d3f4a5b6c7d";
    let (_, camera) = api.camera("Gate").await;
    let camera = camera.rsplit('/').next().unwrap().to_owned();
    let other = api.post("/v1/tenants", &json!({ "name": "Other" })).await.expect(201);
    let other = other.header("location").to_owned();
    for path in [
        format!("/v1/tenants/{id}"),
        format!("/v1/tenants/{id}/cameras"),
        format!("{CAMERAS}/{id}"),
        format!("{CAMERAS}/{id}/timeline"),
        format!("{CAMERAS}/not-an-id"),
        format!("{CAMERAS}/..%2F..%2Fetc%2Fpasswd"),
        format!("/v1/servers/{id}"),
        "/v1/servers/x".to_owned(),
        // Another tenant's camera does not exist.
        format!("{other}/cameras/{camera}"),
        format!("{other}/cameras/{camera}/timeline"),
    ] {
        api.get(&path).await.problem(404, "not_found");
    }
    let body = json!({ "name": "x" });
    api.patch(&format!("{other}/cameras/{camera}"), None, &body).await.problem(404, "not_found");
    api.delete(&format!("{other}/cameras/{camera}")).await.problem(404, "not_found");
    api.ask("POST", &format!("/v1/servers/{id}:adopt"), &[], "").await.problem(404, "not_found");
    api.post(&format!("/v1/tenants/{id}/cameras"), &json!({})).await.problem(404, "not_found");
}

#[tokio::test]
async fn a_body_that_cannot_be_read_is_told_where() {
    let api = Api::start().await;
    let json_type = [("content-type", "application/json")];
    let broken =
        api.ask("POST", CAMERAS, &json_type, "{\n  \"name\": }").await.problem(400, "malformed_json");
    assert!(broken["errors"][0]["detail"].as_str().unwrap().contains("line 2, column 11"), "{broken}");
    api.ask("POST", CAMERAS, &json_type, "").await.problem(400, "malformed_json");
    api.ask("POST", CAMERAS, &json_type, "[".repeat(10_000)).await.problem(400, "malformed_json");
    api.ask("POST", CAMERAS, &json_type, vec![0xff_u8, 0xfe]).await.problem(400, "malformed_json");
    api.ask("POST", CAMERAS, &[], "{}").await.problem(415, "unsupported_media_type");
    api.ask("POST", CAMERAS, &[("content-type", "text/xml")], "{}")
        .await
        .problem(415, "unsupported_media_type");
    let large = format!("{{\"name\": \"{}\"}}", "x".repeat(1024 * 1024));
    api.ask("POST", CAMERAS, &json_type, large.clone()).await.problem(413, "body_too_large");
    // The same without a declared length.
    let chunks =
        large.into_bytes().chunks(4096).map(|c| Ok::<_, std::io::Error>(c.to_vec())).collect::<Vec<_>>();
    let stream = Body::from_stream(futures::stream::iter(chunks));
    api.ask("POST", CAMERAS, &json_type, stream).await.problem(413, "body_too_large");
    for body in ["null", "[]", "\"x\"", "7"] {
        let problem = api.ask("POST", CAMERAS, &json_type, body).await.problem(422, "invalid_input");
        assert_eq!(errors(&problem)[0], ("", "wrong_type"), "{problem}");
    }
}

#[tokio::test]
async fn everything_wrong_with_a_schedule_is_told_where_it_is() {
    let api = Api::start().await;
    let body =
        |recording: Value| json!({ "name": "x", "source": { "url": "rtsp://h/" }, "recording": recording });
    let wrong =
        async |recording: Value| api.post(CAMERAS, &body(recording)).await.problem(422, "invalid_input");
    let schedule = |time_zone: &str, weekly: Value| json!({ "mode": "schedule", "schedule": { "time_zone": time_zone, "weekly": weekly } });
    let window = json!({ "days": ["mon"], "from": "08:00", "to": "18:00" });

    let none = wrong(json!({ "mode": "schedule" })).await;
    assert_eq!(errors(&none), [("/recording/schedule", "required")]);
    let zone = wrong(schedule("Berlin", json!([window]))).await;
    assert_eq!(errors(&zone), [("/recording/schedule/time_zone", "unknown_time_zone")]);
    let detail = zone["errors"][0]["detail"].as_str().unwrap();
    assert_eq!(detail, "`Berlin` is not a time zone: expected Europe/Berlin");
    let empty = wrong(schedule("UTC", json!([]))).await;
    assert_eq!(errors(&empty), [("/recording/schedule/weekly", "out_of_range")]);
    let many = wrong(schedule("UTC", json!(vec![window.clone(); 51]))).await;
    assert_eq!(errors(&many), [("/recording/schedule/weekly", "out_of_range")]);
    assert!(many["errors"][0]["detail"].as_str().unwrap().contains("1 to 50"), "{many}");
    let windows = json!([
        window,
        { "days": [], "from": "08:00", "to": "18:00" },
        { "days": ["monday"], "from": "8:00", "to": "24:01", "until": 1 },
        { "days": ["sun"], "from": "24:00" },
        "always",
    ]);
    let all = wrong(schedule("UTC", windows)).await;
    let expected = [
        ("/recording/schedule/weekly/1/days", "out_of_range"),
        ("/recording/schedule/weekly/2/days/0", "unknown_word"),
        ("/recording/schedule/weekly/2/from", "invalid_time"),
        ("/recording/schedule/weekly/2/to", "invalid_time"),
        ("/recording/schedule/weekly/2/until", "unknown_field"),
        ("/recording/schedule/weekly/3/from", "invalid_time"),
        ("/recording/schedule/weekly/3/to", "required"),
        ("/recording/schedule/weekly/4", "wrong_type"),
    ];
    assert_eq!(errors(&all), expected);
    // A schedule that is not wanted now must be one all the same.
    let kept = wrong(json!({ "mode": "off", "schedule": { "time_zone": "UTC" } })).await;
    assert_eq!(errors(&kept), [("/recording/schedule/weekly", "required")]);
}

#[tokio::test]
async fn everything_wrong_with_a_camera_is_told_at_once() {
    let api = Api::start().await;
    let body = json!({
        "name": " ", "folder_id": "x", "nmae": 1, "labels": { "a/b": 7 },
        "source": { "url": "http://10.0.0.7/", "password": "geheim", "port": 554 },
        "recording": { "mode": "sometimes" }, "retention": { "max_days": 0, "max_bytes": "much" },
        "failover_priority": "highest", "preferred_server_id": "server-1", "copies": 5,
        "expected_bitrate_bps": -1,
    });
    let problem = api.post(CAMERAS, &body).await.problem(422, "invalid_input");
    let expected = [
        ("/name", "too_short"),
        ("/folder_id", "unsupported"),
        ("/labels/a~1b", "wrong_type"),
        ("/source/url", "unsupported_scheme"),
        ("/source/username", "required"),
        ("/source/port", "unknown_field"),
        ("/recording/mode", "unknown_word"),
        ("/retention/max_days", "out_of_range"),
        ("/retention/max_bytes", "wrong_type"),
        ("/failover_priority", "unknown_word"),
        ("/preferred_server_id", "invalid_id"),
        ("/copies", "out_of_range"),
        ("/expected_bitrate_bps", "out_of_range"),
        ("/nmae", "unknown_field"),
    ];
    assert_eq!(errors(&problem), expected);
    assert!(!problem.to_string().contains("geheim"), "a problem repeats no password: {problem}");
    assert_eq!(api.get(CAMERAS).await.json()["items"], json!([]), "nothing was added");

    let empty = api.post(CAMERAS, &json!({})).await.problem(422, "invalid_input");
    assert_eq!(errors(&empty), [("/name", "required"), ("/source", "required")]);
    let no_url = api.post(CAMERAS, &json!({ "name": "x", "source": {} })).await.problem(422, "invalid_input");
    assert_eq!(errors(&no_url), [("/source/url", "required")]);
    let inside = json!({ "name": "x", "source": { "url": "rtsp://u:geheim@h/" } });
    let problem = api.post(CAMERAS, &inside).await.problem(422, "invalid_input");
    assert_eq!(errors(&problem), [("/source/url", "credentials_in_url")]);
    assert!(!problem.to_string().contains("geheim"));
    let unknown = json!({ "name": "x", "source": { "url": "rtsp://h/" },
        "preferred_server_id": "01989c5e-7c1f-7d6e-8f6b-0d3f4a5b6c7d" });
    let problem = api.post(CAMERAS, &unknown).await.problem(422, "invalid_input");
    assert_eq!(errors(&problem), [("/preferred_server_id", "unknown_server")]);
}

#[tokio::test]
async fn a_change_based_on_an_old_version_is_refused() {
    let api = Api::start().await;
    let (camera, path) = api.camera("Gate").await;
    let first = camera["etag"].as_str().unwrap().to_owned();
    let second = api.patch(&path, Some(&first), &json!({ "name": "Gate 1" })).await.expect(200);
    assert_ne!(second.header("etag"), first);

    let stale = api.patch(&path, Some(&first), &json!({ "name": "Gate 2" })).await;
    stale.problem(412, "stale_etag");
    api.ask("DELETE", &path, &[("if-match", &first)], "").await.problem(412, "stale_etag");
    let weak = format!("W/{}", second.header("etag"));
    api.patch(&path, Some(&weak), &json!({ "name": "Gate 2" })).await.problem(412, "stale_etag");
    for malformed in ["17", "\"17", "nonsense"] {
        let problem = api.patch(&path, Some(malformed), &json!({})).await.problem(400, "invalid_parameters");
        assert_eq!(errors(&problem), [("If-Match", "malformed_etag")]);
    }
    assert_eq!(api.get(&path).await.json()["name"], "Gate 1");

    let either = format!("{first}, {}", second.header("etag"));
    api.patch(&path, Some(&either), &json!({ "name": "Gate 3" })).await.expect(200);
    api.patch(&path, Some("*"), &json!({ "name": "Gate 4" })).await.expect(200);
    api.patch(&path, None, &json!({ "name": "Gate 5" })).await.expect(200);
}

#[tokio::test]
async fn wrong_parameters_are_told_all_at_once() {
    let api = Api::start().await;
    let query = "?limit=0&cursor=x&state=asleep&server_id=7&colour=red";
    let problem = api.get(&format!("{CAMERAS}{query}")).await.problem(400, "invalid_parameters");
    let expected = [
        ("limit", "out_of_range"),
        ("cursor", "invalid_cursor"),
        ("state", "unknown_word"),
        ("server_id", "invalid_value"),
        ("query", "unknown_parameter"),
    ];
    assert_eq!(errors(&problem), expected);
    let (_, camera) = api.camera("Gate").await;
    for (query, place) in [
        ("from=yesterday", "from"),
        ("from=2026-01-01T00:00:00Z&to=2025-01-01T00:00:00Z", "to"),
        ("from=2026-01-01T00:00:00Z&to=2026-03-01T00:00:00Z", "from"),
    ] {
        let problem = api.get(&format!("{camera}/timeline?{query}")).await.problem(400, "invalid_parameters");
        assert_eq!(errors(&problem)[0].0, place, "{problem}");
    }
}

#[tokio::test]
async fn what_contradicts_what_there_is_is_refused() {
    let api = Api::start().await;
    api.post("/v1/servers", &json!({ "name": "north" })).await.expect(201);
    let taken = api.post("/v1/servers", &json!({ "name": "north" })).await.problem(409, "name_taken");
    assert_eq!(errors(&taken), [("/name", "name_taken")]);
    api.delete("/v1/tenants/default").await.problem(409, "default_tenant");
    let tenant = api.post("/v1/tenants", &json!({ "name": "Harbour" })).await.expect(201);
    let tenant = tenant.header("location").to_owned();
    let camera = json!({ "name": "x", "source": { "url": "rtsp://h/" } });
    api.post(&format!("{tenant}/cameras"), &camera).await.expect(201);
    api.delete(&tenant).await.problem(409, "tenant_not_empty");
    let bad = json!({ "name": "y", "capacity": { "max_cameras": -1 }, "failover": { "enabled": "yes" } });
    let problem = api.post("/v1/servers", &bad).await.problem(422, "invalid_input");
    assert_eq!(
        errors(&problem),
        [("/capacity/max_cameras", "out_of_range"), ("/failover/enabled", "wrong_type")]
    );
}

#[tokio::test]
async fn a_request_id_is_taken_if_it_is_harmless() {
    let api = Api::start().await;
    let given = api.ask("GET", "/v1/nowhere", &[("x-request-id", "abc-1")], "").await;
    assert_eq!(given.problem(404, "no_such_path")["trace_id"], "abc-1");
    let long = "x".repeat(200);
    for harmful in ["a b", "<script>", long.as_str()] {
        let answer = api.ask("GET", "/v1/system", &[("x-request-id", harmful)], "").await;
        assert_ne!(answer.header("x-request-id"), harmful);
    }
}
