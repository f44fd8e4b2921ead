//! Recoveries: what an endpoint has not got is sent again (`postrider endpoints recover`), and how
//! far that is (`postrider recoveries show`).

use std::time::Duration;

use clap::Subcommand;
use reqwest::Method;
use serde_json::{Value, json};

use crate::api::{Client, Connection, segment};
use crate::endpoints::path_of;
use crate::input;
use crate::look::Look;
use crate::output::{Failure, card, print, text};
use crate::progress::{is_seen, progress};

/// How often a running one is looked at.
const EVERY: Duration = Duration::from_millis(300);

#[derive(Debug, clap::Args)]
pub(crate) struct Recover {
    /// The endpoint's id
    id: String,
    /// From this time on, such as 2026-01-31T12:00:00Z, or so long ago, such as 2h
    #[arg(long, value_name = "TIME")]
    since: String,
    /// Before this time [default: now]
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// What: failed (given up), missing (never got a delivery) or all
    #[arg(long, default_value = "failed")]
    include: String,
    /// Only say how many it would be
    #[arg(long)]
    dry_run: bool,
    /// Do not wait until all of it is queued
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    client: Client,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Recoveries {
    /// Show how far a recovery is.
    Show(Show),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// The recovery's id
    id: String,
    /// Follow it until it is done
    #[arg(long, conflicts_with = "watch")]
    wait: bool,
    #[command(flatten)]
    look: Look,
}

impl Recover {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let mut body = json!({"since": input::time(&self.since), "include": self.include});
        if let Some(until) = &self.until {
            body["until"] = json!(input::time(until));
        }
        let (body, connection) = (body.to_string(), self.client.connect()?);
        if self.dry_run {
            let answer = self.preview(&connection, body).await?;
            print(&answer, self.client.json, previewed);
            return Ok(());
        }
        let mut total = None;
        if is_seen() && !self.no_wait {
            // A server that cannot tell leaves the bar without an end.
            total = self
                .preview(&connection, body.clone())
                .await
                .ok()
                .filter(|it| it["capped"] == false);
        }
        let path = path_of(&self.id, "/recover");
        let mut answer = connection.call(Method::POST, &path, Some(body)).await?;
        if !self.no_wait {
            answer = follow(&connection, answer, total.as_ref().and_then(counted)).await?;
        }
        print(&answer, self.client.json, shown);
        Ok(())
    }

    async fn preview(&self, connection: &Connection, body: String) -> Result<Value, Failure> {
        connection
            .call(
                Method::POST,
                &path_of(&self.id, "/recover/preview"),
                Some(body),
            )
            .await
    }
}

fn counted(preview: &Value) -> Option<u64> {
    Some(preview["failed"].as_u64()? + preview["missing"].as_u64()?)
}

fn previewed(preview: &Value) -> String {
    let more = if preview["capped"] == true {
        "at least "
    } else {
        ""
    };
    format!(
        "{more}{} failed and {} missing would be sent; without --dry-run they are",
        text(preview, "failed"),
        text(preview, "missing")
    )
}

/// Waits until a recovery is done.
async fn follow(
    connection: &Connection,
    mut recovery: Value,
    total: Option<u64>,
) -> Result<Value, Failure> {
    let path = path(&text(&recovery, "id"));
    let bar = progress(total, "recovering");
    while text(&recovery, "status") == "running" {
        tokio::time::sleep(EVERY).await;
        recovery = connection.call(Method::GET, &path, None).await?;
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

impl Recoveries {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let Self::Show(show) = self;
        if !show.wait {
            return show.look.show(&path(&show.id), shown).await;
        }
        let connection = show.look.client.connect()?;
        let answer = connection.call(Method::GET, &path(&show.id), None).await?;
        let answer = follow(&connection, answer, None).await?;
        print(&answer, show.look.client.json, shown);
        Ok(())
    }
}

fn shown(recovery: &Value) -> String {
    card(
        recovery,
        &[
            ("id", "id"),
            ("endpoint", "endpoint_id"),
            ("what", "include"),
            ("since", "since"),
            ("until", "until"),
            ("status", "status"),
            ("found", "matched"),
            ("queued", "requeued"),
        ],
    )
}
