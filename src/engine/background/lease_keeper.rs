//! The lease keeper: renews this process's leases, takes free ones, releases those that others
//! should have, and drops in time those that it could not renew: at `start of the last renewal +
//! ttl − margin`, on a clock that continues while the machine is suspended.
//!
//! It never sends, and `domain::lease` decides who gets what.

#![expect(
    clippy::disallowed_methods,
    reason = "an actor tells another one, which takes every message until it stops"
)]

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::oneshot;

use super::lease_round::{LeaseRound, LeaseRoundResult};
use crate::domain::lease::{Lease, Shard};
use crate::engine::context::EngineContext;
use crate::engine::joining::{JoinStep, Joining};
use crate::engine::membership::Membership;
use crate::engine::registry::{DrainShard, LeasesLost, PollNow, Registry};
use crate::metrics::LeaseChange;
use crate::ports::Blocking;
use crate::store::{StoreError, Writer};

/// Time in which drained shards are collected, to be released together.
const LEASE_BATCH_DELAY: Duration = Duration::from_millis(20);

/// Checks the leases now: something has changed.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct CheckLeases;

/// Releases all leases; answered once nothing runs in them.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct LeaveAll {
    pub(crate) done: oneshot::Sender<()>,
}

/// Participation of this process in the cluster.
enum Participation {
    Joining(Joining),
    Member,
    /// Another node has its name: it never joins.
    Refused,
}

/// The actor that maintains the leases.
pub(crate) struct LeaseKeeper {
    context: Arc<EngineContext>,
    membership: Arc<Membership>,
    registry: Addr<Registry>,
    blocking: Blocking,
    writer: Option<Writer>,
    participation: Participation,
    /// True while a round runs.
    busy: bool,
    /// True if another round was requested meanwhile.
    again: bool,
    /// True if the last round failed.
    failing: bool,
    /// Monotonic time at which the last successful renewal was requested.
    renewed: Duration,
    /// Leases in which nothing runs any more: the next round releases them.
    drained: Vec<Lease>,
    /// True once the engine stops.
    leaving: bool,
    deadline: Option<SpawnHandle>,
}

impl LeaseKeeper {
    pub(crate) fn new(
        context: &Arc<EngineContext>,
        membership: &Arc<Membership>,
        registry: Addr<Registry>,
        joining: Option<Joining>,
    ) -> Self {
        Self {
            context: Arc::clone(context),
            membership: Arc::clone(membership),
            registry,
            blocking: context.store.blocking(),
            writer: None,
            participation: joining.map_or(Participation::Member, Participation::Joining),
            busy: false,
            again: false,
            failing: false,
            renewed: context.clock.monotonic(),
            drained: Vec::new(),
            leaving: false,
            deadline: None,
        }
    }

    fn run_round(&mut self, ctx: &mut Context<Self>) {
        if self.busy {
            self.again = true;
            return;
        }
        match &mut self.participation {
            Participation::Member => self.check_leases(ctx),
            Participation::Joining(joining) if !self.leaving => {
                let joining = std::mem::take(joining);
                self.join(joining, ctx);
            }
            Participation::Joining(_) | Participation::Refused => {}
        }
    }

    fn check_leases(&mut self, ctx: &mut Context<Self>) {
        self.busy = true;
        let held = self.context.leases.all();
        // A lease that was lost meanwhile is no longer ours to release.
        self.drained.retain(|lease| held.contains(lease));
        let due = self.context.clock.monotonic() >= self.renewed + self.membership.terms.renewal;
        let round = LeaseRound {
            context: Arc::clone(&self.context),
            membership: Arc::clone(&self.membership),
            writer: self.writer.take(),
            renew: self.membership.expires && due,
            leaving: self.leaving,
            drained: self.drained.clone(),
        };
        let job = self.blocking.run(move || round.execute());
        ctx.spawn(job.into_actor(self).map(|done, keeper, ctx| {
            let (writer, result) = done.unwrap_or((None, Err(StoreError::Panicked)));
            keeper.busy = false;
            keeper.writer = writer;
            match result {
                Ok(result) => {
                    keeper.failing = false;
                    // The next ones, without waiting for the next interval.
                    keeper.again |= !result.is_complete && !result.taken.0.is_empty();
                    keeper.again |= !result.released.is_empty() && !keeper.leaving;
                    keeper.apply(result, ctx);
                }
                Err(error) => keeper.report(&error),
            }
            if std::mem::take(&mut keeper.again) {
                keeper.run_round(ctx);
            }
        }));
    }

    /// Tries to join.
    fn join(&mut self, mut joining: Joining, ctx: &mut Context<Self>) {
        self.busy = true;
        let (context, membership) = (Arc::clone(&self.context), Arc::clone(&self.membership));
        let job = self.blocking.run(move || {
            let step = joining.step(&context.store, &membership, &*context.clock);
            (joining, step)
        });
        ctx.spawn(job.into_actor(self).map(|done, keeper, ctx| {
            keeper.busy = false;
            keeper.again = false;
            let (joining, step) = done.unwrap_or((Joining::default(), Err(StoreError::Panicked)));
            keeper.participation = match step {
                Ok(JoinStep::Joined(taken, asked)) => {
                    keeper.renewed = asked;
                    keeper.adopt(&taken, asked);
                    keeper.set_deadline(ctx);
                    Participation::Member
                }
                Ok(JoinStep::Waiting) => Participation::Joining(joining),
                Ok(JoinStep::NameTaken(error)) => {
                    keeper.context.failure.send_replace(Some(error));
                    Participation::Refused
                }
                Err(error) => {
                    keeper.report(&error);
                    Participation::Joining(joining)
                }
            };
            if keeper.leaving {
                // The request to leave came while it joined.
                keeper.release_all(ctx);
            }
        }));
    }

    /// Reports a failure once, not every second.
    fn report(&mut self, error: &StoreError) {
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!(%error, "the leases could not be checked; trying again");
        }
    }

    /// Begins to send for shards that were taken.
    fn adopt(&self, taken: &[Lease], asked: Duration) {
        self.context.leases.add(taken, self.membership.end(asked));
        self.context.metrics.leases(LeaseChange::Taken, taken.len());
        if !taken.is_empty() {
            let shards = taken.len();
            tracing::info!(shards, "this node now sends for {shards} more shards");
            self.registry.do_send(PollNow);
        }
    }

    fn apply(&mut self, result: LeaseRoundResult, ctx: &mut Context<Self>) {
        let context = Arc::clone(&self.context);
        let membership = Arc::clone(&self.membership);
        if let Some((leases, asked)) = &result.renewed {
            context.leases.renew(leases, membership.end(*asked));
            self.renewed = *asked;
        }
        context.leases.remove(&result.released);
        self.drained
            .retain(|lease| !result.released.contains(lease));
        let is_lost = |lease: &Lease| !result.is_held(lease, membership.instance());
        let lost: Vec<Lease> = context.leases.all().into_iter().filter(is_lost).collect();
        self.drop_lost(&lost, "another process has taken it over, or it expired");
        let (taken, asked) = &result.taken;
        self.adopt(taken, *asked);
        context
            .metrics
            .leases(LeaseChange::GivenBack, result.released.len());
        if !result.released.is_empty() {
            let shards = result.released.len();
            tracing::info!(shards, "{shards} shards were released to other nodes");
        }
        self.release_shards(result.release, ctx);
        self.set_deadline(ctx);
    }

    /// Releases shards, each once nothing runs in it. The receivers resolve at that time.
    fn release_shards(
        &mut self,
        shards: Vec<Shard>,
        ctx: &mut Context<Self>,
    ) -> Vec<oneshot::Receiver<()>> {
        // Marked first, so that nothing new starts while the supervisors drain.
        self.context.leases.leave(&shards);
        let mut all = Vec::with_capacity(shards.len());
        for shard in shards {
            let Some(lease) = self.context.leases.of(shard) else {
                continue;
            };
            let (done, drained) = oneshot::channel();
            let (noted, is_noted) = oneshot::channel();
            self.registry.do_send(DrainShard { shard, done });
            all.push(is_noted);
            ctx.spawn(drained.into_actor(self).map(move |drained, keeper, ctx| {
                if drained.is_ok() {
                    keeper.drained.push(lease);
                    ctx.notify_later(CheckLeases, LEASE_BATCH_DELAY);
                }
                let _ = noted.send(());
            }));
        }
        all
    }

    fn release_all(&mut self, ctx: &mut Context<Self>) -> Vec<oneshot::Receiver<()>> {
        let all = self.context.leases.all().into_iter();
        self.release_shards(all.map(|lease| lease.shard).collect(), ctx)
    }

    /// Immediately stops all work in shards that are no longer ours.
    fn drop_lost(&self, leases: &[Lease], why: &str) {
        if leases.is_empty() {
            return;
        }
        let shards = leases.len();
        // Removed first: attempts check the lease before each step, however full the mailboxes are.
        self.context.leases.remove(leases);
        self.context.metrics.leases(LeaseChange::Lost, shards);
        tracing::warn!(shards, "this node has lost {shards} of its shards: {why}");
        self.registry
            .do_send(LeasesLost(leases.iter().map(|lease| lease.shard).collect()));
    }

    /// Sets one timer, for the first lease to expire.
    fn set_deadline(&mut self, ctx: &mut Context<Self>) {
        let held = i64::try_from(self.context.leases.all().len()).unwrap_or(i64::MAX);
        self.context.metrics.shards.set(held);
        if let Some(timer) = self.deadline.take() {
            ctx.cancel_future(timer);
        }
        let first = self
            .context
            .leases
            .first_end()
            .filter(|end| *end < Duration::MAX);
        self.deadline = first.map(|end| {
            let wait = end.saturating_sub(self.context.clock.monotonic());
            ctx.run_later(wait, |keeper, ctx| {
                let expired = keeper.context.leases.expired();
                keeper.drop_lost(&expired, "they could not be renewed in time");
                keeper.set_deadline(ctx);
            })
        });
    }
}

impl Actor for LeaseKeeper {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.set_deadline(ctx);
        let renewal = self.membership.terms.renewal;
        // Leases that do not expire hardly need checking.
        let interval = match self.membership.expires {
            true => self.context.config.poll_interval.min(renewal),
            false => renewal,
        };
        ctx.run_interval(interval, Self::run_round);
    }
}

impl Handler<CheckLeases> for LeaseKeeper {
    type Result = ();
    fn handle(&mut self, _: CheckLeases, ctx: &mut Self::Context) {
        self.run_round(ctx);
    }
}

impl Handler<LeaveAll> for LeaseKeeper {
    type Result = ();
    fn handle(&mut self, LeaveAll { done }: LeaveAll, ctx: &mut Self::Context) {
        self.leaving = true;
        let all = self.release_all(ctx);
        let left = async move {
            for drained in all {
                let _ = drained.await;
            }
            let _ = done.send(());
        };
        ctx.spawn(left.into_actor(self));
    }
}
