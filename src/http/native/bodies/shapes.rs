//! Schemas of bodies that the domain reads or writes itself, without a struct in the API.
//!
//! The tests check every response against them (`tests/it/support/document.rs`).
#![allow(dead_code, reason = "they are described, never made")]

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::access::Scope;
use crate::domain::clock::Timestamp;
use crate::domain::delivery::Outcome;
use crate::domain::ids::{EndpointId, RecoveryId, Tenant, TokenId};
use crate::domain::recovery::{Include, Progress};

/// `whsec_` and 24 to 75 bytes in base64, or `whsk_` and an Ed25519 key; generated if absent.
#[derive(ToSchema, Deserialize)]
#[schema(as = SecretText, pattern = "^(whsec_([A-Za-z0-9+/]{4}){8,24}([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?|whsk_[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=)$", example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]
pub(crate) struct NewSecretText(String);

/// State of an endpoint.
#[derive(ToSchema, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Standing {
    Active,
    Paused,
}

/// An attempt.
#[derive(ToSchema, Serialize)]
#[schema(as = Attempt, example = json!({
    "id": "att_01a2116c8d0f7c22a1c04c7d3f2b9e10_1", "number": 1, "started_at": "2026-11-25T10:00:00.000000Z",
    "duration_ms": 41.2, "outcome": "rejected", "status_code": 500, "error": null, "response_body": "try later",
    "response_headers": {"content-type": "text/plain"}, "request_headers": {"webhook-id": "3f1e9a52-6b1c-4c35-9a70-0d1f6d1e2b7a"},
    "remote_address": "93.184.216.34:443", "timings_ms": {"dns": 1.9, "connect": 20.4, "first_byte": 40.9}
}))]
pub(crate) struct AttemptShape {
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
    timings_ms: TimingsShape,
}

/// Milliseconds from the attempt's start; null where not measured or the connection was reused.
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
pub(crate) struct TokenShape {
    id: TokenId,
    name: String,
    scope: Scope,
    /// Owning tenant; null: all tenants.
    tenant: Option<Tenant>,
    created_at: Timestamp,
}

/// A recovery and its progress.
#[derive(ToSchema, Serialize)]
#[schema(as = Recovery, example = json!({
    "id": "rec_01a2116c9b3d7f0f8e2d5a6b7c8d9e0f", "endpoint_id": "ep_01a2116c7ac0750b83c2f73300529619",
    "tenant": "default", "include": Include::Failed, "since": "2026-11-25T08:00:00.000000Z",
    "until": "2026-11-25T10:00:00.000000Z", "status": "running", "matched": 120, "requeued": 100,
    "created_at": "2026-11-25T10:00:00.000000Z"
}))]
pub(crate) struct RecoveryShape {
    id: RecoveryId,
    endpoint_id: EndpointId,
    tenant: Tenant,
    include: Include,
    since: Timestamp,
    until: Timestamp,
    status: Progress,
    /// Number of deliveries found.
    matched: u64,
    /// Number of deliveries requeued.
    requeued: u64,
    created_at: Timestamp,
}

/// A node.
#[derive(ToSchema, Serialize)]
#[schema(as = Node, example = json!({
    "name": "web-1", "since": "2026-11-25T10:00:00.000000Z", "alive": true, "shards": 64
}))]
pub(crate) struct NodeShape {
    name: String,
    since: Timestamp,
    alive: bool,
    /// Number of shards (groups of endpoints) that it sends for.
    shards: u32,
}

/// An error (RFC 9457).
#[derive(ToSchema, Serialize)]
#[schema(as = Problem, example = json!({
    "type": "urn:postrider:problem:invalid", "title": "The request is not valid", "status": 422,
    "detail": "concurrency: must be 1 to 1,000",
    "errors": [{"field": "concurrency", "detail": "must be 1 to 1,000"}]
}))]
pub(crate) struct ProblemShape {
    /// `urn:postrider:problem:` and a stable name.
    r#type: String,
    title: String,
    status: u16,
    detail: String,
    /// Every invalid field, with its remedy.
    #[serde(skip_serializing_if = "Option::is_none")]
    errors: Option<Vec<FieldErrorShape>>,
}

/// An invalid field.
#[derive(ToSchema, Serialize)]
#[schema(as = FieldError)]
struct FieldErrorShape {
    /// Path of the field, such as `events[17].type`; empty for the whole body.
    field: String,
    detail: String,
}
