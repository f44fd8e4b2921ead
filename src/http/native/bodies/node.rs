//! Nodes.

use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::clock::Timestamp;
use crate::engine::Node;

/// A node.
#[derive(ToSchema, Serialize)]
#[schema(as = Node, example = json!({
    "name": "web-1", "since": "2026-11-25T10:00:00.000000Z", "alive": true, "shards": 64
}))]
pub(crate) struct NodeBody {
    name: String,
    since: Timestamp,
    alive: bool,
    /// Number of shards (groups of endpoints) that it sends for.
    shards: u32,
}

impl From<Node> for NodeBody {
    fn from(node: Node) -> Self {
        Self {
            name: node.name,
            since: node.since,
            alive: node.alive,
            shards: node.shards,
        }
    }
}
