//! `postrider send`: publish an event, or many.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use reqwest::Method;
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;

use crate::api::Client;
use crate::input;
use crate::output::{Failure, emit, print, rows, text};
use crate::progress::progress;

/// Publish an event, or many.
#[derive(Debug, clap::Args)]
pub(crate) struct Send {
    /// The event's type, such as invoice.paid
    #[arg(value_name = "TYPE", required_unless_present = "batch")]
    event_type: Option<String>,

    /// Its data as JSON; `-` reads it from standard input
    #[arg(value_name = "JSON", default_value = "null")]
    data: String,

    /// Send DATA as it is, with this content type, instead of wrapping it
    #[arg(long, value_name = "CONTENT_TYPE")]
    payload: Option<String>,

    /// The event's id [default: a UUID v4]
    #[arg(long)]
    id: Option<String>,

    /// Whose event it is [default: default]
    #[arg(long)]
    tenant: Option<String>,

    /// What it is ordered by
    #[arg(long)]
    ordering_key: Option<String>,

    /// Publish the events of a file (`-`: standard input), one JSON object a line as the API takes
    /// them
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["event_type", "data", "payload", "id", "tenant", "ordering_key"]
    )]
    batch: Option<PathBuf>,

    #[command(flatten)]
    client: Client,
}

/// As many as one request may hold: all or none of them.
const BATCH: usize = 1000;

#[derive(Serialize)]
struct Event {
    r#type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<String>,
    content_type: Option<String>,
    id: Option<String>,
    tenant: Option<String>,
    ordering_key: Option<String>,
}

impl Send {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        if let Some(path) = &self.batch {
            return self.publish_all(path).await;
        }
        let data = if self.data == "-" {
            input::read(Path::new("-"))?
        } else {
            self.data
        };
        let (payload, content_type, data) = match self.payload {
            Some(content_type) => (Some(data), Some(content_type), None),
            // As it was typed: numbers keep their digits.
            None => (
                None,
                None,
                Some(
                    RawValue::from_string(data)
                        .context("the data is not JSON (quote it for the shell)")?,
                ),
            ),
        };
        let event = Event {
            r#type: self.event_type.unwrap_or_default(),
            data,
            payload,
            content_type,
            id: self.id,
            tenant: self.tenant,
            ordering_key: self.ordering_key,
        };
        let body = serde_json::to_string(&event).context("cannot write the request")?;
        let answer = self
            .client
            .call(Method::POST, "/events", Some(body))
            .await?;
        print(&answer, self.client.json, |answer| {
            let again = if answer["duplicate"] == true {
                ", published before"
            } else {
                ""
            };
            let deliveries = answer["deliveries"]
                .as_array()
                .map(Vec::as_slice)
                .unwrap_or_default();
            let mut lines = vec![format!("event {} is stored{again}", text(answer, "id"))];
            if deliveries.is_empty() {
                lines.push(
                    "no endpoint wants it: add one with `postrider endpoints add URL`".into(),
                );
            }
            for delivery in deliveries {
                lines.push(format!(
                    "  {} to {}",
                    text(delivery, "id"),
                    text(delivery, "endpoint_id")
                ));
            }
            lines.join("\n")
        });
        Ok(())
    }

    /// In batches; what was published before a failure stays. With ids of their own they can be
    /// given again.
    async fn publish_all(&self, path: &Path) -> Result<(), Failure> {
        let text = input::read(path)?;
        let lines: Vec<(usize, &str)> = text
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.trim().is_empty())
            .collect();
        for (at, line) in &lines {
            serde_json::from_str::<&RawValue>(line).map_err(|_| {
                anyhow!(
                    "line {} is no JSON: each line is one event; nothing was sent",
                    at + 1
                )
            })?;
        }
        let connection = self.client.connect()?;
        let bar = progress(Some(lines.len() as u64), "publishing");
        let mut published = Vec::new();
        for batch in lines.chunks(BATCH) {
            let events: Vec<&str> = batch.iter().map(|(_, line)| *line).collect();
            // As they were written: numbers keep their digits.
            let body = format!(r#"{{"events":[{}]}}"#, events.join(","));
            let answer = connection
                .call(Method::POST, "/events/batch", Some(body))
                .await
                .map_err(|failure| {
                    bar.abandon();
                    let first = batch.first().map_or(0, |(at, _)| at + 1);
                    said(
                        failure,
                        &format!(
                            "{} published; of the batch from line {first} on, none",
                            published.len()
                        ),
                    )
                })?;
            published.extend_from_slice(rows(&answer));
            bar.set_position(published.len() as u64);
        }
        bar.finish_and_clear();
        let duplicates = published
            .iter()
            .filter(|receipt| receipt["duplicate"] == true)
            .count();
        emit(&if self.client.json {
            format!("{:#}", json!({ "data": published }))
        } else {
            format!(
                "{} events are stored, {duplicates} of them before",
                published.len()
            )
        });
        Ok(())
    }
}

/// The same failure, with how far it had come.
fn said(failure: Failure, so_far: &str) -> Failure {
    match failure {
        Failure::Unreachable(text) => Failure::Unreachable(format!("{text} ({so_far})")),
        Failure::Refused { status, text } => Failure::Refused {
            status,
            text: format!("{text} ({so_far})"),
        },
        Failure::Other(error) => Failure::Other(error.context(so_far.to_owned())),
    }
}
