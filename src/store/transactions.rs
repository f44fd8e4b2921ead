//! What each database does in its own way: everything that is a transaction, or that many rows in one
//! statement make cheap. The conformance suite (`tests/it/store`) holds all of them to the same answers.

use std::sync::Arc;

use super::group::{Claim, Outcome, Publish, Recorded, Wake};
use super::query::{Retire, Retired};
use super::writer::Scope;
use super::{AnyConnection, StoreError};
use crate::domain::clock::Timestamp;
use crate::domain::delivery::{Claimed, Finished};
use crate::domain::endpoint::Endpoint;
use crate::domain::ids::EndpointId;

/// The endpoints of one tenant, as they stand in the transaction.
pub(super) type Endpoints = Arc<[Arc<Endpoint>]>;

/// Events to store, all or none, each with the endpoints of its tenant.
pub(super) struct Publishing<'a> {
    pub(super) publish: &'a Publish,
    pub(super) endpoints: Vec<Endpoints>,
}

/// An outcome to write, and its endpoint as it stands; `None` once that has been deleted.
pub(super) struct Recording<'a> {
    pub(super) finished: &'a Finished,
    pub(super) endpoint: Option<Arc<Endpoint>>,
}

/// Every function but the first three works inside the transaction that `begin` began.
pub(super) trait Transactions {
    /// Begins a transaction that may write.
    fn begin(&mut self) -> Result<(), StoreError>;

    /// Makes it durable.
    fn commit(&mut self) -> Result<(), StoreError>;

    /// Forgets it.
    fn rollback(&mut self) -> Result<(), StoreError>;

    /// Stores events with their deliveries; one member's refusal is none of another's.
    fn publish(
        &mut self,
        members: &[Publishing<'_>],
        wakes: &mut Vec<Wake>,
    ) -> Result<Vec<Outcome>, StoreError>;

    /// Makes due deliveries `sending`. Those that are so no more are passed over.
    fn claim(&mut self, claims: &[&Claim]) -> Result<Vec<Vec<Claimed>>, StoreError>;

    /// Writes outcomes: state, attempt row, next attempt and the endpoint's health.
    fn record(&mut self, outcomes: &[Recording<'_>]) -> Result<Vec<Recorded>, StoreError>;

    /// Takes back what a dead owner left `sending`. Returns how many there were.
    fn interrupt(
        &mut self,
        scope: &Scope,
        at: Timestamp,
        counts: bool,
        why: &str,
    ) -> Result<usize, StoreError>;

    /// Logs one claim as interrupted. False if it had been taken away already.
    fn interrupt_claim(
        &mut self,
        endpoint_id: &EndpointId,
        claimed: &Claimed,
        at: Timestamp,
        counts: bool,
        why: &str,
    ) -> Result<bool, StoreError>;

    /// Lets claims go that were never started: no attempt row, no retry, no interruption.
    fn release(&mut self, claims: &[Claimed], at: Timestamp) -> Result<(), StoreError>;

    /// Raises the stored boot counter and returns it.
    fn raise_epoch(&mut self) -> Result<i64, StoreError>;

    /// Removes events whose deliveries have all ended, oldest first, with all that belongs to them.
    fn retire(&mut self, batch: &Retire) -> Result<Retired, StoreError>;
}

impl AnyConnection {
    /// The database's own way.
    pub(super) fn own(&mut self) -> &mut dyn Transactions {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(conn) => conn,
        }
    }
}
