//! What an operator hears of.

use std::time::Duration;

use postrider::domain::ids::Tenant;
use postrider::domain::lifecycle::Status;
use postrider::testing::{Reply, on_virtual_time, pass};
use serde_json::{Value, json};

use crate::support::database;
use crate::support::engine::{TestEngine, secs};

const LISTENER: u8 = 9;

/// What the listener got, as (type, data).
fn heard(engine: &TestEngine) -> Vec<(String, Value)> {
    let received = engine.received(LISTENER);
    let bodies = received
        .iter()
        .map(|one| serde_json::from_slice::<Value>(&one.request.body).unwrap());
    bodies
        .map(|body| {
            (
                body["type"].as_str().unwrap().to_owned(),
                body["data"].clone(),
            )
        })
        .collect()
}

fn stored(engine: &TestEngine) -> i64 {
    database::number(
        &engine.database(),
        "SELECT count(*) AS n FROM webhook_events WHERE tenant = \
         (SELECT number FROM webhook_tenants WHERE tenant = '_postrider')",
    )
}

#[test]
fn an_operator_hears_of_pauses_recoveries_and_failures() {
    on_virtual_time(async {
        let engine = TestEngine::start();
        let listener = r#"{"rate_limit": "unlimited", "concurrency": 10}"#;
        engine
            .endpoint_of(Tenant::reserved(), LISTENER, listener)
            .await;
        let settings = r#"{"event_types": ["fails"], "retry_delays_s": [], "breaker_after": 2, "concurrency": 1, "description": "d"}"#;
        let endpoint = engine.endpoint(1, settings).await;
        engine.replies(
            1,
            [
                Reply::Status(500, Duration::ZERO),
                Reply::Status(502, Duration::ZERO),
            ],
        );
        let first = engine.publish_one("fails").await;
        let second = engine.publish_one("fails").await;
        engine.publish_one("fails").await;
        engine.until(&second, Status::Failed, secs(5)).await;
        pass(secs(2)).await;
        let told = heard(&engine);
        assert_eq!(told.len(), 2, "{told:?}");
        let (topic, data) = &told[0];
        assert_eq!(topic, "delivery.failed");
        assert_eq!(data["delivery_id"], json!(first));
        assert_eq!(
            (&data["failure_reason"], &data["attempt_count"]),
            (&json!("retries_exhausted"), &json!(1))
        );
        assert_eq!(
            data["last_attempt"],
            json!({"outcome": "rejected", "status_code": 500, "error": null})
        );
        assert_eq!(
            (&data["endpoint_id"], &data["tenant"]),
            (&json!(endpoint), &json!("default"))
        );

        // The breaker is open; its probe succeeds.
        pass(secs(60)).await;
        let told = heard(&engine);
        assert_eq!(
            (told.len(), told[2].0.as_str()),
            (3, "endpoint.recovered"),
            "{told:?}"
        );
        assert_eq!(
            (&told[2].1["endpoint_id"], &told[2].1["description"]),
            (&json!(endpoint), &json!("d"))
        );

        engine.replies(1, [Reply::Answer(410, Vec::new())]);
        engine.publish_one("fails").await;
        pass(secs(5)).await;
        engine.postrider().pause_endpoint(&endpoint).await.unwrap();
        engine.postrider().resume_endpoint(&endpoint).await.unwrap();
        engine.postrider().pause_endpoint(&endpoint).await.unwrap();
        engine.postrider().pause_endpoint(&endpoint).await.unwrap();
        pass(secs(5)).await;
        let told = heard(&engine);
        let reasons: Vec<_> = told[3..]
            .iter()
            .map(|(topic, data)| (topic.as_str(), &data["pause_reason"]))
            .collect();
        let paused = "endpoint.paused";
        assert_eq!(
            reasons,
            [(paused, &json!("gone")), (paused, &json!("operator"))],
            "each once"
        );
    });
}

#[test]
fn what_expires_is_told_and_what_a_person_gives_up_is_not() {
    on_virtual_time(async {
        let engine = TestEngine::start();
        engine
            .endpoint_of(
                Tenant::reserved(),
                LISTENER,
                r#"{"event_types": ["delivery.*"]}"#,
            )
            .await;
        let endpoint = engine.endpoint(1, r#"{"max_age_s": 60}"#).await;
        engine.postrider().pause_endpoint(&endpoint).await.unwrap();
        let cancelled = engine.publish_one("a.b").await;
        let expired = engine.publish_one("a.b").await;
        engine
            .postrider()
            .cancel_delivery(&cancelled)
            .await
            .unwrap();
        engine.until(&expired, Status::Failed, secs(300)).await;
        pass(secs(5)).await;
        let told = heard(&engine);
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(
            (&told[0].1["delivery_id"], &told[0].1["failure_reason"]),
            (&json!(expired), &json!("expired"))
        );
        assert_eq!(told[0].1["last_attempt"], Value::Null);
    });
}

#[test]
fn a_listener_in_trouble_is_told_nothing_of_itself() {
    on_virtual_time(async {
        let engine = TestEngine::start();
        let settings = r#"{"retry_delays_s": [], "breaker_after": 1, "concurrency": 1}"#;
        let listener = engine
            .endpoint_of(Tenant::reserved(), LISTENER, settings)
            .await;
        engine.endpoint(1, settings).await;
        engine.replies(1, [Reply::Status(500, Duration::ZERO)]);
        engine.replies(LISTENER, [Reply::Status(500, Duration::ZERO)]);
        engine.publish("a.b").await;
        pass(secs(300)).await;
        assert_eq!(
            (heard(&engine).len(), stored(&engine)),
            (1, 1),
            "its own failure is no event"
        );
        engine.publish("a.b").await;
        pass(secs(300)).await;
        engine.postrider().pause_endpoint(&listener).await.unwrap();
        let told = heard(&engine);
        assert_eq!(
            told.iter()
                .filter(|(topic, _)| topic == "endpoint.recovered")
                .count(),
            1,
            "the other's"
        );
        assert_eq!(stored(&engine), i64::try_from(told.len()).unwrap());
    });
}

#[test]
fn nothing_is_stored_that_nobody_asks_for() {
    on_virtual_time(async {
        let engine = TestEngine::start();
        engine
            .endpoint_of(
                Tenant::reserved(),
                LISTENER,
                r#"{"event_types": ["endpoint.recovered"]}"#,
            )
            .await;
        engine.endpoint(1, r#"{"retry_delays_s": []}"#).await;
        engine.always(1, Reply::Status(500, Duration::ZERO));
        engine.publish("a.b").await;
        pass(secs(60)).await;
        assert_eq!(stored(&engine), 0);
    });
}
