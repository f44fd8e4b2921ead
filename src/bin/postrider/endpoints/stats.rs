//! `postrider endpoints stats`: recent delivery statistics of an endpoint.

use serde_json::Value;

use super::path::path_of;
use crate::api::query;
use crate::output::{CommandError, key_value_lines};
use crate::show::View;

#[derive(Debug, clap::Args)]
pub(crate) struct StatsArgs {
    /// Endpoint id (ep_…)
    id: String,
    /// Time window up to now: 1m to 24h
    #[arg(long, value_name = "DURATION", default_value = "1h")]
    window: String,
    #[command(flatten)]
    view: View,
}

impl StatsArgs {
    pub(super) async fn run(self) -> Result<(), CommandError> {
        let path = query(
            &path_of(&self.id, "/stats"),
            &[("window", Some(self.window))],
        );
        self.view.show(&path, format_stats).await
    }
}

fn format_stats(stats: &Value) -> String {
    let fields = [
        ("attempts", "attempts"),
        ("success rate", "success_rate"),
        ("p50 ms", "duration_ms.p50"),
        ("p95 ms", "duration_ms.p95"),
        ("p99 ms", "duration_ms.p99"),
        ("outcomes", "outcomes"),
        ("deliveries", "deliveries"),
    ];
    let mut lines = vec![key_value_lines(stats, &fields)];
    if stats["attempts"] == 0 {
        lines.push("no attempts in this time window: try a longer --window".into());
    }
    lines.join("\n")
}
