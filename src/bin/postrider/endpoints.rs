//! `postrider endpoints`: managing endpoints.

mod action;
mod change;
mod fields;
mod format;
pub(crate) mod path;
mod secret;
mod stats;

use clap::Subcommand;
use reqwest::Method;

use self::action::EndpointAction;
use self::change::{AddEndpoint, SetEndpoint};
use self::format::{format_endpoint, format_test};
use self::path::path_of;
use self::secret::SecretCommand;
use self::stats::StatsArgs;
use crate::output::CommandError;
use crate::recoveries::RecoverEndpoint;
use crate::show::{Listing, View};

#[derive(Debug, Subcommand)]
pub(crate) enum EndpointsCommand {
    /// Add an endpoint and print its signing secret.
    Add(Box<AddEndpoint>),
    /// List endpoints, newest first.
    List(ListEndpoints),
    /// Show an endpoint.
    Show(ShowEndpoint),
    /// Update the given settings of an endpoint.
    #[command(visible_alias = "edit")]
    Set(Box<SetEndpoint>),
    /// Pause an endpoint; its deliveries stay pending.
    Pause(EndpointAction),
    /// Resume an endpoint.
    Resume(EndpointAction),
    /// Show or rotate an endpoint's signing secret.
    #[command(subcommand)]
    Secret(SecretCommand),
    /// Send a `postrider.test` event to this endpoint only.
    Test(EndpointAction),
    /// Show recent delivery statistics of an endpoint.
    Stats(StatsArgs),
    /// Resend deliveries an endpoint missed in a time range, and wait until all are queued.
    Recover(RecoverEndpoint),
    /// Delete an endpoint (its pending deliveries fail).
    #[command(visible_alias = "delete")]
    Rm(EndpointAction),
}

#[derive(Debug, clap::Args)]
pub(crate) struct ListEndpoints {
    /// Only this tenant
    #[arg(long)]
    tenant: Option<String>,
    /// Only this status: active or paused
    #[arg(long)]
    status: Option<String>,
    /// Only endpoints with this text in their URL or description
    #[arg(long, value_name = "TEXT")]
    search: Option<String>,
    #[command(flatten)]
    listing: Listing,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ShowEndpoint {
    /// Endpoint id (ep_…)
    id: String,
    #[command(flatten)]
    view: View,
}

impl EndpointsCommand {
    pub(crate) async fn run(self) -> Result<(), CommandError> {
        match self {
            Self::Add(add) => add.run().await,
            Self::List(list) => list.run().await,
            Self::Show(show) => {
                let path = path_of(&show.id, "");
                show.view.show(&path, format_endpoint).await
            }
            Self::Set(set) => set.run().await,
            Self::Pause(pause) => pause.run(Method::POST, "/pause", format_endpoint).await,
            Self::Resume(resume) => resume.run(Method::POST, "/resume", format_endpoint).await,
            Self::Secret(secret) => secret.run().await,
            Self::Test(test) => test.run(Method::POST, "/test", format_test).await,
            Self::Stats(stats) => stats.run().await,
            Self::Recover(recover) => recover.run().await,
            Self::Rm(rm) => {
                let result = format!("endpoint {} has been deleted", rm.id);
                rm.run(Method::DELETE, "", |_| result).await
            }
        }
    }
}

impl ListEndpoints {
    async fn run(self) -> Result<(), CommandError> {
        let filters = [
            ("tenant", self.tenant),
            ("status", self.status),
            ("search", self.search),
        ];
        let columns = [
            ("ID", "id"),
            ("STATUS", "status"),
            ("WAITING", "health.pending"),
            ("FAILURES", "health.consecutive_failures"),
            ("BREAKER", "health.breaker"),
            ("LIMIT", "rate_limit"),
            ("URL", "url"),
        ];
        self.listing.show("/endpoints", &filters, &columns).await
    }
}
