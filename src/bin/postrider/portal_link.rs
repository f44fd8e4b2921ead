//! `postrider portal-link`: links to the portal, in which a tenant manages its own endpoints.

use anyhow::Context;
use reqwest::Method;
use serde_json::{Value, json};

use crate::api::{ClientArgs, segment};
use crate::output::{CommandError, print, text};

/// Create a portal link for a tenant, who can manage its own endpoints with it in a browser.
#[derive(Debug, clap::Args)]
pub(crate) struct PortalLinkArgs {
    /// Tenant whose endpoints the link opens
    tenant: String,
    /// Time the link is valid
    #[arg(long, value_name = "DURATION", default_value = "1h")]
    expires: String,
    #[command(flatten)]
    client: ClientArgs,
}

impl PortalLinkArgs {
    pub(crate) async fn run(self) -> Result<(), CommandError> {
        let expires = humantime::parse_duration(&self.expires).with_context(|| {
            format!(
                "--expires {}: not a duration; write it as 1h or 30m",
                self.expires
            )
        })?;
        let path = format!("/tenants/{}/portal-link", segment(&self.tenant));
        let body = json!({"expires_s": expires.as_secs()}).to_string();
        let answer = self.client.call(Method::POST, &path, Some(body)).await?;
        print(&answer, self.client.json, |answer| {
            format_link(answer, &self.tenant)
        });
        Ok(())
    }
}

fn format_link(answer: &Value, tenant: &str) -> String {
    let url = text(answer, "url");
    let expires_at = text(answer, "expires_at");
    let link = format!(
        "{url}\nAnyone with this link can manage the endpoints of {tenant} until {expires_at}."
    );
    let is_local = ["://127.", "://localhost", "://[::1]"]
        .iter()
        .any(|host| url.contains(host));
    if is_local {
        let remedy = "The link points to this machine; pass the public address with --server.";
        format!("{link}\n{remedy}")
    } else {
        link
    }
}
