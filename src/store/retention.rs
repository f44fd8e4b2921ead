//! Expired deliveries, and events older than the retention.

use std::collections::HashSet;
use std::sync::Arc;

use diesel::prelude::*;

use super::codec;
use super::connection::AnyConnection;
use super::endpoint_codec::EndpointCodec;
use super::endpoints::endpoint;
use super::error::StoreError;
use super::event_search::event_before;
use super::health::health;
use super::numbers::of_endpoint;
use super::rows::KeyColumns;
use super::schema::{
    webhook_attempts as attempts, webhook_deliveries as deliveries, webhook_events as events,
};
use super::store::Store;
use super::tx::Tx;
use super::writes::{RetentionBatch, RetentionResult};
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::ids::{DeliveryKey, EndpointId};
use crate::domain::lifecycle::{self, Cause, State, Status};

const PENDING: &str = Status::Pending.as_str();

/// A batch of events.
struct Aged {
    /// Outdated events, in the order of publishing.
    outdated: Vec<i64>,
    /// The last event that was read; `None` if there is none.
    last_seq: Option<i64>,
    /// True if there may be outdated events after it.
    more: bool,
}

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
    ) -> Result<Vec<(DeliveryKey, Overdue)>, StoreError> {
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
        self.conn.dialect().lock_events(&aged.outdated)?;
        let ended = ended(self.conn, batch, &aged.outdated)?;
        let mut result = RetentionResult {
            events: 0,
            last_seq: aged.last_seq.unwrap_or(batch.after_seq),
            more: aged.more,
        };
        if ended.is_empty() {
            return Ok(result);
        }
        let rows: Vec<KeyColumns> = deliveries::table
            .filter(deliveries::event_seq.eq_any(&ended))
            .order((deliveries::event_seq, deliveries::endpoint))
            .limit(batch.max_deliveries)
            .select(KeyColumns::as_select())
            .load(self.conn)?;
        let is_cut = i64::try_from(rows.len()).is_ok_and(|rows| rows >= batch.max_deliveries);
        // The last event may have more deliveries, which are left to the next batch.
        let cut_at = rows.last().map(|row| row.event_seq).filter(|_| is_cut);
        let mut gone = ended;
        if let Some(cut) = cut_at {
            gone.retain(|seq| *seq < cut);
            let of_cut = rows.iter().filter(|row| row.event_seq == cut);
            delete_deliveries(self.conn, cut, of_cut.map(|row| row.endpoint).collect())?;
            (result.last_seq, result.more) = (cut - 1, true);
        }
        delete_events(self.conn, &gone)?;
        result.events = gone.len();
        if result.events > 0 {
            self.conn.dialect().return_free_pages()?;
        }
        Ok(result)
    }

    /// Fails overdue deliveries. Returns the states of the failed ones; the others were claimed
    /// meanwhile and are no longer overdue.
    pub(crate) fn fail_overdue(
        &mut self,
        overdue: &[(DeliveryKey, Overdue)],
        at: Timestamp,
    ) -> Result<Vec<State>, StoreError> {
        let mut failed = Vec::with_capacity(overdue.len());
        for (key, reason) in overdue.iter().copied() {
            let cause = match reason {
                Overdue::Expired { blocks } => Cause::Expired { blocks },
                Overdue::EndpointDeleted => Cause::EndpointDeleted,
            };
            if let Some(life) = self.life_to_change(key)?
                && let Ok(next) = lifecycle::next(&life, &cause)
            {
                self.change_life(key, &life, &next, at)?;
                failed.push(next.state);
                if matches!(reason, Overdue::Expired { .. }) {
                    self.publish_expiry_event(key, at)?;
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
            .filter(of_endpoint(id))
            .filter(deliveries::due_at.gt(latest.as_micros()))
            .filter(deliveries::status.eq(PENDING));
        Ok(diesel::update(far)
            .set(deliveries::due_at.eq(Some(latest.as_micros())))
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

/// Returns those of the events whose deliveries have all ended.
fn ended(
    conn: &mut AnyConnection,
    batch: &RetentionBatch,
    outdated: &[i64],
) -> Result<Vec<i64>, StoreError> {
    let live: HashSet<i64> = deliveries::table
        .filter(deliveries::event_seq.eq_any(outdated))
        .filter(
            deliveries::due_at
                .is_not_null()
                .or(deliveries::hold_reason.is_not_null())
                .or(deliveries::updated_at.ge(batch.quiet_since.as_micros()))
                .or(deliveries::in_order),
        )
        .select(deliveries::event_seq)
        .distinct()
        .load::<i64>(conn)?
        .into_iter()
        .collect();
    Ok(outdated
        .iter()
        .copied()
        .filter(|seq| !live.contains(seq))
        .collect())
}

/// Removes events with all of their deliveries and attempts.
fn delete_events(conn: &mut AnyConnection, seqs: &[i64]) -> Result<(), StoreError> {
    diesel::delete(attempts::table.filter(attempts::event_seq.eq_any(seqs))).execute(conn)?;
    diesel::delete(deliveries::table.filter(deliveries::event_seq.eq_any(seqs))).execute(conn)?;
    diesel::delete(events::table.filter(events::seq.eq_any(seqs))).execute(conn)?;
    Ok(())
}

/// Removes some deliveries of an event, with their attempts.
fn delete_deliveries(conn: &mut AnyConnection, seq: i64, of: Vec<i32>) -> Result<(), StoreError> {
    let of_event = attempts::table.filter(attempts::event_seq.eq(seq));
    diesel::delete(of_event.filter(attempts::endpoint.eq_any(&of))).execute(conn)?;
    let of_event = deliveries::table.filter(deliveries::event_seq.eq(seq));
    diesel::delete(of_event.filter(deliveries::endpoint.eq_any(&of))).execute(conn)?;
    Ok(())
}

/// Reads pending deliveries whose endpoint was deleted or whose `max_age` has passed.
fn overdue(
    conn: &mut AnyConnection,
    codec: &EndpointCodec,
    scan: &OverdueScan,
) -> Result<Vec<(DeliveryKey, Overdue)>, StoreError> {
    let (cutoff, why) = match endpoint(conn, codec, &scan.endpoint_id)? {
        Some(endpoint) => (
            scan.clock.cutoff(endpoint.limits.max_age),
            Overdue::Expired {
                blocks: endpoint.blocks_on_failure(),
            },
        ),
        None => (Timestamp::from_micros(i64::MAX), Overdue::EndpointDeleted),
    };
    let mut found: Vec<KeyColumns> = Vec::new();
    for without_time in [false, true] {
        let mut query = deliveries::table
            .filter(of_endpoint(&scan.endpoint_id))
            .filter(deliveries::created_at.lt(cutoff.as_micros()))
            .filter(
                deliveries::retried_at
                    .is_null()
                    .or(deliveries::retried_at.lt(cutoff.as_micros())),
            )
            .filter(deliveries::status.eq(PENDING))
            .limit(scan.limit)
            .select(KeyColumns::as_select())
            .into_boxed();
        // Each index holds the time of creation.
        query = if without_time {
            query.filter(deliveries::hold_reason.is_not_null())
        } else {
            query.filter(deliveries::due_at.is_not_null())
        };
        found.extend(query.load::<KeyColumns>(conn)?);
    }
    found.truncate(usize::try_from(scan.limit).unwrap_or(usize::MAX));
    Ok(found.into_iter().map(|key| (key.into(), why)).collect())
}

/// Returns the latest due time of an endpoint's deliveries.
fn latest_due(conn: &mut AnyConnection, id: &EndpointId) -> Result<Option<Timestamp>, StoreError> {
    let latest: Option<Option<i64>> = deliveries::table
        .filter(of_endpoint(id))
        .filter(deliveries::due_at.is_not_null())
        .order(deliveries::due_at.desc())
        .select(deliveries::due_at)
        .first(conn)
        .optional()?;
    Ok(latest.flatten().map(codec::time))
}
