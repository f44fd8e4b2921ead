//! Recoveries: resending deliveries an endpoint missed (`postrider endpoints recover`), and their
//! progress (`postrider recoveries show`).

use std::time::Duration;

use clap::Subcommand;
use reqwest::Method;
use serde_json::{Value, json};

use crate::api::{ApiClient, ClientArgs, segment};
use crate::endpoints::path::path_of;
use crate::input;
use crate::output::{CommandError, key_value_lines, print, text};
use crate::progress::{is_visible, progress};
use crate::show::View;

/// Interval between polls of a running recovery.
const POLL_INTERVAL: Duration = Duration::from_millis(300);

#[derive(Debug, clap::Args)]
pub(crate) struct RecoverEndpoint {
    /// Endpoint id (ep_…)
    id: String,
    /// Start of the time range: a time such as 2026-01-31T12:00:00Z, or a duration ago such as 2h
    #[arg(long, value_name = "TIME")]
    since: String,
    /// End of the time range, in the same forms [default: now]
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Deliveries to send: failed, missing (events that have no delivery to this endpoint) or all
    #[arg(long, default_value = "failed")]
    include: String,
    /// Only count the deliveries, without sending them
    #[arg(long)]
    dry_run: bool,
    /// Return immediately instead of waiting until all deliveries are queued
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RecoveriesCommand {
    /// Show the progress of a recovery.
    Show(ShowRecovery),
}

#[derive(Debug, clap::Args)]
pub(crate) struct ShowRecovery {
    /// Recovery id (rec_…)
    id: String,
    /// Wait until the recovery is done
    #[arg(long, conflicts_with = "watch")]
    wait: bool,
    #[command(flatten)]
    view: View,
}

impl RecoverEndpoint {
    pub(crate) async fn run(self) -> Result<(), CommandError> {
        let mut body = json!({"since": input::time(&self.since), "include": self.include});
        if let Some(until) = &self.until {
            body["until"] = json!(input::time(until));
        }
        let body = body.to_string();
        let api = self.client.connect()?;
        if self.dry_run {
            let answer = self.preview(&api, body).await?;
            print(&answer, self.client.json, format_preview);
            return Ok(());
        }
        let mut total = None;
        if is_visible() && !self.no_wait {
            // Without a total, a spinner is shown instead of a bar.
            total = self
                .preview(&api, body.clone())
                .await
                .ok()
                .filter(|preview| preview["capped"] == false);
        }
        let path = path_of(&self.id, "/recover");
        let mut answer = api.call(Method::POST, &path, Some(body)).await?;
        if !self.no_wait {
            answer = follow(&api, answer, total.as_ref().and_then(total_of)).await?;
        }
        print(&answer, self.client.json, format_recovery);
        Ok(())
    }

    async fn preview(&self, api: &ApiClient, body: String) -> Result<Value, CommandError> {
        let path = path_of(&self.id, "/recover/preview");
        api.call(Method::POST, &path, Some(body)).await
    }
}

fn total_of(preview: &Value) -> Option<u64> {
    Some(preview["failed"].as_u64()? + preview["missing"].as_u64()?)
}

fn format_preview(preview: &Value) -> String {
    let at_least = if preview["capped"] == true {
        "at least "
    } else {
        ""
    };
    format!(
        "{at_least}{} failed and {} missing deliveries would be sent; run without --dry-run to send them",
        text(preview, "failed"),
        text(preview, "missing")
    )
}

/// Waits until a recovery is done, and shows its progress.
async fn follow(
    api: &ApiClient,
    mut recovery: Value,
    total: Option<u64>,
) -> Result<Value, CommandError> {
    let path = path(&text(&recovery, "id"));
    let bar = progress(total, "recovering");
    while text(&recovery, "status") == "running" {
        tokio::time::sleep(POLL_INTERVAL).await;
        recovery = api.call(Method::GET, &path, None).await?;
        bar.set_position(recovery["matched"].as_u64().unwrap_or_default());
        bar.set_message(format!(
            "recovering: {} queued",
            text(&recovery, "requeued")
        ));
    }
    bar.finish_and_clear();
    Ok(recovery)
}

fn path(id: &str) -> String {
    format!("/recoveries/{}", segment(id))
}

impl RecoveriesCommand {
    pub(crate) async fn run(self) -> Result<(), CommandError> {
        let Self::Show(show) = self;
        if !show.wait {
            return show.view.show(&path(&show.id), format_recovery).await;
        }
        let api = show.view.client.connect()?;
        let answer = api.call(Method::GET, &path(&show.id), None).await?;
        let answer = follow(&api, answer, None).await?;
        print(&answer, show.view.client.json, format_recovery);
        Ok(())
    }
}

fn format_recovery(recovery: &Value) -> String {
    key_value_lines(
        recovery,
        &[
            ("id", "id"),
            ("endpoint", "endpoint_id"),
            ("include", "include"),
            ("since", "since"),
            ("until", "until"),
            ("status", "status"),
            ("found", "matched"),
            ("queued", "requeued"),
        ],
    )
}
