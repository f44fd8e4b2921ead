//! `postrider endpoints secret`: what an endpoint's signatures are made with.

use std::path::PathBuf;

use anyhow::Context;
use clap::Subcommand;
use reqwest::Method;
use serde_json::json;

use super::{One, path_of};
use crate::api::Client;
use crate::input;
use crate::output::{Failure, print, text};

#[derive(Debug, Subcommand)]
pub(crate) enum Secret {
    /// Show it.
    Show(One),
    /// Make a new one; both sign until the grace ends.
    Rotate(Rotate),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Rotate {
    /// The endpoint's id, ep_…
    id: String,
    /// How long the old one signs, too, at most 7d [default: 1d]
    #[arg(long, value_name = "DURATION")]
    grace: Option<String>,
    /// A file with the new secret (`-`: standard input) [default: one is made]
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    #[command(flatten)]
    client: Client,
}

impl Secret {
    pub(super) async fn run(self) -> Result<(), Failure> {
        match self {
            Self::Show(one) => one.run(Method::GET, "/secret", |answer| text(answer, "secret")).await,
            Self::Rotate(rotate) => rotate.run().await,
        }
    }
}

impl Rotate {
    async fn run(self) -> Result<(), Failure> {
        let mut body = json!({});
        if let Some(grace) = &self.grace {
            let grace = humantime::parse_duration(grace).context("--grace: write it as 12h or 7d")?;
            body["grace_s"] = json!(grace.as_secs());
        }
        if let Some(path) = &self.secret_file {
            body["secret"] = json!(input::read_secret(path)?);
        }
        let path = path_of(&self.id, "/secret/rotate");
        let answer = self.client.call(Method::POST, &path, Some(body.to_string())).await?;
        print(&answer, self.client.json, |answer| {
            let until = self.grace.as_deref().unwrap_or("1d");
            format!(
                "{}\nThe secret before it signs, too, for {until}: change the receiver's until then.",
                text(answer, "secret")
            )
        });
        Ok(())
    }
}
