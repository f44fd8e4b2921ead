//! Recoveries: stored, advanced batch by batch, and previewed.

use diesel::prelude::*;

use super::codec;
use super::connection::AnyConnection;
use super::delivery_rows::shard_numbers;
use super::endpoint_codec::EndpointCodec;
use super::error::StoreError;
use super::missed::{RecoveryCursor, failed_deliveries_after, undelivered_events_after};
use super::rows::{NewDeliveryRow, RecoveryRow};
use super::schema::{
    webhook_deliveries as deliveries, webhook_endpoints as endpoints,
    webhook_recoveries as recoveries,
};
use super::store::Store;
use super::tx::Tx;
use crate::domain::clock::Timestamp;
use crate::domain::endpoint::Endpoint;
use crate::domain::event::EventFilter;
use crate::domain::ids::{DeliveryKey, RecoveryId};
use crate::domain::lease::Lease;
use crate::domain::lifecycle::{self, Cause};
use crate::domain::recovery::{Progress, Recovery};

/// Limit of counting.
const MAX_COUNTED: i64 = 100_000;

/// The deliveries that a recovery would requeue or create.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Recoverable {
    pub(crate) failed: u64,
    pub(crate) missing: u64,
    /// True if counting stopped at [`MAX_COUNTED`].
    pub(crate) capped: bool,
}

impl Store {
    /// Reads a recovery.
    pub(crate) async fn recovery(&self, id: &RecoveryId) -> Result<Option<Recovery>, StoreError> {
        let id = id.clone();
        self.read("recovery", move |conn, _| recovery(conn, &id))
            .await
    }

    /// Reads the recoveries that are under way in held shards, oldest first.
    pub(crate) async fn running_recoveries(
        &self,
        held: Vec<Lease>,
    ) -> Result<Vec<RecoveryId>, StoreError> {
        self.read("recoveries", move |conn, _| running_recoveries(conn, &held))
            .await
    }

    /// Counts the deliveries that a recovery would requeue or create.
    pub(crate) async fn recoverable(
        &self,
        recovery: Recovery,
        filters: Vec<EventFilter>,
    ) -> Result<Recoverable, StoreError> {
        let read = move |conn: &mut AnyConnection, _: &EndpointCodec| {
            recoverable(conn, &recovery, &filters)
        };
        self.read("recoverable", read).await
    }
}

impl Tx<'_> {
    /// Stores a recovery that has not begun.
    pub(crate) fn insert_recovery(&mut self, recovery: &Recovery) -> Result<(), StoreError> {
        let row = codec::recovery_row(recovery);
        diesel::insert_into(recoveries::table)
            .values(row)
            .execute(self.conn)?;
        Ok(())
    }

    /// Removes recoveries that ended before `cutoff`.
    pub(crate) fn forget_recoveries(&mut self, cutoff: Timestamp) -> Result<(), StoreError> {
        let ended = recoveries::table
            .filter(recoveries::progress.eq(Progress::Done.as_str()))
            .filter(recoveries::created_at.lt(cutoff.as_micros()));
        diesel::delete(ended).execute(self.conn)?;
        Ok(())
    }

    /// Advances a recovery by one batch; `None` if it does not exist.
    pub(crate) fn recover_batch(
        &mut self,
        id: &RecoveryId,
        at: Timestamp,
        limit: i64,
    ) -> Result<Option<Recovery>, StoreError> {
        let Some(mut recovery) = recovery(self.conn, id)? else {
            return Ok(None);
        };
        if recovery.progress == Progress::Done {
            return Ok(Some(recovery));
        }
        let mut cursor = cursor(self.conn, id)?;
        let Some(endpoint) = self.endpoint(&recovery.endpoint_id)? else {
            recovery.progress = Progress::Done;
            advance_recovery(self.conn, &recovery, &cursor)?;
            return Ok(Some(recovery));
        };
        let mut more = false;
        if recovery.include.failed() && cursor.seq.is_none() {
            more = self.recover_failed(&mut recovery, &mut cursor, at, limit)?;
        }
        // Continues with missing events, if requested.
        if !more && recovery.include.missing() {
            more = self.recover_missing(&mut recovery, &mut cursor, &endpoint, (at, limit))?;
        }
        if !more {
            recovery.progress = Progress::Done;
        }
        advance_recovery(self.conn, &recovery, &cursor)?;
        Ok(Some(recovery))
    }

    /// Requeues failed deliveries. Returns true if there may be more.
    fn recover_failed(
        &mut self,
        recovery: &mut Recovery,
        cursor: &mut RecoveryCursor,
        at: Timestamp,
        limit: i64,
    ) -> Result<bool, StoreError> {
        let found = failed_deliveries_after(self.conn, recovery, cursor, limit)?;
        for (_, key) in found.iter().copied() {
            recovery.matched += 1;
            // A person may have retried it already.
            if let Some(life) = self.life_to_change(key)?
                && let Ok(next) = lifecycle::next(&life, &Cause::RetryAsked { at })
            {
                self.change_life(key, &life, &next, at)?;
                self.mark_retried(key, at)?;
                recovery.requeued += 1;
            }
        }
        let is_full = i64::try_from(found.len()).is_ok_and(|found| found == limit);
        if let Some((failed_at, key)) = found.into_iter().next_back() {
            cursor.failed = Some((failed_at, key.event_seq));
        }
        Ok(is_full)
    }

    /// Creates deliveries of events that the endpoint never received. Returns true if there may be
    /// more.
    fn recover_missing(
        &mut self,
        recovery: &mut Recovery,
        cursor: &mut RecoveryCursor,
        endpoint: &Endpoint,
        (at, limit): (Timestamp, i64),
    ) -> Result<bool, StoreError> {
        let filters = &endpoint.settings.event_types;
        let found = undelivered_events_after(self.conn, recovery, filters, cursor, limit)?;
        insert_deliveries(self, endpoint, &found.events, at)?;
        recovery.matched += found.events.len() as u64;
        recovery.requeued += found.events.len() as u64;
        cursor.seq = found.last.or(cursor.seq);
        Ok(found.last.is_some())
    }
}

fn recovery(conn: &mut AnyConnection, id: &RecoveryId) -> Result<Option<Recovery>, StoreError> {
    let row = recoveries::table
        .find(id.as_str())
        .select(RecoveryRow::as_select())
        .first(conn)
        .optional()?;
    row.map(codec::recovery).transpose()
}

/// Reads the recoveries that are under way in held shards, oldest first.
fn running_recoveries(
    conn: &mut AnyConnection,
    held: &[Lease],
) -> Result<Vec<RecoveryId>, StoreError> {
    let ids: Vec<String> = recoveries::table
        .filter(recoveries::progress.eq(Progress::Running.as_str()))
        .filter(recoveries::shard.eq_any(shard_numbers(held)))
        .order(recoveries::id)
        .select(recoveries::id)
        .load(conn)?;
    Ok(ids.into_iter().map(RecoveryId::from_text).collect())
}

fn cursor(conn: &mut AnyConnection, id: &RecoveryId) -> Result<RecoveryCursor, StoreError> {
    let (at, failed, seq): (Option<i64>, Option<i64>, Option<i64>) = recoveries::table
        .find(id.as_str())
        .select((
            recoveries::failed_at,
            recoveries::failed_seq,
            recoveries::event_seq,
        ))
        .first(conn)?;
    Ok(RecoveryCursor {
        failed: at.zip(failed),
        seq,
    })
}

/// Writes the progress of a recovery.
fn advance_recovery(
    conn: &mut AnyConnection,
    recovery: &Recovery,
    cursor: &RecoveryCursor,
) -> Result<(), StoreError> {
    let (failed_at, failed_seq) = cursor.failed.unzip();
    diesel::update(recoveries::table.find(recovery.id.as_str()))
        .set((
            recoveries::progress.eq(recovery.progress.as_str()),
            recoveries::matched.eq(i64::try_from(recovery.matched).unwrap_or(i64::MAX)),
            recoveries::requeued.eq(i64::try_from(recovery.requeued).unwrap_or(i64::MAX)),
            recoveries::failed_at.eq(failed_at),
            recoveries::failed_seq.eq(failed_seq),
            recoveries::event_seq.eq(cursor.seq),
        ))
        .execute(conn)?;
    Ok(())
}

/// Creates deliveries of stored events.
fn insert_deliveries(
    tx: &mut Tx<'_>,
    endpoint: &Endpoint,
    events: &[(i64, Option<String>)],
    at: Timestamp,
) -> Result<(), StoreError> {
    let number: i32 = endpoints::table
        .find(endpoint.id.as_str())
        .select(endpoints::number)
        .first(tx.conn)?;
    for (event_seq, ordering_key) in events {
        let key = DeliveryKey {
            event_seq: *event_seq,
            endpoint: number,
        };
        let row = NewDeliveryRow::new(key, ordering_key.as_deref(), at);
        diesel::insert_into(deliveries::table)
            .values(&row)
            .execute(tx.conn)?;
    }
    Ok(())
}

fn recoverable(
    conn: &mut AnyConnection,
    recovery: &Recovery,
    filters: &[EventFilter],
) -> Result<Recoverable, StoreError> {
    let mut found = Recoverable {
        failed: 0,
        missing: 0,
        capped: false,
    };
    if recovery.include.failed() {
        let failed =
            failed_deliveries_after(conn, recovery, &RecoveryCursor::default(), MAX_COUNTED)?;
        found.failed = failed.len() as u64;
        found.capped = i64::try_from(failed.len()).is_ok_and(|failed| failed == MAX_COUNTED);
    }
    if recovery.include.missing() {
        const BATCH: i64 = 1000;
        let mut cursor = RecoveryCursor::default();
        // The scan reads events of all tenants.
        for _ in 0..MAX_COUNTED / BATCH {
            let batch = undelivered_events_after(conn, recovery, filters, &cursor, BATCH)?;
            found.missing += batch.events.len() as u64;
            cursor.seq = batch.last;
            if batch.last.is_none() {
                break;
            }
        }
        found.capped |= cursor.seq.is_some();
    }
    Ok(found)
}
