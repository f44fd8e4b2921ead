//! `postrider deliveries`: what became of events.

use clap::Subcommand;
use reqwest::Method;
use serde_json::Value;

use crate::api::{Client, Page, segment};
use crate::output::{Failure, card, print, table, text};

#[derive(Debug, Subcommand)]
pub(crate) enum Deliveries {
    /// List deliveries, newest first.
    List(List),
    /// Show one delivery with its attempts.
    Show(One),
    /// Send a failed, delivered or held delivery again.
    Retry(One),
}

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Only to this endpoint
    #[arg(long, value_name = "ID")]
    endpoint: Option<String>,
    /// Only of this event
    #[arg(long, value_name = "ID")]
    event: Option<String>,
    /// Only this tenant's
    #[arg(long)]
    tenant: Option<String>,
    /// Only pending, sending, delivered or failed ones
    #[arg(long)]
    status: Option<String>,
    #[command(flatten)]
    page: Page,
    #[command(flatten)]
    client: Client,
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
            Self::Show(one) => one.run(Method::GET, "").await,
            Self::Retry(one) => one.run(Method::POST, "/retry").await,
        }
    }
}

impl List {
    async fn run(self) -> Result<(), Failure> {
        let path = self.page.of(
            "/deliveries",
            &[
                ("endpoint_id", self.endpoint),
                ("event_id", self.event),
                ("tenant", self.tenant),
                ("status", self.status),
            ],
        );
        let answer = self.client.call(Method::GET, &path, None).await?;
        let columns = [
            ("ID", "id"),
            ("STATUS", "status"),
            ("ATTEMPTS", "attempt_count"),
            ("NEXT", "next_attempt_at"),
            ("TYPE", "event_type"),
            ("EVENT", "event_id"),
            ("ENDPOINT", "endpoint_id"),
        ];
        print(&answer, self.client.json, |answer| table(answer, &columns));
        Ok(())
    }
}

impl One {
    async fn run(self, method: Method, action: &str) -> Result<(), Failure> {
        let path = format!("/deliveries/{}{action}", segment(&self.id));
        let answer = self.client.call(method, &path, None).await?;
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
            ("endpoint", "endpoint_id"),
            ("status", "status"),
            ("failed by", "failure_reason"),
            ("waits for", "waiting_for"),
            ("next attempt", "next_attempt_at"),
            ("delivered", "delivered_at"),
            ("attempts", "attempt_count"),
        ],
    )];
    for attempt in delivery["attempts"].as_array().map(Vec::as_slice).unwrap_or_default() {
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
