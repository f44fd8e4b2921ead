//! OpenAPI schemas of the domain's types: enums, ids and times.
//!
//! Each pattern accepts exactly what the domain's parser accepts. Each type is described once.

use std::borrow::Cow;

use serde_json::{Value, json};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::domain::access::Scope;
use crate::domain::breaker::BreakerState;
use crate::domain::clock::Timestamp;
use crate::domain::delivery::{Outcome, WaitingFor};
use crate::domain::endpoint::PauseReason;
use crate::domain::event::{EventFilter, EventType};
use crate::domain::ids::{DeliveryId, EndpointId, EventId, RecoveryId, Tenant, TokenId};
use crate::domain::lifecycle::{FailureReason, HoldReason, Status};
use crate::domain::rate_limit::RateLimit;
use crate::domain::recovery::{Include, Progress};
use crate::domain::settings::{OnFailed, Ordering, Signing};

/// Schemas of enums.
macro_rules! words {
    ($($(#[doc = $doc:literal])+ $type:ident;)+) => {$(
        impl PartialSchema for $type {
            fn schema() -> RefOr<Schema> {
                let words: Vec<&str> = Self::ALL.iter().map(|word| word.as_str()).collect();
                let object = ObjectBuilder::new().schema_type(Type::String);
                object.description(Some(concat!($($doc),+).trim())).enum_values(Some(words)).into()
            }
        }

        impl ToSchema for $type {
            fn name() -> Cow<'static, str> {
                stringify!($type).into()
            }
        }
    )+};
}

words! {
    /// Status of a delivery.
    Status;
    /// Outcome of an attempt.
    Outcome;
    /// Condition that a pending delivery waits for.
    WaitingFor;
    /// Reason for a hold, which a person has to release.
    HoldReason;
    /// Reason for which a delivery failed.
    FailureReason;
    /// State of an endpoint's circuit breaker.
    BreakerState;
    /// Reason for which an endpoint is paused.
    PauseReason;
    /// Order of an endpoint's deliveries.
    Ordering;
    /// Effect of a failed delivery on those behind it with the same ordering key.
    OnFailed;
    /// Signature scheme of requests: HMAC-SHA256 (`v1`) or Ed25519 (`v1a`).
    Signing;
    /// Rights of a token.
    Scope;
    /// Deliveries that a recovery includes.
    Include;
    /// State of a recovery.
    Progress;
}

/// A string that matches a pattern.
fn text(description: &str, pattern: &str, longest: Option<usize>, example: Value) -> RefOr<Schema> {
    let object = ObjectBuilder::new()
        .schema_type(Type::String)
        .description(Some(description));
    object
        .pattern(Some(pattern))
        .max_length(longest)
        .examples([example])
        .into()
}

macro_rules! texts {
    ($($type:ident: $description:literal, $pattern:expr, $longest:expr, $example:literal;)+) => {$(
        impl PartialSchema for $type {
            fn schema() -> RefOr<Schema> {
                text($description, $pattern, $longest, json!($example))
            }
        }

        impl ToSchema for $type {
            fn name() -> Cow<'static, str> {
                stringify!($type).into()
            }
        }
    )+};
}

texts! {
    EventId: "An event's id, the same on every attempt: the caller's, or a UUID v4.",
        "^[A-Za-z0-9_-]{1,64}$", Some(64), "3f1e9a52-6b1c-4c35-9a70-0d1f6d1e2b7a";
    EndpointId: "An endpoint's id.", "^[A-Za-z0-9_-]{1,128}$", Some(128), "ep_01a2116c7ac0750b83c2f73300529619";
    DeliveryId: "A delivery's id: one event on its way to one endpoint.",
        "^[A-Za-z0-9_-]{1,128}$", Some(128), "dlv_3fk7zr4xnpb7ur42ob2mln4k2a";
    RecoveryId: "A recovery's id.", "^[A-Za-z0-9_-]{1,128}$", Some(128), "rec_01a2116c9b3d7f0f8e2d5a6b7c8d9e0f";
    TokenId: "A token's id, which is not secret.", "^[A-Za-z0-9_-]{1,128}$", Some(128), "tok_01a2116c9f5e7b1a9c3d4e5f60718293";
    Tenant: "Owning tenant.", "^[A-Za-z0-9_-]{1,64}$", Some(64), "default";
    EventType: "Words joined by dots.",
        "^[A-Za-z0-9_]+(\\.[A-Za-z0-9_]+)*$", Some(128), "invoice.paid";
    EventFilter: "An event type, or a prefix and `.*`.",
        "^[A-Za-z0-9_]+(\\.[A-Za-z0-9_]+)*(\\.\\*)?$", Some(128), "invoice.*";
    RateLimit: "Attempts that may start per second, minute or hour (1 to 10,000), or `unlimited`.",
        "^(unlimited|([1-9][0-9]{0,3}|10000)/(s|min|h))$", None, "10/min";
}

impl PartialSchema for Timestamp {
    fn schema() -> RefOr<Schema> {
        let object = ObjectBuilder::new().schema_type(Type::String);
        let object = object.format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)));
        object
            .description(Some("RFC 3339."))
            .examples([json!("2026-11-25T10:00:00.000000Z")])
            .into()
    }
}

impl ToSchema for Timestamp {
    fn name() -> Cow<'static, str> {
        "Timestamp".into()
    }
}
