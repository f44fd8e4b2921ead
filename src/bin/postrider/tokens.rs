//! `postrider tokens`: who else may call the server's API.

use clap::Subcommand;
use reqwest::Method;
use serde_json::json;

use crate::api::{Client, segment};
use crate::look::Listing;
use crate::output::{Failure, card, print, text};

#[derive(Debug, Subcommand)]
pub(crate) enum Tokens {
    /// Make a token; it is printed once.
    Create(Create),
    /// List tokens, newest first.
    List(List),
    /// Make a token worthless.
    Revoke(Revoke),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// Whose token it is, for people
    name: String,
    /// What it is good for: admin, publish or read
    #[arg(long)]
    scope: String,
    /// Good for this tenant alone [default: for all]
    #[arg(long)]
    tenant: Option<String>,
    #[command(flatten)]
    client: Client,
}

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Only those bound to this tenant
    #[arg(long)]
    tenant: Option<String>,
    #[command(flatten)]
    listing: Listing,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Revoke {
    /// The token's id, tok_…
    id: String,
    #[command(flatten)]
    client: Client,
}

impl Tokens {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        match self {
            Self::Create(create) => create.run().await,
            Self::List(list) => list.run().await,
            Self::Revoke(revoke) => revoke.run().await,
        }
    }
}

impl Create {
    async fn run(self) -> Result<(), Failure> {
        let body = json!({"name": self.name, "scope": self.scope, "tenant": self.tenant});
        let answer = self
            .client
            .call(Method::POST, "/tokens", Some(body.to_string()))
            .await?;
        print(&answer, self.client.json, |answer| {
            let shown = card(
                answer,
                &[
                    ("id", "id"),
                    ("name", "name"),
                    ("scope", "scope"),
                    ("tenant", "tenant"),
                ],
            );
            format!(
                "{shown}\ntoken   {}\nIt is shown this once: keep it now.",
                text(answer, "token")
            )
        });
        Ok(())
    }
}

impl List {
    async fn run(self) -> Result<(), Failure> {
        let columns = [
            ("ID", "id"),
            ("NAME", "name"),
            ("SCOPE", "scope"),
            ("TENANT", "tenant"),
            ("CREATED", "created_at"),
        ];
        self.listing
            .show("/tokens", &[("tenant", self.tenant)], &columns)
            .await
    }
}

impl Revoke {
    async fn run(self) -> Result<(), Failure> {
        let path = format!("/tokens/{}", segment(&self.id));
        let answer = self.client.call(Method::DELETE, &path, None).await?;
        print(&answer, self.client.json, |_| {
            format!("token {} is worth nothing any more", self.id)
        });
        Ok(())
    }
}
