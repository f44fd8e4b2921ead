//! `postrider deliveries tail`: finished deliveries, as they finish, until Ctrl-C. It polls once a
//! second, newest first, and reads further pages only while they hold something new.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::anyhow;
use reqwest::Method;
use serde_json::Value;

use super::filter::FilterArgs;
use crate::api::{ApiClient, ClientArgs, query};
use crate::endpoints::path::path_of;
use crate::input;
use crate::output::{CommandError, emit, rows, text};
use crate::serve::stop_signal;

const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Rows per page.
const PAGE_ROWS: usize = 250;

/// Pages per poll: up to 5,000 deliveries that finish within a second are all printed.
const MAX_PAGES: usize = 20;

/// Printed deliveries to remember before the oldest are forgotten.
const MAX_REMEMBERED: usize = 100_000;

#[derive(Debug, clap::Args)]
pub(crate) struct TailDeliveries {
    #[command(flatten)]
    filter: FilterArgs,
    /// Only this status: delivered or failed
    #[arg(long)]
    status: Option<String>,
    /// Start with deliveries finished at or after this time, or within this duration (10m)
    /// [default: now]
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Stop after N deliveries
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    #[command(flatten)]
    client: ClientArgs,
}

/// Polls for finished deliveries and returns each only once.
struct Follower {
    api: ApiClient,
    filter: FilterArgs,
    /// Start of the range by the server's clock; `None` until the first poll.
    since: Option<String>,
    /// Id and finish time: a delivery that is retried finishes again and is printed again.
    printed: HashSet<(String, String)>,
}

impl TailDeliveries {
    pub(super) async fn run(self) -> Result<(), CommandError> {
        let statuses = match self.status.as_deref() {
            None => vec!["delivered", "failed"],
            Some("delivered") => vec!["delivered"],
            Some("failed") => vec!["failed"],
            Some(other) => {
                let detail = "finished deliveries are delivered or failed; for others use \
                              `deliveries list`";
                return Err(anyhow!("--status {other}: {detail}").into());
            }
        };
        let since = self.since.as_deref().map(input::time);
        let api = self.client.connect()?;
        if let Some(endpoint) = &self.filter.endpoint {
            // Fails on a wrong or deleted endpoint, which would otherwise be followed in vain.
            api.call(Method::GET, &path_of(endpoint, ""), None).await?;
        }
        let mut follower = Follower {
            api,
            filter: self.filter,
            since,
            printed: HashSet::new(),
        };
        let mut remaining = self.count.unwrap_or(u64::MAX);
        let mut was_reached = false;
        let stop = stop_signal();
        tokio::pin!(stop);
        loop {
            let finished = match follower.poll(&statuses).await {
                // A server that answered before is probably restarting, and the next poll misses
                // nothing.
                Err(CommandError::Unreachable(why)) if was_reached => {
                    eprintln!("postrider: {why}");
                    Vec::new()
                }
                finished => finished?,
            };
            was_reached = true;
            for delivery in finished {
                emit(&if self.client.json {
                    delivery.to_string()
                } else {
                    format_finished(&delivery)
                });
                remaining -= 1;
                if remaining == 0 {
                    return Ok(());
                }
            }
            tokio::select! {
                stopped = &mut stop => return stopped.map(|_| ()).map_err(CommandError::Other),
                () = tokio::time::sleep(POLL_INTERVAL) => {}
            }
        }
    }
}

impl Follower {
    /// Returns the deliveries finished since the last poll, oldest first.
    async fn poll(&mut self, statuses: &[&str]) -> Result<Vec<Value>, CommandError> {
        let is_first = self.since.is_none();
        let mut finished = Vec::new();
        for status in statuses {
            let mut cursor = None;
            for _ in 0..MAX_PAGES {
                let page = self.page(status, cursor.take()).await?;
                let found = rows(&page).len();
                let new: Vec<Value> = rows(&page)
                    .iter()
                    .filter(|row| self.is_new(row))
                    .cloned()
                    .collect();
                cursor = page["next_cursor"].as_str().map(str::to_owned);
                let all_new = new.len() == found;
                finished.extend(new);
                if is_first || cursor.is_none() || !all_new {
                    break;
                }
            }
        }
        finished.sort_by_key(|row| text(row, "updated_at"));
        let newest = finished.last().map(|row| text(row, "updated_at"));
        if is_first {
            // Without --since, the first poll only sets the starting point.
            self.since = Some(newest.unwrap_or_default());
            return Ok(Vec::new());
        }
        if let Some(newest) = newest.filter(|_| self.printed.len() > MAX_REMEMBERED) {
            self.printed.retain(|(_, at)| *at >= newest);
            self.since = Some(newest);
        }
        Ok(finished)
    }

    async fn page(&self, status: &str, cursor: Option<String>) -> Result<Value, CommandError> {
        let mut parameters = self.filter.clone().parameters().to_vec();
        let limit = Some(PAGE_ROWS.to_string());
        parameters.extend([
            ("status", Some(status.to_owned())),
            ("limit", limit),
            ("cursor", cursor),
        ]);
        self.api
            .call(Method::GET, &query("/deliveries", &parameters), None)
            .await
    }

    /// Returns true for a delivery in the range that has not been printed, and remembers it.
    fn is_new(&mut self, row: &Value) -> bool {
        let at = text(row, "updated_at");
        self.since.as_ref().is_none_or(|since| at >= *since)
            && self.printed.insert((text(row, "id"), at))
    }
}

fn format_finished(delivery: &Value) -> String {
    let reason = text(delivery, "failure_reason");
    let reason = if reason.is_empty() {
        reason
    } else {
        format!(" ({reason})")
    };
    format!(
        "{}  {}{reason}  {}  {} {} to {}  attempts: {}",
        text(delivery, "updated_at"),
        text(delivery, "status"),
        text(delivery, "id"),
        text(delivery, "event_type"),
        text(delivery, "event_id"),
        text(delivery, "endpoint_id"),
        text(delivery, "attempt_count")
    )
}
