//! The processes that send from the database.

use serde::Serialize;

use super::{Error, Postrider};
use crate::domain::clock::Timestamp;

/// A process that sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Node {
    /// What it is called (`node_name`).
    pub name: String,
    /// When it started.
    pub since: Timestamp,
    /// Whether it was heard of lately.
    pub alive: bool,
    /// How many of the parts that the endpoints are dealt out in it sends for.
    pub shards: u32,
}

impl Postrider {
    /// The processes that send: this one alone, which holds the right to.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn nodes(&self) -> Result<Vec<Node>, Error> {
        self.ready().await?;
        let (name, since) = (self.shared.config.node_name.clone(), self.shared.started_at);
        Ok(vec![Node { name, since, alive: true, shards: 1 }])
    }
}
