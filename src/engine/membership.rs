//! This process's constant membership in the cluster.

use std::collections::BTreeSet;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use crate::config::EngineConfig;
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::ids::InstanceId;
use crate::domain::lease::{self, Lease, Plan, Shard, Terms};
use crate::domain::node::NodeRecord;
use crate::store::{LeaseTerm, LeaseView, ProcessLock};

/// This process's membership in the cluster.
pub(crate) struct Membership {
    pub(crate) node: NodeRecord,
    /// Instances whose shards may be taken immediately: former ones that have certainly ended, and
    /// this one. Set when this process joins.
    gone: OnceLock<Vec<InstanceId>>,
    pub(crate) terms: Terms,
    /// False for a file, whose leases last as long as its lock.
    pub(crate) expires: bool,
    /// Held until the process ends, or the engine has been drained.
    lock: Mutex<Option<ProcessLock>>,
}

impl Membership {
    /// Creates the membership of a process that has not joined.
    pub(crate) fn new(
        instance: InstanceId,
        lock: ProcessLock,
        config: &EngineConfig,
        expires: bool,
        now: Timestamp,
    ) -> Self {
        Self {
            node: NodeRecord {
                instance,
                name: config.node_name.clone(),
                lock: lock.id().map(str::to_owned),
                started_at: now,
                expires_at: now,
                leaving: false,
            },
            gone: OnceLock::new(),
            terms: config.lease,
            expires,
            lock: Mutex::new(Some(lock)),
        }
    }

    pub(crate) fn gone(&self) -> &[InstanceId] {
        self.gone.get().map_or(&[], Vec::as_slice)
    }

    /// Sets the instances that have ended. The first call counts.
    pub(crate) fn set_gone(&self, instances: Vec<InstanceId>) {
        let _ = self.gone.set(instances);
    }

    /// Returns true if the process of `other` has certainly ended.
    pub(crate) fn proves_gone(&self, other: &NodeRecord) -> bool {
        let lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        lock.as_ref().is_some_and(|lock| lock.proves_gone(other))
    }

    /// Returns true if the process of `other` is certainly running.
    pub(crate) fn proves_alive(&self, other: &NodeRecord) -> bool {
        let lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        lock.as_ref().is_some_and(|lock| lock.proves_alive(other))
    }

    pub(crate) fn instance(&self) -> &InstanceId {
        &self.node.instance
    }

    /// Returns the end of a lease that was requested at `asked`.
    pub(crate) fn end(&self, asked: Duration) -> Duration {
        if self.expires {
            asked + self.terms.usable()
        } else {
            Duration::MAX
        }
    }

    /// Returns the terms on which this process takes leases.
    pub(crate) fn lease_term<'a>(&'a self, clock: &'a dyn Clock) -> LeaseTerm<'a> {
        LeaseTerm {
            holder: self.instance(),
            gone: self.gone(),
            ttl: self.terms.ttl,
            clock,
        }
    }

    /// Lets the next process take over immediately.
    pub(crate) fn unlock(&self) {
        drop(
            self.lock
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
    }

    /// Plans the leases to take and release. Shards of ended processes are free, and so are those
    /// that this process dropped because it could not renew them in time.
    pub(crate) fn plan(&self, view: &LeaseView, held: &[Lease], leaving: &BTreeSet<Shard>) -> Plan {
        let mut shards = view.shards.clone();
        for state in &mut shards {
            let dropped = !held.contains(&state.lease);
            state.holder.take_if(|holder| {
                self.gone().contains(holder) && (holder != self.instance() || dropped)
            });
        }
        lease::plan(&shards, &view.members(), self.instance(), leaving)
    }
}
