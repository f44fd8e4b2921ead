//! `postrider endpoints secret`: the signing secret of an endpoint, and the older keys that still
//! sign.

use std::path::PathBuf;

use anyhow::Context;
use clap::Subcommand;
use reqwest::Method;
use serde_json::{Value, json};

use super::action::EndpointAction;
use super::path::path_of;
use crate::api::{ClientArgs, segment};
use crate::input;
use crate::output::{CommandError, items, print, text};

#[derive(Debug, Subcommand)]
pub(crate) enum SecretCommand {
    /// Show the secret, and the older keys that still sign.
    Show(EndpointAction),
    /// Rotate the secret; both secrets sign during the grace period.
    Rotate(RotateSecret),
    /// Revoke an older key immediately, before its grace period is over.
    End(EndSecret),
}

#[derive(Debug, clap::Args)]
pub(crate) struct EndSecret {
    /// Endpoint id (ep_…)
    id: String,
    /// Key id (key_…), as listed by `secret show`
    key: String,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RotateSecret {
    /// Endpoint id (ep_…)
    id: String,
    /// Time the old secret keeps signing (max 7d) [default: 1d]
    #[arg(long, value_name = "DURATION")]
    grace: Option<String>,
    /// File with the new secret (`-`: standard input) [default: generated]
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    #[command(flatten)]
    client: ClientArgs,
}

impl SecretCommand {
    pub(super) async fn run(self) -> Result<(), CommandError> {
        match self {
            Self::Show(show) => show.run(Method::GET, "/secret", format_secret).await,
            Self::Rotate(rotate) => rotate.run().await,
            Self::End(end) => end.run().await,
        }
    }
}

/// Formats the current secret, then one line per older key.
fn format_secret(answer: &Value) -> String {
    let mut lines = vec![text(answer, "secret")];
    lines.extend(items(answer, "older").iter().map(|key| {
        format!(
            "{} signs until {}",
            text(key, "id"),
            text(key, "signs_until")
        )
    }));
    lines.join("\n")
}

impl EndSecret {
    async fn run(self) -> Result<(), CommandError> {
        let path = path_of(&self.id, &format!("/secret/{}", segment(&self.key)));
        let answer = self.client.call(Method::DELETE, &path, None).await?;
        print(&answer, self.client.json, |_| {
            format!("{} has been revoked.", self.key)
        });
        Ok(())
    }
}

impl RotateSecret {
    async fn run(self) -> Result<(), CommandError> {
        let mut body = json!({});
        if let Some(grace) = &self.grace {
            let grace = humantime::parse_duration(grace).with_context(|| {
                format!("--grace {grace}: not a duration; write it as 12h or 7d")
            })?;
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
                _ if body["grace_s"] == 0 => format!("{secret}\nAll older keys have been revoked."),
                grace => format!(
                    "{secret}\nThe previous secret also signs for another {grace}: update the receiver before then."
                ),
            }
        });
        Ok(())
    }
}
