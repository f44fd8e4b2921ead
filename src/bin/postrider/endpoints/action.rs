//! Commands that do one thing to an endpoint.

use reqwest::Method;
use serde_json::Value;

use super::path::path_of;
use crate::api::ClientArgs;
use crate::output::{CommandError, print};

#[derive(Debug, clap::Args)]
pub(crate) struct EndpointAction {
    /// Endpoint id (ep_…)
    pub(super) id: String,
    #[command(flatten)]
    client: ClientArgs,
}

impl EndpointAction {
    pub(super) async fn run(
        self,
        method: Method,
        action: &str,
        human: impl FnOnce(&Value) -> String,
    ) -> Result<(), CommandError> {
        let answer = self
            .client
            .call(method, &path_of(&self.id, action), None)
            .await?;
        print(&answer, self.client.json, human);
        Ok(())
    }
}
