//! Order within a key: of an endpoint's deliveries with the same ordering key, only the first one
//! is claimed. A claim defers the ones behind it; each is promoted when the one before it leaves
//! the order, in the same transaction.
//!
//! Publishing ignores the order: a host's transaction may stay open for long, and waiting for it
//! would block others. So a newly published delivery is due, and the claim decides.

use std::collections::{BTreeMap, HashSet};

use diesel::dsl::{exists, min, not};
use diesel::prelude::*;

use super::codec;
use super::connection::AnyConnection;
use super::delivery_rows::set_life;
use super::endpoint_codec::EndpointCodec;
use super::endpoints::endpoint;
use super::error::StoreError;
use super::numbers::of_endpoint;
use super::rows::{KeyColumns, LifeColumns};
use super::schema::{webhook_deliveries as deliveries, webhook_endpoints as endpoints};
use super::store::Store;
use super::tx::Tx;
use crate::domain::clock::Timestamp;
use crate::domain::endpoint::Endpoint;
use crate::domain::ids::{DeliveryKey, EndpointId};
use crate::domain::lease::Lease;
use crate::domain::lifecycle::{self, Cause, HoldReason, Life, State, Status, Wait};
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
    ) -> Result<Vec<DeliveryKey>, StoreError> {
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
    ) -> Result<Vec<DeliveryKey>, StoreError> {
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
        blocked: &[BlockedDelivery],
        at: Timestamp,
    ) -> Result<Vec<DeliveryKey>, StoreError> {
        let Some(number) = blocked.first().map(|one| one.key.endpoint) else {
            return Ok(Vec::new());
        };
        let mut first_of_key: BTreeMap<&str, i64> = BTreeMap::new();
        for one in blocked {
            let from = first_of_key
                .entry(&one.ordering_key)
                .or_insert(one.key.event_seq);
            *from = (*from).min(one.key.event_seq);
        }
        let mut deferred = Vec::new();
        for (ordering_key, from) in first_of_key {
            let key = OfKey {
                endpoint: number,
                ordering_key,
            };
            let Some(head) = head_of_key(self.conn, key)? else {
                continue;
            };
            // If it left before the deferred ones are committed, nobody would promote them.
            if !self.conn.dialect().keep_in_order(head.key)? {
                continue;
            }
            for (one, life) in blocked_candidates(self.conn, key, &head, from)? {
                if lifecycle::next(&life, &Cause::BlockedByOrder).is_ok() {
                    deferred.push(one);
                }
            }
        }
        defer(self.conn, number, &deferred, at)?;
        deferred.retain(|key| blocked.iter().any(|one| one.key == *key));
        Ok(deferred)
    }

    /// Writes the next life of a delivery that is not `sending`, and promotes the next one if it
    /// leaves the order of its key.
    pub(crate) fn change_life(
        &mut self,
        key: DeliveryKey,
        life: &Life,
        next: &Life,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        set_life(self.conn, key, next, at)?;
        if life.leaves_order(next) {
            self.promote_next(key, at)
        } else {
            Ok(())
        }
    }

    /// Makes the next delivery of a key due, after `left` has left the order.
    pub(super) fn promote_next(
        &mut self,
        left: DeliveryKey,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let Some((endpoint_id, ordering_key)) = ordering_key_of(self.conn, left)? else {
            return Ok(());
        };
        let endpoint = self.cache.get(self.conn, self.codec, &endpoint_id)?;
        if endpoint.is_none_or(|endpoint| endpoint.settings.ordering == Ordering::None) {
            return Ok(());
        }
        let of_key = OfKey {
            endpoint: left.endpoint,
            ordering_key: &ordering_key,
        };
        while let Some(head) = head_of_key(self.conn, of_key)? {
            if head.life.state != State::Pending(Wait::Held(HoldReason::Order)) {
                break;
            }
            // Another transaction may have just released this one; then the next in the key is due.
            if let Some(life) = self.life_to_change(head.key)?
                && let Ok(next) = lifecycle::next(&life, &Cause::OrderReached { at })
            {
                set_life(self.conn, head.key, &next, at)?;
                break;
            }
        }
        Ok(())
    }

    /// Unblocks deliveries: deferred ones become due, blocking ones no longer block.
    pub(crate) fn unblock(
        &mut self,
        keys: &[DeliveryKey],
        at: Timestamp,
    ) -> Result<(), StoreError> {
        for key in keys.iter().copied() {
            let Some(life) = self.life_to_change(key)? else {
                continue;
            };
            let cause = match life.state {
                State::Pending(_) => Cause::OrderReached { at },
                _ => Cause::HoldLifted { at },
            };
            if let Ok(next) = lifecycle::next(&life, &cause) {
                self.change_life(key, &life, &next, at)?;
            }
        }
        Ok(())
    }
}

diesel::alias!(deliveries as ahead: Ahead);

/// A delivery that is blocked by an earlier one with its ordering key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BlockedDelivery {
    pub(super) key: DeliveryKey,
    pub(super) ordering_key: String,
}

/// The deliveries of an endpoint with one ordering key.
#[derive(Clone, Copy)]
struct OfKey<'k> {
    endpoint: i32,
    ordering_key: &'k str,
}

/// Selects the deliveries of the outer statement's row's key, in their order.
#[diesel::dsl::auto_type]
fn of_same_key() -> _ {
    ahead
        .filter(ahead.field(deliveries::endpoint).eq(deliveries::endpoint))
        .filter(
            ahead
                .field(deliveries::ordering_key)
                .eq(deliveries::ordering_key),
        )
        .filter(ahead.field(deliveries::in_order))
}

/// A delivery with an ordering key: its event, key and status, whether it is in order, and the
/// event of the first delivery of its key.
type InOrder = (i64, Option<String>, String, bool, Option<i64>);

/// Reads deliveries of an endpoint by their keys, each with the head of its ordering key.
fn in_order(
    conn: &mut AnyConnection,
    keys: &[DeliveryKey],
    endpoint: i32,
) -> Result<Vec<InOrder>, StoreError> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let head = of_same_key()
        .select(min(ahead.field(deliveries::event_seq)))
        .single_value();
    Ok(deliveries::table
        .filter(deliveries::event_seq.eq_any(keys.iter().map(|key| key.event_seq)))
        .filter(deliveries::endpoint.eq(endpoint))
        .select((
            deliveries::event_seq,
            deliveries::ordering_key,
            deliveries::status,
            deliveries::in_order,
            head,
        ))
        .load(conn)?)
}

/// Reads those of an endpoint's pending deliveries that are blocked by an earlier one with their
/// ordering key, or by one of it that is under way (a recovered delivery can precede that).
pub(super) fn blocked_by_order(
    conn: &mut AnyConnection,
    keys: &[DeliveryKey],
    under_way: &[DeliveryKey],
) -> Result<Vec<BlockedDelivery>, StoreError> {
    let Some(endpoint) = keys.first().map(|key| key.endpoint) else {
        return Ok(Vec::new());
    };
    let sending: HashSet<Option<String>> = in_order(conn, under_way, endpoint)?
        .into_iter()
        .filter(|(_, _, status, in_order, _)| *in_order && status == Status::Sending.as_str())
        .map(|(_, ordering_key, ..)| ordering_key)
        .collect();
    let mut blocked = Vec::new();
    for (event_seq, ordering_key, status, in_order, head) in in_order(conn, keys, endpoint)? {
        let waits = head.is_some_and(|head| head < event_seq) || sending.contains(&ordering_key);
        if !waits || !in_order || status != Status::Pending.as_str() {
            continue;
        }
        if let Some(ordering_key) = ordering_key {
            let key = DeliveryKey {
                event_seq,
                endpoint,
            };
            blocked.push(BlockedDelivery { key, ordering_key });
        }
    }
    Ok(blocked)
}

/// The first delivery of an ordering key.
struct Head {
    key: DeliveryKey,
    life: Life,
}

/// Reads the first delivery of an ordering key.
fn head_of_key(conn: &mut AnyConnection, of: OfKey<'_>) -> Result<Option<Head>, StoreError> {
    let row: Option<(KeyColumns, LifeColumns)> = deliveries::table
        .filter(deliveries::endpoint.eq(of.endpoint))
        .filter(deliveries::ordering_key.eq(of.ordering_key))
        .filter(deliveries::in_order)
        .order(deliveries::event_seq)
        .select((KeyColumns::as_select(), LifeColumns::as_select()))
        .first(conn)
        .optional()?;
    let head = |(key, columns): (KeyColumns, LifeColumns)| {
        Ok(Head {
            key: key.into(),
            life: codec::life(&columns)?,
        })
    };
    row.map(head).transpose()
}

/// Returns a delivery's endpoint and ordering key.
fn ordering_key_of(
    conn: &mut AnyConnection,
    key: DeliveryKey,
) -> Result<Option<(EndpointId, String)>, StoreError> {
    let row: Option<(String, Option<String>)> = deliveries::table
        .find((key.event_seq, key.endpoint))
        .inner_join(endpoints::table.on(endpoints::number.eq(deliveries::endpoint)))
        .select((endpoints::id, deliveries::ordering_key))
        .first(conn)
        .optional()?;
    Ok(row.and_then(|(endpoint, key)| Some((EndpointId::from_text(endpoint), key?))))
}

/// Reads the deliveries of a key with a due time, from `from_seq` on, except `head`. (Earlier ones
/// are already deferred, and may be many.)
fn blocked_candidates(
    conn: &mut AnyConnection,
    of: OfKey<'_>,
    head: &Head,
    from_seq: i64,
) -> Result<Vec<(DeliveryKey, Life)>, StoreError> {
    let rows: Vec<(KeyColumns, LifeColumns)> = deliveries::table
        .filter(deliveries::endpoint.eq(of.endpoint))
        .filter(deliveries::ordering_key.eq(of.ordering_key))
        .filter(deliveries::in_order)
        .filter(deliveries::event_seq.ge(from_seq))
        .filter(deliveries::event_seq.ne(head.key.event_seq))
        .filter(deliveries::status.eq(Status::Pending.as_str()))
        .filter(deliveries::hold_reason.is_null())
        .order(deliveries::event_seq)
        .limit(DEFER_BATCH)
        .select((KeyColumns::as_select(), LifeColumns::as_select()))
        .load(conn)?;
    let one = |(key, columns): (KeyColumns, LifeColumns)| Ok((key.into(), codec::life(&columns)?));
    rows.into_iter().map(one).collect()
}

/// Defers those of an endpoint's deliveries that still have a due time.
fn defer(
    conn: &mut AnyConnection,
    endpoint: i32,
    keys: &[DeliveryKey],
    at: Timestamp,
) -> Result<(), StoreError> {
    let waiting = deliveries::table
        .filter(deliveries::event_seq.eq_any(keys.iter().map(|key| key.event_seq)))
        .filter(deliveries::endpoint.eq(endpoint))
        .filter(deliveries::status.eq(Status::Pending.as_str()))
        .filter(deliveries::hold_reason.is_null());
    diesel::update(waiting)
        .set((
            deliveries::due_at.eq(None::<i64>),
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
) -> Result<Vec<DeliveryKey>, StoreError> {
    let mut found: Vec<KeyColumns> = Vec::new();
    if !endpoint.blocks_on_failure() {
        found = deliveries::table
            .filter(of_endpoint(&endpoint.id))
            .filter(deliveries::in_order)
            .filter(deliveries::failed_at.is_not_null())
            .order(deliveries::failed_at)
            .limit(limit)
            .select(KeyColumns::as_select())
            .load(conn)?;
    }
    let deferred = deliveries::table
        .filter(of_endpoint(&endpoint.id))
        .filter(deliveries::hold_reason.eq(HoldReason::Order.as_str()))
        .limit(limit)
        .select(KeyColumns::as_select());
    let deferred: Vec<KeyColumns> = match endpoint.settings.ordering {
        Ordering::None => deferred.load(conn)?,
        // Those without an earlier one in their key: the earlier ones left while ordering was off,
        // so nobody promoted the next.
        Ordering::Key => {
            let before = ahead.field(deliveries::event_seq).lt(deliveries::event_seq);
            let first = not(exists(of_same_key().filter(before)));
            deferred.filter(first).load(conn)?
        }
    };
    found.extend(deferred);
    Ok(found.into_iter().map(DeliveryKey::from).collect())
}

/// Reads deliveries in held shards that failed before `cutoff` and block others, at most `limit`.
fn blocking_since(
    conn: &mut AnyConnection,
    held: &[Lease],
    cutoff: Timestamp,
    limit: i64,
) -> Result<Vec<DeliveryKey>, StoreError> {
    let mut found: Vec<KeyColumns> = Vec::new();
    for lease in held {
        let numbers = lease.shard.endpoint_numbers();
        let of_shard = deliveries::table
            .filter(deliveries::endpoint.between(*numbers.start(), *numbers.end()))
            .filter(deliveries::in_order)
            .filter(deliveries::failed_at.lt(cutoff.as_micros()))
            // Only an index of failed ones has this order: the one by endpoint would read every
            // delivery ever stored.
            .order((deliveries::endpoint, deliveries::failed_at))
            .limit(limit)
            .select(KeyColumns::as_select());
        found.extend(of_shard.load::<KeyColumns>(conn)?);
    }
    found.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(found.into_iter().map(DeliveryKey::from).collect())
}
