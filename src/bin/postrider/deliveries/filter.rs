//! Filters of deliveries.

use crate::api::Parameter;

/// Filters shared by `list` and `tail`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct FilterArgs {
    /// Only deliveries to this endpoint
    #[arg(long, value_name = "ID")]
    pub(super) endpoint: Option<String>,
    /// Only deliveries of this event
    #[arg(long, value_name = "ID")]
    pub(super) event: Option<String>,
    /// Only this tenant
    #[arg(long)]
    pub(super) tenant: Option<String>,
}

impl FilterArgs {
    pub(super) fn parameters(self) -> [Parameter; 3] {
        [
            ("endpoint_id", self.endpoint),
            ("event_id", self.event),
            ("tenant", self.tenant),
        ]
    }
}
