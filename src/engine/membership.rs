//! This process's constant membership in the cluster.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::domain::clock::Clock;
use crate::domain::ids::InstanceId;
use crate::domain::lease::{self, Lease, NodeRecord, Plan, Shard, Terms};
use crate::store::{LeaseTerm, LeaseView, ProcessLock};

/// This process's membership in the cluster.
pub(crate) struct Membership {
    pub(crate) node: NodeRecord,
    /// Instances whose shards may be taken immediately: former ones that have certainly ended, and
    /// this one.
    pub(crate) gone: Vec<InstanceId>,
    pub(crate) terms: Terms,
    /// False for a file, whose leases last as long as its lock.
    pub(crate) expires: bool,
    /// Held until the process ends, or the engine has been drained.
    pub(crate) lock: Mutex<Option<ProcessLock>>,
}

impl Membership {
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
            gone: &self.gone,
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
                self.gone.contains(holder) && (holder != self.instance() || dropped)
            });
        }
        lease::plan(&shards, &view.alive(), self.instance(), leaving)
    }
}
