//! What there is in a whole database at one moment: how much waits, and how the endpoints are
//! doing.

use std::collections::BTreeMap;

use super::breaker::BreakerState;
use super::clock::Timestamp;
use super::endpoint::PauseReason;

/// One count of it. Whichever process counts, it comes to the same.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Census {
    /// Deliveries that wait. The count stops at a million.
    pub waiting: u64,
    /// When the oldest of them was published.
    pub oldest_waiting_at: Option<Timestamp>,
    /// Those of them that wait for a person.
    pub held: u64,
    /// Endpoints, by why they are paused; `None`: they are not.
    pub endpoints: BTreeMap<Option<PauseReason>, u64>,
    /// Breakers of the endpoints that are not paused.
    pub breakers: BTreeMap<BreakerState, u64>,
}
