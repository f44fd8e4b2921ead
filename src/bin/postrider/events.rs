//! `postrider events`: what was published.

use clap::Subcommand;
use serde_json::Value;

use crate::api::{query, segment};
use crate::look::{Listing, Look, Span};
use crate::output::{Failure, card, tabulated};

#[derive(Debug, Subcommand)]
pub(crate) enum Events {
    /// List events, newest first.
    List(List),
    /// Show one event with its body and its deliveries.
    Show(Show),
}

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Only of this type
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// Only this tenant's
    #[arg(long)]
    tenant: Option<String>,
    #[command(flatten)]
    span: Span,
    #[command(flatten)]
    listing: Listing,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// The event's id
    id: String,
    /// Whose event it is [default: default]
    #[arg(long)]
    tenant: Option<String>,
    #[command(flatten)]
    look: Look,
}

impl Events {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        match self {
            Self::List(list) => list.run().await,
            Self::Show(show) => {
                let path = format!("/events/{}", segment(&show.id));
                let path = query(&path, &[("tenant", show.tenant)]);
                show.look.show(&path, shown).await
            }
        }
    }
}

impl List {
    async fn run(self) -> Result<(), Failure> {
        let [since, until] = self.span.parameters();
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

fn shown(event: &Value) -> String {
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
    let deliveries = event["deliveries"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let below = match deliveries {
        [] => "no endpoint wanted it".to_owned(),
        some => tabulated(some, &columns),
    };
    format!("{}\n\n{below}", card(event, &fields))
}
