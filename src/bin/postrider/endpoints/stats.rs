//! `postrider endpoints stats`: how an endpoint's deliveries went of late.

use serde_json::Value;

use super::path_of;
use crate::api::query;
use crate::look::Look;
use crate::output::{Failure, card};

#[derive(Debug, clap::Args)]
pub(crate) struct Stats {
    /// The endpoint's id, ep_…
    id: String,
    /// How far back to look: 1m to 24h
    #[arg(long, value_name = "DURATION", default_value = "1h")]
    window: String,
    #[command(flatten)]
    look: Look,
}

impl Stats {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let path = query(
            &path_of(&self.id, "/stats"),
            &[("window", Some(self.window))],
        );
        self.look.show(&path, shown).await
    }
}

fn shown(stats: &Value) -> String {
    let mut lines = vec![card(
        stats,
        &[
            ("attempts", "attempts"),
            ("success rate", "success_rate"),
            ("p50 ms", "duration_ms.p50"),
            ("p95 ms", "duration_ms.p95"),
            ("p99 ms", "duration_ms.p99"),
            ("outcomes", "outcomes"),
            ("deliveries", "deliveries"),
        ],
    )];
    if stats["attempts"] == 0 {
        lines.push("no attempt in this time: look further back by --window".into());
    }
    lines.join("\n")
}
