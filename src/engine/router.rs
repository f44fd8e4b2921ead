//! Routing of new deliveries and hints to their actors.

use std::sync::{Arc, OnceLock};

use actix::Addr;

use super::background::{CheckLeases, LeaseKeeper, RecoveryRunner, ResumeRecoveries};
use super::leases::Leases;
use super::registry::{DeliveriesCommitted, EndpointsDue, PollNow, Registry};
use crate::store::{CommittedDelivery, Hint, Hints};

/// The actors that receive messages from outside of their `System`.
pub(crate) struct Addresses {
    pub(crate) registry: Addr<Registry>,
    pub(crate) lease_keeper: Addr<LeaseKeeper>,
    pub(crate) recovery_runner: Addr<RecoveryRunner>,
}

/// Routes messages to the actors once they are started. A full mailbox drops the message, not the
/// work: memory stays bounded, and the poll finds the work.
#[derive(Clone, Default)]
pub(crate) struct Router {
    addresses: Arc<OnceLock<Addresses>>,
}

impl Router {
    /// Sets the actors.
    pub(crate) fn connect(&self, addresses: Addresses) {
        let _ = self.addresses.set(addresses);
    }

    /// Routes a hint from another process.
    pub(crate) fn hint(&self, hint: Hint) {
        let Some(to) = self.addresses.get() else {
            return;
        };
        match hint {
            Hint::Due(endpoints) => drop(to.registry.try_send(EndpointsDue(endpoints))),
            Hint::Changed => {
                let _ = to.registry.try_send(PollNow);
                let _ = to.recovery_runner.try_send(ResumeRecoveries);
            }
            Hint::Leases => drop(to.lease_keeper.try_send(CheckLeases)),
        }
    }

    /// Routes deliveries that were just committed: our own to the registry, others as hints to
    /// their nodes.
    pub(crate) fn committed(&self, new: Vec<CommittedDelivery>, leases: &Leases, hints: &Hints) {
        let mut own = Vec::with_capacity(new.len());
        let mut others = Vec::new();
        for delivery in new {
            if leases.for_new_work(&delivery.endpoint_id).is_some() {
                own.push(delivery);
            } else {
                others.push(delivery.endpoint_id);
            }
        }
        if !others.is_empty() {
            hints.send(Hint::Due(others));
        }
        if let Some(to) = self.addresses.get().filter(|_| !own.is_empty()) {
            let _ = to.registry.try_send(DeliveriesCommitted(own));
        }
    }
}
