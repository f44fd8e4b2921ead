//! Recoveries: resend everything that an endpoint missed in a span of time, after an outage of its
//! receiver or a mistake.

use super::clock::Timestamp;
use super::ids::{EndpointId, RecoveryId, Tenant};
use super::words;

words! {
    /// The deliveries that a recovery sends.
    Include {
        /// Failed deliveries, except those that were cancelled or had been delivered before.
        Failed = "failed",
        /// Events without a delivery to the endpoint that its filters accept now.
        Missing = "missing",
        /// Both.
        All = "all",
    }
}

words! {
    /// Progress of a recovery.
    Progress {
        /// Running in the background.
        Running = "running",
        /// The whole span has been processed.
        Done = "done",
    }
}

impl Include {
    /// Returns whether failed deliveries are sent again.
    #[must_use]
    pub const fn failed(self) -> bool {
        matches!(self, Self::Failed | Self::All)
    }

    /// Returns whether events without a delivery get one.
    #[must_use]
    pub const fn missing(self) -> bool {
        matches!(self, Self::Missing | Self::All)
    }
}

/// A recovery and its progress.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovery {
    /// Recovery id.
    pub id: RecoveryId,
    /// Endpoint whose deliveries are sent.
    pub endpoint_id: EndpointId,
    /// Owning tenant of the endpoint.
    pub tenant: Tenant,
    /// The deliveries to send.
    pub include: Include,
    /// Start of the span, inclusive.
    pub since: Timestamp,
    /// End of the span, exclusive.
    pub until: Timestamp,
    /// Current progress.
    pub progress: Progress,
    /// Number of matching deliveries.
    pub matched: u64,
    /// Number of those that it queued; others may have been retried in the meantime.
    pub requeued: u64,
    /// Time of the request.
    pub created_at: Timestamp,
}
