//! `postrider endpoints`: where webhooks go.

use clap::Subcommand;
use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::api::{Client, Page, segment};
use crate::output::{Failure, card, print, table, text};

#[derive(Debug, Subcommand)]
pub(crate) enum Endpoints {
    /// Add an endpoint; its secret is printed.
    Add(Add),
    /// List endpoints, newest first.
    List(List),
    /// Show one endpoint.
    Show(One),
    /// Stop sending to an endpoint; everything for it waits.
    Pause(One),
    /// Go on sending to an endpoint.
    Resume(One),
    /// Send (again) what an endpoint has not got in a span of time, and wait until all of it is queued.
    Recover(Recover),
    /// Delete an endpoint; what waits for it fails.
    #[command(visible_alias = "delete")]
    Rm(One),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Add {
    /// Where webhooks go
    url: String,
    /// Whose endpoint it is [default: default]
    #[arg(long)]
    tenant: Option<String>,
    /// For people
    #[arg(long)]
    description: Option<String>,
    /// Only these event types, or prefixes and `.*` (comma-separated) [default: all]
    #[arg(long, value_delimiter = ',', value_name = "TYPES")]
    event_types: Option<Vec<String>>,
    /// Attempt starts, such as 100/min or unlimited
    #[arg(long)]
    rate_limit: Option<String>,
    /// Attempts in flight
    #[arg(long)]
    concurrency: Option<u32>,
    /// One request in all, in milliseconds
    #[arg(long)]
    timeout_ms: Option<u64>,
    /// Delays between attempts in seconds, comma-separated
    #[arg(long, value_delimiter = ',', value_name = "SECONDS")]
    retry_delays_s: Option<Vec<u32>>,
    /// `key`: events that share an ordering key arrive in order, one at a time [default: none]
    #[arg(long)]
    ordering: Option<String>,
    /// What a failed one means to those behind it in its key: `block` or `skip` [default: block]
    #[arg(long)]
    on_failed: Option<String>,
    #[command(flatten)]
    client: Client,
}

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Only this tenant's
    #[arg(long)]
    tenant: Option<String>,
    /// Only those that are active, or paused
    #[arg(long)]
    status: Option<String>,
    #[command(flatten)]
    page: Page,
    #[command(flatten)]
    client: Client,
}

#[derive(Debug, clap::Args)]
pub(crate) struct One {
    /// The endpoint's id, ep_…
    id: String,
    #[command(flatten)]
    client: Client,
}

impl Endpoints {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        match self {
            Self::Add(add) => add.run().await,
            Self::List(list) => list.run().await,
            Self::Show(one) => one.run(Method::GET, "").await,
            Self::Pause(one) => one.run(Method::POST, "/pause").await,
            Self::Resume(one) => one.run(Method::POST, "/resume").await,
            Self::Recover(recover) => recover.run().await,
            Self::Rm(one) => {
                let path = format!("/endpoints/{}", segment(&one.id));
                let answer = one.client.call(Method::DELETE, &path, None).await?;
                print(&answer, one.client.json, |_| format!("endpoint {} is deleted", one.id));
                Ok(())
            }
        }
    }
}

impl Add {
    async fn run(self) -> Result<(), Failure> {
        let mut body = Map::new();
        body.insert("url".into(), json!(self.url));
        let given = [
            ("tenant", json!(self.tenant)),
            ("description", json!(self.description)),
            ("event_types", json!(self.event_types)),
            ("rate_limit", json!(self.rate_limit)),
            ("concurrency", json!(self.concurrency)),
            ("timeout_ms", json!(self.timeout_ms)),
            ("retry_delays_s", json!(self.retry_delays_s)),
            ("ordering", json!(self.ordering)),
            ("on_failed", json!(self.on_failed)),
        ];
        body.extend(
            given.into_iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| (name.into(), value)),
        );
        let answer =
            self.client.call(Method::POST, "/endpoints", Some(Value::Object(body).to_string())).await?;
        print(&answer, self.client.json, |answer| {
            format!(
                "{}\nsecret        {}\nSecret and id are all that a receiver needs: postrider listen --secret …",
                shown(answer),
                text(answer, "secret")
            )
        });
        Ok(())
    }
}

impl List {
    async fn run(self) -> Result<(), Failure> {
        let path = self.page.of("/endpoints", &[("tenant", self.tenant), ("status", self.status)]);
        let answer = self.client.call(Method::GET, &path, None).await?;
        let columns = [
            ("ID", "id"),
            ("STATUS", "status"),
            ("WAITING", "health.pending"),
            ("FAILURES", "health.consecutive_failures"),
            ("LIMIT", "rate_limit"),
            ("URL", "url"),
        ];
        print(&answer, self.client.json, |answer| table(answer, &columns));
        Ok(())
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Recover {
    /// The endpoint's id
    id: String,
    /// From this time on, such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    since: String,
    /// Before this time [default: now]
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// What: failed (given up), missing (never got a delivery) or all
    #[arg(long, default_value = "failed")]
    include: String,
    #[command(flatten)]
    client: Client,
}

impl Recover {
    async fn run(self) -> Result<(), Failure> {
        let mut body = json!({"since": self.since, "include": self.include});
        if let Some(until) = self.until {
            body["until"] = json!(until);
        }
        let path = format!("/endpoints/{}/recover", segment(&self.id));
        let mut answer = self.client.call(Method::POST, &path, Some(body.to_string())).await?;
        let path = format!("/recoveries/{}", segment(&text(&answer, "id")));
        while text(&answer, "status") == "running" {
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            answer = self.client.call(Method::GET, &path, None).await?;
        }
        let rows = [("id", "id"), ("status", "status"), ("found", "matched"), ("queued", "requeued")];
        print(&answer, self.client.json, |answer| card(answer, &rows));
        Ok(())
    }
}

impl One {
    async fn run(self, method: Method, action: &str) -> Result<(), Failure> {
        let path = format!("/endpoints/{}{action}", segment(&self.id));
        let answer = self.client.call(method, &path, None).await?;
        print(&answer, self.client.json, shown);
        Ok(())
    }
}

fn shown(endpoint: &Value) -> String {
    card(
        endpoint,
        &[
            ("id", "id"),
            ("url", "url"),
            ("tenant", "tenant"),
            ("description", "description"),
            ("status", "status"),
            ("paused by", "pause_reason"),
            ("event types", "event_types"),
            ("rate limit", "rate_limit"),
            ("concurrency", "concurrency"),
            ("time-out ms", "timeout_ms"),
            ("retries s", "retry_delays_s"),
            ("waiting", "health.pending"),
            ("on hold", "health.held"),
            ("in flight", "health.sending"),
            ("failures", "health.consecutive_failures"),
            ("next slot", "health.next_slot_at"),
            ("drains in s", "health.estimated_drain_s"),
        ],
    )
}
