//! `postrider endpoints secret`: what an endpoint's signatures are made with.

use std::path::PathBuf;

use anyhow::Context;
use clap::Subcommand;
use reqwest::Method;
use serde_json::{Value, json};

use super::{One, path_of};
use crate::api::{Client, segment};
use crate::input;
use crate::output::{Failure, print, text};

#[derive(Debug, Subcommand)]
pub(crate) enum Secret {
    /// Show it, and the older keys that sign beside it.
    Show(One),
    /// Make a new one; both sign until the grace ends.
    Rotate(Rotate),
    /// End one older key: it signs nothing more.
    End(End),
}

#[derive(Debug, clap::Args)]
pub(crate) struct End {
    /// The endpoint's id, ep_…
    id: String,
    /// The key's id, key_…, as `show` lists it
    key: String,
    #[command(flatten)]
    client: Client,
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
            Self::Show(one) => one.run(Method::GET, "/secret", shown).await,
            Self::Rotate(rotate) => rotate.run().await,
            Self::End(end) => end.run().await,
        }
    }
}

/// The present secret, then one line per older key.
fn shown(answer: &Value) -> String {
    let older = answer["older"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default()
        .iter();
    let older = older.map(|key| {
        format!(
            "{} signs until {}",
            text(key, "id"),
            text(key, "signs_until")
        )
    });
    std::iter::once(text(answer, "secret"))
        .chain(older)
        .collect::<Vec<_>>()
        .join("\n")
}

impl End {
    async fn run(self) -> Result<(), Failure> {
        let path = path_of(&self.id, &format!("/secret/{}", segment(&self.key)));
        let answer = self.client.call(Method::DELETE, &path, None).await?;
        print(&answer, self.client.json, |_| {
            format!("{} signs nothing more.", self.key)
        });
        Ok(())
    }
}

impl Rotate {
    async fn run(self) -> Result<(), Failure> {
        let mut body = json!({});
        if let Some(grace) = &self.grace {
            let grace =
                humantime::parse_duration(grace).context("--grace: write it as 12h or 7d")?;
            body["grace_s"] = json!(grace.as_secs());
        }
        if let Some(path) = &self.secret_file {
            body["secret"] = json!(input::read_secret(path)?);
        }
        let path = path_of(&self.id, "/secret/rotate");
        let answer = self
            .client
            .call(Method::POST, &path, Some(body.to_string()))
            .await?;
        print(&answer, self.client.json, |answer| {
            let secret = text(answer, "secret");
            match self.grace.as_deref().unwrap_or("1d") {
                _ if body["grace_s"] == 0 => format!("{secret}\nEvery older key has ended."),
                grace => format!(
                    "{secret}\nThe secret before it also signs for {grace}: change the receiver's until then."
                ),
            }
        });
        Ok(())
    }
}
