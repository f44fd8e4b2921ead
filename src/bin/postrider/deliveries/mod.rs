//! `postrider deliveries`: what became of events.

mod tail;

use clap::Subcommand;
use reqwest::Method;
use serde_json::Value;

use self::tail::Tail;
use crate::api::{Client, Parameter, segment};
use crate::look::{Listing, Look, Span};
use crate::output::{Failure, card, print, text};

#[derive(Debug, Subcommand)]
pub(crate) enum Deliveries {
    /// List deliveries, newest first.
    List(List),
    /// Show one delivery with its attempts.
    Show(Show),
    /// Follow deliveries as they end.
    Tail(Tail),
    /// Send a failed, delivered or held delivery again.
    Retry(One),
    /// Give a waiting delivery up.
    Cancel(One),
    /// Lift a delivery's hold, or let those behind a failed one in its ordering key go on.
    Release(One),
}

/// Which deliveries.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Filter {
    /// Only to this endpoint
    #[arg(long, value_name = "ID")]
    endpoint: Option<String>,
    /// Only of this event
    #[arg(long, value_name = "ID")]
    event: Option<String>,
    /// Only this tenant's
    #[arg(long)]
    tenant: Option<String>,
}

impl Filter {
    fn parameters(self) -> [Parameter; 3] {
        [
            ("endpoint_id", self.endpoint),
            ("event_id", self.event),
            ("tenant", self.tenant),
        ]
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    #[command(flatten)]
    filter: Filter,
    /// Only pending, sending, delivered or failed ones
    #[arg(long)]
    status: Option<String>,
    #[command(flatten)]
    span: Span,
    #[command(flatten)]
    listing: Listing,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// The delivery's id, dlv_…
    id: String,
    #[command(flatten)]
    look: Look,
}

#[derive(Debug, clap::Args)]
pub(crate) struct One {
    /// The delivery's id, dlv_…
    id: String,
    #[command(flatten)]
    client: Client,
}

impl Deliveries {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        match self {
            Self::List(list) => list.run().await,
            Self::Show(show) => show.look.show(&path_of(&show.id, ""), shown).await,
            Self::Tail(tail) => tail.run().await,
            Self::Retry(one) => one.run("/retry").await,
            Self::Cancel(one) => one.run("/cancel").await,
            Self::Release(one) => one.run("/release").await,
        }
    }
}

fn path_of(id: &str, below: &str) -> String {
    format!("/deliveries/{}{below}", segment(id))
}

impl List {
    async fn run(self) -> Result<(), Failure> {
        let mut filters = self.filter.parameters().to_vec();
        filters.push(("status", self.status));
        filters.extend(self.span.parameters());
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

impl One {
    async fn run(self, action: &str) -> Result<(), Failure> {
        let answer = self
            .client
            .call(Method::POST, &path_of(&self.id, action), None)
            .await?;
        print(&answer, self.client.json, shown);
        Ok(())
    }
}

fn shown(delivery: &Value) -> String {
    let mut lines = vec![card(
        delivery,
        &[
            ("id", "id"),
            ("event", "event_id"),
            ("type", "event_type"),
            ("tenant", "tenant"),
            ("endpoint", "endpoint_id"),
            ("status", "status"),
            ("failed by", "failure_reason"),
            ("held by", "hold_reason"),
            ("waits for", "waiting_for"),
            ("next attempt", "next_attempt_at"),
            ("delivered", "delivered_at"),
            ("attempts", "attempt_count"),
        ],
    )];
    for attempt in delivery["attempts"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default()
    {
        let number = match text(attempt, "number") {
            number if number.is_empty() => "-".to_owned(),
            number => number,
        };
        let answer = [text(attempt, "status_code"), text(attempt, "error")].join(" ");
        let took = attempt["duration_ms"].as_f64().unwrap_or_default();
        lines.push(format!(
            "  {number}. {}  {}  {took:.0} ms  {}",
            text(attempt, "started_at"),
            text(attempt, "outcome"),
            answer.trim()
        ));
    }
    lines.join("\n")
}
