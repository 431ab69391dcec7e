//! The log is the system: a second control with an empty database derives the same from it.

use std::process::{Child, Command};
use std::time::Duration;

use longwatch_loadtest::system::api::Api;
use longwatch_loadtest::system::program;
use serde_json::{Value, json};

use crate::given::{Given, until};

struct Control(Child);

impl Drop for Control {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// `serve` on the same log, with a database of its own.
fn second_control(given: &Given) -> (Control, Api) {
    let data = given.single.data();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let port = std::fs::read_to_string(data.join("nats/port")).unwrap();
    let child = Command::new(program("longwatch-control").unwrap())
        .arg("serve")
        .args(["--nats", &format!("nats://127.0.0.1:{}", port.trim())])
        .arg("--nats-credentials")
        .arg(data.join("nats/control.nk"))
        .args(["--database", &format!("sqlite://{}", data.join("second.db").display())])
        .args(["--listen", &address.to_string()])
        .arg("--key-file")
        .arg(data.join("provider.key"))
        .arg("--join-key-file")
        .arg(data.join("join.key"))
        .spawn()
        .unwrap();
    let key = std::fs::read_to_string(data.join("provider.key")).unwrap();
    (Control(child), Api::new(address, key.trim()).unwrap())
}

async fn system(api: &Api) -> Result<Value, Value> {
    api.get("/v1/system?hashes=true").await.map_err(|error| Value::from(error.to_string()))
}

#[tokio::test]
async fn a_replay_gives_the_same_assignments_and_the_same_read_model() {
    let given = Given::start(5_000, 3).await;
    for n in 1..=3 {
        given.record(&format!("camera {n}"), &format!("/small/{n}")).await;
    }
    // History: a change, a deletion, an off switch, a second tenant, an announced server.
    let cameras = given.api.cameras().await.unwrap();
    let path = |n: usize| format!("/v1/tenants/default/cameras/{}", cameras[n]["id"].as_str().unwrap());
    let call =
        async |method, path: &str, body: Value| given.api.call(method, path, Some(&body)).await.unwrap();
    call(reqwest::Method::PATCH, &path(0), json!({ "name": "renamed" })).await;
    call(reqwest::Method::PATCH, &path(1), json!({ "recording": { "mode": "off" } })).await;
    given.api.send(reqwest::Method::DELETE, &path(2), &[], None).await.unwrap();
    call(reqwest::Method::POST, "/v1/tenants", json!({ "name": "Second" })).await;
    call(reqwest::Method::POST, "/v1/servers", json!({ "name": "north" })).await;

    let (_control, second) = second_control(&given);
    until("the second control is ready", Duration::from_secs(30), async || {
        if second.is_ready().await { Ok(()) } else { Err(Value::from("not ready")) }
    })
    .await;
    // Facts go on arriving: compare at a moment when both have folded the same.
    until("both have derived the same", Duration::from_secs(30), async || {
        let (one, two) = (system(&given.api).await?, system(&second).await?);
        if one == two { Ok(()) } else { Err(json!([one, two])) }
    })
    .await;
    let assignments = "/v1/assignments";
    let (one, two) = (given.api.list(assignments).await.unwrap(), second.list(assignments).await.unwrap());
    assert_eq!(one, two);
    assert_eq!(one.len(), 1, "of three cameras one is off and one is deleted: {one:?}");
    given.single.stop().await.unwrap();
}
