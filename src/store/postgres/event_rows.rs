//! Rows of events, many in one statement.

use std::collections::HashSet;
use std::sync::Arc;

use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Binary, Integer, Nullable, Text};

use crate::domain::event::StoredEvent;
use crate::domain::ids::{EventId, Tenant};
use crate::store::error::StoreError;
use crate::store::event_id;
use crate::store::prepared::prepared;

/// Identity of an event.
pub(super) type Key<'a> = (&'a Tenant, &'a EventId);

pub(super) fn key(event: &StoredEvent) -> Key<'_> {
    (&event.tenant, &event.id)
}

/// An event that is already stored.
pub(super) struct StoredEventRow {
    pub(super) seq: i64,
    pub(super) content_hash: Vec<u8>,
    pub(super) created_at: i64,
}

/// A new event, the number of its tenant, and its place in the order of publishing.
pub(super) struct New<'a> {
    pub(super) key: Key<'a>,
    pub(super) event: &'a Arc<StoredEvent>,
    pub(super) tenant: i32,
    pub(super) seq: i64,
}

/// Reserves places in the order of publishing.
pub(super) fn next_seqs(conn: &mut PgConnection, count: usize) -> Result<Vec<i64>, StoreError> {
    #[derive(QueryableByName)]
    struct Next {
        #[diesel(sql_type = BigInt)]
        seq: i64,
    }
    let rows: Vec<Next> = prepared!(diesel::sql_query(
        "SELECT nextval(pg_get_serial_sequence('webhook_events', 'seq')) AS seq FROM generate_series(1, $1)",
    )
    .bind::<BigInt, _>(i64::try_from(count).unwrap_or(i64::MAX)))
    .load(conn)?;
    Ok(rows.into_iter().map(|row| row.seq).collect())
}

/// Inserts events in the order of their keys, so that two groups never deadlock. Returns only
/// inserted ones.
pub(super) fn insert_events<'a>(
    conn: &mut PgConnection,
    new: &[New<'a>],
) -> Result<HashSet<Key<'a>>, StoreError> {
    #[derive(QueryableByName)]
    struct Inserted {
        #[diesel(sql_type = BigInt)]
        seq: i64,
    }
    fn each<'n, T>(new: &'n [New<'_>], column: impl Fn(&'n New<'_>) -> T) -> Vec<T> {
        new.iter().map(column).collect()
    }
    let rows: Vec<Inserted> = prepared!(
        diesel::sql_query(
            "INSERT INTO webhook_events \
         (seq, tenant, id, event_type, ordering_key, content_type, content_hash, created_at, \
          traceparent, body) \
         SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) \
         ON CONFLICT (id, tenant) DO NOTHING RETURNING seq",
        )
        .bind::<Array<BigInt>, _>(each(new, |one| one.seq))
        .bind::<Array<Integer>, _>(each(new, |one| one.tenant))
        .bind::<Array<Binary>, _>(each(new, |one| event_id::stored(&one.event.id)))
        .bind::<Array<Text>, _>(each(new, |one| one.event.event_type.as_str()))
        .bind::<Array<Nullable<Text>>, _>(each(new, |one| one.event.ordering_key.as_deref()))
        .bind::<Array<Text>, _>(each(new, |one| one.event.content_type.as_str()))
        .bind::<Array<Binary>, _>(each(new, |one| &one.event.content_hash[..]))
        .bind::<Array<BigInt>, _>(each(new, |one| one.event.created_at.as_micros()))
        .bind::<Array<Nullable<Text>>, _>(each(new, |one| {
            one.event.traceparent.map(|parent| parent.to_string())
        }))
        .bind::<Array<Binary>, _>(each(new, |one| &one.event.body[..]))
    )
    .load(conn)?;
    let went_in: HashSet<i64> = rows.into_iter().map(|row| row.seq).collect();
    Ok(new
        .iter()
        .filter(|one| went_in.contains(&one.seq))
        .map(|one| one.key)
        .collect())
}

/// Finds stored events by their keys.
pub(super) fn find_events<'a>(
    conn: &mut PgConnection,
    wanted: &[New<'a>],
) -> Result<Vec<(Key<'a>, StoredEventRow)>, StoreError> {
    #[derive(QueryableByName)]
    struct Found {
        #[diesel(sql_type = BigInt)]
        place: i64,
        #[diesel(sql_type = BigInt)]
        seq: i64,
        #[diesel(sql_type = Binary)]
        content_hash: Vec<u8>,
        #[diesel(sql_type = BigInt)]
        created_at: i64,
    }
    let rows: Vec<Found> = prepared!(
        diesel::sql_query(
            "SELECT wanted.place, seq, content_hash, created_at \
         FROM unnest($1, $2) WITH ORDINALITY AS wanted (tenant, id, place) \
         JOIN webhook_events ON webhook_events.id = wanted.id \
             AND webhook_events.tenant = wanted.tenant",
        )
        .bind::<Array<Integer>, _>(wanted.iter().map(|one| one.tenant).collect::<Vec<_>>())
        .bind::<Array<Binary>, _>(
            wanted
                .iter()
                .map(|one| event_id::stored(&one.event.id))
                .collect::<Vec<_>>()
        )
    )
    .load(conn)?;
    // An event that retention has removed meanwhile is stored in the next round.
    let named = |row: Found| {
        let place = usize::try_from(row.place - 1).ok()?;
        let Found {
            seq,
            content_hash,
            created_at,
            ..
        } = row;
        Some((
            wanted.get(place)?.key,
            StoredEventRow {
                seq,
                content_hash,
                created_at,
            },
        ))
    };
    Ok(rows.into_iter().filter_map(named).collect())
}
