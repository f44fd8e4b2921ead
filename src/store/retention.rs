//! Expired deliveries, and events older than the retention.

use std::sync::Arc;

use diesel::prelude::*;

use super::codec;
use super::connection::AnyConnection;
use super::delivery_rows::of_endpoint;
use super::dialect::Aged;
use super::endpoint_codec::EndpointCodec;
use super::endpoints::endpoint;
use super::error::StoreError;
use super::event_search::event_before;
use super::health::health;
use super::schema::{webhook_deliveries as deliveries, webhook_events as events};
use super::status_is::StatusIsPending;
use super::store::Store;
use super::tx::Tx;
use super::writes::{RetentionBatch, RetentionResult};
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::ids::{DeliveryId, EndpointId};
use crate::domain::lifecycle::{self, Cause, State};

/// The pending deliveries of an endpoint that may have expired.
#[derive(Clone)]
pub(crate) struct OverdueScan {
    pub(crate) endpoint_id: EndpointId,
    pub(crate) clock: Arc<dyn Clock>,
    /// Maximum number of deliveries.
    pub(crate) limit: i64,
}

/// The reason for which a pending delivery fails without an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overdue {
    /// It waited longer than the endpoint's `max_age`.
    Expired {
        /// True if it still blocks the deliveries behind it in its ordering key.
        blocks: bool,
    },
    EndpointDeleted,
}

impl Store {
    /// Reads pending deliveries whose endpoint was deleted or whose `max_age` has passed.
    pub(crate) async fn overdue(
        &self,
        scan: OverdueScan,
    ) -> Result<Vec<(DeliveryId, Overdue)>, StoreError> {
        self.read("overdue deliveries", move |conn, codec| {
            overdue(conn, codec, &scan)
        })
        .await
    }

    /// Returns the maximum due time of an endpoint's deliveries, if one is due later than any of
    /// its waits lasts.
    pub(crate) async fn due_beyond_reach(
        &self,
        id: &EndpointId,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, StoreError> {
        let id = id.clone();
        let read = move |conn: &mut AnyConnection, codec: &EndpointCodec| {
            let Some(due) = latest_due(conn, &id)?.filter(|due| *due > now) else {
                return Ok(None);
            };
            let Some(endpoint) = endpoint(conn, codec, &id)? else {
                return Ok(None);
            };
            let health = health(conn, &id)?.health.within_reach(now);
            let reach = endpoint.latest_retry(&health, now);
            Ok((due > reach).then_some(reach))
        };
        self.read("latest due delivery", read).await
    }
}

impl Tx<'_> {
    /// Removes one batch of events that ended before its cutoff, with their deliveries and
    /// attempts.
    pub(crate) fn delete_expired_events(
        &mut self,
        batch: &RetentionBatch,
    ) -> Result<RetentionResult, StoreError> {
        let aged = aged(self.conn, batch)?;
        self.conn.dialect().delete_expired_events(batch, aged)
    }

    /// Fails overdue deliveries. Returns the states of the failed ones; the others were claimed
    /// meanwhile and are no longer overdue.
    pub(crate) fn fail_overdue(
        &mut self,
        overdue: &[(DeliveryId, Overdue)],
        at: Timestamp,
    ) -> Result<Vec<State>, StoreError> {
        let mut failed = Vec::with_capacity(overdue.len());
        for (id, reason) in overdue {
            let cause = match reason {
                Overdue::Expired { blocks } => Cause::Expired { blocks: *blocks },
                Overdue::EndpointDeleted => Cause::EndpointDeleted,
            };
            if let Some(life) = self.life_to_change(id)?
                && let Ok(next) = lifecycle::next(&life, &cause)
            {
                self.change_life(id, &life, &next, at)?;
                failed.push(next.state);
                if matches!(reason, Overdue::Expired { .. }) {
                    self.publish_expiry_event(id, at)?;
                }
            }
        }
        Ok(failed)
    }

    /// Moves deliveries that are due after `latest` to that time. Returns their number.
    pub(crate) fn bring_forward(
        &mut self,
        id: &EndpointId,
        latest: Timestamp,
    ) -> Result<usize, StoreError> {
        let far = deliveries::table
            .filter(StatusIsPending)
            .filter(of_endpoint(id))
            .filter(deliveries::next_attempt_at.gt(latest.as_micros()));
        Ok(diesel::update(far)
            .set(deliveries::next_attempt_at.eq(Some(latest.as_micros())))
            .execute(self.conn)?)
    }
}

/// Reads the next events. Events with a future time, after a clock change, may precede outdated
/// ones.
fn aged(conn: &mut AnyConnection, batch: &RetentionBatch) -> Result<Aged, StoreError> {
    let rows: Vec<(i64, i64)> = events::table
        .filter(events::seq.gt(batch.after_seq))
        .order(events::seq)
        .limit(batch.limit)
        .select((events::seq, events::created_at))
        .load(conn)?;
    let is_outdated = |(_, created_at): &&(i64, i64)| *created_at < batch.cutoff.as_micros();
    let outdated: Vec<i64> = rows
        .iter()
        .filter(is_outdated)
        .map(|(seq, _)| *seq)
        .collect();
    // Events that are not outdated yet are read again soon, unless outdated ones follow.
    let last_seq = outdated
        .last()
        .copied()
        .or_else(|| rows.last().map(|(seq, _)| *seq));
    let is_full = i64::try_from(rows.len()).is_ok_and(|read| read == batch.limit);
    let more = match last_seq {
        Some(last) if is_full && outdated.is_empty() => {
            event_before(conn, last, batch.cutoff)?.is_some()
        }
        _ => is_full,
    };
    Ok(Aged {
        outdated,
        last_seq,
        more,
    })
}

/// Reads pending deliveries whose endpoint was deleted or whose `max_age` has passed.
fn overdue(
    conn: &mut AnyConnection,
    codec: &EndpointCodec,
    scan: &OverdueScan,
) -> Result<Vec<(DeliveryId, Overdue)>, StoreError> {
    let (cutoff, why) = match endpoint(conn, codec, &scan.endpoint_id)? {
        Some(endpoint) => (
            scan.clock.cutoff(endpoint.limits.max_age),
            Overdue::Expired {
                blocks: endpoint.blocks_on_failure(),
            },
        ),
        None => (Timestamp::from_micros(i64::MAX), Overdue::EndpointDeleted),
    };
    let ids: Vec<String> = deliveries::table
        .filter(StatusIsPending)
        .filter(of_endpoint(&scan.endpoint_id))
        .filter(deliveries::created_at.lt(cutoff.as_micros()))
        .filter(
            deliveries::retried_at
                .is_null()
                .or(deliveries::retried_at.lt(cutoff.as_micros())),
        )
        .limit(scan.limit)
        .select(deliveries::id)
        .load(conn)?;
    Ok(ids
        .into_iter()
        .map(|id| (DeliveryId::from_text(id), why))
        .collect())
}

/// Returns the latest due time of an endpoint's pending deliveries.
fn latest_due(conn: &mut AnyConnection, id: &EndpointId) -> Result<Option<Timestamp>, StoreError> {
    let latest: Option<Option<i64>> = deliveries::table
        .filter(StatusIsPending)
        .filter(of_endpoint(id))
        .filter(deliveries::next_attempt_at.is_not_null())
        .order(deliveries::next_attempt_at.desc())
        .select(deliveries::next_attempt_at)
        .first(conn)
        .optional()?;
    Ok(latest.flatten().map(codec::time))
}
