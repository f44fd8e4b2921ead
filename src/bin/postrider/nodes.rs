//! `postrider nodes`: the processes that send.

use crate::api::Client;
use crate::output::{Failure, table};
use crate::watch::Watch;

/// List the processes that send from the server's database.
#[derive(Debug, clap::Args)]
pub(crate) struct Nodes {
    #[command(flatten)]
    watch: Watch,
    #[command(flatten)]
    client: Client,
}

impl Nodes {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let columns = [("NAME", "name"), ("SINCE", "since"), ("ALIVE", "alive"), ("SHARDS", "shards")];
        self.watch.show(&self.client, "/nodes", |answer| table(answer, &columns)).await
    }
}
