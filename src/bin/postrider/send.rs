//! `postrider send`: publishing one event, or a file of events.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use reqwest::Method;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::api::ClientArgs;
use crate::input;
use crate::output::{CommandError, emit, items, print, rows, text};
use crate::progress::progress;

/// Publish one event, or a file of events.
#[derive(Debug, clap::Args)]
pub(crate) struct SendArgs {
    /// Event type, such as invoice.paid
    #[arg(value_name = "TYPE", required_unless_present = "batch")]
    event_type: Option<String>,

    /// Event data as JSON; `-` reads it from standard input
    #[arg(value_name = "JSON", default_value = "null")]
    data: String,

    /// Send JSON/stdin verbatim as the body with this content type, without the envelope
    #[arg(long, value_name = "CONTENT_TYPE")]
    payload: Option<String>,

    /// Event id [default: a UUID v4]
    #[arg(long)]
    id: Option<String>,

    /// Tenant of the event [default: default]
    #[arg(long)]
    tenant: Option<String>,

    /// Deliver events with the same key in order
    #[arg(long)]
    ordering_key: Option<String>,

    /// Publish the events of a file (`-`: standard input), one JSON object per line in the format of
    /// the API
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["event_type", "data", "payload", "id", "tenant", "ordering_key"]
    )]
    batch: Option<PathBuf>,

    #[command(flatten)]
    client: ClientArgs,
}

/// Events per request; the API accepts all of them or none.
const BATCH_EVENTS: usize = 1000;

#[derive(Serialize)]
struct PublishRequest {
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

impl SendArgs {
    pub(crate) async fn run(self) -> Result<(), CommandError> {
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
            // Sent exactly as typed: numbers keep their digits.
            None => (
                None,
                None,
                Some(RawValue::from_string(data).context(
                    "the event data is not valid JSON: quote it for the shell, or use --payload",
                )?),
            ),
        };
        let event = PublishRequest {
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
        print(&answer, self.client.json, format_published);
        Ok(())
    }

    /// Publishes a file in batches. Batches before a failure stay published; if the events have ids,
    /// the whole file can be sent again.
    async fn publish_all(&self, path: &Path) -> Result<(), CommandError> {
        let text = input::read(path)?;
        let lines: Vec<(usize, &str)> = text
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.trim().is_empty())
            .collect();
        for (index, line) in &lines {
            serde_json::from_str::<&RawValue>(line).map_err(|_| {
                anyhow!(
                    "line {} is not valid JSON: write one event per line; nothing was published",
                    index + 1
                )
            })?;
        }
        let api = self.client.connect()?;
        let bar = progress(Some(lines.len() as u64), "publishing");
        let mut published = Vec::new();
        for batch in lines.chunks(BATCH_EVENTS) {
            let events: Vec<&str> = batch.iter().map(|(_, line)| *line).collect();
            // Sent exactly as written: numbers keep their digits.
            let body = format!(r#"{{"events":[{}]}}"#, events.join(","));
            let answer = api
                .call(Method::POST, "/events/batch", Some(body))
                .await
                .map_err(|error| {
                    bar.abandon();
                    let first = batch.first().map_or(0, |(index, _)| index + 1);
                    with_progress(
                        error,
                        &format!(
                            "{} events were published; the batch that failed starts at line {first}",
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
                "{} events are stored, {duplicates} of them published before",
                published.len()
            )
        });
        Ok(())
    }
}

fn format_published(answer: &Value) -> String {
    let again = if answer["duplicate"] == true {
        " (published before)"
    } else {
        ""
    };
    let mut lines = vec![format!("event {} is stored{again}", text(answer, "id"))];
    let deliveries = items(answer, "deliveries");
    if deliveries.is_empty() {
        lines.push(
            "no endpoint is subscribed to this event type: add one with `postrider endpoints add URL`"
                .into(),
        );
    }
    lines.extend(deliveries.iter().map(|delivery| {
        format!(
            "  {} to {}",
            text(delivery, "id"),
            text(delivery, "endpoint_id")
        )
    }));
    lines.join("\n")
}

/// Adds the progress made before it to an error.
fn with_progress(error: CommandError, progress: &str) -> CommandError {
    match error {
        CommandError::Unreachable(text) => {
            CommandError::Unreachable(format!("{text} ({progress})"))
        }
        CommandError::Refused { status, text } => CommandError::Refused {
            status,
            text: format!("{text} ({progress})"),
        },
        CommandError::Other(error) => CommandError::Other(error.context(progress.to_owned())),
    }
}
