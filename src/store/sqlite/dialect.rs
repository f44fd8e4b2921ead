//! SQLite implementation of [`Dialect`]. All of its locks are SQLite's single write lock.

use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;

use diesel::connection::{AnsiTransactionManager, SimpleConnection as _};
use diesel::prelude::*;

use super::{connection, publishing, reading, sending};
use crate::domain::clock::Timestamp;
use crate::domain::delivery::Claimed;
use crate::domain::ids::{DeliveryKey, EndpointId, InstanceId, Tenant};
use crate::domain::lease::{Lease, Shard};
use crate::store::dialect::{
    Dialect, DueHead, LatestStarts, Leaving, NewDeliveries, Publishing, Taken, Taking,
};
use crate::store::error::StoreError;
use crate::store::hint::Hint;
use crate::store::prepared::prepared;
use crate::store::rows::{AttemptRow, DueRow, EventRow, HealthRow, StartRow};
use crate::store::schema::{
    webhook_attempts as attempts, webhook_endpoint_health as health, webhook_events as events,
    webhook_keys as keys, webhook_shards as shards, webhook_tenants as tenants,
};
use crate::store::writes::{Claim, OrderingKey, PublishOutcome};

impl Dialect for SqliteConnection {
    fn make_fit_to_write(&mut self) -> Result<(), StoreError> {
        connection::make_fit_to_write(self)
    }

    fn check_before_schema(&mut self, _: &[&str], _: &str) -> Result<(), StoreError> {
        Ok(())
    }

    fn check_after_schema(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    fn check_may_create(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    fn has_table(&mut self, name: &str) -> Result<bool, StoreError> {
        connection::has_table(self, name)
    }

    fn is_alive(&mut self) -> bool {
        true
    }

    fn has_broken_transaction(&mut self) -> bool {
        false
    }

    fn file(&mut self) -> Result<Option<PathBuf>, StoreError> {
        connection::file_of(self).map(Some)
    }

    fn identity(&mut self) -> Result<String, StoreError> {
        Ok(String::new())
    }

    fn hazards_of_server(&mut self) -> Result<Vec<String>, StoreError> {
        Ok(Vec::new())
    }

    fn hazard(&mut self) -> Result<Option<&'static str>, StoreError> {
        connection::hazard(self)
    }

    fn begin(&mut self) -> Result<(), StoreError> {
        // A deferred transaction that upgrades to writing gets BUSY without waiting.
        Ok(AnsiTransactionManager::begin_transaction_sql(
            self,
            "BEGIN IMMEDIATE",
        )?)
    }

    fn lock_migrations(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    fn publish(
        &mut self,
        all: &[&Publishing<'_>],
        new: &mut NewDeliveries,
    ) -> Result<Vec<PublishOutcome>, StoreError> {
        publishing::publish_all(self, all, new)
    }

    fn time(&mut self) -> Result<Option<Timestamp>, StoreError> {
        Ok(None)
    }

    fn hold(&mut self, leases: &HashSet<Lease>) -> Result<HashSet<Lease>, StoreError> {
        // Reads all rows: a list of variable length would need another statement for each length.
        let rows: Vec<(i32, i64)> = shards::table
            .filter(shards::holder.is_not_null())
            .select((shards::shard, shards::epoch))
            .load(self)?;
        let lease = |(shard, epoch)| Lease {
            shard: Shard::from_number(shard),
            epoch,
        };
        Ok(rows
            .into_iter()
            .map(lease)
            .filter(|lease| leases.contains(lease))
            .collect())
    }

    fn take_shards(&mut self, wanted: &[Lease], by: &Taking<'_>) -> Result<Vec<Taken>, StoreError> {
        let gone: Vec<&str> = by.gone.iter().map(InstanceId::as_str).collect();
        let mut taken = Vec::with_capacity(wanted.len());
        for lease in wanted {
            let epoch = lease.epoch + 1;
            let was_free = shards::table
                .find(lease.shard.number())
                .select(shards::holder.is_null())
                .first(self)?;
            let changed = diesel::update(
                shards::table
                    .filter(shards::shard.eq(lease.shard.number()))
                    .filter(shards::epoch.eq(lease.epoch))
                    .filter(
                        (shards::holder
                            .is_null()
                            .or(shards::holder.eq_any(&gone).assume_not_null()))
                        .or(shards::expires_at.le(by.now.as_micros()).assume_not_null()),
                    ),
            )
            .set((
                shards::epoch.eq(epoch),
                shards::holder.eq(Some(by.holder.as_str())),
                shards::expires_at.eq(Some(by.until.as_micros())),
            ))
            .execute(self)?;
            let lease = Lease {
                shard: lease.shard,
                epoch,
            };
            taken.extend((changed > 0).then_some(Taken { lease, was_free }));
        }
        Ok(taken)
    }

    fn lock_shards(&mut self, _: &BTreeSet<Shard>) -> Result<(), StoreError> {
        Ok(()) // This transaction alone writes.
    }

    fn lock_delivery(&mut self, _: DeliveryKey) -> Result<(), StoreError> {
        Ok(())
    }

    fn lock_endpoint(&mut self, _: &EndpointId) -> Result<(), StoreError> {
        Ok(())
    }

    fn lock_health(&mut self, ids: &BTreeSet<&EndpointId>) -> Result<Vec<HealthRow>, StoreError> {
        // This transaction alone writes.
        Ok(health::table
            .filter(health::endpoint_id.eq_any(ids.iter().map(|id| id.as_str())))
            .select(HealthRow::as_select())
            .load(self)?)
    }

    fn wait_for_keys(&mut self, _: &BTreeSet<OrderingKey<'_>>) -> Result<(), StoreError> {
        Ok(())
    }

    fn try_keys<'k>(
        &mut self,
        keys: BTreeSet<OrderingKey<'k>>,
    ) -> Result<BTreeSet<OrderingKey<'k>>, StoreError> {
        Ok(keys)
    }

    fn keep_in_order(&mut self, _: DeliveryKey) -> Result<bool, StoreError> {
        Ok(true) // It was read in this transaction.
    }

    fn claim(&mut self, claims: &[&Claim]) -> Result<Vec<Vec<Claimed>>, StoreError> {
        claims.iter().map(|one| sending::claim(self, one)).collect()
    }

    fn leave_sending(&mut self, leaving: &[Leaving<'_>]) -> Result<Vec<bool>, StoreError> {
        leaving
            .iter()
            .map(|one| sending::leave_sending(self, one))
            .collect()
    }

    fn events(&mut self, seqs: &[i64]) -> Result<Vec<EventRow>, StoreError> {
        // One by one: a list of variable length would need another statement for each length.
        // (`first` would bind a limit, for which SQLite prepares a statement again.)
        let one = |seq| {
            events::table
                .find(seq)
                .select(EventRow::as_select())
                .get_result(self)
                .optional()
        };
        Ok(seqs
            .iter()
            .map(one)
            .filter_map(Result::transpose)
            .collect::<Result<_, _>>()?)
    }

    fn insert_tenant(&mut self, tenant: &Tenant) -> Result<(), StoreError> {
        diesel::insert_into(tenants::table)
            .values(tenants::tenant.eq(tenant.as_str()))
            .on_conflict(tenants::tenant)
            .do_nothing()
            .execute(self)?;
        Ok(())
    }

    fn join_each_delivery(&self, outer: &str, _: &str, condition: &str) -> String {
        // The left side of a left join is always the outer loop.
        format!("{outer} LEFT JOIN webhook_deliveries AS found ON {condition}")
    }

    fn due_heads(&mut self, of: &[DueHead<'_>]) -> Result<Vec<(usize, DueRow)>, StoreError> {
        let mut rows = Vec::new();
        for (place, head) in of.iter().enumerate() {
            let found = reading::due_head(self, head)?;
            rows.extend(found.into_iter().map(|row| (place, row)));
        }
        Ok(rows)
    }

    fn latest_starts(
        &mut self,
        of: &[LatestStarts<'_>],
    ) -> Result<Vec<(usize, StartRow)>, StoreError> {
        let mut rows = Vec::new();
        for (place, one) in of.iter().enumerate() {
            let found = reading::latest_starts(self, one)?;
            rows.extend(found.into_iter().map(|row| (place, row)));
        }
        Ok(rows)
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
        None
    }

    fn announce(&mut self, _: Hint) -> Result<(), StoreError> {
        Ok(()) // A file has a single process.
    }

    fn insert_attempts(&mut self, rows: &[AttemptRow]) -> Result<(), StoreError> {
        for row in rows {
            prepared!(diesel::insert_into(attempts::table).values(row)).execute(self)?;
        }
        Ok(())
    }

    fn lock_events(&mut self, _: &[i64]) -> Result<(), StoreError> {
        Ok(()) // This transaction alone writes.
    }

    fn return_free_pages(&mut self) -> Result<(), StoreError> {
        // A few at a time. (`execute` would step once, and this pragma frees one page per step.)
        Ok(self.batch_execute("PRAGMA incremental_vacuum(200)")?)
    }
}
