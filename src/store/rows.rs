//! Rows of the tables; `codec` converts them to domain types.

use diesel::prelude::*;

use super::schema::{
    webhook_attempts, webhook_deliveries, webhook_endpoint_health, webhook_endpoint_secrets,
    webhook_endpoints, webhook_events, webhook_nodes, webhook_recoveries,
    webhook_schema_migrations, webhook_shards, webhook_tokens,
};
use crate::domain::clock::Timestamp;
use crate::domain::ids::DeliveryKey;
use crate::domain::lifecycle::Life;

#[derive(Debug, Clone, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = webhook_endpoints, treat_none_as_null = true)]
pub(super) struct EndpointRow {
    pub(super) id: String,
    pub(super) url: String,
    pub(super) description: String,
    pub(super) event_types: String,
    pub(super) headers: String,
    pub(super) settings: String,
    pub(super) pause_reason: Option<String>,
    pub(super) created_at: i64,
    pub(super) updated_at: i64,
    pub(super) deleted_at: Option<i64>,
    pub(super) version: i64,
}

#[derive(Debug, Clone, Queryable, Selectable, Insertable)]
#[diesel(table_name = webhook_endpoint_secrets)]
pub(super) struct SecretRow {
    pub(super) endpoint_id: String,
    pub(super) secret: String,
    pub(super) private_key: String,
    pub(super) created_at: i64,
    pub(super) expires_at: Option<i64>,
}

#[derive(Debug, Clone, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = webhook_endpoint_health, treat_none_as_null = true)]
pub(super) struct HealthRow {
    pub(super) endpoint_id: String,
    pub(super) consecutive_failures: i32,
    pub(super) breaker: String,
    pub(super) probe_at: Option<i64>,
    pub(super) probes: i32,
    pub(super) allowed: Option<i32>,
    pub(super) half_open_since: Option<i64>,
    pub(super) hold_until: Option<i64>,
    pub(super) rests: i32,
    pub(super) failing_since: Option<i64>,
    pub(super) waits_until: Option<i64>,
    pub(super) epoch: i64,
}

#[derive(Debug, Insertable)]
#[diesel(table_name = webhook_events, treat_none_as_default_value = false)]
pub(super) struct NewEventRow<'a> {
    pub(super) seq: i64,
    pub(super) tenant: i32,
    pub(super) id: Vec<u8>,
    pub(super) event_type: &'a str,
    pub(super) ordering_key: Option<&'a str>,
    pub(super) content_type: &'a str,
    pub(super) content_hash: &'a [u8],
    pub(super) created_at: i64,
    pub(super) traceparent: Option<String>,
    pub(super) body: &'a [u8],
}

#[derive(Debug, Queryable, Selectable)]
#[diesel(table_name = webhook_events)]
pub(super) struct EventRow {
    pub(super) seq: i64,
    pub(super) id: Vec<u8>,
    pub(super) event_type: String,
    pub(super) ordering_key: Option<String>,
    pub(super) content_type: String,
    pub(super) content_hash: Vec<u8>,
    pub(super) created_at: i64,
    pub(super) traceparent: Option<String>,
    pub(super) body: Vec<u8>,
}

#[derive(Debug, Insertable)]
#[diesel(table_name = webhook_deliveries, treat_none_as_default_value = false)]
pub(super) struct NewDeliveryRow<'a> {
    pub(super) event_seq: i64,
    pub(super) endpoint: i32,
    pub(super) status: &'static str,
    pub(super) due_at: i64,
    pub(super) retries_used: i32,
    pub(super) attempt_count: i32,
    pub(super) interruptions: i32,
    pub(super) owner_epoch: i64,
    pub(super) claim_no: i64,
    pub(super) created_at: i64,
    pub(super) updated_at: i64,
    pub(super) ordering_key: Option<&'a str>,
    pub(super) in_order: bool,
}

impl<'a> NewDeliveryRow<'a> {
    /// Creates a delivery due at `at`.
    pub(super) fn new(key: DeliveryKey, ordering_key: Option<&'a str>, at: Timestamp) -> Self {
        let life = Life::published(at, ordering_key.is_some());
        Self {
            event_seq: key.event_seq,
            endpoint: key.endpoint,
            status: life.state.status().as_str(),
            due_at: at.as_micros(),
            retries_used: int(life.retries_used),
            attempt_count: int(life.attempt_count),
            interruptions: int(life.interruptions),
            owner_epoch: 0,
            claim_no: 0,
            created_at: at.as_micros(),
            updated_at: at.as_micros(),
            ordering_key,
            in_order: life.in_order,
        }
    }
}

/// A delivery as it is claimed: its key, its claim and its life.
#[derive(Debug, Queryable, QueryableByName, Selectable)]
#[diesel(table_name = webhook_deliveries)]
pub(super) struct DeliveryRow {
    #[diesel(embed)]
    pub(super) key: KeyColumns,
    pub(super) owner_epoch: i64,
    pub(super) claim_no: i64,
    pub(super) claimed_at: Option<i64>,
    pub(super) created_at: i64,
    pub(super) updated_at: i64,
    #[diesel(embed)]
    pub(super) life: LifeColumns,
}

/// The key of a delivery.
#[derive(Debug, Clone, Copy, Queryable, QueryableByName, Selectable)]
#[diesel(table_name = webhook_deliveries)]
pub(super) struct KeyColumns {
    pub(super) event_seq: i64,
    pub(super) endpoint: i32,
}

impl From<KeyColumns> for DeliveryKey {
    fn from(columns: KeyColumns) -> Self {
        Self {
            event_seq: columns.event_seq,
            endpoint: columns.endpoint,
        }
    }
}

/// A due delivery.
#[derive(Debug, Queryable, QueryableByName, Selectable)]
#[diesel(table_name = webhook_deliveries)]
pub(super) struct DueRow {
    #[diesel(embed)]
    pub(super) key: KeyColumns,
    pub(super) claim_no: i64,
    #[diesel(embed)]
    pub(super) life: LifeColumns,
}

/// The columns that `domain::lifecycle` decides.
#[derive(Debug, Clone, Queryable, QueryableByName, Selectable, AsChangeset)]
#[diesel(table_name = webhook_deliveries, treat_none_as_null = true)]
pub(super) struct LifeColumns {
    pub(super) status: String,
    pub(super) due_at: Option<i64>,
    pub(super) hold_reason: Option<String>,
    pub(super) failure_reason: Option<String>,
    pub(super) retries_used: i32,
    pub(super) attempt_count: i32,
    pub(super) interruptions: i32,
    pub(super) delivered_at: Option<i64>,
    pub(super) in_order: bool,
}

#[derive(Debug, Queryable, Selectable, Insertable)]
#[diesel(table_name = webhook_attempts, treat_none_as_default_value = false)]
pub(super) struct AttemptRow {
    pub(super) event_seq: i64,
    pub(super) endpoint: i32,
    pub(super) claim_no: i64,
    pub(super) number: Option<i32>,
    pub(super) started_at: i64,
    pub(super) ended_at: i64,
    pub(super) outcome: String,
    pub(super) status_code: Option<i32>,
    pub(super) error: Option<String>,
    pub(super) response_body: Option<String>,
    pub(super) response_headers: Option<String>,
    pub(super) request_parts: Option<Vec<u8>>,
    pub(super) remote_address: Option<Vec<u8>>,
    pub(super) timings: Option<Vec<u8>>,
}

/// The part of an attempt that a rate limit counts.
#[derive(Debug, Queryable, QueryableByName, Selectable)]
#[diesel(table_name = webhook_attempts)]
pub(super) struct StartRow {
    pub(super) started_at: i64,
    pub(super) ended_at: i64,
    pub(super) outcome: String,
}

#[derive(Debug, Queryable, Selectable, Insertable)]
#[diesel(table_name = webhook_tokens)]
pub(super) struct TokenRow {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) scope: String,
    pub(super) tenant: Option<String>,
    pub(super) hash: Vec<u8>,
    pub(super) created_at: i64,
}

#[derive(Debug, Queryable, Selectable, Insertable)]
#[diesel(table_name = webhook_schema_migrations)]
pub(super) struct MigrationRow {
    pub(super) version: String,
    pub(super) run_at: i64,
    pub(super) compatible: bool,
}

/// A process that shares the database.
#[derive(Debug, Clone, Queryable, Selectable, Insertable)]
#[diesel(table_name = webhook_nodes)]
pub(super) struct NodeRow {
    pub(super) instance: String,
    pub(super) name: String,
    pub(super) lock: Option<String>,
    pub(super) started_at: i64,
    pub(super) expires_at: i64,
    pub(super) leaving: bool,
}

/// A shard with its lease, and with the tail of its former owner.
#[derive(Debug, Queryable, Selectable)]
#[diesel(table_name = webhook_shards)]
pub(super) struct ShardRow {
    pub(super) shard: i32,
    pub(super) epoch: i64,
    pub(super) holder: Option<String>,
    pub(super) expires_at: Option<i64>,
    pub(super) tail_instance: Option<String>,
    pub(super) tail_epoch: Option<i64>,
    pub(super) tail_until: Option<i64>,
    pub(super) tail_attempts: Option<String>,
}

/// A recovery. Its cursor is private to its statements.
#[derive(Debug, Clone, Queryable, Selectable, Insertable)]
#[diesel(table_name = webhook_recoveries)]
pub(super) struct RecoveryRow {
    pub(super) id: String,
    pub(super) shard: i32,
    pub(super) endpoint_id: String,
    pub(super) tenant: String,
    pub(super) include: String,
    pub(super) since: i64,
    pub(super) until: i64,
    pub(super) progress: String,
    pub(super) matched: i64,
    pub(super) requeued: i64,
    pub(super) created_at: i64,
}

/// Converts a count that the domain keeps small enough for the column.
pub(super) fn int(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}
