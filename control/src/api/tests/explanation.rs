//! Why a camera is where it is, derived again from the log.

use super::*;

use longwatch_events::event::{Event, Part, PlanMade};
use longwatch_events::id::TenantId;
use longwatch_events::settings::Capacity;

use crate::decide::placement;

#[tokio::test]
async fn a_plan_is_drawn_up_again_and_tells_of_every_server() {
    let api = Api::start().await;
    let small = api.control.add_server("small", Capacity { max_cameras: 0, max_bitrate_bps: None }).await;
    let (_, server, camera, epoch) = api.placed_camera().await;
    let tenant = TenantId::DEFAULT;
    // The log has gone on since.
    api.camera("Another").await;

    let path = format!("/v1/plans/{epoch}?tenant_id={tenant}&camera_id={camera}&copy=0");
    let plan = api.get(&path).await.expect(200).json();

    assert_eq!((&plan["rederived"], &plan["different_entries"]), (&json!("equal"), &json!(0)), "{plan}");
    assert_eq!((&plan["position"], &plan["rules"]), (&json!(epoch.0), &json!(placement::RULES)));
    assert!(plan["basis"].as_u64() < plan["position"].as_u64(), "{plan}");
    let entry = json!({
        "tenant_id": tenant, "camera_id": camera, "copy": 0, "decision": "assign", "server_id": server,
        "reason": "least_loaded", "epoch": null, "evidence": null,
    });
    assert_eq!(plan["entry"], entry);
    let candidates = plan["candidates"].as_array().unwrap();
    let refusal = |id| candidates.iter().find(|c| c["server_id"] == json!(id)).map(|c| &c["refusal"]);
    assert_eq!(refusal(server), Some(&Value::Null));
    assert_eq!(refusal(small), Some(&json!("cameras")));
    let bare = api.get(&format!("/v1/plans/{epoch}")).await.expect(200).json();
    assert_eq!((&bare["entry"], &bare["candidates"]), (&Value::Null, &json!([])));
    assert_eq!((&bare["entries"], &bare["rederived"]), (&json!(1), &json!("equal")));
}

#[tokio::test]
async fn a_plan_that_does_not_follow_is_told() {
    let api = Api::start().await;
    let (_, server, camera, epoch) = api.placed_camera().await;
    let (basis, last_plan) = {
        let state = api.control.service.state();
        (state.position, state.last_plan)
    };
    let unplace = longwatch_events::event::PlanEntry {
        tenant_id: TenantId::DEFAULT,
        camera_id: camera,
        copy: 0,
        decision: longwatch_events::event::Decision::Unplace {
            reason: longwatch_events::reason::UnplacedReason::NoCapacity,
        },
    };
    let forged = |rules| PlanMade {
        basis,
        rules,
        decided_at: Some(api.control.service.log_now()),
        part: Part::WHOLE,
        entries: vec![unplace],
    };
    let append = |plan, after| {
        let service = &api.control.service;
        let id = longwatch_events::id::EventId::generate(service.ids());
        service.append("test", id, Event::PlanMade(plan), after)
    };
    let position = append(forged(placement::RULES), Some(last_plan)).await.unwrap();
    let plan = api.get(&format!("/v1/plans/{position}")).await.expect(200).json();
    assert_eq!((&plan["rederived"], &plan["different_entries"]), (&json!("different"), &json!(1)), "{plan}");
    assert_eq!(plan["differences"][0]["logged"]["reason"], "no_capacity");
    assert_eq!(plan["differences"][0]["derived"], Value::Null);
    let older = append(forged(1), None).await.unwrap();
    let plan = api.get(&format!("/v1/plans/{older}")).await.expect(200).json();
    assert_eq!((&plan["rederived"], &plan["differences"]), (&json!("other_rules"), &json!([])));

    let tenant = TenantId::DEFAULT;
    for (query, place) in [
        (format!("camera_id={camera}"), "tenant_id"),
        (format!("tenant_id={tenant}"), "camera_id"),
        ("copy=1".to_owned(), "tenant_id"),
        (format!("tenant_id={tenant}&camera_id=x"), "camera_id"),
        (format!("server_id={server}"), "query"),
    ] {
        let problem = api.get(&format!("/v1/plans/{epoch}?{query}")).await.problem(400, "invalid_parameters");
        assert_eq!(errors(&problem)[0].0, place, "{query}: {problem}");
    }
    for position in ["1", "0", "999999", "18446744073709551615", "-1", "x"] {
        api.get(&format!("/v1/plans/{position}")).await.problem(404, "not_found");
    }
}
