//! Endpoints as text.

use serde_json::Value;

use crate::output::{key_value_lines, text};

pub(super) fn format_test(answer: &Value) -> String {
    let delivery = text(answer, "delivery_id");
    format!(
        "test event {} is queued as delivery {delivery}; see the result with: postrider deliveries show {delivery}",
        text(answer, "event_id")
    )
}

pub(super) fn format_endpoint(endpoint: &Value) -> String {
    let mut endpoint = endpoint.clone();
    if let Some(seconds) = endpoint["max_age_s"].as_u64() {
        endpoint["max_age"] = format_seconds(seconds).into();
    }
    key_value_lines(
        &endpoint,
        &[
            ("id", "id"),
            ("url", "url"),
            ("tenant", "tenant"),
            ("description", "description"),
            ("status", "status"),
            ("pause reason", "pause_reason"),
            ("event types", "event_types"),
            ("headers", "headers"),
            ("rate limit", "rate_limit"),
            ("concurrency", "concurrency"),
            ("timeout ms", "timeout_ms"),
            ("retry delays s", "retry_delays_s"),
            ("maximum wait", "max_age"),
            ("ordering", "ordering"),
            ("signing", "signing"),
            ("public key", "public_key"),
            ("breaker after", "breaker_after"),
            ("breaker", "health.breaker"),
            ("waiting", "health.pending"),
            ("on hold", "health.held"),
            ("in flight", "health.sending"),
            ("failures", "health.consecutive_failures"),
            ("rests until", "health.hold_until"),
            ("next probe", "health.next_probe_at"),
            ("next slot", "health.next_slot_at"),
            ("drains in s", "health.estimated_drain_s"),
        ],
    )
}

/// Formats seconds in the largest unit that divides them: 2592000 is `30 days`.
pub(super) fn format_seconds(seconds: u64) -> String {
    let units = [(86_400, "days"), (3600, "hours"), (60, "minutes")];
    let largest = units
        .into_iter()
        .find(|(length, _)| seconds >= *length && seconds.is_multiple_of(*length));
    let (length, unit) = largest.unwrap_or((1, "seconds"));
    let count = seconds / length;
    let unit = if count == 1 {
        unit.trim_end_matches('s')
    } else {
        unit
    };
    format!("{count} {unit}")
}
