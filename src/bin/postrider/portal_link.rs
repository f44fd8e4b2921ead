//! `postrider portal-link`: a link by which a tenant sees to its own endpoints.

use anyhow::Context;
use reqwest::Method;
use serde_json::json;

use crate::api::{Client, segment};
use crate::output::{Failure, print, text};

/// Make a link by which a tenant sees to its own endpoints, in a browser.
#[derive(Debug, clap::Args)]
pub(crate) struct PortalLink {
    /// Whose endpoints
    tenant: String,
    /// How long the link is good for
    #[arg(long, value_name = "DURATION", default_value = "1h")]
    expires: String,
    #[command(flatten)]
    client: Client,
}

impl PortalLink {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let expires =
            humantime::parse_duration(&self.expires).context("--expires: write it as 1h or 30m")?;
        let path = format!("/tenants/{}/portal-link", segment(&self.tenant));
        let body = json!({"expires_s": expires.as_secs()}).to_string();
        let answer = self.client.call(Method::POST, &path, Some(body)).await?;
        print(&answer, self.client.json, |answer| {
            let (url, until) = (text(answer, "url"), text(answer, "expires_at"));
            let told = format!(
                "{url}\nWhoever has it may see to the endpoints of {}, until {until}.",
                self.tenant
            );
            let here = ["://127.", "://localhost", "://[::1]"]
                .iter()
                .any(|host| url.contains(host));
            let remedy =
                "\nIt leads to this machine: name the server as its customers do, by --server.";
            if here { told + remedy } else { told }
        });
        Ok(())
    }
}
