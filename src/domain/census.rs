//! Totals over the whole database at one moment: the backlog, and the health of the endpoints.

use std::collections::BTreeMap;

use super::breaker::BreakerState;
use super::clock::Timestamp;
use super::endpoint::PauseReason;

/// One count of the database, the same for every process that counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Census {
    /// Pending deliveries, counted up to a million.
    pub waiting: u64,
    /// Publishing time of the oldest of them.
    pub oldest_waiting_at: Option<Timestamp>,
    /// Pending deliveries on hold until a person releases them.
    pub held: u64,
    /// Endpoints by pause reason; `None`: not paused.
    pub endpoints: BTreeMap<Option<PauseReason>, u64>,
    /// Breaker states of the endpoints that are not paused.
    pub breakers: BTreeMap<BreakerState, u64>,
}
