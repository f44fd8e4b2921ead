//! `postrider nodes`: the processes that send.

use reqwest::Method;

use crate::api::Client;
use crate::output::{Failure, print, table};

/// List the processes that send from the server's database.
#[derive(Debug, clap::Args)]
pub(crate) struct Nodes {
    #[command(flatten)]
    client: Client,
}

impl Nodes {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let answer = self.client.call(Method::GET, "/nodes", None).await?;
        let columns = [("NAME", "name"), ("SINCE", "since"), ("ALIVE", "alive"), ("SHARDS", "shards")];
        print(&answer, self.client.json, |answer| table(answer, &columns));
        Ok(())
    }
}
