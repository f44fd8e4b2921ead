//! Reading ahead for a supervisor: due deliveries, and the recent attempts that its rate limit
//! counts.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use diesel::prelude::*;

use super::codec;
use super::connection::AnyConnection;
use super::endpoint_codec::EndpointCodec;
use super::error::StoreError;
use super::health::health;
use super::numbers::{attempts_of, of_endpoint};
use super::rows::DueRow;
use super::schema::{webhook_attempts as attempts, webhook_deliveries as deliveries};
use super::store::Store;
use crate::domain::breaker::StoredHealth;
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::delivery::{Outcome, Queued, Seen};
use crate::domain::ids::{DeliveryKey, EndpointId, Tenant};
use crate::domain::lifecycle::Status;
use crate::domain::rate_limit::{RateLimit, SlidingWindow};

/// Due deliveries to read.
#[derive(Debug, Clone)]
pub(crate) struct DueScan {
    pub(crate) endpoint_id: EndpointId,
    /// The endpoint's tenant, whose events they are.
    pub(crate) tenant: Tenant,
    /// Time by which they are due.
    pub(crate) now: Timestamp,
    /// Maximum number of deliveries, including those at hand.
    pub(crate) limit: usize,
    /// Bytes of bodies after which reading stops.
    pub(crate) max_bytes: usize,
    /// Deliveries that count but are not read again.
    pub(crate) at_hand: HashSet<DeliveryKey>,
}

/// Due deliveries of an endpoint, oldest first.
#[derive(Debug, Default)]
pub(crate) struct DuePage {
    pub(crate) queued: Vec<Queued>,
    /// The time at which the next one after those is due; `None` if there is none.
    pub(crate) next: Option<Timestamp>,
}

/// The attempts that an endpoint's rate limit counts, on any node, and the endpoint's health.
#[derive(Debug)]
pub(crate) struct RateLimitHistory {
    /// The limit that `starts` were read for.
    limit: RateLimit,
    starts: Vec<Timestamp>,
    pub(crate) health: StoredHealth,
}

impl RateLimitHistory {
    /// The history of an endpoint without attempts.
    #[cfg(test)]
    pub(crate) fn empty(limit: RateLimit) -> Self {
        Self {
            limit,
            starts: Vec::new(),
            health: StoredHealth::default(),
        }
    }

    /// Returns a limiter that counts the logged starts and these, which are not yet in the log (on
    /// the monotonic clock).
    pub(crate) fn limiter(
        &self,
        now: Timestamp,
        monotonic: Duration,
        starts_in_flight: Vec<Duration>,
    ) -> SlidingWindow {
        // A start in the future, after a clock step, counts as now; one before this clock's origin
        // counts as the origin, which only makes waits longer.
        let age = |at: &Timestamp| monotonic.saturating_sub(now.since(*at));
        SlidingWindow::seeded(
            self.limit,
            self.starts.iter().map(age).chain(starts_in_flight),
        )
    }
}

/// Rows beyond the limit of starts: attempts end in another order than they start, and at most this
/// many are in flight.
const MAX_IN_FLIGHT: i64 = 1000;

/// Events read at once, before their sizes are known.
const EVENTS_AT_ONCE: usize = 16;

impl Store {
    /// Reads due deliveries of an endpoint.
    pub(crate) async fn due(&self, scan: DueScan) -> Result<DuePage, StoreError> {
        self.read("due deliveries", move |conn, _| due(conn, &scan))
            .await
    }

    /// Reads the attempts that an endpoint's rate limit counts, and its health.
    pub(crate) async fn rate_limit_history(
        &self,
        id: &EndpointId,
        limit: RateLimit,
        clock: Arc<dyn Clock>,
    ) -> Result<RateLimitHistory, StoreError> {
        let id = id.clone();
        let read = move |conn: &mut AnyConnection, _: &EndpointCodec| {
            rate_limit_history(conn, &id, limit, &*clock)
        };
        self.read("rate limit history", read).await
    }
}

fn rate_limit_history(
    conn: &mut AnyConnection,
    id: &EndpointId,
    limit: RateLimit,
    clock: &dyn Clock,
) -> Result<RateLimitHistory, StoreError> {
    let starts = match limit {
        RateLimit::Unlimited => Vec::new(),
        RateLimit::Sliding { starts, period } => {
            // Twice the period covers everything within the window's margin.
            let since = clock.now() - 2 * period.duration();
            recent_starts(conn, id, since, i64::from(starts) + MAX_IN_FLIGHT)?
        }
    };
    let stored = health(conn, id)?;
    let within_reach = stored.health.within_reach(clock.schedule_now());
    if within_reach != stored.health {
        tracing::warn!(endpoint = %id, "a rest or probe of {id} was stored for a time beyond reach: was the clock set back?");
    }
    let health = StoredHealth {
        health: within_reach,
        ..stored
    };
    Ok(RateLimitHistory {
        limit,
        starts,
        health,
    })
}

fn due(conn: &mut AnyConnection, scan: &DueScan) -> Result<DuePage, StoreError> {
    let rows: Vec<DueRow> = deliveries::table
        .filter(of_endpoint(&scan.endpoint_id))
        .filter(deliveries::due_at.is_not_null())
        .filter(deliveries::status.eq(Status::Pending.as_str()))
        .order((
            deliveries::due_at,
            deliveries::created_at,
            deliveries::event_seq,
        ))
        .limit(i64::try_from(scan.limit).map_or(i64::MAX, |limit| limit.saturating_add(1)))
        .select(DueRow::as_select())
        .load(conn)?;
    let mut page = DuePage::default();
    let mut wanted = Vec::new();
    for (read, row) in rows.into_iter().enumerate() {
        let at = codec::time(row.life.due_at.unwrap_or_default());
        if at > scan.now || read >= scan.limit {
            page.next = Some(at);
            break;
        }
        let key = DeliveryKey::from(row.key);
        if !scan.at_hand.contains(&key) {
            let seen = Seen {
                claim_no: row.claim_no,
                life: codec::life(&row.life)?,
            };
            wanted.push((key, at, seen));
        }
    }
    let mut bytes = 0;
    let mut events = HashMap::new();
    for part in wanted.chunks(EVENTS_AT_ONCE) {
        if bytes >= scan.max_bytes {
            page.next = part.first().map(|(_, at, ..)| *at);
            break;
        }
        let seqs: Vec<i64> = part.iter().map(|(key, ..)| key.event_seq).collect();
        for row in conn.dialect().events(&seqs)? {
            bytes += row.body.len();
            events.insert(row.seq, codec::event(row, &scan.tenant)?);
        }
        for (key, due, seen) in part {
            if let Some(event) = events.get(&key.event_seq) {
                let event = Arc::clone(event);
                page.queued.push(Queued {
                    key: *key,
                    due: *due,
                    event,
                    seen: *seen,
                });
            }
        }
    }
    Ok(page)
}

/// Reads the latest starts that an endpoint's rate limit counts, at most `limit`. An interrupted
/// attempt counts from the time at which the interruption was found; its start is unknown.
fn recent_starts(
    conn: &mut AnyConnection,
    id: &EndpointId,
    since: Timestamp,
    limit: i64,
) -> Result<Vec<Timestamp>, StoreError> {
    let rows: Vec<(i64, i64, String)> = attempts::table
        .filter(attempts_of(id))
        .filter(attempts::ended_at.gt(since.as_micros()))
        .order(attempts::ended_at.desc())
        .limit(limit)
        .select((attempts::started_at, attempts::ended_at, attempts::outcome))
        .load(conn)?;
    let start = |(started_at, ended_at, outcome): (i64, i64, String)| {
        codec::time(if outcome == Outcome::Interrupted.as_str() {
            ended_at
        } else {
            started_at
        })
    };
    Ok(rows
        .into_iter()
        .map(start)
        .filter(|at| *at > since)
        .collect())
}
