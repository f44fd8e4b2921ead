//! Conversion between rows and domain types. An unreadable value is an error that names its column,
//! never a panic: rows outlive releases, and people edit them.

use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;

use super::error::{StoreError, corrupt};
use super::event_id;
use super::rows::{DeliveryRow, EventRow, HealthRow, LifeColumns, RecoveryRow, TokenRow, int};
use crate::domain::access::{Grant, Token, TokenHash};
use crate::domain::breaker::{Breaker, BreakerState, Health, StoredHealth};
use crate::domain::clock::Timestamp;
use crate::domain::delivery::{Claimed, Delivery};
use crate::domain::event::{EventType, StoredEvent};
use crate::domain::ids::{EndpointId, RecoveryId, Tenant, TokenId};
use crate::domain::lease::Shard;
use crate::domain::lifecycle::{FailureReason, HoldReason, Life, State, Status, Wait};
use crate::domain::public_ids::PublicIds;
use crate::domain::recovery::Recovery;
use crate::domain::trace::TraceParent;

const DELIVERIES: &str = "webhook_deliveries";
const HEALTH: &str = "webhook_endpoint_health";
const EVENTS: &str = "webhook_events";
const TOKENS: &str = "webhook_tokens";
const RECOVERIES: &str = "webhook_recoveries";

pub(super) fn word<T>(
    table: &'static str,
    column: &'static str,
    text: &str,
) -> Result<T, StoreError>
where
    T: FromStr<Err: Display>,
{
    text.parse().map_err(|error| corrupt(table, column, error))
}

pub(super) fn json<T: serde::de::DeserializeOwned>(
    table: &'static str,
    column: &'static str,
    text: &str,
) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| corrupt(table, column, error))
}

/// Serializes strings and numbers, which cannot fail.
pub(super) fn to_json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

pub(super) fn unsigned(
    table: &'static str,
    column: &'static str,
    value: i64,
) -> Result<u32, StoreError> {
    u32::try_from(value).map_err(|error| corrupt(table, column, error))
}

pub(super) fn time(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros)
}

pub(super) fn life(columns: &LifeColumns) -> Result<Life, StoreError> {
    let reason = |column, text: &Option<String>| {
        text.clone()
            .ok_or_else(|| corrupt(DELIVERIES, column, "is missing"))
    };
    let state = match word(DELIVERIES, "status", &columns.status)? {
        Status::Pending => State::Pending(match columns.due_at {
            Some(at) => Wait::Until(time(at)),
            None => {
                let hold = reason("hold_reason", &columns.hold_reason)?;
                Wait::Held(word::<HoldReason>(DELIVERIES, "hold_reason", &hold)?)
            }
        }),
        Status::Sending => State::Sending,
        Status::Delivered => State::Delivered,
        Status::Failed => {
            let failure = reason("failure_reason", &columns.failure_reason)?;
            State::Failed(word::<FailureReason>(
                DELIVERIES,
                "failure_reason",
                &failure,
            )?)
        }
    };
    Ok(Life {
        state,
        retries_used: unsigned(DELIVERIES, "retries_used", columns.retries_used.into())?,
        attempt_count: unsigned(DELIVERIES, "attempt_count", columns.attempt_count.into())?,
        interruptions: unsigned(DELIVERIES, "interruptions", columns.interruptions.into())?,
        delivered_at: columns.delivered_at.map(time),
        in_order: columns.in_order,
    })
}

pub(super) fn life_columns(life: &Life) -> LifeColumns {
    let (due_at, hold_reason, failure_reason) = match life.state {
        State::Pending(Wait::Until(at)) => (Some(at.as_micros()), None, None),
        State::Pending(Wait::Held(hold)) => (None, Some(hold.to_string()), None),
        State::Failed(failure) => (None, None, Some(failure.to_string())),
        State::Sending | State::Delivered => (None, None, None),
    };
    LifeColumns {
        status: life.state.status().as_str().to_owned(),
        due_at,
        hold_reason,
        failure_reason,
        retries_used: int(life.retries_used),
        attempt_count: int(life.attempt_count),
        interruptions: int(life.interruptions),
        delivered_at: life.delivered_at.map(Timestamp::as_micros),
        in_order: life.in_order,
    }
}

/// A delivery with the parts of its event and its endpoint that callers see.
pub(super) type JoinedDelivery = (DeliveryRow, Vec<u8>, String, String, String);

/// Reads a delivery with the id and type of its event, the id of its endpoint, and its tenant.
pub(super) fn delivery(
    ids: &PublicIds,
    (row, event_id, event_type, endpoint_id, tenant): JoinedDelivery,
) -> Result<Delivery, StoreError> {
    Ok(Delivery {
        life: life(&row.life)?,
        id: ids.delivery(row.key.into()),
        event_id: event_id::parse(event_id)?,
        event_type,
        endpoint_id: EndpointId::from_text(endpoint_id),
        tenant: Tenant::from_text(tenant),
        created_at: time(row.created_at),
        updated_at: time(row.updated_at),
    })
}

/// Reads a claimed delivery from its row.
pub(super) fn claimed(row: &DeliveryRow) -> Result<Claimed, StoreError> {
    let claimed_at = row
        .claimed_at
        .ok_or_else(|| corrupt(DELIVERIES, "claimed_at", "is missing"))?;
    Ok(Claimed {
        key: row.key.into(),
        claim_no: row.claim_no,
        epoch: row.owner_epoch,
        claimed_at: time(claimed_at),
        life: life(&row.life)?,
    })
}

pub(super) fn event_type(text: &str) -> Result<EventType, StoreError> {
    EventType::parse(text).map_err(|error| corrupt(EVENTS, "event_type", error))
}

/// Reads an event that all of its deliveries share.
pub(super) fn event(row: EventRow, tenant: &Tenant) -> Result<Arc<StoredEvent>, StoreError> {
    let event_type = event_type(&row.event_type)?;
    let content_hash = <[u8; 32]>::try_from(row.content_hash.as_slice())
        .map_err(|_| corrupt(EVENTS, "content_hash", "is not 32 bytes"))?;
    let traceparent = row
        .traceparent
        .as_deref()
        .map(TraceParent::parse)
        .transpose();
    let traceparent = traceparent.map_err(|error| corrupt(EVENTS, "traceparent", error))?;
    Ok(Arc::new(StoredEvent {
        id: event_id::parse(row.id)?,
        tenant: tenant.clone(),
        event_type,
        ordering_key: row.ordering_key,
        content_type: row.content_type,
        body: row.body.into(),
        content_hash,
        created_at: time(row.created_at),
        traceparent,
    }))
}

pub(super) fn health(row: &HealthRow) -> Result<StoredHealth, StoreError> {
    let number = |column, value: i32| unsigned(HEALTH, column, value.into());
    let missing = |column| corrupt(HEALTH, column, "is missing");
    let breaker = match word(HEALTH, "breaker", &row.breaker)? {
        BreakerState::Closed => Breaker::Closed,
        BreakerState::Open => Breaker::Open {
            probe_at: row.probe_at.map(time).ok_or_else(|| missing("probe_at"))?,
            probes: number("probes", row.probes)?,
        },
        BreakerState::HalfOpen => {
            let allowed = row.allowed.ok_or_else(|| missing("allowed"))?;
            let since = row
                .half_open_since
                .map(time)
                .ok_or_else(|| missing("half_open_since"))?;
            Breaker::HalfOpen {
                allowed: number("allowed", allowed)?,
                since,
            }
        }
    };
    let health = Health {
        consecutive_failures: number("consecutive_failures", row.consecutive_failures)?,
        breaker,
        hold_until: row.hold_until.map(time),
        rests: number("rests", row.rests)?,
        failing_since: row.failing_since.map(time),
        waits_until: row.waits_until.map(time),
    };
    Ok(StoredHealth {
        health,
        epoch: row.epoch,
    })
}

pub(super) fn health_row(endpoint_id: &EndpointId, stored: &StoredHealth) -> HealthRow {
    let health = &stored.health;
    let (probe_at, probes) = match health.breaker {
        Breaker::Open { probe_at, probes } => (Some(probe_at.as_micros()), probes),
        Breaker::Closed | Breaker::HalfOpen { .. } => (None, 0),
    };
    let (allowed, half_open_since) = match health.breaker {
        Breaker::HalfOpen { allowed, since } => (Some(int(allowed)), Some(since.as_micros())),
        Breaker::Closed | Breaker::Open { .. } => (None, None),
    };
    HealthRow {
        endpoint_id: endpoint_id.to_string(),
        consecutive_failures: int(health.consecutive_failures),
        breaker: health.breaker.state().to_string(),
        probe_at,
        probes: int(probes),
        allowed,
        half_open_since,
        hold_until: health.hold_until.map(Timestamp::as_micros),
        rests: int(health.rests),
        failing_since: health.failing_since.map(Timestamp::as_micros),
        waits_until: health.waits_until.map(Timestamp::as_micros),
        epoch: stored.epoch,
    }
}

pub(super) fn token(row: TokenRow) -> Result<(TokenHash, Token), StoreError> {
    let hash = <[u8; 32]>::try_from(row.hash.as_slice());
    let hash = hash.map_err(|_| corrupt(TOKENS, "hash", "is not 32 bytes"))?;
    let scope = word(TOKENS, "scope", &row.scope)?;
    let token = Token {
        id: TokenId::from_text(row.id),
        name: row.name,
        grant: Grant {
            scope,
            tenant: row.tenant.map(Tenant::from_text),
        },
        created_at: time(row.created_at),
    };
    Ok((TokenHash::from_bytes(hash), token))
}

pub(super) fn token_row(token: &Token, hash: &TokenHash) -> TokenRow {
    TokenRow {
        id: token.id.to_string(),
        name: token.name.clone(),
        scope: token.grant.scope.to_string(),
        tenant: token.grant.tenant.as_ref().map(ToString::to_string),
        hash: hash.bytes().to_vec(),
        created_at: token.created_at.as_micros(),
    }
}

pub(super) fn recovery(row: RecoveryRow) -> Result<Recovery, StoreError> {
    Ok(Recovery {
        id: RecoveryId::from_text(row.id),
        endpoint_id: EndpointId::from_text(row.endpoint_id),
        tenant: Tenant::from_text(row.tenant),
        include: word(RECOVERIES, "include", &row.include)?,
        since: time(row.since),
        until: time(row.until),
        progress: word(RECOVERIES, "progress", &row.progress)?,
        matched: row.matched.unsigned_abs(),
        requeued: row.requeued.unsigned_abs(),
        created_at: time(row.created_at),
    })
}

pub(super) fn recovery_row(recovery: &Recovery) -> RecoveryRow {
    RecoveryRow {
        id: recovery.id.to_string(),
        shard: Shard::of(&recovery.endpoint_id).number(),
        endpoint_id: recovery.endpoint_id.to_string(),
        tenant: recovery.tenant.to_string(),
        include: recovery.include.to_string(),
        since: recovery.since.as_micros(),
        until: recovery.until.as_micros(),
        progress: recovery.progress.to_string(),
        matched: i64::try_from(recovery.matched).unwrap_or(i64::MAX),
        requeued: i64::try_from(recovery.requeued).unwrap_or(i64::MAX),
        created_at: recovery.created_at.as_micros(),
    }
}
