//! The processes that share the database.

use serde::Serialize;

use super::{Error, Postrider};
use crate::domain::clock::Timestamp;
use crate::store::look_at_leases;

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
    /// The processes that share the database, oldest first; those that went away are shown for a
    /// day.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn nodes(&self) -> Result<Vec<Node>, Error> {
        let clock = std::sync::Arc::clone(&self.shared.clock);
        let view = self
            .read("nodes", move |conn, _| look_at_leases(conn, &*clock))
            .await?;
        let holders = || view.shards.iter().filter_map(|state| state.holder.as_ref());
        let node = |row: &crate::store::NodeRow| Node {
            name: row.name.clone(),
            since: Timestamp::from_micros(row.started_at),
            alive: row.is_alive(view.now),
            shards: u32::try_from(holders().filter(|one| one.as_str() == row.instance).count())
                .unwrap_or(0),
        };
        Ok(view.nodes.iter().map(node).collect())
    }
}
