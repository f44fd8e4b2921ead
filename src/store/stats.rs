//! Statistics: the states of endpoints, their recent attempts, and the endpoints that need
//! attention. Reading rows stops at [`MAX_COUNTED`]; counts use an index, within its span.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use diesel::dsl::count_star;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Nullable, Text};

use super::census::endpoint_census;
use super::codec;
use super::connection::AnyConnection;
use super::due_index::{count_sending, first_status, next_columns};
use super::endpoint_codec::EndpointCodec;
use super::endpoints::subscribers_of;
use super::error::StoreError;
use super::numbers::{attempts_of, endpoints_of, of_endpoint};
use super::polling::due_endpoints;
use super::rows::HealthRow;
use super::schema::{
    webhook_attempts as attempts, webhook_deliveries as deliveries,
    webhook_endpoint_health as health, webhook_endpoints as endpoints,
};
use super::store::Store;
use crate::domain::breaker::{BreakerState, Health};
use crate::domain::census::Census;
use crate::domain::clock::Timestamp;
use crate::domain::delivery::Outcome;
use crate::domain::endpoint::{Backlog, PauseReason};
use crate::domain::ids::{EndpointId, Tenant};
use crate::domain::lease::Shard;
use crate::domain::lifecycle::HoldReason;

/// Limit of reading rows.
const MAX_COUNTED: i64 = 100_000;

/// Delay after which a due delivery is overdue: busy endpoints always lag a little.
const OVERDUE: Duration = Duration::from_secs(10);

/// The part of an attempt that statistics use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AttemptSample {
    pub(crate) started_at: Timestamp,
    pub(crate) ended_at: Timestamp,
    pub(crate) outcome: Outcome,
}

/// An endpoint's health and backlog.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct EndpointState {
    pub(crate) health: Health,
    pub(crate) backlog: Backlog,
}

/// An endpoint's recent history.
pub(crate) struct EndpointHistory {
    pub(crate) samples: Vec<AttemptSample>,
    /// Deliveries that failed.
    pub(crate) failed: u64,
    pub(crate) backlog: Backlog,
}

/// Summed activity of a tenant's endpoints.
pub(crate) struct TenantActivity {
    pub(crate) endpoints: Census,
    pub(crate) backlog: Backlog,
    pub(crate) samples: Vec<AttemptSample>,
}

impl Store {
    /// Reads the health and backlog of endpoints, in a constant number of statements.
    pub(crate) async fn endpoint_states(
        &self,
        ids: Vec<EndpointId>,
    ) -> Result<BTreeMap<EndpointId, EndpointState>, StoreError> {
        self.read("endpoint states", move |conn, _| {
            endpoint_states(conn, &ids)
        })
        .await
    }

    /// Reads an endpoint's attempts and failures since `since`, and its backlog.
    pub(crate) async fn endpoint_history(
        &self,
        id: &EndpointId,
        since: Timestamp,
    ) -> Result<EndpointHistory, StoreError> {
        let id = id.clone();
        let read = move |conn: &mut AnyConnection, _: &EndpointCodec| {
            Ok(EndpointHistory {
                samples: attempt_samples(conn, &id, since)?,
                failed: failed_since(conn, &id, since)?,
                backlog: endpoint_states(conn, std::slice::from_ref(&id))?
                    .remove(&id)
                    .unwrap_or_default()
                    .backlog,
            })
        };
        self.read("statistics", read).await
    }

    /// Reads the summed state and recent attempts of a tenant's endpoints.
    pub(crate) async fn tenant_activity(
        &self,
        tenant: &Tenant,
        since: Timestamp,
    ) -> Result<TenantActivity, StoreError> {
        let tenant = tenant.clone();
        let read = move |conn: &mut AnyConnection, _: &EndpointCodec| {
            let ids: Vec<EndpointId> = subscribers_of(conn, &tenant)?
                .into_iter()
                .map(|one| one.id.clone())
                .collect();
            let mut backlog = Backlog::default();
            for state in endpoint_states(conn, &ids)?.into_values() {
                backlog += state.backlog;
            }
            let endpoints = endpoint_census(conn, &tenant)?;
            let samples = samples_of(conn, &ids, since)?;
            Ok(TenantActivity {
                endpoints,
                backlog,
                samples,
            })
        };
        self.read("tenant overview", read).await
    }

    /// Reads the endpoints that need attention, at most `limit` of each kind.
    pub(crate) async fn troubled(
        &self,
        tenant: Option<Tenant>,
        now: Timestamp,
        limit: i64,
    ) -> Result<Vec<EndpointId>, StoreError> {
        let read = move |conn: &mut AnyConnection, _: &EndpointCodec| {
            troubled(conn, tenant.as_ref(), now, limit)
        };
        self.read("endpoints in trouble", read).await
    }
}

/// Counts of an endpoint's deliveries.
#[derive(QueryableByName)]
struct BacklogRow {
    #[diesel(sql_type = Text)]
    id: String,
    #[diesel(sql_type = BigInt)]
    live: i64,
    #[diesel(sql_type = BigInt)]
    sending: i64,
    #[diesel(sql_type = BigInt)]
    without_time: i64,
    #[diesel(sql_type = BigInt)]
    waits_for_order: i64,
    #[diesel(sql_type = Nullable<BigInt>)]
    oldest_due: Option<i64>,
    #[diesel(sql_type = Nullable<BigInt>)]
    oldest_held: Option<i64>,
}

impl From<BacklogRow> for Backlog {
    fn from(row: BacklogRow) -> Self {
        let oldest = row.oldest_due.into_iter().chain(row.oldest_held).min();
        Self {
            pending: (row.live - row.sending + row.without_time).unsigned_abs(),
            sending: row.sending.unsigned_abs(),
            held: (row.without_time - row.waits_for_order).unsigned_abs(),
            oldest_pending_at: oldest.map(codec::time),
        }
    }
}

/// Reads the health and backlog of endpoints; those that do not exist are left out.
pub(super) fn endpoint_states(
    conn: &mut AnyConnection,
    ids: &[EndpointId],
) -> Result<BTreeMap<EndpointId, EndpointState>, StoreError> {
    let mut states: BTreeMap<EndpointId, EndpointState> = BTreeMap::new();
    let names: Vec<&str> = ids.iter().map(EndpointId::as_str).collect();
    let rows: Vec<HealthRow> = health::table
        .filter(health::endpoint_id.eq_any(&names))
        .select(HealthRow::as_select())
        .load(conn)?;
    for row in &rows {
        let id = EndpointId::from_text(row.endpoint_id.as_str());
        states.entry(id).or_default().health = codec::health(row)?.health;
    }
    let numbers: Vec<i32> = endpoints::table
        .filter(endpoints::id.eq_any(&names))
        .select(endpoints::number)
        .load(conn)?;
    for row in backlogs(conn, &numbers)? {
        let id = EndpointId::from_text(row.id.as_str());
        states.entry(id).or_default().backlog = row.into();
    }
    Ok(states)
}

fn backlogs(conn: &mut AnyConnection, numbers: &[i32]) -> Result<Vec<BacklogRow>, StoreError> {
    if numbers.is_empty() {
        return Ok(Vec::new());
    }
    let of = |column: &str, condition: &str| {
        format!(
            "(SELECT {column} FROM webhook_deliveries AS d WHERE d.endpoint = asked.number AND {condition})"
        )
    };
    // Numbers need no quoting.
    let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    let sql = format!(
        "WITH named AS MATERIALIZED ( \
             SELECT id, number, {first} AS first FROM webhook_endpoints AS e \
             WHERE number IN ({numbers}) \
         ), asked AS MATERIALIZED ( \
             SELECT id, number, {next} FROM named \
         ) SELECT id, {live} AS live, {sending} AS sending, {without_time} AS without_time, \
             {order} AS waits_for_order, {oldest_due} AS oldest_due, {oldest_held} AS oldest_held \
         FROM asked",
        first = first_status("e.number", "0"),
        next = next_columns("named.number", "first", "0"),
        numbers = numbers.join(", "),
        live = of("count(*)", "d.due_at IS NOT NULL"),
        sending = count_sending("asked", "number"),
        without_time = of("count(*)", "d.hold_reason IS NOT NULL"),
        order = of(
            "count(*)",
            &format!("d.hold_reason = '{}'", HoldReason::Order)
        ),
        oldest_due = of("min(d.created_at)", "d.due_at >= asked.next"),
        oldest_held = of("min(d.created_at)", "d.hold_reason IS NOT NULL"),
    );
    Ok(diesel::sql_query(sql).load(conn)?)
}

/// Reads an endpoint's latest attempts since `since`, at most [`MAX_COUNTED`].
fn attempt_samples(
    conn: &mut AnyConnection,
    id: &EndpointId,
    since: Timestamp,
) -> Result<Vec<AttemptSample>, StoreError> {
    let rows: Vec<(i64, i64, String)> = attempts::table
        .filter(attempts_of(id))
        .filter(attempts::ended_at.gt(since.as_micros()))
        .order(attempts::ended_at.desc())
        .limit(MAX_COUNTED)
        .select((attempts::started_at, attempts::ended_at, attempts::outcome))
        .load(conn)?;
    rows.into_iter().map(sample).collect()
}

fn sample(
    (started_at, ended_at, outcome): (i64, i64, String),
) -> Result<AttemptSample, StoreError> {
    Ok(AttemptSample {
        started_at: codec::time(started_at),
        ended_at: codec::time(ended_at),
        outcome: codec::word("webhook_attempts", "outcome", &outcome)?,
    })
}

/// Reads the latest attempts of several endpoints since `since`, at most [`MAX_COUNTED`].
fn samples_of(
    conn: &mut AnyConnection,
    ids: &[EndpointId],
    since: Timestamp,
) -> Result<Vec<AttemptSample>, StoreError> {
    let numbers = endpoints::table
        .filter(endpoints::id.eq_any(ids.iter().map(EndpointId::as_str)))
        .select(endpoints::number);
    let rows: Vec<(i64, i64, String)> = attempts::table
        .filter(attempts::endpoint.eq_any(numbers))
        .filter(attempts::ended_at.gt(since.as_micros()))
        .limit(MAX_COUNTED)
        .select((attempts::started_at, attempts::ended_at, attempts::outcome))
        .load(conn)?;
    rows.into_iter().map(sample).collect()
}

/// Counts an endpoint's failed deliveries since `since`.
fn failed_since(
    conn: &mut AnyConnection,
    id: &EndpointId,
    since: Timestamp,
) -> Result<u64, StoreError> {
    let failed: i64 = deliveries::table
        .filter(of_endpoint(id))
        .filter(deliveries::failed_at.gt(since.as_micros()))
        .select(count_star())
        .get_result(conn)?;
    Ok(failed.unsigned_abs())
}

/// Reads the endpoints that need attention: paused automatically or failing, the worst first, and
/// those with the longest overdue deliveries. At most `limit` of each kind.
fn troubled(
    conn: &mut AnyConnection,
    tenant: Option<&Tenant>,
    now: Timestamp,
    limit: i64,
) -> Result<Vec<EndpointId>, StoreError> {
    let automatic = [PauseReason::Gone.as_str(), PauseReason::Failing.as_str()];
    let mut failing = endpoints::table
        .left_join(health::table.on(health::endpoint_id.eq(endpoints::id)))
        .filter(endpoints::deleted_at.is_null())
        .filter(
            endpoints::pause_reason
                .eq_any(automatic)
                .assume_not_null()
                .or(health::breaker
                    .ne(BreakerState::Closed.as_str())
                    .assume_not_null())
                .or(health::consecutive_failures
                    .gt(0)
                    .assume_not_null()
                    .and(endpoints::pause_reason.is_null())),
        )
        .order((health::consecutive_failures.desc(), endpoints::id.desc()))
        .limit(limit)
        .select(endpoints::id)
        .into_boxed();
    if let Some(tenant) = tenant {
        failing = failing.filter(endpoints_of(tenant));
    }
    let mut found: Vec<String> = failing.load(conn)?;
    let all: Vec<i32> = Shard::all().map(Shard::number).collect();
    let mut overdue = due_endpoints(conn, &all, now - OVERDUE)?;
    if let Some(tenant) = tenant {
        let own = subscribers_of(conn, tenant)?;
        let own: HashSet<&str> = own
            .iter()
            .map(|subscriber| subscriber.id.as_str())
            .collect();
        overdue.retain(|waiting| own.contains(waiting.endpoint_id.as_str()));
    }
    overdue.sort_by_key(|waiting| waiting.next);
    for late in overdue
        .into_iter()
        .take(usize::try_from(limit).unwrap_or(0))
    {
        if !found.contains(&late.endpoint_id) {
            found.push(late.endpoint_id);
        }
    }
    Ok(found.into_iter().map(EndpointId::from_text).collect())
}
