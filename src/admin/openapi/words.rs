//! How the domain's own types stand in the document: its words, its ids, its times.
//!
//! Each pattern takes what the domain's parser takes; a name is described once, wherever it is
//! used.

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

/// One of some words.
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
    /// Where a delivery stands.
    Status;
    /// How an attempt ended.
    Outcome;
    /// What a pending delivery waits for.
    WaitingFor;
    /// Why a delivery waits for a person.
    HoldReason;
    /// Why a delivery was given up.
    FailureReason;
    /// Whether an endpoint is given up for a while.
    BreakerState;
    /// Who or what paused an endpoint.
    PauseReason;
    /// Whether deliveries of an endpoint keep an order.
    Ordering;
    /// What a failed delivery means to those behind it in its ordering key.
    OnFailed;
    /// How requests are signed: HMAC-SHA256 or ed25519.
    Signing;
    /// What a token is good for.
    Scope;
    /// What a recovery brings back.
    Include;
    /// How far a recovery is.
    Progress;
}

/// A string of that pattern.
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
        "^[A-Za-z0-9_-]{1,128}$", Some(128), "dlv_01a2116c8d0f7c22a1c04c7d3f2b9e10";
    RecoveryId: "A recovery's id.", "^[A-Za-z0-9_-]{1,128}$", Some(128), "rec_01a2116c9b3d7f0f8e2d5a6b7c8d9e0f";
    TokenId: "A token's id, which is no secret.", "^[A-Za-z0-9_-]{1,128}$", Some(128), "tok_01a2116c9f5e7b1a9c3d4e5f60718293";
    Tenant: "Whose it is.", "^[A-Za-z0-9_-]{1,64}$", Some(64), "default";
    EventType: "What happened: words joined by dots.",
        "^[A-Za-z0-9_]+(\\.[A-Za-z0-9_]+)*$", Some(128), "invoice.paid";
    EventFilter: "An event type, or what it begins with and `.*`.",
        "^[A-Za-z0-9_]+(\\.[A-Za-z0-9_]+)*(\\.\\*)?$", Some(128), "invoice.*";
    RateLimit: "How many attempts may start in any second, minute or hour (1 to 10,000), or no limit.",
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
