//! The rules of the whole system, as they are read and changed.

use super::*;

use longwatch_events::fold;
use longwatch_events::policy::{Mode, Policy};

const POLICY: &str = "/v1/policy";

#[tokio::test]
async fn policy_is_read_changed_and_set_back() {
    let api = Api::start().await;
    let read = api.get(POLICY).await.expect(200);
    assert_eq!(read.header("etag"), "\"0\"");
    let before = read.json();
    assert_eq!(before["liveness"]["lease_ms"], 3_000);
    assert_eq!(before["failback"], json!({ "mode": "automatic", "stable_s": 60 }));

    let patch =
        json!({ "liveness": { "lease_ms": 5_000 }, "failback": { "mode": "manual" }, "preempt_low": true });
    let changed = api.patch(POLICY, Some("\"0\""), &patch).await.expect(200);
    assert_eq!(changed.json()["liveness"]["heartbeat_interval_ms"], 1_000, "what is not named stays");
    assert_eq!(changed.header("etag"), changed.json()["etag"]);
    let policy = api.control.service.state().policy;
    assert_eq!((policy.liveness.lease_ms, policy.failback.mode), (5_000, Mode::Manual));

    api.patch(POLICY, Some("\"0\""), &json!({ "preempt_low": false })).await.problem(412, "stale_etag");
    let same = api.patch(POLICY, None, &patch).await.expect(200);
    assert_eq!(same.header("etag"), changed.header("etag"), "nothing changed, so nothing was written");
    let reset = json!({ "liveness": null, "failback": null, "preempt_low": null });
    let back = api.patch(POLICY, Some(changed.header("etag")), &reset).await.expect(200).json();
    assert_eq!(back["liveness"], before["liveness"]);
    assert_eq!(api.control.service.state().policy, Policy::default());
}

#[tokio::test]
async fn everything_wrong_with_policy_is_told_at_once_and_what_would_be_right() {
    let api = Api::start().await;
    let patch = json!({
        "liveness": { "heartbeat_interval_ms": 100, "max_heartbeats_per_s": 0, "mass_silence_percent": 101 },
        "failback": { "mode": "sometimes", "stable_s": -1 },
        "rebalance": { "threshold_percent": 0 },
        "moves": { "at_once": 0, "timeout_s": "long", "retries": 3 },
        "preempt_low": "yes", "min_disk_free_percent": 100, "headroom_percent": 91,
        "heartbeats": { "max_age_h": 0, "max_bytes": 1 }, "colour": "red",
    });
    let problem = api.patch(POLICY, None, &patch).await.problem(422, "invalid_input");
    let expected = [
        ("/liveness/heartbeat_interval_ms", "out_of_range"),
        ("/liveness/max_heartbeats_per_s", "out_of_range"),
        ("/liveness/mass_silence_percent", "out_of_range"),
        ("/failback/mode", "unknown_word"),
        ("/failback/stable_s", "out_of_range"),
        ("/rebalance/threshold_percent", "out_of_range"),
        ("/moves/at_once", "out_of_range"),
        ("/moves/timeout_s", "wrong_type"),
        ("/moves/retries", "unknown_field"),
        ("/preempt_low", "wrong_type"),
        ("/min_disk_free_percent", "out_of_range"),
        ("/headroom_percent", "out_of_range"),
        ("/heartbeats/max_age_h", "out_of_range"),
        ("/heartbeats/max_bytes", "out_of_range"),
        ("/colour", "unknown_field"),
    ];
    assert_eq!(errors(&problem), expected);
    let short = json!({ "liveness": { "heartbeat_interval_ms": 2_000 } });
    let problem = api.patch(POLICY, None, &short).await.problem(422, "invalid_input");
    assert_eq!(errors(&problem), [("/liveness/lease_ms", "lease_too_short")]);
    assert!(problem["detail"].as_str().unwrap().contains("at least 4000"), "{problem}");
    assert_eq!(api.control.service.state().policy, Policy::default());
}

#[tokio::test]
async fn a_version_is_required_and_one_that_nobody_has_is_refused() {
    const REQUIRE: &str = "/v1/system:require-version";
    let api = Api::start().await;
    let before = api.get("/v1/system").await.expect(200).json();
    assert_eq!((&before["fold_version"], &before["version_required_at"]), (&json!(fold::VERSION), &json!(0)));

    let required = api.post(REQUIRE, &json!({})).await.expect(200).json();
    assert_eq!(required["fold_version"], fold::VERSION);
    let after = api.get("/v1/system").await.expect(200).json();
    assert_eq!(after["version_required_at"], required["version_required_at"]);
    assert_eq!(after["version_required_at"], after["log_position"], "it stands in the log");

    let newer = json!({ "fold_version": fold::VERSION + 1 });
    let problem = api.post(REQUIRE, &newer).await.problem(422, "invalid_input");
    assert_eq!(errors(&problem), [("/fold_version", "version_too_new")]);
    let problem =
        api.post(REQUIRE, &json!({ "fold_version": 0, "at": 1 })).await.problem(422, "invalid_input");
    assert_eq!(errors(&problem), [("/fold_version", "out_of_range"), ("/at", "unknown_field")]);
    assert_eq!(api.get("/v1/system").await.expect(200).json()["log_position"], after["log_position"]);
}
