//! `postrider endpoints`: where webhooks go.

mod change;
mod fields;
mod secret;
mod stats;

use clap::Subcommand;
use reqwest::Method;
use serde_json::Value;

use self::change::{Add, Set};
use self::secret::Secret;
use self::stats::Stats;
use crate::api::{Client, segment};
use crate::look::{Listing, Look};
use crate::output::{Failure, card, print, text};
use crate::recoveries::Recover;

#[derive(Debug, Subcommand)]
pub(crate) enum Endpoints {
    /// Add an endpoint; its secret is printed.
    Add(Box<Add>),
    /// List endpoints, newest first.
    List(List),
    /// Show one endpoint.
    Show(Show),
    /// Change what is given of an endpoint; the rest stays.
    #[command(visible_alias = "edit")]
    Set(Box<Set>),
    /// Stop sending to an endpoint; everything for it waits.
    Pause(One),
    /// Go on sending to an endpoint.
    Resume(One),
    /// Show what an endpoint's signatures are made with, or make a new one.
    #[command(subcommand)]
    Secret(Secret),
    /// Send one `postrider.test` event to this endpoint alone.
    Test(One),
    /// Show how an endpoint's deliveries went of late.
    Stats(Stats),
    /// Send (again) what an endpoint has not got in a span of time, and wait until all of it is
    /// queued.
    Recover(Recover),
    /// Delete an endpoint; what waits for it fails.
    #[command(visible_alias = "delete")]
    Rm(One),
}

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Only this tenant's
    #[arg(long)]
    tenant: Option<String>,
    /// Only those that are active, or paused
    #[arg(long)]
    status: Option<String>,
    /// Only those whose url or description holds this
    #[arg(long, value_name = "TEXT")]
    search: Option<String>,
    #[command(flatten)]
    listing: Listing,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// The endpoint's id, ep_…
    id: String,
    #[command(flatten)]
    look: Look,
}

#[derive(Debug, clap::Args)]
pub(crate) struct One {
    /// The endpoint's id, ep_…
    id: String,
    #[command(flatten)]
    client: Client,
}

/// The path of an endpoint, and of what is below it.
pub(crate) fn path_of(id: &str, below: &str) -> String {
    format!("/endpoints/{}{below}", segment(id))
}

impl Endpoints {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        match self {
            Self::Add(add) => add.run().await,
            Self::List(list) => list.run().await,
            Self::Show(show) => show.look.show(&path_of(&show.id, ""), shown).await,
            Self::Set(set) => set.run().await,
            Self::Pause(one) => one.run(Method::POST, "/pause", shown).await,
            Self::Resume(one) => one.run(Method::POST, "/resume", shown).await,
            Self::Secret(secret) => secret.run().await,
            Self::Test(one) => one.run(Method::POST, "/test", tested).await,
            Self::Stats(stats) => stats.run().await,
            Self::Recover(recover) => recover.run().await,
            Self::Rm(one) => {
                let deleted = format!("endpoint {} is deleted", one.id);
                one.run(Method::DELETE, "", |_| deleted).await
            }
        }
    }
}

impl List {
    async fn run(self) -> Result<(), Failure> {
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

impl One {
    async fn run(
        self,
        method: Method,
        action: &str,
        human: impl FnOnce(&Value) -> String,
    ) -> Result<(), Failure> {
        let answer = self
            .client
            .call(method, &path_of(&self.id, action), None)
            .await?;
        print(&answer, self.client.json, human);
        Ok(())
    }
}

fn tested(answer: &Value) -> String {
    let delivery = text(answer, "delivery_id");
    format!(
        "event {} is on its way as {delivery}: postrider deliveries show {delivery}",
        text(answer, "event_id")
    )
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
            ("headers", "headers"),
            ("rate limit", "rate_limit"),
            ("concurrency", "concurrency"),
            ("time-out ms", "timeout_ms"),
            ("retries s", "retry_delays_s"),
            ("waits at most s", "max_age_s"),
            ("ordering", "ordering"),
            ("signing", "signing"),
            ("public key", "public_key"),
            ("breaker after", "breaker_after"),
            ("breaker", "health.breaker"),
            ("waiting", "health.pending"),
            ("on hold", "health.held"),
            ("in flight", "health.sending"),
            ("failures", "health.consecutive_failures"),
            ("rests until", "health.hold_until"),
            ("next probe", "health.next_probe_at"),
            ("next slot", "health.next_slot_at"),
            ("drains in s", "health.estimated_drain_s"),
        ],
    )
}
