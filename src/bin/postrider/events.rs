//! `postrider events`: published events.

use clap::Subcommand;
use serde_json::Value;

use crate::api::{query, segment};
use crate::output::{CommandError, items, key_value_lines, tabulated};
use crate::show::{Listing, TimeRange, View};

#[derive(Debug, Subcommand)]
pub(crate) enum EventsCommand {
    /// List events, newest first.
    List(ListEvents),
    /// Show an event with its body and its deliveries.
    Show(ShowEvent),
}

#[derive(Debug, clap::Args)]
pub(crate) struct ListEvents {
    /// Only this event type
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// Only this tenant
    #[arg(long)]
    tenant: Option<String>,
    #[command(flatten)]
    range: TimeRange,
    #[command(flatten)]
    listing: Listing,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ShowEvent {
    /// Event id
    id: String,
    /// Tenant of the event [default: default]
    #[arg(long)]
    tenant: Option<String>,
    #[command(flatten)]
    view: View,
}

impl EventsCommand {
    pub(crate) async fn run(self) -> Result<(), CommandError> {
        match self {
            Self::List(list) => list.run().await,
            Self::Show(show) => {
                let path = format!("/events/{}", segment(&show.id));
                let path = query(&path, &[("tenant", show.tenant)]);
                show.view.show(&path, format_event).await
            }
        }
    }
}

impl ListEvents {
    async fn run(self) -> Result<(), CommandError> {
        let [since, until] = self.range.parameters();
        let filters = [
            ("type", self.event_type),
            ("tenant", self.tenant),
            since,
            until,
        ];
        let columns = [
            ("ID", "id"),
            ("TYPE", "type"),
            ("TENANT", "tenant"),
            ("KEY", "ordering_key"),
            ("PUBLISHED", "created_at"),
        ];
        self.listing.show("/events", &filters, &columns).await
    }
}

fn format_event(event: &Value) -> String {
    let fields = [
        ("id", "id"),
        ("type", "type"),
        ("tenant", "tenant"),
        ("ordering key", "ordering_key"),
        ("published", "created_at"),
        ("content type", "content_type"),
        ("body", "body"),
        ("body (base64)", "body_base64"),
    ];
    let columns = [
        ("DELIVERY", "id"),
        ("STATUS", "status"),
        ("ATTEMPTS", "attempt_count"),
        ("NEXT", "next_attempt_at"),
        ("ENDPOINT", "endpoint_id"),
    ];
    let deliveries = match items(event, "deliveries") {
        [] => "no deliveries: no endpoint was subscribed to this event type".to_owned(),
        some => tabulated(some, &columns),
    };
    format!("{}\n\n{deliveries}", key_value_lines(event, &fields))
}
