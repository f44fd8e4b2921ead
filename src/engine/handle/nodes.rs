//! The processes that share the database.

use std::sync::Arc;

use super::Postrider;
use crate::domain::clock::Timestamp;
use crate::engine::error::Error;

/// A process that sends.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Node {
    /// Name of the node (`node_name`).
    pub name: String,
    /// Start of the process.
    pub since: Timestamp,
    /// True if it has reported recently.
    pub alive: bool,
    /// Number of shards that it sends for.
    pub shards: u32,
}

impl Postrider {
    /// Returns the processes that share the database, oldest first. Ended ones are shown for a day.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn nodes(&self) -> Result<Vec<Node>, Error> {
        let view = self
            .store()
            .leases(Arc::clone(&self.context().clock))
            .await?;
        let nodes = view.nodes.iter().map(|node| {
            let held = view
                .shards
                .iter()
                .filter(|state| state.holder.as_ref() == Some(&node.instance));
            Node {
                name: node.name.clone(),
                since: node.started_at,
                alive: node.is_alive(view.now),
                shards: u32::try_from(held.count()).unwrap_or(0),
            }
        });
        Ok(nodes.collect())
    }
}
