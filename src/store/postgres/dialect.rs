//! Postgres implementation of [`Dialect`].

use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;

use diesel::connection::{AnsiTransactionManager, TransactionManager as _};
use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};

use super::locks::NOW;
use super::{checks, connection, locks, notify, publishing, reading, sending};
use crate::domain::breaker::StoredHealth;
use crate::domain::clock::Timestamp;
use crate::domain::delivery::Claimed;
use crate::domain::ids::{DeliveryKey, EndpointId, Tenant};
use crate::domain::lease::{Lease, Shard};
use crate::store::codec;
use crate::store::dialect::{
    Dialect, DueHead, LatestStarts, Leaving, NewDeliveries, Publishing, Taken, Taking,
};
use crate::store::error::StoreError;
use crate::store::hint::Hint;
use crate::store::rows::{AttemptRow, DueRow, EventRow, HealthRow, StartRow};
use crate::store::schema::{
    webhook_deliveries as deliveries, webhook_endpoint_health as health,
    webhook_endpoints as endpoints, webhook_events as events, webhook_keys as keys,
    webhook_tenants as tenants,
};
use crate::store::writes::{Claim, OrderingKey, PublishOutcome};

/// The server ends a transaction of a stalled process well before its lease expires, so that others
/// can take over its shards. (Settings are `LOCAL`: behind a pooler the next transaction runs in
/// another session.) The same holds for one that waits for somebody's lock on a table: it keeps the
/// rows of the leases, which could not be renewed meanwhile. The planner settings force lookups by
/// key, row by row, whatever table sizes it assumes.
///
/// Commits stay durable if somebody turns `synchronous_commit` off while the session is open.
const BEGIN: &str = "BEGIN; SET LOCAL jit = off; SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; \
    SET LOCAL enable_mergejoin = off; SET LOCAL idle_in_transaction_session_timeout = '5s'; \
    SET LOCAL lock_timeout = '2s'; \
    SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'";

impl Dialect for PgConnection {
    fn make_fit_to_write(&mut self) -> Result<(), StoreError> {
        connection::make_fit_to_write(self)
    }

    fn check_before_schema(&mut self, tables: &[&str], record: &str) -> Result<(), StoreError> {
        checks::check_is_postgres(self)?;
        checks::check_encoding(self)?;
        checks::check_takes_writes(self)?;
        checks::check_may_write(self, tables, record)
    }

    fn check_after_schema(&mut self) -> Result<(), StoreError> {
        checks::repair_sequences(self)
    }

    fn check_may_create(&mut self) -> Result<(), StoreError> {
        checks::check_may_create(self)
    }

    fn has_table(&mut self, name: &str) -> Result<bool, StoreError> {
        let schema = "current_schema()::regnamespace";
        let found: i64 = diesel::select(
            sql::<BigInt>(&format!(
                "count(*) FROM pg_class WHERE relnamespace = {schema} AND relname = "
            ))
            .bind::<Text, _>(name),
        )
        .get_result(self)?;
        Ok(found > 0)
    }

    fn is_alive(&mut self) -> bool {
        connection::is_alive(self)
    }

    fn has_broken_transaction(&mut self) -> bool {
        AnsiTransactionManager::is_broken_transaction_manager(self)
    }

    fn file(&mut self) -> Result<Option<PathBuf>, StoreError> {
        Ok(None)
    }

    fn identity(&mut self) -> Result<String, StoreError> {
        connection::identity(self)
    }

    fn hazards_of_server(&mut self) -> Result<Vec<String>, StoreError> {
        connection::hazards_of_server(self)
    }

    fn hazard(&mut self) -> Result<Option<&'static str>, StoreError> {
        connection::hazard(self)
    }

    fn begin(&mut self) -> Result<(), StoreError> {
        Ok(AnsiTransactionManager::begin_transaction_sql(self, BEGIN)?)
    }

    fn lock_migrations(&mut self) -> Result<(), StoreError> {
        locks::lock_migrations(self)
    }

    fn publish(
        &mut self,
        all: &[&Publishing<'_>],
        new: &mut NewDeliveries,
    ) -> Result<Vec<PublishOutcome>, StoreError> {
        publishing::publish(self, all, new)
    }

    fn time(&mut self) -> Result<Option<Timestamp>, StoreError> {
        let micros: i64 = diesel::select(sql::<BigInt>(NOW)).get_result(self)?;
        Ok(Some(Timestamp::from_micros(micros)))
    }

    fn hold(&mut self, leases: &HashSet<Lease>) -> Result<HashSet<Lease>, StoreError> {
        locks::hold(self, leases)
    }

    fn take_shards(&mut self, wanted: &[Lease], by: &Taking<'_>) -> Result<Vec<Taken>, StoreError> {
        locks::take_shards(self, wanted, by)
    }

    fn lock_shards(&mut self, shards: &BTreeSet<Shard>) -> Result<(), StoreError> {
        locks::lock_shards(self, shards)
    }

    fn lock_delivery(&mut self, key: DeliveryKey) -> Result<(), StoreError> {
        let one = deliveries::table
            .find((key.event_seq, key.endpoint))
            .select(deliveries::endpoint)
            .for_update();
        one.first::<i32>(self).optional()?;
        Ok(())
    }

    fn lock_endpoint(&mut self, id: &EndpointId) -> Result<(), StoreError> {
        let one = endpoints::table
            .find(id.as_str())
            .select(endpoints::id)
            .for_no_key_update();
        one.first::<String>(self).optional()?;
        Ok(())
    }

    fn lock_health(&mut self, ids: &BTreeSet<&EndpointId>) -> Result<Vec<HealthRow>, StoreError> {
        let new: Vec<HealthRow> = ids
            .iter()
            .map(|id| codec::health_row(id, &StoredHealth::default()))
            .collect();
        diesel::insert_into(health::table)
            .values(new)
            .on_conflict_do_nothing()
            .execute(self)?;
        Ok(health::table
            .filter(health::endpoint_id.eq_any(ids.iter().map(|id| id.as_str())))
            .order(health::endpoint_id)
            .select(HealthRow::as_select())
            .for_update()
            .load(self)?)
    }

    fn wait_for_keys(&mut self, keys: &BTreeSet<OrderingKey<'_>>) -> Result<(), StoreError> {
        locks::wait_for_keys(self, keys)
    }

    fn try_keys<'k>(
        &mut self,
        keys: BTreeSet<OrderingKey<'k>>,
    ) -> Result<BTreeSet<OrderingKey<'k>>, StoreError> {
        locks::try_keys(self, keys)
    }

    fn keep_in_order(&mut self, key: DeliveryKey) -> Result<bool, StoreError> {
        let one = deliveries::table
            .filter(deliveries::event_seq.eq(key.event_seq))
            .filter(deliveries::endpoint.eq(key.endpoint))
            .filter(deliveries::in_order)
            .select(deliveries::endpoint)
            .for_share()
            .skip_locked();
        Ok(one.first::<i32>(self).optional()?.is_some())
    }

    fn claim(&mut self, claims: &[&Claim]) -> Result<Vec<Vec<Claimed>>, StoreError> {
        sending::claim(self, claims)
    }

    fn leave_sending(&mut self, leaving: &[Leaving<'_>]) -> Result<Vec<bool>, StoreError> {
        sending::leave_sending(self, leaving)
    }

    fn events(&mut self, seqs: &[i64]) -> Result<Vec<EventRow>, StoreError> {
        Ok(events::table
            .filter(events::seq.eq_any(seqs))
            .select(EventRow::as_select())
            .load(self)?)
    }

    fn insert_tenant(&mut self, tenant: &Tenant) -> Result<(), StoreError> {
        diesel::insert_into(tenants::table)
            .values(tenants::tenant.eq(tenant.as_str()))
            .on_conflict(tenants::tenant)
            .do_nothing()
            .execute(self)?;
        Ok(())
    }

    fn join_each_delivery(&self, outer: &str, columns: &str, condition: &str) -> String {
        // `OFFSET 0` keeps the subquery as it is: the planner cannot make it a hash of all rows.
        format!(
            "{outer} LEFT JOIN LATERAL (SELECT {columns} FROM webhook_deliveries AS found \
             WHERE {condition} OFFSET 0) AS found ON true"
        )
    }

    fn due_heads(&mut self, of: &[DueHead<'_>]) -> Result<Vec<(usize, DueRow)>, StoreError> {
        reading::due_heads(self, of)
    }

    fn latest_starts(
        &mut self,
        of: &[LatestStarts<'_>],
    ) -> Result<Vec<(usize, StartRow)>, StoreError> {
        reading::latest_starts(self, of)
    }

    fn insert_key(&mut self, name: &str, key: &str, at: Timestamp) -> Result<(), StoreError> {
        let row = (
            keys::name.eq(name),
            keys::key.eq(key),
            keys::created_at.eq(at.as_micros()),
        );
        diesel::insert_into(keys::table)
            .values(row)
            .on_conflict_do_nothing()
            .execute(self)?;
        Ok(())
    }

    fn snapshot(&self) -> Option<&'static str> {
        Some(
            "pg_snapshot_xmin(pg_current_snapshot())::text::bigint, \
             pg_snapshot_xmax(pg_current_snapshot())::text::bigint",
        )
    }

    fn announce(&mut self, hint: Hint) -> Result<(), StoreError> {
        notify::send(self, vec![hint])
    }

    fn insert_attempts(&mut self, rows: &[AttemptRow]) -> Result<(), StoreError> {
        sending::insert_attempts(self, rows)
    }

    fn lock_events(&mut self, seqs: &[i64]) -> Result<(), StoreError> {
        let of_events = events::table.filter(events::seq.eq_any(seqs));
        of_events
            .order(events::seq)
            .select(events::seq)
            .for_update()
            .load::<i64>(self)?;
        let of_events = deliveries::table.filter(deliveries::event_seq.eq_any(seqs));
        of_events
            .order((deliveries::event_seq, deliveries::endpoint))
            .select(deliveries::endpoint)
            .for_update()
            .load::<i32>(self)?;
        Ok(())
    }

    fn return_free_pages(&mut self) -> Result<(), StoreError> {
        Ok(()) // That is the work of autovacuum.
    }
}
