//! Recoveries: everything that an endpoint has not got in a span of time is sent (again), after an
//! outage of its receiver or a mistake.

use super::clock::Timestamp;
use super::ids::{EndpointId, RecoveryId, Tenant};
use super::words;

words! {
    /// What a recovery brings back.
    Include {
        /// Deliveries that were given up, but for those that a person cancelled, or that had
        /// arrived before.
        Failed = "failed",
        /// Events that the endpoint never got, and wants now.
        Missing = "missing",
        /// Both.
        All = "all",
    }
}

words! {
    /// How far a recovery is.
    Progress {
        /// It goes on in the background.
        Running = "running",
        /// All of its span has been looked at.
        Done = "done",
    }
}

impl Include {
    /// Whether deliveries that were given up are brought back.
    #[must_use]
    pub const fn failed(self) -> bool {
        matches!(self, Self::Failed | Self::All)
    }

    /// Whether events without a delivery get one.
    #[must_use]
    pub const fn missing(self) -> bool {
        matches!(self, Self::Missing | Self::All)
    }
}

/// A recovery and what has come of it so far.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Recovery {
    /// Its id.
    pub id: RecoveryId,
    /// Whose deliveries are brought back.
    pub endpoint_id: EndpointId,
    /// Whose endpoint it is.
    pub tenant: Tenant,
    /// What is brought back.
    pub include: Include,
    /// From this time on.
    pub since: Timestamp,
    /// Before this time.
    pub until: Timestamp,
    /// How far it is.
    #[serde(rename = "status")]
    pub progress: Progress,
    /// How many were found.
    pub matched: u64,
    /// How many of them wait to be sent now. (Somebody else may have been faster with the others.)
    pub requeued: u64,
    /// When it was asked for.
    pub created_at: Timestamp,
}
