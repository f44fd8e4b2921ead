//! `postrider overview`: how it goes, in a few lines.

use serde_json::Value;

use crate::api::query;
use crate::look::Look;
use crate::output::{Failure, card, tabulated};

/// Show how it goes: what was sent of late, what waits, and which endpoints are in trouble.
#[derive(Debug, clap::Args)]
pub(crate) struct Overview {
    /// Only this tenant's
    #[arg(long)]
    tenant: Option<String>,
    #[command(flatten)]
    look: Look,
}

impl Overview {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let path = query("/overview", &[("tenant", self.tenant)]);
        self.look.show(&path, shown).await
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
        ("WHY", "why"),
        ("WAITING", "health.pending"),
        ("URL", "url"),
    ];
    let card = card(overview, &fields);
    match overview["troubled"].as_array().map(Vec::as_slice) {
        None | Some([]) => card,
        Some(troubled) => {
            let explained = |one: &Value| {
                let mut one = one.clone();
                one["why"] = why(&one).into();
                one
            };
            let troubled: Vec<Value> = troubled.iter().map(explained).collect();
            format!("{card}\n\n{}", tabulated(&troubled, &columns))
        }
    }
}

/// What an endpoint suffers from.
fn why(endpoint: &Value) -> String {
    let health = &endpoint["health"];
    if let Some(reason) = endpoint["pause_reason"].as_str() {
        return format!("paused: {reason}");
    }
    let failures = health["consecutive_failures"].as_u64().unwrap_or(0);
    if let Some(at) = health["next_probe_at"].as_str() {
        return format!("{failures} failures, next probe {at}");
    }
    if failures > 0 {
        return format!("{failures} failures in a row");
    }
    for (field, what) in [
        ("hold_until", "asked to wait until"),
        ("next_slot_at", "rate limit, next slot"),
    ] {
        if let Some(at) = health[field].as_str() {
            return format!("{what} {at}");
        }
    }
    "behind".into()
}
