//! Claims, their ends and the attempt log on Postgres, for all supervisors of a group at once.

use std::collections::{HashMap, HashSet};

use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Bool, Integer, Nullable, Text};

use super::statements::{COUNT_NEW, Rows};
use crate::domain::delivery::Claimed;
use crate::domain::lifecycle::Status;
use crate::store::codec;
use crate::store::dialect::Leaving;
use crate::store::error::StoreError;
use crate::store::prepared::prepared;
use crate::store::rows::{AttemptRow, DeliveryRow};
use crate::store::writes::Claim;

/// The status of a row that is looked up by its key, written so that no partial index matches: with
/// outdated statistics the planner takes a scan of all pending rows for as cheap as a lookup.
const BY_KEY_STATUS: &str = "status || ''";

/// Claims for all supervisors of a group at once. Locked rows are skipped and claimed later.
pub(super) fn claim(
    conn: &mut PgConnection,
    claims: &[&Claim],
) -> Result<Vec<Vec<Claimed>>, StoreError> {
    if claims.is_empty() {
        return Ok(Vec::new());
    }
    let (mut ids, mut at, mut due_by, mut epochs) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut of = HashMap::new();
    for (place, claim) in claims.iter().enumerate() {
        for (order, id) in claim.ids().enumerate() {
            ids.push(id.as_str());
            at.push(claim.at.as_micros());
            due_by.push(claim.due_by.as_micros());
            epochs.push(claim.lease.epoch);
            of.insert(id.as_str(), (place, order));
        }
    }
    let rows: Vec<DeliveryRow> = prepared!(
        diesel::sql_query(format!(
            "WITH wanted AS MATERIALIZED ( \
             SELECT webhook_deliveries.id, asked.at, asked.epoch \
             FROM unnest($1, $2, $3, $4) AS asked (id, at, epoch, due_by) \
             JOIN webhook_deliveries ON webhook_deliveries.id = asked.id COLLATE \"C\" \
             WHERE webhook_deliveries.{BY_KEY_STATUS} = '{}' AND webhook_deliveries.next_attempt_at <= asked.due_by \
             FOR UPDATE OF webhook_deliveries SKIP LOCKED \
         ) \
         UPDATE webhook_deliveries SET status = '{}', next_attempt_at = NULL, \
             claim_no = webhook_deliveries.claim_no + 1, owner_epoch = wanted.epoch, \
             claimed_at = wanted.at, updated_at = wanted.at \
         FROM wanted WHERE webhook_deliveries.id = wanted.id \
         RETURNING webhook_deliveries.*",
            Status::Pending,
            Status::Sending,
        ))
        .bind::<Array<Text>, _>(ids)
        .bind::<Array<BigInt>, _>(at)
        .bind::<Array<BigInt>, _>(epochs)
        .bind::<Array<BigInt>, _>(due_by)
    )
    .load(conn)?;
    let mut claimed: Vec<Vec<(usize, Claimed)>> = vec![Vec::new(); claims.len()];
    for row in rows {
        if let Some((place, order)) = of.get(row.id.as_str()) {
            claimed[*place].push((*order, codec::claimed(&row)?));
        }
    }
    let in_order = |mut claimed: Vec<(usize, Claimed)>| {
        claimed.sort_by_key(|(order, _)| *order);
        claimed.into_iter().map(|(_, claimed)| claimed).collect()
    };
    Ok(claimed.into_iter().map(in_order).collect())
}

pub(super) fn leave_sending(
    conn: &mut PgConnection,
    leaving: &[Leaving<'_>],
) -> Result<Vec<bool>, StoreError> {
    #[derive(QueryableByName)]
    struct Left {
        #[diesel(sql_type = Text)]
        id: String,
    }
    let columns: Vec<_> = leaving
        .iter()
        .map(|one| codec::life_columns(&one.life))
        .collect();
    let rows: Vec<Left> = prepared!(diesel::sql_query(format!(
        "UPDATE webhook_deliveries SET status = left_as.status, next_attempt_at = left_as.next_attempt_at, \
             hold_reason = left_as.hold_reason, failure_reason = left_as.failure_reason, \
             retries_used = left_as.retries_used, attempt_count = left_as.attempt_count, \
             interruptions = left_as.interruptions, delivered_at = left_as.delivered_at, \
             in_line = left_as.in_line, claimed_at = NULL, updated_at = left_as.at \
         FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) AS left_as \
             (id, epoch, claim_no, status, next_attempt_at, hold_reason, failure_reason, retries_used, \
              attempt_count, interruptions, delivered_at, at, in_line) \
         WHERE webhook_deliveries.id = left_as.id COLLATE \"C\" AND webhook_deliveries.{BY_KEY_STATUS} = '{}' \
             AND webhook_deliveries.owner_epoch = left_as.epoch \
             AND webhook_deliveries.claim_no = left_as.claim_no \
         RETURNING webhook_deliveries.id",
        Status::Sending
    ))
    .bind::<Array<Text>, _>(leaving.iter().map(|one| one.claimed.id.as_str()).collect::<Vec<_>>())
    .bind::<Array<BigInt>, _>(leaving.iter().map(|one| one.claimed.epoch).collect::<Vec<_>>())
    .bind::<Array<BigInt>, _>(leaving.iter().map(|one| one.claimed.claim_no).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(columns.iter().map(|one| one.status.as_str()).collect::<Vec<_>>())
    .bind::<Array<Nullable<BigInt>>, _>(columns.iter().map(|one| one.next_attempt_at).collect::<Vec<_>>())
    .bind::<Array<Nullable<Text>>, _>(
        columns.iter().map(|one| one.hold_reason.as_deref()).collect::<Vec<_>>(),
    )
    .bind::<Array<Nullable<Text>>, _>(
        columns.iter().map(|one| one.failure_reason.as_deref()).collect::<Vec<_>>(),
    )
    .bind::<Array<Integer>, _>(columns.iter().map(|one| one.retries_used).collect::<Vec<_>>())
    .bind::<Array<Integer>, _>(columns.iter().map(|one| one.attempt_count).collect::<Vec<_>>())
    .bind::<Array<Integer>, _>(columns.iter().map(|one| one.interruptions).collect::<Vec<_>>())
    .bind::<Array<Nullable<BigInt>>, _>(columns.iter().map(|one| one.delivered_at).collect::<Vec<_>>())
    .bind::<Array<BigInt>, _>(leaving.iter().map(|one| one.at.as_micros()).collect::<Vec<_>>())
    .bind::<Array<Bool>, _>(columns.iter().map(|one| one.in_line).collect::<Vec<_>>()))
    .load(conn)?;
    let left: HashSet<String> = rows.into_iter().map(|row| row.id).collect();
    Ok(leaving
        .iter()
        .map(|one| left.contains(one.claimed.id.as_str()))
        .collect())
}

pub(super) fn insert_attempts(
    conn: &mut PgConnection,
    rows: &[AttemptRow],
) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    fn each<'a, T>(rows: &'a [AttemptRow], column: impl Fn(&'a AttemptRow) -> T) -> Vec<T> {
        rows.iter().map(column).collect()
    }
    prepared!(
        diesel::sql_query(
            format!("WITH new_rows AS (INSERT INTO webhook_attempts \
             (delivery_id, claim_no, endpoint_id, number, started_at, ended_at, outcome, status_code, error, \
              response_body, response_headers, request_headers, remote_address, timings) \
             SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) RETURNING 1) {COUNT_NEW}"),
        )
        .bind::<Array<Text>, _>(each(rows, |row| row.delivery_id.as_str()))
        .bind::<Array<BigInt>, _>(each(rows, |row| row.claim_no))
        .bind::<Array<Text>, _>(each(rows, |row| row.endpoint_id.as_str()))
        .bind::<Array<Nullable<Integer>>, _>(each(rows, |row| row.number))
        .bind::<Array<BigInt>, _>(each(rows, |row| row.started_at))
        .bind::<Array<BigInt>, _>(each(rows, |row| row.ended_at))
        .bind::<Array<Text>, _>(each(rows, |row| row.outcome.as_str()))
        .bind::<Array<Nullable<Integer>>, _>(each(rows, |row| row.status_code))
        .bind::<Array<Nullable<Text>>, _>(each(rows, |row| row.error.as_deref()))
        .bind::<Array<Nullable<Text>>, _>(each(rows, |row| row.response_body.as_deref()))
        .bind::<Array<Nullable<Text>>, _>(each(rows, |row| row.response_headers.as_deref()))
        .bind::<Array<Nullable<Text>>, _>(each(rows, |row| row.request_headers.as_deref()))
        .bind::<Array<Nullable<Text>>, _>(each(rows, |row| row.remote_address.as_deref()))
        .bind::<Array<Text>, _>(each(rows, |row| row.timings.as_str()))
    )
    .get_result::<Rows>(conn)?;
    Ok(())
}
