//! Database-specific operations: connections, locks, and bulk statements. The conformance suite
//! (`tests/it/store`) requires the same results from both databases.

use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use super::error::StoreError;
use super::hint::Hint;
use super::rows::{AttemptRow, DueRow, EventRow, HealthRow, StartRow};
use super::writes::{Claim, OrderingKey, Publish, PublishOutcome, Subscriber, Subscribers};
use crate::domain::clock::Timestamp;
use crate::domain::delivery::{Claimed, Queued, Seen};
use crate::domain::event::StoredEvent;
use crate::domain::ids::{DeliveryKey, EndpointId, InstanceId, Tenant};
use crate::domain::lease::{Lease, Shard};
use crate::domain::lifecycle::{self, Cause, Life};

/// Events to store, all or none, each with its target.
pub(super) struct Publishing<'a> {
    pub(super) publish: &'a Publish,
    pub(super) targets: Vec<Target>,
}

/// The number of an event's tenant, and its endpoints.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) tenant: i32,
    pub(super) subscribers: Subscribers,
}

/// The deliveries that a transaction creates, in the order of their events.
#[derive(Default)]
pub(super) struct NewDeliveries {
    created: Vec<(EndpointId, Queued)>,
}

impl NewDeliveries {
    /// Adds a delivery of a published event. Returns its key.
    pub(super) fn add(
        &mut self,
        event_seq: i64,
        event: &Arc<StoredEvent>,
        to: &Subscriber,
    ) -> DeliveryKey {
        let key = DeliveryKey {
            event_seq,
            endpoint: to.number,
        };
        let life = Life::published(event.created_at, event.ordering_key.is_some());
        let queued = Queued {
            key,
            due: event.created_at,
            event: Arc::clone(event),
            seen: Seen { claim_no: 0, life },
        };
        self.created.push((to.id.clone(), queued));
        key
    }

    #[cfg(feature = "sqlite")]
    pub(super) fn len(&self) -> usize {
        self.created.len()
    }

    /// Forgets all but the first `len`, which were rolled back.
    #[cfg(feature = "sqlite")]
    pub(super) fn truncate(&mut self, len: usize) {
        self.created.truncate(len);
    }

    pub(super) fn into_created(self) -> Vec<(EndpointId, Queued)> {
        self.created
    }
}

/// A claim that ends, and its delivery's next life.
pub(super) struct Leaving<'a> {
    pub(super) claimed: &'a Claimed,
    pub(super) life: Life,
    pub(super) at: Timestamp,
}

impl<'a> Leaving<'a> {
    /// Applies a cause; `None` if the lifecycle does not allow it. (A held claim is `sending` by
    /// construction; only its row may disagree.)
    pub(super) fn by(claimed: &'a Claimed, cause: &Cause<'_>, at: Timestamp) -> Option<Self> {
        let life = lifecycle::next(&claimed.life, cause).ok()?;
        Some(Self { claimed, life, at })
    }
}

/// The process that takes over shards, and the end of its leases.
pub(super) struct Taking<'a> {
    pub(super) holder: &'a InstanceId,
    /// Former holders that are known to have ended.
    pub(super) gone: &'a [InstanceId],
    pub(super) now: Timestamp,
    pub(super) until: Timestamp,
}

/// A shard that was taken over.
pub(super) struct Taken {
    pub(super) lease: Lease,
    /// True if its former owner had given it up.
    pub(super) was_free: bool,
}

/// The first pending deliveries of an endpoint in the order of what is due.
pub(super) struct DueHead<'a> {
    pub(super) endpoint: &'a EndpointId,
    /// Time from which on they are due, in microseconds.
    pub(super) from: i64,
    /// Maximum number of deliveries.
    pub(super) limit: i64,
}

/// The latest attempts of an endpoint.
pub(super) struct LatestStarts<'a> {
    pub(super) endpoint: &'a EndpointId,
    /// Time after which they ended, in microseconds.
    pub(super) since: i64,
    /// Maximum number of attempts.
    pub(super) limit: i64,
}

/// Database-specific operations of a connection. Every function from [`time`](Self::time) on
/// requires a transaction opened by `begin`.
pub(super) trait Dialect {
    /// Sets and checks whatever makes a commit durable.
    fn make_fit_to_write(&mut self) -> Result<(), StoreError>;

    /// Checks a database before its schema is read.
    fn check_before_schema(&mut self, tables: &[&str], record: &str) -> Result<(), StoreError>;

    /// Checks a database once its schema exists, in a transaction, and repairs what a restore
    /// leaves incomplete.
    fn check_after_schema(&mut self) -> Result<(), StoreError>;

    /// Rejects a role that may not create tables.
    fn check_may_create(&mut self) -> Result<(), StoreError>;

    /// Returns true if a table of that name exists where ours would be created.
    fn has_table(&mut self, name: &str) -> Result<bool, StoreError>;

    /// Returns false if the idle connection has died. Sends nothing.
    fn is_alive(&mut self) -> bool;

    /// Returns true if a transaction was left in an unknown state.
    fn has_broken_transaction(&mut self) -> bool;

    /// Returns the file of the connection; `None` for a server.
    fn file(&mut self) -> Result<Option<PathBuf>, StoreError>;

    /// Returns a name for a server's database that is unique on this host.
    fn identity(&mut self) -> Result<String, StoreError>;

    /// Returns server settings that endanger committed data, with remedies.
    fn hazards_of_server(&mut self) -> Result<Vec<String>, StoreError>;

    /// Returns the danger to this connection's commits in a power cut.
    fn hazard(&mut self) -> Result<Option<&'static str>, StoreError>;

    /// Begins a transaction that may write.
    fn begin(&mut self) -> Result<(), StoreError>;

    /// Returns the database's time of day; `None` for a file, which has none.
    fn time(&mut self) -> Result<Option<Timestamp>, StoreError>;

    /// Waits until no other process migrates, and blocks others until this transaction ends.
    fn lock_migrations(&mut self) -> Result<(), StoreError>;

    /// Stores events with their deliveries. A rejected publish does not affect the others.
    fn publish(
        &mut self,
        all: &[&Publishing<'_>],
        new: &mut NewDeliveries,
    ) -> Result<Vec<PublishOutcome>, StoreError>;

    /// Returns the valid ones of the leases, and keeps others from taking them over until this
    /// transaction ends.
    fn hold(&mut self, leases: &HashSet<Lease>) -> Result<HashSet<Lease>, StoreError>;

    /// Takes over shards that are free, have expired by `now`, or belong to one of `gone`, unless a
    /// transaction is working in them. Raises their epochs.
    fn take_shards(&mut self, wanted: &[Lease], by: &Taking<'_>) -> Result<Vec<Taken>, StoreError>;

    /// Locks shards until the end of this transaction, in the order of their numbers. A transaction
    /// that changes several locks all of them first, and nodes before them: so no two wait for each
    /// other.
    fn lock_shards(&mut self, shards: &BTreeSet<Shard>) -> Result<(), StoreError>;

    /// Locks a delivery until the end of this transaction.
    fn lock_delivery(&mut self, key: DeliveryKey) -> Result<(), StoreError>;

    /// Locks an endpoint in the same way.
    fn lock_endpoint(&mut self, id: &EndpointId) -> Result<(), StoreError>;

    /// Locks the health of endpoints until the end of this transaction, and reads it. One without a
    /// row may be missing, and has the default.
    fn lock_health(&mut self, ids: &BTreeSet<&EndpointId>) -> Result<Vec<HealthRow>, StoreError>;

    /// Waits for other transactions that publish under these ordering keys, and blocks new ones
    /// until this transaction ends: its events come after all earlier ones.
    fn wait_for_keys(&mut self, keys: &BTreeSet<OrderingKey<'_>>) -> Result<(), StoreError>;

    /// Locks ordering keys without waiting. Returns the locked ones.
    fn try_keys<'k>(
        &mut self,
        keys: BTreeSet<OrderingKey<'k>>,
    ) -> Result<BTreeSet<OrderingKey<'k>>, StoreError>;

    /// Keeps a delivery in its key's order until the end of this transaction. Returns false if it
    /// has left the order, or another transaction is changing it.
    fn keep_in_order(&mut self, key: DeliveryKey) -> Result<bool, StoreError>;

    /// Makes due deliveries `sending`. Deliveries that have changed since they were read are
    /// skipped.
    fn claim(&mut self, claims: &[&Claim]) -> Result<Vec<Vec<Claimed>>, StoreError>;

    /// Ends claims that are still valid: `sending`, with the same epoch and number. Returns for
    /// each whether it was; nothing is written for the others.
    fn leave_sending(&mut self, leaving: &[Leaving<'_>]) -> Result<Vec<bool>, StoreError>;

    /// Reads stored events by their places in the order of publishing; missing ones are left out.
    fn events(&mut self, seqs: &[i64]) -> Result<Vec<EventRow>, StoreError>;

    /// Reads the first pending deliveries of endpoints. Each row has the index of its endpoint in
    /// `of`; the rows of an endpoint are in order.
    fn due_heads(&mut self, of: &[DueHead<'_>]) -> Result<Vec<(usize, DueRow)>, StoreError>;

    /// Reads the latest attempts of endpoints, each with the index of its endpoint in `of`.
    fn latest_starts(
        &mut self,
        of: &[LatestStarts<'_>],
    ) -> Result<Vec<(usize, StartRow)>, StoreError>;

    /// Stores a database key, unless its name exists.
    fn insert_key(&mut self, name: &str, key: &str, at: Timestamp) -> Result<(), StoreError>;

    /// Adds a tenant, unless it exists.
    fn insert_tenant(&mut self, tenant: &Tenant) -> Result<(), StoreError>;

    /// Returns a FROM clause: each row of `outer` with the `columns` of its deliveries, which are
    /// named `found` and looked up row by row; with NULLs for a row without any.
    fn join_each_delivery(&self, outer: &str, columns: &str, condition: &str) -> String;

    /// Returns two columns: the number of the first transaction that writes and has not ended, and that
    /// of the next one. `None` for a file, where one at a time writes.
    fn snapshot(&self) -> Option<&'static str>;

    /// Sends a hint to the other processes once this transaction has committed.
    fn announce(&mut self, hint: Hint) -> Result<(), StoreError>;

    /// Appends to the attempt log.
    fn insert_attempts(&mut self, rows: &[AttemptRow]) -> Result<(), StoreError>;

    /// Locks events and their deliveries until the end of this transaction: no delivery of them is
    /// created or changed meanwhile.
    fn lock_events(&mut self, seqs: &[i64]) -> Result<(), StoreError>;

    /// Returns some of the pages that deleted rows have freed to the file system.
    fn return_free_pages(&mut self) -> Result<(), StoreError>;
}
