//! Joining the cluster: registers this process, and takes free shards. It waits while a node with
//! the same name may be alive.

use std::collections::BTreeSet;
use std::time::Duration;

use super::membership::Membership;
use crate::domain::SettingError;
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::handover::TailEnd;
use crate::domain::ids::InstanceId;
use crate::domain::node::NodeRecord;
use crate::store::{LeaseView, Store, StoreError, Takeover, Writer};

/// Time for which an ended node is shown.
const DEAD_NODE_SHOWN_FOR: Duration = Duration::from_secs(24 * 3600);

/// Result of one try to join.
pub(crate) enum JoinStep {
    /// This process is a member. What it took over.
    Joined(Takeover),
    /// A node with its name was alive a moment ago: try again.
    Waiting,
    /// A node with its name is alive.
    NameTaken(SettingError),
}

/// The tries of one process to join.
#[derive(Debug, Default)]
pub(crate) struct Joining {
    /// The node with the same name as it was seen first, and the monotonic time of that.
    namesake: Option<(InstanceId, Timestamp, Duration)>,
}

impl Joining {
    /// Joins, unless a node with the same name may be alive. A node that restarts under its own name
    /// joins once its former process has certainly ended.
    pub(crate) fn step(
        &mut self,
        store: &Store,
        membership: &Membership,
        clock: &dyn Clock,
    ) -> Result<JoinStep, StoreError> {
        let view = store.leases_here(clock)?;
        let name = membership.node.name.as_str();
        if let Some(namesake) = namesake(&view, membership) {
            return Ok(match self.is_alive(namesake, membership, clock) {
                true => JoinStep::NameTaken(name_taken(name)),
                false => JoinStep::Waiting,
            });
        }
        let instance = membership.instance();
        let others = view
            .nodes
            .iter()
            .filter(|node| membership.proves_gone(node));
        let others = others.map(|node| node.instance.clone());
        membership.set_gone(others.chain([instance.clone()]).collect());
        // Removes entries of former nodes with this name, and of long ended processes.
        let is_old = |node: &&NodeRecord| {
            node.name == name
                || membership.gone().contains(&node.instance)
                || node.expires_at < view.now - DEAD_NODE_SHOWN_FOR
        };
        let old = view.nodes.iter().filter(is_old);
        let old: Vec<InstanceId> = old.map(|node| node.instance.clone()).collect();
        let mut writer = Writer::open(store)?;
        let takeover = writer.run(|tx| {
            let term = membership.lease_term(clock);
            tx.forget_nodes(&old)?;
            tx.keep_node(&membership.node, &term)?;
            // Without their entries they seem to have signed off.
            tx.end_tails_of(&old, TailEnd::Overdue, clock)?;
            let view = tx.leases(clock)?;
            let plan = membership.plan(&view, &[], &BTreeSet::new());
            tx.take_over(&plan.take, &term)
        })?;
        Ok(JoinStep::Joined(takeover))
    }

    /// Returns true if the node with the same name is certainly alive: it has reported since it was
    /// seen first, or for longer than its lease lasts.
    fn is_alive(
        &mut self,
        namesake: &NodeRecord,
        membership: &Membership,
        clock: &dyn Clock,
    ) -> bool {
        let now = clock.monotonic();
        let (instance, expires_at, since) = self.namesake.get_or_insert_with(|| {
            let name = &namesake.name;
            tracing::info!(
                "a node named {name} was alive a moment ago: waiting to see if it still is"
            );
            (namesake.instance.clone(), namesake.expires_at, now)
        });
        membership.proves_alive(namesake)
            || (&namesake.instance, namesake.expires_at) != (&*instance, *expires_at)
            || now.saturating_sub(*since) > membership.terms.ttl * 2
    }
}

/// Returns the node with the same name that may be alive.
fn namesake<'v>(view: &'v LeaseView, membership: &Membership) -> Option<&'v NodeRecord> {
    view.nodes.iter().find(|node| {
        node.name == membership.node.name
            && node.is_alive(view.now)
            && !membership.proves_gone(node)
    })
}

fn name_taken(name: &str) -> SettingError {
    let detail = format!(
        "a node named `{name}` is already running on this database: give this one another name (--node-name)"
    );
    SettingError::new("node_name", detail)
}
