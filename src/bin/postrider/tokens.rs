//! `postrider tokens`: API tokens besides the operator's.

use clap::Subcommand;
use reqwest::Method;
use serde_json::{Value, json};

use crate::api::{ClientArgs, segment};
use crate::output::{CommandError, key_value_lines, print, text};
use crate::show::Listing;

#[derive(Debug, Subcommand)]
pub(crate) enum TokensCommand {
    /// Create a token (shown only once).
    Create(CreateToken),
    /// List tokens, newest first.
    List(ListTokens),
    /// Revoke a token.
    Revoke(RevokeToken),
}

#[derive(Debug, clap::Args)]
pub(crate) struct CreateToken {
    /// Name shown in lists, such as the application that uses the token
    name: String,
    /// Scope: admin, publish or read
    #[arg(long)]
    scope: String,
    /// Restrict the token to this tenant [default: all tenants]
    #[arg(long)]
    tenant: Option<String>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ListTokens {
    /// Only tokens restricted to this tenant
    #[arg(long)]
    tenant: Option<String>,
    #[command(flatten)]
    listing: Listing,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RevokeToken {
    /// Token id (tok_…)
    id: String,
    #[command(flatten)]
    client: ClientArgs,
}

impl TokensCommand {
    pub(crate) async fn run(self) -> Result<(), CommandError> {
        match self {
            Self::Create(create) => create.run().await,
            Self::List(list) => list.run().await,
            Self::Revoke(revoke) => revoke.run().await,
        }
    }
}

impl CreateToken {
    async fn run(self) -> Result<(), CommandError> {
        let body = json!({"name": self.name, "scope": self.scope, "tenant": self.tenant});
        let answer = self
            .client
            .call(Method::POST, "/tokens", Some(body.to_string()))
            .await?;
        print(&answer, self.client.json, format_new_token);
        Ok(())
    }
}

fn format_new_token(answer: &Value) -> String {
    let fields = [
        ("id", "id"),
        ("name", "name"),
        ("scope", "scope"),
        ("tenant", "tenant"),
    ];
    format!(
        "{}\ntoken   {}\nStore it now: it is not shown again.",
        key_value_lines(answer, &fields),
        text(answer, "token")
    )
}

impl ListTokens {
    async fn run(self) -> Result<(), CommandError> {
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

impl RevokeToken {
    async fn run(self) -> Result<(), CommandError> {
        let path = format!("/tokens/{}", segment(&self.id));
        let answer = self.client.call(Method::DELETE, &path, None).await?;
        print(&answer, self.client.json, |_| {
            format!("token {} has been revoked", self.id)
        });
        Ok(())
    }
}
