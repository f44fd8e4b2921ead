//! Nodes: the processes that share a database.

use super::clock::Timestamp;
use super::ids::InstanceId;

/// A process that shares the database, as it has entered itself there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRecord {
    /// Id of the process.
    pub instance: InstanceId,
    /// Name of the node (`node_name`).
    pub name: String,
    /// Id of the lock that proves on its host whether it lives.
    pub lock: Option<String>,
    /// Start of the process.
    pub started_at: Timestamp,
    /// The time until which it counts as alive unless it reports again.
    pub expires_at: Timestamp,
    /// True while it hands its shards over: others share them without it.
    pub leaving: bool,
}

impl NodeRecord {
    /// Returns true while the process has reported recently.
    #[must_use]
    pub fn is_alive(&self, now: Timestamp) -> bool {
        self.expires_at > now
    }
}
