//! Tests of the dashboard in a real browser against a real server, as an operator and as a tenant.

mod corpus;
mod hostile;
mod operator;
mod pictures;
mod portal;

use std::time::Duration;

use serde_json::json;

use crate::support::api::Api;
use crate::support::until;

/// Endpoint settings: a single attempt, without a rate limit.
const ONCE: &str = r#"{"rate_limit":"unlimited","retry_delays_s":[],"breaker_after":0}"#;

/// Publishes an event of `tenant` and returns the id of its only delivery.
fn publish(api: &Api, tenant: &str, event_type: &str, data: &serde_json::Value) -> String {
    let event = json!({"type": event_type, "data": data, "tenant": tenant});
    let answer = api.post("/events", &event.to_string());
    assert_eq!(answer.status, 202, "{}", answer.body);
    answer.body["deliveries"][0]["id"]
        .as_str()
        .unwrap_or_else(|| panic!("{}", answer.body))
        .to_owned()
}

/// Waits until each of these deliveries has the state `status`.
fn until_all(api: &Api, deliveries: &[String], status: &str) {
    for id in deliveries {
        let path = format!("/deliveries/{id}");
        until(
            &format!("{id} is {status}"),
            Duration::from_secs(30),
            || api.get(&path).body["status"] == status,
        );
    }
}
