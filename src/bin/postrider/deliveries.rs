//! `postrider deliveries`: deliveries and their attempts.

mod filter;
mod tail;

use clap::Subcommand;
use reqwest::Method;
use serde_json::Value;

use self::filter::FilterArgs;
use self::tail::TailDeliveries;
use crate::api::{ClientArgs, segment};
use crate::output::{CommandError, items, key_value_lines, print, text};
use crate::show::{Listing, TimeRange, View};

#[derive(Debug, Subcommand)]
pub(crate) enum DeliveriesCommand {
    /// List deliveries, newest first.
    List(ListDeliveries),
    /// Show a delivery with its attempts.
    Show(ShowDelivery),
    /// Follow deliveries as they finish.
    Tail(TailDeliveries),
    /// Retry a failed, delivered or held delivery now.
    Retry(DeliveryAction),
    /// Cancel a pending delivery.
    Cancel(DeliveryAction),
    /// Release a held delivery, or unblock deliveries behind a failed one with the same ordering
    /// key.
    Release(DeliveryAction),
}

#[derive(Debug, clap::Args)]
pub(crate) struct ListDeliveries {
    #[command(flatten)]
    filter: FilterArgs,
    /// Only this status: pending, sending, delivered or failed
    #[arg(long)]
    status: Option<String>,
    #[command(flatten)]
    range: TimeRange,
    #[command(flatten)]
    listing: Listing,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ShowDelivery {
    /// Delivery id (dlv_…)
    id: String,
    #[command(flatten)]
    view: View,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DeliveryAction {
    /// Delivery id (dlv_…)
    id: String,
    #[command(flatten)]
    client: ClientArgs,
}

impl DeliveriesCommand {
    pub(crate) async fn run(self) -> Result<(), CommandError> {
        match self {
            Self::List(list) => list.run().await,
            Self::Show(show) => {
                let path = path_of(&show.id, "");
                show.view.show(&path, format_delivery).await
            }
            Self::Tail(tail) => tail.run().await,
            Self::Retry(retry) => retry.run("/retry").await,
            Self::Cancel(cancel) => cancel.run("/cancel").await,
            Self::Release(release) => release.run("/release").await,
        }
    }
}

fn path_of(id: &str, below: &str) -> String {
    format!("/deliveries/{}{below}", segment(id))
}

impl ListDeliveries {
    async fn run(self) -> Result<(), CommandError> {
        let mut filters = self.filter.parameters().to_vec();
        filters.push(("status", self.status));
        filters.extend(self.range.parameters());
        let columns = [
            ("ID", "id"),
            ("STATUS", "status"),
            ("ATTEMPTS", "attempt_count"),
            ("NEXT", "next_attempt_at"),
            ("TYPE", "event_type"),
            ("EVENT", "event_id"),
            ("ENDPOINT", "endpoint_id"),
        ];
        self.listing.show("/deliveries", &filters, &columns).await
    }
}

impl DeliveryAction {
    async fn run(self, action: &str) -> Result<(), CommandError> {
        let answer = self
            .client
            .call(Method::POST, &path_of(&self.id, action), None)
            .await?;
        print(&answer, self.client.json, format_delivery);
        Ok(())
    }
}

fn format_delivery(delivery: &Value) -> String {
    let fields = [
        ("id", "id"),
        ("event", "event_id"),
        ("type", "event_type"),
        ("tenant", "tenant"),
        ("endpoint", "endpoint_id"),
        ("status", "status"),
        ("failure reason", "failure_reason"),
        ("hold reason", "hold_reason"),
        ("waits for", "waiting_for"),
        ("next attempt", "next_attempt_at"),
        ("delivered", "delivered_at"),
        ("attempts", "attempt_count"),
    ];
    let mut lines = vec![key_value_lines(delivery, &fields)];
    lines.extend(items(delivery, "attempts").iter().map(format_attempt));
    lines.join("\n")
}

fn format_attempt(attempt: &Value) -> String {
    // Interrupted attempts have no number.
    let number = match text(attempt, "number") {
        number if number.is_empty() => "-".to_owned(),
        number => number,
    };
    let result = [text(attempt, "status_code"), text(attempt, "error")].join(" ");
    let duration_ms = attempt["duration_ms"].as_f64().unwrap_or_default();
    format!(
        "  {number}. {}  {}  {duration_ms:.0} ms  {}",
        text(attempt, "started_at"),
        text(attempt, "outcome"),
        result.trim()
    )
}
