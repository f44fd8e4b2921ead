//! Attempts.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::clock::Timestamp;
use crate::domain::delivery::{Attempt, Headers, Outcome, Timings};

/// An attempt.
#[derive(ToSchema, Serialize)]
#[schema(as = Attempt, example = json!({
    "id": "att_bozcdy3txn5hovdcjq6yv5flei", "number": 1, "started_at": "2026-11-25T10:00:00.000000Z",
    "duration_ms": 41.2, "outcome": "rejected", "status_code": 500, "error": null, "response_body": "try later",
    "response_headers": {"content-type": "text/plain"}, "request_headers": {"webhook-id": "3f1e9a52-6b1c-4c35-9a70-0d1f6d1e2b7a"},
    "remote_address": "93.184.216.34:443", "timings_ms": {"dns": 1.9, "connect": 20.4, "first_byte": 40.9}
}))]
pub(crate) struct AttemptBody {
    /// `att_…`
    id: String,
    /// Number of the attempt from 1; null for an interrupted one.
    number: Option<u32>,
    started_at: Timestamp,
    duration_ms: f64,
    outcome: Outcome,
    status_code: Option<u16>,
    /// Error message.
    error: Option<String>,
    /// The response body as text, at most 16 KiB.
    response_body: Option<String>,
    response_headers: Option<BTreeMap<String, String>>,
    /// Values of the endpoint's own headers are shown as `***`.
    request_headers: Option<BTreeMap<String, String>>,
    remote_address: Option<String>,
    timings_ms: TimingsBody,
}

impl From<Attempt> for AttemptBody {
    fn from(attempt: Attempt) -> Self {
        let record = attempt.record;
        Self {
            id: attempt.id,
            number: attempt.number,
            started_at: attempt.started_at,
            duration_ms: attempt.duration_ms,
            outcome: record.outcome,
            status_code: record.status_code,
            error: record.error,
            response_body: record.response_body,
            response_headers: record.response_headers.map(joined),
            request_headers: record.request_headers.map(joined),
            remote_address: record.remote_address,
            timings_ms: record.timings_ms.into(),
        }
    }
}

/// Returns headers as an object; repeated ones are joined by commas (RFC 9110, section 5.3).
fn joined(headers: Headers) -> BTreeMap<String, String> {
    let mut object = BTreeMap::<String, String>::new();
    for (name, value) in headers {
        object
            .entry(name)
            .and_modify(|joined| *joined = format!("{joined}, {value}"))
            .or_insert(value);
    }
    object
}

/// Milliseconds from the attempt's start; null where not measured or the connection was reused.
#[derive(ToSchema, Serialize)]
#[schema(as = Timings)]
struct TimingsBody {
    dns: Option<f64>,
    connect: Option<f64>,
    first_byte: Option<f64>,
}

impl From<Timings> for TimingsBody {
    fn from(timings: Timings) -> Self {
        Self {
            dns: timings.dns,
            connect: timings.connect,
            first_byte: timings.first_byte,
        }
    }
}
