//! One round of the lease keeper on the database, on a blocking thread.

use std::sync::Arc;
use std::time::Duration;

use crate::domain::ids::InstanceId;
use crate::domain::lease::{Lease, Plan, Shard};
use crate::engine::context::EngineContext;
use crate::engine::membership::Membership;
use crate::store::{LeaseView, StoreError, Writer};

/// Maximum number of shards that one round takes over.
const TAKEN_AT_ONCE: usize = 8;

/// One round of the lease keeper.
pub(super) struct LeaseRound {
    pub(super) context: Arc<EngineContext>,
    pub(super) membership: Arc<Membership>,
    pub(super) writer: Option<Writer>,
    pub(super) renew: bool,
    pub(super) leaving: bool,
    /// Leases to release.
    pub(super) drained: Vec<Lease>,
}

/// Result of a round.
pub(super) struct LeaseRoundResult {
    view: LeaseView,
    /// The renewed leases, and the monotonic time of the request.
    pub(super) renewed: Option<(Vec<Lease>, Duration)>,
    pub(super) released: Vec<Lease>,
    /// The taken leases, and the monotonic time of the request.
    pub(super) taken: (Vec<Lease>, Duration),
    /// False if more shards are to be taken.
    pub(super) is_complete: bool,
    /// Shards that others should have.
    pub(super) release: Vec<Shard>,
}

impl LeaseRoundResult {
    /// Returns true if `holder` holds the lease in the database.
    pub(super) fn is_held(&self, lease: &Lease, holder: &InstanceId) -> bool {
        let row = self
            .view
            .shards
            .iter()
            .find(|state| state.lease.shard == lease.shard);
        row.is_some_and(|row| row.lease.epoch == lease.epoch && row.holder.as_ref() == Some(holder))
    }
}

impl LeaseRound {
    /// Runs the round. Returns the writer, unless an error left it in an unknown state.
    pub(super) fn execute(mut self) -> (Option<Writer>, Result<LeaseRoundResult, StoreError>) {
        let result = self.run();
        let writer = self.writer.take().filter(|_| result.is_ok());
        (writer, result)
    }

    fn run(&mut self) -> Result<LeaseRoundResult, StoreError> {
        let context = Arc::clone(&self.context);
        let membership = Arc::clone(&self.membership);
        let clock = &*context.clock;
        let term = membership.lease_term(clock);
        let held = context.leases.all();
        let asked = clock.monotonic();
        let renew = self.renew;
        let leaving = self.leaving;
        let drained = self.drained.clone();
        if renew || leaving || !drained.is_empty() {
            self.writer()?.run(|tx| {
                if renew {
                    tx.keep_leases(&membership.node, &held, &term)?;
                }
                if leaving {
                    // Others need not wait for its entry to expire.
                    tx.forget_nodes(std::slice::from_ref(membership.instance()))?;
                }
                tx.release_leases(&drained, membership.instance())
            })?;
        }
        // Reuses the renewing connection, if there is one: no reads of callers delay it.
        let view = match membership.expires {
            true => self.writer()?.run(|tx| tx.leases(clock))?,
            false => context.store.leases_here(clock)?,
        };
        let plan = match leaving {
            true => Plan::default(),
            false => membership.plan(&view, &context.leases.all(), &context.leases.leaving()),
        };
        // A takeover reads everything that is due in its shards: the own leases are renewed between
        // two of them.
        let wanted = &plan.take[..plan.take.len().min(TAKEN_AT_ONCE)];
        let taken = match wanted {
            [] => (Vec::new(), clock.monotonic()),
            wanted => self.writer()?.run(|tx| tx.take_over(wanted, &term))?,
        };
        Ok(LeaseRoundResult {
            view,
            renewed: renew.then_some((held, asked)),
            released: drained,
            taken,
            is_complete: wanted.len() == plan.take.len(),
            release: plan.release,
        })
    }

    fn writer(&mut self) -> Result<&mut Writer, StoreError> {
        match &mut self.writer {
            Some(writer) => Ok(writer),
            none => Ok(none.insert(Writer::open(&self.context.store)?)),
        }
    }
}
