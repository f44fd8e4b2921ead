//! What can be set of an endpoint, when it is added and later.

use std::path::PathBuf;

use anyhow::{Context, bail};
use serde_json::{Map, Value, json};

use crate::input;

#[derive(Debug, Default, clap::Args)]
pub(crate) struct Fields {
    /// For people
    #[arg(long)]
    description: Option<String>,
    /// Only these event types, or prefixes and `.*` (comma-separated), or `all` [default: all]
    #[arg(long, value_delimiter = ',', value_name = "TYPES")]
    event_types: Option<Vec<String>>,
    /// A header of every request, NAME=VALUE; can be given several times
    #[arg(
        long = "header",
        value_name = "NAME=VALUE",
        conflicts_with = "headers_file"
    )]
    headers: Option<Vec<String>>,
    /// The headers of every request as a JSON object in a file (`-`: standard input), for secret
    /// ones
    #[arg(long, value_name = "FILE")]
    headers_file: Option<PathBuf>,
    /// Attempt starts, such as 100/min or unlimited
    #[arg(long)]
    rate_limit: Option<String>,
    /// Attempts in flight
    #[arg(long)]
    concurrency: Option<u32>,
    /// One request in all, in milliseconds
    #[arg(long)]
    timeout_ms: Option<u64>,
    /// Delays between attempts in seconds, comma-separated, or `none` for one attempt
    #[arg(long, value_name = "SECONDS")]
    retry_delays_s: Option<String>,
    /// How long a delivery may wait before it expires, in seconds
    #[arg(long)]
    max_age_s: Option<u64>,
    /// Failures in a row until the endpoint is only probed; 0: never
    #[arg(long)]
    breaker_after: Option<u32>,
    /// `key`: events that share an ordering key arrive in order, one at a time [default: none]
    #[arg(long)]
    ordering: Option<String>,
    /// What a failed one means to those behind it in its key: `block` or `skip` [default: block]
    #[arg(long)]
    on_failed: Option<String>,
    /// How requests are signed: v1, v1a or both (comma-separated) [default: v1]
    #[arg(long, value_delimiter = ',', value_name = "SCHEMES")]
    signing: Option<Vec<String>>,
}

impl Fields {
    /// Those that are given, as the API takes them.
    pub(crate) fn into_body(self) -> anyhow::Result<Map<String, Value>> {
        let event_types = match self.event_types {
            Some(types) if types == ["all"] => Some(Vec::new()),
            types => types,
        };
        let headers = match (self.headers, self.headers_file) {
            (Some(headers), _) => Some(headers_of(&headers)?),
            (None, Some(path)) => {
                let text = input::read(&path)?;
                // Without what serde says of it: it may hold a secret.
                let headers: Map<String, Value> = serde_json::from_str(&text).map_err(|_| {
                    anyhow::anyhow!(
                        "--headers-file: {} holds no JSON object of texts",
                        path.display()
                    )
                })?;
                Some(headers)
            }
            (None, None) => None,
        };
        let delays = self.retry_delays_s.as_deref().map(delays_of).transpose()?;
        let given = [
            ("description", json!(self.description)),
            ("event_types", json!(event_types)),
            ("headers", json!(headers)),
            ("rate_limit", json!(self.rate_limit)),
            ("concurrency", json!(self.concurrency)),
            ("timeout_ms", json!(self.timeout_ms)),
            ("retry_delays_s", json!(delays)),
            ("max_age_s", json!(self.max_age_s)),
            ("breaker_after", json!(self.breaker_after)),
            ("ordering", json!(self.ordering)),
            ("on_failed", json!(self.on_failed)),
            ("signing", json!(self.signing)),
        ];
        let given = given.into_iter().filter(|(_, value)| !value.is_null());
        Ok(given
            .map(|(name, value)| (name.to_owned(), value))
            .collect())
    }
}

fn headers_of(given: &[String]) -> anyhow::Result<Map<String, Value>> {
    let mut headers = Map::new();
    for header in given {
        let Some((name, value)) = header.split_once('=') else {
            bail!("--header: write it as NAME=VALUE");
        };
        headers.insert(name.trim().to_owned(), json!(value));
    }
    Ok(headers)
}

fn delays_of(text: &str) -> anyhow::Result<Vec<u32>> {
    if text == "none" {
        return Ok(Vec::new());
    }
    let delays = text.split(',').map(|delay| delay.trim().parse::<u32>());
    delays
        .collect::<Result<_, _>>()
        .with_context(|| format!("--retry-delays-s {text}: write it as 10,60,3600, or none"))
}
