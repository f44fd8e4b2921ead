//! `postrider overview`: a summary of traffic and endpoints in trouble.

use serde_json::Value;

use crate::api::query;
use crate::output::{CommandError, items, key_value_lines, tabulated};
use crate::show::View;

/// Show a summary: recent attempts, pending deliveries, and endpoints in trouble.
#[derive(Debug, clap::Args)]
pub(crate) struct OverviewArgs {
    /// Only this tenant
    #[arg(long)]
    tenant: Option<String>,
    #[command(flatten)]
    view: View,
}

impl OverviewArgs {
    pub(crate) async fn run(self) -> Result<(), CommandError> {
        let path = query("/overview", &[("tenant", self.tenant)]);
        self.view.show(&path, format_overview).await
    }
}

fn format_overview(overview: &Value) -> String {
    let fields = [
        ("window s", "window_s"),
        ("attempts", "attempts.total"),
        ("success rate", "success_rate"),
        ("attempts per s", "throughput_per_s"),
        ("waiting", "waiting"),
        ("oldest waiting since", "oldest_waiting_at"),
        ("in flight", "in_flight"),
        ("on hold", "held"),
        ("endpoints", "endpoints"),
    ];
    let columns = [
        ("IN TROUBLE", "id"),
        ("STATUS", "status"),
        ("WHY", "why"),
        ("WAITING", "health.pending"),
        ("URL", "url"),
    ];
    let summary = key_value_lines(overview, &fields);
    match items(overview, "troubled") {
        [] => summary,
        troubled => {
            let troubled: Vec<Value> = troubled.iter().map(with_reason).collect();
            format!("{summary}\n\n{}", tabulated(&troubled, &columns))
        }
    }
}

/// Returns an endpoint with the reason for its trouble in the field `why`.
fn with_reason(endpoint: &Value) -> Value {
    let mut endpoint = endpoint.clone();
    endpoint["why"] = trouble(&endpoint).into();
    endpoint
}

/// Describes the most serious problem of an endpoint.
fn trouble(endpoint: &Value) -> String {
    let health = &endpoint["health"];
    if let Some(reason) = endpoint["pause_reason"].as_str() {
        return format!("paused: {reason}");
    }
    let failures = health["consecutive_failures"].as_u64().unwrap_or(0);
    if let Some(at) = health["next_probe_at"].as_str() {
        return format!("{failures} consecutive failures, next probe {at}");
    }
    if failures > 0 {
        return format!("{failures} consecutive failures");
    }
    for (field, what) in [
        ("hold_until", "Retry-After until"),
        ("next_slot_at", "rate limit, next slot"),
    ] {
        if let Some(at) = health[field].as_str() {
            return format!("{what} {at}");
        }
    }
    "backlog".into()
}
