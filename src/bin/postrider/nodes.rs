//! `postrider nodes`: the nodes that share a database.

use crate::output::{CommandError, table};
use crate::show::View;

/// List the nodes that deliver from the server's database.
#[derive(Debug, clap::Args)]
pub(crate) struct NodesArgs {
    #[command(flatten)]
    view: View,
}

impl NodesArgs {
    pub(crate) async fn run(self) -> Result<(), CommandError> {
        let columns = [
            ("NAME", "name"),
            ("SINCE", "since"),
            ("ALIVE", "alive"),
            ("SHARDS", "shards"),
        ];
        self.view
            .show("/nodes", |answer| table(answer, &columns))
            .await
    }
}
