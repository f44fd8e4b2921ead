//! Reading ahead for supervisors on Postgres, for many endpoints at once.

use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Text};

use crate::domain::lifecycle::Status;
use crate::store::dialect::{DueHead, LatestStarts};
use crate::store::error::StoreError;
use crate::store::prepared::prepared;
use crate::store::rows::{DueRow, StartRow};

/// A row, and the number of its endpoint in the question (from 1).
#[derive(QueryableByName)]
struct Placed<R> {
    #[diesel(sql_type = BigInt)]
    place: i64,
    #[diesel(embed)]
    row: R,
}

fn with_places<R>(rows: Vec<Placed<R>>) -> Vec<(usize, R)> {
    let index = |place: i64| usize::try_from(place - 1).unwrap_or_default();
    rows.into_iter()
        .map(|found| (index(found.place), found.row))
        .collect()
}

pub(super) fn due_heads(
    conn: &mut PgConnection,
    of: &[DueHead<'_>],
) -> Result<Vec<(usize, DueRow)>, StoreError> {
    let rows: Vec<Placed<DueRow>> = prepared!(
        diesel::sql_query(format!(
            "SELECT asked.place, d.* \
             FROM unnest($1, $2, $3) WITH ORDINALITY AS asked (id, since, rows, place) \
             JOIN webhook_endpoints AS e ON e.id = asked.id \
             CROSS JOIN LATERAL (SELECT * FROM webhook_deliveries WHERE endpoint = e.number \
                 AND due_at >= asked.since AND status = '{}' \
                 ORDER BY due_at, created_at, event_seq LIMIT asked.rows) AS d \
             ORDER BY asked.place, d.due_at, d.created_at, d.event_seq",
            Status::Pending
        ))
        .bind::<Array<Text>, _>(
            of.iter()
                .map(|one| one.endpoint.as_str())
                .collect::<Vec<_>>()
        )
        .bind::<Array<BigInt>, _>(of.iter().map(|one| one.from).collect::<Vec<_>>())
        .bind::<Array<BigInt>, _>(of.iter().map(|one| one.limit).collect::<Vec<_>>())
    )
    .load(conn)?;
    Ok(with_places(rows))
}

pub(super) fn latest_starts(
    conn: &mut PgConnection,
    of: &[LatestStarts<'_>],
) -> Result<Vec<(usize, StartRow)>, StoreError> {
    let rows: Vec<Placed<StartRow>> = prepared!(
        diesel::sql_query(
            "SELECT asked.place, a.* \
             FROM unnest($1, $2, $3) WITH ORDINALITY AS asked (id, since, rows, place) \
             JOIN webhook_endpoints AS e ON e.id = asked.id \
             CROSS JOIN LATERAL (SELECT started_at, ended_at, outcome FROM webhook_attempts \
                 WHERE endpoint = e.number AND ended_at > asked.since \
                 ORDER BY ended_at DESC LIMIT asked.rows) AS a",
        )
        .bind::<Array<Text>, _>(
            of.iter()
                .map(|one| one.endpoint.as_str())
                .collect::<Vec<_>>()
        )
        .bind::<Array<BigInt>, _>(of.iter().map(|one| one.since).collect::<Vec<_>>())
        .bind::<Array<BigInt>, _>(of.iter().map(|one| one.limit).collect::<Vec<_>>())
    )
    .load(conn)?;
    Ok(with_places(rows))
}
