//! `postrider overview`: how it goes, in a few lines.

use reqwest::Method;
use serde_json::Value;

use crate::api::{Client, query};
use crate::output::{Failure, card, print, tabulated};
use crate::watch::Watch;

/// Show how it goes: what was sent of late, what waits, and which endpoints are in trouble.
#[derive(Debug, clap::Args)]
pub(crate) struct Overview {
    /// Only this tenant's
    #[arg(long)]
    tenant: Option<String>,
    #[command(flatten)]
    watch: Watch,
    #[command(flatten)]
    client: Client,
}

impl Overview {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let path = query("/overview", &[("tenant", self.tenant)]);
        // The first look tells whether the server knows of it.
        let answer = self.client.connect()?.call_new(Method::GET, &path, None, None).await?;
        if self.watch.is_on() {
            return self.watch.show(&self.client, &path, shown).await;
        }
        print(&answer, self.client.json, shown);
        Ok(())
    }
}

fn shown(overview: &Value) -> String {
    let fields = [
        ("of the last s", "window_s"),
        ("attempts", "attempts.total"),
        ("success rate", "success_rate"),
        ("attempts a s", "throughput_per_s"),
        ("waiting", "waiting"),
        ("oldest waits since", "oldest_waiting_at"),
        ("in flight", "in_flight"),
        ("on hold", "held"),
        ("endpoints", "endpoints"),
    ];
    let columns = [
        ("IN TROUBLE", "id"),
        ("STATUS", "status"),
        ("WHY", "pause_reason"),
        ("BREAKER", "health.breaker"),
        ("WAITING", "health.pending"),
        ("URL", "url"),
    ];
    let card = card(overview, &fields);
    match overview["troubled"].as_array().map(Vec::as_slice) {
        None | Some([]) => card,
        Some(troubled) => format!("{card}\n\n{}", tabulated(troubled, &columns)),
    }
}
