//! What people look at: how an endpoint has been doing, which ones are in trouble, what a recovery
//! would bring back. What reads rows stops at [`MOST`] of them; what only counts does so in an
//! index, within its span.

use std::collections::HashSet;
use std::time::Duration;

use diesel::dsl::count_star;
use diesel::prelude::*;

use super::recoveries::{Cursor, given_up, missing};
use super::work::waiting;
use super::{Conn, targets_of};
use crate::domain::breaker::BreakerState;
use crate::domain::clock::Timestamp;
use crate::domain::delivery::Outcome;
use crate::domain::endpoint::PauseReason;
use crate::domain::event::EventFilter;
use crate::domain::ids::{EndpointId, Tenant};
use crate::domain::lease::{Lease, Shard};
use crate::domain::recovery::Recovery;
use crate::store::schema::{
    webhook_attempts as attempts, webhook_deliveries as deliveries,
    webhook_endpoint_health as health, webhook_endpoints as endpoints,
};
use crate::store::status_is::StatusIsFailed;
use crate::store::{StoreError, codec};

/// Where counting stops.
pub(crate) const MOST: i64 = 100_000;

/// One attempt, as far as statistics go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) started_at: Timestamp,
    pub(crate) ended_at: Timestamp,
    pub(crate) outcome: Outcome,
}

/// The latest attempts of an endpoint that ended since then, at most [`MOST`].
pub(crate) fn samples(
    conn: &mut Conn,
    id: &EndpointId,
    since: Timestamp,
) -> Result<Vec<Sample>, StoreError> {
    let rows: Vec<(i64, i64, String)> = attempts::table
        .filter(attempts::endpoint_id.eq(id.as_str()))
        .filter(attempts::ended_at.gt(since.as_micros()))
        .order(attempts::ended_at.desc())
        .limit(MOST)
        .select((attempts::started_at, attempts::ended_at, attempts::outcome))
        .load(conn)?;
    let sample = |(started_at, ended_at, outcome): (i64, i64, String)| {
        let outcome = codec::word("webhook_attempts", "outcome", &outcome)?;
        Ok(Sample {
            started_at: codec::time(started_at),
            ended_at: codec::time(ended_at),
            outcome,
        })
    };
    rows.into_iter().map(sample).collect()
}

/// How many deliveries of an endpoint were given up since then.
pub(crate) fn failed_since(
    conn: &mut Conn,
    id: &EndpointId,
    since: Timestamp,
) -> Result<u64, StoreError> {
    let failed: i64 = deliveries::table
        .filter(StatusIsFailed)
        .filter(deliveries::endpoint_id.eq(id.as_str()))
        .filter(deliveries::updated_at.gt(since.as_micros()))
        .select(count_star())
        .get_result(conn)?;
    Ok(failed.unsigned_abs())
}

/// How long after its time a delivery is overdue: healthy endpoints with much to do are never quite
/// up to date.
const OVERDUE: Duration = Duration::from_secs(10);

/// Endpoints that a person should look at: paused by themselves or failing, the worst first, and
/// those where something is overdue the longest. At most `limit` of each kind.
pub(crate) fn troubled(
    conn: &mut Conn,
    tenant: Option<&Tenant>,
    now: Timestamp,
    limit: i64,
) -> Result<Vec<EndpointId>, StoreError> {
    let by_itself = [PauseReason::Gone.as_str(), PauseReason::Failing.as_str()];
    let mut ill = endpoints::table
        .left_join(health::table.on(health::endpoint_id.eq(endpoints::id)))
        .filter(endpoints::deleted_at.is_null())
        .filter(
            endpoints::pause_reason
                .eq_any(by_itself)
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
        ill = ill.filter(endpoints::tenant.eq(tenant.as_str()));
    }
    let mut found: Vec<String> = ill.load(conn)?;
    let all: Vec<Lease> = Shard::all()
        .map(|shard| Lease { shard, epoch: 0 })
        .collect();
    let mut overdue = waiting(conn, &all, Some(now - OVERDUE))?;
    if let Some(tenant) = tenant {
        let own = targets_of(conn, tenant)?;
        let own: HashSet<&str> = own.iter().map(|target| target.id.as_str()).collect();
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

/// What a recovery would bring back: deliveries that were given up, and events that the endpoint
/// never got.
pub(crate) fn recoverable(
    conn: &mut Conn,
    recovery: &Recovery,
    wants: &[EventFilter],
) -> Result<(u64, u64, bool), StoreError> {
    let (mut failed, mut never_got, mut capped) = (0, 0, false);
    if recovery.include.failed() {
        failed = given_up(conn, recovery, &Cursor::default(), MOST)?.len();
        capped |= i64::try_from(failed).is_ok_and(|failed| failed == MOST);
    }
    if recovery.include.missing() {
        let mut cursor = Cursor::default();
        // Events of all tenants are looked at.
        for _ in 0..MOST / 1000 {
            let batch = missing(conn, recovery, wants, &cursor, 1000)?;
            never_got += batch.events.len();
            cursor.seq = batch.last;
            if batch.last.is_none() {
                break;
            }
        }
        capped |= cursor.seq.is_some();
    }
    Ok((failed as u64, never_got as u64, capped))
}
