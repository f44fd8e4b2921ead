//! Counts over the whole database, for metrics. Their cost grows with the endpoints and with the
//! pending deliveries (up to a limit), never with the history.

use diesel::IntoSql as _;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Nullable};

use super::codec;
use super::connection::AnyConnection;
use super::due_index::{DueIndex, count_sending, ranges_of, walk, with_next};
use super::error::StoreError;
use super::numbers::endpoints_of;
use super::schema::{webhook_endpoint_health as health, webhook_endpoints as endpoints};
use super::store::Store;
use crate::domain::breaker::BreakerState;
use crate::domain::census::Census;
use crate::domain::ids::Tenant;
use crate::domain::lease::Shard;
use crate::domain::lifecycle::HoldReason;

impl Store {
    /// Counts deliveries and endpoints in the whole database.
    pub(crate) async fn census(&self) -> Result<Census, StoreError> {
        self.read("census", |conn, _| census(conn)).await
    }
}

/// Limit of counting.
const MAX_COUNTED: i64 = 1_000_000;

/// Counts of an index of pending deliveries.
#[derive(QueryableByName)]
struct Counted {
    #[diesel(sql_type = BigInt)]
    rows: i64,
    #[diesel(sql_type = BigInt)]
    waits_for_order: i64,
    #[diesel(sql_type = Nullable<BigInt>)]
    oldest: Option<i64>,
}

#[derive(QueryableByName)]
struct SendingCount {
    #[diesel(sql_type = BigInt)]
    sending: i64,
}

fn census(conn: &mut AnyConnection) -> Result<Census, StoreError> {
    let mut census = Census::default();
    let live = counted(conn, "due_at")?;
    let held = counted(conn, "hold_reason")?;
    let waiting = (live.rows - sending(conn)?).max(0) + held.rows;
    census.waiting = waiting.unsigned_abs();
    census.held = (held.rows - held.waits_for_order).unsigned_abs();
    let oldest = live.oldest.into_iter().chain(held.oldest).min();
    census.oldest_waiting_at = oldest.filter(|_| waiting > 0).map(codec::time);
    count_endpoints(conn, None, &mut census)?;
    Ok(census)
}

/// Counts the rows of the partial index where `column` is set, which covers this.
fn counted(conn: &mut AnyConnection, column: &str) -> Result<Counted, StoreError> {
    let order = if column == "hold_reason" {
        format!("CASE WHEN hold_reason = '{}' THEN 1 END", HoldReason::Order)
    } else {
        "NULL".to_owned()
    };
    let sql = format!(
        "SELECT count(*) AS rows, count({order}) AS waits_for_order, min(created_at) AS oldest \
         FROM (SELECT {column}, created_at FROM webhook_deliveries \
               WHERE {column} IS NOT NULL LIMIT {MAX_COUNTED}) AS pending"
    );
    Ok(diesel::sql_query(sql).get_result(conn)?)
}

/// Counts the deliveries that are `sending`, endpoint by endpoint.
fn sending(conn: &mut AnyConnection) -> Result<i64, StoreError> {
    let shards: Vec<i32> = Shard::all().map(Shard::number).collect();
    let sql = format!(
        "WITH RECURSIVE {walk}, {live} \
         SELECT CAST(coalesce(sum({sending}), 0) AS BIGINT) AS sending FROM live",
        walk = walk("walk", DueIndex::Live, &ranges_of(&shards)),
        live = with_next("live", "walk", "0"),
        sending = count_sending("live", "endpoint"),
    );
    let found: SendingCount = diesel::sql_query(sql).get_result(conn)?;
    Ok(found.sending)
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
    let all = tenant.is_none();
    let none = Tenant::from_text("");
    let of = || endpoints_of(tenant.unwrap_or(&none)).or(all.into_sql::<Bool>());
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
