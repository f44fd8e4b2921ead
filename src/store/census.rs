//! Counts over the whole database, for metrics. Their cost grows with the endpoints and with the
//! pending deliveries (up to a limit), never with the history.

use diesel::IntoSql as _;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Nullable};

use super::codec;
use super::connection::AnyConnection;
use super::error::StoreError;
use super::polling::endpoint_walk_cte;
use super::schema::{webhook_endpoint_health as health, webhook_endpoints as endpoints};
use super::store::Store;
use crate::domain::breaker::BreakerState;
use crate::domain::census::Census;
use crate::domain::ids::Tenant;
use crate::domain::lease::Shard;
use crate::domain::lifecycle::{HoldReason, Status};

impl Store {
    /// Counts deliveries and endpoints in the whole database.
    pub(crate) async fn census(&self) -> Result<Census, StoreError> {
        self.read("census", |conn, _| census(conn)).await
    }
}

/// Limit of counting.
const MAX_COUNTED: i64 = 1_000_000;

#[derive(QueryableByName)]
struct PendingCounts {
    #[diesel(sql_type = BigInt)]
    waiting: i64,
    /// Waiting deliveries with a due time.
    #[diesel(sql_type = BigInt)]
    timed: i64,
    #[diesel(sql_type = Nullable<BigInt>)]
    oldest: Option<i64>,
}

#[derive(QueryableByName)]
struct HeldCount {
    #[diesel(sql_type = BigInt)]
    held: i64,
}

fn census(conn: &mut AnyConnection) -> Result<Census, StoreError> {
    let mut census = Census::default();
    // The index of pending deliveries covers this.
    let sql = format!(
        "SELECT count(*) AS waiting, count(next_attempt_at) AS timed, min(created_at) AS oldest \
         FROM (SELECT next_attempt_at, created_at FROM webhook_deliveries \
               WHERE status = '{}' LIMIT {MAX_COUNTED}) AS pending",
        Status::Pending
    );
    let pending: PendingCounts = diesel::sql_query(sql).get_result(conn)?;
    census.waiting = pending.waiting.unsigned_abs();
    census.oldest_waiting_at = pending.oldest.map(codec::time);
    if pending.timed < pending.waiting {
        census.held = held(conn)?;
    }
    count_endpoints(conn, None, &mut census)?;
    Ok(census)
}

/// Counts held deliveries endpoint by endpoint: most deliveries without a due time are deferred for
/// their order.
fn held(conn: &mut AnyConnection) -> Result<u64, StoreError> {
    let shards: Vec<i32> = Shard::all().map(Shard::number).collect();
    let walk = endpoint_walk_cte(conn, &shards);
    let sql = format!(
        "WITH RECURSIVE {walk} SELECT CAST(coalesce(sum((SELECT count(*) FROM webhook_deliveries AS d \
             WHERE d.status = '{pending}' AND d.shard = walk.shard AND d.endpoint_id = walk.endpoint_id \
             AND d.next_attempt_at IS NULL AND d.hold_reason <> '{reason}')), 0) AS BIGINT) AS held \
         FROM walk WHERE endpoint_id IS NOT NULL",
        pending = Status::Pending,
        reason = HoldReason::Order,
    );
    let found: HeldCount = diesel::sql_query(sql).get_result(conn)?;
    Ok(found.held.unsigned_abs())
}

/// Counts only the endpoints of one tenant.
pub(super) fn endpoint_census(
    conn: &mut AnyConnection,
    tenant: &Tenant,
) -> Result<Census, StoreError> {
    let mut census = Census::default();
    count_endpoints(conn, Some(tenant), &mut census)?;
    Ok(census)
}

fn count_endpoints(
    conn: &mut AnyConnection,
    tenant: Option<&Tenant>,
    census: &mut Census,
) -> Result<(), StoreError> {
    let (name, all) = (tenant.map_or("", Tenant::as_str), tenant.is_none());
    let of = || endpoints::tenant.eq(name).or(all.into_sql::<Bool>());
    let live = || {
        endpoints::table
            .filter(endpoints::deleted_at.is_null())
            .filter(of())
    };
    let paused: Vec<(Option<String>, i64)> = live()
        .group_by(endpoints::pause_reason)
        .select((endpoints::pause_reason, diesel::dsl::count_star()))
        .load(conn)?;
    for (reason, count) in paused {
        let reason = reason
            .map(|text| codec::word("webhook_endpoints", "pause_reason", &text))
            .transpose()?;
        census.endpoints.insert(reason, count.unsigned_abs());
    }
    let active = census.endpoints.get(&None).copied().unwrap_or_default();
    let of_active = health::table
        .inner_join(endpoints::table)
        .filter(endpoints::deleted_at.is_null())
        .filter(of())
        .filter(endpoints::pause_reason.is_null());
    let breakers: Vec<(String, i64)> = of_active
        .group_by(health::breaker)
        .select((health::breaker, diesel::dsl::count_star()))
        .load(conn)?;
    for (state, count) in breakers {
        let state = codec::word("webhook_endpoint_health", "breaker", &state)?;
        census.breakers.insert(state, count.unsigned_abs());
    }
    // Endpoints without a row of health have a closed breaker.
    let counted: u64 = census.breakers.values().sum();
    *census.breakers.entry(BreakerState::Closed).or_default() += active.saturating_sub(counted);
    Ok(())
}
