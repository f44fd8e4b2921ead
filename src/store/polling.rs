//! The poll: everything that a node must learn even if all hints are lost.

use std::collections::{BTreeMap, BTreeSet};

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Nullable, Text};

use super::codec;
use super::connection::AnyConnection;
use super::counters::{ENDPOINTS, counter};
use super::delivery_rows::shard_numbers;
use super::endpoint_codec::EndpointCodec;
use super::endpoints::{changed_after, endpoint};
use super::error::StoreError;
use super::health::health;
use super::schema::webhook_deliveries as deliveries;
use super::status_is::StatusIsSending;
use super::store::Store;
use super::tokens::{TokenSnapshot, changed_tokens};
use crate::domain::breaker::StoredHealth;
use crate::domain::clock::Timestamp;
use crate::domain::delivery::ClaimName;
use crate::domain::endpoint::Endpoint;
use crate::domain::ids::{DeliveryId, EndpointId};
use crate::domain::lease::Lease;
use crate::domain::lifecycle::Status;

/// Maximum number of changes that are read one by one; above it, every live endpoint is read.
const MAX_CHANGES: i64 = 1000;

/// Input of a poll.
#[derive(Debug, Clone)]
pub(crate) struct PollScan {
    pub(crate) held: Vec<Lease>,
    /// Deliveries due before this time.
    pub(crate) horizon: Timestamp,
    /// Version of the known tokens.
    pub(crate) tokens: Option<i64>,
}

/// Result of a poll.
pub(crate) struct Poll {
    pub(crate) work: Vec<EndpointWork>,
    /// The endpoints' change counter.
    pub(crate) endpoints: i64,
    /// The tokens, if they have changed.
    pub(crate) tokens: Option<TokenSnapshot>,
}

/// An endpoint with due deliveries or claims.
#[derive(Debug, Clone)]
pub(crate) struct EndpointWork {
    pub(crate) endpoint_id: EndpointId,
    /// The time at which its next delivery is due, if one has a due time.
    pub(crate) next: Option<Timestamp>,
    /// Its claims.
    pub(crate) sending: Vec<ClaimName>,
}

impl Store {
    /// Reads everything that a node must learn even if all hints are lost.
    pub(crate) async fn poll(&self, scan: PollScan) -> Result<Poll, StoreError> {
        let read = move |conn: &mut AnyConnection, _: &EndpointCodec| {
            Ok(Poll {
                tokens: changed_tokens(conn, scan.tokens)?,
                work: endpoints_with_work(conn, &scan.held, scan.horizon)?,
                endpoints: counter(conn, ENDPOINTS)?,
            })
        };
        self.read("poll", read).await
    }

    /// Reads those of the `live` endpoints that were changed after the counter had the value
    /// `after`, with their health.
    pub(crate) async fn changed_endpoints(
        &self,
        after: i64,
        live: BTreeSet<EndpointId>,
    ) -> Result<Vec<(Endpoint, StoredHealth)>, StoreError> {
        let read = move |conn: &mut AnyConnection, codec: &EndpointCodec| {
            let changed = changed_after(conn, after, MAX_CHANGES)?;
            let is_cut = i64::try_from(changed.len()).is_ok_and(|changed| changed >= MAX_CHANGES);
            let changed: BTreeSet<EndpointId> = changed.into_iter().map(|(id, _)| id).collect();
            let mut found = Vec::new();
            for id in live.iter().filter(|id| is_cut || changed.contains(*id)) {
                if let Some(endpoint) = endpoint(conn, codec, id)? {
                    found.push((endpoint, health(conn, id)?));
                }
            }
            Ok(found)
        };
        self.read("changed endpoints", read).await
    }

    /// Reads the endpoints of held shards with pending deliveries.
    pub(crate) async fn pending_endpoints(
        &self,
        held: Vec<Lease>,
    ) -> Result<Vec<EndpointId>, StoreError> {
        let read = move |conn: &mut AnyConnection, _: &EndpointCodec| {
            let found = pending_endpoints(conn, &held, None)?;
            Ok(found
                .into_iter()
                .map(|one| EndpointId::from_text(one.endpoint_id))
                .collect())
        };
        self.read("pending endpoints", read).await
    }
}

/// Reads the endpoints of held shards that are active and have a delivery due before `horizon`, or
/// one that is `sending`.
fn endpoints_with_work(
    conn: &mut AnyConnection,
    held: &[Lease],
    horizon: Timestamp,
) -> Result<Vec<EndpointWork>, StoreError> {
    let mut found = BTreeMap::<String, EndpointWork>::new();
    let entry = |endpoint: &String| EndpointWork {
        endpoint_id: EndpointId::from_text(endpoint.as_str()),
        next: None,
        sending: Vec::new(),
    };
    let rows: Vec<(String, String, i64)> = deliveries::table
        .filter(StatusIsSending)
        .filter(deliveries::shard.eq_any(shard_numbers(held)))
        .select((
            deliveries::endpoint_id,
            deliveries::id,
            deliveries::claim_no,
        ))
        .load(conn)?;
    for (endpoint, delivery, claim_no) in rows {
        let new = entry(&endpoint);
        found
            .entry(endpoint)
            .or_insert(new)
            .sending
            .push((DeliveryId::from_text(delivery), claim_no));
    }
    for PendingEndpoint {
        endpoint_id: endpoint,
        next,
    } in pending_endpoints(conn, held, Some(horizon))?
    {
        let new = entry(&endpoint);
        found.entry(endpoint).or_insert(new).next = next.map(codec::time);
    }
    Ok(found.into_values().collect())
}

/// An endpoint with pending deliveries.
#[derive(QueryableByName)]
pub(super) struct PendingEndpoint {
    #[diesel(sql_type = Text)]
    pub(super) endpoint_id: String,
    /// The time at which the next one is due; `None` if all are held.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub(super) next: Option<i64>,
}

/// Reads the endpoints of held shards with pending deliveries; with `horizon` only the active ones
/// with one that is due by then.
///
/// One statement steps from endpoint to endpoint through the index, so that a long backlog costs no
/// more than a short one. On Postgres pairs are compared and ordered by, because no other index can
/// serve that: for a `min` it would use the one by endpoint, and read every delivery ever stored.
/// SQLite seeks a pair only by its first half, and would read a whole shard at each step. The
/// endpoint is read in a subquery: as a join it could become the outer loop, and the walk would run
/// once per endpoint.
pub(super) fn pending_endpoints(
    conn: &mut AnyConnection,
    held: &[Lease],
    horizon: Option<Timestamp>,
) -> Result<Vec<PendingEndpoint>, StoreError> {
    let walk = endpoint_walk_cte(conn, &shard_numbers(held));
    let mut sql = format!(
        "WITH RECURSIVE {walk}, waiting AS MATERIALIZED ( \
             SELECT endpoint_id, (SELECT min(next_attempt_at) {pending} AND d.shard = walk.shard \
                 AND d.endpoint_id = walk.endpoint_id) AS next \
             FROM walk WHERE endpoint_id IS NOT NULL \
         ) SELECT endpoint_id, next FROM waiting",
        pending = pending_from_clause(),
    );
    if let Some(horizon) = horizon {
        sql.push_str(&format!(
            " WHERE next <= {} AND (SELECT pause_reason IS NULL AND deleted_at IS NULL \
             FROM webhook_endpoints WHERE webhook_endpoints.id = waiting.endpoint_id)",
            horizon.as_micros()
        ));
    }
    Ok(diesel::sql_query(sql).load(conn)?)
}

/// Returns the beginning of a clause that reads pending rows.
fn pending_from_clause() -> String {
    format!(
        "FROM webhook_deliveries AS d WHERE d.status = '{}'",
        Status::Pending
    )
}

/// Returns a recursive CTE that steps from endpoint to endpoint with pending deliveries. It ends
/// each shard with NULL.
pub(super) fn endpoint_walk_cte(conn: &mut AnyConnection, shards: &[i32]) -> String {
    // Numbers need no quoting.
    let shards: Vec<String> = shards.iter().map(ToString::to_string).collect();
    let pending = pending_from_clause();
    let pairs_seek = conn.dialect().supports_row_value_seek();
    let first_after = |shard: &str, endpoint: &str| {
        let within = match pairs_seek {
            true => format!(
                "(d.shard, d.endpoint_id) > ({shard}, {endpoint}) AND (d.shard, d.endpoint_id) < ({shard} + 1, '')"
            ),
            false => format!("d.shard = {shard} AND d.endpoint_id > {endpoint}"),
        };
        format!(
            "(SELECT endpoint_id {pending} AND {within} ORDER BY d.shard, d.endpoint_id LIMIT 1)"
        )
    };
    format!(
        "walk (shard, endpoint_id) AS ( \
             SELECT shard, {first} FROM webhook_shards WHERE shard IN ({shards}) \
             UNION ALL \
             SELECT shard, {next} FROM walk WHERE endpoint_id IS NOT NULL \
         )",
        first = first_after("webhook_shards.shard", "''"),
        next = first_after("walk.shard", "walk.endpoint_id"),
        shards = if shards.is_empty() {
            "NULL".to_owned()
        } else {
            shards.join(", ")
        },
    )
}
