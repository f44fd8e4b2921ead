//! Joining the cluster: registers this process, and takes free shards.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::config::EngineConfig;
use crate::domain::SettingError;
use crate::domain::clock::Clock;
use crate::domain::ids::InstanceId;
use crate::domain::lease::{NodeRecord, Terms};
use crate::engine::error::StartError;
use crate::engine::leases::Leases;
use crate::engine::membership::Membership;
use crate::store::{LeaseView, ProcessLock, Store, Writer};

/// Time for which an ended node is shown.
const DEAD_NODE_SHOWN_FOR: Duration = Duration::from_secs(24 * 3600);

/// Interval between checks of a node with the same name.
const NAMESAKE_CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// Registers this process, and takes free shards. Waits if a process with its name may be alive.
///
/// # Errors
/// [`StartError::Setting`] if a process with its name is alive.
pub(super) fn join(
    store: &Store,
    lock: ProcessLock,
    config: &EngineConfig,
    clock: &Arc<dyn Clock>,
) -> Result<(Membership, Leases), StartError> {
    let name = config.node_name.as_str();
    let instance = store.ids().instance();
    let view = wait_for_name(store, &lock, name, config.lease, &**clock)?;
    let others = view.nodes.iter().filter(|node| lock.proves_gone(node));
    let others = others.map(|node| node.instance.clone());
    let gone: Vec<InstanceId> = others.chain([instance.clone()]).collect();
    // Removes entries of former nodes with this name, and of long ended processes.
    let is_old = |node: &&NodeRecord| {
        node.name == name
            || gone.contains(&node.instance)
            || node.expires_at < view.now - DEAD_NODE_SHOWN_FOR
    };
    let old: Vec<InstanceId> = view
        .nodes
        .iter()
        .filter(is_old)
        .map(|node| node.instance.clone())
        .collect();
    let membership = Membership {
        node: NodeRecord {
            instance,
            name: name.to_owned(),
            lock: lock.id().map(str::to_owned),
            started_at: clock.now(),
            expires_at: clock.now(),
        },
        gone,
        terms: config.lease,
        expires: store.is_server(),
        lock: Mutex::new(Some(lock)),
    };
    let mut writer = Writer::open(store)?;
    let (taken, asked) = writer.run(|tx| {
        let term = membership.lease_term(&**clock);
        tx.forget_nodes(&old)?;
        tx.keep_leases(&membership.node, &[], &term)?;
        let view = tx.leases(&**clock)?;
        let plan = membership.plan(&view, &[], &BTreeSet::new());
        tx.take_over(&plan.take, &term)
    })?;
    let leases = Leases::new(Arc::clone(clock), taken, membership.end(asked));
    Ok((membership, leases))
}

/// Waits while a process with the same name may be alive. A node restarting under its own name is
/// fine.
fn wait_for_name(
    store: &Store,
    lock: &ProcessLock,
    name: &str,
    terms: Terms,
    clock: &dyn Clock,
) -> Result<LeaseView, StartError> {
    let mut first_seen = None;
    // Counted, because a test's clock stands still while the thread sleeps.
    let mut waited = Duration::ZERO;
    loop {
        let view = store.leases_here(clock)?;
        let is_namesake = |node: &&NodeRecord| {
            node.name == name && node.is_alive(view.now) && !lock.proves_gone(node)
        };
        let Some(namesake) = view.nodes.iter().find(is_namesake) else {
            return Ok(view);
        };
        let seen = (namesake.instance.clone(), namesake.expires_at);
        let has_reported = match &first_seen {
            Some(first) => *first != seen,
            None => {
                tracing::info!(
                    "a node named {name} was alive a moment ago: waiting to see if it still is"
                );
                first_seen = Some(seen);
                false
            }
        };
        if lock.proves_alive(namesake) || has_reported || waited > terms.ttl * 2 {
            return Err(name_taken(name));
        }
        pause();
        waited += NAMESAKE_CHECK_INTERVAL;
    }
}

fn name_taken(name: &str) -> StartError {
    let detail = format!(
        "a node named `{name}` is already running on this database: give this one another name (--node-name)"
    );
    StartError::Setting(SettingError::new("node_name", detail))
}

#[expect(
    clippy::disallowed_methods,
    reason = "the engine's own thread, which has nothing else yet"
)]
fn pause() {
    std::thread::sleep(NAMESAKE_CHECK_INTERVAL);
}
