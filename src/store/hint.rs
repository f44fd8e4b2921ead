//! Hints between the processes that share a database. A hint may be lost; the poll finds the work.

use crate::domain::ids::EndpointId;

/// A message from one process to the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Hint {
    /// Something is due at these endpoints.
    Due(Vec<EndpointId>),
    /// Endpoints or tokens were changed.
    Changed,
    /// Shards are free.
    Leases,
}
