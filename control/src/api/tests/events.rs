//! Events at cameras, told over the API.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use longwatch_events::fact::Fact;
use longwatch_events::id::{ServerId, TenantId};
use longwatch_events::settings::Capacity;
use longwatch_events::subject;
use longwatch_events::trigger::{Trigger, TriggerReply};
use serde_json::{Value, json};

use super::*;
use crate::testing::START;
use crate::triggers;

/// What servers were told, and what each of them answers; `None`: nothing.
#[derive(Clone, Default)]
struct Workers {
    told: Arc<Mutex<Vec<(ServerId, Trigger)>>>,
    answers: Arc<Mutex<BTreeMap<ServerId, TriggerReply>>>,
}

impl Workers {
    fn of(api: &Api) -> Self {
        let workers = Self::default();
        let answering = workers.clone();
        api.control.log.answer_with(move |subject, payload| {
            let trigger: Trigger = serde_json::from_slice(payload).unwrap();
            let answers = answering.answers.lock().unwrap();
            let (server_id, answer) =
                answers.iter().find(|(server_id, _)| subject::trigger(**server_id) == subject)?;
            answering.told.lock().unwrap().push((*server_id, trigger));
            Some(serde_json::to_vec(answer).unwrap().into())
        });
        workers
    }

    fn answer(&self, server_id: ServerId, answer: TriggerReply) {
        self.answers.lock().unwrap().insert(server_id, answer);
    }

    /// What was told since the last call.
    fn told(&self) -> Vec<(ServerId, Trigger)> {
        std::mem::take(&mut *self.told.lock().unwrap())
    }
}

impl Api {
    async fn tell(&self, path: &str, key: Option<&str>, body: &Value) -> Answer {
        let mut headers = vec![("content-type", "application/json")];
        headers.extend(key.map(|key| ("idempotency-key", key)));
        self.ask("POST", &format!("{path}/events"), &headers, body.to_string()).await
    }

    async fn timeline_events(&self, path: &str) -> Value {
        let range =
            format!("{path}/timeline?from={}&to={}", START.plus_millis(-60_000), START.plus_millis(900_000));
        self.get(&range).await.expect(200).json()["events"].clone()
    }
}

fn at(ms: i64) -> String {
    START.plus_millis(ms).to_string()
}

fn mode_event() -> Value {
    json!({ "recording": { "mode": "event" } })
}

#[tokio::test]
async fn an_event_is_told_to_the_server_and_stands_in_the_timeline_once_it_tells_of_it() {
    let api = Api::start().await;
    let workers = Workers::of(&api);
    let (path, server, _, epoch) = api.placed_camera().await;
    let settings = api.patch(&path, None, &mode_event()).await.expect(200).json()["recording"].clone();
    assert_eq!(settings, json!({ "mode": "event", "event": { "pre_ms": 5_000, "post_ms": 10_000 } }));
    workers.answer(server, TriggerReply::Taken);

    let body = json!({ "kind": "motion", "detail": "zone 2", "at": at(-2_000), "post_ms": 60_000 });
    let told = api.tell(&path, Some("one"), &body).await.expect(201).json();

    let expected = json!({ "event_id": told["event_id"], "kind": "motion", "detail": "zone 2", "at": at(-2_000),
        "from": at(-7_000), "until": at(58_000), "records": true, "servers": [server] });
    assert_eq!(told, expected);
    let heard = workers.told();
    assert_eq!(heard.len(), 1);
    assert_eq!((heard[0].0, heard[0].1.by.as_str()), (server, "key:provider"));
    assert_eq!(api.timeline_events(&path).await, json!([]), "the server tells it, not we");
    api.report(server, vec![Fact::RecordingTriggered(heard[0].1.taken(epoch))]).await;
    let entry = json!({ "id": told["event_id"], "kind": "motion", "detail": "zone 2", "at": at(-2_000),
        "from": at(-7_000), "until": at(58_000), "records": true, "actor": "key:provider" });
    assert_eq!(api.timeline_events(&path).await, json!([entry]));
    // Sent again it is the same one, and nobody is told anew; under the same key nothing else is told.
    let again = api.tell(&path, Some("one"), &body).await.expect(201).json();
    assert_eq!((again, workers.told().len()), (told.clone(), 0));
    let other = api.tell(&path, Some("one"), &json!({ "kind": "door" })).await;
    other.problem(422, "idempotency_key_reused");
    // Without a key each is another one.
    let unkeyed = api.tell(&path, None, &body).await.expect(201).json();
    assert_ne!(unkeyed["event_id"], told["event_id"]);
}

#[tokio::test]
async fn what_no_server_takes_is_not_said_to_be_taken() {
    let api = Api::start().await;
    let workers = Workers::of(&api);
    let (path, server, ..) = api.placed_camera().await;
    api.patch(&path, None, &mode_event()).await.expect(200);
    let body = json!({ "kind": "motion" });
    // Nobody answers, the server has another set yet, or its disk fails.
    let problem = api.tell(&path, Some("one"), &body).await.problem(503, "not_taken");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains(&server.to_string()) && detail.contains("safe"), "{detail}");
    workers.answer(server, TriggerReply::NotHere);
    api.tell(&path, Some("one"), &body).await.problem(503, "not_taken");
    workers.answer(server, TriggerReply::TryAgain { detail: "no space left".to_owned() });
    let problem = api.tell(&path, Some("one"), &body).await.problem(503, "not_taken");
    assert!(problem["detail"].as_str().unwrap().contains("no space left"), "{problem}");
    // The same request, and the same event, once it can be had.
    workers.answer(server, TriggerReply::Taken);
    api.tell(&path, Some("one"), &body).await.expect(201);
    let ids: Vec<_> = workers.told().into_iter().map(|(_, trigger)| trigger.event_id).collect();
    assert!(ids.len() == 3 && ids.iter().all(|id| *id == ids[0]), "{ids:?}");
}

#[tokio::test]
async fn in_other_modes_an_event_is_noted_and_where_nobody_is_there_refused() {
    let api = Api::start().await;
    let workers = Workers::of(&api);
    let (path, server, ..) = api.placed_camera().await;
    workers.answer(server, TriggerReply::Taken);
    let body = json!({ "kind": "motion" });
    let noted = api.tell(&path, None, &body).await.expect(201).json();
    assert_eq!((&noted["records"], workers.told()[0].1.records), (&json!(false), false));
    api.patch(&path, None, &json!({ "recording": { "mode": "off" } })).await.expect(200);
    let off = api.tell(&path, None, &body).await.problem(409, "recording_off");
    assert!(off["detail"].as_str().unwrap().contains("Expected mode event"), "{off}");
    let (_, homeless) = {
        let body = json!({ "name": "x", "source": { "url": "rtsp://h/" }, "server_labels": { "zone": "nowhere" },
            "recording": { "mode": "event" } });
        let added = api.post(CAMERAS, &body).await.expect(201);
        (added.json(), added.header("location").to_owned())
    };
    api.tell(&homeless, None, &body).await.problem(503, "unplaced");
}

#[tokio::test]
async fn everything_wrong_with_an_event_is_told_where_it_is() {
    let api = Api::start().await;
    let (path, ..) = api.placed_camera().await;
    let body = json!({ "kind": "k".repeat(65), "detail": "d".repeat(501), "at": at(1_001), "pre_ms": 30_001,
        "post_ms": -1, "until": 1 });
    let problem = api.tell(&path, None, &body).await.problem(422, "invalid_input");
    let expected = [
        ("/kind", "too_long"),
        ("/detail", "too_long"),
        ("/at", "out_of_range"),
        ("/pre_ms", "out_of_range"),
        ("/post_ms", "out_of_range"),
        ("/until", "unknown_field"),
    ];
    assert_eq!(errors(&problem), expected);
    let wrong = async |body: Value| api.tell(&path, None, &body).await.problem(422, "invalid_input");
    assert_eq!(errors(&wrong(json!({})).await), [("/kind", "required")]);
    assert_eq!(errors(&wrong(json!({ "kind": "" })).await), [("/kind", "too_short")]);
    let old = wrong(json!({ "kind": "motion", "at": at(-60_001) })).await;
    assert_eq!(errors(&old), [("/at", "out_of_range")]);
    let no_time = wrong(json!({ "kind": "motion", "at": "now" })).await;
    assert_eq!(errors(&no_time), [("/at", "invalid_time")]);
    // Another tenant's camera is none.
    let tenant = api.post("/v1/tenants", &json!({ "name": "Other" })).await.expect(201).json();
    let camera = path.rsplit('/').next().unwrap();
    let others = format!("/v1/tenants/{}/cameras/{camera}", tenant["id"].as_str().unwrap());
    let body = json!({ "kind": "motion" });
    api.tell(&others, None, &body).await.problem(404, "not_found");
    api.tell(&format!("/v1/tenants/{camera}/cameras/{camera}"), None, &body).await.problem(404, "not_found");
    // So are settings that are wrong.
    let settings = json!({ "recording": { "mode": "event", "event": { "pre_ms": 30_001, "post_ms": 600_001, "x": 1 } } });
    let problem = api.patch(&path, None, &settings).await.problem(422, "invalid_input");
    let expected = [
        ("/recording/event/pre_ms", "out_of_range"),
        ("/recording/event/post_ms", "out_of_range"),
        ("/recording/event/x", "unknown_field"),
    ];
    assert_eq!(errors(&problem), expected);
}

#[tokio::test]
async fn who_takes_the_camera_over_is_told_of_what_is_on_and_nobody_twice() {
    let api = Api::start().await;
    let workers = Workers::of(&api);
    let (path, first, camera_id, epoch) = api.placed_camera().await;
    api.patch(&path, None, &mode_event()).await.expect(200);
    workers.answer(first, TriggerReply::Taken);
    api.tell(&path, None, &json!({ "kind": "motion", "post_ms": 600_000 })).await.expect(201);
    api.tell(&path, None, &json!({ "kind": "short", "pre_ms": 0, "post_ms": 0 })).await.expect(201);
    let told = workers.told();
    api.report(first, told.iter().map(|(_, told)| Fact::RecordingTriggered(told.taken(epoch))).collect())
        .await;
    triggers::ask_again(&api.control.service).await;
    assert_eq!(workers.told(), [], "it has taken them");
    // Given another server that is to have it, too; it knows of the camera a little later.
    let second = api.control.add_server("south", Capacity::default()).await;
    api.patch(&path, None, &json!({ "copies": 2 })).await.expect(200);
    let both = || triggers::servers(&api.control.service.state(), TenantId::DEFAULT, camera_id).len() == 2;
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    while !both() {
        assert!(tokio::time::Instant::now() < deadline, "it was never placed");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    workers.answer(second, TriggerReply::NotHere);
    triggers::ask_again(&api.control.service).await;
    workers.answer(second, TriggerReply::Taken);
    triggers::ask_again(&api.control.service).await;
    // Then it is told of the one that is on, until it has taken it.
    let asked: Vec<_> = workers.told().into_iter().map(|(server, told)| (server, told.kind)).collect();
    assert_eq!(asked, [(second, "motion".to_owned()), (second, "motion".to_owned())]);
    triggers::ask_again(&api.control.service).await;
    assert_eq!(workers.told(), []);
    // What two servers tell of one event is one entry.
    let of_second = {
        let state = api.control.service.state();
        let copies = state.camera(TenantId::DEFAULT, camera_id).unwrap().copies();
        let mut assignments = copies.filter_map(|(_, copy)| copy.assignment());
        assignments.find(|assignment| assignment.server_id == second).unwrap().epoch
    };
    api.report(second, vec![Fact::RecordingTriggered(told[0].1.taken(of_second))]).await;
    assert_eq!(api.timeline_events(&path).await.as_array().unwrap().len(), 2);
    // Once it is over nobody is told any more.
    api.control.clock.advance_millis(600_001);
    workers.answer(first, TriggerReply::Taken);
    triggers::ask_again(&api.control.service).await;
    assert_eq!(workers.told(), []);
}
