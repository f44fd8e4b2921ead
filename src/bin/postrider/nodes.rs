//! `postrider nodes`: the processes that send.

use crate::look::Look;
use crate::output::{Failure, table};

/// List the processes that send from the server's database.
#[derive(Debug, clap::Args)]
pub(crate) struct Nodes {
    #[command(flatten)]
    look: Look,
}

impl Nodes {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let columns = [
            ("NAME", "name"),
            ("SINCE", "since"),
            ("ALIVE", "alive"),
            ("SHARDS", "shards"),
        ];
        self.look
            .show("/nodes", |answer| table(answer, &columns))
            .await
    }
}
