//! Bad input gets an answer that says what, where and what would be right; nothing else is touched.

use longwatch_loadtest::system::api::{Answer, Api};
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::given::Given;

const CAMERAS: &str = "/v1/tenants/default/cameras";
const JSON: (&str, &str) = ("content-type", "application/json");

async fn post(api: &Api, body: impl Into<Vec<u8>>) -> Answer {
    api.send(Method::POST, CAMERAS, &[JSON], Some(body.into())).await.unwrap()
}

/// It is a problem of RFC 9457 with this status and code.
fn assert_problem(answer: &Answer, status: StatusCode, code: &str) {
    assert_eq!((answer.status, answer.body["code"].as_str()), (status, Some(code)), "{:#}", answer.body);
    assert_eq!(answer.header("content-type"), "application/problem+json");
    for field in ["type", "title", "detail", "trace_id"] {
        assert!(
            answer.body[field].as_str().is_some_and(|text| !text.is_empty()),
            "{field}: {:#}",
            answer.body
        );
    }
    assert_eq!(answer.body["status"], status.as_u16());
}

/// One of its errors points here and has this code.
fn assert_points_at(answer: &Answer, pointer: &str) {
    let errors = answer.body["errors"].as_array().unwrap();
    assert!(errors.iter().any(|error| error["pointer"] == pointer), "{:#}", answer.body);
    assert!(errors.iter().all(|error| error["detail"].as_str().is_some_and(|text| text.len() > 10)));
}

#[tokio::test]
async fn bad_input_is_answered_with_what_and_where() {
    let given = Given::start(60_000, 1).await;
    let api = &given.api;

    let answer = post(api, json!({ "name": "x", "source": { "url": "http://h/1" } }).to_string()).await;
    assert_problem(&answer, StatusCode::UNPROCESSABLE_ENTITY, "invalid_input");
    assert_points_at(&answer, "/source/url");

    let answer = post(api, json!({ "name": "x", "source": { "url": "rtsp://u:p@h/1" } }).to_string()).await;
    assert_points_at(&answer, "/source/url");
    assert!(!answer.body.to_string().contains("u:p"), "an error repeats no password");

    let body = json!({ "name": "x", "colour": "red", "source": { "url": "rtsp://h/1" } });
    let answer = post(api, body.to_string()).await;
    assert!(answer.status.is_client_error());
    assert_points_at(&answer, "/colour");

    let answer = post(api, "{ \"name\": ").await;
    assert_problem(&answer, StatusCode::BAD_REQUEST, "malformed_json");

    let answer = post(api, vec![b' '; 2 << 20]).await;
    assert_problem(&answer, StatusCode::PAYLOAD_TOO_LARGE, "body_too_large");

    let answer =
        api.send(Method::POST, CAMERAS, &[("content-type", "text/plain")], Some(b"x".into())).await.unwrap();
    assert_problem(&answer, StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type");

    for path in ["01989c5e-7c1f-7d6e-8f6b-0d3f4a5b6c7d", "no-id", "..%2f..%2fetc"] {
        let answer = api.send(Method::GET, &format!("{CAMERAS}/{path}"), &[], None).await.unwrap();
        assert_problem(&answer, StatusCode::NOT_FOUND, "not_found");
    }
    let answer = api.send(Method::GET, "/v1/nothing", &[], None).await.unwrap();
    assert_problem(&answer, StatusCode::NOT_FOUND, "no_such_path");
    let answer = api.send(Method::PUT, CAMERAS, &[], None).await.unwrap();
    assert_problem(&answer, StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed");

    let answer = api.with_key("wrong").send(Method::GET, CAMERAS, &[], None).await.unwrap();
    assert_problem(&answer, StatusCode::UNAUTHORIZED, "unauthorized");
    assert!(answer.header("www-authenticate").starts_with("Bearer"));
    assert_eq!(api.cameras().await.unwrap().len(), 0, "nothing of all that became a camera");
    given.single.stop().await.unwrap();
}

#[tokio::test]
async fn a_stale_change_is_refused_and_changes_nothing() {
    let given = Given::start(60_000, 1).await;
    let id = given.api.add_camera("first", "rtsp://10.255.255.1/1").await.unwrap();
    let path = format!("{CAMERAS}/{id}");
    let read = given.api.send(Method::GET, &path, &[], None).await.unwrap();
    let etag = read.header("etag").to_owned();
    assert!(!etag.is_empty());
    let rename = |name: &str| Some(json!({ "name": name }).to_string().into_bytes());
    let condition = ("if-match", etag.as_str());
    let changed = given.api.send(Method::PATCH, &path, &[JSON, condition], rename("second")).await.unwrap();
    assert_eq!(changed.status, StatusCode::OK, "{:#}", changed.body);
    let stale = given.api.send(Method::PATCH, &path, &[JSON, condition], rename("third")).await.unwrap();
    assert_problem(&stale, StatusCode::PRECONDITION_FAILED, "stale_etag");
    assert_eq!(given.camera(&id).await.unwrap()["name"], "second");
    let unconditional = given.api.send(Method::PATCH, &path, &[JSON], rename("fourth")).await.unwrap();
    assert_eq!(unconditional.status, StatusCode::OK);
    given.single.stop().await.unwrap();
}

#[tokio::test]
async fn a_camera_can_be_deleted_and_its_video_stays() {
    let given = Given::start(60_000, 1).await;
    let id = given.record("camera", "/small/1").await;
    let path = format!("{CAMERAS}/{id}");
    let deleted = given.api.send(Method::DELETE, &path, &[], None).await.unwrap();
    assert_eq!(deleted.status, StatusCode::NO_CONTENT);
    let gone = given.api.send(Method::GET, &path, &[], None).await.unwrap();
    assert_problem(&gone, StatusCode::NOT_FOUND, "not_found");
    crate::given::until("the segment is closed", std::time::Duration::from_secs(20), async || {
        if given.files(&id).len() == 1 { Ok(()) } else { Err(json!(given.files(&id))) }
    })
    .await;
    given.single.stop().await.unwrap();
}
