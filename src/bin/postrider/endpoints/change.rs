//! `postrider endpoints add` and `set`: creating and updating endpoints.

use std::path::PathBuf;

use anyhow::anyhow;
use reqwest::Method;
use serde_json::{Value, json};

use super::fields::EndpointFields;
use super::format::format_endpoint;
use super::path::path_of;
use crate::api::ClientArgs;
use crate::input;
use crate::output::{CommandError, print, text};

#[derive(Debug, clap::Args)]
pub(crate) struct AddEndpoint {
    /// URL to send webhooks to
    url: String,
    /// Tenant of the endpoint [default: default]
    #[arg(long)]
    tenant: Option<String>,
    /// File with the signing secret (`-`: standard input) [default: generated]
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    #[command(flatten)]
    fields: EndpointFields,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct SetEndpoint {
    /// Endpoint id (ep_…)
    id: String,
    /// URL to send webhooks to
    #[arg(long)]
    url: Option<String>,
    #[command(flatten)]
    fields: EndpointFields,
    /// Settings to reset to their defaults, such as rate_limit (comma-separated)
    #[arg(long, value_delimiter = ',', value_name = "SETTINGS")]
    reset: Vec<String>,
    #[command(flatten)]
    client: ClientArgs,
}

impl AddEndpoint {
    pub(super) async fn run(self) -> Result<(), CommandError> {
        let mut body = self.fields.into_body()?;
        body.insert("url".into(), json!(self.url));
        if let Some(tenant) = self.tenant {
            body.insert("tenant".into(), json!(tenant));
        }
        if let Some(path) = self.secret_file {
            body.insert("secret".into(), json!(input::read_secret(&path)?));
        }
        let body = Value::Object(body).to_string();
        let answer = self
            .client
            .call(Method::POST, "/endpoints", Some(body))
            .await?;
        print(&answer, self.client.json, |answer| {
            format!(
                "{}\nsecret           {}\nTry it locally: POSTRIDER_SECRET=… postrider listen",
                format_endpoint(answer),
                text(answer, "secret")
            )
        });
        Ok(())
    }
}

impl SetEndpoint {
    pub(super) async fn run(self) -> Result<(), CommandError> {
        let mut body = self.fields.into_body()?;
        if let Some(url) = self.url {
            body.insert("url".into(), json!(url));
        }
        for name in self.reset {
            // Accepts the flag's spelling as well: `rate-limit`.
            body.insert(name.replace('-', "_"), Value::Null);
        }
        if body.is_empty() {
            return Err(anyhow!(
                "nothing to change: give at least one setting, such as --rate-limit 100/min"
            )
            .into());
        }
        let body = Value::Object(body).to_string();
        let answer = self
            .client
            .call(Method::PATCH, &path_of(&self.id, ""), Some(body))
            .await?;
        print(&answer, self.client.json, format_endpoint);
        Ok(())
    }
}
