//! The shapes of what no struct of the API describes: bodies that the domain reads or shows by
//! itself.
//!
//! Every answer of the tests is held against these (`tests/it/support/document.rs`).
#![allow(dead_code, reason = "they are described, never made")]

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::domain::access::Scope;
use crate::domain::clock::Timestamp;
use crate::domain::delivery::Outcome;
use crate::domain::event::EventFilter;
use crate::domain::ids::{EndpointId, RecoveryId, Tenant, TokenId};
use crate::domain::rate_limit::RateLimit;
use crate::domain::recovery::{Include, Progress};
use crate::domain::settings::{OnFailed, Ordering, Signing};

/// What is to change. What is absent stays; `null` is back to the default.
#[derive(ToSchema, Deserialize)]
#[serde(deny_unknown_fields)]
#[schema(as = EndpointChange, example = json!({"rate_limit": "100/s", "concurrency": 20, "description": null}))]
pub(in crate::admin) struct ChangedEndpoint {
    /// Where webhooks go. Addresses are taken in place of a name, where they may be sent to.
    #[schema(value_type = String, required = false, max_length = 2048, pattern = "^https?://([A-Za-z0-9]([A-Za-z0-9-]{0,30}[A-Za-z0-9])?\\.){0,4}[A-Za-z]([A-Za-wyz0-9]{0,30})?(:[0-9]{1,4})?([/?#][\\s\\S]*)?$")]
    url: Option<String>,
    /// For people.
    #[schema(max_length = 1024, pattern = "^[^\\x00]*$")]
    description: Option<String>,
    /// Which events it gets; none: all.
    #[schema(max_items = 100)]
    event_types: Option<Vec<EventFilter>>,
    /// Sent with each request, by name. `***` keeps the value.
    headers: Option<HeaderValues>,
    rate_limit: Option<RateLimit>,
    /// Attempts in flight.
    #[schema(minimum = 1, maximum = 1000)]
    concurrency: Option<u32>,
    /// For one attempt, in milliseconds.
    #[schema(minimum = 1000, maximum = 30000)]
    timeout_ms: Option<u64>,
    /// Seconds before each retry; none: one attempt.
    retry_delays_s: Option<RetryDelays>,
    /// How long a delivery may wait, in seconds: a minute to ten years.
    #[schema(minimum = 60, maximum = 315360000)]
    max_age_s: Option<u64>,
    /// After how many failures in a row it is given up for a while; 0: never.
    #[schema(minimum = 0, maximum = 10000)]
    breaker_after: Option<u32>,
    ordering: Option<Ordering>,
    on_failed: Option<OnFailed>,
    #[schema(min_items = 1)]
    signing: Option<Vec<Signing>>,
}

/// What can be given of a new endpoint beside what can be changed later.
#[derive(ToSchema, Deserialize)]
struct OnceGiven {
    tenant: Option<Tenant>,
    secret: Option<NewSecretText>,
}

/// `whsec_` and 24 to 75 bytes in base64, or `whsk_` and an ed25519 key; made where it is absent.
#[derive(ToSchema, Deserialize)]
#[schema(as = SecretText, pattern = "^(whsec_([A-Za-z0-9+/]{4}){8,24}([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?|whsk_[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=)$", example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]
pub(in crate::admin) struct NewSecretText(String);

/// A new endpoint: a change of one that is all defaults.
pub(in crate::admin) struct NewEndpoint;

impl PartialSchema for NewEndpoint {
    fn schema() -> RefOr<Schema> {
        let (RefOr::T(Schema::Object(mut whole)), RefOr::T(Schema::Object(once))) =
            (ChangedEndpoint::schema(), OnceGiven::schema())
        else {
            return ChangedEndpoint::schema();
        };
        whole.properties.extend(once.properties);
        whole.required = vec!["url".into()];
        whole.description =
            Some("A new endpoint. Only `url` is needed; `null` is the default.".into());
        whole.example = Some(serde_json::json!({
            "url": "https://example.com/hook", "tenant": "default", "event_types": ["invoice.*"],
            "headers": {"x-team": "billing"}, "rate_limit": "10/min", "concurrency": 3
        }));
        RefOr::T(Schema::Object(whole))
    }
}

impl ToSchema for NewEndpoint {
    fn name() -> Cow<'static, str> {
        "NewEndpoint".into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        ChangedEndpoint::schemas(schemas);
        OnceGiven::schemas(schemas);
    }
}

/// Whether an endpoint is sent to.
#[derive(ToSchema, Serialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::admin) enum Standing {
    Active,
    Paused,
}

/// By name.
#[derive(ToSchema, Deserialize)]
#[schema(value_type = BTreeMap<String, String>)]
struct HeaderValues(BTreeMap<String, String>);

/// Each at most seven days.
#[derive(ToSchema, Deserialize)]
#[schema(max_items = 30)]
struct RetryDelays(Vec<u32>);

/// An attempt.
#[derive(ToSchema, Serialize)]
#[schema(as = Attempt, example = json!({
    "id": "att_01a2116c8d0f7c22a1c04c7d3f2b9e10_1", "number": 1, "started_at": "2026-11-25T10:00:00.000000Z",
    "duration_ms": 41.2, "outcome": "rejected", "status_code": 500, "error": null, "response_body": "try later",
    "response_headers": {"content-type": "text/plain"}, "request_headers": {"webhook-id": "3f1e9a52-6b1c-4c35-9a70-0d1f6d1e2b7a"},
    "remote_address": "93.184.216.34:443", "timings_ms": {"dns": 1.9, "connect": 20.4, "first_byte": 40.9}
}))]
pub(in crate::admin) struct AttemptShape {
    /// `att_…`
    id: String,
    /// Counts the attempts that finished, from 1; null for an interrupted one.
    number: Option<u32>,
    started_at: Timestamp,
    duration_ms: f64,
    outcome: Outcome,
    status_code: Option<u16>,
    /// What went wrong, in words.
    error: Option<String>,
    /// At most 16 KiB of the answer's body, as text.
    response_body: Option<String>,
    response_headers: Option<BTreeMap<String, String>>,
    /// Values that the endpoint gave are shown as `***`.
    request_headers: Option<BTreeMap<String, String>>,
    remote_address: Option<String>,
    timings_ms: TimingsShape,
}

/// Milliseconds from the attempt's start; null where not measured, or the connection was reused.
#[derive(ToSchema, Serialize)]
#[schema(as = Timings)]
struct TimingsShape {
    dns: Option<f64>,
    connect: Option<f64>,
    first_byte: Option<f64>,
}

/// A token, without the token itself.
#[derive(ToSchema, Serialize)]
#[schema(as = Token, example = json!({
    "id": "tok_01a2116c9f5e7b1a9c3d4e5f60718293", "name": "the shop's publisher", "scope": "publish",
    "tenant": "default", "created_at": "2026-11-25T10:00:00.000000Z"
}))]
pub(in crate::admin) struct TokenShape {
    id: TokenId,
    name: String,
    scope: Scope,
    /// Whose things it is good for; null: everyone's.
    tenant: Option<Tenant>,
    created_at: Timestamp,
}

/// A recovery, and what has come of it so far.
#[derive(ToSchema, Serialize)]
#[schema(as = Recovery, example = json!({
    "id": "rec_01a2116c9b3d7f0f8e2d5a6b7c8d9e0f", "endpoint_id": "ep_01a2116c7ac0750b83c2f73300529619",
    "tenant": "default", "include": Include::Failed, "since": "2026-11-25T08:00:00.000000Z",
    "until": "2026-11-25T10:00:00.000000Z", "status": "running", "matched": 120, "requeued": 100,
    "created_at": "2026-11-25T10:00:00.000000Z"
}))]
pub(in crate::admin) struct RecoveryShape {
    id: RecoveryId,
    endpoint_id: EndpointId,
    tenant: Tenant,
    include: Include,
    since: Timestamp,
    until: Timestamp,
    status: Progress,
    /// How many were found.
    matched: u64,
    /// How many of them wait to be sent now.
    requeued: u64,
    created_at: Timestamp,
}

/// A process that sends.
#[derive(ToSchema, Serialize)]
#[schema(as = Node, example = json!({
    "name": "web-1", "since": "2026-11-25T10:00:00.000000Z", "alive": true, "shards": 64
}))]
pub(in crate::admin) struct NodeShape {
    name: String,
    since: Timestamp,
    alive: bool,
    /// How many of the parts that the endpoints are dealt out in it sends for.
    shards: u32,
}

/// What went wrong (RFC 9457).
#[derive(ToSchema, Serialize)]
#[schema(as = Problem, example = json!({
    "type": "urn:postrider:problem:invalid", "title": "The request is not valid", "status": 422,
    "detail": "concurrency: must be 1 to 1,000",
    "errors": [{"field": "concurrency", "detail": "must be 1 to 1,000"}]
}))]
pub(in crate::admin) struct ProblemShape {
    /// `urn:postrider:problem:` and a name that stays.
    r#type: String,
    title: String,
    status: u16,
    detail: String,
    /// Each field that is wrong, and its remedy.
    #[serde(skip_serializing_if = "Option::is_none")]
    errors: Option<Vec<FieldErrorShape>>,
}

/// A field that is wrong.
#[derive(ToSchema, Serialize)]
#[schema(as = FieldError)]
struct FieldErrorShape {
    /// Its path, such as `events[17].type`; empty for the whole.
    field: String,
    detail: String,
}
