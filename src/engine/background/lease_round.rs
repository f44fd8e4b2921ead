//! One round of the lease keeper on the database, on a blocking thread.

use std::sync::Arc;
use std::time::Duration;

use crate::domain::handover::{Tail, TailEnd};
use crate::domain::ids::InstanceId;
use crate::domain::lease::{Lease, Shard};
use crate::domain::node::NodeRecord;
use crate::engine::context::EngineContext;
use crate::engine::membership::Membership;
use crate::ports::failpoint;
use crate::store::{Handover, LeaseView, StoreError, Takeover, Writer};

/// Maximum number of shards that one round takes over.
const TAKEN_AT_ONCE: usize = 8;

/// One round of the lease keeper.
pub(super) struct LeaseRound {
    pub(super) context: Arc<EngineContext>,
    pub(super) membership: Arc<Membership>,
    pub(super) writer: Option<Writer>,
    pub(super) renew: bool,
    pub(super) leaving: bool,
    /// Leases to give up while attempts of them are in flight.
    pub(super) handovers: Vec<Handover>,
    /// Leases in which nothing is in flight any more: to be released, or, once they are given up, to
    /// be freed of their tails.
    pub(super) drained: Vec<Lease>,
}

/// Result of a round.
pub(super) struct LeaseRoundResult {
    view: LeaseView,
    /// The renewed leases, and the monotonic time of the request.
    pub(super) renewed: Option<(Vec<Lease>, Duration)>,
    pub(super) released: Vec<Lease>,
    pub(super) taken: Option<Takeover>,
    /// False if more shards are to be taken, also because another process was faster with some.
    pub(super) is_complete: bool,
    /// Shards that others should have.
    pub(super) release: Vec<Shard>,
}

impl LeaseRoundResult {
    /// Returns true if `holder` holds the lease in the database.
    pub(super) fn is_held(&self, lease: &Lease, holder: &InstanceId) -> bool {
        let row = self.view.shard(lease.shard);
        row.is_some_and(|row| row.lease.epoch == lease.epoch && row.holder.as_ref() == Some(holder))
    }

    /// Returns true if `instance` has given the lease up, and its attempts are the shard's tail.
    pub(super) fn is_tail(&self, lease: &Lease, instance: &InstanceId) -> bool {
        let tail = self
            .view
            .shard(lease.shard)
            .and_then(|row| row.tail.as_ref());
        tail.is_some_and(|tail| tail.epoch == lease.epoch && tail.instance == *instance)
    }

    /// Returns the tails of all shards.
    pub(super) fn tails(&self) -> impl Iterator<Item = (Shard, Option<Tail>)> {
        let shards = self.view.shards.iter();
        shards.map(|state| (state.lease.shard, state.tail.clone()))
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
        let handovers = std::mem::take(&mut self.handovers);
        let gives_up = !handovers.is_empty();
        let node = NodeRecord {
            leaving,
            ..membership.node.clone()
        };
        if gives_up {
            failpoint!("before-handover");
        }
        if renew || leaving || !drained.is_empty() || gives_up {
            self.writer()?.run(|tx| {
                if renew || leaving {
                    tx.keep_node(&node, &term)?;
                }
                tx.lock_leases(held.iter().chain(&drained))?;
                if renew || leaving {
                    tx.keep_leases(&held, &term)?;
                }
                tx.hand_over(&handovers, membership.terms.margin, &term)?;
                tx.release_leases(&drained, membership.instance())?;
                tx.drop_tails(&drained, membership.instance())
            })?;
        }
        if gives_up {
            failpoint!("after-handover");
        }
        // Reuses the renewing connection, if there is one: no reads of callers delay it.
        let mut view = match membership.expires {
            true => self.writer()?.run(|tx| tx.leases(clock))?,
            false => context.store.leases_here(clock)?,
        };
        self.end_tails(&mut view)?;
        let plan = membership.plan(&view, &held, &context.leases.leaving());
        // A takeover reads everything that is due in its shards: the own leases are renewed between
        // two of them.
        let wanted = &plan.take[..plan.take.len().min(TAKEN_AT_ONCE)];
        let taken = match wanted {
            [] => None,
            wanted => {
                failpoint!("before-takeover");
                let takeover = self.writer()?.run(|tx| tx.take_over(wanted, &term))?;
                failpoint!("after-takeover");
                Some(takeover)
            }
        };
        Ok(LeaseRoundResult {
            view,
            renewed: (renew || leaving).then_some((held, asked)),
            released: drained,
            is_complete: plan.take.len() == taken.as_ref().map_or(0, |one| one.leases.len()),
            taken,
            release: plan.release,
        })
    }

    /// Ends the tails in this process's shards whose processes have ended, or are late.
    fn end_tails(&mut self, view: &mut LeaseView) -> Result<(), StoreError> {
        let instance = self.membership.instance();
        let mine = view
            .shards
            .iter()
            .filter(|state| state.holder.as_ref() == Some(instance));
        let ended: Vec<(Shard, Tail, TailEnd)> = mine
            .filter_map(|state| {
                let tail = state.tail.clone()?;
                let end = tail.end(&view.nodes, view.now)?;
                Some((state.lease.shard, tail, end))
            })
            .collect();
        if ended.is_empty() {
            return Ok(());
        }
        failpoint!("before-tail-end");
        let at = self.context.clock.now();
        self.writer()?.run(|tx| tx.end_tails(&ended, at))?;
        for (shard, ..) in &ended {
            view.drop_tail(*shard);
        }
        Ok(())
    }

    fn writer(&mut self) -> Result<&mut Writer, StoreError> {
        match &mut self.writer {
            Some(writer) => Ok(writer),
            none => Ok(none.insert(Writer::open(&self.context.store)?)),
        }
    }
}
