//! Claims, their ends and the attempt log on Postgres, for all supervisors of a group at once.

use std::collections::{HashMap, HashSet};

use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Binary, Bool, Integer, Nullable, Text};

use super::statements::{COUNT_NEW, Rows};
use crate::domain::delivery::Claimed;
use crate::domain::ids::DeliveryKey;
use crate::domain::lifecycle::Status;
use crate::store::codec;
use crate::store::delivery_rows::failed_at;
use crate::store::dialect::Leaving;
use crate::store::due_index::FAR;
use crate::store::error::StoreError;
use crate::store::prepared::prepared;
use crate::store::rows::{AttemptRow, DeliveryRow, KeyColumns};
use crate::store::writes::Claim;

/// Claims for all supervisors of a group at once. Locked rows are skipped and claimed later.
///
/// The due time is compared so that the index of what is due does not match (with `+ 0` it would:
/// that is never true of NULL): with outdated statistics the planner takes a scan of it for as
/// cheap as a lookup by key.
pub(super) fn claim(
    conn: &mut PgConnection,
    claims: &[&Claim],
) -> Result<Vec<Vec<Claimed>>, StoreError> {
    if claims.is_empty() {
        return Ok(Vec::new());
    }
    let (mut seqs, mut endpoints) = (Vec::new(), Vec::new());
    let (mut at, mut due_by, mut epochs) = (Vec::new(), Vec::new(), Vec::new());
    let mut of = HashMap::new();
    for (place, claim) in claims.iter().enumerate() {
        for (order, key) in claim.keys().enumerate() {
            seqs.push(key.event_seq);
            endpoints.push(key.endpoint);
            at.push(claim.at.as_micros());
            due_by.push(claim.due_by.as_micros());
            epochs.push(claim.lease.epoch);
            of.insert(key, (place, order));
        }
    }
    let rows: Vec<DeliveryRow> = prepared!(
        diesel::sql_query(format!(
            "WITH wanted AS MATERIALIZED ( \
             SELECT d.event_seq, d.endpoint, asked.at, asked.epoch \
             FROM unnest($1, $2, $3, $4, $5) AS asked (event_seq, endpoint, at, epoch, due_by) \
             JOIN webhook_deliveries AS d ON d.event_seq = asked.event_seq AND d.endpoint = asked.endpoint \
             WHERE d.status = '{}' AND coalesce(d.due_at, {FAR}) <= asked.due_by \
             FOR UPDATE OF d SKIP LOCKED \
         ) \
         UPDATE webhook_deliveries SET status = '{}', \
             claim_no = webhook_deliveries.claim_no + 1, owner_epoch = wanted.epoch, \
             claimed_at = wanted.at, updated_at = wanted.at \
         FROM wanted WHERE webhook_deliveries.event_seq = wanted.event_seq \
             AND webhook_deliveries.endpoint = wanted.endpoint \
         RETURNING webhook_deliveries.*",
            Status::Pending,
            Status::Sending,
        ))
        .bind::<Array<BigInt>, _>(seqs)
        .bind::<Array<Integer>, _>(endpoints)
        .bind::<Array<BigInt>, _>(at)
        .bind::<Array<BigInt>, _>(epochs)
        .bind::<Array<BigInt>, _>(due_by)
    )
    .load(conn)?;
    let mut claimed: Vec<Vec<(usize, Claimed)>> = vec![Vec::new(); claims.len()];
    for row in rows {
        if let Some((place, order)) = of.get(&DeliveryKey::from(row.key)) {
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
    let columns: Vec<_> = leaving
        .iter()
        .map(|one| codec::life_columns(&one.life))
        .collect();
    let rows: Vec<KeyColumns> = prepared!(
        diesel::sql_query(format!(
            "UPDATE webhook_deliveries SET status = left_as.status, due_at = left_as.due_at, \
             failed_at = left_as.failed_at, hold_reason = left_as.hold_reason, \
             failure_reason = left_as.failure_reason, retries_used = left_as.retries_used, \
             attempt_count = left_as.attempt_count, interruptions = left_as.interruptions, \
             delivered_at = left_as.delivered_at, in_order = left_as.in_order, claimed_at = NULL, \
             updated_at = left_as.at \
         FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15) AS left_as \
             (event_seq, endpoint, epoch, claim_no, status, due_at, failed_at, hold_reason, \
              failure_reason, retries_used, attempt_count, interruptions, delivered_at, at, in_order) \
         WHERE webhook_deliveries.event_seq = left_as.event_seq \
             AND webhook_deliveries.endpoint = left_as.endpoint \
             AND webhook_deliveries.status = '{}' \
             AND webhook_deliveries.owner_epoch = left_as.epoch \
             AND webhook_deliveries.claim_no = left_as.claim_no \
         RETURNING webhook_deliveries.event_seq, webhook_deliveries.endpoint",
            Status::Sending
        ))
        .bind::<Array<BigInt>, _>(each(leaving, |one| one.claimed.key.event_seq))
        .bind::<Array<Integer>, _>(each(leaving, |one| one.claimed.key.endpoint))
        .bind::<Array<BigInt>, _>(each(leaving, |one| one.claimed.epoch))
        .bind::<Array<BigInt>, _>(each(leaving, |one| one.claimed.claim_no))
        .bind::<Array<Text>, _>(each(&columns, |one| one.status.as_str()))
        .bind::<Array<Nullable<BigInt>>, _>(each(&columns, |one| one.due_at))
        .bind::<Array<Nullable<BigInt>>, _>(each(leaving, |one| failed_at(&one.life, one.at)))
        .bind::<Array<Nullable<Text>>, _>(each(&columns, |one| one.hold_reason.as_deref()))
        .bind::<Array<Nullable<Text>>, _>(each(&columns, |one| one.failure_reason.as_deref()))
        .bind::<Array<Integer>, _>(each(&columns, |one| one.retries_used))
        .bind::<Array<Integer>, _>(each(&columns, |one| one.attempt_count))
        .bind::<Array<Integer>, _>(each(&columns, |one| one.interruptions))
        .bind::<Array<Nullable<BigInt>>, _>(each(&columns, |one| one.delivered_at))
        .bind::<Array<BigInt>, _>(each(leaving, |one| one.at.as_micros()))
        .bind::<Array<Bool>, _>(each(&columns, |one| one.in_order))
    )
    .load(conn)?;
    let left: HashSet<DeliveryKey> = rows.into_iter().map(DeliveryKey::from).collect();
    Ok(each(leaving, |one| left.contains(&one.claimed.key)))
}

pub(super) fn insert_attempts(
    conn: &mut PgConnection,
    rows: &[AttemptRow],
) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    prepared!(
        diesel::sql_query(format!(
            "WITH new_rows AS (INSERT INTO webhook_attempts \
             (event_seq, endpoint, claim_no, number, started_at, ended_at, outcome, status_code, error, \
              response_body, response_headers, request_parts, remote_address, timings) \
             SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) \
             RETURNING 1) {COUNT_NEW}"
        ))
        .bind::<Array<BigInt>, _>(each(rows, |row| row.event_seq))
        .bind::<Array<Integer>, _>(each(rows, |row| row.endpoint))
        .bind::<Array<BigInt>, _>(each(rows, |row| row.claim_no))
        .bind::<Array<Nullable<Integer>>, _>(each(rows, |row| row.number))
        .bind::<Array<BigInt>, _>(each(rows, |row| row.started_at))
        .bind::<Array<BigInt>, _>(each(rows, |row| row.ended_at))
        .bind::<Array<Text>, _>(each(rows, |row| row.outcome.as_str()))
        .bind::<Array<Nullable<Integer>>, _>(each(rows, |row| row.status_code))
        .bind::<Array<Nullable<Text>>, _>(each(rows, |row| row.error.as_deref()))
        .bind::<Array<Nullable<Text>>, _>(each(rows, |row| row.response_body.as_deref()))
        .bind::<Array<Nullable<Text>>, _>(each(rows, |row| row.response_headers.as_deref()))
        .bind::<Array<Nullable<Binary>>, _>(each(rows, |row| row.request_parts.as_deref()))
        .bind::<Array<Nullable<Binary>>, _>(each(rows, |row| row.remote_address.as_deref()))
        .bind::<Array<Nullable<Binary>>, _>(each(rows, |row| row.timings.as_deref()))
    )
    .get_result::<Rows>(conn)?;
    Ok(())
}

/// Returns one column of all rows.
fn each<'c, S, T>(of: &'c [S], column: impl Fn(&'c S) -> T) -> Vec<T> {
    of.iter().map(column).collect()
}
