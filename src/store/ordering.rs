//! Order within a key: of an endpoint's deliveries with the same ordering key, only the first one
//! is claimed. A claim defers the ones behind it; each is promoted when the one before it leaves
//! the order, in the same transaction.
//!
//! Publishing ignores the order: a host's transaction may stay open for long, and waiting for it
//! would block others. So a newly published delivery is due, and the claim decides.

use std::collections::BTreeMap;

use diesel::dsl::{exists, not};
use diesel::prelude::*;

use super::codec;
use super::connection::AnyConnection;
use super::delivery_rows::{of_endpoint, set_life, shard_numbers};
use super::endpoint_codec::EndpointCodec;
use super::endpoints::endpoint;
use super::error::StoreError;
use super::rows::LifeColumns;
use super::schema::webhook_deliveries as deliveries;
use super::status_is::{StatusIsFailed, StatusIsPending, StatusIsSending};
use super::store::Store;
use super::tx::Tx;
use crate::domain::clock::Timestamp;
use crate::domain::endpoint::Endpoint;
use crate::domain::ids::{DeliveryId, EndpointId};
use crate::domain::lease::{Lease, Shard};
use crate::domain::lifecycle::{self, Cause, HoldReason, Life, State, Wait};
use crate::domain::settings::Ordering;

/// Maximum number of deliveries of a key that one claim defers.
const DEFER_BATCH: i64 = 500;

impl Store {
    /// Reads deliveries that are deferred, or block others, at an endpoint that no longer uses
    /// ordering; at most `limit` of each.
    pub(crate) async fn out_of_order(
        &self,
        id: &EndpointId,
        limit: i64,
    ) -> Result<Vec<DeliveryId>, StoreError> {
        let id = id.clone();
        let read = move |conn: &mut AnyConnection, codec: &EndpointCodec| match endpoint(
            conn, codec, &id,
        )? {
            Some(endpoint) => out_of_order(conn, &endpoint, limit),
            None => Ok(Vec::new()),
        };
        self.read("out of order", read).await
    }

    /// Reads deliveries in held shards that failed before `cutoff` and block others, at most
    /// `limit`.
    pub(crate) async fn blocking_since(
        &self,
        held: Vec<Lease>,
        cutoff: Timestamp,
        limit: i64,
    ) -> Result<Vec<DeliveryId>, StoreError> {
        let read = move |conn: &mut AnyConnection, _: &EndpointCodec| {
            blocking_since(conn, &held, cutoff, limit)
        };
        self.read("blocking deliveries", read).await
    }
}

impl Tx<'_> {
    /// Defers `blocked`, and the due deliveries behind them in their keys. Returns those of
    /// `blocked` that no longer have a due time.
    pub(super) fn defer_for_order(
        &mut self,
        endpoint: &Endpoint,
        blocked: &[BlockedDelivery],
        at: Timestamp,
    ) -> Result<Vec<DeliveryId>, StoreError> {
        if blocked.is_empty() {
            return Ok(Vec::new());
        }
        let mut first_of_key: BTreeMap<&str, i64> = BTreeMap::new();
        for one in blocked {
            let from = first_of_key
                .entry(&one.ordering_key)
                .or_insert(one.event_seq);
            *from = (*from).min(one.event_seq);
        }
        let mut deferred = Vec::new();
        for (key, from) in first_of_key {
            let Some(head) = head_of_key(self.conn, &endpoint.id, key)? else {
                continue;
            };
            // If it left before the deferred ones are committed, nobody would promote them.
            if !self.conn.dialect().keep_in_order(&head.id)? {
                continue;
            }
            for (id, life) in blocked_candidates(self.conn, &endpoint.id, key, &head, from)? {
                if lifecycle::next(&life, &Cause::BlockedByOrder).is_ok() {
                    deferred.push(id);
                }
            }
        }
        defer(self.conn, &deferred, at)?;
        deferred.retain(|id| blocked.iter().any(|one| one.id == *id));
        Ok(deferred)
    }

    /// Writes the next life of a delivery that is not `sending`, and promotes the next one if it
    /// leaves the order of its key.
    pub(crate) fn change_life(
        &mut self,
        id: &DeliveryId,
        life: &Life,
        next: &Life,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        set_life(self.conn, id, next, at)?;
        if life.leaves_order(next) {
            self.promote_next(id, at)
        } else {
            Ok(())
        }
    }

    /// Makes the next delivery of a key due, after `left` has left the order.
    pub(super) fn promote_next(
        &mut self,
        left: &DeliveryId,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let Some((endpoint_id, key)) = ordering_key_of(self.conn, left)? else {
            return Ok(());
        };
        let endpoint = self.cache.get(self.conn, self.codec, &endpoint_id)?;
        if endpoint.is_none_or(|endpoint| endpoint.settings.ordering == Ordering::None) {
            return Ok(());
        }
        while let Some(head) = head_of_key(self.conn, &endpoint_id, &key)? {
            if head.life.state != State::Pending(Wait::Held(HoldReason::Order)) {
                break;
            }
            // Another transaction may have just released this one; then the next in the key is due.
            if let Some(life) = self.life_to_change(&head.id)?
                && let Ok(next) = lifecycle::next(&life, &Cause::OrderReached { at })
            {
                set_life(self.conn, &head.id, &next, at)?;
                break;
            }
        }
        Ok(())
    }

    /// Unblocks deliveries: deferred ones become due, blocking ones no longer block.
    pub(crate) fn unblock(&mut self, ids: &[DeliveryId], at: Timestamp) -> Result<(), StoreError> {
        for id in ids {
            let Some(life) = self.life_to_change(id)? else {
                continue;
            };
            let cause = match life.state {
                State::Pending(_) => Cause::OrderReached { at },
                _ => Cause::HoldLifted { at },
            };
            if let Ok(next) = lifecycle::next(&life, &cause) {
                self.change_life(id, &life, &next, at)?;
            }
        }
        Ok(())
    }
}

diesel::alias!(deliveries as ahead: Ahead);

/// A delivery that is blocked by an earlier one with its ordering key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BlockedDelivery {
    pub(super) id: DeliveryId,
    pub(super) ordering_key: String,
    pub(super) event_seq: i64,
}

/// Selects an endpoint's deliveries that precede the outer statement's row in its key.
#[diesel::dsl::auto_type]
fn earlier_of(endpoint: &EndpointId) -> _ {
    let (shard, id): (i32, String) = (Shard::of(endpoint).number(), endpoint.to_string());
    ahead
        .filter(ahead.field(deliveries::shard).eq(shard))
        .filter(ahead.field(deliveries::endpoint_id).eq(id))
        .filter(
            ahead
                .field(deliveries::ordering_key)
                .eq(deliveries::ordering_key),
        )
        .filter(ahead.field(deliveries::in_line))
        .filter(ahead.field(deliveries::event_seq).lt(deliveries::event_seq))
}

/// Reads those of the pending deliveries that are blocked by an earlier one with their ordering
/// key.
pub(super) fn blocked_by_order<'a>(
    conn: &mut AnyConnection,
    endpoint: &EndpointId,
    ids: impl Iterator<Item = &'a DeliveryId>,
) -> Result<Vec<BlockedDelivery>, StoreError> {
    let ids: Vec<&str> = ids.map(DeliveryId::as_str).collect();
    let asked = || {
        deliveries::table
            .filter(deliveries::id.eq_any(&ids))
            .filter(StatusIsPending)
            .filter(deliveries::in_line)
            .filter(deliveries::ordering_key.is_not_null())
            .select((
                deliveries::id,
                deliveries::ordering_key.assume_not_null(),
                deliveries::event_seq,
            ))
    };
    let mut rows: Vec<(String, String, i64)> =
        asked().filter(exists(earlier_of(endpoint))).load(conn)?;
    // A recovered delivery can precede one that is under way; it waits for that one.
    let under_way: Vec<Option<String>> = deliveries::table
        .filter(StatusIsSending)
        .filter(of_endpoint(endpoint))
        .filter(deliveries::in_line)
        .select(deliveries::ordering_key)
        .load(conn)?;
    if !under_way.is_empty() {
        let more: Vec<(String, String, i64)> = asked()
            .filter(deliveries::ordering_key.eq_any(under_way))
            .load(conn)?;
        rows.extend(
            more.into_iter()
                .filter(|row| !rows.contains(row))
                .collect::<Vec<_>>(),
        );
    }
    let one = |(id, ordering_key, event_seq): (String, String, i64)| BlockedDelivery {
        id: DeliveryId::from_text(id),
        ordering_key,
        event_seq,
    };
    Ok(rows.into_iter().map(one).collect())
}

/// The first delivery of an ordering key.
struct Head {
    id: DeliveryId,
    life: Life,
}

/// Reads the first delivery of an ordering key.
fn head_of_key(
    conn: &mut AnyConnection,
    endpoint: &EndpointId,
    ordering_key: &str,
) -> Result<Option<Head>, StoreError> {
    let row: Option<(String, LifeColumns)> = deliveries::table
        .filter(of_endpoint(endpoint))
        .filter(deliveries::ordering_key.eq(ordering_key))
        .filter(deliveries::in_line)
        .order(deliveries::event_seq)
        .select((deliveries::id, LifeColumns::as_select()))
        .first(conn)
        .optional()?;
    let head = |(id, columns): (String, LifeColumns)| {
        Ok(Head {
            id: DeliveryId::from_text(id),
            life: codec::life(&columns)?,
        })
    };
    row.map(head).transpose()
}

/// Returns a delivery's endpoint and ordering key.
fn ordering_key_of(
    conn: &mut AnyConnection,
    id: &DeliveryId,
) -> Result<Option<(EndpointId, String)>, StoreError> {
    let row: Option<(String, Option<String>)> = deliveries::table
        .find(id.as_str())
        .select((deliveries::endpoint_id, deliveries::ordering_key))
        .first(conn)
        .optional()?;
    Ok(row.and_then(|(endpoint, key)| Some((EndpointId::from_text(endpoint), key?))))
}

/// Reads the deliveries of a key with a due time, from `from_seq` on, except `head`. (Earlier ones
/// are already deferred, and may be many.)
fn blocked_candidates(
    conn: &mut AnyConnection,
    endpoint: &EndpointId,
    ordering_key: &str,
    head: &Head,
    from_seq: i64,
) -> Result<Vec<(DeliveryId, Life)>, StoreError> {
    let rows: Vec<(String, LifeColumns)> = deliveries::table
        .filter(of_endpoint(endpoint))
        .filter(deliveries::ordering_key.eq(ordering_key))
        .filter(deliveries::in_line)
        .filter(deliveries::event_seq.ge(from_seq))
        .filter(deliveries::id.ne(head.id.as_str()))
        .filter(StatusIsPending)
        .filter(deliveries::next_attempt_at.is_not_null())
        .order(deliveries::event_seq)
        .limit(DEFER_BATCH)
        .select((deliveries::id, LifeColumns::as_select()))
        .load(conn)?;
    let one = |(id, columns): (String, LifeColumns)| {
        Ok((DeliveryId::from_text(id), codec::life(&columns)?))
    };
    rows.into_iter().map(one).collect()
}

/// Defers those of the deliveries that still have a due time.
fn defer(conn: &mut AnyConnection, ids: &[DeliveryId], at: Timestamp) -> Result<(), StoreError> {
    let waiting = deliveries::table
        .filter(deliveries::id.eq_any(ids.iter().map(DeliveryId::as_str)))
        .filter(StatusIsPending)
        .filter(deliveries::next_attempt_at.is_not_null());
    diesel::update(waiting)
        .set((
            deliveries::next_attempt_at.eq(None::<i64>),
            deliveries::hold_reason.eq(Some(HoldReason::Order.as_str())),
            deliveries::updated_at.eq(at.as_micros()),
        ))
        .execute(conn)?;
    Ok(())
}

/// Reads deliveries that are deferred, or block others, at an endpoint that no longer uses
/// ordering; at most `limit` of each.
fn out_of_order(
    conn: &mut AnyConnection,
    endpoint: &Endpoint,
    limit: i64,
) -> Result<Vec<DeliveryId>, StoreError> {
    let mut found: Vec<String> = Vec::new();
    if !endpoint.blocks_on_failure() {
        found = deliveries::table
            .filter(StatusIsFailed)
            .filter(deliveries::in_line)
            .filter(of_endpoint(&endpoint.id))
            .limit(limit)
            .select(deliveries::id)
            .load(conn)?;
    }
    if endpoint.settings.ordering == Ordering::None {
        let deferred: Vec<String> = deliveries::table
            .filter(StatusIsPending)
            .filter(of_endpoint(&endpoint.id))
            .filter(deliveries::next_attempt_at.is_null())
            .filter(deliveries::hold_reason.eq(HoldReason::Order.as_str()))
            .limit(limit)
            .select(deliveries::id)
            .load(conn)?;
        found.extend(deferred);
    } else {
        found.extend(deferred_without_earlier(conn, &endpoint.id, limit)?);
    }
    Ok(found.into_iter().map(DeliveryId::from_text).collect())
}

/// Reads deferred deliveries without an earlier one in their ordering key: the earlier ones left
/// while ordering was off, so nobody promoted the next.
fn deferred_without_earlier(
    conn: &mut AnyConnection,
    id: &EndpointId,
    limit: i64,
) -> Result<Vec<String>, StoreError> {
    Ok(deliveries::table
        .filter(StatusIsPending)
        .filter(of_endpoint(id))
        .filter(deliveries::next_attempt_at.is_null())
        .filter(deliveries::hold_reason.eq(HoldReason::Order.as_str()))
        .filter(not(exists(earlier_of(id))))
        .limit(limit)
        .select(deliveries::id)
        .load(conn)?)
}

/// Reads deliveries in held shards that failed before `cutoff` and block others, at most `limit`.
fn blocking_since(
    conn: &mut AnyConnection,
    held: &[Lease],
    cutoff: Timestamp,
    limit: i64,
) -> Result<Vec<DeliveryId>, StoreError> {
    let ids: Vec<String> = deliveries::table
        .filter(StatusIsFailed)
        .filter(deliveries::in_line)
        .filter(deliveries::shard.eq_any(shard_numbers(held)))
        .filter(deliveries::updated_at.lt(cutoff.as_micros()))
        .limit(limit)
        .select(deliveries::id)
        .load(conn)?;
    Ok(ids.into_iter().map(DeliveryId::from_text).collect())
}
