//! Endpoints are added, and changed later.

use std::path::PathBuf;

use anyhow::anyhow;
use reqwest::Method;
use serde_json::{Value, json};

use super::fields::Fields;
use super::{path_of, shown};
use crate::api::Client;
use crate::input;
use crate::output::{Failure, print, text};

#[derive(Debug, clap::Args)]
pub(crate) struct Add {
    /// Where webhooks go
    url: String,
    /// Whose endpoint it is [default: default]
    #[arg(long)]
    tenant: Option<String>,
    /// A file with the secret to sign by (`-`: standard input) [default: one is made]
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    #[command(flatten)]
    fields: Fields,
    #[command(flatten)]
    client: Client,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Set {
    /// The endpoint's id, ep_…
    id: String,
    /// Where webhooks go
    #[arg(long)]
    url: Option<String>,
    #[command(flatten)]
    fields: Fields,
    /// Back to the default: names of settings, such as rate_limit (comma-separated)
    #[arg(long, value_delimiter = ',', value_name = "SETTINGS")]
    reset: Vec<String>,
    #[command(flatten)]
    client: Client,
}

impl Add {
    pub(super) async fn run(self) -> Result<(), Failure> {
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
                "{}\nsecret           {}\nSecret and id are all that a receiver needs: POSTRIDER_SECRET=… postrider listen",
                shown(answer),
                text(answer, "secret")
            )
        });
        Ok(())
    }
}

impl Set {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let mut body = self.fields.into_body()?;
        if let Some(url) = self.url {
            body.insert("url".into(), json!(url));
        }
        for name in self.reset {
            // `rate-limit` is what the flag is called.
            body.insert(name.replace('-', "_"), Value::Null);
        }
        if body.is_empty() {
            return Err(
                anyhow!("nothing to change: name a setting, such as --rate-limit 100/min").into(),
            );
        }
        let body = Value::Object(body).to_string();
        let answer = self
            .client
            .call(Method::PATCH, &path_of(&self.id, ""), Some(body))
            .await?;
        print(&answer, self.client.json, shown);
        Ok(())
    }
}
