//! Ordering keys: deliveries of an endpoint that share one stand in line, in the order of
//! publishing.

use diesel::dsl::{exists, not};
use diesel::prelude::*;

use super::Conn;
use super::deliveries::of_endpoint;
use crate::domain::clock::Timestamp;
use crate::domain::endpoint::Endpoint;
use crate::domain::ids::{DeliveryId, EndpointId};
use crate::domain::lease::{Lease, Shard};
use crate::domain::lifecycle::{HoldReason, Life};
use crate::domain::settings::Ordering;
use crate::store::rows::LifeColumns;
use crate::store::schema::webhook_deliveries as deliveries;
use crate::store::status_is::{StatusIsFailed, StatusIsPending, StatusIsSending};
use crate::store::{StoreError, codec};

diesel::alias!(deliveries as ahead: Ahead);

/// A delivery that comes after another one of its ordering key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Behind {
    pub(crate) id: DeliveryId,
    pub(crate) ordering_key: String,
    pub(crate) event_seq: i64,
}

/// Those of an endpoint's pending deliveries whose turn it is not.
pub(crate) fn behind<'a>(
    conn: &mut Conn,
    endpoint: &EndpointId,
    ids: impl Iterator<Item = &'a DeliveryId>,
) -> Result<Vec<Behind>, StoreError> {
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
    let earlier = ahead
        .filter(
            ahead
                .field(deliveries::shard)
                .eq(Shard::of(endpoint).number()),
        )
        .filter(ahead.field(deliveries::endpoint_id).eq(endpoint.as_str()))
        .filter(
            ahead
                .field(deliveries::ordering_key)
                .eq(deliveries::ordering_key),
        )
        .filter(ahead.field(deliveries::in_line))
        .filter(ahead.field(deliveries::event_seq).lt(deliveries::event_seq));
    let mut rows: Vec<(String, String, i64)> = asked().filter(exists(earlier)).load(conn)?;
    // What a recovery has put in front of one that is under way waits for that, too.
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
    let one = |(id, ordering_key, event_seq): (String, String, i64)| Behind {
        id: DeliveryId::from_text(id),
        ordering_key,
        event_seq,
    };
    Ok(rows.into_iter().map(one).collect())
}

/// The first one in a line.
pub(crate) struct First {
    pub(crate) id: DeliveryId,
    pub(crate) life: Life,
}

pub(crate) fn first_in_line(
    conn: &mut Conn,
    endpoint: &EndpointId,
    ordering_key: &str,
) -> Result<Option<First>, StoreError> {
    let row: Option<(String, LifeColumns)> = deliveries::table
        .filter(of_endpoint(endpoint))
        .filter(deliveries::ordering_key.eq(ordering_key))
        .filter(deliveries::in_line)
        .order(deliveries::event_seq)
        .select((deliveries::id, LifeColumns::as_select()))
        .first(conn)
        .optional()?;
    let first = |(id, columns): (String, LifeColumns)| {
        Ok(First {
            id: DeliveryId::from_text(id),
            life: codec::life(&columns)?,
        })
    };
    row.map(first).transpose()
}

/// Where a delivery stands in line, or stood.
pub(crate) fn line_of(
    conn: &mut Conn,
    id: &DeliveryId,
) -> Result<Option<(EndpointId, String)>, StoreError> {
    let row: Option<(String, Option<String>)> = deliveries::table
        .find(id.as_str())
        .select((deliveries::endpoint_id, deliveries::ordering_key))
        .first(conn)
        .optional()?;
    Ok(row.and_then(|(endpoint, key)| Some((EndpointId::from_text(endpoint), key?))))
}

/// Those of a line who wait for a time, of the place `from_seq` and later, but for `first` itself;
/// at most `limit`. (Those before are set aside already, and may be many.)
pub(crate) fn to_set_aside(
    conn: &mut Conn,
    endpoint: &EndpointId,
    ordering_key: &str,
    first: &First,
    from_seq: i64,
    limit: i64,
) -> Result<Vec<(DeliveryId, Life)>, StoreError> {
    let rows: Vec<(String, LifeColumns)> = deliveries::table
        .filter(of_endpoint(endpoint))
        .filter(deliveries::ordering_key.eq(ordering_key))
        .filter(deliveries::in_line)
        .filter(deliveries::event_seq.ge(from_seq))
        .filter(deliveries::id.ne(first.id.as_str()))
        .filter(StatusIsPending)
        .filter(deliveries::next_attempt_at.is_not_null())
        .order(deliveries::event_seq)
        .limit(limit)
        .select((deliveries::id, LifeColumns::as_select()))
        .load(conn)?;
    let one = |(id, columns): (String, LifeColumns)| {
        Ok((DeliveryId::from_text(id), codec::life(&columns)?))
    };
    rows.into_iter().map(one).collect()
}

/// Sets deliveries aside, as far as they still wait for a time.
pub(crate) fn set_aside(
    conn: &mut Conn,
    ids: &[DeliveryId],
    at: Timestamp,
) -> Result<(), StoreError> {
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

/// What waits for its turn, or keeps others waiting, at an endpoint whose settings ask for no such
/// thing (any more); at most `limit` of each.
pub(crate) fn out_of_order(
    conn: &mut Conn,
    endpoint: &Endpoint,
    limit: i64,
) -> Result<Vec<DeliveryId>, StoreError> {
    let mut found: Vec<String> = Vec::new();
    if !endpoint.keeps_waiting() {
        found = deliveries::table
            .filter(StatusIsFailed)
            .filter(deliveries::in_line)
            .filter(of_endpoint(&endpoint.id))
            .limit(limit)
            .select(deliveries::id)
            .load(conn)?;
    }
    if endpoint.settings.ordering == Ordering::None {
        let aside: Vec<String> = deliveries::table
            .filter(StatusIsPending)
            .filter(of_endpoint(&endpoint.id))
            .filter(deliveries::next_attempt_at.is_null())
            .filter(deliveries::hold_reason.eq(HoldReason::Order.as_str()))
            .limit(limit)
            .select(deliveries::id)
            .load(conn)?;
        found.extend(aside);
    } else {
        found.extend(aside_without_one_ahead(conn, &endpoint.id, limit)?);
    }
    Ok(found.into_iter().map(DeliveryId::from_text).collect())
}

/// Deliveries that are set aside although nothing of their ordering key comes before them: whatever
/// was before them left while the endpoint asked for no order, so that nobody brought them back.
fn aside_without_one_ahead(
    conn: &mut Conn,
    id: &EndpointId,
    limit: i64,
) -> Result<Vec<String>, StoreError> {
    let earlier = ahead
        .filter(ahead.field(deliveries::shard).eq(Shard::of(id).number()))
        .filter(ahead.field(deliveries::endpoint_id).eq(id.as_str()))
        .filter(
            ahead
                .field(deliveries::ordering_key)
                .eq(deliveries::ordering_key),
        )
        .filter(ahead.field(deliveries::in_line))
        .filter(ahead.field(deliveries::event_seq).lt(deliveries::event_seq));
    Ok(deliveries::table
        .filter(StatusIsPending)
        .filter(of_endpoint(id))
        .filter(deliveries::next_attempt_at.is_null())
        .filter(deliveries::hold_reason.eq(HoldReason::Order.as_str()))
        .filter(not(exists(earlier)))
        .limit(limit)
        .select(deliveries::id)
        .load(conn)?)
}

/// What failed before `cutoff` in held shards and keeps others waiting, at most `limit`.
pub(crate) fn blocking_since(
    conn: &mut Conn,
    held: &[Lease],
    cutoff: Timestamp,
    limit: i64,
) -> Result<Vec<DeliveryId>, StoreError> {
    let shards: Vec<i32> = held.iter().map(|lease| lease.shard.number()).collect();
    let ids: Vec<String> = deliveries::table
        .filter(StatusIsFailed)
        .filter(deliveries::in_line)
        .filter(deliveries::shard.eq_any(shards))
        .filter(deliveries::updated_at.lt(cutoff.as_micros()))
        .limit(limit)
        .select(deliveries::id)
        .load(conn)?;
    Ok(ids.into_iter().map(DeliveryId::from_text).collect())
}
