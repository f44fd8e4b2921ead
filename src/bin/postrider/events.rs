//! `postrider events`: what was published.

use clap::Subcommand;
use serde_json::Value;

use crate::api::{Client, Page, query, segment};
use crate::input;
use crate::output::{Failure, card, table, tabulated};
use crate::watch::Watch;

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
    /// Published from this time on, or so long ago, such as 2h
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Published before this time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    #[command(flatten)]
    page: Page,
    #[command(flatten)]
    watch: Watch,
    #[command(flatten)]
    client: Client,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// The event's id
    id: String,
    /// Whose event it is [default: default]
    #[arg(long)]
    tenant: Option<String>,
    #[command(flatten)]
    watch: Watch,
    #[command(flatten)]
    client: Client,
}

impl Events {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        match self {
            Self::List(list) => list.run().await,
            Self::Show(show) => {
                let path = format!("/events/{}", segment(&show.id));
                let path = query(&path, &[("tenant", show.tenant)]);
                show.watch.show(&show.client, &path, shown).await
            }
        }
    }
}

impl List {
    async fn run(self) -> Result<(), Failure> {
        let filters = [
            ("type", self.event_type),
            ("tenant", self.tenant),
            ("since", self.since.as_deref().map(input::time)),
            ("until", self.until.as_deref().map(input::time)),
        ];
        let columns = [
            ("ID", "id"),
            ("TYPE", "type"),
            ("TENANT", "tenant"),
            ("KEY", "ordering_key"),
            ("PUBLISHED", "created_at"),
        ];
        let path = self.page.of("/events", &filters);
        self.watch.show(&self.client, &path, |answer| table(answer, &columns)).await
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
    let deliveries = event["deliveries"].as_array().map(Vec::as_slice).unwrap_or_default();
    let below = match deliveries {
        [] => "no endpoint wanted it".to_owned(),
        some => tabulated(some, &columns),
    };
    format!("{}\n\n{below}", card(event, &fields))
}
