//! What each database does in its own way: everything that is a transaction, or that many rows in
//! one statement make cheap. The conformance suite (`tests/it/store`) holds all of them to the same
//! answers.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use super::group::{Claim, OrderingKey, Outcome, Publish, Target};
use super::query::{Aged, Retire, Retired};
use super::rows::{AttemptRow, EventRow};
use super::{AnyConnection, StoreError};
use crate::domain::clock::Timestamp;
use crate::domain::delivery::{Claimed, Queued, Seen};
use crate::domain::event::SealedEvent;
use crate::domain::ids::{DeliveryId, EndpointId, InstanceId};
use crate::domain::lease::Lease;
use crate::domain::lifecycle::{self, Cause, Life};

/// Whom an event goes to, as the endpoints stand in the transaction.
pub(super) type Targets = Arc<[Arc<Target>]>;

/// A delivery that was just made, of which nobody knows yet.
pub(super) type Made = (EndpointId, Queued);

/// A delivery as its publishing leaves it.
pub(super) fn just_made(id: DeliveryId, event: &Arc<SealedEvent>) -> Queued {
    let life = Life::published(event.created_at, event.ordering_key.is_some());
    let seen = Seen { claim_no: 0, life };
    Queued {
        id,
        due: event.created_at,
        event: Arc::clone(event),
        seen,
    }
}

/// Events to store, all or none, each with those whom it goes to.
pub(super) struct Publishing<'a> {
    pub(super) publish: &'a Publish,
    pub(super) targets: Vec<Targets>,
}

/// A claim that ends, and what the lifecycle has made of its delivery.
pub(super) struct Leaving<'a> {
    pub(super) claimed: &'a Claimed,
    pub(super) life: Life,
    pub(super) at: Timestamp,
}

impl<'a> Leaving<'a> {
    /// `None` where the lifecycle does not allow it. (A claim that is held is `sending` by
    /// construction; only its row may disagree.)
    pub(super) fn by(claimed: &'a Claimed, cause: &Cause<'_>, at: Timestamp) -> Option<Self> {
        Some(Self {
            claimed,
            life: lifecycle::next(&claimed.life, cause).ok()?,
            at,
        })
    }
}

/// Who takes shards over, and until when.
pub(super) struct Taking<'a> {
    pub(super) holder: &'a InstanceId,
    /// Former holders that are known to have ended.
    pub(super) gone: &'a [InstanceId],
    pub(super) now: Timestamp,
    pub(super) until: Timestamp,
}

/// Every function but the first four works inside the transaction that `begin` began.
pub(super) trait Transactions {
    /// Begins a transaction that may write.
    fn begin(&mut self) -> Result<(), StoreError>;

    /// Begins one that may stand inside another one: then it is a savepoint of that.
    fn begin_within(&mut self) -> Result<(), StoreError>;

    /// Makes it durable. Of a savepoint, a part of what it stands in.
    fn commit(&mut self) -> Result<(), StoreError>;

    /// Forgets it.
    fn rollback(&mut self) -> Result<(), StoreError>;

    /// Stores events with their deliveries; one member's refusal is none of another's.
    fn publish(
        &mut self,
        members: &[Publishing<'_>],
        made: &mut Vec<Made>,
    ) -> Result<Vec<Outcome>, StoreError>;

    /// The database's own time of day; `None` where it is a file and has none.
    fn time(&mut self) -> Result<Option<Timestamp>, StoreError>;

    /// Those of the leases that stand, and that nobody can take over before this transaction has
    /// ended.
    fn hold(&mut self, leases: &HashSet<Lease>) -> Result<HashSet<Lease>, StoreError>;

    /// Takes shards over, as far as they are free, have run out by `now`, or belong to one of
    /// `gone`, and nobody is at work in them right now. Raises their epochs.
    fn take_shards(&mut self, wanted: &[Lease], by: &Taking<'_>) -> Result<Vec<Lease>, StoreError>;

    /// Reads a delivery before it is changed: nobody else changes it before this transaction has
    /// ended.
    fn lock_delivery(&mut self, id: &DeliveryId) -> Result<(), StoreError>;

    /// The same for an endpoint.
    fn lock_endpoint(&mut self, id: &EndpointId) -> Result<(), StoreError>;

    /// Waits until nobody else is publishing under these ordering keys; nobody does before this
    /// transaction has ended. Its events come after all that were published under them before.
    fn wait_for_keys(&mut self, keys: &BTreeSet<OrderingKey<'_>>) -> Result<(), StoreError>;

    /// The same without waiting: those of the keys that could be had.
    fn try_keys<'k>(
        &mut self,
        keys: BTreeSet<OrderingKey<'k>>,
    ) -> Result<BTreeSet<OrderingKey<'k>>, StoreError>;

    /// Whether a delivery has its place in line, and keeps it until this transaction has ended.
    /// False also where somebody is changing it.
    fn keep_in_line(&mut self, id: &DeliveryId) -> Result<bool, StoreError>;

    /// Makes due deliveries `sending`. Those that are so no more are passed over.
    fn claim(&mut self, claims: &[&Claim]) -> Result<Vec<Vec<Claimed>>, StoreError>;

    /// Ends claims, as far as they still stand: `sending`, of this epoch, of this number. Says of
    /// each whether it did; of the others nothing is written.
    fn leave_sending(&mut self, leaving: &[Leaving<'_>]) -> Result<Vec<bool>, StoreError>;

    /// Stored events by their places in the order of publishing; those that are gone are left out.
    fn events(&mut self, seqs: &[i64]) -> Result<Vec<EventRow>, StoreError>;

    /// Stores a key of the database's own, unless there is one of that name.
    fn insert_key(&mut self, name: &str, key: &str, at: Timestamp) -> Result<(), StoreError>;

    /// Whether an index is sought by both halves of a pair that is compared with `>`.
    fn pairs_seek(&self) -> bool;

    /// Appends to the attempt log.
    fn insert_attempts(&mut self, rows: &[AttemptRow]) -> Result<(), StoreError>;

    /// Removes those of the outdated events whose deliveries have all ended, oldest first, with all
    /// that belongs to them.
    fn retire(&mut self, batch: &Retire, aged: Aged) -> Result<Retired, StoreError>;
}

impl AnyConnection {
    /// The database's own way.
    pub(super) fn own(&mut self) -> &mut dyn Transactions {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(conn) => conn,
            #[cfg(feature = "postgres")]
            Self::Postgres(conn) => conn,
        }
    }
}
