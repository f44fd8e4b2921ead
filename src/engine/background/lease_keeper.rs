//! The lease keeper: renews this process's leases, takes free ones, hands over those that others
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
use crate::engine::messages::Quiet;
use crate::engine::registry::{DrainShard, LeasesLost, PollNow, Registry};
use crate::metrics::LeaseChange;
use crate::ports::Blocking;
use crate::store::{Handover, StoreError, Takeover, Writer};

/// Time in which shards are collected, to be handed over together.
const LEASE_BATCH_DELAY: Duration = Duration::from_millis(20);

/// Checks the leases now: something has changed.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct CheckLeases;

/// Hands all leases over; answered once nothing runs in them.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct LeaveAll {
    pub(crate) done: oneshot::Sender<()>,
}

/// Hands over the rest as well, whatever former owners still have in flight in it.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct LetGo;

/// Participation of this process in the cluster.
enum Participation {
    Joining(Joining),
    Member,
    /// Another node has its name: it never joins.
    Refused,
    /// It has handed everything over.
    Left,
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
    /// Leases under which nothing more starts: the next round gives them up.
    handovers: Vec<Handover>,
    /// Leases in which nothing is in flight any more: the next round releases them, or ends their
    /// tails.
    drained: Vec<Lease>,
    /// Number of leases whose last attempts have not ended.
    draining: usize,
    /// True once the engine stops.
    leaving: bool,
    /// Answered once the engine stops and nothing is in flight.
    left: Option<oneshot::Sender<()>>,
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
            handovers: Vec::new(),
            drained: Vec::new(),
            draining: 0,
            leaving: false,
            left: None,
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
            Participation::Joining(_) | Participation::Refused | Participation::Left => {}
        }
    }

    fn check_leases(&mut self, ctx: &mut Context<Self>) {
        self.busy = true;
        let held = self.context.leases.all();
        let given_up = self.context.leases.given_up();
        // A lease that was lost meanwhile is no longer ours to release.
        self.drained
            .retain(|lease| held.contains(lease) || given_up.contains(lease));
        let drained = &self.drained;
        self.handovers
            .retain(|one| held.contains(&one.lease) && !drained.contains(&one.lease));
        let due = self.context.clock.monotonic() >= self.renewed + self.membership.terms.renewal;
        let round = LeaseRound {
            context: Arc::clone(&self.context),
            membership: Arc::clone(&self.membership),
            writer: self.writer.take(),
            renew: self.membership.expires && due,
            leaving: self.leaving,
            handovers: self.handovers.clone(),
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
                    let taken = result.taken.as_ref().map_or(0, |one| one.leases.len());
                    keeper.again |= !result.is_complete && taken > 0;
                    if !result.is_complete && taken == 0 {
                        // Another transaction works in them.
                        ctx.notify_later(CheckLeases, LEASE_BATCH_DELAY);
                    }
                    keeper.again |= !result.released.is_empty() && !keeper.leaving;
                    keeper.apply(result, ctx);
                }
                Err(error) => {
                    keeper.report(&error);
                    keeper.answer_left();
                }
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
                Ok(JoinStep::Joined(takeover)) => {
                    keeper.renewed = takeover.asked;
                    keeper.adopt(&takeover);
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
                keeper.answer_left();
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
    fn adopt(&self, takeover: &Takeover) {
        let until = self.membership.end(takeover.asked);
        self.context.leases.take(takeover, until);
        let shards = takeover.leases.len();
        self.context.metrics.leases(LeaseChange::Taken, shards);
        if shards > 0 {
            tracing::info!(shards, "this node now sends for {shards} more shards");
            self.registry.do_send(PollNow);
        }
    }

    fn apply(&mut self, result: LeaseRoundResult, ctx: &mut Context<Self>) {
        let context = Arc::clone(&self.context);
        let membership = Arc::clone(&self.membership);
        let held = context.leases.all();
        let released = result.released.iter();
        let released_now = released.filter(|lease| held.contains(lease)).count();
        if let Some((leases, asked)) = &result.renewed {
            context.leases.renew(leases, membership.end(*asked));
            self.renewed = *asked;
        }
        context.leases.remove(&result.released);
        self.drained
            .retain(|lease| !result.released.contains(lease));
        let me = membership.instance();
        // Also if the answer to the commit was lost: the database says what was given up.
        let held = context.leases.all().into_iter();
        let (given_up, lost): (Vec<Lease>, Vec<Lease>) = held
            .filter(|lease| !result.is_held(lease, me))
            .partition(|lease| result.is_tail(lease, me));
        for lease in &given_up {
            context.leases.give_up(*lease);
        }
        self.handovers.retain(|one| !given_up.contains(&one.lease));
        self.drop_lost(&lost, "another process has taken it over, or it expired");
        let ended = context.leases.given_up().into_iter();
        let ended: Vec<Lease> = ended.filter(|lease| !result.is_tail(lease, me)).collect();
        self.drop_lost(
            &ended,
            "their new owner waited for the last attempts in vain",
        );
        context.leases.set_tails(result.tails());
        if let Some(takeover) = &result.taken {
            self.adopt(takeover);
        }
        context
            .metrics
            .leases(LeaseChange::GivenBack, given_up.len() + released_now);
        if given_up.len() + released_now > 0 {
            let shards = given_up.len() + released_now;
            tracing::info!(shards, "{shards} shards were handed over to other nodes");
        }
        self.release_shards(result.release, ctx);
        self.set_deadline(ctx);
        self.answer_left();
    }

    /// Hands shards over. Each is given up once nothing more starts in it; what is in flight then
    /// is its tail.
    fn release_shards(&mut self, shards: Vec<Shard>, ctx: &mut Context<Self>) {
        // Marked first, so that nothing new starts while the supervisors drain.
        self.context.leases.leave(&shards);
        for shard in shards {
            let Some(lease) = self.context.leases.of(shard) else {
                continue;
            };
            let (quiet, is_quiet) = oneshot::channel();
            let (done, is_done) = oneshot::channel();
            let quiet = Some(quiet);
            self.registry.do_send(DrainShard { shard, quiet, done });
            // A lease that does not expire has no other node to wait for it.
            if self.membership.expires {
                let noted = is_quiet.into_actor(self).map(move |quiet, keeper, ctx| {
                    keeper.note_quiet(lease, quiet.unwrap_or_default(), ctx);
                });
                ctx.spawn(noted);
            }
            self.draining += 1;
            ctx.spawn(is_done.into_actor(self).map(move |done, keeper, ctx| {
                keeper.draining -= 1;
                if done.is_ok() {
                    keeper.drained.push(lease);
                    ctx.notify_later(CheckLeases, LEASE_BATCH_DELAY);
                }
                keeper.answer_left();
            }));
        }
    }

    /// Notes that nothing more starts in a shard.
    fn note_quiet(&mut self, lease: Lease, quiet: Quiet, ctx: &mut Context<Self>) {
        let now = self.context.clock.monotonic();
        // Without attempts its supervisors end at once, and it is released.
        if !quiet.attempts.is_empty() {
            self.handovers.push(Handover {
                lease,
                attempts: quiet.attempts,
                remaining: quiet.ends_by.saturating_sub(now),
            });
            ctx.notify_later(CheckLeases, LEASE_BATCH_DELAY);
        }
    }

    /// Begins to hand over everything. A shard with a tail follows once that has ended.
    fn release_all(&mut self, ctx: &mut Context<Self>) {
        let open = self.context.leases.open().into_iter();
        let shards = open.map(|lease| lease.shard);
        let shards = shards.filter(|shard| self.context.leases.tail_of(*shard).is_none());
        self.release_shards(shards.collect(), ctx);
    }

    /// Tells the engine that nothing is in flight any more.
    fn answer_left(&mut self) {
        let is_left = self.leaving
            && !self.busy
            && self.draining == 0
            && self.context.leases.open().is_empty();
        if is_left && let Some(left) = self.left.take() {
            // The engine releases the last leases itself.
            self.participation = Participation::Left;
            let _ = left.send(());
        }
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
        self.left = Some(done);
        self.release_all(ctx);
        self.answer_left();
        self.run_round(ctx);
    }
}

impl Handler<LetGo> for LeaseKeeper {
    type Result = ();
    fn handle(&mut self, _: LetGo, ctx: &mut Self::Context) {
        let rest = self.context.leases.open().into_iter();
        self.release_shards(rest.map(|lease| lease.shard).collect(), ctx);
        self.answer_left();
    }
}
