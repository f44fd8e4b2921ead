//! `postrider send`: publish one event.

use std::io::Read as _;

use anyhow::Context;
use reqwest::Method;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::api::Client;
use crate::output::{Failure, print, text};

/// Publish an event.
#[derive(Debug, clap::Args)]
pub(crate) struct Send {
    /// The event's type, such as invoice.paid
    #[arg(value_name = "TYPE")]
    event_type: String,

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

    #[command(flatten)]
    client: Client,
}

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
        let mut data = self.data;
        if data == "-" {
            data.clear();
            std::io::stdin().read_to_string(&mut data).context("cannot read standard input")?;
        }
        let (payload, content_type, data) = match self.payload {
            Some(content_type) => (Some(data), Some(content_type), None),
            // As it was typed: numbers keep their digits.
            None => (
                None,
                None,
                Some(RawValue::from_string(data).context("the data is not JSON (quote it for the shell)")?),
            ),
        };
        let event = Event {
            r#type: self.event_type,
            data,
            payload,
            content_type,
            id: self.id,
            tenant: self.tenant,
            ordering_key: self.ordering_key,
        };
        let body = serde_json::to_string(&event).context("cannot write the request")?;
        let answer = self.client.call(Method::POST, "/events", Some(body)).await?;
        print(&answer, self.client.json, |answer| {
            let again = if answer["duplicate"] == true { ", published before" } else { "" };
            let deliveries = answer["deliveries"].as_array().map(Vec::as_slice).unwrap_or_default();
            let mut lines = vec![format!("event {} is stored{again}", text(answer, "id"))];
            if deliveries.is_empty() {
                lines.push("no endpoint wants it: add one with `postrider endpoints add URL`".into());
            }
            for delivery in deliveries {
                lines.push(format!("  {} to {}", text(delivery, "id"), text(delivery, "endpoint_id")));
            }
            lines.join("\n")
        });
        Ok(())
    }
}
