//! The settings of an endpoint, given when it is added or changed.

use std::path::PathBuf;

use anyhow::{Context, bail};
use serde_json::{Map, Value, json};

use crate::input;

#[derive(Debug, Default, clap::Args)]
pub(crate) struct EndpointFields {
    /// A description shown in lists
    #[arg(long)]
    description: Option<String>,
    /// Event types to receive: exact names or prefixes like invoice.* (comma-separated), or `all`
    /// [default: all]
    #[arg(long, value_delimiter = ',', value_name = "TYPES")]
    event_types: Option<Vec<String>>,
    /// A header to send with every request, NAME=VALUE (repeatable)
    #[arg(
        long = "header",
        value_name = "NAME=VALUE",
        conflicts_with = "headers_file"
    )]
    headers: Option<Vec<String>>,
    /// File with the headers to send with every request, as a JSON object (`-`: standard input);
    /// use it for secret headers
    #[arg(long, value_name = "FILE")]
    headers_file: Option<PathBuf>,
    /// Rate limit (attempt starts), such as 100/min or unlimited
    #[arg(long)]
    rate_limit: Option<String>,
    /// Maximum attempts in flight
    #[arg(long)]
    concurrency: Option<u32>,
    /// Timeout of a request in milliseconds
    #[arg(long)]
    timeout_ms: Option<u64>,
    /// Delays between attempts in seconds, comma-separated, or `none` for a single attempt
    #[arg(long, value_name = "SECONDS")]
    retry_delays_s: Option<String>,
    /// Maximum time a delivery waits before it expires, in seconds
    #[arg(long)]
    max_age_s: Option<u64>,
    /// Open the breaker after N consecutive failures; 0 disables it
    #[arg(long)]
    breaker_after: Option<u32>,
    /// `key` delivers events with the same ordering key in order, one at a time [default: none]
    #[arg(long)]
    ordering: Option<String>,
    /// `block` or `skip` the deliveries behind a failed one with the same key [default: block]
    #[arg(long)]
    on_failed: Option<String>,
    /// Signature schemes: v1, v1a or both (comma-separated) [default: v1]
    #[arg(long, value_delimiter = ',', value_name = "SCHEMES")]
    signing: Option<Vec<String>>,
}

impl EndpointFields {
    /// Returns the given settings as the API's JSON fields.
    pub(crate) fn into_body(self) -> anyhow::Result<Map<String, Value>> {
        let event_types = match self.event_types {
            Some(types) if types == ["all"] => Some(Vec::new()),
            types => types,
        };
        let headers = match (self.headers, self.headers_file) {
            (Some(headers), _) => Some(parse_headers(&headers)?),
            (None, Some(path)) => {
                let text = input::read(&path)?;
                // Without serde's message, which may repeat a secret.
                let headers: Map<String, Value> = serde_json::from_str(&text).map_err(|_| {
                    anyhow::anyhow!(
                        "--headers-file: {} is not a JSON object with string values",
                        path.display()
                    )
                })?;
                Some(headers)
            }
            (None, None) => None,
        };
        let delays = self
            .retry_delays_s
            .as_deref()
            .map(parse_delays)
            .transpose()?;
        let fields = [
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
        let given = fields.into_iter().filter(|(_, value)| !value.is_null());
        Ok(given
            .map(|(name, value)| (name.to_owned(), value))
            .collect())
    }
}

fn parse_headers(given: &[String]) -> anyhow::Result<Map<String, Value>> {
    let mut headers = Map::new();
    for header in given {
        // The text itself may be a secret, so it is not repeated.
        let Some((name, value)) = header.split_once('=') else {
            bail!("--header: no `=`; write it as NAME=VALUE");
        };
        headers.insert(name.trim().to_owned(), json!(value));
    }
    Ok(headers)
}

fn parse_delays(text: &str) -> anyhow::Result<Vec<u32>> {
    if text == "none" {
        return Ok(Vec::new());
    }
    let delays = text.split(',').map(|delay| delay.trim().parse::<u32>());
    delays.collect::<Result<_, _>>().with_context(|| {
        format!("--retry-delays-s {text}: not a list of seconds; write it as 10,60,3600, or none")
    })
}
