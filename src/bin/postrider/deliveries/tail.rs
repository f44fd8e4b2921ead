//! `postrider deliveries tail`: deliveries as they end, until told to stop. It asks for those that
//! have ended each second, newest first, as far as there is something new.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::anyhow;
use reqwest::Method;
use serde_json::Value;

use super::Filter;
use crate::api::{Client, Connection, query};
use crate::output::{Failure, emit, rows, text};
use crate::serve::stop_signal;
use crate::{endpoints, input};

const EVERY: Duration = Duration::from_secs(1);

/// Rows of a page, and pages at once: so many that end in one second are all seen.
const PAGE: usize = 250;
const MOST_PAGES: usize = 20;

#[derive(Debug, clap::Args)]
pub(crate) struct Tail {
    #[command(flatten)]
    filter: Filter,
    /// Only delivered or failed ones
    #[arg(long)]
    status: Option<String>,
    /// Begin with those that ended after this time, or so long ago, such as 10m [default: now]
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// End after so many
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    #[command(flatten)]
    client: Client,
}

/// What has ended, by what was told before.
struct Follower {
    connection: Connection,
    filter: Filter,
    /// In the server's time; `None` until the first look.
    since: Option<String>,
    /// A delivery that is retried ends again, and is told again.
    told: HashSet<(String, String)>,
}

/// How many are remembered as told before the oldest are forgotten.
const REMEMBERED: usize = 100_000;

impl Tail {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let statuses = match self.status.as_deref() {
            None => vec!["delivered", "failed"],
            Some("delivered") => vec!["delivered"],
            Some("failed") => vec!["failed"],
            Some(other) => {
                let detail = "a delivery ends delivered or failed; `deliveries list` shows others";
                return Err(anyhow!("--status {other}: {detail}").into());
            }
        };
        let since = self.since.as_deref().map(input::time);
        let connection = self.client.connect()?;
        if let Some(endpoint) = &self.filter.endpoint {
            // At one that is not there, or no more, nothing ends.
            connection
                .call(Method::GET, &endpoints::path_of(endpoint, ""), None)
                .await?;
        }
        let mut follower = Follower {
            connection,
            filter: self.filter,
            since,
            told: HashSet::new(),
        };
        let (mut left, mut seen) = (self.count.unwrap_or(u64::MAX), false);
        let stop = stop_signal();
        tokio::pin!(stop);
        loop {
            let ended = match follower.look(&statuses).await {
                // A server that was there is likely to come back, and nothing of it is missed.
                Err(Failure::Unreachable(why)) if seen => {
                    eprintln!("postrider: {why}");
                    Vec::new()
                }
                ended => ended?,
            };
            seen = true;
            for delivery in ended {
                emit(&if self.client.json {
                    delivery.to_string()
                } else {
                    line(&delivery)
                });
                left -= 1;
                if left == 0 {
                    return Ok(());
                }
            }
            tokio::select! {
                stopped = &mut stop => return stopped.map(|_| ()).map_err(Failure::Other),
                () = tokio::time::sleep(EVERY) => {}
            }
        }
    }
}

impl Follower {
    /// What has ended since the last look, in the order in which it did.
    async fn look(&mut self, statuses: &[&str]) -> Result<Vec<Value>, Failure> {
        let (mut ended, is_first) = (Vec::new(), self.since.is_none());
        for status in statuses {
            let mut cursor = None;
            for _ in 0..MOST_PAGES {
                let page = self.page(status, cursor.take()).await?;
                let found = rows(&page).len();
                let new: Vec<Value> = rows(&page)
                    .iter()
                    .filter(|row| self.is_new(row))
                    .cloned()
                    .collect();
                cursor = page["next_cursor"].as_str().map(str::to_owned);
                let all_new = new.len() == found;
                ended.extend(new);
                if is_first || cursor.is_none() || !all_new {
                    break;
                }
            }
        }
        ended.sort_by_key(|row| text(row, "updated_at"));
        let newest = ended.last().map(|row| text(row, "updated_at"));
        if is_first {
            // What has ended before is not told: from here on.
            self.since = Some(newest.unwrap_or_default());
            return Ok(Vec::new());
        }
        if let Some(newest) = newest.filter(|_| self.told.len() > REMEMBERED) {
            self.told.retain(|(_, at)| *at >= newest);
            self.since = Some(newest);
        }
        Ok(ended)
    }

    async fn page(&self, status: &str, cursor: Option<String>) -> Result<Value, Failure> {
        let mut parameters = self.filter.clone().parameters().to_vec();
        let limit = Some(PAGE.to_string());
        parameters.extend([
            ("status", Some(status.to_owned())),
            ("limit", limit),
            ("cursor", cursor),
        ]);
        self.connection
            .call(Method::GET, &query("/deliveries", &parameters), None)
            .await
    }

    /// Whether it has ended since the beginning, and was not told yet.
    fn is_new(&mut self, row: &Value) -> bool {
        let at = text(row, "updated_at");
        self.since.as_ref().is_none_or(|since| at >= *since)
            && self.told.insert((text(row, "id"), at))
    }
}

fn line(delivery: &Value) -> String {
    let why = text(delivery, "failure_reason");
    let why = if why.is_empty() {
        why
    } else {
        format!(" ({why})")
    };
    format!(
        "{}  {}{why}  {}  {} {} to {}  attempts: {}",
        text(delivery, "updated_at"),
        text(delivery, "status"),
        text(delivery, "id"),
        text(delivery, "event_type"),
        text(delivery, "event_id"),
        text(delivery, "endpoint_id"),
        text(delivery, "attempt_count")
    )
}
